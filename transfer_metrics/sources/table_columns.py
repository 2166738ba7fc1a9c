"""Columns of tables: what they hold, and how they become examples and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.examples import ImageFiles
from transfer_metrics.sources.places import IMAGE_SUFFIXES, inside

_TRIED = 10

Holds = Literal["numbers", "text", "lists", "images", "paths"]


class Table:
    """Columns of a table, one example per row; what they hold is read when it is asked for.

    Attributes:
        name: of the task, for messages.
        columns: their names.
        rows: how many there are.
        splits: rows by split, where files rather than a column tell them apart.
    """

    name: str
    columns: tuple[str, ...]
    rows: int
    splits: Mapping[str, np.ndarray] | None = None

    def holds(self, column: str) -> Holds:
        """What the cells of a column are; ``"paths"`` are names of image files."""
        raise NotImplementedError

    def cells(self, column: str) -> list[Any]:
        """Cells as text, empty where there is nothing; lists stay lists."""
        raise NotImplementedError

    def labels(self, column: str) -> list[Any]:
        """Cells as labels: numbers where all are, None where there is nothing."""
        raise NotImplementedError

    def class_names(self, column: str) -> Sequence[str] | None:
        """Names of the classes that a column of numbers stands for, where the file has them."""
        return None

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        """Texts of one column, or pairs of texts of two."""
        raise NotImplementedError

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """(N, D) numbers of some columns.

        Raises:
            InvalidInputError: a cell is empty or no number.
        """
        raise NotImplementedError

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        """Images of a column, or of the files that it names.

        Args:
            column: the column.
            root: folder that the paths start at and must not leave; by default the table's own.

        Raises:
            InvalidInputError: a path leaves the folder, or no file is there.
        """
        raise NotImplementedError


class TextTable(Table):
    """A table whose cells are all text, or lists, in memory."""

    def __init__(self, cells: Mapping[str, list[Any]], name: str, folder: str) -> None:
        self.name = name
        self.columns = tuple(cells)
        self.rows = len(next(iter(cells.values())))
        self._cells = cells
        self._folder = folder

    def holds(self, column: str) -> Holds:
        """Numbers where all cells are or are empty, paths where all end like image files."""
        cells = self._cells[column]
        if any(isinstance(cell, list) for cell in cells):
            return "lists"
        if _are_numbers(cells):
            return "numbers"
        return "paths" if all(map(is_image_name, cells)) else "text"

    def cells(self, column: str) -> list[Any]:
        """The cells as they are."""
        return self._cells[column]

    def labels(self, column: str) -> list[Any]:
        """Whole numbers, numbers or words, whichever fits all."""
        cells = self._cells[column]
        for convert in (int, float):
            try:
                return [convert(cell) if cell.strip() else None for cell in cells]
            except (ValueError, OverflowError):
                continue
        return [cell if cell.strip() else None for cell in cells]

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        """The cells, or pairs of them."""
        if len(columns) == 1:
            return self._cells[columns[0]]
        return list(zip(*(self._cells[c] for c in columns), strict=True))

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """The cells, read as numbers."""
        for column in columns:
            for row, cell in enumerate(self._cells[column]):
                if not cell.strip():
                    raise InvalidInputError(
                        f"task {self.name!r}: row {row + 1} has nothing in column {column!r}; fill "
                        f"it or leave the row out"
                    )
                if not _are_numbers([cell]):
                    raise InvalidInputError(
                        f"task {self.name!r}: row {row + 1} has {cell!r} in column {column!r}, "
                        f"which is no number; leave the column out with ?features=…"
                    )
        return np.array([[float(x) for x in self._cells[c]] for c in columns], np.float64).T

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        """The files that the cells name."""
        return named_images(self._cells[column], root or self._folder, self.name, column)


def named_images(cells: Sequence[str], folder: str, name: str, column: str) -> ImageFiles:
    """The image files that the cells of a column name, below a folder.

    Raises:
        InvalidInputError: a cell is empty or leaves the folder, or none of the first files is
            there.
    """
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
    """Whether a text ends like the name of an image file.

    >>> is_image_name("cats/0.JPG"), is_image_name("a cat.")
    (True, False)
    """
    return os.path.splitext(text)[1].lower() in IMAGE_SUFFIXES


def cell_text(value: Any) -> str:
    """A cell as text, empty where there is nothing.

    >>> cell_text(None), cell_text(b"a"), cell_text(1)
    ('', 'a', '1')
    """
    if value is None:
        return ""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _are_numbers(cells: Sequence[str]) -> bool:
    try:
        for cell in cells:
            if cell.strip():
                float(cell)
    except ValueError:
        return False
    return True
