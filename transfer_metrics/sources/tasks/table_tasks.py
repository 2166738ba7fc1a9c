"""Tasks from tables, with one example, or one sentence of words, per row."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.tasks.assembly import in_one_order, make_task, words_task
from transfer_metrics.sources.tasks.column_roles import Asked, Roles
from transfer_metrics.sources.tasks.in_memory import as_examples
from transfer_metrics.sources.tasks.label_values import is_absent
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.pairing import counting
from transfer_metrics.sources.tasks.sequences import some
from transfer_metrics.sources.tasks.table_cells import Table
from transfer_metrics.sources.tasks.table_files import read_table
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import parse_json

_LONGEST = 1_000_000


def from_table(
    place: str,
    name: str,
    kind: Kind | None = None,
    *,
    label: str | None = None,
    text: str | None = None,
    image: str | None = None,
    words: str | None = None,
    features: str | None = None,
    split: str | None = None,
    root: str | None = None,
    header: str | None = None,
    bio: str = "keep",
    missing: str = "skip",
) -> Task:
    """Read a table: images, texts, pairs, words or numbers, one per row; ``docs/data.md`` has more.

    ``label``, ``text``, ``image``, ``words``, ``features`` and ``split`` name columns, some of
    them several with commas between; what is not named is found out, see ``column_roles``. A column
    ``<label>_name`` names the classes. Paths of images start at the folder ``root``, and must not
    leave it. With ``header="no"`` the first line of separated values is data, and columns are
    called ``0``, ``1`` and so on. ``bio`` is for ``words_task``, ``missing`` for ``make_task``.
    """
    table = read_table(place, header)
    asked = Asked(label, text, image, words, features, split)
    try:
        return task_of([table], name, kind, asked, root=root, bio=bio, missing=missing)
    except InvalidInputError as error:
        if not table.suspicions:
            raise
        raise InvalidInputError(f"{error}; besides, {'; '.join(table.suspicions)}") from error


def task_of(
    tables: Sequence[Table],
    name: str,
    kind: Kind | None,
    asked: Asked,
    *,
    root: str | None = None,
    bio: str = "keep",
    missing: str = "skip",
) -> Task:
    """The task of tables of the same columns, each with splits of its own; the first decides."""
    roles = Roles.of(tables[0], asked)
    label, inputs, understood = roles.understood.label, roles.understood.inputs, roles.understood
    lacking = [t for t in tables[1:] if not {*roles.labels} & {*t.columns} and t.splits]
    for table in lacking:
        if "train" in (table.splits or ()):
            table.require(roles.labels)
        bare = ", ".join(map(repr, table.splits or ()))
        warn(f"task {name!r}: left out split {bare}, which has no column {label!r}")
        understood = understood.plus([(f"split {bare}", f"it has no column {label!r}")])
    tables = [table for table in tables if table not in lacking]
    for table in tables[1:]:
        table.require([*inputs, *roles.labels])
    read: dict[str, Sequence[Any]] = {}
    numbered: dict[str, tuple[Any, Sequence[str] | None]] = {}
    for table in tables:
        classes: Sequence[str] | None = table.class_names(label)
        examples: Any
        if roles.form == "words":
            examples, labels = _sentences(table, roles)
        elif roles.form == "images":
            examples = table.images(inputs[0], root)
        else:
            examples = (table.texts if roles.form == "texts" else table.numbers)(inputs)
        if roles.form == "numbers" and table is tables[0] and not asked.features:
            understood = understood.plus(suspicions=counting(examples, inputs))
        if len(roles.labels) > 1:
            labels = np.asarray(table.numbers(roles.labels), np.float64).tolist()
            if kind is None and all(number in (0, 1) for row in labels for number in row):
                kind = "multilabel"
            classes = roles.labels if kind == "multilabel" else None
        elif roles.form != "words":
            labels = table.labels(label)
        if roles.titles and kind != "regression":
            titles = table.cells(roles.titles)
            classes = _titles(labels, titles)
            given = zip(labels, titles, strict=True)
            labels = [y if is_absent(y) else title for y, title in given] if classes else labels
        for split, index in roles.rows(table).items():
            read[split] = _some(examples, index)
            numbered[split] = ([labels[i] for i in index], classes)
    labels_of, names = in_one_order(numbered)
    parts = {split: (examples, labels_of[split]) for split, examples in read.items()}
    if roles.form == "words":
        return words_task(name, parts, kind, names, bio=bio, understood=understood)
    return make_task(name, parts, kind, names, missing, understood)


def _sentences(table: Table, roles: Roles) -> tuple[list[Any], list[Any]]:
    """Lists of words and lists of their labels."""
    [words], label = roles.understood.inputs, roles.understood.label
    sentences = [[str(word) for word in row] for row in word_lists(table, words)]
    tags = word_lists(table, label)
    with contextlib.suppress(ValueError):  # numbers where all are written as whole ones
        tags = [[int(tag) if isinstance(tag, str) else tag for tag in row] for row in tags]
    return sentences, tags


def word_lists(table: Table, column: str) -> list[list[Any]]:
    """Cells that hold lists: JSON's, written as in JSON or Python, or words with spaces between."""
    where, found = f"column {column!r}", []
    for row, cell in enumerate(table.cells(column), start=1):
        if isinstance(cell, str):
            listed = cell.lstrip().startswith("[")
            cell = _parsed(cell, f"{where}: row {row}") if listed else cell.split()
        if not isinstance(cell, list):
            raise InvalidInputError(f"{where}: row {row} has {cell!r}, which is no list")
        found.append(cell)
    return found


def _parsed(cell: str, where: str) -> Any:
    # Python's literals are slow to read where they are long.
    for parse in (parse_json, *([ast.literal_eval] if len(cell) <= _LONGEST else [])):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return parse(cell)
    raise InvalidInputError(
        f"{where} has {cell[:40]!r}, which cannot be read as a list; write "
        f'["a", "b"], or words with spaces between'
    )


def _some(examples: Any, index: np.ndarray) -> Sequence[Any]:
    if isinstance(examples, np.ndarray):
        return as_examples(examples[index], "columns")
    if isinstance(examples, list):
        return [examples[i] for i in index]
    return examples if len(index) == len(examples) else some(examples, index)


def _titles(labels: Sequence[Any], titles: Sequence[str]) -> list[str] | None:
    """Names of the classes in the order of their labels, if each label has one name."""
    pairs = {pair for pair in zip(labels, titles, strict=True) if not is_absent(pair[0])}
    if not len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs}):
        return None
    names = dict(pairs)
    try:
        return [names[label] for label in sorted(names, key=float)]
    except (TypeError, ValueError):
        return [names[label] for label in sorted(names, key=str)]
