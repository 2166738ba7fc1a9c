"""Scoring features under many metrics at once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.features.extract import extract
from transfer_metrics.features.shards import LOGITS
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import Metric
from transfer_metrics.naming import short_id
from transfer_metrics.ranking.asked import (
    DEFAULT_METRICS,
    asked_combinations,
    resolve_metrics,
    warn_of_widths,
)
from transfer_metrics.ranking.build import Place
from transfer_metrics.ranking.combine import combined
from transfer_metrics.ranking.values import failed, records_of, values_at
from transfer_metrics.results.error_bars import interval_mode
from transfer_metrics.results.table import ScoreTable, with_summary
from transfer_metrics.sources.tasks.label_values import check_container
from transfer_metrics.sources.tasks.labels import read_labels
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.statistics.inputs import as_labels, as_targets, as_tokens

IDENTIFYING = 256
"""Most rows of features that tell them from others."""
NO_HEAD = "the model has no source head; LEEP, NCE and their kin need one"


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
        y: labels (N,) or (N, 1), or (N, T) for tokens; whole numbers, texts and booleans are
            classes, other numbers (N,) or (N, K) targets of a regression, and 0 and 1 as (N, K)
            several labels per example. ``sources.tasks.labels.kind_of`` has the rule.
        metrics: names, patterns, callables or a list of them; ``"*"`` is all that apply.
        source: source probabilities, (N, Z), for the metrics that read the source head.
        kind: ``"classification"``, ``"regression"`` or ``"multilabel"`` instead of that rule.
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
    check_container(X, "X")
    units = None
    if np.ndim(X) == 3:
        X, y, units = as_tokens(X, y, ignore_index)
    kind, y = read_labels(y, kind)
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
        values.update(values_at(of_source, _array_place(rows, y, kind, units), mode, strict=True))
    of_features = [m for m in chosen if m.requires != "source"]
    if of_features:
        values.update(values_at(of_features, place, mode, strict=True))
    failed = {label: v["error"] for label, v in values.items() if "error" in v}
    if len(failed) == len(chosen):
        raise InvalidInputError(next(iter(failed.values())))
    for label, reason in failed.items():
        warnings.warn(f"{label} failed: {reason}", TransferMetricsWarning, stacklevel=2)
    base = {
        "model": "features",
        "model_id": _features_id(X, place.labels),
        "layer": "features",
        "layer_index": 0,
        "dim": int(np.shape(X)[1]),
        "n": len(place.labels),
        "num_classes": len(np.unique(place.labels)) if place.num_classes else 0,
        "task_summary": _summary(kind, place.labels),
    }
    return ScoreTable(records_of(base, chosen, values))


def _summary(kind: str, labels: np.ndarray) -> str:
    """How labels of features were understood, as ``Task.summary`` says it of a task."""
    told = f"{kind} of features, {len(labels)} examples"
    if kind != "classification":
        return f"{told} (targets {labels.min():.4g} to {labels.max():.4g})"
    counts = np.unique(labels, return_counts=True)[1]
    sizes = " to ".join(dict.fromkeys([str(counts.min()), str(counts.max())]))
    return f"{told} ({len(counts)} classes of {sizes})"


def _features_id(X: Any, labels: np.ndarray) -> str:
    """What tells features with their labels from others: the labels, and some of the rows."""
    n = len(labels)
    some = np.sort(np.random.default_rng(0).permutation(n)[:IDENTIFYING])
    rows = X[some] if isinstance(X, torch.Tensor) else torch.as_tensor(np.asarray(X)[some])
    rows = rows.detach().double().cpu()
    digest = hashlib.sha256(f"{n}\0{tuple(rows.shape)}\0".encode())
    digest.update(np.ascontiguousarray(labels).tobytes())
    digest.update(rows.numpy().tobytes())
    return short_id(digest.hexdigest())


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
        task = load_task(task)
        store = extract(store_or_model, task, layers=layers, **options)
    chosen = resolve_metrics(metrics, store.kind)
    records = score_store(store, chosen, interval_mode(intervals))
    if task is not None:
        records = with_summary(records, task)
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
    units = np.arange(len(store)) if units is None else units
    whole = Place(list, store.labels, store.kind, store.num_classes, units)
    records = []
    for slot in slots_of(store, metrics):
        if slot.name != LOGITS:
            place = dataclasses.replace(
                whole,
                batches=functools.partial(_features, store, slot.name),
                rows=functools.partial(store.rows, slot.name),
            )
            values = values_at(slot.metrics, place, mode)
        elif (logits := store.source_logits) is None:
            values = failed(slot.metrics, NO_HEAD)
        else:
            rows = [probabilities(logits)]
            values = values_at(slot.metrics, dataclasses.replace(whole, batches=lambda: rows), mode)  # noqa: B023
        records += records_of(slot.fields, slot.metrics, values)
    return records


@dataclass(frozen=True)
class Slot:
    """What of a network is scored at once: a layer, or the output of its head.

    Attributes:
        name: name of the layer; ``LOGITS`` for the head.
        metrics: those that read it.
        fields: what their records say of it.
    """

    name: str
    metrics: tuple[Metric, ...]
    fields: Mapping[str, Any]


def slots_of(store: FeatureStore, metrics: Sequence[Metric]) -> list[Slot]:
    """The layers of a store that metrics read, and its head where some read that."""
    base = {
        "model": store.model,
        "model_id": short_id(store.manifest.get("model_fingerprint", "")),
        "revision": store.manifest.get("revision") or None,
        "task": store.task,
        "task_id": short_id(store.manifest.get("task_fingerprint", "")),
        "split": store.split,
        "pool": store.manifest["pool"],
        "n": len(store),
        "num_classes": store.num_classes,
        "extract_seconds": store.seconds,
        "note": "; ".join(store.manifest.get("notes") or ()) or None,
    }
    by_layer = tuple(m for m in metrics if m.requires != "source")
    of_source = tuple(m for m in metrics if m.requires == "source")
    slots = [
        Slot(
            layer.name,
            by_layer,
            {
                **base,
                "layer": layer.name,
                "layer_index": layer.index,
                "depth": layer.depth,
                "dim": layer.dim,
            },
        )
        for layer in (store.layers if by_layer else ())
    ]
    if of_source:
        head = {
            **base,
            "layer": store.manifest.get("head"),
            "layer_index": len(store.layers),
            "depth": 1.0,
        }
        if store.manifest["logits"]:
            head["dim"] = store.manifest["logits"]["dim"]
        slots.append(Slot(LOGITS, of_source, head))
    return slots


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Source probabilities (n, Z) of the output of a classifier."""
    return softmax(logits.astype(np.float64), axis=1)


def _features(store: FeatureStore, layer: str) -> Iterator[np.ndarray]:
    return (x for x, _ in store.batches(layer))
