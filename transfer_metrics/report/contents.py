"""What a report shows of scores, of heads that were trained, and of the one against the other."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from transfer_metrics.errors import InvalidInputError, quiet
from transfer_metrics.report.gather import Setting
from transfer_metrics.results.agreement import FEWEST, STATIC
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.known_accuracies import known_accuracies
from transfer_metrics.results.ranks import Ranked
from transfer_metrics.results.record import QUALITIES, Record

if TYPE_CHECKING:
    import pandas as pd

MOST_LAYERS = 200
_MOST_ROWS, _MOST_CURVES, _MOST_HEADS, _MOST_CHECKS = 300, 40, 300, 24
_SHADES = 9
# Marks keep this share of the width free on either side, so that none is cut off.
_EDGE = 0.03


@dataclass(frozen=True)
class _Scale:
    """Maps values to per cent of a width, with round ticks, for marks inside the cells of a table.

    >>> scale = _Scale.of([0.0, 10.0])
    >>> scale(5.0), scale.ticks(3)
    ('50.00%', [0.0, 5.0, 10.0])
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> _Scale:
        """The scale that shows all values that are there."""
        known = [v for v in values if v is not None and math.isfinite(v)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if not high - low > 1e-12 * max(abs(low), abs(high)):
            spread = abs(low) / 10 or 1.0
            largest = sys.float_info.max
            low, high = max(low - spread, -largest), min(high + spread, largest)
        return cls(low, high)

    def __call__(self, value: float) -> str:
        """Where a value stands, such as ``"50.00%"``."""
        # Halves keep the span of the largest floats finite.
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return f"{100 * (_EDGE + (1 - 2 * _EDGE) * min(max(share, 0.0), 1.0)):.2f}%"

    def ticks(self, count: int = 4) -> list[float]:
        """About ``count`` round values inside the scale."""
        span = self.high - self.low
        if not math.isfinite(span):
            return []
        power = 10.0 ** math.floor(math.log10(span / count))
        step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        # Rounding takes away what the multiplication added, and -0.
        digits = max(0, 1 - math.floor(math.log10(step)))
        return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]


class _Curve(NamedTuple):
    """Scores of the layers of one model, in order of depth: depth, score, low, high, layer, dim.

    ``total`` is how many there are; of more than ``MOST_LAYERS`` every second, third … is here.
    """

    model: str
    points: list[tuple[float, float, float | None, float | None, str, int | None]]
    total: int


@dataclass(frozen=True)
class Panel:
    """One metric on one setting, of which the page shows one at a time."""

    setting: int  # its place among the settings
    label: str  # that of the setting
    metric: str
    higher_is_better: bool
    rows: list[Ranked]  # the first candidates, best first, failures last
    total: int  # how many candidates there are
    curves: list[_Curve]  # those of the first models that have layers at several depths
    models: int  # how many models have such curves
    scale: _Scale  # that of the rows, intervals included
    checks: list[Check]  # of the metric against heads that were trained

    @classmethod
    def of(
        cls, place: int, label: str, setting: Setting, metric: str, checks: Iterable[Check] = ()
    ) -> Panel:
        """The ranking of a setting under one of its metrics, and the curves of its best models."""
        records = [r for r in setting.table if r.label == metric]
        candidates = setting.ranked(metric)
        # Intervals and probabilities need all candidates; what is shown needs the first ones only.
        shown = candidates[:_MOST_ROWS]
        curves, models = _curves(records, list(dict.fromkeys(c.model for c in candidates)))
        scale = _Scale.of(end for row in shown for end in (row.score, row.low, row.high))
        rankings = setting.table.rankings(metric).values()
        better = all(ranking.higher_is_better for ranking in rankings)
        found = [check for check in checks if check.metric == metric]
        return cls(
            place, label, metric, better, shown, len(candidates), curves, models, scale, found
        )

    @property
    def best(self) -> Ranked | None:
        """The first candidate, where any has a score."""
        return self.rows[0] if self.rows and self.rows[0].rank is not None else None

    def has_intervals(self) -> bool:
        """Whether any row has an interval."""
        return any(not math.isnan(row.low) for row in self.rows)

    @property
    def has_probabilities(self) -> bool:
        """Whether any row has a probability of being the best."""
        several = len({row.model for row in self.rows}) > 1
        return several and any(not math.isnan(row.p_best) for row in self.rows)

    @property
    def raced(self) -> bool:
        """Whether a race dropped any of the rows."""
        return any(row.record.round is not None for row in self.rows)


class _Cell(NamedTuple):
    """A model on a task: score and rank, with a shade from 0 (worst there) to ``_SHADES``."""

    score: float
    rank: int
    shade: int


@dataclass(frozen=True)
class TaskGrid:
    """Models x tasks under one metric; models by their mean rank, the best first."""

    metric: str
    settings: list[int]
    rows: list[tuple[str, list[_Cell | None]]]
    total: int

    @classmethod
    def of(cls, settings: Sequence[Setting], metric: str, places: Sequence[int]) -> TaskGrid:
        """Models beside tasks at ``places``, shaded by their order on each task."""
        columns = []
        for place in places:
            setting = settings[place]
            found = setting.ranked(metric, "models")
            found = [c for c in found if c.rank is not None]
            last = max(len(found) - 1, 1)
            columns.append(
                {
                    c.model: _Cell(c.score, i + 1, round(_SHADES * (1 - i / last)))
                    for i, c in enumerate(found)
                }
            )
        models = list(dict.fromkeys(model for column in columns for model in column))

        def mean_rank(model: str) -> float:
            ranks = [column[model].rank / len(column) for column in columns if model in column]
            return sum(ranks) / len(ranks)

        models.sort(key=mean_rank)
        rows = [(m, [column.get(m) for column in columns]) for m in models[:_MOST_ROWS]]
        return cls(metric, list(places), rows, len(models))


def _curves(records: Sequence[Record], order: Sequence[str]) -> tuple[list[_Curve], int]:
    """Curves of the models that have several depths, in an order; and how many those are."""
    by_model: dict[str, list[tuple[float, float, Record]]] = {}
    for r in records:
        if r.value is not None and r.depth is not None:
            by_model.setdefault(str(r.model), []).append((r.depth, r.value, r))
    drawn = [m for m in order if len(by_model.get(m, ())) > 1]
    curves = []
    for model in drawn[:_MOST_CURVES]:
        points = []
        own = sorted(by_model[model], key=lambda point: point[0])
        for depth, value, r in own[:: math.ceil(len(own) / MOST_LAYERS)]:
            ends = r.ends if r.margin else (None, None)
            points.append((depth, value, *ends, r.layer or "", r.dim))
        curves.append(_Curve(model, points, len(own)))
    return curves, len(drawn)


@dataclass(frozen=True)
class _HeadRow:
    """One head on one model, means over the seeds; what is not known is None."""

    model: str
    head: str
    # With 95 % half-widths, NaN where not known; a pair per data set.
    accuracies: list[tuple[float, float] | None]
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
    scale: _Scale  # that of the accuracies, intervals included
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
        scale = _Scale.of(end for v, half in pairs for end in (v, v - half, v + half))
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
    measure: str  # what the head was judged by, see ``Comparison.measure``
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
            check = _check(setting, metric, head, comparison.measure, known)
            checks += [check] if check else []
    return checks


def _check(
    setting: Setting, metric: str, head: str, measure: str, known: pd.DataFrame
) -> Check | None:
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
        for c in setting.ranked(metric, "models")
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
    gain = gains.get("weighted_kendall")
    return Check(metric, head, measure, points, trend, measured[metric], gain)


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
        accuracies=[None if v is None else (v, math.nan if h is None else h) for v, h in pairs],
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
