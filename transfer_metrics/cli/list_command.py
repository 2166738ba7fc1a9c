"""``transfer-metrics list`` and ``cache``: what can be named, and what is kept."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from transfer_metrics.cli.console import print_table, suggest, tell
from transfer_metrics.cli.options import add_options, add_output, with_kind
from transfer_metrics.cli.parser import add_verb

if TYPE_CHECKING:
    from transfer_metrics.sources.tasks.task import Task

_LIST = """\
  transfer-metrics list metrics
  transfer-metrics list metrics knn
  transfer-metrics list models 'timm:mobilenet*'
  transfer-metrics list models popular:small
  transfer-metrics list layers zoo:resnet-cifar10
  transfer-metrics list poolings
  transfer-metrics list tasks
  transfer-metrics list tasks zoo:glyphs
  transfer-metrics list heads
  transfer-metrics list heads head2toe
"""
_CACHE = """\
  transfer-metrics cache
  transfer-metrics cache show --only features
  transfer-metrics cache clear
  transfer-metrics cache clear --only features
  transfer-metrics cache clear --only training
"""
_Listing = tuple[list[dict[str, Any]], list[str]]
"""Records, and a line for each or more."""
_WHAT = ("metrics", "models", "layers", "poolings", "tasks", "heads")


def add_parser(verbs: Any) -> None:
    """Add the verbs."""
    parser = add_verb(verbs, "list", "list what can be named", _LIST, _run_list)
    parser.add_argument("what", choices=_WHAT)
    parser.add_argument(
        "name",
        nargs="?",
        help="a pattern, the model whose layers to list, or the task, metric or head to describe",
    )
    add_options(parser, "layers")
    parser.add_argument("--pool", default="avg")
    add_options(parser, "kind")
    add_output(parser)
    help = "show or clear kept scores, features, statistics, pixels and interrupted training"
    parser = add_verb(verbs, "cache", help, _CACHE, _run_cache)
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show")
    parser.add_argument(
        "--only",
        choices=("scores", "features", "statistics", "pixels", "training"),
        help="of what (training: of `compare`, interrupted)",
    )
    add_output(parser)


def _run_list(args: argparse.Namespace) -> int:
    """Print one name per line, with what there is to say about it."""
    records, lines = globals()[f"_{args.what}"](args)
    print_table(records, args, "\n".join(lines))
    if next_one := _next(args, records):
        suggest(args, *next_one)
    return 0


def _next(args: argparse.Namespace, records: list[dict[str, Any]]) -> tuple[str, ...]:
    """What to do with what was listed."""
    name = args.name or "zoo:*"
    digits = ("--task", "sklearn:digits")
    if args.what == "models" and name == "popular:text":
        return ("rank", "--models", name, "--task", "reviews.csv")
    if args.what == "models":
        return ("rank", "--models", name, *digits)
    if args.what == "layers":
        return ("layers", "--model", name, *digits, "--layers", str(args.layers))
    if args.what == "tasks":
        return ("rank", "--models", "zoo:*", "--task", args.name or "sklearn:digits")
    if args.what in ("metrics", "heads") and not args.name:
        return ("list", args.what, "knn" if args.what == "metrics" else "head2toe")
    return ()


def _metrics(args: argparse.Namespace) -> _Listing:
    from fnmatch import fnmatchcase

    from transfer_metrics.metrics.base import METRICS, get_metric, list_metrics
    from transfer_metrics.ranking.metric_choice import COMBINATIONS

    pattern = args.name or "*"
    if pattern in METRICS:
        function = get_metric(pattern).fn
        command = "rank --models 'zoo:*' --task sklearn:digits --metrics {}"
        return _explained(pattern, function, function.__doc__ or "", command)
    found = [get_metric(name) for name in list_metrics(pattern)]
    rows = [(m.name, m.requires, "/".join(m.tasks), m.reference) for m in found]
    for name, by_kind in COMBINATIONS.items():
        if fnmatchcase(name, pattern):
            first = next(iter(by_kind.values()))
            rows.append((name, "a set", "/".join(by_kind), first.reference))
    lines = [f"{n:<25}{reads:<10}{tasks:<38}{source}".rstrip() for n, reads, tasks, source in rows]
    return [dict(zip(("name", "reads", "tasks", "reference"), r, strict=True)) for r in rows], lines


def _options(function: Any, doc: str) -> list[dict[str, Any]]:
    """Name, default and meaning of each option that a function takes by keyword."""
    import inspect
    import re

    told = doc.partition("Args:")[2]
    found = []
    for option in inspect.signature(function).parameters.values():
        if option.default is option.empty:
            continue
        match = re.search(
            rf"^ +{option.name}: (.*?)(?=\n\s*\n|\n +\**\w+: |\Z)", told, re.MULTILINE | re.DOTALL
        )
        about = " ".join(match.group(1).split()) if match else ""
        found.append({"option": option.name, "default": option.default, "about": about})
    return found


def _explained(name: str, function: Any, doc: str, command: str) -> _Listing:
    """What something is, a line for each option with its default, and a command with one."""
    import shlex
    import textwrap

    options, call = _options(function, doc), ""
    lines = [f"{name}: {doc.partition(chr(10))[0]}", ""]
    for option in options:
        default, text = option["default"], repr(option["default"])
        if not call and isinstance(default, (int, float)) and not isinstance(default, bool):
            call = shlex.quote(f"{name}({option['option']}={text})")
        text = text if len(text) <= 60 else f"{text[:40]} … {text[-12:]}"
        lines.append(f"  {option['option']}={text}")
        about = textwrap.wrap(option["about"], 92 - 6)
        lines += [" " * 6 + line for line in about]
    command = command.format(call or name)
    lines += ["" if options else "  no options", f"  transfer-metrics {command}"]
    return [{"name": name, **option} for option in options] or [{"name": name}], lines


def _models(args: argparse.Namespace) -> _Listing:
    from transfer_metrics.sources import zoo
    from transfer_metrics.sources.models.load_model import list_models

    names = list_models(args.name or "zoo:*")
    if not (args.name or "").startswith("popular:"):
        return _named(names)
    found = [one for one in zoo.popular() if one["model"] in names]
    widest = max(map(len, names))
    lines = [f"{o['model']:<{widest}} {o['million']:>4} M  {o['reason']}" for o in found]
    return [dict(one) for one in found], lines


def _tasks(args: argparse.Namespace) -> _Listing:
    from transfer_metrics.sources.tasks.load_task import list_tasks, load_task

    if not args.name:
        return _named(list_tasks())
    task = load_task(with_kind(args.name, args.kind))
    tell(args, task.summary)
    return _described(task)


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

    return _named(POOLINGS.match(args.name or "*"))


def _heads(args: argparse.Namespace) -> _Listing:
    from fnmatch import fnmatchcase

    from transfer_metrics.heads.base import HEADS

    if args.name in HEADS:
        head: Any = HEADS[args.name]
        # Of options that it shares with another head, that one tells.
        doc = "\n".join(own.__doc__ or "" for own in head.__mro__[:-1])
        command = "train --model zoo:cnn-mnist --task sklearn:digits --head {} --out head"
        return _explained(args.name, head.__init__, doc, command)
    names = [name for name in HEADS if fnmatchcase(name, args.name or "*")]
    if not names:
        HEADS[args.name]  # which says what there is
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


def _run_cache(args: argparse.Namespace) -> int:
    """Show where the cache is and what it holds, or clear it."""
    from transfer_metrics.ranking.cache import ResultCache

    cache = ResultCache()
    if args.action == "clear":
        cache.clear(args.only)
    records: list[dict[str, Any]] = []
    lines = [str(cache.root)]
    shown = cache.size()
    if args.only and args.action == "show":
        shown = {args.only: shown[args.only]}
    for part, (files, size) in shown.items():
        records.append({"part": part, "files": files, "bytes": size, "folder": str(cache.root)})
        lines.append(f"{part:<10}{files:>7} files {size / 1e6:>10.1f} MB")
    print_table(records, args, "\n".join(lines))
    return 0
