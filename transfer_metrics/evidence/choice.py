"""Choosing a score by evidence, and what that choice is worth on tasks that had no part in it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence.judgement import MEASURE
from transfer_metrics.results.agreement import evaluate, options_of

if TYPE_CHECKING:
    import pandas as pd


def by_task(scores: pd.DataFrame, accuracies: pd.DataFrame, measure: str = MEASURE) -> pd.Series:
    """One measure of agreement on each task, NaN where it is not defined.

    Args:
        scores: models x tasks, higher is better.
        accuracies: models x tasks.
        measure: as in ``agreement``.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"pets": [1.0, 2.0, 3.0], "cars": [1.0, 3.0, 2.0]}, list("abc"))
    >>> truth = pd.DataFrame({"pets": [5.0, 6.0, 7.0], "cars": [1.0, 2.0, 3.0]}, list("abc"))
    >>> by_task(table, truth, "kendall").round(3).to_dict()
    {'pets': 1.0, 'cars': 0.333}
    """
    import pandas as pd

    found, at = {}, options_of(measure)
    for task in accuracies.columns.intersection(scores.columns):
        both = pd.concat([scores[task], accuracies[task]], axis=1).dropna().to_numpy()
        found[task] = float("nan")
        if len(both) > 2:
            x, y = both.T
            found[task] = float(evaluate(x[None], y[None], at=at)[measure][0])
    return pd.Series(found, dtype=float)


def mean_rank(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rank aggregation: the mean over scores of each model's rank on a task, 1 for the lowest.

    Ties share their mean rank. A model that lacks one of the scores has none.

    >>> import pandas as pd
    >>> a = pd.DataFrame({"pets": [0.1, 0.2, 0.9]}, list("abc"))
    >>> b = pd.DataFrame({"pets": [2.0, 7.0, 5.0]}, list("abc"))
    >>> mean_rank([a, b])["pets"].tolist()
    [1.0, 2.5, 2.5]
    """
    total = tables[0].rank()
    for table in tables[1:]:
        total = total + table.rank()
    return total / len(tables)


def aggregations(
    scores: Mapping[str, pd.DataFrame], names: Iterable[str], sizes: Sequence[int] = (2, 3)
) -> dict[str, pd.DataFrame]:
    """The mean ranks of every few of some metrics, named ``a + b``."""
    there = [name for name in names if name in scores]
    return {
        " + ".join(group): mean_rank([scores[name] for name in group])
        for size in sizes
        for group in itertools.combinations(there, size)
    }


def cross_validated(
    candidates: Mapping[str, pd.DataFrame], accuracies: pd.DataFrame, measure: str = MEASURE
) -> pd.DataFrame:
    """What the candidate that is best on all other tasks is worth on each task.

    Args:
        candidates: scores to choose from, models x tasks each.
        accuracies: models x tasks, of at least two tasks.
        measure: that the choice goes by and that is reported.

    Returns:
        One row per task: task, chosen, value.

    Raises:
        InvalidInputError: fewer than two tasks, or no candidate is defined.

    Cost: O(candidates x tasks x M²).
    """
    import pandas as pd

    values = pd.DataFrame({n: by_task(s, accuracies, measure) for n, s in candidates.items()})
    values = values.dropna(axis="columns", how="any")
    if len(values) < 2 or values.empty:
        raise InvalidInputError("to choose by other tasks takes two tasks and a score on all")
    rows = []
    for task in values.index:
        chosen = str(values.drop(index=task).mean().idxmax())
        rows.append((task, chosen, float(values.loc[task, chosen])))
    return pd.DataFrame(rows, columns=["task", "chosen", "value"])
