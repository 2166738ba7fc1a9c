"""Files of tables as columns: separated values, one JSON object per line."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import warnings
from collections.abc import Sequence
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.parquet import ParquetTable, is_parquet
from transfer_metrics.sources.places import existing_file, shards
from transfer_metrics.sources.table_columns import Table, TextTable
from transfer_metrics.untrusted import TABLE, parse_json, read_text

MOST_CELLS = 100_000_000
"""Rows times columns of a table in JSON, where a short line can add a column to all others."""
_LONGEST, _MOST_TWINS = 1_000_000, 100


def read_table(place: str, name: str) -> Table:
    """A table from a file of separated values or JSON lines, or from files of Parquet.

    Parquet may be in several files; see ``places.shards``. A file that begins with ``{`` has a
    JSON object per line. In any other the first line is a header, and tabs separate the columns of
    a ``.tsv``, commas those of others.

    Raises:
        InvalidInputError: the file is missing, has no rows, cannot be read, or has more bytes than
            ``untrusted.TABLE``.
    """
    if is_parquet(place):
        return ParquetTable(shards(place, name, ".parquet"), name)
    path = existing_file(place, name)
    lines = False
    try:
        text = read_text(path, TABLE)
        lines = text[:256].lstrip().startswith("{")
        table = _json_lines(text) if lines else _separated(text, path.suffix.lower())
    except (ValueError, OSError, OverflowError, MemoryError, csv.Error) as error:
        wanted = "one JSON object per line" if lines else "UTF-8 text with a header line"
        raise InvalidInputError(
            f"task {name!r}: {place!r} cannot be read as a table ({error}); it needs {wanted}"
        ) from error
    if not table or not next(iter(table.values())):
        raise InvalidInputError(
            f"task {name!r}: {place!r} has no rows; add a row per example"
            f"{'' if lines else ' below the header'}"
        )
    return TextTable(table, name, str(path.parent))


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


def _separated(text: str, suffix: str) -> dict[str, list[Any]]:
    import pandas as pd

    separator = "\t" if suffix in (".tsv", ".tab") else ","
    rows = csv.reader(io.StringIO(text[:_LONGEST]), delimiter=separator)
    names = next(rows, [])
    if len(names) - len(set(names)) > _MOST_TWINS:
        raise ValueError("many columns have the same name")
    with contextlib.suppress(csv.Error):  # of a long text; pandas has no such limit
        if len(next(rows, [])) > len(names):
            raise ValueError("the first row has more cells than the header")
    # Everything as text first: a review that says "null" is no missing value.
    with warnings.catch_warnings():
        # Cells beyond the header would otherwise shift all others, or be left out.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            frame = pd.read_csv(
                io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, index_col=False
            )
        except pd.errors.ParserWarning:
            raise ValueError("a row has more cells than the header") from None
    return {str(column): frame[column].tolist() for column in frame}


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
    return {column: [_cell(row.get(column)) for row in rows] for column in columns}


def _cell(value: Any) -> Any:
    """A cell as a table has it: lists stay, what is absent is empty."""
    if value is None:
        return ""
    return value if isinstance(value, (str, list)) else json.dumps(value)
