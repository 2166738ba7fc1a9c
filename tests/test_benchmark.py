"""The benchmarks run, and say what they measured."""

from __future__ import annotations

import re

import numpy as np
import pytest

import transfer_metrics as tm
from transfer_metrics.benchmark import extraction, transrate
from transfer_metrics.benchmark.timing import interleaved, median_ratio


def test_times_are_taken_in_turn():
    order = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4
    assert {len(t) for t in times.values()} == {3}
    assert median_ratio({"x": [2.0, 9.0, 4.0], "y": [1.0, 3.0, 2.0]}, "x", "y") == 2.0


def test_the_listing_is_the_same_score():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 9)), np.arange(60) % 4
    assert tm.transrate(x, y) == pytest.approx(transrate.listing(x, y), rel=1e-10)


def test_the_transrate_benchmark_prints_its_ratios():
    lines = "\n".join(transrate.run(n=200, d=30, c=4, rounds=2))
    assert re.search(r"X'X in numpy +[\d.]+ s +transrate takes [\d.]+ times that", lines)
    assert float(re.search(r"two scores ([\d.e+-]+)", lines)[1]) < 1e-9


def test_the_extraction_benchmark_prints_its_ratio():
    _, line = extraction.run(n=2, batch_size=2, repeats=1, networks=["resnet50"])
    assert re.match(r"resnet50: bare [\d.]+ s, extracting 18 layers [\d.]+ s, ratio [\d.]+$", line)
