"""Tasks made of a task: samples, held-out tests, folds, VTAB-1k's splits, less what is damaged."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, check_whole, warn
from transfer_metrics.naming import a_type
from transfer_metrics.sources.example import is_blank
from transfer_metrics.sources.tasks.assembly import check_policy
from transfer_metrics.sources.tasks.sequences import Files
from transfer_metrics.sources.tasks.task import Split, Task

_MOST_LOOKED_AT, _MOST_TOLD = 50_000, 20
"""Image files that are looked at when a task is loaded, and damaged ones that are named."""
_VTAB, _VTAB_TRAIN, _VTAB_VAL = "vtab-1k", 800, 200


def nested_order(
    labels: np.ndarray, num_classes: int, seed: int = 0, *, balanced: bool = False
) -> np.ndarray:
    """An order of the examples of which every beginning is a random sample fair to the classes.

    Every class has one example as soon as s, the length of the beginning, reaches the number C of
    classes. Stratified, a class of which there are c of n examples has at most one more than
    ``c s / n``, and at most ``C c / n`` fewer. Balanced, no two classes differ by more than one
    until the smaller is used up. Regression targets, of no classes, are shuffled.

    >>> labels = np.array([0, 0, 0, 0, 1, 1])
    >>> [np.bincount(labels[nested_order(labels, 2)[:s]]).tolist() for s in (2, 3, 6)]
    [[1, 1], [2, 1], [4, 2]]
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    if not num_classes:
        return shuffled
    turn = np.empty(len(labels))
    for c in range(num_classes):
        members = shuffled[labels[shuffled] == c]
        turn[members] = np.arange(len(members)) / (1 if balanced else max(len(members), 1))
    # Stable, so that examples whose turn comes together stay shuffled.
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


def stratified_holdout(
    labels: np.ndarray, fraction: float, seed: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Positions that stay and those held out, ascending: at random, the same share of each class.

    The total is rounded, the classes with the largest remainders give the rest, and every class
    keeps at least one example.
    """
    from sklearn.utils import check_random_state

    check_share(fraction)
    random = check_random_state(seed)
    _, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    exact = counts * fraction
    take = np.minimum(np.floor(exact).astype(int), counts - 1)
    total = max(round(len(labels) * fraction), 1)
    for code in np.lexsort((random.permutation(len(counts)), take - exact)):
        if take.sum() < total and take[code] < counts[code] - 1:
            take[code] += 1
    if not take.sum():
        raise InvalidInputError(
            f"nothing can be held out: none of {len(counts)} class(es) has two "
            f"examples among {len(labels)} sample(s); add examples, or give what is to be held out "
            f"as a split of its own, or as validation= to fit"
        )
    out = np.concatenate(
        [random.permutation(np.flatnonzero(codes == c))[:k] for c, k in enumerate(take)]
    )
    held = np.zeros(len(labels), bool)
    held[out] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def check_share(validation: Any) -> None:
    """Refuse a head that would make its choices on the data it was fitted to."""
    if not isinstance(validation, (int, float)) or not 0 < validation < 1:
        raise InvalidInputError(f"validation={validation!r}; use a share between 0 and 1, as 0.2")


def subsample(task: Task, examples: int, seed: int = 0) -> Task:
    """A task with fewer training examples, as many of every class as there are; others as before.

    A class that has fewer than its equal share gives all, and the others fill its places.
    Regression targets are drawn at random. The choice depends on labels, their order and the seed,
    so the same data give the same sample on every machine, and a smaller sample is part of a larger
    one of the same seed. Words are drawn one by one and keep their sentences.

    Args:
        task: the task.
        examples: how many training examples to keep, at least one of every class.
        seed: of the random choice.

    Raises:
        InvalidInputError: there are more classes than examples asked for, or a name in place of a
            task.

    Warns:
        TransferMetricsWarning: there are fewer examples than asked for, or a class has fewer than
            its equal share; says how many.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> digits = subsample(load_task("sklearn:digits"), 100)
    >>> len(digits["train"]), set(np.bincount(digits["train"].labels).tolist())
    (100, {10})
    """
    _refuse_unloaded(task)
    examples, seed = _whole("examples", examples, 1), _whole("seed", seed, 0)
    whole = task["train"]
    if examples >= len(whole):
        if examples > len(whole):
            warn(
                f"task {task.name!r} has {len(whole)} training examples, fewer than the "
                f"{examples} asked for; all are used"
            )
        return task
    present = np.unique(whole.labels) if task.num_classes else np.empty(0)
    if examples < max(len(present), 1):
        raise InvalidInputError(
            f"task {task.name!r}: {examples} examples of {len(present)} classes; ask for at least "
            f"one of each, examples={max(len(present), 1)}, or more"
        )
    order = nested_order(whole.labels, task.num_classes, seed, balanced=True)
    chosen = np.sort(order[:examples])
    counts = np.bincount(whole.labels, minlength=task.num_classes) if task.num_classes else ()
    share = examples // max(len(present), 1)
    scarce = [(name, n) for name, n in zip(task.classes, counts, strict=False) if 0 < n < share]
    if scarce:
        told = ", ".join(f"{name!r} {n}" for name, n in scarce[:5])
        more = f" and {len(scarce) - 5} more" if len(scarce) > 5 else ""
        warn(
            f"task {task.name!r}: of {examples} examples {share} would be of each class, but there "
            f"are fewer of {told}{more}; other classes fill their places"
        )
    return dataclasses.replace(task, splits={**task.splits, "train": whole.rows(chosen)})


def hold_out(task: Task, split: str, share: float, seed: int = 0) -> Task:
    """Cut a part of the training examples off as another split, with every class in its share.

    Words are cut off by sentences, so that no sentence is in both.
    """
    if split in task.splits:
        raise InvalidInputError(
            f"task {task.name!r} has a split {split!r} of {len(task[split])} examples; use that, "
            f"and leave {split}_size out"
        )
    whole = task["train"]
    stay, out = held_out(task.name, whole, task.num_classes, share, seed)
    splits = {**task.splits, "train": whole.rows(stay), split: whole.rows(out)}
    return dataclasses.replace(task, splits=splits)


def held_out(
    name: str, whole: Split, num_classes: int, share: float, seed: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Positions that stay and those held out of a split: by class, or at random, or by sentence."""
    if whole.units is None:
        labels = whole.labels if num_classes else np.zeros(len(whole))
        return stratified_holdout(labels, share, seed)
    from sklearn.model_selection import GroupShuffleSplit

    try:
        splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
        return next(splitter.split(whole.labels, groups=whole.units))
    except ValueError as error:
        raise InvalidInputError(
            f"task {name!r}: a share of {share} of the sentences cannot be held out ({error})"
            f"; give a share between 0 and 1, and at least two sentences"
        ) from error


def folds(task: Task, k: int = 5, seed: int = 0) -> Iterator[Task]:
    """Cross-validation: k tasks, each with another part of the training examples for testing.

    Parts have every class in its share, by scikit-learn's ``StratifiedKFold``; regression targets
    are shuffled by ``KFold``; words stay with their sentences, by ``StratifiedGroupKFold``.

    Args:
        task: the task, of which the split ``train`` is used.
        k: number of parts.
        seed: of the random choice.

    Yields:
        Tasks with the splits ``train`` and ``test``, named after the fold.

    Raises:
        InvalidInputError: there are fewer than two parts, or no class has k examples.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> [len(fold["test"]) for fold in folds(load_task("sklearn:iris"), 3)]
    [38, 37, 37]
    """
    from sklearn import model_selection as ways

    _refuse_unloaded(task)
    k, whole = _whole("k", k, 1), task["train"]
    kind: Any
    if whole.units is None:
        kind = ways.StratifiedKFold if task.num_classes else ways.KFold
    else:
        kind = ways.StratifiedGroupKFold if task.num_classes else ways.GroupKFold
    try:
        if k < 2:
            raise ValueError(f"k={k} is no number of parts")
        splitter = kind(k, shuffle=True, random_state=seed)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            parts = list(splitter.split(np.zeros(len(whole)), whole.labels, whole.units))
    except ValueError as error:
        raise InvalidInputError(
            f"task {task.name!r} cannot be split into {k} folds ({error}); choose k between 2 and "
            f"the size of the largest class"
        ) from error
    for one in told:
        warn(f"task {task.name!r}, {k} folds: {one.message}")
    for number, (train, test) in enumerate(parts, start=1):
        splits = {"train": whole.rows(train), "test": whole.rows(test)}
        yield dataclasses.replace(task, name=f"{task.name}, fold {number} of {k}", splits=splits)


def vtab_1k(task: Task, seed: int = 0) -> Task:
    """The training data of VTAB-1k: 800 random examples to train on, 200 random ones to validate.

    As in the benchmark (Zhai et al. 2019), they are not balanced: 800 of the split ``train`` and
    200 of ``val``, or where there is none 1 000 of ``train``. Other splits stay as they are. The
    examples are drawn by the seed, and are not those of the files that the benchmark distributes.

    Raises:
        InvalidInputError: there are not enough examples.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> {name: len(split) for name, split in vtab_1k(load_task("sklearn:digits")).splits.items()}
    {'train': 800, 'test': 450, 'val': 200}
    """
    _refuse_unloaded(task)
    seed = _whole("seed", seed, 0)

    def drawn(split: str, count: int) -> np.ndarray:
        have = len(task[split])
        if have < count:
            raise InvalidInputError(
                f"task {task.name!r}: {_VTAB} takes {count} examples of split {split!r}, which has "
                f"{have}; use examples=… and test_size=… instead"
            )
        return np.random.default_rng(seed).permutation(have)[:count]

    own = "val" in task.splits
    first = drawn("train", _VTAB_TRAIN if own else _VTAB_TRAIN + _VTAB_VAL)
    second = drawn("val", _VTAB_VAL) if own else first[_VTAB_TRAIN:]
    train = task["train"].rows(np.sort(first[:_VTAB_TRAIN]))
    val = task["val" if own else "train"].rows(np.sort(second))
    return dataclasses.replace(task, splits={**task.splits, "train": train, "val": val})


@dataclasses.dataclass(frozen=True)
class Cut:
    """What is made of a loaded task, in the order of the fields; ``load_task`` explains them."""

    corrupt: str = "error"
    test_size: float | None = None
    examples: int | None = None
    protocol: str | None = None
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Cut:
        """From options as they are written, text or values."""
        given = {name: value for name, value in options.items() if value is not None}
        if given.get("protocol", _VTAB) != _VTAB:
            raise InvalidInputError(
                f"protocol={given['protocol']!r}; the one that is known is {_VTAB}"
            )
        if {"protocol", "examples"} <= set(given):
            raise InvalidInputError(f"protocol={_VTAB} says how many examples; leave examples out")
        if "corrupt" in given:
            check_policy("corrupt", given["corrupt"])
        if (share := given.get("test_size")) is not None:
            given["test_size"] = _number(share)
            if not 0 < given["test_size"] < 1:
                raise InvalidInputError(
                    f"test_size={share!r}; give a share between 0 and 1, as 0.2"
                )
        for option, least in (("examples", 1), ("seed", 0)):
            if option in given:
                given[option] = _whole(option, given[option], least)
        return cls(**given)

    def __call__(self, task: Task) -> Task:
        """The task as it was asked for."""
        if self.corrupt == "skip":
            task = _without_damaged(task)
        else:
            _refuse_damaged(task)
        if self.test_size is not None:
            task = hold_out(task, "test", self.test_size, self.seed)
        if self.examples is not None:
            task = subsample(task, self.examples, self.seed)
        return task if self.protocol is None else vtab_1k(task, self.seed)


def _refuse_unloaded(task: Any) -> None:
    """Raise where the name of a task, or anything else, is given for a task."""
    if not isinstance(task, Task):
        spec = repr(task) if isinstance(task, str) else "X, y"
        raise InvalidInputError(
            f"{a_type(task)} is no task; load it first, such as by load_task({spec})"
        )


def _whole(option: str, value: Any, least: int) -> int:
    number = _number(value)
    good = number == math.floor(number) and number >= least
    check_whole(least, **{option: int(number) if good else value})
    return int(number)


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return -1.0
    return number if math.isfinite(number) else -1.0


def _without_damaged(task: Task) -> Task:
    """Leave out images and sounds that cannot be read, and empty texts, by reading each once.

    What is left is fixed then, so that fingerprints, shards and folds are those of good examples.
    """
    splits, left = dict(task.splits), []
    for name, split in task.splits.items() if task.modality != "tensor" else ():
        good, first = [], None
        for position in range(len(split)):
            try:
                if is_blank(split.examples[position]):
                    raise InvalidInputError(f"example {position} is an empty text")
                good.append(position)
            except InvalidInputError as error:
                first = first or error
        if first is None:
            continue
        where, lost = f"task {task.name!r}, split {name!r}", len(split) - len(good)
        if not good:
            raise InvalidInputError(f"{where}: none of {lost} examples can be read: {first}")
        warn(
            f"{where}: left out {lost} of {len(split)} examples, which cannot be read; the first: "
            f"{first}"
        )
        splits[name] = split.rows(np.array(good))
        if name == "train" and task.num_classes and len(np.unique(splits[name].labels)) < 2:
            raise InvalidInputError(
                f"{where}: the {len(good)} of {len(split)} examples that can be read are all of "
                f"one class; replace the damaged ones"
            )
        why = "they are empty" if task.modality == "text" else "they cannot be read"
        left.append((f"{lost} examples of {name}", why))
    return dataclasses.replace(task, splits=splits, understood=task.understood.plus(left))


def _refuse_damaged(task: Task) -> None:
    """Tell of all files that cannot be read, and of what else was left out, in one error.

    Of more than ``_MOST_LOOKED_AT`` files none is looked at before it is used.
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
