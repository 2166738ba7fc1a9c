"""Choice of layers against scoring each layer, or each concatenation, from scratch."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.utils.estimator_checks import parametrize_with_checks

import transfer_metrics as tm
from transfer_metrics.errors import (
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
    UnknownNameError,
    UnsupportedTaskError,
)
from transfer_metrics.metrics.base import METRICS, get_metric
from transfer_metrics.selection.columns import layer_columns, unit_rows
from transfer_metrics.selection.layer_selector import (
    LayerSelector,
    _drop_candidates,
    _joint_bytes,
    _joint_statistic,
)
from transfer_metrics.statistics.statistics import Labels

quiet = pytest.mark.filterwarnings("ignore::transfer_metrics.errors.TransferMetricsWarning")
AUTO = "transrate(eps=auto,class_weights=frequency,dim_normalize=rank)"


def complementary(n=240, d=6, seed=0):
    """Nine classes: one layer tells three groups apart, another the three within each."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 9
    first, second = 4 * rng.standard_normal((2, 3, d))
    layers = {
        "noise": rng.standard_normal((n, d)),
        "first": rng.standard_normal((n, d)) + first[y // 3],
        "second": rng.standard_normal((n, d)) + second[y % 3],
    }
    return {name: 5 * x for name, x in layers.items()}, y


def label_of(table):
    return {r["layer"]: r["value"] for r in table.records}


@pytest.fixture(scope="module")
def store():
    task = "sklearn:digits?examples=300"
    return tm.extract("zoo:resnet-cifar10", task, layers="blocks", progress=False)


@quiet
@pytest.mark.parametrize("metric", ["transrate", AUTO, "h_score", "knn", "gbc"])
def test_layers_alone_score_as_score_layers_does(store, metric):
    expected = {r["layer"]: r["value"] for r in tm.score_layers(store, metrics=metric).records}
    selector = LayerSelector(metric).fit(store)
    assert label_of(selector.scores_) == pytest.approx(expected, rel=1e-9)
    assert selector.layers_ == [max(expected, key=expected.get)]
    assert selector.score_ == pytest.approx(max(expected.values()), rel=1e-9)
    np.testing.assert_array_equal(selector.transform(store), store[selector.layers_[0]])


@quiet
def test_a_combination_compares_layers(store):
    table = tm.score_layers(store, metrics="ncti")
    expected = {r["layer"]: r["value"] for r in table.records if r["metric"] == "ncti"}
    selector = LayerSelector("ncti", k=2).fit(store)
    assert selector.layers_ == sorted(expected, key=lambda name: -expected[name])[:2]
    with pytest.raises(InvalidInputError, match="cannot grow"):
        LayerSelector("ncti", mode="forward").fit(store)


def test_a_loss_is_made_small():
    layers, y = complementary()
    selector = LayerSelector("conditional_coding_rate", k=3).fit(layers, y)
    values = label_of(selector.scores_)
    assert selector.layers_ == sorted(values, key=values.get)


@quiet
@pytest.mark.parametrize(
    "metric", ["transrate", AUTO, "logme", "h_score", "linear_probe", "knn", "sfda", "gbc"]
)
@pytest.mark.parametrize("n", [240, 15])
def test_sets_score_as_their_concatenation_does(metric, n):
    layers, y = complementary(n)
    y = y if n > 100 else y % 3
    selector = LayerSelector(metric, mode="forward").fit(layers, y)
    scores = selector.scores_.records
    assert len(scores) >= 3
    for record in scores:
        parts = [unit_rows(layers[name]) for name in record["layer"].split("+")]
        joined = np.concatenate(parts, axis=1)
        alone = tm.score(joined, y, metrics=[metric]).records[0]["value"]
        assert record["value"] == pytest.approx(alone, rel=1e-8, abs=1e-9)
        assert record["dim"] == joined.shape[1]
    best = max(scores, key=lambda r: r["value"])
    assert selector.score_ == best["value"]
    assert "+".join(selector.layers_) == best["layer"]


def test_the_joint_statistic_is_built_in_one_pass_and_no_other():
    layers, y = complementary()
    reads = []
    columns = layer_columns(layers)
    read = columns._read
    columns._read = lambda name, rows: reads.append(name) or read(name, rows)
    assert len(LayerSelector(AUTO, mode="forward").fit(columns, y).scores_) > 3
    assert sorted(reads) == sorted(layers)


@pytest.mark.parametrize("metric", [AUTO, "linear_probe", "logme"])
def test_complementary_layers_are_both_chosen_and_noise_is_not(metric):
    layers, y = complementary()
    selector = LayerSelector(metric, mode="forward").fit(layers, y)
    assert set(selector.layers_) == {"first", "second"}
    tried = [r["layer"] for r in selector.scores_.records]
    assert "first+second+noise" in tried or "second+first+noise" in tried


def test_transform_puts_the_layers_side_by_side_at_unit_length():
    layers, y = complementary()
    selector = LayerSelector(AUTO, mode="forward").fit(layers, y)
    parts = [unit_rows(layers[name]) for name in selector.layers_]
    np.testing.assert_array_equal(selector.transform(layers), np.concatenate(parts, axis=1))
    everything = np.concatenate(list(layers.values()), axis=1)
    raw = clone(selector).set_params(normalise=None).fit(layers, y)
    np.testing.assert_array_equal(raw.transform(layers), everything[:, raw.columns_])
    assert selector.layer_counts_ == dict.fromkeys(selector.layers_, 6)
    # Order and further layers do not matter at transform; a missing or changed layer does.
    more = {"other": layers["noise"], **dict(reversed(layers.items()))}
    np.testing.assert_array_equal(selector.transform(more), selector.transform(layers))
    with pytest.raises(LayerNotFoundError, match="first"):
        selector.transform({"noise": layers["noise"]})
    with pytest.raises(InvalidInputError, match="6 features when columns were chosen and has 5"):
        selector.transform({name: x[:, :5] for name, x in layers.items()})


def test_arrays_with_layer_sizes_are_layers():
    layers, y = complementary()
    array = np.concatenate(list(layers.values()), axis=1)
    by_name = LayerSelector(AUTO, mode="forward").fit(layers, y)
    by_size = LayerSelector(AUTO, mode="forward", layer_sizes=[6, 6, 6]).fit(array, y)
    np.testing.assert_array_equal(by_name.columns_, by_size.columns_)
    assert by_size.layers_ == [f"layer{list(layers).index(n)}" for n in by_name.layers_]


@quiet
def test_budgets_are_kept():
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    centres = 3 * rng.standard_normal((3, 20))
    layers = {f"w{w}": rng.standard_normal((90, w)) + centres[y][:, :w] for w in (20, 8, 4, 3)}
    assert LayerSelector("linear_probe", k=4, max_dim=15).fit(layers, y).columns_.size <= 15
    forward = LayerSelector("transrate", mode="forward", max_dim=12).fit(layers, y)
    assert forward.layers_[0] == "w8"
    assert forward.columns_.size <= 12
    assert all(r["dim"] <= 12 for r in forward.scores_.records)
    assert len(LayerSelector("transrate", mode="forward", k=2).fit(layers, y).layers_) == 2
    with pytest.raises(InvalidInputError, match="max_dim=2"):
        LayerSelector(max_dim=2).fit(layers, y)
    with pytest.raises(InvalidInputError, match="max_dim=2"):
        LayerSelector(mode="forward", max_dim=2).fit(layers, y)


def test_tol_asks_for_more_than_any_improvement():
    layers, y = complementary()
    eager = LayerSelector(AUTO, mode="forward").fit(layers, y)
    lazy = LayerSelector(AUTO, mode="forward", tol=0.2).fit(layers, y)
    assert len(eager.layers_) > len(lazy.layers_) == 1


def test_the_bare_transrate_warns_that_it_grows_with_width():
    layers, y = complementary()
    # Noise raises TransRate of a set, whatever the distortion; divided by the rank it does not.
    for metric in ("transrate", "transrate(eps=auto)"):
        with pytest.warns(TransferMetricsWarning, match="dim_normalize=rank"):
            assert "noise" in LayerSelector(metric, mode="forward").fit(layers, y).layers_
    with pytest.warns(TransferMetricsWarning, match=r"use transrate\(eps=auto\)"):
        LayerSelector().fit({**layers, "wide": np.hstack(list(layers.values()))}, y)


@pytest.mark.parametrize(
    ("blocks", "widths", "expected"),
    [
        ([2, 2, 2, 2], [64, 128, 256, 512], [512, 512, 256, 256]),
        ([3, 4, 6, 3], [64, 128, 256, 512], [512] * 3 + [256] * 6),
        ([3, 3, 3], [16, 32, 64], [64] * 3 + [32] * 3),
    ],
    ids=["resnet18", "resnet34", "resnet20"],
)
def test_published_candidates(blocks, widths, expected):
    """papers.md 1.5: 4, 9 and 6 candidates, and their widths."""
    dims = [w for count, w in zip(blocks, widths, strict=True) for _ in range(count)]
    names = [f"block{i}" for i in range(len(dims))]
    found = _drop_candidates(names, dims)
    assert [dims[names.index(name)] for name in found] == expected
    assert found[0] == names[-1]
    with_head = _drop_candidates([*names, "fc:input"], [*dims, dims[-1]])
    assert with_head == found


def test_drop_last_scores_each_candidate_alone_by_the_published_pipeline(store):
    selector = LayerSelector(mode="drop_last", max_drop=3).fit(store)
    assert selector.metric_ == "transrate(preset=centred)"
    values = label_of(selector.scores_)
    assert list(values) == ["blocks.3", "blocks.2", "blocks.1", "blocks.0"]
    for name, value in values.items():
        expected = tm.transrate(store[name], store.labels, preset="centred")
        assert value == pytest.approx(float(expected), rel=1e-9)
    best = max(values, key=values.get)
    assert selector.layers_ == [best]
    assert selector.dropped_ == list(values).index(best)


@quiet
def test_drop_last_takes_another_metric_as_it_is(store):
    selector = LayerSelector("transrate(eps=1e-4)", mode="drop_last").fit(store)
    assert selector.metric_ == "transrate(eps=0.0001)"
    assert list(label_of(selector.scores_)) == ["blocks.3", "blocks.2"]


def test_regression_where_the_metric_allows():
    x, y = load_diabetes(return_X_y=True)
    layers = {"a": x[:, :4], "b": x[:, 4:]}
    for metric in ("logme", AUTO, "ridge_probe"):
        selector = LayerSelector(metric, mode="forward").fit(layers, y)
        for record in selector.scores_.records:
            joined = np.hstack([unit_rows(layers[n]) for n in record["layer"].split("+")])
            alone = tm.score(joined, y, metrics=[metric]).records[0]["value"]
            assert record["value"] == pytest.approx(alone, rel=1e-8)
    with pytest.raises(InvalidInputError, match="continuous"):
        LayerSelector("gbc").fit(layers, y + 0.5)


def test_a_store_of_a_regression_task_brings_its_targets():
    rng = np.random.default_rng(0)
    images = rng.random((40, 3, 28, 28)).astype(np.float32)
    store = tm.extract("zoo:cnn-mnist", (images, rng.random(40)), layers="blocks", progress=False)
    assert store.kind == "regression"
    selector = LayerSelector("ridge_probe").fit(store)
    table = tm.score_layers(store, metrics="ridge_probe")
    assert label_of(selector.scores_) == pytest.approx(label_of(table), rel=1e-9)
    with pytest.raises(UnsupportedTaskError, match="gbc"):
        LayerSelector("gbc").fit(store)


@pytest.mark.parametrize("name", [n for n in METRICS if METRICS[n].requires == "source"])
def test_metrics_of_the_source_head_are_refused(name):
    layers, y = complementary()
    with pytest.raises(InvalidInputError, match="source head"):
        LayerSelector(name).fit(layers, y)


def test_a_joint_statistic_that_does_not_fit_is_refused_before_it_is_built():
    layers, y = complementary()
    with pytest.raises(InvalidInputError, match=r"18 features would take .* GB.*fewer layers"):
        LayerSelector(AUTO, mode="forward", max_bytes=1000).fit(layers, y)
    with pytest.raises(InvalidInputError, match="max_examples"):
        LayerSelector("knn", mode="forward", max_bytes=1000).fit(layers, y)
    LayerSelector(AUTO, max_bytes=1000).fit(layers, y)


@quiet
@pytest.mark.parametrize("metric", ["transrate", "logme", "knn", "h_score"])
def test_the_estimate_covers_what_the_statistic_holds(metric):
    layers, y = complementary(90)
    columns = layer_columns(layers)
    labels = Labels.read(y, "classification", len(y))
    statistic = _joint_statistic(columns, labels, get_metric(metric), 4 << 30)
    if hasattr(statistic, "x"):
        held = statistic.x.numel()
    else:
        scatters = [statistic.within, *(statistic.class_scatter or ())]
        held = sum(s.data.numel() for s in scatters)
    assert held * 8 <= _joint_bytes(get_metric(metric), labels, columns.dim)


def test_a_sample_of_the_examples():
    layers, y = complementary()
    fitted = LayerSelector(AUTO, mode="forward", max_examples=100).fit(layers, y)
    again = LayerSelector(AUTO, mode="forward", max_examples=100).fit(layers, y)
    assert {r["n"] for r in fitted.scores_.records} == {100}
    assert fitted.score_ == again.score_
    assert fitted.transform(layers).shape[0] == 240


def test_a_layer_that_cannot_be_scored_is_passed_over_and_says_why():
    layers, y = complementary()
    layers["dead"] = np.zeros((240, 3))
    for mode in ("best", "forward"):
        selector = LayerSelector(AUTO, mode=mode).fit(layers, y)
        failed = {r["layer"]: r["error"] for r in selector.scores_.failures}
        assert "constant" in failed["dead"]
        assert "dead" not in selector.layers_
    with pytest.raises(InvalidInputError, match=r"no value on any layer.*constant"):
        LayerSelector(AUTO, mode="forward").fit({"dead": layers["dead"]}, y)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"mode": "backward"}, InvalidInputError, "mode must be"),
        ({"normalise": "max"}, InvalidInputError, "normalise"),
        ({"k": 0}, InvalidInputError, "k=0; give a whole number"),
        ({"mode": "drop_last", "k": 2}, InvalidInputError, "chooses one layer"),
        ({"max_drop": -1}, InvalidInputError, "max_drop"),
        ({"metric": "transrat"}, UnknownNameError, "did you mean"),
        ({"metric": "svd_regression"}, UnsupportedTaskError, "regression"),
        ({"metric": "logme,knn"}, InvalidInputError, "one metric"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        LayerSelector(**options).fit(*load_iris(return_X_y=True))


def test_input_that_cannot_be_used_is_refused(store):
    layers, y = complementary()
    with pytest.raises(InvalidInputError, match="target y is None"):
        LayerSelector().fit(layers)
    with pytest.raises(InvalidInputError, match="one label per example"):
        LayerSelector().fit(layers, y[:-1])
    layers["first"][3, 2] = np.nan
    with pytest.raises(InvalidInputError, match="NaN"):
        LayerSelector(AUTO, mode="forward").fit(layers, y)


@quiet
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
@parametrize_with_checks(
    [LayerSelector(), LayerSelector(AUTO, mode="forward"), LayerSelector(mode="drop_last")]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)
