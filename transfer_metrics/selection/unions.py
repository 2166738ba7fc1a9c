"""Scores of sets of layers, from one joint statistic of all of them."""

from __future__ import annotations

import functools
import operator
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.base import Estimate, Metric, build_statistic
from transfer_metrics.results.comparable import Place
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.sample import DEFAULT_LIMIT

ROWS_AT_ONCE = 4096


class JointStatistic:
    """The statistic of all layers side by side, of which any union of layers is a part.

    Moments of a union are rows and columns of the joint moments, so no union is built anew. Fourth
    moments cannot be cut that way: for a metric that reads them all examples are kept, and the
    moments of a union are computed from those.

    Args:
        columns: the layers, (N, D) together.
        place: labels and kind of the task.
        metric: what will be asked.
        max_bytes: the most memory that the statistic may take.

    Raises:
        InvalidInputError: it would take more.

    Cost: one pass over the features. Moments: O(N D min(N, D)) time, O(D min(N, D)) memory, and
    ``Σ_c min(n_c, D) D`` more for metrics that read per-class scatter. Examples: O(min(N, 20 000)
    D) memory. A union of width d then costs O(C d²) beside the metric itself.

    >>> from transfer_metrics.metrics.base import get_metric
    >>> from transfer_metrics.selection.columns import layer_columns
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> columns = layer_columns({"a": x[:, :2], "b": x[:, 2:]})
    >>> place = Place(list, y, "classification", 3, np.arange(150))
    >>> joint = JointStatistic(columns, place, get_metric("transrate"))
    >>> round(joint.score(["a", "b"]), 10)
    0.5894054064
    """

    def __init__(
        self, columns: LayerColumns, place: Place, metric: Metric, max_bytes: int = 4 << 30
    ) -> None:
        needed = joint_bytes(metric, place, columns.dim)
        if needed > max_bytes:
            raise InvalidInputError(
                f"the joint statistic of {len(columns.names)} layers with {columns.dim} features "
                f"would take {needed / 1e9:.1f} GB, more than max_bytes={max_bytes} allows; use "
                f"fewer layers{_fewer_examples(metric, place, columns.dim)}, or mode='best', "
                f"which holds one layer at a time"
            )
        started = time.perf_counter()
        self._columns = columns
        self._metric = metric
        self._statistic = _built(columns, place, metric)
        self.seconds = time.perf_counter() - started

    def score(self, layers: Sequence[str]) -> Estimate:
        """The metric of some layers side by side, as if their features had been scored.

        Raises:
            InvalidInputError: the metric cannot be computed on them.
        """
        where = {name: i for i, name in enumerate(self._columns.names)}
        starts, ends = self._columns.starts[:-1], self._columns.starts[1:]
        ranges = [np.arange(starts[where[n]], ends[where[n]]) for n in layers]
        selected = self._statistic.select(np.concatenate(ranges))
        return self._metric(selected.moments if _by_examples(self._metric) else selected)


def joint_bytes(metric: Metric, place: Place, dim: int) -> int:
    """Memory of the joint statistic of D features, and of what scoring all of them adds to it."""
    n = len(place.labels)
    if metric.requires == "examples" or _by_examples(metric):
        kept = n if _by_examples(metric) else min(n, DEFAULT_LIMIT)
        # The examples, their centred copy, and the moments of the widest union.
        return 8 * dim * (2 * kept + min(n, dim))
    # Scatter within classes, in all, and one factor of it.
    numbers = 3 * min(n, dim) * dim
    if "class" in metric.parts and place.num_classes:
        counts = np.bincount(place.labels, minlength=place.num_classes)
        numbers += int(np.minimum(counts, dim).sum()) * dim
    return 8 * numbers


def warn_of_sets(metric: Metric) -> None:
    """Warn of a metric that rises with every layer that is added, of noise even."""
    if metric.width_cures and not {"dim_normalize", "preset"}.intersection(metric.options):
        warnings.warn(
            f"{metric.label} of a set grows with its number of columns, so it tends to add every "
            f"layer; use {metric.name}(eps=auto,dim_normalize=rank), linear_probe or logme",
            TransferMetricsWarning,
            stacklevel=3,
        )


def _by_examples(metric: Metric) -> bool:
    return metric.requires == "moments" and "fourth" in metric.parts


def _fewer_examples(metric: Metric, place: Place, dim: int) -> str:
    """Whether fewer examples would help: they do where rows are kept."""
    rows = metric.requires == "examples" or _by_examples(metric) or len(place.labels) < dim
    return ", set max_examples" if rows or "class" in metric.parts else ""


def _built(columns: LayerColumns, place: Place, metric: Metric) -> Any:
    if _by_examples(metric):
        return FeatureSample.from_batch(
            np.concatenate([x for x, _ in _batches(columns, place.labels)]),
            place.labels,
            place.num_classes,
            limit=len(place.labels),
            parts=metric.parts,
        )
    pieces = (
        build_statistic(metric.requires, metric.parts, place.kind, x, y, place.num_classes)
        for x, y in _batches(columns, place.labels)
    )
    return functools.reduce(operator.add, pieces)


def _batches(columns: LayerColumns, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(columns), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield columns.rows(rows).dense(), labels[rows]
