"""Time and memory of rankings against everything that they grow with.

``transfer-metrics benchmark scaling`` runs it; ``scaling_report`` says what the figures come to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import linregress

from tests.benchmarks.scaling_case import Case, Found, measured
from transfer_metrics.evidence.machine import bystanders

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

FLAT = (5_000, 20_000, 80_000)
"""Examples against which the memory of the driver is held."""

PARTS = [replace(BASE, examples=n * 128, shard_size=128, warm=False) for n in (16, 64)]
"""Rankings of 16 and of 64 shards, which make 4 and 16 ranges."""

BUDGET = Case(examples=16384, layers=3, classes=16, dim=512, metrics="transrate,gbc,logme")
BUDGETS = ("4GiB", "100MiB", "75MiB")
REAL = Case(model="zoo:resnet-cifar10", examples=1797, warm=False)


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


def cases(quick: bool = False) -> list[tuple[str, Case]]:
    """All that is measured, each with the part that it belongs to.

    Args:
        quick: a tenth of it, to see that it runs.
    """
    if quick:
        small = replace(BASE, examples=512, dim=16, shard_size=32)
        return [
            *(("examples", replace(small, examples=n)) for n in (256, 512, 1024)),
            ("overhead", replace(small, warm=False)),
            ("overhead", replace(small, engine="processes", workers=2, warm=False)),
            ("driver", replace(small, engine="processes", workers=2)),
            ("memory", replace(small, memory="1GiB")),
        ]
    found = [
        (axis, Case(**{**asdict(BASE), axis: value}))
        for axis, sizes in AXES.items()
        for value in sizes
    ]
    found += [("stored", replace(BASE, stream=False, examples=n)) for n in AXES["examples"]]
    parallel = [(e, w) for e in ("processes", "ray") for w in (1, 2)]
    found += [
        ("driver", replace(BASE, engine=engine, workers=2, examples=n, dim=64))
        for engine in ("processes", "ray")
        for n in FLAT
    ]
    for case in PARTS:
        found += [("overhead", case)]
        found += [("overhead", replace(case, engine=e, workers=w)) for e, w in parallel]
    found += [("memory", replace(BUDGET, memory=m)) for m in BUDGETS]
    found += [("network", REAL), ("network", replace(REAL, engine="processes", workers=2))]
    return found


def measure(
    quick: bool = False, *, tell: Callable[[str], None] = lambda line: None
) -> ScalingTable:
    """Measure everything, each ranking in processes of its own with one thread.

    Args:
        quick: a tenth of it, to see that it runs.
        tell: is told in a line what is being done.

    Raises:
        TransferMetricsError: a ranking failed.

    Cost: about seven minutes on two cores.
    """
    others, rows = bystanders(), []
    for part, case in cases(quick):
        tell(f"{part}: {case}")
        rows.append(Row(part, case, measured(case)))
    return ScalingTable(tuple(rows), others())
