"""Train once per setting of a grid and keep the best by validation."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.training import Run, train
from transfer_metrics.heads.training_settings import TrainSettings

FT_RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
"""The LP-FT paper's learning rates for fine-tuning."""
FT_EVAL_RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
"""… for fine-tuning with batch normalisation in evaluation mode."""
LPFT_RATES = (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)
"""… for LP-FT, which has batch normalisation in evaluation mode."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """The best of the trainings on a grid.

    Attributes:
        network: with the weights of its best epoch.
        settings: its settings.
        run: its training.
        runs: all trainings, in the order of the grid.
    """

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
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = False,
    title: str = "training",
) -> Tuned:
    """Train copies of a network, one per setting; the first of the best by validation wins.

    Args:
        initial: what every training starts from; it is not changed.
        inputs: the examples.
        codes: (N,) class numbers.
        validation: examples and class numbers that choose epoch and setting.
        grid: the settings.
        checkpoint: folder for one file per setting, from which the same call goes on.
        identity: what else checkpoints are recognised by.
        progress: show bars.
        title: their caption.

    Raises:
        InvalidInputError: every training diverged.
        IncompatibleStoreError: the checkpoints belong to another training.
    """
    runs: list[Run] = []
    best: tuple[TransferNet, TrainSettings, Run] | None = None
    for index, settings in enumerate(grid):
        told = f"lr={settings.lr:g}"
        if settings.weight_decay:
            told += f" weight_decay={settings.weight_decay:g}"
        network = copy.deepcopy(initial)
        run = train(
            network,
            inputs,
            codes,
            settings,
            validation=validation,
            checkpoint=None if checkpoint is None else checkpoint / f"lr{index}.safetensors",
            identity=identity,
            progress=progress,
            title=f"{title} {told}",
        )
        runs.append(run)
        if run.diverged:
            warnings.warn(
                f"training with {told} diverged in epoch {run.done}; later epochs of this "
                f"setting do not count",
                TransferMetricsWarning,
                stacklevel=4,
            )
        usable = not math.isnan(run.val_score)
        if usable and (best is None or run.val_score > best[2].val_score):
            best = network, settings, run
    if best is None:
        raise InvalidInputError(
            f"training diverged with every learning rate of "
            f"{tuple(dict.fromkeys(s.lr for s in grid))}; use smaller ones"
        )
    return Tuned(*best, tuple(runs))
