"""Energy score: how strongly a network responds to the target data, labels unseen."""

from __future__ import annotations

import torch

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import FeatureSample


@register_metric(
    requires="examples",
    tasks=("classification", "regression"),
    reference="Gholami et al., ETran: Energy-Based Transferability Estimation, ICCV 2023",
)
def energy(statistic: FeatureSample, *, tail: str | None = "lowest", percent: float = 0.5) -> float:
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
    if tail not in ("lowest", "highest", None):
        raise InvalidInputError(f"tail must be 'lowest', 'highest' or None, not {tail!r}")
    if not 0 < percent <= 100:
        raise InvalidInputError(f"percent must lie in (0, 100], not {percent!r}")
    values = torch.logsumexp(statistic.x, dim=1)
    if tail is not None:
        # The nudge keeps a whole number that the division left just below itself.
        count = max(1, int(statistic.n * percent / 100.0 + 1e-9))
        values = values.topk(count, largest=tail == "highest").values
    return float(values.mean())
