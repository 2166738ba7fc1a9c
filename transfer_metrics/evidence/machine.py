"""What a measurement ran on: processor, memory, libraries; no names of hosts, people or places."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("transfer-metrics", "numpy", "scipy", "torch", "scikit-learn", "faiss-cpu")


def describe() -> list[str]:
    """The machine and the versions in lines of text.

    >>> any(line.startswith("Python ") for line in describe())
    True
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return [
        f"{_processor()}, {cores} cores, {memory:.0f} GiB of memory, {platform.system()}",
        f"Python {platform.python_version()}, " + ", ".join(filter(None, map(_version, LIBRARIES))),
        f"linear algebra: {', '.join(_blas())}; {torch.get_num_threads()} threads in torch",
    ]


def bystanders() -> Callable[[], float | None]:
    """Start to watch what other processes take; calling the result gives their share so far.

    One busy neighbour makes threads that wait for each other at every column of a decomposition
    wait for the scheduler, which can cost a factor of fifty, so figures say how alone they were.

    Returns:
        A function that gives the share of all cores, or None where the system does not tell.

    >>> share = bystanders()()
    >>> share is None or 0 <= share <= 1
    True
    """
    before, started = _busy(), time.perf_counter()

    def share() -> float | None:
        after, wall = _busy(), time.perf_counter() - started
        if before is None or after is None or wall <= 0:
            return None
        return min(max((after - before) / (wall * (os.cpu_count() or 1)), 0.0), 1.0)

    return share


def _busy() -> float | None:
    """Processor seconds that others than this process and its children have used."""
    try:
        fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, steal = fields
    total = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return total - sum(os.times()[:4])


def _processor() -> str:
    """The processor's model name, or failing that its architecture."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def _blas() -> list[str]:
    """The libraries behind products and decompositions, without their paths."""
    import numpy as np
    import torch
    from threadpoolctl import threadpool_info

    config = np.show_config(mode="dicts")
    blas = config["Build Dependencies"]["blas"] if config else {}
    threads = [
        info["num_threads"] for info in threadpool_info() if "numpy" in str(info.get("filepath"))
    ]
    mkl = re.search(r"oneAPI Math Kernel Library Version ([\d.]+)", torch.__config__.show())
    return [
        f"numpy with {blas.get('name', 'an unknown BLAS')} {blas.get('version', '')}".strip()
        + (f" ({threads[0]} threads)" if threads else ""),
        f"torch with MKL {mkl[1]}" if mkl else "torch without MKL",
    ]
