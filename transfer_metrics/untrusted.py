"""What somebody else wrote: read within bounds of size and depth, and shown so that it can be seen.

``docs/security.md`` lists the bounds. Raising ``TRANSFER_METRICS_MAX_BYTES`` raises all that are
below it.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
import unicodedata
from collections.abc import Set
from pathlib import Path
from typing import Any

from transfer_metrics.errors import CorruptStoreError

_DOCUMENT = 1 << 28
"""Bytes of a JSON document (manifest, head, selection) that are read at most: 256 MiB."""
TABLE = 1 << 30
"""Bytes of a table, or that an archive may unpack to, however small it is: 1 GiB."""
PICTURE = 1 << 28
"""Bytes of one encoded image that are read at most: 256 MiB."""
_PROPORTION = 20
"""An archive may unpack to this many times its own size, where that is more than ``TABLE``."""
DEEPEST = 64
"""Levels of lists and objects in JSON."""

_KNOB = "TRANSFER_METRICS_MAX_BYTES"
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
# Zero-width joiners belong to some scripts and emoji; everything else that cannot be seen, or that
# turns the direction of writing, can make one name look like another or steer a terminal.
_JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
_UNSEEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def _bound(default: int) -> int:
    """A bound in bytes, or what the environment raises it to."""
    given = os.environ.get(_KNOB, "")
    if given and not (given.isascii() and given.isdigit() and len(given) < 20):
        raise ValueError(f"{_KNOB}={given[:40]!r} must be a number of bytes")
    return max(default, int(given or 0))


def check_size(size: int, most: int, what: str = "it has") -> None:
    """A ValueError for more bytes than ``most``, which says how to raise the bound."""
    most = _bound(most)
    if size > most:
        raise ValueError(
            f"{what} {size:,} bytes and at most {most:,} are read; if you trust it, set {_KNOB}"
        )


def check_unpacked(size: int, packed: int) -> None:
    """A ValueError for an archive that unpacks to far more bytes than it has."""
    check_size(size, max(TABLE, _PROPORTION * packed), "it unpacks to")


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a file; a ValueError if it is a pipe, a device or a folder, or has more."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no regular file")
    with open(path, "rb") as file:
        check_size(os.fstat(file.fileno()).st_size, most)
        return file.read(_bound(most))


def read_text(path: str | os.PathLike[str], most: int = _DOCUMENT) -> str:
    """The text of a file in UTF-8, or in UTF-16 if its mark is there, without the mark.

    Raises what ``read_bytes`` raises, and a ValueError if it is neither.
    """
    data = read_bytes(path, most)
    if data.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        raise ValueError("it is compressed; unpack it first, and save a spreadsheet as .csv")
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if not marked and b"\0" in data:
        raise ValueError(
            "it has NUL characters, as what is no text has, or UTF-16 without its mark; save it as "
            "UTF-8"
        )
    try:
        return data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is not in UTF-8 from byte {error.start} on; save it so, such as by "
            f"iconv -f cp1252 -t utf-8"
        ) from error


def parse_json(text: str) -> Any:
    """A JSON value of at most ``DEEPEST`` levels; of a key that is given twice the last counts.

    ``NaN`` and ``Infinity`` are read, as Python writes them. Halves of surrogate pairs, which are
    no text and cannot be written, become question marks. Other text, and what is too deep, is a
    ValueError.

    >>> parse_json('[1, "a"]'), parse_json('"' + chr(92) + 'ud800"')
    ([1, 'a'], '?')
    """
    try:
        value = json.loads(text)
        if text.count("[") + text.count("{") > DEEPEST and isinstance(value, (list, dict)):
            _check_depth(value)
        if _HALF.search(text):
            whole = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
            value = json.loads(whole)
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """The JSON value of a file; raises what ``read_text`` and ``parse_json`` raise."""
    return parse_json(read_text(Path(path)))


def read_record(path: Path, keys: Set[str], what: str, cure: str) -> dict[str, Any]:
    """The JSON object that tells of ``what`` lies in a folder, which has some ``keys``.

    Raises:
        CorruptStoreError: there is no such file, or it holds something else; ends in the ``cure``.
    """
    try:
        record = read_json(path)
    except FileNotFoundError:
        raise CorruptStoreError(
            f"{path.parent} has no {path.name}, so it is no {what} or a damaged one; {cure}"
        ) from None
    except (ValueError, OSError) as error:
        raise CorruptStoreError(f"{path} cannot be read ({error}); {cure}") from error
    if not isinstance(record, dict) or not keys <= record.keys():
        raise CorruptStoreError(f"{path} does not describe a {what}; {cure}")
    return record


def visible(name: object, limit: int = 160) -> str:
    """A name as it can safely be shown: on one line, nothing invisible, of bounded length.

    Names may come from a stranger's file. Longer ones than ``limit`` lose their middle.

    >>> visible("net" + chr(0x202E) + "gnp.exe"), visible("a" * 9, limit=5)
    ('net\\\\u202egnp.exe', 'aa…aa')
    """
    text = shortened(str(name), limit)
    return text if text.isascii() and text.isprintable() else "".join(map(_seen, text))


def shortened(text: str, limit: int) -> str:
    """A text without its middle where it has more than so many letters."""
    half = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[: limit - 1 - half]}…{text[len(text) - half :]}"


def visible_lines(text: str) -> str:
    """Text of several lines, in which nothing steers a terminal or turns the writing around.

    >>> visible_lines("a" + chr(27) + "[2Jb" + chr(10))
    'a\\\\x1b[2Jb\\n'
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(letter if letter in "\n\t" else _seen(letter) for letter in text)


def _seen(letter: str) -> str:
    if unicodedata.category(letter) not in _UNSEEN or letter in _JOINERS:
        return letter
    return letter.encode("unicode_escape", "surrogatepass").decode("ascii")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (list, dict))
        ]
        if not level:
            return
    raise ValueError(f"it has more than {DEEPEST} levels")
