"""Plots of a score table: an ``ax`` in, an ``ax`` out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import replacing
from transfer_metrics.ranking.table import record_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transfer_metrics.ranking.table import ScoreTable

# Okabe and Ito's palette, which stays apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
MUTED = "#9A9A9A"


class TablePlots:
    """The plots of one table; ``table.plot``."""

    def __init__(self, table: ScoreTable) -> None:
        self._table = table

    def ranking(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """See ``plot_ranking``."""
        return plot_ranking(self._table, metric, ax=ax)

    def layers(
        self, metric: str | None = None, *, ax: Axes | None = None, highlight: int = 5
    ) -> Axes:
        """See ``plot_layers``."""
        return plot_layers(self._table, metric, ax=ax, highlight=highlight)

    def agreement(
        self,
        accuracies: Mapping[str, float] | ScoreTable,
        metric: str | None = None,
        *,
        ax: Axes | None = None,
        **options: Any,
    ) -> Axes:
        """See ``report.agreement.plot_agreement``."""
        from transfer_metrics.report.agreement import plot_agreement

        return plot_agreement(self._table, accuracies, metric, ax=ax, **options)


def plot_ranking(table: ScoreTable, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Candidates from best to worst as points, with 95 % intervals where the metric has one.

    Args:
        table: scores of at least one model.
        metric: the metric, by default the first of the table.
        ax: where to draw; by default a new figure sized to the number of candidates.

    Returns:
        The axes.

    Raises:
        InvalidInputError: no candidate has a score.

    >>> from transfer_metrics.ranking.table import ScoreTable
    >>> table = ScoreTable([{"model": "a", "layer": "fc", "metric": "knn", "value": 0.7}])
    >>> plot_ranking(table).get_xlabel()
    'knn'
    """
    metric = metric or next(iter(table.metrics), None)
    ranking = table.ranking(metric)
    scored = ranking[ranking["score"].notna()]
    if not len(scored):
        raise InvalidInputError("no model has a score to plot; see table.failures")
    ax = new_axes(ax, height=_ranking_height(len(scored)))
    places = range(len(scored))
    margins = 1.96 * scored["stderr"].fillna(0.0)
    ax.hlines(places, scored["score"].min(), scored["score"], color="#E3E3E3", lw=1, zorder=1)
    ax.errorbar(
        scored["score"], list(places), xerr=margins, fmt="o", color=COLOURS[0],
        ecolor=COLOURS[0], elinewidth=1.2, capsize=2.5, zorder=2,
    )  # fmt: skip
    names = [f"{row.model}  ({row.layer})" for row in scored.itertuples()]
    ax.set_yticks(list(places), names)
    ax.invert_yaxis()
    ax.set_xlabel(str(metric))
    ax.set_title(_title(table), loc="left")
    clean(ax)
    return ax


def plot_layers(
    table: ScoreTable, metric: str | None = None, *, ax: Axes | None = None, highlight: int = 5
) -> Axes:
    """Score against depth, one curve per model, the best models in colour.

    Args:
        table: scores of several layers per model.
        metric: the metric, by default the first of the table.
        ax: where to draw; by default a new figure.
        highlight: how many of the best models are coloured and named; the rest is grey.

    Returns:
        The axes.

    Raises:
        InvalidInputError: no layer has a score.

    >>> from transfer_metrics.ranking.table import ScoreTable
    >>> record = {"model": "a", "metric": "knn", "value": 0.7}
    >>> table = ScoreTable([{**record, "depth": d, "layer": str(d)} for d in (0.5, 1.0)])
    >>> len(plot_layers(table).lines)
    1
    """
    metric = metric or next(iter(table.metrics), None)
    order = list(table.ranking(metric, view="best").dropna(subset="score")["model"])
    if not order:
        raise InvalidInputError("no layer has a score to plot; see table.failures")
    frame = table.to_frame().assign(label=[record_label(r) for r in table.records])
    frame = frame[(frame["label"] == metric) & frame["value"].notna() & frame["depth"].notna()]
    ax = new_axes(ax, height=4.2)
    for place, model in reversed(list(enumerate(order))):
        curve = frame[frame["model"] == model].sort_values("depth")
        coloured = place < highlight
        style: dict[str, Any] = {"color": MUTED, "lw": 0.8, "alpha": 0.6, "zorder": 1}
        if coloured:
            style = {
                "color": COLOURS[place % len(COLOURS)],
                "marker": MARKERS[place % len(MARKERS)],
                "lw": 1.6,
                "ms": 4,
                "label": model,
                "zorder": 3,
            }
        ax.plot(curve["depth"], curve["value"], **style)
    ax.set_xlabel("depth (share of the network)")
    ax.set_ylabel(str(metric))
    ax.set_title(_title(table), loc="left")
    handles, labels = ax.get_legend_handles_labels()
    others = len(order) - len(handles)
    title = f"best {len(handles)}, {others} more in grey" if others else None
    ax.legend(handles[::-1], labels[::-1], title=title, frameon=False, fontsize=8, title_fontsize=8)
    clean(ax)
    return ax


def save_plot(
    table: ScoreTable, kind: str, path: str | os.PathLike[str], metric: str | None = None
) -> str:
    """Draw ``"ranking"`` or ``"layers"`` into a PNG, SVG or PDF file, by its ending.

    Returns:
        The path that was written.

    Raises:
        InvalidInputError: an unknown ending, or a place that cannot be written to.
    """
    draw = {"ranking": plot_ranking, "layers": plot_layers}[kind]
    height = _ranking_height(len(table.ranking(metric))) if kind == "ranking" else 4.2
    return save_figure(lambda ax: draw(table, metric, ax=ax), path, height)


def save_figure(draw: Callable[[Axes], Any], path: str | os.PathLike[str], height: float) -> str:
    """Draw into a PNG, SVG or PDF file, by its ending; it appears whole or not at all.

    Args:
        draw: draws on the axes it is given.
        path: the file.
        height: of the figure, in inches.

    Returns:
        The path that was written.

    Raises:
        InvalidInputError: an unknown ending, or a place that cannot be written to.
    """
    from matplotlib.figure import Figure

    path = Path(path)
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in ("png", "svg", "pdf"):
        raise InvalidInputError(f"cannot draw into {path.name!r}; end its name in .png, .svg, .pdf")
    # A figure of its own keeps pyplot's global state out of libraries and threads.
    figure = Figure(figsize=(7.5, height), layout="constrained")
    draw(figure.subplots())
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format=suffix)
    return str(path)


def new_axes(ax: Axes | None, height: float) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(7.5, height), layout="constrained")[1]


def _title(table: ScoreTable) -> str:
    tasks = sorted({str(r["task"]) for r in table.records if r["task"]})
    return ", ".join(tasks)


def _ranking_height(rows: int) -> float:
    return 1.2 + 0.28 * rows


def clean(ax: Axes) -> None:
    """The house style: no frame on the right and above, a light grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#EEEEEE", zorder=0)
    ax.set_axisbelow(True)
