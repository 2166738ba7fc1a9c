"""Plots of points and curves: numbers and an ``ax`` in, an ``ax`` out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.plot_style import (
    COLOURS,
    MARKERS,
    MUTED,
    clean,
    name_points,
    new_axes,
    short_labels,
    task_title,
    titled,
)
from transfer_metrics.results.record import Record
from transfer_metrics.results.wording import fixed, plot_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_TRADE_OFF = ("metric", "seconds", "agreement", "low", "high")
# Grey curves and names of points that can be read; the best are drawn.
_MOST_CURVES, _MOST_NAMES = 60, 24


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
    ax = new_axes(ax, 4.2)
    handles = []
    drawn = curves[: highlight + _MOST_CURVES]
    for i, (_, _, records) in reversed(list(enumerate(drawn))):
        x = [r.depth or 0.0 for r in records]
        y = np.array([r.value for r in records], float)
        if i >= highlight:
            ax.plot(x, y, color=MUTED, lw=0.8, alpha=0.6, zorder=1)
            continue
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        halves = [r.half_width for r in records]
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


def plot_agreement(
    points: Mapping[str, tuple[float, float]],
    metric: str,
    tau: Sequence[float],
    *,
    ax: Axes | None = None,
) -> Axes:
    """What ``TablePlots.agreement`` draws, with ``tau`` and the ends of its interval."""
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


def plot_trade_off(frame: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Agreement of metrics with accuracies against their cost: the upper left is where to be.

    Metrics that no other beats in both are drawn in colour with their intervals and joined by
    steps. All are named, and names that would collide are moved apart.

    The frame has one row per metric: ``metric``, its name; ``seconds``, its cost; ``agreement``,
    such as weighted Kendall's tau; ``low`` and ``high``, the ends of its interval, NaN where it has
    none. Rows without agreement, or without seconds above 0, are left out.

    >>> import pandas as pd
    >>> row = {"metric": "logme", "seconds": 0.1, "agreement": 0.8, "low": 0.6, "high": 0.9}
    >>> plot_trade_off(pd.DataFrame([row])).get_xscale()
    'log'
    """
    missing = [name for name in _TRADE_OFF if name not in frame]
    if missing:
        raise InvalidInputError(
            f"the frame has no column {', '.join(missing)}; it needs {', '.join(_TRADE_OFF)}"
        )
    numbers = frame[list(_TRADE_OFF[1:])].astype(float)
    shown = np.isfinite(numbers["agreement"]) & (numbers["seconds"] > 0)
    if not shown.any():
        raise InvalidInputError(
            "no metric has both an agreement and a time to draw; time and judge some first"
        )
    ax = new_axes(ax, height=6.0)
    seconds, agreement, low, high = numbers[shown].to_numpy().T
    # Those that no other is both at least as good as and cheaper, or better than and as cheap.
    better, cheaper = (np.subtract.outer(v, v) for v in (agreement, -seconds))
    beaten = ((better >= 0) & (cheaper > 0)) | ((better > 0) & (cheaper >= 0))
    front = ~beaten.any(axis=0)
    for x, y, *ends, is_front in zip(seconds, agreement, low, high, front, strict=True):
        if is_front:
            ax.plot([x, x], ends, color=COLOURS[0], alpha=0.3, lw=1)
        ax.plot(x, y, "o", color=COLOURS[0] if is_front else MUTED, ms=5)
    steps = np.flatnonzero(front)[np.argsort(seconds[front], kind="stable")]
    ax.step(seconds[steps], agreement[steps], where="post", color=COLOURS[0], lw=1, alpha=0.6)
    ax.set_xscale("log")
    ax.set_xlabel("seconds per model (one scoring)")
    ax.set_ylabel("agreement with accuracies (weighted tau)")
    clean(ax)
    titled(ax, "")
    order = np.argsort(~front, kind="stable")
    names = [str(name) for name in frame["metric"][shown]]
    name_points(
        ax,
        list(zip(seconds[order], agreement[order], strict=True)),
        short_labels([names[i] for i in order]),
        ["black" if front[i] else "#666666" for i in order],
    )
    return ax
