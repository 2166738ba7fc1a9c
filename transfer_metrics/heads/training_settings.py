"""How a network is trained, and the randomness of each epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.models.identity import describe

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained; the defaults are those of the LP-FT paper.

    Attributes:
        lr: learning rate of the first epoch.
        epochs: passes over the data.
        batch_size: examples per step; a last batch of one example joins the one before, because
            batch normalisation cannot work on one.
        momentum: of SGD.
        weight_decay: of SGD.
        schedule: ``"cosine"`` lowers the rate after each epoch towards zero at the end;
            ``"constant"``.
        batch_norm: ``"train"``, or ``"eval"`` to normalise by the running statistics, which then
            stay as they are.
        freeze: ``"none"``; ``"backbone"``; or names of modules or parameters of the backbone,
            with wildcards. What is frozen runs in evaluation mode.
        augment: None, ``"flip"`` (half of the images, left to right), or a function of a batch
            and a random generator.
        seed: order, augmentation and dropout of epoch e depend on (seed, e) only.
    """

    lr: float
    epochs: int = 20
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "cosine"
    batch_norm: str = "train"
    freeze: str | tuple[str, ...] = "none"
    augment: str | Augment | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("lr", 0.0), ("momentum", 0.0), ("weight_decay", 0.0)):
            value = getattr(self, name)
            if not least <= value < math.inf:
                raise InvalidInputError(f"{name}={value!r}; use a number of at least {least:g}")
        for name, least in (("epochs", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < least:
                raise InvalidInputError(f"{name}={value!r}; use a whole number from {least}")
        for name, known in (
            ("schedule", ("cosine", "constant")),
            ("batch_norm", ("train", "eval")),
        ):
            if getattr(self, name) not in known:
                raise InvalidInputError(f"{name}={getattr(self, name)!r}; use one of {known}")
        if self.augment is not None and self.augment != "flip" and not callable(self.augment):
            raise InvalidInputError(f"augment={self.augment!r}; use None, 'flip' or a function")

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0.

        >>> [TrainSettings(lr=1.0, epochs=2).rate(epoch) for epoch in range(2)]
        [1.0, 0.5]
        """
        if self.schedule == "constant":
            return self.lr
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def record(self) -> dict[str, Any]:
        """What a file can hold of the settings."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {
            "augment": describe(self.augment) if callable(self.augment) else self.augment
        }


def augmented(batch: Any, augment: str | Augment | None, random: torch.Generator) -> Any:
    """A batch with random changes.

    Raises:
        InvalidInputError: the batch is text, or no images for ``"flip"``.
    """
    if augment is None:
        return batch
    if not isinstance(batch, Tensor):
        raise InvalidInputError("augment applies to batches that are tensors; leave it out")
    if callable(augment):
        return augment(batch, random)
    if batch.ndim != 4:
        raise InvalidInputError(
            f"augment='flip' is for images (N, C, H, W), not {tuple(batch.shape)}"
        )
    flip = torch.rand(len(batch), generator=random) < 0.5
    return torch.where(flip[:, None, None, None], batch.flip(3), batch)


def epoch_batches(n: int, size: int, random: torch.Generator) -> list[Tensor]:
    """Positions 0 to n-1 in a random order, in batches; a last one of one joins the one before.

    >>> batches = epoch_batches(9, 4, torch.Generator().manual_seed(0))
    >>> [len(rows) for rows in batches], sorted(torch.cat(batches).tolist()) == list(range(9))
    ([4, 5], True)
    """
    parts = list(torch.randperm(n, generator=random).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed that differs between epochs, and not by a mere shift between seeds."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
