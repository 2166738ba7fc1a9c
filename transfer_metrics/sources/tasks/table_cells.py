"""A table, one example per row: its columns, and what their cells hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from transfer_metrics.errors import InvalidInputError, about
from transfer_metrics.sources.tasks.paths import FILE_SUFFIXES, inside
from transfer_metrics.sources.tasks.sequences import Files

OF_SOUNDS = "sounds; write them as WAV files, one folder per class, and give audiofolder:FOLDER"

Holds = Literal["numbers", "text", "lists", "images", "paths", "other"]


class Table(Protocol):
    """Columns of a table, one example per row; what they hold is read when it is asked for.

    Attributes:
        splits: rows by split, where files rather than a column tell them apart.
        index: columns of which the file says that they are the index of a data frame.
        suspicions: what may be a mistake in the file, each with its cure.
        declared: whether somebody said what the columns are, so that nothing is guessed.
    """

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
                    f"there is no column {column!r}; the columns are: {', '.join(self.columns)}"
                )

    def named(self, wanted: str) -> list[str]:
        """The columns of which somebody wrote the names, with commas between."""
        columns = [column.strip() for column in wanted.split(",")]
        self.require(columns)
        return columns

    def may_hold_lists(self, column: str) -> bool:
        """Whether the cells may be lists, or texts that are read as such."""
        return True

    def holds(self, column: str) -> Holds:
        """What the cells of a column are; ``"paths"`` are names of image files."""

    def is_empty(self, column: str) -> bool:
        """Whether a column has nothing in any row."""

    def cells(self, column: str) -> list[Any]:
        """Cells as text, empty where there is nothing; lists stay lists."""

    def labels(self, column: str) -> list[Any]:
        """Cells as the file has them."""

    def unread(self, column: str) -> str:
        """What a column holds that no model is given, with a cure, where that is known."""
        return ""

    def class_names(self, column: str) -> Sequence[str] | None:
        """Names of the classes that a column of numbers stands for, where the file has them."""
        return None

    def odd_row(self, column: str) -> int | None:
        """The first cell that is no number, in a column of text of which most cells are."""
        return None

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        """Texts of one column, or pairs of texts of two."""

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """(N, D) numbers of some columns; a cell that is empty or no number is an error."""

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        """Images of a column, or of the files that it names.

        Paths start at the folder ``root``, by default the table's own, and must not leave it.
        """

    @staticmethod
    def name_images(cells: Sequence[Any]) -> bool:
        """Whether all cells end like the names of image files."""
        ends = (isinstance(c, str) and os.path.splitext(c)[1].lower() for c in cells)
        return all(end in FILE_SUFFIXES["image"] for end in ends)

    def named_images(self, column: str, folder: str) -> Files:
        """The image files that a column names, below a folder; one of the first must be there."""
        where = f"column {column!r}"
        paths = []
        for row, cell in enumerate(self.cells(column), start=1):
            if not cell:
                raise InvalidInputError(f"{where}: row {row} names no file; leave the row out")
            paths.append(inside(folder, cell, f"{where}: row {row}"))
        with about(where):
            cure = (
                "; say root=FOLDER, the one that the paths start at, or ?image= and another column"
            )
            return Files.named(paths, "image", cure)
