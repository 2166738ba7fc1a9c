"""Positive semi-definite matrices kept on their smaller side, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.statistics.inputs import as_columns, empty_like
from transfer_metrics.statistics.saving import Saved, require


def _gram(rows: Tensor) -> Tensor:
    """``rows' rows`` of a (k, D) tensor: (D, D).

    On the CPU numpy recognises the product of a matrix with its own transpose and computes only
    one triangle (BLAS syrk), which halves the time of a large product. The other large products
    and decompositions go to numpy as well: its threads and torch's slow each other down.
    """
    if rows.device.type == "cpu":
        array = rows.numpy()
        # What overflows is refused where it is read.
        with np.errstate(over="ignore", invalid="ignore"):
            return torch.from_numpy(array.T @ array)
    return rows.T @ rows


def product(left: Tensor, right: Tensor) -> Tensor:
    """``left @ right``, on the CPU by the library that ``_gram`` uses."""
    if left.device.type == "cpu":
        return torch.from_numpy(left.numpy() @ right.numpy())
    return left @ right


def _largest_first(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A symmetric matrix with its diagonal in descending order, and the order.

    Where a few features vary much less than others, what they are known by keeps more digits so.
    """
    order = matrix.diagonal().argsort(descending=True, stable=True)
    if matrix.device.type == "cpu":
        rows = order.numpy()
        return torch.from_numpy(matrix.numpy()[np.ix_(rows, rows)]), order
    return matrix[order[:, None], order], order


def _symmetric_eigen(matrix: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues above the rounding noise of a ``size``-sided matrix, descending, and vectors.

    By the library that ``_gram`` uses.
    """
    ordered, order = _largest_first(matrix)
    if matrix.device.type == "cpu":
        # LAPACK in place; numpy's copies take a sixth more.
        values, columns, failed = lapack.dsyevd(ordered.numpy().T, lower=1, overwrite_a=1)
        if failed:
            raise np.linalg.LinAlgError("the eigenvalues of a scatter did not converge")
        ascending, found = torch.from_numpy(values), torch.from_numpy(columns)
    else:
        ascending, found = torch.linalg.eigh(ordered)
    rank = int((ascending > rank_cut(ascending, size)).sum())
    kept = found[:, len(found) - rank :]
    vectors = empty_like(kept)
    if matrix.device.type == "cpu":
        vectors.numpy()[order.numpy()] = kept.numpy()[:, ::-1]
    else:
        vectors[order] = kept.flip(1)
    return ascending.flip(0)[:rank], vectors


def rank_cut(eigenvalues: Tensor, size: int) -> float:
    """The value below which an eigenvalue of a ``size``-sided matrix is rounding noise."""
    largest = float(eigenvalues.max()) if eigenvalues.numel() else 0.0
    return largest * size * torch.finfo(torch.float64).eps


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factor of a positive definite matrix, which is overwritten.

    What stands above the diagonal means nothing. LAPACK in place is twice as fast as numpy's.
    """
    if matrix.device.type == "cpu":
        found, failed = lapack.dpotrf(matrix.numpy().T, lower=1, clean=0, overwrite_a=1)
        factor = torch.from_numpy(found)
    else:
        factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise InvalidInputError("a scatter matrix is not positive; rescale the features")
    return factor


def _scaled(matrix: Tensor, factor: float) -> Tensor:
    # numpy works on one thread, and so does not wake torch's beside those of the products.
    if matrix.device.type == "cpu":
        return torch.from_numpy(factor * matrix.numpy())
    return factor * matrix


def _stacked(*rows: Tensor) -> Tensor:
    """Rows under each other; numpy's memory comes in huge pages, which saves most page faults."""
    if rows[0].device.type == "cpu":
        return torch.from_numpy(np.concatenate([part.numpy() for part in rows]))
    return torch.cat(rows)


_EPS = torch.finfo(torch.float64).eps
_SMALLEST = 1e-290
"""Smaller squares lose digits."""
_ROUNDING = 1e-8
# Largest over median variance from which factors are decomposed rather than products.
_UNEVEN = 1e6
# Rounding of ``I + scale * S``, in units of I, from which its eigenvalues are taken one by one.
_LOST = 1e-6


@dataclass(frozen=True, eq=False)
class Scatter(Saved):
    """A positive semi-definite (D, D) matrix ``S = F'F``, stored on its smaller side.

    While it is a sum of fewer than D outer products it keeps the factor ``F`` (k, D); from D on it
    keeps ``S`` itself. Sums are exact either way, so D > N never builds a D x D matrix.

    >>> s = Scatter.of_rows(torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64))
    >>> s.dense, s.trace(), round(s.logdet1p(1.0), 6)
    (False, 25.0, 3.258097)
    """

    data: Tensor  # float64, (k, D) with k < D, or (D, D)
    dense: bool  # whether ``data`` is ``S`` rather than its factor

    @classmethod
    def of_rows(cls, rows: Tensor) -> Scatter:
        """The scatter ``rows' rows`` of a float64 (k, D) tensor; costs O(k D²) where k >= D."""
        if rows.shape[0] < rows.shape[1]:
            return cls(rows, dense=False)
        return cls(_gram(rows), dense=True)

    @property
    def dim(self) -> int:
        """D."""
        return self.data.shape[1]

    def _require_fit(self) -> None:
        rows, columns = self.data.shape
        require(self.data.dtype == torch.float64, "a scatter that is not float64")
        fits = rows == columns if self.dense else rows < columns
        require(fits, f"a scatter of shape {rows} x {columns}")
        if self.dense:
            shifted = self.data.clone()
            diagonal = shifted.diagonal()
            diagonal += _ROUNDING * float(diagonal.abs().max()) or 1.0
            positive = int(torch.linalg.cholesky_ex(shifted).info) == 0
            require(positive and torch.equal(self.data, self.data.T), "a scatter that is none")

    def __add__(self, other: Scatter) -> Scatter:
        if not self.dense and not other.dense:
            if not other.data.shape[0]:
                return self
            return Scatter.of_rows(_stacked(self.data, other.data))
        if self.dense and other.dense:
            return Scatter(self.data + other.data, dense=True)
        matrix, rows = (self.data, other.data) if self.dense else (other.data, self.data)
        return Scatter(_gram(rows).add_(matrix) if len(rows) else matrix, dense=True)

    def cleared(self, noise: Tensor, means: Tensor) -> Scatter:
        """The same without the features whose sum of squares is no more than ``noise``, (D,).

        ``means`` of the features, (…, D), tell such as are constant from such as are too small.

        Raises:
            InvalidInputError: the squares of what features vary by do not fit into float64.
        """
        squares = self.data.diagonal() if self.dense else self.data.square().sum(dim=0)
        largest = float(squares.max()) if squares.numel() else 0.0
        vanished = largest == 0.0 and 0.0 < float(means.abs().max()) < math.sqrt(_SMALLEST)
        if not math.isfinite(largest) or 0.0 < largest < _SMALLEST or vanished:
            raise InvalidInputError(
                f"features are so {'small' if largest < 1.0 else 'large'} that float64 does not "
                f"hold the squares of what they vary by; multiply X by a constant, such as "
                f"1 / abs(X).max()"
            )
        quiet = (squares > 0) & (squares <= noise)
        if not bool(quiet.any()):
            return self
        data = torch.where(quiet, 0.0, self.data)
        return Scatter(torch.where(quiet[:, None], 0.0, data) if self.dense else data, self.dense)

    def select(self, columns: Any) -> Scatter:
        """The scatter of some of the columns, (k,): rows and columns of ``S``, O(k²) or O(n k)."""
        chosen = as_columns(columns, self.dim).to(self.data.device)
        if self.dense:
            return Scatter(self.data[chosen[:, None], chosen], dense=True)
        return Scatter.of_rows(self.data[:, chosen])

    def matrix(self) -> Tensor:
        """``S``, (D, D)."""
        return self.data if self.dense else _gram(self.data)

    def bordered(self, rows: Tensor) -> Scatter:
        """The same with a few more rows (k, D), whose products with the others alone are new."""
        found = self + Scatter.of_rows(rows)
        if len(rows) and not found.dense:
            found.__dict__["_within"] = self
        return found

    @cached_property
    def small(self) -> Tensor:
        """The smaller of ``F'F`` and ``F F'``; both have the same non-zero eigenvalues."""
        inner = self.__dict__.get("_within")
        if inner is None:
            return self.data if self.dense else _gram(self.data.T)
        count, found = len(inner.data), self.data.new_empty(len(self.data), len(self.data))
        found[:count, :count] = inner.small
        found[count:] = product(self.data[count:], self.data.T)
        found[:count, count:] = found[count:, :count].T
        return found

    def times(self, other: Tensor) -> Tensor:
        """``S other``, for a vector or columns (D, …)."""
        return self.data @ other if self.dense else self.data.T @ (self.data @ other)

    def trace(self) -> float:
        """Sum of the eigenvalues."""
        if self.dense:
            return float(self.data.diagonal().sum())
        flat = self.data.flatten()
        return float(flat.dot(flat))

    def square_norm(self) -> float:
        """Squared Frobenius norm of ``S``."""
        flat = self.small.flatten()
        return float(flat.dot(flat))

    def logdet1p(self, scale: float) -> float:
        """``log det(I + scale * S)``: O(m³) for the smaller side m."""
        if "eigh" in self.__dict__:
            return float(torch.log1p(scale * self.eigh[0]).sum())
        trace = scale * float(self.small.diagonal().sum())
        if trace * _EPS > _LOST:
            return float(torch.log1p(scale * self.eigenvalues).sum())
        if trace < 1.0:
            # 1 + x would lose the digits of a small x.
            small = _scaled(self.small, scale)
            return float(torch.log1p(torch.linalg.eigvalsh(small).clamp_min(0.0)).sum())
        factor = self.factor(1.0 / scale)
        return 2.0 * float(factor.diagonal().log().sum()) + len(factor) * math.log(scale)

    def factor(self, shift: float) -> Tensor:
        """Lower Cholesky factor of the smaller side of ``S + shift I``; the last one is kept.

        What stands above the diagonal means nothing.
        """
        known, found = self.__dict__.get("_last", (None, None))
        if known != shift or found is None:
            small = empty_like(self.small).copy_(self.small)
            small.diagonal().add_(shift)
            found = cholesky(small)
            self.__dict__["_last"] = shift, found
        return found

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Eigenvalues above rounding noise, descending: (rank,)."""
        if "eigh" in self.__dict__ or self._uneven:
            return self.eigh[0]
        values = torch.linalg.eigvalsh(_largest_first(self.small)[0]).flip(0)
        return values[values > rank_cut(values, max(self.data.shape))]

    @cached_property
    def _uneven(self) -> bool:
        """Whether some features vary so much more than most that a product hides the others.

        The eigenvalues of a product are off by ``eps`` times the largest.
        """
        variances = self.data.diagonal() if self.dense else self.data.square().sum(dim=0)
        varying = variances[variances > 0]
        return len(varying) > 1 and float(varying.max()) > _UNEVEN * float(varying.median())

    def _factor(self) -> Tensor:
        """``F`` with ``S = F'F``, through correlations: these are of one size in a matrix too."""
        if not self.dense:
            return self.data
        deviations = self.data.diagonal().clamp_min(0.0).sqrt()
        inverse = torch.where(deviations > 0, 1.0 / deviations, 0.0)
        values, vectors = _symmetric_eigen(self.data * inverse * inverse[:, None], self.dim)
        return (vectors * values.sqrt()).T * deviations

    @cached_property
    def eigh(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues above rounding noise (rank,), descending, and eigenvectors (D, rank).

        Computed once; every metric of the layer shares it.

        Warns:
            TransferMetricsWarning: features that vary much more than the others hide most of them.
        """
        if self._uneven:
            return self._eigh_of_factor()
        values, vectors = _symmetric_eigen(self.small, max(self.data.shape))
        if not self.dense:
            vectors = product(self.data.T, vectors / values.sqrt())
        return values, vectors

    def _eigh_of_factor(self) -> tuple[Tensor, Tensor]:
        """As ``eigh``, by a singular value decomposition: ten times slower, twice the digits."""
        factor = self._factor()
        variances = factor.square().sum(dim=0)
        order = variances.argsort(descending=True, stable=True)
        # A triangle that falls from the first row to the last keeps the digits of its small values.
        triangle = torch.linalg.qr(factor[:, order], mode="r").R
        _, singular, found = torch.linalg.svd(triangle, full_matrices=False)
        vectors = torch.empty_like(found.T)
        vectors[order] = found.T
        keep = singular > rank_cut(singular, max(factor.shape))
        varying = int((variances > 0).sum())
        if 2 * int(keep.sum()) < min(varying, len(factor)):
            warn(
                f"a few features vary so much more than the others that only {int(keep.sum())} of "
                f"{varying} are seen above the rounding of float64; standardise the features, or "
                f"leave the largest out"
            )
        return singular[keep].square(), vectors[:, keep]

    def inverse_quadratic(self, rows: Tensor, shift: float) -> float:
        """``tr(rows (S + shift I)⁻¹ rows')`` for a shift > 0; rows is (k, D)."""
        if "eigh" in self.__dict__:
            values, vectors = self.eigh
            inside = (rows @ vectors).square()
            outside = (rows.square().sum() - inside.sum()).clamp_min(0.0)
            return float((inside / (values + shift)).sum() + outside / shift)
        factor = self.factor(shift)
        if self.dense:
            solved = torch.linalg.solve_triangular(factor, rows.T, upper=False)
            return float(solved.square().sum())
        # Woodbury: (shift I + F'F)⁻¹ = (I - F'(shift I + F F')⁻¹ F) / shift
        solved = torch.linalg.solve_triangular(factor, self.data @ rows.T, upper=False)
        return float((rows.square().sum() - solved.square().sum()) / shift)
