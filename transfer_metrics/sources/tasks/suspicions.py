"""What may be a mistake in a task as it was read: each a sentence that names the cure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.example import example_bytes, is_blank
from transfer_metrics.sources.tasks.sequences import Examples
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.untrusted import visible

_MOST_ONE_CLASS = 0.95
"""Share of the largest class that is still taken for meant."""
_LEAST = 5
"""Classes from which on one of them per example is strange."""
_MOST_EXAMPLES, _MOST_BYTES = 100_000, 1 << 28
"""Of two splits; larger ones are not compared. Reading so much takes about a second."""
_CHANCE = 1
"""Rows of numbers that may be equal by chance, as a pair of flowers of Fisher's iris is."""


def warn_of(task: Task, used: Task) -> None:
    """Tell what may be a mistake in a task as its source has it, and repeats in what is used."""
    for text in (*_suspicions(task), *_blanks(used), *_repeats(used)):
        warn(f"task {visible(task.name)!r}: {text}")


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
    if len(train) + len(split) > _MOST_EXAMPLES or not all(map(_is_stored, both)):
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


def _is_stored(examples: Sequence[Any]) -> bool:
    """Whether what examples contain is there, and need not be made or decoded."""
    if isinstance(examples, Examples):
        return examples.kept
    return not isinstance(examples[0], ImageFile)


def _contents(examples: Sequence[Any], rows: np.ndarray | None) -> Iterator[bytes]:
    if not isinstance(examples, Examples):
        return map(example_bytes, examples)
    return examples.each() if rows is None else map(examples.stored, rows.tolist())
