"""What is proven of a network on a few examples of a task, before it runs over all of them.

A feature is good for something only if it belongs to its example: if the example has the same one
when it is read again, and in whatever batch it is read. So a few examples are read together, in
another order and alone, and compared to rounding. Where padding leaks into features, texts and
sounds are read in batches of equal length; where one example alone is too few, it is read twice;
and where nothing helps, the network is refused, with the name of the first layer that differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import ExtractionError, InvalidInputError
from transfer_metrics.features.forward import Forward, needs_equal_lengths
from transfer_metrics.features.inference import AS_IS, Inference, ways
from transfer_metrics.features.layers import Found, find_layers, place
from transfer_metrics.features.pooling import resolve_pool
from transfer_metrics.features.trace import call_model, every_call
from transfer_metrics.features.trial import (
    REPEATS,
    changing_examples,
    few_examples,
    materialised,
    random_state,
    same_random_state,
)
from transfer_metrics.sources.models.classifier import tensors_in
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import (
    copied,
    evaluation,
    is_quantised,
    on_device,
)
from transfer_metrics.sources.models.settings import Settings, unsaved
from transfer_metrics.sources.tasks.task import Task

_NUMBERS = 16  # that stand for what a network gave

NO_HEAD = (
    "no classifier was found, so its last layer is the network's output, which may be class "
    "scores: name the classifier (load_model(…, head='…')), or say that there is none (head=False)"
)
RANDOM = "it draws random numbers, so its scores are of one draw"
_OTHER_EXAMPLES = "examples are other ones whenever they are read, so its scores are of one draw"
_DRAWS = "it draws random numbers, which changed nothing on the few examples that were looked at"
EQUAL = "padding changes its features, so batches are of equal length"


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
    inference: Inference = AS_IS  # how it runs with the same features


_KNOWN: WeakKeyDictionary[Model, tuple[tuple[Any, ...], Proof]] = WeakKeyDictionary()


def prove(
    forward: Forward,
    layers: list[str | int],
    *,
    device: torch.device | None = None,
    allow_random: bool = False,
) -> Proof:
    """See on a few examples that features belong to the examples, or raise ``ExtractionError``.

    It is done once for a model, a task and what is asked of them; parts of a split are taken for
    the whole. It costs forward passes of eight examples, two more where a classifier has to be
    found, and three where convolutions can run faster.
    """
    data, module = forward.task[forward.split], forward.model.module
    whole = data.whole or data
    task = (forward.task.name, whole.fingerprint)
    asked = (
        task, tuple(layers), forward.pool, forward.amp, device, allow_random, forward.as_is,
    )  # fmt: skip
    known = _KNOWN.get(forward.model)
    if known is None or known[0] != asked or not known[1].settings.hold_in(module):
        splits = {**forward.task.splits, forward.split: whole}
        forward = dataclasses.replace(
            forward, task=dataclasses.replace(forward.task, splits=splits)
        )
        with on_device(module, device), evaluation(module), same_random_state(module):
            known = asked, _proven(forward, layers, allow_random)
        _KNOWN[forward.model] = known
    return known[1]


def padding_proven(model: Model, task: Task, split: str = "train") -> Model:
    """A model of texts or sounds as ``prove`` has it, for those who make batches on their own."""
    if getattr(model.collate, "equal_lengths", True):
        return model
    forward = Forward(model, task, split, resolve_pool("avg"), 64, "float32", False, 0, False)
    return prove(forward, ["last"], allow_random=True).model


def settings_of(
    model: Model, task: Task, split: str = "train", device: torch.device | None = None
) -> Settings:
    """Attributes, code and hooks that a network keeps when it reads a few examples.

    Of one that cannot read them, all count.
    """
    forward = materialised(
        Forward(model, task, split, resolve_pool("avg"), 64, "float32", False, 0, False)
    )
    module, few = forward.model.module, few_examples(forward)
    before = unsaved(module)
    try:
        with on_device(module, device), evaluation(module), same_random_state(module):
            call_model(forward.model, place(forward.load(few), module))
            before = unsaved(module)
            call_model(forward.model, place(forward.load(few[1::-1]), module))
    except Exception:  # whatever the network's own code raises; it is told when features are made
        return Settings.of(before, before)
    return Settings.of(before, unsaved(module))


def found_in(
    forward: Forward, layers: list[str | int], device: torch.device | None = None
) -> Found:
    """What a pass over two examples tells of a network, nothing of which is proven yet."""
    module = forward.model.module
    with on_device(module, device), evaluation(module), same_random_state(module):
        return _found(forward, layers, few_examples(forward))


def _found(forward: Forward, layers: list[str | int], few: list[int]) -> Found:
    words = forward.task[forward.split].units is not None
    # Two words may be of one sentence, which is read once.
    two = forward.model.dummy(2) if words and len(set(few)) == 1 else forward.load(few[1:])
    return find_layers(forward.model, layers, forward.pool, two)


def _proven(forward: Forward, layers: list[str | int], allow_random: bool) -> Proof:
    few = few_examples(forward)
    found = _found(forward, layers, few)
    notes = _of_head(forward.model, found)
    attributes = unsaved(forward.model.module)
    before = random_state(forward.model.module)
    features, trouble = _read(forward, found, few)
    draws = before != random_state(forward.model.module)
    if features and (draws or trouble):
        changing = changing_examples(forward, few)
        if changing and not allow_random:
            raise InvalidInputError(
                f"{changing}; leave out what draws random numbers, such as augmentation, or take "
                f"one draw of its features with allow_random=True (--allow-random)"
            )
        if changing or _is_random(forward, found, few, features, draws):
            if not allow_random:
                raise _random_refusal(forward, few)
            told = _OTHER_EXAMPLES if changing else RANDOM
            lasting = Settings.of(attributes, unsaved(forward.model.module))
            return Proof(_settled(forward, found), found, told, lasting, (*notes, told))
    if draws:
        notes.append(_DRAWS)
    way = forward
    if isinstance(trouble, str) and _is_rounding(forward, found, few):
        trouble = None
    for way in _ways(forward) if trouble else ():
        of_way = few_examples(way)
        features, worse = _read(way, found, of_way)
        if worse is None or (isinstance(worse, str) and _is_rounding(way, found, of_way)):
            break
    else:
        if isinstance(trouble, Exception):
            raise trouble
        if trouble:
            way = way if needs_equal_lengths(way.model) else forward
            raise _company_refusal(way, few_examples(way))
    if needs_equal_lengths(way.model):
        notes.append(EQUAL)
    behaviour = _behaviour(features, _tolerance_of(way))
    lasting = Settings.of(attributes, unsaved(forward.model.module))
    inference = _inference(way, found, features)
    return Proof(_settled(way, found), found, behaviour, lasting, tuple(notes), inference)


def _inference(forward: Forward, found: Found, features: Mapping[str, Tensor]) -> Inference:
    """The fastest way to run a network that gives a few examples the same features, to rounding."""
    if forward.as_is or forward.amp:
        return AS_IS
    few, module = few_examples(forward), forward.model.module
    for inference in ways(module, found.folds):
        try:
            with inference.of(module):
                if _same(forward, forward.features(few, found), features, range(len(few))):
                    return inference
        except Exception:  # of code that looks into memory, such as view
            continue
    return AS_IS


def _of_head(model: Model, found: Found) -> list[str]:
    if found.head is None:
        return [NO_HEAD] if model.open_head else []
    if not found.proven:
        return [f"the output of its classifier {found.head!r} is not what it returns"]
    if model.open_head and found.others:
        return [
            f"it returns the outputs of several layers, of which {found.head!r} is taken for the "
            f"classifier; load_model(…, head=) names another, such as {found.others[0]!r}"
        ]
    return []


def _settled(forward: Forward, found: Found) -> Model:
    return dataclasses.replace(forward.model, head=found.head, open_head=False)


def _ways(forward: Forward) -> Iterator[Forward]:
    """How else a network may be run."""
    model = forward.model
    yield dataclasses.replace(forward, model=dataclasses.replace(model, least=2))
    if getattr(model.collate, "equal_lengths", None) is False:
        collate: Any = model.collate
        equal = dataclasses.replace(model, collate=dataclasses.replace(collate, equal_lengths=True))
        yield dataclasses.replace(forward, model=equal)


def _read(
    forward: Forward, found: Found, few: list[int]
) -> tuple[dict[str, Tensor], Exception | str | None]:
    """Features of three examples, and what is wrong with them when read in other company."""
    features: dict[str, Tensor] = {}
    try:
        features = forward.features(few, found)
        steady = _is_steady(forward, found, few, features)
    except Exception as error:  # whatever the network's own code raises
        return features, error
    return features, None if steady else "they depend on the batch"


def _is_steady(
    forward: Forward, found: Found, few: list[int], features: Mapping[str, Tensor]
) -> bool:
    """Whether two of three examples the other way round, and the third alone, have theirs again."""
    return all(
        _same(forward, forward.features(some, found), features, [few.index(p) for p in some])
        for some in (few[1::-1], few[2:])
    )


def _is_rounding(forward: Forward, found: Found, few: list[int]) -> bool:
    """Whether a copy in double precision gives examples the same features in every company.

    In single precision, rounding can grow from layer to layer of a network with random weights.
    """
    precisions = {p.dtype for p in forward.model.module.parameters() if p.is_floating_point()}
    if forward.amp or precisions != {torch.float32}:
        return False
    model = dataclasses.replace(forward.model, module=copied(forward.model.module).double())
    doubled = dataclasses.replace(forward, model=model)
    try:
        return _is_steady(doubled, found, few, doubled.features(few, found))
    except Exception:  # not every network can be that precise
        return False


def _is_random(
    forward: Forward,
    found: Found,
    few: Sequence[int],
    features: Mapping[str, Tensor],
    draws: bool,
) -> bool:
    """Whether the same batch gives other features when it is read again."""
    return not all(
        _same(forward, forward.features(few, found), features, range(len(few)))
        for _ in range(REPEATS if draws else 1)
    )


def _same(
    forward: Forward,
    some: Mapping[str, Tensor],
    features: Mapping[str, Tensor],
    rows: Sequence[int],
) -> bool:
    """Whether features are those of some rows, to rounding of as many layers as networks have."""
    tolerance = _tolerance_of(forward)
    # What should be zero, as the mean of normalised features, is rounding of what it is made of.
    largest = max(map(_typical, features.values()))
    return all(
        _is_close(some[name], of_all[list(rows)], tolerance, tolerance * largest / 100)
        for name, of_all in features.items()
    )


def _behaviour(features: Mapping[str, Tensor], tolerance: float) -> str:
    """A few numbers that features of other networks share by chance only, to a few bits.

    Rounding of another machine or number of threads seldom changes them, and then a score is
    computed once more.
    """
    random_signs = torch.Generator().manual_seed(0)
    total = torch.zeros(_NUMBERS, dtype=torch.float64)
    size = 0.0
    for rows in features.values():
        values = torch.nan_to_num(rows.detach().double().cpu().flatten())
        size += float(values.square().sum())
        signs = torch.randint(0, 2, (_NUMBERS, len(values)), generator=random_signs) * 2.0 - 1
        total += signs.double() @ values / max(float(values.norm()), 1e-300)
    total *= 4 / (tolerance * max(len(features), 1)) ** 0.5
    exponent = f"{np.log2(size) * 16:.0f}" if size else "-"
    return f"{exponent} " + " ".join(f"{number:.0f}" for number in total)


def _tolerance_of(forward: Forward) -> float:
    """Rounding through as many layers as networks have, of the size of the features."""
    weight = next((p for p in forward.model.module.parameters() if p.is_floating_point()), None)
    half = weight is not None and weight.dtype in (torch.float16, torch.bfloat16)
    if is_quantised(forward.model.module):
        return 0.5
    if forward.amp or half:
        return 0.2
    # Where products may be of ten bits.
    return 0.02 if weight is not None and weight.is_cuda else 1e-3


def _is_close(a: Tensor, b: Tensor, tolerance: float, least: float = 0.0) -> bool:
    """Whether two matrices differ by less than a share of their typical and their own entries."""
    if a.shape != b.shape:
        return False
    near = (a - b).abs() <= tolerance * (_typical(b) + b.abs()) + least
    return bool((near | (a.isnan() & b.isnan()) | (a == b)).all())


def _typical(rows: Tensor) -> float:
    """Root mean square of the entries that are finite."""
    return float(rows[rows.isfinite()].square().mean().nan_to_num().sqrt())


def _random_refusal(forward: Forward, few: Sequence[int]) -> ExtractionError:
    where = ""
    for _ in range(REPEATS):
        where = where or _parting(forward, few, few)
    return ExtractionError(
        f"model {forward.model.name!r} gives other features whenever it reads the same "
        f"examples{where}; make it deterministic in evaluation mode, such as by "
        f"F.dropout(x, p, self.training), or take one draw of its features with "
        f"allow_random=True (--allow-random)"
    )


def _company_refusal(forward: Forward, few: Sequence[int]) -> ExtractionError:
    parted = (_parting(forward, few, some) for some in (few[1::-1], few[:0:-1], few[2:]))
    where = next(filter(None, parted), "")
    return ExtractionError(
        f"model {forward.model.name!r} gives an example other features in another batch{where}; "
        f"let it treat each example on its own, such as by a normalisation that keeps running "
        f"statistics"
    )


def _parting(forward: Forward, first: Sequence[int], second: Sequence[int]) -> str:
    """Where a batch, and another with some of its examples, first differ; empty if they do not."""
    rows = [first.index(position) for position in second]
    try:
        one, other = _events(forward, first), _events(forward, second)
    except Exception:  # the network cannot take one of them, which is no difference
        return ""
    for (path, side, a), (also, _, b) in zip(one, other, strict=False):
        if path != also or not _is_close(b, a[rows], 1e-3):
            kind = type(forward.model.module.get_submodule(path)).__name__
            title = f"layer {path!r} ({kind})" if path else f"the network ({kind}) itself"
            came = " (what enters it differs already)" if side == "enters" else ""
            return f": the first that differs is {title}{came}"
    return ""


def _events(forward: Forward, positions: Sequence[int]) -> list[tuple[str, str, Tensor]]:
    """What enters and leaves each module in turn, each example's tensors as four numbers."""
    found: list[tuple[str, str, Tensor]] = []

    def note(path: str, side: str, given: Any) -> None:
        for tensor in tensors_in(given):
            if tensor.ndim and len(tensor) == len(positions):
                rows = tensor.detach().double().flatten(1) if tensor.ndim > 1 else tensor[:, None]
                alternating = rows * (torch.arange(rows.shape[1], device=rows.device) % 2 * 2 - 1)
                numbers = (rows.mean(1), alternating.mean(1), rows.std(1, False), rows.amax(1))
                found.append((path, side, torch.stack(numbers, 1).cpu()))
                return

    module = forward.model.module
    with every_call(
        module,
        lambda path, _module, args, _kwargs: note(path, "enters", args),
        lambda path, _module, _args, output: note(path, "leaves", output),
    ):
        call_model(forward.model, place(forward.load(positions), module))
    return found
