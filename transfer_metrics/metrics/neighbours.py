"""Exact nearest neighbours: candidates by faiss, proof that none is missing, float64 ranks."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch

from transfer_metrics.errors import InvalidInputError


def _import_faiss() -> ModuleType:
    """Faiss, with linear algebra that uses what this processor can do.

    Its wheels have an OpenBLAS of 2021, which takes a processor that it does not know for one of
    2004, eight times slower. What the user says in ``OPENBLAS_CORETYPE`` stays.
    """
    known = {"AVX512": "SkylakeX", "AVX2": "Haswell"}.get(torch.backends.cpu.get_cpu_capability())
    unsaid = "OPENBLAS_CORETYPE" not in os.environ
    if known and unsaid:
        os.environ["OPENBLAS_CORETYPE"] = known
    try:
        return importlib.import_module("faiss")
    finally:
        if known and unsaid:
            del os.environ["OPENBLAS_CORETYPE"]


_faiss = _import_faiss()
# Distances of one row that differ by less than this share are the same.
_SAME = 1e-10
# Numbers in a block of distances, and in a block of rows that stays in the processor's cache.
_DISTANCES, _ROWS = 1 << 22, 1 << 17


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of some rows, with all that are as near as the k-th."""

    rows: np.ndarray  # row numbers, (B,)
    of: np.ndarray  # position in ``rows`` of the row that each belongs to, ascending, (P,)
    found: np.ndarray  # row number of each neighbour, (P,)
    first: np.ndarray  # how many neighbours of the same row are nearer, (P,)
    last: np.ndarray  # how many are nearer or at the same distance, (P,)


def neighbours(
    x: np.ndarray, k: int, slack: float = 0.0, apart: np.ndarray | None = None
) -> Iterator[Neighbours]:
    """The k nearest other rows of each row by Euclidean distance, and those that tie with the k-th.

    Faiss finds candidates in float32, in which a squared distance ``s`` of centred rows is off by
    no more than ``g (‖a‖ + ‖b‖)²``, ``g = (D + 16) 2⁻²⁴``, whatever the order of the sums. Where
    that leaves room for a row that is no candidate, all distances of the row are computed in
    float64, with ``2⁻⁵³`` for ``2⁻²⁴``. What remains within the bound is measured as
    ``Σ (a - b)²`` in float64, which does not cancel, and ranked by that.

    Rows are (N, D), float64 and C-contiguous. Distances that differ by no more than ``slack``, or
    ``_SAME`` of their size, are the same. Rows that are ``apart``, (N,) bool, are as far from every
    other row as from any, whatever ``x`` says of them among each other.

    >>> [found] = neighbours(np.array([[0.0], [1.0], [2.0], [5.0]]), 1)
    >>> found.of.tolist(), found.found.tolist(), found.last.tolist()
    ([0, 1, 1, 2, 3], [1, 0, 2, 1, 2], [1, 2, 2, 1, 1])
    """
    n, dim = x.shape
    with np.errstate(over="ignore", invalid="ignore"):
        centre, spread = x.mean(axis=0), float((x.max(axis=0) - x.min(axis=0)).max())
    if not (np.isfinite(centre).all() and math.isfinite(spread)):
        raise InvalidInputError("X has values too large for distances in float64; rescale it")
    if spread == 0:
        raise InvalidInputError("all rows of X are equal; no example is nearer than another")
    # A power of two, so that no digit changes and no square under- or overflows.
    scale = math.ldexp(1.0, -min(max(math.frexp(spread)[1], -1000), 1000))
    rows, squares = np.empty(x.shape, dtype=np.float32), np.empty(n)
    for block in _slices(n, _ROWS // dim):
        centred = (x[block] - centre) * scale
        rows[block] = centred
        squares[block] = np.einsum("ij,ij->i", centred, centred)
    bound = _Bound(squares, slack * scale, (dim + 16) * 2.0**-24, dim * 2.0**-126)
    width = min(2 * k + 16, n)
    index = _faiss.IndexFlatL2(dim)
    index.add(rows)
    rough, candidates = index.search(rows, width)
    del index, rows
    rough[candidates == np.arange(n)[:, None]] = np.inf
    rough[candidates < 0] = np.inf
    limit = bound(np.partition(rough, k - 1, axis=1)[:, k - 1], np.arange(n))
    farthest = np.where(np.isfinite(rough), rough, -np.inf).max(axis=1)
    complete = (farthest > limit) | (width == n)
    asked = np.ones(n, dtype=bool) if apart is None else ~apart
    for block in _slices(n, _DISTANCES // width // 4):
        chosen = np.flatnonzero(complete[block] & asked[block]) + block.start
        of, column = np.nonzero(rough[chosen] <= np.minimum(limit, 1e300)[chosen, None])
        found = candidates[chosen[of], column]
        distances = _distances(x, chosen[of], found, scale)
        yield _ranked(chosen, of, found, distances, k, slack * scale)
    for block in _slices(n, _DISTANCES // n):
        if not asked[block].all():
            yield _all_tied(np.flatnonzero(~asked[block]) + block.start, n)
    rest = np.flatnonzero(~complete & asked)
    if not len(rest):
        return
    centred = (x - centre) * scale
    first = _first_equal(x)
    bound = _Bound(squares, slack * scale, (dim + 16) * 2.0**-53, 0.0)
    for block in _slices(len(rest), _DISTANCES // n):
        chosen = rest[block]
        table = squares[chosen, None] + squares - 2.0 * (centred[chosen] @ centred.T)
        table[np.arange(len(chosen)), chosen] = np.inf
        limit = bound(np.partition(table, k - 1, axis=1)[:, k - 1], chosen)
        of, found = np.nonzero(table <= limit[:, None])
        # Rows that occur often are measured once.
        pairs, place = np.unique(first[chosen[of]] * n + first[found], return_inverse=True)
        distances = _distances(x, pairs // n, pairs % n, scale)[place]
        yield _ranked(chosen, of, found, distances, k, slack * scale)


@dataclass(frozen=True)
class _Bound:
    """Up to which rough squared distance a row as near as the k-th can lie.

    A row b at a true squared distance s of a has ``‖b‖ <= ‖a‖ + √s``, so its rough one is off by at
    most ``g (2 ‖a‖ + √s)² <= g (8 ‖a‖² + 2 s)``. The k smallest rough ones bound the true k-th.
    """

    squares: np.ndarray
    slack: float
    g: float
    tiny: float

    def __call__(self, kth: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self.g > 0.1:
            return np.full(len(rows), np.inf)
        error = 8.0 * self.g * self.squares[rows] + self.tiny
        highest = (np.maximum(kth.astype(np.float64), 0.0) + error) / (1.0 - 2.0 * self.g)
        highest = (np.sqrt(highest) * (1.0 + 2.0 * _SAME) + self.slack) ** 2
        return highest * (1.0 + 2.0 * self.g) + error


def _distances(x: np.ndarray, left: np.ndarray, right: np.ndarray, scale: float) -> np.ndarray:
    """Scaled Euclidean distances of pairs of rows: the differences are exact but for rounding."""
    found = np.empty(len(left))
    for block in _slices(len(left), _ROWS // x.shape[1]):
        difference = x[left[block]]
        difference -= x[right[block]]
        difference *= scale
        found[block] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(found, out=found)


def _ranked(
    rows: np.ndarray,
    of: np.ndarray,
    found: np.ndarray,
    distances: np.ndarray,
    k: int,
    slack: float,
) -> Neighbours:
    """Sort the neighbours of each row, leave out those beyond the k-th, and find ties."""
    order = np.lexsort((distances, of))
    of, found, distances = of[order], found[order], distances[order]
    start = np.searchsorted(of, np.arange(len(rows)))
    kth = distances[start + k - 1]
    kept = distances <= (kth * (1.0 + _SAME) + slack)[of]
    of, found, distances = of[kept], found[kept], distances[kept]
    gap = np.diff(distances, prepend=-np.inf)
    new = np.diff(of, prepend=-1).astype(bool) | (gap > _SAME * distances + slack)
    ends = np.append(np.flatnonzero(new), len(of))
    group = np.cumsum(new) - 1
    start = np.searchsorted(of, np.arange(len(rows)))[of]
    return Neighbours(rows, of, found, ends[group] - start, ends[group + 1] - start)


def _all_tied(rows: np.ndarray, n: int) -> Neighbours:
    """All other rows are the nearest of these."""
    of, found = np.nonzero(rows[:, None] != np.arange(n))
    first = np.zeros(len(of), dtype=np.int64)
    return Neighbours(rows, of, found, first, first + (n - 1))


def _first_equal(x: np.ndarray) -> np.ndarray:
    """For each row the number of the first row that equals it bit for bit, (N,)."""
    whole = np.ascontiguousarray(x).view(np.dtype((np.void, x.strides[0]))).ravel()
    _, first, group = np.unique(whole, return_index=True, return_inverse=True)
    return first[group]


def _slices(n: int, size: int) -> Iterator[slice]:
    size = max(size, 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
