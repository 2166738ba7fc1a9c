"""What is proven of a network on a few examples of a task, before it runs over all of them.

A feature is good for something only if it belongs to its example: if the example has the same one
when it is read again, and in whatever batch it is read. So three examples are read together and one
of them alone, and compared to rounding. Where padding leaks into features, texts and
sounds are read in batches of equal length; where one example alone is too few, it is read twice;
and where nothing helps, the network is refused, with the name of the first layer that differs. What
so few cannot show, such as experts that only a full batch overflows, the pass itself does: those
that were read before it have the same features in it, and so has the last of each shard's first
batch when it is read once more, alone, and the one in the middle of a shard that has none of them.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.features.forward import Forward
from transfer_metrics.features.inference import Inference
from transfer_metrics.features.layers import Found
from transfer_metrics.features.shards import LABELS
from transfer_metrics.features.trial import Trial
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import tried
from transfer_metrics.sources.models.settings import Settings, unsaved
from transfer_metrics.sources.tasks.task import Task

_RANDOM = "it draws random numbers, so its scores are of one draw"
_OTHER_EXAMPLES = "examples are other ones whenever they are read, so its scores are of one draw"
_DRAWS = "it draws random numbers, which changed nothing on the few examples that were looked at"
_EQUAL = "padding changes its features, so batches are of equal length"


@dataclass(frozen=True)
class Proof:
    """What a few examples of a task say of a network.

    ``behaviour`` tells networks apart that give other features, if only through what their state
    does not say, such as functions and global variables; ``settings`` those that differ in
    attributes, code or hooks, whether it shows or not.
    """

    asked: tuple[Any, ...]  # of what content, and what it was to be
    found: Found
    behaviour: str
    settings: Settings
    notes: tuple[str, ...]  # what a reader of its scores should know
    inference: Inference  # how it runs with the same features
    least: int = 1  # as ``Model`` has it
    equal_lengths: bool = False  # whether padding reaches the features
    is_random: bool = False  # whether features are of one draw
    seen: Mapping[int, Mapping[str, Tensor]] = field(default_factory=dict)  # of examples, (1, D)

    @classmethod
    def of(cls, model: Model) -> Proof | None:
        """What was proven of a model; None where nothing was."""
        return _PROOFS.get(model)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "seen": {}}  # other processes get what is small

    def note(self, model: Model) -> None:
        """Let it be known of a model that was loaded again; it counts if its content is that."""
        _PROOFS.setdefault(model, self)

    def model(self, model: Model) -> Model:
        """With the classifier that was found, and with what its batches need."""
        model = model.unpadded() if self.equal_lengths and model.pads else model
        head, least = self.found.head, self.least
        return dataclasses.replace(model, head=head, open_head=False, least=least)

    def confirm(self, forward: Forward, start: int, shard: Mapping[str, np.ndarray]) -> None:
        """Raise unless some examples of a shard, the first at ``start``, have their features.

        To be called while the pass goes on. Cost: a forward pass of one example, or of two.
        """
        if self.is_random:
            return
        trial, n = Trial(forward, self.found), len(shard[LABELS])
        full, seen = min(forward.batch_size, n), {}
        if forward.data.whole is None:  # else places are others
            seen = {p - start: of for p, of in self.seen.items() if start <= p < start + n}
        for row in sorted({full - 1, *(seen or [n // 2])}):
            kept = {k: torch.tensor(v[row : row + 1]).float() for k, v in shard.items()}
            first = row // full * full
            company = range(start + first, start + min(first + full, n))
            trial.confirm(start + row, company, kept, seen.get(row))


_PROOFS: WeakKeyDictionary[Model, Proof] = WeakKeyDictionary()


def prove(forward: Forward, layers: list[str | int], allow_random: bool = False) -> Proof:
    """See on a few examples that features belong to the examples, or raise ``ExtractionError``.

    It is done once for a model, a task and what is asked of them; parts of a split are taken for
    the whole. It costs forward passes of six examples, and of three more where convolutions can run
    faster.
    """
    module, whole = forward.model.module, forward.data.whole or forward.data
    how = (forward.pool, forward.amp, forward.as_is, forward.device, allow_random)
    content = forward.model.fingerprint, whole.fingerprint
    asked = (forward.task.name, *content, tuple(layers), how)
    known = Proof.of(forward.model)
    if known is None or known.asked != asked or not known.settings.hold_in(module):
        splits = {**forward.task.splits, forward.split: whole}
        task = dataclasses.replace(forward.task, splits=splits)
        forward = dataclasses.replace(forward, task=task)
        with tried(module, forward.device):
            known = _proven(forward, asked, layers, allow_random)
        _PROOFS[forward.model] = known
    return known


def settings_of(
    model: Model, task: Task, split: str = "train", device: str | torch.device | None = None
) -> Settings:
    """Attributes, code and hooks that a network keeps when it reads a few examples.

    Of one that cannot read them, all count.
    """
    forward = Forward(model, task, split, device=device).materialised()
    module, few = forward.model.module, forward.few
    before = unsaved(module)
    try:
        with tried(module, device):
            forward.run(few)
            before = unsaved(module)
            forward.run(few[1::-1])
    except Exception:  # whatever the network's own code raises; it is told when features are made
        return Settings.of(before, before)
    return Settings.of(before, unsaved(module))


def _proven(
    forward: Forward, asked: tuple[Any, ...], layers: list[str | int], allow_random: bool
) -> Proof:
    module = forward.model.module
    trial = Trial(forward, forward.found(layers))
    notes = list(trial.found.notes)
    attributes = unsaved(module)
    before = _random_state(module)
    features, trouble = trial.read()
    draws = before != _random_state(module)
    if features and (draws or trouble):
        changing = trial.gets_other_examples(allow_random)
        if changing or trial.is_random(features, draws):
            if not allow_random:
                raise trial.random_refusal()
            told = _OTHER_EXAMPLES if changing else _RANDOM
            lasting = Settings.of(attributes, unsaved(module))
            return Proof(
                asked, trial.found, told, lasting, (*notes, told), Inference(), is_random=True
            )
    if draws:
        notes.append(_DRAWS)
    used = trial
    if isinstance(trouble, str) and trial.is_rounding():
        trouble = None
    for used in trial.others() if trouble else ():
        features, worse = used.read()
        if worse is None or (isinstance(worse, str) and used.is_rounding()):
            break
        if isinstance(worse, str):  # it reads examples twice, so their company it is
            trouble = worse
    else:
        if isinstance(trouble, Exception):
            raise trouble
        if trouble:
            raise (used if used.forward.model.equal_lengths else trial).company_refusal()
    model = used.forward.model
    if model.equal_lengths:
        notes.append(_EQUAL)
    lasting = Settings.of(attributes, unsaved(module))
    rows = enumerate(used.forward.few)
    seen = {p: {n: of[i : i + 1].cpu() for n, of in features.items()} for i, p in rows}
    return Proof(
        asked, used.found, used.behaviour(features), lasting, tuple(notes),
        used.inference(features), model.least, model.equal_lengths, seen=seen,
    )  # fmt: skip


def _random_state(module: nn.Module) -> list[Any]:
    """How far all sources of random numbers are."""
    gpus = {p.device for p in module.parameters() if p.is_cuda}
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in gpus)]
    numbers = list(np.random.get_state())[2:]  # noqa: NPY002  (what networks draw from)
    return [numbers, random.getstate(), *(state.numpy().tobytes() for state in states)]
