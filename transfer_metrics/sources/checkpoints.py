"""Weights from a local file into a network, strictly and without running anything in the file."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.untrusted import DEEPEST, check_unpacked

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network")
_MOST_PARTS, _MOST_PREFIXES = 10_000_000, 8
_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")


def load_checkpoint(
    module: nn.Module, path: str | Path, remake: Callable[[int], nn.Module] | None = None
) -> tuple[nn.Module, str]:
    """Load a safetensors file or a plain state dict into a network, in place.

    Names and shapes must match exactly, except that BatchNorm's ``num_batches_tracked`` may be
    missing. Values are cast to the types of the parameters, so float16 files are fine. Usual
    wrappings are taken off: ``{"state_dict": …}``, ``{"model": …}``, and what all names begin with,
    such as ``module.``, ``_orig_mod.`` or a trainer's ``model.``. Of weights and their moving
    average (``model_ema``, ``state_dict_ema``) the average is taken, as timm does it, with a
    warning.

    Args:
        module: the network.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads.
        remake: the same network for another number of classes; used where the file differs from
            ``module`` in nothing else.

    Returns:
        The network, and ``"sha256:"`` with the first 12 digits of the file's hash.

    Raises:
        InvalidInputError: the file is missing or unreadable, needs unpickling of more than
            tensors, or does not fit the network; nothing is loaded then.
    """
    path = Path(path).expanduser()
    if not os.path.isfile(path):
        raise InvalidInputError(f"checkpoint {str(path)!r}: there is no such file")
    expected = module.state_dict()
    given = _without_prefix(_unwrap(_read(path), path), expected)
    count = _other_classes(given, expected)
    if count is not None and remake is not None:
        module = remake(count)
        expected = module.state_dict()
    _check(given, expected, path)
    module.load_state_dict(_with_versions(given, module), strict=False)
    with path.open("rb") as file:
        return module, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return read_torch(path)
    except Exception as error:  # each reader has exceptions of its own for damaged files
        if "weights_only" in str(error) or "Weights only" in str(error):
            reason = "it holds pickled Python objects besides tensors, which are never executed"
            advice = "save model.state_dict() as safetensors and load that"
        else:
            reason = f"it cannot be read ({_first_line(error)})"
            advice = "give a safetensors file, or a state dict written by torch.save"
        raise InvalidInputError(f"checkpoint {str(path)!r}: {reason}; {advice}") from error


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, where it holds tensors, numbers and texts only.

    An archive may unpack to as much as ``untrusted.check_unpacked`` allows, and so may tensors
    that repeat few numbers many times.

    Raises:
        Exception: of many kinds, for what is damaged, too large, or would have to be executed.
    """
    packed = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_unpacked(sum(member.file_size for member in archive.infolist()), packed)
    content = torch.load(path, map_location="cpu", weights_only=True)
    check_unpacked(_bytes(content), packed)
    return content


def _bytes(content: Any) -> int:
    """Bytes of all tensors, each as often as it occurs."""
    total, level = 0, [content]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, torch.Tensor):
                total += value.numel() * value.element_size()
            elif isinstance(value, (dict, list, tuple, set)):
                inner += value.values() if isinstance(value, dict) else value
        if len(inner) > _MOST_PARTS:
            raise ValueError(f"it has more than {_MOST_PARTS} parts")
        level = inner
    if level:
        raise ValueError(f"it has more than {DEEPEST} levels")
    return total


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(content, dict) and not _is_state_dict(content):
        averages = [key for key in _AVERAGES if isinstance(content.get(key), dict)]
        weights = [key for key in _WRAPPERS if isinstance(content.get(key), dict)]
        if averages and weights:
            warnings.warn(
                f"checkpoint {str(path)!r} holds weights ({weights[0]!r}) and their moving average "
                f"({averages[0]!r}); the average is used",
                TransferMetricsWarning,
                stacklevel=2,
            )
        if not averages + weights:
            break
        content = content[(averages + weights)[0]]
    if not (isinstance(content, dict) and _is_state_dict(content)):
        found = sorted(map(str, content))[:5] if isinstance(content, dict) else type(content)
        raise InvalidInputError(
            f"checkpoint {str(path)!r}: no state dict (names to tensors) in it, but {found}; "
            f"save model.state_dict()"
        )
    return content


def _without_prefix(
    given: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights by the names of the network, less what parallel training and trainers prepend.

    >>> list(_without_prefix({"module.model.fc.bias": torch.zeros(1)}, {"fc.bias": torch.zeros(1)}))
    ['fc.bias']
    """
    own = {name.partition(".")[0] for name in expected}
    given = {name: tensor for name, tensor in given.items() if name != "n_averaged"}
    for _ in range(_MOST_PREFIXES):
        first = {name.partition(".")[0] for name in given}
        if len(first) != 1 or first & own:
            break
        shorter = {name.partition(".")[2]: tensor for name, tensor in given.items()}
        if not all(shorter):
            break
        given = shorter
    return given


def _other_classes(
    given: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> int | None:
    """The number of classes of a file that fits but for that; None otherwise."""
    sizes = [
        (given[name].shape, tensor.shape)
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    if not sizes or any(a[1:] != b[1:] or not a or not b for a, b in sizes):
        return None
    counts = {(a[0], b[0]) for a, b in sizes}
    return next(iter(counts))[0] if len(counts) == 1 else None


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
        if 0 < len(missing) <= 2 and not shapes and not unexpected:
            advice += "; if it has no classifier add (num_classes=0) after the name in timm"
        raise InvalidInputError(
            f"checkpoint {str(path)!r} does not fit the network: "
            f"{'; '.join(filter(None, problems))}; {advice}"
        )


def _with_versions(given: Mapping[str, torch.Tensor], module: nn.Module) -> Mapping[str, Any]:
    """The same with the versions of a network's own modules, which files do not tell.

    Those of torch are left out, since a newer one asks for more, such as ``num_batches_tracked``.
    """
    state = OrderedDict(given)
    state._metadata = {  # type: ignore[attr-defined]  # as state_dict() has it
        path: {"version": part._version}
        for path, part in module.named_modules()
        if not type(part).__module__.startswith("torch.")
    }
    return state


def _few(label: str, names: list[str], limit: int = 3) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > limit else ""
    return f"{len(names)} {label}: {', '.join(names[:limit])}{more}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
