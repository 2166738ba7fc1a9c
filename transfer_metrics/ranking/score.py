"""Scoring features: one pass builds what all the asked metrics need."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy.special import softmax

import transfer_metrics
from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.features.extract import extract
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import (
    METRICS,
    Metric,
    build_statistic,
    check_task,
    get_metric,
    task_kind,
)
from transfer_metrics.ranking.table import ScoreTable
from transfer_metrics.syntax import split_list

# The first one ranks. The README says why it is this one and not TransRate.
DEFAULT_METRICS = ("logme", "transrate", "h_score", "knn")


def resolve_metrics(metrics: Any, kind: str, *, skip: str = "") -> list[Metric]:
    """Metrics from names, patterns, callables or a list of them; ``"*"`` is all that apply.

    Patterns leave out metrics that require the statistic ``skip``.

    Raises:
        UnknownNameError: no such metric.
        UnsupportedTaskError: a metric named on its own is not defined for this kind of task.
        InvalidInputError: the list is empty.
    """
    specs = split_list(metrics) if isinstance(metrics, str) else metrics
    if not isinstance(specs, Iterable):
        specs = [specs]
    found: dict[str, Metric] = {}
    for spec in specs:
        if isinstance(spec, str) and "(" not in spec and any(c in spec for c in "*?["):
            matches = [METRICS[name] for name in METRICS.match(spec)]
            chosen = [m for m in matches if kind in m.tasks and m.requires != skip]
        else:
            chosen = [get_metric(spec)]
            check_task(chosen[0], kind)
        found.update((metric.label, metric) for metric in chosen)
    if not found:
        raise InvalidInputError(f"no metric was asked for that is defined for {kind}")
    return list(found.values())


def score(X: Any, y: Any, metrics: Any = DEFAULT_METRICS, *, kind: str | None = None) -> ScoreTable:
    """Score one set of features under several metrics, from one pass over the data.

    Args:
        X: features, (N, D), array or tensor. For metrics of the source head (LEEP, NCE) these are
            the source probabilities, (N, Z), so those are not mixed with others here.
        y: labels (N,), or floating point targets (N,) or (N, K), which mean regression.
        metrics: names, patterns, callables or a list of them.
        kind: ``"classification"`` or ``"regression"`` where the type of ``y`` does not tell.

    Returns:
        A table with one record per metric.

    Raises:
        UnknownNameError: no such metric.
        UnsupportedTaskError: a metric that is not defined for this kind of task.
        InvalidInputError: shapes that do not match, NaN or infinite features, one class only.

    Cost: that of the most expensive metric's statistic, once, plus each metric's own.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> score(X, y, metrics=["transrate", "logme"]).wide().round(4)
    metric               transrate   logme
    model    layer
    features features       0.5894 -0.1601
    """
    kind = kind or task_kind(y)
    if kind == "classification" and task_kind(y) == "regression":
        y = np.asarray(y).astype(np.int64)
    chosen = resolve_metrics(metrics, kind, skip="source")
    of_source = [m.label for m in chosen if m.requires == "source"]
    if of_source and len(of_source) < len(chosen):
        raise InvalidInputError(
            f"{', '.join(of_source)} read source probabilities and the other metrics features; "
            f"score them in two calls"
        )
    statistics, seconds = _build(chosen, kind, [(X, y)], None)
    records = []
    for metric in chosen:
        started = time.perf_counter()
        value = metric(statistics[metric.requires])
        spent = time.perf_counter() - started + seconds[metric.requires]
        records.append(
            {
                **_metric_fields(metric),
                "model": "features",
                "layer": "features",
                "layer_index": 0,
                "dim": int(np.shape(X)[1]),
                "value": float(value),
                "stderr": _number(value.stderr),
                "n": len(y),
                "num_classes": 0 if kind == "regression" else len(np.unique(np.asarray(y))),
                "seconds": spent,
            }
        )
    return ScoreTable(records)


def score_layers(
    store_or_model: Any,
    task: Any = None,
    metrics: Any = DEFAULT_METRICS,
    *,
    layers: Any = "blocks",
    **options: Any,
) -> ScoreTable:
    """Score every layer of a model, or of features that were extracted before.

    Args:
        store_or_model: a ``FeatureStore``; or a model or its name, with ``task``.
        task: a task or its name; needed with a model.
        metrics: names, patterns, callables or a list of them.
        layers: which layers, as for ``extract``.
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
    return ScoreTable(score_store(store, resolve_metrics(metrics, store.kind)))


def score_store(store: FeatureStore, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """Records of every layer of a store under every metric; reasons in place of failed scores."""
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
    records = []
    by_layer = [m for m in metrics if m.requires != "source"]
    for layer in store.layers if by_layer else ():
        place = {
            "layer": layer.name,
            "layer_index": layer.index,
            "depth": layer.depth,
            "dim": layer.dim,
        }
        records += _score_place(
            by_layer, store.kind, store.batches(layer.name), store.num_classes, {**base, **place}
        )
    of_source = [m for m in metrics if m.requires == "source"]
    if of_source:
        head = store.manifest.get("head")
        place = {"layer": head, "layer_index": len(store.layers), "depth": 1.0}
        logits = store.source_logits
        if logits is None:
            reason = "the model has no source head; LEEP and NCE need one"
            records += [{**base, **_metric_fields(m), "error": reason} for m in of_source]
        else:
            place["dim"] = logits.shape[1]
            records += _score_place(
                of_source,
                store.kind,
                [(softmax(logits.astype(np.float64), axis=1), store.labels)],
                store.num_classes,
                {**base, **place},
            )
    return records


def _score_place(
    metrics: Sequence[Metric],
    kind: str,
    batches: Iterable[tuple[Any, Any]],
    num_classes: int,
    fields: dict[str, Any],
) -> list[dict[str, Any]]:
    fields = {**fields}
    try:
        statistics, seconds = _build(metrics, kind, batches, num_classes)
    except TransferMetricsError as error:
        return [{**fields, **_metric_fields(m), "error": str(error)} for m in metrics]
    records = []
    for metric in metrics:
        record = {**fields, **_metric_fields(metric)}
        started = time.perf_counter()
        try:
            value = metric(statistics[metric.requires])
            record.update(value=float(value), stderr=_number(value.stderr))
        except (TransferMetricsError, ArithmeticError, RuntimeError) as error:
            record["error"] = str(error)
        record["seconds"] = time.perf_counter() - started + seconds[metric.requires]
        records.append(record)
    return records


def _build(
    metrics: Sequence[Metric],
    kind: str,
    batches: Iterable[tuple[Any, Any]],
    num_classes: int | None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """The statistics that the metrics need, from one pass, and the time each metric owes for it."""
    families = {m.requires for m in metrics}
    parts = frozenset().union(*(m.parts for m in metrics))
    built: dict[str, list[Any]] = {family: [] for family in families}
    spent = dict.fromkeys(families, 0.0)
    for x, y in batches:
        for family in families:
            started = time.perf_counter()
            statistic = build_statistic(family, parts, kind, x, y, num_classes)
            built[family] = [functools.reduce(operator.add, [*built[family], statistic])]
            spent[family] += time.perf_counter() - started
    shares = {f: spent[f] / sum(m.requires == f for m in metrics) for f in families}
    return {family: merged[0] for family, merged in built.items()}, shares


def _metric_fields(metric: Metric) -> dict[str, Any]:
    options = ",".join(f"{k}={v}" for k, v in sorted(metric.options.items()))
    return {
        "metric": metric.name,
        "options": options or None,
        "higher_is_better": metric.higher_is_better,
        "version": transfer_metrics.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
