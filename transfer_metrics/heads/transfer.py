"""From many models and a task to one head that predicts, and why this one."""

from __future__ import annotations

import math
import os
import shutil
import time as clock
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transfer_metrics.errors import (
    InvalidInputError,
    TransferMetricsError,
    TransferMetricsWarning,
)
from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.compare import tuned
from transfer_metrics.heads.decision import Decision, alternatives_of, decided
from transfer_metrics.heads.estimate import (
    MOST,
    TRAINED,
    expected_seconds,
    forward_seconds,
    training_seconds,
)
from transfer_metrics.heads.fits import LATE, Fits, Loaded
from transfer_metrics.heads.objective import QUALITY
from transfer_metrics.heads.splits import complete_task, with_test
from transfer_metrics.naming import short_id
from transfer_metrics.progress import WholeRun, progress_bar
from transfer_metrics.ranking import ScoreTable, rank_models
from transfer_metrics.ranking.cache import ResultCache, content_key
from transfer_metrics.ranking.engines import ENGINES
from transfer_metrics.ranking.forecast import forecast
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS, check_metrics
from transfer_metrics.ranking.race import plan_race
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.results.shortlist import CONFIDENCE
from transfer_metrics.results.wording import duration, several
from transfer_metrics.sources.models.candidates import Candidate, candidates_of
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.syntax import seconds_of

_PROBE, _ALL_BLOCKS = "linear_probe", "head2toe(keep=0.5, layers=blocks)"
_REFINED = ("head2toe",)
# The share of the seconds of a fit that the same with what its search has chosen takes.
_AGAIN = {"finetune": 0.5, "lpft": 0.5}
_SHARES = (0.5, 0.35, 0.25, 0.15, 0.1)
# Of the time that there is, what a ranking may take before it becomes a race.
_FOR_RANKING = 0.5
# … and before it ends with what is known.
_MOST_FOR_RANKING = 0.6


@dataclass
class _Run:
    """What is the same for all steps, and what they have found so far."""

    task: Task
    limit: float
    seed: int
    validation: float
    options: Mapping[str, Any]
    began: float
    found: Comparison = field(default_factory=lambda: Comparison([]))
    heads: dict[str, Head] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    paces: dict[str, float] = field(default_factory=dict)
    slowest: float = 0.0
    busy: float = 1.0
    order: list[str] = field(default_factory=list)
    loaded: dict[str, Loaded] = field(default_factory=dict)

    @cached_property
    def complete(self) -> Task:
        """The task with all its splits."""
        return complete_task(self.task, validation=self.validation)

    @property
    def cache(self) -> ResultCache:
        """Where finished fits are kept."""
        return ResultCache(self.options["cache_dir"])

    @property
    def held(self) -> str:
        """The metric that heads are chosen by."""
        return f"val_{QUALITY[self.task.kind]}"

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.limit - (clock.perf_counter() - self.began)

    @property
    def last(self) -> float:
        """Seconds that fitting the winner once more, its test and its page may take."""
        fits = (r.value or 0.0 for r in self.found if r.metric == "fit_seconds")
        return max(self.slowest, *fits, 0.0)

    def fits(self, what: str, head: str, expected: float) -> bool:
        """Whether there is time for a head and for fitting the winner after it, else remember it.

        An estimate is scaled by what such heads took here against theirs, or else by what the
        slowest of the others did; before any, by the share of a core that the ranking got. The head
        may win, and is then fitted again.
        """
        slowest = max(self.paces.values(), default=self.busy)
        seconds = expected * self.paces.get(_kind_of(head), slowest)
        if seconds + max(self.last, _AGAIN.get(_kind_of(head), 1.0) * seconds) <= self.left:
            return True
        self.skipped.append(
            f"{what}, which would take about {duration(seconds)} and the winner's last fit after "
            f"it, of {duration(max(self.left, 0))}"
        )
        return False

    def try_heads(self, model: Candidate, heads: Sequence[str], expected: float) -> None:
        """Fit and measure heads on a model, each of which was expected to take so many seconds.

        Where time is limited, each only if there is time for it by what those before it took.
        """
        asked = [resolve_head(head) for head in heads]
        self.heads |= {head.label: head for head in asked}
        with progress_bar("fits", len(asked), self.options["progress"]) as bar:
            for head in asked:
                if not self.best_fits() or math.isinf(self.limit):
                    # There is no result without one head, however long it takes.
                    self._measured(model, head, asked, math.inf, expected)
                elif self.fits(f"{head.label} on {model.name}", head.label, expected):
                    # It may win, and its last fit has to have time as well.
                    own = self.left / (1.0 + _AGAIN.get(_kind_of(head.label), 1.0))
                    self._measured(model, head, asked, min(self.left - self.last, own), expected)
                bar.update()
        # Only the best so far may be asked for more.
        best = [name for name, _ in self.best()[:1]]
        self.loaded = {name: one for name, one in self.loaded.items() if name in best}

    def _measured(
        self, model: Candidate, head: Head, asked: Sequence[Head], seconds: float, expected: float
    ) -> None:
        """Fit one head within some time, and keep what it took against what was expected.

        What it reads is read with what the others need.
        """
        began = clock.perf_counter()
        work = Fits(
            self.complete,
            short_id(self.task["train"].fingerprint),
            asked,
            [self.seed],
            self.cache,
            self.options["cache"],
            device=self.options["device"],
            progress=self.options["progress"],
            until=clock.time() + max(seconds, 0.1),
        )
        loaded = self.loaded.get(model.name) or work.load(model)
        saved = 0.0
        if isinstance(loaded, Loaded):
            self.loaded[model.name] = loaded
            saved = loaded.features.saved
        result = work.map(loaded, list(asked).index(head))
        found = work.reduce(model, [result])
        if isinstance(found, TransferMetricsError):
            raise found
        if isinstance(loaded, Loaded):
            saved = loaded.features.saved - saved
        done = {(r.model, r.head) for r in self.found}
        fresh = (r for r in found if r.error != LATE and (r.model, r.head) not in done)
        summary = self.task.summary
        self.found += Comparison(replace(record, task_summary=summary) for record in fresh)
        # A pass that was made before is part of what the head takes.
        took = clock.perf_counter() - began + saved
        known = sum(r.value or 0.0 for r in found if r.metric == "fit_seconds")
        # What the cache has takes no time, from which nothing follows.
        if took > known / 2 and not any(r.error for r in found):
            self.paces[_kind_of(head.label)] = took / max(expected, 0.01)
            self.slowest = max(self.slowest, _AGAIN.get(_kind_of(head.label), 1.0) * took)
        if any(r.error == LATE for r in found):
            told = f"{head.label} on {model.name}, stopped when the time was over"
            self.skipped.append(told)

    def best_fits(self) -> list[Record]:
        """What fits reached by validation."""
        return [r for r in self.found if r.metric == self.held and r.value is not None]

    def best(self) -> list[tuple[str, str]]:
        """Model and head of every fit, the best by validation first, then as shortlisted."""
        held = self.best_fits()
        held.sort(key=lambda r: (-(r.value or 0.0), self.order.index(str(r.model))))
        return [(str(r.model), str(r.head)) for r in held]


def transfer(
    models: Any,
    task: Any,
    out: str | os.PathLike[str] | None = None,
    metrics: Any = DEFAULT_METRICS,
    *,
    finetune: int = 0,
    time: float | str | None = None,
    most: int = MOST,
    confidence: float = CONFIDENCE,
    validation: float = 0.2,
    seed: int = 0,
    cache: str = "only-missing",
    cache_dir: str | os.PathLike[str] | None = None,
    device: Any = None,
    progress: bool = True,
    **options: Any,
) -> Decision:
    """Rank models, fit heads on the best of them, and take the one that validates best.

    All models are ranked on the training examples. On each model of the shortlist a linear probe
    is fitted, another on its best layer, and Head2Toe on the features of all its blocks; on the
    best model by validation also Head2Toe on all activations; and where asked fine-tuning and
    LP-FT. The head with the highest validation accuracy (R² of targets, average precision of
    several labels) wins, of equals the one whose model is
    likelier to be the best. Nothing is chosen by the test examples, which the winner and the
    others are compared on. Interrupted and called again, it goes on where it stopped.

    Args:
        models: one or several models, as for ``rank_models``.
        task: a task or its name; without a split ``test`` a fifth of its training
            examples is held out for it before any model sees them.
        out: folder for the head, the tables and a page with all of it; see ``Decision.save``.
        metrics: as for ``rank_models``; the first one makes the shortlist.
        finetune: on how many models, the best by validation so far, fine-tuning and LP-FT are
            tried; 0 for none.
        time: seconds, or text such as ``"30m"``, that it should take at most. Where ranking alone
            would take half of that, models race. A head is begun only if it and the last fit of
            the winner would fit into what is left, by what heads before it took in this run, and
            is stopped where they do not after all; what is left out is listed. One head is fitted
            and the winner is tested however long that takes.
        most: the most models of the shortlist that heads are fitted on, likeliest first.
        confidence: with which the shortlist is to hold the best model.
        validation: share of the training examples that choices are made by, where the task has no
            split ``val``.
        seed: of the heads and of what is held out for validation.
        cache: as for ``rank_models``.
        cache_dir: as for ``rank_models``.
        device: where networks run.
        progress: show one bar on stderr.
        **options: further options of ``rank_models``, such as ``engine``, ``workers``,
            ``batch_size``, ``evidence`` and ``prior``.

    Returns:
        The decision; ``str()`` tells it in five lines.

    Raises:
        UnknownNameError: no such model, task or metric.
        InvalidInputError: data or options that cannot be used, too little time to rank, or every
            model or head failed.

    Cost: that of the ranking, a forward pass over the data for each shortlisted model and one more
    for the best, whose features are kept until the end, and for each that is fine-tuned about sixty
    forward and backward passes; ``expected_steps`` says how long that is.

    >>> found = transfer(["zoo:cnn-mnist"], "sklearn:digits?examples=200", progress=False)
    >>> found.model, found.accuracy > 0.8, len(found.lines())
    ('zoo:cnn-mnist', True, 5)
    """
    check_metrics(metrics)
    ENGINES[options.get("engine", "serial").partition(":")[0]]
    began = clock.perf_counter()
    candidates = candidates_of(models)
    most, finetune = _whole("most", most, 1), _whole("finetune", finetune, 0)
    loaded = load_task(task)
    tested = with_test(loaded)
    common = {"cache": cache, "cache_dir": cache_dir, "device": device, "progress": progress}
    limit = math.inf if time is None else seconds_of(time)
    run = _Run(tested, limit, seed, validation, common, began)
    with WholeRun("transfer", progress) as bar:
        bar.expect(2.0)
        with bar.step(f"ranking {several(len(candidates), 'model')}", 1.0):
            worked = clock.process_time()
            table = _ranked(run, candidates, metrics, {**options, **common})
            if options.get("engine", "serial") == "serial":
                worked = max(clock.process_time() - worked, 0.01)
                run.busy = max((clock.perf_counter() - began) / worked, 1.0)
        shortlist = table.shortlist(confidence)
        chosen = [c for name in shortlist for c in candidates if c.name == name]
        if chosen[most:]:
            run.skipped.append(
                f"{', '.join(c.name for c in chosen[most:])} of the shortlist, by the limit of "
                f"{several(most, 'model')}"
            )
        run.order = [c.name for c in chosen]
        weight = 1.0 / (len(chosen[:most]) + 2 + 4 * finetune)
        for i, candidate in enumerate(chosen[:most]):
            expected = expected_seconds(table, candidate.name, tested, 1)
            if i == 0 or run.fits(f"heads on {candidate.name}", _PROBE, expected):
                with bar.step(f"heads on {candidate.name}", weight):
                    run.try_heads(candidate, _frozen(table, candidate.name), expected)
        _refuse_failure(run)
        by_name = {c.name: c for c in chosen}
        first = run.best()[0][0]
        expected = expected_seconds(table, first, tested, 1)
        with bar.step(f"Head2Toe on {first}", weight):
            run.try_heads(by_name[first], _REFINED, expected)
        for name in list(dict.fromkeys(m for m, _ in run.best()))[:finetune]:
            expected = training_seconds(forward_seconds(table, name, tested), tested)
            expected /= len(TRAINED)
            if run.fits(f"fine-tuning of {name}", TRAINED[0], expected):
                with bar.step(f"fine-tuning {name}", 4 * weight):
                    run.try_heads(by_name[name], TRAINED, expected)
        model, label = run.best()[0]
        with bar.step(f"testing {label} on {model}", weight):
            head, state = _fitted(run, by_name[model], label)
            found = decided(
                run.complete,
                head,
                {
                    "task": loaded.name,
                    "model": model,
                    "label": label,
                    "alternatives": alternatives_of(run.found, tested.kind, model, label),
                    "ranking": table,
                    "shortlist": shortlist,
                    "comparison": run.found,
                    "skipped": tuple(run.skipped),
                    "seconds": clock.perf_counter() - run.began,
                },
            )
            if out is not None:
                found.save(out, tested)
            shutil.rmtree(state, ignore_errors=True)
    return found


def _ranked(
    run: _Run, candidates: Sequence[Candidate], metrics: Any, options: Mapping[str, Any]
) -> ScoreTable:
    """The ranking, by a race where there is too little time for all examples."""
    budget = options.get("budget")
    if budget is None and math.isfinite(run.limit):
        if (known := _kept(run, candidates, metrics, options)) is not None:
            return known
        budget = _race(run, candidates, metrics, options)
    within = run.left * _MOST_FOR_RANKING if math.isfinite(run.limit) else None
    asked = {**options, "budget": budget, "time": within}
    table = rank_models(candidates, run.task, metrics, **asked)
    if not any(r.value is not None for r in table):
        raise InvalidInputError(
            f"no model could be ranked: {table.failures[0]['model']}: {table.failures[0]['error']}"
        )
    return table


def _kept(
    run: _Run, candidates: Sequence[Candidate], metrics: Any, options: Mapping[str, Any]
) -> ScoreTable | None:
    """The ranking from the cache, where all of it is there."""
    if options["cache"] != "only-missing":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        only = {**options, "cache": "only-cache"}
        try:
            found = rank_models(candidates, run.task, metrics, **only)
        except InvalidInputError:
            return None
    return None if found.failures else found


def _race(
    run: _Run, candidates: Sequence[Candidate], metrics: Any, options: Mapping[str, Any]
) -> float | None:
    """The share of the forward passes that there is time for; None for all of them."""
    known = ("pool", "batch_size", "num_workers", "device", "progress")
    few = {name: options[name] for name in known if name in options}
    seconds = sum(f.seconds for f in forecast(candidates, run.task, metrics, **few) if not f.error)
    allowed = _FOR_RANKING * run.left
    if seconds <= allowed:
        return None
    told = ""
    for share in _SHARES:
        if share * seconds <= allowed:
            try:
                plan_race(len(candidates), len(run.task["train"]), run.task.num_classes, share)
            except InvalidInputError as error:
                told = f" ({error})"
                break
            run.skipped.append(
                f"all but {100 * share:g} % of the ranking's forward passes: models raced, since "
                f"all would take about {duration(seconds)}"
            )
            return share
    raise InvalidInputError(
        f"ranking {several(len(candidates), 'model')} takes about {duration(seconds)} and may take "
        f"{duration(allowed)}, half of the time; give more time or fewer models{told}"
    )


def _frozen(table: ScoreTable, model: str) -> tuple[str, ...]:
    """The heads on features, the simplest first."""
    [best] = table.best_layers(model)
    own = () if best.endswith(":input") else (f"{_PROBE}(layers=[{best!r}])",)
    return (_PROBE, *own, _ALL_BLOCKS)


def _fitted(run: _Run, model: Candidate, label: str) -> tuple[Head, Path]:
    """The winner, fitted again with what its search has chosen; and where its training is kept."""
    records = run.found.records
    head = tuned(run.heads[label], model.name, run.task.name, run.seed, records)
    key = content_key(model=model.name, task=run.task["train"].fingerprint, transfer=head.label)
    state = run.cache.training(key)
    head.set_known(
        random_state=run.seed,
        checkpoint=None if run.options["cache"] == "never" else state,
        device=run.options["device"],
        progress=run.options["progress"],
    )
    loaded = run.loaded.get(model.name)
    if loaded is None:
        return head.fit(model.load(), run.complete), state
    with head.sharing(loaded.features):
        return head.fit(loaded.model, run.complete), state


def _refuse_failure(run: _Run) -> None:
    if not any(r.metric == run.held for r in run.found):
        first = run.found.failures[0]
        raise InvalidInputError(
            f"no head could be fitted: {first['head'] or 'model'} on {first['model']}: "
            f"{first['error']}"
        )


def _kind_of(head: str) -> str:
    """The name of a head without its options."""
    return head.partition("(")[0]


def _whole(name: str, value: Any, least: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidInputError(f"{name}={value!r}; use a whole number from {least}")
    return value
