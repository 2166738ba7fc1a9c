"""What earlier tasks add to scores: standing, score and both, on tasks that were left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.results.agreement import RESAMPLES, evaluate, interval
from transfer_metrics.results.chances import Kinship, Trust, expected, kinship
from transfer_metrics.results.error_model import ENOUGH, ErrorModel, normal_scores
from transfer_metrics.results.standing import priors, standing_of

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("score", "standing", "both")
_MEASURES = ("weighted_kendall", "regret")


@dataclass(frozen=True)
class Combined:
    """One metric with what the models reached on all other tasks, mean over tasks.

    Attributes:
        name: of the benchmark.
        metric: whose scores were read.
        values: by measure and part, the value with the ends of its interval.
        gains: by measure and part, ``both`` less that part, with the ends of its interval.
        tasks: how many.
        models: how many.
    """

    name: str
    metric: str
    values: Mapping[tuple[str, str], tuple[float, float, float]]
    gains: Mapping[tuple[str, str], tuple[float, float, float]]
    tasks: int
    models: int


def combine(
    name: str,
    metric: str,
    scores: pd.DataFrame | None,
    accuracies: pd.DataFrame,
    trust: Callable[[str], Trust],
    errors: ErrorModel,
    *,
    shared: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Combined:
    """Judge score, standing and both on every task, the standing being that on all other tasks.

    Intervals are of a bootstrap over models, the same for all parts. Without scores they are drawn:
    in each resample anew, such that on each task they correlate with the accuracies as ``trust``
    says, its error included.

    Args:
        name: of the benchmark.
        metric: its label, or what the drawn scores stand for.
        scores: models x tasks, higher is better, or None to draw them.
        accuracies: models x tasks.
        trust: in the metric on each task, learnt without it.
        errors: from which to know how far a standing can be trusted.
        shared: of the errors of drawn scores, the share that models alike have in common.
        resamples: of models.
        seed: of the resamples.
    """
    rng = np.random.default_rng(seed)
    names = list(accuracies.index)
    drawn = np.vstack(
        [np.arange(len(names)), rng.integers(len(names), size=(resamples, len(names)))]
    )
    rows: dict[tuple[str, str], list[np.ndarray]] = {(m, p): [] for m in _MEASURES for p in _PARTS}
    models = 0
    for task in accuracies.columns:
        if scores is not None and task not in scores:
            continue
        a = accuracies[task].to_numpy(float)
        others = accuracies.drop(columns=task).dropna(how="all")
        kept = priors(others, [n for n in names if n in others.index], errors)
        before = np.array([kept[n][0] if n in kept else math.nan for n in names])
        s = a if scores is None else scores[task].reindex(accuracies.index).to_numpy(float)
        known = np.isfinite(s) & np.isfinite(a) & np.isfinite(before)
        if known.sum() < ENOUGH or np.ptp(s[known]) == 0:
            continue
        models = max(models, int(known.sum()))
        of_task = trust(str(task))
        made = {part: np.zeros((len(drawn), len(names))) for part in _PARTS}
        made["standing"][:, known] = before[known]
        there = [kept[n] for n, is_known in zip(names, known, strict=True) if is_known]
        standing = standing_of(there)
        alike = kinship(before[known], np.array([k[4:] for k in there]))
        alike = alike._replace(values=1 - shared + shared * alike.values)
        for r in range(len(drawn) if scores is None else 1):
            rows_of = slice(r, r + 1) if scores is None else slice(None)
            own_scores = _drawn(rng, a[known], of_task, alike) if scores is None else s[known]
            both = expected(own_scores.tolist(), True, of_task, standing)
            made["score"][rows_of, known], made["both"][rows_of, known] = own_scores, both
        valid = known[drawn]
        truth = np.where(known, a, 0.0)[drawn]
        for part in _PARTS:
            found = evaluate(np.take_along_axis(made[part], drawn, axis=1), truth, valid)
            for measure in _MEASURES:
                rows[measure, part].append(found[measure])
    return _summed(name, metric, rows, models, drawn=scores is None)


def _drawn(
    rng: np.random.Generator, accuracies: np.ndarray, trust: Trust, errors: Kinship
) -> np.ndarray:
    """Scores that correlate with accuracies as far as they can be trusted."""
    rho = math.tanh(trust.mean + trust.error * rng.standard_normal())
    noise = errors.vectors @ (np.sqrt(errors.values) * rng.standard_normal(len(accuracies)))
    return rho * normal_scores(accuracies) + math.sqrt(1 - rho**2) * noise


def _summed(
    name: str,
    metric: str,
    rows: Mapping[tuple[str, str], list[np.ndarray]],
    models: int,
    drawn: bool,
) -> Combined:
    """Means over tasks, with their intervals."""
    means = {key: np.nanmean(np.array(of_tasks), axis=0) for key, of_tasks in rows.items()}

    def told(values: np.ndarray) -> tuple[float, float, float]:
        # One draw of scores is as good as another, so their mean is the value.
        value = float(np.nanmean(values[1:]) if drawn else values[0])
        return (value, *interval(values[1:]))

    values = {key: told(mean) for key, mean in means.items()}
    gains = {
        (measure, part): told(means[measure, "both"] - means[measure, part])
        for measure, part in rows
        if part != "both"
    }
    return Combined(name, metric, values, gains, len(next(iter(rows.values()))), models)
