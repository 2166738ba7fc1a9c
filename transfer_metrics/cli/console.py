"""What is told to the person at the terminal, by streams that outlive their readers."""

from __future__ import annotations

import argparse
import codecs
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.untrusted import visible, visible_lines

if TYPE_CHECKING:
    from transfer_metrics.heads.base import Head
    from transfer_metrics.results.long_table import LongTable

# Characters of a line on stderr.
_LONGEST = 20_000
# What our own texts use beyond ASCII, as typewriters had it; everything else is written as \\u….
_TYPED = {
    "±": "+-", "×": "x", "…": "...", "–": "-", "−": "-", "’": "'", "→": "->", "≤": "<=", "≥": ">=",
    "²": "^2", "√": "sqrt", "\N{NARROW NO-BREAK SPACE}": " ",
}  # fmt: skip
# An argument of Python with its value, if any, or of two words, as messages have it; not one in a
# call or in the name of a task.
_ARGUMENT = re.compile(
    r"(?<![^\s(])(?:(?P<name>[a-z_]+)=(?P<value>'[\w.:*-]+'|True|False)?|(?P<words>[a-z]+_[a-z_]+))"
    r"(?=[\s,;.)]|$)"
)
_OF_TASKS = ("features", "split", "seed")
_OPTIONS: ContextVar[Mapping[str, argparse.Action] | None] = ContextVar("options", default=None)
_HANDLER = "transfer_metrics.typed"


def print_table(table: Any, args: argparse.Namespace, text: str) -> None:
    """A table, or records as a list, on stdout: text for people, JSON or CSV where asked."""
    records = table if isinstance(table, list) else table.records
    if args.json:
        print(json.dumps(records, indent=1, default=str))
    elif args.csv:
        import pandas as pd

        frame = pd.DataFrame(records) if table is records else table.to_frame()
        if sys.stdout.isatty():
            show(frame.to_csv(index=False).rstrip("\n"))
        else:
            frame.to_csv(sys.stdout, index=False)
    else:
        show(text)


def print_steps(
    args: argparse.Namespace, steps: Sequence[tuple[str, float]], models: Iterable[Any]
) -> int:
    """What each step would take, and all of them, where nothing is computed; the exit status."""
    from transfer_metrics.results.wording import duration

    total = sum(seconds for _, seconds in steps)
    lines = [f"{duration(seconds):>12}  {what}" for what, seconds in steps]
    lines.append(f"{duration(total):>12}  in all, about; nothing was computed or written")
    records = [{"step": what, "seconds": seconds} for what, seconds in steps]
    print_table(records, args, "\n".join(lines))
    return say_doubts(models)


def say_doubts(models: Iterable[Any]) -> int:
    """A line for each model that a forecast could not load; the exit status."""
    failed = [one for one in models if one.error]
    for one in failed:
        say(f"would fail: {one.model}: {one.error}")
    return int(bool(failed))


def say_failures(records: Iterable[Mapping[str, Any]], told: str = "{model}: {what}") -> int:
    """A line for each record with an error, with what of it is ``told``; the exit status."""
    failed = [r for r in records if r.get("error")]
    for r in failed:
        what = r.get("head") or r.get("metric") or "model"
        say(f"failed: {told.format(**{**r, 'what': what})}: {r['error']}")
    return int(bool(failed))


def show(text: str) -> None:
    """Text on stdout, in which no name from a file can steer the terminal."""
    print(visible_lines(text), flush=True)


def tell(args: argparse.Namespace, message: str) -> None:
    """What went as it should, on stderr; nothing with ``--quiet``."""
    if not args.quiet:
        say(message)


def say(message: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(visible(in_options(message), _LONGEST), file=sys.stderr)


def take_options(parser: argparse.ArgumentParser) -> None:
    """Remember the options of the verb that runs, in whose words ``in_options`` speaks."""
    _OPTIONS.set({a.dest: a for a in parser._actions if a.option_strings})


def in_options(message: str) -> str:
    """A message of the package, which names arguments of Python, in options of the verb.

    What is an option of tasks as well, which stands after a ``?``, is left as it is.

    >>> from transfer_metrics.__main__ import build_parser
    >>> take_options(build_parser())
    >>> in_options("leave out print_completion=, or use quiet=True or engine='serial'")
    "leave out --print-completion, or use --quiet or engine='serial'"
    """
    known = _OPTIONS.get() or {}

    def told(match: re.Match[str]) -> str:
        name = match["name"] or match["words"]
        action = known.get(name)
        if action is None or name in _OF_TASKS:
            return match[0]
        option, value = action.option_strings[-1], (match["value"] or "").strip("'")
        if action.nargs == 0 and value in ("True", "False"):
            return option if value == "True" else f"no {option}"
        return f"{option} {value}".rstrip()

    return _ARGUMENT.sub(told, message)


def suggest(args: argparse.Namespace, *parts: object) -> None:
    """The next command, filled in, on stderr; nothing with ``--quiet``."""
    words = " ".join(shlex.quote(str(part)) for part in parts)
    tell(args, f"next: transfer-metrics {words}")


def suggest_predictions(args: argparse.Namespace, folder: object, head: Head) -> None:
    """How to predict with a head; a model of the user's own has to be named again."""
    source = head.source_
    own = () if source is None or source.loads else ("--model", source.spec or source.name)
    suggest(args, "predict", "--head", folder, *own, "NEW")


def require_scores(table: LongTable) -> None:
    """Refuse a table in which everything failed, with the reason of the first."""
    records = table.records
    if not records or any(record.get("value") is not None for record in records):
        return
    first = records[0]
    parts = (first.get(name) for name in ("model", "head", "layer", "metric"))
    others = len({str(record.get("error")) for record in records}) - 1
    more = f"; {others} more gave other reasons, so try them one at a time" if others else ""
    raise InvalidInputError(
        f"nothing could be scored: {': '.join(str(part) for part in parts if part)}: "
        f"{first.get('error')}{more}"
    )


@contextmanager
def console() -> Iterator[None]:
    """Let stdout and stderr take what their encoding lacks, and stderr a reader that went away.

    Signs that an encoding cannot write are replaced by such as it can, or by escapes, so that
    nothing is lost and nothing fails once the work is done. Output to stdout whose reader went away
    still raises ``BrokenPipeError``; on stderr, where progress is told, that must not end the work.
    Where stderr was closed from the start, it takes everything and keeps nothing.
    """
    codecs.register_error(_HANDLER, _typed)
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        out, err = before[0], nowhere if before[1] is None else before[1]
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
