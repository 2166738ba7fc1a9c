"""Separated values: which sign separates, whether there is a header, what quotes mean."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.column_roles import named_label
from transfer_metrics.sources.tasks.label_values import number_of, plain_numbers

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 1_000_000
_SEPARATORS = (",", ";", "\t", "|")
_BLANKS = re.compile(r"[ \t]+")
_BEFORE, _AFTER = re.compile(r"[+-]?[0-9]+"), re.compile(r"[0-9]+([eE][+-]?[0-9]+)?")
_NO_WHOLE = re.compile(r"-0|0[0-9]+|.*[eE].*")
"""What a whole number is not: the parts of a number with a decimal comma that was cut."""
_MOST_TWINS, _LOOKED_AT = 100, 50
SPECTRUM = 5
"""Numbers that rise, from which on they may name columns, as wavelengths do."""
_QUOTED = re.compile(r'"[^"]*"')


def read_separated(
    text: str, suffix: str, header: str | None = None
) -> tuple[dict[str, list[str]], list[str]]:
    """The columns of a file of separated values, as text, and what may be a mistake.

    The separator is the usual one of the file's name, a tab for ``.tsv`` and a comma for others, if
    it cuts the first rows into as many cells as the header; otherwise one of ``_SEPARATORS`` that
    does, or blanks where all below the first line are numbers. Numbers with decimal commas or
    separated thousands are plain ones, see ``plain_numbers``.
    ``header`` is ``"no"`` if the first line is data, ``"yes"`` if it is known to be none.
    """
    if header not in (None, "yes", "no"):
        raise InvalidInputError(f"header={header!r}; say header=no where the first line is data")
    if not text.strip():
        raise ValueError("it is empty")
    told = re.match(r"sep=(.)\r?\n", text[:10])  # Excel's own hint
    text = text[told.end() :] if told else text
    separator = told[1] if told else _separator(text, suffix)
    if separator == " " and not told:
        text = "".join(f"{_BLANKS.sub(' ', line.strip())}\n" for line in text.splitlines())
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
        raise ValueError(
            f"the first row has more cells than the header; put cells that hold {separator!r} into "
            f"quotes, and write decimals with points"
        )
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
    if header == "no" and separator == ",":
        suspicions += _cut_decimals([*cells.values()])
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
    even: list[tuple[bool, bool, int, str]] = []
    several: list[str] = []
    for separator in (usual, *(s for s in _SEPARATORS if s != usual)):
        rows = _rows(text, separator, _LOOKED_AT)
        if len(text) > _LONGEST and len(rows) < _LOOKED_AT:
            rows = rows[:-1] or rows  # the last may have been cut
        if rows and len(rows[0]) > 1:
            several.append(separator)
            if len({len(row) for row in rows}) == 1:
                halves = not _are_numbers(rows)
                even.append((halves, named_label(rows[0]) is None, len(even), separator))
    if even:
        return min(even)[-1]
    lines = filter(None, map(str.strip, text[:_LONGEST].splitlines()[:_LOOKED_AT]))
    rows = [_BLANKS.split(line) for line in lines]
    if not several and {len(row) for row in rows} == {max(len(rows[0]), 2)} and _are_numbers(rows):
        return " "
    return (usual if usual in several else several[0]) if several else usual


def _are_numbers(rows: list[list[str]]) -> bool:
    """Whether all cells below the first line are numbers, with a comma or a point for decimals."""
    below = itertools.chain(*(rows[1:] or rows))
    return all(number_of(cell.replace(",", ".", 1)) is not None for cell in below)


def _cut_decimals(columns: list[list[str]]) -> list[str]:
    """What may be a mistake where decimal commas may have cut numbers in two; an error if sure."""
    before, after = columns[::2], columns[1::2]
    if len(before) != len(after) or not all(
        pattern.fullmatch(cell)
        for pattern, some in ((_BEFORE, before), (_AFTER, after))
        for cell in itertools.chain(*some)
    ):
        return []
    number, cure = f"{columns[0][0]},{columns[1][0]}", "write points, or ; between the columns"
    if any(map(_NO_WHOLE.fullmatch, itertools.chain(*columns))):
        raise ValueError(f"numbers such as {number!r} have decimal commas, which cut them; {cure}")
    told = f"lines such as {number!r} are read as two columns; if commas are decimal ones, {cure}"
    return [told] if len(columns) == 2 else []


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
    wavelengths = len(numbers) >= SPECTRUM and numbers == sorted(set(numbers))
    if not (counted or wavelengths):
        return True
    return any(
        name.strip() and bool((frame.iloc[:, place] == name).any())
        for place, name in enumerate(names[: len(frame.columns)])
    )
