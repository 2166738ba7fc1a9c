"""LEEP and NCE: what the source head's predictions say about the target labels."""

from __future__ import annotations

import torch

from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import SourceJoint


@register_metric(
    requires="source",
    reference="Nguyen et al., LEEP: A New Measure to Evaluate Transferability, ICML 2020",
)
def leep(statistic: SourceJoint) -> float:
    """LEEP: mean log likelihood of the target labels under the empirical predictor.

    ``(1/N) Σ_n log Σ_z p̂(y_n | z) θ(x_n)_z`` with ``p̂(y, z) = (1/N) Σ_{n: y_n = y} θ(x_n)_z``.
    Source classes that never receive any probability are left out.

    Args:
        statistic: ``SourceJoint``; or pass source probabilities (N, Z) and labels (N,).

    Returns:
        The score in nats, at most 0; higher is better.

    Source: Nguyen et al. (2020), equation 2.

    Cost: O(N Z) time and memory.

    >>> round(leep([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [0, 1, 1]), 6)
    -0.411274
    """
    joint = statistic.soft
    conditional = joint / joint.sum(dim=0).clamp_min(torch.finfo(joint.dtype).tiny)
    likelihood = (conditional[statistic.labels] * statistic.probabilities).sum(dim=1)
    return float(likelihood.log().mean())


@register_metric(
    requires="source",
    reference="Tran et al., Transferability and Hardness of Supervised Classification, ICCV 2019",
)
def nce(statistic: SourceJoint) -> float:
    """NCE: negative conditional entropy ``-H(Y | Z)`` of labels given arg-max source classes.

    ``Σ_{y,z} p̂(y, z) log p̂(y | z)``; source classes that are never predicted are left out.

    Args:
        statistic: ``SourceJoint``; or pass source probabilities (N, Z) and labels (N,).

    Returns:
        The score in nats, at most 0; higher is better.

    Source: Tran et al. (2019), equation 1.

    Cost: O(N + C Z) after the forward pass.

    >>> round(nce([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0]), 6)
    -0.477386
    """
    counts = statistic.hard
    by_source = counts.sum(dim=0, keepdim=True).clamp_min(1.0)
    return float(torch.xlogy(counts, counts / by_source).sum() / statistic.n)
