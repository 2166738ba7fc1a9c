"""A model and a task as something to fit on: which examples train, which ones decide."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.extract import extract
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.data import (
    FeatureData,
    Labelled,
    check_codes,
    check_kind,
    described,
    stratified_holdout,
)
from transfer_metrics.selection.columns import layer_columns
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Split, Task

TRAIN, HELD = "train", "val"


@dataclass(frozen=True, eq=False)
class TaskData:
    """A model and the examples to fit it to; the test and ood splits are not in it.

    Attributes:
        model: the model.
        task: the task with the splits ``train`` and, unless it was cut from it, ``val``.
        rows: positions in ``train`` that weights are fitted to.
        held: positions that choices are made by, in ``train`` or, where it exists, in ``val``.
    """

    model: Model
    task: Task
    rows: np.ndarray
    held: np.ndarray

    @property
    def own_split(self) -> bool:
        """Whether validation has a split of its own."""
        return HELD in self.task.splits

    @property
    def held_split(self) -> Split:
        """The split that ``held`` counts in."""
        return self.task[HELD if self.own_split else TRAIN]


def read_task(
    model: Any, task: Any, validation: Any, fraction: float | None, seed: Any
) -> TaskData:
    """Load a model and a task, and say what validates.

    That is ``validation`` if given, else the task's own split ``val``, else a stratified part of
    ``train``.

    Args:
        model: a model, as for ``load_model``.
        task: a task, as for ``load_task``.
        validation: a split, or examples with class numbers; None as above.
        fraction: how much of ``train`` to hold out; None for nothing.
        seed: which examples to hold out.

    Raises:
        UnsupportedTaskError: the task is a regression.
        InvalidInputError: there is no task, one class only, or ``validation`` is something else.
    """
    from transfer_metrics.sources.models.load_model import load_model
    from transfer_metrics.sources.tasks.load_task import load_task

    if task is None:
        raise InvalidInputError("a model needs a task to be fitted on: fit(model, task)")
    model, task = load_model(model), load_task(task)
    check_kind(task.kind, task.name)
    check_codes(task[TRAIN].labels)
    splits = {TRAIN: task[TRAIN]}
    if validation is not None:
        splits[HELD] = _as_split(validation, task)
    elif HELD in task.splits:
        splits[HELD] = task[HELD]
    if HELD in splits:
        rows, held = np.arange(len(splits[TRAIN])), np.arange(len(splits[HELD]))
    elif fraction is None:
        rows = held = np.arange(len(splits[TRAIN]))
    else:
        rows, held = stratified_holdout(splits[TRAIN].labels, fraction, seed)
    return TaskData(model, dataclasses.replace(task, splits=splits), rows, held)


def extract_features(
    model: Any, task: Any, validation: Any, options: Mapping[str, Any]
) -> FeatureData:
    """Features of a model on a task, with a part for validation.

    Args:
        model: as for ``read_task``.
        task: as for ``read_task``.
        validation: as for ``read_task``.
        options: parameters of a head: ``layers, pool, validation, random_state``, and as far as
            it has them ``batch_size, device, progress``.
    """
    data = read_task(model, task, validation, options.get("validation"), options["random_state"])
    return task_features(data, options)


def task_features(data: TaskData, options: Mapping[str, Any]) -> FeatureData:
    """Features of a task that has been read; see ``extract_features``."""
    store = _extract(data, TRAIN, options)
    whole = Labelled(layer_columns(store), store.labels)
    if data.own_split:
        other = _extract(data, HELD, options)
        train, held = whole, Labelled(layer_columns(other), other.labels)
    else:
        train, held = whole.rows(data.rows), whole.rows(data.held)
    layers, pool, source = described(store, whole.columns)
    assert source is not None
    source.model = data.model
    names = tuple(data.task.classes)
    return FeatureData(train, held, whole, np.arange(len(names)), names, layers, pool, source)


def _extract(data: TaskData, split: str, options: Mapping[str, Any]) -> FeatureStore:
    return extract(
        data.model,
        data.task,
        options["layers"],
        options["pool"],
        split=split,
        batch_size=options.get("batch_size", 64),
        device=options.get("device"),
        progress=bool(options.get("progress", False)),
    )


def _as_split(validation: Any, task: Task) -> Split:
    from transfer_metrics.sources.tasks.in_memory import as_examples

    if isinstance(validation, Split):
        return validation
    if isinstance(validation, (tuple, list)) and len(validation) == 2:
        labels = np.asarray(validation[1])
        if labels.dtype.kind in "iu" and labels.ndim == 1:
            if len(labels) and not 0 <= labels.min() <= labels.max() < task.num_classes:
                raise InvalidInputError(
                    f"validation labels go from {labels.min()} to {labels.max()}; the classes of "
                    f"task {task.name!r} are 0 to {task.num_classes - 1}"
                )
            return Split(as_examples(validation[0], "validation"), labels.astype(np.int64))
    raise InvalidInputError(
        f"validation is a {type(validation).__name__}; give a Split, or (examples, labels) with "
        f"the numbers of the task's classes"
    )
