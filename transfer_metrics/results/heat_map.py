"""Models beside tasks as a picture, and the numbers that it shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.plot_names import short_labels
from transfer_metrics.results.plots import new_axes
from transfer_metrics.results.wording import number, plot_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from transfer_metrics.results.table import ScoreTable

# From white to dark blue: order is told by lightness alone, which survives grey printing.
MAP = "Blues"
MOST_NUMBERS = 400


def task_scores(table: ScoreTable, metric: str | None = None) -> pd.DataFrame:
    """Score of each model on each task of a table, by its best (or last) layer.

    Args:
        table: scores on one task or several.
        metric: the metric, by default the first of the table.

    Returns:
        Models x tasks; NaN where a model has no score on a task. Scores that do not compare,
        such as those of two poolings or splits of a task, are columns of their own.

    Raises:
        UnknownNameError: the table has no such metric.
        InvalidInputError: no model has a score.

    >>> from transfer_metrics.results.table import ScoreTable
    >>> record = {"model": "a", "layer": "fc", "metric": "knn"}
    >>> table = ScoreTable([{**record, "task": t, "value": v} for t, v in (("x", 0.5), ("y", 1.0))])
    >>> task_scores(table).to_dict()
    {'x': {'a': 0.5}, 'y': {'a': 1.0}}
    """
    import pandas as pd

    from transfer_metrics.report.gather import gather, setting_labels

    table.ranking(metric)  # an unknown metric is an error here, not an empty picture
    metric = metric or next(iter(table.metrics), "")
    settings = gather(table).settings
    columns = {}
    for label, setting in zip(setting_labels(settings), settings, strict=True):
        if metric in setting.table.metrics:
            view = "last" if table.view == "last" else "best"
            ranking = setting.table.ranking(metric, view=view).dropna(subset="score")
            columns[label] = ranking.set_index("model")["score"]
    if not columns or all(column.empty for column in columns.values()):
        raise InvalidInputError("no model has a score to plot; see table.failures")
    return pd.DataFrame(columns)


def plot_heat_map(
    values: pd.DataFrame,
    *,
    higher_is_better: bool = True,
    label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Models x tasks, shaded by the order within each task, the numbers inside.

    Scores of different tasks do not compare, so the shade of a cell tells which share of the
    models on its task are no better, from 0 (the worst) to 1 (the best).

    Args:
        values: models x tasks; NaN cells stay empty.
        higher_is_better: their direction.
        label: what the numbers are.
        ax: where to draw; by default a new figure sized to the table.

    Returns:
        The axes; models by their mean order, the best on top.

    Raises:
        InvalidInputError: there is no number to draw.

    >>> import pandas as pd
    >>> values = pd.DataFrame({"pets": [0.9, 0.8], "cars": [0.3, 0.2]}, ["a", "b"])
    >>> [text.get_text() for text in plot_heat_map(values).get_yticklabels()]
    ['a', 'b']
    """
    numbers = values.to_numpy(float)
    there = np.isfinite(numbers)
    if not there.any():
        raise InvalidInputError("there is no number to draw; every cell is NaN")
    shades = _shades(np.where(there, numbers, np.nan) * (1 if higher_is_better else -1))
    means = np.where(there, shades, 0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    order = np.argsort(-means, kind="stable")
    numbers, shades = numbers[order], shades[order]
    rows, columns = numbers.shape
    ax = new_axes(ax, height=1.6 + 0.3 * rows)
    image = ax.imshow(np.ma.masked_invalid(shades), cmap=MAP, vmin=0, vmax=1, aspect="auto")
    if rows * columns <= MOST_NUMBERS:
        for i, j in zip(*np.nonzero(np.isfinite(numbers)), strict=True):
            colour = "white" if shades[i, j] > 0.6 else "black"
            ax.text(
                j, i, number(numbers[i, j], 3), ha="center", va="center", fontsize=7, color=colour
            )
    ax.set_yticks(range(rows), short_labels(list(values.index[order])))
    ax.set_xticks(range(columns), short_labels(list(values.columns), 24))
    if columns > 4:
        for tick in ax.get_xticklabels():
            tick.set(rotation=30, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, shrink=min(1.0, 4 / rows), pad=0.02, aspect=15)
    bar.set_ticks([0, 1], labels=["worst", "best"])
    bar.outline.set_visible(False)
    ax.set_title(plot_label(label), loc="left")
    return ax


def _shades(numbers: np.ndarray) -> np.ndarray:
    """Place of each number in the order of its column, 0 to 1; NaN stays."""
    from scipy.stats import rankdata

    counts = np.isfinite(numbers).sum(axis=0)
    ranks = rankdata(numbers, axis=0, nan_policy="omit")
    # One number on its own is neither the best nor the worst.
    shades = np.where(counts > 1, (ranks - 1) / np.maximum(counts - 1, 1), 0.5)
    return np.where(np.isfinite(numbers), shades, np.nan)
