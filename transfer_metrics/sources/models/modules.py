"""The network inside wrappers, what in it computes, and running it without a trace."""

from __future__ import annotations

import copy
import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.optim.swa_utils import AveragedModel

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.threads import Held

_Network = TypeVar("_Network", bound=nn.Module)

# Classes that only hand on what their one child gives. A wrapper of somebody else's is left alone:
# that it has one child does not say that it hands on the input as it is.
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
# Children that make or hold the weights of the one module that computes.
_HOLDERS = ("parametrizations", "_packed_params", "_all_weight_values")


def not_a_model(given: object) -> InvalidInputError:
    """What to say of something that is neither a name nor a network."""
    if isinstance(given, type) and issubclass(given, nn.Module):
        return InvalidInputError(
            f"the class {given.__name__} is not a model; give a network of it: {given.__name__}(…)"
        )
    return InvalidInputError(
        f"an object of type {type(given).__name__} is not a model; give a name such as "
        f"'timm:resnet18', a torch.nn.Module or a Model"
    )


def plain_module(module: nn.Module) -> nn.Module:
    """The network with what was wrapped around it, or around parts of it, taken off.

    Compiled modules do not run hooks that come later, and their layers have other names. Nothing is
    changed: where a part was wrapped, the modules above it are replaced by others that share their
    parameters and buffers. TorchScript and exported programs, whose parts do not run hooks, are
    refused, and so is a network without its weights.
    """
    if not isinstance(module, nn.Module):
        raise not_a_model(module)
    found = _plain(module, {})
    if isinstance(found, torch.jit.ScriptModule):
        raise InvalidInputError(
            "the network is a TorchScript module, which gives its output but not its layers; "
            "give the network that it was made from, with its weights: "
            "network.load_state_dict(scripted.state_dict())"
        )
    # What export adds checks inputs only.
    if isinstance(found, torch.fx.GraphModule) and not any(
        node.op == "call_module" and node.target != "_guards_fn" for node in found.graph.nodes
    ):
        raise InvalidInputError(
            "the network is a graph of operations without modules, so it has no layers; give the "
            "network that it was made from, or of an exported program "
            "torch.export.unflatten(program)"
        )
    for name, tensor in (*found.named_parameters(), *found.named_buffers()):
        if tensor.is_meta:
            raise InvalidInputError(
                f"the network's {name!r} is on the meta device, where tensors have no values; load "
                f"the weights: network.to_empty(device='cpu'), then network.load_state_dict(…)"
            )
    return found


def _plain(module: nn.Module, known: dict[int, nn.Module]) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        return module
    if id(module) in known:  # registered more than once, and must stay one
        return known[id(module)]
    found = module
    while (inside := _inside(found)) is not None:
        found = inside
    children = {
        name: None if child is None else _plain(child, known)
        for name, child in found._modules.items()
    }
    if any(child is not found._modules[name] for name, child in children.items()):
        # Not copy.copy, which parametrised modules refuse.
        copied = type(found).__new__(type(found))
        copied.__dict__.update(found.__dict__)
        copied.__dict__["_modules"] = children
        found = copied
    known[id(module)] = found
    return found


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper holds; None for other modules."""
    return module.module if isinstance(module, _WRAPPERS) else module._modules.get("_orig_mod")


# ---------------------------------------------------------------- what computes


def is_leaf(module: nn.Module) -> bool:
    """Whether no other module computes a part of its output."""
    return all(name in _HOLDERS for name, _ in module.named_children())


def matrices(module: nn.Module) -> int:
    """Weights of two or more axes: those that are quantised count, of what makes one only one."""
    tensors = sum(p.ndim >= 2 for name, p in module.named_parameters() if not _makes(name))
    return tensors + sum(map(_is_packed, module.modules()))


def _makes(name: str) -> bool:
    """Whether a parameter is one of several that a weight is made from, and not the first."""
    _, parametrised, rest = name.rpartition("parametrizations.")
    first = rest.endswith((".original", ".original0"))
    return (bool(parametrised) and not first) or name.endswith("weight_g")


def is_quantised(module: nn.Module) -> bool:
    """Whether some weights are of eight bits, and with them the rounding of what is computed."""
    return any(map(_is_packed, module.modules()))


def _is_packed(module: nn.Module) -> bool:
    """Whether its weights are packed rather than parameters."""
    of = type(module)
    return ".quantized" in of.__module__ and (hasattr(of, "weight") or hasattr(of, "get_weight"))


def weight_bytes(module: nn.Module) -> int:
    """What the state of a network takes: parameters, once each, buffers, and packed weights.

    >>> weight_bytes(nn.Linear(3, 2))
    32
    """
    state = (*module.state_dict(keep_vars=True).values(), *module.buffers())
    return sum(map(_bytes, {id(value): value for value in state}.values()))


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, torch.ScriptObject):  # packed weights
        value = value.__getstate__()
    return sum(map(_bytes, value)) if isinstance(value, (tuple, list)) else 0


def is_lazy(module: nn.Module) -> bool:
    """Whether parameters or buffers wait for a first input to take their shape from."""
    return any(map(nn.parameter.is_lazy, (*module.parameters(), *module.buffers())))


def copied(module: _Network) -> _Network:
    """A deep copy that can be trained, also of lazy buffers, which torch cannot copy."""
    kind: Any = UninitializedBuffer
    with alone(module), torch.inference_mode(False):
        lazy = (buffer for buffer in module.buffers() if nn.parameter.is_lazy(buffer))
        made = {id(b): kind(device=b.device, dtype=b.dtype) for b in lazy}
        return copy.deepcopy(module, made)


# ---------------------------------------------------------------- running it

_OWNERS: dict[int, int] = {}  # which thread has which module, by their numbers
_FREED = threading.Condition()


@contextmanager
def alone(module: nn.Module) -> Iterator[None]:
    """Let other threads wait that want this network, or one that shares parts with it.

    Hooks, modes and the layout of weights are the network's own, so what runs, moves, copies or
    hashes it meanwhile would meet those of this thread. What this thread has, it may ask for again.
    """
    if torch.compiler.is_compiling():  # which knows no threads
        yield
        return
    own = threading.get_ident()
    if _OWNERS.get(id(module)) == own:  # and with it its parts
        yield
        return
    parts = set(map(id, module.modules()))
    with _FREED:
        _FREED.wait_for(lambda: all(_OWNERS.get(part, own) == own for part in parts))
        parts -= _OWNERS.keys()
        _OWNERS.update(dict.fromkeys(parts, own))
    try:
        yield
    finally:
        with _FREED:
            for part in parts:
                del _OWNERS[part]
            _FREED.notify_all()


_DRAWING = threading.RLock()


@contextmanager
def own_random_numbers(
    seed: int | None = None, devices: Sequence[torch.device | int] = ()
) -> Iterator[None]:
    """Torch's random numbers for this thread alone, and afterwards as if none had been drawn.

    Those of a whole network's run are asked for inside of ``alone``, never around it.
    """
    with _DRAWING, torch.random.fork_rng(devices):
        if seed is not None:
            # torch.manual_seed takes a millisecond where there is no accelerator.
            (torch if devices else torch.default_generator).manual_seed(seed)
        yield


def _leave_fast_path() -> Callable[[], None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    return partial(torch.backends.mha.set_fastpath_enabled, before)


def _leave_compiled() -> Callable[[], None]:
    stack = ExitStack()
    if "torch._dynamo" in sys.modules:  # else nothing was compiled, and importing takes seconds
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack.close


unfused = Held(_leave_fast_path)
"""Without the fast path of torch's encoder layers, which skips the modules inside and drops
padding, so that outputs have no shape."""
_uncompiled = Held(_leave_compiled)
"""Without code that was compiled before there were hooks, which it would not run."""


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards modes and buffers of all modules are as before.

    Other threads wait for the network. Gradients are switched off with ``no_grad``: under
    ``inference_mode``, which is left if the caller is in it, a network that caches tensors in its
    forward pass could not be trained any more. Costs a copy of the buffers.
    """
    with alone(module):
        parts = list(module.modules())
        modes = [(part, part.training) for part in parts]
        places = [
            (part, dict(part._buffers))
            for part in parts
            if not isinstance(part, torch.jit.ScriptModule)
        ]
        copies = [
            (buffer, buffer._version, buffer.detach().clone())
            for _, buffers in places
            for buffer in buffers.values()
            # Those made under inference mode cannot be written to.
            if buffer is not None and not nn.parameter.is_lazy(buffer) and not buffer.is_inference()
        ]
        module.eval()
        try:
            with torch.inference_mode(False), torch.no_grad(), unfused, _uncompiled:
                yield
        finally:
            for part, mode in modes:
                part.training = mode
            for part, buffers in places:
                for name, buffer in buffers.items():
                    if buffer is None or not nn.parameter.is_lazy(buffer):
                        part._buffers[name] = buffer
            for buffer, version, content in copies:
                if buffer._version != version:
                    with torch.no_grad():
                        buffer.copy_(content)


def device_of(module: nn.Module) -> torch.device | None:
    """The device that holds the whole module, None if there are several."""
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    return devices.pop() if len(devices) == 1 else None if devices else torch.device("cpu")


@contextmanager
def on_device(module: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """Move a module to a device and back, also where moving it fails half way."""
    with alone(module):
        home = None if device is None else device_of(module)
        if device is None or home == torch.device(device):
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


@contextmanager
def tried(module: nn.Module, device: str | torch.device | None = None) -> Iterator[None]:
    """On a device in evaluation mode; random numbers are afterwards as if none had been drawn."""
    with on_device(module, device), evaluation(module):
        gpus = {p.device.index for p in module.parameters() if p.is_cuda}
        with own_random_numbers(devices=sorted(gpus)):
            own, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
            try:
                yield
            finally:
                random.setstate(own)
                np.random.set_state(numbers)  # noqa: NPY002


@contextmanager
def every_call(
    module: nn.Module, *, enter: Callable[..., None] | None = None, leave: Callable[..., None]
) -> Iterator[None]:
    """Call ``enter(path, module, args, kwargs)`` and ``leave(path, module, args, output)``.

    For every module that runs, but for parts of a leaf, whose output are weights and no features.
    """
    # Script modules refuse the methods of their own, though the hooks run.
    before, after = nn.Module.register_forward_pre_hook, nn.Module.register_forward_hook
    with ExitStack() as handles:
        for path, part in module.named_modules():
            if not any(name in _HOLDERS for name in path.split(".")):
                if enter is not None:
                    handles.callback(before(part, partial(enter, path), with_kwargs=True).remove)
                handles.callback(after(part, partial(leave, path)).remove)
        yield
