"""Per-class scatter computed from the features when it is asked for, one class at a time."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from torch import Tensor

from transfer_metrics.statistics.inputs import as_columns, as_features, check_finite
from transfer_metrics.statistics.linalg import Scatter

ROWS_AT_ONCE = 4096


class ClassRows(Sequence[Scatter]):
    """Scatter of each class about its own mean, from features that can be read by position.

    C matrices of D x D do not fit where both are large (34 GB for C = 1 000, D = 2 048); one after
    the other they need a single one, and one more reading of the features.

    Args:
        read: features (k, D) at positions (k,).
        labels: class numbers, (N,).
        means: class means, (C, D).

    >>> import torch
    >>> x, y = np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])
    >>> scatter = ClassRows(x.__getitem__, y, torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
    >>> scatter[1].trace()
    16.0
    """

    def __init__(
        self, read: Callable[[np.ndarray], Any], labels: np.ndarray, means: Tensor
    ) -> None:
        self._read = read
        self._means = means
        self._order = np.argsort(labels, kind="stable")
        counts = np.bincount(labels, minlength=len(means))
        self._ends = np.concatenate([[0], counts.cumsum()])
        self._ahead = (0, means[:0])

    def select(self, columns: Any) -> ClassRows:
        """The same for some of the columns; all are still read, and then those kept."""
        chosen = as_columns(columns, self._means.shape[1])
        selected = copy.copy(self)
        selected._read = lambda positions: as_features(self._read(positions))[:, chosen]
        selected._means = self._means[:, chosen.to(self._means.device)]
        selected._ahead = (0, selected._means[:0])
        return selected

    def __len__(self) -> int:
        return len(self._means)

    @overload
    def __getitem__(self, index: int) -> Scatter: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scatter]: ...
    def __getitem__(self, index: int | slice) -> Scatter | list[Scatter]:
        if isinstance(index, slice):
            return [self[c] for c in range(*index.indices(len(self)))]
        start, stop = int(self._ends[index]), int(self._ends[index + 1])
        # One example is its own mean: no row is needed.
        scatter = Scatter.of_rows(self._means[:0])
        if stop - start < 2:
            return scatter
        pieces = (
            Scatter.of_rows(self._rows(at, min(at + ROWS_AT_ONCE, stop)) - self._means[index])
            for at in range(start, stop, ROWS_AT_ONCE)
        )
        return functools.reduce(operator.add, pieces, scatter)

    def _rows(self, start: int, stop: int) -> Tensor:
        """Features at places ``start`` to ``stop`` of the order by class.

        Classes are asked for one after the other, so those that follow are read along.
        """
        first, rows = self._ahead
        if start < first or stop > first + len(rows):
            end = min(max(stop, start + ROWS_AT_ONCE), len(self._order))
            rows = as_features(self._read(self._order[start:end]))
            check_finite(rows)
            first = start
            self._ahead = (first, rows)
        return rows[start - first : stop - first]
