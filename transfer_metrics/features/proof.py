"""What is proven of a network on a few examples of a task, before it runs over all of them.

A feature is good for something only if it belongs to its example: if the example has the same one
when it is read again, and in whatever batch it is read. So a few examples are read together, in
another order and alone, and compared to rounding. Where padding leaks into features, texts and
sounds are read in batches of equal length; where one example alone is too few, it is read twice;
and where nothing helps, the network is refused, with the name of the first layer that differs. What
three examples cannot show, such as experts that only a full batch overflows, the pass itself does:
of each shard two examples are read once more, alone.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError, InvalidInputError
from transfer_metrics.features.batches import needs_equal_lengths
from transfer_metrics.features.forward import Forward, is_close, typical
from transfer_metrics.features.inference import Inference
from transfer_metrics.features.layers import Found
from transfer_metrics.features.shards import LABELS
from transfer_metrics.sources.example import example_bytes
from transfer_metrics.sources.models.identity import Settings, unsaved
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import copied, tried
from transfer_metrics.sources.tasks.task import Task

_NUMBERS = 16  # that stand for what a network gave
_REPEATS = 5  # in which random numbers get to show themselves

_NO_HEAD = (
    "no classifier was found, so its last layer is the network's output, which may be class "
    "scores: name the classifier (load_model(…, head='…')), or say that there is none (head=False)"
)
_NO_MODULE = (
    "no module gives what the network returns, so its last layer is the last one that runs; what "
    "functions do behind it, such as a ReLU and the product with a classifier's weights, is not in "
    "its features: write that as modules (nn.Linear), or say that it has no classifier (head=False)"
)
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

    model: Model  # with the classifier that was found and with what its batches need
    found: Found
    behaviour: str
    settings: Settings
    notes: tuple[str, ...]  # what a reader of its scores should know
    inference: Inference  # how it runs with the same features
    is_random: bool = False  # whether features are of one draw

    def confirm(self, forward: Forward, start: int, shard: Mapping[str, np.ndarray]) -> None:
        """Raise unless some examples of a shard, the first at ``start``, have their features alone.

        To be called while the pass goes on. Cost: forward passes of two examples.
        """
        trial, n = _Trial(forward, self.found), len(shard[LABELS])
        full = min(forward.batch_size, n)
        for row in () if self.is_random else sorted({full - 1, n // 2}):
            kept = {k: torch.tensor(v[row : row + 1]).float() for k, v in shard.items()}
            first = row // full * full
            trial.confirm(start + row, range(start + first, start + min(first + full, n)), kept)


_KNOWN: WeakKeyDictionary[Model, tuple[tuple[Any, ...], Proof]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Known:
    """What was proven of a network, without the network, so that any process can be told."""

    asked: tuple[Any, ...]  # of what content, and what it was to be
    proof: Proof  # with an empty network
    equal_lengths: bool

    @classmethod
    def of(cls, model: Model) -> Known | None:
        """Of a network that was proven; None where nothing is known."""
        if model not in _KNOWN:
            return None
        asked, proof = _KNOWN[model]
        bare = dataclasses.replace(proof.model, module=nn.Identity(), preprocess=None, collate=None)
        return cls(asked, dataclasses.replace(proof, model=bare), needs_equal_lengths(proof.model))

    def of_same(self, model: Model) -> None:
        """Let it be known of a network that was loaded again; it counts if its content is that."""
        own, collate = self.proof.model, model.collate
        if self.equal_lengths and not needs_equal_lengths(model):
            collate = dataclasses.replace(collate, equal_lengths=True)  # type: ignore[type-var]
        proven = dataclasses.replace(model, head=own.head, open_head=False, least=own.least)
        proven = dataclasses.replace(proven, collate=collate)
        _KNOWN.setdefault(model, (self.asked, dataclasses.replace(self.proof, model=proven)))


def prove(forward: Forward, layers: list[str | int], allow_random: bool = False) -> Proof:
    """See on a few examples that features belong to the examples, or raise ``ExtractionError``.

    It is done once for a model, a task and what is asked of them; parts of a split are taken for
    the whole. It costs forward passes of eight examples, two more where a classifier has to be
    found, and three where convolutions can run faster.
    """
    module, whole = forward.model.module, forward.data.whole or forward.data
    how = (forward.pool, forward.amp, forward.as_is, forward.device, allow_random)
    content = forward.model.fingerprint, whole.fingerprint
    asked = (forward.task.name, *content, tuple(layers), how)
    known = _KNOWN.get(forward.model)
    if known is None or known[0] != asked or not known[1].settings.hold_in(module):
        splits = {**forward.task.splits, forward.split: whole}
        task = dataclasses.replace(forward.task, splits=splits)
        forward = dataclasses.replace(forward, task=task)
        with tried(module, forward.device):
            known = asked, _proven(forward, layers, allow_random)
        _KNOWN[forward.model] = known
    return known[1]


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


def _proven(forward: Forward, layers: list[str | int], allow_random: bool) -> Proof:
    module = forward.model.module
    trial = _Trial(forward, forward.found(layers))
    notes = _of_head(forward.model, trial.found)
    attributes = unsaved(module)
    before = _random_state(module)
    features, trouble = trial.read()
    draws = before != _random_state(module)
    if features and (draws or trouble):
        changing = _changing_examples(forward)
        if changing and not allow_random:
            raise InvalidInputError(
                f"{changing}; leave out what draws random numbers, such as augmentation, or take "
                f"one draw of its features with allow_random=True (--allow-random)"
            )
        if changing or trial.is_random(features, draws):
            if not allow_random:
                raise trial.random_refusal()
            told = _OTHER_EXAMPLES if changing else _RANDOM
            lasting = Settings.of(attributes, unsaved(module))
            proof = trial.proof(told, lasting, [*notes, told], Inference())
            return dataclasses.replace(proof, is_random=True)
    if draws:
        notes.append(_DRAWS)
    used = trial
    if isinstance(trouble, str) and trial.is_rounding():
        trouble = None
    for used in trial.others() if trouble else ():
        features, worse = used.read()
        if worse is None or (isinstance(worse, str) and used.is_rounding()):
            break
    else:
        if isinstance(trouble, Exception):
            raise trouble
        if trouble:
            raise (used if needs_equal_lengths(used.forward.model) else trial).company_refusal()
    if needs_equal_lengths(used.forward.model):
        notes.append(_EQUAL)
    lasting = Settings.of(attributes, unsaved(module))
    return used.proof(used.behaviour(features), lasting, notes, used.inference(features))


def _random_state(module: nn.Module) -> list[Any]:
    """How far all sources of random numbers are."""
    gpus = {p.device for p in module.parameters() if p.is_cuda}
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in gpus)]
    numbers = list(np.random.get_state())[2:]  # noqa: NPY002  (what networks draw from)
    return [numbers, random.getstate(), *(state.numpy().tobytes() for state in states)]


def _of_head(model: Model, found: Found) -> list[str]:
    if found.head is None:
        told = _NO_HEAD if found.returned else _NO_MODULE
        return [told] if model.open_head else []
    if not found.proven:
        return [f"the output of its classifier {found.head!r} is not what it returns"]
    if model.open_head and found.averaged:
        return [
            f"it returns the mean of several classifiers, of which {found.head!r} is taken: what "
            f"enters the others, such as {found.others[0]!r}, is not in its last layer"
        ]
    if model.open_head and found.others:
        return [
            f"it returns the outputs of several layers, of which {found.head!r} is taken for the "
            f"classifier; load_model(…, head=) names another, such as {found.others[0]!r}"
        ]
    return []


def _changing_examples(forward: Forward) -> str:
    """What to say of a task that gives other examples when a few are read again; else nothing."""
    examples, few = forward.data.examples, forward.few
    where = f"task {forward.task.name!r} ({forward.split}) gives"
    once = [example_bytes(examples[p]) for p in few]
    for _ in range(_REPEATS):
        for position, content in zip(few, once, strict=True):
            if example_bytes(examples[position]) != content:
                return f"{where} another example {position} whenever it is read"
    held = [examples[p] for p in few]
    for position, content, example in zip(few, once, held, strict=True):
        if example_bytes(example) != content:
            raise InvalidInputError(
                f"{where} example {position} in memory that the next example overwrites; let it "
                f"return a copy of each"
            )
    return ""


@dataclass(frozen=True)
class _Trial:
    """A pass that is tried on three examples, whose features are compared to rounding."""

    forward: Forward
    found: Found

    def like(self, model: Model) -> _Trial:
        return _Trial(dataclasses.replace(self.forward, model=model), self.found)

    def others(self) -> Iterator[_Trial]:
        """How else the network may be run."""
        model = self.forward.model
        yield self.like(dataclasses.replace(model, least=2))
        if getattr(model.collate, "equal_lengths", None) is False:
            collate: Any = model.collate
            equal = dataclasses.replace(collate, equal_lengths=True)
            yield self.like(dataclasses.replace(model, collate=equal))

    def proof(
        self, behaviour: str, settings: Settings, notes: list[str], inference: Inference
    ) -> Proof:
        model = dataclasses.replace(self.forward.model, head=self.found.head, open_head=False)
        return Proof(model, self.found, behaviour, settings, tuple(notes), inference)

    def read(self) -> tuple[dict[str, Tensor], Exception | str | None]:
        """Features of the three examples, and what is wrong with them in other company."""
        features: dict[str, Tensor] = {}
        try:
            features = self.forward.features(self.forward.few, self.found)
            steady = self.is_steady(features)
        except Exception as error:  # whatever the network's own code raises
            return features, error
        return features, None if steady else "they depend on the batch"

    def is_steady(self, features: Mapping[str, Tensor]) -> bool:
        """Whether two of three the other way round, and the third alone, have theirs again."""
        few = self.forward.few
        return all(
            self.gives(features, some, [few.index(p) for p in some])
            for some in (few[1::-1], few[2:])
        )

    def is_rounding(self) -> bool:
        """Whether a copy in double precision gives examples the same features in every company.

        In single precision, rounding can grow from layer to layer of a network with random weights.
        """
        doubled = self.doubled()
        try:
            return doubled is not None and doubled.is_steady(doubled.of(doubled.forward.few))
        except Exception:  # not every network can be that precise
            return False

    def doubled(self) -> _Trial | None:
        """A copy of a network of single precision in double precision."""
        model = self.forward.model
        precisions = {p.dtype for p in model.module.parameters() if p.is_floating_point()}
        if self.forward.amp or precisions != {torch.float32}:
            return None
        return self.like(dataclasses.replace(model, module=copied(model.module).double()))

    def confirm(self, position: int, company: Sequence[int], kept: Mapping[str, Tensor]) -> None:
        """Raise unless an example has the features alone that it had in some company."""
        alone = self.of([position])
        if self.are_close(alone, {name: kept[name] for name in alone.keys() & kept.keys()}):
            return
        there = self.of(company, position)
        if not self.are_close(self.of([position]), alone) or self.are_close(there, alone):
            raise self.random_refusal()
        doubled = self.doubled()
        if doubled and self.are_close(doubled.of([position]), doubled.of(company, position)):
            return  # rounding, which can grow
        raise self.company_refusal(((company, [position]),))

    def of(self, some: Sequence[int], one: int | None = None) -> dict[str, Tensor]:
        """Features of some examples in one batch, or of one of them."""
        features = self.forward.features(some, self.found)
        row = slice(None) if one is None else slice(some.index(one), some.index(one) + 1)
        return {name: rows[row].cpu() for name, rows in features.items()}

    def is_random(self, features: Mapping[str, Tensor], draws: bool) -> bool:
        """Whether the same batch gives other features when it is read again."""
        return not all(self.gives(features) for _ in range(_REPEATS if draws else 1))

    def inference(self, features: Mapping[str, Tensor]) -> Inference:
        """The fastest way to run the network with the same features."""
        module = self.forward.model.module
        if not (self.forward.as_is or self.forward.amp):
            for inference in Inference.ways(module, self.found.folds):
                try:
                    with inference.of(module):
                        if self.gives(features):
                            return inference
                except Exception:  # of code that looks into memory, such as view
                    continue
        return Inference()

    def gives(
        self,
        features: Mapping[str, Tensor],
        some: Sequence[int] | None = None,
        rows: Sequence[int] = (0, 1, 2),
    ) -> bool:
        """Whether some of the examples, all if not said, have the features of those rows again."""
        again = self.forward.features(self.forward.few if some is None else some, self.found)
        return self.are_close(
            again, {name: of_all[list(rows)] for name, of_all in features.items()}
        )

    def are_close(self, again: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> bool:
        """Whether layers have the same features to rounding."""
        tolerance = self.forward.tolerance
        # What should be zero, as the mean of normalised features, is rounding of its parts.
        least = tolerance * max(map(typical, features.values())) / 100
        return all(is_close(again[name], rows, tolerance, least) for name, rows in features.items())

    def behaviour(self, features: Mapping[str, Tensor]) -> str:
        """A few numbers that features of other networks share by chance only, to a few bits.

        Rounding of another machine or number of threads seldom changes them, and then a score is
        computed once more.
        """
        random_signs = torch.Generator().manual_seed(0)
        total = torch.zeros(_NUMBERS, dtype=torch.float64)
        size = 0.0
        for rows in features.values():
            values = torch.nan_to_num(rows.detach().cpu().double().flatten())
            size += float(values.square().sum())
            signs = torch.randint(0, 2, (_NUMBERS, len(values)), generator=random_signs) * 2.0 - 1
            total += signs.double() @ values / max(float(values.norm()), 1e-300)
        total *= 4 / (self.forward.tolerance * max(len(features), 1)) ** 0.5
        exponent = f"{np.log2(size) * 16:.0f}" if size else "-"
        return f"{exponent} " + " ".join(f"{number:.0f}" for number in total)

    def random_refusal(self) -> ExtractionError:
        few = self.forward.few
        parted = (self.forward.parting(few, few) for _ in range(_REPEATS))
        return ExtractionError(
            f"model {self.forward.model.name!r} gives other features whenever it reads the same "
            f"examples{next(filter(None, parted), '')}; make it deterministic in evaluation mode, "
            f"such as by F.dropout(x, p, self.training), or take one draw of its features with "
            f"allow_random=True (--allow-random)"
        )

    def company_refusal(
        self, batches: Sequence[tuple[Sequence[int], Sequence[int]]] = ()
    ) -> ExtractionError:
        few = self.forward.few
        batches = batches or [(few, some) for some in (few[1::-1], few[:0:-1], few[2:])]
        parted = (self.forward.parting(one, other) for one, other in batches)
        return ExtractionError(
            f"model {self.forward.model.name!r} gives an example other features in another batch"
            f"{next(filter(None, parted), '')}; let it treat each example on its own, such as by a "
            f"normalisation that keeps running statistics"
        )
