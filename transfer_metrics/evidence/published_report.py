"""Which published metrics agree best with published accuracies, and which differences are ties."""

from __future__ import annotations

import itertools
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence.layout import aligned, piped, wrapped
from transfer_metrics.evidence.published import (
    MEASURED_HERE,
    Benchmark,
    list_benchmarks,
    load_benchmark,
)
from transfer_metrics.results.agreement import RESAMPLES
from transfer_metrics.results.agreement_tasks import MEAN, agreement_by_task, compare_metrics

MEASURE = "weighted_kendall"
HEADER = ("metric", "weighted tau", "95 % interval", "tasks", "better than", "worse than")


@dataclass(frozen=True)
class Row:
    """One metric on one benchmark: mean over tasks, and the metrics that it differs from."""

    metric: str
    value: float
    low: float
    high: float
    tasks: int
    better_than: tuple[str, ...]
    worse_than: tuple[str, ...]


@dataclass(frozen=True)
class Judged:
    """A benchmark and its metrics, best first."""

    benchmark: Benchmark
    rows: tuple[Row, ...]

    @property
    def pairs(self) -> int:
        """How many pairs of metrics were compared."""
        return len(self.rows) * (len(self.rows) - 1) // 2

    @property
    def ties(self) -> int:
        """How many of them are ties."""
        return self.pairs - sum(len(row.better_than) for row in self.rows)


def measure(
    names: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Judged]:
    """Judge the scores of published benchmarks by weighted tau.

    Args:
        names: benchmarks; by default all of others that carry scores.
        resamples: bootstrap samples of models.
        seed: of the bootstrap.

    Cost: half a minute for all.

    >>> (judged,) = measure(["tmlr"], resamples=10)
    >>> [row.metric for row in judged.rows], judged.ties
    (['imagenet_top1'], 0)
    """
    of_others = [name for name in list_benchmarks() if name != MEASURED_HERE]
    loaded = [load_benchmark(name) for name in names or of_others]
    return [judge(b, resamples=resamples, seed=seed) for b in loaded if b.scores]


def judge(benchmark: Benchmark, *, resamples: int = RESAMPLES, seed: int = 0) -> Judged:
    """Mean weighted tau of every metric of a benchmark, and a paired test of every two."""
    accuracies, scores = benchmark.accuracies, benchmark.scores
    with warnings.catch_warnings():
        # What is missing is in the benchmark's notes, which the page repeats.
        warnings.simplefilter("ignore", TransferMetricsWarning)
        better: dict[str, list[str]] = {metric: [] for metric in scores}
        worse: dict[str, list[str]] = {metric: [] for metric in scores}
        for a, b in itertools.combinations(scores, 2):
            found = compare_metrics(
                scores[a],
                scores[b],
                accuracies,
                measure=MEASURE,
                noise=benchmark.noise,
                resamples=resamples,
                seed=seed,
            )
            if found.verdict != "tie":
                winner, loser = (a, b) if found.verdict == "a" else (b, a)
                better[winner].append(loser)
                worse[loser].append(winner)
        rows = []
        for metric, table in scores.items():
            judged = agreement_by_task(
                table, accuracies, at=(), noise=benchmark.noise, resamples=resamples, seed=seed
            )
            mean = judged[(judged["task"] == MEAN) & (judged["measure"] == MEASURE)].iloc[0]
            ends = float(mean["value"]), float(mean["low"]), float(mean["high"])
            names = tuple(better[metric]), tuple(worse[metric])
            rows.append(Row(metric, *ends, int(mean["n"]), *names))
    return Judged(benchmark, tuple(sorted(rows, key=lambda row: -row.value)))


def text(judged: Sequence[Judged]) -> str:
    """The tables and what they come to, for a terminal."""
    parts = [wrapped(method())]
    for one in judged:
        parts += ["\n".join(_heading(one)), aligned(HEADER, _cells(one))]
    return "\n\n".join([*parts, summary(judged)])


def markdown(judged: Sequence[Judged], command: str) -> str:
    """The page of documentation."""
    parts = ["# Published scores", f"Made by `{command}`.", wrapped(method()), summary(judged)]
    for one in judged:
        title, *lines = _heading(one)
        items = "\n".join(
            textwrap.fill(f"- {line}", 100, subsequent_indent="  ", break_long_words=False)
            for line in lines
        )
        parts += [f"## {title}", items, piped(HEADER, _cells(one))]
    return "\n\n".join(parts) + "\n"


def method() -> str:
    """How the figures were taken."""
    return (
        "Weighted Kendall's tau of published scores and published accuracies, the mean over "
        "tasks. Intervals are 95 % percentile intervals of a bootstrap over models, the tasks "
        "as they are; they leave out the noise of the accuracies, which nobody published, and "
        "with ten models or fewer they are too narrow rather than too wide. With four they say "
        "little: 1 to 1 only means that every resample had the same order. Two metrics differ "
        "where the interval of their difference, on the same resampled models, leaves out 0; "
        "all others are ties. Nothing is corrected for the number of pairs."
    )


def summary(judged: Sequence[Judged]) -> str:
    """What the tables come to."""
    pairs, ties = sum(one.pairs for one in judged), sum(one.ties for one in judged)
    by_benchmark = ", ".join(f"{one.benchmark.name} {one.ties}/{one.pairs}" for one in judged)
    return wrapped(
        f"Of {pairs} pairs of metrics compared on one benchmark, {ties} are ties ({by_benchmark})."
    )


def _heading(one: Judged) -> list[str]:
    benchmark = one.benchmark
    return [f"{benchmark.name}: {benchmark.title}", benchmark.source, *benchmark.notes]


def _cells(one: Judged) -> list[list[str]]:
    return [
        [
            row.metric,
            f"{row.value:.3f}",
            f"{row.low:.2f} to {row.high:.2f}",
            str(row.tasks),
            ", ".join(row.better_than) or "–",
            ", ".join(row.worse_than) or "–",
        ]
        for row in one.rows
    ]
