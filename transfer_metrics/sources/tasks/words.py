"""Tasks whose examples are the words of sentences, each with a label of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.labels import IGNORED, Kind
from transfer_metrics.sources.tasks.sequences import Words
from transfer_metrics.sources.tasks.task import NOTHING, Task, Understood

_SCHEMES = ("keep", "drop")


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
    if bio not in _SCHEMES:
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
