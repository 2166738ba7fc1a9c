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
from transfer_metrics.heads.objective import Answers, as_codes
from transfer_metrics.heads.origin import ModelRef
from transfer_metrics.heads.shared_features import SharedFeatures
from transfer_metrics.naming import a_type
from transfer_metrics.registry import choose
from transfer_metrics.selection.columns import (
    LayerColumns,
    aligned,
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
    """The mean and spread (K,) of targets, which training does without; all else stays as it is.

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

    answers: Answers
    train: Labelled
    held: Labelled
    whole: Labelled
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
        kind: str | None = None,
    ) -> FeatureData:
        """Features and labels in any of the accepted forms, with a part for validation.

        Arrays tell the ``owner`` what columns they have. None for ``fraction`` holds out nothing.
        """
        columns, labels, kind = read_labelled(owner, X, y, kind=kind, dtype=_FLOATS)
        for doubt in [] if has_layers(X) else dominating(columns.layer(columns.names[0])):
            warn(doubt)
        store = X if isinstance(X, FeatureStore) else None
        if store is not None and y is None:
            answers = Answers.of_names(store.manifest["classes"], kind, store.named)
            codes = as_codes(labels, kind)
        else:
            answers, codes = Answers.of_array(labels, kind)
        answers.refuse_one(codes)
        chosen = _pick(columns.names, layers, store.model if store is not None else "")
        train = held = whole = Labelled(columns, codes).only(chosen)
        if validation is not None:
            named = None if has_layers(X) else owner
            held = _read_validation(validation, columns, codes, answers, named).only(chosen)
        elif fraction is not None:
            strata = codes if kind == "classification" else np.zeros(len(codes))
            train, held = map(whole.rows, stratified_holdout(strata, fraction, seed))
        if store is None:  # of which only names and widths are known
            told = [
                Layer(name, index, 1.0, "array", (dim,), "ND", dim, 4 * dim, 0)
                for index, (name, dim) in enumerate(columns.widths.items())
            ]
        else:
            told = list(store.layers)
        by_name = {layer.name: layer for layer in told}
        read = tuple(by_name[name] for name in chosen)
        if store is None:
            return cls(answers, train, held, whole, read, None, None)
        source = ModelRef.of_store(store)
        return cls(answers, train, held, whole, read, store.manifest["pool"], source)

    @property
    def kind(self) -> str:
        """Of the task."""
        return self.answers.kind

    @property
    def classes(self) -> np.ndarray:
        """As in ``Head``."""
        return self.answers.classes

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
        answers = Answers.of_names(task.classes, task.kind, task.named)
        answers.refuse_one(as_codes(task["train"].labels, task.kind))
        splits = {name: task[name] for name in ("train", "val") if name in task.splits}
        if validation is not None:
            splits["val"] = _as_split(validation, answers)
        rows = held = np.arange(len(splits["train"]))
        if "val" in splits:
            held = np.arange(len(splits["val"]))
        elif fraction is not None:
            rows, held = held_out(task.name, splits["train"], task.num_classes, fraction, seed)
        return cls(model, dataclasses.replace(task, splits=splits), rows, held)

    @property
    def answers(self) -> Answers:
        """As in ``FeatureData``."""
        return Answers.of_names(self.task.classes, self.task.kind, self.task.named)

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
        store, model = stores["train"], self.model
        source = dataclasses.replace(ModelRef.of_store(store), model=model, spec=model.spec)
        layers, pool = tuple(store.layers), store.manifest["pool"]
        return FeatureData(self.answers, train, held, whole, layers, pool, source)


def is_model(X: Any) -> bool:
    """Whether something is a model, the name of one, or what was found before of some."""
    return isinstance(X, (str, Model, nn.Module)) or hasattr(X, "chosen_models")


def labelled(X: Any, y: Any, split: str, answers: Answers) -> tuple[Any, np.ndarray]:
    """What to predict from, with labels: ``y``, or its own, which have to mean the same."""
    if y is not None:
        check_pairs(X, y)
        return X, complete_labels(y, answers.kind)
    X = load_task(X) if isinstance(X, str) else X
    if isinstance(X, Task):
        answers.refuse_others(X.kind, X.classes)
        return X, X[split].labels
    if isinstance(X, FeatureStore):
        answers.refuse_others(X.kind, X.manifest["classes"])
    if isinstance(X, (Split, FeatureStore)):
        return X, X.labels
    raise InvalidInputError(f"y is missing; {a_type(X)} has no labels of its own")


def _read_validation(
    given: Any,
    like: LayerColumns,
    fitted: np.ndarray,
    answers: Answers,
    named: BaseEstimator | None,
) -> Labelled:
    """A store, or features and labels, with the layers of ``like`` and columns as of ``named``."""
    if isinstance(given, FeatureStore):
        answers.refuse_others(given.kind, given.manifest["classes"])
        features, labels = given, given.labels
        codes = as_codes(labels, answers.kind)
    elif isinstance(given, (tuple, list)) and len(given) == 2:
        features, labels = given[0], as_array(given[1])
        check_pairs(*given)
        if named is not None and not has_layers(features):
            features = checked(named, features, dtype=_FLOATS, reset=False)
        codes = answers.codes(complete_labels(labels, answers.kind), "validation")
    else:
        raise InvalidInputError(
            f"validation is {a_type(given)}; give a FeatureStore or (features, labels)"
        )
    columns = aligned(features, like.widths, "the head was fitted")
    if codes.shape != (len(columns), *fitted.shape[1:]):
        each = f", where {fitted.shape[1]} numbers are fitted to each" if fitted.ndim > 1 else ""
        raise InvalidInputError(
            f"validation has {len(columns)} examples and labels of shape {labels.shape}{each}"
        )
    return Labelled(columns, codes)


def _as_split(validation: Any, answers: Answers) -> Split:
    if isinstance(validation, Split):
        return validation
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        check_pairs(*validation)
        labels = np.asarray(validation[1])
        if answers.kind != "classification" or labels.ndim == 1:
            codes = answers.codes(labels, "validation")
            return Split(as_examples(validation[0], "validation"), codes)
    raise InvalidInputError(
        f"validation is {a_type(validation)}; give a Split, or (examples, labels) with "
        f"labels of the task"
    )


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
