"""Features and source probabilities of a stated size, the same on every machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfer_metrics.errors import InvalidInputError

SOURCES = 1000


@dataclass(frozen=True)
class Size:
    """N examples of D features in C classes.

    >>> Size.parse("10000x2048x100")
    Size(n=10000, dim=2048, classes=100)
    >>> print(Size(60, 8, 3))
    60x8x3
    """

    n: int
    dim: int
    classes: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read ``NxDxC``.

        Raises:
            InvalidInputError: not three whole numbers, or fewer than two classes of two examples.
        """
        parts = text.strip().split("x")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise InvalidInputError(f"a size is written NxDxC, as in 10000x2048x100, not {text!r}")
        size = cls(*map(int, parts))
        if size.classes < 2 or size.n < 2 * size.classes or size.dim < 2:
            raise InvalidInputError(
                f"size {text!r} needs two features, two classes, and two examples of each class"
            )
        return size

    def __str__(self) -> str:
        return f"{self.n}x{self.dim}x{self.classes}"


def features(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Features as after a ReLU, (N, D) float32, with classes that overlap, and labels (N,).

    >>> x, y = features(Size(60, 8, 3))
    >>> x.shape, str(x.dtype), x.min() >= 0, np.bincount(y).tolist()
    ((60, 8), 'float32', np.True_, [20, 20, 20])
    """
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(size.n) % size.classes)
    hidden = min(64, size.dim)
    # Directions of decreasing weight make the features correlated, as a network's are.
    weights = rng.standard_normal((hidden, size.dim)) * np.linspace(1.0, 0.1, hidden)[:, None]
    x = rng.standard_normal((size.n, hidden), dtype=np.float32)
    x += 0.4 * rng.standard_normal((size.classes, hidden), dtype=np.float32)[y]
    x = x @ (weights / np.sqrt(hidden)).astype(np.float32)
    x += 0.5 * rng.standard_normal(x.shape, dtype=np.float32)
    return np.maximum(x, 0, out=x), y


def probabilities(size: Size, sources: int = SOURCES) -> tuple[np.ndarray, np.ndarray]:
    """A source head's softmax over its own classes, (N, Z) float64, and labels (N,).

    >>> p, y = probabilities(Size(60, 8, 3), sources=5)
    >>> p.shape, bool(np.allclose(p.sum(axis=1), 1)), np.bincount(y).tolist()
    ((60, 5), True, [20, 20, 20])
    """
    rng = np.random.default_rng(1)
    y = rng.permutation(np.arange(size.n) % size.classes)
    p = rng.standard_normal((size.n, sources))
    p += 2.0 * rng.standard_normal((size.classes, sources))[y]
    np.exp(p, out=p)
    p /= p.sum(axis=1, keepdims=True)
    return p, y
