"""Time of pieces of work, and peak memory of one metric, measured in a process of its own.

``python -m tests.benchmarks.cost METRIC NxDxC`` is that process: it prints the bytes.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tests.benchmarks.examples import Size, features
from transfer_metrics.errors import TransferMetricsError

K = TypeVar("K")
T = TypeVar("T")


STATUS = Path("/proc/self/status")


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


def peak(metric: str, size: Size) -> int | None:
    """Bytes that a metric takes at its peak beside the features (N, D) float32, in a new process.

    Args:
        metric: a metric of features, with its options.
        size: the features' size.

    Returns:
        The growth of resident memory, or None where the system does not tell (it has no /proc).

    Raises:
        TransferMetricsError: the process failed.
    """
    if not STATUS.exists():
        return None
    done = subprocess.run(
        [sys.executable, "-m", __name__, metric, str(size)], capture_output=True, text=True
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise TransferMetricsError(
            f"the memory of {metric} at {size} was not measured: {reason[0]}"
        )
    return int(done.stdout)


def growth(metric: str, size: Size) -> int:
    """Bytes by which this process grows at the peak of one call."""
    import transfer_metrics as tm

    # Libraries and thread pools are loaded by the first call and belong to no size.
    tm.score(*features(Size(64, 8, 2)), [metric])
    x, y = features(size)
    with Growth() as grown:
        tm.score(x, y, [metric])
    assert grown.bytes is not None
    return grown.bytes


class Growth:
    """Context manager: by how many ``bytes`` resident memory grew at its peak inside.

    None where the system does not tell (it has no /proc).

    >>> with Growth() as grown:
    ...     _ = bytes(100)
    >>> grown.bytes is None or grown.bytes >= 0
    True
    """

    bytes: int | None = None

    def __enter__(self) -> Growth:
        self._before = _resident("VmRSS")
        # The mark starts again from here; where that is not allowed it still is an upper bound.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return self

    def __exit__(self, *error: object) -> None:
        if STATUS.exists():
            self.bytes = max(_resident("VmHWM") - self._before, 0)


def _resident(name: str) -> int:
    if not STATUS.exists():
        return 0
    found = re.search(rf"^{name}:\s*(\d+) kB$", STATUS.read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(growth(sys.argv[1], Size.parse(sys.argv[2])))
