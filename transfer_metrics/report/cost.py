"""Cost against agreement from a data frame; the drawing is in ``report.trade_off``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.report.trade_off import Worth, plot_trade_off
from transfer_metrics.report.wording import plot_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = ("metric", "seconds", "agreement", "low", "high")


def trade_off(frame: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Agreement of metrics with accuracies against their cost; see ``plot_trade_off``.

    Args:
        frame: one row per metric: ``metric``, its name; ``seconds``, its cost; ``agreement``, such
            as weighted Kendall's tau; ``low`` and ``high``, the ends of its interval, NaN where it
            has none. Rows without agreement, or without seconds above 0, are left out.
        ax: where to draw; by default a new figure.

    Returns:
        The axes, with seconds on a logarithmic scale.

    Raises:
        InvalidInputError: a column is missing, or no row has both numbers.

    >>> import pandas as pd
    >>> row = {"metric": "logme", "seconds": 0.1, "agreement": 0.8, "low": 0.6, "high": 0.9}
    >>> trade_off(pd.DataFrame([row])).get_xscale()
    'log'
    """
    missing = [name for name in COLUMNS if name not in frame]
    if missing:
        raise InvalidInputError(
            f"the frame has no column {', '.join(missing)}; it needs {', '.join(COLUMNS)}"
        )
    rows = frame[list(COLUMNS)].to_dict("records")
    worth = [
        Worth(
            plot_label(r["metric"]), *(float(r[k]) for k in ("agreement", "low", "high", "seconds"))
        )
        for r in rows
    ]
    return plot_trade_off(worth, ax=ax)
