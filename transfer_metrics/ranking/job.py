"""What is the same for all models of a ranking: what is asked, and under what it is kept."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, StorageError, TransferMetricsError
from transfer_metrics.features.extract import Extraction, check_pass
from transfer_metrics.features.layers import MEAN
from transfer_metrics.features.proof import Proof
from transfer_metrics.metrics.base import Metric
from transfer_metrics.naming import short_id
from transfer_metrics.ranking.cache import ResultCache, content_key, score_code
from transfer_metrics.ranking.metric_choice import resolve_metrics
from transfer_metrics.results.error_bars import MODES, interval_modes
from transfer_metrics.results.record import BINOMIAL, NO_TIME, Record
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.labels import is_long_tailed
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.statistics.statistics import Labels

_LAYER_CHOICES = {
    "best": ("blocks", "best"),
    "blocks": ("blocks", "all"),
    "last": ("last", "last"),
    MEAN: ("blocks", "best"),
}
_RANGES = 16
"""Most ranges that the shards of a model are cut into: each leaves its own statistics."""


@dataclass(frozen=True)
class Outcome:
    """What became of one model."""

    records: list[Record]  # its records, or the one of its failure
    key: str = ""  # of its features, which decides between equal scores; empty after a failure
    # Why nothing more can be kept of any model, so that the ranking ends; else empty.
    stop: str = ""
    # What in the cache is of no more use, should it still be there: where several worked on a
    # model, the last one may leave it.
    left: tuple[Path, ...] = ()
    late: bool = False  # whether the time was over before the model was scored
    cost: int = 0  # of a pass over one example in a race's first round; 0 where it is not known
    known: Proof | None = None  # what a race need not find again of the network

    @property
    def scored(self) -> bool:
        """Whether it has any score."""
        return any(r.value is not None for r in self.records)


@dataclass(frozen=True)
class Job:
    """A ranking, for any of its models."""

    task: Task
    metrics: Sequence[Metric]  # the metrics, of which the first one ranks
    layers: Any  # which layers are read
    view: str  # which of them stand for a model
    cache: ResultCache
    # How errors of scores are found, by label of the metrics that are to have one.
    modes: Mapping[str, str]
    options: Mapping[str, Any]  # further options of ``extract``
    # Positions of the examples that are run through a model in one go each, ascending.
    ranges: tuple[Any, ...]
    pool: str = "avg"  # pooling of each layer
    split: str = "train"
    dtype: str = "float32"  # precision of features
    amp: bool = False  # whether the forward pass runs in mixed precision
    policy: str = "only-missing"  # what is taken from the cache and what is kept there
    lasting: bool = True  # whether that is there for the next run
    stored: bool = False  # whether features are written first, and statistics built of the files
    # Whether that is done for models whose statistics do not fit into memory together.
    spills: bool = False
    keep_features: bool = False  # whether the files stay after scoring
    # How many ranges each round of a race looks at; empty where there is none.
    racing: tuple[int, ...] = ()
    stage: int = 0
    mean: bool = False  # whether the mean of the layers is scored in place of each of them
    until: float = math.inf  # when the time is over, as ``time.time()`` has it

    @classmethod
    def of(
        cls,
        task: Task,
        metrics: Any,
        *,
        layers: Any = "best",
        split: str = "train",
        cache_dir: str | os.PathLike[str] | None = None,
        intervals: bool | str = False,
        options: Mapping[str, Any] | None = None,
        stored: bool = False,
        **fields: Any,
    ) -> Job:
        """That of arguments of ``rank_models``, and of ``fields`` of a job."""
        options = options or {}
        check_pass(**options, dtype=fields.get("dtype", "float32"))
        n = len(task[split])
        named = _LAYER_CHOICES.get(layers) if isinstance(layers, str) else None
        chosen, view = named or (layers, "best")
        uneven = task.kind == "classification" and is_long_tailed(task[split].labels)
        asked = resolve_metrics(metrics, task.kind, long_tailed=uneven)
        ranges = (range(n),) if stored else _ranges_of(n, options.get("shard_size", 1024))
        modes = interval_modes(intervals, asked, True)
        mean = isinstance(layers, str) and layers == MEAN
        return cls(
            task, asked, chosen, view, ResultCache(cache_dir), modes, options, ranges, split=split,
            stored=stored, mean=mean, **fields,
        )  # fmt: skip

    @property
    def data(self) -> Split:
        """The split."""
        return self.task[self.split]

    @cached_property
    def labels(self) -> Labels:
        """Labels of the whole split."""
        data, task = self.data, self.task
        return Labels.of(
            np.asarray(data.labels), task.kind, task.num_classes, data.units, self.metrics
        )

    @property
    def task_id(self) -> str:
        """What tells the data from others of that name; those of a part are those of the whole."""
        return short_id(self.data.fingerprint)

    @property
    def reach(self) -> int:
        """How many of the ranges are looked at."""
        return self.racing[self.stage] if self.racing else len(self.ranges)

    @property
    def seen(self) -> tuple[Any, ...]:
        """The ranges that are looked at."""
        return self.ranges[: self.reach]

    @property
    def block_modes(self) -> Mapping[str, str]:
        """Which errors statistics allow: a race tests its first metric by a jackknife."""
        return {self.metrics[0].label: MODES[0], **self.modes} if self.racing else self.modes

    @property
    def tested(self) -> bool:
        """Whether a race tests models after this round, by an error that is found for that only."""
        first, goes_on = self.metrics[0], self.stage < len(self.racing) - 1
        return goes_on and first.label not in self.modes and first.requires != "examples"

    def part(self, positions: Any) -> Task:
        """The task cut down to some examples, whose hash follows from that of the whole."""
        if len(positions) == len(self.data):
            return self.task
        part = replace(self.data.rows(positions), whole=self.data.whole or self.data)
        part.__dict__["fingerprint"] = self._fingerprint(positions)
        return dataclasses.replace(self.task, splits={"train": part, self.split: part})

    def extraction(self, model: Model) -> Extraction:
        """The pass of a model over the task."""
        return Extraction.of(
            model, self.task, self.layers, self.pool, split=self.split, dtype=self.dtype,
            amp=self.amp, pixels=self.cache.pixels, **self.options,
        )  # fmt: skip

    def features_key(self, whole: Extraction, positions: Any) -> str:
        """Key of the features of a model on some examples, by the names they go by.

        Like the other keys, it is made of the pass over the whole split.
        """
        names = (whole.given.name, whole.given.revision, self.task.name, self.split)
        return content_key(**self._content(whole, self._fingerprint(positions)), names=names)

    def scores_key(self, whole: Extraction) -> str:
        """Key of the scores of a model: of all examples the same with and without a race."""
        scored = {"by": score_code()} | ({"scored": MEAN} if self.mean else {})
        if self.reach == len(self.ranges):
            return content_key(**self._content(whole, self.data.fingerprint), **scored)
        seen = np.concatenate([np.asarray(positions) for positions in self.seen])
        # Errors are added for the metric that races, so these scores serve no other race.
        race = (self.metrics[0].label, self.modes.get(self.metrics[0].label))
        return content_key(**self._content(whole, self._fingerprint(seen)), **scored, race=race)

    def has_features(self, key: str) -> bool:
        """Whether an earlier run kept features of the whole split."""
        shards = (self.cache.features(key) / "shards").glob("*.safetensors")
        return not self.racing and any(shards)

    def statistics_key(self, whole: Extraction, content: Any) -> str:
        """Key of the statistics of all ranges of a model; ``content`` is what else decides them."""
        ranges = [self._fingerprint(positions) for positions in self.ranges]
        of_model = self._content(whole, self.data.fingerprint)
        of_model |= {"by": score_code(), "mean": self.mean}
        return content_key(**of_model, ranges=ranges, content=content)

    def known_scores(self, key: str) -> tuple[list[Record], list[Metric]]:
        """Records that the cache has under the key of a model, and the metrics that it lacks."""
        known = self.cache.read(key) if self.policy in ("only-missing", "only-cache") else []
        versions = {m.label: m.version for m in self.metrics}
        done = set()
        for r in known:
            # The last mode finds an error wherever another does; shares need no jackknife.
            mode = self.modes.get(r.label)
            enough = {mode, MODES[-1], BINOMIAL if mode == MODES[0] else mode}
            has_error = mode is None or r.intervals in enough
            if has_error and r.version == versions.get(r.label):
                done.add(r.label)
        missing = [m for m in self.metrics if m.label not in done]
        if self.policy == "only-cache" and missing:
            raise InvalidInputError(
                f"{', '.join(m.label for m in missing)} not in the cache; rank with "
                f"cache='only-missing' to compute"
            )
        return [r for r in known if r.label in done], missing

    def keep_scores(self, key: str, labels: frozenset[str], fresh: Sequence[Record]) -> None:
        """Put the records of metrics that were missing into the cache."""
        # Failures may have passing causes, so they are tried again.
        failed = {r.label for r in fresh if r.error}
        added = [r for r in fresh if r.label not in failed]

        def change(known: list[Record]) -> list[Record]:
            kept = known if self.policy == "only-missing" else []
            return [*(r for r in kept if r.label not in labels), *added]

        self.cache.update(key, change)

    def ordered(self, name: str, records: Sequence[Record]) -> list[Record]:
        """Records by layer and metric; the same content may go by another name today."""
        order = [m.label for m in self.metrics]
        found = sorted(records, key=lambda r: (r.layer_index or 0, order.index(r.label)))
        return [replace(r, model=name, task=self.task.name, task_id=self.task_id) for r in found]

    def failure(self, name: str, error: BaseException | str) -> Outcome:
        """The record of a model that cannot be scored."""
        known = isinstance(error, (str, TransferMetricsError))
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        record = Record(
            model=name, task=self.task.name, task_id=self.task_id, split=self.split, metric="",
            error=reason,
        )  # fmt: skip
        return Outcome([record], stop=reason if isinstance(error, StorageError) else "")

    def unfinished(self, name: str) -> Outcome:
        """The record of a model for which there was no time."""
        return replace(self.failure(name, NO_TIME), late=True)

    @property
    def with_more_time(self) -> str:
        """What to do where the time was over."""
        goes_on = "with more time the same ranking goes on from there"
        return goes_on if self.lasting else "give it more time"

    def _fingerprint(self, positions: Any) -> str:
        """Of the examples at some positions; that of the split for all of it."""
        if len(positions) == len(self.data):
            return self.data.fingerprint
        digest = hashlib.sha256(f"{self.data.fingerprint}\0rows\0".encode())
        digest.update(np.ascontiguousarray(positions, dtype=np.int64).tobytes())
        return digest.hexdigest()

    def _content(self, whole: Extraction, data: str) -> dict[str, Any]:
        return {
            "model": whole.key["model_fingerprint"],
            "behaviour": (whole.key["behaviour"], whole.proof.settings.digest),
            "task": data,
            "kind": self.task.kind,
            "layers": self.layers,
            "pool": self.pool,
            "dtype": self.dtype,
            "amp": self.amp,
        }


def features_first(
    stream: bool | None, memory: int | str | None, keep_features: bool, budget: float | None
) -> bool:
    """Whether features are written before they are scored; arguments as for ``rank_models``."""
    if keep_features and (stream or memory is not None):
        raise InvalidInputError(
            "kept features are written to disk, and stream and memory are for statistics without; "
            "leave out keep_features, or leave out stream and memory"
        )
    if budget is not None and memory is not None:
        raise InvalidInputError(
            "a race passes over each example once, whatever memory its statistics take, and does "
            "not stream within a bound; leave out budget, or leave out memory"
        )
    unstreamed = stream is not None and not stream
    if unstreamed and memory is not None:
        raise InvalidInputError("memory is for streaming; leave it out, or leave out stream=False")
    return keep_features or (unstreamed and budget is None)


def _ranges_of(n: int, shard_size: int) -> tuple[range, ...]:
    """Cut n examples into ranges of whole shards, which depend on the data alone.

    What the last shard lacks to be whole goes to the range before, since writing, reading and
    merging the statistics of one more range takes as long as some hundred examples.

    >>> _ranges_of(300, 100), _ranges_of(399, 200), _ranges_of(50, 100)
    ((range(0, 100), range(100, 200), range(200, 300)), (range(0, 399),), (range(0, 50),))
    """
    shards = max(1, n // shard_size)
    count = min(_RANGES, shards)
    starts = [shards * i // count * shard_size for i in range(count)]
    return tuple(range(a, b) for a, b in itertools.pairwise([*starts, n]))
