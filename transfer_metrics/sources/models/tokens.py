"""Texts, pairs of texts and words of sentences to the token ids that a network reads."""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import Word

# What the configurations call the length that the network was built or trained for.
_LENGTHS = (
    "max_position_embeddings",
    "max_encoder_position_embeddings",
    "max_seq_len",
    "context_length",
)


class TextBatch(dict[str, Tensor]):
    """Keyword arguments of a text model, and where the words of the batch lie."""

    # (M, 3) int64, the sequence of each word, its first token and the one after its last; None
    # where the tokenizer does not tell.
    words: Tensor | None = None
    by_word: bool = False  # whether these words are the examples, rather than the S sequences

    def mapped(self, change: Callable[[Tensor], Tensor]) -> TextBatch:
        """The same with all tensors changed, such as moved to another device."""
        batch = TextBatch((name, change(tensor)) for name, tensor in self.items())
        batch.words = None if self.words is None else change(self.words)
        batch.by_word = self.by_word
        return batch


@dataclass(frozen=True, repr=False)
class Tokens:
    """Texts, pairs of them, or words with their sentences to padded token ids with their mask.

    Pairs are joined as the tokenizer does it; one that sets nothing between them, as GPT-2's, gets
    the end-of-text token there. Words are looked up in their sentences, which are read as text with
    spaces between the words, each once per batch. A sentence that is longer than the model reads is
    cut between words. A word of which the tokenizer makes nothing is read as its unknown token.
    """

    tokenizer: Any
    longest: int  # tokens that a sequence may have, special ones included; texts are cut there
    # Names of the network's arguments.
    accepted: frozenset[str] = frozenset(("input_ids", "attention_mask", "token_type_ids"))
    # Batches are padded to a length that it divides, as the network would do out of sight, so that
    # every layer has as many positions as the mask.
    multiple: int = 1
    equal_lengths: bool = False  # whether padding would leak into the features

    @classmethod
    def of(cls, tokenizer: Any, network: nn.Module, longest: int) -> Tokens:
        """For a network of transformers, of which ``longest`` is one limit among its own.

        Those are its table of positions, where it has one, and what its configuration says.
        """
        told = [getattr(network.config, name, None) for name in _LENGTHS]
        limits = [longest, *(t for t in told if isinstance(t, int)), *_positions(network)]
        longest, multiple = min(limit for limit in limits if limit > 0), _window(network.config)
        longest = longest // multiple * multiple or longest
        accepted = frozenset(inspect.signature(network.forward).parameters)
        unmasked = "attention_mask" not in accepted
        return cls(tokenizer, longest, accepted, multiple, equal_lengths=unmasked)

    def __call__(self, examples: Sequence[Any]) -> TextBatch:
        """Strings, pairs of strings, or ``Word`` to the keyword arguments of a text model."""
        if isinstance(examples[0], Word):
            return self._of_words(examples)
        if isinstance(examples[0], str):
            encoded = self._encode(list(examples))
        elif self.separator:
            encoded = self._encode([self.separator.join(pair) for pair in examples])
        else:
            encoded = self._encode(*(list(part) for part in zip(*examples, strict=True)))
        return self._batch(encoded, _text_spans(encoded) if encoded.is_fast else None)

    def length(self, example: Any) -> int:
        """Tokens of a text or pair, or of the sentence of a word."""
        return self([example])["input_ids"].shape[1]

    @cached_property
    def separator(self) -> str:
        """What stands between the texts of a pair; empty where the tokenizer sees to that."""
        if not self.tokenizer.is_fast:
            return ""
        of = self.tokenizer("a", "b").sequence_ids(0)
        if None in of[of.index(0) : of.index(1)]:
            return ""
        return self.tokenizer.sep_token or self.tokenizer.eos_token or "\n"

    def _of_words(self, examples: Sequence[Word]) -> TextBatch:
        """The sentences of the words, once each, and the place of every word asked for."""
        if not self.tokenizer.is_fast:
            raise InvalidInputError(
                f"{type(self.tokenizer).__name__} does not tell which tokens make up a word; "
                f"choose a model with a fast tokenizer"
            )
        sentences = list(dict.fromkeys(word.sentence for word in examples))
        encoded = self._encode([" ".join(words) for words in sentences])
        spans = _sentence_spans(encoded, sentences)
        if (spans < 0).any() or any(e.overflowing for e in encoded.encodings):
            pieces = _readable_pieces(self.tokenizer, sentences, self.longest)
            encoded = self._encode([" ".join(words) for words in pieces])
            spans = _sentence_spans(encoded, pieces)
        # Pieces follow each other as the sentences do, and so do the words in them.
        ends = np.cumsum([len(sentence) for sentence in sentences])
        first = {s: int(end) - len(s) for s, end in zip(sentences, ends, strict=True)}
        chosen = spans[[first[word.sentence] + word.position for word in examples]]
        lost = np.flatnonzero(chosen[:, 0] < 0)
        if len(lost):
            word = examples[int(lost[0])]
            raise InvalidInputError(
                f"{type(self.tokenizer).__name__} makes no token of the word "
                f"{word.sentence[word.position]!r}; label it -100 or take it out of its sentence"
            )
        return self._batch(encoded, chosen, by_word=True)

    def _encode(self, *texts: list[str]) -> Any:
        return self.tokenizer(
            *texts, padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        )

    def _batch(self, encoded: Any, words: np.ndarray | None, by_word: bool = False) -> TextBatch:
        fill = {"input_ids": self.tokenizer.pad_token_id}
        batch = TextBatch(
            # Not by the tokenizer, which pads to no more than it truncates to.
            (name, F.pad(t, (0, -t.shape[1] % self.multiple), value=fill.get(name, 0)))
            for name, t in encoded.items()
            if name in self.accepted
        )
        batch.words = None if words is None else torch.from_numpy(words.astype(np.int64))
        batch.by_word = by_word
        return batch

    def __repr__(self) -> str:
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        content = f"{vocabulary}{self.tokenizer.special_tokens_map}"
        if fast is None:
            content += type(self.tokenizer).__name__
        else:  # as it is before it has read a batch, which it remembers how to cut and to pad
            fast = copy.deepcopy(fast)
            fast.no_truncation()
            fast.no_padding()
            content += fast.to_str()
        digest = hashlib.sha256(content.encode()).hexdigest()
        parts = f"longest={self.longest}, separator={self.separator!r}, multiple={self.multiple}"
        return f"Tokens({digest}, {parts})"


# ---------------------------------------------------------------- where words lie


def _text_spans(encoded: Any) -> np.ndarray:
    """(M, 3) int64: sequence, first token and end of every word that a fast tokenizer itself sees.

    In reading order, those of both texts of a pair.
    """
    numbers = np.full(tuple(encoded["input_ids"].shape), -1)
    for row, encoding in enumerate(encoded.encodings):
        pairs = zip(encoding.word_ids, encoding.sequence_ids, strict=True)
        numbers[row] = [-1 if word is None else 2 * word + (text or 0) for word, text in pairs]
    rows, starts, ends, _ = _runs(numbers)
    return np.stack([rows, starts, ends], axis=1)


def _sentence_spans(encoded: Any, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """The same of given words in sentences that were read with spaces between them, in their order.

    -1 where a word has no token, because the sentence was cut or the tokenizer drops it. A token
    belongs to the word of its last character; one of white space alone, as SentencePiece has them,
    to the word that follows. A word inside a token that ends in another one shares it.
    """
    found = []
    for row, (encoding, words) in enumerate(zip(encoded.encodings, sentences, strict=True)):
        sizes = np.array([len(word) for word in words])
        word_of = np.repeat(np.arange(len(words)), sizes + 1)[1:]
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        real = np.array([text is not None for text in encoding.sequence_ids], dtype=bool)
        last = np.maximum(offsets[:, 1] - 1, offsets[:, 0]).clip(0, max(len(word_of) - 1, 0))
        owner = np.where(real, word_of[last], -1)
        spans = np.full((len(words), 3), -1)
        _, starts, ends, owners = _runs(owner[None])
        spans[owners] = np.stack([np.full_like(starts, row), starts, ends], axis=1)
        begins = np.cumsum(sizes + 1) - sizes - 1
        for word in np.flatnonzero(spans[:, 0] < 0):
            inside = (offsets[:, 0] < begins[word] + sizes[word]) & (offsets[:, 1] > begins[word])
            covering = np.flatnonzero(inside & real)
            if len(covering):
                spans[word] = row, covering[0], covering[-1] + 1
        found.append(spans)
    return np.concatenate(found)


def _readable_pieces(
    tokenizer: Any, sentences: Sequence[Sequence[str]], longest: int
) -> list[list[str]]:
    """Sentences cut between words where they have more than ``longest`` tokens, special ones too.

    A word of which the tokenizer makes nothing is its unknown token there. What becomes of a
    sentence depends on it alone.
    """
    room = longest - tokenizer.num_special_tokens_to_add(False)
    # The first word of a piece is read without the space before it, which can take more tokens.
    each = [[word] for words in sentences for word in words]
    inside, totals = _counts(tokenizer, sentences)
    alone, _ = _counts(tokenizer, each)
    pieces: list[list[str]] = []
    ends = np.cumsum([len(sentence) for sentence in sentences])
    for sentence, end, total in zip(sentences, ends, totals, strict=True):
        own = slice(end - len(sentence), end)
        if total <= room and inside[own].all():
            pieces.append(list(sentence))
            continue
        filled = room  # so that the first word opens a piece
        for word, count in zip(sentence, np.maximum(inside[own], alone[own]), strict=True):
            if not count:
                if tokenizer.unk_token is None:
                    raise InvalidInputError(
                        f"{type(tokenizer).__name__} makes no token of the word {word!r} and has "
                        f"none for what it does not know; label the word -100 or take it out of "
                        f"its sentence"
                    )
                word, count = tokenizer.unk_token, 1
            if filled + count > room or not pieces:
                pieces.append([])
                filled = 0
            pieces[-1].append(word)
            filled += count
    return pieces


def _counts(tokenizer: Any, sentences: Sequence[Sequence[str]]) -> tuple[np.ndarray, Sequence[int]]:
    """Tokens of every word, (M,), and of every sentence, whatever its length."""
    texts = [" ".join(words) for words in sentences]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)
    spans = _sentence_spans(encoded, sentences)
    return spans[:, 2] - spans[:, 1], [len(ids) for ids in encoded["input_ids"]]


def _runs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, start, end and number of every run of one number in the rows of (S, T); not of -1."""
    edge = np.full((len(numbers), 1), -1)
    before = np.hstack([edge, numbers[:, :-1]])
    after = np.hstack([numbers[:, 1:], edge])
    rows, starts = np.nonzero((numbers >= 0) & (numbers != before))
    _, lasts = np.nonzero((numbers >= 0) & (numbers != after))
    return rows, starts, lasts + 1, numbers[rows, starts]


def _positions(network: nn.Module) -> Iterator[int]:
    """Usable rows of each table of positions, some of which do not begin at the first."""
    for path, part in network.named_modules():
        name, rows = path.rpartition(".")[2], getattr(part, "weight", None)
        if ("pos" in name or name == "wpe") and "Embedding" in type(part).__name__:
            if rows is None or rows.ndim != 2 or "rel" in name:
                continue
            padding = getattr(part, "padding_idx", None)
            first = getattr(part, "offset", 0 if padding is None else padding + 1)
            yield len(rows) - first


def _window(config: Any) -> int:
    """What the number of tokens must be a multiple of: attention may work in windows or chunks."""
    window = getattr(config, "attention_window", None) or 1
    steps = [max(window) if isinstance(window, (list, tuple)) else window]
    for kind in set(getattr(config, "attn_layers", ())):  # Reformer
        steps.append(getattr(config, f"{kind}_attn_chunk_length", None) or 1)
    if hasattr(config, "num_global_tokens"):  # PEGASUS-X
        steps.append(config.block_size)
    return math.lcm(*steps)
