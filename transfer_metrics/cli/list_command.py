"""``transfer-metrics list``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import Records, print_table
from transfer_metrics.cli.options import add_kind, add_layers, add_output, told, with_kind
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.sources.tasks.task import Task

_EXAMPLES = """\
  transfer-metrics list metrics
  transfer-metrics list models 'timm:mobilenet*'
  transfer-metrics list layers zoo:resnet-cifar10
  transfer-metrics list poolings
  transfer-metrics list tasks
  transfer-metrics list tasks zoo:glyphs
  transfer-metrics list heads
"""
_Listing = tuple[list[dict[str, Any]], list[str]]
"""Records, and a line for each or more."""
_WHAT = ("metrics", "models", "layers", "poolings", "tasks", "heads")


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "list", "list what can be named", _EXAMPLES, _run)
    parser.add_argument("what", choices=_WHAT)
    parser.add_argument(
        "name", nargs="?", help="a pattern, the model whose layers to list, or the task to describe"
    )
    add_layers(parser, "blocks", "blocks, activations, *, last")
    parser.add_argument("--pool", default="avg")
    add_kind(parser)
    add_output(parser)


def _run(args: argparse.Namespace) -> int:
    """Print one name per line, with what there is to say about it."""
    records, lines = globals()[f"_{args.what}"](args)
    print_table(Records(records), args, "\n".join(lines))
    return 0


def _metrics(args: argparse.Namespace) -> _Listing:
    from fnmatch import fnmatchcase

    from transfer_metrics.metrics.base import get_metric, list_metrics
    from transfer_metrics.ranking.combinations import COMBINATIONS

    pattern = args.name or "*"
    found = [get_metric(name) for name in list_metrics(pattern)]
    rows = [(m.name, m.requires, "/".join(m.tasks), m.reference) for m in found]
    for name, by_kind in COMBINATIONS.items():
        if fnmatchcase(name, pattern):
            first = next(iter(by_kind.values()))
            rows.append((name, "a set", "/".join(by_kind), first.reference))
    lines = [f"{n:<25}{reads:<10}{tasks:<38}{source}".rstrip() for n, reads, tasks, source in rows]
    return [dict(zip(("name", "reads", "tasks", "reference"), r, strict=True)) for r in rows], lines


def _models(args: argparse.Namespace) -> _Listing:
    from transfer_metrics.sources.models.load_model import list_models

    return _named(list_models(args.name or "zoo:*"))


def _tasks(args: argparse.Namespace) -> _Listing:
    from transfer_metrics.sources.tasks.load_task import list_tasks, load_task

    if not args.name:
        return _named(list_tasks())
    return _described(told(load_task(with_kind(args.name, args.kind)), args))


def _described(task: Task) -> _Listing:
    """What a task holds, and how many examples of every class each split has."""
    import numpy as np

    lines = [f"{task.kind} of {task.modality} examples"]
    lines += [f"{name:<15}{len(split):>9}" for name, split in task.splits.items()]
    if not task.num_classes:
        return [{"split": name, "n": len(split)} for name, split in task.splits.items()], lines
    counts = {
        name: np.bincount(split.labels, minlength=task.num_classes)
        for name, split in task.splits.items()
    }
    head = "".join(f"{name:>9}" for name in counts)
    lines.append(f"{f'{task.num_classes} classes':<34}{head}")
    records = []
    for code, name in enumerate(task.classes):
        of_class = {split: int(count[code]) for split, count in counts.items()}
        lines.append(f"{name:<34}" + "".join(f"{n:>9}" for n in of_class.values()))
        records += [{"split": split, "class": name, "n": n} for split, n in of_class.items()]
    return records, lines


def _poolings(args: argparse.Namespace) -> _Listing:
    from transfer_metrics.features.pooling import POOLINGS

    return _named(list(POOLINGS))


def _heads(args: argparse.Namespace) -> _Listing:
    from fnmatch import fnmatchcase

    from transfer_metrics.heads.base import HEADS

    names = [name for name in HEADS if fnmatchcase(name, args.name or "*")]
    records = [{"name": n, "about": (HEADS[n].__doc__ or "").partition("\n")[0]} for n in names]
    return records, [f"{r['name']:<15}{r['about']}" for r in records]


def _layers(args: argparse.Namespace) -> _Listing:
    from dataclasses import asdict

    from transfer_metrics.errors import InvalidInputError
    from transfer_metrics.features.layers import list_layers
    from transfer_metrics.sources.models.load_model import load_model

    if not args.name:
        raise InvalidInputError(
            "no model is named; give the one whose layers to list, such as zoo:resnet-cifar10"
        )
    layers = list_layers(load_model(args.name), args.layers, args.pool)
    rows = [f"{la.index:<4}{la.name:<34}{la.kind:<22}{la.shape!s:<18}{la.dim:>7}" for la in layers]
    size, width = sum(la.bytes for la in layers), sum(la.dim for la in layers)
    rows.append(f"{width} features in all, {size / 1000:.1f} kB per example as float32")
    return [asdict(layer) for layer in layers], rows


def _named(names: list[str]) -> _Listing:
    return [{"name": name} for name in names], names
