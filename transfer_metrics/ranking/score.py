"""Scoring features under many metrics at once."""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy.special import softmax

import transfer_metrics
from transfer_metrics.errors import InvalidInputError, TransferMetricsError, TransferMetricsWarning
from transfer_metrics.features.extract import extract
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import Metric, task_kind
from transfer_metrics.ranking.asked import (
    DEFAULT_METRICS,
    asked_combinations,
    resolve_metrics,
    warn_of_widths,
)
from transfer_metrics.ranking.build import Built, Place, build
from transfer_metrics.ranking.combine import combined
from transfer_metrics.ranking.intervals import BLOCKS, deviations, interval_mode
from transfer_metrics.ranking.table import ScoreTable
from transfer_metrics.statistics.inputs import as_labels, as_targets, as_tokens


def score(
    X: Any,
    y: Any,
    metrics: Any = DEFAULT_METRICS,
    *,
    source: Any = None,
    kind: str | None = None,
    intervals: bool | str = False,
    ignore_index: int = -100,
) -> ScoreTable:
    """Score one set of features under several metrics, from one pass over the data.

    Args:
        X: features, (N, D), array or tensor; or (N, T, D) with a label for each of T tokens, which
            are then the examples. Where all metrics read the source head (LEEP, NCE) and
            ``source`` is not given, these are the source probabilities.
        y: labels (N,), or (N, T) for tokens; floating point targets (N,) or (N, K), which mean
            regression; or 0/1 integers (N, K), which mean several labels per example.
        metrics: names, patterns, callables or a list of them; ``"*"`` is all that apply.
        source: source probabilities, (N, Z), for the metrics that read the source head.
        kind: ``"classification"``, ``"regression"`` or ``"multilabel"`` where the type of ``y``
            does not tell.
        intervals: True adds standard errors by a jackknife over twenty blocks of examples, for
            metrics of additive statistics; ``"bootstrap"`` adds half-samples for the others.
        ignore_index: tokens with this label are left out.

    Returns:
        A table with one record per metric.

    Raises:
        UnknownNameError: no such metric.
        UnsupportedTaskError: a metric that is not defined for this kind of task.
        InvalidInputError: shapes that do not match, NaN or infinite features, one class only, or
            metrics of the source head beside others without ``source``.

    Warns:
        TransferMetricsWarning: some of several metrics failed; their records say why.

    Cost: that of the statistics, once, plus each metric's own; intervals cost twenty more scores.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> score(X, y, metrics=["transrate", "logme"]).wide().round(4)
    metric               transrate   logme
    model    layer
    features features       0.5894 -0.1601
    """
    units = None
    if np.ndim(X) == 3:
        X, y, units = as_tokens(X, y, ignore_index)
    kind = kind or task_kind(y)
    chosen = resolve_metrics(metrics, kind, skip="" if source is not None else "source")
    asked = asked_combinations(metrics, kind)
    if asked:
        raise InvalidInputError(
            f"{asked[0].name} compares candidates and has no value for a single one; use "
            f"rank_models or score_layers, or its terms {', '.join(asked[0].terms)}"
        )
    place = _array_place(X, y, kind, units)
    of_source = [m for m in chosen if m.requires == "source"]
    if of_source and source is None and len(of_source) < len(chosen):
        raise InvalidInputError(
            f"{', '.join(m.label for m in of_source)} read source probabilities and the other "
            f"metrics features; pass the probabilities as source="
        )
    mode = interval_mode(intervals)
    values = {}
    if of_source:
        rows = X if source is None else source
        values.update(_values(of_source, _array_place(rows, y, kind, units), mode, strict=True))
    of_features = [m for m in chosen if m.requires != "source"]
    if of_features:
        values.update(_values(of_features, place, mode, strict=True))
    failed = {label: v["error"] for label, v in values.items() if "error" in v}
    if len(failed) == len(chosen):
        raise InvalidInputError(next(iter(failed.values())))
    for label, reason in failed.items():
        warnings.warn(f"{label} failed: {reason}", TransferMetricsWarning, stacklevel=2)
    base = {
        "model": "features",
        "layer": "features",
        "layer_index": 0,
        "dim": int(np.shape(X)[1]),
        "n": len(place.labels),
        "num_classes": len(np.unique(place.labels)) if place.num_classes else 0,
    }
    return ScoreTable([{**base, **_metric_fields(m), **values[m.label]} for m in chosen])


def _array_place(X: Any, y: Any, kind: str, units: np.ndarray | None) -> Place:
    n = len(X)
    if kind == "classification":
        codes, num_classes = as_labels(y, n)
        labels = codes.numpy()
    else:
        labels, num_classes = as_targets(y, n).cpu().numpy(), 0
    units = np.arange(n) if units is None else units
    return Place(lambda: [X], labels, kind, num_classes, units)


def score_layers(
    store_or_model: Any,
    task: Any = None,
    metrics: Any = DEFAULT_METRICS,
    *,
    layers: Any = "blocks",
    intervals: bool | str = False,
    **options: Any,
) -> ScoreTable:
    """Score every layer of a model, or of features that were extracted before.

    Args:
        store_or_model: a ``FeatureStore``; or a model or its name, with ``task``.
        task: a task or its name; needed with a model.
        metrics: names, patterns, callables or a list of them.
        layers: which layers, as for ``extract``.
        intervals: as for ``score``.
        **options: further options of ``extract``.

    Returns:
        One record per layer and metric; a metric that cannot be computed on a layer leaves its
        reason under ``error``.

    Raises:
        UnknownNameError: no such metric, model, task or layer.
        UnsupportedTaskError: a metric that is not defined for this kind of task.

    Cost: one forward pass where a model is given, then the metrics layer by layer; memory holds
    the features of one layer at a time.

    >>> table = score_layers("zoo:vit-mnist", "sklearn:digits", ["knn"], progress=False)
    >>> table.metrics
    ['knn']
    """
    if isinstance(store_or_model, FeatureStore):
        if task is not None:
            raise InvalidInputError("a store has its task already; pass a model to use another")
        store = store_or_model
    else:
        if task is None:
            raise InvalidInputError("score_layers needs a task with a model, or a FeatureStore")
        store = extract(store_or_model, task, layers=layers, **options)
    chosen = resolve_metrics(metrics, store.kind)
    records = score_store(store, chosen, interval_mode(intervals))
    if metrics is not DEFAULT_METRICS:
        warn_of_widths(chosen, records)
    return ScoreTable(combined(records, asked_combinations(metrics, store.kind)))


def score_store(
    store: FeatureStore,
    metrics: Sequence[Metric],
    mode: str | None = None,
    units: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Records of every layer of a store under every metric; reasons in place of failed scores.

    ``units`` numbers the examples, (N,), where the store holds a part of a split: the blocks of
    intervals go by them.
    """
    base = {
        "model": store.model,
        "revision": store.manifest.get("revision") or None,
        "task": store.task,
        "split": store.split,
        "pool": store.manifest["pool"],
        "n": len(store),
        "num_classes": store.num_classes,
        "extract_seconds": store.seconds,
    }
    units = np.arange(len(store)) if units is None else units
    whole = Place(list, store.labels, store.kind, store.num_classes, units)
    records = []
    by_layer = [m for m in metrics if m.requires != "source"]
    for layer in store.layers if by_layer else ():
        place = dataclasses.replace(
            whole,
            batches=functools.partial(_features, store, layer.name),
            rows=functools.partial(store.rows, layer.name),
        )
        fields = {
            "layer": layer.name,
            "layer_index": layer.index,
            "depth": layer.depth,
            "dim": layer.dim,
        }
        values = _values(by_layer, place, mode)
        records += [{**base, **fields, **_metric_fields(m), **values[m.label]} for m in by_layer]
    of_source = [m for m in metrics if m.requires == "source"]
    if of_source:
        fields = {
            "layer": store.manifest.get("head"),
            "layer_index": len(store.layers),
            "depth": 1.0,
        }
        logits = store.source_logits
        if logits is None:
            reason = "the model has no source head; LEEP, NCE and their kin need one"
            values = {m.label: {"error": reason} for m in of_source}
        else:
            fields["dim"] = logits.shape[1]
            probabilities = softmax(logits.astype(np.float64), axis=1)
            values = _values(
                of_source, dataclasses.replace(whole, batches=lambda: [probabilities]), mode
            )
        records += [{**base, **fields, **_metric_fields(m), **values[m.label]} for m in of_source]
    return records


def _features(store: FeatureStore, layer: str) -> Iterator[np.ndarray]:
    return (x for x, _ in store.batches(layer))


def _values(
    metrics: Sequence[Metric], place: Place, mode: str | None, *, strict: bool = False
) -> dict[str, dict[str, Any]]:
    """Value, error bars and time of each metric at a place, by label; or why it failed.

    With ``strict`` features that no statistic accepts raise.
    """
    found: dict[str, dict[str, Any]] = {}
    binned = [m for m in metrics if m.bins and place.kind == "regression"]
    for group, where in (
        ([m for m in metrics if m not in binned], lambda: place),
        (binned, place.binned),
    ):
        if not group:
            continue
        try:
            built = build(where(), group, BLOCKS if mode else 0)
        except TransferMetricsError as error:
            if strict:
                raise
            found.update((m.label, {"error": str(error)}) for m in group)
            continue
        for metric in group:
            try:
                found[metric.label] = _value(metric, built, mode)
            except (TransferMetricsError, ArithmeticError, RuntimeError) as error:
                found[metric.label] = {"error": str(error)}
        for family, blocks in built.blocks.items():
            scored = [m for m in group if m.requires == family and "error" not in found[m.label]]
            _add_errors(found, scored, built.of[family], blocks, mode)
    return found


def _value(metric: Metric, built: Built, mode: str | None) -> dict[str, Any]:
    started = time.perf_counter()
    value = metric(built.of[metric.requires])
    return {
        "value": float(value),
        "stderr": None if np.isnan(value.stderr) else float(value.stderr),
        "intervals": mode,
        "seconds": time.perf_counter() - started + built.seconds[metric.requires],
    }


def _add_errors(
    found: dict[str, dict[str, Any]],
    metrics: Sequence[Metric],
    whole: Any,
    blocks: Sequence[Any],
    mode: str | None,
) -> None:
    """Add what the blocks say of the errors of scores, and the time that it took."""
    if mode is None or not metrics:
        return
    started = time.perf_counter()
    spread = deviations(metrics, whole, blocks, mode)
    seconds = (time.perf_counter() - started) / len(metrics)
    for metric in metrics:
        found[metric.label]["seconds"] += seconds
        if metric.label in spread:
            numbers = spread[metric.label]
            found[metric.label].update(stderr=float(np.linalg.norm(numbers)), deviations=numbers)


def _metric_fields(metric: Metric) -> dict[str, Any]:
    options = ",".join(f"{k}={v}" for k, v in sorted(metric.options.items()))
    return {
        "metric": metric.name,
        "options": options or None,
        "higher_is_better": metric.higher_is_better,
        "version": transfer_metrics.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
