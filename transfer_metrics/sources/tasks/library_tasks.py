"""Tasks that other packages and this one bring: scikit-learn's, torchvision's, the bundled ones."""

from __future__ import annotations

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
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.task import Task, Understood

SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
_TORCHVISION = (
    "CIFAR10", "CIFAR100", "Caltech101", "Country211", "DTD", "EMNIST", "EuroSAT",
    "FGVCAircraft", "FakeData", "FashionMNIST", "Flowers102", "Food101", "GTSRB", "Imagenette",
    "KMNIST", "MNIST", "OxfordIIITPet", "PCAM", "QMNIST", "RenderedSST2", "SEMEION", "STL10",
    "SUN397", "SVHN", "StanfordCars", "USPS",
)  # fmt: skip
"""Data sets of labelled images."""
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
    checksums. Further options are arguments of the class that are texts, such as EMNIST's
    ``split``.
    """
    torchvision = require("torchvision", f"task {name!r}")
    choose("torchvision data set", place, _TORCHVISION)
    make = getattr(torchvision.datasets, place)
    accepted = inspect.signature(make).parameters
    variants: dict[str, list[dict[str, Any]]]
    if "train" in accepted:
        variants = {"train": [{"train": True}], "test": [{"train": False}]}
    elif "split" in accepted and "split" not in options:
        variants = {s: [{"split": word} for word in words] for s, words in _SPLITS.items()}
    else:
        variants = {"train": [{}]}
    ours = {"root": root, "download": False}
    fixed = options | {option: value for option, value in ours.items() if option in accepted}
    found, reason = {}, ""
    for split, arguments in variants.items():
        for argument in arguments:
            try:
                found[split] = make(**fixed, **argument)
                break
            except (RuntimeError, OSError, ValueError, TypeError) as error:
                reason = reason or " ".join(str(error).split())
    if "train" not in found:
        raise InvalidInputError(
            f"task {name!r}: torchvision cannot read {place} below {root!r} ({reason[:200]}); "
            f"fetch it with torchvision.datasets.{place}({root!r}, download=True), or say ?root="
        )
    read = {split: from_dataset(data, f"task {name!r}") for split, data in found.items()}
    parts = {split: (examples, labels) for split, (examples, labels, _) in read.items()}
    return make_task(name, parts, kind, read["train"][2], missing)


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
