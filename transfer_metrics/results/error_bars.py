"""Standard errors of scores and of their differences, from blocks of examples."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, quiet
from transfer_metrics.metrics.base import Estimate, Metric
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.influence import Parts

_BLOCKS = 20
MODES = ("jackknife", "bootstrap")
# Share of a score that rounding alone may move.
_ROUNDING = 1e-10
# What cannot be computed; the error of numpy's decompositions is none of the others.
_FAILURES = (TransferMetricsError, ArithmeticError, RuntimeError, np.linalg.LinAlgError)


def interval_modes(
    intervals: bool | str, metrics: Sequence[Metric], ranking: bool = False
) -> dict[str, str]:
    """How the error of each metric is to be found, by label; those without one are left out.

    In a ``ranking`` True is for the metric that orders it, the first; else it is for all, as
    ``"all"`` and ``"bootstrap"`` always are.
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
    return _BLOCKS if any(of_use) else 0


def deviations(
    metrics: Sequence[Metric],
    whole: Any,
    blocks: Sequence[Any],
    mode: str,
    influence: Parts | None = None,
) -> dict[str, list[float]]:
    """Deviations of scores over blocks of examples: their norm is the standard error of a score.

    They are what each block adds to a score, less its share by number of examples of what all add:
    the number of examples is given, so that a score that rises with it has no error from that.
    Metrics with a derivative get them from ``influence``: the infinitesimal jackknife (Jaeckel
    1972). Other additive statistics give a delete-block jackknife, from merging the others. For a
    mean both are the textbook error. Where ``mode`` is ``"bootstrap"``, metrics of examples get
    half-samples: the score of ten blocks of twenty, without replacement, whose variance estimates
    that of the score without smoothness (the delete-half jackknife of Shao and Wu 1989; drawing
    with replacement would give every example a copy of itself for a neighbour).

    The blocks are the same for all models and layers, so the deviations of two of them subtract to
    those of their difference. The metrics are of one statistic, that of all examples being
    ``whole``. Returned is one number per block, by label of the metric; none where there is no way
    to them, and for scores that no block moves. A derivative takes about one score; the jackknife B
    scores of each metric, and O(B log B) merges of which O(log B) are held at once.
    """
    count = len(blocks)
    if count < 2:
        return {}
    sampled = isinstance(whole, FeatureSample)
    if sampled and mode != "bootstrap":
        return {}
    found = {} if influence is None else _slopes(metrics, influence)
    rest = [metric for metric in metrics if metric.label not in found]
    parts = _half_samples([whole.shared(b) for b in blocks]) if sampled else _without_each(blocks)
    sizes = np.array([block.n for block in blocks], dtype=float)
    share = sizes / sizes.sum()
    relative = {metric.label for metric in metrics if metric.relative}
    for label, values in _values(rest, whole, parts).items():
        if sampled:
            found[label] = (values[1:] - values[1:].mean()) / math.sqrt(count - 1)
        else:
            moved = values[0] - values[1:]
            still = np.abs(moved).max() <= _ROUNDING * abs(values[0])
            if label in relative and values.all():
                moved = values[0] * np.log(values[0] / values[1:])
            found[label] = np.zeros(count) if still else moved * (1.0 - share)
    if not sampled:
        scale = math.sqrt(count / (count - 1))
        found = {label: scale * (share * s.sum() - s) for label, s in found.items()}
    # A score that no block moves is at a bound, such as one of features shrunk to nothing.
    return {label: values.tolist() for label, values in found.items() if np.any(values)}


def shared_deviations(score: Estimate, places: np.ndarray) -> list[float]:
    """Deviations over blocks of a mean over examples at ``places`` (n,), whose norm is its error.

    That error knows more than twenty blocks do; they tell what two models share. None where the
    score does not say what each example adds, or all add as much.
    """
    if score.shares is None:
        return []
    sums = np.bincount(places % _BLOCKS, score.shares, _BLOCKS)
    norm = np.linalg.norm(sums)
    return (sums * (score.stderr / norm)).tolist() if norm > _ROUNDING * score.stderr else []


def _values(metrics: Sequence[Metric], whole: Any, parts: Iterable[Any]) -> dict[str, np.ndarray]:
    """Scores of the whole and of parts of it, by label of those metrics that have them all."""
    values: dict[str, list[float]] = {m.label: [] for m in metrics}
    with quiet():
        # What the whole gave warning of, its parts need not repeat.
        for part in itertools.chain([whole], parts if metrics else ()):
            for metric in metrics:
                if metric.label not in values:
                    continue
                try:
                    values[metric.label].append(float(metric(part)))
                except _FAILURES:
                    del values[metric.label]
    return {label: np.array(found) for label, found in values.items()}


def _slopes(metrics: Sequence[Metric], influence: Parts) -> dict[str, np.ndarray]:
    """Derivatives in the weights of the blocks, by label of those metrics that have one."""
    found = {}
    for metric in metrics:
        # A metric without a derivative here gets its errors, or has none, by the jackknife.
        with contextlib.suppress(*_FAILURES):
            slopes = metric.slopes(influence)
            if slopes is not None and bool(slopes.isfinite().all()):
                found[metric.label] = slopes.cpu().numpy()
    return found


def _without_each(blocks: Sequence[Any], rest: Any = None) -> Iterator[Any]:
    """The merge of all blocks but one, for each block in turn."""
    if len(blocks) == 1:
        yield rest
        return
    middle = len(blocks) // 2
    left, right = blocks[:middle], blocks[middle:]
    yield from _without_each(left, _merged(right, rest))
    yield from _without_each(right, _merged(left, rest))


def _half_samples(blocks: Sequence[FeatureSample]) -> Iterator[FeatureSample]:
    rng = np.random.default_rng(0)
    for _ in range(len(blocks)):
        chosen = rng.permutation(len(blocks))[: len(blocks) // 2]
        yield _merged([blocks[i] for i in sorted(chosen)])


def _merged(blocks: Sequence[Any], rest: Any = None) -> Any:
    return functools.reduce(operator.add, [*([] if rest is None else [rest]), *blocks])
