"""LDA score, SFDA and PED: how surely a regularised Fisher discriminant finds the true class."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import ClassMoments, FeatureSample, TargetMoments

_SMALLEST_DEVIATION = 1e-3
_EXIT_RATIO = 0.5
# Principal components that NCTI reads, and takes its shrinkage from.
_COMPONENTS, _SHRINKAGE_COMPONENTS = 64, 32


@register_metric(
    requires="examples",
    reference="Gholami et al., ETran: Energy-Based Transferability Estimation, ICCV 2023",
    invariant=("shift", "rotation"),
)
def lda(statistic: FeatureSample) -> float:
    """LDA score: mean posterior of the true class under a regularised Fisher discriminant.

    With ``S_w`` the within-class scatter over N, the class priors ``π_c = n_c / N`` and
    ``λ = max(exp(-5 σ_max(S_w)), 1e-10)``,

        S = (1 - λ) S_w + λ tr(S_w) / D I
        p(c | x) ∝ π_c exp(m_c' S⁻¹ x - ½ m_c' S⁻¹ m_c)

    and the score is ``(1/N) Σ_n p(y_n | x_n)``.

    The published code estimates ``σ_max`` by three rounds of power iteration from the row sums of
    ``S_w``, which gives a lower bound that depends on the axes; here it is exact. ETran's own code
    passes the unsymmetric ``S⁻¹ S_b`` to a symmetric eigensolver, whose eigenvectors are
    orthonormal, so that ``S`` cancels and its score is that of the identity in place of ``S``; the
    discriminant its paper describes is computed here, which is also the first pass of SFDA.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).

    Returns:
        The score in (0, 1]; higher is better.

    Raises:
        InvalidInputError: one class only, or no spread within the classes.

    Warns:
        TransferMetricsWarning: ``S_w`` is singular in the span of the features, so that the score
            rests on ``λ`` alone.

    Failure modes:
        - It is fitted and read on the same examples, so it grows with D at a given N.
        - Where the features fill N - C directions or more, as for D > N, ``S_w`` is singular and
          the score tends to 1 as ``λ`` falls; a warning says so.
        - ``λ`` has a scale: features with a variance far above 1 are hardly regularised and
          features far below 1 are compared by Euclidean distance, so multiplying X by a number can
          change the score. Dead features enter through D.

    Source: Gholami et al. (2023), classification score; Shao et al. (2022), regularised FDA; the
    authors' code for both.

    Cost: O(N D min(N, D) + min(N, D)³ + N C min(N, D)) time, O(N D) memory.

    >>> from sklearn.datasets import load_iris
    >>> round(lda(*load_iris(return_X_y=True)), 6)
    0.969678
    """
    return Problem.of("lda", statistic).mean_posterior()


@register_metric(
    requires="examples",
    reference="Shao et al., Not All Models Are Equal, ECCV 2022",
    invariant=("shift", "rotation"),
)
def sfda(statistic: FeatureSample) -> float:
    """SFDA: the LDA score after each example is mixed with the classes it may be taken for.

    A first discriminant, that of the LDA score, gives ``p(c | x)``. Its confidence is softened by
    one more softmax over the classes, ``q_n = exp(p(y_n | x_n)) / Σ_c exp(p(c | x_n))``, and

        x_n ← q_n x_n + (1 - q_n) o_c,   o_c = mean over c' ≠ c of m_c',   c = y_n

    (the plain mean of the other class means, whatever their sizes). A second discriminant with the
    same ``λ`` is fitted to the mixed features, and the score is its mean posterior of the true
    class, without a logarithm. X itself is left alone (the published code overwrites it).

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).

    Returns:
        The score in (0, 1]; higher is better.

    Raises:
        InvalidInputError: one class only, or no spread within the classes.

    Warns:
        TransferMetricsWarning: ``S_w`` is singular in the span of the features, so that the score
            rests on ``λ`` alone.

    Failure modes:
        - It is fitted and read on the same examples, so it grows with D at a given N; what is said
          of ``λ``, of scale and of D > N at the LDA score holds here too. (At D > N the published
          code returns exactly 1.)
        - A probability is at most 1, so ``q`` is at most ``e / (e + C - 1)``: with many classes
          little is left of x.

    Source: Shao et al. (2022), regularised FDA and self-challenging by ConfMix.

    Cost: twice that of the LDA score.

    >>> from sklearn.datasets import load_iris
    >>> round(sfda(*load_iris(return_X_y=True)), 6)
    0.876493
    """
    return Problem.of("sfda", statistic).self_challenged()


@register_metric(
    requires="examples",
    reference=(
        "Li et al., Exploring Model Transferability through the Lens of Potential Energy, ICCV 2023"
    ),
    invariant=("shift",),
)
def ped(
    statistic: FeatureSample,
    *,
    nu: float = 0.6,
    step: float = 0.1,
    rounds: int = 6,
    general: ClassMoments | None = None,
) -> float:
    """PED: potential energy decline of overlapping classes, then SFDA.

    In features divided by the standard deviations of a general data set, class c is a ball about
    its mean with radius ``ρ_c``, the root of its summed variance. Two classes whose balls overlap
    repel each other along the line between their centres with the force
    ``F = max(ν (ρ_i + ρ_j) - d_ij, 0)``, and all examples of a class move with it by the sum of
    ``½ step² F`` over the others, at most F. The motion ends after ``rounds`` rounds, or before
    the first whose total movement (sum of absolute values over classes and features) is no more
    than half of that of the first round. SFDA scores the moved features in their own units.

    Classes that do not overlap stay, and the score is SFDA's. Two centres that coincide (to 1e-12
    of the radii) have no line between them and do not repel each other. A motion is rigid, so
    ``S_w`` and SFDA's ``λ`` stay.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).
        nu: ν, the share of the radii that has to be free of overlap; the authors choose among 0.3,
            0.6 and 2.
        step: time step of the motion.
        rounds: the most rounds; 0 is SFDA.
        general: moments of the same layer on a general data set, whose standard deviations
            standardise the features (the authors take ImageNet's validation set); by default the
            deviations of the target data themselves. At least 1e-3 each. The means cancel.

    Returns:
        The score in (0, 1]; higher is better.

    Raises:
        InvalidInputError: one class only, no spread within the classes, an option out of range,
            or general moments of another dimension.

    Warns:
        TransferMetricsWarning: ``S_w`` is singular, see SFDA.

    Failure modes:
        - SFDA's: it grows with D at a given N, depends on the scale of the features, and rests on
          ``λ`` alone for D > N.
        - Standardising makes the score depend on the axes: a rotation of the features changes it.
        - The motion separates overlapping classes whether or not fine-tuning could: with a large
          ``nu`` everything becomes easy.

    Source: Li et al. (2023), appendix B for the standardisation, and the authors' code.

    Cost: that of SFDA and O(N D + rounds · C² D) time, O(N D + C²) memory.

    >>> from sklearn.datasets import load_iris
    >>> round(ped(*load_iris(return_X_y=True), nu=2.0), 6)
    0.903675
    """
    if nu < 0 or step < 0 or rounds < 0:
        raise InvalidInputError(
            f"nu, step and rounds must not be negative, got {nu!r}, {step!r} and {rounds!r}"
        )
    if general is not None and general.dim != statistic.x.shape[1]:
        raise InvalidInputError(
            f"general moments have {general.dim} features and these have {statistic.x.shape[1]}; "
            f"build both from the same layer"
        )
    scale = _deviations(general or statistic.moments).clamp_min(_SMALLEST_DEVIATION)
    scale = scale.to(statistic.x.device)
    moves, codes = _motion(statistic, scale, nu, step, rounds)
    moved = replace(statistic, x=statistic.x + (moves * scale)[codes])
    return Problem.of("ped", moved).self_challenged()


@dataclass(frozen=True)
class Problem:
    """Rows in coordinates that span no more than the features do, and how ``S_w`` is shrunk."""

    rows: Tensor  # (n, d)
    labels: Tensor  # (n,)
    moments: ClassMoments  # of the rows
    shrinkage: float  # λ
    dim: int  # D

    @classmethod
    def of(cls, name: str, statistic: FeatureSample) -> Problem:
        """The features themselves, or their principal coordinates where D is large beside n.

        The regularised ``S_w`` is ``a S_w + b I``. Outside the span of the centred rows it is
        ``b I`` and meets no difference of means, so an orthonormal basis of the span suffices.
        """
        moments, rows = _checked_moments(statistic), statistic.x
        if moments.dim >= moments.n - len(moments.present):
            rows = (rows - moments.mean) @ moments.total.eigh[1]
            moments = ClassMoments.from_batch(rows, statistic.y, moments.num_classes, parts=())
        largest = float(moments.within.eigenvalues[0]) / moments.n
        problem = cls(rows, statistic.y, moments, _shrinkage(5.0 * largest), statistic.x.shape[1])
        problem._warn_if_singular(name)
        return problem

    @classmethod
    def principal(cls, name: str, statistic: FeatureSample) -> Problem:
        """The leading 64 principal coordinates, with the ``λ`` that NCTI takes from them."""
        moments = _checked_moments(statistic)
        values, vectors = moments.total.eigh
        rows = (statistic.x - moments.mean) @ vectors[:, :_COMPONENTS]
        explained = float(values[:_SHRINKAGE_COMPONENTS].sum()) / (moments.n - 1)
        moments = ClassMoments.from_batch(rows, statistic.y, moments.num_classes, parts=())
        _check_classes(moments)
        problem = cls(rows, statistic.y, moments, _shrinkage(explained), rows.shape[1])
        problem._warn_if_singular(name)
        return problem

    @property
    def codes(self) -> Tensor:
        """Position of each label among the classes that occur, (n,), on the rows' device."""
        return torch.unique(self.labels, return_inverse=True)[1].to(self.rows.device)

    def of_truth(self, probabilities: Tensor) -> Tensor:
        """Each example's entry for its own class, (n,)."""
        return probabilities.gather(1, self.codes[:, None])[:, 0]

    def _warn_if_singular(self, name: str) -> None:
        """Warn where the rows have as many directions as there are residuals, n - C, or more."""
        n, classes = self.moments.n, len(self.moments.present)
        if self.rows.shape[1] >= n - classes:
            warn(
                f"{name}: the features fill {self.rows.shape[1]} directions and N - C is only "
                f"{n - classes}, so the within-class scatter is singular; the score rests on the "
                f"shrinkage {self.shrinkage:.3g} and tends to its value for classes that are points"
            )

    def within(self) -> Tensor:
        """``(1 - λ) S_w + λ tr(S_w) / D I``, (d, d), with ``S_w`` the scatter in classes over N."""
        moments = self.moments
        matrix = moments.within.matrix() * ((1.0 - self.shrinkage) / moments.n)
        matrix.diagonal().add_(self.shrinkage * moments.within.trace() / moments.n / self.dim)
        return matrix

    def posterior(self) -> Tensor:
        """Posterior of each class that occurs, (n, C), where the classes share ``S = within()``.

        The definition by generalised eigenvectors of ``(S_b, S)`` with ``w' S w = 1`` keeps all D
        of them, ``V V' = S⁻¹``, so a Cholesky factor of ``S`` gives the same.
        """
        moments = self.moments
        means = moments.means[moments.present] - moments.mean
        priors = moments.counts[moments.present].to(means.dtype) / moments.n
        factor = torch.linalg.cholesky(self.within())
        weights = torch.cholesky_solve(means.T, factor)
        offsets = priors.log() - 0.5 * (means.T * weights).sum(dim=0)
        return torch.softmax((self.rows - moments.mean) @ weights + offsets, dim=1)

    def mean_posterior(self) -> float:
        """Mean posterior of the true class."""
        return float(self.of_truth(self.posterior()).mean())

    def self_challenged(self) -> float:
        """Mean posterior of the true class before and after ConfMix: SFDA's two passes."""
        kept = self.of_truth(torch.softmax(self.posterior(), dim=1))
        moments = self.moments
        means = moments.means[moments.present]
        others = (means.sum(dim=0) - means) / (len(means) - 1)
        rows = others[self.codes].lerp_(self.rows, kept[:, None])
        mixed = ClassMoments.from_batch(rows, self.labels, moments.num_classes, parts=())
        return replace(self, rows=rows, moments=mixed).mean_posterior()


def _shrinkage(exponent: float) -> float:
    """``λ = max(exp(-exponent), 1e-10)``."""
    return max(math.exp(-exponent), 1e-10)


def _checked_moments(statistic: FeatureSample) -> ClassMoments:
    """The moments of a sample for which a discriminant is defined."""
    assert isinstance(statistic.moments, ClassMoments)
    _check_classes(statistic.moments)
    return statistic.moments


def _check_classes(moments: ClassMoments) -> None:
    """Refuse what a discriminant is not defined for."""
    if len(moments.present) < 2:
        raise InvalidInputError("a discriminant needs at least two classes with examples")
    rounding = torch.finfo(torch.float64).eps * float(moments.means.abs().max())
    if moments.within.trace() <= moments.n * moments.dim * rounding**2:
        raise InvalidInputError(
            "the features do not vary within any class, so the within-class scatter is zero; "
            "look for constant features, or give classes more than one example"
        )


def _deviations(moments: ClassMoments | TargetMoments) -> Tensor:
    """Standard deviation of each feature (over n), (D,)."""
    total = moments.total
    squares = total.data.diagonal() if total.dense else total.data.square().sum(dim=0)
    return (squares / moments.n).sqrt()


def _motion(
    statistic: FeatureSample, scale: Tensor, nu: float, step: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """Moves of the classes that occur, in standardised features, (C, D), and each row's class."""
    moments = statistic.moments
    assert isinstance(moments, ClassMoments)
    codes = torch.unique(statistic.y, return_inverse=True)[1].to(statistic.x.device)
    means = moments.means[moments.present]
    spread = ((statistic.x - means[codes]) / scale).square().sum(dim=1)
    counts = moments.counts[moments.present].to(spread)
    radii = (spread.new_zeros(len(means)).index_add_(0, codes, spread) / counts).sqrt()
    start = (means - moments.mean) / scale
    centres, first = start, 0.0
    for turn in range(rounds):
        moves = _repulsion(centres, radii, nu, step)
        movement = float(moves.abs().sum())
        if turn == 0:
            first = movement
        if movement <= _EXIT_RATIO * first:
            break
        centres = centres + moves
    return centres - start, codes


def _repulsion(centres: Tensor, radii: Tensor, nu: float, step: float) -> Tensor:
    """One round of the motion of all centres, (C, D)."""
    distances = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    reach = radii[:, None] + radii
    force = (nu * reach - distances).clamp_min(0.0)
    amount = torch.minimum(0.5 * step**2 * force, force)
    # Per unit of the distance; neither a class nor one at the same place exerts anything.
    pull = torch.where(distances > 1e-12 * reach, amount / distances, 0.0)
    return pull.sum(dim=1, keepdim=True) * centres - pull @ centres
