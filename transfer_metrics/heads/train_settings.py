"""How a network is trained: settings, and what of it learns in which mode."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from transfer_metrics.errors import InvalidInputError, LayerNotFoundError, check_whole
from transfer_metrics.sources.models.identity import describe


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained, by default as in the LP-FT paper; see ``FineTune``.

    The schedule ``"cosine"`` lowers the rate after each epoch towards zero at the end; order,
    augmentation and dropout of epoch e depend on (seed, e) only.
    """

    lr: float
    epochs: int = 20
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 0.0
    optimizer: str = "sgd"
    schedule: str = "cosine"
    batch_norm: str = "train"
    freeze: str | tuple[str, ...] = "none"
    augment: str | Callable[[Tensor, torch.Generator], Tensor] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InvalidInputError(f"{name}={value!r}; use a number of at least 0")
        check_whole(0, epochs=self.epochs)
        check_whole(1, batch_size=self.batch_size)
        for name, known in (
            ("optimizer", ("sgd", "adamw")),
            ("schedule", ("cosine", "constant")),
            ("batch_norm", ("train", "eval")),
        ):
            if getattr(self, name) not in known:
                raise InvalidInputError(f"{name}={getattr(self, name)!r}; use one of {known}")
        if self.augment is not None and self.augment != "flip" and not callable(self.augment):
            raise InvalidInputError(f"augment={self.augment!r}; use None, 'flip' or a function")

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def record(self) -> dict[str, Any]:
        """What a file can hold of the settings."""
        told = describe(self.augment) if callable(self.augment) else self.augment
        return {**vars(self), "augment": told}

    def __str__(self) -> str:
        decay = f" weight_decay={self.weight_decay:g}" if self.weight_decay else ""
        return f"lr={self.lr:g}{decay}"

    def choose_parameters(self, network: nn.Module) -> dict[str, nn.Parameter]:
        """Switch gradients on for what is trained, returned by name, and off for the rest."""
        frozen = self._frozen(network)
        trained = {}
        for name, parameter in network.named_parameters():
            if parameter.is_floating_point():
                parameter.requires_grad_(name not in frozen)
                if name not in frozen:
                    trained[name] = parameter
        if not trained:
            raise InvalidInputError(f"freeze={self.freeze!r} leaves nothing to train")
        return trained

    def set_modes(self, network: nn.Module) -> None:
        """Training mode, except for batch normalisation if wanted, and for what is frozen."""
        network.train()
        if self.freeze == "backbone":
            network.get_submodule("backbone").eval()
            return
        frozen = self._frozen(network)
        for path, module in network.named_modules():
            own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
            normalises = self.batch_norm == "eval" and isinstance(module, _NormBase)
            if normalises or (own and frozen.issuperset(own)):
                module.eval()

    def _frozen(self, network: nn.Module) -> set[str]:
        """Names of the parameters that are not trained."""
        freeze = self.freeze
        if freeze == "none":
            return set()
        prefix = "backbone."
        names = [name for name, _ in network.named_parameters() if name.startswith(prefix)]
        if freeze == "backbone":
            return set(names)
        known, frozen = [name.removeprefix(prefix) for name in names], set[str]()
        for pattern in [freeze] if isinstance(freeze, str) else freeze:
            either = (pattern, f"{pattern}.*")
            found = {name for name in known if any(fnmatch.fnmatchcase(name, p) for p in either)}
            if not found:
                raise LayerNotFoundError.of("parameter to freeze", pattern, known)
            frozen |= {prefix + name for name in found}
        return frozen
