"""Agreement over many tasks, and whether one metric agrees better than another.

A metric is judged by the mean of a measure over tasks. Its error bar is a bootstrap over models:
each resample draws models once, for all tasks and metrics alike, because a model that one task
over- or underrates tends to be misjudged on the others too. The tasks are taken as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.results.agreement import (
    FEWEST,
    LOWER_IS_BETTER,
    RESAMPLES,
    draw,
    evaluate,
    interval,
    options_of,
)

if TYPE_CHECKING:
    import pandas as pd

MEAN = "mean"
"""What the mean over tasks stands under in a column of tasks."""


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


def agreement_by_task(
    scores: pd.DataFrame,
    accuracies: pd.DataFrame,
    *,
    at: Sequence[int] = (1, 3),
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

    Args:
        scores: models x tasks, higher is better.
        accuracies: models x tasks. Rows and columns are matched by name; what only one of the two
            has is left out, with a warning, and so are cells that are NaN in either.
        at: the k of ``rel@k``.
        noise: standard error of each accuracy over seeds, models x tasks, or one for all. Each
            resample adds as much to the accuracies, so that the interval covers what another run
            of the fine-tuning could have found. The accuracies hold that noise once already;
            adding it again draws correlations towards 0, which errs on the safe side.
        resamples: 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        One row per task and measure, then per measure the mean over the tasks on which it is
        defined, as task ``"mean"``: task, measure, value, low, high, n. n is the number of models,
        for the mean that of tasks. Means of a resample are over the tasks on which the measure is
        defined there.

    Raises:
        InvalidInputError: fewer than three models in every task, or noise that is missing or
            negative.

    Warns:
        TransferMetricsWarning: what is left out, and tasks on which scores or accuracies are
            constant and correlations are not defined.

    Cost: O(M²) per task and resample; 0.1 s for 10 models, 11 tasks and 1000 resamples.

    >>> import pandas as pd
    >>> scores = pd.DataFrame({"pets": [1, 2, 3, 4], "cars": [1, 2, 4, 3]}, list("abcd"))
    >>> accuracies = pd.DataFrame({"pets": [5, 6, 7, 8], "cars": [1, 2, 3, 4]}, list("abcd"))
    >>> table = agreement_by_task(scores, accuracies, resamples=0)
    >>> table[table["measure"] == "kendall"][["task", "value"]].round(3).to_dict("list")
    {'task': ['pets', 'cars', 'mean'], 'value': [1.0, 0.667, 0.833]}
    """
    import pandas as pd

    cells = _matched([scores], accuracies, noise)
    rows = []
    point = _point(cells, at)
    samples = _resampled(cells, at, resamples, seed)
    counts = cells.valid.sum(axis=0)
    for name in point:
        for t, task in enumerate(cells.tasks):
            if name.startswith("rel@") and int(name[4:]) > counts[t]:
                continue
            ends = interval(samples[name][0, t])
            rows.append((task, name, point[name][0, t, 0], *ends, int(counts[t])))
    rows.sort(key=lambda row: cells.tasks.index(row[0]))
    for name in point:
        value = _mean(point[name])[0, 0]
        defined = int(np.isfinite(point[name][0]).sum())
        rows.append((MEAN, name, value, *interval(_mean(samples[name])[0]), defined))
    return pd.DataFrame(rows, columns=["task", "measure", "value", "low", "high", "n"])


def compare_metrics(
    scores_a: pd.DataFrame,
    scores_b: pd.DataFrame,
    accuracies: pd.DataFrame,
    *,
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
    >>> found.difference, found.verdict
    (2.0, 'a')
    """
    at = options_of(measure)
    if resamples < 1:
        raise InvalidInputError(f"a test needs resamples, not {resamples}; try {RESAMPLES}")
    cells = _matched([scores_a, scores_b], accuracies, noise)
    point = _paired(_point(cells, at)[measure])
    if not np.isfinite(point).any():
        raise InvalidInputError(
            f"{measure} is defined for both metrics on none of {len(cells.tasks)} tasks; scores "
            f"or accuracies are constant, or there are too few models"
        )
    a, b = _mean(point)[:, 0]
    samples = _mean(_paired(_resampled(cells, at, resamples, seed)[measure]))
    differences = samples[0] - samples[1]
    differences = differences[np.isfinite(differences)]
    low, high = interval(differences)
    sides = [(differences <= 0).sum(), (differences >= 0).sum()]
    better, worse = ("b", "a") if measure in LOWER_IS_BETTER else ("a", "b")
    return MetricComparison(
        measure=measure,
        a=float(a),
        b=float(b),
        difference=float(a - b),
        low=low,
        high=high,
        p_value=float(min(1.0, 2 * (1 + min(sides)) / (1 + len(differences)))),
        verdict=better if low > 0 else worse if high < 0 else "tie",
        tasks=int(np.isfinite(point[0, :, 0]).sum()),
        models=len(cells.valid),
    )


def _point(cells: _Cells, at: Sequence[int]) -> dict[str, np.ndarray]:
    """Measures of all models: (metrics, tasks, 1) each."""
    everyone = np.arange(len(cells.valid))[None, :]
    return _evaluated(cells, everyone, np.zeros((1, *cells.noise.shape)), at)


def _resampled(
    cells: _Cells, at: Sequence[int], resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Measures of resampled models with perturbed accuracies: (metrics, tasks, resamples)."""
    drawn = draw(len(cells.valid), resamples, seed)
    # A model that is drawn twice brings one measurement, so it is perturbed once.
    rng = np.random.default_rng([seed, 1])
    errors = rng.standard_normal((resamples, *cells.noise.shape)) * cells.noise
    return _evaluated(cells, drawn, errors, at)


def _evaluated(
    cells: _Cells, drawn: np.ndarray, errors: np.ndarray, at: Sequence[int]
) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    for t in range(len(cells.tasks)):
        noisy = np.take_along_axis(cells.accuracies[None, :, t] + errors[:, :, t], drawn, axis=1)
        valid = cells.valid[drawn, t]
        for scores in cells.scores:
            for name, values in evaluate(scores[drawn, t], noisy, valid, at=at).items():
                parts.setdefault(name, []).append(values)
    shape = (len(cells.tasks), len(cells.scores), len(drawn))
    return {name: np.reshape(v, shape).swapaxes(0, 1) for name, v in parts.items()}


def _paired(values: np.ndarray) -> np.ndarray:
    """NaN for both metrics on a task where either has none."""
    return np.where(np.isfinite(values).all(axis=0), values, np.nan)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the tasks with a value; (metrics, tasks, R) -> (metrics, R)."""
    usable = np.isfinite(values)
    count = usable.sum(axis=1)
    total = np.where(usable, values, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


@dataclass(frozen=True)
class _Cells:
    """Tasks with enough models, and models with anything on them; numbers are 0 where not valid."""

    tasks: list[str]
    scores: np.ndarray  # (metrics, M, T)
    accuracies: np.ndarray  # (M, T)
    noise: np.ndarray  # (M, T), standard errors of the accuracies
    valid: np.ndarray  # (M, T), whether every metric has a score there, and there is an accuracy


def _matched(
    tables: Sequence[pd.DataFrame], accuracies: pd.DataFrame, noise: pd.DataFrame | float | None
) -> _Cells:
    """Match tables by name, and keep the models and tasks that can be used."""
    for table in (*tables, accuracies):
        if not (table.index.is_unique and table.columns.is_unique):
            raise InvalidInputError("a table names a model or a task twice; make the names unique")
    models = [m for m in accuracies.index if all(m in table.index for table in tables)]
    tasks = [t for t in accuracies.columns if all(t in table.columns for table in tables)]
    if MEAN in tasks:
        raise InvalidInputError(f"a task is called {MEAN!r}, as the mean is; rename it")
    for kind, kept, axis in (("models", models, "index"), ("tasks", tasks, "columns")):
        everything = {name for table in (*tables, accuracies) for name in getattr(table, axis)}
        if left := sorted(everything.difference(kept), key=str):
            _warn(f"{len(left)} {kind} are not in every table and are left out: {_some(left)}")
    a = accuracies.loc[models, tasks].to_numpy(np.float64)
    s = np.stack([table.loc[models, tasks].to_numpy(np.float64) for table in tables])
    valid = np.isfinite(a) & np.isfinite(s).all(axis=0)
    if missing := int((~valid).sum()):
        _warn(f"{missing} of {valid.size} cells have no score or no accuracy and are left out")
    enough = valid.sum(axis=0) >= FEWEST
    if not enough.any():
        raise InvalidInputError(
            f"no task has {FEWEST} models with a score and an accuracy; are the models and tasks "
            f"called the same in both tables?"
        )
    if not enough.all():
        few = [task for task, ok in zip(tasks, enough, strict=True) if not ok]
        _warn(f"{len(few)} tasks have fewer than {FEWEST} models and are left out: {_some(few)}")
    se = _errors(noise, models, tasks, valid)
    kept_models = valid[:, enough].any(axis=1)
    block = np.ix_(kept_models, enough)
    cells = _Cells(
        tasks=[str(task) for task, ok in zip(tasks, enough, strict=True) if ok],
        scores=np.stack([np.where(valid, table, 0.0)[block] for table in s]),
        accuracies=np.where(valid, a, 0.0)[block],
        noise=se[block],
        valid=valid[block],
    )
    _tell_constants(cells)
    return cells


def _errors(
    noise: pd.DataFrame | float | None, models: list[str], tasks: list[str], valid: np.ndarray
) -> np.ndarray:
    se = np.zeros(valid.shape)
    if isinstance(noise, int | float):
        se += noise
    elif noise is not None:
        se += noise.reindex(index=models, columns=tasks).to_numpy(np.float64)
    if not (np.isfinite(se) & (se >= 0))[valid].all():
        raise InvalidInputError(
            "noise is negative or missing for an accuracy; give its standard error, 0 if unknown"
        )
    return np.where(valid, se, 0.0)


def _tell_constants(cells: _Cells) -> None:
    def constant(values: np.ndarray) -> list[str]:
        return [
            task for t, task in enumerate(cells.tasks) if np.ptp(values[cells.valid[:, t], t]) == 0
        ]

    found = [("accuracies", constant(cells.accuracies))]
    found += [("scores", constant(scores)) for scores in cells.scores]
    for what, tasks in found:
        if tasks:
            _warn(f"all {what} are the same, so no correlation is defined, on: {_some(tasks)}")


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")


def _warn(message: str) -> None:
    warn(message)
