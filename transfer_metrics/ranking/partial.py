"""Statistics of a range of shards: built while the model runs, kept in a folder, and merged."""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.features.averaged import MeanStore
from transfer_metrics.features.extraction import Extraction
from transfer_metrics.features.shards import LOGITS, verify_shard
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.files import replacing
from transfer_metrics.ranking.pieces import Group, Pieces
from transfer_metrics.ranking.score import probabilities, slots_of
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
        groups: groups of metrics by name of the layer; "" for every layer that is not named.
        units: number of the example that each row belongs to, (N,).
        mean: whether the mean of the layers stands for them.
    """

    groups: Mapping[str, Sequence[Group]]
    units: np.ndarray
    mean: bool = False

    def of(self, slot: str) -> Sequence[Group]:
        """The groups that read a layer, or the head."""
        return self.groups.get(slot, self.groups[""] if slot != LOGITS else ())


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
            groups = asked.of(name)
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
    """The statistics of one range on disk: a file per layer, and one that says it is complete."""

    path: Path

    def write(
        self, found: Mapping[str, Partial], manifest: Mapping[str, Any], records: Mapping[str, Any]
    ) -> None:
        """Keep the statistics of a range; it counts once everything of it is there.

        Raises:
            InvalidInputError: the folder cannot be written to.
        """
        files = {}
        for number, (name, partial) in enumerate(found.items()):
            path = self.path / f"{number:05d}.safetensors"
            partial.save(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[name] = {"file": number, "bytes": path.stat().st_size, "sha256": digest}
        content = {"files": files, "manifest": {**manifest, "shards": records}}
        with replacing(self.path / DONE) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False))

    def read_manifest(self) -> dict[str, Any] | None:
        """The manifest of the range; None where it is not complete or damaged."""
        try:
            content = json.loads((self.path / DONE).read_text())
            for record in content["files"].values():
                verify_shard(self._file(record), record)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CorruptStoreError):
            return None
        return content["manifest"]

    def read(self, name: str) -> Partial:
        """The statistics of one layer.

        Raises:
            CorruptStoreError: they are damaged or gone.
        """
        try:
            record = json.loads((self.path / DONE).read_text())["files"][name]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptStoreError(
                f"statistics in {self.path} are damaged or gone; run again to build them"
            ) from error
        return Partial.load(self._file(record))

    def _file(self, record: Mapping[str, Any]) -> Path:
        return self.path / f"{int(record['file']):05d}.safetensors"


def merged_store(folders: Sequence[RangeFolder]) -> FeatureStore:
    """A store that knows what the ranges are of, without any features.

    Raises:
        CorruptStoreError: a range is damaged or gone.
    """
    manifests = []
    for folder in folders:
        manifest = folder.read_manifest()
        if manifest is None:
            raise CorruptStoreError(
                f"statistics in {folder.path} are damaged or gone; run again to build them"
            )
        manifests.append(manifest)
    shards = functools.reduce(operator.or_, (m["shards"] for m in manifests))
    return FeatureStore({**manifests[0], "shards": shards}, [])


def merged(folders: Sequence[RangeFolder], name: str) -> Partial:
    """The statistics of one layer over all ranges, in their order.

    Raises:
        CorruptStoreError: a range is damaged or gone.
    """
    return functools.reduce(operator.add, (folder.read(name) for folder in folders))


__all__ = ["Asked", "Partial", "RangeFolder", "merged", "merged_store", "read_range", "slots_of"]
