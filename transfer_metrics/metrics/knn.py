"""Leave-one-out accuracy of nearest neighbours, which are found exactly."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import Estimate, register_metric, varying
from transfer_metrics.statistics import FeatureSample

_EPS = torch.finfo(torch.float64).eps
# Unit vectors that differ by less have lost half of their digits.
_FEW_DIGITS = 1e-8
# Distances of one row that differ by less than this share are the same.
_SAME = 1e-10
# Numbers in a block of distances, and in a block of rows that stays in the processor's cache.
_DISTANCES, _ROWS = 1 << 22, 1 << 17


@register_metric(
    requires="examples",
    tasks=("classification", "regression", "multilabel"),
    reference="Renggli et al., Which Model to Transfer?, CVPR 2022",
    invariant=("scale", "rotation"),
)
def knn(
    statistic: FeatureSample, *, k: int = 5, distance: str = "cosine", balanced: bool = False
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
    if distance not in ("cosine", "l2"):
        raise InvalidInputError(f"distance must be 'cosine' or 'l2', not {distance!r}")
    if not 1 <= k < statistic.n:
        raise InvalidInputError(
            f"k={k} neighbours cannot be found among {statistic.n} examples; use a k from 1 to "
            f"{statistic.n - 1}"
        )
    x, y = statistic.x.cpu(), statistic.y.cpu().numpy()
    cosine = distance == "cosine"
    if cosine:
        directions, zero = _directions(x)
        found = _neighbours(directions.numpy(), k, slack=16.0 * _EPS, apart=zero.numpy())
    else:
        found = _neighbours(x.contiguous().numpy(), k)
    if statistic.num_classes:
        credit = np.empty(statistic.n)
        for near in found:
            credit[near.rows] = _credit(near, y, k, statistic.num_classes)
        if not balanced:
            return Estimate.of_proportion(float(credit.sum()) / statistic.n, statistic.n)
        of_class = [credit[y == code] for code in np.unique(y)]
        parts = [Estimate.of_proportion(float(c.mean()), len(c)) for c in of_class]
        error = np.sqrt(sum(part.stderr**2 for part in parts)) / len(parts)
        return Estimate(float(np.mean(parts)), float(error))
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


def _shares(near: _Neighbours, weights: np.ndarray) -> np.ndarray:
    """What each neighbour gets of the weights of the ranks 1 … k: ties share theirs equally."""
    held = np.concatenate([[0.0], np.cumsum(weights)])
    k = len(weights)
    size = near.last - near.first
    return (held[np.minimum(near.last, k)] - held[np.minimum(near.first, k)]) / size


def _credit(near: _Neighbours, labels: np.ndarray, k: int, num_classes: int) -> np.ndarray:
    """For each row the share of the winning classes that is the true one."""
    # Whole numbers, so that equal votes are equal.
    shares = _shares(near, 2.0 * k * (k + 1) + np.arange(k, 0, -1))
    cells = near.of * num_classes + labels[near.found]
    votes = np.bincount(cells, shares, len(near.rows) * num_classes).reshape(-1, num_classes)
    won = votes >= votes.max(axis=1, keepdims=True) * (1.0 - 1e-12)
    right = won[np.arange(len(won)), labels[near.rows]]
    return right / won.sum(axis=1)


def _means(near: _Neighbours, targets: np.ndarray, k: int) -> np.ndarray:
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


@dataclass(frozen=True)
class _Neighbours:
    """The nearest rows of some rows, with all that are as near as the k-th."""

    rows: np.ndarray  # row numbers, (B,)
    of: np.ndarray  # position in ``rows`` of the row that each belongs to, ascending, (P,)
    found: np.ndarray  # row number of each neighbour, (P,)
    first: np.ndarray  # how many neighbours of the same row are nearer, (P,)
    last: np.ndarray  # how many are nearer or at the same distance, (P,)


def _neighbours(
    x: np.ndarray, k: int, slack: float = 0.0, apart: np.ndarray | None = None
) -> Iterator[_Neighbours]:
    """The k nearest other rows of each row by Euclidean distance, and those that tie with the k-th.

    Faiss finds candidates in float32, in which a squared distance ``s`` of centred rows is off by
    no more than ``g (‖a‖ + ‖b‖)²``, ``g = (D + 16) 2⁻²⁴``, whatever the order of the sums. Where
    that leaves room for a row that is no candidate, all distances of the row are computed in
    float64, with ``2⁻⁵³`` for ``2⁻²⁴``. What remains within the bound is measured as
    ``Σ (a - b)²`` in float64, which does not cancel, and ranked by that.

    Rows are (N, D), float64 and C-contiguous. Distances that differ by no more than ``slack``, or
    ``_SAME`` of their size, are the same. Rows that are ``apart``, (N,) bool, are as far from every
    other row as from any, whatever ``x`` says of them among each other.

    >>> [found] = _neighbours(np.array([[0.0], [1.0], [2.0], [5.0]]), 1)
    >>> found.of.tolist(), found.found.tolist(), found.last.tolist()
    ([0, 1, 1, 2, 3], [1, 0, 2, 1, 2], [1, 2, 2, 1, 1])
    """
    import faiss

    n, dim = x.shape
    with np.errstate(over="ignore", invalid="ignore"):
        centre, spread = x.mean(axis=0), float((x.max(axis=0) - x.min(axis=0)).max())
    if not (np.isfinite(centre).all() and math.isfinite(spread)):
        raise InvalidInputError("X has values too large for distances in float64; rescale it")
    if spread == 0:
        raise InvalidInputError("all rows of X are equal; no example is nearer than another")
    # A power of two, so that no digit changes and no square under- or overflows.
    scale = math.ldexp(1.0, -min(max(math.frexp(spread)[1], -1000), 1000))
    rows, squares = np.empty(x.shape, dtype=np.float32), np.empty(n)
    for block in _slices(n, _ROWS // dim):
        centred = (x[block] - centre) * scale
        rows[block] = centred
        squares[block] = np.einsum("ij,ij->i", centred, centred)
    bound = _Bound(squares, slack * scale, (dim + 16) * 2.0**-24, dim * 2.0**-126)
    width = min(2 * k + 16, n)
    index = faiss.IndexFlatL2(dim)
    index.add(rows)
    rough, candidates = index.search(rows, width)
    del index, rows
    rough[candidates == np.arange(n)[:, None]] = np.inf
    rough[candidates < 0] = np.inf
    limit = bound(np.partition(rough, k - 1, axis=1)[:, k - 1], np.arange(n))
    farthest = np.where(np.isfinite(rough), rough, -np.inf).max(axis=1)
    complete = (farthest > limit) | (width == n)
    asked = np.ones(n, dtype=bool) if apart is None else ~apart
    for block in _slices(n, _DISTANCES // width // 4):
        chosen = np.flatnonzero(complete[block] & asked[block]) + block.start
        of, column = np.nonzero(rough[chosen] <= np.minimum(limit, 1e300)[chosen, None])
        found = candidates[chosen[of], column]
        distances = _distances(x, chosen[of], found, scale)
        yield _ranked(chosen, of, found, distances, k, slack * scale)
    for block in _slices(n, _DISTANCES // n):
        if not asked[block].all():
            yield _all_tied(np.flatnonzero(~asked[block]) + block.start, n)
    rest = np.flatnonzero(~complete & asked)
    if not len(rest):
        return
    centred = (x - centre) * scale
    first = _first_equal(x)
    bound = _Bound(squares, slack * scale, (dim + 16) * 2.0**-53, 0.0)
    for block in _slices(len(rest), _DISTANCES // n):
        chosen = rest[block]
        table = squares[chosen, None] + squares - 2.0 * (centred[chosen] @ centred.T)
        table[np.arange(len(chosen)), chosen] = np.inf
        limit = bound(np.partition(table, k - 1, axis=1)[:, k - 1], chosen)
        of, found = np.nonzero(table <= limit[:, None])
        # Rows that occur often are measured once.
        pairs, place = np.unique(first[chosen[of]] * n + first[found], return_inverse=True)
        distances = _distances(x, pairs // n, pairs % n, scale)[place]
        yield _ranked(chosen, of, found, distances, k, slack * scale)


@dataclass(frozen=True)
class _Bound:
    """Up to which rough squared distance a row as near as the k-th can lie.

    A row b at a true squared distance s of a has ``‖b‖ <= ‖a‖ + √s``, so its rough one is off by at
    most ``g (2 ‖a‖ + √s)² <= g (8 ‖a‖² + 2 s)``. The k smallest rough ones bound the true k-th.
    """

    squares: np.ndarray
    slack: float
    g: float
    tiny: float

    def __call__(self, kth: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self.g > 0.1:
            return np.full(len(rows), np.inf)
        error = 8.0 * self.g * self.squares[rows] + self.tiny
        highest = (np.maximum(kth.astype(np.float64), 0.0) + error) / (1.0 - 2.0 * self.g)
        highest = (np.sqrt(highest) * (1.0 + 2.0 * _SAME) + self.slack) ** 2
        return highest * (1.0 + 2.0 * self.g) + error


def _distances(x: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float) -> np.ndarray:
    """Scaled Euclidean distances of pairs of rows: the differences are exact but for rounding."""
    found = np.empty(len(left))
    for block in _slices(len(left), _ROWS // x.shape[1]):
        difference = x[left[block]]
        difference -= x[right[block]]
        difference *= scale
        found[block] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(found, out=found)


def _ranked(
    rows: np.ndarray,
    of: np.ndarray,
    found: np.ndarray,
    distances: np.ndarray,
    k: int,
    slack: float,
) -> _Neighbours:
    """Sort the neighbours of each row, leave out those beyond the k-th, and find ties."""
    order = np.lexsort((distances, of))
    of, found, distances = of[order], found[order], distances[order]
    start = np.searchsorted(of, np.arange(len(rows)))
    kth = distances[start + k - 1]
    kept = distances <= (kth * (1.0 + _SAME) + slack)[of]
    of, found, distances = of[kept], found[kept], distances[kept]
    gap = np.diff(distances, prepend=-np.inf)
    new = np.diff(of, prepend=-1).astype(bool) | (gap > _SAME * distances + slack)
    ends = np.append(np.flatnonzero(new), len(of))
    group = np.cumsum(new) - 1
    start = np.searchsorted(of, np.arange(len(rows)))[of]
    return _Neighbours(rows, of, found, ends[group] - start, ends[group + 1] - start)


def _all_tied(rows: np.ndarray, n: int) -> _Neighbours:
    """All other rows are the nearest of these."""
    of, found = np.nonzero(rows[:, None] != np.arange(n))
    first = np.zeros(len(of), dtype=np.int64)
    return _Neighbours(rows, of, found, first, first + (n - 1))


def _first_equal(x: np.ndarray) -> np.ndarray:
    """For each row the number of the first row that equals it bit for bit, (N,)."""
    whole = np.ascontiguousarray(x).view(np.dtype((np.void, x.strides[0]))).ravel()
    _, first, group = np.unique(whole, return_index=True, return_inverse=True)
    return first[group]


def _slices(n: int, size: int) -> Iterator[slice]:
    size = max(size, 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
