"""One pass over the features of a layer, for all that the asked metrics need of it."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.metrics.base import Metric
from transfer_metrics.ranking.pieces import Needs, Pieces
from transfer_metrics.statistics import ClassMoments, ClassRows, FeatureSample
from transfer_metrics.statistics.linalg import Scatter

# Per-class scatter beyond this many bytes is computed class by class when it is asked for.
CLASS_BUDGET = 1 << 30


@dataclass(frozen=True)
class Place:
    """Where features come from: one layer, or arrays.

    Attributes:
        batches: starts a pass over the features, (n, D) each, in the order of the examples.
        labels: class numbers (N,) below ``num_classes``, or targets (N,) or (N, K).
        kind: kind of the task.
        num_classes: C, 0 where there are no classes.
        units: number of the example each row belongs to, (N,): rows of one example, such as the
            tokens of a sentence, stay together when examples are left out.
        rows: reads features by their positions, where that can be done without a pass.
    """

    batches: Callable[[], Iterable[Any]]
    labels: np.ndarray
    kind: str
    num_classes: int
    units: np.ndarray
    rows: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass
class Built:
    """The statistics of one place.

    Attributes:
        of: the statistic of each family.
        blocks: the same of each block of examples, where blocks were asked for.
        seconds: what each metric of a family owes for the building.
    """

    of: dict[str, Any]
    blocks: dict[str, list[Any]]
    seconds: dict[str, float]


def build(place: Place, metrics: Sequence[Metric], blocks: int = 0) -> Built:
    """The union of what the metrics require, from one pass.

    Args:
        place: where the features come from.
        metrics: metrics of features, or metrics of source probabilities, but not both.
        blocks: how many blocks of examples to keep apart as well, 0 for none.

    Raises:
        InvalidInputError: what the statistics do not accept.

    Cost: that of the statistics; memory that of the statistics and of one batch.
    """
    needs = Needs.of(metrics, place.kind, place.num_classes, blocks)
    by_class = place.rows if "class" in needs.parts and not blocks and _is_large(place) else None
    kept = dataclasses.replace(needs, parts=needs.parts - {"class"}) if by_class else needs
    pieces, start = Pieces.none(needs), 0
    for x in place.batches():
        stop = start + len(x)
        pieces += Pieces.of_batch(kept, x, place.labels[start:stop], place.units[start:stop])
        start = stop

    def scatter(moments: ClassMoments) -> Sequence[Scatter]:
        assert by_class is not None
        return ClassRows(by_class, place.labels, moments.means)

    return built_of(pieces, needs, metrics, scatter if by_class else None)


def built_of(
    pieces: Pieces,
    needs: Needs,
    metrics: Sequence[Metric],
    class_scatter: Callable[[ClassMoments], Sequence[Scatter]] | None = None,
) -> Built:
    """The statistics of all examples from those of their parts.

    Args:
        pieces: the sum of all parts.
        needs: what they were built for.
        metrics: who needs them.
        class_scatter: per-class scatter for moments that were built without it.
    """
    of, spent = {}, dict(zip(needs.families, pieces.seconds, strict=True))
    filled = {
        family: [piece for piece in held if piece is not None]
        for family, held in zip(needs.families, pieces.held, strict=True)
    }
    for family in needs.families:
        started = time.perf_counter()
        of[family] = functools.reduce(operator.add, filled[family])
        spent[family] += time.perf_counter() - started
    if class_scatter is not None:
        moments = of["moments"]
        of["moments"] = dataclasses.replace(moments, class_scatter=class_scatter(moments))
    _share(of, needs.parts, spent)
    shares = {f: spent[f] / sum(m.requires == f for m in metrics) for f in needs.families}
    return Built(of, filled if needs.blocks else {}, shares)


def _share(of: dict[str, Any], parts: frozenset[str], spent: dict[str, float]) -> None:
    """Let the sample use the moments of the same rows, and all metrics one decomposition."""
    sample = of.get("examples")
    if isinstance(sample, FeatureSample) and sample.n == sample.seen and "moments" in of:
        sample.adopt(of["moments"])
    if "spectrum" in parts:
        family = "moments" if "moments" in of else "examples"
        started = time.perf_counter()
        moments = of[family] if family == "moments" else of[family].moments
        _ = moments.total.eigh
        spent[family] += time.perf_counter() - started


def _is_large(place: Place) -> bool:
    if place.rows is None or not place.num_classes:
        return False
    counts = np.bincount(place.labels, minlength=place.num_classes)
    dim = place.rows(np.array([0])).shape[1]
    return int(np.minimum(counts, dim).sum()) * dim * 8 > CLASS_BUDGET
