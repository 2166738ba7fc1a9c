"""Fits of heads on models: what one finds, what is kept of it, and where it goes on."""

from __future__ import annotations

import math
import shutil
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import clone

import transfer_metrics
from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.features.operations import Operations
from transfer_metrics.features.proof import settings_of
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.network import TransferNet
from transfer_metrics.heads.objective import QUALITY, Outcome, as_codes, doubt
from transfer_metrics.heads.preprocessed import Inputs, PreparedSplits
from transfer_metrics.heads.shared_features import SharedFeatures
from transfer_metrics.naming import short_id
from transfer_metrics.progress import OutOfTime, until
from transfer_metrics.ranking.cache import ResultCache, content_key
from transfer_metrics.ranking.engines import Lost
from transfer_metrics.results.record import Record
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.models.model import Model, place
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.models.settings import Settings, code_of
from transfer_metrics.sources.specs import named_spec, results_of
from transfer_metrics.sources.tasks.task import Split, Task

_OF_FIT = ("model", "model_id", "spec", "revision", "task", "task_id", "head", "seed", "version")
"""What a record says of a fit that the key of what was measured does not hold it to."""
_GROUPS = 100
"""Groups of test examples on which accuracies are compared."""
LATE = "the time was over before it was finished"
"""What a record says of a fit for which there was no time."""


@dataclass(frozen=True)
class Loaded:
    """A model in the hands of a worker, what its records begin with, and what its heads read."""

    model: Model
    base: Record
    inputs: PreparedSplits
    features: SharedFeatures
    settings: Settings

    @cached_property
    def flops(self) -> int:
        """Operations of one forward pass of one example."""
        return _forward_flops(self.model)


@dataclass(frozen=True)
class Fits:
    """Work for an engine: on each model a fit per head and seed; a failure is a record.

    The task has the splits train, val and test; ``task_id`` is that of the examples before any was
    held out. Heads that chance has no part in are fitted with the first seed alone. ``shifted`` are
    further data for testing, ``favourites`` further heads of single models, with their labels, and
    ``until`` is the moment when the time is over.
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
            spec=named_spec(item.name, model.spec),
        )
        inputs = PreparedSplits(model, {"val": self.task["val"], **self.tests})
        features = SharedFeatures(None if self.policy == "never" else self.cache)
        return Loaded(model, base, inputs, features, settings_of(model, self.task))

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
        version, name = transfer_metrics.__version__, self.task.name
        return Record(model=model, task=name, task_id=self.task_id, metric="", version=version)

    def kept(self, loaded: Loaded, head: Head, seed: int | None) -> list[Record]:
        """What the cache has of one fit; nothing where it is not to be read."""
        return self._read(self._key(loaded, head, seed))

    def _read(self, key: str) -> list[Record]:
        return self.cache.read(key) if self.policy in ("only-missing", "only-cache") else []

    def _key(self, loaded: Loaded, head: Head, seed: int | None) -> str:
        # Two selectors that were fitted to other data look the same in a label.
        chosen = {n: c for n, p in head.get_params().items() if (c := _columns(p)) is not None}
        # One of somebody else may be written anew under its name.
        foreign = not type(head).__module__.startswith(f"{transfer_metrics.__name__}.")
        return content_key(
            **({"code": code_of(type(head))} if foreign else {}),
            **({"chosen": chosen} if chosen else {}),
            model=loaded.model.fingerprint,
            settings=loaded.settings.digest,
            train=self.task["train"].fingerprint,
            val=self.task["val"].fingerprint,
            tests={name: split.fingerprint for name, split in self.tests.items()},
            head=head.label,
            seed=seed,
            measured=("val_accuracy", self.distortions),
        )

    def _kept(self, loaded: Loaded, head: Head, base: Record) -> list[Record]:
        """Records of one fit, from the cache or computed; its failure as a record."""
        key = self._key(loaded, head, base.seed)
        records = self._read(key)
        if not records and self.policy == "only-cache":
            raise InvalidInputError(
                f"{base.head} on {loaded.model.name} is not in the cache; compare with "
                f"cache='only-missing' to compute it"
            )
        if not records:
            folder = self.cache.training(key)
            try:
                with until(self.until):
                    records = self._measured(loaded, self.prepared(head, base.seed, folder))
            except TransferMetricsError as error:
                return [replace(base, error=str(error))]
            if self.policy != "never":
                self.cache.write(key, records)
                shutil.rmtree(folder, ignore_errors=True)
        of_fit: dict[str, Any] = {name: getattr(base, name) for name in _OF_FIT}
        return [replace(record, **of_fit, note=self._noted(record)) for record in records]

    def prepared(self, head: Head, seed: int | None, folder: Path) -> Head:
        """A head that is not fitted, to be fitted with a seed here, going on with what is kept."""
        state = None if self.policy == "never" else folder
        how = {"device": self.device, "progress": self.progress}
        return clone(head).set_known(random_state=seed, checkpoint=state, **how)

    def _noted(self, record: Record) -> str | None:
        """What is to be known of a measurement: of a test, whether one answer does as well."""
        kind, truth = self.task.kind, self.tests.get(record.split or "")
        if record.metric != QUALITY[kind] or record.value is None or truth is None:
            return record.note
        codes = as_codes(truth.labels, kind)
        return doubt(kind, record.value, record.stderr, codes, self.task.classes) or None

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
            truth, n = as_codes(split.labels, kind), len(split)
            reached = Outcome.of(kind, logits, truth)
            found_on[name], error = reached.value, reached.stderr
            apart = _deviations(logits.argmax(1) == truth) if kind == "classification" else None
            add(name, measure, reached.value, better=True, stderr=error, n=n, deviations=apart)
            if name == "test" and reached.balanced is not None:
                add(name, "balanced_accuracy", reached.balanced, better=True, n=n)
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
                moved, share = _distortion(loaded.model, head.network_, loaded.inputs[name])
                add(name, "distortion", moved)
                add(name, "relative_distortion", share)
        cost = _cost_of(head, loaded.flops, len(self.task["train"]))
        for name, number in {"fit_seconds": seconds, **cost}.items():
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
    if isinstance(before := results_of(selector), Selection):
        return {name: columns.tolist() for name, columns in before.layers.items()}
    return None


def _deviations(right: np.ndarray) -> list[float] | None:
    """What groups of examples put an accuracy off by, so that heads are compared on each.

    Examples often stand class by class, so a group takes every hundredth.
    """
    if len(right) < 2:
        return None
    groups = np.arange(len(right)) % _GROUPS
    sums = np.bincount(groups, right - right.mean()) / len(right)
    return [float(f"{value:.4g}") for value in sums]


def _cost_of(head: Head, forward: int, examples: int) -> dict[str, int]:
    """What a head costs that was fitted on a model whose ``forward`` pass takes so many operations.

    Operations are those of the final training, without any search for its settings; of heads on
    features with the forward passes that make them. Bytes are what has to be kept for the task
    beside the pretrained network, in float32. By Head2Toe's formulas (Evci et al., ICML 2022,
    section on cost): a backward pass counts twice a forward pass, a multiplication and an addition
    are two operations, and where features were chosen a bitmask over all of them is stored too.
    """
    classes, kept = head.coef_.shape
    stored = 4 * (kept + 1) * classes
    if head.network_ is not None:
        numbers = sum(t.numel() for t in head.network_.backbone.state_dict().values())
        seen = head.run_steps_ * min(head.batch_size, examples)
        return {"train_flops": seen * 3 * forward, "stored_bytes": 4 * numbers + stored}
    reads, width = head.training_reads(examples)
    candidates: int = getattr(head, "candidates_", kept) or kept
    mask = 0 if candidates == kept else -(-candidates // 8)
    flops = examples * forward + 6 * reads * width * classes
    return {"train_flops": flops, "stored_bytes": stored + mask}


def _forward_flops(model: Model) -> int:
    """Operations of one forward pass of one example, counted by torch on a meaningless input.

    Convolutions, matrix products and attention count; element-wise operations do not.
    """
    batch = place(model.dummy(1), model.module)
    with Operations() as counted, evaluation(model.module), torch.no_grad():
        model(batch)
    return counted.multiplied


def _distortion(model: Model, network: TransferNet, split: Split | Inputs) -> tuple[float, float]:
    """How far training has moved the features that a head reads from those of the model.

    Means over examples of ``‖f1 - f0‖``, in the features' unit, and of ``‖f1 - f0‖ / ‖f0‖``, where
    examples whose features were all zero do not count. Two forward passes over the examples.

    Source: Kumar et al., ICLR 2022 (arXiv 2202.10054), who report the raw distance; its scale
        depends on the network, so the relative one is ours.
    """
    before = TransferNet(
        model.module,
        network.layers,
        network.pool,
        network.head,
        columns=network.chosen_columns(),
        unit_norm=network.unit_norm,
    )
    inputs = Inputs.of_any(model, split, "test")

    def moved(batch: Any) -> torch.Tensor:
        old, new = (net.features(batch).cpu().double() for net in (before, network))
        return torch.stack([(new - old).norm(dim=1), old.norm(dim=1)], dim=1)

    with evaluation(model.module), evaluation(network):
        distance, length = inputs.map(moved, 64).unbind(dim=1)
    some = length > 0
    relative = float((distance[some] / length[some]).mean()) if some.any() else 0.0
    return float(distance.mean()), relative
