"""Standard errors of scores and of their differences, from blocks of examples."""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, TransferMetricsWarning
from transfer_metrics.metrics.base import Metric
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.influence import Influence

BLOCKS = 20
MODES = ("jackknife", "bootstrap")


def interval_modes(
    intervals: bool | str, metrics: Sequence[Metric], ranking: bool = False
) -> dict[str, str]:
    """How the error of each metric is to be found, by label; those without one are left out.

    In a ``ranking`` True is for the metric that orders it, the first; else it is for all, as
    ``"all"`` and ``"bootstrap"`` always are.

    Raises:
        InvalidInputError: intervals that there are not.
    """
    if intervals is False or intervals is None:
        return {}
    named = {True: MODES[0], "all": MODES[0]} | {mode: mode for mode in MODES}
    if intervals not in named:
        raise InvalidInputError(
            f"intervals must be True, False, 'all' or one of {MODES}, not {intervals!r}"
        )
    few = metrics[:1] if ranking and intervals in (True, MODES[0]) else metrics
    return {metric.label: named[intervals] for metric in few}


def blocks_for(metrics: Sequence[Metric], modes: Mapping[str, str]) -> int:
    """Into how many blocks of examples statistics are cut: none where no metric has use for them.

    Metrics of examples have no jackknife; see ``deviations``.
    """
    wanted = ((m, modes.get(m.label)) for m in metrics)
    of_use = (mode == MODES[1] or (mode and m.requires != "examples") for m, mode in wanted)
    return BLOCKS if any(of_use) else 0


def deviations(
    metrics: Sequence[Metric],
    whole: Any,
    blocks: Sequence[Any],
    mode: str,
    influence: Influence | None = None,
) -> dict[str, list[float]]:
    """Deviations of scores over blocks of examples: their norm is the standard error of a score.

    Metrics with a derivative give a linearised (infinitesimal) jackknife from ``influence``: how
    the score moves with the weight of each block (Jaeckel 1972; Efron 1982). Other additive
    statistics give a delete-block jackknife: the score without each block, from merging the
    others. Where ``mode`` is ``"bootstrap"``, metrics of examples get half-samples: the score
    of ten blocks of twenty, drawn without replacement, whose variance estimates that of the score
    without smoothness being needed (the delete-half jackknife of Shao and Wu 1989; drawing with
    replacement would give every example a copy of itself for a neighbour).

    The blocks are the same for all models and layers, so the deviations of two of them subtract to
    those of their difference. The metrics are of one statistic, that of all examples being
    ``whole``, and share each merge and its decompositions.

    Returns one number per block, by label of the metric; none for metrics that are not additive
    where no bootstrap was asked for, and for those that cannot be computed on parts of the data.
    A derivative takes about one score; the jackknife B scores of each metric, and O(B log B) merges
    of which O(log B) are held at once.
    """
    count = len(blocks)
    if count < 2:
        return {}
    if isinstance(whole, FeatureSample):
        if mode != "bootstrap":
            return {}
        parts, scale = _half_samples([whole.shared(b) for b in blocks]), 1.0 / (count - 1)
    else:
        parts, scale = without_each(blocks), (count - 1) / count
    moved = {} if influence is None else _linear(metrics, influence)
    metrics = [m for m in metrics if m.label not in moved]
    if not metrics:
        return moved
    values: dict[str, list[float]] = {m.label: [] for m in metrics}
    with warnings.catch_warnings():
        # What the whole gave warning of, its parts need not repeat.
        warnings.simplefilter("ignore", TransferMetricsWarning)
        for part in parts:
            for metric in metrics:
                if metric.label not in values:
                    continue
                try:
                    values[metric.label].append(float(metric(part)))
                except (TransferMetricsError, ArithmeticError, RuntimeError):
                    del values[metric.label]
    return moved | {
        label: (math.sqrt(scale) * (np.array(found) - np.mean(found))).tolist()
        for label, found in values.items()
    }


def _linear(metrics: Sequence[Metric], influence: Influence) -> dict[str, list[float]]:
    """The same to first order in the weights of the blocks, of metrics that have a derivative.

    It is scaled so that a mean gets the textbook error, as from the jackknife.
    """
    found, count = {}, len(influence.blocks)
    for metric in metrics:
        try:
            slopes = metric.slopes(influence)
        except (TransferMetricsError, ArithmeticError, RuntimeError):
            continue  # the jackknife says whether there is an error
        if slopes is not None and bool(slopes.isfinite().all()):
            moved = (slopes.mean() - slopes) * math.sqrt(count / (count - 1))
            found[metric.label] = moved.tolist()
    return found


def without_each(blocks: Sequence[Any], rest: Any = None) -> Iterator[Any]:
    """The merge of all blocks but one, for each block in turn.

    >>> list(without_each([1, 10, 100]))
    [110, 101, 11]
    """
    if len(blocks) == 1:
        yield rest
        return
    middle = len(blocks) // 2
    left, right = blocks[:middle], blocks[middle:]
    yield from without_each(left, _merged(right, rest))
    yield from without_each(right, _merged(left, rest))


def margin(stderr: float, deviations: Sequence[float] | None) -> float:
    """Half the width of a 95 % interval: Student's where the error is estimated from blocks."""
    if deviations is None:
        return 1.959964 * stderr
    return float(stats.t.ppf(0.975, len(deviations) - 1)) * stderr


def _half_samples(blocks: Sequence[FeatureSample]) -> Iterator[FeatureSample]:
    rng = np.random.default_rng(0)
    for _ in range(len(blocks)):
        chosen = rng.permutation(len(blocks))[: len(blocks) // 2]
        yield _merged([blocks[i] for i in sorted(chosen)])


def _merged(blocks: Sequence[Any], rest: Any = None) -> Any:
    return functools.reduce(operator.add, [*([] if rest is None else [rest]), *blocks])
