"""TransRate against the one product ``X'X`` that it cannot do without, and the plain listing."""

from __future__ import annotations

import statistics
import time

import numpy as np

from transfer_metrics.benchmark.timing import interleaved, median_ratio
from transfer_metrics.metrics import transrate


def listing(x: np.ndarray, y: np.ndarray, eps: float = 1e-4) -> float:
    """The paper's listing as it is usually copied: C + 1 determinants of D x D matrices.

    >>> from sklearn.datasets import load_iris
    >>> round(float(listing(*load_iris(return_X_y=True))), 6)
    0.589405
    """

    def rate(z: np.ndarray) -> float:
        n, d = z.shape
        return 0.5 * np.linalg.slogdet(np.eye(d) + 1 / (n * eps) * z.T @ z)[1]

    z = x - x.mean(axis=0)
    classes = np.unique(y)
    return rate(z) - sum(rate(z[y == c]) for c in classes) / len(classes)


def run(n: int = 10_000, d: int = 2_048, c: int = 100, rounds: int = 5) -> list[str]:
    """Time all three on random float64 features and describe the result in lines of text.

    Cost: the listing is run once; at the default size it takes the better part of a minute.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((n, d)), np.arange(n) % c
    times = interleaved({"product": lambda: x.T @ x, "transrate": lambda: transrate(x, y)}, rounds)
    started = time.perf_counter()
    expected = listing(x, y)
    plain = time.perf_counter() - started
    ours, product = statistics.median(times["transrate"]), statistics.median(times["product"])
    difference = abs(transrate(x, y) - expected) / abs(expected)
    return [
        f"N={n} D={d} C={c}, float64, medians of {rounds} interleaved rounds",
        f"  X'X          {product:8.3f} s",
        f"  transrate    {ours:8.3f} s   {median_ratio(times, 'transrate', 'product'):.2f} x X'X",
        f"  the listing  {plain:8.3f} s   {plain / ours:.0f} x transrate",
        f"  relative difference of the two scores {difference:.1e}",
    ]
