"""H-score: how much of the feature covariance separates the classes."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import ClassMoments
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.leverage import Leverage, Ridge, missed_without

_LEAST = 1e-140
"""Squares of smaller variances lose digits."""


def _slopes(influence: Influence, *, shrinkage: str | float | None) -> Tensor | None:
    """Derivative of the H-score in the weights of blocks; none for a pseudo-inverse."""
    whole = influence.whole
    n, dim, total = whole.n, whole.dim, whole.total
    learnt = shrinkage == "ledoit_wolf"
    intensity = _ledoit_wolf(whole) if learnt else float(shrinkage or 0.0)
    if intensity == 1:
        return torch.zeros_like(influence.n)
    if intensity == 0 and (not total.dense or len(total.eigenvalues) < dim):
        return None
    trace, odds = total.trace(), intensity / (1.0 - intensity)
    shift = odds * trace / dim
    leverage = influence.leverage
    ridge = Ridge(total, shift, None if leverage is None else leverage.rows)
    solved = ridge.solve(whole.between_rows.T).T
    value = float((solved * whole.between_rows).sum())
    # tr(B (T + s I)⁻¹ B') moves with B twice, with T and with s.
    slopes = (
        influence.of_between(solved) - influence.of_total(solved.T, solved.new_ones(len(solved)))
        if leverage is None
        else _explained_slopes(influence, leverage, solved, ridge.left())
    )
    if intensity == 0:
        return slopes
    moved = odds * influence.trace
    if learnt:
        joint = influence.of_itself() if leverage is None else solved.new_tensor(ridge.with_total())
        moved += trace * _intensity_slopes(influence, joint) / (1.0 - intensity) ** 2
    slopes -= float(solved.square().sum()) / dim * moved
    return (n * slopes - value / (n - 1) * influence.n) / (n - 1)


def _explained_slopes(
    influence: Influence, leverage: Leverage, solved: Tensor, left: list[np.ndarray]
) -> Tensor:
    """What ``tr(B (T + s I)⁻¹ B')`` loses with each block for a fixed s, where examples are few.

    It is what a ridge regression on labels, whose leverages leave ``left`` of one, explains of each
    class, ``n_c (1 - n_c / n)`` less the energy that is left, over n_c.
    """
    whole = influence.whole
    present, n = whole.present, whole.n
    counts = whole.counts[present].to(solved)
    weights = (solved[present] * counts.sqrt()[:, None]).T
    fitted = leverage.rows.times(weights).cpu().numpy()
    prior, lost = (counts / n).cpu().numpy(), []
    for b, (start, stop) in enumerate(pairwise(leverage.rows.starts)):
        ones = leverage.rows.labels(b)[0]
        errors = leverage.targets(b, present) - np.outer(ones, prior) - fitted[start:stop]
        half = missed_without(left[b] - np.outer(ones, ones) / n, errors)[1]
        lost.append(np.vecdot(half.T, half.T))
    energy = torch.from_numpy(np.stack(lost)).to(solved)
    explained = (solved[present] * whole.between_rows[present]).sum(dim=1)
    kept = counts - influence.counts[:, present]
    size = n - influence.n[:, None]
    rest = explained * counts - counts + counts.square() / n + energy + kept
    rest -= kept.square() / size
    gone = (explained - rest / kept.clamp_min(1.0)).sum(dim=1)
    return (1.0 - influence.n / n) * gone


def _intensity_slopes(influence: Influence, joint: Tensor) -> Tensor:
    """Derivative of ``_ledoit_wolf`` in the weights of blocks, of ``<T, T_b>`` (B,)."""
    whole = influence.whole
    n, dim, total, share = whole.n, whole.dim, whole.total, influence.n / whole.n
    assert whole.fourth is not None
    norm, mean_variance = total.square_norm() / n**2, total.trace() / n / dim
    quartic = whole.fourth.quartic / n
    spread, noise = norm / dim - mean_variance**2, (quartic - norm) / (dim * n)
    if not 0.0 < noise < spread:
        return torch.zeros_like(influence.n)
    norm_moved = 2.0 * (joint / n**2 - norm * share)
    spread_moved = norm_moved / dim - 2.0 * mean_variance * (
        influence.trace / (n * dim) - mean_variance * share
    )
    noise_moved = (influence.quartic / n - quartic * share - norm_moved) / (dim * n) - noise * share
    return (noise_moved - noise / spread * spread_moved) / spread


@register_metric(
    parts=("fourth",),
    derivative=_slopes,
    reference=(
        "Bao et al., An Information-Theoretic Approach to Transferability, ICIP 2019; "
        "Ibrahim et al., Newer is not always better, ECML 2022"
    ),
    invariant=("scale", "shift", "rotation"),
)
def h_score(
    statistic: ClassMoments, *, shrinkage: float | Literal["ledoit_wolf"] | None = "ledoit_wolf"
) -> float:
    """H-score ``tr(Σ⁻¹ Σ_b)``, by default with a shrunk covariance.

    ``Σ`` is the covariance of the features and ``Σ_b`` that of their class means, one per example;
    in the plain form both by the same divisor. The shrunk form is ``(1 - a) tr(Σ_a⁻¹ Σ_b)`` with
    ``Σ_a = (1 - a) Σ + a tr(Σ)/D I``, with the divisor N for ``Σ`` and N - 1 for ``Σ_b``, as it was
    published: ``N / (N - 1)`` times what one divisor would give. With a = 0 it is the plain form,
    without that factor.

    Args:
        statistic: ``ClassMoments``; or pass features (N, D) and labels (N,).
        shrinkage: ``"ledoit_wolf"`` estimates the intensity a, a number in [0, 1] gives it, None
            means the plain form with a pseudo-inverse cut at rounding noise.

    Returns:
        The score; higher is better.

    Raises:
        InvalidInputError: one class only, constant features, or a shrinkage outside [0, 1].

    Failure modes:
        - The plain form saturates: with D >= N it is C - 1 whatever the features. The shrunk form
          does not, but it too is read on the examples that it was fitted to, so that it grows with
          D at a given N.
        - Dead and doubled features change the shrinkage, hence the score.
        - It changes with the number of examples faster than models differ when D > N; so it should
          not take part in a race (``budget=``).

    Source: Bao et al. (2019), definition 2; Ibrahim et al. (2022), equation 4; the intensity is
    that of Ledoit and Wolf (2004), as in scikit-learn.

    Cost: O(N D min(N, D)) for the moments, O(min(N, D)³) here.

    >>> from sklearn.datasets import load_iris
    >>> round(h_score(*load_iris(return_X_y=True)), 6)
    1.177842
    """
    if len(statistic.present) < 2:
        raise InvalidInputError("H-score needs at least two classes with examples")
    n, dim, between = statistic.n, statistic.dim, statistic.between_rows
    total = statistic.total
    trace = total.trace()
    if trace <= 0:
        raise InvalidInputError("all features are constant; the H-score is 0/0")
    if shrinkage is None:
        intensity = 0.0
    elif shrinkage == "ledoit_wolf":
        intensity = _ledoit_wolf(statistic)
    elif not 0 <= shrinkage <= 1:
        raise InvalidInputError(f"shrinkage must be a number in [0, 1], not {shrinkage!r}")
    else:
        intensity = float(shrinkage)
    if intensity == 0:
        values, vectors = total.eigh
        return float(((between @ vectors).square() / values).sum())
    if intensity == 1:
        return 0.0
    # (1-a) tr(((1-a) S + a μ I)⁻¹ B) = tr((S + a μ / (1-a) I)⁻¹ B) with all matrices times n;
    # the published form takes Σ_b with n - 1 and Σ with n.
    shift = intensity / (1.0 - intensity) * trace / dim
    return n / (n - 1) * total.inverse_quadratic(between, shift)


def _ledoit_wolf(statistic: ClassMoments) -> float:
    """Shrinkage intensity of Ledoit and Wolf (2004) towards a multiple of the identity."""
    if statistic.fourth is None:
        raise InvalidInputError(
            "these moments were built without fourth moments; build them with parts={'fourth'}"
        )
    n, dim, total = statistic.n, statistic.dim, statistic.total
    if dim == 1:
        return 0.0  # the covariance of one feature is a multiple of the identity as it is
    mean_variance = total.trace() / n / dim
    if mean_variance and not _LEAST < mean_variance < 1.0 / _LEAST:
        raise InvalidInputError(
            f"features vary by about {mean_variance**0.5:.1g}, and float64 does not hold the "
            f"fourth power of that; multiply X by a constant, such as 1 / abs(X).max()"
        )
    norm = total.square_norm() / n**2
    spread = (norm / dim) - mean_variance**2
    noise = (statistic.fourth.quartic / n - norm) / (dim * n)
    if spread <= 0:
        return 1.0 if noise > 0 else 0.0
    return min(max(noise, 0.0) / spread, 1.0)
