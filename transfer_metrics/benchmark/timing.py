"""Timing several pieces of work against each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(work: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, taken in turn, after one round that does not count.

    Taking turns lets a machine that slows down slow all of them down.

    >>> times = interleaved({"a": lambda: sum(range(10)), "b": lambda: None}, rounds=2)
    >>> [len(t) for t in times.values()]
    [2, 2]
    """
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, run in work.items():
            started = time.perf_counter()
            run()
            if turn:
                times[name].append(time.perf_counter() - started)
    return times


def median_ratio(times: Mapping[str, list[float]], of: str, to: str) -> float:
    """Median over rounds of one piece's time over another's in the same round."""
    pairs = zip(times[of], times[to], strict=True)
    return statistics.median(a / b for a, b in pairs)
