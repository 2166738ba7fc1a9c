"""What ridge regressions and determinants lose with a block of examples, where these are few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from torch import Tensor

from transfer_metrics.statistics.linalg import Scatter, stacked
from transfer_metrics.statistics.moments import ClassMoments

# Largest eigenvalue over shift up to which float32 leaves four digits of a leverage.
_EVEN = 1e3
# A leverage nearer to one than this leaves nothing to divide by.
_ALONE = 1e-9


@dataclass(frozen=True, eq=False)
class Leverage:
    """Examples of B blocks about the mean of all, and how much of each fit is their own.

    The rows of a block are its examples, up to a rotation among those of one class and batch, which
    leaves all that is computed here alone. A block of leverage H moves a fit by ``(I - H)⁻¹`` times
    what the derivative in its weight tells, which where examples are few, or some are far longer
    than others, is too little by half: so what is returned here is the loss of leaving it out.
    """

    rows: tuple[Tensor, ...]  # deviations from the mean of all, (k, D)
    ones: tuple[Tensor, ...]  # what a column of ones became, (k,)
    classes: tuple[Tensor, ...]  # class of each row, (k,)
    n: int

    @classmethod
    def of(cls, whole: ClassMoments, blocks: Sequence[ClassMoments]) -> Leverage | None:
        """That of blocks whose scatter is kept as rows; None where that of one is not."""
        if any(block.within.dense for block in blocks):
            return None
        found = [_rows_of(block, whole.mean) for block in blocks]
        rows, ones, classes = zip(*found, strict=True)
        return cls(rows, ones, classes, whole.n)

    def of_shift(self, total: Scatter, shift: float) -> list[np.ndarray]:
        """``Z_b (T + shift I)⁻¹ Z_b'`` for the rows Z_b of each block, by one factorisation."""
        if not total.dense:
            return self._of_gram(shift)
        matrix = total.data.clone()
        matrix.diagonal().add_(shift)
        even = float(total.data.diagonal().max()) < _EVEN * shift
        kind = np.float32 if even else np.float64
        factor = torch.linalg.cholesky(matrix).cpu().numpy().astype(kind, copy=False)
        found = []
        for rows in self.rows:
            turned = rows.cpu().numpy().astype(kind, copy=False).T
            half = solve_triangular(factor, turned, lower=True, check_finite=False)
            found.append((half.T @ half).astype(np.float64, copy=False))
        return found

    def _of_gram(self, shift: float) -> list[np.ndarray]:
        """The same by the products of all rows with each other, where they are fewer than D."""
        gram = Scatter(stacked(*self.rows), dense=False).small.cpu().numpy()
        gram = gram + shift * np.eye(len(gram))
        inverse = cho_solve(cho_factor(gram, check_finite=False), np.eye(len(gram)))
        found, start = [], 0
        for rows in self.rows:
            end = start + len(rows)
            found.append(np.eye(len(rows)) - shift * inverse[start:end, start:end])
            start = end
        return found

    def of_logdet(self, own: Sequence[np.ndarray]) -> Tensor:
        """What ``log det(T + shift I)`` loses with each block, from ``own`` of that shift, (B,).

        Times the share of examples that are left, as for slopes.
        """
        found = []
        for one, ones in zip(own, self.ones, strict=True):
            constant = ones.cpu().numpy()
            share = float(constant @ constant) / self.n
            left = np.eye(len(one)) - one - np.outer(constant, constant) / self.n
            lost = math.log(1.0 - share) - float(np.linalg.slogdet(left)[1])
            found.append((1.0 - share) * lost)
        return torch.tensor(found).to(self.rows[0])

    def of_energy(self, own: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> Tensor:
        """What ``min ‖t - Xw‖² + λ‖w‖²`` of each of K targets loses with each block, (B, K).

        ``own`` are the leverages, of the intercept too where there is one, and ``errors`` what is
        left of the targets, (k, K).
        """
        found = []
        for one, error in zip(own, errors, strict=True):
            left = np.eye(len(one)) - one
            left[np.diag_indices_from(left)] += _ALONE
            found.append((error * np.linalg.solve(left, error)).sum(axis=0))
        return torch.from_numpy(np.stack(found)).to(self.rows[0])

    def targets(self, b: int, present: Sequence[int]) -> np.ndarray:
        """One-hot labels of the classes that there are, for the rows of block b, (k, K)."""
        codes = np.searchsorted(np.asarray(present), self.classes[b].cpu().numpy())
        found = np.zeros((len(codes), len(present)))
        found[np.arange(len(codes)), codes] = self.ones[b].cpu().numpy()
        return found


def _rows_of(block: ClassMoments, origin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows about an origin, the ones and the classes, of a block whose scatter is kept as rows."""
    counts, within = block.counts, block.within.data
    present = counts > 0
    apart = block.means[present] - origin
    kinds = present.nonzero().flatten()
    if len(within) == block.n and _in_order(within, counts[present]):
        rows = within + apart.repeat_interleave(counts[present], dim=0)
        return rows, rows.new_ones(len(rows)), kinds.repeat_interleave(counts[present])
    roots = counts[present].to(apart).sqrt()
    rows = stacked(within, roots[:, None] * apart)
    ones = torch.cat([roots.new_zeros(len(within)), roots])
    return rows, ones, torch.cat([kinds.new_zeros(len(within)) + kinds[0], kinds])


def _in_order(within: Tensor, counts: Tensor) -> bool:
    """Whether rows are those of one batch: deviations from the means of classes, in their order."""
    starts = np.concatenate([[0], counts.cumsum(0)[:-1].cpu().numpy()])
    sums = np.add.reduceat(within.cpu().numpy(), starts, axis=0)
    largest = float(within.abs().max()) if within.numel() else 0.0
    return bool(np.abs(sums).max() <= 1e-9 * largest * len(within))
