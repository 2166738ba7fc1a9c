"""``benchmark build`` for people: which score deserves trust, as text and as a page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence.judgement import (
    JudgedMetric,
    aggregations,
    at_last,
    by_task,
    cross_validated,
    judge,
    layer_regrets,
    mean_over_tasks,
    probed_last,
    rank_correlation,
    tables,
    width_of,
)
from transfer_metrics.evidence.layout import Grid, aligned, describe, piped, wrapped
from transfer_metrics.evidence.scored_pairs import COMPONENTS, REPAIRS, SIZES
from transfer_metrics.evidence.static_baseline import (
    ABOUT,
    MEASURE,
    Need,
    differences,
    in_full,
    mean_agreement,
    need_of,
    overview,
)
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS
from transfer_metrics.results.agreement import RESAMPLES
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.static_ranking import STATIC

if TYPE_CHECKING:
    import pandas as pd

TUNED, PROBED = "finetune", "linear_probe"
_USUAL = ("transrate", "logme", "h_score", "knn")
"""What a choice by evidence has to beat."""
_CHEAP = (
    *("transrate(eps=auto)", "logme", "h_score", "knn", "lfc", "parc", "ridge_probe"),
    *("ncti_posterior", "nleep"),
)
"""Metrics whose ranks are aggregated."""


_Table = tuple[Sequence[str], Sequence[Sequence[str]]]


@dataclass(frozen=True)
class _Evidence:
    """A ground truth, and every metric judged by it.

    Attributes:
        accuracies: models x tasks, after fine-tuning, mean over seeds.
        noise: their standard errors.
        probes: models x tasks, linear probes of the classifier's input.
        rows: the metrics, best first.
        needs: the metrics beside the static ranking, by fine-tuning and by linear probes.
        reference: the metric that ranks by default, or else the best.
        worth: what differences of its scores are worth.
        records: the scores.
        dims: number of features by model.
        protocol: heads that were fitted.
        aside: scores and probes of models and tasks that no choice has seen.
    """

    accuracies: pd.DataFrame
    noise: pd.DataFrame
    probes: pd.DataFrame
    rows: tuple[JudgedMetric, ...]
    needs: tuple[Need, ...]
    reference: str
    worth: _Table
    records: tuple[Mapping[str, Any], ...]
    dims: Mapping[str, float]
    protocol: tuple[str, ...]
    aside: tuple[Mapping[str, Any], ...] = ()


def gather(
    truth: Comparison,
    records: Sequence[Mapping[str, Any]],
    *,
    aside: Sequence[Mapping[str, Any]] = (),
    resamples: int = RESAMPLES,
) -> _Evidence:
    """Judge scores by a truth with fine-tuning and linear probes, under the same names.

    Scores that are kept aside are judged by their probes.
    """
    accuracies, noise = reached(truth, TUNED)
    probes, _ = reached(truth, PROBED)
    there = {r["metric"] for r in records}
    scores = tables(at_last(records))
    reference = next((name for name in DEFAULT_METRICS if name in there), "")
    rows = judge(
        records,
        accuracies,
        probes,
        noise=noise,
        reference=reference,
        sizes=SIZES,
        resamples=resamples,
    )
    needs = (
        need_of("fine-tuning", accuracies, scores, noise=noise, resamples=resamples),
        need_of("linear probes", probes, scores, resamples=resamples),
    )
    heads = tuple(dict.fromkeys(str(r["head"]) for r in truth.records if r["head"]))
    dims = width_of(records)
    kept = tuple(aside)
    shown = reference or next(row.metric for row in rows if row.metric != STATIC)
    worth = differences(scores[shown], accuracies, resamples)
    return _Evidence(
        accuracies,
        noise,
        probes,
        tuple(rows),
        needs,
        shown,
        worth,
        tuple(records),
        dims,
        heads,
        kept,
    )


def reached(truth: Comparison, head: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean test accuracy over seeds and its standard error, models x tasks, of heads of one name.

    The error is that of finitely many test examples and, of two or more seeds, of their spread.
    """
    import pandas as pd

    cells: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for r in truth.records:
        of_head = r["metric"] == "accuracy" and str(r["head"]).partition("(")[0] == head
        if of_head and r["value"] is not None:
            cells.setdefault(r["task"], {}).setdefault(r["model"], []).append(r)
    if not cells:
        raise InvalidInputError(f"the ground truth has no accuracy of {head}")
    means, errors = (
        pd.DataFrame({t: {m: fn(rs) for m, rs in of.items()} for t, of in cells.items()})
        for fn in (_mean, _error)
    )
    return means, errors


def _mean(records: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([r["value"] for r in records]))


def _error(records: Sequence[Mapping[str, Any]]) -> float:
    p, k = _mean(records), len(records)
    spread = float(np.var([r["value"] for r in records], ddof=1)) / k if k > 1 else 0.0
    return float(np.sqrt(p * (1 - p) / records[0]["n"] + spread))


def text(evidence: _Evidence) -> str:
    """The tables, for a terminal."""
    return "\n\n".join(_parts(evidence, aligned, "{}"))


def markdown(evidence: _Evidence, command: str, picture: str | None = None) -> str:
    """The page of documentation."""
    written = f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}."
    parts = ["# Which score deserves trust", wrapped(written), "\n".join(describe())]
    if picture:
        parts.append(f"![agreement against cost]({picture})")
    return "\n\n".join([*parts, *_parts(evidence, piped, "## {}")]) + "\n"


def draw(evidence: _Evidence, path: str | os.PathLike[str]) -> str:
    """Draw agreement against cost into a PNG, SVG or PDF file."""
    import pandas as pd

    from transfer_metrics.results.plot_style import save_figure
    from transfer_metrics.results.plots import TRADE_OFF, plot_trade_off

    rows = [(r.metric, r.seconds, r.value, r.low, r.high) for r in evidence.rows]
    frame = pd.DataFrame(rows, columns=list(TRADE_OFF))
    return save_figure(lambda ax: plot_trade_off(frame, ax=ax), path, 6.0)


def _parts(evidence: _Evidence, grid: Grid, title: str) -> list[str]:
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
    if evidence.aside:
        parts += [
            title.format("Kept aside"),
            wrapped(
                "Weighted tau with linear probes on tasks, and partly models, that had no part in "
                "any of the above."
            ),
            grid(*_aside(evidence)),
        ]
    return [
        *parts,
        title.format("Ground truth"),
        wrapped(f"Accuracy in per cent. Heads: {'; '.join(evidence.protocol)}."),
        "Fine-tuning:",
        grid(*_accuracies(evidence.accuracies)),
        "Linear probes:",
        grid(*_accuracies(evidence.probes)),
    ]


def _judged(evidence: _Evidence, grid: Grid, title: str) -> list[str]:
    models, tasks = evidence.accuracies.shape
    low, high = min(evidence.dims.values()), max(evidence.dims.values())
    return [
        title.format("Every metric"),
        wrapped(
            f"Weighted Kendall's tau between the scores of {models} models (classifier's input, "
            f"{low:.0f} to {high:.0f} features) and their accuracies after fine-tuning, mean over "
            f"{tasks} tasks, with a 95 % interval of a bootstrap over models that takes the noise "
            f"of the accuracies into account. *test* is the paired test against the default "
            f"metric. *regret*: accuracy of the best model less that of "
            f"the favourite, in points. *best block*: the highest score over blocks stands for the "
            f"model. *probes*: tau with linear probes instead of fine-tuning. *seconds*: one "
            f"scoring of all training examples, on one thread, while other work ran beside it. "
            f"*failed*: pairs without a score."
        ),
        grid(*_main(evidence)),
        *_needed(evidence, grid, title),
        title.format("Fewer examples"),
        wrapped(
            "The same tau where only so many training examples are scored, on the tasks that "
            "have as many."
        ),
        grid(*_few(evidence)),
        title.format("Width"),
        wrapped(
            f"Why scores mislead on models of different widths: Kendall's tau of each with the "
            f"number of features (fine-tuned accuracies have {_accuracy_and_width(evidence):.2f}), "
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


def _needed(evidence: _Evidence, grid: Grid, title: str) -> list[str]:
    needs = [need for need in evidence.needs if need.static]
    if not needs:
        return []
    return [
        title.format("Does this benchmark need a metric at all?"),
        wrapped(
            f"{ABOUT} Regrets are in points. *best score* is the best in hindsight; what stands "
            f"*over* another is a paired test of weighted tau."
        ),
        grid(*overview(needs)),
        wrapped(f"Every metric, by {needs[0].name}. {needs[0].sentence}"),
        grid(*in_full(needs[0])),
        title.format("What a difference of scores is worth"),
        wrapped(
            f"Pairs of models on one task in four bins of equally many, by the difference of their "
            f"scores in {evidence.reference}, in deviations of the scores on the task: by how much "
            f"the model with the higher score is ahead after fine-tuning, and how often it is. "
            f"Intervals are over models."
        ),
        grid(*evidence.worth),
    ]


def _main(evidence: _Evidence) -> _Table:
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


def _few(evidence: _Evidence) -> _Table:
    sizes = [n for n in SIZES if any(np.isfinite(row.on_parts[n]) for row in evidence.rows)]
    header = ("metric", *map(str, sizes), "all")
    return header, [
        [row.metric, *(_two(row.on_parts[n]) for n in sizes), _two(row.value)]
        for row in evidence.rows
        if any(np.isfinite(row.on_parts[n]) for n in sizes)
    ]


def _repairs(evidence: _Evidence) -> _Table:
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


def _accuracy_and_width(evidence: _Evidence) -> float:
    return mean_over_tasks(evidence.accuracies, evidence.dims, rank_correlation)


def _layers(evidence: _Evidence) -> _Table:
    known = [row for row in evidence.rows if np.isfinite(row.layer_regret)]
    ordered = sorted(known, key=lambda row: row.layer_regret)
    return ("metric", "points lost"), [
        [row.metric, f"{100 * row.layer_regret:.1f}"] for row in ordered
    ]


def _choice(evidence: _Evidence) -> _Table:
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


def _aside(evidence: _Evidence) -> _Table:
    probes = tables(probed_last(evidence.aside))["accuracy"]
    scores = tables(at_last(evidence.aside))
    found = {name: by_task(table, probes) for name, table in scores.items()}
    ordered = sorted(found, key=lambda name: -found[name].mean())
    return ("metric", *map(str, probes.columns), "mean"), [
        [name, *(_two(found[name].get(task, np.nan)) for task in probes), _two(found[name].mean())]
        for name in ordered
    ]


def _accuracies(table: pd.DataFrame) -> _Table:
    return ("model", *map(str, table.columns)), [
        [str(model), *("–" if np.isnan(v) else f"{100 * v:.1f}" for v in values)]
        for model, *values in table.itertuples()
    ]


def _two(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
