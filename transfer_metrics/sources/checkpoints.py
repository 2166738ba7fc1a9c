"""Weights from a local file into a network, strictly and without running anything in the file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
_PREFIXES = ("module.", "_orig_mod.")


def load_checkpoint(module: nn.Module, path: str | Path) -> str:
    """Load a safetensors file or a plain state dict into ``module``, in place.

    Names and shapes must match exactly, except that BatchNorm's ``num_batches_tracked`` may be
    missing. Values are cast to the types of the parameters, so float16 files are fine. Usual
    wrappings are taken off: ``{"state_dict": …}``, ``{"model": …}``, the prefix ``module.``.

    Args:
        module: the network.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.

    Returns:
        ``"sha256:"`` and the first 12 digits of the file's hash.

    Raises:
        InvalidInputError: the file is missing or unreadable, needs unpickling of more than
            tensors, or does not fit the network; nothing is loaded then.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InvalidInputError(f"checkpoint {str(path)!r}: there is no such file")
    given = _unwrap(_read(path), path)
    expected = module.state_dict()
    _check(given, expected, path)
    module.load_state_dict(given, strict=False)
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader has exceptions of its own for damaged files
        if "weights_only" in str(error) or "Weights only" in str(error):
            reason = "it holds pickled Python objects besides tensors, which are never executed"
            advice = "save model.state_dict() as safetensors and load that"
        else:
            reason = f"it cannot be read ({_first_line(error)})"
            advice = "give a safetensors file, or a state dict written by torch.save"
        raise InvalidInputError(f"checkpoint {str(path)!r}: {reason}; {advice}") from error


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(content, dict) and not _is_state_dict(content):
        inner = next((content[k] for k in _WRAPPERS if isinstance(content.get(k), dict)), None)
        if inner is None:
            break
        content = inner
    if not (isinstance(content, dict) and _is_state_dict(content)):
        found = sorted(map(str, content))[:5] if isinstance(content, dict) else type(content)
        raise InvalidInputError(
            f"checkpoint {str(path)!r}: no state dict (names to tensors) in it, but {found}; "
            f"save model.state_dict()"
        )
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return content


def _is_state_dict(content: dict[Any, Any]) -> bool:
    return bool(content) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    )


def _check(given: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], path: Path) -> None:
    missing = [
        name for name in expected if name not in given and not name.endswith("num_batches_tracked")
    ]
    unexpected = [name for name in given if name not in expected]
    common = [name for name in expected if name in given]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in common
        if given[name].shape != expected[name].shape
    ]
    types = [
        f"{name} {given[name].dtype} instead of {expected[name].dtype}"
        for name in common
        if expected[name].is_floating_point() and not given[name].is_floating_point()
    ]
    problems = [
        _few("missing", missing),
        _few("unexpected", unexpected),
        _few("of another shape", shapes),
        _few("of another type", types),
    ]
    if any(problems):
        advice = "choose the architecture (and its options) that the file was saved from"
        if shapes and len(shapes) <= 2 and not missing and not unexpected:
            advice += "; for another number of classes add (num_classes=…) after its name"
        raise InvalidInputError(
            f"checkpoint {str(path)!r} does not fit the network: "
            f"{'; '.join(filter(None, problems))}; {advice}"
        )


def _few(label: str, names: list[str], limit: int = 3) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > limit else ""
    return f"{len(names)} {label}: {', '.join(names[:limit])}{more}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
