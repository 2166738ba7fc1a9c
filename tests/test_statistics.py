"""Statistics against plain definitions, and their laws of merging."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ledoit_wolf_shrinkage

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.metrics.h_score import _ledoit_wolf
from transfer_metrics.statistics import (
    ClassMoments,
    FeatureSample,
    Scatter,
    SourceJoint,
    TargetMoments,
)
from transfer_metrics.statistics.statistics import Labels, Statistics


def data(n=60, d=8, c=4, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * rng.uniform(0.5, 2, d) + offset, rng.integers(0, c, n)


def plain_scatter(x):
    centred = x - x.mean(axis=0)
    return centred.T @ centred


def assert_same(a: ClassMoments, b: ClassMoments, rtol=1e-10):
    assert torch.equal(a.counts, b.counts)
    for left, right in (
        (a.means, b.means),
        (a.within.matrix(), b.within.matrix()),
        (a.total.matrix(), b.total.matrix()),
        (a.fourth.cubic, b.fourth.cubic),
        (torch.tensor(a.fourth.quartic), torch.tensor(b.fourth.quartic)),
        *((a.scatter_of(c).matrix(), b.scatter_of(c).matrix()) for c in range(a.num_classes)),
    ):
        scale = float(right.abs().max())
        torch.testing.assert_close(left, right, rtol=rtol, atol=rtol * max(scale, 1.0))


@pytest.mark.parametrize(("n", "d"), [(60, 8), (12, 40), (8, 8), (1, 3)])
def test_moments_are_the_plain_definitions(n, d):
    x, y = data(n, d)
    moments = ClassMoments.from_batch(x, y, 4)
    np.testing.assert_allclose(moments.total.matrix(), plain_scatter(x), atol=1e-10)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), atol=1e-12)
    within = np.zeros((d, d))
    for c in range(4):
        rows = x[y == c]
        if len(rows):
            np.testing.assert_allclose(moments.means[c], rows.mean(axis=0), atol=1e-12)
            np.testing.assert_allclose(
                moments.scatter_of(c).matrix(), plain_scatter(rows), atol=1e-10
            )
            within += plain_scatter(rows)
    np.testing.assert_allclose(moments.within.matrix(), within, atol=1e-10)
    norms = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    assert moments.fourth.quartic == pytest.approx((norms**2).sum(), rel=1e-12, abs=1e-20)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 50),
    d=st.integers(1, 30),
    cuts=st.lists(st.integers(0, 50), max_size=6),
    seed=st.integers(0, 1000),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_moments_do_not_depend_on_batches_or_order(n, d, cuts, seed, offset):
    x, y = data(n, d, seed=seed, offset=offset)
    whole = ClassMoments.from_batch(x, y, 4)
    order = np.random.default_rng(seed + 1).permutation(n)
    bounds = sorted({0, n, *(cut for cut in cuts if cut < n)})
    parts = [
        ClassMoments.from_batch(x[order[a:b]], y[order[a:b]], 4)
        for a, b in itertools.pairwise(bounds)
    ]
    forward = parts[0]
    for part in parts[1:]:
        forward = forward + part
    backward = parts[-1]
    for part in reversed(parts[:-1]):
        backward = part + backward
    # An offset of 1e4 leaves about eleven digits of the centred values in the input itself.
    rtol = 1e-9 if not offset else 1e-6
    assert_same(forward, whole, rtol)
    assert_same(backward, whole, rtol)


def test_rank_deficient_and_wide_data_never_build_the_large_side():
    x, y = data(20, 500)
    moments = ClassMoments.from_batch(x, y, 4)
    assert not moments.total.dense
    assert moments.total.data.shape[0] < 500
    assert not moments.within.dense


def test_merging_different_shapes_is_refused():
    x, y = data()
    with pytest.raises(InvalidInputError, match="cannot merge moments"):
        ClassMoments.from_batch(x, y, 4) + ClassMoments.from_batch(x[:, :3], y, 4)
    with pytest.raises(InvalidInputError, match="cannot merge moments"):
        ClassMoments.from_batch(x, y, 4) + ClassMoments.from_batch(x, y, 5)


def test_per_class_scatter_that_was_not_kept_is_asked_for():
    moments = ClassMoments.from_batch(*data(), 4, parts=())
    with pytest.raises(InvalidInputError, match="parts="):
        moments.scatter_of(0)
    with pytest.raises(InvalidInputError, match="fourth"):
        _ledoit_wolf(moments)


@pytest.mark.parametrize(("n", "d"), [(60, 8), (12, 40), (200, 3)])
def test_ledoit_wolf_is_scikit_learns(n, d):
    x, y = data(n, d, offset=3.0)
    moments = ClassMoments.from_batch(x[:5], y[:5], 4) + ClassMoments.from_batch(x[5:], y[5:], 4)
    assert _ledoit_wolf(moments) == pytest.approx(ledoit_wolf_shrinkage(x), rel=1e-9)


@pytest.mark.parametrize("rows", [3, 30])
def test_scatter_operations_are_those_of_the_matrix(rows):
    f = torch.from_numpy(np.random.default_rng(0).standard_normal((rows, 10)))
    extra = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 10)))
    scatter, matrix = Scatter.of_rows(f), f.T @ f
    assert scatter.dense == (rows >= 10)
    eye = torch.eye(10, dtype=torch.float64)
    for scale in (1e-9, 1.0, 1e6):
        expected = float(torch.linalg.slogdet(eye + scale * matrix).logabsdet)
        assert scatter.logdet1p(scale) == pytest.approx(expected, rel=1e-9, abs=1e-13)
        bordered = float(torch.linalg.slogdet(eye + scale * (matrix + extra.T @ extra))[1])
        more = scatter + Scatter.of_rows(extra)
        assert more.logdet1p(scale) == pytest.approx(bordered, rel=1e-9, abs=1e-13)
    assert scatter.trace() == pytest.approx(float(matrix.trace()))
    assert scatter.square_norm() == pytest.approx(float((matrix**2).sum()))
    values, vectors = scatter.eigh
    torch.testing.assert_close(vectors * values @ vectors.T, matrix)
    # With the eigenvalues at hand the other quantities come from them.
    assert scatter.logdet1p(1.0) == pytest.approx(
        float(torch.linalg.slogdet(eye + matrix).logabsdet), rel=1e-9
    )
    expected = float(torch.trace(f[:2] @ torch.linalg.inv(matrix + 0.3 * eye) @ f[:2].T))
    assert scatter.inverse_quadratic(f[:2], 0.3) == pytest.approx(expected)
    scatter = Scatter.of_rows(f)
    assert len(values) == min(rows, 10) == len(scatter.eigenvalues)
    expected = float(torch.trace(f[:2] @ torch.linalg.inv(matrix + 0.3 * eye) @ f[:2].T))
    assert scatter.inverse_quadratic(f[:2], 0.3) == pytest.approx(expected)


def test_gram_on_the_small_side_of_a_tiny_logdet_keeps_its_digits():
    scatter = Scatter.of_rows(torch.ones(1, 4, dtype=torch.float64))
    assert scatter.logdet1p(1e-14) == pytest.approx(4e-14, rel=1e-12)


def test_sample_is_bounded_and_independent_of_order():
    x, y = data(200, 3)
    order = np.random.default_rng(5).permutation(200)
    whole = FeatureSample.from_batch(x, y, 4, limit=50)
    parts = [
        FeatureSample.from_batch(x[order[a : a + 40]], y[order[a : a + 40]], 4, limit=50)
        for a in range(0, 200, 40)
    ]
    merged = parts[3] + parts[0] + parts[4] + parts[1] + parts[2]
    assert torch.equal(whole.x, merged.x)
    assert torch.equal(whole.y, merged.y)
    assert (merged.n, merged.seen) == (50, 200)
    rows = {tuple(r) for r in x}
    assert all(tuple(r) in rows for r in merged.x.numpy())


def test_sample_is_uniform():
    x = np.arange(4000.0)[:, None]
    sample = FeatureSample.from_batch(x, np.zeros(4000, int), 1, limit=1000)
    # Mean of 1000 draws from 0..3999 without replacement: standard error 31.6.
    assert abs(float(sample.x.mean()) - 1999.5) < 4 * 31.6


def test_target_moments_merge():
    x, _ = data(50, 4)
    t = x @ np.array([1.0, -2.0, 0.5, 0.0]) + 3
    whole = TargetMoments.from_batch(x, t)
    parts = TargetMoments.from_batch(x[:7], t[:7]) + TargetMoments.from_batch(x[7:], t[7:])
    torch.testing.assert_close(whole.joint.total.matrix(), parts.joint.total.matrix())
    assert (parts.n, parts.dim) == (50, 4)
    with pytest.raises(InvalidInputError, match="targets"):
        whole + TargetMoments.from_batch(x, np.stack([t, t], axis=1))


def test_source_joint_counts():
    p = [[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]]
    joint = SourceJoint.from_batch(p[:2], [0, 1], 2) + SourceJoint.from_batch(p[2:], [1], 2)
    np.testing.assert_allclose(joint.soft, [[0.7, 0.3], [0.5, 1.5]])
    np.testing.assert_allclose(joint.hard, [[1, 0], [0, 2]])
    with pytest.raises(InvalidInputError, match="softmax"):
        SourceJoint.from_batch([[2.0, -1.0]], [0])
    with pytest.raises(InvalidInputError, match="cannot merge"):
        joint + SourceJoint.from_batch([[0.5, 0.2, 0.3]], [0], 2)


@pytest.mark.parametrize(
    ("x", "y", "classes", "message"),
    [
        (np.ones((2, 2, 2)), [0, 1], None, r"shape \(N, D\)"),
        (np.ones((0, 2)), [], None, "empty"),
        (np.ones((3, 2)), [0, 1], None, r"expected shape \(3,\)"),
        (np.ones((2, 2)), [0, 5], 2, r"must lie in 0\.\.1"),
        (np.ones((2, 2)), [0, -1], 2, r"must lie in 0\.\.1"),
        (np.array([[1.0], [np.nan]]), [0, 1], None, "first is row 1"),
        (np.array([[np.inf], [1.0]]), [0, 1], None, "first is row 0"),
        (np.ones((2, 2)), [0.5, 1.0], None, "continuous"),
        (np.ones((2, 2)), [np.nan, 1.0], None, "missing labels"),
        (np.ones((2, 2)), ["a", None], None, "missing labels"),
        (np.ones((2, 2)), ["a", "b"], 2, "integers"),
        ([["a", "b"]], [0], None, "numeric"),
        (np.ones((2, 2)) * 1j, [0, 1], None, "complex"),
    ],
)
def test_bad_input_is_named(x, y, classes, message):
    with pytest.raises(InvalidInputError, match=message):
        ClassMoments.from_batch(x, y, classes)


def test_labels_of_any_kind_are_numbered_in_sorted_order():
    x, _ = data(4, 2)
    by_name = ClassMoments.from_batch(x, np.array(["b", "a", "b", "c"]))
    by_number = ClassMoments.from_batch(x, np.array([7, -3, 7, 100]))
    assert torch.equal(by_name.means, by_number.means)
    assert by_name.counts.tolist() == [1, 2, 1]


def statistics_of_every_kind():
    x, y = data(30, 5)
    wide, _ = data(30, 90)
    return {
        "moments": ClassMoments.from_batch(x, y, 5),
        "wide": ClassMoments.from_batch(wide, y, 4),
        "pooled": ClassMoments.from_batch(x, y, 4, parts=()),
        "targets": TargetMoments.from_batch(x, x[:, 0]),
        "sample": FeatureSample.from_batch(x, y, 4, limit=7),
        "source": SourceJoint.from_batch(np.full((30, 2), 0.5), y, 4),
    }


@pytest.mark.parametrize("kind", statistics_of_every_kind())
def test_saved_statistics_come_back_and_still_merge(kind, tmp_path):
    statistic = statistics_of_every_kind()[kind]
    path = tmp_path / "deep" / "statistic.safetensors"
    statistic.save(path)
    loaded = type(statistic).load(path)
    (loaded + statistic).save(tmp_path / "a.safetensors")
    (statistic + statistic).save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_files_that_hold_something_else_are_refused(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(InvalidInputError, match="no statistic"):
        ClassMoments.load(path)
    statistics_of_every_kind()["sample"].save(path)
    with pytest.raises(InvalidInputError, match="FeatureSample, not a ClassMoments"):
        ClassMoments.load(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptStoreError, match="build it again"):
        FeatureSample.load(path)
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(CorruptStoreError, match="format"):
        FeatureSample.load(path)


# --- all that the metrics of a layer need ---------------------------------------------------------

READERS = [METRICS[name] for name in ("transrate", "gbc", "knn", "logme", "ridge_probe")]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(8, 60),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    blocks=st.sampled_from([0, 3, 20]),
    seed=st.integers(0, 99),
)
def test_statistics_of_parts_add_up_to_the_plain_definitions(n, cuts, blocks, seed):
    x, y = data(n, 5, 3, seed)
    y[:3] = range(3)
    labels = Labels.of(y, "classification", 3)
    needs = labels.needs_of(READERS, blocks)
    ends = sorted({0, n, *(c for c in cuts if c < n)})
    batches = [{"layer": x[a:b]} for a, b in itertools.pairwise(ends)]
    found = Statistics.of_batches(batches, {"layer": needs}, labels)["layer"]
    whole = {key: statistic for key, (statistic, _) in found.whole().items()}
    moments, sample = whole["moments"], whole["examples"]
    np.testing.assert_allclose(moments.total.matrix(), plain_scatter(x), atol=1e-9)
    for c in range(3):
        np.testing.assert_allclose(
            moments.scatter_of(c).matrix(), plain_scatter(x[y == c]), atol=1e-9
        )
    assert sorted(map(tuple, sample.x.tolist())) == sorted(map(tuple, x.tolist()))
    assert sample.moments is moments
    parts = found.blocks("moments")
    assert sum(part.n for part in parts) == n
    assert len(parts) <= max(blocks, 1)


def test_statistics_come_back_from_a_file_and_say_why_they_were_refused(tmp_path):
    x, y = data(30, 4, 3)
    labels = Labels.of(y, "classification", 3)
    needs = labels.needs_of(READERS, 3)
    built = Statistics.of(needs, x, labels)
    built.save(tmp_path / "s.safetensors")
    again = Statistics.load(tmp_path / "s.safetensors")
    for key, (statistic, _) in again.whole().items():
        ours = built.whole()[key][0]
        assert METRICS["knn" if key == "examples" else "logme"](statistic) == pytest.approx(
            METRICS["knn" if key == "examples" else "logme"](ours), rel=1e-12
        )
    x[3, 2] = np.nan
    broken = Statistics.of(needs, x, labels)
    for mixed in (broken + built, built + broken):
        assert mixed.whole() == {}
        assert "NaN" in mixed.reason("moments")


def test_targets_are_read_as_they_are_and_as_bins():
    x, _ = data(40, 4)
    labels = Labels.of(x[:, 0] + 1.0, "regression", 0, readers=[METRICS["transrate"]])
    plain, binned = labels.needs_of([METRICS["logme"], METRICS["transrate"]])
    assert (plain.kind, binned.kind) == ("regression", "classification")
    whole = Statistics.of([plain, binned], x, labels).whole()
    classes = whole["moments of bins"][0]
    assert classes.counts.tolist() == np.bincount(labels.bins).tolist()
    assert isinstance(whole["moments"][0], TargetMoments)
    several = Labels.of(x[:, :2] + 0.5, "regression", 0, readers=[METRICS["transrate"]])
    assert several.unbinned
    assert several.needs_of([METRICS["transrate"]]) == []
    with pytest.raises(InvalidInputError, match="binning"):
        several.seen_by(METRICS["transrate"])


def held_bytes(value):
    """Bytes of all floating point tensors in a statistic."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size() if value.is_floating_point() else 0
    if isinstance(value, (tuple, list)):
        return sum(map(held_bytes, value))
    if hasattr(value, "__dataclass_fields__"):
        return sum(held_bytes(getattr(value, name)) for name in value.__dataclass_fields__)
    return 0


@pytest.mark.parametrize("blocks", [0, 4])
@pytest.mark.parametrize(("n", "d"), [(400, 20), (60, 90)])
def test_no_more_is_held_than_was_foreseen(n, d, blocks):
    x, y = data(n, d, 4)
    labels = Labels.of(y, "classification", 4)
    [needs] = labels.needs_of(READERS, blocks)
    halves = [{"layer": x[: n // 2]}, {"layer": x[n // 2 :]}]
    built = Statistics.of_batches(halves, {"layer": [needs]}, labels)["layer"]
    # Blocks are of like sizes only, so a little more may fall into one of them.
    counts = np.bincount(y, minlength=4)
    slack = 1.0 if not blocks else 1.35
    assert held_bytes(built.held) <= slack * needs.bytes(d, counts)
    assert needs.bytes(d, counts) <= 6 * held_bytes(built.held)


def test_a_matrix_that_is_not_positive_is_refused_where_it_is_factored():
    turned = Scatter(-torch.eye(3, dtype=torch.float64), dense=True)
    row = torch.ones(1, 3, dtype=torch.float64)
    with pytest.raises(InvalidInputError, match="not positive"):
        turned.inverse_quadratic(row, 0.5)
    held = Scatter(4.0 * torch.eye(3, dtype=torch.float64), dense=True)
    assert held.inverse_quadratic(row, 1.0) == pytest.approx(0.6)
    assert held.logdet1p(1.0) == pytest.approx(3 * np.log(5.0))
    # Factors are made in place, but not in place of the scatter.
    assert torch.equal(held.data, 4.0 * torch.eye(3, dtype=torch.float64))


def test_constants_vary_by_nothing_in_a_large_class_among_many_small_ones():
    labels = np.concatenate([np.repeat(np.arange(300), 5), np.full(2900, 300)])
    x = np.stack([np.full(4400, 0.1), np.full(4400, 1e6 / 3), np.sin(np.arange(4400.0))], axis=1)
    total = ClassMoments.from_batch(x, labels).total
    assert total.matrix().diagonal()[:2].tolist() == [0.0, 0.0]
    assert len(total.eigenvalues) == 1
