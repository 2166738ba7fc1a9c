"""NCTI's terms, the energy score and ETran's regression term against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_diabetes
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, UnsupportedTaskError

# --- NCTI ----------------------------------------------------------------------------------------


def features(n=300, d=20, c=5, scale=0.1):
    rng = np.random.default_rng([n, d, c])
    y = np.hstack([np.arange(2 * c) % c, np.minimum(rng.geometric(1.5 / c, n - 2 * c), c) - 1])
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) / math.sqrt(d)
    return scale * (x + 0.5 * rng.standard_normal((c, d))[y]), y


def terms(x, y):
    return tm.ncti_spread(x, y), tm.ncti_posterior(x, y), tm.ncti_rank(x, y)


def slow_terms(x, y, shrink=True):
    """Through scikit-learn's PCA and LDA, as the authors do; also the shrinkage."""
    pca = PCA(min(64, x.shape[1], len(x) - 1), svd_solver="full").fit(x)
    z = pca.transform(x)
    lam = max(math.exp(-sum(pca.explained_variance_[:32])), 1e-10)
    model = LinearDiscriminantAnalysis(solver="eigen", shrinkage=lam if shrink else None).fit(z, y)
    projected = model.transform(z)
    projected = projected - projected.mean(axis=0)
    p = model.predict_proba(z)
    spread = np.linalg.svd(projected, compute_uv=False).sum()
    nuclear = sum(np.linalg.norm(p[y == c], "nuc") for c in np.unique(y))
    return (spread, p[np.arange(len(y)), y].mean(), math.log(nuclear)), lam


@pytest.mark.parametrize("scale", [0.01, 0.1, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("shape", [(300, 20, 5), (300, 90, 2), (60, 3, 6), (700, 80, 70)])
def test_terms_equal_scikit_learns_pca_and_lda(shape, scale):
    x, y = features(*shape, scale=scale)
    expected, lam = slow_terms(x, y)
    assert scale < 1 or lam < 0.2
    assert terms(x, y) == pytest.approx(expected, rel=1e-8)


def test_shrinkage_at_its_floor_is_as_good_as_none():
    """There the authors switch to a solver that does not shrink."""
    x, y = features(scale=30.0)
    expected, lam = slow_terms(x, y, shrink=False)
    assert lam == 1e-10
    assert terms(x, y) == pytest.approx(expected, rel=1e-6)


def test_collapsed_features_by_hand():
    """Classes far apart: posteriors are one-hot, each class's matrix has nuclear norm √n_c."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [50, 30, 20])
    x = 1e3 * np.eye(3)[y] + rng.standard_normal((100, 3))
    norms = math.sqrt(50) + math.sqrt(30) + math.sqrt(20)
    assert tm.ncti_posterior(x, y) == pytest.approx(1.0, abs=1e-12)
    assert tm.ncti_rank(x, y) == pytest.approx(math.log(norms), rel=1e-12)


def test_spread_of_one_feature_by_hand():
    """D = 1: S_w = s² whatever λ, so the projection is x / s, of nuclear norm √(N var(x)) / s."""
    x = np.array([-3.0, -1.0, 1.0, 3.0])[:, None]  # class means -2 and 2, s = 1, var(x) = 5
    assert tm.ncti_spread(x, [0, 0, 1, 1]) == pytest.approx(math.sqrt(4 * 5), rel=1e-12)


def test_features_beyond_the_64_leading_components_do_not_count():
    x, y = features(300, 64, 5)
    dead = np.hstack([x, np.zeros((300, 30))])
    assert terms(dead, y) == pytest.approx(terms(x, y), rel=1e-9)


def test_more_components_than_residuals_warn_at_the_caller():
    x, y = features(60, 400, 4)
    for metric in (tm.ncti_spread, tm.ncti_posterior, tm.ncti_rank):
        with pytest.warns(TransferMetricsWarning, match="singular") as caught:
            assert math.isfinite(metric(x, y))
        assert caught[0].filename == __file__


def test_only_the_rank_term_is_better_when_lower():
    directions = {n: tm.get_metric(n).higher_is_better for n in tm.list_metrics("ncti_*")}
    assert directions == {"ncti_posterior": True, "ncti_rank": False, "ncti_spread": True}


# --- energy --------------------------------------------------------------------------------------


def slow_energies(x):
    return sorted(math.log(sum(math.exp(v) for v in row)) for row in x)


@pytest.mark.parametrize(("n", "percent", "count"), [
    (1000, 0.5, 5), (1099, 0.5, 5), (90, 0.5, 1), (90, 50, 45), (90, 100, 90), (100, 29, 29)
])  # fmt: skip
def test_energy_equals_the_definition(n, percent, count):
    x = np.random.default_rng(n).standard_normal((n, 7))
    y, values = np.arange(n) % 3, slow_energies(x)
    assert tm.energy(x, y, percent=percent) == pytest.approx(np.mean(values[:count]), rel=1e-12)
    highest = tm.energy(x, y, tail="highest", percent=percent)
    assert highest == pytest.approx(np.mean(values[-count:]), rel=1e-12)
    assert tm.energy(x, y, tail=None) == pytest.approx(np.mean(values), rel=1e-12)


def test_energy_ignores_labels_and_takes_targets():
    x = np.random.default_rng(0).standard_normal((50, 4))
    score = tm.energy(x, np.arange(50) % 2)
    assert tm.energy(x, np.arange(50) % 3) == score
    assert tm.energy(x, np.linspace(0, 1, 50)) == score


def test_energy_does_not_overflow_and_moves_with_a_shift():
    x = np.random.default_rng(0).standard_normal((50, 4))
    y = np.arange(50) % 2
    assert tm.energy(x + 1e4, y) == pytest.approx(tm.energy(x, y) + 1e4, rel=1e-12)


def test_energy_options_are_checked():
    x, y = np.ones((4, 2)), [0, 1, 0, 1]
    with pytest.raises(InvalidInputError, match="tail"):
        tm.energy(x, y, tail="bot")
    for percent in (0, -1, 101, math.nan):
        with pytest.raises(InvalidInputError, match="percent"):
            tm.energy(x, y, percent=percent)


# --- regression ----------------------------------------------------------------------------------


def slow_regression(x, t, share=1.0):
    t = np.reshape(t, (len(t), -1))
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    u, s = u[:, s > 1e-10 * s[0]], s[s > 1e-10 * s[0]]
    k = 1
    while sum(s[:k] ** 2) < (share - 1e-12) * sum(s**2):
        k += 1
    centred = t - t.mean(axis=0)
    return -((centred - u[:, :k] @ (u[:, :k].T @ centred)) ** 2).mean()


def test_regression_of_all_directions_is_least_squares():
    x, t = load_diabetes(return_X_y=True)
    predicted = LinearRegression().fit(x, t).predict(x)
    assert tm.svd_regression(x, t) == pytest.approx(-((t - predicted) ** 2).mean(), rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([3, 12, 70]), st.floats(0.01, 1.0))
def test_truncated_regression_equals_the_definition(seed, dim, share):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, dim)) * np.geomspace(1, 0.1, dim)
    t = x[:, :2] @ rng.standard_normal((2, 3)) + 0.1 * rng.standard_normal((40, 3))
    share = min(share, 0.95 if dim == 70 else 1.0)
    score = tm.svd_regression(x, t, share=share)
    assert score == pytest.approx(slow_regression(x, t, share), rel=1e-8, abs=1e-12)
    assert tm.svd_regression(x, t, share=share / 2) <= score + 1e-12
    assert tm.svd_regression(x, 10 * t + 3, share=share) == pytest.approx(100 * score, rel=1e-7)


def test_regression_of_duplicated_and_dead_features():
    x, t = load_diabetes(return_X_y=True)
    more = np.hstack([x, x, np.full((len(x), 2), 7.0)])
    assert tm.svd_regression(more, t) == pytest.approx(tm.svd_regression(x, t), rel=1e-9)


def test_regression_invariances_and_merging():
    x, t = load_diabetes(return_X_y=True)
    whole = tm.svd_regression(x, t, share=0.8)
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((10, 10)))[0]
    for changed in (100 * x, x + 50, x @ rotation):
        assert tm.svd_regression(changed, t, share=0.8) == pytest.approx(whole, rel=1e-7)
    metric = tm.get_metric("svd_regression(share=0.8)")
    from transfer_metrics.statistics import TargetMoments

    parts = TargetMoments.from_batch(x[:3], t[:3]) + TargetMoments.from_batch(x[3:], t[3:])
    assert metric(parts) == pytest.approx(whole, rel=1e-9)


def test_regression_with_more_features_than_examples_warns():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((20, 50)), rng.standard_normal(20)
    with pytest.warns(TransferMetricsWarning, match="exactly") as caught:
        assert tm.svd_regression(x, t) == 0.0
    assert caught[0].filename == __file__
    assert tm.svd_regression(x, t, share=0.5) == pytest.approx(slow_regression(x, t, 0.5), rel=1e-8)


def test_meaningless_regression_is_refused():
    x, t = np.arange(10.0)[:, None], np.arange(10.0) ** 2
    with pytest.raises(InvalidInputError, match="target is constant"):
        tm.svd_regression(x, np.full(10, 2.0))
    with pytest.raises(InvalidInputError, match="features are constant"):
        tm.svd_regression(np.full((10, 2), 3.0), t)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(InvalidInputError, match="share"):
            tm.svd_regression(x, t, share=share)
    with pytest.raises(UnsupportedTaskError):
        tm.svd_regression(x, ["a", "b"] * 5)
    with pytest.raises(InvalidInputError, match="regression targets"):
        tm.svd_regression(tm.ClassMoments.from_batch(x, np.arange(10) % 2, parts=()))
