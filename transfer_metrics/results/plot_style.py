"""What all plots share: colours, axes, files, and names of which none covers another."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import check_file, replacing
from transfer_metrics.naming import short_names
from transfer_metrics.results.wording import plot_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which stays apart for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
MUTED = "#9A9A9A"
# Of more rows the best are drawn.
MOST_ROWS = 40
MADE_BY = "drawn by transfer_metrics"
"""What a file says of its origin."""
# Journals want fonts that are embedded whole; the same numbers give the same file.
_RC: dict[Any, Any] = {"pdf.fonttype": 42, "svg.hashsalt": "transfer-metrics"}

# Lines of text this many points apart do not touch; a letter is about this wide.
_LINE, _LETTER = 9.0, 4.4
# Names right of this share of the axes are written to the left of their points.
_RIGHT = 0.65
# Letters of a label, more than which no shortening leaves.
_MOST = 160


def save_figure(draw: Callable[[Any], Any], path: str | os.PathLike[str]) -> str:
    """Draw into a PNG, SVG or PDF file, by its ending, which appears whole or not at all.

    One that is there and was not drawn by this function is not replaced.

    ``draw`` is handed a figure of its own to be filled, as ``new_axes`` does: that keeps pyplot's
    global state out of libraries and threads.
    """
    import matplotlib
    from matplotlib.figure import Figure

    path, suffix = Path(path), plot_format(path)
    check_file(path, (MADE_BY.encode(),))
    figure = Figure(layout="constrained")
    draw(figure)
    about: dict[str, dict[str, Any]] = {
        "png": {"Software": MADE_BY},
        "svg": {"Creator": MADE_BY, "Date": None},
        "pdf": {"Creator": MADE_BY, "CreationDate": None},
    }
    with replacing(path) as temporary, matplotlib.rc_context(_RC):
        figure.savefig(temporary, dpi=150, format=suffix, metadata=about[suffix])
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


def new_axes(ax: Axes | Figure | None, height: float) -> Axes:
    """The axes given, or those of a figure so many inches high: of the one given, or a new one.

    They have the house style: no frame on the right and above, a light grid.
    """
    from matplotlib.figure import Figure

    if isinstance(ax, Figure):
        ax.set_size_inches(7.5, height)
        ax = ax.subplots()
    elif ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots(figsize=(7.5, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x", color="#EEEEEE", zorder=0)
    ax.set_axisbelow(True)
    return ax


def rows_height(groups: Mapping[str, Sized]) -> float:
    """Inches for the rows of some groups, with their headings."""
    rows = sum(map(len, groups.values()))
    return 1.5 + 0.26 * (rows + (len(groups) if len(groups) > 1 else 0))


def named_rows(ax: Axes, groups: Mapping[str, Sequence[str]]) -> list[int]:
    """Names of rows, under the names of their groups where these have any; returns their places."""
    places: list[int] = []
    labels: list[str] = []
    headings = []
    for group, names in groups.items():
        headings += [len(labels)] if group else []
        labels += [group] if group else []
        places += range(len(labels), len(labels) + len(names))
        labels += names
    ax.set_yticks(range(len(labels)), labels, fontsize=8.5)
    for place in headings:
        ax.get_yticklabels()[place].set_fontweight("bold")
        ax.get_yticklines()[2 * place].set_visible(False)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    return places


def short_labels(names: Sequence[object], limit: int = 30) -> list[str]:
    """Labels for matplotlib of about so many letters at most, as different as the names are."""
    return [plot_label(name, _MOST) for name in short_names(names, limit)]


def titled(ax: Axes, told: str, note: str = "") -> None:
    """A title with a note on what is not drawn below, above the legend if it stands there.

    Lines end where the figure ends, also those of the names of the axes.
    """
    title = ax.set_title("\n".join(filter(None, [told, note])), loc="left", fontsize=10)
    figure = _laid_out(ax)
    box, legend = ax.get_window_extent(), ax.get_legend()
    width, height = figure.bbox.width, figure.bbox.height
    _break(title, width - box.x0)
    _break(ax.xaxis.label, min(box.x0 + box.x1, 2 * width - box.x0 - box.x1))
    _break(ax.yaxis.label, min(box.y0 + box.y1, 2 * height - box.y0 - box.y1))
    if legend is not None and (top := legend.get_window_extent().y1) > box.y1 + _LINE:
        pad = (top - box.y1) * 72 / figure.dpi + 4
        ax.set_title(title.get_text(), loc="left", fontsize=10, pad=pad)


def legend_above(ax: Axes, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """A legend above the axes, in as many columns as there is room for."""
    for columns in range(min(len(labels), 4), 0, -1):
        legend = ax.legend(
            handles, labels, frameon=False, fontsize=8, ncols=columns, loc="lower left",
            bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.2, handletextpad=0.4,
        )  # fmt: skip
        # Measured before the layout would make room for it beside the axes.
        legend.set_in_layout(False)
        figure = _laid_out(ax)
        if legend.get_window_extent().x1 <= figure.bbox.x1 - _LINE:
            break
    legend.set_in_layout(True)


def _laid_out(ax: Axes) -> Any:
    """The figure of axes, whose layout is final once it was drawn."""
    # A canvas of its own kind might not draw.
    figure: Any = getattr(ax.figure, "figure", None) or ax.figure
    figure.draw_without_rendering()
    return figure


def _break(text: Any, room: float) -> None:
    """Break a text into lines of so many pixels."""
    box, room = text.get_window_extent(), room - _LINE
    length = box.height if text.get_rotation() else box.width
    if length > room > 0:
        lines = text.get_text().replace(r"\$", "$").split("\n")
        letters = max(int(max(map(len, lines)) * room / length), 8)
        parts = [p for line in lines for p in textwrap.wrap(line, letters, break_on_hyphens=False)]
        text.set_text("\n".join(parts).replace("$", r"\$"))


def _free_places(
    points: Sequence[tuple[float, float]],
    spans: Sequence[tuple[float, float]],
    reach: int = 24,
) -> list[float | None]:
    """How far up or down the name of each point has to move to touch no other name or point.

    ``spans`` tell where each name begins and ends in x, in the unit of the points. The shortest
    shifts are found in the order of the points, up before down; None where none of ``reach`` half
    lines is enough.
    """
    taken = [(x - 3, y, x + 3, _LINE * 0.6) for x, y in points]
    shifts: list[float | None] = []
    steps = sorted((k * _LINE / 2 for k in range(-reach, reach + 1)), key=lambda s: (abs(s), -s))
    for (_, y), (left, right) in zip(points, spans, strict=False):
        near = [
            (at, (_LINE + height) / 2)
            for start, at, end, height in taken
            if left < end and right > start
        ]
        free = (s for s in steps if not any(abs(y + s - at) < room for at, room in near))
        shift = next(free, None)
        taken += [] if shift is None else [(left, y + shift, right, _LINE)]
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

    The limits and scales of the axes are set before. Where there are more points than labels, only
    the first are named, and of these only those that find a place nearby.
    """
    some = len(labels) < len(points)
    figure = _laid_out(ax)
    unit = 72 / figure.dpi
    places = [(float(x), float(y)) for x, y in ax.transData.transform(points) * unit]
    box = ax.get_window_extent()
    edge = (box.x0 + _RIGHT * box.width) * unit
    widths = [_LETTER * size / 7.5 * len(label) for label in labels]
    left = [x > edge for x, _ in places]
    spans = [
        (x - 5 - w, x - 5) if before else (x + 5, x + 5 + w)
        for (x, _), w, before in zip(places, widths, left, strict=False)
    ]
    shifts = _free_places(places, spans, reach=4 if some else 24)
    for i, (point, label, found) in enumerate(zip(points, labels, shifts, strict=False)):
        if some and (found is None or places[i][1] + found > box.y1 * unit):
            continue
        shift = found or 0.0
        line: dict[str, Any] = {
            "arrowstyle": "-", "lw": 0.4, "color": MUTED, "shrinkA": 0, "shrinkB": 2,
            "relpos": (1.0 if left[i] else 0.0, 0.5),
        }  # fmt: skip
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
