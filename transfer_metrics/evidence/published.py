"""Accuracies after transfer, published by others or measured here, and scores beside them.

The figures lie in ``data/benchmarks``; a file is used only if its bytes have the recorded sha256.
``data/make_benchmarks.py`` made them and ``data/README.md`` says from what.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import quiet
from transfer_metrics.evidence.layout import Grid, piped, wrapped
from transfer_metrics.evidence.static_baseline import ABOUT, MEASURE, Need, by_task, overview
from transfer_metrics.results.agreement import RESAMPLES, STATIC, static_scores
from transfer_metrics.results.agreement_tasks import compare_metrics
from transfer_metrics.results.wording import aligned
from transfer_metrics.sources.zoo import data_folder, entries, entry, verified

if TYPE_CHECKING:
    import pandas as pd

MEASURED_HERE = ("reference-zoo", "reference-imagenet", "reference-texts")
"""The benchmarks that this project has measured: small networks, ImageNet networks, and texts."""

_NO_SCORES = ("probe_accuracy",)
"""What stands among the scores of a table and is measured after training."""
_HEADER = (
    *("metric", "weighted tau", "95 % interval", "tasks", f"with {STATIC}"),
    *("better than", "worse than"),
)


@dataclass(frozen=True)
class Benchmark:
    """Accuracies of models on tasks.

    Attributes:
        name: as in :func:`list_benchmarks`.
        title: models and tasks in a few words.
        source: paper and repository with commit and path.
        accuracy: what the accuracies are.
        unit: ``"%"`` or ``"fraction"``.
        accuracies: models x tasks, NaN where not reported.
        scores: metric to models x tasks, higher is better; empty where none are published.
        noise: standard errors of the accuracies, models x tasks; None where nobody tells them.
        notes: what is doubtful, left out or unusual.
    """

    name: str
    title: str
    source: str
    accuracy: str
    unit: str
    accuracies: pd.DataFrame
    scores: dict[str, pd.DataFrame]
    noise: pd.DataFrame | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        models, tasks = self.accuracies.shape
        scores = f", {len(self.scores)} scores" if self.scores else ""
        return f"Benchmark({self.name!r}, {models} models x {tasks} tasks{scores})"


def list_benchmarks() -> list[str]:
    """Names of the bundled benchmarks, sorted.

    Raises:
        CorruptStoreError: the manifest is missing or cannot be read.

    >>> [name for name in list_benchmarks() if name.startswith("sfda")]
    ['sfda-cnn', 'sfda-cnn-head', 'sfda-ssl']
    """
    return sorted(entries(data_folder() / "benchmarks", "benchmarks"))


def load_benchmark(name: str) -> Benchmark:
    """One bundled benchmark.

    Args:
        name: one of :func:`list_benchmarks`.

    Returns:
        New tables, free to be changed.

    Raises:
        UnknownNameError: there is no such benchmark.
        CorruptStoreError: the file or the manifest is missing, altered or cannot be read.

    >>> benchmark = load_benchmark("logme-cnn")
    >>> benchmark
    Benchmark('logme-cnn', 10 models x 8 tasks, 4 scores)
    >>> float(benchmark.accuracies.loc["resnet50", "pets"])
    92.5
    """
    import pandas as pd

    folder = data_folder() / "benchmarks"
    about = entry(folder, "benchmarks", name)
    text = verified(folder / about["file"], about["sha256"]).decode("utf-8")
    (_, _, *tasks), *rows = csv.reader(io.StringIO(text))
    cells: dict[str, dict[str, list[float]]] = {}
    for table, model, *values in rows:
        cells.setdefault(table, {})[model] = [float(value or "nan") for value in values]
    tables = {
        table: pd.DataFrame.from_dict(models, orient="index", columns=tasks)
        for table, models in cells.items()
    }
    return Benchmark(
        name=name,
        title=about["title"],
        source=about["source"],
        accuracy=about["accuracy"],
        unit=about["unit"],
        accuracies=tables.pop("accuracy"),
        noise=tables.pop("stderr", None),
        scores=tables,
        notes=tuple(about["notes"]),
    )


@dataclass(frozen=True)
class _JudgedScore:
    """One metric on one benchmark: mean over tasks, and the metrics that it differs from."""

    metric: str
    value: float
    low: float
    high: float
    tasks: int
    better_than: tuple[str, ...]
    worse_than: tuple[str, ...]


@dataclass(frozen=True)
class _Judged:
    """A benchmark, its metrics and the static ranking, best first, and whether it needs any."""

    benchmark: Benchmark
    rows: tuple[_JudgedScore, ...]
    need: Need

    @property
    def pairs(self) -> int:
        """How many pairs of metrics were compared."""
        return math.comb(sum(row.metric != STATIC for row in self.rows), 2)

    @property
    def ties(self) -> int:
        """How many of them are ties."""
        found = (row.better_than for row in self.rows if row.metric != STATIC)
        return self.pairs - sum(loser != STATIC for losers in found for loser in losers)


def judge_published(
    names: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[_Judged]:
    """Judge benchmarks by weighted tau; by default all, and of others' the scores one by one.

    >>> (judged,) = judge_published(["tmlr"], resamples=10)
    >>> [row.metric for row in judged.rows], judged.ties
    (['static', 'imagenet_top1'], 0)
    """
    found = []
    for name in names or list_benchmarks():
        benchmark = load_benchmark(name)
        # The scores that were measured here have a page of their own.
        compared = bool(names) or name not in MEASURED_HERE
        found.append(_judge_benchmark(benchmark, compared, resamples=resamples, seed=seed))
    return found


def _judge_benchmark(
    benchmark: Benchmark, compared: bool = True, *, resamples: int = RESAMPLES, seed: int = 0
) -> _Judged:
    """Mean weighted tau of every metric of a benchmark, and a paired test of every two.

    Where they are not to be compared with each other, only whether the benchmark needs them.
    """
    accuracies = benchmark.accuracies
    scores = {name: t for name, t in benchmark.scores.items() if name not in _NO_SCORES}
    options: dict[str, Any] = {"noise": benchmark.noise, "resamples": resamples, "seed": seed}
    points = 1.0 if benchmark.unit == "%" else 100.0
    need = Need.of(benchmark.name, accuracies, scores, points=points, **options)
    if not scores or not compared:
        return _Judged(benchmark, (), need)
    if need.static:
        scores[STATIC] = static_scores(accuracies)
    unseeing = accuracies.iloc[:0]  # it is one of the metrics already
    better: dict[str, list[str]] = {metric: [] for metric in scores}
    worse: dict[str, list[str]] = {metric: [] for metric in scores}
    with quiet():
        # What is missing is in the benchmark's notes, which the page repeats.
        for a, b in itertools.combinations(scores, 2):
            found = compare_metrics(
                scores[a], scores[b], accuracies, static=unseeing, measure=MEASURE, **options
            )
            if found.verdict != "tie":
                winner, loser = (a, b) if found.verdict == "a" else (b, a)
                better[winner].append(loser)
                worse[loser].append(winner)
    alone = {row.metric: row.alone for row in need.rows} | {STATIC: need.static}
    rows = [
        _JudgedScore(
            metric,
            *alone[metric][MEASURE],
            int(by_task(table, accuracies).notna().sum()),
            tuple(better[metric]),
            tuple(worse[metric]),
        )
        for metric, table in scores.items()
    ]
    return _Judged(benchmark, tuple(sorted(rows, key=lambda row: -row.value)), need)


def text(judged: Sequence[_Judged]) -> str:
    """The tables and what they come to, for a terminal."""
    return "\n\n".join(_parts(judged, aligned, "{}"))


def markdown(judged: Sequence[_Judged], command: str) -> str:
    """The page of documentation."""
    parts = ["# Published scores", f"Made by `{command}`.", *_parts(judged, piped, "## {}")]
    return "\n\n".join(parts) + "\n"


def _parts(judged: Sequence[_Judged], grid: Grid, title: str) -> list[str]:
    parts = [wrapped(_METHOD), _summary(judged)]
    parts += [title.format("Does this benchmark need a metric at all?"), wrapped(_ABOUT_STATIC)]
    parts += [grid(*overview([one.need for one in judged]))]
    for one in judged:
        if one.rows:
            benchmark = one.benchmark
            items = "\n".join(
                textwrap.fill(f"- {line}", 100, subsequent_indent="  ", break_long_words=False)
                for line in (benchmark.source, *benchmark.notes)
            )
            parts += [title.format(f"{benchmark.name}: {benchmark.title}"), items]
            parts += [grid(_HEADER, _cells(one)), wrapped(one.need.sentence)]
    return parts


_METHOD = (
    "Weighted Kendall's tau of published scores and published accuracies, the mean over tasks. "
    "Intervals are 95 % percentile intervals of a bootstrap over models, the tasks as they are; "
    "they leave out the noise of the accuracies, which nobody published, and with ten models or "
    "fewer they are too narrow rather than too wide. With four they say little: 1 to 1 only means "
    "that every resample had the same order. Two metrics differ where the interval of their "
    "difference, on the same resampled models, leaves out 0; all others are ties. Nothing is "
    "corrected for the number of pairs."
)
_ABOUT_STATIC = (
    f"{ABOUT} Regret is the accuracy of the best model less that of the favourite, in points. "
    f"*best score* is the one with the highest tau on this very benchmark, which flatters it. The "
    f"last three columns are paired tests of weighted tau, on the models and tasks that have both."
)


def _summary(judged: Sequence[_Judged]) -> str:
    """What the tables come to."""
    compared = [one for one in judged if one.rows]
    pairs, ties = sum(one.pairs for one in compared), sum(one.ties for one in compared)
    by_benchmark = ", ".join(f"{one.benchmark.name} {one.ties}/{one.pairs}" for one in compared)
    said = (
        f"Of {pairs} pairs of metrics compared on one benchmark, {ties} are ties ({by_benchmark})."
    )
    return "\n\n".join(map(wrapped, [said, *_needed([one.need for one in judged])]))


def _needed(needs: Sequence[Need]) -> list[str]:
    """What the best score of each benchmark is worth beside the static ranking, in sentences."""
    tested = [need for need in needs if need.rows and need.rows[0].over_static != "–"]
    if not tested:
        return []
    return [
        f"Of {len(tested)} benchmarks with scores and a static ranking, the best score in "
        f"hindsight beats the static ranking on {_named(tested, 'over_static', 'better')}, is "
        f"worse on {_named(tested, 'over_static', 'worse')}, and on the others the two are not "
        f"told apart. The two together beat that score on "
        f"{_named(tested, 'both_over_metric', 'better')}, and the static ranking on "
        f"{_named(tested, 'both_over_static', 'better')}."
    ]


def _named(needs: Sequence[Need], field: str, verdict: str) -> str:
    names = [need.name for need in needs if getattr(need.rows[0], field) == verdict]
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _cells(one: _Judged) -> list[list[str]]:
    both = {cells[0]: cells[2] for cells in one.need.in_full[1]}
    return [
        [
            row.metric,
            f"{row.value:.3f}",
            f"{row.low:.2f} to {row.high:.2f}",
            str(row.tasks),
            both.get(row.metric, "–"),
            ", ".join(row.better_than) or "–",
            ", ".join(row.worse_than) or "–",
        ]
        for row in one.rows
    ]
