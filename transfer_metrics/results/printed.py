"""A table of scores as text, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from transfer_metrics.naming import short_names, told_apart
from transfer_metrics.results.long_table import LongTable
from transfer_metrics.results.places import by_place, place_labels
from transfer_metrics.results.ranks import Ranking
from transfer_metrics.results.record import Record
from transfer_metrics.results.shortlist import UNKNOWN, Shortlist
from transfer_metrics.results.wording import aligned
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd


_SHORTENED = "Names are shortened; files, --json and --csv have them whole."
# A name that is longer is shortened where it does not differ, and to so many letters at most.
_LONG, _LONGEST = 44, 80
# Of a table in a notebook, whose middle is left out.
_MOST_ROWS = 60


def column_names(names: Iterable[object]) -> tuple[dict[str, str], str]:
    """What stands for each name in the column of a table, and what to say of that below."""
    whole = list(dict.fromkeys(map(str, names)))
    short = told_apart(map(visible, short_names(whole, _LONG, _LONGEST)))
    note = _SHORTENED if short != list(map(visible, whole)) else ""
    return dict(zip(whole, short, strict=True)), note


def printed(table: LongTable, metric: str | None, confidence: float) -> str:
    """What ``ScoreTable.format`` returns; without a metric it is of the first."""
    if not len(table):
        return "(no records)"
    if metric is None and len(table.metrics) > 1 and of_features(table):
        header, *rows = _metric_lines(list(table))
        return aligned(header, rows, {"metric"}) + _remarks(table)
    names, note = column_names(r.model for r in table)
    rankings = table.rankings(metric)
    if len(rankings) == 1:
        (ranking,) = rankings.values()
        text = _of_ranking(table, ranking, confidence, names) + _remarks(table)
    else:
        parts = []
        for label, ranking in zip(place_labels(rankings), rankings.values(), strict=True):
            own = LongTable(ranking.records, table.view)
            told = _of_ranking(own, ranking, confidence, names) + _remarks(own)
            parts.append(f"{visible(label)}\n{told}")
        text = "\n\n".join(parts)
    return f"{text}\n\n{note}" if note else text


def _of_ranking(
    table: LongTable, ranking: Ranking, confidence: float, names: Mapping[str, str]
) -> str:
    """A line per candidate, and the shortlist."""
    raced = any(r.round for r in table)
    lines = _ranking_lines(ranking, raced, names)
    if (balanced := f"{ranking.metric}(balanced=True)") in table.metrics:
        _add_balanced(lines, ranking, list(table), balanced)
    text = aligned(lines[0], lines[1:], {"model", "layer"})
    if len({c.model for c in ranking.scored}) > 1:
        found = Shortlist.of(ranking, confidence)
        text += f"\n\n{UNKNOWN + '.' if found is None else found.told(names)}"
    return text


def page_table(frame: pd.DataFrame, text: str = "") -> str:
    """A table for a notebook as pandas makes it, and what stands below the table in a text.

    >>> import pandas as pd
    >>> page = page_table(pd.DataFrame({"model": ["<b>"], "error": [None]}), "x\\n\\nBest: <b>")
    >>> "<td>&lt;b&gt;</td>" in page, "error" in page, page.partition("</table>")[2]
    (True, False, '<p>Best: &lt;b&gt;</p>')
    """
    shown = frame.dropna(axis="columns", how="all")
    shown = shown.rename(columns=visible).map(lambda v: visible(v) if isinstance(v, str) else v)
    table = shown.to_html(
        index=any(shown.index.names), na_rep="", float_format="{:.4g}".format, max_rows=_MOST_ROWS,
        border=0,
    )  # fmt: skip
    below = "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n")[1:])
    return table + below


def of_features(table: LongTable) -> bool:
    """Whether all records are of the same features that were given, of no model's."""
    named = {(r.model, r.layer) for r in table}
    return named == {("features", "features")} and len(by_place(table)) == 1


_Lines = list[list[str]]
"""A title per column, and the cells below; a line of fewer cells ends with a reason."""


def _ranking_lines(ranking: Ranking, raced: bool, names: Mapping[str, str]) -> _Lines:
    """A line per candidate; n stands there where models raced."""
    metric = visible(ranking.metric)
    interval = "95 %" if any(c.record.relative for c in ranking.rows) else "± 95 %"
    lines = [["#", "model", metric, interval, "P(best)", "layer", "dim", "seconds", "n"]]
    for c in ranking.rows:
        if c.rank is None:
            reason = visible(c.record.error or "", 600)
            lines.append(["-", names[c.model], "failed", "", "", reason])
            continue
        lines.append(
            [
                str(c.rank),
                names[c.model],
                f"{c.score:.4g}",
                c.record.margin,
                "" if math.isnan(c.p_best) else f"{c.p_best:.2f}",
                visible(c.record.layer) if c.record.layer else "",
                "" if c.record.dim is None else str(c.record.dim),
                f"{c.seconds:.1f}",
                "" if c.record.n is None else str(c.record.n),
            ]
        )
    if not raced:
        lines = [line[:8] for line in lines]
    known = any(not math.isnan(c.p_best) for c in ranking.rows)
    if not known or len({c.model for c in ranking.rows}) == 1:
        lines = [line[:4] + line[5:] for line in lines]
    return lines


def _add_balanced(lines: _Lines, ranking: Ranking, records: Sequence[Record], metric: str) -> None:
    """Put the balanced accuracy of what was ranked beside its accuracy, before the layer."""
    place = lines[0].index("layer")
    lines[0].insert(place, "balanced")
    of = {(r.model, r.layer): r.value for r in records if r.label == metric}
    for line, c in zip(lines[1:], ranking.rows, strict=True):
        if len(line) == len(lines[0]) - 1:
            value = of.get((c.record.model, c.record.layer))
            line.insert(place, "" if value is None else f"{value:.4g}")


def _metric_lines(records: Sequence[Record]) -> _Lines:
    """A line per record with its metric, value and 95 % interval."""
    labels = [visible(record.label) for record in records]
    longest = max(map(len, labels))
    lines = [["metric", "value", "± 95 %"]]
    for label, record in zip(labels, records, strict=True):
        if record.value is None:
            reason = visible(record.error or "", 600)
            lines.append([label.ljust(longest), f"failed: {reason}"])
            continue
        lines.append([label.ljust(longest), f"{record.value:.4g}", record.margin])
    return lines


def _remarks(table: LongTable) -> str:
    """What stands below a table: notes with the first models that they are of, and tasks."""
    told = []
    for note, models in table.notes.items():
        more = f" and {len(models) - 3} more" if len(models) > 3 else ""
        told.append(f"{', '.join(map(visible, models[:3]))}{more}: {visible(note, 600)}")
    told += [visible(text, 2_000) for text in table.task_summaries]
    return "".join(f"\n\n{text}" for text in told)
