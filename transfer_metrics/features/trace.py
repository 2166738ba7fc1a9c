"""One forward pass that records every module call: order, count, shape and layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError
from transfer_metrics.sources.models.classifier import Heads, linear_outputs, tensors_in
from transfer_metrics.sources.models.model import Model, call_model, mapped
from transfer_metrics.sources.models.modules import evaluation, every_call, is_leaf, matrices

# Identity of a tensor's value: which tensor it is, and how often it was written to in place.
_Value = tuple[int, int]

_READS: dict[type, dict[int, str]] = {nn.Conv1d: {3: "NCT"}, nn.Conv2d: {4: "NCHW"}}
"""What the axes of an input are to a module, whatever made it."""
_MAP_LEAVES = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
_SEQUENCE_LEAVES = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.GroupNorm)
_TURNED = {"NCHW": "NHWC", "NHWC": "NCHW", "NCT": "NTC", "NTC": "NCT"}
"""What the axes mean once channels are moved to the end, or to the front."""
_SEQUENCE_POOLS = (nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d)


@dataclass(frozen=True)
class Call:
    """One call of one module, or what entered the classifier."""

    path: str  # dotted; empty for the whole model
    call: int  # how many times the module had run before
    end: int  # position of the call's end among all recorded events, from 1
    shape: tuple[int, ...] | None  # without the batch axis; None if it cannot be pooled
    layout: str  # what the axes of the output mean
    value: _Value | None  # which tensor was returned
    given: _Value | None  # which tensor went in
    is_input: bool = False
    sizes: tuple[int, ...] = ()  # of the whole output


@dataclass
class Trace:
    """All calls of one forward pass, in the order in which they ended."""

    modules: dict[str, nn.Module]
    calls: list[Call] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # how often each module ran
    head: str | None = None  # path of the classifier
    heads: Heads = field(default_factory=Heads)  # what made what the network returned
    masked: bool = False  # whether the batch told which of its tokens count

    @property
    def output(self) -> Call:
        """The call of the whole model."""
        return self.calls[-1]

    @property
    def entering(self) -> Call | None:
        """What entered the classifier, when it last ran."""
        return next((call for call in reversed(self.calls) if call.is_input), None)

    def name(self, call: Call) -> str:
        """The layer name of a call."""
        if call.is_input:
            return f"{call.path}:input"
        return f"{call.path}:{call.call}" if self.counts[call.path] > 1 else call.path


def parse_layer(name: str) -> tuple[str, int | None, bool]:
    """Split a layer name into module path, call number and whether it is an input.

    >>> parse_layer("layer3.5.relu:2"), parse_layer("fc:input"), parse_layer("layer1")
    (('layer3.5.relu', 2, False), ('fc', None, True), ('layer1', None, False))
    """
    path, _, suffix = name.rpartition(":")
    if path and suffix == "input":
        return path, None, True
    if path and suffix.isdecimal():
        return path, int(suffix), False
    return name, None, False


def first_tensor(output: Any) -> Tensor | None:
    """The first floating point tensor in an output, as ``tensors_in`` has them."""
    return next(tensors_in(output), None)


def _standing_for(output: Any) -> Tensor | None:
    """The tensor that stands for what a network returns: the first, but of its stages the deepest.

    Of maps that is the smallest; of the tokens of several layers in a list it is the last.
    """
    tensors = list(tensors_in(output))
    if len(tensors) > 1 and all(tensor.ndim == 4 for tensor in tensors):
        return min(reversed(tensors), key=lambda tensor: tensor.shape[2])
    shapes = {tensor.shape for tensor in tensors}
    if type(output) in (list, tuple) and len(shapes) == 1 and tensors[0].ndim == 3:
        return tensors[-1]
    return tensors[0] if tensors else None


def batch_size(batch: Any) -> int:
    """Number of examples in a batch: length of the first axis of its first tensor."""
    if isinstance(batch, Tensor):
        return batch.shape[0]  # len() would make a number of what stays open in an export
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    sizes = map(batch_size, batch) if isinstance(batch, (tuple, list)) else iter(())
    return next((size for size in sizes if size), 0)


def trace(model: Model, batch: Any) -> Trace:
    """Run one batch and record every call, and what enters the classifier, which it may show.

    The batch has at least two examples, so that its axis can be told from others.
    """
    traced, n = _recorded(model, batch), batch_size(batch)
    unclear = [i for i, c in enumerate(traced.calls) if len(c.sizes) == 3 and c.sizes[1] == n]
    if unclear:
        try:
            larger = _recorded(model, _one_more(batch, n))
        except ExtractionError:  # a network that reads so many examples only
            larger = Trace({})
        _settle(traced, unclear, larger)
    return traced


def _settle(traced: Trace, unclear: list[int], larger: Trace) -> None:
    """Tell the axis of the batch from that of time by the trace of a larger batch.

    Recurrent networks and transformers of torch have time first unless told otherwise.
    """
    known = {(call.path, call.call, call.is_input): call.sizes for call in larger.calls}
    for index in unclear:
        call = traced.calls[index]
        sizes = known.get((call.path, call.call, call.is_input), ())
        grown = [axis for axis in range(len(sizes)) if sizes[axis] != call.sizes[axis]]
        if grown == [1]:
            shape = (call.sizes[0], call.sizes[2])
            traced.calls[index] = replace(call, shape=shape, layout="TNC")
        elif grown != [0]:
            traced.calls[index] = replace(call, shape=None)


def _one_more(batch: Any, n: int) -> Any:
    """A batch with its first example once more at the end."""

    def longer(item: Any) -> Any:
        with_examples = isinstance(item, Tensor) and item.ndim and len(item) == n
        return torch.cat([item, item[:1]]) if with_examples else item

    return mapped(batch, longer)


def _recorded(model: Model, batch: Any) -> Trace:
    module = model.module
    recorder = _Recorder(model, batch)
    with (
        evaluation(module),
        every_call(module, enter=recorder.enter, leave=recorder.leave),
        linear_outputs(module) as heads_of,
    ):
        recorder.trace.heads = heads = heads_of(call_model(model, batch))
    if not recorder.trace.counts.get(""):
        raise ExtractionError(
            f"{type(module).__name__} runs without its hooks, since its class has a __call__ of "
            f"its own, so its layers cannot be read; rename that method to forward"
        )
    return recorder.with_head((model.open_head and heads.head) or model.head)


@dataclass(frozen=True)
class _Open:
    """A call that has begun, and what went in."""

    path: str
    start: int  # after how many events
    shape: tuple[int, ...]
    layout: str | None
    given: _Value | None
    memory: tuple[int, ...] = ()  # where it lies, and its strides


class _Recorder:
    """The hooks of one traced forward pass."""

    def __init__(self, model: Model, batch: Any) -> None:
        masked = isinstance(batch, Mapping) and "attention_mask" in batch
        self.trace = Trace(dict(model.module.named_modules()), masked=masked)
        self.model = model
        # What may be the classifier's input, by its path, each with its place among the calls.
        self.inputs: dict[str, list[tuple[int, Call]]] = {}
        self.n = batch_size(batch)
        image = first_tensor(batch)
        self.image_size = tuple(image.shape[2:]) if image is not None and image.ndim == 4 else None
        self.serial = 0
        self.values: dict[int, tuple[ref[Tensor], int]] = {}
        self.layouts: dict[_Value, str] = {}
        self.open: list[_Open] = []
        # The last module with own parameters and no children, and when it ended.
        self.leaf: nn.Module | None = None
        self.leaf_end = 0

    def enter(self, path: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = (*args, *kwargs.values())
        tensor = first_tensor(inputs)
        shape = () if tensor is None else tuple(tensor.shape[1:])
        given = None if tensor is None else self.value_of(tensor)
        layout = None if given is None else self.layouts.get(given)
        memory = _memory_of(tensor)
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            # Who turned around what it was given had been given tokens.
            for place, call in enumerate(self.open):
                if call.layout is None and _is_turned(memory, call.memory):
                    self.open[place] = replace(call, layout="NTC")
        if path == self.model.head or (self.model.open_head and is_leaf(module)):
            reads = _READS.get(type(module), {}).get(0 if tensor is None else tensor.ndim)
            entered = self.call_of(path, inputs, given, reads or layout, self.leaf, is_input=True)
            self.inputs.setdefault(path, []).append((len(self.trace.calls), entered))
        self.open.append(_Open(path, len(self.trace.calls), shape, layout, given, memory))

    def leave(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        begun = self.open.pop()
        while begun.path != path:  # calls that ended in an exception which the model caught
            begun = self.open.pop()
        tensor, layout = first_tensor(output) if path else _standing_for(output), None
        if is_leaf(module):
            if next(module.parameters(), None) is not None or matrices(module):
                self.leaf, self.leaf_end = module, len(self.trace.calls) + 1
            elif isinstance(module, _SEQUENCE_POOLS):
                layout = "NCT"
            elif begun.layout == "NCT" and tensor is not None and tensor.ndim == 3:
                if tensor.shape[1] == begun.shape[0]:
                    layout = "NCT"  # cut or padded along time
            elif tensor is not None and tuple(tensor.shape[1:]) == begun.shape:
                layout = begun.layout  # an activation or dropout keeps the meaning of the axes
                if _is_turned(_memory_of(tensor), begun.memory):
                    layout = _TURNED.get(layout or "")
                if layout is None and len(begun.shape) == 2:  # turned around since, or added up
                    around = self.open[-1] if self.open else begun
                    layout = _of_square(begun.shape, begun.memory, around, self.leaf)
                    layout = layout or _layout_of(begun.shape, self.leaf)
        inside = self.leaf if self.leaf_end > begun.start else None
        if tensor is not None and tensor.ndim == 3 and layout is None and not is_leaf(module):
            layout = self.layouts.get(self.value_of(tensor))  # what a part has returned
            if layout is None:
                shape = tuple(tensor.shape[1:])
                layout = _of_square(shape, _memory_of(tensor), begun, inside)
        if tensor is not None and tensor.ndim == 4:
            if _reads_last(module):
                layout = "NHWC"
            elif layout is None and type(module) not in _MAP_LEAVES:
                known = self.layouts.get(self.value_of(tensor))  # what a part has returned
                layout = known or _of_cube(tensor, begun, inside)
        self.trace.calls.append(self.call_of(path, tensor, begun.given, layout, inside))
        self.trace.counts[path] = self.trace.counts.get(path, 0) + 1

    def call_of(
        self,
        path: str,
        output: Any,
        given: _Value | None,
        layout: str | None,
        leaf: nn.Module | None,
        is_input: bool = False,
    ) -> Call:
        tensor = first_tensor(output)
        shape, value = None, None
        sizes: tuple[int, ...] = ()
        if tensor is not None:
            value, sizes = self.value_of(tensor), tuple(tensor.shape)
            if 2 <= tensor.ndim <= 4 and len(tensor) == self.n and tensor.numel():
                shape = tuple(tensor.shape[1:])
                layout = layout or _layout_of(shape, leaf, self.image_size)
                if not is_input or path == self.model.head:
                    self.layouts[value] = layout
        call, end = self.trace.counts.get(path, 0), len(self.trace.calls) + 1
        return Call(path, call, end, shape, layout or "ND", value, given, is_input, sizes)

    def with_head(self, head: str | None) -> Trace:
        """The trace, in which what entered the classifier is a call too."""
        self.trace.head = head
        calls = self.trace.calls
        for place, call in reversed(self.inputs.get(head, []) if head else []):
            calls.insert(place, call)
        calls[:] = [replace(call, end=place) for place, call in enumerate(calls, start=1)]
        return self.trace

    def value_of(self, tensor: Tensor) -> _Value:
        # The address of a tensor that has died can be used again; the weak reference tells.
        known = self.values.get(id(tensor))
        if known is None or known[0]() is not tensor:
            known = self.values[id(tensor)] = (ref(tensor), self.serial)
            self.serial += 1
        return known[1], 0 if tensor.is_inference() else tensor._version


# ---------------------------------------------------------------- what axes mean


def _memory_of(tensor: Tensor | None) -> tuple[int, ...]:
    """Where a tensor lies, and its strides."""
    strided = tensor is not None and tensor.layout is torch.strided and not tensor.is_nested
    return (tensor.data_ptr(), *tensor.stride()) if strided and tensor is not None else ()


def _is_turned(left: tuple[int, ...], entered: tuple[int, ...]) -> bool:
    """Whether what left is what entered with its axes in another order."""
    return left[:1] == entered[:1] and left != entered and sorted(left) == sorted(entered)


def _reads_last(module: nn.Module) -> bool:
    """Whether channels are the last axis of what a module gives, whatever its size is."""
    forward = type(module).forward
    if forward is nn.LayerNorm.forward:
        return len(module.normalized_shape) == 1  # type: ignore[arg-type]
    return forward is nn.Linear.forward


def _of_cube(tensor: Tensor, begun: _Open, leaf: nn.Module | None) -> str | None:
    """What the axes of an output mean that has as many channels as rows and columns.

    Sizes say nothing there. It is as in memory where it was turned around, else what entered in the
    same shape, as in a block with a shortcut, and else what the last module inside makes.
    """
    shape = tuple(tensor.shape[1:])
    if len(set(shape)) > 1 or not (strides := _memory_of(tensor)[2:]):
        return None
    if strides[0] < min(strides[1:]):
        return "NCHW"
    if strides[1] < min(strides[::2]):
        return "NHWC"
    if begun.layout in _TURNED and begun.shape == shape:
        return begun.layout
    return "NHWC" if leaf is not None and _reads_last(leaf) else None


def _of_square(
    shape: tuple[int, ...], memory: tuple[int, ...], around: _Open, leaf: nn.Module | None
) -> str | None:
    """What axes mean after a convolution that has as many channels as there are positions.

    Sizes say nothing there. It is turned around where it is so in memory, and else, as in a block
    with a shortcut, what entered in the same shape.
    """
    kind = getattr(leaf, "_FLOAT_MODULE", type(leaf))
    if len(shape) != 2 or shape[0] != shape[1] or not issubclass(kind, _SEQUENCE_LEAVES):
        return None
    if memory[2:] and memory[2] < memory[3]:
        return "NTC"
    return around.layout if around.shape == shape and around.layout in ("NCT", "NTC") else None


def _layout_of(
    shape: tuple[int, ...], leaf: nn.Module | None, image_size: tuple[int, ...] | None = None
) -> str:
    """What the axes of an output mean, of which the shape does not have that of the batch.

    ``ND``; ``NTC``, or ``NCT`` where ``leaf``, the last module with own parameters that ran inside,
    is Conv1d or a norm of its channels; ``NHWC`` if the first two axes are in the image's
    proportions and the last two are not, else ``NCHW``. A LayerNorm whose channels are the first
    axis was given the output turned around.
    """
    if len(shape) == 1:
        return "ND"
    kind = getattr(leaf, "_FLOAT_MODULE", type(leaf))  # what a quantised module stands for
    channels = getattr(leaf, "out_channels", getattr(leaf, "num_features", None))
    if len(shape) == 2:
        if isinstance(leaf, nn.GroupNorm):
            channels = leaf.num_channels
        elif isinstance(leaf, nn.LayerNorm) and shape[1] != leaf.normalized_shape[-1]:
            channels = leaf.normalized_shape[-1]
        known = issubclass(kind, (*_SEQUENCE_LEAVES, nn.LayerNorm)) and shape[0] == channels
        return "NCT" if known else "NTC"
    if issubclass(kind, _MAP_LEAVES) and shape[0] == channels:
        return "NCHW"
    height, width = image_size or (1, 1)

    def fits(a: int, b: int) -> bool:
        # Strides round, so the proportions of a map that is not square hold to one row or column.
        return a == b if height == width else abs(a * width - b * height) <= max(height, width)

    return "NHWC" if fits(shape[0], shape[1]) and not fits(shape[1], shape[2]) else "NCHW"
