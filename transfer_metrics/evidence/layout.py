"""What pages of figures share: paragraphs, tables, and what the figures were measured on."""

from __future__ import annotations

import platform
import re
import textwrap
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from transfer_metrics.memory import total_memory
from transfer_metrics.threads import cores

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A header and rows."""
Grid = Callable[[Sequence[str], Sequence[Sequence[str]]], str]
"""Draws a table."""


def wrapped(paragraph: str) -> str:
    """Lines of at most a hundred characters."""
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)


def piped(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    >>> print(piped(["a", "b"], [["long", "1|2"]]))
    | a | b |
    |---|---|
    | long | 1\\|2 |
    """
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in [header, *rows]]
    first, *others = ["| " + " | ".join(line) + " |" for line in escaped]
    return "\n".join([first, "|---" * len(header) + "|", *others])


_LIBRARIES = ("transfer-metrics", "numpy", "scipy", "torch", "scikit-learn", "faiss-cpu")


def describe() -> list[str]:
    """The machine and the versions in lines of text."""
    import torch

    return [
        f"{_processor()}, {cores()} cores, {total_memory() / 2**30:.0f} GiB of memory, "
        f"{platform.system()}",
        f"Python {platform.python_version()}, "
        + ", ".join(filter(None, map(_version, _LIBRARIES))),
        f"linear algebra: {', '.join(_blas())}; {torch.get_num_threads()} threads in torch",
    ]


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
