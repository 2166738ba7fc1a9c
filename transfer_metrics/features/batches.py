"""Examples of a split as batches for a network: which go together, loaded ahead of their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from transfer_metrics.errors import ExtractionError, TransferMetricsError, warn
from transfer_metrics.features.pixels import Pixels
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Split

_AHEAD = 2
"""Batches that may wait for the network."""
MOST, _LEAST = 64, 8
"""Examples of a batch whose size nobody gave."""
_INPUTS = 20 << 20
"""Bytes of its inputs on a CPU."""


class Batches(Dataset):
    """Preprocessed batches of examples, each addressed by the list of their positions.

    An example that cannot be prepared gives the error instead of a batch, since an exception that
    leaves a worker process loses its type and message; it says ``where`` they are. ``whole`` says
    that who asks can read examples at the end that it did not ask for. Where decoded images are
    looked for in ``pixels``, batches of images are their pixels.
    """

    def __init__(
        self,
        model: Model,
        examples: Sequence[Any],
        where: str = "",
        *,
        whole: bool = False,
        pixels: Pixels | None = None,
    ) -> None:
        self._model = model
        self._pixels = pixels
        self._examples = examples
        maps = getattr(examples, "maps", None)
        doubts = maps.doubts(model.name, model.input_shape) if maps and model.normalises else ""
        if doubts:
            warn(doubts)
        self._least = model.least if whole else 1
        self._where = where

    def __getitem__(self, indices: Sequence[int]) -> tuple[list[int], Any]:
        try:
            batch: Any = self._pixels and self._pixels.batch(indices, self._examples)
            if batch is None:
                examples = [self._examples[index] for index in indices]
                batch = self._model.batch(examples * -(-self._least // len(examples)))
        except TransferMetricsError as error:
            return list(indices), error
        except Exception as error:
            batch = ExtractionError(
                f"{self._failing(indices)} {self._where} could not be prepared for "
                f"{self._model.name!r}: {type(error).__name__}: {error}"
            )
        return list(indices), batch

    def _failing(self, indices: Sequence[int]) -> str:
        """The first of some examples that cannot be prepared alone either, or all of them."""
        for index in indices:
            try:
                self._model.batch([self._examples[index]] * self._least)
            except Exception:
                return f"example {index}"
        return f"examples {min(indices)} to {max(indices)}"

    def load(self, indices: Sequence[int]) -> Any:
        """One batch, or the error of its preparation raised."""
        batch = self[indices][1]
        if isinstance(batch, TransferMetricsError):
            raise batch
        return batch

    def ahead(self, batches: list[list[int]], num_workers: int) -> Generator[Any]:
        """Batches in their order, each loaded while the network works on what comes before.

        Without worker processes a thread loads up to ``_AHEAD``, since decoding and the network
        both work without Python's lock.
        """
        loader = DataLoader(
            self,
            sampler=batches,
            batch_size=None,
            collate_fn=_same,
            num_workers=num_workers,
            pin_memory=next(self._model.module.parameters(), torch.empty(0)).is_cuda,
            generator=torch.Generator(),  # or the caller's random state would advance
        )
        loaded = iter(loader)
        if num_workers or len(batches) < 2:
            yield from loaded
            return
        # Gradients are switched off for each thread apart.
        with ThreadPoolExecutor(1, "loader", torch.set_grad_enabled, (False,)) as thread:
            coming = deque(thread.submit(next, loaded, None) for _ in range(_AHEAD))
            try:
                while (item := coming.popleft().result()) is not None:
                    coming.append(thread.submit(next, loaded, None))
                    yield item
            finally:
                for future in coming:
                    future.cancel()


def _same(item: Any) -> Any:
    return item


def fitting_batch_size(input_bytes: int, device: torch.device | None) -> int:
    """Examples of a batch, where each takes so many bytes and nobody says how many.

    On a CPU fewer of large inputs, of which layers hand on much: passes over images of 224 pixels
    took the same time at 24 to 64, to a few per cent, and at 32 less memory. It is by a rule and
    not by trial, since another batch rounds features otherwise.

    >>> cpu = torch.device("cpu")
    >>> [fitting_batch_size(4 * 3 * side**2, cpu) for side in (32, 96, 128, 224, 384)]
    [64, 64, 64, 32, 8]
    >>> fitting_batch_size(4 * 3 * 224**2, torch.device("cuda"))
    64
    """
    if device is not None and device.type != "cpu":
        return MOST
    fitting = _INPUTS // max(input_bytes, 1) // _LEAST * _LEAST
    return max(_LEAST, min(MOST, fitting))


def batches_of(
    data: Split,
    rows: range,
    batch_size: int,
    length: Callable[[Any], int] | None = None,
    equal: bool = False,
) -> list[np.ndarray]:
    """Cut the examples of a shard into batches, each ascending, as positions within the shard.

    A batch of words is of at most ``batch_size`` sentences, which are not torn apart. By ``length``
    examples of like length go together, the longest first, or of ``equal`` length only; which
    examples share a batch changes features by rounding only.

    >>> data = Split(["a", "a long text", "another text", "b"], np.arange(4))
    >>> [batch.tolist() for batch in batches_of(data, range(4), 2, len)]
    [[1, 2], [0, 3]]
    """
    units = np.arange(len(rows)) if data.units is None else data.units[rows.start : rows.stop]
    _, firsts, owner = np.unique(units, return_index=True, return_inverse=True)
    positions = np.arange(len(firsts))
    numbers = positions // batch_size
    if length is not None and (equal or len(firsts) > batch_size):
        lengths = np.array([length(data.examples[rows[first]]) for first in firsts])
        longest_first = np.argsort(-lengths, kind="stable")
        if equal:  # every length begins a batch
            ordered = -lengths[longest_first]
            within = positions - np.searchsorted(ordered, ordered)
            numbers = np.cumsum(within % batch_size == 0) - 1
        numbers[longest_first] = numbers.copy()
    batch = numbers[owner]
    order = np.argsort(batch, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(batch[order])) + 1)
