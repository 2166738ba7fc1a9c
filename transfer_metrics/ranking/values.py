"""Values of many metrics at one place, with error bars, times, and reasons for failures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

import transfer_metrics
from transfer_metrics.errors import CorruptStoreError, TransferMetricsError
from transfer_metrics.metrics.base import Metric
from transfer_metrics.ranking.build import Built, Place, build
from transfer_metrics.ranking.pieces import Group, groups_of
from transfer_metrics.results.error_bars import BLOCKS, deviations


def values_at(
    metrics: Sequence[Metric], place: Place, mode: str | None, *, strict: bool = False
) -> dict[str, dict[str, Any]]:
    """Value, error bars and time of each metric at a place, by label; or why it failed.

    With ``strict`` features that no statistic accepts raise.
    """
    found: dict[str, dict[str, Any]] = {}
    blocks = BLOCKS if mode else 0
    for group in groups_of(metrics, place.labels, place.kind, place.num_classes, blocks):
        where = dataclasses.replace(
            place,
            labels=group.labels,
            kind=group.needs.kind,
            num_classes=group.needs.num_classes,
        )
        try:
            found |= values_of(group, lambda: build(where, group.metrics, blocks), mode)  # noqa: B023
        except TransferMetricsError as error:
            if strict:
                raise
            found |= failed(group.metrics, str(error))
    return found


def values_of(
    group: Group, build: Callable[[], Built], mode: str | None
) -> dict[str, dict[str, Any]]:
    """The same for metrics that read the same labels, from how their statistics are built.

    Raises:
        TransferMetricsError: they cannot be built.
    """
    if group.error is not None:
        return failed(group.metrics, group.error)
    built, found = build(), {}
    for metric in group.metrics:
        try:
            found[metric.label] = _value(metric, built, mode)
        except CorruptStoreError:
            raise  # it says nothing of the metric, and is mended by building statistics anew
        except (TransferMetricsError, ArithmeticError, RuntimeError) as error:
            found[metric.label] = {"error": str(error)}
    for family, blocks in built.blocks.items():
        scored = [
            m for m in group.metrics if m.requires == family and "error" not in found[m.label]
        ]
        _add_errors(found, scored, built.of[family], blocks, mode)
    return found


def failed(metrics: Sequence[Metric], reason: str) -> dict[str, dict[str, Any]]:
    """The same reason for all of some metrics."""
    return {m.label: {"error": reason} for m in metrics}


def records_of(
    base: Mapping[str, Any], metrics: Sequence[Metric], values: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One record for each metric."""
    return [{**base, **_metric_fields(m), **values[m.label]} for m in metrics]


def _value(metric: Metric, built: Built, mode: str | None) -> dict[str, Any]:
    started = time.perf_counter()
    value = metric(built.of[metric.requires])
    return {
        "value": float(value),
        "stderr": None if np.isnan(value.stderr) else float(value.stderr),
        "intervals": mode,
        "statistics_seconds": built.seconds[metric.requires],
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
