"""The same example in the training data and in another split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL.ImageFile import ImageFile

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import example_bytes
from transfer_metrics.sources.tasks.sequences import Examples
from transfer_metrics.sources.tasks.task import Split, Task

MOST_EXAMPLES, MOST_BYTES = 100_000, 1 << 28
"""Of two splits; larger ones are not compared. Reading so much takes about a second."""
_CHANCE = 1
"""Rows of numbers that may be equal by chance, as a pair of flowers of Fisher's iris is."""


def repeats(task: Task) -> list[str]:
    """Which splits hold examples of ``train`` as well; a sentence each.

    Examples are compared by what is stored, whatever their labels. Of files, those are read that
    have the same number of bytes as one of the other split. Nothing is compared where there are
    more than ``MOST_EXAMPLES``, where more than ``MOST_BYTES`` would have to be read, or where
    examples are made or decoded only when they are used, as those of a torch ``Dataset``.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> repeats(load_task("sklearn:digits"))
    []
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
    if len(train) + len(split) > MOST_EXAMPLES or not all(
        _is_stored(part.examples) for part in (train, split)
    ):
        return 0
    rows: tuple[Any, Any] = (None, None)
    one, other = (getattr(part.examples, "sizes", None) for part in (train, split))
    if one is not None and other is not None:
        shared = np.intersect1d(one, other)
        rows = np.flatnonzero(np.isin(one, shared)), np.flatnonzero(np.isin(other, shared))
        if one[rows[0]].sum() + other[rows[1]].sum() > MOST_BYTES:
            return 0
    read = 0
    found: list[list[int]] = [[], []]
    try:
        for hashes, part, which in zip(found, (train, split), rows, strict=True):
            for content in _contents(part.examples, which):
                read += len(content)
                if read > MOST_BYTES:
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
