"""The coding rate of labels beyond chance: TransRate for features of unequal width."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import gammaln, logsumexp
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import ClassMoments
from transfer_metrics.statistics.influence import Influence


def _slopes(influence: Influence) -> Tensor | None:
    """Derivative of the label rate in the weights of blocks.

    The tilt is at a saddle point, so that with it kept the rate by chance moves as ``½ log det(I +
    tilt S / ε)``, to the second order of how far the number of directions in use is spread. That
    number less, the blocks without which a class is gone have other contrasts.
    """
    whole = influence.whole
    n, classes, total = whole.n, len(whole.present), whole.total
    if classes in (1, n):
        return torch.zeros_like(influence.n)
    scale = n / total.trace()
    energies = scale * total.eigenvalues.cpu().numpy()
    _, slopes, in_scale = influence.logdet1p(_tilt(energies, n, classes) * scale)
    _, within, within_in_scale = influence.logdet1p(scale, centred=True)
    moved = influence.n / n - influence.trace / total.trace()
    slopes = 0.5 * (slopes - within + (in_scale - within_in_scale) * moved)
    left = (whole.counts > influence.counts).sum(dim=1).tolist()
    for b, size in enumerate(influence.n.tolist()):
        if left[b] < classes < n - size:
            rates = [_chance_rate(energies, int(n - size), k) for k in (classes, left[b])]
            slopes[b] += (1.0 - size / n) * (rates[0] - rates[1])
    return slopes


@register_metric(
    derivative=_slopes,
    tasks=("classification", "regression"),
    bins=True,
    reference="ours, from the coding rate of Huang et al., ICML 2022",
    invariant=("scale", "shift", "rotation"),
)
def label_rate(statistic: ClassMoments) -> float:
    """Coding rate that the labels save beyond what random labels save: TransRate for any width.

    ``½ log E_π det(I + W_π / (n ε)) - ½ log det(I + W / (n ε))`` with ``W`` the scatter about the
    class means, ``E_π`` the mean over all permutations of the labels, and ``ε = tr(S) / n`` for n
    examples of covariance ``S``. It is ours and not the paper's. Natural logarithms: the unit is
    the nat. Regression targets are cut into ten quantile bins first, as for ``transrate``.

    Args:
        statistic: ``ClassMoments``, without per-class scatter; or pass features (N, D) and labels
            (N,).

    Returns:
        The score; higher is better, at most n / 2. Random labels get 0 at any width, more exactly
        ``E_π exp(-2 score) = 1``: their mean lies above 0 by about the variance of a score by
        chance, 0.0001 to 0.003 on the features of networks and 400 to 1 000 examples.

    Raises:
        InvalidInputError: all features are constant.

    Warns:
        TransferMetricsWarning: no class has two examples.

    Notes:
        It is TransRate, ``R(Z, ε) - R(Z | Y, ε)``, with what makes that grow with the width taken
        out, in three steps.

        - *One code for all classes.* TransRate describes each class by a covariance of its own, for
          which a class of n_c examples must estimate D² / 2 numbers. With n_c < D it finds each
          class in a space of n_c - 1 dimensions: the wider the features, the more room that seems
          to save, whatever the labels. Here the classes share the code, ``R(Z | Y, ε) = ½ log
          det(I + W / (n ε))``, and the label is told by the class means alone, as a linear head
          reads it. Two classes of equal size are no blind spot then.
        - *One budget.* With ``ε = tr(S) / n`` every model has the signal-to-noise ratio n, and
          ``R(Z, ε) ≤ n / 2`` whatever the width. A direction counts where all examples together
          vary in it by more than one example is long on average; what varies less, one example
          alone could have made. It is a rule and fitted to nothing: n is the same for all models.
        - *Less chance.* The mean of a determinant over permuted labels is known exactly. The
          centred vectors of n examples are an irreducible representation of the permutations, and
          so are its exterior powers; by Schur's lemma the mean over permutations of the k x k
          minors of a projection Q is a multiple of the identity. With Q of rank ``n - C`` off the
          class means and ``λ`` the eigenvalues of ``n S``, ``E_π det(I + W_π / (n ε))`` is
          ``Σ_i e_i(λ / (n ε)) (n-C)_i / (n-1)_i``, with elementary symmetric polynomials e_i and
          falling factorials. In words: let direction j be in use with probability
          ``λ_j / (λ_j + n ε)`` and K be the number in use. Random labels save -½ log of the
          probability ``E[Π_{i<K} (n-C-i) / (n-1-i)]`` that none of ``C - 1`` random contrasts
          meets any of K among n - 1 directions.

        Zero columns, every feature twice, scale, shift and rotation leave it alone; columns of
        noise dilute it as their share of the variance asks. ``docs/label-rate.md`` has what else
        was tried, and what it is worth.

    Failure modes:
        - Classes that differ in shape and not in their means, such as a ring around a blob, are not
          told apart.
        - Directions of little variance hardly count, however well they separate the classes, and
          one feature that varies far more than the others hides them: standardise it.
        - It grows with the number of examples and of classes, so it compares models on one task.
        - Classes of one example add nothing, and where there is no other the score is 0, with a
          warning.

    Source: Our own derivation; TransRate after Huang et al. (2022). For ε towards 0 it is the log
    of Wilks' lambda less its value by chance.

    Cost: O(N D min(N, D)) for the moments and O(min(N, D)³) for the eigenvalues, which it shares
    with other metrics, and for one determinant; no matrix per class.

    >>> from sklearn.datasets import load_iris
    >>> round(label_rate(*load_iris(return_X_y=True)), 6)
    1.652655
    """
    n, classes = statistic.n, len(statistic.present)
    if classes == 1:
        return 0.0
    variance = statistic.total.trace()
    if variance <= 0:
        raise InvalidInputError("all features are constant; there is nothing to code")
    if classes == n:
        warn("no class has two examples, so that labels and chance save the same rate")
        return 0.0
    scale = n / variance
    energies = scale * statistic.total.eigenvalues.cpu().numpy()
    return _chance_rate(energies, n, classes) - 0.5 * statistic.within.logdet1p(scale)


def _chance_rate(energies: np.ndarray, n: int, classes: int) -> float:
    """``½ log E_π det(I + W_π)`` for eigenvalues (r,) of the total scatter: exact, O(r²).

    The sum runs over how many directions are in use. Its terms span more than float64 does where
    classes are many, so the probabilities are tilted to where the largest term is: the
    polynomials of ``tilt * energies`` are those of ``energies`` times ``tilt**i``.
    """
    tilt = _tilt(energies, n, classes)
    used = np.zeros(len(energies) + 1)
    used[0] = 1.0
    for count, p in enumerate(tilt * energies / (1.0 + tilt * energies), start=1):
        used[1 : count + 1] += p * (used[:count] - used[1 : count + 1])
        used[0] *= 1.0 - p
    i = np.arange(min(len(energies), n - classes) + 1)
    missed = gammaln(n - classes + 1) - gammaln(n - classes + 1 - i)
    missed -= gammaln(n) - gammaln(n - i)
    with np.errstate(divide="ignore"):
        terms = np.log(used[i]) + missed - i * math.log(tilt)
    return 0.5 * float(logsumexp(terms) + np.log1p(tilt * energies).sum())


def _tilt(energies: np.ndarray, n: int, classes: int) -> float:
    """``1 / a`` for the saddle point ``Σ (a - 1) / (a + energy) = C - 1`` over n - 1 directions."""
    idle = n - 1 - len(energies)

    def excess(log_gap: float) -> float:
        gap = math.exp(log_gap)
        met = (gap / (1.0 + gap + energies)).sum() + idle * gap / (1.0 + gap)
        return float(met) - (classes - 1)

    widest = math.log(2.0 * n * (1.0 + float(energies.max())))
    return 1.0 / (1.0 + math.exp(brentq(excess, -60.0, widest)))
