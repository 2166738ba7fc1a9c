"""Tasks that other packages bring: those of ``datasets``, of torchvision and of scikit-learn."""

from __future__ import annotations

import ast
import contextlib
import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.naming import a_type
from transfer_metrics.registry import choose
from transfer_metrics.sources.example import example_bytes
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.column_roles import Asked
from transfer_metrics.sources.tasks.in_memory import as_example, as_examples, from_dataset
from transfer_metrics.sources.tasks.label_values import as_numbers
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.paths import usual_splits
from transfer_metrics.sources.tasks.sequences import ColumnImages, ColumnTexts, text_or_pair
from transfer_metrics.sources.tasks.table_cells import OF_SOUNDS, Holds, Table
from transfer_metrics.sources.tasks.table_tasks import task_of
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import visible

_AT_A_TIME = 1_000
_SORTED = 10
"""Examples from which on the order of classes is hardly by chance."""
_TEXT = ("string", "large_string")
SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_TORCHVISION = (
    "CIFAR10", "CIFAR100", "Caltech101", "Country211", "DTD", "EMNIST", "EuroSAT",
    "FGVCAircraft", "FakeData", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "Imagenette",
    "KMNIST", "MNIST", "OxfordIIITPet", "PCAM", "QMNIST", "RenderedSST2", "SEMEION", "STL10",
    "SUN397", "SVHN", "StanfordCars", "USPS",
)  # fmt: skip
"""Data sets of labelled images."""
_NOT_OWN = (
    "root", "download", "loader", "transform", "target_transform", "transforms",
)  # fmt: skip
"""Arguments of data sets that nobody gives: where they are is ours, and models bring transforms."""
_SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}


class _HubTexts(ColumnTexts):
    def each(self) -> Iterator[bytes]:
        for start in range(0, len(self), _AT_A_TIME):
            rows = self.rows_of[start : start + _AT_A_TIME]
            for cells in zip(*(rows[column] for column in self.columns), strict=True):
                yield example_bytes(text_or_pair(*cells))


class _HubTable(Table):
    """One split of a data set, whose columns have types."""

    declared = True

    def __init__(self, datasets: Any, data: Any, split: str, name: str) -> None:
        if data.format["type"] == "custom":
            self.suspicions = (
                f"the transform of split {split!r} is not used, since every model brings its own; "
                f"change the data by map() if it has to be",
            )
        data = data.with_format(None)  # all columns, as Python has them
        self.columns, self.rows = tuple(data.column_names), len(data)
        self.splits = {split: np.arange(len(data))}
        self._datasets, self._data, self._name = datasets, data, name

    def holds(self, column: str) -> Holds:
        kind = self._data.features[column]
        if isinstance(kind, self._datasets.Image):
            return "images"
        if isinstance(kind, (dict, list, self._datasets.ClassLabel)):
            return "other"  # classes by number are no measurements
        if getattr(kind, "dtype", None) in _TEXT:
            return "text"
        if getattr(getattr(kind, "feature", None), "dtype", None) in _TEXT:
            return "lists"
        return "numbers" if any(t in str(kind) for t in ("int", "float", "bool")) else "other"

    def unread(self, column: str) -> str:
        kind = self._data.features[column]
        several = isinstance(kind, (dict, self._datasets.Translation))
        parts = "several values each; give each a column, as by data.flatten()" if several else ""
        return OF_SOUNDS if isinstance(kind, self._datasets.Audio) else parts

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
        arrays = [as_numbers(self._data[c][:], f"column {c!r}") for c in columns]
        return np.concatenate([a.reshape(len(a), -1).astype(float) for a in arrays], axis=1)

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        raw = self._data.cast_column(column, self._datasets.Image(decode=False))
        return ColumnImages(raw.select_columns(column), column, f"task {self._name!r}")


def from_hub(
    place: Any,
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
    ``from_table``; without ``label``, the only column of classes is one. A ``Dataset``, which is
    training data, or a ``DatasetDict`` is taken as it is.
    """
    datasets = require("datasets", f"task {name!r}")
    loaded = _load(datasets, place, config) if isinstance(place, str) else place
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    usual = usual_splits({str(split): str(split) for split in splits})
    tables = [_HubTable(datasets, data, usual[str(s)], name) for s, data in splits.items()]
    asked = Asked(label, text, image, words)
    return task_of(tables, name, kind, asked, bio=bio, missing=missing)


def loader_of(value: Any) -> Callable[..., Task] | None:
    """What reads data of ``datasets``, an iterable dataset, or splits of these; imports nothing."""

    def each(test: Callable[[Any], bool]) -> bool:
        is_splits = isinstance(value, dict) and bool(value)
        return all(map(test, value.values() if is_splits else [value]))

    if each(lambda one: _has_columns(one) and type(one).__name__ in ("Dataset", "DatasetDict")):
        return from_hub
    streams = each(lambda one: "IterableDataset" in {k.__name__ for k in type(one).__mro__})
    return _from_stream if streams else None


def _has_columns(value: Any) -> bool:
    # By its own class: those of datasets are made subclasses of torch's as soon as they are used.
    return type(value).__module__.partition(".")[0] == "datasets"


def _load(datasets: Any, place: str, config: str | None) -> Any:
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
            f"it could not be loaded ({type(error).__name__}: {line}); check the name "
            f"and the options (?config=…), fetch it once with a network, or give a folder written "
            f"by save_to_disk"
        ) from error


def _from_stream(
    loaded: Any,
    name: str,
    kind: Kind | None = None,
    *,
    first: Any = None,
    missing: str = "skip",
    **options: Any,
) -> Task:
    """Take the ``first`` examples of every split of a stream into memory, for all models.

    A stream of ``datasets`` has the options of ``from_hub``; one of torch yields pairs (x, y).
    Where more follow and these lack classes, or come class by class, that is told.
    """
    if first is None:
        raise UnsupportedTaskError(
            f"{a_type(loaded)} is a stream, of which nobody knows the length; say "
            f"load_task(stream, first=10000) to take so many examples into memory, or write it as "
            f"Parquet or tar shards and load those"
        )
    if not str(first).isdecimal() or int(first) < 1:
        raise InvalidInputError(f"first={first!r}; give a whole number of examples to take")
    count = int(first)
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    if not all(map(_has_columns, splits.values())):
        if options:
            raise InvalidInputError(
                f"options {', '.join(sorted(options))} apply to streams of columns only; leave "
                f"them out"
            )
        rest = iter(loaded)
        pairs = list(itertools.islice(rest, count))
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
            raise InvalidInputError("the stream does not yield pairs (x, y)")
        examples = as_examples([as_example(x) for x, _ in pairs], "the stream")
        parts = {"train": (examples, [y for _, y in pairs])}
        return _in_part(lambda: make_task(name, parts, kind, None, missing), rest, count)
    datasets = require("datasets", f"task {name!r}")
    taken = {split: _taken(datasets, part, count) for split, part in splits.items()}
    rest = taken["train"][1] if "train" in taken else iter(())
    kept = {split: part for split, (part, _) in taken.items()}
    return _in_part(lambda: from_hub(kept, name, kind, missing=missing, **options), rest, count)


def _in_part(made: Callable[[], Task], rest: Iterator[Any], count: int) -> Task:
    """The task of the first examples, told of classes that may only come with the ``rest``."""
    cure = f"the stream goes on after {count} examples; shuffle it before, or take more"
    try:
        task = made()
    except InvalidInputError as error:
        if "of one class" not in str(error) or next(rest, None) is None:
            raise
        raise InvalidInputError(f"{error}; {cure}") from error
    train = task["train"]
    if not task.num_classes or train.units is not None:
        return task
    there = np.bincount(train.labels, minlength=task.num_classes) > 0
    lacking = [repr(visible(task.classes[code])) for code in np.flatnonzero(~there)]
    runs = 1 + int((train.labels[1:] != train.labels[:-1]).sum())
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        doubt = f"there is no example of the class {lacking[0]}{more}"
    elif runs == there.sum() and len(train) >= _SORTED:
        doubt = "the examples are in the order of their classes, of which more may follow"
    else:
        return task
    if next(rest, None) is None:
        return task
    return replace(task, understood=task.understood.plus(suspicions=[f"{doubt}; {cure}"]))


def _taken(datasets: Any, stream: Any, count: int) -> tuple[Any, Iterator[Any]]:
    """The first examples of a stream as data in memory, images as encoded, and the rest."""
    for column, feature in (stream.features or {}).items():
        if isinstance(feature, (datasets.Image, datasets.Audio)):
            stream = stream.cast_column(column, type(feature)(decode=False))
    rest = iter(stream)
    rows = list(itertools.islice(rest, count))
    if not rows:
        raise InvalidInputError("the stream yields nothing; check its source")
    return datasets.Dataset.from_list(rows, features=stream.features), rest


def from_torchvision(
    place: str,
    name: str,
    kind: Kind | None = None,
    *,
    root: str = "data",
    missing: str = "skip",
    **options: Any,
) -> Task:
    """A data set of ``torchvision.datasets`` with all its splits; nothing is downloaded.

    The files must be below ``root``, where ``torchvision.datasets.<name>(root, download=True)``
    puts them. Torchvision's own code reads them; CIFAR's unpickles files after comparing their
    checksums. Further options are arguments of the class, such as EMNIST's ``split=letters`` or
    FakeData's ``size=100&image_size=3,8,8``; with ``split``, ``train`` or ``what`` where it has
    them, that part alone is the training data.
    """
    torchvision = require("torchvision", f"task {name!r}")
    choose("torchvision data set", place, _TORCHVISION)
    make = getattr(torchvision.datasets, place)
    accepted = dict(inspect.signature(make).parameters)
    if accepted.pop("kwargs", None):  # which go to the class that it is based on
        accepted = dict(inspect.signature(make.__base__).parameters) | accepted
    own = [key for key in accepted if key not in _NOT_OWN]
    for option, value in options.items():
        choose(f"option of torchvision:{place}", option, own)
        if isinstance(value, str) and not isinstance(accepted[option].default, str):
            options[option] = _literal(value)
    if place == "EMNIST" and "split" not in options:  # which is no part, but which letters
        raise InvalidInputError(
            f"EMNIST has several sets of letters; say ?split= and one of {', '.join(make.splits)}"
        )
    variants: dict[str, list[dict[str, Any]]]
    if "train" in accepted and not {"train", "what"} & set(options):
        variants = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in accepted and "split" not in options:
        variants = {s: [{"split": word} for word in words] for s, words in _SPLITS.items()}
    else:
        variants = {"train": [{}]}
    ours = {"root": root, "download": False}
    fixed = options | {option: value for option, value in ours.items() if option in accepted}
    found = {}
    reasons: list[Exception] = []
    for split, arguments in variants.items():
        for argument in arguments:
            try:
                made = make(**fixed, **argument)
                len(made)  # which some find out no sooner
                found[split] = made
                break
            except (RuntimeError, OSError, ValueError, TypeError) as error:
                reasons.append(error)
    if "train" not in found:
        # Of words for a split that it has not it says ValueError.
        reason = min(reasons, key=lambda error: isinstance(error, (ValueError, TypeError)))
        wrong = options and isinstance(reason, (ValueError, TypeError))
        raise InvalidInputError(
            f"torchvision cannot read {place} below {root!r} "
            f"({' '.join(str(reason).split())[:200]}); {'correct the options, ' if wrong else ''}"
            f"fetch it with torchvision.datasets.{place}({root!r}, download=True), or say ?root="
        ) from reason
    read = {split: from_dataset(data, f"task {name!r}") for split, data in found.items()}
    parts = {split: (examples, labels) for split, (examples, labels, _) in read.items()}
    return make_task(name, parts, kind, read["train"][2], missing)


def _literal(text: str) -> Any:
    """A number, a boolean or several numbers, as it is written in a name; else the text."""
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    return text


def from_sklearn(place: str, name: str) -> Task:
    """A data set of scikit-learn, always split alike: 75 % train, 25 % test, by class."""
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    choose("scikit-learn task", place, SKLEARN)
    data = getattr(datasets, f"load_{place}")()
    values, regression = data.data, place == "diabetes"
    if place == "digits":
        values = np.round(data.images * (255 / 16)).astype(np.uint8)
    strata = None if regression else data.target
    order = np.arange(len(values))
    train, test = train_test_split(order, test_size=0.25, random_state=0, stratify=strata)
    parts = {
        split: (as_examples(values[rows], name), data.target[rows])
        for split, rows in (("train", train), ("test", test))
    }
    if regression:
        return make_task(name, parts, "regression")
    return make_task(name, parts, "classification", [str(c) for c in data.target_names])
