"""LDA score, SFDA and PED against their definitions, written out with eigenvectors and loops."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh
from sklearn.datasets import load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.discriminant import Problem, _motion


def features(n=120, d=10, c=4, signal=1.0, scale=1.0):
    rng = np.random.default_rng([n, d, c])
    # Classes of different sizes, all with two examples at least.
    y = np.hstack([np.arange(2 * c) % c, np.minimum(rng.geometric(0.3, n - 2 * c), c) - 1])
    x = rng.standard_normal((n, d)) * np.linspace(0.3, 1.0, d)
    return scale * (x + signal * rng.standard_normal((c, d))[y]), y


# --- slow definitions ----------------------------------------------------------------------------


def within(x, y):
    total = np.zeros((x.shape[1], x.shape[1]))
    for c in np.unique(y):
        for row in x[y == c]:
            u = row - x[y == c].mean(axis=0)
            total += np.outer(u, u)
    return total / len(y)


def shrunk(s, lam):
    return (1 - lam) * s + lam * np.trace(s) / len(s) * np.eye(len(s))


def exact_lambda(x, y):
    return max(math.exp(-5 * np.linalg.eigvalsh(within(x, y))[-1]), 1e-10)


def powered_lambda(x, y):
    """Three double rounds of power iteration from the row sums of S_w, as the authors do."""
    s = within(x, y)
    v = s.sum(axis=1)
    for _ in range(3):
        w = s @ v / np.linalg.norm(s @ v)
        v = s @ w / np.linalg.norm(s @ w)
    return max(math.exp(-5 * (v @ s @ w)), 1e-10)


def softmax(scores):
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def slow_posterior(x, y, lam):
    """Generalised eigenvectors of (S_t - S_w, S_w), both shrunk, normalised to w' S_w w = 1."""
    s_w = shrunk(within(x, y), lam)
    s_t = shrunk(np.cov(x.T, bias=True), lam)
    _, v = eigh(s_t - s_w, s_w)
    assert np.allclose(v.T @ s_w @ v, np.eye(len(s_w)), atol=1e-6)
    means = np.stack([x[y == c].mean(axis=0) for c in np.unique(y)])
    coef = means @ v @ v.T
    priors = np.array([(y == c).mean() for c in np.unique(y)])
    return softmax(x @ coef.T - 0.5 * np.diag(means @ coef.T) + np.log(priors))


def slow_lda(x, y, lam):
    return slow_posterior(x, y, lam)[np.arange(len(y)), y].mean()


def slow_sfda(x, y, lam):
    p = softmax(slow_posterior(x, y, lam))
    mixed = np.empty_like(x)
    for n, c in enumerate(y):
        others = np.mean([x[y == k].mean(axis=0) for k in np.unique(y) if k != c], axis=0)
        mixed[n] = p[n, c] * x[n] + (1 - p[n, c]) * others
    return slow_lda(mixed, y, lam)


def slow_ped(x, y, nu, step, rounds, general=None):
    general = x if general is None else general
    deviation = np.maximum(general.std(axis=0), 1e-3)
    classes = np.unique(y)
    first = None
    for _ in range(rounds):
        z = (x - general.mean(axis=0)) / deviation
        mean = {c: z[y == c].mean(axis=0) for c in classes}
        radius = {c: math.sqrt(z[y == c].var(axis=0).sum()) for c in classes}
        moves = {c: np.zeros(x.shape[1]) for c in classes}
        for i in classes:
            for j in classes:
                if i == j:
                    continue
                line = mean[i] - mean[j]
                distance = math.sqrt(line @ line)
                force = max(nu * (radius[i] + radius[j]) - distance, 0.0)
                moves[i] += min(0.5 * step**2 * force, force) * line / distance
        movement = sum(np.abs(m).sum() for m in moves.values())
        first = movement if first is None else first
        if movement <= 0.5 * first:
            break
        x = (z + np.stack([moves[c] for c in y])) * deviation + general.mean(axis=0)
    return slow_sfda(x, y, exact_lambda(x, y))


def quietly(metric, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        return float(metric(*args, **options))


# --- LDA score and SFDA --------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.05, 0.4, 1.0, 30.0])
@pytest.mark.parametrize("shape", [(120, 10, 4), (90, 5, 2), (200, 30, 12)])
def test_scores_equal_the_definition_by_eigenvectors(shape, scale):
    x, y = features(*shape, scale=scale)
    lam = exact_lambda(x, y)
    assert tm.lda(x, y) == pytest.approx(slow_lda(x, y, lam), rel=1e-8)
    assert tm.sfda(x, y) == pytest.approx(slow_sfda(x, y, lam), rel=1e-8)


@pytest.mark.parametrize("scale", [0.03, 0.2])
@pytest.mark.parametrize("shape", [(40, 60, 3), (60, 57, 4), (60, 59, 4)])
def test_coordinates_of_the_span_change_nothing(shape, scale):
    """D near or above N: the small side against the full D x D definition."""
    x, y = features(*shape, scale=scale)
    lam = exact_lambda(x, y)
    assert lam > 1e-3
    assert quietly(tm.lda, x, y) == pytest.approx(slow_lda(x, y, lam), rel=1e-8)
    assert quietly(tm.sfda, x, y) == pytest.approx(slow_sfda(x, y, lam), rel=1e-8)


def test_posterior_of_one_feature_by_hand():
    """Classes at -a and a with deviation s: the log odds of x are 2 a x / s², whatever λ."""
    a, s = 0.7, 0.5
    x = np.array([-a - s, -a + s, a - s, a + s])[:, None]
    odds = [2 * a * (a + s) / s**2, 2 * a * (a - s) / s**2]
    expected = np.mean([1 / (1 + math.exp(-o)) for o in odds])
    assert tm.lda(x, [0, 0, 1, 1]) == pytest.approx(expected, rel=1e-12)


def test_unequal_priors_by_hand():
    x = np.array([-2.0, 0.0, -2.0, 0.0, 0.0, 2.0])[:, None]
    y = [0, 0, 0, 0, 1, 1]  # S_w = 1, means -1 and 1, log odds 2x - log 2 for class 1
    one = [1 / (1 + math.exp(-(2 * v - math.log(2)))) for v in x[:, 0]]
    expected = np.mean([1 - one[0], 1 - one[1], 1 - one[2], 1 - one[3], one[4], one[5]])
    assert tm.lda(x, y) == pytest.approx(expected, rel=1e-12)


def test_hardly_shrunk_discriminant_is_scikit_learns():
    x, y = features(scale=30.0)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=1e-10).fit(x, y)
    expected = model.predict_proba(x)[np.arange(len(y)), y].mean()
    assert tm.lda(x, y) == pytest.approx(expected, rel=1e-8)


def test_shrinkage_is_exact_and_no_larger_than_that_of_power_iteration():
    x, y = features(scale=0.4)
    problem = Problem.of("lda", tm.FeatureSample.from_batch(x, y))
    assert problem.shrinkage == pytest.approx(exact_lambda(x, y), rel=1e-12)
    assert problem.shrinkage <= powered_lambda(x, y)
    # The published estimate of the largest eigenvalue is close here, and so is the score.
    assert tm.sfda(x, y) == pytest.approx(slow_sfda(x, y, powered_lambda(x, y)), rel=1e-2)


def test_published_arithmetic_where_the_shrinkage_is_at_its_floor():
    x, y = features(scale=30.0)
    assert powered_lambda(x, y) == exact_lambda(x, y) == 1e-10
    assert tm.sfda(x, y) == pytest.approx(slow_sfda(x, y, powered_lambda(x, y)), rel=1e-8)


def test_sfda_is_one_where_features_outnumber_examples():
    x = np.random.default_rng(0).standard_normal((60, 200))
    y = np.arange(60) % 3
    for metric in (tm.sfda, tm.lda, tm.ped):
        with pytest.warns(TransferMetricsWarning, match="singular"):
            assert metric(x, y) == pytest.approx(1.0, abs=1e-12)


def test_duplicated_features_of_low_rank_are_no_reason_to_warn():
    x, y = features(60, 5, 3)
    assert 0 < tm.sfda(np.hstack([x] * 20), y) <= 1


def test_the_features_are_left_alone():
    x, y = features()
    before = x.copy()
    for metric in (tm.lda, tm.sfda, tm.ped):
        metric(x, y)
        np.testing.assert_array_equal(x, before)


def test_a_warning_points_at_the_caller():
    x, y = features(40, 60, 3)
    for metric in (tm.lda, tm.sfda, tm.ped):
        with pytest.warns(TransferMetricsWarning) as caught:
            metric(x, y)
        assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["lda", "sfda", "ped", "ncti_spread", "ncti_posterior"])
def test_meaningless_input_is_refused(name):
    metric = getattr(tm, name)
    x, _ = features(12, 3, 3)
    with pytest.raises(InvalidInputError, match="two classes"):
        metric(x, np.zeros(12, int))
    with pytest.raises(InvalidInputError, match="do not vary"):
        metric(np.full((12, 3), 0.1), np.arange(12) % 3)
    with pytest.raises(InvalidInputError, match="do not vary"):
        metric(x, np.arange(12))


def test_discriminant_of_moments_gives_probabilities():
    x, y = features()
    problem = Problem.of("lda", tm.FeatureSample.from_batch(x, y))
    posterior = dataclasses.replace(problem, shrinkage=0.3).posterior()
    np.testing.assert_allclose(posterior.sum(dim=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(posterior, slow_posterior(x, y, 0.3), rtol=1e-8, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 6), st.floats(0.05, 5.0))
def test_every_example_twice_changes_nothing(seed, classes, dim, scale):
    rng = np.random.default_rng(seed)
    y = np.arange(40) % classes
    x = scale * (rng.standard_normal((40, dim)) + rng.standard_normal((classes, dim))[y])
    for metric in (tm.lda, tm.sfda, tm.ped):
        score = metric(x, y)
        assert 0 < score <= 1 + 1e-12
        assert metric(np.vstack([x, x]), np.hstack([y, y])) == pytest.approx(score, rel=1e-8)


# --- PED -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", [0.3, 0.6, 2.0])
@pytest.mark.parametrize("step", [0.1, 0.6, 2.0])
def test_ped_equals_the_definition(nu, step):
    x, y = features(signal=0.5)
    expected = slow_ped(x, y, nu, step, 6)
    assert tm.ped(x, y, nu=nu, step=step) == pytest.approx(expected, rel=1e-8)


def test_ped_standardises_by_a_general_data_set():
    x, y = features(signal=0.5)
    general = np.random.default_rng(1).standard_normal((50, 10)) * np.linspace(0.1, 3, 10) + 7
    moments = tm.ClassMoments.from_batch(general, np.arange(50) % 3, parts=())
    expected = slow_ped(x, y, 2.0, 0.3, 6, general)
    assert tm.ped(x, y, nu=2.0, step=0.3, general=moments) == pytest.approx(expected, rel=1e-8)
    assert tm.ped(x, y, nu=2.0, step=0.3) != pytest.approx(expected, rel=1e-4)
    own = tm.ClassMoments.from_batch(x, y, parts=())
    assert tm.ped(x, y, nu=2.0, general=own) == pytest.approx(tm.ped(x, y, nu=2.0), rel=1e-12)
    wide = tm.ClassMoments.from_batch(general[:5], np.arange(5), parts=())
    assert 0 < tm.ped(x, y, general=wide) <= 1


def test_ped_in_the_span_of_few_examples():
    x, y = features(40, 60, 3, signal=0.1, scale=0.05)
    expected = slow_ped(x, y, 2.0, 0.5, 6)
    assert quietly(tm.ped, x, y, nu=2.0, step=0.5) == pytest.approx(expected, rel=1e-8)


def test_no_overlap_and_no_rounds_are_sfda():
    x, y = features(signal=4.0)
    assert tm.ped(x, y, nu=0.01) == tm.sfda(x, y)
    x, y = load_iris(return_X_y=True)
    assert tm.ped(x, y, nu=2.0, rounds=0) == tm.sfda(x, y)
    assert tm.ped(x, y, nu=2.0) > tm.sfda(x, y)


@pytest.mark.parametrize(
    ("step", "rounds"), [(0.1, 6), (0.6, 2), (0.8, 1), (1.0, 1)], ids=lambda v: str(v)
)
def test_motion_of_two_classes_by_hand(step, rounds):
    """The force shrinks by 1 - step² a round, and the motion ends before half of the first."""
    x = np.array([-0.8, 0.4, -0.4, 0.8])[:, None]  # means -0.2 and 0.2, radii 0.6
    sample = tm.FeatureSample.from_batch(x, [0, 0, 1, 1])
    force = 1.0 * (0.6 + 0.6) - 0.4
    moved = sum(0.5 * step**2 * force * (1 - step**2) ** r for r in range(rounds))
    moves, _ = _motion(sample, sample.x.new_ones(1), 1.0, step, 6)
    np.testing.assert_allclose(moves[:, 0], [-moved, moved], rtol=1e-12)


def test_a_move_is_never_longer_than_the_overlap():
    x = np.array([-0.8, 0.4, -0.4, 0.8])[:, None]
    sample = tm.FeatureSample.from_batch(x, [0, 0, 1, 1])
    moves, _ = _motion(sample, sample.x.new_ones(1), 1.0, 5.0, 6)
    np.testing.assert_allclose(moves[:, 0], [-0.8, 0.8], rtol=1e-12)


def test_coinciding_centres_stay():
    x = np.array([[-1.0, 0.1], [1.0, 0.1], [-2.0, 0.1], [2.0, 0.1], [0.3, 0.4], [0.5, 0.3]])
    sample = tm.FeatureSample.from_batch(x, [0, 0, 1, 1, 2, 2])
    moves, _ = _motion(sample, sample.x.new_ones(2), 2.0, 0.1, 1)
    assert bool(moves.isfinite().all())
    two = tm.FeatureSample.from_batch(x[:4] + 1e3, [0, 0, 1, 1])
    assert not bool(_motion(two, two.x.new_ones(2), 2.0, 0.1, 6)[0].any())


def test_ped_options_are_checked():
    x, y = features()
    for option in ({"nu": -1.0}, {"step": -0.1}, {"rounds": -1}):
        with pytest.raises(InvalidInputError, match="negative"):
            tm.ped(x, y, **option)
    with pytest.raises(InvalidInputError, match="3 features"):
        tm.ped(x, y, general=tm.ClassMoments.from_batch(x[:, :3], y, parts=()))
