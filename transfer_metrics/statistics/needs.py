"""What is asked of a layer before any feature is there: labels, and what its readers need."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.statistics.inputs import as_labels, as_targets, quantile_bins
from transfer_metrics.statistics.sample import DEFAULT_LIMIT

FLOAT = 8
"""Bytes of a number."""
CLASS_BYTES = 1 << 30
"""Scatter of the classes that takes more is computed class by class where rows can be read."""


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
        return cls(values, kind, num_classes, units, bins, why)

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
        return Labels(self.bins, "classification", int(self.bins.max()) + 1, self.units)

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
            seen = self.seen_by(chosen[0])
            found.append(Needs(families, parts, seen.kind, seen.num_classes, blocks, of_bins))
        return found

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Labels:
        bins = None if self.bins is None else self.bins[rows]
        return dataclasses.replace(
            self, values=self.values[rows], units=self.units[rows], bins=bins
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

    @property
    def keys(self) -> tuple[str, ...]:
        """What the statistics are kept under."""
        return tuple(_key(family, self.of_bins) for family in self.families)

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


def has_large_classes(needs: Sequence[Needs], labels: Labels, dim: int) -> bool:
    """Whether scatter of the classes is better computed class by class, from rows read again."""
    wanted = [need for need in needs if "class" in need.parts and not need.of_bins]
    if labels.kind != "classification" or not wanted or wanted[0].blocks:
        return False
    counts = np.bincount(labels.values, minlength=labels.num_classes)
    return int(np.minimum(counts, dim).sum()) * dim * FLOAT > CLASS_BYTES


def _key(family: str, of_bins: bool) -> str:
    return f"{family} of bins" if of_bins else family
