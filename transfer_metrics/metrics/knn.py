"""Leave-one-out accuracy of nearest neighbours."""

from __future__ import annotations

import numpy as np
import torch

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import Estimate, register_metric
from transfer_metrics.statistics import FeatureSample


@register_metric(
    requires="examples",
    tasks=("classification", "regression"),
    reference="Renggli et al., Which Model to Transfer?, CVPR 2022",
    invariant=("scale", "rotation"),
)
def knn(statistic: FeatureSample, *, k: int = 5, distance: str = "cosine") -> Estimate:
    """Leave-one-out accuracy of the k nearest neighbours; R² of their mean in regression.

    ``(1/N) Σ_n [y_n = vote of the k nearest x_m, m ≠ n]``. The search is exact. A tied vote goes to
    the class whose voters are nearer.

    Args:
        statistic: ``FeatureSample``; or pass features (N, D) and labels (N,). More than 20 000
            examples are sampled by a hash of their content.
        k: neighbours that vote.
        distance: ``"cosine"`` or ``"l2"`` (about the mean).

    Returns:
        Accuracy in [0, 1] with its binomial standard error, or R²; higher is better.

    Raises:
        InvalidInputError: fewer than ``k + 1`` examples, or an unknown distance.

    Failure modes:
        - Near-duplicates (frames of one film, crops of one picture) find each other, and the
          accuracy is too high for every model.
        - A class with no more than k / 2 examples can hardly win a vote; take a smaller ``k``.
        - Cosines are taken about the origin: features with a large common offset all look alike,
          and shifting X changes the score; ``distance="l2"`` does not mind.
        - It is an accuracy: when all models reach nearly 1, or on few examples, they tie.

    Source: Renggli et al. (2022), who take the error of the nearest neighbour for a proxy.

    Cost: O(n² D) time, O(n (D + k)) memory.

    >>> knn([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], [0, 0, 1, 1], k=1)
    1.0
    """
    import faiss

    if distance not in ("cosine", "l2"):
        raise InvalidInputError(f"distance must be 'cosine' or 'l2', not {distance!r}")
    if not 1 <= k < statistic.n:
        raise InvalidInputError(
            f"k={k} neighbours cannot be found among {statistic.n} examples; use a k from 1 to "
            f"{statistic.n - 1}"
        )
    statistic = statistic.ordered  # ties are broken by position
    x = statistic.x.cpu()
    x = torch.nn.functional.normalize(x, dim=1) if distance == "cosine" else x - x.mean(dim=0)
    if not bool((x != x[0]).any()):
        raise InvalidInputError("all rows of X are equal; no example is nearer than another")
    rows = np.ascontiguousarray(x.numpy(), dtype=np.float32)
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    _, found = index.search(rows, k + 1)
    found = _without_self(found)
    if statistic.num_classes:
        return _accuracy(found, statistic.y.numpy(), statistic.num_classes)
    return Estimate(_r2(found, statistic.y.numpy()))


def _without_self(found: np.ndarray) -> np.ndarray:
    """Drop each row's own index; among duplicates it may be missing, then the last goes."""
    own = found == np.arange(len(found))[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(len(found), -1)


def _accuracy(found: np.ndarray, labels: np.ndarray, num_classes: int) -> Estimate:
    n, k = found.shape
    votes = np.zeros((n, num_classes))
    # Nearer voters weigh a little more, too little to outvote anybody.
    weights = 1.0 + (k - np.arange(k)) / (2.0 * k * (k + 1))
    np.add.at(votes, (np.arange(n)[:, None], labels[found]), weights)
    accuracy = float((votes.argmax(axis=1) == labels).mean())
    return Estimate.of_proportion(accuracy, n)


def _r2(found: np.ndarray, targets: np.ndarray) -> float:
    residual = ((targets - targets[found].mean(axis=1)) ** 2).sum(axis=0)
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    if (spread == 0).any():
        raise InvalidInputError("a regression target is constant; there is nothing to predict")
    return float((1.0 - residual / spread).mean())
