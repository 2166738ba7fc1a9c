"""How much each feature contributes to TransRate, without scoring anything twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.transrate import CLASS_WEIGHTS, RELATIVE_DISTORTION
from transfer_metrics.statistics import ClassMoments, Scatter
from transfer_metrics.statistics.inputs import as_columns

_LEAST_GAIN = 1e-12


@dataclass(frozen=True)
class _Contributions:
    """What TransRate loses when a feature, or a group of features, is left out.

    ``total`` is the loss of the rate of all examples, (G,), ``by_class`` that of each class that
    has examples, (C, G), all >= 0; ``weights`` are those of the classes, (C,).
    """

    total: np.ndarray
    by_class: np.ndarray
    weights: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """Loss of TransRate, (G,): ``total - Σ_c w_c by_class_c``, of either sign."""
        return self.total - self.weights @ self.by_class


class _Rate(NamedTuple):
    """One term ``weight * ½ log det(I + scale * S)`` of TransRate."""

    scatter: Scatter
    scale: float
    weight: float


def contributions(
    moments: ClassMoments, *, groups: Sequence[Any] | None = None, **options: Any
) -> _Contributions:
    """TransRate of all features minus TransRate without a feature, for all D of them at once.

    With ``M = I + S / (n ε)``, leaving a feature out divides ``det M`` by the inverse of
    ``(M⁻¹)_jj``, so one factorisation gives all D values; a group J of features takes
    ``det (M⁻¹)_JJ``. For N < D the same number is ``1 - z_j' K⁻¹ z_j / (n ε)`` with the N x N
    matrix ``K = I + Z Z' / (n ε)``. The class terms are treated alike. A feature that others can
    stand in for loses little, however informative it is, and one of noise much; to rank features of
    few examples use ``forward_gains``.

    ``groups`` are lists of columns that are left out together. Options are ``eps``,
    ``class_weights``, ``class_center`` and ``scale`` of ``transrate``; ``eps="auto"`` and
    ``scale="trace"`` are computed from all features and then stay fixed.

    Source: the determinant of a bordered matrix and its dual; TransRate after Huang et al. (2022).

    Cost: O(m³ + m² D) for the total, with m = min(N, D), and the same for each class with its n_c
    in the place of N. A group of g features adds O(m g² + g³).

    >>> x, y = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 3
    >>> x[:, 1] += 5 * y
    >>> found = contributions(ClassMoments.from_batch(x, y, parts={"class"}))
    >>> int(found.values.argmax())
    1
    """
    rates = _rates(moments, **options)
    chosen = None if groups is None else [as_columns(g, moments.dim) for g in groups]
    losses = np.stack([_left_out(rate, chosen) for rate in rates])
    weights = np.array([-rate.weight for rate in rates[1:]])
    return _Contributions(losses[0], losses[1:], weights)


def forward_gains(
    moments: ClassMoments,
    steps: int | None = None,
    *,
    groups: Sequence[Any] | None = None,
    start: Any = None,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Features in the order in which greedy forward selection by TransRate takes them.

    At every step all remaining features are tried and the one that raises TransRate most is
    taken, the first of equals; it ends where none raises it. No candidate is scored anew: where N
    < D the features are kept whitened by ``(I + Z_A Z_A' / (n ε))^-½``, which one more feature
    changes by a matrix of rank one, and then a gain is ``½ log(1 + |z_j|² / (n ε))``. For N >= D a
    Cholesky factor of M grows by one column, and a gain is half the logarithm of the next pivot.

    At most ``steps`` are taken, of ``groups`` of columns that enter together where they are given,
    beside the columns in ``start``; options are as in ``contributions``. Returned are the numbers
    of the features, or groups, in the order taken (k,), and what each added to TransRate (k,).

    Source: greedy selection by coding rates; Sherman and Morrison (1950) in square-root form.

    Cost: O(N D) per step for N < D, where Σ_c n_c = N covers the classes; O(C D t) at step t for
    matrices kept as D x D. Memory: one more copy of the moments' data.

    >>> x, y = np.random.default_rng(0).standard_normal((30, 4)), np.arange(30) % 3
    >>> x[:, 1] += 5 * y
    >>> forward_gains(ClassMoments.from_batch(x, y, parts={"class"}), steps=1)[0].tolist()
    [1]
    """
    if steps is not None and steps < 1:
        raise InvalidInputError(f"steps must be at least 1, got {steps}")
    grown = _grown(moments, start, options)
    members = None if groups is None else [as_columns(g, moments.dim).numpy() for g in groups]
    count = moments.dim if members is None else len(members)
    open_ = np.ones(count, dtype=bool)
    if start is not None and members is None:
        open_[as_columns(start, moments.dim).numpy()] = False
    order: list[int] = []
    gains: list[float] = []
    while open_.any() and (steps is None or len(order) < steps):
        values = sum(weight * side.gains(members) for weight, side in grown)
        values = np.where(open_, values, -math.inf)
        best = int(values.argmax())
        if values[best] <= _LEAST_GAIN:
            break
        for _, side in grown:
            side.add(np.array([best]) if members is None else members[best])
        open_[best] = False
        order.append(best)
        gains.append(float(values[best]))
    return np.array(order, dtype=np.int64), np.array(gains)


def gains_beside(moments: ClassMoments, start: Any = None, **options: Any) -> np.ndarray:
    """What each feature would add to TransRate of those in ``start``, or has alone, (D,).

    Arguments and cost are those of ``forward_gains``.

    >>> x, y = np.random.default_rng(0).standard_normal((30, 2)), np.arange(30) % 3
    >>> gains_beside(ClassMoments.from_batch(x, y, parts={"class"})).shape
    (2,)
    """
    grown = _grown(moments, start, options)
    return np.sum([weight * side.gains(None) for weight, side in grown], axis=0)


def _grown(
    moments: ClassMoments, start: Any, options: Mapping[str, Any]
) -> list[tuple[float, _Whitened | _Pivoted]]:
    """The weight of each term, and its matrix with ``start`` in it, on the smaller side."""
    grown: list[tuple[float, _Whitened | _Pivoted]] = []
    for scatter, scale, weight in _rates(moments, **options):
        data = scatter.data.cpu().numpy()
        side = _Pivoted(scale * data) if scatter.dense else _Whitened(math.sqrt(scale) * data)
        grown.append((weight, side))
    if start is not None:
        columns = as_columns(start, moments.dim).numpy()
        for _, side in grown:
            side.add(columns)
    return grown


def _rates(
    moments: ClassMoments,
    eps: float | str = 1e-4,
    class_weights: str = "uniform",
    class_center: bool = False,
    scale: str | None = None,
) -> list[_Rate]:
    """The terms of TransRate, the total first, with the distortion of all features."""
    if class_weights not in CLASS_WEIGHTS or scale not in (None, "trace"):
        raise InvalidInputError(
            f"class_weights must be one of {CLASS_WEIGHTS} and scale None or 'trace', not "
            f"{class_weights!r} and {scale!r}"
        )
    distortion = _distortion(moments, eps, scale)
    rates = [_Rate(moments.total, 1.0 / (moments.n * distortion), 1.0)]
    for c in moments.present:
        n_c = int(moments.counts[c])
        share = 1.0 / len(moments.present) if class_weights == "uniform" else n_c / moments.n
        scatter = moments.scatter_of(c)
        if not class_center:
            scatter = scatter + Scatter.of_rows(moments.between_rows[c : c + 1])
        rates.append(_Rate(scatter, 1.0 / (n_c * distortion), -share))
    return rates


def _distortion(moments: ClassMoments, eps: float | str, scale: str | None) -> float:
    variance = moments.total.trace() / moments.n
    if variance <= 0 and (eps == "auto" or scale == "trace"):
        raise InvalidInputError("all features are constant; a relative distortion is 0/0")
    if eps == "auto":
        return RELATIVE_DISTORTION * variance / len(moments.total.eigenvalues)
    if isinstance(eps, str) or not (eps > 0 and math.isfinite(eps)):
        raise InvalidInputError(f"eps must be positive or 'auto', got {eps!r}")
    return float(eps) * (variance if scale == "trace" else 1.0)


def _left_out(rate: _Rate, groups: Sequence[Tensor] | None) -> np.ndarray:
    """``-½ log det (M⁻¹)_JJ`` for every column, or group of columns J."""
    data, dense = rate.scatter.data.cpu(), rate.scatter.dense
    small = rate.scale * rate.scatter.small.cpu()
    small.diagonal().add_(1.0)
    factor = torch.linalg.cholesky(small)
    right = torch.eye(len(data), dtype=data.dtype) if dense else math.sqrt(rate.scale) * data
    # Columns of W: the inverse is W'W where S is kept itself, and I - W'W where its factor is.
    w = torch.linalg.solve_triangular(factor, right, upper=False)
    if groups is None:
        squares = w.square().sum(dim=0)
        logs = squares.log() if dense else torch.log1p(-squares)
        return -0.5 * logs.numpy()
    inverses = (w[:, group].T @ w[:, group] for group in groups)
    if not dense:
        inverses = (torch.eye(len(inner), dtype=w.dtype) - inner for inner in inverses)
    factors = map(torch.linalg.cholesky, inverses)
    return np.array([-float(factor.diagonal().log().sum()) for factor in factors])


class _Whitened:
    """The matrix ``I + F_A' F_A`` of a growing set A of columns, by the rows of a factor (n, D).

    They are whitened by ``(I + F_A F_A')^-½``; O(n D) per added column.
    """

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def gains(self, groups: Sequence[np.ndarray] | None) -> np.ndarray:
        """What each column, or group, would add to half the log determinant."""
        if groups is None:
            return 0.5 * np.log1p(np.einsum("nd,nd->d", self._rows, self._rows))
        return np.array([0.5 * _logdet_plus(self._rows[:, g]) for g in groups])

    def add(self, columns: np.ndarray) -> None:
        for column in columns:
            v = self._rows[:, column].copy()
            square = float(v @ v)
            if square > 0:
                # (I + v v')^-½ = I - b v v', with b that does not cancel for a small v.
                root = math.sqrt(1.0 + square)
                b = 1.0 / (root * (1.0 + root))
                self._rows = self._rows - np.outer(b * v, v @ self._rows)


class _Pivoted:
    """The same by a Cholesky factor of ``I + matrix`` whose columns are taken in any order."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix
        self._factor = np.empty((16, len(matrix)))
        self._taken: list[int] = []
        self._pivots = 1.0 + matrix.diagonal()

    def gains(self, groups: Sequence[np.ndarray] | None) -> np.ndarray:
        if groups is None:
            return 0.5 * np.log(np.maximum(self._pivots, 1.0))
        return np.array([0.5 * self._block(group) for group in groups])

    def add(self, columns: np.ndarray) -> None:
        for column in columns:
            done = len(self._taken)
            if done == len(self._factor):
                self._factor = np.concatenate([self._factor, np.empty_like(self._factor)])
            past = self._factor[:done]
            row = self._matrix[column] - past[:, column] @ past
            row[column] += 1.0
            row /= math.sqrt(row[column])
            row[self._taken] = 0.0
            self._factor[done] = row
            self._pivots = self._pivots - row**2
            self._taken.append(int(column))

    def _block(self, group: np.ndarray) -> float:
        past = self._factor[: len(self._taken), group]
        inside = self._matrix[np.ix_(group, group)] - past.T @ past
        inside[np.diag_indices_from(inside)] += 1.0
        # Columns that are in already add nothing.
        new = ~np.isin(group, self._taken)
        return float(np.linalg.slogdet(inside[np.ix_(new, new)])[1])


def _logdet_plus(rows: np.ndarray) -> float:
    """``log det(I + rows' rows)`` on the smaller side."""
    small = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
    small[np.diag_indices_from(small)] += 1.0
    return float(np.linalg.slogdet(small)[1])
