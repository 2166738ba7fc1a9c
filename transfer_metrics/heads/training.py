"""Training networks: SGD or AdamW, a cosine per epoch, the best epoch of the best setting kept."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from transfer_metrics.errors import InvalidInputError, check_whole, warn
from transfer_metrics.heads.objective import quality
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.train_settings import TrainSettings
from transfer_metrics.progress import progress_bar
from transfer_metrics.selection.adam import loss_of
from transfer_metrics.selection.checkpoint import Checkpoint
from transfer_metrics.sources.models.model import place
from transfer_metrics.sources.models.modules import own_random_numbers

_STATES = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}
"""What the optimizers remember of each parameter."""


@dataclass
class Run:
    """What came of one training.

    ``epoch`` is the one whose weights were kept, from 1, or 0 for those at the start, and
    ``val_score`` the validation accuracy then, NaN where there is none; ``done`` epochs are
    finished. It ``diverged`` if the loss or the logits became NaN or infinite, so that it stopped.
    """

    epoch: int = 0
    val_score: float = math.nan
    steps: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    done: int = 0
    diverged: bool = False


def accuracy(
    network: nn.Module, inputs: Inputs, codes: Tensor, batch_size: int, kind: str
) -> float:
    """The ``quality`` of predictions in evaluation mode; NaN if logits are not finite."""
    logits = inputs.logits(network, batch_size, finite=False)
    if not bool(torch.isfinite(logits).all()):
        return math.nan
    return quality(kind, logits.double().numpy(), codes.numpy())


@dataclass(eq=False)
class Training:
    """A network in training: its optimizer, what was done so far, and the best weights.

    The first epoch with the best validation accuracy wins. Without validation, or with no epochs,
    the last weights stay.

    Targets are class numbers (N,), or whatever the ``loss`` of output and targets compares, which
    is that of the ``kind`` of task unless given. ``checkpoint`` is a file for the state after every
    epoch, which ``identity`` recognises too, such as fingerprints of the data: the same training
    goes on from there, on the CPU to the same bits as without the interruption. ``start`` is the
    validation accuracy of the weights at the start, where those count.
    """

    network: nn.Module
    settings: TrainSettings
    inputs: Inputs
    targets: Tensor
    validation: tuple[Inputs, Tensor] | None = None
    kind: str = "classification"
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    checkpoint: Path | None = None
    identity: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = False
    title: str = "training"
    start: float | None = None

    def __post_init__(self) -> None:
        network, settings = self.network, self.settings
        self.was_training = network.training
        self.parameters = settings.choose_parameters(network)
        trained = self.parameters.values()
        how: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
        self.optimizer: SGD | AdamW
        if settings.optimizer == "adamw":
            self.optimizer = AdamW(trained, **how)
        else:
            self.optimizer = SGD(trained, momentum=settings.momentum, **how)
        self.run = Run()
        self.best: dict[str, Tensor] | None = None
        if self.start is not None and math.isfinite(self.start):
            self.run.val_score = self.start
            self.best = copy.deepcopy(network.state_dict())
        self.kept: Checkpoint | None = None
        if self.checkpoint is not None:
            content = self.targets.detach().cpu().contiguous().numpy().tobytes()
            key = {
                "settings": settings.record(),
                "initial weights": _weights_hash(network),
                "targets": hashlib.sha256(content).hexdigest(),
                **self.identity,
            }
            self.kept = Checkpoint(self.checkpoint, key)
            self.resume(self.kept)

    def advance(self, until: int) -> None:
        """Train on to an epoch, unless that is done or the training has diverged."""
        run, inputs, settings = self.run, self.inputs, self.settings
        began = time.perf_counter() - run.seconds
        if self.validation is not None and not settings.epochs:
            run.val_score = self.score()
        total, done = until * len(inputs), min(run.done, until) * len(inputs)
        with progress_bar(self.title, total, self.progress, initial=done, unit=" examples") as bar:
            while run.done < until and not run.diverged:
                mean_loss = self.epoch(bar.update)
                self.judge(mean_loss, self.score(), time.perf_counter() - began)
                bar.set_postfix(loss=f"{mean_loss:.3g}", val=f"{run.val_score:.3f}")
                if self.kept is not None:
                    self.keep(self.kept)

    def score(self) -> Any:
        """How good the network is now on the examples for validation, if there are any."""
        return self.validation and accuracy(
            self.network, *self.validation, self.settings.batch_size, self.kind
        )

    def standing(self, until: int) -> tuple[float, float]:
        """What ranks trainings after so many epochs, the lowest first.

        The best validation accuracy so far, and of equals the training loss of the last epoch.
        """
        past = self.run.history[:until]
        scores = [r["val_score"] for r in past if r["val_score"] is not None]
        loss = past[-1]["loss"] if past else None
        return -max(scores, default=-math.inf), math.inf if loss is None else loss

    def finish(self) -> Run:
        """Leave the network with the weights of its best epoch."""
        if self.best is not None:
            self.network.load_state_dict(self.best)
        self.network.train(self.was_training)
        return self.run

    def epoch(self, advance: Callable[[int], Any]) -> float:
        """One pass over the data; the mean of the batches' losses, weighted by their size."""
        network, settings, run, n = self.network, self.settings, self.run, len(self.inputs)
        device, loss = next(network.parameters()).device, self.loss or loss_of(self.kind)
        seed = _epoch_seed(settings.seed, run.done)
        random = torch.Generator().manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(run.done)
        settings.set_modes(network)
        total = torch.zeros((), dtype=torch.float64, device=device)
        with own_random_numbers(seed, [device] if device.type == "cuda" else []):  # for dropout
            for rows in _epoch_batches(n, settings.batch_size, random):
                batch = _augmented(self.inputs.batch(rows.numpy()), settings.augment, random)
                self.optimizer.zero_grad(set_to_none=True)
                value = loss(network(place(batch, network)), self.targets[rows].to(device))
                value.backward()
                self.optimizer.step()
                total += value.detach().double() * len(rows)
                run.steps += 1
                advance(len(rows))
        run.done += 1
        return float(total) / n

    def judge(self, mean_loss: float, score: float | None, seconds: float) -> None:
        """Record an epoch, and keep its weights if they are the best so far."""
        run = self.run
        run.seconds = seconds
        setting = {"lr": self.settings.lr, "weight_decay": self.settings.weight_decay}
        found = {"epoch": run.done, "loss": _finite(mean_loss), "val_score": _finite(score)}
        run.history.append({**setting, **found, "seconds": seconds})
        run.diverged = not math.isfinite(mean_loss) or (score is not None and math.isnan(score))
        if score is None:
            run.epoch = run.done
        elif not run.diverged and not score <= run.val_score:
            run.epoch, run.val_score = run.done, score
            self.best = copy.deepcopy(self.network.state_dict())

    def keep(self, place: Checkpoint) -> None:
        """Write everything that going on depends on."""
        tensors = {"weights": self.network.state_dict(), "best": self.best or {}}
        for part in _STATES[self.settings.optimizer]:
            tensors[part] = {
                name: state
                for name, parameter in self.parameters.items()
                if (state := self.optimizer.state[parameter].get(part)) is not None
            }
        place.write(dataclasses.asdict(self.run), tensors)

    def resume(self, place: Checkpoint) -> None:
        """Go on from a checkpoint if there is one."""
        found = place.read()
        if found is None:
            return
        state, tensors = found
        self.network.load_state_dict(tensors["weights"])
        for part in _STATES[self.settings.optimizer]:
            for name, kept in tensors.get(part, {}).items():
                parameter = self.parameters[name]
                there = kept.device if part == "step" else parameter.device
                self.optimizer.state[parameter][part] = kept.to(there)
        self.run, self.best = Run(**state), tensors.get("best") or None


def tune(
    initial: nn.Module,
    inputs: Inputs,
    codes: Tensor,
    validation: tuple[Inputs, Tensor],
    grid: Sequence[TrainSettings],
    *,
    halving: int | None = None,
    from_start: bool = False,
    checkpoint: Path | None,
    title: str,
    kind: str = "classification",
    **options: Any,
) -> tuple[Training, list[Run]]:
    """Train a copy of a network per setting; the first of the best by validation, and all runs.

    With ``halving`` all settings are trained for a few epochs, and only the best go on, by
    ``rungs``, and one that diverges is dropped without a word; without it each is trained to its
    end before the next. ``from_start`` counts the weights at the start as an epoch, the first.
    ``checkpoint`` is a folder.
    """
    start = accuracy(initial, *validation, grid[0].batch_size, kind) if from_start else None

    def begun(index: int) -> Training:
        return Training(
            copy.deepcopy(initial),
            grid[index],
            inputs,
            codes,
            validation=validation,
            kind=kind,
            checkpoint=None if checkpoint is None else checkpoint / f"lr{index}.safetensors",
            title=f"{title} {grid[index]}",
            start=start,
            **options,
        )

    best: Training | None = None
    runs: list[Run] = []
    if halving is None:
        for index, settings in enumerate(grid):
            tried = begun(index)
            tried.advance(settings.epochs)
            runs.append(tried.run)
            most = math.nan if best is None else best.run.val_score
            if math.isnan(most) or tried.run.val_score > most:
                best = tried
            if tried.run.diverged:
                warn(
                    f"training with {settings} diverged in epoch {tried.run.done}; later epochs of "
                    f"this setting do not count"
                )
    else:
        alive = [begun(index) for index in range(len(grid))]
        runs = [training.run for training in alive]
        for until, kept in rungs(len(grid), grid[0].epochs, halving):
            for training in alive:
                training.advance(until)
            alive = sorted(alive, key=lambda training: training.standing(until))[:kept]
        best = alive[0]
    if best is None or math.isnan(best.run.val_score):
        raise InvalidInputError(
            f"training diverged with every learning rate of "
            f"{tuple(dict.fromkeys(s.lr for s in grid))}; use smaller ones"
        )
    best.finish()
    return best, runs


def rungs(settings: int, epochs: int, eta: int) -> list[tuple[int, int]]:
    """After how many epochs how many settings stay, of successive halving by a factor eta.

    One setting is trained for all epochs, up to eta for an eta-th of them, and so on back to the
    first step, which has all settings: so the steps cost about the same.

    Source: Jamieson and Talwalkar, AISTATS 2016 (arXiv 1502.07943).

    >>> rungs(9, 9, 3), rungs(5, 8, 2), rungs(1, 4, 2)
    ([(1, 3), (3, 1), (9, 1)], [(1, 3), (2, 2), (4, 1), (8, 1)], [(4, 1)])
    """
    check_whole(2, halving=eta)
    left, kept = settings, []
    while left > 1:
        left = -(-left // eta)
        kept.append(left)
    parts = [-(-epochs // eta**power) for power in range(len(kept), 0, -1)]
    return [*zip(parts, kept, strict=True), (epochs, 1)]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _weights_hash(module: nn.Module) -> str:
    """SHA-256 of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()


def _augmented(batch: Any, augment: Any, random: torch.Generator) -> Any:
    """A batch with random changes; of text there are none, and only images can be flipped."""
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


def _epoch_batches(n: int, size: int, random: torch.Generator) -> list[Tensor]:
    """Positions 0 to n-1 in a random order, in batches; a last one of one joins the one before."""
    parts = list(torch.randperm(n, generator=random).split(size))
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _epoch_seed(seed: int, epoch: int) -> int:
    """A seed that differs between epochs, and not by a mere shift between seeds."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
