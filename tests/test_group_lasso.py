"""The group lasso at its exact minimum, and the choice of features by it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.datasets import load_wine
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_selection import chi2, f_classif, mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

import transfer_metrics as tm
from tests.test_laws import store_of
from transfer_metrics.errors import (
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
    UnknownNameError,
    UnsupportedTaskError,
)
from transfer_metrics.selection import proximal
from transfer_metrics.selection.adam import train_softmax
from transfer_metrics.selection.columns import layer_columns, unit_rows
from transfer_metrics.selection.group_lasso import GroupLassoSelector
from transfer_metrics.selection.group_softmax import _group_soft_threshold
from transfer_metrics.selection.proximal import group_lasso

LAMBDA_MAX = 0.49504782726938185
# Share of lambda_max, minimum, and lengths of the rows, from an independent solver.
GOLDEN = [
    (0.5, 0.9214857911, [.258395, 0, 0, 0, 0, 0, .377639, 0, 0, .289753, 0, .221414, .394457]),
    (0.1, 0.3861708416, [.776232, .111718, .160701, .069864, 0, 0, .997566, 0, 0, .684524,
                         .389268, .510971, 1.067954]),
    (0.01, 0.0842863855, [1.543818, .398311, 1.059515, .929568, 0, 0, 2.075227, .199580, 0,
                          1.607471, 1.103335, 1.041997, 2.040213]),
]  # fmt: skip


def wine():
    x, y = load_wine(return_X_y=True)
    return (x - x.mean(axis=0)) / x.std(axis=0), y


def lengths(weights):
    return np.linalg.norm(weights, axis=1)


def probabilities(x, weights, bias):
    logits = x @ weights + bias
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def objective(x, y, weights, bias, lam):
    p = probabilities(x, weights, bias)
    return -np.log(p[np.arange(len(y)), y]).mean() + lam * lengths(weights).sum()


def solve(x, y, lam, **options):
    return group_lasso(layer_columns(x), y, int(np.max(y)) + 1, lam, **options)


def lambda_max(columns, y, num_classes):
    return group_lasso(columns, y, num_classes, 1e9).lambda_max


def plain_proximal_gradient(x, y, lam, steps):
    """The problem by its definition: small fixed steps, and rows shortened one by one."""
    n, d = x.shape
    onehot = np.eye(y.max() + 1)[y]
    weights, bias = np.zeros((d, onehot.shape[1])), np.zeros(onehot.shape[1])
    step = n / (0.5 * np.linalg.norm(np.hstack([x, np.ones((n, 1))]), 2) ** 2)
    for _ in range(steps):
        residual = (probabilities(x, weights, bias) - onehot) / n
        bias = bias - step * residual.sum(axis=0)
        weights = weights - step * x.T @ residual
        for i, row in enumerate(weights):
            length = np.linalg.norm(row)
            weights[i] = 0 if length <= step * lam else row * (1 - step * lam / length)
    return weights, bias


def made_up(n, d, classes, seed, informative=None):
    rng = np.random.default_rng([n, d, classes, seed])
    y = rng.permutation(np.arange(n) % classes)
    x = rng.standard_normal((n, d)) + 0.5 * rng.standard_normal((n, 1))
    informative = d if informative is None else informative
    x[:, :informative] += rng.standard_normal((classes, informative))[y]
    return x, y


# --- the minimum ---------------------------------------------------------------------------------


def test_lambda_max_of_wine():
    x, y = wine()
    assert lambda_max(layer_columns(x), y, 3) == pytest.approx(LAMBDA_MAX, rel=1e-12)


@pytest.mark.parametrize(("share", "minimum", "rows"), GOLDEN)
def test_minimum_and_rows_of_wine(share, minimum, rows):
    x, y = wine()
    fit = solve(x, y, share * LAMBDA_MAX, tol=1e-10)
    assert fit.lambda_max == pytest.approx(LAMBDA_MAX, rel=1e-12)
    assert fit.objective == pytest.approx(minimum, abs=1e-10)
    assert fit.objective == pytest.approx(objective(x, y, fit.dense(), fit.bias, fit.lam))
    np.testing.assert_allclose(lengths(fit.dense()), rows, atol=1e-6)
    assert fit.columns.tolist() == np.flatnonzero(rows).tolist()
    assert fit.kkt_residual <= 1e-10


@pytest.mark.parametrize("share", [0.5, 0.05])
def test_the_conditions_of_optimality_hold(share):
    x, y = made_up(60, 90, 4, 0, informative=10)
    fit = solve(x, y, share * lambda_max(layer_columns(x), y, 4))
    weights = fit.dense()
    gradient = x.T @ (probabilities(x, weights, fit.bias) - np.eye(4)[y]) / len(y)
    zero = np.setdiff1d(np.arange(90), fit.columns)
    assert len(zero)
    assert lengths(gradient).max() <= fit.lam * (1 + 1e-6)
    directions = fit.weights / lengths(fit.weights)[:, None]
    np.testing.assert_allclose(gradient[fit.columns], -fit.lam * directions, atol=1e-6 * fit.lam)
    np.testing.assert_allclose(fit.gradient_norms, lengths(gradient), rtol=1e-5)
    np.testing.assert_allclose(fit.weights.sum(axis=1), 0, atol=1e-6)  # the softmax's gauge
    assert fit.kkt_residual <= 1e-6


def test_agrees_with_a_plain_solver():
    x, y = made_up(40, 6, 3, 1)
    lam = 0.2 * lambda_max(layer_columns(x), y, 3)
    weights, bias = plain_proximal_gradient(x, y, lam, 3000)
    fit = solve(x, y, lam, tol=1e-9)
    np.testing.assert_allclose(fit.dense(), weights, atol=1e-7)
    np.testing.assert_allclose(fit.bias - fit.bias.mean(), bias - bias.mean(), atol=1e-7)


def test_of_two_classes_it_is_the_lasso():
    # With two classes rows are (-v, v), of length √2 |v|, on logits that differ by 2 x v.
    x, y = made_up(80, 5, 2, 2)
    lam = 0.3 * lambda_max(layer_columns(x), y, 2)
    fit = solve(x, y, lam, tol=1e-9)
    strength = np.sqrt(2.0) / (lam * len(y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        other = LogisticRegression(
            l1_ratio=1.0, C=strength, solver="saga", tol=1e-10, max_iter=100_000
        ).fit(x, y)
    np.testing.assert_allclose(2 * fit.dense()[:, 1], other.coef_[0], atol=1e-5)


def test_from_lambda_max_on_nothing_has_weight():
    x, y = wine()
    for lam in (LAMBDA_MAX * (1 + 1e-9), 3.0):
        fit = solve(x, y, lam)
        assert len(fit.columns) == 0
        np.testing.assert_allclose(np.exp(fit.bias), np.bincount(y) / len(y))
        assert fit.gradient_norms.max() == pytest.approx(LAMBDA_MAX)
        assert fit.objective == pytest.approx(objective(x, y, fit.dense(), fit.bias, lam))
    assert len(solve(x, y, 0.999 * LAMBDA_MAX).columns) == 1


def test_a_share_of_lambda_max():
    x, y = wine()
    fit = solve(x, y, 0.1, relative=True)
    assert fit.lam == pytest.approx(0.1 * LAMBDA_MAX)
    assert fit.objective == pytest.approx(GOLDEN[1][1], abs=1e-9)


def test_permuted_columns_are_permuted_rows():
    x, y = made_up(50, 30, 3, 3, informative=5)
    order = np.random.default_rng(0).permutation(30)
    a, b = solve(x, y, 0.05, tol=1e-10), solve(x[:, order], y, 0.05, tol=1e-10)
    np.testing.assert_allclose(a.dense()[order], b.dense(), atol=1e-8)


def test_of_duplicates_the_sum_of_the_rows_counts():
    x, y = wine()
    one, two = solve(x, y, 0.05, tol=1e-9), solve(np.hstack([x, x[:, 12:]]), y, 0.05, tol=1e-9)
    weights = two.dense()
    np.testing.assert_allclose(weights[12] + weights[13], one.dense()[12], atol=1e-7)
    np.testing.assert_allclose(weights[:12], one.dense()[:12], atol=1e-7)
    assert two.objective == pytest.approx(one.objective, abs=1e-10)


def test_offsets_and_constant_columns_change_nothing():
    x, y = wine()
    shifted = np.hstack([x + 1e6, np.full((len(x), 1), 7.7)])
    a, b = solve(x, y, 0.05, tol=1e-8), solve(shifted, y, 0.05, tol=1e-8)
    np.testing.assert_allclose(b.dense()[:13], a.dense(), atol=1e-6)
    assert 13 not in b.columns


def test_single_precision_is_checked_in_double():
    x, y = made_up(100, 200, 5, 4, informative=20)
    x = x.astype(np.float32)
    single, double = solve(x, y, 0.02), solve(x.astype(np.float64), y, 0.02)
    assert single.columns.tolist() == double.columns.tolist()
    assert single.objective == pytest.approx(double.objective, rel=1e-9)
    assert single.kkt_residual <= 1e-6
    half = solve(x.astype(np.float16), y, 0.02)
    assert half.objective == pytest.approx(double.objective, rel=1e-2)


def test_classes_without_examples_have_no_weight():
    x, y = wine()
    fit = group_lasso(layer_columns(x), np.array([0, 2, 5])[y], 7, 0.05)
    assert fit.weights.shape[1] == 7
    assert not fit.weights[:, [1, 3, 4, 6]].any()
    assert np.isneginf(fit.bias[[1, 3, 4, 6]]).all()
    np.testing.assert_allclose(fit.weights[:, [0, 2, 5]], solve(x, y, 0.05).weights, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    d=st.integers(2, 120),
    classes=st.integers(2, 5),
    share=st.sampled_from([0.9, 0.4, 0.1]),
)
def test_screening_along_another_path_changes_nothing(seed, d, classes, share):
    x, y = made_up(30, d, classes, seed, informative=max(1, d // 5))
    # At 0.01 every column joins at once, unless λ is near to the largest.
    a, b = (solve(x, y, share, relative=True, tol=1e-8, path=path) for path in (0.5, 0.01))
    assert a.objective == pytest.approx(b.objective, abs=1e-9)
    assert max(a.kkt_residual, b.kkt_residual) <= 1e-8
    np.testing.assert_allclose(a.dense(), b.dense(), atol=1e-4)


def test_a_working_set_that_is_too_small_grows(monkeypatch):
    x, y = made_up(60, 300, 4, 5, informative=60)
    free = solve(x, y, 0.05, relative=True, path=0.01)
    monkeypatch.setattr(proximal, "_MOST_COLUMNS", 8)
    monkeypatch.setattr(proximal, "_FEWEST_COLUMNS", 8)
    narrow = solve(x, y, 0.05, relative=True, path=0.01)
    assert len(free.columns) > 16
    assert narrow.passes > free.passes
    assert narrow.columns.tolist() == free.columns.tolist()
    assert narrow.objective == pytest.approx(free.objective, abs=1e-9)


def test_layers_are_read_one_at_a_time_and_give_the_same():
    x, y = made_up(50, 40, 3, 6)
    parts = {"a": x[:, :7], "b": x[:, 7:8], "c": x[:, 8:]}
    a, b = group_lasso(layer_columns(parts), y, 3, 0.05), solve(x, y, 0.05)
    np.testing.assert_allclose(a.dense(), b.dense(), atol=1e-9)


def test_not_getting_there_is_a_warning_with_how_far_it_got():
    x, y = wine()
    with pytest.warns(TransferMetricsWarning, match=r"stopped at .* of lam .* max_iter=3"):
        fit = solve(x, y, 0.005, max_iter=3)
    assert fit.kkt_residual > 1e-6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lam": 0.0}, "lam must be a positive number"),
        ({"lam": np.nan}, "lam must be a positive number"),
        ({"lam": 0.1, "tol": -1.0}, "tol must be"),
        ({"lam": 0.1, "path": 1.0}, "path must lie between 0 and 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(options, said):
    x, y = wine()
    with pytest.raises(InvalidInputError, match=said):
        group_lasso(layer_columns(x), y, 3, **options)


def test_features_that_mean_nothing_are_refused():
    x, y = wine()
    with pytest.raises(InvalidInputError, match="one class"):
        lambda_max(layer_columns(x), np.zeros(len(y), int), 3)
    with pytest.raises(InvalidInputError, match=r"must lie in 0\.\.1"):
        lambda_max(layer_columns(x), y, 2)
    for bad in (np.nan, np.inf):
        broken = x.astype(np.float32)
        broken[3, 5] = bad
        layers = layer_columns({"fine": x, "broken": broken})
        for columns in (layers, layers.unit_rows()):
            with pytest.raises(InvalidInputError, match="layer 'broken' has NaN or infinite"):
                lambda_max(columns, y, 3)


# --- the proximal operator -----------------------------------------------------------------------


def test_orthonormal_least_squares_has_a_closed_form():
    # ½‖Y - XW‖² + λ Σ ‖W_i‖ with X'X = 1, against a general minimiser.
    rng = np.random.default_rng(0)
    x = np.linalg.qr(rng.standard_normal((20, 6)))[0]
    targets, lam = rng.standard_normal((20, 3)), 1.8

    def loss(flat):
        weights = flat.reshape(6, 3)
        squares = (weights**2).sum(axis=1) + 1e-14
        return 0.5 * ((targets - x @ weights) ** 2).sum() + lam * np.sqrt(squares).sum()

    found = _group_soft_threshold(x.T @ targets, lam)
    slow = minimize(loss, 0.1 * rng.standard_normal(18), tol=1e-12).x.reshape(6, 3)
    np.testing.assert_allclose(found, slow, atol=1e-4)
    assert 0 < (lengths(found) > 0).sum() < 6


@given(st.integers(0, 100), st.floats(0.01, 3))
def test_rows_lose_length_and_keep_direction(seed, by):
    weights = np.random.default_rng(seed).standard_normal((5, 3))
    weights[0] = 0
    found = _group_soft_threshold(weights, by)
    np.testing.assert_allclose(lengths(found), np.maximum(lengths(weights) - by, 0), atol=1e-12)
    np.testing.assert_allclose(
        found * lengths(weights)[:, None], weights * lengths(found)[:, None], atol=1e-12
    )
    np.testing.assert_array_equal(_group_soft_threshold(weights, np.full(5, by)), found)


# --- the selector --------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::transfer_metrics.errors.TransferMetricsWarning")
@parametrize_with_checks([GroupLassoSelector()])
def test_it_is_a_scikit_learn_estimator(estimator, check):
    check(estimator)


def test_scores_are_squared_rows_and_the_gradient_ranks_the_rest():
    x, y = wine()
    selector = GroupLassoSelector(unit_norm=False, lam=0.5 * LAMBDA_MAX, tol=1e-9).fit(x, y)
    np.testing.assert_allclose(selector.scores_, np.square(GOLDEN[0][2]), atol=1e-5)
    assert selector.lambda_max_ == pytest.approx(LAMBDA_MAX)
    assert selector.kkt_residual_ <= 1e-9
    fit = solve(x, y, 0.5 * LAMBDA_MAX, tol=1e-9)
    outside = np.setdiff1d(np.arange(13), fit.columns)
    ranked = outside[np.argsort(-fit.gradient_norms[outside])]
    wider = clone(selector).set_params(keep=7 / 13).fit(x, y)
    assert wider.columns_.tolist() == sorted([*fit.columns, *ranked[:2]])


def test_the_default_strength_is_a_share_of_lambda_max():
    x, y = wine()
    a = GroupLassoSelector().fit(x, y)
    b = GroupLassoSelector().fit(1000 * x, y)
    assert a.lam_ == 0.05 * a.lambda_max_
    np.testing.assert_allclose(a.scores_, b.scores_, rtol=1e-6)  # rows of unit length


def test_rescaled_layers_are_the_same_layers():
    x, y = made_up(60, 20, 3, 7)
    a = GroupLassoSelector(keep=0.3).fit({"a": x[:, :8], "b": x[:, 8:]}, y)
    b = GroupLassoSelector(keep=0.3).fit({"a": 50 * x[:, :8], "b": 1e-3 * x[:, 8:]}, y)
    np.testing.assert_allclose(a.scores_, b.scores_, rtol=1e-5, atol=1e-8)
    assert a.columns_.tolist() == b.columns_.tolist()
    assert a.layer_counts_ == {
        "a": int((a.columns_ < 8).sum()), "b": int((a.columns_ >= 8).sum())
    }  # fmt: skip


@pytest.mark.parametrize(("keep", "count"), [(1.0, 13), (0.5, 6), (0.999, 12), (0.01, 1)])
def test_how_many_are_kept(keep, count):
    x, y = wine()
    selector = GroupLassoSelector(keep=keep).fit(x, y)
    assert len(selector.columns_) == count
    assert selector.columns_.dtype == np.int64
    assert selector.get_support().sum() == count
    np.testing.assert_array_equal(selector.transform(x), x[:, selector.columns_])


def test_windows_at_different_offsets_share_nothing():
    x, y = wine()
    windows = [GroupLassoSelector(keep=0.25, offset=o).fit(x, y).columns_ for o in (0, 3, 6, 9)]
    assert sorted(np.concatenate(windows).tolist()) == sorted(set(np.concatenate(windows)))
    assert len(np.concatenate(windows)) == 12
    with pytest.raises(InvalidInputError, match="offset=11 on are more than there are"):
        GroupLassoSelector(keep=0.25, offset=11).fit(x, y)


@pytest.mark.parametrize("solver", ["proximal", "adam"])
def test_accuracy_falls_with_the_offset(solver):
    # Few columns tell the classes apart, by a margin that falls from one to the next.
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(900) % 3)
    x = rng.standard_normal((900, 200))
    strengths = np.r_[np.geomspace(1.5, 0.1, 24), np.zeros(176)]
    x += strengths * rng.standard_normal((3, 200))[y]
    order = rng.permutation(200)
    x = x[:, order]
    reached = []
    for offset in (0, 10, 20, 60):
        selector = GroupLassoSelector(
            keep=0.05, offset=offset, solver=solver, unit_norm=False, lam=0.01, steps=150
        ).fit(x[:450], y[:450])
        head = LogisticRegression(C=0.1).fit(selector.transform(x[:450]), y[:450])
        reached.append(head.score(selector.transform(x[450:]), y[450:]))
    assert (np.diff(reached) < 0).all(), reached
    assert reached[0] > 0.7
    assert reached[-1] < 0.45


def test_features_chosen_on_one_task_serve_another():
    x, y = made_up(80, 30, 3, 8, informative=4)
    other, _ = made_up(40, 30, 3, 9)
    layers = {"a": x[:, :10], "b": x[:, 10:]}
    selector = GroupLassoSelector(keep=0.2).fit(layers, y)
    mixed = {"b": other[:, 10:], "extra": other, "a": other[:, :10]}
    np.testing.assert_array_equal(selector.transform(mixed), other[:, selector.columns_])
    np.testing.assert_array_equal(selector.transform(other), other[:, selector.columns_])
    with pytest.raises(LayerNotFoundError, match="unknown layer 'a'"):
        selector.transform({"b": other[:, 10:]})
    with pytest.raises(InvalidInputError, match=r"had 10 features when .* and has 11 now"):
        selector.transform({"a": other[:, :11], "b": other[:, 11:]})


def test_a_store_brings_its_labels():
    x, y = made_up(60, 12, 3, 10)
    x = x.astype(np.float32)
    store = store_of(x, y, 4, classes=3)
    selector = GroupLassoSelector(keep=0.5).fit(store)
    plain = GroupLassoSelector(keep=0.5).fit(x, y)
    np.testing.assert_allclose(selector.scores_, plain.scores_, rtol=1e-5, atol=1e-9)
    assert selector.layers_ == ["layer"]
    np.testing.assert_array_equal(selector.transform(store), x[:, selector.columns_])
    assert selector.transform(store).dtype == np.float32
    regression = tm.FeatureStore({**store.manifest, "kind": "regression"}, store._shards)
    with pytest.raises(UnsupportedTaskError, match="solver='proximal' tells classes apart"):
        GroupLassoSelector().fit(regression)


def test_labels_of_any_kind():
    x, y = wine()
    names = np.array(["red", "white", "rosé"])[y]
    selector = GroupLassoSelector().fit(x, names)
    assert selector.classes_.tolist() == ["red", "rosé", "white"]
    assert selector.columns_.tolist() == GroupLassoSelector().fit(x, y).columns_.tolist()


def test_adam_scores_are_those_of_its_weights():
    x, y = wine()
    selector = GroupLassoSelector(solver="adam", steps=40, random_state=3).fit(x, y)
    seed = np.random.RandomState(3).randint(2**31 - 1)
    fit = train_softmax(layer_columns(unit_rows(x)), y, 3, lam=1e-5, steps=40, seed=seed)
    np.testing.assert_allclose(selector.scores_, (fit.weights**2).sum(axis=1), rtol=1e-6)
    assert (selector.lam_, selector.n_iter_, selector.kkt_residual_) == (1e-5, 40, None)
    again = clone(selector).fit(x, y)
    np.testing.assert_array_equal(selector.scores_, again.scores_)


def test_other_scores_of_the_weights():
    x, y = wine()
    parts = {"a": x[:, :4], "b": x[:, 4:]}
    fit = group_lasso(layer_columns(parts), y, 3, 0.05)
    weights = fit.dense()

    def scores(score, **options):
        options = {"unit_norm": False, "lam": 0.05, "relevance": score, **options}
        return GroupLassoSelector(**options).fit(parts, y).scores_

    np.testing.assert_allclose(scores("l1"), np.abs(weights).sum(axis=1))
    np.testing.assert_allclose(scores("linf"), np.abs(weights).max(axis=1))
    rows = lengths(weights)
    means = np.repeat([rows[:4].mean(), rows[4:].mean()], [4, 9])
    np.testing.assert_allclose(scores("l2layer"), means)
    squares = rows**2
    means = np.repeat([squares[:4].mean(), squares[4:].mean()], [4, 9])
    np.testing.assert_allclose(scores("l2", layer_mix=0.3), 0.7 * squares + 0.3 * means)
    layer = GroupLassoSelector(keep=4 / 13, unit_norm=False, lam=0.05, layer_mix=1.0)
    chosen = layer.fit(parts, y).layer_counts_
    assert chosen == {"a" if means[0] > means[-1] else "b": 4}


def test_scores_without_a_classifier_are_scikit_learns():
    x, y = wine()

    def scores(score, x=x):
        options = {"layer_sizes": [4, 9], "unit_norm": False, "random_state": 5}
        return GroupLassoSelector(relevance=score, **options).fit(x, y).scores_

    seed = np.random.RandomState(5).randint(2**31 - 1)
    np.testing.assert_allclose(scores("variance", 3 * x), 3.0)
    np.testing.assert_allclose(scores("f_classif"), f_classif(x, y)[0])
    np.testing.assert_allclose(scores("chi2", x - x.min()), chi2(x - x.min(), y)[0])
    found = [mutual_info_classif(part, y, random_state=seed) for part in (x[:, :4], x[:, 4:])]
    np.testing.assert_allclose(scores("mutual_info"), np.concatenate(found))
    trees = ExtraTreesClassifier(50, random_state=seed).fit(x.astype(np.float32), y)
    np.testing.assert_allclose(scores("trees"), trees.feature_importances_)
    assert len(np.unique(scores("random"))) == 13
    constant = np.hstack([x, np.ones((len(x), 1))])
    found = GroupLassoSelector(relevance="f_classif", unit_norm=False).fit(constant, y).scores_
    assert found[-1] == 0
    with pytest.raises(InvalidInputError, match="not negative"):
        scores("chi2")


def test_ties_go_to_the_lower_column():
    x, y = wine()
    same = np.repeat(x[:, 6:7], 5, axis=1)
    kept = (
        GroupLassoSelector(keep=0.4, relevance="f_classif", unit_norm=False).fit(same, y).columns_
    )
    assert kept.tolist() == [0, 1]


def test_chance_and_spread_need_no_labels():
    x, _ = wine()
    selector = GroupLassoSelector(relevance="variance", keep=0.5, unit_norm=False).fit(
        x * range(13)
    )
    assert selector.columns_.tolist() == [7, 8, 9, 10, 11, 12]
    with pytest.raises(InvalidInputError, match="requires y to be passed"):
        GroupLassoSelector().fit(x)


def test_constant_features_are_no_choice():
    with pytest.warns(TransferMetricsWarning, match="all features are constant"):
        selector = GroupLassoSelector(keep=0.5, unit_norm=False).fit(np.ones((6, 4)), [0, 1] * 3)
    assert selector.columns_.tolist() == [0, 1]


@pytest.mark.parametrize(
    "options",
    [{"keep": 0.0}, {"keep": 1.5}, {"offset": -1}, {"offset": 0.5}, {"layer_mix": 2}, {"lam": -1}],
)
def test_parameters_that_mean_nothing_are_refused(options):
    x, y = wine()
    name, value = next(iter(options.items()))
    with pytest.raises(InvalidInputError, match=f"{name} must .*, not {value}"):
        GroupLassoSelector(**options).fit(x, y)


def test_unknown_names_are_refused():
    x, y = wine()
    with pytest.raises(UnknownNameError, match="did you mean 'proximal'"):
        GroupLassoSelector(solver="proximall").fit(x, y)
    with pytest.raises(UnknownNameError, match="did you mean 'f_classif'"):
        GroupLassoSelector(relevance="f_clasif").fit(x, y)
    with pytest.raises(InvalidInputError, match="add up to 12"):
        GroupLassoSelector(layer_sizes=[12]).fit(x, y)


@pytest.mark.parametrize("relevance", ["l2", "variance", "f_classif"])
def test_layers_that_are_not_finite_are_refused_by_every_score(relevance):
    """Adam and the standard deviation would score them NaN, and keep them."""
    X, y = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    broken = np.where(np.arange(len(X))[:, None] == 3, np.nan, X)
    selector = GroupLassoSelector(solver="adam", relevance=relevance, steps=2)
    with pytest.raises(InvalidInputError, match=r"layer 'b' has 1 row\(s\) with NaN"):
        selector.fit({"a": X, "b": broken}, y)
