"""Running a network without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes and buffers are as they were.

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
    buffers = [
        (submodule, name, buffer, buffer.detach().clone())
        for submodule in module.modules()
        for name, buffer in submodule._buffers.items()
        if buffer is not None and not isinstance(buffer, nn.parameter.UninitializedBuffer)
    ]
    versions = [buffer._version for _, _, buffer, _ in buffers]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode
        for (submodule, name, buffer, before), version in zip(buffers, versions, strict=True):
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(before)
            if submodule._buffers.get(name) is not buffer and name in submodule._buffers:
                submodule._buffers[name] = buffer


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
