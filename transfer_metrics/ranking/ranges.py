"""Statistics of a range of shards of a model, within a budget of memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from transfer_metrics.features.averaged import MeanStore
from transfer_metrics.features.shards import LOGITS
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import Metric
from transfer_metrics.ranking.job import Job
from transfer_metrics.ranking.memory_budget import Pass, Plan, plan_passes, release
from transfer_metrics.ranking.partial import Asked, Partial, read_range
from transfer_metrics.ranking.pieces import Group, Needs, groups_of
from transfer_metrics.ranking.score import slots_of
from transfer_metrics.ranking.stored import RangeFolder, of_classes
from transfer_metrics.ranking.subsets import part_of
from transfer_metrics.results.error_bars import BLOCKS
from transfer_metrics.sources.models.model import Model


@dataclass(frozen=True)
class RangeReader:
    """Passes over ranges of the shards of a split, as often as the memory asks for.

    Attributes:
        job: the ranking.
        memory: bytes that the weights of a model and its statistics may take.
        share: part of the examples that a range has.
    """

    job: Job
    memory: int
    share: float

    def manifest(self, model: Model) -> dict[str, Any]:
        """What a store of the features of a model would say of them, before there are any."""
        return self.job.extraction(model).manifest()

    def content(self, whole: Mapping[str, Any], plan: Plan, metrics: Sequence[Metric]) -> Any:
        """What the statistics of a range depend on, beside the features and the examples."""
        groups = self.groups(FeatureStore(whole, []), metrics)
        needs = {
            name: [(g.needs.families, sorted(g.needs.parts), g.needs.blocks) for g in of_layer]
            for name, of_layer in groups.items()
        }
        return {"shards": whole["shard_size"], "needs": needs, "classes": plan.class_bounds}

    def read(
        self,
        model: Model,
        whole: dict[str, Any],
        plan: Plan,
        metrics: Sequence[Metric],
        shards: range,
        folder: RangeFolder,
    ) -> None:
        """Pass over a range as often as the plan says, and keep what was built each time."""
        extraction = self.job.extraction(model)
        groups = self.groups(FeatureStore(whole, []), metrics)
        files: dict[str, Any] = {}
        records: dict[str, Any] = {}
        for one in plan.passes:
            if one.classes is None:
                asked = {name: _kept(groups[name], name in plan.by_class) for name in one.layers}
                manifest = self._only(whole, one.layers)
                found, read = read_range(
                    extraction, manifest, shards, Asked(asked, self._units, self.job.mean)
                )
            else:
                found, read = self._read_classes(model, whole, one, shards, groups)
            files |= folder.add(found)
            del found  # before the next pass
            release()
            for index, record in read.items():
                if index in records:
                    records[index]["seconds"] += record["seconds"]
                else:
                    records[index] = record
        folder.finish(files, {**whole, "shards": records, "class_bounds": plan.class_bounds})

    def _read_classes(
        self, model: Model, whole: dict[str, Any], one: Pass, shards: range, groups: Any
    ) -> tuple[dict[str, Partial], dict[str, Any]]:
        """Scatter of the classes of a block, from their examples in a range alone."""
        assert one.classes is not None
        first, stop = one.classes
        size, data = whole["shard_size"], self.job.task[self.job.split]
        rows = np.arange(shards.start * size, min(shards.stop * size, len(data)))
        rows = rows[(data.labels[rows] >= first) & (data.labels[rows] < stop)]
        if not len(rows):
            return {}, {}
        part = dataclasses.replace(self.job.task, splits={
            **self.job.task.splits, self.job.split: part_of(data, rows)
        })  # fmt: skip
        needs = Needs(("moments",), frozenset({"class"}), "classification", stop - first, 0)
        labels = data.labels[rows] - first
        asked = {name: [Group(groups[name][0].metrics, labels, needs)] for name in one.layers}
        manifest = {**self._only(whole, one.layers), "n": len(rows)}
        found, read = read_range(
            self.job.extraction(model, part),
            manifest,
            range(-(-len(rows) // size)),
            Asked(asked, self._units[rows], self.job.mean),
        )
        seconds = sum(record["seconds"] for record in read.values())
        return (
            {of_classes(name, one.classes): partial for name, partial in found.items()},
            {str(shards.start): {"rows": 0, "seconds": seconds}},
        )

    def _only(self, manifest: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
        """A manifest of some layers; the mean needs all of them."""
        keep = [x for x in manifest["layers"] if self.job.mean or x["name"] in names]
        logits = manifest["logits"] if LOGITS in names else None
        return {**manifest, "layers": keep, "logits": logits}

    def plan(self, model: Model, manifest: Mapping[str, Any], metrics: Sequence[Metric]) -> Plan:
        """How the statistics of a model are built within the memory, beside its weights.

        Raises:
            InvalidInputError: one layer alone does not fit.
        """
        task, data = self.job.task, self.job.task[self.job.split]
        module = self.job.extraction(model).forward.model.module
        weights = sum(t.numel() * t.element_size() for t in module.state_dict().values())
        store = FeatureStore(manifest, [])
        groups = self.groups(store, metrics)
        store = MeanStore(store) if self.job.mean else store
        dims = {layer.name: layer.dim for layer in store.layers if layer.name in groups}
        if LOGITS in groups:
            dims[LOGITS] = store.manifest["logits"]["dim"]
        needs = {name: [group.needs for group in groups[name]] for name in dims}
        classes = task.kind == "classification"
        counts = np.bincount(data.labels, minlength=task.num_classes) if classes else [len(data)]
        targets = 1 if classes or np.ndim(data.labels) == 1 else data.labels.shape[1]
        return plan_passes(
            dims, needs, np.asarray(counts), self.share, self.memory - weights, targets,
            min(manifest["shard_size"], len(data)),
        )  # fmt: skip

    def groups(self, store: FeatureStore, metrics: Sequence[Metric]) -> dict[str, list[Group]]:
        """What is built of each layer, and of the head where there is one."""
        task, labels = self.job.task, np.asarray(self.job.task[self.job.split].labels)
        blocks = BLOCKS if self.job.mode else 0
        logits = store.manifest["logits"]
        store = MeanStore(store) if self.job.mean else store
        made: dict[bool, list[Group]] = {}
        found = {}
        for slot in slots_of(store, metrics):
            if slot.name != LOGITS or logits:
                of_head = slot.name == LOGITS
                if of_head not in made:
                    made[of_head] = groups_of(
                        slot.metrics, labels, task.kind, task.num_classes, blocks
                    )
                found[slot.name] = made[of_head]
        return found

    @cached_property
    def _units(self) -> np.ndarray:
        data = self.job.task[self.job.split]
        return np.arange(len(data)) if data.units is None else data.units


def _kept(groups: Sequence[Group], by_class: bool) -> list[Group]:
    """Groups whose per-class scatter is built in passes of its own, where it is."""
    if not by_class:
        return list(groups)
    return [
        dataclasses.replace(
            group, needs=dataclasses.replace(group.needs, parts=group.needs.parts - {"class"})
        )
        for group in groups
    ]
