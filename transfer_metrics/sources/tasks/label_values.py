"""Labels as people have them: one array of them, texts that are numbers, what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, time, timedelta
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.naming import a_type, told_apart

ABSENT = frozenset(
    ("", "NA", "N/A", "n/a", "#N/A", "nan", "NaN", "-nan", "null", "NULL", "None", "<NA>")
)
"""Texts that stand for no value, as tables have them."""
FEW = 20
"""So many different whole numbers are classes in any case."""
_TRUTH = {"true": 1.0, "false": 0.0}
_LONGEST = 4_000
"""Digits of a number; Python refuses to read more than 4 300."""
_WHOLE = re.compile(r"0|-?[1-9][0-9]*")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?[Ii]nf(inity)?")
_DIGITS = re.compile(r"[+-]?[0-9][0-9.,]*([eE][+-]?[0-9]+)?")
_COMMAS = re.compile(r"[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]*)?")
_POINTS = re.compile(r"[+-]?[1-9][0-9]{0,2}(\.[0-9]{3})+(,[0-9]*)?")
_DECIMAL = re.compile(r"[+-]?[0-9]+,[0-9]+([eE][+-]?[0-9]+)?")
_POINT = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+([eE][+-]?[0-9]+)?")


def as_array(values: Any) -> np.ndarray:
    """Labels of any container as one array: (N,), or (N, K) for several numbers per example.

    What is no array of numbers or booleans has the type ``object``, so that nothing is rounded or
    cut; bytes and dates become text.
    """
    if hasattr(values, "detach"):
        values = from_tensor(values)
    elif hasattr(values, "to_numpy") or not isinstance(values, (list, tuple, np.ndarray)):
        whole = "int" in str(getattr(values, "dtype", "")).lower()
        array = np.asarray(values)
        # Of whole numbers with one missing pandas makes floats, of which some are equal.
        values = values.to_numpy(object) if whole and array.dtype.kind == "f" else array
    if isinstance(values, np.ndarray) and values.dtype.kind in "mM":
        # Of nanoseconds Python makes whole numbers.
        values = values.astype(f"{values.dtype.kind}8[us]")
    if isinstance(values, np.ndarray) and not values.ndim:
        raise InvalidInputError(
            f"labels are {a_type(values.item())}, and not one per example in their order; "
            f"give a list or an array"
        )
    if np.ma.is_masked(values):
        raise InvalidInputError("some labels are masked; leave those examples out")
    if isinstance(values, np.ndarray) and values.ndim > 1 and values.size == len(values):
        values = np.asarray(values).ravel()  # a matrix stays one of two axes
    if isinstance(values, np.ndarray) and values.ndim > 2:
        raise _of_shape(values.shape[1:])
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        wide = values.dtype.kind == "f" and values.dtype.itemsize > 8
        return values.astype(np.float64) if wide else values
    cells = values.tolist() if isinstance(values, np.ndarray) else values
    kinds = set(map(type, cells))
    if not kinds <= {str, bool, int, float}:
        cells = [_single(cell) for cell in cells]
        kinds = set(map(type, cells))
    if complex in kinds:
        raise InvalidInputError(
            "Complex data not supported: some labels are complex numbers; give real ones, or names"
        )
    if kinds <= {bool, int, float}:
        array = np.asarray(cells)
        # Whole numbers that no type of numpy holds become floats, of which some are equal.
        if float in kinds or array.dtype.kind != "f":
            return array
    elif not kinds & {str, type(None)}:
        try:
            table = np.asarray(cells)
        except ValueError:  # of different lengths
            table = np.empty(0)
        if table.ndim > 2:
            raise _of_shape(table.shape[1:])
        if table.ndim == 2 and table.dtype.kind in "biuf":
            return table
    return np.fromiter(cells, object, len(cells))  # lists, even of one length, stay lists


def from_tensor(values: Any) -> np.ndarray:
    """A tensor as an array; numpy has no bfloat16, which float32 holds."""
    check_tensor(values, "a tensor of the data")
    values = values.detach().cpu().resolve_conj().resolve_neg()
    array: np.ndarray = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
    return array


def is_absent(cell: Any, texts: bool = True) -> bool:
    """Whether a cell is none, NaN or empty, or where ``texts`` count a text such as ``NA``."""
    if isinstance(cell, str):
        return cell.strip() in ABSENT if texts else not cell.strip()
    return is_none(cell)


def is_none(value: Any) -> bool:
    """Whether a cell of any library stands for nothing: None, NaN, ``pandas.NA``."""
    if isinstance(value, (float, Decimal)):
        return value != value
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _of_shape(shape: tuple[int, ...]) -> InvalidInputError:
    return InvalidInputError(
        f"each label has the shape {shape}, as masks have; give one label per example, or (K,) "
        f"numbers as targets of a regression"
    )


def absent(labels: np.ndarray, texts: bool = True) -> np.ndarray:
    """(N,) which labels of ``as_array`` are none, NaN, the empty text, or a text such as ``NA``."""
    if labels.dtype.kind == "f":
        return np.asarray(np.isnan(labels.reshape(len(labels), -1)).any(axis=1))
    if labels.dtype != object:
        return np.zeros(len(labels), bool)
    return np.fromiter((is_absent(label, texts) for label in labels), bool, len(labels))


def read_texts(labels: Mapping[str, np.ndarray], kind: str | None) -> dict[str, np.ndarray]:
    """Labels with texts turned into numbers, in all splits alike, where that loses nothing.

    Texts are numbers where every one reads back the same: ``"7"``, ``"0.5"``, ``"2.0"``, not
    ``"007"``, ``"1_1"``, ``"+1"`` or ``"1e3"``. Where all are numbers in any notation and some are
    not whole they are measured rather than named, so the notation does not matter. Splits that have
    numbers stay as they are. Nothing may be absent.
    """
    cells = [cell for array in labels.values() if array.dtype == object for cell in array.tolist()]
    if not all(isinstance(cell, str) for cell in cells):
        return dict(labels)
    numbers = {text: number_of(text) for text in set(cells)}
    if None in numbers.values() or any(a.dtype.kind not in "iufO" for a in labels.values()):
        return dict(labels)
    exact = all(map(_reads_back, numbers)) and len({*numbers.values()}) == len(numbers)
    measured = any(isinstance(n, float) and not n.is_integer() for n in numbers.values())
    if not (exact or kind == "regression" or (kind is None and measured)):
        return dict(labels)
    return {
        split: as_array([numbers[text] for text in array]) if array.dtype == object else array
        for split, array in labels.items()
    }


def number_of(text: str) -> int | float | None:
    """The number that a text is in decimal notation, blanks around it aside, or none.

    >>> number_of("12"), number_of(" 1e3"), number_of("1_1"), number_of("nan")
    (12, 1000.0, None, None)
    """
    text = text.strip()
    if _WHOLE.fullmatch(text):
        return int(text) if len(text) < _LONGEST else None
    return float(text) if _NUMBER.fullmatch(text) else None


def read_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """Cells as float64, NaN where there is nothing; None where some are no numbers, or all absent.

    A column of which all texts are true or false, in any case, is one of 1 and 0. Lists of numbers,
    all of one length, are vectors (N, D).
    """
    if all(isinstance(cell, list) for cell in cells):
        plain = all(type(number) in (int, float) for cell in cells for number in cell)
        even = len({*map(len, cells)}) == 1
        return np.array(cells, np.float64) if plain and even and cells[0] else None
    with suppress(TypeError, ValueError, OverflowError):
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
        number = np.nan if is_absent(cell) else number_of(cell) if isinstance(cell, str) else cell
        if not isinstance(number, (int, float)):
            return None
        # By its text, which may be of a whole number beyond those of float64.
        numbers.append(float(str(int(number) if isinstance(number, bool) else number)))
    return None if np.isnan(numbers).all() else np.array(numbers)


def plain_numbers(columns: dict[str, list[str]], commas: bool) -> list[str]:
    """Write columns of numbers with points for decimals only; what may be a mistake in that.

    ``3,5`` has a decimal comma unless ``commas`` separate cells, ``1.234,5`` has one in any case;
    ``1,234.5``, ``1,234,567`` and ``1.234.567`` have separated thousands. So has ``1,234`` where
    commas separate cells, and ``1.234`` where another column has decimal commas.
    """
    suspicions, decimal, pointed = [], False, {}
    for column, cells in columns.items():
        found = [cell.strip() for cell in cells if cell.strip() not in ABSENT]
        marked = [cell for cell in found if "," in cell]
        if not found or not _DIGITS.fullmatch(found[0]):
            continue
        numbers = all("," in cell or number_of(cell) is not None for cell in found)
        if not marked:
            points = [cell for cell in found if "." in cell]
            if points and all(map(_POINTS.fullmatch, points)):
                pointed[column] = any(cell.count(".") > 1 for cell in points)
        elif (
            all(map(_COMMAS.fullmatch, marked)) and numbers and (commas or _sure(marked, ".", ","))
        ):
            columns[column] = [cell.replace(",", "") for cell in cells]
            if not _sure(marked, ".", ","):
                suspicions.append(
                    f"column {column!r} has commas such as {marked[0]!r}, which are taken to "
                    f"separate thousands; write points if they are decimal ones"
                )
        elif all(_DECIMAL.fullmatch(c) or _POINTS.fullmatch(c) for c in marked) and (
            not commas or any("." in cell for cell in marked)
        ):
            decimal, dots = True, any("." in cell for cell in marked)
            plain = [cell.replace(".", "") for cell in cells] if dots else cells
            columns[column] = [cell.replace(",", ".") for cell in plain]
            if all(map(_COMMAS.fullmatch, marked)):
                suspicions.append(
                    f"column {column!r} has commas such as {marked[0]!r}, which are taken for "
                    f"decimal ones; write the numbers without any if they separate thousands"
                )
    for column, several in pointed.items():
        if several or decimal:
            first = next(cell for cell in columns[column] if "." in cell)
            columns[column] = [cell.replace(".", "") for cell in columns[column]]
            if not several:
                suspicions.append(
                    f"column {column!r} has points such as {first!r}, which are taken to separate "
                    f"thousands, since other columns have decimal commas; write commas if not"
                )
    return suspicions


def _sure(cells: Sequence[str], decimal: str, thousands: str) -> bool:
    """Whether one of the cells can be read in one way only."""
    return any(decimal in cell or cell.count(thousands) > 1 for cell in cells)


def _reads_back(text: str) -> bool:
    if _WHOLE.fullmatch(text):
        return True
    value = float(text)
    # 2.00 is plainly a float and a whole number, so a class of the name 2.
    return repr(value) == text or (value.is_integer() and _POINT.fullmatch(text) is not None)


def _single(value: Any) -> Any:
    """One label as Python has it."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return _single(value[0])
    if hasattr(value, "item") and math.prod(getattr(value, "shape", ())) == 1:
        value = value.item()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, (date, time, timedelta)) and not is_none(value):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    return None if is_none(value) else value


_ONLY_NUMBERS = "give columns of numbers only, such as by OneHotEncoder of scikit-learn for texts"


def as_numbers(values: Any, where: str) -> np.ndarray:
    """Features of any container as an array of real or complex numbers in the machine's own order.

    Columns of a data frame may be of several types of numbers; what is not known in them is NaN.
    """
    check_container(values, where)
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise _no_rows(values, where, str(error)) from error
    if array.dtype == object:
        array = _from_objects(array, values, where)
    if array.dtype.kind not in "biufc":
        cure = _ONLY_NUMBERS
        if array.dtype.kind == "V":
            cure = "give frame.to_numpy(), or structured_to_unstructured of numpy.lib.recfunctions"
        raise InvalidInputError(
            f"{where} is not a numeric array: it holds values of type {array.dtype}; {cure}"
        )
    if array.dtype.kind in "fc" and array.dtype.itemsize > 8 * (1 + (array.dtype.kind == "c")):
        array = array.astype(np.float64 if array.dtype.kind == "f" else np.complex128)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def written_numbers(frame: Any, cells: np.ndarray, where: str) -> np.ndarray | None:
    """The numbers of a data frame in which they are texts, as tables read them; None of others."""
    names = told_apart(map(str, getattr(frame, "columns", range(cells.shape[1]))))
    texts = {
        name: ["" if is_none(cell) else str(cell) for cell in column]
        for name, column in zip(names, cells.T, strict=True)
        if any(isinstance(cell, str) for cell in column)
    }
    doubts = plain_numbers(texts, commas=False)
    found = {
        name: [math.nan if is_absent(cell) else number_of(cell) for cell in column]
        for name, column in texts.items()
    }
    if not found or any(None in column or all(map(is_none, column)) for column in found.values()):
        return None
    for doubt in doubts:
        warn(f"{where}: {doubt}")
    read = [found.get(name, list(column)) for name, column in zip(names, cells.T, strict=True)]
    return as_numbers(np.array(read, object).T, where)


def _from_objects(array: np.ndarray, values: Any, where: str) -> np.ndarray:
    """Numbers that are kept as objects of Python, or columns of several types, as float64."""
    known = []
    for place, cell in enumerate(array.ravel()):
        lacks = cell is None or type(cell).__name__ == "NAType"
        if not (lacks or isinstance(cell, (Real, Decimal))):
            where_in = [int(i) for i in np.unravel_index(place, array.shape)]
            at = f"row {where_in[0]}" if where_in else "it"
            if len(where_in) == 2 and getattr(values, "columns", None) is not None:
                at = f"column {values.columns[where_in[1]]!r} of {at}"
            told = f"{at} holds {cell!r:.60} of type {type(cell).__name__}"
            if isinstance(cell, str) and number_of(cell) is not None:
                told += ", a number as text, such as astype(float) reads"
            raise _no_rows(values, where, told)
        known.append(math.nan if lacks else cell)
    try:
        return np.array([float(cell) for cell in known]).reshape(array.shape)
    except OverflowError as error:
        raise InvalidInputError(f"{where} has a number too large for float64") from error


def _no_rows(values: Any, where: str, told: str) -> InvalidInputError:
    """The error of what is no table of numbers: rows of different lengths, or what else is told."""
    cure = "give one row of as many numbers per example"
    if hasattr(values, "columns"):
        cure = _ONLY_NUMBERS
    else:
        with suppress(TypeError):
            lengths = sorted({len(row) for row in values if not isinstance(row, (str, bytes))})
            if len(lengths) > 1:
                told = f"rows of {lengths[0]} to {lengths[-1]} numbers"
    return InvalidInputError(f"{where} is not a numeric array: {told}; {cure}")


def check_tensor(values: Any, where: str) -> None:
    """Refuse tensors of which numpy has no numbers: sparse, quantised, nested or without values."""
    if not hasattr(values, "detach"):
        return
    odd = {
        "nested": (values.is_nested, "X.to_padded_tensor(0), or a list of tensors"),
        "sparse": (str(values.layout) != "torch.strided", "X.to_dense()"),
        "quantised": (values.is_quantized, "X.dequantize()"),
        "meta": (values.device.type == "meta", "one with values"),
        str(values.dtype): ("float8" in str(values.dtype), "X.float()"),
    }
    for what, (is_such, cure) in odd.items():
        if is_such:
            raise InvalidInputError(f"{where}: a {what} tensor is not read; give {cure}")


def check_container(values: Any, where: str) -> None:
    """Refuse what loses something when read: sparse matrices, and arrays with masked numbers."""
    check_tensor(values, where)
    if hasattr(values, "toarray") and hasattr(values, "nnz"):
        raise InvalidInputError(f"{where}: a sparse matrix is not read; give X.toarray()")
    if np.ma.is_masked(values):
        mask = np.ma.getmaskarray(values)
        row = int(np.argwhere(mask)[0][0])
        raise InvalidInputError(
            f"{where}: {int(mask.sum())} of {mask.size} numbers are masked, the first in row "
            f"{row}; fill them (X.filled(0)), or drop those rows"
        )
