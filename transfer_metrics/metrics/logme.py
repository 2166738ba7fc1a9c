"""LogME: the maximum log evidence of a Bayesian linear model."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.metrics.max_evidence import Problem, at_best_noise, max_evidence
from transfer_metrics.statistics import ClassMoments, TargetMoments
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.leverage import Leverage, kind_for, missed_without


def _slopes(influence: Influence) -> Tensor | None:
    """Derivative of LogME in the weights of blocks; none where a target is fitted exactly.

    The evidence is at its maximum in both precisions, and its energy ``‖t - Xw‖² + λ‖w‖²`` at its
    minimum in w, so that all of them are constants here (the envelope theorem).
    """
    whole = influence.statistic
    problem, share = Problem.of(whole), influence.n / whole.n
    evidence, log_ratio, exact = max_evidence(problem)
    if exact:
        return None
    n, ratio = whole.n, log_ratio.exp()
    _, norm, residual, log_det = problem.at(ratio)
    energy = residual + ratio * norm
    if influence.leverage is not None:
        lost, gone = _losses(influence, influence.leverage, problem, ratio)
        rest = (n - influence.n)[:, None]
        kept = at_best_noise(energy - lost, log_det - gone, rest) / rest
        return (evidence.mean() / n - kept.mean(dim=1)) * (1.0 - share)
    moved = _smooth_moves(influence, problem, ratio, n / energy)
    moved += influence.n * float((torch.log(energy / n) + math.log(2.0 * math.pi)).sum())
    return (-0.5 * moved.div(len(evidence)) - evidence.mean() * share) / n


def _weights(
    whole: ClassMoments | TargetMoments, problem: Problem, ratio: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``1 / (σ + λ_k)``, columns ``(T + λ_k)⁻¹ u``, ``u'(T + λ_k)⁻¹ u``, and the weights w_k."""
    vectors = whole.total.eigh[1]
    inverse = 1.0 / (problem.sigma[:, None] + ratio)
    apart = (
        math.sqrt(whole.n) * whole.mean - vectors @ problem.inside
        if problem.outside
        else 0.0 * whole.mean
    )
    lifted = vectors @ (inverse * problem.inside[:, None]) + apart[:, None] / ratio
    length = problem.inside.square() @ inverse + problem.outside / ratio
    missed = (problem.inside @ (problem.projected * inverse) - problem.offset) / (1.0 + length)
    return inverse, lifted, length, vectors @ (problem.projected * inverse) - missed * lifted


def _smooth_moves(influence: Influence, problem: Problem, ratio: Tensor, scale: Tensor) -> Tensor:
    """How blocks move ``Σ_k scale_k energy_k + log|λ_k I + X'X|``, (B,)."""
    whole, targets = influence.statistic, influence.targets
    vectors = whole.total.eigh[1]
    inverse, lifted, length, weights = _weights(whole, problem, ratio)
    # Σ_k n / energy_k w_k w_k' + (X'X + λ_k)⁻¹, the latter by Sherman and Morrison.
    flat = float((1.0 / ratio).sum()) if vectors.shape[1] < whole.dim else 0.0
    factors = torch.cat([vectors, lifted, weights], dim=1)
    scales = torch.cat([inverse.sum(dim=1) - flat, -1.0 / (1.0 + length), scale])
    mean = influence.whole.mean
    if targets:
        # Errors of targets, which are columns too, but for what ``flat`` is not of.
        below = torch.eye(targets).to(factors)
        before = below.new_zeros(targets, factors.shape[1] - len(scale))
        below = torch.cat([before, -below[:, _counted(whole)], below], dim=1)
        factors = torch.cat([factors, factors.new_zeros(whole.dim, targets)], dim=1)
        factors = torch.cat([factors, below])
        scales = torch.cat([scales, scales.new_full((targets,), -flat)])
    along = (factors.T @ mean) * scales
    moved = influence.of_total(factors, scales, identity=flat)
    linear = factors @ along + flat * mean
    moved += 2.0 * influence.sums @ linear + influence.n * (linear @ mean)
    if targets:
        return moved
    # Σ_i t_ik² - 2 t_ik x_i'w_k, with one-hot targets.
    present = influence.whole.present
    counts = influence.counts[:, present]
    products = torch.stack([(b.means[present] * weights.T).sum(dim=1) for b in influence.blocks])
    return moved + (counts * (1.0 - 2.0 * products)) @ scale


def _losses(
    influence: Influence, leverage: Leverage, problem: Problem, ratio: Tensor
) -> tuple[Tensor, Tensor]:
    """What energies, and ``log|λ_k I + X'X|``, lose with each block, with λ_k kept, (B, K).

    Both are smooth in log λ, so polynomials through a few λ have them at each λ_k.
    """
    whole = influence.statistic
    vectors, root = whole.total.eigh[1], math.sqrt(whole.n)
    weights = _weights(whole, problem, ratio)[3]
    # ``m = V V'm + outside``; rows have nothing outside.
    inside, outside = problem.inside / root, problem.outside / whole.n
    largest, every = float(problem.sigma[0]), leverage.rows
    unit = largest**-0.5
    kind = kind_for(largest, float(problem.sigma[-1]) + float(ratio.min()))
    turn = vectors.cpu().numpy().astype(kind)
    fitted = every.times(weights).cpu().numpy()
    level, turned, errors = (weights.T @ whole.mean).cpu().numpy(), [], []
    for b, (start, stop) in enumerate(pairwise(every.starts)):
        turned.append(every.filled(b, kind, unit) @ turn)
        known = leverage.targets(b, _counted(whole))
        errors.append(known - fitted[start:stop] - np.outer(every.labels(b)[0], level))
    logs = ratio.log()
    nodes = _nodes(float(logs.min()), float(logs.max()))
    at_nodes = []
    for node in nodes:
        shift = math.exp(node)
        scaled = 1.0 / (problem.sigma + shift)
        flat = float(inside.square() @ scaled) + outside / shift
        along = (inside * scaled / unit).cpu().numpy().astype(kind)
        roots = (scaled.sqrt() / unit).cpu().numpy().astype(kind)
        lost = []
        for b, own in enumerate(turned):
            ones, half, plain = every.labels(b)[0], own * roots, own @ along
            # ``(Z + 1m')(T + λ)⁻¹(Z + 1m')'``, less what the mean adds to T.
            moved = plain + ones * flat
            left = np.eye(len(ones)) - half @ half.T - np.outer(plain, ones) - np.outer(ones, moved)
            left += whole.n / (1.0 + whole.n * flat) * np.outer(moved, moved)
            log_det, apart = missed_without(left, errors[b])
            energies = np.vecdot(apart.T, apart.T)
            lost.append(np.stack([energies, np.full_like(energies, -log_det)]))
        at_nodes.append(torch.from_numpy(np.stack(lost, axis=1)).to(ratio))
    through = _lagrange(nodes, logs)[:, None, None, :]
    losses, dets = (torch.stack(at_nodes) * through).sum(dim=0)
    return losses, dets


def _counted(whole: ClassMoments | TargetMoments) -> list[int]:
    """The classes or targets that a ``Problem`` is of."""
    if isinstance(whole, ClassMoments):
        return whole.present
    return ((whole.spread > 0) | (whole.target_mean != 0)).nonzero().flatten().tolist()


def _nodes(lowest: float, highest: float) -> list[float]:
    """Chebyshev's places between two numbers, about one more for each factor of ten."""
    count = 1 if highest - lowest < 1e-6 else 2 + math.ceil((highest - lowest) / math.log(10.0))
    middle, half = (lowest + highest) / 2.0, (highest - lowest) / 2.0
    return [middle + half * math.cos(math.pi * (i + 0.5) / count) for i in range(count)]


def _lagrange(nodes: list[float], at: Tensor) -> Tensor:
    """Weights of values at nodes in the polynomial through them, (P, K)."""
    found = []
    for i, node in enumerate(nodes):
        others = [other for j, other in enumerate(nodes) if j != i]
        weight = torch.ones_like(at)
        for other in others:
            weight = weight * (at - other) / (node - other)
        found.append(weight)
    return torch.stack(found)


@register_metric(
    parts=("spectrum",),
    derivative=_slopes,
    tasks=("classification", "regression", "multilabel"),
    reference="You et al., LogME: Practical Assessment of Pre-trained Models, ICML 2021",
    invariant=("scale", "rotation"),
)
def logme(statistic: ClassMoments | TargetMoments) -> float:
    """LogME: log evidence per example of ``t = Xw + noise``, maximised over both precisions.

    With prior ``w ~ N(0, α⁻¹ I)`` and noise ``β⁻¹``, the evidence is maximised by the fixed point
    ``α = γ / ‖w‖²``, ``β = (N - γ) / ‖t - Xw‖²``; the score is its mean over the one-hot columns of
    the classes that have examples, or over the regression targets. Targets that are zero for every
    example, as labels are that none has, do not count: their evidence has no bound.

    The published code stops after 11 rounds or when ``α / β`` moves by less than 1 %, which makes
    the value depend on the scale of the features and on where it stopped. Here the fixed point
    that the iteration moves towards is bracketed and solved for, to a relative precision of 1e-9
    in ``α / β``, where the evidence is flat, so the score is the maximum itself and does not
    change when X is multiplied by a number. Where there are several maxima, as with a large common
    offset, the highest counts. All D eigenvalues count, zero ones included. Where
    the evidence still rises as ``β`` or ``α`` goes to infinity, its limit is the score.

    Args:
        statistic: ``ClassMoments`` or ``TargetMoments``; or pass features (N, D) with integer
            labels, or with floating point targets (N,) or (N, K).

    Returns:
        The score in nats per example; higher is better.

    Raises:
        InvalidInputError: all features, or all targets, are zero.

    Warns:
        TransferMetricsWarning: a target is fitted almost exactly (the effective number of
            parameters reaches N, as happens for D > N, or the residual vanishes), so the noise
            level is not identified and scores of such features should not be compared.

    Failure modes:
        - There is no intercept, so shifting the features changes the score.
        - With D > N, or wherever a target is fitted almost exactly, the noise level is not
          identified: a warning says how many targets that concerns, and such scores should not be
          compared.
        - A column of a rare class is nearly constant and easy to fit, so that many rare classes
          raise the mean.

    Source: You et al. (2021), algorithm 1.

    Cost: O(N D min(N, D)) for the moments, O(min(N, D)³ + C D min(N, D)) here.

    >>> from sklearn.datasets import load_iris
    >>> round(logme(*load_iris(return_X_y=True)), 6)
    -0.16006
    """
    problem = Problem.of(statistic)
    evidence, _, exact = max_evidence(problem)
    if exact:
        warn(
            f"LogME: {exact} of {len(evidence)} targets are fitted almost exactly "
            f"(N={statistic.n}, D={statistic.dim}); the evidence says little there"
        )
    return float(evidence.mean()) / statistic.n
