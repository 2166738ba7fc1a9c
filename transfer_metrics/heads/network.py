"""A backbone, the layers that are read, and a linear head, as one module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.pooling import Pool, pool_for, resolve_pool
from transfer_metrics.sources.models.model import call_model, place


class TransferNet(nn.Module):
    """Logits of a linear head on pooled layers of a backbone, ready to train or to deploy.

    Layers are read by hooks that exist during a forward pass only. The backbone runs to its end,
    its own classifier included.

    Args:
        backbone: the network; it becomes part of this module and is not copied.
        layers: what is read, from ``list_layers`` on the same network.
        pool: how each output becomes one vector.
        head: maps the features side by side, in the order of the layers, to logits.
        columns: per layer the features that are used, in their order; all of a layer not named.
        unit_norm: scale what is used of each layer to length one; zero stays zero.

    Raises:
        InvalidInputError: the head's width is not the number of features, or a column is none.

    >>> from transfer_metrics.features.layers import list_layers
    >>> backbone = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> layers = list_layers(backbone, ["0", "last"], example=torch.zeros(2, 4))
    >>> network = TransferNet(backbone, layers, "avg", nn.Linear(12, 5))
    >>> network(torch.zeros(2, 4)).shape, network.features(torch.zeros(2, 4)).shape
    (torch.Size([2, 5]), torch.Size([2, 12]))
    """

    def __init__(
        self,
        backbone: nn.Module,
        layers: Sequence[Layer],
        pool: str | Pool | Callable[..., Tensor],
        head: nn.Linear,
        *,
        columns: Mapping[str, Any] | None = None,
        unit_norm: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.layers = tuple(layers)
        self.pool = resolve_pool(pool)
        self.unit_norm = unit_norm
        columns = columns or {}
        unknown = sorted(set(columns) - {layer.name for layer in self.layers})
        if unknown:
            raise InvalidInputError(f"columns of layers that are not read: {', '.join(unknown)}")
        width = 0
        for index, layer in enumerate(self.layers):
            chosen = columns.get(layer.name)
            if chosen is not None:
                chosen = torch.as_tensor(chosen, dtype=torch.int64)
                if chosen.ndim != 1 or not ((chosen >= 0) & (chosen < layer.dim)).all():
                    raise InvalidInputError(
                        f"columns of layer {layer.name!r} must be a list of numbers from 0 to "
                        f"{layer.dim - 1}"
                    )
            # Layer names have dots, which names of buffers may not.
            self.register_buffer(f"columns_{index}", chosen)
            width += layer.dim if chosen is None else len(chosen)
        if head.in_features != width:
            raise InvalidInputError(
                f"the head takes {head.in_features} features, but the layers give {width}"
            )

    def chosen_columns(self) -> dict[str, np.ndarray]:
        """Per layer the features that are used, for the layers of which not all are."""
        found = {}
        for index, layer in enumerate(self.layers):
            chosen = getattr(self, f"columns_{index}")
            if chosen is not None:
                found[layer.name] = chosen.cpu().numpy().copy()
        return found

    def forward(self, batch: Any) -> Tensor:
        """Logits (N, C) of what ``Model.batch`` gives: a tensor, or a mapping of keywords.

        Where words of sentences are the examples, N is the number of words.

        Raises:
            ExtractionError: the forward pass failed, or a layer did not run.
        """
        return self.head(self.features(batch))

    def features(self, batch: Any) -> Tensor:
        """What the head reads, (N, k).

        Raises:
            ExtractionError: the forward pass failed, or a layer did not run.
        """
        batch = place(batch, self.backbone)
        with LayerTaps(self.backbone, self.layers, pool_for(self.pool, batch)) as taps:
            call_model(self.backbone, batch)
            pooled = taps.collect()
        parts = []
        for index, layer in enumerate(self.layers):
            part, chosen = pooled[layer.name], getattr(self, f"columns_{index}")
            part = part if chosen is None else part[:, chosen]
            parts.append(_unit_length(part) if self.unit_norm else part)
        return torch.cat(parts, dim=1).to(self.head.weight.dtype)


def _unit_length(x: Tensor) -> Tensor:
    """Rows divided by their Euclidean length; zero rows stay zero, with gradient zero."""
    if not x.shape[1]:
        return x
    # The result does not depend on the scale, so the scale needs no gradient.
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    scaled = x / torch.where(largest > 0, largest, 1.0)
    norms = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return torch.where(largest > 0, scaled / torch.where(largest > 0, norms, 1.0), 0.0)


def linear_layer(weight: Any, bias: Any) -> nn.Linear:
    """A float32 linear layer with given weights (C, k) and bias (C,)."""
    weight = torch.as_tensor(weight, dtype=torch.float32)
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(torch.as_tensor(bias, dtype=torch.float32))
    return layer


def full_precision(module: nn.Module) -> nn.Module:
    """Turn half-precision weights into float32 in place; nothing else is changed."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor.data = tensor.data.float()
    return module
