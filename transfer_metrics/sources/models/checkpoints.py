"""Weights from a local file into a network, strictly and without running anything in the file."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.sources.models.prefixes import EXTRA, find_weights, flattened, same_shape
from transfer_metrics.untrusted import DEEPEST, check_unpacked

_MOST_PARTS = 10_000_000
_COUNTERS = ("num_batches_tracked", "n_averaged")


def load_checkpoint(
    module: nn.Module,
    path: str | Path,
    remake: Callable[[int], nn.Module] | None = None,
    heads: Sequence[str] = (),
) -> tuple[nn.Module, str]:
    """Load a safetensors file or a state dict into a network, in place.

    The weights are looked for under every prefix, such as ``state_dict.model.`` of Lightning,
    ``module.encoder_q.`` of MoCo or ``teacher.backbone.`` of DINO, and taken from the one under
    which most tensors of the network are; ``file.pth#teacher`` says which where there are several.
    All tensors must be there with their shapes, or nothing is loaded. Excepted are counters of
    batches, buffers of whole numbers such as positions, the second of two tied weights, and a
    classifier that is absent as a whole: the identity takes its place, so that random logits pass
    for nothing. What belongs to something else, such as a criterion, a queue or a projection head,
    is left out, and warned of like all that a file lacks. Values are cast to the types of the
    parameters.

    Args:
        module: the network.
        path: ``.safetensors``, or a file that ``torch.load(weights_only=True)`` reads; with
            ``#part`` for a part of it.
        remake: the same network for another number of classes; used where the file differs from
            ``module`` in nothing else.
        heads: paths of the classifiers, or where they would be in a network made without.

    Returns:
        The network, and ``"sha256:"`` with the first 12 digits of the file's hash.
    """
    path, part = _place(path)
    content = _read(path)
    tensors = flattened(content)
    if not tensors:
        held = sorted(map(str, content))[:5] if isinstance(content, dict) else type(content)
        raise InvalidInputError(
            f"checkpoint {str(path)!r}: no state dict (names to tensors) in it, but {held}; "
            f"save model.state_dict()"
        )
    expected = module.state_dict()
    body = {n: t for n, t in expected.items() if not (_is_below(n, heads) or _is_minor(n))}
    found = find_weights(tensors, body or expected, str(path), part)
    count = _other_classes(found.weights, expected)
    if count is not None and remake is not None:
        module = remake(count)
        expected = module.state_dict()
    own = [name for name in expected if _is_below(name, heads)]
    absent = heads if own and not any(name in found.weights for name in own) else ()
    needed = {n: t for n, t in expected.items() if not _is_below(n, absent)}
    # A network that was made without classifier has no need of the file's.
    area = [_widest(head, heads, expected) for head in absent] if own else list(heads)
    # What the network keeps in no file (positions, masks) may be there from when it did.
    known = {*expected, *(name for name, _ in module.named_buffers())}
    foreign = [n for n in found.weights if n not in known and not _is_minor(n)]
    inside = _parts_of(module, found.lead)
    strange = [n for n in foreign if not _is_below(n, area) and inside(n)]
    _check(found.weights, needed, strange, module, path)
    given = {name: tensor for name, tensor in found.weights.items() if name in needed}
    module.load_state_dict(_with_versions(given, module), strict=False)
    ours = [name for name in foreign if own or not _is_below(name, heads)]
    left = [found.prefix + name.removeprefix(found.lead) for name in ours]
    left += [name for name in found.others if not _is_minor(name)]
    _tell(path, absent, left)
    for head in absent:
        module.set_submodule(head, nn.Identity())
    with path.open("rb") as file:
        return module, f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


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


def _place(given: str | Path) -> tuple[Path, str]:
    """A file, and the part of it that is named after ``#``."""
    path = Path(given).expanduser()
    place, mark, part = str(path).rpartition("#")
    if not os.path.isfile(path) and mark and os.path.isfile(place):
        return Path(place), part.strip()
    if not os.path.isfile(path):
        raise InvalidInputError(
            f"checkpoint {str(path)!r}: there is no such file; check the path, and put one with a "
            f"comma or a bracket in it in quotes"
        )
    return path, ""


def _read(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return read_torch(path)
    except Exception as error:  # each reader has exceptions of its own for damaged files
        if "TorchScript" in str(error):
            reason = "it is a scripted network, which is a program and not only weights"
            advice = "save its state_dict() as safetensors and load that"
        elif "weights_only" in str(error) or "Weights only" in str(error):
            reason = "it holds pickled Python objects besides tensors, which are never executed"
            advice = "save model.state_dict() as safetensors and load that"
        else:
            reason = f"it cannot be read ({_first_line(error)})"
            advice = "give a safetensors file, or a state dict written by torch.save"
        raise InvalidInputError(f"checkpoint {str(path)!r}: {reason}; {advice}") from error


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, where it holds tensors, numbers and texts only.

    An archive may unpack to as much as ``untrusted.check_unpacked`` allows, and so may tensors
    that repeat few numbers many times. Errors are of many kinds.
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


def _other_classes(given: Mapping[str, Any], expected: Mapping[str, Any]) -> int | None:
    """The number of classes of a file that fits but for that; None otherwise."""
    sizes = [
        (given[name].shape, tensor.shape)
        for name, tensor in expected.items()
        if name in given
        and isinstance(tensor, torch.Tensor)
        and not same_shape(given[name], tensor)
    ]
    if not sizes or any(a[1:] != b[1:] or not a or not b for a, b in sizes):
        return None
    counts = {(a[0], b[0]) for a, b in sizes}
    return next(iter(counts))[0] if len(counts) == 1 else None


def _is_below(name: str, paths: Sequence[str]) -> bool:
    """Whether a tensor is of a module at one of some paths."""
    return any(name.startswith(f"{path}.") for path in paths)


def _is_minor(name: str) -> bool:
    """Whether nobody misses a tensor: counters, and extra states, of which not all are tensors."""
    return name.rpartition(".")[2] in (*_COUNTERS, EXTRA)


def _widest(head: str, heads: Sequence[str], expected: Mapping[str, Any]) -> str:
    """The path of the classifier, or above it, that has no other weights."""
    above = head.rpartition(".")[0]
    while above and all(_is_below(n, heads) for n in expected if _is_below(n, [above])):
        head, above = above, above.rpartition(".")[0]
    return head


def _parts_of(module: nn.Module, lead: str) -> Callable[[str], bool]:
    """Tells whether a tensor that the network lacks would be in a part of it: then they differ."""
    names = {name for name, _ in module.get_submodule(lead.rstrip(".")).named_children()}
    numbered = all(name.isdigit() for name in names)

    def inside(name: str) -> bool:
        first, dot, _ = name.removeprefix(lead).partition(".")
        return bool(dot) and (first in names or (numbered and first.isdigit()))

    return inside


def _check(
    given: Mapping[str, Any],
    needed: Mapping[str, Any],
    strange: Sequence[str],
    module: nn.Module,
    path: Path,
) -> None:
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    tied = {_memory(t) for n, t in needed.items() if n in given and n in parameters}
    missing = [
        name
        for name, tensor in needed.items()
        if name not in given
        and name.rpartition(".")[2] not in _COUNTERS
        and not (name in parameters and _memory(tensor) in tied)
        and not (name not in parameters and _is_whole(tensor))
    ]
    common = [n for n, t in needed.items() if n in given and isinstance(t, torch.Tensor)]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(needed[name].shape)}"
        for name in common
        if not same_shape(given[name], needed[name])
    ]
    types = [
        f"{name} {given[name].dtype} instead of {needed[name].dtype}"
        for name in common
        if needed[name].is_floating_point() and not given[name].is_floating_point()
    ]
    problems = [
        _few("missing", missing),
        _few("unexpected", strange),
        _few("of another shape", shapes),
        _few("of another type", types),
    ]
    if any(problems):
        advice = "choose the architecture (and its options) that the file was saved from"
        if shapes and len(shapes) <= 2 and not missing and not strange:
            advice += f"; {_hint(shapes[0])}"
        raise InvalidInputError(
            f"checkpoint {str(path)!r} does not fit the network, of which it has "
            f"{len(common) - len(shapes)} of {len(needed)} tensors: "
            f"{'; '.join(filter(None, problems))}; {advice}"
        )


def _hint(shape: str) -> str:
    """An option that may mend one tensor of another shape."""
    if "pos" in shape.partition(" ")[0]:
        return "for another size of the images add (img_size=…) after its name in timm"
    if "conv" in shape or "patch" in shape or "stem" in shape:
        return "for images of other channels add (in_chans=…) after its name in timm"
    return "for another number of classes add (num_classes=…) after its name"


def _memory(tensor: Any) -> Any:
    """Where the numbers of a tensor are: tied ones are in one place."""
    if not isinstance(tensor, torch.Tensor) or nn.parameter.is_lazy(tensor) or not tensor.numel():
        return id(tensor)
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _is_whole(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and not (
        tensor.is_floating_point() or tensor.is_complex()
    )


def _tell(path: Path, absent: Sequence[str], left: list[str]) -> None:
    told = []
    if absent:
        told.append(
            f"has no weights of the classifier {' and '.join(absent)}, so the model has no source "
            f"logits, which LEEP and its kin need"
        )
    if left:
        told.append(f"has tensors that the network has no place for, {_few('left out', left)}")
    if told:
        warn(f"checkpoint {str(path)!r} {'; it '.join(told)}")


def _few(label: str, names: Sequence[str], limit: int = 3) -> str:
    if not names:
        return ""
    more = ", …" if len(names) > limit else ""
    return f"{len(names)} {label}: {', '.join(names[:limit])}{more}"


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
