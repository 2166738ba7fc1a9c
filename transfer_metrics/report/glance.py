"""The first lines of a report: what was asked, on which data, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.report.gather import Gathered, Setting
from transfer_metrics.report.ranked import Ranking, Row
from transfer_metrics.sources.base import Task
from transfer_metrics.untrusted import visible

_MOST_CLASSES, _MOST_TIED = 24, 5
# A model with less than this chance of the best score is not called a contender.
_CONTENDER = 0.05


@dataclass(frozen=True)
class Answer:
    """Which model to transfer to one task, as the first metric has it."""

    label: str  # the task
    metric: str
    models: int  # how many models have a score
    best: Row
    second: Row | None
    contenders: list[Row]  # further models with a chance to be the best
    others: list[tuple[str, str]]  # which model each other metric puts first


@dataclass(frozen=True)
class Data:
    """What is known of a task that was given beside its scores."""

    name: str
    modality: str
    splits: list[tuple[str, int]]  # with their numbers of examples
    classes: list[tuple[str, int]]  # the first ones, with their numbers of examples
    total: int  # how many classes there are
    split: str  # which split was counted
    most: int  # the number of examples of the largest class


def question(gathered: Gathered) -> str:
    """What the results answer, as the heading."""
    tasks = list(dict.fromkeys([s.task for s in gathered.settings] + list(gathered.comparisons)))
    if gathered.settings or gathered.comparisons:
        models = {r.model for table in gathered.tables for r in table}
        where = visible(tasks[0] or "this task") if len(tasks) == 1 else f"{len(tasks)} tasks"
        if len(models) == 1:
            return f"Which layers of {visible(next(iter(models)))} to transfer to {where}?"
        return f"Which model to transfer to {where}?"
    return "Which layers to transfer?"


def answer_of(label: str, setting: Setting, rankings: Sequence[Ranking]) -> Answer | None:
    """The answer for one setting from its rankings, the first of which decides."""
    if not rankings or rankings[0].best is None:
        return None
    first = rankings[0]
    scored = [row for row in first.rows if row.score is not None]
    rivals = [row for row in scored[1:] if (row.p_best or 0.0) >= _CONTENDER]
    models = {r.model for r in setting.table if r.value is not None}
    return Answer(
        label,
        first.metric,
        len(models),
        scored[0],
        scored[1] if len(scored) > 1 else None,
        rivals[:_MOST_TIED],
        [(r.metric, r.best.model) for r in rankings[1:] if r.best],
    )


def data_of(task: Task, split: str) -> Data:
    """Splits and classes of a task; the classes of a regression are none."""
    name = split if split in task.splits else "train"
    classes: list[tuple[str, int]] = []
    if task.classes:
        labels = task[name].labels.astype(np.int64)
        counts = np.bincount(labels[labels >= 0], minlength=task.num_classes)
        classes = list(zip(task.classes, counts.tolist(), strict=False))
    splits = [(name, len(part)) for name, part in task.splits.items()]
    most = max((n for _, n in classes), default=0)
    shown = classes[:_MOST_CLASSES]
    return Data(task.name, task.modality, splits, shown, len(classes), name, most)


def summaries_of(gathered: Gathered, task: Task | None) -> list[str]:
    """How each task was understood, as the records tell, and the one that was given beside them."""
    told = [text for table in gathered.tables for text in table.task_summaries]
    return list(dict.fromkeys([*told, *([] if task is None else [task.summary])]))


def facts_of(gathered: Gathered) -> list[tuple[str, Any]]:
    """Counts of what is in the report: tasks, models, layers, metrics, heads."""
    scores = [r for s in gathered.settings for r in s.table]
    measured = [r for c in gathered.comparisons.values() for r in c]
    tasks = {s.task for s in gathered.settings} | set(gathered.comparisons)
    layers = {(r.model, r.layer) for r in scores if r.layer and r.value is not None}
    facts = [
        ("tasks", len(tasks)),
        ("models", len({r.model for r in [*scores, *measured]})),
        ("layers scored", len(layers)),
        ("metrics", len({m for s in gathered.settings for m in s.table.metrics})),
        ("heads trained", len({(r.model, r.head) for r in measured if r.head})),
        ("selections", len(gathered.selections)),
    ]
    return [(name, value) for name, value in facts if value > (name == "tasks")]
