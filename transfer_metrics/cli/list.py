"""``transfer-metrics list``."""

from __future__ import annotations

import argparse
from typing import Any

from transfer_metrics.cli.options import add_layers, add_verb

EXAMPLES = """\
  transfer-metrics list metrics
  transfer-metrics list models 'timm:mobilenet*'
  transfer-metrics list layers zoo:resnet-cifar10
  transfer-metrics list poolings
  transfer-metrics list tasks
  transfer-metrics list heads
"""
WHAT = ("metrics", "models", "layers", "poolings", "tasks", "heads")


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "list", "list what can be named", EXAMPLES, run)
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("name", nargs="?", help="a pattern, or the model whose layers to list")
    add_layers(parser, "blocks", "blocks, activations, *, last")
    parser.add_argument("--pool", default="avg")


def run(args: argparse.Namespace) -> int:
    """Print one name per line, with what there is to say about it."""
    for line in globals()[f"_{args.what}"](args):
        print(line)
    return 0


def _metrics(args: argparse.Namespace) -> list[str]:
    from fnmatch import fnmatchcase

    from transfer_metrics.metrics import get_metric, list_metrics
    from transfer_metrics.ranking.combine import COMBINATIONS

    pattern = args.name or "*"
    found = [get_metric(name) for name in list_metrics(pattern)]
    rows = [(m.name, m.requires, "/".join(m.tasks), m.reference) for m in found]
    for name, by_kind in COMBINATIONS.items():
        if fnmatchcase(name, pattern):
            first = next(iter(by_kind.values()))
            rows.append((name, "a set", "/".join(by_kind), first.reference))
    return [f"{n:<25}{reads:<10}{tasks:<38}{source}".rstrip() for n, reads, tasks, source in rows]


def _models(args: argparse.Namespace) -> list[str]:
    from transfer_metrics.sources.models import list_models

    return list_models(args.name or "zoo:*")


def _tasks(args: argparse.Namespace) -> list[str]:
    from transfer_metrics.sources.tasks import list_tasks

    return list_tasks()


def _poolings(args: argparse.Namespace) -> list[str]:
    from transfer_metrics.features.pooling import POOLINGS

    return list(POOLINGS)


def _heads(args: argparse.Namespace) -> list[str]:
    from fnmatch import fnmatchcase

    from transfer_metrics.heads.registry import HEADS

    names = [name for name in HEADS if fnmatchcase(name, args.name or "*")]
    return [f"{name:<15}{(HEADS[name].__doc__ or '').partition(chr(10))[0]}" for name in names]


def _layers(args: argparse.Namespace) -> list[str]:
    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.features.layers import list_layers
    from transfer_metrics.sources.models import load_model

    if not args.name:
        raise InvalidInputError("name the model whose layers to list, such as zoo:resnet-cifar10")
    layers = list_layers(load_model(args.name), args.layers, args.pool)
    rows = [f"{la.index:<4}{la.name:<34}{la.kind:<22}{la.shape!s:<18}{la.dim:>7}" for la in layers]
    size, width = sum(la.bytes for la in layers), sum(la.dim for la in layers)
    return [*rows, f"{width} features in all, {size / 1000:.1f} kB per example as float32"]
