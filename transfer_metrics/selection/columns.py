"""Features of several layers side by side, read one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from transfer_metrics.errors import InvalidInputError, LayerNotFoundError
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.registry import choose
from transfer_metrics.sources.tasks.label_values import as_array, as_numbers
from transfer_metrics.sources.tasks.labels import fitted_kind
from transfer_metrics.sources.tasks.pairing import check_pairs, warn_of_columns

_COLUMNS_AT_ONCE = 8192


class LayerColumns:
    """The columns of several layers side by side, (N, ΣD), of which only one layer is in memory.

    Columns are numbered across layers, in their order. ``read(layer, positions or None)`` gives
    features of one layer, all rows or some. ``rows`` are the positions that count, None for all;
    ``unit`` divides each layer's rows by their length, as Head2Toe does.
    """

    def __init__(
        self,
        names: Sequence[str],
        dims: Sequence[int],
        n: int,
        read: Callable[[str, np.ndarray | None], np.ndarray],
        rows: np.ndarray | None = None,
        unit: bool = False,
    ) -> None:
        self.names = tuple(names)
        self.dims = tuple(int(d) for d in dims)
        self.starts = np.concatenate([[0], np.cumsum(self.dims)]).astype(np.int64)
        self.unit = unit
        self._n = n
        self._read = read
        self._rows = rows

    def __len__(self) -> int:
        return self._n if self._rows is None else len(self._rows)

    @property
    def dim(self) -> int:
        """Number of columns, ΣD."""
        return int(self.starts[-1])

    @property
    def widths(self) -> dict[str, int]:
        """Features per layer, by name."""
        return dict(zip(self.names, self.dims, strict=True))

    def whole(self, names: Sequence[str]) -> dict[str, np.ndarray]:
        """All columns of some layers, counted inside each."""
        return {name: np.arange(self.widths[name]) for name in names}

    def unit_rows(self) -> LayerColumns:
        """The same with each layer's rows at length one."""
        return LayerColumns(self.names, self.dims, self._n, self._read, self._rows, True)

    def rows(self, positions: Any) -> LayerColumns:
        """The same columns for the examples at some positions."""
        chosen = np.arange(len(self))[positions]
        chosen = chosen if self._rows is None else self._rows[chosen]
        return LayerColumns(self.names, self.dims, self._n, self._read, chosen, self.unit)

    def only(self, names: Sequence[str]) -> LayerColumns:
        """The same with some layers, in the order given."""
        dims = [self.dims[self._index(name)] for name in names]
        return LayerColumns(names, dims, self._n, self._read, self._rows, self.unit)

    def layer(self, name: str) -> np.ndarray:
        """Features of one layer, (N, D), in the precision in which they are kept."""
        self._index(name)
        features = self._read(name, self._rows)
        return unit_rows(features) if self.unit else features

    def finite(self, name: str) -> np.ndarray:
        """The same where there are examples and features, and all of them are finite."""
        features = self.layer(name)
        if not features.size:
            raise InvalidInputError(f"layer {name!r} is empty: shape {features.shape}")
        _refuse_infinite(features, f"layer {name!r}")
        return features

    def layer_of(self, columns: Any) -> np.ndarray:
        """Position of the layer that each column belongs to."""
        return np.searchsorted(self.starts, np.asarray(columns), side="right") - 1

    def inside(self, columns: Any) -> dict[str, np.ndarray]:
        """Columns by number across layers as ascending numbers inside each layer that has any."""
        columns = np.sort(np.asarray(columns, dtype=np.int64))
        owner = self.layer_of(columns)
        return {self.names[i]: columns[owner == i] - self.starts[i] for i in np.unique(owner)}

    def numbers(self, inside: Mapping[str, np.ndarray]) -> np.ndarray:
        """Numbers across layers of columns that are counted inside each layer, in that order."""
        return np.concatenate([self.starts[self._index(n)] + c for n, c in inside.items()])

    def take(self, inside: Mapping[str, np.ndarray]) -> LayerColumns:
        """Some columns of some layers, in memory, in the order given."""
        return layer_columns(
            {name: np.ascontiguousarray(self.layer(name)[:, c]) for name, c in inside.items()}
        )

    def blocks(self, width: int = _COLUMNS_AT_ONCE) -> Iterator[tuple[int, np.ndarray]]:
        """All columns in blocks of at most ``width``: number of the first column, and (N, w)."""
        for index, name in enumerate(self.names):
            features = self.layer(name)
            for start in range(0, self.dims[index], width):
                yield int(self.starts[index]) + start, features[:, start : start + width]

    def dense(self) -> np.ndarray:
        """All columns at once, (N, ΣD)."""
        return np.concatenate([self.layer(name) for name in self.names], axis=1)

    def _index(self, name: str) -> int:
        return self.names.index(choose("layer", name, self.names, LayerNotFoundError))


def layer_columns(X: Any, layer_sizes: Sequence[int] | None = None) -> LayerColumns:
    """Columns of a ``FeatureStore``, of a mapping from layer to (N, D), or of an (N, D) array.

    ``layer_sizes`` are how many of an array's columns each layer has, in order; all are one layer
    unless given.
    """
    if isinstance(X, LayerColumns):
        return X
    if isinstance(X, FeatureStore):
        store = X
        return LayerColumns(
            store.names,
            [layer.dim for layer in store.layers],
            len(store),
            lambda name, rows: store[name] if rows is None else store.rows(name, rows),
        )
    if not isinstance(X, Mapping):
        array = X if isinstance(X, np.ndarray) else np.asarray(X)
        if array.ndim != 2:
            raise InvalidInputError(
                f"features must be an array (N, D), a mapping of layers or a FeatureStore, not "
                f"{type(X).__name__} of shape {array.shape}"
            )
        width = array.shape[1]
        sizes = [width] if layer_sizes is None else [int(size) for size in layer_sizes]
        if sum(sizes) != width or min(sizes, default=0) < 1:
            raise InvalidInputError(
                f"layer_sizes={layer_sizes} add up to {sum(sizes)}, but X has {width} columns"
            )
        names = ["features"] if layer_sizes is None else [f"layer{i}" for i in range(len(sizes))]
        X = dict(zip(names, np.split(array, np.cumsum(sizes)[:-1], axis=1), strict=True))
    arrays = {str(name): _real(a, f"layer {str(name)!r}") for name, a in X.items()}
    lengths = {len(a) for a in arrays.values() if a.ndim == 2}
    if len(lengths) != 1 or any(a.ndim != 2 for a in arrays.values()):
        shapes = {name: a.shape for name, a in arrays.items()}
        raise InvalidInputError(
            f"layers must be arrays (N, D) with the same N, not {shapes or 'none at all'}"
        )
    return LayerColumns(
        list(arrays),
        [a.shape[1] for a in arrays.values()],
        lengths.pop(),
        lambda name, rows: arrays[name] if rows is None else arrays[name][rows],
    )


def aligned(X: Any, dims: Mapping[str, int], when: str) -> LayerColumns:
    """Features with the layers that there were ``when``, also of an array of all their columns."""
    if not has_layers(X):
        array, ends = np.asarray(X), np.cumsum([*dims.values()])
        if array.ndim != 2 or array.shape[1] != ends[-1]:
            raise InvalidInputError(
                f"features of shape {array.shape}; they were (N, {ends[-1]}) when {when}"
            )
        X = dict(zip(dims, np.split(array, ends[:-1], axis=1), strict=True))
    columns = layer_columns(X).only(list(dims))
    for name, dim in columns.widths.items():
        if dim != dims[name]:
            raise InvalidInputError(
                f"layer {name!r} had {dims[name]} features when {when} and has {dim} now"
            )
    return columns


class _UnfittedError(InvalidInputError, NotFittedError):
    """A head or selector is used before a fit; scikit-learn's own error too."""


class _TypeOfInputError(InvalidInputError, TypeError):
    """An array of a type that scikit-learn does not read; its own error too."""


def refuse_unfitted(owner: Any, *attributes: str) -> None:
    """Raise where a head or selector is used before a fit."""
    try:
        check_is_fitted(owner, attributes or None)
    except NotFittedError:
        told = f"this {type(owner).__name__} is not fitted yet; call fit before you use it"
        raise _UnfittedError(told) from None


def refuse_kind(kind: str | None, what: str) -> None:
    """Raise where a kind of labels is given for what has one of its own."""
    if kind is not None:
        raise InvalidInputError(
            f"kind={kind!r} is for labels in arrays, and {what} has a kind; leave it out here, and "
            f"say it to load_task"
        )


def read_labelled(
    owner: Any,
    X: Any,
    y: Any,
    layer_sizes: Sequence[int] | None = None,
    *,
    needs_labels: bool = True,
    by_type: bool = True,
    kind: str | None = None,
    **how: Any,
) -> tuple[LayerColumns, Any, str]:
    """What a head or selector is fitted on: columns, labels as given, and their kind.

    A store's own labels if there is no ``y``; None and ``""`` where none are needed. ``by_type``
    and ``kind`` are those of ``fitted_kind``, ``how`` what ``checked`` takes.
    """
    if isinstance(X, FeatureStore) and y is None:
        refuse_kind(kind, "a store")
        return layer_columns(X), X.labels, X.kind
    if y is None and needs_labels:  # in words that scikit-learn looks for
        raise InvalidInputError(
            "y is missing: it requires y to be passed, but the target y is None"
        )
    if y is None:
        return layer_columns(X if has_layers(X) else checked(owner, X), layer_sizes), None, ""
    if isinstance(X, LayerColumns) and np.asarray(y).dtype.kind == "i" and kind is None:
        return X, np.asarray(y), "classification"  # whoever has read the labels numbered them
    parts = [*X.values()] if isinstance(X, Mapping) else [X]
    for features in parts:
        check_pairs(features, y)
    try:
        shape = np.asarray(y).shape
    except ValueError as error:
        raise InvalidInputError(f"y has rows of different lengths: {error}") from error
    several = len(shape) == 2 and shape[1] > 1
    X, labels = checked(owner, X, y, multi_output=several, **how)
    columns = layer_columns(X, layer_sizes)
    if len(columns) != len(labels):
        raise InvalidInputError(
            f"{len(columns)} examples but {len(labels)} labels; give one label per example"
        )
    kind = fitted_kind(labels, by_type, kind)
    for features in parts:
        warn_of_columns(features, labels, kind)
    return columns, labels, kind


def checked(owner: Any, X: Any, y: Any = None, multi_output: bool = False, **how: Any) -> Any:
    """Features, with labels where there are some, as heads and selectors read them.

    Of an array what scikit-learn's ``validate_data`` returns, which remembers names and number of
    the columns and compares them; of layers their columns. What is wrong is an
    ``InvalidInputError``, in the words of scikit-learn where there are none of ours.
    """
    y = None if y is None else as_array(y)
    given = {} if y is None else {"y": y, "multi_output": multi_output}
    try:
        if not has_layers(X):
            return validate_data(owner, X, **given, **how)
        columns = layer_columns(X)
        for name in columns.names:
            columns.finite(name)
        return columns, y if multi_output else column_or_1d(y)
    except InvalidInputError:
        raise
    except TypeError as error:
        if hasattr(X, "columns"):
            as_numbers(X, "X")  # names the column
        raise _TypeOfInputError(" ".join(str(error).split())) from error
    except ValueError as error:
        if not has_layers(X):
            _explain(_real(X, "X"), y)
        raise InvalidInputError(" ".join(str(error).split())) from error


def _explain(X: np.ndarray, y: Any) -> None:
    """Raise in words of ours where they know why an array is of no use."""
    if X.ndim != 2:
        raise InvalidInputError(
            f"X must have shape (N, D), not {X.shape}. Reshape your data: of one example it is "
            f"X.reshape(1, -1)"
        )
    _refuse_infinite(X, "X")
    if hasattr(y, "__len__") and len(y) != len(X):
        raise InvalidInputError(
            f"X has {len(X)} examples and y {len(y)} labels; give one label per example"
        )


def _refuse_infinite(array: np.ndarray, where: str) -> None:
    bad = ~np.isfinite(array).all(axis=1)
    if bad.any():
        raise InvalidInputError(
            f"{where} has {bad.sum()} row(s) with NaN or infinite (inf) values, the first is row "
            f"{bad.argmax()}; drop them or fix what made them"
        )


def _real(values: Any, where: str) -> np.ndarray:
    array = as_numbers(values, where)
    if array.dtype.kind == "c":
        raise InvalidInputError(
            f"Complex data not supported: {where} holds complex numbers; give real ones"
        )
    return array


def has_layers(X: Any) -> bool:
    """Whether something is a store, a mapping of layers or their columns, and no array."""
    # One of scipy's sparse matrices is a mapping too.
    layered = isinstance(X, (FeatureStore, LayerColumns, Mapping))
    return layered and not hasattr(X, "shape")


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length; zero rows stay zero."""
    dtype = np.promote_types(features.dtype, np.float32)
    # The largest entry first: squares of half-precision or huge values would overflow.
    largest = np.abs(features).max(axis=1, keepdims=True, initial=0.0).astype(dtype)
    largest[largest == 0] = 1.0
    with np.errstate(invalid="ignore"):  # infinite features are refused by whoever reads them
        scaled = features / largest
    norms = np.sqrt(np.einsum("nd,nd->n", scaled, scaled))[:, None]
    norms[norms == 0] = 1.0
    return scaled / norms
