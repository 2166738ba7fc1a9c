"""What engines do for a ranking: whole models, or ranges of shards whose statistics are merged."""

from __future__ import annotations

import functools
import itertools
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transfer_metrics.engines import Lost
from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.features.averaged import MeanStore
from transfer_metrics.ranking.build import built_of
from transfer_metrics.ranking.cache import content_key
from transfer_metrics.ranking.job import (
    Job,
    Outcome,
    candidate_name,
    failure,
    keep_scores,
    known_scores,
    ordered,
    score_one,
)
from transfer_metrics.ranking.partial import (
    Partial,
    RangeFolder,
    StoredScatter,
    merged,
    merged_store,
)
from transfer_metrics.ranking.pieces import Group
from transfer_metrics.ranking.ranges import RangeReader
from transfer_metrics.ranking.score import NO_HEAD, slots_of
from transfer_metrics.ranking.table import record_label
from transfer_metrics.ranking.values import failed, records_of, values_of
from transfer_metrics.sources.base import Model
from transfer_metrics.sources.models import load_model

RANGES = 16
"""Most ranges that the shards of a model are cut into."""

RANGE_SHARDS = 4
"""Fewest shards of a range, where there are as many: each range leaves its own statistics."""


def lost(job: Job, candidate: Any, result: Lost) -> Outcome:
    """The record of a model on which workers died."""
    reason = (
        f"the worker on it died repeatedly ({result.reason}), as it does where memory runs out; "
        f"use fewer workers or a smaller batch_size"
    )
    return failure(job, candidate_name(candidate), reason)


@dataclass(frozen=True)
class Whole:
    """A model is scored as a whole, its features on disk; one part for each."""

    job: Job

    def load(self, item: Any) -> Any:
        """The candidate, which ``score_one`` loads."""
        return item

    def map(self, loaded: Any, part: int) -> Outcome:
        """The outcome of a candidate."""
        return score_one(self.job, loaded)

    def settles(self, result: Any) -> bool:
        """There is one part."""
        return True

    def reduce(self, item: Any, results: Sequence[Any]) -> Outcome:
        """The outcome."""
        [result] = results
        return lost(self.job, item, result) if isinstance(result, Lost) else result


@dataclass(frozen=True)
class Built:
    """Where a worker left the statistics of a range.

    Attributes:
        name: name of the model.
        scores: key of its scores in the cache.
        folder: the folder of its ranges.
        missing: labels of the metrics that are to be scored.
        loading: seconds that its worker took to load the model.
    """

    name: str
    scores: str
    folder: Path
    missing: tuple[str, ...]
    loading: float


@dataclass(frozen=True)
class Loaded:
    """A model in the hands of a worker, and the seconds that loading took."""

    model: Model
    seconds: float


@dataclass(frozen=True)
class Ranges:
    """A model is scored range by range, and nothing of it is kept but statistics.

    Ranges depend on the data alone, so the merged statistics are the same for any number of
    workers, and a range that is finished is not done again, whatever happens after.

    Attributes:
        job: the ranking.
        root: where statistics are kept.
        memory: bytes that the weights and statistics of one worker may take.
        run: tells runs apart that must not use each other's statistics.
    """

    job: Job
    root: Path
    memory: int
    run: str = ""

    @cached_property
    def bounds(self) -> list[range]:
        """Numbers of the shards of each range."""
        shards = -(-len(self.job.task[self.job.split]) // self.job.options.get("shard_size", 1024))
        count = min(RANGES, -(-shards // RANGE_SHARDS))
        ends = [shards * i // count for i in range(count + 1)]
        return [range(a, b) for a, b in itertools.pairwise(ends)]

    @property
    def reader(self) -> RangeReader:
        """What reads a range."""
        return RangeReader(self.job, self.memory, 1 / len(self.bounds))

    def load(self, item: Any) -> Loaded | Outcome:
        """A model; what its own code raises becomes the reason in its record."""
        started = time.perf_counter()
        try:
            return Loaded(load_model(item), time.perf_counter() - started)
        except Exception as error:
            return failure(self.job, candidate_name(item), error)

    def settles(self, result: Any) -> bool:
        """Scores that were in the cache, and failures, need no statistics."""
        return isinstance(result, Outcome)

    def map(self, loaded: Loaded | Outcome, part: int) -> Built | Outcome:
        """Leave the statistics of one range in its folder."""
        if isinstance(loaded, Outcome):
            return loaded
        try:
            return self._built(loaded, part)
        except Exception as error:
            return failure(self.job, loaded.model.name, error)

    def _built(self, loaded: Loaded, part: int) -> Built | Outcome:
        job, model = self.job, loaded.model
        key = job.scores_key(model)
        known, missing = known_scores(job, key)
        if not missing:
            return Outcome(ordered(job, model.name, known))
        labels = tuple(m.label for m in missing)
        root = self.root / content_key(of=key, m=labels, r=self.run)
        built = Built(model.name, key, root, labels, loaded.seconds)
        folder = RangeFolder(built.folder / f"{part:05d}")
        if folder.read_manifest() is None:
            with folder.writing() as temporary:
                self.reader.read(model, missing, self.bounds[part], temporary)
        return built

    def reduce(self, item: Any, results: Sequence[Any]) -> Outcome:
        """The outcome of a candidate, from the statistics of its ranges."""
        for result in results:
            if isinstance(result, Outcome):
                return result
            if isinstance(result, Lost):
                return lost(self.job, item, result)
        built: Built = results[0]
        try:
            return self._scored(built, len(results), max(r.loading for r in results))
        except TransferMetricsError as error:
            # Another run on the same cache may have been faster, and have cleared up.
            known, missing = known_scores(self.job, built.scores)
            if not missing:
                return Outcome(ordered(self.job, built.name, known))
            return failure(self.job, built.name, error)

    def _scored(self, built: Built, parts: int, loading: float) -> Outcome:
        job = self.job
        known, _ = known_scores(job, built.scores)
        folders = [RangeFolder(built.folder / f"{part:05d}") for part in range(parts)]
        store = merged_store(folders)
        bounds = store.manifest["class_bounds"]
        metrics = [m for m in job.metrics if m.label in built.missing]
        groups = self.reader.groups(store, metrics)
        store, fresh = MeanStore(store) if job.mean else store, []
        for slot in slots_of(store, metrics):
            if slot.name not in groups:
                values = failed(slot.metrics, NO_HEAD)
            else:
                partial = merged(folders, slot.name)
                assert partial is not None
                ends = bounds.get(slot.name)
                scatter = ends and StoredScatter(folders, slot.name, ends, slot.fields["dim"])
                values = _values(groups[slot.name], partial, job.mode, scatter)
            fields = {**slot.fields, "load_seconds": loading}
            fresh += records_of(fields, slot.metrics, values)
        keep_scores(job, built.scores, metrics, fresh)
        shutil.rmtree(built.folder, ignore_errors=True)
        kept = [r for r in known if record_label(r) not in built.missing]
        return Outcome(ordered(job, built.name, kept + fresh))


def _values(
    groups: Sequence[Group], partial: Partial, mode: str | None, scatter: StoredScatter | None
) -> dict[str, dict[str, Any]]:
    """Values of all metrics of a layer, from the statistics of all examples."""
    found: dict[str, dict[str, Any]] = {}
    for group, pieces in zip(groups, partial.groups, strict=True):
        if isinstance(pieces, str):
            found |= failed(group.metrics, pieces)
        else:
            give = None if scatter is None else lambda moments: scatter
            build = functools.partial(built_of, pieces, group.needs, group.metrics, give)
            found |= values_of(group, build, mode)
    return found
