"""``benchmark build`` for people: which score deserves trust, as text and as a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.evidence.ground_truth import BEST, best, reached
from transfer_metrics.evidence.judgement import (
    JudgedMetric,
    aggregations,
    at_last,
    by_task,
    cross_validated,
    judge,
    layer_regrets,
    mean_over_tasks,
    rank_correlation,
    tables,
    width_of,
)
from transfer_metrics.evidence.layout import Grid, aligned, describe, piped, wrapped
from transfer_metrics.evidence.published import Benchmark
from transfer_metrics.evidence.scored_pairs import COMPONENTS, REPAIRS, SIZES
from transfer_metrics.evidence.static_baseline import (
    MEASURE,
    Need,
    mean_agreement,
    need_of,
    parts_on_need,
)
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
from transfer_metrics.results.agreement import RESAMPLES
from transfer_metrics.results.comparison import Comparison

if TYPE_CHECKING:
    import pandas as pd

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
    """A ground truth, and every metric judged by it.

    Attributes:
        accuracies: models x tasks, of the head that validation chose, mean over seeds.
        noise: their standard errors.
        heads: of every head, models x tasks, the simplest first.
        probe_noise: standard errors of the linear probes.
        chosen: name of the head that validation chose with the first seed, models x tasks.
        rows: the metrics, best first.
        needs: the metrics beside the static ranking, by fine-tuning and by linear probes.
        records: the scores.
        dims: number of features by model.
        protocol: heads that were fitted.
        beside: scores and linear probes of other models, on which nothing was chosen.
    """

    accuracies: pd.DataFrame
    noise: pd.DataFrame
    heads: Mapping[str, pd.DataFrame]
    probe_noise: pd.DataFrame
    chosen: pd.DataFrame
    rows: tuple[JudgedMetric, ...]
    needs: tuple[Need, ...]
    records: tuple[Mapping[str, Any], ...]
    dims: Mapping[str, float]
    protocol: tuple[str, ...]
    beside: Benchmark | None = None

    @property
    def probes(self) -> pd.DataFrame:
        """Linear probes of the classifier's input."""
        return self.heads[_PROBED]


def gather(
    truth: Comparison,
    records: Sequence[Mapping[str, Any]],
    *,
    protocol: Sequence[str] = (),
    beside: Benchmark | None = None,
    resamples: int = RESAMPLES,
) -> Evidence:
    """Judge scores by the best head of a truth, under the same names of models and tasks.

    ``protocol`` is what to say of the heads, by default their labels; ``beside`` a benchmark to
    show as well.
    """
    decided = Comparison(best(truth.records))
    accuracies, noise = reached(decided, BEST)
    names = dict.fromkeys(str(r["head"]).partition("(")[0] for r in truth.records if r["head"])
    names = {_PROBED: None, **names}
    by_head = {name: reached(truth, name)[0].reindex_like(accuracies) for name in names}
    _, probe_noise = reached(truth, _PROBED)
    chosen = accuracies.astype(object)
    for r in decided.records:
        if not r["seed"]:
            chosen.loc[r["model"], r["task"]] = str(r["note"]).partition("(")[0]
    there = {r["metric"] for r in records}
    reference = next((name for name in DEFAULT_METRICS if name in there), "")
    rows = judge(
        records,
        accuracies,
        by_head[_PROBED],
        noise=noise,
        reference=reference,
        sizes=SIZES,
        resamples=resamples,
    )
    scores = tables(at_last(records))
    needs = (
        need_of("the best head", accuracies, scores, noise=noise, resamples=resamples),
        need_of("linear probes", by_head[_PROBED], scores, noise=probe_noise, resamples=resamples),
    )
    told = tuple(protocol) or tuple(
        dict.fromkeys(str(r["head"]) for r in truth.records if r["head"])
    )
    dims = width_of(records)
    return Evidence(
        accuracies,
        noise,
        by_head,
        probe_noise.reindex_like(accuracies),
        chosen,
        tuple(rows),
        needs,
        tuple(records),
        dims,
        told,
        beside,
    )


def text(evidence: Evidence) -> str:
    """The tables, for a terminal."""
    return "\n\n".join(_parts(evidence, aligned, "{}"))


def markdown(evidence: Evidence, command: str, picture: str | None = None) -> str:
    """The page of documentation."""
    written = f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}."
    parts = ["# Which score deserves trust", wrapped(written), "\n".join(describe())]
    if picture:
        parts.append(f"![agreement against cost]({picture})")
    return "\n\n".join([*parts, *_parts(evidence, piped, "## {}")]) + "\n"


def draw(evidence: Evidence, path: str | os.PathLike[str]) -> str:
    """Draw agreement against cost into a PNG, SVG or PDF file."""
    import pandas as pd

    from transfer_metrics.results.plot_style import save_figure
    from transfer_metrics.results.plots import TRADE_OFF, plot_trade_off

    rows = [(r.metric, r.seconds, r.value, r.low, r.high) for r in evidence.rows]
    frame = pd.DataFrame(rows, columns=list(TRADE_OFF))
    return save_figure(lambda ax: plot_trade_off(frame, ax=ax), path, 6.0)


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
    if evidence.beside is not None:
        parts += [
            title.format(f"Beside it: {evidence.beside.title}"),
            wrapped(
                f"Weighted tau with the {evidence.beside.accuracy}; nothing was chosen by these. "
                f"{'; '.join(evidence.beside.notes)}."
            ),
            grid(*_beside(evidence.beside)),
        ]
    return [*parts, title.format("Ground truth"), *_truth(evidence, grid)]


def _truth(evidence: Evidence, grid: Grid) -> list[str]:
    """What every head reached, and what the choice between them was worth."""
    names = list(evidence.heads)
    shares = ", ".join(
        f"{name} {(evidence.chosen == name).to_numpy().mean():.0%}" for name in names
    )
    gains = 100 * (evidence.accuracies - evidence.probes).to_numpy()
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
    scores = tables(at_last(evidence.records))
    shown = next((name for name in DEFAULT_METRICS if name in scores), evidence.rows[0].metric)
    low, high = min(evidence.dims.values()), max(evidence.dims.values())
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
        *parts_on_need(evidence.needs, scores, shown, evidence.accuracies, grid, title),
        title.format("Fewer examples"),
        wrapped(
            "The same tau where only so many training examples are scored, on the tasks that "
            "have as many."
        ),
        grid(*_few(evidence)),
        title.format("Width"),
        wrapped(
            f"Why scores mislead on models of different widths: Kendall's tau of each with the "
            f"number of features (the accuracies have {_accuracy_and_width(evidence):.2f}), "
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
            f"{100 * layer_regrets(evidence.records)['last']:.1f}."
        ),
        grid(*_layers(evidence)),
    ]


_Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _main(evidence: Evidence) -> _Table:
    header = (
        *("metric", "weighted tau", "95 % interval", "test", "regret", "best block", "probes"),
        *("seconds", "failed"),
    )
    return header, [
        [
            row.metric,
            _two(row.value),
            f"{_two(row.low)} to {_two(row.high)}",
            row.against,
            f"{100 * row.regret:.1f}",
            _two(row.best),
            _two(row.probe),
            "–" if np.isnan(row.seconds) else f"{row.seconds:.3f}",
            str(row.failures),
        ]
        for row in evidence.rows
    ]


def _few(evidence: Evidence) -> _Table:
    sizes = [n for n in SIZES if any(np.isfinite(row.on_parts[n]) for row in evidence.rows)]
    header = ("metric", *map(str, sizes), "all")
    return header, [
        [row.metric, *(_two(row.on_parts[n]) for n in sizes), _two(row.value)]
        for row in evidence.rows
        if any(np.isfinite(row.on_parts[n]) for n in sizes)
    ]


def _repairs(evidence: Evidence) -> _Table:
    repaired = {name: tables(at_last(evidence.records, repair=name)) for name in REPAIRS}
    header = ("metric", "with width", "plain", *REPAIRS)
    rows = []
    for row in evidence.rows:
        found = [repaired[name].get(row.metric) for name in REPAIRS]
        if any(table is not None for table in found):
            values = [
                float("nan")
                if table is None
                else mean_agreement(table, evidence.accuracies, None, 0)[MEASURE][0]
                for table in found
            ]
            rows.append([row.metric, _two(row.width), _two(row.value), *map(_two, values)])
    return header, rows


def _accuracy_and_width(evidence: Evidence) -> float:
    return mean_over_tasks(evidence.accuracies, evidence.dims, rank_correlation)


def _layers(evidence: Evidence) -> _Table:
    known = [row for row in evidence.rows if np.isfinite(row.layer_regret)]
    ordered = sorted(known, key=lambda row: row.layer_regret)
    return ("metric", "points lost"), [
        [row.metric, f"{100 * row.layer_regret:.1f}"] for row in ordered
    ]


def _choice(evidence: Evidence) -> _Table:
    scores = tables(at_last(evidence.records))
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


def _beside(benchmark: Benchmark) -> _Table:
    """Weighted tau of every score on every task of a benchmark, and its interval over models."""
    found = {
        name: (
            by_task(table, benchmark.accuracies),
            *mean_agreement(table, benchmark.accuracies, benchmark.noise, RESAMPLES)[MEASURE],
        )
        for name, table in benchmark.scores.items()
    }
    ordered = sorted(found, key=lambda name: -found[name][1])
    tasks = list(benchmark.accuracies)
    return ("metric", *map(str, tasks), "mean", "95 % interval"), [
        [
            name,
            *(_two(found[name][0].get(task, np.nan)) for task in tasks),
            _two(found[name][1]),
            f"{_two(found[name][2])} to {_two(found[name][3])}",
        ]
        for name in ordered
    ]


def _accuracies(evidence: Evidence) -> _Table:
    """All heads of a pair in one cell."""
    tasks = list(evidence.accuracies)

    values = {name: table.to_numpy(float) for name, table in evidence.heads.items()}
    chosen = evidence.chosen.to_numpy()

    def cell(row: int, column: int) -> str:
        parts = []
        for name, table in values.items():
            star = "*" if chosen[row, column] == name else ""
            value = table[row, column]
            parts.append("–" if np.isnan(value) else f"{100 * value:.1f}{star}")
        return " / ".join(parts)

    return ("model", *map(str, tasks)), [
        [str(model), *(cell(row, column) for column in range(len(tasks)))]
        for row, model in enumerate(evidence.accuracies.index)
    ]


def _two(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
