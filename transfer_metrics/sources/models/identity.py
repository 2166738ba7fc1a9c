"""What makes a network the one that it is: its structure and its state."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Where the parts of a model were written when fingerprints first named them: a file that moves
# makes no other model.
_FIRST_HOMES = {
    "Converted": "transfer_metrics.sources.hubs",
    "ImagePreprocess": "transfer_metrics.sources.preprocess",
    "Pixels": "transfer_metrics.sources.huggingface_models",
    "Tokens": "transfer_metrics.sources.tokens",
    "UnshuffledPixels": "transfer_metrics.sources.huggingface_models",
    "Waveform": "transfer_metrics.sources.huggingface_audio",
    "Waves": "transfer_metrics.sources.huggingface_audio",
    "plain_text": "transfer_metrics.sources.huggingface_models",
    "stack_pixels": "transfer_metrics.sources.huggingface_models",
}
SIMPLE = frozenset((bool, int, float, complex, str, type(None)))
"""Types of which numbers, texts and None are."""


def identity(module: nn.Module, *fed: str) -> str:
    """SHA-256 over the structure of a network, texts on how it is fed, and its whole state."""
    digest = hashlib.sha256()
    for text in (_without_addresses(repr(module)), *fed):
        digest.update(f"{text}\0".encode())
    state = {**dict(module.named_buffers()), **module.state_dict()}
    for name, value in sorted(state.items()):
        digest.update(f"{name}\0".encode())
        for part in contents(value):
            digest.update(part)
    return digest.hexdigest()


def describe(function: Any) -> str:
    """A description of a callable that is the same in every process."""
    if function is None:
        return ""
    named = hasattr(function, "__qualname__")
    kind = function if named else type(function)
    home = str(kind.__module__)
    if home.startswith("transfer_metrics."):
        home = _FIRST_HOMES.get(kind.__qualname__, home)
    return _without_addresses(f"{home}.{kind.__qualname__ if named else repr(function)}")


def contents(value: Any, _above: tuple[int, ...] = ()) -> Iterator[Any]:
    """The parts of a value that identify it, without running or unpickling anything.

    Tensors count by dtype, shape and values, however they are stored; containers by their items;
    packed weights and other objects by their type and what they hold.
    """
    if isinstance(value, Tensor):
        yield from _tensor(value)
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        yield f"{value.dtype}\0{value.shape}\0".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, (bytes, bytearray)):
        yield bytes(value)
    elif id(value) in _above:  # an object that holds itself
        yield b"above\0"
    else:
        yield from _items(value, (*_above, id(value)))


def _items(value: Any, above: tuple[int, ...]) -> Iterator[Any]:
    if type(value) in SIMPLE:
        yield from as_written(type(value).__name__, repr(value))
        return
    yield f"{type(value).__module__}.{type(value).__qualname__}\0".encode()
    if isinstance(value, Mapping):
        items = {repr(key): item for key, item in value.items()}
        parts: Any = (part for key in sorted(items) for part in (key, items[key]))
    elif isinstance(value, Set):
        parts = sorted(b"".join(contents(item, above)) for item in value)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        parts = value
    elif isinstance(value, torch.ScriptObject):  # packed weights
        parts = [value.__getstate__()]
    elif isinstance(value, np.ndarray):
        parts = value.tolist()
    else:
        yield _without_addresses(repr(value)).encode() + b"\0"
        plain = isinstance(value, (type, Enum)) or inspect.isroutine(value)
        parts = [] if plain or not hasattr(value, "__dict__") else [vars(value)]
    for part in parts:
        yield from contents(part, above)
        yield b"\0"


def as_written(kind: str, text: str) -> tuple[bytes, bytes]:
    """The parts of a number, a text or None, all of which are Python's own."""
    return f"builtins.{kind}\0".encode(), f"{_without_addresses(text)}\0".encode()


def _tensor(tensor: Tensor) -> Iterator[Any]:
    tensor = tensor.detach()
    if tensor.is_nested:
        for part in tensor.unbind():
            yield from _tensor(part)
        return
    yield f"{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()
    if tensor.is_quantized:
        yield f"{tensor.qscheme()}\0".encode()
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield f"{tensor.q_scale()}\0{tensor.q_zero_point()}\0".encode()
        else:
            for part in (tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()):
                yield from _tensor(part)
        tensor = tensor.int_repr()
    elif hasattr(tensor, "__tensor_flatten__"):  # a subclass that is made of other tensors
        names, context = tensor.__tensor_flatten__()
        yield from contents({name: getattr(tensor, name) for name in names})
        yield from contents(context)
        return
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.cpu().resolve_conj().resolve_neg().as_subclass(Tensor)
    yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _without_addresses(text: str) -> str:
    """A description without places in memory, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)
