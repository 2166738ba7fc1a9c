"""Tasks from the Hugging Face ``datasets`` library: hub names and local folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.base import Kind, Task
from transfer_metrics.sources.examples import Examples, decode
from transfer_metrics.sources.files import split_name
from transfer_metrics.sources.memory import as_examples, make_task
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tables import TAGS, WORDS, text_columns
from transfer_metrics.sources.words import words_task


@dataclass(frozen=True, eq=False)
class HubImages(Examples):
    """An image column whose files are decoded on access."""

    column: Any
    name: str

    def __len__(self) -> int:
        return len(self.column)

    def read(self, index: int) -> Any:
        """Decode one image."""
        return decode(self._bytes(index), f"{self.name}[{index}]")

    def content(self) -> Iterator[bytes]:
        """The files' bytes."""
        return (self._bytes(index) for index in range(len(self)))

    def _bytes(self, index: int) -> bytes:
        cell = self.column[index]
        cell = next(iter(cell.values())) if "bytes" not in cell else cell
        if cell["bytes"] is not None:
            return cell["bytes"]
        with open(cell["path"], "rb") as file:
            return file.read()


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

    Raises:
        InvalidInputError: it cannot be had, or the roles of the columns are not clear.
        MissingDependencyError: ``datasets`` is not installed.
    """
    datasets = require("datasets", f"task {name!r}")
    loaded = _load(datasets, place, name, config)
    return from_loaded(
        loaded, name, kind, label=label, text=text, image=image, words=words, bio=bio
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
) -> Task:
    """The task of a ``Dataset`` or ``DatasetDict`` of the ``datasets`` library.

    Args:
        loaded: the data; a single ``Dataset`` is training data.
        name: the task.
        kind: ``"classification"`` or ``"regression"``.
        label: column of the label; ``label``, ``labels`` or the only column of classes. Of words
            the column with a list of labels; ``ner_tags``, ``pos_tags``, ``tags`` or ``labels``.
        text: column of the text, or two with a comma between.
        image: column of the images; the only one by default.
        words: column with a list of words, each of which has a label and is an example; ``tokens``
            or ``words`` where they hold lists.
        bio: for words; see ``words_task``.

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
    classes = None
    for split, data in splits.items():
        column = label or _label_column(datasets, data, name)
        _require(name, data, [column])
        feature = data.features[column]
        labels = np.asarray(data[column][:])
        if isinstance(feature, datasets.ClassLabel):
            classes = feature.names
            if (labels == -1).all():
                warnings.warn(
                    f"task {name!r}: left out split {split!r}, which has no labels", stacklevel=2
                )
                continue
        examples = _examples(datasets, data, name, column, text, image)
        parts[split_name(split)] = (examples, labels)
    return make_task(name, parts, kind, classes)


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
    classes = None
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
    return words_task(name, parts, kind, classes, bio=bio)


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
    named = [c for c in ("label", "labels") if c in data.column_names]
    kinds = [c for c, f in data.features.items() if isinstance(f, datasets.ClassLabel)]
    found = named or kinds
    if len(found) != 1:
        raise InvalidInputError(
            f"task {name!r}: cannot tell which column is the label; the columns are: "
            f"{', '.join(data.column_names)}; say ?label=column"
        )
    return found[0]


def _require(name: str, data: Any, columns: Sequence[str]) -> None:
    for column in columns:
        if column not in data.column_names:
            raise InvalidInputError(
                f"task {name!r}: there is no column {column!r}; the columns are: "
                f"{', '.join(data.column_names)}"
            )


def _examples(
    datasets: Any, data: Any, name: str, label: str, text: str | None, image: str | None
) -> Sequence[Any]:
    rest = {c: f for c, f in data.features.items() if c != label}
    images = [image] if image else [c for c, f in rest.items() if isinstance(f, datasets.Image)]
    if images and not text:
        _require(name, data, images)
        if len(images) > 1:
            raise InvalidInputError(
                f"task {name!r}: columns {', '.join(images)} hold images; say ?image=column"
            )
        raw = data.cast_column(images[0], datasets.Image(decode=False))
        return HubImages(raw.select_columns(images[0])[images[0]], f"{name}:{images[0]}")
    words = [c for c, f in rest.items() if getattr(f, "dtype", None) in ("string", "large_string")]
    if text:
        wanted = [column.strip() for column in text.split(",")]
        _require(name, data, wanted)
    else:
        wanted = text_columns(name, words, len(words))
    if len(wanted) == 1:
        return list(data[wanted[0]][:])
    if len(wanted) == 2:
        return list(zip(data[wanted[0]][:], data[wanted[1]][:], strict=True))
    numbers = [c for c, f in rest.items() if "int" in str(f) or "float" in str(f)]
    if not numbers:
        raise InvalidInputError(
            f"task {name!r}: no column of images, text or numbers besides label"
        )
    arrays = [np.asarray(data[column][:], dtype=np.float64) for column in numbers]
    arrays = [a[:, None] if a.ndim == 1 else a.reshape(len(a), -1) for a in arrays]
    return as_examples(np.concatenate(arrays, axis=1), f"task {name!r}")
