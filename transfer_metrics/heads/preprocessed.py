"""Examples as a network takes them: preprocessed once where they fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError, InvalidInputError, TransferMetricsError
from transfer_metrics.features.batches import Batches
from transfer_metrics.features.forward import Forward
from transfer_metrics.features.proof import prove
from transfer_metrics.progress import progress_bar
from transfer_metrics.sources.models.model import Model, place
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.tasks.new_examples import NewExamples
from transfer_metrics.sources.tasks.task import Split, Task

_CACHE_BYTES = 2 << 30
"""Preprocessed inputs are kept up to this size, and made anew in every epoch beyond it."""
_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Inputs:
    """Examples of which any can be asked for as one batch.

    ``load`` makes a batch on the CPU of positions, a tensor or a mapping of keyword arguments;
    ``cached_bytes`` is how much memory they take, 0 where every batch is made anew; ``lengths`` are
    those of the examples where they should not differ in one batch.
    """

    load: Callable[[np.ndarray], Any]
    n: int
    cached_bytes: int = 0
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return self.n

    def batch(self, positions: Any) -> Any:
        """The examples at some positions."""
        return self.load(np.asarray(positions))

    def rows(self, positions: np.ndarray) -> Inputs:
        """Some of the examples, as inputs of their own that share the memory."""
        lengths = None if self.lengths is None else self.lengths[positions]
        return Inputs(
            lambda some: self.load(positions[some]), len(positions), self.cached_bytes, lengths
        )

    def runs(self, size: int) -> list[np.ndarray]:
        """All positions in runs of at most ``size``, each of examples that can share a batch."""
        if self.lengths is None:
            return list(_chunks(len(self), size))
        order = np.argsort(self.lengths, kind="stable")
        equal = np.split(order, np.flatnonzero(np.diff(self.lengths[order])) + 1)
        return [run[rows] for run in equal for rows in _chunks(len(run), size)]

    def map(self, run: Callable[[Any], Tensor], size: int) -> Tensor:
        """What a function makes of batches, in the order of the examples."""
        runs = self.runs(size)
        parts = [run(self.batch(rows)) for rows in runs]
        return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(runs)))]

    def logits(self, network: nn.Module, batch_size: int, *, finite: bool = True) -> Tensor:
        """What a network says of all in evaluation mode, (N, C) float32 on the CPU, ``finite``."""
        with evaluation(network):
            logits = self.map(lambda x: network(place(x, network)).float().cpu(), batch_size)
        bad = (~torch.isfinite(logits)).any(1).nonzero()
        if finite and len(bad):
            raise ExtractionError(
                f"the logits of example {bad[0].item()} are NaN or infinite; check the example and "
                f"the network's weights"
            )
        return logits

    @classmethod
    def of_tensor(cls, batch: Tensor) -> Inputs:
        """One tensor (N, …) of inputs."""
        size = batch.numel() * batch.element_size()
        return cls(lambda rows: batch[torch.from_numpy(rows)], len(batch), size)

    @classmethod
    def of_examples(
        cls, model: Model, examples: Sequence[Any], *, name: str = "examples", keep: bool = True
    ) -> Inputs:
        """Raw examples, preprocessed for a model; ``name`` is what messages call them.

        Inputs of one size are kept as one tensor, if ``keep`` and if that takes no more than
        ``_CACHE_BYTES``; texts, whose batches are padded to their longest, are made anew for each
        batch.
        """
        n = len(examples)
        task = Task(name, "classification", model.modality, {"train": Split(examples, np.zeros(n))})
        batches = Batches(model, examples, f"of {name!r} (train)")

        def load(rows: np.ndarray) -> Any:
            return batches.load([int(row) for row in rows])

        if model.pads:
            model = prove(Forward(model, task), ["last"], allow_random=True).model(model)
        if model.equal_lengths:
            return cls(load, n, lengths=np.array([model.length(x) for x in examples]))
        if not keep or model.collate is not None:
            return cls(load, n)
        first = load(np.arange(1))
        if not isinstance(first, Tensor) or first.numel() * first.element_size() * n > _CACHE_BYTES:
            return cls(load, n)
        kept = torch.empty((n, *first.shape[1:]), dtype=first.dtype)
        for rows in _chunks(n, _AT_ONCE):
            part = load(rows)
            if part.shape[1:] != kept.shape[1:]:
                return cls(load, n)  # sizes differ between batches
            kept[rows[0] : rows[0] + len(rows)] = part
        return cls.of_tensor(kept)

    @classmethod
    def of_any(cls, model: Model, X: Inputs | Split | NewExamples, name: str) -> Inputs:
        """Examples that are used once, of any form; ``name`` is what messages call them."""
        if isinstance(X, Inputs):
            return X
        if not len(X.examples):
            raise InvalidInputError("there are no examples")
        return cls.of_examples(model, X.examples, name=name, keep=False)

    @classmethod
    def readable(
        cls, network: nn.Module, model: Model, examples: Sequence[Any], size: int, progress: bool
    ) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
        """Positions (n,) and logits (n, C) of examples that can be read, and why others cannot.

        A batch that fails is run again one example at a time. Where all fail, the first one raises.
        """
        logits: dict[int, np.ndarray] = {}
        failures: dict[int, TransferMetricsError] = {}
        n = len(examples)
        try:
            whole = cls.of_examples(model, examples, keep=False)
            runs = whole.runs(size)
        except TransferMetricsError:  # some model needs to see an example first, which is broken
            whole, runs = None, [np.array([position]) for position in range(n)]

        def run(rows: np.ndarray) -> None:
            if whole is None:
                inputs = cls.of_examples(model, [examples[row] for row in rows], keep=False)
            else:
                inputs = whole.rows(rows)
            logits.update(zip(rows.tolist(), inputs.logits(network, size).numpy(), strict=True))

        with progress_bar(f"predicting with {model.name}", n, progress, unit=" examples") as bar:
            for rows in runs:
                try:
                    run(rows)
                except TransferMetricsError:
                    for row in rows:
                        try:
                            run(np.array([row]))
                        except TransferMetricsError as error:
                            failures[int(row)] = error
                bar.update(len(rows))
        if not logits:
            raise next(iter(failures.values()))
        found = np.array(sorted(logits))
        told = {row: str(error) for row, error in failures.items()}
        return found, np.stack([logits[row] for row in found]), told


class PreparedSplits(dict[str, Inputs]):
    """Inputs of the splits of a task by name, made when first asked for.

    Each keeps at most ``_CACHE_BYTES``, and all of them less than twice that.
    """

    def __init__(self, model: Model, splits: Mapping[str, Split]) -> None:
        self.model, self.splits = model, splits

    def __missing__(self, name: str) -> Inputs:
        keep = sum(inputs.cached_bytes for inputs in self.values()) < _CACHE_BYTES
        examples = self.splits[name].examples
        inputs = Inputs.of_examples(self.model, examples, name=name, keep=keep)
        return self.setdefault(name, inputs)


def _chunks(n: int, size: int) -> Iterator[np.ndarray]:
    """Positions 0 to n-1 in runs of at most ``size``."""
    return (np.arange(start, min(start + size, n)) for start in range(0, n, size))
