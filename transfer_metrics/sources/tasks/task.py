"""A labelled data set as a source hands it on: splits of examples, and how it was understood."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import Modality, example_bytes
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.sequences import some
from transfer_metrics.untrusted import visible

_MOST_CLASSES, _MOST_INPUTS, _MOST_LEFT_OUT = 5, 6, 4
"""Classes, columns and things left out that are told; of more, the first two and the last."""
_LONGEST_NAME, _LONGEST_THING = 40, 120
_EXAMPLES = {"image": "images", "text": "texts", "audio": "sounds", "tensor": "numbers"}


@dataclass(frozen=True, eq=False)
class Split:
    """Examples with their labels.

    Attributes:
        examples: N lazily decoded examples: PIL images, strings or pairs of them, words of
            sentences, sounds, float32 arrays.
        labels: (N,) int64 in 0..C-1, or float64 (N,) or (N, K) for regression, or float64 (N, K)
            that say which of K labels apply.
        whole: the split that these are some rows of, if any.
    """

    examples: Sequence[Any]
    labels: np.ndarray
    whole: Split | None = None

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.dtype.kind in "biuf":  # as a split made by hand may have them
            of_type = labels.astype(
                np.float64 if labels.dtype.kind == "f" else np.int64, copy=False
            )
            object.__setattr__(self, "labels", of_type)
        if len(self.examples) != len(self.labels):
            raise InvalidInputError(
                f"{len(self.examples)} examples but {len(self.labels)} labels; "
                f"each example needs one label"
            )
        if not len(self.labels):
            raise InvalidInputError("no examples; a split needs at least one")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        labels = f"{self.labels.dtype}{self.labels.shape}"
        return f"Split({type(self.examples).__name__}, {labels})"

    @property
    def units(self) -> np.ndarray | None:
        """(N,) number of the sentence of each word; None where examples stand for themselves."""
        return getattr(self.examples, "units", None)

    def rows(self, positions: np.ndarray) -> Split:
        """The examples at some positions, decoded no sooner than before."""
        return Split(some(self.examples, positions), self.labels[positions])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the contents of examples and labels, in order; images count as stored."""
        digest = hashlib.sha256(f"{self.labels.dtype}{self.labels.shape}\0".encode())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        content, maps = (getattr(self.examples, name, None) for name in ("content", "maps"))
        parts = content() if content is not None else map(example_bytes, self.examples)
        white = [f"white {maps.white}".encode()] if maps and maps.white is not None else []
        for part in chain(parts, white):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()


@dataclass(frozen=True)
class Understood:
    """How a source was read, for people to check.

    Attributes:
        label: the column of the labels; empty where there are no columns.
        inputs: the columns of the inputs.
        left_out: columns, files and rows that are not used, each with the reason.
        suspicions: what may be a mistake, a sentence each that names the cure.
    """

    label: str = ""
    inputs: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    suspicions: tuple[str, ...] = ()

    def plus(
        self, left_out: Iterable[tuple[str, str]] = (), suspicions: Iterable[str] = ()
    ) -> Understood:
        """The same, with more that is left out and that may be a mistake."""
        left = (*self.left_out, *left_out)
        return replace(self, left_out=left, suspicions=(*self.suspicions, *suspicions))


@dataclass(frozen=True, eq=False)
class Task:
    """A labelled data set: what the models are ranked on.

    Attributes:
        name: the specification that it was loaded from.
        kind: ``"classification"``, ``"regression"``, or ``"multilabel"``: several labels per
            example.
        modality: ``"image"``, ``"text"``, ``"audio"`` or ``"tensor"``.
        splits: ``"train"`` always; ``"test"``, ``"val"``, ``"ood"`` where they exist.
        classes: names of the classes, or of the K labels, in their order; empty for regression.
        understood: which columns and files were read as what, and what was left out.
        named: whether the classes are names however they look, as those of folders are: a folder
            ``1`` is the class ``"1"``. Else names that are all numbers stand for these.
    """

    name: str
    kind: Kind
    modality: Modality
    splits: Mapping[str, Split]
    classes: tuple[str, ...] = ()
    understood: Understood = Understood()
    named: bool = False

    def __post_init__(self) -> None:
        if "train" not in self.splits:
            raise InvalidInputError(
                f"task {self.name!r} has no split 'train', only: "
                f"{', '.join(self.splits) or 'none'}; name the labelled examples to score 'train'"
            )

    def __repr__(self) -> str:
        """How it was understood, on one line.

        >>> split = Split(["x", "y"], np.arange(2))
        >>> Task("t", "classification", "text", {"train": split}, ("a", "b"))
        <Task t: classification of texts, train 2 (2 classes: a ×1, b ×1)>
        """
        return f"<Task {self.summary}>"

    @property
    def num_classes(self) -> int:
        """Number of classes, of which each example has one; 0 for other kinds."""
        return len(self.classes) if self.kind == "classification" else 0

    @cached_property
    def summary(self) -> str:
        """Name, kind, examples, classes with their counts, columns, and what was left out.

        Counts are those of the split ``train``; nothing is decoded.
        """
        maps = getattr(self["train"].examples, "maps", None)
        what = str(maps) if maps else _EXAMPLES[self.modality]
        what = what if self["train"].units is None else "words in sentences"
        sizes = {name: f"{name} {len(split)}" for name, split in self.splits.items()}
        sizes["train"] += f" ({_labels(self)})"
        told = f"{visible(self.name)}: {self.kind} of {what}, {', '.join(sizes.values())}"
        how = self.understood
        if how.label:
            told += f"; label {_name(how.label)}"
        if how.inputs:
            columns = f" ({len(how.inputs)} columns)" if len(how.inputs) > _MOST_INPUTS else ""
            told += f"; inputs {_ends(map(_name, how.inputs), _MOST_INPUTS)}{columns}"
        if how.left_out:
            lost = [
                f"{visible(what, _LONGEST_NAME)} ({visible(why, _LONGEST_THING)})"
                for what, why in how.left_out[:_MOST_LEFT_OUT]
            ]
            more = len(how.left_out) - _MOST_LEFT_OUT
            told += f"; left out: {', '.join(lost)}{f' and {more} more' if more > 0 else ''}"
        return told

    def __getitem__(self, split: str) -> Split:
        if split not in self.splits:
            raise InvalidInputError(
                f"task {self.name!r} has no split {split!r}; it has: {', '.join(self.splits)}"
            )
        return self.splits[split]


def _labels(task: Task) -> str:
    labels = task["train"].labels
    if task.kind == "regression":
        several = f"{labels.shape[1]} " if labels.ndim == 2 else ""
        return f"{several}targets {labels.min():.4g} to {labels.max():.4g}"
    one_each = task.kind == "classification"
    counts = np.bincount(labels, minlength=task.num_classes) if one_each else labels.sum(axis=0)
    told = [f"{_name(c)} ×{n:.0f}" for c, n in zip(task.classes, counts, strict=True)]
    return f"{len(told)} {'classes' if one_each else 'labels'}: {_ends(told, _MOST_CLASSES)}"


def _ends(told: Iterable[str], most: int) -> str:
    """All of a few; of many the first two and the last."""
    listed = list(told)
    return ", ".join(listed if len(listed) <= most else [*listed[:2], f"… {listed[-1]}"])


def _name(text: str) -> str:
    """A name as it is shown: in quotes where its ends or its signs could be misread."""
    shown = visible(text, _LONGEST_NAME)
    plain = shown == shown.strip() and shown and not set(shown) & set(",;()×'")
    return shown if plain else repr(shown)
