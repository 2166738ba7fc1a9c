"""Tables of scores and of accuracies matched by the names of models and tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.results.agreement import FEWEST
from transfer_metrics.results.static_ranking import static_scores

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Cells:
    """Tasks with enough models, and models with anything on them; numbers are 0 where not valid."""

    tasks: list[str]
    scores: np.ndarray  # (metrics, M, T)
    accuracies: np.ndarray  # (M, T)
    noise: np.ndarray  # (M, T), standard errors of the accuracies
    valid: np.ndarray  # (M, T), whether every metric has a score there, and there is an accuracy
    static: np.ndarray  # (M, T), scores that do not look at the task, NaN where there are none


def beside_static(cells: Cells) -> Cells | None:
    """The cells that have a static score, which joins the others as the last; None if too few."""
    valid = cells.valid & np.isfinite(cells.static)
    valid = valid & (valid.sum(axis=0) >= FEWEST)
    if not valid.any():
        return None
    static = np.where(valid, cells.static, 0.0)
    return replace(cells, scores=np.concatenate([cells.scores, static[None]]), valid=valid)


def matched_cells(
    tables: Sequence[pd.DataFrame],
    accuracies: pd.DataFrame,
    noise: pd.DataFrame | float | None,
    static: pd.DataFrame | None,
) -> Cells:
    """Match tables by name, and keep the models and tasks that can be used."""
    for table in (*tables, accuracies, *([] if static is None else [static])):
        if not (table.index.is_unique and table.columns.is_unique):
            raise InvalidInputError("a table names a model or a task twice; make the names unique")
    models = [m for m in accuracies.index if all(m in table.index for table in tables)]
    tasks = [t for t in accuracies.columns if all(t in table.columns for table in tables)]
    for kind, kept, axis in (("models", models, "index"), ("tasks", tasks, "columns")):
        everything = {name for table in (*tables, accuracies) for name in getattr(table, axis)}
        if left := sorted(everything.difference(kept), key=str):
            warn(f"{len(left)} {kind} are not in every table and are left out: {_some(left)}")
    a = accuracies.loc[models, tasks].to_numpy(np.float64)
    s = np.stack([table.loc[models, tasks].to_numpy(np.float64) for table in tables])
    valid = np.isfinite(a) & np.isfinite(s).all(axis=0)
    if missing := int((~valid).sum()):
        warn(f"{missing} of {valid.size} cells have no score or no accuracy and are left out")
    enough = valid.sum(axis=0) >= FEWEST
    if not enough.any():
        raise InvalidInputError(
            f"no task has {FEWEST} models with a score and an accuracy; are the models and tasks "
            f"called the same in both tables?"
        )
    if not enough.all():
        few = [task for task, ok in zip(tasks, enough, strict=True) if not ok]
        warn(f"{len(few)} tasks have fewer than {FEWEST} models and are left out: {_some(few)}")
    se = _errors(noise, models, tasks, valid)
    static = static_scores(accuracies) if static is None else static
    unseeing = static.reindex(index=models, columns=tasks).to_numpy(np.float64)
    kept_models = valid[:, enough].any(axis=1)
    block = np.ix_(kept_models, enough)
    cells = Cells(
        tasks=[str(task) for task, ok in zip(tasks, enough, strict=True) if ok],
        scores=np.stack([np.where(valid, table, 0.0)[block] for table in s]),
        accuracies=np.where(valid, a, 0.0)[block],
        noise=se[block],
        valid=valid[block],
        static=unseeing[block],
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


def _tell_constants(cells: Cells) -> None:
    def constant(values: np.ndarray) -> list[str]:
        return [
            task for t, task in enumerate(cells.tasks) if np.ptp(values[cells.valid[:, t], t]) == 0
        ]

    found = [("accuracies", constant(cells.accuracies))]
    found += [("scores", constant(scores)) for scores in cells.scores]
    for what, tasks in found:
        if tasks:
            warn(f"all {what} are the same, so no correlation is defined, on: {_some(tasks)}")


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:5])) + (", …" if len(names) > 5 else "")
