"""EMMS: how well features explain the labels' embeddings by a linear map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import register_metric
from transfer_metrics.statistics import ClassMoments, Scatter
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.inputs import as_features, check_finite
from transfer_metrics.statistics.leverage import kind_for, missed_without
from transfer_metrics.statistics.linalg import product


def _slopes(
    influence: Influence, *, embeddings: Sequence[Any] | None, rounds: int, tol: float
) -> Tensor:
    """What EMMS loses without each block of examples.

    All that it reads of the features are the products of what they leave of one-hot labels.
    """
    whole, left = influence.whole, []
    if len(whole.total.eigh[0]) >= whole.n - 1:
        return torch.zeros_like(influence.n)
    every = _tables(whole, embeddings)
    for b, residuals in enumerate(_without_each(influence)):
        counts = influence.without(b)[0][whole.present]
        kept = counts > 0
        tables = every[:, kept] if embeddings else every[:, kept][:, :, kept]
        tables = _standardised(tables, counts[kept])
        gram = _inner(counts[kept].sqrt()[:, None] * tables)
        rest = tables.flatten(1) @ (residuals[kept][:, kept] @ tables).flatten(1).T
        size = float(counts.sum()) * tables.shape[2]
        left.append(_solved(gram, gram - rest, size, rounds, tol)[0])
    plain = emms(whole, embeddings=embeddings, rounds=rounds, tol=tol)
    return influence.left_out(plain, left)


def _without_each(influence: Influence) -> Iterator[Tensor]:
    """Products of what a regression leaves of the centred one-hot labels, without each block.

    With twenty examples or more for each feature no block fits its own examples more than another.
    """
    whole, leverage, present = influence.whole, influence.leverage, influence.whole.present
    counts, prior = whole.counts[present].to(whole.means), whole.target_mean
    values, vectors = whole.total.eigh
    basis = vectors / values.sqrt()
    weights = product(basis, product(basis.T, whole.cross))
    residuals = counts.diag() - torch.outer(counts, prior) - whole.cross.T @ weights
    if leverage is not None:
        kind, unit = kind_for(float(values[0]), float(values[-1])), float(values[0]) ** -0.5
        turn = (basis / unit).cpu().numpy().astype(kind)
        fitted = leverage.rows.times(weights).cpu().numpy()
    for b, block in enumerate(influence.blocks):
        if leverage is None:
            own = block.counts[present].to(prior)
            apart = block.means[present] - whole.mean
            crossed = (own[:, None] * apart).T - torch.outer(influence.sums[b], prior)
            total = block.total + Scatter.of_rows((block.n**0.5 * (block.mean - whole.mean))[None])
            fit = crossed.T @ weights
            lost = own.diag() - torch.outer(own, prior) - torch.outer(prior, own)
            lost += block.n * torch.outer(prior, prior) - fit - fit.T
            lost = lost + weights.T @ total.times(weights)
            lost = lost / (1.0 - (1 + len(values)) / whole.n)
        else:
            rows, (start, stop) = leverage.rows, leverage.rows.starts[b : b + 2]
            ones, half = rows.labels(b)[0], rows.filled(b, kind, unit) @ turn
            left = np.eye(len(ones)) - half @ half.T - np.outer(ones, ones) / whole.n
            error = leverage.targets(b, present) - np.outer(ones, prior.cpu().numpy())
            missed = missed_without(left, error - fitted[start:stop])[1]
            lost = torch.from_numpy(missed.T @ missed).to(residuals)
        yield residuals - lost


@register_metric(
    derivative=_slopes,
    parts=("spectrum",),
    reference=(
        "Meng et al., Foundation Model is Efficient Multimodal Multitask Model Selector, "
        "NeurIPS 2023"
    ),
    invariant=("scale", "shift", "rotation"),
)
def emms(
    statistic: ClassMoments,
    *,
    embeddings: Sequence[Any] | None = None,
    rounds: int = 1000,
    tol: float = 1e-10,
) -> float:
    """EMMS: minus the mean squared residual of label embeddings regressed on the features.

    Features and embeddings ``Y_k`` (N, E) are standardised by column. From uniform λ, alternate
    ``w = argmin ‖Xw - Σ_k λ_k Y_k‖`` and ``λ = sparsemax(argmin ‖Xw - Σ_k λ_k Y_k‖)``; the score is
    ``-‖Xw - Σ_k λ_k Y_k‖² / (N E)`` with w fitted to the last λ. (The authors' code makes one round
    and multiplies by E, by a slip of brackets.)

    The fitted values are a projection on the span of the centred features, so that the scale of the
    features, and of each of them, does not matter, and as labels choose the rows of ``Y_k``, all is
    a function of class moments: any N in one pass. One embedding needs no rounds: the score is
    minus one plus the mean R².

    Args:
        statistic: ``ClassMoments``; or pass features (N, D) and labels (N,).
        embeddings: tables (C, E), one row per class in the order of the sorted class names, such as
            vectors of the class names from several language models, all with the same E (project
            them, or repeat the call, where they differ); one-hot by default.
        rounds: most alternations; 1 for the authors' number of them.
        tol: the alternation stops when no λ_k moves by more.

    Returns:
        The score in [-1, 0]; higher is better.

    Raises:
        InvalidInputError: one class only, constant features, or embeddings of a wrong shape, with
            NaN or infinite values, or constant over the classes that occur.

    Failure modes:
        - With D >= N - 1 every label is fitted exactly and the score is 0 whatever the features; a
          warning says so. With few examples per feature it is optimistic, the more so the wider
          the features.
        - Embeddings that contradict each other shorten ``Σ_k λ_k Y_k``, hence the residual: compare
          scores with the same embeddings only.

    Source: Meng et al. (2023), algorithm 1.

    Cost: O(N D min(N, D)) for the moments, O(min(N, D)³) once, shared with other metrics of the
    layer, and O(C min(N, D) (D + K E)) here; a round costs O(K³) for K embeddings.

    >>> from sklearn.datasets import load_iris
    >>> round(emms(*load_iris(return_X_y=True)), 6)
    -0.404051
    """
    if rounds < 1 or tol < 0:
        raise InvalidInputError("rounds must be at least 1 and tol at least 0")
    if len(statistic.present) < 2:
        raise InvalidInputError("EMMS needs at least two classes with examples")
    n = statistic.n
    values, vectors = statistic.total.eigh
    if not len(values):
        raise InvalidInputError("all features are constant; they explain no label")
    counts = statistic.counts[statistic.present].to(vectors.dtype)
    tables = _standardised(_tables(statistic, embeddings), counts)
    if len(values) >= n - 1:
        warn(
            f"EMMS is 0 whatever the features: {len(values)} independent ones fit any labels of "
            f"{n} examples exactly"
        )
        return 0.0
    # U'H for an orthonormal basis U of the centred features and one-hot labels H.
    basis = (vectors / values.sqrt()).T @ statistic.cross
    # Inner products of the embeddings with each other, and of their fitted values.
    gram = _inner(counts.sqrt()[:, None] * tables)
    fitted = _inner(basis @ tables)
    score, settled = _solved(gram, fitted, n * tables.shape[2], rounds, tol)
    # One round is asked for by those who want the authors' number.
    if not settled and rounds > 1:
        warn(
            f"the weights of the embeddings still move after {rounds} rounds of EMMS; raise rounds"
        )
    return score


def _solved(
    gram: Tensor, fitted: Tensor, size: float, rounds: int, tol: float
) -> tuple[float, bool]:
    """The score of N E numbers, and whether the weights of the embeddings have settled."""
    weights, settled = _alternate(gram, fitted, rounds, tol)
    return -max(float(weights @ (gram - fitted) @ weights) / size, 0.0), settled


def _sparsemax(z: Tensor) -> Tensor:
    """The point of the probability simplex nearest to ``z`` (K,): exact, by sorting.

    Source: Martins and Astudillo, From Softmax to Sparsemax, ICML 2016, algorithm 1.
    """
    ordered = z.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1.0) / torch.arange(1, len(z) + 1, device=z.device)
    support = int((ordered > excess).sum())
    return (z - excess[support - 1]).clamp_min(0.0)


def _tables(statistic: ClassMoments, embeddings: Sequence[Any] | None) -> Tensor:
    """Embeddings of the classes that occur, (K, C, E)."""
    means = statistic.means
    if embeddings is None:
        return torch.eye(len(statistic.present), dtype=means.dtype, device=means.device)[None]
    tables = [as_features(table, f"embeddings[{k}]") for k, table in enumerate(embeddings)]
    if not tables:
        raise InvalidInputError("embeddings is empty; pass tables (C, E), or None for one-hot")
    for k, table in enumerate(tables):
        check_finite(table, f"embeddings[{k}]")
        if len(table) != statistic.num_classes or table.shape[1] != tables[0].shape[1]:
            raise InvalidInputError(
                f"embeddings[{k}] has shape {tuple(table.shape)}; every table needs one row for "
                f"each of the {statistic.num_classes} classes and the same number of columns "
                f"(the first has {tables[0].shape[1]})"
            )
    return torch.stack([t.to(means.device) for t in tables])[:, statistic.present]


def _standardised(tables: Tensor, counts: Tensor) -> Tensor:
    """Columns with mean 0 and variance 1 over the examples; constant ones are 0."""
    share = counts / counts.sum()
    centred = tables - (share @ tables)[:, None]
    deviation = (share @ centred.square()).sqrt()[:, None]
    varies = deviation > 1e-12 * tables.abs().amax(dim=1, keepdim=True)
    if not bool(varies.any(dim=2).all()):
        raise InvalidInputError(
            "an embedding is constant over the classes that occur; there is nothing to explain"
        )
    return torch.where(varies, centred / deviation, 0.0)


def _inner(rows: Tensor) -> Tensor:
    flat = rows.flatten(1)
    return flat @ flat.T


def _alternate(gram: Tensor, fitted: Tensor, rounds: int, tol: float) -> tuple[Tensor, bool]:
    """Weights (K,) of the embeddings, and whether they have settled.

    With w fitted to λ, ``⟨Xw, Y_k⟩ = (fitted λ)_k``: the alternation never leaves K dimensions.
    """
    size = len(gram)
    weights = gram.new_full((size,), 1.0 / size)
    for _ in range(rounds):
        # K is small; the driver that copes with embeddings that repeat each other is on the CPU.
        solved = torch.linalg.lstsq(gram.cpu(), (fitted @ weights)[:, None].cpu(), driver="gelsd")
        moved = _sparsemax(solved.solution[:, 0]).to(weights)
        change = float((moved - weights).abs().max())
        weights = moved
        if change <= tol:
            return weights, True
    return weights, size == 1
