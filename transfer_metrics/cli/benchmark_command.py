"""``transfer-metrics benchmark``."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable
from typing import Any

from transfer_metrics.cli.console import print_table, require_scores, say, show, tell
from transfer_metrics.cli.options import add_device, add_output, check_place, positive
from transfer_metrics.cli.parser import add_verb
from transfer_metrics.errors import InvalidInputError

EXAMPLES = """\
  transfer-metrics benchmark extraction    extracting every block against the bare forward pass
  transfer-metrics benchmark speed         every fast metric against X'X and what else computes it
  transfer-metrics benchmark selection     choosing features against how many there are
  transfer-metrics benchmark scaling       rankings against all they grow with, and on a cluster
  transfer-metrics benchmark published     published scores judged by published accuracies
  transfer-metrics benchmark run           what every model reaches on every task when it is trained
  transfer-metrics benchmark build         every metric judged by what models reached
"""
EXTRACTION = """\
  transfer-metrics benchmark extraction
"""
SPEED = """\
  transfer-metrics benchmark speed --sizes 1000x512x10
  transfer-metrics benchmark speed --rounds 5 --limit 60 --out docs/speed.md
"""
SELECTION = """\
  transfer-metrics benchmark selection --features 1000,10000
  transfer-metrics benchmark selection --out docs/selection.md
"""
SCALING = """\
  transfer-metrics benchmark scaling --quick
  transfer-metrics benchmark scaling --throughput 2000 --price 4 --out docs/scaling.md
"""
PUBLISHED = """\
  transfer-metrics benchmark published
  transfer-metrics benchmark published logme-cnn model-spider
"""
RUN = """\
  transfer-metrics benchmark run --models 'zoo:*' --tasks zoo:glyphs --out truth.jsonl
"""
BUILD = """\
  transfer-metrics benchmark build truth.jsonl --scores scores.jsonl
  transfer-metrics benchmark build truth.jsonl --scores scores.jsonl --out docs/evidence.md
"""
FEATURES = "1000,10000,100000,500000"
SIZES = "1000x512x10,10000x2048x100,50000x768x200"


def add_parser(verbs: Any) -> None:
    """Add the verb, with a verb of its own for each benchmark."""
    parser = add_verb(verbs, "benchmark", "measure what the documentation quotes", EXAMPLES, run)
    which = parser.add_subparsers(dest="which", metavar="WHICH", required=True)
    add_verb(
        which,
        "extraction",
        "time extracting every block against the bare forward pass",
        EXTRACTION,
        run,
    )
    speed = add_verb(
        which,
        "speed",
        "race the metrics against one product X'X and against others",
        SPEED,
        run_speed,
    )
    speed.add_argument(
        "--sizes",
        default=SIZES,
        help=f"N x D x C of the features, comma-separated (default {SIZES})",
    )
    speed.add_argument("--rounds", type=positive, default=3, help="rounds that count (default 3)")
    speed.add_argument(
        "--limit",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="what takes another code longer is measured once (default 30)",
    )
    speed.add_argument("--out", metavar="FILE", help="write a Markdown page as well")
    add_output(speed)
    selection = add_verb(
        which,
        "selection",
        "time and memory of choosing features by group lasso against how many there are",
        SELECTION,
        run_selection,
    )
    selection.add_argument(
        "--features",
        type=_counts,
        default=FEATURES,
        help=f"how many features, comma-separated (default {FEATURES})",
    )
    selection.add_argument("--examples", type=positive, default=1000, help="default 1000")
    selection.add_argument("--classes", type=positive, default=20, help="default 20")
    selection.add_argument("--out", metavar="FILE", help="write a Markdown page as well")
    add_output(selection)
    scaling = add_verb(
        which,
        "scaling",
        "time and memory of rankings against what they grow with, and a plan for a cluster",
        SCALING,
        run_scaling,
    )
    scaling.add_argument("--quick", action="store_true", help="a tenth of it, to see that it runs")
    scaling.add_argument(
        "--throughput",
        type=_above_zero,
        default=1000.0,
        metavar="IMAGES",
        help="images a second on one GPU, assumed for the plan (default 1000)",
    )
    scaling.add_argument(
        "--price",
        type=_above_zero,
        default=2.5,
        help="price of an hour of one GPU, assumed for the plan (default 2.5)",
    )
    scaling.add_argument("--out", metavar="FILE", help="write a Markdown page as well")
    add_output(scaling)
    truth = add_verb(
        which,
        "run",
        "fit heads for every pair of a model and a task; goes on where it was stopped",
        RUN,
        run_truth,
    )
    truth.add_argument("--models", required=True, help="names, patterns, @FILE; with commas")
    truth.add_argument("--tasks", required=True, help="tasks, comma-separated")
    truth.add_argument("--heads", help="heads, comma-separated (default the stated protocol)")
    truth.add_argument("--seeds", type=positive, default=2, metavar="K", help="default 2")
    truth.add_argument("--out", required=True, metavar="FILE", help="file of JSON lines")
    add_device(truth)
    add_output(truth)
    build = add_verb(
        which,
        "build",
        "score every pair of a ground truth under every metric, and say which deserves trust",
        BUILD,
        run_build,
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
        PUBLISHED,
        run_published,
    )
    published.add_argument("names", nargs="*", metavar="NAME", help="default all with scores")
    published.add_argument("--resamples", type=positive, default=1000, help="default 1000")
    published.add_argument("--out", metavar="FILE", help="write a Markdown page as well")


def run(args: argparse.Namespace) -> int:
    """Measure the extraction and print its lines."""
    from tests.benchmarks import extraction

    for line in extraction.run():
        show(line)
    return 0


def run_speed(args: argparse.Namespace) -> int:
    """Race, print the tables, and write the page."""
    from tests.benchmarks import speed, speed_report
    from tests.benchmarks.examples import Size

    _check_out(args)
    sizes = [Size.parse(text) for text in args.sizes.split(",")]
    table = speed.measure(sizes, args.rounds, args.limit, tell=_teller(args))
    print_table(table, args, speed_report.text(table))
    if args.out:
        written = ",".join(map(str, sizes))
        command = (
            f"transfer-metrics benchmark speed --sizes {written} "
            f"--rounds {args.rounds} --limit {args.limit:g}"
        )
        _write(args, speed_report.markdown(table, command))
    for row in table.disagreements:
        say(f"failed: {row.size}: {row.metric}: {row.code}: {row.note}")
    return 1 if table.disagreements else 0


def run_selection(args: argparse.Namespace) -> int:
    """Select from ever more features, print the table, and write the page."""
    from tests.benchmarks import selection, selection_report

    _check_out(args)
    table = selection.measure(args.features, args.examples, args.classes, tell=_teller(args))
    print_table(table, args, selection_report.text(table))
    if args.out:
        command = (
            f"transfer-metrics benchmark selection --features {','.join(map(str, args.features))} "
            f"--examples {args.examples} --classes {args.classes}"
        )
        _write(args, selection_report.markdown(table, command))
    return 0


def run_scaling(args: argparse.Namespace) -> int:
    """Measure rankings, plan a large one, print the tables, and write the page."""
    from tests.benchmarks import scaling, scaling_report
    from tests.benchmarks.projection import Assumed

    _check_out(args)
    assumed = Assumed(throughput=args.throughput, price=args.price)
    table = scaling.measure(args.quick, tell=_teller(args))
    print_table(table, args, scaling_report.text(table, assumed))
    if args.out:
        command = (
            f"transfer-metrics benchmark scaling{' --quick' if args.quick else ''} "
            f"--throughput {args.throughput:g} --price {args.price:g}"
        )
        _write(args, scaling_report.markdown(table, command, assumed))
    return 0


def run_published(args: argparse.Namespace) -> int:
    """Judge, print, and write the page."""
    from transfer_metrics.evidence import published_report

    _check_out(args)
    judged = published_report.measure(args.names, resamples=args.resamples)
    show(published_report.text(judged))
    if args.out:
        command = f"transfer-metrics benchmark published --resamples {args.resamples}"
        page = published_report.markdown(judged, " ".join([command, *args.names]))
        _write(args, page)
    return 0


def run_truth(args: argparse.Namespace) -> int:
    """Fit what is missing, and print all that is there."""
    from transfer_metrics.evidence import ground_truth
    from transfer_metrics.syntax import split_list

    _check_out(args)
    is_new = not os.path.exists(args.out)
    table = ground_truth.run(
        args.models,
        args.tasks,
        args.out,
        heads=split_list(args.heads) if args.heads else ground_truth.HEADS,
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
        of_task = type(table)(r for r in table.records if r["task"] == task)
        parts.append(f"{task}\n{of_task.format()}")
    print_table(table, args, "\n\n".join(parts))
    for failure in table.failures:
        say(f"failed: {failure['model']} on {failure['task']}: {failure['error']}")
    return 1 if table.failures else 0


def run_build(args: argparse.Namespace) -> int:
    """Score what is missing, judge, print, and write the page and its picture."""
    from pathlib import Path

    from transfer_metrics.evidence import evidence, evidence_report, ground_truth
    from transfer_metrics.results.comparison import Comparison

    _check_out(args)
    check_place(args.scores)
    truth = [r for path in args.truth for r in ground_truth.load(path).records]
    if not truth:
        raise InvalidInputError(
            f"no record in {', '.join(args.truth)}; give files that `benchmark run` wrote"
        )
    records = evidence.measure(evidence.pairs_of(truth), args.scores, progress=not args.quiet)
    found = evidence_report.gather(
        Comparison(ground_truth.shortened(truth)),
        ground_truth.shortened(records),
        resamples=args.resamples,
    )
    show(evidence_report.text(found))
    if args.out:
        picture = Path(args.out).with_suffix(".png")
        evidence_report.draw(found, picture)
        tell(args, f"wrote {picture}")
        command = " ".join(
            ["transfer-metrics benchmark build", *args.truth, "--scores", args.scores]
        )
        _write(args, evidence_report.markdown(found, command, picture.name))
    failures = [r for r in records if not r["metric"]]
    for failure in failures:
        say(f"failed: {failure['model']} on {failure['task']}: {failure['error']}")
    return 1 if failures else 0


def _check_out(args: argparse.Namespace) -> None:
    if args.out:
        check_place(args.out)


def _teller(args: argparse.Namespace) -> Callable[[str], None]:
    return functools.partial(tell, args)


def _write(args: argparse.Namespace, page: str) -> None:
    """Write a page, whole or not at all, and say so."""
    from transfer_metrics.files import replacing

    with replacing(args.out) as temporary:
        temporary.write_text(page, "utf-8")
    tell(args, f"wrote {args.out}")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return value


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def _counts(text: str) -> list[int]:
    return [positive(part) for part in text.split(",")]
