"""TransRate against the one product ``X'X`` that it cannot do without, and the plain listing.

numpy recognises ``X.T @ X`` and computes one triangle of it; torch computes the whole product. Both
are printed.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

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
    tensor = torch.from_numpy(x)
    work = {
        "numpy": lambda: x.T @ x,
        "torch": lambda: tensor.T @ tensor,
        "transrate": lambda: transrate(x, y),
    }
    times = interleaved(work, rounds)
    started = time.perf_counter()
    expected = listing(x, y)
    plain = time.perf_counter() - started
    ours = statistics.median(times["transrate"])
    difference = abs(transrate(x, y) - expected) / abs(expected)
    return [
        f"N={n} D={d} C={c}, float64, medians of {rounds} interleaved rounds",
        *(
            f"  X'X in {library}  {statistics.median(times[library]):8.3f} s   "
            f"transrate takes {median_ratio(times, 'transrate', library):.2f} times that"
            for library in ("numpy", "torch")
        ),
        f"  transrate     {ours:8.3f} s",
        f"  the listing   {plain:8.3f} s   {plain / ours:.0f} x transrate",
        f"  relative difference of the two scores {difference:.1e}",
    ]
