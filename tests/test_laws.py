"""Laws that every registered metric is held to."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.features.shards import LABELS
from transfer_metrics.metrics.base import METRICS, build_statistic
from transfer_metrics.statistics.inputs import quantile_bins

CLASSIFY = [
    n for n in METRICS if METRICS[n].requires != "source" and "classification" in METRICS[n].tasks
]
SOURCE = [n for n in METRICS if METRICS[n].requires == "source"]
REGRESS = [n for n in METRICS if "regression" in METRICS[n].tasks]


def unchanged_by(change):
    """Metrics whose definition promises that a change of the features leaves them alone."""
    return [n for n in CLASSIFY if change in METRICS[n].invariant]


# The energy of features does not read labels; NCTI's rank term is only meant beside its others.
BLIND_TO_SIGNAL = {"energy", "ncti_rank"}
N, D, C = 90, 12, 4


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    y = np.arange(N) % C
    x = rng.standard_normal((N, D)) + 1.5 * rng.standard_normal((C, D))[y]
    return np.maximum(x, 0.0), y


def call(name, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        return float(METRICS[name].with_options()(
            build_statistic(METRICS[name].requires, METRICS[name].parts, "classification", x, y)
        ))  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFY)
def test_array_tensor_and_statistic_agree(name, data):
    x, y = data
    function = getattr(tm, name)
    whole = function(x, y)
    assert function(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(whole, rel=1e-12)
    assert function(x.tolist(), y.tolist()) == pytest.approx(whole, rel=1e-12)
    statistic = build_statistic(METRICS[name].requires, METRICS[name].parts, "classification", x, y)
    assert function(statistic) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", CLASSIFY)
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_batches_and_order_do_not_matter(name, shape, data):
    x, y = data
    if shape == "wide":
        x = np.hstack([x, np.random.default_rng(1).standard_normal((N, 120))])
    metric = METRICS[name]
    order = np.random.default_rng(2).permutation(N)
    parts = [
        build_statistic(metric.requires, metric.parts, "classification", x[i], y[i], C)
        for i in np.split(order, [1, 7, 40, 41])
    ]
    merged = parts[2] + parts[0] + parts[4] + parts[1] + parts[3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        assert metric(merged) == pytest.approx(call(name, x, y), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", CLASSIFY)
def test_names_of_classes_do_not_matter(name, data):
    x, y = data
    renamed = np.array(["d", "a", "c", "b"])[y]
    assert call(name, x, renamed) == pytest.approx(call(name, x, y), rel=1e-9)
    gaps = np.array([100, -5, 3, 7])[y]
    assert call(name, x, gaps) == pytest.approx(call(name, x, y), rel=1e-9)


@pytest.mark.parametrize("name", unchanged_by("scale"))
def test_scale_does_not_matter(name, data):
    x, y = data
    for factor in (100.0, 1e-3):
        assert call(name, factor * x, y) == pytest.approx(call(name, x, y), rel=1e-8)


@pytest.mark.parametrize("name", unchanged_by("shift"))
def test_shift_does_not_matter(name, data):
    x, y = data
    shifted = x + 100.0 * np.arange(1, D + 1)
    assert call(name, shifted, y) == pytest.approx(call(name, x, y), rel=1e-7)


@pytest.mark.parametrize("name", unchanged_by("rotation"))
def test_rotation_does_not_matter(name, data):
    x, y = data
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((D, D)))[0]
    assert call(name, x @ rotation, y) == pytest.approx(call(name, x, y), rel=1e-8)


@pytest.mark.parametrize("name", CLASSIFY)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_lower_precision_is_computed_in_float64(name, dtype, data):
    x, y = data
    low = (8 * x).astype(dtype)
    assert call(name, low, y) == pytest.approx(call(name, low.astype(np.float64), y), rel=1e-12)


@pytest.mark.parametrize("name", CLASSIFY)
@pytest.mark.parametrize(
    "case", ["dead", "constant", "duplicated", "empty class", "two classes", "wide", "many classes"]
)
def test_awkward_features_give_a_finite_score(name, case, data):
    x, y = data
    rng = np.random.default_rng(4)
    if case == "dead":
        x = np.hstack([x, np.zeros((N, 3))])
    elif case == "constant":
        x = np.hstack([x, np.full((N, 2), 7.0)])
    elif case == "duplicated":
        x = np.hstack([x, x, x])
    elif case == "two classes":
        y = y % 2
    elif case == "wide":
        x = rng.standard_normal((N, 400))
    elif case == "many classes":
        x, y = rng.standard_normal((600, D)), np.arange(600) % 200
    if case == "empty class":
        metric = METRICS[name]
        whole = build_statistic(metric.requires, metric.parts, "classification", x, y, C)
        gapped = build_statistic(metric.requires, metric.parts, "classification", x, 2 * y, 2 * C)
        assert metric(gapped) == pytest.approx(metric(whole), rel=1e-9)
    else:
        assert np.isfinite(call(name, x, y))


@pytest.mark.parametrize("name", sorted(set(CLASSIFY) - {"linear_probe"}))
def test_a_class_with_one_example_is_allowed(name, data):
    x, y = data
    y = y.copy()
    y[0] = C
    assert np.isfinite(call(name, x, y))


@pytest.mark.parametrize("name", CLASSIFY)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(name, bad, data):
    x, y = data
    x = x.copy()
    x[17, 3] = bad
    with pytest.raises(InvalidInputError, match="row 17"):
        getattr(tm, name)(x, y)


@pytest.mark.parametrize("name", sorted(set(CLASSIFY) - BLIND_TO_SIGNAL))
def test_signal_beats_noise(name, data):
    x, y = data
    noise = np.random.default_rng(5).permutation(y)
    sign = 1.0 if METRICS[name].higher_is_better else -1.0
    assert sign * call(name, x, y) > sign * call(name, x, noise)


@pytest.mark.parametrize("name", CLASSIFY)
@pytest.mark.parametrize("shards", [1, 4])
def test_a_store_gives_the_score_of_its_arrays(name, shards, data):
    x, y = data
    store = store_of(x, y, shards)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        [record] = tm.score_layers(store, metrics=[name]).records
    assert record["error"] is None
    assert record["value"] == pytest.approx(call(name, x, y), rel=1e-9, abs=1e-9)


def store_of(x, y, shards, classes=C):
    """Arrays as a store with one layer."""
    size = -(-len(y) // shards)
    pieces = [{"layer": x[i : i + size], LABELS: y[i : i + size]} for i in range(0, len(y), size)]
    manifest = {
        "model": "m", "task": "t", "split": "train", "kind": "classification", "pool": "avg",
        "classes": [str(c) for c in range(classes)], "n": len(y), "shard_size": size,
        "logits": False, "shards": {str(i): {"seconds": 0.0} for i in range(len(pieces))},
        "layers": [{"name": "layer", "index": 0, "depth": 1.0, "kind": "Linear", "layout": "ND",
                    "shape": [x.shape[1]], "dim": x.shape[1], "bytes": 0, "params": 0}],
    }  # fmt: skip
    return tm.FeatureStore(manifest, pieces)


@pytest.mark.parametrize("name", REGRESS)
def test_regression_merges_and_prefers_signal(name, data):
    x, _ = data
    t = x @ np.linspace(-1, 1, D) + 0.1 * np.sin(np.arange(N))
    function, metric = getattr(tm, name), METRICS[name]
    labels, kind = (quantile_bins(t), "classification") if metric.bins else (t, "regression")
    parts = [
        build_statistic(metric.requires, metric.parts, kind, x[i], labels[i], 10)
        for i in np.split(np.arange(N), [5, 50])
    ]
    assert metric(parts[2] + parts[0] + parts[1]) == pytest.approx(function(x, t), rel=1e-9)
    if name in BLIND_TO_SIGNAL:
        return
    assert function(x, t) > function(x, np.random.default_rng(6).permutation(t))


@pytest.mark.parametrize("name", SOURCE)
def test_source_metrics_merge_and_prefer_signal(name):
    rng = np.random.default_rng(7)
    y = np.arange(80) % 4
    logits = rng.standard_normal((80, 6)) + 3 * np.eye(4, 6)[y]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    function = getattr(tm, name)
    order = rng.permutation(80)
    merged = tm.SourceJoint.from_batch(p[order[:9]], y[order[:9]], 4) + tm.SourceJoint.from_batch(
        p[order[9:]], y[order[9:]], 4
    )
    assert function(merged) == pytest.approx(function(p, y), rel=1e-12)
    assert function(p, y) > function(p, rng.permutation(y))
    assert function(p[:, ::-1].copy(), y) == pytest.approx(function(p, y), rel=1e-12)
