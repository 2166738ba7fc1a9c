"""What all heads share beside their predictions: how they are fitted and kept, their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import clone

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.heads.data import FeatureData, TaskData, is_model
from transfer_metrics.heads.export import Exported
from transfer_metrics.heads.head_files import read_head, write_head
from transfer_metrics.heads.origin import card_of
from transfer_metrics.heads.predictor import Predictor
from transfer_metrics.heads.shared_features import SharedFeatures
from transfer_metrics.naming import a_type
from transfer_metrics.registry import Registry, choose
from transfer_metrics.selection.columns import has_layers, refuse_kind, refuse_unfitted
from transfer_metrics.sources.specs import results_of
from transfer_metrics.syntax import call_options, check_kinds


class Head(Predictor):
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
        classes_: (C,) labels, of a task or store by ``Answers``; none for a regression.
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

    _shared: SharedFeatures | None = None  # while a fit among others goes on

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

    def tuned(self, model: str, task: str, seed: int, records: Iterable[Mapping[str, Any]]) -> Self:
        """This head with what a fit on a pair has chosen, where records tell of one."""
        for r in records:
            fit = r["model"], r["task"], r["head"], r["seed"]
            chosen_by = str(r["metric"]).startswith("val_") and r["note"]
            if fit == (model, task, self.label, seed) and chosen_by:
                chosen = call_options(f"({r['note']})", f"head {self.name!r}")
                return clone(self).set_params(**chosen)
        return self

    def training_reads(self, examples: int) -> tuple[int, int]:
        """Examples that the final training on features read, repetitions counted; width of each."""
        return examples, self.coef_.shape[1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a folder, as ``head.json`` and ``head.safetensors``; whole or not at all.

        Raises:
            InvalidInputError: the head is not fitted, or pools with a function that has no name;
                or the folder holds something else, or cannot be written.

        Cost: the size of the head's weights, and for a trained network of all its weights.
        """
        refuse_unfitted(self, "classes_")
        write_head(Path(path), self)

    def export(
        self, path: str | os.PathLike[str], format: Literal["onnx", "torch-export"] | None = None
    ) -> Exported:
        """Write the network with this head as one file that runs without this package.

        The file takes batches of any size. For images it takes ``pixels``, uint8 (N, C, H, W), RGB
        where C is 3, resized and cropped as its ``preprocessing`` says, and normalises them itself;
        of a head that was fitted on arrays ``inputs``, float32 of their shape, as they are;
        for texts the numbers of their tokens, and the tokenizer is in it where JSON can hold it.
        It gives ``probabilities`` and ``logits``, (N, C); of a head on words those of every token,
        (N, T, C), padding too, whose mean over its tokens is that of a word. Classes,
        preprocessing, tests and versions are in the metadata of ONNX as JSON, or in the extra file
        ``transfer_metrics.json`` of torch.export.

        Args:
            path: the file, ``.onnx`` or ``.pt2``.
            format: ``"onnx"``, which ``onnxruntime`` and many others run, or ``"torch-export"``,
                which torch alone runs; by default what the name ends with.

        Returns:
            What was written, and how far its logits are from the network's on batches of three
            sizes.

        Raises:
            InvalidInputError: the head was fitted on features; the file cannot be written; or its
                logits differ by more than 1e-4 of the largest, or of one. Nothing is then written.
            UnsupportedTaskError: the network cannot be exported with a batch of any size, has
                more weights than an ONNX file holds, or its head reads words otherwise than by the
                mean of their tokens.
            MissingDependencyError: ONNX needs the extra ``onnx``.

        Cost: one trace, some ten seconds, and a few forward passes.
        """
        network, by_word = self.network(), bool(self._about.get("words"))
        about = {
            "head": self.label,
            "model": self._source().name,
            "revision": self._source().revision,
            "layers": [layer.name for layer in self.layers_],
            "kind": self.kind_,
            "classes": self._told_classes().tolist(),
            **self._card(),
        }
        shape = self._about.get("shape")
        model = self._source().get()
        return Exported.of(network, model, path, format, about, by_word, shape)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Any = None) -> Self:
        """Read what ``save`` wrote; see ``load_head``."""
        head = load_head(path, model)
        if not isinstance(head, cls):
            raise InvalidInputError(f"{path} holds {a_type(head)}, not a {cls.__name__}")
        return head

    def _feature_data(
        self, X: Any, y: Any, validation: Any, kind: str | None = None
    ) -> FeatureData:
        """Read what a head on features is fitted on; models are run over their task first."""
        if isinstance(X, FeatureData):
            data = X
        elif is_model(X):
            refuse_kind(kind, "a task")
            data = self._task_features(self._task_data(X, y, validation))
        else:
            layers = self.get_params(deep=False)["layers"]
            data = FeatureData.read(self, X, y, validation, layers, *self._held_out(), kind)
        self._refuse(data.kind)
        if is_model(X) or has_layers(X):
            self.__dict__.pop("feature_names_in_", None)  # of a fit on an array before
        self.n_features_in_ = data.whole.columns.dim
        return data

    def _task_data(self, X: Any, y: Any, validation: Any) -> TaskData:
        """Load the model and the task that a head is fitted on, which its card then tells of."""
        data = TaskData.read(X, y, validation, *self._held_out())
        self._refuse(data.task.kind)  # before anything is run
        self.card_ = {"task": card_of(data.task, data.model)}
        return data

    def check_options(self) -> Self:
        """Raise where a parameter is of another type than its signature says."""
        check_kinds(type(self), self.get_params(deep=False), f"head {self.name!r}")
        return self

    def _held_out(self) -> tuple[float | None, Any]:
        """The share of examples for validation, where some are cut from others, and the seed."""
        options = self.check_options().get_params(deep=False)
        return options.get("validation"), options.get("random_state")

    def _refuse(self, kind: str) -> None:
        """Raise where this head, with its parameters, is not defined for a kind of task."""

    def _task_features(self, data: TaskData) -> FeatureData:
        """Features by this head's layers and pooling."""
        options = self.get_params(deep=False)
        return data.features(
            options["layers"],
            options["pool"],
            self._shared,
            batch_size=self._at_once,
            device=options.get("device"),
            progress=bool(options.get("progress", False)),
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
        self._set_answers(data.answers)
        self.layers_, self.pool_, self.source_ = data.layers, data.pool, data.source
        of_model = data.source is not None and data.source.model is not None
        self.fitted_on_ = "model" if of_model else "features"
        self.coef_, self.intercept_ = coef, intercept
        self.layer_columns_, self.unit_norm_, self.network_ = columns, unit_norm, None


HEADS: Registry[type[Head]] = Registry(
    "head",
    {
        "finetune": "transfer_metrics.heads.finetune:FineTune",
        "h2t_ft": "transfer_metrics.heads.presets:H2TFT",
        "head2toe": "transfer_metrics.heads.head2toe:Head2Toe",
        "head2toe_cv": "transfer_metrics.heads.head2toe:Head2ToeCV",
        "linear_probe": "transfer_metrics.heads.linear:LinearProbe",
        "lpft": "transfer_metrics.heads.presets:LPFT",
    },
    group="transfer_metrics.heads",
)
"""Classes of heads; the name is also the class's ``name``."""


def resolve_head(spec: Any) -> Head:
    """Make a head from its name, with options if wanted, or its class; one that is made stays.

    >>> resolve_head("lpft(epochs=5)").epochs
    5
    """
    if isinstance(spec, type) and issubclass(spec, Head):
        return spec()
    if isinstance(spec, Head):
        return spec.check_options()
    if not isinstance(spec, str):
        raise InvalidInputError(
            f"a head is {a_type(spec)}; give a name such as 'linear_probe', or a head"
        )
    name, bracket, rest = spec.strip().partition("(")
    known = HEADS[name.strip()]
    options = call_options(bracket + rest, f"head {name!r}") if bracket else {}
    for option in options:
        choose(f"option of head {name!r}:", option, known().get_params(deep=False))
    return known(**options).check_options()


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
    head = read_head(Path(path), HEADS)
    if model is not None:
        head._source().adopt(model)
    return head
