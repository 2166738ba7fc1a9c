"""``transfer-metrics compare``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import (
    print_steps,
    print_table,
    require_scores,
    say,
    say_failures,
    suggest,
    tell,
)
from transfer_metrics.cli.options import (
    add_options,
    add_output,
    check_place,
    given,
    loaded,
    positive,
    seconds_left,
    task_options,
)
from transfer_metrics.cli.parser import add_verb

_EXAMPLES = """\
  transfer-metrics compare --models zoo:resnet-cifar10 --task zoo:glyphs --dry-run
  transfer-metrics compare --models 'zoo:*' --task sklearn:digits --quick
  transfer-metrics compare --models 'zoo:cnn-*' --task zoo:glyphs --time 1h --engine processes
  transfer-metrics compare --models 'zoo:cnn-*' --task sklearn:digits --metrics logme \\
      --heads 'linear_probe,head2toe(keep=0.05),finetune(lr=0.003,epochs=5),lpft(epochs=5)'
  transfer-metrics compare --models timm:resnet18 --task imagefolder:photos/ \\
      --ood sketches=imagefolder:sketches/ --ood blurred=corrupted:blur:3
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    help = "train heads and fine-tune, and test in and out of distribution"
    parser = add_verb(verbs, "compare", help, _EXAMPLES, _run)
    add_options(parser, "models", "task", required=True)
    parser.add_argument(
        "--heads",
        help="comma-separated (default linear_probe,head2toe,finetune,lpft; see `list heads`)",
    )
    parser.add_argument(
        "--ood",
        action="append",
        default=[],
        metavar="NAME=TASK",
        help="shifted data: a task with classes of the same names, or corrupted:KIND:SEVERITY; "
        "may be repeated (default the task's split ood)",
    )
    add_options(parser, "kind", "examples", "seed")
    parser.add_argument(
        "--seeds", type=positive, metavar="K", help="how many (default 3, with --quick 1)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only the shortlist of a ranking, at most five models; where not named otherwise "
        "twelve epochs, learning rates that are dropped early, and one seed",
    )
    add_options(parser, "time")
    parser.add_argument("--engine", default="serial", help="where to fit, as for rank")
    add_options(parser, "workers", "dry-run")
    add_options(parser, "metrics", help="scores to check, comma-separated, such as logme")
    parser.add_argument(
        "--out",
        default="transfer-metrics",
        metavar="FOLDER",
        help="folder for the long table and the plot (default ./transfer-metrics)",
    )
    add_options(parser, "plot-format", "cache", "device")
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Compare, print, and write the table and the plot."""
    from pathlib import Path

    from transfer_metrics.files import RESULTS
    from transfer_metrics.heads.compare import DEFAULT_HEADS, asked_fits, compare
    from transfer_metrics.results.record import QUALITIES
    from transfer_metrics.sources.models.candidates import candidates_of

    folder = Path(args.out)
    check_place(folder, folder=True, task=args.task, own=RESULTS)
    models, heads = candidates_of(args.models), args.heads or DEFAULT_HEADS
    asked = asked_fits(heads, args.seeds, args.quick)
    ood = _ood(args.ood)
    task = loaded(args)
    if args.dry_run or not args.quiet:
        status = _foretell(args, models, task, *asked)
        if args.dry_run:
            return status
    table = compare(
        models,
        task,
        heads,
        ood=ood,
        time=seconds_left(args),
        progress=not args.quiet,
        **given(args, "seeds", "quick", "engine", "workers", "metrics", "cache", "device"),
    )
    require_scores(table)
    written = [folder / "comparison.jsonl"]
    table.save(written[0])
    if any(r["metric"] in QUALITIES for r in table.records):
        written.append(folder / f"comparison.{args.plot_format}")
        table.plot.save("comparison", written[-1])
    print_table(table, args, _text(table))
    status = say_failures(table.failures)
    tell(args, f"wrote {', '.join(map(str, written))}")
    held = [r for r in table.records if r["metric"] == "val_accuracy" and r["value"] is not None]
    if held:
        best = max(held, key=lambda r: r["value"])
        model = table.specs.get(best["model"], best["model"])
        asked = ("--model", model, *task_options(args))
        suggest(args, "train", *asked, "--head", best["head"], "--out", "head")
    return status


def _foretell(args: argparse.Namespace, models: Any, task: Any, heads: Any, seeds: Any) -> int:
    """Say what it takes: all of it where that is all that is asked, else in a line on stderr."""
    from contextlib import nullcontext

    from transfer_metrics.errors import quiet
    from transfer_metrics.heads.estimate import expected_fits
    from transfer_metrics.results.wording import duration, listed, several

    with nullcontext() if args.dry_run else quiet():  # the work itself tells
        how = {**given(args, "metrics", "quick", "device"), "progress": not args.quiet}
        steps, found = expected_fits(models, task, heads, len(seeds), **how)
    total = sum(seconds for _, seconds in steps)
    if not args.dry_run:
        few = "the shortlist of " if args.quick and len(models) > 1 else ""
        other = "" if args.quick else "; --quick takes less"
        say(
            f"{few}{several(len(models), 'model')}, heads {listed([h.label for h in heads])}, "
            f"{several(len(seeds), 'seed')}: about {duration(total)}, less what is kept from "
            f"earlier runs{other}"
        )
        return 0
    return print_steps(args, steps, found)


def _ood(given: list[str]) -> dict[str, str] | None:
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.heads.splits import check_shifted

    pairs = [text.partition("=") for text in given]
    for name, mark, place in pairs:
        if not (name and mark and place):
            raise InvalidInputError(
                f"--ood {name}{mark}{place}: write NAME=TASK, such as "
                f"sketches=imagefolder:sketches/"
            )
    found = {name: place for name, _, place in pairs} or None
    check_shifted(found)
    return found


def _text(table: Any) -> str:
    """The summary, and where there are scores, whether their favourites won."""
    parts = [table.format()]
    for metric in table.metrics:
        verdict = table.verdict(metric)
        if len(verdict):
            told = verdict.to_string(index=False, float_format="{:.3f}".format)
            parts.append(
                f"Did the favourites of {metric} win? (a regret below the margin is a tie)\n{told}"
            )
    return "\n\n".join(parts)
