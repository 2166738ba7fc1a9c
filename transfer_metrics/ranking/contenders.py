"""Which of several models can still turn out to have the best score."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Standing:
    """How a model stands after a round.

    Attributes:
        score: higher is better.
        stderr: its standard error, NaN where there is none.
        deviations: its deviations over common blocks of examples, where there are any.
        tie: decides between equal scores.
    """

    score: float
    stderr: float = math.nan
    deviations: Sequence[float] | None = None
    tie: tuple[str, ...] = ()


def contenders(standings: Sequence[Standing], level: float) -> list[int]:
    """Those that can still be the best, best first.

    One falls out where the probability that its score is above the leader's, by the errors of
    their difference, is below ``level``: with M models, ``level = α / M`` drops the best with a
    probability of at most α, whoever leads. Errors over common blocks give Student's t of the
    paired difference; otherwise they are taken for independent and normal. Who has no error stays.

    Args:
        standings: one per model.
        level: the probability.

    Returns:
        Their places in ``standings``; none where there are none.

    >>> contenders([Standing(0.1, 0.1), Standing(0.9, 0.1), Standing(0.8, 0.1)], 0.001)
    [1, 2]
    """
    if not standings:
        return []
    order = sorted(range(len(standings)), key=lambda i: (-standings[i].score, standings[i].tie))
    return order[:1] + [
        i for i in order[1:] if not _above(standings[i], standings[order[0]]) < level
    ]


def _above(model: Standing, leader: Standing) -> float:
    """Probability that a model's score is really above the leader's, NaN where unknown."""
    gap = leader.score - model.score
    a, b = model.deviations, leader.deviations
    if a is not None and b is not None and len(a) == len(b) > 1:
        error = float(np.linalg.norm(np.subtract(a, b)))
        tail: Callable[[float], float] = functools.partial(stats.t.sf, df=len(a) - 1)
    else:
        error, tail = math.hypot(model.stderr, leader.stderr), stats.norm.sf
    if error > 0:
        return float(tail(gap / error))
    return math.nan if math.isnan(error) or gap == 0 else 0.0
