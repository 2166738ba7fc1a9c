"""Which metrics were asked for, and combinations of them that compare candidates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from transfer_metrics.errors import (
    InvalidInputError,
    UnsupportedTaskError,
    warn,
)
from transfer_metrics.metrics.base import METRICS, Metric, get_metric
from transfer_metrics.results.ranks import width_warnings
from transfer_metrics.results.record import Record
from transfer_metrics.syntax import split_list

# The first one ranks: the best by the evidence in docs/evidence.md. Others are shown beside it.
DEFAULT_METRICS = ("knn", "logme", "transrate", "h_score")
_BALANCED = "knn(balanced=True)"
"""What stands beside the default where classes are rare."""
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
        leads: whether it was asked for first, and so ranks.

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
    leads: bool = False

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


def _combination_of(name: str, kind: str) -> Combination:
    by_kind = COMBINATIONS[name]
    if kind not in by_kind:
        raise UnsupportedTaskError(f"{name!r} is defined for {' and '.join(by_kind)}, not {kind}")
    return by_kind[kind]


def combined(records: Iterable[Record], combinations: Iterable[Combination]) -> list[Record]:
    """The records, and one more for each candidate (model and layer) that has all terms.

    Those of a combination that leads come first. Every candidate counts alike, so a score depends
    on who else is there.
    """
    given = list(records)
    leading, extra = list[Record](), list[Record]()
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
            (leading if combination.leads else extra).append(
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
    return leading + given + extra


def resolve_metrics(
    metrics: Any, kind: str, *, skip: str = "", long_tailed: bool = False
) -> list[Metric]:
    """Metrics from names, patterns, callables or a list of them; ``"*"`` is all that apply.

    A combination stands for its terms. The defaults are those that apply, and where classes are
    ``long_tailed`` the balanced accuracy of the first, second. Patterns leave out
    metrics that require the statistic ``skip``. Of defaults only the one that ranks gives warnings.
    """
    found: dict[str, Metric] = {}
    if metrics is DEFAULT_METRICS:
        metrics = [name for name in metrics if kind in METRICS[name].tasks]
        metrics[1:1] = [_BALANCED] if long_tailed else []
        metrics[1:] = [replace(get_metric(name), aside=True) for name in metrics[1:]]
    for spec in _specs(metrics):
        if isinstance(spec, str) and spec in COMBINATIONS:
            chosen = [METRICS[term] for term in _combination_of(spec, kind).terms]
        elif _is_pattern(spec):
            chosen = [m for m in _named(spec) if kind in m.tasks and m.requires != skip]
        else:
            chosen = _named(spec)
            chosen[0].check_task(kind)
        found.update((metric.label, metric) for metric in chosen)
    if not found:
        raise InvalidInputError(
            f"no metric was asked for that is defined for {kind}; see `list metrics`"
        )
    return list(found.values())


def check_metrics(metrics: Any) -> None:
    """Raise where no metric, or no option of one, has such a name, whatever the kind of task."""
    for spec in _specs(metrics):
        if not (isinstance(spec, str) and spec in COMBINATIONS):
            _named(spec)


def asked_combinations(metrics: Any, kind: str) -> list[Combination]:
    """The combinations among the names that were asked for."""
    specs = _specs(metrics)
    names = dict.fromkeys(s for s in specs if isinstance(s, str) and s in COMBINATIONS)
    return [replace(_combination_of(name, kind), leads=name == specs[0]) for name in names]


def _is_pattern(spec: Any) -> bool:
    return isinstance(spec, str) and "(" not in spec and any(c in spec for c in "*?[")


def _named(spec: Any) -> list[Metric]:
    """The metrics that a name, a pattern or a callable stands for."""
    if _is_pattern(spec):
        return [METRICS[name] for name in METRICS.match(spec)]
    return [get_metric(spec)]


def _specs(metrics: Any) -> list[Any]:
    specs = split_list(metrics) if isinstance(metrics, str) else metrics
    return list(specs) if isinstance(specs, Iterable) else [specs]


def warn_of_widths(metrics: Sequence[Metric], records: Iterable[Record]) -> None:
    """Warn where scores that grow with the number of features are compared over widths."""
    for text in width_warnings(metrics, records):
        warn(text)
