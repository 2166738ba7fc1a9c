"""The plots that a table has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, check_whole
from transfer_metrics.registry import choose
from transfer_metrics.results.long_table import LongTable
from transfer_metrics.results.places import Place, place_labels
from transfer_metrics.results.plot_style import (
    COLOURS,
    MARKERS,
    MOST_ROWS,
    MUTED,
    legend_above,
    name_points,
    named_rows,
    new_axes,
    rows_height,
    save_figure,
    short_labels,
    titled,
)
from transfer_metrics.results.record import Record
from transfer_metrics.results.table_agreement import Matched
from transfer_metrics.results.wording import fixed, listed, number, plot_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# From white to dark blue: order is told by lightness alone, which survives grey printing.
_MAP = "Blues"
# Grey curves, names of points and numbers that can be read; the best are drawn.
_MOST_CURVES, _MOST_NAMES, _MOST_NUMBERS = 60, 24, 400


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
        scored = {place: r.scored for place, r in self._table.rankings(metric).items() if r.scored}
        if not scored:
            raise InvalidInputError("no model has a score to plot; see table.failures")
        labels = place_labels(scored) if len(scored) > 1 else [""]
        most = MOST_ROWS if len(scored) == 1 else max(MOST_ROWS // len(scored), 3)
        groups = dict(
            zip(short_labels(labels, 44), (of[:most] for of in scored.values()), strict=True)
        )
        drawn = [c for own in groups.values() for c in own]
        names = short_labels([c.model for c in drawn], 34)
        layers = [plot_label(c.record.layer or "", 20) for c in drawn]
        rows = iter([f"{n}  ({la})" if la else n for n, la in zip(names, layers, strict=True)])
        ax = new_axes(ax, rows_height(groups))
        _scale(ax.set_xscale, [c.record for c in drawn])
        parts = {label: [next(rows) for _ in own] for label, own in groups.items()}
        places = np.array(named_rows(ax, parts))
        scores, low, high = np.array([(c.score, c.low, c.high) for c in drawn]).T
        margins = np.nan_to_num(np.stack([scores - low, high - scores])).clip(min=0.0)
        out = np.array([c.record.round is not None for c in drawn])
        for chosen, colour, inside in ((~out, COLOURS[0], COLOURS[0]), (out, MUTED, "white")):
            if chosen.any():
                marks = ax.errorbar(
                    scores[chosen], places[chosen], xerr=margins[:, chosen], fmt="o",
                    color=colour, mfc=inside, elinewidth=1.2, capsize=2.5, zorder=2,
                )  # fmt: skip
        left, right = ax.get_xlim()
        ax.hlines(places, left, scores, color="#E3E3E3", lw=1, zorder=1)
        ax.set_xlim(left, right)
        ax.set_xlabel(plot_label(self._table.named_metric(metric)))
        if out.any():
            legend_above(ax, [marks], ["dropped from the race: fewer examples"])
        total = sum(map(len, scored.values()))
        notes = [f"the best {len(drawn)} of {total}"] if total > len(drawn) else []
        if len({place.task for place in scored}) > 1:
            notes.append("scores of different tasks do not compare")
        titled(ax, self._tasks if len(groups) == 1 else "", "; ".join(notes))
        return ax

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
        check_whole(0, highlight=highlight)
        found: list[tuple[int, str, Place, list[Record]]] = []
        for place, ranking in self._table.rankings(metric, "best").items():
            own: dict[str, list[Record]] = {}
            for r in ranking.records:
                if r.value is not None and r.depth is not None:
                    own.setdefault(str(r.model), []).append(r)
            for c in ranking.scored:
                if c.model in own:
                    curve = sorted(own[c.model], key=lambda r: r.depth or 0.0)
                    found.append((c.rank or 0, c.model, place, curve))
        found.sort(key=lambda row: row[0])
        if not found:
            raise InvalidInputError("no layer has a score and a depth to plot; see table.failures")
        ax = new_axes(ax, 4.2)
        handles = []
        drawn = found[: highlight + _MOST_CURVES]
        _scale(ax.set_yscale, [r for *_, curve in drawn for r in curve])
        for i, (*_, curve) in reversed(list(enumerate(drawn))):
            x = [r.depth or 0.0 for r in curve]
            y = np.array([r.value for r in curve], float)
            if i >= highlight:
                ax.plot(x, y, color=MUTED, lw=0.8, alpha=0.6, zorder=1)
                continue
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            low, high = zip(*(r.ends for r in curve), strict=True)
            ax.fill_between(x, low, high, color=colour, alpha=0.12, lw=0, zorder=2)
            handles += ax.plot(x, y, color=colour, marker=marker, lw=1.6, ms=4, zorder=3)
        ax.set_xlabel("depth (share of the network)")
        ax.set_ylabel(plot_label(self._table.named_metric(metric)))
        places = list(dict.fromkeys(place for _, _, place, _ in found))
        told = place_labels(places) if len(places) > 1 else [""]
        named = found[: len(handles)]
        labels = short_labels([model for _, model, _, _ in named], 28)
        where = short_labels([told[places.index(place)] for _, _, place, _ in named], 28)
        labels = [f"{m}\n  on {t}" if t else m for m, t in zip(labels, where, strict=True)]
        others, grey = len(found) - len(handles), len(drawn) - len(handles)
        left_out = f" of {others}" if others > grey else " more"
        title = f"best {len(handles)}, {grey}{left_out} in grey" if others else None
        ax.legend(
            handles[::-1], labels, title=title, frameon=False, fontsize=8, title_fontsize=8,
            loc="upper left", bbox_to_anchor=(1, 1), alignment="left",
        )  # fmt: skip
        titled(ax, self._tasks)
        return ax

    def tasks(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Models x tasks under one metric, shaded by the order within each task.

        Raises:
            InvalidInputError: no model has a score.
        """
        metric = self._table.named_metric(metric)
        rankings = self._table.rankings(metric, "models").values()
        better = all(ranking.higher_is_better for ranking in rankings)
        return _heat_map(_task_scores(self._table, metric), better, metric, ax)

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
        both = Matched.of(own, [metric], accuracies, task, head, split)
        _, scores, reached = both.on_task(metric)
        rankings = own.rankings(metric).values()
        sign = 1.0 if all(ranking.higher_is_better for ranking in rankings) else -1.0
        pairs = {m: (sign * score, reached[m]) for m, score in scores.items() if m in reached}
        points = {m: pair for m, pair in pairs.items() if np.isfinite(pair).all()}
        of_these = Matched.of(own, [metric], reached, None, None, split)
        found = of_these.agreement().set_index("measure")
        value, low, high = map(float, found.loc["weighted_kendall", ["value", "low", "high"]])
        x, y = np.array(list(points.values()), float).T
        ax = new_axes(ax, height=4.8)
        if np.ptp(x) > 0:
            slope, start = np.polyfit(x, y, 1)
            ends = np.array([x.min(), x.max()])
            ax.plot(ends, slope * ends + start, color=MUTED, lw=1, zorder=1)
        ax.scatter(x, y, color=COLOURS[0], s=28, zorder=2)
        ax.margins(x=0.06, y=0.08)
        ax.set_xlabel(plot_label(metric))
        ax.set_ylabel(both.known.attrs.get("measure", "accuracy"))
        interval = "" if math.isnan(low) else f" ({fixed(low)} to {fixed(high)})"
        # The best by either are named, where there is no room for all.
        best = np.minimum(np.argsort(np.argsort(-x)), np.argsort(np.argsort(-y)))
        order = np.argsort(best, kind="stable")
        named = order[:_MOST_NAMES]
        note = "the best by either are named" if len(named) < len(points) else ""
        titled(ax, f"weighted tau {fixed(value)}{interval}, {len(points)} models", note)
        names = short_labels([list(points)[i] for i in named])
        name_points(ax, [(x[i], y[i]) for i in order], names, size=7.0)
        return ax

    def save(self, kind: str, path: str | os.PathLike[str], metric: str | None = None) -> str:
        """Draw ``"ranking"``, ``"layers"`` or ``"tasks"`` into a PNG, SVG or PDF, by its ending.

        Raises:
            UnknownNameError: no such plot.
            InvalidInputError: an unknown ending, or a place that cannot be written to.
        """
        kinds = {"ranking": self.ranking, "layers": self.layers, "tasks": self.tasks}
        drawn = kinds[choose("plot", kind, kinds)]
        return save_figure(lambda figure: drawn(metric, ax=figure), path)

    @property
    def _tasks(self) -> str:
        """The first names of tasks."""
        tasks = sorted({str(r.task) for r in self._table if r.task})
        return listed(short_labels(tasks, 60), 3)


def _scale(set_scale: Callable[..., Any], records: Iterable[Record]) -> None:
    """Make an axis logarithmic for scores that are told apart by their logarithms.

    Around zero it is linear, from the decade of the score or end next to it, or twelve further.
    """
    sizes = [-v for r in records if r.relative for v in (r.value, r.ends[1]) if v and v == v]
    if sizes:
        least = math.floor(math.log10(max(min(sizes), 1e-12 * max(sizes))))
        set_scale("symlog", linthresh=10.0**least, linscale=0.5)


def _task_scores(table: LongTable, metric: str) -> pd.DataFrame:
    """Score of each model on each task, models x tasks; NaN where there is none.

    Scores that do not compare, such as those of two poolings or splits of a task, are columns of
    their own.
    """
    import pandas as pd

    rankings = table.rankings(metric, "models")
    columns = {
        label: pd.Series({c.model: c.score for c in ranking.scored}, dtype=float)
        for label, ranking in zip(place_labels(rankings), rankings.values(), strict=True)
    }
    if not any(map(len, columns.values())):
        raise InvalidInputError("no model has a score to plot; see table.failures")
    return pd.DataFrame(columns)


def _heat_map(values: pd.DataFrame, higher_is_better: bool, label: str, ax: Axes | None) -> Axes:
    """Models x tasks, shaded by the order within each task, the numbers inside.

    Scores of different tasks do not compare, so the shade of a cell tells which share of the
    models on its task are no better, from 0 (the worst) to 1 (the best). Cells that are NaN stay
    empty; models go by their mean order, the best on top, of many only these.
    """
    numbers = values.to_numpy(float)
    there = np.isfinite(numbers)
    if not there.any():
        raise InvalidInputError("there is no number to draw; every cell is NaN")
    shades = _shades(np.where(there, numbers, np.nan) * (1 if higher_is_better else -1))
    means = np.where(there, shades, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    order = np.argsort(-means, kind="stable")[:MOST_ROWS]
    numbers, shades = numbers[order], shades[order]
    rows, columns = numbers.shape
    ax = new_axes(ax, rows_height({"": order}) + 0.6)
    image = ax.imshow(np.ma.masked_invalid(shades), cmap=_MAP, vmin=0, vmax=1, aspect="auto")
    if rows * columns <= _MOST_NUMBERS:
        for i, j in zip(*np.nonzero(np.isfinite(numbers)), strict=True):
            colour = "white" if shades[i, j] > 0.6 else "black"
            ax.text(
                j, i, number(numbers[i, j], 3), ha="center", va="center", fontsize=7, color=colour
            )
    ax.set_yticks(range(rows), short_labels(list(values.index[order]), 34), fontsize=8.5)
    names = short_labels(list(values.columns), 28)
    ax.set_xticks(range(columns), names, fontsize=8.5)
    # What does not fit beside each other stands aslant.
    if max(map(len, names)) * columns > 60:
        for tick in ax.get_xticklabels():
            tick.set(rotation=30, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=min(1.0, 4 / rows), pad=0.02, aspect=15)
    bar.set_ticks([0, 1], labels=["worst", "best"])
    bar.outline.set_visible(False)
    left_out = len(values) > rows
    titled(ax, plot_label(label), f"the best {rows} of {len(values)} models" if left_out else "")
    return ax


def _shades(numbers: np.ndarray) -> np.ndarray:
    """Place of each number in the order of its column, 0 to 1; NaN stays."""
    from scipy.stats import rankdata

    counts = np.isfinite(numbers).sum(axis=0)
    ranks = rankdata(numbers, axis=0, nan_policy="omit")
    # One number on its own is neither the best nor the worst.
    shades = np.where(counts > 1, (ranks - 1) / np.maximum(counts - 1, 1), 0.5)
    return np.where(np.isfinite(numbers), shades, np.nan)
