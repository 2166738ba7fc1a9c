"""A bounded sample of examples that does not depend on their order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.inputs import as_features, as_labels, as_targets, check_finite
from transfer_metrics.statistics.saving import Saved

DEFAULT_LIMIT = 20_000


@dataclass(frozen=True, eq=False)
class FeatureSample(Saved):
    """At most ``limit`` examples, chosen by a hash of their content and kept in that order.

    The examples with the smallest keys are kept, so ``a + b`` is a uniform sample of the union and
    the same whatever the order, the batches or the shards; with N <= limit it is all of them.

    Attributes:
        x: features, (n, D), float64.
        y: labels (n,) int64, or targets (n, K) float64.
        keys: hash of each row with its label, ascending, (n,) uint64.
        limit: the most examples that are kept.
        num_classes: C, or 0 for regression.
        seen: examples seen, N >= n.

    >>> a = FeatureSample.from_batch([[1.0], [2.0]], [0, 1], 2)
    >>> b = FeatureSample.from_batch([[3.0], [4.0]], [1, 0], 2)
    >>> torch.equal((a + b).x, (b + a).x), (a + b).seen
    (True, 4)
    """

    x: Tensor
    y: Tensor
    keys: np.ndarray
    limit: int
    num_classes: int
    seen: int

    @classmethod
    def from_batch(
        cls,
        x: Any,
        y: Any,
        num_classes: int | None = None,
        *,
        limit: int = DEFAULT_LIMIT,
        regression: bool = False,
    ) -> FeatureSample:
        """A sample of one batch; arguments as for ``ClassMoments.from_batch``.

        Raises:
            InvalidInputError: wrong shapes, labels out of range, NaN or infinite features.
        """
        features = as_features(x)
        check_finite(features)
        if regression:
            labels, size = as_targets(y, len(features)), 0
        else:
            labels, size = as_labels(y, len(features), num_classes)
        keys = _row_keys(features, labels)
        chosen = np.argsort(keys, kind="stable")[:limit]
        index = torch.from_numpy(chosen)
        return cls(
            features[index.to(features.device)], labels[index], keys[chosen], limit, size, len(keys)
        )

    @property
    def n(self) -> int:
        """Number of examples kept."""
        return len(self.keys)

    def __add__(self, other: FeatureSample) -> FeatureSample:
        if (self.x.shape[1], self.num_classes) != (other.x.shape[1], other.num_classes):
            raise InvalidInputError(
                f"cannot merge samples with (D, C) = {(self.x.shape[1], self.num_classes)} and "
                f"{(other.x.shape[1], other.num_classes)}"
            )
        limit = min(self.limit, other.limit)
        keys = np.concatenate([self.keys, other.keys])
        chosen = np.argsort(keys, kind="stable")[:limit]
        index = torch.from_numpy(chosen)
        return FeatureSample(
            torch.cat([self.x, other.x])[index.to(self.x.device)],
            torch.cat([self.y, other.y])[index],
            keys[chosen],
            limit,
            self.num_classes,
            self.seen + other.seen,
        )


def _row_keys(features: Tensor, labels: Tensor) -> np.ndarray:
    rows = features.cpu().numpy()
    tags = labels.numpy()
    digests = (
        hashlib.blake2b(row.tobytes() + tag.tobytes(), digest_size=8).digest()
        for row, tag in zip(rows, tags, strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
