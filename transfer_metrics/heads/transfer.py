"""From many models and a task to one head that predicts, and why this one."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time as clock
from collections.abc import Mapping, Sequence
from typing import Any

from transfer_metrics.errors import InvalidInputError, check_whole, quiet
from transfer_metrics.files import RESULTS, check_folder
from transfer_metrics.heads.decision import Decision
from transfer_metrics.heads.estimate import FROZEN, MOST, TRAINED
from transfer_metrics.heads.splits import with_test
from transfer_metrics.heads.trials import Trials
from transfer_metrics.progress import OutOfTime, WholeRun, until
from transfer_metrics.ranking import ScoreTable, rank_models
from transfer_metrics.ranking.engines import chosen_engine
from transfer_metrics.ranking.forecast import forecast
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS, check_metrics
from transfer_metrics.ranking.race import plan_race
from transfer_metrics.results.record import NO_TIME
from transfer_metrics.results.shortlist import CONFIDENCE
from transfer_metrics.results.wording import duration, several
from transfer_metrics.sources.models.candidates import Candidate, candidates_of
from transfer_metrics.sources.specs import refuse_among_examples
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.syntax import seconds_of

_REFINED = ("head2toe",)
_SHARES = (0.5, 0.35, 0.25, 0.15, 0.1)
# Of the time that there is, what a ranking may take before it becomes a race.
_FOR_RANKING = 0.5
# … and before it ends with what is known; and of that, what looking ahead may take.
_MOST_FOR_RANKING, _FOR_LOOKING_AHEAD = 0.6, 0.3


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
    several labels) wins, of equals the one whose model is likelier to be the best. Nothing is
    chosen by the test examples, which the winner and the others are compared on. Interrupted and
    called again, it goes on where it stopped.

    Args:
        models: one or several models, as for ``rank_models``.
        task: a task or its name; without a split ``test`` a fifth of its training
            examples is held out for it before any model sees them.
        out: folder for the head, the tables and a page with all of it; see ``Decision.save``.
        metrics: as for ``rank_models``; the first one makes the shortlist.
        finetune: on how many models, the best by validation so far, fine-tuning and LP-FT are
            tried; 0 for none.
        time: seconds, or text such as ``"30m"``, that it should take at most. Where ranking alone
            would take half of that, models race if a few examples can be tried on all of them in
            time, and it ends with the models that are scored when six tenths are over, of which
            there is always one. Then a linear probe of three strengths is fitted on the best model,
            however long it takes, which tells how fast this machine is: another head is begun only
            if by that it and the last fit of the winner would fit into what is left, and stopped
            where they do not; what is left out is listed.
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
        InvalidInputError: data or options that cannot be used, every model or head failed, or
            ``out`` holds other files or is where the examples are.

    Cost: that of the ranking, a forward pass over the data for each shortlisted model and one more
    for the best, whose features are kept, and for each that is fine-tuned about sixty forward and
    backward passes; ``expected_steps`` says how long that is.

    >>> found = transfer(["zoo:cnn-mnist"], "sklearn:digits?examples=200", progress=False)
    >>> found.model, found.accuracy > 0.8, len(found.lines())
    ('zoo:cnn-mnist', True, 5)
    """
    check_metrics(metrics)
    began = clock.perf_counter()
    candidates = candidates_of(models)
    chosen_engine(options.get("engine", "serial"), candidates, options.get("workers"), device)
    check_whole(1, most=most)
    check_whole(0, finetune=finetune)
    loaded = load_task(task)
    if out is not None:
        refuse_among_examples(out, loaded)
        check_folder(out, RESULTS)
    tested = with_test(loaded)
    common = {"cache": cache, "cache_dir": cache_dir, "device": device, "progress": progress}
    limit = math.inf if time is None else seconds_of(time)
    run = Trials(tested, limit, seed, validation, common, began)
    with WholeRun("transfer", progress) as bar:
        bar.expect(2.0)
        with bar.step(f"ranking {several(len(candidates), 'model')}", 1.0):
            table = run.ranking = _ranked(run, candidates, metrics, {**options, **common})
        shortlist = table.shortlist(confidence)
        chosen = [c for name in shortlist for c in candidates if c.name == name]
        if chosen[most:]:
            run.skipped.append(
                f"{', '.join(c.name for c in chosen[most:])} of the shortlist, by the limit of "
                f"{several(most, 'model')}"
            )
        run.order = [c.name for c in chosen]
        weight = 1.0 / (len(chosen[:most]) + 2 + 4 * finetune)
        for candidate in chosen[:most]:
            with bar.step(f"heads on {candidate.name}", weight):
                run.try_heads(candidate, _frozen(table, candidate.name))
        run.refuse_failure()
        by_name = {c.name: c for c in chosen}
        first = run.best()[0][0]
        with bar.step(f"Head2Toe on {first}", weight):
            run.try_heads(by_name[first], _REFINED, "Head2Toe on")
        for name in list(dict.fromkeys(m for m, _ in run.best()))[:finetune]:
            with bar.step(f"fine-tuning {name}", 4 * weight):
                run.try_heads(by_name[name], TRAINED, "fine-tuning of")
        model, label = run.best()[0]
        with bar.step(f"testing {label} on {model}", weight):
            head, state = run.fitted(model, label)
            found = Decision.of(
                run.work.task,
                head,
                model=model,
                label=label,
                ranking=table,
                shortlist=shortlist,
                comparison=run.found,
                skipped=tuple(run.skipped),
                seconds=clock.perf_counter() - run.began,
            )
            if out is not None:
                found.save(out, tested)
            shutil.rmtree(state, ignore_errors=True)
    return found


def _ranked(
    run: Trials, candidates: Sequence[Candidate], metrics: Any, options: Mapping[str, Any]
) -> ScoreTable:
    """The ranking, by a race where there is too little time for all examples."""
    budget = options.get("budget")
    ends = _MOST_FOR_RANKING * run.left
    if budget is None and math.isfinite(run.limit) and len(candidates) > 1:
        seconds = _FOR_LOOKING_AHEAD * ends
        # Where it takes longer, as many are ranked as there is time for.
        with contextlib.suppress(OutOfTime), until(clock.time() + seconds):
            if not _is_kept(run, candidates[-1], metrics, options):
                budget = _race(run, candidates, metrics, options, seconds)
    within = max(ends - run.limit + run.left, 0.1) if math.isfinite(run.limit) else None
    asked = {**options, "budget": budget, "time": within}
    table = rank_models(candidates, run.task, metrics, **asked)
    late = dict.fromkeys(str(r.model) for r in table if r.error == NO_TIME)
    if not any(r.value is not None for r in table):
        first = table.failures[0]
        raise InvalidInputError(f"no model could be ranked: {first['model']}: {first['error']}")
    if late:
        run.skipped.append(f"{', '.join(late)} in the ranking, for which there was no time")
    return table


def _is_kept(run: Trials, last: Candidate, metrics: Any, options: Mapping[str, Any]) -> bool:
    """Whether the cache has the scores of the model that a ranking comes to last.

    Then it mostly has those of all, each of which would have to be loaded to be found.
    """
    if options["cache"] in ("always", "never"):
        return False
    others = ("engine", "workers", "evidence", "prior")
    only = {name: value for name, value in options.items() if name not in others}
    with quiet():
        return not rank_models([last], run.task, metrics, **only | {"cache": "only-cache"}).failures


def _race(
    run: Trials,
    candidates: Sequence[Candidate],
    metrics: Any,
    options: Mapping[str, Any],
    within: float,
) -> float | None:
    """The share of the forward passes that there is time for; None for all of them.

    None too where it would take longer to find out, since a race takes longer than that.
    """
    known = ("pool", "batch_size", "num_workers", "device", "progress")
    few = {name: options[name] for name in known if name in options}
    began = clock.perf_counter()
    found = forecast(candidates[:1], run.task, metrics, **few)
    if len(candidates) * (clock.perf_counter() - began) > within:
        return None
    found += forecast(candidates[1:], run.task, metrics, **few)
    seconds = sum(one.seconds for one in found if not one.error)
    allowed = _FOR_RANKING * run.left
    if seconds <= allowed:
        return None
    for share in _SHARES:
        if share * seconds <= allowed:
            try:
                plan_race(len(candidates), len(run.task["train"]), run.task.num_classes, share)
            except InvalidInputError:
                break
            run.skipped.append(
                f"all but {100 * share:g} % of the ranking's forward passes: models raced, since "
                f"all would take about {duration(seconds)}"
            )
            return share
    return None


def _frozen(table: ScoreTable, model: str) -> tuple[str, ...]:
    """The heads on features, the simplest first."""
    [best] = table.best_layers(model)
    probe, *others = FROZEN
    own = () if best.endswith(":input") else (f"{probe}(layers=[{best!r}])",)
    return (probe, *own, *others)
