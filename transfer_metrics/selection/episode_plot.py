"""Few-shot results as a plot: an ``ax`` in, an ``ax`` out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer_metrics.results.plot_style import COLOURS, MARKERS, MUTED, clean, new_axes
from transfer_metrics.results.wording import plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transfer_metrics.selection.episodes import FewShotResult


def plot_episodes(result: FewShotResult, *, ax: Axes | None = None) -> Axes:
    """Accuracy on the query set against examples per class, with 95 % intervals over episodes.

    The penultimate layer, which the others are compared to, is grey. The points of one number of
    shots stand a little apart, so that intervals do not cover each other.

    Args:
        result: what ``few_shot`` returned.
        ax: where to draw; by default a new figure.

    Returns:
        The axes.

    >>> from transfer_metrics.selection.episodes import FewShotResult
    >>> import numpy as np
    >>> accuracies = np.array([[[0.5, 0.6], [0.7, 0.8]]])
    >>> result = FewShotResult(("penultimate",), (1, 5), accuracies, accuracies, 5, 15, 0)
    >>> plot_episodes(result).get_xlabel()
    'examples per class'
    """
    ax = new_axes(ax, height=4.2)
    frame = result.to_frame()
    places = range(len(result.shots))
    for number, method in enumerate(result.methods):
        curve = frame[frame["method"] == method]
        step = 0.06 * (number - (len(result.methods) - 1) / 2)
        colour = MUTED if number == 0 else COLOURS[(number - 1) % len(COLOURS)]
        ax.errorbar(
            [place + step for place in places],
            curve["accuracy"].to_numpy(),
            yerr=(curve["high"] - curve["accuracy"]).to_numpy(),
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            ms=4.5,
            lw=1.4,
            elinewidth=1.0,
            capsize=2.0,
            label=plot_label(method),
        )
    ax.set_xticks(list(places), [str(k) for k in result.shots])
    ax.set_xlabel("examples per class")
    ax.set_ylabel("accuracy on the query set")
    episodes = result.accuracies.shape[2]
    title = [plot_label(result.title or ""), f"{result.ways}-way, {episodes} episodes"]
    ax.set_title(", ".join(filter(None, title)), loc="left")
    ax.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    clean(ax)
    ax.grid(axis="y", color="#EEEEEE", zorder=0)
    ax.grid(axis="x", visible=False)
    return ax
