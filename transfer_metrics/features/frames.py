"""Which frames of an audio model's layers are sound rather than padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transfer_metrics.sources.huggingface_audio import convolutions


def frame_masks(module: Any, mask: Tensor) -> dict[int, Tensor]:
    """The mask of a batch at every resolution in time, by its number of positions.

    A convolution shortens the sound and the padding behind it; so the masks of its output is
    that of the shortened length. For a network without such convolutions there is only ``mask``.

    Args:
        module: the network; its ``config`` tells kernels and strides.
        mask: (N, T), nonzero where the input is no padding.

    >>> from types import SimpleNamespace
    >>> network = SimpleNamespace(config=SimpleNamespace(conv_kernel=[3], conv_stride=[2]))
    >>> masks = frame_masks(network, torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]))
    >>> masks[3].tolist()
    [[1, 1, 1], [1, 0, 0]]
    """
    masks = {mask.shape[1]: mask}
    lengths, total = mask.bool().sum(1), mask.shape[1]
    for kernel, stride, padding in convolutions(getattr(module, "config", None)):
        lengths = (lengths + 2 * padding - kernel).div(stride, rounding_mode="floor") + 1
        total = (total + 2 * padding - kernel) // stride + 1
        positions = torch.arange(total, device=mask.device)
        masks[total] = (positions < lengths[:, None]).to(mask.dtype)
    return masks
