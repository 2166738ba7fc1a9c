"""A race of many models: all on a few examples, and only those that can still win on more."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.cache import ResultCache
from transfer_metrics.ranking.contenders import Standing, contenders
from transfer_metrics.ranking.job import Job, Outcome
from transfer_metrics.ranking.plan import plan_race
from transfer_metrics.ranking.subsets import nested_subsets
from transfer_metrics.ranking.works import Whole, outcomes
from transfer_metrics.results.ranks import chosen_records
from transfer_metrics.results.record import record_label
from transfer_metrics.sources.models.candidates import Candidate

# Chance that the race as a whole drops, by the errors of scores, a model whose score is the best.
RISK = 0.05


Run = Callable[..., Iterator[tuple[int, Any]]]
"""``map_reduce`` with an engine that was chosen."""


def race(
    job: Job, candidates: Sequence[Candidate], run: Run, budget: float
) -> list[dict[str, Any]]:
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
    ``intervals="bootstrap"``, by half-samples over common blocks; those without any go by rank
    alone.

    Features of earlier rounds are kept until a model is out, and only those of new examples are
    computed. The scores of each round are cached like those of a full ranking, and those of the
    last round are the same, so an interrupted race goes on where it stopped.

    Args:
        job: the ranking.
        candidates: the models.
        run: the engine.
        budget: share of the forward passes of a full ranking, finding layers included. It is
            counted as if the cache were empty, so that the cache does not change the result.

    Returns:
        Records in the order of the candidates. ``round`` is the round after which a model was
        dropped, None for those that were scored on all examples.

    Raises:
        InvalidInputError: a budget that is no share or too small, see ``plan_race``.

    Cost: at most ``budget`` times the forward passes; each model is loaded once or twice per round,
    and those that are tested are scored twenty more times on one layer. Disk holds the features of
    all models that are still in the race.
    """
    n = len(job.task[job.split])
    plan = plan_race(len(candidates), n, job.task.num_classes, budget)
    subsets = nested_subsets(job.task, job.split, plan.sizes)
    last = len(plan.sizes) - 1
    candidates = [_loaded(candidate) for candidate in candidates]
    found: dict[int, Outcome] = {}
    reached: dict[int, int] = {}
    alive, stage, spent = list(range(len(candidates))), 0, 0
    with _keeping_features(job) as kept:
        while alive:
            of_round = dataclasses.replace(kept, subset=subsets[stage])
            title = f"round {stage + 1} of {last + 1}, {len(subsets[stage])} examples, models left"
            entered = alive
            found.update(_visited(of_round, candidates, entered, run, title))
            reached.update(dict.fromkeys(entered, stage))
            spent += len(entered) * plan.cost(stage)
            alive = []
            if stage < last:
                level = RISK / (len(candidates) * last)
                places = plan.places(stage + 1, spent)
                alive = _survivors(of_round, candidates, found, entered, places, level, run)
            if not job.keep_features and job.policy != "only-cache":
                _drop_features(kept.cache, found, entered, alive)
            # The last one left has nobody to be compared with on the way.
            skipped = range(stage + 1, last) if len(alive) == 1 else range(0)
            spent += sum(map(plan.cost, skipped))
            stage += 1 + len(skipped)
    rounds = [None if reached[i] == last else reached[i] + 1 for i in range(len(candidates))]
    return [{**r, "round": rounds[i]} for i in range(len(candidates)) for r in found[i].records]


def _visited(
    job: Job, candidates: Sequence[Candidate], chosen: Sequence[int], run: Run, title: str
) -> dict[int, Outcome]:
    """Outcomes of some of the candidates, by their places."""
    found = {}
    with progress_bar(title, len(chosen), job.options["progress"]) as bar:
        models = [candidates[i] for i in chosen]
        running = run(Whole(job), models, [1] * len(models), tick=bar.update)
        for place, outcome in outcomes(job, models, running):
            found[chosen[place]] = outcome
    return found


def _survivors(
    job: Job,
    candidates: Sequence[Candidate],
    found: dict[int, Outcome],
    entered: Sequence[int],
    places: int,
    level: float,
    run: Run,
) -> list[int]:
    """Who goes on: those of highest rank that can still win; ``found`` gets the errors of those."""
    standings = _standings(job, found, entered)
    alive = sorted(standings, key=lambda i: (-standings[i].score, standings[i].tie))[:places]
    if len(alive) > 1 and job.mode is None and job.metrics[0].requires != "examples":
        # Twenty more scores, for those only whom they can still drop. What the first visit left is
        # read, also where the user wants all anew.
        policy = "only-missing" if job.policy == "always" else job.policy
        job = dataclasses.replace(job, errors=True, policy=policy)
        found.update(_visited(job, candidates, alive, run, "errors of scores, models"))
    standings = _standings(job, found, alive)
    left = list(standings)
    return sorted(left[k] for k in contenders(list(standings.values()), level))


def _drop_features(
    cache: ResultCache, found: Mapping[int, Outcome], entered: Iterable[int], alive: Iterable[int]
) -> None:
    """Remove the features of models that are out, unless one still in has the same."""
    needed = {key for i in alive for key in found[i].features}
    for key in {key for i in entered for key in found[i].features} - needed:
        cache.drop_features(key)


def _standings(
    job: Job, found: Mapping[int, Outcome], chosen: Iterable[int]
) -> dict[int, Standing]:
    """How those of the models stand that have a score."""
    label = job.metrics[0].label
    sign = 1.0 if job.metrics[0].higher_is_better else -1.0
    standings = {}
    for i in chosen:
        records = [r for r in found[i].records if record_label(r) == label and not r.get("error")]
        if records:
            [best] = chosen_records(records, "best" if job.view == "all" else job.view)
            error = math.nan if best.get("stderr") is None else best["stderr"]
            tie = (*found[i].features, str(best["model"]))
            standings[i] = Standing(sign * best["value"], error, best.get("deviations"), tie)
    return standings


@contextmanager
def _keeping_features(job: Job) -> Iterator[Job]:
    """The job with its features kept from round to round; without a cache, in a folder for now."""
    job = dataclasses.replace(job, keep_features=True)
    if job.policy != "never":
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="transfer-metrics-") as folder:
        yield dataclasses.replace(job, cache=ResultCache(folder), policy="only-missing")


def _loaded(candidate: Candidate) -> Candidate:
    """A module as a model, so that its head is looked for once; a name stays for later."""
    if isinstance(candidate.model, str):
        return candidate
    try:
        return Candidate(candidate.name, candidate.load())
    except TransferMetricsError:
        return candidate
