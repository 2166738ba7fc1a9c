"""The network inside what compiles it, spreads it over devices or averages its weights."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from transfer_metrics.errors import InvalidInputError

# Classes that only hand on what their one child gives. A wrapper of somebody else's is left alone:
# that it has one child does not say that it hands on the input as it is.
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def not_a_model(given: object) -> InvalidInputError:
    """What to say of something that is neither a name nor a network.

    >>> print(not_a_model(nn.Linear))
    the class Linear is not a model; give a network of it: Linear(…)
    """
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

    Compiled modules do not run hooks that come later, and the names of their layers would differ
    from those of the plain network. Nothing is changed: where a part was wrapped, the modules
    above it are replaced by others that share their parameters and buffers.

    Raises:
        InvalidInputError: it is no module, or TorchScript or an exported program, whose parts do
            not run hooks, or lacks its weights.

    >>> network = nn.Sequential(nn.Linear(4, 2))
    >>> plain_module(nn.DataParallel(network)) is network, plain_module(network) is network
    (True, True)
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
    if isinstance(found, torch.fx.GraphModule) and not any(map(_calls_a_module, found.graph.nodes)):
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


def _calls_a_module(node: torch.fx.Node) -> bool:
    # What export adds checks inputs only.
    return node.op == "call_module" and node.target != "_guards_fn"


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


class Held:
    """A setting of the process that is changed while anybody needs it to be.

    The last to leave restores it, in whatever order passes end.

    Args:
        change: makes the change, and returns what undoes it.
    """

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._users = 0
        self._undo: Callable[[], None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if not self._users:
                self._undo = self._change()
            self._users += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._undo is not None:
                self._undo()


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
uncompiled = Held(_leave_compiled)
"""Without code that was compiled before there were hooks, which it would not run."""
