"""Contributions to TransRate against scoring again with the columns left out, or added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.selection.coding_gain import contributions, forward_gains, gains_beside
from transfer_metrics.statistics import ClassMoments

pytestmark = pytest.mark.filterwarnings("ignore::transfer_metrics.errors.TransferMetricsWarning")

SHAPES = [(60, 7), (12, 20), (30, 25)]
OPTIONS = [
    {},
    {"class_weights": "frequency"},
    {"class_center": True, "eps": 0.3},
    {"eps": "auto", "class_weights": "frequency"},
    {"scale": "trace", "eps": 1e-2},
]


def data(n, d, c=3, seed=0):
    rng = np.random.default_rng([n, d, seed])
    y = np.arange(n) % c
    y[: n // 5] = 0
    x = rng.standard_normal((n, d)) * rng.uniform(0.2, 2, d) + rng.standard_normal((c, d))[y]
    return x, y


def moments(x, y):
    return ClassMoments.from_batch(x, y, parts={"class"})


def fixed(x, options):
    """The same options with the distortion that all columns give, as a number."""
    centred = x - x.mean(axis=0)
    variance = np.square(centred).sum() / len(x)
    eps, rest = options.get("eps", 1e-4), {k: v for k, v in options.items() if k != "scale"}
    if eps == "auto":
        eps = 0.1 * variance / np.linalg.matrix_rank(centred)
    elif options.get("scale") == "trace":
        eps = eps * variance
    return {**rest, "eps": float(eps)}


def score(x, y, options):
    """TransRate by the listing, with slogdet; nothing is shared with the library."""
    x = x - x.mean(axis=0)

    def rate(z):
        return 0.5 * np.linalg.slogdet(np.eye(x.shape[1]) + z.T @ z / (len(z) * options["eps"]))[1]

    result = rate(x) if x.shape[1] else 0.0
    for c in np.unique(y):
        z = x[y == c]
        z = z - z.mean(axis=0) if options.get("class_center") else z
        frequency = options.get("class_weights") == "frequency"
        weight = len(z) / len(x) if frequency else 1 / len(np.unique(y))
        result -= weight * rate(z) if x.shape[1] else 0.0
    return result


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_leaving_a_column_out_equals_scoring_without_it(n, d, options):
    x, y = data(n, d)
    plain = fixed(x, options)
    whole = tm.transrate(x, y, **options)
    assert whole == pytest.approx(score(x, y, plain), abs=1e-8)
    naive = [whole - score(np.delete(x, j, axis=1), y, plain) for j in range(d)]
    found = contributions(moments(x, y), **options)
    np.testing.assert_allclose(found.values, naive, atol=1e-8)
    assert (found.total >= 0).all()
    assert (found.by_class >= 0).all()
    assert found.weights.sum() == pytest.approx(1.0)


def test_the_terms_are_those_of_the_total_and_of_each_class():
    x, y = data(40, 6)
    found = contributions(moments(x, y), eps=0.1)
    z = x - x.mean(axis=0)

    def rate(rows):
        return 0.5 * np.linalg.slogdet(np.eye(rows.shape[1]) + rows.T @ rows / (0.1 * len(rows)))[1]

    without = np.delete(z, 2, axis=1)
    assert found.total[2] == pytest.approx(rate(z) - rate(without), abs=1e-10)
    for c in range(3):
        expected = rate(z[y == c]) - rate(without[y == c])
        assert found.by_class[c, 2] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_leaving_a_layer_out_equals_scoring_without_it(n, d, options):
    x, y = data(n, d)
    groups = [np.arange(0, 2), np.arange(2, 6), np.arange(6, d)]
    plain = fixed(x, options)
    whole = score(x, y, plain)
    naive = [whole - score(np.delete(x, g, axis=1), y, plain) for g in groups]
    found = contributions(moments(x, y), groups=groups, **options)
    np.testing.assert_allclose(found.values, naive, atol=1e-8)


def greedy(x, y, steps, options, groups, start=()):
    """Forward selection that scores every candidate from scratch."""
    chosen, order, gains = list(start), [], []
    value = score(x[:, chosen], y, options) if chosen else 0.0
    while len(order) < steps:
        scores = {
            g: score(x[:, chosen + list(members)], y, options)
            for g, members in enumerate(groups)
            if g not in order and not set(members) & set(start)
        }
        best = max(scores, key=scores.get)
        if scores[best] - value <= 0:
            break
        order.append(best)
        gains.append(scores[best] - value)
        chosen += list(groups[best])
        value = scores[best]
    return order, gains


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_greedy_gains_are_those_of_scoring_every_candidate(n, d, options):
    x, y = data(n, d)
    order, gains = greedy(x, y, 7, fixed(x, options), [[j] for j in range(d)])
    found, added = forward_gains(moments(x, y), 7, **options)
    assert found.tolist() == order
    assert len(order) >= 1
    np.testing.assert_allclose(added, gains, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_greedy_over_layers_from_a_start(n, d):
    x, y = data(n, d)
    groups = [[2, 3], [4], list(range(5, d))]
    options = {"eps": 0.05, "class_weights": "frequency"}
    order, gains = greedy(x, y, 3, options, groups, start=(0, 1))
    found, added = forward_gains(moments(x, y), 3, groups=groups, start=[0, 1], **options)
    assert found.tolist() == order
    np.testing.assert_allclose(added, gains, atol=1e-8)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("start", [None, [1], [0, 4, 2]])
def test_gains_beside_a_set_are_differences_of_scores(n, d, start):
    x, y = data(n, d)
    taken = start or []
    found = gains_beside(moments(x, y), start, eps=0.1)
    for j in set(range(d)) - set(taken):
        naive = score(x[:, [*taken, j]], y, {"eps": 0.1}) - score(x[:, taken], y, {"eps": 0.1})
        assert found[j] == pytest.approx(naive, abs=1e-8)


def test_many_steps_lose_no_digits():
    x, y = data(300, 40)
    for side in (x, x[:35]):
        labels = y[: len(side)]
        order, gains = forward_gains(moments(side, labels), eps=1e-4, class_weights="frequency")
        options = {"eps": 1e-4, "class_weights": "frequency"}
        assert gains.sum() == pytest.approx(score(side[:, order], labels, options), abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 25), st.integers(2, 25), st.integers(0, 99))
def test_the_sum_of_gains_is_the_score_of_what_was_taken(n, d, seed):
    x, y = data(n, d, seed=seed)
    order, gains = forward_gains(moments(x, y), eps=0.1)
    expected = score(x[:, order], y, {"eps": 0.1})
    assert gains.sum() == pytest.approx(expected, abs=1e-8)
    assert (gains > 0).all()


def test_dead_and_repeated_columns_contribute_what_is_theirs():
    x, y = data(40, 5)
    x = np.column_stack([x, np.full(40, 3.0), x[:, 0]])
    found = contributions(moments(x, y)).values
    assert found[5] == pytest.approx(0.0, abs=1e-12)
    assert found[6] == pytest.approx(found[0], abs=1e-8)
    order, _ = forward_gains(moments(x, y))
    assert 5 not in order


def test_unusable_input_is_refused():
    x, y = data(20, 4)
    built = moments(x, y)
    with pytest.raises(InvalidInputError, match=r"lie in 0\.\.3"):
        contributions(built, groups=[[4]])
    with pytest.raises(InvalidInputError, match="eps"):
        contributions(built, eps=0.0)
    with pytest.raises(InvalidInputError, match="class_weights"):
        forward_gains(built, class_weights="equal")
    with pytest.raises(InvalidInputError, match="steps"):
        forward_gains(built, 0)
    with pytest.raises(InvalidInputError, match="per-class scatter"):
        contributions(ClassMoments.from_batch(x, y, parts=()))
    with pytest.raises(InvalidInputError, match="constant"):
        contributions(moments(np.ones((6, 2)), [0, 0, 0, 1, 1, 1]), eps="auto")
