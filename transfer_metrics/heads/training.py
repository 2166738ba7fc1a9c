"""One training loop for networks: SGD with momentum, a cosine per epoch, the best epoch kept."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.heads.modes import choose_parameters, set_modes
from transfer_metrics.heads.preprocessed import Inputs, raw_logits, to_device
from transfer_metrics.heads.training_settings import (
    TrainSettings,
    augmented,
    epoch_batches,
    epoch_seed,
)
from transfer_metrics.progress import progress_bar
from transfer_metrics.selection.checkpoint import read_checkpoint, write_checkpoint

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Run:
    """What came of one training.

    Attributes:
        epoch: the epoch whose weights were kept, from 1; 0 for those at the start.
        val_score: validation accuracy then; NaN without validation, or if no epoch was finite.
        steps: optimizer steps taken.
        seconds: time spent, validation included, over all sittings.
        history: per epoch ``lr, weight_decay, epoch, loss, val_score, seconds``; None where not
            finite.
        done: epochs that are finished.
        diverged: the loss or the logits became NaN or infinite, so it stopped.
    """

    epoch: int = 0
    val_score: float = math.nan
    steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    diverged: bool = False


def train(
    network: nn.Module,
    inputs: Inputs,
    targets: Tensor,
    settings: TrainSettings,
    *,
    validation: tuple[Inputs, Tensor] | None = None,
    loss: Loss = F.cross_entropy,
    checkpoint: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: bool = False,
    title: str = "training",
) -> Run:
    """Train a network in place and leave it with the weights of the best epoch.

    After every epoch the network is evaluated on the validation examples; the first epoch with
    the best accuracy wins. Without validation, or with no epochs, the last weights stay.

    Args:
        network: maps a batch to logits; on the device to train on.
        inputs: the examples.
        targets: (N,) class numbers, or whatever ``loss`` compares with the output.
        settings: how to train.
        validation: examples and class numbers that choose the epoch.
        loss: of output and targets of a batch.
        checkpoint: file to keep the state in after every epoch. With the same call it goes on
            from there; on the CPU the weights are the same bits as without the interruption.
        identity: what else the checkpoint is recognised by, such as a fingerprint of the data.
        progress: show a bar.
        title: its caption.

    Returns:
        What was done.

    Raises:
        InvalidInputError: settings that do not fit, or a checkpoint that cannot be written.
        IncompatibleStoreError: the checkpoint belongs to another training.
        CorruptStoreError: the checkpoint cannot be read.

    Cost: per epoch a forward and a backward pass over the training data and a forward pass over
    the validation data; memory for weights, momentum and the best weights.
    """
    if len(inputs) != len(targets):
        raise InvalidInputError(f"{len(inputs)} inputs but {len(targets)} targets")
    was_training, training = network.training, _Training(network, settings)
    run = training.run
    key: dict[str, Any] = {}
    if checkpoint is not None:
        key = _key(network, targets, settings, identity)
        run = training.resume(checkpoint, key)
    start = time.perf_counter() - run.seconds
    if validation is not None and not settings.epochs:
        run.val_score = accuracy(network, *validation, settings.batch_size)
    total, done = settings.epochs * len(inputs), run.done * len(inputs)
    with progress_bar(title, total, progress, initial=done, unit=" examples") as bar:
        while run.done < settings.epochs and not run.diverged:
            mean_loss, score = training.epoch(inputs, targets, loss, bar.update), None
            if validation is not None:
                score = accuracy(network, *validation, settings.batch_size)
            training.judge(mean_loss, score, time.perf_counter() - start)
            bar.set_postfix(loss=f"{mean_loss:.3g}", val=f"{run.val_score:.3f}")
            if checkpoint is not None:
                training.keep(checkpoint, key)
    if training.best is not None:
        network.load_state_dict(training.best)
    network.train(was_training)
    return run


def accuracy(network: nn.Module, inputs: Inputs, codes: Tensor, batch_size: int) -> float:
    """Share of right predictions in evaluation mode; NaN if logits are not finite."""
    logits = raw_logits(network, inputs, batch_size)
    if not bool(torch.isfinite(logits).all()):
        return math.nan
    return float((logits.argmax(dim=1) == codes).double().mean())


class _Training:
    """A network in training: its optimizer, what was done so far, and the best weights."""

    def __init__(self, network: nn.Module, settings: TrainSettings) -> None:
        self.network = network
        self.settings = settings
        self.parameters = choose_parameters(network, settings.freeze)
        self.optimizer = SGD(
            self.parameters.values(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self.run = Run()
        self.best: dict[str, Tensor] | None = None

    def epoch(
        self, inputs: Inputs, targets: Tensor, loss: Loss, advance: Callable[[int], Any]
    ) -> float:
        """One pass over the data; the mean of the batches' losses, weighted by their size."""
        network, settings, run = self.network, self.settings, self.run
        device = next(network.parameters()).device
        seed = epoch_seed(settings.seed, run.done)
        random = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(run.done)
        set_modes(network, settings.batch_norm, settings.freeze)
        total = torch.zeros((), dtype=torch.float64, device=device)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            _seed_dropout(seed, device)
            for rows in epoch_batches(len(inputs), settings.batch_size, random):
                batch = augmented(inputs.batch(rows.numpy()), settings.augment, random)
                self.optimizer.zero_grad(set_to_none=True)
                value = loss(network(to_device(batch, device)), targets[rows].to(device))
                value.backward()
                self.optimizer.step()
                total += value.detach().double() * len(rows)
                run.steps += 1
                advance(len(rows))
        run.done += 1
        return float(total) / len(inputs)

    def judge(self, mean_loss: float, score: float | None, seconds: float) -> None:
        """Record an epoch, and keep its weights if they are the best so far."""
        run = self.run
        run.seconds = seconds
        run.history.append(
            {
                "lr": self.settings.lr,
                "weight_decay": self.settings.weight_decay,
                "epoch": run.done,
                "loss": _finite(mean_loss),
                "val_score": _finite(score),
                "seconds": seconds,
            }
        )
        run.diverged = not math.isfinite(mean_loss) or (score is not None and math.isnan(score))
        if score is None:
            run.epoch = run.done
        elif not run.diverged and not score <= run.val_score:
            run.epoch, run.val_score = run.done, score
            self.best = {n: t.detach().clone() for n, t in self.network.state_dict().items()}

    def keep(self, path: Path, key: Mapping[str, Any]) -> None:
        """Write everything that going on depends on."""
        momentum = {
            name: state
            for name, parameter in self.parameters.items()
            if (state := self.optimizer.state[parameter].get("momentum_buffer")) is not None
        }
        tensors = {
            "weights": self.network.state_dict(),
            "momentum": momentum,
            "best": self.best or {},
        }
        write_checkpoint(path, key, dataclasses.asdict(self.run), tensors)

    def resume(self, path: Path, key: Mapping[str, Any]) -> Run:
        """Go on from a checkpoint if there is one."""
        found = read_checkpoint(path, key)
        if found is not None:
            state, tensors = found
            self.network.load_state_dict(tensors["weights"])
            for name, buffer in tensors.get("momentum", {}).items():
                parameter = self.parameters[name]
                self.optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter.device)
            self.run, self.best = Run(**state), tensors.get("best") or None
        return self.run


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _seed_dropout(seed: int, device: torch.device) -> None:
    # torch.manual_seed takes a millisecond where there is no accelerator.
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _key(
    network: nn.Module,
    targets: Tensor,
    settings: TrainSettings,
    identity: Mapping[str, Any] | None,
) -> dict[str, Any]:
    content = targets.detach().cpu().contiguous().numpy().tobytes()
    return {
        "settings": settings.record(),
        "initial weights": _weights_hash(network),
        "targets": hashlib.sha256(content).hexdigest(),
        **(identity or {}),
    }


def _weights_hash(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()
