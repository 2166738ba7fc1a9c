"""Statistics of some columns, cut out of those of all, against building them from the columns."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.statistics import (
    ClassMoments,
    ClassRows,
    FeatureSample,
    Scatter,
    TargetMoments,
)
from transfer_metrics.statistics.statistics import Labels, Statistics

# Examples and features such that the whole is kept as a matrix, or as rows.
SHAPES = [(60, 8), (12, 40), (8, 8)]


def data(n, d, seed=0):
    rng = np.random.default_rng([n, d, seed])
    return rng.standard_normal((n, d)) + 10.0, rng.integers(0, 3, n)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SHAPES), st.integers(1, 8), st.integers(0, 99))
def test_moments_of_columns_are_those_of_the_columns(shape, k, seed):
    x, y = data(*shape, seed)
    columns = np.random.default_rng(seed).permutation(shape[1])[:k]
    cut = ClassMoments.from_batch(x, y, 3).select(columns)
    built = ClassMoments.from_batch(x[:, columns], y, 3, parts={"class"})
    assert torch.equal(cut.counts, built.counts)
    close(cut.means, built.means)
    close(cut.within.matrix(), built.within.matrix())
    close(cut.total.matrix(), built.total.matrix())
    for c in range(3):
        close(cut.scatter_of(c).matrix(), built.scatter_of(c).matrix())


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_of_cut_moments_are_those_of_the_columns(shape):
    x, y = data(*shape)
    columns = [5, 1, 2]
    cut = ClassMoments.from_batch(x, y, 3).select(columns)
    assert tm.transrate(cut) == pytest.approx(float(tm.transrate(x[:, columns], y)), abs=1e-9)


def test_a_scatter_keeps_the_smaller_side_after_cutting():
    rows = torch.randn(5, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scatter = Scatter.of_rows(rows)
    assert not scatter.dense
    assert not scatter.select(range(6)).dense
    assert scatter.select([0, 1, 2]).dense
    close(scatter.select([3, 1]).matrix(), (rows.T @ rows)[[3, 1]][:, [3, 1]])


def test_class_scatter_that_is_read_on_demand_is_cut_too():
    x, y = data(40, 6)
    plain = ClassMoments.from_batch(x, y, 3)
    lazy = ClassRows(x.__getitem__, y, plain.means)
    cut = ClassMoments(plain.counts, plain.means, plain.within, lazy).select([4, 0])
    for c in range(3):
        close(cut.scatter_of(c).matrix(), plain.select([4, 0]).scatter_of(c).matrix())


@pytest.mark.parametrize("shape", SHAPES)
def test_target_moments_of_columns(shape):
    x, _ = data(*shape)
    t = np.random.default_rng(1).standard_normal((shape[0], 2))
    cut = TargetMoments.from_batch(x, t).select([3, 0])
    built = TargetMoments.from_batch(x[:, [3, 0]], t)
    close(cut.total.matrix(), built.total.matrix())
    close(cut.cross, built.cross)
    close(cut.spread, built.spread)
    assert tm.logme(cut) == pytest.approx(float(tm.logme(built)), abs=1e-9)


def test_samples_of_columns_are_those_of_the_columns():
    x, y = data(30, 6)
    cut = FeatureSample.from_batch(x, y, 3).select([5, 2])
    built = FeatureSample.from_batch(x[:, [5, 2]], y, 3)
    assert torch.equal(cut.x, built.x)
    # Keys are those of the columns that are left, so methods that depend on the order agree.
    assert torch.equal(cut.ordered.x, built.ordered.x)


def test_a_bounded_sample_keeps_its_examples():
    x, y = data(30, 6)
    whole = FeatureSample.from_batch(x, y, 3, limit=10)
    cut = whole.select([5, 2])
    assert torch.equal(cut.x, whole.x[:, [5, 2]])
    assert (cut.n, cut.seen) == (10, 30)


def test_fourth_moments_are_left_out_and_a_metric_that_needs_them_says_so():
    x, y = data(60, 8)
    moments = ClassMoments.from_batch(x, y, 3)
    assert moments.fourth is not None
    assert moments.select([0, 1]).fourth is None
    with pytest.raises(InvalidInputError, match="fourth"):
        tm.h_score(moments.select([0, 1]))


@pytest.mark.parametrize("columns", [[8], [-1], [], [0.5], [[0, 1]], [True, False]])
def test_columns_that_do_not_exist_are_refused(columns):
    x, y = data(60, 8)
    with pytest.raises(InvalidInputError, match="columns must"):
        ClassMoments.from_batch(x, y, 3).select(columns)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64])
@pytest.mark.parametrize("laid", [np.ascontiguousarray, np.asfortranarray])
def test_a_sample_is_chosen_by_numbers_in_whatever_memory_they_are(kind, laid):
    x, y = data(400, 5)
    x = (10 * x).astype(kind)
    hashes = [hashlib.blake2b(row.astype(float).tobytes(), digest_size=8).digest() for row in x]
    # The last two bytes are of the label too, and decide between equal rows alone.
    least = sorted(digest[:6] for digest in hashes)[:60]
    sample = FeatureSample.from_batch(laid(x), y, 3, limit=60)
    assert [int(key).to_bytes(8)[:6] for key in sample.keys] == least
    rows = {tuple(row): label for row, label in zip(x.astype(float), y, strict=True)}
    assert sample.x.dtype == torch.float64
    assert [rows[tuple(row)] for row in sample.x.tolist()] == sample.y.tolist()


def test_moments_of_a_sample_keep_what_metrics_of_examples_read():
    x, y = data(40, 5)
    readers = [METRICS[name] for name in ("h_score", "transrate", "ridge_probe")]
    labels = Labels.of(y, "classification", 3, None, readers)
    built = Statistics.of(labels.needs_of(readers), x, labels)
    (moments,), (sample,) = built.blocks("moments"), built.blocks("examples")
    assert moments.fourth is not None
    assert moments.class_scatter is not None
    assert sample.moments.fourth is None
    assert sample.moments.class_scatter is None
