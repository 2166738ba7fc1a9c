"""Scores of layers on their own and in sets, as records of the long table."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import transfer_metrics
from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import Metric
from transfer_metrics.results.comparable import Place
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.selection.unions import JointStatistic
from transfer_metrics.sources.zoo import build
from transfer_metrics.statistics.inputs import as_labels, as_targets, quantile_bins


class LayerScores:
    """Scores layers of one input, and writes down what was found.

    Args:
        X: what the columns were read from; a store tells where they come from.
        columns: the layers.
        place: labels and kind of the task, without features.
        seed: seed of the sample of examples.
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
            for i, (name, dim) in enumerate(zip(columns.names, columns.dims, strict=True))
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
    """Labels as metrics want them; with ``bins`` regression targets are cut into classes.

    Raises:
        InvalidInputError: labels that the kind of task does not have.
    """
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
