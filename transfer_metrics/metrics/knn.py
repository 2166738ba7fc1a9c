"""Leave-one-out accuracy of nearest neighbours."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import Estimate, register_metric
from transfer_metrics.metrics.neighbours import Neighbours, neighbours
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.inputs import varying

_EPS = torch.finfo(torch.float64).eps
# Unit vectors that differ by less have lost half of their digits.
_FEW_DIGITS = 1e-8


@register_metric(
    requires="examples",
    tasks=("classification", "regression", "multilabel"),
    reference="Renggli et al., Which Model to Transfer?, CVPR 2022",
    invariant=("scale", "rotation"),
)
def knn(
    statistic: FeatureSample,
    *,
    k: int = 5,
    distance: Literal["cosine", "l2"] = "cosine",
    balanced: bool = False,
) -> Estimate:
    """Leave-one-out accuracy of the k nearest neighbours; R² of their mean in regression.

    ``(1/n) Σ_i [y_i = vote of the k nearest x_j, j ≠ i]`` over the n examples that are read: all
    N, or 20 000 of them, by which the standard error goes too. The neighbour of rank r = 1 … k has
    ``1 + (k + 1 - r) / (2 k (k + 1))`` votes: a little more for the nearer, too little to outvote
    anybody. Examples at the same distance share the votes of their ranks equally, also where the
    k-th neighbour is one of them and more of them lie beyond it, and of m classes with the most
    votes each is right by 1/m. In regression every rank weighs the same.

    Of several labels per example it is the mean over the labels of R² of the share of neighbours
    that have the label, 1 less its Brier score over that of the label's frequency: Brier's skill
    score, of binary relevance. Labels that all examples have, or none, do not count. The vote
    itself would be right wherever a label is rare.

    The search is exact: it equals float64 brute force on any features, with a large common offset,
    a huge feature or tiny ones too, and changes neither with names of labels nor with the order of
    rows or features. Distances are the same where they differ by less than 1e-10 of their size
    (cosine: or by rounding of unit vectors). A row of zeros has cosine 0 with all
    others, rows of zeros among them.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).
        k: neighbours that vote.
        distance: ``"cosine"`` or ``"l2"``.
        balanced: balanced accuracy, the mean over the classes of the accuracy on each; rankings by
            the default metrics have it beside accuracy where the largest class has three times
            the examples of the smallest.

    Returns:
        Accuracy in [0, 1] with its binomial standard error, or the mean of R² over targets or
        labels; higher is better.

    Raises:
        InvalidInputError: fewer than ``k + 1`` examples, an unknown distance, or examples that are
            all equal (cosine: that all point in one direction).

    Warns:
        TransferMetricsWarning: a common offset leaves the cosines fewer than eight digits.

    Failure modes:
        - Near-duplicates (frames of one film, crops of one picture) find each other, and the
          accuracy is too high for every model.
        - A class with no more than k / 2 examples can hardly win a vote; take a smaller ``k``.
        - Cosines are taken about the origin: features with a large common offset all look alike,
          and shifting X changes the score; ``distance="l2"`` does not mind.
        - The accuracy counts large classes more; ``balanced=True`` counts all the same, and is the
          less certain the rarer a class is.
        - It is an accuracy: when all models reach nearly 1, or on few examples, they tie.

    Source: Renggli et al. (2022), who take the error of the nearest neighbour for a proxy.

    Cost: O(n² D) time in float32, in float64 for examples with many neighbours at nearly the same
    distance; O(n (D + k)) memory.

    >>> knn([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], [0, 0, 1, 1], k=1)
    1.0
    >>> knn([[0.0], [1.0], [2.0]], [0, 0, 1], k=1, distance="l2")  # 1.0 is as near to both
    0.5
    """
    if not 1 <= k < statistic.n:
        raise InvalidInputError(
            f"k={k} neighbours cannot be found among {statistic.n} examples; use a k from 1 to "
            f"{statistic.n - 1}"
        )
    x, y = statistic.x.cpu(), statistic.y.cpu().numpy()
    cosine = distance == "cosine"
    if cosine:
        directions, zero = _directions(x)
        found = neighbours(directions.numpy(), k, slack=16.0 * _EPS, apart=zero.numpy())
    else:
        found = neighbours(x.contiguous().numpy(), k)
    if statistic.num_classes:
        credit = np.empty(statistic.n)
        for near in found:
            credit[near.rows] = _credit(near, y, k, statistic.num_classes)
        if not balanced:
            share = float(credit.sum()) / statistic.n
            return Estimate.of_proportion(share, statistic.n, credit)
        codes, sizes = np.unique(y, return_counts=True)
        parts = [
            Estimate.of_proportion(float(credit[y == code].mean()), size)
            for code, size in zip(codes, sizes.tolist(), strict=True)
        ]
        error = np.sqrt(sum(part.stderr**2 for part in parts)) / len(parts)
        of_each = np.searchsorted(codes, y)
        shares = (credit - np.array(parts)[of_each]) / (len(parts) * sizes[of_each])
        return Estimate(float(np.mean(parts)), float(error), shares)
    if balanced:
        raise InvalidInputError("balanced=True is for classes; leave it out")
    predicted = np.empty_like(y)
    for near in found:
        predicted[near.rows] = _means(near, y, k)
    return Estimate(_r2(predicted, y))


def _directions(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of unit length, and which rows were zeros: those get an axis of their own.

    There they are at cosine 0 with all that are not zeros.
    """
    # In two steps, so that no square under- or overflows.
    largest = torch.linalg.vector_norm(x, ord=math.inf, dim=1, keepdim=True)
    zero = largest == 0
    z = x.contiguous() / torch.where(zero, 1.0, largest)
    z /= torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp_min(1.0)
    if bool(zero.any()):
        z = torch.cat([z, zero.to(z)], dim=1)
    spread = float((z.amax(dim=0) - z.amin(dim=0)).max())
    if spread <= 8.0 * _EPS:
        raise InvalidInputError(
            "all rows of X are equal, or multiples of one row; no cosine is larger than another: "
            "use distance='l2'"
        )
    if spread < _FEW_DIGITS:
        warn(
            f"knn: features have so large a common offset that unit vectors differ by {spread:.1g} "
            f"at most, near the rounding of float64; use distance='l2', or subtract the offset"
        )
    return z, zero[:, 0]


def _shares(near: Neighbours, weights: np.ndarray) -> np.ndarray:
    """What each neighbour gets of the weights of the ranks 1 … k: ties share theirs equally."""
    held = np.concatenate([[0.0], np.cumsum(weights)])
    k = len(weights)
    size = near.last - near.first
    return (held[np.minimum(near.last, k)] - held[np.minimum(near.first, k)]) / size


def _credit(near: Neighbours, labels: np.ndarray, k: int, num_classes: int) -> np.ndarray:
    """For each row the share of the winning classes that is the true one."""
    # Whole numbers, so that equal votes are equal.
    shares = _shares(near, 2.0 * k * (k + 1) + np.arange(k, 0, -1))
    cells = near.of * num_classes + labels[near.found]
    votes = np.bincount(cells, shares, len(near.rows) * num_classes).reshape(-1, num_classes)
    won = votes >= votes.max(axis=1, keepdims=True) * (1.0 - 1e-12)
    right = won[np.arange(len(won)), labels[near.rows]]
    return right / won.sum(axis=1)


def _means(near: Neighbours, targets: np.ndarray, k: int) -> np.ndarray:
    """Mean target of the neighbours of each row, (B, K)."""
    shares = _shares(near, np.full(k, 1.0 / k))
    sums = [
        np.bincount(near.of, shares * column[near.found], len(near.rows)) for column in targets.T
    ]
    return np.stack(sums, axis=1)


def _r2(predicted: np.ndarray, targets: np.ndarray) -> float:
    chosen = varying(targets)
    predicted, targets = predicted[:, chosen], targets[:, chosen]
    residual = ((targets - predicted) ** 2).sum(axis=0)
    spread = ((targets - targets.mean(axis=0)) ** 2).sum(axis=0)
    return float((1.0 - residual / spread).mean())
