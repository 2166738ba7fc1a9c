"""Which column of a table is the label, and which are no inputs: by their names, then contents."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from transfer_metrics.sources.tasks.label_values import number_of

SURE = (
    "label", "labels", "class", "classes", "target", "targets", "y",
    "goldlabel", "classlabel", "groundtruth", "cls",
)  # fmt: skip
"""Names of the column of labels, the first that there is; ``y`` at either end only."""
USUAL = (
    "category", "sentiment", "species", "diagnosis", "outcome", "emotion", "intent", "topic",
    "polarity", "stars", "rating", "quality", "variety", "genre", "survived", "churn", "spam",
    "isspam", "toxic", "isduplicate",
)  # fmt: skip
"""Names that labels often have; where there is a sure one they are others' names."""
IDENTIFIERS = (
    "", "index", "idx", "id", "row", "rowid", "rowname", "rownames", "rownumber", "rowindex",
    "uid", "uuid", "guid",
)  # fmt: skip
"""Names of columns that number the rows."""
_NAMES_ROWS = re.compile(r".*([\W_][iI][dD]|[a-z]I[dD])|level_(\d+|N)", re.DOTALL)
_NUMBERS_ROWS = re.compile(r".*[\W_](no|nr|number)\.?|no\.?|nr\.?|number", re.I | re.DOTALL)
COUNTED = 10
"""Rows from which on a column that counts them is hardly by chance."""


def named_label(columns: Sequence[str]) -> str | None:
    """The column that has a usual name of labels, in any case, if one has.

    >>> named_label(["Sentiment", "review"]), named_label(["x", "y", "z"])
    ('Sentiment', None)
    """
    plain = [_plain(column) for column in columns]
    for name in SURE:
        for place in range(len(plain)):
            if plain[place] == name and (name != "y" or place in (0, len(plain) - 1)):
                return columns[place]
    usual = [column for column, name in zip(columns, plain, strict=True) if name in USUAL]
    # Of several the one that stands where labels do.
    ends = [column for column in (columns[-1], columns[0]) if column in usual] if usual else []
    found = ends or usual
    return found[0] if found else None


def find_label(columns: Sequence[str]) -> tuple[str, list[str]]:
    """The column of the label, by its name or else the last, and what may be a mistake.

    >>> find_label(["a", "Class", "b"])
    ('Class', [])
    >>> find_label(["a", "b"])[0]
    'b'
    """
    found = named_label(columns)
    if found is None:
        return columns[-1], [
            f"no column has a usual name of labels, so the last one, {columns[-1]!r}, is taken; "
            f"say label=COLUMN to choose"
        ]
    if _plain(found) in SURE:
        return found, []
    others = [column for column in columns if column != found and _plain(column) in USUAL]
    if not others and found in (columns[0], columns[-1]):
        return found, []
    named = ", ".join(map(repr, others or columns[-1:]))
    return found, [
        f"column {found!r} is taken for the label, by its name, though it may be {named}; say "
        f"label=COLUMN to choose"
    ]


def labels_among(inputs: Sequence[str]) -> list[str]:
    """What may be a mistake where a column that is read as input has the name of labels."""
    return [
        f"column {column!r} has the name of a label and is read as input; say label={column} if "
        f"it is the label, and name the inputs with features= if it tells the label"
        for column in inputs
        if _plain(column) in SURE and _plain(column) != "y"
    ]


def no_input(
    column: str, place: int, cells: Callable[[str], Sequence[Any]], index: Sequence[str] = ()
) -> str:
    """Why a column is no input, empty if it may be one.

    Args:
        column: its name.
        place: where it stands, from 0.
        cells: gives its cells; asked only where the name alone does not tell.
        index: columns of which the file says that they are the index of a data frame.

    >>> no_input("Unnamed: 0", 0, list), no_input("Id", 0, lambda _: ["7", "4"])
    ('the index of a data frame', 'it numbers the rows')
    >>> no_input("id", 0, lambda _: ["7", "7"])
    ''
    """
    if _plain(column) in SURE:
        return ""
    if column in index or re.fullmatch(r"__index_level_\d+__|Unnamed: 0(\.\d+)?", column):
        return "the index of a data frame"
    unnamed = re.fullmatch(r"Unnamed: \d+", column) is not None
    if not column and place == 0:
        return "the index of a data frame"
    # Of other names only whole numbers and words: "Reynolds number" may be measured, and a last
    # column of numbers may be the label.
    named = _NAMES_ROWS.fullmatch(column) or (place == 0 and _NUMBERS_ROWS.fullmatch(column))
    known = _plain(column) in IDENTIFIERS or unnamed
    if known or named:
        found = [str(cell) for cell in cells(column)]
        if len(set(found)) == len(found) > 1 and (known or not any(map(_measured, found))):
            return "it numbers the rows"
    return ""


def counting(values: np.ndarray, names: Sequence[str]) -> list[str]:
    """What may be a mistake where a column of (N, D) inputs numbers the examples.

    Its N numbers are whole and different, and in even steps in any order, or rise or fall through
    all rows, as an index does that others were cut out of, or a time.

    >>> counting(np.arange(12.0)[::-1, None], ["n"])[0][:31]
    "column 'n' counts the examples;"
    """
    count = len(values)
    if count < COUNTED or values.shape[1] != len(names):
        return []
    with np.errstate(invalid="ignore"):  # infinite ones are refused elsewhere
        steps = np.diff(values[:COUNTED], axis=0)  # a look, so that few columns are gone through
        runs = (steps > 0).all(axis=0) | (steps < 0).all(axis=0)
        spread = values.max(axis=0) - values.min(axis=0)
        even = (spread > 0) & (spread % (count - 1) == 0)
    suspicions = []
    for place in np.flatnonzero(runs | even).tolist():
        told = _numbering(values[:, place])
        if told:
            others = [name for name in names if name != names[place]]
            cure = f"say features={','.join(others)}" if 0 < len(others) < 6 else "remove it"
            suspicions.append(f"column {names[place]!r} {told}; if it is an index, {cure}")
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


def _measured(cell: str) -> bool:
    number = number_of(cell)
    return number is not None and number != number // 1


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).casefold()
