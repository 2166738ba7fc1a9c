"""The work on one model: statistics of ranges of its examples, merged, and scored."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transfer_metrics.errors import (
    CorruptStoreError,
    InvalidInputError,
    StorageError,
    warn,
)
from transfer_metrics.features.extract import Extraction
from transfer_metrics.features.proof import Proof
from transfer_metrics.features.shards import LOGITS
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.progress import OutOfTime, is_over, until
from transfer_metrics.ranking.engines import Lost
from transfer_metrics.ranking.job import Job, Outcome
from transfer_metrics.ranking.kept import Kept
from transfer_metrics.ranking.range_statistics import RangeBuilder, RangeFolder, read_ranges
from transfer_metrics.ranking.scoring import Read, bases_of, read_stores, records_of
from transfer_metrics.results.error_bars import MODES
from transfer_metrics.results.ranks import standing_for
from transfer_metrics.results.record import Record
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.statistics.statistics import Needs, Statistics

_Result = TypeVar("_Result")
Run = Callable[..., Iterator[tuple[int, Any]]]
"""``map_reduce`` with an engine that was chosen."""


def outcomes(
    work: Ranges, candidates: Sequence[Candidate], run: Run, **options: Any
) -> Iterator[tuple[int, Outcome]]:
    """Outcomes as an engine has them; it ends at the first that says that nothing can be kept.

    Where the time was over before any model had a score, one is scored all the same, and then has
    a second outcome; not in later rounds of a race, which have the scores of those before.
    """
    job, late, scored = work.job, list[int](), bool(work.job.stage)
    found = run(work, candidates, [work.parts] * len(candidates), **options)
    with ExitStack() as stack:
        if isinstance(found, Generator):
            stack.callback(found.close)  # at once, whoever still holds it
        for place, result in found:
            outcome = result
            if isinstance(result, Lost):
                outcome = _lost(job, candidates[place], result)
            if outcome.stop:
                raise StorageError(outcome.stop)
            scored |= outcome.scored
            if candidates[place].name != work.sure:
                late += [place] * outcome.late
            elif outcome.scored and is_over(job.until):
                warn(
                    f"the time was over before any model was scored, and {work.sure} was all the "
                    f"same, since there is no result without one"
                )
            yield place, outcome
    for place in sorted(late):
        if not scored:
            one = [candidates[place]]
            [(_, outcome)] = outcomes(replace(work, sure=one[0].name), one, run, **options)
            scored = outcome.scored
            yield place, outcome


@dataclass(frozen=True)
class _Built:
    """What who merges the statistics of a model is told by who built them."""

    name: str
    key: str  # of its features
    scores: str  # key of its scores in the cache
    folder: Path  # the folder of the statistics of its ranges
    labels: frozenset[str]  # of the metrics that are scored
    loading: float  # seconds that its worker took to load the model
    cost: int  # of its pass, for a race
    known: Proof | None  # of its network, for the rounds of a race to come


@dataclass(frozen=True)
class _Loaded:
    """A model in the hands of a worker."""

    builder: RangeBuilder  # what builds its statistics
    built: _Built  # what is to be said of them
    stored: bool  # whether they are built of features in files


@dataclass(frozen=True)
class Ranges:
    """A model is scored from the merged statistics of ranges of examples.

    A range that is finished is not done again, whatever happens after; merged statistics are the
    same for any number of workers. A model of one range, or of stored features, is one piece of
    work, and its statistics are not written.
    """

    job: Job
    memory: int  # bytes that the weights and statistics of one worker may take
    run: str = ""  # tells runs apart that must not use each other's statistics
    sure: str = ""  # the model that is scored however long it takes
    kept: Kept = field(default_factory=Kept)  # of rounds before, and for those to come

    @property
    def parts(self) -> int:
        """Pieces of work on one model."""
        return 1 if self.job.stored else self.job.reach

    def load(self, item: Candidate) -> _Loaded | Outcome:
        """A model, or its scores where they are known; what its code raises becomes a record."""
        return self._tried(item.name, lambda: self._load(item))

    def _load(self, item: Candidate) -> _Loaded | Outcome:
        job, started = self.job, time.perf_counter()
        model = self.kept.load(item)
        loading = time.perf_counter() - started
        whole = job.extraction(model)
        if job.racing:
            self.kept.keep(item, model)
        known_of = Proof.of(model) if job.racing else None
        scores, key = job.scores_key(whole), job.features_key(whole, range(len(job.data)))
        known, missing = job.known_scores(scores)
        cost = whole.forward.cost() if job.racing and not job.stage else 0
        if not missing:
            left, ordered = self._left_over(whole, key), job.ordered(item.name, known)
            return Outcome(ordered, key, left=left, cost=cost, known=known_of)
        builder = RangeBuilder(job, whole, job.metrics if job.racing else missing, self.memory)
        stored = job.stored or job.has_features(key) or builder.spills
        folder = self._folder(builder, stored)
        labels = frozenset(m.label for m in missing)
        built = _Built(item.name, key, scores, folder, labels, loading, cost, known_of)
        return _Loaded(builder, built, stored)

    def _tried(self, name: str, work: Callable[[], _Result]) -> _Result | Outcome:
        """What comes of work on a model: anything that its code may raise stops no others."""
        try:
            with until(math.inf if name == self.sure else self.job.until):
                return work()
        except OutOfTime:
            return self.job.unfinished(name)
        except Exception as error:
            return self.job.failure(name, error)

    def _folder(self, builder: RangeBuilder, stored: bool = False) -> Path:
        """Where the statistics of a model are kept."""
        content = {"run": self.run, **({} if stored else builder.content)}
        return self.job.cache.statistics(self.job.statistics_key(builder.whole, content))

    def _left_over(self, whole: Extraction, key: str) -> tuple[Path, ...]:
        """What a run left which was killed between scoring and clearing up."""
        job = self.job
        if job.policy == "only-cache":
            return ()
        left = []
        if not job.keep_features and job.cache.is_passing(key):
            left.append(job.cache.features(key))
        if not job.stored and job.cache.has_statistics:
            with contextlib.suppress(InvalidInputError):  # they do not fit, so there are none
                builder = RangeBuilder(job, whole, job.metrics, self.memory)
                left.append(self._folder(builder))
        return tuple(left)

    def take_over(self, before: Ranges) -> None:
        """Keep the networks that a worker has of the round before."""
        self.kept.take_over(before.kept)

    def settles(self, result: Any) -> bool:
        """Scores that were in the cache, and failures, need no statistics."""
        return isinstance(result, Outcome)

    def map(self, loaded: _Loaded | Outcome, part: int) -> _Built | Outcome:
        """Leave the statistics of one range in its folder, or score the model where that is all."""
        if isinstance(loaded, Outcome):
            return loaded
        model = loaded
        return self._tried(model.built.name, lambda: self._map(model, part))

    def _map(self, loaded: _Loaded, part: int) -> _Built | Outcome:
        if loaded.stored:
            return self._from_features(loaded)
        if self.parts == len(loaded.builder.plan.passes) == 1 and not self.job.racing:
            return self._in_memory(loaded)
        folder = RangeFolder(loaded.built.folder / f"{part:05d}")
        if folder.read_manifest() is None:
            with folder.writing() as temporary:
                loaded.builder.write(self.job.ranges[part], temporary)
        return loaded.built

    def reduce(self, item: Any, results: Sequence[Any], again: bool = False) -> Outcome:
        """The outcome of a candidate, from the statistics of its ranges."""
        for result in results:
            if isinstance(result, Outcome) and result.late:
                return result  # its finished ranges stay
            if isinstance(result, Outcome):
                left = {r.folder for r in results if isinstance(r, _Built) and result.key}
                return replace(result, left=(*result.left, *left))
            if isinstance(result, Lost):
                return _lost(self.job, item, result)
        built = replace(results[0], loading=max(result.loading for result in results))

        def merged() -> Outcome | None:
            folders = [RangeFolder(built.folder / f"{part:05d}") for part in range(self.parts)]
            try:
                outcome = self._outcome(built, *read_ranges(folders))
            except CorruptStoreError:
                if again:
                    raise
                return None
            if not self.job.racing:
                self.job.cache.drop_statistics(built.folder.name)
            return outcome

        if (outcome := self._tried(built.name, merged)) is not None:
            return outcome
        # Damaged meanwhile, or another run on the same cache was faster and has cleared up.
        loaded, results = self.load(item), []
        while len(results) < self.parts and not any(map(self.settles, results)):
            results.append(self.map(loaded, len(results)))
        return self.reduce(item, results, again=True)

    def _features(self, stack: ExitStack, whole: Extraction, place: int) -> FeatureStore:
        """Features of a range in files: what is there is kept, what is damaged computed anew."""
        job = self.job
        positions = job.seen[place] if job.stored else range(len(job.data))
        task = job.part(positions)
        key = job.features_key(whole, positions)
        before = job.racing[job.stage - 1] if job.stage else 0
        if job.policy == "always" and place >= before:
            job.cache.drop_features(key, wait=True)
        # What is there stays until it was scored, whatever other runs do.
        folder = stack.enter_context(job.cache.using(key, job.keep_features))
        return whole.on(task).mended(folder)

    def _in_memory(self, loaded: _Loaded) -> Outcome:
        """The outcome of a model whose only range is passed over once."""
        self.job.cache.check_writable()
        seconds: list[float] = []
        [one], [positions] = loaded.builder.plan.passes, self.job.seen
        found = loaded.builder.build(one, positions, seconds)

        def read(name: str, needs: Sequence[Needs]) -> tuple[Statistics, None]:
            return found.pop(name), None

        return self._outcome(loaded.built, loaded.builder.store, sum(seconds), read)

    def _from_features(self, loaded: _Loaded) -> Outcome:
        """The outcome of a model whose features are in files, or are written first."""
        job, built = self.job, loaded.built
        seen = job.seen if job.stored else (range(len(job.data)),)
        with ExitStack() as stack:
            stores = [self._features(stack, loaded.builder.whole, i) for i in range(len(seen))]
            read = read_stores(stores, job.labels[np.concatenate(seen)], job.mean)
            outcome = self._outcome(built, stores[0], sum(one.seconds for one in stores), read)
        if not job.keep_features:
            job.cache.drop_features(built.key)
        return outcome

    def _outcome(self, built: _Built, store: FeatureStore, seconds: float, read: Read) -> Outcome:
        """The outcome of a model from the statistics of its layers; the cache gets it too."""
        job = self.job
        left = [built.folder]
        if not job.keep_features:
            left.append(job.cache.features(built.key))
        bases = bases_of(store, job.mean, sum(map(len, job.seen)), seconds)
        metrics = [m for m in job.metrics if m.label in built.labels]
        scored = records_of(bases, metrics, job.labels, read, job.modes)
        if job.tested:
            scored = self._with_error(scored, bases, read)
        known, missing = job.known_scores(built.scores)
        if not {m.label for m in missing} <= built.labels:
            raise CorruptStoreError(f"scores of {built.name} in the cache are gone; run again")
        scored = [replace(record, load_seconds=built.loading) for record in scored]
        job.keep_scores(built.scores, built.labels, scored)
        kept = [record for record in known if record.label not in built.labels]
        return Outcome(
            job.ordered(built.name, [*kept, *scored]), built.key, left=tuple(left),
            cost=built.cost, known=built.known,
        )  # fmt: skip

    def _with_error(
        self, scored: list[Record], bases: Mapping[str, Record], read: Read
    ) -> list[Record]:
        """The records of a round, of which the one that is compared gets its error."""
        first = self.job.metrics[0]
        own = [r for r in scored if r.label == first.label and not r.error]
        if not own:
            return scored
        best = standing_for(own, self.job.view)
        place = LOGITS if first.requires == "source" else str(best.layer)
        bases, modes = {place: bases[place]}, {first.label: MODES[0]}
        [fresh] = records_of(bases, [first], self.job.labels, read, modes)
        tested = replace(
            best, stderr=fresh.stderr, deviations=fresh.deviations, intervals=fresh.intervals,
            seconds=(best.seconds or 0.0) + (fresh.seconds or 0.0),
        )  # fmt: skip
        return [tested if record is best else record for record in scored]


def _lost(job: Job, candidate: Candidate, result: Lost) -> Outcome:
    """The record of a model on which workers died."""
    reason = (
        f"the worker on it died repeatedly ({result.reason}), as it does where memory runs out; "
        f"use fewer workers or a smaller batch_size"
    )
    return job.failure(candidate.name, reason)
