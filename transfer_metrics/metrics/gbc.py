"""GBC: how much the classes overlap, each taken for a Gaussian."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import ClassMoments, Scatter
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.linalg import product

# Numbers that the differences or covariances of one block of pairs may take: 2 MiB.
_BLOCK = 2**18


def _slopes(influence: Influence, *, covariance: str, dim: int, floor: float) -> Tensor | None:
    """What GBC loses without each block, by its logarithm, in the principal components of all.

    Spherical variances depend on the space alone, which a block hardly turns; the others depend on
    axes that it may turn far, and have none where components are left out.
    """
    whole, classes = influence.whole, influence.by_class
    full = covariance == "full"
    if classes is None or not (
        covariance == "spherical" or (full and len(whole.total.eigh[0]) <= dim)
    ):
        return None
    basis = whole.total.eigh[1][:, :dim].contiguous()
    present = whole.present
    counts = whole.counts[present].to(basis)
    means = (whole.means[present] - whole.mean) @ basis
    scatters = torch.stack([_project(whole.scatter_of(c), basis, full) for c in present])
    left = []
    for b, block in enumerate(influence.blocks):
        own = influence.counts[b, present]
        chosen, kept = own < counts, (counts - own).clamp_min(1.0)
        sums = own[:, None] * ((block.means - whole.means)[present] @ basis)
        lost = torch.stack([_project(classes[c][b], basis, full) for c in present])
        moved = sums[:, :, None] * sums[:, None] if full else sums.square()
        kept = kept.reshape(-1, *[1] * (lost.ndim - 1))
        spreads = (scatters - lost - moved / kept) / kept
        moved = means - sums / kept.reshape(-1, 1)
        left.append(_log_sum(moved[chosen], spreads[chosen], covariance, floor))
    value = _log_sum(means, scatters / counts.reshape(kept.shape), covariance, floor)
    return -math.exp(value) * influence.left_out(value, left)


@register_metric(
    derivative=_slopes,
    relative=True,
    parts=("class",),
    reference=(
        "Pándy et al., Transferability Estimation using Bhattacharyya Class Separability, CVPR 2022"
    ),
    invariant=("shift", "rotation"),
)
def gbc(
    statistic: ClassMoments,
    *,
    covariance: Literal["spherical", "diagonal", "full"] = "spherical",
    dim: int = 64,
    floor: float = 1e-4,
) -> float:
    """GBC: minus the summed Bhattacharyya coefficients of all ordered pairs of classes.

    ``-Σ_{i≠j} exp(-B_ij)`` with ``B = ⅛ (m_i - m_j)' Σ̄⁻¹ (m_i - m_j) + ½ log(|Σ̄| / √(|Σ_i||Σ_j|))``
    and ``Σ̄ = (Σ_i + Σ_j) / 2``, in the leading principal components of the features. It lies in
    [-C(C - 1), 0].

    Class covariances are sums of squares over n_c, not n_c - 1: the maximum likelihood estimate,
    defined for one example too, whose variance is then ``floor``. A spherical variance is the mean
    over the components kept, floored after the mean, and its log-determinant is that of the whole
    matrix: d times the logarithm for d components. ``"full"`` adds ``floor`` to the diagonal
    instead.

    Args:
        statistic: ``ClassMoments`` with ``"class"``; or pass features (N, D) and labels (N,).
        covariance: ``"spherical"``, ``"diagonal"`` or ``"full"``.
        dim: principal components kept; fewer where the features have a smaller rank.
        floor: the least variance, in squared units of the features.

    Returns:
        The score; higher is better.

    Raises:
        InvalidInputError: fewer than two classes, constant features, an option out of range, or
            ``"full"`` covariances so large that the floor is lost in rounding.

    Failure modes:
        - The floor is absolute: a class whose variance lies below it says nothing but the floor,
          with a warning. One example has no variance at all.
        - ``"full"`` measures little but the floor along the directions that a class of n_c <= d
          examples leaves out.
        - ``"diagonal"`` depends on the principal axes and means little where two eigenvalues
          coincide; the other two depend on the space alone, which is ambiguous only where
          eigenvalues coincide at the cut.
        - Models whose classes do not overlap at all tie: the sum rounds to zero, with a warning.

    Source: Pándy et al. (2022).

    Cost: O(min(N, D)³) for the principal components, shared with other metrics;
    O(Σ_c min(n_c, D) D d) to project the classes; O(C² d) for the pairs, O(C² d³) with ``"full"``,
    which suits a few hundred classes. Memory O(C² + C d), or O(C² + C d²).

    >>> from sklearn.datasets import load_iris
    >>> round(gbc(*load_iris(return_X_y=True)), 6)
    -0.330088
    """
    if dim < 1 or not 0 < floor < math.inf:
        raise InvalidInputError(f"dim and floor must be positive, not {dim!r} and {floor!r}")
    present = statistic.present
    if len(present) < 2:
        raise InvalidInputError("GBC needs at least two classes with examples")
    basis = statistic.total.eigh[1][:, :dim].contiguous()
    if not basis.shape[1]:
        raise InvalidInputError("all features are constant; GBC has no classes to tell apart")
    counts = statistic.counts[present].to(basis)
    means = statistic.between_rows[present] @ basis / counts.sqrt()[:, None]
    full = covariance == "full"
    spreads = torch.stack(
        [_project(statistic.scatter_of(c), basis, full) / statistic.counts[c] for c in present]
    )
    _warn_of_floor(spreads, floor, full)
    log_sum = _log_sum(means, spreads, covariance, floor)
    if log_sum < math.log(torch.finfo(torch.float64).tiny):
        warn(
            f"GBC: no two classes overlap, the sum is exp({log_sum:.0f}) and rounds to zero; "
            f"models that separate the classes this well tie"
        )
    return -math.exp(log_sum)


def _log_sum(means: Tensor, spreads: Tensor, covariance: str, floor: float) -> float:
    """Log of the summed coefficients of classes with means (C, d) and what ``_project`` gives."""
    if covariance == "full":
        spreads = spreads + floor * torch.eye(spreads.shape[1]).to(spreads)
        coefficients = _log_coefficients_full(means, spreads)
    else:
        variances = spreads.mean(dim=1, keepdim=True) if covariance == "spherical" else spreads
        coefficients = _log_coefficients(means, variances.clamp_min(floor))
    return math.log(2.0) + float(torch.logsumexp(coefficients, dim=0))


def _project(scatter: Scatter, basis: Tensor, full: bool) -> Tensor:
    """``V' S V`` for the basis V (D, d): (d, d), or its diagonal (d,)."""
    image = product(scatter.data, basis)
    left = basis if scatter.dense else image
    return left.T @ image if full else (left * image).sum(dim=0)


def _warn_of_floor(spreads: Tensor, floor: float, full: bool) -> None:
    diagonals = spreads.diagonal(dim1=1, dim2=2) if full else spreads
    below = int((diagonals.mean(dim=1) < floor).sum())
    if below:
        warn(
            f"GBC: {below} of {len(spreads)} classes have a mean variance below the floor of "
            f"{floor:g} (one example has none), which then stands for it; rescale the features or "
            f"lower the floor"
        )


def _pairs(like: Tensor, block: int) -> list[tuple[Tensor, Tensor]]:
    """Indices of all pairs i < j of the rows of a tensor, in blocks of at least one pair."""
    pairs = torch.triu_indices(len(like), len(like), 1, device=like.device)
    return [(part[0], part[1]) for part in pairs.split(max(1, block), dim=1)]


def _log_coefficients(means: Tensor, variances: Tensor) -> Tensor:
    """``-B`` of all pairs of Gaussians with variances (C, d), or (C, 1) for all d alike."""
    dim = means.shape[1]
    logdets = 0.5 * variances.log()
    found = []
    for i, j in _pairs(means, _BLOCK // dim):
        average = (variances[i] + variances[j]) / 2.0
        distance = ((means[i] - means[j]).square() / average).sum(dim=1) / 8.0
        logdet = (average.log() - logdets[i] - logdets[j]).mean(dim=1) * (dim / 2.0)
        found.append(-distance - logdet)
    return torch.cat(found)


def _log_coefficients_full(means: Tensor, covariances: Tensor) -> Tensor:
    """``-B`` of all pairs of Gaussians with covariances (C, d, d)."""
    dim = means.shape[1]
    logdets = 0.25 * _logdet(_cholesky(covariances))
    found = []
    for i, j in _pairs(means, _BLOCK // dim**2):
        factor = _cholesky((covariances[i] + covariances[j]) / 2.0)
        difference = (means[i] - means[j])[:, :, None]
        solved = torch.linalg.solve_triangular(factor, difference, upper=False)
        distance = solved.square().sum(dim=(1, 2)) / 8.0
        found.append(logdets[i] + logdets[j] - 0.5 * _logdet(factor) - distance)
    return torch.cat(found)


def _cholesky(matrices: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrices)
    if bool(failed.any()):
        raise InvalidInputError(
            "GBC: the floor is lost beside the class covariances; raise it or rescale the features"
        )
    return factor


def _logdet(factors: Tensor) -> Tensor:
    return 2.0 * factors.diagonal(dim1=1, dim2=2).log().sum(dim=1)
