"""A table as aligned text, with what is to be known of its models and tasks below."""

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

Lines = list[list[str]]
"""A title per column, and the cells below; a line of fewer cells ends with a reason."""


def ranking_lines(ranking: pd.DataFrame, metric: str, raced: bool) -> Lines:
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
    if not ranking["p_best"].notna().any():
        lines = [line[:4] + line[5:] for line in lines]
    return lines


def metric_lines(records: Sequence[Record]) -> Lines:
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


def aligned(lines: Lines, left: Collection[str]) -> str:
    """Lines as columns, those whose titles are in ``left`` to the left, numbers to the right."""
    count = len(lines[0])
    widths = [max(len(line[i]) for line in lines if len(line) == count) for i in range(count)]
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
