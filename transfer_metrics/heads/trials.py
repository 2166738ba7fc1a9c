"""Heads tried on one model after the other within some time, and the best of them fitted again."""

from __future__ import annotations

import math
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.estimate import expected_seconds
from transfer_metrics.heads.fits import LATE, Fits, Loaded
from transfer_metrics.heads.objective import QUALITY
from transfer_metrics.heads.splits import complete_task
from transfer_metrics.naming import short_id
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking import ScoreTable
from transfer_metrics.ranking.cache import ResultCache, content_key
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.results.wording import duration
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.tasks.task import Task

_LEAST = "linear_probe(C_grid=(0.0001, 0.01, 1.0))"
"""The head that takes least."""
_PAGE = 2.0
"""Seconds that the test of the winner and its page take."""


@dataclass
class Trials:
    """Heads that are tried within some time: what is the same for all, and what they found.

    ``ranking`` says what they may take. Of models only the best so far stays ``loaded``.
    """

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
    loading: float = 0.0
    ranking: ScoreTable = field(default_factory=lambda: ScoreTable([]))
    order: list[str] = field(default_factory=list)
    loaded: dict[str, Loaded] = field(default_factory=dict)

    @cached_property
    def work(self) -> Fits:
        """What fits of all heads have in common."""
        return Fits(
            complete_task(self.task, validation=self.validation),
            short_id(self.task["train"].fingerprint),
            [],
            [self.seed],
            ResultCache(self.options["cache_dir"]),
            self.options["cache"],
            device=self.options["device"],
            progress=self.options["progress"],
        )

    @property
    def held(self) -> str:
        """The metric that heads are chosen by."""
        return f"val_{QUALITY[self.task.kind]}"

    @property
    def left(self) -> float:
        """Seconds until the limit."""
        return self.limit - (clock.perf_counter() - self.began)

    @property
    def spare(self) -> float:
        """Seconds until the winner has to be fitted once more, tested and written."""
        return self.left - self.slowest - _PAGE

    def try_heads(self, model: Candidate, heads: Sequence[str], told: str = "heads on") -> None:
        """Fit and measure heads on a model.

        Where time is limited, each only if there is time for it and, since it may win, for its last
        fit, by what the ranking lets expect and what heads before it took against that. So the
        first of all is the least there is, which is fitted however long it takes: without a head
        there is no result. What the cache has takes no time.
        """
        first = not self.best_fits()
        if not first and self.spare < self.loading:
            self.skipped.append(f"{told} {model.name}, for which there was no time")
            return
        asked = [resolve_head(head) for head in heads]
        if first and math.isfinite(self.limit):
            asked.insert(0, resolve_head(_LEAST))
        self.heads |= {head.label: head for head in asked}
        loaded = self._loaded(model, math.inf if first else self.spare)
        read, late = False, {}
        with progress_bar("fits", len(asked), self.options["progress"]) as bar:
            for head in asked:
                reading, fit = expected_seconds(self.ranking, model.name, self.task, head)
                kept = self._kept_seconds(loaded, head)
                taken = kept or fit * self._pace(head)
                seconds = 0.0 if kept else taken + (0.0 if read else reading)
                # What the cache has was not read, and the last fit would have to.
                last = _again(head) * taken + (reading if kept else 0.0)
                has_time = seconds + max(last - self.slowest, 0.0) <= self.spare
                if has_time or head.label == _LEAST:
                    others = asked if has_time else [head]
                    self._measured(model, loaded, head, others, kept, (reading, fit))
                    read = read or not kept
                else:
                    late[f"{head.label} on {model.name}"] = seconds
                bar.update()
        if len(late) == len(asked) > 1:
            late = {f"{told} {model.name}": min(late.values())}
        for what, seconds in late.items():
            self.skipped.append(
                f"{what}, which would take about {duration(seconds)} and the winner's last fit "
                f"after it, of {duration(max(self.left, 0.0))}"
            )
        best = [name for name, _ in self.best()[:1]]
        self.loaded = {name: one for name, one in self.loaded.items() if name in best}

    def _loaded(self, model: Candidate, seconds: float) -> Loaded | str:
        """The model, or why there is none; kept if it is there."""
        began = clock.perf_counter()
        within = replace(self.work, until=clock.time() + seconds)
        loaded = self.loaded.get(model.name) or within.load(model)
        self.loading = clock.perf_counter() - began
        if isinstance(loaded, Loaded):
            self.loaded[model.name] = loaded
        return loaded

    def _kept_seconds(self, loaded: Loaded | str, head: Head) -> float:
        """What a fit took that the cache has; 0 for one that it has not."""
        kept = [] if isinstance(loaded, str) else self.work.kept(loaded, head, self.seed)
        return sum(r.value or 0.0 for r in kept if r.metric == "fit_seconds")

    def _pace(self, head: Head) -> float:
        """How many times longer than expected such heads took here, or else the slowest did."""
        return self.paces.get(head.name, max(self.paces.values(), default=1.0))

    def _measured(
        self,
        model: Candidate,
        loaded: Loaded | str,
        head: Head,
        others: Sequence[Head],
        kept: float,
        expected: tuple[float, float],
    ) -> None:
        """Fit one head within the time that there is, and keep what it took against expectation.

        What it reads, which does not count, is read with what the others need.
        """
        seconds = math.inf
        if head.label != _LEAST:
            # It may win, and its last fit has to have time as well.
            seconds = max(min(self.spare, (self.left - _PAGE) / (1.0 + _again(head))), 0.1)
        work = replace(self.work, heads=others, until=clock.time() + seconds)
        before = 0.0
        if isinstance(loaded, Loaded):
            before = loaded.features.spent
            _ = kept or loaded.flops  # what counts them is imported once, which is no pace
        began = clock.perf_counter()
        found = work.reduce(model, [work.map(loaded, list(others).index(head))])
        if isinstance(found, TransferMetricsError):
            raise found
        done = {(r.model, r.head) for r in self.found}
        fresh = (r for r in found if r.error != LATE and (r.model, r.head) not in done)
        summary = self.task.summary
        self.found += Comparison(replace(record, task_summary=summary) for record in fresh)
        if isinstance(loaded, Loaded) and not any(r.error for r in found):
            reading, fit = expected
            took = clock.perf_counter() - began - (loaded.features.spent - before)
            if kept:
                took = kept
                self.paces.setdefault(head.name, kept / max(reading + fit, 0.01))
            else:
                self.paces[head.name] = took / max(fit, 0.01)
            self.slowest = max(self.slowest, _again(head) * took + (reading if kept else 0.0))
        if any(r.error == LATE for r in found):
            self.paces[head.name] = max(self._pace(head), seconds / max(expected[1], 0.01))
            self.skipped.append(f"{head.label} on {model.name}, stopped when the time was over")

    def best_fits(self) -> list[Record]:
        """What fits reached by validation."""
        return [r for r in self.found if r.metric == self.held and r.value is not None]

    def best(self) -> list[tuple[str, str]]:
        """Model and head of every fit, the best by validation first, then as shortlisted."""
        held = self.best_fits()
        held.sort(key=lambda r: (-(r.value or 0.0), self.order.index(str(r.model))))
        return [(str(r.model), str(r.head)) for r in held]

    def refuse_failure(self) -> None:
        """Raise the reason where no head could be fitted."""
        if not self.best_fits():
            first = self.found.failures[0]
            raise InvalidInputError(
                f"no head could be fitted: {first['head'] or 'model'} on {first['model']}: "
                f"{first['error']}"
            )

    def fitted(self, model: str, label: str) -> tuple[Head, Path]:
        """A head once more, with what its search has chosen; and where its training is kept."""
        records = self.found.records
        head = self.heads[label].tuned(model, self.task.name, self.seed, records)
        loaded = self.loaded[model]
        key = content_key(
            model=loaded.model.fingerprint,
            settings=loaded.settings.digest,
            task=self.task["train"].fingerprint,
            transfer=head.label,
        )
        state = self.work.cache.training(key)
        with self.work.prepared(head, self.seed, state).sharing(loaded.features) as fresh:
            return fresh.fit(loaded.model, self.work.task), state


def _again(head: Head) -> float:
    """The share of the seconds of a fit that the same with what its search has chosen takes."""
    return 1.0 if head.name == "head2toe" else 0.5
