"""Log determinants of a growing set of columns, updated and not computed anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from transfer_metrics.statistics import Scatter


class Growing(Protocol):
    """The matrix ``I + scale S_AA`` of a growing set A of columns."""

    def gains(self, groups: Sequence[np.ndarray] | None) -> np.ndarray:
        """What each column, or group, would add to half the log determinant."""

    def add(self, columns: np.ndarray) -> None:
        """Put columns into A."""


def growing(scatter: Scatter, scale: float) -> Growing:
    """Start with A empty, on the smaller side of the scatter."""
    data = scatter.data.cpu().numpy()
    return _Pivoted(scale * data) if scatter.dense else _Whitened(math.sqrt(scale) * data)


class _Whitened:
    """Rows of S's factor (n, D), whitened by ``(I + F_A F_A')^-½``; O(n D) per added column."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def gains(self, groups: Sequence[np.ndarray] | None) -> np.ndarray:
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
    """A Cholesky factor of ``I + matrix`` whose columns are taken in any order."""

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
