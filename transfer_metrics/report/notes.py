"""What a report says beside its numbers: warnings, failures and cost."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transfer_metrics.errors import TransferMetricsError, TransferMetricsWarning
from transfer_metrics.metrics.base import get_metric
from transfer_metrics.ranking.asked import warn_of_widths
from transfer_metrics.report.gather import Gathered, Setting
from transfer_metrics.results.phases import phases
from transfer_metrics.results.record import record_label
from transfer_metrics.results.wording import count, duration, listed, several, visible

MOST_FAILURES = 100
# Longer ones are no metric's options, and parsing them could take long.
LONGEST_LABEL = 500


@dataclass(frozen=True)
class Failure:
    """Something that could not be computed; ``times`` counts layers or seeds alike."""

    model: str
    what: str
    reason: str
    times: int


@dataclass(frozen=True)
class Cost:
    """Time that one kind of work took; as measured when it was done."""

    what: str
    seconds: float
    detail: str


def failures_of(gathered: Gathered) -> list[Failure]:
    """Everything that failed, equal reasons once."""
    found: dict[tuple[str, str, str], int] = {}
    tables = [s.table for s in gathered.settings] + list(gathered.comparisons.values())
    for record in (r for table in tables for r in table.failures):
        what = record["head"] or record_label(record) or "model"
        key = (record["model"], what, record["error"])
        found[key] = found.get(key, 0) + 1
    return [Failure(*key, times) for key, times in found.items()]


def warnings_of(gathered: Gathered, labels: Sequence[str]) -> list[str]:
    """What a reader should know before believing the numbers; one sentence or two each."""
    told = []
    if gathered.replaced:
        told.append(
            f"{several(gathered.replaced, 'score was', 'scores were')} given more than once with "
            f"different values; the last one given counts."
        )
    several_settings = len(gathered.settings) > 1
    for setting, label in zip(gathered.settings, labels, strict=True):
        lead = f"{visible(label)}: " if several_settings else ""
        told += [lead + text for text in _of_scores(setting)]
    return told


def costs_of(setting: Setting) -> list[Cost]:
    """Time of loading, of the forward passes, of statistics, and of each metric over all layers."""
    passes: dict[str, float] = {}
    by_metric: dict[str, list[float]] = {}
    for r in setting.table.records:
        if r["extract_seconds"] is not None:
            passes[r["model"]] = r["extract_seconds"]
        if r["value"] is not None and r["seconds"] is not None:
            own = r["seconds"] - (r["statistics_seconds"] or 0.0)
            by_metric.setdefault(record_label(r), []).append(own)
    spent = phases(setting.table.records)
    costs = [Cost("loading", spent["load"], "")] if "load" in spent else []
    if passes:
        mean = sum(passes.values()) / len(passes)
        detail = f"{several(len(passes), 'model')}, {duration(mean)} each"
        costs.append(Cost("forward passes", sum(passes.values()), detail))
    if "statistics" in spent:
        costs.append(Cost("statistics", spent["statistics"], "shared by the metrics below"))
    for metric, times in by_metric.items():
        costs.append(Cost(metric, sum(times), several(len(times), "score")))
    return costs


def _of_scores(setting: Setting) -> list[str]:
    records = setting.table.records
    scored = [r for r in records if r["value"] is not None]
    metrics = setting.table.metrics
    told = [_without_errors(scored, metrics), _raced(records), _revisions(records)]
    notes = [
        f"{listed([visible(m) for m in models])}: {visible(note, 1000)}."
        for note, models in setting.table.notes.items()
    ]
    return [*_widths(scored, metrics), *filter(None, told), *notes]


def _widths(scored: Sequence[dict[str, Any]], metrics: Sequence[str]) -> list[str]:
    """What ``rank_models`` warns of where a metric prefers wide layers."""
    known = [r for r in scored if r["dim"] is not None]
    told = []
    for label in metrics:
        if len(label) > LONGEST_LABEL:
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", TransferMetricsWarning)
            try:
                warn_of_widths([get_metric(label)], known)
            except TransferMetricsError:
                continue  # a metric that is not installed here
        told += [visible(w.message, 1000) for w in caught]
    return told


def _without_errors(scored: Sequence[dict[str, Any]], metrics: Sequence[str]) -> str:
    sure = {record_label(r) for r in scored if r["stderr"] is not None}
    bare = {record_label(r) for r in scored} - sure
    if not bare:
        return ""
    names = listed([visible(m) for m in metrics if m in bare])
    return (
        f"No standard errors of {names}: how sure the order is cannot be told. `rank --intervals` "
        f"adds them where the metric allows, `--intervals bootstrap` for all."
    )


def _raced(records: Sequence[dict[str, Any]]) -> str:
    dropped = {r["model"]: r["n"] for r in records if r["round"] is not None}
    if not dropped:
        return ""
    least = min((n for n in dropped.values() if n is not None), default=None)
    start = "" if least is None else f", from {count(least)}"
    return (
        f"A race dropped {several(len(dropped), 'model')} on fewer examples{start}; their scores "
        f"do not compare with the others and rank below them."
    )


def _revisions(records: Sequence[dict[str, Any]]) -> str:
    found: dict[str, set[str]] = {}
    for r in records:
        if r["revision"]:
            found.setdefault(r["model"], set()).add(r["revision"])
    mixed = [visible(model) for model, revisions in found.items() if len(revisions) > 1]
    return f"Several revisions under one name: {listed(mixed)}." if mixed else ""
