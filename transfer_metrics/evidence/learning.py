"""Learning how far scores can be trusted about accuracies, from tables that have both.

One number stands for a metric on a task: Fisher's z of the correlation of its scores with the
accuracies. These are modelled as

    z = mean of the metric + change with N + change with C + population + task + rest,

each part normal, with variances by restricted maximum likelihood under a weak prior, so that
metrics and populations of which little is known are drawn towards the others. That z is of few
models has the known variance 1/(M - 3), half of which all metrics of a task share: it is part of
what is seen, not of what a new task will have. A new task of the same population has the errors of
task and rest; of another one, that of the population too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import (
    ENOUGH,
    REFERENCE,
    ErrorModel,
    MetricTrust,
    bundled,
    fisher_z,
    normal_scores,
)

if TYPE_CHECKING:
    import pandas as pd

_WEAK = 0.3
"""Scale of the half-normal prior of each deviation: 0.3 is a correlation of 0.8 instead of 0.67."""
_SHARED = 0.5
"""Share of the error of few models that is the same for all metrics of a task."""
_TWO = math.sqrt(2.0)
_ENOUGH = {"ftol": 1e-5, "eps": 1e-3}
"""Deviations that are off by a hundredth change nothing."""
_CLASSES = 0.2
"""Prior deviation of the change with ten times as many classes."""


@dataclass(frozen=True)
class Case:
    """One metric on one task, at one number of examples."""

    population: str  # of networks, such as a benchmark
    task: str
    metric: str
    z: float  # Fisher's, of scores with accuracies
    models: int  # how many had both
    n: int | None = None  # examples that were scored, where known
    classes: int | None = None
    of_best: bool = False  # whether the best block stands for each model


def cases_of(
    population: str,
    scores: Mapping[str, pd.DataFrame],
    accuracies: pd.DataFrame,
    *,
    n: Mapping[str, int] | int | None = None,
    classes: Mapping[str, int] | None = None,
    of_best: bool = False,
) -> list[Case]:
    """A case per metric and task, where enough models have a score and an accuracy.

    ``scores`` are by metric, models x tasks, higher is better; ``n`` of each task or of all.
    """
    found = []
    for metric, table in scores.items():
        table = table.reindex(index=accuracies.index)
        for task in accuracies.columns.intersection(table.columns):
            s, a = table[task].to_numpy(float), accuracies[task].to_numpy(float)
            z = fisher_z(s, a)
            if z is None:
                continue
            models = int((np.isfinite(s) & np.isfinite(a)).sum())
            own = n.get(task) if isinstance(n, Mapping) else n
            of = None if classes is None else classes.get(task)
            found.append(Case(population, str(task), metric, z, models, own, of, of_best))
    return found


def learn(
    cases: Iterable[Case],
    *,
    inside: str | None = None,
    unlike: ErrorModel | None = None,
    earlier: Mapping[str, pd.DataFrame] | None = None,
    dims: Sequence[float] = (),
    kinds: Sequence[str] = (),
    source: str = "",
) -> ErrorModel:
    """The model of errors that some cases teach; seconds for some hundred cases.

    ``inside`` is the population that users are expected to be like, by default the first; the
    others tell how far metrics can be trusted elsewhere, and where there are none, ``unlike`` does,
    by default the evidence of the package. ``earlier`` are accuracies by population, models x
    tasks, which say what one task tells of another. The rest says what the cases are of.
    """
    known = list(cases)
    inside = inside or (known[0].population if known else "")
    mine = [c for c in known if c.population == inside]
    if not mine:
        raise InvalidInputError(
            f"no metric has scores and accuracies of {ENOUGH} models on a task, so nothing can be "
            f"learnt from them; are models and tasks called the same in both?"
        )
    full = _at_most_examples(mine)
    by_n, of_best = _changes(mine, _slope), _changes(full, _lift)
    plain = [c for c in full if not c.of_best] or full
    fit = _Fit.of([replace(c, z=c.z - by_n[c.metric] * _log(c.n, "n")) for c in plain])
    others = [c for c in known if c.population != inside]
    if others:
        wide = _Fit.of([*plain, *_at_most_examples(others)])
        elsewhere = {metric: wide.new_population(metric) for metric in wide.metrics}
        unknown = wide.new_population(None)
    else:
        unlike = unlike or bundled()
        elsewhere, unknown = dict(unlike.elsewhere), unlike.others
    prior = _of_earlier(earlier or {})
    return ErrorModel(
        metrics={
            m: MetricTrust(*_rounded(*fit.metric(m), by_n[m], of_best[m])) for m in fit.metrics
        },
        tasks_apart=round(math.hypot(*fit.deviations[3:]), 4),
        others=unknown,
        elsewhere=elsewhere,
        by_classes=round(fit.by_classes, 4),
        prior=(round(prior[0], 4), round(prior[1], 4)),
        prior_tasks_apart=round(prior[2], 4),
        ranges={
            name: (float(min(values)), float(max(values)))
            for name, values in (
                ("n", [c.n for c in mine if c.n is not None]),
                ("classes", [c.classes for c in mine if c.classes is not None]),
                ("dim", list(dims)),
            )
            if values
        },
        kinds=tuple(kinds),
        source=source,
    )


def _at_most_examples(cases: Sequence[Case]) -> list[Case]:
    """Of each metric on a task, the case of most examples."""
    most: dict[tuple[Any, ...], Case] = {}
    for case in cases:
        key = (case.population, case.task, case.metric, case.of_best)
        if key not in most or (case.n or 0) > (most[key].n or 0):
            most[key] = case
    return list(most.values())


def _changes(
    cases: Sequence[Case],
    of_task: Callable[[Sequence[Case]], tuple[float, float] | None],
) -> dict[str, float]:
    """A change within tasks, per metric, drawn towards that of all metrics.

    ``of_task`` gives the change on a task and how much it weighs.
    """
    groups: dict[str, dict[tuple[str, str], list[Case]]] = {c.metric: {} for c in cases}
    for case in cases:
        groups[case.metric].setdefault((case.population, case.task), []).append(case)
    own: dict[str, tuple[float, float]] = {}
    for metric, tasks in groups.items():
        found = [value for group in tasks.values() if (value := of_task(group)) is not None]
        if len(found) > 1:
            values, weights = np.array(found).T
            mean = float(np.average(values, weights=weights))
            spread = float(np.average((values - mean) ** 2, weights=weights))
            own[metric] = mean, spread / (len(found) - 1)
    if not own:
        return dict.fromkeys(groups, 0.0)
    means, errors = np.array(list(own.values())).T
    common = float(means.mean())
    between = max(float(means.var(ddof=1)) - float(errors.mean()), 0.0) if len(own) > 1 else 0.0
    return {
        metric: common
        if metric not in own
        else common + (own[metric][0] - common) * between / max(between + own[metric][1], 1e-12)
        for metric in groups
    }


def _slope(cases: Sequence[Case]) -> tuple[float, float] | None:
    """Change of z with ten times as many examples, on one task, weighed by their spread."""
    plain = [c for c in cases if not c.of_best]
    x = np.array([_log(c.n, "n") for c in plain if c.n is not None])
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    y, x = np.array([c.z for c in plain if c.n is not None]), x - x.mean()
    return float(x @ y / (x @ x)), float(x @ x)


def _lift(cases: Sequence[Case]) -> tuple[float, float] | None:
    """Z where the best block stands for a model, less that of the classifier's input."""
    found = {c.of_best: c.z for c in cases}
    return (found[True] - found[False], 1.0) if len(found) == 2 else None


@dataclass(frozen=True)
class _Fit:
    """The variances, and what they make of the cases."""

    metrics: tuple[str, ...]
    deviations: np.ndarray  # of metrics, populations, metrics in them, tasks, metrics on them
    mean: float
    mean_error: float
    by_classes: float
    effects: np.ndarray  # of each metric, less the mean
    variances: np.ndarray  # of mean plus effect

    @classmethod
    def of(cls, cases: Sequence[Case]) -> _Fit:
        metrics = tuple(dict.fromkeys(c.metric for c in cases))
        parts = [
            _incidence(keys)
            for keys in (
                [c.metric for c in cases],
                [c.population for c in cases],
                [(c.population, c.metric) for c in cases],
                [(c.population, c.task) for c in cases],
                [(c.population, c.task, c.metric) for c in cases],
            )
        ]
        y = np.array([c.z for c in cases])
        few = np.array([1 / max(c.models - 3, 1) for c in cases])
        root = np.sqrt(_SHARED * few)
        classes = np.array([_log(c.classes, "classes") for c in cases])
        fixed = parts[3] * np.outer(root, root) + np.diag((1 - _SHARED) * few)
        fixed = fixed + _CLASSES**2 * np.outer(classes, classes)
        # One population cannot tell how much populations differ, nor one metric how metrics do.
        populations, metric_count = len({c.population for c in cases}), len(metrics)
        free = [metric_count > 1, populations > 1, True, metric_count > 1]

        def covariance(deviations: np.ndarray) -> np.ndarray:
            return fixed + sum(d * d * part for d, part in zip(deviations, parts, strict=True))

        def spread(at: np.ndarray) -> np.ndarray:
            found = np.zeros(len(free))
            found[free] = np.exp(at)
            metric, population, task, rest = found
            # Few metrics were measured twice, so half of what tells metrics apart is believed to
            # hold everywhere.
            if populations > 1:
                return np.array([metric, population, metric, task, rest]) / [_TWO, 1, _TWO, 1, 1]
            return np.array([metric, 0.0, 0.0, task, rest])

        def loss(at: np.ndarray) -> float:
            full = spread(at)
            factor = cho_factor(covariance(full), lower=True)
            ones = cho_solve(factor, np.ones_like(y))
            rest = y - (ones @ y) / ones.sum()
            logs = 2 * np.log(np.diag(factor[0])).sum() + math.log(ones.sum())
            return float(logs + rest @ cho_solve(factor, rest) + (full**2).sum() / _WEAK**2)

        start = np.full(sum(free), math.log(0.2))
        bounds = [(math.log(1e-3), math.log(2.0))] * len(start)
        found = spread(minimize(loss, start, method="L-BFGS-B", bounds=bounds, options=_ENOUGH).x)
        factor = cho_factor(covariance(found), lower=True)
        ones = cho_solve(factor, np.ones_like(y))
        mean, mean_variance = float(ones @ y / ones.sum()), float(1 / ones.sum())
        rest = cho_solve(factor, y - mean)
        # How each metric covaries with what was seen.
        own = np.array([[c.metric == metric for c in cases] for metric in metrics], dtype=float)
        own = own * found[0] ** 2
        solved = cho_solve(factor, own.T)
        variances = found[0] ** 2 - np.einsum("mk,km->m", own, solved)
        variances = variances + mean_variance * (1 - own @ ones) ** 2
        by_classes = float(_CLASSES**2 * classes @ rest)
        return cls(
            metrics, found, mean, math.sqrt(mean_variance), by_classes, own @ rest, variances
        )

    def metric(self, name: str | None) -> tuple[float, float]:
        """Mean of a metric and its standard error; of one that is not known without a name."""
        if name is None:
            return self.mean, math.hypot(self.mean_error, self.deviations[0] or _WEAK)
        i = self.metrics.index(name)
        return self.mean + float(self.effects[i]), math.sqrt(max(float(self.variances[i]), 0.0))

    def new_population(self, name: str | None) -> Trust:
        """Trust in a metric on a task of a population that had no part in it."""
        mean, error = self.metric(name)
        return Trust(*_rounded(mean, math.hypot(error, *self.deviations[1:])))


def _incidence(keys: Sequence[Any]) -> np.ndarray:
    """Which cases have a key in common, (K, K) of 0 and 1."""
    codes = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    own = np.array([codes[key] for key in keys])
    return (own[:, None] == own[None, :]).astype(float)


def _of_earlier(tables: Mapping[str, pd.DataFrame]) -> tuple[float, float, float]:
    """What one task tells of another: mean of Fisher's z, deviations between and within tables."""
    means, within = [], []
    for table in tables.values():
        columns = table.to_numpy(float)
        pairs = []
        for i in range(columns.shape[1]):
            for j in range(i):
                both = np.isfinite(columns[:, i]) & np.isfinite(columns[:, j])
                if both.sum() >= ENOUGH:
                    z = fisher_z(normal_scores(columns[both, i]), columns[both, j])
                    if z is not None:
                        pairs.append((z, 1 / max(int(both.sum()) - 3, 1)))
        if len(pairs) > 2:
            z, few = np.array(pairs).T
            means.append(float(z.mean()))
            within.append(float(z.var(ddof=1) - few.mean()))
    if len(means) < 2:
        return 0.0, 0.5, 0.3
    inside = max(float(np.mean(within)), 0.05)
    return float(np.mean(means)), float(np.std(means, ddof=1)), math.sqrt(inside)


def _rounded(*values: float) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)


def _log(value: int | None, of: str) -> float:
    return 0.0 if value is None else math.log10(value / REFERENCE[of])
