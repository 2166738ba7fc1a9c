"""Where two forward passes over the same examples part, and when features count as the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from transfer_metrics.features.forward import Forward
from transfer_metrics.sources.models.classifier import tensors_in
from transfer_metrics.sources.models.modules import every_call, is_quantised


def parting(forward: Forward, first: Sequence[int], second: Sequence[int]) -> str:
    """Where a batch, and another with some of its examples, first differ; empty if not."""
    rows = [first.index(position) for position in second]
    try:
        one, other = _events(forward, first), _events(forward, second)
    except Exception:  # the network cannot take one of them, which is no difference
        return ""
    for (path, side, a), (also, _, b) in zip(one, other, strict=False):
        if path != also or not is_close(b, a[rows], 1e-3):
            kind = type(forward.model.module.get_submodule(path)).__name__
            title = f"layer {path!r} ({kind})" if path else f"the network ({kind}) itself"
            came = " (what enters it differs already)" if side == "enters" else ""
            return f": the first that differs is {title}{came}"
    return ""


def _events(forward: Forward, positions: Sequence[int]) -> list[tuple[str, str, Tensor]]:
    """What enters and leaves each module in turn, each example's tensors as four numbers."""
    found: list[tuple[str, str, Tensor]] = []

    def note(path: str, side: str, given: Any) -> None:
        for tensor in tensors_in(given):
            if tensor.ndim and len(tensor) == len(positions):
                rows = tensor.detach().double().reshape(len(tensor), -1)
                alternating = torch.arange(rows.shape[1], device=rows.device) % 2 * 2 - 1
                means = rows.mean(1), (rows * alternating).mean(1)
                numbers = (*means, rows.std(1, False), rows.amax(1))
                found.append((path, side, torch.stack(numbers, 1).cpu()))
                return

    with every_call(
        forward.model.module,
        enter=lambda path, _module, args, _kwargs: note(path, "enters", args),
        leave=lambda path, _module, _args, output: note(path, "leaves", output),
    ):
        forward.run(positions)
    return found


def tolerance_of(forward: Forward) -> float:
    """Rounding through as many layers as networks have, of the size of the features."""
    module = forward.model.module
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    half = weight is not None and weight.dtype in (torch.float16, torch.bfloat16)
    if is_quantised(module):
        return 0.5
    if forward.amp or half:
        return 0.2
    # Where products may be of ten bits.
    return 0.02 if weight is not None and weight.is_cuda else 1e-3


def is_close(a: Tensor, b: Tensor, tolerance: float, least: float = 0.0) -> bool:
    """Whether two matrices differ by less than a share of their typical and their own entries."""
    if a.shape != b.shape:
        return False
    near = (a - b).abs() <= tolerance * (typical(b) + b.abs()) + least
    return bool((near | (a.isnan() & b.isnan()) | (a == b)).all())


def typical(rows: Tensor) -> float:
    """Root mean square of the entries that are finite."""
    return float(rows[rows.isfinite()].square().mean().nan_to_num().sqrt())
