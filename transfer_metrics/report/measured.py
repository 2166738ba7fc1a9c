"""What a report shows of heads that were trained, and of scores against their accuracies."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, quiet
from transfer_metrics.report.gather import Setting
from transfer_metrics.report.ranked import Scale
from transfer_metrics.results.agreement import FEWEST
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.known_accuracies import known_accuracies
from transfer_metrics.results.ranks import single
from transfer_metrics.results.record import QUALITIES
from transfer_metrics.results.static_ranking import STATIC

if TYPE_CHECKING:
    import pandas as pd

_MOST_HEADS, _MOST_CHECKS = 300, 24


@dataclass(frozen=True)
class _HeadRow:
    """One head on one model, means over the seeds; what is not known is None."""

    model: str
    head: str
    accuracies: list[tuple[float, float] | None]  # with 95 % half-widths, a pair per data set
    gap: float | None
    distortion: float | None
    seconds: float | None
    flops: float | None
    bytes: float | None
    seeds: int
    layers: list[str]
    dim: int | None
    error: str
    note: str


@dataclass(frozen=True)
class Heads:
    """The heads of one task."""

    task: str
    names: list[str]  # the data sets; the first is in distribution
    rows: list[_HeadRow]  # the first ones
    total: int  # how many there are
    scale: Scale  # that of the accuracies, intervals included
    verdicts: list[tuple[str, dict[str, Any]]]  # by metric, see ``Comparison.verdict``
    measure: str  # what is in ``accuracies``, see ``Comparison.measure``

    @classmethod
    def of(cls, task: str, comparison: Comparison, scores: Setting | None) -> Heads:
        """The heads of a task, and what they say of the scores of a setting."""
        summary = comparison.summary()
        names = ["test", *comparison.shifts]
        # Layers and number of features of each, from its last measurement that tells them.
        used = {(str(r.model), r.head or ""): (r.layer, r.dim) for r in comparison if r.layer}
        rows = [
            _row(model, head, found, names, used.get((model, head), ("", None)))
            for (model, head), found in zip(summary.index, summary.to_dict("records"), strict=True)
        ]
        pairs = [pair for row in rows for pair in row.accuracies if pair]
        verdicts = []
        if scores is not None:
            both = Comparison([*scores.table, *comparison], scores.table.view)
            for metric in both.metrics:
                told = both.verdict(metric).to_dict("records")
                verdicts += [(metric, {str(k): v for k, v in row.items()}) for row in told]
        scale = Scale.of(value + sign * half for value, half in pairs for sign in (-1, 1))
        return cls(task, names, rows[:_MOST_HEADS], len(rows), scale, verdicts, comparison.measure)

    @property
    def seeds(self) -> list[int]:
        """The different numbers of seeds."""
        return sorted({row.seeds for row in self.rows if not row.error})

    @property
    def best(self) -> _HeadRow | None:
        """The head with the highest accuracy in distribution, where any has one."""
        tested = [row for row in self.rows if row.accuracies[0]]
        return max(tested, key=lambda row: (row.accuracies[0] or (0.0,))[0], default=None)


@dataclass(frozen=True)
class Check:
    """Scores of one metric against accuracies of one head, with the line of least squares."""

    metric: str
    head: str
    points: list[tuple[str, float, float]]  # model, score, accuracy
    trend: tuple[float, float, float, float] | None  # x, y, x, y; None where scores are equal
    measures: dict[str, tuple[float, float, float]]  # value, low, high; NaN where not defined
    # What its weighted tau is above that of the ranking by the other tasks, where there are any.
    over_static: tuple[float, float, float] | None = None


def checks_of(
    setting: Setting, comparison: Comparison, elsewhere: Iterable[Comparison] = ()
) -> list[Check]:
    """Every metric of a setting against every head that was trained on enough of its models.

    What the heads reached on other tasks gives the static ranking that a metric has to beat.
    """
    others = [r for other in elsewhere if other is not comparison for r in other]
    heads = dict.fromkeys(r.head for r in comparison if r.metric in QUALITIES and r.head)
    checks: list[Check] = []
    for head in heads:
        known = known_accuracies(comparison, head).iloc[:, :1].set_axis([setting.task], axis=1)
        with contextlib.suppress(InvalidInputError):  # of a head that was trained here only
            known = known.join(known_accuracies(others, head), how="outer")
        for metric in setting.table.metrics:
            if len(checks) == _MOST_CHECKS:
                return checks
            check = _check(setting, metric, head, known)
            checks += [check] if check else []
    return checks


def _check(setting: Setting, metric: str, head: str, known: pd.DataFrame) -> Check | None:
    try:
        with quiet():
            # What is left out is not drawn; what is not defined is shown as such.
            found = setting.table.agreement(known, metric, task=setting.task)
    except InvalidInputError:
        return None
    accuracies = {str(m): float(value) for m, value in known[setting.task].dropna().items()}
    measured: dict[str, dict[str, tuple[float, float, float]]] = {}
    for row in found.to_dict("records"):
        interval = float(row["value"]), float(row["low"]), float(row["high"])
        measured.setdefault(str(row["metric"]), {})[str(row["measure"])] = interval
    gains = measured.get(f"{metric} - {STATIC}", {})
    dropped = {str(r.model) for r in setting.table if r.round}
    points = [
        (c.model, c.score, accuracies[c.model])
        for c in setting.ranked(metric, single(setting.table.view))
        if c.rank and c.model in accuracies and c.model not in dropped
    ]
    if len(points) < FEWEST:
        return None
    x, y = (np.array([p[i] for p in points]) for i in (1, 2))
    trend = None
    if np.ptp(x) > 0:
        # Centred and scaled, so that scores far from 0 do not spoil the fit.
        slope, start = np.polyfit((x - x.mean()) / np.ptp(x), y, 1)
        ends = [(end - x.mean()) / np.ptp(x) for end in (x.min(), x.max())]
        (left, right) = (float(slope * end + start) for end in ends)
        trend = (float(x.min()), left, float(x.max()), right)
    return Check(metric, head, points, trend, measured[metric], gains.get("weighted_kendall"))


def _row(
    model: str,
    head: str,
    found: dict[Any, Any],
    names: list[str],
    used: tuple[str | None, int | None],
) -> _HeadRow:
    def known(name: str) -> float | None:
        value = found.get(name)
        return None if value is None or math.isnan(value) else float(value)

    pairs = [(known(name), known(f"± {name}")) for name in names]
    layers, dim = used
    error, note = (v if isinstance(v := found.get(n), str) else "" for n in ("error", "note"))
    return _HeadRow(
        model=model,
        head=head,
        accuracies=[None if v is None else (v, half or 0.0) for v, half in pairs],
        gap=known("ood_gap"),
        distortion=known("relative_distortion"),
        seconds=known("fit_seconds"),
        flops=known("train_flops"),
        bytes=known("stored_bytes"),
        seeds=int(found["seeds"]),
        layers=layers.split("+") if layers else [],
        dim=dim,
        error=error,
        note=note,
    )
