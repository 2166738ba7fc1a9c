"""Statistics of ranges of examples: built while a network runs, kept in a folder each, merged."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.features.extract import Extraction
from transfer_metrics.features.layers import hidden_layers
from transfer_metrics.features.shards import LOGITS, verify_shard
from transfer_metrics.features.store import Batch, FeatureStore
from transfer_metrics.files import TEMPORARY, locked, remove_folder, written
from transfer_metrics.memory import release
from transfer_metrics.metrics.base import Metric
from transfer_metrics.ranking.cache import ADVICE, LOCK
from transfer_metrics.ranking.job import Job
from transfer_metrics.ranking.memory_budget import Pass, Plan, plan_passes
from transfer_metrics.ranking.scoring import ClassScatter, Read, bases_of, needs_of
from transfer_metrics.results.wording import short
from transfer_metrics.sources.models.modules import weight_bytes
from transfer_metrics.statistics.linalg import Scatter
from transfer_metrics.statistics.statistics import Needs, Statistics

_DONE = "range.json"


@dataclass(frozen=True, eq=False)
class RangeBuilder:
    """What builds the statistics that metrics need of one model, range by range."""

    job: Job
    whole: Extraction  # the pass of the model over the whole split
    metrics: Sequence[Metric]
    memory: int  # bytes that the weights and statistics may take

    @cached_property
    def store(self) -> FeatureStore:
        """What a store of the features would be, without any shard."""
        return FeatureStore(self.whole.manifest(), [])

    @cached_property
    def _dims(self) -> dict[str, int]:
        """Features of each layer, and of the source head if there is one."""
        bases = bases_of(self.store, self.job.mean)
        return {name: base.dim for name, base in bases.items() if base.dim is not None}

    @cached_property
    def needs(self) -> dict[str, list[Needs]]:
        """What is built of each layer."""
        job = self.job
        found = {n: needs_of(n, self.metrics, job.labels, job.block_modes) for n in self._dims}
        return {name: needs for name, needs in found.items() if needs}

    @cached_property
    def plan(self) -> Plan:
        """How that is done within the memory, beside the weights."""
        job, labels = self.job, self.job.labels
        weights = weight_bytes(self.whole.forward.model.module)
        if weights >= self.memory:
            raise InvalidInputError(
                f"the weights alone take {short(weights, 'B')} and each worker has "
                f"{short(self.memory, 'B')}; raise memory or leave it out, or use fewer of several "
                f"workers"
            )
        dims = {name: self._dims[name] for name in self.needs}
        if labels.kind == "classification":
            counts = np.bincount(labels.values, minlength=labels.num_classes)
        else:
            counts = np.array([len(labels)])
        targets = labels.values.shape[1] if labels.values.ndim > 1 else 1
        share = max(map(len, job.ranges)) / len(labels)
        shard = min(self.store.manifest["shard_size"], len(labels))
        return plan_passes(dims, self.needs, counts, share, self.memory - weights, targets, shard)

    @property
    def spills(self) -> bool:
        """Whether features are written, since not all statistics fit into memory together."""
        if not self.job.spills:
            return False
        try:
            return self.plan.readings > 1
        except InvalidInputError:
            return True

    @property
    def content(self) -> dict[str, Any]:
        """What the statistics of a range depend on, beside the features and the examples."""
        needs = {
            name: [(n.keys, sorted(n.parts), n.blocks, sorted(n.of_sample)) for n in of_layer]
            for name, of_layer in self.needs.items()
        }
        return {
            "metrics": [m.label for m in self.metrics],
            "shards": self.store.manifest["shard_size"],
            "needs": needs,
            "classes": self.plan.class_bounds,
        }

    def write(self, positions: Any, folder: RangeFolder) -> None:
        """Pass over a range as often as the plan says, and keep what was built each time."""
        files: dict[str, Any] = {}
        seconds: list[float] = []
        for one in self.plan.passes:
            found = self.build(one, positions, seconds)
            files |= folder.add(found)
            del found  # before the next pass
            release()
        bounds = self.plan.class_bounds
        manifest = {**self.store.manifest, "seconds": sum(seconds), "class_bounds": bounds}
        folder.finish(files, manifest)

    def build(self, one: Pass, positions: Any, seconds: list[float]) -> dict[str, Statistics]:
        """Statistics of the layers of a pass over a range; of some classes only, or of all.

        The times of its forward passes are added to ``seconds``.
        """
        positions = np.asarray(positions)
        labels = self.job.labels[positions]
        if one.classes is None:
            late = self.plan.by_class
            needs = {
                name: [n.without_classes() if name in late else n for n in self.needs[name]]
                for name in one.layers
            }
            with closing(self._batches(one.layers, positions, seconds)) as batches:
                return Statistics.of_batches(batches, needs, labels)
        first, stop = one.classes
        chosen = np.flatnonzero((labels.values >= first) & (labels.values < stop))
        if not len(chosen):
            return {}
        labels = replace(labels[chosen], num_classes=stop - first)
        labels = replace(labels, values=labels.values - first)
        scatter = Needs(("moments",), frozenset({"class"}), "classification", stop - first)
        needed = {name: [scatter] for name in one.layers}
        with closing(self._batches(one.layers, positions[chosen], seconds)) as batches:
            found = Statistics.of_batches(batches, needed, labels)
        return {_of_classes(name, one.classes): statistics for name, statistics in found.items()}

    def _batches(
        self, names: Sequence[str], positions: Any, seconds: list[float]
    ) -> Generator[Batch]:
        """Features of some layers of the running network, of the examples at some positions."""
        job = self.job
        part = job.part(positions)
        extraction = self.whole if part is job.task else self.whole.on(part)
        averaged = [layer.name for layer in hidden_layers(self.store.layers)] if job.mean else []
        manifest = extraction.manifest()
        read = {*names, *averaged}
        manifest["layers"] = [layer for layer in manifest["layers"] if layer["name"] in read]
        manifest["logits"] = manifest["logits"] if LOGITS in read else None
        for _, arrays, record in extraction.shards(manifest):
            seconds.append(record["seconds"])
            yield Batch(arrays, averaged)


@dataclass(frozen=True)
class RangeFolder:
    """The statistics of one range on disk: a file per layer, and one that says what they are of.

    The folder appears whole or not at all, also where two workers write the same range.
    """

    path: Path

    @contextlib.contextmanager
    def writing(self) -> Iterator[RangeFolder]:
        """A folder to write to, which takes the name of this one when the block ends well."""
        temporary = self.path.with_name(f"{self.path.name}.{uuid.uuid4().hex}{TEMPORARY}")
        with locked(temporary / LOCK, advice=ADVICE):  # held while somebody is at work here
            try:
                yield RangeFolder(temporary)
                if self.read_manifest() is None:
                    remove_folder(self.path)
                    with contextlib.suppress(OSError):  # another worker was faster
                        temporary.rename(self.path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def add(self, found: Mapping[str, Statistics]) -> dict[str, dict[str, Any]]:
        """Keep statistics by name; returns what ``finish`` is to be told of them."""
        files = {}
        for name, statistics in found.items():
            path = self._file(name)
            statistics.save(path, ADVICE, durable=False)
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
        return files

    def finish(self, files: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
        """Say what the files are, and what they are of."""
        content = {"of": self._of, "files": files, "manifest": manifest}
        written(self.path / _DONE, json.dumps(content), ADVICE, durable=False)

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
        """The statistics under a name; None where the range has no example of them."""
        try:
            known = json.loads((self.path / _DONE).read_text())["files"]
            return Statistics.load(self._file(name)) if name in known else None
        except (OSError, ValueError, KeyError, TypeError):
            raise self.gone() from None

    def gone(self) -> CorruptStoreError:
        """The error of a range that is not what it was."""
        return CorruptStoreError(
            f"statistics in {self.path} are damaged or gone; run again to build them"
        )

    @property
    def _of(self) -> list[str]:
        """What the statistics are of, which a folder that was moved here does not say."""
        return [self.path.parent.name, self.path.name.partition(".")[0]]

    def _file(self, name: str) -> Path:
        return self.path / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"


def read_ranges(folders: Sequence[RangeFolder]) -> tuple[FeatureStore, float, Read]:
    """A store without any shard that says what was read, its seconds, and what reads the sums."""
    manifests = []
    for folder in folders:
        manifest = folder.read_manifest()
        if manifest is None:
            raise folder.gone()
        manifests.append(manifest)
    bounds = manifests[0]["class_bounds"]

    def read(name: str, needs: Sequence[Needs]) -> tuple[Statistics, ClassScatter | None]:
        release()  # of building, or of the layer before
        statistics = _merged(folders, name)
        assert statistics is not None
        if name not in bounds:
            return statistics, None
        return statistics, lambda moments: _StoredScatter(folders, name, bounds[name], moments.dim)

    return FeatureStore(manifests[0], []), sum(m["seconds"] for m in manifests), read


def _merged(folders: Sequence[RangeFolder], name: str) -> Statistics | None:
    """The statistics under a name over all ranges, in their order; None where there are none."""
    total: Statistics | None = None
    for folder in folders:
        found = folder.read(name)
        total = found if total is None else total if found is None else total + found
        release()
    return total


class _StoredScatter(Sequence[Scatter]):
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

    def __getitem__(self, index: int) -> Scatter:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = bisect.bisect_right(self._bounds, index) - 1
        if self._held[0] != block:
            self._held = (-1, ())  # frees one block before the next is read
            start, stop = self._bounds[block : block + 2]
            found = _merged(self._folders, _of_classes(self._layer, (start, stop)))
            if found is None:
                none = Scatter.of_rows(torch.empty(0, self._dim, dtype=torch.float64))
                self._held = (block, [none] * (stop - start))
            elif found.refused[0]:
                raise InvalidInputError(found.refused[0])
            else:
                self._held = (block, found.held[0][0].class_scatter)
        return self._held[1][index - self._bounds[block]]


def _of_classes(layer: str, classes: tuple[int, int]) -> str:
    """Name of the statistics of some classes of a layer."""
    return f"{layer}, classes {classes[0]} to {classes[1]}"
