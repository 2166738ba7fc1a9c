"""Head2Toe's choice of features: those to which a group-sparse classifier gives weight."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError, warn
from transfer_metrics.registry import choose
from transfer_metrics.selection.adam import train_softmax
from transfer_metrics.selection.base import ColumnSelector
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.selection.proximal import group_lasso
from transfer_metrics.statistics.inputs import as_labels, as_targets

_SOLVERS = ("proximal", "adam")
_PAPERS_LAM = 1e-5
_SHARE_OF_LAMBDA_MAX = 0.05
# Scores of the rows of W, (D, C); those of ``l2layer`` are then averaged over each layer.
_OF_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "l2": lambda weights: np.square(weights).sum(axis=1),
    "l1": lambda weights: np.abs(weights).sum(axis=1),
    "linf": lambda weights: np.abs(weights).max(axis=1),
    "l2layer": lambda weights: np.sqrt(np.square(weights).sum(axis=1)),
}
_WITHOUT_LABELS = ("variance", "random")
_OF_FEATURES = (*_WITHOUT_LABELS, "f_classif", "chi2", "mutual_info", "trees")
_TREES = 50


class GroupLassoSelector(ColumnSelector):
    """The most relevant columns of all layers, by the group lasso of Head2Toe.

    A linear softmax classifier is fitted to all columns of all layers at once, with the penalty
    ``λ Σ_i ‖W_i‖₂`` over the rows of its weights (D, C), and the columns with the largest rows
    are kept. Ties go to the lower column.

    The paper trains with Adam, which leaves no weight at zero. The default solver finds the
    minimum itself, where most rows are zero; when more columns are kept than have weights, the
    others follow by the norm of their gradient, that is, by how near they are to getting some.
    From a fiftieth of the features on, Adam's unfinished weights rank them better
    (``docs/head2toe.md``), which is why ``Head2Toe`` trains with Adam. The minimum is for fewer
    features, for a choice without chance, and for features that do not fit in memory, since it is
    found with one layer in memory at a time.

    Args:
        keep: share of the columns to keep, ``int(D * keep)`` of them and at least one.
        lam: λ. None is the paper's 1e-5 for ``"adam"``, and 0.05 of the smallest λ at which no
            column has weight for ``"proximal"``, which means the same for every data set.
        solver: ``"proximal"`` (the exact minimum) or ``"adam"`` (the paper's).
        relevance: of the weights ``"l2"`` (the paper's: squared length), ``"l1"``, ``"linf"`` or
            ``"l2layer"`` (mean length over the layer); or without a classifier ``"variance"`` (the
            standard deviation of the column, which has its order), ``"random"``, ``"f_classif"``,
            ``"chi2"``, ``"mutual_info"`` or ``"trees"``.
        unit_norm: divide each layer's rows by their length before scoring.
        offset: leave out so many of the best columns.
        layer_mix: share of the mean over its layer in each column's score; 1 chooses layers.
        layer_sizes: how many columns each layer of an array has.
        lr: Adam's learning rate.
        steps: Adam's steps.
        batch_size: Adam's examples per step.
        tol: how near to its minimum the proximal solver comes, see ``group_lasso``.
        max_iter: its most steps on one working set.
        device: where Adam trains.
        checkpoint: file for the state of Adam, see ``train_softmax``.
        random_state: seed of Adam and of the scores that use chance.
        progress: show a bar on stderr.

    Attributes:
        scores_: (D,) float64; zero for a column without weight.
        gradient_norms_: (D,) what the columns without weight are ranked by; None where they are
            not.
        columns_: selected columns, ascending, (k,) int64.
        layers_: names of the layers of which some were selected.
        layer_counts_: how many columns were selected of each of them.
        classes_: labels in the order of the classes; None where no labels were read.
        lam_: λ; None for scores without a classifier.
        lambda_max_: the smallest λ at which no column has weight; None for ``"adam"``.
        kkt_residual_: see ``GroupLassoFit``; None for ``"adam"``.
        n_iter_: steps of the solver.
        n_features_in_: D.

    Source: Evci et al. (2022), Head2Toe.

    >>> from sklearn.datasets import load_wine
    >>> X, y = load_wine(return_X_y=True)
    >>> X = (X - X.mean(0)) / X.std(0)
    >>> GroupLassoSelector(keep=0.25, unit_norm=False).fit(X, y).columns_.tolist()
    [0, 6, 12]
    """

    def __init__(
        self,
        keep: float = 0.1,
        *,
        lam: float | None = None,
        solver: str = "proximal",
        relevance: str = "l2",
        unit_norm: bool = True,
        offset: int = 0,
        layer_mix: float = 0.0,
        layer_sizes: Sequence[int] | None = None,
        lr: float = 0.01,
        steps: int = 500,
        batch_size: int = 128,
        tol: float = 1e-6,
        max_iter: int = 20_000,
        device: str | None = None,
        checkpoint: Any = None,
        random_state: Any = 0,
        progress: bool = False,
    ) -> None:
        self.keep, self.lam, self.solver, self.relevance = keep, lam, solver, relevance
        self.unit_norm, self.offset, self.layer_mix = unit_norm, offset, layer_mix
        self.layer_sizes, self.lr, self.steps = layer_sizes, lr, steps
        self.batch_size, self.tol, self.max_iter = batch_size, tol, max_iter
        self.device, self.checkpoint, self.random_state = device, checkpoint, random_state
        self.progress = progress

    def fit(self, X: Any, y: Any = None, *, kind: str | None = None) -> Self:
        """Score all columns and choose.

        Args:
            X: a ``FeatureStore``, a mapping from layer to (N, D), or an array (N, D).
            y: labels of any kind, (N,); those of the store where X is one. With the solver
                ``"adam"`` also targets (N,) or (N, K), best of spread one, or several labels
                per example (N, K).
            kind: of labels in arrays, as for ``score``. Stores have theirs.

        Raises:
            InvalidInputError: a parameter out of range, no labels, one class only, or NaN or
                infinite features.
            UnknownNameError: no such solver or score.
            UnsupportedTaskError: targets or several labels for another solver, or for a score that
                needs classes.

        Warns:
            TransferMetricsWarning: ``tol`` was not reached, or no column tells the classes apart.

        Cost: see ``group_lasso`` and ``train_softmax``.
        """
        self._check_parameters()
        needed = self.relevance not in _WITHOUT_LABELS
        return self.fit_columns(*self._read_fit(X, y, needed, kind=kind))

    def fit_columns(self, columns: LayerColumns, y: Any, kind: str) -> Self:
        """Score and choose by labels of a ``kind`` that were read already; see ``fit``."""
        self._check_parameters()
        self.refuse(kind)
        features = columns.unit_rows() if self.unit_norm else columns
        self.lam_: float | None = None
        self.lambda_max_: float | None = None
        self.kkt_residual_: float | None = None
        self.gradient_norms_: np.ndarray | None = None
        self.classes_: np.ndarray | None = None
        self.n_iter_ = 0
        labels, classes = None, 0
        if kind in ("regression", "multilabel") and y is not None:
            labels = as_targets(y, len(features))
            classes = labels.shape[1]
        elif y is not None:
            labels, classes = as_labels(y, len(features))
            self.classes_, kind = np.unique(np.asarray(y)), "classification"
        scores = self._scores(features, labels, classes, kind)
        self.scores_ = (1.0 - self.layer_mix) * scores
        if self.layer_mix:
            self.scores_ += self.layer_mix * _layer_means(scores, features)
        self._keep(columns, columns.inside(self.top(self.keep)))
        return self

    def refuse(self, kind: str) -> None:
        """Raise ``UnsupportedTaskError`` where a kind of task has no definition."""
        by_weights = self.relevance in _OF_WEIGHTS
        fine = (by_weights and self.solver == "adam") or self.relevance in _WITHOUT_LABELS
        if fine or kind not in ("regression", "multilabel"):
            return
        what = f"solver={self.solver!r}" if by_weights else f"relevance={self.relevance!r}"
        raise UnsupportedTaskError(
            f"GroupLassoSelector: {what} tells classes apart, and this is a {kind}; use "
            f"solver='adam' with a relevance by weights such as 'l2', or pass "
            f"y=quantile_bins(targets)"
        )

    def _scores(self, features: LayerColumns, labels: Any, classes: int, kind: str) -> np.ndarray:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        if self.relevance in _OF_FEATURES:
            return _feature_scores(features, labels, self.relevance, seed)
        if self.solver == "adam":
            lam = _PAPERS_LAM if self.lam is None else self.lam
            self.lam_, self.n_iter_ = lam, self.steps
            trained = train_softmax(
                features,
                labels,
                classes,
                kind=kind,
                lam=lam,
                lr=self.lr,
                steps=self.steps,
                batch_size=self.batch_size,
                seed=seed,
                device=self.device,
                checkpoint=self.checkpoint,
                progress=self.progress,
            )
            return _weight_scores(trained.weights, self.relevance, features)
        found = group_lasso(
            features,
            labels,
            classes,
            _SHARE_OF_LAMBDA_MAX if self.lam is None else self.lam,
            relative=self.lam is None,
            tol=self.tol,
            max_iter=self.max_iter,
            progress=self.progress,
        )
        self.lam_, self.lambda_max_ = found.lam, found.lambda_max
        self.kkt_residual_, self.n_iter_ = found.kkt_residual, found.iterations
        self.gradient_norms_ = found.gradient_norms
        if not found.lambda_max:
            warn("all features are constant; the choice between them means nothing")
        return _weight_scores(found.dense(), self.relevance, features)

    def top(self, keep: float) -> np.ndarray:
        """The columns that another fraction would keep, ascending, by the scores of ``fit``.

        Raises:
            InvalidInputError: there are not that many columns after ``offset``.
        """
        total, count = len(self.scores_), max(int(len(self.scores_) * keep), 1)
        if self.offset + count > total:
            raise InvalidInputError(
                f"keep={keep} of {total} columns from offset={self.offset} on are more than there "
                f"are; lower one of them"
            )
        ties = np.zeros(total) if self.gradient_norms_ is None else self.gradient_norms_
        order = np.lexsort((-ties, -self.scores_))
        return np.sort(order[self.offset : self.offset + count]).astype(np.int64)

    def _check_parameters(self) -> None:
        choose("solver", self.solver, _SOLVERS)
        choose("relevance", self.relevance, [*_OF_WEIGHTS, *_OF_FEATURES])
        lam = 1.0 if self.lam is None else self.lam
        whole = self.offset >= 0 and self.offset == int(self.offset)
        for name, value, fine, should in (
            ("keep", self.keep, 0 < self.keep <= 1, "lie in (0, 1]"),
            ("offset", self.offset, whole, "be a whole number from 0 on"),
            ("layer_mix", self.layer_mix, 0 <= self.layer_mix <= 1, "lie in [0, 1]"),
            ("lam", self.lam, 0 < lam < math.inf, "be a positive number or None"),
        ):
            if not fine:
                raise InvalidInputError(f"{name} must {should}, not {value}")


def _weight_scores(weights: np.ndarray, score: str, features: LayerColumns) -> np.ndarray:
    """Scores of all columns by their weights (D, C)."""
    scores = _OF_WEIGHTS[score](np.asarray(weights, dtype=np.float64))
    return _layer_means(scores, features) if score == "l2layer" else scores


def _feature_scores(features: LayerColumns, y: Any, score: str, seed: int) -> np.ndarray:
    """Scores of all columns without a classifier, in blocks; ``trees`` has all in memory.

    ``variance`` is the standard deviation, as in the published code. ``mutual_info`` takes about a
    millisecond per column and thousand examples.
    """
    if score == "random":
        return np.random.default_rng(seed).random(features.dim)
    if score == "trees":
        from sklearn.ensemble import ExtraTreesClassifier

        trees = ExtraTreesClassifier(_TREES, random_state=seed)
        return trees.fit(features.dense().astype(np.float32, copy=False), y).feature_importances_
    scores = np.empty(features.dim)
    for start, block in features.blocks():
        found = _block_scores(block.astype(np.float64), y, score, seed)
        scores[start : start + block.shape[1]] = found
    return scores


def _layer_means(scores: np.ndarray, features: LayerColumns) -> np.ndarray:
    """Each column's score replaced by the mean over its layer."""
    means = np.add.reduceat(scores, features.starts[:-1]) / features.dims
    return np.repeat(means, features.dims)


def _block_scores(block: np.ndarray, y: Any, score: str, seed: int) -> np.ndarray:
    from sklearn.feature_selection import chi2, f_classif, mutual_info_classif

    if score == "variance":
        return block.std(axis=0)
    if score == "mutual_info":
        return mutual_info_classif(block, y, discrete_features=False, random_state=seed)
    if score == "chi2" and block.min() < 0:
        raise InvalidInputError(
            "relevance='chi2' needs features that are not negative; use f_classif"
        )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # constant features: their score is zero
        found = (chi2 if score == "chi2" else f_classif)(block, y)[0]
    # Features that separate the classes without error have an infinite ratio.
    return np.nan_to_num(found, nan=0.0, posinf=float(np.finfo(np.float32).max))
