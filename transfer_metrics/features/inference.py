"""How a convolutional network runs faster on a CPU, with the same layers and features.

Weights of convolutions are laid out with channels last, and with them what they put out; and a
batch normalisation that follows a convolution goes into its weights, where nothing but the
normalisation reads what the convolution puts out. What is done depends on the network alone and not
on times, which would make features depend on what else the machine was doing; whether features are
the same to rounding is seen on a few examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from transfer_metrics.features.trace import Call, Trace
from transfer_metrics.sources.models.modules import matrices

_Fold = tuple[str, str]
"""Paths of a convolution and of the batch normalisation that goes into its weights."""


@dataclass(frozen=True)
class Inference:
    """How a network runs."""

    channels_last: bool = False  # whether weights of convolutions are laid out with channels last
    # The batch normalisations that go into the weights of convolutions.
    folds: tuple[_Fold, ...] = ()

    @classmethod
    def ways(cls, module: nn.Module, folds: tuple[_Fold, ...]) -> list[Inference]:
        """How a network could run faster, the fastest first; none but for float32 on a CPU.

        A network counts as convolutional where convolutions have most of its matrices; to others,
        such as transformers with one convolution for their patches, the layout brings nothing.
        """
        weights = [part.weight for part in _convolutions(module)]
        if not torch.backends.mkldnn.is_available() or 2 * len(weights) <= matrices(module):
            return []
        if any(w.device.type != "cpu" or w.dtype != torch.float32 for w in weights):
            return []
        return [cls(True, folds), cls(True)] if folds else [cls(True)]

    @contextmanager
    def of(self, module: nn.Module) -> Iterator[None]:
        """Let a network run so inside; its parameters stay what and where they are.

        Cost: a copy of the weights of convolutions meanwhile.
        """
        parts = dict(module.named_modules())
        with ExitStack() as stack:
            for convolution, norm in self.folds:
                stack.enter_context(_folded(parts[convolution], parts[norm]))
            for part in _convolutions(module) if self.channels_last else ():
                turned = part.weight.detach().contiguous(memory_format=torch.channels_last)
                stack.enter_context(_with(part, weight=turned))
            yield


def folds_of(traced: Trace, read: Iterable[Call]) -> tuple[_Fold, ...]:
    """The batch normalisations that can go into convolutions; ``read`` are calls that are read."""
    needed = {call.value for call in read}
    made = {call.value: call for call in reversed(traced.calls) if not call.is_input}
    readers: dict[Any, int] = {}
    for call in traced.calls:
        readers[call.given] = readers.get(call.given, 0) + (not call.is_input)
    found = []
    for call in traced.calls:
        before = made.get(call.given)
        if before is None or call.is_input or before.value in needed or call.path == before.path:
            continue
        norm, convolution = traced.modules[call.path], traced.modules[before.path]
        once = traced.counts[call.path] == traced.counts[before.path] == readers[call.given] == 1
        if once and _can_fold(convolution, norm):
            found.append((before.path, call.path))
    return tuple(found)


def _can_fold(convolution: Any, norm: Any) -> bool:
    hooks = (convolution._forward_hooks, norm._forward_pre_hooks)
    return (
        isinstance(convolution, nn.Conv2d)
        and convolution._parameters.get("weight") is not None
        and not convolution.transposed
        and (type(norm) is nn.BatchNorm2d or _acts(norm))
        and norm.running_mean is not None
        and len(norm.running_mean) == convolution.out_channels
        and "forward" not in vars(norm)
        and not any(hooks)
    )


def _acts(norm: nn.Module) -> bool:
    """Whether it is timm's normalisation with an activation behind."""
    of = type(norm)
    return of.__name__ == "BatchNormAct2d" and of.__module__.startswith("timm.")


@contextmanager
def _folded(convolution: Any, norm: Any) -> Iterator[None]:
    """A convolution that normalises as well, and a normalisation that hands on what it is given."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.detach()
    shift = -norm.running_mean.double()
    shift = shift if convolution.bias is None else shift + convolution.bias.detach()
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias.detach()
    weight = convolution.weight.detach() * scale[:, None, None, None]
    handing_on: Callable[[Tensor], Tensor] = _same
    if _acts(norm):
        handing_on = lambda x: norm.act(norm.drop(x))  # noqa: E731
    norm.forward = handing_on
    try:
        with _with(convolution, weight=weight.float(), bias=bias.float()):
            yield
    finally:
        del norm.forward


@contextmanager
def _with(module: nn.Module, **tensors: Tensor) -> Iterator[None]:
    """Other parameters inside; those that there were are not touched."""
    before = dict(module._parameters)
    try:
        for name, tensor in tensors.items():
            module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
        yield
    finally:
        module._parameters.update(before)


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """All convolutions of maps whose weights are parameters of their own."""
    parts = (part for part in module.modules() if isinstance(part, nn.Conv2d))
    return [p for p in parts if getattr(p._parameters.get("weight"), "ndim", 0) == 4]


def _same(x: Tensor) -> Tensor:
    return x
