"""Files of tables as columns of cells: separated values, or one JSON object per line."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.files import existing_file


def read_table(place: str, name: str) -> dict[str, list[Any]]:
    """Columns by name: strings, and lists where JSON has them.

    A file that begins with ``{`` has a JSON object per line. Otherwise the first line is a header,
    and tabs separate the columns of a ``.tsv``, commas those of others.

    Raises:
        InvalidInputError: the file is missing, has no rows, or cannot be read.
    """
    path = existing_file(place, name)
    lines = _is_json(path)
    try:
        table = _json_lines(path) if lines else _separated(path)
    except (ValueError, OSError) as error:
        wanted = "one JSON object per line" if lines else "UTF-8 text with a header line"
        raise InvalidInputError(
            f"task {name!r}: {place!r} cannot be read as a table ({error}); it needs {wanted}"
        ) from error
    if not table or not next(iter(table.values())):
        raise InvalidInputError(f"task {name!r}: {place!r} has no rows")
    return table


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
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(cell)
        except (ValueError, SyntaxError):
            continue
    raise InvalidInputError(
        f"{where}: row {row + 1} has {cell[:40]!r}, which cannot be read as a list; write "
        f'["a", "b"], or words with spaces between'
    )


def _is_json(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _separated(path: Path) -> dict[str, list[Any]]:
    import pandas as pd

    separator = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    # Everything as text first: a review that says "null" is no missing value.
    frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    return {str(column): frame[column].tolist() for column in frame}


def _json_lines(path: Path) -> dict[str, list[Any]]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is no object")
                rows.append(row)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return {column: [_cell(row.get(column)) for row in rows] for column in columns}


def _cell(value: Any) -> Any:
    """A cell as a table has it: lists stay, what is absent is empty."""
    if value is None:
        return ""
    return value if isinstance(value, (str, list)) else json.dumps(value)
