"""Which parameters of a network are trained, and which of its modules run in training mode."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from transfer_metrics.errors import InvalidInputError, LayerNotFoundError

Freeze = str | Sequence[str]


def choose_parameters(network: nn.Module, freeze: Freeze = "none") -> dict[str, nn.Parameter]:
    """Switch gradients on for what is trained and off for what is frozen.

    Args:
        network: a ``TransferNet``, or any module where nothing is frozen.
        freeze: ``"none"``; ``"backbone"``; names of its modules or parameters, with wildcards.

    Returns:
        What is trained, by name.

    Raises:
        LayerNotFoundError: a name that matches nothing.
        InvalidInputError: everything is frozen.

    >>> network = nn.Module()
    >>> network.backbone, network.head = nn.Linear(3, 2), nn.Linear(2, 2)
    >>> list(choose_parameters(network, "backbone"))
    ['head.weight', 'head.bias']
    """
    frozen = _frozen(network, freeze)
    trained = {}
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(name not in frozen)
            if name not in frozen:
                trained[name] = parameter
    if not trained:
        raise InvalidInputError(f"freeze={freeze!r} leaves nothing to train")
    return trained


def set_modes(network: nn.Module, batch_norm: str = "train", freeze: Freeze = "none") -> None:
    """Training mode, except for batch normalisation if wanted, and for what is frozen."""
    network.train()
    if freeze == "backbone":
        network.get_submodule("backbone").eval()
        return
    frozen = _frozen(network, freeze)
    for path, module in network.named_modules():
        own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
        normalises = batch_norm == "eval" and isinstance(module, _NormBase)
        if normalises or (own and frozen.issuperset(own)):
            module.eval()


def _frozen(network: nn.Module, freeze: Freeze) -> set[str]:
    """Names of the parameters that are not trained."""
    if freeze == "none":
        return set()
    prefix = "backbone."
    names = [name for name, _ in network.named_parameters() if name.startswith(prefix)]
    if freeze == "backbone":
        return set(names)
    frozen: set[str] = set()
    for pattern in [freeze] if isinstance(freeze, str) else freeze:
        found = {
            name
            for name in names
            if fnmatch.fnmatchcase(name.removeprefix(prefix), pattern)
            or fnmatch.fnmatchcase(name.removeprefix(prefix), f"{pattern}.*")
        }
        if not found:
            known = [name.removeprefix(prefix) for name in names]
            raise LayerNotFoundError.of("parameter to freeze", pattern, known)
        frozen |= found
    return frozen
