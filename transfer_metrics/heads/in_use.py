"""A fitted head in use: predictions on new examples, of which some may fail, and as one file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy.special import expit, softmax
from sklearn.utils.validation import check_is_fitted
from torch import nn

from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.heads.export import Exported, export_network, refuse_words
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.preprocessed import Inputs, network_logits
from transfer_metrics.heads.source import ModelRef, preprocessing
from transfer_metrics.progress import progress_bar
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import copied
from transfer_metrics.sources.tasks.new_examples import NewExamples, new_examples
from transfer_metrics.sources.tasks.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from transfer_metrics.features.pooling import Pool


class InUse:
    """What a fitted head does for people who have it and no labels.

    Attributes:
        card_: the ``task`` that it was fitted on, the ``preprocessing`` of its model and the
            ``tests`` that ``score`` made.
    """

    kind_: str
    classes_: np.ndarray
    class_names_: tuple[str, ...]
    source_: ModelRef | None
    card_: dict[str, Any]
    unit_norm_: bool

    if TYPE_CHECKING:
        layers_: tuple[Any, ...]

        @property
        def label(self) -> str:
            """See ``Head``."""

        def network(self, model: Any = None) -> TransferNet:
            """See ``Head``."""

        def _network(self) -> TransferNet: ...
        def _source(self) -> ModelRef: ...
        def _pool(self) -> Pool: ...

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
        >>> head = LinearProbe(C_grid=(0.1,)).fit("zoo:cnn-mnist", "sklearn:digits")
        >>> head.predict_table("sklearn:digits").columns.tolist()
        ['example', 'class', 'probability', 'error']
        """
        import pandas as pd

        check_is_fitted(self, "classes_")
        model = self._source().get()
        new = self._examples(X, model)
        found = _predicted(self._placed(), model, new, getattr(self, "batch_size", 64), progress)
        table = pd.DataFrame({"example": list(new.names)})
        for name, values in self._told(found.logits).items():
            empty = None if values.dtype == object else np.nan
            column = np.full(len(new), empty, dtype=values.dtype)
            column[found.rows] = values
            table[name] = pd.Series(column, dtype=values.dtype)
        table["error"] = pd.Series([found.failures.get(i) for i in range(len(new))], dtype=object)
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

    def export(
        self,
        path: str | os.PathLike[str],
        format: Literal["onnx", "torch-export"] | None = None,
    ) -> Exported:
        """Write the network with this head as one file that runs without this package.

        The file takes batches of any size. For images it takes ``pixels``, uint8 (N, C, H, W), RGB
        where C is 3, resized and cropped as its ``preprocessing`` says, and normalises them itself;
        for texts the numbers of their tokens, and the tokenizer is in it where it can be written as
        JSON. It gives ``probabilities`` and ``logits``, (N, C); of a head on words those of every
        token, (N, T, C), special ones and padding too, where the logits of a word are the mean of
        those of its tokens. Names of classes, preprocessing, tests and versions are in it: in the
        metadata of ONNX as JSON, in the extra file ``transfer_metrics.json`` of torch.export.

        Args:
            path: the file, ``.onnx`` or ``.pt2``.
            format: ``"onnx"``, which ``onnxruntime`` and many others run, or ``"torch-export"``,
                which torch alone runs; by default what the name ends with.

        Returns:
            What was written, and how far its logits are from the network's on batches of three
            sizes.

        Raises:
            InvalidInputError: the head was fitted on arrays; the file cannot be written; or its
                logits differ by more than 1e-4 of the largest, or of one. Nothing is then written.
            UnsupportedTaskError: the network cannot be exported with a batch of any size, has
                more weights than an ONNX file holds, or its head reads words otherwise than by the
                mean of their tokens.
            MissingDependencyError: ONNX needs the extra ``onnx``.

        Cost: one trace, some ten seconds, and a few forward passes.
        """
        by_word = self._labels_words()
        if by_word:
            refuse_words(self._pool(), self.unit_norm_)
        network = self.network()
        about = {
            "head": self.label,
            "model": self._source().name,
            "revision": self._source().revision,
            "layers": [layer.name for layer in self.layers_],
            "kind": self.kind_,
            "classes": self._told_classes().tolist(),
            **self._card(),
        }
        return export_network(network, self._source().get(), path, format, about, by_word)

    def _begin_card(self, task: Task) -> None:
        """Note what is fitted on, and forget the tests of what was fitted before."""
        told: dict[str, Any] = {"name": task.name, "kind": task.kind, "modality": task.modality}
        told |= {"examples": len(task["train"]), "inputs": list(task.understood.inputs)}
        if task["train"].units is not None:
            told["words"] = True
        self.card_ = {"task": told}

    def _card(self) -> dict[str, Any]:
        """The card, with the preprocessing if the model is here to tell it."""
        card = dict(getattr(self, "card_", {}))
        if self.source_ is not None and self.source_.model is not None:
            card["preprocessing"] = preprocessing(self.source_.model)
        return card

    def note_test(self, task: str, split: str, metric: str, value: float, n: int) -> None:
        """Put a test on the card, in place of an earlier one of the same."""
        test = {"task": task, "split": split, "metric": metric, "value": value, "n": n}
        card = getattr(self, "card_", {})
        others = [t for t in card.get("tests", []) if any(t[k] != test[k] for k in list(test)[:3])]
        self.card_ = {**card, "tests": [*others, test]}

    def _examples(self, X: Any, model: Model) -> NewExamples:
        """New examples as they are to be read: by the columns of the training, by word."""
        new = new_examples(X, model.modality, self._columns())
        return new.by_word() if self._labels_words() else new

    def _columns(self) -> tuple[str, ...]:
        """Columns of the table that was fitted on; empty if there was none."""
        return tuple(getattr(self, "card_", {}).get("task", {}).get("inputs", ()))

    def _labels_words(self) -> bool:
        """Whether the words of sentences were fitted on."""
        return bool(getattr(self, "card_", {}).get("task", {}).get("words", False))

    def _told_classes(self) -> np.ndarray:
        """Names of the classes where there are any, else ``classes_``."""
        return np.array(self.class_names_) if self.class_names_ else self.classes_

    def _placed(self) -> TransferNet:
        """The network where it is to run."""
        network, device = self._network(), getattr(self, "device", None)
        if device is None or network.head.weight.device == torch.empty(0, device=device).device:
            return network
        return copied(network).to(device)


@dataclass(frozen=True, eq=False)
class _Predicted:
    """Logits of the examples that could be read, and why the others could not.

    Attributes:
        rows: positions of the examples that were read, (n,).
        logits: theirs, (n, C).
        failures: the reason for each of the others, by position.
    """

    rows: np.ndarray
    logits: np.ndarray
    failures: dict[int, str]


def _predicted(
    network: nn.Module, model: Model, new: NewExamples, batch_size: int, progress: bool = False
) -> _Predicted:
    """Run a network over examples; those that fail are noted, and the rest go on.

    A batch that fails is run again one example at a time. Where all fail, the error of the first
    is raised.
    """
    logits: dict[int, np.ndarray] = {}
    failures: dict[int, TransferMetricsError] = {}
    try:
        whole = Inputs.of_examples(model, new.examples, keep=False)
        runs = whole.runs(batch_size)
    except TransferMetricsError:  # some model needs to see an example first, which is broken
        whole, runs = None, [np.array([position]) for position in range(len(new))]

    def run(positions: Sequence[int]) -> None:
        if whole is None:
            inputs = Inputs.of_examples(model, [new.examples[p] for p in positions], keep=False)
        else:
            inputs = whole.rows(np.array(positions))
        found = network_logits(network, inputs, batch_size).numpy()
        logits.update(zip(positions, found, strict=True))

    with progress_bar(f"predicting with {model.name}", len(new), progress, unit=" examples") as bar:
        for positions in (part.tolist() for part in runs):
            try:
                run(positions)
            except TransferMetricsError:
                for position in positions:
                    try:
                        run([position])
                    except TransferMetricsError as error:
                        failures[position] = error
            bar.update(len(positions))
    if not logits:
        raise next(iter(failures.values()))
    rows = np.array(sorted(logits))
    told = {position: str(error) for position, error in failures.items()}
    return _Predicted(rows, np.stack([logits[row] for row in rows]), told)
