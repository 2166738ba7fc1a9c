"""Examples of blocks as rows about the means of all, in one piece."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.statistics.inputs import empty_like
from transfer_metrics.statistics.linalg import Scatter, product
from transfer_metrics.statistics.moments import gather


@dataclass(frozen=True, eq=False)
class BlockRows:
    """Rows of B blocks about the class means of all examples.

    They are the examples, class by class; or, of a block that was put together of several batches,
    what a rotation makes of those of each class, which turns their ones into ``ones``. That leaves
    alone whatever is the same for all examples of a class.
    """

    every: Tensor  # (Σ k, D)
    ones: np.ndarray  # (Σ k,)
    codes: np.ndarray  # class of each row, (Σ k,)
    starts: tuple[int, ...]  # where the rows of each block begin, and the last end, (B + 1,)
    offsets: Tensor  # class means less the mean of all, (C, D)

    @classmethod
    def of(
        cls, parts: Sequence[Scatter], counts: Tensor, shifts: Sequence[Tensor], offsets: Tensor
    ) -> BlockRows | None:
        """Those of scatters about the class means of the blocks; None where one is not of rows.

        ``counts`` (B, C) has examples of each class, and ``shifts`` by how much their means (C, D)
        differ from those of all.
        """
        if any(part.dense for part in parts):
            return None
        codes, ones = [], []
        for part, own in zip(parts, counts.cpu().numpy(), strict=True):
            present = np.flatnonzero(own)
            if len(part.data) == own.sum() and _in_order(part.data, own[present]):
                codes.append(present.repeat(own[present]))
                ones.append(np.ones(len(part.data)))
            else:
                codes.append(np.concatenate([np.full(len(part.data), present[:1]), present]))
                ones.append(np.concatenate([np.zeros(len(part.data)), np.sqrt(own[present])]))
        starts = (0, *accumulate(map(len, codes)))
        every = empty_like(offsets[:1].expand(starts[-1], -1))
        for b, (start, stop) in enumerate(pairwise(starts)):
            rows, middle = every[start:stop], start + len(parts[b].data)
            index = torch.from_numpy(codes[b]).to(every.device)
            torch.index_select(shifts[b], 0, index, out=rows)
            if middle < stop:
                rows *= torch.from_numpy(ones[b]).to(rows)[:, None]
            rows[: middle - start] += parts[b].data
        return cls(every, np.concatenate(ones), np.concatenate(codes), starts, offsets)

    @cached_property
    def plain(self) -> bool:
        """Whether the rows are the examples themselves."""
        return bool((self.ones == 1.0).all())

    @cached_property
    def scatter(self) -> Scatter:
        """About the class means, of all blocks."""
        return Scatter.of_rows(self.every)

    @property
    def parts(self) -> tuple[Scatter, ...]:
        """The same of each block, as rows."""
        return tuple(Scatter(self.every[i:j], False) for i, j in pairwise(self.starts))

    def of_class(self, c: int) -> BlockRows:
        """Those of one class, where all are examples."""
        chosen = np.flatnonzero(self.codes == c)
        starts = np.searchsorted(chosen, self.starts)
        every = empty_like(self.every[: len(chosen)])
        gather(self.every, torch.from_numpy(chosen), every)
        zeros = np.zeros(len(chosen), np.int64)
        return BlockRows(
            every, self.ones[chosen], zeros, tuple(starts.tolist()), self.offsets[c : c + 1]
        )

    def select(self, columns: slice) -> BlockRows:
        """Those of some of the features."""
        offsets = self.offsets[:, columns]
        return dataclasses.replace(self, every=self.every[:, columns], offsets=offsets)

    def labels(self, b: int) -> tuple[np.ndarray, np.ndarray]:
        """What became of the ones of block b, and the class of each row, (k,)."""
        chosen = slice(self.starts[b], self.starts[b + 1])
        return self.ones[chosen], self.codes[chosen]

    def filled(
        self, b: int, kind: Any = np.float64, unit: float = 1.0, *, centred: bool = False
    ) -> np.ndarray:
        """Rows of block b, about the mean of all unless ``centred``, times ``unit``; (k, D), new.

        ``kind`` is that of their numbers.
        """
        rows = self.every[self.starts[b] : self.starts[b + 1]].cpu().numpy()
        found = np.multiply(rows, unit, out=np.empty(rows.shape, kind), casting="same_kind")
        if not centred:
            ones, codes = self.labels(b)
            moved = (unit * self.offsets.cpu().numpy()).astype(kind)[codes]
            if not self.plain:
                moved *= ones[:, None].astype(kind)
            found += moved
        return found

    def times(self, columns: Tensor) -> Tensor:
        """All rows, about the mean of all, times columns (D, m): (Σ k, m)."""
        moved = (self.offsets @ columns)[torch.from_numpy(self.codes).to(columns.device)]
        ones = torch.from_numpy(self.ones).to(moved)
        return product(self.every, columns).addcmul_(ones[:, None], moved)

    def summed(self, columns: Tensor) -> Tensor:
        """Rows, about the mean of all, weighted by columns (Σ k, m) and summed: (D, m)."""
        own = torch.from_numpy(self.ones).to(columns)[:, None] * columns
        sums = own.new_zeros(len(self.offsets), own.shape[1])
        sums.index_add_(0, torch.from_numpy(self.codes).to(own.device), own)
        return self.every.T @ columns + self.offsets.T @ sums

    def products(self, *, centred: bool = False) -> Tensor:
        """All rows, about the mean of all unless ``centred``, times each other: (Σ k, Σ k), new."""
        found = self.scatter.small.clone()
        if centred:
            return found
        codes = torch.from_numpy(self.codes).to(found.device)
        ones = torch.from_numpy(self.ones).to(found)
        across = (self.every @ self.offsets.T + 0.5 * ones[:, None] * self._angles[codes])[:, codes]
        across *= ones
        found += across
        found += across.T
        return found

    @cached_property
    def _angles(self) -> Tensor:
        return self.offsets @ self.offsets.T


def _in_order(within: Tensor, counts: np.ndarray) -> bool:
    """Whether rows are those of one batch: deviations from the means of classes, in their order."""
    if not len(counts):
        return True
    # Sums of rows are zero where, but for chance, they are so along one direction.
    along = (within @ torch.linspace(1.0, 2.0, within.shape[1]).to(within).sin()).cpu().numpy()
    sums = np.add.reduceat(along, np.concatenate([[0], counts.cumsum()[:-1]]))
    return bool(np.abs(sums).max() <= 1e-9 * np.abs(along).max() * len(within))
