"""What a report is made of: tables and selections, brought into groups of scores that compare."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transfer_metrics.errors import InvalidInputError, quiet
from transfer_metrics.heads.decision import Decision
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.long_table import LongTable
from transfer_metrics.results.places import Place, by_place, place_labels
from transfer_metrics.results.ranks import Ranked
from transfer_metrics.results.record import Record
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.wording import count
from transfer_metrics.selection.base import Selection, read_results

_MOST_SETTINGS, _MOST_METRICS, _MOST_SELECTIONS = 24, 12, 20
# Endings of files of options, and how much of one is shown.
_OPTIONS, _MOST_BYTES = (".yaml", ".yml"), 1 << 16


@dataclass(frozen=True)
class Setting:
    """Scores that compare: of one task and split, pooled alike, on the same examples."""

    place: Place  # models that a race dropped were scored on fewer examples than its n
    table: ScoreTable

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.place.task

    def ranked(self, metric: str, view: str | None = None) -> list[Ranked]:
        """Candidates under one of its metrics, best first, failures last."""
        return [c for own in self.table.rankings(metric, view).values() for c in own.rows]


@dataclass
class Gathered:
    """Everything that was given for a report, in the order in which it was given."""

    settings: list[Setting] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)  # heads by task
    selections: list[Selection] = field(default_factory=list)
    options: list[tuple[str, list[str]]] = field(default_factory=list)  # name and lines of files
    sources: list[tuple[str, str, int]] = field(default_factory=list)  # name, SHA-256, records
    decisions: list[Decision] = field(default_factory=list)
    replaced: int = 0  # scores that were given twice with different values

    @property
    def tasks(self) -> list[str]:
        """Names of all tasks."""
        return list(dict.fromkeys([*(s.task for s in self.settings), *self.comparisons]))

    @property
    def labels(self) -> list[str]:
        """The task of each setting, with what tells it from the others of that task."""
        return place_labels([s.place for s in self.settings])

    @property
    def tables(self) -> list[ScoreTable]:
        """All scores and measurements."""
        return [*(s.table for s in self.settings), *self.comparisons.values()]

    def bounded(self) -> tuple[Gathered, list[str]]:
        """What goes into one page: the first of what is large, and what was left out in words.

        >>> Gathered(selections=[None] * 21).bounded()[1]
        ['the first 20 of 21 selections are shown']
        """
        metrics = max((len(s.table.metrics) for s in self.settings), default=0)
        told = [
            f"the first {most} of {count(total)} {name} are shown"
            for name, total, most in (
                ("groups of scores", len(self.settings), _MOST_SETTINGS),
                ("comparisons", len(self.comparisons), _MOST_SETTINGS),
                ("selections", len(self.selections), _MOST_SELECTIONS),
                ("metrics", metrics, _MOST_METRICS),
            )
            if total > most
        ]
        kept = replace(
            self,
            settings=[_first_metrics(s) for s in self.settings[:_MOST_SETTINGS]],
            comparisons=dict(list(self.comparisons.items())[:_MOST_SETTINGS]),
            selections=self.selections[:_MOST_SELECTIONS],
        )
        return kept, told


def gather(given: Any, view: str | None = None) -> Gathered:
    """Read tables and selections, check every record, and group what compares.

    See ``write_report`` for what may be given.
    """
    items = given if isinstance(given, (list, tuple)) else [given]
    found, tables = Gathered(), []
    for item in items:
        if isinstance(item, (str, os.PathLike)):
            path = Path(item)
            path = path / "scores.jsonl" if path.is_dir() else path
            if path.suffix.lower() in _OPTIONS:
                found.options.append((path.name, _lines(path)))
                continue
            item = read_results(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            records = len(item) if isinstance(item, ScoreTable) else 0
            found.sources.append((path.name, digest, records))
        if isinstance(item, Decision):
            found.decisions.append(item)
            found.selections.append(item.selection)
            tables += [item.ranking, item.comparison]
        elif isinstance(item, Selection):
            found.selections.append(item)
        elif isinstance(item, ScoreTable):
            tables.append(item)
        else:
            raise InvalidInputError(
                f"a report is made of score tables, comparisons, decisions and selections, not of "
                f"{type(item).__name__}"
            )
    if not (found.selections or any(len(table) for table in tables)):
        names = ", ".join(str(item) for item in items if isinstance(item, (str, os.PathLike)))
        raise InvalidInputError(
            f"there is nothing to report{f' in {names}' if names else ''}: no record and no "
            f"selection was given; give what `rank`, `compare` or `select --out` wrote"
        )
    view = view or next((table.view for table in tables), "best")
    scores: dict[Place, dict[tuple[Any, ...], Record]] = {}
    measured: dict[str, list[Record]] = {}
    for given_records in _without_gaps(tables):
        for record in (r for r in given_records if r.is_measured):
            measured.setdefault(record.task or "", []).append(record)
        parts = by_place(r for r in given_records if not r.is_measured)
        for key, own in parts.items():
            found.replaced += _merge(scores.setdefault(key, {}), own)
    found.settings = [
        Setting(key, ScoreTable(_without_mended(group.values()), view))
        for key, group in scores.items()
    ]
    found.comparisons = {task: Comparison(_once(records)) for task, records in measured.items()}
    return found


def _first_metrics(setting: Setting) -> Setting:
    metrics = setting.table.metrics
    if len(metrics) <= _MOST_METRICS:
        return setting
    # A failure to load a model has the empty label.
    kept = {*metrics[:_MOST_METRICS], ""}
    records = [r for r in setting.table if r.label in kept]
    return replace(setting, table=ScoreTable(records, setting.table.view))


def _without_gaps(tables: Iterable[ScoreTable]) -> list[list[Record]]:
    """Records of each table without gaps, names standing for one thing in all of them."""
    checked = [
        [
            replace(
                r,
                model=r.model or "unnamed",
                metric=r.metric or "",
                higher_is_better=r.higher_is_better is not False,
            )
            for r in table
        ]
        for table in tables
    ]
    with quiet():  # what two tables tell otherwise is counted
        named = iter(LongTable(record for records in checked for record in records))
    return [list(itertools.islice(named, len(records))) for records in checked]


def _merge(group: dict[tuple[Any, ...], Record], records: Iterable[Record]) -> int:
    """Add records to a group; returns how many values were replaced by others."""
    replaced = 0
    for record in records:
        key = (record.model, record.layer, record.label)
        known = group.get(key)
        if known and known.value is not None:
            if record.value is None:
                continue
            replaced += known.value != record.value
        group[key] = record
    return replaced


def _without_mended(records: Iterable[Record]) -> list[Record]:
    """Without failures to load a model that another table has scores of."""
    kept = list(records)
    scored = {r.model for r in kept if r.value is not None}
    return [r for r in kept if r.metric or r.model not in scored]


def _once(records: Iterable[Record]) -> list[Record]:
    """Each measurement once; the last given counts."""
    names = ("model", "head", "metric", "split", "seed", "layer")
    return list({tuple(getattr(r, name) for name in names): r for r in records}.values())


def _lines(path: Path) -> list[str]:
    """The lines of a small file of text."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path} ({error})") from error
    if len(text) > _MOST_BYTES:
        raise InvalidInputError(f"{path} is too large for a file of options; give a run.yaml")
    return text.splitlines()
