"""How class moments move with the weights of blocks of examples, for influence functions."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.block_rows import BlockRows
from transfer_metrics.statistics.joint import SourceJoint
from transfer_metrics.statistics.leverage import Leverage, Ridge, logdets
from transfer_metrics.statistics.linalg import Scatter, cholesky, product
from transfer_metrics.statistics.moments import ClassMoments, FourthMoments
from transfer_metrics.statistics.targets import TargetMoments

# Examples for each dimension from which one more hardly adds to the rank.
_SMOOTH = 2
# Examples for each dimension from which scores are so smooth that derivatives will do.
_MANY = 10
# Shift of a scatter that may be singular, over its largest variance.
_LEAST = 1e-6
# Trace over shift from which leverages lose their digits, and scores are computed again instead.
_STEEP = 1e12
# Largest entry of G times trace, over <G, T>, up to which float32 leaves two digits of a deviation.
_ROUGH = 1e5


@dataclass(frozen=True, eq=False)
class Parts:
    """A statistic of all examples, and those of B disjoint blocks of them."""

    whole: Any
    blocks: tuple[Any, ...]

    @staticmethod
    def of(blocks: Sequence[Any]) -> Parts:
        """Those of blocks, of moments with what is made of them."""
        if isinstance(blocks[0], ClassMoments | TargetMoments):
            return Influence.of(blocks)
        return Parts(SourceJoint.merged(blocks), tuple(blocks))

    @property
    def statistic(self) -> Any:
        """What metrics read of all examples."""
        return self.whole

    @cached_property
    def n(self) -> Tensor:
        """Examples of each block, (B,) float64."""
        return torch.tensor([block.n for block in self.blocks], dtype=torch.float64)

    def left_out(self, value: float, left: Sequence[float]) -> Tensor:
        """What a score that is ``left`` without each block loses, as a derivative in its weight."""
        return (value - self.n.new_tensor(left)) * (1.0 - self.n / self.whole.n)


@dataclass(frozen=True, eq=False)
class Influence(Parts):
    """Moments of all examples, and what one more share of each of B blocks adds to them.

    With weights w_b of the blocks, all 1, the scatter about the means moves by that of the block
    about the same means, since deviations from a mean sum to zero. So the derivative of a score in
    the weights is its derivative in the moments, contracted with the blocks.

    Cost: O(N D²) as for the moments, and as much memory as the blocks.
    """

    whole: ClassMoments  # the moments of all
    blocks: tuple[ClassMoments, ...]  # those of the blocks
    within: tuple[Scatter, ...]  # scatter of each block about the class means of all
    rows: BlockRows | None  # the rows of that, where none is dense
    # The same for each class, where it was kept.
    by_class: tuple[tuple[Scatter, ...], ...] | None = None
    class_rows: tuple[BlockRows | None, ...] | None = None
    # Fourth moments of each block about the mean of all, where they were kept.
    fourth: tuple[FourthMoments, ...] = ()
    targets: int = 0  # how many of the last columns are targets of a regression, as one class

    @classmethod
    def of(cls, blocks: Sequence[ClassMoments | TargetMoments]) -> Influence:
        """That of disjoint blocks of examples."""
        joint = [block.joint if isinstance(block, TargetMoments) else block for block in blocks]
        targets = blocks[0].num_targets if isinstance(blocks[0], TargetMoments) else 0
        return dataclasses.replace(cls._of_classes(joint), targets=targets)

    @classmethod
    def _of_classes(cls, blocks: Sequence[ClassMoments]) -> Influence:
        counts = torch.stack([block.counts for block in blocks])
        sums = sum(b.counts.to(b.means)[:, None] * b.means for b in blocks)
        every = counts.sum(dim=0)
        means = sums / every.clamp_min(1).to(sums)[:, None]
        whole = ClassMoments(every, means, Scatter.of_rows(means[:0]))
        shifts = [(b.counts > 0)[:, None] * (b.means - means) for b in blocks]
        offsets = means - whole.mean
        total, within, rows = _joined([b.within for b in blocks], counts, shifts, offsets)
        classes, by_class, class_rows = None, None, None
        if all(block.class_scatter is not None for block in blocks):
            found = []
            for c in range(len(means)):
                own = slice(c, c + 1)
                of_class = rows.of_class(c) if rows is not None and rows.plain else None
                scatters = [b.scatter_of(c) for b in blocks]
                moved = [shift[own] for shift in shifts]
                found.append(_joined(scatters, counts[:, own], moved, offsets[own], of_class))
            classes, by_class, class_rows = zip(*found, strict=True)
        whole = ClassMoments(every, means, total, classes)
        fourth = tuple(b.fourth.shifted(b.mean - whole.mean, b) for b in blocks if b.fourth)
        if len(fourth) == len(blocks):
            whole = dataclasses.replace(whole, fourth=functools.reduce(operator.add, fourth))
        return cls(whole, tuple(blocks), within, rows, by_class, class_rows, fourth)

    @cached_property
    def statistic(self) -> ClassMoments | TargetMoments:
        """What metrics read of all examples."""
        return TargetMoments(self.whole, self.targets) if self.targets else self.whole

    @cached_property
    def leverage(self) -> Leverage | None:
        """The leverages of the examples, where blocks have fewer than there are dimensions."""
        if self.rows is None:
            return None
        return Leverage.of(self.rows, self.whole.mean, self.targets)

    @property
    def bends(self) -> bool:
        """Whether derivatives alone tell too small an error, however alike the examples are."""
        return self.whole.n < _MANY * self.whole.dim

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
        own = self.sums.new_tensor([one.quartic for one in self.fourth])
        return own - 4.0 / self.whole.n * (self.sums @ self.whole.fourth.cubic)

    def of_total(self, factors: Tensor, weights: Tensor, *, identity: float = 0.0) -> Tensor:
        """``<G, T_b>`` for the total scatters T_b of the blocks, (B,).

        ``G = P diag(weights) P' + identity I`` with factors P (D, k).
        """
        total, about = self.whole.total, self.whole.between_rows
        inner = weights.new_tensor([identity * one.trace() for one in self.within])
        image = identity * about
        if total.dense and 2 * len(weights) > self.whole.dim:
            matrix = product(factors * weights, factors.T)
            inner += _inner(matrix, self.within, total)
            image += product(about, matrix)
        elif len(weights):
            inner += torch.stack([_between(one, factors, weights) for one in self.within])
            image += product(product(about, factors) * weights, factors.T)
        return self._about_mean(inner, image)

    def of_itself(self) -> Tensor:
        """``<T, T_b>`` for the total scatter T of all and T_b of the blocks, (B,)."""
        total = self.whole.total
        if self.rows is not None:
            # So small a shift leaves nothing of rounding, and is taken out again.
            shift = _LEAST * float(total.small.diagonal().max())
            return self.n.new_tensor(Ridge(total, shift, self.rows).with_total())
        image = total.times(self.whole.between_rows.T).T
        return self._about_mean(_inner(total.matrix(), self.within, total), image)

    def squares(self, b: int, columns: Tensor) -> tuple[float, list[float]]:
        """``‖T_b‖²`` of block b about the mean of all, and ``v'T_b v`` of columns v (D, k)."""
        if self.rows is None:
            block, away = self.blocks[b], (self.sums[b] / self.n[b].sqrt())[None]
            matrix = block.total.bordered(away)
            found = (columns * matrix.times(columns)).sum(dim=0)
            return matrix.square_norm(), found.tolist()
        unit = self.whole.total.trace() ** -0.5
        rows = self.rows.filled(b, np.float32, unit)
        inner = rows @ rows.T
        along = rows.astype(np.float64) / unit @ columns.cpu().numpy()
        return float(np.vdot(inner, inner)) / unit**4, np.square(along).sum(axis=0).tolist()

    def without(self, b: int) -> tuple[Tensor, Tensor]:
        """Examples of each class but for those of block b, (C,), and their means, (C, D)."""
        own = self.counts[b][:, None]
        kept = self.whole.counts[:, None] - own
        shift = own * (self.whole.means - self.blocks[b].means) / kept.clamp_min(1.0)
        return kept[:, 0], self.whole.means + shift

    def of_between(self, image: Tensor) -> Tensor:
        """``<image, dB>`` twice for the between-class rows B, as ``tr(B G B')`` moves, (B,).

        ``image`` is ``B G``, (C, D).
        """
        return self._about_mean(torch.zeros_like(self.n), image)

    def logdet1p(
        self, scale: float, c: int | None = None, *, centred: bool = False
    ) -> tuple[float, Tensor, float]:
        """``log det(I + scale S)``, what each block adds, (B,), and the derivative in log scale.

        ``S`` is the total scatter; or that of class c, about the mean of all or, ``centred``, its
        own; without c, ``centred``, that about the means of the classes. What a block adds is what
        is lost without it, times the share of examples that are left.
        """
        whole = self.whole
        if scale * whole.total.trace() > _STEEP:
            raise InvalidInputError("the distortion is too small beside the features")
        if c is None and not centred and self.leverage is not None:
            ridge = Ridge(whole.total, 1.0 / scale, self.leverage.rows)
            left = ridge.left()
            changed = float(np.concatenate([1.0 - one.diagonal() for one in left]).sum())
            return ridge.logdet(), self.leverage.of_logdet(left).to(self.n), changed
        chosen = slice(None) if c is None else slice(c, c + 1)
        kept_rows = self.rows if c is None or self.class_rows is None else self.class_rows[c]
        scatter = whole.within if c is None else whole.scatter_of(c)
        count = int(whole.counts[chosen].sum())
        about = whole.between_rows[chosen] if not centred else whole.means[:0]
        full = scatter.bordered(about) if len(about) else scatter
        if kept_rows is not None:
            return self._logdet_of_rows(scale, full, kept_rows, chosen, centred)
        if not scatter.dense or count < _SMOOTH * whole.dim:
            raise InvalidInputError(
                f"{count} examples in {whole.dim} dimensions: one more adds to the rank"
            )
        factor, logdet = _factored(full.data, scale)
        kept = []
        for b, block in enumerate(self.blocks):
            part = block.within if c is None else block.scatter_of(c)
            rows = self._moved(b, chosen, centred)
            if c is None and not centred:  # the mean of what is left is another one
                rows = torch.cat([rows, self.sums[b : b + 1] / (whole.n - self.n[b]).sqrt()])
            kept.append(_factored(full.data - part.bordered(rows).matrix(), scale)[1])
        shares = self.counts[:, chosen].sum(dim=1) / count
        found = (logdet - shares.new_tensor(kept)) * (1.0 - shares)
        if c is not None and not centred:
            away = whole.counts[chosen].to(found).sqrt() @ about
            found -= self._as_mean_moves(scale * torch.cholesky_solve(away[:, None], factor))
        changed = whole.dim - float(torch.cholesky_inverse(factor).trace())
        return logdet, found, changed

    def _moved(self, b: int, chosen: slice, centred: bool) -> Tensor:
        """Rows that go with block b, beside its scatter about its own class means, (k, D)."""
        whole, own, means = self.whole, self.counts[b, chosen], self.blocks[b].means[chosen]
        if centred:
            totals = whole.counts[chosen].to(own)
            roots = (own * totals / (totals - own).clamp_min(1.0)).sqrt()
            return roots[:, None] * (means - whole.means[chosen])
        return own.sqrt()[:, None] * (means - whole.mean)

    def _as_mean_moves(self, solved: Tensor) -> Tensor:
        """What blocks take by the mean of all, about which a class is, of what it is away, (B,)."""
        return 2.0 / self.whole.n * (self.sums @ solved)[:, 0]

    def _logdet_of_rows(
        self, scale: float, full: Scatter, rows: BlockRows, chosen: slice, centred: bool
    ) -> tuple[float, Tensor, float]:
        """The same from rows, where examples are few: what is lost when each block is left out.

        That is ``-log det`` of ``I - H`` for the leverages H of its rows.
        """
        whole, counts = self.whole, self.counts[:, chosen]
        ridge = Ridge(full, 1.0 / scale, rows, centred=centred)
        left = ridge.left()
        changed = float(np.concatenate([1.0 - one.diagonal() for one in left]).sum())
        found = torch.zeros_like(self.n)
        if centred:
            # The means go with them, but for those of classes that are gone.
            totals = whole.counts[chosen].clamp_min(1).to(counts)
            shares = torch.where(counts < totals, counts / totals, 0.0)
            found += torch.log1p(-shares).sum(dim=1)
            weights = (torch.where(counts < totals, 1.0, 0.0) / totals).cpu().numpy()
            for b, one in enumerate(left):
                ones, codes = rows.labels(b)
                same = codes[:, None] == codes
                one -= same * np.outer(weights[b, codes] * ones, ones)
        found -= torch.from_numpy(logdets(left)).to(found)
        found *= 1.0 - counts.sum(dim=1) / float(whole.counts[chosen].sum())
        if not centred:
            # Deviations from the mean of all add up to what the class is away from it.
            away = whole.counts[chosen].to(found).sqrt() @ whole.between_rows[chosen]
            found -= self._as_mean_moves(ridge.solve(away[:, None]))
        return ridge.logdet(), found, changed

    def _about_mean(self, inner: Tensor, image: Tensor) -> Tensor:
        """From contractions with scatter about class means to scatter about the mean of all.

        ``image`` has G times the between-class rows, (C, D).
        """
        image = image / self.whole.counts.to(image).sqrt()[:, None].clamp_min(1.0)
        means = self.whole.means
        found = inner + self.counts @ ((means - self.whole.mean) * image).sum(dim=1)
        for b, block in enumerate(self.blocks):
            shift = self.counts[b][:, None] * (block.means - means)
            found[b] += 2.0 * (shift * image).sum()
        return found


def _joined(
    parts: Sequence[Scatter],
    counts: Tensor,
    shifts: Sequence[Tensor],
    offsets: Tensor,
    rows: BlockRows | None = None,
) -> tuple[Scatter, tuple[Scatter, ...], BlockRows | None]:
    """Scatter about the class means of all, that of each block, and their rows if none is dense."""
    rows = rows or BlockRows.of(parts, counts, shifts, offsets)
    if rows is not None:
        return rows.scatter, rows.parts, rows
    roots = counts.to(offsets).sqrt()[:, :, None]
    moved = [(root * s)[root[:, 0] > 0] for root, s in zip(roots, shifts, strict=True)]
    found = tuple(p + Scatter.of_rows(m) for p, m in zip(parts, moved, strict=True))
    return functools.reduce(operator.add, found), found, None


def _factored(scatter: Tensor, scale: float) -> tuple[Tensor, float]:
    """Lower Cholesky factor of ``I + scale S`` for a matrix S (D, D), and ``log det`` of that."""
    matrix = scale * scatter
    matrix.diagonal().add_(1.0)
    factor = cholesky(matrix)
    return factor, 2.0 * float(factor.diagonal().log().sum())


def _between(scatter: Scatter, factors: Tensor, weights: Tensor) -> Tensor:
    """``<P diag(weights) P', S>`` for factors P (D, k)."""
    moved = product(scatter.data, factors)
    other = factors if scatter.dense else moved
    return (other * moved).sum(dim=0) @ weights


def _inner(matrix: Tensor, parts: Sequence[Scatter], total: Scatter) -> Tensor:
    """``<matrix, S_b>`` for scatters S_b that are parts of a total, (B,).

    Rows are multiplied in float32 where the rounding of that lies below what an error can tell.
    """
    size = float(matrix.diagonal().abs().max()) * total.trace()
    exact = abs(float(torch.dot(matrix.flatten(), total.data.flatten())))
    kind = torch.float32 if size < _ROUGH * exact else torch.float64
    rough, found = matrix.to(kind), matrix.new_zeros(len(parts))
    for b, part in enumerate(parts):
        if part.dense:
            found[b] = torch.dot(matrix.flatten(), part.data.flatten())
        else:
            rows = part.data.to(kind)
            found[b] = torch.linalg.vecdot(product(rows, rough), rows).to(matrix).sum()
    return found
