"""A few examples of a task on which a network is tried, and lazy networks get their shapes."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.forward import (
    Forward,
    example_length,
    example_size,
    needs_equal_lengths,
)
from transfer_metrics.features.layers import place
from transfer_metrics.features.trace import call_model
from transfer_metrics.sources.example import example_bytes
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import (
    copied,
    evaluation,
    is_lazy,
    own_random_numbers,
)
from transfer_metrics.sources.tasks.sequences import Rows

REPEATS = 5
"""Times that random numbers get to show themselves."""
_LOOKED_AT = 64  # examples of which the lengths are compared
_MADE: WeakKeyDictionary[Model, Model] = WeakKeyDictionary()


def few_examples(forward: Forward) -> list[int]:
    """Positions of three examples: one of middle length, the longest, and the shortest.

    Where batches are of equal length, all three are of the most frequent one.
    """
    data, model = forward.task[forward.split], forward.model
    firsts = np.arange(len(data))
    if data.units is not None:
        firsts = np.unique(data.units, return_index=True)[1]
    some = firsts[np.unique(np.linspace(0, len(firsts) - 1, _LOOKED_AT).astype(int))]
    if model.modality in ("text", "audio"):
        equal = needs_equal_lengths(model)
        size = partial(example_length, model) if equal else example_size
        sizes = np.array([size(data.examples[int(i)]) for i in some])
        if equal:
            some = some[sizes == np.bincount(sizes).argmax()]
        else:
            some = some[np.argsort(sizes, kind="stable")][int((sizes == 0).sum()) :]
            some = some if len(some) else firsts  # all are empty, which the pass will say
    elif isinstance(data.examples, Rows):  # those that differ, so that what they share shows
        rows = data.examples.values[some].reshape(len(some), -1).astype(float)
        some = some[np.argsort(np.linalg.norm(rows, axis=1), kind="stable")]
    return [int(some[len(some) // 2]), int(some[-1]), int(some[0])]


def changing_examples(forward: Forward, positions: Sequence[int]) -> str:
    """What to say of a task that gives other examples when some are read again; else nothing.

    Raises:
        InvalidInputError: the memory of an example is used again for the next one.
    """
    examples = forward.task[forward.split].examples
    where = f"task {forward.task.name!r} ({forward.split}) gives"
    once = [example_bytes(examples[p]) for p in positions]
    for _ in range(REPEATS):
        for position, content in zip(positions, once, strict=True):
            if example_bytes(examples[position]) != content:
                return f"{where} another example {position} whenever it is read"
    held = [examples[p] for p in positions]
    for position, content, example in zip(positions, once, held, strict=True):
        if example_bytes(example) != content:
            raise InvalidInputError(
                f"{where} example {position} in memory that the next example overwrites; let it "
                f"return a copy of each"
            )
    return ""


def random_state(module: nn.Module) -> list[Any]:
    """How far all sources of random numbers are."""
    gpus = {p.device for p in module.parameters() if p.is_cuda}
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in gpus)]
    numbers = list(np.random.get_state())[2:]  # noqa: NPY002  (what networks draw from)
    return [numbers, random.getstate(), *(state.numpy().tobytes() for state in states)]


@contextmanager
def same_random_state(module: nn.Module) -> Iterator[None]:
    """Leave random numbers as if none had been drawn."""
    devices = {p.device.index for p in module.parameters() if p.is_cuda}
    with own_random_numbers(devices=sorted(devices)):
        own, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(own)
            np.random.set_state(numbers)  # noqa: NPY002


def materialised(forward: Forward) -> Forward:
    """The same with a network whose weights all have shapes, which lazy ones take from a batch.

    That is a copy, so that the caller's stays lazy should anything fail. Its weights are drawn from
    a fixed seed, since every worker makes its own.
    """
    model = forward.model
    if not is_lazy(model.module):
        return forward
    if model not in _MADE:
        made = dataclasses.replace(model, module=copied(model.module))
        with evaluation(made.module), same_random_state(model.module):
            torch.manual_seed(0)
            batch = forward.load(few_examples(forward))
            call_model(made, place(batch, made.module))
        _MADE[model] = made
    return dataclasses.replace(forward, model=_MADE[model])


def hand_over(made: nn.Module, lazy: nn.Module) -> None:
    """Give a lazy network the weights that its features were made with."""
    if is_lazy(lazy):
        for own, given in zip(lazy.modules(), made.modules(), strict=True):
            own.__class__ = given.__class__
            own.__dict__ |= {k: v for k, v in vars(given).items() if k != "_modules"}
