"""Plots of a score table: an ``ax`` in, an ``ax`` out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import replacing
from transfer_metrics.results.error_bars import margin
from transfer_metrics.results.plot_names import MUTED, short_labels
from transfer_metrics.results.record import record_label
from transfer_metrics.results.wording import plot_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from transfer_metrics.results.comparable import Place
    from transfer_metrics.results.table import ScoreTable

# Okabe and Ito's palette, which stays apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
# Journals want fonts that are embedded whole; the same numbers give the same file.
RC: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "transfer-metrics"}


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

    def tasks(self, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
        """Models x tasks under one metric; see ``results.heat_map.plot_heat_map``."""
        from transfer_metrics.results.heat_map import plot_heat_map, task_scores

        metric = metric or next(iter(self._table.metrics), "")
        flags = [r["higher_is_better"] for r in self._table.records if record_label(r) == metric]
        better = all(flag is not False for flag in flags)
        values = task_scores(self._table, metric)
        return plot_heat_map(values, higher_is_better=better, label=metric, ax=ax)

    def agreement(
        self,
        accuracies: Mapping[str, float] | ScoreTable,
        metric: str | None = None,
        *,
        ax: Axes | None = None,
        **options: Any,
    ) -> Axes:
        """See ``results.agreement_plot.plot_agreement``."""
        from transfer_metrics.results.agreement_plot import plot_agreement

        return plot_agreement(self._table, accuracies, metric, ax=ax, **options)


def plot_ranking(table: ScoreTable, metric: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Candidates from best to worst as points, with 95 % intervals where the metric has one.

    Models that a race dropped are hollow and grey: their scores are of fewer examples.

    Args:
        table: scores of at least one model.
        metric: the metric, by default the first of the table.
        ax: where to draw; by default a new figure sized to the number of candidates.

    Returns:
        The axes.

    Raises:
        InvalidInputError: no candidate has a score.

    >>> from transfer_metrics.results.table import ScoreTable
    >>> table = ScoreTable([{"model": "a", "layer": "fc", "metric": "knn", "value": 0.7}])
    >>> plot_ranking(table).get_xlabel()
    'knn'
    """
    metric = metric or next(iter(table.metrics), "")
    ranking = table.ranking(metric)
    scored = ranking[ranking["score"].notna()]
    if not len(scored):
        raise InvalidInputError("no model has a score to plot; see table.failures")
    ax = new_axes(ax, height=_ranking_height(len(scored)))
    rounds = {r["model"]: r["round"] for r in table.records}
    dropped = scored["model"].map(rounds).notna().to_numpy()
    places = np.arange(len(scored))
    margins = (scored["high"] - scored["score"]).fillna(0.0)
    ax.hlines(places, scored["score"].min(), scored["score"], color="#E3E3E3", lw=1, zorder=1)
    for chosen, colour, inside in ((~dropped, COLOURS[0], COLOURS[0]), (dropped, MUTED, "white")):
        if chosen.any():
            ax.errorbar(
                scored["score"][chosen], places[chosen], xerr=margins[chosen], fmt="o",
                color=colour, mfc=inside, elinewidth=1.2, capsize=2.5, zorder=2,
                label="dropped from the race: fewer examples" if inside == "white" else None,
            )  # fmt: skip
    if dropped.any():
        ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    layers = [plot_label(layer, 24) for layer in scored["layer"]]
    names = [
        " on ".join(filter(None, [f"{model}  ({layer})", *map(plot_label, others)]))
        for model, layer, *others in zip(
            short_labels(list(scored["model"])),
            layers,
            *(scored[c] for c in ("task", "split", "pool") if c in scored),
            strict=True,
        )
    ]
    ax.set_yticks(places, names)
    ax.set_ylim(len(scored) - 0.4, -0.6)
    ax.set_xlabel(plot_label(metric))
    ax.set_title(_title(table), loc="left")
    clean(ax)
    return ax


def plot_layers(
    table: ScoreTable, metric: str | None = None, *, ax: Axes | None = None, highlight: int = 5
) -> Axes:
    """Score against depth, one curve per model, the best models in colour with 95 % bands.

    Args:
        table: scores of several layers per model.
        metric: the metric, by default the first of the table.
        ax: where to draw; by default a new figure.
        highlight: how many of the best models are coloured and named; the rest is grey.

    Returns:
        The axes.

    Raises:
        InvalidInputError: no layer has a score.

    >>> from transfer_metrics.results.table import ScoreTable
    >>> record = {"model": "a", "metric": "knn", "value": 0.7}
    >>> table = ScoreTable([{**record, "depth": d, "layer": str(d)} for d in (0.5, 1.0)])
    >>> len(plot_layers(table).lines)
    1
    """
    metric = metric or next(iter(table.metrics), "")
    found: list[tuple[int, str, Place, pd.DataFrame]] = []
    for place, records in table.places(metric).items():
        part = type(table)(records, table.view)
        frame, ranking = part.to_frame(), part.ranking(metric, view="best").dropna(subset="score")
        frame = frame[[r.label == metric for r in records]]
        frame = frame.dropna(subset=["value", "depth"]).sort_values("depth")
        names = enumerate(map(str, ranking["model"]))
        found += [(rank, model, place, frame) for rank, model in names]
    if not found:
        raise InvalidInputError("no layer has a score to plot; see table.failures")
    found.sort(key=lambda row: row[0])
    several = len({place for _, _, place, _ in found}) > 1
    order = [f"{m} on {' '.join(filter(None, p[:3]))}" if several else m for _, m, p, _ in found]
    ax = new_axes(ax, height=4.2)
    handles = []
    for i, (_, model, _, frame) in reversed(list(enumerate(found))):
        curve = frame[frame["model"] == model]
        if i >= highlight:
            ax.plot(curve["depth"], curve["value"], color=MUTED, lw=0.8, alpha=0.6, zorder=1)
            continue
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        halves = list(map(margin, curve["stderr"], curve["deviations"]))
        low, high = curve["value"] - halves, curve["value"] + halves
        ax.fill_between(curve["depth"], low, high, color=colour, alpha=0.12, lw=0, zorder=2)
        handles += ax.plot(
            curve["depth"], curve["value"], color=colour, marker=marker, lw=1.6, ms=4, zorder=3
        )
    ax.set_xlabel("depth (share of the network)")
    ax.set_ylabel(plot_label(metric))
    ax.set_title(_title(table), loc="left")
    labels = short_labels(order[: len(handles)], 26)
    others = len(order) - len(handles)
    title = f"best {len(handles)}, {others} more in grey" if others else None
    ax.legend(
        handles[::-1], labels, title=title, frameon=False, fontsize=8, title_fontsize=8,
        loc="upper left", bbox_to_anchor=(1, 1), alignment="left",
    )  # fmt: skip
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
    import matplotlib
    from matplotlib.figure import Figure

    path, suffix = Path(path), plot_format(path)
    # A figure of its own keeps pyplot's global state out of libraries and threads.
    figure = Figure(figsize=(7.5, height), layout="constrained")
    draw(figure.subplots())
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    with replacing(path) as temporary, matplotlib.rc_context(RC):
        figure.savefig(temporary, dpi=150, format=suffix, metadata=date)
    return str(path)


def plot_format(path: str | os.PathLike[str]) -> str:
    """The format that the ending of a file asks for.

    Raises:
        InvalidInputError: none that can be drawn.

    >>> plot_format("curve.SVG")
    'svg'
    """
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in ("png", "svg", "pdf"):
        raise InvalidInputError(
            f"cannot draw into {Path(path).name!r}; end its name in .png, .svg or .pdf"
        )
    return suffix


def new_axes(ax: Axes | None, height: float) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(7.5, height), layout="constrained")[1]


def _title(table: ScoreTable) -> str:
    tasks = sorted({str(r["task"]) for r in table.records if r["task"]})
    return ", ".join(map(plot_label, tasks))


def _ranking_height(rows: int) -> float:
    return 1.2 + 0.28 * rows


def clean(ax: Axes) -> None:
    """The house style: no frame on the right and above, a light grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#EEEEEE", zorder=0)
    ax.set_axisbelow(True)
