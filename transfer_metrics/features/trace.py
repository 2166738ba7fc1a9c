"""One forward pass that records every module call: order, count, shape and layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError, TransferMetricsError
from transfer_metrics.features.layouts import (
    MAP_LEAVES,
    TURNED,
    is_turned,
    layout_of,
    memory_of,
    of_cube,
    of_square,
    reads_last,
)
from transfer_metrics.sources.models.classifier import Heads, LinearOutputs, tensors_in
from transfer_metrics.sources.models.modules import evaluation, holds_weights, is_leaf, matrices
from transfer_metrics.sources.models.tokens import TextBatch

# Identity of a tensor's value: which tensor it is, and how often it was written to in place.
_Value = tuple[int, int]

_READS: dict[type, dict[int, str]] = {nn.Conv1d: {3: "NCT"}, nn.Conv2d: {4: "NCHW"}}
"""What the axes of an input are to a module, whatever made it."""
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
    heads: Heads = field(default_factory=Heads)  # what made what the network returned
    masked: bool = False  # whether the batch told which of its tokens count

    @property
    def output(self) -> Call:
        """The call of the whole model."""
        return self.calls[-1]

    def name(self, call: Call) -> str:
        """The layer name of a call."""
        if call.is_input:
            return f"{call.path}:input"
        return f"{call.path}:{call.call}" if self.counts[call.path] > 1 else call.path


def parse_name(name: str) -> tuple[str, int | None, bool]:
    """Split a layer name into module path, call number and whether it is an input.

    >>> parse_name("layer3.5.relu:2"), parse_name("fc:input"), parse_name("layer1")
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


def batch_size(batch: Any) -> int:
    """Number of examples in a batch: length of the first axis of its first tensor.

    >>> batch_size({"use_cache": False, "ids": torch.zeros(2, 3)})
    2
    """
    if isinstance(batch, Tensor):
        return batch.shape[0]  # len() would make a number of what stays open in an export
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    sizes = map(batch_size, batch) if isinstance(batch, (tuple, list)) else iter(())
    return next((size for size in sizes if size), 0)


def _shapes(batch: Any) -> str:
    """The shapes in a batch, for messages."""
    if isinstance(batch, Tensor):
        return str(tuple(batch.shape))
    if isinstance(batch, Mapping):
        return ", ".join(f"{name} {_shapes(item)}" for name, item in batch.items())
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return ", ".join(_shapes(item) for item in batch)
    return type(batch).__name__


def call_model(model: Any, batch: Any) -> Any:
    """Run a Model or a module on one batch; its errors get the shapes of the batch."""
    try:
        if isinstance(model, nn.Module) and isinstance(batch, Mapping):
            return model(**batch)
        return model(batch)
    except TransferMetricsError:
        raise
    except Exception as error:
        name = getattr(model, "name", type(model).__name__)
        hint = ""
        if "out of memory" in str(error):
            hint = "; use a smaller batch size"
        elif "positional argument" in str(error):
            hint = "; let its forward take the batch as its one positional argument"
        elif isinstance(error, IndexError) and isinstance(batch, TextBatch):
            hint = (
                "; a token or its position is beyond the network's embeddings: check that the "
                "tokenizer is the network's own, or set a smaller model_max_length in its "
                "tokenizer_config.json"
            )
        raise ExtractionError(
            f"the forward pass of {name} failed on an input of shape {_shapes(batch)}: "
            f"{type(error).__name__}: {error}{hint}"
        ) from error


@contextmanager
def every_call(
    module: nn.Module, enter: Callable[..., None], leave: Callable[..., None]
) -> Iterator[None]:
    """Call ``enter(path, module, args, kwargs)`` and ``leave(path, module, args, output)``.

    For every module that runs, but those that make weights.
    """
    with ExitStack() as handles:
        for path, part in module.named_modules():
            if not holds_weights(path):
                # Script modules refuse the methods of their own, though the hooks run.
                before, after = nn.Module.register_forward_pre_hook, nn.Module.register_forward_hook
                handles.callback(before(part, partial(enter, path), with_kwargs=True).remove)
                handles.callback(after(part, partial(leave, path)).remove)
        yield


def trace(model: Any, module: nn.Module, batch: Any, head: str | None = None) -> Trace:
    """Run one batch and record every call, and the input of the classifier at the path ``head``.

    The batch has at least two examples, so that its axis can be told from others.
    """
    traced, n = _recorded(model, module, batch, head), batch_size(batch)
    unclear = [i for i, c in enumerate(traced.calls) if len(c.sizes) == 3 and c.sizes[1] == n]
    if unclear:
        try:
            larger = _recorded(model, module, _one_more(batch, n), head)
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
    if isinstance(batch, Tensor):
        return torch.cat([batch, batch[:1]]) if batch.ndim and len(batch) == n else batch
    if isinstance(batch, Mapping):
        return {name: _one_more(item, n) for name, item in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(_one_more(item, n) for item in batch)
    return batch


def _recorded(model: Any, module: nn.Module, batch: Any, head: str | None) -> Trace:
    recorder = _Recorder(Trace(dict(module.named_modules())), batch, head)
    with (
        evaluation(module),
        every_call(module, recorder.enter, recorder.leave),
        LinearOutputs(module) as linear,
    ):
        recorder.trace.heads = linear.heads(call_model(model, batch))
    if not recorder.trace.counts.get(""):
        raise ExtractionError(
            f"{type(module).__name__} runs without its hooks, since its class has a __call__ of "
            f"its own, so its layers cannot be read; rename that method to forward"
        )
    return recorder.trace


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

    def __init__(self, result: Trace, batch: Any, head: str | None) -> None:
        self.trace = result
        self.trace.masked = isinstance(batch, Mapping) and "attention_mask" in batch
        self.head = head
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
        memory = memory_of(tensor)
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            # Who turned around what it was given had been given tokens.
            for place, call in enumerate(self.open):
                if call.layout is None and is_turned(memory, call.memory):
                    self.open[place] = replace(call, layout="NTC")
        if path == self.head:
            reads = _READS.get(type(module), {}).get(0 if tensor is None else tensor.ndim)
            self.record(path, inputs, given, reads or layout, self.leaf, is_input=True)
        self.open.append(_Open(path, len(self.trace.calls), shape, layout, given, memory))

    def leave(self, path: str, module: nn.Module, args: Any, output: Any) -> None:
        begun = self.open.pop()
        while begun.path != path:  # calls that ended in an exception which the model caught
            begun = self.open.pop()
        tensor, layout = first_tensor(output), None
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
                if is_turned(memory_of(tensor), begun.memory):
                    layout = TURNED.get(layout or "")
                if layout is None and len(begun.shape) == 2:  # turned around since, or added up
                    around = self.open[-1] if self.open else begun
                    layout = of_square(begun.shape, begun.memory, around, self.leaf)
                    layout = layout or layout_of(begun.shape, self.leaf)
        inside = self.leaf if self.leaf_end > begun.start else None
        if tensor is not None and tensor.ndim == 3 and layout is None and not is_leaf(module):
            layout = self.layouts.get(self.value_of(tensor))  # what a part has returned
            if layout is None:
                shape = tuple(tensor.shape[1:])
                layout = of_square(shape, memory_of(tensor), begun, inside)
        if tensor is not None and tensor.ndim == 4:
            if reads_last(module):
                layout = "NHWC"
            elif layout is None and type(module) not in MAP_LEAVES:
                known = self.layouts.get(self.value_of(tensor))  # what a part has returned
                layout = known or of_cube(tensor, begun, inside)
        self.record(path, output, begun.given, layout, inside)
        self.trace.counts[path] = self.trace.counts.get(path, 0) + 1

    def record(
        self,
        path: str,
        output: Any,
        given: _Value | None,
        layout: str | None,
        leaf: nn.Module | None,
        is_input: bool = False,
    ) -> None:
        tensor = first_tensor(output)
        shape, value = None, None
        sizes: tuple[int, ...] = ()
        if tensor is not None:
            value, sizes = self.value_of(tensor), tuple(tensor.shape)
            if 2 <= tensor.ndim <= 4 and len(tensor) == self.n and tensor.numel():
                shape = tuple(tensor.shape[1:])
                layout = layout or layout_of(shape, leaf, self.image_size)
                self.layouts[value] = layout
        call, end = self.trace.counts.get(path, 0), len(self.trace.calls) + 1
        self.trace.calls.append(
            Call(path, call, end, shape, layout or "ND", value, given, is_input, sizes)
        )

    def value_of(self, tensor: Tensor) -> _Value:
        # The address of a tensor that has died can be used again; the weak reference tells.
        known = self.values.get(id(tensor))
        if known is None or known[0]() is not tensor:
            known = self.values[id(tensor)] = (ref(tensor), self.serial)
            self.serial += 1
        return known[1], 0 if tensor.is_inference() else tensor._version
