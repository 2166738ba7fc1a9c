"""One model after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any


def serial(fn: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yield ``fn(item)`` for each item, in order, as soon as it is there.

    >>> list(serial(abs, [-1, 2]))
    [1, 2]
    """
    return map(fn, items)
