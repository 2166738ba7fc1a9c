"""``transfer-metrics layers``, ``extract`` and ``score``: features of one model."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import print_table, require_scores, say_failures, suggest, tell
from transfer_metrics.cli.options import (
    add_extraction,
    add_options,
    add_output,
    check_names,
    check_place,
    extraction,
    loaded,
    positive,
    ranking,
    refuse_examples,
)
from transfer_metrics.cli.parser import add_verb

_LAYERS = """\
  transfer-metrics layers --model zoo:resnet-cifar10 --task sklearn:digits
  transfer-metrics layers --model timm:resnet18 --task imagefolder:photos/ --layers 'layer4.*'
  transfer-metrics layers --store features/ --metrics transrate,logme --csv
"""
_EXTRACT = """\
  transfer-metrics extract --model zoo:resnet-cifar10 --task sklearn:digits --out features/
  transfer-metrics extract --model timm:vit_base_patch16_224 --task imagefolder:photos/ \\
      --layers blocks --pool cls --dtype float16 --out features/
"""
_SCORE = """\
  transfer-metrics score --features features.npy --labels labels.npy
  transfer-metrics score --features features.csv --labels labels.txt
  transfer-metrics score --features data.npz --metrics '*' --json
  transfer-metrics score --features features.npy --labels ages.npy --kind regression
  transfer-metrics score --features data.npz --metrics transrate,logme --intervals
"""


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    parser = add_verb(verbs, "layers", "score every layer of one model", _LAYERS, _run_layers)
    add_options(parser.add_mutually_exclusive_group(required=True), "model", "store")
    add_options(parser, "task")
    add_options(parser, "metrics", help="metrics, comma-separated")
    add_options(parser, "layers")
    parser.add_argument("--plot", metavar="FILE", help="draw the layer-wise curve into a file")
    add_options(parser, "intervals", "kind", "examples", "seed")
    add_extraction(parser)
    add_output(parser)
    parser = add_verb(
        verbs, "extract", "write the features of one model to disk", _EXTRACT, _run_extract
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--task", required=True)
    add_options(parser, "layers")
    parser.add_argument("--out", required=True, metavar="FOLDER")
    parser.add_argument("--shard-size", type=positive, default=1024, metavar="N")
    add_options(parser, "kind", "examples", "seed")
    add_extraction(parser)
    add_output(parser)
    parser = add_verb(verbs, "score", "score features that you have already", _SCORE, _run_score)
    parser.add_argument(
        "--features", required=True, metavar="FILE", help=".npy or .csv (N, D), .npz with X and y"
    )
    parser.add_argument("--labels", metavar="FILE", help=".npy (N,), or .txt of one per line")
    add_options(parser, "kind")
    add_options(parser, "metrics", help="metrics, comma-separated")
    parser.add_argument(
        "--source", metavar="FILE", help=".npy or .csv (N, Z) of source probabilities, for LEEP"
    )
    told = "95 %% intervals of every metric, by a jackknife over blocks of examples; all: of every "
    told += "metric; bootstrap: of every metric, by half-samples where there is no jackknife"
    add_options(parser, "intervals", help=told)
    add_output(parser)


def _run_layers(args: argparse.Namespace) -> int:
    """Score the layers and print one row per layer."""
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.features.store import FeatureStore
    from transfer_metrics.ranking import score_layers
    from transfer_metrics.results.plot_style import MADE_BY, plot_format
    from transfer_metrics.sources.models.load_model import load_model

    if args.plot:
        plot_format(args.plot)
        check_place(args.plot, task=args.task, own=(MADE_BY.encode(),))
    options = ranking(args)
    if args.store:
        refuse_examples(args)
        if args.task:
            raise InvalidInputError("--store has its task already; leave --task out")
        check_names(args)
        asked = {name: options[name] for name in ("metrics", "intervals")}
        table = score_layers(FeatureStore.open(args.store), **asked)
    else:
        if not args.task:
            raise InvalidInputError("--model needs --task")
        given = loaded(args)
        table = score_layers(load_model(args.model), given, **options)
    require_scores(table)
    if args.plot:
        table.plot.save("layers", args.plot)
    wide = table.wide(intervals=True).reset_index().drop(columns="model")
    text = wide.to_string(index=False, na_rep="", float_format="{:.4g}".format)
    print_table(table, args, text)
    if args.plot:
        tell(args, f"wrote {args.plot}")
    model, task = table.best(), table.chosen_task()
    reading = ("--task", task, "--layers", *table.best_layers(), "--out", "head")
    suggest(args, "train", "--model", model, *reading)
    return say_failures(table.failures, "{layer}: {metric}")


def _run_extract(args: argparse.Namespace) -> int:
    """Extract and print what was written, one layer per line."""
    from transfer_metrics.features.extract import extract
    from transfer_metrics.sources.models.load_model import load_model

    options = extraction(args)
    check_place(args.out, folder=True, task=args.task)
    task = loaded(args)
    store = extract(
        load_model(args.model),
        task,
        args.layers,
        options.pop("pool"),
        args.out,
        shard_size=args.shard_size,
        **options,
    )
    records = [{"layer": la.name, "n": len(store), "dim": la.dim} for la in store.layers]
    lines = [f"{r['layer']}\t{r['n']} x {r['dim']}" for r in records]
    print_table(records, args, "\n".join(lines))
    tell(args, f"wrote {args.out}")
    suggest(args, "layers", "--store", args.out)
    return 0


def _run_score(args: argparse.Namespace) -> int:
    """Read the arrays, score, print one row per metric."""
    import warnings

    from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
    from transfer_metrics.ranking import score
    from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
    from transfer_metrics.sources.tasks.value_files import read_labels_of, read_values

    if args.source and not args.metrics:
        raise InvalidInputError(
            "--source is read by leep and its kin alone; ask for them, such as --metrics leep"
        )
    check_names(args)
    features, named = read_values(args.features)
    labels = None
    if isinstance(features, dict):
        missing = [k for k in ("X", "y") if k not in features and not (k == "y" and args.labels)]
        if missing:
            raise InvalidInputError(
                f"{args.features} has the arrays {', '.join(sorted(features)) or 'none'}; "
                f"it needs {' and '.join(missing)}"
            )
        labels = features.get("y")
        features = features["X"]
    labels = read_labels_of(args.labels, len(features), named) if args.labels else labels
    if labels is None:
        raise InvalidInputError(
            f"{args.features} has no labels; give them with --labels, in an .npy file or one of "
            f"a label per line"
        )
    if isinstance(labels, dict):
        raise InvalidInputError(f"{args.labels} has several arrays; give --labels an .npy file")
    source = read_values(args.source)[0] if args.source else None
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
    lines = []
    for r in table:
        if r.value is not None:
            interval = f"± {r.margin}" if r.margin and not r.relative else r.margin
            lines.append(f"{r.label}\t{r.value:.10g}\t{interval}".rstrip())
    print_table(table, args, "\n".join(lines))
    suggest(args, "list", "metrics", table.metrics[0].partition("(")[0])
    return say_failures(({**r.as_dict(), "label": r.label} for r in table), "{label}")
