"""Scores of layers alone and in sets, as records of the long table."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import Estimate, Metric
from transfer_metrics.ranking.scoring import (
    ClassScatter,
    bases_of,
    late_classes,
    records_of,
    unscored,
    valued,
)
from transfer_metrics.results.record import Record
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.needs import Labels, Needs
from transfer_metrics.statistics.sample import DEFAULT_LIMIT
from transfer_metrics.statistics.statistics import Statistics, build_statistic

_ROWS_AT_ONCE = 4096


class LayerScores:
    """Scores layers of one input, and writes down what was found.

    A store ``X`` tells where its columns come from; ``seed`` is that of the sample of examples.
    """

    def __init__(self, X: Any, columns: LayerColumns, labels: Labels, seed: int) -> None:
        self._columns = columns
        self._labels = labels
        base = Record(model="features", seed=seed, num_classes=labels.num_classes)
        self._bases = {
            name: replace(base, layer=name, layer_index=i, dim=dim)
            for i, (name, dim) in enumerate(columns.widths.items())
        }
        if isinstance(X, FeatureStore):
            for name, known in bases_of(X).items():
                if name in self._bases:
                    self._bases[name] = replace(
                        known, seed=seed, model_id=None, task_id=None, note=None,
                        num_classes=labels.num_classes,
                    )  # fmt: skip
        self._bases = {n: replace(base, n=len(labels)) for n, base in self._bases.items()}

    def alone(self, name: str, metric: Metric) -> Record:
        """The record of one layer; its reason under ``error`` where it has no score."""

        def read(_: str, needs: Sequence[Needs]) -> tuple[Statistics, ClassScatter | None]:
            columns = self._columns
            kept, scatter = late_classes(
                needs, self._labels, columns.widths[name], lambda at: columns.rows(at).layer(name)
            )
            return Statistics.of(kept, columns.layer(name), self._labels), scatter

        [record] = records_of({name: self._bases[name]}, [metric], self._labels, read)
        return record

    def union(
        self, layers: Sequence[str], metric: Metric, joint: JointStatistic, owed: float = 0.0
    ) -> Record:
        """The record of some layers side by side; ``owed`` is time already spent on them."""
        base = self._bases[layers[0]]
        if len(layers) > 1:
            dim = sum(self._bases[name].dim or 0 for name in layers)
            base = replace(base, layer="+".join(layers), layer_index=None, depth=None, dim=dim)
        [record] = unscored(base, [metric])
        return valued(record, lambda: joint.score(layers), owed)


class JointStatistic:
    """The statistic of all layers side by side, of which any union of layers is a part.

    Moments of a union are rows and columns of the joint moments, so no union is built anew. Fourth
    moments cannot be cut that way: for a metric that reads them all examples are kept, and the
    moments of a union are computed from those. More than ``max_bytes`` are refused.

    Cost: one pass over the features. Moments: O(N D min(N, D)) time, O(D min(N, D)) memory, and
    ``Σ_c min(n_c, D) D`` more for metrics that read per-class scatter. Examples: O(min(N, 20 000)
    D) memory. A union of width d then costs O(C d²) beside the metric itself.

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
        needed = joint_bytes(metric, labels, columns.dim)
        if needed > max_bytes:
            raise InvalidInputError(
                f"the joint statistic of {len(columns.names)} layers with {columns.dim} features "
                f"would take {needed / 1e9:.1f} GB, more than max_bytes={max_bytes} allows; use "
                f"fewer layers{_fewer_examples(metric, labels, columns.dim)}, or mode='best', "
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


def drop_candidates(
    names: Sequence[str], dims: Sequence[int], max_drop: int | None = None
) -> list[str]:
    """The last layer of each network that is left when 0, 1, 2 … last blocks are dropped.

    The input of the classifier repeats the last block after pooling and is left out. Without
    ``max_drop`` the candidates are the layers of the last two stages, a stage being a run of
    layers of one width; a network of one width is one stage.

    >>> drop_candidates(["a", "b", "c", "d"], [64, 128, 128, 256])
    ['d', 'c', 'b']
    >>> drop_candidates(["a", "b", "head:input"], [8, 8, 8], max_drop=0)
    ['b']
    """
    blocks = list(zip(names, dims, strict=True))
    if len(blocks) > 1 and names[-1].endswith(":input") and dims[-1] == dims[-2]:
        blocks = blocks[:-1]
    blocks = blocks[::-1]
    if max_drop is not None:
        return [name for name, _ in blocks[: max_drop + 1]]
    changes = [i for i in range(1, len(blocks)) if blocks[i][1] != blocks[i - 1][1]]
    end = changes[1] if len(changes) > 1 else len(blocks)
    return [name for name, _ in blocks[:end]]


def joint_bytes(metric: Metric, labels: Labels, dim: int) -> int:
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


def warn_of_sets(metric: Metric) -> None:
    """Warn of a metric that rises with every layer that is added, of noise even."""
    if metric.width_cures and not {"dim_normalize", "preset"}.intersection(metric.options):
        warn(
            f"{metric.label} of a set grows with its number of columns, so it tends to add every "
            f"layer; use {metric.name}(eps=auto,dim_normalize=rank), linear_probe or logme"
        )


def _by_examples(metric: Metric) -> bool:
    return metric.requires == "moments" and "fourth" in metric.parts


def _fewer_examples(metric: Metric, labels: Labels, dim: int) -> str:
    """Whether fewer examples would help: they do where rows are kept."""
    rows = metric.requires == "examples" or _by_examples(metric) or len(labels) < dim
    return ", set max_examples" if rows or "class" in metric.parts else ""


def _built(columns: LayerColumns, labels: Labels, metric: Metric) -> Any:
    if _by_examples(metric):
        return FeatureSample.from_batch(
            np.concatenate([x for x, _ in _batches(columns, labels.values)]),
            labels.values,
            labels.num_classes,
            limit=len(labels),
            parts=metric.parts,
        )
    pieces = (
        build_statistic(metric.requires, metric.parts, labels.kind, x, y, labels.num_classes)
        for x, y in _batches(columns, labels.values)
    )
    return functools.reduce(operator.add, pieces)


def _batches(columns: LayerColumns, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(columns), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield columns.rows(rows).dense(), labels[rows]
