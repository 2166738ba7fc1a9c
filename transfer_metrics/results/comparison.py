"""The table of a comparison, with its views."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.metrics.base import Estimate
from transfer_metrics.registry import choose
from transfer_metrics.results.plot_style import (
    COLOURS,
    MARKERS,
    MOST_ROWS,
    legend_above,
    named_rows,
    new_axes,
    rows_height,
    save_figure,
    short_labels,
    titled,
)
from transfer_metrics.results.printed import column_names, page_table
from transfer_metrics.results.record import (
    BESIDE,
    MEASURED,
    MOVES,
    QUALITIES,
    Record,
    measures_told,
)
from transfer_metrics.results.shortlist import CONFIDENCE
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.table_plots import TablePlots
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_Z95 = 1.959963984540054


class Comparison(ScoreTable):
    """Measurements of heads on models, and the scores that they check, if there are any.

    >>> record = {"model": "a", "head": "lpft", "metric": "accuracy", "split": "test", "n": 400}
    >>> table = Comparison([{**record, "seed": s, "value": v} for s, v in enumerate((0.8, 0.9))])
    >>> table.summary().loc[("a", "lpft"), "test"].round(3).item()
    0.85
    """

    @property
    def metrics(self) -> list[str]:
        """The metrics whose scores are in the table; what was measured is in ``summary``."""
        return [name for name in super().metrics if name not in MEASURED]

    @property
    def shifts(self) -> list[str]:
        """Names of the shifted data, in the order in which they were given."""
        found = (str(r.split) for r in self._records if r.metric in QUALITIES)
        return [name for name in dict.fromkeys(found) if name != "test"]

    @property
    def measure(self) -> str:
        """What heads were judged by, as it is told: accuracy, R² or average precision."""
        return measures_told(r.metric for r in self._records)

    def summary(self) -> pd.DataFrame:
        """One row per model and head, and task where there are several, means over the seeds.

        Returns:
            A DataFrame indexed by model, head (and task) with the columns ``test`` and one per
            shifted set (accuracies; R² of a regression, average precision of several labels), each
            with its 95 % half-width under ``± name``; ``ood_accuracy`` and ``ood_gap`` where there
            are shifted sets; ``balanced_accuracy`` on ``test`` where some classes are rare;
            ``distortion`` and ``relative_distortion`` in distribution, and ``… name`` on each
            shifted set; ``fit_seconds``, ``train_flops``, ``stored_bytes``; ``seeds``; and
            ``error`` of a fit that failed, and ``note`` of a head that may be no better than one
            answer for all test examples. Half-widths are ``1.96 √(p (1 - p) / n + s² / k)``, for
            n test examples and the variance s² over k seeds; of other measures than accuracy the
            first term is the square of their standard error.
        """
        import pandas as pd

        groups: dict[tuple[str, ...], list[Record]] = {}
        for record in self._records:
            if record.metric in (*MEASURED, "") and (record.head or record.error):
                key = tuple(str(getattr(record, name) or "") for name in ("model", "head", "task"))
                groups.setdefault(key, []).append(record)
        for (model, head, _), records in groups.items():
            sizes = {(r.n, r.split) for r in records if r.metric in QUALITIES and r.n}
            for split in dict.fromkeys(split for _, split in sizes):
                counts = sorted(n for n, of in sizes if of == split)
                if len(counts) > 1:
                    warn(
                        f"{visible(head)} on {visible(model)}: the mean over {split!r} is of tests "
                        f"on {' and '.join(map(str, counts))} examples, which may be of different "
                        f"tasks; choose one with table.on(n={counts[0]}), or name the tasks"
                    )
        rows = [self._summarised(records) for records in groups.values()]
        index = pd.MultiIndex.from_tuples(list(groups), names=["model", "head", "task"])
        summary = pd.DataFrame(rows, index=index)
        several = len({task for *_, task in groups}) > 1
        return summary if several else summary.droplevel("task")

    def verdict(self, metric: str | None = None, head: str | None = None) -> pd.DataFrame:
        """Whether the favourites of a score won.

        Args:
            metric: the score, by default the first.
            head: the head that decides between models, by default the first of the table.

        Returns:
            One row per question: ``which model`` where there are several, by the accuracy of the
            head, and ``which layer`` for each model whose favourite layer was probed, against the
            probe on the last layer; with the columns question, favourite, accuracy, best,
            best_accuracy, regret, margin. ``margin`` is the 95 % half-width of the difference of
            two accuracies: a smaller regret is a tie.

        Raises:
            InvalidInputError: the table has no scores, or several tasks.
            UnknownNameError: no such metric, or no accuracy of such a head.
        """
        import pandas as pd

        if not self.metrics:
            raise InvalidInputError("there are no scores to check; compare with metrics=")
        metric = self.named_metric(metric)
        ranking = self.one_ranking(metric, "best")
        summary = self.summary()
        summary = summary[summary["test"].notna()] if "test" in summary else summary.iloc[:0]
        rows = []
        heads = list(dict.fromkeys(summary.index.get_level_values("head")))
        head = next(iter(heads), "") if head is None else choose("head of this table", head, heads)
        if head in heads:
            of_head = summary.xs(head, level="head")
            order = [c.model for c in ranking.scored if c.model in of_head.index]
            if len(order) > 1:
                rows.append(_judged("which model", order[0], of_head))
        probes = {"linear_probe", f"linear_probe@{metric}"}
        if probes <= set(heads):
            for model in dict.fromkeys(summary.index.get_level_values("model")):
                of_model = summary.xs(model, level="model")
                of_model = of_model[of_model.index.isin(probes)]
                if len(of_model) == len(probes):
                    row = _judged("which layer", f"linear_probe@{metric}", of_model)
                    rows.append({**row, "question": f"which layer of {model}"})
        columns = [
            "question", "favourite", "accuracy", "best", "best_accuracy", "regret", "margin",
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        summary = self.summary()
        return super()._repr_html_() if summary.empty else page_table(summary.reset_index())

    def format(self, metric: str | None = None, confidence: float = CONFIDENCE) -> str:
        """The summary as aligned text, or the ranking under a metric."""
        if metric is not None:
            return super().format(metric, confidence)
        summary = self.summary()
        if summary.empty:
            return "(no records)"
        shown = summary.reset_index()
        names, note = column_names(shown["model"])
        shown["model"] = [names[model] for model in shown["model"]]
        for name in ("test", *self.shifts):
            if name in shown:
                halves = ["" if math.isnan(h) else f" ± {100 * h:.1f}" for h in shown[f"± {name}"]]
                pairs = zip(shown[name], halves, strict=True)
                shown[name] = ["" if math.isnan(v) else f"{100 * v:.1f}{half}" for v, half in pairs]
        titles = {
            "balanced_accuracy": ("balanced", "{:.3f}"),
            "ood_gap": ("ood_gap", "{:.3f}"),
            "relative_distortion": ("relative_distortion", "{:.3f}"),
            "fit_seconds": ("seconds", "{:.1f}"),
            "train_flops": ("FLOPs", "{:.1e}"),
            "stored_bytes": ("bytes", "{:.1e}"),
        }
        for name, (title, form) in titles.items():
            if name in shown:
                shown[title] = ["" if math.isnan(v) else form.format(v) for v in shown[name]]
        wanted = ["model", "head", "task", "test", "balanced", *self.shifts, "ood_gap"]
        wanted += ["relative_distortion", "seconds", "FLOPs", "bytes"]
        wanted += ["error"] if shown["error"].notna().any() else []
        told = zip(shown["head"], shown["model"], shown["note"], strict=True)
        doubted = [f"{h} on {model}: {note}" for h, model, note in told if isinstance(note, str)]
        shown = shown[[name for name in wanted if name in shown]].fillna({"error": ""})
        parts = [shown.to_string(index=False, na_rep="")]
        if self.measure != "accuracy":
            parts.append(f"\n{', '.join(('test', *self.shifts))}: {self.measure}, in per cent")
        below = (*doubted, *self.task_summaries)
        parts += [f"\n{visible(text, 2_000)}" for text in below]
        parts += [f"\n{note}"] if note else []
        return "\n".join(parts)

    @property
    def plot(self) -> ComparisonPlots:
        """Plots: ``table.plot.comparison()``, and those of every score table."""
        return ComparisonPlots(self)

    def _summarised(self, records: Sequence[Record]) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for name in ("test", *self.shifts):
            chosen = [r for r in records if r.metric in QUALITIES and r.split == name]
            row[name], row[f"± {name}"] = _mean_and_margin(chosen)
        for metric in BESIDE:
            row[metric] = _mean(r.value for r in records if r.metric == metric)
        for metric in MOVES:
            for name in ("test", *self.shifts):
                moved = [r for r in records if r.metric == metric and r.split == name]
                label = metric if name == "test" else f"{metric} {name}"
                row[label] = _mean(r.value for r in moved)
        row["seeds"] = len({r.seed for r in records if not r.error})
        row["error"] = next((r.error for r in records if r.error), None)
        tested = (r for r in records if r.metric in QUALITIES and r.split == "test")
        row["note"] = next((r.note for r in tested if r.note), None)
        empty = [n for n, v in row.items() if isinstance(v, float) and math.isnan(v)]
        # An interval that is not known stands, empty, beside what is.
        return {n: v for n, v in row.items() if n.removeprefix("± ") not in empty or n == "test"}


class ComparisonPlots(TablePlots):
    """The plots of one comparison; ``comparison.plot``."""

    _table: Comparison

    def comparison(self, *, ax: Axes | None = None) -> Axes:
        """Accuracy of every head on every data set, with 95 % intervals.

        A row per model and head, a colour and marker per data set.

        Raises:
            InvalidInputError: no head has an accuracy.
        """
        import pandas as pd

        table, summary = self._table, self._table.summary()
        if "test" not in summary or not summary["test"].notna().any():
            raise InvalidInputError("no head has an accuracy to plot; see table.failures")
        total, names = int(summary["test"].notna().sum()), ["test", *table.shifts]
        groups = _best_heads(summary)
        ax = new_axes(ax, rows_height(groups) + 0.2)
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
        ax.set_xlabel(f"{table.measure}, %")
        # Given as a list, because a label that starts with an underscore would be left out.
        legend_above(ax, drawn, ["in distribution", *short_labels(table.shifts)])
        models = summary.index.get_level_values("model")
        one = [] if len(groups) > 1 else short_labels([models[0]], 60)
        where = [] if "task" in summary.index.names else [self._tasks]
        note = f"the best {len(summary)} of {total} heads" if total > len(summary) else ""
        titled(ax, " on ".join(filter(None, [*one, *where])), note)
        return ax

    def save(self, kind: str, path: str | os.PathLike[str], metric: str | None = None) -> str:
        """Draw ``"comparison"``, ``"ranking"`` or ``"layers"``; see ``TablePlots.save``."""
        if kind != "comparison":
            return super().save(kind, path, metric)
        return save_figure(lambda figure: self.comparison(ax=figure), path)


def _best_heads(summary: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The best heads by model, and task where there are several, in the order of the table."""
    summary = summary[summary["test"].notna()]
    best = np.argsort(-summary["test"].to_numpy(float), kind="stable")[:MOST_ROWS]
    by = [name for name in summary.index.names if name != "head"]
    found = dict(list(summary.iloc[np.sort(best)].groupby(level=by, sort=False)))
    if len(found) == 1:
        return {"": next(iter(found.values()))}
    limit = 34 // len(by) + 8
    models, *tasks = (short_labels(part, limit) for part in zip(*found, strict=True))
    labels = [" on ".join(parts) for parts in zip(models, *tasks, strict=True)]
    return dict(zip(labels, found.values(), strict=True))


def _judged(question: str, favourite: str, accuracies: Any) -> dict[str, Any]:
    values, halves = (accuracies[n].astype(float).to_dict() for n in ("test", "± test"))
    best = max(values, key=lambda name: values[name])
    return {
        "question": question,
        "favourite": favourite,
        "accuracy": values[favourite],
        "best": best,
        "best_accuracy": values[best],
        "regret": values[best] - values[favourite],
        "margin": math.hypot(halves[favourite], halves[best]),
    }


def _mean(values: Any) -> float:
    found = [v for v in values if v is not None]
    return float(np.mean(found)) if found else math.nan


def _mean_and_margin(records: Sequence[Record]) -> tuple[float, float]:
    values = [r.value for r in records if r.value is not None]
    if not values:
        return math.nan, math.nan
    p = float(np.mean(values))
    if records[0].metric == "accuracy":
        n = records[0].n
        variance = Estimate.of_proportion(p, n).stderr ** 2 if n else math.nan
    else:
        stderr = records[0].stderr
        variance = math.nan if stderr is None else stderr**2
    if len(values) > 1:
        variance += float(np.var(values, ddof=1)) / len(values)
    return p, _Z95 * math.sqrt(variance)
