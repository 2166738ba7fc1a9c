"""The metrics of a table held against accuracies, of one task or of several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnknownNameError, warn
from transfer_metrics.results.agreement import FEWEST, agreement, paired
from transfer_metrics.results.agreement_tasks import MEAN, OVER_STATIC, agreement_by_task
from transfer_metrics.results.comparable import one_place, places_of
from transfer_metrics.results.fidelity import fidelity
from transfer_metrics.results.known_accuracies import UNNAMED, column_of, cure_of_names
from transfer_metrics.results.ranks import candidates, higher_is_better, single
from transfer_metrics.results.record import Record
from transfer_metrics.results.static_ranking import STATIC, static_scores
from transfer_metrics.results.wording import listed
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd


def judged_scores(
    records: Sequence[Record],
    metrics: Sequence[str],
    view: str,
    known: pd.DataFrame,
    task: str | None = None,
) -> dict[str, pd.DataFrame]:
    """Scores of each metric, models x tasks, higher is better; NaN where a race dropped the model.

    A task has one split, pooling and number of examples, or its scores do not compare; and there
    is one task where the accuracies do not say of which they are. Of scores of several tasks those
    of ``task`` count; where there is one, it may be called otherwise than in the accuracies.
    """
    import pandas as pd

    scored = dict.fromkeys(r.task or UNNAMED for r in records if r.label in metrics)
    if task is not None and len(scored) > 1:
        if task not in scored:
            raise UnknownNameError.of("task of the scores", str(task), scored)
        records = [r for r in records if (r.task or UNNAMED) == task]
    tables = {}
    for metric in metrics:
        places = places_of(records, metric)
        if len(known.columns) == 1 or len({place.task for place in places}) < len(places):
            one_place(records, metric)  # which tells how they differ
        sign = 1.0 if higher_is_better(records, metric) else -1.0
        columns = {
            place.task or UNNAMED: {
                str(c.record.model): math.nan if c.record.round else sign * c.score
                for c in candidates(own, metric, single(view))
            }
            for place, own in places.items()
        }
        series = {task: pd.Series(of, dtype=float) for task, of in columns.items()}
        tables[metric] = pd.DataFrame(series)
        models = list(tables[metric].index)
        if models and not any(model in known.index for model in models):
            raise InvalidInputError(
                f"no model has both a score and an accuracy; scores: {_some(models)}, accuracies: "
                f"{_some(known.index)}; {cure_of_names(models, known)}"
            )
    return tables


def agreement_frame(
    scores: Mapping[str, pd.DataFrame],
    known: pd.DataFrame,
    task: str | None,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """What ``ScoreTable.agreement`` returns, of the scores of each metric."""
    import pandas as pd

    frames, static, gains = [], [], []
    lacking: dict[str, None] = {}
    for metric, table in scores.items():
        if len(table.columns) > 1:
            shared = known.loc[known.index.isin(table.index), known.columns.isin(table.columns)]
            fixed = static_scores(known)
            found = agreement_by_task(table, shared, static=fixed, **options)
            judged = fixed.loc[shared.index, shared.columns].notna() & shared.notna()
            of_task = judged.sum()[shared.notna().sum() >= FEWEST]
            lacking |= dict.fromkeys(of_task[of_task < FEWEST].index)
            found.insert(0, "metric", metric)
            frames.append(found)
        elif len(known.columns) > 1:
            found = _beside_static(metric, table, known, task, options)
            frames.append(found[found["metric"] == metric])
            static.append(found[found["metric"] == STATIC])
            gains.append(found[~found["metric"].isin([metric, STATIC])])
        else:
            of_model, reached = matched_task(table, known, task)
            common = paired(of_model, reached)
            pairs = ([values[model] for model in common] for values in (of_model, reached))
            frames.append(agreement(*pairs, **options))
            frames[-1].insert(0, "metric", metric)
    # The static ranking is one more metric, and there once.
    static.sort(key=lambda frame: -frame["n"].max())
    result = pd.concat([*frames, *static[:1], *gains], ignore_index=True)
    rows = result["task"] if "task" in result else result["metric"]
    if len(known.columns) > 1 and STATIC not in set(rows):
        warn(
            f"no static ranking stands beside: the other tasks of the accuracies are constant, or "
            f"known of fewer than {FEWEST} of the models"
        )
    elif lacking:
        warn(
            f"the static ranking says nothing of {_some(lacking)}, where the other tasks of the "
            f"accuracies are constant or known of fewer than {FEWEST} of the models"
        )
    return result


def fidelity_frame(
    scores: Mapping[str, pd.DataFrame],
    known: pd.DataFrame,
    task: str | None,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """What ``ScoreTable.fidelity`` returns, of the scores of each metric."""
    import pandas as pd

    frames = []
    for metric, table in scores.items():
        one = len(table.columns) == 1
        frames.append(
            fidelity(*(matched_task(table, known, task) if one else (table, known)), **options)
        )
        frames[-1].insert(0, "metric", metric)
    return pd.concat(frames, ignore_index=True)


def matched_task(
    table: pd.DataFrame, known: pd.DataFrame, task: str | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Scores on one task and the accuracies that they are held against, by model."""
    column = known[column_of(known, task, str(table.columns[0]))]
    # One that is missing among several is not known; one that was given as missing is told.
    reached = column if len(known.columns) == 1 else column.dropna()
    scores, accuracies = (
        {str(model): float(value) for model, value in values.items()}
        for values in (table.iloc[:, 0], reached)
    )
    return scores, accuracies


def _some(names: Iterable[Any]) -> str:
    return listed([visible(name) for name in names], 3)


def _beside_static(
    metric: str,
    table: pd.DataFrame,
    known: pd.DataFrame,
    task: str | None,
    options: Mapping[str, Any],
) -> pd.DataFrame:
    """Agreement on one task of a metric, of the static ranking, and of the one less the other."""
    import pandas as pd

    column = column_of(known, task, str(table.columns[0]))
    of_model, reached = matched_task(table, known, task)
    common = paired(of_model, reached)
    static = static_scores(known)[[column]].loc[common]
    given = [pd.DataFrame({column: values}).loc[common] for values in (of_model, reached)]
    found = agreement_by_task(*given, static=static, **options)
    found = found[found["task"] != MEAN].rename(columns={"task": "metric"})
    judged = np.isfinite(given[0].to_numpy()) & np.isfinite(static.to_numpy())
    found.loc[found["metric"] != column, "n"] = int(judged.sum())
    names = {column: metric, OVER_STATIC: f"{metric} - {STATIC}"}
    return found.replace({"metric": names})
