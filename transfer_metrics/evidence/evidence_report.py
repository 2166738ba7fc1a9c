"""``benchmark build`` for people: which score deserves trust, as text and as a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence.ground_truth import BEST, best, reached
from transfer_metrics.evidence.judgement import (
    JudgedMetric,
    Scores,
    aggregations,
    cross_validated,
    judge,
    plain_agreement,
)
from transfer_metrics.evidence.layout import Grid, Table, describe, piped, wrapped
from transfer_metrics.evidence.scored_pairs import COMPONENTS, REPAIRS, SIZES
from transfer_metrics.evidence.static_baseline import (
    ABOUT,
    Need,
    by_task,
    overview,
    with_ends,
)
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
from transfer_metrics.results.agreement import RESAMPLES
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.plot_style import (
    COLOURS,
    MUTED,
    name_points,
    new_axes,
    save_figure,
    short_labels,
    titled,
)
from transfer_metrics.results.table_agreement import fidelity
from transfer_metrics.results.wording import aligned

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PROBED = "linear_probe"
_USUAL = ("transrate", "logme", "h_score", "knn")
"""What a choice by evidence has to beat."""
_CHEAP = (
    *("transrate(eps=auto)", "logme", "h_score", "knn", "lfc", "parc", "ridge_probe"),
    *("ncti_posterior", "nleep"),
)
"""Metrics whose ranks are aggregated."""


@dataclass(frozen=True)
class Evidence:
    """A ground truth, and every metric judged by it."""

    accuracies: pd.DataFrame  # models x tasks, of the head that validation chose, over seeds
    heads: Mapping[str, pd.DataFrame]  # of every head, models x tasks, the simplest first
    probe_noise: pd.DataFrame  # standard errors of the linear probes
    chosen: pd.DataFrame  # name of the head that validation chose with the first seed
    rows: tuple[JudgedMetric, ...]  # best first
    needs: tuple[Need, ...]  # beside the static ranking, by fine-tuning and by linear probes
    scored: Scores
    scores: Mapping[str, pd.DataFrame]  # those of the classifier's input
    protocol: tuple[str, ...]  # labels of the heads that were fitted

    @classmethod
    def of(
        cls, truth: Comparison, records: Sequence[Mapping[str, Any]], *, resamples: int = RESAMPLES
    ) -> Evidence:
        """Judge scores by the best head of a truth, under the same names of models and tasks."""
        decided = Comparison(best(truth.records))
        accuracies, noise = reached(decided, BEST)
        protocol = tuple(dict.fromkeys(str(r["head"]) for r in truth.records if r["head"]))
        names = dict.fromkeys([_PROBED, *(label.partition("(")[0] for label in protocol)])
        by_head = {name: reached(truth, name)[0].reindex_like(accuracies) for name in names}
        _, probe_noise = reached(truth, _PROBED)
        chosen = accuracies.astype(object)
        for r in decided.records:
            if not r["seed"]:
                chosen.loc[r["model"], r["task"]] = str(r["note"]).partition("(")[0]
        there, scored = {r["metric"] for r in records}, Scores(records)
        reference = next((name for name in DEFAULT_METRICS if name in there), "")
        rows = judge(
            scored,
            accuracies,
            by_head[_PROBED],
            noise=noise,
            reference=reference,
            sizes=SIZES,
            resamples=resamples,
        )
        scores = scored.last()
        needs = (
            Need.of("the best head", accuracies, scores, noise=noise, resamples=resamples),
            Need.of(
                "linear probes", by_head[_PROBED], scores, noise=probe_noise, resamples=resamples
            ),
        )
        return cls(
            accuracies,
            by_head,
            probe_noise.reindex_like(accuracies),
            chosen,
            tuple(rows),
            needs,
            scored,
            scores,
            protocol,
        )

    def text(self) -> str:
        """The tables, for a terminal."""
        return "\n\n".join(_parts(self, aligned, "{}"))

    def markdown(self, command: str, picture: str | None = None) -> str:
        """The page of documentation."""
        written = f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}."
        parts = ["# Which score deserves trust", wrapped(written), "\n".join(describe())]
        if picture:
            parts.append(f"![agreement against cost]({picture})")
        return "\n\n".join([*parts, *_parts(self, piped, "## {}")]) + "\n"

    def draw(self, path: str | os.PathLike[str]) -> str:
        """Draw agreement against cost into a PNG, SVG or PDF file."""
        import pandas as pd

        frame = pd.DataFrame(list(self.rows)).rename(columns={"value": "agreement"})
        return save_figure(lambda figure: _trade_off(frame, figure), path)


def _trade_off(frame: pd.DataFrame, ax: Axes | Figure | None) -> Axes:
    """Agreement of metrics with accuracies against their cost: the upper left is where to be.

    Metrics that no other beats in both are drawn in colour with their intervals and joined by
    steps. All are named, and names that would collide are moved apart. Those without agreement, or
    without seconds above 0, are left out.
    """
    numbers = frame[["seconds", "agreement", "low", "high"]].astype(float)
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


def _parts(evidence: Evidence, grid: Grid, title: str) -> list[str]:
    parts = _judged(evidence, grid, title)
    if evidence.accuracies.shape[1] > 1:
        parts += [
            title.format("A choice by evidence"),
            wrapped(
                "Of all metrics, and mean ranks of two or three cheap ones, the one with the "
                "highest tau on all other tasks, tried on the task that was left out; beside the "
                "usual ones."
            ),
            grid(*_choice(evidence)),
        ]
    return [*parts, title.format("Ground truth"), *_truth(evidence, grid)]


def _truth(evidence: Evidence, grid: Grid) -> list[str]:
    """What every head reached, and what the choice between them was worth."""
    names = list(evidence.heads)
    shares = ", ".join(
        f"{name} {(evidence.chosen == name).to_numpy().mean():.0%}" for name in names
    )
    gains = 100 * (evidence.accuracies - evidence.heads[_PROBED]).to_numpy()
    below = int((gains < -200 * evidence.probe_noise.to_numpy()).sum())
    missed = 100 * (
        np.max([t.to_numpy() for t in evidence.heads.values()], axis=0)
        - evidence.accuracies.to_numpy()
    )
    return [
        wrapped(
            f"Test accuracy in per cent, mean over seeds, of {', '.join(names)}, in this order. "
            f"The star is at the one that validation chose with the first seed ({shares}): the "
            f"first of these whose validation accuracy is within a standard error of the highest. "
            f"Its accuracy is what metrics are judged by: {np.mean(gains):.1f} points more than "
            f"the linear probe on average, {np.min(gains):.1f} at least, more than two standard "
            f"errors below it on {below} of {gains.size} pairs, and {np.mean(missed):.1f} below "
            f"the head that was best on the test examples, in hindsight."
        ),
        wrapped(f"Heads: {'; '.join(evidence.protocol)}."),
        grid(*_accuracies(evidence)),
    ]


def _judged(evidence: Evidence, grid: Grid, title: str) -> list[str]:
    models, tasks = evidence.accuracies.shape
    judged = [
        row.metric
        for row in evidence.rows
        if not np.isnan(row.value) and row.metric in evidence.scores
    ]
    shown = next((name for name in DEFAULT_METRICS if name in judged), judged[0])
    dims = evidence.scored.widths
    low, high = min(dims.values()), max(dims.values())
    return [
        title.format("Every metric"),
        wrapped(
            f"Weighted Kendall's tau between the scores of {models} models (classifier's input, "
            f"{low:.0f} to {high:.0f} features) and their accuracies under the best head, mean "
            f"over {tasks} tasks, with a 95 % interval of a bootstrap over models that takes the "
            f"noise of the accuracies into account. *test* is the paired test against the default "
            f"metric. *regret*: accuracy of the best model less that of "
            f"the favourite, in points. *best block*: the highest score over blocks stands for the "
            f"model. *probes*: tau with the accuracies of linear probes. *seconds*: one "
            f"scoring of all training examples, on one thread, while other work ran beside it. "
            f"*failed*: pairs without a score."
        ),
        grid(*_main(evidence)),
        *_needed(evidence, grid, title),
        title.format("What a difference of scores is worth"),
        wrapped(
            f"Pairs of models on one task in four bins of equally many, by the difference of their "
            f"scores in {shown}, in deviations of the scores on the task: by how many points of "
            f"accuracy the model with the higher score is ahead, and in what share of the pairs it "
            f"is, with 95 % intervals over models."
        ),
        grid(*_differences(evidence.scores[shown], evidence.accuracies)),
        title.format("Fewer examples"),
        wrapped(
            "The same tau where only so many training examples are scored, on the tasks that "
            "have as many."
        ),
        grid(*_few(evidence)),
        title.format("Width"),
        wrapped(
            f"Why scores mislead on models of different widths: Kendall's tau of each with the "
            f"number of features (the accuracies have "
            f"{evidence.scored.with_width(evidence.accuracies):.2f}), "
            f"and the weighted tau with accuracies of the plain score and of three repairs: the "
            f"leading {COMPONENTS} principal components instead of the features, rows of unit "
            f"length, and the score of shuffled labels subtracted."
        ),
        grid(*_repairs(evidence)),
        title.format("Layers"),
        wrapped(
            "Does the block with the highest score give the best linear probe? Points of test "
            "accuracy lost to the block that is best in hindsight, mean over pairs of a model and "
            "a task. Always taking the last block loses "
            f"{100 * evidence.scored.layer_regrets['last']:.1f}."
        ),
        grid(*_layers(evidence)),
    ]


def _needed(evidence: Evidence, grid: Grid, title: str) -> list[str]:
    """Whether a metric is needed at all."""
    known = [need for need in evidence.needs if need.static]
    if not known:
        return []
    return [
        title.format("Does this benchmark need a metric at all?"),
        wrapped(
            f"{ABOUT} Regrets are in points. *best score* is the best in hindsight; what stands "
            f"*over* another is a paired test of weighted tau."
        ),
        grid(*overview(known)),
        wrapped(f"Every metric, judged by {known[0].sentence}"),
        grid(*known[0].in_full),
    ]


def _differences(scores: pd.DataFrame, accuracies: pd.DataFrame) -> Table:
    """A line per bin of pairs of models: what a difference of scores is worth in accuracy."""
    found = fidelity(scores, accuracies)
    header = ("score difference", "points of accuracy", "right order", "pairs")
    rows = [
        [
            f"{row['from']:.2f} to {row['to']:.2f}",
            with_ends([100 * row[name] for name in ("accuracy_difference", "low", "high")], 1),
            with_ends([row[name] for name in ("right_order", "right_low", "right_high")]),
            str(row["pairs"]),
        ]
        for row in found.to_dict("records")
    ]
    return header, rows


def _main(evidence: Evidence) -> Table:
    header = (
        *("metric", "weighted tau", "95 % interval", "test", "regret", "best block", "probes"),
        *("seconds", "failed"),
    )
    return header, [
        [
            *(row.metric, _two(row.value), f"{_two(row.low)} to {_two(row.high)}", row.against),
            *(f"{100 * row.regret:.1f}", _two(row.best), _two(row.probe)),
            "–" if np.isnan(row.seconds) else f"{row.seconds:.3f}",
            str(row.failures),
        ]
        for row in evidence.rows
    ]


def _few(evidence: Evidence) -> Table:
    sizes = [n for n in SIZES if any(np.isfinite(row.on_parts[n]) for row in evidence.rows)]
    header = ("metric", *map(str, sizes), "all")
    return header, [
        [row.metric, *(_two(row.on_parts[n]) for n in sizes), _two(row.value)]
        for row in evidence.rows
        if any(np.isfinite(row.on_parts[n]) for n in sizes)
    ]


def _repairs(evidence: Evidence) -> Table:
    repaired = {name: evidence.scored.last(repair=name) for name in REPAIRS}
    rows = []
    for row in evidence.rows:
        found = [of.get(row.metric) for of in repaired.values()]
        if any(table is not None for table in found):
            values = [plain_agreement(table, evidence.accuracies) for table in found]
            rows.append([row.metric, *map(_two, (row.width, row.value, *values))])
    return ("metric", "with width", "plain", *REPAIRS), rows


def _layers(evidence: Evidence) -> Table:
    known = [row for row in evidence.rows if np.isfinite(row.layer_regret)]
    ordered = sorted(known, key=lambda row: row.layer_regret)
    return ("metric", "points lost"), [
        [row.metric, f"{100 * row.layer_regret:.1f}"] for row in ordered
    ]


def _choice(evidence: Evidence) -> Table:
    scores = evidence.scores
    candidates = {**scores, **aggregations(scores, _CHEAP)}
    found = cross_validated(candidates, evidence.accuracies)
    usual = {name: by_task(scores[name], evidence.accuracies) for name in _USUAL if name in scores}
    header = ("left out", "chosen on the others", "its tau", *usual)
    rows = [
        [task, chosen, _two(value), *(_two(values[task]) for values in usual.values())]
        for task, chosen, value in found.itertuples(index=False)
    ]
    means = [found["value"].mean(), *(v[found["task"]].mean() for v in usual.values())]
    return header, [*rows, ["mean", "", *map(_two, means)]]


def _accuracies(evidence: Evidence) -> Table:
    """All heads of a pair in one cell."""

    def cell(model: Any, task: Any) -> str:
        parts = []
        for name, table in evidence.heads.items():
            star = "*" if evidence.chosen.loc[model, task] == name else ""
            value = table.loc[model, task]
            parts.append("–" if np.isnan(value) else f"{100 * value:.1f}{star}")
        return " / ".join(parts)

    tasks, models = list(evidence.accuracies), evidence.accuracies.index
    rows = [[str(model), *(cell(model, task) for task in tasks)] for model in models]
    return ("model", *map(str, tasks)), rows


def _two(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
