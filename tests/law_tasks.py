"""Small tasks of every kind whose examples differ in size, so that what leaks is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import transfer_metrics as tm
from tests.text_models import TEXTS
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Task

RATE = 16_000
SIDES = ((40, 40), (72, 33), (28, 60), (40, 40), (16, 16), (90, 64))
WORDS = " ".join(TEXTS).split()


@dataclass(frozen=True)
class Data:
    """A task as it is given: examples with a label each, or sentences with one per word.

    Attributes:
        name: which kind it is.
        examples: images, arrays, texts, pairs of them, lists of words, or sounds.
        labels: classes or numbers, or a list of classes per sentence.
    """

    name: str
    examples: Sequence[Any]
    labels: Sequence[Any]

    def task(self) -> Task:
        """As the toolkit loads it."""
        return tm.load_task(list(self.examples), list(self.labels), name=self.name)

    def taken(self, order: Sequence[int]) -> Data:
        """The same examples in another order."""
        return Data(self.name, [self.examples[i] for i in order], [self.labels[i] for i in order])

    def rows(self, order: Sequence[int]) -> np.ndarray:
        """Where the rows of ``taken`` are among the rows of this."""
        sizes = [np.size(labels) for labels in self.labels]
        starts = np.cumsum([0, *sizes])
        return np.concatenate([starts[i] + np.arange(sizes[i]) for i in order])


def data_for(model: Model) -> list[Data]:
    """Tasks of every kind that a model reads, of classes and of numbers."""
    rng = np.random.default_rng(0)
    if model.modality == "image":
        return [images(rng), arrays(rng, model)]
    if model.modality == "text":
        return [texts(), pairs(rng), words()]
    if model.modality == "audio":
        return [sounds(rng), tuned(rng)]
    return [of_numbers(rng, model), arrays(rng, model)]


def images(rng: np.random.Generator, n: int = 18) -> Data:
    """Pictures of several sizes and shapes, in three colours."""
    made = []
    for i in range(n):
        width, height = SIDES[i % len(SIDES)]
        pixels = rng.integers(0, 128, (height, width, 3), dtype=np.uint8)
        pixels[:, : width // 2, i % 3] += np.uint8(90)
        made.append(Image.fromarray(pixels))
    return Data("images", made, [i % 3 for i in range(n)])


def arrays(rng: np.random.Generator, model: Model, n: int = 9) -> Data:
    """Arrays of numbers of the shape that a model reads, with targets of a regression."""
    made = rng.standard_normal((n, *(model.input_shape or ()))).astype(np.float32)
    made += np.linspace(-1, 1, n, dtype=np.float32).reshape(n, *[1] * (made.ndim - 1))
    return Data("arrays, regression", made, list(np.linspace(0.1, 2.3, n) ** 2))


def of_numbers(rng: np.random.Generator, model: Model, n: int = 18) -> Data:
    """Arrays of numbers in three classes."""
    made = rng.standard_normal((n, *(model.input_shape or ()))).astype(np.float32)
    made += (np.arange(n) % 3).astype(np.float32).reshape(n, *[1] * (made.ndim - 1))
    return Data("arrays", made, [i % 3 for i in range(n)])


def texts() -> Data:
    """A dot, single words, sentences, and texts that are longer than the small models read."""
    made = [".", "a", *TEXTS, *(f"{text}, {TEXTS[0]}" for text in TEXTS)]
    made += [" ".join(WORDS[k:] + WORDS[:k]) for k in (3, 11)]
    return Data("texts", made, [i % 3 for i in range(len(made))])


def pairs(rng: np.random.Generator, n: int = 12) -> Data:
    """Pairs of texts, short beside long, with targets of a regression."""
    chosen = [".", *TEXTS, " ".join(WORDS[:20])]
    made = [(chosen[i % 8], chosen[(3 * i + i // 8 + 1) % 8]) for i in range(n)]
    return Data("pairs, regression", made, list(rng.standard_normal(n)))


def words() -> Data:
    """Sentences of one to many words, with a class for each word."""
    made = [*(text.split() for text in TEXTS), WORDS[7:9]]
    # Some of these just fit into the small models, and some have to be cut. No two begin alike.
    made += [(3 * WORDS)[start : start + 20 + start * 2] for start in (1, 2, 10, 14, 17)]
    # Not of the word alone: LogME has nothing to say where the classes are fitted exactly.
    labels = [[(len(word) + i) % 3 for i, word in enumerate(sentence)] for sentence in made]
    return Data("words", made, labels)


def sounds(rng: np.random.Generator, n: int = 12) -> Data:
    """Noisy tones of three pitches; three of each length, so that some share a batch."""
    made = [
        {"array": _tone(rng, 2500 + 611 * (i // 3), i % 3), "sampling_rate": RATE} for i in range(n)
    ]
    return Data("sounds", made, [i % 3 for i in range(n)])


def tuned(rng: np.random.Generator, n: int = 9) -> Data:
    """Waveforms of unequal length whose pitch is a number."""
    made = [_tone(rng, (2600, 4000, 7000)[i % 3], i / 4) for i in range(n)]
    return Data("sounds, regression", made, [i / 4 + 0.01 for i in range(n)])


def _tone(rng: np.random.Generator, length: int, pitch: float) -> np.ndarray:
    wave = 0.5 * np.sin(2 * np.pi * (200 + 300 * pitch) * np.arange(length) / RATE)
    return (wave + 0.05 * rng.standard_normal(length)).astype(np.float32)
