"""How often 95 % intervals hold, how wide they are and what they cost, by simulation.

python -m tests.benchmarks.intervals
python -m tests.benchmarks.intervals --sizes 200x64x5 --features heavy --draws 150
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import softmax

import transfer_metrics as tm
from tests.benchmarks.command import add_page, finish, origin, parser_of, run_module, teller
from tests.benchmarks.examples import Size
from transfer_metrics.cli.options import positive
from transfer_metrics.cli.parser import Parser
from transfer_metrics.evidence.layout import piped, wrapped
from transfer_metrics.results.wording import aligned

if TYPE_CHECKING:
    import pandas as pd

Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]

SIZES = ["500x512x10", "1000x512x10"]
METRICS = ["transrate", "logme", "h_score"]
KINDS = ("even", "heavy", "relu", "source")
# Rounds in which scores with and without intervals are timed in turn.
_ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """What the intervals of one metric are worth.

    Attributes:
        size: N x D x C.
        features: the kind of mixture.
        metric: with its options.
        coverage: share of the intervals that hold the mean score over all draws.
        width: mean square standard error over the variance of the scores, as a ratio of roots.
        times: seconds of a score with an interval over those of one without.
        intervals: how the errors were found; empty where there were none.
    """

    size: str
    features: str
    metric: str
    coverage: float
    width: float
    times: float
    intervals: str


@dataclass(frozen=True)
class IntervalTable:
    """The rows, and how many draws they are of."""

    rows: tuple[Row, ...]
    draws: int

    @property
    def records(self) -> list[dict[str, Any]]:
        """The rows as dictionaries."""
        return [dataclasses.asdict(row) for row in self.rows]

    def to_frame(self) -> pd.DataFrame:
        """The rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.records)


def mixture(size: Size, kind: str) -> Draw:
    """What draws examples of Gaussian classes of equal size whose j-th variance goes as 1 / j.

    ``even`` is that; in ``heavy`` each example is as long as a chi-squared number of six degrees
    says, in ``relu`` the features are turned and cut below, and in ``source`` they are what a head
    of ``dim`` source classes makes of them: probabilities.

    >>> x, y = mixture(Size(60, 8, 3), "relu")(np.random.default_rng(0))
    >>> x.shape, x.min() >= 0, np.bincount(y).tolist()
    ((60, 8), np.True_, [20, 20, 20])
    """
    fixed = np.random.default_rng(0)
    deviations = np.arange(1, size.dim + 1) ** -0.5
    deviations *= np.sqrt(size.dim / np.square(deviations).sum())
    means = fixed.standard_normal((size.classes, size.dim)) * deviations
    turn = np.linalg.qr(fixed.standard_normal((size.dim, size.dim)))[0]

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        y = rng.permutation(np.arange(size.n) % size.classes)
        x = means[y] + rng.standard_normal((size.n, size.dim)) * deviations
        if kind == "heavy":
            x *= np.sqrt(4.0 / rng.chisquare(6, size.n))[:, None]
        if kind == "relu":
            x = np.maximum(x @ turn + 0.3, 0.0)
        if kind == "source":
            x = softmax(x, axis=1)
        return x.astype(np.float32), y

    return draw


def measure(
    size: Size,
    kind: str,
    metrics: Sequence[str],
    draws: int,
    tell: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Score fresh draws of one mixture with intervals, and compare these with the scores' spread.

    What an interval is meant to hold is the mean score of such draws: of as many examples, and as
    many of each class.

    Cost: that of the scores with their intervals, once for each draw.
    """
    draw, rng = mixture(size, kind), np.random.default_rng(1)
    values: dict[str, list[float]] = {}
    ends: dict[str, list[tuple[float, float]]] = {}
    errors: dict[str, list[float]] = {}
    methods: dict[str, set[str]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        times = {metric: _times(metric, *draw(rng)) for metric in metrics}
        for number in range(draws):
            if number % 50 == 0:
                tell(f"{size} {kind}: {number} of {draws} draws")
            for r in tm.score(*draw(rng), list(metrics), intervals=True):
                values.setdefault(r.label, []).append(np.nan if r.value is None else r.value)
                ends.setdefault(r.label, []).append(r.ends)
                errors.setdefault(r.label, []).append(np.nan if r.stderr is None else r.stderr)
                methods.setdefault(r.label, set()).add(r.intervals or "")
    rows = []
    for metric, label in zip(metrics, values, strict=True):
        v, e = np.array(values[label]), np.array(errors[label])
        told = np.isfinite(e)
        low, high = np.array(ends[label]).T
        held = (low <= v.mean()) & (v.mean() <= high)
        coverage = float(held[told].mean()) if told.any() else float("nan")
        width = float(np.sqrt(np.square(e[told]).mean() / v.var(ddof=1))) if told.any() else np.nan
        method = ", ".join(sorted(filter(None, methods[label])))
        rows.append(Row(str(size), kind, label, coverage, width, times[metric], method))
    return rows


def _times(metric: str, x: np.ndarray, y: np.ndarray) -> float:
    """Time of a score with an interval over that of one without, the least of some rounds each."""
    best = {False: np.inf, True: np.inf}
    for _ in range(_ROUNDS):
        for intervals in best:
            started = time.process_time()
            tm.score(x, y, [metric], intervals=intervals)
            best[intervals] = min(best[intervals], time.process_time() - started)
    return best[True] / best[False]


def _cells(row: Row) -> list[str]:
    told = ["-", "-"] if np.isnan(row.coverage) else [f"{row.coverage:.3f}", f"{row.width:.2f}"]
    return [row.size, row.features, row.metric, *told, f"{row.times:.1f}"]


_HEADER = ["N x D x C", "features", "metric", "coverage", "error / spread", "time"]


def _page(table: IntervalTable, command: str) -> str:
    """The table as Markdown, with what it is of."""
    told = (
        f"Share of 95 % intervals, of {table.draws} draws each, that hold the mean score of such "
        f"draws; the root of the mean squared standard error over the standard deviation of the "
        f"scores; and the time of a score with an interval over that of one without."
    )
    parts = ["# Intervals by simulation", wrapped(told), *origin(command, "by simulation")]
    return "\n\n".join([*parts, piped(_HEADER, [_cells(row) for row in table.rows])]) + "\n"


def _run(args: argparse.Namespace) -> int:
    tell, rows = teller(args), list[Row]()
    for size in args.sizes:
        for kind in args.features:
            rows += measure(Size.parse(size), kind, args.metrics, args.draws, tell)
    table = IntervalTable(tuple(rows), args.draws)
    text = aligned(_HEADER, [_cells(row) for row in rows])
    command = "python -m tests.benchmarks.intervals"
    finish(args, table, text, lambda: _page(table, command))
    return 0


def _parser() -> Parser:
    parser = parser_of("intervals", __doc__ or "", _run)
    listed = lambda text: text.split(";")  # noqa: E731
    parser.add_argument("--sizes", type=lambda s: s.split(","), default=SIZES, metavar="NxDxC,…")
    parser.add_argument("--features", type=lambda s: s.split(","), default=KINDS[:1])
    parser.add_argument("--metrics", type=listed, default=METRICS, metavar="A;B", help="by ;")
    parser.add_argument("--draws", type=positive, default=200)
    add_page(parser)
    return parser


if __name__ == "__main__":
    run_module(_parser())
