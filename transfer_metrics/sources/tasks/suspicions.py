"""What may be a mistake in a loaded task, a sentence each that names the cure."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

import numpy as np
from PIL.Image import Image
from PIL.ImageFile import ImageFile

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import Sound, example_bytes, is_blank, is_pair
from transfer_metrics.sources.tasks.label_values import number_of
from transfer_metrics.sources.tasks.sequences import Examples, Files
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.untrusted import visible

_MOST_ONE_CLASS = 0.95
"""Share of the largest class that is still taken for meant."""
_LEAST = 5
"""Classes from which on one of them per example is strange."""
_MOST_EXAMPLES, _MOST_BYTES = 100_000, 1 << 28
"""Of two splits; larger ones are not compared. Reading so much takes about a second."""
_CHANCE, _LOOKED_AT = 1, 1_000
"""Rows of numbers that may be equal by chance, as a pair of flowers of Fisher's iris is; texts of
which all may be numbers."""
_SHORT, _MOST_SHORT, _MOST_LOOKED_AT = 16, 0.05, 32
"""Signs of a text that is often written, the share of such that is no matter, and how many
different examples are looked at."""
_SAMPLES = 1_000
"""Numbers from which on one row of them is rather a waveform."""
_BETWEEN = re.compile(r"(?<=[^\W_])[\s_-]+(?=[^\W_])")
"""Signs between words."""


def suspicions(task: Task) -> list[str]:
    """What may be a mistake, from names and labels alone, and what the source suspects itself.

    A class per example, one class above ``_MOST_ONE_CLASS``, classes that differ by case, space or
    Unicode form only, and classes of other splits that ``train`` lacks.
    """
    return [*task.understood.suspicions, *(_of_classes(task) if task.num_classes else ())]


def _of_classes(task: Task) -> Iterator[str]:
    counts = np.bincount(task["train"].labels, minlength=task.num_classes)
    total, present = int(counts.sum()), int((counts > 0).sum())
    if present >= _LEAST and present > total / 2:
        yield (
            f"{present} classes for {total} training examples, about one each, as of a running "
            f"number or a measurement; name another column with label=, or say kind=regression"
        )
    if counts.max() > _MOST_ONE_CLASS * total:
        largest = visible(task.classes[int(counts.argmax())])
        yield (
            f"class {largest!r} has {int(counts.max())} of {total} training examples, so always "
            f"saying that is right {counts.max() / total:.1%} of the time; balance the classes "
            f"with examples=N, or rank by a metric of classes such as transrate"
        )
    yield from alike(task.classes)
    for split, part in task.splits.items():
        lacking = np.setdiff1d(part.labels, np.flatnonzero(counts)) if split != "train" else ()
        if len(lacking):
            several = len(lacking) > 1
            yield (
                f"split {split!r} has {'classes' if several else 'the class'} "
                f"{_some([task.classes[code] for code in lacking])}, of which 'train' has no "
                f"example, so no model can find {'them' if several else 'it'}; add examples to "
                f"train, or take {'them' if several else 'it'} out of {split}"
            )


def alike(classes: Sequence[str]) -> Iterator[str]:
    """Which names of classes may be the same in another notation."""
    found: dict[str, list[str]] = {}
    for name in classes:
        found.setdefault(_folded(name), []).append(name)
    pairs = [names for names in found.values() if len(names) > 1]
    # Of letters and other signs the case is what is asked for.
    signs = all(len(unicodedata.normalize("NFC", c)) == 1 for c in chain(*pairs))
    forms = {unicodedata.normalize("NFC", name) for name in classes}
    if pairs and not (signs and len(forms) == len(classes)):
        examples = "; ".join(", ".join(map(_shown, names)) for names in pairs[:3])
        cased = all(len({*map(_in_one_form, names)}) == 1 for names in pairs)
        how = "case, space or Unicode form" if cased else "signs or the notation of numbers"
        yield f"classes differ only by {how}: {examples}; rename one of them if they are the same"


def _in_one_form(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _folded(name: str) -> str:
    """A name as it is compared with others, of which one may be the same in another notation."""
    number = number_of(name)
    if number is not None:
        return str(int(number) if isinstance(number, float) and number.is_integer() else number)
    plain = _in_one_form(html.unescape(name))
    plain = "".join(sign for sign in plain if unicodedata.category(sign) != "Cf")
    return _BETWEEN.sub(" ", plain).strip("'\" ") or name


def _shown(name: str) -> str:
    """A name in quotes; where it cannot be told from its twin, with its unusual signs by code."""
    plain = unicodedata.normalize("NFKC", name) == name
    return repr(visible(name)) if plain else ascii(name)


def _some(names: Sequence[str]) -> str:
    told = ", ".join(_shown(name) for name in names[:3])
    return f"{told} and {len(names) - 3} more" if len(names) > 3 else told


def of_examples(task: Task) -> Iterator[str]:
    """What may be a mistake in the examples themselves, as far as they are looked at."""
    for look in (_blanks, _numbers_as_texts, _waveforms, repeats):
        yield from look(task)


def _blanks(task: Task) -> Iterator[str]:
    """How many texts are empty, per split; of more than ``_MOST_EXAMPLES`` on disk none is read."""
    for name, split in task.splits.items() if task.modality == "text" else ():
        if len(split) > _MOST_EXAMPLES and isinstance(split.examples, Examples):
            continue
        blank = [row for row, text in enumerate(split.examples) if is_blank(text)]
        if blank:
            yield (
                f"{len(blank)} of {len(split)} texts of split {name!r} are empty, the first at "
                f"example {blank[0]}; say corrupt=skip to go on without them"
            )


def _numbers_as_texts(task: Task) -> Iterator[str]:
    """Whether all of the first texts are numbers, which say little to a model of texts."""
    given = task["train"].examples
    texts = given[:_LOOKED_AT] if task.modality == "text" and isinstance(given, list) else ()
    parts = [p for t in texts for p in ((t,) if isinstance(t, str) else t if is_pair(t) else ())]
    if parts and all(number_of(part.replace(",", ".", 1)) is not None for part in parts):
        yield (
            f"the texts are numbers, such as {visible(parts[0])!r}; give them as numbers if they "
            f"are measured, such as by astype(float), or features= and their columns"
        )


def _waveforms(task: Task) -> Iterator[str]:
    """Whether the examples are numbers (1, T), as loaders of sounds give them."""
    first: tuple[int, ...] = ()
    with suppress(InvalidInputError):  # of one that cannot be read, which is told when it is used
        first = np.shape(task["train"].examples[0]) if task.modality == "tensor" else ()
    if len(first) == 2 and first[0] == 1 and first[1] >= _SAMPLES:
        yield (
            f"examples are numbers of the shape {first}, as waveforms of one channel are; if they "
            f"are sounds, give {{'array': x, 'sampling_rate': 16000}} with their rate for each"
        )


def repeats(task: Task) -> list[str]:
    """Which splits hold examples of ``train`` as well, and which of these are of two classes.

    Examples are compared by what is stored; of files, those of one size. Nothing is compared where
    there are more than ``_MOST_EXAMPLES``, where more than ``_MOST_BYTES`` would have to be read,
    or where examples are made or decoded only when they are used, but for cuts of one data set.
    """
    train = task["train"]
    told = []
    for name, split in task.splits.items():
        count, chance = (0, 0.0) if name == "train" else _common(train, split)
        if count > (max(_CHANCE, chance) if task.modality == "tensor" else 0):
            told.append(
                f"{count} of {len(split)} examples of split {name!r} are in 'train' as well, so "
                f"a score on {name} partly measures memory; take them out of one of the two"
            )
    # Rows of few different numbers may well be equal.
    if task.num_classes and task.modality != "tensor" and train.units is None:
        told += _of_two_classes(train, task.classes)
    return told


def _of_two_classes(train: Split, classes: Sequence[str]) -> Iterator[str]:
    """How many training examples are equal to one of another class."""
    sizes = _sizes(train)
    rows = None
    if sizes is not None:
        place, count = np.unique(sizes, return_inverse=True, return_counts=True)[1:]
        rows = np.flatnonzero(count[place] > 1)
    found: dict[int, list[int]] = {}
    for row, one in _hashes([train], [rows])[0].items():
        found.setdefault(one, []).append(row)
    equal = [same for same in found.values() if len({train.labels[row] for row in same}) > 1]
    bare = [] if len(equal) > _MOST_LOOKED_AT else [s for s in equal if _is_bare(train, s[0])]
    copied = [same for same in equal if same not in bare]
    by_chance = sum(map(len, bare)) <= _MOST_SHORT * len(train) and isinstance(
        next((train.examples[same[0]] for same in bare), None), str
    )
    for groups in (copied, [] if by_chance else bare):
        if not groups:
            continue
        one, *others = groups[0]
        other = next(row for row in others if train.labels[row] != train.labels[one])
        named = " and ".join(
            f"{_called(train, row)} of {_shown(classes[train.labels[row]])}" for row in (one, other)
        )
        why, cure = "", "leave out what was copied or linked twice, or correct the labels"
        if groups is bare:
            text = isinstance(train.examples[one], str)
            why = f" and {'short' if text else 'blank'}"
            cure = "correct the labels if they are no accident" if text else "leave out blank ones"
        yield (
            f"{sum(map(len, groups))} of {len(train)} training examples are equal to one of "
            f"another class{why}, such as {named}; {cure}"
        )


def _is_bare(split: Split, row: int) -> bool:
    """Whether an example says too little to be a copy: a short text, one colour, silence."""
    try:
        example = split.examples[row]
    except InvalidInputError:  # of a damaged file, which is told of when it is used
        return False
    if isinstance(example, str):
        return len(example.strip()) <= _SHORT
    if isinstance(example, Sound):
        return float(np.ptp(example.samples)) == 0
    return isinstance(example, Image) and example.convert("RGB").getcolors(1) is not None


def _called(split: Split, row: int) -> str:
    files = split.examples
    return (
        repr(visible(str(files.paths[row].name))) if isinstance(files, Files) else f"example {row}"
    )


def _common(train: Split, split: Split) -> tuple[int, float]:
    """How many examples of a split are in the training data, and the most that may be by chance."""
    (one, first), (other, second) = map(_origin, (train, split))
    if one is not None and one is other:
        return int(np.isin(second, first).sum()), 0.0
    rows: list[Any] = [None, None]
    of_one, of_other = _sizes(train), _sizes(split)
    if of_one is not None and of_other is not None:
        shared = np.intersect1d(of_one, of_other)
        rows = [np.flatnonzero(np.isin(sizes, shared)) for sizes in (of_one, of_other)]
    found = _hashes([train, split], rows)
    known = {*found[0].values()}
    common = [row for row, one in found[1].items() if one in known]
    longer = [
        row for row in common if not (isinstance(split.examples, list) and _is_bare(split, row))
    ]
    often = len(common) - len(longer) > _MOST_SHORT * len(split)
    count = len(common if often else longer)
    return count, _by_chance(found[0], train, len(split)) if count > _CHANCE else 0.0


def _by_chance(hashes: Mapping[int, int], train: Split, count: int) -> float:
    """The most of ``count`` examples that are equal to one of ``train`` where nothing was copied.

    Three standard errors above the share of examples of ``train`` that have an equal one there, as
    rows of few different numbers have; of copies, which have one label, nothing is by chance.
    """
    found = np.fromiter(hashes.values(), np.int64, len(hashes))
    groups, counts = np.unique(found, return_inverse=True, return_counts=True)[1:]
    labels = np.unique(train.labels[[*hashes]], axis=0, return_inverse=True)[1].ravel()
    pairs = np.unique(np.stack([groups, labels]), axis=1)
    if pairs.shape[1] == len(counts):
        return 0.0
    share = float((counts[groups] > 1).mean())
    return count * share + 3 * (count * share * (1 - share)) ** 0.5


def _origin(split: Split) -> tuple[Any, np.ndarray]:
    """The data set of somebody else that a split is cut out of, and which of its examples."""
    items: Any = getattr(split.examples, "items", None)
    rows = np.arange(len(split))
    while hasattr(items, "indices") and hasattr(items, "dataset"):
        rows, items = np.asarray(items.indices)[rows], items.dataset
    return items, rows


def _sizes(split: Split) -> np.ndarray | None:
    return getattr(split.examples, "sizes", None)


def _hashes(splits: Sequence[Split], rows: Sequence[Any]) -> list[dict[int, int]]:
    """Of some examples of splits what they contain, as numbers; of none where that is too much."""
    nothing: list[dict[int, int]] = [{} for _ in splits]
    given = [split.examples for split in splits]
    made = (not e.kept if isinstance(e, Examples) else isinstance(e[0], ImageFile) for e in given)
    if sum(map(len, splits)) > _MOST_EXAMPLES or any(made):
        return nothing
    known = [(_sizes(split), which) for split, which in zip(splits, rows, strict=True)]
    if sum(of[which].sum() for of, which in known if of is not None) > _MOST_BYTES:
        return nothing
    read = 0
    found: list[dict[int, int]] = [{} for _ in splits]
    try:
        for hashes, examples, which in zip(found, given, rows, strict=True):
            places = range(len(examples)) if which is None else which.tolist()
            for row, content in zip(places, _contents(examples, which), strict=True):
                read += len(content)
                if read > _MOST_BYTES:
                    return nothing
                if content.strip(b"\0 "):  # not of an empty text
                    hashes[row] = hash(content)  # of 64 bits, with a random key
    except InvalidInputError:  # of a damaged file, which is told of when it is used
        return nothing
    return found


def _contents(examples: Sequence[Any], rows: np.ndarray | None) -> Iterator[bytes]:
    if not isinstance(examples, Examples):
        return map(example_bytes, examples)
    return examples.each() if rows is None else map(examples.stored, rows.tolist())
