"""Where models and tasks come from, by the word before the colon."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from transfer_metrics.registry import Registry

if TYPE_CHECKING:
    from transfer_metrics.sources.models.model import Model
    from transfer_metrics.sources.specs import ModelSpec
    from transfer_metrics.sources.tasks.task import Task

HUBS: Registry[Callable[[ModelSpec], Model]] = Registry(
    "hub",
    {
        "hf": "transfer_metrics.sources.models.huggingface:from_huggingface",
        "timm": "transfer_metrics.sources.models.hubs:from_timm",
        "torchvision": "transfer_metrics.sources.models.hubs:from_torchvision",
        "zoo": "transfer_metrics.sources.models.hubs:from_zoo",
    },
    group="transfer_metrics.hubs",
)
"""Functions from the parts of a specification to a model."""

TASK_SOURCES: Registry[Callable[..., Task]] = Registry(
    "task source",
    {
        "csv": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "hf": "transfer_metrics.sources.tasks.hub_tasks:from_hub",
        "imagefolder": "transfer_metrics.sources.tasks.image_folders:from_imagefolder",
        "jsonl": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "npz": "transfer_metrics.sources.tasks.array_files:from_npz",
        "parquet": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "sklearn": "transfer_metrics.sources.tasks.library_tasks:from_sklearn",
        "tar": "transfer_metrics.sources.tasks.tar_shards:from_tar",
        "torch": "transfer_metrics.sources.tasks.array_files:from_torch",
        "torchvision": "transfer_metrics.sources.tasks.library_tasks:from_torchvision",
        "tsv": "transfer_metrics.sources.tasks.table_tasks:from_table",
        "zoo": "transfer_metrics.sources.tasks.library_tasks:from_zoo",
    },
    group="transfer_metrics.tasks",
)
"""Functions ``(place, name, **options) -> Task``; what stands after ``?`` becomes the options."""
