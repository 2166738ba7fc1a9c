"""Tables in Parquet: labels and numbers in memory, images and texts read by row groups."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.sources.tasks.row_groups import ParquetImages, ParquetTexts, RowGroups
from transfer_metrics.sources.tasks.table_columns import (
    Holds,
    Table,
    cell_text,
    is_image_name,
    named_images,
)

_LOOKED_AT = 100
_NUMBERS = ("int", "uint", "float", "double", "halffloat", "bool", "decimal")


def is_parquet(place: str) -> bool:
    """Whether a place is a Parquet file, by its first bytes, or a folder or pattern of such files.

    >>> is_parquet("data/train-*.parquet"), is_parquet("data.csv")
    (True, False)
    """
    path = Path(place).expanduser()
    if not path.is_file():
        return place.endswith(".parquet") or (path.is_dir() and any(path.rglob("*.parquet")))
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # whoever reads it next says why it cannot be read


class ParquetTable(Table):
    """A table in one or more Parquet files of the same columns.

    Labels, numbers and paths are read whole; images and texts by row groups, of which one is kept
    in memory, so that its size does not grow with the table. Reading in another order than that of
    the rows reads row groups again and again.

    Args:
        files: the files of each split.
        name: of the task, for messages.

    Raises:
        InvalidInputError: a file is no Parquet, has other columns than the first, or no rows.
        MissingDependencyError: ``pyarrow`` is not installed.
    """

    def __init__(self, files: Mapping[str, Sequence[Path]], name: str) -> None:
        self.name = name
        paths = [path for of_split in files.values() for path in of_split]
        self._folder = str(paths[0].parent)
        self._groups = RowGroups(paths, name)
        self.rows = len(self._groups)
        if not self.rows:
            raise InvalidInputError(
                f"task {name!r}: {str(paths[0])!r} has no rows; write one per example"
            )
        self.columns = tuple(self._groups.schema.names)
        metadata = self._groups.schema.metadata or {}
        self._features = _features(metadata)
        self.index = _index(metadata)
        if len(files) > 1:
            ends = np.cumsum([0, *self._groups.rows_of_files])
            last = np.cumsum([0, *map(len, files.values())])
            self.splits = {
                split: np.arange(ends[last[i]], ends[last[i + 1]]) for i, split in enumerate(files)
            }

    def holds(self, column: str) -> Holds:
        """By the type of the column; text is paths where the first cells end like image files."""
        kind = self._type(column)
        if self._features.get(column, {}).get("_type") == "Audio":
            raise UnsupportedTaskError(
                f"task {self.name!r}: column {column!r} holds sounds, which are read by "
                f"hf:FOLDER and not from Parquet files"
            )
        if kind.startswith("struct<") and ("bytes:" in kind or "path:" in kind):
            return "images"
        if kind in ("binary", "large_binary"):
            return "images"
        if kind.startswith(("list<", "large_list<", "fixed_size_list<")):
            inner = kind.partition(": ")[2]
            return "numbers" if inner.startswith(("float", "double", "halffloat")) else "lists"
        if kind.startswith(_NUMBERS):
            return "numbers"
        first = self._groups.beginning(column, _LOOKED_AT)
        return "paths" if all(isinstance(c, str) and is_image_name(c) for c in first) else "text"

    def is_empty(self, column: str) -> bool:
        """Whether the type of a column is that of nothing."""
        return self._type(column) == "null"

    def cells(self, column: str) -> list[Any]:
        """All cells of a column."""
        cells = self._groups.whole(column).to_pylist()
        return [cell if isinstance(cell, list) else cell_text(cell) for cell in cells]

    def labels(self, column: str) -> list[Any]:
        """Cells of the column's own type."""
        return self._groups.whole(column).to_pylist()

    def class_names(self, column: str) -> Sequence[str] | None:
        """Names that ``datasets`` has written into the file."""
        names = self._features.get(column, {}).get("names")
        return names if isinstance(names, list) and names else None

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        """Texts that are read by row groups."""
        return ParquetTexts(self._groups, columns)

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        """Numbers, and vectors of one length, side by side; what is empty is NaN."""
        return np.concatenate([self._matrix(column) for column in columns], axis=1)

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        """Images inside of the file as they are encoded, or those that it names."""
        folder = root or self._folder
        if self.holds(column) in ("paths", "text"):
            return named_images(self.cells(column), folder, self.name, column)
        return ParquetImages(self._groups, column, folder, self.name)

    def _type(self, column: str) -> str:
        """The type of a column, of one with a dictionary that of its values."""
        kind = self._groups.schema.field(column).type
        return str(getattr(kind, "value_type", kind) if "dictionary<" in str(kind) else kind)

    def _matrix(self, column: str) -> np.ndarray:
        try:
            chunks = self._groups.whole(column).chunks
            if hasattr(chunks[0], "flatten") and "list<" in str(chunks[0].type):
                values = [np.asarray(c.flatten().cast("float64").to_numpy(False)) for c in chunks]
                sizes = {len(cell) if cell.is_valid else 0 for c in chunks for cell in c}
                if len(sizes) != 1:
                    raise ValueError("vectors of different lengths")
                return np.concatenate(values).reshape(self.rows, -1)
            values = [np.asarray(c.cast("float64").to_numpy(False)) for c in chunks]
            return np.concatenate(values)[:, None]
        except ValueError as error:  # pyarrow's own errors of types are such
            raise InvalidInputError(
                f"task {self.name!r}: column {column!r} holds no numbers or vectors of one length "
                f"({error}); leave it out with ?features=…"
            ) from error


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, dict[str, Any]]:
    """What ``datasets`` says of the columns of a file that it wrote."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {column: told for column, told in features.items() if isinstance(told, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _index(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The columns that are the index of the data frame of ``pandas`` that was written."""
    try:
        return tuple(c for c in json.loads(metadata[b"pandas"])["index_columns"] if type(c) is str)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return ()
