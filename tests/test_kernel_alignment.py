"""LFC and PARC against N x N matrices and scipy's Spearman correlation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew, spearmanr
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics import kernel_alignment


def features(n=120, d=10, c=4, signal=1.0):
    rng = np.random.default_rng([n, d, c])
    y = np.arange(n) % c
    x = rng.standard_normal((n, d)) + signal * rng.standard_normal((c, d))[y]
    return np.linspace(0.5, 2.0, d) * np.exp(0.4 * x), y


# --- LFC -----------------------------------------------------------------------------------------


def slow_lfc(x, y, center=False):
    x = x - x.mean(axis=0) if center else x
    kernel = x @ x.T
    same = np.where(y[:, None] == y[None, :], 1.0, -1.0)
    return np.corrcoef(kernel.ravel(), same.ravel())[0, 1]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize(("n", "d", "c"), [(120, 10, 4), (30, 80, 3), (50, 4, 2), (23, 5, 7)])
def test_lfc_agrees_with_the_matrices(n, d, c, center):
    x, y = features(n, d, c)
    assert tm.lfc(x, y, center=center) == pytest.approx(slow_lfc(x, y, center), rel=1e-9)
    uneven = np.where(np.arange(n) < n // 2, 0, y)
    assert tm.lfc(x, uneven, center=center) == pytest.approx(slow_lfc(x, uneven, center), rel=1e-9)


@pytest.mark.parametrize("center", [False, True])
def test_lfc_of_real_data(center):
    for x, y in (load_iris(return_X_y=True), load_digits(return_X_y=True)):
        assert tm.lfc(x, y, center=center) == pytest.approx(slow_lfc(x, y, center), rel=1e-9)


def test_lfc_by_hand():
    # Orthonormal rows, one per class: K is L up to an affine map.
    assert tm.lfc([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == pytest.approx(1.0, rel=1e-12)
    # K = [[1, 0, 1], [0, 1, 1], [1, 1, 2]], L = [[1, 1, -1], [1, 1, -1], [-1, -1, 1]].
    x, y = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [0, 0, 1]
    sum_k, sum_kk, sum_l, sum_kl = 8.0, 10.0, 1.0, 0.0
    expected = (9 * sum_kl - sum_k * sum_l) / math.sqrt((9 * sum_kk - sum_k**2) * (81 - sum_l**2))
    assert tm.lfc(x, y) == pytest.approx(expected, rel=1e-12)


def test_lfc_is_perfect_where_classes_are_orthonormal():
    y = np.arange(30) % 3
    assert tm.lfc(np.eye(3)[y], y) == pytest.approx(1.0, rel=1e-12)


def test_lfc_moves_with_the_origin_unless_centred():
    x, y = features()
    x = x - x.mean(axis=0)
    at_origin = tm.lfc(x, y)
    assert tm.lfc(x, y, center=True) == pytest.approx(at_origin, rel=1e-9)
    assert abs(tm.lfc(x + 100.0, y)) < 0.2 * at_origin
    assert tm.lfc(x + 100.0, y, center=True) == pytest.approx(at_origin, rel=1e-9)
    assert tm.lfc(x + 100.0, y) == pytest.approx(slow_lfc(x + 100.0, y), rel=1e-6)


def test_lfc_keeps_its_digits_far_from_the_origin():
    """Integers, so that the offset itself rounds nothing; the expected value is exact."""
    from fractions import Fraction

    rng = np.random.default_rng(3)
    x, y = rng.integers(-5, 6, (12, 3)), np.array([0] * 5 + [1] * 4 + [2] * 3)
    far = x + 10**6
    kernel = [[int(sum(a * b for a, b in zip(p, q, strict=True))) for q in far.tolist()]
              for p in far.tolist()]  # fmt: skip
    k = [Fraction(v) for row in kernel for v in row]
    same = [Fraction(1 if a == b else -1) for a in y for b in y]
    mean_k, mean_l = sum(k) / len(k), sum(same) / len(same)
    cov = sum((a - mean_k) * (b - mean_l) for a, b in zip(k, same, strict=True))
    var_k, var_l = sum((a - mean_k) ** 2 for a in k), sum((b - mean_l) ** 2 for b in same)
    expected = float(cov) / math.sqrt(float(var_k)) / math.sqrt(float(var_l))
    assert tm.lfc(far, y) == pytest.approx(expected, rel=1e-8)


def test_lfc_refuses_what_has_no_correlation():
    y = np.arange(20) % 2
    with pytest.raises(InvalidInputError, match="at least two classes"):
        tm.lfc(np.random.default_rng(0).random((20, 3)), np.zeros(20, dtype=int))
    for value in (0.0, 0.1, 1e6 / 3):
        with pytest.raises(InvalidInputError, match="constant"):
            tm.lfc(np.full((20, 3), value), y)


# --- PARC ----------------------------------------------------------------------------------------


def slow_parc(x, y, dim=32, distance="correlation"):
    rank = np.linalg.matrix_rank(x - x.mean(axis=0))
    z = PCA(min(dim, rank), svd_solver="full").fit_transform(x)
    z = StandardScaler().fit_transform(z)
    z = z * np.sign(skew(z, axis=0))
    above = np.triu_indices(len(y), 1)
    if distance == "correlation":
        a = 1 - np.corrcoef(z)
    else:
        lengths = np.linalg.norm(z, axis=1)
        a = 1 - z @ z.T / np.outer(lengths, lengths)
    b = 1 - np.corrcoef(np.eye(y.max() + 1)[y])
    return 100 * spearmanr(np.round(a[above], 11), np.round(b[above], 9))[0]


@pytest.mark.parametrize("distance", ["correlation", "cosine"])
@pytest.mark.parametrize(
    ("n", "d", "c", "dim"), [(120, 10, 4, 32), (150, 60, 3, 32), (40, 90, 3, 8), (60, 5, 2, 3)]
)
def test_parc_agrees_with_spearman_of_the_matrices(n, d, c, dim, distance):
    x, y = features(n, d, c)
    expected = slow_parc(x, y, dim, distance)
    assert tm.parc(x, y, dim=dim, distance=distance) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("distance", ["correlation", "cosine"])
def test_parc_of_real_data(distance):
    """Iris has duplicated rows, and so ties."""
    digits, names = load_digits(return_X_y=True)
    for x, y in (load_iris(return_X_y=True), (digits[:600], names[:600])):
        expected = slow_parc(x, y, distance=distance)
        assert tm.parc(x, y, distance=distance) == pytest.approx(expected, rel=1e-8)


def test_parc_with_two_components_is_all_ties():
    """Correlations of two numbers are 1 or -1: a 2 x 2 table of pairs, by hand."""
    x, y = features(60, 2, 3)
    z = StandardScaler().fit_transform(PCA(2).fit_transform(x))
    z *= np.sign(skew(z, axis=0))
    side = z[:, 0] > z[:, 1]
    pairs = list(itertools.combinations(range(60), 2))
    apart = np.array([side[i] != side[j] for i, j in pairs], dtype=float)
    other = np.array([y[i] != y[j] for i, j in pairs], dtype=float)
    assert tm.parc(x, y) == pytest.approx(100 * np.corrcoef(apart, other)[0, 1], rel=1e-8)


def test_parc_of_duplicated_examples_ties():
    x, y = features(40, 12, 4)
    x, y = np.vstack([x, x, x]), np.tile(y, 3)
    assert tm.parc(x, y) == pytest.approx(slow_parc(x, y), rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 400))
def test_slices_and_blocks_change_nothing(seed, dim, most):
    """Ranks counted slice by slice and block by block are the ranks, ties included."""
    rng = np.random.default_rng(seed)
    directions = rng.integers(-2, 3, (30, dim)).astype(float)
    directions /= np.maximum(np.linalg.norm(directions, axis=1), 1.0)[:, None]
    labels = rng.integers(0, 3, 30)
    labels[:4] = 0, 0, 1, 2
    above = np.triu_indices(30, 1)
    distances = np.round((1 - directions @ directions.T)[above], 9)
    expected = spearmanr(distances, (labels[:, None] != labels)[above])[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_alignment, "_MOST_PAIRS", most)
        patch.setattr(kernel_alignment, "_BLOCK", 90)
        value = kernel_alignment._rank_correlation(directions, labels, 0)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_slices_bound_what_is_sorted_at_once(monkeypatch):
    x, y = features(300, 20, 5)
    whole = tm.parc(x, y)
    sizes = []
    counts = kernel_alignment._counts

    def counted(*args):
        found = counts(*args)
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(kernel_alignment, "_counts", counted)
    monkeypatch.setattr(kernel_alignment, "_MOST_PAIRS", 2000)
    assert tm.parc(x, y) == pytest.approx(whole, rel=1e-12)
    assert len(sizes) == 23
    assert max(sizes) < 3000


def test_signs_do_not_follow_the_rotation_of_the_features():
    """Reflections and rotations give the solver other signs and leave the score alone."""
    x, y = features()
    value = tm.parc(x, y)
    rng = np.random.default_rng(0)
    for _ in range(5):
        rotation = np.linalg.qr(rng.standard_normal((10, 10)))[0] * rng.choice([-1, 1], 10)
        order = rng.permutation(len(y))
        assert tm.parc(x[order] @ rotation + 9.0, y[order]) == pytest.approx(value, rel=1e-8)


def test_symmetric_features_take_a_sign_that_ignores_the_order_of_rows():
    x, _ = features(30, 6, 3)
    x = np.vstack([x, -x])
    y = np.arange(60) % 3
    value = tm.parc(x, y)
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(60)
        assert tm.parc(x[order], y[order]) == pytest.approx(value, rel=1e-8)


def test_cosine_ignores_the_signs():
    x, y = features(80, 6, 3)
    scores = StandardScaler().fit_transform(PCA(6).fit_transform(x))
    flipped = scores * np.array([1, -1, 1, -1, -1, 1])
    value = tm.parc(x, y, distance="cosine")
    assert tm.parc(flipped, y, distance="cosine") == pytest.approx(value, rel=1e-6)


def test_limit_draws_the_same_examples_in_any_order():
    x, y = features(500, 10, 4)
    drawn = tm.parc(x, y, limit=200)
    order = np.random.default_rng(5).permutation(500)
    assert tm.parc(x[order], y[order], limit=200) == pytest.approx(drawn, rel=1e-9)
    assert tm.parc(x, y, limit=200, seed=1) != drawn
    assert drawn == pytest.approx(tm.parc(x, y), abs=5.0)
    assert tm.parc(x, y, limit=500, seed=1) == tm.parc(x, y)


def test_an_example_without_direction_is_reported():
    x, y = features(40, 8, 4)
    x = x - x.mean(axis=0)
    x, y = np.vstack([x, np.zeros(8)]), np.append(y, 0)
    with pytest.warns(TransferMetricsWarning, match="1 of 41 examples have no direction"):
        assert math.isfinite(tm.parc(x, y))


def test_parc_refuses_what_has_no_correlation():
    x, y = features(20, 5, 2)
    with pytest.raises(InvalidInputError, match="no two differ"):
        tm.parc(x, np.zeros(20, dtype=int))
    with pytest.raises(InvalidInputError, match="no two share"):
        tm.parc(x, np.arange(20))
    with pytest.raises(InvalidInputError, match="constant features"):
        tm.parc(np.ones((20, 5)), y)
    with pytest.raises(InvalidInputError, match="1 principal components"):
        tm.parc(x[:, :1], y)
    assert math.isfinite(tm.parc(x[:, :1], y, distance="cosine"))
    with pytest.raises(InvalidInputError, match="give 'correlation' or 'cosine'"):
        tm.parc(x, y, distance="l2")
    with pytest.raises(InvalidInputError, match="limit >= 3"):
        tm.parc(x, y, limit=2)
    with pytest.raises(InvalidInputError, match="all distances"):
        # Three examples span a triangle, which whitening makes equilateral.
        tm.parc(np.eye(3), [0, 0, 1], distance="cosine")
