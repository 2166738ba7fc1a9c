"""Records in files, one row each: JSON lines, separated values, Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import check_file, replacing
from transfer_metrics.results.record import COLUMNS, Record
from transfer_metrics.sources.optional import require
from transfer_metrics.untrusted import TABLE, check_size, parse_json, read_text

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".jsonl", ".csv", ".parquet")
_MOST_CELL, _MOST_ROWS = 1 << 20, 10_000_000
"""Characters of a cell in a table of separated values, and rows of a table in Parquet."""
_NUMBERS = (float, int)
_SAVED = COLUMNS | {"view": str}


def read_records(path: Path) -> tuple[list[Record], str]:
    """The records of a file of at most ``TABLE`` bytes, and the view of the table that it was.

    Columns that the long table does not have are left out. Parquet is unpacked piece by piece, and
    refused where that gives more than ``TABLE`` bytes. What cannot be read is an ``OSError``, what
    is no table a ``ValueError``.
    """
    rows = list(_READERS[_checked_suffix(path)](path))
    view = rows[0].get("view") if rows and isinstance(rows[0], Mapping) else None
    return [Record.of(row, f"record {number}") for number, row in enumerate(rows, 1)], view or ""


def write_records(path: Path, records: Sequence[Record], view: str) -> None:
    """Write records, and a view other than ``"best"`` as a further column, whole or not at all."""
    suffix = _checked_suffix(path)
    check_file(path, (b"metric",))
    seen = {} if view == "best" else {"view": view}
    with replacing(path) as temporary:
        if suffix == ".jsonl":
            rows = ({**r.as_dict(), **seen} for r in records)
            lines = (json.dumps(r, allow_nan=False, default=str) for r in rows)
            temporary.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        elif suffix == ".csv":
            # A carriage return on its own would end a line where a reader finds it bare.
            bare = any("\r" in str(value) for r in records for value in r.as_dict().values())
            frame_of(records).assign(**seen).to_csv(
                temporary,
                index=False,
                quoting=csv.QUOTE_NONNUMERIC if bare else csv.QUOTE_MINIMAL,
            )
        else:
            _require_pyarrow()
            frame_of(records).assign(**seen).to_parquet(temporary, index=False)


def frame_of(records: Iterable[Record]) -> pd.DataFrame:
    """Records as a DataFrame with all columns, numbers of which may be missing as floats."""
    import pandas as pd

    frame = pd.DataFrame([r.as_dict() for r in records], columns=list(COLUMNS))
    return frame.astype({name: float for name, kind in COLUMNS.items() if kind is float})


def _checked_suffix(path: Path) -> str:
    """The ending of a file, if records can be read from and written to one of that."""
    if (suffix := path.suffix.lower()) not in FORMATS:
        raise InvalidInputError(
            f"cannot tell the format of {path.name!r}; end its name in {', '.join(FORMATS)}"
        )
    return suffix


def _json_lines(path: Path) -> Iterator[Any]:
    # Not splitlines, which splits inside of strings.
    return (parse_json(line) for line in read_text(path, TABLE).split("\n") if line.strip())


def _separated(path: Path) -> Iterator[dict[str, Any]]:
    before = csv.field_size_limit(_MOST_CELL)
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, TABLE), newline=""))
        columns, rows = reader.fieldnames or (), list(reader)
    except csv.Error as error:
        raise ValueError(error) from None
    finally:
        csv.field_size_limit(before)
    if "model" not in columns:
        raise ValueError("it has no column 'model' between commas")
    for row in rows:
        yield {
            name: float(row[name]) if kind in _NUMBERS else row[name]
            for name, kind in _SAVED.items()
            if row.get(name)
        }


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    _require_pyarrow()
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_size(path.stat().st_size, TABLE)
    try:
        with pq.ParquetFile(path) as file:
            about = file.metadata
            groups = (about.row_group(i).total_byte_size for i in range(about.num_row_groups))
            check_size(sum(groups), TABLE, "it unpacks to")
            if about.num_rows > _MOST_ROWS:
                raise ValueError(f"it has {about.num_rows} rows; at most {_MOST_ROWS} are read")
            columns = [name for name in file.schema_arrow.names if name in _SAVED]
            if "model" not in columns:
                raise ValueError("it has no column 'model'")
            unpacked = 0
            for batch in file.iter_batches(1_000, columns=columns):
                unpacked += batch.nbytes
                check_size(unpacked, TABLE, "it unpacks to")
                yield from batch.to_pylist()
    except (pa.ArrowException, TypeError, KeyError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error


_READERS = {".jsonl": _json_lines, ".csv": _separated, ".parquet": _parquet}


def _require_pyarrow() -> None:
    require("pyarrow", "a table in Parquet", install="pyarrow")
