"""Which module of a network is its classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from transfer_metrics.errors import LayerNotFoundError


def check_head(module: nn.Module, head: str) -> str:
    """Return ``head`` when ``module`` has a submodule of that name.

    Raises:
        LayerNotFoundError: it has none; with suggestions.
    """
    names = [name for name, _ in module.named_modules() if name]
    if head not in names:
        raise LayerNotFoundError.of("head", head, names)
    return head


def configured_head(module: nn.Module, config: Mapping[str, Any]) -> str | None:
    """The classifier that a ``pretrained_cfg`` names, where the network has it with weights."""
    head = next(iter(configured_heads(config)), None)
    if not isinstance(head, str):
        return None
    return with_weights(module, check_head(module, head))


def configured_heads(config: Mapping[str, Any]) -> tuple[str, ...]:
    """All classifiers that a ``pretrained_cfg`` names; distilled networks have two."""
    named = config.get("classifier")
    return tuple(named) if isinstance(named, (tuple, list)) else (named,) if named else ()


def with_weights(module: nn.Module, head: str | None) -> str | None:
    """The head where it has weights: one that a checkpoint lacks has become the identity."""
    has = head is not None and any(True for _ in module.get_submodule(head).parameters())
    return head if has else None


def last_linear(module: nn.Module, outputs: int | None = None) -> str | None:
    """The last fully connected layer or 1x1 convolution in order of registration.

    Args:
        module: the network.
        outputs: count only layers with so many outputs.

    >>> last_linear(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.Softmax(1)))
    '2'
    """
    found = None
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            width = part.out_features
        elif isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1):
            width = part.out_channels
        else:
            continue
        if name and outputs in (None, width):
            found = name
    return found


def proven_head(module: nn.Module, batch: torch.Tensor) -> str | None:
    """The last linear layer, where its output is what the network returns.

    One forward pass decides: the two have one shape, and the entries of each row the same order,
    so that a softmax after the classifier does not hide it while the last layer of a network
    without classifier is not mistaken for one.
    """
    head = last_linear(module)
    if head is None:
        return None
    seen: list[torch.Tensor] = []
    handle = module.get_submodule(head).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.detach().clone())
    )
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.inference_mode():
            output = module(batch)
    except Exception:  # a network that cannot take the guessed input simply has no proven head
        return None
    finally:
        handle.remove()
        for part in training:
            part.training = True
    if not seen or not isinstance(output, torch.Tensor):
        return None
    logits = seen[-1].flatten(1)
    if output.ndim != 2 or output.shape != logits.shape:
        return None
    same = torch.equal(output, logits) or torch.equal(output.argsort(1), logits.argsort(1))
    return head if same else None
