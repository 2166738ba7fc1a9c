"""What a ranking would take, before it is run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.features.extract import extract
from transfer_metrics.features.layers import memory_bytes
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.rank import LAYER_CHOICES
from transfer_metrics.sources.base import Task
from transfer_metrics.sources.models import expand_models, load_model
from transfer_metrics.sources.tasks import load_task

TRIED = 32


@dataclass(frozen=True)
class Forecast:
    """What one model would take.

    Attributes:
        model: its name.
        params: parameters of the network.
        layers: how many layers are read.
        dims: features of the narrowest and of the widest of them.
        bytes: the features of all examples on disk, while the model is scored.
        seconds: estimate of the forward passes over all examples.
        error: why it would fail; the other fields are then empty.
    """

    model: str
    params: int = 0
    layers: int = 0
    dims: tuple[int, int] = (0, 0)
    bytes: int = 0
    seconds: float = float("nan")
    error: str | None = None


def forecast(
    models: Any,
    task: Any,
    *,
    layers: Any = "best",
    pool: str = "avg",
    split: str = "train",
    dtype: str = "float32",
    progress: bool = True,
    **options: Any,
) -> list[Forecast]:
    """Try every model on a few examples, and say what all of them would take.

    Nothing is written, and the cache is not looked into. The time is that of up to 32 examples,
    after two to warm up, times their number; scores come on top.

    Args:
        models: as for ``rank_models``, like the other arguments.
        task: task or its name.
        layers: choice of layers.
        pool: pooling.
        split: split of the task.
        dtype: precision of the features.
        progress: show progress on stderr.
        **options: further options of ``extract``.

    Raises:
        UnknownNameError: no such task, split or pattern of models.
        InvalidInputError: a task that cannot be used.

    Cost: a forward pass of 34 examples per model.

    >>> found, = forecast("zoo:cnn-mnist", "sklearn:digits", progress=False)
    >>> found.layers, found.dims, found.error
    (5, (24, 160), None)
    """
    task = load_task(task)
    whole = task[split]
    chosen = LAYER_CHOICES.get(layers, (layers,))[0] if isinstance(layers, str) else layers
    few = np.arange(min(TRIED, len(whole)))
    parts = [replace(task, splits={split: whole.rows(rows)}) for rows in (few[:2], few)]
    options = {**options, "split": split, "dtype": dtype, "progress": False}
    found = []
    candidates = expand_models(models)
    with progress_bar("models", len(candidates), progress) as bar:
        for candidate in candidates:
            found.append(_tried(candidate, parts, len(whole), chosen, pool, options))
            bar.update()
    return found


def _tried(
    candidate: Any, parts: Sequence[Task], n: int, layers: Any, pool: Any, options: dict[str, Any]
) -> Forecast:
    name = candidate if isinstance(candidate, str) else type(candidate).__name__
    try:
        model = load_model(candidate)
        for part in parts:
            started = time.perf_counter()
            store = extract(model, part, layers, pool, **options)
            taken = time.perf_counter() - started
    except TransferMetricsError as error:
        return Forecast(name, error=str(error))
    dims = [layer.dim for layer in store.layers]
    return Forecast(
        model=model.name,
        params=sum(p.numel() for p in model.module.parameters()),
        layers=len(dims),
        dims=(min(dims), max(dims)),
        bytes=memory_bytes(store.layers, n, options["dtype"]),
        seconds=taken * n / len(store),
    )
