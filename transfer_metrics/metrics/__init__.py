"""Transferability metrics: pure functions of a statistic, one family per file."""

from transfer_metrics.metrics.base import (
    Estimate,
    Metric,
    get_metric,
    list_metrics,
    register_metric,
)
from transfer_metrics.metrics.h_score import h_score
from transfer_metrics.metrics.knn import knn
from transfer_metrics.metrics.logme import logme
from transfer_metrics.metrics.probes import linear_probe, ridge_probe
from transfer_metrics.metrics.source_head import leep, nce
from transfer_metrics.metrics.transrate import transrate, transrate_from_spectrum

__all__ = [
    "Estimate",
    "Metric",
    "get_metric",
    "h_score",
    "knn",
    "leep",
    "linear_probe",
    "list_metrics",
    "logme",
    "nce",
    "register_metric",
    "ridge_probe",
    "transrate",
    "transrate_from_spectrum",
]
