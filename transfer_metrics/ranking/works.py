"""What engines do for a ranking: whole models, or ranges of shards whose statistics are merged."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transfer_metrics.errors import CorruptStoreError, StorageError, TransferMetricsError
from transfer_metrics.features.averaged import MeanStore
from transfer_metrics.metrics.base import Metric
from transfer_metrics.ranking.build import built_of
from transfer_metrics.ranking.cache import content_key
from transfer_metrics.ranking.engines import Lost
from transfer_metrics.ranking.job import (
    Job,
    Outcome,
    failure,
    keep_scores,
    known_scores,
    ordered,
    score_one,
)
from transfer_metrics.ranking.memory_budget import Plan, release
from transfer_metrics.ranking.pieces import Group
from transfer_metrics.ranking.ranges import RangeReader
from transfer_metrics.ranking.score import NO_HEAD, Slot, slots_of
from transfer_metrics.ranking.stored import (
    RangeFolder,
    StoredScatter,
    clear,
    merged,
    merged_store,
)
from transfer_metrics.ranking.values import failed, records_of, values_of
from transfer_metrics.results.table import record_label
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.models.model import Model

RANGES = 16
"""Most ranges that the shards of a model are cut into."""

RANGE_SHARDS = 4
"""Fewest shards of a range, where there are as many: each range leaves its own statistics."""


def lost(job: Job, candidate: Candidate, result: Lost) -> Outcome:
    """The record of a model on which workers died."""
    reason = (
        f"the worker on it died repeatedly ({result.reason}), as it does where memory runs out; "
        f"use fewer workers or a smaller batch_size"
    )
    return failure(job, candidate.name, reason)


def outcomes(
    job: Job, candidates: Sequence[Candidate], found: Iterator[tuple[int, Any]]
) -> Iterator[tuple[int, Outcome]]:
    """Outcomes as an engine has them; it ends at the first that says that nothing can be kept.

    Raises:
        StorageError: the cache cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(found, Generator):
            stack.callback(found.close)  # at once, whoever still holds it
        for place, result in found:
            outcome = lost(job, candidates[place], result) if isinstance(result, Lost) else result
            if outcome.stop:
                raise StorageError(outcome.stop)
            yield place, outcome


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
    """A model in the hands of a worker.

    Attributes:
        model: the model.
        built: where its statistics go.
        manifest: what its features would be.
        plan: how its statistics are built.
        missing: the metrics that are to be scored.
    """

    model: Model
    built: Built
    manifest: dict[str, Any]
    plan: Plan
    missing: tuple[Metric, ...]


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

    def load(self, item: Candidate) -> Loaded | Outcome:
        """A model, or its scores where they are known; what its code raises becomes a record."""
        started = time.perf_counter()
        try:
            model = item.load()
            seconds = time.perf_counter() - started
            key = self.job.scores_key(model)
            known, missing = known_scores(self.job, key)
            if not missing:
                return Outcome(ordered(self.job, item.name, known))
            manifest = self.reader.manifest(model)
            plan = self.reader.plan(model, manifest, missing)
            labels = tuple(m.label for m in missing)
            content = self.reader.content(manifest, plan, missing)
            folder = self.root / content_key(of=key, m=labels, r=self.run, content=content)
            built = Built(item.name, key, folder, labels, seconds)
            return Loaded(model, built, manifest, plan, tuple(missing))
        except Exception as error:
            return failure(self.job, item.name, error)

    def settles(self, result: Any) -> bool:
        """Scores that were in the cache, and failures, need no statistics."""
        return isinstance(result, Outcome)

    def map(self, loaded: Loaded | Outcome, part: int) -> Built | Outcome:
        """Leave the statistics of one range in its folder."""
        if isinstance(loaded, Outcome):
            return loaded
        built = loaded.built
        folder = RangeFolder(built.folder / f"{part:05d}")
        try:
            if folder.read_manifest() is None:
                with folder.writing() as temporary:
                    self.reader.read(
                        loaded.model, loaded.manifest, loaded.plan, loaded.missing,
                        self.bounds[part], temporary,
                    )  # fmt: skip
        except Exception as error:
            return failure(self.job, built.name, error)
        return built

    def reduce(self, item: Any, results: Sequence[Any]) -> Outcome:
        """The outcome of a candidate, from the statistics of its ranges."""
        left = tuple({result.folder.name for result in results if isinstance(result, Built)})
        for result in results:
            if isinstance(result, Outcome):
                return _leaving(result, left)
            if isinstance(result, Lost):
                return lost(self.job, item, result)
        loading = max(result.loading for result in results)
        try:
            return _leaving(self._scored(results[0], len(results), loading), left)
        except CorruptStoreError:
            # Damaged meanwhile, or another run on the same cache was faster and has cleared up.
            return _leaving(self._again(item, len(results), loading), left)
        except TransferMetricsError as error:
            return failure(self.job, results[0].name, error)

    def _again(self, item: Any, parts: int, loading: float) -> Outcome:
        """The outcome of a candidate whose statistics are gone, wholly or in part."""
        loaded = self.load(item)
        if isinstance(loaded, Outcome):
            return loaded
        for part in range(parts):
            result = self.map(loaded, part)
            if isinstance(result, Outcome):
                return result
        try:
            return self._scored(loaded.built, parts, loading)
        except TransferMetricsError as error:
            return failure(self.job, loaded.built.name, error)

    def _scored(self, built: Built, parts: int, loading: float) -> Outcome:
        job = self.job
        known, missing = known_scores(job, built.scores)
        if not {m.label for m in missing} <= set(built.missing):
            raise CorruptStoreError(f"scores of {built.name} in the cache are gone; run again")
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
                release()  # of building, or of the layer before
                values = _values(groups[slot.name], folders, slot, bounds.get(slot.name), job.mode)
            fields = {**slot.fields, "load_seconds": loading}
            fresh += records_of(fields, slot.metrics, values)
        keep_scores(job, built.scores, metrics, fresh)
        clear(built.folder)
        kept = [r for r in known if record_label(r) not in built.missing]
        return Outcome(ordered(job, built.name, kept + fresh))


def _leaving(outcome: Outcome, left: tuple[str, ...]) -> Outcome:
    """The outcome with what it has no more use for; where a model failed, that may go on."""
    failed_whole = not outcome.records[0]["metric"]
    return outcome if failed_whole else dataclasses.replace(outcome, left=left)


def _values(
    groups: Sequence[Group],
    folders: Sequence[RangeFolder],
    slot: Slot,
    ends: Sequence[int] | None,
    mode: str | None,
) -> dict[str, dict[str, Any]]:
    """Values of all metrics of a layer, from the statistics of all examples."""
    partial = merged(folders, slot.name)
    assert partial is not None
    scatter = StoredScatter(folders, slot.name, ends, slot.fields["dim"]) if ends else None
    found: dict[str, dict[str, Any]] = {}
    for group, pieces in zip(groups, partial.groups, strict=True):
        if isinstance(pieces, str):
            found |= failed(group.metrics, pieces)
        else:
            give = None if scatter is None else lambda moments: scatter
            build = functools.partial(built_of, pieces, group.needs, group.metrics, give)
            found |= values_of(group, build, mode)
    return found
