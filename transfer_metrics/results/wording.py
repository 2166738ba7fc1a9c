"""How names, numbers and tables are written for people."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from transfer_metrics.naming import told_apart
from transfer_metrics.results.error_bars import margin
from transfer_metrics.results.record import Record
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd

_MINUS, _THIN_SPACE = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"


def plot_label(name: object, limit: int = 48) -> str:
    """A name for matplotlib, which must not read its dollar signs as mathematics.

    >>> plot_label("$x^2$")
    '\\\\$x^2\\\\$'
    """
    return visible(name, limit).replace("$", r"\$")


def number(value: float | None, digits: int = 4) -> str:
    """A number with some significant digits; nothing where there is none.

    >>> number(0.123456), number(-2), number(None), number(1.5e-9)
    ('0.1235', '−2', '', '1.5e−09')
    """
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.{digits}g}".replace("-", _MINUS)


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with some digits after the point.

    >>> fixed(0.5), fixed(-1.239, 1)
    ('0.50', '−1.2')
    """
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.{digits}f}".replace("-", _MINUS)


def count(value: float | None) -> str:
    """A whole number with its thousands apart.

    >>> count(1347)
    '1\\u202f347'
    """
    return "" if value is None else f"{value:,.0f}".replace(",", _THIN_SPACE).replace("-", _MINUS)


def several(value: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    >>> several(1, "model"), several(2, "entry", "entries")
    ('1 model', '2 entries')
    """
    return f"{count(value)} {noun if value == 1 else plural or noun + 's'}"


def short(value: float | None, unit: str = "") -> str:
    """A large number with a decimal prefix.

    >>> short(611_000_000_000), short(18_900, "B")
    ('611 G', '18.9 kB')
    """
    if value is None or not math.isfinite(value):
        return ""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    place = 0
    while abs(value) >= 999.5 and place < len(prefixes) - 1:
        value, place = value / 1000, place + 1
    return f"{number(value, 3)} {prefixes[place]}{unit}".rstrip()


def duration(seconds: float | None) -> str:
    """A time in the unit that suits it.

    >>> duration(2.34), duration(75), duration(7320)
    ('2.3 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds is None or not math.isfinite(seconds):
        return ""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{count(hours)} h {minutes} min"


def listed(names: list[str], most: int = 5) -> str:
    """Names in a sentence, the later ones as a number.

    >>> listed(["a", "b", "c"]), listed(list("abcdefg"), most=2)
    ('a, b and c', 'a, b and 5 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {count(len(names) - most)} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


_Lines = list[list[str]]
"""A title per column, and the cells below; a line of fewer cells ends with a reason."""


def ranking_lines(ranking: pd.DataFrame, metric: str, raced: bool) -> _Lines:
    """A line per candidate of ``ScoreTable.ranking``; n stands there where models raced."""
    lines = [["#", "model", visible(metric), "± 95 %", "P(best)", "layer", "dim", "seconds", "n"]]
    shown = dict.fromkeys(map(str, ranking["model"]))
    names = dict(zip(shown, told_apart(map(visible, shown)), strict=True))
    for row in ranking.to_dict("records"):
        name = names[str(row["model"])]
        if row["error"] and math.isnan(row["score"]):
            lines.append(["-", name, "failed", "", "", visible(row["error"], 600)])
            continue
        half = row["high"] - row["score"]
        lines.append(
            [
                str(row["rank"]),
                name,
                f"{row['score']:.4g}",
                _margin(half),
                "" if math.isnan(row["p_best"]) else f"{row['p_best']:.2f}",
                visible(row["layer"]),
                str(row["dim"]),
                f"{row['seconds']:.1f}",
                str(row["n"]),
            ]
        )
    if not raced:
        lines = [line[:8] for line in lines]
    if not ranking["p_best"].notna().any() or len(ranking) == 1:
        lines = [line[:4] + line[5:] for line in lines]
    return lines


def metric_lines(records: Sequence[Record]) -> _Lines:
    """A line per record with its metric, value and half of its 95 % interval."""
    labels = [visible(record.label) for record in records]
    longest = max(map(len, labels))
    lines = [["metric", "value", "± 95 %"]]
    for label, record in zip(labels, records, strict=True):
        if record.value is None:
            reason = visible(record.error or "", 600)
            lines.append([label.ljust(longest), f"failed: {reason}"])
            continue
        error = math.nan if record.stderr is None else record.stderr
        half = margin(error, record.deviations)
        lines.append([label.ljust(longest), f"{record.value:.4g}", _margin(half)])
    return lines


def aligned(lines: _Lines, left: Collection[str]) -> str:
    """Lines as columns, those whose titles are in ``left`` to the left, numbers to the right."""
    whole = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    told = []
    for line in lines:
        cells = zip(line, widths, lines[0], strict=False)
        padded = [c.ljust(width) if title in left else c.rjust(width) for c, width, title in cells]
        told.append("  ".join(padded).rstrip())
    return "\n".join(told)


def remarks(notes: Mapping[str, Sequence[str]], summaries: Sequence[str]) -> str:
    """What stands below a table: notes with the first models that they are of, and tasks."""
    told = []
    for note, models in notes.items():
        more = f" and {len(models) - 3} more" if len(models) > 3 else ""
        told.append(f"{', '.join(map(visible, models[:3]))}{more}: {visible(note, 600)}")
    told += [visible(text, 2_000) for text in summaries]
    return "".join(f"\n\n{text}" for text in told)


def _margin(half: float) -> str:
    return "" if math.isnan(half) else f"{half:.3g}"
