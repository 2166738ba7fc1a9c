"""Which scores compare, and which names stand for one thing: the rules of tables that are joined.

A record says what its model and its task are by ``model_id`` and ``task_id``: the first digits of
the SHA-256 of a network with its weights and preprocessing, and of the examples and labels of the
split (of ``train`` where heads were measured). Records without them, as of hand-made tables, are
believed to be of what their names say, until two values of one measurement differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.naming import Names, bare_name
from transfer_metrics.results.record import Record


class Place(NamedTuple):
    """Scores compare where these are the same."""

    task: str
    split: str
    pool: str
    n: int | None


_SAME = (
    "model", "task", "split", "layer", "pool", "head", "metric", "options", "n", "seed",
)  # fmt: skip


def by_place(records: Iterable[Record]) -> dict[Place, list[Record]]:
    """Records by what they compare with, in the order in which they come.

    Models that a race dropped stand beside those that it did not drop, and models that failed
    before any score beside all of their task and split.

    >>> scores = [Record(m, task="t", value=0.5, n=n) for m, n in zip("ab", (9, 4))]
    >>> [place.n for place in by_place(scores)]
    [9, 4]
    """
    parts: dict[Place, list[Record]] = {}
    raced, failed = [], []
    for record in records:
        if record.value is None and record.pool is None:
            failed.append(record)
        elif record.round is not None:
            raced.append(record)
        else:
            parts.setdefault(_place(record), []).append(record)
    for record in raced:
        alone = _place(record)
        beside = [place for place in parts if place[:3] == alone[:3]]
        parts.setdefault(max(beside, key=lambda p: p.n or 0, default=alone), []).append(record)
    for record in failed:
        task, split, *_ = _place(record)
        same = [p for p in parts if p.task == task and (p.split == split or not split)]
        for place in same or [Place(task, split, "", None)]:
            parts.setdefault(place, []).append(record)
    return parts


def places_of(records: Iterable[Record], metric: str) -> dict[Place, list[Record]]:
    """The records of a metric, and of failures, by what they compare with."""
    return by_place(r for r in records if r.label in (metric, ""))


def one_place(records: Iterable[Record], metric: str) -> list[Record]:
    """The records of a metric, and of failures; all must compare."""
    places = places_of(records, metric)
    if len(places) > 1:
        first, second = list(places)[:2]
        differing = [i for i in range(4) if len({place[i] for place in places}) > 1]
        asked = ", ".join(f"{Place._fields[i]}={first[i]!r}" for i in differing)
        raise InvalidInputError(
            f"scores of {metric} of {' and '.join(place_labels([first, second]))} do not "
            f"compare; choose one with table.on({asked})"
        )
    return next(iter(places.values()), [])


def selected(records: Sequence[Record], wanted: Mapping[str, Any]) -> list[Record]:
    """Records whose fields are as wanted, or None; what is wanted as None is any."""
    known = dict.fromkeys(str(r.task) for r in records)
    if wanted["task"] is not None and wanted["task"] not in known:
        raise UnknownNameError.of("task of this table", wanted["task"], known)
    asked = {name: value for name, value in wanted.items() if value is not None}
    # Models that a race dropped, on fewer examples, stand beside the others.
    return [
        r
        for r in records
        if all(
            getattr(r, name) in (value, None) or (name == "n" and r.round)
            for name, value in asked.items()
        )
    ]


def place_labels(places: Sequence[Place]) -> list[str]:
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


def with_own_names(records: Sequence[Record]) -> list[Record]:
    """Records in which a name stands for one model, and for one task: later ones get a number.

    >>> two = [Record("net", model_id=i, task="t") for i in ("a1", "b2", "a1")]
    >>> [r.model for r in with_own_names(two)]
    ['net', 'net (2)', 'net']
    """
    for column in ("model", "task"):
        records = _renamed(records, column)
    return list(records)


def joined(first: Sequence[Record], second: Sequence[Record]) -> list[Record]:
    """The records of two tables.

    A measurement that both have is there once. Where its values differ by more than rounding, it
    cannot be one and the same, and the model of the second table gets a number.
    """
    both = with_own_names([*first, *second])
    first, second = both[: len(first)], both[len(first) :]
    known = {_identity(r): r for r in first if r.value is not None}
    clashing = {
        r.model for r in second if (twin := known.get(_identity(r))) and _contradict(r, twin)
    }
    names = Names(str(r.model) for r in both)
    new = {model: names.free(str(model)) for model in sorted(clashing, key=str)}
    second = [replace(r, model=new[r.model]) if r.model in new else r for r in second]
    found: dict[Any, Record] = {}
    for i, record in enumerate((*first, *second)):
        key = _identity(record) if record.value is not None else i
        twin = found.get(key)
        if twin is None or _says_more(record, twin):
            found[key] = _with_belief(record, twin)
        else:
            found[key] = _with_belief(twin, record)
    return list(found.values())


def _place(record: Record) -> Place:
    return Place(record.task or "", record.split or "", record.pool or "", record.n)


def _renamed(records: Sequence[Record], column: str) -> Sequence[Record]:
    """Records whose names in a column stand for one identity each."""
    known = Names(str(getattr(r, column)) for r in records)
    means: dict[tuple[str, str], str] = {}
    twins: dict[tuple[str, str, str], str] = {}
    names: dict[tuple[str, str, str], str] = {}
    found = []
    for record in records:
        name, own = getattr(record, column), getattr(record, f"{column}_id")
        if name and own:
            part = _part(record) if column == "task" else ""
            if (name, part, own) not in names:
                new, twin = name, (bare_name(name), part, own)
                if means.setdefault((name, part), own) != own:
                    new = twins.get(twin) or known.free(name)
                    means[new, part] = own
                twins.setdefault(twin, new)
                names[name, part, own] = new
            if (new := names[name, part, own]) != name:
                given: dict[str, Any] = {column: new}
                record = replace(record, **given)
        found.append(record)
    return found


def _part(record: Record) -> str:
    """The split whose examples the identity of a task is of."""
    return "train" if record.head else record.split or "train"


def _identity(record: Record) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in _SAME)


def _contradict(a: Record, b: Record) -> bool:
    """Whether two records of one measurement differ by more than rounding; times always do."""
    if a.value is None or b.value is None or str(a.metric).endswith("seconds"):
        return False
    return not math.isclose(a.value, b.value, rel_tol=1e-4, abs_tol=1e-6)


def _with_belief(record: Record, twin: Record | None) -> Record:
    """A record with the trust and the prior that only its twin has."""
    if twin is None:
        return record
    if record.trust is None:
        record = replace(record, trust=twin.trust, outside=twin.outside)
    return record if record.prior is not None else replace(record, prior=twin.prior)


def _says_more(record: Record, known: Record) -> bool:
    """Whether a later record of a measurement replaces the one before: unless it lacks errors."""
    return bool(record.deviations) or not known.deviations
