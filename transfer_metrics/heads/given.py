"""What a fitted head is given to predict: features, or examples for its network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from transfer_metrics.errors import IncompatibleStoreError, InvalidInputError
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.data import check_class_names
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.source import ModelRef
from transfer_metrics.selection.columns import LayerColumns, unit_rows
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.in_memory import as_examples
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.task import Split, Task


def is_raw(X: Any) -> bool:
    """Whether something can only be examples: a task, a split, a list of images or texts."""
    first = X[0] if isinstance(X, (list, tuple)) and len(X) else None
    first = first[0] if isinstance(first, (list, tuple)) and len(first) else first
    return isinstance(X, (str, Task, Split)) or isinstance(first, (str, Image.Image))


def example_inputs(model: Model, X: Any, split: str) -> Inputs:
    """Examples as a model takes them.

    Args:
        model: whose preprocessing applies.
        X: a task or its name, a split, or raw examples.
        split: which split of a task.

    Raises:
        InvalidInputError: there are none, or the task has no such split.
    """
    if isinstance(X, (str, Task)):
        task = load_task(X)
        examples, name = task[split].examples, f"{task.name} ({split})"
    elif isinstance(X, Split):
        examples, name = X.examples, "the split"
    else:
        examples, name = as_examples(X, "the examples"), "the examples"
    if not len(examples):
        raise InvalidInputError("there are no examples")
    return Inputs.of_examples(model, examples, name=name, keep=False)


def labelled(X: Any, split: str, class_names: tuple[str, ...]) -> tuple[Any, np.ndarray]:
    """What to predict from, with its own labels.

    Raises:
        InvalidInputError: it has none, or other classes than those given.
    """
    X = load_task(X) if isinstance(X, str) else X
    check_class_names(X, class_names)
    if isinstance(X, Task):
        return X, X[split].labels
    if isinstance(X, (Split, FeatureStore)):
        return X, X.labels
    raise InvalidInputError(f"y is missing; a {type(X).__name__} has no labels of its own")


def check_store(store: FeatureStore, source: ModelRef | None, pool: str | None) -> None:
    """Refuse features of another model or another pooling.

    Raises:
        IncompatibleStoreError: they differ.
    """
    manifest = store.manifest
    if source is not None and manifest["model_fingerprint"] != source.fingerprint:
        raise IncompatibleStoreError(
            f"the store holds features of {store.model!r}, and the head was fitted on "
            f"{source.name!r} with other weights or preprocessing; extract them with that model"
        )
    if pool is not None and manifest["pool"] != pool:
        raise IncompatibleStoreError(
            f"the store was pooled with {manifest['pool']!r}, and the head was fitted on {pool!r}; "
            f"extract with pool={pool!r}"
        )


def used_features(
    columns: LayerColumns, chosen: Mapping[str, np.ndarray] | None, unit_norm: bool
) -> Iterator[np.ndarray]:
    """What a head reads of each layer, (N, k), one layer in memory at a time."""
    for name in columns.names:
        features = columns.layer(name)
        if chosen is not None and name in chosen:
            features = features[:, chosen[name]]
        yield unit_rows(features) if unit_norm else features


def linear_logits(
    features: Iterable[np.ndarray], coef: np.ndarray, intercept: np.ndarray
) -> np.ndarray:
    """Logits (N, C) in float64 of features that lie side by side.

    >>> linear_logits([np.ones((1, 1)), np.ones((1, 2))], np.array([[1, 2, 3]]), np.array([4]))
    array([[10.]])
    """
    logits, start = np.zeros(()), 0
    for part in features:
        end = start + part.shape[1]
        logits = logits + part.astype(np.float64, copy=False) @ coef[:, start:end].T
        start = end
    return logits + intercept
