"""Soft NCE, LEEP in blocks, and what a statistic of source predictions accepts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.joint import _BLOCK


def probabilities(n=80, z=6, seed=0, sharpness=2.0):
    logits = np.random.default_rng(seed).standard_normal((n, z)) * sharpness
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_soft_nce_is_the_conditional_entropy_of_soft_counts():
    p, y = probabilities(), np.arange(80) % 3
    expected = 0.0
    for label in range(3):
        for z in range(6):
            both = sum(p[i, z] for i in range(80) if y[i] == label) / 80
            expected += both * np.log(both / p[:, z].mean())
    assert tm.soft_nce(p, y) == pytest.approx(expected, abs=1e-12)


def test_soft_nce_of_certain_sources_is_nce():
    y = np.arange(80) % 3
    p = np.eye(4)[np.random.default_rng(0).integers(0, 4, 80)]
    assert tm.soft_nce(p, y) == pytest.approx(tm.nce(p, y), abs=1e-12)
    assert tm.soft_nce(np.eye(3)[y], y) == 0.0
    padded = np.hstack([p, np.zeros((80, 2))])
    assert tm.soft_nce(padded, y) == pytest.approx(tm.soft_nce(p, y), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 5), st.floats(0.1, 5.0))
def test_soft_nce_is_at_most_leep(seed, classes, sharpness):
    p, y = probabilities(seed=seed, sharpness=sharpness), np.arange(80) % classes
    assert tm.soft_nce(p, y) <= tm.leep(p, y) + 1e-12


@pytest.mark.parametrize("n", [9, _BLOCK // 6, 2 * (_BLOCK // 6) + 3])
def test_leep_does_not_depend_on_its_blocks(n):
    p, y = probabilities(n), np.arange(n) % 7
    joint = np.zeros((7, 6))
    np.add.at(joint, y, p)
    expected = np.log(((joint / joint.sum(axis=0))[y] * p).sum(axis=1)).mean()
    assert tm.leep(p, y) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor, lambda a: a.tolist()])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_source_joint_leaves_its_input_alone(make, dtype):
    p = (0.995 * probabilities()).astype(dtype)
    given = make(p)
    kept = np.array(p)
    joint = tm.SourceJoint.from_batch(given, np.arange(80) % 3)
    np.testing.assert_array_equal(np.array(given, dtype=dtype), kept)
    np.testing.assert_allclose(joint.probabilities.sum(dim=1), 1.0, rtol=1e-14)
    assert joint.probabilities.dtype == torch.float64


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1.5, -0.5], "softmax"),
        ([0.7, 0.7], "softmax"),
        ([0.0, 0.0], "softmax"),
        ([np.nan, 0.5], "row 1"),
        ([np.inf, 0.0], "row 1"),
        ([np.inf, -np.inf], "row 1"),
    ],
)
def test_rows_that_are_no_probabilities_are_refused(row, message):
    with pytest.raises(InvalidInputError, match=message):
        tm.SourceJoint.from_batch([[0.5, 0.5], row, [1.0, 0.0]], [0, 1, 0])


def test_of_equally_probable_source_classes_nce_takes_the_first():
    p = np.array([[0.5, 0.5], [0.0, 1.0], [1.0, 0.0]])
    y = [0, 1, 0]
    # The tie goes to the class of the third example, and in the other order to that of the second.
    assert tm.nce(p, y) == 0.0
    assert tm.nce(p[:, ::-1], y) == pytest.approx(-2 / 3 * np.log(2))
    for name in ("soft_nce", "leep"):
        metric = getattr(tm, name)
        assert metric(p[:, ::-1], y) == pytest.approx(metric(p, y), abs=1e-12)
