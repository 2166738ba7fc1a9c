"""Tables in Parquet: labels and numbers in memory, images and texts read by row groups."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError, warn
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.tasks.paths import shards
from transfer_metrics.sources.tasks.sequences import ColumnImages, ColumnTexts, text_or_pair
from transfer_metrics.sources.tasks.table_cells import OF_SOUNDS, Holds, Table
from transfer_metrics.untrusted import check_unpacked

_LARGE = 1 << 30
"""Bytes of a row group, which is what memory holds at a time, from which on a warning is given."""
_AT_ONCE, _LOOKED_AT = 65_536, 100
_NOTHING_TOLD = (KeyError, ValueError, TypeError, AttributeError, RecursionError)
_NUMBERS = ("int", "uint", "float", "double", "halffloat", "bool", "decimal")


class _RowGroups:
    """Parquet files of the same columns, one after the other; one row group is kept."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.schema: Any = None
        self.rows_of_files: list[int] = []
        self._paths = list(paths)
        self._kept: tuple[Any, Any] = (None, None)
        self._places: list[tuple[int, int]] = []
        sizes, largest = [0], 0
        for number, path in enumerate(paths):
            with self._open(number) as file:
                schema, metadata = file.schema_arrow, file.metadata
                groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
                sizes += [group.num_rows for group in groups]
                largest = max([largest, *(group.total_byte_size for group in groups)])
            self.schema = self.schema or schema
            if schema.names != self.schema.names or schema.types != self.schema.types:
                raise InvalidInputError(
                    f"{str(path)!r} has other columns than {str(paths[0])!r}; give "
                    f"files of one table"
                )
            self._places += [(number, i) for i in range(len(groups))]
            self.rows_of_files.append(sum(group.num_rows for group in groups))
        self._starts = np.cumsum(sizes)
        if largest > _LARGE:
            warn(
                f"{str(paths[0])!r}: a row group takes {largest / 2**30:.1f} GiB, which memory "
                f"holds at a time; write the table with smaller ones, such as row_group_size=1000"
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": (None, None)}

    def whole(self, column: str) -> Any:
        """All cells of a column, as a chunked array of ``pyarrow``."""
        chunks: list[Any] = []
        packed = sum(path.stat().st_size for path in self._paths)
        unpacked = 0
        for number in range(len(self._paths)):
            with self._open(number) as file:
                for batch in file.iter_batches(_AT_ONCE, columns=[column]):
                    unpacked += batch.nbytes
                    check_unpacked(unpacked, packed)
                    chunks.append(batch.column(0))
        kind = self.schema.field(column).type
        cells = _arrow().chunked_array(chunks, type=kind)
        if len(cells) != len(self):
            raise InvalidInputError(
                f"column {column!r} has {len(cells)} cells in {len(self)} "
                f"rows; write the table anew"
            )
        return cells

    def beginning(self, column: str, count: int) -> list[Any]:
        with self._open(0) as file:
            batch = next(file.iter_batches(count, columns=[column]), None)
            return [] if batch is None else batch.column(0).to_pylist()

    def row(self, columns: tuple[str, ...], index: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        number, position = self._places[group]
        with self._told(number):
            if self._kept[0] != (group, columns):
                self._kept = (None, None)  # or two would be in memory for a moment
                with self._open(number) as file:
                    table = file.read_row_group(position, columns=list(columns))
                self._kept = ((group, columns), table)
            place = index - int(self._starts[group])
            return {column: self._kept[1].column(column)[place].as_py() for column in columns}

    @contextmanager
    def _open(self, number: int) -> Iterator[Any]:
        _arrow()  # says what to install
        from pyarrow import parquet

        with self._told(number), parquet.ParquetFile(self._paths[number]) as file:
            yield file

    @contextmanager
    def _told(self, number: int) -> Iterator[None]:
        damaged = (_arrow().ArrowException, OSError, LookupError, ValueError)
        try:
            yield
        except InvalidInputError:
            raise
        except damaged as error:
            line = (str(error).splitlines() or [""])[0]
            raise InvalidInputError(
                f"{str(self._paths[number])!r} cannot be read as Parquet "
                f"({type(error).__name__}: {line}); write it anew"
            ) from error


@dataclass(frozen=True, eq=False)
class _Rows(Sequence[Any]):
    """Some columns of row groups, as one mapping per row."""

    groups: _RowGroups
    columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: Any) -> Any:
        return self.groups.row(self.columns, index)


def _arrow() -> Any:
    return require("pyarrow", "reading Parquet", install="pyarrow")


def read_parquet(place: str) -> Table | None:
    """The table of one or more Parquet files of the same columns, by split; see ``paths.shards``.

    Labels, numbers and paths are read whole; images and texts by row groups, of which memory holds
    one. Reading in another order than that of the rows reads row groups again and again. What is no
    Parquet file by its first bytes, nor a folder or pattern of such, is None.
    """
    path = Path(place).expanduser()
    if path.is_file():
        try:
            with path.open("rb") as file:
                known = file.read(4) == b"PAR1"
        except OSError:
            return None  # whoever reads it next says why it cannot be read
    else:
        known = place.endswith(".parquet") or (path.is_dir() and any(path.rglob("*.parquet")))
    return _ParquetTable(place, shards(place, ".parquet")) if known else None


class _ParquetTable(Table):
    def __init__(self, place: str, files: Mapping[str, Sequence[Path]]) -> None:
        self._place = place
        paths = [path for of_split in files.values() for path in of_split]
        self._folder = str(paths[0].parent)
        self._groups = _RowGroups(paths)
        self.rows = len(self._groups)
        if not self.rows:
            raise InvalidInputError(f"{str(paths[0])!r} has no rows; write one per example")
        self.columns = tuple(self._groups.schema.names)
        metadata = self._groups.schema.metadata or {}
        # What datasets says of the columns of a file that it wrote, and pandas of its index.
        self._features: dict[str, dict[str, Any]] = {}
        with suppress(*_NOTHING_TOLD):
            features = json.loads(metadata[b"huggingface"])["info"]["features"]
            self._features = {c: told for c, told in features.items() if isinstance(told, dict)}
        with suppress(*_NOTHING_TOLD):
            index = json.loads(metadata[b"pandas"])["index_columns"]
            self.index = tuple(column for column in index if type(column) is str)
        if len(files) > 1:
            ends = np.cumsum([0, *self._groups.rows_of_files])
            last = np.cumsum([0, *map(len, files.values())])
            self.splits = {
                split: np.arange(ends[last[i]], ends[last[i + 1]]) for i, split in enumerate(files)
            }

    def holds(self, column: str) -> Holds:
        kind = self._type(column)
        if self._features.get(column, {}).get("_type") == "Audio":
            raise UnsupportedTaskError(f"column {column!r} holds {OF_SOUNDS}")
        files = kind.startswith("struct<") and ("bytes:" in kind or "path:" in kind)
        if files or kind in ("binary", "large_binary"):
            return "images"
        if kind.startswith(("list<", "large_list<", "fixed_size_list<")):
            inner = kind.partition(": ")[2]
            return "numbers" if inner.startswith(("float", "double", "halffloat")) else "lists"
        if kind.startswith(_NUMBERS):
            return "numbers"
        if not kind.endswith(("string", "string_view")):
            return "other"  # as dates
        first = self._groups.beginning(column, _LOOKED_AT)
        return "paths" if self.name_images(first) else "text"

    def is_empty(self, column: str) -> bool:
        return self._type(column) == "null"

    def cells(self, column: str) -> list[Any]:
        cells = self._groups.whole(column).to_pylist()
        return [cell if isinstance(cell, list) else text_or_pair(cell) for cell in cells]

    def labels(self, column: str) -> list[Any]:
        return self._groups.whole(column).to_pylist()

    def class_names(self, column: str) -> Sequence[str] | None:
        names = self._features.get(column, {}).get("names")
        return names if isinstance(names, list) and names else None

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        return ColumnTexts(_Rows(self._groups, tuple(columns)), tuple(columns))

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        return np.concatenate([self._matrix(column) for column in columns], axis=1)

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        folder = root or self._folder
        if self.holds(column) in ("paths", "text"):
            return self.named_images(column, folder)
        return ColumnImages(_Rows(self._groups, (column,)), column, repr(self._place), folder)

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
                f"column {column!r} holds no numbers or vectors of one length "
                f"({error}); leave it out with ?features=…"
            ) from error
