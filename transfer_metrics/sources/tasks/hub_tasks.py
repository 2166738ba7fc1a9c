"""Tasks from the Hugging Face ``datasets`` library: hub names, local folders, streams."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.sources.example import example_bytes
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.column_roles import Asked
from transfer_metrics.sources.tasks.in_memory import as_example, as_examples
from transfer_metrics.sources.tasks.label_kinds import Kind
from transfer_metrics.sources.tasks.paths import split_name
from transfer_metrics.sources.tasks.sequences import Examples, StoredImages
from transfer_metrics.sources.tasks.table_tasks import task_of
from transfer_metrics.sources.tasks.tables import Holds, Table, text_or_pair
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import PICTURE, read_bytes

_AT_A_TIME = 1_000
_TEXT = ("string", "large_string")


@dataclass(frozen=True, eq=False)
class _HubImages(StoredImages):
    """An image column whose files are decoded on access."""

    column: Any
    name: str

    def __len__(self) -> int:
        return len(self.column)

    def where(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def stored(self, index: int) -> bytes:
        cell = self.column[index]
        if not cell:
            raise InvalidInputError(
                f"{self.where(index)} has no image; leave the row out, or say corrupt=skip"
            )
        cell = next(iter(cell.values())) if "bytes" not in cell else cell
        if cell["bytes"] is not None:
            return cell["bytes"]
        try:
            return read_bytes(cell["path"], PICTURE)
        except (OSError, ValueError, TypeError) as error:
            raise InvalidInputError(
                f"image {self.where(index)} cannot be read from {cell['path']!r} ({error}); "
                f"restore it or load the task again"
            ) from error


@dataclass(frozen=True, eq=False)
class _HubTexts(Examples):
    """Texts of one column, or pairs of texts of two, read from the disk on access."""

    data: Any
    columns: tuple[str, ...]
    modality = "text"

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> Any:
        row = self.data[index]
        return text_or_pair(*(row[column] for column in self.columns))

    def each(self) -> Iterator[bytes]:
        for start in range(0, len(self), _AT_A_TIME):
            rows = self.data[start : start + _AT_A_TIME]
            for cells in zip(*(rows[column] for column in self.columns), strict=True):
                yield example_bytes(text_or_pair(*cells))


class _HubTable(Table):
    """One split of a data set, whose columns have types."""

    declared = True

    def __init__(self, datasets: Any, data: Any, split: str, name: str) -> None:
        self.name, self.columns, self.rows = name, tuple(data.column_names), len(data)
        self.splits = {split_name(split): np.arange(len(data))}
        self._datasets, self._data = datasets, data

    def holds(self, column: str) -> Holds:
        kind = self._data.features[column]
        if isinstance(kind, self._datasets.Image):
            return "images"
        if getattr(kind, "dtype", None) in _TEXT:
            return "text"
        if getattr(getattr(kind, "feature", None), "dtype", None) in _TEXT:
            return "lists"
        return "numbers" if any(t in str(kind) for t in ("int", "float", "bool")) else "other"

    def may_hold_lists(self, column: str) -> bool:
        return hasattr(self._data.features[column], "feature")

    def is_empty(self, column: str) -> bool:
        return getattr(self._data.features[column], "dtype", None) == "null"

    def cells(self, column: str) -> list[Any]:
        return list(self._data[column][:])

    labels = cells

    def class_names(self, column: str) -> Sequence[str] | None:
        kind = self._data.features[column]
        return getattr(getattr(kind, "feature", kind), "names", None)

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        return _HubTexts(self._data.select_columns(list(columns)), tuple(columns))

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        arrays = [np.asarray(self._data[column][:], dtype=np.float64) for column in columns]
        return np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        raw = self._data.cast_column(column, self._datasets.Image(decode=False))
        return _HubImages(raw.select_columns(column)[column], f"{self.name}:{column}")


def from_hub(
    place: str,
    name: str,
    kind: Kind | None = None,
    *,
    config: str | None = None,
    label: str | None = None,
    text: str | None = None,
    image: str | None = None,
    words: str | None = None,
    bio: str = "keep",
    missing: str = "skip",
) -> Task:
    """Load ``name``, ``name@revision`` or a local folder with all its labelled splits.

    A folder is one that ``save_to_disk`` wrote or ``datasets.load_dataset`` understands; ``config``
    is the data set's configuration, such as ``mrpc`` of ``glue``. The others are those of
    ``from_table``; without ``label``, the only column of classes is one.
    """
    loaded = _load(require("datasets", f"task {name!r}"), place, name, config)
    columns = {"label": label, "text": text, "image": image, "words": words}
    return from_loaded(loaded, name, kind, bio=bio, missing=missing, **columns)


def from_loaded(
    loaded: Any,
    name: str,
    kind: Kind | None = None,
    *,
    bio: str = "keep",
    missing: str = "skip",
    **columns: str | None,
) -> Task:
    """The task of a ``Dataset``, which is training data, or a ``DatasetDict``; see ``from_hub``."""
    datasets = require("datasets", f"task {name!r}")
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    tables = [_HubTable(datasets, data, split, name) for split, data in splits.items()]
    return task_of(tables, name, kind, Asked(**columns), bio=bio, missing=missing)


def is_loaded(value: Any) -> bool:
    """Whether something is data of the ``datasets`` library, or splits of it; imports nothing."""
    names = ("Dataset", "DatasetDict")
    return _each(value, lambda one: _has_columns(one) and type(one).__name__ in names)


def is_stream(value: Any) -> bool:
    """Whether something is an iterable dataset of torch or of ``datasets``, or splits of these."""
    return _each(value, lambda one: "IterableDataset" in {k.__name__ for k in type(one).__mro__})


def _each(value: Any, test: Callable[[Any], bool]) -> bool:
    return all(map(test, value.values())) if isinstance(value, dict) and value else test(value)


def _has_columns(value: Any) -> bool:
    # By its own class: those of datasets are made subclasses of torch's as soon as they are used.
    return type(value).__module__.partition(".")[0] == "datasets"


def _load(datasets: Any, place: str, name: str, config: str | None) -> Any:
    path, revision = os.path.expanduser(place), None
    if not os.path.exists(path):
        path, _, revision = place.partition("@")
    try:
        saved = ("dataset_dict.json", "state.json")
        if any(os.path.isfile(os.path.join(path, file)) for file in saved):
            return datasets.load_from_disk(path)
        return datasets.load_dataset(path, config, revision=revision or None)
    except Exception as error:  # the library raises many kinds for a missing or odd data set
        line = next(iter(str(error).splitlines()), "")
        raise InvalidInputError(
            f"task {name!r} could not be loaded ({type(error).__name__}: {line}); check the name "
            f"and the options (?config=…), fetch it once with a network, or give a folder written "
            f"by save_to_disk"
        ) from error


def from_stream(
    loaded: Any,
    name: str,
    kind: Kind | None = None,
    *,
    first: Any = None,
    missing: str = "skip",
    **options: Any,
) -> Task:
    """Take the ``first`` examples of every split of a stream into memory.

    Every model reads them again, so a stream is read once, as far as it is told to. It is an
    ``IterableDataset`` of ``datasets`` (or a mapping of splits to them), with the options of
    ``from_loaded``, or of torch that yields pairs (x, y). Images of ``datasets`` stay encoded.
    """
    if first is None:
        raise UnsupportedTaskError(
            f"a {type(loaded).__name__} is a stream, of which nobody knows the length; say "
            f"load_task(stream, first=10000) to take so many examples into memory, or write it as "
            f"Parquet or tar shards and load those"
        )
    if not str(first).isdecimal() or int(first) < 1:
        raise InvalidInputError(f"first={first!r}; give a whole number of examples to take")
    count = int(first)
    if not _each(loaded, _has_columns):
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


def _taken(datasets: Any, stream: Any, count: int, name: str) -> Any:
    """The first examples of a stream as data in memory, images as they are encoded."""
    for column, feature in (stream.features or {}).items():
        if isinstance(feature, (datasets.Image, datasets.Audio)):
            stream = stream.cast_column(column, type(feature)(decode=False))
    rows = list(stream.take(count))
    if not rows:
        raise InvalidInputError(f"task {name!r}: the stream yields nothing; check its source")
    return datasets.Dataset.from_list(rows, features=stream.features)
