"""The figures of ``tests.benchmarks.scaling``, as text and as a page of documentation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import linregress

from tests.benchmarks.command import MOST_BYSTANDERS, origin
from tests.benchmarks.projection import Assumed, planned, planned_title
from tests.benchmarks.scaling_case import METRICS, Case, Found
from transfer_metrics.evidence.layout import Grid, describe, piped, wrapped
from transfer_metrics.ranking.job import _RANGES
from transfer_metrics.ranking.memory_budget import _as_bytes
from transfer_metrics.results.wording import aligned

if TYPE_CHECKING:
    import pandas as pd

BASE = Case(examples=8192, layers=4, models=1, classes=10, dim=128)
AXES: dict[str, tuple[int, ...]] = {
    "examples": (4096, 8192, 16384, 32768),
    "layers": (2, 4, 8, 16),
    "models": (1, 2, 4),
    "classes": (10, 40, 160, 640),
    "dim": (64, 128, 256, 512),
}
"""What grows, one at a time from ``BASE``."""

MIB = 2**20

INTRO = f"""\
`rank --engine` says where the work is done: `serial` in this process, `processes` in several of
this machine, `ray` on a Ray cluster that is started here, `ray:ADDRESS` on one that runs
(`ray:auto` finds it from one of its nodes). By itself (`auto`) `rank` takes several processes for
three and more models given by name, where there are more threads than one, on Linux and without a
GPU; but for bundled models, the others begin once the first has shown how much memory a model
takes, and only while there is half as much again. `--workers N` says how many work at a time.

    transfer-metrics rank --models 'zoo:*' --task sklearn:digits --engine processes --workers 2
    transfer-metrics rank --models @models.txt --task imagefolder:photos/ --engine ray:auto \\
        --workers 64

Nothing but statistics is kept, unless features are to be. The shards of a task are cut into
ranges, {_RANGES} at most. A worker holds one model at a time, runs it over a range, and leaves the
statistics of that range in the cache; when all ranges of a model are there, one worker merges and
scores them. Ranges depend on the data alone, so scores are those of one process, to rounding.
`--memory 2GiB` is what weights and statistics of all
workers together may take: where they take more, the data are passed over again for as many layers,
and as many classes, as fit.

- Every node of a cluster must see the models, the data and the cache at the same paths: put
  `TRANSFER_METRICS_CACHE`, or `cache_dir=`, on storage that all of them share.
- A worker that dies is replaced, and only the range that it was at is done again; after three
  deaths on one range the model is given up, with its reason in the table. Where nothing is left to
  begin, idle workers repeat what has been running longest, and whichever is first counts.
- A run that is stopped goes on where it was: scores and finished ranges are in the cache.
- The driver holds the labels, names and finished records, and no features: its memory grows by
  some bytes for each label."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        part: what it belongs to: the name of an axis, ``"driver"``, ``"overhead"``, ``"memory"`` or
            ``"network"``.
        case: what was measured.
        found: what it took.
    """

    part: str
    case: Case
    found: Found

    @property
    def record(self) -> dict[str, Any]:
        """It as a dictionary."""
        found = self.found
        return {
            "part": self.part,
            **asdict(self.case),
            "seconds": found.seconds,
            "first": found.first,
            "working": found.working,
            "driver": found.driver,
            "worker": found.worker,
        }


@dataclass(frozen=True)
class Exponent:
    """``p`` in ``y ~ x^p``, with its standard error, and the range of ``x`` that it is from."""

    power: float
    error: float
    least: float
    most: float

    @classmethod
    def fitted(cls, x: Sequence[float], y: Sequence[float]) -> Exponent | None:
        """By least squares on logarithms; None for fewer than three points, or none above zero.

        >>> Exponent.fitted([1, 2, 4], [3, 12, 48]).power
        2.0
        """
        if len(x) < 3 or min(y) <= 0:
            return None
        line = linregress(np.log(x), np.log(y))
        return cls(float(line.slope), float(line.stderr), min(x), max(x))

    def __str__(self) -> str:
        return f"{self.power:.2f} ± {self.error:.2f}"


@dataclass(frozen=True)
class ScalingTable:
    """All measurements of one run.

    Attributes:
        rows: the measurements.
        bystanders: share of the cores that other processes took meanwhile.
    """

    rows: tuple[Row, ...]
    bystanders: float | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return [row.record for row in self.rows]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.records)

    def of(self, part: str) -> list[Row]:
        """The measurements of one part."""
        return [row for row in self.rows if row.part == part]

    def exponent(self, axis: str, of: Callable[[Found], float]) -> Exponent | None:
        """How something grows along an axis."""
        rows = self.of(axis)
        return Exponent.fitted(
            [getattr(row.case, axis) for row in rows], [of(row.found) for row in rows]
        )


def text(table: ScalingTable, assumed: Assumed) -> str:
    """The tables and what they come to, for a terminal."""
    parts = ["\n".join(describe()), *_parts(table, assumed, aligned)]
    return "\n\n".join([*parts, "\n".join(summary(table))])


def markdown(table: ScalingTable, command: str, assumed: Assumed) -> str:
    """A page with an introduction, the command, the date, the machine, and all tables."""
    parts = [
        "# How it scales",
        INTRO,
        "## Measured",
        *origin(command, "on one machine"),
        wrapped(method()),
        "\n".join(f"- {line}" for line in summary(table)),
        *_parts(table, assumed, piped),
    ]
    return "\n\n".join(parts) + "\n"


def method() -> str:
    """How the figures were taken."""
    return (
        f"Each ranking runs in a process of its own, and every process has one thread. Models are "
        f"made up: layers of one width with ReLUs, on examples that are made when they are read, "
        f"so that statistics cost more than forward passes; one thing grows at a time from "
        f"N={BASE.examples} examples, {BASE.layers} layers of {BASE.dim} features, "
        f"{BASE.models} model and {BASE.classes} classes. Metrics are {METRICS} unless said. "
        f"Seconds are those of loading, building and merging, without starting up; memory is what "
        f"the largest worker, and the process that called it, grew by at their peaks. Powers are "
        f"least squares on logarithms, with standard errors, and hold within the range that is "
        f"shown: below it what is paid once shows, and nothing is known above. Each was measured "
        f"once."
    )


def summary(table: ScalingTable) -> list[str]:
    """What the figures come to."""
    lines = []
    if table.bystanders is not None:
        lines.append(f"other processes took {table.bystanders:.1%} of the cores meanwhile")
        if table.bystanders > MOST_BYSTANDERS:
            lines[-1] += ": other work ran on the machine, so times are upper bounds"
    drivers = table.of("driver")
    for engine in dict.fromkeys(row.case.engine for row in drivers):
        rows = [row for row in drivers if row.case.engine == engine]
        known = [(r.case.examples, r.found.driver) for r in rows if r.found.driver is not None]
        if known:
            told = ", ".join(f"{d / MIB:.1f} MiB at N={n}" for n, d in known)
            lines.append(f"{engine}: the driver grew by {told}")
    for row in table.of("memory"):
        assert row.case.memory is not None
        budget = _as_bytes(row.case.memory)
        held = "held" if row.found.worker <= budget else "NOT HELD"
        lines.append(f"memory={row.case.memory}: peak {row.found.worker / MIB:.0f} MiB, {held}")
    return lines


def _parts(table: ScalingTable, assumed: Assumed, grid: Grid) -> list[str]:
    title = "### {}" if grid is piped else "{}"
    sections: list[tuple[str, list[str]]] = [
        (f"Against {axis}", _axis(table, axis, grid)) for axis in AXES
    ]
    sections += [
        ("Features on disk, against examples", _axis(table, "examples", grid, "stored")),
        ("Memory of the driver", _driver(table, grid)),
        ("What engines cost", _overhead(table, grid)),
        ("A budget of memory", _budget(table, grid)),
        ("A network on images", _network(table, grid)),
    ]
    parts = [p for name, found in sections if found for p in (title.format(name), *found)]
    larger = "## {}" if grid is piped else "{}"
    return [*parts, larger.format(planned_title(assumed)), *planned(assumed, grid)]


def _axis(table: ScalingTable, axis: str, grid: Grid, part: str = "") -> list[str]:
    rows = table.of(part or axis)
    if not rows:
        return []
    header = (axis, "seconds", "worker, MiB")
    lines = [
        [str(getattr(r.case, axis)), _time(r.found.working), _mib(r.found.worker)] for r in rows
    ]
    return [grid(header, lines), *_power(rows, axis)]


def _power(rows: list[Row], axis: str) -> list[str]:
    table = ScalingTable(tuple(Row(axis, r.case, r.found) for r in rows))
    kinds: tuple[tuple[str, Callable[[Found], float]], ...] = (
        ("seconds grow", lambda f: f.working),
        ("memory grows", lambda f: f.worker),
    )
    told = [
        f"{name} as {axis} to the power of {p}" for name, of in kinds
        if (p := table.exponent(axis, of))
    ]  # fmt: skip
    if not told:
        return []
    ends = [getattr(rows[i].case, axis) for i in (0, -1)]
    return [wrapped(f"From {ends[0]} to {ends[1]}: {'; '.join(told)}.")]


def _driver(table: ScalingTable, grid: Grid) -> list[str]:
    rows = table.of("driver")
    header = ("engine", "examples", "driver, MiB", "largest worker, MiB", "seconds")
    lines = [
        [
            f"{r.case.engine} x {r.case.workers}",
            str(r.case.examples),
            _mib(r.found.driver),
            _mib(r.found.worker),
            _time(r.found.seconds),
        ]
        for r in rows
    ]
    return [grid(header, lines)] if rows else []


def _overhead(table: ScalingTable, grid: Grid) -> list[str]:
    """Start-up, and what each range costs beside the work itself."""
    rows = table.of("overhead")
    if not rows:
        return []
    header = (
        "shards",
        "ranges",
        "engine",
        "first range after, s",
        "work, s",
        "all, s",
        "beside the work per range, ms",
    )
    lines = []
    for row in rows:
        found = row.found
        ranges = sum(note.kind == "map" for note in found.notes)
        lines.append(
            [
                str(row.case.examples // row.case.shard_size),
                str(ranges),
                _engine(row.case),
                _time(found.first),
                _time(found.working),
                _time(found.seconds),
                f"{1000 * idle(found, row.case.workers) / ranges:.1f}",
            ]
        )
    note = (
        "The first range begins when libraries are loaded, in each worker anew. After that, what "
        "is beside the work is the time of all workers in which they had none: between ranges, and "
        "while the last one is merged by another."
    )
    return [grid(header, lines), wrapped(note)]


def idle(found: Found, workers: int) -> float:
    """Seconds of all workers without work, from each one's first unit to the end of the last.

    >>> from tests.benchmarks.scaling_case import Note
    >>> notes = (Note(1, "load", 0.0, 1.0, 0), Note(1, "map", 1.5, 2.0, 0), Note(2, "map", 2, 1, 0))
    >>> idle(Found(4.0, None, notes, ()), 2)
    1.0
    """
    end = max(n.start + n.seconds for n in found.notes)
    first: dict[int, float] = {}
    for note in found.notes:
        first[note.process] = min(first.get(note.process, note.start), note.start)
    return max(0.0, sum(end - start for start in first.values()) - found.working)


def _budget(table: ScalingTable, grid: Grid) -> list[str]:
    rows = table.of("memory")
    if not rows:
        return []
    base = np.array(rows[0].found.scores)
    header = ("memory", "peak of the worker, MiB", "seconds", "largest difference of a score")
    lines = [
        [
            str(r.case.memory),
            _mib(r.found.worker),
            _time(r.found.working),
            f"{np.abs(np.array(r.found.scores) - base).max():.0e}",
        ]
        for r in rows
    ]
    case = rows[0].case
    note = (
        f"{case.layers} layers of {case.dim} features, N={case.examples}, {case.classes} classes, "
        f"{case.metrics}. The peak is all that the process grew by, with what no budget is made "
        f"for: activations, batches, libraries."
    )
    return [grid(header, lines), wrapped(note)]


def _network(table: ScalingTable, grid: Grid) -> list[str]:
    rows = table.of("network")
    header = ("model", "engine", "first range after, s", "work, s", "all, s")
    lines = [
        [
            row.case.model,
            _engine(row.case),
            *(_time(s) for s in (row.found.first, row.found.working, row.found.seconds)),
        ]
        for row in rows
    ]
    return [grid(header, lines)] if rows else []


def _engine(case: Case) -> str:
    return "serial" if case.engine == "serial" else f"{case.engine} x {case.workers}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f}"


def _mib(size: Any) -> str:
    return "" if size is None else f"{size / MIB:.1f}"
