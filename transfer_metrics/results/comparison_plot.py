"""Plot of a comparison of heads."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.plots import (
    COLOURS,
    MARKERS,
    TablePlots,
    clean,
    new_axes,
    save_figure,
)
from transfer_metrics.results.wording import plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transfer_metrics.results.comparison import Comparison


class ComparisonPlots(TablePlots):
    """The plots of one comparison; ``comparison.plot``."""

    _table: Comparison

    def comparison(self, *, ax: Axes | None = None) -> Axes:
        """See ``plot_comparison``."""
        return plot_comparison(self._table, ax=ax)


def plot_comparison(table: Comparison, *, ax: Axes | None = None) -> Axes:
    """Accuracy of every head on every data set, with 95 % intervals.

    Args:
        table: a comparison with at least one head that was fitted.
        ax: where to draw; by default a new figure sized to the number of rows.

    Returns:
        The axes: a row per model and head, a colour and marker per data set.

    Raises:
        InvalidInputError: no head has an accuracy.
    """
    summary = table.summary()
    if "test" not in summary or not summary["test"].notna().any():
        raise InvalidInputError("no head has an accuracy to plot; see table.failures")
    summary = summary[summary["test"].notna()]
    names = ["test", *table.shifts]
    ax = new_axes(ax, height=_height(len(summary)))
    rows = np.arange(len(summary))
    accuracies = 100 * summary[names].to_numpy(float)
    ax.hlines(
        rows, np.nanmin(accuracies, axis=1), np.nanmax(accuracies, axis=1), color="#DDDDDD", lw=1
    )
    drawn = []
    for place, name in enumerate(names):
        bars = ax.errorbar(
            accuracies[:, place],
            rows,
            xerr=100 * summary[f"± {name}"].to_numpy(float),
            fmt=MARKERS[place % len(MARKERS)],
            color=COLOURS[place % len(COLOURS)],
            ms=5,
            elinewidth=1,
            capsize=2,
        )
        drawn.append(bars)
    models = summary.index.get_level_values("model")
    heads = summary.index.get_level_values("head")
    several = len(set(models)) > 1
    labels = [f"{m}  {h}" if several else h for m, h in zip(models, heads, strict=True)]
    if "task" in summary.index.names:
        of_task = summary.index.get_level_values("task")
        labels = [f"{label}  {task}" for label, task in zip(labels, of_task, strict=True)]
    ax.set_yticks(rows, [plot_label(label, 80) for label in labels])
    for edge in np.flatnonzero(models[1:] != models[:-1]):
        ax.axhline(edge + 0.5, color="#DDDDDD", lw=0.6)
    ax.invert_yaxis()
    ax.set_xlabel("accuracy, %")
    tasks = sorted({str(r["task"]) for r in table.records if r["task"]})
    title = ", ".join(map(plot_label, tasks if several else [models[0], *tasks]))
    ax.set_title(title, loc="left")
    # Given as a list, because a label that starts with an underscore would be left out.
    shown = ["in distribution" if name == "test" else plot_label(name) for name in names]
    ax.legend(
        drawn, shown, frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3
    )
    clean(ax)
    return ax


def save_comparison(table: Comparison, path: str | os.PathLike[str]) -> str:
    """Draw a comparison into a PNG, SVG or PDF file; returns the path.

    Raises:
        InvalidInputError: an unknown ending, or a place that cannot be written to.
    """
    rows = len(table.summary())
    return save_figure(lambda ax: plot_comparison(table, ax=ax), path, _height(rows))


def _height(rows: int) -> float:
    return 1.4 + 0.3 * rows
