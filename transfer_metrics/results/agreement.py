"""Measures of agreement of scores with accuracies, and the ranking that every metric has to beat.

``agreement_by_task`` says what each measure is. Singh, Hess and Vanschoren 2025 (How NOT to
benchmark your SITE metric, arXiv 2510.06448) show that one order of the models for all tasks agrees
better with published accuracies than published scores do. Here that order, the static ranking, is
what the other tasks say: models by their mean z-score over them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, check_whole
from transfer_metrics.results.known_accuracies import known_accuracies

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
FEWEST = 3
STATIC = "static"
"""What the static ranking is called beside metrics and tasks."""
_CORRELATIONS = ("pearson", "spearman", "kendall", "weighted_kendall")
# Pairs of models held at a time, over all resamples of a chunk.
_PAIRS = 2**18


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
    """Every column less its mean over its deviation; NaN where it is constant or unknown."""
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


def draw(models: int, resamples: int, seed: int) -> np.ndarray:
    """Positions of the models in each bootstrap sample, (resamples, models)."""
    check_whole(0, resamples=resamples, seed=seed)
    return np.random.default_rng(seed).integers(models, size=(resamples, models))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Middle 95 % of the values that are not NaN."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def evaluate(
    scores: np.ndarray,
    accuracies: np.ndarray,
    valid: np.ndarray | None = None,
    *,
    at: Sequence[int] = (),
) -> dict[str, np.ndarray]:
    """Every measure of agreement of each row: (R, M) -> (R,), for ``valid`` models only.

    All but Pearson's follow from the signs of the differences between pairs of models, so that a
    thousand resamples of a task take milliseconds: O(R M²), and memory for ``_PAIRS`` pairs. NaN
    where a measure is not defined: correlations of constant values, and those at k of fewer than k
    models.
    """
    valid = np.ones(scores.shape, bool) if valid is None else valid
    step = max(1, _PAIRS // max(1, scores.shape[1] ** 2))
    parts = [
        _chunk(scores[i : i + step], accuracies[i : i + step], valid[i : i + step], at)
        for i in range(0, len(scores), step)
    ]
    names = [*_CORRELATIONS, *(f"rel@{k}" for k in at), "regret", *(f"regret@{k}" for k in at)]
    return {name: np.concatenate([np.empty(0), *(part[name] for part in parts)]) for name in names}


def mean_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is finite along an axis; NaN where nothing is."""
    usable = np.isfinite(values)
    count = usable.sum(axis=axis)
    return _where(count > 0, np.divide, np.where(usable, values, 0.0).sum(axis=axis), count)


def options_of(measure: str) -> tuple[int, ...]:
    """The ``at`` with which ``evaluate`` gives a measure: none for one without a k."""
    found = re.fullmatch(r"(?:rel|regret)@([1-9]\d*)", measure)
    if found:
        return (int(found[1]),)
    if measure in (*_CORRELATIONS, "regret"):
        return ()
    known = ", ".join([*_CORRELATIONS, "regret", "rel@k", "regret@k"])
    raise InvalidInputError(f"no measure of agreement is called {measure!r}; choose from: {known}")


def _chunk(
    scores: np.ndarray, accuracies: np.ndarray, valid: np.ndarray, at: Sequence[int]
) -> dict[str, np.ndarray]:
    s, a = np.where(valid, scores, 0.0), np.where(valid, accuracies, 0.0)
    both = valid[:, :, None] & valid[:, None, :]
    by_score = np.sign(s[:, :, None] - s[:, None, :]) * both
    by_accuracy = np.sign(a[:, :, None] - a[:, None, :]) * both
    agree = (by_score * by_accuracy).sum(axis=-1)
    apart_s, apart_a = np.abs(by_score).sum(axis=-1), np.abs(by_accuracy).sum(axis=-1)
    defined = (apart_s.sum(axis=-1) > 0) & (apart_a.sum(axis=-1) > 0)

    low_s, low_a = np.where(valid, s, -np.inf), np.where(valid, a, -np.inf)
    order = np.lexsort((low_a, low_s))[:, ::-1]
    other = np.lexsort((low_s, low_a))[:, ::-1]
    taus = [_tau(w, agree, apart_s, apart_a) for w in (_hyperbolic(order), _hyperbolic(other))]
    found = {
        "pearson": _pearson(s, a, valid),
        # A rank is a constant plus half the sum of the signs against all others.
        "spearman": _pearson(by_score.sum(axis=-1), by_accuracy.sum(axis=-1), valid),
        "kendall": _tau(np.ones_like(s), agree, apart_s, apart_a),
        "weighted_kendall": (taus[0] + taus[1]) / 2,
    }
    found = {name: np.where(defined, values, np.nan) for name, values in found.items()}
    s, a = np.take_along_axis(low_s, order, 1), np.take_along_axis(low_a, order, 1)
    best, count = low_a.max(axis=-1, initial=-np.inf), valid.sum(axis=-1)
    found["regret"] = _where(count > 0, np.subtract, best, _best_of_top(s, a, 1))
    for k in at:
        top = _best_of_top(s, a, k)
        found[f"rel@{k}"] = _where((count >= k) & (best > 0), np.divide, top, best)
        found[f"regret@{k}"] = _where(count >= k, np.subtract, best, top)
    return found


def _tau(
    weights: np.ndarray, agree: np.ndarray, apart_s: np.ndarray, apart_a: np.ndarray
) -> np.ndarray:
    """Kendall's tau-b, a pair weighing the sum of its two models' weights (Vigna 2015, eq. 2)."""
    up = (weights * agree).sum(axis=-1)
    norm = np.sqrt((weights * apart_s).sum(axis=-1) * (weights * apart_a).sum(axis=-1))
    return _where(norm > 0, np.divide, up, norm)


def _hyperbolic(order: np.ndarray) -> np.ndarray:
    """Weight 1 of the first in an order, 1/2 of the second, and so on."""
    weights = np.empty(order.shape)
    by_rank = 1 / (1.0 + np.arange(order.shape[1]))
    np.put_along_axis(weights, order, np.broadcast_to(by_rank, order.shape), axis=1)
    return weights


def _pearson(x: np.ndarray, y: np.ndarray, valid: np.ndarray) -> np.ndarray:
    count = np.maximum(valid.sum(axis=-1, keepdims=True), 1)
    x = np.where(valid, x - np.where(valid, x, 0.0).sum(axis=-1, keepdims=True) / count, 0.0)
    y = np.where(valid, y - np.where(valid, y, 0.0).sum(axis=-1, keepdims=True) / count, 0.0)
    # Scaled first, so that no square over- or underflows.
    x /= np.maximum(np.abs(x).max(axis=-1, keepdims=True), np.finfo(float).tiny)
    y /= np.maximum(np.abs(y).max(axis=-1, keepdims=True), np.finfo(float).tiny)
    norm = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.clip(_where(norm > 0, np.divide, (x * y).sum(axis=-1), norm), -1.0, 1.0)


def _best_of_top(scores: np.ndarray, accuracies: np.ndarray, k: int) -> np.ndarray:
    """Expected best accuracy among the k highest scores, the order of tied scores at random.

    Rows are sorted by score and then by accuracy, highest first; models that do not count come
    last, with minus infinity. (R, M) -> (R,).
    """
    if k > scores.shape[1]:
        return np.full(len(scores), np.nan)
    cut = scores[:, k - 1 : k]
    above = (scores > cut).sum(axis=-1, keepdims=True)
    tied = (scores == cut).sum(axis=-1, keepdims=True)
    free = k - above
    i = np.arange(scores.shape[1])[None, :] - above
    # The i-th best of the tied is the best of `free` random ones in C(tied - 1 - i, free - 1) of
    # C(tied, free) cases; each such share is the one before it times this factor.
    factor = np.maximum(tied - free - i + 1, 0) / np.maximum(tied - i, 1)
    factor = np.where(i < 0, 1.0, np.where(i == 0, free / tied, factor))
    share = np.where((i >= 0) & (i < tied), np.cumprod(factor, axis=-1), 0.0)
    running = np.maximum.accumulate(accuracies, axis=-1)
    sure = np.take_along_axis(running, np.maximum(above - 1, 0), axis=1)
    reached = np.maximum(accuracies, np.where(above > 0, sure, -np.inf))
    return np.where(share > 0, share * np.where(share > 0, reached, 0.0), 0.0).sum(axis=-1)


def _where(usable: np.ndarray, fn: np.ufunc, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``fn(x, y)`` where it is usable, NaN elsewhere."""
    return fn(x, y, out=np.full(usable.shape, np.nan), where=usable)
