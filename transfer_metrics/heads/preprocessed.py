"""Examples as a network takes them: preprocessed once where they fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError, InvalidInputError
from transfer_metrics.features.forward import Batches, example_length, needs_equal_lengths
from transfer_metrics.features.proof import padding_proven
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.models.tokens import TextBatch
from transfer_metrics.sources.tasks.in_memory import as_examples
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.new_examples import NewExamples, is_new, is_task_name
from transfer_metrics.sources.tasks.task import Split, Task

CACHE_BYTES = 2 << 30
"""Preprocessed inputs are kept up to this size, and made anew in every epoch beyond it."""
_AT_ONCE = 64


class Inputs:
    """Examples of which any can be asked for as one batch.

    Args:
        load: positions to a batch on the CPU, a tensor or a mapping of keyword arguments.
        n: number of examples.
        cached_bytes: how much memory they take, 0 where every batch is made anew.
        lengths: (N,) lengths of the examples where those of one batch should not differ.
    """

    def __init__(
        self,
        load: Callable[[np.ndarray], Any],
        n: int,
        cached_bytes: int = 0,
        lengths: np.ndarray | None = None,
    ) -> None:
        self._load = load
        self._n = n
        self.cached_bytes = cached_bytes
        self._lengths = lengths

    def __len__(self) -> int:
        return self._n

    def batch(self, positions: Any) -> Any:
        """The examples at some positions."""
        return self._load(np.asarray(positions))

    def rows(self, positions: np.ndarray) -> Inputs:
        """Some of the examples, as inputs of their own that share the memory."""
        lengths = None if self._lengths is None else self._lengths[positions]
        return Inputs(
            lambda some: self._load(positions[some]), len(positions), self.cached_bytes, lengths
        )

    def runs(self, size: int) -> list[np.ndarray]:
        """All positions in runs of at most ``size``, each of examples that can share a batch.

        >>> Inputs(np.copy, 4, lengths=np.array([9, 5, 9, 5])).runs(3)
        [array([1, 3]), array([0, 2])]
        """
        if self._lengths is None:
            return list(chunks(len(self), size))
        order = np.argsort(self._lengths, kind="stable")
        equal = np.split(order, np.flatnonzero(np.diff(self._lengths[order])) + 1)
        return [run[rows] for run in equal for rows in chunks(len(run), size)]

    @classmethod
    def of_tensor(cls, batch: Tensor) -> Inputs:
        """One tensor (N, …) of inputs.

        >>> Inputs.of_tensor(torch.arange(4.0)[:, None]).rows(np.array([3, 1])).batch([0]).tolist()
        [[3.0]]
        """
        size = batch.numel() * batch.element_size()
        return cls(lambda rows: batch[torch.from_numpy(rows)], len(batch), size)

    @classmethod
    def of_examples(
        cls, model: Model, examples: Sequence[Any], *, name: str = "examples", keep: bool = True
    ) -> Inputs:
        """Raw examples, preprocessed for a model; ``name`` is what messages call them.

        Inputs of one size are kept as one tensor, if ``keep`` and if that takes no more than
        ``CACHE_BYTES``; texts, whose batches are padded to their longest, are made anew for each
        batch.

        Raises:
            ExtractionError: an example cannot be prepared.
            InvalidInputError: the model reads another kind of example.
        """
        n = len(examples)
        task = Task(name, "classification", model.modality, {"train": Split(examples, np.zeros(n))})
        batches = Batches(model, task, "train")

        def load(rows: np.ndarray) -> Any:
            return batches.load([int(row) for row in rows])

        if needs_equal_lengths(padding_proven(model, task)):
            return cls(load, n, lengths=np.array([example_length(model, x) for x in examples]))
        if not keep or model.collate is not None:
            return cls(load, n)
        first = load(np.arange(1))
        if not isinstance(first, Tensor) or first.numel() * first.element_size() * n > CACHE_BYTES:
            return cls(load, n)
        kept = torch.empty((n, *first.shape[1:]), dtype=first.dtype)
        for rows in chunks(n, _AT_ONCE):
            part = load(rows)
            if part.shape[1:] != kept.shape[1:]:
                return cls(load, n)  # sizes differ between batches
            kept[rows[0] : rows[0] + len(rows)] = part
        return cls.of_tensor(kept)

    @classmethod
    def of_any(cls, model: Model, X: Any, split: str) -> Inputs:
        """A task or its name, of which ``split`` is read; a split; raw examples; or inputs.

        Raises:
            InvalidInputError: there are none, or the task has no such split.
        """
        if isinstance(X, Inputs):
            return X
        if is_task_name(X) or isinstance(X, Task):
            task = load_task(X)
            examples, name = task[split].examples, f"{task.name} ({split})"
        elif isinstance(X, Split):
            examples, name = X.examples, "the split"
        elif isinstance(X, NewExamples):
            examples, name = X.examples, "the examples"
        else:
            examples, name = as_examples(X, "the examples"), "the examples"
        if not len(examples):
            raise InvalidInputError("there are no examples")
        return cls.of_examples(model, examples, name=name, keep=False)


def is_raw(X: Any) -> bool:
    """Whether something can only be examples: a task, a split, files, images or texts."""
    return isinstance(X, (Task, Split)) or is_task_name(X) or is_new(X)


def network_logits(network: nn.Module, inputs: Inputs, batch_size: int) -> Tensor:
    """Logits of all examples in evaluation mode, (N, C) float32 on the CPU.

    Raises:
        ExtractionError: the forward pass failed, or logits are NaN or infinite.
    """
    logits = raw_logits(network, inputs, batch_size)
    bad = (~torch.isfinite(logits)).any(1).nonzero()
    if len(bad):
        raise ExtractionError(
            f"the logits of example {bad[0].item()} are NaN or infinite; check the example and "
            f"the network's weights"
        )
    return logits


def raw_logits(network: nn.Module, inputs: Inputs, batch_size: int) -> Tensor:
    """Like ``network_logits``, whatever the numbers are."""
    device = next(network.parameters()).device
    runs = inputs.runs(batch_size)
    with evaluation(network):
        parts = [network(to_device(inputs.batch(rows), device)).float().cpu() for rows in runs]
    return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(runs)))]


class PreparedSplits(dict[str, Inputs]):
    """Inputs of the splits of a task by name, made when first asked for.

    Each keeps at most ``CACHE_BYTES``, and all of them less than twice that.
    """

    def __init__(self, model: Model, splits: Mapping[str, Split]) -> None:
        self.model, self.splits = model, splits

    def __missing__(self, name: str) -> Inputs:
        keep = sum(inputs.cached_bytes for inputs in self.values()) < CACHE_BYTES
        examples = self.splits[name].examples
        inputs = Inputs.of_examples(self.model, examples, name=name, keep=keep)
        return self.setdefault(name, inputs)


def chunks(n: int, size: int) -> Iterator[np.ndarray]:
    """Positions 0 to n-1 in runs of at most ``size``."""
    return (np.arange(start, min(start + size, n)) for start in range(0, n, size))


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on another device."""
    if isinstance(batch, TextBatch):
        return batch.mapped(lambda tensor: tensor.to(device, non_blocking=True))
    if isinstance(batch, Mapping):
        return {name: to_device(item, device) for name, item in batch.items()}
    return batch.to(device, non_blocking=True) if isinstance(batch, Tensor) else batch
