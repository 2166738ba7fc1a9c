"""``transfer-metrics report``."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import require_scores, say_failures, suggest, tell
from transfer_metrics.cli.options import (
    add_extraction,
    add_options,
    check_names,
    check_place,
    given,
    ranking,
    with_kind,
)
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.sources.tasks.task import Task

_EXAMPLES = """\
  transfer-metrics report transfer-metrics/scores.jsonl
  transfer-metrics report scores.jsonl comparison.jsonl chosen.json --task imagefolder:photos/
  transfer-metrics report --models 'zoo:*' --task sklearn:digits --intervals --out digits.html
"""
_SCORES = "scores.jsonl"


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "write results as one HTML page that needs no network"
    parser = add_verb(verbs, "report", help, _EXAMPLES, _run)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="what rank, compare and `select --out` wrote, a run.yaml, or what --json printed",
    )
    parser.add_argument("--models", help="rank these first, instead of reading files")
    parser.add_argument("--task", help="the task: to rank on, or to show its classes")
    add_options(parser, "kind", "metrics")
    parser.add_argument("--out", default="report.html", metavar="FILE", help="default report.html")
    parser.add_argument("--title", help="heading of the page")
    parser.add_argument(
        "--view",
        choices=("best", "last", "all"),
        help="which layers stand for a model (default best; all: each on its own)",
    )
    add_options(parser, "confidence")
    chosen = "with --models: best, blocks, last, or names and patterns, comma-separated "
    add_options(parser, "layers", default="best", help=f"{chosen}(default best)")
    taken = "with --models: what to take from earlier runs (default only-missing)"
    add_options(parser, "cache", help=taken)
    add_options(parser, "intervals")
    add_extraction(parser)


def _run(args: argparse.Namespace) -> int:
    """Read or rank, and write the page."""
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.report.html import GENERATOR, write_report
    from transfer_metrics.sources.tasks.load_task import load_task

    if bool(args.files) == bool(args.models):
        raise InvalidInputError("give files to report on, or --models and --task, but not both")
    if args.models and not args.task:
        raise InvalidInputError("--models needs --task")
    if args.metrics and args.files:
        raise InvalidInputError("--metrics goes with --models; files have their metrics already")
    if args.kind and not args.task:
        raise InvalidInputError("--kind says what the labels of --task are; name that too")
    if args.task:
        args.task = with_kind(args.task, args.kind)
    check_place(args.out, task=args.task, own=(GENERATOR,))
    options = given(args, "title", "view", "confidence")
    if args.files:
        task = load_task(args.task) if args.task else None
        if task is not None:
            tell(args, task.summary)
        files = _with_options(args.files)
        tell(args, f"wrote {write_report(files, args.out, task=task, **options)}")
        if scores := [file for file in args.files if Path(file).name == _SCORES]:
            suggest(args, "train", "--from", scores[0], "--out", "head")
        return 0
    table, task, notes = _ranked(args)
    require_scores(table)
    # The arguments of a process that called this did not make the report.
    is_command = sys.argv[1:2] == ["report"]
    command = shlex.join(["transfer-metrics", *sys.argv[1:]]) if is_command else None
    options |= {"task": task, "notes": notes, "command": command}
    tell(args, f"wrote {write_report(table, args.out, **options)}")
    suggest(args, "transfer", "--models", args.models, "--task", args.task, "--out", "transferred")
    return say_failures(table.failures)


def _with_options(files: list[str]) -> list[str]:
    """The files, and the options that ``rank`` wrote beside its scores."""
    beside = [Path(file).with_name("run.yaml") for file in files if Path(file).name == _SCORES]
    options = dict.fromkeys(str(path) for path in beside if os.path.isfile(path))
    return [*files, *(path for path in options if path not in files)]


def _ranked(args: argparse.Namespace) -> tuple[Any, Task, list[str]]:
    """The table of a ranking, its task, and the warnings on the way, which are shown as well."""
    from transfer_metrics.errors import TransferMetricsWarning
    from transfer_metrics.ranking import rank_models
    from transfer_metrics.sources.models.candidates import candidates_of
    from transfer_metrics.sources.tasks.load_task import load_task

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TransferMetricsWarning)
        models = candidates_of(args.models)
        check_names(args)
        task = load_task(args.task)
        tell(args, task.summary)
        table = rank_models(models, task, cache=args.cache, **ranking(args))
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    ours = [w for w in caught if issubclass(w.category, TransferMetricsWarning)]
    return table, task, list(dict.fromkeys(str(w.message) for w in ours))
