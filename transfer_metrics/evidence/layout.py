"""Paragraphs and tables, for a terminal and for Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

Grid = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
"""Draws a table from a header and rows."""


def wrapped(paragraph: str) -> str:
    """Lines of at most a hundred characters."""
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns with blanks between.

    >>> print(aligned(["a", "b"], [["long", "1"]]))
    a     b
    long  1
    """
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def piped(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(piped(["a", "b"], [["long", "1|2"]]))
    | a | b |
    |---|---|
    | long | 1\\|2 |
    """
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in [header, *rows]]
    first, *others = ["| " + " | ".join(line) + " |" for line in escaped]
    return "\n".join([first, "|---" * len(header) + "|", *others])
