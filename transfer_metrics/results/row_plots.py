"""Plots with a row for each candidate: numbers and an ``ax`` in, an ``ax`` out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Sized
from typing import TYPE_CHECKING

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.results.plot_style import (
    COLOURS,
    MARKERS,
    MUTED,
    clean,
    legend_above,
    new_axes,
    short_labels,
    task_title,
    titled,
)
from transfer_metrics.results.wording import number, plot_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# From white to dark blue: order is told by lightness alone, which survives grey printing.
_MAP = "Blues"
# Numbers and rows that can be read; of more rows the best are drawn.
_MOST_NUMBERS, _MOST_ROWS = 400, 40


def plot_ranking(
    ranking: pd.DataFrame,
    metric: str,
    *,
    tasks: Sequence[str] = (),
    dropped: Collection[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """What ``TablePlots.ranking`` draws of ``ScoreTable.ranking``."""
    import pandas as pd

    if not ranking["score"].notna().any():
        raise InvalidInputError("no model has a score to plot; see table.failures")
    groups = _best_of_each(ranking)
    ax = new_axes(ax, _rows_height(groups))
    scored = pd.concat(list(groups.values()))
    layers = [plot_label(layer, 20) for layer in scored["layer"]]
    names = short_labels(list(scored["model"]), 34)
    rows = iter([f"{n}  ({la})" if la else n for n, la in zip(names, layers, strict=True)])
    headings = short_labels(list(groups), 44)
    parts = [[next(rows) for _ in range(len(own))] for own in groups.values()]
    places = np.array(_named_rows(ax, dict(zip(headings, parts, strict=True))))
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


def plot_comparison(
    summary: pd.DataFrame,
    shifts: Sequence[str] = (),
    *,
    tasks: Sequence[str] = (),
    measure: str = "accuracy",
    ax: Axes | None = None,
) -> Axes:
    """What ``ComparisonPlots.comparison`` draws of ``Comparison.summary``."""
    if "test" not in summary or not summary["test"].notna().any():
        raise InvalidInputError("no head has an accuracy to plot; see table.failures")
    import pandas as pd

    total, names = int(summary["test"].notna().sum()), ["test", *shifts]
    groups = _best_heads(summary)
    ax = new_axes(ax, _rows_height(groups) + 0.2)
    summary = pd.concat(list(groups.values()))
    heads = short_labels(list(summary.index.get_level_values("head")), 44)
    labels = iter(heads)
    parts = {label: [next(labels) for _ in range(len(own))] for label, own in groups.items()}
    if len(parts) == len(heads) > 1:
        only = len(set(heads)) == 1
        parts = {"": [m if only else f"{m}  {own[0]}" for m, own in parts.items()]}
    rows = _named_rows(ax, parts)
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
    ax = new_axes(ax, _rows_height({"": order}) + 0.6)
    image = ax.imshow(np.ma.masked_invalid(shades), cmap=_MAP, vmin=0, vmax=1, aspect="auto")
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


def _shades(numbers: np.ndarray) -> np.ndarray:
    """Place of each number in the order of its column, 0 to 1; NaN stays."""
    from scipy.stats import rankdata

    counts = np.isfinite(numbers).sum(axis=0)
    ranks = rankdata(numbers, axis=0, nan_policy="omit")
    # One number on its own is neither the best nor the worst.
    shades = np.where(counts > 1, (ranks - 1) / np.maximum(counts - 1, 1), 0.5)
    return np.where(np.isfinite(numbers), shades, np.nan)


def _named_rows(ax: Axes, groups: Mapping[str, Sequence[str]]) -> list[int]:
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


def _rows_height(groups: Mapping[str, Sized]) -> float:
    """Inches for the rows of some groups, with their headings."""
    rows = sum(map(len, groups.values()))
    return 1.5 + 0.26 * (rows + (len(groups) if len(groups) > 1 else 0))
