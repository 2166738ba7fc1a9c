"""PED: SFDA after the classes have pushed each other apart, as fine-tuning would."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.metrics.discriminant import Problem
from transfer_metrics.statistics import ClassMoments, FeatureSample, TargetMoments

_SMALLEST_DEVIATION = 1e-3
_EXIT_RATIO = 0.5


@register_metric(
    requires="examples",
    reference=(
        "Li et al., Exploring Model Transferability through the Lens of Potential Energy, ICCV 2023"
    ),
    invariant=("shift",),
)
def ped(
    statistic: FeatureSample,
    *,
    nu: float = 0.6,
    step: float = 0.1,
    rounds: int = 6,
    general: ClassMoments | None = None,
) -> float:
    """PED: potential energy decline of overlapping classes, then SFDA.

    In features divided by the standard deviations of a general data set, class c is a ball about
    its mean with radius ``ρ_c``, the root of its summed variance. Two classes whose balls overlap
    repel each other along the line between their centres with the force
    ``F = max(ν (ρ_i + ρ_j) - d_ij, 0)``, and all examples of a class move with it by the sum of
    ``½ step² F`` over the others, at most F. The motion ends after ``rounds`` rounds, or before
    the first whose total movement (sum of absolute values over classes and features) is no more
    than half of that of the first round. SFDA scores the moved features in their own units.

    Classes that do not overlap stay, and the score is SFDA's. Two centres that coincide (to 1e-12
    of the radii) have no line between them and do not repel each other. A motion is rigid, so
    ``S_w`` and SFDA's ``λ`` stay.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).
        nu: ν, the share of the radii that has to be free of overlap; the authors choose among 0.3,
            0.6 and 2.
        step: time step of the motion.
        rounds: the most rounds; 0 is SFDA.
        general: moments of the same layer on a general data set, whose standard deviations
            standardise the features (the authors take ImageNet's validation set); by default the
            deviations of the target data themselves. At least 1e-3 each. The means cancel.

    Returns:
        The score in (0, 1]; higher is better.

    Raises:
        InvalidInputError: one class only, no spread within the classes, an option out of range,
            or general moments of another dimension.

    Warns:
        TransferMetricsWarning: ``S_w`` is singular, see SFDA.

    Failure modes:
        - SFDA's: it grows with D at a given N, depends on the scale of the features, and rests on
          ``λ`` alone for D > N.
        - Standardising makes the score depend on the axes: a rotation of the features changes it.
        - The motion separates overlapping classes whether or not fine-tuning could: with a large
          ``nu`` everything becomes easy.

    Source: Li et al. (2023), appendix B for the standardisation, and the authors' code.

    Cost: that of SFDA and O(N D + rounds · C² D) time, O(N D + C²) memory.

    >>> from sklearn.datasets import load_iris
    >>> round(ped(*load_iris(return_X_y=True), nu=2.0), 6)
    0.903675
    """
    if nu < 0 or step < 0 or rounds < 0:
        raise InvalidInputError(
            f"nu, step and rounds must not be negative, got {nu!r}, {step!r} and {rounds!r}"
        )
    if general is not None and general.dim != statistic.x.shape[1]:
        raise InvalidInputError(
            f"general moments have {general.dim} features and these have {statistic.x.shape[1]}; "
            f"build both from the same layer"
        )
    scale = _deviations(general or statistic.moments).clamp_min(_SMALLEST_DEVIATION)
    scale = scale.to(statistic.x.device)
    moves, codes = motion(statistic, scale, nu, step, rounds)
    moved = dataclasses.replace(statistic, x=statistic.x + (moves * scale)[codes])
    return Problem.of("ped", moved).self_challenged()


def _deviations(moments: ClassMoments | TargetMoments) -> Tensor:
    """Standard deviation of each feature (over n), (D,)."""
    total = moments.total
    squares = total.data.diagonal() if total.dense else total.data.square().sum(dim=0)
    return (squares / moments.n).sqrt()


def motion(
    statistic: FeatureSample, scale: Tensor, nu: float, step: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """Moves of the classes that occur, in standardised features, (C, D), and each row's class."""
    moments = statistic.moments
    assert isinstance(moments, ClassMoments)
    codes = torch.unique(statistic.y, return_inverse=True)[1].to(statistic.x.device)
    means = moments.means[moments.present]
    spread = ((statistic.x - means[codes]) / scale).square().sum(dim=1)
    counts = moments.counts[moments.present].to(spread)
    radii = (spread.new_zeros(len(means)).index_add_(0, codes, spread) / counts).sqrt()
    start = (means - moments.mean) / scale
    centres, first = start, 0.0
    for turn in range(rounds):
        moves = _repulsion(centres, radii, nu, step)
        movement = float(moves.abs().sum())
        if turn == 0:
            first = movement
        if movement <= _EXIT_RATIO * first:
            break
        centres = centres + moves
    return centres - start, codes


def _repulsion(centres: Tensor, radii: Tensor, nu: float, step: float) -> Tensor:
    """One round of the motion of all centres, (C, D)."""
    distances = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    reach = radii[:, None] + radii
    force = (nu * reach - distances).clamp_min(0.0)
    amount = torch.minimum(0.5 * step**2 * force, force)
    # Per unit of the distance; neither a class nor one at the same place exerts anything.
    pull = torch.where(distances > 1e-12 * reach, amount / distances, 0.0)
    return pull.sum(dim=1, keepdim=True) * centres - pull @ centres
