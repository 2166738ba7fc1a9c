"""The long table: records of anybody, under names that stand for one thing, joined and on disk.

Records without ``model_id`` and ``task_id``, as of hand-made tables, are believed to be of what
their names say, until two values of one measurement differ.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from transfer_metrics.errors import InvalidInputError, UnknownNameError, warn
from transfer_metrics.naming import Names, bare_name
from transfer_metrics.registry import choose
from transfer_metrics.results.places import Place, by_place, place_labels
from transfer_metrics.results.ranks import Ranking
from transfer_metrics.results.record import Record
from transfer_metrics.results.record_files import (
    frame_of,
    read_records,
    write_records,
)
from transfer_metrics.results.wording import listed, several
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd

_VIEWS = ("best", "all", "last")
_SAME = (
    "model", "task", "split", "layer", "pool", "head", "metric", "options", "n", "seed",
)  # fmt: skip
"""What makes two records ones of one measurement."""


class LongTable:
    """What every table of records does, whatever is read from it; see ``ScoreTable``."""

    def __init__(self, records: Iterable[Mapping[str, Any] | Record], view: str = "best") -> None:
        self.view = _checked_view(view)
        self._known: dict[tuple[str, str], dict[Place, Ranking]] = {}
        self._records = _with_own_names(
            [Record.of(given, f"record {i}") for i, given in enumerate(records, start=1)]
        )
        nameless = next((i for i, r in enumerate(self._records, start=1) if r.model is None), None)
        if nameless is not None:
            raise InvalidInputError(f"record {nameless} names no model; give it one, as model")
        _warn_of_twins(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __add__(self, other: LongTable) -> Self:
        if not isinstance(other, LongTable):
            return NotImplemented
        # A comparison beside scores is a comparison still, whichever comes first.
        kind = type(other) if isinstance(other, type(self)) else type(self)
        return kind(_joined(self._records, other._records), self.view)

    def __repr__(self) -> str:
        counts = {
            "record": len(self),
            "model": len({r.model for r in self._records}),
            "task": len({r.task for r in self._records}),
        }
        told = ", ".join(several(number, noun) for noun, number in counts.items())
        metrics = listed(visible(metric, 60) for metric in self.metrics)
        return f"{type(self).__name__}({told}{metrics and f'; {metrics}'})"

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records, as plain dictionaries; NaN and missing values are None."""
        return [record.as_dict() for record in self._records]

    @property
    def metrics(self) -> list[str]:
        """Metrics in the table, in the order in which they were asked for."""
        return list(dict.fromkeys(r.label for r in self._records if r.metric))

    @property
    def task_summaries(self) -> list[str]:
        """How each task was understood, a line each; see ``Task.summary``."""
        return list(dict.fromkeys(r.task_summary for r in self._records if r.task_summary))

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Records without a value, each with its reason under ``error``."""
        return [record.as_dict() for record in self._records if record.error]

    @property
    def notes(self) -> dict[str, list[str]]:
        """What is to be known of single models before their scores are read, each with its models.

        Such as that no classifier was found, or that padding changes the features.
        """
        found: dict[str, dict[str, None]] = {}
        for record in self._records:
            if record.note:
                found.setdefault(record.note, {})[str(record.model)] = None
        return {note: list(models) for note, models in found.items()}

    def to_frame(self) -> pd.DataFrame:
        """The long table as a pandas DataFrame."""
        return frame_of(self._records)

    def on(
        self,
        task: str | None = None,
        *,
        split: str | None = None,
        pool: str | None = None,
        n: int | None = None,
    ) -> Self:
        """The part of the table that is of one task, split, pooling or number of examples.

        Raises:
            UnknownNameError: the table has no such task, split, pooling or number.
        """
        wanted = {"task": task, "split": split, "pool": pool, "n": n}
        asked = {name: value for name, value in wanted.items() if value is not None}
        for name, value in asked.items():
            known = dict.fromkeys(getattr(r, name) for r in self._records)
            if value not in known:
                raise UnknownNameError.of(f"{name} of this table", str(value), map(str, known))
        # Models that a race dropped, on fewer examples, stand beside the others.
        records = [
            r
            for r in self._records
            if all(
                getattr(r, name) in (value, None) or (name == "n" and r.round)
                for name, value in asked.items()
            )
        ]
        return type(self)(records, self.view)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the long table as ``.jsonl``, ``.csv`` or ``.parquet``, by the file's ending.

        The file appears whole or not at all. A ``view`` other than ``"best"`` is a further column.

        Raises:
            InvalidInputError: an unknown ending, a place that cannot be written to, or a file that
                is there and holds no records.
        """
        write_records(Path(path), self._records, self.view)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a table that ``save`` wrote, of the bounds of ``record_files.read_records``.

        Raises:
            InvalidInputError: the file is missing, has an unknown ending, cannot be parsed, or has
                a field of another type.
        """
        path = Path(path)
        if not os.path.isfile(path):
            raise InvalidInputError(f"there is no table at {path}; check the path")
        try:
            records, view = read_records(path)
            return cls(records, view if view in _VIEWS else "best")
        except (OSError, ValueError, OverflowError) as error:
            raise InvalidInputError(
                f"{path} is not a score table: {error}; give a file that `save` or `rank` wrote"
            ) from error

    def named_metric(self, metric: str | None) -> str:
        """A metric of the table, by default its first."""
        known = self.metrics
        if not metric:
            return known[0] if known else ""
        return choose("metric of this table", metric, known)

    def rankings(self, metric: str | None = None, view: str | None = None) -> dict[Place, Ranking]:
        """The candidates under a metric, by default the first, by what their scores compare with.

        In the view ``"models"`` each model is one candidate, as the table has it or by its best
        layer.
        """
        metric, view = self.named_metric(metric), self.view if view is None else view
        if view == "models":
            view = "best" if self.view == "all" else self.view
        if (asked := (metric, _checked_view(view))) not in self._known:
            places = by_place(self._records, metric)
            self._known[asked] = {place: Ranking(own, *asked) for place, own in places.items()}
        return self._known[asked]

    def one_ranking(self, metric: str | None = None, view: str | None = None) -> Ranking:
        """The candidates under a metric, all scores of which must compare."""
        found = self.rankings(metric, view)
        if len(found) > 1:
            metric, (first, second, *_) = self.named_metric(metric), found
            differing = [i for i in range(4) if len({place[i] for place in found}) > 1]
            asked = ", ".join(f"{Place._fields[i]}={first[i]!r}" for i in differing)
            raise InvalidInputError(
                f"scores of {metric} of {' and '.join(place_labels([first, second]))} do not "
                f"compare; choose one with table.on({asked})"
            )
        empty = Ranking([], self.named_metric(metric), view or self.view)
        return next(iter(found.values()), empty)


def _checked_view(view: Any) -> str:
    if view not in _VIEWS:
        raise InvalidInputError(f"view must be one of {_VIEWS}, not {view!r}")
    return str(view)


def _with_own_names(records: Sequence[Record]) -> list[Record]:
    """Records in which a name stands for one model, and for one task: later ones get a number.

    >>> two = [Record("net", model_id=i, task="t") for i in ("a1", "b2", "a1")]
    >>> [r.model for r in _with_own_names(two)]
    ['net', 'net (2)', 'net']
    """
    for column in ("model", "task"):
        records = _renamed(records, column)
    return list(records)


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
            # A task's identity is that of the examples of a split; heads are fitted on ``train``.
            split = "train" if record.head else record.split or "train"
            part = split if column == "task" else ""
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


def _warn_of_twins(records: Sequence[Record]) -> None:
    """Warn where two values are of one measurement, so that either may be taken."""
    known: dict[tuple[Any, ...], Record] = {}
    for r in records:
        if r.value is not None and _contradict(r, known.setdefault(_identity(r), r)):
            own, value = visible(r.model), known[_identity(r)].value
            warn(
                f"{r.label} of {own} is there twice, as {value:g} and as {r.value:g}; tell the two "
                f"apart by model, task, split, layer, n or seed"
            )
            return


def _joined(first: Sequence[Record], second: Sequence[Record]) -> list[Record]:
    """The records of two tables.

    A measurement that both have is there once. Where its values differ by more than rounding, it
    cannot be one and the same, and the model of the second table gets a number.
    """
    both = _with_own_names([*first, *second])
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
        # The later one counts, unless it lacks errors that the one before has.
        if twin is None or record.deviations or not twin.deviations:
            found[key] = _with_belief(record, twin)
        else:
            found[key] = _with_belief(twin, record)
    return list(found.values())


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
