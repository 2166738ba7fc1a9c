"""What all plots share: colours, axes, files, and names of which none covers another."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import replacing
from transfer_metrics.naming import told_apart
from transfer_metrics.results.wording import plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which stays apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
MUTED = "#9A9A9A"
# Journals want fonts that are embedded whole; the same numbers give the same file.
_RC: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "transfer-metrics"}

# Lines of text this many points apart do not touch; a letter is about this wide.
_LINE, _LETTER = 9.0, 4.4
# Names right of this share of the axes are written to the left of their points.
_RIGHT = 0.65
# Letters of the longest label.
_MOST = 80


def save_figure(draw: Callable[[Axes], Any], path: str | os.PathLike[str], height: float) -> str:
    """Draw into a PNG, SVG or PDF file, by its ending, which appears whole or not at all."""
    import matplotlib
    from matplotlib.figure import Figure

    path, suffix = Path(path), plot_format(path)
    # A figure of its own keeps pyplot's global state out of libraries and threads.
    figure = Figure(figsize=(7.5, height), layout="constrained")
    draw(figure.subplots())
    date = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)
    with replacing(path) as temporary, matplotlib.rc_context(_RC):
        figure.savefig(temporary, dpi=150, format=suffix, metadata=date)
    return str(path)


def plot_format(path: str | os.PathLike[str]) -> str:
    """The format that the ending of a file asks for, if it can be drawn.

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


def clean(ax: Axes) -> None:
    """The house style: no frame on the right and above, a light grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#EEEEEE", zorder=0)
    ax.set_axisbelow(True)


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
    for longest in range(limit, _MOST, 6):
        labels = [plot_label(text[cut:], longest) for text in texts]
        if len(set(labels)) == len(set(texts)):
            return labels
    # Equal names stay equal, as those of a model with several layers; others get a number.
    one_each = dict(zip(texts, labels, strict=True))
    numbered = dict(zip(one_each, told_apart(one_each.values()), strict=True))
    return [numbered[text] for text in texts]


def _free_places(
    points: Sequence[tuple[float, float]],
    spans: Sequence[tuple[float, float]],
    line: float = _LINE,
) -> list[float]:
    """How far up or down the name of each point has to move to touch no other name or point.

    ``spans`` tell where each name begins and ends in x, and ``line`` how high it is, in the unit of
    the points. The shortest shifts are found in the order of the points, up before down.

    >>> _free_places([(0, 0), (1, 1), (50, 0)], [(5, 25), (6, 26), (55, 75)], 10.0)
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

    The limits and scales of the axes are set before.
    """
    # The layout is final once it was drawn, which a canvas of its own kind might not do.
    figure: Any = getattr(ax.figure, "figure", None) or ax.figure
    figure.draw_without_rendering()
    unit = 72 / figure.dpi
    places = [(float(x), float(y)) for x, y in ax.transData.transform(points) * unit]
    box = ax.get_window_extent()
    edge = (box.x0 + _RIGHT * box.width) * unit
    widths = [_LETTER * size / 7.5 * len(label) for label in labels]
    left = [x > edge for x, _ in places]
    spans = [
        (x - 5 - w, x - 5) if before else (x + 5, x + 5 + w)
        for (x, _), w, before in zip(places, widths, left, strict=True)
    ]
    shifts = _free_places(places, spans)
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
            arrowprops=line if abs(shift) > _LINE else None,
        )
        # The places were found for the axes as they are.
        note.set_in_layout(False)
