"""What metrics are worth against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.plot_names import MUTED, name_points, short_labels
from transfer_metrics.results.plots import COLOURS, clean, new_axes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("metric", "seconds", "agreement", "low", "high")


@dataclass(frozen=True)
class Worth:
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

    Returns:
        The axes, with seconds on a logarithmic scale.

    Raises:
        InvalidInputError: a column is missing, or no row has both numbers.

    >>> import pandas as pd
    >>> row = {"metric": "logme", "seconds": 0.1, "agreement": 0.8, "low": 0.6, "high": 0.9}
    >>> plot_trade_off(pd.DataFrame([row])).get_xscale()
    'log'
    """
    shown = _worth(frame)
    ax = new_axes(ax, height=6.0)
    front = efficient(shown)
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
    ordered = [*front, *(m for m in shown if m not in front)]
    name_points(
        ax,
        [(m.seconds, m.agreement) for m in ordered],
        short_labels([m.name for m in ordered]),
        ["black" if m in front else "#666666" for m in ordered],
    )
    return ax


def _worth(frame: pd.DataFrame) -> list[Worth]:
    """What can be drawn of a frame."""
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise InvalidInputError(
            f"the frame has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
        )
    rows = frame[list(COLUMNS)].to_dict("records")
    numbers = [[float(r[c]) for c in ("agreement", "low", "high", "seconds")] for r in rows]
    worth = [Worth(str(r["metric"]), *n) for r, n in zip(rows, numbers, strict=True)]
    shown = [m for m in worth if np.isfinite(m.agreement) and m.seconds > 0]
    if not shown:
        raise InvalidInputError(
            "no metric has both an agreement and a time to draw; time and judge some first"
        )
    return shown


def efficient(metrics: Sequence[Worth]) -> list[Worth]:
    """The metrics that no other is both at least as good and cheaper, or better and as cheap.

    >>> given = [("a", 0.7, 0.1), ("b", 0.6, 0.2), ("c", 0.5, 0.01)]
    >>> [m.name for m in efficient([Worth(name, tau, 0, 1, s) for name, tau, s in given])]
    ['a', 'c']
    """
    return [
        m
        for m in metrics
        if not any(
            (o.agreement >= m.agreement and o.seconds < m.seconds)
            or (o.agreement > m.agreement and o.seconds <= m.seconds)
            for o in metrics
        )
    ]
