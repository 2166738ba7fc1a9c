"""What a report shows of scores: rankings, curves over depth, tasks beside each other."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from transfer_metrics.report.gather import Setting
from transfer_metrics.results.ranks import Ranked, higher_is_better, single
from transfer_metrics.results.record import Record
from transfer_metrics.results.wording import fixed, number

MOST_ROWS, MOST_CURVES, MOST_LAYERS = 300, 40, 200
_MOST_NUMBERS = 1000
_SHADES = 9
# Marks keep this share of the width free on either side, so that none is cut off.
_EDGE = 0.03


@dataclass(frozen=True)
class Scale:
    """Maps values to per cent of a width, with round ticks, for marks inside the cells of a table.

    >>> scale = Scale.of([0.0, 10.0])
    >>> scale(5.0), scale.ticks(3)
    ('50.00%', [0.0, 5.0, 10.0])
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Scale:
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
class Ranking:
    """One metric on one setting."""

    metric: str
    higher_is_better: bool
    rows: list[Ranked]  # the first candidates, best first, failures last
    total: int  # how many candidates there are
    curves: list[_Curve]  # those of the first models that have layers at several depths
    models: int  # how many models have such curves
    scale: Scale  # that of the rows, intervals included

    @classmethod
    def of(cls, setting: Setting, metric: str) -> Ranking:
        """The ranking of a setting under one of its metrics, and the curves of its best models."""
        records = [r for r in setting.table if r.label == metric]
        candidates = setting.ranked(metric)
        # Intervals and probabilities need all candidates; what is shown needs the first ones only.
        shown = candidates[:MOST_ROWS]
        curves, models = _curves(records, list(dict.fromkeys(c.model for c in candidates)))
        scale = Scale.of(end for row in shown for end in (row.score, row.low, row.high))
        better = higher_is_better(records, metric)
        return cls(metric, better, shown, len(candidates), curves, models, scale)

    @property
    def best(self) -> Ranked | None:
        """The first candidate, where any has a score."""
        return self.rows[0] if self.rows and self.rows[0].rank is not None else None

    def form(self, value: float) -> str:
        """A score with as many digits after the point as the others, so that they line up."""
        largest = max(abs(self.scale.low), abs(self.scale.high))
        digits = 3 - math.floor(math.log10(largest)) if largest else 3
        return fixed(value, max(digits, 0)) if digits <= 6 else number(value)

    @property
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
            found = setting.ranked(metric, single(setting.table.view))
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
        rows = [(m, [column.get(m) for column in columns]) for m in models[:MOST_ROWS]]
        return cls(metric, list(places), rows, len(models))


def layer_rows(
    setting: Setting, models: Sequence[str], metrics: Sequence[str]
) -> list[tuple[str, str, float | None, int | None, list[float | None]]]:
    """Model, layer, depth, dim and the score under each metric, of some models."""
    rows: dict[tuple[str, str], tuple[float | None, int | None, dict[str, float]]] = {}
    order = {model: i for i, model in enumerate(models)}
    for r in setting.table:
        if r.model in order and r.value is not None:
            place = rows.setdefault((r.model, r.layer or ""), (r.depth, r.dim, dict[str, float]()))
            place[2][r.label] = r.value
    found = [
        (model, layer, depth, dim, [scores.get(m) for m in metrics])
        for (model, layer), (depth, dim, scores) in rows.items()
    ]
    found.sort(key=lambda row: (order[row[0]], row[2] if row[2] is not None else math.inf))
    return found[:_MOST_NUMBERS]


def _curves(records: Sequence[Record], order: Sequence[str]) -> tuple[list[_Curve], int]:
    """Curves of the models that have several depths, in an order; and how many those are."""
    by_model: dict[str, list[tuple[float, float, Record]]] = {}
    for r in records:
        if r.value is not None and r.depth is not None:
            by_model.setdefault(str(r.model), []).append((r.depth, r.value, r))
    drawn = [m for m in order if len(by_model.get(m, ())) > 1]
    curves = []
    for model in drawn[:MOST_CURVES]:
        points = []
        own = sorted(by_model[model], key=lambda point: point[0])
        for depth, value, r in own[:: math.ceil(len(own) / MOST_LAYERS)]:
            half = r.half_width
            ends = (None, None) if math.isnan(half) else (value - half, value + half)
            points.append((depth, value, *ends, r.layer or "", r.dim))
        curves.append(_Curve(model, points, len(own)))
    return curves, len(drawn)
