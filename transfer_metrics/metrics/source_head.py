"""LEEP, NCE, soft NCE and N-LEEP: what a source head, or a mixture, says of target labels."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import FeatureSample, SourceJoint
from transfer_metrics.statistics.influence import Parts

_LLOYD_ROUNDS = 100


def _leep_slopes(parts: Parts) -> Tensor:
    """What LEEP loses without each block of examples: those that are left, by the others' joint."""
    whole, blocks, numbers = parts.whole, parts.blocks, torch.arange(len(parts.blocks))
    n, soft = parts.n.to(whole.soft), whole.soft
    by_source = soft.sum(dim=0) - torch.stack([block.soft.sum(dim=0) for block in blocks])
    block_of = numbers.repeat_interleave(parts.n.to(torch.int64)).to(whole.labels)
    order, sizes = torch.argsort(whole.labels, stable=True), torch.bincount(whole.labels)
    logs = torch.zeros_like(n)
    for c, rows in enumerate(order.split(sizes.tolist())):
        left = soft[c] - torch.stack([block.soft[c] for block in blocks])
        # Of a source class that nobody has any more rounding is left.
        conditional = (left / by_source.clamp_min(torch.finfo(soft.dtype).tiny)).clamp(0.0, 1.0)
        likelihood = whole.probabilities[rows].to(torch.float64) @ conditional.T
        likelihood[block_of[rows][:, None] == numbers.to(rows)] = 1.0
        logs += likelihood.log().sum(dim=0)
    return parts.left_out(leep(whole), (logs / (whole.n - n)).tolist())


@register_metric(
    derivative=_leep_slopes,
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
    likelihood = torch.cat([_dots(p, conditional[labels]) for p, labels in statistic.blocks()])
    return float(likelihood.log().mean())


def _entropy_slopes(parts: Parts, table: str) -> Tensor:
    """What a negative conditional entropy of one of the tables loses without each block."""
    whole = getattr(parts.whole, table)
    left = [(whole - getattr(block, table)).clamp_min(0.0) for block in parts.blocks]
    return parts.left_out(
        -_conditional_entropy(whole), [-_conditional_entropy(one) for one in left]
    )


@register_metric(
    derivative=functools.partial(_entropy_slopes, table="hard"),
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
    derivative=functools.partial(_entropy_slopes, table="soft"),
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


@register_metric(
    requires="examples",
    parts=("spectrum",),
    reference="Li et al., Ranking Neural Checkpoints, CVPR 2021",
    invariant=("scale", "shift", "rotation"),
)
def nleep(
    statistic: FeatureSample,
    *,
    share: float = 0.8,
    components_per_class: int = 5,
    covariance: Literal["diag", "spherical", "full"] = "diag",
    floor: float = 1e-3,
    tol: float = 1e-3,
    rounds: int = 100,
) -> float:
    """N-LEEP: LEEP of the posteriors of a Gaussian mixture fitted to the leading components.

    PCA keeps the fewest components with the given share of the variance; a mixture of
    ``components_per_class · C`` Gaussians is fitted to them; LEEP, with its logarithm, takes the
    posteriors ``p(z | x_n)`` for source probabilities.

    Nothing is drawn at random. The mixture starts from k-means, and k-means from a partition that
    halves the cluster with the largest squared error, at its mean, along the component in which it
    varies most. Variances are in units of the mean variance of the components that are kept, and
    ``floor`` is added to each, so that no feature can make the fit fail. Only where eigenvalues
    are equal does the choice of axes within their space matter to ``"diag"``.

    With as many Gaussians as examples each would explain itself, so there are at most n / 2.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).
        share: share of the variance that is kept, in (0, 1].
        components_per_class: Gaussians per class that occurs.
        covariance: ``"diag"``; ``"spherical"``; or ``"full"``, that of the best-known copy, which
            needs many more examples per Gaussian than components, and is slow.
        floor: added to the variances.
        tol: EM stops when the mean log likelihood of an example rises by less, in nats.
        rounds: most rounds of EM, after which a warning says that it has not settled.

    Returns:
        The score in nats, at most 0; higher is better.

    Raises:
        InvalidInputError: constant features, fewer than four examples, or an option out of range.

    Failure modes:
        - With fewer than ten examples per class there are fewer Gaussians than asked for, with a
          warning. Well before that, at a few examples per Gaussian, the score is optimistic: it
          rewards small clusters, whatever their labels.
        - Classes that differ only in directions of small variance are lost by the PCA.

    Source: Li et al. (2021), section 3.3; the partition is the Var-Part of Su and Dy (2007).

    Cost: O(n D min(n, D)) once, shared with other metrics of the layer; O(n k K) per round for k
    components and K Gaussians, with ``"full"`` O(n k² K); O(n K) memory, with ``"full"`` O(k² K)
    more.

    >>> from sklearn.datasets import load_iris
    >>> round(nleep(*load_iris(return_X_y=True)), 4)
    -0.1259
    """
    if not 0 < share <= 1:
        raise InvalidInputError(f"share must lie in (0, 1], got {share}")
    if components_per_class < 1 or rounds < 1 or floor <= 0 or tol < 0:
        raise InvalidInputError(
            "components_per_class and rounds must be at least 1, floor positive, tol at least 0"
        )
    if statistic.n < 4:
        raise InvalidInputError(f"N-LEEP needs at least four examples, got {statistic.n}")
    size = components_per_class * len(torch.unique(statistic.y))
    if size > statistic.n // 2:
        warn(
            f"N-LEEP uses {statistic.n // 2} Gaussians, not {size}: there are only {statistic.n} "
            f"examples, and the score is optimistic"
        )
        size = statistic.n // 2
    z = _components(statistic, share)
    posteriors, settled = _fit_mixture(z, _clusters(z, size), covariance, floor, tol, rounds)
    if not settled:
        warn(f"the mixture of N-LEEP has not settled after {rounds} rounds; raise rounds")
    return leep(SourceJoint(posteriors, statistic.y.to(z.device), statistic.num_classes))


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """Products of the rows of two tensors; numpy's take a tenth of the time on the CPU."""
    if left.device.type == "cpu":
        return torch.from_numpy(np.vecdot(left.numpy(), right.numpy()))
    return torch.linalg.vecdot(left, right)


def _conditional_entropy(table: Tensor) -> float:
    """``H(Y | Z)`` in nats of a (C, Z) table of weights; columns without weight add nothing."""
    by_source = table.sum(dim=0, keepdim=True)
    conditional = table / by_source.clamp_min(torch.finfo(table.dtype).tiny)
    return -float(torch.xlogy(table, conditional).sum() / by_source.sum())


def _components(statistic: FeatureSample, share: float) -> Tensor:
    """Leading principal components, (n, k), with a mean variance of one."""
    values, vectors = statistic.moments.total.eigh
    if not len(values):
        raise InvalidInputError("all features are constant; there is nothing to cluster")
    reached = values.cumsum(0) / values.sum()
    # Rounding must not ask for one more than there are.
    k = min(int((reached < share).sum()) + 1, len(values))
    unit = float(values[:k].mean()) / statistic.n
    return (statistic.x - statistic.x.mean(dim=0)) @ (vectors[:, :k] / math.sqrt(unit))


def _clusters(z: Tensor, size: int) -> Tensor:
    """Cluster of each row, (n,): k-means from a partition by variance."""
    assigned = _partition(z, size)
    for _ in range(_LLOYD_ROUNDS):
        _, assigned = torch.unique(assigned, return_inverse=True)
        counts = torch.bincount(assigned)[:, None]
        centres = z.new_zeros(len(counts), z.shape[1]).index_add_(0, assigned, z) / counts
        nearest = torch.addmm(centres.square().sum(dim=1), z, centres.T, alpha=-2.0).argmin(dim=1)
        if torch.equal(nearest, assigned):
            break
        assigned = nearest
    return torch.unique(assigned, return_inverse=True)[1]


def _partition(z: Tensor, size: int) -> Tensor:
    """At most ``size`` clusters: halve the one with the largest squared error, and again."""
    numbers = itertools.count()  # settles ties before tensors would be compared

    def described(rows: Tensor) -> tuple[float, int, int, Tensor]:
        errors = (z[rows] - z[rows].mean(dim=0)).square().sum(dim=0)
        return -float(errors.sum()), next(numbers), int(errors.argmax()), rows

    clusters = [described(torch.arange(len(z), device=z.device))]
    least = -1e-12 * clusters[0][0]
    while len(clusters) < size and -clusters[0][0] > least:
        _, _, axis, rows = heapq.heappop(clusters)
        above = z[rows, axis] > z[rows, axis].mean()
        for part in (rows[above], rows[~above]):
            heapq.heappush(clusters, described(part))
    assigned = z.new_zeros(len(z), dtype=torch.int64)
    for c, (_, _, _, rows) in enumerate(clusters):
        assigned[rows] = c
    return assigned


def _fit_mixture(
    z: Tensor, assigned: Tensor, covariance: str, floor: float, tol: float, rounds: int
) -> tuple[Tensor, bool]:
    """Posteriors (n, K) of a Gaussian mixture by EM from clusters, and whether it has settled."""
    posteriors = torch.nn.functional.one_hot(assigned).to(z)
    before = -math.inf
    for _ in range(rounds):
        counts = posteriors.sum(dim=0)
        # A Gaussian that has lost its examples keeps a mean of zero and no weight.
        means = posteriors.T @ z / counts.clamp_min(1e-300)[:, None]
        if covariance == "full":
            density = _full_log_density(z, posteriors, means, floor)
        else:
            density = _diagonal_log_density(
                z, posteriors, means, floor, spherical=covariance == "spherical"
            )
        joint = density + (counts / len(z)).log()
        likelihood = joint.logsumexp(dim=1)
        posteriors = joint.sub_(likelihood[:, None]).exp_()
        reached = float(likelihood.mean())
        if reached - before < tol:
            return posteriors, True
        before = reached
    return posteriors, False


def _diagonal_log_density(
    z: Tensor, posteriors: Tensor, means: Tensor, floor: float, *, spherical: bool
) -> Tensor:
    """Log density (n, K), without its constant, of Gaussians with their own variance per axis."""
    squares = z.square()
    counts = posteriors.sum(dim=0).clamp_min(1e-300)[:, None]
    variances = (posteriors.T @ squares / counts - means.square()).clamp_min(0.0) + floor
    if spherical:
        variances = variances.mean(dim=1, keepdim=True).expand_as(variances)
    precisions = variances.reciprocal()
    offset = (means.square() * precisions + variances.log()).sum(dim=1)
    density = torch.addmm(offset, squares, precisions.T)
    return density.addmm_(z, (means * precisions).T, alpha=-2.0).mul_(-0.5)


def _full_log_density(z: Tensor, posteriors: Tensor, means: Tensor, floor: float) -> Tensor:
    """Log density (n, K), without its constant, of Gaussians with full covariance."""
    density = torch.empty_like(posteriors)
    for c, mean in enumerate(means):
        weight = posteriors[:, c]
        centred = z - mean
        scatter = (centred * weight[:, None]).T @ centred / weight.sum().clamp_min(1e-300)
        scatter.diagonal().add_(floor)
        factor = torch.linalg.cholesky(scatter)
        distance = torch.linalg.solve_triangular(factor, centred.T, upper=False).square().sum(dim=0)
        density[:, c] = -0.5 * distance - factor.diagonal().log().sum()
    return density
