"""Group-lasso softmax regression over the columns of many layers, solved to its optimum."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.progress import progress_bar
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.selection.group_softmax import Solution, minimise, row_lengths
from transfer_metrics.statistics.inputs import as_labels

# On the way to λ a rough solution is enough: it only says where to look next.
_ROUGH = 1e-2
# At λ, columns this near to the bound join too: most of those that come to violate it are here.
_NEARBY = 0.9
_MOST_ROUNDS = 100
# How many columns one pass collects at most, and in how much memory.
_MOST_COLUMNS, _FEWEST_COLUMNS = 4096, 64
_MOST_BYTES = 1 << 27


@dataclass(frozen=True)
class GroupLassoFit:
    """Minimum of ``mean CE + λ Σ_i ‖W_i‖₂`` over weights (D, C) and a free bias (C,).

    ``lambda_max`` is the smallest λ at which all weights are zero, ``max_i ‖x_i'(π - Y)‖ / N`` with
    the shares π of the classes. ``columns`` are those whose weights are not zero, ascending, (k,)
    int64, and ``weights`` their rows of W, (k, C). The bias is minus infinity for a class without
    examples. ``gradient_norms`` are ``‖x_i'(P - Y)/N‖`` of every column, (D,): λ for those in
    ``columns``, at most λ for the others. ``objective`` is the value of the minimum, in nats,
    ``kkt_residual`` the largest violation of the conditions of optimality, as a share of λ;
    ``passes`` tells how often all columns were read.
    """

    lam: float
    lambda_max: float
    columns: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    gradient_norms: np.ndarray
    objective: float
    kkt_residual: float
    iterations: int
    passes: int

    def dense(self) -> np.ndarray:
        """All of W, (D, C)."""
        whole = np.zeros((len(self.gradient_norms), self.weights.shape[1]))
        whole[self.columns] = self.weights
        return whole


def group_lasso(
    features: LayerColumns,
    y: Any,
    num_classes: int,
    lam: float,
    *,
    tol: float = 1e-6,
    max_iter: int = 20_000,
    relative: bool = False,
    path: float = 0.7,
    progress: bool = False,
) -> GroupLassoFit:
    """Minimise ``mean CE + λ Σ_i ‖W_i‖₂`` over all columns, the bias unpenalised.

    λ comes down from ``lambda_max`` in steps, each started from the last one's solution, with the
    columns that the strong rule lets through: ``‖g_i‖ >= 2 λ_new - λ_old``. At the wanted λ all
    columns are read and those that violate the conditions of optimality join, until none does.
    So only a working set is in memory beside one layer.

    ``tol`` is the largest violation of the conditions of optimality that is left, as a share of
    λ: all columns are compared with λ in their own precision, and the nearest again in float64.
    ``max_iter`` is the most proximal steps on one working set. With ``relative`` λ is a share of
    ``lambda_max``; ``path`` is each λ on the way as a share of the one before. Where the minimum is
    not unique, as with duplicated columns, it is one of them. Classes without examples get zero
    weights.

    Source: the relevance of Evci et al. (2022), Head2Toe; strong rules: Tibshirani et al. (2012).

    Cost: O(N D C) for each of about ``log(λ/lambda_max) / log(path)`` + 3 passes, and O(N a C)
    per step over a columns of the working set, which takes at most 256 MB beside the columns
    whose weights are not zero.
    """
    for name, value in (("lam", lam), ("tol", tol), ("max_iter", max_iter)):
        if not 0 < value < np.inf:
            raise InvalidInputError(f"{name} must be a positive number, not {value}")
    if not 0 < path < 1:
        raise InvalidInputError(f"path must lie between 0 and 1, not {path}")
    targets, present = _targets(features, y, num_classes)
    found = _Solver(features, targets, tol, max_iter).solve(lam, relative, path, progress)
    if not found.kkt_residual <= tol:
        warn(
            f"the group lasso stopped at {found.kkt_residual:.1e} of lam from its optimum and "
            f"should reach tol={tol:g}; raise max_iter={max_iter}, lam or tol"
        )
    if len(present) == num_classes:
        return found
    weights, bias = np.zeros((len(found.columns), num_classes)), np.full(num_classes, -np.inf)
    weights[:, present], bias[present] = found.weights, found.bias
    return replace(found, weights=weights, bias=bias)


class _Solver:
    """One problem on its way from ``lambda_max`` down to λ."""

    def __init__(
        self, features: LayerColumns, targets: np.ndarray, tol: float, max_iter: int
    ) -> None:
        self.features, self.targets, self.tol, self.max_iter = features, targets, tol, max_iter
        fitting = _MOST_BYTES // (8 * len(features))
        self.most = int(np.clip(fitting, _FEWEST_COLUMNS, _MOST_COLUMNS))
        self.iterations, self.passes = 0, 0

    def solve(self, lam: float, relative: bool, path: float, progress: bool) -> GroupLassoFit:
        """The minimum, by way of a path of decreasing λ."""
        # Where all weights are zero the best bias gives every class its share.
        near = self._pass((self.targets.mean(axis=0) - self.targets) / len(self.targets))
        largest = previous = float(near.norms.max())
        lam = lam * largest if relative else lam
        bias = np.log(self.targets.mean(axis=0))
        working = _WorkingSet.empty(*self.targets.shape)
        if lam >= largest:
            loss = -float((self.targets @ bias).mean())
            return self._fit(working, bias, near, (lam, largest, loss, 0.0))
        strengths = list(_path(largest, lam, path))
        above = 2.0 * strengths[0] - previous
        with progress_bar("group lasso", len(strengths), progress, unit="step") as bar:
            for strength, following in itertools.pairwise(strengths):
                tol = max(_ROUGH, self.tol)
                working, solution = self._minimise(working, near, above, bias, strength, tol)
                bias, above = solution.bias, 2.0 * following - strength
                near = self._pass(solution.residual, above, working.columns)
                bar.update()
            for _ in range(_MOST_ROUNDS):
                working, solution = self._minimise(working, near, above, bias, lam, self.tol)
                bias, above = solution.bias, _NEARBY * lam
                near = self._pass(solution.residual, above, working.columns)
                outside = float(near.norms[near.columns].max(initial=0.0)) / lam - 1.0
                if outside <= self.tol or solution.kkt > self.tol:
                    break
        kkt = max(outside, solution.kkt)
        return self._fit(working, bias, near, (lam, largest, solution.loss, kkt))

    def _minimise(
        self,
        working: _WorkingSet,
        near: _Screened,
        above: float,
        bias: np.ndarray,
        lam: float,
        tol: float,
    ) -> tuple[_WorkingSet, Solution]:
        """Solve on the working set with what joins it; of its columns those with weights remain."""
        working = working.with_columns(near, above)
        solution = minimise(
            working.x, self.targets, lam, working.weights, bias, tol=tol, max_iter=self.max_iter
        )
        self.iterations += solution.iterations
        return working.solved(solution.weights), solution

    def _pass(
        self, residual: np.ndarray, above: float = 0.0, known: np.ndarray | None = None
    ) -> _Screened:
        """Read all columns once and collect the strongest new ones, from a norm on.

        The residual R is (N, C) float64 and its columns sum to zero. Norms are in the columns' own
        precision except those of the collected ones. One layer and ``2 most`` columns are in
        memory.
        """
        self.passes += 1
        features = self.features
        strongest = _Strongest(self.most, above)
        norms = np.empty(features.dim)
        fresh = np.ones(features.dim, dtype=bool)
        if known is not None:
            fresh[known] = False
        with np.errstate(invalid="ignore", over="ignore"):  # said below, with the layer's name
            for start, block in features.blocks():
                found = _norms(block, residual)
                here = slice(start, start + len(found))
                norms[here] = found
                if not np.isfinite(found.sum()):
                    layer = features.names[int(features.layer_of(start))]
                    raise InvalidInputError(
                        f"layer {layer!r} has NaN or infinite values, or too large ones; drop "
                        f"those examples or fix the network"
                    )
                strongest.add(start, block, np.where(fresh[here], found, -1.0))
        columns, x = strongest.columns, np.empty((len(features), len(strongest.rows)))
        for place, row in enumerate(strongest.rows):
            x[:, place] = row
        norms[columns] = row_lengths(_centred(x)[0].T @ residual)
        return _Screened(norms, columns, x)

    def _fit(
        self,
        working: _WorkingSet,
        bias: np.ndarray,
        near: _Screened,
        numbers: tuple[float, float, float, float],
    ) -> GroupLassoFit:
        lam, largest, loss, kkt = numbers
        order = np.argsort(working.columns)
        norms = near.norms
        norms[working.columns] = lam
        return GroupLassoFit(
            lam=lam,
            lambda_max=largest,
            columns=working.columns[order],
            weights=working.weights[order],
            # The working set is centred; the features are not.
            bias=bias - working.means @ working.weights,
            gradient_norms=norms,
            objective=loss + lam * float(row_lengths(working.weights).sum()),
            kkt_residual=kkt,
            iterations=self.iterations,
            passes=self.passes,
        )


@dataclass(frozen=True)
class _Screened:
    """What one pass over all columns found.

    ``norms`` are ``‖x_i'R‖`` of all columns, (D,); ``columns`` the strongest that were not known
    before, (k,); ``x`` those columns as they are, (N, k) float64, and their norms are exact.
    """

    norms: np.ndarray
    columns: np.ndarray
    x: np.ndarray


@dataclass(frozen=True)
class _WorkingSet:
    """The columns that are being solved for, in no order.

    ``columns`` are their numbers, (k,); ``x`` the columns less their ``means``, (N, k) float64;
    ``weights`` are (k, C).
    """

    columns: np.ndarray
    x: np.ndarray
    means: np.ndarray
    weights: np.ndarray

    @classmethod
    def empty(cls, n: int, classes: int) -> _WorkingSet:
        return cls(np.zeros(0, np.int64), np.zeros((n, 0)), np.zeros(0), np.zeros((0, classes)))

    def with_columns(self, found: _Screened, above: float) -> _WorkingSet:
        """The same with the collected columns whose norm is at least ``above``, at weight zero."""
        chosen = found.norms[found.columns] >= above
        x, means = _centred(found.x[:, chosen])
        return _WorkingSet(
            np.concatenate([self.columns, found.columns[chosen]]),
            np.concatenate([self.x, x], axis=1),
            np.concatenate([self.means, means]),
            np.concatenate([self.weights, np.zeros((len(means), self.weights.shape[1]))]),
        )

    def solved(self, weights: np.ndarray) -> _WorkingSet:
        """The columns whose new weights are not zero, with these."""
        kept = row_lengths(weights) > 0
        return _WorkingSet(self.columns[kept], self.x[:, kept], self.means[kept], weights[kept])


class _Strongest:
    """The columns of largest norm so far; ``above`` rises as they become many."""

    def __init__(self, most: int, above: float) -> None:
        self.most, self.above = most, above
        self.columns = np.zeros(0, np.int64)
        self.norms = np.zeros(0)
        self.rows: list[np.ndarray] = []

    def add(self, start: int, block: np.ndarray, norms: np.ndarray) -> None:
        """Offer the columns of a block."""
        chosen = np.flatnonzero(norms >= self.above)
        # Only the strongest of this block can stay; the others need not be copied.
        chosen = chosen[np.argsort(-norms[chosen], kind="stable")[: self.most]]
        self.columns = np.concatenate([self.columns, start + chosen])
        self.norms = np.concatenate([self.norms, norms[chosen]])
        self.rows += list(np.ascontiguousarray(block[:, chosen].T))
        if len(self.columns) > self.most:
            kept = np.argsort(-self.norms, kind="stable")[: self.most]
            self.columns, self.norms = self.columns[kept], self.norms[kept]
            self.rows = [self.rows[i].copy() for i in kept]
            self.above = max(self.above, float(self.norms[-1]))


def _norms(block: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """``‖x_i'R‖`` of the columns of a block, without the digits that a common offset costs."""
    precision = np.float32 if block.dtype in (np.float16, np.float32) else np.float64
    block = block.astype(precision, copy=False)
    # R sums to zero, so any offset may be taken off; with a row's, constants are exactly zero.
    return row_lengths(((block - block[:1]).T @ residual.astype(precision)).astype(np.float64))


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns (N, k) less their means, and the means; constant columns are exactly zero."""
    shifted = x - x[:1]
    means = shifted.mean(axis=0)
    return shifted - means, means + x[0]


def _path(largest: float, lam: float, ratio: float) -> Iterator[float]:
    strength = largest * ratio
    while strength > lam / ratio**0.5:
        yield strength
        strength *= ratio
    yield lam


def _targets(features: LayerColumns, y: Any, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One-hot labels of the classes that occur, (N, C'), and those classes."""
    if not len(features) or not features.dim:
        raise InvalidInputError(f"features are empty: {len(features)} rows of {features.dim}")
    labels = as_labels(y, len(features), num_classes)[0].numpy()
    present, codes = np.unique(labels, return_inverse=True)
    if len(present) < 2:
        raise InvalidInputError("all examples have one class; there is nothing to tell apart")
    return np.eye(len(present))[codes], present
