"""``transfer-metrics layers``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.console import print_table, require_scores, say, suggest, tell
from transfer_metrics.cli.options import (
    add_examples,
    add_extraction,
    add_intervals,
    add_layers,
    add_output,
    check_names,
    check_place,
    extraction,
    loaded,
    refuse_examples,
)
from transfer_metrics.cli.parser import add_verb

_EXAMPLES = """\
  transfer-metrics layers --model zoo:resnet-cifar10 --task sklearn:digits
  transfer-metrics layers --model timm:resnet18 --task imagefolder:photos/ --layers 'layer4.*'
  transfer-metrics layers --store features/ --metrics transrate,logme --csv
"""


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "layers", "score every layer of one model", _EXAMPLES, _run)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a model; needs --task")
    source.add_argument("--store", help="features written by `extract`")
    parser.add_argument("--task", help="task: a folder such as photos/, a file, sklearn:digits …")
    parser.add_argument("--metrics", help="metrics, comma-separated")
    add_layers(parser, "blocks", "blocks, activations, *, last")
    parser.add_argument("--plot", metavar="FILE", help="draw the layer-wise curve into a file")
    add_intervals(parser)
    add_examples(parser)
    add_extraction(parser)
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Score the layers and print one row per layer."""
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.features.store import FeatureStore
    from transfer_metrics.ranking import score_layers
    from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
    from transfer_metrics.results.plot_style import plot_format
    from transfer_metrics.sources.models.load_model import load_model

    if args.plot:
        plot_format(args.plot)
        check_place(args.plot)
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
    for failure in table.failures:
        say(f"failed: {failure['layer']}: {failure['metric']}: {failure['error']}")
    return 1 if table.failures else 0
