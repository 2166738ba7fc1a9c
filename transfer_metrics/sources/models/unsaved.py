"""What no checkpoint has, and decides what a network gives: plain attributes and functions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.sources.models.contents import contents

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"training"}
# Where it was loaded from says nothing of it.
_OF_PLACE = frozenset(("name_or_path", "_is_hf_initialized"))
_PLAIN = (bool, int, float, complex, str, bytes, Tensor, np.ndarray, torch.dtype, type(None))
_DEEPEST = 4


def unsaved(module: nn.Module) -> dict[tuple[str, str], str]:
    """A hash of each plain attribute of a network and its parts, and of the code that runs them.

    Numbers, texts, arrays and tensors count, in lists and mappings too, and the code of functions
    with what they hold; other objects do not.

    Returns:
        By path of the part and name of the attribute.

    >>> linear = nn.Linear(2, 2)
    >>> linear.limit = 3.0
    >>> sorted(unsaved(linear))
    [('', 'forward'), ('', 'in_features'), ('', 'limit'), ('', 'out_features')]
    """
    found = {}
    for path, part in module.named_modules():
        if not isinstance(part, torch.jit.ScriptModule):
            own = {k: v for k, v in vars(part).items() if k not in _OF_EVERY_MODULE | _OF_PLACE}
            for name, value in {"forward": type(part).forward, **own}.items():
                digest = hashlib.sha256()
                for piece in _pieces(value, _DEEPEST):
                    digest.update(piece)
                found[path, name] = digest.hexdigest()
    return found


def _pieces(value: Any, depth: int) -> Iterator[Any]:
    if depth == 0:
        return
    if isinstance(value, _PLAIN):
        yield from contents(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _pieces(str(key), 1)
            yield from _pieces(item, depth - 1)
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield f"{type(value).__name__} {len(value)}".encode()
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            yield from _pieces(item, depth - 1)
    elif isinstance(value, FunctionType):
        yield from _code(value.__code__)
        yield from _pieces(value.__defaults__, depth - 1)
        for cell in value.__closure__ or ():
            try:
                yield from _pieces(cell.cell_contents, depth - 1)
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
