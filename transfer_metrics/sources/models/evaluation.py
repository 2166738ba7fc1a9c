"""Running a network without leaving a trace in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.models.plain import uncompiled, unfused


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, module by module; afterwards all is as it was.

    That is the modes of the modules, and their buffers.

    Gradients are switched off with ``no_grad``: under ``inference_mode`` a network that caches
    tensors in its forward pass could not be trained any more.

    Cost: a copy of the buffers meanwhile.

    >>> norm = nn.BatchNorm1d(2)
    >>> with evaluation(norm):
    ...     norm.training, norm(torch.ones(3, 2)).requires_grad
    (False, False)
    >>> norm.training
    True
    """
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    places = [
        (submodule, dict(submodule._buffers))
        for submodule in module.modules()
        if not isinstance(submodule, torch.jit.ScriptModule)
    ]
    copies = [
        (buffer, buffer._version, buffer.detach().clone())
        for _, buffers in places
        for buffer in buffers.values()
        if buffer is not None and not nn.parameter.is_lazy(buffer)
    ]
    module.eval()
    try:
        with torch.no_grad(), unfused, uncompiled:
            yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode
        for submodule, buffers in places:
            for name, buffer in buffers.items():
                if buffer is None or not nn.parameter.is_lazy(buffer):
                    submodule._buffers[name] = buffer
        for buffer, version, content in copies:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(content)


def device_of(module: nn.Module) -> torch.device | None:
    """The device that holds the whole module, None if there are several."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    return devices.pop() if len(devices) == 1 else None if devices else torch.device("cpu")


@contextmanager
def on_device(module: nn.Module, device: torch.device | None) -> Iterator[None]:
    """Move a module to a device and back, also where moving it fails half way.

    Raises:
        InvalidInputError: the module is spread over several devices.
    """
    home = device_of(module)
    if device is None or home == device:
        yield
        return
    if home is None:
        raise InvalidInputError(
            "the model is spread over several devices and cannot be moved; leave out device="
        )
    try:
        module.to(device)
        yield
    finally:
        module.to(home)


def is_lazy(module: nn.Module) -> bool:
    """Whether parameters or buffers wait for a first input to take their shape from.

    >>> is_lazy(nn.LazyLinear(3)), is_lazy(nn.Linear(2, 3))
    (True, False)
    """
    return any(map(nn.parameter.is_lazy, (*module.parameters(), *module.buffers())))


def copied(module: nn.Module) -> nn.Module:
    """A deep copy, also of lazy buffers, which torch cannot copy.

    >>> is_lazy(copied(nn.LazyBatchNorm1d()))
    True
    """
    lazy = (buffer for buffer in module.buffers() if nn.parameter.is_lazy(buffer))
    kind: Any = UninitializedBuffer
    made = {id(b): kind(device=b.device, dtype=b.dtype) for b in lazy}
    return copy.deepcopy(module, made)
