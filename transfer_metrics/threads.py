"""How many threads numerical libraries get."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_SMALL = 100_000_000
"""Multiplications per product below which waiting for other threads costs more than it brings."""
_SMALL_SCORE = 1_500_000_000
"""The same of a score, which goes to and fro between torch and numpy: the threads of the one still
wait for work, and take the cores, when those of the other begin."""


class Held:
    """A setting of the process that is changed while any of its threads is inside.

    ``change`` makes the change, and returns what undoes it when the last has left: what one thread
    noted inside of another would be given back after it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change, self._lock, self._users = change, threading.Lock(), 0
        self._undo: Callable[[], object] = change

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._undo = self._change()
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._undo()


def _one_of_blas() -> Callable[[], object]:
    return _controller().limit(limits=1, user_api="blas").restore_original_limits


_ONE = Held(_one_of_blas)
_inside = threading.local()
"""Whether products are small around this already, so that looking at each library can be spared."""


def cores() -> int:
    """Cores that this process may use.

    A container, a job of a cluster or ``LOKY_MAX_CPU_COUNT`` may grant fewer than there are.
    """
    from loky import cpu_count

    return cpu_count()


def most_threads() -> int | None:
    """The cores that are granted, where libraries would see more of them; else None.

    So it is in a container whose limit is a share of time: threads beyond it wait for each other.
    """
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores() if cores() < seen else None


def brief_spin() -> dict[str, str]:
    """What an environment says so that threads of torch soon sleep where there is no work.

    They watch for it in a loop before, which takes a core. Where another process wants one of two
    cores, a loop of the usual 300 000 turns has made rankings of small networks eight times slower.
    Nothing where the user has said something. It must be there before torch is loaded.
    """
    if {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        return {}
    return {"GOMP_SPINCOUNT": "10000"}


def so_many_threads(threads: int) -> dict[str, str]:
    """What an environment says to numerical libraries that are loaded in it."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def threads_to_score(n: int, dim: int, requires: str) -> AbstractContextManager[None]:
    """One thread inside, if scores of N examples with D features are sooner ready so.

    On two cores a second thread has made them two to five times slower up to N = 2 000, D = 512.
    What ``requires`` a source head multiplies no matrices: it goes through the rows a block at a
    time, and threads that wait for each other at every block, on two busy cores, have made LEEP of
    50 000 x 1 000 thirty times slower.
    """
    multiplications = 0 if requires == "source" else n * dim * min(n, dim)
    return threads_for(multiplications, _SMALL_SCORE)


def threads_for_classes(n: int, dim: int, num_classes: int) -> AbstractContextManager[None]:
    """One thread inside a loop over classes, if what is multiplied for each is small.

    On two busy cores TransRate of 50 000 x 768 in 200 classes has taken 3 seconds so, and 40 to 115
    with two threads.
    """
    rows = n // max(num_classes, 1)
    return threads_for(rows * dim * min(rows, dim))


def side_by_side(work: Callable[[_Item], _Result], blocks: Sequence[_Item]) -> list[_Result]:
    """``[work(block) for block in blocks]`` of rows, on each core one with one thread of BLAS.

    What is done between the products is then done on all cores too: a fifth is saved where each
    block takes tens of milliseconds. Nothing is where classes take one or two each, as threads then
    wait for the interpreter.
    """
    torch = sys.modules.get("torch")
    workers = min(torch.get_num_threads() if torch else 1, len(blocks) // 2)
    if workers < 2:
        return [work(block) for block in blocks]

    def of(block: _Item) -> _Result:
        with threads_for(0):
            return work(block)

    with threads_for(0), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(of, blocks))


@contextmanager
def threads_for(multiplications: int, small: int = _SMALL) -> Iterator[None]:
    """One thread of BLAS and torch inside, if products are small; else as many as before.

    An iterative fit makes thousands of small products, and on two cores a second thread has made
    such fits up to seven times slower, and on two busy ones forty times. One product takes N D C
    ``multiplications`` or so.
    """
    if multiplications >= small or getattr(_inside, "one_thread", False):
        yield
        return
    # Torch has a BLAS of its own inside, which is not found there.
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with _ONE:
        if torch and before > 1:
            torch.set_num_threads(1)
        _inside.one_thread = True
        try:
            yield
        finally:
            _inside.one_thread = False
            if torch and before > 1:
                torch.set_num_threads(before)


def use_threads(threads: int) -> None:
    """Give every numerical library of this process so many threads."""
    import torch

    torch.set_num_threads(threads)
    _controller().limit(limits=threads)


@contextmanager
def running_with(threads: int | None) -> Iterator[None]:
    """So many threads inside, in torch and numerical libraries; None leaves them as they are."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    with _controller().limit(limits=threads):
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@functools.cache
def _controller() -> ThreadpoolController:
    # Looking for the libraries takes milliseconds, so they are looked for once.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
