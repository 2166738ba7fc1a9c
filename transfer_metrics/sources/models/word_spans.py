"""Which tokens make up each word, from what a fast tokenizer tells of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError


def text_spans(encoded: Any) -> np.ndarray:
    """The words that the tokenizer itself sees in texts or pairs of texts.

    Args:
        encoded: what a fast tokenizer of transformers returns for S texts.

    Returns:
        (M, 3) int64: sequence, first token and end of every word, in reading order.
    """
    numbers = np.full(tuple(encoded["input_ids"].shape), -1)
    for row, encoding in enumerate(encoded.encodings):
        pairs = zip(encoding.word_ids, encoding.sequence_ids, strict=True)
        numbers[row] = [-1 if word is None else 2 * word + (text or 0) for word, text in pairs]
    rows, starts, ends, _ = _runs(numbers)
    return np.stack([rows, starts, ends], axis=1)


def sentence_spans(encoded: Any, sentences: Sequence[Sequence[str]]) -> np.ndarray:
    """The tokens of given words in sentences that were tokenised with spaces between the words.

    A token belongs to the word of its last character; one of white space alone, as SentencePiece
    has them, to the word that follows. A word inside a token that ends in another one shares it.

    Args:
        encoded: what a fast tokenizer returns for ``" ".join(words)`` of each sentence.
        sentences: the words of each sentence.

    Returns:
        (M, 3) int64 for the M words in order: sequence, first token and end; -1 where a word has
        no token, because the sentence was cut or the tokenizer drops it.
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


def readable_pieces(
    tokenizer: Any, sentences: Sequence[Sequence[str]], longest: int
) -> list[list[str]]:
    """Sentences cut between words where they are too long, without words that vanish.

    Args:
        tokenizer: a fast tokenizer of transformers.
        sentences: the words of each sentence.
        longest: tokens that a piece may have, special ones included.

    Returns:
        The pieces, whose words follow each other as in the sentences. A word of which the tokenizer
        makes nothing is its unknown token there. What becomes of a sentence depends on it alone.

    Raises:
        InvalidInputError: the tokenizer makes nothing of a word and has no unknown token.
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
                word, count = _unknown(tokenizer, word), 1
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
    spans = sentence_spans(encoded, sentences)
    return spans[:, 2] - spans[:, 1], [len(ids) for ids in encoded["input_ids"]]


def _runs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Row, start, end and number of every run of one number in the rows of (S, T); not of -1."""
    edge = np.full((len(numbers), 1), -1)
    before = np.hstack([edge, numbers[:, :-1]])
    after = np.hstack([numbers[:, 1:], edge])
    rows, starts = np.nonzero((numbers >= 0) & (numbers != before))
    _, lasts = np.nonzero((numbers >= 0) & (numbers != after))
    return rows, starts, lasts + 1, numbers[rows, starts]


def _unknown(tokenizer: Any, word: str) -> str:
    if tokenizer.unk_token is None:
        raise InvalidInputError(
            f"{type(tokenizer).__name__} makes no token of the word {word!r} and has none for what "
            f"it does not know; label the word -100 or take it out of its sentence"
        )
    return tokenizer.unk_token
