"""How relevant each column is: from the weights of a classifier, or without one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.selection.columns import LayerColumns

OF_WEIGHTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "l2": lambda weights: np.square(weights).sum(axis=1),
    "l1": lambda weights: np.abs(weights).sum(axis=1),
    "linf": lambda weights: np.abs(weights).max(axis=1),
    "l2layer": lambda weights: np.sqrt(np.square(weights).sum(axis=1)),
}
"""Scores of the rows of W, (D, C); those of ``l2layer`` are then averaged over each layer."""

WITHOUT_LABELS = ("variance", "random")
OF_FEATURES = (*WITHOUT_LABELS, "f_classif", "chi2", "mutual_info", "trees")
TREES = 50


def weight_scores(weights: np.ndarray, score: str, features: LayerColumns) -> np.ndarray:
    """Scores of all columns by their weights (D, C): (D,) float64."""
    scores = OF_WEIGHTS[score](np.asarray(weights, dtype=np.float64))
    return layer_means(scores, features) if score == "l2layer" else scores


def feature_scores(features: LayerColumns, y: Any, score: str, seed: int) -> np.ndarray:
    """Scores of all columns that need no classifier: (D,) float64.

    Args:
        features: N examples of D columns.
        y: labels (N,); not read by ``variance`` and ``random``.
        score: one of ``OF_FEATURES``. ``variance`` is the standard deviation, as in the published
            code.
        seed: for ``random``, ``mutual_info`` and ``trees``.

    Raises:
        InvalidInputError: ``chi2`` of negative features.

    Cost: one pass in blocks of columns; ``trees`` has all of them in memory as float32, and
    ``mutual_info`` takes about a millisecond per column and thousand examples.

    >>> from transfer_metrics.selection.columns import layer_columns
    >>> feature_scores(layer_columns(np.array([[0.0, 1], [2, 1]])), None, "variance", 0).tolist()
    [1.0, 0.0]
    """
    if score == "random":
        return np.random.default_rng(seed).random(features.dim)
    if score == "trees":
        return _trees(features, y, seed)
    scorers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "variance": lambda block: block.std(axis=0),
        "f_classif": partial(_f_classif, y=y),
        "chi2": partial(_chi2, y=y),
        "mutual_info": partial(_mutual_info, y=y, seed=seed),
    }
    scores = np.empty(features.dim)
    for start, block in features.blocks():
        scores[start : start + block.shape[1]] = scorers[score](block.astype(np.float64))
    return scores


def layer_means(scores: np.ndarray, features: LayerColumns) -> np.ndarray:
    """Each column's score replaced by the mean over its layer.

    >>> from transfer_metrics.selection.columns import layer_columns
    >>> two = layer_columns({"a": np.ones((1, 2)), "b": np.ones((1, 1))})
    >>> layer_means(np.array([1.0, 3.0, 5.0]), two).tolist()
    [2.0, 2.0, 5.0]
    """
    means = np.add.reduceat(scores, features.starts[:-1]) / features.dims
    return np.repeat(means, features.dims)


def best_window(scores: np.ndarray, ties: np.ndarray, keep: float, offset: int) -> np.ndarray:
    """The ``int(D * keep)`` best columns, at least one, after the ``offset`` very best.

    Args:
        scores: (D,).
        ties: (D,) ranks equal scores; where these are equal too the lower column goes first.
        keep: share of the columns.
        offset: how many of the best to leave out.

    Returns:
        Columns, ascending, int64.

    Raises:
        InvalidInputError: there are not that many columns.

    >>> scores = np.array([0.0, 2.0, 0.0, 1.0])
    >>> best_window(scores, np.array([1, 9, 5, 9]), keep=0.5, offset=1).tolist()
    [2, 3]
    """
    count = max(int(len(scores) * keep), 1)
    if offset + count > len(scores):
        raise InvalidInputError(
            f"keep={keep} of {len(scores)} columns from offset={offset} on are more than there "
            f"are; lower one of them"
        )
    order = np.lexsort((-ties, -scores))
    return np.sort(order[offset : offset + count]).astype(np.int64)


def _f_classif(block: np.ndarray, y: np.ndarray) -> np.ndarray:
    from sklearn.feature_selection import f_classif

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # constant features: their score is zero
        found = f_classif(block, y)[0]
    # Features that separate the classes without error have an infinite ratio.
    return np.nan_to_num(found, nan=0.0, posinf=float(np.finfo(np.float32).max))


def _chi2(block: np.ndarray, y: np.ndarray) -> np.ndarray:
    from sklearn.feature_selection import chi2

    if block.min() < 0:
        raise InvalidInputError(
            "relevance='chi2' needs features that are not negative; use f_classif"
        )
    with np.errstate(all="ignore"):
        return np.nan_to_num(chi2(block, y)[0], nan=0.0)


def _mutual_info(block: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.feature_selection import mutual_info_classif

    return mutual_info_classif(block, y, discrete_features=False, random_state=seed)


def _trees(features: LayerColumns, y: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.ensemble import ExtraTreesClassifier

    trees = ExtraTreesClassifier(TREES, random_state=seed)
    return trees.fit(features.dense().astype(np.float32, copy=False), y).feature_importances_
