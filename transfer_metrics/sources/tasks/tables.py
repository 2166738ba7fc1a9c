"""Tasks from tables, with one example, or one sentence of words, per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.in_memory import as_examples
from transfer_metrics.sources.tasks.label_values import ABSENT
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.paths import split_name
from transfer_metrics.sources.tasks.sequences import some
from transfer_metrics.sources.tasks.table_columns import Holds, Table
from transfer_metrics.sources.tasks.table_files import lists_in, read_table
from transfer_metrics.sources.tasks.table_roles import counting, find_label, labels_among, no_input
from transfer_metrics.sources.tasks.task import Task, Understood
from transfer_metrics.sources.tasks.words import words_task

WORDS = ("tokens", "words")
TAGS = ("ner_tags", "pos_tags", "tags", "labels", "label")


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
    """Read a table: images, texts, pairs, words or numbers, one per row.

    Args:
        place: the file, or files of Parquet; see ``table_files.read_table``.
        name: the task.
        kind: ``"classification"`` or ``"regression"``; see ``labels.encode`` for the default.
        label: column of the label; by default that of a usual name, wherever it stands, or else
            the last; see ``table_roles``. Of words the column with a list of labels; ``ner_tags``,
            ``pos_tags``, ``tags`` or ``labels``.
        text: column of the text, or two with a comma between; ``text`` or else the only columns
            that hold words.
        image: column of images or of the paths of image files; by default the only column that
            holds images, or of which all cells end in ``.jpg``, ``.png`` and so on.
        words: column with a list of words, each of which has a label and is an example;
            ``tokens`` or ``words`` where these are lists in JSON.
        features: columns of numbers, commas between; all others by default, but for those that
            number the rows.
        split: column that says ``train``, ``test`` and so on; ``split`` where there is one. Without
            it everything is training data, or the names of several Parquet files tell.
        root: folder that paths of images start at, and which they must not leave; by default that
            of the table.
        header: ``"no"`` where the first line of separated values is data; columns are then called
            ``0``, ``1`` and so on.
        bio: for words; see ``words_task``.
        missing: what to do about rows without a label; see ``assembly.make_task``.

    A column ``<label>_name`` names the classes.

    Raises:
        InvalidInputError: a column does not exist, a cell is empty or no number, or the roles of
            the columns are not clear.
        MissingDependencyError: Parquet needs ``pyarrow``.
    """
    table = read_table(place, name, header)
    try:
        return _task_of(
            table, name, kind, label, text, image, words, features, split, root, bio, missing
        )
    except InvalidInputError as error:
        if not table.suspicions:
            raise
        raise InvalidInputError(f"{error}; besides, {'; '.join(table.suspicions)}") from error


def _task_of(
    table: Table,
    name: str,
    kind: Kind | None,
    label: str | None,
    text: str | None,
    image: str | None,
    words: str | None,
    features: str | None,
    split: str | None,
    root: str | None,
    bio: str,
    missing: str,
) -> Task:
    columns = table.columns
    split = split or ("split" if "split" in columns else None)
    _require_columns(name, columns, [split] if split else [])
    holds = {column: table.holds(column) for column in columns}
    if not text and not image:
        words = words or next((c for c in WORDS if holds.get(c) == "lists"), None)
    if words:
        return _words_of(table, name, kind, label, words, split, bio)
    left = {
        c: why for c in columns if c not in (label, split) and (why := _unused(table, c, holds))
    }
    suspicions = list(table.suspicions)
    if label is None:
        label, doubts = find_label([c for c in columns if c not in (*left, split)] or [columns[-1]])
        suspicions += doubts
    _require_columns(name, columns, [label])
    titles = f"{label}_name" if f"{label}_name" in columns else None
    others = {c: holds[c] for c in columns if c not in (label, split, titles)}
    # An index is better than nothing at all.
    rest = {c: held for c, held in others.items() if c not in left} or others
    for column in (label, *rest):
        if holds[column] == "lists":
            raise InvalidInputError(
                f"task {name!r}: column {column!r} holds lists; say ?words={column} if they are "
                f"words with a label each, or leave the column out of the file"
            )
    examples, inputs = _examples(table, rest, text, image, features, root)
    if isinstance(examples, np.ndarray):
        suspicions += labels_among(inputs) + ([] if features else counting(examples, inputs))
    understood = Understood(
        label,
        tuple(inputs),
        tuple((f"column {c!r}", left.get(c, "it is not read")) for c in others if c not in inputs),
        tuple(suspicions),
    )
    labels = table.labels(label)
    classes = table.class_names(label)
    if titles and kind != "regression":
        classes = _titles(labels, table.cells(titles))
        given = zip(labels, table.cells(titles), strict=True)
        labels = [y if _is_blank(y) else title for y, title in given] if classes else labels
    parts: dict[str, tuple[Sequence[Any], Any]] = {
        part: (_some(examples, index, name), [labels[i] for i in index])
        for part, index in _rows(table, split).items()
    }
    return make_task(name, parts, kind, classes, missing, understood)


def _unused(table: Table, column: str, holds: Mapping[str, Holds]) -> str:
    """Why a column is no input; empty if it may be one."""
    if table.is_empty(column):
        return "it has no values"
    if holds[column] not in ("numbers", "text"):
        return ""
    return no_input(column, table.columns.index(column), table.cells, table.index)


def _examples(
    table: Table,
    rest: Mapping[str, Holds],
    text: str | None,
    image: str | None,
    features: str | None,
    root: str | None,
) -> tuple[Any, list[str]]:
    """Images, texts, pairs of texts, or numbers (N, D), and the columns that they are from."""
    name, columns = table.name, table.columns
    if features:
        wanted = _listed(name, columns, features)
        return table.numbers(wanted), wanted
    if text:
        wanted = _listed(name, columns, text)
        if len(wanted) > 2:
            raise InvalidInputError(
                f"task {name!r}: columns {', '.join(wanted)} are to be the text, which is one "
                f"column or two; name fewer"
            )
        return table.texts(wanted), wanted
    pictures = [image] if image else [c for c, held in rest.items() if held in ("images", "paths")]
    _require_columns(name, columns, pictures)
    if len(pictures) > 1:
        raise InvalidInputError(
            f"task {name!r}: columns {', '.join(pictures)} hold images; say ?image=column"
        )
    if pictures:
        return table.images(pictures[0], root), pictures
    for column in (c for c, held in rest.items() if held == "text"):
        row = table.odd_row(column)
        if row is not None:
            raise InvalidInputError(
                f"task {name!r}: row {row + 1} has {table.cells(column)[row]!r} in column "
                f"{column!r}, of which most cells are numbers; correct it, name the columns of "
                f"numbers with ?features=…, or say ?text={column} if it is text"
            )
    wanted = text_columns(name, [c for c, held in rest.items() if held == "text"], len(rest))
    if wanted:
        return table.texts(wanted), wanted
    if not rest:
        single = f", or put one of , ; | or a tab between the columns in {columns[0]!r}"
        raise InvalidInputError(
            f"task {name!r}: there are no columns besides the label; add what models are to read"
            f"{single if len(columns) == 1 else ''}"
        )
    return table.numbers(list(rest)), list(rest)


def _words_of(
    table: Table,
    name: str,
    kind: Kind | None,
    label: str | None,
    words: str,
    split: str | None,
    bio: str,
) -> Task:
    """The task of a table with lists of words and lists of their labels."""
    label = label or next((c for c in TAGS if c in table.columns), None)
    if label is None:
        raise InvalidInputError(
            f"task {name!r}: which column has the labels of the words? The columns are: "
            f"{', '.join(table.columns)}; say ?label=column"
        )
    _require_columns(name, table.columns, [words, label])
    sentences = [
        [str(word) for word in row]
        for row in lists_in(table.cells(words), f"task {name!r}, column {words!r}")
    ]
    tags = _tags(lists_in(table.cells(label), f"task {name!r}, column {label!r}"))
    parts = {
        part: ([sentences[i] for i in index], [tags[i] for i in index])
        for part, index in _rows(table, split).items()
    }
    return words_task(name, parts, kind, bio=bio)


def _tags(rows: list[list[Any]]) -> list[list[Any]]:
    """Labels as numbers where all are written as whole ones."""
    try:
        return [[int(tag) if isinstance(tag, str) else tag for tag in row] for row in rows]
    except ValueError:
        return rows


def text_columns(name: str, words: list[str], columns: int) -> list[str]:
    """Choose the columns that hold the text among those that hold words; none means numbers.

    Raises:
        InvalidInputError: it is not clear which.
    """
    for pair in (
        ("text", "text2"),
        ("text1", "text2"),
        ("sentence1", "sentence2"),
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("question", "sentence"),
    ):
        if set(pair) <= set(words):
            return list(pair)
    for single in ("text", "sentence", "content"):
        if single in words:
            return [single]
    if not words or (len(words) <= 2 and len(words) == columns):
        return words
    raise InvalidInputError(
        f"task {name!r}: columns {', '.join(words)} hold words; say which are the text, "
        f"?text=one or ?text=one,two, or which columns are numbers, ?features=a,b"
    )


def _require_columns(name: str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    lacking = [column for column in wanted if column not in columns]
    if lacking:
        raise InvalidInputError(
            f"task {name!r}: there is no column {lacking[0]!r}; the columns are: "
            f"{', '.join(columns)}"
        )


def _listed(name: str, columns: Sequence[str], wanted: str) -> list[str]:
    listed = [column.strip() for column in wanted.split(",")]
    _require_columns(name, columns, listed)
    return listed


def _rows(table: Table, split: str | None) -> Mapping[str, np.ndarray]:
    if split is None:
        return table.splits or {"train": np.arange(table.rows)}
    names = np.array([split_name(cell.strip()) for cell in table.cells(split)])
    return {str(part): np.flatnonzero(names == part) for part in dict.fromkeys(names.tolist())}


def _some(examples: Any, index: np.ndarray, name: str) -> Sequence[Any]:
    if isinstance(examples, np.ndarray):
        return as_examples(examples[index], f"task {name!r}")
    if isinstance(examples, list):
        return [examples[i] for i in index]
    return examples if len(index) == len(examples) else some(examples, index)


def _titles(labels: Sequence[Any], titles: Sequence[str]) -> list[str] | None:
    """Names of the classes in the order of their labels, if each label has one name."""
    pairs = {pair for pair in zip(labels, titles, strict=True) if not _is_blank(pair[0])}
    if not len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs}):
        return None
    names = dict(pairs)
    try:
        return [names[label] for label in sorted(names, key=float)]
    except (TypeError, ValueError):
        return [names[label] for label in sorted(names, key=str)]


def _is_blank(label: Any) -> bool:
    return label is None or label != label or str(label).strip() in ABSENT
