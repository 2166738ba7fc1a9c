"""``transfer-metrics benchmark``."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from typing import Any

from transfer_metrics.cli.console import print_table, require_scores, say_failures, show, tell
from transfer_metrics.cli.options import add_options, add_output, check_place, positive, write_page
from transfer_metrics.cli.parser import add_verb
from transfer_metrics.errors import InvalidInputError

_EXAMPLES = """\
  transfer-metrics benchmark run           what every model reaches on every task when it is trained
  transfer-metrics benchmark build         every metric judged by what models reached
  transfer-metrics benchmark published     published scores judged by published accuracies
"""
_PUBLISHED = """\
  transfer-metrics benchmark published
  transfer-metrics benchmark published logme-cnn model-spider
"""
_RUN = """\
  transfer-metrics benchmark run --models 'zoo:*' --tasks zoo:glyphs --out truth.jsonl
"""
_BUILD = """\
  transfer-metrics benchmark build truth.jsonl --scores scores.jsonl
  transfer-metrics benchmark build truth.jsonl --scores scores.jsonl --out docs/evidence.md
"""
_RECORDS, _PAGES = (b'"metric": ',), (b"transfer-metrics benchmark ",)
"""What is in files of records and pages that were written here."""


def add_parser(verbs: Any) -> None:
    """Add the verb, with a verb of its own for each benchmark."""
    parser = add_verb(verbs, "benchmark", "judge scores by what models reached", _EXAMPLES, None)
    which = parser.add_subparsers(dest="which", metavar="WHICH", required=True)
    truth = add_verb(
        which,
        "run",
        "tune heads for every pair of a model and a task; goes on where it was stopped",
        _RUN,
        _run_truth,
    )
    add_options(truth, "models")
    truth.add_argument("--tasks", required=True, help="tasks, comma-separated")
    truth.add_argument("--heads", help="heads, comma-separated (default the stated protocol)")
    truth.add_argument("--seeds", type=positive, default=2, metavar="K", help="default 2")
    truth.add_argument("--out", required=True, metavar="FILE", help="file of JSON lines")
    add_options(truth, "device")
    add_output(truth)
    build = add_verb(
        which,
        "build",
        "score every pair of a ground truth under every metric, and say which deserves trust",
        _BUILD,
        _run_build,
    )
    build.add_argument("truth", metavar="TRUTH", nargs="+", help="files that `run` wrote")
    build.add_argument(
        "--scores",
        required=True,
        metavar="FILE",
        help="file of JSON lines for the scores; what is there is not computed again",
    )
    build.add_argument("--resamples", type=positive, default=1000, help="default 1000")
    build.add_argument(
        "--out", metavar="FILE", help="write a Markdown page as well, and its picture beside it"
    )
    published = add_verb(
        which,
        "published",
        "judge published scores by published accuracies, with intervals and ties",
        _PUBLISHED,
        _run_published,
    )
    published.add_argument("names", nargs="*", metavar="NAME", help="default all with scores")
    published.add_argument("--resamples", type=positive, default=1000, help="default 1000")
    published.add_argument("--out", metavar="FILE", help="write a Markdown page as well")


def _run_truth(args: argparse.Namespace) -> int:
    """Fit what is missing, and print all that is there."""
    from transfer_metrics.evidence import ground_truth
    from transfer_metrics.syntax import split_list

    check_place(args.out, own=_RECORDS)
    is_new = not os.path.exists(args.out)
    table = ground_truth.run(
        args.models,
        args.tasks,
        args.out,
        heads=split_list(args.heads) if args.heads else None,
        seeds=args.seeds,
        device=args.device,
        progress=not args.quiet,
    )
    try:
        require_scores(table)
    except InvalidInputError:
        if is_new:
            os.unlink(args.out)
        raise
    parts = []
    for task in dict.fromkeys(r["task"] for r in table.records):
        records = [r for r in table.records if r["task"] == task]
        labels = {str(r["head"]): str(r["head"]).partition("(")[0] for r in records}
        # Options are told once, unless it is they that tell heads apart.
        short = labels if len(set(labels.values())) == len(labels) else {}
        rows = [{**r, "head": short.get(str(r["head"]), r["head"])} for r in records]
        told = [name for name in labels if "(" in name and name in short]
        best = ground_truth.best(rows)
        parts.append("\n".join([task, type(table)([*rows, *best]).format(), *told]))
    print_table(table, args, "\n\n".join(parts))
    return say_failures(table.failures, "{model} on {task}")


def _run_build(args: argparse.Namespace) -> int:
    """Score what is missing, judge, print, and write the page and its picture."""
    from pathlib import Path

    from transfer_metrics.evidence import ground_truth, judgement, scored_pairs
    from transfer_metrics.evidence.evidence_report import Evidence
    from transfer_metrics.results.comparison import Comparison

    check_place(args.scores, own=_RECORDS)
    if args.out:
        check_place(args.out, own=_PAGES)
    truth = [r for path in args.truth for r in ground_truth.load(path).records]
    if not truth:
        raise InvalidInputError(
            f"no record in {', '.join(args.truth)}; give files that `benchmark run` wrote"
        )
    pairs = sorted({(r["model"], r["task"]) for r in truth if r["metric"] == "accuracy"})
    judgement.check_models(Counter(task for _, task in pairs).values())
    records = scored_pairs.measure(pairs, args.scores, progress=not args.quiet)
    found = Evidence.of(
        Comparison(ground_truth.shortened(truth)),
        ground_truth.shortened(records),
        resamples=args.resamples,
    )
    show(found.text())
    if args.out:
        picture = Path(args.out).with_suffix(".png")
        found.draw(picture)
        tell(args, f"wrote {picture}")
        command = " ".join(
            ["transfer-metrics benchmark build", *args.truth, "--scores", args.scores]
        )
        write_page(args, found.markdown(command, picture.name))
    return say_failures((r for r in records if not r["metric"]), "{model} on {task}")


def _run_published(args: argparse.Namespace) -> int:
    """Judge, print, and write the page."""
    from transfer_metrics.evidence import published

    if args.out:
        check_place(args.out, own=_PAGES)
    judged = published.judge_published(args.names, resamples=args.resamples)
    show(published.text(judged))
    if args.out:
        command = f"transfer-metrics benchmark published --resamples {args.resamples}"
        write_page(args, published.markdown(judged, " ".join([command, *args.names])))
    return 0
