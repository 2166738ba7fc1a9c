"""One item after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from transfer_metrics.ranking.engines.work import Work


def serial(
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    tick: Callable[[], object],
    **options: Any,
) -> Iterator[tuple[int, Any]]:
    """Yield the place of each item and what became of it, in order, as soon as it is there."""
    for place, (item, count) in enumerate(zip(items, parts, strict=True)):
        loaded, results = work.load(item), []
        for part in range(count):
            results.append(work.map(loaded, part))
            tick()
            if work.settles(results[-1]):
                break
        del loaded
        yield place, work.reduce(item, results)
