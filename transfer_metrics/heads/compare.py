"""Heads against each other, in and out of distribution, with what they cost."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transfer_metrics.errors import InvalidInputError, TransferMetricsError
from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.estimate import MOST, TRAINED
from transfer_metrics.heads.fits import Fits
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.heads.splits import check_shifted, complete_task, shifted_splits
from transfer_metrics.naming import short_id
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking import ScoreTable, rank_models
from transfer_metrics.ranking.cache import POLICIES, ResultCache
from transfer_metrics.ranking.engines import ENGINES, map_reduce
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS, check_metrics
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.sources.models.candidates import candidates_of
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.syntax import seconds_of, split_list

DEFAULT_HEADS = ("linear_probe", "head2toe", "finetune", "lpft")
_SEEDS = 3
_FEW_RATES = ("linear_probe", "head2toe", *TRAINED)


def compare(
    models: Any,
    task: Any,
    heads: Any = DEFAULT_HEADS,
    *,
    ood: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] | None = None,
    quick: bool = False,
    time: float | str | None = None,
    engine: str = "serial",
    workers: int | None = None,
    validation: float = 0.2,
    metrics: Any = None,
    distortions: bool = True,
    cache: str = "only-missing",
    cache_dir: str | os.PathLike[str] | None = None,
    device: Any = None,
    progress: bool = True,
) -> Comparison:
    """Fit heads on models and a task, and test them in and out of distribution.

    All heads of a seed see the same training and validation examples, and none sees test or
    shifted data while it is fitted. No head is fitted to those for validation: a ``LinearProbe`` on
    its own takes them in once they have chosen C (``refit=True``), and here it does not. A task
    without a split ``test`` gives a fifth of its training examples for it. Finished fits are kept
    by the content of model, task and head, and training goes on from its last checkpoint, so an
    interrupted comparison can be run again.

    Args:
        models: one or several models, as for ``rank_models``.
        task: a task or its name.
        heads: names with options (``"lpft(epochs=5)"``), heads, or a list of them.
        ood: shifted data by name: a task or its name with classes of the same names, or with as
            many targets or labels, a ``Split``, or ``"corrupted:blur:3"``; by default the task's
            split ``ood`` if it has one.
        seeds: how many, or which; by default three. A head that chance has no part in is fitted
            once.
        quick: only the models of the shortlist of a ranking, at most five; learning rates that are
            dropped early and twelve epochs, where no heads are named; one seed, where none is;
            and no distortions.
        time: seconds, or text such as ``"30m"``, after which the comparison ends with the fits that
            are finished; the others have records that say so. What they had learnt is kept.
        engine: where fits run, as for ``rank_models``; each is a piece of work of its own.
        workers: how many processes or actors.
        validation: share of the training examples for validation, where there is no split ``val``.
        metrics: scores to check as well: every block of every model is scored by them, and a
            linear probe is fitted on the best block under the first.
        distortions: also measure how far training has moved the features, which takes two forward
            passes over each test set.
        cache: as for ``rank_models``.
        cache_dir: as for ``rank_models``.
        device: where networks run.
        progress: show progress on stderr.

    Returns:
        A ``ScoreTable`` with a record per model, head, seed and measurement: ``accuracy`` on
        ``test`` and on each shifted set; their mean ``ood_accuracy``, and ``ood_gap``, accuracy in
        distribution less that; ``balanced_accuracy`` on ``test``, the mean over classes, where the
        largest class has three times the examples of the smallest; ``val_accuracy`` on the examples
        for validation, with what was chosen by them as a note; ``distortion`` and
        ``relative_distortion`` of the features, where the network was trained; ``fit_seconds`` with
        every search and each pass over the data; ``train_flops`` of the final training and
        ``stored_bytes`` for the task, by Head2Toe's cost model. Of a regression it is ``r2`` in
        place of ``accuracy``, and of several labels ``average_precision``; see
        ``objective.quality``. ``summary()`` has one row per model and head.

    Raises:
        UnknownNameError: no such head, model, task or corruption.
        InvalidInputError: data that cannot be used.

    Cost: that of the fits; see the heads. Heads on features of one model share a forward pass over
    each split (per process or actor), whose features are kept in memory up to 2 GiB, and beyond it
    in the folder of the cache until the model is done.

    >>> table = compare("zoo:mixer-usps", "sklearn:digits?examples=300",
    ...                 "linear_probe(C_grid=(0.01, 1.0))", cache="never", progress=False)
    >>> bool(table.summary()["test"].iloc[0] > 0.8)
    True
    """
    if cache not in POLICIES:
        raise InvalidInputError(f"cache must be one of {POLICIES}, not {cache!r}")
    ends = math.inf if time is None else clock.time() + seconds_of(time)
    ENGINES[engine.partition(":")[0]]
    if metrics is not None:
        check_metrics(metrics)
    check_shifted(ood)
    candidates = candidates_of(models)
    asked, chosen = asked_fits(heads, seeds, quick)
    loaded = load_task(task)
    complete = complete_task(loaded, validation=validation)
    work = Fits(
        complete,
        short_id(loaded["train"].fingerprint),
        asked,
        chosen,
        ResultCache(cache_dir),
        cache,
        shifted_splits(replace(loaded, splits={**loaded.splits, **complete.splits}), ood),
        device=device,
        progress=progress and engine == "serial",
        distortions=distortions and not quick,
        until=ends,
    )
    records: list[Record] = []
    if metrics is not None or (quick and len(candidates) > 1):
        scores = rank_models(
            candidates,
            work.task,
            DEFAULT_METRICS if metrics is None else metrics,
            cache=cache,
            cache_dir=cache_dir,
            device=device,
            engine=engine,
            workers=workers,
            time=None if time is None else max(ends - clock.time(), 1.0),
            progress=progress,
        )
        if quick and (shortlist := scores.shortlist()[:MOST]):
            candidates = [one for one in candidates if one.name in shortlist]
        if metrics is not None:
            # The task is the same, though examples may have been held out from it.
            records += [replace(Record.of(r), task_id=work.task_id) for r in scores.records]
            favourites = {c.name: _favourites(c.name, scores) for c in candidates}
            work = replace(work, favourites=favourites)
    parts = [len(work.cells(candidate.name)) for candidate in candidates]
    found: dict[int, list[Record]] = {}
    with (
        progress_bar("fits", sum(parts), progress) as bar,
        contextlib.closing(
            map_reduce(  # type: ignore[type-var]
                engine, work, candidates, parts, workers=workers,
                device=device, tick=bar.update,
            )
        ) as running,
    ):  # fmt: skip
        for place, result in running:
            if isinstance(result, TransferMetricsError):
                raise result
            found[place] = result if isinstance(result, list) else work.lost(candidates[place])
    records += [record for place in range(len(candidates)) for record in found[place]]
    return Comparison(replace(record, task_summary=loaded.summary) for record in records)


def asked_fits(
    heads: Any = DEFAULT_HEADS, seeds: int | Sequence[int] | None = None, quick: bool = False
) -> tuple[list[Head], list[int]]:
    """The heads and the seeds of a comparison; arguments as for that."""
    if quick and heads == DEFAULT_HEADS:
        heads = _FEW_RATES
    if seeds is None:
        seeds = 1 if quick else _SEEDS
    given = [heads] if isinstance(heads, (str, Head)) or inspect.isclass(heads) else list(heads)
    asked = [
        resolve_head(part)
        for item in given
        for part in (split_list(item) if isinstance(item, str) else [item])
    ]
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen or not asked:
        raise InvalidInputError("nothing to compare; name at least one head and one seed")
    return asked, chosen


def _favourites(model: str, scores: ScoreTable) -> list[tuple[str, Head]]:
    """A linear probe on the layer of the model that the first metric puts first."""
    if not scores.metrics:
        return []
    ranking = scores.ranking(scores.metrics[0], view="best")
    found = ranking[(ranking["model"] == model) & ranking["score"].notna()]
    if found.empty:
        return []
    layer = str(found["layer"].iloc[0])
    return [(f"linear_probe@{scores.metrics[0]}", LinearProbe(layers=[layer]))]
