"""Actors of a Ray cluster, or of one that is started here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from transfer_metrics.errors import EngineError
from transfer_metrics.ranking.engines import Hands, Unit, Work
from transfer_metrics.ranking.engines.crew import Crew, drive
from transfer_metrics.sources.optional import is_mended, require
from transfer_metrics.threads import cores


def ray(
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    tick: Callable[[], object],
    *,
    workers: int,
    gpus: int = 0,
    address: str | None = None,
    crew: Crew | None = None,
    **options: Any,
) -> Iterator[tuple[int, Any]]:
    """Yield the place of each item and what became of it, as items are done.

    Each worker is an actor of one core, and of one GPU where the work is on GPUs; Ray places it.
    Actors, and a cluster that was started here, end with this, or with the crew, and in any case
    with this process.
    """
    cluster: Any = require("ray", "engine 'ray'", install="'transfer-metrics[ray]'")
    with ExitStack() as stack:
        if not cluster.is_initialized():
            _join(cluster, address, workers)
            lasting = stack if crew is None else crew
            lasting.callback(cluster.shutdown)
            if crew is not None:
                crew.callback(crew.stop)  # before the cluster
        actor = cluster.remote(Hands).options(
            num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=0, max_task_retries=0
        )

        def start(number: int) -> _Actor:
            return _Actor(cluster, actor.remote(1, is_mended()))

        shared = cluster.put(work)
        yield from drive(start, work, shared, items, parts, workers, tick, crew=crew)


class _Actor:
    """A worker: an actor whose death shows as an error of the future."""

    def __init__(self, cluster: Any, handle: Any) -> None:
        self._cluster, self._handle = cluster, handle

    def begin(self, work: Any) -> None:
        """What the units to come are of; an actor does one thing after the other."""
        self._handle.begin.remote(work)

    def submit(self, unit: Unit, given: Any) -> Future:
        """Begin a unit."""
        return self._handle.do.remote(unit, given).future()

    def stop(self) -> None:
        """End the actor."""
        self._cluster.kill(self._handle)


def _join(cluster: Any, address: str | None, workers: int) -> None:
    """Join the cluster at an address, or start one here."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    here = {} if address else {"num_cpus": max(workers, cores())}
    try:
        cluster.init(
            address=address or "local",
            log_to_driver=False,
            logging_level="error",
            include_dashboard=None if address else False,
            **here,
        )
    except Exception as error:  # connection, version and configuration errors of many kinds
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        place = f"the Ray cluster at {address!r}" if address else "a Ray cluster on this machine"
        raise EngineError(
            f"{place} cannot be reached ({line}); check the address, or use engine='processes'"
        ) from error
