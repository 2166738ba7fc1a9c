"""The highest evidence of a linear regression, over the precisions of its noise and its prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics import ClassMoments, TargetMoments
from transfer_metrics.statistics.linalg import product

# Maxima of the evidence are at least this far apart in log(α / β).
_APART = 2.0
# To which the maxima are found in log(α / β).
_PRECISION = 5e-10


@dataclass(frozen=True)
class Problem:
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
    def of(cls, statistic: ClassMoments | TargetMoments) -> Problem:
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

    def of_targets(self, columns: Tensor) -> Problem:
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


def max_evidence(problem: Problem) -> tuple[Tensor, Tensor, int]:
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


def _evidence(problem: Problem, log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Log evidence (K,) at ``log λ`` (K,), and which targets are fitted almost exactly."""
    n, ratio = problem.n, log_ratio.exp()
    gamma, norm, residual, log_det = problem.at(ratio)
    # Given the ratio the best β is N / (residual + λ‖w‖²), which equals the fixed point's there.
    evidence = at_best_noise(residual + ratio * norm, log_det, n)
    return evidence, (residual <= 1e-10 * problem.squares) | (n - gamma <= 1e-3 * n)


def at_best_noise(energy: Tensor, log_det: Tensor, n: int | Tensor) -> Tensor:
    """Log evidence of n examples where the precision of the noise is the best for the energy."""
    return -0.5 * (n * torch.log(energy / n) + log_det + n + n * math.log(2.0 * math.pi))


def _starts(problem: Problem, directions: list[float]) -> tuple[Tensor, Tensor]:
    """``log λ`` (K,) next to the highest maximum, and to the one after it, infinite without one.

    They lie among the lengths of the directions.
    """
    lowest, highest = math.log(min(d for d in directions if d > 0)), math.log(sum(directions))
    points = torch.arange(lowest - _APART, highest + 2.0 * _APART, _APART).to(problem.squares)
    values = at_best_noise(*problem.energies(points.exp()), problem.n)
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
