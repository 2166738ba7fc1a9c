"""Files of JSON lines that a long measurement grows by, and goes on from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.untrusted import TABLE, parse_json, read_text


def read(path: str | os.PathLike[str], identity: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a file; of those with the same identity, the last.

    A last line that was cut short, by a process that was killed while writing, is left out.

    Args:
        path: the file.
        identity: the fields that tell one record from another.

    Raises:
        InvalidInputError: there is no such file.
        CorruptStoreError: another line is no record.
    """
    try:
        lines = read_text(path, TABLE).split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"cannot read {path} ({reason}); give a file that `benchmark run` wrote"
        ) from error
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = parse_json(line)
            records[tuple(record[field] for field in identity)] = record
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptStoreError(
                f"line {number} of {path} is no record ({error}); repair or remove the line"
            ) from error
    return list(records.values())


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a file, after removing a last line that was cut short.

    Raises:
        InvalidInputError: the file cannot be written.
    """
    text = "".join(json.dumps(dict(r), allow_nan=False, default=str) + "\n" for r in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidInputError(
            f"cannot write {path} ({error.strerror or error}); free some space or choose another "
            f"file"
        ) from error
