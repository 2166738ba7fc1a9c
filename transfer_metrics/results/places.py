"""Which scores compare: those of the same examples, read the same way."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from transfer_metrics.results.record import Record


class Place(NamedTuple):
    """Scores compare where these are the same."""

    task: str
    split: str
    pool: str
    n: int | None

    @classmethod
    def of(cls, record: Record) -> Place:
        """That of a record."""
        return cls(record.task or "", record.split or "", record.pool or "", record.n)


def by_place(records: Iterable[Record], metric: str | None = None) -> dict[Place, list[Record]]:
    """Records by what they compare with, in the order in which they come.

    Of a metric, where one is named, with the failures of whole models.

    Models that a race dropped stand beside those that it did not drop, and models that failed
    before any score beside all of their task and split.
    """
    parts: dict[Place, list[Record]] = {}
    raced, failed = [], []
    for record in records:
        if metric is not None and record.label not in (metric, ""):
            continue
        if record.value is None and record.pool is None:
            failed.append(record)
        elif record.round is not None:
            raced.append(record)
        else:
            parts.setdefault(Place.of(record), []).append(record)
    for record in raced:
        alone = Place.of(record)
        beside = [place for place in parts if place[:3] == alone[:3]]
        parts.setdefault(max(beside, key=lambda p: p.n or 0, default=alone), []).append(record)
    for record in failed:
        task, split, *_ = Place.of(record)
        same = [p for p in parts if p.task == task and (p.split == split or not split)]
        for place in same or [Place(task, split, "", None)]:
            parts.setdefault(place, []).append(record)
    return parts


def place_labels(places: Collection[Place]) -> list[str]:
    """The task of each place, with what tells it from the others of that task.

    >>> place_labels([Place("digits", "train", "avg", n) for n in (50, 60)])
    ['digits, n = 50', 'digits, n = 60']
    """
    labels = []
    for place in places:
        twins = [other for other in places if other.task == place.task]
        parts = [place.task or "unnamed task"]
        parts += [place.split] if len({t.split for t in twins}) > 1 else []
        parts += [f"pooling {place.pool}"] if len({t.pool for t in twins}) > 1 else []
        parts += [f"n = {place.n}"] if len({t.n for t in twins}) > 1 else []
        labels.append(", ".join(filter(None, parts)))
    return labels
