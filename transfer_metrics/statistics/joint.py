"""Joint statistics of source predictions and target labels, for LEEP and NCE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.inputs import as_labels, as_rows, check_finite
from transfer_metrics.statistics.saving import MOST_CLASSES, Saved, require

# How far float32 probabilities may sum from one.
_ROUNDING = 1e-5
# Numbers in a block of rows: 2 MB.
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class SourceJoint(Saved):
    """Source class probabilities with target labels; ``a + b`` merges.

    LEEP averages a logarithm over examples, which no finite table determines, so the
    probabilities are kept: O(N Z) memory.

    Attributes:
        probabilities: rows of the source head's softmax, (N, Z), each summing to one, in float32
            or float64 as they came.
        labels: target labels, (N,) int64.
        num_classes: C.

    >>> s = SourceJoint.from_batch([[0.9, 0.1], [0.2, 0.8]], [0, 1])
    >>> s.hard.tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    probabilities: Tensor
    labels: Tensor
    num_classes: int

    def _require_fit(self) -> None:
        rows, labels = self.probabilities, self.labels
        require(rows.ndim == 2 and labels.shape == rows.shape[:1], "labels of other examples")
        require(rows.is_floating_point() and labels.dtype == torch.int64, "numbers of other types")
        require(0 < self.num_classes <= MOST_CLASSES, f"{self.num_classes} classes")
        inside = (labels >= 0) & (labels < self.num_classes)
        require(bool(inside.all() and (rows >= 0).all()), "labels or probabilities out of range")

    @classmethod
    def from_batch(cls, probabilities: Any, y: Any, num_classes: int | None = None) -> SourceJoint:
        """Statistics of one batch of (N, Z) probabilities and (N,) labels.

        Rows whose sum is off by more than float32 rounds, as in half precision, are divided by it.

        Raises:
            InvalidInputError: rows that are not probabilities, wrong shapes, labels out of range.
        """
        rows = as_rows(probabilities, "source probabilities")
        if rows.dtype not in (torch.float32, torch.float64):
            rows = rows.to(torch.float64)
        # While a block is in the cache, everything that needs to see it does.
        seen = [(p.sum(dim=1), _lowest(p), _arg_max(p)) for p in rows.split(_block_rows(rows))]
        sums, lowest = torch.cat([s for s, _, _ in seen]), min(low for _, low, _ in seen)
        if not bool(torch.isfinite(sums).all()):
            check_finite(rows, "source probabilities")
        error = float((sums - 1).abs().max())
        if not (lowest >= 0 and error <= 1e-2):
            raise InvalidInputError(
                "source probabilities must be non-negative rows that sum to one; "
                "apply a softmax to logits first"
            )
        if error > _ROUNDING:
            rows = rows.to(torch.float64)
            rows = rows / rows.sum(dim=1, keepdim=True)
        labels, size = as_labels(y, len(rows), num_classes)
        joint = cls(rows, labels.to(rows.device), size)
        joint.__dict__["best"] = torch.cat([best for _, _, best in seen])
        return joint

    @property
    def n(self) -> int:
        """Number of examples."""
        return len(self.labels)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Probabilities as float64, and labels, a few rows at a time.

        A block that stays in the processor's cache is several times faster to work on than the
        whole, and spares a copy of it in float64.
        """
        rows = _block_rows(self.probabilities)
        pairs = zip(self.probabilities.split(rows), self.labels.split(rows), strict=True)
        return ((p.to(torch.float64), labels) for p, labels in pairs)

    @cached_property
    def soft(self) -> Tensor:
        """``Σ_{n: y_n = y} P_nz``, (C, Z)."""
        shape = (self.num_classes, self.probabilities.shape[1])
        table = torch.zeros(shape, dtype=torch.float64, device=self.probabilities.device)
        for p, labels in self.blocks():
            table.index_add_(0, labels, p)
        return table

    @cached_property
    def best(self) -> Tensor:
        """Most probable source class of each example, (N,)."""
        return _arg_max(self.probabilities)

    @cached_property
    def hard(self) -> Tensor:
        """Counts of (target label, most probable source class), (C, Z)."""
        sources = self.probabilities.shape[1]
        cells = self.labels * sources + self.best
        counts = torch.bincount(cells, minlength=self.num_classes * sources)
        return counts.reshape(self.num_classes, sources).to(torch.float64)

    def __add__(self, other: SourceJoint) -> SourceJoint:
        if (self.probabilities.shape[1], self.num_classes) != (
            other.probabilities.shape[1],
            other.num_classes,
        ):
            raise InvalidInputError("cannot merge statistics of different source heads or tasks")
        return self.merged((self, other))

    @classmethod
    def merged(cls, parts: Sequence[SourceJoint]) -> SourceJoint:
        """That of all parts together."""
        rows = torch.cat([part.probabilities for part in parts])
        joint = cls(rows, torch.cat([part.labels for part in parts]), parts[0].num_classes)
        if all("best" in part.__dict__ for part in parts):
            joint.__dict__["best"] = torch.cat([part.best for part in parts])
        return joint


def _block_rows(probabilities: Tensor) -> int:
    return max(_BLOCK // probabilities.shape[1], 1)


def _lowest(rows: Tensor) -> float:
    return float(rows.numpy().min() if rows.device.type == "cpu" else rows.min())


def _arg_max(rows: Tensor) -> Tensor:
    if rows.device.type == "cpu":
        # numpy's runs over a row several numbers at a time.
        return torch.from_numpy(rows.numpy().argmax(axis=1))
    return rows.argmax(dim=1)
