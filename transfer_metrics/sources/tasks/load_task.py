"""Load tasks by name or from memory, and tell of what may be a mistake, each with its cure."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transfer_metrics.errors import InvalidInputError, about, warn
from transfer_metrics.naming import a_type, checked_name
from transfer_metrics.registry import Registry, choose
from transfer_metrics.sources import zoo
from transfer_metrics.sources.specs import parse_task, task_text, text_of
from transfer_metrics.sources.tasks.assembly import (
    in_one_order,
    is_labelled_words,
    make_task,
    words_task,
)
from transfer_metrics.sources.tasks.in_memory import as_examples, from_dataset
from transfer_metrics.sources.tasks.label_values import number_of
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.library_tasks import SKLEARN, from_hub, loader_of
from transfer_metrics.sources.tasks.pairing import check_pairs, counting
from transfer_metrics.sources.tasks.paths import usual_splits
from transfer_metrics.sources.tasks.sequences import Rows
from transfer_metrics.sources.tasks.subtasks import Cut
from transfer_metrics.sources.tasks.suspicions import of_examples, suspicions
from transfer_metrics.sources.tasks.task import Task, Understood
from transfer_metrics.untrusted import visible

TASK_SOURCES: Registry[Callable[..., Task]] = Registry(
    "task source",
    {
        "csv": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "audiofolder": "transfer_metrics.sources.tasks.example_files:from_audiofolder",
        "hf": "transfer_metrics.sources.tasks.library_tasks:from_hub",
        "imagefolder": "transfer_metrics.sources.tasks.example_files:from_imagefolder",
        "jsonl": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "npz": "transfer_metrics.sources.tasks.array_files:from_npz",
        "parquet": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "sklearn": "transfer_metrics.sources.tasks.library_tasks:from_sklearn",
        "tar": "transfer_metrics.sources.tasks.example_files:from_tar",
        "torch": "transfer_metrics.sources.tasks.array_files:from_torch",
        "torchvision": "transfer_metrics.sources.tasks.library_tasks:from_torchvision",
        "tsv": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "zoo": "transfer_metrics.sources.tasks.array_files:from_zoo",
    },
    group="transfer_metrics.tasks",
)
"""Functions ``(place, name, **options) -> Task``; what stands after ``?`` becomes the options."""
_OF_EVERY_TASK = {field.name for field in dataclasses.fields(Cut)}


def load_task(
    spec: Any,
    labels: Any = None,
    *,
    name: str | None = None,
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
    **options: Any,
) -> Task:
    """Load a labelled data set.

    ================================================  ============================================
    ``photos/``, ``table.csv?label=stars``            a folder or file that is there: the source is
                                                      found by what is in it, or by the ending
    ``sklearn:digits``                                also iris, wine, breast_cancer, diabetes; a
                                                      fixed stratified split, 75 % train, 25 % test
    ``zoo:glyphs``                                    bundled: rendered characters, with ``ood``
    ``imagefolder:photos/``                           a folder per class, or per split and class
    ``audiofolder:tones/``                            the same of WAV files
    ``csv:reviews.csv?label=stars&text=review``       text, pairs (``text=a,b``), numbers
                                                      (``features=a,b``), or paths to images
                                                      (``image=a``, ``root=``); ``split=column``
    ``jsonl:ner.jsonl?words=tokens&label=ner_tags``   the same from JSON lines; here lists of words
                                                      with a label each (``bio=drop``)
    ``parquet:data/``                                 the same, and images inside, in one or more
                                                      files of any size; needs ``pyarrow``
    ``tar:shards/train-*.tar?label=key``              images or texts with ``.cls`` or ``.json``, as
                                                      WebDataset writes them, of any size
    ``npz:data.npz``, ``torch:data.pt``               ``X``, ``y``, or ``x_<split>``, ``y_<split>``
    ``torchvision:CIFAR10?root=data``                 a data set of torchvision that is on the disk
    ``hf:glue?config=mrpc``, ``hf:name@revision``     the ``datasets`` library; also a local folder;
                                                      ``label=``, ``text=``, ``image=``, ``words=``
    ``(X, y)`` or ``load_task(X, y)``                 arrays, lists of images, texts or sounds, or
                                                      words with a list of labels for each
    ``{"train": (X, y), "test": (X, y)}``             several splits
    a ``Dataset`` or ``DatasetDict`` of ``datasets``  with the options of ``hf:``
    a torch ``Dataset`` of (x, y) pairs               images, texts or tensors; map-style
    an ``IterableDataset`` of either                  with ``first=N``: so many are read into memory
    ================================================  ============================================

    Options follow ``?`` with ``&`` between them, or are given as keywords. Every task takes

    ``examples=N``      keep N training examples, as many of every class; see ``subsample``
    ``test_size=0.2``   hold out a share of the training examples as ``test``, by class
    ``protocol=vtab-1k``  800 random training and 200 random validation examples; see ``vtab_1k``
    ``seed=S``          of these choices, 0 by default
    ``corrupt=skip``    read every example once and leave out images and sounds that do not
                        decode, and empty texts, with a warning that counts them; by default
                        the first one used is an error, and empty texts are counted

    and all but sklearn and zoo take ``kind=``. Examples whose label is missing (empty, none, NaN,
    ``NA`` and the like, -100, or -1 where classes have names) are left out with a warning that
    counts them; ``missing=error`` refuses them, and ``missing=keep`` takes texts such as ``None``
    for classes. Where words have labels (tagging, named entities)
    every word is an example, and models read it in its sentence; the label -100 leaves a word out.
    uint8 arrays and tensors (N, H, W), (N, H, W, C) and (N, C, H, W) of 1 or 3 channels are images;
    other numbers are float32. Classes are numbered in sorted order, the same in all splits. Nothing
    is unpickled or executed. Images are decoded when they are used.

    Args:
        spec: one of the above, or a ``Task``.
        labels: labels of the examples in ``spec``.
        name: what tables call the task, instead of its specification or ``data``.
        kind: ``"classification"`` or ``"regression"``. By default whole numbers, texts and booleans
            are classes and other numbers targets; ``labels.kind_of`` has the rule.
        classes: names of the classes, in the order of their numbers.
        **options: options of the source, and those above.

    Raises:
        InvalidInputError: the data or the name cannot be used; the message says where and why.
        UnknownNameError: the source, the data set or an option has no such name.
        UnsupportedTaskError: a stream without ``first=``.
        MissingDependencyError: an optional package is needed.

    Warns:
        TransferMetricsWarning: examples were left out, or a class has fewer than its equal share;
            says how many. Something looks like a mistake; says what to do.

    >>> task = load_task("sklearn:iris")
    >>> len(task["train"]), len(task["test"]), task.classes
    (112, 38, ('setosa', 'versicolor', 'virginica'))
    """
    source = place = ""
    if name is not None:
        name = checked_name(name, "a task")
    spec = os.fspath(spec) if isinstance(spec, os.PathLike) else spec
    if isinstance(spec, str):
        if labels is not None:
            raise InvalidInputError(f"task {spec!r} has labels of its own; leave labels out")
        spec = task_text(spec)
        source, place, written = parse_task(spec)
        options = {**written, **options}
    cut = Cut.of({option: options.pop(option) for option in _OF_EVERY_TASK & set(options)})
    if isinstance(spec, Task):
        _check_options("loaded tasks", options)
        return cut(spec if name is None else dataclasses.replace(spec, name=name))
    title = text_of(name or (spec if source else "data"))
    with about(f"task {title!r}"):
        if source:
            kind = options.pop("kind", kind)
            options |= {} if kind is None else {"kind": kind}
            loader = TASK_SOURCES[source]
            parameters = inspect.signature(loader).parameters.values()
            if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
                _check_options(f"{source}: tasks", options, loader)
            whole = _renamed(loader(place, title, **options), classes)
        else:
            whole = _in_memory(spec, labels, title, kind, classes, options)
    task = cut(whole)
    for text in (*suspicions(whole), *of_examples(task)):
        warn(f"task {visible(whole.name)!r}: {text}")
    return task


def list_tasks() -> list[str]:
    """Names of the tasks that come with the package or with scikit-learn.

    >>> list_tasks()[-1]
    'zoo:glyphs'
    """
    return [f"sklearn:{name}" for name in SKLEARN] + [f"zoo:{name}" for name in zoo.names("tasks")]


def _in_memory(
    spec: Any,
    labels: Any,
    name: str,
    kind: Kind | None,
    classes: Sequence[Any] | None,
    options: dict[str, Any],
) -> Task:
    loader = loader_of(spec) if labels is None else None
    if loader is not None:
        _check_options("data sets", options, loader, from_hub, without=("config",))
        return _renamed(loader(spec, name, kind, **options), classes)
    if set(options) - {"bio", "missing"}:
        raise InvalidInputError(
            f"options {', '.join(sorted(options))} apply to tasks given by name only; leave them "
            f"out"
        )
    given = spec if labels is None else (spec, labels)
    parts: Mapping[Any, Any] = given if isinstance(given, Mapping) else {"train": given}
    usual = usual_splits({str(split): str(split) for split in parts})
    splits = {usual[str(split)]: part for split, part in parts.items()}
    if "train" not in splits:
        x, y, *_ = (*parts, "X", "y")
        raise InvalidInputError(
            f"there is no split 'train', but {', '.join(map(repr, parts)) or 'nothing'}; "
            f"give {{'train': (X, y)}}, or the examples and labels apart, load_task(d[{x!r}], "
            f"d[{y!r}])"
        )
    missing = options.pop("missing", "skip")
    if kind != "regression" and all(map(is_labelled_words, splits.values())):
        return words_task(name, splits, kind, classes, **options)
    if options:
        raise InvalidInputError("bio= applies to words with a label each only; leave it out")
    pairs = {s: part for s, part in splits.items() if isinstance(part, (tuple, list)) and part}
    for place in (0, 1):
        _check_columns({split: part[place] for split, part in pairs.items() if len(part) == 2})
    read = {split: _part(part, f"task {name!r}") for split, part in splits.items()}
    labels_of, named = in_one_order({split: part[1:] for split, part in read.items()})
    found = {split: (examples, labels_of[split]) for split, (examples, *_) in read.items()}
    classes = named if classes is None else classes
    understood = _columns_of(pairs["train"][0], found["train"][0]) if "train" in pairs else None
    return make_task(name, found, kind, classes, missing, understood)


def _check_columns(frames: Mapping[str, Any]) -> None:
    """Refuse data frames of several splits whose columns have other names or another order."""
    named = {
        split: [*x.columns] for split, x in frames.items() if hasattr(x, "iloc") and x.ndim == 2
    }
    for split, columns in named.items():
        first, wanted = next(iter(named.items()))
        if columns != wanted:
            place = next(
                (i for i, c in enumerate(columns) if c not in wanted[i : i + 1]), len(columns)
            )
            here, there = (repr((c[place : place + 1] or ["none"])[0]) for c in (columns, wanted))
            raise InvalidInputError(
                f"splits {first!r} and {split!r} have other columns, or another order: column "
                f"{place} is {there} in {first!r} and {here} in {split!r}; give both the same, "
                f"such as by {split}[{first}.columns]"
            )


def _columns_of(frame: Any, examples: Sequence[Any]) -> Understood | None:
    """What the columns of a data frame of numbers are, and what may be a mistake in them."""
    if not (isinstance(examples, Rows) and hasattr(frame, "iloc") and frame.ndim == 2):
        return None
    columns = tuple(map(str, frame.columns))
    return Understood(inputs=columns, suspicions=tuple(counting(examples.values, columns)))


def _part(part: Any, where: str) -> tuple[Sequence[Any], Any, Sequence[Any] | None]:
    if isinstance(part, (tuple, list)) and len(part) == 2:
        examples, labels = part
        if not hasattr(labels, "__len__"):
            raise InvalidInputError(f"{where}: labels are {a_type(labels)}; give one per example")
        if isinstance(labels, str):
            raise InvalidInputError(
                f"{where}: labels are the text {visible(labels)!r}; give the labels themselves, "
                f"such as load_task(frame.drop(columns={labels!r}), frame[{labels!r}])"
            )
        check_pairs(examples, labels)
        return as_examples(examples, where), labels, None
    if isinstance(part, (tuple, list)):
        raise InvalidInputError(f"{where}: give (examples, labels), not {len(part)} items")
    return from_dataset(part, where)


def _check_options(
    what: str,
    options: Mapping[str, Any],
    *loaders: Callable[..., Task],
    without: Sequence[str] = (),
) -> None:
    accepted = _OF_EVERY_TASK.union(*(inspect.signature(loader).parameters for loader in loaders))
    accepted -= {"place", "name", "loaded", "options", *without}
    for option in options:
        choose(f"option of {what}", option, accepted)


def _renamed(task: Task, classes: Sequence[Any] | None) -> Task:
    """The task with other names of its classes."""
    if classes is None:
        return task
    if len(classes) != task.num_classes:
        raise InvalidInputError(f"{len(classes)} names for {task.num_classes} classes")
    numbers = [number_of(title) for title in task.classes]
    if task.named and None not in numbers and numbers != sorted(map(float, task.classes)):
        told = zip(task.classes[:3], classes[:3], strict=True)
        warn(
            f"task {visible(task.name)!r}: classes= names the folders in the order of their own "
            f"names as texts, {', '.join(f'{folder!r} {title!r}' for folder, title in told)} …; "
            f"correct the names if that is not meant"
        )
    return dataclasses.replace(task, classes=tuple(str(c) for c in classes))
