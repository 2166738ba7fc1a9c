"""kNN equals brute force in extended precision, and knows neither names nor order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction
from itertools import takewhile

import numpy as np
import pytest
from sklearn.datasets import load_digits, load_iris
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestNeighbors

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.metrics.neighbours import neighbours

N, D, C = 240, 24, 5


def brute_force(x, y, k=5, distance="cosine"):
    """The definition, a row at a time: differences in extended precision, votes in fractions."""
    x = np.asarray(x).astype(np.longdouble)
    if distance == "cosine":
        lengths = np.sqrt((x * x).sum(axis=1))[:, None]
        dead = lengths == 0
        x = np.hstack([x / np.where(dead, 1, lengths), dead])
    votes_of = [1 + Fraction(k + 1 - rank, 2 * k * (k + 1)) for rank in range(1, k + 1)]
    slack = 1e-17 if distance == "cosine" else 0.0
    total = Fraction(0)
    for n in range(len(x)):
        d = np.sqrt(((x - x[n]) ** 2).sum(axis=1))
        if distance == "cosine" and dead[n]:
            d[:] = 1  # cosine 0 with all others
        order = [m for m in np.argsort(d, kind="stable") if m != n]
        votes, rank = dict.fromkeys(np.unique(y).tolist(), Fraction(0)), 0
        while rank < k:
            nearest = d[order[rank]]
            most = nearest * (1 + 1e-12) + slack
            tied = list(takewhile(lambda m: d[m] <= most, order[rank:]))  # noqa: B023
            for m in tied:
                votes[y[m]] += sum(votes_of[rank : rank + len(tied)], Fraction(0)) / len(tied)
            rank += len(tied)
        best = [c for c, count in votes.items() if count == max(votes.values())]
        total += Fraction(int(y[n] in best), len(best))
    return float(total / len(x))


def features(seed=0, signal=0.8):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, C, N)
    return signal * rng.standard_normal((C, D))[y] + rng.standard_normal((N, D)), y


def ill_conditioned(case, dtype):
    x, y = features()
    rng = np.random.default_rng(1)
    if case == "offset":
        x = x + 10_000 if dtype != "float16" else x + 100
    elif case == "huge offset in one":
        x[:, 0] += 5_000
    elif case == "huge spread in one":
        x[:, 0] *= 5_000 if dtype == "float16" else 1e6
    elif case == "tiny":
        x = x * (1e-6 if dtype == "float16" else 1e-30)
    elif case == "large":
        x = x * (1e3 if dtype == "float16" else 1e30)
    elif case == "duplicated rows":
        x = x[rng.integers(0, N // 3, N)]
    elif case == "duplicated rows with an offset":
        x = x[rng.integers(0, N // 30, N)] + 1_000
    elif case == "constant features":
        x = np.hstack([x, np.full((N, 3), 7.0)])
    elif case == "dead rows":
        x[rng.random(N) < 0.3] = 0.0
    elif case == "clusters":
        x = 1e-4 * x + 100 * rng.standard_normal((3, D))[rng.integers(0, 3, N)]
    elif case == "zeros and ones":
        x = (x[:, :6] > 0) * 1.0
        x[:, 0] += 1
    elif case == "one outlier":
        x[0] *= 1e3
    return x.astype(dtype), y


CASES = [
    "offset", "huge offset in one", "huge spread in one", "tiny", "large", "duplicated rows",
    "duplicated rows with an offset", "constant features", "dead rows", "clusters",
    "zeros and ones", "one outlier",
]  # fmt: skip


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("case", CASES)
def test_it_is_brute_force_on_any_features(case, dtype, distance):
    x, y = ill_conditioned(case, dtype)
    for k in (1, 4, 5):
        expected = brute_force(x, y, k, distance)
        assert tm.knn(x, y, k=k, distance=distance) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "l2"])
@pytest.mark.parametrize("case", CASES)
def test_names_and_order_do_not_matter(case, distance):
    x, y = ill_conditioned(case, "float64")
    score = tm.knn(x, y, k=4, distance=distance)
    rng = np.random.default_rng(2)
    same = pytest.approx(score, abs=1e-12)
    for _ in range(3):
        rows, columns = rng.permutation(N), rng.permutation(x.shape[1])
        assert tm.knn(x, rng.permutation(C)[y], k=4, distance=distance) == same
        assert tm.knn(x[:, columns], y, k=4, distance=distance) == same
        assert tm.knn(x[rows], y[rows], k=4, distance=distance) == same
        parts = [
            tm.FeatureSample.from_batch(x[i], y[i], C)
            for i in np.split(rows, sorted(rng.integers(1, N, 3)))
            if len(i)
        ]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged + part
        assert tm.knn(merged, k=4, distance=distance) == same


@pytest.mark.parametrize("case", ["offset 100", "offset 10000", "one at 5000"])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_it_is_exact_where_float32_sees_little(case, distance):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 3000)
    x = (0.25 * rng.normal(size=(10, 256)))[y] + rng.normal(size=(3000, 256))
    if case == "one at 5000":
        x[:, 0] = 5_000 + rng.normal(size=3000)
    else:
        x += float(case.split()[1])
    x = x.astype(np.float32)
    z = x.astype(np.float64)
    if distance == "cosine":
        z /= np.linalg.norm(z, axis=1, keepdims=True)
    z -= z.mean(axis=0)  # so that nothing cancels
    squares = (z * z).sum(axis=1)
    d = squares[:, None] + squares - 2 * z @ z.T
    np.fill_diagonal(d, np.inf)
    votes = np.zeros((3000, 10))
    for rank, nearest in enumerate(np.argsort(d, axis=1)[:, :5].T):
        votes[np.arange(3000), y[nearest]] += 60 + 5 - rank
    best = votes == votes.max(axis=1, keepdims=True)
    expected = (best[np.arange(3000), y] / best.sum(axis=1)).mean()
    assert 0.6 < expected < 0.8  # float32 has 0.256 for cosines at 10 000
    assert tm.knn(x, y, distance=distance) == pytest.approx(expected, abs=1e-12)


def test_ties_by_hand():
    # 0 | 1 1 | 2: the two at 1 are as near to 0 as each other and share rank 1 ...
    x, y = np.array([[0.0], [1.0], [-1.0], [5.0]]), np.array([0, 0, 1, 1])
    # 0: {0, 1} tied -> 1/2; 1: 0 -> 1; -1: 0 -> 0; 5: 1 -> 0.
    assert tm.knn(x, y, k=1, distance="l2") == pytest.approx(1.5 / 4)
    # ... and with k=2 they are ranks 1 and 2, with equal weights; 5 has -1 beyond 0 and 1.
    # 0: 1/2; 1: 0 (class 0), then -1: class 0 leads -> 1; -1: 0, then 1 -> 0; 5: 1, then 0 -> 0.
    assert tm.knn(x, y, k=2, distance="l2") == pytest.approx(1.5 / 4)
    # A corner of a square sees two others at 1 and one at √2; with k=1 the two share the vote.
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    assert tm.knn(square, [0, 0, 1, 1], k=1, distance="l2") == pytest.approx(0.5)
    # k=3: two votes against, though not nearer: the own class has rank 1.5, the others 1.5 and 3.
    assert tm.knn(square, [0, 0, 1, 1], k=3, distance="l2") == 0.0
    # Four directions at right angles: all cosines are 0, and all classes tie.
    assert tm.knn(np.eye(4), np.arange(4), k=1) == 0.0
    assert tm.knn(np.eye(4), [0, 0, 1, 1], k=1) == 0.0
    assert tm.knn(np.eye(6), [0, 0, 0, 1, 1, 1], k=2) == 0.0
    assert tm.knn(np.eye(6), [0, 0, 0, 0, 0, 1], k=2) == pytest.approx(5 / 6)


def test_tied_neighbours_share_in_regression():
    # The nearest of 0 are 1 and -1, at the same distance: their mean is predicted.
    x, t = np.array([[0.0], [1.0], [-1.0]]), np.array([3.5, 1.5, 7.5])
    predicted = np.array([4.5, 3.5, 3.5])
    expected = 1 - ((t - predicted) ** 2).sum() / ((t - t.mean()) ** 2).sum()
    assert tm.knn(x, t, k=1, distance="l2") == pytest.approx(expected, abs=1e-12)
    with pytest.raises(InvalidInputError, match="constant"):
        tm.knn(x, np.full(3, 0.1), k=1)


def test_iris_in_decimals_has_ties_that_rounding_does_not_break():
    x, y = load_iris(return_X_y=True)
    tenths = np.rint(10 * x)  # the same flowers in whole numbers, whose distances are exact
    assert tm.knn(x, y, distance="l2") == tm.knn(tenths, y, distance="l2")
    assert tm.knn(x, y) == tm.knn(tenths, y)
    assert tm.knn(x, y, distance="l2") == pytest.approx(brute_force(tenths, y, 5, "l2"), abs=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_no_square_overflows(distance, scale):
    x, y = features()
    expected = brute_force(x, y, 5, distance)
    assert tm.knn(x * scale, y, distance=distance) == pytest.approx(expected, abs=1e-12)


def test_cosines_that_float64_cannot_tell_apart_are_said():
    x, y = features()
    with pytest.warns(TransferMetricsWarning, match="near the rounding"):
        tm.knn(x + 1e11, y)
    with pytest.raises(InvalidInputError, match="one row"):
        tm.knn(np.outer(np.arange(1.0, 9), [1.0, 3.0, 0.7]), np.arange(8) % 2)
    assert tm.knn(np.outer(np.arange(1.0, 9), [1.0, 3.0]), np.arange(8) // 4, distance="l2") > 0.5
    with pytest.raises(InvalidInputError, match="too large"):
        tm.knn(np.array([[1e308], [-1e308], [1e307]]), [0, 1, 1], k=1, distance="l2")


def test_rows_that_float32_cannot_resolve_are_searched_in_float64():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((400, 40))
    x[:200] *= 1e-5  # a cluster of its own, which float32 cannot resolve beside the rest
    x[200:] += 3 * rng.standard_normal(40)
    exact = np.sqrt(((x[:, None] - x) ** 2).sum(axis=2))
    np.fill_diagonal(exact, np.inf)
    in_float32, in_float64 = neighbours(x, 5)
    assert set(in_float64.rows) >= set(range(200))
    assert sorted([*in_float32.rows, *in_float64.rows]) == list(range(400))
    for found in (in_float32, in_float64):
        nearest = np.argsort(exact[found.rows], axis=1)[:, :5]
        assert found.found.reshape(-1, 5).tolist() == nearest.tolist()


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("zeros", [0, 1, 2, 30, 148])
def test_a_row_of_zeros_has_cosine_0_with_every_other_row(zeros, k):
    rng = np.random.default_rng(zeros)
    x, y = rng.standard_normal((150, 4)), rng.integers(0, 3, 150)
    x[:, 0] += y
    dead = rng.permutation(150)[:zeros]
    x[dead], y[dead] = 0, y[dead] % 2
    length = np.linalg.norm(x, axis=1)
    cosines = x @ x.T / np.where(length == 0, 1, length)[:, None]
    cosines /= np.where(length == 0, 1, length)
    credit = 0.0
    for n in range(150):
        others = np.delete(np.arange(150), n)
        near = np.round(cosines[n, others], 12)
        votes, rank = np.zeros(3), 0
        for value in np.unique(near)[::-1]:
            tied = others[near == value]
            ranks = np.arange(rank + 1, min(rank + len(tied), k) + 1)
            share = (1 + (k + 1 - ranks) / (2 * k * (k + 1))).sum() / len(tied)
            votes += share * np.bincount(y[tied], minlength=3)
            rank += len(tied)
            if rank >= k:
                break
        best = np.flatnonzero(votes > votes.max() - 1e-9)
        credit += (y[n] in best) / len(best)
    assert float(tm.knn(x, y, k=k)) == pytest.approx(credit / 150, abs=1e-12)


def test_rows_of_zeros_predict_the_mean_of_all_others():
    x, y = np.array([[0.0, 0], [0, 0], [1, 0], [1, 0.1]]), np.array([0.25, 0.5, 0.75, 1.5])
    predicted = np.array([2.75 / 3, 2.5 / 3, 1.5, 0.75])
    expected = 1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()
    assert tm.knn(x, y, k=1) == pytest.approx(expected)


def test_balanced_accuracy_counts_every_class_the_same():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [40, 20, 5])
    x = random.normal(size=(65, 3)) + 1.5 * np.eye(3)[y]
    near = NearestNeighbors(n_neighbors=2).fit(x).kneighbors(x, return_distance=False)[:, 1]
    found = tm.knn(x, y, k=1, distance="l2", balanced=True)
    shares = np.array([np.mean(y[near][y == c] == c) for c in range(3)])
    assert found == pytest.approx(balanced_accuracy_score(y, y[near]))
    error = np.sqrt((shares * (1 - shares) / [40, 20, 5]).sum()) / 3
    assert found.stderr == pytest.approx(error)
    with pytest.raises(InvalidInputError, match="balanced=True is for classes"):
        tm.knn(x, x[:, :2], balanced=True)


def test_rankings_of_long_tailed_classes_show_it_beside_accuracy():
    digits = load_digits()
    rows = np.r_[np.flatnonzero(digits.target < 2), np.flatnonzero(digits.target == 2)[:20]]
    task = tm.load_task(digits.images[rows].astype(np.uint8) * 15, digits.target[rows])
    table = tm.rank_models("zoo:cnn-mnist", task, layers="last", progress=False)
    assert table.metrics[:2] == ["knn", "knn(balanced=True)"]
    value = next(r["value"] for r in table.records if r["options"] == "balanced=True")
    header, row = str(table).splitlines()[1:3]
    assert header.split()[:6] == ["#", "model", "knn", "±", "95", "%"]
    assert "balanced" in header
    assert f"{value:.4g}" in row.split()
    task = "sklearn:digits?examples=300"
    whole = tm.rank_models("zoo:cnn-mnist", task, layers="last", progress=False)
    assert "balanced" not in str(whole)


ARCHITECTURES = """
import json, os, numpy, torch
from threadpoolctl import threadpool_info
import transfer_metrics.metrics.neighbours
found = {x["filepath"]: x["architecture"] for x in threadpool_info() if "architecture" in x}
of_faiss = [kind for path, kind in found.items() if "faiss" in path]
print(json.dumps([of_faiss, torch.backends.cpu.get_cpu_capability(), dict(os.environ)]))
"""


@pytest.mark.integration
@pytest.mark.parametrize("said", [None, "Prescott"])
def test_faiss_uses_what_the_processor_can_do(said):
    """Its OpenBLAS takes new processors for old ones, unless the environment says otherwise."""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_CORETYPE": said} if said else {}
    command = [sys.executable, "-c", ARCHITECTURES]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kinds, capability, after = json.loads(ran.stdout)
    assert after.get("OPENBLAS_CORETYPE") == said
    if not kinds:
        pytest.skip("this faiss has no OpenBLAS of its own")
    if said:
        assert kinds == [said]
    elif capability in ("AVX512", "AVX2"):
        assert kinds == [{"AVX512": "SkylakeX", "AVX2": "Haswell"}[capability]]
