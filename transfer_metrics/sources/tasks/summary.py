"""How a task was understood, on one line for people to check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from transfer_metrics.sources.base import Task
from transfer_metrics.untrusted import visible

MOST_CLASSES, MOST_INPUTS, MOST_LEFT_OUT = 5, 6, 4
"""Classes, columns and things left out that are told; of more, the first two and the last."""
_LONGEST_NAME, _LONGEST_THING = 40, 120
_EXAMPLES = {"image": "images", "text": "texts", "audio": "sounds", "tensor": "numbers"}


def summary_of(task: Task) -> str:
    """Name, kind, number of examples, classes with their counts, columns, and what was left out.

    Counts are those of the split ``train``; nothing is decoded. Names are as ``visible`` shows
    them, on one line.

    >>> from transfer_metrics.sources.tasks.load_task import load_task
    >>> summary_of(load_task(["good", "bad", "poor"] * 2, ["pos", "neg", "neg"] * 2, name="films"))
    'films: classification of texts, train 6 (2 classes: neg ×4, pos ×2)'
    >>> summary_of(load_task("sklearn:diabetes"))
    'sklearn:diabetes: regression of numbers, train 331 (targets 25 to 346), test 111'
    """
    of_words = task["train"].units is not None
    what = "words in sentences" if of_words else _EXAMPLES[task.modality]
    told = f"{visible(task.name)}: {task.kind} of {what}, "
    sizes = {name: f"{name} {len(split)}" for name, split in task.splits.items()}
    sizes["train"] += f" ({_classes(task) if task.num_classes else _targets(task)})"
    told += ", ".join(sizes.values())
    how = task.understood
    if how.label:
        told += f"; label {_name(how.label)}"
    if how.inputs:
        told += f"; inputs {_inputs(how.inputs)}"
    if how.left_out:
        told += f"; left out: {_left_out(how.left_out)}"
    return told


def _classes(task: Task) -> str:
    counts = np.bincount(task["train"].labels, minlength=task.num_classes)
    told = [f"{_name(c)} ×{n}" for c, n in zip(task.classes, counts.tolist(), strict=True)]
    return f"{task.num_classes} classes: {', '.join(_ends(told, MOST_CLASSES))}"


def _targets(task: Task) -> str:
    labels = task["train"].labels
    several = f"{labels.shape[1]} " if labels.ndim == 2 else ""
    return f"{several}targets {labels.min():.4g} to {labels.max():.4g}"


def _inputs(names: Sequence[str]) -> str:
    told = ", ".join(_ends([_name(name) for name in names], MOST_INPUTS))
    return told if len(names) <= MOST_INPUTS else f"{told} ({len(names)} columns)"


def _left_out(things: Sequence[tuple[str, str]]) -> str:
    told = [
        f"{visible(what, _LONGEST_NAME)} ({visible(why, _LONGEST_THING)})"
        for what, why in things[:MOST_LEFT_OUT]
    ]
    more = len(things) - MOST_LEFT_OUT
    return ", ".join(told) + (f" and {more} more" if more > 0 else "")


def _ends(told: list[str], most: int) -> list[str]:
    """All of a few; of many the first two and the last."""
    return told if len(told) <= most else [*told[:2], f"… {told[-1]}"]


def _name(text: str) -> str:
    """A name as it is shown: in quotes where its ends or its signs could be misread."""
    shown = visible(text, _LONGEST_NAME)
    plain = shown == shown.strip() and shown and not set(shown) & set(",;()×'")
    return shown if plain else repr(shown)
