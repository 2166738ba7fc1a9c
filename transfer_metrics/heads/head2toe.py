"""Head2Toe: a linear head on the most relevant features of all layers; its cross-validation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.utils import check_random_state

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.data import FeatureData, Labelled, TaskData, Units, is_model
from transfer_metrics.heads.objective import quality
from transfer_metrics.naming import a_type
from transfer_metrics.progress import progress_bar
from transfer_metrics.registry import choose
from transfer_metrics.selection.adam import train_softmax
from transfer_metrics.selection.base import Selection
from transfer_metrics.selection.group_lasso import GroupLassoSelector
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.specs import results_of
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.task import Task

_PAPER_GRID: Mapping[str, tuple[Any, ...]] = {
    "pool": ("grid:512", "grid:8192"),
    "lam": (1e-5, 1e-4, 1e-3),
    "lr": (0.1, 0.01, 0.001),
    "steps": (500, 5000),
    "keep": (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
}
"""The paper's grid, for ResNet-50; from memory of its appendix, partly confirmed by its code."""
_GRID: Mapping[str, tuple[Any, ...]] = {
    "pool": ("grid:512",),
    "lam": (1e-5,),
    "lr": (0.01,),
    "steps": (500,),
    "keep": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
}
_NAMES = tuple(_GRID)


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
        batch_size: examples per step.
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
        self.keep, self.layers, self.pool, self.solver = keep, layers, pool, solver
        self.lam, self.relevance, self.layer_mix = lam, relevance, layer_mix
        self.offset, self.selector, self.lr, self.steps = offset, selector, lr, steps
        self.batch_size, self.random_state, self.device = batch_size, random_state, device
        self.checkpoint, self.progress = checkpoint, progress

    def fit(
        self, X: Any, y: Any = None, *, validation: Any = None, kind: str | None = None
    ) -> Self:
        """Fit on a model and a task, or on features and labels.

        Args:
            X: a model or its name; a FeatureStore; a mapping of layers; an array (N, D).
            y: the task, or labels; None takes a store's own.
            validation: not used: nothing is chosen by it.
            kind: of labels in arrays, as for ``score``: ``"regression"`` makes whole numbers
                targets. Tasks and stores have theirs.

        Raises:
            InvalidInputError: data or a parameter that cannot be used.
            UnsupportedTaskError: targets or several labels, and a solver or relevance for classes.
        """
        data = self._feature_data(X, y, None, kind)
        features = data.train.columns
        before = results_of(self.selector)
        self.selector_ = self.selector if before is None else before
        if self.selector_ is None:
            self.selector_ = self.scored(data.train, data.kind)
        if isinstance(self.selector_, Selection):
            inside = self.selector_.inside(features)
        elif hasattr(self.selector_, "columns_"):
            inside = features.inside(self.selector_.columns_)
        else:
            raise InvalidInputError(
                f"selector is {a_type(self.selector_)}; give a fitted selector, a "
                f"Selection, or the file that `select --out` wrote"
            )
        weights, bias = self.trained(data.train, data, inside)
        self.kept_ = {name: len(columns) for name, columns in inside.items()}
        self.candidates_ = features.dim
        read = tuple(layer for layer in data.layers if layer.name in inside)
        data = dataclasses.replace(data, layers=read)
        self._set_head(data, weights, bias, columns=inside, unit_norm=True)
        for path in (self._state_file(part) for part in ("relevance", "head")):
            if path is not None:
                path.unlink(missing_ok=True)
        return self

    def scored(self, train: Labelled, kind: str) -> GroupLassoSelector:
        """The selector that these parameters describe, fitted."""
        codes = Units.of(kind, train.codes).inside(train.codes)
        return self.new_selector().fit_columns(train.columns, codes, kind)

    def trained(
        self, train: Labelled, data: FeatureData, inside: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights (C, k) and biases of the final head on some columns of each layer."""
        units = Units.of(data.kind, train.codes)
        fit = train_softmax(
            train.columns.take(inside).unit_rows(),
            units.inside(train.codes),
            data.outputs,
            kind=data.kind,
            lr=self.lr,
            steps=self.steps,
            batch_size=self.batch_size,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            device=self.device,
            checkpoint=self._state_file("head"),
            progress=self.progress,
        )
        return units.outside(fit.weights.T, fit.bias)

    def training_reads(self, examples: int) -> tuple[int, int]:
        """All features for the relevance, and those chosen for the head; see ``Head``."""
        return self.steps * self.batch_size, self.candidates_ + self.coef_.shape[1]

    @property
    def _at_once(self) -> None:
        """As ``extract`` has it: a step reads features, which takes far less memory than a pass."""

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


class Head2ToeCV(Head):
    """Head2Toe whose target size, fraction, penalty, learning rate and steps are cross-validated.

    For every setting the features are chosen and the head is trained on four fifths of the
    training examples and tried on the last; the setting with the best mean accuracy over the folds
    (the first of several) is fitted on all. With ``cv=None`` each is tried on validation examples
    instead.

    Args:
        grid: values of ``pool, lam, lr, steps, keep`` to try; those left out keep Head2Toe's
            default. None is a small grid over ``keep``, ``"paper"`` the paper's, of 288
            settings. On features there is one pooling, that of the features.
        cv: number of folds, stratified and shuffled by the seed (the paper's are consecutive).
            None tries settings on the validation set, which then has to be given, as an argument of
            ``fit`` or as the task's split ``val``.
        head: a ``Head2Toe`` with everything that is not in the grid; None for its defaults.
        random_state: of folds and training.
        device: where the network runs.
        progress: show progress.

    Attributes: those of ``Head2Toe``, and
        best_params_: the chosen setting.
        best_score_: its mean accuracy over the folds.
        cv_results_: a list of settings with ``accuracies`` (or R², or average precision) of the
            folds and their ``mean``.

    Source: Evci et al., ICML 2022 (arXiv 2201.03529), section 4 and appendix.

    Cost: per pooling one forward pass over the data; folds x settings x the training of Head2Toe,
        the relevance shared by all fractions.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> head = Head2ToeCV({"keep": (0.25, 1.0), "lr": (0.1,), "steps": (100,)}).fit(X, y)
    >>> head.best_params_["keep"] in (0.25, 1.0), len(head.cv_results_)
    (True, 2)
    """

    name = "head2toe_cv"
    _saved = (*Head2Toe._saved, "best_params_", "best_score_", "cv_results_")

    def __init__(
        self,
        grid: Mapping[str, Sequence[Any]] | str | None = None,
        *,
        cv: int | None = 5,
        head: Head2Toe | None = None,
        random_state: Any = 0,
        device: Any = None,
        progress: bool = False,
    ) -> None:
        self.grid, self.cv, self.head, self.random_state = grid, cv, head, random_state
        self.device, self.progress = device, progress

    def fit(
        self, X: Any, y: Any = None, *, validation: Any = None, kind: str | None = None
    ) -> Self:
        """Choose the setting and fit; arguments as for ``Head2Toe``.

        Raises:
            InvalidInputError: a grid with unknown or empty entries, or too few examples; no
                validation set for ``cv=None``.
        """
        if self.cv is None and validation is None:
            X, y = (load_model(X), load_task(y)) if is_model(X) and y is not None else (X, y)
            if not (isinstance(y, Task) and "val" in y.splits):
                raise InvalidInputError(
                    "cv=None chooses by a validation set and there is none; give validation=, a "
                    "task with a split val, or a number of folds"
                )
        seed, device = self.random_state, self.device
        start = clone(self._start()).set_params(random_state=seed, device=device)
        grid = self._checked_grid(start, is_model(X))
        read: dict[Any, tuple[Head2Toe, FeatureData]] = {}
        results = []
        settings = list(itertools.product(*(grid[name] for name in ("lam", "lr", "steps"))))
        total = len(grid["pool"]) * len(settings) * (self.cv or 1)
        with progress_bar("settings x folds", total, self.progress) as bar:
            for pool in grid["pool"]:
                owner = clone(start).set_params(pool=pool)
                owner._shared = self._shared
                read[pool] = owner, owner._feature_data(X, y, validation, kind)
                for lam, lr, steps in settings:
                    head = clone(owner).set_params(lam=lam, lr=lr, steps=steps)
                    results += self._tried(head, read[pool][1], grid["keep"], bar)
        best = max(results, key=lambda result: result["mean"])
        self.cv_results_, self.best_score_ = results, best["mean"]
        self.best_params_ = {name: best[name] for name in _NAMES}
        owner, data = read[best["pool"]]
        owner.set_params(**self.best_params_).fit(data)
        for name, value in vars(owner).items():
            if name.endswith("_"):
                setattr(self, name, value)
        return self

    def chosen(self) -> dict[str, Any]:
        """The setting; see ``Head``."""
        return {"grid": {name: (value,) for name, value in self.best_params_.items()}}

    def reads(self) -> list[tuple[Any, Any]]:
        """One for each pooling; see ``Head``."""
        start = self._start()
        return [(start.layers, pool) for pool in self._checked_grid(start, True)["pool"]]

    def training_reads(self, examples: int) -> tuple[int, int]:
        """Those of the chosen setting, without the search; see ``Head``."""
        reads = self.best_params_["steps"] * self._start().batch_size
        return reads, self.candidates_ + self.coef_.shape[1]

    def _start(self) -> Head2Toe:
        return Head2Toe() if self.head is None else self.head

    def _task_features(self, data: TaskData) -> FeatureData:
        return self._start()._task_features(data)

    def _tried(
        self, head: Head2Toe, data: FeatureData, keeps: Sequence[float], bar: Any
    ) -> list[dict[str, Any]]:
        """Accuracies of one setting with every fraction."""
        accuracies: dict[float, list[float]] = {keep: [] for keep in keeps}
        for train, held in self._folds(data):
            selector = head.scored(train, data.kind)
            for keep in keeps:
                inside = train.columns.inside(selector.top(keep))
                weight, bias = head.trained(train, data, inside)
                logits = held.columns.take(inside).unit_rows().dense() @ weight.T + bias
                accuracies[keep].append(quality(data.kind, logits, held.codes))
            bar.update()
        setting = {name: getattr(head, name) for name in _NAMES}
        return [
            {**setting, "keep": keep, "accuracies": values, "mean": float(np.mean(values))}
            for keep, values in accuracies.items()
        ]

    def _folds(self, data: FeatureData) -> Iterator[tuple[Labelled, Labelled]]:
        """What each setting is trained and tried on."""
        if self.cv is None:
            yield data.train, data.held
            return
        splitter = StratifiedKFold if data.kind == "classification" else KFold
        folds = splitter(self.cv, shuffle=True, random_state=self.random_state)
        try:
            parts = list(folds.split(data.train.codes, data.train.codes))
        except ValueError as error:
            told = f"cv={self.cv!r} cannot cut these examples: {error}"
            raise InvalidInputError(told) from error
        for rows, out in parts:
            yield data.train.rows(rows), data.train.rows(out)

    def _checked_grid(self, start: Head2Toe, of_model: bool) -> dict[str, tuple[Any, ...]]:
        given: Any = _GRID if self.grid is None else self.grid
        given = _PAPER_GRID if isinstance(given, str) and given == "paper" else given
        if not isinstance(given, Mapping):
            names = ", ".join(_NAMES)
            raise InvalidInputError(f"grid={given!r}; use a mapping of {names}, 'paper'")
        for name in given:
            choose("setting of the grid", name, _NAMES)
        grid = {name: tuple(given.get(name, (getattr(start, name),))) for name in _NAMES}
        empty = [name for name, values in grid.items() if not values]
        if empty:
            raise InvalidInputError(f"grid has no value of {empty[0]}; give at least one")
        return grid if of_model else {**grid, "pool": grid["pool"][:1]}
