"""The terms of ETran beside the LDA score: energy, unseen by labels, and a truncated regression."""

from __future__ import annotations

from typing import Literal

import torch

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import FeatureSample, TargetMoments

_REFERENCE = "Gholami et al., ETran: Energy-Based Transferability Estimation, ICCV 2023"


@register_metric(
    requires="examples",
    tasks=("classification", "regression"),
    reference=_REFERENCE,
)
def energy(
    statistic: FeatureSample,
    *,
    tail: Literal["lowest", "highest"] | None = "lowest",
    percent: float = 0.5,
) -> float:
    """Energy score: mean of ``log Σ_d exp(x_nd)`` over the examples in one tail of it.

    ``-log Σ exp`` of a classifier's logits is the energy of an input, low for data like those it
    was trained on. Pass the source logits as X for that; the authors' code passes the features of
    the last layer. It is meant to be standardised over the candidate models and added to the LDA
    score (ETran).

    The authors' evaluation script takes the lowest 0.5 per cent of the examples, rounded down;
    that is the default. Here at least one example is taken, where theirs takes none for N < 200
    and returns NaN.

    Args:
        statistic: ``FeatureSample``; or pass logits or features (N, D) with labels or targets,
            which are ignored. More than 20 000 examples are sampled by a hash of their content.
        tail: ``"lowest"`` or ``"highest"`` values of ``log Σ exp``, or None for all examples.
        percent: share of the examples in the tail, in per cent.

    Returns:
        The score in nats; higher is better.

    Raises:
        InvalidInputError: an unknown tail, or a percentage outside (0, 100].

    Failure modes:
        - No label is read: it says whether the target data look familiar, not whether the task can
          be learnt.
        - It has units: scaling, shifting or rotating X changes it, and it grows with D.
        - A score that rests on 0.5 per cent of few examples is noisy; ``tail=None`` is safer.

    Source: Gholami et al. (2023), energy score; the energy is that of Liu et al., Energy-based
    Out-of-distribution Detection, NeurIPS 2020.

    Cost: O(N D) time, O(N D) memory.

    >>> round(energy([[0.0, 0.0], [1.0, 1.0]], [0, 1], tail=None), 6)
    1.193147
    >>> round(energy([[0.0, 0.0], [1.0, 1.0]], [0, 1]), 6)
    0.693147
    """
    if not 0 < percent <= 100:
        raise InvalidInputError(f"percent must lie in (0, 100], not {percent!r}")
    values = torch.logsumexp(statistic.x, dim=1)
    if tail is not None:
        # The nudge keeps a whole number that the division left just below itself.
        count = max(1, int(statistic.n * percent / 100.0 + 1e-9))
        values = values.topk(count, largest=tail == "highest").values
    return float(values.mean())


@register_metric(
    tasks=("regression",),
    reference=_REFERENCE,
    invariant=("scale", "shift", "rotation"),
)
def svd_regression(statistic: TargetMoments, *, share: float = 1.0) -> float:
    """Minus the mean squared error of least squares by truncated SVD.

    With ``U_k`` the leading left singular vectors of the centred X and centred targets T,
    ``-‖T - U_k U_k' T‖² / (N K)``. It is in squared units of the targets, so ETran standardises it
    over the candidate models.

    Where the authors truncate is not known: their released code inverts every singular value of X
    in single precision, without centring and so without an intercept. Here singular values that
    are rounding noise are always cut, ``share`` cuts further, and the centring makes the score
    indifferent to shifts of X and T.

    Args:
        statistic: ``TargetMoments``; or pass features (N, D) and targets (N,) or (N, K) of a
            floating point type.
        share: the least share of the variance of X that the kept directions hold; 1 keeps all.

    Returns:
        The score, at most 0; higher is better.

    Raises:
        InvalidInputError: constant features, a constant target, class labels, or a share outside
            (0, 1].

    Warns:
        TransferMetricsWarning: the kept directions reach every target (N - 1 of them or more).

    Failure modes:
        - The error is that of the fit itself, not of new examples: it falls with every feature, and
          for D >= N it is 0 whatever the features, with a warning; ``share`` keeps fewer
          directions.
        - Targets in other units give other scores: compare within one task only.

    Source: Gholami et al. (2023), regression score.

    Cost: O(N D min(N, D)) for the moments, O(min(N, D)³ + K D min(N, D)) here.

    >>> svd_regression([[0.0], [1.0], [2.0], [3.0]], [1.0, 0.0, 0.0, 1.0])
    -0.25
    """
    if not isinstance(statistic, TargetMoments):
        raise InvalidInputError("svd_regression needs regression targets, not class labels")
    if not 0 < share <= 1:
        raise InvalidInputError(f"share must lie in (0, 1], not {share!r}")
    if bool((statistic.spread <= 0).any()):
        raise InvalidInputError("a regression target is constant; there is nothing to predict")
    values, vectors = statistic.total.eigh
    if not len(values):
        raise InvalidInputError("all features are constant; a regression has nothing to fit")
    held = values.cumsum(dim=0) / values.sum()
    # The last sum may fall short of 1 by rounding.
    kept = len(values) if share == 1 else min(int((held < share).sum()) + 1, len(values))
    if kept >= statistic.n - 1:
        warn(
            f"svd_regression: {kept} directions fit any target of {statistic.n} examples exactly; "
            f"the score is 0 whatever the features; keep a smaller share of the variance"
        )
        return 0.0
    reached = (vectors[:, :kept].T @ statistic.cross).square() / values[:kept, None]
    errors = torch.clamp_min(statistic.spread - reached.sum(dim=0), 0.0)
    return -float(errors.mean()) / statistic.n
