"""What ridge regressions and determinants lose with a block of examples, where these are few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from scipy.linalg import lapack
from scipy.linalg.blas import dtrmm, dtrsm, strmm
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.block_rows import BlockRows
from transfer_metrics.statistics.linalg import Scatter, cholesky

# Largest variance over the least that the features before leave of one, up to which float32 leaves
# three digits of an error.
_EVEN = 1e7
# Matrices up to this size are decomposed all at once.
_TINY = 32
# A leverage nearer to one than this leaves nothing to divide by.
_ALONE = 1e-9


class Ridge:
    """``(T + shift I)⁻¹`` for the scatter T of all rows Z_b of B blocks, by one factorisation.

    The rows are about the mean of all, or ``centred``, about those of their classes.
    """

    def __init__(
        self, total: Scatter, shift: float, rows: BlockRows | None = None, *, centred: bool = False
    ) -> None:
        self._rows, self._shift, self._centred = rows, shift, centred
        self._dense = total.dense
        if total.dense or rows is None:
            largest = float(total.small.diagonal().max()) + shift
            self._factor = total.factor(shift)
        else:
            # Where all rows are fewer than D their products with each other are the smaller matrix.
            matrix = rows.products(centred=centred)
            self._squares = matrix.square().sum(dim=1)
            matrix.diagonal().add_(shift)
            largest = float(matrix.diagonal().max())
            self._factor = cholesky(matrix)
        self._kind = kind_for(largest, float(self._factor.diagonal().min()) ** 2)
        # Nothing is too large or small for float32 then.
        self._unit = largest**-0.5

    def solve(self, right: Tensor) -> Tensor:
        """Times columns (D, k)."""
        if self._dense:
            return torch.cholesky_solve(right, self._factor)
        assert self._rows is not None
        inside = torch.cholesky_solve(self._rows.times(right), self._factor)
        return (right - self._rows.summed(inside)) / self._shift

    def logdet(self) -> float:
        """``log det(I + T / shift)``."""
        size = len(self._factor) * math.log(self._shift)
        return 2.0 * float(self._factor.diagonal().log().sum()) - size

    @cached_property
    def _triangle(self) -> np.ndarray:
        """The factor in units of its largest entry, in the order of columns."""
        factor = self._factor.cpu().numpy()
        found = np.empty(factor.shape, self._kind, "F")
        with np.errstate(over="ignore"):  # of what stands above the diagonal
            return np.multiply(factor, self._unit, out=found, casting="same_kind")

    def left(self) -> list[np.ndarray]:
        """``I - Z_b (T + shift I)⁻¹ Z_b'`` of each block: one less its leverages, (k, k)."""
        assert self._rows is not None
        single, starts = self._kind is np.float32, self._rows.starts
        # Products with the inverse of the factor are as exact as solutions, and faster.
        inverse = (lapack.strtri if single else lapack.dtrtri)(self._triangle, lower=1)[0]
        found, times = [], strmm if single else dtrmm
        if not self._dense:
            inverse, scale = np.tril(inverse), self._shift * self._unit**2
        for b, (start, stop) in enumerate(pairwise(starts)):
            if self._dense:
                turned = self._rows.filled(b, self._kind, self._unit, centred=self._centred).T
                half = times(1.0, inverse, turned, lower=1, overwrite_b=1).T
                own = np.negative((half @ half.T).astype(np.float64, copy=False))
                own[np.diag_indices_from(own)] += 1.0
            else:
                half = inverse[start:, start:stop].T
                own = scale * (half @ half.T).astype(np.float64, copy=False)
            found.append(own)
        return found

    def with_total(self) -> list[float]:
        """``<T, Z_b'Z_b>`` of each block: ``‖Z_b L‖²`` less ``shift ‖Z_b‖²`` for the factor L."""
        assert self._rows is not None
        found, times = [], strmm if self._kind is np.float32 else dtrmm
        for b, (start, stop) in enumerate(pairwise(self._rows.starts)):
            if self._dense:
                rows = self._rows.filled(b, self._kind, self._unit, centred=self._centred)
                lengths = self._shift * self._unit**2 * np.vecdot(rows, rows)
                image = times(1.0, self._triangle, rows.T, lower=1, trans_a=1, overwrite_b=1).T
                lengths = np.vecdot(image, image) - lengths
                found.append(float(lengths.sum(dtype=np.float64)) / self._unit**4)
            else:
                found.append(float(self._squares[start:stop].sum()))
        return found


@dataclass(frozen=True, eq=False)
class Leverage:
    """Examples of B blocks about the mean of all, and how much of each fit is their own.

    A block of leverage H moves a fit by ``(I - H)⁻¹`` times what the derivative in its weight
    tells, which where examples are few, or some are far longer than others, is too little by half:
    so what is returned here is the loss of leaving it out.
    """

    rows: BlockRows
    known: Tensor | None = None  # targets of a regression, (Σ k, K)

    @classmethod
    def of(cls, rows: BlockRows, mean: Tensor, targets: int = 0) -> Leverage:
        """That of rows whose last columns may be targets, of a mean (D + K,)."""
        if not targets:
            return cls(rows)
        middle = torch.from_numpy(rows.ones).to(mean)[:, None] * mean[-targets:]
        return cls(rows.select(slice(-targets)), rows.every[:, -targets:] + middle)

    @property
    def n(self) -> float:
        """How many examples there are."""
        return float(np.dot(self.rows.ones, self.rows.ones))

    def of_logdet(self, left: Sequence[np.ndarray]) -> Tensor:
        """What ``log det(T + shift I)`` loses with each block, from what is ``left`` there, (B,).

        Times the share of examples that are left, as for slopes.
        """
        ones = [self.rows.labels(b)[0] for b in range(len(left))]
        shares = np.array([one @ one for one in ones]) / self.n
        rest = [own - np.outer(one, one) / self.n for own, one in zip(left, ones, strict=True)]
        return torch.from_numpy((1.0 - shares) * (np.log1p(-shares) - logdets(rest)))

    def targets(self, b: int, chosen: Sequence[int]) -> np.ndarray:
        """Some targets, or one-hot labels of some classes, for the rows of block b, (k, K)."""
        if self.known is not None:
            rows = slice(self.rows.starts[b], self.rows.starts[b + 1])
            return self.known[rows].cpu().numpy()[:, chosen]
        ones, labels = self.rows.labels(b)
        found = np.zeros((len(labels), len(chosen)))
        found[np.arange(len(labels)), np.searchsorted(np.asarray(chosen), labels)] = ones
        return found


def kind_for(largest: float, least: float) -> type[np.floating]:
    """Kind of float in which leverages have three digits, for the variances of directions."""
    return np.float32 if largest < _EVEN * least else np.float64


def logdets(left: Sequence[np.ndarray]) -> np.ndarray:
    """``log det`` of what leverages leave of one, (B,)."""
    found, sizes = np.empty(len(left)), np.array([len(one) for one in left])
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size).tolist()
        if size > _TINY:
            found[chosen] = [missed_without(left[b], left[b][:, :0])[0] for b in chosen]
        else:
            found[chosen] = np.linalg.slogdet(np.stack([left[b] for b in chosen]))[1]
    return found


def missed_without(left: np.ndarray, errors: np.ndarray) -> tuple[float, np.ndarray]:
    """``log det`` of what leverages leave of one (k, k), and rows Y for errors (k, K).

    Where errors are those of regressions, ``Y'Y`` is what their products with each other, and their
    energies ``min ‖t - Xw‖² + λ‖w‖²``, lose without the block.
    """
    factor, failed = lapack.dpotrf(left.T, lower=1, clean=0)
    if failed:
        alone = left + _ALONE * np.eye(len(left))
        factor, failed = lapack.dpotrf(alone.T, lower=1, clean=0)
    if failed:
        raise InvalidInputError("without some examples there is nothing to fit them by")
    return 2.0 * float(np.log(factor.diagonal()).sum()), dtrsm(1.0, factor, errors, lower=1)
