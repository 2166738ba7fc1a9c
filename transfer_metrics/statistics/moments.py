"""Class moments: counts, means and scatter, exact under any way of cutting the data."""

from __future__ import annotations

import copy
import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
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
    check_finite,
    empty_like,
)
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.saving import Saved, require
from transfer_metrics.threads import threads_for_classes

_PARTS = frozenset({"class", "fourth"})
_ROWS_AT_ONCE = 4096
# Examples for each class below which all classes are centred at once.
_FEW = 16


@dataclass(frozen=True, eq=False)
class FourthMoments(Saved):
    """Third and fourth moments about the global mean that Ledoit-Wolf shrinkage needs."""

    cubic: Tensor  # ``Σ ‖u‖² u`` with ``u = x - mean``: (D,)
    quartic: float  # ``Σ ‖u‖⁴``

    def _require_fit(self) -> None:
        require(self.cubic.ndim == 1, "third moments of more than one axis")
        require(self.cubic.dtype == torch.float64, "third moments that are not float64")

    def shifted(self, delta: Tensor, moments: ClassMoments) -> FourthMoments:
        """The same sums, of those moments, about ``mean - delta``, by expanding ``‖u + delta‖``."""
        n, about = moments.n, moments.between_rows
        s_delta = moments.within.times(delta) + about.T @ (about @ delta)
        square = delta.dot(delta)
        trace = moments.within.trace() + float(about.square().sum())
        quartic = (
            self.quartic
            + 4.0 * delta.dot(self.cubic)
            + 2.0 * square * trace
            + 4.0 * delta.dot(s_delta)
            + n * square**2
        )
        cubic = self.cubic + delta * trace + 2.0 * s_delta + n * square * delta
        return FourthMoments(cubic, float(quartic))

    def __add__(self, other: FourthMoments) -> FourthMoments:
        return FourthMoments(self.cubic + other.cubic, self.quartic + other.quartic)


class ClassRows(Sequence[Scatter]):
    """Scatter of each class about its own mean, from features that can be read by position.

    C matrices of D x D do not fit where both are large (34 GB for C = 1 000, D = 2 048); one after
    the other they need a single one, and one more reading of the features, by ``read``, which gives
    those (k, D) at positions (k,), for class numbers (N,) and class means (C, D).

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

    def __getitem__(self, index: int) -> Scatter:  # type: ignore[override]
        start, stop = int(self._ends[index]), int(self._ends[index + 1])
        # One example is its own mean: no row is needed.
        scatter = Scatter.of_rows(self._means[:0])
        if stop - start < 2:
            return scatter
        pieces = (
            Scatter.of_rows(self._rows(at, min(at + _ROWS_AT_ONCE, stop)) - self._means[index])
            for at in range(start, stop, _ROWS_AT_ONCE)
        )
        return functools.reduce(operator.add, pieces, scatter)

    def _rows(self, start: int, stop: int) -> Tensor:
        """Features at places ``start`` to ``stop`` of the order by class.

        Classes are asked for one after the other, so those that follow are read along.
        """
        first, rows = self._ahead
        if start < first or stop > first + len(rows):
            end = min(max(stop, start + _ROWS_AT_ONCE), len(self._order))
            rows = as_features(self._read(self._order[start:end]))
            check_finite(rows)
            first = start
            self._ahead = (first, rows)
        return rows[start - first : stop - first]


@dataclass(frozen=True, eq=False)
class ClassMoments(Saved):
    """Counts, means and scatter of each class; ``a + b`` merges two disjoint parts of the data.

    Everything is float64 and centred before it is multiplied; merging uses the pairwise formula of
    Chan, Golub and LeVeque (1983), so neither a large offset nor the way the data were cut into
    batches loses digits.

    Attributes:
        counts: examples per class, (C,) int64.
        means: class means, (C, D); zero for an empty class.
        within: scatter about the class means, summed over classes.
        class_scatter: the same per class, or None where it was not kept.
        fourth: fourth moments, or None where they were not kept.

    Cost: O(N D²) time and O(D²) memory for N >= D, O(N D) memory below; per-class scatter adds at
    most ``Σ_c min(n_c, D) D``.

    >>> import numpy as np
    >>> x, y = np.arange(12.0).reshape(6, 2), np.array([0, 0, 0, 1, 1, 1])
    >>> whole = ClassMoments.from_batch(x, y, num_classes=2)
    >>> parts = ClassMoments.from_batch(x[:2], y[:2], 2) + ClassMoments.from_batch(x[2:], y[2:], 2)
    >>> bool(torch.allclose(whole.means, parts.means)), whole.n == parts.n
    (True, True)
    """

    counts: Tensor
    means: Tensor
    within: Scatter
    class_scatter: Sequence[Scatter] | None = None
    fourth: FourthMoments | None = None

    def _require_fit(self) -> None:
        classes, dim = self.means.shape
        require(self.counts.shape == (classes,), "counts of other classes than the means")
        require(self.counts.dtype == torch.int64, "counts that are not int64")
        require(bool((self.counts >= 0).all()), "negative counts")
        require(self.means.dtype == torch.float64, "means that are not float64")
        scatters = (self.within, *(self.class_scatter or ()))
        require(all(s.dim == dim for s in scatters), "a scatter of another width than the means")
        kept = self.class_scatter is None or len(self.class_scatter) == classes
        require(kept, "scatters of other classes than the means")
        fourth = self.fourth is None or self.fourth.cubic.shape == (dim,)
        require(fourth, "fourth moments of another width than the means")

    @classmethod
    def from_batch(
        cls,
        x: Any,
        y: Any,
        num_classes: int | None = None,
        *,
        parts: Iterable[str] = _PARTS,
    ) -> ClassMoments:
        """Moments of one batch.

        Args:
            x: features, (N, D), array or tensor of any floating or integer type.
            y: labels, (N,). Integers below ``num_classes`` where that is given; otherwise anything
                sortable, numbered in sorted order.
            num_classes: C; needed when batches are to be merged.
            parts: which optional parts to keep, out of ``"class"`` and ``"fourth"``.

        Raises:
            InvalidInputError: wrong shapes, labels out of range, NaN or infinite features.
        """
        parts = frozenset(parts)
        features = as_rows(x)
        if features.dtype != torch.float32:
            features = as_features(features)
        labels, size = as_labels(y, features.shape[0], num_classes)
        labels = labels.to(features.device)
        counts = torch.bincount(labels, minlength=size)
        order = torch.argsort(labels, stable=True)
        bounds = [0, *counts.cumsum(0).tolist()]
        rows = empty_like(features)
        means = rows.new_zeros(size, features.shape[1])
        with threads_for_classes(len(features), features.shape[1], size):
            if len(features) < _FEW * size and features.device.type == "cpu":
                gather(features, order, rows)
                _centre(rows.numpy(), counts.numpy(), means.numpy())
            else:
                for c, (start, stop) in enumerate(pairwise(bounds)):
                    if stop > start:
                        block, mean = rows[start:stop], means[c]
                        gather(features, order[start:stop], block)
                        block -= torch.mean(block, dim=0, out=mean)
            # One example is its own mean: no row is needed.
            class_rows = [rows[i : i if j - i < 2 else j] for i, j in pairwise(bounds)]
            by_class = tuple(map(Scatter.of_rows, class_rows)) if "class" in parts else None
        if not bool(torch.isfinite(means).all()):
            check_finite(features)
            raise InvalidInputError("X has values too large to average in float64; rescale it")
        moments = cls(counts, means, Scatter.of_rows(rows), by_class)
        if "fourth" not in parts:
            return moments
        return dataclasses.replace(moments, fourth=_fourth_moments(features, moments.mean))

    @property
    def n(self) -> int:
        """Number of examples."""
        return int(self.counts.sum())

    @property
    def dim(self) -> int:
        """Number of features D."""
        return self.means.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of label values C, empty classes included."""
        return len(self.counts)

    @cached_property
    def present(self) -> list[int]:
        """Classes that have examples."""
        return self.counts.nonzero().flatten().tolist()

    @cached_property
    def mean(self) -> Tensor:
        """Global mean, (D,)."""
        return self.counts.to(self.means.dtype) @ self.means / self.n

    @cached_property
    def between_rows(self) -> Tensor:
        """Rows ``√n_c (m_c - m)``, (C, D); their scatter is the between-class scatter."""
        return self.counts.to(self.means.dtype).sqrt()[:, None] * (self.means - self.mean)

    @cached_property
    def total(self) -> Scatter:
        """Scatter about the global mean; that of constant features is zero, not rounding."""
        total = self.within.bordered(self.between_rows)
        return total.cleared(rounding_of(self.mean, self.n), self.means)

    @cached_property
    def target_mean(self) -> Tensor:
        """Mean of the one-hot labels of the classes that have examples, (K,)."""
        return self.counts[self.present].to(self.means.dtype) / self.n

    @cached_property
    def cross(self) -> Tensor:
        """``Σ (x - mean)(t - target mean)'`` for those one-hot labels, (D, K)."""
        weights = self.counts[self.present].to(self.means.dtype).sqrt()
        return (weights[:, None] * self.between_rows[self.present]).T

    @cached_property
    def spread(self) -> Tensor:
        """``Σ (t - target mean)²`` for those one-hot labels, (K,)."""
        return self.n * self.target_mean * (1.0 - self.target_mean)

    def select(self, columns: Any) -> ClassMoments:
        """Moments of some of the features (k,), as if they had been built from those alone.

        Fourth moments are left out, because they are of the length of whole rows.

        Raises:
            InvalidInputError: columns that do not exist.

        Cost: O(C k²), or O(N k) where fewer than D examples are kept as rows.

        >>> moments = ClassMoments.from_batch([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]], [0, 0, 1])
        >>> moments.select([1]).within.matrix().tolist()
        [[4.5]]
        """
        chosen = as_columns(columns, self.dim)
        by_class = self.class_scatter
        if isinstance(by_class, ClassRows):
            by_class = by_class.select(chosen)
        elif by_class is not None:
            by_class = tuple(scatter.select(chosen) for scatter in by_class)
        means = self.means[:, chosen.to(self.means.device)]
        return ClassMoments(self.counts, means, self.within.select(chosen), by_class)

    def scatter_of(self, c: int) -> Scatter:
        """Scatter of class c about its own mean.

        Raises:
            InvalidInputError: per-class scatter was not kept.
        """
        if self.class_scatter is None:
            raise InvalidInputError(
                "these moments were built without per-class scatter; "
                "build them with parts={'class'}"
            )
        return self.class_scatter[c]

    def __add__(self, other: ClassMoments) -> ClassMoments:
        if self.means.shape != other.means.shape:
            raise InvalidInputError(
                f"cannot merge moments of shape (C, D) = {tuple(self.means.shape)} and "
                f"{tuple(other.means.shape)}; build both with the same layer and num_classes"
            )
        if not self.n or not other.n:
            return other if not self.n else self
        a, b = self.counts.to(self.means.dtype), other.counts.to(self.means.dtype)
        counts = a + b
        share = torch.where(counts > 0, b / counts.clamp_min(1.0), 0.0)[:, None]
        delta = other.means - self.means
        shifts = (a * b / counts.clamp_min(1.0)).sqrt()[:, None] * delta
        shared = ((a > 0) & (b > 0)).tolist()
        class_scatter = None
        if self.class_scatter is not None and other.class_scatter is not None:
            class_scatter = tuple(
                left + right + Scatter.of_rows(shifts[c : c + 1] if shared[c] else shifts[:0])
                for c, (left, right) in enumerate(
                    zip(self.class_scatter, other.class_scatter, strict=True)
                )
            )
        rows = shifts[torch.tensor(shared, device=shifts.device)]
        merged = ClassMoments(
            self.counts + other.counts,
            self.means + share * delta,
            self.within + other.within + Scatter.of_rows(rows),
            class_scatter,
        )
        if self.fourth is None or other.fourth is None:
            return merged
        fourth = self.fourth.shifted(self.mean - merged.mean, self)
        fourth += other.fourth.shifted(other.mean - merged.mean, other)
        return dataclasses.replace(merged, fourth=fourth)


def rounding_of(mean: Tensor, n: int) -> Tensor:
    """Sum of squares about a mean (D,) that n equal numbers can have, as means are rounded."""
    return n * (8.0 * torch.finfo(torch.float64).eps * mean).square()


def _centre(rows: np.ndarray, counts: np.ndarray, means: np.ndarray) -> None:
    """Take from rows in the order of their classes the means of these, which are filled in.

    Of classes that have few, all the first, then all the second rows at once, and so on.
    """
    starts = counts.cumsum() - counts
    few = counts <= _FEW
    by_place = [np.flatnonzero(few & (counts > j)) for j in range(int(counts[few].max(initial=0)))]
    # Rows that are not finite are found, and told, by what comes of them.
    with np.errstate(invalid="ignore", over="ignore"):
        for c in np.flatnonzero(~few):
            block = torch.from_numpy(rows[starts[c] : starts[c] + counts[c]])
            # Numpy adds one after the other, and constants would vary by its rounding.
            block -= torch.mean(block, dim=0, out=torch.from_numpy(means[c]))
        for j, chosen in enumerate(by_place):
            means[chosen] += rows[starts[chosen] + j]
        means[few] /= np.maximum(counts[few], 1)[:, None]
        for j, chosen in enumerate(by_place):
            rows[starts[chosen] + j] -= means[chosen]


def gather(features: Tensor, index: Tensor, out: Tensor) -> None:
    """``out = features[index]``; numpy's is several times faster than torch's on the CPU."""
    if features.device.type != "cpu":
        out.copy_(features[index])
    elif features.dtype == out.dtype:
        np.take(features.numpy(), index.numpy(), axis=0, out=out.numpy(), mode="clip")
    else:
        out.numpy()[...] = np.take(features.numpy(), index.numpy(), axis=0)


def _fourth_moments(features: Tensor, mean: Tensor) -> FourthMoments:
    cubic, quartic = torch.zeros_like(mean), 0.0
    # Blocks stay in the processor's cache.
    for rows in features.split(max(1, (1 << 18) // len(mean))):
        # Numpy is eight times faster where float32 is subtracted from.
        of_numpy = features.device.type == "cpu"
        with np.errstate(over="ignore", invalid="ignore"):
            centred = torch.from_numpy(rows.numpy() - mean.numpy()) if of_numpy else rows - mean
        squares = torch.einsum("nd,nd->n", centred, centred)
        cubic += squares @ centred
        quartic += float(squares @ squares)
    return FourthMoments(cubic, quartic)
