"""Warnings that many layers give alike, told once."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

from transfer_metrics.errors import TransferMetricsWarning

# Counts and sizes, but not the numbers in names such as resnet18.
_COUNTS = re.compile(r"(?<![\w.-])\d+|(?<==)\d+")


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Tell each of the toolkit's warnings once meanwhile, whatever the counts that it names.

    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     with told_once():
    ...         for dim in (8, 16):
    ...             warnings.warn(f"fitted exactly (D={dim})", TransferMetricsWarning)
    >>> [str(warning.message) for warning in told]
    ['fitted exactly (D=8)']
    """
    told: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_new(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, TransferMetricsWarning):
                text = _COUNTS.sub("#", str(message))
                if text in told:
                    return
                told.add(text)
            show(message, category, *place, **options)

        warnings.showwarning = show_new
        yield
