"""Tasks out of parts: examples and labels per split, or sentences with a label per word."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.example import Modality, example_modality
from transfer_metrics.sources.tasks.label_values import absent, as_array, number_of, read_texts
from transfer_metrics.sources.tasks.labels import IGNORED, Kind, doubts, encode, kind_of, odd_texts
from transfer_metrics.sources.tasks.sequences import Files, Words, some
from transfer_metrics.sources.tasks.task import NOTHING, Split, Task, Understood

_MOST_LOOKED_AT, _MOST_TOLD = 50_000, 20
"""Image files that are looked at when a task is loaded, and damaged ones that are named."""
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
    understood: Understood = NOTHING,
) -> Task:
    """Assemble a task from examples and raw labels per split.

    Args:
        name: the task.
        parts: per split, the examples and as many labels.
        kind: see ``labels.encode``.
        classes: see ``labels.encode``.
        missing: what to do about missing labels: ``"skip"``; ``"error"``; or ``"keep"``, which
            skips what is empty and takes texts such as ``"None"`` for classes.
        understood: what the source has to say about how it was read.
    """
    for split, (examples, labels) in parts.items():
        count = len(labels)
        if len(examples) != count:
            raise InvalidInputError(
                f"task {name!r}, split {split!r}: {len(examples)} examples but {count} labels; "
                f"each example needs one label"
            )
        if not count:
            raise InvalidInputError(
                f"task {name!r}, split {split!r}: there are no examples; add some, or leave the "
                f"split out"
            )
    kept, left = _without_unlabelled(name, parts, kind, classes, missing, understood.label)
    given = {split: y for split, (_, y) in kept.items()}
    found_kind, labels, names = encode(name, given, kind, classes)
    told = []
    if kind is None:
        told = doubts(given)
        if classes is None:
            told += odd_texts({split: y for split, (_, y) in parts.items()})
    understood = dataclasses.replace(
        understood,
        left_out=(*understood.left_out, *left),
        suspicions=(*understood.suspicions, *told),
    )
    splits = {split: Split(x, labels[split]) for split, (x, _) in kept.items()}
    # Nothing is decoded where the sequence itself knows, so that a damaged file is told of later.
    found: set[Modality] = {
        getattr(split.examples, "modality", None) or example_modality(split.examples[0])
        for split in splits.values()
    }
    if len(found) > 1:
        raise InvalidInputError(
            f"task {name!r}: the splits hold different kinds of examples: {sorted(found)}"
        )
    modality = found.pop() if found else "tensor"
    return Task(name, found_kind, modality, splits, names, understood)


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
    where: str = "",
) -> tuple[dict[str, tuple[Sequence[Any], np.ndarray]], list[tuple[str, str]]]:
    """The parts, with labels as arrays, less the examples without one; and what that is and why.

    Splits other than ``train`` in which no example has a label, as of a contest, are left out in
    any case. ``where`` is the column of the labels, for messages.
    """
    check_policy("missing", missing, tuple(_POLICIES))
    arrays = {split: as_array(labels) for split, (_, labels) in parts.items()}
    lacking = unlabelled(arrays, kind, classes, texts=missing != "keep")
    column = f" in column {where!r}" if where else ""
    kept, left = {}, []
    for split, (examples, _) in parts.items():
        labels, gone = arrays[split], lacking[split]
        count = int(gone.sum())
        of_split = f"task {name!r}, split {split!r}"
        if count == len(gone) > 0 and split != "train":
            _warn(f"task {name!r}: left out split {split!r}, which has no labels")
            left.append((f"split {split!r}", "it has no labels"))
            continue
        if count and (missing == "error" or count == len(gone)):
            raise InvalidInputError(
                f"{of_split}: {count} labels are missing{column} (empty, NaN, NA, none, {IGNORED}, "
                f"or -1 of named classes), the first at example {int(gone.argmax())}; label them, "
                f"or leave them out with missing=skip"
            )
        if count:
            _warn(
                f"{of_split}: left out {count} of {len(gone)} examples, which have no "
                f"label{column}{_cure(labels[gone], labels[~gone])}"
            )
            left.append((f"{count} of {len(gone)} {split} examples", f"no label{column}"))
            rows = np.flatnonzero(~gone)
            # Judged anew without what was missing.
            examples, labels = some(examples, rows), as_array(labels[rows])
        kept[split] = (examples, labels)
    return kept, left


def unlabelled(
    labels: Mapping[str, Any],
    kind: Kind | None,
    classes: Sequence[Any] | None,
    texts: bool = True,
) -> dict[str, np.ndarray]:
    """Which labels are missing: none, NaN, texts as ``NA``; of classes -100, and -1 of named ones.

    Without ``texts`` only the empty one of them is missing.

    >>> unlabelled({"train": [0, None, -100, -1]}, None, ["a", "b"])["train"].tolist()
    [False, True, True, True]
    >>> unlabelled({"train": [0.5, float("nan"), -1.0]}, None, None)["train"].tolist()
    [False, True, False]
    """
    arrays = {split: as_array(values) for split, values in labels.items()}
    lacking = {split: absent(array, texts) for split, array in arrays.items()}
    there = {split: as_array(array[~lacking[split]]) for split, array in arrays.items()}
    if kind == "regression" or (classes is None and kind_of(there) == "regression"):
        return lacking
    no_class = (IGNORED,) if classes is None else (IGNORED, -1)
    for split, array in read_texts(there, "classification").items():
        if array.ndim == 1 and array.dtype != bool:
            rows = np.flatnonzero(~lacking[split])
            lacking[split][rows[_among(array, no_class)]] = True
    return lacking


def _among(array: np.ndarray, numbers: tuple[int, ...]) -> np.ndarray:
    if array.dtype != object:
        return np.isin(array, numbers)
    found = (isinstance(v, int) and not isinstance(v, bool) and v in numbers for v in array)
    return np.fromiter(found, bool, len(array))


def without_damaged(task: Task) -> Task:
    """Leave out the images and sounds that cannot be read, by reading every one once.

    What is left is fixed when the task is loaded, so that fingerprints, shards and folds are those
    of the good examples alone, whatever reads them later. Texts and numbers are as they are.
    """
    if task.modality not in ("image", "audio"):
        return task
    splits = {name: _readable(task, name, split) for name, split in task.splits.items()}
    lost = {name: len(split) - len(splits[name]) for name, split in task.splits.items()}
    told = [(f"{n} examples of {name}", "they cannot be read") for name, n in lost.items() if n]
    return dataclasses.replace(task, splits=splits, understood=task.understood.without(*told))


def refuse_damaged(task: Task) -> None:
    """Tell of all files that cannot be read, and of what else was left out, in one error.

    Of more than ``_MOST_LOOKED_AT`` files none is looked at before it is used.

    Raises:
        InvalidInputError: one cannot be read.
    """
    files = {n: s.examples for n, s in task.splits.items() if isinstance(s.examples, Files)}
    total = sum(map(len, files.values()))
    if total > _MOST_LOOKED_AT:
        return
    lost = [
        f"{'/'.join(of_split.paths[index].parts[-2:])} ({why})"
        for of_split in files.values()
        for index, why in of_split.damaged().items()
    ]
    if not lost:
        return
    more = f" and {len(lost) - _MOST_TOLD} more" if len(lost) > _MOST_TOLD else ""
    noun = "images" if task.modality == "image" else "sounds"
    left = "; ".join(f"{what} ({why})" for what, why in task.understood.left_out)
    raise InvalidInputError(
        f"task {task.name!r}: {len(lost)} of {total} {noun} cannot be read: "
        f"{', '.join(lost[:_MOST_TOLD])}{more}; replace or remove them, or add "
        f"{'&' if '?' in task.name else '?'}corrupt=skip to the name of the task to go on without "
        f"them{f'. Not used anyway: {left}' if left else ''}"
    )


def _readable(task: Task, name: str, split: Split) -> Split:
    good, first = [], None
    for position in range(len(split)):
        try:
            split.examples[position]
        except InvalidInputError as error:
            first = first or error
        else:
            good.append(position)
    if first is None:
        return split
    where = f"task {task.name!r}, split {name!r}"
    if not good:
        raise InvalidInputError(f"{where}: none of {len(split)} examples can be read: {first}")
    _warn(
        f"{where}: left out {len(split) - len(good)} of {len(split)} examples, which cannot be "
        f"read; the first: {first}"
    )
    rows = np.array(good)
    if name == "train" and task.num_classes and len(np.unique(split.labels[rows])) < 2:
        raise InvalidInputError(
            f"{where}: the examples that can be read are all of one class; replace the damaged ones"
        )
    return split.rows(rows)


def _cure(gone: np.ndarray, kept: np.ndarray) -> str:
    """What to do where texts such as None were left out among names of classes."""
    words = sorted({v for v in gone.tolist() if isinstance(v, str) and v.strip()})
    named = any(isinstance(v, str) and number_of(v) is None for v in kept.tolist())
    return f"; if {words[0]!r} names a class, say missing=keep" if words and named else ""


def _warn(text: str) -> None:
    warn(text)


def words_task(
    name: str,
    parts: Mapping[str, tuple[Sequence[Any], Sequence[Any]]],
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
    *,
    bio: str = "keep",
    understood: Understood = NOTHING,
) -> Task:
    """A task of words from sentences with a label per word.

    Every word is an example, and its sentence is what a model reads. Words with the label -100, or
    none, are context only. Sentences without words are left out.

    Args:
        name: the task.
        parts: per split, sentences as lists of words, and as many lists of labels.
        kind: see ``labels.encode``.
        classes: see ``labels.encode``.
        bio: ``"drop"`` makes ``PER`` of ``B-PER`` and ``I-PER``, so that the classes are types of
            entities rather than their beginnings and insides; ``"keep"`` does not.
        understood: what the source has to say about how it was read.

    >>> task = words_task("ner", {"train": ([["Ada", "sleeps"]], [["B-PER", "O"]])}, bio="drop")
    >>> task.classes, task["train"].labels.tolist(), task["train"].units.tolist()
    (('O', 'PER'), [1, 0], [0, 0])
    """
    if bio not in ("keep", "drop"):
        raise InvalidInputError(f"task {name!r}: bio={bio!r}; use 'keep' or 'drop'")
    flat: dict[str, tuple[Words, list[Any]]] = {}
    for split, (sentences, labels) in parts.items():
        flat[split] = _flat(f"task {name!r}, split {split!r}", sentences, labels)
    if bio == "drop":
        flat, classes = _without_prefixes(flat, classes)
    return make_task(name, flat, kind, classes, understood=understood)


def is_labelled_words(part: Any) -> bool:
    """Whether a part is lists of words with a label for each, numbers or names of classes.

    >>> is_labelled_words(([["a", "b"]], [["x", "y"]])), is_labelled_words(([["a", "b"]], [0]))
    (True, False)
    """
    if not (isinstance(part, (tuple, list)) and len(part) == 2):
        return False
    examples, labels = part
    if not (isinstance(examples, (list, tuple)) and isinstance(labels, (list, tuple))):
        return False
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


def _flat(where: str, sentences: Sequence[Any], labels: Sequence[Any]) -> tuple[Words, list[Any]]:
    if len(sentences) != len(labels):
        raise InvalidInputError(
            f"{where}: {len(sentences)} sentences but {len(labels)} lists of labels"
        )
    kept: list[tuple[str, ...]] = []
    units, positions, tags = [], [], []
    for number, (words, given) in enumerate(zip(sentences, labels, strict=True)):
        if not _is_words(words):
            raise InvalidInputError(
                f"{where}: sentence {number} is {_short(words)}; give the list of its words"
            )
        of_words = _listed(given, where, number)
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
    return Words(kept, np.array(units), np.array(positions)), tags


def _listed(labels: Any, where: str, number: int) -> list[Any]:
    if hasattr(labels, "tolist"):
        labels = labels.tolist()
    if not isinstance(labels, (list, tuple)):
        raise InvalidInputError(
            f"{where}: sentence {number} has the labels {_short(labels)}; give one per word"
        )
    return list(labels)


def _without_prefixes(
    flat: Mapping[str, tuple[Words, list[Any]]], classes: Sequence[Any] | None
) -> tuple[dict[str, tuple[Words, list[Any]]], list[str] | None]:
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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
