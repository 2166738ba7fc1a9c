"""LEEP, NCE and soft NCE: what the source head's predictions say about the target labels."""

from __future__ import annotations

import torch
from torch import Tensor

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

    Failure modes:
        - It reads the model's own classifier, so there is no score for models without one, nor for
          hidden layers.
        - It says nothing of features that the classifier throws away: a model of few source classes
          is judged by those few numbers.
        - With few examples per source class the empirical predictor has seen each of them: the
          score is optimistic, the more so the more source classes.

    Source: Nguyen et al. (2020), equation 2.

    Cost: O(N Z) time, and O(C Z) memory beside the probabilities.

    >>> round(leep([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]], [0, 1, 1]), 6)
    -0.411274
    """
    joint = statistic.soft
    conditional = joint / joint.sum(dim=0).clamp_min(torch.finfo(joint.dtype).tiny)
    rows = [torch.linalg.vecdot(p, conditional[labels]) for p, labels in statistic.blocks()]
    likelihood = torch.cat(rows)
    return float(likelihood.log().mean())


@register_metric(
    requires="source",
    reference="Tran et al., Transferability and Hardness of Supervised Classification, ICCV 2019",
)
def nce(statistic: SourceJoint) -> float:
    """NCE: negative conditional entropy ``-H(Y | Z)`` of labels given arg-max source classes.

    ``Σ_{y,z} p̂(y, z) log p̂(y | z)`` with ``p̂(y, z)`` the share of examples of class y whose most
    probable source class is z; source classes that are never predicted are left out.

    Args:
        statistic: ``SourceJoint``; or pass source probabilities (N, Z) and labels (N,).

    Returns:
        The score in nats, at most 0; higher is better.

    Failure modes:
        - It reads the model's own classifier, so there is no score for models without one, nor for
          hidden layers.
        - Only the most probable source class counts, however small its lead. Of several that are
          equally probable it is the first, so such examples make the score depend on the order of
          the source classes; ``soft_nce`` and ``leep`` do not.
        - A source class that is predicted once explains its example exactly: with few examples and
          many source classes the score is near 0 whatever the model.

    Source: Tran et al. (2019), equation 1.

    Cost: O(N + C Z) after the forward pass.

    >>> round(nce([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0]), 6)
    -0.477386
    """
    return -_conditional_entropy(statistic.hard)


@register_metric(
    requires="source",
    reference=(
        "Tran et al., Transferability and Hardness of Supervised Classification, ICCV 2019; "
        "with soft weights in the code of Ding et al., PACTran, ECCV 2022"
    ),
)
def soft_nce(statistic: SourceJoint) -> float:
    """Soft NCE: negative conditional entropy ``-H(Y | Z)`` with probabilities for counts.

    As ``nce``, with ``p̂(y, z) = (1/N) Σ_{n: y_n = y} θ(x_n)_z`` in place of arg-max counts: a
    different number, and at most LEEP's by Jensen's inequality.

    Args:
        statistic: ``SourceJoint``; or pass source probabilities (N, Z) and labels (N,).

    Returns:
        The score in nats, at most 0; higher is better.

    Failure modes:
        - It reads the model's own classifier, so there is no score for models without one, nor for
          hidden layers.
        - Flat probabilities blur it: a classifier that is unsure of everything gives ``-H(Y)``,
          even where its small differences tell the classes apart. Confidence thus counts beside
          knowledge.

    Source: Tran et al. (2019), equation 1; the weights follow Ding et al. (2022).

    Cost: O(N Z) after the forward pass.

    >>> round(soft_nce([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]], [0, 1, 1, 0]), 6)
    -0.606843
    """
    return -_conditional_entropy(statistic.soft)


def _conditional_entropy(table: Tensor) -> float:
    """``H(Y | Z)`` in nats of a (C, Z) table of weights; columns without weight add nothing."""
    by_source = table.sum(dim=0, keepdim=True)
    conditional = table / by_source.clamp_min(torch.finfo(table.dtype).tiny)
    return -float(torch.xlogy(table, conditional).sum() / by_source.sum())
