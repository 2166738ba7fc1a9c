"""``transfer-metrics score``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import print_table, say_failures, suggest, tell
from transfer_metrics.cli.options import add_options, add_output, check_names
from transfer_metrics.cli.parser import add_verb

_EXAMPLES = """\
  transfer-metrics score --features features.npy --labels labels.npy
  transfer-metrics score --features data.npz --metrics '*' --json
  transfer-metrics score --features features.npy --labels ages.npy --kind regression
  transfer-metrics score --features data.npz --metrics transrate,logme --intervals
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "score", "score features that you have already", _EXAMPLES, _run)
    parser.add_argument(
        "--features", required=True, metavar="FILE", help=".npy (N, D), or .npz with X and y"
    )
    parser.add_argument("--labels", metavar="FILE", help=".npy (N,); not needed with an .npz")
    add_options(parser, "kind")
    add_options(parser, "metrics", help="metrics, comma-separated")
    parser.add_argument(
        "--source", metavar="FILE", help=".npy (N, Z) of source probabilities, for LEEP and its kin"
    )
    told = "95 %% intervals of every metric, by a jackknife over blocks of examples; all: of every "
    told += "metric; bootstrap: of every metric, by half-samples where there is no jackknife"
    add_options(parser, "intervals", help=told)
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Read the arrays, score, print one row per metric."""
    import warnings

    from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
    from transfer_metrics.ranking import score
    from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
    from transfer_metrics.sources.tasks.array_files import read_arrays

    if args.source and not args.metrics:
        raise InvalidInputError(
            "--source is read by leep and its kin alone; ask for them, such as --metrics leep"
        )
    check_names(args)
    features = read_arrays(args.features)
    labels = read_arrays(args.labels) if args.labels else None
    if isinstance(features, dict):
        missing = [k for k in ("X", "y") if k not in features and not (k == "y" and args.labels)]
        if missing:
            raise InvalidInputError(
                f"{args.features} has the arrays {', '.join(sorted(features)) or 'none'}; "
                f"it needs {' and '.join(missing)}"
            )
        labels = features["y"] if labels is None else labels
        features = features["X"]
    if labels is None:
        raise InvalidInputError("an .npy file has no labels; give them with --labels")
    if isinstance(labels, dict):
        raise InvalidInputError(f"{args.labels} has several arrays; give --labels an .npy file")
    source = read_arrays(args.source) if args.source else None
    if isinstance(source, dict):
        raise InvalidInputError(f"{args.source} has several arrays; give --source an .npy file")
    with warnings.catch_warnings():
        # Failures are told once, below.
        warnings.filterwarnings("ignore", ".* failed: ", TransferMetricsWarning)
        try:
            table = score(
                features,
                labels,
                args.metrics or DEFAULT_METRICS,
                source=source,
                kind=args.kind,
                intervals=args.intervals or False,
            )
        except InvalidInputError as error:
            files = [file for file in (args.features, args.labels, args.source) if file]
            raise InvalidInputError(f"{' with '.join(files)}: {error}") from error
    tell(args, table.task_summaries[0])
    lines = [
        f"{r.label}\t{r.value:.10g}" + (f"\t± {r.half_width:.3g}" if r.stderr is not None else "")
        for r in table
        if r.value is not None
    ]
    print_table(table, args, "\n".join(lines))
    suggest(args, "list", "metrics", table.metrics[0].partition("(")[0])
    return say_failures(({**r.as_dict(), "label": r.label} for r in table), "{label}")
