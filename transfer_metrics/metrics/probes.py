"""Linear probes: what a linear model on frozen features would reach."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import Estimate, register_metric
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.inputs import varying
from transfer_metrics.statistics.linalg import product
from transfer_metrics.threads import side_by_side, threads_for

# Strengths relative to tr(X'X) / min(N - 1, D) of the centred X, so that scale does not matter.
_RIDGE_PATH = tuple(10.0**e for e in range(-8, 4))
# Numbers in a block of rows: 8 MB.
_BLOCK = 1 << 20
# Relative rounding of squared errors.
_ROUNDING = 1e-9


@register_metric(
    requires="examples",
    parts=("spectrum",),
    tasks=("classification", "regression", "multilabel"),
    reference="Allen, The Relationship between Variable Selection and Data Augmentation, 1974",
    invariant=("scale", "shift", "rotation"),
)
def ridge_probe(statistic: FeatureSample, *, strengths: Sequence[float] = _RIDGE_PATH) -> Estimate:
    """Exact leave-one-out accuracy of ridge regression on one-hot labels; R² in regression.

    With an intercept. One eigendecomposition serves every strength and every left-out example:
    the residual of example n without itself is ``e_n / (1 - h_nn)``. The strength with the
    smallest squared leave-one-out error (PRESS) is used. Several labels per example, each 0 or 1,
    are targets, and the score is the mean over labels of R², Brier's skill score of a linear
    prediction; labels that all examples have, or none, do not count.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features with labels or targets.
        strengths: penalties, as multiples of ``tr(X'X) / min(N - 1, D)`` of the centred X: of the
            mean of those eigenvalues of ``X'X`` that can differ from 0.

    Returns:
        Accuracy in [0, 1] with its binomial standard error, or the mean of R² over targets or
        labels; higher is better.

    Raises:
        InvalidInputError: one class only, constant features, or strengths that are not positive.

    Failure modes:
        - Near-duplicates stand in for the example that is left out, and the accuracy is too high.
        - The strength is chosen by the squared error, which a large class dominates; with rare
          classes the accuracy says little about them.
        - Classes that are not linearly separable, but would be after fine-tuning, count as lost.

    Source: Allen (1974); Golub, Heath and Wahba (1979).

    Cost: O(n D min(n, D) + n L min(n, D)) for L strengths, and O(n D C) for each that bounds do not
    rule out, mostly one to three; memory beside the sample and its decomposition is 100 MB, as rows
    are taken in blocks.

    >>> from sklearn.datasets import load_iris
    >>> round(ridge_probe(*load_iris(return_X_y=True)), 4)
    0.84
    """
    if not len(strengths) or not all(s > 0 for s in strengths):
        raise InvalidInputError("strengths must be positive numbers")
    targets = _targets(statistic)
    if not len(statistic.moments.total.eigh[0]):
        raise InvalidInputError("all features are constant; a probe has nothing to learn from")
    strengths = sorted(strengths, reverse=True)
    if not statistic.num_classes:
        chosen = varying(statistic.y).to(targets.device)
        # Targets of any unit weigh alike.
        scales = torch.where(chosen, statistic.moments.spread.rsqrt(), 0.0)
        press, _ = _leave_one_out(statistic, targets, strengths, scales)
        return Estimate(float((1.0 - press)[chosen].mean()))
    scales = torch.ones_like(statistic.moments.target_mean)
    _, hits = _leave_one_out(statistic, targets, strengths, scales)
    hit = hits.double().cpu().numpy()
    return Estimate.of_proportion(float(hit.sum()) / statistic.n, statistic.n, hit)


def _leave_one_out(
    statistic: FeatureSample, targets: Tensor, strengths: Sequence[float], scales: Tensor
) -> tuple[Tensor, Tensor]:
    """Squared leave-one-out errors of each target (K,) at the best strength, and its hits (n,).

    Targets are multiplied by their ``scales`` (K,). A hit is a correct arg-max prediction. The
    leverages h of all strengths come from one product; the errors ``e`` of a strength only where it
    can be the best. ``Σ e² / (1 - h)²`` is at least ``Σ e²``, known from the moments, over the
    largest ``(1 - h)²``; and where the errors of another strength are known, no vector of errors is
    nearer to zero than those are, less the distance of the two, known from the moments too.
    """
    moments = statistic.moments
    n, dim = statistic.n, moments.dim
    sigma, vectors = moments.total.eigh
    # The mean over all min(N - 1, D) directions, dead ones included, ties the path to the scale.
    unit = float(sigma.sum()) / min(n - 1, dim)
    keep = sigma[:, None] / (sigma[:, None] + unit * sigma.new_tensor(strengths))
    basis = vectors / sigma.sqrt()
    # A leverage of one means the example is fitted by a direction of its own.
    apart = (1.0 - 1.0 / n - _leverages(statistic, basis, keep)).clamp_min_(1e-9)
    weights = apart.square().reciprocal_()
    fits = product(basis.T, moments.cross) * scales
    reached = fits.square().sum(dim=1)
    missed = float(((moments.spread * scales.square()).sum() - reached.sum()).clamp_min(0.0))
    squares = missed + reached @ (1.0 - keep).square()
    bounds = (squares * weights.amin(dim=0)).sqrt()
    found: dict[int, tuple[float, Tensor, Tensor]] = {}
    # By generalised cross-validation, which is seldom wrong, so that few are left after the first.
    todo = (squares / apart.mean(dim=0).square()).argsort().tolist()
    while todo:
        one = todo.pop(0)
        lengths, press, hits = _errors(
            statistic, targets, scales, product(basis, keep[:, one, None] * fits), apart[:, one]
        )
        found[one] = float(press.sum()), press, hits
        moved = (reached @ (keep - keep[:, one, None]).square() * weights.amax(dim=0)).sqrt()
        bounds = torch.maximum(bounds, (lengths @ weights).sqrt() - moved * (1.0 + _ROUNDING))
        least = min(total for total, _, _ in found.values()) * (1.0 + _ROUNDING)
        todo = [other for other in todo if float(bounds[other]) ** 2 <= least]
    _, press, hits = found[min(found, key=lambda one: (found[one][0], one))]
    return press, hits


def _leverages(statistic: FeatureSample, basis: Tensor, keep: Tensor) -> Tensor:
    """``Σ_i (x - mean)'b_i² k_il`` for each example and strength, (n, L)."""
    mean = statistic.moments.mean
    blocks = statistic.x.split(max(_BLOCK // len(mean), 1))

    def of(x: Tensor) -> Tensor:
        return product(product(x - mean, basis).square_(), keep)

    return torch.cat(side_by_side(of, blocks))


def _errors(
    statistic: FeatureSample, targets: Tensor, scales: Tensor, weights: Tensor, apart: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of predictions by weights (D, K): ``Σ_k e²`` (n,), ``Σ_n (e / apart)²`` (K,), hits (n,)."""
    moments = statistic.moments
    rows = max(_BLOCK // max(weights.shape), 1)

    def of(block: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x, truth, left = block
        errors = (truth - moments.target_mean).mul_(scales).sub_(product(x - moments.mean, weights))
        lengths = errors.square().sum(dim=1)
        errors /= left[:, None]
        press = errors.square().sum(dim=0)
        hit = errors.neg_().add_(truth).argmax(dim=1) == truth.argmax(dim=1)
        return lengths, press, hit

    pieces = zip(statistic.x.split(rows), targets.split(rows), apart.split(rows), strict=True)
    found = side_by_side(of, list(pieces))
    lengths, press, hits = zip(*found, strict=True)
    return torch.cat(lengths), torch.stack(press).sum(dim=0), torch.cat(hits)


@register_metric(
    requires="examples",
    tasks=("classification", "regression"),
    reference="Kornblith et al., Do Better ImageNet Models Transfer Better?, CVPR 2019",
    invariant=("scale", "shift", "rotation"),
)
def linear_probe(
    statistic: FeatureSample,
    *,
    C: Sequence[float] = (0.01, 1.0, 100.0),
    folds: int = 5,
    seed: int = 0,
    max_iter: int = 200,
) -> Estimate:
    """Cross-validated accuracy of multinomial logistic regression; R² of ridge in regression.

    Each fold is predicted by ``argmin_{W,b} Σ_n -log softmax(W x_n + b)[y_n] + ‖W‖² / (2 C)``,
    fitted to the others. Features are divided by one number, their overall standard deviation,
    after centring, so that ``C`` means the same for every layer and rotations change nothing.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features with labels or targets.
        C: inverse strengths of the L2 penalty; the one with the best mean accuracy is reported.
        folds: stratified folds; fewer where the rarest class has fewer examples.
        seed: shuffles the folds, which are dealt by the distance of the examples from the mean
            (those as far as each other by products with all, then with their class).
        max_iter: rounds of L-BFGS per fit.

    Returns:
        Mean accuracy over folds with its standard error, or R²; higher is better.

    Raises:
        InvalidInputError: fewer than two classes with two examples each, constant features, or a C
            that is not positive.

    Failure modes:
        - A class with one example is refused: it cannot be in two folds. With fewer examples than
          folds in a class there are fewer folds, with a warning.
        - The reported accuracy is that of the best of three strengths on the same folds, a little
          optimistic; near-duplicates in different folds make it more so.
        - It is by far the slowest: take ``ridge_probe`` for many layers.

    Source: Kornblith et al. (2019), logistic regression on frozen features.

    Cost: ``folds · len(C)`` fits of O(max_iter · n D C) each.

    >>> from sklearn.datasets import load_iris
    >>> linear_probe(*load_iris(return_X_y=True)) > 0.95
    True
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score

    if not len(C) or not all(c > 0 for c in C):
        raise InvalidInputError("C must be positive numbers")
    _targets(statistic)
    x, y = statistic.x.cpu().numpy(), statistic.y.cpu().numpy()
    if (x == x[0]).all():
        raise InvalidInputError("all features are constant; a probe has nothing to learn from")
    x = x - x.mean(axis=0)
    # By a power of two first, so that no square over- or underflows and no digit changes.
    x *= math.ldexp(1.0, -min(max(math.frexp(float(np.abs(x).max()))[1], -1000), 1000))
    x /= x.std()
    order = _canonical_order(x, y, statistic.keys, statistic.num_classes)
    x, y = x[order], y[order]
    if statistic.num_classes:
        rarest = np.bincount(y, minlength=1)
        folds = min(folds, int(rarest[rarest > 0].min()))
        if folds < 2:
            raise InvalidInputError(
                "linear_probe needs two examples of every class to cross-validate; "
                "drop the rarer classes or use ridge_probe"
            )
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        models = [LogisticRegression(C=c, max_iter=max_iter) for c in C]
    else:
        splitter = KFold(min(folds, len(x)), shuffle=True, random_state=seed)
        models = [Ridge(alpha=1.0 / c) for c in C]
    with warnings.catch_warnings(), threads_for(x.size * max(statistic.num_classes, 1)):
        # Accuracy settles long before the last digits of the weights do.
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [cross_val_score(model, x, y, cv=splitter) for model in models]
    best = max(scores, key=lambda s: s.mean())
    return Estimate(float(best.mean()), float(best.std(ddof=1) / math.sqrt(len(best))))


def _canonical_order(
    x: np.ndarray, y: np.ndarray, keys: np.ndarray, num_classes: int
) -> np.ndarray:
    """An order of the rows that names of classes, axes and the order given have no part in.

    By length; of equal ones by ``x_nᵀ X'X x_n``, then by ``x_n`` times the mean of its class and by
    the size of that, or by the targets. Rows that are the same in all of it go by their keys.
    """
    if num_classes:
        sizes = np.bincount(y, minlength=num_classes)
        sums = np.stack([np.bincount(y, column, num_classes) for column in x.T], axis=1)
        of_class = np.einsum("ij,ij->i", x, sums[y]) / sizes[y]
        last = [of_class, sizes[y]]
    else:
        last = list(y.reshape(len(y), -1).T)
    lengths = np.linalg.norm(x, axis=1)
    values = [lengths, np.einsum("ij,ij->i", x @ (x.T @ x), x), *last]
    rounded = [np.round(v / max(np.abs(v).max(), 1e-300), 9) for v in values]
    return np.lexsort([keys, *reversed(rounded)])


def _targets(statistic: FeatureSample) -> Tensor:
    """One-hot labels of the classes that occur, or the regression targets: (n, K)."""
    if not statistic.num_classes:
        varying(statistic.y)
        return statistic.y.to(statistic.x.device)
    present, codes = torch.unique(statistic.y, return_inverse=True)
    if len(present) < 2:
        raise InvalidInputError("a probe needs at least two classes with examples")
    return torch.nn.functional.one_hot(codes).to(statistic.x)
