"""The state of an interrupted training in one safetensors file, replaced as training goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transfer_metrics.errors import CorruptStoreError, IncompatibleStoreError
from transfer_metrics.files import written
from transfer_metrics.untrusted import parse_json

_FORMAT = "transfer_metrics training 1"


def write_checkpoint(
    path: Path,
    key: Mapping[str, Any],
    state: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Replace a checkpoint; numbers and tensors share one file, so that they always fit together.

    ``key`` is what the training is recognised by, of values that JSON can hold; ``tensors`` are in
    groups by what they are of. If the file cannot be written the one before is still there.
    """
    from safetensors.torch import save

    header = json.dumps({"format": _FORMAT, "key": key, "state": state})
    flat = {
        f"{group}/{name}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for group, named in tensors.items()
        for name, tensor in named.items()
    }
    advice = "free some space and run again: finished epochs are kept"
    written(path, save(flat, {"training": header}), advice)


def read_checkpoint(
    path: Path, key: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]] | None:
    """State and tensors of a checkpoint, on the CPU; None if there is none yet.

    Raises:
        IncompatibleStoreError: it belongs to another training; says what differs.
        CorruptStoreError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {}).get("training", "{}"))
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("format") != _FORMAT:
            raise ValueError("it is no checkpoint of this version's format")
        found, state = dict(header["key"]), dict(header["state"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(
            f"{path} cannot be read ({error}); delete it to train from the beginning"
        ) from error
    wanted = json.loads(json.dumps(key))
    told = [name for name in sorted({*found, *wanted}) if found.get(name) != wanted.get(name)]
    if told:
        raise IncompatibleStoreError(
            f"{path} belongs to another training: {', '.join(told)} differ; choose another "
            f"checkpoint= folder, or delete it"
        )
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        group, _, rest = name.partition("/")
        tensors.setdefault(group, {})[rest] = tensor
    return state, tensors
