"""Files of features and of labels for ``score``: arrays, and tables of numbers."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, about, warn
from transfer_metrics.sources.tasks.array_files import read_arrays
from transfer_metrics.sources.tasks.column_roles import OF_INDEX, unused
from transfer_metrics.sources.tasks.label_values import ABSENT, number_of
from transfer_metrics.sources.tasks.pairing import check_row_names, counting
from transfer_metrics.sources.tasks.paths import foreign, refuse_address
from transfer_metrics.sources.tasks.separated_values import SPECTRUM
from transfer_metrics.sources.tasks.table_cells import Table
from transfer_metrics.sources.tasks.table_files import read_table
from transfer_metrics.untrusted import TABLE, read_text, visible

_SEPARATED = (".csv", ".tsv", ".txt")
_EVEN = 0.05
"""By how much steps of a spectrum differ, as a share, where its numbers are rounded."""
_CHANCE = 0.05
"""Share of rows that may rise as a spectrum does; of five numbers one in 120 does by chance."""
_POSITION, _WHOLE = re.compile(r"0|[1-9][0-9]*"), re.compile(r"[+-]?[0-9]+")
"""Positions of columns, and whole numbers, as they are written; floats of pandas have a point."""
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
    with about(repr(path)):
        values = table.numbers(columns)
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

    What names its rows is compared with what has ``named`` the examples. A first line that no other
    repeats is a header if it is the only one which is no number; and if there is one more line than
    examples, where it is no number or the ``0`` that pandas writes for a series without a name.
    """
    _check_place(path)
    if Path(path).suffix.lower() not in _TABLES:
        return read_arrays(path)
    table = _table(path, False)
    columns, left = _used(table)
    if columns == ["0", "1"] and table.cells("0") == [*map(str, range(table.rows))]:
        columns, left = ["1"], {"0": OF_INDEX}  # as pandas writes a series with header=False
    check_row_names(named, _names_of(table, left), path)
    if len(columns) != 1:
        raise InvalidInputError(
            f"{path!r} has {len(columns)} columns, {', '.join(map(repr, columns[:4]))}; give "
            f"labels in a file of one label per line, in quotes where they have commas"
        )
    labels = table.labels(columns[0])
    if Path(path).suffix.lower() not in _SEPARATED:
        return labels
    for number, line in enumerate(read_text(Path(path), TABLE).rstrip().splitlines(), start=1):
        if not line.strip():
            raise InvalidInputError(
                f"{path!r}: line {number} is empty; write a label there, or take that example out "
                f"of all"
            )
    first, *others = (str(cell).strip() for cell in labels)
    if columns != ["0"] or first in ABSENT:
        return labels
    is_name, is_longer = number_of(first) is None, len(labels) == count + 1
    if is_longer and first == "0" and first in others:
        raise InvalidInputError(
            f"{path!r} has {len(labels)} lines for {count} examples, and the first, '0', may be "
            f"the header that pandas writes; leave it out, such as by to_csv(header=False)"
        )
    alone = is_name and others and all(number_of(cell) is not None for cell in others)
    named_so = alone or (is_longer and (is_name or first == "0"))
    read = labels[1:] if named_so and first not in others else labels
    if abs(len(read) - count) == 1:
        raise InvalidInputError(
            f"{path!r} has {len(read)} labels for {count} examples; look whether the first line of "
            f"either file is a header, and leave it out if it is"
        )
    return read


def _check_place(path: str) -> None:
    """Refuse what is no file of numbers by its name, or an address."""
    told = "" if path.lower().endswith(".npy") else foreign(path)
    if told:
        raise InvalidInputError(f"{path!r} {told}")
    refuse_address(path, path, "file")


def _table(path: str, of_numbers: bool) -> Table:
    """The table in a file, of which the first line is data unless it can only be names."""
    separated = Path(path).suffix.lower() in _SEPARATED
    with about(repr(path)):
        table = read_table(path, "no" if separated else None, bare=True)
        return read_table(path, "yes") if separated and _has_header(table, of_numbers) else table


def _has_header(table: Table, of_numbers: bool) -> bool:
    """Whether the first row of a table can only be names, of numbers or else of labels.

    Names are cells of which none is a number, where there are several or all is to be numbers; and
    numbers that ``_name_columns``, or the ``0`` behind an index alone.
    """
    first = [str(table.cells(column)[0]).strip() for column in table.columns]
    rest = first[1:] if first[0] == "" else first
    if not rest or ABSENT & {*rest}:
        return False
    numbers = [n for cell in rest if (n := number_of(cell.replace(",", ""))) is not None]
    if not numbers:
        cells = zip(table.columns, first, strict=True)
        return of_numbers or (
            len(first) > 1 and not any(cell in table.cells(c)[1:] for c, cell in cells)
        )
    if len(numbers) < len(rest):
        return False
    if len(rest) < len(first) and numbers == [0]:
        return True
    return of_numbers and _name_columns(np.array(numbers, float), table)


def _name_columns(numbers: np.ndarray, table: Table) -> bool:
    """Whether numbers in the first row name columns, as positions, years and wavelengths do.

    They count from 0, as pandas does, or are some of such a count, over cells of which none is
    written as a whole number. Or they rise: whole ones over columns of which each has some that are
    not whole, where two are no wonder unless by one; and of a spectrum, over rows that hardly
    rise, either beyond all their numbers or, not whole, in even steps. A spectrum may fall alike.
    """
    steps, columns = np.diff(numbers), table.columns[-len(numbers) :]
    if len(steps) and numbers[0] == 0 and (steps == 1).all():
        return True
    first, *rows = zip(*map(table.cells, columns), strict=True)
    picked = rows and all(map(_POSITION.fullmatch, first)) and len({*first}) == len(first)
    if picked and not any(_WHOLE.fullmatch(cell) for row in rows for cell in row):
        return True
    falls = bool(len(steps) and (steps < 0).all())
    if not len(steps) or not (falls or (steps > 0).all()):
        return False
    try:
        below = table.numbers(columns)[1:]
    except InvalidInputError:  # which is told of when they are read
        return False
    whole = bool((numbers % 1 == 0).all())
    if falls:
        numbers, steps, below = numbers[::-1], -steps[::-1], below[:, ::-1]
    elif whole and (len(numbers) > 2 or steps[0] == 1) and (below % 1 != 0).any(axis=0).all():
        return True
    if (
        len(numbers) < SPECTRUM
        or not len(below)
        or (np.diff(below, axis=1) > 0).all(axis=1).mean() > _CHANCE
    ):
        return False
    beyond = numbers[0] > below.max() or numbers[-1] < below.min()
    return bool(beyond or (not whole and np.allclose(steps, steps.mean(), rtol=_EVEN)))


def _used(table: Table) -> tuple[list[str], dict[str, str]]:
    """All columns but for those that number the rows or have nothing, and why those are not."""
    left = {}
    for column in table.columns:
        held = table.holds(column)  # where it is names of files they are no inputs here
        if why := unused(table, column, "text" if held == "paths" else held):
            left[column] = why
    left = left if len(left) < len(table.columns) else {}  # better than nothing at all
    return [column for column in table.columns if column not in left], left


def _names_of(table: Table, left: Collection[str]) -> dict[str, list[str]]:
    """The cells of columns that are left out and may name the rows."""
    return {c: [*map(str, table.cells(c))] for c in left if not table.is_empty(c)}
