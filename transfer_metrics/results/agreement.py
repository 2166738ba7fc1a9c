"""How well scores agree with accuracies: correlations, relative accuracy at k, regret."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.results.measures import evaluate
from transfer_metrics.results.record import Record

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000
FEWEST = 3


def agreement(
    scores: Sequence[float] | np.ndarray,
    accuracies: Sequence[float] | np.ndarray,
    *,
    at: Sequence[int] = (1, 3),
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

    Where scores are tied, ``rel@k`` and ``regret`` are the expectation over the order of the tied.

    Args:
        scores: (M,) one score per model, higher is better. A model whose score or accuracy is NaN
            is left out, with a warning.
        accuracies: (M,) in the same order.
        at: the k of ``rel@k``; those above M are left out.
        resamples: bootstrap samples of models for the intervals; 0 for none.
        seed: of the bootstrap.

    Returns:
        One row per measure: measure, value, low, high (95 % percentile interval over models), n.
        A correlation with constant scores or accuracies is NaN.

    Raises:
        InvalidInputError: lengths differ, or fewer than three models are left.

    Warns:
        TransferMetricsWarning: models left out, or constant values.

    Cost: O(M²) per resample; tens of milliseconds for 20 models.

    >>> table = agreement([1.0, 2.0, 3.0, 4.0], [0.5, 0.7, 0.6, 0.9], resamples=0)
    >>> table.set_index("measure")["value"].round(3).to_dict()["kendall"]
    0.667
    """
    import pandas as pd

    s, a = _pairs(scores, accuracies)
    at = [k for k in at if k <= len(s)]
    for what, values in (("scores", s), ("accuracies", a)):
        if np.ptp(values) == 0:
            warnings.warn(
                f"all {what} are {values[0]:g}, so no correlation is defined",
                TransferMetricsWarning,
                stacklevel=2,
            )
    point = evaluate(s[None], a[None], at=at)
    drawn = draw(len(s), resamples, seed)
    samples = evaluate(s[drawn], a[drawn], at=at)
    rows = [(name, value[0], *interval(samples[name])) for name, value in point.items()]
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high"]).assign(n=len(s))


def draw(models: int, resamples: int, seed: int) -> np.ndarray:
    """Positions of the models in each bootstrap sample, (resamples, models)."""
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


def accuracies_of(
    records: Iterable[Record], head: str | None = None, split: str = "test"
) -> dict[str, float]:
    """Mean accuracy of each model over the seeds, from the records of a comparison.

    Args:
        records: those of a table, some of the metric ``accuracy``.
        head: which head, where there are several.
        split: which data.

    Raises:
        InvalidInputError: there is no such accuracy, or several heads and none is named, or there
            are several tasks.
    """
    found = [
        r for r in records if r.metric == "accuracy" and r.split == split and r.value is not None
    ]
    tasks = list(dict.fromkeys(str(r.task) for r in found))
    if len(tasks) > 1:
        raise InvalidInputError(
            f"the accuracies are of several tasks ({', '.join(tasks)}); choose one with "
            f"table.on({tasks[0]!r})"
        )
    heads = sorted({r.head or "" for r in found})
    if head is None and len(heads) > 1:
        raise InvalidInputError(
            f"the accuracies are of several heads ({', '.join(heads)}); name one as head="
        )
    chosen = [r for r in found if head is None or r.head == head]
    if not chosen:
        raise InvalidInputError(
            f"no accuracy of head {head!r} on {split!r}; heads: {', '.join(heads) or 'none'}"
        )
    values: dict[str, list[float]] = {}
    for record in chosen:
        values.setdefault(str(record.model), []).append(record.value)
    return {model: float(np.mean(given)) for model, given in values.items()}


def paired(scores: Mapping[str, float], accuracies: Mapping[str, float]) -> list[str]:
    """Models that have both a score and an accuracy, in the order of the scores.

    Raises:
        InvalidInputError: there are none.
    """
    common = [model for model in scores if model in accuracies]
    if not common:
        raise InvalidInputError(
            f"no model has both a score and an accuracy; scores: {', '.join(list(scores)[:3])} …, "
            f"accuracies: {', '.join(list(accuracies)[:3])} …; use the same names"
        )
    return common


def _pairs(scores: Any, accuracies: Any) -> tuple[np.ndarray, np.ndarray]:
    s, a = np.asarray(scores, np.float64), np.asarray(accuracies, np.float64)
    if s.shape != a.shape or s.ndim != 1:
        raise InvalidInputError(
            f"scores of shape {s.shape} and accuracies of shape {a.shape}; give one of each per "
            f"model, (M,)"
        )
    both = np.isfinite(s) & np.isfinite(a)
    if not both.all():
        warnings.warn(
            f"{int((~both).sum())} of {len(s)} models have no score or no accuracy and are left "
            f"out",
            TransferMetricsWarning,
            stacklevel=3,
        )
    if both.sum() < FEWEST:
        raise InvalidInputError(
            f"{int(both.sum())} models with a score and an accuracy; agreement needs at least "
            f"{FEWEST}"
        )
    return s[both], a[both]
