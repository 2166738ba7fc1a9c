"""Does a benchmark need a metric at all: scores beside the ranking that never looks at the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, quiet
from transfer_metrics.evidence.layout import Table
from transfer_metrics.results.agreement import (
    FEWEST,
    RESAMPLES,
    STATIC,
    draw,
    interval,
    static_scores,
    z_scores,
)
from transfer_metrics.results.agreement_tasks import MEAN, agreement_by_task, compare_metrics

if TYPE_CHECKING:
    import pandas as pd

MEASURE = "weighted_kendall"
"""What scores are judged by."""
_Interval = tuple[float, float, float]
VERDICTS = {"a": "better", "b": "worse", "tie": "tie"}
"""What a paired test comes to for its first metric."""
_TESTS = ("over_static", "both_over_metric", "both_over_static")
ABOUT = (
    "*static* ranks the models of each task by their mean z-score over the other tasks (Singh, "
    "Hess and Vanschoren 2025, arXiv 2510.06448): it knows what they reached there, and nothing of "
    "the task. A score that does not beat it need not have looked at the task either. *with "
    "static* is the mean of the z-scores of the two on each task, the plainest combination. *tau "
    "between tasks* is the mean Kendall's tau between the accuracies of two tasks: at 1 one "
    "ranking serves all."
)


class _Measures(dict[str, _Interval]):
    """Measures of agreement with their intervals; NaN what no task has."""

    def __missing__(self, name: str) -> _Interval:
        return np.nan, np.nan, np.nan


@dataclass(frozen=True)
class _Beside:
    """One metric, alone and with the static ranking; the measures with their intervals.

    The verdicts are ``"better"``, ``"worse"`` or ``"tie"``, and ``"–"`` where there is no test.
    """

    metric: str
    alone: _Measures
    both: _Measures
    over_static: str = "–"
    both_over_metric: str = "–"
    both_over_static: str = "–"


@dataclass(frozen=True)
class Need:
    """A benchmark, its static ranking, and its metrics beside that, best first."""

    name: str
    models: int
    tasks: int
    dispersion: _Interval  # mean Kendall's tau between two tasks
    static: _Measures  # of the static ranking; none where no model is on two tasks
    rows: tuple[_Beside, ...]
    points: float  # what a regret is multiplied by to be in points

    @classmethod
    def of(
        cls,
        name: str,
        accuracies: pd.DataFrame,
        scores: Mapping[str, pd.DataFrame],
        *,
        noise: pd.DataFrame | None = None,
        points: float = 100.0,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> Need:
        """Judge the static ranking of a benchmark, and every metric with and without it."""
        options: dict[str, Any] = {"noise": noise, "resamples": resamples, "seed": seed}
        static = static_scores(accuracies)
        rows = []
        for metric, table in scores.items():
            if not (alone := mean_agreement(table, accuracies, **options)):
                continue
            both_table = _with_static(table, static)
            both = mean_agreement(both_table, accuracies, **options)
            verdicts: Sequence[str] = ()
            if both and resamples:
                with quiet():
                    # What is missing is in the benchmark's notes, which the page repeats.
                    test = compare_metrics(
                        table, both_table, accuracies, measure=MEASURE, **options
                    )
                beside = test.over_static
                verdicts = (
                    VERDICTS[beside["a"].verdict],
                    {"a": "worse", "b": "better"}.get(test.verdict, "tie"),
                    VERDICTS[beside["b"].verdict],
                )
            rows.append(_Beside(metric, alone, both, *verdicts))
        return cls(
            name=name,
            models=int(accuracies.notna().any(axis="columns").sum()),
            tasks=len(accuracies.columns),
            dispersion=_dispersion(accuracies, resamples=resamples, seed=seed),
            static=mean_agreement(static, accuracies, **options),
            rows=tuple(sorted(rows, key=lambda row: -row.alone[MEASURE][0])),
            points=points,
        )

    @property
    def sentence(self) -> str:
        """What the paired tests come to."""
        if not self.static:
            return f"{self.name}: no model is known on two tasks, so there is no static ranking."
        start = f"{self.name}: static has weighted tau {_tau(self.static)}."
        if not self.rows:
            return f"{start} There are no scores to hold against it."
        by = {v: [r.metric for r in self.rows if r.over_static == v] for v in VERDICTS.values()}
        told = (
            ("Better", by["better"]), ("not told apart", by["tie"]), ("worse", by["worse"]),
        )  # fmt: skip
        parts = [f"{said}: {', '.join(names) or 'none'}" for said, names in told]
        return f"{start} {'; '.join(parts)}."

    @property
    def in_full(self) -> Table:
        """A line per metric."""
        header = (
            *("metric", "alone", f"with {STATIC}", "over static", "both over it"),
            "both over static",
        )
        rows = [
            [r.metric, *map(_tau, (r.alone, r.both)), *(getattr(r, name) for name in _TESTS)]
            for r in self.rows
        ]
        return header, [*rows, [STATIC, _tau(self.static), *["–"] * 4]]


def mean_agreement(
    scores: pd.DataFrame,
    accuracies: pd.DataFrame,
    noise: pd.DataFrame | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> _Measures:
    """Mean over tasks of every measure of agreement, with its interval; none of too few models."""
    found = _agreed(scores, accuracies, noise=noise, resamples=resamples, seed=seed)
    means = found[found["task"] == MEAN].set_index("measure")[["value", "low", "high"]]
    return _Measures({str(row.Index): tuple(row[1:]) for row in means.itertuples()})


def by_task(scores: pd.DataFrame, accuracies: pd.DataFrame, measure: str = MEASURE) -> pd.Series:
    """One measure of agreement on each task, NaN where it is not defined."""
    found = _agreed(scores, accuracies, resamples=0)
    found = found[(found["task"] != MEAN) & (found["measure"] == measure)]
    tasks = accuracies.columns.intersection(scores.columns)
    return found.set_index("task")["value"].astype(float).reindex(tasks)


def _agreed(scores: pd.DataFrame, accuracies: pd.DataFrame, **options: Any) -> pd.DataFrame:
    """``agreement_by_task`` of the scores alone; no rows where no task has enough models."""
    import pandas as pd

    with quiet():
        # Pairs without a score are counted and told.
        try:
            return agreement_by_task(scores, accuracies, static=scores.iloc[:0], at=(), **options)
        except InvalidInputError:
            return pd.DataFrame(columns=["task", "measure", "value", "low", "high", "n"])


def _with_static(scores: pd.DataFrame, static: pd.DataFrame) -> pd.DataFrame:
    """A metric and the static ranking combined: the mean of the two z-scores on each task.

    That gives both the same say, whatever either is worth. A score that is equal for all models of
    a task says nothing; NaN where one of the two is missing.
    """
    tasks = [task for task in static.columns if task in scores.columns]
    models = [model for model in static.index if model in scores.index]
    parts = [table.loc[models, tasks].astype(np.float64) for table in (scores, static)]
    both = np.isfinite(parts[0]) & np.isfinite(parts[1])
    first, second = (z_scores(part.where(both)).fillna(0.0) for part in parts)
    return ((first + second) / 2).where(both)


def _dispersion(
    accuracies: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> _Interval:
    """How alike the tasks rank the models: mean Kendall's tau-b over pairs of tasks, low, high.

    At 1 all tasks have one ranking and no metric is needed; at 0 every task has its own. Of each
    pair count the models that are known on both, if there are three. The interval is of 95 %, over
    models. Cost: O(M² T²) per resample.
    """
    a = accuracies.to_numpy(np.float64)
    known = np.isfinite(a)
    first, second = np.triu_indices(len(a), 1)
    signs = np.sign(np.where(known, a, 0.0)[first] - np.where(known, a, 0.0)[second]).T
    both = (known[first] & known[second]).T * 1.0
    signs = signs * both
    enough = np.triu(known.T.astype(int) @ known.astype(int) >= FEWEST, 1)

    def mean_tau(weights: np.ndarray) -> float:
        agree, untied = (signs * weights) @ signs.T, (np.abs(signs) * weights) @ both.T
        norm = np.sqrt(untied * untied.T)
        usable = enough & (norm > 0)
        return float(np.mean(agree[usable] / norm[usable])) if usable.any() else np.nan

    taus = []
    for drawn in draw(len(a), resamples, seed):
        count = np.bincount(drawn, minlength=len(a)).astype(np.float64)
        taus.append(mean_tau(count[first] * count[second]))
    return mean_tau(np.ones(len(first))), *interval(np.array(taus))


def overview(needs: Sequence[Need]) -> Table:
    """A line per benchmark, with the score that is best on it in hindsight."""
    header = (
        *("benchmark", "models", "tasks", "tau between tasks", STATIC, "its regret"),
        *("best score", "its tau", "regret of the score", f"with {STATIC}", "regret of both"),
        *("score over static", "both over score", "both over static"),
    )
    rows = []
    for need in needs:
        best = need.rows[0] if need.rows else _Beside("–", _Measures(), _Measures())
        cells = [need.name, str(need.models), str(need.tasks), with_ends(need.dispersion)]
        for name, measures in ((None, need.static), (best.metric, best.alone), (None, best.both)):
            cells += [] if name is None else [name]
            regret = [need.points * x for x in measures["regret"]]
            cells += [_tau(measures), with_ends(regret, 1)]
        rows.append([*cells, *(getattr(best, name) for name in _TESTS)])
    return header, rows


def _tau(measures: _Measures) -> str:
    return with_ends(measures[MEASURE])


def with_ends(interval: Sequence[float], digits: int = 2) -> str:
    """A value with the ends of its interval, if it has one."""
    value, low, high = interval
    if np.isnan(value):
        return "–"
    ends = "" if np.isnan(low) else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{ends}"
