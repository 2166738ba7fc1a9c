"""A fitted head in use: predictions, tests and its network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor, nn

from transfer_metrics.errors import CorruptStoreError, InvalidInputError, UnsupportedTaskError
from transfer_metrics.features.batches import MOST
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.pooling import Pool, resolve_pool
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.data import labelled
from transfer_metrics.heads.feed import preprocessing
from transfer_metrics.heads.network import TransferNet, full_precision, linear_layer
from transfer_metrics.heads.objective import QUALITY, Answers, Outcome, quality
from transfer_metrics.heads.origin import ModelRef, refuse_others
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.selection.columns import (
    aligned,
    checked,
    has_layers,
    refuse_unfitted,
    unit_rows,
)
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import copied
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.new_examples import (
    NewExamples,
    is_new,
    is_task_name,
    new_examples,
)
from transfer_metrics.sources.tasks.task import Split, Task

if TYPE_CHECKING:
    import pandas as pd

_RUNNING = ("device", "progress", "checkpoint", "random_state")
"""Parameters that say how and where a head runs, not what it computes."""


class Predictor(ClassifierMixin, BaseEstimator):
    """What a fitted head does for people who have it; ``Head`` lists its attributes."""

    name: ClassVar[str] = ""
    """Name in the registry."""
    random: ClassVar[bool] = True
    """Whether a fit on given training and validation data depends on ``random_state``."""
    trains: ClassVar[bool] = False
    """Whether a fit trains the network itself, in epochs."""
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
    card_: dict[str, Any]
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

    def logits(self, X: Any, *, split: str = "test") -> np.ndarray:
        """Logits, (N, C): one column per class also where there are two; or per target or label.

        Args:
            X: what the head takes; see the class.
            split: which split of a task.

        Raises:
            InvalidInputError: something that the head cannot read.
            IncompatibleStoreError: features of another model.
        """
        refuse_unfitted(self, "classes_")
        raw = isinstance(X, (Task, Split)) or is_task_name(X) or is_new(X)
        if has_layers(X) or (self.fitted_on_ == "features" and not raw):
            return self._feature_logits(X)
        model = self._source().get()
        task = load_task(X) if isinstance(X, Task) or is_task_name(X) else None
        given = X if task is None else task[split]
        if not isinstance(given, (Inputs, Split)):
            given = self._examples(X, model)
        if not isinstance(given, Inputs):
            refuse_others(self._about, model, given.examples)
        name = "the examples" if task is None else f"{task.name} ({split})"
        inputs = Inputs.of_any(model, given, name)
        return inputs.logits(self._placed(), self._at_once or MOST).numpy()

    @property
    def _at_once(self) -> int | None:
        """Examples per forward pass; None for as many as fit."""
        return getattr(self, "batch_size", None)

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

        Files, images, texts and arrays give labels of what was fitted on, which are ``classes_``:
        names where those of folders were fitted on, or not all of them are numbers, else numbers.
        What has labels of its own (a task or its name, a split, a store) gives the numbers of
        classes 0..C-1, as those labels are. Of a regression the targets, (N,) or (N, K); of
        several labels which apply, int64 (N, K).
        """
        logits = self.logits(X, split=split)  # which tells whether it is fitted
        if self.kind_ == "regression":
            return logits[:, 0] if logits.shape[1] == 1 else logits
        if self.kind_ == "multilabel":
            return (logits > 0).astype(np.int64)
        codes = logits.argmax(axis=1)
        return codes if _is_numbered(X) else self.classes_[codes]

    def score(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, split: str = "test"
    ) -> float:
        """Accuracy, from 0 to 1; of a regression R²; of several labels average precision.

        See ``objective.quality``. That on a task is kept on ``card_``.

        Args:
            X: what the head takes; see the class.
            y: labels as ``predict`` gives them, or names of classes; None takes those of the task,
                split or store.
            sample_weight: (N,) weights of the examples.
            split: which split of a task.

        Raises:
            InvalidInputError: labels are missing or are none of the task that was fitted on, or
                the task has other classes.
        """
        refuse_unfitted(self, "classes_")
        own, answers = y is None, self._answers
        X, y = labelled(X, y, split, answers)
        logits = self.logits(X, split=split)
        if len(y) != len(logits):
            raise InvalidInputError(
                f"X has {len(logits)} examples and y {len(y)} labels; give one label per example"
            )
        if _is_numbered(X):
            answers = replace(answers, classes=np.arange(len(self.classes_)))
        codes = answers.codes(y)
        value = quality(self.kind_, logits, codes, sample_weight)
        if own and sample_weight is None and isinstance(X, Task):
            told = Outcome.of(self.kind_, logits, codes, self.class_names_).doubt
            self.note_test(X.name, split, self.measure, value, len(y), told)
        return value

    @property
    def _answers(self) -> Answers:
        return Answers(self.kind_, self.classes_, self.class_names_)

    def _set_answers(self, answers: Answers) -> None:
        self.kind_, self.classes_, self.class_names_ = answers.kind, answers.classes, answers.names

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
        refuse_unfitted(self, "classes_")
        if model is not None:
            self._source().adopt(model)
        return copied(self._network()).eval()

    def predict_table(self, X: Any, *, progress: bool = False) -> pd.DataFrame:
        """Class and probability of every new example; one that cannot be read stops no other.

        Args:
            X: a folder of images, a path, a list of them, a table without labels, an image, texts,
                a split, or the name of a task, whose labels are not read. Of texts for a head on
                words every word, as blanks cut them, is an example.
            progress: show a bar.

        Returns:
            A row per example (per word, where words were fitted on), in the order given:
            ``example`` (its path, beginning or place); ``class`` and ``probability``, or ``value``
            of a regression (``value_1`` and so on of several targets), or ``labels`` with the
            probability of each; and ``error``, the reason where there is nothing of these, else
            None. ``attrs["left_out"]`` lists the files of folders that are no images.

        Raises:
            InvalidInputError: there is no such file or folder, or it holds no examples; or the head
                was fitted on arrays.
            TransferMetricsError: no example at all can be read; the reason of the first.

        >>> from transfer_metrics import LinearProbe
        >>> task = "sklearn:digits?examples=100"
        >>> head = LinearProbe(C_grid=(0.1,)).fit("zoo:cnn-mnist", task)
        >>> head.predict_table(task).columns.tolist()
        ['example', 'class', 'probability', 'error']
        """
        import pandas as pd

        refuse_unfitted(self, "classes_")
        model = self._source().get()
        new = self._examples(X, model)
        refuse_others(self._about, model, new.examples)
        rows, logits, failures = Inputs.readable(
            self._placed(), model, new.examples, self._at_once or MOST, progress
        )
        table = pd.DataFrame({"example": list(new.names)})
        for name, values in self._told(logits).items():
            empty = None if values.dtype == object else np.nan
            column = np.full(len(new), empty, dtype=values.dtype)
            column[rows] = values
            table[name] = pd.Series(column, dtype=values.dtype)
        table["error"] = pd.Series([failures.get(i) for i in range(len(new))], dtype=object)
        table.attrs["left_out"] = list(new.left_out)
        return table

    def _told(self, logits: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of predictions by name: classes, targets, or labels with their probabilities."""
        names = self._told_classes()
        if self.kind_ == "regression":
            one = logits.shape[1] == 1
            return {"value" if one else f"value_{k}": v for k, v in enumerate(logits.T, start=1)}
        if self.kind_ == "multilabel":
            told = np.array([", ".join(map(str, names[row > 0])) for row in logits], dtype=object)
            given = zip(names, expit(logits).T, strict=True)
            return {"labels": told, **{f"probability of {name}": p for name, p in given}}
        probabilities = softmax(logits, axis=1)
        best = probabilities.argmax(axis=1)
        highest = probabilities[np.arange(len(best)), best]
        return {"class": names[best].astype(object), "probability": highest}

    def _card(self) -> dict[str, Any]:
        """The card, with the preprocessing if the model is here to tell it."""
        card = dict(getattr(self, "card_", {}))
        if self.source_ is not None and self.source_.model is not None:
            as_they_are = self._about.get("modality") == "tensor"
            card["preprocessing"] = (
                {"modality": "tensor"} if as_they_are else preprocessing(self.source_.model)
            )
        return card

    def note_test(
        self, task: str, split: str, metric: str, value: float, n: int, doubt: str = ""
    ) -> None:
        """Put a test on the card, in place of an earlier one of the same."""
        test = {"task": task, "split": split, "metric": metric, "value": value, "n": n}
        test |= {"doubt": doubt} if doubt else {}
        card = getattr(self, "card_", {})
        others = [t for t in card.get("tests", []) if any(t[k] != test[k] for k in list(test)[:3])]
        self.card_ = {**card, "tests": [*others, test]}

    def _examples(self, X: Any, model: Model) -> NewExamples:
        """New examples as they are to be read: by the columns of the training, by word."""
        columns, by_word = self._about.get("inputs", ()), bool(self._about.get("words"))
        return new_examples(X, model.modality, tuple(columns), by_word)

    @property
    def _about(self) -> dict[str, Any]:
        """What is known of the task that was fitted on; see ``card_of``."""
        return dict(getattr(self, "card_", {}).get("task", {}))

    def _told_classes(self) -> np.ndarray:
        """Names of the classes where there are any, else ``classes_``."""
        return np.array(self.class_names_) if self.class_names_ else self.classes_

    def _placed(self) -> TransferNet:
        """The network where it is to run."""
        network, device = self._network(), getattr(self, "device", None)
        if device is None or network.head.weight.device == torch.empty(0, device=device).device:
            return network
        return copied(network).to(device)

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
        network = self._on(module)
        if self._state is not None:
            try:
                network.load_state_dict(self._state)
            except RuntimeError as error:
                raise CorruptStoreError(
                    f"the weights do not fit the network ({error}); they belong to another one"
                ) from error
            self.network_, self._state = network.eval(), None
        return network

    def _on(self, module: nn.Module) -> TransferNet:
        """This head on a network, which becomes a part of the result."""
        head, weight = linear_layer(self.coef_, self.intercept_), next(module.parameters(), None)
        return TransferNet(
            module,
            self.layers_,
            self._pool(),
            head if weight is None else head.to(weight.device),
            columns=self.layer_columns_,
            unit_norm=self.unit_norm_,
        )

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
            if self.source_ is not None:
                self.source_.check(X, self.pool_)
        elif not has_layers(X):
            X = checked(self, X, dtype=[np.float64, np.float32], reset=False)
        dims = {layer.name: layer.dim for layer in self.layers_}
        columns = aligned(X, dims, "the head was fitted")
        logits, start = np.zeros(()), 0
        for name in columns.names:
            x = columns.finite(name)
            if self.layer_columns_ is not None and name in self.layer_columns_:
                x = x[:, self.layer_columns_[name]]
            x = unit_rows(x) if self.unit_norm_ else x
            end = start + x.shape[1]
            logits = logits + x.astype(np.float64, copy=False) @ self.coef_[:, start:end].T
            start = end
        return logits + self.intercept_


def _is_numbered(X: Any) -> bool:
    """Whether something has labels of its own, which are numbers of classes."""
    return isinstance(X, (Task, Split, FeatureStore, Inputs)) or is_task_name(X)
