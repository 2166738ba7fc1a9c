"""The choice between settings of training: each to its end, or by successive halving."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.training import Run, Training, TrainSettings, accuracy


class Tuned(NamedTuple):
    """The best of the trainings on a grid, with the weights of its best epoch; and all of them."""

    network: Any
    settings: TrainSettings
    run: Run
    runs: tuple[Run, ...]


def tune(
    initial: TransferNet,
    inputs: Inputs,
    codes: Tensor,
    validation: tuple[Inputs, Tensor],
    grid: Sequence[TrainSettings],
    *,
    halving: int | None = None,
    from_start: bool = False,
    checkpoint: Path | None,
    identity: Mapping[str, Any],
    progress: bool,
    title: str,
    kind: str = "classification",
) -> Tuned:
    """Train a copy of a network per setting; the first of the best by validation wins.

    With ``halving`` all settings are trained for a few epochs, and only the best go on, by
    ``rungs``, and one that diverges is dropped without a word; without it each is trained to its
    end before the next. ``from_start`` counts the weights at the start as an epoch, the first.
    ``checkpoint`` is a folder for one file per setting; the others are as for ``Training``.
    """
    start = accuracy(initial, *validation, grid[0].batch_size, kind) if from_start else None

    def begun(index: int) -> Training:
        return Training(
            copy.deepcopy(initial),
            grid[index],
            inputs,
            codes,
            validation=validation,
            kind=kind,
            checkpoint=None if checkpoint is None else checkpoint / f"lr{index}.safetensors",
            identity=identity,
            progress=progress,
            title=f"{title} {_told(grid[index])}",
            start=start,
        )

    best: Training | None = None
    if halving is None:
        runs = []
        for index, settings in enumerate(grid):
            tried = begun(index)
            tried.advance(settings.epochs)
            runs.append(tried.run)
            most = math.nan if best is None else best.run.val_score
            if math.isnan(most) or tried.run.val_score > most:
                best = tried
    else:
        alive = [begun(index) for index in range(len(grid))]
        runs = [training.run for training in alive]
        for until, kept in rungs(len(grid), grid[0].epochs, halving):
            for training in alive:
                training.advance(until)
            alive = sorted(alive, key=lambda training: training.standing(until))[:kept]
        best = alive[0]
    for settings, run in zip(grid, runs, strict=True):
        if run.diverged and halving is None:
            warn(
                f"training with {_told(settings)} diverged in epoch {run.done}; later epochs of "
                f"this setting do not count"
            )
    if best is None or math.isnan(best.run.val_score):
        raise InvalidInputError(
            f"training diverged with every learning rate of "
            f"{tuple(dict.fromkeys(s.lr for s in grid))}; use smaller ones"
        )
    return Tuned(best.network, best.settings, best.finish(), tuple(runs))


def rungs(settings: int, epochs: int, eta: int) -> list[tuple[int, int]]:
    """After how many epochs how many settings stay, of successive halving by a factor eta.

    One setting is trained for all epochs, up to eta for an eta-th of them, and so on back to the
    first step, which has all settings: so the steps cost about the same.

    Source: Jamieson and Talwalkar, AISTATS 2016 (arXiv 1502.07943).

    >>> rungs(9, 9, 3), rungs(5, 8, 2), rungs(1, 4, 2)
    ([(1, 3), (3, 1), (9, 1)], [(1, 3), (2, 2), (4, 1), (8, 1)], [(4, 1)])
    """
    if not isinstance(eta, (int, np.integer)) or eta < 2:
        raise InvalidInputError(f"halving={eta!r}; use a whole number from 2, or None")
    left, kept = settings, []
    while left > 1:
        left = -(-left // eta)
        kept.append(left)
    parts = [-(-epochs // eta**power) for power in range(len(kept), 0, -1)]
    return [*zip(parts, kept, strict=True), (epochs, 1)]


def _told(settings: TrainSettings) -> str:
    """What distinguishes the settings of a grid."""
    decay = f" weight_decay={settings.weight_decay:g}" if settings.weight_decay else ""
    return f"lr={settings.lr:g}{decay}"
