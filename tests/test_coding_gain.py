"""Gains of TransRate over a growing set of columns against scoring every set again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import transfer_metrics as tm
from transfer_metrics.selection.feature_maps import _Rates
from transfer_metrics.statistics import ClassMoments

pytestmark = pytest.mark.filterwarnings("ignore::transfer_metrics.errors.TransferMetricsWarning")

SHAPES = [(60, 7), (12, 20), (30, 25)]


def data(n, d, c=3, seed=0):
    rng = np.random.default_rng([n, d, seed])
    y = np.arange(n) % c
    y[: n // 5] = 0
    x = rng.standard_normal((n, d)) * rng.uniform(0.2, 2, d) + rng.standard_normal((c, d))[y]
    return x, y


def rates(x, y):
    return _Rates(ClassMoments.from_batch(x, y, parts={"class"}))


def distortion(x):
    """What ``eps="auto"`` is for all columns."""
    centred = x - x.mean(axis=0)
    return 0.1 * np.square(centred).sum() / len(x) / np.linalg.matrix_rank(centred)


def score(x, y, eps):
    """TransRate by the listing, with slogdet; nothing is shared with the library."""
    if not x.shape[1]:
        return 0.0

    def rate(z):
        z = z - z.mean(axis=0)
        return 0.5 * np.linalg.slogdet(np.eye(x.shape[1]) + z.T @ z / (len(z) * eps))[1]

    return rate(x) - sum(np.mean(y == c) * rate(x[y == c]) for c in np.unique(y))


def test_the_score_is_transrate_itself():
    x, y = data(40, 6)
    published = tm.transrate(x, y, eps="auto", class_weights="frequency", class_center=True)
    assert score(x, y, distortion(x)) == pytest.approx(published, abs=1e-8)


def greedy(x, y, most, eps):
    """Forward selection that scores every candidate from scratch."""
    order, value = [], 0.0
    while len(order) < most:
        left = [j for j in range(x.shape[1]) if j not in order]
        scores = {j: score(x[:, [*order, j]], y, eps) for j in left}
        best = max(scores, key=scores.get)
        if scores[best] - value <= 0:
            break
        order.append(best)
        value = scores[best]
    return order


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_the_greedy_order_is_that_of_scoring_every_candidate(n, d):
    x, y = data(n, d)
    order = greedy(x, y, 7, distortion(x))
    assert rates(x, y).grow(7).tolist() == order
    assert len(order) >= 1


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("start", [[], [1], [0, 4, 2]])
def test_gains_beside_a_set_are_differences_of_scores(n, d, start):
    x, y = data(n, d)
    found, eps = rates(x, y), distortion(x)
    for j in start:
        found.add(j)
    gains = found.gains()
    for j in set(range(d)) - set(start):
        naive = score(x[:, [*start, j]], y, eps) - score(x[:, start], y, eps)
        assert gains[j] == pytest.approx(naive, abs=1e-8)


def sum_of_gains(x, y, order):
    found, total = rates(x, y), 0.0
    for j in order:
        gain = found.gains()[j]
        assert gain > 0
        total += gain
        found.add(j)
    return total


def test_many_steps_lose_no_digits():
    x, y = data(300, 40)
    for side in (x, x[:35]):
        labels = y[: len(side)]
        order = rates(side, labels).grow(40)
        expected = score(side[:, order], labels, distortion(side))
        assert sum_of_gains(side, labels, order) == pytest.approx(expected, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 25), st.integers(2, 25), st.integers(0, 99))
def test_the_sum_of_gains_is_the_score_of_what_was_taken(n, d, seed):
    x, y = data(n, d, seed=seed)
    order = rates(x, y).grow(d)
    expected = score(x[:, order], y, distortion(x))
    assert sum_of_gains(x, y, order) == pytest.approx(expected, abs=1e-8)


def test_dead_columns_are_not_taken():
    x, y = data(40, 5)
    x = np.column_stack([x, np.full(40, 3.0), x[:, 0]])
    assert 5 not in rates(x, y).grow(7)
