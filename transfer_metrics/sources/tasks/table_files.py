"""Files of tables as columns: separated values, one JSON object per line."""

from __future__ import annotations

import ast
import csv
from collections.abc import Sequence
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.parquet import ParquetTable, is_parquet
from transfer_metrics.sources.tasks.paths import existing_file, shards
from transfer_metrics.sources.tasks.separated import read_separated
from transfer_metrics.sources.tasks.table_columns import Table, TextTable
from transfer_metrics.untrusted import TABLE, parse_json, read_text

MOST_CELLS = 100_000_000
"""Rows times columns of a table in JSON, where a short line can add a column to all others."""
_LONGEST = 1_000_000


def read_table(place: str, name: str, header: str | None = None) -> Table:
    """A table from a file of separated values or JSON lines, or from files of Parquet.

    Parquet may be in several files; see ``places.shards``. A file that begins with ``{`` has a
    JSON object per line. Of any other ``separated.read_separated`` finds the separator.

    Args:
        place: the file or files.
        name: of the task, for messages.
        header: of separated values: ``"no"`` where the first line is data.

    Raises:
        InvalidInputError: the file is missing, has no rows, cannot be read, or has more bytes than
            ``untrusted.TABLE``.
    """
    if is_parquet(place):
        _refuse_header(header, name)
        return ParquetTable(shards(place, name, ".parquet"), name)
    path = existing_file(place, name)
    lines = False
    suspicions: list[str] = []
    try:
        text = read_text(path, TABLE)
        lines = text[:256].lstrip().startswith("{")
        if lines:
            _refuse_header(header, name)
            table: dict[str, list[Any]] = _json_lines(text)
        else:
            table, suspicions = read_separated(text, path.suffix.lower(), header)
    except InvalidInputError as error:
        raise InvalidInputError(f"task {name!r}: {error}") from error
    except (ValueError, OSError, OverflowError, MemoryError, csv.Error) as error:
        wanted = (
            "one JSON object per line"
            if lines
            else "UTF-8 text, a header line, as many cells below"
        )
        raise InvalidInputError(
            f"task {name!r}: {place!r} cannot be read as a table ({error}); it needs {wanted}"
        ) from error
    if not table or not next(iter(table.values())):
        raise InvalidInputError(
            f"task {name!r}: {place!r} has no rows; add a row per example"
            f"{'' if lines else ' below the header'}"
        )
    return TextTable(table, name, str(path.parent), suspicions)


def _refuse_header(header: str | None, name: str) -> None:
    if header is not None:
        raise InvalidInputError(f"header= applies to separated values only; leave it out ({name})")


def lists_in(cells: Sequence[Any], where: str) -> list[list[Any]]:
    """Cells that hold lists: JSON's, written as in JSON or Python, or words with spaces between.

    Raises:
        InvalidInputError: a cell is none of these.

    >>> lists_in(['["a", "b"]', "['a', 'b']", "a b", ["a", "b"]], "words")
    [['a', 'b'], ['a', 'b'], ['a', 'b'], ['a', 'b']]
    """
    found = []
    for row, cell in enumerate(cells):
        if isinstance(cell, str):
            cell = _parsed(cell, where, row) if cell.lstrip().startswith("[") else cell.split()
        if not isinstance(cell, list):
            raise InvalidInputError(f"{where}: row {row + 1} has {cell!r}, which is no list")
        found.append(cell)
    return found


def _parsed(cell: str, where: str, row: int) -> Any:
    for parse in (parse_json, _literal):
        try:
            return parse(cell)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
    raise InvalidInputError(
        f"{where}: row {row + 1} has {cell[:40]!r}, which cannot be read as a list; write "
        f'["a", "b"], or words with spaces between'
    )


def _literal(cell: str) -> Any:
    if len(cell) > _LONGEST:
        raise ValueError("it is long, and Python's literals are slow to read")
    return ast.literal_eval(cell)


def _json_lines(text: str) -> dict[str, list[Any]]:
    rows = []
    # Not splitlines, which splits inside of strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = parse_json(line)
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object")
            rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if len(columns) * len(rows) > MOST_CELLS:
        raise ValueError(f"its {len(rows)} rows have {len(columns)} different names of columns")
    return {column: [row.get(column) for row in rows] for column in columns}
