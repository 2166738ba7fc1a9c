"""What becomes of memory that was freed: the next batch has it, or the system."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Of glibc's malloc.h. Blocks above a threshold are mapped one by one, and given back when they are
# freed; so is free memory at the end of the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 1 << 30
_USUAL = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""What glibc itself comes to where large blocks are freed, if nobody sets anything."""
_SET_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

_lock = threading.Lock()
_inside = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Memory that is freed stays with the process inside, and is the system's afterwards.

    Otherwise each large tensor of a forward pass is memory that the system maps and clears page by
    page, and takes back at once, which can take as long as what is done with it. Nothing happens
    where the C library is another than glibc, or where a variable of the environment decides.

    >>> with kept_memory():
    ...     values = bytes(1 << 20)
    """
    _count(1)
    try:
        yield
    finally:
        _count(-1)


def _count(step: int) -> None:
    global _inside
    with _lock:
        _inside += step
        if _inside == (step > 0) and not any(map(os.environ.get, _SET_BY_USER)):
            for name, usual in _USUAL.items():
                _call("mallopt", name, _NEVER if _inside else usual)
    if not _inside:
        release()


def free_memory() -> int:
    """Bytes that processes of this machine, or of this container, may still take.

    >>> free_memory() > 0
    True
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        found = [int(line.split()[1]) << 10]
    with suppress(OSError, ValueError):  # no container, or one without a limit
        most, taken = (
            int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current")
        )
        found.append(most - taken)
    return min(found)


def peak_memory(pid: int) -> int:
    """The most bytes that a process of Linux has taken so far; 0 where it has ended."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10
    return 0


def release() -> None:
    """Give freed memory back to the system, as far as the C library can.

    glibc keeps what was freed between blocks that are in use: what merging takes would come on top
    of what building took.
    """
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # other systems have other ways
        getattr(ctypes.CDLL(None), name)(*values)
