"""Names in plots: short enough to leave room for the data, and none on another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transfer_metrics.naming import told_apart
from transfer_metrics.results.wording import plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Lines of text this many points apart do not touch; a letter is about this wide.
LINE, LETTER = 9.0, 4.4
MUTED = "#9A9A9A"
# Names right of this share of the axes are written to the left of their points.
RIGHT = 0.65
# Letters of the longest label.
MOST = 80


def short_labels(names: Sequence[object], limit: int = 30) -> list[str]:
    """Labels for matplotlib of at most so many letters, as different as the names are.

    Where a name is longer, what all begin with is left out, up to a colon or slash, and what is
    still longer loses its middle.

    >>> short_labels(["hf:org/one-of-many-models-patch16-224", "hf:org/two"], limit=12)
    ['one-of…6-224', 'two']
    >>> short_labels(["zoo:a", "zoo:b"])
    ['zoo:a', 'zoo:b']
    """
    texts = [str(name) for name in names]
    if all(len(text) <= limit for text in texts):
        return [plot_label(text) for text in texts]
    # What the first and the last in order begin with, all do.
    pairs = enumerate(zip(min(texts), max(texts), strict=False))
    common = next((i for i, (a, b) in pairs if a != b), 0)
    cut = max(texts[0].rfind(mark, 0, common) for mark in ":/") + 1
    labels: list[str] = []
    for longest in range(limit, MOST, 6):
        labels = [plot_label(text[cut:], longest) for text in texts]
        if len(set(labels)) == len(set(texts)):
            return labels
    # Equal names stay equal, as those of a model with several layers; others get a number.
    numbered = dict(zip(dict.fromkeys(texts), told_apart(_one_each(texts, labels)), strict=True))
    return [numbered[text] for text in texts]


def _one_each(texts: Sequence[str], labels: Sequence[str]) -> list[str]:
    return list(dict(zip(texts, labels, strict=True)).values())


def free_places(
    points: Sequence[tuple[float, float]],
    spans: Sequence[tuple[float, float]],
    line: float = LINE,
) -> list[float]:
    """How far up or down the name of each point has to move to touch no other name or point.

    Args:
        points: x and y of the points.
        spans: where each name begins and ends in x, in the same unit.
        line: height of a name.

    Returns:
        The shortest shift for each, in the order of the points, up before down.

    >>> free_places([(0, 0), (1, 1), (50, 0)], [(5, 25), (6, 26), (55, 75)], 10.0)
    [0.0, 10.0, 0.0]
    """
    taken = [(x - 3, y, x + 3, line * 0.6) for x, y in points]
    shifts = []
    for (_, y), (left, right) in zip(points, spans, strict=True):
        steps = sorted((k * line / 2 for k in range(-24, 25)), key=lambda s: (abs(s), -s))

        def free(shift: float, left: float = left, right: float = right, y: float = y) -> bool:
            return not any(
                left < end and right > start and abs(y + shift - at) < (line + height) / 2
                for start, at, end, height in taken
            )

        shift = next((step for step in steps if free(step)), 0.0)
        taken.append((left, y + shift, right, line))
        shifts.append(shift)
    return shifts


def name_points(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    colours: Sequence[str] | None = None,
    size: float = 7.5,
) -> None:
    """Write a name beside each point, the first ones nearest; thin lines lead to those far off.

    Args:
        ax: axes whose limits and scales are set.
        points: x and y, in data.
        labels: as from ``short_labels``.
        colours: of the names; black by default.
        size: of the letters, in points.
    """
    # The layout is final once it was drawn, which a canvas of its own kind might not do.
    figure: Any = getattr(ax.figure, "figure", None) or ax.figure
    figure.draw_without_rendering()
    unit = 72 / figure.dpi
    places = [(float(x), float(y)) for x, y in ax.transData.transform(points) * unit]
    box = ax.get_window_extent()
    edge = (box.x0 + RIGHT * box.width) * unit
    widths = [LETTER * size / 7.5 * len(label) for label in labels]
    left = [x > edge for x, _ in places]
    spans = [
        (x - 5 - w, x - 5) if before else (x + 5, x + 5 + w)
        for (x, _), w, before in zip(places, widths, left, strict=True)
    ]
    shifts = free_places(places, spans)
    for i, (point, label, shift) in enumerate(zip(points, labels, shifts, strict=True)):
        line: dict[str, Any] = {
            "arrowstyle": "-",
            "lw": 0.4,
            "color": MUTED,
            "shrinkA": 0,
            "shrinkB": 2,
        }
        line["relpos"] = (1.0 if left[i] else 0.0, 0.5)
        note = ax.annotate(
            label,
            point,
            (-6 if left[i] else 6, shift),
            textcoords="offset points",
            ha="right" if left[i] else "left",
            va="center",
            fontsize=size,
            color=colours[i] if colours else "black",
            arrowprops=line if abs(shift) > LINE else None,
        )
        # The places were found for the axes as they are.
        note.set_in_layout(False)
