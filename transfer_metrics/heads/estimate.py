"""About how long a transfer or a comparison takes, before it is run and while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.linear import LINEAR_C
from transfer_metrics.heads.splits import with_test
from transfer_metrics.heads.training import rungs
from transfer_metrics.ranking import ScoreTable
from transfer_metrics.ranking.forecast import Forecast, forecast
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS, check_metrics
from transfer_metrics.results.wording import several
from transfer_metrics.sources.models.candidates import candidates_of
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.task import Task

MOST = 5
"""The most models of a shortlist that heads are fitted on."""
_EPOCHS, _HALVING, _RATES = 12, 3, 6
TRAINED = tuple(
    f"{head}(epochs={_EPOCHS}, halving={_HALVING}, lr='wide')" for head in ("finetune", "lpft")
)
"""The heads that train the network."""
FROZEN = ("linear_probe", "head2toe(keep=0.5, layers='blocks')")
"""The heads on features that every model of a shortlist gets."""
# Operations a second of fits on features, and what a head takes beside them; for estimates.
_SPEED, _BESIDE = 1e10, 0.3
# Iterations of a probe for each strength, and what one takes beside its operations.
_ITERATIONS, _ITERATION = 50, 1e-4
# Features that Head2Toe reads of a layer, and layers that it reads for each block without `blocks`.
_WIDTH, _ACTIVATIONS = 512, 2
# Forward passes that a step of training takes as long as; fits of a search over a grid with folds.
_STEP, _CROSS_VALIDATED = 3.2, 20


def expected_steps(
    models: Any,
    task: Any,
    metrics: Any = DEFAULT_METRICS,
    *,
    finetune: int = 0,
    most: int = MOST,
    progress: bool = True,
    **options: Any,
) -> tuple[list[tuple[str, float]], list[Forecast]]:
    """What a transfer would take, step by step in seconds, and what would fail.

    Which models will be on the shortlist is not known yet, so its steps are those of models of
    middling cost, as many as there may be. It takes a forward pass of 68 examples per model.
    """
    tested, found, good = _forecast(models, task, metrics, progress=progress, **options)
    if not good:
        return [], found
    ranking = sum(one.seconds for one in good)
    mean, count = ranking / len(good) / len(tested["train"]), min(most, len(good))
    widths = [max(one.dims[1] for one in good)] * max(one.layers for one in good)
    probe, blocks, refined = (
        _fit_seconds(resolve_head(head), tested, widths) for head in (*FROZEN, "head2toe")
    )
    reading = mean * _examples(tested)
    training = sum(_train_seconds(resolve_head(head), mean, tested) for head in TRAINED)
    three = f"three heads on each of at most {several(count, 'model')}"
    steps = [
        (f"ranking {several(len(good), 'model')}", ranking),
        (three, count * (2 * probe + blocks + reading)),
        ("Head2Toe on all activations of the best", refined + reading),
    ]
    if finetune:
        text = f"fine-tuning and LP-FT of at most {several(min(finetune, count), 'model')}"
        steps.append((text, min(finetune, count) * training))
    last = training / (3 * len(TRAINED)) if finetune else refined
    return [*steps, ("the winner once more, tested and written", last)], found


def expected_fits(
    models: Any,
    task: Any,
    heads: Sequence[Head],
    seeds: int,
    *,
    metrics: Any = None,
    quick: bool = False,
    progress: bool = True,
    **options: Any,
) -> tuple[list[tuple[str, float]], list[Forecast]]:
    """What a comparison would take, head by head, and what would fail; see ``expected_steps``.

    What the cache has does not count.
    """
    asked = DEFAULT_METRICS if metrics is None else metrics
    tested, found, good = _forecast(models, task, asked, progress=progress, **options)
    if not good:
        return [], found
    steps, ranking = [], sum(one.seconds for one in good)
    if metrics is not None or (quick and len(good) > 1):
        steps.append((f"ranking {several(len(good), 'model')}", ranking))
    count = min(MOST, len(good)) if quick else len(good)
    most = "at most " if count < len(good) else ""
    if not all(head.trains for head in heads):
        mean = ranking / len(good) / len(tested["train"])
        told = f"features that heads share, of {most}{several(count, 'model')}"
        steps.append((told, count * mean * _examples(tested)))
    for head in heads:
        runs = seeds if head.random else 1
        each = [_head_seconds(head, one, tested) for one in good]
        told = f"{head.label}: {several(runs, 'fit')} on {most}{several(count, 'model')}"
        steps.append((told, runs * count * sum(each) / len(each)))
    return steps, found


def _forecast(
    models: Any, task: Any, metrics: Any, **options: Any
) -> tuple[Task, list[Forecast], list[Forecast]]:
    """The task with a test split, what ranking it would take, and that of models that would do."""
    check_metrics(metrics)
    models = candidates_of(models)
    tested = with_test(load_task(task))
    found = forecast(models, tested, metrics, **options)
    return tested, found, [one for one in found if not one.error]


def _head_seconds(head: Head, model: Forecast, task: Task) -> float:
    """About how long one fit of a head takes, of one that trains the network with its tests."""
    each = model.seconds / len(task["train"])
    if not head.trains:
        return _fit_seconds(head, task, [model.dims[1]] * model.layers)
    # Distortion takes two more passes over the examples for testing.
    return _train_seconds(head, each, task) + each * 4 * len(task["test"])


def _epochs(rates: int, epochs: int, halving: int | None) -> int:
    """Epochs of all trainings of a choice of rates."""
    if halving is None:
        return rates * epochs
    steps = rungs(rates, epochs, halving)
    counts = [rates, *(most for _, most in steps[:-1])]
    ends = [0, *(end for end, _ in steps)]
    return sum(n * (b - a) for n, a, b in zip(counts, ends[:-1], ends[1:], strict=True))


def expected_seconds(table: ScoreTable, model: str, task: Task, head: Head) -> tuple[float, float]:
    """About how long a head takes on a model that was ranked: to read its features, and to fit it.

    One that trains the network reads none.
    """
    of_model = [r for r in table if r.model == model]
    known = [r for r in of_model if r.extract_seconds is not None]
    n = len(task["train"])
    forward = max(((r.extract_seconds or 0.0) / (r.n or n) for r in known), default=0.0)
    if head.trains:
        return 0.0, _train_seconds(head, forward, task)
    widths = {str(r.layer): r.dim or _WIDTH for r in of_model}
    return forward * _examples(task), _fit_seconds(head, task, list(widths.values()))


def _train_seconds(head: Head, each: float, task: Task) -> float:
    """About how long a head takes that trains, of so many seconds for a forward pass."""
    settings = head.get_params(deep=False)
    rates = _RATES if isinstance(settings["lr"], str) else np.size(settings["lr"])
    rates *= np.size(settings["weight_decay"])
    epochs = _epochs(rates, settings["epochs"], settings["halving"])
    return _STEP * epochs * each * len(task["train"])


def _fit_seconds(head: Head, task: Task, widths: Sequence[int]) -> float:
    """About how long a head on features takes, with blocks of such widths."""
    settings = head.get_params(deep=False)
    tries, outputs = 1, max(task.num_classes, 1)
    if "cv" in settings:
        tries, settings = _CROSS_VALIDATED, resolve_head("head2toe").get_params(deep=False)
    width, blocks = max(widths, default=_WIDTH), max(len(widths), 1)
    if "steps" in settings:
        layers = blocks if settings["layers"] == "blocks" else _ACTIVATIONS * blocks
        read = settings["steps"] * settings["batch_size"]
        operations = 6 * read * layers * _WIDTH * (1 + settings["keep"]) * outputs
        return tries * (_BESIDE + operations / _SPEED)
    # Of other heads as of a probe, which reads one layer.
    iterations = _ITERATIONS * len(settings.get("C_grid", LINEAR_C))
    operations = 4 * len(task["train"]) * width * outputs
    return _BESIDE + iterations * (_ITERATION + operations / _SPEED)


def _examples(task: Task) -> int:
    return sum(len(task[name]) for name in ("train", "test"))
