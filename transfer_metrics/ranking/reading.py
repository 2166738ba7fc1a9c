"""Features of a model of a ranking: from the cache, mended where it is damaged, or computed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transfer_metrics.errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    TransferMetricsWarning,
)
from transfer_metrics.features.averaged import MeanStore
from transfer_metrics.features.extract import extract
from transfer_metrics.features.joined import JoinedStore
from transfer_metrics.features.shards import discard_damaged
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Task

if TYPE_CHECKING:
    from transfer_metrics.ranking.job import Job


@contextmanager
def reading(job: Job, model: Model, only: Sequence[str] | None = None) -> Iterator[FeatureStore]:
    """Features of all examples that the job looks at, of some layers only where it says which.

    Those in the cache stay there until the block ends, whatever other runs on it do.
    """
    tasks = [job.task] if job.subset is None else job.subset.increments
    with ExitStack() as stack:
        stores = []
        for task, key in zip(tasks, job.feature_keys(model), strict=True):
            folder = None if job.policy == "never" else stack.enter_context(job.cache.using(key))
            stores.append(_extracted(job, model, task, folder))
        store = stores[0] if job.subset is None else JoinedStore(stores, None if job.mean else only)
        yield MeanStore(store) if job.mean else store


def _extracted(job: Job, model: Model, task: Task, folder: Path | None) -> FeatureStore:
    """Features of a model on a task; what is there is kept, and what is damaged computed anew."""
    for everything in (False, True):
        try:
            return _extract(job, model, task, folder)
        except (CorruptStoreError, IncompatibleStoreError) as error:
            if folder is None:
                raise
            told = str(error).partition(";")[0]  # without its advice to delete by hand
            warnings.warn(
                f"features in the cache cannot be used ({told}); what is damaged is computed anew",
                TransferMetricsWarning,
                stacklevel=2,
            )
            discard_damaged(folder, everything or isinstance(error, IncompatibleStoreError))
    return _extract(job, model, task, folder)


def _extract(job: Job, model: Model, task: Task, folder: Path | None) -> FeatureStore:
    return extract(
        model, task, job.layers, job.pool, folder, split=job.split, dtype=job.dtype, amp=job.amp,
        **job.options,
    )  # fmt: skip
