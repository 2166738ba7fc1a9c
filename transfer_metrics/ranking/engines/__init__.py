"""Where work runs, by name: in this process, in several, or on a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.ranking.engines.work import Lost, Work
from transfer_metrics.registry import Registry

__all__ = ["ENGINES", "Lost", "Work", "map_reduce"]

_Engine = Callable[..., Iterator[tuple[int, Any]]]

ENGINES: Registry[_Engine] = Registry(
    "engine",
    {
        "serial": "transfer_metrics.ranking.engines.serial:serial",
        "processes": "transfer_metrics.ranking.engines.processes:processes",
        "ray": "transfer_metrics.ranking.engines.ray:ray",
    },
    group="transfer_metrics.engines",
)


def map_reduce(
    engine: str,
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    *,
    workers: int | None = None,
    gpus: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, Any]]:
    """Do work on items, each in parts, and put the results of each item together.

    Args:
        engine: ``"serial"``, ``"processes"``, ``"ray"``, or ``"ray:<address>"`` to join a cluster.
        work: what is to be done.
        items: with what.
        parts: number of parts of each item.
        workers: how many at a time; by default one per core. Serial work has one.
        gpus: GPUs of this machine that workers take turns on; 0 for none.
        tick: called after every part.

    Yields:
        The place of an item and what became of it, as items are done.

    Raises:
        UnknownNameError: no such engine.
        InvalidInputError: a number of workers that is none.
        EngineError: no worker can be started.

    >>> class Sum:
    ...     def load(self, item): return item
    ...     def map(self, loaded, part): return loaded[part::2].sum()
    ...     def settles(self, result): return False
    ...     def reduce(self, item, results): return int(sum(results))
    >>> import numpy as np
    >>> list(map_reduce("serial", Sum(), [np.arange(5), np.ones(3)], [2, 2]))
    [(0, 10), (1, 3)]
    """
    name, _, address = engine.partition(":")
    run = ENGINES[name]
    if workers is None:
        workers = os.cpu_count() or 1
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise InvalidInputError(f"workers={workers!r}; use a whole number of at least 1")
    more = {"address": address} if address else {}
    return run(work, items, parts, tick, workers=workers, gpus=gpus, **more)
