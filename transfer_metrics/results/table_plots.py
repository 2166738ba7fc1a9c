"""The plots that a table has."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.comparable import Place, by_place, place_labels
from transfer_metrics.results.long_table import LongTable
from transfer_metrics.results.plot_style import save_figure
from transfer_metrics.results.point_plots import plot_agreement, plot_layers
from transfer_metrics.results.ranks import (
    higher_is_better,
    ranked,
    ranking_frame,
    single,
)
from transfer_metrics.results.record import Record
from transfer_metrics.results.row_plots import plot_heat_map, plot_ranking
from transfer_metrics.results.table_agreement import Matched

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class TablePlots:
    """The plots of one table, ``table.plot``; each is drawn on ``ax`` or a figure of its own."""

    def __init__(self, table: LongTable) -> None:
        self._table = table

    def ranking(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Candidates from best to worst as points, with 95 % intervals where the metric has one.

        Models that a race dropped are hollow and grey: their scores are of fewer examples. Of more
        than forty candidates the best are drawn, as many of each task; the plot says so.

        Raises:
            InvalidInputError: no model has a score.

        >>> from transfer_metrics import ScoreTable
        >>> table = ScoreTable([{"model": "a", "layer": "fc", "metric": "knn", "value": 0.7}])
        >>> table.plot.ranking().get_xlabel()
        'knn'
        """
        rounds = {str(r.model): r.round for r in self._table}
        dropped = [model for model, round in rounds.items() if round is not None]
        metric = self._table.named_metric(metric)
        ranking = ranking_frame(self._table, metric, self._table.view)
        return plot_ranking(ranking, metric, tasks=self._tasks, dropped=dropped, ax=ax)

    def layers(
        self, metric: str | None = None, *, ax: Axes | None = None, highlight: int = 5
    ) -> Axes:
        """Score against depth, one curve per model, the best models in colour with 95 % bands.

        Args:
            metric: the metric, by default the first of the table.
            ax: where to draw; by default a new figure.
            highlight: how many of the best models are coloured and named; the rest is grey.

        Raises:
            InvalidInputError: no layer has a score.

        >>> from transfer_metrics import ScoreTable
        >>> record = {"model": "a", "metric": "knn", "value": 0.7}
        >>> table = ScoreTable([{**record, "depth": d, "layer": str(d)} for d in (0.5, 1.0)])
        >>> len(table.plot.layers().lines)
        1
        """
        metric = self._table.named_metric(metric)
        found: list[tuple[int, str, Place, list[Record]]] = []
        for place, records in by_place(self._table, metric).items():
            drawn: dict[str, list[Record]] = {}
            for r in records:
                if r.label == metric and r.value is not None and r.depth is not None:
                    drawn.setdefault(str(r.model), []).append(r)
            for c in ranked(records, metric, "best"):
                if c.rank is not None:
                    curve = sorted(drawn.get(c.model, []), key=lambda r: r.depth or 0.0)
                    found.append((c.rank, c.model, place, curve))
        found.sort(key=lambda row: row[0])
        places = list(dict.fromkeys(place for _, _, place, _ in found))
        told = place_labels(places) if len(places) > 1 else [""]
        names = dict(zip(places, told, strict=True))
        curves = [(model, names[place], curve) for _, model, place, curve in found]
        return plot_layers(curves, metric, tasks=self._tasks, highlight=highlight, ax=ax)

    def tasks(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Models x tasks under one metric, shaded by the order within each task.

        Raises:
            InvalidInputError: no model has a score.
        """
        metric = self._table.named_metric(metric)
        values = _task_scores(self._table, metric, single(self._table.view))
        better = higher_is_better(self._table, metric)
        return plot_heat_map(values, higher_is_better=better, label=metric, ax=ax)

    def agreement(
        self,
        accuracies: Any,
        metric: str | None = None,
        *,
        task: str | None = None,
        head: str | None = None,
        split: str = "test",
        ax: Axes | None = None,
    ) -> Axes:
        """Score against accuracy, a named point per model, with the straight line of least squares.

        The title has weighted Kendall's tau with its 95 % interval over models. See
        ``ScoreTable.agreement`` for the arguments.

        Raises:
            InvalidInputError: fewer than three models have both.

        >>> from transfer_metrics import ScoreTable
        >>> record = {"layer": "fc", "metric": "knn", "higher_is_better": True}
        >>> scores = {"a": 1.0, "b": 2.0, "c": 3.0}
        >>> table = ScoreTable([{**record, "model": m, "value": v} for m, v in scores.items()])
        >>> len(table.plot.agreement({"a": 0.5, "b": 0.6, "c": 0.9}).texts)
        3
        """
        metric = self._table.named_metric(metric)
        own = self._table
        if task is not None and len({record.task for record in own}) > 1:
            own = own.on(task)
        records = list(own)

        def matched(*known: Any) -> Matched:
            return Matched.of(records, [metric], own.view, *known)

        _, _, reached = matched(accuracies, task, head, split).on_task(metric)
        ranking = ranking_frame(records, metric, "best").dropna(subset="score")
        scores = dict(zip(ranking["model"], ranking["score"], strict=True))
        points = {name: (scores[name], reached[name]) for name in scores if name in reached}
        found = matched(reached, None, None, split).agreement().set_index("measure")
        tau = found.loc["weighted_kendall", ["value", "low", "high"]].to_numpy(float)
        return plot_agreement(points, metric, list(map(float, tau)), ax=ax)

    def save(self, kind: str, path: str | os.PathLike[str], metric: str | None = None) -> str:
        """Draw ``"ranking"``, ``"layers"`` or ``"tasks"`` into a PNG, SVG or PDF, by its ending.

        Raises:
            InvalidInputError: an unknown ending, or a place that cannot be written to.
        """
        drawn = {"layers": self.layers, "tasks": self.tasks}.get(kind, self.ranking)
        return save_figure(lambda figure: drawn(metric, ax=figure), path)

    @property
    def _tasks(self) -> list[str]:
        return sorted({str(r.task) for r in self._table if r.task})


def _task_scores(records: Iterable[Record], metric: str, view: str) -> pd.DataFrame:
    """Score of each model on each task, models x tasks; NaN where there is none.

    Scores that do not compare, such as those of two poolings or splits of a task, are columns of
    their own.
    """
    import pandas as pd

    places = by_place(r for r in records if not r.is_measured)
    columns = {}
    for label, own in zip(place_labels(places), places.values(), strict=True):
        scored = [c for c in ranked(own, metric, view) if c.rank is not None]
        if any(r.label == metric for r in own):
            columns[label] = pd.Series({c.record.model: c.score for c in scored}, dtype=float)
    if not any(map(len, columns.values())):
        raise InvalidInputError("no model has a score to plot; see table.failures")
    return pd.DataFrame(columns)
