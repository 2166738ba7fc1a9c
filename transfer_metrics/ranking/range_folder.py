"""Statistics of ranges of shards on disk: a folder for each range, and what they merge to."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, overload

import torch

from transfer_metrics.errors import CorruptStoreError, InvalidInputError, StorageError
from transfer_metrics.features.shards import verify_shard
from transfer_metrics.files import TEMPORARY, fcntl, locked, remove_folder, replacing
from transfer_metrics.memory import release
from transfer_metrics.ranking.cache import ADVICE
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.statistics import Statistics

_DONE = "range.json"
_LOCK = ".lock"


@dataclass(frozen=True)
class RangeFolder:
    """The statistics of one range on disk: a file per layer, and one that says what they are of.

    The folder appears whole or not at all, also where two workers write the same range.
    """

    path: Path

    @contextlib.contextmanager
    def writing(self) -> Iterator[RangeFolder]:
        """A folder to write to, which takes the name of this one when the block ends well.

        Raises:
            StorageError: the folder cannot be written to.
        """
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}{TEMPORARY}")
        with locked(temporary / _LOCK, advice=ADVICE):  # held while somebody is at work here
            try:
                yield RangeFolder(temporary)
                if self.read_manifest() is None:
                    remove_folder(self.path)
                    with contextlib.suppress(OSError):  # another worker was faster
                        temporary.rename(self.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def add(self, found: Mapping[str, Statistics]) -> dict[str, dict[str, Any]]:
        """Keep statistics by name; returns what ``finish`` is to be told of them.

        Raises:
            StorageError: the folder cannot be written to.
        """
        files = {}
        for name, statistics in found.items():
            path = self._file(name)
            statistics.save(path, ADVICE, durable=False)
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
        return files

    def finish(self, files: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Say what the files are, and what they are of.

        Raises:
            StorageError: the folder cannot be written to.
        """
        content = {"of": self._of, "files": files, "manifest": manifest}
        with replacing(self.path / _DONE, ADVICE, durable=False) as temporary:
            temporary.write_text(json.dumps(content))

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest of the range; None where it is not complete or damaged."""
        try:
            content = json.loads((self.path / _DONE).read_text())
            if content["of"] != self._of:
                return None
            for name, record in content["files"].items():
                verify_shard(self._file(name), record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CorruptStoreError):
            return None
        return content["manifest"]

    def read(self, name: str) -> Statistics | None:
        """The statistics under a name; None where the range has no example of them.

        Raises:
            CorruptStoreError: they are damaged or gone.
        """
        try:
            known = json.loads((self.path / _DONE).read_text())["files"]
            return Statistics.load(self._file(name)) if name in known else None
        except (OSError, ValueError, KeyError, TypeError):
            gone(self.path)

    @property
    def _of(self) -> list[str]:
        """What the statistics are of, which a folder that was moved here does not say."""
        return [self.path.parent.name, self.path.name.partition(".")[0]]

    def _file(self, name: str) -> Path:
        return self.path / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"


def clear(folder: Path) -> None:
    """Remove the ranges of a model, except those that another run is writing."""
    for path in folder.glob("*"):
        if path.suffix != TEMPORARY:
            remove_folder(path)
    sweep(folder.parent)


def sweep(root: Path) -> None:
    """Of the folder of all statistics, remove what killed processes left, and empty folders."""
    if fcntl is None:
        return  # nothing tells whether somebody is at work
    for path in root.glob(f"*/*{TEMPORARY}"):
        with contextlib.suppress(StorageError), locked(path / _LOCK, wait=False) as free:
            if free:
                shutil.rmtree(path, ignore_errors=True)
    for folder in root.glob("*"):
        with contextlib.suppress(OSError):
            folder.rmdir()


def gone(path: Path) -> NoReturn:
    """Raise since a range is not what it was.

    Raises:
        CorruptStoreError: always.
    """
    raise CorruptStoreError(f"statistics in {path} are damaged or gone; run again to build them")


def merged(folders: Sequence[RangeFolder], name: str) -> Statistics | None:
    """The statistics under a name over all ranges, in their order; None where there are none.

    Raises:
        CorruptStoreError: a range is damaged or gone.
    """
    total: Statistics | None = None
    for folder in folders:
        found = folder.read(name)
        total = found if total is None else total if found is None else total + found
        release()
    return total


class StoredScatter(Sequence[Scatter]):
    """Scatter of each class about its own mean, from statistics of some classes at a time.

    ``bounds`` are the first class of each block, and the one after the last.
    """

    def __init__(
        self, folders: Sequence[RangeFolder], layer: str, bounds: Sequence[int], dim: int
    ) -> None:
        self._folders, self._layer, self._bounds, self._dim = folders, layer, bounds, dim
        self._held: tuple[int, Sequence[Scatter]] = (-1, ())

    def __len__(self) -> int:
        return self._bounds[-1]

    @overload
    def __getitem__(self, index: int) -> Scatter: ...
    @overload
    def __getitem__(self, index: slice) -> list[Scatter]: ...
    def __getitem__(self, index: int | slice) -> Scatter | list[Scatter]:
        if isinstance(index, slice):
            return [self[c] for c in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = bisect.bisect_right(self._bounds, index) - 1
        if self._held[0] != block:
            self._held = (-1, ())  # frees one block before the next is read
            self._held = (block, self._read(self._bounds[block], self._bounds[block + 1]))
        return self._held[1][index - self._bounds[block]]

    def _read(self, start: int, stop: int) -> Sequence[Scatter]:
        found = merged(self._folders, of_classes(self._layer, (start, stop)))
        if found is None:
            none = Scatter.of_rows(torch.empty(0, self._dim, dtype=torch.float64))
            return [none] * (stop - start)
        if found.refused[0]:
            raise InvalidInputError(found.refused[0])
        return found.held[0][0].class_scatter


def of_classes(layer: str, classes: tuple[int, int]) -> str:
    """Name of the statistics of some classes of a layer."""
    return f"{layer}, classes {classes[0]} to {classes[1]}"
