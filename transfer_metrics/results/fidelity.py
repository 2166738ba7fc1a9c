"""What a difference of scores is worth in accuracy: the fidelity of a metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.results.agreement import RESAMPLES, draw, interval, z_scores
from transfer_metrics.results.known_accuracies import closest
from transfer_metrics.results.wording import some

if TYPE_CHECKING:
    import pandas as pd

_BINS = 4
_MEASURES = ("accuracy_difference", "right_order")


def fidelity(
    scores: pd.DataFrame | Mapping[str, float],
    accuracies: pd.DataFrame | Mapping[str, float],
    *,
    bins: int = _BINS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """By how much accuracies differ where scores differ by so much.

    All pairs of models of a task are sorted by the difference of their scores and cut into bins of
    equally many pairs. A metric of high fidelity has larger differences of accuracy in the later
    bins and the right order in nearly all of their pairs; where the first bins have the right order
    in half of theirs, such a small difference of scores means nothing (Singh, Hess and Vanschoren
    2025, arXiv 2510.06448).

    Args:
        scores: models x tasks, or by model on one task; higher is better. Of several tasks the
            differences are in deviations of the scores on each, because scores of two tasks do not
            compare; of one they are as given.
        accuracies: the same of accuracies, matched by name. Pairs in which anything is NaN do not
            count; scores without an accuracy of that name are left out with a warning.
        bins: how many bins. Pairs of equal differences are not parted, so there may be fewer.
        resamples: bootstrap samples of models, the bins as they are; 0 for no intervals.
        seed: of the bootstrap.

    Returns:
        One row per bin, from the smallest differences of scores: ``from``, ``to`` and their mean
        ``score_difference``; ``accuracy_difference``, the accuracy of the model with the higher
        score less that of the other, mean over pairs, in the accuracies' unit, with a 95 %
        interval ``low`` to ``high``; ``right_order``, the share of pairs in which the higher score
        has the higher accuracy, a tie counting half, with ``right_low`` to ``right_high``; and
        ``pairs``.

    Cost: O(M² T) per resample.

    >>> scores = {"a": 1.0, "b": 2.0, "c": 4.0}
    >>> table = fidelity(scores, {"a": 0.5, "b": 0.4, "c": 0.9}, bins=3, resamples=0)
    >>> columns = ["score_difference", "accuracy_difference", "right_order"]
    >>> table[columns].round(2).to_numpy().tolist()
    [[1.0, -0.1, 0.0], [2.0, 0.5, 1.0], [3.0, 0.4, 1.0]]
    """
    import pandas as pd

    if bins < 1:
        raise InvalidInputError(f"{bins} bins; give at least 1")
    s, a = (_table(given) for given in (scores, accuracies))
    models = [m for m in a.index if m in s.index]
    tasks = [t for t in a.columns if t in s.columns]
    left = {
        "models": ([m for m in s.index if m not in models], a.index.difference(models, sort=False)),
        "tasks": (
            [t for t in s.columns if t not in tasks],
            a.columns.difference(tasks, sort=False),
        ),
    }
    s, a = s.loc[models, tasks], a.loc[models, tasks]
    s = s.where(np.isfinite(s) & np.isfinite(a))
    if len(tasks) > 1:
        s = z_scores(s)
    first, second = np.triu_indices(len(models), 1)
    by_score = s.to_numpy()[first] - s.to_numpy()[second]
    by_accuracy = a.to_numpy()[first] - a.to_numpy()[second]
    by_accuracy = np.where(by_score < 0, -by_accuracy, by_accuracy)
    apart = np.where(by_score == 0, np.nan, np.abs(by_score))
    pair, task = np.nonzero(np.isfinite(apart) & np.isfinite(by_accuracy))
    if not len(pair):
        raise InvalidInputError(
            "no two models have different scores and an accuracy on one task; are the models and "
            "tasks called the same in both tables?"
            + "".join(closest(*names) for names in left.values())
        )
    for kind, (lacking, known) in left.items():
        if lacking:
            warn(
                f"{len(lacking)} of the {kind} with scores have no accuracy and are left out: "
                f"{some(lacking)}{closest(lacking, known)}"
            )
    apart, gained = apart[pair, task], by_accuracy[pair, task]
    values = np.stack([gained, (1 + np.sign(gained)) / 2])
    rank = np.searchsorted(np.sort(apart), apart)
    _, place = np.unique(rank * bins // len(apart), return_inverse=True)
    member = np.eye(place.max() + 1)[place]
    ends = first[pair], second[pair]
    found = _means(values, member, np.ones(len(pair)))
    drawn = [
        np.bincount(rows, minlength=len(models)) for rows in draw(len(models), resamples, seed)
    ]
    samples = [_means(values, member, count[ends[0]] * count[ends[1]]) for count in drawn]
    rows = []
    for i in range(member.shape[1]):
        inside = apart[place == i]
        row = {"from": inside.min(), "to": inside.max(), "score_difference": inside.mean()}
        for m, (name, low) in enumerate(zip(_MEASURES, ("", "right_"), strict=True)):
            row[name] = found[m, i]
            row[f"{low}low"], row[f"{low}high"] = interval(np.array([x[m, i] for x in samples]))
        rows.append({**row, "pairs": len(inside)})
    return pd.DataFrame(rows)


def _table(given: pd.DataFrame | Mapping[str, float]) -> pd.DataFrame:
    import pandas as pd

    table = given if isinstance(given, pd.DataFrame) else pd.DataFrame({"": pd.Series(given)})
    return table.astype(np.float64)


def _means(values: np.ndarray, member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of each row of values in each bin, (2, P) -> (2, bins); NaN where empty."""
    total = weights @ member
    return np.divide(
        (values * weights) @ member, total, out=np.full((2, member.shape[1]), np.nan),
        where=total > 0,
    )  # fmt: skip
