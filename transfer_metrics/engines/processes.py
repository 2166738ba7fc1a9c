"""Several processes of this machine."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from joblib.externals import loky

from transfer_metrics.engines.crew import drive
from transfer_metrics.engines.work import Hands, Unit, Work

_hands: Hands | None = None


def processes(
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    tick: Callable[[], object],
    *,
    workers: int,
    gpus: int = 0,
    **options: Any,
) -> Iterator[tuple[int, Any]]:
    """Yield the place of each item and what became of it, as items are done.

    Work and items are pickled by value where they come from a script, so that metrics that are
    defined there can be used. Each worker gets its share of the threads, and of the GPUs one, in
    turn. A worker ends when this process does, however that ends.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)

    def start(number: int) -> _Process:
        return _Process(work, threads, str(number % gpus) if gpus else None)

    return drive(start, work, items, parts, workers, tick)


class _Process:
    """A worker: a pool of a single process, whose death shows as an error of the future."""

    def __init__(self, work: Work, threads: int, gpu: str | None) -> None:
        # Read by numerical libraries when they are loaded.
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env = dict.fromkeys(names, str(threads))
        if gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = gpu
        self._pool = loky.ProcessPoolExecutor(
            1, env=env, initializer=_begin, initargs=(work, threads, os.getpid())
        )

    def submit(self, unit: Unit, given: Any) -> Future:
        """Begin a unit."""
        return self._pool.submit(_do, unit, given)

    def stop(self) -> None:
        """End the process."""
        self._pool.shutdown(wait=False, kill_workers=True)


def _begin(work: Work, threads: int, parent: int) -> None:
    global _hands
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _hands = Hands(work, threads)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(unit: Unit, given: Any) -> Any:
    assert _hands is not None
    return _hands.do(unit, given)
