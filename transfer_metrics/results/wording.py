"""How names and numbers are written for people."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from transfer_metrics.untrusted import visible

LOSSES = (
    r"(?:log[\W_]?)?loss(?:es)?|errors?|err|r?msl?e|s?mape|mae|nll|perplexity|ppl|[wce]er|fid|"
    r"cross[\W_]?entropy|deviance|brier(?:[\W_]?score)?|misclassification"
)
"""A pattern of names of what is mostly the better the lower it is."""
_LONGEST = 600
"""Letters of what is listed."""
_MINUS, _THIN_SPACE = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"


def plot_label(name: object, limit: int = 48) -> str:
    """A name for matplotlib, which must not read its dollar signs as mathematics.

    >>> plot_label("$x^2$")
    '\\\\$x^2\\\\$'
    """
    return visible(name, limit).replace("$", r"\$")


def number(value: float | None, digits: int = 4, form: str = "g") -> str:
    """A number with some significant digits; nothing where there is none.

    >>> number(0.123456), number(-2), number(None), number(1.5e-9)
    ('0.1235', '−2', '', '1.5e−09')
    """
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:.{digits}{form}}".replace("-", _MINUS)


def fixed(value: float | None, digits: int = 2) -> str:
    """A number with some digits after the point.

    >>> fixed(0.5), fixed(-1.239, 1)
    ('0.50', '−1.2')
    """
    return number(value, digits, "f")


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


def listed(names: Iterable[object], most: int = 5) -> str:
    """Names in a sentence as they can safely be shown, the later ones as a number.

    >>> listed(["a", "b", "c"]), listed(list("abcdefg"), most=2)
    ('a, b and c', 'a, b and 5 more')
    """
    shown = [visible(name, _LONGEST) for name in names]
    if len(shown) > most:
        return f"{', '.join(shown[:most])} and {count(len(shown) - most)} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), *shown[-1:]]))


def some(names: Iterable[object]) -> str:
    """The first five names with commas between, and an ellipsis for the others.

    >>> some("abc"), some("abcdefg")
    ('a, b, c', 'a, b, c, d, e, …')
    """
    shown = [visible(name) for name in names]
    return ", ".join(shown[:5]) + (", …" if len(shown) > 5 else "")


def aligned(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[str] | None = None
) -> str:
    """Lines of columns with blanks between; a line of fewer cells ends as it likes.

    Those whose titles are in ``left``, by default all, stand to the left, numbers to the right.

    >>> print(aligned(["model", "knn"], [["a", "0.9"], ["b", "0.75"]], {"model"}))
    model   knn
    a       0.9
    b      0.75
    """
    lines = [header, *rows]
    whole = [line for line in lines if len(line) == len(header)]
    widths = [max(map(len, column)) for column in zip(*whole, strict=True)]
    told = []
    for line in lines:
        cells = [
            cell.ljust(width) if left is None or title in left else cell.rjust(width)
            for cell, width, title in zip(line, widths, header, strict=False)
        ]
        told.append("  ".join(cells).rstrip())
    return "\n".join(told)
