"""How statistics are kept within a budget of memory: which layers, and which classes, at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.memory import total_memory
from transfer_metrics.statistics.sample import DEFAULT_LIMIT
from transfer_metrics.statistics.statistics import FLOAT, Needs
from transfer_metrics.threads import cores

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
         "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip
_OVERHEAD = 12 << 20
"""What a worker takes for anything else: batches, code that is loaded late, buffers of BLAS."""
_GAPS = 1.1
"""What the C library needs for many blocks, of what they take: it cannot use every gap again."""


def _as_bytes(size: int | str) -> int:
    """A number of bytes, or text such as ``"2GiB"``.

    >>> _as_bytes("1.5 GiB"), _as_bytes("20MB"), _as_bytes(1024)
    (1610612736, 20000000, 1024)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    if isinstance(size, bool) or found is None or found[2].lower() not in _UNITS:
        raise InvalidInputError(f"memory={size!r}; use bytes, or text such as '2GiB' or '500MB'")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def worker_memory(memory: int | str | None, workers: int | None) -> int:
    """What one worker may take, of what all may take together; half of the machine's if None."""
    total = total_memory() // 2 if memory is None else _as_bytes(memory)
    return max(1, total // (workers or cores()))


@dataclass(frozen=True)
class Pass:
    """One pass of a model over a range of examples."""

    layers: tuple[str, ...]  # the layers whose statistics are built
    # The classes whose own scatter is built, from their examples only; None for all other
    # statistics, of all examples.
    classes: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """How the statistics of a model are built within a budget."""

    passes: tuple[Pass, ...]  # one after the other over each range of examples
    by_class: frozenset[str]  # layers whose classes get a pass of their own
    bytes: int  # the most that statistics take at a time, with what building and merging them takes

    @property
    def class_bounds(self) -> dict[str, list[int]]:
        """Where the blocks of classes begin and end of each layer of ``by_class``."""
        ends = {
            name: {end for p in self.passes if p.classes and name in p.layers for end in p.classes}
            for name in sorted(self.by_class)
        }
        return {name: sorted(found) for name, found in ends.items()}

    @property
    def readings(self) -> float:
        """How often each example is run through the model."""
        whole = sum(p.classes is None for p in self.passes)
        ends = {p.layers for p in self.passes if p.classes is not None}
        return whole + len(ends)


@dataclass(frozen=True)
class _Size:
    """What one layer takes, in bytes."""

    ranged: int  # its statistics over one range
    whole: int  # its statistics over all examples
    work: int  # what scoring takes beside them
    features: int  # its features of one shard
    copies: int  # what building statistics of a shard takes beside those

    @property
    def merging(self) -> int:
        """The sum so far, the next range and the new sum; then the decompositions of scoring."""
        return 2 * self.whole + self.ranged + self.work


def _building(sizes: Iterable[_Size]) -> int:
    """Of layers that are built in one pass; a file is written from three copies of a layer."""
    sizes = list(sizes)
    return sum(s.ranged + s.features for s in sizes) + max(3 * s.ranged + s.copies for s in sizes)


def plan_passes(
    dims: Mapping[str, int],
    needs: Mapping[str, Sequence[Needs]],
    counts: np.ndarray,
    share: float,
    budget: int,
    targets: int = 1,
    shard: int = 0,
) -> Plan:
    """Put as many layers into one pass as fit.

    A layer whose per-class scatter does not fit gets it from further passes, over the examples of
    some classes at a time; each example is run through the model once more by these. All of it is
    exact. Beside the statistics this counts the pooled features of one shard, the copies that
    building, writing and merging make, and the decompositions of scoring.

    Layers of ``dims`` features come in call order; ``counts`` are the examples of each class, (C,),
    or one number for a regression of K ``targets``. One range has a ``share`` of the examples, and
    a shard so many; the ``budget`` is in bytes.

    >>> needs = [Needs(("moments",), frozenset({"class"}), "classification", 10, 0)]
    >>> counts = np.full(10, 1000)
    >>> plan = plan_passes({"a": 500, "b": 500}, {"a": needs, "b": needs}, counts, 1.0, 50 << 20)
    >>> len(plan.passes), sorted(plan.by_class), plan.readings, plan.bytes <= 50 << 20
    (5, ['a', 'b'], 2, True)
    """
    room = int((budget - _OVERHEAD) / _GAPS)
    part = np.ceil(counts * share).astype(np.int64)
    sizes, blocked = _layer_sizes(dims, needs, (part, counts), targets, shard, room)
    passes, most = [], max(size.merging for size in sizes.values())
    for group in _packed(sizes, lambda chosen: _building(chosen) <= room):
        passes.append(Pass(tuple(group)))
        most = max(most, _building(sizes[name] for name in group))
    for group in _packed(blocked, lambda chosen: _at_once(chosen, room) > 0):
        chosen = [blocked[name] for name in group]
        at_once = min(_at_once(chosen, room), len(counts))
        for start in range(0, len(counts), at_once):
            passes.append(Pass(tuple(group), (start, min(len(counts), start + at_once))))
        many = [replace(s, ranged=s.ranged * at_once) for s in chosen]
        most = max(most, _building(many), _by_class(chosen, at_once))
    return Plan(tuple(passes), frozenset(blocked), int(_GAPS * most) + _OVERHEAD)


def _layer_sizes(
    dims: Mapping[str, int],
    needs: Mapping[str, Sequence[Needs]],
    counts: tuple[np.ndarray, np.ndarray],
    targets: int,
    shard: int,
    room: int,
) -> tuple[dict[str, _Size], dict[str, _Size]]:
    """What each layer takes, and the largest class of those whose classes get further passes.

    ``counts`` are those of one range and of all examples.
    """
    part, whole = counts

    def size_of(wanted: Iterable[Needs], dim: int) -> _Size:
        wanted = list(wanted)
        return _Size(
            sum(n.bytes(dim, part, targets) for n in wanted),
            sum(n.bytes(dim, whole, targets) for n in wanted),
            sum(_scoring_bytes(n, dim, whole, targets) for n in wanted),
            shard * dim * 4,
            3 * shard * dim * FLOAT,
        )

    sizes, blocked = {}, {}
    for name, dim in dims.items():
        size = sizes[name] = size_of(needs[name], dim)
        least = max(_building([size]), size.merging)
        if least > room and not any(n.blocks for n in needs[name]):
            size = sizes[name] = size_of((n.without_classes() for n in needs[name]), dim)
            of_class = [int(np.minimum(2 * c, dim).max()) * dim * FLOAT for c in counts]
            # The other statistics of the layer are held while its classes are scored.
            work = size.whole + size.work
            one = blocked[name] = replace(size, ranged=of_class[0], whole=of_class[1], work=work)
            least = max(_building([size]), size.merging, _building([one]), _by_class([one], 1))
        if least > room:
            took, memory = ((_GAPS * b + _OVERHEAD) / 2**20 for b in (least, room))
            raise InvalidInputError(
                f"the statistics of layer {name!r} ({dim} features) take {took:.0f} MiB and "
                f"each worker has {memory:.0f} MiB beside the weights; raise memory or leave it "
                f"out, or use fewer of several workers"
            )
    return sizes, blocked


def _scoring_bytes(needs: Needs, dim: int, counts: np.ndarray, targets: int) -> int:
    """What scoring takes beside the statistics: a decomposition, and more for each block left out.

    LAPACK's divide and conquer works on twice the matrix beside the matrix and its vectors.
    """
    n, width, total = int(counts.sum()), dim, 0
    if "moments" in needs.families:
        width += 0 if needs.kind == "classification" else targets
        side = min(n, width)
        total += 4 * side * side + 2 * side * width
        if "fourth" in needs.parts:
            total += 3 * side * width  # total scatter of both sides of a sum, and of the sum
    if "examples" in needs.families:
        total += 2 * min(n, DEFAULT_LIMIT) * (dim + targets)
    left_out = 2 * replace(needs, blocks=0).bytes(dim, counts, targets)
    return FLOAT * total + (left_out if needs.blocks else 0)


def _by_class(sizes: Iterable[_Size], classes: int) -> int:
    """What merging the scatter of some classes takes at most, with all else of the layer."""
    return max(classes * (2 * s.whole + s.ranged) + s.work for s in sizes)


def _at_once(sizes: Sequence[_Size], room: int) -> int:
    """How many classes of some layers can be built in one pass, and merged layer by layer."""
    left = room - sum(s.features for s in sizes) - max(s.copies for s in sizes)
    built = left // (sum(s.ranged for s in sizes) + 3 * max(s.ranged for s in sizes))
    return min(built, *((room - s.work) // (2 * s.whole + s.ranged) for s in sizes))


def _packed(sizes: Mapping[str, _Size], fits: Callable[[Sequence[_Size]], bool]) -> list[list[str]]:
    """Layers in order, as many at a time as fit."""
    groups: list[list[str]] = []
    for name in sizes:
        if groups and fits([sizes[n] for n in (*groups[-1], name)]):
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups
