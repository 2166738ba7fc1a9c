"""A loop that keeps workers busy until all work is done, whatever runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

from transfer_metrics.errors import EngineError
from transfer_metrics.ranking.engines import REDUCE, Lost, Unit, Work
from transfer_metrics.ranking.engines.schedule import Schedule


class _Worker(Protocol):
    """One worker in another process."""

    def submit(self, unit: Unit, given: Any) -> Future:
        """Begin a unit; see ``Hands.do``. A future that fails tells that the worker died."""

    def stop(self) -> None:
        """End it at once, whatever it does."""


def drive(
    start: Callable[[int], _Worker],
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    workers: int,
    tick: Callable[[], object],
) -> Iterator[tuple[int, Any]]:
    """Do all the work; a worker that dies is replaced, and only what it was doing is done anew.

    As ``map_reduce``, with workers that ``start`` makes, given their numbers; what becomes of an
    item is ``Lost`` where workers died of it repeatedly.

    Raises:
        EngineError: no worker can be started.
    """
    schedule = Schedule(parts, work.settles)
    crew: dict[int, _Worker] = {}
    running: dict[Future, int] = {}
    idle = list(range(min(workers, sum(parts))))
    started = 0
    try:
        while not schedule.finished:
            waiting = []
            for place in idle:
                if place not in crew:
                    crew[place] = start(started)
                    started += 1
                held = schedule.holds(place)
                unit = schedule.take(place)
                if unit is None:
                    waiting.append(place)
                    continue
                given = items[unit.item] if unit.part == REDUCE or held != unit.item else None
                if unit.part == REDUCE:
                    given = (given, schedule.results(unit.item))
                running[crew[place].submit(unit, given)] = place
            if not running:
                raise EngineError("all workers are idle and work is left; please report this")
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            idle = waiting
            for future in finished:
                place = running.pop(future)
                idle.append(place)
                yield from _noted(schedule, crew, place, future, tick)
    finally:
        for worker in crew.values():
            worker.stop()


def _noted(
    schedule: Schedule,
    crew: dict[int, _Worker],
    place: int,
    future: Future,
    tick: Callable[[], object],
) -> Iterator[tuple[int, Any]]:
    """What follows from the end of a unit: an item that is done, or a worker less."""
    error = future.exception()
    if error is None:
        result = future.result()
        unit = schedule.done(place, result)
    else:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        result = Lost(reason)
        crew.pop(place).stop()
        unit = schedule.lost(place, reason)
    if unit is not None and unit.part == REDUCE:
        yield unit.item, result
    elif unit is not None:
        tick()
