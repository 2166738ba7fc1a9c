"""Statistics on disk: one safetensors file, tensors with a description of how they fit together."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.files import replacing

FORMAT = "transfer_metrics statistic 1"


class Saved:
    """A frozen dataclass of tensors, numbers and others of its kind that can be kept in a file."""

    _kinds: ClassVar[dict[str, type[Saved]]] = {}

    def __init_subclass__(cls) -> None:
        Saved._kinds[cls.__name__] = cls

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.safetensors`` file, which appears whole or not at all.

        Raises:
            InvalidInputError: the place cannot be written to.
        """
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {}
        header = json.dumps({"format": FORMAT, "value": _pack(self, "", tensors)})
        with replacing(path) as temporary:
            temporary.write_bytes(save(tensors, {"statistic": header}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote; nothing in the file is executed.

        Raises:
            InvalidInputError: there is no such file, or it holds another kind of statistic.
            CorruptStoreError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise InvalidInputError(f"there is no statistic at {path}")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get("statistic", "{}"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header.get("format") != FORMAT:
                raise ValueError("it is no statistic of this package's format")
            value = _unpack(header["value"], tensors)
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CorruptStoreError(f"{path} cannot be read: {error}; build it again") from error
        if not isinstance(value, cls):
            raise InvalidInputError(f"{path} holds a {type(value).__name__}, not a {cls.__name__}")
        return value


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
        return tensors[value["array"]].numpy().view(np.dtype(value["dtype"]))
    fields = {name: _unpack(item, tensors) for name, item in value["fields"].items()}
    return Saved._kinds[value["kind"]](**fields)
