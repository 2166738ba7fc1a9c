"""Streams that take any text and outlive their readers."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

# What our own texts use beyond ASCII, as typewriters had it; everything else is written as \\u….
_TYPED = {
    "±": "+-", "×": "x", "…": "...", "–": "-", "−": "-", "’": "'", "→": "->", "≤": "<=", "≥": ">=",
    "²": "^2", "√": "sqrt", "\N{NARROW NO-BREAK SPACE}": " ",
}  # fmt: skip
_HANDLER = "transfer_metrics.typed"


@contextmanager
def console() -> Iterator[None]:
    """Let stdout and stderr take what their encoding lacks, and stderr a reader that went away.

    Signs that an encoding cannot write are replaced by such as it can, or by escapes, so that
    nothing is lost and nothing fails once the work is done. Output to stdout whose reader went away
    still raises ``BrokenPipeError``; on stderr, where progress is told, that must not end the work.
    A stream that was closed from the start takes everything and keeps nothing.
    """
    codecs.register_error(_HANDLER, _typed)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, err = (nowhere if stream is None else stream for stream in before)
        for stream in (out, err):
            # Notebooks and tests put streams of their own in place, which take any text.
            with suppress(AttributeError, ValueError, OSError):
                stream.reconfigure(errors=_HANDLER)  # type: ignore[union-attr]
        sys.stdout, sys.stderr = out, _Enduring(err)  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _Enduring:
    """A stream that goes on without its reader."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """See ``io.TextIOBase``."""
        with suppress(BrokenPipeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """See ``io.TextIOBase``."""
        with suppress(BrokenPipeError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _typed(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end]
    # Halves of pairs are what Python makes of bytes in file names that are no text.
    told = (_TYPED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in letters)
    return "".join(told), error.end
