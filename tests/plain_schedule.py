"""The decisions of ``ranking.engines.crew`` in a slow and plain way: all is looked up anew."""

from __future__ import annotations

from collections import Counter
from typing import Any

from transfer_metrics.ranking.engines import REDUCE, Unit
from transfer_metrics.ranking.engines.crew import Schedule


class PlainSchedule(Schedule):
    """What ``Schedule`` keeps count of, counted each time; O(items + workers) for each unit."""

    def _units(self) -> list[Unit]:
        """What runs, the longest running first."""
        return [unit for _, unit in sorted(self._running.values(), key=lambda pair: pair[0])]

    def _share(self, index: int) -> float:
        held = Counter(self._holds.values())
        return len(self._items[index].left) / (held[index] + 1)

    def _oldest(self) -> Unit | None:
        copies = Counter(self._units())
        for unit in self._units():
            if copies[unit] == 1 and unit.part != REDUCE and self._is_wanted(unit):
                return unit
        return None

    def _note(self, unit: Unit, item: Any, result: Any) -> None:
        item.running = {u.part for u in self._units() if u.item == unit.item}
        super()._note(unit, item, result)
