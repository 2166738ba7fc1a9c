"""Which metrics were asked for, by name, pattern or callable."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, warn
from transfer_metrics.metrics.base import METRICS, Metric, get_metric
from transfer_metrics.ranking.combinations import COMBINATIONS, Combination, combination_of
from transfer_metrics.results.ranks import width_warnings
from transfer_metrics.results.record import Record
from transfer_metrics.syntax import split_list

# The first one ranks: the best by the evidence in docs/evidence.md. Others are shown beside it.
DEFAULT_METRICS = ("knn", "logme", "transrate", "h_score")
_BALANCED = "knn(balanced=True)"
"""What stands beside the default where classes are rare."""
# Counts and sizes, but not the numbers in names such as resnet18.
_COUNTS = re.compile(r"(?<![\w.-])\d+|(?<==)\d+")


def resolve_metrics(
    metrics: Any, kind: str, *, skip: str = "", long_tailed: bool = False
) -> list[Metric]:
    """Metrics from names, patterns, callables or a list of them; ``"*"`` is all that apply.

    A combination stands for its terms. The defaults are those that apply, and where classes are
    ``long_tailed`` the balanced accuracy of the first, second. Patterns leave out
    metrics that require the statistic ``skip``. Of defaults only the one that ranks gives warnings.

    Raises:
        UnknownNameError: no such metric.
        UnsupportedTaskError: a metric named on its own is not defined for this kind of task.
        InvalidInputError: the list is empty.
    """
    found: dict[str, Metric] = {}
    if metrics is DEFAULT_METRICS:
        metrics = [name for name in metrics if kind in METRICS[name].tasks]
        metrics[1:1] = [_BALANCED] if long_tailed else []
        metrics[1:] = [replace(get_metric(name), aside=True) for name in metrics[1:]]
    for spec in _specs(metrics):
        if isinstance(spec, str) and spec in COMBINATIONS:
            chosen = [METRICS[term] for term in combination_of(spec, kind).terms]
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
    """Raise where no metric, or no option of one, has such a name, whatever the kind of task.

    >>> check_metrics(["knn(k=3)", "tr*", "etran"])
    """
    for spec in _specs(metrics):
        if not (isinstance(spec, str) and spec in COMBINATIONS):
            _named(spec)


def asked_combinations(metrics: Any, kind: str) -> list[Combination]:
    """The combinations among the names that were asked for."""
    names = [s for s in _specs(metrics) if isinstance(s, str) and s in COMBINATIONS]
    return [combination_of(name, kind) for name in dict.fromkeys(names)]


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


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Tell each of the toolkit's warnings once meanwhile, whatever the counts that it names.

    >>> with warnings.catch_warnings(record=True) as told:
    ...     warnings.simplefilter("always")
    ...     with told_once():
    ...         for dim in (8, 16):
    ...             warnings.warn(f"fitted exactly (D={dim})", TransferMetricsWarning)
    >>> [str(warning.message) for warning in told]
    ['fitted exactly (D=8)']
    """
    told: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_new(message: Any, category: type[Warning], *place: Any, **options: Any) -> None:
            if issubclass(category, TransferMetricsWarning):
                text = _COUNTS.sub("#", str(message))
                if text in told:
                    return
                told.add(text)
            show(message, category, *place, **options)

        warnings.showwarning = show_new
        yield
