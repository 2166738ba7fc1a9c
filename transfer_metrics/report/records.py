"""Records as they come out of a file that anybody may have written, held to their types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

from transfer_metrics.errors import InvalidInputError

TEXTS = (
    "model", "revision", "task", "split", "layer", "pool", "head", "metric", "options",
    "intervals", "error", "version", "created",
)  # fmt: skip
NUMBERS = ("value", "stderr", "depth", "extract_seconds", "seconds")
WHOLE = ("layer_index", "dim", "n", "round", "num_classes", "seed")
MOST_DEVIATIONS = 10_000


def cleaned(record: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A record whose fields have the types of the long table; numbers are finite or None.

    Args:
        record: fields of the long table; others are left out.
        where: what to call it in a message.

    Raises:
        InvalidInputError: a field of another type, such as text for a number.

    >>> found = cleaned({"model": "a", "n": 30.0, "value": math.inf}, "record 1")
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
    found["model"] = found["model"] or "unnamed"
    found["metric"] = found["metric"] or ""
    found["higher_is_better"] = record.get("higher_is_better") not in (False, 0, "False", "false")
    found["deviations"] = _deviations(record.get("deviations"), where)
    return found


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
