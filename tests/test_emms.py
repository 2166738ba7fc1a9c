"""EMMS against alternating least squares on the full arrays, and sparsemax against a solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.datasets import load_iris
from sklearn.linear_model import LinearRegression

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.emms import _sparsemax


def features(n=90, d=8, c=5):
    y = np.arange(n) ** 2 % c  # classes of unequal size, one or two of them empty
    y[:c] = np.arange(c)
    rng = np.random.default_rng([n, d, c])
    return rng.standard_normal((n, d)) + rng.standard_normal((c, d))[y], y


def tables(k=3, c=5, e=4, seed=0):
    return np.random.default_rng(seed).standard_normal((k, c, e))


def standardised(a):
    return (a - a.mean(axis=0)) / a.std(axis=0)


def slow(x, y, embeddings, rounds):
    """The alternation on arrays of N rows; w is fitted to the last weights."""
    x = standardised(x)
    each = [standardised(np.array([table[label] for label in y])) for table in embeddings]
    columns = np.stack([t.ravel() for t in each], axis=1)
    weights = np.full(len(each), 1 / len(each))

    def fitted():
        target = sum(w * t for w, t in zip(weights, each, strict=True))
        return target, x @ np.linalg.lstsq(x, target, rcond=None)[0]

    for _ in range(rounds):
        weights = nearest_on_simplex(np.linalg.lstsq(columns, fitted()[1].ravel(), rcond=None)[0])
    target, fit = fitted()
    return -((fit - target) ** 2).mean()


def nearest_on_simplex(z):
    """By bisection on the threshold."""
    low, high = z.min() - 1.0, z.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(z - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(z - low, 0.0)


def test_one_hot_is_minus_the_unexplained_share():
    x, y = load_iris(return_X_y=True)
    r2 = [LinearRegression().fit(x, y == c).score(x, y == c) for c in range(3)]
    assert tm.emms(x, y) == pytest.approx(np.mean(r2) - 1, abs=1e-10)
    x, y = features()
    assert tm.emms(x, y) == pytest.approx(slow(x, y, [np.eye(5)], 1), abs=1e-10)


@pytest.mark.parametrize("rounds", [1, 7])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_embeddings_are_combined_by_alternation(seed, rounds):
    x, y = features()
    embeddings = tables(seed=seed)
    if rounds == 1:
        score = tm.emms(x, y, embeddings=embeddings, rounds=1)
    else:
        with pytest.warns(TransferMetricsWarning, match="raise rounds"):
            score = tm.emms(x, y, embeddings=embeddings, rounds=rounds, tol=0.0)
    assert score == pytest.approx(slow(x, y, embeddings, rounds), abs=1e-9)


def test_it_settles_and_copies_of_an_embedding_change_nothing():
    x, y = features()
    embeddings = tables()
    settled = tm.emms(x, y, embeddings=embeddings)
    assert settled == pytest.approx(slow(x, y, embeddings, 300), abs=1e-8)
    one = tm.emms(x, y, embeddings=embeddings[:1])
    assert tm.emms(x, y, embeddings=embeddings[[0, 0, 0]]) == pytest.approx(one, abs=1e-10)


def test_dead_columns_and_empty_classes_are_guarded():
    x, y = features()
    expected = tm.emms(x, y)
    dead = np.hstack([x, np.full((90, 2), 3.0)])
    assert tm.emms(dead, y) == pytest.approx(expected, abs=1e-10)
    gapped = tm.ClassMoments.from_batch(x, 2 * y, 10)
    assert tm.emms(gapped) == pytest.approx(expected, abs=1e-10)
    table = tables(1)[0]
    padded = np.hstack([table, np.full((5, 4), 0.1)])  # half of the entries are 0 and fitted
    half = tm.emms(x, y, embeddings=[table]) / 2
    assert tm.emms(x, y, embeddings=[padded]) == pytest.approx(half, abs=1e-10)


def test_scale_of_single_features_does_not_matter():
    x, y = features()
    scaled = x * np.logspace(-1, 1, 8) + 5
    assert tm.emms(scaled, y) == pytest.approx(tm.emms(x, y), abs=1e-10)


def test_features_that_fit_anything_warn():
    y = np.arange(20) % 4
    x = np.random.default_rng(0).standard_normal((20, 19))
    with pytest.warns(TransferMetricsWarning, match="whatever the features"):
        assert tm.emms(x, y) == 0.0


@pytest.mark.filterwarnings("ignore:.*one label")
def test_input_is_checked():
    x, y = features()
    for embeddings, message in (
        ([], "empty"),
        ([np.ones((4, 3))], "5 classes"),
        ([tables()[0], tables()[0][:, :2]], r"embeddings\[1\].*same number of columns"),
        ([np.ones((5, 3))], "constant"),
        ([np.full((5, 3), np.nan)], r"embeddings\[0\] has 5 row"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            tm.emms(x, y, embeddings=embeddings)
    with pytest.raises(InvalidInputError, match="two classes"):
        tm.emms(x, np.zeros(90, int))
    with pytest.raises(InvalidInputError, match="constant"):
        tm.emms(np.ones((90, 2)), y)
    with pytest.raises(InvalidInputError, match="rounds"):
        tm.emms(x, y, rounds=0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=6))
def test_sparsemax_is_the_nearest_point_of_the_simplex(values):
    z = np.array(values)
    point = _sparsemax(torch.tensor(values, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(point, nearest_on_simplex(z), atol=1e-12)
    assert point.min() >= 0
    assert point.sum() == pytest.approx(1.0, abs=1e-12)


def test_sparsemax_agrees_with_a_constrained_solver():
    z = np.array([0.9, 0.7, -0.2, 0.1])
    found = minimize(lambda p: ((p - z) ** 2).sum(), np.full(4, 0.25), bounds=[(0, 1)] * 4,
                     constraints={"type": "eq", "fun": lambda p: p.sum() - 1})  # fmt: skip
    np.testing.assert_allclose(_sparsemax(torch.from_numpy(z)), found.x, atol=1e-6)
