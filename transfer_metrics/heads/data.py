"""What a head is fitted on: features or a task, with examples held out for validation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from torch import nn

from transfer_metrics.errors import InvalidInputError, LayerNotFoundError, warn
from transfer_metrics.features.extract import extract
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.objective import as_codes, class_labels
from transfer_metrics.heads.origin import ModelRef
from transfer_metrics.heads.shared_features import SharedFeatures
from transfer_metrics.naming import a_type
from transfer_metrics.registry import choose
from transfer_metrics.selection.columns import (
    LayerColumns,
    checked,
    has_layers,
    layer_columns,
    read_labelled,
)
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.specs import results_of
from transfer_metrics.sources.tasks.in_memory import as_examples
from transfer_metrics.sources.tasks.label_values import as_array
from transfer_metrics.sources.tasks.labels import complete_labels
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.pairing import check_pairs
from transfer_metrics.sources.tasks.subtasks import held_out, stratified_holdout
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.statistics.inputs import dominating

_FLOATS = [np.float64, np.float32]
_EVERY = ("all", "*", "activations", "blocks")
"""Choices of layers that mean all that a store has; what it has was chosen when it was made."""


@dataclass(frozen=True, eq=False)
class Units:
    """The mean and spread (K,) of targets, which are trained for without; all else as it is.

    >>> units = Units.of("regression", np.array([[1.0], [5.0]]))
    >>> units.inside(np.array([[1.0], [5.0]])).tolist()
    [[-1.0], [1.0]]
    """

    kind: str
    middle: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, kind: str, codes: np.ndarray) -> Units:
        """Those of training targets."""
        if kind != "regression":
            return cls(kind, np.zeros(1, np.float32), np.ones(1, np.float32))
        return cls(kind, codes.mean(axis=0), codes.std(axis=0))

    def inside(self, codes: np.ndarray) -> np.ndarray:
        """What is trained for."""
        return codes if self.kind != "regression" else (codes - self.middle) / self.spread

    def outside(self, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights (C, k) and biases (C,) for the targets themselves."""
        return weights * self.spread[:, None], bias * self.spread + self.middle


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features with what is to be predicted of each example.

    Class numbers (N,), -1 for a class not fitted on; or float64 targets or labels (N, K).
    """

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
    """Features to fit a head on; what is not said here is as in ``Head``.

    ``train`` is what weights are fitted to, ``held`` what choices are made by, ``whole`` both
    together if one was cut from the other, else the same as ``train``.
    """

    kind: str
    train: Labelled
    held: Labelled
    whole: Labelled
    classes: np.ndarray
    class_names: tuple[str, ...]
    layers: tuple[Layer, ...]
    pool: str | None
    source: ModelRef | None

    @classmethod
    def read(
        cls,
        owner: BaseEstimator,
        X: Any,
        y: Any,
        validation: Any,
        layers: Any,
        fraction: float | None,
        seed: Any,
    ) -> FeatureData:
        """Features and labels in any of the accepted forms, with a part for validation.

        Arrays tell the ``owner`` what columns they have. None for ``fraction`` holds out nothing.
        """
        columns, labels, kind = read_labelled(owner, X, y, dtype=_FLOATS)
        names = tuple(X.manifest["classes"]) if isinstance(X, FeatureStore) and y is None else ()
        for doubt in [] if has_layers(X) else dominating(columns.dense()):
            warn(doubt)
        if kind != "classification":
            codes = as_codes(labels, kind)
            classes = np.arange(codes.shape[1] if kind == "multilabel" else 0)
        elif names:
            classes, codes = class_labels(names, kind, X.named), labels
        else:
            classes, codes = np.unique(labels, return_inverse=True)
        _check_codes(codes, kind)
        chosen = _pick(columns.names, layers, X.model if isinstance(X, FeatureStore) else "")
        whole = Labelled(columns, codes).only(chosen)
        if validation is not None:
            train = whole
            named = None if has_layers(X) else owner
            held = _read_validation(validation, columns, kind, codes, classes, names, named)
            held = held.only(chosen)
        elif fraction is None:
            train = held = whole
        else:
            strata = codes if kind == "classification" else np.zeros(len(codes))
            train, held = map(whole.rows, stratified_holdout(strata, fraction, seed))
        of_store = isinstance(X, FeatureStore)
        by_name = {layer.name: layer for layer in (X.layers if of_store else _bare(columns))}
        return cls(
            kind,
            train,
            held,
            whole,
            classes,
            names,
            layers=tuple(by_name[name] for name in chosen),
            pool=X.manifest["pool"] if of_store else None,
            source=ModelRef.of_store(X) if of_store else None,
        )

    @property
    def outputs(self) -> int:
        """How many numbers are predicted of each example: C classes, or K targets or labels."""
        return len(self.classes) if self.kind != "regression" else self.train.codes.shape[1]


@dataclass(frozen=True, eq=False)
class TaskData:
    """A model and the examples to fit it to: the splits ``train`` and, unless cut from it, ``val``.

    ``rows`` are positions in ``train`` that weights are fitted to, ``held`` those that choices are
    made by, in ``train`` or, where it exists, in ``val``.
    """

    model: Model
    task: Task
    rows: np.ndarray
    held: np.ndarray

    @classmethod
    def read(
        cls, model: Any, task: Any, validation: Any, fraction: float | None, seed: Any
    ) -> TaskData:
        """Load a model and a task, and say what validates.

        That is ``validation`` if given, else the task's own split ``val``, else a stratified part
        of ``train``, where words of one sentence are in one part.
        """
        if task is None:
            raise InvalidInputError("a model needs a task to be fitted on: fit(model, task)")
        model, task = load_model(model), load_task(task)
        _check_codes(as_codes(task["train"].labels, task.kind), task.kind)
        splits = {name: task[name] for name in ("train", "val") if name in task.splits}
        if validation is not None:
            splits["val"] = _as_split(validation, task)
        rows = held = np.arange(len(splits["train"]))
        if "val" in splits:
            held = np.arange(len(splits["val"]))
        elif fraction is not None:
            rows, held = held_out(task.name, splits["train"], task.num_classes, fraction, seed)
        return cls(model, dataclasses.replace(task, splits=splits), rows, held)

    @property
    def held_split(self) -> Split:
        """The split that ``held`` counts in."""
        return self.task["val" if "val" in self.task.splits else "train"]

    @property
    def train_codes(self) -> np.ndarray:
        """What weights are fitted to; see ``Labelled``."""
        return as_codes(self.task["train"].labels, self.task.kind)[self.rows]

    @property
    def held_codes(self) -> np.ndarray:
        """What choices are made by."""
        return as_codes(self.held_split.labels, self.task.kind)[self.held]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the task."""
        return tuple(self.task.classes)

    @property
    def classes(self) -> np.ndarray:
        """As in ``FeatureData``."""
        return class_labels(self.class_names, self.task.kind, self.task.named)

    @property
    def outputs(self) -> int:
        """As in ``FeatureData``."""
        return self.task.num_classes or self.train_codes.shape[1]

    def features(
        self, layers: Any, pool: Any, shared: SharedFeatures | None = None, **how: Any
    ) -> FeatureData:
        """What the model makes of these examples; options are those of ``extract``."""
        read = extract if shared is None else shared.store
        stores = {
            split: read(self.model, self.task, layers, pool, split=split, **how)
            for split in self.task.splits
        }
        parts = {
            split: Labelled(layer_columns(store), as_codes(store.labels, self.task.kind))
            for split, store in stores.items()
        }
        train, held, whole = parts["train"], parts.get("val"), parts["train"]
        if held is None:
            train, held = whole.rows(self.rows), whole.rows(self.held)
        store = stores["train"]
        return FeatureData(
            self.task.kind,
            train,
            held,
            whole,
            self.classes,
            self.class_names,
            layers=tuple(store.layers),
            pool=store.manifest["pool"],
            source=dataclasses.replace(
                ModelRef.of_store(store), model=self.model, spec=self.model.spec
            ),
        )


def is_model(X: Any) -> bool:
    """Whether something is a model, the name of one, or what was found before of some."""
    return isinstance(X, (str, Model, nn.Module)) or hasattr(X, "chosen_models")


def aligned(X: Any, names: Sequence[str], dims: Sequence[int]) -> LayerColumns:
    """Features with given layers, from a store, a mapping, or an array with all their columns."""
    if has_layers(X):
        columns = layer_columns(X).only(names)
    else:
        array = np.asarray(X)
        if array.ndim != 2 or array.shape[1] != sum(dims):
            raise InvalidInputError(
                f"features of shape {array.shape}; the head was fitted on (N, {sum(dims)})"
            )
        parts = np.split(array, np.cumsum(dims)[:-1], axis=1)
        columns = layer_columns(dict(zip(names, parts, strict=True)))
    for name, found, wanted in zip(names, columns.dims, dims, strict=True):
        if found != wanted:
            raise InvalidInputError(
                f"layer {name!r} has {found} features; the head was fitted on {wanted}"
            )
    return columns


def labelled(X: Any, split: str, kind: str, class_names: tuple[str, ...]) -> tuple[Any, np.ndarray]:
    """What to predict from, with its own labels; another kind or other classes are refused."""
    X = load_task(X) if isinstance(X, str) else X
    if isinstance(X, (Task, FeatureStore)) and X.kind != kind:
        raise InvalidInputError(
            f"the head was fitted on a {kind}, and this is a {X.kind}; labels would not mean the "
            f"same"
        )
    if isinstance(X, Task):
        _check_class_names(tuple(X.classes), class_names)
        return X, X[split].labels
    if isinstance(X, FeatureStore):
        _check_class_names(tuple(X.manifest["classes"]), class_names)
    if isinstance(X, (Split, FeatureStore)):
        return X, X.labels
    raise InvalidInputError(f"y is missing; {a_type(X)} has no labels of its own")


def _read_validation(
    given: Any,
    like: LayerColumns,
    kind: str,
    fitted: np.ndarray,
    classes: np.ndarray,
    class_names: tuple[str, ...],
    named: BaseEstimator | None,
) -> Labelled:
    """A store, or features and labels, with the layers of ``like`` and columns as of ``named``."""
    if isinstance(given, FeatureStore):
        features, labels = given, given.labels
        _check_class_names(tuple(given.manifest["classes"]), class_names)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        features, labels = given[0], as_array(given[1])
        check_pairs(*given)
        if named is not None and not has_layers(features):
            features = checked(named, features, dtype=_FLOATS, reset=False)
        complete_labels(labels, kind)
    else:
        raise InvalidInputError(
            f"validation is {a_type(given)}; give a FeatureStore or (features, labels)"
        )
    columns = aligned(features, like.names, like.dims)
    codes = as_codes(labels, kind)
    if codes.shape != (len(columns), *fitted.shape[1:]):
        each = f", where {fitted.shape[1]} numbers are fitted to each" if fitted.ndim > 1 else ""
        raise InvalidInputError(
            f"validation has {len(columns)} examples and labels of shape {labels.shape}{each}"
        )
    if not isinstance(given, FeatureStore):
        codes = as_codes(labels, kind, classes, class_names, "validation")
    return Labelled(columns, codes)


def _as_split(validation: Any, task: Task) -> Split:
    if isinstance(validation, Split):
        return validation
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        check_pairs(*validation)
        labels, names = np.asarray(validation[1]), tuple(task.classes)
        if task.kind != "classification" or labels.ndim == 1:
            classes = class_labels(names, task.kind, task.named)
            codes = as_codes(labels, task.kind, classes, names, "validation")
            return Split(as_examples(validation[0], "validation"), codes)
    raise InvalidInputError(
        f"validation is {a_type(validation)}; give a Split, or (examples, labels) with "
        f"labels of the task"
    )


def _bare(columns: LayerColumns) -> list[Layer]:
    """Layers of which only name and width are known."""
    return [
        Layer(name, index, 1.0, "array", (dim,), "ND", dim, 4 * dim, 0)
        for index, (name, dim) in enumerate(zip(columns.names, columns.dims, strict=True))
    ]


def _pick(names: Sequence[str], layers: Any, model: str) -> list[str]:
    """The layers of a store that are wanted."""
    if (before := results_of(layers)) is not None:
        layers = before.chosen_layers(model)
    if layers == "last":
        return list(names[-1:])
    if isinstance(layers, str) and layers in _EVERY:
        return list(names)
    wanted = [layers] if isinstance(layers, (str, Layer)) else list(layers)
    found = [item.name if isinstance(item, Layer) else item for item in wanted]
    for name in found:
        choose("layer", name, names, LayerNotFoundError)
    if not found:
        raise InvalidInputError("layers is empty; name at least one, or use 'last' or 'all'")
    return found


def _check_codes(codes: np.ndarray, kind: str) -> None:
    if kind == "classification":
        if len(np.unique(codes)) < 2:
            raise InvalidInputError("the labels have one class only; a head needs at least two")
        return
    if not np.isfinite(codes).all():
        raise InvalidInputError("some targets are NaN or infinite; leave those examples out")
    same = (codes == codes[:1]).all(axis=0)
    if same.any() and (kind == "regression" or same.all()):
        raise InvalidInputError(
            f"all examples have the same {'target' if kind == 'regression' else 'labels'}; there "
            f"is nothing to predict"
        )


def _check_class_names(found: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Refuse a task or store whose classes are not those that were fitted on."""
    if names and found != names:
        raise InvalidInputError(
            f"the head was fitted on {len(names)} classes {', '.join(names[:5])}…, and the task "
            f"has {len(found)}: {', '.join(found[:5])}…; labels would not mean the same"
        )
