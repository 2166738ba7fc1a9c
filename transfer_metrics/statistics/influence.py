"""How class moments move with the weights of blocks of examples: the seam of influence functions."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from transfer_metrics.statistics.linalg import Scatter, product
from transfer_metrics.statistics.moments import ClassMoments, FourthMoments

_DENSE_BYTES = 1 << 30
"""Scatters of blocks that take more stay rows, which are multiplied a second time."""


@dataclass(frozen=True, eq=False)
class Influence:
    """Moments of all examples, and what one more share of each of B blocks adds to them.

    With weights w_b of the blocks, all 1, the scatter about the means moves by that of the block
    about the same means, since deviations from a mean sum to zero. So the derivative of a score in
    the weights is its derivative in the moments, contracted with the blocks.

    Attributes:
        whole: the moments of all.
        blocks: those of the blocks.
        within: scatter of each block about the class means of all.
        by_class: the same for each class, where it was kept.
        fourth: fourth moments of each block about the mean of all, where they were kept.

    Cost: O(N D²) as for the moments, and memory for B matrices of D x D where D < N.
    """

    whole: ClassMoments
    blocks: tuple[ClassMoments, ...]
    within: tuple[Scatter, ...]
    by_class: tuple[tuple[Scatter, ...], ...] | None = None
    fourth: tuple[FourthMoments, ...] = ()

    @classmethod
    def of(cls, blocks: Sequence[ClassMoments]) -> Influence:
        """That of disjoint blocks of examples."""
        counts = torch.stack([block.counts for block in blocks])
        sums = sum(b.counts.to(b.means)[:, None] * b.means for b in blocks)
        means = sums / counts.sum(dim=0).clamp_min(1).to(sums)[:, None]
        shifts = [b.counts.to(means).sqrt()[:, None] * (b.means - means) for b in blocks]
        total, within = _joined(
            [(b.within, s[b.counts > 0]) for b, s in zip(blocks, shifts, strict=True)]
        )
        classes, by_class = None, None
        if all(block.class_scatter is not None for block in blocks):
            pairs = list(zip(blocks, shifts, counts.tolist(), strict=True))
            found = [
                _joined([(b.scatter_of(c), s[c : c + (n[c] > 0)]) for b, s, n in pairs])
                for c in range(len(means))
            ]
            classes, by_class = tuple(one[0] for one in found), tuple(one[1] for one in found)
        whole = ClassMoments(counts.sum(dim=0), means, total, classes)
        fourth = tuple(
            b.fourth.shifted(b.mean - whole.mean, b.n, b.total) for b in blocks if b.fourth
        )
        if len(fourth) == len(blocks):
            whole = dataclasses.replace(whole, fourth=functools.reduce(operator.add, fourth))
        return cls(whole, tuple(blocks), within, by_class, fourth)

    @cached_property
    def counts(self) -> Tensor:
        """Examples of each class in each block, (B, C) float64."""
        return torch.stack([block.counts for block in self.blocks]).to(self.whole.means)

    @cached_property
    def n(self) -> Tensor:
        """Examples of each block, (B,)."""
        return self.counts.sum(dim=1)

    @cached_property
    def sums(self) -> Tensor:
        """Sum over each block of what its examples are away from the mean of all, (B, D)."""
        return torch.stack([b.n * (b.mean - self.whole.mean) for b in self.blocks])

    @cached_property
    def trace(self) -> Tensor:
        """What the blocks add to the trace of the total scatter, (B,)."""
        identity = self.whole.means.new_zeros(self.whole.dim, 0)
        return self.of_total(identity, identity[0], identity=1.0)

    @property
    def quartic(self) -> Tensor:
        """What the blocks add to ``Σ ‖x - mean‖⁴``, which the mean moves too, (B,)."""
        assert self.whole.fourth is not None
        own = torch.tensor([one.quartic for one in self.fourth]).to(self.sums)
        return own - 4.0 / self.whole.n * (self.sums @ self.whole.fourth.cubic)

    def of_total(
        self, factors: Tensor, weights: Tensor, *, identity: float = 0.0, own: float = 0.0
    ) -> Tensor:
        """``<G, T_b>`` for the total scatters T_b of the blocks, (B,).

        ``G = P diag(weights) P' + identity I + own T`` with factors P (D, k), T the whole's.
        """
        total, about = self.whole.total, self.whole.between_rows
        if total.dense:
            matrix = product(factors * weights, factors.T) + own * total.data
            matrix.diagonal().add_(identity)
            inner = torch.stack([_inner(matrix, one) for one in self.within])
            return self._about_mean(inner, product(about, matrix))

        def image(rows: Tensor) -> Tensor:
            found = product(product(rows, factors) * weights, factors.T) + identity * rows
            return found + own * product(product(rows, total.data.T), total.data) if own else found

        inner = torch.stack([(image(one.data) * one.data).sum() for one in self.within])
        return self._about_mean(inner, image(about))

    def of_between(self, image: Tensor) -> Tensor:
        """``<image, dB>`` twice for the between-class rows B, as ``tr(B G B')`` moves, (B,).

        ``image`` is ``B G``, (C, D).
        """
        return self._about_mean(torch.zeros_like(self.n), image)

    def logdet1p(
        self, scale: float, c: int | None = None, *, centred: bool = False
    ) -> tuple[float, Tensor]:
        """``log det(I + scale S)`` and its derivative in the weights at a fixed scale, (B,).

        ``S`` is the total scatter; or that of class c, about the mean of all or, ``centred``, its
        own. The sum of the derivative is that in ``log scale``.
        """
        if c is None:
            scatter, parts, about = self.whole.total, self.within, self.whole.between_rows
        else:
            assert self.by_class is not None
            parts, about = self.by_class[c], self.whole.between_rows[c : c + (not centred)]
            scatter = self.whole.scatter_of(c) + Scatter.of_rows(about)
        matrix = scale * scatter.small
        matrix.diagonal().add_(1.0)
        factor = torch.linalg.cholesky(matrix)
        value, inverse = 2.0 * float(factor.diagonal().log().sum()), torch.cholesky_inverse(factor)
        if scatter.dense:
            inner = scale * torch.stack([_inner(inverse, one) for one in parts])
            image = scale * product(about, inverse)
        else:
            # G F' = scale F'(I + scale F F')⁻¹, so that only the smaller side is inverted.
            lengths = [len(one.data) for one in parts]
            moved = 1.0 - inverse.diagonal()
            inner = torch.stack([one.sum() for one in moved[: sum(lengths)].split(lengths)])
            image = scale * product(inverse[sum(lengths) :], scatter.data)
        return value, self._about_mean(inner, image, c) if len(image) else inner

    def _about_mean(self, inner: Tensor, image: Tensor, c: int | None = None) -> Tensor:
        """From contractions with scatter about class means to scatter about the mean of all.

        ``image`` has G times the between-class rows, of one class or of all; (k, D).
        """
        chosen = slice(None) if c is None else slice(c, c + 1)
        root = self.whole.counts[chosen].to(image).sqrt()[:, None]
        image = image / root.clamp_min(1.0)
        means = self.whole.means[chosen]
        offsets = means - self.whole.mean
        found = inner + self.counts[:, chosen] @ (offsets * image).sum(dim=1)
        for b, block in enumerate(self.blocks):
            shift = self.counts[b, chosen, None] * (block.means[chosen] - means)
            found[b] += 2.0 * (shift * image).sum()
        # All deviations from the mean sum to zero; those of one class do not.
        if c is not None:
            found -= 2.0 / self.whole.n * (self.sums @ (root.square() * image).sum(dim=0))
        return found


def _joined(parts: Sequence[tuple[Scatter, Tensor]]) -> tuple[Scatter, tuple[Scatter, ...]]:
    """Sum of scatters with further rows of each, and the summands on the side that the sum has."""
    dim, size = parts[0][0].dim, sum(len(s.data) + len(rows) for s, rows in parts)
    dense = size >= dim or any(scatter.dense for scatter, _ in parts)
    if not dense:
        stacks = [torch.cat([scatter.data, rows]) for scatter, rows in parts]
        return Scatter(torch.cat(stacks), dense=False), tuple(Scatter(s, False) for s in stacks)
    keep = len(parts) * dim * dim * 8 <= _DENSE_BYTES
    total, found = parts[0][1].new_zeros(dim, dim), []
    for scatter, rows in parts:
        if scatter.dense:
            full = scatter + Scatter(rows, dense=False)
        else:
            stack = torch.cat([scatter.data, rows])
            full = Scatter(Scatter(stack, dense=False).matrix(), dense=True)
        total += full.data
        found.append(full if keep or scatter.dense else Scatter(stack, dense=False))
    return Scatter(total, dense=True), tuple(found)


def _inner(matrix: Tensor, scatter: Scatter) -> Tensor:
    """``<matrix, S>``."""
    if scatter.dense:
        return torch.dot(matrix.flatten(), scatter.data.flatten())
    return (product(scatter.data, matrix) * scatter.data).sum()
