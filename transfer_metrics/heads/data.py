"""What a head is fitted on: features or a task, with examples held out for validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d, validate_data

from transfer_metrics.errors import InvalidInputError, LayerNotFoundError, UnsupportedTaskError
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.source import ModelRef
from transfer_metrics.selection.columns import LayerColumns, has_layers, layer_columns
from transfer_metrics.sources.tasks.subtasks import stratified_holdout
from transfer_metrics.sources.tasks.task import Split, Task

EVERY = ("all", "*", "activations", "blocks")
"""Choices of layers that mean all that a store has; what it has was chosen when it was made."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features with the number of each example's class; -1 for a class not fitted on."""

    columns: LayerColumns
    codes: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def rows(self, positions: np.ndarray) -> Labelled:
        """Some of the examples."""
        return Labelled(self.columns.rows(positions), self.codes[positions])

    def only(self, names: Sequence[str]) -> Labelled:
        """Some of the layers."""
        return Labelled(self.columns.only(names), self.codes)


@dataclass(frozen=True, eq=False)
class FeatureData:
    """Features to fit a head on.

    Attributes:
        train: what weights are fitted to.
        held: what choices are made by.
        whole: both together if one was cut from the other, else the same as ``train``.
        classes: (C,) labels in the order of their numbers.
        class_names: names of the classes; empty if only labels are known.
        layers: the layers, in the order of their columns.
        pool: name of the pooling, if known.
        source: the model that the features come from, if known.
    """

    train: Labelled
    held: Labelled
    whole: Labelled
    classes: np.ndarray
    class_names: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = ()
    pool: str | None = None
    source: ModelRef | None = None


def is_model(X: Any) -> bool:
    """Whether something is a model or the name of one."""
    from torch import nn

    from transfer_metrics.sources.models.model import Model

    return isinstance(X, (str, Model, nn.Module))


def read_features(
    owner: BaseEstimator,
    X: Any,
    y: Any,
    validation: Any,
    *,
    layers: Any,
    fraction: float | None,
    seed: Any,
) -> FeatureData:
    """Features and labels in any of the accepted forms, with a part for validation.

    Args:
        owner: the estimator; arrays set its ``n_features_in_``.
        X: a store, a mapping of layers, or an array (N, D).
        y: labels; None takes a store's own.
        validation: a store, or features and labels; None holds out a part.
        layers: ``"last"``, ``"all"``, or names of the layers to use.
        fraction: how much to hold out; None for nothing, and then ``held`` is all the data.
        seed: which examples to hold out.

    Raises:
        InvalidInputError: labels are missing or do not fit, or there are fewer than two classes.
        UnsupportedTaskError: a store of a regression task.
    """
    columns, labels, classes, names = _read(owner, X, y)
    if classes is None:
        classes, codes = np.unique(labels, return_inverse=True)
    else:
        codes = labels
    check_codes(codes)
    if len(columns) != len(codes):
        raise InvalidInputError(f"{len(columns)} examples but {len(codes)} labels")
    listed, pool, source = described(X, columns)
    chosen = pick(columns.names, layers)
    whole = Labelled(columns, codes).only(chosen)
    if validation is not None:
        train, held = whole, read_validation(validation, columns, classes, names).only(chosen)
    elif fraction is None:
        train = held = whole
    else:
        rows, out = stratified_holdout(codes, fraction, seed)
        train, held = whole.rows(rows), whole.rows(out)
    by_name = {layer.name: layer for layer in listed}
    return FeatureData(
        train, held, whole, classes, names, tuple(by_name[n] for n in chosen), pool, source
    )


def read_validation(
    given: Any, like: LayerColumns, classes: np.ndarray, class_names: tuple[str, ...]
) -> Labelled:
    """A validation set as a store, or as features and labels, with the layers of ``like``.

    Raises:
        InvalidInputError: neither of them, another number of labels, or other classes.
        LayerNotFoundError: it lacks a layer.
    """
    if isinstance(given, FeatureStore):
        features, labels = given, given.labels
        check_class_names(given, class_names)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        features, labels = given[0], np.asarray(given[1])
    else:
        raise InvalidInputError(
            f"validation is a {type(given).__name__}; give a FeatureStore or (features, labels)"
        )
    columns = aligned(features, like.names, like.dims)
    if labels.ndim != 1 or len(labels) != len(columns):
        raise InvalidInputError(
            f"validation has {len(columns)} examples and labels of shape {labels.shape}"
        )
    return Labelled(columns, encode(labels, classes))


def aligned(X: Any, names: Sequence[str], dims: Sequence[int]) -> LayerColumns:
    """Features with given layers, from a store, a mapping, or an array with all their columns.

    Raises:
        LayerNotFoundError: a layer is missing.
        InvalidInputError: a layer has another width.
    """
    if has_layers(X):
        columns = layer_columns(X).only(names)
    else:
        array = np.asarray(X)
        if array.ndim != 2 or array.shape[1] != sum(dims):
            raise InvalidInputError(
                f"features of shape {array.shape}; the head was fitted on (N, {sum(dims)})"
            )
        edges = np.cumsum([0, *dims])
        parts = {name: array[:, edges[i] : edges[i + 1]] for i, name in enumerate(names)}
        columns = layer_columns(parts)
    for name, found, wanted in zip(names, columns.dims, dims, strict=True):
        if found != wanted:
            raise InvalidInputError(
                f"layer {name!r} has {found} features; the head was fitted on {wanted}"
            )
    return columns


def described(
    X: Any, columns: LayerColumns
) -> tuple[tuple[Layer, ...], str | None, ModelRef | None]:
    """Layers, pooling and model of features, as far as they are known."""
    if isinstance(X, FeatureStore):
        return tuple(X.layers), X.manifest["pool"], ModelRef.of_store(X)
    layers = tuple(
        Layer(name, index, 1.0, "array", (dim,), "ND", dim, 4 * dim, 0)
        for index, (name, dim) in enumerate(zip(columns.names, columns.dims, strict=True))
    )
    return layers, None, None


def pick(names: Sequence[str], layers: Any) -> list[str]:
    """The layers of a store that are wanted.

    >>> pick(["a", "b", "c"], "last"), pick(["a", "b", "c"], ["c", "a"])
    (['c'], ['c', 'a'])

    Raises:
        LayerNotFoundError: there is no such layer.
    """
    if layers == "last":
        return list(names[-1:])
    if layers in EVERY:
        return list(names)
    wanted = [layers] if isinstance(layers, (str, Layer)) else list(layers)
    found = [item.name if isinstance(item, Layer) else item for item in wanted]
    for name in found:
        if name not in names:
            raise LayerNotFoundError.of("layer", str(name), names)
    if not found:
        raise InvalidInputError("layers is empty; name at least one, or use 'last' or 'all'")
    return found


def encode(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Numbers of classes, -1 for a label that is none of them.

    >>> encode(np.array(["b", "x", "a"]), np.array(["a", "b"])).tolist()
    [1, -1, 0]
    """
    codes = np.minimum(np.searchsorted(classes, labels), len(classes) - 1)
    return np.where(classes[codes] == labels, codes, -1)


def check_codes(codes: np.ndarray) -> None:
    """Refuse fewer than two classes."""
    if len(np.unique(codes)) < 2:
        raise InvalidInputError("the labels have one class only; a head needs at least two")


def check_kind(kind: str, name: str) -> None:
    """Refuse a regression."""
    if kind != "classification":
        raise UnsupportedTaskError(
            f"task {name!r} is a {kind}; heads are trained on classification tasks"
        )


def check_class_names(X: Task | FeatureStore | Split | Any, names: tuple[str, ...]) -> None:
    """Refuse a task or store whose classes are not those that were fitted on."""
    if isinstance(X, Task):
        found = tuple(X.classes)
    elif isinstance(X, FeatureStore):
        found = tuple(X.manifest["classes"])
    else:
        return
    if names and found != names:
        raise InvalidInputError(
            f"the head was fitted on {len(names)} classes {', '.join(names[:5])}…, and the task "
            f"has {len(found)}: {', '.join(found[:5])}…; labels would not mean the same"
        )


def _read(
    owner: BaseEstimator, X: Any, y: Any
) -> tuple[LayerColumns, np.ndarray, np.ndarray | None, tuple[str, ...]]:
    """Columns, labels (or numbers if the classes are known), classes and their names."""
    if isinstance(X, FeatureStore):
        check_kind(X.kind, X.task)
        if y is None:
            names = tuple(X.manifest["classes"])
            return layer_columns(X), X.labels, np.arange(len(names)), names
    if has_layers(X):
        if y is None:
            raise InvalidInputError("y is missing; a mapping of layers has no labels of its own")
        columns = layer_columns(X)
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        return columns, labels, None, ()
    array, labels = validate_data(owner, X, y, dtype=[np.float64, np.float32])
    check_classification_targets(labels)
    return layer_columns(array), labels, None, ()
