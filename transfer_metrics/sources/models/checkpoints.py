"""Weights from a local file into a network, strictly and without running anything in the file."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError, first_line, warn
from transfer_metrics.files import sha256_of
from transfer_metrics.sources.tasks.array_files import read_torch

_EXTRA = "_extra_state"
_LONGEST = 1000
"""Letters of a name beyond which a tensor is nobody's."""
# Of two that fit alike the one that their authors evaluate: the average over training, which is
# what a teacher is too, and of MoCo's and BYOL's pairs the encoder that was trained.
_PREFERRED = ("ema", "teacher", "encoder_q", "base_encoder", "online")
_COUNTERS = ("num_batches_tracked", "n_averaged")


def load_checkpoint(
    module: nn.Module,
    path: str | Path,
    remake: Callable[[int], nn.Module] | None = None,
    heads: Sequence[str] = (),
) -> tuple[nn.Module, str]:
    """Load a safetensors file or a state dict into a network, in place.

    The weights are taken from the prefix under which most tensors of the network are;
    ``file.pth#teacher`` says which where there are several. All tensors must be there with their
    shapes, or nothing is loaded. Excepted are counters of batches, buffers of whole numbers such as
    positions, the second of two tied weights, and a classifier that is absent as a whole: the
    identity takes its place, so that random logits pass for nothing. What belongs to something
    else, such as a queue or a projection head, is left out, and warned of like all that a file
    lacks.

    ``remake`` makes the network for another number of classes, where the file differs in nothing
    else; ``heads`` are the paths of the classifiers, or where they would be in a network made
    without. Returned are the network, and ``"sha256:"`` with 12 digits of the file's hash.
    """
    path, part = _place(path)
    content = _read(path)
    tensors = _flattened(content)
    if not tensors:
        held = sorted(map(str, content))[:5] if isinstance(content, dict) else type(content)
        raise InvalidInputError(
            f"checkpoint {str(path)!r}: no state dict (names to tensors) in it, but {held}; "
            f"save model.state_dict()"
        )
    expected = module.state_dict()
    body = {n: t for n, t in expected.items() if not (_is_below(n, heads) or _is_minor(n))}
    found = _find_weights(tensors, body or expected, str(path), part)
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
    return module, f"sha256:{sha256_of(path)[:12]}"


def _with_versions(given: Mapping[str, torch.Tensor], module: nn.Module) -> Mapping[str, Any]:
    """The same with the versions of a network's own modules, which files do not tell."""
    state = OrderedDict(given)
    # Not of torch's, of which a newer one asks for more, such as num_batches_tracked.
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
            reason = f"it cannot be read ({first_line(error)})"
            advice = "give a safetensors file, or a state dict written by torch.save"
        raise InvalidInputError(f"checkpoint {str(path)!r}: {reason}; {advice}") from error


def _other_classes(given: Mapping[str, Any], expected: Mapping[str, Any]) -> int | None:
    """The number of classes of a file that fits but for that; None otherwise."""
    sizes = [
        (given[name].shape, tensor.shape)
        for name, tensor in expected.items()
        if name in given
        and isinstance(tensor, torch.Tensor)
        and not _same_shape(given[name], tensor)
    ]
    if not sizes or any(a[1:] != b[1:] or not a or not b for a, b in sizes):
        return None
    count, *others = {(a[0], b[0]) for a, b in sizes}
    return None if others else count[0]


def _is_below(name: str, paths: Sequence[str]) -> bool:
    """Whether a tensor is of a module at one of some paths."""
    return any(name.startswith(f"{path}.") for path in paths)


def _is_minor(name: str) -> bool:
    """Whether nobody misses a tensor: counters, and extra states, of which not all are tensors."""
    return name.rpartition(".")[2] in (*_COUNTERS, _EXTRA)


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
        and not (name not in parameters and _holds_whole_numbers(tensor))
    ]
    common = [n for n, t in needed.items() if n in given and isinstance(t, torch.Tensor)]
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(needed[name].shape)}"
        for name in common
        if not _same_shape(given[name], needed[name])
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


def _holds_whole_numbers(tensor: Any) -> bool:
    is_tensor = isinstance(tensor, torch.Tensor)
    return is_tensor and not (tensor.is_floating_point() or tensor.is_complex())


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


def _few(label: str, names: Sequence[str]) -> str:
    more = ", …" if len(names) > 3 else ""
    return f"{len(names)} {label}: {', '.join(names[:3])}{more}" if names else ""


@dataclass(frozen=True)
class _Found:
    """All tensors under the prefix, by the network's own names, and the names of all others.

    ``lead`` is what the network's names begin with beyond those of the file.
    """

    prefix: str
    lead: str
    weights: dict[str, Any]
    others: list[str]


def _flattened(content: Any, lead: str = "") -> dict[str, Any]:
    """All tensors in a file by their names, with those of the levels above and dots between.

    What has numbers for names, as the state of an optimizer does, is left out.
    """
    found: dict[str, Any] = {}
    if isinstance(content, (list, tuple)):
        content = {str(i): part for i, part in enumerate(content)}
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(value, torch.Tensor) or key == _EXTRA or str(key).endswith(f".{_EXTRA}"):
                found[f"{lead}{key}"] = value
            elif isinstance(key, str):
                found |= _flattened(value, f"{lead}{key}.")
    return found


def _find_weights(
    tensors: Mapping[str, Any], wanted: Mapping[str, torch.Tensor], where: str, part: str = ""
) -> _Found:
    """The tensors under the prefix under which most of those that are wanted are.

    Where several fit alike, one that is an average (``ema``) or a teacher counts, or MoCo's
    ``encoder_q``, with a warning; where that does not tell them apart, they are refused. With
    ``part``, a word such as ``teacher`` that the prefix must have, the others are no news.
    """
    fits: dict[str, list[int]] = {}
    lead = ""
    for own in _leads(wanted):
        short = {name[len(own) :]: tensor for name, tensor in wanted.items()}
        counted = _counted(tensors, short, part)
        if max(counted.values(), default=[]) > max(fits.values(), default=[]):
            fits, lead = counted, own
    if part and not fits:
        tops = dict.fromkeys(name.partition(".")[0] for name in tensors)
        raise InvalidInputError(
            f"checkpoint {where!r}: no weights of the network under {part!r}; it has "
            f"{', '.join(list(tops)[:8])}"
        )
    best = max(fits.values(), default=[])
    tied = [prefix for prefix, fit in fits.items() if fit == best] or [""]
    prefix = tied[0] if _equal(tensors, wanted, tied) else _chosen(tied, where)
    weights = {f"{lead}{n[len(prefix) :]}": t for n, t in tensors.items() if n.startswith(prefix)}
    rejected = tuple(other for other in tied if other != prefix)
    others = [
        name
        for name in tensors
        if not (part or name.startswith(prefix))
        and not any(name.startswith(r) and (r or name in wanted) for r in rejected)
    ]
    return _Found(prefix, lead, weights, others)


def _same_shape(a: Any, b: Any) -> bool:
    return nn.parameter.is_lazy(b) or a.shape == b.shape  # a lazy one may have any


def _leads(wanted: Iterable[str]) -> list[str]:
    """What all names of a network begin with, none first: files are often of what it wraps."""
    names, leads = list(wanted), [""]
    while names and all("." in name for name in names):
        first = {name.partition(".")[0] for name in names}
        if len(first) > 1:
            break
        names = [name.partition(".")[2] for name in names]
        leads.append(f"{leads[-1]}{first.pop()}.")
    return leads


def _counted(
    tensors: Mapping[str, Any], wanted: Mapping[str, torch.Tensor], part: str
) -> dict[str, list[int]]:
    """How many tensors have the right shape, and the right name, under each prefix."""
    fits: dict[str, list[int]] = {}
    for name, tensor in tensors.items():
        if len(name) > _LONGEST:
            continue
        for start in (0, *(found.end() for found in re.finditer(r"\.", name))):
            prefix, rest = name[:start], name[start:]
            if rest in wanted and (not part or part in prefix.split(".")):
                fit = fits.setdefault(prefix, [0, 0])
                fit[0] += _same_shape(tensor, wanted[rest])
                fit[1] += 1
    return fits


def _chosen(tied: Sequence[str], where: str) -> str:
    shown = [repr(prefix.rstrip(".")) for prefix in tied]
    for word in _PREFERRED:
        # A part of the prefix, such as encoder_q, or a word of one.
        hits = [p for p in tied if word in (*p.split("."), *re.split(r"[._]", p))]
        if len(hits) == 1:
            others = " or ".join(f"{where}#{_part(p, tied)}" for p in tied if p != hits[0])
            used = "the average" if word == "ema" else repr(hits[0].rstrip("."))
            warn(
                f"checkpoint {where!r} has weights that fit under {' and under '.join(shown)}; "
                f"{used} is used; for others write {others}"
            )
            return hits[0]
    raise InvalidInputError(
        f"checkpoint {where!r} has weights that fit under {' and under '.join(shown[:5])}; say "
        f"which, as in {where}#{_part(tied[0], tied)}"
    )


def _part(prefix: str, tied: Sequence[str]) -> str:
    """A word of a prefix that the others do not have."""
    others = {part for other in tied if other != prefix for part in other.split(".")}
    parts = [part for part in prefix.split(".") if part]
    return next((part for part in parts if part not in others), prefix.rstrip("."))


def _equal(tensors: Mapping[str, Any], wanted: Iterable[str], tied: Sequence[str]) -> bool:
    """Whether the same weights are under each of several prefixes."""
    first, *others = tied
    pairs = ((tensors.get(first + n), tensors.get(p + n)) for p in others for n in wanted)
    return all(
        isinstance(a, torch.Tensor)
        and isinstance(b, torch.Tensor)
        and a.dtype == b.dtype
        and torch.equal(a, b)
        for a, b in pairs
    )
