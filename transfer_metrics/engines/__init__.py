"""Where the models of a ranking are worked on, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from transfer_metrics.registry import Registry

Engine = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]

ENGINES: Registry[Engine] = Registry(
    "engine",
    {"serial": "transfer_metrics.engines.serial:serial"},
    group="transfer_metrics.engines",
)
