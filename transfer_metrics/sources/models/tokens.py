"""Texts, pairs of texts and words of sentences to the token ids that a network reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.example import Word
from transfer_metrics.sources.models.word_spans import readable_pieces, sentence_spans, text_spans


class TextBatch(dict[str, Tensor]):
    """Keyword arguments of a text model, and where the words of the batch lie.

    Attributes:
        words: (M, 3) int64, the sequence of each word, its first token and the one after its last;
            None where the tokenizer does not tell.
        by_word: whether these words are the examples, rather than the S sequences.
    """

    words: Tensor | None = None
    by_word: bool = False

    def mapped(self, change: Callable[[Tensor], Tensor]) -> TextBatch:
        """The same with all tensors changed, such as moved to another device."""
        batch = TextBatch((name, change(tensor)) for name, tensor in self.items())
        batch.words = None if self.words is None else change(self.words)
        batch.by_word = self.by_word
        return batch


@dataclass(frozen=True, repr=False)
class Tokens:
    """Texts, pairs of them, or words with their sentences to padded token ids with their mask.

    Pairs are joined as the tokenizer does it, with its separators and token types. A tokenizer
    that sets nothing between them, as GPT-2's, gets the end-of-text token there.

    Words are looked up in their sentences, which are read as text with spaces between the words,
    each once per batch. A sentence that is longer than the model reads is cut between words, and
    the pieces are read on their own. A word of which the tokenizer makes nothing is read as its
    unknown token.

    Attributes:
        tokenizer: of transformers.
        longest: tokens that a sequence may have, special ones included; texts are cut there.
        accepted: names of the network's arguments.
        multiple: batches are padded to a length that it divides, as the network would do out of
            sight, so that every layer has as many positions as the mask.
        equal_lengths: batches should hold texts of as many tokens, since padding would leak into
            the features. Who makes the batches sees to it.
    """

    tokenizer: Any
    longest: int
    accepted: frozenset[str] = frozenset(("input_ids", "attention_mask", "token_type_ids"))
    multiple: int = 1
    equal_lengths: bool = False

    def __call__(self, examples: Sequence[Any]) -> TextBatch:
        """Strings, pairs of strings, or ``Word`` to the keyword arguments of a text model.

        Raises:
            InvalidInputError: nothing can be made of a word, or words without a fast tokenizer.
        """
        if isinstance(examples[0], Word):
            return self._of_words(examples)
        if isinstance(examples[0], str):
            encoded = self._encode(list(examples))
        else:
            first, second = (list(part) for part in zip(*examples, strict=True))
            if self.separator:
                joined = [f"{a}{self.separator}{b}" for a, b in zip(first, second, strict=True)]
                encoded = self._encode(joined)
            else:
                encoded = self._encode(first, second)
        return self._batch(encoded, text_spans(encoded) if encoded.is_fast else None)

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
        spans = sentence_spans(encoded, sentences)
        if (spans < 0).any() or any(e.overflowing for e in encoded.encodings):
            pieces = readable_pieces(self.tokenizer, sentences, self.longest)
            encoded = self._encode([" ".join(words) for words in pieces])
            spans = sentence_spans(encoded, pieces)
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
        content += fast.to_str() if fast is not None else type(self.tokenizer).__name__
        digest = hashlib.sha256(content.encode()).hexdigest()
        parts = f"longest={self.longest}, separator={self.separator!r}, multiple={self.multiple}"
        return f"Tokens({digest}, {parts})"
