"""The record of one score, what one of anybody has to be, and which scores compare.

Columns, their order and types, and what is checked all follow from the fields of ``Record``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from scipy.special import stdtrit

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.naming import brief
from transfer_metrics.sources.tasks.label_values import is_none
from transfer_metrics.untrusted import parse_json

QUALITIES = ("accuracy", "r2", "average_precision")
"""What heads are judged by: of classes, of targets, of several labels."""
BESIDE = (
    *(f"ood_{name}" for name in QUALITIES), "ood_gap", "balanced_accuracy",
    "fit_seconds", "train_flops", "stored_bytes",
)  # fmt: skip
MOVES = ("distortion", "relative_distortion")
MEASURED = (*QUALITIES, *BESIDE, *MOVES, *(f"val_{name}" for name in QUALITIES))
"""Metrics of heads that were trained; all others are scores."""
_MOST_DEVIATIONS = 10_000
# Logarithm of the largest end of an interval.
_MOST_LOG = 700.0
BINOMIAL = "binomial"
"""Of errors: that of a share of the examples, whatever its deviations over blocks are."""
NO_TIME = "the time was over before it was scored"
"""The error of a model that a limit of time left without a score."""
_KIND = re.compile(r": (\w+ of [\w ]+), ")


@dataclass(frozen=True, slots=True)
class Record:
    """One score, or why there is none; None where a field is not known or has no meaning."""

    model: str | None = None  # name of the model
    # The first digits of the SHA-256 of structure, weights and preprocessing.
    model_id: str | None = None
    # The specification that the model was loaded from, where it has a name of its own.
    spec: str | None = None
    revision: str | None = None  # version of the weights, as their source names it
    task: str | None = None  # name of the task
    # The first digits of the SHA-256 of the examples and labels of the split.
    task_id: str | None = None
    split: str | None = None  # which data
    layer: str | None = None  # name of the layer
    layer_index: int | None = None  # its place among the layers
    depth: float | None = None  # its place as a share of the network
    dim: int | None = None  # its number of features
    pool: str | None = None  # pooling of feature maps
    head: str | None = None  # the head that was trained, where one was
    metric: str | None = None  # name of the metric; empty where the model failed before any
    options: str | None = None  # those of the metric, such as ``k=1``
    value: float | None = None  # the score
    stderr: float | None = None  # its standard error
    # How errors were found: ``jackknife`` or ``bootstrap``, or ``binomial``, which is that of
    # a share of the examples; none without an error.
    intervals: str | None = None
    deviations: list[float] | None = None  # those over blocks of examples, whose norm is ``stderr``
    higher_is_better: bool | None = None  # direction of the metric
    # Whether its error is alike to both sides in the logarithm of the value, which is negative.
    relative: bool | None = None
    # How far the metric's order can be trusted about accuracies, where evidence was given:
    # Fisher's z of their correlation, and its standard deviation; see ``results.chances``.
    trust: list[float] | None = None
    # What of the ranking lay outside of that evidence, in words; none where nothing did.
    outside: str | None = None
    # Where the model stood on earlier tasks, where such were given, and the trust in that:
    # standing, Fisher's z, standard deviation; then the share of what that leaves which models
    # alike have in common, and what makes them alike, see ``results.standing``.
    prior: list[float] | None = None
    # Probability that the model is the best to transfer, where ``rank`` told it of the record
    # that stands for the model; ``ScoreTable.ranking`` finds it anew.
    p_best: float | None = None
    shortlisted: bool | None = None  # whether the model was in the shortlist then
    n: int | None = None  # number of examples
    round: int | None = None  # the round of a race after which the model was dropped
    # Number of examples and score in each round of the race before, one after another.
    earlier: list[float] | None = None
    num_classes: int | None = None  # number of classes
    seed: int | None = None  # of a fit
    load_seconds: float | None = None  # time to load the model
    extract_seconds: float | None = None  # of its forward passes
    statistics_seconds: float | None = None  # this score's share of the statistics
    seconds: float | None = None  # of the score, that share included
    note: str | None = None  # what is to be known before the score is read
    error: str | None = None  # why there is no value
    version: str | None = None  # of this package
    created: str | None = None  # when, in UTC
    task_summary: str | None = None  # how the task was understood
    __repr__ = brief

    @classmethod
    def of(cls, given: Any, where: str = "a record") -> Record:
        """A record, or a mapping of anybody as one whose fields have their types.

        Keys that are no fields are left out. Numbers are finite or None. One of another type, such
        as text, is refused by an ``InvalidInputError``, in which the record is called as ``where``.

        >>> found = Record.of({"model": "a", "n": 30.0, "value": math.inf})
        >>> found.n, found.value, found.error
        (30, None, 'the value is not finite')
        """
        if isinstance(given, Record):
            return given
        if not isinstance(given, Mapping):
            raise InvalidInputError(f"{where} is not a record of a score table")
        found = {
            name: None if _is_missing(given.get(name)) else _CHECKS[kind](given[name], name, where)
            for name, kind in COLUMNS.items()
        }
        if found["value"] is None and given.get("value") is not None and not found["error"]:
            found["error"] = "the value is not finite"
        if (found["stderr"] or 0.0) < 0:
            raise _wrong(found["stderr"], "stderr", where, "a number from 0 on")
        if found["relative"] and (found["value"] or 0.0) > 0:
            raise _wrong(found["value"], "value", where, "negative, as of a relative error it is")
        return cls(**found)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, in the order of the columns."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def label(self) -> str:
        """The metric with its options, as it is asked for.

        >>> Record(metric="knn", options="k=1").label
        'knn(k=1)'
        """
        name = self.metric or ""
        return f"{name}({self.options})" if self.options else name

    @property
    def task_kind(self) -> str:
        """What the task is, as its summary has it, such as ``classification of images``."""
        found = _KIND.search(self.task_summary or "")
        return found[1] if found else ""

    def score_on(self, n: int) -> float | None:
        """The score on so many examples, in a round of a race before; None where there is none.

        >>> Record("a", value=0.9, n=400, earlier=[50, 0.7, 100, 0.8]).score_on(100)
        0.8
        """
        told = self.earlier or []
        return dict(zip(told[::2], told[1::2], strict=False)).get(n)

    @property
    def even(self) -> Record:
        """The record on the scale on which its error is alike to both sides, in the same order.

        >>> Record(value=-0.01, stderr=0.005, relative=True).even.stderr
        0.5
        """
        if not self.relative or self.value is None:
            return self
        size = -self.value
        if not size:
            # It was rounded to zero, so it is at most the smallest number.
            return replace(self, value=-math.log(math.ulp(0.0)), stderr=None, deviations=None)
        return replace(
            self,
            value=-math.log(size),
            stderr=self.stderr and self.stderr / size,
            deviations=self.deviations and [d / size for d in self.deviations],
        )

    def uneven(self, even: Record) -> Record:
        """What ``even`` made of a record like this one, back on the scale of its scores.

        >>> found = Record(value=-0.01, stderr=0.005, relative=True)
        >>> found.uneven(replace(found.even, value=0.0)).stderr
        0.5
        """
        if not self.relative or even.value is None:
            return even
        size = math.exp(min(-even.value, _MOST_LOG))
        return replace(
            even,
            value=-size,
            stderr=even.stderr and even.stderr * size,
            deviations=even.deviations and [d * size for d in even.deviations],
        )

    @property
    def ends(self) -> tuple[float, float]:
        """Those of the 95 % interval: Student's where blocks gave the error; NaN without one.

        What a metric cannot be is left out of it.

        >>> [round(end, 4) for end in Record(value=-0.01, stderr=0.005, relative=True).ends]
        [-0.0266, -0.0038]
        """
        even = self.even
        if even.value is None or even.stderr is None:
            return math.nan, math.nan
        few = even.deviations if self.intervals != BINOMIAL else None
        half = (float(stdtrit(len(few) - 1, 0.975)) if few else 1.959964) * even.stderr
        low, high = even.value - half, even.value + half
        if self.relative:
            low, high = -math.exp(min(-low, _MOST_LOG)), -math.exp(-high)
        if self.metric == "gbc" and self.num_classes and self.value is not None:
            # Two classes overlap by 1 at most.
            least = -float(self.num_classes * (self.num_classes - 1))
            low = min(max(low, least), self.value)
        return low, high

    @property
    def margin(self) -> str:
        """The interval for people: half of it, or its ends where it is uneven; empty without one.

        >>> Record(value=0.9, stderr=0.01).margin
        '0.0196'
        >>> Record(value=-0.01, stderr=0.005, relative=True).margin
        '-0.0266 to -0.00375'
        """
        low, high = self.ends
        if math.isnan(low):
            return ""
        return f"{low:.3g} to {high:.3g}" if self.relative else f"{(high - low) / 2:.3g}"

    def difference(self, other: Record) -> tuple[float, float]:
        """How much higher this one scores than another, and the standard error of that.

        Where errors are alike in the logarithms of scores, so is that of their difference: it is as
        many times its error as the difference of the scores is here.
        """
        if self.round != other.round:
            raise InvalidInputError(
                f"{self.model} was scored on {self.n} examples and {other.model} on {other.n}, so "
                f"their scores do not compare; rank the two without budget="
            )
        if self == other:
            return 0.0, 0.0
        value, a, b = (self.value or 0.0) - (other.value or 0.0), self.even, other.even
        apart = (a.value or 0.0) - (b.value or 0.0)
        unit = 1.0
        if self.relative:
            unit = value / apart if abs(apart) > 1e-6 else abs(self.value or 0.0)
        if a.deviations and b.deviations and len(a.deviations) == len(b.deviations):
            return value, unit * math.dist(a.deviations, b.deviations)
        errors = (math.nan if r.stderr is None else r.stderr for r in (a, b))
        return value, unit * math.hypot(*errors)

    @property
    def is_measured(self) -> bool:
        """Whether it tells of a head that was trained, and not of a score."""
        return bool(
            self.head
            or self.metric in MEASURED
            # A comparison could not load the model.
            or (not self.metric and self.split is None)
        )


def measures_told(metrics: Iterable[str | None]) -> str:
    """What heads were judged by, as it is told.

    >>> measures_told(["r2", "accuracy", "fit_seconds"])
    'accuracy or R²'
    """
    found, names = {*metrics}, ("accuracy", "R²", "average precision")
    told = (name for metric, name in zip(QUALITIES, names, strict=True) if metric in found)
    return " or ".join(told) or names[0]


def _kind(hint: Any) -> type:
    first = get_args(hint)[0]
    return get_origin(first) or first


COLUMNS = {name: _kind(hint) for name, hint in get_type_hints(Record).items()}
"""The fields in their order, each with its type: str, float, int, bool or list."""


def phases(records: Iterable[Record]) -> dict[str, float]:
    """Seconds of each phase over all models, as measured when each score was computed.

    A phase that no record tells of is left out.
    """
    once: dict[tuple[str, str | None, str | None], float] = {}
    spent: dict[str, float] = {}
    for r in records:
        for phase, seconds in (("load", r.load_seconds), ("forward passes", r.extract_seconds)):
            if seconds is not None:
                # Scores that were added later keep the time of their own loading.
                place = (phase, r.model, r.task)
                once[place] = max(seconds, once.get(place, 0.0))
        if r.statistics_seconds is not None:
            spent["statistics"] = spent.get("statistics", 0.0) + r.statistics_seconds
        if r.seconds is not None:
            own = r.seconds - (r.statistics_seconds or 0.0)
            spent["scores"] = spent.get("scores", 0.0) + own
    for (phase, *_), seconds in once.items():
        spent[phase] = spent.get(phase, 0.0) + seconds
    order = ("load", "forward passes", "statistics", "scores")
    return {phase: spent[phase] for phase in order if phase in spent}


def _is_missing(value: Any) -> bool:
    """Whether it is what pandas has where there is nothing."""
    return is_none(value) or (isinstance(value, Real) and value != value)


def _text(value: Any, name: str, where: str) -> str | None:
    if isinstance(value, str):
        # Half a surrogate pair is no text: it can be neither written nor put into a data frame.
        return value.encode("utf-8", "replace").decode("utf-8") or None
    with suppress(OverflowError):  # of an integer of hundreds of digits
        if isinstance(value, Real) and math.isfinite(value):
            # A file of comma-separated values turns names that are numbers into numbers.
            return str(value)
    raise _wrong(value, name, where, "text")


def _number(value: Any, name: str, where: str) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _wrong(value, name, where, "a number")
    if isinstance(value, Integral) and abs(int(value)) > 2**1000:
        raise _wrong("an integer of more than 300 digits", name, where, "a number")
    return float(value) if math.isfinite(value) else None


def _whole(value: Any, name: str, where: str) -> int | None:
    number = _number(value, name, where)
    if number is not None and number != int(number):
        raise _wrong(value, name, where, "a whole number")
    return None if number is None else int(number)


def _flag(value: Any, name: str, where: str) -> bool | None:
    told = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    if (known := told.get(str(value).strip().lower())) is None:
        raise _wrong(value, name, where, "True or False")
    return known


def _numbers(value: Any, name: str, where: str) -> list[float] | None:
    if isinstance(value, (tuple, np.ndarray)):
        value = list(value)
    if isinstance(value, str):  # as a file of separated values has it
        with suppress(ValueError):
            value = parse_json(value)
    if not isinstance(value, list) or len(value) > _MOST_DEVIATIONS:
        raise _wrong(value, name, where, f"a list of at most {_MOST_DEVIATIONS} numbers")
    numbers = [None if v is None else _number(v, name, where) for v in value]
    # An error needs two blocks; with one of them missing nothing is known.
    known = [v for v in numbers if v is not None]
    return known if len(known) == len(numbers) > 1 else None


def _wrong(value: Any, name: str, where: str, wanted: str) -> InvalidInputError:
    return InvalidInputError(
        f"{where}: its {name} is {value!r:.60}, which is not {wanted}; correct it, or write "
        f"the table again with table.save"
    )


_CHECKS: dict[type, Callable[[Any, str, str], Any]] = {
    str: _text, float: _number, int: _whole, bool: _flag, list: _numbers,
}  # fmt: skip
