"""``benchmark selection`` for people: as text, and as a page of documentation."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime

from tests.benchmarks.selection import LAYERS, SelectionTable
from transfer_metrics.evidence.layout import aligned, piped
from transfer_metrics.evidence.machine import describe

# What the toolkit is held to: so many features in so many seconds on two cores.
MANY, MOST_SECONDS = 500_000, 300.0
HEADER = ("features", "examples", "classes", "seconds", "peak MB", "active", "steps", "KKT / λ")


def text(table: SelectionTable) -> str:
    """The table and what it comes to, for a terminal."""
    parts = ["\n".join(describe()), method(), aligned(HEADER, _rows(table))]
    return "\n\n".join([*parts, "\n".join(summary(table))])


def markdown(table: SelectionTable, command: str) -> str:
    """A page with the command, the date, the machine, and the table."""
    parts = [
        "# Selecting features",
        f"Made by `{command}` on {datetime.now(UTC).date().isoformat()}, on one machine:",
        "\n".join(f"- {line}" for line in describe()),
        method(),
        "\n".join(f"- {line}" for line in summary(table)),
        piped(HEADER, _rows(table)),
    ]
    return "\n\n".join(parts) + "\n"


def method() -> str:
    """How the figures were taken."""
    paragraph = (
        f"GroupLassoSelector with its defaults: the exact minimum of the group lasso at 0.05 "
        f"lambda_max, to 1e-6 of λ. Features are made up, float32, as after a ReLU, in {LAYERS} "
        f"layers of one width, and lie in a feature store on disk. Each selection runs in a "
        f"process of its own. Seconds include reading the store, once per pass; the peak is what "
        f"the process grew by. Active are the columns with weight, steps those of the proximal "
        f"method over all working sets, and KKT the largest violation of the conditions of "
        f"optimality."
    )
    return textwrap.fill(paragraph, 100, break_long_words=False, break_on_hyphens=False)


def summary(table: SelectionTable) -> list[str]:
    """What the figures come to, and what the toolkit is held to."""
    lines = []
    if table.bystanders is not None:
        lines.append(f"other processes took {table.bystanders:.1%} of the cores meanwhile")
    if table.exponent is not None:
        lines.append(
            f"between the two largest sizes seconds grow with the features to the power of "
            f"{table.exponent:.2f}"
        )
    for row in table.rows:
        if row.features >= MANY:
            held = "met" if row.seconds <= MOST_SECONDS else "NOT MET"
            lines.append(
                f"{row.features} features of {row.examples} examples: {row.seconds:.0f} s "
                f"(at most {MOST_SECONDS:g}: {held})"
            )
    return lines


def _rows(table: SelectionTable) -> list[list[str]]:
    return [
        [
            str(row.features),
            str(row.examples),
            str(row.classes),
            f"{row.seconds:.2f}",
            "" if row.peak is None else f"{row.peak / 1e6:.0f}",
            str(row.active),
            str(row.iterations),
            f"{row.kkt_residual:.0e}",
        ]
        for row in table.rows
    ]
