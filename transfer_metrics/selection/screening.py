"""Reading all columns once: how strongly each pulls, and the strongest for a working set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.selection.group_softmax import row_lengths

MOST_BYTES = 1 << 27
MOST_COLUMNS = 4096
FEWEST_COLUMNS = 64


def most_columns(n: int) -> int:
    """How many columns of N numbers one pass collects at most.

    >>> most_columns(1000), most_columns(50_000)
    (4096, 335)
    """
    return int(np.clip(MOST_BYTES // (8 * n), FEWEST_COLUMNS, MOST_COLUMNS))


@dataclass(frozen=True)
class Screened:
    """What one pass over all columns found.

    Attributes:
        norms: ``‖x_i'R‖`` of every column, (D,) float64.
        columns: the strongest that were not known before, (k,).
        x: those columns as they are, (N, k) float64.
    """

    norms: np.ndarray
    columns: np.ndarray
    x: np.ndarray

    @property
    def exact(self) -> np.ndarray:
        """Norms of the collected columns, (k,), computed in float64."""
        return self.norms[self.columns]


@dataclass(frozen=True)
class WorkingSet:
    """The columns whose weights are being solved for.

    Attributes:
        columns: their numbers, (k,), in no order.
        x: the columns less their means, (N, k) float64.
        means: (k,).
        weights: (k, C).
    """

    columns: np.ndarray
    x: np.ndarray
    means: np.ndarray
    weights: np.ndarray

    @classmethod
    def empty(cls, n: int, classes: int) -> WorkingSet:
        """No columns, for N examples of C classes."""
        return cls(np.zeros(0, np.int64), np.zeros((n, 0)), np.zeros(0), np.zeros((0, classes)))

    def with_columns(self, found: Screened, above: float) -> WorkingSet:
        """The same with the collected columns whose norm is at least ``above``, at weight zero."""
        chosen = found.exact >= above
        x, means = _centred(found.x[:, chosen])
        return WorkingSet(
            np.concatenate([self.columns, found.columns[chosen]]),
            np.concatenate([self.x, x], axis=1),
            np.concatenate([self.means, means]),
            np.concatenate([self.weights, np.zeros((len(means), self.weights.shape[1]))]),
        )

    def solved(self, weights: np.ndarray) -> WorkingSet:
        """The columns whose new weights are not zero, with these."""
        kept = row_lengths(weights) > 0
        return WorkingSet(self.columns[kept], self.x[:, kept], self.means[kept], weights[kept])


def screen_columns(
    features: LayerColumns,
    residual: np.ndarray,
    *,
    most: int,
    above: float = 0.0,
    known: np.ndarray | None = None,
) -> Screened:
    """Read all columns once and collect the strongest.

    Args:
        features: N examples of D columns.
        residual: R, (N, C) float64, whose columns sum to zero.
        most: how many columns to collect at most.
        above: collect columns from this norm on.
        known: columns not to collect.

    Returns:
        The norms of all columns, in the columns' own precision except those of the collected ones.

    Raises:
        InvalidInputError: a layer has NaN or infinite values.

    Cost: O(N D C); one layer and ``2 most`` columns are in memory.
    """
    norms, strongest = np.empty(features.dim), _Strongest(most, above)
    fresh = np.ones(features.dim, dtype=bool)
    if known is not None:
        fresh[known] = False
    with np.errstate(invalid="ignore", over="ignore"):  # said below, with the layer's name
        for start, block in features.blocks():
            found = _norms(block, residual)
            here = slice(start, start + len(found))
            norms[here] = found
            if not np.isfinite(found.sum()):
                layer = features.names[int(features.layer_of(start))]
                raise InvalidInputError(
                    f"layer {layer!r} has NaN or infinite values, or too large ones; drop those "
                    f"examples or fix the network"
                )
            strongest.add(start, block, np.where(fresh[here], found, -1.0))
    columns, x = strongest.columns, np.empty((len(features), len(strongest.rows)))
    for place, row in enumerate(strongest.rows):
        x[:, place] = row
    norms[columns] = row_lengths(_centred(x)[0].T @ residual)
    return Screened(norms, columns, x)


class _Strongest:
    """The columns of largest norm so far; ``above`` rises as they become many."""

    def __init__(self, most: int, above: float) -> None:
        self.most, self.above = most, above
        self.columns = np.zeros(0, np.int64)
        self.norms = np.zeros(0)
        self.rows: list[np.ndarray] = []

    def add(self, start: int, block: np.ndarray, norms: np.ndarray) -> None:
        """Offer the columns of a block."""
        chosen = np.flatnonzero(norms >= self.above)
        # Only the strongest of this block can stay; the others need not be copied.
        chosen = chosen[np.argsort(-norms[chosen], kind="stable")[: self.most]]
        self.columns = np.concatenate([self.columns, start + chosen])
        self.norms = np.concatenate([self.norms, norms[chosen]])
        self.rows += list(np.ascontiguousarray(block[:, chosen].T))
        if len(self.columns) > self.most:
            kept = np.argsort(-self.norms, kind="stable")[: self.most]
            self.columns, self.norms = self.columns[kept], self.norms[kept]
            self.rows = [self.rows[i].copy() for i in kept]
            self.above = max(self.above, float(self.norms[-1]))


def _norms(block: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """``‖x_i'R‖`` of the columns of a block, without the digits that a common offset costs."""
    precision = np.float32 if block.dtype in (np.float16, np.float32) else np.float64
    block = block.astype(precision, copy=False)
    # R sums to zero, so any offset may be taken off; with a row's, constants are exactly zero.
    return row_lengths(((block - block[:1]).T @ residual.astype(precision)).astype(np.float64))


def _centred(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns (N, k) less their means, and the means; constant columns are exactly zero."""
    shifted = x - x[:1]
    means = shifted.mean(axis=0)
    return shifted - means, means + x[0]
