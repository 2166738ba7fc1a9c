"""GBC against its formula, pair by pair."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.base import get_metric

COVARIANCES = ("spherical", "diagonal", "full")


def features(n=120, d=10, c=4, signal=1.0):
    rng = np.random.default_rng([n, d, c])
    y = np.arange(n) % c
    scales = np.linspace(0.5, 2.0, d)
    return scales * (rng.standard_normal((n, d)) + signal * rng.standard_normal((c, d))[y]), y


def slow_gbc(x, y, covariance="spherical", dim=64, floor=1e-4):
    rank = np.linalg.matrix_rank(x - x.mean(axis=0))
    z = PCA(min(dim, rank), svd_solver="full").fit_transform(x)
    d = z.shape[1]
    score = 0.0
    gaussians = []
    for c in np.unique(y):
        rows = z[y == c]
        mean = sum(rows) / len(rows)
        cov = sum(np.outer(r - mean, r - mean) for r in rows) / len(rows)
        if covariance == "spherical":
            cov = max(np.trace(cov) / d, floor) * np.eye(d)
        elif covariance == "diagonal":
            cov = np.diag(np.maximum(np.diag(cov), floor))
        else:
            cov = cov + floor * np.eye(d)
        gaussians.append((mean, cov))
    for i, (mi, ci) in enumerate(gaussians):
        for j, (mj, cj) in enumerate(gaussians):
            if i != j:
                average = (ci + cj) / 2
                b = (mi - mj) @ np.linalg.solve(average, mi - mj) / 8
                b += 0.5 * np.linalg.slogdet(average)[1]
                b -= 0.25 * (np.linalg.slogdet(ci)[1] + np.linalg.slogdet(cj)[1])
                score -= math.exp(-b)
    return score


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(
    ("n", "d", "c", "dim"), [(120, 10, 4, 64), (120, 10, 4, 3), (40, 90, 3, 8), (60, 5, 2, 5)]
)
def test_agrees_with_the_formula(covariance, n, d, c, dim):
    x, y = features(n, d, c)
    expected = slow_gbc(x, y, covariance, dim)
    assert tm.gbc(x, y, covariance=covariance, dim=dim) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_agrees_on_real_data(covariance):
    for x, y in (load_iris(return_X_y=True), load_digits(return_X_y=True)):
        expected = slow_gbc(x, y, covariance, 16)
        assert tm.gbc(x, y, covariance=covariance, dim=16) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_blocks_of_pairs_change_nothing(covariance, monkeypatch):
    x, y = features(300, 6, 20)
    whole = tm.gbc(x, y, covariance=covariance)
    # The package has a function of the same name as the module.
    monkeypatch.setattr(sys.modules["transfer_metrics.metrics.gbc"], "_BLOCK", 70)
    assert tm.gbc(x, y, covariance=covariance) == pytest.approx(whole, rel=1e-13)


def two_points(gap, spread_a, spread_b):
    """Two classes on a line, each of two examples: means ``gap`` apart, given deviations."""
    x = np.array([-spread_a, spread_a, gap - spread_b, gap + spread_b])[:, None]
    return x, np.array([0, 0, 1, 1])


def test_one_dimension_by_hand():
    # σ² = 1 and 9, mean 5, gap 4: B = 16/(8·5) + ½ log(5/3), twice.
    expected = -2 * math.exp(-0.4) * math.sqrt(3 / 5)
    for covariance in ("spherical", "diagonal"):
        assert tm.gbc(*two_points(4.0, 1.0, 3.0), covariance=covariance) == pytest.approx(expected)


def test_a_spherical_log_determinant_counts_every_dimension():
    """Same means, variances 1 and 9 in each of d directions: ``B = d/2 log(5/3)``."""
    for d in (1, 2, 5):
        cross = math.sqrt(d) * np.vstack([np.eye(d), -np.eye(d)])
        x, y = np.vstack([cross, 3 * cross]), np.repeat([0, 1], 2 * d)
        for covariance in ("spherical", "diagonal"):
            assert tm.gbc(x, y, covariance=covariance) == pytest.approx(-2 * (3 / 5) ** (d / 2))
        assert tm.gbc(x, y, covariance="full", floor=1e-12) == pytest.approx(
            -2 * (3 / 5) ** (d / 2)
        )


def test_equal_classes_overlap_entirely():
    half, _ = features(20, 4, 2)
    x, y = np.vstack([half] * 3), np.repeat([0, 1, 2], 20)
    for covariance in COVARIANCES:
        assert tm.gbc(x, y, covariance=covariance) == pytest.approx(-6.0, rel=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_rotation_and_shift_change_nothing(covariance):
    x, y = features()
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((10, 10)))[0]
    moved = tm.gbc(x @ rotation + 50.0, y, covariance=covariance, dim=6)
    assert moved == pytest.approx(tm.gbc(x, y, covariance=covariance, dim=6), rel=1e-8)


def test_the_floor_is_absolute():
    x, y = features(c=2)
    assert tm.gbc(0.1 * x, y, floor=1e-6) == pytest.approx(tm.gbc(x, y, floor=1e-4), rel=1e-10)
    with pytest.warns(TransferMetricsWarning, match="2 of 2 classes .* below the floor"):
        assert tm.gbc(1e-3 * x, y) > -2.0


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_class_with_one_example_has_the_floor(covariance):
    x, y = features(41, 3, 2)
    y[0] = 2
    with pytest.warns(TransferMetricsWarning, match="1 of 3 classes"):
        score = tm.gbc(x, y, covariance=covariance, floor=0.01)
    assert score == pytest.approx(slow_gbc(x, y, covariance, floor=0.01), rel=1e-8)


def test_classes_far_apart_do_not_vanish_silently():
    x, y = two_points(100.0, 1.0, 1.0)  # B = 1e4/8
    with pytest.warns(TransferMetricsWarning, match=r"exp\(-1249\)"):
        assert tm.gbc(x, y) == 0.0
    x, y = two_points(70.0, 1.0, 1.0)
    assert tm.gbc(x, y) == pytest.approx(-2 * math.exp(-612.5), rel=1e-9)


def test_dense_and_thin_class_scatter_agree():
    """Classes with more and with fewer examples than features are stored differently."""
    x, y = features(100, 12, 2)
    y[:] = 0
    y[:7] = 1
    for covariance in COVARIANCES:
        expected = slow_gbc(x, y, covariance)
        assert tm.gbc(x, y, covariance=covariance) == pytest.approx(expected, rel=1e-8)


def test_dead_features_leave_the_score_alone():
    """Rank, not width, sets the number of components."""
    x, y = features()
    wide = np.hstack([x, np.zeros((len(x), 30))])
    for covariance in COVARIANCES:
        assert tm.gbc(wide, y, covariance=covariance) == pytest.approx(
            tm.gbc(x, y, covariance=covariance), rel=1e-8
        )


def test_float32_tensor_and_merged_statistics():
    x, y = features(200, 8, 5)
    moments = tm.ClassMoments.from_batch(x[:33], y[:33], 5, parts=("class",))
    moments = moments + tm.ClassMoments.from_batch(x[33:], y[33:], 5, parts=("class",))
    assert get_metric("gbc(covariance=full)")(moments) == pytest.approx(
        tm.gbc(x, y, covariance="full"), rel=1e-10
    )
    assert tm.gbc(torch.tensor(x, dtype=torch.float32), y) == pytest.approx(tm.gbc(x, y), rel=1e-4)


def test_errors_say_what_to_do():
    x, y = features()
    with pytest.raises(InvalidInputError, match="at least two classes"):
        tm.gbc(x, np.zeros(len(x), dtype=int))
    with pytest.raises(InvalidInputError, match="give 'spherical' or 'diagonal' or 'full'"):
        tm.gbc(x, y, covariance="tied")
    with pytest.raises(InvalidInputError, match="must be positive"):
        tm.gbc(x, y, floor=0.0)
    with pytest.raises(InvalidInputError, match="must be positive"):
        tm.gbc(x, y, dim=0)
    with pytest.raises(InvalidInputError, match="constant"):
        tm.gbc(np.ones((6, 3)), np.arange(6) % 2)
    with pytest.raises(InvalidInputError, match="parts"):
        tm.gbc(tm.ClassMoments.from_batch(x, y, parts=()))
    with pytest.raises(InvalidInputError, match="floor is lost"):
        tm.gbc(1e9 * x[:8], y[:8], covariance="full")
