"""Tasks from the Hugging Face ``datasets`` library: hub names, local folders, streams."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.sources.example import decode, example_bytes
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.in_memory import as_example, as_examples
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.paths import split_name
from transfer_metrics.sources.tasks.sequences import Examples, Rows
from transfer_metrics.sources.tasks.table_columns import cell_text
from transfer_metrics.sources.tasks.table_roles import counting, labels_among, named_label, no_input
from transfer_metrics.sources.tasks.tables import TAGS, WORDS, text_columns
from transfer_metrics.sources.tasks.task import NOTHING, Task, Understood
from transfer_metrics.sources.tasks.words import words_task
from transfer_metrics.untrusted import PICTURE, read_bytes

_AT_A_TIME = 1_000


@dataclass(frozen=True, eq=False)
class HubImages(Examples):
    """An image column whose files are decoded on access."""

    column: Any
    name: str
    modality = "image"

    def __len__(self) -> int:
        return len(self.column)

    def read(self, index: int) -> Any:
        """Decode one image."""
        return decode(self.stored(index), f"{self.name}[{index}]")

    def stored(self, index: int) -> bytes:
        """The bytes of one file."""
        cell = self.column[index]
        if not cell:
            raise InvalidInputError(
                f"{self.name}[{index}] has no image; leave the row out, or say corrupt=skip"
            )
        cell = next(iter(cell.values())) if "bytes" not in cell else cell
        if cell["bytes"] is not None:
            return cell["bytes"]
        try:
            return read_bytes(cell["path"], PICTURE)
        except (OSError, ValueError, TypeError) as error:
            raise InvalidInputError(
                f"image {self.name}[{index}] cannot be read from {cell['path']!r} ({error}); "
                f"restore it or load the task again"
            ) from error


@dataclass(frozen=True, eq=False)
class HubTexts(Examples):
    """Texts of one column, or pairs of texts of two, read from the disk on access."""

    data: Any
    columns: tuple[str, ...]
    modality = "text"

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> Any:
        """One text, empty where there is none, or a pair."""
        row = self.data[index]
        return self._example(row[column] for column in self.columns)

    def each(self) -> Iterator[bytes]:
        """What every example contains, read many at a time, which the library does far faster."""
        for start in range(0, len(self), _AT_A_TIME):
            rows = self.data[start : start + _AT_A_TIME]
            for cells in zip(*(rows[column] for column in self.columns), strict=True):
                yield example_bytes(self._example(cells))

    @staticmethod
    def _example(cells: Iterable[Any]) -> Any:
        texts = tuple(map(cell_text, cells))
        return texts[0] if len(texts) == 1 else texts


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

    Args:
        place: name on the hub with an optional revision, a folder written by ``save_to_disk``, or
            a folder that ``datasets.load_dataset`` understands.
        name: the task.
        kind: ``"classification"`` or ``"regression"``.
        config: the data set's configuration, such as ``mrpc`` of ``glue``.
        label: as for ``from_loaded``.
        text: as for ``from_loaded``.
        image: as for ``from_loaded``.
        words: as for ``from_loaded``.
        bio: as for ``from_loaded``.
        missing: as for ``from_loaded``.

    Raises:
        InvalidInputError: it cannot be had, or the roles of the columns are not clear.
        MissingDependencyError: ``datasets`` is not installed.
    """
    datasets = require("datasets", f"task {name!r}")
    loaded = _load(datasets, place, name, config)
    return from_loaded(
        loaded,
        name,
        kind,
        label=label,
        text=text,
        image=image,
        words=words,
        bio=bio,
        missing=missing,
    )


def from_loaded(
    loaded: Any,
    name: str,
    kind: Kind | None = None,
    *,
    label: str | None = None,
    text: str | None = None,
    image: str | None = None,
    words: str | None = None,
    bio: str = "keep",
    missing: str = "skip",
) -> Task:
    """The task of a ``Dataset`` or ``DatasetDict`` of the ``datasets`` library.

    Args:
        loaded: the data; a single ``Dataset`` is training data.
        name: the task.
        kind: ``"classification"`` or ``"regression"``.
        label: column of the label; by default one of a usual name (see ``table_roles``), or the
            only column of classes. Of words the column with a list of labels; ``ner_tags``,
            ``pos_tags``, ``tags`` or ``labels``.
        text: column of the text, or two with a comma between.
        image: column of the images; the only one by default.
        words: column with a list of words, each of which has a label and is an example; ``tokens``
            or ``words`` where they hold lists.
        bio: for words; see ``words_task``.
        missing: what to do about missing labels; see ``assembly.make_task``.

    Raises:
        InvalidInputError: the roles of the columns are not clear, or the data cannot be used.
        MissingDependencyError: ``datasets`` is not installed.
    """
    datasets = require("datasets", f"task {name!r}")
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    first = next(iter(splits.values()))
    if not text and not image:
        words = words or next((c for c in WORDS if _lists_strings(first.features.get(c))), None)
    if words:
        return _of_words(splits, name, kind, label, words, bio)
    parts: dict[str, tuple[Sequence[Any], Any]] = {}
    classes, understood = None, NOTHING
    for split, data in splits.items():
        column = label or _label_column(datasets, data, name)
        _require(name, data, [column])
        feature = data.features[column]
        if isinstance(feature, datasets.ClassLabel):
            classes = feature.names
        left = _unused(data, column)
        examples, inputs = _examples(datasets, data, name, column, text, image, left)
        parts[split_name(split)] = (examples, list(data[column][:]))
        if understood is NOTHING:
            rest = [c for c in data.column_names if c not in (column, *inputs)]
            doubts = []
            if isinstance(examples, Rows):
                doubts = labels_among(inputs) + counting(examples.values, inputs)
            understood = Understood(
                column,
                tuple(inputs),
                tuple((f"column {c!r}", left.get(c, "it is not read")) for c in rest),
                tuple(doubts),
            )
    return make_task(name, parts, kind, classes, missing, understood)


def is_loaded(value: Any) -> bool:
    """Whether something is data of the ``datasets`` library, or splits of it; imports nothing.

    >>> is_loaded({"train": []})
    False
    """
    kind = type(value)
    if kind.__module__.partition(".")[0] == "datasets":
        return kind.__name__ in ("Dataset", "DatasetDict")
    return isinstance(value, dict) and bool(value) and all(map(is_loaded, value.values()))


def _of_words(
    splits: dict[str, Any], name: str, kind: Kind | None, label: str | None, words: str, bio: str
) -> Task:
    parts: dict[str, tuple[Sequence[Any], Sequence[Any]]] = {}
    classes, column = None, label
    for split, data in splits.items():
        column = label or next((c for c in TAGS if _is_list(data.features.get(c))), None)
        if column is None:
            raise InvalidInputError(
                f"task {name!r}: cannot tell which column labels the words; the columns are: "
                f"{', '.join(data.column_names)}; say ?label=column"
            )
        _require(name, data, [words, column])
        classes = getattr(getattr(data.features[column], "feature", None), "names", classes)
        parts[split_name(split)] = (list(data[words][:]), list(data[column][:]))
    task = words_task(name, parts, kind, classes, bio=bio)
    return _told(task, data, column or "", [words])


def _told(task: Task, data: Any, label: str, inputs: Sequence[str]) -> Task:
    """The task with the columns that were read as what."""
    used = (label, *inputs)
    left = [(f"column {c!r}", "it is not read") for c in data.column_names if c not in used]
    understood = replace(task.understood, label=label, inputs=tuple(inputs))
    return replace(task, understood=understood.without(*left))


def _is_list(feature: Any) -> bool:
    return hasattr(feature, "feature")


def _lists_strings(feature: Any) -> bool:
    return getattr(getattr(feature, "feature", None), "dtype", None) in ("string", "large_string")


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
        line = str(error).splitlines()[0] if str(error) else ""
        raise InvalidInputError(
            f"task {name!r} could not be loaded ({type(error).__name__}: {line}); check the name "
            f"and the options (?config=…), fetch it once with a network, or give a folder written "
            f"by save_to_disk"
        ) from error


def _label_column(datasets: Any, data: Any, name: str) -> str:
    named = named_label(data.column_names)
    kinds = [c for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)]
    found = named if named is not None and (named in kinds or len(kinds) != 1) else None
    if found is None and len(kinds) == 1:
        found = kinds[0]
    if found is None:
        raise InvalidInputError(
            f"task {name!r}: cannot tell which column is the label; the columns are: "
            f"{', '.join(data.column_names)}; say ?label=column"
        )
    return found


def _unused(data: Any, label: str) -> dict[str, str]:
    """Columns of numbers or texts that number the rows, and why they are no inputs."""
    scalars = [c for c, f in data.features.items() if c != label and hasattr(f, "dtype")]
    return {
        c: why
        for c in scalars
        if (why := no_input(c, data.column_names.index(c), lambda column: data[column][:]))
    }


def _require(name: str, data: Any, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in data.column_names:
            raise InvalidInputError(
                f"task {name!r}: there is no column {column!r}; the columns are: "
                f"{', '.join(data.column_names)}"
            )


def _examples(
    datasets: Any,
    data: Any,
    name: str,
    label: str,
    text: str | None,
    image: str | None,
    left: Mapping[str, str],
) -> tuple[Sequence[Any], list[str]]:
    """Images, texts, pairs of texts or numbers, and the columns that they are from."""
    others = {c: f for c, f in data.features.items() if c != label}
    rest = {c: f for c, f in others.items() if c not in left} or others
    images = [image] if image else [c for c, f in rest.items() if isinstance(f, datasets.Image)]
    if images and not text:
        _require(name, data, images)
        if len(images) > 1:
            raise InvalidInputError(
                f"task {name!r}: columns {', '.join(images)} hold images; say ?image=column"
            )
        raw = data.cast_column(images[0], datasets.Image(decode=False))
        where = f"{name}:{images[0]}"
        return HubImages(raw.select_columns(images[0])[images[0]], where), images
    words = [c for c, f in rest.items() if getattr(f, "dtype", None) in ("string", "large_string")]
    if text:
        wanted = [column.strip() for column in text.split(",")]
        _require(name, data, wanted)
    else:
        wanted = text_columns(name, words, len(words))
    if len(wanted) in (1, 2):
        return HubTexts(data.select_columns(wanted), tuple(wanted)), wanted
    numbers = [c for c, f in rest.items() if any(t in str(f) for t in ("int", "float", "bool"))]
    if not numbers:
        raise InvalidInputError(
            f"task {name!r}: no column of images, text or numbers besides label"
        )
    arrays = [np.asarray(data[column][:], dtype=np.float64) for column in numbers]
    arrays = [a[:, None] if a.ndim == 1 else a.reshape(len(a), -1) for a in arrays]
    return as_examples(np.concatenate(arrays, axis=1), f"task {name!r}"), numbers


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
        missing: what to do about missing labels; see ``assembly.make_task``.
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
