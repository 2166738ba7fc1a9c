"""Which feature maps of a teacher's hidden layers a student should learn from, few-shot."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from transfer_metrics.errors import InvalidInputError, LayerNotFoundError, TransferMetricsWarning
from transfer_metrics.selection.base import ColumnSelector
from transfer_metrics.selection.coding_gain import forward_gains, gains_beside
from transfer_metrics.selection.columns import LayerColumns, unit_rows
from transfer_metrics.selection.support import (
    Folds,
    fisher_ratios,
    left_out_right,
    narrowed,
    rotated,
    support_folds,
)
from transfer_metrics.statistics import ClassMoments
from transfer_metrics.statistics.inputs import as_labels

CRITERIA = ("cv", "fisher", "transrate")


class FeatureMapSelector(ColumnSelector):
    """Feature maps of any layers of a teacher, chosen on a few labelled examples.

    A feature map is a channel of a block, averaged over its positions: a column of a pooled store.
    Students usually learn from the penultimate layer; the maps of hidden layers may serve as well.
    The penultimate layer alone is always a candidate, only the support set given to ``fit`` is
    used, and a candidate is judged by the cross-validated accuracy of the student on it, with each
    layer's rows at unit length.

    ``"cv"`` starts from the penultimate layer and adds, step by step, the layer that raises that
    accuracy most, until none does; of equals the one with fewer maps. ``"fisher"`` ranks all maps
    by their F ratio and ``"transrate"`` by the order in which they raise TransRate most (centred
    classes, ``eps="auto"``; beyond N maps, by what they add to the first N). Both keep the best m,
    with m chosen by the same accuracy, for which the ranking is made anew in every fold. They
    stay with the penultimate layer unless a ranking does strictly better.

    With one example per class nothing can be left out and nothing varies within classes: there is
    no evidence on the support set for any layer, the prior order decides, and the penultimate
    layer is kept, with a warning.

    This is a method in the style of ATL. The selection rule that was published could not be
    consulted: this one satisfies the abstract, and none of the paper's numbers are claimed.

    Args:
        criterion: ``"cv"``, ``"fisher"`` or ``"transrate"``.
        penultimate: name of the penultimate layer; the last one by default.
        student: a scikit-learn classifier; by default multinomial logistic regression with an L2
            penalty.
        folds: the most folds of the cross-validation; with fewer examples of a class, one of
            each class is left out at a time.
        repeats: how often the cross-validation is repeated with other folds, which steadies it
            where examples are few.
        shares: shares of all maps that ``"fisher"`` and ``"transrate"`` try to keep.
        layer_sizes: how many of an array's columns each layer has; an array is one layer
            otherwise.
        random_state: seed of the folds.

    Attributes:
        layers_: names of the layers that maps were kept of; the penultimate one first for
            ``"cv"``, in order of depth otherwise.
        columns_: the maps that were kept, numbered over all layers, (k,), as ``transform`` has
            them.
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

    Cost: for L layers, N examples and F folds in all (folds times repeats): ``"cv"`` fits at most
    F L (L + 1) / 2 students; with the default student on N columns, whatever D. ``"fisher"`` and
    ``"transrate"`` fit F per share, and rank in O(F N D) and O(F N² D). Memory O(N D).

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
        self.criterion = criterion
        self.penultimate = penultimate
        self.student = student
        self.folds = folds
        self.repeats = repeats
        self.shares = shares
        self.layer_sizes = layer_sizes
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Choose feature maps on a support set.

        Args:
            X: a ``FeatureStore``, a mapping from layer to (N, D), or an array (N, D).
            y: class labels (N,); those of the store by default.
        """
        if self.criterion not in CRITERIA:
            raise InvalidInputError(f"criterion must be one of {CRITERIA}, not {self.criterion!r}")
        columns, given, _ = self._read_fit(X, y)
        labels = as_labels(given, len(columns))[0].numpy()
        last = columns.names[-1] if self.penultimate is None else self.penultimate
        if last not in columns.names:
            raise LayerNotFoundError.of("layer", str(last), columns.names)
        folds = support_folds(labels, self.folds, self.repeats, self.random_state)
        if not folds:
            warnings.warn(
                "one example per class says nothing about variance within classes; the "
                "penultimate layer is kept without a comparison",
                TransferMetricsWarning,
                stacklevel=2,
            )
            inside = {last: np.arange(_unit(columns, last).shape[1])}
            self.objective_ = self.penultimate_objective_ = float("nan")
        elif self.criterion == "cv":
            inside = self._grown(columns, labels, last, folds)
        else:
            inside = self._filtered(columns, labels, last, folds)
        self._keep(columns, inside)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The kept maps, (N, k), of rows that have unit length in each layer.

        Raises:
            InvalidInputError: a layer is missing or has another width than in ``fit``.
        """
        return self._take(X, unit=True)

    def _grown(
        self, columns: LayerColumns, labels: np.ndarray, last: str, folds: Folds
    ) -> dict[str, np.ndarray]:
        """Greedy forward selection of layers."""
        dims = dict(zip(columns.names, columns.dims, strict=True))
        features = {name: _unit(columns, name) for name in columns.names}
        views = _Views(features, by_products=self.student is None)
        chosen = [last]
        best = left_out_right(views.of(chosen), labels, folds, self.student)
        self.penultimate_objective_ = best / (len(labels) * self.repeats)
        while len(chosen) < len(dims):
            tried = {
                name: left_out_right(views.of([*chosen, name]), labels, folds, self.student)
                for name in dims
                if name not in chosen
            }
            # Fewer maps of equals; then the layer nearer to the end.
            name = max(tried, key=lambda n: (tried[n], -dims[n], columns.names.index(n)))
            if tried[name] <= best:
                break
            chosen.append(name)
            best = tried[name]
        self.objective_ = best / (len(labels) * self.repeats)
        return {name: np.arange(dims[name]) for name in chosen}

    def _filtered(
        self, columns: LayerColumns, labels: np.ndarray, last: str, folds: Folds
    ) -> dict[str, np.ndarray]:
        """The best maps of all layers, or the penultimate layer."""
        if not len(self.shares) or not all(0 < share <= 1 for share in self.shares):
            raise InvalidInputError(f"shares must lie in (0, 1], got {self.shares}")
        sizes = sorted({max(1, round(share * columns.dim)) for share in self.shares})
        x = np.concatenate([_unit(columns, name) for name in columns.names], axis=1)
        index = columns.names.index(last)
        kept = np.arange(columns.starts[index], columns.starts[index + 1])
        best = left_out_right(narrowed(x[:, kept], self.student), labels, folds, self.student)
        self.penultimate_objective_ = best / (len(labels) * self.repeats)
        orders = [_ranked(x[train], labels[train], self.criterion) for train, _ in folds]
        for size in sizes:
            right = 0
            for order, fold in zip(orders, folds, strict=True):
                part = narrowed(x[:, np.sort(order[:size])], self.student)
                right += left_out_right(part, labels, [fold], self.student)
            if right > best:
                best = right
                kept = np.sort(_ranked(x, labels, self.criterion)[:size])
        self.objective_ = best / (len(labels) * self.repeats)
        return columns.inside(kept)


class _Views:
    """Features of sets of layers as a student sees them: side by side, or any rotation of that."""

    def __init__(self, features: dict[str, np.ndarray], by_products: bool) -> None:
        self._features = features
        self._products: dict[str, np.ndarray] = {}
        if by_products:
            self._products = {name: x @ x.T for name, x in features.items()}

    def of(self, layers: Sequence[str]) -> np.ndarray:
        """Features (N, k) of some layers."""
        width = sum(self._features[name].shape[1] for name in layers)
        if self._products and width > len(self._products[layers[0]]):
            return rotated(np.sum([self._products[name] for name in layers], axis=0))
        return np.concatenate([self._features[name] for name in layers], axis=1)


def _ranked(x: np.ndarray, labels: np.ndarray, criterion: str) -> np.ndarray:
    """Columns from best to worst, the first of equals first."""
    if len(np.unique(labels)) in (1, len(labels)) or not np.ptp(x, axis=0).any():
        return np.arange(x.shape[1])
    if criterion == "fisher":
        values = fisher_ratios(x, labels)
    else:
        options: dict[str, Any] = {
            "eps": "auto",
            "class_weights": "frequency",
            "class_center": True,
        }
        moments = ClassMoments.from_batch(x, labels, parts={"class"})
        first, _ = forward_gains(moments, len(x), **options)
        values = gains_beside(moments, first if len(first) else None, **options)
        values[first] = np.inf
        rest = np.argsort(-values, kind="stable")[len(first) :]
        return np.concatenate([first, rest])
    return np.argsort(-values, kind="stable")


def _unit(columns: LayerColumns, name: str) -> np.ndarray:
    """Features of a layer with rows of unit length, float64."""
    features = columns.layer(name).astype(np.float64)
    if not np.isfinite(features).all():
        raise InvalidInputError(
            f"layer {name!r} has NaN or infinite values; drop those rows or fix the network"
        )
    return unit_rows(features)
