"""From statistics to records: values of metrics, their errors and times, or why there are none."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import numpy as np

from transfer_metrics.errors import (
    CorruptStoreError,
    TransferMetricsError,
    WrittenStatisticError,
)
from transfer_metrics.features.layers import MEAN, Layer, hidden_layers
from transfer_metrics.features.shards import LOGITS
from transfer_metrics.features.store import Batch, FeatureStore, mean_of
from transfer_metrics.metrics.base import Estimate, Metric
from transfer_metrics.naming import short_id
from transfer_metrics.progress import check_time
from transfer_metrics.results.error_bars import MODES, blocks_for, deviations, shared_deviations
from transfer_metrics.results.record import BINOMIAL, Record
from transfer_metrics.statistics import ClassMoments, ClassRows, FeatureSample
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.statistics import FLOAT, Labels, Needs, Statistics
from transfer_metrics.threads import threads_to_score

_NO_ERRORS: Mapping[str, str] = MappingProxyType({})
_CLASS_BYTES = 1 << 30
"""Scatter of the classes that takes more is computed class by class where rows can be read."""
_NO_HEAD = "the model has no source head; LEEP, NCE and their kin need one"
ClassScatter = Callable[[ClassMoments], Sequence[Scatter]]
Read = Callable[[str, Sequence[Needs]], tuple[Statistics, ClassScatter | None]]
"""Statistics of a layer by its name, and the scatter of its classes where that is kept apart."""


def records_of(
    bases: Mapping[str, Record],
    metrics: Sequence[Metric],
    labels: Labels,
    read: Read,
    modes: Mapping[str, str] = _NO_ERRORS,
) -> list[Record]:
    """Records of layers, and of the source head, under every metric that reads them.

    ``bases`` are what the records of each layer say of it; ``LOGITS`` is the head. ``labels`` are
    of all examples, and ``modes`` say how errors are found, by label of the metrics that are to
    have one.

    Cost: that of the metrics; memory that of the statistics of one layer.
    """
    records = []
    for name, base in bases.items():
        check_time()
        chosen = _readers_of(name, metrics)
        if name == LOGITS and base.dim is None:
            records += [replace(r, error=_NO_HEAD) for r in unscored(base, chosen)]
        elif chosen:
            needs = needs_of(name, metrics, labels, modes)
            with threads_to_score(len(labels), base.dim or 0, chosen[0].requires):
                found = read(name, needs) if needs else (Statistics((), (), (), ()), None)
                records += _scored(base, chosen, labels, modes, *found)
    return records


def _readers_of(name: str, metrics: Iterable[Metric]) -> list[Metric]:
    """The metrics that read a layer, or the head."""
    return [m for m in metrics if (m.requires == "source") == (name == LOGITS)]


def needs_of(
    name: str, metrics: Iterable[Metric], labels: Labels, modes: Mapping[str, str]
) -> list[Needs]:
    """What the metrics need of a layer, or of the head, to be scored with errors."""
    readers = _readers_of(name, metrics)
    return labels.needs_of(readers, blocks_for(readers, modes))


def bases_of(
    store: FeatureStore, mean: bool = False, n: int | None = None, seconds: float | None = None
) -> dict[str, Record]:
    """What records of each layer of a store say of it, and of the head, before any metric.

    ``n`` and ``seconds`` are those of all that is scored as one, where that is not the store.
    """
    manifest = store.manifest
    base = Record(
        model=store.model,
        model_id=short_id(manifest.get("model_fingerprint", "")),
        revision=manifest.get("revision") or None,
        task=store.task,
        task_id=short_id(manifest.get("task_fingerprint", "")),
        split=store.split,
        pool=manifest["pool"],
        n=len(store) if n is None else n,
        num_classes=store.num_classes,
        extract_seconds=store.seconds if seconds is None else seconds,
        note="; ".join(manifest.get("notes") or ()) or None,
    )
    layers = _layers_read(store.layers, mean)
    found = {
        layer.name: replace(
            base, layer=layer.name, layer_index=layer.index, depth=layer.depth, dim=layer.dim
        )
        for layer in layers
    }
    dim = manifest["logits"]["dim"] if manifest["logits"] else None
    found[LOGITS] = replace(
        base, layer=manifest.get("head"), layer_index=len(layers), depth=1.0, dim=dim
    )
    return found


def _layers_read(layers: Sequence[Layer], mean: bool) -> list[Layer]:
    """The layers that are scored: those that there are, or the mean of the hidden ones."""
    if not mean:
        return list(layers)
    return [replace(hidden_layers(layers)[-1], name=MEAN, index=0, depth=1.0)]


def read_stores(stores: Sequence[FeatureStore], labels: Labels, mean: bool = False) -> Read:
    """What reads layers of stores of one model, on parts of one split, one after the other.

    ``labels`` are of all examples in that order, and ``mean`` gives the mean of the hidden layers.
    Features of one layer and shard are held at a time, and its statistics.
    """
    layers = stores[0].layers
    averaged = [layer.name for layer in hidden_layers(layers)] if mean else []
    dims = {layer.name: layer.dim for layer in _layers_read(layers, mean)}
    bounds = np.cumsum([0, *map(len, stores)])

    def rows(name: str, positions: np.ndarray) -> np.ndarray:
        owner = np.searchsorted(bounds, positions, side="right") - 1
        found: np.ndarray | None = None
        for i in np.unique(owner):
            within = positions[owner == i] - bounds[i]
            parts = [stores[i].rows(one, within) for one in averaged or [name]]
            new = mean_of(parts) if mean else parts[0]
            if found is None:
                found = np.empty((len(positions), new.shape[1]), new.dtype)
            found[owner == i] = new
        assert found is not None
        return found

    def read(name: str, needs: Sequence[Needs]) -> tuple[Statistics, ClassScatter | None]:
        of_layer = functools.partial(rows, name)
        kept, scatter = late_classes(needs, labels, dims.get(name, 0), of_layer)
        total: Statistics | None = None
        for store, (start, stop) in zip(stores, itertools.pairwise(bounds), strict=True):
            batches = (Batch(shard, averaged) for shard in store.shards())
            new = Statistics.of_batches(batches, {name: kept}, labels[start:stop])[name]
            total = new if total is None else total + new
        assert total is not None
        return total, scatter

    return read


def late_classes(
    needs: Sequence[Needs], labels: Labels, dim: int, rows: Callable[[np.ndarray], Any]
) -> tuple[Sequence[Needs], ClassScatter | None]:
    """What is built of D features, and the scatter of classes from ``rows`` where that is large.

    ``rows`` reads features at some positions.
    """
    wanted = [need for need in needs if "class" in need.parts and not need.of_bins]
    if labels.kind != "classification" or not wanted or wanted[0].blocks:
        return needs, None
    counts = np.bincount(labels.values, minlength=labels.num_classes)
    if int(np.minimum(counts, dim).sum()) * dim * FLOAT <= _CLASS_BYTES:
        return needs, None
    kept = [need.without_classes() for need in needs]
    return kept, lambda moments: ClassRows(rows, labels.values, moments.means)


def _scored(
    base: Record,
    metrics: Sequence[Metric],
    labels: Labels,
    modes: Mapping[str, str],
    statistics: Statistics,
    class_scatter: ClassScatter | None,
) -> list[Record]:
    """Records of metrics of one layer: values with errors and times, or why there are none."""
    keys = {metric.label: labels.key_of(metric) for metric in metrics}
    smooth = {keys[m.label] for m in metrics if m.derivative and m.label in modes}
    started = time.perf_counter()
    influences = {k: i for k in smooth if (i := statistics.influence(k)) is not None}
    merged = (time.perf_counter() - started) / max(len(influences), 1)
    whole = statistics.whole(class_scatter, influences)
    shares = {key: sum(k == key for k in keys.values()) for key in whole}
    found: dict[str, Record] = {}
    spoiled = ""
    # Metrics of others come last, so that what one of them writes spoils none of ours.
    pairs = zip(metrics, unscored(base, metrics), strict=True)
    for metric, record in sorted(pairs, key=lambda pair: pair[0].is_foreign):
        key = keys[metric.label]
        if key in whole and not spoiled:
            statistic, built = whole[key]
            built += merged if key in influences else 0.0
            score, mode = functools.partial(metric, statistic), modes.get(metric.label)
            places = _places(statistic, labels) if mode == MODES[0] else None
            try:
                record = valued(record, score, built / shares[key], mode, places)
            except WrittenStatisticError as error:
                spoiled = str(error)
        if spoiled or key not in whole:
            unbinned = labels.unbinned if labels.reads_bins(metric) else ""
            record = replace(record, error=spoiled or unbinned or statistics.reason(key))
        found[metric.label] = record
    certain = [] if spoiled else [m for m in metrics if m.label in modes]
    certain = [m for m in certain if not found[m.label].error]
    for key in whole:
        scored = [m for m in certain if keys[m.label] == key]
        if not scored:
            continue
        started = time.perf_counter()
        # Asked for together, so found in one way.
        blocks, mode = statistics.blocks(key), modes[certain[0].label]
        spread = deviations(scored, whole[key][0], blocks, mode, influences.get(key))
        seconds = (time.perf_counter() - started) / len(scored)
        for label in (m.label for m in scored):
            record = found[label]
            record = replace(record, seconds=(record.seconds or 0.0) + seconds)
            if numbers := spread.get(label):
                record = replace(record, stderr=float(np.linalg.norm(numbers)), deviations=numbers)
            found[label] = record
    return [found[metric.label] for metric in metrics]


def _places(statistic: Any, labels: Labels) -> np.ndarray | None:
    """Places of the rows of a sample, from which blocks are dealt; none where it left some out."""
    if not isinstance(statistic, FeatureSample) or not statistic.num_classes:
        return None
    return labels.places if np.array_equal(statistic.y.cpu(), labels.values) else None


def unscored(base: Record, metrics: Iterable[Metric]) -> list[Record]:
    """Records that say of which metric they are, without a value."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        replace(
            base,
            metric=metric.name,
            options=",".join(f"{k}={v}" for k, v in sorted(metric.options.items())) or None,
            higher_is_better=metric.higher_is_better,
            relative=metric.relative or None,
            version=metric.version,
            created=created,
        )
        for metric in metrics
    ]


def valued(
    record: Record,
    score: Callable[[], Estimate],
    built: float = 0.0,
    mode: str | None = None,
    places: np.ndarray | None = None,
) -> Record:
    """A record with the value of a score and its time, or why there is none.

    ``built`` is the time that its statistics took, ``mode`` says how its error is found, and by
    their ``places`` examples are dealt into blocks, where the score is a mean over them.
    """
    started = time.perf_counter()
    try:
        value = score()
    except (CorruptStoreError, WrittenStatisticError):
        raise  # statistics have to be built anew, or are of no use to other metrics
    except (TransferMetricsError, ArithmeticError, RuntimeError) as error:
        return replace(record, error=str(error))
    own = [] if places is None else shared_deviations(value, places)
    return replace(
        record,
        value=float(value),
        stderr=None if np.isnan(value.stderr) else float(value.stderr),
        deviations=own or None,
        intervals=BINOMIAL if own else mode,
        statistics_seconds=built,
        seconds=time.perf_counter() - started + built,
    )


def with_methods(records: Iterable[Record]) -> list[Record]:
    """Records that say how their errors were found, not how they were asked for.

    A metric that has no errors says nothing, and one that knows its own, of a share, ``binomial``.
    """
    return [
        r
        if r.intervals is None or r.deviations
        else replace(r, intervals=None if r.stderr is None else BINOMIAL)
        for r in records
    ]
