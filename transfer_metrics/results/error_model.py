"""How far scores can be trusted about accuracies: what ``evidence.learning`` has learnt of it.

It is kept as a small file, in units of Fisher's z of the correlation of scores and accuracies.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import ndtri

from transfer_metrics.errors import InvalidInputError, reason
from transfer_metrics.files import written
from transfer_metrics.naming import brief
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.wording import listed
from transfer_metrics.sources.zoo import data_folder
from transfer_metrics.untrusted import read_json

REFERENCE = {"n": 1000, "classes": 10}
"""Examples and classes at which ``mean`` is meant."""
ENOUGH = 5
"""A correlation of fewer models tells too little to be counted."""
_CLIPPED = 3.0
"""The largest Fisher's z that is learnt from."""
_FORMAT = 1
_MOST_Z, _MOST = 10, 1e15
"""What nothing that was learnt has: a correlation of 1 but for a part in 10⁸; so many examples."""
_SLACK = {"n": 3.0, "classes": 3.0, "dim": 2.0}
"""Outside means more than these factors beyond what the evidence has."""


@dataclass(frozen=True)
class MetricTrust:
    """What was learnt of one metric, in units of Fisher's z."""

    mean: float  # at ``REFERENCE``, where the scores are of the classifier's input
    error: float  # of the mean
    by_n: float = 0.0  # change with ten times as many examples
    of_best: float = 0.0  # change where the best block stands for a model


@dataclass(frozen=True)
class ErrorModel:
    """How far the order of each metric's scores can be trusted about accuracies.

    Attributes:
        metrics: what was learnt of each, by label.
        tasks_apart: standard deviation between tasks.
        by_classes: change with ten times as many classes.
        elsewhere: of each metric on networks and tasks unlike those of the evidence; the errors
            hold how much populations and tasks differ.
        others: the same of a metric of which nothing is known.
        prior: Fisher's z of the correlation of what models reached on one earlier task with the
            accuracies on another, and its standard deviation between populations.
        prior_tasks_apart: its standard deviation between tasks of one population.
        ranges: lowest and highest ``n``, ``classes`` and ``dim`` of the evidence.
        kinds: of tasks in it, such as ``"classification of images"``.
        source: what it was learnt from, in words.
    """

    metrics: Mapping[str, MetricTrust]
    tasks_apart: float
    others: Trust
    elsewhere: Mapping[str, Trust] = field(default_factory=dict)
    by_classes: float = 0.0
    prior: tuple[float, float] = (0.0, 0.5)
    prior_tasks_apart: float = 0.3
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    source: str = ""
    __repr__ = brief

    def trust(
        self,
        metric: str,
        *,
        of_best: bool = False,
        n: int | None = None,
        classes: int | None = None,
        dims: Collection[int] = (),
        kind: str | None = None,
    ) -> tuple[Trust, list[str]]:
        """How far one ranking can be trusted, and what of it lies outside of the evidence.

        Where anything does, the metric is trusted no further than on the benchmarks of others.

        Args:
            metric: label of the metric.
            of_best: whether the best block stands for each model.
            n: number of examples.
            classes: number of classes.
            dims: numbers of features of the candidates.
            kind: of the task, such as ``"classification of texts"``; None where it is not known.

        >>> own = MetricTrust(mean=1.0, error=0.1, by_n=0.2)
        >>> model = ErrorModel({"knn": own}, 0.3, Trust(0.5, 0.6), {"knn": Trust(0.7, 0.5)},
        ...                    ranges={"n": (100, 1000)})
        >>> model.trust("knn", n=100)
        (Trust(mean=0.8, error=0.3162), [])
        >>> model.trust("knn", n=100_000)
        (Trust(mean=0.7, error=0.5), ['100000 examples (100 to 1000)'])
        """
        outside = self._outside(metric, n, classes, dims, kind)
        own = self.metrics.get(metric)
        plain = metric.partition("(")[0]
        elsewhere = self.elsewhere.get(metric, self.elsewhere.get(plain, self.others))
        if own is None:
            return elsewhere, outside
        mean = own.mean + (own.of_best if of_best else 0.0)
        for name, value, slope in (("n", n, own.by_n), ("classes", classes, self.by_classes)):
            if value and name in self.ranges:
                low, high = self.ranges[name]
                mean += slope * math.log10(min(max(value, low), high) / REFERENCE[name])
        inside = Trust(round(mean, 4), round(math.hypot(own.error, self.tasks_apart), 4))
        if not outside:
            return inside, []
        # Never surer than inside, whatever benchmarks of others say.
        mean = min(inside.mean, elsewhere.mean, key=abs)
        return Trust(mean, max(inside.error, elsewhere.error)), outside

    def _outside(
        self,
        metric: str,
        n: int | None,
        classes: int | None,
        dims: Collection[int],
        kind: str | None,
    ) -> list[str]:
        """What of a ranking the evidence does not cover, in words."""
        told = [] if metric in self.metrics else [f"the metric {metric}"]
        for name, values, unit in (
            ("n", [n] if n else [], "examples"),
            ("classes", [classes] if classes else [], "classes"),
            ("dim", sorted(dims), "features"),
        ):
            if values and name in self.ranges:
                low, high = self.ranges[name]
                if values[0] < low / _SLACK[name] or values[-1] > high * _SLACK[name]:
                    span = dict.fromkeys([f"{values[0]}", f"{values[-1]}"])
                    told.append(f"{' to '.join(span)} {unit} ({low:.0f} to {high:.0f})")
        if kind and self.kinds and kind not in self.kinds:
            told.append(f"{kind} (only {listed(list(self.kinds))})")
        return told

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; the file appears whole or not at all."""
        content = {"format": _FORMAT, **asdict(self)}
        written(path, json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Raises:
            InvalidInputError: the file is missing, or holds something else, or numbers that
                cannot be.
        """
        try:
            return cls._of(read_json(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            why = "it is no JSON" if isinstance(error, json.JSONDecodeError) else reason(error)
            raise InvalidInputError(
                f"{Path(path)} is no model of errors ({type(error).__name__}: {why}); give what "
                f"ErrorModel.save wrote, or files that `benchmark run` and `benchmark build` wrote"
            ) from error

    @classmethod
    def _of(cls, content: Mapping[str, Any]) -> Self:
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r} is not {_FORMAT}")
        numbers = ("tasks_apart", "by_classes", "prior_tasks_apart")
        found = cls(
            metrics={
                str(label): MetricTrust(**{str(name): _finite(x) for name, x in own.items()})
                for label, own in content["metrics"].items()
            },
            others=Trust(*_two(content["others"])),
            elsewhere={str(k): Trust(*_two(v)) for k, v in content["elsewhere"].items()},
            **{name: _finite(content[name]) for name in numbers},
            prior=_two(content["prior"]),
            ranges={str(k): _two(v) for k, v in content["ranges"].items()},
            kinds=tuple(map(str, content["kinds"])),
            source=str(content["source"]),
        )
        errors = [found.tasks_apart, found.prior_tasks_apart, found.prior[1], found.others.error]
        errors += [m.error for m in found.metrics.values()]
        errors += [t.error for t in found.elsewhere.values()]
        if min(errors) < 0:
            raise ValueError("a deviation is negative")
        others = (found.others, *found.elsewhere.values())
        of_z = [found.by_classes, found.prior[0], *errors, *(t.mean for t in others)]
        of_z += [x for m in found.metrics.values() for x in (m.mean, m.by_n, m.of_best)]
        if abs(most := max(of_z, key=abs)) > _MOST_Z:
            raise ValueError(f"{most:g} is no Fisher's z, which are within -{_MOST_Z} to {_MOST_Z}")
        for name, (low, high) in found.ranges.items():
            if not 0 <= low <= high <= _MOST or high == 0:
                raise ValueError(f"the range of {name} is {low:g} to {high:g}")
        return found


@functools.cache
def bundled() -> ErrorModel:
    """What was learnt from the evidence that comes with the package."""
    return ErrorModel.load(data_folder() / "evidence" / "errors.json")


def fisher_z(scores: np.ndarray, accuracies: np.ndarray) -> float | None:
    """Fisher's z of the correlation of scores with accuracies.

    None where there are fewer than ``ENOUGH`` pairs without NaN, or either is constant.
    """
    both = np.isfinite(scores) & np.isfinite(accuracies)
    s, a = scores[both], accuracies[both]
    if len(s) < ENOUGH or np.ptp(s) == 0 or np.ptp(a) == 0:
        return None
    # In units of the largest, so that nothing overflows.
    found = float(np.corrcoef(s / np.abs(s).max(), a / np.abs(a).max())[0, 1])
    return float(np.clip(np.arctanh(np.clip(found, -1 + 1e-9, 1 - 1e-9)), -_CLIPPED, _CLIPPED))


def normal_scores(values: np.ndarray) -> np.ndarray:
    """What normal numbers of that order would be, about (Blom 1958); ties share their mean rank.

    NaN where there is no number, or one on its own, which has no order.

    >>> normal_scores(np.array([10.0, 30.0, 20.0, np.nan])).round(2)
    array([-0.87,  0.87,  0.  ,   nan])
    """
    from scipy.stats import rankdata

    count = int(np.isfinite(values).sum())
    if count < 2:
        return np.full(values.shape, np.nan)
    return ndtri((rankdata(values, nan_policy="omit") - 0.375) / (count + 0.25))


def _two(content: Sequence[Any]) -> tuple[float, float]:
    low, high = map(_finite, content)
    return low, high


def _finite(value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (is_number and abs(value) <= sys.float_info.max):
        raise ValueError(f"{value!r} is no number")
    return float(value)
