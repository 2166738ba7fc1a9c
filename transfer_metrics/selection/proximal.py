"""Group-lasso softmax regression over the columns of many layers, solved to its optimum."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.linalg import norm

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.progress import progress_bar
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.selection.group_softmax import Solution, minimise
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
    problem = _Problem(features, targets, max_iter)
    # Where all weights are zero the best bias gives every class its share.
    shares = targets.mean(axis=0)
    residual = (shares - targets) / len(targets)
    problem.look(residual)
    largest = float(problem.norms.max())
    lam = lam * largest if relative else lam
    loss, kkt = -float((targets @ np.log(shares)).mean()), 0.0
    if lam < largest:
        strengths = list(_path(largest, lam, path))
        problem.join(residual, 2.0 * strengths[0] - largest)
        with progress_bar("group lasso", len(strengths), progress, unit="step") as bar:
            for strength, following in itertools.pairwise(strengths):
                found = problem.minimise(strength, max(_ROUGH, tol))
                problem.look(found.residual)
                problem.join(found.residual, 2.0 * following - strength)
                bar.update()
        for _ in range(_MOST_ROUNDS):
            found = problem.minimise(lam, tol)
            problem.look(found.residual)
            outside = problem.join(found.residual, _NEARBY * lam) / lam - 1.0
            if outside <= tol or found.kkt > tol:
                break
        loss, kkt = found.loss, max(outside, found.kkt)
    if not kkt <= tol:
        warn(
            f"the group lasso stopped at {kkt:.1e} of lam from its optimum and "
            f"should reach tol={tol:g}; raise max_iter={max_iter}, lam or tol"
        )
    own = np.flatnonzero(problem.lengths)
    own = own[np.argsort(problem.columns[own])]
    columns, rows = problem.columns[own], problem.weights[own]
    problem.norms[columns] = lam
    weights, bias = np.zeros((len(own), num_classes)), np.full(num_classes, -np.inf)
    weights[:, present] = rows
    # The columns were centred; the features are not.
    bias[present] = problem.bias - problem.means[own] @ rows
    return GroupLassoFit(
        lam=lam,
        lambda_max=largest,
        columns=columns,
        weights=weights,
        bias=bias,
        gradient_norms=problem.norms,
        objective=loss + lam * float(problem.lengths.sum()),
        kkt_residual=kkt,
        iterations=problem.iterations,
        passes=problem.passes,
    )


class _Problem:
    """Softmax regression on the columns that have weight, or may come to have some.

    ``columns`` are their numbers, (k,), in no order; ``x`` the columns less their ``means``, (N, k)
    float64; ``weights`` are (k, C), and the ``bias`` (C,). ``norms`` are ``‖x_i'R‖`` of all columns
    as they were when these were looked at last.
    """

    def __init__(self, features: LayerColumns, targets: np.ndarray, max_iter: int) -> None:
        self.features, self.targets, self.max_iter = features, targets, max_iter
        n, classes = targets.shape
        self.most = int(np.clip(_MOST_BYTES // (8 * n), _FEWEST_COLUMNS, _MOST_COLUMNS))
        self.columns, self.means = np.zeros(0, np.int64), np.zeros(0)
        self.x, self.weights = np.zeros((n, 0)), np.zeros((0, classes))
        self.bias = np.log(targets.mean(axis=0))
        self.norms = np.zeros(features.dim)
        self.iterations, self.passes = 0, 0

    @property
    def lengths(self) -> np.ndarray:
        """Of the rows of the weights."""
        return norm(self.weights, axis=1)

    def look(self, residual: np.ndarray) -> None:
        """Read all columns once, for their norms in their own precision, with a layer in memory.

        The residual R is (N, C) float64 and its columns sum to zero.
        """
        self.passes += 1
        with np.errstate(invalid="ignore", over="ignore"):  # said below, with the layer's name
            for start, block in self.features.blocks():
                found = _norms(block, residual)
                self.norms[start : start + len(found)] = found
                if not np.isfinite(found.sum()):
                    layer = self.features.names[int(self.features.layer_of(start))]
                    raise InvalidInputError(
                        f"layer {layer!r} has NaN or infinite values, or too large ones; drop "
                        f"those examples or fix the network"
                    )

    def join(self, residual: np.ndarray, above: float) -> float:
        """Take in the strongest new columns whose norm is at least ``above``, at weight zero.

        Returns the largest norm of those that were looked at again, in float64.
        """
        fresh = self.norms.copy()
        fresh[self.columns] = -1.0
        near = np.flatnonzero(fresh >= above)
        near = np.sort(near[np.argsort(-fresh[near], kind="stable")[: self.most]])
        if not len(near):
            return 0.0
        x, means = _centred(self.features.take(self.features.inside(near)).dense().astype(float))
        self.norms[near] = norm(x.T @ residual, axis=1)
        new = self.norms[near] >= above
        self.columns = np.concatenate([self.columns, near[new]])
        self.x = np.concatenate([self.x, x[:, new]], axis=1)
        self.means = np.concatenate([self.means, means[new]])
        zeros = np.zeros((int(new.sum()), self.weights.shape[1]))
        self.weights = np.concatenate([self.weights, zeros])
        return float(self.norms[near].max())

    def minimise(self, lam: float, tol: float) -> Solution:
        """Solve for these columns, of which those with weights remain."""
        start = self.weights, self.bias
        found = minimise(self.x, self.targets, lam, *start, tol=tol, max_iter=self.max_iter)
        kept = norm(found.weights, axis=1) > 0
        self.columns, self.means = self.columns[kept], self.means[kept]
        self.x, self.weights, self.bias = self.x[:, kept], found.weights[kept], found.bias
        self.iterations += found.iterations
        return found


def _norms(block: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """``‖x_i'R‖`` of the columns of a block, without the digits that a common offset costs."""
    precision = np.float32 if block.dtype in (np.float16, np.float32) else np.float64
    block = block.astype(precision, copy=False)
    # R sums to zero, so any offset may be taken off; with a row's, constants are exactly zero.
    return norm(((block - block[:1]).T @ residual.astype(precision)).astype(np.float64), axis=1)


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
