"""How much goes into one page: large results are cut here, and what was cut is told."""

from __future__ import annotations

from dataclasses import replace

from transfer_metrics.report.gather import Gathered, Setting
from transfer_metrics.results.record import record_label
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.wording import count

MOST_SETTINGS, MOST_METRICS, MOST_SELECTIONS = 24, 12, 20


def bounded(gathered: Gathered) -> tuple[Gathered, list[str]]:
    """The first settings, metrics, comparisons and selections, and what was left out.

    >>> bounded(Gathered(selections=[None] * 21))[1]
    ['the first 20 of 21 selections are shown']
    """
    told = []
    for name, given, most in (
        ("groups of scores", gathered.settings, MOST_SETTINGS),
        ("comparisons", gathered.comparisons, MOST_SETTINGS),
        ("selections", gathered.selections, MOST_SELECTIONS),
    ):
        if len(given) > most:
            told.append(f"the first {most} of {count(len(given))} {name} are shown")
    metrics = max((len(s.table.metrics) for s in gathered.settings), default=0)
    if metrics > MOST_METRICS:
        told.append(f"the first {MOST_METRICS} of {count(metrics)} metrics are shown")
    kept = replace(
        gathered,
        settings=[_first_metrics(s) for s in gathered.settings[:MOST_SETTINGS]],
        comparisons=dict(list(gathered.comparisons.items())[:MOST_SETTINGS]),
        selections=gathered.selections[:MOST_SELECTIONS],
    )
    return kept, told


def _first_metrics(setting: Setting) -> Setting:
    metrics = setting.table.metrics
    if len(metrics) <= MOST_METRICS:
        return setting
    # A failure to load a model has the empty label.
    kept = {*metrics[:MOST_METRICS], ""}
    records = [r for r in setting.table.records if record_label(r) in kept]
    return replace(setting, table=ScoreTable(records, setting.table.view))
