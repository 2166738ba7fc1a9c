"""Tasks from tables: text files with one example per line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.base import Kind, Task
from transfer_metrics.sources.files import existing_file, split_name
from transfer_metrics.sources.memory import as_examples, make_task


def from_csv(
    place: str,
    name: str,
    kind: Kind | None = None,
    *,
    label: str | None = None,
    text: str | None = None,
    features: str | None = None,
    split: str | None = None,
) -> Task:
    """Read a table with a header: texts, pairs of texts, or numbers, one example per row.

    Args:
        place: the file; tabs separate the columns of a ``.tsv``, commas those of others.
        name: the task.
        kind: ``"classification"`` or ``"regression"``; see ``labels.encode`` for the default.
        label: column of the label; ``label``, or else the last.
        text: column of the text, or two with a comma between; ``text`` or else the only columns
            that hold words.
        features: columns of numbers, commas between; all others by default.
        split: column that says ``train``, ``test`` and so on; ``split`` where there is one. Without
            it everything is training data.

    A column ``<label>_name`` names the classes.

    Raises:
        InvalidInputError: a column does not exist, a cell is empty or no number, or the roles of
            the columns are not clear.
    """
    table = _read_table(place, name)
    columns = list(table)
    label = label or ("label" if "label" in columns else columns[-1])
    split = split or ("split" if "split" in columns else None)
    _require_columns(name, columns, [label] + ([split] if split else []))
    titles = f"{label}_name" if f"{label}_name" in columns else None
    rest = [c for c in columns if c not in (label, split, titles)]
    examples: Any
    if features:
        examples = _numbers(table, _listed(name, columns, features), name)
    else:
        wanted = (
            _listed(name, columns, text)
            if text
            else text_columns(name, [c for c in rest if not _is_numeric(table[c])], len(rest))
        )
        examples = _texts(table, wanted) if wanted else _numbers(table, rest, name)
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


def _read_table(place: str, name: str) -> dict[str, list[str]]:
    import pandas as pd

    path = existing_file(place, name)
    separator = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    try:
        # Everything as text first: a review that says "null" is no missing value.
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise InvalidInputError(
            f"task {name!r}: {place!r} cannot be read as a table ({error}); it needs UTF-8 text "
            f"with a header line"
        ) from error
    if not len(frame):
        raise InvalidInputError(f"task {name!r}: {place!r} has no rows")
    return {str(column): frame[column].tolist() for column in frame}


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
