"""Tasks from streams: iterables of examples whose number is not known beforehand."""

from __future__ import annotations

import itertools
from typing import Any

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks.hub_tasks import from_loaded
from transfer_metrics.sources.tasks.in_memory import as_example, as_examples, make_task
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.task import Task


def from_stream(
    loaded: Any,
    name: str,
    kind: Kind | None = None,
    *,
    first: Any = None,
    missing: str = "skip",
    **options: Any,
) -> Task:
    """Take the first examples of a stream into memory.

    Scores, splits and samples need to know how many examples there are, and every model reads them
    again, so a stream is read once, as far as it is told to.

    Args:
        loaded: an ``IterableDataset`` of ``datasets`` (or a mapping of splits to them), or of
            torch that yields pairs (x, y).
        name: the task.
        kind: ``"classification"`` or ``"regression"``.
        first: how many examples to take of every split.
        missing: what to do about missing labels; see ``gaps.without_unlabelled``.
        **options: for streams of ``datasets`` those of ``hub_tasks.from_loaded``.

    Raises:
        UnsupportedTaskError: ``first`` is not given.
        InvalidInputError: the data cannot be used.
        MissingDependencyError: ``datasets`` is not installed.

    Cost: memory for ``first`` examples; images of ``datasets`` stay encoded.
    """
    count = _count(loaded, first)
    if not _has_columns(loaded):
        if options:
            raise InvalidInputError(
                f"options {', '.join(sorted(options))} apply to streams of columns only; leave "
                f"them out"
            )
        pairs = list(itertools.islice(iter(loaded), count))
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise InvalidInputError(f"task {name!r}: the stream does not yield pairs (x, y)")
        examples = as_examples([as_example(x) for x, _ in pairs], f"task {name!r}")
        return make_task(name, {"train": (examples, [y for _, y in pairs])}, kind, None, missing)
    datasets = require("datasets", f"task {name!r}")
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    taken = {split: _taken(datasets, part, count, name) for split, part in splits.items()}
    return from_loaded(taken, name, kind, missing=missing, **options)


def is_stream(value: Any) -> bool:
    """Whether something is an iterable dataset of torch or of ``datasets``, or splits of these.

    >>> is_stream([1, 2])
    False
    """
    if isinstance(value, dict):
        return bool(value) and all(map(is_stream, value.values()))
    names = {kind.__name__ for kind in type(value).__mro__}
    return "IterableDataset" in names


def _has_columns(value: Any) -> bool:
    # By its own class: those of datasets are made subclasses of torch's as soon as they are used.
    if isinstance(value, dict):
        return all(map(_has_columns, value.values()))
    return type(value).__module__.partition(".")[0] == "datasets"


def _count(loaded: Any, first: Any) -> int:
    if first is None:
        raise UnsupportedTaskError(
            f"a {type(loaded).__name__} is a stream, of which nobody knows the length; say "
            f"load_task(stream, first=10000) to take so many examples into memory, or write it as "
            f"Parquet or tar shards and load those"
        )
    if not str(first).isdecimal() or int(first) < 1:
        raise InvalidInputError(f"first={first!r}; give a whole number of examples to take")
    return int(first)


def _taken(datasets: Any, stream: Any, count: int, name: str) -> Any:
    """The first examples of a stream as data in memory, images as they are encoded."""
    features = stream.features
    encoded = (datasets.Image, datasets.Audio)
    for column, feature in (features or {}).items():
        if isinstance(feature, encoded):
            stream = stream.cast_column(column, type(feature)(decode=False))
    rows = list(stream.take(count))
    if not rows:
        raise InvalidInputError(f"task {name!r}: the stream yields nothing; check its source")
    return datasets.Dataset.from_list(rows, features=stream.features)
