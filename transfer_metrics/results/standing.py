"""What models reached on earlier tasks: their standing, and how far it tells of a new one."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.results.agreement import mean_known
from transfer_metrics.results.chances import Standing, Trust, kinship
from transfer_metrics.results.error_model import ENOUGH, ErrorModel, fisher_z, normal_scores
from transfer_metrics.results.known_accuracies import closest, cure_of_names, known_accuracies
from transfer_metrics.results.wording import listed
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd

_TOLD = "ranks are told"
_FIXED = 4
"""Of what a record keeps: standing, mean and error of its trust, share; then the profile."""
_MOST_SHARED = 0.95
_LEAST_PER_CENT = 10
"""The best model reaches more, where accuracies are per cents."""


def earlier_accuracies(prior: Any) -> pd.DataFrame:
    """A table of what models reached before, models x tasks, NaN where a model was not tried.

    A model without any is as one that has no row; a column without any is refused, and of one that
    ranks the models, or holds neither shares nor per cents, a warning tells.
    """
    where = str(prior) if isinstance(prior, str | os.PathLike) else "the prior"
    table = known_accuracies(prior)
    if table.empty:
        raise InvalidInputError(
            f"{where} has no accuracies; give models in rows and tasks in columns"
        )
    known = table.notna()
    if empty := [visible(name) for name in table.columns[~known.any(axis=0)]]:
        raise InvalidInputError(f"{where} has no accuracy of the task {empty[0]}; leave it out")
    for name, column in table.items() if not table.attrs.get(_TOLD) else ():
        told, low, high = "", float(column.min()), float(column.max())
        if _are_ranks(column.dropna().to_numpy()):
            told = f"the numbers from {low:g} to {high:g}, as ranks are"
        elif low < 0 or high > 100 or (1 < high <= _LEAST_PER_CENT and (column % 1).any()):
            told = f"{low:g} to {high:g}, neither shares nor per cents"
        if told:
            warn(
                f"{where}: {visible(name) or 'the column'} has {told}, and the highest counts as "
                f"the best; give accuracies if the lowest is"
            )
    table.attrs[_TOLD] = True
    return table[known.any(axis=1)]


def priors(
    accuracies: pd.DataFrame, models: Iterable[str], errors: ErrorModel, task: str | None = None
) -> dict[str, list[float]]:
    """Where models stood on earlier tasks and how far that can be trusted, as records keep it.

    Of each model the standing, the trust in it, the share of what it leaves that models have in
    common with those alike, and what makes them alike: the normal scores of their accuracies, the
    mean where they were not tried. The standing is the mean of these. How well it foretells a new
    task is learnt from the tasks themselves, each against the others, and from what other tables
    had: of a single column, only from these. A column that says nothing counts for nothing: one of
    ``task`` itself, whose accuracies are what is asked; one like another; one that has the same
    accuracy everywhere, or of one model alone.
    """
    wanted = list(dict.fromkeys(models))
    there = [name for name in wanted if name in accuracies.index]
    if not there:
        raise InvalidInputError(
            f"the prior has none of the models {listed(wanted, 3)}; its rows "
            f"are {listed(accuracies.index, 3)}; "
            f"{cure_of_names(wanted, accuracies)}"
        )
    if missing := [name for name in wanted if name not in accuracies.index]:
        others = [name for name in accuracies.index if name not in wanted]
        warn(
            f"the prior lacks {listed(missing, 3)}; their scores alone count"
            f"{closest(missing, others)}"
        )
    accuracies = _telling(accuracies, task)
    if not len(accuracies.columns):
        return {}
    columns = np.apply_along_axis(normal_scores, 0, accuracies.to_numpy(float))
    (mean, error), shared = _trust(columns, errors), _shared(columns)
    found = {}
    means = mean_known(columns, axis=1).tolist()
    for name, row, value in zip(accuracies.index, columns, means, strict=True):
        if name in there and math.isfinite(value):
            profile = np.where(np.isfinite(row), row, value).round(4)
            found[str(name)] = [value, mean, error, shared, *profile.tolist()]
    return found


def standing_of(known: Sequence[Sequence[float] | None]) -> Standing | None:
    """The standing of candidates by what their records keep of it; None where none has any."""
    given = [k for k in known if k is not None and len(k) >= _FIXED - 1]
    if not given:
        return None
    values = [math.nan if k is None else k[0] for k in known]
    # Of two priors the less sure, whichever table comes first.
    trust = Trust(min((k[1] for k in given), key=abs), max(k[2] for k in given))
    alike = {(*k[1:_FIXED], len(k)) for k in given}
    if len(alike) > 1 or len(given[0]) <= _FIXED:
        return Standing(values, trust)
    none = [math.nan] * (len(given[0]) - _FIXED)
    profiles = [none if k is None else k[_FIXED:] for k in known]
    return Standing(values, trust, profiles, given[0][_FIXED - 1])


def _are_ranks(values: np.ndarray) -> bool:
    """Whether numbers are the places of some in an order, with ties in any of the usual ways."""
    from scipy.stats import rankdata

    several = len(values) > 2 and np.ptp(values) > 0
    ties = ("min", "max", "average", "dense") if several else ()
    return any(np.array_equal(values, rankdata(values, tie)) for tie in ties)


def _telling(accuracies: pd.DataFrame, task: str | None) -> pd.DataFrame:
    """The columns that say something about another task; what is left out is said."""
    left: dict[str, list[str]] = {}
    # In other units too, such as per cents of what is a share elsewhere.
    again = (accuracies / accuracies.abs().max().replace(0.0, 1.0)).round(9).T.duplicated()
    for name in map(str, accuracies.columns):
        known = accuracies[name].dropna().to_numpy(float)
        if name == task:
            why = "the task that is ranked"
        elif np.ptp(known) == 0:
            why = "the same for all its models"
        elif again[name]:
            why = "there under another name"
        else:
            continue
        left.setdefault(why, []).append(name)
    for why, names in left.items():
        told = listed((name or "the column" for name in names), 3)
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


def _shared(columns: np.ndarray) -> float:
    """The share of what a standing leaves that models alike have in common.

    It is the mean over all shares, by the likelihood of what the mean of the others leaves of each
    task. Each task is also one of the others, so together they count as half as many.
    """
    shares = np.linspace(0.0, _MOST_SHARED, 20)
    told, tasks = np.zeros(len(shares)), range(columns.shape[1])
    for task in tasks if len(tasks) > 2 else ():
        column, others = columns[:, task], np.delete(columns, task, axis=1)
        known = np.isfinite(column) & np.isfinite(others).any(axis=1)
        y, x = column[known], others[known]
        before = mean_known(x, axis=1)
        if len(y) < ENOUGH or np.ptp(y) == 0 or np.ptp(before) == 0:
            continue
        profiles = np.where(np.isfinite(x), x, before[:, None])
        variances, along = (part[..., 2:] for part in kinship(before, profiles))
        left, of = (y @ along)[:, None] ** 2, 1 - shares + shares * variances[:, None]
        if left.sum() > 1e-9 * (y @ y):  # else the others tell all of it
            told -= 0.5 * np.log(of).sum(axis=0)
            told -= 0.5 * len(of) * np.log((left / of).sum(axis=0))
    weights = np.exp((told - told.max()) / 2)
    return round(float(weights @ shares / weights.sum()), 4) if told.any() else 0.0
