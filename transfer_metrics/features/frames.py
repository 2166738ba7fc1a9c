"""Which frames of an audio model's layers are sound rather than padding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from transfer_metrics.sources.models.huggingface_audio import convolutions


def frame_masks(module: Any, mask: Tensor) -> dict[int, Tensor]:
    """The mask of a batch at every resolution in time, by its number of positions.

    A convolution shortens the sound and the padding behind it; so the mask of its output is
    that of the shortened length. For a network without such convolutions there is only ``mask``.

    Args:
        module: the network; its ``config``, or that of the first part with one, tells kernels and
            strides.
        mask: (N, T), nonzero where the input is no padding.

    >>> from types import SimpleNamespace
    >>> network = SimpleNamespace(config=SimpleNamespace(conv_kernel=[3], conv_stride=[2]))
    >>> masks = frame_masks(network, torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0]]))
    >>> masks[3].tolist()
    [[1, 1, 1], [1, 0, 0]]
    """
    parts = module.modules() if isinstance(module, nn.Module) else [module]
    config = next((part.config for part in parts if hasattr(part, "config")), None)
    masks = {mask.shape[1]: mask}
    lengths, total = mask.bool().sum(1), mask.shape[1]
    for kernel, stride, padding in convolutions(config):
        lengths = (lengths + 2 * padding - kernel).div(stride, rounding_mode="floor") + 1
        total = (total + 2 * padding - kernel) // stride + 1
        masks[total] = _mask(lengths, total, mask.dtype)
    if getattr(config, "num_conv_pos_embeddings", 1) % 2 == 0:
        # A convolution of even width for the positions adds a frame, which is cut off again.
        masks.setdefault(total + 1, _mask(lengths + 1, total + 1, mask.dtype))
    return masks


def _mask(lengths: Tensor, total: int, dtype: torch.dtype) -> Tensor:
    """(N, total) with ones up to the length of each."""
    return (torch.arange(total, device=lengths.device) < lengths[:, None]).to(dtype)
