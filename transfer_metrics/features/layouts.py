"""What the axes of an output mean: by its shape, how it lies in memory, and what made it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

MAP_LEAVES = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
_SEQUENCE_LEAVES = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.GroupNorm)
TURNED = {"NCHW": "NHWC", "NHWC": "NCHW", "NCT": "NTC", "NTC": "NCT"}
"""What the axes mean once channels are moved to the end, or to the front."""


class _Given(Protocol):
    """What went into a call."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Without the batch axis."""

    @property
    def layout(self) -> str | None:
        """What its axes mean, where that is known."""


def memory_of(tensor: Tensor | None) -> tuple[int, ...]:
    """Where a tensor lies, and its strides."""
    strided = tensor is not None and tensor.layout is torch.strided and not tensor.is_nested
    return (tensor.data_ptr(), *tensor.stride()) if strided and tensor is not None else ()


def is_turned(left: tuple[int, ...], entered: tuple[int, ...]) -> bool:
    """Whether what left is what entered with its axes in another order."""
    return left[:1] == entered[:1] and left != entered and sorted(left) == sorted(entered)


def reads_last(module: nn.Module) -> bool:
    """Whether channels are the last axis of what a module gives, whatever its size is."""
    forward = type(module).forward
    if forward is nn.LayerNorm.forward:
        return len(module.normalized_shape) == 1  # type: ignore[arg-type]
    return forward is nn.Linear.forward


def of_cube(tensor: Tensor, begun: _Given, leaf: nn.Module | None) -> str | None:
    """What the axes of an output mean that has as many channels as rows and columns.

    Sizes say nothing there. It is as in memory where it was turned around, else what entered in the
    same shape, as in a block with a shortcut, and else what the last module inside makes.
    """
    shape = tuple(tensor.shape[1:])
    if len(set(shape)) > 1 or not (strides := memory_of(tensor)[2:]):
        return None
    if strides[0] < min(strides[1:]):
        return "NCHW"
    if strides[1] < min(strides[::2]):
        return "NHWC"
    if begun.layout in TURNED and begun.shape == shape:
        return begun.layout
    return "NHWC" if leaf is not None and reads_last(leaf) else None


def of_square(
    shape: tuple[int, ...], memory: tuple[int, ...], around: _Given, leaf: nn.Module | None
) -> str | None:
    """What axes mean after a convolution that has as many channels as there are positions.

    Sizes say nothing there. It is turned around where it is so in memory, and else, as in a block
    with a shortcut, what entered in the same shape.
    """
    kind = getattr(leaf, "_FLOAT_MODULE", type(leaf))
    if len(shape) != 2 or shape[0] != shape[1] or not issubclass(kind, _SEQUENCE_LEAVES):
        return None
    if memory[2:] and memory[2] < memory[3]:
        return "NTC"
    return around.layout if around.shape == shape and around.layout in ("NCT", "NTC") else None


def layout_of(
    shape: tuple[int, ...], leaf: nn.Module | None, image_size: tuple[int, ...] | None = None
) -> str:
    """What the axes of an output mean, of which the shape does not have that of the batch.

    ``ND``; ``NTC``, or ``NCT`` where ``leaf``, the last module with own parameters that ran inside,
    is Conv1d or a norm of its channels; ``NHWC`` if the first two axes are in the image's
    proportions and the last two are not, else ``NCHW``. A LayerNorm whose channels are the first
    axis was given the output turned around.

    >>> layout_of((512, 7, 7), None), layout_of((7, 7, 768), None), layout_of((197, 768), None)
    ('NCHW', 'NHWC', 'NTC')
    """
    if len(shape) == 1:
        return "ND"
    kind = getattr(leaf, "_FLOAT_MODULE", type(leaf))  # what a quantised module stands for
    channels = getattr(leaf, "out_channels", getattr(leaf, "num_features", None))
    if len(shape) == 2:
        if isinstance(leaf, nn.GroupNorm):
            channels = leaf.num_channels
        elif isinstance(leaf, nn.LayerNorm) and shape[1] != leaf.normalized_shape[-1]:
            channels = leaf.normalized_shape[-1]
        known = issubclass(kind, (*_SEQUENCE_LEAVES, nn.LayerNorm)) and shape[0] == channels
        return "NCT" if known else "NTC"
    if issubclass(kind, MAP_LEAVES) and shape[0] == channels:
        return "NCHW"
    height, width = image_size or (1, 1)

    def fits(a: int, b: int) -> bool:
        # Strides round, so the proportions of a map that is not square hold to one row or column.
        return a == b if height == width else abs(a * width - b * height) <= max(height, width)

    return "NHWC" if fits(shape[0], shape[1]) and not fits(shape[1], shape[2]) else "NCHW"
