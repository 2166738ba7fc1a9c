"""All that the asked metrics need of one layer, as one value that is built, merged and kept."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.influence import Influence
from transfer_metrics.statistics.joint import SourceJoint
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.moments import ClassMoments
from transfer_metrics.statistics.needs import Labels, Needs
from transfer_metrics.statistics.sample import FeatureSample
from transfer_metrics.statistics.saving import Saved
from transfer_metrics.statistics.targets import TargetMoments

_NO_INFLUENCE: Mapping[str, Influence] = MappingProxyType({})
_SMOOTH = 10
"""Examples per feature from which scores are smooth enough in the weights of examples."""


@dataclass(frozen=True, eq=False)
class Statistics(Saved):
    """What the asked metrics need of some examples of one layer; ``a + b`` merges two parts.

    Attributes:
        keys: family of each statistic, with the labels that it is of.
        held: of each, one statistic for each block; None where a block has no example yet.
        seconds: what each took to build.
        refused: why each could not be built; empty where it could.
        shared: of which keys all readers want the eigendecomposition of the total scatter.

    Cost: that of the statistics; ``Needs.bytes`` of memory.
    """

    keys: tuple[str, ...]
    held: tuple[tuple[Any, ...], ...]
    seconds: tuple[float, ...]
    refused: tuple[str, ...]
    shared: tuple[str, ...] = ()

    @classmethod
    def of(cls, needs: Sequence[Needs], x: Any, labels: Labels) -> Statistics:
        """Those of features, or source probabilities, (n, D), with the labels of the rows."""
        keys: list[str] = []
        held: list[tuple[Any, ...]] = []
        seconds, refused = [], []
        for need in needs:
            y = labels.bins if need.of_bins else labels.values
            blocks = list(_by_block(need.blocks, x, y, labels.units))
            for family, key in zip(need.families, need.keys, strict=True):
                found: list[Any] = [None] * (need.blocks or 1)
                why, started = "", time.perf_counter()
                try:
                    for rows, chosen, block in blocks:
                        found[block] = build_statistic(
                            family, need.parts, need.kind, rows, chosen, need.num_classes
                        )
                except InvalidInputError as error:
                    why = str(error)
                keys.append(key)
                held.append(tuple(found))
                seconds.append(time.perf_counter() - started)
                refused.append(why)
        shared = tuple(n.keys[_first(n)] for n in needs if "spectrum" in n.parts)
        return cls(tuple(keys), tuple(held), tuple(seconds), tuple(refused), shared)

    @staticmethod
    def of_batches(
        batches: Iterable[Mapping[str, Any]], needs: Mapping[str, Sequence[Needs]], labels: Labels
    ) -> dict[str, Statistics]:
        """Those of each layer of ``needs``, from batches of consecutive examples by layer."""
        found: dict[str, Statistics] = {}
        start = 0
        for batch in batches:
            for name, wanted in needs.items():
                x = batch[name]
                new = Statistics.of(wanted, x, labels[start : start + len(x)])
                found[name] = found[name] + new if name in found else new
            start += len(x)
        return found

    def __add__(self, other: Statistics) -> Statistics:
        held, seconds, refused = [], [], []
        for i in range(len(self.keys)):
            started = time.perf_counter()
            why = self.refused[i] or other.refused[i]
            pairs = zip(self.held[i], other.held[i], strict=True)
            held.append(() if why else tuple(_sum(a, b) for a, b in pairs))
            refused.append(why)
            seconds.append(self.seconds[i] + other.seconds[i] + time.perf_counter() - started)
        return dataclasses.replace(
            self, held=tuple(held), seconds=tuple(seconds), refused=tuple(refused)
        )

    def whole(
        self,
        class_scatter: Callable[[ClassMoments], Sequence[Scatter]] | None = None,
        influences: Mapping[str, Influence] = _NO_INFLUENCE,
    ) -> dict[str, tuple[Any, float]]:
        """The statistic of all blocks together under each key that has one, and its seconds.

        ``class_scatter`` gives the scatter of each class for moments that were built without, and
        ``influences`` have the moments of all where those of the blocks were merged before.
        Samples use the moments of the same rows, and readers share one eigendecomposition.
        """
        found: dict[str, Any] = {}
        spent = dict(zip(self.keys, self.seconds, strict=True))
        for key in self.keys:
            started = time.perf_counter()
            if key in influences:
                found[key] = influences[key].whole
            elif blocks := self.blocks(key):
                found[key] = functools.reduce(operator.add, blocks)
            if class_scatter is not None and isinstance(found.get(key), ClassMoments):
                scatter = class_scatter(found[key])
                found[key] = dataclasses.replace(found[key], class_scatter=scatter)
            spent[key] += time.perf_counter() - started
        for key, sample in found.items():
            moments = found.get(key.replace("examples", "moments"))
            whole = isinstance(sample, FeatureSample) and sample.n == sample.seen
            if whole and moments is not None:
                sample.adopt(moments)
        for key in found.keys() & set(self.shared):
            started = time.perf_counter()
            _ = getattr(found[key], "moments", found[key]).total.eigh
            spent[key] += time.perf_counter() - started
        return {key: (value, spent[key]) for key, value in found.items()}

    def influence(self, key: str) -> Influence | None:
        """How class moments move with the weights of their blocks.

        None of other statistics, and of fewer than ten examples per feature, where scores bend so
        much that a derivative tells too small an error.
        """
        blocks = self.blocks(key) if key in self.keys else []
        of_classes = len(blocks) > 1 and isinstance(blocks[0], ClassMoments)
        if not of_classes or sum(block.n for block in blocks) < _SMOOTH * blocks[0].dim:
            return None
        return Influence.of(blocks)

    def blocks(self, key: str) -> list[Any]:
        """The statistic of each block of examples that has any; none where it was refused."""
        place = self.keys.index(key)
        return [] if self.refused[place] else [one for one in self.held[place] if one is not None]

    def reason(self, key: str) -> str:
        """Why there is nothing under a key, empty where there is."""
        return self.refused[self.keys.index(key)]


def build_statistic(
    requires: str,
    parts: Iterable[str],
    kind: str,
    x: Any,
    y: Any,
    num_classes: int | None = None,
) -> Any:
    """The statistic of one family for one batch: features, or source probabilities, and labels."""
    if requires == "moments" and kind != "classification":
        return TargetMoments.from_batch(x, y)
    if requires == "moments":
        return ClassMoments.from_batch(x, y, num_classes, parts=parts)
    if requires == "examples":
        of_classes = kind == "classification"
        return FeatureSample.from_batch(
            x, y, num_classes if of_classes else None, regression=not of_classes, parts=parts
        )
    return SourceJoint.from_batch(x, y, num_classes)


def block_of(units: np.ndarray, blocks: int) -> np.ndarray:
    """The block of each example: a hash of its position, the same for all models and layers."""
    # SplitMix64, whose output is uniform however regular the positions are.
    z = (units.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) % np.uint64(blocks)).astype(np.int64)


def _by_block(
    blocks: int, x: Any, y: Any, units: np.ndarray
) -> Iterator[tuple[Any, np.ndarray, int]]:
    """A batch cut by block, where there are blocks."""
    if not blocks:
        yield x, y, 0
        return
    block = block_of(units, blocks)
    for b in np.unique(block):
        chosen = np.flatnonzero(block == b)
        index = torch.from_numpy(chosen).to(x.device) if torch.is_tensor(x) else chosen
        yield x[index], y[chosen], int(b)


def _first(needs: Needs) -> int:
    """Which statistic has the scatter whose decomposition is shared: the moments, if any."""
    return needs.families.index("moments") if "moments" in needs.families else 0


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b
