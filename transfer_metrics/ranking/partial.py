"""Statistics of a range of shards: built while the model runs, kept in a folder, and merged."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import json
import operator
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.features.averaged import MeanStore
from transfer_metrics.features.extraction import Extraction
from transfer_metrics.features.shards import LOGITS, verify_shard
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.files import replacing
from transfer_metrics.ranking.pieces import Group, Pieces
from transfer_metrics.ranking.score import probabilities
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.saving import Saved

DONE = "range.json"


@dataclass(frozen=True, eq=False)
class Partial(Saved):
    """What a range of shards says of one layer.

    Attributes:
        groups: the statistics of each group of metrics, or why there are none.
    """

    groups: tuple[Pieces | str, ...]

    def __add__(self, other: Partial) -> Partial:
        return Partial(tuple(map(_added, self.groups, other.groups)))


def _added(a: Pieces | str, b: Pieces | str) -> Pieces | str:
    if isinstance(a, str) or isinstance(b, str):
        return a if isinstance(a, str) else b
    return a + b


@dataclass(frozen=True)
class Asked:
    """What is to be built of each example.

    Attributes:
        groups: groups of metrics by name of the layer, ``LOGITS`` for the head.
        units: number of the example that each row belongs to, (N,).
        mean: whether the mean of the layers stands for them.
    """

    groups: Mapping[str, Sequence[Group]]
    units: np.ndarray
    mean: bool = False


def read_range(
    extraction: Extraction, manifest: Mapping[str, Any], wanted: Iterable[int], asked: Asked
) -> tuple[dict[str, Partial], dict[str, Any]]:
    """Run a model over some shards, and keep the statistics of each layer only.

    Args:
        extraction: the model and the task.
        manifest: the manifest of the extraction, of the layers that are wanted.
        wanted: numbers of the shards.
        asked: what is built.

    Returns:
        Statistics by layer, and what the manifest of a store records of each shard.

    Raises:
        ExtractionError: as for ``extract``.

    Cost: the forward passes and the statistics; memory one shard of features and the statistics of
    all layers.
    """
    found: dict[str, Partial] = {}
    records = {}
    size = manifest["shard_size"]
    for index, arrays, record in extraction.shards(manifest, wanted):
        shard = {**manifest, "n": record["rows"], "shards": {"0": record}}
        store = FeatureStore(shard, [arrays])
        store = MeanStore(store) if asked.mean else store
        rows = slice(index * size, index * size + record["rows"])
        for name in [*store.names, *([LOGITS] if manifest["logits"] else [])]:
            groups = asked.groups.get(name, ())
            if not groups:
                continue
            x = probabilities(arrays[LOGITS]) if name == LOGITS else store[name]
            new = Partial(tuple(_pieces(group, x, asked.units[rows], rows) for group in groups))
            found[name] = found[name] + new if name in found else new
        records[str(index)] = record
    return found, records


def _pieces(group: Group, x: np.ndarray, units: np.ndarray, rows: slice) -> Pieces | str:
    if group.error is not None:
        return group.error
    try:
        return Pieces.of_batch(group.needs, x, group.labels[rows], units)
    except InvalidInputError as error:
        return str(error)


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
            InvalidInputError: the folder cannot be written to.
        """
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}.tmp")
        try:
            yield RangeFolder(temporary)
            if self.read_manifest() is None:
                shutil.rmtree(self.path, ignore_errors=True)
                with contextlib.suppress(OSError):  # another worker was faster
                    temporary.rename(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def add(self, found: Mapping[str, Partial]) -> dict[str, dict[str, Any]]:
        """Keep statistics by name; returns what ``finish`` is to be told of them.

        Raises:
            InvalidInputError: the folder cannot be written to.
        """
        files = {}
        for name, partial in found.items():
            path = self._file(name)
            partial.save(path)
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
        return files

    def finish(self, files: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Say what the files are, and what they are of.

        Raises:
            InvalidInputError: the folder cannot be written to.
        """
        with replacing(self.path / DONE) as temporary:
            temporary.write_text(json.dumps({"files": files, "manifest": manifest}))

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest of the range; None where it is not complete or damaged."""
        try:
            content = json.loads((self.path / DONE).read_text())
            for name, record in content["files"].items():
                verify_shard(self._file(name), record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CorruptStoreError):
            return None
        return content["manifest"]

    def read(self, name: str) -> Partial | None:
        """The statistics under a name; None where the range has no example of them.

        Raises:
            CorruptStoreError: they are damaged or gone.
        """
        try:
            known = json.loads((self.path / DONE).read_text())["files"]
            return Partial.load(self._file(name)) if name in known else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _gone(self.path) from error

    def _file(self, name: str) -> Path:
        return self.path / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"


def _gone(path: Path) -> CorruptStoreError:
    return CorruptStoreError(f"statistics in {path} are damaged or gone; run again to build them")


def merged_store(folders: Sequence[RangeFolder]) -> FeatureStore:
    """A store that knows what the ranges are of, without any features.

    Raises:
        CorruptStoreError: a range is damaged or gone.
    """
    manifests = []
    for folder in folders:
        manifest = folder.read_manifest()
        if manifest is None:
            raise _gone(folder.path)
        manifests.append(manifest)
    shards = functools.reduce(operator.or_, (m["shards"] for m in manifests))
    return FeatureStore({**manifests[0], "shards": shards}, [])


def merged(folders: Sequence[RangeFolder], name: str) -> Partial | None:
    """The statistics under a name over all ranges, in their order; None where there are none.

    Raises:
        CorruptStoreError: a range is damaged or gone.
    """
    total: Partial | None = None
    for folder in folders:
        found = folder.read(name)
        total = found if total is None else total if found is None else total + found
    return total


class StoredScatter(Sequence[Scatter]):
    """Scatter of each class about its own mean, from statistics of some classes at a time.

    Args:
        folders: the ranges.
        layer: name of the layer.
        bounds: the first class of each block, and the one after the last.
        dim: number of features D.
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
        [pieces] = found.groups
        if isinstance(pieces, str):
            raise InvalidInputError(pieces)
        return pieces.held[0][0].class_scatter


def of_classes(layer: str, classes: tuple[int, int]) -> str:
    """Name of the statistics of some classes of a layer."""
    return f"{layer}, classes {classes[0]} to {classes[1]}"
