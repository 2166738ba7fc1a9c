"""N-LEEP against scikit-learn's mixture from the same start, and its behaviour on hard features."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.source_head import _clusters, _partition


@pytest.fixture
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:600], y[:600]


def slow_leep(p, y):
    n, size = len(p), y.max() + 1
    joint = np.array([p[y == c].sum(axis=0) for c in range(size)]) / n
    conditional = joint / np.maximum(joint.sum(axis=0), 1e-300)
    return np.mean([math.log(sum(conditional[y[i]] * p[i])) for i in range(n)])


def precisions(z, labels, covariance, floor):
    each = []
    for c in range(labels.max() + 1):
        rows = z[labels == c]
        spread = np.cov(rows.T, bias=True) if len(rows) > 1 else np.zeros((z.shape[1],) * 2)
        each.append(spread + floor * np.eye(z.shape[1]))
    if covariance == "full":
        return np.linalg.inv(np.array(each))
    diagonal = np.array([np.diag(m) for m in each])
    return 1 / (diagonal if covariance == "diag" else diagonal.mean(axis=1))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:.*not settled")
@pytest.mark.parametrize("covariance", ["diag", "spherical", "full"])
def test_it_is_scikit_learns_mixture_from_the_same_start(covariance, digits):
    x, y = digits
    z = PCA(0.8).fit_transform(x)
    z /= math.sqrt(z.var(axis=0).mean())
    start = _clusters(torch.from_numpy(z), 50).numpy()
    mixture = GaussianMixture(
        50,
        covariance_type=covariance,
        reg_covar=1e-3,
        max_iter=6,
        tol=0,
        weights_init=np.bincount(start) / len(start),
        means_init=np.array([z[start == c].mean(axis=0) for c in range(50)]),
        precisions_init=precisions(z, start, covariance, 1e-3),
    ).fit(z)
    # Its first round is an E-step with the given parameters, and it ends with another E-step.
    score = tm.nleep(x, y, covariance=covariance, rounds=7, tol=0.0)
    assert score == pytest.approx(slow_leep(mixture.predict_proba(z), y), abs=1e-7)


def test_separate_clusters_score_zero_and_mixed_ones_the_entropy():
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = rng.standard_normal((4, 10))[y] * 20 + 0.1 * rng.standard_normal((400, 10))
    assert tm.nleep(x, y) == pytest.approx(0.0, abs=1e-9)
    # One Gaussian that knows nothing of two balanced classes.
    assert tm.nleep(x, y % 2, components_per_class=1, share=0.1) <= 0.0
    blind = rng.standard_normal((4000, 1))
    assert tm.nleep(blind, np.arange(4000) % 2) == pytest.approx(-math.log(2), abs=0.02)


def test_partition_by_hand():
    z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [10.0, 0.0], [10.0, 5.0], [10.0, 6.0]])
    parts = _partition(z.double(), 3)
    assert [set(np.flatnonzero(parts == c)) for c in parts.unique()] in (
        [{0, 1}, {2}, {3, 4}], [{2}, {0, 1}, {3, 4}], [{0, 1}, {3, 4}, {2}],
        [{3, 4}, {0, 1}, {2}], [{2}, {3, 4}, {0, 1}], [{3, 4}, {2}, {0, 1}],
    )  # fmt: skip
    # Copies of a point are one cluster, however many are asked for.
    assert len(_partition(torch.ones(6, 2).double(), 4).unique()) == 1
    assert len(_clusters(torch.eye(3).double().repeat(4, 1), 8).unique()) == 3


def test_runs_rows_and_names_agree_exactly(digits):
    x, y = digits
    score = tm.nleep(x, y)
    assert tm.nleep(x, y) == score
    order = np.random.default_rng(0).permutation(len(x))
    assert tm.nleep(x[order], y[order]) == pytest.approx(score, rel=1e-9)
    assert tm.nleep(x, (y + 3) % 10) == pytest.approx(score, rel=1e-9)


@pytest.mark.filterwarnings("ignore:N-LEEP uses")
@pytest.mark.parametrize("covariance", ["diag", "spherical", "full"])
def test_ordinary_features_do_not_crash_it(covariance):
    rng = np.random.default_rng(0)
    y = np.arange(200) % 5
    relu = np.maximum(rng.standard_normal((200, 64)) + rng.standard_normal((5, 64))[y], 0)
    for x in (relu, 1e-4 * relu, 100 * relu, np.hstack([relu, relu, np.zeros((200, 9))]),
              relu.astype(np.float16), np.repeat(relu[:20], 10, axis=0),
              rng.standard_normal((200, 500))):  # fmt: skip
        assert -math.log(5) - 1e-9 <= tm.nleep(x, y, covariance=covariance) <= 0


def test_few_examples_cap_the_mixture():
    x, y = np.random.default_rng(0).standard_normal((12, 3)), np.arange(12) % 4
    with pytest.warns(TransferMetricsWarning, match="6 Gaussians, not 20"):
        tm.nleep(x, y)


def test_a_mixture_that_still_moves_warns(digits):
    with pytest.warns(TransferMetricsWarning, match="not settled after 1 rounds"):
        tm.nleep(*digits, rounds=1)


def test_input_is_checked(digits):
    x, y = digits
    with pytest.raises(InvalidInputError, match="covariance"):
        tm.nleep(x, y, covariance="tied")
    with pytest.raises(InvalidInputError, match="share"):
        tm.nleep(x, y, share=0.0)
    with pytest.raises(InvalidInputError, match="at least 1"):
        tm.nleep(x, y, components_per_class=0)
    with pytest.raises(InvalidInputError, match="constant"):
        tm.nleep(np.ones((30, 4)), np.arange(30) % 2)
    with pytest.raises(InvalidInputError, match="four examples"):
        tm.nleep(x[:3], y[:3])
