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
from transfer_metrics.sources.hub_tasks import from_hub, from_loaded, is_loaded
from transfer_metrics.sources.memory import as_examples, from_dataset, make_task
from transfer_metrics.sources.specs import parse_task
from transfer_metrics.sources.tables import from_table
from transfer_metrics.sources.words import is_labelled_words, words_task

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
    ``jsonl:ner.jsonl?words=tokens&label=ner_tags``   the same from JSON lines; here lists of words
                                                      with a label each (``bio=drop``)
    ``hf:glue?config=mrpc``, ``hf:name@revision``     the ``datasets`` library; also a local folder;
                                                      ``label=``, ``text=``, ``image=``, ``words=``
    ``(X, y)`` or ``load_task(X, y)``                 arrays, tensors, lists of images or texts, or
                                                      lists of words with a list of labels for each
    ``{"train": (X, y), "test": (X, y)}``             several splits
    a ``Dataset`` or ``DatasetDict`` of ``datasets``  with the options of ``hf:``
    a torch ``Dataset`` of (x, y) pairs               images, texts or tensors; map-style
    ================================================  ============================================

    Options follow ``?`` with ``&`` between them, or are given as keywords; npz, csv, jsonl and hf
    take ``kind=`` too. Where words have labels (tagging, named entities) every word is an example,
    and models read it in its sentence; the label -100 leaves a word out. uint8 arrays (N, H, W),
    (N, H, W, 1) and (N, H, W, 3) are images; other numbers are float32. Classes are numbered in
    sorted order, the same in all splits. Nothing is unpickled or executed. Images are decoded when
    they are used; one that does not decode raises ``InvalidInputError`` with its name then.

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
    name = name or "data"
    if labels is None and is_loaded(spec):
        _check_options("data sets", options, from_loaded)
        return _renamed(from_loaded(spec, name, kind, **options), classes)
    if set(options) - {"bio"}:
        raise InvalidInputError(f"options {sorted(options)} apply to tasks given by name only")
    given = spec if labels is None else (spec, labels)
    splits = given if isinstance(given, Mapping) else {"train": given}
    if kind != "regression" and all(map(_is_words, splits.values())):
        words = {split_name(str(split)): part for split, part in splits.items()}
        return words_task(name, words, kind, classes, **options)
    if options:
        raise InvalidInputError("bio= applies to words with a label each only")
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


def _is_words(part: Any) -> bool:
    pair = isinstance(part, (tuple, list)) and len(part) == 2
    return pair and is_labelled_words(*part)


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
        "csv": from_table,
        "hf": from_hub,
        "imagefolder": from_imagefolder,
        "jsonl": from_table,
        "npz": from_npz,
        "sklearn": _from_sklearn,
        "zoo": _from_zoo,
    }
    loader = loaders[choose("task source", source, loaders)]
    if kind is not None:
        options["kind"] = kind
    _check_options(f"{source}: tasks", options, loader)
    return _renamed(loader(place, name, **options), classes)


def _check_options(what: str, options: Mapping[str, Any], loader: Callable[..., Task]) -> None:
    accepted = set(inspect.signature(loader).parameters) - {"place", "name", "loaded"}
    for option in options:
        choose(f"option of {what}", option, accepted)


def _renamed(task: Task, classes: Sequence[Any] | None) -> Task:
    """The task with other names of its classes."""
    if classes is None:
        return task
    if len(classes) != task.num_classes:
        raise InvalidInputError(
            f"task {task.name!r}: {len(classes)} names for {task.num_classes} classes"
        )
    return dataclasses.replace(task, classes=tuple(str(c) for c in classes))


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
