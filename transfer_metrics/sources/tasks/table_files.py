"""Files of tables: separated values, JSON lines, Parquet."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.label_values import is_absent, number_of, read_numbers
from transfer_metrics.sources.tasks.parquet import read_parquet
from transfer_metrics.sources.tasks.paths import existing, foreign
from transfer_metrics.sources.tasks.separated_values import read_separated
from transfer_metrics.sources.tasks.table_cells import Holds, Table
from transfer_metrics.untrusted import TABLE, parse_json, read_text, visible

_MOST_LOOKED_AT = 1000
_MOST_CELLS = 100_000_000
"""Rows times columns of a table in JSON, where a short line can add a column to all others."""
_RECORDS = "write one object per row, as frame.to_json(path, orient='records') writes it"
_OF_WORDS = ("tokens", "words")
_OF_JSON = (".json", ".jsonl", ".ndjson")
_JSON = re.compile(r"\s*(\{|\[\s*[\{\[])")


def read_table(place: str, header: str | None = None, *, bare: bool = False) -> Table:
    """A table from a file of separated values or JSON lines, or from files of Parquet.

    A file that begins with ``{``, or of such a name, has a JSON object per line, one with ``[{`` a
    list of them; where ``bare``, its rows may be numbers, texts or lists, the column ``0``. No
    more than ``untrusted.TABLE`` bytes are read, but of Parquet.
    """
    if (packed := read_parquet(place)) is not None:
        _refuse_header(header)
        return packed
    path = existing(place)
    lines = False
    suspicions: list[str] = []
    try:
        text = read_text(path, TABLE)
        lines = path.suffix.lower() in _OF_JSON or _JSON.match(text) is not None
        if lines:
            _refuse_header(header)
            table: dict[str, list[Any]] = _json_lines(text, bare)
        else:
            table, suspicions = read_separated(text, path.suffix.lower(), header)
    except InvalidInputError:
        raise
    except (ValueError, OSError, OverflowError, MemoryError, csv.Error) as error:
        columns = "UTF-8 text, a header line, as many cells below"
        wanted = 'one JSON object per line, as {"label": 0}' if lines else columns
        told = foreign(path) or f"cannot be read as a table ({error}); it needs {wanted}"
        raise InvalidInputError(f"{place!r} {told}") from error
    if not table or not next(iter(table.values())):
        raise InvalidInputError(
            f"{place!r} has no rows; add a row per example{'' if lines else ' below the header'}"
        )
    return _TextTable(table, str(path.parent), suspicions)


def _refuse_header(header: str | None) -> None:
    if header is not None:
        raise InvalidInputError("header= applies to separated values only; leave it out")


def _json_lines(text: str, bare: bool) -> dict[str, list[Any]]:
    # Not splitlines, which splits inside of strings.
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    listed = text.lstrip().startswith("[")
    if listed and not (bare and len(lines) > 1 and lines[0][1].rstrip().endswith("]")):
        numbered = [*enumerate(parse_json(text), start=1)]
    else:
        listed, numbered = False, [(number, parse_json(line)) for number, line in lines]
    rows = [row for _, row in numbered]
    if bare and not any(isinstance(row, dict) for row in rows):
        return {"0": rows}
    _check_rows(rows)
    for number, row in numbered:
        if not isinstance(row, dict):
            raise ValueError(f"{'row' if listed else 'line'} {number} is no object")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if len(columns) * len(rows) > _MOST_CELLS:
        raise ValueError(f"its {len(rows)} rows have {len(columns)} different names of columns")
    return {column: [row.get(column) for row in rows] for column in columns}


def _check_rows(rows: Sequence[Any]) -> None:
    """A ValueError for what JSON has in place of an object per example, with what it is."""
    if rows and all(isinstance(row, list) for row in rows):
        raise ValueError(f"its rows are lists without names of columns; {_RECORDS}")
    row = rows[0] if len(rows) == 1 else None
    if not isinstance(row, dict) or not row:
        return
    if isinstance(row.get("images"), list) and isinstance(row.get("annotations"), list):
        raise ValueError(
            "it holds annotations of COCO, which are of parts of images; give a folder with one "
            "folder per class, or a .csv of file names and labels, with a column for each"
        )
    values = list(row.values())
    lone = isinstance(row.get("data"), list) and {*row} <= {"name", "index", "data"}
    numbered = len(row) > 1 and [*row] == [*map(str, range(len(row)))]
    if (lone and "index" in row) or (
        numbered and not any(isinstance(v, (dict, list)) for v in values)
    ):
        raise ValueError(
            "it is a series with its index; write its values alone, as "
            "series.to_json(path, orient='records') writes them"
        )
    if isinstance(row.get("data"), list) and {"columns", "schema"} & row.keys():
        raise ValueError(f"its columns are apart from its rows; {_RECORDS}")
    if all(isinstance(value, dict) for value in values):
        raise ValueError(f"it is one object of objects; {_RECORDS}")
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    inner = [key for key, value in lists.items() if value and isinstance(value[0], dict)]
    if len(inner) == 1:
        raise ValueError(
            f"its rows are within {visible(inner[0])!r}; write that list alone into the file"
        )
    if len(lists) == len(row) > 1 and not row.keys() & {*_OF_WORDS}:
        raise ValueError(f"it is one object of whole columns; {_RECORDS}")


class _TextTable(Table):
    """Cells in memory that are texts, or what JSON knows: numbers, booleans, lists, none."""

    def __init__(
        self, cells: Mapping[str, list[Any]], folder: str, suspicions: Sequence[str] = ()
    ) -> None:
        self.columns = tuple(cells)
        self.rows = len(next(iter(cells.values())))
        self.suspicions = tuple(suspicions)
        self._cells = cells
        self._folder = folder
        self._numbers: dict[str, np.ndarray | None] = {}

    def holds(self, column: str) -> Holds:
        cells = self._cells[column]
        if any(isinstance(cell, list) for cell in cells):
            vectors = self._read(column) is not None
            measured = vectors and any(isinstance(n, float) for cell in cells for n in cell)
            return "numbers" if measured else "lists"  # whole ones may be of tokens
        if self._read(column) is not None:
            return "numbers"
        return "paths" if self.name_images(self.cells(column)) else "text"

    def is_empty(self, column: str) -> bool:
        return not any(c is not None and str(c).strip() for c in self._cells[column])

    def cells(self, column: str) -> list[Any]:
        cells = self._cells[column]
        if all(type(cell) is str for cell in cells):
            return cells
        return [
            cell if isinstance(cell, (str, list)) else "" if cell is None else json.dumps(cell)
            for cell in cells
        ]

    def labels(self, column: str) -> list[Any]:
        return self._cells[column]

    def odd_row(self, column: str) -> int | None:
        def is_odd(cell: Any) -> bool:
            return isinstance(cell, str) and not is_absent(cell) and number_of(cell) is None

        cells = self._cells[column]
        start = [cell for cell in cells[:_MOST_LOOKED_AT] if not is_absent(cell)]
        if 2 * sum(map(is_odd, start)) >= len(start):
            return None
        return next((row for row, cell in enumerate(cells) if is_odd(cell)), None)

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        if len(columns) == 1:
            return self.cells(columns[0])
        return list(zip(*map(self.cells, columns), strict=True))

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        read = [self._whole(column) for column in columns]
        return np.concatenate([values.reshape(self.rows, -1) for values in read], axis=1)

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        return self.named_images(column, root or self._folder)

    def _read(self, column: str) -> np.ndarray | None:
        if column not in self._numbers:
            self._numbers[column] = read_numbers(self._cells[column])
        return self._numbers[column]

    def _whole(self, column: str) -> np.ndarray:
        values = self._read(column)
        if values is not None and not np.isnan(values).any():
            return values
        cells = [c for c in self.cells(column) if not isinstance(c, list)]
        for row, cell in enumerate(cells, start=1):
            if not cell.strip():
                raise InvalidInputError(
                    f"row {row} has nothing in column {column!r}; fill it or leave the row out"
                )
            if is_absent(cell) or number_of(cell) is None:
                cure = "leave the column out" if values is None else "fill it, or leave it out"
                raise InvalidInputError(
                    f"row {row} has {cell!r} in column {column!r}, which is "
                    f"no number; {cure} with ?features=…"
                )
        raise InvalidInputError(f"column {column!r} holds no numbers or vectors of one length")
