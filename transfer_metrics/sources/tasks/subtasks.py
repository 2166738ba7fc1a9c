"""Tasks made of a task: class-balanced samples, held-out tests, folds, and VTAB-1k's splits."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.tasks.subsamples import nested_order, stratified_holdout
from transfer_metrics.sources.tasks.task import Split, Task

VTAB = "vtab-1k"
VTAB_TRAIN, VTAB_VAL = 800, 200


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
        InvalidInputError: there are more classes than examples asked for.

    Warns:
        TransferMetricsWarning: there are fewer examples than asked for, or a class has fewer than
            its equal share; says how many.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> digits = subsample(load_task("sklearn:digits"), 100)
    >>> len(digits["train"]), set(np.bincount(digits["train"].labels).tolist())
    (100, {10})
    """
    whole = task["train"]
    if examples >= len(whole):
        if examples > len(whole):
            _warn(
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
    if task.num_classes:
        _tell_scarce(task, whole.labels, examples, len(present))
    return dataclasses.replace(task, splits={**task.splits, "train": whole.rows(chosen)})


def hold_out(task: Task, split: str, share: float, seed: int = 0) -> Task:
    """Cut a part of the training examples off as another split, with every class in its share.

    Words are cut off by sentences, so that no sentence is in both.

    Args:
        task: the task.
        split: the new split, such as ``"test"``.
        share: of the training examples, in (0, 1).
        seed: of the random choice.

    Raises:
        InvalidInputError: there is such a split, the share is out of range, or nothing can be held
            out.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> iris = hold_out(load_task("sklearn:iris"), "val", 0.25)
    >>> len(iris["train"]), len(iris["val"]), np.bincount(iris["val"].labels).tolist()
    (84, 28, [9, 9, 10])
    """
    if split in task.splits:
        raise InvalidInputError(
            f"task {task.name!r} has a split {split!r} of {len(task[split])} examples; use that, "
            f"and leave {split}_size out"
        )
    whole = task["train"]
    if whole.units is None:
        labels = whole.labels if task.num_classes else np.zeros(len(whole))
        stay, out = stratified_holdout(labels, share, seed)
    else:
        stay, out = _sentences_out(task, whole, share, seed)
    splits = {**task.splits, "train": whole.rows(stay), split: whole.rows(out)}
    return dataclasses.replace(task, splits=splits)


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
    whole = task["train"]
    splitter: Any
    if whole.units is not None:
        kind = StratifiedGroupKFold if task.num_classes else GroupKFold
        splitter = kind(k, shuffle=True, random_state=seed) if k > 1 else None
    else:
        kind = StratifiedKFold if task.num_classes else KFold
        splitter = kind(k, shuffle=True, random_state=seed) if k > 1 else None
    try:
        if splitter is None:
            raise ValueError(f"k={k} is no number of parts")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            parts = list(splitter.split(np.zeros(len(whole)), whole.labels, whole.units))
    except ValueError as error:
        raise InvalidInputError(
            f"task {task.name!r} cannot be split into {k} folds ({error}); choose k between 2 and "
            f"the size of the largest class"
        ) from error
    for one in told:
        _warn(f"task {task.name!r}, {k} folds: {one.message}")
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
    train = task["train"]
    wanted = {"train": VTAB_TRAIN} if "val" in task.splits else {"train": VTAB_TRAIN + VTAB_VAL}
    wanted |= {"val": VTAB_VAL} if "val" in task.splits else {}
    drawn: dict[str, np.ndarray] = {}
    for name, count in wanted.items():
        have = len(task[name])
        if have < count:
            raise InvalidInputError(
                f"task {task.name!r}: {VTAB} takes {count} examples of split {name!r}, which has "
                f"{have}; use examples=… and test_size=… instead"
            )
        drawn[name] = np.random.default_rng(seed).permutation(have)[:count]
    if "val" in drawn:
        val = task["val"].rows(np.sort(drawn["val"]))
    else:
        val = train.rows(np.sort(drawn["train"][VTAB_TRAIN:]))
    splits = {**task.splits, "train": train.rows(np.sort(drawn["train"][:VTAB_TRAIN])), "val": val}
    return dataclasses.replace(task, splits=splits)


def _tell_scarce(task: Task, labels: np.ndarray, examples: int, classes: int) -> None:
    counts = np.bincount(labels, minlength=task.num_classes)
    share = examples // classes
    scarce = [(name, n) for name, n in zip(task.classes, counts, strict=True) if 0 < n < share]
    if scarce:
        told = ", ".join(f"{name!r} {n}" for name, n in scarce[:5])
        more = f" and {len(scarce) - 5} more" if len(scarce) > 5 else ""
        _warn(
            f"task {task.name!r}: of {examples} examples {share} would be of each class, but there "
            f"are fewer of {told}{more}; other classes fill their places"
        )


def _sentences_out(
    task: Task, whole: Split, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    try:
        splitter = GroupShuffleSplit(1, test_size=share, random_state=seed)
        [(stay, out)] = splitter.split(whole.labels, groups=whole.units)
    except ValueError as error:
        raise InvalidInputError(
            f"task {task.name!r}: a share of {share} of the sentences cannot be held out ({error})"
            f"; give a share between 0 and 1, and at least two sentences"
        ) from error
    return stay, out


def _warn(text: str) -> None:
    warnings.warn(text, TransferMetricsWarning, stacklevel=3)
