"""The few models that hold the best with some probability, for programs and for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.registry import resolve
from transfer_metrics.results.chances import smallest_set
from transfer_metrics.results.error_model import ErrorModel, bundled
from transfer_metrics.results.long_table import LongTable
from transfer_metrics.results.ranks import Ranking, Round
from transfer_metrics.results.record import NO_TIME, Record
from transfer_metrics.results.standing import earlier_accuracies, priors
from transfer_metrics.results.wording import fixed, listed
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.9
"""With which a shortlist holds the best, unless told otherwise."""
# What evidence teaches is learnt from tables, so how is found when it is asked for.
LEARNT = "transfer_metrics.evidence.own_evidence:learnt"
_MOST_NAMES = 12
_Table = TypeVar("_Table", bound=LongTable)


@dataclass(frozen=True)
class Shortlist(Sequence[str]):
    """The fewest models that hold the best one to transfer with some confidence, likeliest first.

    It is a sequence of their names.

    Attributes:
        models: their names.
        chances: of each to reach the highest accuracy.
        confidence: with which the best was to be among them.
        candidates: of how many they were chosen.
        metric: whose scores were read.
        source: what the chances were learnt from.
        outside: what of the ranking lies outside of that, each thing making the chances less sure.
        dropped: how many candidates a race dropped; they count by their scores of fewer examples.
        late: how many candidates there was no time for; they take their share of the chances, and
            are not on the list.
        is_sampled: whether sampling errors are known and counted.
        has_prior: whether earlier tasks count.
        first: of the ranking, which goes by what is expected; the likeliest best can be another,
            of which less or more is known.
    """

    models: tuple[str, ...]
    chances: tuple[float, ...]
    confidence: float
    candidates: int
    metric: str
    source: str = ""
    outside: tuple[str, ...] = ()
    dropped: int = 0
    late: int = 0
    is_sampled: bool = True
    has_prior: bool = False
    first: str = ""

    @classmethod
    def of(cls, ranking: Ranking, confidence: float) -> Shortlist | None:
        """That of scores that compare; None where no candidate has a chance that is known."""
        known = [c for c in ranking.rows if not math.isnan(c.p_best)]
        if not known:
            return None
        # Those of the last round are told last.
        trusts = [ranking.trust([*own, *out]) for own, out in ranking.rounds]
        late = sum(c.record.error == NO_TIME for c in ranking.order)
        several = len({c.model for c in known}) < len(known)
        names = [f"{c.model} at {c.record.layer}" if several else c.model for c in known]
        picked = smallest_set([c.p_best for c in known], confidence)
        return cls(
            models=tuple(names[i] for i in picked),
            chances=tuple(known[i].p_best for i in picked),
            confidence=confidence,
            candidates=len(known) + late,
            metric=ranking.metric,
            source=trusts[-1].source,
            outside=tuple(dict.fromkeys(text for t in reversed(trusts) for text in t.outside)),
            dropped=len(known) - len(ranking.rounds[-1].entered),
            late=late,
            is_sampled=all(c.record.stderr is not None for c in known),
            has_prior=trusts[-1].standing is not None,
            first=names[0],
        )

    @property
    def probability(self) -> float:
        """That the best is among them."""
        return sum(self.chances)

    def __len__(self) -> int:
        return len(self.models)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[str]: ...
    def __getitem__(self, place: int | slice) -> str | Sequence[str]:
        return self.models[place]

    @property
    def basis(self) -> str:
        """What the chances rest on, and what they leave out."""
        by = f"{self.metric} and earlier tasks" if self.has_prior else self.metric
        told = f"Going by {visible(by)}" + (f" and by {self.source}." if self.source else ".")
        if self.outside:
            told += f" Outside of that evidence, so less sure: {'; '.join(self.outside)}."
        if self.first not in ("", *self.models[:1]):
            told += (
                f" {visible(self.first)} has rank 1, by what is expected; "
                f"{visible(self.models[0])} is likelier to be the best, since what is known of the "
                f"two is not equally sure."
            )
        if not self.is_sampled:
            told += " Errors of sampling are not counted (intervals were not asked for)."
        if self.dropped:
            told += f" {self.dropped} that a race dropped count by scores of fewer examples."
        if self.late:
            told += (
                f" For {self.late} of them there was no time, so nothing is known of their scores."
            )
        return told

    def __repr__(self) -> str:
        names = listed(self.models)
        share = f"{fixed(self.probability)} of {self.confidence:g}"
        return f"Shortlist({names}; {share}, {len(self)} of {self.candidates} by {self.metric})"

    def __str__(self) -> str:
        """What is told to people, in a few sentences."""
        return self.told({})

    def told(self, names: Mapping[str, str]) -> str:
        """The same, with what stands for some of the names."""
        shown = listed((names.get(name) or name for name in self.models), _MOST_NAMES)
        return (
            f"Shortlist, {100 * self.confidence:g} %: {shown}. One of these {len(self)} of "
            f"{self.candidates} is the best to transfer with probability "
            f"{fixed(self.probability)}. {self.basis}"
        )


UNKNOWN = (
    "A race dropped models, and what the others scored in its rounds is not in the table, so it is "
    "not known how likely each of them is to be the best; rank again with the same budget"
)
"""Why there is no shortlist."""


def with_chances(table: _Table, confidence: float = CONFIDENCE) -> _Table:
    """The table with ``p_best`` and ``shortlisted`` in the records that stand for their models."""
    known: dict[int, tuple[float, bool]] = {}
    for ranking in _rankings_of_scores(table):
        candidates = [c for c in ranking.rows if not math.isnan(c.p_best)]
        picked = smallest_set([c.p_best for c in candidates], confidence)
        known |= {id(c.record): (c.p_best, i in picked) for i, c in enumerate(candidates)}
    told = ((r, *known.get(id(r), (None, None))) for r in table)
    found = [replace(r, p_best=chance, shortlisted=among) for r, chance, among in told]
    return type(table)(found, table.view)


def informed(table: _Table, evidence: Any, prior: Any) -> _Table:
    """A table with the trust in its scores and the standing of its models."""
    errors = bundled() if evidence is None else resolve(LEARNT)(evidence)
    records = list(table)
    if evidence is not None:
        records, outside = _with_trust(table, errors)
        if outside:
            warn(f"outside of the evidence, so less sure: {'; '.join(outside)}")
    if prior is not None:
        records = _with_prior(records, earlier_accuracies(prior), errors)
    found = type(table)(records, table.view)
    # Chances that were told before are of other evidence.
    return with_chances(found) if any(r.p_best is not None for r in table) else found


def _rankings_of_scores(table: LongTable) -> Iterator[Ranking]:
    """Those of every metric that tells of no head that was trained."""
    for metric in dict.fromkeys(r.label for r in table if r.metric and not r.is_measured):
        yield from table.rankings(metric).values()


def _with_trust(table: LongTable, errors: ErrorModel) -> tuple[list[Record], list[str]]:
    """Scores with their trust, and what lies outside of the evidence."""
    trusts: dict[int, tuple[list[float], str | None]] = {}
    told: dict[str, None] = {}
    for ranking in _rankings_of_scores(table):
        alone = [Round([c.record for c in ranking.scored], [])] if ranking.scored else []
        for entered, out in ranking.rounds or alone:
            found = ranking.trust([*entered, *out], errors)
            told.update(dict.fromkeys(f"{ranking.metric}: {text}" for text in found.outside))
            outside = "; ".join(found.outside) or None
            # Later rounds overwrite those of who went on.
            names = {r.model for r in entered}
            same = (r for r in ranking.records if r.metric and r.model in names)
            trusts |= {id(r): (list(found.trust), outside) for r in same}
    kept = ((r, *trusts.get(id(r), (r.trust, r.outside))) for r in table)
    return [replace(r, trust=pair, outside=outside) for r, pair, outside in kept], list(told)


def _with_prior(records: Sequence[Record], prior: pd.DataFrame, errors: ErrorModel) -> list[Record]:
    """Scores with the standing of their models on other tasks, in place of any they had."""
    models: dict[str | None, list[str]] = {}
    for r in records:
        if r.model and not r.is_measured:
            models.setdefault(r.task, []).append(str(r.model))
    if not models:
        raise InvalidInputError("there are no scores for a prior to be added to")
    found = {task: priors(prior, own, errors, task) for task, own in models.items()}
    return [
        r if r.is_measured else replace(r, prior=found.get(r.task, {}).get(str(r.model)))
        for r in records
    ]
