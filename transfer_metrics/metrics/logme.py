"""LogME: the maximum log evidence of a Bayesian linear model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import ClassMoments, TargetMoments
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.leverage import Leverage
from transfer_metrics.statistics.linalg import product

# Maxima of the evidence are at least this far apart in log(α / β).
_APART = 2.0
# To which the maxima are found in log(α / β).
_PRECISION = 5e-10


def _slopes(influence: Influence) -> Tensor | None:
    """Derivative of LogME in the weights of blocks; none where a target is fitted exactly.

    The evidence is at its maximum in both precisions, and its energy ``‖t - Xw‖² + λ‖w‖²`` at its
    minimum in w, so that all of them are constants here (the envelope theorem).
    """
    whole = influence.whole
    problem, share = _Problem.of(whole), influence.n / whole.n
    evidence, log_ratio, exact = _max_evidence(problem)
    if exact:
        return None
    n, ratio = whole.n, log_ratio.exp()
    _, norm, residual, log_det = problem.at(ratio)
    energy = residual + ratio * norm
    if influence.leverage is not None:
        lost, gone = _losses(influence, influence.leverage, problem, ratio)
        rest = (n - influence.n)[:, None]
        kept = _at_best_noise(energy - lost, log_det - gone, rest) / rest
        return (evidence.mean() / n - kept.mean(dim=1)) * (1.0 - share)
    moved = _smooth_moves(influence, problem, ratio, n / energy)
    moved += influence.n * float((torch.log(energy / n) + math.log(2.0 * math.pi)).sum())
    return (-0.5 * moved.div(len(evidence)) - evidence.mean() * share) / n


def _weights(
    whole: ClassMoments, problem: _Problem, ratio: Tensor
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


def _smooth_moves(influence: Influence, problem: _Problem, ratio: Tensor, scale: Tensor) -> Tensor:
    """How blocks move ``Σ_k scale_k energy_k + log|λ_k I + X'X|``, (B,)."""
    whole = influence.whole
    vectors = whole.total.eigh[1]
    inverse, lifted, length, weights = _weights(whole, problem, ratio)
    # Σ_k n / energy_k w_k w_k' + (X'X + λ_k)⁻¹, the latter by Sherman and Morrison.
    flat = float((1.0 / ratio).sum()) if vectors.shape[1] < whole.dim else 0.0
    factors = torch.cat([vectors, lifted, weights], dim=1)
    scales = torch.cat([inverse.sum(dim=1) - flat, -1.0 / (1.0 + length), scale])
    along = (factors.T @ whole.mean) * scales
    moved = influence.of_total(factors, scales, identity=flat)
    linear = factors @ along + flat * whole.mean
    moved += 2.0 * influence.sums @ linear + influence.n * (linear @ whole.mean)
    # Σ_i t_ik² - 2 t_ik x_i'w_k, with one-hot targets.
    counts = influence.counts[:, whole.present]
    products = torch.stack(
        [(b.means[whole.present] * weights.T).sum(dim=1) for b in influence.blocks]
    )
    return moved + (counts * (1.0 - 2.0 * products)) @ scale


def _losses(
    influence: Influence, leverage: Leverage, problem: _Problem, ratio: Tensor
) -> tuple[Tensor, Tensor]:
    """What energies, and ``log|λ_k I + X'X|``, lose with each block, with λ_k kept, (B, K).

    Both are smooth in log λ, so polynomials through a few λ have them at each λ_k.
    """
    whole = influence.whole
    vectors, root = whole.total.eigh[1], math.sqrt(whole.n)
    weights = _weights(whole, problem, ratio)[3]
    # ``m = V V'm + outside``; rows have nothing outside.
    inside, outside = problem.inside / root, problem.outside / whole.n
    turned = [product(rows, vectors) for rows in leverage.rows]
    level = weights.T @ whole.mean
    errors = []
    for b, rows in enumerate(leverage.rows):
        fitted = product(rows, weights) + leverage.ones[b][:, None] * level
        errors.append(leverage.targets(b, whole.present) - fitted.cpu().numpy())
    logs = ratio.log()
    nodes = _nodes(float(logs.min()), float(logs.max()))
    at_nodes = []
    for node in nodes:
        shift = math.exp(node)
        scaled = 1.0 / (problem.sigma + shift)
        flat = float(inside.square() @ scaled) + outside / shift
        own = []
        for ones, left in zip(leverage.ones, turned, strict=True):
            plain = left @ (inside * scaled)
            along = plain + ones * flat
            both = torch.outer(plain, ones)
            matrix = product(left * scaled, left.T.contiguous()) + both + both.T
            matrix += flat * torch.outer(ones, ones)
            matrix -= whole.n / (1.0 + whole.n * flat) * torch.outer(along, along)
            own.append(matrix.cpu().numpy())
        gone = [[-np.linalg.slogdet(np.eye(len(h)) - h)[1]] for h in own]
        lost = leverage.of_energy(own, errors)
        at_nodes.append(torch.stack([lost, torch.tensor(gone).to(lost).expand_as(lost)]))
    through = _lagrange(nodes, logs)[:, None, None, :]
    losses, dets = (torch.stack(at_nodes) * through).sum(dim=0)
    return losses, dets


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
    problem = _Problem.of(statistic)
    evidence, _, exact = _max_evidence(problem)
    if exact:
        warn(
            f"LogME: {exact} of {len(evidence)} targets are fitted almost exactly "
            f"(N={statistic.n}, D={statistic.dim}); the evidence says little there"
        )
    return float(evidence.mean()) / statistic.n


@dataclass(frozen=True)
class _Problem:
    """Regression without an intercept, in the eigenvectors V of the scatter S about the mean m.

    ``X'X = S + u u'`` with ``u = √n m`` and ``X't = V a + √n t̄ u``, so that one decomposition of S
    serves this metric and those that centre, and a large offset costs no digits.
    """

    sigma: Tensor  # non-zero eigenvalues of S, (r,)
    projected: Tensor  # ``a = V'(X - m)'(t - t̄)``, (r, K)
    spread: Tensor  # ``‖t - t̄‖²``, (K,)
    offset: Tensor  # ``√n t̄``, (K,)
    inside: Tensor  # ``V'u``, (r,)
    outside: float  # squared length of u outside the span of V
    n: int

    @classmethod
    def of(cls, statistic: ClassMoments | TargetMoments) -> _Problem:
        """That of moments."""
        sigma, vectors = statistic.total.eigh
        counted = (statistic.spread > 0) | (statistic.target_mean != 0)
        if not bool(counted.any()):
            raise InvalidInputError("all targets are zero; LogME has nothing to explain")
        row = math.sqrt(statistic.n) * statistic.mean
        if not len(sigma) and not bool(row.any()):
            raise InvalidInputError("all features are zero; LogME has nothing to regress on")
        return cls(
            sigma=sigma,
            projected=product(vectors.T, statistic.cross[:, counted]),
            spread=statistic.spread[counted],
            offset=math.sqrt(statistic.n) * statistic.target_mean[counted],
            inside=vectors.T @ row,
            outside=_outside(row, vectors),
            n=statistic.n,
        )

    def at(self, ratio: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """At ``λ = α / β`` (K,): effective parameters γ, ``‖w‖²``, residual, ``log|I + X'X/λ|``.

        By Sherman and Morrison ``w = (a - q V'u) / (σ + λ)`` in V, and ``q²`` is the squared error
        that is left in the mean.
        """
        inverse = 1.0 / (self.sigma[:, None] + ratio)
        u_mu = self.inside.square() @ inverse + self.outside / ratio
        u_mmu = self.inside.square() @ inverse.square() + self.outside / ratio.square()
        q = ((self.inside[:, None] * self.projected * inverse).sum(dim=0) - self.offset) / (
            1.0 + u_mu
        )
        weights = (self.projected - q * self.inside[:, None]) * inverse
        gamma = (self.sigma[:, None] * inverse).sum(dim=0) + ratio * u_mmu / (1.0 + u_mu)
        norm = weights.square().sum(dim=0) + self.outside * (q / ratio).square()
        root = self.sigma.sqrt()[:, None]
        errors = (ratio * self.projected / root + root * q * self.inside[:, None]) * inverse
        residual = errors.square().sum(dim=0) + q.square() + self.unreached
        log_det = torch.log1p(self.sigma[:, None] / ratio).sum(dim=0) + torch.log1p(u_mu)
        return gamma, norm, residual.clamp_min(self.floor), log_det

    def step(self, log_ratio: Tensor) -> Tensor:
        """How far one round of the published iteration moves ``log λ`` (K,)."""
        gamma, norm, residual, _ = self.at(log_ratio.exp())
        tiny = torch.finfo(torch.float64).tiny
        update = gamma * residual / (norm * (self.n - gamma)).clamp_min(tiny)
        return update.clamp_min(tiny).log() - log_ratio

    def energies(self, ratios: Tensor) -> tuple[Tensor, Tensor]:
        """At P ratios for all targets: residual + ``λ‖w‖²``, (P, K), and ``log|I + X'X/λ|``.

        What the mean adds to the energy of a regression on centred features is ``q² (1 + u'u/λ)``,
        with u in the metric of the others, so that two products give all of them.
        """
        inverse = 1.0 / (self.sigma[:, None] + ratios)
        u_mu = self.inside.square() @ inverse + self.outside / ratios
        missed = (self.inside[:, None] * inverse).T @ self.projected - self.offset
        centred = (ratios * inverse / self.sigma[:, None]).T @ self.projected.square()
        energy = centred + self.unreached + missed.square() / (1.0 + u_mu)[:, None]
        log_det = torch.log1p(self.sigma[:, None] / ratios).sum(dim=0) + torch.log1p(u_mu)
        return energy.clamp_min(self.floor), log_det[:, None]

    def of_targets(self, columns: Tensor) -> _Problem:
        """The same for some of the targets, or for some twice."""
        return replace(
            self,
            projected=self.projected[:, columns],
            spread=self.spread[columns],
            offset=self.offset[columns],
        )

    @cached_property
    def squares(self) -> Tensor:
        """``‖t‖²``, (K,)."""
        return self.spread + self.offset.square()

    @cached_property
    def unreached(self) -> Tensor:
        """Squared length of the centred targets outside the span of the features, (K,)."""
        reached = (self.projected.square() / self.sigma[:, None]).sum(dim=0)
        return (
            torch.zeros_like(reached) if self.all_reached else (self.spread - reached).clamp_min(0)
        )

    @cached_property
    def floor(self) -> Tensor:
        """The residual that rounding alone can leave, (K,)."""
        eps = 0.0 if self.all_reached else torch.finfo(torch.float64).eps
        return eps * self.squares

    @property
    def all_reached(self) -> bool:
        """Whether the features reach every centred target: N - 1 directions do."""
        return len(self.sigma) >= self.n - 1


def _outside(row: Tensor, vectors: Tensor) -> float:
    """Squared length of ``row`` outside the eigenvectors, zero where it is rounding noise."""
    if vectors.shape[1] == len(row):
        return 0.0
    rest = row - vectors @ (vectors.T @ row)
    rest -= vectors @ (vectors.T @ rest)  # what rounding has left inside
    noise = 1e3 * len(row) * torch.finfo(torch.float64).eps * float(row.norm())
    length = float(rest.norm())
    return length**2 if length > noise else 0.0


def _max_evidence(problem: _Problem) -> tuple[Tensor, Tensor, int]:
    """Log evidence (K,) at the fixed point of (α, β), and that in terms of ``log α / β``, (K,).

    And the number of targets that are fitted almost exactly.
    """
    # Beyond these ratios the prior decides nothing, or everything, in every direction.
    length = float(problem.inside.square().sum()) + problem.outside
    directions = [*problem.sigma[[0, -1]].tolist(), length] if len(problem.sigma) else [length]
    lowest = math.log(min(d for d in directions if d > 0) * 1e-12)
    highest = math.log(sum(directions) * 1e12)
    highest_first, second = _starts(problem, directions)
    again = second.isfinite().nonzero()[:, 0]
    # A target with two maxima is two columns of one search.
    every = torch.arange(len(second), device=second.device)
    columns = torch.cat([every, again])
    doubled = problem.of_targets(columns) if len(again) else problem
    start = torch.cat([highest_first, second[again]])
    reached = _root_ahead(doubled.step, start, lowest, highest)
    found, fitted = _evidence(doubled, reached)
    best = every.clone()
    for place, column in enumerate(again.tolist(), start=len(second)):
        if found[place] > found[best[column]]:
            best[column] = place
    return found[best], reached[best], int(fitted[best].sum())


def _evidence(problem: _Problem, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Log evidence (K,) at ``log λ`` (K,), and which targets are fitted almost exactly."""
    n, ratio = problem.n, log_ratio.exp()
    gamma, norm, residual, log_det = problem.at(ratio)
    # Given the ratio the best β is N / (residual + λ‖w‖²), which equals the fixed point's there.
    evidence = _at_best_noise(residual + ratio * norm, log_det, n)
    return evidence, (residual <= 1e-10 * problem.squares) | (n - gamma <= 1e-3 * n)


def _at_best_noise(energy: Tensor, log_det: Tensor, n: int | Tensor) -> Tensor:
    return -0.5 * (n * torch.log(energy / n) + log_det + n + n * math.log(2.0 * math.pi))


def _starts(problem: _Problem, directions: list[float]) -> tuple[Tensor, Tensor]:
    """``log λ`` (K,) next to the highest maximum, and to the one after it, infinite without one.

    They lie among the lengths of the directions.
    """
    lowest, highest = math.log(min(d for d in directions if d > 0)), math.log(sum(directions))
    points = torch.arange(lowest - _APART, highest + 2.0 * _APART, _APART).to(problem.squares)
    values = _at_best_noise(*problem.energies(points.exp()), problem.n)
    beyond = values.new_full((1, values.shape[1]), -math.inf)
    before, after = torch.cat([beyond, values[:-1]]), torch.cat([values[1:], beyond])
    peaks = torch.where((values > before) & (values >= after), values, -math.inf)
    heights, places = peaks.topk(2, dim=0)
    starts = points[places]
    return starts[0], torch.where(heights[1].isfinite(), starts[1], math.inf)


def _root_ahead(
    step: Callable[[Tensor], Tensor], start: Tensor, lowest: float, highest: float
) -> Tensor:
    """Where ``step`` changes sign, searched from ``start`` in the direction in which it points.

    The bracket grows by doubling; then inverse quadratic interpolation where that is safe, and
    bisection elsewhere (Chandrupatla 1997), narrow it to 1e-9. The evidence is flat there, so that
    leaves no digit of it uncertain. Where the sign never changes the bound is returned.
    """
    near, far, width = start, start, 1.0
    at_near = at_far = step(start)
    direction = at_near.sign()
    while bool(((at_far * direction > 0) & (far > lowest) & (far < highest)).any()):
        ahead = at_far * direction > 0
        near, at_near = torch.where(ahead, far, near), torch.where(ahead, at_far, at_near)
        far = torch.where(ahead, (far + direction * width).clamp(lowest, highest), far)
        at_far = step(far)
        width *= 2.0
    unbounded = at_far * direction > 0
    # ``one`` is the latest point, ``two`` the end across the root, ``third`` the point before.
    one, at_one, two, at_two = far, at_far, near, at_near
    share = torch.full_like(start, 0.5)
    for _ in range(200):
        open_ = ~unbounded & (at_one != 0) & ((two - one).abs() > 2.0 * _PRECISION)
        if not bool(open_.any()):
            break
        point = torch.where(open_, one + share * (two - one), one)
        value = step(point)
        same = value * at_one > 0
        third, at_third = torch.where(same, one, two), torch.where(same, at_one, at_two)
        two, at_two = torch.where(same, two, one), torch.where(same, at_two, at_one)
        one, at_one = point, value
        xi, phi = (one - two) / (third - two), (at_one - at_two) / (at_third - at_two)
        share = at_one / (at_two - at_one) * at_third / (at_two - at_third)
        share = share + (third - one) / (two - one) * at_one / (at_third - at_one) * at_two / (
            at_third - at_two
        )
        safe = (phi.square() < xi) & ((1.0 - phi).square() < 1.0 - xi) & share.isfinite()
        least = (_PRECISION / (two - one).abs()).clamp_max(0.5)
        share = torch.where(safe, share, 0.5).clamp(least, 1.0 - least)
    best = torch.where(at_one.abs() <= at_two.abs(), one, two)
    return torch.where(unbounded, (start + direction * math.inf).clamp(lowest, highest), best)
