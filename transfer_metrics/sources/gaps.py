"""Examples that cannot be used: without a label, or damaged. An error, or left out and counted."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.base import Kind, Split, Task
from transfer_metrics.sources.examples import Chosen
from transfer_metrics.sources.labels import IGNORED, unlabelled

POLICIES = ("error", "skip")


def check_policy(option: str, value: Any) -> str:
    """``"error"`` or ``"skip"``.

    Raises:
        InvalidInputError: it is neither.

    >>> check_policy("missing", "skip")
    'skip'
    """
    if value not in POLICIES:
        raise InvalidInputError(
            f"{option}={value!r}; say {option}=error to be told of the first one, or "
            f"{option}=skip to leave them out"
        )
    return str(value)


def without_unlabelled(
    name: str,
    parts: Mapping[str, tuple[Sequence[Any], Any]],
    kind: Kind | None,
    classes: Sequence[Any] | None,
    missing: str,
) -> dict[str, tuple[Sequence[Any], Any]]:
    """Leave out the examples without a label, where that is asked for.

    Splits other than ``train`` in which no example has a label, as of a contest, are left out in
    any case.

    Args:
        name: the task.
        parts: per split, the examples and as many raw labels.
        kind: as for ``labels.encode``.
        classes: as for ``labels.encode``.
        missing: ``"error"`` or ``"skip"``.

    Returns:
        The same parts, less what is left out.

    Raises:
        InvalidInputError: a label is missing and ``missing`` is ``"error"``.

    Warns:
        TransferMetricsWarning: something was left out; says how many.
    """
    check_policy("missing", missing)
    kept = {}
    for split, (examples, labels) in parts.items():
        lacking = unlabelled(labels, kind, classes)
        count = int(lacking.sum())
        where = f"task {name!r}, split {split!r}"
        if count == len(lacking) > 0 and split != "train":
            _warn(f"task {name!r}: left out split {split!r}, which has no labels")
            continue
        if count and missing == "error":
            raise InvalidInputError(
                f"{where}: {count} labels are missing (NaN, none, {IGNORED}, or -1 of named "
                f"classes), the first at example {int(lacking.argmax())}; label them, or leave "
                f"them out with missing=skip"
            )
        if count:
            _warn(f"{where}: left out {count} of {len(lacking)} examples, which have no label")
            rows = np.flatnonzero(~lacking)
            examples, labels = some(examples, rows), _labels_at(labels, rows)
        kept[split] = (examples, labels)
    return kept


def some(examples: Sequence[Any], rows: np.ndarray) -> Sequence[Any]:
    """The examples at some positions, decoded no sooner than before."""
    own = getattr(examples, "rows", None)
    return Chosen(examples, rows) if own is None else own(rows)


def without_damaged(task: Task) -> Task:
    """Leave out the images and sounds that cannot be read, by reading every one once.

    What is left is fixed when the task is loaded, so that fingerprints, shards and folds are those
    of the good examples alone, whatever reads them later. Texts and numbers are as they are.

    Raises:
        InvalidInputError: a split has none left, or the training data one class.

    Warns:
        TransferMetricsWarning: something was left out; says how many.

    Cost: decodes every example, some milliseconds for a photograph.
    """
    if task.modality not in ("image", "audio"):
        return task
    splits = {name: _readable(task, name, split) for name, split in task.splits.items()}
    lost = {name: len(split) - len(splits[name]) for name, split in task.splits.items()}
    told = [(f"{n} examples of {name}", "they cannot be read") for name, n in lost.items() if n]
    return dataclasses.replace(task, splits=splits, understood=task.understood.without(*told))


def _readable(task: Task, name: str, split: Split) -> Split:
    good, first = [], None
    for position in range(len(split)):
        try:
            split.examples[position]
        except InvalidInputError as error:
            first = first or error
        else:
            good.append(position)
    if first is None:
        return split
    where = f"task {task.name!r}, split {name!r}"
    if not good:
        raise InvalidInputError(f"{where}: none of {len(split)} examples can be read: {first}")
    _warn(
        f"{where}: left out {len(split) - len(good)} of {len(split)} examples, which cannot be "
        f"read; the first: {first}"
    )
    rows = np.array(good)
    if name == "train" and task.num_classes and len(np.unique(split.labels[rows])) < 2:
        raise InvalidInputError(
            f"{where}: the examples that can be read are all of one class; replace the damaged ones"
        )
    return split.rows(rows)


def _labels_at(labels: Any, rows: np.ndarray) -> Any:
    """Labels at some positions; a list has its type judged anew, without what was missing."""
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    if isinstance(labels, np.ndarray) and labels.dtype.kind != "O":
        return labels[rows]
    cells = labels.tolist() if isinstance(labels, np.ndarray) else labels
    return [cells[row] for row in rows]


def _warn(text: str) -> None:
    warnings.warn(text, TransferMetricsWarning, stacklevel=3)
