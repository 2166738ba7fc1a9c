"""Work for the tests of engines, importable by their workers."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from transfer_metrics.errors import warn
from transfer_metrics.ranking.engines import Lost


@dataclass(frozen=True)
class Squares:
    """The sum of the squares of an item's numbers; leaves a note of every load and part."""

    notes: Path
    die_at: tuple[int, int] | None = None
    always: bool = False
    slow: float = 0.0

    def load(self, item: list[int]) -> tuple[int, list[int]]:
        self._note(f"load {item[0]}")
        return item[0], item

    def map(self, loaded: tuple[int, list[int]], part: int) -> int:
        first, numbers = loaded
        if self.die_at == (first, part):
            killed = self.notes / "killed"
            if self.always or not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.slow)
        self._note(f"map {first} {part}")
        return numbers[part] ** 2

    def settles(self, result: int) -> bool:
        return result == 0

    def reduce(self, item: list[int], results: list[Any]) -> Any:
        lost = [r for r in results if isinstance(r, Lost)]
        return "lost" if lost else sum(results)

    def take_over(self, before: Squares) -> None:
        self._note(f"after {before.slow}")

    def _note(self, text: str) -> None:
        (self.notes / f"{text} {os.getpid()} {time.time_ns()}").touch()


@dataclass(frozen=True)
class Sleeps(Squares):
    """The same, of numbers each of which takes as many tenths of a second."""

    def map(self, loaded: tuple[int, list[int]], part: int) -> int:
        time.sleep(loaded[1][part] / 10)
        return super().map(loaded, part)


def notes_of(folder: Path, kind: str) -> list[list[str]]:
    """The notes of a kind, in the order of time, each as words."""
    found = [path.name.split() for path in folder.iterdir() if path.name.startswith(kind)]
    return sorted(found, key=lambda words: int(words[-1]))


@dataclass(frozen=True)
class Environment:
    """What a worker sees of the machine, told when so many workers have come."""

    folder: Path
    workers: int = 2

    def load(self, item: str) -> str:
        return item

    def map(self, loaded: str, part: int) -> tuple[str | None, int]:
        import torch

        (self.folder / str(os.getpid())).touch()
        for _ in range(600):
            if len(list(self.folder.iterdir())) >= self.workers:
                break
            time.sleep(0.1)
        time.sleep(1.0)  # or an idle worker repeats what a slow one has not told yet
        return os.environ.get(loaded), torch.get_num_threads()

    def settles(self, result: Any) -> bool:
        return False

    def reduce(self, item: str, results: list[Any]) -> Any:
        return results


class Unreadable:
    """An item that the process which made it can pickle, and no other can read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


def _refuse() -> None:
    raise ValueError("cannot be read here")


@dataclass(frozen=True)
class Warned(Squares):
    """The same, which warns of each part."""

    def map(self, loaded: tuple[int, list[int]], part: int) -> int:
        warn(f"part {part} is odd")
        warnings.warn(f"{part} is old", RuntimeWarning, stacklevel=1)
        return super().map(loaded, part)


def tell(pipe: Connection, *given: object) -> None:
    """Send back what a process sees of its surroundings, and end as told."""
    pipe.send((given, os.getcwd(), os.environ.get("MARK"), sys.path[0], os.getpid()))
    if pipe.recv() == "exit":
        sys.exit(3)
