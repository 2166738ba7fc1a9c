"""What a report shows of scores: rankings, curves over depth, tasks beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer_metrics.report.gather import Setting
from transfer_metrics.report.scale import Scale
from transfer_metrics.results.record import record_label
from transfer_metrics.results.wording import fixed, number

MOST_ROWS, MOST_CURVES, MOST_LAYERS = 300, 40, 200
MOST_NUMBERS = 1000
SHADES = 9


@dataclass(frozen=True)
class Row:
    """One candidate of a ranking; numbers that are not known are None."""

    model: str
    rank: int | None
    layer: str
    dim: int | None
    n: int | None
    score: float | None
    low: float | None
    high: float | None
    p_best: float | None
    seconds: float | None
    round: int | None
    error: str


@dataclass(frozen=True)
class Curve:
    """Scores of the layers of one model, in order of depth: depth, score, low, high, layer, dim.

    ``total`` is how many there are; of more than ``MOST_LAYERS`` every second, third … is here.
    """

    model: str
    points: list[tuple[float, float, float | None, float | None, str, int | None]]
    total: int


@dataclass(frozen=True)
class Ranking:
    """One metric on one setting.

    Attributes:
        metric: the metric with its options.
        higher_is_better: its direction.
        rows: the first ``MOST_ROWS`` candidates, best first, failures last.
        total: how many candidates there are.
        curves: those of the first ``MOST_CURVES`` models that have layers at several depths.
        models: how many models have such curves.
        scale: that of the rows, intervals included.
    """

    metric: str
    higher_is_better: bool
    rows: list[Row]
    total: int
    curves: list[Curve]
    models: int
    scale: Scale

    @property
    def best(self) -> Row | None:
        """The first candidate, where any has a score."""
        return self.rows[0] if self.rows and self.rows[0].score is not None else None

    def form(self, value: float) -> str:
        """A score with as many digits after the point as the others, so that they line up."""
        largest = max(abs(self.scale.low), abs(self.scale.high))
        digits = 3 - math.floor(math.log10(largest)) if largest else 3
        return fixed(value, max(digits, 0)) if digits <= 6 else number(value)

    @property
    def has_intervals(self) -> bool:
        """Whether any row has an interval."""
        return any(row.low is not None for row in self.rows)

    @property
    def has_probabilities(self) -> bool:
        """Whether any row has a probability of being the best."""
        return any(row.p_best is not None for row in self.rows)

    @property
    def raced(self) -> bool:
        """Whether a race dropped any of the rows."""
        return any(row.round is not None for row in self.rows)


@dataclass(frozen=True)
class Cell:
    """A model on a task: score and rank, with a shade from 0 (worst there) to ``SHADES``."""

    score: float
    rank: int
    shade: int


@dataclass(frozen=True)
class TaskGrid:
    """Models x tasks under one metric; models by their mean rank, the best first."""

    metric: str
    settings: list[int]
    rows: list[tuple[str, list[Cell | None]]] = field(default_factory=list)
    total: int = 0


def ranking_of(setting: Setting, metric: str) -> Ranking:
    """The ranking of a setting under one of its metrics, and the curves of its best models."""
    table = setting.table
    records = [r for r in table.records if record_label(r) == metric]
    rounds = {r["model"]: r["round"] for r in records}
    frame = table.ranking(metric)
    # Intervals and probabilities need all candidates; what is shown needs the first ones only.
    shown = [_row(found, rounds) for found in frame.head(MOST_ROWS).to_dict("records")]
    curves, models = _curves(records, list(dict.fromkeys(frame["model"])))
    ends = [end for row in shown for end in (row.score, row.low, row.high)]
    return Ranking(
        metric,
        all(r["higher_is_better"] for r in records),
        shown,
        len(frame),
        curves,
        models,
        Scale.of(ends),
    )


def layer_rows(
    setting: Setting, models: Sequence[str], metrics: Sequence[str]
) -> list[tuple[str, str, float | None, int | None, list[float | None]]]:
    """Model, layer, depth, dim and the score under each metric, of some models."""
    rows: dict[tuple[str, str], tuple[float | None, int | None, dict[str, float]]] = {}
    order = {model: i for i, model in enumerate(models)}
    for r in setting.table.records:
        if r["model"] in order and r["value"] is not None:
            place = rows.setdefault(
                (r["model"], r["layer"] or ""), (r["depth"], r["dim"], dict[str, float]())
            )
            place[2][record_label(r)] = r["value"]
    found = [
        (model, layer, depth, dim, [scores.get(m) for m in metrics])
        for (model, layer), (depth, dim, scores) in rows.items()
    ]
    found.sort(key=lambda row: (order[row[0]], row[2] if row[2] is not None else math.inf))
    return found[:MOST_NUMBERS]


def task_grid(settings: Sequence[Setting], metric: str, places: Sequence[int]) -> TaskGrid:
    """Models beside tasks under one metric; scores are shaded by their order on each task.

    Args:
        settings: all settings.
        metric: a metric that those at ``places`` have.
        places: which settings, at least two.
    """
    columns = []
    for place in places:
        frame = settings[place].table.ranking(metric, view=_single(settings[place]))
        frame = frame[frame["score"].notna()]
        last = max(len(frame) - 1, 1)
        pairs = zip(frame["model"].astype(str), frame["score"].astype(float), strict=True)
        cells = enumerate(pairs)
        columns.append({m: Cell(v, i + 1, round(SHADES * (1 - i / last))) for i, (m, v) in cells})
    models = list(dict.fromkeys(model for column in columns for model in column))

    def mean_rank(model: str) -> float:
        ranks = [column[model].rank / len(column) for column in columns if model in column]
        return sum(ranks) / len(ranks)

    models.sort(key=mean_rank)
    rows = [(m, [column.get(m) for column in columns]) for m in models[:MOST_ROWS]]
    return TaskGrid(metric, list(places), rows, len(models))


def _single(setting: Setting) -> str:
    """A view in which each model is one candidate."""
    return "best" if setting.table.view == "all" else setting.table.view


def _row(found: dict[Any, Any], rounds: dict[str, int | None]) -> Row:
    known = {k: None if _is_missing(v) else v for k, v in found.items()}
    return Row(
        model=str(known["model"]),
        rank=known["rank"] and int(known["rank"]),
        layer=known["layer"] or "",
        dim=known["dim"] and int(known["dim"]),
        n=known["n"] and int(known["n"]),
        **{k: known[k] for k in ("score", "low", "high", "p_best", "seconds")},
        round=rounds.get(str(known["model"])),
        error=known["error"] or "",
    )


def _is_missing(value: Any) -> bool:
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _curves(records: Sequence[dict[str, Any]], order: Sequence[str]) -> tuple[list[Curve], int]:
    """Curves of the models that have several depths, in an order; and how many those are."""
    from transfer_metrics.results.error_bars import margin

    by_model: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        if r["value"] is not None and r["depth"] is not None:
            by_model.setdefault(r["model"], []).append(r)
    drawn = [m for m in order if len(by_model.get(m, ())) > 1]
    curves = []
    for model in drawn[:MOST_CURVES]:
        points = []
        own = sorted(by_model[model], key=lambda r: r["depth"])
        for r in own[:: math.ceil(len(own) / MOST_LAYERS)]:
            half = None if r["stderr"] is None else margin(r["stderr"], r["deviations"])
            ends = (None, None) if half is None else (r["value"] - half, r["value"] + half)
            points.append((r["depth"], r["value"], *ends, r["layer"] or "", r["dim"]))
        curves.append(Curve(model, points, len(own)))
    return curves, len(drawn)
