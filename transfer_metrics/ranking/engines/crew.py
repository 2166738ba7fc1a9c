"""A loop that keeps workers busy until all work is done, whatever runs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol

from transfer_metrics.errors import EngineError, TransferMetricsWarning, warn
from transfer_metrics.ranking.engines import REDUCE, Answer, Lost, Unit, Work
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
    has_room: Callable[[Collection[Any], bool], bool] = lambda crew, shown: True,
) -> Iterator[tuple[int, Any]]:
    """Do all the work; a worker that dies is replaced, and only what it was doing is done anew.

    As ``map_reduce``, with workers that ``start`` makes, given their numbers; what becomes of an
    item is ``Lost`` where workers died of it repeatedly. Only one works where ``has_room`` says no,
    which is asked of the workers, and whether any of them has shown by a result what it takes.

    Raises:
        EngineError: no worker can be started.
    """
    schedule = Schedule(parts, work.settles)
    crew: dict[int, _Worker] = {}
    running: dict[Future, int] = {}
    idle = list(range(min(workers, sum(parts))))
    started, shown = 0, False
    try:
        while not schedule.finished:
            waiting = []
            for place in sorted(idle, key=lambda place: place not in crew):
                if running and not has_room(crew.values(), shown):
                    waiting.append(place)
                    continue
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
            idle, shown = waiting, True
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
        answer: Answer = future.result()
        result = answer.result
        _tell(answer)
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


_told: dict[Any, Any] = {}
"""Which warnings of workers were told, as each module has it of its own."""


def _tell(answer: Answer) -> None:
    """Warn here of what a worker was warned of."""
    for text, category, file, line in answer.warnings:
        if issubclass(category, TransferMetricsWarning):
            warn(text)
        else:
            warnings.warn_explicit(text, category, file, line, registry=_told)
