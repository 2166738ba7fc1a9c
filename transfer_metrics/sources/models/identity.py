"""What makes a network the one that it is: structure, state, and what no checkpoint has of it."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum
from types import FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all

from transfer_metrics.sources.models.modules import is_lazy
from transfer_metrics.sources.models.own_code import (
    OF_PLACE,
    attributes_of,
    code_pieces,
    held_by,
    is_own,
    names_in,
    package_of,
)

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
_PLAIN = (bool, int, float, complex, str, bytes, Tensor, np.ndarray, torch.dtype, type(None))
_SIMPLE = frozenset((bool, int, float, complex, str, type(None)))
_DEEPEST = 4
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")


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
    if type(value) in _SIMPLE:
        yield from _as_written(type(value).__name__, repr(value))
        return
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


def _as_written(kind: str, text: str) -> tuple[bytes, bytes]:
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
        yield from _contents({name: getattr(tensor, name) for name in names})
        yield from _contents(context)
        return
    elif tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.cpu().resolve_conj().resolve_neg().as_subclass(Tensor)
    yield tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _without_addresses(text: str) -> str:
    """A description without places in memory, which differ between processes."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


@dataclass(frozen=True)
class Settings:
    """A hash of what ``unsaved`` finds, but for what forward passes change: that is no setting."""

    digest: str
    changing: tuple[str, ...] = ()

    @classmethod
    def of(cls, before: Mapping[str, str], after: Mapping[str, str]) -> Settings:
        """What is the same before and after some passes."""
        names = before.keys() | after.keys()
        changing = sorted(name for name in names if before.get(name) != after.get(name))
        return cls(_digest_of(after, changing), tuple(changing))

    def hold_in(self, module: nn.Module) -> bool:
        """Whether a network has these settings, which takes no pass."""
        return _digest_of(unsaved(module), self.changing) == self.digest


def _digest_of(found: Mapping[str, str], changing: Iterable[str]) -> str:
    left_out = set(changing)
    lasting = sorted(item for item in found.items() if item[0] not in left_out)
    return hashlib.sha256(repr(lasting).encode()).hexdigest()[:16]


def unsaved(module: nn.Module) -> dict[str, str]:
    """A hash of each plain attribute of a network and its parts, of their code and their hooks.

    By path and name, whatever module they are of: a script has another name where it is imported.
    Numbers, texts, arrays and tensors count, in lists and mappings too, and functions by their code
    and what they hold. Of code that is not of a library, all of its class counts, the objects that
    it made, and the global variables that it names.
    """
    survey = _Survey(module)
    for when in _HOOKS:
        survey.hooks("", f"all {when}", getattr(hooks_of_all, f"_global{when}"))
    for path, part in module.named_modules():
        if not isinstance(part, torch.jit.ScriptModule):
            for name, value in vars(part).items():
                if name not in _OF_EVERY_MODULE and name not in OF_PLACE:
                    survey.note(f"{path}.{name}", value)
            survey.of_class(type(part))
            for when in _HOOKS:
                survey.hooks(path, when, getattr(part, when), getattr(part, f"{when}_with_kwargs"))
    return survey.found


def code_of(function: Any) -> str:
    """A hash of a function or class, of what it holds, and of its own code and global variables.

    Own is what no library has, and the package that it is of, installed or not.

    >>> code_of(lambda x: x + 1) == code_of(lambda y: y + 1) != code_of(lambda x: x + 2)
    True
    """
    survey = _Survey(nn.Module(), getattr(function, "__module__", None))
    survey.note("function", function)
    return _digest_of(survey.found, ())


class _Survey:
    """What was found so far, and which classes, objects and global variables were looked at."""

    def __init__(self, network: nn.Module, home: str | None = None) -> None:
        self.found: dict[str, str] = {}
        self._home = package_of(home)
        self._parts = {id(part) for part in network.modules()}
        self._seen: dict[Any, Any] = {}  # holds what it knows by its place in memory

    def note(self, name: str, value: Any, depth: int = _DEEPEST) -> None:
        """Hash a value under a name; attributes of objects and what functions hold by their own."""
        while name in self.found:
            name += "'"
        if depth and type(value) in _SIMPLE:  # most attributes are, and thousands are equal
            self.found[name] = _hash_of_simple(type(value).__name__, repr(value))
            return
        digest = hashlib.sha256()
        for piece in self._pieces(value, depth, name):
            digest.update(piece)
        self.found[name] = digest.hexdigest()

    def hooks(
        self, path: str, when: str, hooks: Mapping[int, Any], with_kwargs: Mapping[int, bool] = {}
    ) -> None:
        """The hooks of a part, in the order in which they run."""
        for place, (number, hook) in enumerate(hooks.items()):
            asked = " with kwargs" if number in with_kwargs else ""
            self.note(f"{path}.{when}{asked} {place}", hook)

    def of_class(self, kind: type) -> None:
        """The code of a class: its ``forward``, and all of it where it is of no library."""
        if not self._first(kind):
            return
        if isinstance(forward := getattr(kind, "forward", None), FunctionType):
            self.note(f"class {kind.__qualname__}.forward", forward)
        for base in kind.__mro__:
            if not self._is_own(base.__module__) or (base is not kind and not self._first(base)):
                continue
            for name, value in vars(base).items():
                special = name.startswith("__") and name.endswith("__")
                if not (special and not isinstance(value, FunctionType)) and name != "_abc_impl":
                    self.note(f"class {base.__qualname__}.{name}", value)

    def _is_own(self, home: str | None) -> bool:
        return is_own(home) or package_of(home) == self._home != ""

    def _first(self, value: Any) -> bool:
        first = id(value) not in self._seen
        self._seen[id(value)] = value
        return first

    def _pieces(self, value: Any, depth: int, name: str = "") -> Iterator[Any]:
        """What identifies a value; with a name, its parts may have entries of their own."""
        if depth == 0:
            return
        inner = depth - 1
        if isinstance(value, _PLAIN):
            yield from _contents(value)
        elif isinstance(value, Enum):
            yield str(value).encode()
        elif isinstance(value, SimpleNamespace) or _is_made_here(value):
            yield type(value).__qualname__.encode()
            if self._first(value):
                self.of_class(type(value))
                yield from self._parts_of(attributes_of(value), inner, name)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from self._pieces(str(key), 1)
                yield from self._pieces(item, inner)
        elif isinstance(value, (list, tuple)):
            yield f"{type(value).__name__} {len(value)}".encode()
            for item in value:
                yield from self._pieces(item, inner)
        elif isinstance(value, (set, frozenset)):
            yield f"{type(value).__name__} {len(value)}".encode()
            yield from sorted(b"".join(map(bytes, self._pieces(item, inner))) for item in value)
        elif isinstance(value, FunctionType):
            yield from code_pieces(value.__code__)
            if self._first(value):
                yield from self._pieces((value.__defaults__, value.__kwdefaults__), depth)
                yield from self._parts_of(held_by(value), inner, name)
                if self._is_own(value.__globals__.get("__name__")):
                    self._globals_of(value)
        elif isinstance(value, functools.partial):
            yield from self._pieces((value.args, value.keywords), depth)
            yield from self._parts_of({"func": value.func}, depth, name)
        elif isinstance(value, MethodType):
            of = {"func": value.__func__, "self": value.__self__}
            yield from self._parts_of(of, depth, name)
        elif isinstance(value, (staticmethod, classmethod)):
            yield from self._parts_of({"func": value.__func__}, depth, name)
        elif isinstance(value, (property, functools.cached_property)):
            getter = value.fget if isinstance(value, property) else value.func
            yield from self._parts_of({"get": getter}, depth, name)
        elif isinstance(value, nn.Module):
            yield type(value).__qualname__.encode()
            outside = id(value) not in self._parts and not is_lazy(value)
            if outside and self._first(value):
                yield identity(value).encode()
        elif isinstance(value, type):
            yield value.__qualname__.encode()
            if self._is_own(value.__module__):
                self.of_class(value)
        elif callable(value):
            yield str(getattr(value, "__qualname__", type(value).__qualname__)).encode()
            if isinstance(inside := getattr(value, "__wrapped__", None), FunctionType):
                yield from self._parts_of({"wrapped": inside}, depth, name)

    def _parts_of(self, parts: Mapping[str, Any], depth: int, name: str) -> Iterator[Any]:
        for of, part in sorted(parts.items()):
            if name and depth:
                self.note(f"{name}.{of}", part, depth)
            else:
                yield of.encode()
                yield from self._pieces(part, depth)

    def _globals_of(self, function: FunctionType) -> None:
        names = set(names_in(function.__code__))
        for name in sorted(names):
            if name in function.__globals__:
                home = str(function.__globals__.get("__name__"))
                self._global(home, name, function.__globals__[name], names)
            elif name in sys.modules:  # what is imported inside
                self._global("", name, sys.modules[name], names)

    def _global(self, home: str, name: str, value: Any, names: set[str]) -> None:
        if not isinstance(value, ModuleType):
            known = self._seen.setdefault(("global", home), set())
            if name not in known:
                known.add(name)
                self.note(f"global {name}", value)
        elif self._is_own(value.__name__):
            known = self._seen.setdefault(("names", value.__name__), set())
            fresh = sorted((names & vars(value).keys()) - known)
            known.update(fresh)
            for attribute in fresh:
                self._global(value.__name__, attribute, vars(value)[attribute], names)


@functools.lru_cache(1 << 14)
def _hash_of_simple(kind: str, text: str) -> str:
    """The hash of the pieces of a number, a text or None, which is written as ``text``."""
    return hashlib.sha256(b"".join(_as_written(kind, text))).hexdigest()


def _is_made_here(value: Any) -> bool:
    """Whether an object is of a class that no library has; containers are what they contain."""
    kind = type(value)
    held = (type, nn.Module, Mapping, list, tuple, set, frozenset, BaseException)
    return is_own(kind.__module__) and not isinstance(value, held)
