"""What a report shows of a decision: the five lines, what is confused, the surest mistakes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from transfer_metrics.heads.decision import Alternative, Decision, Mistake
from transfer_metrics.naming import short_names

_MOST_CLASSES, _SHADES = 12, 9
_OTHERS = "others"


@dataclass(frozen=True)
class _Confusion:
    """Test examples by class and predicted class; of many classes those that are confused most."""

    names: list[tuple[str, str]]  # of the columns, with short ones; the last may be all others
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
    mistakes: list[tuple[Mistake, str, str]]  # with a short name, and the address of a picture
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
        _shown(decision.mistakes),
        int(confusion.sum() - np.trace(confusion)),
    )


def _shown(mistakes: Sequence[Mistake]) -> list[tuple[Mistake, str, str]]:
    """Mistakes with their names and their pictures, inside the page."""
    names = [one.place or f"number {one.example}" for one in mistakes]
    if any(one.picture for one in mistakes):
        names = short_names(names, 28, 40)
    codes = [base64.b64encode(one.picture).decode() for one in mistakes]
    addresses = [Markup("data:image/jpeg;base64,") + code if code else "" for code in codes]
    return list(zip(mistakes, names, addresses, strict=True))


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
    short = short_names(columns, 14, 16)
    return _Confusion(list(zip(columns, short, strict=True)), rows, len(names))
