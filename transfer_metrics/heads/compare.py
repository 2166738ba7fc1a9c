"""Heads against each other, in and out of distribution, with what they cost."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import math
import os
import shutil
import time as clock
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sklearn.base import clone

import transfer_metrics
from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.data import as_codes
from transfer_metrics.heads.estimate import MOST, TRAINED
from transfer_metrics.heads.fit_cost import cost_of, distortion, forward_flops
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.heads.objective import (
    balanced_accuracy,
    quality,
    standard_error,
)
from transfer_metrics.heads.preprocessed import PreparedSplits
from transfer_metrics.heads.splits import check_corruptions, complete_task, shifted_splits
from transfer_metrics.naming import short_id
from transfer_metrics.progress import OutOfTime, progress_bar, until
from transfer_metrics.ranking import ScoreTable, rank_models
from transfer_metrics.ranking.cache import POLICIES, ResultCache, content_key
from transfer_metrics.ranking.engines import ENGINES, Lost, map_reduce
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS, check_metrics
from transfer_metrics.ranking.rank import gpus_of
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.models.candidates import Candidate, candidates_of
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.specs import results_of
from transfer_metrics.sources.tasks.labels import is_long_tailed
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.task import Split, Task
from transfer_metrics.syntax import call_options, seconds_of, split_list

_OF_FIT = ("model", "model_id", "revision", "task", "task_id", "head", "seed", "version")
"""What a record says of a fit that the key of what was measured does not hold it to."""
_GROUPS = 100
"""Groups of test examples on which accuracies are compared."""
DEFAULT_HEADS = ("linear_probe", "head2toe", "finetune", "lpft")
_SEEDS = 3
_FEW_RATES = ("linear_probe", "head2toe", *TRAINED)
LATE = "the time was over before it was finished; run again to go on from there"
"""What a record says of a fit for which there was no time."""


@dataclass(frozen=True)
class _Job:
    """Everything about a comparison that is the same for all models and heads."""

    task: Task
    task_id: str
    shifted: Mapping[str, Split]
    cache: ResultCache
    policy: str
    device: Any
    progress: bool
    distortions: bool
    until: float = math.inf

    @property
    def tests(self) -> dict[str, Split]:
        """What heads are tested on, by name; the first is in distribution."""
        return {"test": self.task["test"], **self.shifted}


def compare(
    models: Any,
    task: Any,
    heads: Any = DEFAULT_HEADS,
    *,
    ood: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    time: float | str | None = None,
    engine: str = "serial",
    workers: int | None = None,
    validation: float = 0.2,
    metrics: Any = None,
    distortions: bool = True,
    cache: str = "only-missing",
    cache_dir: str | os.PathLike[str] | None = None,
    device: Any = None,
    progress: bool = True,
) -> Comparison:
    """Fit heads on models and a task, and test them in and out of distribution.

    All heads of a seed see the same training and validation examples, and none sees test or
    shifted data while it is fitted. A task without a split ``test`` gives a fifth of its training
    examples for it. Finished fits are kept by the content of model, task and head, and training
    goes on from its last checkpoint, so an interrupted comparison can be run again.

    Args:
        models: one or several models, as for ``rank_models``.
        task: a task or its name.
        heads: names with options (``"lpft(epochs=5)"``), heads, or a list of them.
        ood: shifted data by name: a task or its name with classes of the same names, or with as
            many targets or labels, a ``Split``, or ``"corrupted:blur:3"``; by default the task's
            split ``ood`` if it has one.
        seeds: how many, or which; by default three. A head that chance has no part in is fitted
            once.
        quick: only the models of the shortlist of a ranking, at most five; learning rates that are
            dropped early and twelve epochs, where no heads are named; one seed, where none is;
            and no distortions.
        time: seconds, or text such as ``"30m"``, after which the comparison ends with the fits that
            are finished; the others have records that say so. What they had learnt is kept.
        engine: where fits run, as for ``rank_models``: each of a model, a head and a seed is a
            piece of work of its own. The results are the same up to rounding.
        workers: how many processes or actors.
        validation: share of the training examples for validation, where there is no split ``val``.
        metrics: scores to check as well: every block of every model is scored by them, and a
            linear probe is fitted on the best block under the first.
        distortions: also measure how far training has moved the features, which takes two forward
            passes over each test set.
        cache: as for ``rank_models``.
        cache_dir: as for ``rank_models``.
        device: where networks run.
        progress: show progress on stderr.

    Returns:
        A ``ScoreTable`` with a record per model, head, seed and measurement: ``accuracy`` on
        ``test`` and on each shifted set; their mean ``ood_accuracy``, and ``ood_gap``, accuracy in
        distribution less that; ``balanced_accuracy`` on ``test``, the mean over classes, where the
        largest class has three times the examples of the smallest; ``val_accuracy`` on the examples
        for validation, with what was chosen by them as a note; ``distortion`` and
        ``relative_distortion`` of the features, where the network was trained; ``fit_seconds`` with
        every search and forward pass that the head needs; ``train_flops`` of the final training and
        ``stored_bytes`` for the task, by Head2Toe's cost model. ``summary()`` has one row per model
        and head. Of a regression it is ``r2`` in place of ``accuracy`` everywhere, and of several
        labels per example ``average_precision``; see ``objective.quality``.

    Raises:
        UnknownNameError: no such head, model, task or corruption.
        InvalidInputError: data that cannot be used.

    Cost: that of the fits; see the heads.

    >>> table = compare("zoo:mixer-usps", "sklearn:digits", "linear_probe(C_grid=(0.01, 1.0))",
    ...                 cache="never", progress=False)
    >>> bool(table.summary()["test"].iloc[0] > 0.8)
    True
    """
    if cache not in POLICIES:
        raise InvalidInputError(f"cache must be one of {POLICIES}, not {cache!r}")
    ends = math.inf if time is None else clock.time() + seconds_of(time)
    ENGINES[engine.partition(":")[0]]
    if metrics is not None:
        check_metrics(metrics)
    check_corruptions(ood)
    candidates = candidates_of(models)
    asked, chosen = asked_fits(heads, seeds, quick)
    loaded = load_task(task)
    complete = complete_task(loaded, validation=validation)
    job = _Job(
        complete,
        short_id(loaded["train"].fingerprint),
        shifted_splits(replace(loaded, splits={**loaded.splits, **complete.splits}), ood),
        ResultCache(cache_dir),
        cache,
        device,
        progress and engine == "serial",
        distortions and not quick,
        ends,
    )
    records: list[Record] = []
    scores = ScoreTable([])
    if metrics is not None or (quick and len(candidates) > 1):
        scores = rank_models(
            candidates,
            job.task,
            DEFAULT_METRICS if metrics is None else metrics,
            cache=cache,
            cache_dir=cache_dir,
            device=device,
            engine=engine,
            workers=workers,
            time=None if time is None else max(ends - clock.time(), 1.0),
            progress=progress,
        )
        if quick and (shortlist := scores.shortlist()[:MOST]):
            candidates = [one for one in candidates if one.name in shortlist]
    if metrics is None:
        scores = ScoreTable([])
    else:
        # The task is the same, though examples may have been held out from it.
        records += [replace(Record.of(r), task_id=job.task_id) for r in scores.records]
    work = _Fits(job, asked, chosen, {c.name: _favourites(c.name, scores) for c in candidates})
    parts = [len(work.cells(candidate.name)) for candidate in candidates]
    found: dict[int, list[Record]] = {}
    with (
        progress_bar("fits", sum(parts), progress) as bar,
        contextlib.closing(
            map_reduce(  # type: ignore[type-var]
                engine, work, candidates, parts, workers=workers,
                gpus=gpus_of(engine, device), tick=bar.update,
            )
        ) as running,
    ):  # fmt: skip
        for place, result in running:
            if isinstance(result, TransferMetricsError):
                raise result
            found[place] = result if isinstance(result, list) else _lost(job, candidates[place])
    records += [record for place in range(len(candidates)) for record in found[place]]
    return Comparison(replace(record, task_summary=loaded.summary) for record in records)


def asked_fits(
    heads: Any = DEFAULT_HEADS, seeds: int | Sequence[int] | None = None, quick: bool = False
) -> tuple[list[Head], list[int]]:
    """The heads and the seeds of a comparison; arguments as for that.

    Raises:
        UnknownNameError: no such head or option.
        InvalidInputError: there is none.
    """
    if quick and heads == DEFAULT_HEADS:
        heads = _FEW_RATES
    if seeds is None:
        seeds = 1 if quick else _SEEDS
    given = [heads] if isinstance(heads, (str, Head)) or inspect.isclass(heads) else list(heads)
    asked = [
        resolve_head(part)
        for item in given
        for part in (split_list(item) if isinstance(item, str) else [item])
    ]
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or not asked:
        raise InvalidInputError("nothing to compare; name at least one head and one seed")
    return asked, chosen


@dataclass(frozen=True)
class _Loaded:
    """A model in the hands of a worker, what its records begin with, and its inputs."""

    model: Model
    base: Record
    inputs: PreparedSplits


@dataclass(frozen=True)
class _Fits:
    """Work for an engine: on each model a fit per head and seed; a failure is a record."""

    job: _Job
    heads: Sequence[Head]
    seeds: Sequence[int]
    favourites: Mapping[str, Sequence[tuple[str, Head]]]

    def cells(self, model: str) -> list[tuple[str, Head, int]]:
        """Label, head and seed of each fit on a model."""
        labelled = [(head.label, head) for head in (h.on_layers_of(model) for h in self.heads)]
        return [
            (label, head, seed)
            for (label, head), seed in itertools.product(
                [*labelled, *self.favourites[model]], self.seeds
            )
            if seed == self.seeds[0] or head.random
        ]

    def load(self, item: Candidate) -> _Loaded | str:
        """The model, or why there is none."""
        try:
            with until(self.job.until):
                model = item.load()
        except OutOfTime:
            return LATE
        except TransferMetricsError as error:
            return str(error)
        splits = {"val": self.job.task["val"], **self.job.tests}
        base = replace(
            _base(self.job, item.name),
            model_id=short_id(model.fingerprint),
            revision=model.revision or None,
        )
        return _Loaded(model, base, PreparedSplits(model, splits))

    def map(self, loaded: _Loaded | str, part: int) -> list[Record] | str | TransferMetricsError:
        """Records of one fit."""
        if isinstance(loaded, str):
            return loaded
        label, head, seed = self.cells(loaded.model.name)[part]
        base = replace(loaded.base, head=label, seed=seed)
        try:
            return _kept(self.job, loaded.model, loaded.inputs, head, base)
        except OutOfTime:
            return [replace(base, error=LATE)]
        except TransferMetricsError as error:
            return error  # of the cache, and so of all fits

    def settles(self, result: Any) -> bool:
        """What is no list of records is so of all fits on the model."""
        return not isinstance(result, list)

    def reduce(self, item: Candidate, results: Sequence[Any]) -> Any:
        """All records of a model, or what ends the comparison."""
        records: list[Record] = []
        for result in results:
            if isinstance(result, str):
                return [replace(_base(self.job, item.name), error=result)]
            if isinstance(result, TransferMetricsError):
                return result
            records += _lost(self.job, item) if isinstance(result, Lost) else result
        return records


def _base(job: _Job, model: str) -> Record:
    """What all records of a model begin with."""
    return Record(
        model=model,
        task=job.task.name,
        task_id=job.task_id,
        metric="",
        version=transfer_metrics.__version__,
    )


def _lost(job: _Job, candidate: Candidate) -> list[Record]:
    """The record of a fit that workers died of."""
    told = "its worker died repeatedly, as it does where memory runs out; use fewer workers"
    return [replace(_base(job, candidate.name), error=told)]


def _favourites(model: str, scores: ScoreTable) -> list[tuple[str, Head]]:
    """A linear probe on the layer of the model that the first metric puts first."""
    if not scores.metrics:
        return []
    ranking = scores.ranking(scores.metrics[0], view="best")
    found = ranking[(ranking["model"] == model) & ranking["score"].notna()]
    if found.empty:
        return []
    layer = str(found["layer"].iloc[0])
    return [(f"linear_probe@{scores.metrics[0]}", LinearProbe(layers=[layer]))]


def _kept(
    job: _Job, model: Model, inputs: PreparedSplits, head: Head, base: Record
) -> list[Record]:
    """Records of one fit, from the cache or computed; its failure as a record."""
    # Two selectors that were fitted to other data look the same in a label.
    chosen = {n: c for n, p in head.get_params().items() if (c := _columns(p)) is not None}
    key = content_key(
        **({"chosen": chosen} if chosen else {}),
        model=model.fingerprint,
        train=job.task["train"].fingerprint,
        val=job.task["val"].fingerprint,
        tests={name: split.fingerprint for name, split in job.tests.items()},
        head=head.label,
        seed=base.seed,
        measured=("val_accuracy", job.distortions),
    )
    known = job.cache.read(key) if job.policy in ("only-missing", "only-cache") else []
    if known:
        return [_of_fit(record, base) for record in known]
    if job.policy == "only-cache":
        raise InvalidInputError(
            f"{base.head} on {model.name} is not in the cache; compare with "
            f"cache='only-missing' to compute it"
        )
    folder = job.cache.training(key)
    try:
        fresh = clone(head).set_known(
            random_state=base.seed,
            checkpoint=None if job.policy == "never" else folder,
            device=job.device,
            progress=job.progress,
        )
        with until(job.until):
            records = _measured(job, model, inputs, fresh)
    except TransferMetricsError as error:
        return [replace(base, error=str(error))]
    if job.policy != "never":
        job.cache.write(key, records)
        shutil.rmtree(folder, ignore_errors=True)
    return [_of_fit(record, base) for record in records]


def _columns(selector: Any) -> Any:
    """The columns that a selector or a selection has chosen; None of anything else."""
    if hasattr(selector, "columns_"):
        return selector.columns_.tolist()
    before = results_of(selector)
    if not isinstance(before, Selection):
        return None
    return {name: columns.tolist() for name, columns in before.layers.items()}


def tuned(
    head: Head, model: str, task: str, seed: int, records: Iterable[Mapping[str, Any]]
) -> Head:
    """A head with the settings that a fit on a pair has chosen by validation, where it has any."""
    for r in records:
        fit = r["model"], r["task"], r["head"], r["seed"], r["metric"]
        if fit == (model, task, head.label, seed, "val_accuracy") and r["note"]:
            return clone(head).set_params(**call_options(f"({r['note']})", f"head {head.name!r}"))
    return head


def _of_fit(record: Record, base: Record) -> Record:
    """A measurement, whose key knows neither names nor versions, with those of this comparison."""
    of_fit: dict[str, Any] = {name: getattr(base, name) for name in _OF_FIT}
    return replace(record, **of_fit)


def _measured(job: _Job, model: Model, inputs: PreparedSplits, head: Head) -> list[Record]:
    """Fit a head and measure it."""
    started = clock.perf_counter()
    head.fit(model, job.task)
    seconds = clock.perf_counter() - started
    common = Record(
        layer="+".join(layer.name for layer in head.layers_),
        dim=head.coef_.shape[1],
        pool=head.pool_,
        num_classes=job.task.num_classes,
        n=len(job.task["train"]),
        seconds=seconds,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    found: list[Record] = []

    def add(split: str, metric: str, value: float, *, better: bool = False, **more: Any) -> None:
        record = replace(common, split=split, metric=metric, value=value, higher_is_better=better)
        found.append(replace(record, **more))

    kind, measure = head.kind_, head.measure
    found_on: dict[str, float] = {}
    for name, split in job.tests.items():
        logits, truth = head.logits(inputs[name]), as_codes(split.labels, kind)
        found_on[name] = quality(kind, logits, truth)
        error = standard_error(kind, logits, truth)
        apart = _deviations(logits.argmax(1) == truth) if kind == "classification" else None
        value, n = found_on[name], len(split)
        add(name, measure, value, better=True, stderr=error, n=n, deviations=apart)
        if name == "test" and kind == "classification" and is_long_tailed(truth):
            balanced = balanced_accuracy(logits, truth)
            add(name, "balanced_accuracy", balanced, better=True, n=len(split))
    held = job.task["val"].labels
    chosen = ", ".join(f"{name}={value!r}" for name, value in head.chosen().items())
    value = head.score(inputs["val"], held)
    add("val", f"val_{measure}", value, better=True, n=len(held), note=chosen or None)
    if job.shifted:
        mean = float(np.mean([found_on[name] for name in job.shifted]))
        add("ood", f"ood_{measure}", mean, better=True)
        add("ood", "ood_gap", found_on["test"] - mean)
    if head.network_ is not None and job.distortions:
        for name in job.tests:
            moved = distortion(model, head.network_, inputs[name])
            add(name, "distortion", moved.raw)
            add(name, "relative_distortion", moved.relative)
    cost = cost_of(head, forward_flops(model), len(job.task["train"]))
    for name, number in (("fit_seconds", seconds), *cost._asdict().items()):
        add("train", name, float(number))
    return found


def _deviations(right: np.ndarray) -> list[float] | None:
    """What groups of examples put an accuracy off by, so that heads are compared on each.

    Examples often stand class by class, so a group takes every hundredth.
    """
    if len(right) < 2:
        return None
    groups = np.arange(len(right)) % _GROUPS
    sums = np.bincount(groups, right - right.mean()) / len(right)
    return [float(f"{value:.4g}") for value in sums]
