"""Timing several pieces of work against each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def timed(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds that one call takes, and what it returns.

    >>> timed(lambda: 7)[1]
    7
    """
    started = time.perf_counter()
    value = run()
    return time.perf_counter() - started, value


def interleaved(work: Mapping[K, Callable[[], object]], rounds: int) -> dict[K, list[float]]:
    """Seconds of each piece of work in each round, taken in turn.

    Taking turns lets a machine that slows down slow all of them down. Whoever calls this has
    called each piece once before: the first call loads libraries and fills caches.

    >>> times = interleaved({"a": lambda: sum(range(10)), "b": lambda: None}, rounds=2)
    >>> [len(t) for t in times.values()]
    [2, 2]
    """
    times: dict[K, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, run in work.items():
            times[name].append(timed(run)[0])
    return times
