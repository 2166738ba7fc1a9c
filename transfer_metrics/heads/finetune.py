"""Fine-tuning of the whole network, from a random head or from one on its features."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.layers import list_layers
from transfer_metrics.features.proof import settings_of
from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.data import TaskData, Units, is_model
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.heads.network import TransferNet, full_precision, linear_layer
from transfer_metrics.heads.origin import ModelRef
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.train_settings import TrainSettings
from transfer_metrics.heads.training import Run, Training, tune
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.modules import copied, own_random_numbers
from transfer_metrics.sources.tasks.subtasks import check_share

_RATES: Mapping[str, tuple[float, ...]] = {
    "finetune": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "finetune, batch_norm=eval": (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
    "lpft": (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4),
    "wide": (1e-4, 6e-4, 3e-3, 2e-2, 1e-1),
    "adamw": (1e-5, 3e-5, 1e-4, 3e-4),
    "adamw, start": (1e-6, 3e-6, 1e-5, 3e-5),
}
"""Learning rates to choose from: the LP-FT paper's, the last with batch normalisation in evaluation
mode; wide ones, since small networks without a classifier to keep learn fastest at the upper end;
those of AdamW, about those that BERT's authors fine-tune with, and a tenth from a trained head."""


class FineTune(Head):
    """Train the whole network with a new linear head.

    SGD with momentum 0.9, or AdamW for transformers, cross-entropy (for targets, scaled to spread
    one, half the squared error; for several labels binary cross-entropy), batches of 64, a
    learning rate that follows a cosine per epoch, batch normalisation in training mode. After
    every epoch the validation accuracy (R², average precision) is measured; the best epoch of the
    best learning rate is kept, the first of several; a start from another head counts as epoch 0.

    Args:
        layers: layers that the head reads, as for ``list_layers``.
        pool: how their outputs are pooled.
        start: what the head starts from: None for random weights; ``"probe"`` for a linear probe
            of the layers, fitted to the same training and validation data; or a head on features,
            or its name, for its weights on its own layers and pooling.
        lr: a learning rate, several to choose from, or ``"auto"``: the paper's six for SGD, and
            four from 1e-5 to 3e-4 for AdamW, a tenth of that from the head of a ``start``; with
            ``"wide"`` five from 1e-4 to 0.1 for SGD, where the paper's end at 0.01 or below.
        epochs: passes over the data.
        halving: the factor of 2 or more by which ``rungs`` drops settings early; None drops none.
        batch_size: examples per step, and per forward pass in predictions; a last batch of one
            joins the one before, for batch normalisation.
        batch_norm: ``"train"``, or ``"eval"`` to leave running statistics as they are.
        optimizer: ``"sgd"``, ``"adamw"``, or ``"auto"``: AdamW for transformers (with attention,
            and more layer than batch normalisations), which SGD hardly moves; SGD for all others.
        momentum: of SGD; AdamW has its usual 0.9 and 0.999.
        weight_decay: of the optimizer; several to choose from are tried with every learning rate.
        freeze: ``"none"``, ``"backbone"``, or names of its modules or parameters, with wildcards;
            what is frozen runs in evaluation mode. The ``requires_grad`` of the network decides
            nothing.
        augment: None, ``"flip"`` (half of the images, left to right), or a function
            ``(batch, generator) -> batch`` on preprocessed training inputs; ``start`` sees
            examples as they are.
        validation: share of ``train`` that chooses epoch and learning rate, where the task has no
            split ``val`` and none is given.
        random_state: seed of the head, the order, augmentation, dropout and what is held out.
        device: where to train and predict; by default where the model is.
        checkpoint: folder for the state after every epoch; the same call goes on from there.
        progress: show a bar per learning rate.

    Attributes:
        lr_, weight_decay_: the setting that was best on validation data.
        optimizer_: ``"sgd"`` or ``"adamw"``.
        epoch_: its best epoch, from 1; 0 if none was better than the start.
        val_score_: validation accuracy then.
        history_: a record per setting and epoch: ``lr, weight_decay, epoch, loss, val_score,
            seconds``.
        steps_, seconds_: optimizer steps and training time over all settings.
        run_steps_, run_seconds_: those of the best setting.
        initial_seconds_: time to make the network that training starts from.
        cached_bytes_: memory that preprocessed inputs took; 0 if they were made for each batch.
        C_, probe_val_score_: strength and validation accuracy of a probe that was the start.
        kept_: features of each layer that the head reads, where Head2Toe was the start.

    Source: Kumar, Raghunathan, Jones, Ma and Liang, ICLR 2022 (arXiv 2202.10054).

    Cost: that of ``start``; per learning rate and epoch a forward and a backward pass over the
    training data. Preprocessed inputs of one size are kept in memory up to 2 GiB. Three copies of
    the weights, and with ``halving`` so many for each setting.

    >>> head = FineTune(lr=1e-2, epochs=1, progress=False)
    >>> task = "sklearn:digits?examples=200"
    >>> head.fit("zoo:cnn-mnist", task).predict(task).shape
    (450,)
    """

    name = "finetune"
    trains = True
    _saved = (
        "lr_", "weight_decay_", "optimizer_", "epoch_", "val_score_", "history_", "steps_",
        "run_steps_", "seconds_", "run_seconds_", "initial_seconds_", "cached_bytes_", "C_",
        "probe_val_score_", "kept_",
    )  # fmt: skip

    def __init__(
        self,
        layers: Any = "last",
        pool: Any = "avg",
        *,
        start: Any = None,
        lr: str | float | Sequence[float] = "auto",
        epochs: int = 20,
        halving: int | None = None,
        batch_size: int = 64,
        batch_norm: str = "train",
        optimizer: str = "auto",
        momentum: float = 0.9,
        weight_decay: float | Sequence[float] = 0.0,
        freeze: str | Sequence[str] = "none",
        augment: Any = None,
        validation: float = 0.2,
        random_state: Any = 0,
        device: Any = None,
        checkpoint: Any = None,
        progress: bool = True,
    ) -> None:
        self.layers, self.pool, self.start, self.lr = layers, pool, start, lr
        self.epochs, self.halving, self.batch_size = epochs, halving, batch_size
        self.batch_norm, self.optimizer, self.momentum = batch_norm, optimizer, momentum
        self.weight_decay, self.freeze, self.augment = weight_decay, freeze, augment
        self.validation, self.random_state, self.device = validation, random_state, device
        self.checkpoint, self.progress = checkpoint, progress

    @torch.inference_mode(False)  # whatever the caller is in
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
            IncompatibleStoreError: ``checkpoint`` belongs to another training.
        """
        if not is_model(X):
            raise InvalidInputError(
                f"{type(self).__name__} trains a network: fit(model, task), not features"
            )
        check_share(self.validation)
        X = load_model(X)
        auto = "adamw" if _is_transformer(X.module) else "sgd"
        grid = self._grid(auto if self.optimizer == "auto" else self.optimizer)
        data = self._task_data(X, y, validation)
        self._settings = settings_of(data.model, data.task)
        began = time.perf_counter()
        units = Units.of(data.task.kind, data.train_codes)
        initial = self._initial(data, units, grid[0].seed)
        self.initial_seconds_ = time.perf_counter() - began
        where = next((p.device for p in data.model.module.parameters()), torch.device("cpu"))
        initial.to(self.device or where)
        best, runs = self._tuned(initial, data, units, grid)
        assert isinstance(best.network, TransferNet)
        self._set_network(best.network.eval(), data, units)
        self.lr_, self.weight_decay_ = best.settings.lr, best.settings.weight_decay
        self.optimizer_ = best.settings.optimizer
        self.epoch_, self.val_score_ = best.run.epoch, best.run.val_score
        self.history_ = [record for run in runs for record in run.history]
        self.run_steps_, self.steps_ = best.run.steps, sum(run.steps for run in runs)
        self.run_seconds_, self.seconds_ = best.run.seconds, sum(run.seconds for run in runs)
        return self

    def chosen(self) -> dict[str, Any]:
        """Learning rate, weight decay, and the strength of a probe; see ``Head``."""
        strength = {"C_grid": (self.C_,)} if "C_grid" in self.get_params(deep=False) else {}
        return {"lr": self.lr_, "weight_decay": self.weight_decay_, **strength}

    def reads(self) -> list[tuple[Any, Any]]:
        """Those of the head that training starts from; see ``Head``."""
        start = self._start()
        return [] if start is None else start.reads()

    def _start(self) -> Head | None:
        """A head on features, not fitted, whose weights training starts from."""
        if self.start is None:
            return None
        if isinstance(self.start, str) and self.start == "probe":
            probe = LinearProbe(self.layers, self.pool, batch_size=self.batch_size)
            own = self.get_params(deep=False)
            return probe.set_known(**{n: own[n] for n in ("C_grid", "max_iter") if n in own})
        start = clone(resolve_head(self.start))
        if isinstance(start, FineTune):
            raise InvalidInputError(
                f"start={start.label} trains a network; give a head on features"
            )
        if self.layers != "last" or self.pool != "avg":
            raise InvalidInputError(
                f"layers and pool are those of start={start.label}; give them to it"
            )
        return start

    def _initial(self, data: TaskData, units: Units, seed: int) -> TransferNet:
        """The network to start from, with a copy of the model's as its backbone."""
        start = self._start()
        backbone = full_precision(copied(data.model.module))
        if start is None:
            outputs = data.task.num_classes or data.train_codes.shape[1]
            example = data.model.batch([data.task["train"].examples[row] for row in (0, 1)])
            layers = list_layers(data.model, self.layers, self.pool, example=example)
            with own_random_numbers(seed):
                head = nn.Linear(sum(layer.dim for layer in layers), outputs)
            return TransferNet(backbone, layers, self.pool, head)
        start.set_known(random_state=seed, device=self.device, progress=self.progress)
        start._shared = self._shared
        features = start._task_features(data)
        # What chooses the epoch is not to be refitted to.
        start.fit(dataclasses.replace(features, whole=features.train))
        for theirs, ours in (("C_", "C_"), ("val_score_", "probe_val_score_"), ("kept_", "kept_")):
            if hasattr(start, theirs):
                setattr(self, ours, getattr(start, theirs))
        start.coef_ = start.coef_ / units.spread[:, None]
        start.intercept_ = units.inside(start.intercept_)
        return start._on(backbone)

    def _grid(self, optimizer: str = "sgd") -> list[TrainSettings]:
        """The settings to try; one is enough where there is no epoch to train."""
        rates = self._rates(optimizer) if isinstance(self.lr, str) else np.atleast_1d(self.lr)
        pairs = list(itertools.product(rates, np.atleast_1d(self.weight_decay)))
        if not pairs:
            raise InvalidInputError("lr or weight_decay is an empty list; give a number or more")
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31 - 1)
        own = self.get_params(deep=False)
        known = {f.name: own[f.name] for f in dataclasses.fields(TrainSettings) if f.name in own}
        freeze = self.freeze if isinstance(self.freeze, str) else tuple(self.freeze)
        known |= {"optimizer": optimizer, "freeze": freeze, "seed": int(seed)}
        grid = [
            TrainSettings(**known | {"lr": float(rate), "weight_decay": float(decay)})
            for rate, decay in pairs
        ]
        return grid if self.epochs else grid[:1]

    def _rates(self, optimizer: str) -> Sequence[float]:
        """What a name of learning rates stands for."""
        if self.lr not in ("auto", "wide"):
            raise InvalidInputError(
                f"lr={self.lr!r}; use 'auto', 'wide', a number or a list of numbers"
            )
        start = self._start()
        if optimizer == "adamw":
            return _RATES["adamw" if start is None else "adamw, start"]
        if self.lr == "wide":
            return _RATES["wide"]
        fixed = "lpft" if isinstance(start, LinearProbe) else "finetune, batch_norm=eval"
        return _RATES["finetune" if self.batch_norm == "train" else fixed]

    def _tuned(
        self, initial: TransferNet, data: TaskData, units: Units, grid: Sequence[TrainSettings]
    ) -> tuple[Training, list[Run]]:
        train, held, name = data.task["train"], data.held_split, data.task.name
        inputs = held_inputs = Inputs.of_examples(
            data.model, train.examples, name=f"{name} (train)"
        )
        self.cached_bytes_ = inputs.cached_bytes
        if "val" in data.task.splits:
            held_inputs = Inputs.of_examples(data.model, held.examples, name=f"{name} (val)")
            self.cached_bytes_ += held_inputs.cached_bytes
        identity: dict[str, Any] = {}
        if self.checkpoint is not None:
            identity = {
                "settings": self._settings.digest,
                "train": train.fingerprint,
                "val": held.fingerprint if "val" in data.task.splits else "",
                "held": data.held.tolist(),
            }
        codes, truth = (units.inside(of) for of in (data.train_codes, data.held_codes))
        if data.task.kind != "classification":
            codes, truth = codes.astype(np.float32), truth.astype(np.float32)
        return tune(
            initial,
            inputs.rows(data.rows),
            torch.from_numpy(codes),
            (held_inputs.rows(data.held), torch.from_numpy(truth)),
            grid,
            halving=self.halving,
            from_start=self._start() is not None,
            checkpoint=None if self.checkpoint is None else Path(self.checkpoint),
            identity=identity,
            progress=self.progress,
            title=f"{self.name} {data.model.name}",
            kind=data.task.kind,
        )

    def _set_network(self, network: TransferNet, data: TaskData, units: Units) -> None:
        weight, bias = (t.detach().cpu().numpy() for t in (network.head.weight, network.head.bias))
        network.head = linear_layer(*units.outside(weight, bias)).to(network.head.weight.device)
        self._set_answers(data.answers)
        self.network_, self._state, self.fitted_on_ = network, None, "model"
        self.source_ = ModelRef.of(data.model, self._settings)
        self.layers_, self.pool_ = network.layers, network.pool.name
        self.unit_norm_, self.layer_columns_ = network.unit_norm, network.chosen_columns() or None
        self.coef_ = network.head.weight.detach().cpu().numpy().copy()
        self.intercept_ = network.head.bias.detach().cpu().numpy().copy()


def _is_transformer(module: nn.Module) -> bool:
    """Whether a network has attention and normalises tokens more often than batches, by classes."""
    parts = list(module.modules())
    names = [type(part).__name__.lower() for part in parts]
    of_batches = sum(isinstance(part, _NormBase) for part in parts)
    others = sum("norm" in name for name in names) - of_batches
    return any("attention" in name for name in names) and others > of_batches
