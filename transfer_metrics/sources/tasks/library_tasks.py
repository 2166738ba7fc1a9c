"""Tasks that other packages and this one bring: scikit-learn's, torchvision's, the bundled ones."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.registry import choose
from transfer_metrics.sources import zoo
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks.array_files import from_npz
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.in_memory import as_examples, from_dataset
from transfer_metrics.sources.tasks.label_kinds import Kind
from transfer_metrics.sources.tasks.task import Task, Understood

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
            f"task {name!r}: EMNIST has several sets of letters; say ?split= and one of "
            f"{', '.join(make.splits)}"
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
            f"task {name!r}: torchvision cannot read {place} below {root!r} "
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


def from_zoo(place: str, name: str) -> Task:
    """A bundled task."""
    task = from_npz(str(zoo.task_path(place)), name)
    return dataclasses.replace(task, understood=Understood())  # not how it is stored
