"""ATL-style choice of feature maps: its guarantees, laws, and the folds behind them."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_iris
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from transfer_metrics.errors import (
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
)
from transfer_metrics.selection.columns import layer_columns, unit_rows
from transfer_metrics.selection.feature_maps import (
    _CRITERIA,
    FeatureMapSelector,
    _fisher_ratios,
    _narrowed,
    _support_folds,
    left_out_right,
)

each = pytest.mark.parametrize("criterion", _CRITERIA)


def selector(criterion="cv", **options):
    """Quick to fit: one round of folds and few shares."""
    quick = {"repeats": 1, "shares": (0.1, 0.3, 1.0)}
    return FeatureMapSelector(criterion, **{**quick, **options})


def hidden(shots=5, ways=4, seed=0, penultimate=0.0):
    """Labels are a function of layer 2 alone; the penultimate layer knows what it is told to."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(ways), shots)
    centres = rng.standard_normal((3, ways, 16))

    def layer(signal, d):
        return rng.standard_normal((len(y), d)) + signal * centres[0, :, :d][y]

    return {
        "layer1": layer(0.0, 8),
        "layer2": layer(6.0, 12),
        "layer3": layer(0.0, 16),
        "last": layer(penultimate, 10),
    }, y


@each
def test_the_layer_that_the_label_depends_on_is_found(criterion):
    layers, y = hidden()
    found = selector(criterion).fit(layers, y)
    assert "layer2" in found.layers_
    assert found.objective_ > found.penultimate_objective_
    if criterion == "cv":
        assert found.layers_ == ["last", "layer2"]
    else:
        widths = {"layer1": 8, "layer2": 12, "layer3": 16, "last": 10}
        shares = {name: count / widths[name] for name, count in found.layer_counts_.items()}
        assert max(shares, key=shares.get) == "layer2"


@each
def test_the_penultimate_layer_is_kept_where_nothing_is_better(criterion):
    layers, y = hidden(penultimate=8.0)
    found = selector(criterion).fit(layers, y)
    assert found.objective_ == found.penultimate_objective_ == 1.0
    assert found.layers_ == ["last"]
    assert found.layer_counts_ == {"last": 10}
    np.testing.assert_array_equal(found.columns_, np.arange(36, 46))
    np.testing.assert_array_equal(found.transform(layers), unit_rows(layers["last"]))


@each
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 5]))
def test_what_is_chosen_is_never_worse_than_the_penultimate_layer(criterion, seed, shots):
    layers, y = hidden(shots, 3, seed, penultimate=1.0)
    found = selector(criterion).fit(layers, y)
    assert found.objective_ >= found.penultimate_objective_
    if found.objective_ == found.penultimate_objective_:
        assert found.layers_ == ["last"]


@each
def test_the_objective_is_the_cross_validated_accuracy_of_the_student(criterion):
    layers, y = hidden(4, penultimate=1.0)
    found = selector(criterion, repeats=4).fit(layers, y)
    folds = RepeatedStratifiedKFold(n_splits=4, n_repeats=4, random_state=0)

    def accuracy(x):
        student = LogisticRegression(max_iter=1000)
        return cross_val_score(student, x, y, cv=folds).mean()

    expected = accuracy(unit_rows(layers["last"]))
    assert found.penultimate_objective_ == pytest.approx(expected)
    if criterion == "cv":
        assert found.objective_ == pytest.approx(accuracy(found.transform(layers)))


def test_the_rank_of_maps_does_not_see_what_it_is_tested_on():
    """On noise, choosing maps on all examples would look far better than chance."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    wide = {"wide": rng.standard_normal((40, 2000)), "last": np.zeros((40, 1))}
    found = selector("fisher", shares=[0.01]).fit(wide, y)
    best = np.argsort(-f_classif(unit_rows(wide["wide"]), y)[0])[:20]
    folds = _support_folds(y, 5, 1, 0)
    leaked = left_out_right(unit_rows(wide["wide"])[:, best], y, folds, None) / 40
    assert leaked > 0.85
    assert found.objective_ < 0.7


@each
def test_channels_may_be_in_any_order(criterion):
    layers, y = hidden(penultimate=1.0)
    rng = np.random.default_rng(3)
    orders = {name: rng.permutation(x.shape[1]) for name, x in layers.items()}
    shuffled = {name: x[:, orders[name]] for name, x in layers.items()}
    plain = selector(criterion).fit(layers, y)
    moved = selector(criterion).fit(shuffled, y)
    assert moved.objective_ == plain.objective_
    starts = dict(zip(layers, np.cumsum([0, 8, 12, 16]), strict=True))
    original = [
        starts[name] + orders[name][moved._kept.layers[name]] for name in moved.layers_
    ]  # fmt: skip
    assert set(np.concatenate(original)) == set(plain.columns_)


@each
def test_the_scale_of_a_layer_does_not_matter(criterion):
    layers, y = hidden(penultimate=1.0)
    scaled = {name: x * 4.0 ** (3 * i - 4) for i, (name, x) in enumerate(layers.items())}
    plain = selector(criterion).fit(layers, y)
    other = selector(criterion).fit(scaled, y)
    np.testing.assert_array_equal(other.columns_, plain.columns_)
    assert other.objective_ == plain.objective_
    np.testing.assert_allclose(other.transform(scaled), plain.transform(layers), rtol=1e-12)


@each
def test_one_example_per_class_keeps_the_penultimate_layer_and_says_so(criterion):
    layers, y = hidden(shots=1)
    with pytest.warns(TransferMetricsWarning, match="one example per class"):
        found = selector(criterion).fit(layers, y)
    assert found.layers_ == ["last"]
    assert np.isnan(found.objective_)


@each
def test_only_the_support_set_is_used(criterion):
    """The rows of the query set can be anything, and every read is of the support set."""
    layers, y = hidden(6, penultimate=1.0)
    support = np.arange(0, len(y), 2)
    part = {name: x[support] for name, x in layers.items()}
    broken = {name: np.where(np.arange(len(y))[:, None] % 2, np.nan, x)
              for name, x in layers.items()}  # fmt: skip
    by_rows = selector(criterion).fit(layer_columns(broken).rows(support), y[support])
    alone = selector(criterion).fit(part, y[support])
    np.testing.assert_array_equal(by_rows.columns_, alone.columns_)
    before = by_rows.columns_.copy()
    by_rows.transform(layers)
    np.testing.assert_array_equal(by_rows.columns_, before)


def test_of_equals_the_one_with_fewer_maps():
    layers, y = hidden()
    twice = np.hstack([layers["layer2"], layers["layer2"]])
    pair = {"wide": twice, "narrow": layers["layer2"], "last": layers["last"]}
    found = selector().fit(pair, y)
    assert found.layers_ == ["last", "narrow"]


def test_another_penultimate_layer_and_another_student():
    layers, y = hidden()
    found = selector(penultimate="layer2", student=KNeighborsClassifier(1)).fit(layers, y)
    assert found.layers_ == ["layer2"]
    with pytest.raises(LayerNotFoundError, match="layer1"):
        selector(penultimate="layer9").fit(layers, y)


def exact_ratio(column, y):
    """The ratio of one column by its definition, in fractions."""
    classes = [[Fraction(float(v)) for v in column[y == c]] for c in np.unique(y)]
    n, means = len(column), [sum(members) / len(members) for members in classes]
    mean = sum(map(sum, classes)) / n
    between = sum(len(m) * (own - mean) ** 2 for m, own in zip(classes, means, strict=True))
    within = sum((v - own) ** 2 for m, own in zip(classes, means, strict=True) for v in m)
    return float(between / (len(classes) - 1) / (within / (n - len(classes))))


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 30), st.integers(1, 8), st.integers(0, 99))
def test_fisher_ratios_are_those_of_scikit_learn(n, d, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((n, d)) + 5.0, np.arange(n) % 3
    found = _fisher_ratios(x, y)
    np.testing.assert_allclose(found, [exact_ratio(column, y) for column in x.T], rtol=1e-12)
    # Of classes that are points, or have one mean, scikit-learn loses digits: it subtracts sums of
    # squares.
    expected = f_classif(x, y)[0]
    plain = expected < 1e4
    np.testing.assert_allclose(found[plain], expected[plain], rtol=1e-9, atol=1e-11)


def test_fisher_ratios_of_columns_without_variance():
    y = np.array([0, 0, 1, 1])
    x = np.column_stack([np.full(4, 0.1), [1.0, 1.0, 2.0, 2.0]])
    assert _fisher_ratios(x, y).tolist() == [0.0, np.inf]
    with pytest.raises(InvalidInputError, match="two examples"):
        _fisher_ratios(np.eye(3), np.arange(3))


def test_wide_features_are_narrowed_without_the_student_noticing():
    layers, y = hidden(4, penultimate=1.0)
    wide = np.hstack([unit_rows(x) for x in layers.values()])
    narrow = _narrowed(wide, None)
    assert narrow.shape[1] <= len(y) < wide.shape[1]
    np.testing.assert_allclose(narrow @ narrow.T, wide @ wide.T, atol=1e-12)
    train, test = np.arange(0, len(y), 2), np.arange(1, len(y), 2)
    probabilities = [
        LogisticRegression(max_iter=1000, tol=1e-10).fit(x[train], y[train]).predict_proba(x[test])
        for x in (wide, narrow)
    ]
    np.testing.assert_allclose(*probabilities, atol=1e-6)
    assert _narrowed(wide, KNeighborsClassifier()) is wide


def test_folds():
    y = np.repeat([0, 1, 2], [3, 5, 6])
    folds = _support_folds(y, 5, 2, 0)
    assert len(folds) == 6
    for train, test in folds:
        assert set(y[train]) == set(y[test]) == {0, 1, 2}
        assert len(set(train) & set(test)) == 0
    assert len(_support_folds(np.repeat([0, 1], 10), 5, 1, 0)) == 5
    assert _support_folds(np.arange(4), 5, 1, 0) == []
    many = np.repeat([0, 1], [1, 200])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folds = _support_folds(many, 5, 1, 0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(201))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "anova"}, "criterion"),
        ({"folds": 1}, "folds"),
        ({"repeats": 0}, "repeats"),
        ({"criterion": "fisher", "shares": [0.0]}, "shares"),
        ({"criterion": "fisher", "shares": []}, "shares"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, words):
    with pytest.raises(InvalidInputError, match=words):
        FeatureMapSelector(**options).fit(*load_iris(return_X_y=True))


@each
def test_input_that_cannot_be_used_is_refused(criterion):
    layers, y = hidden()
    with pytest.raises(InvalidInputError, match="one class"):
        selector(criterion).fit(layers, np.zeros(len(y), dtype=int))
    with pytest.raises(InvalidInputError, match="continuous"):
        selector(criterion).fit(layers, y + 0.5)
    layers["layer1"][0, 0] = np.inf
    with pytest.raises(InvalidInputError, match="NaN or infinite"):
        selector(criterion).fit(layers, y)


@pytest.mark.filterwarnings("ignore::transfer_metrics.errors.TransferMetricsWarning")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@parametrize_with_checks([selector(c) for c in _CRITERIA])
def test_scikit_learn_contract(estimator, check):
    check(estimator)
