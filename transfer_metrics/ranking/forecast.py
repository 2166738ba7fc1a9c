"""What a ranking would take, before it is run."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.features.extract import extract
from transfer_metrics.features.layers import memory_bytes
from transfer_metrics.features.pooling import resolve_pool
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.job import Job
from transfer_metrics.ranking.memory_budget import worker_memory
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS, check_metrics
from transfer_metrics.ranking.range_statistics import RangeBuilder
from transfer_metrics.sources.models.candidates import Candidate, candidates_of
from transfer_metrics.sources.tasks.load_task import load_task

_TRIED = 32


@dataclass(frozen=True)
class Forecast:
    """What one model would take."""

    model: str
    params: int = 0  # parameters of the network
    layers: int = 0  # how many layers are read
    dims: tuple[int, int] = (0, 0)  # features of the narrowest and of the widest of them
    stored: bool = False  # whether its features are written while it is scored
    # The features of all examples on disk; where they are not written, the most that statistics
    # take in memory.
    bytes: int = 0
    # How often each example is run through the model; more than once where statistics of all layers
    # do not fit into memory together.
    readings: float = 1.0
    seconds: float = float("nan")  # estimate of the forward passes over all examples
    error: str | None = None  # why it would fail; the other fields are then empty


def forecast(
    models: Any,
    task: Any,
    metrics: Any = DEFAULT_METRICS,
    *,
    layers: Any = "best",
    pool: str = "avg",
    split: str = "train",
    intervals: bool | str = False,
    stream: bool = False,
    memory: int | str | None = None,
    workers: int | None = 1,
    dtype: str = "float32",
    progress: bool = True,
    **options: Any,
) -> list[Forecast]:
    """Try every model on a few examples, and say what all of them would take.

    Nothing is written, and the cache is not looked into. The time is that of two examples, after
    two to warm up, and what up to 32 take more at the faster of two tries, for each of all
    examples; scores come on top.

    Arguments are those of ``rank_models``.

    Cost: a forward pass of 68 examples per model.

    >>> found, = forecast("zoo:cnn-mnist", "sklearn:digits", progress=False)
    >>> found.layers, found.dims, found.error
    (5, (24, 160), None)
    """
    check_metrics(metrics)
    resolve_pool(pool)
    candidates = candidates_of(models)
    task = load_task(task)
    whole = task[split]
    job = Job.of(
        task, metrics, layers=layers, split=split, intervals=intervals, pool=pool,
        stored=not stream, spills=memory is None and workers == 1,
    )  # fmt: skip
    few = np.arange(min(_TRIED, len(whole)))
    runs = (few[:2], few[:2], few, few)
    parts = [replace(task, splits={split: whole.rows(rows)}) for rows in runs]
    options = {**options, "split": split, "dtype": dtype, "progress": False}
    share = worker_memory(memory, workers)

    def tried(candidate: Candidate) -> Forecast:
        try:
            model = candidate.load()
            taken = []
            for part in parts:
                started = time.perf_counter()
                store = extract(model, part, job.layers, pool, **options)
                taken.append(time.perf_counter() - started)
            plan = None
            if stream:
                builder = RangeBuilder(job, job.extraction(model), job.metrics, share)
                plan = None if builder.spills else builder.plan
        except TransferMetricsError as error:
            return Forecast(candidate.name, error=str(error))
        # Tracing and proofs are done once, so they do not grow with the examples.
        _, once, *both = taken
        last = min(both)  # whatever else the machine does makes it slower, never faster
        each = max(last - once, 0.1 * last) / max(len(store) - 2, 1)
        readings = plan.readings if plan else 1.0
        dims = [layer.dim for layer in store.layers]
        return Forecast(
            model=model.name,
            params=sum(p.numel() for p in model.module.parameters()),
            layers=len(dims),
            dims=(min(dims), max(dims)),
            stored=plan is None,
            bytes=plan.bytes if plan else memory_bytes(store.layers, len(whole), dtype),
            readings=readings,
            seconds=once + each * len(whole) * readings,
        )

    found = []
    with progress_bar("models", len(candidates), progress) as bar:
        for candidate in candidates:
            found.append(tried(candidate))
            bar.update()
    return found
