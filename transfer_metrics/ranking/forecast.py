"""What a ranking would take, before it is run."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
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
from transfer_metrics.ranking.rank import LAYER_CHOICES, make_job
from transfer_metrics.sources.models.candidates import Candidate, candidates_of
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.task import Task

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

    Raises:
        UnknownNameError: no such task, split or pattern of models.
        InvalidInputError: a task that cannot be used.

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
    chosen = LAYER_CHOICES.get(layers, (layers,))[0] if isinstance(layers, str) else layers
    few = np.arange(min(_TRIED, len(whole)))
    runs = (few[:2], few[:2], few, few)
    parts = [replace(task, splits={split: whole.rows(rows)}) for rows in runs]
    options = {**options, "split": split, "dtype": dtype, "progress": False}
    found = []
    builder = None
    if stream:
        job = make_job(task, metrics, layers=layers, pool=pool, split=split, intervals=intervals)
        job = replace(job, spills=memory is None and workers == 1)
        share = worker_memory(memory, workers)
        builder = functools.partial(_builder, job, share)
    with progress_bar("models", len(candidates), progress) as bar:
        for candidate in candidates:
            found.append(_tried(candidate, parts, len(whole), chosen, pool, options, builder))
            bar.update()
    return found


def _tried(
    candidate: Candidate,
    parts: Sequence[Task],
    n: int,
    layers: Any,
    pool: Any,
    options: dict[str, Any],
    builder: Callable[..., RangeBuilder] | None,
) -> Forecast:
    try:
        model = candidate.load()
        taken = []
        for part in parts:
            started = time.perf_counter()
            store = extract(model, part, layers, pool, **options)
            taken.append(time.perf_counter() - started)
        # Tracing and proofs are done once, so they do not grow with the examples.
        _, once, *both = taken
        last = min(both)  # whatever else the machine does makes it slower, never faster
        each = max(last - once, 0.1 * last) / max(len(store) - 2, 1)
        built = builder(model) if builder else None
        plan = built.plan if built and not built.spills else None
    except TransferMetricsError as error:
        return Forecast(candidate.name, error=str(error))
    dims = [layer.dim for layer in store.layers]
    return Forecast(
        model=model.name,
        params=sum(p.numel() for p in model.module.parameters()),
        layers=len(dims),
        dims=(min(dims), max(dims)),
        stored=plan is None,
        bytes=plan.bytes if plan else memory_bytes(store.layers, n, options["dtype"]),
        readings=plan.readings if plan else 1.0,
        seconds=once + each * n * (plan.readings if plan else 1.0),
    )


def _builder(job: Job, memory: int, model: Model) -> RangeBuilder:
    return RangeBuilder(job, job.extraction(model), job.metrics, memory)
