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
from transfer_metrics.heads.fits import LATE, Fits, Loaded
from transfer_metrics.heads.objective import QUALITY
from transfer_metrics.heads.splits import complete_task
from transfer_metrics.naming import short_id
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.cache import ResultCache, content_key
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.results.wording import duration
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.tasks.task import Task

_LEAST = "linear_probe(C_grid=(0.0001, 0.01, 1.0))"
"""The head that takes least."""


@dataclass
class Trials:
    """Heads that are tried within some time: what is the same for all, and what they found.

    Of models only the best so far stays ``loaded``.
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
    busy: float = 1.0
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
        if seconds + max(self.last, _again(head) * seconds) <= self.left:
            return True
        self.skipped.append(
            f"{what}, which would take about {duration(seconds)} and the winner's last fit after "
            f"it, of {duration(max(self.left, 0))}"
        )
        return False

    def try_heads(self, model: Candidate, heads: Sequence[str], expected: float) -> None:
        """Fit and measure heads on a model, each of which was expected to take so many seconds.

        Where time is limited, each only if there is time for it by what those before it took; the
        least there is where there is time for none, since there is no result without a head.
        """
        asked = [resolve_head(head) for head in heads]
        self.heads |= {head.label: head for head in asked}
        with progress_bar("fits", len(asked), self.options["progress"]) as bar:
            for head in asked:
                if math.isinf(self.limit):
                    self._measured(model, head, asked, math.inf, expected)
                elif self.fits(f"{head.label} on {model.name}", head.label, expected):
                    # It may win, and its last fit has to have time as well.
                    own = self.left / (1.0 + _again(head.label))
                    self._measured(model, head, asked, min(self.left - self.last, own), expected)
                bar.update()
        if not self.best_fits() and not self.found.failures:
            least = resolve_head(_LEAST)
            self.heads[least.label] = least
            self._measured(model, least, [least], math.inf, expected)
        best = [name for name, _ in self.best()[:1]]
        self.loaded = {name: one for name, one in self.loaded.items() if name in best}

    def _measured(
        self, model: Candidate, head: Head, asked: Sequence[Head], seconds: float, expected: float
    ) -> None:
        """Fit one head within some time, and keep what it took against what was expected.

        What it reads is read with what the others need.
        """
        began = clock.perf_counter()
        work = replace(self.work, heads=asked, until=clock.time() + max(seconds, 0.1))
        loaded = self.loaded.get(model.name) or work.load(model)
        if isinstance(loaded, Loaded):
            self.loaded[model.name] = loaded
        before = 0.0 if isinstance(loaded, str) else loaded.features.saved
        found = work.reduce(model, [work.map(loaded, list(asked).index(head))])
        if isinstance(found, TransferMetricsError):
            raise found
        done = {(r.model, r.head) for r in self.found}
        fresh = (r for r in found if r.error != LATE and (r.model, r.head) not in done)
        summary = self.task.summary
        self.found += Comparison(replace(record, task_summary=summary) for record in fresh)
        if isinstance(loaded, Loaded) and not any(r.error for r in found):
            # A pass that was made before is part of what the head takes.
            took = clock.perf_counter() - began + loaded.features.saved - before
            known = sum(r.value or 0.0 for r in found if r.metric == "fit_seconds")
            if took > known / 2:  # what the cache has takes no time, from which nothing follows
                self.paces[_kind_of(head.label)] = took / max(expected, 0.01)
                self.slowest = max(self.slowest, _again(head.label) * took)
        if any(r.error == LATE for r in found):
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


def _kind_of(head: str) -> str:
    """The name of a head without its options."""
    return head.partition("(")[0]


def _again(head: str) -> float:
    """The share of the seconds of a fit that the same with what its search has chosen takes."""
    return 0.5 if _kind_of(head) in ("finetune", "lpft") else 1.0
