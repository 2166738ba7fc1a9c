"""PACTran: negated PAC-Bayesian bounds on the loss of a head trained on the target task."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import FeatureSample, SourceJoint
from transfer_metrics.statistics.influence import Parts

_REFERENCE = (
    "Ding et al., PACTran: PAC-Bayesian Metrics for Estimating the Transferability of Pretrained "
    "Models to Classification Tasks, ECCV 2022"
)

_CONJUGATE_STEPS = 200
# Least sum of weights that an example depends on.
_UNDERFLOW = 1e-200
# Share of the loss that a Newton step cannot tell from rounding.
_ROUNDING = 1e-14


def _slopes(parts: Parts, gamma: bool, *, alpha: float, rounds: int) -> Tensor:
    """What a bound loses without each block of examples: all fixed points by the same products."""
    block_of = torch.arange(1, len(parts.blocks) + 1).repeat_interleave(parts.n.to(torch.int64))
    kept = block_of[:, None] != torch.arange(len(parts.blocks) + 1)
    scores = _bounds(parts.whole, alpha, rounds, gamma, kept).tolist()
    return parts.left_out(scores[0], scores[1:])


@register_metric(
    derivative=functools.partial(_slopes, gamma=False), requires="source", reference=_REFERENCE
)
def pactran_dirichlet(statistic: SourceJoint, *, alpha: float = 1.0, rounds: int = 10) -> float:
    """PACTran-Dirichlet: the bound for ``p(y | x) = Σ_z w_yz P_z(x)`` with Dirichlet ``w_·z``.

    The prior is ``a0_y = α n_y / N`` for every source class z; the fixed point is ``a_yz = a0_y +
    Σ_{n: y_n = y} q_nz``, ``q_nz ∝ P_nz exp(ψ(a_{y_n z}) - ψ(Σ_y a_yz))``, from q = P. The score is
    ``[Σ_z (log B(a_·z) - log B(a0)) - Σ_nz q_nz log(q_nz / P_nz)] / (N C)`` with the multivariate
    beta function B: the negated bound per label entry, as in the authors' code, which takes q one
    half-round ahead of a, so that it is the bound itself only once the rounds have settled.

    A source class that receives no probability adds nothing; nor does a label without examples.

    Args:
        statistic: ``SourceJoint``; or pass source probabilities (N, Z) and labels (N,).
        alpha: total mass of the prior; the authors try 0.1, 1 and 10.
        rounds: fixed-point rounds.

    Returns:
        The score in nats per label entry, at most 0; higher is better.

    Raises:
        InvalidInputError: ``alpha`` that is not positive, or no rounds.

    Failure modes:
        - It reads the model's own classifier: no score for models without one, or hidden layers.
        - It shrinks with C, as it is divided by N C: compare it within one task only.
        - Every source class costs a term, so heads of different sizes are not on one scale.

    Source: Ding et al. (2022), section 4.1, and the authors' code.

    Cost: O(rounds · N Z) time, by two matrix-vector products per class and round; one copy of the
    probabilities, sorted by class, and O(C Z) memory. No array of N Z C entries.

    >>> round(pactran_dirichlet([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], [0, 1, 1]), 6)
    -0.383809
    """
    return float(_bounds(statistic, alpha, rounds, gamma=False)[0])


@register_metric(
    derivative=functools.partial(_slopes, gamma=True), requires="source", reference=_REFERENCE
)
def pactran_gamma(statistic: SourceJoint, *, alpha: float = 1.0, rounds: int = 10) -> float:
    """PACTran-Gamma: the bound for ``p(y | x) ∝ Σ_z w_yz P_z(x)`` with Gamma weights w.

    As ``pactran_dirichlet``, but the weights of one source class are independent: ``w_yz ~
    Gamma(a_yz, 1)``, ``q_nz ∝ P_nz exp(ψ(a_{y_n z}))``, and the normaliser ``l_n = Σ_z P_nz Σ_y
    a_yz`` enters by its tangent. The score is ``[Σ_yz (log Γ(a_yz) - log Γ(a0_y)) - Σ_nz q_nz
    log(q_nz / P_nz) - Σ_n (log l_n - 1)] / (N C) - 1``. As in the authors' code the rate stays at
    its prior, 1, and the constants 1 are kept: they do not change a ranking within one task.

    A source class that receives no probability adds nothing; nor does a label without examples.

    Args:
        statistic: ``SourceJoint``; or pass source probabilities (N, Z) and labels (N,).
        alpha: total shape of the prior; the authors try 0.1, 1 and 10.
        rounds: fixed-point rounds.

    Returns:
        The score in nats per label entry; higher is better.

    Raises:
        InvalidInputError: ``alpha`` that is not positive, or no rounds.

    Failure modes: those of ``pactran_dirichlet``.

    Source: Ding et al. (2022), section 4.1, and the authors' code.

    Cost: as ``pactran_dirichlet``.

    >>> round(pactran_gamma([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]], [0, 1, 1]), 6)
    -1.238297
    """
    return float(_bounds(statistic, alpha, rounds, gamma=True)[0])


@register_metric(
    requires="examples",
    parts=("spectrum",),
    reference=_REFERENCE,
    invariant=("shift", "rotation"),
)
def pactran_gaussian(
    statistic: FeatureSample,
    *,
    lam: float = 1.0,
    s2_factor: float = 100.0,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> float:
    """PACTran-Gaussian: penalised logistic loss plus a flatness term, negated.

    On centred features ``L* = min_{W,b} mean cross entropy + ½ ‖W‖² / (λN)``, with free intercepts
    b, and ``-score = L* + ½ (D C)/(λN) s² log(h λN / (D C))`` with ``s² = f / D``, ``f = s2_factor
    λ``, and ``h = Σ_n Σ_k p_nk (1 - p_nk) (‖x_n‖² + 1) + D C / (λN)``: the diagonal of the Hessian,
    intercepts included, summed over examples and not averaged, as in the authors' code.

    The authors stop L-BFGS early from random weights; here the minimum is found, from zero, so that
    runs agree.

    Args:
        statistic: ``FeatureSample`` (at most 20 000 examples); or features (N, D) and labels (N,).
        lam: λ; the authors try 0.1, 1 and 10.
        s2_factor: prior variance times D over λ; the authors try 10 and 100.
        tol: the fit ends with the first Newton step whose squared length, in the norm of the
            Hessian, is at most its square, times the loss where that is below 1; the steps converge
            superlinearly, so the score is good to about nine digits at the default; below 1e-7
            rounding decides.
        max_iter: most Newton steps, after which a warning says that the fit has not settled.

    Returns:
        The score in nats per example, below 0; higher is better.

    Raises:
        InvalidInputError: one class only, constant features, or an option that is not positive.

    Failure modes:
        - It depends on the scale of the features, through the penalty, and on their number D, dead
          ones included, through the mean of the Hessian.
        - With D >= N the loss falls towards 0 and the flatness term decides.

    Source: Ding et al. (2022), section 4.2, and the authors' code.

    Cost: O(n D min(n, D)) once, in part shared with other metrics of the layer, and O(n C min(n,
    D)) per conjugate gradient step, of which there are about a hundred; O(n (D + C)) memory.

    >>> from sklearn.datasets import load_iris
    >>> round(pactran_gaussian(*load_iris(return_X_y=True)), 4)
    -7.1034
    """
    if min(lam, s2_factor, tol, max_iter) <= 0:
        raise InvalidInputError("lam, s2_factor, tol and max_iter must be positive")
    present, labels = torch.unique(statistic.y, return_inverse=True)
    if len(present) < 2:
        raise InvalidInputError("PACTran needs at least two classes with examples")
    n, dim = statistic.x.shape
    size = len(present)
    moments = statistic.moments
    values, vectors = moments.total.eigh
    if not len(values):
        raise InvalidInputError("all features are constant; a head has nothing to learn from")
    z = (statistic.x - statistic.x.mean(dim=0)) @ vectors
    labels = labels.to(z.device)
    loss, p = _fit_logistic(z, labels, size, 1.0 / (lam * n), tol, max_iter)
    spread = float(((p - p.square()).sum(dim=1) * (z.square().sum(dim=1) + 1.0)).sum())
    flatness = math.log1p(spread * lam * n / (dim * size))
    return -(loss + 0.5 * size * s2_factor / n * flatness)


def _bounds(
    statistic: SourceJoint, alpha: float, rounds: int, gamma: bool, kept: Tensor | None = None
) -> Tensor:
    """Bounds of R sets of examples, columns of ``kept`` (N, R), or of all, (R,).

    Classes that are empty are left out.
    """
    if not alpha > 0 or rounds < 1:
        raise InvalidInputError(f"alpha and rounds must be positive, got {alpha} and {rounds}")
    sizes = torch.unique(statistic.labels, return_counts=True)[1].tolist()
    order = torch.argsort(statistic.labels, stable=True)
    classes = statistic.probabilities[order].to(torch.float64).split(sizes)
    sets = torch.ones(statistic.n, 1) if kept is None else kept
    chosen = sets[order.cpu()].to(classes[0]).split(sizes)
    pairs = list(zip(classes, chosen, strict=True))
    counts = torch.stack([own.sum(dim=0) for own in chosen], dim=1)  # (R, C)
    n, gone = counts.sum(dim=1), (counts == 0)[:, :, None]
    prior = (alpha * counts / n[:, None])[:, :, None]
    mass = torch.stack([own.T @ p for p, own in pairs], dim=1)  # (R, C, Z)
    for _ in range(rounds):
        a = prior + mass
        log_w = torch.digamma(a)
        if not gamma:
            log_w -= torch.digamma(a.sum(dim=1, keepdim=True))
        log_w = log_w.masked_fill(gone, 0.0)
        updates = [_responsibilities(p, own, log_w[:, c]) for c, (p, own) in enumerate(pairs)]
        mass = torch.stack([q for q, _ in updates], dim=1)
    # log(q / P) = log w - log Σ_z P w, so that no logarithm of a probability is needed.
    scores = torch.stack([total for _, total in updates]).sum(dim=0)
    scores -= (mass * log_w).sum(dim=(1, 2))
    gained = torch.lgamma(a) - torch.lgamma(prior)
    scores += gained.masked_fill(gone, 0.0).sum(dim=(1, 2))
    masses = a.sum(dim=1)
    if gamma:
        for p, own in pairs:
            scores -= (own * (p @ masses.T).log()).sum(dim=0)
        scores += n
    else:
        scores -= (torch.lgamma(masses) - torch.lgamma(prior.sum(dim=1))).sum(dim=1)
    return scores / (n * (counts > 0).sum(dim=1)) - float(gamma)


def _responsibilities(p: Tensor, kept: Tensor, log_w: Tensor) -> tuple[Tensor, Tensor]:
    """``Σ_n q_nz`` with ``q_nz = P_nz w_z / Σ_z P_nz w_z``, and ``Σ_n log Σ_z P_nz w_z``.

    For the examples n that each column of ``kept`` (n, R) holds, with weights (R, Z) of its own.
    """
    top = log_w.amax(dim=1, keepdim=True)
    w = (log_w - top).exp()
    norm = p @ w.T
    if float(norm.min()) > _UNDERFLOW:
        totals = (kept * norm.log()).sum(dim=0) + kept.sum(dim=0) * top[:, 0]
        return w * ((kept / norm).T @ p), totals
    # Weights that some example depends on have underflowed: a small prior makes ψ huge.
    found = []
    for own, weights in zip(kept.T, log_w, strict=True):
        logits = p.log() + weights
        total = logits.logsumexp(dim=1)
        found.append((own @ (logits - total[:, None]).exp(), own @ total))
    return torch.stack([q for q, _ in found]), torch.stack([total for _, total in found])


def _fit_logistic(
    z: Tensor, labels: Tensor, size: int, ridge: float, tol: float, max_iter: int
) -> tuple[float, Tensor]:
    """Minimum of the mean cross entropy plus ``½ ridge ‖W‖²``, and the probabilities there.

    Newton's method from zero, each step by conjugate gradients, in torch throughout: a solver of
    another library would wake the threads of its own at every evaluation.
    """
    n = len(z)
    rows = torch.cat([z, z.new_ones(n, 1)], dim=1)
    penalty = torch.cat([z.new_full((z.shape[1], 1), ridge), z.new_zeros(1, 1)])
    own = torch.arange(n, device=z.device), labels

    def evaluate(weights: Tensor) -> tuple[float, Tensor]:
        logits = rows @ weights
        total = logits.logsumexp(dim=1)
        loss = (total - logits[own]).mean() + 0.5 * (penalty * weights.square()).sum()
        return float(loss), logits.sub_(total[:, None]).exp_()

    weights = z.new_zeros(rows.shape[1], size)
    loss, p = evaluate(weights)
    for _ in range(max_iter):
        error = p.clone()
        error[own] -= 1.0
        gradient = torch.addmm(penalty * weights, rows.T, error, alpha=1.0 / n)
        step, decrease = _newton_step(rows, p, gradient, penalty)
        length = 1.0
        trial, trial_p = evaluate(weights + step)
        # Below the rounding of the loss a full step is right: Newton's method has converged.
        while trial > loss - 1e-4 * length * decrease + 1e-14 * abs(loss) and length > 1e-6:
            length *= 0.5
            trial, trial_p = evaluate(weights + length * step)
        weights, loss, p = weights + length * step, trial, trial_p
        if abs(decrease) <= max(tol**2, _ROUNDING) * min(loss, 1.0):
            return loss, p
        if decrease < 0.0:
            break  # the classes are so far apart that rounding decides where the minimum is
    warn(
        f"PACTran-Gaussian has not settled in {max_iter} steps or to the digits of float64; raise "
        f"max_iter, or divide features that are large by their standard deviation"
    )
    return loss, p


def _newton_step(
    rows: Tensor, p: Tensor, gradient: Tensor, penalty: Tensor
) -> tuple[Tensor, float]:
    """Solution of ``H step = -gradient``, and the decrease ``-gradient · step`` that it promises.

    Preconditioned by the diagonal of the Hessian for principal components, which are uncorrelated;
    exact enough for Newton's method to converge superlinearly.
    """
    n = len(rows)
    curvature = rows.square().mean(dim=0)[:, None] * (p - p.square()).mean(dim=0) + penalty
    curvature.clamp_min_(1e-300)
    step, residual = torch.zeros_like(gradient), -gradient
    solved = residual / curvature
    direction = solved
    norm = start = float((residual * solved).sum())
    for _ in range(_CONJUGATE_STEPS):
        if norm <= min(1e-2, start**0.5) * start:
            break
        change = (rows @ direction).mul_(p)
        change.sub_(p * change.sum(dim=1, keepdim=True))
        bent = torch.addmm(penalty * direction, rows.T, change, alpha=1.0 / n)
        length = norm / float((direction * bent).sum())
        step = step + length * direction
        residual = residual - length * bent
        solved = residual / curvature
        before, norm = norm, float((residual * solved).sum())
        direction = solved + (norm / before) * direction
    return step, -float((gradient * step).sum())
