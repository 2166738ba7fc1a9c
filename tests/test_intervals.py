"""Intervals: derivatives and the jackknife against their definitions; coverage by simulation."""

from __future__ import annotations

import dataclasses
import functools
import operator
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm, t

import transfer_metrics as tm
from tests.benchmarks.examples import Size
from tests.benchmarks.intervals import measure
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, quiet
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.results.chances import probability_of_best
from transfer_metrics.results.error_bars import (
    _BLOCKS,
    _without_each,
    deviations,
    interval_modes,
)
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.inputs import as_tokens
from transfer_metrics.statistics.statistics import Labels, Statistics, build_statistic

N, D, C = 240, 6, 3


def draw(rng, n=N, shift=1.5, dim=D):
    y = rng.permutation(np.arange(n) % C)
    return rng.standard_normal((n, dim)) + shift * np.eye(C, dim)[y], y


def source_of(x):
    p = np.exp(x)
    return p / p.sum(axis=1, keepdims=True)


def blocks_of(y, units=None):
    return Labels.of(np.asarray(y), "classification", C, units).places % _BLOCKS


def test_blocks_have_as_many_of_each_class_and_depend_on_the_labels_only():
    y = np.random.default_rng(0).choice(3, 20_000, p=[0.7, 0.25, 0.05])
    labels = Labels.of(y, "classification", 3)
    counts = np.zeros((3, _BLOCKS), int)
    np.add.at(counts, (y, labels.places % _BLOCKS), 1)
    assert np.ptp(counts, axis=1).max() <= 1
    assert np.ptp(counts.sum(axis=0)) <= 1
    assert (labels[500:600].places == labels.places[500:600]).all()
    # Neighbours, such as frames of one film, are not dealt out one by one.
    same = labels.places % _BLOCKS
    assert abs(np.corrcoef(same[1:], same[:-1])[0, 1]) < 0.02


@pytest.mark.parametrize("count", [2, 3, 7, 20])
def test_without_each_leaves_one_out(count):
    values = [2**i for i in range(count)]
    assert list(_without_each(values)) == [sum(values) - v for v in values]


def summed(slopes, sizes):
    """Deviations from what blocks add: less their share of the sum, so that a mean has s / √N."""
    return np.sqrt(_BLOCKS / (_BLOCKS - 1)) * (sizes / sizes.sum() * slopes.sum() - slopes)


@pytest.mark.parametrize("name", ["transrate", "logme", "h_score", "gbc", "leep", "nce"])
def test_jackknife_equals_scoring_the_data_without_each_block(name):
    x, y = draw(np.random.default_rng(0))
    metric = dataclasses.replace(METRICS[name], derivative=None)
    data = source_of(x) if metric.requires == "source" else x
    record = tm.score(data, y, [metric], intervals=True).records[0]
    blocks = blocks_of(y)
    function = getattr(tm, name)
    whole, sizes = float(function(data, y)), np.bincount(blocks)
    plain = np.array([float(function(data[blocks != b], y[blocks != b])) for b in range(_BLOCKS)])
    moved = whole * np.log(whole / plain) if name == "gbc" else whole - plain
    expected = summed(moved * (1 - sizes / N), sizes)
    assert record["deviations"] == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-9)
    assert record["stderr"] == pytest.approx(np.linalg.norm(expected), rel=1e-6)
    assert record["value"] == pytest.approx(whole, rel=1e-9)
    assert sum(record["deviations"]) == pytest.approx(0.0, abs=1e-9)


def test_jackknife_of_a_mean_is_the_textbook_standard_error():
    """For equal blocks the delete-block jackknife of a mean is s / √B of the block means."""
    metric = tm.get_metric(lambda moments: float(moments.mean[0]))
    x, y = draw(np.random.default_rng(1))
    pieces = [
        build_statistic("moments", (), "classification", x[b::_BLOCKS], y[b::_BLOCKS], C)
        for b in range(_BLOCKS)
    ]
    means = np.array([x[b::_BLOCKS, 0].mean() for b in range(_BLOCKS)])
    whole = functools.reduce(operator.add, pieces)
    [found] = deviations([metric], whole, pieces, "jackknife").values()
    assert np.linalg.norm(found) == pytest.approx(means.std(ddof=1) / np.sqrt(_BLOCKS), rel=1e-9)


SMOOTH = (
    "transrate",
    "transrate(class_weights=frequency,eps=auto)",
    "transrate(class_center=True,scale=trace,dim_normalize=rank)",
    "conditional_coding_rate(class_weights=frequency)",
    "h_score",
    "h_score(shrinkage=0.3)",
    "logme",
)


# How near derivatives that stand for leaving blocks out come to it, as a share of the error.
LEFT_OUT = {
    "label_rate": 0.05,
    "lfc": 1e-5,
    "lfc(center=True)": 1e-5,
    "emms": 1e-5,
    "gbc": 0.06,
    "gbc(covariance=full)": 1e-6,
}


def moments_of(x, y):
    return build_statistic("moments", {"class", "fourth"}, "classification", x, y, C)


def influence_of(x, y, blocks):
    return Influence.of([moments_of(x[blocks == b], y[blocks == b]) for b in np.unique(blocks)])


@pytest.mark.parametrize("spec", [spec for spec in SMOOTH if "rate" not in spec])
def test_derivatives_in_the_weights_of_blocks_are_finite_differences(spec):
    """A block weighs more, or less, as its examples are repeated more, or less, than others."""
    metric, times = tm.get_metric(spec), 40
    rng = np.random.default_rng(9)
    x, y = draw(rng, 60)
    x, blocks = x + 2.0, rng.integers(0, 4, 60)

    def repeated(times_of):
        rows = np.repeat(np.arange(60), np.asarray(times_of)[blocks])
        return x[rows], y[rows], blocks[rows]

    found = metric.slopes(influence_of(*repeated([times] * 4))).numpy()
    for b in range(4):
        more, less = np.full((2, 4), times)
        more[b] += 1
        less[b] -= 1
        up, down = (float(metric(moments_of(*repeated(w)[:2]))) for w in (more, less))
        assert found[b] == pytest.approx(times * (up - down) / 2, rel=5e-3, abs=2e-4)


@pytest.mark.parametrize("dim", [6, 400])
def test_blocks_are_merged_at_once_as_one_by_one(dim):
    x, y = draw(np.random.default_rng(10), dim=dim)
    y[:3] = 0
    blocks = blocks_of(y)
    ours, plain = influence_of(x, y, blocks).whole, moments_of(x, y)
    assert torch.allclose(ours.means, plain.means, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours.total.matrix(), plain.total.matrix(), rtol=1e-9, atol=1e-9)
    assert ours.fourth.quartic == pytest.approx(plain.fourth.quartic, rel=1e-10)
    for c in range(C):
        assert ours.scatter_of(c).trace() == pytest.approx(plain.scatter_of(c).trace(), rel=1e-10)


@given(st.floats(0.01, 100.0), st.integers(0, 1000), st.sampled_from((*SMOOTH, *LEFT_OUT)))
@settings(max_examples=15, deadline=None)
def test_derivatives_keep_what_leaves_the_score_alone(factor, seed, spec):
    metric = tm.get_metric(spec)
    rng = np.random.default_rng(seed)
    x, y = draw(rng)
    moved = x @ np.linalg.qr(rng.standard_normal((D, D)))[0]
    if "scale" in metric.invariant or metric.options.get("scale") == "trace":
        moved *= factor
    if "shift" in metric.invariant:
        moved += factor
    blocks = blocks_of(y)
    before, after = (metric.slopes(influence_of(z, y, blocks)).numpy() for z in (x, moved))
    assert after == pytest.approx(before, rel=1e-3, abs=1e-4 * np.abs(before).max())


@pytest.mark.parametrize("spec", [*SMOOTH, *LEFT_OUT])
def test_derivatives_give_the_errors_of_the_jackknife(spec):
    metric, ratios = tm.get_metric(spec), []
    plain = dataclasses.replace(metric, derivative=None)
    for seed in range(3):
        x, y = draw(np.random.default_rng(seed), 2 * N)
        errors = [tm.score(x, y, [m], intervals=True).records[0]["stderr"] for m in (metric, plain)]
        ratios.append(errors[0] / errors[1])
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.12)


def weighted_h_score(x, y, w, a=0.3):
    n, mean = w.sum(), w @ x / w.sum()
    total = (x - mean).T * w @ (x - mean)
    of_class = [w[y == c].sum() ** 0.5 * (w[y == c] @ x[y == c] / w[y == c].sum() - mean)
                for c in np.unique(y)]  # fmt: skip
    between = np.stack(of_class)
    shrunk = (1 - a) * total + a * np.trace(total) / x.shape[1] * np.eye(x.shape[1])
    return (1 - a) * n / (n - 1) * np.trace(between @ np.linalg.solve(shrunk, between.T))


def weighted_logme(x, y, w):
    n, found = w.sum(), []
    values, vectors = np.linalg.eigh(x.T * w @ x)
    values = values.clip(0.0)
    for c in np.unique(y):
        target = (y == c).astype(float)
        turned = vectors.T @ (x.T @ (w * target))

        def loss(log_ratio, turned=turned, target=target):
            ratio = np.exp(log_ratio)
            energy = w @ target**2 - (turned**2 / (values + ratio)).sum()
            logdet = np.log1p(values / ratio).sum()
            return 0.5 * (n * np.log(2 * np.pi * energy / n) + logdet + n) / n

        grid = np.linspace(-8, 14, 45)
        start = grid[np.argmin([loss(g) for g in grid])]
        bounds = (start - 1, start + 1)
        options = {"xatol": 1e-9}
        found.append(minimize_scalar(loss, bounds=bounds, method="bounded", options=options).fun)
    return -np.mean(found)


@pytest.mark.parametrize(("n", "dim"), [(90, 40), (60, 90), (150, 30)])
@pytest.mark.parametrize(
    ("spec", "score", "close"),
    [
        ("h_score(shrinkage=0.3)", weighted_h_score, 0.04),  # the shift moves as its derivative
        ("logme", weighted_logme, 0.12),  # both precisions are those of all examples
    ],
)
def test_where_examples_are_few_blocks_are_left_out(spec, score, close, n, dim):
    x, y = draw(np.random.default_rng(11), n, dim=dim)
    blocks, metric, ones = blocks_of(y), tm.get_metric(spec), np.ones(n)
    assert score(x, y, ones) == pytest.approx(float(metric(moments_of(x, y))), rel=1e-6)
    expected = []
    for b in range(_BLOCKS):
        own = blocks == b
        expected.append(
            (score(x, y, ones) - score(x[~own], y[~own], ones[~own])) * (1 - own.mean())
        )
    found = metric.slopes(influence_of(x, y, blocks)).numpy()
    expected, sizes = np.array(expected), np.bincount(blocks)
    expected, found = summed(expected, sizes), summed(found, sizes)
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), rel=close)
    assert np.corrcoef(found, expected)[0, 1] > 1 - close


@pytest.mark.parametrize(
    "spec",
    ["h_score(shrinkage=None)", "conditional_coding_rate(class_center=True)", "transrate"],
)
@pytest.mark.parametrize(("n", "dim"), [(90, 40), (60, 90), (210, 60), (500, 40)])
def test_where_examples_are_few_errors_are_those_of_leaving_out(spec, n, dim):
    """To rounding where nothing but the scatter moves; what else does moves as its derivative."""
    x, y = draw(np.random.default_rng(14), n, dim=dim)
    if n > 10 * dim:  # a few are so long that derivatives tell a third of the error less
        x *= np.sqrt(4.0 / np.random.default_rng(0).chisquare(6, n))[:, None]
    blocks, metric = blocks_of(y), tm.get_metric(spec)
    plain = float(metric(moments_of(x, y)))
    left = np.array(
        [float(metric(moments_of(x[blocks != b], y[blocks != b]))) for b in range(_BLOCKS)]
    )
    sizes = np.bincount(blocks)
    expected = summed((plain - left) * (1 - sizes / n), sizes)
    slopes = metric.slopes(influence_of(x, y, blocks))
    if spec.startswith("h_score") and n < dim:
        assert slopes is None
        return
    found = summed(slopes.numpy(), sizes)
    close = 1e-6 if spec.startswith("h_score") else 0.1
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(expected), rel=close)


@pytest.mark.parametrize(("n", "dim"), [(90, 40), (60, 90), (480, 10)])
@pytest.mark.parametrize(("c", "centred"), [(None, False), (None, True), (1, True)])
def test_blocks_take_from_a_determinant_what_it_is_less_without_them(n, dim, c, centred):
    """Exactly, whether blocks have kept their rows or have more than there are dimensions."""
    x, y = draw(np.random.default_rng(25), n, dim=dim)
    x *= np.sqrt(4.0 / np.random.default_rng(0).chisquare(6, n))[:, None]
    y[y == 2] = 1
    y[:1] = 2  # a class that is gone without one of the blocks
    blocks = blocks_of(y)

    def logdet(kept):
        chosen, own = kept if c is None else kept & (y == c), np.zeros(n, int)
        own = y if centred else own
        parts = [x[chosen & (own == k)] for k in np.unique(own[chosen])]
        scatter = sum((p - p.mean(axis=0)).T @ (p - p.mean(axis=0)) for p in parts)
        return np.linalg.slogdet(np.eye(dim) + 0.3 * scatter)[1]

    whole, found, changed = influence_of(x, y, blocks).logdet1p(0.3, c, centred=centred)
    assert whole == pytest.approx(logdet(blocks >= 0), rel=1e-9)
    for b in range(_BLOCKS):
        share = (blocks == b)[slice(None) if c is None else y == c].mean()
        lost = whole - logdet(blocks != b)
        assert float(found[b]) == pytest.approx(lost * (1 - share), rel=2e-4)
    up, down = (
        influence_of(x, y, blocks).logdet1p(s, c, centred=centred)[0] for s in (0.301, 0.299)
    )
    assert changed == pytest.approx((up - down) / np.log(0.301 / 0.299), rel=1e-3)


@pytest.mark.parametrize("factor", [1e2, 1e4, 1e6])
@pytest.mark.parametrize(("n", "dim"), [(90, 40), (60, 90), (210, 60)])
def test_errors_of_uneven_features_are_those_of_leaving_out(n, dim, factor):
    """Some features far above the distortion cost leverages their digits, but no error its size."""
    x, y = draw(np.random.default_rng(15), n, dim=dim)
    x[:, ::7] *= factor
    blocks, metric = blocks_of(y), tm.get_metric("transrate")
    plain = float(metric(moments_of(x, y)))
    left = [float(metric(moments_of(x[blocks != b], y[blocks != b]))) for b in range(_BLOCKS)]
    sizes = np.bincount(blocks)
    expected = summed((plain - np.array(left)) * (1 - sizes / n), sizes)
    [record] = tm.score(x, y, "transrate", intervals=True).records
    assert record["stderr"] == pytest.approx(np.linalg.norm(expected), rel=0.2)


def hard_case(name):
    x, y = draw(np.random.default_rng(15), 90, dim=40)
    if name.startswith("1e"):
        x[:, ::7] *= float(name)
    if name == "wide":
        x = np.c_[x, x**2, x**3]
    if name == "low rank":
        x = x[:, :12] @ np.random.default_rng(16).standard_normal((12, 40))
    if name == "a class vanishes":
        y[0] = 0
        y = y + (np.arange(90) > 0)
    return x, y


@pytest.mark.parametrize("case", ["1", "1e2", "1e4", "1e6", "wide", "low rank", "a class vanishes"])
@pytest.mark.parametrize("spec", LEFT_OUT)
def test_errors_are_those_of_scoring_what_is_left(spec, case):
    (x, y), metric = hard_case(case), tm.get_metric(spec)
    blocks = Labels.of(y, "classification", y.max() + 1).places % _BLOCKS
    parts = [metric.parts, "classification"]

    def built(chosen):
        return build_statistic("moments", *parts, x[chosen], y[chosen], y.max() + 1)

    with quiet():
        left = np.array([float(metric(built(blocks != b))) for b in range(_BLOCKS)])
        plain, sizes = float(metric(built(blocks >= 0))), np.bincount(blocks)
        slopes = metric.slopes(Influence.of([built(blocks == b) for b in range(_BLOCKS)]))
    if slopes is None:
        assert (spec, case) == ("gbc(covariance=full)", "wide")
        return
    moved = plain * np.log(plain / left) if metric.relative else plain - left
    expected = summed(moved * (1 - sizes / len(y)), sizes)
    apart = np.linalg.norm(summed(slopes.numpy(), sizes) - expected)
    # A class that is gone and features that are not there act on one another.
    close = LEFT_OUT[spec] + 0.06 * (spec == "label_rate") * (case == "a class vanishes")
    assert apart <= close * np.linalg.norm(expected)


@pytest.mark.parametrize(("n", "dim"), [(600, 9), (150, 30), (90, 40), (60, 90)])
@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("factor", [1.0, 1e4])
def test_errors_of_regressions_are_those_of_scoring_what_is_left(n, dim, rank, factor):
    rng = np.random.default_rng(19)
    x, metric = rng.standard_normal((n, dim)) + 3.0, METRICS["logme"]
    x[:, ::7] *= factor
    if rank:
        x[:, rank:] = x[:, :rank] @ rng.standard_normal((rank, dim - rank))
    t = x[:, :2] / x[:, :2].std(axis=0) + rng.standard_normal((n, 2)) + [5.0, 0.0]
    plain = dataclasses.replace(metric, derivative=None)
    pieces = [tm.TargetMoments.from_batch(x[b::9], t[b::9]) for b in range(9)]
    assert metric.slopes(Influence.of(pieces)) is not None
    found, expected = (tm.score(x, t, [m], intervals=True).records[0] for m in (metric, plain))
    assert found["stderr"] == pytest.approx(expected["stderr"], rel=0.12)
    assert np.corrcoef(found["deviations"], expected["deviations"])[0, 1] > 0.98


@pytest.mark.parametrize(
    "spec",
    [
        "nce",
        "soft_nce",
        "leep",
        "pactran_dirichlet",
        "pactran_gamma",
        "pactran_gamma(alpha=1e-4)",  # whose weights underflow
    ],
)
@pytest.mark.parametrize("case", ["even", "a class and a source class vanish", "sharp", "half"])
def test_errors_of_a_source_head_are_those_of_scoring_what_is_left(spec, case):
    x, y = draw(np.random.default_rng(20), 100)
    p = source_of(20.0 * x if case == "sharp" else x)
    if case.startswith("a class"):
        y[0], p[1:, 0] = C, 0.0
        p /= p.sum(axis=1, keepdims=True)
    metric = tm.get_metric(spec)
    p = p.astype(np.float16) if case == "half" else p
    plain = dataclasses.replace(metric, derivative=None)
    found, expected = (tm.score(p, y, [m], intervals=True).records[0] for m in (metric, plain))
    apart = np.subtract(found["deviations"], expected["deviations"])
    assert np.linalg.norm(apart) <= 1e-9 * expected["stderr"]


def test_errors_with_embeddings_and_of_small_scores_are_those_of_scoring_what_is_left():
    (x, y), rng = hard_case("1"), np.random.default_rng(17)
    tables = [rng.standard_normal((C, 2)) for _ in range(2)]
    wide = METRICS["emms"].with_options(embeddings=tables)
    for metric, z in ((wide, x), (METRICS["gbc"], 20.0 * x)):
        plain = dataclasses.replace(metric, derivative=None)
        found, expected = (tm.score(z, y, [m], intervals=True).records[0] for m in (metric, plain))
        assert 0 < expected["stderr"] == pytest.approx(found["stderr"], rel=1e-6)


@pytest.mark.parametrize("n", [60, 240])
def test_rows_of_blocks_that_were_merged_give_what_one_batch_gives(n):
    """Parts of a block, with classes of one example, keep other rows, of the same scatter."""
    x, y = draw(np.random.default_rng(12), n, dim=40)
    blocks = blocks_of(y)
    pieces = [moments_of(x[blocks == b], y[blocks == b]) for b in range(_BLOCKS)]
    apart = [
        functools.reduce(operator.add, [moments_of(x[k : k + 1], y[k : k + 1]) for k in rows])
        for rows in map(np.flatnonzero, (blocks == b for b in range(_BLOCKS)))
    ]
    apart = [dataclasses.replace(one, class_scatter=p.class_scatter)
             for one, p in zip(apart, pieces, strict=True)]  # fmt: skip
    for spec in ("h_score(shrinkage=0.3)", "logme", "emms", "label_rate", "lfc"):
        metric = tm.get_metric(spec)
        one, other = (metric.slopes(Influence.of(b)).numpy() for b in (pieces, apart))
        assert other == pytest.approx(one, rel=1e-6, abs=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("failure", [np.linalg.LinAlgError, torch.linalg.LinAlgError])
def test_what_has_no_derivative_here_gets_the_errors_of_the_jackknife(failure):
    def fails(influence, **options):
        raise failure("Singular matrix")

    x, y = draw(np.random.default_rng(21))
    metrics = [dataclasses.replace(METRICS["lfc"], derivative=d) for d in (fails, None)]
    with_failure, plain = (
        tm.score(x, y, [m.with_options(center=True)], intervals=True).records[0] for m in metrics
    )
    assert with_failure["stderr"] == pytest.approx(plain["stderr"], rel=1e-9)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("n", [60, 240])
def test_rows_about_the_mean_of_all_are_the_examples(n, merged):
    """In any order within a class, and turned there where a block is of several batches."""
    x, y = draw(np.random.default_rng(22), n, dim=100)
    x += 5.0
    cut = [np.arange(b, n, 6) for b in range(6)]
    blocks = [
        moments_of(x[rows[:3]], y[rows[:3]]) + moments_of(x[rows[3:]], y[rows[3:]])
        if merged
        else moments_of(x[rows], y[rows])
        for rows in cut
    ]
    influence = Influence.of(blocks)
    rows, apart = influence.rows, x - x.mean(axis=0)
    assert rows.plain != merged
    for b, own in enumerate(cut):
        for kind, unit, close in ((np.float64, 1.0, 1e-10), (np.float32, 0.25, 1e-4)):
            found = rows.filled(b, kind, unit)
            expected = unit**2 * apart[own].T @ apart[own]
            assert found.dtype == kind
            assert np.allclose(found.T @ found, expected, rtol=close, atol=close * n)
        ones, _ = rows.labels(b)
        assert np.allclose(ones @ rows.filled(b), apart[own].sum(axis=0))
    every = np.concatenate([rows.filled(b) for b in range(6)])
    columns = torch.from_numpy(np.random.default_rng(0).standard_normal((100, 2)))
    assert np.allclose(rows.times(columns).numpy(), every @ columns.numpy())
    assert np.allclose(rows.summed(rows.times(columns)).numpy(), every.T @ every @ columns.numpy())
    if n < 100:
        assert np.allclose(rows.products().numpy(), every @ every.T)


def test_a_score_at_its_bound_has_no_interval():
    """With more features than examples the plain H-score is C - 1, whatever they are."""
    x, y = draw(np.random.default_rng(13), 60, dim=90)
    with pytest.warns(TransferMetricsWarning, match="no standard error"):
        [record] = tm.score(x, y, "h_score(shrinkage=None)", intervals=True).records
    assert record["value"] == pytest.approx(C - 1)
    assert record["stderr"] is None


def test_metrics_that_share_their_merges_get_what_they_get_alone():
    x, y = draw(np.random.default_rng(8))
    names = ["transrate", "logme", "h_score"]
    together = tm.score(x, y, names, intervals=True).records
    for name, record in zip(names, together, strict=True):
        [alone] = tm.score(x, y, name, intervals=True).records
        assert record["deviations"] == pytest.approx(alone["deviations"], rel=1e-6, abs=1e-12)


def test_metrics_of_examples_get_a_bootstrap_only_when_asked():
    x, y = draw(np.random.default_rng(2))
    plain = tm.score(x, y, "knn", intervals=True).records[0]
    assert plain["intervals"] == "binomial"
    assert plain["stderr"] == pytest.approx(float(tm.knn(x, y).stderr))
    asked = tm.score(x, y, "knn", intervals="bootstrap").records[0]
    assert len(asked["deviations"]) == _BLOCKS
    # Accuracy is nearly a mean of independent hits, so both errors are of one size.
    assert 0.4 < asked["stderr"] / plain["stderr"] < 2.5


def test_examples_that_a_bounded_sample_dropped_do_not_come_back():
    x, y = draw(np.random.default_rng(3))
    whole = tm.FeatureSample.from_batch(x, y, C, limit=100)
    parts = [tm.FeatureSample.from_batch(x[b::4], y[b::4], C, limit=100) for b in range(4)]
    shared = [whole.shared(part) for part in parts]
    rows = {tuple(r) for r in whole.x.numpy()}
    assert sum(s.n for s in shared) == 100
    assert all(tuple(r) in rows for s in shared for r in s.x.numpy())


def test_tokens_of_a_sentence_stay_in_one_block():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((40, 5, 3)), rng.integers(0, 3, (40, 5))
    y[:, -1] = -100
    flat, labels, sentence = as_tokens(x, y)
    known = Labels.of(labels.numpy(), "classification", 3, sentence)
    built = Statistics.of(known.needs_of([METRICS["transrate"]], _BLOCKS), flat, known)
    sizes = [m.n for m in built.blocks("moments")]
    assert sum(sizes) == 160
    assert all(size % 4 == 0 for size in sizes)
    table = tm.score(x, y, "transrate")
    assert table.records[0]["value"] == pytest.approx(float(tm.transrate(flat, labels)))
    assert table.records[0]["n"] == 160


def test_difference_of_two_models_cancels_what_they_share():
    rng = np.random.default_rng(5)
    x, y = draw(rng, shift=1.0)
    records = []
    for name, noise in (("a", 0.0), ("b", 0.05)):
        z = x + noise * rng.standard_normal(x.shape)
        records.append({**tm.score(z, y, "logme", intervals=True).records[0], "model": name})
    table = tm.ScoreTable(records)
    value, stderr = table.difference("a", "b")
    assert value == pytest.approx(records[0]["value"] - records[1]["value"])
    alone = np.hypot(records[0]["stderr"], records[1]["stderr"])
    assert 0 < stderr < 0.3 * alone
    assert table.ranking()["p_best"].sum() == pytest.approx(1.0)
    with pytest.raises(tm.UnknownNameError):
        table.difference("a", "c")


@pytest.mark.parametrize("name", ["knn", "knn(balanced=True)", "ridge_probe"])
def test_difference_of_two_shares_of_the_same_examples_is_paired(name):
    """Over draws of the examples, the difference spreads as its error says, not as two apart."""
    gaps, errors, apart = [], [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = draw(rng, shift=0.9)
        z = x + 0.3 * rng.standard_normal(x.shape)
        rows = [
            {**tm.score(v, y, name, intervals=True).records[0], "model": model}
            for model, v in (("a", x), ("b", z))
        ]
        for row in rows:
            plain = tm.get_metric(name).of_features(x if row["model"] == "a" else z, y)
            assert np.linalg.norm(row["deviations"]) == pytest.approx(plain.stderr, rel=1e-12)
            assert row["stderr"] == plain.stderr
            assert row["intervals"] == "binomial"
        table = tm.ScoreTable(rows)
        assert table.difference("a", "a") == (0.0, 0.0)
        gap, error = table.difference("a", "b")
        gaps.append(gap)
        errors.append(error)
        apart.append(np.hypot(*(row["stderr"] for row in rows)))
        # A binomial error is no Student's t of twenty blocks.
        half = table.ranking().set_index("model").loc["a", "high"] - rows[0]["value"]
        assert half == pytest.approx(1.959964 * rows[0]["stderr"], rel=1e-6)
    spread = np.std(gaps, ddof=1)
    assert 0.7 < np.mean(errors) / spread < 1.4
    assert np.mean(apart) / spread > 1.4


def test_a_model_is_not_apart_from_itself():
    rows = [{"model": m, "metric": "knn", "layer": "fc", "value": 1.0, "stderr": 0.1} for m in "ab"]
    table = tm.ScoreTable(rows)
    assert table.difference("a", "a") == (0.0, 0.0)
    assert table.difference("a", "b") == (0.0, pytest.approx(np.hypot(0.1, 0.1)))


def test_a_relative_error_is_alike_to_both_sides_of_the_logarithm(tmp_path):
    """Of two sums of exponentials the larger is known worse, but that it is larger is known."""
    rng, half = np.random.default_rng(23), t.ppf(0.975, _BLOCKS - 1)
    logs, errors = {"a": -4.0, "b": -0.5}, rng.standard_normal((2, _BLOCKS)) * 0.6 / 20**0.5
    rows = [
        {"model": name, "layer": "fc", "metric": "gbc", "relative": True, "value": -np.exp(log),
         "stderr": np.exp(log) * np.linalg.norm(e), "deviations": (np.exp(log) * e).tolist()}
        for (name, log), e in zip(logs.items(), errors, strict=True)
    ]  # fmt: skip
    tm.ScoreTable(rows).save(tmp_path / "t.csv")
    for table in (tm.ScoreTable(rows), tm.ScoreTable.load(tmp_path / "t.csv")):
        ranking = table.ranking("gbc")
        for row, e in zip(ranking.to_dict("records"), errors, strict=True):
            middle, reach = logs[row["model"]], half * np.linalg.norm(e)
            ends = [-np.exp(middle + reach), -np.exp(middle - reach)]
            assert [row["low"], row["high"]] == pytest.approx(ends, rel=1e-9)
        apart = 3.5 / np.linalg.norm(errors[0] - errors[1])
        assert ranking["p_score"][0] == pytest.approx(norm.cdf(apart), abs=1e-3)
        value, error = table.difference("a", "b")
        assert value == pytest.approx(np.exp(-0.5) - np.exp(-4.0), rel=1e-12)
        # What the difference comes to is what the probability says.
        assert value / error == pytest.approx(apart, rel=1e-9)
    with pytest.raises(InvalidInputError, match="relative error"):
        tm.ScoreTable([{**rows[0], "value": 0.5}])
    zero = tm.ScoreTable([{**rows[0], "value": -0.0, "stderr": None, "deviations": None}, rows[1]])
    assert zero.ranking("gbc")["high"].isna().tolist() == [True, False]


def test_an_uneven_interval_is_told_by_both_ends(tmp_path, capsys):
    row = {"model": "a", "layer": "fc", "metric": "gbc", "relative": True, "higher_is_better": True}
    low, high = -0.2 * np.exp(1.959964 * 0.5), -0.2 * np.exp(-1.959964 * 0.5)
    table = tm.ScoreTable([{**row, "value": -0.2, "stderr": 0.1}])
    ends = f"{low:.3g} to {high:.3g}"
    assert ends == "-0.533 to -0.0751"
    assert ends in str(table)
    assert "±" not in str(table)
    wide = table.wide(intervals=True)
    assert wide.loc[("a", "fc")].to_dict() == pytest.approx(
        {"gbc": -0.2, "low gbc": low, "high gbc": high}, rel=1e-6
    )
    page = Path(table.report(tmp_path / "page.html")).read_text()
    assert "(−0.533 to −0.0751)" in page
    assert "±" not in page.partition("<script")[0]
    x, y = draw(np.random.default_rng(25))
    np.savez(tmp_path / "data.npz", X=x, y=y)
    command = ["score", "--features", str(tmp_path / "data.npz"), "--metrics", "gbc,logme"]
    assert main([*command, "--intervals", "all", "--quiet"]) == 0
    uneven, even = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"gbc\t-\S+\t-\S+ to -\S+", uneven)
    assert re.fullmatch(r"logme\t\S+\t± \S+", even)


def test_an_interval_stays_within_what_a_metric_can_be():
    """Three classes that overlap wholly are minus six, below which no other examples get."""
    row = {"model": "a", "layer": "fc", "metric": "gbc", "relative": True, "stderr": 3.0}
    for classes, least in ((3, -6.0), (None, -5.5 * np.exp(1.959964 * 3 / 5.5))):
        table = tm.ScoreTable([{**row, "value": -5.5, "num_classes": classes}])
        assert table.ranking()["low"][0] == pytest.approx(least, rel=1e-6)


def test_a_metric_of_a_relative_error_is_negative():
    positive = dataclasses.replace(METRICS["lfc"], relative=True)
    with pytest.raises(InvalidInputError, match="relative error, so it must be negative"):
        positive(moments_of(*draw(np.random.default_rng(24))))


def test_probability_of_best_of_independent_normals():
    p = probability_of_best([0.0, 1.0], [1.0, 1.0], [None, None])
    assert p[1] == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.01)
    assert probability_of_best([0.0, 1.0], [1.0, 1.0], [None, None], False)[0] == p[1]
    shared = np.full(20, 5.0)
    assert probability_of_best([0.0, 1.0], [22.4, 22.4], [shared, shared])[1] == 1.0
    assert np.isnan(probability_of_best([0.0, 1.0], [1.0, np.nan], [None, None])).all()


def test_wrong_modes_are_refused():
    with pytest.raises(InvalidInputError, match="intervals"):
        interval_modes("bayes", [])


def test_tables_keep_intervals(tmp_path):
    x, y = draw(np.random.default_rng(6))
    table = tm.score(x, y, ["logme", "knn"], intervals=True)
    for suffix in ("jsonl", "csv"):
        table.save(tmp_path / f"t.{suffix}")
        loaded = tm.ScoreTable.load(tmp_path / f"t.{suffix}")
        assert loaded.records[0]["deviations"] == pytest.approx(table.records[0]["deviations"])
        assert loaded.records[1]["deviations"] is None
        assert loaded.ranking("logme")["high"][0] == pytest.approx(
            table.ranking("logme")["high"][0]
        )


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("nce", {}),
        ("transrate", {}),
        pytest.param("transrate", {"eps": "auto"}, marks=pytest.mark.slow),
        pytest.param("logme", {}, marks=pytest.mark.slow),
        pytest.param("h_score", {}, marks=pytest.mark.slow),
        pytest.param("conditional_coding_rate", {}, marks=pytest.mark.slow),
    ],
)
def test_coverage_of_95_percent_intervals(name, options):
    """Of intervals from fresh data sets, about 95 % hold the mean score over such data sets."""
    metric = METRICS[name].with_options(**options) if options else METRICS[name]
    rng = np.random.default_rng(7)
    values, halves = [], []
    for _ in range(100):
        x, y = draw(rng)
        data = source_of(x) if metric.requires == "source" else x
        table = tm.score(data, y, [metric], intervals=True)
        row = table.ranking().iloc[0]
        values.append(row["score"])
        halves.append(row["high"] - row["score"])
    values, halves = np.array(values), np.array(halves)
    covered = (np.abs(values - values.mean()) <= halves).mean()
    # 100 intervals: two standard errors of a coverage of 0.95 are 0.044.
    assert covered >= 0.90
    # A jackknife errs on the safe side (Efron and Stein 1981), by up to 30 % here.
    assert 0.85 < halves.mean() / (2.093 * values.std(ddof=1)) < 1.45


def test_layers_show_half_of_each_interval(capsys):
    from transfer_metrics.__main__ import main

    task = "sklearn:digits?examples=60"
    argv = ["layers", "--model", "zoo:cnn-mnist", "--task", task, "--quiet", "--intervals"]
    assert main([*argv, "--metrics", "h_score,logme"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["layer", "h_score", "±", "h_score", "logme"]
    table = tm.score_layers(
        "zoo:cnn-mnist", task, ["h_score", "logme"], intervals=True, progress=False
    )
    wide = table.wide(intervals=True)["± h_score"]
    for line, record in zip(lines, [r for r in table if r.metric == "h_score"], strict=True):
        student = t.ppf(0.975, len(record.deviations) - 1)
        half = student * np.linalg.norm(record.deviations)
        assert float(line.split()[2]) == pytest.approx(half, rel=2e-3)
        assert wide["zoo:cnn-mnist", record.layer] == pytest.approx(half, rel=1e-3)
    # Printed, the table has a line for every layer too, the best first.
    assert str(table).splitlines()[1].split()[:5] == ["#", "model", "h_score", "±", "95"]
    assert sum("zoo:cnn-mnist" in line for line in str(table).splitlines()) == len(lines)


def test_records_say_what_their_errors_are():
    x, y = np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3
    with pytest.warns(TransferMetricsWarning, match=r"lda.*intervals='bootstrap'"):
        table = tm.score(x, y, ["lda", "knn", "logme"], intervals=True)
    found = {record["metric"]: record["intervals"] for record in table.records}
    assert found == {"lda": None, "knn": "binomial", "logme": "jackknife"}


@pytest.mark.parametrize("mode", [True, "all"])
def test_rankings_say_what_their_errors_are_too(tmp_path, mode):
    images = np.random.default_rng(0).random((400, 1, 28, 28), dtype=np.float32)
    task = tm.load_task((images, np.arange(400) % 3))
    metrics, options = ["knn", "lda", "logme"], {"intervals": mode, "progress": False}
    ranked = tm.rank_models(["zoo:cnn-mnist"], task, metrics, cache_dir=tmp_path, **options)
    again = tm.rank_models(["zoo:cnn-mnist"], task, metrics, cache_dir=tmp_path, **options)
    layers = tm.score_layers("zoo:cnn-mnist", task, metrics, **options)
    expected = {"knn": "binomial", "lda": None, "logme": "jackknife" if mode == "all" else None}
    for table in (ranked, again, layers):
        assert {(r.metric, r.intervals) for r in table} == set(expected.items())
        for r in table:
            assert (r.stderr is None) == (r.intervals is None) or mode is True


def test_the_benchmark_measures_coverage_and_width():
    [known, none] = measure(Size(60, 8, 3), "even", ["lfc", "h_score(shrinkage=1.0)"], 30)
    assert 0.8 <= known.coverage <= 1.0
    assert 0.6 < known.width < 1.8
    assert np.isnan(none.coverage)
