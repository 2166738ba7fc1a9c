"""What metrics are worth against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.report.plots import COLOURS, MUTED, clean, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Lines of text this many points apart do not touch.
LINE = 9.0


@dataclass(frozen=True)
class Worth:
    """A metric's agreement, with its interval, and the seconds that one scoring takes."""

    name: str
    agreement: float
    low: float
    high: float
    seconds: float


def plot_trade_off(metrics: Sequence[Worth], *, ax: Axes | None = None) -> Axes:
    """Agreement against cost: the upper left is where to be.

    Metrics that no other beats in both are drawn in colour with their intervals and joined by
    steps. All are named, and names that would collide are moved apart.

    Args:
        metrics: what to draw; those without agreement or time are left out.
        ax: where to draw; a new figure by default.

    Raises:
        InvalidInputError: nothing is left to draw.

    >>> ax = plot_trade_off([Worth("knn", 0.7, 0.5, 0.8, 0.1), Worth("lfc", 0.4, 0.1, 0.6, 0.01)])
    >>> ax.get_xscale()
    'log'
    """
    shown = [m for m in metrics if np.isfinite(m.agreement) and m.seconds > 0]
    if not shown:
        raise InvalidInputError("no metric has both an agreement and a time to draw")
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
    ax.set_ylabel("weighted tau with accuracies, mean over tasks")
    clean(ax)
    _name(ax, shown, front)
    return ax


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


def free_places(
    points: Sequence[tuple[float, float]], widths: Sequence[float], line: float = LINE
) -> list[float]:
    """How far up or down a name right of each point has to move to touch no other name or point.

    Args:
        points: x and y of the points.
        widths: of the names, in the same unit.
        line: height of a name.

    Returns:
        The shortest shift for each, in the order of the points, up before down.

    >>> free_places([(0.0, 0.0), (1.0, 1.0), (50.0, 0.0)], [20.0, 20.0, 20.0], 10.0)
    [0.0, 10.0, 0.0]
    """
    taken = [(x - 3, y, x + 3, line * 0.6) for x, y in points]
    shifts = []
    for (x, y), width in zip(points, widths, strict=True):
        steps = sorted((k * line / 2 for k in range(-24, 25)), key=lambda s: (abs(s), -s))
        left, right = x + 5, x + 5 + width

        def free(shift: float, left: float = left, right: float = right, y: float = y) -> bool:
            return not any(
                left < end and right > start and abs(y + shift - at) < (line + height) / 2
                for start, at, end, height in taken
            )

        shift = next((step for step in steps if free(step)), 0.0)
        taken.append((left, y + shift, right, line))
        shifts.append(shift)
    return shifts


def _name(ax: Axes, shown: Sequence[Worth], front: Sequence[Worth]) -> None:
    """Names right of the points, those in front first, none on another."""
    ax.figure.canvas.draw()
    ordered = [*front, *(m for m in shown if m not in front)]
    places = ax.transData.transform([(m.seconds, m.agreement) for m in ordered])
    points = [(float(x), float(y)) for x, y in places * 72 / ax.figure.dpi]
    shifts = free_places(points, [4.4 * len(m.name) for m in ordered])
    for metric, shift in zip(ordered, shifts, strict=True):
        ax.annotate(
            metric.name,
            (metric.seconds, metric.agreement),
            (6, shift),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color="black" if metric in front else "#666666",
        )
