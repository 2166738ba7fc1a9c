"""Tasks from the Hugging Face ``datasets`` library: hub names and local folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import decode, example_bytes
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks.in_memory import as_examples, make_task
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
        missing: what to do about missing labels; see ``gaps.without_unlabelled``.

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
