"""The probability of being best: closed forms, laws, and simulations whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.chances import (
    _SURE,
    Standing,
    Trust,
    expected,
    kinship,
    probability_of_best,
    smallest_set,
)

finite = st.floats(-1e6, 1e6).map(lambda v: round(v, 3))
trusts = st.builds(Trust, st.floats(-2, 3), st.floats(0, 1))


def alone(scores, trust, standing=None):
    count = len(scores)
    return probability_of_best(
        scores, [math.nan] * count, [None] * count, trust=trust, standing=standing
    )


def test_two_candidates_are_in_order_as_often_as_a_bivariate_normal_says():
    for r in (0.0, 0.3, 0.7, 0.95):
        p = alone([3.0, -1.0], Trust(math.atanh(r), 0.0))
        assert p[0] == pytest.approx(0.5 + math.asin(r) / math.pi, abs=0.012)


def test_that_trust_differs_between_tasks_is_averaged_over():
    trust = Trust(0.8, 0.5)
    wanted = quad(
        lambda z: norm.pdf(z, 0.8, 0.5) * (0.5 + math.asin(math.tanh(z)) / math.pi), -3, 5
    )[0]
    assert alone([1.0, 0.0], trust)[0] == pytest.approx(wanted, abs=0.012)


def test_sampling_errors_alone_are_what_full_trust_leaves():
    scores, errors = [0.3, 0.1, 0.0], [0.2, 0.1, 0.3]
    shared = [[0.1, -0.2], None, [0.3, 0.05]]
    plain = probability_of_best(scores, errors, shared)
    almost = probability_of_best(scores, errors, shared, trust=Trust(12.0, 0.0))
    np.testing.assert_allclose(almost, plain, atol=0.012)
    assert (probability_of_best(scores, errors, shared, trust=_SURE) == plain).all()


def test_sampling_errors_widen():
    scores = [1.0, 0.5, 0.0, -0.5]
    trust = Trust(math.atanh(0.9), 0.0)
    without = probability_of_best(scores, [0.0] * 4, [None] * 4, trust=trust)
    with_errors = probability_of_best(scores, [0.5] * 4, [None] * 4, trust=trust)
    assert without[0] > with_errors[0] + 0.05


@given(st.lists(finite, min_size=1, max_size=6), trusts)
@settings(max_examples=8, deadline=None)
def test_laws(scores, trust):
    p = alone(scores, trust)
    assert p.sum() == pytest.approx(1.0)
    assert (p >= 0).all()
    moved = alone([2.5 * s - 7.0 for s in scores], trust)
    np.testing.assert_allclose(moved, p, atol=0.02)
    order = np.random.default_rng(0).permutation(len(scores))
    np.testing.assert_allclose(alone([scores[i] for i in order], trust), p[order], atol=0.02)
    lower = probability_of_best(
        [-s for s in scores], [0.0] * len(scores), [None] * len(scores), False, trust=trust
    )
    np.testing.assert_allclose(lower, p, atol=1e-12)


@given(st.permutations(range(5)))
@settings(max_examples=4, deadline=None)
def test_the_order_of_candidates_does_not_matter(order):
    scores, before = [0.9, 0.5, 0.45, 0.1, 0.0], [1.0, math.nan, 0.4, 0.3, 2.0]
    trust, other = Trust(0.9, 0.2), Trust(0.5, 0.3)
    whole = alone(scores, trust, Standing(before, other))
    mixed = alone([scores[i] for i in order], trust, Standing([before[i] for i in order], other))
    assert (mixed == whole[list(order)]).all()


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=8), st.floats(0.05, 0.95))
def test_sets_grow_with_confidence(shares, confidence):
    p = np.array(shares) / sum(shares)
    small, large = smallest_set(p, confidence), smallest_set(p, (1 + confidence) / 2)
    assert large[: len(small)] == small
    assert p[small].sum() >= confidence - 1e-9
    # No smaller set would do: without the last, and all equal to it, there are too few.
    assert p[[i for i in small if p[i] > p[small[-1]]]].sum() < confidence


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1, 2, math.nan, "0.9", None])
def test_confidences_that_are_none_are_refused(confidence):
    with pytest.raises(InvalidInputError, match="between 0 and 1"):
        smallest_set([0.5, 0.5], confidence)


def test_awkward_scores():
    assert alone([], Trust(1, 0)).size == 0
    assert alone([0.4], Trust(1, 0)).tolist() == [1.0]
    np.testing.assert_allclose(alone([5.0] * 4, Trust(1, 0.1)), 0.25, atol=0.02)
    assert np.isnan(alone([1.0, math.inf], Trust(1, 0))).all()
    huge = alone([1.7e308, -1.7e308, 0.0], Trust(1, 0))
    np.testing.assert_allclose(huge, alone([1.7, -1.7, 0.0], Trust(1, 0)), atol=1e-12)
    tied = probability_of_best([1.0, 1.0], [0.1, 0.1], [[0.1, 0.0], [0.1, 0.0]])
    assert tied.tolist() == [0.5, 0.5]


def test_a_standing_adds_what_regression_says():
    rho, other = 0.6, 0.5
    joint = np.array([[1.0, rho * other], [rho * other, 1.0]])
    a, b = np.linalg.solve(joint, [rho, other])
    s, p = np.array([1.0, 0.0, -1.0]), [0.0, 1.0, -1.0]
    got = expected(
        s.tolist(), True, Trust(math.atanh(rho), 0), Standing(p, Trust(math.atanh(other), 0))
    )
    np.testing.assert_allclose(got, a * s + b * np.array(p))


def conditioned(s, p, profiles, shared, rho, other):
    """Mean and covariance of accuracies given scores, from the joint covariance written out."""
    count = len(s)
    distance = np.linalg.norm(profiles[:, None] - profiles[None], axis=2)
    alike = np.exp(-distance / np.median(distance[np.triu_indices(count, 1)]))
    both = np.stack([np.ones(count), p], axis=1)
    apart = np.eye(count) - both @ np.linalg.solve(both.T @ both, both.T)
    alike = apart @ alike @ apart
    left = shared * (alike * (count - 2) / np.trace(alike) - apart) + np.eye(count)
    prior = (1 - other**2) * left
    gain = rho * prior @ np.linalg.inv(rho**2 * prior + (1 - rho**2) * np.eye(count))
    mean = other * p + gain @ (s - rho * other * p)
    return mean, prior - rho * gain @ prior


def standardised(x):
    return (x - x.mean()) / x.std(ddof=1)


@pytest.mark.parametrize(("count", "tasks", "shared"), [(6, 3, 0.5), (30, 9, 0.9), (5, 1, 0.2)])
def test_models_that_were_alike_on_earlier_tasks_are_conditioned_together(count, tasks, shared):
    rng, rho, other = np.random.default_rng(count), 0.6, 0.5
    s, p = (standardised(x) for x in rng.standard_normal((2, count)))
    profiles = rng.standard_normal((count, tasks))
    mean, covariance = conditioned(s, p, profiles, shared, rho, other)
    trust, before = Trust(math.atanh(rho), 0.0), Trust(math.atanh(other), 0.0)
    standing = Standing(p.tolist(), before, profiles.tolist(), shared)
    np.testing.assert_allclose(expected(s.tolist(), True, trust, standing), mean, atol=1e-9)
    if count == 30:
        drawn = rng.multivariate_normal(mean, covariance, 100_000, method="eigh")
        wanted = np.bincount(drawn.argmax(axis=1), minlength=count) / len(drawn)
        # Fewer candidates tell less of their spread, which counts as well.
        np.testing.assert_allclose(alone(s.tolist(), trust, standing), wanted, atol=0.02)


def test_the_twin_of_a_good_model_is_expected_to_be_good():
    trust, before = Trust(0.5, 0.2), Trust(0.3, 0.2)
    scores, values = [4.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, -1.0]
    profiles = [[1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, 1.0], [2.0, 0.0], [0.0, -2.0]]
    apart = expected(scores, True, trust, Standing(values, before))
    alike = expected(scores, True, trust, Standing(values, before, profiles, 0.8))
    assert apart[1] == apart[2] == apart[3]
    assert alike[1] > alike[2] == alike[3]
    p = alone(scores, trust, Standing(values, before, profiles, 0.8))
    assert p[1] > p[2] == p[3]
    # The same lengths along other directions, so one measure of variance.
    assert kinship(np.array(values), np.array(profiles)).values.mean() == pytest.approx(1.0)


def test_where_the_standing_tells_all_profiles_apart_nothing_is_alike():
    profiles = np.array([[1.0, 2.0], [1.0, 2.0], [0.0, -3.0], [0.0, -3.0], [0.0, -3.0]])
    standing = profiles.mean(axis=1)
    found = kinship(standing, profiles)
    assert (found.values == 1).all()
    np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(5), atol=1e-12)
    plain, alike = (
        alone([3.0, 1.0, 2.0, 0.0, 1.0], Trust(0.7, 0.1), Standing(standing.tolist(), *more))
        for more in ((Trust(0.5, 0.1),), (Trust(0.5, 0.1), profiles.tolist(), 0.9))
    )
    np.testing.assert_allclose(alike, plain, atol=0.012)


@given(st.permutations(range(6)))
@settings(max_examples=4, deadline=None)
def test_profiles_move_with_their_candidates(order):
    rng = np.random.default_rng(1)
    scores, profiles = rng.standard_normal(6), rng.standard_normal((6, 3))
    values, trust = np.array([0.1, 0.2, math.nan, 0.5, 0.1, 0.0]), Trust(0.9, 0.2)
    profiles[2] = math.nan

    def told(of, how):
        standing = Standing(values[of].tolist(), Trust(0.4, 0.1), profiles[of].tolist(), 0.7)
        return how(scores[of].tolist(), standing)

    def means(s, standing):
        return expected(s, True, trust, standing)

    def chances(s, standing):
        return alone(s, trust, standing)

    order = list(order)
    assert (told(order, chances) == told(list(range(6)), chances)[order]).all()
    assert (told(order, means) == told(list(range(6)), means)[order]).all()


def test_a_standing_that_tells_nothing_changes_nothing():
    scores = [2.0, 1.0, 0.0, -1.0]
    plain = alone(scores, Trust(0.8, 0.2))
    useless = alone(scores, Trust(0.8, 0.2), Standing([0.0, 3.0, 1.0, 2.0], Trust(0.0, 0.0)))
    np.testing.assert_allclose(useless, plain, atol=0.012)
    unknown = alone(scores, Trust(0.8, 0.2), Standing([math.nan] * 4, Trust(1.0, 0.0)))
    assert (unknown == plain).all()
    sure = alone(scores, Trust(0.3, 0.1), Standing([0.0, 3.0, 1.0, 2.0], Trust(9.0, 0.0)))
    assert sure[1] > 0.9


def worlds(count, models, rng, trust, other=None):
    """Scores, standings and accuracies of tasks that are as the model of errors says."""
    for _ in range(count):
        u = rng.standard_normal(models)
        signs = []
        for own in (trust, other or Trust(0.0, 0.0)):
            rho = math.tanh(own.mean + own.error * rng.standard_normal())
            signs.append(rho * u + math.sqrt(1 - rho**2) * rng.standard_normal(models))
        yield (*signs, u)


@pytest.mark.slow
@pytest.mark.parametrize("models", [3, 12])
def test_coverage_is_nominal_where_the_truth_is_known(models):
    trust, other = Trust(0.9, 0.3), Trust(0.5, 0.2)
    rng = np.random.default_rng(models)
    hits = {0.5: [], 0.9: []}
    for s, p, u in worlds(150, models, rng, trust, other):
        for standing in (None, Standing((5 * p + 70).tolist(), other)):
            chances = alone((3 * s).tolist(), trust, standing)
            for level, found in hits.items():
                found.append(int(u.argmax()) in smallest_set(chances, level))
    # 300 sets: two standard errors are 0.035 at 0.9; sets hold at least what was asked for.
    assert 0.85 <= np.mean(hits[0.9]) <= 0.99
    assert 0.42 <= np.mean(hits[0.5]) <= 0.85


def test_equals_have_equal_chances_whatever_their_order():
    trust = Trust(math.atanh(0.6), 0.3)
    scores = np.array([0.9, 0.5, 0.9, 0.85, 0.9, 0.4])
    for order in (np.arange(6), np.arange(6)[::-1], np.array([3, 0, 5, 4, 1, 2])):
        found = probability_of_best(scores[order], np.zeros(6), [None] * 6, trust=trust)
        assert len(set(found[scores[order] == 0.9])) == 1
        assert found.sum() == pytest.approx(1)


def test_of_equals_all_are_on_the_shortlist_or_none():
    assert smallest_set([0.2] * 5, 0.5) == [0, 1, 2, 3, 4]
    assert smallest_set([0.6, 0.2, 0.2], 0.5) == [0]
    assert sorted(smallest_set([0.2, 0.6, 0.2], 0.7)) == [0, 1, 2]
