"""What may be a mistake in a task as it was read: each a sentence that names the cure."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.sources.tasks.repeats import repeats
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import visible

MOST_ONE_CLASS = 0.95
"""Share of the largest class that is still taken for meant."""
_LEAST = 5
"""Classes from which on one of them per example is strange."""


def warn_of(task: Task, used: Task) -> None:
    """Tell what may be a mistake, once, where a task is loaded.

    Args:
        task: as its source has it.
        used: what is used of it.

    Warns:
        TransferMetricsWarning: one for each of ``suspicions`` and ``repeats``.
    """
    for text in (*suspicions(task), *repeats(used)):
        warnings.warn(f"task {visible(task.name)!r}: {text}", TransferMetricsWarning, stacklevel=3)


def suspicions(task: Task) -> list[str]:
    """What may be a mistake, from names and labels alone, and what the source suspects itself.

    A class per example, one class above ``MOST_ONE_CLASS``, classes that differ by case, space or
    Unicode form only, and classes of other splits that ``train`` lacks.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> suspicions(load_task("sklearn:iris"))
    []

    Cost: that of counting the labels.
    """
    told = list(task.understood.suspicions)
    if task.num_classes:
        told += _of_classes(task)
    return told


def _of_classes(task: Task) -> Iterator[str]:
    counts = np.bincount(task["train"].labels, minlength=task.num_classes)
    total, present = int(counts.sum()), int((counts > 0).sum())
    if present >= _LEAST and present > total / 2:
        yield (
            f"{present} classes for {total} training examples, about one each, as of a running "
            f"number or a measurement; name another column with label=, or say kind=regression"
        )
    if counts.max() > MOST_ONE_CLASS * total:
        largest = visible(task.classes[int(counts.argmax())])
        yield (
            f"class {largest!r} has {int(counts.max())} of {total} training examples, so always "
            f"saying that is right {counts.max() / total:.1%} of the time; balance the classes "
            f"with examples=N, or rank by a metric of classes such as transrate"
        )
    alike: dict[str, list[str]] = {}
    for name in task.classes:
        alike.setdefault(_folded(name), []).append(name)
    pairs = [names for names in alike.values() if len(names) > 1]
    # Of letters and other signs the case is what is asked for.
    signs = all(len(unicodedata.normalize("NFC", c)) == 1 for c in chain(*pairs))
    if pairs and not (signs and len(set(task.classes)) == len(task.classes)):
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


def _folded(name: str) -> str:
    """A name without what differs by habit of typing."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _shown(name: str) -> str:
    """A name in quotes; where it cannot be told from its twin, with its unusual signs by code."""
    plain = unicodedata.normalize("NFKC", name) == name
    return repr(visible(name)) if plain else ascii(name)


def _some(names: Sequence[str]) -> str:
    told = ", ".join(_shown(name) for name in names[:3])
    return f"{told} and {len(names) - 3} more" if len(names) > 3 else told
