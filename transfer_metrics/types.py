"""Small shared value types."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One place in a network where features are read.

    Attributes:
        name: dotted module path, with ``:k`` for the k-th call of a module that runs more than
            once; ``"<head>:input"`` is what enters the classifier.
        index: position among the listed layers, in call order.
        depth: position among all traced calls, scaled to (0, 1].
        kind: class name of the module.
        shape: output shape of one example.
        layout: ``NCHW``, ``NHWC``, ``NTC``, ``NCT``, ``TNC`` or ``ND``; what the axes mean.
        dim: number of features after pooling.
        bytes: float32 bytes of one pooled example.
        params: parameters inside the module.
    """

    name: str
    index: int
    depth: float
    kind: str
    shape: tuple[int, ...]
    layout: str
    dim: int
    bytes: int
    params: int
