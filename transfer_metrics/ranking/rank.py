"""Ranking many models on one task."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import re
import sys
import time as clock
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any

from transfer_metrics.errors import (
    InvalidInputError,
    TransferMetricsWarning,
    UnknownNameError,
    UnsupportedTaskError,
    warn,
)
from transfer_metrics.features.pooling import resolve_pool
from transfer_metrics.fork_server import fork_server_until_end
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.cache import POLICIES
from transfer_metrics.ranking.engines import chosen_engine, map_reduce
from transfer_metrics.ranking.engines.crew import Crew
from transfer_metrics.ranking.job import Job, features_first
from transfer_metrics.ranking.kept import Kept
from transfer_metrics.ranking.memory_budget import worker_memory
from transfer_metrics.ranking.metric_choice import (
    DEFAULT_METRICS,
    asked_combinations,
    check_metrics,
    combined,
    warn_of_widths,
)
from transfer_metrics.ranking.race import race
from transfer_metrics.ranking.ranges import Ranges, Run, outcomes
from transfer_metrics.ranking.scoring import with_methods
from transfer_metrics.registry import resolve
from transfer_metrics.results.record import Record
from transfer_metrics.results.shortlist import LEARNT
from transfer_metrics.results.standing import earlier_accuracies
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.wording import listed, several
from transfer_metrics.sources.models.candidates import Candidate, candidates_of
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.syntax import seconds_of

_PASS_OPTIONS = ("batch_size", "device", "num_workers", "shard_size", "as_is", "allow_random")
"""Options of ``extract`` that a ranking hands on."""
# Counts and sizes, but not the numbers in names such as resnet18.
_COUNTS = re.compile(r"(?<![\w.-])\d+|(?<==)\d+")


def rank_models(
    models: Any,
    task: Any,
    metrics: Any = DEFAULT_METRICS,
    *,
    layers: Any = "best",
    pool: str = "avg",
    split: str = "train",
    engine: str = "serial",
    workers: int | None = None,
    stream: bool | None = None,
    memory: int | str | None = None,
    cache: str = "only-missing",
    cache_dir: str | os.PathLike[str] | None = None,
    keep_features: bool = False,
    intervals: bool | str = False,
    budget: float | None = None,
    time: float | str | None = None,
    evidence: Any = None,
    prior: Any = None,
    dtype: str = "float32",
    amp: bool = False,
    progress: bool = True,
    **options: Any,
) -> ScoreTable:
    """Score many models on one task; the table's ``ranking`` puts the best first.

    Every model is run over the data once, whatever the number of layers and metrics. A model that
    fails leaves a record with its reason. Finished scores are kept by the content of model and
    task, finished ranges of examples by the same key, so an interrupted run goes on where it
    stopped and a repeated one reads no more of the data than the few examples on which it sees
    that the network is the same.

    Args:
        models: names, patterns such as ``"zoo:*"``, modules, or a list of them; or a mapping from
            what the table is to call each. The second of equal names gets a number.
        task: a task, its name, or arrays, as for ``load_task``.
        metrics: names, patterns, callables or a list; the first one orders the ranking.
        layers: ``"best"`` scores every block and lets the best stand for the model, ``"blocks"``
            ranks all blocks of all models, ``"last"`` uses only the classifier's input (the last
            hidden state of a text model), ``"mean"`` the mean of the hidden layers, which must be
            of one width; anything else is a choice of layers as for ``list_layers``, of which the
            best counts.
        pool: pooling of feature maps and tokens; of the tokens of each word, where a task labels
            words.
        split: split of the task to score on.
        engine: where the work is done: ``"serial"`` in this process, ``"processes"`` in several,
            ``"auto"`` in several where that is faster, as far as there is memory for it,
            ``"ray"`` on a Ray cluster that is started here, ``"ray:<address>"`` on one that runs.
            The scores are the same up to rounding.
        workers: how many processes or actors; one per core unless given.
        stream: True keeps statistics only, no features on disk: each range of examples is read by
            one worker, which keeps the statistics of all layers in memory, and ranges are merged.
            False writes features to the cache and scores them layer by layer, one worker per
            model. By default True, unless features are kept; in this process alone, models whose
            statistics do not fit into memory together are scored from features.
        memory: what weights and statistics of all workers together may take when streaming, such
            as ``"2GiB"``; half of the machine's unless given. Where the statistics of all layers
            take more, the data are passed over once for as many layers as fit, and per-class
            scatter is built for as many classes at a time; scores stay exact.
        cache: ``"only-missing"`` computes what is not there yet, ``"always"`` computes all anew,
            ``"never"`` neither reads nor writes, ``"only-cache"`` computes nothing.
        cache_dir: the cache; by default ``$TRANSFER_METRICS_CACHE`` or the user's cache folder.
        keep_features: keep the features of scored models in the cache, for further metrics.
        intervals: True adds 95 % intervals to the metric that orders the ranking, from twenty
            blocks of examples where its statistics are additive; ``"all"`` to every metric, which
            takes twenty more scores on every layer of each without a derivative; ``"bootstrap"``
            to every metric, by half-samples of the examples where there is no jackknife. ``knn``
            and the probes have errors of their own without it. The probabilities of being the best
            then count errors of sampling too.
        budget: the share of what a full ranking costs, in operations, that may be spent, such as
            0.3: the models race on growing parts of the split, as ``ranking.race`` says, and those
            that fall behind are dropped. The last ones are scored on all examples; the others keep
            the scores of their last round, ``n`` tells on how many examples, stand after them and
            keep the chance to be the best that their round gave them. None scores every model on
            all examples.
        time: seconds, or text such as ``"10m"``, after which the ranking ends with what is known, a
            batch later at most: models that it did not come to have records that say so, and with
            ``budget`` the scores are those of the last round that was finished. One model is
            scored however long that takes, which is told. What was begun is kept, so the same
            ranking goes on from there.
        evidence: what networks of yours reached on tasks of yours, in place of the evidence of the
            package, to know how far scores can be trusted: the file that `benchmark run` wrote,
            and with it the scores that `benchmark build` wrote, or else the pairs are scored like
            this ranking; or an ``ErrorModel``.
        prior: what these models reached on earlier tasks, or one published column such as top-1
            accuracy on ImageNet: a CSV file or data frame with models in rows, by the names that
            the table has, and tasks in columns, or a mapping from model to accuracy. The ranking
            then is by scores and prior together, by how far each can be trusted.
        dtype: precision of stored features, ``"float32"`` or ``"float16"``.
        amp: run the forward pass in mixed precision.
        progress: show progress on stderr.
        **options: ``batch_size``, ``device``, ``num_workers``, ``shard_size``, ``as_is`` and
            ``allow_random`` of ``extract``.

    Returns:
        The table of all scores.

    Raises:
        UnknownNameError: no such metric, task, split, engine, option or pattern of models.
        UnsupportedTaskError: a metric that is not defined for this kind of task; a budget with a
            task that labels words.
        InvalidInputError: a task, evidence or a prior that cannot be used; a budget that is no
            share between 0 and 1 or too small for so many models; a budget with a metric that
            compares candidates.

    Cost: one forward pass over the split per model, plus the metrics of each layer; with a budget
    at most that share of the passes, and loading all models once.

    >>> table = rank_models(["zoo:vit-mnist", "zoo:no-such-net"], "sklearn:digits?examples=100",
    ...                     "knn", layers="last", progress=False)
    >>> table.best(), len(table.failures)
    ('zoo:vit-mnist', 1)
    """
    check_metrics(metrics)
    for name in sorted(options.keys() - set(_PASS_OPTIONS)):
        known = [*inspect.signature(rank_models).parameters, *_PASS_OPTIONS]
        raise UnknownNameError.of("option of rank_models", name, known)
    if evidence is not None:
        # Accuracies without scores get such as this ranking has.
        same = {
            "layers": layers, "pool": pool, "engine": engine, "workers": workers, "stream": stream,
            "memory": memory, "cache": cache, "cache_dir": cache_dir, "dtype": dtype, "amp": amp,
            "progress": progress, **options,
        }  # fmt: skip
        evidence = resolve(LEARNT)(evidence, functools.partial(_of_pairs, metrics, same))
    if prior is not None:
        prior = earlier_accuracies(prior)
    if cache not in POLICIES:
        raise InvalidInputError(f"cache must be one of {POLICIES}, not {cache!r}")
    ends = math.inf if time is None else clock.time() + seconds_of(time)
    candidates = candidates_of(models)
    careful = engine == "auto" and not all(str(c.model).startswith("zoo:") for c in candidates)
    spills = engine in ("auto", "serial") and stream is None and memory is None
    engine = chosen_engine(engine, candidates, workers, options.get("device"))
    resolve_pool(pool)
    stored = features_first(stream, memory, keep_features, budget)
    serial = engine == "serial"
    # What a range of a race takes is little, and a second pass would not be in its budget.
    share = sys.maxsize if budget is not None else worker_memory(memory, 1 if serial else workers)
    task = load_task(task)
    combinations = asked_combinations(metrics, task.kind)
    if budget is not None:
        if any(part.units is not None for part in task.splits.values()):
            raise UnsupportedTaskError(
                f"a race adds single examples; leave out budget=; task {task.name!r} labels the "
                f"words of sentences"
            )
        for one in combinations:
            raise InvalidInputError(
                f"{one.name} compares all candidates on the same examples, and a race drops some; "
                f"leave out budget=, or rank by its terms {', '.join(one.terms)}"
            )
    with contextlib.ExitStack() as stack:
        stack.enter_context(fork_server_until_end())
        policy = cache
        if cache == "never":
            policy = "only-missing"
            cache_dir = stack.enter_context(TemporaryDirectory(prefix="transfer-metrics-"))
        job = Job.of(
            task, metrics, layers=layers, split=split, cache_dir=cache_dir, intervals=intervals,
            options={**options, "progress": progress and serial}, pool=pool, policy=policy,
            stored=stored, spills=spills, keep_features=keep_features, dtype=dtype, amp=amp,
            until=ends, lasting=cache == "only-missing",
        )  # fmt: skip
        # The data are hashed here, once, and the hash goes to the workers with them.
        _ = job.task_id
        # Where they come one after another, no other could be there before the first.
        sure = candidates[0].name if serial and budget is None else ""
        # The other half of what weights and statistics may take is for the rest of the work.
        kept = Kept(worker_memory(None, 1 if serial else workers) // 2 if budget is not None else 0)
        work = Ranges(job, share, uuid.uuid4().hex if cache == "always" else "", sure, kept)
        run = functools.partial(
            map_reduce, engine, workers=workers, device=options.get("device"), careful=careful
        )
        if budget is not None:
            run = functools.partial(run, crew=stack.enter_context(Crew()))
        job.cache.sweep()
        stack.callback(job.cache.sweep)
        # Of metrics that nobody named, what holds of all layers alike is no news at each.
        stack.enter_context(_told_once(whatever_counts=metrics is DEFAULT_METRICS))
        if budget is not None:
            records = race(work, candidates, run, budget, progress)
        else:
            records = _ranked(work, candidates, run, progress)
    if metrics is not DEFAULT_METRICS:
        warn_of_widths(job.metrics[:1], records)
    records = [replace(r, task_summary=task.summary) for r in with_methods(records)]
    specs = {c.name: c.model for c in candidates if isinstance(c.model, str) and c.model != c.name}
    records = [replace(r, spec=specs.get(str(r.model))) for r in records]
    return ScoreTable(combined(records, combinations), job.view).informed(evidence, prior)


def _of_pairs(
    metrics: Any, options: Mapping[str, Any], pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Records of scores of pairs of a model and a task, by names."""
    models: dict[str, list[str]] = {}
    for model, task in pairs:
        models.setdefault(task, []).append(model)
    return [
        {**record, "task": task}
        for task, own in models.items()
        for record in rank_models([Candidate(m, m) for m in own], task, metrics, **options).records
    ]


def _ranked(
    work: Ranges, candidates: Sequence[Candidate], run: Run, progress: bool
) -> list[Record]:
    """Records of all candidates, in their order."""
    total = work.parts * len(candidates)
    with progress_bar("ranges" if work.parts > 1 else "models", total, progress) as bar:
        found = dict(outcomes(work, candidates, run, tick=bar.update))
    work.job.cache.drop({path for outcome in found.values() for path in outcome.left})
    if late := [candidates[place].name for place in sorted(found) if found[place].late]:
        warn(
            f"the time was over before {several(len(late), 'model')} of {len(candidates)}: "
            f"{listed(late, most=20)}; {work.job.with_more_time}"
        )
    return [record for place in range(len(candidates)) for record in found[place].records]


@contextlib.contextmanager
def _told_once(*, whatever_counts: bool) -> Iterator[None]:
    """Tell each of the toolkit's warnings once meanwhile, also if it names other counts.

    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     with _told_once(whatever_counts=True):
    ...         for dim in (8, 16):
    ...             warnings.warn(f"fitted exactly (D={dim})", TransferMetricsWarning)
    >>> [str(warning.message) for warning in told]
    ['fitted exactly (D=8)']
    """
    told: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_new(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, TransferMetricsWarning):
                text = _COUNTS.sub("#", str(message)) if whatever_counts else str(message)
                if text in told:
                    return
                told.add(text)
            show(message, category, *place, **options)

        warnings.showwarning = show_new
        yield
