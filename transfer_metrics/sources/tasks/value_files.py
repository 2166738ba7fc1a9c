"""Files of features and of labels for ``score``: arrays, and tables of numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.tasks.array_files import read_arrays
from transfer_metrics.sources.tasks.column_roles import OF_INDEX, unused
from transfer_metrics.sources.tasks.foreign_files import foreign, refuse_address
from transfer_metrics.sources.tasks.label_values import ABSENT, number_of
from transfer_metrics.sources.tasks.pairing import check_row_names, counting
from transfer_metrics.sources.tasks.separated_values import gap_in
from transfer_metrics.sources.tasks.table_cells import Table
from transfer_metrics.sources.tasks.table_files import read_table
from transfer_metrics.untrusted import TABLE, read_text, visible

_SEPARATED = (".csv", ".tsv", ".txt")
_TABLES = (*_SEPARATED, ".json", ".jsonl", ".parquet")


def read_values(path: str) -> tuple[np.ndarray | dict[str, np.ndarray], dict[str, list[str]]]:
    """What ``read_arrays`` reads, or the (N, D) numbers of a table; and what names its rows.

    Of separated values the first line is data where it holds numbers that count nothing.
    """
    _check_place(path)
    if Path(path).suffix.lower() not in _TABLES:
        return read_arrays(path), {}
    table = _table(path, True)
    columns, left = _used(table)
    for column in columns:
        if table.holds(column) not in ("numbers", "lists"):
            first = next((c for c in map(str, table.cells(column)) if number_of(c) is None), "")
            raise InvalidInputError(
                f"{path!r}: column {visible(column, 40)!r} of it holds no numbers but "
                f"{visible(first, 40)!r}; give numbers alone, with points for decimals and a comma "
                f"or a tab between those of one example, and the labels in a file of their own"
            )
    try:
        values = table.numbers(columns)
    except InvalidInputError as error:
        raise _of_file(error, path) from error
    for column, why in left.items():
        if why != OF_INDEX:
            told = f"left out column {visible(column, 40)!r} ({why}); rename it if it is an input"
            warn(f"{path!r}: {told}")
    counted = (doubt.partition("; ")[0] for doubt in counting(values, columns))
    cured = (f"{doubt}; take it out of the file if it is a mistake" for doubt in counted)
    for doubt in (*table.suspicions, *cured):
        warn(f"{path!r}: {doubt}")
    return values, _names_of(table, left)


def read_labels_of(path: str, count: int, named: Mapping[str, Sequence[str]]) -> Any:
    """What ``read_arrays`` reads, or the labels of ``count`` examples, one in each row of a file.

    What names its rows is compared with what has ``named`` the examples. Where there is one more
    line than examples, the first is a header if it is no number and no other line is the same; and
    a first line that is the only one which is no number is a header in any case.
    """
    _check_place(path)
    if Path(path).suffix.lower() not in _TABLES:
        return read_arrays(path)
    table = _table(path, False)
    columns, left = _used(table)
    check_row_names(named, _names_of(table, left), path)
    if len(columns) != 1:
        raise InvalidInputError(
            f"{path!r} has {len(columns)} columns, {', '.join(map(repr, columns[:4]))}; give "
            f"labels in a file of one label per line, in quotes where they have commas"
        )
    labels = table.labels(columns[0])
    if Path(path).suffix.lower() in _SEPARATED and (line := gap_in(read_text(Path(path), TABLE))):
        raise InvalidInputError(
            f"{path!r}: line {line} is empty; write a label there, or take that example out of all"
        )
    if columns != ["0"]:
        return labels
    first, *others = (str(cell).strip() for cell in table.cells(columns[0]))
    if number_of(first) is not None or first in (*others, *ABSENT):
        return labels
    alone = others and all(number_of(cell) is not None for cell in others)
    return labels[1:] if alone or len(labels) == count + 1 else labels


def _check_place(path: str) -> None:
    """Refuse what is no file of numbers by its name, or an address."""
    told = "" if path.lower().endswith(".npy") else foreign(path)
    if told:
        raise InvalidInputError(f"{path!r} {told}")
    try:
        refuse_address(path, path)
    except InvalidInputError as error:
        raise _of_file(error, path) from error


def _of_file(error: InvalidInputError, path: str) -> InvalidInputError:
    """An error of a table as one of a file, whose name it has once."""
    told = str(error).removeprefix("task ")
    return InvalidInputError(told.removeprefix(f"{path!r}: " if told.count(repr(path)) > 1 else ""))


def _table(path: str, of_numbers: bool) -> Table:
    """The table in a file, of which the first line is data unless it can only be names.

    Names are cells of which none is a number, where there are several or all is to be numbers; and
    whole numbers that rise, as years do, while others below are not whole.
    """
    separated = Path(path).suffix.lower() in _SEPARATED
    try:
        table = read_table(path, path, "no" if separated else None)
        first = [str(table.cells(column)[0]).strip() for column in table.columns]
        rest = first[1:] if first[0] == "" else first
        names = bool(rest) and not any(
            c in ABSENT or number_of(c.replace(",", "")) is not None for c in rest
        )
        counted = len(rest) > 1 and all(c.isdecimal() for c in rest) and _count(rest, table)
        apart = not any(
            cell in table.cells(c)[1:] for c, cell in zip(table.columns, first, strict=True)
        )
        named = (names or counted) if of_numbers else names and apart and len(first) > 1
        return read_table(path, path, "yes") if separated and named else table
    except InvalidInputError as error:
        raise _of_file(error, path) from error


def _count(first: Sequence[str], table: Table) -> bool:
    """Whether whole numbers count from 0, as pandas does, or rise over others that are not whole.

    Two that rise are no wonder, unless by one.
    """
    numbers = [int(cell) for cell in first]
    steps = {after - before for before, after in pairwise(numbers)}
    if numbers == [*range(len(numbers))] or min(steps) <= 0:
        return bool(numbers == [*range(len(numbers))])
    below = (map(number_of, map(str, table.cells(c)[1:])) for c in table.columns[-len(first) :])
    measured = (any(isinstance(n, float) and n % 1 for n in column) for column in below)
    return all(measured) if len(first) > 2 or steps == {1} else False


def _used(table: Table) -> tuple[list[str], dict[str, str]]:
    """All columns but for those that number the rows or have nothing, and why those are not."""
    left = {c: why for c in table.columns if (why := unused(table, c, table.holds(c)))}
    left = left if len(left) < len(table.columns) else {}  # better than nothing at all
    return [column for column in table.columns if column not in left], left


def _names_of(table: Table, left: Collection[str]) -> dict[str, list[str]]:
    """The cells of columns that are left out and may name the rows."""
    return {c: [*map(str, table.cells(c))] for c in left if not table.is_empty(c)}
