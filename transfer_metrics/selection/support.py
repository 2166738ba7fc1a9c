"""How well a student does on the examples of a support set that it was not trained on."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.threads import threads_for

Folds = list[tuple[np.ndarray, np.ndarray]]


def default_student() -> LogisticRegression:
    """Multinomial logistic regression with an L2 penalty, scikit-learn's default strength."""
    return LogisticRegression(max_iter=1000)


def support_folds(labels: np.ndarray, folds: int, repeats: int, seed: int) -> Folds:
    """Positions to train on and to test on, stratified by class, several times over.

    There are no more folds than examples of the smallest class, so that with few examples one of
    each class is left out at a time. Leaving out single examples would make their class the rarest
    of the rest, which a penalised student then hardly ever guesses.

    Args:
        labels: class numbers, (N,).
        folds: the most folds.
        repeats: how often the examples are shuffled and cut anew.
        seed: seed of the shuffling.

    Raises:
        InvalidInputError: fewer than two folds, no repeats, or one class only.

    >>> len(support_folds(np.array([0, 0, 0, 1, 1, 1]), 5, 2, 0))
    6
    """
    counts = np.unique(labels, return_counts=True)[1]
    if folds < 2 or repeats < 1:
        raise InvalidInputError(
            f"folds must be at least 2 and repeats at least 1, got {folds} and {repeats}"
        )
    if len(counts) < 2:
        raise InvalidInputError("y has only one class; there is nothing to tell apart")
    if counts.max() == 1:
        return []
    splits = min(folds, max(2, counts.min()))
    parts = RepeatedStratifiedKFold(n_splits=splits, n_repeats=repeats, random_state=seed)
    with warnings.catch_warnings():
        # A class of one is in one fold, and is never recognised there; it is so for everybody.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(parts.split(labels, labels))


def left_out_right(x: np.ndarray, labels: np.ndarray, folds: Folds, student: Any) -> int:
    """How many examples the students get right that were trained without them.

    A count and not a share, so that equals are equal.

    Args:
        x: features, (N, k).
        labels: class numbers, (N,).
        folds: as ``support_folds`` gives them.
        student: a scikit-learn classifier, which is cloned; None for the default.

    Cost: one fit per fold.
    """
    return sum(
        int((predicted(student, x[train], labels[train], x[test]) == labels[test]).sum())
        for train, test in folds
    )


def predicted(student: Any, x: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Labels of other examples, by a student that is trained here; (M,)."""
    if len(np.unique(labels)) == 1:
        return np.full(len(others), labels[0])
    with threads_for(x.size * len(np.unique(labels))):
        fitted = (default_student() if student is None else clone(student)).fit(x, labels)
        return np.asarray(fitted.predict(others))


def rotated(products: np.ndarray) -> np.ndarray:
    """Rows (N, r <= N) that have the scalar products (N, N) of others.

    A linear student with an L2 penalty depends on features through their scalar products alone,
    so these rows stand for features of any width.
    """
    values, vectors = np.linalg.eigh(products)
    keep = values > values[-1] * len(products) * np.finfo(np.float64).eps
    return vectors[:, keep] * np.sqrt(values[keep]) if keep.any() else np.zeros((len(products), 1))


def narrowed(x: np.ndarray, student: Any) -> np.ndarray:
    """Features as wide as there are examples, where the default student cannot tell."""
    return x if student is not None or x.shape[1] <= len(x) else rotated(x @ x.T)


def fisher_ratios(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """One-way analysis of variance of every column: F, (D,), of between- to within-class variance.

    Columns that do not vary within classes have F = inf where the class means differ, and 0 where
    they do not.

    Raises:
        InvalidInputError: no class has two examples.

    Source: Fisher (1925). Cost: O(N D).

    >>> x = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0], [6.0, 1.0]])
    >>> fisher_ratios(x, np.array([0, 0, 1, 1])).tolist()
    [8.0, 0.0]
    """
    classes, codes = np.unique(labels, return_inverse=True)
    counts = np.bincount(codes).astype(np.float64)[:, None]
    if len(codes) == len(classes):
        raise InvalidInputError("no class has two examples; there is no variance within classes")
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    members = (codes == np.arange(len(classes))[:, None]).astype(np.float64)
    means = members @ x / counts
    between = (counts * means**2).sum(axis=0) / max(len(classes) - 1, 1)
    within = ((x - means[codes]) ** 2).sum(axis=0) / (len(codes) - len(classes))
    noise = np.finfo(np.float64).eps * (x**2).sum(axis=0)
    between, within = np.where(between > noise, between, 0), np.where(within > noise, within, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(between > 0, between / within, 0.0)
