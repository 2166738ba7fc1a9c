"""``transfer-metrics layers`` and ``extract``: the layers of one model, scored or written."""

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


def _run_layers(args: argparse.Namespace) -> int:
    """Score the layers and print one row per layer."""
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.features.store import FeatureStore
    from transfer_metrics.ranking import score_layers
    from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
    from transfer_metrics.results.plot_style import plot_format
    from transfer_metrics.sources.models.load_model import load_model

    if args.plot:
        plot_format(args.plot)
        check_place(args.plot, task=args.task, picture=True)
    metrics, intervals = args.metrics or DEFAULT_METRICS, args.intervals or False
    if args.store:
        refuse_examples(args)
        if args.task:
            raise InvalidInputError("--store has its task already; leave --task out")
        check_names(args)
        table = score_layers(FeatureStore.open(args.store), metrics=metrics, intervals=intervals)
    else:
        if not args.task:
            raise InvalidInputError("--model needs --task")
        given = loaded(args)
        table = score_layers(
            load_model(args.model),
            given,
            metrics,
            layers=args.layers,
            intervals=intervals,
            **extraction(args),
        )
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
