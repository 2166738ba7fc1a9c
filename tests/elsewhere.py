"""A device that is not the CPU, for machines without one: what a GPU refuses, it refuses.

Tensors "elsewhere" say that they are on ``cuda:0`` and compute on the CPU. They do not go to numpy,
nor into one operation with tensors of the CPU, but for numbers and positions; and they come back by
``.cpu()`` and ``.to("cpu")`` only. Inside of ``elsewhere()`` tensors are made and moved there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda", 0)
_MIXING = (Tensor.__getitem__, Tensor.__setitem__, torch._has_compatible_shallow_copy_type)
_TO_NUMPY = (Tensor.numpy, Tensor.__array__)


class Elsewhere(Tensor):
    """A tensor that says that it is on the device."""

    @staticmethod
    def __new__(cls, tensor: Tensor) -> Elsewhere:
        return Tensor._make_subclass(cls, tensor.detach().as_subclass(Tensor), tensor.requires_grad)

    def __deepcopy__(self, memo: Any) -> Tensor:
        copied = Elsewhere(self.detach().as_subclass(Tensor).clone())
        return nn.Parameter(copied, self.requires_grad) if hasattr(self, "_is_param") else copied

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Moves(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def elsewhere() -> Iterator[None]:
    """Let tensors be made and moved there."""
    with _Moves():
        yield


def moved(module: nn.Module) -> nn.Module:
    """The same module with its parameters and buffers there."""
    for part in module.modules():
        for name, tensor in part._parameters.items():
            if tensor is not None:
                part._parameters[name] = nn.Parameter(Elsewhere(tensor), tensor.requires_grad)
        for name, tensor in part._buffers.items():
            if tensor is not None:
                part._buffers[name] = Elsewhere(tensor)
    return module


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        there = [isinstance(t, Elsewhere) for t in _tensors((args, kwargs))]
        if func == Tensor.device.__get__:
            return DEVICE if there[0] else torch.device("cpu")
        if func == Tensor.is_cuda.__get__:
            return there[0]
        if any(there) and func in _TO_NUMPY:
            raise TypeError("can't convert a tensor elsewhere to numpy; use .cpu() first")
        if func is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        if func is Tensor.to:
            return _to(*args, **kwargs)
        goes = any(there)
        if "device" in kwargs and kwargs["device"] is not None:
            goes = torch.device(kwargs["device"]).type != "cpu"
            generator = kwargs.get("generator")
            if goes and generator is not None and generator.device.type == "cpu":
                raise RuntimeError("expected a generator elsewhere and found one of the CPU")
            kwargs = {**kwargs, "device": "cpu"}
        if any(there) and func not in _MIXING:
            for tensor in _tensors((args, kwargs)):
                if tensor.ndim and not isinstance(tensor, Elsewhere):
                    raise RuntimeError(f"{func}: all tensors must be on one device")
        result = func(*args, **kwargs)
    if not goes:
        return result
    return tree_map(lambda x: x.as_subclass(Elsewhere) if type(x) is Tensor else x, result)


def _to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    goes, kept = isinstance(tensor, Elsewhere), []
    for given in (*args, kwargs.pop("device", None), kwargs.pop("other", None)):
        if isinstance(given, Tensor):
            goes = isinstance(given, Elsewhere)
            kept.append(given.dtype)
        elif isinstance(given, (str, torch.device)):
            goes = torch.device(given).type != "cpu"
        elif isinstance(given, torch.dtype):
            kept.append(given)
    result = Tensor.to(tensor.as_subclass(Tensor), *kept, **kwargs)
    return result.as_subclass(Elsewhere) if goes else result


def _tensors(given: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
