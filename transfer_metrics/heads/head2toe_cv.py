"""Head2Toe with its settings chosen by cross-validation."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import StratifiedKFold

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.data import FeatureData, Labelled, is_model
from transfer_metrics.heads.head2toe import Head2Toe, gathered
from transfer_metrics.progress import progress_bar
from transfer_metrics.sources.base import choose

PAPER_GRID: Mapping[str, tuple[Any, ...]] = {
    "pool": ("grid:512", "grid:8192"),
    "lam": (1e-5, 1e-4, 1e-3),
    "lr": (0.1, 0.01, 0.001),
    "steps": (500, 5000),
    "keep": (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1),
}
"""The paper's grid, for ResNet-50; from memory of its appendix, partly confirmed by its code."""
GRID: Mapping[str, tuple[Any, ...]] = {
    "pool": ("grid:512",),
    "lam": (1e-5,),
    "lr": (0.01,),
    "steps": (500,),
    "keep": (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
}
NAMES = ("pool", "lam", "lr", "steps", "keep")


class Head2ToeCV(Head):
    """Head2Toe whose target size, fraction, penalty, learning rate and steps are cross-validated.

    For every setting the features are chosen and the head is trained on four fifths of the
    training examples and tried on the last; the setting with the best mean accuracy over the folds
    (the first of several) is fitted on all. The scores of the features are computed once for all
    fractions.

    Args:
        grid: values of ``pool, lam, lr, steps, keep`` to try; those left out keep Head2Toe's
            default. None is a small grid over ``keep``, ``"paper"`` is ``PAPER_GRID``: 288
            settings. On features there is one pooling, that of the features.
        cv: number of folds, stratified and shuffled by the seed. (The paper's are consecutive,
            which needs examples in random order.)
        head: a ``Head2Toe`` with everything that is not in the grid; None for its defaults.
        random_state: of folds and training.
        device: where the network runs.
        progress: show progress.

    Attributes: those of ``Head2Toe``, and
        best_params_: the chosen setting.
        best_score_: its mean accuracy over the folds.
        cv_results_: a list of settings with ``accuracies`` of the folds and their ``mean``.

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
        cv: int = 5,
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
            InvalidInputError: a grid with unknown or empty entries, or too few examples.
        """
        start = Head2Toe() if self.head is None else clone(self.head)
        start.set_params(random_state=self.random_state, device=self.device)
        grid = self._checked_grid(start, is_model(X))
        read: dict[Any, tuple[Head2Toe, FeatureData]] = {}
        results = []
        settings = list(itertools.product(*(grid[name] for name in ("lam", "lr", "steps"))))
        total = len(grid["pool"]) * len(settings) * self.cv
        with progress_bar("settings x folds", total, self.progress) as bar:
            for pool in grid["pool"]:
                owner = clone(start).set_params(pool=pool)
                read[pool] = owner, owner._feature_data(X, y, None)
                for lam, lr, steps in settings:
                    head = clone(owner).set_params(lam=lam, lr=lr, steps=steps)
                    results += self._tried(head, read[pool][1].train, grid["keep"], bar)
        best = max(results, key=lambda result: result["mean"])
        self.cv_results_, self.best_score_ = results, best["mean"]
        self.best_params_ = {name: best[name] for name in NAMES}
        owner, data = read[best["pool"]]
        owner.set_params(**self.best_params_).fit(data)
        for name, value in vars(owner).items():
            if name.endswith("_"):
                setattr(self, name, value)
        return self

    def training_reads(self, examples: int) -> tuple[int, int]:
        """Those of the chosen setting, without the search; see ``Head``."""
        start = Head2Toe() if self.head is None else self.head
        reads = self.best_params_["steps"] * start.batch_size
        return reads, self.candidates_ + self.coef_.shape[1]

    def _tried(
        self, head: Head2Toe, data: Labelled, keeps: Sequence[float], bar: Any
    ) -> list[dict[str, Any]]:
        """Accuracies of one setting with every fraction."""
        folds = StratifiedKFold(self.cv, shuffle=True, random_state=self.random_state)
        num_classes = int(data.codes.max()) + 1
        accuracies: dict[float, list[float]] = {keep: [] for keep in keeps}
        for rows, out in folds.split(data.codes, data.codes):
            train, held = data.rows(rows), data.rows(out)
            selector = head.new_selector().fit(train.columns, train.codes)
            for keep in keeps:
                inside = train.columns.inside(selector.top(keep))
                fit = head.train(train.columns, train.codes, inside, num_classes)
                logits = gathered(held.columns, inside).dense() @ fit.weights + fit.bias
                hits = logits.argmax(axis=1) == held.codes
                accuracies[keep].append(float(hits.mean()))
            bar.update()
        setting = {name: head.get_params()[name] for name in NAMES}
        return [
            {**setting, "keep": keep, "accuracies": found, "mean": float(np.mean(found))}
            for keep, found in accuracies.items()
        ]

    def _checked_grid(self, start: Head2Toe, of_model: bool) -> dict[str, tuple[Any, ...]]:
        given: Any = GRID if self.grid is None else self.grid
        given = PAPER_GRID if isinstance(given, str) and given == "paper" else given
        if not isinstance(given, Mapping):
            raise InvalidInputError(f"grid={given!r}; use a mapping of {', '.join(NAMES)}, 'paper'")
        for name in given:
            choose("setting of the grid", name, NAMES)
        defaults = start.get_params(deep=False)
        grid = {name: tuple(given.get(name, (defaults[name],))) for name in NAMES}
        empty = [name for name, values in grid.items() if not values]
        if empty:
            raise InvalidInputError(f"grid has no value of {empty[0]}; give at least one")
        return grid if of_model else {**grid, "pool": grid["pool"][:1]}
