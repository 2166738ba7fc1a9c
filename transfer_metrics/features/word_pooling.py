"""Pooling by words: over the tokens of each word, and then, for a text, over its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transfer_metrics.errors import ExtractionError, InvalidInputError
from transfer_metrics.features.pooling import Pool, tokens_of
from transfer_metrics.sources.models.tokens import TextBatch

_MEAN_WORDS = "mean_words"


@dataclass(frozen=True)
class _Group:
    """Words of as many tokens each."""

    words: Tensor  # numbers of the words among those of the batch, (m,)
    sequences: Tensor  # the sequence of each, (m, 1)
    positions: Tensor  # their tokens, (m, k)


def group_words(spans: Tensor) -> list[_Group]:
    """Words with equally many tokens together, so that none needs padding.

    ``spans`` (M, 3) are sequence, first token and end of each word.

    >>> groups = group_words(torch.tensor([[0, 1, 2], [0, 2, 4], [1, 1, 2]]))
    >>> [(g.words.tolist(), g.positions.tolist()) for g in groups]
    [([0, 2], [[1], [1]]), ([1], [[2, 3]])]
    """
    lengths = spans[:, 2] - spans[:, 1]
    groups = []
    for length in lengths.unique():
        words = (lengths == length).nonzero()[:, 0]
        positions = spans[words, 1, None] + torch.arange(int(length), device=spans.device)
        groups.append(_Group(words, spans[words, 0, None], positions))
    return groups


def pool_words(pool: Pool, tokens: Tensor, groups: Sequence[_Group]) -> Tensor:
    """Pool the tokens (S, T, D) of a layer for S sequences, word by word: (M, D') float32.

    >>> from transfer_metrics.features.pooling import resolve_pool
    >>> tokens = torch.tensor([[[0.0], [1.0], [3.0]]])
    >>> groups = group_words(torch.tensor([[0, 0, 1], [0, 1, 3]]))
    >>> pool_words(resolve_pool("max"), tokens, groups).tolist()
    [[0.0], [3.0]]
    """
    parts = [pool(tokens[group.sequences, group.positions], "NTC") for group in groups]
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
        tokens = tokens_of(output, layout, pool=self.name)
        if tokens.shape[1] != self.length:
            raise ExtractionError(
                f"it gives {tokens.shape[1]} tokens per text where the tokenizer gave "
                f"{self.length}, so words cannot be found in it; leave this layer out"
            )
        words = pool_words(Pool(self.name, self.fn), tokens, self.groups)
        return words if self.by_word else _mean_of(words, self.sequences, len(tokens))


def pool_for(pool: Pool, batch: Any) -> Pool:
    """The pooling to read a batch with, once the batch is where the network is."""
    by_word = isinstance(batch, TextBatch) and batch.by_word
    if not by_word and pool.name != _MEAN_WORDS:
        return pool
    if not isinstance(batch, TextBatch) or batch.words is None:
        raise InvalidInputError(
            f"pool={pool.name!r} needs to know which tokens make up a word, which this model's "
            f"tokenizer does not tell; use pool='mean'"
        )
    groups = tuple(group_words(batch.words))
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
