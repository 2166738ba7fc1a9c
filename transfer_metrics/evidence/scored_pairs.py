"""Every metric on every pair of a ground truth: its score, its cost, and what few data do to it."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from transfer_metrics.errors import InvalidInputError, TransferMetricsError, quiet
from transfer_metrics.evidence.ground_truth import append_lines, read_lines
from transfer_metrics.features.extract import extract
from transfer_metrics.features.layers import Layer, list_layers
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.heads.splits import complete_task
from transfer_metrics.metrics.base import Metric
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.metric_choice import resolve_metrics
from transfer_metrics.ranking.score import score
from transfer_metrics.results.record import Record
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.sources.tasks.subtasks import nested_order
from transfer_metrics.sources.tasks.task import Task

SIZES = (100, 200, 500, 1000)
_METRICS = ("*", "transrate(eps=auto)")
"""All that are registered, and what repairs the one that grows with the width."""
_AT_LAST_ONLY = ("linear_probe", "nleep", "pactran_gaussian")
"""Too slow for every block; the blocks have a probe on test data beside their scores."""
_BLOCKS = 6
"""How many blocks are scored and probed, evenly spaced, the last one among them."""
REPAIRS = ("projected", "unit rows", "less permuted")
"""What might take the width out of a score: principal components, as many for all; rows of unit
length; and the score of shuffled labels subtracted."""
COMPONENTS = 32
IDENTITY = ("model", "task", "layer", "metric", "options", "n", "split", "repair")
_STRENGTHS = tuple(10.0**power for power in range(-5, 3))
"""Inverse strengths of the blocks' probes."""
_SEED = 0


def measure(
    pairs: Sequence[tuple[str, str]],
    out: str | os.PathLike[str],
    *,
    metrics: Any = _METRICS,
    sizes: Sequence[int] = SIZES,
    repairs: Sequence[str] = REPAIRS,
    blocks: int = _BLOCKS,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Score every pair of a model and a task, and probe its layers.

    For each pair, from one pass over the task's training examples and one over its test examples:

    - every metric on the classifier's input, each on its own, so that ``seconds`` is what it takes
      alone;
    - the same metrics on parts of ``sizes`` examples, each of which contains the one before, and
      on all of them after each of the ``repairs``;
    - every metric, but the slowest, on so many ``blocks`` from the first to the last;
    - of these blocks the test accuracy of a linear probe (metric ``accuracy``, split ``test``).

    Pairs are appended to a file of JSON lines as they are finished; what is there is not computed
    again, and of a pair that is there metrics that it lacks are added, unless they read the source
    head. A pair that failed leaves its reason and is tried again. Returned are the records of all
    these pairs. Cost: a third of a minute per pair for 1000 examples.
    """
    path = Path(out)
    if not pairs:
        raise InvalidInputError(
            "no pairs of a model and a task to score; give files that `benchmark run` wrote"
        )
    done = _finished(path)
    named = {pair: _missing(metrics, done[pair]) if pair in done else metrics for pair in pairs}
    missing = [pair for pair, of_pair in named.items() if of_pair]
    tasks: dict[str, Task] = {}
    with progress_bar("pairs", len(missing), progress) as bar:
        for model, task in missing:
            try:
                if task not in tasks:
                    tasks[task] = tested(task)
                new = (model, task) not in done
                asked = named[model, task]
                records = list(_of_pair(model, tasks[task], asked, sizes, repairs, blocks, new))
            except TransferMetricsError as error:
                records = [{**dict.fromkeys(IDENTITY), "metric": "", "error": str(error)}]
            append_lines(path, ({**r, "model": model, "task": task} for r in records))
            bar.update()
    return [r for r in read_lines(path, IDENTITY) if (r["model"], r["task"]) in named]


def _finished(path: Path) -> dict[tuple[str, str], set[str]]:
    """Labels of the metrics of which a file has the scores, for each pair that it has."""
    found: dict[tuple[str, str], set[str]] = {}
    for r in read_lines(path, IDENTITY) if path.exists() else ():
        if r["metric"]:
            found.setdefault((r["model"], r["task"]), set()).add(Record.of(r).label)
    return found


def _missing(metrics: Any, found: Collection[str]) -> list[Metric]:
    """Those of the metrics that a pair lacks and that every network has."""
    asked = resolve_metrics(metrics, "classification")
    return [m for m in asked if m.label not in found and m.requires != "source"]


def tested(task: str) -> Task:
    """A task with a test split, a fifth of its training examples where it has none of its own."""
    loaded = load_task(task)
    return loaded if "test" in loaded.splits else complete_task(loaded)


def _spaced(layers: Sequence[Layer], most: int) -> list[Layer]:
    """Some of the layers, evenly spaced, the last and, of two or more, the first among them.

    >>> _spaced(list("abcdefghi"), 4), _spaced(list("abc"), 1)
    (['a', 'd', 'f', 'i'], ['c'])
    """
    positions = np.linspace(len(layers) - 1, 0, min(most, len(layers)))[::-1]
    return [layers[round(float(position))] for position in positions]


def _of_pair(
    model: str,
    task: Task,
    metrics: Any,
    sizes: Sequence[int],
    repairs: Sequence[str],
    blocks: int,
    probed: bool,
) -> Iterator[dict[str, Any]]:
    loaded = load_model(model)
    example = loaded.batch([task["train"].examples[row] for row in (0, 1)])
    layers = _spaced(list_layers(loaded, "blocks", example=example), blocks)
    train = extract(loaded, task, layers=layers, split="train", progress=False)
    with quiet():
        # What scores warn of is in the page of the metrics; here it would come in thousands.
        yield from _at_last(train, resolve_metrics(metrics, task.kind), sizes, repairs)
        if probed:
            test = extract(loaded, task, layers=layers, split="test", progress=False)
            for layer in train.layers:
                yield _probed(train, test, layer)


def _at_last(
    store: FeatureStore, metrics: Sequence[Metric], sizes: Sequence[int], repairs: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Scores on the classifier's input, of all examples and of parts; and on the other blocks."""
    logits = store.source_logits
    source = None if logits is None else softmax(logits.astype(np.float64), axis=1)
    usable = [m for m in metrics if m.requires != "source" or source is not None]
    *blocks, last = store.layers
    order = nested_order(store.labels, store.num_classes)
    features = store[last.name]
    for metric in usable:
        yield from _scored(store, last, features, [metric], source=source)
    quick = [m for m in usable if m.name != "linear_probe"]
    for size in sizes:
        if size < len(store):
            yield from _scored(store, last, features, quick, rows=order[:size], source=source)
    everywhere = [m for m in usable if m.requires != "source" and m.name not in _AT_LAST_ONLY]
    for repair in repairs:
        yield from _repaired(store, last, features, everywhere, repair)
    for layer in blocks:
        yield from _scored(store, layer, store[layer.name], everywhere)


def _scored(
    store: FeatureStore,
    layer: Layer,
    features: np.ndarray,
    metrics: Sequence[Metric],
    *,
    rows: np.ndarray | slice = slice(None),
    source: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Records of some metrics on some examples of one layer; reasons in place of failed scores."""
    labels = (store.labels if labels is None else labels)[rows]
    read_head = source is not None and any(m.requires == "source" for m in metrics)
    base = _base(layer, "train", len(labels)) | {"extract_seconds": store.seconds}
    started = time.perf_counter()
    try:
        table = score(
            features[rows],
            labels,
            list(metrics),
            source=source[rows] if source is not None and read_head else None,
        )
    except TransferMetricsError as error:
        failed = {"value": None, "seconds": None, "error": str(error)}
        names = (metric.label.removesuffix(")").partition("(") for metric in metrics)
        return [{**base, "metric": m, "options": o or None, **failed} for m, _, o in names]
    taken = time.perf_counter() - started
    kept = ("metric", "options", "value", "error", "seconds", "higher_is_better")
    records = [{**base, **{k: r[k] for k in kept}} for r in table.records]
    # Alone, a metric also pays for looking at its input.
    return [{**r, "seconds": taken} for r in records] if len(records) == 1 else records


def _probed(train: FeatureStore, test: FeatureStore, layer: Layer) -> dict[str, Any]:
    started = time.perf_counter()
    probe = LinearProbe(C_grid=_STRENGTHS).fit(train[layer.name], train.labels)
    value = float(probe.score(test[layer.name], test.labels))
    found = {"metric": "accuracy", "options": None, "value": value, "error": None}
    return {**_base(layer, "test", len(test)), **found, "seconds": time.perf_counter() - started}


def _base(layer: Layer, split: str, n: int) -> dict[str, Any]:
    """What is said of every score of a layer."""
    place = {"layer": layer.name, "layer_index": layer.index, "depth": layer.depth}
    place |= {"dim": layer.dim, "split": split, "n": n}
    return {**place, "higher_is_better": True, "repair": None}


def _principal(features: np.ndarray, components: int = COMPONENTS) -> np.ndarray:
    """Coordinates along the leading principal components, (N, min(N, D, components))."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    return left[:, :components] * singular[:components]


def _repaired(
    store: FeatureStore, layer: Layer, features: np.ndarray, metrics: Sequence[Metric], repair: str
) -> Iterator[dict[str, Any]]:
    if repair == "projected":
        features = _principal(features)
    elif repair == "unit rows":
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.where(lengths > 0, lengths, 1)
    scored = _scored(store, layer, features, metrics)
    if repair == "less permuted":
        shuffled = np.random.default_rng(_SEED).permutation(store.labels)
        chance = _scored(store, layer, features, metrics, labels=shuffled)
        scored = [
            r if r["error"] or c["error"] else {**r, "value": r["value"] - c["value"]}
            for r, c in zip(scored, chance, strict=True)
        ]
    yield from ({**r, "repair": repair} for r in scored)
