"""Statistics of a range of examples, built while a network runs over it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.features.extract import Extraction
from transfer_metrics.features.layers import hidden_layers
from transfer_metrics.features.shards import LOGITS
from transfer_metrics.features.store import Batch, FeatureStore
from transfer_metrics.memory import release
from transfer_metrics.metrics.base import Metric
from transfer_metrics.ranking.job import Job
from transfer_metrics.ranking.memory_budget import Pass, Plan, plan_passes
from transfer_metrics.ranking.range_folder import RangeFolder, of_classes
from transfer_metrics.ranking.scoring import bases_of, needs_by_layer
from transfer_metrics.statistics.needs import Needs
from transfer_metrics.statistics.statistics import Statistics


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
    def needs(self) -> dict[str, list[Needs]]:
        """What is built of each layer."""
        bases = bases_of(self.store, self.job.mean)
        names = [name for name, base in bases.items() if base.dim is not None]
        return needs_by_layer(names, self.metrics, self.job.labels, self.job.block_modes)

    @cached_property
    def plan(self) -> Plan:
        """How that is done within the memory, beside the weights.

        Raises:
            InvalidInputError: one layer alone does not fit.
        """
        job, labels = self.job, self.job.labels
        module = self.whole.forward.model.module
        weights = sum(t.numel() * t.element_size() for t in module.state_dict().values())
        bases = bases_of(self.store, job.mean)
        dims = {name: bases[name].dim or 0 for name in self.needs}
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
            name: [(n.keys, sorted(n.parts), n.blocks) for n in of_layer]
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
        return {of_classes(name, one.classes): statistics for name, statistics in found.items()}

    def _batches(
        self, names: Sequence[str], positions: Any, seconds: list[float]
    ) -> Generator[Batch]:
        """Features of some layers of the running network, of the examples at some positions."""
        job = self.job
        part = job.part(positions)
        extraction = self.whole if part is job.task else job.extraction(self.whole.given, part)
        averaged = [layer.name for layer in hidden_layers(self.store.layers)] if job.mean else []
        manifest = extraction.manifest()
        read = {*names, *averaged}
        manifest["layers"] = [layer for layer in manifest["layers"] if layer["name"] in read]
        manifest["logits"] = manifest["logits"] if LOGITS in read else None
        for _, arrays, record in extraction.shards(manifest):
            seconds.append(record["seconds"])
            yield Batch(arrays, averaged)
