"""As many examples as one likes that take no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np


class Recipe(Sequence[np.ndarray]):
    """N examples of D numbers that are made when they are read, and never held: O(D) memory."""

    def __init__(self, n: int, dim: int, classes: int) -> None:
        self._n, self._dim, self._classes = n, dim, classes
        rng = np.random.default_rng(0)
        # Two periods that share no factor make as many different sums as their product.
        self._parts = [rng.standard_normal((p, dim), dtype=np.float32) for p in (251, 256)]
        self._centres = np.float32(0.5) * rng.standard_normal((classes, dim), dtype=np.float32)

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n))]
        if not 0 <= index < self._n:
            raise IndexError(index)
        a, b = self._parts
        return a[index % len(a)] + b[index % len(b)] + self._centres[index % self._classes]

    def content(self) -> Iterator[bytes]:
        """What the fingerprint is of: the recipe, which takes no time to read."""
        yield f"{self._n} {self._dim} {self._classes}".encode()
