"""How well scores agree with accuracies: correlations, relative accuracy at k, regret."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
FEWEST = 3
AT = (1, 2, 3)
"""The k of ``rel@k`` and ``regret@k``, unless others are asked for."""
_CORRELATIONS = ("pearson", "spearman", "kendall", "weighted_kendall")
# Pairs of models held at a time, over all resamples of a chunk.
_PAIRS = 2**18


def agreement(
    scores: Sequence[float] | np.ndarray,
    accuracies: Sequence[float] | np.ndarray,
    *,
    at: Sequence[int] = AT,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Agreement of scores with the accuracies that they were to predict.

    - ``pearson``: linear correlation
    - ``spearman``: correlation of the ranks
    - ``kendall``: tau-b: pairs in the same order less pairs in the opposite one, over those that
      are not tied
    - ``weighted_kendall``: the same with hyperbolic weights, so that the top counts most (Vigna
      2015): what most papers of the field report
    - ``rel@k``: best accuracy among the k highest scores over the best of all
    - ``regret``: best accuracy less that of the highest score, in the accuracies' unit
    - ``regret@k``: the same where the k highest scores are tried and the best of them is kept;
      ``regret`` is that at 1

    Where scores are tied, these three are the expectation over the order of the tied.

    Args:
        scores: (M,) one score per model, higher is better. A model whose score or accuracy is NaN
            is left out, with a warning.
        accuracies: (M,) in the same order.
        at: the k of ``rel@k`` and ``regret@k``; those above M are left out.
        resamples: bootstrap samples of models for the intervals; 0 for none.
        seed: of the bootstrap.

    Returns:
        One row per measure: measure, value, low, high (95 % percentile interval over models), n.
        A correlation with constant scores or accuracies is NaN.

    Cost: O(M²) per resample; tens of milliseconds for 20 models.

    >>> table = agreement([1.0, 2.0, 3.0, 4.0], [0.5, 0.7, 0.6, 0.9], resamples=0)
    >>> table.set_index("measure")["value"].round(3).to_dict()["kendall"]
    0.667
    """
    import pandas as pd

    s, a = np.asarray(scores, np.float64), np.asarray(accuracies, np.float64)
    if s.shape != a.shape or s.ndim != 1:
        raise InvalidInputError(
            f"scores of shape {s.shape} and accuracies of shape {a.shape}; give one of each per "
            f"model, (M,)"
        )
    both = np.isfinite(s) & np.isfinite(a)
    left = int(both.sum())
    if left < len(s):
        warn(f"{len(s) - left} of {len(s)} models have no score or no accuracy and are left out")
    if left < FEWEST:
        raise InvalidInputError(
            f"{left} models with a score and an accuracy; agreement needs at least {FEWEST}"
        )
    s, a = s[both], a[both]
    at = [k for k in checked_at(at) if k <= len(s)]
    for what, values in (("scores", s), ("accuracies", a)):
        if np.ptp(values) == 0:
            warn(f"all {what} are {values[0]:g}, so no correlation is defined")
    point = evaluate(s[None], a[None], at=at)
    drawn = draw(len(s), resamples, seed)
    samples = evaluate(s[drawn], a[drawn], at=at)
    rows = [(name, value[0], *interval(samples[name])) for name, value in point.items()]
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high"]).assign(n=len(s))


def checked_at(at: Any) -> list[int]:
    """The k of ``rel@k`` and ``regret@k`` as they were given, each once."""
    several = isinstance(at, Iterable) and not isinstance(at, str | bytes)
    parts: list[Any] = list(at) if several else [None]
    if not all(isinstance(k, int | np.integer) and k is not True and k >= 1 for k in parts):
        raise InvalidInputError(f"at={at!r:.60}; give whole numbers of at least 1, such as (1, 3)")
    return [int(k) for k in dict.fromkeys(parts)]


def draw(models: int, resamples: int, seed: int) -> np.ndarray:
    """Positions of the models in each bootstrap sample, (resamples, models)."""
    for name, value, none in (
        ("resamples", resamples, ", 0 for no intervals"), ("seed", seed, ""),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
            raise InvalidInputError(f"{name}={value!r:.60}; give a whole number from 0 on{none}")
    return np.random.default_rng(seed).integers(models, size=(resamples, models))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Middle 95 % of the values that are not NaN.

    >>> interval(np.array([np.nan, *range(101)]))
    (2.5, 97.5)
    """
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

    >>> evaluate(np.array([[1.0, 2.0, 3.0]]), np.array([[0.5, 0.9, 0.8]]))["kendall"].round(3)
    array([0.333])
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
    """Mean of what is finite along an axis; NaN where nothing is.

    >>> mean_known(np.array([[1.0, np.nan], [3.0, np.nan]]), axis=0)
    array([ 2., nan])
    """
    usable = np.isfinite(values)
    count = usable.sum(axis=axis)
    return _where(count > 0, np.divide, np.where(usable, values, 0.0).sum(axis=axis), count)


def options_of(measure: str) -> tuple[int, ...]:
    """The ``at`` with which ``evaluate`` gives a measure, if there is one of that name.

    >>> options_of("rel@3"), options_of("kendall")
    ((3,), ())
    """
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
