"""What the selectors share: reading their input, and remembering what they saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.selection.columns import LayerColumns, has_layers, layer_columns
from transfer_metrics.sources.tasks.labels import kind_of


class ColumnSelector(TransformerMixin, BaseEstimator):
    """A transformer that keeps some columns of some layers.

    Subclasses call ``_read_fit`` and then ``_keep``.

    Attributes:
        layers_: names of the layers of which something is kept.
        columns_: the columns that are kept, numbered across all layers, (k,) int64.
    """

    layer_sizes: Sequence[int] | None
    layers_: list[str]
    columns_: np.ndarray

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    @property
    def layer_counts_(self) -> dict[str, int]:
        """Number of columns that were kept of each chosen layer."""
        check_is_fitted(self)
        return {name: len(columns) for name, columns in self._inside.items()}

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Which columns are kept: a mask over all columns, (D,), or their numbers, ascending."""
        check_is_fitted(self)
        if indices:
            return np.sort(self.columns_)
        mask = np.zeros(sum(self._dims.values()), dtype=bool)
        mask[self.columns_] = True
        return mask

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Names of the columns that are kept: ``layer[number]``, or those of a data frame."""
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        names = names if input_features is None else np.asarray(input_features, dtype=object)
        if names is not None:
            return np.asarray(names, dtype=object)[self.columns_]
        told = [f"{layer}[{c}]" for layer, inside in self._inside.items() for c in inside]
        return np.array(told, dtype=object)

    def _read_fit(self, X: Any, y: Any, labelled: bool = True) -> tuple[LayerColumns, Any, str]:
        """Columns, labels and the kind of task; arrays are checked as scikit-learn does.

        Args:
            X: a store, layers or an array.
            y: labels; None takes a store's own.
            labelled: whether labels are needed.

        Raises:
            InvalidInputError: no labels, or not one per example.
        """
        kind = ""
        if isinstance(X, FeatureStore) and y is None:
            columns, y, kind = layer_columns(X), X.labels, X.kind
        elif y is None and labelled:
            raise InvalidInputError("requires y to be passed, but the target y is None")
        elif has_layers(X):
            columns = layer_columns(X)
        elif y is None:
            columns = layer_columns(validate_data(self, X), self.layer_sizes)
        else:
            shape = np.asarray(y).shape
            several = len(shape) == 2 and shape[1] > 1
            X, y = validate_data(self, X, y, ensure_min_samples=2, multi_output=several)
            columns = layer_columns(X, self.layer_sizes)
        self.n_features_in_ = columns.dim
        if y is None:
            return columns, None, kind
        labels = np.asarray(y)
        if len(labels) != len(columns):
            raise InvalidInputError(
                f"y must hold one label per example: got {len(labels)} for {len(columns)}"
            )
        return columns, labels, kind or kind_of({"y": labels})

    def _keep(self, columns: LayerColumns, inside: Mapping[str, np.ndarray]) -> None:
        """Remember the columns that are kept of each layer, counted inside the layer."""
        self._inside = {name: np.asarray(c, dtype=np.int64) for name, c in inside.items()}
        self._dims = dict(zip(columns.names, columns.dims, strict=True))
        self.layers_ = list(self._inside)
        self.columns_ = _numbers(columns, self._inside)

    def _take(self, X: Any, unit: bool) -> np.ndarray:
        """The kept columns of other examples, (N, k).

        Raises:
            LayerNotFoundError: a chosen layer is missing.
            InvalidInputError: a chosen layer has another width than in ``fit``.
        """
        check_is_fitted(self)
        if not has_layers(X):
            array, ends = validate_data(self, X, reset=False), np.cumsum(list(self._dims.values()))
            X = dict(zip(self._dims, np.split(array, ends[:-1], axis=1), strict=True))
        columns = layer_columns(X).only(self.layers_)
        for name, dim in zip(columns.names, columns.dims, strict=True):
            if dim != self._dims[name]:
                raise InvalidInputError(
                    f"layer {name!r} had {self._dims[name]} features in fit and has {dim} now"
                )
        columns = columns.unit_rows() if unit else columns
        return columns.take(_numbers(columns, self._inside))


def _numbers(columns: LayerColumns, inside: Mapping[str, np.ndarray]) -> np.ndarray:
    starts = dict(zip(columns.names, columns.starts, strict=False))
    return np.concatenate([starts[name] + numbers for name, numbers in inside.items()])
