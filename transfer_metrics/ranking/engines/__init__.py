"""Where work runs, by name: in this process, in several, or on a cluster."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transfer_metrics.errors import check_whole
from transfer_metrics.fork_server import can_fork
from transfer_metrics.registry import Registry
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.optional import mend_torchvision
from transfer_metrics.threads import cores, use_threads

_FEW = 3
"""Candidates from which on it pays to start processes."""
REDUCE = -1
"""The part of a unit that puts the others together."""


class Work(Protocol):
    """Work on items, each in parts, whose results are put together item by item.

    Every method may run in another process than the one before, and a part may run twice, where a
    worker was lost or was slow: what a part leaves behind must be the same each time.
    """

    def load(self, item: Any) -> Any:
        """What a worker keeps while it works on parts of one item, such as a loaded model."""

    def map(self, loaded: Any, part: int) -> Any:
        """The result of one part; errors are results too."""

    def settles(self, result: Any) -> bool:
        """Whether a result makes the other parts of its item superfluous."""

    def reduce(self, item: Any, results: Sequence[Any]) -> Any:
        """What becomes of an item, from the results of its parts in order."""


@dataclass(frozen=True)
class Unit:
    """One part of one item; ``REDUCE`` where its results are put together."""

    item: int
    part: int


@dataclass(frozen=True)
class Lost:
    """The result of a part whose workers died each time it was tried."""

    reason: str


Told = tuple[str, type[Warning], str, int]
"""Text, kind, file and line of a warning."""


class Hands:
    """One worker: it holds the item that it works on, so that it is loaded once for all parts.

    Numerical libraries get so many ``threads``; where torchvision is ``mended``, it has to be here
    too, before an item whose classes import it.
    """

    def __init__(self, threads: int | None = None, mended: bool = False) -> None:
        self._work: Any = None
        self._held: tuple[int | None, Any] = (None, None)
        if threads is not None:
            use_threads(threads)
        if mended:
            mend_torchvision()

    def begin(self, work: Any) -> None:
        """The units to come are of this work, which keeps what it can use of the one before."""
        self._held = (None, None)
        if self._work is not None:
            work.take_over(self._work)
        self._work = work

    def do(self, unit: Unit, given: Any) -> tuple[Any, list[Told]]:
        """Do one unit, given its item where it is not the one of the unit before, else None.

        To ``REDUCE`` it is given the item and the results of its parts. Returns what came of it,
        and the warnings on the way.
        """
        with warnings.catch_warnings(record=True) as told:
            result = self._do(unit, given)
        return result, [(str(w.message), w.category, w.filename, w.lineno) for w in told]

    def _do(self, unit: Unit, given: Any) -> Any:
        if unit.part == REDUCE:
            return self._work.reduce(*given)
        if self._held[0] != unit.item:
            self._held = (None, None)  # frees one model before the next is loaded
            self._held = (unit.item, self._work.load(given))
        return self._work.map(self._held[1], unit.part)


def serial(
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    tick: Callable[[], object],
    **options: Any,
) -> Iterator[tuple[int, Any]]:
    """Yield the place of each item and what became of it, in order, as soon as it is there."""
    for place, (item, count) in enumerate(zip(items, parts, strict=True)):
        loaded, results = work.load(item), []
        for part in range(count):
            results.append(work.map(loaded, part))
            tick()
            if work.settles(results[-1]):
                break
        del loaded
        yield place, work.reduce(item, results)


ENGINES: Registry[Callable[..., Iterator[tuple[int, Any]]]] = Registry(
    "engine",
    {
        "serial": f"{__name__}:serial",
        "processes": f"{__name__}.processes:processes",
        "ray": f"{__name__}.ray:ray",
    },
    group="transfer_metrics.engines",
)


def chosen_engine(
    engine: str, candidates: Sequence[Candidate], workers: int | None, device: Any
) -> str:
    """An engine that there is, or what ``"auto"`` means: ``"processes"`` where these are faster.

    That is where several candidates are given by name, there is more than one thread to share out,
    and processes can be forked. A network on each of two cores is faster than two threads of one
    network, also where it is large (ResNet-50 by 8 to 22 %, ViT-B/16 by 4 to 14 %).

    Raises:
        UnknownNameError: no such engine.
    """
    if engine == "auto":
        import torch

        on_gpu = device is not None and torch.device(device).type != "cpu"
        alone = workers == 1 or torch.get_num_threads() == 1 or len(candidates) < _FEW
        named = all(isinstance(candidate.model, str) for candidate in candidates)
        engine = "processes" if can_fork() and named and not alone and not on_gpu else "serial"
    ENGINES[engine.partition(":")[0]]
    return engine


def map_reduce(
    engine: str,
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    *,
    workers: int | None = None,
    device: Any = None,
    careful: bool = False,
    tick: Callable[[], object] = lambda: None,
    **more: Any,
) -> Iterator[tuple[int, Any]]:
    """Do work on items, each in some ``parts``; yields place and result of items as they are done.

    ``"ray:<address>"`` joins a cluster. By default there is one worker per core, serial work has
    one, and where the ``device`` is ``"cuda"`` workers take turns on the GPUs of this machine.
    Where we are ``careful``, processes work beside each other as far as there is memory. ``tick``
    is called after every part. An engine of several workers takes a ``crew=`` of those that stay
    for work to come.

    >>> class Sum:
    ...     def load(self, item): return item
    ...     def map(self, loaded, part): return loaded[part::2].sum()
    ...     def settles(self, result): return False
    ...     def reduce(self, item, results): return int(sum(results))
    >>> import numpy as np
    >>> list(map_reduce("serial", Sum(), [np.arange(5), np.ones(3)], [2, 2]))
    [(0, 10), (1, 3)]
    """
    name, _, address = engine.partition(":")
    run = ENGINES[name]
    if workers is None:
        workers = cores()
    check_whole(1, workers=workers)
    if address:
        more["address"] = address
    gpus = _gpus_of(name, device)
    return run(work, items, parts, tick, workers=workers, gpus=gpus, careful=careful, **more)


def _gpus_of(engine: str, device: Any) -> int:
    """How many GPUs workers take turns on; a cluster knows its own, so any number is as good."""
    if device is None or not str(device).startswith("cuda") or ":" in str(device):
        return 0
    if engine == "ray":
        return 1
    import torch

    return torch.cuda.device_count()
