"""How many tokens a text network of transformers takes at a time, and in what steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import nn

# What the configurations call the length that the network was built or trained for.
_LENGTHS = (
    "max_position_embeddings",
    "max_encoder_position_embeddings",
    "max_seq_len",
    "context_length",
)


def text_limit(network: nn.Module, longest: int) -> int:
    """Tokens that a network may be given, special ones included.

    Its table of positions counts, where it has one, and what its configuration says. Some tables
    do not begin at the first row: RoBERTa and its kin number positions from the padding index + 1,
    BART and OPT from an offset.

    Args:
        network: a bare network of transformers.
        longest: tokens at most for other reasons.

    >>> from types import SimpleNamespace
    >>> class Network(nn.Module):
    ...     config = SimpleNamespace(max_position_embeddings=20)
    >>> network = Network()
    >>> network.position_embeddings = nn.Embedding(20, 4, padding_idx=1)
    >>> text_limit(network, 512)
    18
    """
    config = network.config
    told = [getattr(config, name, None) for name in _LENGTHS]
    limits = [longest, *(limit for limit in told if isinstance(limit, int)), *_tables(network)]
    return min(limit for limit in limits if limit > 0)


def _tables(network: nn.Module) -> Iterator[int]:
    """Usable rows of each table of positions."""
    for path, part in network.named_modules():
        name, rows = path.rpartition(".")[2], getattr(part, "weight", None)
        if ("pos" in name or name == "wpe") and "Embedding" in type(part).__name__:
            if rows is None or rows.ndim != 2 or "rel" in name:
                continue
            padding = getattr(part, "padding_idx", None)
            first = getattr(part, "offset", 0 if padding is None else padding + 1)
            yield len(rows) - first


def window_multiple(config: Any) -> int:
    """What the number of tokens must be a multiple of; 1 where the network does not mind.

    Networks whose attention works in windows or chunks pad their input when it is not.

    >>> from types import SimpleNamespace
    >>> window_multiple(SimpleNamespace(attention_window=[512, 512])), window_multiple(None)
    (512, 1)
    """
    window = getattr(config, "attention_window", None) or 1
    steps = [max(window) if isinstance(window, (list, tuple)) else window]
    for kind in set(getattr(config, "attn_layers", ())):  # Reformer
        steps.append(getattr(config, f"{kind}_attn_chunk_length", None) or 1)
    if hasattr(config, "num_global_tokens"):  # PEGASUS-X
        steps.append(config.block_size)
    return math.lcm(*steps)
