"""Which pretrained model to transfer, and from which layers, before training anything.

Public names are resolved on first use, so that importing the package or asking the command line
for help does not load torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from transfer_metrics.metrics import NAMES

__version__ = "0.1.0"

_PUBLIC = {
    "transfer_metrics.errors": (
        "CorruptStoreError",
        "EngineError",
        "ExtractionError",
        "IncompatibleStoreError",
        "InvalidInputError",
        "LayerNotFoundError",
        "MissingDependencyError",
        "StorageError",
        "TransferMetricsError",
        "TransferMetricsWarning",
        "UnknownNameError",
        "UnsupportedTaskError",
    ),
    "transfer_metrics.evidence.published": ("list_benchmarks", "load_benchmark"),
    "transfer_metrics.features.extract": ("extract",),
    "transfer_metrics.features.layers": ("Layer", "list_layers"),
    "transfer_metrics.features.store": ("FeatureStore",),
    "transfer_metrics.heads.base": ("load_head",),
    "transfer_metrics.heads.compare": ("compare",),
    "transfer_metrics.heads.decision": ("Decision",),
    "transfer_metrics.heads.transfer": ("transfer",),
    "transfer_metrics.results.comparison": ("Comparison",),
    "transfer_metrics.results.error_model": ("ErrorModel",),
    "transfer_metrics.heads.finetune": ("FineTune", "H2TFT", "LPFT"),
    "transfer_metrics.heads.head2toe": ("Head2Toe", "Head2ToeCV"),
    "transfer_metrics.heads.linear": ("LinearProbe",),
    "transfer_metrics.heads.network": ("TransferNet",),
    "transfer_metrics.metrics.base": ("get_metric", "list_metrics", "register_metric"),
    "transfer_metrics.results.agreement_tasks": ("agreement_by_task", "compare_metrics"),
    "transfer_metrics.results.static_ranking": ("static_scores",),
    "transfer_metrics.ranking": ("ScoreTable", "rank_models", "score", "score_layers"),
    "transfer_metrics.report.html": ("write_report",),
    "transfer_metrics.selection.episodes": ("few_shot",),
    "transfer_metrics.selection.feature_maps": ("FeatureMapSelector",),
    "transfer_metrics.selection.group_lasso": ("GroupLassoSelector",),
    "transfer_metrics.selection.layer_selector": ("LayerSelector",),
    "transfer_metrics.sources.models.model": ("Model",),
    "transfer_metrics.sources.tasks.task": ("Split", "Task"),
    "transfer_metrics.sources.tasks.corruptions": ("corrupted",),
    "transfer_metrics.sources.tasks.subtasks": ("folds", "subsample", "vtab_1k"),
    "transfer_metrics.sources.models.load_model": ("list_models", "load_model"),
    "transfer_metrics.sources.preprocess": ("ImagePreprocess",),
    "transfer_metrics.sources.tasks.load_task": ("list_tasks", "load_task"),
    "transfer_metrics.statistics": (
        "ClassMoments",
        "FeatureSample",
        "SourceJoint",
        "TargetMoments",
    ),
    "transfer_metrics.statistics.inputs": ("quantile_bins",),
}
_WHERE = {
    **{name: module for module, names in _PUBLIC.items() for name in names},
    **{name: f"transfer_metrics.metrics.{file}" for file, names in NAMES.items() for name in names},
    "transrate_from_spectrum": "transfer_metrics.metrics.transrate",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
