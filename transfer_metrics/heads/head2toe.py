"""Head2Toe: a linear head on the most relevant features of all layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.heads.base import Head
from transfer_metrics.selection.adam import SoftmaxFit, train_softmax
from transfer_metrics.selection.base import Selection
from transfer_metrics.selection.columns import LayerColumns, layer_columns
from transfer_metrics.selection.group_lasso import GroupLassoSelector
from transfer_metrics.sources.specs import results_of


class Head2Toe(Head):
    """Features of all layers, chosen by group-lasso relevance, under a new linear head.

    Every layer is pooled to about T features and each example's vector of a layer is given unit
    length; a softmax regression with the group lasso scores all features side by side; the
    fraction ``keep`` with the highest scores is gathered, what was chosen of a layer is given unit
    length again, and an unregularised head is trained on it from scratch.

    For targets of a regression, scaled to spread one, the loss of both stages is half the squared
    error, and for several labels per example the binary cross-entropy of each, which the paper has
    not. These need ``solver="adam"`` and a relevance by weights.

    Args:
        keep: fraction F of the features that is kept.
        layers: layers to choose from, on a model: as for ``list_layers``. On features, ``"all"``
            (what ``"activations"`` then means) or names.
        pool: pooling on a model; ``"grid:T"`` is the paper's, with target size T.
        solver: ``"adam"``, the paper's, or ``"proximal"``, which solves the same problem exactly.
        lam: weight of the group lasso; None for the solver's default, see ``GroupLassoSelector``.
        relevance: how columns are scored, as in ``GroupLassoSelector``.
        layer_mix: share of a layer's mean in the score of its features; 1 selects whole layers.
        offset: how many of the best features to leave out, for the paper's ablation.
        selector: a fitted selector of the same layers whose columns are used instead, such as one
            of another task; or a ``Selection``, or its file, of layers that are read.
        lr: learning rate of both stages.
        steps: steps of both stages.
        batch_size: examples per step, and per forward pass.
        random_state: of the initial weights and the order of the examples.
        device: where the network runs and the head is trained.
        checkpoint: folder for the state of an interrupted training; removed at the end.
        progress: show progress.

    Attributes:
        selector_: the fitted selector, with ``scores_`` and ``layer_counts_``.
        kept_: number of features of each layer that are kept.
        candidates_: number of features that they were chosen from.
        coef_, intercept_: (C, k) and (C,).

    Source: Evci, Dumoulin, Larochelle and Mozer, ICML 2022 (arXiv 2201.03529), section 3. The
        paper takes the outputs of the units of a ResNet-50 or ViT; ``"activations"`` does so for
        any network. It reads batches in one fixed order; here they are shuffled once, by the seed.

    Cost: one forward pass over the data; then 6 N' D C operations per step of N' examples for the
        relevance of all D features, and the same with k for the head. Memory O(N D).

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> head = Head2Toe(keep=0.5, steps=200, lr=0.1).fit({"a": X[:, :2], "b": X}, y)
    >>> head.kept_, head.score({"a": X[:, :2], "b": X}, y) > 0.9
    ({'b': 3}, True)
    """

    name = "head2toe"
    _saved = ("kept_", "candidates_")

    def __init__(
        self,
        keep: float = 0.1,
        *,
        layers: Any = "activations",
        pool: Any = "grid:512",
        solver: str = "adam",
        lam: float | None = None,
        relevance: str = "l2",
        layer_mix: float = 0.0,
        offset: int = 0,
        selector: Any = None,
        lr: float = 0.01,
        steps: int = 500,
        batch_size: int = 128,
        random_state: Any = 0,
        device: Any = None,
        checkpoint: Any = None,
        progress: bool = False,
    ) -> None:
        self.keep = keep
        self.layers = layers
        self.pool = pool
        self.solver = solver
        self.lam = lam
        self.relevance = relevance
        self.layer_mix = layer_mix
        self.offset = offset
        self.selector = selector
        self.lr = lr
        self.steps = steps
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self.checkpoint = checkpoint
        self.progress = progress

    def fit(self, X: Any, y: Any = None, *, validation: Any = None) -> Self:
        """Fit on a model and a task, or on features and labels.

        Args:
            X: a model or its name; a FeatureStore; a mapping of layers; an array (N, D).
            y: the task, or labels; None takes a store's own.
            validation: not used: nothing is chosen by it.

        Raises:
            InvalidInputError: data or a parameter that cannot be used.
            UnsupportedTaskError: targets or several labels, and a solver or relevance for classes.
        """
        data = self._feature_data(X, y, None)
        features = data.train.columns
        codes, middle, spread = scaled(data.train.codes, data.kind)
        before = results_of(self.selector)
        self.selector_ = self.selector if before is None else before
        if self.selector_ is None:
            self.selector_ = self.new_selector().fit(features, codes)
        if isinstance(self.selector_, Selection):
            inside = self.selector_.inside(features)
        elif hasattr(self.selector_, "columns_"):
            inside = features.inside(self.selector_.columns_)
        else:
            raise InvalidInputError(
                f"selector is a {type(self.selector_).__name__}; give a fitted selector, a "
                f"Selection, or the file that `select --out` wrote"
            )
        fit = self.train(features, codes, inside, data.outputs, data.kind)
        self.kept_ = {name: len(columns) for name, columns in inside.items()}
        self.candidates_ = features.dim
        read = tuple(layer for layer in data.layers if layer.name in inside)
        weights, bias = fit.weights.T * spread[:, None], fit.bias * spread + middle
        data = dataclasses.replace(data, layers=read)
        self._set_head(data, weights, bias, columns=inside, unit_norm=True)
        for part in ("relevance", "head"):
            path = self._state_file(part)
            if path is not None:
                path.unlink(missing_ok=True)
        return self

    def train(
        self,
        features: LayerColumns,
        codes: np.ndarray,
        inside: Mapping[str, np.ndarray],
        outputs: int,
        kind: str,
    ) -> SoftmaxFit:
        """Train the final head on some columns of each layer."""
        return train_softmax(
            gathered(features, inside),
            codes,
            outputs,
            kind=kind,
            lr=self.lr,
            steps=self.steps,
            batch_size=self.batch_size,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            device=self.device,
            checkpoint=self._state_file("head"),
            progress=self.progress,
        )

    def training_reads(self, examples: int) -> tuple[int, int]:
        """All features for the relevance, and those chosen for the head; see ``Head``."""
        return self.steps * self.batch_size, self.candidates_ + self.coef_.shape[1]

    def new_selector(self) -> GroupLassoSelector:
        """The selector that these parameters describe, not fitted."""
        selector = GroupLassoSelector(checkpoint=self._state_file("relevance"))
        own = self.get_params(deep=False)
        shared = own.keys() & selector.get_params().keys() - {"checkpoint"}
        return selector.set_params(**{name: own[name] for name in shared})

    def __sklearn_clone__(self) -> Self:
        copy = super().__sklearn_clone__()
        copy.selector = self.selector  # which is fitted, and is to stay so
        return copy

    def _refuse(self, kind: str) -> None:
        if kind != "classification" and self.selector is None:
            self.new_selector().refuse(kind)

    def _state_file(self, part: str) -> Path | None:
        return None if self.checkpoint is None else Path(self.checkpoint) / f"{part}.safetensors"


def gathered(features: LayerColumns, inside: Mapping[str, np.ndarray]) -> LayerColumns:
    """Some columns of each layer, in memory, what there is of a layer at length one."""
    chosen = {n: np.ascontiguousarray(features.layer(n)[:, c]) for n, c in inside.items()}
    return layer_columns(chosen).unit_rows()


def scaled(codes: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is trained for: targets at mean zero and spread one, with both; all else as it is.

    >>> [part.tolist() for part in scaled(np.array([[1.0], [5.0]]), "regression")]
    [[[-1.0], [1.0]], [3.0], [2.0]]
    """
    if kind != "regression":
        return codes, np.zeros(1, np.float32), np.ones(1, np.float32)
    middle, spread = codes.mean(axis=0), codes.std(axis=0)
    return (codes - middle) / spread, middle, spread
