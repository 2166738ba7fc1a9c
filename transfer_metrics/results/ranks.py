"""The order of candidates under a metric, with intervals and the chance of each to be the best."""

from __future__ import annotations

import collections
import functools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.chances import Standing, Trust, expected, probability_of_best
from transfer_metrics.results.error_model import ErrorModel, bundled
from transfer_metrics.results.record import NO_TIME, Record
from transfer_metrics.results.standing import standing_of
from transfer_metrics.results.wording import LOSSES

if TYPE_CHECKING:
    from transfer_metrics.metrics.base import Metric

_LOSS = re.compile(rf"(?<![a-z])({LOSSES})(?![a-z])", re.IGNORECASE)
"""Names of metrics of which less is mostly better."""


@dataclass(frozen=True)
class Ranked:
    """A candidate: the record that stands for it, and the seconds of the pass and all scoring."""

    record: Record
    seconds: float
    rank: int | None = None
    p_best: float = math.nan
    p_score: float = math.nan

    @property
    def model(self) -> str:
        """Its name."""
        return str(self.record.model)

    @property
    def score(self) -> float:
        """The value of the record; NaN where it failed."""
        return math.nan if self.record.value is None else self.record.value

    @property
    def stderr(self) -> float:
        """Its standard error; NaN where it has none."""
        return math.nan if self.record.stderr is None else self.record.stderr

    @property
    def low(self) -> float:
        """Lower end of its 95 % interval; NaN where it has none."""
        return self.record.ends[0]

    @property
    def high(self) -> float:
        """Upper end."""
        return self.record.ends[1]


class Round(NamedTuple):
    """Candidates as they stood in a round of a race: only scores of the same examples compare."""

    entered: list[Record]
    # The others, moved by what the scores of those who entered have changed since, on the scale
    # on which errors are even: the spread of those who are left is not that of all, in which
    # scores are trusted.
    out: list[Record]


class _RankingTrust(NamedTuple):
    """How far the candidates of a ranking can be told apart by their scores."""

    trust: Trust  # in the order of the scores
    standing: Standing | None  # of the candidates on earlier tasks, where such were given
    source: str  # the evidence, in words
    outside: list[str]  # what of the ranking lies outside of it


class Ranking:
    """Scores of one metric that compare: the candidates, their order and their chances.

    ``records`` are those of the metric, and of models that failed before any. Each answer is found
    when it is asked for, and kept.

    >>> rows = [Record("a", metric="knn", value=0.7), Record("b", metric="knn", value=0.9)]
    >>> [(c.model, c.rank) for c in Ranking(rows, "knn", "best").order]
    [('b', 1), ('a', 2)]
    """

    def __init__(self, records: Iterable[Record], metric: str, view: str) -> None:
        self.records, self.metric, self.view = list(records), metric, view

    @functools.cached_property
    def higher_is_better(self) -> bool:
        """The direction of the metric."""
        return _higher_is_better(self._of_metric)

    @functools.cached_property
    def candidates(self) -> list[Ranked]:
        """One per model (or layer, in the view ``all``), in the order of the models."""
        groups: dict[str, list[Record]] = {}
        for record in self.records:
            groups.setdefault(str(record.model), []).append(record)
        found = []
        for own in groups.values():
            scored = [r for r in own if r.label == self.metric and r.value is not None]
            failed = [r for r in own if r.error]
            if not scored:
                found += [Ranked(r, 0.0) for r in failed[:1]]
                continue
            # Of a model that one race dropped and another did not, those of most examples count.
            most = max(r.n or 0 for r in scored)
            scored = [r for r in scored if (r.n or 0) == most]
            latest = max(map(_place, scored))
            if self.view == "last" and (late := [r for r in failed if _place(r) > latest]):
                found.append(Ranked(late[-1], 0.0))  # no other layer stands for the last
                continue
            spent = (scored[0].extract_seconds or 0.0) + sum(r.seconds or 0.0 for r in scored)
            chosen = scored if self.view == "all" else [standing_for(scored, self.view)]
            found += [Ranked(r, spent) for r in chosen]
        return found

    @functools.cached_property
    def _by_score(self) -> list[Ranked]:
        """By their scores: failures last, and before them those that a race dropped."""
        sign = -1.0 if self.higher_is_better else 1.0
        return sorted(
            self.candidates,
            key=lambda c: (
                c.record.value is None,
                -(c.record.round or math.inf),
                sign * (c.record.value or 0.0),
            ),
        )

    @functools.cached_property
    def order(self) -> list[Ranked]:
        """Candidates from best to worst: failures last, and before them those that a race dropped.

        Best is the highest score, or, where the candidates have a standing on earlier tasks, the
        highest accuracy that is expected from both.
        """
        found = list(self._by_score)
        scored = [c for c in found if c.record.value is not None]
        last = [c.record for c in scored if c.record.round == scored[0].record.round]
        if standing := standing_of([r.prior for r in last]):
            scores = [r.value or 0.0 for r in last]
            values = expected(scores, self.higher_is_better, self.trust(last).trust, standing)
            found[: len(last)] = [found[i] for i in np.argsort(-values, kind="stable")]
        return [replace(c, rank=i if i <= len(scored) else None) for i, c in enumerate(found, 1)]

    @functools.cached_property
    def scored(self) -> list[Ranked]:
        """Those of the order that have a score."""
        return [c for c in self.order if c.rank is not None]

    @functools.cached_property
    def rows(self) -> list[Ranked]:
        """The order with chances, of all candidates.

        One that a race dropped keeps the chance that it had then, and what is left is shared out by
        later rounds. They are NaN where the scores of a round are not known.
        """
        chances: dict[tuple[str | None, str | None], tuple[float, float]] = {}
        left = np.array(self._of_scored())
        for own, out in self.rounds:
            of_all = self._chances([*own, *out])[: len(own)]
            total = of_all.sum(axis=0)
            of_round = left * of_all / np.where(total == 0, 1.0, total)
            # Later rounds tell more of those who go on.
            for r, (p, q) in zip(own, of_round.tolist(), strict=True):
                chances[r.model, r.layer] = p, q
            ends = min(r.round or math.inf for r in own)
            left = of_round[[(r.round or math.inf) > ends for r in own]].sum(axis=0)
        unknown = math.nan, math.nan
        told = []
        for c in self.order:
            known = c.rank is not None
            p, q = chances.get((c.record.model, c.record.layer), unknown) if known else unknown
            told.append(replace(c, p_best=p, p_score=q))
        return told

    @functools.cached_property
    def rounds(self) -> list[Round]:
        """The rounds of a race that dropped some, and that of the finalists.

        None where some scores are not known; one, of all, where there was no race.
        """
        own: dict[str, list[Record]] = {}
        for r in self._of_metric:
            if r.earlier:
                own.setdefault(str(r.model), []).append(r)
        scored = [c.record for c in self._by_score if c.record.value is not None]
        found: list[Round] = []
        for end in sorted({r.round or math.inf for r in scored}):
            left = [r for r in scored if (r.round or math.inf) >= end]
            dropped = next(r for r in left if (r.round or math.inf) == end)
            entered = self._stood(left, own, dropped)
            out = []
            for gone in (r for r in scored if (r.round or math.inf) < end):
                then = self._stood(left, own, gone)
                even = gone.even
                value = (even.value or 0.0) + (_mean_even(entered) - _mean_even(then))
                moved = gone.uneven(replace(even, value=value, deviations=None))
                out.append(
                    replace(moved, n=dropped.n, trust=dropped.trust, outside=dropped.outside)
                )
            if len(entered) < len(left):
                return []
            found.append(Round(entered, out))
        return found

    def trust(self, chosen: Sequence[Record], errors: ErrorModel | None = None) -> _RankingTrust:
        """How far the order of some candidates can be trusted.

        By ``errors``, or else by what their records say, or else by the evidence of the package.
        """
        own = [(r.model, r.layer) for r in self._of_metric if r.value is not None]
        layers = collections.Counter(model for model, _ in dict.fromkeys(own))
        several = any(layers[r.model] > 1 for r in chosen)
        standing = standing_of([r.prior for r in chosen])
        given = {tuple(r.trust) for r in chosen if r.trust is not None and len(r.trust) == 2}
        if errors is None and len(given) == 1 and all(r.trust is not None for r in chosen):
            (pair,) = given
            outside = list(dict.fromkeys(r.outside for r in chosen if r.outside))
            return _RankingTrust(Trust(*pair), standing, "the evidence that was given", outside)
        errors = errors or bundled()
        trust, outside = errors.trust(
            self.metric,
            of_best=several and self.view != "last",
            n=max((r.n or 0 for r in chosen), default=0) or None,
            classes=max((r.num_classes or 0 for r in chosen), default=0) or None,
            dims={r.dim for r in chosen if r.dim is not None},
            kind=next((r.task_kind for r in chosen if r.task_kind), None),
        )
        if self.view == "all" and several:
            # Evidence is of models.
            trust = errors.trust("")[0]
            outside = [*outside, "layers as candidates"]
        return _RankingTrust(trust, standing, errors.source, outside)

    @property
    def _of_metric(self) -> list[Record]:
        return [r for r in self.records if r.label == self.metric]

    def _stood(
        self, left: Sequence[Record], own: Mapping[str, Sequence[Record]], dropped: Record
    ) -> list[Record]:
        """Those whose scores in the round that dropped one are known, with these."""
        found, n = [], dropped.n or 0
        for record in left:
            if record.round == dropped.round:
                found.append(record)
                continue
            same = own.get(str(record.model), [])
            told = ((r, r.score_on(n)) for r in same if self.view != "all" or r is record)
            then = [replace(r, value=value) for r, value in told if value is not None]
            if then:
                error = record.even.stderr
                error = error and error * math.sqrt((record.n or n) / max(n, 1))
                best = standing_for(then, self.view)
                stood = best.uneven(replace(best.even, n=n, stderr=error, deviations=None))
                found.append(
                    replace(stood, value=best.value, trust=dropped.trust, outside=dropped.outside)
                )
        return found

    def _of_scored(self) -> tuple[float, float]:
        """Chances that the best, by accuracy and by score, is among those that have a score.

        Of those that there was no time for nothing is known but their standing on earlier tasks.
        """
        late = [c.record for c in self.order if c.record.error == NO_TIME]
        if not late:
            return 1.0, 1.0
        models = [*{c.model: c.record for c in self._by_score if c.score == c.score}.values()]
        everyone = [*models, *late]
        none = [math.nan] * len(everyone)
        equal = probability_of_best(
            [0.0] * len(everyone), none, [None] * len(everyone),
            trust=Trust(0.0, 0.0), standing=standing_of([r.prior for r in everyone]),
        )  # fmt: skip
        return float(equal[: len(models)].sum()), len(models) / len(everyone)

    def _chances(self, own: Sequence[Record]) -> np.ndarray:
        """Chances to be the best by accuracy and by score, (M, 2), of the same examples."""
        trusted, better = self.trust(own), self.higher_is_better
        of_score = probability_of_best(*_errors([r.even for r in own]), better)
        scores, errors, deviations = _errors(own)
        if len({r.round for r in own}) > 1 and np.isnan(errors).any():
            # Those with an error would seem less sure than those without.
            errors, deviations = [math.nan] * len(own), [None] * len(own)
        of_accuracy = probability_of_best(
            scores, errors, deviations, better, trust=trusted.trust, standing=trusted.standing
        )
        return np.stack([of_accuracy, of_score], axis=1)


def standing_for(records: Sequence[Record], view: str) -> Record:
    """That of a model's scores under one metric which stands for it: of its best or last layer."""
    if view == "last":
        return max(reversed(records), key=_place)
    sign = 1.0 if _higher_is_better(records) else -1.0
    return max(records, key=lambda r: sign * (r.value or 0.0))


def _place(record: Record) -> tuple[float, float]:
    """How late a layer comes, as far as it is known."""
    return record.layer_index or 0, record.depth or 0.0


def _higher_is_better(records: Iterable[Record]) -> bool:
    """The direction of a metric, as its records have it; those that contradict are refused."""
    told = {r.higher_is_better: r.label for r in records}
    if {True, False} <= set(told):
        raise InvalidInputError(
            f"of {told[True]} some records say that higher is better and others that lower is; "
            f"give all of them one higher_is_better"
        )
    if set(told) == {None} and _LOSS.search(told[None]):
        raise InvalidInputError(
            f"of {told[None]} no record says whether higher is better; give all of them "
            f"higher_is_better=False, or True"
        )
    return False not in told


def _mean_even(records: Sequence[Record]) -> float:
    """Mean of scores on the scale on which their errors are even; 0 of none."""
    return float(np.mean([r.even.value or 0.0 for r in records])) if records else 0.0


def _errors(
    own: Sequence[Record],
) -> tuple[list[float], list[float], list[list[float] | None]]:
    """Scores with their errors, and deviations."""
    scores = [math.nan if r.value is None else r.value for r in own]
    errors = [math.nan if r.stderr is None else r.stderr for r in own]
    return scores, errors, [r.deviations for r in own]


def width_warnings(metrics: Iterable[Metric], records: Iterable[Record]) -> list[str]:
    """What is to be told where scores that grow with the number of features are compared."""
    known = [r for r in records if r.dim is not None and not r.error]
    told = []
    for metric in metrics:
        dims = {r.dim for r in known if r.dim is not None and r.label == metric.label}
        if metric.grows_with_width and len(dims) > 1:
            told.append(
                f"{metric.label} grows with the number of features, here {min(dims)} to "
                f"{max(dims)}, so it ranks widths as much as quality; use label_rate, which does "
                f"not, or use {metric.name}({metric.width_cures[0]}), which does so less"
            )
    return told
