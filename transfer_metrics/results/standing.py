"""Where models stood on earlier tasks, and how far that can be trusted on a new one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.results.agreement import mean_known
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import ErrorModel
from transfer_metrics.results.known_accuracies import closest, cure_of_names, known_accuracies
from transfer_metrics.results.wording import listed
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 5
"""A correlation of fewer models tells too little to be counted."""
_MOST_Z = 3.0


def fisher_z(scores: np.ndarray, accuracies: np.ndarray) -> float | None:
    """Fisher's z of the correlation of scores with accuracies.

    None where there are fewer than ``FEWEST`` pairs without NaN, or either is constant.

    >>> round(fisher_z(np.array([1.0, 2.0, 3.0, 4.0, 6.0]), np.array([1.0, 3.0, 2.0, 4.0, 5.0])), 2)
    1.49
    """
    both = np.isfinite(scores) & np.isfinite(accuracies)
    s, a = scores[both], accuracies[both]
    if len(s) < FEWEST or np.ptp(s) == 0 or np.ptp(a) == 0:
        return None
    # In units of the largest, so that nothing overflows.
    found = float(np.corrcoef(s / np.abs(s).max(), a / np.abs(a).max())[0, 1])
    return float(np.clip(np.arctanh(np.clip(found, -1 + 1e-9, 1 - 1e-9)), -_MOST_Z, _MOST_Z))


def normal_scores(values: np.ndarray) -> np.ndarray:
    """What normal numbers of that order would be, about (Blom 1958); ties share their mean rank.

    >>> normal_scores(np.array([10.0, 30.0, 20.0])).round(2)
    array([-0.87,  0.87,  0.  ])
    """
    from scipy.stats import rankdata

    return ndtri((rankdata(values) - 0.375) / (len(values) + 0.25))


def earlier_accuracies(prior: Any) -> pd.DataFrame:
    """A table of what models reached before, models x tasks, NaN where a model was not tried.

    The prior is as for ``known_accuracies``; a row or column without any accuracy is refused.

    >>> earlier_accuracies({"a": 70.0, "b": 75.5}).shape
    (2, 1)
    """
    where = str(prior) if isinstance(prior, str | os.PathLike) else "the prior"
    table = known_accuracies(prior)
    if table.empty:
        raise InvalidInputError(
            f"{where} has no accuracies; give models in rows and tasks in columns"
        )
    known = table.notna()
    for own, kind in ((known.any(axis=1), "model"), (known.any(axis=0), "task")):
        if empty := [visible(name) for name in own.index[~own]]:
            raise InvalidInputError(
                f"{where} has no accuracy of the {kind} {empty[0]}; leave it out"
            )
    return table


def standing_of(
    accuracies: pd.DataFrame, models: Iterable[str], errors: ErrorModel, task: str | None = None
) -> tuple[dict[str, float], Trust]:
    """Where models stood on earlier tasks, and how far that can be trusted.

    The standing is the mean over tasks of the normal scores of the accuracies. How well it
    foretells a new task is learnt from the tasks themselves, each against the others, and from what
    other tables had: of a single column, only from these. A column that says nothing counts for
    nothing: one of ``task`` itself, whose accuracies are what is asked; one like another; one that
    has the same accuracy everywhere, or of one model alone.
    """
    wanted = list(dict.fromkeys(models))
    there = [name for name in wanted if name in accuracies.index]
    if not there:
        raise InvalidInputError(
            f"the prior has none of the models {listed([visible(m) for m in wanted], 3)}; its rows "
            f"are {listed([visible(m) for m in accuracies.index], 3)}; "
            f"{cure_of_names(wanted, accuracies)}"
        )
    if missing := [visible(name) for name in wanted if name not in accuracies.index]:
        others = [name for name in accuracies.index if name not in wanted]
        warn(
            f"the prior lacks {listed(missing, 3)}; their scores alone count"
            f"{closest(missing, others)}"
        )
    accuracies = _telling(accuracies, task)
    if not len(accuracies.columns):
        return {}, Trust(*errors.prior)
    columns = np.stack([_normal(column) for column in accuracies.to_numpy(float).T], axis=1)
    values = mean_known(columns, axis=1)
    place = {name: i for i, name in enumerate(accuracies.index)}
    found = {name: float(values[place[name]]) for name in there}
    known = {name: value for name, value in found.items() if math.isfinite(value)}
    return known, _trust(columns, errors)


def _telling(accuracies: pd.DataFrame, task: str | None) -> pd.DataFrame:
    """The columns that say something about another task; what is left out is said."""
    left: dict[str, list[str]] = {}
    again = accuracies.T.duplicated()
    for name in map(str, accuracies.columns):
        known = accuracies[name].dropna().to_numpy(float)
        if name == task:
            why = "the task that is ranked"
        elif np.ptp(known) == 0:
            why = "the same for all its models"
        elif again[name]:
            why = "there under another name"
        else:
            small, large = known[known < 1], known[known > 1]
            if min(len(small), len(large)) > 1 and large.min() > 5 * small.max():
                warn(
                    f"{visible(name)} of the prior has {small.max():g} beside {large.min():g}; "
                    f"give all its accuracies in per cent or all as fractions"
                )
            continue
        left.setdefault(why, []).append(name)
    for why, names in left.items():
        told = listed([visible(name) or "the column" for name in names], 3)
        warn(f"{told} of the prior {'is' if len(names) == 1 else 'are'} {why}; left out")
    return accuracies.drop(columns=[name for names in left.values() for name in names])


def _trust(columns: np.ndarray, errors: ErrorModel) -> Trust:
    """Of the tasks among themselves, drawn towards what other tables had."""
    mean, between = errors.prior
    within = errors.prior_tasks_apart
    found = []
    for t, column in enumerate(columns.T):
        others = mean_known(np.delete(columns, t, axis=1), axis=1)
        if (z := fisher_z(others, column)) is not None:
            found.append((z, int((np.isfinite(others) & np.isfinite(column)).sum())))
    if found:
        each = [within**2 + 1 / max(count - 3, 1) for _, count in found]
        own = float(np.mean(each)) / len(found)
        # Each task is also one of the others, so they are no more than half as many.
        share = between**2 / (between**2 + 2 * own)
        mean += share * (float(np.mean([z for z, _ in found])) - mean)
        between *= math.sqrt(1 - share)
    return Trust(round(mean, 4), round(math.hypot(between, within), 4))


def _normal(column: np.ndarray) -> np.ndarray:
    known = np.isfinite(column)
    found = np.full(column.shape, math.nan)
    if known.sum() > 1:
        found[known] = normal_scores(column[known])
    return found
