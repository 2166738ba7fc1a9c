"""Plot of scores against the accuracies that they were to predict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.results.agreement import accuracies_of, paired
from transfer_metrics.results.plot_names import MUTED, name_points, short_labels
from transfer_metrics.results.plots import COLOURS, clean, new_axes
from transfer_metrics.results.wording import fixed, plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transfer_metrics.results.table import ScoreTable


def plot_agreement(
    table: ScoreTable,
    accuracies: Mapping[str, float] | ScoreTable,
    metric: str | None = None,
    *,
    head: str | None = None,
    split: str = "test",
    ax: Axes | None = None,
) -> Axes:
    """Score against accuracy, a named point per model, with the straight line of least squares.

    Args:
        table: scores of at least three models.
        accuracies: accuracy of each model, or the table of a comparison.
        metric: the metric, by default the first of the table.
        head: where the accuracies are a table with several heads, which one.
        split: where they are a table, accuracy on which data.
        ax: where to draw; by default a new figure.

    Returns:
        The axes; the title has weighted Kendall's tau with its 95 % interval over models.

    Raises:
        InvalidInputError: fewer than three models have both.

    >>> from transfer_metrics.results.table import ScoreTable
    >>> record = {"layer": "fc", "metric": "knn", "higher_is_better": True}
    >>> scores = {"a": 1.0, "b": 2.0, "c": 3.0}
    >>> table = ScoreTable([{**record, "model": m, "value": v} for m, v in scores.items()])
    >>> len(plot_agreement(table, {"a": 0.5, "b": 0.6, "c": 0.9}).texts)
    3
    """
    metric = metric or table.metrics[0]
    values = (
        accuracies if isinstance(accuracies, Mapping) else accuracies_of(accuracies, head, split)
    )
    ranking = table.ranking(metric, view="best").dropna(subset="score")
    scores = dict(zip(ranking["model"].astype(str), ranking["score"], strict=True))
    names = paired(scores, values)
    rows = table.agreement(values, metric).set_index("measure")
    found = rows[["value", "low", "high"]].loc["weighted_kendall"].to_numpy(float)
    tau, low, high = map(float, found)
    x = np.array([scores[name] for name in names])
    y = np.array([values[name] for name in names])
    ax = new_axes(ax, height=4.8)
    if np.ptp(x) > 0:
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, slope * ends + start, color=MUTED, lw=1, zorder=1)
    ax.scatter(x, y, color=COLOURS[0], s=28, zorder=2)
    ax.margins(x=0.06, y=0.08)
    ax.set_xlabel(plot_label(metric))
    ax.set_ylabel("accuracy")
    interval = "" if math.isnan(low) else f" ({fixed(low)} to {fixed(high)})"
    ax.set_title(f"weighted tau {fixed(tau)}{interval}, {len(names)} models", loc="left")
    clean(ax)
    name_points(ax, list(zip(x, y, strict=True)), short_labels(names), size=7.0)
    return ax
