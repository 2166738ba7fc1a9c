"""From a layer's output to one vector per example.

A pooling is a function ``(output, layout, mask) -> (N, D)``. ``layout`` says what the axes of
``output`` mean: ``NCHW``, ``NHWC``, ``NTC``, ``NCT`` or ``ND``. ``mask`` (N, T), nonzero where a
token counts, is the attention mask of a text batch, or None. Where the words of sentences are the
examples, the same poolings work over the tokens of each word.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from transfer_metrics.errors import ExtractionError, InvalidInputError
from transfer_metrics.registry import Registry
from transfer_metrics.sources.models.tokens import TextBatch

_PoolFn = Callable[..., Tensor]

_SPATIAL = {"NCHW": (2, 3), "NHWC": (1, 2), "NCT": (2,)}


@dataclass(frozen=True)
class Pool:
    """A pooling with its name, the specification that selects it: ``avg`` or ``grid:512``."""

    name: str
    fn: _PoolFn

    def __call__(self, output: Tensor, layout: str, mask: Tensor | None = None) -> Tensor:
        """Pool one layer's output, (N, ...), to (N, D) float32, which may share its memory."""
        given = output
        if self.is_foreign:
            # What it writes in place is not what the network reads next, nor another pooling.
            given, mask = output.clone(), None if mask is None else mask.clone()
        pooled = self.fn(given, layout, mask)
        if pooled.ndim != 2 or pooled.shape[0] != output.shape[0]:
            raise ExtractionError(
                f"pooling {self.name!r} turned {tuple(output.shape)} into {tuple(pooled.shape)}; "
                f"it must return ({len(output)}, D)"
            )
        return pooled.float()

    @property
    def is_foreign(self) -> bool:
        """Whether its code is none of this package's."""
        fn = self.fn.func if isinstance(self.fn, partial) else self.fn
        return (fn.__module__ or "").partition(".")[0] != "transfer_metrics"

    def at(self, layer: str) -> Pool:
        """The pooling of a layer, by its name."""
        return self


@dataclass(frozen=True)
class JointPool(Pool):
    """Each layer by poolings of its own, whose features are put side by side."""

    parts: Mapping[str, Sequence[Pool]]

    @classmethod
    def of(cls, parts: Mapping[str, Sequence[Pool]]) -> JointPool:
        """By the names of the layers that there are."""
        names = {pool.name for some in parts.values() for pool in some}
        return cls("+".join(sorted(names)), _side_by_side, parts)

    def at(self, layer: str) -> Pool:
        """See ``Pool``."""
        parts = self.parts[layer]
        return parts[0] if len(parts) == 1 else Pool(self.name, partial(_side_by_side, parts))


def _side_by_side(
    parts: Sequence[Pool], output: Tensor, layout: str, mask: Tensor | None
) -> Tensor:
    # What ``pool_for`` has made of mean_words reads no mask.
    masks = (None if part.fn is _mean_words else mask for part in parts)
    pooled = [part(output, layout, own) for part, own in zip(parts, masks, strict=True)]
    return torch.cat(pooled, dim=1)


def avg(output: Tensor, layout: str, mask: Tensor | None) -> Tensor:
    """Mean over positions, the masked mean over tokens; summed in float32 or better."""
    if layout == "ND":
        return output
    dtype = torch.promote_types(output.dtype, torch.float32)
    if mask is None or layout in ("NCHW", "NHWC"):
        return output.mean(_SPATIAL.get(layout, (1,)), dtype=dtype)
    tokens, counts = _tokens_of(output, layout), _kept(output, layout, mask)
    total = tokens.masked_fill(~counts[:, :, None], 0).sum(1, dtype=dtype)
    return total / counts.sum(1, keepdim=True)


def _maximum(output: Tensor, layout: str, mask: Tensor | None) -> Tensor:
    """Maximum over positions, over the unmasked ones where there is a mask."""
    if layout == "ND":
        return output
    if mask is None or layout in ("NCHW", "NHWC"):
        return output.amax(_SPATIAL.get(layout, (1,)))
    kept = _kept(output, layout, mask)
    return _tokens_of(output, layout).masked_fill(~kept[:, :, None], -math.inf).amax(1)


def _cls(output: Tensor, layout: str, mask: Tensor | None) -> Tensor:
    """The first token, the first unmasked one where there is a mask; of a word the first too."""
    if layout == "ND":
        return output
    tokens = _tokens_of(output, layout, pool="cls")
    if mask is None:
        return tokens[:, 0]
    return _take(tokens, _kept(output, layout, mask).int().argmax(1))


def _last_token(output: Tensor, layout: str, mask: Tensor | None) -> Tensor:
    """The last token, the last unmasked one where there is a mask."""
    if layout == "ND":
        return output
    tokens = _tokens_of(output, layout, pool="last_token")
    if mask is None:
        return tokens[:, -1]
    kept = _kept(output, layout, mask)
    return _take(tokens, kept.shape[1] - 1 - kept.flip(1).int().argmax(1))


def _mean_tokens(output: Tensor, layout: str, mask: Tensor | None) -> Tensor:
    """Mean over the unmasked tokens; refuses maps, unlike ``avg``."""
    if layout != "ND":
        _tokens_of(output, layout, pool="mean_tokens")
    return avg(output, layout, mask)


def _mean_words(output: Tensor, layout: str, mask: Tensor | None) -> Tensor:
    """Mean over words of the mean over their tokens; special tokens do not count.

    Only ``extract`` knows which tokens make up a word, and sees to it by ``pool_for``. Without a
    mask every token is a word.
    """
    if layout != "ND":
        _tokens_of(output, layout, pool="mean_words")
        if mask is not None:
            raise InvalidInputError(
                "pool='mean_words' works in extract only, which knows the words of a batch; use "
                "pool='mean'"
            )
    return avg(output, layout, None)


def _flatten(output: Tensor, layout: str, mask: Tensor | None) -> Tensor:
    """Every value, in memory order of the output's axes."""
    return output.flatten(1)


def _grid(output: Tensor, layout: str, mask: Tensor | None, size: int) -> Tensor:
    """Pool to about ``size`` features, by Head2Toe's rule (arXiv 2201.03529, ``grid:T``).

    A map of W x W positions and C channels is averaged over windows of p = W // n with
    n = isqrt(T // C), unpadded, and flattened with the channels last: (W // p)^2 C features. Where
    C >= T, or n > W, it is averaged to C features. N tokens are averaged in windows of
    int(N / (T / C)). As published, the result can exceed T (W=7, C=512, T=8192 gives 25088) or
    fall short of it. Where the paper is silent: W is the shorter side of a map that is not square,
    and tokens are left as they are when T > N C. Texts and sounds, whose lengths differ, are known
    by their mask: the tokens that count are averaged in max(1, T // C) runs of about one length,
    the i-th of k from i N / k, rounded down, to (i + 1) N / k, rounded up; padding plays no part.
    """
    if layout == "ND":
        return output
    dtype = torch.promote_types(output.dtype, torch.float32)
    if layout in ("NCHW", "NHWC"):
        maps = output if layout == "NCHW" else output.permute(0, 3, 1, 2)
        channels, width = maps.shape[1], min(maps.shape[2:])
        window = 0 if channels >= size else width // math.isqrt(size // channels)
        if window == 0:
            return avg(output, layout, mask)
        return F.avg_pool2d(maps.to(dtype), window).permute(0, 2, 3, 1).flatten(1)
    tokens = _tokens_of(output, layout)
    if tokens.shape[2] >= size:
        return avg(output, layout, mask)
    if mask is not None:
        runs = _runs(_kept(output, layout, mask), size // tokens.shape[2]).to(dtype)
        return (runs @ tokens.masked_fill(runs.sum(1)[:, :, None] == 0, 0).to(dtype)).flatten(1)
    window = max(1, int(tokens.shape[1] / (size / tokens.shape[2])))
    return F.avg_pool1d(tokens.transpose(1, 2).to(dtype), window).transpose(1, 2).flatten(1)


def _runs(kept: Tensor, count: int) -> Tensor:
    """The share of each token in the mean of each run of those that are kept: (N, count, T)."""
    place, lengths = kept.cumsum(1)[:, None] - 1, kept.sum(1)[:, None, None]
    run = torch.arange(count, device=kept.device)[:, None]
    start, end = run * lengths // count, -(-(run + 1) * lengths // count)
    inside = kept[:, None] & (place >= start) & (place < end)
    return inside / (end - start)


def _tokens_of(output: Tensor, layout: str, pool: str = "") -> Tensor:
    """(N, T, C) from a token layout."""
    if layout == "NTC":
        return output
    if layout == "NCT":
        return output.transpose(1, 2)
    raise InvalidInputError(
        f"pool={pool!r} needs tokens, and this output of shape {tuple(output.shape[1:])} is a map "
        f"({layout}); use pool='avg' or 'max', or leave the layer out"
    )


def _kept(output: Tensor, layout: str, mask: Tensor) -> Tensor:
    """The mask as (N, T) booleans."""
    length = _tokens_of(output, layout).shape[1]
    if mask.shape != (output.shape[0], length):
        raise ExtractionError(
            f"the attention mask has shape {tuple(mask.shape)} and the layer gives {length} tokens "
            f"per example, so padding cannot be told from the rest; leave this layer out, or use "
            f"batch_size=1"
        )
    return mask.to(device=output.device, dtype=torch.bool)


def _take(tokens: Tensor, position: Tensor) -> Tensor:
    return tokens[torch.arange(len(tokens), device=tokens.device), position]


POOLINGS: Registry[_PoolFn] = Registry(
    "pooling",
    {
        "avg": avg,
        "max": _maximum,
        "cls": _cls,
        "mean": _mean_tokens,
        "mean_tokens": _mean_tokens,
        "mean_words": _mean_words,
        "last": _last_token,
        "last_token": _last_token,
        "flatten": _flatten,
        "grid": _grid,
    },
    group="transfer_metrics.poolings",
)
"""Poolings by name. A function with a fourth parameter takes the integer after the colon."""


def resolve_pool(spec: str | Pool | _PoolFn) -> Pool:
    """Find a pooling: by name (``avg``), by name and number (``grid:512``), or any function.

    Raises:
        UnknownNameError: no such pooling; suggests close names.
        InvalidInputError: the number is missing, superfluous or not a whole number.

    >>> resolve_pool("max")(torch.tensor([[[1.0, 5.0], [3.0, 2.0]]]), "NTC")
    tensor([[3., 5.]])
    >>> resolve_pool("grid:512")(torch.zeros(1, 128, 28, 28), "NCHW").shape
    torch.Size([1, 512])
    """
    if isinstance(spec, Pool):
        return spec
    if not isinstance(spec, str) and not callable(spec):
        raise InvalidInputError(f"pool={spec!r:.60}; give a name such as 'avg', or a function")
    if not isinstance(spec, str):
        return Pool(f"{spec.__module__}:{getattr(spec, '__qualname__', type(spec).__name__)}", spec)
    name, colon, argument = spec.partition(":")
    fn = POOLINGS[name]
    parameters = list(inspect.signature(fn).parameters)
    takes_number = len(parameters) > 3
    if takes_number and not argument.isdecimal():
        raise InvalidInputError(f"pool={spec!r} needs a whole number, as in '{name}:512'")
    if colon and not takes_number:
        raise InvalidInputError(f"pool={spec!r}: {name!r} takes no number; write pool={name!r}")
    return Pool(spec, partial(fn, **{parameters[3]: int(argument)}) if takes_number else fn)


@dataclass(frozen=True)
class _Group:
    """Words of as many tokens each."""

    words: Tensor  # numbers of the words among those of the batch, (m,)
    sequences: Tensor  # the sequence of each, (m, 1)
    positions: Tensor  # their tokens, (m, k)


def _group_words(spans: Tensor) -> list[_Group]:
    """Words with equally many tokens together, so that none needs padding.

    ``spans`` (M, 3) are sequence, first token and end of each word.
    """
    lengths = spans[:, 2] - spans[:, 1]
    groups = []
    for length in lengths.unique():
        words = (lengths == length).nonzero()[:, 0]
        positions = spans[words, 1, None] + torch.arange(int(length), device=spans.device)
        groups.append(_Group(words, spans[words, 0, None], positions))
    return groups


def _pool_words(pool: Pool, tokens: Tensor, groups: Sequence[_Group]) -> Tensor:
    """Pool the tokens (S, T, D) of a layer for S sequences, word by word: (M, D') float32."""
    read = [tokens[group.sequences, group.positions] for group in groups]
    # Words differ in length as texts do.
    runs = pool.name.startswith("grid:")
    parts = [pool(t, "NTC", torch.ones(t.shape[:2]).to(t) if runs else None) for t in read]
    if len({part.shape[1] for part in parts}) > 1:
        raise ExtractionError(
            f"pool={pool.name!r} gives words of one token {parts[0].shape[1]} features and those "
            f"of more tokens more; use 'mean', 'cls' (the first token), 'last' or 'max'"
        )
    rows = torch.cat([group.words for group in groups])
    pooled = parts[0].new_empty(len(rows), parts[0].shape[1])
    pooled[rows] = torch.cat(parts)
    return pooled


@dataclass(frozen=True)
class _WordPool(Pool):
    """A pooling for one batch of texts, whose words are known."""

    groups: tuple[_Group, ...]
    sequences: Tensor  # the sequence of each word, (M,)
    length: int  # tokens of each sequence, padding included
    by_word: bool  # one row for each word, (M, D), rather than for each text, (S, D)

    def __call__(self, output: Tensor, layout: str, mask: Tensor | None = None) -> Tensor:
        if layout == "ND":
            if not self.by_word:
                return output.float()
            raise ExtractionError(
                "it has one vector per text and none per word; leave this layer out"
            )
        tokens = _tokens_of(output, layout, pool=self.name)
        if tokens.shape[1] != self.length:
            raise ExtractionError(
                f"it gives {tokens.shape[1]} tokens per text where the tokenizer gave "
                f"{self.length}, so words cannot be found in it; leave this layer out"
            )
        words = _pool_words(Pool(self.name, self.fn), tokens, self.groups)
        return words if self.by_word else _mean_of(words, self.sequences, len(tokens))


def pool_for(pool: Pool, batch: Any) -> Pool:
    """The pooling to read a batch with, once the batch is where the network is."""
    if isinstance(pool, JointPool):
        parts = {n: [pool_for(part, batch) for part in own] for n, own in pool.parts.items()}
        return replace(pool, parts=parts)
    by_word = isinstance(batch, TextBatch) and batch.by_word
    if not by_word and pool.name != "mean_words":
        return pool
    if not isinstance(batch, TextBatch) or batch.words is None:
        raise InvalidInputError(
            f"pool={pool.name!r} needs to know which tokens make up a word, which this model's "
            f"tokenizer does not tell; use pool='mean'"
        )
    groups = tuple(_group_words(batch.words))
    length = next(iter(batch.values())).shape[1]
    return _WordPool(pool.name, pool.fn, groups, batch.words[:, 0], length, by_word)


def _mean_of(words: Tensor, sequences: Tensor, count: int) -> Tensor:
    """Mean of the words of each sequence, (S, D)."""
    counts = torch.bincount(sequences, minlength=count)
    empty = (counts == 0).nonzero()
    if len(empty):
        raise ExtractionError(
            f"example {empty[0].item()} of a batch has no word; leave empty texts out of the task"
        )
    total = words.new_zeros(count, words.shape[1]).index_add_(0, sequences, words)
    return total / counts[:, None]
