"""What labels are: of classes, targets or several at once, and which of them are missing.

``docs/labels.md`` has the rule for people. Whatever labels come from, it is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from transfer_metrics.sources.tasks.label_values import absent, as_array, number_of, read_texts

Kind = Literal["classification", "regression", "multilabel"]
IGNORED = -100
"""A number that is no class, by the convention of losses."""
_FEW = 20
"""So many whole numbers are classes in any case."""
_OFTEN = 10
"""Whole numbers are classes where each has so many examples on average."""
_DENSE = 0.8
"""Whole numbers are classes where such a share of those from the least to the greatest occur."""
_MOSTLY = 0.9
"""Share of numbers from which on texts among them are hardly names."""


def kind_of(labels: Mapping[str, Any]) -> str:
    """What labels are, per split: of a classification, a regression, or ``"multilabel"``.

    Texts and booleans name classes. Numbers of which some are not whole are targets, and so are
    several numbers per example, unless all are 0 or 1, which say which of several labels apply.
    Whole numbers, whether stored as integers, floats or texts, are classes; but more than ``_FEW``
    different ones are targets if each has fewer than ``_OFTEN`` examples on average and less than
    the share ``_DENSE`` of the numbers between the least and the greatest occur, as it is with
    prices and counts.

    >>> kind_of({"": [0.0, 1.0]}), kind_of({"": [0.5, 1.0]}), kind_of({"": [[0, 1], [1, 1]]})
    ('classification', 'regression', 'multilabel')
    """
    arrays = read_texts({split: as_array(values) for split, values in labels.items()}, None)
    if any(array.dtype.kind not in "iuf" for array in arrays.values()):
        several = bool(arrays) and all(a.dtype == bool and a.ndim > 1 for a in arrays.values())
        return "multilabel" if several else "classification"
    if any(array.ndim > 1 for array in arrays.values()):
        binary = all(bool(((array == 0) | (array == 1)).all()) for array in arrays.values())
        return "multilabel" if binary else "regression"
    values = np.concatenate([*arrays.values()]) if arrays else np.empty(0)
    if not bool((np.isfinite(values) & (values == np.floor(values))).all()):
        return "regression"
    found = np.unique(values)
    if len(found) <= _FEW:
        return "classification"
    often = len(values) >= _OFTEN * len(found)
    dense = len(found) >= _DENSE * (float(found[-1]) - float(found[0]) + 1)
    return "classification" if often or dense else "regression"


def unlabelled(
    arrays: Mapping[str, np.ndarray],
    kind: str | None,
    classes: Sequence[Any] | None = None,
    texts: bool = True,
) -> dict[str, np.ndarray]:
    """Which labels are missing: none, NaN, texts as ``NA``; of classes -100, and -1 of named ones.

    Without ``texts`` only the empty one of them is missing.

    >>> unlabelled({"": as_array([0, -100, 1])}, None)[""].tolist()
    [False, True, False]
    """
    lacking = {split: absent(array, texts) for split, array in arrays.items()}
    if kind == "regression":
        return lacking
    there = {split: as_array(array[~lacking[split]]) for split, array in arrays.items()}
    read = read_texts(there, "classification")
    numbers = (IGNORED,) if classes is None else (IGNORED, -1)
    no_class = {split: _among(array, numbers) for split, array in read.items()}
    if kind is None and classes is None and any(gone.any() for gone in no_class.values()):
        others = {split: as_array(array[~no_class[split]]) for split, array in there.items()}
        if kind_of(others) == "regression":
            return lacking
    for split, gone in no_class.items():
        lacking[split][np.flatnonzero(~lacking[split])[gone]] = True
    return lacking


def _among(array: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    if array.ndim > 1 or array.dtype == bool:
        return np.zeros(len(array), bool)
    if array.dtype != object:
        return np.isin(array, numbers)
    found = (isinstance(v, int) and not isinstance(v, bool) and v in numbers for v in array)
    return np.fromiter(found, bool, len(array))


def doubts(labels: Mapping[str, Any]) -> list[str]:
    """What may be a mistake where ``kind_of`` found targets, each with its cure."""
    arrays = {split: as_array(values) for split, values in labels.items()}
    read = read_texts(arrays, None)
    if kind_of(read) != "regression" or any(array.ndim > 1 for array in read.values()):
        return []
    written: dict[Any, Any] = {}
    for split, array in arrays.items():
        if array.dtype == object:
            for text, number in zip(array.tolist(), read[split].tolist(), strict=True):
                if written.setdefault(number, text) != text:
                    return [
                        f"the labels {written[number]!r} and {text!r} are one number to a "
                        f"regression; say kind=classification if they name classes"
                    ]
    values = np.concatenate([*read.values()])
    count = len(np.unique(values))
    if bool((values == np.floor(values)).all()) and count < len(values):
        return [
            f"{count} different whole numbers as labels of {len(values)} examples are taken for "
            f"targets of a regression; say kind=classification if they name classes"
        ]
    return []


def odd_texts(labels: Mapping[str, Any]) -> list[str]:
    """What may be a mistake where a few texts among numbers make all of them names of classes."""
    numbers, odd = 0, []
    for split, values in labels.items():
        array = as_array(values)
        if array.dtype != object:
            numbers += len(array)
            continue
        lacking = absent(array)
        for row in np.flatnonzero(~lacking).tolist():
            if isinstance(array[row], str) and number_of(array[row]) is None:
                odd.append((split, row, array[row]))
            else:
                numbers += 1
    if not odd or numbers < _MOSTLY * (numbers + len(odd)) or numbers < _OFTEN:
        return []
    split, row, _ = odd[0]
    texts = list(dict.fromkeys(text for *_, text in odd))
    named = ", ".join(repr(text[:30]) for text in texts[:3]) + (" …" if len(texts) > 3 else "")
    return [
        f"the labels are numbers but for {named}, the first in row {row + 1} of {split}, which "
        f"makes them names of classes; leave such labels empty, or say kind=classification if "
        f"they are names"
    ]
