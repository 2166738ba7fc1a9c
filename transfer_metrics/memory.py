"""What becomes of memory that was freed: the next batch has it, or the system."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transfer_metrics.threads import Held

# Of glibc's malloc.h. Blocks above a threshold are mapped one by one, and given back when they are
# freed; so is free memory at the end of the heap.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 1 << 30
_USUAL = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}
"""What glibc itself comes to where large blocks are freed, if nobody sets anything."""
_SET_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")

_CONTAINERS = (
    ("/sys/fs/cgroup", "max", "current", "inactive_file"),
    ("/sys/fs/cgroup/memory", "limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
)
"""Where Linux says what a container may take, in version 2 of control groups and in version 1."""


def _keep() -> Callable[[], None]:
    if any(map(os.environ.get, _SET_BY_USER)):
        return release
    for name in _USUAL:
        _call("mallopt", name, _NEVER)
    return _give_back


def _give_back() -> None:
    for name, usual in _USUAL.items():
        _call("mallopt", name, usual)
    release()


kept_memory = Held(_keep)
"""Memory that is freed stays with the process inside, and is the system's afterwards.

Otherwise each large tensor of a forward pass is memory that the system maps and clears page by
page, and takes back at once, which can take as long as what is done with it. Nothing happens where
the C library is another than glibc, or where a variable of the environment decides.
"""


def total_memory() -> int:
    """Bytes of this machine, or what its container grants of them."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_granted()[:1]])


def free_memory() -> int:
    """Bytes that processes of this machine, or of this container, may still take."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with suppress(OSError, KeyError):
        found = _numbers("/proc/meminfo")["MemAvailable:"] << 10
    granted = _granted()
    return min(found, granted[0] - granted[1]) if granted else found


def _granted() -> tuple[int, int] | tuple[()]:
    """Bytes that a container's limit allows, and those taken of them; nothing without a limit."""
    for folder, most, taken, idle in _CONTAINERS:
        with suppress(OSError, ValueError, KeyError):
            limit, now = (int(Path(folder, f"memory.{name}").read_text()) for name in (most, taken))
            # What was read from files counts as taken, and goes where there is need.
            return limit, now - _numbers(f"{folder}/memory.stat")[idle]
    return ()


def _numbers(file: str) -> dict[str, int]:
    """The number of each line of a file of the system, by the word before it."""
    lines = (line.split() for line in Path(file).read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines if words[1:] and words[1].isdecimal()}


def peak_memory(pid: int) -> int:
    """The most bytes that a process of Linux has taken so far; 0 where it has ended."""
    with suppress(OSError, KeyError):
        return _numbers(f"/proc/{pid}/status")["VmHWM:"] << 10
    return 0


@contextmanager
def lasting() -> Iterator[None]:
    """What is made inside, such as modules that are imported, stays until the process ends.

    So nothing looks for garbage among it: while all of a ranking is imported that takes a sixth of
    the time, and in each look later and at the end of the process most of a second.
    """
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if on:
            gc.enable()


def release() -> None:
    """Give freed memory back to the system, as far as the C library can.

    glibc keeps what was freed between blocks that are in use: what merging takes would come on top
    of what building took.
    """
    _call("malloc_trim", 0)


def _call(name: str, *values: int) -> None:
    with suppress(OSError, AttributeError, TypeError):  # other systems have other ways
        getattr(ctypes.CDLL(None), name)(*values)
