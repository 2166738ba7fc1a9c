"""Linear probing by the protocol of the LP-FT paper."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.special import log_expit, log_softmax

from transfer_metrics.errors import InvalidInputError, check_whole
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.data import Labelled
from transfer_metrics.heads.objective import quality
from transfer_metrics.progress import check_time
from transfer_metrics.sources.tasks.subtasks import check_share
from transfer_metrics.statistics.targets import TargetMoments
from transfer_metrics.threads import threads_for

LINEAR_C = tuple(float(c) for c in np.logspace(-7, 2, 50))
"""The paper's inverse strengths, ascending."""


@dataclass(frozen=True)
class _Path:
    """The best of a path of linear models, with the validation quality of every strength.

    ``unconverged`` fits reached their limit of iterations; ``n_iter`` are the iterations of the fit
    that was chosen, and of those along the path before it.
    """

    coef: np.ndarray
    intercept: np.ndarray
    C: float
    scores: np.ndarray
    unconverged: int
    n_iter: int


class LinearProbe(Head):
    """L2-regularised logistic regression on frozen features; ridge regression of targets.

    The protocol of Kumar et al. (2022): all features are normalised by one mean and one standard
    deviation over the whole training matrix; L-BFGS runs along an ascending path of C, each fit
    started from the one before; of the C with the best validation accuracy the one under which the
    validation labels are likeliest is taken; then the
    normalisation is folded into the weights. Classes without a training example get weights and
    bias zero. Two classes have the weights -w/2 and w/2.

    Targets are fitted by ridge regression, where C is the inverse of the penalty and is chosen by
    R²; several labels per example by a logistic regression each (binary relevance), where one C for
    all is chosen by the mean average precision.

    Args:
        layers: layers to read: as for ``list_layers`` on a model; ``"last"``, ``"all"`` or names
            on features. Several are put side by side.
        pool: pooling, on a model.
        C_grid: inverse strengths; they are tried in ascending order.
        max_iter: L-BFGS iterations per fit, 200 in the paper.
        validation: share of the training data that chooses C, where no validation set is given
            and the task has no split ``val``.
        refit: fit once more with that C on all data, where validation data were cut from them;
            the paper does not.
        batch_size: examples per forward pass; None as ``extract`` has it.
        random_state: chooses what is held out.
        device: where the network runs.
        progress: show progress of forward passes.

    Attributes:
        C_: the chosen inverse strength.
        val_scores_: what ``score`` gives on validation data, per entry of the sorted ``C_grid``.
        val_score_: the best of them.
        unconverged_: how many fits along the path reached ``max_iter``; normal for large C.
        n_iter_: iterations along the path up to the chosen C; 1 of a regression.
        coef_, intercept_: (C, D) and (C,), for features that are not normalised.
        n_features_in_: D.

    Source: Kumar, Raghunathan, Jones, Ma and Liang, ICLR 2022 (arXiv 2202.10054).

    Cost: ``len(C_grid)`` fits of at most ``max_iter`` passes of O(N D C); of a regression one
    eigendecomposition for all; on a model one forward pass over the data.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> probe = LinearProbe(C_grid=(0.01, 1.0, 100.0)).fit(X, y)
    >>> probe.coef_.shape, probe.score(X, y) > 0.95
    ((3, 4), True)
    """

    name = "linear_probe"
    random = False
    _saved = ("C_", "val_scores_", "val_score_", "unconverged_", "n_iter_")

    def __init__(
        self,
        layers: Any = "last",
        pool: Any = "avg",
        *,
        C_grid: Sequence[float] = LINEAR_C,
        max_iter: int = 200,
        validation: float = 0.2,
        refit: bool = True,
        batch_size: int | None = None,
        random_state: Any = 0,
        device: Any = None,
        progress: bool = False,
    ) -> None:
        self.layers, self.pool, self.C_grid, self.max_iter = layers, pool, C_grid, max_iter
        self.validation, self.refit, self.batch_size = validation, refit, batch_size
        self.random_state, self.device, self.progress = random_state, device, progress

    def fit(self, X: Any, y: Any = None, *, validation: Any = None) -> Self:
        """Fit on a model and a task, or on features and labels.

        Args:
            X: a model or its name; a FeatureStore; a mapping of layers; an array (N, D).
            y: the task, or labels; None takes a store's own.
            validation: for features a store or (features, labels), for a model a split or
                (examples, class numbers); by default see the class.

        Raises:
            InvalidInputError: data that cannot be used, or fewer than two classes.
        """
        check_share(self.validation)
        data = self._feature_data(X, y, validation)
        train, held, whole = data.train, data.held, data.whole
        x = train.columns.dense(), train.codes, held.columns.dense(), held.codes
        path = _path_of(data.kind, *x, data.outputs, C_grid=self.C_grid, max_iter=self.max_iter)
        coef, intercept = path.coef, path.intercept
        if self.refit and len(whole) > len(train):
            if data.kind == "classification":
                coef, intercept = _refitted(whole, path, data.outputs, self.max_iter)
            else:
                x = (whole.columns.dense(), whole.codes) * 2
                again = _path_of(
                    data.kind, *x, data.outputs, C_grid=(path.C,), max_iter=self.max_iter
                )
                coef, intercept = again.coef, again.intercept
        self._set_head(data, coef, intercept)
        self.C_, self.val_scores_ = path.C, path.scores
        self.val_score_ = float(path.scores.max())
        self.unconverged_, self.n_iter_ = path.unconverged, path.n_iter
        return self

    def chosen(self) -> dict[str, Any]:
        """The strength; see ``Head``."""
        return {"C_grid": (self.C_,)}

    def training_reads(self, examples: int) -> tuple[int, int]:
        """Every iteration reads all examples; see ``Head``."""
        return self.n_iter_ * examples, self.coef_.shape[1]


def _path_of(
    kind: str,
    x: np.ndarray,
    codes: np.ndarray,
    x_held: np.ndarray,
    codes_held: np.ndarray,
    outputs: int,
    *,
    C_grid: Sequence[float] = LINEAR_C,
    max_iter: int = 200,
) -> _Path:
    """Linear models along a path of inverse strengths, the best by validation.

    For features as they are, which are normalised by one mean and one standard deviation.
    """
    check_whole(1, max_iter=max_iter)
    grid = sorted(float(c) for c in C_grid)
    if not grid or not 0 < grid[0] <= grid[-1] < math.inf:
        raise InvalidInputError(f"C_grid={C_grid!r}; give positive numbers")
    x, x_held = _matrix(x), _matrix(x_held)
    mean, std = _scalar_normalisation(x)
    scaled, scaled_held = (x - mean) / std, (x_held - mean) / std
    if kind == "regression":
        path = _ridge_path(scaled, codes, scaled_held, codes_held, grid)
    elif kind == "multilabel":
        path = _label_path(scaled, codes, scaled_held, codes_held, grid, max_iter)
    else:
        path = _logistic_path(scaled, codes, scaled_held, codes_held, outputs, grid, max_iter)
    coef, intercept = _unnormalised(path.coef, path.intercept, mean, std)
    return replace(path, coef=coef, intercept=intercept)


def _logistic_path(
    x: np.ndarray,
    codes: np.ndarray,
    x_held: np.ndarray,
    codes_held: np.ndarray,
    num_classes: int,
    grid: Sequence[float],
    max_iter: int,
) -> _Path:
    """Logistic regressions, the best by validation accuracy.

    Of equals the one with the lowest cross-entropy there, and of these the first; classes without a
    training example get zeros. The authors' code takes the first of equals, whose logits can be so
    small that a fit to other examples tells nothing.

    Source: arXiv 2202.10054 and its code, ``log_reg_sk.py``.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=grid[0], max_iter=max_iter, warm_start=True)
    known = codes_held >= 0
    scores, unconverged, iterations, best = [], 0, 0, (-1.0, -np.inf)
    for C in grid:
        unconverged += _fit_quietly(model.set_params(C=C), x, codes)
        iterations += int(np.max(model.n_iter_))
        weight, bias = _padded(model.coef_, model.intercept_, model.classes_, num_classes)
        logits = x_held @ weight.T + bias
        score = float(np.mean(logits.argmax(axis=1) == codes_held))
        scores.append(score)
        chances = log_softmax(logits[known], axis=1)
        certainty = float(chances[np.arange(len(chances)), codes_held[known]].sum())
        if (score, certainty) > best:
            best, chosen = (score, certainty), (C, weight, bias, iterations)
    C, weight, bias, n_iter = chosen
    return _Path(weight, bias, C, np.array(scores), unconverged, n_iter)


def _ridge_path(
    x: np.ndarray,
    targets: np.ndarray,
    x_held: np.ndarray,
    targets_held: np.ndarray,
    grid: Sequence[float],
) -> _Path:
    """Ridge regressions of targets (N, K), the first of the best by R².

    ``argmin Σ ‖t - Wx - b‖² + ‖W‖² / C``. One eigendecomposition of the scatter serves all.
    """
    moments = TargetMoments.from_batch(x, targets)
    spectrum, vectors = (part.numpy() for part in moments.total.eigh)
    turned = vectors.T @ moments.cross.numpy()
    centre, middle = moments.mean.numpy(), moments.target_mean.numpy()
    held = (x_held - centre) @ vectors
    fits = [turned / (spectrum + 1.0 / C)[:, None] for C in grid]
    scores = [quality("regression", held @ fit + middle, targets_held) for fit in fits]
    best = int(np.argmax(scores))
    weight = (vectors @ fits[best]).T
    return _Path(weight, middle - weight @ centre, grid[best], np.array(scores), 0, 1)


def _label_path(
    x: np.ndarray,
    labels: np.ndarray,
    x_held: np.ndarray,
    labels_held: np.ndarray,
    grid: Sequence[float],
    max_iter: int,
) -> _Path:
    """Logistic regressions of each of K labels, the best by average precision of one C for all.

    Of equals the one with the lowest cross-entropy. A label that all examples have, or none, gets
    weights of zero and the logarithm of its odds, with half an example more on either side.
    """
    from sklearn.linear_model import LogisticRegression

    counts = labels.sum(axis=0)
    weight = np.zeros((labels.shape[1], x.shape[1]))
    bias = np.log((counts + 0.5) / (len(x) - counts + 0.5))
    models = {
        label: LogisticRegression(max_iter=max_iter, warm_start=True)
        for label in np.flatnonzero((counts > 0) & (counts < len(x)))
    }
    scores, unconverged, iterations, best = [], 0, 0, (-np.inf, -np.inf)
    for C in grid:
        for label, model in models.items():
            unconverged += _fit_quietly(model.set_params(C=C), x, labels[:, label])
            iterations += int(np.max(model.n_iter_))
            weight[label], bias[label] = model.coef_[0], model.intercept_[0]
        logits = x_held @ weight.T + bias
        score = quality("multilabel", logits, labels_held)
        scores.append(score)
        certainty = float(log_expit(np.where(labels_held > 0, logits, -logits)).sum())
        if (score, certainty) > best:
            best, chosen = (score, certainty), (C, weight.copy(), bias.copy(), iterations)
    C, weight, bias, n_iter = chosen
    # Every label reads all examples.
    reads = -(-n_iter // max(len(models), 1))
    return _Path(weight, bias, C, np.array(scores), unconverged, reads)


def _scalar_normalisation(x: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation over all entries."""
    mean, std = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    if not std > 0:
        raise InvalidInputError("all features are the same number; there is nothing to learn from")
    return mean, std


def _unnormalised(
    weight: np.ndarray, bias: np.ndarray, mean: float, std: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights for x from weights for (x - mean) / std: the logits stay the same."""
    return weight / std, bias - mean / std * weight.sum(axis=1)


def _padded(
    coef: np.ndarray, intercept: np.ndarray, present: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (C, D) and biases (C,) with zeros for absent classes, and -1/2 and 1/2 for two."""
    if len(coef) == 1:
        coef, intercept = np.concatenate([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2
    weight = np.zeros((num_classes, coef.shape[1]), coef.dtype)
    bias = np.zeros(num_classes, coef.dtype)
    weight[present], bias[present] = coef, intercept
    return weight, bias


def _fit_quietly(model: Any, x: np.ndarray, codes: np.ndarray) -> int:
    """Fit, and return 1 if the iterations ran out, else 0."""
    from sklearn.exceptions import ConvergenceWarning

    check_time()
    with warnings.catch_warnings(), threads_for(x.size * len(np.unique(codes))):
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes")
        model.fit(x, codes)
    return int(np.max(model.n_iter_) >= model.max_iter)


def _refitted(
    whole: Labelled, path: _Path, num_classes: int, max_iter: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of the chosen C on all data, started from those that were chosen."""
    from sklearn.linear_model import LogisticRegression

    x, codes = _matrix(whole.columns.dense()), whole.codes
    mean, std = _scalar_normalisation(x)
    model = LogisticRegression(C=path.C, max_iter=max_iter, warm_start=True)
    present = np.unique(codes)
    start, bias = path.coef * std, path.intercept + mean * path.coef.sum(axis=1)
    if len(present) == 2:
        start, bias = start[present], bias[present]
        model.coef_, model.intercept_ = start[1:] - start[:1], bias[1:] - bias[:1]
    else:
        model.coef_, model.intercept_ = start[present], bias[present]
    model.classes_ = present
    _fit_quietly(model, (x - mean) / std, codes)
    weight, bias = _padded(model.coef_, model.intercept_, model.classes_, num_classes)
    return _unnormalised(weight, bias, mean, std)


def _matrix(x: np.ndarray) -> np.ndarray:
    """Half precision is too coarse to fit in."""
    return x.astype(np.float32) if x.dtype == np.float16 else x
