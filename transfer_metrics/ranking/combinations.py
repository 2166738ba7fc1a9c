"""Scores that compare candidates: terms put on one scale over all of them, and added."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_metrics.errors import UnsupportedTaskError
from transfer_metrics.results.record import Record

_ETRAN = "Gholami et al., ETran: Energy-Based Transferability Estimation, ICCV 2023"
_NCTI = "Wang et al., How Far Pre-trained Models Are from Neural Collapse, ICCV 2023"


@dataclass(frozen=True)
class Combination:
    """A score of a set of candidates, which has no value for one on its own.

    Attributes:
        name: name of the combination.
        terms: weight of each metric that enters.
        scale: ``"z-score"`` (zero mean, unit deviation) or ``"min-max"`` (0 to 1), over the
            candidates.
        reference: where it was published.

    Failure modes:
        - The score depends on who else is there: one more candidate changes the scale of a term,
          an extreme one most of all, and can turn the order of two others.
        - A candidate alone has the score 0, and a candidate for which a term fails has none.
        - All terms count alike, however noisy; the failure modes of each are those of the sum.
        - It cannot race (``budget=``), and has no intervals of its own.

    Cost: that of the terms, and O(M) for M candidates.
    """

    name: str
    terms: Mapping[str, float]
    scale: str
    reference: str

    def of(self, values: Mapping[str, Sequence[float]]) -> np.ndarray:
        """Combined score of each candidate, (M,); a term that is equal for all counts nothing.

        >>> both = Combination("both", {"a": 1.0, "b": -1.0}, "min-max", "an example")
        >>> both.of({"a": [0.0, 5.0, 10.0], "b": [3.0, 3.0, 3.0]})
        array([0. , 0.5, 1. ])
        """
        total = np.zeros(len(next(iter(values.values()))))
        for term, weight in self.terms.items():
            column = np.asarray(values[term], dtype=np.float64)
            if self.scale == "z-score":
                column, spread = column - column.mean(), column.std()
            else:
                column, spread = column - column.min(), np.ptp(column)
            total += weight * column / (spread or 1.0)
        return total


# By name and kind of task.
COMBINATIONS = {
    "etran": {
        "classification": Combination("etran", {"energy": 1.0, "lda": 1.0}, "z-score", _ETRAN),
        "regression": Combination(
            "etran", {"energy": 1.0, "svd_regression": 1.0}, "z-score", _ETRAN
        ),
    },
    "ncti": {
        "classification": Combination(
            "ncti",
            {"ncti_spread": 1.0, "ncti_posterior": 1.0, "ncti_rank": -1.0},
            "min-max",
            _NCTI,
        )
    },
}


def combination_of(name: str, kind: str) -> Combination:
    """The combination of a name for a kind of task.

    Raises:
        UnsupportedTaskError: it is not defined for that kind.
    """
    by_kind = COMBINATIONS[name]
    if kind not in by_kind:
        raise UnsupportedTaskError(f"{name!r} is defined for {' and '.join(by_kind)}, not {kind}")
    return by_kind[kind]


def combined(records: Iterable[Record], combinations: Iterable[Combination]) -> list[Record]:
    """The records, and one more for each candidate (model and layer) that has all terms.

    Every candidate counts alike, so a score depends on who else is there.
    """
    given = list(records)
    extra = []
    for combination in combinations:
        places: dict[tuple[Any, Any], dict[str, Record]] = {}
        for r in given:
            if r.metric in combination.terms and not r.options and not r.error:
                places.setdefault((r.model, r.layer), {})[str(r.metric)] = r
        full = [terms for terms in places.values() if len(terms) == len(combination.terms)]
        if not full:
            continue
        columns = {t: [terms[t].value or 0.0 for terms in full] for t in combination.terms}
        for value, terms in zip(combination.of(columns), full, strict=True):
            extra.append(
                replace(
                    next(iter(terms.values())),
                    metric=combination.name,
                    value=float(value),
                    stderr=None,
                    deviations=None,
                    higher_is_better=True,
                    seconds=sum(r.seconds or 0.0 for r in terms.values()),
                )
            )
    return given + extra
