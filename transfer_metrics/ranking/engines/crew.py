"""A loop that keeps workers busy until all is done, and which of them does what next."""

from __future__ import annotations

import heapq
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from transfer_metrics.errors import EngineError, TransferMetricsWarning, warn
from transfer_metrics.ranking.engines import REDUCE, Lost, Told, Unit, Work

_ATTEMPTS = 3
"""How often a unit is tried whose worker dies."""


class _Worker(Protocol):
    """One worker in another process."""

    def begin(self, work: Any) -> None:
        """What the units to come are of, in the form in which it is sent."""

    def submit(self, unit: Unit, given: Any) -> Future:
        """Begin a unit; see ``Hands.do``. A future that fails tells that the worker died."""

    def stop(self) -> None:
        """End it at once, whatever it does."""


class Crew(ExitStack):
    """Workers that stay from one work to the next until this closes, and who has worked on what.

    An engine that is given one begins with these, prefers to let each go on with the items that it
    has had, and leaves them where all ends well. Work that follows other work is told of it in the
    worker, by ``take_over(before)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[int, _Worker] = {}
        self.started = 0
        self._had: dict[int, dict[int, Any]] = {}
        self.callback(self.stop)

    def join(self, place: int, worker: _Worker) -> None:
        """A worker begins at a place."""
        self.workers[place] = worker
        self._had[place] = {}
        self.started += 1

    def gives(self, place: int, item: Any) -> None:
        """The worker at a place gets an item, of which it may keep something."""
        self._had[place][id(item)] = item

    def homes(self, items: Sequence[Any]) -> dict[int, set[int]]:
        """Which of some items, by their numbers, the worker at each place has had."""
        return {p: {i for i, item in enumerate(items) if id(item) in own}
                for p, own in self._had.items()}  # fmt: skip

    def stop(self, *places: int) -> None:
        """End workers at once, all of them if none are named."""
        for place in places or list(self.workers):
            del self._had[place]
            self.workers.pop(place).stop()


def drive(
    start: Callable[[int], _Worker],
    work: Work,
    sent: Any,
    items: Sequence[Any],
    parts: Sequence[int],
    workers: int,
    tick: Callable[[], object],
    has_room: Callable[[Iterable[Any], bool], bool] = lambda crew, shown: True,
    crew: Crew | None = None,
) -> Iterator[tuple[int, Any]]:
    """Do all the work; a worker that dies is replaced, and only what it was doing is done anew.

    As ``map_reduce``, with workers that ``start`` makes, given their numbers, and that are told of
    the work as it is ``sent``; what becomes of an item is ``Lost`` where workers died of it
    repeatedly. Only one works where ``has_room`` says no, which is asked of the workers, and
    whether any of them has shown by a result what it takes. Workers of a ``crew`` stay.
    """
    stays, crew = crew is not None, crew or Crew()
    schedule = Schedule(parts, work.settles, crew.homes(items), repeats=not stays)
    running: dict[Future, int] = {}
    told: set[int] = set()
    idle = sorted(range(workers), key=lambda place: not schedule.has_own(place))[: sum(parts)]
    shown = bool(crew.workers)
    with ExitStack() as stack:
        stack.callback(crew.stop)
        while not schedule.finished:
            waiting = []
            for place in sorted(
                idle, key=lambda p: (not schedule.has_own(p), p not in crew.workers)
            ):
                if running and not has_room(crew.workers.values(), shown):
                    waiting.append(place)
                    continue
                held = schedule.holds(place)
                unit = schedule.take(place)
                if unit is None:
                    waiting.append(place)
                    continue
                if place not in crew.workers:
                    crew.join(place, start(crew.started))
                if place not in told:
                    crew.workers[place].begin(sent)
                    told.add(place)
                given = items[unit.item] if unit.part == REDUCE or held != unit.item else None
                if unit.part == REDUCE:
                    given = (given, schedule.results(unit.item))
                else:
                    crew.gives(place, items[unit.item])
                running[crew.workers[place].submit(unit, given)] = place
            if not running:
                raise EngineError("all workers are idle and work is left; please report this")
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            idle, shown = waiting, True
            for future in finished:
                place = running.pop(future)
                idle.append(place)
                error = future.exception()
                if error is None:
                    result, warned = future.result()
                    _tell(warned)
                    unit = schedule.done(place, result)
                else:
                    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                    result = Lost(reason)
                    crew.stop(place)
                    told.discard(place)
                    unit = schedule.lost(place, reason)
                if unit is not None and unit.part == REDUCE:
                    yield unit.item, result
                elif unit is not None:
                    tick()
        if stays:
            stack.pop_all()
            # Nobody waits for what these still do, and the next work is not to be told of it.
            for place in running.values():
                crew.stop(place)


_told: dict[Any, Any] = {}
"""Which warnings of workers were told, as each module has it of its own."""


def _tell(found: Iterable[Told]) -> None:
    """Warn here of what a worker was warned of."""
    for text, category, file, line in found:
        if issubclass(category, TransferMetricsWarning):
            warn(text)
        else:
            warnings.warn_explicit(text, category, file, line, registry=_told)


@dataclass
class _Item:
    left: list[int]
    results: dict[int, Any] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    reducing: bool = False


class Schedule:
    """The units of items in so many ``parts`` each, and who holds which: the same on every engine.

    A worker goes on with the item that it holds, then begins one that nobody has begun, and only
    then helps with the one that has most parts left for each worker on it: so an item is loaded
    rarely. Of those that nobody has begun it begins one that has its home there, as ``homes`` say
    of each worker, before one that has none, and rather takes another's than be idle. Results are
    put together as soon as they are complete. Where nothing is left, a worker ``repeats`` the part
    that has been running longest, since its worker may be a slow one; whichever is there first
    counts.

    Cost: O(log workers) for each unit that goes on with an item or begins one, and for each worker
    that finds nothing to do; O(workers) for a worker that comes to help with another's item; where
    there are homes, O(items) for one that begins an item.

    >>> schedule = Schedule([2, 1])
    >>> schedule.take("a"), schedule.take("b")
    (Unit(item=0, part=0), Unit(item=1, part=0))
    >>> _ = schedule.done("b", "of b"); schedule.take("b")
    Unit(item=1, part=-1)
    >>> schedule.lost("a", "killed"); schedule.take("c"), schedule.take("d")
    (Unit(item=0, part=0), Unit(item=0, part=1))
    """

    def __init__(
        self,
        parts: Sequence[int],
        settles: Callable[[Any], bool] = lambda result: False,
        homes: Mapping[Any, Set[int]] = MappingProxyType({}),
        repeats: bool = True,
    ) -> None:
        self._settles, self._repeats = settles, repeats
        self._homes: dict[Any, Set[int]] = dict(homes)
        self._items = {i: _Item(list(range(count))[::-1]) for i, count in enumerate(parts)}
        self._fresh = list(range(len(parts)))[::-1]
        self._begun: dict[int, None] = {}
        self._ready: list[int] = []
        self._holds: dict[Hashable, int] = {}
        self._holders: Counter[int] = Counter()
        self._running: dict[Hashable, tuple[int, Unit]] = {}
        self._on: dict[Unit, list[Hashable]] = {}
        self._since: list[tuple[int, Unit]] = []
        self._turns = itertools.count()
        self._tried: Counter[Unit] = Counter()

    @property
    def finished(self) -> bool:
        """Whether every item is done."""
        return not self._items

    def holds(self, worker: Hashable) -> int | None:
        """The item that a worker has loaded."""
        return self._holds.get(worker)

    def has_own(self, worker: Hashable) -> bool:
        """Whether an item that nobody has begun has its home at a worker."""
        own = self._homes.get(worker, frozenset())
        return bool(own) and not own.isdisjoint(self._fresh)

    def results(self, item: int) -> list[Any]:
        """Results of the parts of an item so far, in order."""
        return [result for _, result in sorted(self._items[item].results.items())]

    def take(self, worker: Hashable) -> Unit | None:
        """What an idle worker is to do now; None where there is nothing for it."""
        if self._ready:
            unit: Unit | None = Unit(self._ready.pop(), REDUCE)
        else:
            unit = self._next_part(worker) or (self._oldest() if self._repeats else None)
        if unit is not None:
            self._begin(worker, unit)
        return unit

    def done(self, worker: Hashable, result: Any) -> Unit | None:
        """Note what a worker did; the unit, or None where another did it before."""
        unit = self._end(worker)
        item = self._items.get(unit.item)
        if item is None or (unit.part != REDUCE and unit.part in item.results):
            return None
        if unit.part == REDUCE:
            del self._items[unit.item]
        else:
            self._note(unit, item, result)
        return unit

    def lost(self, worker: Hashable, reason: str) -> Unit | None:
        """A worker died: what it did is tried anew; the unit where that was tried often enough."""
        self._hold(worker, None)
        self._homes.pop(worker, None)
        unit = self._end(worker) if worker in self._running else None
        item = self._items.get(unit.item) if unit else None
        if unit is None or item is None:
            return None
        self._tried[unit] += 1
        often = self._tried[unit] >= _ATTEMPTS
        if unit in self._on and not often:
            return None
        if unit.part == REDUCE:
            if often:
                del self._items[unit.item]
            else:
                self._ready.append(unit.item)
        elif unit.part not in item.results:
            if often:
                self._note(unit, item, Lost(reason))
            elif not item.reducing:
                item.left.append(unit.part)
                self._begun[unit.item] = None
        return unit if often else None

    def _note(self, unit: Unit, item: _Item, result: Any) -> None:
        item.results[unit.part] = result
        if isinstance(result, Lost) or self._settles(result):
            item.left.clear()
        elif item.left or item.running - item.results.keys():
            return
        if not item.reducing:
            item.reducing = True
            self._begun.pop(unit.item, None)
            self._ready.append(unit.item)

    def _next_part(self, worker: Hashable) -> Unit | None:
        index = self._holds.get(worker, -1)
        if index not in self._begun:
            if self._fresh:
                index = self._next_fresh(worker)
                self._begun[index] = None
            elif self._begun:
                index = max(self._begun, key=self._share)
            else:
                return None
        part = self._items[index].left.pop()
        if not self._items[index].left:
            del self._begun[index]
        return Unit(index, part)

    def _next_fresh(self, worker: Hashable) -> int:
        """An item that nobody has begun: of this worker, of none, or of another."""
        place = -1
        if any(self._homes.values()):
            own = self._homes.get(worker, frozenset())
            all_of_them = frozenset().union(*self._homes.values())
            ranks = [(i not in own) * (1 + (i in all_of_them)) for i in self._fresh]
            place = len(ranks) - 1 - ranks[::-1].index(min(ranks))
        return self._fresh.pop(place)

    def _share(self, index: int) -> float:
        return len(self._items[index].left) / (self._holders[index] + 1)

    def _oldest(self) -> Unit | None:
        """The unit that has been running longest, of those that nobody else repeats."""
        while self._since:
            turn, unit = heapq.heappop(self._since)
            on = self._on.get(unit, [])
            # A unit that ended or is being repeated is looked at once; see ``_end``.
            if len(on) == 1 and self._running[on[0]][0] == turn and self._is_wanted(unit):
                return unit
        return None

    def _is_wanted(self, unit: Unit) -> bool:
        item = self._items.get(unit.item)
        return item is not None and not item.reducing and unit.part not in item.results

    def _begin(self, worker: Hashable, unit: Unit) -> None:
        turn = next(self._turns)
        self._running[worker] = (turn, unit)
        self._on.setdefault(unit, []).append(worker)
        if unit.part != REDUCE:
            self._hold(worker, unit.item)
            self._items[unit.item].running.add(unit.part)
            heapq.heappush(self._since, (turn, unit))

    def _end(self, worker: Hashable) -> Unit:
        _, unit = self._running.pop(worker)
        on = self._on[unit]
        on.remove(worker)
        if on:
            # It runs in one place again, and may be repeated again if this one was lost.
            heapq.heappush(self._since, (self._running[on[0]][0], unit))
        else:
            del self._on[unit]
            if unit.item in self._items:
                self._items[unit.item].running.discard(unit.part)
        return unit

    def _hold(self, worker: Hashable, item: int | None) -> None:
        before = self._holds.pop(worker, None)
        if before is not None:
            self._holders[before] -= 1
        if item is not None:
            self._holds[worker] = item
            self._holders[item] += 1
