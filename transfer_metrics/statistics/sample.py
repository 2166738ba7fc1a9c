"""A bounded sample of examples that does not depend on their order."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.inputs import (
    as_columns,
    as_features,
    as_labels,
    as_rows,
    as_targets,
    check_finite,
)
from transfer_metrics.statistics.moments import ClassMoments
from transfer_metrics.statistics.saving import MOST_CLASSES, Saved, require
from transfer_metrics.statistics.targets import TargetMoments
from transfer_metrics.threads import side_by_side

DEFAULT_LIMIT = 20_000
_AT_ONCE = 1 << 20  # numbers of the rows that are hashed at a time
_LABEL_BITS = 16  # of a key, which tell equal rows of different labels apart


@dataclass(frozen=True, eq=False)
class FeatureSample(Saved):
    """At most ``limit`` examples, chosen by a hash of their content.

    The examples with the smallest keys are kept, so ``a + b`` is a uniform sample of the union and
    the same set whatever the order, the batches or the shards; with N <= limit it is all of them.

    Attributes:
        x: features, (n, D), float64.
        y: labels (n,) int64, or targets (n, K) float64.
        limit: the most examples that are kept.
        num_classes: C, or 0 for regression.
        seen: examples seen, N >= n.
        parts: optional parts that ``moments`` keeps.

    >>> a = FeatureSample.from_batch([[1.0], [2.0]], [0, 1], 2)
    >>> b = FeatureSample.from_batch([[3.0], [4.0]], [1, 0], 2)
    >>> torch.equal((a + b).ordered.x, (b + a).ordered.x), (a + b).seen
    (True, 4)
    """

    x: Tensor
    y: Tensor
    limit: int
    num_classes: int
    seen: int
    parts: tuple[str, ...] = ()

    def _require_fit(self) -> None:
        x, y = self.x, self.y
        require(x.ndim == 2 and len(y) == len(x) <= self.seen, "labels of other examples")
        require(self.limit > 0 and x.dtype == torch.float64, "numbers of other types")
        require(0 <= self.num_classes <= MOST_CLASSES, f"{self.num_classes} classes")
        if self.num_classes:
            require(y.ndim == 1 and y.dtype == torch.int64, "labels of another type")
            require(bool(((y >= 0) & (y < self.num_classes)).all()), "labels out of range")
        else:
            require(y.ndim == 2 and y.dtype == torch.float64, "targets of another type")

    @classmethod
    def from_batch(
        cls,
        x: Any,
        y: Any,
        num_classes: int | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        regression: bool = False,
        parts: Iterable[str] = (),
    ) -> FeatureSample:
        """A sample of one batch; arguments as for ``ClassMoments.from_batch``.

        Raises:
            InvalidInputError: wrong shapes, labels out of range, NaN or infinite features.

        Cost: O(N D), and half a second to hash 300 MB of rows where N > limit; memory beside the
        batch is that of the rows kept, in float64.
        """
        rows = as_rows(x)
        check_finite(rows)
        if regression:
            labels, size = as_targets(y, len(rows)), 0
        else:
            labels, size = as_labels(y, len(rows), num_classes)
        # What is left out need not be converted.
        features = rows if len(rows) > limit else as_features(rows)
        return cls(features, labels, limit, size, len(rows), tuple(sorted(parts)))._bounded()

    @property
    def n(self) -> int:
        """Number of examples kept."""
        return len(self.x)

    @cached_property
    def keys(self) -> np.ndarray:
        """Hash of each row, (n,) uint64; its last bits are of the label too.

        So names of labels decide nothing but the order of equal rows.
        """
        rows = max(_AT_ONCE // self.x.shape[1], 1)
        blocks = list(zip(self.x.split(rows), self.y.split(rows), strict=True))
        digests = b"".join(side_by_side(_digests, blocks))
        found = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(self.n, 2)
        of_label = np.uint64((1 << _LABEL_BITS) - 1)
        return (found[:, 0] & ~of_label) | (found[:, 1] & of_label)

    @cached_property
    def ordered(self) -> FeatureSample:
        """The same examples in the order of their keys, for methods that depend on the order."""
        return self._rows(np.argsort(self.keys, kind="stable"))

    @cached_property
    def moments(self) -> ClassMoments | TargetMoments:
        """Moments of the examples kept, built once and shared by all who ask."""
        if self.num_classes:
            return ClassMoments.from_batch(self.x, self.y, self.num_classes, parts=self.parts)
        return TargetMoments.from_batch(self.x, self.y)

    def adopt(self, moments: ClassMoments | TargetMoments) -> None:
        """Use moments of the same examples that exist already, instead of building them again."""
        if (moments.n, moments.dim) != (self.n, self.x.shape[1]):
            raise InvalidInputError(
                f"moments of {moments.n} examples with {moments.dim} features are not those of "
                f"{self.n} with {self.x.shape[1]}"
            )
        self.__dict__["moments"] = moments

    def select(self, columns: Any) -> FeatureSample:
        """The same examples with some of their features, (k,).

        Where some examples were left out, which ones was decided by all features.

        Raises:
            InvalidInputError: columns that do not exist.
        """
        chosen = as_columns(columns, self.x.shape[1]).to(self.x.device)
        return dataclasses.replace(self, x=self.x[:, chosen])

    def shared(self, part: FeatureSample) -> FeatureSample:
        """The examples of ``part``, a sample of a part of the same data, that this one kept."""
        if self.n == self.seen:
            return part
        return part._rows(np.flatnonzero(part.keys <= self.keys.max()))

    def __add__(self, other: FeatureSample) -> FeatureSample:
        if (self.x.shape[1], self.num_classes) != (other.x.shape[1], other.num_classes):
            raise InvalidInputError(
                f"cannot merge samples with (D, C) = {(self.x.shape[1], self.num_classes)} and "
                f"{(other.x.shape[1], other.num_classes)}"
            )
        return FeatureSample(
            torch.cat([self.x, other.x]),
            torch.cat([self.y, other.y]),
            min(self.limit, other.limit),
            self.num_classes,
            self.seen + other.seen,
            tuple(sorted({*self.parts, *other.parts})),
        )._bounded()

    def _bounded(self) -> FeatureSample:
        if self.n <= self.limit:
            return self
        return self._rows(np.argsort(self.keys, kind="stable")[: self.limit])

    def _rows(self, chosen: np.ndarray) -> FeatureSample:
        index = torch.from_numpy(chosen)
        rows = dataclasses.replace(
            self, x=as_features(self.x[index.to(self.x.device)]), y=self.y[index.to(self.y.device)]
        )
        rows.__dict__["keys"] = self.keys[chosen]
        return rows


def _digests(block: tuple[Tensor, Tensor]) -> bytes:
    """Eight bytes of each row (n, D) in float64, and eight of it with its label, one by one."""
    x, y = block
    found = []
    for row, tag in zip(x.double().contiguous().cpu().numpy(), y.cpu().numpy(), strict=True):
        digest = hashlib.blake2b(row, digest_size=8)
        found.append(digest.digest())
        digest.update(tag.tobytes())
        found.append(digest.digest())
    return b"".join(found)
