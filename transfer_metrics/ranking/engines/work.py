"""What an engine is given to do, and what one worker does of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

REDUCE = -1
"""The part of a unit that puts the others together."""


class Work(Protocol):
    """Work on items, each in parts, whose results are put together item by item.

    Every method may run in another process than the one before, and a part may run twice, where a
    worker was lost or was slow: what a part leaves behind must be the same each time.
    """

    def load(self, item: Any) -> Any:
        """What a worker keeps while it works on parts of one item, such as a loaded model."""

    def map(self, loaded: Any, part: int) -> Any:
        """The result of one part; errors are results too."""

    def settles(self, result: Any) -> bool:
        """Whether a result makes the other parts of its item superfluous."""

    def reduce(self, item: Any, results: Sequence[Any]) -> Any:
        """What becomes of an item, from the results of its parts in order."""


@dataclass(frozen=True)
class Unit:
    """One part of one item; ``REDUCE`` where its results are put together."""

    item: int
    part: int


@dataclass(frozen=True)
class Lost:
    """The result of a part whose workers died each time it was tried."""

    reason: str


class Hands:
    """One worker: it holds the item that it works on, so that it is loaded once for all parts.

    Args:
        work: the work.
        threads: threads of each numerical library; None leaves them as they are.
        mended: torchvision has to be mended here too, before an item whose classes import it.
    """

    def __init__(self, work: Work, threads: int | None = None, mended: bool = False) -> None:
        self._work = work
        self._held: tuple[int | None, Any] = (None, None)
        if threads is not None:
            from transfer_metrics.threads import use_threads

            use_threads(threads)
        if mended:
            from transfer_metrics.sources.optional import mend_torchvision

            mend_torchvision()

    def do(self, unit: Unit, given: Any) -> Any:
        """Do one unit.

        Args:
            unit: which.
            given: the item where it is not the one of the unit before, else None; to ``REDUCE``
                the item and the results of its parts.
        """
        if unit.part == REDUCE:
            return self._work.reduce(*given)
        if self._held[0] != unit.item:
            self._held = (None, None)  # frees one model before the next is loaded
            self._held = (unit.item, self._work.load(given))
        return self._work.map(self._held[1], unit.part)
