"""Which layers to transfer: the best ones, the best set, or how many blocks to drop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from transfer_metrics.errors import InvalidInputError, UnsupportedTaskError
from transfer_metrics.metrics.base import Metric
from transfer_metrics.progress import progress_bar
from transfer_metrics.ranking.combinations import combined
from transfer_metrics.ranking.metric_choice import (
    asked_combinations,
    check_metrics,
    resolve_metrics,
    warn_of_widths,
)
from transfer_metrics.results.record import Record
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.selection.base import ColumnSelector
from transfer_metrics.selection.columns import LayerColumns
from transfer_metrics.selection.layer_scores import (
    JointStatistic,
    LayerScores,
    drop_candidates,
    warn_of_sets,
)
from transfer_metrics.statistics.needs import Labels

_MODES = ("best", "forward", "drop_last")
_PUBLISHED = "transrate(preset=centred)"


class LayerSelector(ColumnSelector):
    """Layers chosen by a metric, as a scikit-learn transformer.

    ``"best"`` takes the ``k`` layers that score best on their own. ``"forward"`` grows a set:
    at each step the layer whose addition gives the concatenation the best score, until none
    improves it. ``"drop_last"`` is the protocol behind TransRate's published layer selection:
    candidate j is the network without its last j residual blocks, read by global average pooling,
    and each candidate is scored on its own. There the ground truth of candidate j is found by
    loading the pretrained weights of the blocks that are kept, *initialising the dropped ones
    anew* together with a new head, fine-tuning the whole network and reading its test accuracy;
    the scores use the training examples with the transforms of testing. With the bare metric
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
        max_drop: the most blocks that are dropped; None keeps the end of the network within its
            last two stages (runs of layers of one width), as the published candidates do: 4 for
            ResNet-18, 9 for ResNet-34, 6 for ResNet-20.
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
            not for sets: the covariance of a class is estimated from its n_c examples, and the
            error of its log determinant grows with the square of the columns, so even a layer of
            noise raises the score. For sets divide by the rank,
            ``transrate(eps=auto,dim_normalize=rank)``, or take a score that is cross-validated or
            penalised, such as ``linear_probe`` or ``logme``.

    Source: Huang et al. (2022) and the authors' code for ``"drop_last"``. Forward selection by a
    transferability metric is an extension of ours.

    Cost: with L layers of D features in all, ``"best"`` and ``"drop_last"`` cost the scores of
    the layers and hold one layer at a time. ``"forward"`` builds the joint statistic in one pass,
    O(N D min(N, D)) time and O(D min(N, D)) memory (``Σ_c min(n_c, D) D`` more for metrics that
    read each class's scatter), and then at most L scores per step of unions of width d, each
    O(C d³) for TransRate.

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
        self.metric = metric
        self.mode = mode
        self.k = k
        self.max_dim = max_dim
        self.normalise = normalise
        self.tol = tol
        self.max_drop = max_drop
        self.max_examples = max_examples
        self.max_bytes = max_bytes
        self.layer_sizes = layer_sizes
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> Self:
        """Choose layers.

        Args:
            X: a ``FeatureStore``, a mapping from layer to (N, D), or an array (N, D).
            y: labels (N,), or floating point targets where the metric allows; those of the store
                by default.
        """
        self._check()
        columns, labels, kind = self._read_fit(X, y)
        metrics, self.metric_, kind = self._metrics(kind, fixed=y is None)
        self._unit = self.normalise == "unit" or (
            self.normalise == "auto" and self.mode == "forward"
        )
        columns = columns.unit_rows() if self._unit else columns
        sampled, labels = self._sampled(columns, labels)
        known = Labels.read(labels, kind, len(sampled), readers=metrics)
        scores = LayerScores(X, sampled, known, self.random_state)
        self._sign = 1.0 if self._combinations or metrics[0].higher_is_better else -1.0
        with progress_bar("scoring layers", len(columns.names), self.progress) as bar:
            if self.mode == "forward":
                seen = known.seen_by(metrics[0])
                joint = JointStatistic(sampled, seen, metrics[0], self.max_bytes)
                chosen = self._forward(sampled, scores, metrics[0], joint, bar.update)
            else:
                chosen = self._alone(sampled, scores, metrics, bar.update)
        self._keep(columns, columns.whole(chosen))
        if self.mode == "forward":
            warn_of_sets(metrics[0])
        else:
            warn_of_widths(metrics, self.scores_)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """The chosen layers side by side, (N, k), at unit length per layer where so normalised.

        Raises:
            InvalidInputError: a layer is missing or has another width than in ``fit``.
        """
        return self._take(X, getattr(self, "_unit", False))

    def _check(self) -> None:
        check_metrics(self.metric)
        if self.mode not in _MODES or self.normalise not in ("auto", "unit", None):
            raise InvalidInputError(
                f"mode must be one of {_MODES} and normalise 'auto', 'unit' or None, not "
                f"{self.mode!r} and {self.normalise!r}"
            )
        if self.mode == "drop_last" and self.k not in (None, 1):
            raise InvalidInputError(f"mode='drop_last' chooses one layer; k={self.k} means nothing")
        for name in ("k", "max_dim", "max_examples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidInputError(f"{name} must be at least 1, got {value}")
        if self.max_drop is not None and self.max_drop < 0:
            raise InvalidInputError(f"max_drop must not be negative, got {self.max_drop}")

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

    def _sampled(
        self, columns: LayerColumns, labels: np.ndarray
    ) -> tuple[LayerColumns, np.ndarray]:
        n = len(columns)
        if self.max_examples is None or self.max_examples >= n:
            return columns, labels
        rng = np.random.default_rng(self.random_state)
        chosen = np.sort(rng.choice(n, self.max_examples, replace=False))
        return columns.rows(chosen), labels[chosen]

    def _alone(
        self,
        columns: LayerColumns,
        scores: LayerScores,
        metrics: Sequence[Metric],
        tick: Callable[[], Any],
    ) -> list[str]:
        """Score layers one by one and choose among them."""
        names = list(columns.names)
        if self.mode == "drop_last":
            names = drop_candidates(columns.names, columns.dims, self.max_drop)
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

    def _forward(
        self,
        columns: LayerColumns,
        scores: LayerScores,
        metric: Metric,
        joint: JointStatistic,
        tick: Callable[[], Any],
    ) -> list[str]:
        """Grow a set of layers by the score of their concatenation."""
        dims = columns.widths
        room = self.max_dim or math.inf
        chosen, records, best = list[str](), list[Record](), -math.inf
        owed = joint.seconds / len(dims)
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
