"""Scoring features under many metrics at once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.features.extract import extract
from transfer_metrics.features.pooling import resolve_pool
from transfer_metrics.features.shards import LOGITS
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.naming import short_id
from transfer_metrics.ranking.metric_choice import (
    DEFAULT_METRICS,
    asked_combinations,
    check_metrics,
    combined,
    resolve_metrics,
    warn_of_widths,
)
from transfer_metrics.ranking.scoring import bases_of, read_stores, records_of, with_methods
from transfer_metrics.results.error_bars import interval_modes
from transfer_metrics.results.record import Record
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.sources.models.load_model import check_model
from transfer_metrics.sources.tasks.label_values import (
    as_array,
    as_numbers,
    check_container,
)
from transfer_metrics.sources.tasks.labels import IGNORED, read_labels
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.pairing import check_pairs, column_doubts, column_names
from transfer_metrics.sources.tasks.suspicions import alike
from transfer_metrics.statistics.inputs import as_tokens, dominating
from transfer_metrics.statistics.statistics import Labels, Needs, Statistics

_IDENTIFYING = 1 << 15
"""Most numbers of features, in whole rows, that tell these from others."""


def score(
    X: Any,
    y: Any,
    metrics: Any = DEFAULT_METRICS,
    *,
    source: Any = None,
    kind: str | None = None,
    intervals: bool | str = False,
    ignore_index: int | None = None,
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
        intervals: True adds standard errors to all these metrics, by a jackknife over twenty
            blocks of examples, linear where they have a derivative, where their statistics are
            additive; ``"bootstrap"`` by half-samples
            for the others too.
        ignore_index: examples with this label are left out; None leaves out tokens with the label
            -100, and refuses other examples without one.

    Returns:
        A table with one record per metric.

    Raises:
        UnknownNameError: no such metric.
        UnsupportedTaskError: a metric that is not defined for this kind of task.
        InvalidInputError: shapes that do not match, NaN or infinite features, one class only, or
            metrics of the source head beside others without ``source``.

    Warns:
        TransferMetricsWarning: some of several metrics failed; their records say why.

    Cost: that of the statistics, once, plus each metric's own; intervals cost one to two
    more scores of a metric with a derivative, up to eight of one of the source head, and twenty of
    another.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> score(X, y, metrics=["transrate", "logme"]).wide().round(4)
    metric               transrate   logme
    model    layer
    features features       0.5894 -0.1601
    """
    check_metrics(metrics)
    if X is None:
        raise InvalidInputError("X is None; give features, or source probabilities in their place")
    check_pairs(X, y)
    check_pairs(source, y, ("source", "y"))
    columns, units = column_names(X), None
    X = X.resolve_neg() if isinstance(X, torch.Tensor) else as_numbers(X, "X")
    check_container(X, "X")
    if X.ndim == 3:
        X, y, units = as_tokens(X, y, IGNORED if ignore_index is None else ignore_index)
    elif ignore_index is not None:
        X, y, source = _without(ignore_index, X, y, source)
    if hasattr(y, "__len__") and not len(y):
        raise InvalidInputError("there are no examples: X and y have no rows; give some")
    given = as_array(y)
    kind, y = read_labels(given, kind)
    chosen = resolve_metrics(metrics, kind, skip="" if source is not None else "source")
    asked = asked_combinations(metrics, kind)
    if asked:
        raise InvalidInputError(
            f"{asked[0].name} compares candidates and has no value for a single one; use "
            f"rank_models or score_layers, or its terms {', '.join(asked[0].terms)}"
        )
    labels = Labels.read(y, kind, len(X), units, chosen)
    named = kind == "classification" and given.dtype == object
    names = sorted({*map(str, given.ravel().tolist())}) if named else []
    of_source = [m for m in chosen if m.requires == "source"]
    doubts = [*column_doubts(X, labels.values, kind == "classification", columns), *alike(names)]
    for doubt in doubts + (dominating(X) if len(of_source) < len(chosen) else []):
        warn(doubt)
    if of_source and source is None and len(of_source) < len(chosen):
        raise InvalidInputError(
            f"{', '.join(m.label for m in of_source)} read source probabilities and the other "
            f"metrics features; pass the probabilities as source="
        )
    if of_source and source is not None and len(source) != len(labels):
        raise InvalidInputError(
            f"source must hold one row of probabilities per row of X: expected ({len(labels)}, Z), "
            f"got {np.shape(source)}"
        )
    base = Record(
        model="features",
        model_id=_features_id(X, labels.values),
        layer="features",
        layer_index=0,
        dim=np.shape(X)[-1],
        n=len(labels),
        num_classes=len(np.unique(labels.values)) if labels.num_classes else 0,
        task_summary=_summary(kind, labels.values),
    )
    arrays = {"features": X, LOGITS: X if source is None else source}

    def read(name: str, needs: Sequence[Needs]) -> tuple[Statistics, None]:
        found = Statistics.of(needs, arrays[name], labels)
        if reasons := list(filter(None, found.refused)):
            raise InvalidInputError(reasons[0])
        return found, None

    modes = interval_modes(intervals, chosen)
    found = records_of(dict.fromkeys(arrays, base), chosen, labels, read, modes)
    found = with_methods(found)
    bare = [r.label for r in found if r.label in modes and r.stderr is None and not r.error]
    if bare:
        cure = (
            "" if "bootstrap" in modes.values() else "; say intervals='bootstrap' for half-samples"
        )
        warn(f"no standard error by these blocks of {', '.join(bare)}{cure}")
    order = [m.label for m in chosen]
    records = sorted(found, key=lambda record: order.index(record.label))
    failed = [record for record in records if record.error]
    if len(failed) == len(chosen):
        raise InvalidInputError(failed[0].error)
    for record in failed:
        told = f"{record.label} failed: {record.error}"
        warn(told)
    return ScoreTable(records)


def _without(label: int, X: Any, y: Any, source: Any) -> tuple[Any, np.ndarray, Any]:
    """Features, labels and source probabilities of the examples that have another label."""
    y = as_array(y)
    kept = (y != label) if y.ndim == 1 else np.ones(len(y), bool)
    if len(y) != len(X) or (source is not None and len(source) != len(y)):
        return X, y, source  # which is refused
    if not kept.any():
        raise InvalidInputError(f"every example has the ignored label {label}")
    rows = torch.from_numpy(np.flatnonzero(kept))
    X, source = (
        v[rows.to(v.device)] if isinstance(v, torch.Tensor) else np.asarray(v)[kept]
        if v is not None else None
        for v in (X, source)
    )  # fmt: skip
    return X, y[kept], source


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
    most = max(_IDENTIFYING // max(X.shape[-1], 1), 1)
    some = np.sort(np.random.default_rng(0).choice(n, min(n, most), replace=False))
    rows = X[some] if isinstance(X, torch.Tensor) else torch.as_tensor(np.asarray(X)[some])
    rows = rows.detach().double().cpu()
    digest = hashlib.sha256(f"{n}\0{tuple(rows.shape)}\0".encode())
    digest.update(np.ascontiguousarray(labels))
    digest.update(rows.numpy())
    return short_id(digest.hexdigest())


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
        intervals: True adds standard errors to the first metric, ``"all"`` and ``"bootstrap"`` to
            every one, as for ``rank_models``.
        **options: further options of ``extract``.

    Returns:
        One record per layer and metric; a metric that cannot be computed on a layer leaves its
        reason under ``error``. Printed, it has a line per layer, the best first; ``wide`` is in
        their order, and with ``intervals=True`` has these too.

    Raises:
        UnknownNameError: no such metric, model, task or layer.
        UnsupportedTaskError: a metric that is not defined for this kind of task.

    Cost: one forward pass where a model is given, then the metrics layer by layer; memory holds
    the features of one layer at a time.

    >>> table = score_layers("zoo:vit-mnist", "sklearn:digits?examples=100", "knn", progress=False)
    >>> table.metrics
    ['knn']
    """
    check_metrics(metrics)
    if isinstance(store_or_model, FeatureStore):
        if task is not None:
            raise InvalidInputError("a store has its task already; pass a model to use another")
        store = store_or_model
    else:
        if task is None:
            raise InvalidInputError("score_layers needs a task with a model, or a FeatureStore")
        check_model(store_or_model)
        resolve_pool(options.get("pool", "avg"))
        task = load_task(task)
        store = extract(store_or_model, task, layers=layers, **options)
    chosen = resolve_metrics(metrics, store.kind)
    labels = Labels.of(store.labels, store.kind, store.num_classes, None, chosen)
    modes = interval_modes(intervals, chosen, True)
    read = read_stores([store], labels)
    records = records_of(bases_of(store), chosen, labels, read, modes)
    if task is not None:
        records = [replace(record, task_summary=task.summary) for record in records]
    if metrics is not DEFAULT_METRICS:
        warn_of_widths(chosen, records)
    records = combined(with_methods(records), asked_combinations(metrics, store.kind))
    return ScoreTable(records, "all")
