"""Statistics of a part of the examples, for all that a set of metrics needs of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import Metric, build_statistic
from transfer_metrics.statistics.inputs import quantile_bins
from transfer_metrics.statistics.saving import Saved


@dataclass(frozen=True)
class Needs:
    """What a set of metrics needs of a pass over features.

    Attributes:
        families: the kinds of statistics.
        parts: optional parts of them.
        kind: kind of the task.
        num_classes: C, 0 where there are no classes.
        blocks: how many blocks of examples are kept apart as well, 0 for none.
    """

    families: tuple[str, ...]
    parts: frozenset[str]
    kind: str
    num_classes: int
    blocks: int

    @classmethod
    def of(cls, metrics: Sequence[Metric], kind: str, num_classes: int, blocks: int = 0) -> Needs:
        """The union of what metrics of features, or of source probabilities, require."""
        families = tuple(dict.fromkeys(m.requires for m in metrics))
        parts = frozenset().union(*(m.parts for m in metrics))
        return cls(families, parts, kind, num_classes, blocks)


@dataclass(frozen=True, eq=False)
class Pieces(Saved):
    """The statistics of a part of the examples; ``a + b`` merges two parts.

    Attributes:
        held: of each family and each block; None where a block has no example yet.
        seconds: what each family took.
    """

    held: tuple[tuple[Any, ...], ...]
    seconds: tuple[float, ...]

    @classmethod
    def none(cls, needs: Needs) -> Pieces:
        """Those of no example."""
        empty = (None,) * (needs.blocks or 1)
        return cls((empty,) * len(needs.families), (0.0,) * len(needs.families))

    @classmethod
    def of_batch(cls, needs: Needs, x: Any, labels: np.ndarray, units: np.ndarray) -> Pieces:
        """Those of features (n, D), their labels and the numbers of their examples, (n,).

        Raises:
            InvalidInputError: what the statistics do not accept.
        """
        pieces = cls.none(needs)
        held, seconds = [list(blocks) for blocks in pieces.held], list(pieces.seconds)
        for rows, chosen, block in _by_block(needs.blocks, x, labels, units):
            for i, family in enumerate(needs.families):
                started = time.perf_counter()
                held[i][block] = build_statistic(
                    family, needs.parts, needs.kind, rows, chosen, needs.num_classes
                )
                seconds[i] += time.perf_counter() - started
        return cls(tuple(map(tuple, held)), tuple(seconds))

    def __add__(self, other: Pieces) -> Pieces:
        held, seconds = [], []
        for ours, theirs, *spent in zip(
            self.held, other.held, self.seconds, other.seconds, strict=True
        ):
            started = time.perf_counter()
            held.append(tuple(map(_sum, ours, theirs)))
            seconds.append(sum(spent) + time.perf_counter() - started)
        return Pieces(tuple(held), tuple(seconds))


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


@dataclass(frozen=True)
class Group:
    """Metrics that read the same rows with the same labels.

    Attributes:
        metrics: the metrics.
        labels: (N,) class numbers, or (N,) or (N, K) targets.
        needs: what they need of a pass.
        error: why there is nothing to read for them, such as targets that cannot be binned.
    """

    metrics: tuple[Metric, ...]
    labels: np.ndarray
    needs: Needs
    error: str | None = None


def groups_of(
    metrics: Sequence[Metric], labels: np.ndarray, kind: str, num_classes: int, blocks: int = 0
) -> list[Group]:
    """Metrics of features, or of source probabilities, by the labels that they read.

    Those that take classes only read regression targets cut into quantile bins.
    """
    binned = [m for m in metrics if m.bins and kind == "regression"]
    groups = []
    plain = tuple(m for m in metrics if m not in binned)
    if plain:
        groups.append(Group(plain, labels, Needs.of(plain, kind, num_classes, blocks)))
    if binned:
        try:
            codes, error = quantile_bins(labels), None
        except InvalidInputError as reason:
            codes, error = np.zeros(len(labels), dtype=np.int64), str(reason)
        needs = Needs.of(binned, "classification", int(codes.max()) + 1, blocks)
        groups.append(Group(tuple(binned), codes, needs, error))
    return groups


def block_of(units: np.ndarray, blocks: int) -> np.ndarray:
    """The block of each example: a hash of its position, the same for all models and layers."""
    # SplitMix64, whose output is uniform however regular the positions are.
    z = (units.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) % np.uint64(blocks)).astype(np.int64)


def _by_block(
    blocks: int, x: Any, labels: np.ndarray, units: np.ndarray
) -> Iterator[tuple[Any, np.ndarray, int]]:
    """A batch cut by block, where there are blocks."""
    if not blocks:
        yield x, labels, 0
        return
    block = block_of(units, blocks)
    for b in np.unique(block):
        chosen = np.flatnonzero(block == b)
        index = torch.from_numpy(chosen).to(x.device) if torch.is_tensor(x) else chosen
        yield x[index], labels[chosen], int(b)
