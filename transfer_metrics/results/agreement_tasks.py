"""Agreement over many tasks, and whether one metric agrees better than another.

A metric is judged by the mean of a measure over tasks. Its error bar is a bootstrap over models:
each resample draws models once, for all tasks and metrics alike, because a model that one task
over- or underrates tends to be misjudged on the others too. The tasks are taken as they are. Beside
every metric stands the ranking by the other tasks, which has not looked at the task at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.agreement import (
    AT,
    RESAMPLES,
    checked_at,
    draw,
    evaluate,
    interval,
    lower_is_better,
    options_of,
)
from transfer_metrics.results.cells import Cells, beside_static, matched_cells
from transfer_metrics.results.static_ranking import STATIC

if TYPE_CHECKING:
    import pandas as pd

MEAN, OVER_STATIC = "mean", "mean - static"
"""What the mean over tasks, and its gain over the static ranking, are called among tasks."""


@dataclass(frozen=True)
class MetricComparison:
    """Two metrics on the same models and tasks.

    Attributes:
        measure: the measure of agreement.
        a: its mean over tasks for the first metric.
        b: the same for the second.
        difference: a - b.
        low: lower end of the 95 % percentile interval of the difference.
        high: upper end.
        p_value: two-sided: twice the smaller share of resamples on one side of no difference.
        verdict: ``"a"`` or ``"b"``, whichever agrees better, or ``"tie"`` where the interval
            contains 0.
        tasks: how many tasks were averaged.
        models: how many models took part.
        over_static: each of the two, ``"a"`` and ``"b"``, compared with the static ranking, which
            knows the other tasks only (``static_scores``), as ``b``; empty where there is none.
    """

    measure: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float
    verdict: str
    tasks: int
    models: int
    over_static: Mapping[str, MetricComparison] = field(default_factory=dict)

    @property
    def static(self) -> float:
        """The mean over tasks for the static ranking; NaN where there is none."""
        return next((found.b for found in self.over_static.values()), math.nan)

    @property
    def remarks(self) -> list[str]:
        """A sentence for each of the two metrics that does not beat the static ranking.

        >>> import pandas as pd
        >>> table = pd.DataFrame({"x": range(9), "y": range(9)})
        >>> compare_metrics(-table, -table, table, measure="kendall", resamples=20).remarks[0]
        'a is worse than the static ranking, which never looks at the task: kendall -1.00 against
         1.00, difference -2.00 (-2.00 to -2.00)'
        """
        return [
            f"{name} {'is worse than' if found.verdict == 'b' else 'does not beat'} the static "
            f"ranking, which never looks at the task: {self.measure} {found.a:.2f} against "
            f"{found.b:.2f}, difference {found.difference:.2f} "
            f"({found.low:.2f} to {found.high:.2f})"
            for name, found in self.over_static.items()
            if found.tasks and found.verdict != "a"
        ]


def agreement_by_task(
    scores: pd.DataFrame,
    accuracies: pd.DataFrame,
    *,
    static: pd.DataFrame | None = None,
    at: Sequence[int] = AT,
    noise: pd.DataFrame | float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Agreement of one metric's scores with accuracies on each task, and the mean over tasks.

    The measures are those of ``results.agreement``. The intervals are 95 % percentile intervals of
    a bootstrap over models, the same resampled models on every task; for another metric of the
    same models they are the same again, with the same seed. With ten models such an interval is
    a little too narrow: in simulations of eleven tasks it held the true mean of tau 91 to 96
    times in 100, least often where models are good or bad on all tasks alike.

    Where accuracies of two tasks or more are known, the static ranking stands below: of each task
    it knows the others only, and nothing of the task itself. A metric whose gain over it has an
    interval that contains 0 has not been shown to be worth its computation here.

    Args:
        scores: models x tasks, higher is better.
        accuracies: models x tasks. Rows and columns are matched by name; what only one of the two
            has is left out, with a warning, and so are cells that are NaN in either.
        static: scores that do not look at the task, models x tasks; by default
            ``static_scores(accuracies)``.
        at: the k of ``rel@k`` and ``regret@k``.
        noise: standard error of each accuracy over seeds, models x tasks, or one for all. Each
            resample adds as much to the accuracies, so that the interval covers what another run
            of the fine-tuning could have found. The accuracies hold that noise once already;
            adding it again draws correlations towards 0, which errs on the safe side.
        resamples: 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        One row per task and measure, then per measure the mean over the tasks on which it is
        defined, as task ``"mean"``: task, measure, value, low, high, n. n is the number of models,
        for means that of tasks. Means of a resample are over the tasks on which the measure is
        defined there. Then the same mean of the static ranking, as task ``"static"``, and the mean
        of the differences, as task ``"mean - static"``, both on the models and tasks for which it
        is known, which may be fewer; the same resampled models give both. Of regrets less is
        better.

    Raises:
        InvalidInputError: fewer than three models in every task, or noise that is missing or
            negative.

    Warns:
        TransferMetricsWarning: what is left out, and tasks on which scores or accuracies are
            constant and correlations are not defined.

    Cost: O(M²) per task and resample; 0.2 s for 10 models, 11 tasks and 1000 resamples.

    >>> import pandas as pd
    >>> scores = pd.DataFrame({"pets": [1, 2, 3, 4], "cars": [1, 2, 4, 3]}, list("abcd"))
    >>> accuracies = pd.DataFrame({"pets": [5, 6, 7, 8], "cars": [1, 2, 3, 4]}, list("abcd"))
    >>> table = agreement_by_task(scores, accuracies, resamples=0)
    >>> table[table["measure"] == "kendall"].set_index("task")["value"].round(3).to_dict()
    {'pets': 1.0, 'cars': 0.667, 'mean': 0.833, 'static': 1.0, 'mean - static': -0.167}
    """
    import pandas as pd

    at = checked_at(at)
    cells = matched_cells([scores], accuracies, noise, static)
    if taken := {MEAN, STATIC, OVER_STATIC}.intersection(cells.tasks):
        raise InvalidInputError(
            f"a task is called {min(taken)!r}, as a row below the tasks is; rename it"
        )
    rows = []
    found, beside = _measured(cells, at, resamples, seed)
    counts = cells.valid.sum(axis=0)
    for name, (point, samples) in found.items():
        for t, task in enumerate(cells.tasks):
            if "@" in name and int(name.partition("@")[2]) > counts[t]:
                continue
            rows.append((task, name, point[0, t, 0], *interval(samples[0, t]), int(counts[t])))
    rows.sort(key=lambda row: cells.tasks.index(row[0]))
    rows += [(MEAN, name, *_mean_of(*both, 0)) for name, both in found.items()]
    rows += [(STATIC, name, *_mean_of(*both, -1)) for name, both in beside.items()]
    for name, both in beside.items():
        gain = _compared(name, *both, 0, -1, len(cells.valid))
        rows.append((OVER_STATIC, name, gain.difference, gain.low, gain.high, gain.tasks))
    return pd.DataFrame(rows, columns=["task", "measure", "value", "low", "high", "n"])


def compare_metrics(
    scores_a: pd.DataFrame,
    scores_b: pd.DataFrame,
    accuracies: pd.DataFrame,
    *,
    static: pd.DataFrame | None = None,
    measure: str = "weighted_kendall",
    noise: pd.DataFrame | float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> MetricComparison:
    """Paired bootstrap test of which of two metrics agrees better, on average over tasks.

    Both are judged on the same resampled models, on the cells that have both scores and an
    accuracy, so that what is hard for both cancels. In simulations of two equally good metrics on
    ten models and eleven tasks, the verdict was another than "tie" in 2 to 9 of 100 cases, most
    often where models are good or bad on all tasks alike. Of many comparisons some come out by
    chance: nothing is corrected for that.

    Args:
        scores_a: models x tasks, higher is better.
        scores_b: the same of the other metric.
        accuracies: models x tasks, matched by name.
        static: as for ``agreement_by_task``; both metrics are compared with it as well.
        measure: any measure of ``agreement``, such as ``"kendall"``, ``"rel@3"`` or ``"regret"``.
        noise: as for ``agreement_by_task``; the same draws serve both metrics.
        resamples: bootstrap samples of models.
        seed: of the bootstrap.

    Raises:
        InvalidInputError: no such measure; fewer than one resample; fewer than three models in
            every task; the measure is defined on no task; or bad noise.

    Warns:
        TransferMetricsWarning: as ``agreement_by_task``.

    >>> import pandas as pd
    >>> accuracies = pd.DataFrame({"pets": range(8), "cars": range(8)}, list("abcdefgh"))
    >>> found = compare_metrics(accuracies, -accuracies, accuracies, measure="kendall")
    >>> found.difference, found.verdict, found.over_static["a"].verdict
    (2.0, 'a', 'tie')
    """
    at = options_of(measure)
    if resamples < 1:
        raise InvalidInputError(f"a test needs resamples, not {resamples}; try {RESAMPLES}")
    cells = matched_cells([scores_a, scores_b], accuracies, noise, static)
    found, beside = _measured(cells, at, resamples, seed)
    models = len(cells.valid)
    compared = _compared(measure, *found[measure], 0, 1, models)
    if not compared.tasks:
        raise InvalidInputError(
            f"{measure} is defined for both metrics on none of {len(cells.tasks)} tasks; scores "
            f"or accuracies are constant, or there are too few models"
        )
    if not beside:
        return compared
    gains = {
        name: _compared(measure, *beside[measure], place, -1, models)
        for place, name in enumerate("ab")
    }
    return replace(compared, over_static=gains)


_Values = dict[str, tuple[np.ndarray, np.ndarray]]
"""By measure, of all models and of resamples: (metrics, tasks, 1) and (metrics, tasks, R)."""


def _measured(
    cells: Cells, at: Sequence[int], resamples: int, seed: int
) -> tuple[_Values, _Values]:
    """Measures of every metric; and beside the static ranking, as the last, where it is known."""
    both = beside_static(cells)
    beside = _bootstrapped(both, at, resamples, seed) if both else {}
    # The same cells give the same figures, so there is nothing to be computed twice.
    if both and np.array_equal(both.valid, cells.valid):
        return beside, beside
    return _bootstrapped(cells, at, resamples, seed), beside


def _bootstrapped(cells: Cells, at: Sequence[int], resamples: int, seed: int) -> _Values:
    models = len(cells.valid)
    everyone = np.arange(models)[None, :]
    point = _evaluated(cells, everyone, np.zeros((1, *cells.noise.shape)), at)
    # A model that is drawn twice brings one measurement, so it is perturbed once.
    rng = np.random.default_rng([seed, 1])
    errors = rng.standard_normal((resamples, *cells.noise.shape)) * cells.noise
    samples = _evaluated(cells, draw(models, resamples, seed), errors, at)
    return {name: (point[name], samples[name]) for name in point}


def _evaluated(
    cells: Cells, drawn: np.ndarray, errors: np.ndarray, at: Sequence[int]
) -> dict[str, np.ndarray]:
    """Measures of drawn models with perturbed accuracies: (metrics, tasks, draws)."""
    tables, (draws, models) = len(cells.scores), drawn.shape
    shape = (tables, len(cells.tasks), draws)
    rows = np.arange(draws)[:, None]
    # Of models and tasks, (…, tasks, draws, models); one call for all is faster than many.
    noisy = cells.accuracies.T[:, drawn] + np.moveaxis(errors[rows, drawn], -1, 0)
    valid = cells.valid.T[:, drawn]
    scores = np.moveaxis(cells.scores, -1, 1)[:, :, drawn]
    everywhere = (np.broadcast_to(x, (*shape, models)) for x in (scores, noisy, valid))
    found = evaluate(*(x.reshape(-1, models) for x in everywhere), at=at)
    return {name: values.reshape(shape) for name, values in found.items()}


def _mean_of(
    point: np.ndarray, samples: np.ndarray, metric: int
) -> tuple[float, float, float, int]:
    """Mean over tasks of one metric, its interval, and how many tasks are in it."""
    defined = int(np.isfinite(point[metric]).sum())
    return float(_mean(point)[metric, 0]), *interval(_mean(samples)[metric]), defined


def _compared(
    measure: str, point: np.ndarray, samples: np.ndarray, a: int, b: int, models: int
) -> MetricComparison:
    """The paired test of two of the metrics, on the tasks on which both have a value."""
    point, samples = (_paired(values[[a, b]]) for values in (point, samples))
    first, second = _mean(point)[:, 0]
    differences = np.subtract(*_mean(samples))
    differences = differences[np.isfinite(differences)]
    low, high = interval(differences)
    sides = [(differences <= 0).sum(), (differences >= 0).sum()]
    better, worse = ("b", "a") if lower_is_better(measure) else ("a", "b")
    return MetricComparison(
        measure=measure,
        a=float(first),
        b=float(second),
        difference=float(first - second),
        low=low,
        high=high,
        p_value=float(min(1.0, 2 * (1 + min(sides)) / (1 + len(differences)))),
        verdict=better if low > 0 else worse if high < 0 else "tie",
        tasks=int(np.isfinite(point[0, :, 0]).sum()),
        models=models,
    )


def _paired(values: np.ndarray) -> np.ndarray:
    """NaN for both metrics on a task where either has none."""
    return np.where(np.isfinite(values).all(axis=0), values, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the tasks with a value; (metrics, tasks, R) -> (metrics, R)."""
    usable = np.isfinite(values)
    count = usable.sum(axis=1)
    total = np.where(usable, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
