"""Tables: what their columns hold, and how they become examples and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.label_values import ABSENT, number_of
from transfer_metrics.sources.tasks.paths import IMAGE_SUFFIXES, inside
from transfer_metrics.sources.tasks.sequences import ImageFiles

_TRIED, _MOST_LOOKED_AT = 10, 1000
_TRUTH = {"true": 1.0, "false": 0.0}

Holds = Literal["numbers", "text", "lists", "images", "paths", "other"]


class Table:
    """Columns of a table, one example per row; what they hold is read when it is asked for.

    Attributes:
        name: of the task, for messages.
        columns: their names.
        rows: how many there are.
        splits: rows by split, where files rather than a column tell them apart.
        index: columns of which the file says that they are the index of a data frame.
        suspicions: what may be a mistake in the file, each with its cure.
        declared: whether somebody said what the columns are, so that nothing is guessed: no label
            by its place, and texts stand beside numbers.
    """

    name: str
    columns: tuple[str, ...]
    rows: int
    splits: Mapping[str, np.ndarray] | None = None
    index: tuple[str, ...] = ()
    suspicions: tuple[str, ...] = ()
    declared: bool = False

    def require(self, columns: Sequence[str]) -> None:
        """Refuse names of columns that there are not."""
        for column in columns:
            if column not in self.columns:
                raise InvalidInputError(
                    f"task {self.name!r}: there is no column {column!r}; the columns are: "
                    f"{', '.join(self.columns)}"
                )

    def may_hold_lists(self, column: str) -> bool:
        """Whether the cells may be lists, or texts that are read as such."""
        return True

    def holds(self, column: str) -> Holds:
        """What the cells of a column are; ``"paths"`` are names of image files."""
        raise NotImplementedError

    def is_empty(self, column: str) -> bool:
        """Whether a column has nothing in any row."""
        raise NotImplementedError

    def cells(self, column: str) -> list[Any]:
        """Cells as text, empty where there is nothing; lists stay lists."""
        raise NotImplementedError

    def labels(self, column: str) -> list[Any]:
        """Cells as the file has them, to be judged by ``labels.encode``."""
        raise NotImplementedError

    def class_names(self, column: str) -> Sequence[str] | None:
        """Names of the classes that a column of numbers stands for, where the file has them."""
        return None

    def odd_row(self, column: str) -> int | None:
        """The first cell that is no number, in a column of text of which most cells are."""
        return None

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        """Texts of one column, or pairs of texts of two."""
        raise NotImplementedError

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """(N, D) numbers of some columns; a cell that is empty or no number is an error."""
        raise NotImplementedError

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        """Images of a column, or of the files that it names.

        Paths start at the folder ``root``, by default the table's own, and must not leave it.
        """
        raise NotImplementedError


class TextTable(Table):
    """A table in memory whose cells are texts, or what JSON knows: numbers, booleans, lists, none.

    ``folder`` is where paths of images start.
    """

    def __init__(
        self,
        cells: Mapping[str, list[Any]],
        name: str,
        folder: str,
        suspicions: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.columns = tuple(cells)
        self.rows = len(next(iter(cells.values())))
        self.suspicions = tuple(suspicions)
        self._cells = cells
        self._folder = folder
        self._numbers: dict[str, np.ndarray | None] = {}

    def holds(self, column: str) -> Holds:
        """Numbers where all cells are or are absent, paths where all end like image files."""
        cells = self._cells[column]
        if any(isinstance(cell, list) for cell in cells):
            return "lists"
        if self._read(column) is not None:
            return "numbers"
        return "paths" if all(map(is_image_name, self.cells(column))) else "text"

    def is_empty(self, column: str) -> bool:
        """Whether no cell has more than blanks."""
        return not any(c is not None and str(c).strip() for c in self._cells[column])

    def cells(self, column: str) -> list[Any]:
        """The cells; numbers are written as JSON has them."""
        cells = self._cells[column]
        if all(type(cell) is str for cell in cells):
            return cells
        return [
            cell if isinstance(cell, (str, list)) else "" if cell is None else json.dumps(cell)
            for cell in cells
        ]

    def labels(self, column: str) -> list[Any]:
        """The cells as they are."""
        return self._cells[column]

    def odd_row(self, column: str) -> int | None:
        """As for every table."""
        cells = self._cells[column]
        start = [_is_odd(cell) for cell in cells[:_MOST_LOOKED_AT]]
        if 2 * sum(start) >= len(start):
            return None
        return next((row for row, cell in enumerate(cells) if _is_odd(cell)), None)

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        """The cells, or pairs of them."""
        if len(columns) == 1:
            return self.cells(columns[0])
        return list(zip(*map(self.cells, columns), strict=True))

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """The cells, read as numbers."""
        return np.stack([self._whole(column) for column in columns], axis=1)

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        """The files that the cells name."""
        return named_images(self.cells(column), root or self._folder, self.name, column)

    def _read(self, column: str) -> np.ndarray | None:
        if column not in self._numbers:
            self._numbers[column] = _read_numbers(self._cells[column])
        return self._numbers[column]

    def _whole(self, column: str) -> np.ndarray:
        values = self._read(column)
        if values is not None and not np.isnan(values).any():
            return values
        for row, cell in enumerate(self.cells(column)):
            if not cell.strip():
                raise InvalidInputError(
                    f"task {self.name!r}: row {row + 1} has nothing in column {column!r}; fill "
                    f"it or leave the row out"
                )
            if cell.strip() in ABSENT or number_of(cell) is None:
                cure = "leave the column out" if values is None else "fill it, or leave it out"
                raise InvalidInputError(
                    f"task {self.name!r}: row {row + 1} has {cell!r} in column {column!r}, "
                    f"which is no number; {cure} with ?features=…"
                )
        raise InvalidInputError(f"task {self.name!r}: column {column!r} holds no numbers")


def _read_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """Cells as float64, NaN where there is nothing; None where some are no numbers, or all absent.

    A column of which all texts are true or false, in any case, is one of 1 and 0.

    >>> _read_numbers(["1", "NA", "2.5"]).tolist(), _read_numbers(["1_1", "2"])
    ([1.0, nan, 2.5], None)
    """
    try:
        values = np.array(list(map(float, cells)))
    except (TypeError, ValueError, OverflowError):
        return _mixed_numbers(cells)
    # What Python reads as a number and nobody else writes.
    odd = any(isinstance(cell, str) and ("_" in cell or not cell.isascii()) for cell in cells)
    return _mixed_numbers(cells) if odd else values


def _mixed_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    text = next((cell for cell in cells if isinstance(cell, str)), "")
    if text.strip().lower() in _TRUTH:
        truths = [_TRUTH.get(str(cell).strip().lower()) for cell in cells]
        return None if None in truths else np.array(truths, np.float64)
    values = []
    for cell in cells:
        number = number_of(cell) if isinstance(cell, str) else cell
        number = int(number) if isinstance(number, bool) else number
        if number is not None and not isinstance(number, (int, float)):
            return None
        if number is None and cell is not None and cell.strip() not in ABSENT:
            return None
        values.append(np.nan if number is None else float(str(number)))
    return None if np.isnan(values).all() else np.array(values)


def _is_odd(cell: Any) -> bool:
    return isinstance(cell, str) and cell.strip() not in ABSENT and number_of(cell) is None


def named_images(cells: Sequence[str], folder: str, name: str, column: str) -> ImageFiles:
    """The image files that the cells of a column name, below a folder; the first must be there."""
    where = f"task {name!r}, column {column!r}"
    for row, cell in enumerate(cells):
        if not cell:
            raise InvalidInputError(f"{where}: row {row + 1} names no file; leave the row out")
    paths = [inside(folder, cell, f"{where}: row {row + 1}") for row, cell in enumerate(cells)]
    if not any(path.is_file() for path in paths[:_TRIED]):
        raise InvalidInputError(
            f"{where}: there is no file {str(paths[0])!r}; say root=FOLDER, the one that the paths "
            f"start at, or ?image= and another column"
        )
    return ImageFiles(paths)


def is_image_name(text: str) -> bool:
    """Whether a text ends like the name of an image file."""
    return os.path.splitext(text)[1].lower() in IMAGE_SUFFIXES


def cell_text(value: Any) -> str:
    """A cell as text, empty where there is nothing."""
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def text_or_pair(cells: Iterable[Any]) -> Any:
    """The cells of one column as a text, of two as a pair."""
    texts = tuple(map(cell_text, cells))
    return texts[0] if len(texts) == 1 else texts
