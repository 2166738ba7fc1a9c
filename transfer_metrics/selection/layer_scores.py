"""Scores of layers alone and in sets, as records of the long table."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import transfer_metrics
from transfer_metrics.errors import (
    InvalidInputError,
    TransferMetricsError,
    TransferMetricsWarning,
)
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import Estimate, Metric, build_statistic
from transfer_metrics.ranking.build import Place, build
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.inputs import as_labels, as_targets, quantile_bins
from transfer_metrics.statistics.sample import DEFAULT_LIMIT

_ROWS_AT_ONCE = 4096


class LayerScores:
    """Scores layers of one input, and writes down what was found.

    A store ``X`` tells where its columns come from; ``seed`` is that of the sample of examples.
    """

    def __init__(self, X: Any, columns: LayerColumns, place: Place, seed: int) -> None:
        self._columns = columns
        self._place = place
        self._base: dict[str, Any] = {
            "model": "features",
            "seed": seed,
            "n": len(place.labels),
            "num_classes": place.num_classes,
        }
        self._known: dict[str, dict[str, Any]] = {
            name: {"layer_index": i, "dim": dim}
            for i, (name, dim) in enumerate(columns.widths.items())
        }
        if isinstance(X, FeatureStore):
            self._base |= {
                "model": X.model,
                "revision": X.manifest.get("revision") or None,
                "task": X.task,
                "split": X.split,
                "pool": X.manifest["pool"],
                "extract_seconds": X.seconds,
            }
            for layer in X.layers:
                self._known[layer.name] |= {"layer_index": layer.index, "depth": layer.depth}

    def alone(self, name: str, metric: Metric) -> dict[str, Any]:
        """The record of one layer; its reason under ``error`` where it has no score."""
        place = dataclasses.replace(
            self._place,
            batches=lambda: [self._columns.layer(name)],
            rows=lambda positions: self._columns.rows(positions).layer(name),
        )
        outcome = _outcome(lambda: metric(build(place, [metric]).of[metric.requires]))
        return self._record([name], metric, outcome)

    def union(
        self, layers: Sequence[str], metric: Metric, joint: JointStatistic, owed: float = 0.0
    ) -> dict[str, Any]:
        """The record of some layers side by side; ``owed`` is time already spent on them."""
        outcome = _outcome(lambda: joint.score(layers))
        outcome["seconds"] += owed
        return self._record(layers, metric, outcome)

    def _record(
        self, layers: Sequence[str], metric: Metric, outcome: dict[str, Any]
    ) -> dict[str, Any]:
        options = ",".join(f"{k}={v}" for k, v in sorted(metric.options.items()))
        return {
            **self._base,
            **(self._known[layers[0]] if len(layers) == 1 else {}),
            "layer": "+".join(layers),
            "dim": sum(self._known[name]["dim"] for name in layers),
            "metric": metric.name,
            "options": options or None,
            "higher_is_better": metric.higher_is_better,
            "version": transfer_metrics.__version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **outcome,
        }


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


def place_of(labels: np.ndarray, kind: str, bins: bool) -> Place:
    """Labels as metrics want them; with ``bins`` regression targets are cut into classes."""
    units = np.arange(len(labels))
    if kind == "classification":
        codes, num_classes = as_labels(labels, len(labels))
        return Place(list, codes.numpy(), kind, num_classes, units)
    targets = as_targets(labels, len(labels)).cpu().numpy()
    if bins and kind == "regression":
        binned = quantile_bins(targets)
        return Place(list, binned, "classification", int(binned.max()) + 1, units)
    return Place(list, targets, kind, 0, units)


def _outcome(score: Callable[[], Any]) -> dict[str, Any]:
    """Value and seconds, or why there is no value."""
    started = time.perf_counter()
    outcome: dict[str, Any]
    try:
        value = score()
        stderr = None if np.isnan(value.stderr) else float(value.stderr)
        outcome = {"value": float(value), "stderr": stderr}
    except (TransferMetricsError, ArithmeticError, RuntimeError) as error:
        outcome = {"value": None, "error": str(error)}
    return {**outcome, "seconds": time.perf_counter() - started}


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
    for start in range(0, len(columns), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        yield columns.rows(rows).dense(), labels[rows]
