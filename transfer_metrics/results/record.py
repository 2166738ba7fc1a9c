"""The record of one score: its schema, and what a record of anybody has to be.

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

from scipy.special import stdtrit

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.naming import brief

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
NO_TIME = "the time was over before it was scored; run again to go on from there"
"""The error of a model that a limit of time left without a score."""
_KIND = re.compile(r": (\w+ of [\w ]+), ")


@dataclass(frozen=True, slots=True)
class Record:
    """One score, or why there is none; None where a field is not known or has no meaning.

    Attributes:
        model: name of the model.
        model_id: the first digits of the SHA-256 of structure, weights and preprocessing.
        spec: the specification that the model was loaded from, where it has a name of its own.
        revision: version of the weights, as their source names it.
        task: name of the task.
        task_id: the first digits of the SHA-256 of the examples and labels of the split.
        split: which data.
        layer: name of the layer.
        layer_index: its place among the layers.
        depth: its place as a share of the network.
        dim: its number of features.
        pool: pooling of feature maps.
        head: the head that was trained, where one was.
        metric: name of the metric; empty where the model failed before any.
        options: those of the metric, such as ``k=1``.
        value: the score.
        stderr: its standard error.
        intervals: how errors were found: ``jackknife`` or ``bootstrap``, or
            ``binomial``, which is that of a share of the examples; none without an error.
        deviations: those over blocks of examples, whose norm is ``stderr``.
        higher_is_better: direction of the metric.
        trust: how far the metric's order can be trusted about accuracies, where evidence was given:
            Fisher's z of their correlation, and its standard deviation; see ``results.chances``.
        outside: what of the ranking lay outside of that evidence, in words; none where nothing did.
        prior: where the model stood on earlier tasks, where such were given, and the trust in that:
            standing, Fisher's z, standard deviation.
        p_best: probability that the model is the best to transfer, where ``rank`` told it of the
            record that stands for the model; ``ScoreTable.ranking`` finds it anew.
        shortlisted: whether the model was in the shortlist then.
        n: number of examples.
        round: the round of a race after which the model was dropped.
        earlier: number of examples and score in each round of the race before, one after another.
        num_classes: number of classes.
        seed: of a fit.
        load_seconds: time to load the model.
        extract_seconds: of its forward passes.
        statistics_seconds: this score's share of the statistics.
        seconds: of the score, that share included.
        note: what is to be known before the score is read.
        error: why there is no value.
        version: of this package.
        created: when, in UTC.
        task_summary: how the task was understood.
    """

    model: str | None = None
    model_id: str | None = None
    spec: str | None = None
    revision: str | None = None
    task: str | None = None
    task_id: str | None = None
    split: str | None = None
    layer: str | None = None
    layer_index: int | None = None
    depth: float | None = None
    dim: int | None = None
    pool: str | None = None
    head: str | None = None
    metric: str | None = None
    options: str | None = None
    value: float | None = None
    stderr: float | None = None
    intervals: str | None = None
    deviations: list[float] | None = None
    higher_is_better: bool | None = None
    trust: list[float] | None = None
    outside: str | None = None
    prior: list[float] | None = None
    p_best: float | None = None
    shortlisted: bool | None = None
    n: int | None = None
    round: int | None = None
    earlier: list[float] | None = None
    num_classes: int | None = None
    seed: int | None = None
    load_seconds: float | None = None
    extract_seconds: float | None = None
    statistics_seconds: float | None = None
    seconds: float | None = None
    note: str | None = None
    error: str | None = None
    version: str | None = None
    created: str | None = None
    task_summary: str | None = None
    __repr__ = brief

    @classmethod
    def of(cls, given: Mapping[str, Any] | Record) -> Record:
        """A mapping as a record, its values as they are; keys that are no fields are left out.

        A value that is not finite is none, and an error.
        """
        if isinstance(given, Record):
            return given
        found = cls(**{name: given.get(name) for name in COLUMNS})
        if isinstance(found.value, float) and not math.isfinite(found.value):
            return replace(found, value=None, error=found.error or "the value is not finite")
        return found

    @classmethod
    def checked(cls, given: Any, where: str) -> Record:
        """A mapping or record of anybody as one whose fields have their types.

        Numbers are finite or None. One of another type, such as text, is refused by an
        ``InvalidInputError``, in which the record is called as ``where``.

        >>> found = Record.checked({"model": "a", "n": 30.0, "value": math.inf}, "record 1")
        >>> found.n, found.value, found.error
        (30, None, 'the value is not finite')
        """
        if isinstance(given, Record):
            given = given.as_dict()
        if not isinstance(given, Mapping):
            raise InvalidInputError(f"{where} is not a record of a score table")
        found = {
            name: _CHECKS[kind](given.get(name), name, where) for name, kind in COLUMNS.items()
        }
        if found["value"] is None and given.get("value") is not None and not found["error"]:
            found["error"] = "the value is not finite"
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
        return _label(self.metric, self.options)

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
    def half_width(self) -> float:
        """Half of the 95 % interval: Student's where blocks gave the error; NaN without one."""
        if self.stderr is None:
            return math.nan
        if self.deviations is None:
            return 1.959964 * self.stderr
        return float(stdtrit(len(self.deviations) - 1, 0.975)) * self.stderr

    def difference(self, other: Record) -> tuple[float, float]:
        """How much higher this one scores than another, and the standard error of that."""
        if self.round != other.round:
            raise InvalidInputError(
                f"{self.model} was scored on {self.n} examples and {other.model} on {other.n}, so "
                f"their scores do not compare; rank the two without budget="
            )
        value = (self.value or 0.0) - (other.value or 0.0)
        if self.deviations and other.deviations and len(self.deviations) == len(other.deviations):
            return value, math.dist(self.deviations, other.deviations)
        return value, math.hypot(
            *(math.nan if r.stderr is None else r.stderr for r in (self, other))
        )

    @property
    def is_measured(self) -> bool:
        """Whether it tells of a head that was trained, and not of a score."""
        return bool(
            self.head
            or self.metric in MEASURED
            # A comparison could not load the model.
            or (not self.metric and self.split is None)
        )


def record_label(record: Mapping[str, Any]) -> str:
    """``Record.label`` of a mapping."""
    return _label(record["metric"], record.get("options"))


def _label(metric: str | None, options: str | None) -> str:
    return f"{metric or ''}({options})" if options else metric or ""


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


def _text(value: Any, name: str, where: str) -> str | None:
    if value is None or isinstance(value, str):
        # Half a surrogate pair is no text: it can be neither written nor put into a data frame.
        return (value or "").encode("utf-8", "replace").decode("utf-8") or None
    with suppress(OverflowError):  # of an integer of hundreds of digits
        if isinstance(value, Real) and math.isfinite(value):
            # A file of comma-separated values turns names that are numbers into numbers.
            return str(value)
    raise _wrong(value, name, where, "text")


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise _wrong(value, name, where, "a number")
    if isinstance(value, Integral) and abs(int(value)) > 2**1000:
        raise _wrong("an integer of more than 300 digits", name, where, "a number")
    return float(value) if math.isfinite(value) else None


def _whole(value: Any, name: str, where: str) -> int | None:
    number = _number(value, name, where)
    return None if number is None else int(number)


def _flag(value: Any, name: str, where: str) -> bool | None:
    return None if value is None else value not in (0, "False", "false")


def _numbers(value: Any, name: str, where: str) -> list[float] | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > _MOST_DEVIATIONS:
        raise _wrong(value, name, where, f"a list of at most {_MOST_DEVIATIONS} numbers")
    numbers = [_number(v, name, where) for v in value]
    # An error needs two blocks; with one of them missing nothing is known.
    known = [v for v in numbers if v is not None]
    return known if len(known) == len(numbers) > 1 else None


def _wrong(value: Any, name: str, where: str, wanted: str) -> InvalidInputError:
    return InvalidInputError(
        f"{where}: its {name} is {value!r:.60}, which is not {wanted}; write the table again with "
        f"table.save"
    )


_CHECKS: dict[type, Callable[[Any, str, str], Any]] = {
    str: _text, float: _number, int: _whole, bool: _flag, list: _numbers,
}  # fmt: skip
