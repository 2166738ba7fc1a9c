"""Fine-tuning, and linear probing then fine-tuning (LP-FT)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from transfer_metrics.features.layers import list_layers
from transfer_metrics.heads.grid import LPFT_RATES
from transfer_metrics.heads.linear import LINEAR_C, logistic_path
from transfer_metrics.heads.network import TransferNet, full_precision, linear_layer
from transfer_metrics.heads.network_head import NetworkHead
from transfer_metrics.heads.task_data import TRAIN, TaskData, task_features
from transfer_metrics.sources.models.model import Model


class FineTune(NetworkHead):
    """Train the whole network with a new linear head.

    SGD with momentum 0.9, cross-entropy, batches of 64, a learning rate that follows a cosine per
    epoch, batch normalisation in training mode. After every epoch the validation accuracy is
    measured; the best epoch of the best learning rate is kept, the first of several.

    Args:
        layers: layers that the head reads, as for ``list_layers``.
        pool: how their outputs are pooled.
        lr: a learning rate, several to choose from, or ``"auto"`` for the paper's six.
        epochs: passes over the data.
        batch_size: examples per step, and per forward pass in predictions.
        batch_norm: ``"train"``, or ``"eval"`` to leave running statistics as they are.
        momentum: of SGD.
        weight_decay: of SGD; several to choose from are tried with every learning rate.
        freeze: ``"none"``, ``"backbone"``, or names of its modules or parameters, with wildcards;
            what is frozen runs in evaluation mode.
        augment: None, ``"flip"``, or a function ``(batch, generator) -> batch`` on preprocessed
            training inputs.
        validation: share of ``train`` that chooses epoch and learning rate, where the task has no
            split ``val`` and none is given.
        random_state: seed of the head, the order, augmentation, dropout and what is held out.
        device: where to train and predict; by default where the model is.
        checkpoint: folder for the state after every epoch; the same call goes on from there.
        progress: show a bar per learning rate.

    Attributes: see ``NetworkHead`` and ``Head``.

    Source: Kumar, Raghunathan, Jones, Ma and Liang, ICLR 2022 (arXiv 2202.10054).

    Cost: per learning rate and epoch a forward and a backward pass over the training data.
    Preprocessed inputs of one size are kept in memory up to 2 GiB. Three copies of the weights.

    >>> head = FineTune(lr=1e-2, epochs=1, progress=False)
    >>> head.fit("zoo:cnn-mnist", "sklearn:digits").predict("sklearn:digits").shape
    (450,)
    """

    name = "finetune"

    def __init__(
        self,
        layers: Any = "last",
        pool: Any = "avg",
        *,
        lr: str | float | Sequence[float] = "auto",
        epochs: int = 20,
        batch_size: int = 64,
        batch_norm: str = "train",
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
        self.layers = layers
        self.pool = pool
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.batch_norm = batch_norm
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.freeze = freeze
        self.augment = augment
        self.validation = validation
        self.random_state = random_state
        self.device = device
        self.checkpoint = checkpoint
        self.progress = progress

    def _initial(self, data: TaskData, seed: int) -> TransferNet:
        example = data.model.batch([data.task[TRAIN].examples[row] for row in (0, 1)])
        layers = list_layers(data.model, self.layers, self.pool, example=example)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = nn.Linear(sum(layer.dim for layer in layers), data.task.num_classes)
        return TransferNet(backbone_copy(data.model), layers, self.pool, head)


class LPFT(NetworkHead):
    """Linear probing, then fine-tuning from its weights.

    The head starts as that of ``LinearProbe(refit=False)`` with the same validation data, so that
    fine-tuning does not distort the features on its way from a random head. Then all is as in
    ``FineTune``, but by default with batch normalisation in evaluation mode and the paper's small
    learning rates for it. With ``epochs=0`` or ``lr=0`` the predictions are the probe's.

    Args:
        layers: as in ``FineTune``.
        pool: as in ``FineTune``.
        lr: as in ``FineTune``.
        epochs: as in ``FineTune``.
        batch_size: as in ``FineTune``.
        batch_norm: as in ``FineTune``; ``"eval"`` by default.
        momentum: as in ``FineTune``.
        weight_decay: as in ``FineTune``.
        freeze: as in ``FineTune``.
        augment: as in ``FineTune``; the probe sees images as they are.
        C_grid: inverse strengths of the probe.
        max_iter: iterations per fit of the probe.
        validation: as in ``FineTune``; these data also choose the probe's strength.
        random_state: as in ``FineTune``.
        device: as in ``FineTune``.
        checkpoint: as in ``FineTune``.
        progress: as in ``FineTune``.

    Attributes:
        C_: inverse strength of the probe.
        probe_val_score_: validation accuracy of the probe.

    Source: Kumar, Raghunathan, Jones, Ma and Liang, ICLR 2022 (arXiv 2202.10054).

    Cost: a forward pass and the probe, then as ``FineTune``.

    >>> head = LPFT(lr=1e-4, epochs=1, C_grid=(0.1, 10.0), progress=False)
    >>> head.fit("zoo:cnn-mnist", "sklearn:digits").score("sklearn:digits") > 0.9
    True
    """

    name = "lpft"
    _saved = (*NetworkHead._saved, "C_", "probe_val_score_")
    _eval_rates = LPFT_RATES

    def __init__(
        self,
        layers: Any = "last",
        pool: Any = "avg",
        *,
        lr: str | float | Sequence[float] = "auto",
        epochs: int = 20,
        batch_size: int = 64,
        batch_norm: str = "eval",
        momentum: float = 0.9,
        weight_decay: float | Sequence[float] = 0.0,
        freeze: str | Sequence[str] = "none",
        augment: Any = None,
        C_grid: Sequence[float] = LINEAR_C,
        max_iter: int = 200,
        validation: float = 0.2,
        random_state: Any = 0,
        device: Any = None,
        checkpoint: Any = None,
        progress: bool = True,
    ) -> None:
        self.layers = layers
        self.pool = pool
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.batch_norm = batch_norm
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.freeze = freeze
        self.augment = augment
        self.C_grid = C_grid
        self.max_iter = max_iter
        self.validation = validation
        self.random_state = random_state
        self.device = device
        self.checkpoint = checkpoint
        self.progress = progress

    def _initial(self, data: TaskData, seed: int) -> TransferNet:
        features = task_features(data, self.get_params(deep=False))
        path = logistic_path(
            features.train.columns.dense(),
            features.train.codes,
            features.held.columns.dense(),
            features.held.codes,
            len(features.classes),
            C_grid=self.C_grid,
            max_iter=self.max_iter,
        )
        self.C_, self.probe_val_score_ = path.C, float(path.scores.max())
        head = linear_layer(path.coef, path.intercept)
        return TransferNet(backbone_copy(data.model), features.layers, self.pool, head)


def backbone_copy(model: Model) -> nn.Module:
    """A copy of a model's network to train, in float32 where it was in half precision."""
    return full_precision(copy.deepcopy(model.module))
