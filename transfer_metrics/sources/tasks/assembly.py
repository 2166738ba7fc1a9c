"""Tasks out of parts: examples and labels per split, or sentences with a label per word."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.example import Modality, Word, example_modality
from transfer_metrics.sources.tasks.label_doubts import doubts
from transfer_metrics.sources.tasks.label_values import as_array, number_of
from transfer_metrics.sources.tasks.labels import (
    IGNORED,
    Kind,
    encode,
    unlabelled,
)
from transfer_metrics.sources.tasks.pairing import telling
from transfer_metrics.sources.tasks.paths import OF_FILES
from transfer_metrics.sources.tasks.sequences import Examples, some
from transfer_metrics.sources.tasks.task import Split, Task, Understood
from transfer_metrics.untrusted import visible

_LOOKED_AT = 50
"""Texts of which it is seen whether they are names of files."""
_NEARLY = 0.8
"""Share of these from which on no texts are meant."""
_LONGEST = 60
"""Letters of what is shown of a sentence."""
_POLICIES = {
    "error": "to be told of the first one",
    "skip": "to leave them out",
    "keep": "to take texts such as None and NA for names of classes",
}


def make_task(
    name: str,
    parts: Mapping[str, tuple[Sequence[Any], Any]],
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
    missing: str = "skip",
    understood: Understood | None = None,
) -> Task:
    """Assemble a task from the examples and as many raw labels of each split.

    ``kind`` and ``classes`` are as in ``labels.encode``. Missing labels are left out (``"skip"``)
    or refused (``"error"``); ``"keep"`` leaves out what is empty, and takes texts such as
    ``"None"`` for classes. ``understood`` is what the source says about how it was read.
    """
    for split, (examples, labels) in parts.items():
        of_split = f"split {split!r}"
        if len(examples) != len(labels):
            raise InvalidInputError(
                f"{of_split}: {len(examples)} examples but {len(labels)} labels; each example "
                f"needs one label"
            )
        if not len(labels):
            raise InvalidInputError(
                f"{of_split}: there are no examples; add some, or leave the split out"
            )
    check_policy("missing", missing, tuple(_POLICIES))
    understood = understood or Understood()
    column = f" in column {understood.label!r}" if understood.label else ""
    kept, left = _without_unlabelled(name, parts, kind, classes, missing, column)
    given = {split: y for split, (_, y) in kept.items()}
    try:
        found_kind, labels, names = encode(given, kind, classes)
    except InvalidInputError as error:
        if not left:
            raise
        cure = "; say missing=keep if NA or the like names a class"
        cure = "" if kind == "regression" or missing == "keep" else cure
        told = ", ".join(f"{what} ({why})" for what, why in left)
        raise InvalidInputError(f"{error}; left out: {told}{cure}") from error
    doubted = []
    if kind is None and classes is None:
        doubted += doubts(given, found_kind, {split: y for split, (_, y) in parts.items()})
    splits = {split: Split(x, labels[split]) for split, (x, _) in kept.items()}
    # Nothing is decoded where the sequence itself knows, so that a damaged file is told of later.
    found: set[Modality] = {
        getattr(split.examples, "modality", None) or example_modality(split.examples[0])
        for split in splits.values()
    }
    if len(found) > 1:
        raise InvalidInputError(f"the splits hold different kinds of examples: {sorted(found)}")
    modality = found.pop() if found else "tensor"
    if modality == "text":
        _refuse_names_of_files(name, next(iter(splits.values())).examples)
    maps = {split: getattr(part.examples, "maps", None) for split, part in splits.items()}
    whites = {of and of.white for of in maps.values()}
    if len(whites) > 1:
        ranges = ", ".join(f"{split} {of or 'other arrays'}" for split, of in maps.items())
        raise InvalidInputError(
            f"the splits hold images in different ranges: {ranges}; give all of them in one"
        )
    values = getattr(splits["train"].examples, "values", None) if "train" in splits else None
    if values is not None and values.ndim == 2:
        columns = understood.inputs if len(understood.inputs) == values.shape[1] else ()
        doubted += telling(values, labels["train"], found_kind == "classification", columns)
    if modality == "tensor" and len(splits) > 1:
        _refuse_uneven(splits)
    return Task(name, found_kind, modality, splits, names, understood.plus(left, doubted))


def _refuse_names_of_files(name: str, texts: Sequence[Any]) -> None:
    """Refuse texts of which nearly all are names of files, which no model of texts should read.

    Where most have words before the name a warning tells, since these may be sentences.
    """
    some: list[Any] = []
    with suppress(InvalidInputError):  # of one that cannot be read, told of when it is used
        some += (texts[i] for i in range(min(len(texts), _LOOKED_AT)))
    some = [text for text in some if text]
    named = [t for t in some if isinstance(t, str) and t.strip().lower().endswith(OF_FILES)]
    if len(named) < _NEARLY * max(len(some), 1):
        return
    if 2 * sum(any(map(str.isspace, text.strip())) for text in named) > len(named):
        warn(
            f"task {name!r}: all texts end as names of files do, such as "
            f"{visible(named[0], _LONGEST)!r}; if they are such, give what is in the files"
        )
    else:
        odd = next((text for text in some if text not in named), "")
        raise InvalidInputError(
            f"the texts are names of files, such as {visible(named[0], _LONGEST)!r}"
            f"{f', but for {visible(str(odd), _LONGEST)!r}' if odd else ''}; give paths that all "
            f"name images, in a column or in a list, sounds as audiofolder:FOLDER, or what is in "
            f"the files"
        )


def _refuse_uneven(splits: Mapping[str, Split]) -> None:
    """Refuse rows of other columns in each split; rows of whole numbers may be token ids."""
    firsts = {split: np.asarray(part.examples[0]) for split, part in splits.items()}
    rows = [first for first in firsts.values() if first.ndim == 1]
    if len({*map(len, rows)}) > 1 and not all((row == np.rint(row)).all() for row in rows):
        told = ", ".join(f"{s} {(len(splits[s]), *first.shape)}" for s, first in firsts.items())
        raise InvalidInputError(
            f"the splits hold rows of different lengths: {told}; give all of them the same columns"
        )


def in_one_order(
    given: Mapping[str, tuple[Any, Sequence[str] | None]],
) -> tuple[dict[str, Any], list[str] | None]:
    """Labels per split by the numbers of one list of classes, and these in the order of the first.

    Every split may number its own classes, as folders that are read one by one do; where it names
    none its numbers are those of the first.
    """
    known = [[*names] for _, names in given.values() if names]
    labels = {split: of_split for split, (of_split, _) in given.items()}
    if all(names == known[0] for names in known):
        return labels, known[0] if known else None
    classes = list(dict.fromkeys(chain(*known)))
    for split, (of_split, names) in given.items():
        if names:
            places = [classes.index(title) for title in names]
            cells = of_split.tolist() if hasattr(of_split, "tolist") else of_split
            labels[split] = [_renumbered(cell, places) for cell in cells]
    return labels, classes


def _renumbered(label: Any, places: Sequence[int]) -> Any:
    """A number of a class by another order, also in lists; what is none, such as -100, as it is."""
    if isinstance(label, (list, tuple, np.ndarray)):
        return [_renumbered(one, places) for one in label]
    label = label.item() if hasattr(label, "item") else label
    is_number = isinstance(label, (int, float)) and not isinstance(label, bool)
    inside = is_number and label in range(len(places))
    return places[int(label)] if inside else label


def check_policy(option: str, value: Any, policies: Sequence[str] = ("error", "skip")) -> str:
    """``"error"``, ``"skip"``, or what else there is; anything else is refused."""
    if value not in policies:
        known = ", or ".join(f"{option}={policy} {_POLICIES[policy]}" for policy in policies)
        raise InvalidInputError(f"{option}={value!r}; say {known}")
    return str(value)


def _without_unlabelled(
    name: str,
    parts: Mapping[str, tuple[Sequence[Any], Any]],
    kind: Kind | None,
    classes: Sequence[Any] | None,
    missing: str,
    column: str,
) -> tuple[dict[str, tuple[Sequence[Any], np.ndarray]], list[tuple[str, str]]]:
    """The parts, with labels as arrays, less the examples without one; and what that is and why.

    Splits other than ``train`` in which no example has a label, as of a contest, are left out.
    """
    arrays = {split: as_array(labels) for split, (_, labels) in parts.items()}
    lacking = unlabelled(arrays, kind, classes, texts=missing != "keep")
    kept, left = {}, []
    for split, (examples, _) in parts.items():
        labels, gone = arrays[split], lacking[split]
        count = int(gone.sum())
        of_split = f"task {name!r}, split {split!r}"
        if count == len(gone) > 0 and split != "train":
            warn(f"task {name!r}: left out split {split!r}, which has no labels")
            left.append((f"split {split!r}", "it has no labels"))
            continue
        if count and (missing == "error" or count == len(gone)):
            raise InvalidInputError(
                f"{of_split}: {count} labels are missing{column} (empty, NaN, NA, none, {IGNORED}, "
                f"or -1 of named classes), the first at example {int(gone.argmax())}; label them, "
                f"or leave them out with missing=skip"
            )
        if count:
            warn(
                f"{of_split}: left out {count} of {len(gone)} examples, which have no "
                f"label{column}{_cure(labels[gone], labels[~gone])}"
            )
            left.append((f"{count} of {len(gone)} {split} examples", f"no label{column}"))
            rows = np.flatnonzero(~gone)
            # Judged anew without what was missing.
            examples, labels = some(examples, rows), as_array(labels[rows])
        kept[split] = (examples, labels)
    return kept, left


def _cure(gone: np.ndarray, kept: np.ndarray) -> str:
    """What to do where texts such as None were left out among names of classes."""
    words = sorted({v for v in gone.tolist() if isinstance(v, str) and v.strip()})
    named = any(isinstance(v, str) and number_of(v) is None for v in kept.tolist())
    return f"; if {words[0]!r} names a class, say missing=keep" if words and named else ""


@dataclass(frozen=True, eq=False)
class _Words(Examples):
    """Words in the order of their sentences, each with the sentence's number and its place."""

    sentences: Sequence[tuple[str, ...]]
    units: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.units)

    def read(self, index: int) -> Word:
        return Word(self.sentences[int(self.units[index])], int(self.positions[index]))

    def rows(self, positions: np.ndarray) -> _Words:
        return _Words(self.sentences, self.units[positions], self.positions[positions])

    def content(self) -> Iterator[bytes]:
        """The sentences once each, then which of their words are examples."""
        for words in self.sentences:
            yield "\0".join(words).encode()
        for part in (self.units, self.positions):
            yield np.ascontiguousarray(part, dtype=np.int64).tobytes()


def words_task(
    name: str,
    parts: Mapping[str, tuple[Sequence[Any], Sequence[Any]]],
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
    *,
    bio: str = "keep",
    understood: Understood | None = None,
) -> Task:
    """A task of words, from lists of words and as many lists of labels per split.

    Every word is an example, and its sentence is what a model reads. Words with the label -100, or
    none, are context only. With ``bio="drop"``, ``B-PER`` and ``I-PER`` become ``PER``, so that
    classes are types of entities rather than their beginnings and insides.
    """
    if bio not in ("keep", "drop"):
        raise InvalidInputError(f"bio={bio!r}; use 'keep' or 'drop'")
    flat = {s: _flat(f"split {s!r}", *part) for s, part in parts.items()}
    if bio == "drop":
        flat, classes = _without_prefixes(flat, classes)
    return make_task(name, flat, kind, classes, understood=understood)


def is_labelled_words(part: Any) -> bool:
    """Whether a part is lists of words with a label for each, numbers or names of classes."""
    lists = (list, tuple)
    if not (isinstance(part, lists) and len(part) == 2 and all(isinstance(p, lists) for p in part)):
        return False
    examples, labels = part
    if not examples or len(examples) != len(labels):
        return False
    return all(map(_is_words, examples)) and all(map(_is_tags, labels))


def _is_words(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value)


def _is_tags(value: Any) -> bool:
    value = value.tolist() if isinstance(value, np.ndarray) else value
    return isinstance(value, (list, tuple)) and all(
        tag is None or (isinstance(tag, (str, int, np.integer)) and not isinstance(tag, bool))
        for tag in value
    )


def _flat(where: str, sentences: Sequence[Any], labels: Sequence[Any]) -> tuple[_Words, list[Any]]:
    if len(sentences) != len(labels):
        raise InvalidInputError(
            f"{where}: {len(sentences)} sentences but {len(labels)} lists of labels"
        )
    kept: list[tuple[str, ...]] = []
    units, positions, tags = [], [], []
    for number, (words, given) in enumerate(zip(sentences, labels, strict=True)):
        if not _is_words(words):
            raise InvalidInputError(
                f"{where}: sentence {number} is {visible(repr(words), _LONGEST)}; give the list of "
                f"its words"
            )
        of_words = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(of_words, (list, tuple)):
            raise InvalidInputError(
                f"{where}: sentence {number} has the labels "
                f"{visible(repr(of_words), _LONGEST)}; give one per word"
            )
        if len(of_words) != len(words):
            raise InvalidInputError(
                f"{where}: sentence {number} has {len(words)} words but {len(of_words)} labels"
            )
        for position, tag in enumerate(of_words):
            if tag is not None and tag != IGNORED:
                units.append(len(kept))
                positions.append(position)
                tags.append(tag)
        if words:
            kept.append(tuple(words))
    if not tags:
        raise InvalidInputError(f"{where}: no word has a label; {IGNORED} and none are left out")
    return _Words(kept, np.array(units), np.array(positions)), tags


def _without_prefixes(
    flat: Mapping[str, tuple[_Words, list[Any]]], classes: Sequence[Any] | None
) -> tuple[dict[str, tuple[_Words, list[Any]]], list[str] | None]:
    """Labels and classes by the type of the entity, in the order in which types are named."""
    named = [str(c) for c in classes] if classes is not None else None

    def kind_of(tag: Any) -> str:
        if named is not None and isinstance(tag, (int, np.integer)):
            tag = named[int(tag)]
        head, dash, rest = str(tag).partition("-")
        return rest if dash and head in ("B", "I", "E", "S", "L", "U") else str(tag)

    changed = {
        split: (words, [kind_of(tag) for tag in tags]) for split, (words, tags) in flat.items()
    }
    return changed, None if named is None else list(dict.fromkeys(map(kind_of, named)))
