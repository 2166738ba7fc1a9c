"""Linear models by Adam, as Head2Toe trains them, with or without the group penalty."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim.adam import adam

from transfer_metrics.errors import InvalidInputError, check_whole
from transfer_metrics.progress import progress_bar
from transfer_metrics.selection.checkpoint import Checkpoint
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.statistics.inputs import as_labels, as_targets
from transfer_metrics.threads import threads_for

_SECONDS_BETWEEN_CHECKPOINTS = 30.0


class _SoftmaxFit(NamedTuple):
    """A linear model, mostly a softmax classifier: weights (D, C) and bias (C,), float32."""

    weights: np.ndarray
    bias: np.ndarray


@torch.inference_mode(False)  # whatever the caller is in
def train_softmax(
    features: LayerColumns,
    y: Any,
    num_classes: int,
    *,
    kind: str = "classification",
    lam: float = 0.0,
    lr: float = 0.01,
    steps: int = 500,
    batch_size: int = 128,
    seed: int = 0,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> _SoftmaxFit:
    """Train ``softmax(xW + b)`` on mean cross-entropy plus ``lam Σ_i ‖W_i‖₂``, the bias free.

    For other kinds of task the loss is that of ``loss_of``. Adam with a learning rate that falls
    from ``lr`` to zero along a cosine; Glorot-uniform weights and zero bias to start with. As in
    the published code batches follow one another in a fixed order that is repeated and never
    shuffled again; here that order is a permutation drawn from ``seed``, and the loss of a batch is
    its mean, also for a smaller last one (the published code divides that by ``batch_size`` too).

    With ``checkpoint`` a safetensors file keeps the state, written every 30 seconds and on Ctrl-C.
    If it is there, training goes on from it, to weights that are the same bit for bit. Whoever
    calls removes it.

    Source: Evci et al. (2022), Head2Toe, relevance scores and final head.

    Cost: O(steps · batch_size · D C); the features are in memory as float32, 4 N D bytes, and
    seven arrays of 4 D C bytes.
    """
    _check(lam, lr, steps, batch_size)
    if kind == "classification":
        labels, _ = as_labels(y, len(features), num_classes)
    else:
        labels = as_targets(y, len(features)).float()
    device = torch.device(device or "cpu")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(features), generator=generator)
    state = _State.start(features.dim, num_classes, generator, device)
    kept: Checkpoint | None = None
    if checkpoint is not None:
        key: dict[str, Any] = {
            "features or labels": _fingerprint(features, labels, num_classes),
            "lam": lam, "lr": lr, "steps": steps, "batch_size": batch_size, "seed": seed,
        }  # fmt: skip
        key |= {} if kind == "classification" else {"kind": kind}
        kept = Checkpoint(Path(checkpoint), key)
        if (found := kept.read()) is not None:
            numbers, tensors = found
            moved = {name: tensor.to(device) for name, tensor in tensors["adam"].items()}
            state = _State(**moved, step=numbers["step"])
    written = time.monotonic()
    x = torch.empty(len(features), features.dim)
    for start, block in features.rows(order.numpy()).blocks():
        x[:, start : start + block.shape[1]] = torch.from_numpy(block.astype(np.float32))
    x = x.to(device)
    labels = labels[order].to(device)
    batches, loss = -(-len(x) // batch_size), loss_of(kind)
    with (
        threads_for(min(batch_size, len(x)) * features.dim * num_classes),
        _held_interrupts(kept is not None) as interrupted,
        progress_bar("training", steps, progress, unit="step", initial=state.step) as bar,
    ):
        while state.step < steps:
            place = state.step % batches * batch_size
            batch = slice(place, place + batch_size)
            rate = 0.5 * lr * (1.0 + math.cos(math.pi * state.step / steps))
            _step(state, x[batch], labels[batch], rate, lam, loss)
            bar.update()
            late = time.monotonic() - written >= _SECONDS_BETWEEN_CHECKPOINTS
            if kept is not None and (interrupted or late):
                own = {name: value for name, value in vars(state).items() if name != "step"}
                kept.write({"step": state.step}, {"adam": own})
                written = time.monotonic()
            if interrupted:
                raise KeyboardInterrupt
    return _SoftmaxFit(state.weights.cpu().numpy(), state.bias.cpu().numpy())


def loss_of(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean loss of outputs (N, C) for one kind of task.

    Cross-entropy with class numbers (N,); half the squared error of targets (N, C), or the binary
    cross-entropy of labels (N, C), added up over the C.
    """
    return {
        "regression": lambda out, t: 0.5 * (out - t).square().sum(dim=1).mean(),
        "multilabel": lambda out, t: (
            binary_cross_entropy_with_logits(out, t, reduction="none").sum(dim=1).mean()
        ),
    }.get(kind, cross_entropy)


@dataclass
class _State:
    """Everything that changes while training."""

    weights: Tensor
    bias: Tensor
    weights_mean: Tensor
    weights_square: Tensor
    bias_mean: Tensor
    bias_square: Tensor
    step: int = 0

    @classmethod
    def start(
        cls, dim: int, classes: int, generator: torch.Generator, device: torch.device
    ) -> _State:
        limit = math.sqrt(6.0 / (dim + classes))
        weights = torch.rand(dim, classes, generator=generator).mul_(2).sub_(1).mul_(limit)
        weights, bias = weights.to(device), torch.zeros(classes, device=device)
        zeros = torch.zeros_like
        return cls(weights, bias, zeros(weights), zeros(weights), zeros(bias), zeros(bias))


def _step(
    state: _State,
    x: Tensor,
    labels: Tensor,
    rate: float,
    lam: float,
    loss_of_batch: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """One step of Adam on one batch."""
    parameters = [state.weights, state.bias]
    weights, bias = (value.detach().requires_grad_() for value in parameters)
    loss = loss_of_batch(x @ weights + bias, labels)
    if lam:
        loss = loss + lam * torch.linalg.vector_norm(weights, dim=1).sum()
    # The optimizer's class would import torch's compiler, which takes as long as all the steps.
    adam(
        parameters,
        list(torch.autograd.grad(loss, [weights, bias])),
        [state.weights_mean, state.bias_mean],
        [state.weights_square, state.bias_square],
        [],
        [torch.tensor(float(state.step)) for _ in parameters],
        foreach=False,
        lr=rate,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.0,
        amsgrad=False,
        maximize=False,
    )
    state.step += 1


def _fingerprint(features: LayerColumns, labels: Tensor, num_classes: int) -> str:
    """What is trained on; of the features their first and last examples."""
    about = json.dumps([features.names, features.dims, num_classes])
    found = hashlib.sha256(about.encode() + labels.numpy().tobytes())
    for _, block in features.rows([0, -1]).blocks():
        found.update(np.ascontiguousarray(block).tobytes())
    return found.hexdigest()


@contextmanager
def _held_interrupts(held: bool) -> Iterator[list[int]]:
    """Ctrl-C fills the list instead of stopping in the middle of a step."""
    caught: list[int] = []
    if not held or threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


def _check(lam: float, lr: float, steps: int, batch_size: int) -> None:
    if not (0 <= lam < math.inf and 0 < lr < math.inf):
        raise InvalidInputError(f"lam={lam!r}, lr={lr!r}; use a lam from 0 on, and a positive lr")
    check_whole(1, steps=steps, batch_size=batch_size)
