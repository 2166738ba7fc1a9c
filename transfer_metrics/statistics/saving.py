"""Statistics on disk: one safetensors file, tensors with a description of how they fit together."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import types
from typing import Any, ClassVar, Self, get_args, get_type_hints

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.files import ADVICE, replacing
from transfer_metrics.naming import a_type, brief
from transfer_metrics.untrusted import parse_json, visible

_FORMAT = "transfer_metrics statistic 1"
MOST_CLASSES = 1_000_000
"""Classes that a file may claim without an example of each."""


class Saved:
    """A frozen dataclass of tensors, numbers and others of its kind that can be kept in a file."""

    _kinds: ClassVar[dict[str, type[Saved]]] = {}

    def __init_subclass__(cls) -> None:
        Saved._kinds[cls.__name__] = cls
        # Before the decorator, which writes out all numbers where a class has none of its own.
        cls.__repr__ = brief  # type: ignore[method-assign]

    def save(
        self, path: str | os.PathLike[str], advice: str = ADVICE, *, durable: bool = True
    ) -> None:
        """Write to a ``.safetensors`` file, which appears whole or not at all.

        Args:
            path: the file.
            advice: what the message says to do where it cannot be written.
            durable: whether it is on the disk when this returns, not only in the system's memory.

        Raises:
            StorageError: the place cannot be written to.
        """
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        header = json.dumps({"format": _FORMAT, "value": _pack(self, "", tensors)})
        with replacing(path, advice, durable=durable) as temporary:
            temporary.write_bytes(save(tensors, {"statistic": header}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote; nothing in the file is executed.

        Raises:
            InvalidInputError: there is no such file, or it holds another kind of statistic.
            CorruptStoreError: the file is damaged, or its parts do not fit each other.
        """
        from safetensors import safe_open

        if not os.path.isfile(path):
            raise InvalidInputError(f"there is no statistic at {path}; check the path")
        try:
            with safe_open(path, framework="pt") as file:
                header = parse_json((file.metadata() or {}).get("statistic", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header.get("format") != _FORMAT:
                raise ValueError("it is no statistic of this package's format")
            if not all(t.isfinite().all() for t in tensors.values() if t.is_floating_point()):
                raise ValueError("it holds NaN or infinite numbers")
            value = _unpack(header["value"], tensors)
        except Exception as error:  # the file can be damaged in any way
            told = visible(f"{type(error).__name__}: {error}", 300)
            raise CorruptStoreError(f"{path} cannot be read: {told}; build it again") from error
        if not isinstance(value, cls):
            raise InvalidInputError(f"{path} holds {a_type(value)}, not a {cls.__name__}")
        return value

    def _require_fit(self) -> None:
        """Compare the parts of a statistic that was read with each other.

        Raises:
            ValueError: they do not fit.
        """


def require(fits: bool, what: str) -> None:
    """Raise where parts of a file do not fit each other."""
    if not fits:
        raise ValueError(what)


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of a value; its tensors go into ``tensors`` under dotted names."""
    if isinstance(value, Saved):
        fields = {
            field.name: _pack(getattr(value, field.name), f"{name}.{field.name}", tensors)
            for field in dataclasses.fields(value)  # type: ignore[arg-type]
        }
        return {"kind": type(value).__name__, "fields": fields}
    if isinstance(value, tuple):
        return [_pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, np.ndarray):
        # safetensors for torch has no uint64: the bits travel as int64.
        tensors[name] = torch.from_numpy(value.view(np.int64).copy())
        return {"array": name, "dtype": str(value.dtype)}
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return tuple(_unpack(item, tensors) for item in value)
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "array" in value:
        dtype = np.dtype(value["dtype"])
        require(dtype in (np.int64, np.uint64), "an array of another type")
        return tensors[value["array"]].numpy().view(dtype)
    kind = Saved._kinds[value["kind"]]
    fields = {name: _unpack(item, tensors) for name, item in value["fields"].items()}
    for name, hint in _hints(kind.__name__).items():
        if name in fields:
            require(_is(fields[name], hint), f"its {name} is {a_type(fields[name])}")
    found = kind(**fields)
    found._require_fit()
    return found


@functools.cache
def _hints(name: str) -> dict[str, Any]:
    return get_type_hints(Saved._kinds[name])


def _is(value: Any, hint: Any) -> bool:
    """Whether a value has the type of a field: a class, a union, or a sequence of one class."""
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(_is(value, choice) for choice in get_args(hint))
    inner = get_args(hint)
    if inner:
        return isinstance(value, tuple) and all(_is(item, inner[0]) for item in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if hint is float else hint)
