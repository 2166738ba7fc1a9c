"""The mean of a network's layers as one layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.layers import Layer
from transfer_metrics.features.store import FeatureStore

MEAN = "mean"
"""Name of the layer."""


def hidden_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers of a deep stack, such as those of a transformer, among the blocks of a network.

    These are the blocks of the class that occurs most often, of several the one that comes last.
    Where a layer of the same width follows them, the normalisation that ends many transformers, it
    stands in for the last of them, as in the hidden states of the ``transformers`` library; word
    embeddings do not count.

    Args:
        layers: the blocks of a network, in call order.

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


class MeanStore(FeatureStore):
    """Features of one layer, ``mean``: the mean of a store's hidden layers, example by example.

    Nothing is copied: features are read from where they lie and averaged in float32.

    Args:
        store: features of the blocks of a network.

    Raises:
        InvalidInputError: the layers differ in width.

    >>> from torch import nn
    >>> from transfer_metrics.features.extract import extract
    >>> network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> store = extract(network, (np.eye(4), [0, 1, 0, 1]), ["0", "1"], progress=False)
    >>> np.allclose(MeanStore(store)["mean"], (store["0"] + store["1"]) / 2)
    True
    """

    def __init__(self, store: FeatureStore) -> None:
        parts = hidden_layers(store.layers)
        layer = replace(parts[-1], name=MEAN, index=0, depth=1.0)
        super().__init__({**store.manifest, "layers": [asdict(layer)]}, store._shards)
        self._store = store
        self._parts = [part.name for part in parts]

    def batches(self, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Features (n, D) and labels, shard by shard.

        Raises:
            LayerNotFoundError: it is not ``mean``.
        """
        self._check(name)
        for shards in zip(*(self._store.batches(part) for part in self._parts), strict=True):
            yield _mean([x for x, _ in shards]), shards[0][1]

    def rows(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Features (k, D) of the examples at some positions, in the order asked for.

        Raises:
            LayerNotFoundError: it is not ``mean``.
        """
        self._check(name)
        return _mean([self._store.rows(part, positions) for part in self._parts])

    def _read(self, name: str) -> np.ndarray:
        if name != MEAN:
            return self._store._read(name)
        return _mean([self._store._read(part) for part in self._parts])


def _mean(parts: Sequence[np.ndarray]) -> np.ndarray:
    total = parts[0].astype(np.float32)
    for part in parts[1:]:
        total += part
    return total / len(parts)
