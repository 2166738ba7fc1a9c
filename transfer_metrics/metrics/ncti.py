"""The three terms of NCTI: how far features are from neural collapse on the target classes.

NCTI itself, A + B - C with each term scaled to [0, 1] over the candidate models, ranks a set of
models and has no value for one of them; the terms have.
"""

from __future__ import annotations

import math

import torch

from transfer_metrics.metrics.base import register_metric
from transfer_metrics.metrics.discriminant import Problem
from transfer_metrics.statistics import FeatureSample

_REFERENCE = (
    "Wang et al., How Far Pre-trained Models Are from Neural Collapse on the Target Dataset "
    "Informs their Transferability, ICCV 2023"
)


@register_metric(requires="examples", reference=_REFERENCE, invariant=("shift", "rotation"))
def ncti_spread(statistic: FeatureSample) -> float:
    """NCTI's term A: nuclear norm of the features in the discriminant directions.

    PCA to 64 dimensions, then the leading C - 1 generalised eigenvectors W of ``(S_t - S, S)``
    with ``w' S w = 1``, where ``S = (1 - λ) S_w + λ tr(S_w)/64 I``, ``S_t`` is shrunk in the same
    way, and ``λ = exp(-Σ of the first 32 explained variances)``, at least 1e-10. The score is the
    sum of the singular values of the centred ``X W``.

    Directions without variance do not count towards the 64. Where ``λ`` reaches its floor the
    authors call scikit-learn's ``svd`` solver, which does not shrink; its older releases also
    divide ``S_w`` by N - C rather than N, which lowers their value by ``√((N - C) / N)``. One
    formula is kept here for every λ.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).

    Returns:
        The term; higher is better.

    Raises:
        InvalidInputError: one class only, or no spread within the classes.

    Warns:
        TransferMetricsWarning: ``S_w`` is singular after PCA (N <= 64 + C or so): the score rests
            on ``λ`` alone.

    Failure modes:
        - It grows as ``√N``, and with C: compare it only between models of one task.
        - ``λ`` has a scale, so multiplying X by a number can change the score.
        - With no more than 64 + C examples or so the score rests on ``λ`` alone; a warning says so.
        - What tells the classes apart outside the first 64 components is not seen.

    Source: Wang et al. (2023), and the authors' code.

    Cost: O(N D min(N, D) + min(N, D)³) for the PCA, which the metrics of a layer share.

    >>> from sklearn.datasets import load_iris
    >>> round(ncti_spread(*load_iris(return_X_y=True)), 4)
    83.0732
    """
    problem = Problem.principal("ncti_spread", statistic)
    values, dim = statistic.moments.total.eigh[0], problem.dim
    variances = values[:dim] / problem.moments.n
    factor = torch.linalg.cholesky(problem.within())
    # (S_t - r S, S) has the same eigenvectors for every r. This r leaves no multiples of I, beside
    # which rounding hides the rest where λ is near 1.
    scatter = problem.moments.within.matrix() / problem.moments.n
    ratio = variances.mean() / scatter.diagonal().mean()
    half = torch.linalg.solve_triangular(
        factor, torch.diag(variances) - ratio * scatter, upper=False
    )
    whitened = torch.linalg.solve_triangular(factor, half.T, upper=False)
    directions = min(len(problem.moments.present) - 1, dim)
    leading = torch.linalg.eigh(0.5 * (whitened + whitened.T))[1][:, dim - directions :]
    scalings = torch.linalg.solve_triangular(factor.T, leading, upper=True)
    # The rows are √values times orthonormal columns.
    return float(torch.linalg.svdvals(values[:dim].sqrt()[:, None] * scalings).sum())


@register_metric(requires="examples", reference=_REFERENCE, invariant=("shift", "rotation"))
def ncti_posterior(statistic: FeatureSample) -> float:
    """NCTI's term B: mean posterior of the true class under the discriminant of term A.

    PCA to 64 dimensions, then the regularised Fisher discriminant with all of its directions and
    log priors, ``(1/N) Σ_n p(y_n | x_n)``; ``λ`` is that of term A.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).

    Returns:
        The term, in (0, 1]; higher is better.

    Raises:
        InvalidInputError: one class only, or no spread within the classes.

    Warns:
        TransferMetricsWarning: ``S_w`` is singular after PCA: the score rests on ``λ`` alone.

    Failure modes:
        - It is fitted and read on the same examples: with 64 components noise alone scores far
          above 1 / C on a few hundred examples. With no more than 64 + C or so the score rests on
          ``λ`` alone; a warning says so.
        - ``λ`` has a scale, so multiplying X by a number can change the score.
        - What tells the classes apart outside the first 64 components is not seen.

    Source: Wang et al. (2023), and the authors' code.

    Cost: that of term A and O(N (D + C)).

    >>> from sklearn.datasets import load_iris
    >>> round(ncti_posterior(*load_iris(return_X_y=True)), 4)
    0.9728
    """
    return Problem.principal("ncti_posterior", statistic).mean_posterior()


@register_metric(
    requires="examples",
    higher_is_better=False,
    reference=_REFERENCE,
    invariant=("shift", "rotation"),
)
def ncti_rank(statistic: FeatureSample) -> float:
    """NCTI's term C: ``log Σ_c ‖P_c‖_*``, the nuclear norms of each class's posterior matrix.

    ``P_c`` (n_c, C) holds the posteriors, as of term B, of the examples of class c. A class whose
    examples all get one and the same posterior has rank one; the nuclear norm grows with the
    number of directions in which they differ. It means something beside terms A and B.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).

    Returns:
        The term; lower is better (NCTI subtracts it).

    Raises:
        InvalidInputError: one class only, or no spread within the classes.

    Warns:
        TransferMetricsWarning: ``S_w`` is singular after PCA: the score rests on ``λ`` alone.

    Failure modes:
        - The norm grows with how sharp the posteriors are too, so that features without any signal
          have a small value: alone it chooses models and layers that know nothing.
        - What is said of ``λ``, of few examples and of the 64 components at term B holds here too.

    Source: Wang et al. (2023), and the authors' code.

    Cost: that of term B and O(Σ_c n_c C min(n_c, C)).

    >>> from sklearn.datasets import load_iris
    >>> round(ncti_rank(*load_iris(return_X_y=True)), 4)
    3.1259
    """
    problem = Problem.principal("ncti_rank", statistic)
    posterior = problem.posterior()
    order = torch.argsort(problem.labels).to(posterior.device)
    counts = problem.moments.counts[problem.moments.present].tolist()
    blocks = posterior[order].split(counts)
    return math.log(sum(float(torch.linalg.svdvals(block).sum()) for block in blocks))
