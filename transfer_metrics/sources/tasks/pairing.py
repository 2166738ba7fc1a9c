"""Whether examples and labels belong together: their order, and inputs that are no inputs.

Such are the label in other words, and a number of each row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.tasks.label_values import (
    as_array,
    as_numbers,
    check_tensor,
    from_tensor,
)

_COUNTED = 10
"""Rows from which on a column that counts them, or that tells the label, is hardly by chance."""
INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)?")
"""Names of the index of a data frame that was written as a column."""
_ENDING, _ZEROS = re.compile(r"\.[A-Za-z]\w{1,4}$"), re.compile(r"0*(\d+?)(?:\.0+)?")
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)[ T]00:00(?::00(?:\.0+)?)?")
"""The ending of a file, and the same number or day in another notation."""
_LABELS = 100
"""Labels per example of which each is compared with the columns."""
_LOOKED_AT = 64
"""Rows that a column has to agree with before all are compared."""


def check_pairs(X: Any, y: Any, names: tuple[str, str] = ("X", "y")) -> None:
    """Refuse features and labels that are swapped, and rows of pandas whose labels tell otherwise.

    Those say that they are paired otherwise than by position, see ``_compared``. Of rows that share
    some labels, or have the same of which some repeat, a warning tells. Tensors that hold no plain
    numbers are refused first.
    """
    x_name, y_name = names
    check_tensor(X, x_name)
    check_tensor(y, y_name)
    if _are_swapped(X, y):
        raise InvalidInputError(
            f"{x_name} holds one whole number per example and {y_name} has the shape "
            f"{tuple(y.shape)} of features: they seem to be swapped; give the features first "
            f"(as floats, if {x_name} is one feature and {y_name} are targets)"
        )
    of_x, of_y = (getattr(v, "index", None) if hasattr(v, "iloc") else None for v in (X, y))
    if of_x is None or of_y is None or of_x.equals(of_y):
        return
    if (found := _compared(of_x, of_y)) is None:
        return
    as_they_are = f"give {y_name}.to_numpy() if they are in order as they are"
    text = ".rename(str)" if found.notation is str else ""
    cure = f"give {y_name}{text}.loc[{x_name}{text}.index]"
    cure = "order both alike" if found.notation is _plainly else cure
    told = f"row {found.row} is {found.here!r} in {x_name} and {found.there!r} in {y_name}"
    if not found.unique:
        if found.same:
            warn(
                f"{x_name} and {y_name} have the same row labels, some of them several times, in "
                f"another order, and are paired by position; {as_they_are}"
            )
    elif found.same:
        raise InvalidInputError(
            f"{x_name} and {y_name} have the same row labels in another order: {told}; {cure}, or "
            f"{as_they_are}"
        )
    else:
        warn(
            f"{x_name} and {y_name} share {found.shared} of {len(of_x)} row labels and are paired "
            f"by position: {told}; {cure} if they are of one table, or {as_they_are}"
        )


def check_row_names(
    of_x: Mapping[str, Sequence[str]], of_y: Mapping[str, Sequence[str]], place: str
) -> None:
    """Refuse labels in a file whose rows have the names of the features in another order.

    ``of_x`` and ``of_y`` are columns that name the rows. Where some names are the same, a warning
    tells.
    """
    for column, names in of_y.items():
        for other in [of_x[column]] if column in of_x else of_x.values():
            if (found := _compared(other, names)) is None:
                continue
            told = f"row {found.row + 1} is {found.here!r} in the features and {found.there!r} here"
            if found.same:
                raise InvalidInputError(
                    f"{place!r} has the rows of the features in another order, by column "
                    f"{column!r}: {told}; sort both files alike"
                )
            warn(
                f"{place!r} and the features share {found.shared} of {len(names)} names of rows, "
                f"by column {column!r}, and are paired by position: {told}"
            )


@dataclass(frozen=True)
class _Compared:
    """How names of rows differ.

    ``notation`` made both comparable; the first ``row`` that differs is ``here`` and ``there``.
    """

    same: bool
    unique: bool
    shared: int
    notation: Callable[[Any], str] | None
    row: int
    here: str
    there: str


def _compared(of_x: Iterable[Any], of_y: Iterable[Any]) -> _Compared | None:
    """How names of as many rows differ; None where they are the same or have nothing in common.

    Where they share none they are compared as texts, and then as ``_plainly`` written.
    """
    given = [*of_x], [*of_y]
    if len(given[0]) != len(given[1]):
        return None
    for notation in (None, str, _plainly):
        x, y = ([*map(notation, names)] if notation else names for names in given)
        shared = {*x} & {*y}
        if x == y:
            return None
        if shared:
            unique = len({*x}) == len(x) and len({*y}) == len(y)
            row = next(i for i, (one, other) in enumerate(zip(x, y, strict=True)) if one != other)
            here, there = (str(names[row]) for names in given)
            found = _Compared(
                Counter(x) == Counter(y), unique, len(shared), notation, row, here, there
            )
            return found if unique or notation is not _plainly else None
        if {type(name) for names in given for name in names} <= {int, float}:
            return None  # numbers are the same in any notation or never
    return None


def _plainly(name: Any) -> str:
    """A name of a row as it is compared: a file by its stem, numbers and days in one notation.

    >>> [_plainly(name) for name in ("0007", "7.png", 7.0, "2024-05-01 00:00:00")]
    ['7', '7', '7', '2024-05-01']
    """
    text = _ENDING.sub("", str(name).strip())
    for notation in (_ZEROS, _DAY):
        if found := notation.fullmatch(text):
            return found[1]
    return text


def _are_swapped(X: Any, y: Any) -> bool:
    """Whether X can only be labels, of an integer type that repeat, and y only features."""
    one, several = (tuple(getattr(v, "shape", ())) for v in (X, y))
    if len(several) != 2 or several[1] < 2 or one not in ((several[0],), (several[0], 1)):
        return False
    first, second = as_array(X), as_array(y)
    whole = first.dtype.kind in "biu" and 2 * len(np.unique(first)) <= len(first)
    return whole and second.dtype.kind == "f" and bool((second != np.floor(second)).any())


def _telling_columns(X: Any, labels: np.ndarray, classes: bool) -> list[int]:
    """Columns of features (N, D) that are the labels (N,) in other words.

    Of classes one number for each of them, of targets these themselves. The features may be a
    tensor anywhere, of which few rows and the columns that are found are looked at.
    """
    count = len(labels)
    if count < _COUNTED or labels.ndim != 1 or X.ndim != 2 or len(X) != count:
        return []
    first, codes = np.unique(labels, return_index=True, return_inverse=True)[1:]
    if classes and not 2 <= len(first) <= count // 2:
        return []

    def cells(rows: Any, columns: Any = slice(None)) -> np.ndarray:
        part = X[rows][:, columns]
        return from_tensor(part) if hasattr(part, "detach") else np.asarray(part)

    rows = np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(int))
    some = cells(rows)
    wanted = cells(first[codes[rows]]) if classes else labels[rows, None].astype(some.dtype)
    varied = (some != some[:1]).any(axis=0)
    found = []
    for column in np.flatnonzero((some == wanted).all(axis=0) & varied).tolist():
        whole = cells(slice(None), [column])[:, 0]
        one_each = whole[first]
        same = one_each[codes] if classes else labels.astype(whole.dtype)
        if (whole == same).all() and (not classes or len(np.unique(one_each)) == len(first)):
            found.append(column)
    return found


def telling(X: Any, labels: np.ndarray, classes: bool, names: Sequence[str] = ()) -> list[str]:
    """What may be a mistake where some of the inputs are the label."""
    several = [labels] if labels.ndim == 1 else list(labels.T[:_LABELS])
    columns = sorted({c for one in several for c in _telling_columns(X, one, classes)})
    told = ", ".join(repr(names[c]) if names else str(c) for c in columns[:3])
    many = len(columns) > 1
    what = "one value for each class" if classes else "the targets"
    return [
        f"column{'s' * many} {told}{' …' if len(columns) > 3 else ''} of the inputs "
        f"{'have' if many else 'has'} {what}, which models merely read off; "
        f"if {'they are' if many else 'it is'} the label in other words, leave "
        f"{'them' if many else 'it'} out, by features= of a table or drop(columns=) of a frame"
    ][: len(columns)]


def column_names(X: Any) -> list[str]:
    """Names of the columns of a data frame; none of anything else."""
    return [*map(str, X.columns)] if hasattr(X, "iloc") and X.ndim == 2 else []


def column_doubts(
    X: Any, labels: np.ndarray | None, classes: bool, names: Sequence[str]
) -> list[str]:
    """What may be a mistake in features (N, D): ``counting`` of named ones, and ``telling``."""
    counted = counting(X, names) if names else []
    return counted if labels is None else [*counted, *telling(X, labels, classes, names)]


def warn_of_columns(X: Any, labels: np.ndarray | None, kind: str) -> None:
    """Warn of ``column_doubts`` where features are a data frame."""
    if names := column_names(X):
        for doubt in column_doubts(as_numbers(X, "X"), labels, kind == "classification", names):
            warn(doubt)


def counting(values: np.ndarray, names: Sequence[str]) -> list[str]:
    """What may be a mistake where a column of (N, D) inputs numbers the examples.

    Its N numbers are whole, and in even steps in any order, or rise or fall through all rows.
    """
    count = len(values)
    if count < _COUNTED or values.shape[1] != len(names):
        return []
    with np.errstate(invalid="ignore"):  # infinite ones are refused elsewhere
        steps = np.diff(values[:_COUNTED], axis=0)  # a look, so that few columns are gone through
        runs = (steps > 0).all(axis=0) | (steps < 0).all(axis=0)
        spread = values.max(axis=0) - values.min(axis=0)
        even = (spread > 0) & (spread % (count - 1) == 0)
    even |= np.array([INDEX.fullmatch(name) is not None for name in names])
    suspicions = []
    for place in np.flatnonzero(runs | even).tolist():
        index = INDEX.fullmatch(names[place])
        told = "has the name of an index" if index else _numbering(values[:, place])
        if told:
            others = [name for name in names if name != names[place]]
            rest = ",".join(others) if len(others) < 6 else ""
            suspicions.append(
                f"column {names[place]!r} {told}; if it is an index, leave it out, by "
                f"features={rest} of a table or drop(columns={names[place]!r}) of a frame"
            )
    return suspicions


def _numbering(column: np.ndarray) -> str:
    """How (N,) numbers number the rows; empty if they do not."""
    if not (np.isfinite(column) & (column == np.floor(column))).all():
        return ""
    if len(np.unique(np.diff(np.sort(column)))) == 1:
        return "counts the examples"
    steps = np.diff(column)
    if (steps > 0).all() or (steps < 0).all():
        return f"{'rises' if steps[0] > 0 else 'falls'} from each row to the next"
    return ""
