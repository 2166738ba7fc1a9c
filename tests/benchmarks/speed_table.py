"""The figures of ``tests.benchmarks.speed``, as text and as a page of documentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.benchmarks.command import MOST_BYSTANDERS, origin
from tests.benchmarks.examples import SOURCES, Size
from tests.benchmarks.peers import ABSENT, FIVE, PAIRWISE, PLAIN_H_SCORE, SIX, SOURCE
from transfer_metrics.evidence.layout import Grid, describe, piped, wrapped
from transfer_metrics.metrics.base import get_metric
from transfer_metrics.results.wording import aligned
from transfer_metrics.statistics.sample import DEFAULT_LIMIT

if TYPE_CHECKING:
    import pandas as pd

OURS = "transfer-metrics"
PRODUCT = "X'X"
TOGETHER = {"six together": SIX, "five together": FIVE}
"""What is scored in one call."""
ANOTHER_NUMBER = "another number"


@dataclass(frozen=True)
class Row:
    """One implementation of one metric at one size.

    Attributes:
        size: N, D and C.
        metric: metric, one of ``TOGETHER``, or ``PRODUCT``.
        code: whose it is.
        seconds: median over the rounds; None where it was not run.
        rounds: rounds that count.
        value: the score.
        difference: relative difference of a peer's score from the toolkit's.
        peak: bytes of memory at the peak beside the features.
        note: why it was not run.
    """

    size: Size
    metric: str
    code: str
    seconds: float | None = None
    rounds: int = 0
    value: float | None = None
    difference: float | None = None
    peak: int | None = None
    note: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the others of its size."""
        return self.metric, self.code


@dataclass(frozen=True)
class SpeedTable:
    """All rows of one run of the benchmark.

    Attributes:
        sizes: in the order in which they were measured.
        rows: all of them.
        rounds: rounds that count.
        limit: seconds beyond which a peer was run once.
        bystanders: share of all cores that other processes took meanwhile, where known.
    """

    sizes: tuple[Size, ...]
    rows: tuple[Row, ...]
    rounds: int
    limit: float
    bystanders: float | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as plain dictionaries, with the size and the ratio to torch's product."""
        return [self._record(row) for row in self.rows]

    def _record(self, row: Row) -> dict[str, Any]:
        fields = {f.name: getattr(row, f.name) for f in dataclasses.fields(row)[1:]}
        shape = {"n": row.size.n, "dim": row.size.dim, "num_classes": row.size.classes}
        product = self.seconds(row.size, PRODUCT, "torch")
        return {**shape, **fields, "to_product": ratio(row.seconds, product)}

    def to_frame(self) -> pd.DataFrame:
        """The records as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.records)

    def seconds(self, size: Size, metric: str, code: str = OURS) -> float | None:
        """Seconds of one row; None where there is none."""
        found = [r.seconds for r in self.rows if (r.size, r.metric, r.code) == (size, metric, code)]
        return found[0] if found else None

    def others(self, size: Size, metric: str) -> list[Row]:
        """The peers of one metric."""
        return [r for r in self.rows if r.size == size and r.metric == metric and r.code != OURS]

    def best_other(self, size: Size, metric: str) -> Row | None:
        """The fastest peer that ran."""
        ran = [row for row in self.others(size, metric) if row.seconds is not None]
        return min(ran, key=lambda row: row.seconds or 0.0, default=None)

    @property
    def disagreements(self) -> list[Row]:
        """Peers that computed another number than the toolkit where the definitions agree."""
        return [row for row in self.rows if row.note.startswith(ANOTHER_NUMBER)]

    def metrics(self, size: Size) -> list[str]:
        """Metrics that were measured on their own, in order."""
        names = [r.metric for r in self.rows if r.size == size and r.code == OURS]
        return [name for name in names if name not in TOGETHER]

    def sum_of_others(self, size: Size, metrics: Iterable[str]) -> float | None:
        """Seconds of the best others one after the other; None where a metric has none."""
        best = [self.best_other(size, metric) for metric in metrics]
        found = [row.seconds for row in best if row is not None and row.seconds is not None]
        return sum(found) if len(found) == len(best) else None


def ratio(a: float | None, b: float | None) -> float | None:
    """``a / b`` where both are known.

    >>> ratio(1.0, 4.0), ratio(None, 4.0)
    (0.25, None)
    """
    return None if a is None or not b else a / b


# What the toolkit is held to: the six against the best others, TransRate and the five against one
# product by numpy, which takes half as long as torch's, and LEEP and NCE against the fastest other.
MOST_OF_OTHERS, MOST_OF_SOURCE = 0.1, 2.0
MOST_OF_PRODUCT = {"transrate": 1.5, "five together": 6.0}

MINE = ("metric", "seconds", "/ X'X torch", "/ X'X numpy", "best other", "seconds", "ours / other")
THEIRS = ("metric", "other", "seconds", "rounds", "relative difference", "remark")
MEMORY = ("metric", "size", "peak MB", "one N x N matrix, MB")


def text(table: SpeedTable) -> str:
    """The tables and what they come to, for a terminal."""
    intro = ["\n".join(describe()), *map(wrapped, (method(table), *_missing(table)))]
    return "\n\n".join([*intro, *_parts(table, aligned), "\n".join(summary(table))])


def markdown(table: SpeedTable, command: str) -> str:
    """A page with the command, the date, the machine, and all tables."""
    parts = [
        "# Speed",
        *origin(command, "all in one run on one machine"),
        *map(wrapped, (method(table), *_missing(table))),
        "\n".join(f"- {line}" for line in summary(table)),
        *_parts(table, piped),
    ]
    return "\n\n".join(parts) + "\n"


def method(table: SpeedTable) -> str:
    """How the figures were taken."""
    examples = [m for m in (*SIX, *PAIRWISE) if get_metric(m).requires == "examples"]
    return (
        f"Medians of {table.rounds} rounds in which everything takes its turn, after one that does "
        f"not count; what takes another code more than {table.limit:g} s is measured once. "
        f"Features are float32, as after a ReLU; the toolkit checks and converts them within its "
        f"time, the others get arrays that are ready. The unit is one product X'X in float64, by "
        f"torch, and by numpy, which sees the symmetry and computes half of it. "
        f"The six together are {', '.join(SIX)} in one call of score, and the five all of them but "
        f"{PLAIN_H_SCORE}. {', '.join(examples)} read "
        f"at most {DEFAULT_LIMIT} examples, and the others get the same ones. "
        f"{', '.join(SOURCE)} read {SOURCES} source classes. A remark takes the place of a time "
        f"where another code was not run; where a relative difference of more than 1e-6 is shown, "
        f"the definitions differ."
    )


def _missing(table: SpeedTable) -> list[str]:
    """A sentence on the packages that were not raced, if there are any."""
    found = {row.code: row.note for row in table.rows if row.note.startswith(ABSENT)}
    if not found:
        return []
    return ["Not raced: " + "; ".join(f"{code} ({note})" for code, note in found.items()) + "."]


def summary(table: SpeedTable) -> list[str]:
    """What the toolkit is held to, and whether it holds."""
    lines = []
    if table.bystanders is not None:
        lines.append(f"other processes took {table.bystanders:.1%} of the cores meanwhile")
        if table.bystanders > MOST_BYSTANDERS:
            lines[-1] += ": TOO MUCH, run it again on a quiet machine"
    for size in table.sizes:
        share = ratio(table.seconds(size, "six together"), table.sum_of_others(size, SIX))
        lines.append(_held(f"{size}: six together / sum of the best others", share, MOST_OF_OTHERS))
    middle = table.sizes[len(table.sizes) // 2]
    product = table.seconds(middle, PRODUCT, "numpy")
    for name, most in MOST_OF_PRODUCT.items():
        times = ratio(table.seconds(middle, name), product)
        lines.append(_held(f"{middle}: {name} / X'X in numpy", times, most))
    for size in table.sizes:
        for metric in SOURCE:
            other = table.best_other(size, metric)
            times = ratio(table.seconds(size, metric), other.seconds if other else None)
            lines.append(_held(f"{size}: {metric} / the fastest other", times, MOST_OF_SOURCE))
    return lines


def _held(what: str, found: float | None, most: float) -> str:
    if found is None:
        return f"{what}: not known, nothing to compare with"
    return f"{what}: {found:.3g} (at most {most:g}: {'met' if found <= most else 'NOT MET'})"


def _parts(table: SpeedTable, grid: Grid) -> list[str]:
    title = "## {}" if grid is piped else "{}"
    parts = []
    for size in table.sizes:
        heading = f"N={size.n}, D={size.dim}, C={size.classes}"
        parts += [title.format(heading), grid(MINE, _mine(table, size))]
        parts.append(grid(THEIRS, _theirs(table, size)))
    memory = _memory(table)
    if memory:
        parts += [title.format("Peak memory beside the features"), grid(MEMORY, memory)]
    return parts


def _mine(table: SpeedTable, size: Size) -> list[list[str]]:
    """The toolkit's rows: first the unit, then the six together, then each metric."""
    torch, numpy = (table.seconds(size, PRODUCT, library) for library in ("torch", "numpy"))
    rows = [
        [f"X'X in {library}", _time(s), _times(ratio(s, torch)), _times(ratio(s, numpy))]
        for library, s in (("torch", torch), ("numpy", numpy))
    ]
    for metric in (*TOGETHER, *table.metrics(size)):
        spent = table.seconds(size, metric)
        if metric in TOGETHER:
            name, other = "sum of the best", table.sum_of_others(size, TOGETHER[metric])
        else:
            best = table.best_other(size, metric)
            name, other = (best.code, best.seconds) if best else ("", None)
        rows.append(
            [metric, _time(spent), _times(ratio(spent, torch)), _times(ratio(spent, numpy))]
        )
        rows[-1] += [name, _time(other), _times(ratio(spent, other))]
    return [row + [""] * (len(MINE) - len(row)) for row in rows]


def _theirs(table: SpeedTable, size: Size) -> list[list[str]]:
    return [
        [
            row.metric,
            row.code,
            _time(row.seconds),
            str(row.rounds or ""),
            "" if row.difference is None else f"{row.difference:.0e}",
            row.note,
        ]
        for metric in table.metrics(size)
        for row in table.others(size, metric)
        if not row.note.startswith(ABSENT)
    ]


def _memory(table: SpeedTable) -> list[list[str]]:
    return [
        [row.metric, str(row.size), f"{row.peak / 1e6:.0f}", f"{8 * row.size.n**2 / 1e6:.0f}"]
        for row in sorted(table.rows, key=lambda row: row.metric)
        if row.code == OURS and row.peak is not None
    ]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.4f}"
        if seconds < 0.1
        else f"{seconds:.2f}"
        if seconds < 100
        else f"{seconds:.0f}"
    )


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 1 else f"{value:.2f}"
