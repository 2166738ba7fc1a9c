"""What all heads share: predictions on features or examples, the network, saving, names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.data import (
    FeatureData,
    TaskData,
    aligned,
    as_codes,
    is_model,
    labelled,
    read_features,
    read_task,
)
from transfer_metrics.heads.head_files import SavedHead, read_head, told_as_damage, write_head
from transfer_metrics.heads.in_use import InUse
from transfer_metrics.heads.network import TransferNet, full_precision, linear_layer, load_weights
from transfer_metrics.heads.objective import QUALITY, quality
from transfer_metrics.heads.preprocessed import Inputs, is_raw, network_logits
from transfer_metrics.heads.shared_features import SharedFeatures
from transfer_metrics.heads.source import ModelRef, check_store
from transfer_metrics.registry import Registry, choose
from transfer_metrics.selection.columns import has_layers, unit_rows
from transfer_metrics.sources.models.modules import copied
from transfer_metrics.sources.specs import results_of
from transfer_metrics.sources.tasks.new_examples import is_new
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.syntax import call_options

_RUNNING = ("device", "progress", "checkpoint", "random_state")
"""Parameters that say how and where a head runs, not what it computes."""


class Head(InUse, ClassifierMixin, BaseEstimator):
    """A linear model on the features of a pretrained network: of classes, targets or labels.

    ``fit(model, task)`` fits on a network and a task; ``fit(store)``, ``fit({layer: X}, y)`` and
    ``fit(X, y)`` on features, where the head needs no more than those. Predictions then take what
    was fitted on: a task (with ``split``, ``"test"`` by default), a split, or raw examples for a
    model; features for features. A head that needs features only takes stores and mappings of its
    layers in both cases. A model that is given is used, not copied; only ``network`` copies.

    What is predicted is what the task is of, or what ``labels.fitted_kind`` says of an array: a
    class; K targets of a regression, where a logit is the prediction itself; or which of K labels
    apply, those of logits above 0.

    Attributes:
        kind_: ``"classification"``, ``"regression"`` or ``"multilabel"``.
        classes_: (C,) labels; class numbers 0..C-1 for tasks and stores; none for a regression.
        class_names_: names of the classes, or of the K labels, of a task or store.
        coef_: (C, k) weights on the features that are used.
        intercept_: (C,) biases.
        layers_: the layers that are read, in the order of the columns of ``coef_``.
        layer_columns_: per layer the features that are used; None for all.
        unit_norm_: whether what is used of each layer is scaled to length one.
        pool_: name of the pooling, if known.
        source_: the model, if known.
        network_: the trained network, for heads that train one; else None.
        card_: what a saved head tells beside itself: the ``task`` that it was fitted on, the
            ``preprocessing`` of its model, and the ``tests`` that ``score`` made.
    """

    name: ClassVar[str] = ""
    """Name in the registry."""
    random: ClassVar[bool] = True
    """Whether a fit on given training and validation data depends on ``random_state``."""
    _saved: ClassVar[tuple[str, ...]] = ()
    """Further fitted attributes that ``save`` keeps: arrays, and what JSON can hold."""

    kind_: str
    classes_: np.ndarray
    class_names_: tuple[str, ...]
    coef_: np.ndarray
    intercept_: np.ndarray
    layers_: tuple[Layer, ...]
    layer_columns_: dict[str, np.ndarray] | None
    unit_norm_: bool
    pool_: str | None
    source_: ModelRef | None
    network_: TransferNet | None
    fitted_on_: str
    _shared: SharedFeatures | None = None  # while a fit among others goes on
    _state: dict[str, Tensor] | None = None  # trained weights that were read and not yet used

    @property
    def label(self) -> str:
        """The name with the parameters that differ from the defaults, as it can be asked for.

        How and where a head runs (device, progress, checkpoint, seed) is left out.
        """
        defaults = type(self)().get_params(deep=False)
        told = [
            f"{name}={value!r}"
            for name, value in self.get_params(deep=False).items()
            if name not in _RUNNING and repr(value) != repr(defaults[name])
        ]
        return f"{self.name}({', '.join(told)})" if told else self.name

    @property
    def measure(self) -> str:
        """Name of what ``score`` gives, by the kind of task that was fitted on."""
        return QUALITY[self.kind_]

    def on_layers_of(self, model: str) -> Self:
        """This head, its layers by their names where a table or selection stands for them."""
        before = results_of(self.get_params(deep=False).get("layers"))
        if before is None:
            return self
        return clone(self).set_params(layers=before.chosen_layers(model))

    def set_known(self, **options: Any) -> Self:
        """Set those of the options that are parameters of this head."""
        known = self.get_params(deep=False)
        return self.set_params(**{name: v for name, v in options.items() if name in known})

    def logits(self, X: Any, *, split: str = "test") -> np.ndarray:
        """Logits, (N, C): one column per class also where there are two; or per target or label.

        Args:
            X: what the head takes; see the class.
            split: which split of a task.

        Raises:
            InvalidInputError: something that the head cannot read.
            IncompatibleStoreError: features of another model.
        """
        check_is_fitted(self, "classes_")
        if has_layers(X) or (self.fitted_on_ == "features" and not is_raw(X)):
            return self._feature_logits(X)
        model = self._source().get()
        inputs = Inputs.of_any(model, self._examples(X, model) if is_new(X) else X, split)
        return network_logits(self._placed(), inputs, getattr(self, "batch_size", 64)).numpy()

    def decision_function(self, X: Any, *, split: str = "test") -> np.ndarray:
        """Logits (N, C); with two classes their difference (N,), as scikit-learn has it."""
        logits = self.logits(X, split=split)
        two = self.kind_ == "classification" and len(self.classes_) == 2
        return logits[:, 1] - logits[:, 0] if two else logits

    def predict_proba(self, X: Any, *, split: str = "test") -> np.ndarray:
        """Probabilities of the classes, (N, C), or of each of the labels, (N, K).

        Raises:
            UnsupportedTaskError: the head was fitted to a regression.
        """
        logits = self.logits(X, split=split)
        if self.kind_ == "regression":
            raise UnsupportedTaskError("a regression has no probabilities; use predict")
        return softmax(logits, axis=1) if self.kind_ == "classification" else expit(logits)

    def predict(self, X: Any, *, split: str = "test") -> np.ndarray:
        """The most probable class of each example, (N,); the first of several.

        Files, images and texts (a folder, a path or a list of them, a table without labels, an
        image, a text) give the names of classes where these are known. What has labels of its own,
        and arrays, give ``classes_``, as the labels are. Of a regression the targets, (N,) or
        (N, K); of several labels which apply, (N, K) int64.
        """
        logits = self.logits(X, split=split)  # which tells whether it is fitted
        if self.kind_ == "regression":
            return logits[:, 0] if logits.shape[1] == 1 else logits
        if self.kind_ == "multilabel":
            return (logits > 0).astype(np.int64)
        return (self._told_classes() if is_new(X) else self.classes_)[logits.argmax(axis=1)]

    def score(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, split: str = "test"
    ) -> float:
        """Accuracy, from 0 to 1; of a regression R²; of several labels average precision.

        See ``objective.quality``. That on a task is kept on ``card_``.

        Args:
            X: what the head takes; see the class.
            y: labels; None takes those of the task, split or store.
            sample_weight: (N,) weights of the examples.
            split: which split of a task.

        Raises:
            InvalidInputError: labels are missing, or the task has other classes.
        """
        check_is_fitted(self, "classes_")
        own = y is None
        if own:
            X, y = labelled(X, split, self.kind_, self.class_names_)
        y = np.asarray(y)
        logits = self.logits(X, split=split)
        if self.kind_ != "classification":
            value = quality(self.kind_, logits, as_codes(y, self.kind_), sample_weight)
        else:
            # Labels of new examples may be names, where those that were fitted on had numbers.
            named = y.dtype.kind in "UO" and self.classes_.dtype.kind in "iu"
            right = (self._told_classes() if named else self.classes_)[logits.argmax(axis=1)] == y
            value = float(np.average(right, weights=sample_weight))
        if own and sample_weight is None and isinstance(X, Task):
            self.note_test(X.name, split, self.measure, value, len(y))
        return value

    def network(self, model: Any = None) -> TransferNet:
        """The backbone with this head on it, as a module of its own in evaluation mode.

        It shares nothing with this object: changing one leaves the other as it is.

        Args:
            model: the backbone for a head that was fitted on its features; by default the model
                is loaded by name.

        Raises:
            InvalidInputError: the head was fitted on arrays, which have no network.
            IncompatibleStoreError: the model is not the one that the features came from.
        """
        check_is_fitted(self, "classes_")
        if model is not None:
            self._source().adopt(model)
        return copied(self._network()).eval()

    @contextmanager
    def sharing(self, features: SharedFeatures) -> Iterator[Self]:
        """A fit inside takes features of its model from those that heads of it share."""
        self._shared = features
        try:
            yield self
        finally:
            del self._shared

    def reads(self) -> list[tuple[Any, Any]]:
        """Layers and pooling of each pass over features that a fit makes."""
        options = self.get_params(deep=False)
        return [(options["layers"], options["pool"])] if {"layers", "pool"} <= set(options) else []

    def chosen(self) -> dict[str, Any]:
        """Parameters that say what a search has chosen: with them a fit makes none."""
        return {}

    def training_reads(self, examples: int) -> tuple[int, int]:
        """Examples that the final training on features read, repetitions counted; width of each."""
        return examples, self.coef_.shape[1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, as ``head.json`` and ``head.safetensors``; whole or not at all.

        Raises:
            InvalidInputError: the folder holds something else, cannot be written, or the head
                pools with a function that has no name.
            NotFittedError: the head is not fitted.

        Cost: the size of the head's weights, and for a trained network of all its weights.
        """
        check_is_fitted(self, "classes_")
        saved = SavedHead(
            name=self.name,
            kind=self.kind_,
            params=self.get_params(deep=False),
            fitted_on=self.fitted_on_,
            n_features_in=getattr(self, "n_features_in_", None),
            classes=self.classes_,
            class_names=self.class_names_,
            coef=self.coef_,
            intercept=self.intercept_,
            layers=self.layers_,
            layer_columns=self.layer_columns_,
            unit_norm=self.unit_norm_,
            pool=self.pool_,
            source=self.source_,
            further={name: getattr(self, name) for name in self._saved if hasattr(self, name)},
            state=self._trained_state(),
            card=self._card(),
        )
        write_head(Path(path), saved)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any = None) -> Self:
        """Read what ``save`` wrote; see ``load_head``."""
        head = load_head(path, model)
        if not isinstance(head, cls):
            raise InvalidInputError(f"{path} holds a {type(head).__name__}, not a {cls.__name__}")
        return head

    def _feature_data(self, X: Any, y: Any, validation: Any) -> FeatureData:
        """Read what a head on features is fitted on; models are run over their task first."""
        options = self.get_params(deep=False)
        fraction, seed = options.get("validation"), options.get("random_state")
        if isinstance(X, FeatureData):
            data = X
        elif is_model(X):
            of_task = read_task(X, y, validation, fraction, seed)
            self._refuse(of_task.task.kind)  # before anything is run
            data = self._task_features(of_task)
            self._begin_card(of_task.task)
        else:
            data = read_features(self, X, y, validation, options["layers"], fraction, seed)
        self._refuse(data.kind)
        self.n_features_in_ = data.whole.columns.dim
        return data

    def _refuse(self, kind: str) -> None:
        """Raise where this head, with its parameters, is not defined for a kind of task."""

    def _task_features(self, data: TaskData) -> FeatureData:
        """Features by this head's layers and pooling."""
        options = self.get_params(deep=False)
        return data.features(
            options["layers"],
            options["pool"],
            batch_size=options.get("batch_size", 64),
            device=options.get("device"),
            progress=bool(options.get("progress", False)),
            shared=self._shared,
        )

    def _set_head(
        self,
        data: FeatureData,
        coef: np.ndarray,
        intercept: np.ndarray,
        *,
        columns: dict[str, np.ndarray] | None = None,
        unit_norm: bool = False,
    ) -> None:
        """Set the attributes of a head that was fitted on features."""
        self.kind_, self.classes_, self.class_names_ = data.kind, data.classes, data.class_names
        self.layers_, self.pool_, self.source_ = data.layers, data.pool, data.source
        self.fitted_on_ = "model" if data.of_model else "features"
        self.coef_, self.intercept_ = coef, intercept
        self.layer_columns_, self.unit_norm_, self.network_ = columns, unit_norm, None

    def _source(self) -> ModelRef:
        if self.source_ is None:
            raise InvalidInputError(
                "the head was fitted on arrays, so there is no network it belongs to; fit it on a "
                "model and a task, or on a FeatureStore"
            )
        return self.source_

    def _network(self) -> TransferNet:
        """The network, whose backbone is shared with the model unless it was trained."""
        if self.network_ is not None:
            return self.network_
        module = self._source().get().module
        if self._state is not None:
            module = full_precision(copied(module))
        head = linear_layer(self.coef_, self.intercept_)
        weight = next(module.parameters(), None)
        network = TransferNet(
            module,
            self.layers_,
            self._pool(),
            head if weight is None else head.to(weight.device),
            columns=self.layer_columns_,
            unit_norm=self.unit_norm_,
        )
        if self._state is not None:
            load_weights(network, self._state)
            self.network_, self._state = network.eval(), None
        return network

    def _trained_state(self) -> dict[str, Tensor] | None:
        """Weights of the trained network, None for a head on the model as it was."""
        return self._state if self.network_ is None else self.network_.state_dict()

    def _pool(self) -> Pool:
        """The pooling that was fitted with; a function of the caller's own is the parameter."""
        given = getattr(self, "pool", None)
        assert self.pool_ is not None
        pool = resolve_pool(self.pool_ if given is None else given)
        return pool if pool.name == self.pool_ else resolve_pool(self.pool_)

    def _feature_logits(self, X: Any) -> np.ndarray:
        """Logits (N, C) in float64 of features, with one layer in memory at a time."""
        if self._trained_state() is not None:
            raise UnsupportedTaskError(
                f"{type(self).__name__} has trained the network itself, so features of the network "
                f"as it was are of no use to it; pass a task, a split or examples"
            )
        if isinstance(X, FeatureStore):
            check_store(X, self.source_, self.pool_)
        elif not has_layers(X):
            X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        dims = [layer.dim for layer in self.layers_]
        columns = aligned(X, [layer.name for layer in self.layers_], dims)
        logits, start = np.zeros(()), 0
        for name in columns.names:
            x = columns.layer(name)
            if self.layer_columns_ is not None and name in self.layer_columns_:
                x = x[:, self.layer_columns_[name]]
            x = unit_rows(x) if self.unit_norm_ else x
            end = start + x.shape[1]
            logits = logits + x.astype(np.float64, copy=False) @ self.coef_[:, start:end].T
            start = end
        return logits + self.intercept_


HEADS: Registry[type[Head]] = Registry(
    "head",
    {
        "finetune": "transfer_metrics.heads.finetune:FineTune",
        "h2t_ft": "transfer_metrics.heads.finetune:H2TFT",
        "head2toe": "transfer_metrics.heads.head2toe:Head2Toe",
        "head2toe_cv": "transfer_metrics.heads.head2toe:Head2ToeCV",
        "linear_probe": "transfer_metrics.heads.linear:LinearProbe",
        "lpft": "transfer_metrics.heads.finetune:LPFT",
    },
    group="transfer_metrics.heads",
)
"""Classes of heads; the name is also the class's ``name``."""


def resolve_head(spec: Any) -> Head:
    """Make a head from its name, with options if wanted, or its class; one that is made stays.

    Raises:
        UnknownNameError: no such head or option; with suggestions.
        InvalidInputError: the options cannot be read.

    >>> resolve_head("lpft(epochs=5)").epochs
    5
    """
    if isinstance(spec, type) and issubclass(spec, Head):
        return spec()
    if isinstance(spec, Head):
        return spec
    if not isinstance(spec, str):
        raise InvalidInputError(
            f"a head is a {type(spec).__name__}; give a name such as 'linear_probe', or a head"
        )
    name, bracket, rest = spec.strip().partition("(")
    known = HEADS[name.strip()]
    options = call_options(bracket + rest, f"head {name!r}") if bracket else {}
    for option in options:
        choose(f"option of head {name!r}:", option, known().get_params(deep=False))
    return known(**options)


def load_head(path: str | os.PathLike[str], model: Any = None) -> Head:
    """Read a head that ``save`` wrote.

    Args:
        path: the folder.
        model: the model that it was fitted on, which is checked; by default it is loaded by its
            name when it is first needed.

    Returns:
        The fitted head, of the class that was saved.

    Raises:
        InvalidInputError: there is no head at ``path``.
        CorruptStoreError: a file is missing, truncated or altered.
        IncompatibleStoreError: another version of the format, or ``model`` is another model.
        UnknownNameError: a head of a class that is not registered here.
    """
    with told_as_damage(Path(path)):
        saved = read_head(Path(path))
        head = HEADS[saved.name](**saved.params)
        head.kind_ = saved.kind
        head.classes_, head.class_names_ = saved.classes, saved.class_names
        head.coef_, head.intercept_ = saved.coef, saved.intercept
        head.layers_, head.layer_columns_ = saved.layers, saved.layer_columns
        head.unit_norm_, head.pool_, head.source_ = saved.unit_norm, saved.pool, saved.source
        head.fitted_on_, head.network_, head._state = saved.fitted_on, None, saved.state
        head.card_ = saved.card
        if saved.n_features_in is not None:
            head.n_features_in_ = saved.n_features_in
        for name in saved.further.keys() & set(head._saved):
            setattr(head, name, saved.further[name])
    if model is not None:
        head._source().adopt(model)
    return head
