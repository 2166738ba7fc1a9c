"""Load tasks by name or from memory, and tell of what may be a mistake, each with its cure."""

from __future__ import annotations

import dataclasses
import inspect
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.naming import a_type, checked_name
from transfer_metrics.registry import Registry, choose
from transfer_metrics.sources import zoo
from transfer_metrics.sources.example import example_bytes, is_blank
from transfer_metrics.sources.specs import parse_task, task_text, text_of
from transfer_metrics.sources.tasks.assembly import (
    in_one_order,
    is_labelled_words,
    make_task,
    words_task,
)
from transfer_metrics.sources.tasks.in_memory import as_examples, from_dataset
from transfer_metrics.sources.tasks.label_values import check_columns, check_pairs
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.library_tasks import SKLEARN, from_hub, loader_of
from transfer_metrics.sources.tasks.paths import split_name
from transfer_metrics.sources.tasks.sequences import Examples
from transfer_metrics.sources.tasks.subtasks import Cut
from transfer_metrics.sources.tasks.task import Split, Task
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
_MOST_ONE_CLASS = 0.95
"""Share of the largest class that is still taken for meant."""
_LEAST = 5
"""Classes from which on one of them per example is strange."""
_MOST_EXAMPLES, _MOST_BYTES = 100_000, 1 << 28
"""Of two splits; larger ones are not compared. Reading so much takes about a second."""
_CHANCE = 1
"""Rows of numbers that may be equal by chance, as a pair of flowers of Fisher's iris is."""


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
    uint8 arrays (N, H, W), (N, H, W, 1) and (N, H, W, 3), and tensors (N, C, H, W), are images;
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
    if source:
        kind = options.pop("kind", kind)
        options |= {} if kind is None else {"kind": kind}
        loader = TASK_SOURCES[source]
        parameters = inspect.signature(loader).parameters.values()
        if not any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
            _check_options(f"{source}: tasks", options, loader)
        whole = _renamed(loader(place, text_of(name or spec), **options), classes)
    else:
        whole = _in_memory(spec, labels, text_of(name or "data"), kind, classes, options)
    task = cut(whole)
    for text in (*_suspicions(whole), *_blanks(task), *_repeats(task)):
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
    splits = given if isinstance(given, Mapping) else {"train": given}
    missing = options.pop("missing", "skip")
    if kind != "regression" and all(map(is_labelled_words, splits.values())):
        words = {split_name(str(split)): part for split, part in splits.items()}
        return words_task(name, words, kind, classes, **options)
    if options:
        raise InvalidInputError("bio= applies to words with a label each only; leave it out")
    pairs = {s: part for s, part in splits.items() if isinstance(part, (tuple, list)) and part}
    check_columns({str(split): part[0] for split, part in pairs.items()})
    read = {split_name(str(split)): _part(part, f"task {name!r}") for split, part in splits.items()}
    given, named = in_one_order({split: part[1:] for split, part in read.items()})
    parts = {split: (examples, given[split]) for split, (examples, *_) in read.items()}
    classes = named if classes is None else classes
    return make_task(name, parts, kind, classes, missing)


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
        raise InvalidInputError(
            f"task {task.name!r}: {len(classes)} names for {task.num_classes} classes"
        )
    return dataclasses.replace(task, classes=tuple(str(c) for c in classes))


def _suspicions(task: Task) -> list[str]:
    """What may be a mistake, from names and labels alone, and what the source suspects itself.

    A class per example, one class above ``_MOST_ONE_CLASS``, classes that differ by case, space or
    Unicode form only, and classes of other splits that ``train`` lacks.
    """
    return [*task.understood.suspicions, *(_of_classes(task) if task.num_classes else ())]


def _of_classes(task: Task) -> Iterator[str]:
    counts = np.bincount(task["train"].labels, minlength=task.num_classes)
    total, present = int(counts.sum()), int((counts > 0).sum())
    if present >= _LEAST and present > total / 2:
        yield (
            f"{present} classes for {total} training examples, about one each, as of a running "
            f"number or a measurement; name another column with label=, or say kind=regression"
        )
    if counts.max() > _MOST_ONE_CLASS * total:
        largest = visible(task.classes[int(counts.argmax())])
        yield (
            f"class {largest!r} has {int(counts.max())} of {total} training examples, so always "
            f"saying that is right {counts.max() / total:.1%} of the time; balance the classes "
            f"with examples=N, or rank by a metric of classes such as transrate"
        )
    alike: dict[str, list[str]] = {}
    for name in task.classes:
        folded = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
        alike.setdefault(folded, []).append(name)
    pairs = [names for names in alike.values() if len(names) > 1]
    # Of letters and other signs the case is what is asked for.
    signs = all(len(unicodedata.normalize("NFC", c)) == 1 for c in chain(*pairs))
    forms = {unicodedata.normalize("NFC", name) for name in task.classes}
    if pairs and not (signs and len(forms) == len(task.classes)):
        examples = "; ".join(", ".join(map(_shown, names)) for names in pairs[:3])
        yield (
            f"classes differ only by case, space or Unicode form: {examples}; rename one of them "
            f"if they are the same"
        )
    for split, part in task.splits.items():
        lacking = np.setdiff1d(part.labels, np.flatnonzero(counts)) if split != "train" else ()
        if len(lacking):
            several = len(lacking) > 1
            yield (
                f"split {split!r} has {'classes' if several else 'the class'} "
                f"{_some([task.classes[code] for code in lacking])}, of which 'train' has no "
                f"example, so no model can find {'them' if several else 'it'}; add examples to "
                f"train, or take {'them' if several else 'it'} out of {split}"
            )


def _shown(name: str) -> str:
    """A name in quotes; where it cannot be told from its twin, with its unusual signs by code."""
    plain = unicodedata.normalize("NFKC", name) == name
    return repr(visible(name)) if plain else ascii(name)


def _some(names: Sequence[str]) -> str:
    told = ", ".join(_shown(name) for name in names[:3])
    return f"{told} and {len(names) - 3} more" if len(names) > 3 else told


def _blanks(task: Task) -> Iterator[str]:
    """How many texts are empty, per split; of more than ``_MOST_EXAMPLES`` on disk none is read."""
    for name, split in task.splits.items() if task.modality == "text" else ():
        if len(split) > _MOST_EXAMPLES and isinstance(split.examples, Examples):
            continue
        blank = [row for row, text in enumerate(split.examples) if is_blank(text)]
        if blank:
            yield (
                f"{len(blank)} of {len(split)} texts of split {name!r} are empty, the first at "
                f"example {blank[0]}; say corrupt=skip to go on without them"
            )


def _repeats(task: Task) -> list[str]:
    """Which splits hold examples of ``train`` as well; a sentence each.

    Examples are compared by what is stored, whatever their labels; of files, those of one size.
    Nothing is compared where there are more than ``_MOST_EXAMPLES``, where more than
    ``_MOST_BYTES`` would have to be read, or where examples are made or decoded only when they are
    used.
    """
    train = task["train"]
    told = []
    for name, split in task.splits.items():
        count = 0 if name == "train" else _common(train, split)
        if count > (_CHANCE if task.modality == "tensor" else 0):
            told.append(
                f"{count} of {len(split)} examples of split {name!r} are in 'train' as well, so "
                f"a score on {name} partly measures memory; take them out of one of the two"
            )
    return told


def _common(train: Split, split: Split) -> int:
    """How many examples of a split are in the training data."""
    both = (train.examples, split.examples)
    made = (not e.kept if isinstance(e, Examples) else isinstance(e[0], ImageFile) for e in both)
    if len(train) + len(split) > _MOST_EXAMPLES or any(made):
        return 0
    rows: list[Any] = [None, None]
    one, other = (getattr(examples, "sizes", None) for examples in both)
    if one is not None and other is not None:
        shared = np.intersect1d(one, other)
        rows = [np.flatnonzero(np.isin(sizes, shared)) for sizes in (one, other)]
        if one[rows[0]].sum() + other[rows[1]].sum() > _MOST_BYTES:
            return 0
    read = 0
    found: list[list[int]] = [[], []]
    try:
        for hashes, examples, which in zip(found, both, rows, strict=True):
            for content in _contents(examples, which):
                read += len(content)
                if read > _MOST_BYTES:
                    return 0
                hashes.append(hash(content))  # of 64 bits, with a random key
    except InvalidInputError:  # of a damaged file, which is told of when it is used
        return 0
    known = set(found[0])
    return sum(one in known for one in found[1])


def _contents(examples: Sequence[Any], rows: np.ndarray | None) -> Iterator[bytes]:
    if not isinstance(examples, Examples):
        return map(example_bytes, examples)
    return examples.each() if rows is None else map(examples.stored, rows.tolist())
