"""Operations of a forward pass, and numbers that it writes: what can be counted on any machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The place that PyTorch's notes on extending it name; there is no other.
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from transfer_metrics.sources.models.classifier import tensors_in


class Operations(TorchDispatchMode):
    """Counts what runs inside, by the rules of torch's ``FlopCounterMode``.

    That one counts the same ``multiplied``: convolutions, matrix products and attention. It loads
    torch's compiler on the way, which takes longer than a hundred passes of a small network.
    ``written`` are the numbers that operations write; those that only look at some write none.

    >>> import torch
    >>> x = torch.ones(1, 3)
    >>> with Operations() as counted:
    ...     _ = (x @ x.T).view(-1)
    >>> counted.multiplied, counted.written
    (6, 1)
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiplied = self.written = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is nothing to skip, and to say so torch would load the compiler

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # what a function is made of, such as the product in a linear layer
            output = func.decompose(*args, **kwargs)
        if output is not NotImplemented:
            return output
        output = func(*args, **kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.multiplied += int(count(*args, **kwargs, out_val=output))
        aliases = [one.alias_info for one in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):
            self.written += sum(tensor.numel() for tensor in tensors_in(output))
        return output
