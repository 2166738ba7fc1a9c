"""The figures of ``benchmark speed``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.benchmarks.examples import Size

if TYPE_CHECKING:
    import pandas as pd

OURS = "transfer-metrics"
PRODUCT = "X'X"
TOGETHER = "six together"
ANOTHER_NUMBER = "another number"


@dataclass(frozen=True)
class Row:
    """One implementation of one metric at one size.

    Attributes:
        size: N, D and C.
        metric: metric, ``TOGETHER`` or ``PRODUCT``.
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
        return [name for name in names if name != TOGETHER]

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
