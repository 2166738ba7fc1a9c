"""Records as they come out of a file that anybody may have written, held to their types."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.untrusted import TABLE, check_size, parse_json, read_text

TEXTS = (
    "model", "model_id", "revision", "task", "task_id", "split", "layer", "pool", "head", "metric",
    "options", "intervals", "note", "error", "version", "created", "task_summary",
)  # fmt: skip
NUMBERS = (
    "value", "stderr", "depth", "load_seconds", "extract_seconds", "statistics_seconds", "seconds",
)  # fmt: skip
WHOLE = ("layer_index", "dim", "n", "round", "num_classes", "seed")
FIELDS = frozenset((*TEXTS, *NUMBERS, *WHOLE, "higher_is_better", "deviations"))
MOST_DEVIATIONS = 10_000
MOST_CELL, MOST_ROWS = 1 << 20, 10_000_000
"""Characters of a cell in a table of separated values, and rows of a table in Parquet."""


def typed(record: Any, where: str) -> dict[str, Any]:
    """A record whose fields have the types of the long table; numbers are finite or None.

    Args:
        record: fields of the long table; others are left out.
        where: what to call it in a message.

    Raises:
        InvalidInputError: it is no record, or a field has another type, such as text for a number.

    >>> found = typed({"model": "a", "n": 30.0, "value": math.inf}, "record 1")
    >>> found["n"], found["value"], found["error"]
    (30, None, 'the value is not finite')
    """
    if not isinstance(record, Mapping):
        raise InvalidInputError(f"{where} is not a record of a score table")
    found: dict[str, Any] = {name: _text(record.get(name), name, where) for name in TEXTS}
    found |= {name: _number(record.get(name), name, where) for name in (*NUMBERS, *WHOLE)}
    for name in WHOLE:
        if found[name] is not None:
            found[name] = int(found[name])
    if found["value"] is None and record.get("value") is not None and not found["error"]:
        found["error"] = "the value is not finite"
    higher = record.get("higher_is_better")
    found["higher_is_better"] = None if higher is None else higher not in (0, "False", "false")
    found["deviations"] = _deviations(record.get("deviations"), where)
    return found


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a ``.jsonl``, ``.csv`` or ``.parquet`` file of at most ``TABLE`` bytes.

    Columns that the long table does not have are left out. Parquet is unpacked piece by piece, and
    refused where that gives more than ``TABLE`` bytes.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no table; among these ``InvalidInputError`` for a field of another type.
    """
    readers = {".jsonl": _json_lines, ".csv": _separated, ".parquet": _parquet}
    rows = readers[path.suffix.lower()](path)
    return [typed(row, f"record {number}") for number, row in enumerate(rows, start=1)]


def _json_lines(path: Path) -> Iterator[Any]:
    # Not splitlines, which splits inside of strings.
    return (parse_json(line) for line in read_text(path, TABLE).split("\n") if line.strip())


def _separated(path: Path) -> Iterator[dict[str, Any]]:
    before = csv.field_size_limit(MOST_CELL)
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, TABLE), newline="")))
    except csv.Error as error:
        raise ValueError(error) from None
    finally:
        csv.field_size_limit(before)
    if not rows or "model" not in rows[0]:
        raise ValueError("it has no column 'model'")
    for row in rows:
        found: dict[str, Any] = {name: cell or None for name, cell in row.items() if name in TEXTS}
        for name in (*NUMBERS, *WHOLE):
            found[name] = float(row[name]) if row.get(name) else None
        found["higher_is_better"] = row.get("higher_is_better") or None
        found["deviations"] = parse_json(row["deviations"]) if row.get("deviations") else None
        yield found


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    from transfer_metrics.sources.optional import require

    require("pyarrow", "a table in Parquet", install="pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_size(path.stat().st_size, TABLE)
    try:
        with pq.ParquetFile(path) as file:
            about = file.metadata
            groups = (about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            check_size(sum(groups), TABLE, "it unpacks to")
            if about.num_rows > MOST_ROWS:
                raise ValueError(f"it has {about.num_rows} rows; at most {MOST_ROWS} are read")
            columns = [name for name in file.schema_arrow.names if name in FIELDS]
            if "model" not in columns:
                raise ValueError("it has no column 'model'")
            unpacked = 0
            for batch in file.iter_batches(1_000, columns=columns):
                unpacked += batch.nbytes
                check_size(unpacked, TABLE, "it unpacks to")
                yield from batch.to_pylist()
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error


def _text(value: Any, name: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        # Half a surrogate pair is no text: it can be neither written nor put into a data frame.
        return (value or "").encode("utf-8", "replace").decode("utf-8") or None
    if isinstance(value, Real) and math.isfinite(value):
        # A file of comma-separated values turns names that are numbers into numbers.
        return str(value)
    raise _wrong(value, name, where, "text")


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _wrong(value, name, where, "a number")
    if isinstance(value, Integral) and abs(int(value)) > 2**1000:
        raise _wrong("an integer of more than 300 digits", name, where, "a number")
    return float(value) if math.isfinite(value) else None


def _deviations(value: Any, where: str) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > MOST_DEVIATIONS:
        raise _wrong(value, "deviations", where, f"a list of at most {MOST_DEVIATIONS} numbers")
    numbers = [_number(v, "deviations", where) for v in value]
    # An error needs two blocks; with one of them missing nothing is known.
    known = [v for v in numbers if v is not None]
    return known if len(known) == len(numbers) > 1 else None


def _wrong(value: Any, name: str, where: str, wanted: str) -> InvalidInputError:
    return InvalidInputError(
        f"{where}: its {name} is {value!r:.60}, which is not {wanted}; write the table again with "
        f"table.save"
    )
