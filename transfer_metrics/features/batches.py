"""Batches of pooled features by layer, the same from a running network and from a store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import softmax

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.shards import LOGITS

MEAN = "mean"
"""Name of the layer that is the mean of the hidden layers."""


def hidden_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a deep stack, such as those of a transformer, among the blocks of a network.

    These are the blocks of the class that occurs most often, of several the one that comes last.
    Where a layer of the same width follows them, the normalisation that ends many transformers, it
    stands in for the last of them, as in the hidden states of the ``transformers`` library; word
    embeddings do not count.

    Raises:
        InvalidInputError: the blocks differ in width.

    >>> def block(name, kind):
    ...     return Layer(name, 0, 0.5, kind, (3, 8), "NTC", 8, 32, 0)
    >>> blocks = [block("wte", "Embedding"), block("h.0", "Block"), block("h.1", "Block")]
    >>> [layer.name for layer in hidden_layers([*blocks, block("ln_f", "LayerNorm")])]
    ['h.0', 'ln_f']
    """
    places = {layer.kind: place for place, layer in enumerate(layers)}
    counts = Counter(layer.kind for layer in layers)
    kind = max(counts, key=lambda kind: (counts[kind], places[kind]))
    chosen = [layer for layer in layers if layer.kind == kind]
    widths = sorted({layer.dim for layer in chosen})
    if len(widths) > 1:
        raise InvalidInputError(
            f"the mean of layers of different widths ({widths[0]} to {widths[-1]}) is not defined; "
            f"use layers='best' or 'last'"
        )
    end = layers[-1]
    if end.kind != kind and (end.dim, end.layout) == (chosen[-1].dim, chosen[-1].layout):
        chosen[-1] = end
    return chosen


def layers_read(layers: Sequence[Layer], mean: bool) -> list[Layer]:
    """The layers that are scored: those that there are, or the mean of the hidden ones.

    Raises:
        InvalidInputError: the mean of layers that differ in width.
    """
    if not mean:
        return list(layers)
    return [replace(hidden_layers(layers)[-1], name=MEAN, index=0, depth=1.0)]


class Batch(Mapping[str, np.ndarray]):
    """Pooled features (n, D) of some examples by the name of the layer, each read when asked for.

    Args:
        shard: arrays of a shard; under ``LOGITS`` the classifier's output, which is given as
            source probabilities (n, Z).
        averaged: names of the layers whose mean, in float32, is given under ``MEAN``.

    >>> shard = {"a": np.zeros((1, 2)), "b": np.ones((1, 2)), LOGITS: np.array([[0.0, 0.0]])}
    >>> batch = Batch(shard, ["a", "b"])
    >>> batch["a"], batch[MEAN], batch[LOGITS]
    (array([[0., 0.]]), array([[0.5, 0.5]], dtype=float32), array([[0.5, 0.5]]))
    """

    def __init__(self, shard: Mapping[str, np.ndarray], averaged: Sequence[str] = ()) -> None:
        self._shard, self._averaged = shard, averaged

    def __getitem__(self, name: str) -> np.ndarray:
        if name == LOGITS:
            return softmax(self._shard[LOGITS].astype(np.float64), axis=1)
        if name == MEAN and self._averaged:
            return mean_of([self._shard[part] for part in self._averaged])
        return self._shard[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._shard, *([MEAN] if self._averaged else [])])

    def __len__(self) -> int:
        return sum(1 for _ in self)  # a list asks for its length


def mean_of(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of features of several layers, example by example, in float32."""
    total = parts[0].astype(np.float32)
    for part in parts[1:]:
        total += part
    return total / len(parts)
