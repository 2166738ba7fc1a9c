"""Rankings in processes of their own, and what can befall them, for ``test_faults``.

The networks leave a note of every forward pass. What is to go wrong lies as files in a folder of
notes, so that it reaches whichever process runs a network.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas  # noqa: F401 loaded before processes are forked, since it takes a second
import psutil
import sklearn.neighbors  # noqa: F401
import torch
from torch import nn

import transfer_metrics as tm
import transfer_metrics.ranking.rank
from transfer_metrics.__main__ import sentence

NOTES = "FAULT_NOTES"
SIZE, BATCH, SHARD = 400, 10, 25
MODELS = tuple(f"tests.fault_runs:{name}" for name in ("narrow", "middle", "wide"))
METRICS = ["logme", "transrate", "knn", "gbc(covariance=full)"]
PATIENCE = 300.0
"""Seconds until a test gives up; the machine may be slow."""


class Noted(nn.Module):
    """A small network that says what it does, and has done to it what the notes ask for."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.name, self.batches = name, 0
        self.first, self.second = nn.Linear(12, width), nn.Linear(width, 2 * width)
        self.head = nn.Linear(2 * width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:  # of so many at most are the batches of the proof
            self._noted(len(x))
        return self.head(self.second(self.first(x).relu()).relu())

    def _noted(self, count: int) -> None:
        notes = Path(os.environ[NOTES])
        time.sleep(0.004)
        self.batches += 1
        with (notes / "forward").open("a") as file:
            file.write(f"{self.name} {count} {os.getpid()}\n")
        order = told(notes, self.name)
        if order.get("after") == self.batches and once(notes, f"held-{self.name}", order):
            {"hold": _hold, "die": _die, "starve": _starve}[order["what"]]()


def narrow() -> nn.Module:
    return _network("narrow", 6)


def middle() -> nn.Module:
    return _network("middle", 8)


def wide() -> nn.Module:
    return _network("wide", 11)


def _network(name: str, width: int) -> nn.Module:
    notes = Path(os.environ[NOTES])
    order = told(notes, "replace")
    if order:
        _die_when_replacing(notes, order)
    return Noted(name, width).eval()


def told(notes: Path, name: str) -> dict[str, Any]:
    """What the notes ask for under a name."""
    with suppress(FileNotFoundError):
        return json.loads((notes / f"{name}.json").read_text())
    return {}


def once(notes: Path, name: str, order: dict[str, Any]) -> bool:
    """Whether this is the first time, or every time counts."""
    try:
        (notes / name).touch(exist_ok=False)
    except FileExistsError:
        return bool(order.get("always"))
    return True


def _hold() -> None:
    time.sleep(PATIENCE)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _starve() -> None:
    """Ask for more memory than the process may have."""
    used = psutil.Process().memory_info().vms
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), limits[1]))
    try:
        torch.ones(1 << 30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _die_when_replacing(notes: Path, order: dict[str, Any]) -> None:
    """Be killed after a file was written and before it has its name."""
    real = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).match(order["pattern"]):
            with (notes / "replaced").open("a") as file:
                file.write(".")
            count = (notes / "replaced").stat().st_size
            if count == order["after"] and once(notes, "killed-replacing", order):
                _die()
        real(source, target)

    os.replace = replace


def task() -> tuple[np.ndarray, np.ndarray]:
    """Examples of four classes, (400, 12), and their labels."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, SIZE)
    return (rng.standard_normal((SIZE, 12)) + np.eye(12)[y]).astype(np.float32), y


def rank(cache: Path | None, **options: Any) -> tm.ScoreTable:
    """The ranking that all runs make, in this process."""
    common: dict[str, Any] = {
        "layers": "*", "batch_size": BATCH, "shard_size": SHARD, "progress": False,
        "cache": "never" if cache is None else "only-missing", "cache_dir": cache,
    }  # fmt: skip
    options = {"models": list(MODELS), "metrics": METRICS, **common, **options}
    X, y = task()
    return tm.rank_models(options.pop("models"), (X, y), options.pop("metrics"), **options)


def values(table: tm.ScoreTable) -> dict[tuple[str, str, str], float]:
    """Values by model, layer and metric."""
    assert not table.failures, table.failures[0]["error"]
    return {(r["model"], r["layer"], r["metric"]): r["value"] for r in table.records}


@dataclass
class Place:
    """A cache, and the notes of the runs on it."""

    root: Path
    cache: Path = field(init=False)
    notes: Path = field(init=False)

    def __post_init__(self) -> None:
        self.cache, self.notes = self.root / "cache", self.root / "notes"
        self.notes.mkdir(parents=True, exist_ok=True)

    def ask(self, name: str, **order: Any) -> None:
        """Ask for a fault."""
        (self.notes / f"{name}.json").write_text(json.dumps(order))

    def calm(self) -> None:
        """Ask for no faults any more, and forget the forward passes so far."""
        for path in self.notes.iterdir():
            path.unlink()

    def forward(self) -> int:
        """Examples that went through a network since ``calm``."""
        try:
            lines = (self.notes / "forward").read_text().splitlines()
        except FileNotFoundError:
            return 0
        return sum(int(line.split()[1]) for line in lines)

    def kept(self) -> int:
        """Examples of finished shards, ranges and scores in the cache, over all networks."""
        shards: Counter[str] = Counter()
        for path in self.cache.glob("features/*/manifest.json"):
            manifest = json.loads(path.read_text())
            shards[manifest["model"]] += len(manifest["shards"])
        for path in self.cache.glob("statistics/*/?????/range.json"):
            shards[json.loads(path.read_text())["manifest"]["model"]] += 1  # a range is a shard
        for path in self.cache.glob("scores/*.jsonl"):
            shards[json.loads(path.read_text().splitlines()[0])["model"]] = SIZE // SHARD
        return shards.total() * SHARD

    def litter(self) -> list[str]:
        """Files of the cache that are neither scores nor locks."""
        files = [path for path in self.cache.rglob("*") if path.is_file()]
        return [
            str(path.relative_to(self.cache))
            for path in files
            if path.name != ".lock" and (path.parent.name != "scores" or path.suffix != ".jsonl")
        ]

    @contextmanager
    def running(self, **options: Any) -> Iterator[Run]:
        """A ranking on this cache in a process of its own, which is killed when the block ends."""
        run = Run(self, options)
        try:
            yield run
        finally:
            run.kill()


class Run:
    """A ranking in a process of its own."""

    def __init__(self, place: Place, options: dict[str, Any]) -> None:
        self.place = place
        self.out = place.root / f"table-{time.monotonic_ns()}.jsonl"
        context = get_context("forkserver")
        context.set_forkserver_preload(["tests.fault_runs"])
        self.process = context.Process(target=_main, args=(place, self.out, options))
        self.process.start()
        self.children: list[psutil.Process] = []

    def wait_for(self, what: Callable[[], Any]) -> None:
        """Wait until something holds or the run ends."""
        waited_for(lambda: what() or not self.process.is_alive())
        self.note_children()

    def note_children(self) -> list[psutil.Process]:
        """The processes that it has started and that are there now."""
        with suppress(psutil.NoSuchProcess):
            self.children = psutil.Process(self.process.pid).children(recursive=True)
        return self.children

    def workers(self) -> list[psutil.Process]:
        """Those that have run a network."""
        forward = self.place.notes / "forward"
        text = forward.read_text() if forward.exists() else ""
        pids = {int(line.split()[2]) for line in text.splitlines()}
        return [child for child in self.note_children() if child.pid in pids]

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.note_children()
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it, and see that what it started ends by itself."""
        if self.process.is_alive():
            self.signal(signal.SIGKILL)
        self.process.join(PATIENCE)
        _, left = psutil.wait_procs(self.children, timeout=PATIENCE)
        assert not left, f"processes outlived the run: {left}"

    def end(self) -> int:
        """Wait until it ends by itself; its exit status."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, "the run hangs"
        return self.process.exitcode

    def table(self) -> tm.ScoreTable:
        """Its table."""
        assert self.end() == 0, self.said()
        return tm.ScoreTable.load(self.out)

    def said(self) -> str:
        """What it printed."""
        return self.out.with_suffix(".txt").read_text()


def waited_for(what: Callable[[], Any]) -> None:
    """Look until something holds."""
    until = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.002)


def _main(place: Place, out: Path, options: dict[str, Any]) -> None:
    """What the process of a run does: as the command line, errors are one line."""
    printed = os.open(out.with_suffix(".txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.environ[NOTES] = str(place.notes)
    torch.set_num_threads(1)
    if order := told(place.notes, "clock"):
        _jump(order["by"])
    try:
        rank(**{"cache": place.cache, **options}).save(out)
    except tm.TransferMetricsError as error:
        print(sentence(error))
        os._exit(2)
    except BaseException:
        traceback.print_exc()
        os._exit(3)


def _jump(by: float) -> None:
    """Let the clock of the wall jump at every look."""
    real, looks = time.time, iter(range(1 << 40))
    time.time = lambda: real() + by * next(looks)
