"""Every plot of results: numbers and an ``ax`` in, an ``ax`` out."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.error_bars import margin
from transfer_metrics.results.plot_style import (
    COLOURS,
    MARKERS,
    MUTED,
    clean,
    legend_above,
    name_points,
    named_rows,
    new_axes,
    rows_height,
    short_labels,
    task_title,
    titled,
)
from transfer_metrics.results.record import Record
from transfer_metrics.results.wording import fixed, number, plot_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TRADE_OFF = ("metric", "seconds", "agreement", "low", "high")
"""Columns of what ``plot_trade_off`` draws."""
# From white to dark blue: order is told by lightness alone, which survives grey printing.
MAP = "Blues"
_MOST_NUMBERS = 400
# Rows, grey curves and names of points that can be read; the best are drawn.
_MOST_ROWS, _MOST_CURVES, _MOST_NAMES = 40, 60, 24


def plot_ranking(
    ranking: pd.DataFrame,
    metric: str,
    *,
    tasks: Sequence[str] = (),
    dropped: Collection[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Candidates of ``ScoreTable.ranking`` as points, with 95 % intervals where there are any.

    Models that a race dropped are hollow and grey: their scores are of fewer examples. Of more than
    ``_MOST_ROWS`` candidates the best are drawn, as many of each task.
    """
    import pandas as pd

    if not ranking["score"].notna().any():
        raise InvalidInputError("no model has a score to plot; see table.failures")
    groups = _best_of_each(ranking)
    ax = new_axes(ax, height=ranking_height(ranking))
    scored = pd.concat(list(groups.values()))
    layers = [plot_label(layer, 20) for layer in scored["layer"]]
    names = short_labels(list(scored["model"]), 34)
    rows = iter([f"{n}  ({la})" if la else n for n, la in zip(names, layers, strict=True)])
    headings = short_labels(list(groups), 44)
    parts = [[next(rows) for _ in range(len(own))] for own in groups.values()]
    places = np.array(named_rows(ax, dict(zip(headings, parts, strict=True))))
    worst = np.repeat([own["score"].min() for own in groups.values()], list(map(len, parts)))
    ax.hlines(places, worst, scored["score"], color="#E3E3E3", lw=1, zorder=1)
    out = scored["model"].isin(list(dropped)).to_numpy()
    margins = (scored["high"] - scored["score"]).fillna(0.0)
    for chosen, colour, inside in ((~out, COLOURS[0], COLOURS[0]), (out, MUTED, "white")):
        if chosen.any():
            drawn = ax.errorbar(
                scored["score"][chosen], places[chosen], xerr=margins[chosen], fmt="o",
                color=colour, mfc=inside, elinewidth=1.2, capsize=2.5, zorder=2,
            )  # fmt: skip
    ax.set_xlabel(plot_label(metric))
    clean(ax)
    if out.any():
        legend_above(ax, [drawn], ["dropped from the race: fewer examples"])
    total = int(ranking["score"].notna().sum())
    notes = [f"the best {len(scored)} of {total}"] if total > len(scored) else []
    notes += ["scores of different tasks do not compare"] if "task" in ranking else []
    titled(ax, task_title(tasks) if len(groups) == 1 else "", "; ".join(notes))
    return ax


def ranking_height(ranking: pd.DataFrame) -> float:
    """Inches for the candidates of a ranking that are drawn."""
    groups = _best_of_each(ranking)
    return rows_height(sum(map(len, groups.values())), len(groups))


def _best_of_each(ranking: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The best candidates by what they compare with; by an empty text where all compare."""
    scored = ranking[ranking["score"].notna()]
    by = [name for name in ("task", "split", "pool") if name in scored]
    if not by:
        return {"": scored.head(_MOST_ROWS)}
    groups = {
        ", ".join(map(str, filter(None, key))) or "unnamed task": own
        for key, own in scored.groupby(by, sort=False)
    }
    return {name: own.head(max(_MOST_ROWS // len(groups), 3)) for name, own in groups.items()}


def plot_layers(
    curves: Sequence[tuple[str, str, Sequence[Record]]],
    metric: str,
    *,
    tasks: Sequence[str] = (),
    highlight: int = 5,
    ax: Axes | None = None,
) -> Axes:
    """Score against depth, a curve per model and task, the first in colour with 95 % bands.

    Of the others ``_MOST_CURVES`` at most are drawn.
    """
    if not curves:
        raise InvalidInputError("no layer has a score to plot; see table.failures")
    ax = new_axes(ax, height=LAYERS_HEIGHT)
    handles = []
    drawn = curves[: highlight + _MOST_CURVES]
    for i, (_, _, records) in reversed(list(enumerate(drawn))):
        x = [r.depth or 0.0 for r in records]
        y = np.array([r.value for r in records], float)
        if i >= highlight:
            ax.plot(x, y, color=MUTED, lw=0.8, alpha=0.6, zorder=1)
            continue
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        errors = [math.nan if r.stderr is None else r.stderr for r in records]
        halves = list(map(margin, errors, [r.deviations for r in records]))
        ax.fill_between(x, y - halves, y + halves, color=colour, alpha=0.12, lw=0, zorder=2)
        handles += ax.plot(x, y, color=colour, marker=marker, lw=1.6, ms=4, zorder=3)
    ax.set_xlabel("depth (share of the network)")
    ax.set_ylabel(plot_label(metric))
    named = curves[: len(handles)]
    labels = short_labels([model for model, _, _ in named], 28)
    where = short_labels([task for _, task, _ in named], 28)
    labels = [f"{m}\n  on {t}" if t else m for m, t in zip(labels, where, strict=True)]
    others, grey = len(curves) - len(handles), len(drawn) - len(handles)
    left_out = f" of {others}" if others > grey else " more"
    title = f"best {len(handles)}, {grey}{left_out} in grey" if others else None
    ax.legend(
        handles[::-1], labels, title=title, frameon=False, fontsize=8, title_fontsize=8,
        loc="upper left", bbox_to_anchor=(1, 1), alignment="left",
    )  # fmt: skip
    clean(ax)
    titled(ax, task_title(tasks))
    return ax


LAYERS_HEIGHT = 4.2


def plot_agreement(
    points: Mapping[str, tuple[float, float]],
    metric: str,
    tau: Sequence[float],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Score against accuracy, a named point per model, with the straight line of least squares.

    The title has ``tau``: weighted Kendall's, and the ends of its interval.
    """
    x, y = np.array(list(points.values()), float).T
    ax = new_axes(ax, height=4.8)
    if np.ptp(x) > 0:
        slope, start = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, slope * ends + start, color=MUTED, lw=1, zorder=1)
    ax.scatter(x, y, color=COLOURS[0], s=28, zorder=2)
    ax.margins(x=0.06, y=0.08)
    ax.set_xlabel(plot_label(metric))
    ax.set_ylabel("accuracy")
    value, low, high = tau
    interval = "" if math.isnan(low) else f" ({fixed(low)} to {fixed(high)})"
    clean(ax)
    # The best by either are named, where there is no room for all.
    best = np.minimum(np.argsort(np.argsort(-x)), np.argsort(np.argsort(-y)))
    order = np.argsort(best, kind="stable")
    named = order[:_MOST_NAMES]
    note = "the best by either are named" if len(named) < len(points) else ""
    titled(ax, f"weighted tau {fixed(value)}{interval}, {len(points)} models", note)
    names = short_labels([list(points)[i] for i in named])
    name_points(ax, [(x[i], y[i]) for i in order], names, size=7.0)
    return ax


def plot_comparison(
    summary: pd.DataFrame,
    shifts: Sequence[str] = (),
    *,
    tasks: Sequence[str] = (),
    measure: str = "accuracy",
    ax: Axes | None = None,
) -> Axes:
    """Accuracy, or another measure, of every head of ``Comparison.summary``, with 95 % intervals.

    A row per model and head, a colour and marker per data set.
    """
    if "test" not in summary or not summary["test"].notna().any():
        raise InvalidInputError("no head has an accuracy to plot; see table.failures")
    import pandas as pd

    total, names = int(summary["test"].notna().sum()), ["test", *shifts]
    ax = new_axes(ax, height=comparison_height(summary))
    groups = _best_heads(summary)
    summary = pd.concat(list(groups.values()))
    heads = short_labels(list(summary.index.get_level_values("head")), 44)
    labels = iter(heads)
    parts = {label: [next(labels) for _ in range(len(own))] for label, own in groups.items()}
    if len(parts) == len(heads) > 1:
        only = len(set(heads)) == 1
        parts = {"": [m if only else f"{m}  {own[0]}" for m, own in parts.items()]}
    rows = named_rows(ax, parts)
    values = 100 * summary[names].to_numpy(float)
    ax.hlines(rows, np.nanmin(values, axis=1), np.nanmax(values, axis=1), color="#DDDDDD", lw=1)
    drawn = [
        ax.errorbar(
            values[:, place], rows, xerr=100 * summary[f"± {name}"].to_numpy(float),
            fmt=MARKERS[place % len(MARKERS)], color=COLOURS[place % len(COLOURS)],
            ms=5, elinewidth=1, capsize=2,
        )
        for place, name in enumerate(names)
    ]  # fmt: skip
    ax.set_xlabel(f"{measure}, %")
    clean(ax)
    # Given as a list, because a label that starts with an underscore would be left out.
    legend_above(ax, drawn, ["in distribution", *short_labels(shifts)])
    one = [] if len(groups) > 1 else short_labels([summary.index.get_level_values("model")[0]], 60)
    where = [] if "task" in summary.index.names else [task_title(tasks)]
    note = f"the best {len(summary)} of {total} heads" if total > len(summary) else ""
    titled(ax, " on ".join(filter(None, [*one, *where])), note)
    return ax


def comparison_height(summary: pd.DataFrame) -> float:
    """Inches for the heads of ``Comparison.summary`` that are drawn."""
    groups = _best_heads(summary)
    return rows_height(sum(map(len, groups.values())), len(groups)) + 0.2


def _best_heads(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The best heads by model, and task where there are several, in the order of the table."""
    summary = summary[summary["test"].notna()]
    best = np.argsort(-summary["test"].to_numpy(float), kind="stable")[:_MOST_ROWS]
    by = [name for name in summary.index.names if name != "head"]
    found = dict(list(summary.iloc[np.sort(best)].groupby(level=by, sort=False)))
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    limit = 34 // len(by) + 8
    models, *tasks = (short_labels(part, limit) for part in zip(*found, strict=True))
    labels = [" on ".join(parts) for parts in zip(models, *tasks, strict=True)]
    return dict(zip(labels, found.values(), strict=True))


def plot_heat_map(
    values: pd.DataFrame,
    *,
    higher_is_better: bool = True,
    label: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Models x tasks, shaded by the order within each task, the numbers inside.

    Scores of different tasks do not compare, so the shade of a cell tells which share of the
    models on its task are no better, from 0 (the worst) to 1 (the best). Cells that are NaN stay
    empty; models go by their mean order, the best on top, of many only these.

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
    order = np.argsort(-means, kind="stable")[:_MOST_ROWS]
    numbers, shades = numbers[order], shades[order]
    rows, columns = numbers.shape
    ax = new_axes(ax, height=heat_map_height(len(values)))
    image = ax.imshow(np.ma.masked_invalid(shades), cmap=MAP, vmin=0, vmax=1, aspect="auto")
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
    bar = ax.figure.colorbar(image, ax=ax, shrink=min(1.0, 4 / rows), pad=0.02, aspect=15)
    bar.set_ticks([0, 1], labels=["worst", "best"])
    bar.outline.set_visible(False)
    left_out = len(values) > rows
    titled(ax, plot_label(label), f"the best {rows} of {len(values)} models" if left_out else "")
    return ax


def heat_map_height(rows: int) -> float:
    """Inches for so many models, of which some may not be drawn."""
    return rows_height(min(rows, _MOST_ROWS)) + 0.6


def _shades(numbers: np.ndarray) -> np.ndarray:
    """Place of each number in the order of its column, 0 to 1; NaN stays."""
    from scipy.stats import rankdata

    counts = np.isfinite(numbers).sum(axis=0)
    ranks = rankdata(numbers, axis=0, nan_policy="omit")
    # One number on its own is neither the best nor the worst.
    shades = np.where(counts > 1, (ranks - 1) / np.maximum(counts - 1, 1), 0.5)
    return np.where(np.isfinite(numbers), shades, np.nan)


@dataclass(frozen=True)
class _Worth:
    """A metric's agreement, with its interval, and the seconds that one scoring takes."""

    name: str
    agreement: float
    low: float
    high: float
    seconds: float


def plot_trade_off(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Agreement of metrics with accuracies against their cost: the upper left is where to be.

    Metrics that no other beats in both are drawn in colour with their intervals and joined by
    steps. All are named, and names that would collide are moved apart.

    Args:
        frame: one row per metric: ``metric``, its name; ``seconds``, its cost; ``agreement``, such
            as weighted Kendall's tau; ``low`` and ``high``, the ends of its interval, NaN where it
            has none. Rows without agreement, or without seconds above 0, are left out.
        ax: where to draw; a new figure by default.

    >>> import pandas as pd
    >>> row = {"metric": "logme", "seconds": 0.1, "agreement": 0.8, "low": 0.6, "high": 0.9}
    >>> plot_trade_off(pd.DataFrame([row])).get_xscale()
    'log'
    """
    missing = [name for name in TRADE_OFF if name not in frame]
    if missing:
        raise InvalidInputError(
            f"the frame has no column {', '.join(missing)}; it needs {', '.join(TRADE_OFF)}"
        )
    rows = frame[list(TRADE_OFF)].to_dict("records")
    numbers = [[float(r[c]) for c in ("agreement", "low", "high", "seconds")] for r in rows]
    worth = [_Worth(str(r["metric"]), *n) for r, n in zip(rows, numbers, strict=True)]
    shown = [m for m in worth if np.isfinite(m.agreement) and m.seconds > 0]
    if not shown:
        raise InvalidInputError(
            "no metric has both an agreement and a time to draw; time and judge some first"
        )
    ax = new_axes(ax, height=6.0)
    front = _efficient(shown)
    for metric in shown:
        colour = COLOURS[0] if metric in front else MUTED
        if metric in front:
            ends = [metric.low, metric.high]
            ax.plot([metric.seconds] * 2, ends, color=colour, alpha=0.3, lw=1)
        ax.plot(metric.seconds, metric.agreement, "o", color=colour, ms=5)
    steps = sorted(front, key=lambda m: m.seconds)
    x, y = [m.seconds for m in steps], [m.agreement for m in steps]
    ax.step(x, y, where="post", color=COLOURS[0], lw=1, alpha=0.6)
    ax.set_xscale("log")
    ax.set_xlabel("seconds per model (one scoring)")
    ax.set_ylabel("agreement with accuracies (weighted tau)")
    clean(ax)
    titled(ax, "")
    ordered = [*front, *(m for m in shown if m not in front)]
    name_points(
        ax,
        [(m.seconds, m.agreement) for m in ordered],
        short_labels([m.name for m in ordered]),
        ["black" if m in front else "#666666" for m in ordered],
    )
    return ax


def _efficient(metrics: Sequence[_Worth]) -> list[_Worth]:
    """The metrics that no other is both at least as good and cheaper, or better and as cheap."""
    return [
        m
        for m in metrics
        if not any(
            (o.agreement >= m.agreement and o.seconds < m.seconds)
            or (o.agreement > m.agreement and o.seconds <= m.seconds)
            for o in metrics
        )
    ]
