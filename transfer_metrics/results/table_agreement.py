"""Metrics of a table held against accuracies: how they agree, and what differences are worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnknownNameError, check_whole, warn
from transfer_metrics.registry import choose
from transfer_metrics.results.agreement import (
    FEWEST,
    RESAMPLES,
    STATIC,
    draw,
    interval,
    static_scores,
    z_scores,
)
from transfer_metrics.results.agreement_tasks import MEAN, OVER_STATIC, agreement_by_task
from transfer_metrics.results.known_accuracies import (
    UNNAMED,
    closest,
    cure_of_names,
    known_accuracies,
)
from transfer_metrics.results.long_table import LongTable
from transfer_metrics.results.wording import listed, some
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Matched:
    """Scores of a table beside accuracies of models and tasks of the same names.

    Attributes:
        scores: by metric, models x tasks, higher is better; NaN where a race dropped the model.
        known: accuracies, models x tasks.
        task: the one of several tasks of the accuracies that was asked for.
    """

    scores: Mapping[str, pd.DataFrame]
    known: pd.DataFrame
    task: str | None

    @classmethod
    def of(
        cls,
        own: LongTable,
        metrics: Sequence[str],
        accuracies: Any,
        task: str | None,
        head: str | None,
        split: str,
    ) -> Matched:
        """See ``ScoreTable.agreement``.

        A task has one split, pooling and number of examples, or its scores do not compare; and
        there is one task where the accuracies do not say of which they are. Of scores of several
        tasks those of ``task`` count; where there is one, it may be called otherwise than in the
        accuracies.
        """
        import pandas as pd

        known = known_accuracies(accuracies, head, split)
        scored = dict.fromkeys(r.task or UNNAMED for r in own if r.label in metrics)
        if task is not None and len(scored) > 1:
            choose("task of the scores", task, scored)
            own = LongTable([r for r in own if (r.task or UNNAMED) == task], own.view)
        tables = {}
        for metric in metrics:
            places = own.rankings(metric, "models")
            if len(known.columns) == 1 or len({place.task for place in places}) < len(places):
                own.one_ranking(metric)  # which tells how they differ
            columns = {}
            for place, ranking in places.items():
                sign = 1.0 if ranking.higher_is_better else -1.0
                scores = {
                    c.model: math.nan if c.record.round else sign * c.score
                    for c in ranking.candidates
                }
                columns[place.task or UNNAMED] = pd.Series(scores, dtype=float)
            tables[metric] = pd.DataFrame(columns)
            models = list(tables[metric].index)
            if models and not any(model in known.index for model in models):
                raise InvalidInputError(
                    f"no model has both a score and an accuracy; scores: {listed(models, 3)}, "
                    f"accuracies: {listed(known.index, 3)}; {cure_of_names(models, known)}"
                )
        lacking = [m for table in tables.values() for m in table.index if m not in known.index]
        if lacking := list(dict.fromkeys(lacking)):
            others = [m for m in known.index if not any(m in of.index for of in tables.values())]
            warn(
                f"{len(lacking)} of the models with a score have no accuracy and are left out: "
                f"{listed(lacking, 3)}{closest(lacking, others)}"
            )
        tables = {name: of.loc[of.index.isin(known.index)] for name, of in tables.items()}
        return cls(tables, known, task)

    def agreement(self, **options: Any) -> pd.DataFrame:
        """What ``ScoreTable.agreement`` returns."""
        import pandas as pd

        known, fixed = self.known, static_scores(self.known)
        frames, static, gains = [], [], []
        lacking: dict[str, None] = {}
        for metric, table in self.scores.items():
            if len(table.columns) > 1:
                shared = known.loc[known.index.isin(table.index), known.columns.isin(table.columns)]
                found = agreement_by_task(table, shared, static=fixed, **options)
                judged = fixed.loc[shared.index, shared.columns].notna() & shared.notna()
                of_task = judged.sum()[shared.notna().sum() >= FEWEST]
                lacking |= dict.fromkeys(of_task[of_task < FEWEST].index)
                found.insert(0, "metric", metric)
                frames.append(found)
            else:
                found = self._on_one_task(metric, fixed, options)
                frames.append(found[found["metric"] == metric])
                static.append(found[found["metric"] == STATIC])
                gains.append(found[~found["metric"].isin([metric, STATIC])])
        # The static ranking is one more metric, and there once.
        static.sort(key=lambda frame: -frame["n"].max())
        result = pd.concat([*frames, *static[:1], *gains], ignore_index=True)
        rows = result["task"] if "task" in result else result["metric"]
        if len(known.columns) > 1 and STATIC not in set(rows):
            warn(
                f"no static ranking stands beside: the other tasks of the accuracies are constant, "
                f"or known of fewer than {FEWEST} of the models"
            )
        elif lacking:
            warn(
                f"the static ranking says nothing of {listed(lacking, 3)}, where the other tasks "
                f"of the accuracies are constant or known of fewer than {FEWEST} of the models"
            )
        return result

    def fidelity(self, **options: Any) -> pd.DataFrame:
        """What ``ScoreTable.fidelity`` returns."""
        import pandas as pd

        frames = []
        for metric, table in self.scores.items():
            one = len(table.columns) == 1
            both = self.on_task(metric)[1:] if one else (table, self.known)
            frames.append(fidelity(*both, **options))
            frames[-1].insert(0, "metric", metric)
        return pd.concat(frames, ignore_index=True)

    def on_task(self, metric: str) -> tuple[str, dict[str, float], dict[str, float]]:
        """The task of the accuracies, and scores and accuracies on it by model, of scores of one.

        The task is the one that was asked for, the one that is called as that of the scores, or
        the only one.
        """
        table, columns = self.scores[metric], list(self.known.columns)
        own = str(table.columns[0])
        task = own if self.task is None else self.task
        if len(columns) == 1 and (self.task is None or (columns == [UNNAMED] and task == own)):
            task = columns[0]
        elif task not in columns and self.task is not None:
            raise UnknownNameError.of("task of the accuracies", task, columns)
        elif task not in columns:
            raise InvalidInputError(
                f"the scores are of {f'task {visible(own)!r}' if own else 'an unnamed task'} and "
                f"the accuracies are of several tasks ({some(columns)}); name the one to "
                f"compare with as task="
            )
        # One that is missing among several is not known; one that was given as missing is told.
        reached = self.known[task] if len(columns) == 1 else self.known[task].dropna()
        scores, accuracies = (
            {str(model): float(value) for model, value in values.items()}
            for values in (table.iloc[:, 0], reached)
        )
        return task, scores, accuracies

    def _on_one_task(
        self, metric: str, fixed: pd.DataFrame, options: Mapping[str, Any]
    ) -> pd.DataFrame:
        """Agreement on one task of a metric, of the static ranking, and of their difference."""
        import pandas as pd

        known_as, scores, accuracies = self.on_task(metric)
        common = [model for model in scores if model in accuracies]
        if not common:
            raise InvalidInputError(
                f"no model has both a score and an accuracy; scores: {listed(scores, 3)}, "
                f"accuracies: {listed(accuracies, 3)}; use the same names"
            )
        # Where there is only one, nothing has to tell it from others.
        task = known_as if len(self.known.columns) > 1 else UNNAMED
        static = fixed[[known_as]].loc[common].set_axis([task], axis="columns")
        given = [pd.DataFrame({task: values}).loc[common] for values in (scores, accuracies)]
        found = agreement_by_task(*given, static=static, **options)
        found = found[found["task"] != MEAN].rename(columns={"task": "metric"})
        judged = np.isfinite(given[0].to_numpy()) & np.isfinite(static.to_numpy())
        found.loc[found["metric"] != task, "n"] = int(judged.sum())
        names = {task: metric, OVER_STATIC: f"{metric} - {STATIC}"}
        return found.replace({"metric": names})


def fidelity(
    scores: pd.DataFrame | Mapping[str, float],
    accuracies: pd.DataFrame | Mapping[str, float],
    *,
    bins: int = 4,
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

    check_whole(1, bins=bins)
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
        for m, (name, low) in enumerate((("accuracy_difference", ""), ("right_order", "right_"))):
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
