"""The data that heads are compared on: train, validation, test, and shifted data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.naming import a_type
from transfer_metrics.registry import choose
from transfer_metrics.sources.tasks.corruptions import CORRUPTIONS, corrupted
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.subtasks import hold_out
from transfer_metrics.sources.tasks.task import Split, Task

_HELD_OUT = 0.2
_CORRUPTED = "corrupted:"


def complete_task(task: Task, *, validation: float = _HELD_OUT) -> Task:
    """A task with the splits train, val and test, the last two cut from ``train`` where missing.

    A fifth of ``train`` is held out for testing, with a warning, and a share ``validation`` of what
    is left for validation, the same of every class. Other splits are left out, so that nothing
    fitted on the result can see them.

    >>> task = complete_task(load_task("sklearn:digits"))
    >>> {name: len(split) for name, split in task.splits.items()}
    {'train': 1078, 'val': 269, 'test': 450}
    """
    task = with_test(task)
    if "val" not in task.splits:
        task = hold_out(task, "val", validation)
    return dataclasses.replace(task, splits={n: task[n] for n in ("train", "val", "test")})


def with_test(task: Task) -> Task:
    """A task with the split test, cut from ``train`` where it is missing; see ``complete_task``."""
    if "test" in task.splits:
        return task
    whole = len(task["train"])
    task = hold_out(task, "test", _HELD_OUT)
    warn(
        f"task {task.name!r} has no test split, so {len(task['test'])} of its {whole} "
        f"examples are held out for testing"
    )
    return task


def shifted_splits(task: Task, ood: Mapping[str, Any] | None = None) -> dict[str, Split]:
    """Data out of distribution by name, with labels numbered as in the task; ``compare`` says how.

    Examples of classes that the task does not have are left out, with a warning.

    >>> digits = load_task("sklearn:digits")
    >>> list(shifted_splits(digits, {"blurred": "corrupted:blur:2"}))
    ['blurred']
    """
    if ood is None:
        return {"ood": task["ood"]} if "ood" in task.splits else {}
    taken = sorted({"train", "val", "test"} & set(ood))
    if taken:
        raise InvalidInputError(f"ood data cannot be called {taken[0]!r}; choose another name")
    return {str(name): _shifted(task, str(name), given) for name, given in ood.items()}


def check_shifted(ood: Mapping[str, Any] | None) -> None:
    """Raise where shifted data have no names, or are corrupted in no way that there is.

    That is seen before data are read.

    >>> check_shifted({"soft": "corrupted:blur:2", "sketches": "imagefolder:sketches/"})
    """
    if not (ood is None or isinstance(ood, Mapping)):
        raise InvalidInputError(
            f"ood is {a_type(ood)}; give a mapping from names to data, such as "
            f"{{'blurred': 'corrupted:blur:3'}}"
        )
    for name, given in (ood or {}).items():
        _corruption(name, given)


def _corruption(name: str, given: Any) -> tuple[str, int] | None:
    """Kind and severity of ``corrupted:KIND:SEVERITY``; None of all else."""
    if not isinstance(given, str) or not given.startswith(_CORRUPTED):
        return None
    kind, _, severity = given.removeprefix(_CORRUPTED).partition(":")
    choose("corruption", kind, CORRUPTIONS)
    if severity and not severity.isdecimal():
        raise InvalidInputError(f"ood {name!r}: {given!r} needs a whole number after {kind!r}")
    return kind, int(severity or 3)


def _shifted(task: Task, name: str, given: Any) -> Split:
    """Examples with this task's class numbers; of another task those for testing."""
    if isinstance(given, Split):
        return given
    if (found := _corruption(name, given)) is not None:
        return corrupted(task["test"], *found)
    other = load_task(given)
    split = other["test"] if "test" in other.splits else other["train"]
    if task.kind != "classification":
        if other.kind != task.kind or split.labels.shape[1:] != task["test"].labels.shape[1:]:
            raise InvalidInputError(
                f"ood {name!r}: {other.name!r} is a {other.kind} and {task.name!r} a {task.kind}, "
                f"or they have other numbers of targets or labels; they do not mean the same"
            )
        return split
    number = {label: code for code, label in enumerate(task.classes)}
    codes = np.array([number.get(label, -1) for label in other.classes])
    if other.kind != "classification" or not (codes >= 0).any():
        raise InvalidInputError(
            f"ood {name!r}: {other.name!r} has the classes {', '.join(other.classes[:5])}… and "
            f"{task.name!r} has {', '.join(task.classes[:5])}…; none has the same name"
        )
    labels = codes[split.labels]
    known = np.flatnonzero(labels >= 0)
    if len(known) < len(labels):
        warn(
            f"ood {name!r}: {len(labels) - len(known)} of {len(labels)} examples have classes that "
            f"{task.name!r} does not know, and are left out"
        )
        split = split.rows(known)
    return Split(split.examples, codes[split.labels])
