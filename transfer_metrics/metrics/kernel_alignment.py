"""LFC and PARC: whether examples that are alike have the same label."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import ClassMoments, FeatureSample
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.linalg import product

# Distances are rounded to this, so that those equal but for rounding tie.
_GRID = 1e-12
# Scores this symmetric have no sign of their own beyond rounding.
_SYMMETRIC = 1e-9
# Distances computed at once, and distances sorted at once.
_BLOCK = 2**20
_MOST_PAIRS = 2**23


def _slopes(influence: Influence, *, center: bool) -> Tensor | None:
    """What LFC loses without each block of examples, exactly: all it reads is of second degree."""
    whole, total = influence.whole, influence.whole.total
    if len(whole.present) < 2 or total.trace() <= 0:
        return None
    joint, sums, left = influence.of_itself().tolist(), influence.sums, []
    kept = [influence.without(b) for b in range(len(influence.blocks))]
    means = torch.stack([counts @ means / counts.sum() for counts, means in kept])
    stretches, whole_norm = total.times(means.T).T, total.square_norm()
    for b, (counts, of_class) in enumerate(kept):
        present, size, mean = counts > 0, float(counts.sum()), means[b]
        if int(present.sum()) < 2:
            return None
        rows = counts[present].sqrt()[:, None] * (of_class[present] - mean)
        # The block about the mean of all, and what the mean moves by without it.
        norm, (shifted, along) = influence.squares(b, torch.stack([sums[b], mean], dim=1))
        rest = whole_norm - 2.0 * joint[b] + norm
        square = float(sums[b] @ sums[b])
        rest += (2.0 * (shifted - sums[b] @ total.times(sums[b])) + square**2 / size) / size
        stretch = float(mean @ stretches[b]) - along - float(sums[b] @ mean) ** 2 / size
        origin, stretch = (0.0 * mean, 0.0) if center else (mean, stretch)
        left.append(_correlation(counts[present], rows, origin, float(rest), stretch))
    return influence.left_out(lfc(whole, center=center), left)


@register_metric(
    derivative=_slopes,
    reference=(
        "Deshpande et al., A linearized framework and a new benchmark for model selection for "
        "fine-tuning, 2021"
    ),
    invariant=("scale", "rotation"),
)
def lfc(statistic: ClassMoments, *, center: bool = False) -> float:
    """Label-feature correlation: Pearson correlation of all entries of ``X X'`` and ``L``.

    ``L_ij`` is 1 where ``y_i = y_j`` and -1 elsewhere; the diagonals count. With class counts n_c,
    ``Q = Σ n_c²``, offsets ``d_c = m_c - m`` and the scatter S about the mean m, it equals

        N (Σ n_c² ‖d_c‖² + 2 m'Σ n_c² d_c) / √((‖S‖² + 2 N m'S m) Q (N² - Q)),

    which needs no N x N matrix. The two terms under the root cannot cancel and balanced classes
    leave nothing of the second above, so a large mean costs no digits beyond those it costs the
    features themselves.

    The published form does not centre X; ``center=True`` puts m = 0.

    Args:
        statistic: ``ClassMoments``; or pass features (N, D) and labels (N,).
        center: subtract the mean from the features first.

    Returns:
        Correlation in [-1, 1]; higher is better.

    Raises:
        InvalidInputError: one class only, or features that are constant but for rounding.

    Failure modes:
        - Without ``center=True`` a large mean outweighs what the classes share, and adding a vector
          to every row changes the score, from 0.40 to -0.01 in one case.
        - Large classes weigh with the square of their size.
        - A few directions of large variance decide: it sees no others.

    Source: Deshpande et al. (2021), label-feature correlation.

    Cost: O(D min(N, D) + C D) beyond the total scatter and its smaller Gram matrix.

    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> round(lfc(x, y), 6), round(lfc(x, y, center=True), 6)
    (0.165105, 0.663314)
    """
    present, total = statistic.present, statistic.total
    if len(present) < 2:
        raise InvalidInputError("LFC needs at least two classes with examples")
    mean = torch.zeros_like(statistic.mean) if center else statistic.mean
    if total.trace() <= 0:
        raise InvalidInputError("all features are constant; LFC is 0/0")
    counts = statistic.counts[present].to(mean)
    rows = statistic.between_rows[present]
    along = total.data @ mean
    stretch = float(mean @ along if total.dense else along.square().sum())
    return _correlation(counts, rows, mean, total.square_norm(), stretch)


def _correlation(counts: Tensor, rows: Tensor, mean: Tensor, norm: float, stretch: float) -> float:
    """LFC of class counts, rows ``√n_c d_c``, the mean m, ``‖S‖²`` and ``m'S m``."""
    sizes = [int(c) for c in counts]
    n = sum(sizes)
    same_pairs = sum(c**2 for c in sizes)
    different_pairs = sum(c * (n - c) for c in sizes)
    # Σ n_c d_c = 0, so that a constant weight may be taken off n_c: equal sizes leave nothing.
    lean = ((counts - same_pairs / n) * counts.sqrt()) @ rows
    joint = float(counts @ rows.square().sum(dim=1) + 2.0 * mean @ lean)
    variation = norm + 2.0 * n * max(stretch, 0.0)
    return joint * n / math.sqrt(variation) / math.sqrt(same_pairs) / math.sqrt(different_pairs)


@register_metric(
    requires="examples",
    reference=(
        "Bolya et al., Scalable Diverse Model Selection for Accessible Transfer Learning, "
        "NeurIPS 2021"
    ),
    invariant=("scale", "shift", "rotation"),
)
def parc(
    statistic: FeatureSample,
    *,
    dim: int = 32,
    distance: Literal["correlation", "cosine"] = "correlation",
    limit: int = 2000,
    seed: int = 0,
) -> float:
    """PARC: 100 x Spearman correlation of the distances of features with those of labels.

    Over all pairs of examples; distances of features are ``1 - corr(z_i, z_j)`` of the d leading
    principal component scores z, each divided by its standard deviation; distances of labels are
    ``1 - corr`` of one-hot labels, which take two values, so that the correlation follows from the
    ranks of the pairs with different labels. Ties have average ranks; distances are rounded to
    1e-12 first, so that equal ones tie.

    A correlation across components changes when one of them changes its sign, which principal
    components leave open: on iris the choices give 32.6 to 47.8, and the published code takes what
    its solver gives. Here each component points to where its scores are skewed, ``Σ z³ > 0``, which
    neither the order of the rows nor a rotation of the features changes. One that is symmetric to
    rounding takes the sign of its first score in the order of the examples' hashes.

    Components and signs are those of all n examples. Above ``limit`` examples, the pairs are those
    of a seeded uniform draw from the examples in the order of their hashes: the same for any order
    of the rows.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).
        dim: principal components kept; fewer where the features have a smaller rank.
        distance: ``"correlation"``, or ``"cosine"``, which does not subtract the mean of z_i.
        limit: the most examples whose pairs are ranked.
        seed: draws the examples above ``limit``.

    Returns:
        Correlation times 100, in [-100, 100]; higher is better. An example whose scores are all
        equal (cosine: zero) correlates with none, distance 1, with a warning.

    Raises:
        InvalidInputError: no two examples drawn share a class, or none differ; constant features,
            or for correlations features of rank 1; equal distances; an option out of range.

    Failure modes:
        - Where a component is nearly symmetric its sign, and with it the score, is at the mercy of
          single examples; components with equal variances have no axes of their own.
          ``distance="cosine"`` is the same for all signs and rotations.
        - With ``dim=2`` all correlations are 1 or -1.
        - Above ``limit`` examples any change of the features, by scaling or rotation too, draws
          other pairs.

    Source: Bolya et al. (2021); the components are exact, where the published code takes an
    approximate decomposition.

    Cost: O(min(N, D)³) for the principal components, shared with other metrics; O(n D d); and for
    ``l = min(n, limit)`` O(l² (d + log l)) time and O(min(l², 8·10⁶)) memory: above, the range of
    distances is cut into slices and each is computed and sorted in turn.

    >>> from sklearn.datasets import load_iris
    >>> round(parc(*load_iris(return_X_y=True)), 4)
    32.5934
    """
    if dim < 1 or limit < 3:
        raise InvalidInputError(f"parc needs dim >= 1 and limit >= 3, not {dim!r} and {limit!r}")
    scores, labels = _scores(statistic, dim).cpu().numpy(), statistic.y.cpu().numpy()
    least = 2 if distance == "correlation" else 1
    if scores.shape[1] < least:
        raise InvalidInputError(
            f"parc has {scores.shape[1]} principal components (dim={dim}) and needs {least}; "
            "look for constant features, or use distance='cosine' for one component"
        )
    if statistic.n > limit:
        drawn = np.random.default_rng(seed).choice(statistic.n, limit, replace=False)
        chosen = np.argsort(statistic.keys, kind="stable")[drawn]
        scores, labels = scores[chosen], labels[chosen]
    if distance == "correlation":
        scores = scores - scores.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(scores, axis=1)
    alone = lengths <= _SYMMETRIC * math.sqrt(scores.shape[1])
    if alone.any():
        warn(
            f"PARC: {int(alone.sum())} of {len(alone)} examples have no direction (all principal "
            f"component scores are equal); they count as uncorrelated with all others"
        )
    directions = np.where(alone, 0.0, 1.0 / np.where(alone, 1.0, lengths))[:, None] * scores
    return 100.0 * _rank_correlation(directions, labels, seed)


def _scores(statistic: FeatureSample, dim: int) -> Tensor:
    """Principal component scores of unit variance and positive skewness, (n, d)."""
    moments = statistic.moments
    values, vectors = moments.total.eigh
    basis = vectors[:, :dim] * (statistic.n / values[:dim]).sqrt()
    scores = product(statistic.x, basis).sub_(moments.mean @ basis)
    cubes = scores.square().mul_(scores)
    skew, size = cubes.sum(dim=0), cubes.abs_().sum(dim=0)
    symmetric = skew.abs() <= _SYMMETRIC * size
    if bool(symmetric.any()):
        first = torch.from_numpy(np.argsort(statistic.keys, kind="stable")).to(scores.device)
        columns = scores[first][:, symmetric]
        row = (columns.abs() > _SYMMETRIC).to(torch.uint8).argmax(dim=0, keepdim=True)
        skew[symmetric] = columns.gather(0, row)[0]
    return scores.mul_(torch.where(skew < 0, -1.0, 1.0).to(scores))


def _rank_correlation(directions: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """Spearman correlation over all pairs of ``1 - z_i'z_j`` and ``y_i ≠ y_j``."""
    n = len(labels)
    pairs = n * (n - 1) // 2
    same = sum(int(c) * (int(c) - 1) // 2 for c in np.bincount(labels))
    if same in (0, pairs):
        raise InvalidInputError(
            f"of the {n} examples that parc compares, no two {'differ in' if same else 'share a'} "
            f"class; it needs both kinds of pairs"
        )
    below, joint, spread = 0, 0.0, 0.0
    for lower, upper in itertools.pairwise(_edges(directions, pairs, seed)):
        tied, different = _counts(directions, labels, lower, upper)
        ranks = below + np.cumsum(tied) - (tied - 1) / 2.0 - (pairs + 1) / 2.0
        joint += float((different * ranks).sum())
        spread += float((tied * ranks**2).sum())
        below += int(tied.sum())
    if spread == 0:
        raise InvalidInputError("all distances of examples are equal; PARC is 0/0")
    return joint / math.sqrt(spread * same * ((pairs - same) / pairs))


def _edges(directions: np.ndarray, pairs: int, seed: int) -> list[float]:
    """Bounds of slices of the distances with about ``MOST_PAIRS`` in each, in units of ``GRID``."""
    slices = -(-pairs // _MOST_PAIRS)
    inner = np.empty(0)
    if slices > 1:
        left, right = np.random.default_rng(seed).integers(len(directions), size=(2, 2**15))
        sample = np.sort(1.0 - np.einsum("ij,ij->i", directions[left], directions[right])) / _GRID
        # Between the points of the grid, so that ties stay together.
        inner = np.unique(np.floor(sample[np.arange(1, slices) * len(sample) // slices])) + 0.5
    return [-math.inf, *inner.tolist(), math.inf]


def _counts(
    directions: np.ndarray, labels: np.ndarray, lower: float, upper: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of each distinct distance in a slice, ascending: all pairs, and those that differ in class.

    Each block is reduced to its distinct distances at once, so that ties take no memory.
    """
    n = len(labels)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        stop = min(start + step, n)
        steps = np.rint((1.0 - directions[start:stop] @ directions[start:].T) / _GRID)
        wanted = np.arange(start, n) > np.arange(start, stop)[:, None]
        if math.isfinite(lower) or math.isfinite(upper):
            wanted &= (steps > lower) & (steps < upper)
        different = (labels[start:stop, None] != labels[start:])[wanted]
        keys = 2 * steps[wanted].astype(np.int64) + different
        found.append(np.unique(keys, return_counts=True))
    keys, tied = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, tied = keys[order], tied[order]
    starts = np.flatnonzero(np.diff(keys >> 1, prepend=(keys[:1] >> 1) - 1))
    return np.add.reduceat(tied, starts), np.add.reduceat(tied * (keys & 1), starts)
