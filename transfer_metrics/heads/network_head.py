"""Base of the heads that train a network, backbone and all."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.utils import check_random_state

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.data import is_model
from transfer_metrics.heads.grid import FT_EVAL_RATES, FT_RATES, Tuned, tune
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.source import ModelRef
from transfer_metrics.heads.task_data import HELD, TRAIN, TaskData, read_task
from transfer_metrics.heads.training_settings import TrainSettings
from transfer_metrics.sources.tasks.subtasks import check_share


class NetworkHead(Head):
    """A head that trains a network from a start of its own.

    A subclass says in ``_initial`` which network that is, and has the parameters ``lr, epochs,
    batch_size, batch_norm, momentum, weight_decay, freeze, augment, validation, random_state,
    device, checkpoint, progress``.

    Attributes:
        lr_: the learning rate that was best on validation data.
        weight_decay_: the weight decay that was best with it.
        epoch_: its best epoch, from 1; 0 if there was none.
        val_score_: validation accuracy then.
        history_: a record per setting and epoch: ``lr, weight_decay, epoch, loss, val_score,
            seconds``.
        steps_: optimizer steps over all settings.
        run_steps_: optimizer steps of the best setting.
        seconds_: training time over all settings.
        run_seconds_: training time of the best setting.
        initial_seconds_: time to make the network that training starts from.
        cached_bytes_: memory that preprocessed inputs took; 0 if they were made for each batch.
    """

    _saved: ClassVar[tuple[str, ...]] = (
        "lr_",
        "weight_decay_",
        "epoch_",
        "val_score_",
        "history_",
        "steps_",
        "run_steps_",
        "seconds_",
        "run_seconds_",
        "initial_seconds_",
        "cached_bytes_",
    )
    _rates: ClassVar[tuple[float, ...]] = FT_RATES
    _eval_rates: ClassVar[tuple[float, ...]] = FT_EVAL_RATES

    def fit(self, X: Any, y: Any = None, *, validation: Any = None) -> Self:
        """Train on a model and a task. The model given stays as it is.

        Args:
            X: a model, as for ``load_model``.
            y: a task, as for ``load_task``. Its splits test and ood are not read.
            validation: a split, or (examples, class numbers), that chooses epoch and learning
                rate; by default the task's split ``val``, or else a part of ``train``.

        Raises:
            InvalidInputError: features instead of a model, a parameter that cannot be used, or
                every training diverged.
            UnsupportedTaskError: a regression.
            IncompatibleStoreError: ``checkpoint`` belongs to another training.
        """
        if not is_model(X):
            raise InvalidInputError(
                f"{type(self).__name__} trains a network: fit(model, task), not features"
            )
        check_share(self.validation)
        grid = self._grid()
        data = read_task(X, y, validation, self.validation, self.random_state)
        start = time.perf_counter()
        initial = self._initial(data, grid[0].seed)
        self.initial_seconds_ = time.perf_counter() - start
        initial.to(self.device or _device_of(data.model.module))
        tuned = self._tuned(initial, data, grid)
        self._set_network(tuned, data)
        return self

    def _initial(self, data: TaskData, seed: int) -> TransferNet:
        """The network to start from, with a backbone of its own, ``backbone_copy(data.model)``."""
        raise NotImplementedError

    def _settings(self) -> TrainSettings:
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31 - 1)
        freeze = self.freeze if isinstance(self.freeze, str) else tuple(self.freeze)
        return TrainSettings(
            lr=0.0,
            epochs=self.epochs,
            batch_size=self.batch_size,
            momentum=self.momentum,
            batch_norm=self.batch_norm,
            freeze=freeze,
            augment=self.augment,
            seed=int(seed),
        )

    def _grid(self) -> list[TrainSettings]:
        """The settings to try; one is enough where there is no epoch to train."""
        if self.lr == "auto":
            rates = self._rates if self.batch_norm == "train" else self._eval_rates
        elif isinstance(self.lr, str):
            raise InvalidInputError(f"lr={self.lr!r}; use 'auto', a number or a list of numbers")
        else:
            rates = tuple(np.atleast_1d(self.lr))
        pairs = list(itertools.product(rates, np.atleast_1d(self.weight_decay)))
        if not pairs:
            raise InvalidInputError("lr or weight_decay is an empty list; give a number or more")
        base = self._settings()
        grid = [
            dataclasses.replace(base, lr=float(rate), weight_decay=float(decay))
            for rate, decay in pairs
        ]
        return grid if self.epochs else grid[:1]

    def _tuned(self, initial: TransferNet, data: TaskData, grid: Sequence[TrainSettings]) -> Tuned:
        train = data.task[TRAIN]
        name = data.task.name
        inputs = Inputs.of_examples(data.model, train.examples, name=f"{name} (train)")
        if data.own_split:
            held = Inputs.of_examples(data.model, data.held_split.examples, name=f"{name} (val)")
        else:
            held = inputs
        self.cached_bytes_ = inputs.cached_bytes + (held.cached_bytes if held is not inputs else 0)
        checkpoint = None if self.checkpoint is None else Path(self.checkpoint)
        identity = {}
        if checkpoint is not None:
            identity = {
                "train": train.fingerprint,
                "val": data.task[HELD].fingerprint if data.own_split else "",
                "held": data.held.tolist(),
            }
        return tune(
            initial,
            inputs.rows(data.rows),
            torch.from_numpy(train.labels[data.rows]),
            (held.rows(data.held), torch.from_numpy(data.held_split.labels[data.held])),
            grid,
            checkpoint=checkpoint,
            identity=identity,
            progress=self.progress,
            title=f"{self.name} {data.model.name}",
        )

    def _set_network(self, tuned: Tuned, data: TaskData) -> None:
        network = tuned.network.eval()
        self.network_, self._state = network, None
        self.classes_ = np.arange(data.task.num_classes)
        self.class_names_ = tuple(data.task.classes)
        self.fitted_on_, self.source_ = "model", ModelRef.of(data.model)
        self.layers_, self.pool_ = network.layers, network.pool.name
        self.unit_norm_, self.layer_columns_ = network.unit_norm, network.chosen_columns() or None
        self.coef_ = network.head.weight.detach().cpu().numpy().copy()
        self.intercept_ = network.head.bias.detach().cpu().numpy().copy()
        self.lr_, self.weight_decay_ = tuned.settings.lr, tuned.settings.weight_decay
        self.epoch_, self.val_score_ = tuned.run.epoch, tuned.run.val_score
        self.history_ = [record for run in tuned.runs for record in run.history]
        self.run_steps_, self.steps_ = tuned.run.steps, sum(run.steps for run in tuned.runs)
        self.run_seconds_ = tuned.run.seconds
        self.seconds_ = sum(run.seconds for run in tuned.runs)


def _device_of(module: torch.nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
