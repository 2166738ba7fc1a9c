"""Which modules compute, and which only make or hold the weights of one that does."""

from __future__ import annotations

from torch import nn

_HOLDERS = ("parametrizations", "_packed_params", "_all_weight_values")


def is_leaf(module: nn.Module) -> bool:
    """Whether no other module computes a part of its output.

    >>> is_leaf(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    True
    """
    return all(name in _HOLDERS for name, _ in module.named_children())


def holds_weights(path: str) -> bool:
    """Whether a module is a part of a leaf, whose output are weights rather than features.

    >>> holds_weights("fc.parametrizations.weight.0"), holds_weights("fc")
    (True, False)
    """
    return any(part in _HOLDERS for part in path.split("."))


def matrices(module: nn.Module) -> int:
    """Weights of two or more axes: those that are quantised count, of what makes one only one.

    >>> matrices(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)))
    1
    """
    tensors = sum(p.ndim >= 2 for name, p in module.named_parameters() if not _makes(name))
    return tensors + sum(map(_is_packed, module.modules()))


def _makes(name: str) -> bool:
    """Whether a parameter is one of several that a weight is made from, and not the first."""
    _, parametrised, rest = name.rpartition("parametrizations.")
    first = rest.endswith((".original", ".original0"))
    return (bool(parametrised) and not first) or name.endswith("weight_g")


def is_quantised(module: nn.Module) -> bool:
    """Whether some weights are of eight bits, and with them the rounding of what is computed."""
    return any(map(_is_packed, module.modules()))


def _is_packed(module: nn.Module) -> bool:
    """Whether its weights are packed rather than parameters."""
    of = type(module)
    return ".quantized" in of.__module__ and (hasattr(of, "weight") or hasattr(of, "get_weight"))
