"""Linear probing by the protocol of the LP-FT paper."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np
from scipy.special import log_expit, log_softmax

from transfer_metrics.errors import InvalidInputError, check_whole
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.objective import quality
from transfer_metrics.progress import check_time
from transfer_metrics.sources.tasks.subtasks import check_share
from transfer_metrics.statistics.targets import TargetMoments
from transfer_metrics.threads import threads_for

LINEAR_C = tuple(float(c) for c in np.logspace(-7, 2, 50))
"""The paper's inverse strengths, ascending."""


_Fits = Callable[[float], tuple[np.ndarray, np.ndarray, int | Fraction, int]]
"""From C to weights, biases, iterations, and how many fits reached their limit of them."""


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

    def fit(
        self, X: Any, y: Any = None, *, validation: Any = None, kind: str | None = None
    ) -> Self:
        """Fit on a model and a task, or on features and labels.

        Args:
            X: a model or its name; a FeatureStore; a mapping of layers; an array (N, D).
            y: the task, or labels; None takes a store's own.
            validation: for features a store or (features, labels), for a model a split or
                (examples, class numbers); by default see the class.
            kind: of labels in arrays, as for ``score``: ``"regression"`` makes whole numbers
                targets. Tasks and stores have theirs.

        Raises:
            InvalidInputError: data that cannot be used, or fewer than two classes.
        """
        check_share(self.validation)
        data = self._feature_data(X, y, validation, kind)
        train, held = ((part.columns.dense(), part.codes) for part in (data.train, data.held))
        kind, size, most = data.kind, data.outputs, self.max_iter
        path = best = _path_of(kind, *train, *held, size, C_grid=self.C_grid, max_iter=most)
        if self.refit and len(data.whole) > len(data.train):
            whole = data.whole.columns.dense(), data.whole.codes
            best = _path_of(kind, *whole, *whole, size, C_grid=(path.C,), max_iter=most, start=path)
        self._set_head(data, best.coef, best.intercept)
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
    start: _Path | None = None,
) -> _Path:
    """Linear models along a path of inverse strengths, the best by validation.

    For features as they are, which are normalised by one mean and one standard deviation. Of equals
    the one under which the validation labels are likeliest, and of these the first. (The authors'
    code takes the first of equals, whose logits can be so small that a fit to other examples tells
    nothing.) ``start`` has the weights that the first fit of classes begins with.

    Source: arXiv 2202.10054 and its code, ``log_reg_sk.py``.
    """
    check_whole(1, max_iter=max_iter)
    grid = sorted(float(c) for c in C_grid)
    if not grid or not 0 < grid[0] <= grid[-1] < math.inf:
        raise InvalidInputError(f"C_grid={C_grid!r}; give positive numbers")
    # Half precision is too coarse to fit in.
    x, x_held = (a.astype(np.float32) if a.dtype == np.float16 else a for a in (x, x_held))
    mean, std = float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))
    if not std > 0:
        raise InvalidInputError("all features are the same number; there is nothing to learn from")
    x, x_held = (x - mean) / std, (x_held - mean) / std
    if kind == "regression":
        fit = _ridge_fits(x, codes)
    elif kind == "multilabel":
        fit = _label_fits(x, codes, max_iter)
    else:
        began = None
        if start is not None:
            began = start.coef * std, start.intercept + mean * start.coef.sum(axis=1)
        fit = _class_fits(x, codes, outputs, max_iter, began)
    scores: list[float] = []
    spent, unconverged, best = Fraction(0), 0, (-math.inf, -math.inf)
    for C in grid:
        weight, bias, iterations, late = fit(C)
        spent, unconverged = spent + iterations, unconverged + late
        logits = x_held @ weight.T + bias
        found = quality(kind, logits, codes_held), _certainty(kind, logits, codes_held)
        if not scores or found > best:
            best, chosen = found, (*_unnormalised(weight, bias, mean, std), C)
            n_iter = max(math.ceil(spent), 1)
        scores.append(found[0])
    return _Path(*chosen, np.array(scores), unconverged, n_iter)


def _certainty(kind: str, logits: np.ndarray, truth: np.ndarray) -> float:
    """Log-likelihood of labels that are known; none of targets."""
    if kind == "regression":
        return 0.0
    if kind == "multilabel":
        return float(log_expit(np.where(truth > 0, logits, -logits)).sum())
    known = np.flatnonzero(truth >= 0)
    return float(log_softmax(logits[known], axis=1)[np.arange(len(known)), truth[known]].sum())


def _class_fits(
    x: np.ndarray,
    codes: np.ndarray,
    num_classes: int,
    max_iter: int,
    start: tuple[np.ndarray, np.ndarray] | None,
) -> _Fits:
    """Logistic regressions, each started from the last; absent classes get zeros."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=max_iter, warm_start=True)
    if start is not None:
        model.classes_ = np.unique(codes)
        weight, bias = (part[model.classes_] for part in start)
        two = len(model.classes_) == 2
        model.coef_ = weight[1:] - weight[:1] if two else weight
        model.intercept_ = bias[1:] - bias[:1] if two else bias

    def fit(C: float) -> tuple[np.ndarray, np.ndarray, int, int]:
        late = _fit_quietly(model.set_params(C=C), x, codes)
        weight, bias = _padded(model.coef_, model.intercept_, model.classes_, num_classes)
        return weight, bias, int(np.max(model.n_iter_)), late

    return fit


def _ridge_fits(x: np.ndarray, targets: np.ndarray) -> _Fits:
    """Ridge regressions of targets (N, K): ``argmin Σ ‖t - Wx - b‖² + ‖W‖² / C``.

    One eigendecomposition of the scatter serves all.
    """
    moments = TargetMoments.from_batch(x, targets)
    spectrum, vectors = (part.numpy() for part in moments.total.eigh)
    turned = vectors.T @ moments.cross.numpy()
    centre, middle = moments.mean.numpy(), moments.target_mean.numpy()

    def fit(C: float) -> tuple[np.ndarray, np.ndarray, int, int]:
        weight = (vectors @ (turned / (spectrum + 1.0 / C)[:, None])).T
        return weight, middle - weight @ centre, 0, 0

    return fit


def _label_fits(x: np.ndarray, labels: np.ndarray, max_iter: int) -> _Fits:
    """Logistic regressions of each of K labels, which count as one that reads all examples.

    A label that all examples have, or none, gets weights of zero and the logarithm of its odds,
    with half an example more on either side.
    """
    from sklearn.linear_model import LogisticRegression

    counts = labels.sum(axis=0)
    weight = np.zeros((labels.shape[1], x.shape[1]))
    bias = np.log((counts + 0.5) / (len(x) - counts + 0.5))
    models = {
        label: LogisticRegression(max_iter=max_iter, warm_start=True)
        for label in np.flatnonzero((counts > 0) & (counts < len(x)))
    }

    def fit(C: float) -> tuple[np.ndarray, np.ndarray, Fraction, int]:
        spent, late = 0, 0
        for label, model in models.items():
            late += _fit_quietly(model.set_params(C=C), x, labels[:, label])
            spent += int(np.max(model.n_iter_))
            weight[label], bias[label] = model.coef_[0], model.intercept_[0]
        return weight.copy(), bias.copy(), Fraction(spent, max(len(models), 1)), late

    return fit


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
