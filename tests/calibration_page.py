"""``docs/shortlist.md``: what shortlists promise, what they held, and what a prior adds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tests.calibration import (
    PROMISED_COVERAGE,
    PROMISED_SIZE,
    Coverage,
    Trial,
    coverage,
    reliability,
)
from tests.prior_trials import Combined
from transfer_metrics.evidence.layout import Grid, describe, piped, wrapped
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import ErrorModel
from transfer_metrics.results.wording import aligned


@dataclass(frozen=True)
class Tried:
    """Trials of one way of leaving out.

    Attributes:
        name: what was left out.
        trials: by every metric.
        default: the metric that ranks by default.
    """

    name: str
    trials: Sequence[Trial]
    default: str

    @property
    def of_default(self) -> list[Trial]:
        """Trials of the metric that ranks by default."""
        return [t for t in self.trials if t.metric == self.default]


@dataclass(frozen=True)
class Calibrated:
    """All that the page shows."""

    errors: ErrorModel
    tried: Sequence[Tried]
    benchmarks: Mapping[str, Sequence[Trial]]
    combined: Sequence[Combined]
    drawn: Sequence[Combined]


def markdown(found: Calibrated, command: str, picture: str) -> str:
    """The page of documentation."""
    written = f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}."
    parts = ["# A shortlist, and how sure it is", wrapped(written), "\n".join(describe())]
    parts += [_METHOD, f"![chances against what came true]({picture})"]
    return "\n\n".join([*parts, *_parts(found, piped, "## {}")]) + "\n"


def text(found: Calibrated) -> str:
    """The tables, for a terminal."""
    return "\n\n".join(_parts(found, aligned, "{}"))


def draw(trials: Sequence[Trial], path: str | os.PathLike[str]) -> str:
    """Draw chances against how often they came true into a PNG, SVG or PDF file."""
    from transfer_metrics.results.plot_style import new_axes, save_figure

    rows = reliability(trials)

    def plot(figure: Any) -> None:
        ax = new_axes(figure, 5.0)
        chance, share, low, high, _ = np.array(rows).T
        errors = np.abs([share - low, high - share])
        ax.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        ax.errorbar(chance, share, errors, fmt="o", capsize=3)
        ax.set_xlabel("P(best) that was told, task left out")
        ax.set_ylabel("share that were the best")

    return save_figure(plot, path)


_METHOD = """\
`rank` tells for each model the probability that it is the best to transfer, of the accuracy that is
reached and not of the score, and the smallest set that holds the best with 90 %:

    table.shortlist(0.9)
    transfer-metrics rank --models 'zoo:*' --task sklearn:digits --confidence 0.8

Scores and accuracies of the candidates of a task are taken to be normal together, with a
correlation that differs between tasks. Fisher's z of it is learnt per metric from networks that
were trained: its mean, its change with the number of examples and of classes, and how much tasks
differ, all drawn towards the other metrics where little is known. Accuracies are then simulated
20 000 times: the correlation, the spread of scores that few candidates cannot tell, the sampling
errors of the scores (`--intervals`) and what the scores leave open. That is `p_best`; `p_score` in
`table.ranking()` counts sampling errors alone.

What lies outside of the evidence is said: a metric, a kind of task, widths by more than twice,
numbers of examples or classes by more than three times. A metric is then trusted no further than
published benchmarks bear out, which differ far more than tasks do, nor than inside. After a
race, a model that was dropped keeps the chance that its round gave it, and later rounds share out
the rest. The scores of `knn` at 100 examples of the evidence, raced down to 1, 2, 3 and 5 models,
each task left out: the 90 % shortlist held the best each time, with 47, 46, 46 and 41 % of the
candidates. Of models that were dropped so few examples are all that is known, so that it is as wide
as where all are scored on 100 examples (47 %); what is promised below is of full rankings.

Evidence of your own replaces ours: `rank --evidence truth.jsonl`, with the file that
`transfer-metrics benchmark run` wrote, or `rank_models(..., evidence=...)`.
`rank --prior accuracies.csv` adds what the models reached on earlier tasks, or one published
column, and ranks by both. A column of the task itself, one that is like another and one that is the
same for all are left out, which is said. Earlier tasks tell more than a standing: models that went
together on them go together on a new one, and what the score says of one it says of those alike.
What the standing leaves of the accuracies is taken to be normal, with correlations that fall with
the distance `d` of two models' normal scores on the earlier tasks, `exp(-d / median d)`, in a share
of its variance that is learnt from these tasks, each against the others (three or more; of fewer
the standing is all). Score and standing are then conditioned on together, as a Gaussian process.

P(best) knows how the scores of the candidates lie, not how many points lie between their
accuracies: where all candidates are equally good, one of them is the best all the same."""


def _parts(found: Calibrated, grid: Grid, title: str) -> list[str]:
    main = found.tried[0]
    promised = coverage(main.of_default)[2]
    whole = coverage([t for t in main.of_default if t.whole])[2]
    parts = [
        title.format("What is promised"),
        wrapped(
            f"That 90 % shortlists hold the best model on at least {_percent(PROMISED_COVERAGE)} "
            f"of tasks that were left out, with at most {_percent(PROMISED_SIZE)} of the "
            f"candidates. By `{main.default}`, which ranks by default, they held it on "
            f"{_covered(whole)} with {_shared(whole)} of all candidates, and on "
            f"{_covered(promised)} with {_shared(promised)} where random parts of the candidates "
            f"are counted too."
        ),
    ]
    for one in found.tried:
        parts += [
            title.format(one.name[0].upper() + one.name[1:]),
            wrapped(_about(one)),
            grid(*_coverages(one)),
        ]
    parts += [
        title.format("Chances that came true"),
        wrapped(
            "P(best) that was told with the task left out, over all metrics, against the share of "
            "those models that were the best; intervals over tasks."
        ),
        grid(*_reliabilities(main.trials)),
        title.format("Other benchmarks"),
        wrapped(
            "The same on published benchmarks, each left out whole: other networks, other tasks, "
            "other people's scores."
        ),
        grid(*_benchmarks(found.benchmarks)),
        title.format("With a prior"),
        wrapped(
            "Weighted tau and regret (points of the table) of the score, of the standing of the "
            "models on all other tasks, and of both together, on each task in turn, mean over "
            "tasks. Intervals of a bootstrap over models. *gain*: both less the better of the two, "
            "a tie where its interval contains 0."
        ),
        grid(*_combinations(found.combined)),
        wrapped(
            "Tables with many tasks have no scores. There the score is drawn: in each of the "
            "resamples it correlates with the accuracies of a task as far as the evidence says of "
            f"`{main.default}`, on networks like ours (*here*) and on others (*elsewhere*), and is "
            "wrong about other models than the standing is. So these rows are a simulation, with "
            "true accuracies and made-up scores. What both together gain rests on errors of the "
            "score that models do not share with those alike, as the combination takes them to "
            "be; in the rows with *errors alike* they share that part of their variance."
        ),
        grid(*_combinations(found.drawn)),
        title.format("What was learnt"),
        wrapped(_learnt(found.errors)),
        grid(*_metrics(found.errors)),
    ]
    return parts


def _about(one: Tried) -> str:
    tasks = len({t.task for t in one.trials})
    whole = [t for t in one.of_default if t.whole]
    most = max((len(t.chances) for t in whole), default=0)
    return (
        f"{len(one.trials)} sets of {one.name} on {tasks} tasks: on each, by each metric, of all "
        f"candidates (up to {most}) and of random parts of them, from 4 on. Intervals are over "
        f"tasks: as if all sets of a task held the best or none. *lost*: points of accuracy lost "
        f"by taking the best of the set."
    )


def _coverages(one: Tried) -> tuple[list[str], list[list[str]]]:
    header = ["sets", "asked", "held the best", "95 % interval", "models", "share", "lost"]
    groups = {
        f"{one.default}, all candidates": [t for t in one.of_default if t.whole],
        f"{one.default}, parts too": one.of_default,
        "all metrics, all candidates": [t for t in one.trials if t.whole],
        "all metrics, parts too": list(one.trials),
    }
    return header, [
        [
            name if i == 0 else "",
            _percent(c.level),
            _percent(c.covered),
            f"{_percent(c.low)} to {_percent(c.high)}",
            f"{c.size:.1f}",
            _percent(c.share),
            f"{100 * c.lost:.1f}",
        ]
        for name, trials in groups.items()
        if trials
        for i, c in enumerate(coverage(trials))
    ]


def _reliabilities(trials: Sequence[Trial]) -> tuple[list[str], list[list[str]]]:
    header = ["P(best), mean", "were the best", "95 % interval", "models"]
    return header, [
        [f"{chance:.3f}", f"{share:.3f}", f"{low:.3f} to {high:.3f}", str(count)]
        for chance, share, low, high, count in reliability(trials)
    ]


def _benchmarks(found: Mapping[str, Sequence[Trial]]) -> tuple[list[str], list[list[str]]]:
    header = ["benchmark", "asked", "held the best", "95 % interval", "share", "sets"]
    rows = []
    for name, trials in found.items():
        for c in coverage(trials)[1:3]:
            told = f"{_percent(c.low)} to {_percent(c.high)}"
            cells = [_percent(c.level), _percent(c.covered), told, _percent(c.share), str(c.trials)]
            rows.append([name, *cells])
    return header, rows


def _combinations(found: Sequence[Combined]) -> tuple[list[str], list[list[str]]]:
    header = [
        *("benchmark", "score", "models x tasks", "tau: score", "standing", "both"),
        *("gain", "regret: score", "standing", "both", "gain"),
    ]
    rows = []
    for one in found:
        cells = [one.name, one.metric, f"{one.models} x {one.tasks}"]
        for measure, sign in (("weighted_kendall", 1.0), ("regret", -1.0)):
            parts = {p: one.values[measure, p][0] for p in ("score", "standing", "both")}
            better = max(("score", "standing"), key=lambda p: sign * parts[p])
            value, low, high = one.gains[measure, better]
            verdict = "" if low > 0 or high < 0 else ", tie"
            cells += [f"{parts[p]:.2f}" for p in ("score", "standing", "both")]
            cells.append(f"{value:+.2f} ({low:+.2f} to {high:+.2f}{verdict})")
        rows.append(cells)
    return header, rows


def _learnt(errors: ErrorModel) -> str:
    prior, between = errors.prior
    return (
        f"From {errors.source}. Figures are Fisher's z (0.5 is a correlation of 0.46, 1 of 0.76, "
        f"1.5 of 0.91). Tasks differ by {errors.tasks_apart:.2f} (standard deviation); ten times "
        f"as many classes change it by {errors.by_classes:+.2f}. Of a metric without evidence: "
        f"{errors.others.mean:.2f} ± {errors.others.error:.2f}. What models reached on one task "
        f"tells of another with {prior:.2f}, which differs by {between:.2f} between tables and "
        f"{errors.prior_tasks_apart:.2f} between tasks. *n x 10*: change with ten times as many "
        f"examples than 1000. *best block*: change where the best block stands for a model. "
        f"*correlation*: of scores of the best block on a new task, with one standard deviation to "
        f"either side; *elsewhere*: on networks and tasks unlike these, as published benchmarks "
        f"had it."
    )


def _metrics(errors: ErrorModel) -> tuple[list[str], list[list[str]]]:
    header = ["metric", "z", "± error", "n x 10", "best block", "correlation", "elsewhere"]
    return header, [
        [
            name,
            f"{own.mean:.2f}",
            f"{own.error:.2f}",
            f"{own.by_n:+.2f}",
            f"{own.of_best:+.2f}",
            _correlations(errors.trust(name, of_best=True)[0]),
            _correlations(errors.elsewhere.get(name, errors.others)),
        ]
        for name, own in sorted(errors.metrics.items(), key=lambda item: -item[1].mean)
    ]


def _correlations(trust: Trust) -> str:
    low, middle, high = (math.tanh(trust.mean + side * trust.error) for side in (-1, 0, 1))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _covered(c: Coverage) -> str:
    return f"{_percent(c.covered)} ({_percent(c.low)} to {_percent(c.high)})"


def _shared(c: Coverage) -> str:
    return f"{_percent(c.share)} ({_percent(c.share_low)} to {_percent(c.share_high)})"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
