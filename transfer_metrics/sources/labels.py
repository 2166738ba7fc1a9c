"""Labels of any kind to class numbers or targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.base import Kind

MOST_NAMED = 100_000
"""Classes that may be named without an example of each; every class costs memory per feature."""
IGNORED = -100
"""A number that is no class, by the convention of losses."""
_FEW = 20


def encode(
    name: str,
    labels: Mapping[str, Any],
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
) -> tuple[Kind, dict[str, np.ndarray], tuple[str, ...]]:
    """Number the classes in sorted order, the same in every split.

    Floats are targets of a regression unless all are whole numbers with at most
    ``max(20, sqrt(N))`` different values; any other type names classes. ``kind`` decides instead
    where it is given.

    Args:
        name: the task, for messages.
        labels: per split, N labels of any hashable type, or (N, K) numbers for regression.
        kind: ``"classification"`` or ``"regression"``.
        classes: names of the classes, where labels are already numbered or are these names.

    Returns:
        The kind, per split int64 (N,) or float64 (N,) / (N, K), and the names of the classes.

    Raises:
        InvalidInputError: all are equal, or they do not fit the kind.

    >>> encode("pets", {"train": ["dog", "cat", "dog"]})
    ('classification', {'train': array([1, 0, 1])}, ('cat', 'dog'))
    """
    arrays = {split: _as_array(values) for split, values in labels.items()}
    if kind not in (None, "classification", "regression"):
        raise InvalidInputError(
            f"task {name!r}: kind {kind!r}; give 'classification' or 'regression'"
        )
    if kind is None:
        kind = "regression" if _continuous(arrays) and classes is None else "classification"
    if kind == "regression":
        return kind, {s: _targets(name, s, a) for s, a in arrays.items()}, ()
    for split, array in arrays.items():
        if array.ndim != 1:
            raise InvalidInputError(
                f"task {name!r}, split {split!r}: labels of shape {array.shape}; give one class "
                f"per example, or kind='regression' for several targets"
            )
    values = {split: array.tolist() for split, array in arrays.items()}
    numbers, names = _numbering(name, values, classes)
    numbered = {s: np.array([numbers[v] for v in vs], np.int64) for s, vs in values.items()}
    present = {split: np.unique(a) for split, a in numbered.items()}
    if "train" in present and len(present["train"]) < 2:
        only = names[present["train"][0]] if len(present["train"]) else "none"
        raise InvalidInputError(
            f"task {name!r}: all training examples are of one class ({only!r}); at least two "
            f"classes are needed"
        )
    return kind, numbered, names


def unlabelled(labels: Any, kind: Kind | None, classes: Sequence[Any] | None) -> np.ndarray:
    """Which labels are missing: none, empty, NaN; of classes -100, and -1 where they have names.

    >>> unlabelled([0, None, -100, -1], None, ["a", "b"]).tolist()
    [False, True, True, True]
    >>> unlabelled([0.5, float("nan"), -1.0], None, None).tolist()
    [False, True, False]
    """
    if hasattr(labels, "detach"):
        labels = labels.detach().cpu().numpy()
    numbers = () if kind == "regression" else (IGNORED,) if classes is None else (IGNORED, -1)
    array = labels if isinstance(labels, np.ndarray) else None
    if array is None or array.dtype.kind in "OUS":
        cells: Iterable[Any] = labels.tolist() if array is not None else labels
        return np.array([_is_missing(cell, numbers) for cell in cells], dtype=bool)
    if array.dtype.kind in "fc":
        return np.asarray(np.isnan(array.reshape(len(array), -1)).any(axis=1))
    if array.dtype.kind == "i" and array.size == len(array):
        return np.isin(array.reshape(len(array)), numbers)
    return np.zeros(len(array), bool)


def _numbering(
    name: str, values: Mapping[str, list[Any]], classes: Sequence[Any] | None
) -> tuple[dict[Any, int], tuple[str, ...]]:
    try:
        found = set().union(*values.values())
    except TypeError as error:
        raise InvalidInputError(
            f"task {name!r}: labels must be numbers, strings or other hashable values ({error})"
        ) from error
    if classes is None:
        ordered = sorted(found, key=_order)
        return {v: i for i, v in enumerate(ordered)}, tuple(_text(v) for v in ordered)
    names = tuple(_text(c) for c in classes)
    if len(names) > max(MOST_NAMED, sum(map(len, values.values()))):
        raise InvalidInputError(
            f"task {name!r}: {len(names)} classes are named, more than there are examples; name "
            f"those that occur"
        )
    if all(isinstance(v, int) and 0 <= v < len(names) for v in found):
        return {v: int(v) for v in found}, names
    if len(set(names)) == len(names) and {_text(v) for v in found} <= set(names):
        numbers = {title: number for number, title in enumerate(names)}
        return {v: numbers[_text(v)] for v in found}, names
    known = set(names)
    strange = sorted((v for v in found if _text(v) not in known), key=_order)[:3]
    raise InvalidInputError(
        f"task {name!r}: labels {strange} are neither numbers of the {len(names)} classes nor "
        f"their names"
    )


def _as_array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if isinstance(values, (list, tuple)):
        values = [
            v.item() if hasattr(v, "item") and getattr(v, "ndim", 1) == 0 else v for v in values
        ]
        mixed = len({isinstance(v, (int, float)) for v in values}) > 1
        scalar = all(isinstance(v, (int, float, str)) for v in values)
        if mixed or not scalar:
            try:
                table = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError):
                table = np.empty(0)
            if table.ndim == 2:
                return table
            cells = np.empty(len(values), dtype=object)
            cells[:] = values
            return cells
    array: np.ndarray = np.asarray(values)
    single = array.ndim == 2 and array.size == len(array)
    return array.ravel() if single else array


def _is_missing(value: Any, numbers: tuple[int, ...]) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, (float, str)):
        return value != value or value == ""
    return isinstance(value, int) and not isinstance(value, bool) and value in numbers


def _continuous(arrays: Mapping[str, np.ndarray]) -> bool:
    if not arrays or any(array.dtype.kind != "f" for array in arrays.values()):
        return False
    if any(array.ndim > 1 for array in arrays.values()):
        return True
    values = np.concatenate(list(arrays.values()))
    whole = bool((values == np.round(values)).all())
    return not whole or len(np.unique(values)) > max(_FEW, len(values) ** 0.5)


def _targets(name: str, split: str, array: np.ndarray) -> np.ndarray:
    where = f"task {name!r}, split {split!r}"
    try:
        targets = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{where}: regression needs numbers as labels ({error})") from error
    if targets.ndim not in (1, 2) or not np.isfinite(targets).all():
        raise InvalidInputError(
            f"{where}: targets must be finite numbers of shape (N,) or (N, K), not "
            f"{targets.shape}{'' if np.isfinite(targets).all() else ' with infinite values'}"
        )
    if split == "train" and (np.ptp(targets, axis=0) == 0).any():
        raise InvalidInputError(f"{where}: all labels are equal; there is nothing to predict")
    return targets


def _order(value: Any) -> tuple[str, Any]:
    if isinstance(value, (bool, int, float)):
        return "", value
    return type(value).__name__, value if isinstance(value, (str, bytes)) else str(value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
