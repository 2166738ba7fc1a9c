"""A race of many models: all on a few examples, and only those that can still win on more."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, warn
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.job import Job, Outcome
from transfer_metrics.ranking.ranges import Ranges, Run, outcomes
from transfer_metrics.results.ranks import standing_for
from transfer_metrics.results.record import Record
from transfer_metrics.results.wording import several
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.tasks.subtasks import nested_order

# Share of the budget for the first round, in which all models take part.
_FIRST = 1 / 4
# Operations, as ``Forward.cost`` counts them, in the time of which a network is loaded, traced and
# proven: 0.2 to 0.7 seconds, whatever its passes take. Measured, not taken from this run's clock.
_VISIT = 8e10
# Fewer examples say too little, in all and per class.
_LEAST, _LEAST_PER_CLASS = 40, 5
# A model reads so many examples more in each round, to find layers and to see that they are sound.
_PROBE = 16
# Chance that the race as a whole drops, by the errors of scores, a model whose score is the best.
_RISK = 0.05


def race(
    work: Ranges, candidates: Sequence[Candidate], run: Run, budget: float, progress: bool = False
) -> list[Record]:
    """Records of all models, scored on as much of the data as they lasted.

    Rounds look at nested, class-stratified random subsets of the split, the same for all models,
    so that only scores of the same examples are compared: those of few examples are biased. After
    each round the first metric decides, twice: the models of lowest rank are dropped until the
    rest fits the budget (successive halving), and of the rest those that, by the paired jackknife
    of their best layers over common blocks of examples, can no longer reach the leader, with a risk
    of 5 % over all models and rounds. The test covers sampling error only, not models whose order
    changes with the number of examples, as it does under ``h_score`` where features outnumber
    examples; dropping by rank knows no errors at all. Metrics of examples (``knn``, the probes)
    have no jackknife: they are tested by their own standard errors, taken as independent, or, with
    ``intervals=True``, paired over common blocks, or by half-samples over these with
    ``intervals="bootstrap"``; those without any go by rank alone.

    Each round adds ranges of examples to the models that are still in the race: the statistics of
    the ranges before are kept until a model is out, and merged with those of the new ones. The
    scores of each round are cached like those of a full ranking, and those of the last round are
    the same, so an interrupted race goes on where it stopped.

    ``budget`` is a share of what a full ranking costs, counted as if the cache were empty, so that
    the cache does not change the result. A pass costs what ``Forward.cost`` counts of the network:
    that goes with its time, and who goes on depends on no clock. Loading a network and finding its
    layers counts as eighty billion operations, which every candidate takes once, as in a full
    ranking; passes get what is left of the budget, but at least half of it, and all of it where
    passes take less than loading, since no race saves much there. One model can always go to the
    end; a warning tells where the budget does not allow that.

    Where the time of the job is over, the race ends with the scores of the last round that all who
    were in it have finished, or with those of the first that some have, of one model at least.

    Records are in the order of the candidates. ``round`` is the round after which a model was
    dropped, None for those that were scored on all examples. ``earlier`` has the scores of the
    rounds before, so that those who were dropped can be compared with all who were not.

    Cost: at most ``budget`` times that of the forward passes, and of loading as said. What was
    proven of a network is known in later rounds, and whoever ran it keeps it between rounds, all
    workers of a machine in up to a quarter of its memory; others are loaded again. In all rounds
    but the last, each is scored up to twenty more times on one layer, for the error by which it is
    tested. Disk holds the statistics of all models that are still in the race.
    """
    job = work.job
    plan = plan_race(len(candidates), len(job.data), job.task.num_classes, budget)
    job = replace(job, **_rounds_of(job, plan.sizes))
    last = len(plan.sizes) - 1
    candidates = [_loaded(candidate) for candidate in candidates]

    found: dict[int, Outcome] = {}
    reached: dict[int, int] = {}
    before: dict[int, list[Record]] = {}
    alive, stage, spent = list(range(len(candidates))), 0, 0.0
    costs, rest = dict[int, float](), plan
    while alive:
        of_round = replace(work, job=replace(job, stage=stage))
        title = f"round {stage + 1} of {last + 1}, {plan.sizes[stage]} examples, models left"
        entered, round_found = alive, dict[int, Outcome]()
        with progress_bar(title, len(entered), progress) as bar:
            for place, outcome in outcomes(of_round, [candidates[i] for i in entered], run):
                round_found[entered[place]] = outcome
                work.kept.note(candidates[entered[place]].name, outcome.known)
                bar.update()
        if any(outcome.late for outcome in round_found.values()):
            # Only scores of the same examples compare, so an unfinished round counts if it is all.
            found = found or round_found
            reached = reached or dict.fromkeys(entered, stage)
            _tell_of_time(job, plan.sizes, stage, found)
            break
        for i in found.keys() & set(entered):
            before.setdefault(i, []).extend(found[i].records)
        found |= round_found
        reached |= dict.fromkeys(entered, stage)
        if not costs:
            costs, rest = _relative_costs(found), plan.beside_visits(budget, found)
        spent += sum(costs[i] for i in entered) * plan.cost(stage)
        alive = []
        if stage < last:
            level = _RISK / (len(candidates) * last)
            standings = _standings(job, found, entered)
            order = sorted(standings, key=lambda i: (-standings[i].score, standings[i].tie))
            left = rest.fitting(stage + 1, spent, costs, order)
            alive = sorted(left[k] for k in _contenders([standings[i] for i in left], level))
        needed = {path for i in alive for path in found[i].left}
        job.cache.drop({path for i in entered for path in found[i].left} - needed)
        work.kept.leave([candidates[i].name for i in alive])
        # The last one left has nobody to be compared with on the way.
        skipped = range(stage + 1, last) if len(alive) == 1 else range(0)
        spent += sum(costs[i] for i in alive) * sum(map(plan.cost, skipped))
        stage += 1 + len(skipped)
    if spent > rest.allowed:
        share, meant = (rest.share(passes, len(candidates)) for passes in (spent, rest.allowed))
        warn(
            f"the race costs {share:.2g} of a full ranking, not {meant:.2g}: the largest of those "
            f"that lead is too large for the rest of the budget, and one has to see all examples"
        )
    rounds = [None if reached[i] == last else reached[i] + 1 for i in range(len(candidates))]
    return [
        replace(r, round=rounds[i], earlier=_earlier(r, before.get(i, [])))
        for i in range(len(candidates))
        for r in found[i].records
    ]


def _earlier(record: Record, before: Sequence[Record]) -> list[float] | None:
    """Numbers of examples and scores of the same layer and metric in the rounds before."""
    same = [r for r in before if (r.label, r.layer) == (record.label, record.layer)]
    return [x for r in same if r.value is not None for x in (r.n or 0, r.value)] or None


def _tell_of_time(job: Job, sizes: Sequence[int], stage: int, found: dict[int, Outcome]) -> None:
    """Warn of what the table says where the time was over in a round."""
    late = sum(outcome.late for outcome in found.values())
    before = (
        f"{several(late, 'model')} of {len(found)} have no score, the others that of {sizes[0]}"
        if late
        else f"the scores are those of the round before, on {sizes[stage - 1]}"
    )
    warn(
        f"the time was over in round {stage + 1} of {len(sizes)}: {before} of {len(job.data)} "
        f"examples; {job.with_more_time}"
    )


def _rounds_of(job: Job, sizes: Sequence[int]) -> dict[str, Any]:
    """The ranges of a race, and how many of them each round of a size looks at.

    Rounds look at nested random parts of the split, each with the classes in their shares.
    Positions are ascending within what a round adds, and its ranges are as long as those of all.
    """
    order = nested_order(job.data.labels, job.task.num_classes)
    size = max(map(len, job.ranges))
    ranges: list[np.ndarray] = []
    counts = []
    for start, stop in itertools.pairwise([0, *sizes]):
        new = np.sort(order[start:stop])
        ranges += [new[at : at + size] for at in range(0, len(new), size)]
        counts.append(len(ranges))
    return {"ranges": tuple(ranges), "racing": tuple(counts)}


@dataclass(frozen=True)
class _Standing:
    """How a model stands after a round."""

    score: float  # higher is better
    stderr: float = math.nan  # its standard error, NaN where there is none
    # Its deviations over common blocks of examples, where there are any.
    deviations: Sequence[float] | None = None
    tie: tuple[str, ...] = ()  # decides between equal scores


def _contenders(standings: Sequence[_Standing], level: float) -> list[int]:
    """Places of those that can still be the best, best first.

    One falls out where the probability that its score is above the leader's, by the errors of
    their difference, is below ``level``: with M models, ``level = α / M`` drops the best with a
    probability of at most α, whoever leads. Errors over common blocks give Student's t of the
    paired difference; otherwise they are taken for independent and normal. Who has no error stays.

    >>> _contenders([_Standing(0.1, 0.1), _Standing(0.9, 0.1), _Standing(0.8, 0.1)], 0.001)
    [1, 2]
    """
    if not standings:
        return []
    order = sorted(range(len(standings)), key=lambda i: (-standings[i].score, standings[i].tie))
    return order[:1] + [
        i for i in order[1:] if not _above(standings[i], standings[order[0]]) < level
    ]


def _above(model: _Standing, leader: _Standing) -> float:
    """Probability that a model's score is really above the leader's, NaN where unknown."""
    gap = leader.score - model.score
    a, b = model.deviations, leader.deviations
    if a is not None and b is not None and len(a) == len(b) > 1:
        error = float(np.linalg.norm(np.subtract(a, b)))
        below: Callable[[float], float] = functools.partial(stdtr, len(a) - 1)
    else:
        error, below = math.hypot(model.stderr, leader.stderr), ndtr
    if error > 0:
        return float(below(-gap / error))
    return math.nan if math.isnan(error) or gap == 0 else 0.0


def _relative_costs(found: Mapping[int, Outcome]) -> dict[int, float]:
    """What a pass of each model costs, in that of their mean; the mean where it is not known."""
    known = {i: outcome.cost for i, outcome in found.items() if outcome.cost}
    total = sum(known.values())
    return {i: known[i] * len(known) / total if i in known else 1.0 for i in found}


def _standings(job: Job, found: dict[int, Outcome], chosen: Sequence[int]) -> dict[int, _Standing]:
    """How those of the models stand that have a score."""
    label = job.metrics[0].label
    sign = 1.0 if job.metrics[0].higher_is_better else -1.0
    standings = {}
    for i in chosen:
        records = [r for r in found[i].records if r.label == label and not r.error]
        if records:
            best = standing_for(records, job.view).even
            error = math.nan if best.stderr is None else best.stderr
            tie = (found[i].key, str(best.model))
            standings[i] = _Standing(sign * (best.value or 0.0), error, best.deviations, tie)
    return standings


def _loaded(candidate: Candidate) -> Candidate:
    """A module as a model, so that its head is looked for once; a name stays for later."""
    if isinstance(candidate.model, str):
        return candidate
    try:
        return Candidate(candidate.name, candidate.load())
    except TransferMetricsError:
        return candidate


@dataclass(frozen=True)
class _RacePlan:
    """How many examples each round looks at, and how many may be run through models in all.

    One that is run through a model of twice the mean cost counts as two.
    """

    sizes: tuple[int, ...]  # that a model has seen by the end of each round, increasing to N
    allowed: int
    visits: float = 0.0  # what loading all models takes, in such examples, where the budget has it

    def share(self, passes: float, models: int) -> float:
        """What so many examples are of all that a full ranking takes, both with visits."""
        return (self.visits + passes) / (self.visits + models * self.sizes[-1])

    def cost(self, stage: int) -> int:
        """Examples that one model takes in a round."""
        return self.sizes[stage] - (self.sizes[stage - 1] if stage else 0) + _PROBE

    def beside_visits(self, budget: float, found: Mapping[int, Outcome]) -> _RacePlan:
        """With what all of a full ranking leaves for passes, once all models were visited.

        That is half at least, and what the plan itself takes with networks of the same cost. Where
        visits would take longer than all passes of a full ranking, saving passes saves little time,
        so the plan stays.
        """
        known = [outcome.cost for outcome in found.values() if outcome.cost]
        visits = len(found) * _VISIT * len(known) / sum(known) if known else 0.0
        if visits > len(found) * self.sizes[-1]:
            return self
        least = len(found) * self.cost(0) + sum(map(self.cost, range(1, len(self.sizes))))
        left = max(self.allowed - (1 - budget) * visits, self.allowed / 2, least)
        return replace(self, allowed=min(math.floor(left), self.allowed), visits=visits)

    def fitting(
        self, stage: int, spent: float, costs: Mapping[int, float], best_first: Sequence[int]
    ) -> list[int]:
        """Which of some models may enter a round: the first, and of the others those that fit.

        What is left is shared out among the rounds to come in proportion to the square root of
        their examples, between equal shares, which leave one finalist, and equal places, which
        would not be dropping any; any one of those who enter can go to the end.
        """
        steps = [self.cost(i) for i in range(stage, len(self.sizes))]
        left = self.allowed - spent
        share = left * math.sqrt(steps[0]) / sum(map(math.sqrt, steps))
        chosen = list(best_first[:1])
        for i in best_first[1:]:
            more = [costs[k] for k in (*chosen, i)]
            if sum(more) * steps[0] <= min(share, left - max(more) * sum(steps[1:])):
                chosen.append(i)
        return chosen


def plan_race(models: int, n: int, num_classes: int, budget: float) -> _RacePlan:
    """Rounds of M models on N examples that fit a budget, a share of the M N forward passes.

    The first round takes a quarter of it, but at least forty examples and five per class; each of
    the others sees about twice as many as the one before.

    >>> plan_race(models=100, n=4000, num_classes=10, budget=1 / 3)
    _RacePlan(sizes=(317, 597, 1126, 2122, 4000), allowed=133333, visits=0.0)
    """
    number = isinstance(budget, (int, float)) and not isinstance(budget, bool)
    if not number or not 0 < budget < 1:
        raise InvalidInputError(
            f"budget={budget!r}; use the share of the forward passes that may be spent, such as "
            f"0.3, or None to score every model on all examples"
        )
    least = max(_LEAST, _LEAST_PER_CLASS * num_classes)
    allowed = math.floor(budget * models * n)
    needed = models * (least + _PROBE) + n - least + _PROBE
    if least >= n or needed > models * n:
        raise InvalidInputError(
            f"{models} models on {n} examples are too few to race: a first round takes {least} "
            f"examples, so there is nothing to save; leave out budget="
        )
    if needed > allowed:
        raise InvalidInputError(
            f"budget={budget:g} is too small for {models} models on {n} examples: {least} for each "
            f"and all for one take {math.ceil(1000 * needed / (models * n)) / 1000:g}; raise it, "
            f"or give fewer models or more examples"
        )
    first = min(max(least, int(_FIRST * allowed / models) - _PROBE), n - 1)
    while True:
        for rounds in range(max(1, round(math.log2(n / first))), 0, -1):
            steps = [round(first * (n / first) ** (i / rounds)) for i in range(rounds + 1)]
            plan = _RacePlan(tuple(steps), allowed)
            if models * plan.cost(0) + sum(map(plan.cost, range(1, rounds + 1))) <= allowed:
                return plan
        # Ends at the smallest first round and one more, whose cost is the one checked above.
        first = max(least, first // 2)
