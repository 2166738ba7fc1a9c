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
from transfer_metrics.metrics.base import task_kind
from transfer_metrics.selection.columns import LayerColumns, layer_columns


class ColumnSelector(TransformerMixin, BaseEstimator):
    """A transformer that keeps some columns of some layers.

    Subclasses call ``_read_fit`` and then ``_keep``.
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

    def _read_fit(self, X: Any, y: Any) -> tuple[LayerColumns, np.ndarray, str]:
        """Columns, labels and the kind of task; arrays are checked as scikit-learn does.

        Raises:
            InvalidInputError: no labels, or not one per example.
        """
        if isinstance(X, FeatureStore):
            columns = layer_columns(X)
            labels = X.labels if y is None else np.asarray(y)
            kind = X.kind if y is None else task_kind(labels)
        elif _is_layers(X):
            columns = layer_columns(X)
            if y is None:
                raise InvalidInputError("y cannot be None: pass one label per example")
            labels = np.asarray(y)
            kind = task_kind(labels)
        else:
            shape = () if y is None else np.asarray(y).shape
            several = len(shape) == 2 and shape[1] > 1
            X, labels = validate_data(self, X, y, ensure_min_samples=2, multi_output=several)
            columns, kind = layer_columns(X, self.layer_sizes), task_kind(labels)
        if len(labels) != len(columns):
            raise InvalidInputError(
                f"y must hold one label per example: got {len(labels)} for {len(columns)}"
            )
        return columns, labels, kind

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
        if not (isinstance(X, FeatureStore) or _is_layers(X)):
            X = layer_columns(validate_data(self, X, reset=False), self.layer_sizes)
        columns = layer_columns(X).only(self.layers_)
        for name, dim in zip(columns.names, columns.dims, strict=True):
            if dim != self._dims[name]:
                raise InvalidInputError(
                    f"layer {name!r} had {self._dims[name]} features in fit and has {dim} now"
                )
        columns = columns.unit_rows() if unit else columns
        return columns.take(_numbers(columns, self._inside))


def _is_layers(X: Any) -> bool:
    # One of scipy's sparse matrices is a mapping too.
    return isinstance(X, LayerColumns) or (isinstance(X, Mapping) and not hasattr(X, "shape"))


def _numbers(columns: LayerColumns, inside: Mapping[str, np.ndarray]) -> np.ndarray:
    starts = dict(zip(columns.names, columns.starts, strict=False))
    return np.concatenate([starts[name] + numbers for name, numbers in inside.items()])
