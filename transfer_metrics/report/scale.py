"""A linear scale with round ticks, for marks inside the cells of a table."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

# Marks keep this share of the width free on either side, so that none is cut off.
EDGE = 0.03


@dataclass(frozen=True)
class Scale:
    """Maps values to per cent of a width.

    >>> scale = Scale.of([0.0, 10.0])
    >>> scale(5.0), scale.ticks(3)
    ('50.00%', [0.0, 5.0, 10.0])
    """

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Scale:
        """The scale that shows all values that are there."""
        known = [v for v in values if v is not None and math.isfinite(v)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        if not high - low > 1e-12 * max(abs(low), abs(high)):
            spread = abs(low) / 10 or 1.0
            largest = sys.float_info.max
            low, high = max(low - spread, -largest), min(high + spread, largest)
        return cls(low, high)

    def __call__(self, value: float) -> str:
        """Where a value stands, such as ``"50.00%"``."""
        # Halves keep the span of the largest floats finite.
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return f"{100 * (EDGE + (1 - 2 * EDGE) * min(max(share, 0.0), 1.0)):.2f}%"

    def ticks(self, count: int = 4) -> list[float]:
        """About ``count`` round values inside the scale."""
        span = self.high - self.low
        if not math.isfinite(span):
            return []
        power = 10.0 ** math.floor(math.log10(span / count))
        step = next(m * power for m in (1, 2, 5, 10, 20) if span / (m * power) <= count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        # Rounding takes away what the multiplication added, and -0.
        digits = max(0, 1 - math.floor(math.log10(step)))
        return [round(i * step, digits) + 0.0 for i in range(first, last + 1)]
