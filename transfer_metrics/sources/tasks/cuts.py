"""Options that every task takes: what is done to it once it is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.tasks.gaps import check_policy, without_damaged
from transfer_metrics.sources.tasks.subtasks import VTAB, hold_out, subsample, vtab_1k
from transfer_metrics.sources.tasks.task import Task


@dataclass(frozen=True)
class Cut:
    """What is made of a loaded task, in the order of the fields.

    Attributes:
        corrupt: ``"skip"`` reads every image and sound once and leaves out those that cannot be
            read; ``"error"`` reads none.
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

        Raises:
            InvalidInputError: a value cannot be used.

        >>> Cut.of({"examples": "1000", "seed": 1})
        Cut(corrupt='error', test_size=None, examples=1000, protocol=None, seed=1)
        """
        given = {name: value for name, value in options.items() if value is not None}
        examples, share = given.get("examples"), given.get("test_size")
        protocol = given.get("protocol")
        if protocol not in (None, VTAB):
            raise InvalidInputError(f"protocol={protocol!r}; the one that is known is {VTAB}")
        if protocol and examples is not None:
            raise InvalidInputError(f"protocol={VTAB} says how many examples; leave examples out")
        return cls(
            check_policy("corrupt", given.get("corrupt", "error")),
            None if share is None else _share(share),
            None if examples is None else _whole("examples", examples, 1),
            protocol,
            _whole("seed", given.get("seed", 0), 0),
        )

    def __call__(self, task: Task) -> Task:
        """The task as it was asked for."""
        if self.corrupt == "skip":
            task = without_damaged(task)
        if self.test_size is not None:
            task = hold_out(task, "test", self.test_size, self.seed)
        if self.examples is not None:
            task = subsample(task, self.examples, self.seed)
        return task if self.protocol is None else vtab_1k(task, self.seed)


CUTS = tuple(field.name for field in fields(Cut))


def _whole(option: str, value: Any, least: int) -> int:
    number = _number(value)
    if number != math.floor(number) or number < least:
        raise InvalidInputError(f"{option}={value!r}; give a whole number from {least} on")
    return int(number)


def _share(value: Any) -> float:
    number = _number(value)
    if not 0 < number < 1:
        raise InvalidInputError(f"test_size={value!r}; give a share between 0 and 1, as 0.2")
    return number


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return -1.0
    return number if math.isfinite(number) else -1.0
