"""The options that every task takes: what is made of it when it is loaded."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.example import is_blank
from transfer_metrics.sources.tasks.assembly import check_policy
from transfer_metrics.sources.tasks.sequences import Files
from transfer_metrics.sources.tasks.subtasks import hold_out, subsample, vtab_1k
from transfer_metrics.sources.tasks.task import Split, Task

_VTAB = "vtab-1k"
_MOST_LOOKED_AT, _MOST_TOLD = 50_000, 20
"""Image files that are looked at when a task is loaded, and damaged ones that are named."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """What is made of a loaded task, in the order of the fields.

    Attributes:
        corrupt: ``"skip"`` reads every example once and leaves out images and sounds that cannot
            be read and empty texts; ``"error"`` looks at the ends of image files and tells of all
            that are damaged.
        test_size: share of the training examples to hold out as ``test``.
        examples: number of training examples to keep, class-balanced.
        protocol: ``"vtab-1k"`` for its 800 training and 200 validation examples.
        seed: of every random choice.
    """

    corrupt: str = "error"
    test_size: float | None = None
    examples: int | None = None
    protocol: str | None = None
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Cut:
        """From options as they are written, text or values.

        >>> Cut.of({"examples": "1000", "seed": 1})
        Cut(corrupt='error', test_size=None, examples=1000, protocol=None, seed=1)
        """
        given = {name: value for name, value in options.items() if value is not None}
        protocol, share = given.get("protocol"), given.get("test_size")
        if protocol not in (None, _VTAB):
            raise InvalidInputError(f"protocol={protocol!r}; the one that is known is {_VTAB}")
        if protocol and "examples" in given:
            raise InvalidInputError(f"protocol={_VTAB} says how many examples; leave examples out")
        corrupt = check_policy("corrupt", given.get("corrupt", "error"))
        if share is not None and not 0 < _number(share) < 1:
            raise InvalidInputError(f"test_size={share!r}; give a share between 0 and 1, as 0.2")
        return cls(
            corrupt,
            None if share is None else _number(share),
            _whole("examples", given["examples"], 1) if "examples" in given else None,
            protocol,
            _whole("seed", given.get("seed", 0), 0),
        )

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


def _whole(option: str, value: Any, least: int) -> int:
    number = _number(value)
    if number != math.floor(number) or number < least:
        raise InvalidInputError(f"{option}={value!r}; give a whole number from {least} on")
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
    if task.modality == "tensor":
        return task
    splits = {name: _readable(task, name, split) for name, split in task.splits.items()}
    lost = {name: len(split) - len(splits[name]) for name, split in task.splits.items()}
    why = "they are empty" if task.modality == "text" else "they cannot be read"
    told = [(f"{n} examples of {name}", why) for name, n in lost.items() if n]
    return dataclasses.replace(task, splits=splits, understood=task.understood.plus(told))


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


def _readable(task: Task, name: str, split: Split) -> Split:
    good, first = [], None
    for position in range(len(split)):
        try:
            if is_blank(split.examples[position]):
                raise InvalidInputError(f"example {position} is an empty text")
        except InvalidInputError as error:
            first = first or error
        else:
            good.append(position)
    if first is None:
        return split
    where = f"task {task.name!r}, split {name!r}"
    if not good:
        raise InvalidInputError(f"{where}: none of {len(split)} examples can be read: {first}")
    warn(
        f"{where}: left out {len(split) - len(good)} of {len(split)} examples, which cannot be "
        f"read; the first: {first}"
    )
    rows = np.array(good)
    if name == "train" and task.num_classes and len(np.unique(split.labels[rows])) < 2:
        raise InvalidInputError(
            f"{where}: the examples that can be read are all of one class; replace the damaged ones"
        )
    return split.rows(rows)
