"""How statistics are kept within a budget of memory: which layers, and which classes, at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.ranking.pieces import Needs
from transfer_metrics.statistics.sample import DEFAULT_LIMIT

UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
         "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}  # fmt: skip
FLOAT = 8


def as_bytes(size: int | str) -> int:
    """A number of bytes, or text such as ``"2GiB"``.

    Raises:
        InvalidInputError: it is neither.

    >>> as_bytes("1.5 GiB"), as_bytes("20MB"), as_bytes(1024)
    (1610612736, 20000000, 1024)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(size))
    if isinstance(size, bool) or found is None or found[2].lower() not in UNITS:
        raise InvalidInputError(f"memory={size!r}; use bytes, or text such as '2GiB' or '500MB'")
    return int(float(found[1]) * UNITS[found[2].lower()])


def worker_memory(memory: int | str | None, workers: int | None) -> int:
    """What one worker may take, of what all may take together; half of the machine's if None.

    Raises:
        InvalidInputError: it is no size.
    """
    if memory is None:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    else:
        total = as_bytes(memory)
    return max(1, total // (workers or os.cpu_count() or 1))


def statistic_bytes(needs: Needs, dim: int, counts: np.ndarray, targets: int = 1) -> int:
    """The most that the statistics of one layer take.

    Args:
        needs: what is built.
        dim: number of features D.
        counts: examples of each class, (C,); one number for a regression.
        targets: number K of regression targets.

    Cost: O(C).
    """
    parts = max(needs.blocks, 1)
    of_part = -(-counts // parts)
    n, total = int(of_part.sum()), 0
    if "moments" in needs.families:
        width = dim if needs.kind == "classification" else dim + targets
        total += parts * (min(n, width) * width + (len(counts) + 2) * width)
        if "class" in needs.parts:
            total += parts * int(np.minimum(of_part, dim).sum()) * dim
    if "examples" in needs.families:
        total += parts * min(n, DEFAULT_LIMIT) * (dim + targets)
    if "source" in needs.families:
        total += parts * len(counts) * dim
    return FLOAT * total


@dataclass(frozen=True)
class Pass:
    """One pass of a model over a range of examples.

    Attributes:
        layers: the layers whose statistics are built.
        classes: the classes whose own scatter is built, from their examples only; None for all
            other statistics, of all examples.
    """

    layers: tuple[str, ...]
    classes: tuple[int, int] | None = None


@dataclass(frozen=True)
class Plan:
    """How the statistics of a model are built within a budget.

    Attributes:
        passes: one after the other over each range of examples.
        by_class: layers whose classes get a pass of their own.
        bytes: the most that statistics take at a time.
    """

    passes: tuple[Pass, ...]
    by_class: frozenset[str]
    bytes: int

    @property
    def readings(self) -> float:
        """How often each example is run through the model."""
        whole = sum(p.classes is None for p in self.passes)
        ends = {p.layers for p in self.passes if p.classes is not None}
        return whole + len(ends)


def plan_passes(
    dims: Mapping[str, int],
    needs: Mapping[str, Sequence[Needs]],
    counts: np.ndarray,
    share: float,
    budget: int,
    targets: int = 1,
) -> Plan:
    """Put as many layers into one pass as fit.

    A layer whose per-class scatter does not fit gets it from further passes, over the examples of
    some classes at a time; each example is run through the model once more by these. All of it is
    exact. Merging takes the statistics of one layer twice.

    Args:
        dims: number of features of each layer, in call order.
        needs: what is built of each.
        counts: examples of each class, (C,); one number for a regression.
        share: part of the examples that one range has.
        budget: bytes.
        targets: number K of regression targets.

    Raises:
        InvalidInputError: one layer alone does not fit.

    >>> needs = [Needs(("moments",), frozenset({"class"}), "classification", 10, 0)]
    >>> counts = np.full(10, 1000)
    >>> plan = plan_passes({"a": 500, "b": 500}, {"a": needs, "b": needs}, counts, 1.0, 30 << 20)
    >>> len(plan.passes), sorted(plan.by_class), plan.readings
    (10, ['a', 'b'], 2.0)
    """
    part = np.ceil(counts * share).astype(np.int64)

    def sizes_of(wanted: Iterable[Needs], dim: int) -> tuple[int, int]:
        """Bytes of the statistics of a layer over one range, and those that merging adds."""
        wanted = list(wanted)
        ranged = sum(statistic_bytes(n, dim, part, targets) for n in wanted)
        return ranged, 2 * sum(statistic_bytes(n, dim, counts, targets) for n in wanted) - ranged

    sizes, blocked = {}, {}
    for name, dim in dims.items():
        least = sizes[name] = sizes_of(needs[name], dim)
        if sum(least) > budget and not any(n.blocks for n in needs[name]):
            least = sizes[name] = sizes_of(map(_without_classes, needs[name]), dim)
            blocked[name] = int(np.minimum(counts, dim).max()) * dim * FLOAT
        if sum(least) > budget or 3 * blocked.get(name, 0) > budget:
            raise InvalidInputError(
                f"the statistics of layer {name!r} ({dim} features) take "
                f"{max(sum(least), 3 * blocked.get(name, 0)) / 2**20:.0f} MiB and memory is "
                f"{budget / 2**20:.0f} MiB for each worker; raise memory, use fewer workers, or "
                f"stream=False"
            )
    passes = [Pass(tuple(group)) for group in _packed(sizes, budget)]
    most = max(_peak(sizes, p.layers) for p in passes)
    scatter = {name: (size, 2 * size) for name, size in blocked.items()}
    for group in _packed(scatter, budget):
        spare = 2 * max(blocked[name] for name in group)
        width = sum(blocked[name] for name in group)
        at_once = (budget - spare) // width
        for start in range(0, len(counts), at_once):
            passes.append(Pass(tuple(group), (start, min(len(counts), start + at_once))))
        most = max(most, min(at_once, len(counts)) * width + spare)
    return Plan(tuple(passes), frozenset(blocked), most)


def _without_classes(needs: Needs) -> Needs:
    return replace(needs, parts=needs.parts - {"class"})


def _packed(sizes: Mapping[str, tuple[int, int]], budget: int) -> list[list[str]]:
    """Layers in order, as many at a time as fit."""
    groups: list[list[str]] = []
    for name in sizes:
        if groups and _peak(sizes, [*groups[-1], name]) <= budget:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _peak(sizes: Mapping[str, tuple[int, int]], names: Sequence[str]) -> int:
    return sum(sizes[n][0] for n in names) + max(sizes[n][1] for n in names)
