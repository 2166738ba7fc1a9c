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
from transfer_metrics.selection.adam import loss_of

FT_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""The LP-FT paper's learning rates for fine-tuning."""
FT_EVAL_RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""… for fine-tuning with batch normalisation in evaluation mode."""
LPFT_RATES = (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
"""… for LP-FT, which has batch normalisation in evaluation mode."""

WIDE_RATES = (1e-4, 6e-4, 3e-3, 2e-2, 1e-1)
"""For any network: small ones without a classifier to keep learn fastest at the upper end."""
ADAMW_RATES = (1e-5, 3e-5, 1e-4, 3e-4)
"""Learning rates of AdamW: about those that BERT's authors fine-tune with, and larger ones."""
ADAMW_LPFT_RATES = (1e-6, 3e-6, 1e-5, 3e-5)
"""… from a head that is trained already: a tenth, as with SGD."""


class Tuned(NamedTuple):
    """The best of the trainings on a grid, with the weights of its best epoch; and all of them."""

    network: TransferNet
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
    ``checkpoint`` is a folder for one file per setting; ``kind`` is that of the task, which says
    what is minimised and what is best; the others are as for ``train``.
    """
    start = accuracy(initial, *validation, grid[0].batch_size, kind) if from_start else None

    def begun(index: int) -> tuple[TransferNet, Training]:
        network = copy.deepcopy(initial)
        training = Training(
            network,
            grid[index],
            inputs,
            codes,
            validation=validation,
            loss=loss_of(kind),
            checkpoint=None if checkpoint is None else checkpoint / f"lr{index}.safetensors",
            identity=identity,
            progress=progress,
            title=f"{title} {_told(grid[index])}",
            start=start,
            kind=kind,
        )
        return network, training

    if halving is None:
        best, runs = None, []
        for index, settings in enumerate(grid):
            tried = begun(index)
            tried[1].advance(settings.epochs)
            runs.append(tried[1].run)
            best = tried if best is None else _better(best, tried)
    else:
        alive = [begun(index) for index in range(len(grid))]
        runs = [training.run for _, training in alive]
        for until, most in rungs(len(grid), grid[0].epochs, halving):
            for _, training in alive:
                training.advance(until)
            alive = sorted(alive, key=lambda tried: tried[1].standing(until))[:most]
        best = alive[0]
    for settings, run in zip(grid, runs, strict=True):
        if run.diverged and halving is None:
            warn(
                f"training with {_told(settings)} diverged in epoch {run.done}; later epochs of "
                f"this setting do not count"
            )
    if best is None or math.isnan(best[1].run.val_score):
        raise InvalidInputError(
            f"training diverged with every learning rate of "
            f"{tuple(dict.fromkeys(s.lr for s in grid))}; use smaller ones"
        )
    network, training = best
    return Tuned(network, training.settings, training.finish(), tuple(runs))


def rungs(settings: int, epochs: int, eta: int) -> list[tuple[int, int]]:
    """After how many epochs how many settings stay, of successive halving by a factor eta.

    One setting is trained for all epochs, up to eta for an eta-th of them, and so on back to the
    first step, which has all settings: so the steps cost about the same. A setting goes on where
    it stopped, on the schedule of all epochs.

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


_Tried = tuple[TransferNet, Training]


def _better(one: _Tried, other: _Tried) -> _Tried:
    """The finished training with the higher validation accuracy, the first of equals."""
    a, b = one[1].run.val_score, other[1].run.val_score
    return other if b > a or math.isnan(a) else one


def _told(settings: TrainSettings) -> str:
    """What distinguishes the settings of a grid."""
    decay = f" weight_decay={settings.weight_decay:g}" if settings.weight_decay else ""
    return f"lr={settings.lr:g}{decay}"
