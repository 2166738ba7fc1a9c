"""What no checkpoint has of a network: its attributes, its code and its hooks."""

from __future__ import annotations

import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks_of_all

from transfer_metrics.sources.models.identity import SIMPLE, as_written, contents, identity
from transfer_metrics.sources.models.modules import is_lazy

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"training"}
_PLAIN = (bool, int, float, complex, str, bytes, Tensor, np.ndarray, torch.dtype, type(None))
_DEEPEST = 4
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_OF_PLACE = frozenset(("name_or_path", "_name_or_path", "_commit_hash", "_is_hf_initialized"))
"""Attributes that say where a network was loaded from, which says nothing of it."""
_LIBRARIES = ("torch", "transfer_metrics")
_STANDARD = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))


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
                if name not in _OF_EVERY_MODULE and name not in _OF_PLACE:
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
        self._home = _package_of(home)
        self._parts = {id(part) for part in network.modules()}
        self._seen: dict[Any, Any] = {}  # holds what it knows by its place in memory

    def note(self, name: str, value: Any, depth: int = _DEEPEST) -> None:
        """Hash a value under a name; attributes of objects and what functions hold by their own."""
        while name in self.found:
            name += "'"
        if depth and type(value) in SIMPLE:  # most attributes are, and thousands are equal
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
        return is_own(home) or _package_of(home) == self._home != ""

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
            yield from contents(value)
        elif isinstance(value, Enum):
            yield str(value).encode()
        elif isinstance(value, SimpleNamespace) or _is_made_here(value):
            yield type(value).__qualname__.encode()
            if self._first(value):
                self.of_class(type(value))
                yield from self._parts_of(_attributes_of(value), inner, name)
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
            yield from _code_pieces(value.__code__)
            if self._first(value):
                yield from self._pieces((value.__defaults__, value.__kwdefaults__), depth)
                yield from self._parts_of(_held_by(value), inner, name)
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
        names = set(_names_in(function.__code__))
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
    return hashlib.sha256(b"".join(as_written(kind, text))).hexdigest()


def _is_made_here(value: Any) -> bool:
    """Whether an object is of a class that no library has; containers are what they contain."""
    kind = type(value)
    held = (type, nn.Module, Mapping, list, tuple, set, frozenset, BaseException)
    return is_own(kind.__module__) and not isinstance(value, held)


# ---------------------------------------------------------------- code


@functools.cache
def is_own(home: str | None) -> bool:
    """Whether a module is of no library: neither installed nor of Python.

    >>> is_own("__main__"), is_own("torch.nn.functional"), is_own("json"), is_own("numpy")
    (True, False, False, False)
    """
    if home in (None, "__main__", "__mp_main__"):
        return True
    if not _package_of(home):
        return False
    file = getattr(sys.modules.get(home), "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    return not (installed or file.startswith(_STANDARD))


def _package_of(home: str | None) -> str:
    """The package that a module is of; empty for torch, Python and this package.

    >>> _package_of("torchmetrics.functional"), _package_of("torch.nn"), _package_of("json.decoder")
    ('torchmetrics', '', '')
    """
    name = (home or "").partition(".")[0]
    return "" if name in (*_LIBRARIES, *sys.stdlib_module_names) else name


def _attributes_of(value: Any) -> dict[str, Any]:
    """Attributes of an object, in its ``__dict__`` and in slots."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    names = [name for name in names if not name.startswith("__")]
    slots_of = {name: getattr(value, name) for name in names if hasattr(value, name)}
    found = {**slots_of, **getattr(value, "__dict__", {})}
    return {name: part for name, part in found.items() if name not in _OF_PLACE}


def _held_by(function: FunctionType) -> dict[str, Any]:
    """What a function holds of those around it, but what is not filled yet."""
    found = {}
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:
            continue
    return found


@functools.cache
def _code_pieces(code: CodeType) -> tuple[bytes, ...]:
    """What tells code from other code: its instructions, names and constants."""
    inner = (_constant(constant) for constant in code.co_consts)
    return code.co_code, " ".join(code.co_names).encode(), *inner


def _constant(value: Any) -> bytes:
    if isinstance(value, CodeType):
        return b"".join(_code_pieces(value))
    if isinstance(value, frozenset):  # in an order of its own in every process
        return b"".join(sorted(map(_constant, value)))
    if isinstance(value, tuple):
        return b"(" + b", ".join(map(_constant, value)) + b")"
    return repr(value).encode()


def _names_in(code: CodeType) -> Iterator[str]:
    """The names that code uses, also within functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
