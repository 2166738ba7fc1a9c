"""Where two runs of a network on the same examples part, if they do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from transfer_metrics.errors import ExtractionError
from transfer_metrics.features.few import load
from transfer_metrics.features.forward import Forward
from transfer_metrics.features.layers import place
from transfer_metrics.features.trace import call_model
from transfer_metrics.sources.models.classifier import tensors_in
from transfer_metrics.sources.models.modules import is_quantised

_REPEATS = 5
"""Times that random numbers get to show themselves."""


def tolerance_of(forward: Forward) -> float:
    """Rounding through as many layers as networks have, of the size of the features."""
    weight = next((p for p in forward.model.module.parameters() if p.is_floating_point()), None)
    half = weight is not None and weight.dtype in (torch.float16, torch.bfloat16)
    if is_quantised(forward.model.module):
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


def random_refusal(forward: Forward, few: Sequence[int]) -> ExtractionError:
    """The error for a network of which the same batch gives other features each time."""
    where = ""
    for _ in range(_REPEATS):
        where = where or _parting(forward, few, few)
    return ExtractionError(
        f"model {forward.model.name!r} gives other features whenever it reads the same "
        f"examples{where}; make it deterministic in evaluation mode, such as by "
        f"F.dropout(x, p, self.training), or take one draw of its features with "
        f"allow_random=True (--allow-random)"
    )


def company_refusal(forward: Forward, few: Sequence[int]) -> ExtractionError:
    """The error for a network that gives an example other features in another batch."""
    parted = (_parting(forward, few, some) for some in (few[1::-1], few[:0:-1], few[2:]))
    where = next(filter(None, parted), "")
    return ExtractionError(
        f"model {forward.model.name!r} gives an example other features in another batch{where}; "
        f"let it treat each example on its own, such as by a normalisation that keeps running "
        f"statistics"
    )


def _parting(forward: Forward, first: Sequence[int], second: Sequence[int]) -> str:
    """Where a batch, and another with some of its examples, first differ; empty if they do not."""
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
                rows = tensor.detach().double().flatten(1) if tensor.ndim > 1 else tensor[:, None]
                alternating = rows * (torch.arange(rows.shape[1], device=rows.device) % 2 * 2 - 1)
                numbers = (rows.mean(1), alternating.mean(1), rows.std(1, False), rows.amax(1))
                found.append((path, side, torch.stack(numbers, 1).cpu()))
                return

    handles = []
    for path, module in forward.model.module.named_modules():
        enters, leaves = partial(note, path, "enters"), partial(note, path, "leaves")
        # Script modules refuse the methods of their own, though the hooks run.
        handles += [
            nn.Module.register_forward_pre_hook(module, lambda _m, given, f=enters: f(given)),
            nn.Module.register_forward_hook(module, lambda _m, _given, given, f=leaves: f(given)),
        ]
    try:
        call_model(forward.model, place(load(forward, positions), forward.model.module))
    finally:
        for handle in handles:
            handle.remove()
    return found
