"""The coding rate of labels beyond chance, against all permutations, by hand, and its laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import comb, gammaln

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.label_rate import _chance_rate
from transfer_metrics.statistics import ClassMoments


def within_rate(x, y):
    """``½ log det(I + W / (n ε))`` on full matrices, with ``n ε = tr(T) / n``."""
    centred = x - x.mean(axis=0)
    z = x - np.stack([x[y == c].mean(axis=0) for c in y])
    scale = len(x) / np.square(centred).sum()
    return 0.5 * np.linalg.slogdet(np.eye(x.shape[1]) + scale * z.T @ z)[1]


def by_permutations(x, y):
    """The definition: nothing but all labellings of the same counts."""
    labellings = np.array(sorted(set(itertools.permutations(y.tolist()))))
    rates = np.array([within_rate(x, p) for p in labellings])
    return 0.5 * math.log(np.exp(2 * rates).mean()) - within_rate(x, y), rates


def data(n, d, labels, seed=0):
    rng = np.random.default_rng([n, d, seed])
    y = np.array(labels)
    spread = rng.uniform(0.2, 2.0, d)
    return rng.standard_normal((n, d)) * spread + rng.standard_normal((n, d))[y], y


LABELS = {
    "balanced": [0, 0, 0, 0, 1, 1, 1, 1],
    "three": [0, 0, 0, 1, 1, 1, 2, 2],
    "one example": [0, 0, 0, 0, 1, 1, 1, 2],
    "many": [0, 0, 1, 2, 3],
    "one pair": [0, 0, 1, 2, 3, 4],
}


@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_chance_is_the_mean_over_all_permutations(labels, d):
    x, y = data(len(labels), d, labels)
    expected, rates = by_permutations(x, y)
    assert tm.label_rate(x, y) == pytest.approx(expected, abs=1e-10)
    assert rates.std() > 0


def test_two_pairs_by_hand():
    # T = 4 and n / T = 1, so the total rate is ½ log 5. Of three ways to pair -1, -1, 1, 1 one has
    # W = 0 and two have W = 4: the mean determinant is (1 + 5 + 5) / 3.
    x = np.array([[-1.0], [-1.0], [1.0], [1.0]])
    assert tm.label_rate(x, [0, 0, 1, 1]) == pytest.approx(0.5 * math.log(11 / 3), abs=1e-12)
    mixed = tm.label_rate(x, [0, 1, 0, 1])
    assert mixed == pytest.approx(0.5 * math.log(11 / 3) - 0.5 * math.log(5), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 10, 40])
@pytest.mark.parametrize("copies", [2, 5])
def test_closed_form_of_one_hot_classes(classes, copies):
    x, y = np.tile(np.eye(classes), (copies, 1)), np.tile(np.arange(classes), copies)
    n, c = len(y), classes
    i = np.arange(min(c - 1, n - c) + 1)
    falling = gammaln(n - c + 1) - gammaln(n - c + 1 - i) - gammaln(n) + gammaln(n - i)
    terms = comb(c - 1, i) * (n / (c - 1)) ** i * np.exp(falling)
    assert tm.label_rate(x, y) == pytest.approx(0.5 * math.log(terms.sum()), rel=1e-10)


def plain_chance(energies, n, classes):
    """The sum over elementary symmetric polynomials, one logarithm at a time."""
    logs = np.full(len(energies) + 1, -np.inf)
    logs[0] = 0.0
    for e in energies:
        logs[1:] = np.logaddexp(logs[1:], logs[:-1] + math.log(e))
    i = np.arange(min(len(energies), n - classes) + 1)
    falling = gammaln(n - classes + 1) - gammaln(n - classes + 1 - i)
    return 0.5 * np.logaddexp.reduce(logs[i] + falling - gammaln(n) + gammaln(n - i))


@pytest.mark.parametrize("classes", [2, 20, 300, 590, 599])
@pytest.mark.parametrize("decay", [0.0, 1.0, 4.0])
def test_chance_does_not_underflow(classes, decay):
    energies = np.arange(1.0, 600.0) ** -decay
    energies *= 600 / energies.sum()
    expected = plain_chance(energies, 600, classes)
    assert _chance_rate(energies, 600, classes) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 30), st.sampled_from([(4, 4), (2, 2, 2), (5, 1, 1)]), st.integers(0, 99))
def test_random_labels_are_fair(d, counts, seed):
    """``E_π exp(-2 score) = 1`` at any width: the mean over all labellings of one task."""
    x, y = data(sum(counts), d, np.repeat(np.arange(len(counts)), counts), seed)
    moments = [
        ClassMoments.from_batch(x, p, len(counts), parts=())
        for p in sorted(set(itertools.permutations(y.tolist())))
    ]
    scores = np.array([tm.label_rate(m) for m in moments])
    assert np.exp(-2 * scores).mean() == pytest.approx(1.0, abs=1e-8)
    assert scores.mean() > 0


@pytest.mark.parametrize("d", [4, 60, 400])
def test_random_labels_score_zero_at_any_width(d):
    rng = np.random.default_rng(d)
    x = rng.standard_normal((120, d)) * np.arange(1.0, d + 1) ** -0.5
    scores = [tm.label_rate(x, rng.permutation(120) % 6) for _ in range(25)]
    assert abs(np.mean(scores)) < 4 * np.std(scores) / math.sqrt(25)
    assert np.std(scores) < 0.3
    plain = [tm.transrate(x, rng.permutation(120) % 6, eps="auto") for _ in range(2)]
    assert d == 4 or np.mean(plain) > 5


@settings(max_examples=15, deadline=None)
@given(st.integers(8, 40), st.integers(1, 60), st.integers(2, 5), st.integers(0, 99))
def test_laws(n, d, classes, seed):
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    x, y = data(n, d, y, seed)
    score = tm.label_rate(x, y)
    assert score <= n / 2
    same = pytest.approx(score, rel=1e-8, abs=1e-8)
    assert tm.label_rate(np.hstack([x, np.zeros((n, 7))]), y) == same
    assert tm.label_rate(np.hstack([x, np.full((n, 1), 3.0)]), y) == same
    assert tm.label_rate(np.hstack([x, x]), y) == same
    assert tm.label_rate(1000 * x + 5, y) == same
    assert tm.label_rate(x @ np.linalg.qr(rng.standard_normal((d, d)))[0], y) == same
    cut = n // 3
    parts = [ClassMoments.from_batch(x[s], y[s], classes) for s in (slice(cut), slice(cut, None))]
    assert tm.label_rate(parts[1] + parts[0]) == same


def test_columns_of_noise_dilute_by_their_share():
    rng = np.random.default_rng(0)
    y = np.arange(300) % 6
    x = rng.standard_normal((300, 10)) + rng.standard_normal((6, 10))[y]
    noise = rng.standard_normal((300, 500))
    noise *= math.sqrt(0.1 * x.var(axis=0).sum() / 500)
    wide = np.hstack([x, noise])
    ratio = tm.label_rate(wide, y) / tm.label_rate(x, y)
    assert 0.95 < ratio < 1.0
    assert tm.transrate(wide, y, eps="auto") > 4 * tm.transrate(x, y, eps="auto")


def test_two_classes_are_no_blind_spot():
    rng = np.random.default_rng(0)
    y = np.arange(100) % 2
    x = rng.standard_normal((100, 8))
    apart = x + 3.0 * y[:, None]
    assert tm.label_rate(apart, y) > 1.0 > tm.label_rate(x, y)


def test_nothing_to_code_and_nothing_to_tell():
    with pytest.raises(InvalidInputError, match="constant"):
        tm.label_rate(np.ones((6, 2)), [0, 0, 0, 1, 1, 1])
    with pytest.warns(TransferMetricsWarning, match="no class has two examples"):
        assert tm.label_rate(np.eye(4), [0, 1, 2, 3]) == 0.0
    with pytest.warns(TransferMetricsWarning, match="one label"):
        assert tm.label_rate(np.eye(4), [0, 0, 0, 0]) == 0.0


def test_moments_without_class_scatter_are_enough():
    x, y = data(8, 3, LABELS["three"])
    bare = ClassMoments.from_batch(x, y, parts=())
    assert tm.label_rate(bare) == pytest.approx(tm.label_rate(x, y), rel=1e-12)
