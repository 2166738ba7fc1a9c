"""Columns of tables: what they hold, which is the label, which are inputs, and which neither.

That is decided by what is asked for, then by names, then by what the columns hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.naming import plain_name
from transfer_metrics.sources.tasks.label_values import FEW, number_of
from transfer_metrics.sources.tasks.pairing import INDEX
from transfer_metrics.sources.tasks.paths import split_name, split_within
from transfer_metrics.sources.tasks.table_cells import Holds, Table
from transfer_metrics.sources.tasks.task import Understood

_SURE = (
    "label", "labels", "class", "classes", "target", "targets", "y",
    "goldlabel", "classlabel", "labelname", "groundtruth", "cls",
)  # fmt: skip
"""Names of the column of labels, the first that there is; ``y`` at either end only."""
_USUAL = (
    "category", "sentiment", "species", "diagnosis", "outcome", "emotion", "intent", "topic",
    "polarity", "stars", "rating", "quality", "variety", "genre", "survived", "churn", "spam",
    "isspam", "toxic", "isduplicate",
)  # fmt: skip
"""Names that labels often have; where there is a sure one they are others' names."""
_IDENTIFIERS = (
    "", "index", "idx", "id", "row", "rowid", "rowname", "rownames", "rownumber", "rowindex",
    "uid", "uuid", "guid",
)  # fmt: skip
"""Names of columns that number the rows."""
_NAMES_ROWS = re.compile(r".*([\W_][iI][dD]|[a-z]I[dD])|level_(\d+|N)", re.DOTALL)
_NUMBERS_ROWS = re.compile(r".*[\W_](no|nr|number)\.?|no\.?|nr\.?|number", re.I | re.DOTALL)
_FLAGS = ("istrain", "istraining", "istest", "isval", "isvalid", "isvalidation")
"""Names of columns of numbers that say which rows are for training."""
OF_INDEX = "the index of a data frame"
_OTHER_NUMBERS = dict.fromkeys(_FLAGS, "it has the name of a split")
_OTHER_NUMBERS |= dict.fromkeys(("fold", "kfold", "cvfold"), "it numbers folds")
_OTHER_NUMBERS["sampleweight"] = "it weighs the rows"
_SPLIT_COLUMNS = (
    "split", "splits", "subset", "set", "fold", "partition", "usage", "phase", "datasplit",
    "datasetsplit", "splitname", "traintest", "traintestsplit", "trainortest", "mluse",
)  # fmt: skip
"""Names of columns that may say which split a row is of."""
_SENTENCES = ("tokens", "words")
_TAGS = ("ner_tags", "pos_tags", "tags", "labels", "label")
_PAIRS = (
    ("text", "text2"), ("text1", "text2"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
    ("question1", "question2"), ("question", "sentence"),
)  # fmt: skip
_SINGLES = ("text", "sentence", "content")
_OF_TEXTS = (*_SINGLES, "review", "title")
"""Names of texts, which are no label unless nothing else is."""
_OFTEN = 10
"""So many rows have each of some words that are no texts, on average."""


@dataclass(frozen=True)
class Asked:
    """Columns that somebody named, as the options of ``from_table`` have them."""

    label: str | None = None
    text: str | None = None
    image: str | None = None
    words: str | None = None
    features: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Roles:
    """What the columns of a table are; ``titles`` names the class of each row."""

    form: Literal["images", "texts", "numbers", "words"]
    labels: tuple[str, ...]
    split: str | None
    titles: str | None
    understood: Understood

    @classmethod
    def of(cls, table: Table, asked: Asked) -> Roles:
        """Decide what every column is; it is an error where that is not clear."""
        split = asked.split or _split_column(table, asked)
        table.require([split] if split else [])
        holds = {column: table.holds(column) for column in table.columns}
        words = asked.words
        if not asked.text and not asked.image:
            words = words or next((c for c in _SENTENCES if holds.get(c) == "lists"), None)
        if words:
            roles = _word_roles(table, words, asked.label, split)
        else:
            roles = _row_roles(table, asked, split, holds)
        used = (*roles.labels, *roles.understood.inputs)
        if told := [column for column in roles.labels if column in roles.understood.inputs]:
            raise InvalidInputError(
                f"column {told[0]!r} is the label, and models would read it as "
                f"well; say label= and another column, or name other inputs"
            )
        flags = [c for c in table.columns if plain_name(c) in _FLAGS and c not in used]
        doubts = [
            f"column {column!r} may say which rows are for training, and all of them are taken for "
            f"it; write train and test into a column that is called split"
            for column in (flags if split is None else ())
        ]
        return replace(roles, understood=roles.understood.plus(suspicions=doubts))

    def rows(self, table: Table) -> Mapping[str, np.ndarray]:
        """Rows of a table by split: by the column that says it, or by its files."""
        if self.split is None:
            return table.splits or {"train": np.arange(table.rows)}
        cells = table.cells(self.split)
        name_of = split_within if _are_of_splits(cells) else split_name
        names = np.array([name_of(cell.strip()) for cell in cells])
        if (names == "").any():
            raise InvalidInputError(
                f"row {int((names == '').argmax()) + 1} has nothing in column "
                f"{self.split!r}, which says the split; fill it, or leave the row out"
            )
        return {str(part): np.flatnonzero(names == part) for part in dict.fromkeys(names.tolist())}


def _split_column(table: Table, asked: Asked) -> str | None:
    """The column that is called ``split``, or has another usual name and says splits only."""
    if table.declared or "split" in table.columns:
        return None if table.declared else "split"
    for column in table.columns:
        usual = plain_name(column) in _SPLIT_COLUMNS and column != asked.label
        if usual and table.holds(column) == "text" and _are_of_splits(table.cells(column)):
            return column
    return None


def _are_of_splits(cells: Sequence[str]) -> bool:
    """Whether texts are names of splits and nothing else, some of them of ``train``."""
    found = {split_within(cell) for cell in set(cells)}
    return "train" in found and "" not in found


def _row_roles(table: Table, asked: Asked, split: str | None, holds: Mapping[str, Holds]) -> Roles:
    """An example with a label, or several, in each row."""
    columns, label = table.columns, asked.label
    several: tuple[str, ...] = ()
    if label is not None and label not in columns and "," in label:
        several = tuple(table.named(label))
    left = {
        c: why
        for c in columns
        if c not in (asked.label, split, *several) and (why := unused(table, c, holds[c]))
    }
    suspicions = list(table.suspicions)
    if label is None and table.declared:
        label = _declared_label(table)
    elif label is None:
        candidates = [c for c in columns if c not in (*left, split)] or [columns[-1]]
        named = [c for c in candidates if plain_name(c) not in _OF_TEXTS]
        label, doubts = _find_label(named or candidates)
        suspicions += doubts
    labels = several or (label,)
    table.require(labels)
    titles = f"{label}_name" if f"{label}_name" in columns and not table.declared else None
    others = {c: held for c, held in holds.items() if c not in (*labels, split, titles)}
    # An index is better than nothing at all.
    rest = {c: held for c, held in others.items() if c not in left} or others
    if others and not (asked.text or asked.image or asked.features or {*rest} - {*left}):
        one = next(iter(rest))
        told = f"column {one!r} is the only input, though {left[one]}"
        suspicions.append(f"{told}; name what models are to read")
    for column in () if table.declared else (*labels, *rest):
        if holds[column] == "lists":
            cure = (
                f"say ?words={column} if they are words with a label each, or leave the column out "
                f"of the file"
            )
            if column in labels:
                cure = (
                    f"of several labels per example give each a column of 0 and 1, and say "
                    f"?label=a,b,c; say ?words=COLUMN&label={column} if they label single words"
                )
            raise InvalidInputError(f"column {column!r} holds lists; {cure}")
    form, inputs = _inputs(table, rest, asked)
    named = [c for c in inputs if plain_name(c) in _SURE and plain_name(c) != "y"]
    suspicions += [
        f"column {column!r} has the name of a label and is read as input; say label={column} if "
        f"it is the label, and name the inputs with features= if it tells the label"
        for column in (named if form == "numbers" else ())
    ]
    left_out = tuple(
        (f"column {c!r}", left.get(c, "it is not read")) for c in others if c not in inputs
    )
    understood = Understood(label, tuple(inputs), left_out, tuple(suspicions))
    return Roles(form, labels, split, titles, understood)


def _word_roles(table: Table, words: str, label: str | None, split: str | None) -> Roles:
    """Sentences with a label for each word."""
    columns = table.columns
    label = label or next((c for c in _TAGS if c in columns and table.may_hold_lists(c)), None)
    if label is None:
        raise InvalidInputError(
            f"cannot tell which column labels the words; the columns are: "
            f"{', '.join(columns)}; say ?label=column"
        )
    table.require([words, label])
    used = (label, words, split)
    left_out = tuple((f"column {c!r}", "it is not read") for c in columns if c not in used)
    understood = Understood(label, (words,), left_out, table.suspicions)
    return Roles("words", (label,), split, None, understood)


def _declared_label(table: Table) -> str:
    """The column of a usual name, or the only one that is declared to hold classes."""
    kinds = [c for c in table.columns if table.class_names(c) and not table.may_hold_lists(c)]
    found = named_label(table.columns)
    if len(kinds) == 1 and found not in kinds:
        found = kinds[0]
    if found is None:
        raise InvalidInputError(
            f"cannot tell which column is the label; the columns are: "
            f"{', '.join(table.columns)}; say ?label=column"
        )
    return found


def unused(table: Table, column: str, held: Holds) -> str:
    """Why a column is no input; empty if it may be one."""
    if table.is_empty(column):
        return "it has no values"
    if held not in ("numbers", "text") or plain_name(column) in _SURE:
        return ""
    if held == "numbers" and plain_name(column) in _OTHER_NUMBERS:
        return _OTHER_NUMBERS[plain_name(column)]
    first = column == table.columns[0]
    index = column in table.index or (first and not column)
    if index or INDEX.fullmatch(column):
        return OF_INDEX
    # Of other names only whole numbers and words: "Reynolds number" may be measured, and a last
    # column of numbers may be the label.
    named = _NAMES_ROWS.fullmatch(column) or (first and _NUMBERS_ROWS.fullmatch(column))
    known = plain_name(column) in _IDENTIFIERS or re.fullmatch(r"Unnamed: \d+", column)
    if not (known or named):
        return ""
    found = [str(cell) for cell in table.cells(column)]
    numbers = (n for n in map(number_of, found) if n is not None)
    unique = len(set(found)) == len(found) > 1
    return "it numbers the rows" if unique and (known or all(n == n // 1 for n in numbers)) else ""


def _inputs(
    table: Table, rest: Mapping[str, Holds], asked: Asked
) -> tuple[Literal["images", "texts", "numbers"], list[str]]:
    """What examples are, and the columns that they are from."""
    columns = table.columns
    if asked.features:
        return "numbers", table.named(asked.features)
    if asked.text:
        wanted = table.named(asked.text)
        if len(wanted) > 2:
            raise InvalidInputError(
                f"columns {', '.join(wanted)} are to be the text, which is one "
                f"column or two; name fewer"
            )
        return "texts", wanted
    pictures = [c for c, held in rest.items() if held in ("images", "paths")]
    pictures = [asked.image] if asked.image else pictures
    table.require(pictures)
    if len(pictures) > 1:
        raise InvalidInputError(f"columns {', '.join(pictures)} hold images; say ?image=column")
    if pictures:
        return "images", pictures
    texts = [c for c, held in rest.items() if held == "text"]
    for column in texts:
        row = table.odd_row(column)
        if row is not None:
            raise InvalidInputError(
                f"row {row + 1} has {table.cells(column)[row]!r} in column "
                f"{column!r}, of which most cells are numbers; correct it, name the columns of "
                f"numbers with ?features=…, or say ?text={column} if it is text"
            )
    wanted = _text_columns(table, texts, len(texts if table.declared else rest))
    if wanted:
        return "texts", wanted
    numbers = [c for c, held in rest.items() if held == "numbers"]
    if not numbers and (rest or table.declared):
        told = "".join(f"; column {c!r} holds {t}" for c in rest if (t := table.unread(c)))
        raise InvalidInputError(f"no column of images, text or numbers besides label{told}")
    if not numbers:
        single = f", or put one of , ; | or a tab between the columns in {columns[0]!r}"
        raise InvalidInputError(
            f"there are no columns besides the label; add what models are to read"
            f"{single if len(columns) == 1 else ''}"
        )
    return "numbers", numbers


def _text_columns(table: Table, words: list[str], columns: int) -> list[str]:
    """Of the columns that hold words those that hold the text; none means numbers."""
    pair = next((pair for pair in _PAIRS if set(pair) <= set(words)), None)
    if pair is not None:
        return list(pair)
    single = next((single for single in _SINGLES if single in words), None)
    if single is not None:
        return [single]
    if len(words) <= 1 and len(words) in (0, columns):
        return words
    if len(words) == columns == 2 and not any(_is_category(table.cells(c)) for c in words):
        return words
    raise InvalidInputError(
        f"columns {', '.join(words)} hold words; say which are the text, "
        f"?text=one or ?text=one,two, or which columns are numbers, ?features=a,b"
    )


def _is_category(cells: Sequence[Any]) -> bool:
    """Whether cells name one of a few things, as letters and single words that repeat do."""
    found = {str(cell).strip() for cell in cells} - {""}
    letters = all(len(word) == 1 and word.isascii() for word in found)
    words = len(found) <= min(FEW, len(cells) // _OFTEN) and all(len(w.split()) == 1 for w in found)
    return letters or words


def named_label(columns: Sequence[str]) -> str | None:
    """The column that has a usual name of labels, in any case, if one has."""
    plain = [plain_name(column) for column in columns]
    for name in _SURE:
        for place in range(len(plain)):
            if plain[place] == name and (name != "y" or place in (0, len(plain) - 1)):
                return columns[place]
    usual = [column for column, name in zip(columns, plain, strict=True) if name in _USUAL]
    # Of several the one that stands where labels do.
    ends = [column for column in (columns[-1], columns[0]) if column in usual] if usual else []
    found = ends or usual
    return found[0] if found else None


def _find_label(columns: Sequence[str]) -> tuple[str, list[str]]:
    """The column of the label, by its name or else the last, and what may be a mistake."""
    found = named_label(columns)
    if found is None:
        return columns[-1], [
            f"no column has a usual name of labels, so the last one, {columns[-1]!r}, is taken; "
            f"say label=COLUMN to choose, or label=A,B for several labels"
        ]
    if plain_name(found) in _SURE:
        return found, []
    others = [column for column in columns if column != found and plain_name(column) in _USUAL]
    if not others and found in (columns[0], columns[-1]):
        return found, []
    named = ", ".join(map(repr, others or columns[-1:]))
    return found, [
        f"column {found!r} is taken for the label, by its name, though it may be {named}; say "
        f"label=COLUMN to choose"
    ]
