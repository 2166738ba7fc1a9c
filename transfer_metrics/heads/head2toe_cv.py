"""Head2Toe whose settings are chosen by cross-validation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import KFold, StratifiedKFold

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.data import FeatureData, Labelled, TaskData, is_model
from transfer_metrics.heads.head2toe import Head2Toe, gathered, scaled
from transfer_metrics.heads.objective import quality
from transfer_metrics.progress import progress_bar
from transfer_metrics.registry import choose
from transfer_metrics.sources.models.load_model import load_model
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


class Head2ToeCV(Head):
    """Head2Toe whose target size, fraction, penalty, learning rate and steps are cross-validated.

    For every setting the features are chosen and the head is trained on four fifths of the
    training examples and tried on the last; the setting with the best mean accuracy over the folds
    (the first of several) is fitted on all. With ``cv=None`` each is tried on validation examples
    instead. The scores of the features are computed once for all fractions.

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
        self.grid = grid
        self.cv = cv
        self.head = head
        self.random_state = random_state
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any = None, *, validation: Any = None) -> Self:
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
        start = clone(self._start())
        start.set_params(random_state=self.random_state, device=self.device)
        grid = self._checked_grid(start, is_model(X))
        read: dict[Any, tuple[Head2Toe, FeatureData]] = {}
        results = []
        settings = list(itertools.product(*(grid[name] for name in ("lam", "lr", "steps"))))
        total = len(grid["pool"]) * len(settings) * (self.cv or 1)
        with progress_bar("settings x folds", total, self.progress) as bar:
            for pool in grid["pool"]:
                owner = clone(start).set_params(pool=pool)
                owner._shared = self._shared
                read[pool] = owner, owner._feature_data(X, y, validation)
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
            codes, middle, spread = scaled(train.codes, data.kind)
            selector = head.new_selector().fit(train.columns, codes)
            for keep in keeps:
                inside = train.columns.inside(selector.top(keep))
                fit = head.train(train.columns, codes, inside, data.outputs, data.kind)
                logits = gathered(held.columns, inside).dense() @ fit.weights + fit.bias
                found = quality(data.kind, logits * spread + middle, held.codes)
                accuracies[keep].append(found)
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
        for rows, out in folds.split(data.train.codes, data.train.codes):
            yield data.train.rows(rows), data.train.rows(out)

    def _checked_grid(self, start: Head2Toe, of_model: bool) -> dict[str, tuple[Any, ...]]:
        given: Any = _GRID if self.grid is None else self.grid
        given = _PAPER_GRID if isinstance(given, str) and given == "paper" else given
        if not isinstance(given, Mapping):
            raise InvalidInputError(
                f"grid={given!r}; use a mapping of {', '.join(_NAMES)}, 'paper'"
            )
        for name in given:
            choose("setting of the grid", name, _NAMES)
        grid = {name: tuple(given.get(name, (getattr(start, name),))) for name in _NAMES}
        empty = [name for name, values in grid.items() if not values]
        if empty:
            raise InvalidInputError(f"grid has no value of {empty[0]}; give at least one")
        return grid if of_model else {**grid, "pool": grid["pool"][:1]}
