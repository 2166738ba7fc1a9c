"""What may be a mistake in labels whose kind nobody said, each with its cure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer_metrics.sources.tasks.label_values import FEW, absent, as_array, number_of, read_texts

_MOSTLY, _LEAST = 0.9, 10
"""Share and count of numbers from which on texts among them are hardly names."""


def doubts(
    labels: Mapping[str, Any], kind: str, given: Mapping[str, Any] | None = None
) -> list[str]:
    """What may be a mistake where labels, per split, were taken for those of a ``kind``.

    ``given`` are the labels before those were left out that are missing.
    """
    arrays = {split: as_array(of_split) for split, of_split in labels.items()}
    whole = {split: as_array(of_split) for split, of_split in (given or labels).items()}
    classes = _odd_classes(arrays) if kind == "classification" else []
    return [*_odd_numbers(arrays, kind), *_odd_texts(whole), *classes]


def _odd_numbers(arrays: Mapping[str, np.ndarray], kind: str) -> list[str]:
    """What may be a mistake where whole numbers are targets, or classes as ages and counts are.

    Classes that are numbered have numbers from 0 or 1 without a gap, and more than one example.
    """
    read = read_texts(arrays, None)
    plain = all(a.dtype.kind in "iuf" and a.ndim == 1 for a in read.values())
    values = np.concatenate([*read.values()]) if plain and read else np.empty(0)
    found, counts = np.unique(values, return_counts=True)
    numbered = len(found) > FEW and found[0] in (0, 1) and counts.min() > 1
    numbered = numbered and found[-1] - found[0] == len(found) - 1
    if len(found) > FEW and not numbered and kind == "classification":
        return [
            f"{len(found)} different whole numbers, {found[0]:.15g} to {found[-1]:.15g}, as labels "
            f"are taken for classes; say kind=regression if they are measured or counted, as ages "
            f"are, and kind=classification if not"
        ]
    if not plain or kind != "regression":
        return []
    written: dict[Any, Any] = {}
    for split in [split for split, array in arrays.items() if array.dtype == object]:
        for text, number in zip(arrays[split].tolist(), read[split].tolist(), strict=True):
            if (other := written.setdefault(number, text)) != text:
                return [
                    f"the labels {other!r} and {text!r} are one number to a regression; say "
                    f"kind=classification if they name classes"
                ]
    count = sum(map(len, read.values()))
    if bool((found == np.floor(found)).all()) and len(found) < count:
        return [
            f"{len(found)} different whole numbers as labels of {count} examples are taken for "
            f"targets of a regression; say kind=classification if they name classes"
        ]
    return []


def _odd_classes(labels: Mapping[str, np.ndarray]) -> list[str]:
    """What may be a mistake where some classes are none, as -1 and 255, or several, as ``a|b``."""
    read = read_texts(labels, None)
    if read and all(array.dtype.kind in "iuf" and array.ndim == 1 for array in read.values()):
        found = np.unique(np.concatenate([*read.values()])).tolist()
        for number in (-1, 255):
            others = [value for value in found if value != number]
            several = 2 - min(number, 0) <= len(others) < 255  # -1, 0 and 1 are often meant
            if number in found and several and others == [*range(len(others))]:
                return [
                    f"{number} beside 0 to {len(others) - 1} is taken for a class; leave those "
                    f"examples out if it stands for none"
                ]
    texts = (cell for array in labels.values() if array.dtype == object for cell in array.tolist())
    names = {text.strip() for text in texts if isinstance(text, str)}
    joint = sorted(name for name in names if name.startswith("[") and name.endswith("]"))[:1]
    for sign in "|;,":
        parts = {part.strip() for name in names for part in name.split(sign)}
        joined = sorted(name for name in names if sign in name)
        joint += joined[:1] if len(parts) < len(names) else []
    if not joint:
        return []
    return [
        f"labels such as {joint[0][:60]!r} look like several labels each, and every combination is "
        f"taken for a class; give each label a column of 0 and 1, such as by str.get_dummies of "
        f"pandas, and name them with label=a,b,c, or say kind=classification"
    ]


def _odd_texts(labels: Mapping[str, np.ndarray]) -> list[str]:
    """What may be a mistake where a few texts among numbers make all of them names of classes."""
    count, odd = 0, []
    for split, array in labels.items():
        is_text = array.dtype == object
        there = np.flatnonzero(~absent(array)).tolist() if is_text else []
        texts = [row for row in there if isinstance(array[row], str)]
        odd += [(split, row, array[row]) for row in texts if number_of(array[row]) is None]
        count += len(there) if is_text else len(array)
    numbers = count - len(odd)
    if not odd or numbers < max(_MOSTLY * count, _LEAST):
        return []
    split, row, _ = odd[0]
    found = list(dict.fromkeys(text for *_, text in odd))
    named = ", ".join(repr(text[:30]) for text in found[:3]) + (" …" if len(found) > 3 else "")
    return [
        f"the labels are numbers but for {named}, the first in row {row + 1} of {split}, which "
        f"makes them names of classes; leave such labels empty, or say kind=classification if "
        f"they are names"
    ]
