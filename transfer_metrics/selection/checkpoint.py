"""The state of an interrupted training in one safetensors file, replaced as training goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer_metrics.errors import CorruptStoreError, IncompatibleStoreError
from transfer_metrics.files import written
from transfer_metrics.untrusted import parse_json

_FORMAT = "transfer_metrics training 1"


@dataclass(frozen=True)
class Checkpoint:
    """A file for the state of a training, recognised by a ``key`` of values that JSON can hold.

    Numbers and tensors share it, so that they always fit together.
    """

    path: Path
    key: Mapping[str, Any]

    def write(self, state: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Replace the state; ``tensors`` are in groups by what they are of.

        If the file cannot be written the one before is still there.
        """
        from safetensors.torch import save

        header = json.dumps({"format": _FORMAT, "key": self.key, "state": state})
        flat = {
            f"{group}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for group, named in tensors.items()
            for name, tensor in named.items()
        }
        advice = "free some space and run again: finished epochs are kept"
        written(self.path, save(flat, {"training": header}), advice)

    def read(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
        """State and tensors, on the CPU; None if there are none yet.

        Raises:
            IncompatibleStoreError: they belong to another training; says what differs.
            CorruptStoreError: they cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                header = parse_json((file.metadata() or {}).get("training", "{}"))
                flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header.get("format") != _FORMAT:
                raise ValueError("it is no checkpoint of this version's format")
            found, state = dict(header["key"]), dict(header["state"])
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptStoreError(
                f"{self.path} cannot be read ({error}); delete it to train from the beginning"
            ) from error
        wanted = json.loads(json.dumps(self.key))
        told = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
        if told:
            raise IncompatibleStoreError(
                f"{self.path} belongs to another training: {', '.join(told)} differ; choose "
                f"another checkpoint= folder, or delete it"
            )
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, tensor in flat.items():
            group, _, rest = name.partition("/")
            tensors.setdefault(group, {})[rest] = tensor
        return state, tensors
