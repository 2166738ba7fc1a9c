"""What makes a network the one that it is: its state, and what no checkpoint has."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from enum import Enum
from types import CodeType, FunctionType
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
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"training"}
# Where it was loaded from says nothing of it.
_OF_PLACE = frozenset(("name_or_path", "_is_hf_initialized"))
_PLAIN = (bool, int, float, complex, str, bytes, Tensor, np.ndarray, torch.dtype, type(None))
_DEEPEST = 4


def identity(module: nn.Module, *fed: str) -> str:
    """SHA-256 over the structure of a network, texts on how it is fed, and its whole state."""
    digest = hashlib.sha256()
    for text in (_without_addresses(repr(module)), *fed):
        digest.update(f"{text}\0".encode())
    state = {**dict(module.named_buffers()), **module.state_dict()}
    for name, value in sorted(state.items()):
        digest.update(f"{name}\0".encode())
        for part in _contents(value):
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


def unsaved(module: nn.Module) -> dict[tuple[str, str], str]:
    """A hash of each plain attribute of a network and its parts, and of the code that runs them.

    By path of the part and name of the attribute. Numbers, texts, arrays and tensors count, in
    lists and mappings too, and the code of functions with what they hold; other objects do not.
    """
    found = {}
    for path, part in module.named_modules():
        if not isinstance(part, torch.jit.ScriptModule):
            own = {k: v for k, v in vars(part).items() if k not in _OF_EVERY_MODULE | _OF_PLACE}
            for name, value in {"forward": type(part).forward, **own}.items():
                digest = hashlib.sha256()
                for piece in _plain_pieces(value, _DEEPEST):
                    digest.update(piece)
                found[path, name] = digest.hexdigest()
    return found


def _plain_pieces(value: Any, depth: int) -> Iterator[Any]:
    if depth == 0:
        return
    if isinstance(value, _PLAIN):
        yield from _contents(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _plain_pieces(str(key), 1)
            yield from _plain_pieces(item, depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield f"{type(value).__name__} {len(value)}".encode()
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            yield from _plain_pieces(item, depth - 1)
    elif isinstance(value, FunctionType):
        yield from _code(value.__code__)
        yield from _plain_pieces(value.__defaults__, depth - 1)
        for cell in value.__closure__ or ():
            try:
                yield from _plain_pieces(cell.cell_contents, depth - 1)
            except ValueError:  # not filled yet
                continue
    elif isinstance(value, type) or callable(value):
        yield str(getattr(value, "__qualname__", type(value).__qualname__)).encode()


def _code(code: CodeType) -> Iterator[Any]:
    yield code.co_code
    yield " ".join(code.co_names).encode()
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant).encode()


def _contents(value: Any, _above: tuple[int, ...] = ()) -> Iterator[Any]:
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
    yield f"{type(value).__module__}.{type(value).__qualname__}\0".encode()
    if isinstance(value, Mapping):
        items = {repr(key): item for key, item in value.items()}
        parts: Any = (part for key in sorted(items) for part in (key, items[key]))
    elif isinstance(value, Set):
        parts = sorted(b"".join(_contents(item, above)) for item in value)
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
        yield from _contents(part, above)
        yield b"\0"


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
        yield from _contents({name: getattr(tensor, name) for name in names})
        yield from _contents(context)
        return
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.cpu().resolve_conj().resolve_neg().as_subclass(Tensor)
    yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _without_addresses(text: str) -> str:
    """A description without places in memory, which differ between processes.

    >>> _without_addresses("<object object at 0x7f00c0ffee>")
    '<object object>'
    """
    return re.sub(r" at 0x[0-9a-f]+", "", text)
