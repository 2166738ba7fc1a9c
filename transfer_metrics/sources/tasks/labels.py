"""What labels are: classes, targets or several at once, which are missing, and their numbers.

``docs/labels.md`` has the rule for people. Whatever labels come from, it is decided here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from transfer_metrics.errors import InvalidInputError, about, warn
from transfer_metrics.sources.tasks.label_doubts import doubts
from transfer_metrics.sources.tasks.label_values import (
    FEW,
    absent,
    as_array,
    number_of,
    read_texts,
)
from transfer_metrics.sources.tasks.pairing import check_pairs, warn_of_columns

Kind = Literal["classification", "regression", "multilabel"]
_KINDS = get_args(Kind)
_KNOWN = "'classification', 'regression' or 'multilabel'"
IGNORED = -100
"""A number that is no class, by the convention of losses."""
_OFTEN = 10
"""Whole numbers are classes where each has so many examples on average."""
_DENSE = 0.8
"""Whole numbers are classes where such a share of those from the least to the greatest occur."""
_MOST_NAMED = 100_000
"""Classes that may be named without an example of each; every class costs memory per feature."""
_OF_SEVERAL = "MultiLabelBinarizer of scikit-learn makes zeros and ones of lists of labels"
_LONG_TAIL = 3.0
"""So many times as many examples in the largest class as in the smallest make balance matter."""


def kind_of(labels: Mapping[str, Any]) -> str:
    """What labels are, per split: of a classification, a regression, or ``"multilabel"``.

    Texts and booleans name classes. Numbers that are not all whole are targets, as are several per
    example, unless all are 0 or 1. Other whole numbers are classes; but more than ``FEW`` are
    targets if each has fewer than ``_OFTEN`` examples and less than ``_DENSE`` of the range occurs.

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
    if len(found) <= FEW:
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
    """
    lacking = {split: absent(array, texts) for split, array in arrays.items()}
    if kind == "regression":
        return lacking
    there = {split: as_array(a[~lacking[split]]) for split, a in arrays.items()}
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
    if array.ndim > 1:
        return np.zeros(len(array), bool)
    if array.dtype != object:
        return np.logical_or.reduce([array == number for number in numbers])
    return np.array([isinstance(value, int) and value in numbers for value in array], bool)


def read_labels(y: Any, kind: str | None = None, X: Any = None) -> tuple[str, np.ndarray]:
    """The kind of labels of features that are there already, and their numbers.

    Class numbers int64 (N,), or targets float64 (N,) or (N, K). Missing labels are refused, and so
    are classes spelt out unless ``kind`` says what they are, and labels of ``X`` in another order;
    ``doubts`` about classes and about columns of a data frame are warned of.
    """
    check_pairs(X, y)
    array = complete_labels(y, kind)
    kind = _said_or_decided(array, kind)
    with about("y"):
        if kind != "classification":
            numbers = _targets(array)
        else:
            numbers = _numbered(read_texts({"y": array}, kind), None)[0]["y"]
    warn_of_columns(X, numbers, kind)
    return kind, numbers


def fitted_kind(y: Any, by_type: bool = True, kind: str | None = None) -> str:
    """What a head or selector takes an array of labels for, if no ``kind`` says it.

    One number per example, of an integer type, is a class, as scikit-learn has it; ``kind_of``
    decides about all others, and not ``by_type`` about these too. What is missing, and classes
    spelt out, are refused; ``doubts`` about classes are warned of.
    """
    array = as_array(y)
    plain = array.ndim == 1 and array.dtype.kind != "f"
    array = complete_labels(array, kind or ("classification" if plain else None))
    kind = _said_or_decided(array, kind, plain and by_type)
    if kind != "classification":
        with about("y"):
            _targets(array)  # which refuses texts
    return kind


def _said_or_decided(array: np.ndarray, kind: str | None, classes: bool = False) -> str:
    """The ``kind`` if given, or what labels are, as ``classes`` if that is known, with doubts."""
    if kind not in (None, *_KINDS):
        raise InvalidInputError(f"kind {kind!r}; give {_KNOWN}")
    found = kind or ("classification" if classes else _decided({"y": array}))
    if found == "classification":
        with about("y"):
            _refuse_several(array)
        for doubt in doubts({"y": array}, found) if kind is None else ():
            warn(doubt)
    return found


def is_long_tailed(codes: np.ndarray) -> bool:
    """Whether the largest class has at least three times the examples of the smallest there is."""
    counts = np.unique(codes, return_counts=True)[1]
    return bool(counts.max() >= _LONG_TAIL * counts.min())


def complete_labels(y: Any, kind: str | None) -> np.ndarray:
    """Labels as an array; it is an error where one is missing."""
    array = as_array(y)
    lacking = unlabelled({"y": array}, kind)["y"]
    if lacking.any():
        row = int(lacking.argmax())
        number = str(array[row]) in (str(IGNORED), str(float(IGNORED)))
        told = f" ({IGNORED}, no class)" if number else ""
        cure = "; say kind='regression' if it is a target" if number else ""
        raise InvalidInputError(
            f"y has {int(lacking.sum())} missing labels, the first at row {row}{told}; drop those "
            f"rows{cure}"
        )
    return array


def _decided(arrays: Mapping[str, np.ndarray], classes: Sequence[Any] | None = None) -> Kind:
    """``kind_of`` labels, but that rows of shares that add up to 1 are classes spelt out."""
    found = kind_of(arrays)
    rows = [a for a in arrays.values() if a.ndim == 2]
    if rows and all((a >= 0).all() and np.allclose(a.sum(axis=1), 1, atol=1e-3) for a in rows):
        return "classification"  # one-hot, smoothed, or of a teacher
    if found == "multilabel":
        return "multilabel"
    if found == "regression" and all(a.ndim > 1 and _is_signed(a) for a in arrays.values()):
        raise InvalidInputError(
            "labels of several columns with -1: where it says that a label does not apply, give 0 "
            "for it (y > 0), and where it is unknown, leave the rows out; say kind=regression if "
            "they are targets"
        )
    return "classification" if classes is not None or found == "classification" else "regression"


def _is_signed(array: np.ndarray) -> bool:
    """Whether several labels per example may be written as -1 and 1, or with -1 for unknown."""
    known = array.shape[1] > 1 and array.dtype.kind in "if" and np.isin(array, (-1, 0, 1)).all()
    return bool(known and (array == -1).any())


def _refuse_several(array: np.ndarray) -> None:
    if array.ndim != 1:
        raise InvalidInputError(
            f"labels of shape {array.shape}; give one class per example (labels.argmax(1) "
            f"where one of each row is 1, or rows are probabilities), kind='multilabel' for "
            f"several labels per example, or kind='regression' for several targets"
        )


def encode(
    labels: Mapping[str, Any],
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
) -> tuple[Kind, dict[str, np.ndarray], tuple[str, ...]]:
    """The kind, per split int64 (N,) or float64 (N,) / (N, K), and the names of the classes.

    Classes are numbered in sorted order, the same in every split. ``kind_of`` says what the labels
    are, unless ``kind`` or the names of the ``classes`` do, where labels are already numbered or
    are these names. Zeros and ones (N, K) with one 1 in every row may be classes spelt out, and
    need ``kind``; ``classes`` name the K labels.
    """
    if kind not in (None, *_KINDS):
        raise InvalidInputError(f"kind {kind!r}; give {_KNOWN}")
    arrays = {split: as_array(values) for split, values in labels.items()}
    kind = kind or _decided(arrays, classes)
    if kind == "multilabel":
        return kind, *_several(arrays, classes)
    named = classes is not None and kind == "classification"
    if named:  # by texts that name classes, which stay so: as numbers they would be their order
        titles, flat = {*map(_text, classes or ())}, [a for a in arrays.values() if a.ndim == 1]
        named = all(
            a.dtype == object and all(isinstance(v, str) and v in titles for v in a) for a in flat
        )
    if kind == "regression":
        targets = {}
        for split, array in arrays.items():
            with about(f"split {split!r}"):
                targets[split] = _targets(array)
        if len({target.shape[1:] for target in targets.values()}) > 1:
            told = ", ".join(f"{split} {target.shape}" for split, target in targets.items())
            raise InvalidInputError(
                f"the splits have other numbers of targets: {told}; every split needs the same"
            )
        if "train" in targets and (np.ptp(targets["train"], axis=0) == 0).any():
            raise InvalidInputError(
                "split 'train': all labels are equal; there is nothing to predict"
            )
        return kind, targets, ()
    arrays = arrays if named else read_texts(arrays, kind)
    for split, array in arrays.items():
        with about(f"split {split!r}"):
            _refuse_several(array)
    numbered, names = _numbered(arrays, classes)
    present = np.unique(numbered["train"]).tolist() if "train" in numbered else []
    if "train" in numbered and len(present) < 2:
        only = names[present[0]] if len(present) else "none"
        raise InvalidInputError(
            f"all training examples are of one class ({only!r}); at least two classes are needed"
        )
    return kind, numbered, names


def _numbered(
    arrays: Mapping[str, np.ndarray], classes: Sequence[Any] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    types = {array.dtype.kind for array in arrays.values()}
    common = np.result_type(*arrays.values()).kind if arrays else "O"
    # Numbers that share a type without being rounded need no look-up.
    if classes is None and common in "biuf" and (common != "f" or "f" in types):
        found = np.unique(np.concatenate([*arrays.values()]))
        codes = {s: np.searchsorted(found, a).astype(np.int64) for s, a in arrays.items()}
        return codes, tuple(map(_text, found.tolist()))
    values = {split: [_whole(v) for v in array.tolist()] for split, array in arrays.items()}
    try:
        different = set().union(*values.values())
    except TypeError as error:
        raise InvalidInputError(
            f"labels must be numbers, strings or other hashable values ({error}); {_OF_SEVERAL}"
        ) from error
    count = sum(map(len, values.values()))
    numbers, names = _numbering(different, count, classes)
    return {s: np.array([numbers[v] for v in vs], np.int64) for s, vs in values.items()}, names


def _numbering(
    found: set[Any], count: int, classes: Sequence[Any] | None
) -> tuple[dict[Any, int], tuple[str, ...]]:
    if classes is None:
        ordered = sorted(found, key=_order)
        named: dict[str, Any] = {}
        for value in ordered:
            other = named.setdefault(_text(value), value)
            if other is not value:
                types = sorted({type(other).__name__, type(value).__name__})
                raise InvalidInputError(
                    f"labels {other!r} and {value!r} would be two classes of one name, "
                    f"since labels are of {'different types ' * (len(types) > 1)}"
                    f"{' and '.join(types)}; use one type, such as str(label) for each"
                )
        return {v: i for i, v in enumerate(ordered)}, tuple(named)
    names = tuple(_text(c) for c in classes)
    if len(names) > max(_MOST_NAMED, count):
        raise InvalidInputError(
            f"{len(names)} classes are named, more than there are examples; name those that occur"
        )
    if all(isinstance(v, int) and 0 <= v < len(names) for v in found):
        return {v: int(v) for v in found}, names
    if len(set(names)) == len(names) and {_text(v) for v in found} <= set(names):
        numbers = {title: number for number, title in enumerate(names)}
        return {v: numbers[_text(v)] for v in found}, names
    known = set(names)
    strange = sorted((v for v in found if _text(v) not in known), key=_order)[:3]
    raise InvalidInputError(
        f"labels {strange} are neither numbers of the {len(names)} classes nor their names"
    )


def _several(
    arrays: Mapping[str, np.ndarray], classes: Sequence[Any] | None
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Which of K labels apply, per split (N, K) float64, and the names of the labels."""
    for split, array in arrays.items():
        fits = array.ndim == 2 and array.dtype.kind in "biuf"
        if not fits or not bool(((array == 0) | (array == 1)).all()):
            raise InvalidInputError(
                f"split {split!r}: several labels per example are zeros and ones "
                f"(N, K), not {array.dtype} {array.shape}; {_OF_SEVERAL}"
            )
    widths = {array.shape[1] for array in arrays.values()}
    if len(widths) > 1 or (classes is not None and widths != {len(classes)}):
        named = "" if classes is None else f", and {len(classes)} names"
        raise InvalidInputError(
            f"{' and '.join(map(str, sorted(widths)))} labels per example{named}; "
            f"every split needs the same labels"
        )
    count = widths.pop() if widths else 0
    names = tuple(map(_text, range(count) if classes is None else classes))
    if "train" in arrays and (np.ptp(arrays["train"].astype(float), axis=0) == 0).all():
        raise InvalidInputError(
            "split 'train': every label applies to all examples or to none; there "
            "is nothing to predict"
        )
    return {split: array.astype(np.float64) for split, array in arrays.items()}, names


def _targets(array: np.ndarray) -> np.ndarray:
    if array.dtype == object:
        numbers = [number_of(v) if isinstance(v, str) else v for v in array]
        for row, number in enumerate(numbers):
            if not isinstance(number, (int, float)):
                raise InvalidInputError(
                    f"regression needs numbers as labels, and example {row} has "
                    f"{array[row]!r}; leave it out, or say kind=classification"
                )
        array = np.array(numbers, dtype=np.float64)
    targets = array.astype(np.float64)
    if targets.ndim not in (1, 2) or not np.isfinite(targets).all():
        raise InvalidInputError(
            f"targets must be finite numbers of shape (N,) or (N, K), not "
            f"{targets.shape}{'' if np.isfinite(targets).all() else ' with infinite values'}"
        )
    return targets


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _order(value: Any) -> tuple[str, Any]:
    if isinstance(value, (bool, int, float)):
        return "", value
    return type(value).__name__, value if isinstance(value, (str, bytes)) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(_whole(value))
