"""H2T-FT: Head2Toe's features and head, then fine-tuning of everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import clone

from transfer_metrics.heads.finetune import backbone_copy
from transfer_metrics.heads.head2toe import Head2Toe
from transfer_metrics.heads.network import TransferNet, linear_layer
from transfer_metrics.heads.network_head import NetworkHead
from transfer_metrics.heads.task_data import TaskData, task_features


class H2TFT(NetworkHead):
    """Head2Toe first, then fine-tuning of the backbone and the head on the chosen features.

    The features are chosen with the backbone frozen, as in the paper; then the head that Head2Toe
    has trained on them and the whole backbone are trained further as in ``FineTune``.

    Args:
        head2toe: a ``Head2Toe`` that says how features are chosen; None for its defaults.
        lr: as in ``FineTune``.
        epochs: as in ``FineTune``.
        batch_size: as in ``FineTune``.
        batch_norm: as in ``FineTune``.
        momentum: as in ``FineTune``.
        weight_decay: as in ``FineTune``.
        freeze: as in ``FineTune``.
        augment: as in ``FineTune``; features are chosen on images as they are.
        validation: as in ``FineTune``.
        random_state: as in ``FineTune``, and the seed of Head2Toe.
        device: as in ``FineTune``.
        checkpoint: as in ``FineTune``.
        progress: as in ``FineTune``.

    Attributes:
        kept_: number of features of each layer that the head reads.

    Source: Evci et al., ICML 2022 (arXiv 2201.03529), H2T-FT. Whether the paper's head starts
        anew or from Head2Toe's could not be made out; here it starts from Head2Toe's.

    Cost: that of Head2Toe, then as ``FineTune``.

    >>> head = H2TFT(Head2Toe(steps=100, lr=0.1), lr=1e-3, epochs=1, progress=False)
    >>> head.fit("zoo:cnn-mnist", "sklearn:digits").score("sklearn:digits") > 0.9
    True
    """

    name = "h2t_ft"
    _saved = (*NetworkHead._saved, "kept_")

    def __init__(
        self,
        head2toe: Head2Toe | None = None,
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
        self.head2toe = head2toe
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
        start = Head2Toe() if self.head2toe is None else clone(self.head2toe)
        start.set_params(random_state=seed, device=self.device, progress=self.progress)
        start.fit_data(task_features(data, start.get_params(deep=False)))
        self.kept_ = start.kept_
        return TransferNet(
            backbone_copy(data.model),
            start.layers_,
            start.pool,
            linear_layer(start.coef_, start.intercept_),
            columns=start.layer_columns_,
            unit_norm=True,
        )
