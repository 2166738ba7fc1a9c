"""How many threads numerical libraries get."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_SMALL = 100_000_000
"""Multiplications per product below which waiting for other threads costs more than it brings."""


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """One thread of BLAS inside, if its products are small; else as many as before.

    An iterative fit makes thousands of small products, and on two cores a second thread has made
    such fits up to seven times slower. One product takes N D C ``multiplications`` or so.

    >>> with threads_for(1000):
    ...     pass
    """
    if multiplications >= _SMALL:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield


def use_threads(threads: int) -> None:
    """Give every numerical library of this process so many threads."""
    import torch

    torch.set_num_threads(threads)
    _controller().limit(limits=threads)


@functools.cache
def _controller() -> ThreadpoolController:
    # Looking for the libraries takes milliseconds, so they are looked for once.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
