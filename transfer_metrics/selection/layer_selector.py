"""Which layers to transfer: the best ones, the best set, or how many blocks to drop."""

from __future__ import annotations

import functools
import itertools
import math
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError, check_whole, warn
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.metrics.base import Estimate, Metric
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.metric_choice import (
    asked_combinations,
    check_metrics,
    combined,
    resolve_metrics,
    warn_of_widths,
)
from transfer_metrics.ranking.scoring import (
    ClassScatter,
    bases_of,
    late_classes,
    records_of,
    unscored,
    valued,
)
from transfer_metrics.results.record import Record
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.selection.base import ColumnSelector
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.statistics import FeatureSample
from transfer_metrics.statistics.sample import DEFAULT_LIMIT
from transfer_metrics.statistics.statistics import Labels, Needs, Statistics, build_statistic

_MODES = ("best", "forward", "drop_last")
_PUBLISHED = "transrate(preset=centred)"
_ROWS_AT_ONCE = 4096


class LayerSelector(ColumnSelector):
    """Layers chosen by a metric, as a scikit-learn transformer.

    ``"best"`` takes the ``k`` layers that score best on their own. ``"forward"`` grows a set:
    at each step the layer whose addition gives the concatenation the best score, until none
    improves it. ``"drop_last"`` is the protocol behind TransRate's published layer selection:
    candidate j is the network without its last j residual blocks, read by global average pooling,
    and each is scored on its own. (The ground truth there is the test accuracy of the whole network
    fine-tuned, with the dropped blocks and the head *initialised anew*.) With the bare metric
    ``"transrate"`` this mode uses the pipeline of those experiments, ``transrate(preset=centred)``:
    unit rows before and after centring, unit trace, frequency weights, division by the rank, at
    ε = 1e-4 (they chose it per experiment). Write ``"transrate(eps=1e-4)"`` for the listing.

    Args:
        metric: a registered metric of features, by name, with options or as a callable.
        mode: ``"best"``, ``"forward"`` or ``"drop_last"``.
        k: the most layers; None is one in mode ``"best"`` and no bound in ``"forward"``. Not for
            ``"drop_last"``, which chooses one.
        max_dim: the most columns in all; layers that do not fit are passed over.
        normalise: ``"unit"`` divides each layer's rows by their length, before scoring and in
            ``transform``, so that no layer outweighs another; None leaves them. ``"auto"`` is
            ``"unit"`` for ``"forward"`` and None where layers are scored alone.
        tol: how much a layer must improve the score to be added in mode ``"forward"``.
        max_drop: the most blocks that are dropped; None stays within the last two stages (runs of
            layers of one width), as the published candidates do.
        max_examples: score on a random sample of at most this many examples.
        max_bytes: the most memory for the joint statistic of mode ``"forward"``.
        layer_sizes: how many of an array's columns each layer has; an array is one layer
            otherwise.
        random_state: seed of that sample.
        progress: whether to show a bar.

    Attributes:
        layers_: names of the chosen layers: from the best down, or in the order they were added.
        columns_: their columns, numbered over all layers, (k,), in the order of ``transform``.
        layer_counts_: columns per chosen layer.
        score_: score of the best layer, or of the chosen set.
        scores_: a ``ScoreTable`` of all that was tried; sets are named with ``+`` between layers.
        metric_: the metric with its options, as it was used.
        dropped_: in mode ``"drop_last"``, how many blocks the chosen candidate leaves out.

    Raises:
        InvalidInputError: an option that does not exist, a metric of the source head, no layer
            within ``max_dim`` or no score at all, or a joint statistic that does not fit.
        UnsupportedTaskError: a metric that is not defined for this kind of task.

    Warns:
        TransferMetricsWarning: the metric grows with the number of features, as the bare
            TransRate does, so that it prefers wide layers. ``eps=auto`` cures that for layers, but
            not for sets, where the error of a class's log determinant grows with the square of the
            columns: divide by the rank, ``transrate(eps=auto,dim_normalize=rank)``, or take a score
            that is cross-validated or penalised, such as ``linear_probe`` or ``logme``.

    Source: Huang et al. (2022) and the authors' code for ``"drop_last"``. Forward selection by a
    transferability metric is an extension of ours.

    Cost: with L layers of D features in all, ``"best"`` and ``"drop_last"`` cost the scores of
    the layers and hold one at a time. ``"forward"`` builds the joint statistic in one pass,
    O(N D min(N, D)) time and O(D min(N, D)) memory (``Σ_c min(n_c, D) D`` more for metrics that
    read each class's scatter), then at most L scores per step, each O(C d³) of width d.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> layers = {"sepal": X[:, :2], "petal": X[:, 2:]}
    >>> LayerSelector("h_score").fit(layers, y).layers_
    ['petal']
    >>> LayerSelector("h_score", mode="forward").fit_transform(layers, y).shape
    (150, 4)
    """

    def __init__(
        self,
        metric: Any = "transrate",
        *,
        mode: str = "best",
        k: int | None = None,
        max_dim: int | None = None,
        normalise: str | None = "auto",
        tol: float = 0.0,
        max_drop: int | None = None,
        max_examples: int | None = None,
        max_bytes: int = 4 << 30,
        layer_sizes: Sequence[int] | None = None,
        random_state: int = 0,
        progress: bool = False,
    ) -> None:
        self.metric, self.mode, self.k, self.max_dim = metric, mode, k, max_dim
        self.normalise, self.tol, self.max_drop = normalise, tol, max_drop
        self.max_examples, self.max_bytes = max_examples, max_bytes
        self.layer_sizes, self.random_state = layer_sizes, random_state
        self.progress = progress

    def fit(self, X: Any, y: Any = None, *, kind: str | None = None) -> Self:
        """Choose layers.

        Args:
            X: a ``FeatureStore``, a mapping from layer to (N, D), or an array (N, D).
            y: labels (N,), or floating point targets where the metric allows; those of the store
                by default.
            kind: of labels in arrays, as for ``score``. Stores have theirs.
        """
        self._check()
        columns, labels, found = self._read_fit(X, y, by_type=False, kind=kind)
        metrics, self.metric_, kind = self._metrics(found, fixed=y is None or kind is not None)
        unit = self.normalise == "unit" or (self.normalise, self.mode) == ("auto", "forward")
        columns = columns.unit_rows() if unit else columns
        sampled, n = columns, len(columns)
        if self.max_examples is not None and self.max_examples < n:
            rng = np.random.default_rng(self.random_state)
            rows = np.sort(rng.choice(n, self.max_examples, replace=False))
            sampled, labels = columns.rows(rows), labels[rows]
        known = Labels.read(labels, kind, len(sampled), readers=metrics)
        scores = _LayerScores(X, sampled, known, self.random_state)
        self._sign = 1.0 if self._combinations or metrics[0].higher_is_better else -1.0
        with progress_bar("scoring layers", len(columns.names), self.progress) as bar:
            if self.mode == "forward":
                chosen = self._forward(scores, metrics[0], bar.update)
            else:
                chosen = self._alone(scores, metrics, bar.update)
        self._keep(columns, columns.whole(chosen), unit)
        if self.mode != "forward":
            warn_of_widths(metrics, self.scores_)
        elif metrics[0].width_cures and not {"dim_normalize", "preset"} & set(metrics[0].options):
            warn(
                f"{self.metric_} of a set grows with its number of columns, so it tends to add "
                f"every layer; use {metrics[0].name}(eps=auto,dim_normalize=rank), linear_probe or "
                f"logme"
            )
        return self

    def _check(self) -> None:
        check_metrics(self.metric)
        if self.mode not in _MODES or self.normalise not in ("auto", "unit", None):
            raise InvalidInputError(
                f"mode must be one of {_MODES} and normalise 'auto', 'unit' or None, not "
                f"{self.mode!r} and {self.normalise!r}"
            )
        if self.mode == "drop_last" and self.k not in (None, 1):
            raise InvalidInputError(f"mode='drop_last' chooses one layer; k={self.k} means nothing")
        for name, least in (("k", 1), ("max_dim", 1), ("max_examples", 1), ("max_drop", 0)):
            if (value := getattr(self, name)) is not None:
                check_whole(least, **{name: value})

    def _metrics(self, kind: str, fixed: bool) -> tuple[list[Metric], str, str]:
        """The metric, or the terms of a combination; its label; and the kind of task."""
        published = self.mode == "drop_last" and self.metric == "transrate"
        asked = _PUBLISHED if published else self.metric
        try:
            metrics = resolve_metrics(asked, kind)
        except UnsupportedTaskError:
            # Labels stored as floats are still labels for a metric that knows only classes.
            if fixed or kind != "regression":
                raise
            kind = "classification"
            metrics = resolve_metrics(asked, kind)
        combinations = asked_combinations(asked, kind)
        if len(metrics) > 1 and len(combinations) != 1:
            raise InvalidInputError(f"metric must be one metric, not {len(metrics)}: {asked!r}")
        if any(m.requires == "source" for m in metrics):
            raise InvalidInputError(
                f"{metrics[0].label} reads the source head and is the same for every layer; "
                f"choose layers by a metric of features, such as transrate or logme"
            )
        if combinations and self.mode == "forward":
            raise InvalidInputError(
                f"{combinations[0].name} compares a fixed set of candidates and cannot grow one; "
                f"use mode='best'"
            )
        self._combinations = combinations
        return metrics, combinations[0].name if combinations else metrics[0].label, kind

    def _alone(
        self, scores: _LayerScores, metrics: Sequence[Metric], tick: Callable[[], Any]
    ) -> list[str]:
        """Score layers one by one and choose among them."""
        columns = scores.columns
        names = list(columns.names)
        if self.mode == "drop_last":
            names = _drop_candidates(columns.names, columns.dims, self.max_drop)
        records = []
        for name in names:
            records += [scores.alone(name, metric) for metric in metrics]
            tick()
        records = combined(records, self._combinations)
        self.scores_ = ScoreTable(records)
        found = {str(r.layer): r for r in records if r.label == self.metric_}
        order = sorted(self._valued(found), key=lambda n: -self._sign * (found[n].value or 0.0))
        budget, chosen = self.max_dim or math.inf, list[str]()
        for name in order:
            if columns.widths[name] <= budget and len(chosen) < (self.k or 1):
                chosen.append(name)
                budget -= columns.widths[name]
        if not chosen:
            raise InvalidInputError(f"no layer has at most max_dim={self.max_dim} features")
        self.score_ = found[chosen[0]].value
        if self.mode == "drop_last":
            self.dropped_ = names.index(chosen[0])
        return chosen

    def _forward(self, scores: _LayerScores, metric: Metric, tick: Callable[[], Any]) -> list[str]:
        """Grow a set of layers by the score of their concatenation."""
        dims = scores.columns.widths
        started = time.perf_counter()
        seen = scores.labels.seen_by(metric)
        joint = _joint_statistic(scores.columns, seen, metric, self.max_bytes)
        owed = (time.perf_counter() - started) / len(dims)
        room = self.max_dim or math.inf
        chosen, records, best = list[str](), list[Record](), -math.inf
        while len(chosen) < (self.k or len(dims)):
            open_ = [n for n in dims if n not in chosen and dims[n] <= room]
            if not chosen and not open_:
                raise InvalidInputError(f"no layer has at most max_dim={self.max_dim} features")
            tried = {n: scores.union([*chosen, n], metric, joint, owed) for n in open_}
            records += tried.values()
            self.scores_ = ScoreTable(records)
            if not chosen:
                self._valued(tried)
            values = {n: self._sign * r.value for n, r in tried.items() if r.value is not None}
            name = max(values, key=lambda n: values[n], default="")
            # The relative part is rounding, which must not decide.
            least = best + self.tol + 1e-9 * abs(best) if chosen else best
            if not name or values[name] <= least:
                break
            chosen.append(name)
            best, room, owed = values[name], room - dims[name], 0.0
            tick()
        self.score_ = self._sign * best
        return chosen

    def _valued(self, records: dict[str, Record]) -> list[str]:
        """Layers that have a score; where none has, the reason is raised."""
        valued = [name for name, r in records.items() if r.value is not None]
        if not valued:
            reasons = [r.error for r in records.values() if r.error]
            widest = max(r.dim or 0 for r in records.values())
            raise InvalidInputError(
                f"{self.metric_} has no value on any layer (the widest has n_features = {widest}): "
                f"{reasons[0]}"
            )
        return valued


class _LayerScores:
    """Scores layers of one input, as records; a store ``X`` tells where its columns come from."""

    def __init__(self, X: Any, columns: LayerColumns, labels: Labels, seed: int) -> None:
        self.columns, self.labels = columns, labels
        known = bases_of(X) if isinstance(X, FeatureStore) else {}
        own: dict[str, Any] = {"seed": seed, "num_classes": labels.num_classes, "n": len(labels)}
        own |= dict.fromkeys(("model_id", "task_id", "note"))
        self._bases: dict[str, Record] = {}
        for i, (name, dim) in enumerate(columns.widths.items()):
            bare = Record(model="features", layer=name, layer_index=i, dim=dim)
            self._bases[name] = replace(known.get(name, bare), **own)

    def alone(self, name: str, metric: Metric) -> Record:
        """The record of one layer; its reason under ``error`` where it has no score."""

        def read(_: str, needs: Sequence[Needs]) -> tuple[Statistics, ClassScatter | None]:
            columns = self.columns
            kept, scatter = late_classes(
                needs, self.labels, columns.widths[name], lambda at: columns.rows(at).layer(name)
            )
            return Statistics.of(kept, columns.layer(name), self.labels), scatter

        [record] = records_of({name: self._bases[name]}, [metric], self.labels, read)
        return record

    def union(self, layers: Sequence[str], metric: Metric, joint: Any, owed: float) -> Record:
        """The record of a part of a joint statistic; ``owed`` is time already spent on it."""
        base = self._bases[layers[0]]
        if len(layers) > 1:
            dim = sum(self._bases[name].dim or 0 for name in layers)
            base = replace(base, layer="+".join(layers), layer_index=None, depth=None, dim=dim)

        def score() -> Estimate:
            selected = joint.select(self.columns.numbers(self.columns.whole(layers)))
            return metric(selected.moments if _reads_fourth(metric) else selected)

        [record] = unscored(base, [metric])
        return valued(record, score, owed)


def _joint_statistic(columns: LayerColumns, labels: Labels, metric: Metric, max_bytes: int) -> Any:
    """The statistic of all layers side by side, of which that of any union of layers is a part.

    Moments of a union are rows and columns of the joint moments. Fourth moments cannot be cut that
    way: for a metric that reads them all examples are kept, and its moments made from those.
    """
    needed = _joint_bytes(metric, labels, columns.dim)
    by_examples = _reads_fourth(metric)
    if needed > max_bytes:
        # Fewer examples help where rows are kept.
        rows = metric.requires == "examples" or by_examples
        helped = rows or len(labels) < columns.dim or "class" in metric.parts
        raise InvalidInputError(
            f"the joint statistic of {len(columns.names)} layers with {columns.dim} features "
            f"would take {needed / 1e9:.1f} GB, more than max_bytes={max_bytes} allows; use fewer "
            f"layers{', set max_examples' if helped else ''}, or mode='best', which holds one "
            f"layer at a time"
        )
    if by_examples:
        known = labels.values, labels.num_classes
        return FeatureSample.from_batch(
            columns.dense(), *known, limit=len(labels), parts=metric.parts
        )
    batches = (slice(i, i + _ROWS_AT_ONCE) for i in range(0, len(columns), _ROWS_AT_ONCE))
    how = metric.requires, metric.parts, labels.kind
    pieces = (
        build_statistic(*how, columns.rows(rows).dense(), labels.values[rows], labels.num_classes)
        for rows in batches
    )
    return functools.reduce(operator.add, pieces)


def _joint_bytes(metric: Metric, labels: Labels, dim: int) -> int:
    """Memory of the joint statistic of D features, and of what scoring all of them adds to it."""
    n = len(labels)
    if metric.requires == "examples" or _reads_fourth(metric):
        kept = n if _reads_fourth(metric) else min(n, DEFAULT_LIMIT)
        # The examples, their centred copy, and the moments of the widest union.
        return 8 * dim * (2 * kept + min(n, dim))
    # Scatter within classes, in all, and one factor of it.
    numbers = 3 * min(n, dim) * dim
    if "class" in metric.parts and labels.num_classes:
        counts = np.bincount(labels.values, minlength=labels.num_classes)
        numbers += int(np.minimum(counts, dim).sum()) * dim
    return 8 * numbers


def _reads_fourth(metric: Metric) -> bool:
    return metric.requires == "moments" and "fourth" in metric.parts


def _drop_candidates(
    names: Sequence[str], dims: Sequence[int], max_drop: int | None = None
) -> list[str]:
    """The last layer of each network that is left when 0, 1, 2 … last blocks are dropped.

    The input of the classifier repeats the last block after pooling and is left out.

    >>> _drop_candidates(["a", "b", "c", "d"], [64, 128, 128, 256])
    ['d', 'c', 'b']
    """
    blocks = list(zip(names, dims, strict=True))
    if len(blocks) > 1 and names[-1].endswith(":input") and dims[-1] == dims[-2]:
        blocks = blocks[:-1]
    blocks = blocks[::-1]
    stages = [list(stage) for _, stage in itertools.groupby(blocks, key=lambda block: block[1])]
    count = sum(map(len, stages[:2])) if max_drop is None else max_drop + 1
    return [name for name, _ in blocks[:count]]
