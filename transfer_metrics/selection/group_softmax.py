"""Softmax regression with a penalty on the length of each feature's row, in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.linalg import norm
from scipy.special import log_softmax, softmax

# How far it still is is looked at once in so many iterations: that costs half an iteration.
_LOOK_EVERY = 10
# Rows are looked at again when those that move are this much nearer to their optimum, and then at
# least this many of those that violate theirs join.
_NEXT = 0.1
_FEWEST_NEW = 100


@dataclass(frozen=True)
class Solution:
    """Where an iteration has come to.

    Weights are (k, C), the bias (C,). ``X'`` times the residual ``(P - Y) / N``, (N, C), is the
    gradient of the loss: mean cross-entropy in nats, without the penalty. ``kkt`` is the largest
    violation of the conditions of optimality, as a share of λ.
    """

    weights: np.ndarray
    bias: np.ndarray
    residual: np.ndarray
    loss: float
    kkt: float
    iterations: int


def _group_soft_threshold(weights: np.ndarray, by: float | np.ndarray) -> np.ndarray:
    """Rows shortened by ``by``, those that are no longer set to zero: ``max(0, 1 - t/‖W_i‖) W_i``.

    The proximal operator of ``t Σ ‖W_i‖``. ``by`` is ``t``, one for all rows or (k,).
    """
    lengths = norm(weights, axis=1)
    shares = np.divide(by, lengths, out=np.ones_like(lengths), where=lengths > by)
    return weights * (1.0 - shares)[:, None]


def minimise(
    x: np.ndarray,
    targets: np.ndarray,
    lam: float,
    weights: np.ndarray,
    bias: np.ndarray,
    *,
    tol: float,
    max_iter: int,
) -> Solution:
    """Minimise ``mean CE + λ Σ ‖W_i‖`` over the rows of W and the free bias, from a start.

    Only rows that are not zero, or that violate the conditions of optimality, are moved; the
    others are looked at again whenever those have settled. ``x`` are centred features, (N, k),
    ``targets`` one-hot labels, (N, C), in which every class occurs, both float64. ``tol`` is the
    largest violation that is left; after ``max_iter`` iterations the solution says how far it came.

    Cost: O(N k C) per look at all rows, O(N a C) per iteration over a rows.
    """
    spent = 0
    weights, bias = weights.copy(), bias.copy()
    while True:
        logits = x @ weights + bias
        residual = _residual(logits, targets)
        gradient = x.T @ residual
        kkt = _violation(gradient, residual, weights, lam)
        if kkt <= tol or spent >= max_iter:
            break
        moved = _moved(norm(gradient, axis=1), norm(weights, axis=1), lam)
        iteration = _Accelerated(x[:, moved], targets, lam, weights[moved], bias)
        steps = iteration.run(max(0.5 * tol, _NEXT * kkt), max_iter - spent)
        if not steps:  # rounding differs between products of different sizes
            break
        weights[moved], bias = iteration.weights, iteration.bias
        spent += steps
    loss = -float((log_softmax(logits, axis=1) * targets).sum(axis=1).mean())
    return Solution(weights, bias, residual, loss, kkt, spent)


def _moved(pulls: np.ndarray, lengths: np.ndarray, lam: float) -> np.ndarray:
    """Rows that are not zero, and of those that violate ``‖g_i‖ <= λ`` the strongest."""
    active = np.flatnonzero(lengths > 0)
    violating = np.flatnonzero((lengths == 0) & (pulls > lam))
    order = np.argsort(-pulls[violating], kind="stable")
    return np.concatenate([active, violating[order[: max(_FEWEST_NEW, len(active))]]])


class _Accelerated:
    """Proximal gradient with momentum (FISTA; Beck and Teboulle 2009).

    Each row has a step of its own, by its feature's variance, so that layers of different scale
    move alike. The curvature is found by backtracking, and the momentum starts again whenever it
    points uphill (O'Donoghue and Candès 2015), which makes the convergence linear.
    """

    def __init__(
        self, x: np.ndarray, targets: np.ndarray, lam: float, weights: np.ndarray, bias: np.ndarray
    ) -> None:
        self.x, self.targets, self.lam = x, targets, lam
        self.weights, self.bias = weights, bias
        self.logits = x @ weights + bias
        variance = np.einsum("nk,nk->k", x, x) / len(x)
        self.scale = np.maximum(variance, 1e-10 * variance.max(initial=0.0))[:, None]
        self.scale[self.scale == 0] = 1.0
        self.curvature = 1.0
        self.momentum = 1.0
        self.ahead = (weights, bias, self.logits)

    def run(self, tol: float, max_iter: int) -> int:
        """Iterate until every row is within ``tol``; the number of iterations."""
        for step in range(max_iter):
            if step % _LOOK_EVERY == 0:
                residual = _residual(self.logits, self.targets)
                if _violation(self.x.T @ residual, residual, self.weights, self.lam) <= tol:
                    return step
            self._step()
        return max_iter

    def _step(self) -> None:
        ahead, ahead_bias, ahead_logits = self.ahead
        residual = _residual(ahead_logits, self.targets)
        gradient, bias_gradient = self.x.T @ residual, residual.sum(axis=0)
        while True:
            rate = 1.0 / (self.curvature * self.scale)
            weights = _group_soft_threshold(ahead - rate * gradient, self.lam * rate[:, 0])
            bias = ahead_bias - bias_gradient / self.curvature
            logits = self.x @ weights + bias
            length = (self.scale * (weights - ahead) ** 2).sum() + ((bias - ahead_bias) ** 2).sum()
            # Differences of gradients keep their digits near the optimum; those of losses do not.
            bent = (_residual(logits, self.targets) - residual) * (logits - ahead_logits)
            if bent.sum() <= self.curvature * length:
                break
            self.curvature *= 2.0
        self.curvature *= 0.95
        move, bias_move = weights - self.weights, bias - self.bias
        uphill = (self.scale * (ahead - weights) * move).sum()
        if uphill + ((ahead_bias - bias) * bias_move).sum() > 0:
            self.momentum = 1.0
        grown = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * self.momentum**2))
        share = (self.momentum - 1.0) / grown
        self.ahead = (
            weights + share * move,
            bias + share * bias_move,
            logits + share * (logits - self.logits),
        )
        self.momentum = grown
        self.weights, self.bias, self.logits = weights, bias, logits


def _violation(
    gradient: np.ndarray, residual: np.ndarray, weights: np.ndarray, lam: float
) -> float:
    """The largest violation of the conditions of optimality, as a share of λ.

    ``‖g_i‖ <= λ`` for a zero row, ``g_i = -λ W_i / ‖W_i‖`` for another, and none for the bias.
    """
    lengths = norm(weights, axis=1)
    found = np.maximum(norm(gradient, axis=1) - lam, 0.0)
    active = lengths > 0
    directions = weights[active] / lengths[active, None]
    found[active] = norm(gradient[active] + lam * directions, axis=1)
    return float(max(found.max(initial=0.0), np.abs(residual.sum(axis=0)).max()) / lam)


def _residual(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """``(P - Y) / N``."""
    return (softmax(logits, axis=1) - targets) / len(logits)
