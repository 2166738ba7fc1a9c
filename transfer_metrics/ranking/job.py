"""Scoring one model of a ranking: from the cache where it can be, its failure as a record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transfer_metrics.errors import InvalidInputError, StorageError, TransferMetricsError
from transfer_metrics.features.averaged import MEAN
from transfer_metrics.features.extraction import Extraction
from transfer_metrics.metrics.base import METRICS, Metric
from transfer_metrics.naming import short_id
from transfer_metrics.ranking.cache import ResultCache, content_key
from transfer_metrics.ranking.reading import reading
from transfer_metrics.ranking.score import score_store
from transfer_metrics.ranking.subsets import Subset
from transfer_metrics.results.error_bars import MODES
from transfer_metrics.results.table import chosen_records, record_label
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Task


@dataclass(frozen=True)
class Job:
    """Everything about a ranking that is the same for all its models.

    Attributes:
        task: the task.
        metrics: the metrics, of which the first one ranks.
        layers: which layers are extracted.
        view: which of them stand for a model.
        pool: pooling of each.
        split: split of the task.
        dtype: precision of stored features.
        amp: whether the forward pass runs in mixed precision.
        policy: what is taken from the cache and what is kept there.
        cache: the cache.
        keep_features: whether features stay in the cache after scoring.
        mode: which errors of scores are wanted.
        options: further options of ``extract``.
        subset: the examples of a round of a race; None for all of them at once.
        errors: whether the layer that stands for the model is to have a jackknife error under the
            first metric, whatever the mode.
        mean: whether the mean of the extracted layers is scored in place of each of them.
        unkept: labels of metrics whose scores are not kept, since their names do not say what they
            compute; found here, where functions of a script can be told from others.
    """

    task: Task
    metrics: Sequence[Metric]
    layers: Any
    view: str
    pool: str
    split: str
    dtype: str
    amp: bool
    policy: str
    cache: ResultCache
    keep_features: bool
    mode: str | None
    options: Mapping[str, Any]
    subset: Subset | None = None
    errors: bool = False
    mean: bool = False
    unkept: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.unkept is None:
            found = frozenset(m.label for m in self.metrics if not _is_stable(m))
            object.__setattr__(self, "unkept", found)

    @property
    def task_id(self) -> str:
        """What tells the data from others of that name; those of a part are those of the whole."""
        return short_id(self.task[self.split].fingerprint)

    @property
    def is_part(self) -> bool:
        """Whether only a part of the split is looked at."""
        return self.subset is not None and len(self.subset) < len(self.task[self.split])

    def extraction(self, model: Model, task: Task | None = None) -> Extraction:
        """The pass over the task, or over a part of it; the model is proven for the whole.

        Raises:
            ExtractionError: the features of the model cannot be used.
        """
        return Extraction.of(
            model, task or self.task, self.layers, self.pool, split=self.split, dtype=self.dtype,
            amp=self.amp, **self.options,
        )  # fmt: skip

    def features_key(self, model: Model, data: str) -> str:
        """Key of the features of a model on data of a fingerprint, by the names they go by."""
        names = (model.name, model.revision, self.task.name, self.split)
        return content_key(**self._content(model, data), names=names)

    def scores_key(self, model: Model) -> str:
        """Key of the scores of a model: of all examples the same with and without a race."""
        scored = {"scored": MEAN} if self.mean else {}
        if self.subset is None or not self.is_part:
            whole = self.task[self.split].fingerprint
            return content_key(**self._content(model, whole), **scored)
        # Errors are added for the metric that races, so these scores serve no other race.
        race = (self.metrics[0].label, self.mode)
        return content_key(**self._content(model, self.subset.fingerprint), **scored, race=race)

    def feature_keys(self, model: Model) -> list[str]:
        """Keys of all stores of features that this job reads."""
        if self.subset is None:
            return [self.features_key(model, self.task[self.split].fingerprint)]
        parts = [task[self.split].fingerprint for task in self.subset.increments]
        return [self.features_key(model, fingerprint) for fingerprint in parts]

    def _content(self, model: Model, data: str) -> dict[str, Any]:
        extraction = self.extraction(model)
        key = extraction.key
        return {
            "model": key["model_fingerprint"],
            "behaviour": (key["behaviour"], extraction.proof.own),
            "task": data,
            "kind": self.task.kind,
            "layers": self.layers,
            "pool": self.pool,
            "dtype": self.dtype,
            "amp": self.amp,
        }


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    Attributes:
        records: its records, or the one of its failure.
        features: keys of the features that its scores came from; empty after a failure.
        stop: why nothing more can be kept of any model, so that the ranking ends; else empty.
        left: keys of features or statistics that are of no more use, should there still be any:
            where several worked on a model, the last one may leave them.
    """

    records: list[dict[str, Any]]
    features: tuple[str, ...] = ()
    stop: str = ""
    left: tuple[str, ...] = ()


def score_one(job: Job, candidate: Candidate) -> Outcome:
    """Score one candidate; whatever its own code raises becomes the reason in its record."""
    try:
        started = time.perf_counter()
        model = candidate.load()
        loading = time.perf_counter() - started
        records, computed = _scored(job, model, loading)
        keys = tuple(job.feature_keys(model))
        used = computed and job.policy != "never" and not job.keep_features
        return Outcome(records, keys, left=keys if used else ())
    except Exception as error:
        # Anything a model's own code may raise must not stop the others.
        return failure(job, candidate.name, error)


def failure(job: Job, name: str, error: BaseException | str) -> Outcome:
    """The record of a model that cannot be scored."""
    known = isinstance(error, (str, TransferMetricsError))
    reason = str(error) if known else f"{type(error).__name__}: {error}"
    record = {
        "model": name,
        "task": job.task.name,
        "task_id": job.task_id,
        "split": job.split,
        "metric": "",
        "error": reason,
    }
    return Outcome([record], stop=reason if isinstance(error, StorageError) else "")


def known_scores(job: Job, key: str) -> tuple[list[dict[str, Any]], list[Metric]]:
    """Records that the cache has under the key of a model, and the metrics that it lacks.

    Raises:
        InvalidInputError: some are lacking and nothing may be computed.
    """
    known = job.cache.read(key) if job.policy in ("only-missing", "only-cache") else []
    done = {record_label(r) for r in known if _has_interval(r, job.mode)}
    done &= {m.label for m in job.metrics} - (job.unkept or set())
    missing = [m for m in job.metrics if m.label not in done]
    if job.policy == "only-cache" and missing:
        raise InvalidInputError(
            f"{', '.join(m.label for m in missing)} not in the cache; rank with "
            f"cache='only-missing' to compute"
        )
    return [r for r in known if record_label(r) in done], missing


def keep_scores(
    job: Job, key: str, missing: Sequence[Metric], fresh: Sequence[dict[str, Any]]
) -> None:
    """Put the records of metrics that were missing into the cache."""
    if job.policy == "never":
        return
    names = {m.label for m in missing}
    # Failures may have passing causes, so they are tried again.
    unkept = {record_label(r) for r in fresh if r.get("error")} | (job.unkept or set())
    added = [r for r in fresh if record_label(r) not in unkept]

    def change(known: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
        kept = known if job.policy == "only-missing" else []
        return [*(r for r in kept if record_label(r) not in names), *added]

    job.cache.update(key, change)


def ordered(job: Job, name: str, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records by layer and metric; the same content may go by another name today."""
    order = [m.label for m in job.metrics]
    found = sorted(records, key=lambda r: (r["layer_index"], order.index(record_label(r))))
    names = {"model": name, "task": job.task.name, "task_id": job.task_id}
    return [{**r, **names} for r in found]


def _scored(job: Job, model: Model, loading: float) -> tuple[list[dict[str, Any]], bool]:
    """Records of a model, and whether some had to be computed."""
    key = job.scores_key(model)
    records, missing = known_scores(job, key)
    if missing:
        fresh = [r | {"load_seconds": loading} for r in _computed(job, model, missing)]
        records += fresh
        keep_scores(job, key, missing, fresh)
        if job.policy != "never" and not job.keep_features:
            for features in job.feature_keys(model):
                job.cache.drop_features(features)
    if job.errors:
        _add_errors(job, model, records)
    return ordered(job, model.name, records), bool(missing)


def _computed(job: Job, model: Model, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    if job.policy == "always":
        # Earlier increments were computed anew by the rounds before.
        job.cache.drop_features(job.feature_keys(model)[-1], wait=True)
    units = job.task[job.split].units if job.subset is None else job.subset.positions
    with reading(job, model) as store:
        return score_store(store, metrics, job.mode, units)


def _add_errors(job: Job, model: Model, records: Sequence[dict[str, Any]]) -> None:
    """Add a jackknife to the layer that stands for the model, here and in the cache."""
    metric = job.metrics[0]
    scored = [r for r in records if record_label(r) == metric.label and not r.get("error")]
    if not scored or job.subset is None:
        return
    [best] = chosen_records(scored, "best" if job.view == "all" else job.view)
    if best.get("deviations"):
        return
    if job.policy == "only-cache":
        raise InvalidInputError(
            f"the error of {metric.label} is not in the cache; rank with cache='only-missing' to "
            f"compute it"
        )
    with reading(job, model, [best["layer"]]) as store:
        [found] = score_store(store, [metric], MODES[0], job.subset.positions)
    added: dict[str, Any] = {
        k: found[k] for k in ("stderr", "deviations", "intervals") if k in found
    }
    added["seconds"] = (best["seconds"] or 0.0) + (found.get("seconds") or 0.0)
    best.update(added)
    place = (record_label(best), best["layer"])
    job.cache.update(
        job.scores_key(model),
        lambda known: [
            r | (added if (record_label(r), r["layer"]) == place else {}) for r in known
        ],
    )


def _has_interval(record: Mapping[str, Any], mode: str | None) -> bool:
    """Whether a record was computed with intervals of a mode, or none were asked for."""
    return mode is None or record.get("intervals") in (mode, MODES[-1])


def _is_stable(metric: Metric) -> bool:
    """Whether the name says what the metric computes; a function of a script may have changed."""
    registered = metric.name in METRICS and METRICS[metric.name].fn is metric.fn
    return registered and metric.fn.__module__ != "__main__"
