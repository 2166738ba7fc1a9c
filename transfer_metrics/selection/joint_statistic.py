"""One statistic of all layers side by side, of which any set of layers is a part."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import Estimate, Metric
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.needs import (
    Labels,
)
from transfer_metrics.statistics.sample import DEFAULT_LIMIT
from transfer_metrics.statistics.statistics import (
    build_statistic,
)

_ROWS_AT_ONCE = 4096


class JointStatistic:
    """The statistic of all layers side by side, of which any union of layers is a part.

    Moments of a union are rows and columns of the joint moments, so no union is built anew. Fourth
    moments cannot be cut that way: for a metric that reads them all examples are kept, and the
    moments of a union are computed from those. More than ``max_bytes`` are refused.

    >>> from transfer_metrics.metrics.base import get_metric
    >>> from transfer_metrics.selection.columns import layer_columns
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> columns = layer_columns({"a": x[:, :2], "b": x[:, 2:]})
    >>> labels = Labels.read(y, "classification", 150)
    >>> joint = JointStatistic(columns, labels, get_metric("transrate"))
    >>> round(joint.score(["a", "b"]), 10)
    0.5894054064
    """

    def __init__(
        self, columns: LayerColumns, labels: Labels, metric: Metric, max_bytes: int = 4 << 30
    ) -> None:
        needed = _joint_bytes(metric, labels, columns.dim)
        if needed > max_bytes:
            # Fewer examples help where rows are kept.
            rows = metric.requires == "examples" or _by_examples(metric)
            helped = rows or len(labels) < columns.dim or "class" in metric.parts
            raise InvalidInputError(
                f"the joint statistic of {len(columns.names)} layers with {columns.dim} features "
                f"would take {needed / 1e9:.1f} GB, more than max_bytes={max_bytes} allows; use "
                f"fewer layers{', set max_examples' if helped else ''}, or mode='best', "
                f"which holds one layer at a time"
            )
        started = time.perf_counter()
        self._columns = columns
        self._metric = metric
        self._statistic = _built(columns, labels, metric)
        self.seconds = time.perf_counter() - started

    def score(self, layers: Sequence[str]) -> Estimate:
        """The metric of some layers side by side, as if their features had been scored."""
        selected = self._statistic.select(self._columns.numbers(self._columns.whole(layers)))
        return self._metric(selected.moments if _by_examples(self._metric) else selected)


def _joint_bytes(metric: Metric, labels: Labels, dim: int) -> int:
    """Memory of the joint statistic of D features, and of what scoring all of them adds to it."""
    n = len(labels)
    if metric.requires == "examples" or _by_examples(metric):
        kept = n if _by_examples(metric) else min(n, DEFAULT_LIMIT)
        # The examples, their centred copy, and the moments of the widest union.
        return 8 * dim * (2 * kept + min(n, dim))
    # Scatter within classes, in all, and one factor of it.
    numbers = 3 * min(n, dim) * dim
    if "class" in metric.parts and labels.num_classes:
        counts = np.bincount(labels.values, minlength=labels.num_classes)
        numbers += int(np.minimum(counts, dim).sum()) * dim
    return 8 * numbers


def _by_examples(metric: Metric) -> bool:
    return metric.requires == "moments" and "fourth" in metric.parts


def _built(columns: LayerColumns, labels: Labels, metric: Metric) -> Any:
    """The statistic in one pass over batches of rows."""
    n = len(columns)
    batches = (slice(start, start + _ROWS_AT_ONCE) for start in range(0, n, _ROWS_AT_ONCE))
    read = ((columns.rows(rows).dense(), labels.values[rows]) for rows in batches)
    if _by_examples(metric):
        return FeatureSample.from_batch(
            np.concatenate([x for x, _ in read]),
            labels.values,
            labels.num_classes,
            limit=len(labels),
            parts=metric.parts,
        )
    pieces = (
        build_statistic(metric.requires, metric.parts, labels.kind, x, y, labels.num_classes)
        for x, y in read
    )
    return functools.reduce(operator.add, pieces)
