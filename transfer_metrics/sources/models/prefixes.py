"""Which tensors of a file are the weights of a network: those under the one prefix that fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from transfer_metrics.errors import InvalidInputError, warn

EXTRA = "_extra_state"
_LONGEST = 1000
# Of two that fit alike the one that their authors evaluate: the average over training, which is
# what a teacher is too, and of MoCo's and BYOL's pairs the encoder that was trained.
_PREFERRED = ("ema", "teacher", "encoder_q", "base_encoder", "online")


@dataclass(frozen=True)
class _Found:
    """The weights of a network in a file, by its own names, and the names of all other tensors.

    Whatever else is under the prefix is among the weights. ``lead`` is what the network's names
    begin with beyond those of the file.
    """

    prefix: str
    lead: str
    weights: dict[str, Any]
    others: list[str]


def flattened(content: Any, lead: str = "") -> dict[str, Any]:
    """All tensors in a file by their names, with those of the levels above and dots between.

    What has numbers for names, as the state of an optimizer does, is left out.

    >>> list(flattened({"state_dict": {"fc.bias": torch.zeros(1)}, "epoch": 3}))
    ['state_dict.fc.bias']
    """
    found: dict[str, Any] = {}
    if isinstance(content, (list, tuple)):
        content = {str(i): part for i, part in enumerate(content)}
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(value, torch.Tensor) or key == EXTRA or str(key).endswith(f".{EXTRA}"):
                found[f"{lead}{key}"] = value
            elif isinstance(key, str):
                found |= flattened(value, f"{lead}{key}.")
    return found


def find_weights(
    tensors: Mapping[str, Any], wanted: Mapping[str, torch.Tensor], where: str, part: str = ""
) -> _Found:
    """The tensors under the prefix under which most of those that are wanted are.

    Where several fit alike, one that is an average (``ema``) or a teacher counts, or MoCo's
    ``encoder_q``, with a warning; where that does not tell them apart, they are refused. With
    ``part``, a word such as ``teacher`` that the prefix must have, the others are no news.
    """
    fits: dict[str, list[int]] = {}
    own: dict[str, str] = {}
    for lead in _leads(wanted):
        short = {name[len(lead) :]: tensor for name, tensor in wanted.items()}
        counted = _counted(tensors, short, part)
        if not fits or max(counted.values(), default=[]) > max(fits.values()):
            fits, own = counted, dict.fromkeys(counted, lead)
    if part and not fits:
        tops = dict.fromkeys(name.partition(".")[0] for name in tensors)
        raise InvalidInputError(
            f"checkpoint {where!r}: no weights of the network under {part!r}; it has "
            f"{', '.join(list(tops)[:8])}"
        )
    best = max(fits.values(), default=[])
    tied = [prefix for prefix, fit in fits.items() if fit == best] or [""]
    prefix = tied[0] if _equal(tensors, wanted, tied) else _chosen(tied, where)
    lead = own.get(prefix, "")
    weights = {f"{lead}{n[len(prefix) :]}": t for n, t in tensors.items() if n.startswith(prefix)}
    rejected = tuple(other for other in tied if other != prefix)
    others = [
        name
        for name in tensors
        if not (part or name.startswith(prefix))
        and not any(name.startswith(r) and (r or name in wanted) for r in rejected)
    ]
    return _Found(prefix, lead, weights, others)


def same_shape(a: Any, b: Any) -> bool:
    """Whether two tensors have one shape; that of a lazy one is any."""
    return nn.parameter.is_lazy(b) or a.shape == b.shape


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
                fit[0] += same_shape(tensor, wanted[rest])
                fit[1] += 1
    return fits


def _chosen(tied: Sequence[str], where: str) -> str:
    shown = [repr(prefix.rstrip(".")) for prefix in tied]
    for word in _PREFERRED:
        hits = [prefix for prefix in tied if _has(prefix, word)]
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


def _has(prefix: str, word: str) -> bool:
    parts = prefix.split(".")
    return word in parts or any(word in part.split("_") for part in parts)


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
