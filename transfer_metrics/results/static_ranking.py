"""The ranking that never looks at the task: what every metric has to beat.

Singh, Hess and Vanschoren 2025 (How NOT to benchmark your SITE metric, arXiv 2510.06448) show that
one order of the models for all tasks agrees better with published accuracies than published scores
do. Here that order is what the other tasks say: models by their mean z-score over them, the task
at hand left out, so that nothing of it is known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.agreement import FEWEST, RESAMPLES, draw, interval, mean_known
from transfer_metrics.results.known_accuracies import known_accuracies

if TYPE_CHECKING:
    import pandas as pd

STATIC = "static"
"""What the static ranking is called beside metrics and tasks."""


def static_scores(accuracies: Any) -> pd.DataFrame:
    """Scores of models on each task that know its other tasks only: the static ranking.

    The score of a model on a task is the mean, over all other tasks on which its accuracy is
    known, of ``(a - mean) / deviation`` of that task's known accuracies. It is a table of scores
    like any other: ``agreement_by_task(static_scores(table), table)`` judges it, and
    ``compare_metrics`` tests a metric against it.

    Args:
        accuracies: (M, T) models x tasks, higher is better, in any unit, which may differ from
            task to task; NaN where not known. A task on which all are equal says nothing. Or what
            else ``ScoreTable.agreement`` takes for such a table, such as the path of a CSV file.

    Returns:
        (M, T), the same models and tasks; NaN for a model that is known on no other task.

    Raises:
        InvalidInputError: the table is empty, names a model or a task twice, or has a cell that is
            no number; or it cannot be read.

    Source: Singh, Hess and Vanschoren 2025, arXiv 2510.06448. Their order of the models is fixed
    by hand; ours follows from the tasks, and leaves the one out that it is judged on.

    Cost: O(M T²).

    >>> import pandas as pd
    >>> table = pd.DataFrame({"pets": [1.0, 2.0, 3.0], "cars": [70, 90, 80]}, list("abc"))
    >>> static_scores(table)["cars"].round(2).tolist()
    [-1.22, 0.0, 1.22]
    """
    import pandas as pd

    given = known_accuracies(accuracies)
    if given.empty:
        raise InvalidInputError(
            "static_scores has no accuracies to go by; give models in rows and tasks in columns"
        )
    # Names that are numbers stay numbers, as those of the table that the scores are held against.
    if isinstance(accuracies, pd.DataFrame) and accuracies.shape == given.shape:
        given = given.set_axis(accuracies.index).set_axis(accuracies.columns, axis="columns")
    scaled = z_scores(given).to_numpy()
    others = ~np.eye(scaled.shape[1], dtype=bool)
    means = np.stack([mean_known(scaled[:, other], axis=1) for other in others], axis=1)
    return pd.DataFrame(means, given.index, given.columns)


def z_scores(table: pd.DataFrame) -> pd.DataFrame:
    """Every column less its mean over its deviation; NaN in a column that is constant or unknown.

    >>> import pandas as pd
    >>> z_scores(pd.DataFrame({"x": [1.0, 3.0], "y": [2.0, 2.0]})).to_dict("list")
    {'x': [-1.0, 1.0], 'y': [nan, nan]}
    """
    numbers = table.astype(np.float64)
    numbers = numbers.where(np.isfinite(numbers))
    # Scaled first, by a power of two, so that no square over- or underflows.
    numbers = numbers / 2.0 ** np.frexp(numbers.abs().max())[1]
    varied = (numbers.max() - numbers.min()) > 0
    return (
        ((numbers - numbers.mean()) / numbers.std(ddof=0))
        .loc[:, varied]
        .reindex(columns=table.columns)
    )


def with_static(scores: pd.DataFrame, static: pd.DataFrame) -> pd.DataFrame:
    """A metric and the static ranking combined: the mean of the two z-scores on each task.

    That gives both the same say, whatever either is worth. A score that is equal for all models of
    a task says nothing; NaN where one of the two is missing.

    >>> import pandas as pd
    >>> a, b = (pd.DataFrame({"x": column}) for column in ([0.0, 0.0, 9.0], [1.0, 2.0, 0.0]))
    >>> with_static(a, b)["x"].round(2).tolist()
    [-0.35, 0.26, 0.09]
    """
    tasks = [task for task in static.columns if task in scores.columns]
    models = [model for model in static.index if model in scores.index]
    parts = [table.loc[models, tasks].astype(np.float64) for table in (scores, static)]
    both = np.isfinite(parts[0]) & np.isfinite(parts[1])
    first, second = (z_scores(part.where(both)).fillna(0.0) for part in parts)
    return ((first + second) / 2).where(both)


def dispersion(
    accuracies: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """How alike the tasks rank the models: mean Kendall's tau-b over pairs of tasks, low, high.

    At 1 all tasks have one ranking and no metric is needed; at 0 every task has its own. Of each
    pair count the models that are known on both, if there are three. The interval is of 95 %, over
    models. Cost: O(M² T²) per resample.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"x": [1, 2, 3], "y": [1, 2, 3], "z": [1, 3, 2]}, list("abc"))
    >>> round(dispersion(table, resamples=0)[0], 3)
    0.556
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
