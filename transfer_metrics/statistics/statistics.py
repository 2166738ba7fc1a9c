"""All that the asked metrics need of one layer: as it is asked for, built, merged and kept."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.influence import Influence, Parts
from transfer_metrics.statistics.inputs import as_labels, as_targets, quantile_bins
from transfer_metrics.statistics.joint import SourceJoint
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.moments import ClassMoments
from transfer_metrics.statistics.sample import DEFAULT_LIMIT, FeatureSample
from transfer_metrics.statistics.saving import Saved
from transfer_metrics.statistics.targets import TargetMoments

FLOAT = 8
"""Bytes of a number."""
_NO_INFLUENCE: Mapping[str, Parts] = MappingProxyType({})


class _Reader(Protocol):
    """What reads a statistic, such as a metric."""

    @property
    def requires(self) -> str:
        """The family: ``"moments"``, ``"examples"`` or ``"source"``."""

    @property
    def parts(self) -> frozenset[str]:
        """Optional parts of it."""

    @property
    def bins(self) -> bool:
        """Whether regression targets are cut into quantile bins and read as classes."""


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of each of N examples beside their features."""

    values: np.ndarray  # class numbers (N,) below ``num_classes``, or targets (N,) or (N, K)
    kind: str
    num_classes: int  # C, 0 where there are no classes
    # Number of the example that each row belongs to, (N,): rows of one example, such as the tokens
    # of a sentence, stay together when examples are left out.
    units: np.ndarray
    # Place of each example in the order in which examples are dealt into blocks, (N,).
    places: np.ndarray
    bins: np.ndarray | None = None  # quantile bins of the targets, (N,), where somebody reads them
    unbinned: str = ""  # why there are none

    @classmethod
    def of(
        cls,
        values: np.ndarray,
        kind: str,
        num_classes: int,
        units: np.ndarray | None = None,
        readers: Iterable[_Reader] = (),
    ) -> Labels:
        """Labels with what ``readers`` read of them; every row is a unit unless ``units`` tell."""
        units = np.arange(len(values)) if units is None else units
        bins, why = None, ""
        if kind == "regression" and any(reader.bins for reader in readers):
            try:
                bins = quantile_bins(values)
            except InvalidInputError as error:
                why = str(error)
        return cls(values, kind, num_classes, units, _places(values, kind, units), bins, why)

    @classmethod
    def read(
        cls,
        y: Any,
        kind: str,
        n: int,
        units: np.ndarray | None = None,
        readers: Iterable[_Reader] = (),
    ) -> Labels:
        """Labels of n rows of features as people have them, which become codes or targets here."""
        if kind == "classification":
            codes, num_classes = as_labels(y, n)
            return cls.of(codes.numpy(), kind, num_classes, units)
        return cls.of(as_targets(y, n).cpu().numpy(), kind, 0, units, readers)

    def seen_by(self, reader: _Reader) -> Labels:
        """The labels that a reader reads: these, or their quantile bins as classes."""
        if not self.reads_bins(reader):
            return self
        if self.bins is None:
            raise InvalidInputError(self.unbinned)
        kind, size = "classification", int(self.bins.max()) + 1
        return dataclasses.replace(self, values=self.bins, kind=kind, num_classes=size, bins=None)

    def reads_bins(self, reader: _Reader) -> bool:
        """Whether a reader takes quantile bins for these labels."""
        return reader.bins and self.kind == "regression"

    def key_of(self, reader: _Reader) -> str:
        """What the statistic of a reader is kept under."""
        return _key(reader.requires, self.reads_bins(reader))

    def needs_of(self, readers: Sequence[_Reader], blocks: int = 0) -> list[Needs]:
        """The union of what ``readers`` need of a layer, or of a source head, by what they read.

        Nothing is needed of bins that there are not.
        """
        found = []
        for of_bins in (False, True):
            chosen = [r for r in readers if self.reads_bins(r) == of_bins]
            if not chosen or (of_bins and self.bins is None):
                continue
            families = tuple(dict.fromkeys(r.requires for r in chosen))
            parts = frozenset[str]().union(*(r.parts for r in chosen))
            of_sample = frozenset[str]().union(
                *(r.parts for r in chosen if r.requires == "examples")
            )
            seen = self.seen_by(chosen[0])
            known = seen.kind, seen.num_classes, blocks, of_bins
            found.append(Needs(families, parts, *known, of_sample))
        return found

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Labels:
        bins = None if self.bins is None else self.bins[rows]
        return dataclasses.replace(
            self,
            values=self.values[rows],
            units=self.units[rows],
            places=self.places[rows],
            bins=bins,
        )


@dataclass(frozen=True)
class Needs:
    """What is built of a layer for all who read the same labels; known before any features are."""

    families: tuple[str, ...]  # the kinds of statistics
    parts: frozenset[str]  # optional parts of them
    kind: str  # kind of the task; of bins, ``"classification"``
    num_classes: int  # C, 0 where there are no classes
    blocks: int = 0  # how many blocks of examples are kept apart, 0 for none
    of_bins: bool = False  # whether the labels are quantile bins
    of_sample: frozenset[str] = frozenset()  # parts that moments of a sample keep

    @property
    def keys(self) -> tuple[str, ...]:
        """What the statistics are kept under."""
        return tuple(_key(family, self.of_bins) for family in self.families)

    @property
    def shared(self) -> str:
        """Whose total scatter is decomposed for all: that of the moments, if there are any."""
        return self.keys[self.families.index("moments") if "moments" in self.families else 0]

    def without_classes(self) -> Needs:
        """The same without the scatter of each class."""
        return dataclasses.replace(self, parts=self.parts - {"class"})

    def bytes(self, dim: int, counts: np.ndarray, targets: int = 1) -> int:
        """The most that the statistics take of D features and (C,) examples of each class.

        ``counts`` is one number for a regression, of K targets.
        """
        parts = max(self.blocks, 1)
        of_part = -(-counts // parts)
        n, numbers = int(of_part.sum()), 0
        if "moments" in self.families:
            # Every merge of two parts of a class adds a row to what is kept as rows.
            width = dim if self.kind == "classification" else dim + targets
            numbers += min(2 * n, width) * width + (len(counts) + 2) * width
            if "class" in self.parts:
                numbers += int(np.minimum(2 * of_part, dim).sum()) * dim
        if "examples" in self.families:
            numbers += min(n, DEFAULT_LIMIT) * (dim + targets)
        if "source" in self.families:
            numbers += len(counts) * dim
        return FLOAT * parts * numbers


def _key(family: str, of_bins: bool) -> str:
    return f"{family} of bins" if of_bins else family


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
            blocks = list(_by_block(need.blocks, x, y, labels.places))
            for family, key in zip(need.families, need.keys, strict=True):
                found: list[Any] = [None] * (need.blocks or 1)
                why, started = "", time.perf_counter()
                parts = need.of_sample if family == "examples" else need.parts
                try:
                    for rows, chosen, block in blocks:
                        found[block] = build_statistic(
                            family, parts, need.kind, rows, chosen, need.num_classes
                        )
                except InvalidInputError as error:
                    why = str(error)
                keys.append(key)
                held.append(tuple(found))
                seconds.append(time.perf_counter() - started)
                refused.append(why)
        shared = tuple(n.shared for n in needs if "spectrum" in n.parts)
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
        influences: Mapping[str, Parts] = _NO_INFLUENCE,
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
                found[key] = influences[key].statistic
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

    def influence(self, key: str) -> Parts | None:
        """How moments move with the weights of their blocks, or what else these are parts of.

        None of samples, and of so few examples per feature that scores bend, where blocks have not
        kept them as rows.
        """
        blocks = self.blocks(key) if key in self.keys else []
        if len(blocks) < 2 or isinstance(blocks[0], FeatureSample):
            return None
        found = Parts.of(blocks)
        bent = isinstance(found, Influence) and found.bends and found.leverage is None
        return None if bent else found

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


def _places(values: np.ndarray, kind: str, units: np.ndarray) -> np.ndarray:
    """The order in which examples are dealt into blocks: by class, within it by a hash of places.

    So all blocks have as many of each class, to one, and are the same for all models and layers.
    Rows of one unit, such as the tokens of a sentence, have the place of the unit.
    """
    # SplitMix64, whose output is uniform however regular the positions are.
    z = (units.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    if len(units) and (np.diff(units) == 0).any():
        return (z >> np.uint64(1)).astype(np.int64)
    places = np.empty(len(units), np.int64)
    keys = (z, values) if kind == "classification" else (z,)
    places[np.lexsort(keys)] = np.arange(len(units))
    return places


def _by_block(
    blocks: int, x: Any, y: Any, places: np.ndarray
) -> Iterator[tuple[Any, np.ndarray, int]]:
    """A batch cut by block, where there are blocks."""
    if not blocks:
        yield x, y, 0
        return
    block = places % blocks
    for b in np.unique(block):
        chosen = np.flatnonzero(block == b)
        index = torch.from_numpy(chosen).to(x.device) if torch.is_tensor(x) else chosen
        yield x[index], y[chosen], int(b)


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b
