"""Every metric against its definition in sixty digits, on features that are hard on rounding."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest

import transfer_metrics as tm
from tests import high_precision
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.base import METRICS, build_statistic
from transfer_metrics.sources.tasks.labels import kind_of

N, D, C = 60, 5, 3
CASES = {
    "as they are": lambda x: x,
    "offset 100": lambda x: x + 100,
    "offset 10000": lambda x: x + 10_000,
    "scale 1e-6": lambda x: 1e-6 * x,
    "scale 1e6": lambda x: 1e6 * x,
    "one at 5000": lambda x: x + 5_000 * (np.arange(D) == 2),
    "one times 1e3": lambda x: x * np.where(np.arange(D) == 2, 1e3, 1),
    "one times 1e6": lambda x: x * np.where(np.arange(D) == 2, 1e6, 1),
    "one times 1e8": lambda x: x * np.where(np.arange(D) == 2, 1e8, 1),
    "one times 1e-6": lambda x: x * np.where(np.arange(D) == 2, 1e-6, 1),
}
OF_FEATURES = [
    "conditional_coding_rate", "emms", "energy", "gbc", "h_score", "label_rate", "lda", "lfc",
    "logme", "ncti_posterior", "ncti_rank", "ncti_spread", "pactran_gaussian", "parc", "ped",
    "ridge_probe", "sfda", "svd_regression", "transrate",
]  # fmt: skip
OF_SOURCE = ["leep", "nce", "pactran_dirichlet", "pactran_gamma", "soft_nce"]
ELSEWHERE = {"knn", "linear_probe", "nleep"}  # tests/test_knn.py, and below


def features(case, dtype="float64"):
    rng = np.random.default_rng(0)
    y = np.r_[np.arange(2 * C) % C, rng.choice(C, N - 2 * C, p=[0.5, 0.3, 0.2])]
    x = rng.standard_normal((N, D)) * np.linspace(0.3, 1.5, D) + rng.standard_normal((C, D))[y]
    return CASES[case](x).astype(dtype), y


def labels_of(name, x, y):
    return np.sin(np.arange(N)) + 0.5 * y if name == "svd_regression" else y


def wide_features(case):
    """Fewer examples than features."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((24, 30)), np.arange(24) % C
    x = x * np.linspace(0.3, 1.5, 30) + rng.standard_normal((C, 30))[y]
    one = np.arange(30) == 7
    return {
        "offset 10000": x + 10_000,
        "scale 1e6": 1e6 * x,
        "one at 5000": x + 5_000 * one,
        "one times 1e6": x * np.where(one, 1e6, 1),
    }[case], y


@functools.cache
def truth(name, case, dtype):
    x, y = features(case, dtype)
    labels = labels_of(name, x, y)
    return float(getattr(high_precision, name)(high_precision.exact(x), labels))


# Classes so far apart that their loss is the rounding of float64: it says so.
NOT_SETTLED = ("pactran_gaussian", "scale 1e6")


def quietly(function, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        return float(function(*arguments))


def test_every_metric_has_its_definition_here():
    assert sorted([*OF_FEATURES, *OF_SOURCE, *ELSEWHERE]) == sorted(METRICS)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((c, "float64") for c in CASES), ("offset 10000", "float32"), ("one times 1e3", "float32")],
)
@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_metric_is_its_definition(name, case, dtype):
    x, y = features(case, dtype)
    if (name, case) == NOT_SETTLED:
        with pytest.warns(TransferMetricsWarning, match="not settled"):
            tm.pactran_gaussian(x, y)
        return
    score = quietly(getattr(tm, name), x, labels_of(name, x, y))
    assert score == pytest.approx(truth(name, case, dtype), rel=1e-8)


@pytest.mark.parametrize(
    ("name", "case"), [(n, c) for n in OF_FEATURES for c in CASES if (n, c) != NOT_SETTLED]
)
def test_merged_batches_are_the_definition(name, case):
    x, y = features(case)
    labels, metric = labels_of(name, x, y), METRICS[name]
    order = np.random.default_rng(1).permutation(N)
    parts = [
        build_statistic(metric.requires, metric.parts, kind_of({"": labels}), x[i], labels[i], C)
        for i in np.split(order, [1, 4, 30])
    ]
    merged = parts[2] + parts[0] + (parts[3] + parts[1])
    assert quietly(metric, merged) == pytest.approx(truth(name, case, "float64"), rel=1e-8)


@pytest.mark.integration
@pytest.mark.parametrize("case", ["offset 10000", "scale 1e6", "one at 5000", "one times 1e6"])
@pytest.mark.parametrize(
    "name",
    [
        *("conditional_coding_rate", "h_score", "label_rate", "lda", "lfc", "logme", "sfda"),
        "transrate",
    ],
)
def test_a_metric_is_its_definition_with_fewer_examples_than_features(name, case):
    x, y = wide_features(case)
    expected = float(getattr(high_precision, name)(high_precision.exact(x), y))
    assert quietly(getattr(tm, name), x, y) == pytest.approx(expected, rel=1e-8)


def test_doubled_features_of_large_scale_are_the_definition():
    x, y = features("scale 1e6")
    x = np.hstack([x, x])
    expected = float(high_precision.transrate(high_precision.exact(x), y))
    assert quietly(tm.transrate, x, y) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", sorted({*OF_FEATURES, *ELSEWHERE} - {"energy", "logme"}))
@pytest.mark.parametrize(("n", "constant"), [(57, 0.1), (123, 1234.567)])
def test_constant_features_are_constant_whatever_their_mean_rounds_to(name, n, constant):
    """The mean of equal numbers may differ from them, and the differences are no features."""
    x, y = np.full((n, 4), constant), np.arange(n) % C
    labels = np.sin(np.arange(n)) if name == "svd_regression" else y
    if name in ("transrate", "conditional_coding_rate"):
        assert quietly(getattr(tm, name), x, labels) == pytest.approx(0.0, abs=1e-12)
        return
    with pytest.raises(InvalidInputError):
        getattr(tm, name)(x, labels)


@pytest.mark.parametrize("name", ["knn", "linear_probe", "ridge_probe", "svd_regression"])
def test_a_constant_target_is_constant_whatever_its_mean_rounds_to(name):
    x = np.random.default_rng(0).standard_normal((57, 4))
    with pytest.raises(InvalidInputError, match="constant"):
        getattr(tm, name)(x, np.full(57, 0.1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ["soft", "sharp", "nearly certain"])
@pytest.mark.parametrize("name", OF_SOURCE)
def test_a_source_metric_is_its_definition(name, case, dtype):
    rng = np.random.default_rng(2)
    y = np.r_[np.arange(2 * C) % C, rng.choice(C, N - 2 * C, p=[0.5, 0.3, 0.2])]
    logits = {"soft": 0.1, "sharp": 5.0, "nearly certain": 40.0}[case] * (
        0.5 * rng.standard_normal((N, 6)) + np.eye(C, 6)[y]
    )
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = (p / p.sum(axis=1, keepdims=True)).astype(dtype)
    expected = float(getattr(high_precision, name)(high_precision.exact(p), y))
    assert quietly(getattr(tm, name), p, y) == pytest.approx(expected, rel=1e-8, abs=1e-12)
    parts = [tm.SourceJoint.from_batch(p[i], y[i], C) for i in np.split(rng.permutation(N), 3)]
    merged = parts[1] + parts[2] + parts[0]
    assert quietly(METRICS[name], merged) == pytest.approx(expected, rel=1e-8, abs=1e-12)


# The definition of these is a long program; shifts and scales that round nothing must change
# nothing. tests/test_nleep.py and tests/test_metrics.py hold them to scikit-learn.
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["nleep", "linear_probe"])
def test_exact_shifts_and_scales_change_nothing(name, dtype):
    x, y = features("as they are")
    x = np.rint(64 * x) / 64
    expected = quietly(getattr(tm, name), x, y)
    one = np.arange(D) == 2
    for changed in (x + 100, x + 10_000, x + 5_000 * one, 2.0**20 * x, 2.0**-20 * x):
        low = changed.astype(dtype)
        assert (low == changed).all()
        assert quietly(getattr(tm, name), low, y) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", sorted(set(METRICS) - set(OF_SOURCE) - {"svd_regression"}))
@pytest.mark.parametrize("case", ["tenths", "zeros and ones", "duplicated rows"])
def test_names_and_order_do_not_matter_where_features_tie(name, case):
    x, y = features("as they are")
    rng = np.random.default_rng(3)
    if case == "tenths":
        x = np.round(x, 1)
    elif case == "zeros and ones":
        x = (x > 0) * 1.0
    else:
        x = x[rng.integers(0, 20, N)]
    score = quietly(getattr(tm, name), x, y)
    same = pytest.approx(score, rel=1e-8, abs=1e-10)
    rows, columns = rng.permutation(N), rng.permutation(D)
    assert quietly(getattr(tm, name), x[rows], y[rows]) == same
    for names in ([1, 0, 2], [2, 0, 1]):
        assert quietly(getattr(tm, name), x, np.array(names)[y]) == same
    assert quietly(getattr(tm, name), x[:, columns], y) == same


@pytest.mark.parametrize("case", ["zeros and ones", "few rows"])
@pytest.mark.parametrize("n", [40, 42, 48])
def test_folds_of_a_linear_probe_know_no_names_where_lengths_tie(n, case):
    rng = np.random.default_rng(n)
    y = np.arange(n) % 3
    x = rng.standard_normal((n, D)) + rng.standard_normal((3, D))[y]
    x = (x > 0) * 1.0 if case == "zeros and ones" else x[rng.integers(0, 20, n)]
    y[:5] = 0  # classes of unequal size
    score = tm.linear_probe(x, y)
    for names in ([1, 0, 2], [2, 0, 1]):
        assert tm.linear_probe(x, np.array(names)[y]) == score
    for columns in (rng.permutation(D), rng.permutation(D)):
        assert tm.linear_probe(x[:, columns], y) == score
    rows = rng.permutation(n)
    assert tm.linear_probe(x[rows], y[rows]) == score


def test_features_that_hide_all_others_are_said():
    x, y = features("as they are")
    x[:, 2] *= 1e16
    with pytest.warns(TransferMetricsWarning, match="only 1 of 5 are seen"):
        tm.emms(x, y)
