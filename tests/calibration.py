"""Whether shortlists hold what they promise: tried on tasks, networks and benchmarks left out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import beta

from transfer_metrics.evidence.learning import Case, learn
from transfer_metrics.results.agreement import RESAMPLES, interval
from transfer_metrics.results.chances import Trust, probability_of_best, smallest_set
from transfer_metrics.results.error_model import ENOUGH, ErrorModel

if TYPE_CHECKING:
    import pandas as pd

_LEVELS = (0.5, 0.8, 0.9, 0.95)
PROMISED_COVERAGE, PROMISED_SIZE = 0.85, 0.5
"""Of the shortlist of 90 % over left-out tasks."""
_SUBSETS = 8
"""How many random parts of the candidates are tried beside all of them, per task and metric."""
_SMALLEST = 4
_DRAWS = 2000


@dataclass(frozen=True)
class Trial:
    """A shortlist that was made without knowing the task.

    Attributes:
        task: that was left out.
        metric: whose scores were read.
        chances: of the candidates, likeliest first.
        place: of the best of them in that order, from 0.
        whole: whether all candidates took part, and not a random part of them.
        lost: accuracy of the best less that of the best in the set, by level.
    """

    task: str
    metric: str
    chances: np.ndarray
    place: int
    whole: bool
    lost: tuple[float, ...]

    def size(self, level: float) -> int:
        """How many candidates the set of a level has."""
        return len(smallest_set(self.chances, level))


@dataclass(frozen=True)
class Coverage:
    """What sets of one level came to, with 95 % intervals over tasks.

    Attributes:
        level: the confidence that was asked for.
        covered: share of sets that held the best.
        low: lower end of its interval.
        high: upper end.
        size: mean number of models in a set.
        share: mean share of the candidates.
        share_low: lower end of its interval.
        share_high: upper end.
        lost: mean accuracy lost by taking the best of the set.
        trials: how many sets.
    """

    level: float
    covered: float
    low: float
    high: float
    size: float
    share: float
    share_low: float
    share_high: float
    lost: float
    trials: int


def trials_of(
    scores: Mapping[str, pd.DataFrame],
    accuracies: pd.DataFrame,
    trust: Callable[[str, str], Trust],
    *,
    seed: int = 0,
    subsets: int = _SUBSETS,
) -> Iterator[Trial]:
    """Shortlists of all candidates and of random parts of them, on every task, by every metric.

    Args:
        scores: by metric, models x tasks, higher is better.
        accuracies: models x tasks.
        trust: in a metric on a task, learnt without that task.
        seed: of the parts.
        subsets: how many parts per task and metric.
    """
    rng = np.random.default_rng(seed)
    for metric, table in scores.items():
        table = table.reindex(index=accuracies.index)
        for task in accuracies.columns.intersection(table.columns):
            s, a = table[task].to_numpy(float), accuracies[task].to_numpy(float)
            known = np.flatnonzero(np.isfinite(s) & np.isfinite(a))
            if len(known) < ENOUGH or np.ptp(s[known]) == 0:
                continue
            sizes = rng.integers(min(_SMALLEST, len(known)), len(known), size=subsets)
            parts = [known, *(rng.choice(known, size, replace=False) for size in sizes)]
            for i, part in enumerate(parts):
                yield _trial(str(task), metric, s[part], a[part], trust(metric, str(task)), i == 0)


def _trial(
    task: str, metric: str, scores: np.ndarray, accuracies: np.ndarray, trust: Trust, whole: bool
) -> Trial:
    none = [math.nan] * len(scores)
    chances = probability_of_best(
        scores.tolist(), none, [None] * len(scores), trust=trust, draws=_DRAWS
    )
    order = np.argsort(-chances, kind="stable")
    reached = accuracies[order]
    lost = [
        float(reached.max() - reached[: len(smallest_set(chances, level))].max())
        for level in _LEVELS
    ]
    return Trial(task, metric, chances[order], int(reached.argmax()), whole, tuple(lost))


def coverage(trials: Sequence[Trial], resamples: int = RESAMPLES) -> list[Coverage]:
    """What sets of each level came to."""
    tasks = list(dict.fromkeys(t.task for t in trials))
    own = np.array([tasks.index(t.task) for t in trials])
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(tasks), size=(resamples, len(tasks)))
    counts = np.stack([(drawn == t).sum(axis=1) for t in range(len(tasks))], axis=1)[:, own]
    found = []
    for i, level in enumerate(_LEVELS):
        sizes = np.array([t.size(level) for t in trials])
        held = np.array([t.place for t in trials]) < sizes
        share = sizes / np.array([len(t.chances) for t in trials])
        ends = [
            _binomial(float(held.mean()), len(tasks)),
            interval((counts @ share) / np.maximum(counts.sum(axis=1), 1)),
        ]
        lost = float(np.mean([t.lost[i] for t in trials]))
        found.append(
            Coverage(
                level, float(held.mean()), *ends[0], float(sizes.mean()), float(share.mean()),
                *ends[1], lost, len(trials),
            )
        )  # fmt: skip
    return found


def _binomial(share: float, tasks: int) -> tuple[float, float]:
    """Interval of a share of tasks (Jeffreys), as if all sets of a task held the best or none.

    >>> tuple(round(end, 2) for end in _binomial(1.0, 6))
    (0.67, 1.0)
    """
    low, high = beta.ppf([0.025, 0.975], share * tasks + 0.5, (1 - share) * tasks + 0.5)
    return (float(low) if share > 0 else 0.0), (float(high) if share < 1 else 1.0)


def reliability(
    trials: Sequence[Trial], edges: Sequence[float] = (0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1)
) -> list[tuple[float, float, float, float, int]]:
    """Chances against how often they came true, by bins of the chance.

    Mean chance, share of candidates that were the best with its interval over tasks, and number.
    """
    tasks = list(dict.fromkeys(t.task for t in trials))
    chances = np.concatenate([t.chances for t in trials])
    best = np.concatenate([np.arange(len(t.chances)) == t.place for t in trials])
    own = np.concatenate([np.full(len(t.chances), tasks.index(t.task)) for t in trials])
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(tasks), size=(RESAMPLES, len(tasks)))
    found = []
    for low, high in itertools.pairwise(edges):
        inside = (chances >= low) & ((chances < high) | (high == edges[-1]))
        if inside.any():
            hits = np.bincount(own[inside], best[inside], minlength=len(tasks))
            count = np.bincount(own[inside], minlength=len(tasks))
            total = count[drawn].sum(axis=1)
            shares = np.divide(
                hits[drawn].sum(axis=1), total, out=np.full(len(total), np.nan), where=total > 0
            )
            found.append(
                (float(chances[inside].mean()), float(best[inside].mean()), *interval(shares),
                 int(inside.sum()))
            )  # fmt: skip
    return found


def without_tasks(
    cases: Sequence[Case], tasks: Iterable[str], unlike: ErrorModel
) -> dict[str, ErrorModel]:
    """The model of errors of one population without each of its tasks."""
    return {task: learn((c for c in cases if c.task != task), unlike=unlike) for task in tasks}


def halves(models: Sequence[str], splits: int, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Random halves of the models, several times.

    >>> first, second = halves(list("abcdefgh"), 1)[0]
    >>> sorted(first + second) == list("abcdefgh")
    True
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(splits):
        mixed = [models[i] for i in rng.permutation(len(models))]
        middle = len(mixed) // 2
        found += [(mixed[:middle], mixed[middle:]), (mixed[middle:], mixed[:middle])]
    return found
