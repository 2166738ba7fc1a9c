"""What a report shows of a decision: the five lines, what is confused, the surest mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from transfer_metrics.heads.decision import Alternative, Decision, Mistake

_MOST_CLASSES, _SHADES = 12, 9
_OTHERS = "others"


@dataclass(frozen=True)
class _Confusion:
    """Test examples by class and predicted class; of many classes those that are confused most."""

    names: list[str]  # of the columns; the last may stand for all other classes
    rows: list[tuple[str, list[tuple[int, int]], float]]  # class, counts with shades, share right
    total: int  # how many classes there are


@dataclass(frozen=True)
class Decided:
    """A decision as the page shows it."""

    model: str
    head: str
    told: str
    factor: int
    examples: int
    lines: dict[str, str]
    alternatives: Sequence[Alternative]
    skipped: Sequence[str]
    confusion: _Confusion | None
    mistakes: Sequence[Mistake]
    wrong: int


def decided_of(decision: Decision) -> Decided:
    """What the page shows of a decision."""
    confusion = decision.confusion
    return Decided(
        decision.model,
        decision.label,
        decision.told,
        decision.factor,
        decision.examples,
        decision.lines(),
        decision.alternatives,
        decision.skipped,
        _confused(confusion, decision.class_names) if len(confusion) else None,
        decision.mistakes,
        int(confusion.sum() - np.trace(confusion)),
    )


def _confused(counts: np.ndarray, names: Sequence[str]) -> _Confusion:
    off = counts - np.diag(np.diag(counts))
    errors = off.sum(axis=0) + off.sum(axis=1)
    shown = np.sort(np.argsort(-errors, kind="stable")[:_MOST_CLASSES])
    rest = np.setdiff1d(np.arange(len(names)), shown)
    columns = [str(names[i]) for i in shown] + ([_OTHERS] if len(rest) else [])
    rows = []
    for i in shown:
        found = [int(counts[i, j]) for j in shown]
        found += [int(counts[i, rest].sum())] if len(rest) else []
        whole = max(int(counts[i].sum()), 1)
        cells = [(n, round(_SHADES * n / whole)) for n in found]
        rows.append((str(names[i]), cells, counts[i, i] / whole))
    return _Confusion(columns, rows, len(names))
