"""Joint moments of features and regression targets, exact under any way of cutting the data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.inputs import as_columns, as_features, as_targets
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.moments import ClassMoments, rounding_of
from transfer_metrics.statistics.saving import Saved, require


@dataclass(frozen=True, eq=False)
class TargetMoments(Saved):
    """Joint moments of features and regression targets; ``a + b`` merges.

    Attributes:
        joint: moments of the rows ``[x, t]`` as one class, D + K columns.
        num_targets: K.

    >>> m = TargetMoments.from_batch([[1.0], [2.0], [3.0]], [2.0, 4.0, 6.0])
    >>> m.n, m.dim, m.num_targets
    (3, 1, 1)
    """

    joint: ClassMoments
    num_targets: int

    def _require_fit(self) -> None:
        require(0 < self.num_targets < self.joint.means.shape[1], "more targets than columns")
        require(len(self.joint.means) == 1, "targets in several classes")

    @classmethod
    def from_batch(cls, x: Any, t: Any) -> TargetMoments:
        """Moments of features (N, D) and targets (N,) or (N, K).

        Raises:
            InvalidInputError: wrong shapes, NaN or infinite values.
        """
        features = as_features(x)
        targets = as_targets(t, features.shape[0]).to(features.device)
        labels = torch.zeros(len(features), dtype=torch.int64)
        rows = torch.cat([features, targets], dim=1)
        return cls(ClassMoments.from_batch(rows, labels, 1, parts=()), targets.shape[1])

    def select(self, columns: Any) -> TargetMoments:
        """Moments of some of the features (k,), and of all targets.

        Raises:
            InvalidInputError: columns that do not exist.
        """
        targets = torch.arange(self.dim, self.joint.dim)
        chosen = torch.cat([as_columns(columns, self.dim), targets])
        return TargetMoments(self.joint.select(chosen), self.num_targets)

    @property
    def n(self) -> int:
        """Number of examples."""
        return self.joint.n

    @property
    def dim(self) -> int:
        """Number of features D."""
        return self.joint.dim - self.num_targets

    @property
    def mean(self) -> Tensor:
        """Mean of the features, (D,)."""
        return self.joint.means[0, : self.dim]

    @property
    def target_mean(self) -> Tensor:
        """Mean of the targets, (K,)."""
        return self.joint.means[0, self.dim :]

    @cached_property
    def total(self) -> Scatter:
        """Scatter of the features about their mean."""
        data, d = self.joint.within.data, self.dim
        if self.joint.within.dense:
            total = Scatter(data[:d, :d], dense=True)
        else:
            total = Scatter.of_rows(data[:, :d].contiguous())
        return total.cleared(rounding_of(self.mean, self.n), self.mean)

    @cached_property
    def cross(self) -> Tensor:
        """``Σ (x - mean)(t - target mean)'``, (D, K)."""
        data, d = self.joint.within.data, self.dim
        return data[:d, d:] if self.joint.within.dense else data[:, :d].T @ data[:, d:]

    @cached_property
    def spread(self) -> Tensor:
        """``Σ (t - target mean)²`` of each target, (K,)."""
        data, d = self.joint.within.data, self.dim
        dense = self.joint.within.dense
        spread = data.diagonal()[d:] if dense else data[:, d:].square().sum(dim=0)
        return torch.where(spread <= rounding_of(self.target_mean, self.n), 0.0, spread)

    def __add__(self, other: TargetMoments) -> TargetMoments:
        if self.num_targets != other.num_targets:
            raise InvalidInputError(
                f"cannot merge moments of {self.num_targets} and {other.num_targets} targets"
            )
        return TargetMoments(self.joint + other.joint, self.num_targets)
