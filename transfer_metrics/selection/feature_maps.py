"""Which feature maps of a teacher's hidden layers a student should learn from, few-shot."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold

from transfer_metrics.errors import InvalidInputError, LayerNotFoundError, check_whole, warn
from transfer_metrics.metrics.transrate import RELATIVE_DISTORTION
from transfer_metrics.registry import choose
from transfer_metrics.selection.base import ColumnSelector
from transfer_metrics.selection.columns import LayerColumns, unit_rows
from transfer_metrics.statistics import ClassMoments
from transfer_metrics.statistics.inputs import as_labels
from transfer_metrics.threads import threads_for

_Folds = list[tuple[np.ndarray, np.ndarray]]
_CRITERIA = ("cv", "fisher", "transrate")
_LEAST_GAIN = 1e-12


class FeatureMapSelector(ColumnSelector):
    """Feature maps of any layers of a teacher, chosen on a few labelled examples.

    A feature map is a channel of a block, averaged over its positions: a column of a pooled store.
    The penultimate layer alone, from which students usually learn, is always a candidate, and
    candidates are judged by the cross-validated accuracy of the student on the support set, with
    each layer's rows at unit length.

    ``"cv"`` starts from the penultimate layer and adds, step by step, the layer that raises that
    accuracy most, until none does; of equals the one with fewer maps. ``"fisher"`` ranks all maps
    by their F ratio and ``"transrate"`` by the order in which they raise TransRate most (centred
    classes, ``eps="auto"``; beyond N maps, by what they add to the first N). Both keep the best m,
    with m chosen by the same accuracy, for which the ranking is made anew in every fold. They
    stay with the penultimate layer unless a ranking does strictly better.

    With one example per class there is no evidence for any layer, and the penultimate one is kept,
    with a warning. This is a method in the style of ATL, whose published rule could not be
    consulted: it satisfies the abstract, and none of the paper's numbers are claimed.

    Args:
        criterion: ``"cv"``, ``"fisher"`` or ``"transrate"``.
        penultimate: name of the penultimate layer; the last one by default.
        student: a scikit-learn classifier; by default multinomial logistic regression with an L2
            penalty.
        folds: the most folds; with fewer examples of a class, one of each is left out at a time.
        repeats: how often that is repeated with other folds, which steadies it.
        shares: shares of all maps that ``"fisher"`` and ``"transrate"`` try to keep.
        layer_sizes: how many of an array's columns each layer has; an array is one layer
            otherwise.
        random_state: seed of the folds.

    Attributes:
        layers_: names of the layers that maps were kept of; the penultimate one first for
            ``"cv"``, in order of depth otherwise.
        columns_: the maps that were kept, numbered over all layers, (k,), as in ``transform``.
        layer_counts_: maps per layer.
        objective_: cross-validated accuracy of what was chosen; NaN with one example per class.
            It is the largest of several, and therefore optimistic.
        penultimate_objective_: the same of the penultimate layer, never above ``objective_``.

    Raises:
        InvalidInputError: an unknown criterion, one class only, labels that are no classes, or
            shares outside (0, 1].
        LayerNotFoundError: there is no such penultimate layer.

    Warns:
        TransferMetricsWarning: one example per class, so that the penultimate layer is kept.

    Source: the abstract of Lee et al., arXiv 2111.10937 (2021).

    Cost: for L layers, N examples and F folds in all: ``"cv"`` fits at most F L (L + 1) / 2
    students, with the default student on N columns, whatever D. ``"fisher"`` and ``"transrate"``
    fit F per share, and rank in O(F N D) and O(F N² D). Memory O(N D).

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> maps = FeatureMapSelector().fit({"hidden": X[:, 2:], "last": X[:, :2]}, y)
    >>> maps.layers_, maps.objective_ > maps.penultimate_objective_
    (['last', 'hidden'], True)
    """

    def __init__(
        self,
        criterion: str = "cv",
        *,
        penultimate: str | None = None,
        student: Any = None,
        folds: int = 5,
        repeats: int = 4,
        shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
        layer_sizes: Sequence[int] | None = None,
        random_state: int = 0,
    ) -> None:
        self.criterion, self.penultimate, self.student = criterion, penultimate, student
        self.folds, self.repeats, self.shares = folds, repeats, shares
        self.layer_sizes, self.random_state = layer_sizes, random_state

    def fit(self, X: Any, y: Any = None, *, kind: str | None = None) -> Self:
        """Choose feature maps on a support set.

        Args:
            X: a ``FeatureStore``, a mapping from layer to (N, D), or an array (N, D).
            y: class labels (N,); those of the store by default.
            kind: ``"classification"`` where whole numbers that look counted are classes.
        """
        if kind not in (None, "classification"):
            raise InvalidInputError(
                f"kind={kind!r}, and FeatureMapSelector is for classes; take LayerSelector or "
                f"GroupLassoSelector"
            )
        if self.criterion not in _CRITERIA:
            raise InvalidInputError(f"criterion must be one of {_CRITERIA}, not {self.criterion!r}")
        columns, given, _ = self._read_fit(X, y, kind=kind)
        labels = as_labels(given, len(columns))[0].numpy()
        last = columns.names[-1] if self.penultimate is None else self.penultimate
        choose("layer", last, columns.names, LayerNotFoundError)
        folds = _support_folds(labels, self.folds, self.repeats, self.random_state)
        if not folds:
            warn(
                "one example per class says nothing about variance within classes; the "
                "penultimate layer is kept without a comparison"
            )
            _unit(columns, last)  # which refuses what is not finite
            inside, own, best = columns.whole([last]), math.nan, math.nan
        elif self.criterion == "cv":
            inside, own, best = self._grown(columns, labels, last, folds)
        else:
            inside, own, best = self._filtered(columns, labels, last, folds)
        judged = len(labels) * self.repeats
        self.penultimate_objective_, self.objective_ = own / judged, best / judged
        self._keep(columns, inside, unit=True)
        return self

    def _grown(
        self, columns: LayerColumns, labels: np.ndarray, last: str, folds: _Folds
    ) -> tuple[dict[str, np.ndarray], float, float]:
        """Greedy forward selection of layers; what the last of them and all get right."""
        dims = columns.widths
        features = {name: _unit(columns, name) for name in columns.names}
        products = {n: x @ x.T for n, x in features.items()} if self.student is None else {}

        def right(layers: Sequence[str]) -> int:
            if products and sum(dims[name] for name in layers) > len(labels):
                x = _rotated(np.sum([products[name] for name in layers], axis=0))
            else:
                x = np.concatenate([features[name] for name in layers], axis=1)
            return left_out_right(x, labels, folds, self.student)

        chosen = [last]
        own = best = right(chosen)
        while len(chosen) < len(dims):
            tried = {name: right([*chosen, name]) for name in dims if name not in chosen}
            # Fewer maps of equals; then the layer nearer to the end.
            name = max(tried, key=lambda n: (tried[n], -dims[n], columns.names.index(n)))
            if tried[name] <= best:
                break
            chosen.append(name)
            best = tried[name]
        return columns.whole(chosen), own, best

    def _filtered(
        self, columns: LayerColumns, labels: np.ndarray, last: str, folds: _Folds
    ) -> tuple[dict[str, np.ndarray], float, float]:
        """The best maps of all layers, or the penultimate layer; what that and they get right."""
        if not len(self.shares) or not all(0 < share <= 1 for share in self.shares):
            raise InvalidInputError(f"shares must lie in (0, 1], got {self.shares}")
        sizes = sorted({max(1, round(share * columns.dim)) for share in self.shares})
        x = np.concatenate([_unit(columns, name) for name in columns.names], axis=1)
        index = columns.names.index(last)
        kept = np.arange(columns.starts[index], columns.starts[index + 1])
        own = best = left_out_right(x[:, kept], labels, folds, self.student)
        orders = [_ranked(x[train], labels[train], self.criterion) for train, _ in folds]
        for size in sizes:
            right = 0
            for order, fold in zip(orders, folds, strict=True):
                part = x[:, np.sort(order[:size])]
                right += left_out_right(part, labels, [fold], self.student)
            if right > best:
                best = right
                kept = np.sort(_ranked(x, labels, self.criterion)[:size])
        return columns.inside(kept), own, best


def _ranked(x: np.ndarray, labels: np.ndarray, criterion: str) -> np.ndarray:
    """Columns from best to worst, the first of equals first."""
    if len(np.unique(labels)) in (1, len(labels)) or not np.ptp(x, axis=0).any():
        return np.arange(x.shape[1])
    if criterion == "fisher":
        return np.argsort(-_fisher_ratios(x, labels), kind="stable")
    rates = _Rates(ClassMoments.from_batch(x, labels, parts={"class"}))
    first = rates.grow(len(x))
    gains = rates.gains()
    gains[first] = np.inf
    return np.concatenate([first, np.argsort(-gains, kind="stable")[len(first) :]])


class _Rates:
    """TransRate of a growing set of columns, of which none is scored anew.

    Classes are centred and weighted by their share, and the distortion is a relative one of all
    columns. The set starts empty.

    Source: greedy selection by coding rates; TransRate after Huang et al. (2022).

    Cost: O(N D) per added column for N < D, where Σ_c n_c = N covers the classes, and O(C D t) at
    the t-th. Memory: one more copy of the moments' data, and O(C D t).
    """

    def __init__(self, moments: ClassMoments) -> None:
        variance = moments.total.trace() / moments.n
        distortion = RELATIVE_DISTORTION * variance / len(moments.total.eigenvalues)
        terms = [(moments.total, moments.n, 1.0)]
        for c in moments.present:
            n_c = int(moments.counts[c])
            terms.append((moments.scatter_of(c), n_c, -(n_c / moments.n)))
        self._terms: list[tuple[float, _Determinant]] = []
        for scatter, n, weight in terms:
            data = scatter.data.cpu().numpy() / (n * distortion) ** (1.0 if scatter.dense else 0.5)
            side = _Determinant(data, scatter.dense)
            self._terms.append((weight, side))

    def gains(self) -> np.ndarray:
        """What each column would add to TransRate, (D,)."""
        return np.sum([weight * side.gains() for weight, side in self._terms], axis=0)

    def add(self, column: int) -> None:
        """Take a column into the set."""
        for _, side in self._terms:
            side.add(column)

    def grow(self, most: int) -> np.ndarray:
        """Take at most so many columns, always the first that adds most; while one adds any."""
        taken: list[int] = []
        while len(taken) < most:
            gains = self.gains()
            gains[taken] = -math.inf
            best = int(gains.argmax())
            if gains[best] <= _LEAST_GAIN:
                break
            self.add(best)
            taken.append(best)
        return np.array(taken, dtype=np.int64)


class _Determinant:
    """``½ log det(I + M_AA)`` of a growing set A of columns of M, (D, D).

    By a Cholesky factor whose columns are taken in any order. ``data`` are M where that is
    ``dense``, else F (n, D) with ``M = F'F``; O((n + t) D) for the t-th column.
    """

    def __init__(self, data: np.ndarray, dense: bool) -> None:
        self._data, self._dense = data, dense
        self._factor = np.empty((16, data.shape[1]))
        self._taken: list[int] = []
        self._pivots = 1.0 + (data.diagonal() if dense else np.einsum("nd,nd->d", data, data))

    def gains(self) -> np.ndarray:
        return 0.5 * np.log(np.maximum(self._pivots, 1.0))

    def add(self, column: int) -> None:
        done = len(self._taken)
        if done == len(self._factor):
            self._factor = np.concatenate([self._factor, np.empty_like(self._factor)])
        past = self._factor[:done]
        row = self._data[column] if self._dense else self._data[:, column] @ self._data
        row = row - past[:, column] @ past
        row[column] += 1.0
        row /= math.sqrt(row[column])
        row[self._taken] = 0.0
        self._factor[done] = row
        self._pivots = self._pivots - row**2
        self._taken.append(column)


def _unit(columns: LayerColumns, name: str) -> np.ndarray:
    """Features of a layer with rows of unit length, float64."""
    return unit_rows(columns.finite(name).astype(np.float64))


def _support_folds(labels: np.ndarray, folds: int, repeats: int, seed: int) -> _Folds:
    """Positions to train on and to test on, stratified by class, ``repeats`` times over.

    There are no more folds than examples of the smallest class. Leaving out single examples would
    make their class the rarest of the rest, which a penalised student then hardly ever guesses.

    >>> len(_support_folds(np.array([0, 0, 0, 1, 1, 1]), 5, 2, 0))
    6
    """
    counts = np.unique(labels, return_counts=True)[1]
    check_whole(2, folds=folds)
    check_whole(1, repeats=repeats)
    if len(counts) < 2:
        raise InvalidInputError("y has only one class; there is nothing to tell apart")
    if counts.max() == 1:
        return []
    splits = min(folds, max(2, counts.min()))
    parts = RepeatedStratifiedKFold(n_splits=splits, n_repeats=repeats, random_state=seed)
    with warnings.catch_warnings():
        # A class of one is in one fold, and is never recognised there; it is so for everybody.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(parts.split(labels, labels))


def left_out_right(x: np.ndarray, labels: np.ndarray, folds: _Folds, student: Any) -> int:
    """How many examples the students get right that were trained without them.

    A count and not a share, so that equals are equal.
    """
    x = _narrowed(x, student)

    def predicted(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        if len(np.unique(labels[train])) == 1:
            return np.full(len(test), labels[train][0])
        with threads_for(x[train].size * len(np.unique(labels[train]))):
            fresh = LogisticRegression(max_iter=1000) if student is None else clone(student)
            return np.asarray(fresh.fit(x[train], labels[train]).predict(x[test]))

    return sum(int((predicted(train, test) == labels[test]).sum()) for train, test in folds)


def _rotated(products: np.ndarray) -> np.ndarray:
    """Rows (N, r <= N) that have the scalar products (N, N) of others.

    A linear student with an L2 penalty depends on features through their scalar products alone,
    so these rows stand for features of any width.
    """
    values, vectors = np.linalg.eigh(products)
    keep = values > values[-1] * len(products) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(values[keep]) if keep.any() else np.zeros((len(products), 1))


def _narrowed(x: np.ndarray, student: Any) -> np.ndarray:
    """Features as wide as there are examples, where the default student cannot tell."""
    return x if student is not None or x.shape[1] <= len(x) else _rotated(x @ x.T)


def _fisher_ratios(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One-way analysis of variance of every column: F, (D,), of between- to within-class variance.

    Columns that do not vary within classes have F = inf where the class means differ, and 0 where
    they do not. After Fisher (1925).

    >>> x = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0]])
    >>> _fisher_ratios(x, np.array([0, 0, 1, 1])).tolist()
    [8.0, 0.0]
    """
    classes, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes).astype(np.float64)[:, None]
    if len(codes) == len(classes):
        raise InvalidInputError("no class has two examples; there is no variance within classes")
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    members = (codes == np.arange(len(classes))[:, None]).astype(np.float64)
    means = members @ x / counts
    between = (counts * means**2).sum(axis=0) / max(len(classes) - 1, 1)
    within = ((x - means[codes]) ** 2).sum(axis=0) / (len(codes) - len(classes))
    noise = np.finfo(np.float64).eps * (x**2).sum(axis=0)
    between, within = np.where(between > noise, between, 0), np.where(within > noise, within, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(between > 0, between / within, 0.0)
