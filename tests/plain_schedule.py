"""The decisions of ``engines.schedule`` in a slow and plain way: all is looked up anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from transfer_metrics.engines.schedule import ATTEMPTS
from transfer_metrics.engines.work import REDUCE, Lost, Unit


@dataclass
class _Item:
    left: list[int]
    results: dict[int, Any] = field(default_factory=dict)
    reducing: bool = False


class PlainSchedule:
    """As ``Schedule``, whose docstring says what is decided; O(items + workers) for each unit."""

    def __init__(
        self, parts: Sequence[int], settles: Callable[[Any], bool] = lambda result: False
    ) -> None:
        self._settles = settles
        self._items = {i: _Item(list(range(count))[::-1]) for i, count in enumerate(parts)}
        self._fresh = list(range(len(parts)))[::-1]
        self._begun: dict[int, None] = {}
        self._ready: list[int] = []
        self._holds: dict[Hashable, int] = {}
        self._running: dict[Hashable, Unit] = {}
        self._tried: Counter[Unit] = Counter()

    @property
    def finished(self) -> bool:
        """Whether every item is done."""
        return not self._items

    def holds(self, worker: Hashable) -> int | None:
        """The item that a worker has loaded."""
        return self._holds.get(worker)

    def results(self, item: int) -> list[Any]:
        """Results of the parts of an item so far, in order."""
        return [result for _, result in sorted(self._items[item].results.items())]

    def take(self, worker: Hashable) -> Unit | None:
        """What an idle worker is to do now; None where there is nothing for it."""
        if self._ready:
            unit: Unit | None = Unit(self._ready.pop(), REDUCE)
        else:
            unit = self._next_part(worker) or self._oldest()
        if unit is not None:
            self._running[worker] = unit
            if unit.part != REDUCE:
                self._holds[worker] = unit.item
        return unit

    def done(self, worker: Hashable, result: Any) -> Unit | None:
        """Note what a worker did; the unit, or None where another did it before."""
        unit = self._running.pop(worker)
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
        self._holds.pop(worker, None)
        unit = self._running.pop(worker, None)
        item = self._items.get(unit.item) if unit else None
        if unit is None or item is None:
            return None
        self._tried[unit] += 1
        often = self._tried[unit] >= ATTEMPTS
        if unit in self._running.values() and not often:
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
        elif item.left or any(
            u.item == unit.item and u.part not in item.results for u in self._running.values()
        ):
            return
        if not item.reducing:
            item.reducing = True
            self._begun.pop(unit.item, None)
            self._ready.append(unit.item)

    def _next_part(self, worker: Hashable) -> Unit | None:
        index = self._holds.get(worker, -1)
        if index not in self._begun:
            if self._fresh:
                index = self._fresh.pop()
                self._begun[index] = None
            elif self._begun:
                held = Counter(self._holds.values())
                index = max(self._begun, key=lambda i: len(self._items[i].left) / (held[i] + 1))
            else:
                return None
        part = self._items[index].left.pop()
        if not self._items[index].left:
            del self._begun[index]
        return Unit(index, part)

    def _oldest(self) -> Unit | None:
        copies = Counter(self._running.values())
        for unit in self._running.values():
            item = self._items.get(unit.item)
            alone = copies[unit] == 1 and unit.part != REDUCE
            if item is not None and alone and not item.reducing and unit.part not in item.results:
                return unit
        return None
