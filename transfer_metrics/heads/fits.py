"""Fits of heads on models: what one finds, what is kept of it, and where it goes on."""

from __future__ import annotations

import math
import shutil
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.base import clone

import transfer_metrics
from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.data import as_codes
from transfer_metrics.heads.fit_cost import cost_of, distortion, forward_flops
from transfer_metrics.heads.objective import balanced_accuracy, quality, standard_error
from transfer_metrics.heads.preprocessed import PreparedSplits
from transfer_metrics.heads.shared_features import SharedFeatures
from transfer_metrics.naming import short_id
from transfer_metrics.progress import OutOfTime, until
from transfer_metrics.ranking.cache import ResultCache, content_key
from transfer_metrics.ranking.engines import Lost
from transfer_metrics.results.record import Record
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.specs import results_of
from transfer_metrics.sources.tasks.labels import is_long_tailed
from transfer_metrics.sources.tasks.task import Split, Task

_OF_FIT = ("model", "model_id", "revision", "task", "task_id", "head", "seed", "version")
"""What a record says of a fit that the key of what was measured does not hold it to."""
_GROUPS = 100
"""Groups of test examples on which accuracies are compared."""
LATE = "the time was over before it was finished; run again to go on from there"
"""What a record says of a fit for which there was no time."""


@dataclass(frozen=True)
class Loaded:
    """A model in the hands of a worker, what its records begin with, and what its heads read."""

    model: Model
    base: Record
    inputs: PreparedSplits
    features: SharedFeatures

    @cached_property
    def flops(self) -> int:
        """Operations of one forward pass of one example."""
        return forward_flops(self.model)


@dataclass(frozen=True)
class Fits:
    """Work for an engine: on each model a fit per head and seed; a failure is a record.

    Attributes:
        task: with the splits train, val and test.
        task_id: of the examples before any was held out.
        heads: not fitted.
        seeds: of those that chance has a part in; the first is that of the others too.
        shifted: further data for testing.
        favourites: further heads of single models, with their labels.
        until: the moment when the time is over.
    """

    task: Task
    task_id: str
    heads: Sequence[Head]
    seeds: Sequence[int]
    cache: ResultCache
    policy: str
    shifted: Mapping[str, Split] = field(default_factory=dict)
    favourites: Mapping[str, Sequence[tuple[str, Head]]] = field(default_factory=dict)
    device: Any = None
    progress: bool = False
    distortions: bool = False
    until: float = math.inf

    @property
    def tests(self) -> dict[str, Split]:
        """What heads are tested on, by name; the first is in distribution."""
        return {"test": self.task["test"], **self.shifted}

    def cells(self, model: str) -> list[tuple[str, Head, int]]:
        """Label, head and seed of each fit on a model."""
        labelled = [(head.label, head) for head in (h.on_layers_of(model) for h in self.heads)]
        return [
            (label, head, seed)
            for label, head in [*labelled, *self.favourites.get(model, ())]
            for seed in self.seeds
            if seed == self.seeds[0] or head.random
        ]

    def load(self, item: Candidate) -> Loaded | str:
        """The model, or why there is none."""
        try:
            with until(self.until):
                model = item.load()
        except OutOfTime:
            return LATE
        except TransferMetricsError as error:
            return str(error)
        base = replace(
            self._base(item.name),
            model_id=short_id(model.fingerprint),
            revision=model.revision or None,
        )
        inputs = PreparedSplits(model, {"val": self.task["val"], **self.tests})
        features = SharedFeatures(None if self.policy == "never" else self.cache)
        return Loaded(model, base, inputs, features)

    def map(self, loaded: Loaded | str, part: int) -> list[Record] | str | TransferMetricsError:
        """Records of one fit."""
        if isinstance(loaded, str):
            return loaded
        cells = self.cells(loaded.model.name)
        loaded.features.expect(read for _, head, _ in cells for read in _reads(head))
        label, head, seed = cells[part]
        base = replace(loaded.base, head=label, seed=seed)
        try:
            return self._kept(loaded, head, base)
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
                return [replace(self._base(item.name), error=result)]
            if isinstance(result, TransferMetricsError):
                return result
            records += self.lost(item) if isinstance(result, Lost) else result
        return records

    def lost(self, item: Candidate) -> list[Record]:
        """The record of a fit that workers died of."""
        told = "its worker died repeatedly, as it does where memory runs out; use fewer workers"
        return [replace(self._base(item.name), error=told)]

    def _base(self, model: str) -> Record:
        """What all records of a model begin with."""
        return Record(
            model=model,
            task=self.task.name,
            task_id=self.task_id,
            metric="",
            version=transfer_metrics.__version__,
        )

    def _kept(self, loaded: Loaded, head: Head, base: Record) -> list[Record]:
        """Records of one fit, from the cache or computed; its failure as a record."""
        # Two selectors that were fitted to other data look the same in a label.
        chosen = {n: c for n, p in head.get_params().items() if (c := _columns(p)) is not None}
        key = content_key(
            **({"chosen": chosen} if chosen else {}),
            model=loaded.model.fingerprint,
            train=self.task["train"].fingerprint,
            val=self.task["val"].fingerprint,
            tests={name: split.fingerprint for name, split in self.tests.items()},
            head=head.label,
            seed=base.seed,
            measured=("val_accuracy", self.distortions),
        )
        known = self.cache.read(key) if self.policy in ("only-missing", "only-cache") else []
        if known:
            return [_of_fit(record, base) for record in known]
        if self.policy == "only-cache":
            raise InvalidInputError(
                f"{base.head} on {loaded.model.name} is not in the cache; compare with "
                f"cache='only-missing' to compute it"
            )
        folder = self.cache.training(key)
        try:
            fresh = clone(head).set_known(
                random_state=base.seed,
                checkpoint=None if self.policy == "never" else folder,
                device=self.device,
                progress=self.progress,
            )
            with until(self.until):
                records = self._measured(loaded, fresh)
        except TransferMetricsError as error:
            return [replace(base, error=str(error))]
        if self.policy != "never":
            self.cache.write(key, records)
            shutil.rmtree(folder, ignore_errors=True)
        return [_of_fit(record, base) for record in records]

    def _measured(self, loaded: Loaded, head: Head) -> list[Record]:
        """Fit a head and measure it."""
        started, saved = clock.perf_counter(), loaded.features.saved
        with head.sharing(loaded.features):
            head.fit(loaded.model, self.task)
        seconds = clock.perf_counter() - started + loaded.features.saved - saved
        common = Record(
            layer="+".join(layer.name for layer in head.layers_),
            dim=head.coef_.shape[1],
            pool=head.pool_,
            num_classes=self.task.num_classes,
            n=len(self.task["train"]),
            seconds=seconds,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        found: list[Record] = []

        def add(split: str, metric: str, value: float, better: bool = False, **more: Any) -> None:
            more |= {"split": split, "metric": metric, "value": value}
            found.append(replace(common, higher_is_better=better, **more))

        kind, measure = head.kind_, head.measure
        found_on: dict[str, float] = {}
        for name, split in self.tests.items():
            logits = head.logits(self._inputs(loaded, head, name, split))
            truth = as_codes(split.labels, kind)
            found_on[name] = quality(kind, logits, truth)
            error = standard_error(kind, logits, truth)
            apart = _deviations(logits.argmax(1) == truth) if kind == "classification" else None
            value, n = found_on[name], len(split)
            add(name, measure, value, better=True, stderr=error, n=n, deviations=apart)
            if name == "test" and kind == "classification" and is_long_tailed(truth):
                balanced = balanced_accuracy(logits, truth)
                add(name, "balanced_accuracy", balanced, better=True, n=len(split))
        held = self.task["val"]
        chosen = ", ".join(f"{name}={value!r}" for name, value in head.chosen().items())
        value = head.score(self._inputs(loaded, head, "val", held), held.labels)
        add("val", f"val_{measure}", value, better=True, n=len(held), note=chosen or None)
        if self.shifted:
            mean = float(np.mean([found_on[name] for name in self.shifted]))
            add("ood", f"ood_{measure}", mean, better=True)
            add("ood", "ood_gap", found_on["test"] - mean)
        if head.network_ is not None and self.distortions:
            for name in self.tests:
                moved = distortion(loaded.model, head.network_, loaded.inputs[name])
                add(name, "distortion", moved.raw)
                add(name, "relative_distortion", moved.relative)
        cost = cost_of(head, loaded.flops, len(self.task["train"]))
        for name, number in (("fit_seconds", seconds), *cost._asdict().items()):
            add("train", name, float(number))
        return found

    def _inputs(self, loaded: Loaded, head: Head, name: str, split: Split) -> Any:
        """What a head predicts a split from: features, or examples where it trained the network."""
        if head.network_ is not None:
            return loaded.inputs[name]
        return loaded.features.store(
            loaded.model,
            replace(self.task, splits={**self.task.splits, name: split}),
            [layer.name for layer in head.layers_],
            head.get_params(deep=False).get("pool", head.pool_),
            split=name,
            device=self.device,
            progress=self.progress,
        )


def _reads(head: Head) -> list[tuple[Any, Any]]:
    try:
        return head.reads()
    except TransferMetricsError:
        return []  # it is told when the head is fitted


def _columns(selector: Any) -> Any:
    """The columns that a selector or a selection has chosen; None of anything else."""
    if hasattr(selector, "columns_"):
        return selector.columns_.tolist()
    before = results_of(selector)
    if not isinstance(before, Selection):
        return None
    return {name: columns.tolist() for name, columns in before.layers.items()}


def _of_fit(record: Record, base: Record) -> Record:
    """A measurement, whose key knows neither names nor versions, with those of this comparison."""
    of_fit: dict[str, Any] = {name: getattr(base, name) for name in _OF_FIT}
    return replace(record, **of_fit)


def _deviations(right: np.ndarray) -> list[float] | None:
    """What groups of examples put an accuracy off by, so that heads are compared on each.

    Examples often stand class by class, so a group takes every hundredth.
    """
    if len(right) < 2:
        return None
    groups = np.arange(len(right)) % _GROUPS
    sums = np.bincount(groups, right - right.mean()) / len(right)
    return [float(f"{value:.4g}") for value in sums]
