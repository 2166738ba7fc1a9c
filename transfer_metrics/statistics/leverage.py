"""What ridge regressions and determinants lose with a block of examples, where these are few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import solve_triangular
from scipy.linalg.blas import dtrmm, strmm
from torch import Tensor

from transfer_metrics.statistics.linalg import Scatter, stacked
from transfer_metrics.statistics.moments import ClassMoments

# Largest variance over shift up to which float32 leaves three digits of an error.
_EVEN = 1e5
# A leverage nearer to one than this leaves nothing to divide by.
_ALONE = 1e-9


class Ridge:
    """``(T + shift I)⁻¹`` for the scatter T of all rows Z_b of B blocks, by one factorisation."""

    def __init__(self, rows: Sequence[Tensor], total: Scatter, shift: float) -> None:
        self._rows, self._shift, self._dense = rows, shift, total.dense
        # Where all rows are fewer than D their products with each other are the smaller matrix.
        self._every = total.data if total.dense else stacked(*rows)
        matrix = self._every.clone() if total.dense else Scatter(self._every, False).small
        matrix.diagonal().add_(shift)
        even = float(matrix.diagonal().max()) < _EVEN * shift
        self._kind = np.float32 if even else np.float64
        self._factor, self._matrix = torch.linalg.cholesky(matrix), matrix

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.cholesky_inverse(self._factor)

    def solve(self, right: Tensor) -> Tensor:
        """Times columns (D, k)."""
        if self._dense:
            return torch.cholesky_solve(right, self._factor)
        inside = self._inverse @ (self._every @ right)
        return (right - self._every.T @ inside) / self._shift

    def logdet(self) -> float:
        """``log det(I + T / shift)``."""
        size = len(self._factor) * math.log(self._shift)
        return 2.0 * float(self._factor.diagonal().log().sum()) - size

    def leverages(self) -> list[np.ndarray]:
        """``Z_b (T + shift I)⁻¹ Z_b'`` of each block, (k, k)."""
        found, start = [], 0
        factor = self._factor.cpu().numpy().astype(self._kind, copy=False)
        for rows in self._rows:
            if self._dense:
                turned = rows.cpu().numpy().astype(self._kind, copy=False).T
                half = solve_triangular(factor, turned, lower=True, check_finite=False)
                found.append((half.T @ half).astype(np.float64, copy=False))
            else:
                end = start + len(rows)
                own = self._inverse[start:end, start:end].cpu().numpy()
                found.append(np.eye(len(own)) - self._shift * own)
                start = end
        return found

    def with_total(self) -> list[float]:
        """``<T, Z_b'Z_b>`` of each block: ``‖Z_b L‖²`` less ``shift ‖Z_b‖²`` for the factor L."""
        factor = self._factor.cpu().numpy().astype(self._kind, copy=False)
        times = strmm if self._kind is np.float32 else dtrmm
        found, start = [], 0
        for rows in self._rows:
            end = start + len(rows)
            if self._dense:
                turned = rows.cpu().numpy().astype(self._kind, copy=False).T
                image = times(1.0, factor.T, turned).T
                lengths = np.vecdot(image, image) - self._shift * np.vecdot(turned.T, turned.T)
                found.append(float(lengths.sum(dtype=np.float64)))
            else:
                own = self._matrix[start:end].square().sum()
                diagonal = self._matrix.diagonal()[start:end]
                own += ((diagonal - self._shift).square() - diagonal.square()).sum()
                found.append(float(own))
            start = end
        return found


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
    labels: tuple[Tensor, ...]  # class of each row, (k,), or its targets, (k, K)
    n: int

    @classmethod
    def of(
        cls, whole: ClassMoments, blocks: Sequence[ClassMoments], targets: int = 0
    ) -> Leverage | None:
        """That of blocks whose scatter is kept as rows; None where that of one is not.

        The last columns may be targets.
        """
        if any(block.within.dense for block in blocks):
            return None
        found = [_rows_of(block, whole.mean) for block in blocks]
        rows, ones, labels = zip(*found, strict=True)
        if targets:
            middle = whole.mean[-targets:]
            labels = tuple(z[:, -targets:] + one[:, None] * middle for z, one, _ in found)
            rows = tuple(z[:, :-targets].contiguous() for z in rows)
        return cls(rows, ones, labels, whole.n)

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
        return self.rows[0].new_tensor(found)

    def of_energy(self, own: Sequence[np.ndarray], errors: Sequence[np.ndarray]) -> Tensor:
        """What ``min ‖t - Xw‖² + λ‖w‖²`` of each of K targets loses with each block, (B, K).

        ``own`` are the leverages, of the intercept too where there is one, and ``errors`` what is
        left of the targets, (k, K).
        """
        lost = [(e * missed_without(h, e)).sum(axis=0) for h, e in zip(own, errors, strict=True)]
        return torch.from_numpy(np.stack(lost)).to(self.rows[0])

    def targets(self, b: int, chosen: Sequence[int]) -> np.ndarray:
        """Some targets, or one-hot labels of some classes, for the rows of block b, (k, K)."""
        labels = self.labels[b].cpu().numpy()
        if labels.ndim == 2:
            return labels[:, chosen]
        found = np.zeros((len(labels), len(chosen)))
        codes = np.searchsorted(np.asarray(chosen), labels)
        found[np.arange(len(codes)), codes] = self.ones[b].cpu().numpy()
        return found


def missed_without(own: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """By how much regressions miss a block of leverages (k, k) that they are not fitted to, (k, K).

    ``errors`` (k, K) is by how much those that are fitted to it do.
    """
    left = np.eye(len(own)) - own
    left[np.diag_indices_from(left)] += _ALONE
    return np.linalg.solve(left, errors)


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
    # Sums of rows are zero where, but for chance, they are so along one direction.
    along = within @ torch.linspace(1.0, 2.0, within.shape[1]).to(within).sin()
    starts = np.concatenate([[0], counts.cumsum(0)[:-1].cpu().numpy()])
    sums = np.add.reduceat(along.cpu().numpy(), starts)
    largest = float(along.abs().max()) if along.numel() else 0.0
    return bool(np.abs(sums).max() <= 1e-9 * largest * len(within))
