"""Tasks from tables: text files with one example, or one sentence of words, per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.base import Kind, Task
from transfer_metrics.sources.files import split_name
from transfer_metrics.sources.memory import as_examples, make_task
from transfer_metrics.sources.table_files import lists_in, read_table
from transfer_metrics.sources.words import words_task

WORDS = ("tokens", "words")
TAGS = ("ner_tags", "pos_tags", "tags", "labels", "label")


def from_table(
    place: str,
    name: str,
    kind: Kind | None = None,
    *,
    label: str | None = None,
    text: str | None = None,
    words: str | None = None,
    features: str | None = None,
    split: str | None = None,
    bio: str = "keep",
) -> Task:
    """Read a table with a header or JSON lines: texts, pairs, words or numbers, one per row.

    Args:
        place: the file; see ``table_files.read_table``.
        name: the task.
        kind: ``"classification"`` or ``"regression"``; see ``labels.encode`` for the default.
        label: column of the label; ``label``, or else the last. Of words the column with a list of
            labels; ``ner_tags``, ``pos_tags``, ``tags`` or ``labels``.
        text: column of the text, or two with a comma between; ``text`` or else the only columns
            that hold words.
        words: column with a list of words, each of which has a label and is an example;
            ``tokens`` or ``words`` where these are lists in JSON.
        features: columns of numbers, commas between; all others by default.
        split: column that says ``train``, ``test`` and so on; ``split`` where there is one. Without
            it everything is training data.
        bio: for words; see ``words_task``.

    A column ``<label>_name`` names the classes.

    Raises:
        InvalidInputError: a column does not exist, a cell is empty or no number, or the roles of
            the columns are not clear.
    """
    table = read_table(place, name)
    columns = list(table)
    split = split or ("split" if "split" in columns else None)
    _require_columns(name, columns, [split] if split else [])
    listed = [c for c in columns if isinstance(table[c][0], list)]
    words = words or (next((c for c in WORDS if c in listed), None) if not text else None)
    if words:
        return _words_of(table, name, kind, label, words, split, bio)
    label = label or ("label" if "label" in columns else columns[-1])
    _require_columns(name, columns, [label])
    titles = f"{label}_name" if f"{label}_name" in columns else None
    rest = [c for c in columns if c not in (label, split, titles)]
    for column in [label, *rest]:
        if any(isinstance(cell, list) for cell in table[column]):
            raise InvalidInputError(
                f"task {name!r}: column {column!r} holds lists; say ?words={column} if they are "
                f"words with a label each, or leave the column out of the file"
            )
    examples = _examples(table, name, rest, text, features)
    labels = _labels(table[label], name, label)
    rows = _rows(table[split] if split else None, len(labels))
    classes = None
    if titles and kind != "regression":
        classes = _titles(labels, table[titles])
        labels = np.array(table[titles], dtype=object) if classes else labels
    parts: dict[str, tuple[Sequence[Any], Any]] = {
        part: (
            as_examples(examples[index], f"task {name!r}")
            if isinstance(examples, np.ndarray)
            else [examples[i] for i in index],
            labels[index],
        )
        for part, index in rows.items()
    }
    return make_task(name, parts, kind, classes)


def _examples(
    table: Mapping[str, list[Any]],
    name: str,
    rest: list[str],
    text: str | None,
    features: str | None,
) -> Any:
    """Texts, pairs of texts, or numbers (N, D) of the columns besides the label."""
    columns = list(table)
    if features:
        return _numbers(table, _listed(name, columns, features), name)
    if text:
        return _texts(table, _listed(name, columns, text))
    wanted = text_columns(name, [c for c in rest if not _is_numeric(table[c])], len(rest))
    return _texts(table, wanted) if wanted else _numbers(table, rest, name)


def _words_of(
    table: Mapping[str, list[Any]],
    name: str,
    kind: Kind | None,
    label: str | None,
    words: str,
    split: str | None,
    bio: str,
) -> Task:
    """The task of a table with lists of words and lists of their labels."""
    label = label or next((c for c in TAGS if c in table), None)
    if label is None:
        raise InvalidInputError(
            f"task {name!r}: which column has the labels of the words? The columns are: "
            f"{', '.join(table)}; say ?label=column"
        )
    _require_columns(name, list(table), [words, label])
    sentences = [
        [str(word) for word in row]
        for row in lists_in(table[words], f"task {name!r}, column {words!r}")
    ]
    tags = _tags(lists_in(table[label], f"task {name!r}, column {label!r}"))
    rows = _rows(table[split] if split else None, len(tags))
    parts = {
        part: ([sentences[i] for i in index], [tags[i] for i in index])
        for part, index in rows.items()
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


def _is_numeric(cells: Sequence[str]) -> bool:
    try:
        for cell in cells:
            if cell.strip():
                float(cell)
    except ValueError:
        return False
    return True


def _numbers(table: Mapping[str, list[str]], columns: Sequence[str], name: str) -> np.ndarray:
    if not columns:
        raise InvalidInputError(f"task {name!r}: there are no columns besides the label")
    for column in columns:
        for row, cell in enumerate(table[column]):
            if not cell.strip():
                raise InvalidInputError(
                    f"task {name!r}: row {row + 1} has nothing in column {column!r}; fill it or "
                    f"leave the row out"
                )
            if not _is_numeric([cell]):
                raise InvalidInputError(
                    f"task {name!r}: row {row + 1} has {cell!r} in column {column!r}, which is no "
                    f"number; leave the column out with ?features=…"
                )
    return np.array([[float(cell) for cell in table[c]] for c in columns], np.float64).T


def _texts(table: Mapping[str, list[str]], columns: Sequence[str]) -> list[Any]:
    if len(columns) == 1:
        return table[columns[0]]
    if len(columns) != 2:
        raise InvalidInputError(f"columns {list(columns)}: a text is one column or two")
    return list(zip(table[columns[0]], table[columns[1]], strict=True))


def _labels(cells: Sequence[str], name: str, label: str) -> np.ndarray:
    for row, cell in enumerate(cells):
        if not cell.strip():
            raise InvalidInputError(
                f"task {name!r}: row {row + 1} has no label in column {label!r}; label it or "
                f"leave it out"
            )
    for convert in (int, float):
        try:
            return np.array([convert(cell) for cell in cells])
        except (ValueError, OverflowError):
            continue
    return np.array(list(cells), dtype=object)


def _rows(cells: Sequence[str] | None, count: int) -> dict[str, np.ndarray]:
    if cells is None:
        return {"train": np.arange(count)}
    names = np.array([split_name(cell.strip()) for cell in cells])
    return {str(part): np.flatnonzero(names == part) for part in dict.fromkeys(names.tolist())}


def _titles(labels: np.ndarray, titles: Sequence[str]) -> list[str] | None:
    """Names of the classes in the order of their labels, if each label has one name."""
    pairs = set(zip(labels.tolist(), titles, strict=True))
    if not len(pairs) == len({p[0] for p in pairs}) == len({p[1] for p in pairs}):
        return None
    return [title for _, title in sorted(pairs)]
