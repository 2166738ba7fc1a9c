"""Which pretrained model to transfer, and from which layers, before training anything.

Public names are resolved on first use, so that importing the package or asking the command line
for help does not load torch.
"""

from __future__ import annotations

import importlib
from typing import Any

from transfer_metrics.metrics import NAMES

__version__ = "0.1.0"

_GROUPS: dict[str, dict[str, str]] = {
    "Rank and score": {
        "rank_models": "ranking",
        "score": "ranking",
        "score_layers": "ranking",
        "ScoreTable": "ranking",
        "static_scores": "results.agreement",
        "ErrorModel": "results.error_model",
    },
    "From a ranking to a network in use": {
        "transfer": "heads.transfer",
        "Decision": "heads.decision",
        "load_head": "heads.base",
        "write_report": "report.html",
    },
    "Models and tasks": {
        "load_model": "sources.models.load_model",
        "list_models": "sources.models.load_model",
        "Model": "sources.models.model",
        "ImagePreprocess": "sources.preprocess",
        "load_task": "sources.tasks.load_task",
        "list_tasks": "sources.tasks.load_task",
        "Task": "sources.tasks.task",
        "Split": "sources.tasks.task",
        "subsample": "sources.tasks.subtasks",
        "folds": "sources.tasks.subtasks",
        "vtab_1k": "sources.tasks.subtasks",
        "corrupted": "sources.tasks.corruptions",
    },
    "Features": {
        "extract": "features.extract",
        "FeatureStore": "features.store",
        "list_layers": "features.layers",
        "Layer": "features.layers",
    },
    "Select layers and features": {
        "LayerSelector": "selection.layer_selector",
        "GroupLassoSelector": "selection.group_lasso",
        "FeatureMapSelector": "selection.feature_maps",
        "few_shot": "selection.episodes",
    },
    "Heads, and what they reach": {
        "compare": "heads.compare",
        "Comparison": "results.comparison",
        "LinearProbe": "heads.linear",
        "Head2Toe": "heads.head2toe",
        "Head2ToeCV": "heads.head2toe",
        "FineTune": "heads.finetune",
        "LPFT": "heads.presets",
        "H2TFT": "heads.presets",
        "TransferNet": "heads.network",
    },
    "Metrics": {
        **{name: f"metrics.{file}" for file, names in NAMES.items() for name in names},
        "transrate_from_spectrum": "metrics.transrate",
        "list_metrics": "metrics.base",
        "get_metric": "metrics.base",
        "register_metric": "metrics.base",
    },
    "What metrics are made of": {
        "ClassMoments": "statistics",
        "TargetMoments": "statistics",
        "FeatureSample": "statistics",
        "SourceJoint": "statistics",
        "quantile_bins": "statistics.inputs",
    },
    "Metrics against accuracies": {
        "compare_metrics": "results.agreement_tasks",
        "agreement_by_task": "results.agreement_tasks",
        "list_benchmarks": "evidence.published",
        "load_benchmark": "evidence.published",
    },
    "Errors": dict.fromkeys(
        (
            "TransferMetricsError",
            "InvalidInputError",
            "UnknownNameError",
            "LayerNotFoundError",
            "UnsupportedTaskError",
            "ExtractionError",
            "CorruptStoreError",
            "IncompatibleStoreError",
            "MissingDependencyError",
            "EngineError",
            "StorageError",
            "TransferMetricsWarning",
            "WrittenStatisticError",
        ),
        "errors",
    ),
}
"""Modules of the public names, by what one does with them."""
_WHERE = {
    name: f"{__name__}.{module}" for group in _GROUPS.values() for name, module in group.items()
}

__all__ = [*_WHERE, "__version__"]
__doc__ += "".join(
    f"\n**{title}:** {', '.join(f'`{name}`' for name in group)}\n"
    for title, group in _GROUPS.items()
)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
