"""One ranking of made-up models, measured: its time, and the memory of all processes it takes.

``python -m tests.benchmarks.scaling_case JSON`` is the process that does it and prints
what it found as JSON; ``measured`` starts it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from tests.benchmarks.cost import Growth, timed
from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.ranking.engines import ENGINES, Work
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.threads import use_threads

if TYPE_CHECKING:
    from torch import nn

METRICS = "transrate,logme,h_score"
WATCHED = "watched"
"""Name of the engine that runs another one and notes what its workers do."""


@dataclass(frozen=True)
class Case:
    """A ranking to be measured.

    Attributes:
        engine: where the work is done.
        stream: whether statistics only are kept, as for ``rank_models``.
        workers: how many work.
        examples: N.
        layers: L of each model, each a linear layer and a ReLU.
        models: M.
        classes: C.
        dim: features D of each layer, and numbers of each example.
        metrics: what is scored.
        memory: as for ``rank_models``.
        shard_size: examples of a shard.
        model: a model by name on the handwritten digits, in place of made-up ones.
        warm: whether each process does a small ranking first, whose memory does not count.
    """

    engine: str = "serial"
    stream: bool = True
    workers: int = 1
    examples: int = 4096
    layers: int = 4
    models: int = 1
    classes: int = 10
    dim: int = 64
    metrics: str = METRICS
    memory: str | None = None
    shard_size: int = 256
    model: str = ""
    warm: bool = True

    def __str__(self) -> str:
        streamed = "" if self.engine != "serial" else " streamed" if self.stream else " stored"
        what = self.model or f"{self.models} x {self.layers} layers of {self.dim}"
        workers = f" x {self.workers}" if self.engine != "serial" else ""
        return f"{self.engine}{streamed}{workers}: {what}, N={self.examples}, C={self.classes}"


WARM = Case(examples=64, layers=1, dim=8, classes=2, shard_size=32)
"""The small ranking after which memory is counted."""


@dataclass(frozen=True)
class Note:
    """What a worker did once.

    Attributes:
        process: number of the process.
        kind: ``"load"``, ``"map"`` or ``"reduce"``.
        start: when it began, in seconds since the ranking did.
        seconds: how long it took.
        grown: bytes by which the process had grown at its peak until then; 0 where the system does
            not tell.
    """

    process: int
    kind: str
    start: float
    seconds: float
    grown: int


@dataclass(frozen=True)
class Found:
    """What a ranking took.

    Attributes:
        seconds: time of the call of ``rank_models``.
        driver: bytes by which the process that called it grew at its peak; None where the system
            does not tell.
        notes: what was done of the work, by time.
        scores: values by layer and metric, of all models in turn.
    """

    seconds: float
    driver: int | None
    notes: tuple[Note, ...]
    scores: tuple[float, ...]

    @property
    def worker(self) -> int:
        """Bytes by which the largest worker grew at its peak."""
        return max((n.grown for n in self.notes), default=0)

    @property
    def first(self) -> float:
        """Seconds until the first part of the work began."""
        return min(n.start for n in self.notes)

    @property
    def working(self) -> float:
        """Seconds of loading, mapping and merging, over all workers."""
        return sum(n.seconds for n in self.notes)


class Recipe(Sequence[np.ndarray]):
    """N examples of D numbers that are made when they are read, and never held: O(D) memory."""

    def __init__(self, n: int, dim: int, classes: int) -> None:
        self._n, self._dim, self._classes = n, dim, classes
        rng = np.random.default_rng(0)
        # Two periods that share no factor make as many different sums as their product.
        self._parts = [rng.standard_normal((p, dim), dtype=np.float32) for p in (251, 256)]
        self._centres = np.float32(0.5) * rng.standard_normal((classes, dim), dtype=np.float32)

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> list[np.ndarray]: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._n))]
        if not 0 <= index < self._n:
            raise IndexError(index)
        a, b = self._parts
        return a[index % len(a)] + b[index % len(b)] + self._centres[index % self._classes]

    def content(self) -> Iterator[bytes]:
        """What the fingerprint is of: the recipe, which takes no time to read."""
        yield f"{self._n} {self._dim} {self._classes}".encode()


def task_of(case: Case) -> Task | str:
    """The task of a case."""
    if case.model:
        return "sklearn:digits"
    examples = Recipe(case.examples, case.dim, case.classes)
    data = Split(examples, np.arange(case.examples) % case.classes)
    names = tuple(str(c) for c in range(case.classes))
    return Task("made up", "classification", "tensor", {"train": data}, names)


def network(layers: int, dim: int, number: int) -> nn.Module:
    """L linear layers of width D with their ReLUs, and a classifier of two."""
    import torch
    from torch import nn

    torch.manual_seed(number)
    body = [m for _ in range(layers) for m in (nn.Linear(dim, dim), nn.ReLU())]
    return nn.Sequential(*body, nn.Linear(dim, 2))


def models_of(case: Case) -> list[str]:
    """Names of the models of a case, which are made where they are loaded."""
    if case.model:
        return [case.model]
    made = "tests.benchmarks.scaling_case:network"
    return [f"{made}(layers={case.layers}, dim={case.dim}, number={i})" for i in range(case.models)]


def measured(case: Case) -> Found:
    """Do a ranking in a process of its own, with one thread for each process.

    Raises:
        TransferMetricsError: the process failed.
    """
    argv = [sys.executable, "-m", __name__, json.dumps(asdict(case))]
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    env = {**os.environ, **dict.fromkeys(names, "1")}
    done = subprocess.run(argv, capture_output=True, text=True, env=env)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise TransferMetricsError(f"{case} failed: {reason[0]}")
    found = json.loads(done.stdout.splitlines()[-1])
    notes = tuple(Note(**note) for note in found.pop("notes"))
    return Found(**{**found, "scores": tuple(found["scores"])}, notes=notes)


@dataclass(frozen=True)
class Watched:
    """Work that notes when it did what, and how large its process became.

    Attributes:
        work: the work.
        folder: where notes are kept: a file for each process.
        warm: whether each process does a small ranking first.
    """

    work: Work
    folder: Path
    warm: bool

    def load(self, item: Any) -> Any:
        """See ``Work``."""
        if not self._notes.exists():
            use_threads(1)  # however many an engine gives; waiting for others is not to be measured
            if self.warm:
                _rank(WARM, "serial")
            _GROWTH[str(self.folder)] = Growth().__enter__()
        return self._noted("load", self.work.load, item)

    def map(self, loaded: Any, part: int) -> Any:
        """See ``Work``."""
        return self._noted("map", self.work.map, loaded, part)

    def settles(self, result: Any) -> bool:
        """See ``Work``."""
        return self.work.settles(result)

    def reduce(self, item: Any, results: Sequence[Any]) -> Any:
        """See ``Work``."""
        return self._noted("reduce", self.work.reduce, item, results)

    @property
    def _notes(self) -> Path:
        return self.folder / f"{os.getpid()}.jsonl"

    def _noted(self, kind: str, run: Any, *given: Any) -> Any:
        start = time.time()
        seconds, result = timed(lambda: run(*given))
        growth = _GROWTH.get(str(self.folder))
        grown = 0
        if growth is not None:
            growth.__exit__()
            grown = growth.bytes or 0
        note = Note(os.getpid(), kind, start, seconds, grown)
        with self._notes.open("a") as file:
            file.write(json.dumps(asdict(note)) + "\n")
        return result


_GROWTH: dict[str, Growth] = {}
"""What each process has grown by since it began, by folder of notes."""


def _run(case: Case) -> dict[str, Any]:
    """Do a ranking here, and what it took: the fields of ``Found``."""
    with tempfile.TemporaryDirectory() as folder:

        def engine(work: Work, *given: Any, address: str, **options: Any) -> Iterator[Any]:
            return ENGINES[address](Watched(work, Path(folder), case.warm), *given, **options)

        ENGINES.register(WATCHED, engine)
        if case.warm:
            _rank(WARM, "serial")
        began = time.time()
        with Growth() as grown:
            seconds, table = timed(lambda: _rank(case, f"{WATCHED}:{case.engine}"))
        lines = [x for p in Path(folder).iterdir() for x in p.read_text().splitlines()]
    if table.failures:
        raise TransferMetricsError(table.failures[0]["error"])
    notes = sorted(map(json.loads, lines), key=lambda note: note["start"])
    for note in notes:
        note["start"] -= began
    scores = [record["value"] for record in table.records]
    return {"seconds": seconds, "driver": grown.bytes, "notes": notes, "scores": scores}


def _rank(case: Case, engine: str) -> Any:
    import transfer_metrics as tm

    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as cache:
        warnings.simplefilter("ignore")  # what metrics have to say about made-up features
        return tm.rank_models(
            models_of(case),
            task_of(case),
            case.metrics,
            layers="blocks",
            engine=engine,
            workers=case.workers,
            stream=case.stream,
            memory=case.memory,
            cache_dir=cache,  # without one, features would be kept in memory
            progress=False,
            shard_size=case.shard_size,
            batch_size=min(case.shard_size, 256),
        )


if __name__ == "__main__":
    from tests.benchmarks.scaling_case import _run as run_here

    print(json.dumps(run_here(Case(**json.loads(sys.argv[1])))))
