"""Which code is of no library, and what tells it from other code."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

OF_PLACE = frozenset(("name_or_path", "_name_or_path", "_commit_hash", "_is_hf_initialized"))
"""Attributes that say where a network was loaded from, which says nothing of it."""
_LIBRARIES = ("torch", "transfer_metrics")
_STANDARD = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))


@functools.cache
def is_own(home: str | None) -> bool:
    """Whether a module is of no library: neither installed nor of Python.

    >>> is_own("__main__"), is_own("torch.nn.functional"), is_own("json"), is_own("numpy")
    (True, False, False, False)
    """
    if home in (None, "__main__", "__mp_main__"):
        return True
    if not package_of(home):
        return False
    file = getattr(sys.modules.get(home), "__file__", None) or ""
    installed = "site-packages" in file or "dist-packages" in file
    return not (installed or file.startswith(_STANDARD))


def package_of(home: str | None) -> str:
    """The package that a module is of; empty for torch, Python and this package.

    >>> package_of("torchmetrics.functional"), package_of("torch.nn"), package_of("json.decoder")
    ('torchmetrics', '', '')
    """
    name = (home or "").partition(".")[0]
    return "" if name in (*_LIBRARIES, *sys.stdlib_module_names) else name


def attributes_of(value: Any) -> dict[str, Any]:
    """Attributes of an object, in its ``__dict__`` and in slots."""
    slots = [vars(kind).get("__slots__", ()) for kind in type(value).__mro__]
    names = [name for some in slots for name in ([some] if isinstance(some, str) else some)]
    names = [name for name in names if not name.startswith("__")]
    slots_of = {name: getattr(value, name) for name in names if hasattr(value, name)}
    found = {**slots_of, **getattr(value, "__dict__", {})}
    return {name: part for name, part in found.items() if name not in OF_PLACE}


def held_by(function: FunctionType) -> dict[str, Any]:
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
def code_pieces(code: CodeType) -> tuple[bytes, ...]:
    """What tells code from other code: its instructions, names and constants."""
    inner = (_constant(constant) for constant in code.co_consts)
    return code.co_code, " ".join(code.co_names).encode(), *inner


def _constant(value: Any) -> bytes:
    if isinstance(value, CodeType):
        return b"".join(code_pieces(value))
    if isinstance(value, frozenset):  # in an order of its own in every process
        return b"".join(sorted(map(_constant, value)))
    if isinstance(value, tuple):
        return b"(" + b", ".join(map(_constant, value)) + b")"
    return repr(value).encode()


def names_in(code: CodeType) -> Iterator[str]:
    """The names that code uses, also within functions inside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)
