"""What a report is made of: tables and selections, brought into groups of scores that compare."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.comparable import Place, by_place, place_labels, with_own_names
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.results.table import FORMATS, ScoreTable
from transfer_metrics.selection.base import Selection
from transfer_metrics.untrusted import read_json

# Endings of files of options, and how much of one is shown.
OPTIONS, MOST_BYTES = (".yaml", ".yml"), 1 << 16


@dataclass(frozen=True)
class Setting:
    """Scores that compare: of one task and split, pooled alike, on the same examples.

    Attributes:
        task: name of the task.
        split: which of its splits was scored.
        pool: pooling of feature maps.
        n: number of examples; models that a race dropped were scored on fewer.
        table: the scores.
    """

    task: str
    split: str
    pool: str
    n: int | None
    table: ScoreTable


@dataclass
class Gathered:
    """Everything that was given for a report.

    Attributes:
        settings: groups of scores that compare, in the order in which they were given.
        comparisons: measurements of heads by task.
        selections: choices of layers or feature maps.
        options: name and lines of files of options that runs wrote.
        sources: name, hash and number of records of each file.
        replaced: how many scores were given twice with different values.
    """

    settings: list[Setting] = field(default_factory=list)
    comparisons: dict[str, Comparison] = field(default_factory=dict)
    selections: list[Selection] = field(default_factory=list)
    options: list[tuple[str, list[str]]] = field(default_factory=list)
    sources: list[tuple[str, str, int]] = field(default_factory=list)
    replaced: int = 0


def gather(given: Any, view: str | None = None) -> Gathered:
    """Read tables and selections, check every record, and group what compares.

    Args:
        given: a ``ScoreTable``, ``Comparison``, ``Selection``, the path of a file that one of them
            wrote, of an array of records in JSON or of options (``run.yaml``), or a list of these.
        view: which layers stand for a model; that of the first table by default.

    Raises:
        InvalidInputError: a file that is missing or holds something else, or nothing at all.
    """
    items = given if isinstance(given, (list, tuple)) else [given]
    found, tables = Gathered(), []
    for item in items:
        if isinstance(item, (str, os.PathLike)):
            path = Path(item)
            if path.suffix.lower() in OPTIONS:
                found.options.append((path.name, _lines(path)))
                continue
            item = _read(path, found.sources)
        if isinstance(item, Selection):
            found.selections.append(item)
        elif isinstance(item, ScoreTable):
            tables.append(item)
        else:
            raise InvalidInputError(
                f"a report is made of score tables, comparisons and selections, not of "
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
    for given_records in _checked(tables):
        for record in (r for r in given_records if r.is_measured):
            measured.setdefault(record.task or "", []).append(record)
        parts = by_place(r for r in given_records if not r.is_measured)
        for key, records in parts.items():
            found.replaced += _merge(scores.setdefault(key, {}), records)
    found.settings = [
        Setting(*key, ScoreTable(_without_mended(group.values()), view))
        for key, group in scores.items()
    ]
    found.comparisons = {task: Comparison(_once(records)) for task, records in measured.items()}
    return found


def setting_labels(settings: Sequence[Setting]) -> list[str]:
    """The task of each setting, with what tells it from the others of that task.

    >>> two = [Setting("digits", "train", "avg", n, ScoreTable([])) for n in (50, 60)]
    >>> setting_labels(two)
    ['digits, n = 50', 'digits, n = 60']
    """
    return place_labels([(s.task, s.split, s.pool, s.n) for s in settings])


def _checked(tables: Iterable[ScoreTable]) -> list[list[Record]]:
    """Records of each table with their types, names standing for one thing in all of them."""
    checked = []
    for table in tables:
        records = []
        for i, given in enumerate(table, start=1):
            record = Record.checked(given, f"record {i}")
            records.append(
                replace(
                    record,
                    model=record.model or "unnamed",
                    metric=record.metric or "",
                    higher_is_better=record.higher_is_better is not False,
                )
            )
        checked.append(records)
    named = iter(with_own_names([record for records in checked for record in records]))
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
    """The lines of a small file of text.

    Raises:
        InvalidInputError: it cannot be read, or is large.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"cannot read {path} ({error})") from error
    if len(text) > MOST_BYTES:
        raise InvalidInputError(f"{path} is too large for a file of options; give a run.yaml")
    return text.splitlines()


def _read(path: Path, sources: list[tuple[str, str, int]]) -> ScoreTable | Selection:
    """A table or a selection from its file, whose name and hash are remembered."""
    if path.suffix.lower() in FORMATS:
        table = ScoreTable.load(path)
        item: ScoreTable | Selection = table
        count = len(table)
    else:
        item, count = _read_json(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    sources.append((path.name, digest, count))
    return item


def _read_json(path: Path) -> tuple[ScoreTable | Selection, int]:
    """A selection, or an array of records as ``--json`` prints it."""
    if not os.path.isfile(path):
        raise InvalidInputError(f"there is no table at {path}; check the path")
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path} is no score table ({error}); give .jsonl, .csv or .parquet as table.save "
            f"writes them, or .json as --json and `select --out` do"
        ) from error
    if isinstance(content, list) and all(isinstance(r, dict) for r in content):
        return ScoreTable(content), len(content)
    return Selection.load(path), 0
