"""Files of tables: separated values, of which the form is found out, JSON lines, Parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.column_roles import Holds, Table, named_label
from transfer_metrics.sources.tasks.foreign_files import check_rows, foreign
from transfer_metrics.sources.tasks.label_values import ABSENT, number_of, plain_numbers
from transfer_metrics.sources.tasks.parquet import read_parquet
from transfer_metrics.sources.tasks.paths import existing
from transfer_metrics.untrusted import TABLE, parse_json, read_text

if TYPE_CHECKING:
    import pandas as pd

_TRUTH = {"true": 1.0, "false": 0.0}
_MOST_LOOKED_AT = 1000
_MOST_CELLS = 100_000_000
"""Rows times columns of a table in JSON, where a short line can add a column to all others."""
_LONGEST = 1_000_000
_SEPARATORS = (",", ";", "\t", "|")
_MOST_TWINS, _LOOKED_AT, _SPECTRUM = 100, 50, 5
_JSON = re.compile(r"\s*(\{|\[\s*[\{\[])")
_QUOTED = re.compile(r'"[^"]*"')


def read_table(place: str, name: str, header: str | None = None) -> Table:
    """A table from a file of separated values or JSON lines, or from files of Parquet.

    A file that begins with ``{`` has a JSON object per line, one with ``[{`` a list of them.
    No more than ``untrusted.TABLE`` bytes are read, but of Parquet.
    """
    if (packed := read_parquet(place, name)) is not None:
        _refuse_header(header, name)
        return packed
    path = existing(place, name)
    lines = False
    suspicions: list[str] = []
    try:
        text = read_text(path, TABLE)
        lines = _JSON.match(text) is not None
        if lines:
            _refuse_header(header, name)
            table: dict[str, list[Any]] = _json_lines(text)
        else:
            table, suspicions = read_separated(text, path.suffix.lower(), header)
    except InvalidInputError as error:
        raise InvalidInputError(f"task {name!r}: {error}") from error
    except (ValueError, OSError, OverflowError, MemoryError, csv.Error) as error:
        columns = "UTF-8 text, a header line, as many cells below"
        wanted = "one JSON object per line" if lines else columns
        told = foreign(path) or f"cannot be read as a table ({error}); it needs {wanted}"
        raise InvalidInputError(f"task {name!r}: {place!r} {told}") from error
    if not table or not next(iter(table.values())):
        raise InvalidInputError(
            f"task {name!r}: {place!r} has no rows; add a row per example"
            f"{'' if lines else ' below the header'}"
        )
    return _TextTable(table, name, str(path.parent), suspicions)


def _refuse_header(header: str | None, name: str) -> None:
    if header is not None:
        raise InvalidInputError(f"header= applies to separated values only; leave it out ({name})")


def _json_lines(text: str) -> dict[str, list[Any]]:
    listed = text.lstrip().startswith("[")
    # Not splitlines, which splits inside of strings.
    lines = ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    found = parse_json(text) if listed else []
    numbered = list(enumerate(found, 1) if listed else ((n, parse_json(x)) for n, x in lines))
    rows = [row for _, row in numbered]
    check_rows(rows)
    for number, row in numbered:
        if not isinstance(row, dict):
            raise ValueError(f"{'row' if listed else 'line'} {number} is no object")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if len(columns) * len(rows) > _MOST_CELLS:
        raise ValueError(f"its {len(rows)} rows have {len(columns)} different names of columns")
    return {column: [row.get(column) for row in rows] for column in columns}


class _TextTable(Table):
    """Cells in memory that are texts, or what JSON knows: numbers, booleans, lists, none."""

    def __init__(
        self, cells: Mapping[str, list[Any]], name: str, folder: str, suspicions: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.columns = tuple(cells)
        self.rows = len(next(iter(cells.values())))
        self.suspicions = tuple(suspicions)
        self._cells = cells
        self._folder = folder
        self._numbers: dict[str, np.ndarray | None] = {}

    def holds(self, column: str) -> Holds:
        cells = self._cells[column]
        if any(isinstance(cell, list) for cell in cells):
            return "lists"
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
        def is_there(cell: Any) -> bool:
            return not isinstance(cell, str) or cell.strip() not in ABSENT

        def is_odd(cell: Any) -> bool:
            return isinstance(cell, str) and is_there(cell) and number_of(cell) is None

        cells = self._cells[column]
        start = cells[:_MOST_LOOKED_AT]
        if 2 * sum(map(is_odd, start)) >= sum(map(is_there, start)):
            return None
        return next((row for row, cell in enumerate(cells) if is_odd(cell)), None)

    def texts(self, columns: Sequence[str]) -> Sequence[Any]:
        if len(columns) == 1:
            return self.cells(columns[0])
        return list(zip(*map(self.cells, columns), strict=True))

    def numbers(self, columns: Sequence[str]) -> np.ndarray:
        return np.stack([self._whole(column) for column in columns], axis=1)

    def images(self, column: str, root: str | None) -> Sequence[Any]:
        return self.named_images(column, root or self._folder)

    def _read(self, column: str) -> np.ndarray | None:
        if column not in self._numbers:
            self._numbers[column] = _read_numbers(self._cells[column])
        return self._numbers[column]

    def _whole(self, column: str) -> np.ndarray:
        values = self._read(column)
        if values is not None and not np.isnan(values).any():
            return values
        for row, cell in enumerate(map(str, self.cells(column)), start=1):
            if not cell.strip():
                raise InvalidInputError(
                    f"task {self.name!r}: row {row} has nothing in column {column!r}; fill it or "
                    f"leave the row out"
                )
            if cell.strip() in ABSENT or number_of(cell) is None:
                cure = "leave the column out" if values is None else "fill it, or leave it out"
                raise InvalidInputError(
                    f"task {self.name!r}: row {row} has {cell!r} in column {column!r}, which is "
                    f"no number; {cure} with ?features=…"
                )
        raise InvalidInputError(f"task {self.name!r}: column {column!r} holds no numbers")


def _read_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """Cells as float64, NaN where there is nothing; None where some are no numbers, or all absent.

    A column of which all texts are true or false, in any case, is one of 1 and 0.
    """
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        values = np.array(list(map(float, cells)))
        # What Python reads as a number and nobody else writes.
        odd = (isinstance(cell, str) and ("_" in cell or not cell.isascii()) for cell in cells)
        if not any(odd):
            return values
    text = next((cell for cell in cells if isinstance(cell, str)), "")
    if text.strip().lower() in _TRUTH:
        truths = [_TRUTH.get(str(cell).strip().lower()) for cell in cells]
        return None if None in truths else np.array(truths, np.float64)
    numbers = []
    for cell in cells:
        number = number_of(cell) if isinstance(cell, str) else cell
        if cell is None or (number is None and cell.strip() in ABSENT):
            number = np.nan
        if not isinstance(number, (int, float)):
            return None
        # By its text, which may be of a whole number beyond those of float64.
        numbers.append(float(str(int(number) if isinstance(number, bool) else number)))
    return None if np.isnan(numbers).all() else np.array(numbers)


def read_separated(
    text: str, suffix: str, header: str | None = None
) -> tuple[dict[str, list[str]], list[str]]:
    """The columns of a file of separated values, as text, and what may be a mistake.

    The separator is the usual one of the file's name, a tab for ``.tsv`` and a comma for others, if
    it cuts the first rows into as many cells as the header; otherwise one of ``_SEPARATORS`` that
    does. Numbers with decimal commas or separated thousands are plain ones, see ``plain_numbers``.
    ``header`` is ``"no"`` if the first line is data, ``"yes"`` if it is known to be none.
    """
    if header not in (None, "yes", "no"):
        raise InvalidInputError(f"header={header!r}; say header=no where the first line is data")
    if not text.strip():
        raise ValueError("it is empty")
    told = re.match(r"sep=(.)\r?\n", text[:10])  # Excel's own hint
    text = text[told.end() :] if told else text
    separator = told[1] if told else _separator(text, suffix)
    if (
        '\\"' in text
        and _is_broken(text, separator)
        and not _is_broken(text, separator, escapechar="\\")
    ):
        raise ValueError(
            "quotes in its texts have backslashes before them; double the quotes instead, such as "
            "by pandas.read_csv(path, escapechar='\\\\').to_csv(path, index=False)"
        )
    first = _rows(text, separator, 2)
    names = first[0] if first else []
    if len(names) - len(set(names)) > _MOST_TWINS and header != "no":
        raise ValueError("many columns have the same name")
    if len(first) > 1 and len(first[1]) > len(names):
        raise ValueError("the first row has more cells than the header")
    twins = [name for name, times in Counter(names).items() if times > 1 and name.strip()]
    # Everything as text first: a review that says "null" is no missing value.
    frame = _frame(text, separator, header)
    suspicions = []
    if _swallowed(frame, text, separator):
        frame = _frame(text, separator, header, csv.QUOTE_NONE)
        suspicions.append(
            "some cells begin with a quote that does not end, so quotes are read as any other "
            "sign; put texts that hold quotes into quotes, and double those inside"
        )
    columns = [str(column) for column in frame]
    stripped = [column.strip() for column in columns]
    frame.columns = stripped if len({*stripped}) == len({*columns}) else columns
    if header != "no":
        _refuse_second_header(frame, names)
        if header is None and _looks_like_data(frame, names):
            suspicions.append(
                f"the header {', '.join(map(repr, names[:4]))}{' …' if len(names) > 4 else ''} "
                f"looks like data; if the file has none, say header=no, and header=yes if it has"
            )
    if twins and header != "no":
        suspicions.append(
            f"several columns are called {twins[0]!r}, and the second is read as "
            f"{f'{twins[0]}.1'!r}; take it out of the file, or name it otherwise"
        )
    cells = {str(column): frame[column].tolist() for column in frame}
    return cells, suspicions + plain_numbers(cells, separator == ",")


def _frame(
    text: str, separator: str, header: str | None, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> pd.DataFrame:
    import pandas as pd

    with warnings.catch_warnings():
        # Cells beyond the header would otherwise shift all others, or be left out.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(
                io.StringIO(text),
                sep=separator,
                header=None if header == "no" else 0,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                quoting=quoting,
            )
        except pd.errors.ParserWarning:
            raise ValueError("a row has more cells than the header") from None
        except pd.errors.ParserError as error:
            line = " ".join(str(error).split()).removeprefix("Error tokenizing data. C error: ")
            raise ValueError(
                f"a row has more cells than the header, or a quote has no end: {line}"
            ) from None


def _swallowed(frame: pd.DataFrame, text: str, separator: str) -> bool:
    """Whether quotes that open nothing made cells of whole rows, and rows are even without them.

    Where rows are even either way, a quoted header or doubled quotes within such a cell say that
    quotes are meant; without these it is not certain, and an error.
    """
    least = max(1, len(frame.columns) - 1)
    lines = text.count("\n") or text.count("\r")
    if '"' not in text or lines <= len(frame):
        return False
    found = (
        (row, cell)
        for column in range(len(frame.columns))
        for row, cell in enumerate(frame.iloc[:, column].tolist())
        if isinstance(cell, str) and ("\n" in cell or "\r" in cell)
    )
    whole = [(row, cell) for row, cell in found if cell.count(separator) >= least]
    if not whole:
        return False
    plain = _rows(text, separator, quoting=csv.QUOTE_NONE)
    even, broken = {len(row) for row in plain} == {len(frame.columns)}, _is_broken(text, separator)
    if even and broken:
        return True
    doubled = all('"' in cell for _, cell in whole)
    if broken or (even and not doubled and not all(map(_QUOTED.fullmatch, plain[0]))):
        row, cell = min(whole)
        raise ValueError(
            f"row {row + 1} has a cell of several lines, {cell[:30]!r} …, that may be rows after a "
            f"quote without an end; double the quotes inside of texts, and take line breaks out"
        )
    return False


def _is_broken(text: str, separator: str, **options: Any) -> bool:
    """Whether signs follow a quote that ends."""
    try:
        deque(_reader(text, separator, strict=True, **options), maxlen=0)
    except csv.Error as error:
        return "expected" in str(error)  # and not a long cell
    return False


def _reader(text: str, separator: str, **options: Any) -> Iterator[list[str]]:
    """The rows that ``csv`` finds, with lines of all three ends."""
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, **options)


def _rows(text: str, separator: str, count: int | None = None, **options: Any) -> list[list[str]]:
    """The first rows that are not empty, or all, as far as they can be read."""
    text = text if count is None else text[:_LONGEST]
    rows = filter(None, _reader(text, separator, **options))
    found = []
    with contextlib.suppress(csv.Error):  # of a long text; pandas has no such limit
        for row in itertools.islice(rows, count):
            found.append(row)
    return found


def _separator(text: str, suffix: str) -> str:
    usual = "\t" if suffix in (".tsv", ".tab") else ","
    even: list[tuple[bool, int, str]] = []
    several: list[str] = []
    for separator in (usual, *(s for s in _SEPARATORS if s != usual)):
        rows = _rows(text, separator, _LOOKED_AT)
        if len(text) > _LONGEST and len(rows) < _LOOKED_AT:
            rows = rows[:-1] or rows  # the last may have been cut
        if rows and len(rows[0]) > 1:
            several.append(separator)
            if len({len(row) for row in rows}) == 1:
                even.append((named_label(rows[0]) is None, len(even), separator))
    if even:
        return min(even)[-1]
    return (usual if usual in several else several[0]) if several else usual


def _refuse_second_header(frame: pd.DataFrame, names: list[str]) -> None:
    """Refuse a line that repeats the header, as files have that were written one after another."""
    if not len(frame.columns) or len(names) != len(frame.columns):
        return
    for row in (frame.iloc[:, 0] == names[0]).to_numpy().nonzero()[0].tolist():
        if frame.iloc[row].tolist() == names:
            raise ValueError(f"row {row + 1} repeats the header; remove that line")


def _looks_like_data(frame: pd.DataFrame, names: list[str]) -> bool:
    """Whether names are numbers that count nothing, or one is a value of its own column."""
    numbers = [n for n in map(number_of, names) if n is not None]
    counted = not numbers
    if numbers and abs(numbers[0]) < 1e9:
        counted = numbers == list(range(int(numbers[0]), int(numbers[0]) + len(numbers)))
    wavelengths = len(numbers) >= _SPECTRUM and numbers == sorted(set(numbers))
    if not (counted or wavelengths):
        return True
    return any(
        name.strip() and bool((frame.iloc[:, place] == name).any())
        for place, name in enumerate(names[: len(frame.columns)])
    )
