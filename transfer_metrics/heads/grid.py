"""Train once per learning rate and keep the best by validation."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.heads.inputs import Inputs
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.settings import TrainSettings
from transfer_metrics.heads.training import Run, train

FT_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""The LP-FT paper's learning rates for fine-tuning."""
FT_EVAL_RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""… for fine-tuning with batch normalisation in evaluation mode."""
LPFT_RATES = (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
"""… for LP-FT, which has batch normalisation in evaluation mode."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """The best of the trainings on a grid of learning rates.

    Attributes:
        network: with the weights of its best epoch.
        lr: its learning rate.
        run: its training.
        runs: all trainings, in the order of the grid.
    """

    network: TransferNet
    lr: float
    run: Run
    runs: tuple[Run, ...]


def tune(
    initial: TransferNet,
    inputs: Inputs,
    codes: Tensor,
    validation: tuple[Inputs, Tensor],
    rates: Sequence[float],
    settings: TrainSettings,
    *,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = False,
    title: str = "training",
) -> Tuned:
    """Train copies of a network, one per learning rate; the first of the best by validation wins.

    Args:
        initial: what every training starts from; it is not changed.
        inputs: the examples.
        codes: (N,) class numbers.
        validation: examples and class numbers that choose epoch and learning rate.
        rates: the learning rates.
        settings: all else; its own ``lr`` does not count.
        checkpoint: folder for one file per learning rate, from which the same call goes on.
        identity: what else checkpoints are recognised by.
        progress: show bars.
        title: their caption.

    Raises:
        InvalidInputError: no learning rate, or every training diverged.
        IncompatibleStoreError: the checkpoints belong to another training.
    """
    if not rates:
        raise InvalidInputError("lr is an empty list; give at least one learning rate")
    runs: list[Run] = []
    best: tuple[TransferNet, float, Run] | None = None
    for index, rate in enumerate(rates):
        network = copy.deepcopy(initial)
        run = train(
            network,
            inputs,
            codes,
            dataclasses.replace(settings, lr=float(rate)),
            validation=validation,
            checkpoint=None if checkpoint is None else checkpoint / f"lr{index}.safetensors",
            identity=identity,
            progress=progress,
            title=f"{title} lr={rate:g}",
        )
        runs.append(run)
        if run.diverged:
            warnings.warn(
                f"training with lr={rate:g} diverged in epoch {run.done}; later epochs of this "
                f"rate do not count",
                TransferMetricsWarning,
                stacklevel=4,
            )
        usable = not math.isnan(run.val_score)
        if usable and (best is None or run.val_score > best[2].val_score):
            best = network, float(rate), run
    if best is None:
        raise InvalidInputError(
            f"training diverged with every learning rate of {tuple(rates)}; use smaller ones"
        )
    return Tuned(*best, tuple(runs))
