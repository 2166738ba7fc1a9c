"""Load tasks by name or from memory."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources import zoo
from transfer_metrics.sources.base import Kind, Task, choose
from transfer_metrics.sources.files import from_imagefolder, from_npz, split_name
from transfer_metrics.sources.hub_tasks import from_hub
from transfer_metrics.sources.memory import as_examples, from_dataset, make_task
from transfer_metrics.sources.specs import parse_task
from transfer_metrics.sources.tables import from_csv

_SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")


def load_task(
    spec: Any,
    labels: Any = None,
    *,
    name: str | None = None,
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
    **options: str,
) -> Task:
    """Load a labelled data set.

    ================================================  ============================================
    ``sklearn:digits``                                also iris, wine, breast_cancer, diabetes; a
                                                      fixed stratified split, 75 % train, 25 % test
    ``zoo:glyphs``                                    bundled: rendered characters, with ``ood``
    ``imagefolder:photos/``                           a folder per class, or per split and class
    ``npz:data.npz``                                  ``X``, ``y``, or ``x_<split>``, ``y_<split>``
    ``csv:reviews.csv?label=stars&text=review``       text, pairs (``text=a,b``), or numbers
                                                      (``features=a,b``); ``split=column``
    ``hf:glue?config=mrpc``, ``hf:name@revision``     the ``datasets`` library; also a local folder;
                                                      ``label=``, ``text=``, ``image=``
    ``(X, y)`` or ``load_task(X, y)``                 arrays, tensors, lists of images or texts
    ``{"train": (X, y), "test": (X, y)}``             several splits
    a torch ``Dataset`` of (x, y) pairs               images, texts or tensors; map-style
    ================================================  ============================================

    Options follow ``?`` with ``&`` between them, or are given as keywords; npz, csv and hf take
    ``kind=`` too. uint8 arrays (N, H, W), (N, H, W, 1) and (N, H, W, 3) are images; other
    numbers are float32. Classes are numbered in sorted order, the same in all splits. Nothing is
    unpickled or executed. Images are decoded when they are used; one that does not decode raises
    ``InvalidInputError`` with its name then.

    Args:
        spec: one of the above, or a ``Task``.
        labels: labels of the examples in ``spec``.
        name: what to call the task.
        kind: ``"classification"`` or ``"regression"``. By default float labels are targets of a
            regression, unless all are whole and few.
        classes: names of the classes, in the order of their numbers.
        **options: options of the source.

    Raises:
        InvalidInputError: the data cannot be used; the message says where and why.
        UnknownNameError: the source or the data set has no such name.

    >>> task = load_task("sklearn:iris")
    >>> len(task["train"]), len(task["test"]), task.classes
    (112, 38, ('setosa', 'versicolor', 'virginica'))
    """
    if isinstance(spec, Task):
        return spec if name is None else dataclasses.replace(spec, name=name)
    if isinstance(spec, str):
        if labels is not None:
            raise InvalidInputError(f"task {spec!r} has labels of its own; leave labels out")
        return _by_name(spec, name or spec, kind, classes, options)
    if options:
        raise InvalidInputError(f"options {sorted(options)} apply to tasks given by name only")
    name = name or "data"
    if labels is not None:
        return make_task(name, {"train": _part((spec, labels), name)}, kind, classes)
    splits = spec if isinstance(spec, Mapping) else {"train": spec}
    parts = {split_name(str(split)): _part(part, name) for split, part in splits.items()}
    if classes is None:
        classes = next((c for p in splits.values() if (c := _own_classes(p)) is not None), None)
    return make_task(name, parts, kind, classes)


def list_tasks() -> list[str]:
    """Names of the tasks that come with the package or with scikit-learn.

    >>> list_tasks()[-1]
    'zoo:glyphs'
    """
    return [f"sklearn:{name}" for name in _SKLEARN] + [f"zoo:{name}" for name in zoo.task_names()]


def _part(part: Any, name: str) -> tuple[Sequence[Any], Any]:
    where = f"task {name!r}"
    if isinstance(part, (tuple, list)) and len(part) == 2:
        examples, labels = part
        if not hasattr(labels, "__len__"):
            raise InvalidInputError(
                f"{where}: labels are a {type(labels).__name__}; give one per example"
            )
        return as_examples(examples, where), labels
    if isinstance(part, (tuple, list)):
        raise InvalidInputError(f"{where}: give (examples, labels), not {len(part)} items")
    return from_dataset(part, where)


def _own_classes(part: Any) -> Sequence[Any] | None:
    classes = getattr(part, "classes", None)
    good = isinstance(classes, (list, tuple)) and all(isinstance(c, str) for c in classes)
    return classes if good else None


def _by_name(
    spec: str, name: str, kind: Kind | None, classes: Sequence[Any] | None, options: dict[str, Any]
) -> Task:
    source, place, written = parse_task(spec)
    options = {**written, **options}
    kind = options.pop("kind", kind)
    loaders: dict[str, Callable[..., Task]] = {
        "csv": from_csv,
        "hf": from_hub,
        "imagefolder": from_imagefolder,
        "npz": from_npz,
        "sklearn": _from_sklearn,
        "zoo": _from_zoo,
    }
    loader = loaders[choose("task source", source, loaders)]
    accepted = inspect.signature(loader).parameters
    if kind is not None:
        options["kind"] = kind
    for option in options:
        choose(f"option of {source}: tasks", option, set(accepted) - {"place", "name"})
    task = loader(place, name, **options)
    if classes is not None:
        if len(classes) != task.num_classes:
            raise InvalidInputError(
                f"task {name!r}: {len(classes)} names for {task.num_classes} classes"
            )
        task = dataclasses.replace(task, classes=tuple(str(c) for c in classes))
    return task


def _from_sklearn(place: str, name: str) -> Task:
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    choose("scikit-learn task", place, _SKLEARN)
    data = getattr(datasets, f"load_{place}")()
    regression = place == "diabetes"
    values = data.data
    if place == "digits":
        values = np.round(data.images * (255 / 16)).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(values)),
        test_size=0.25,
        random_state=0,
        stratify=None if regression else data.target,
    )
    parts = {
        split: (as_examples(values[rows], name), data.target[rows])
        for split, rows in (("train", train), ("test", test))
    }
    if regression:
        return make_task(name, parts, "regression")
    return make_task(name, parts, "classification", [str(c) for c in data.target_names])


def _from_zoo(place: str, name: str) -> Task:
    return from_npz(str(zoo.task_path(place)), name)
