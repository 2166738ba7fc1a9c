"""What heads predict and are judged by, for each kind of task, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.metrics.base import Estimate
from transfer_metrics.naming import a_type
from transfer_metrics.sources.tasks.label_values import as_array, number_of, read_texts
from transfer_metrics.sources.tasks.labels import is_long_tailed

QUALITY = {"classification": "accuracy", "regression": "r2", "multilabel": "average_precision"}
"""The measure of each kind of task."""
_RESAMPLES = 50


def as_codes(labels: Any, kind: str) -> np.ndarray:
    """Labels of a split or store as ``Labelled`` has them."""
    codes = np.asarray(labels, dtype=None if kind == "classification" else np.float64)
    return codes[:, None] if kind != "classification" and codes.ndim == 1 else codes


@dataclass(frozen=True, eq=False)
class Answers:
    """What a head answers for an example: a class, K targets, or which of K labels apply.

    ``classes`` (C,) are the labels of the classes, numbers of several labels, and none of targets;
    ``names`` those of a task or store, else none.
    """

    kind: str
    classes: np.ndarray
    names: tuple[str, ...] = ()

    @classmethod
    def of_names(cls, names: Iterable[str], kind: str, named: bool = False) -> Answers:
        """Those of a task: numbers or booleans that all names are, else the names.

        Where they are ``named``, names in any case.
        """
        names = tuple(names)
        if kind != "classification":
            return cls(kind, np.arange(len(names)), names)
        if {*names} <= {"False", "True"} and not named:
            return cls(kind, np.array([name == "True" for name in names]), names)
        found = read_texts({"": as_array(list(names))}, "classification")[""]
        # A number would be called 2 and not 2.0.
        renamed = any(isinstance(n, float) and n.is_integer() for n in map(number_of, names))
        keep = named or renamed or found.dtype == object
        return cls(kind, np.array(names) if keep else found, names)

    @classmethod
    def of_array(cls, labels: np.ndarray, kind: str) -> tuple[Answers, np.ndarray]:
        """Those that labels of an array are, and its codes."""
        if kind == "classification":
            classes, codes = np.unique(labels, return_inverse=True)
            strange = [c for c in classes.tolist() if not isinstance(c, (str, bool, int, float))]
            if strange:
                raise InvalidInputError(
                    f"y holds labels such as {strange[0]!r:.60}, {a_type(strange[0])}, which a "
                    f"head cannot keep; give their names, such as [str(label) for label in y]"
                )
            return cls(kind, classes), codes
        codes = as_codes(labels, kind)
        return cls(kind, np.arange(codes.shape[1] if kind == "multilabel" else 0)), codes

    def codes(self, labels: Any, where: str = "y") -> np.ndarray:
        """What people's labels are to the head, as ``Labelled`` has it.

        Classes are found by their names or values; where they are words, and not texts of numbers,
        numbers are those of the classes. A label that is none is -1, or an error where the classes
        have names, as those of a task might be counted from elsewhere.
        """
        if self.kind != "classification":
            return as_codes(labels, self.kind)
        found, names = as_array(labels), self.names
        if found.dtype != object and self.classes.dtype.kind in "UO" and names:
            meant = Answers.of_names(names, self.kind).classes.tolist()
            meant = range(len(names)) if isinstance(meant[0], str) else meant
            numbers: dict[Any, int] = {label: number for number, label in enumerate(meant)}
        else:
            numbers = {label: number for number, label in enumerate(self.classes.tolist())}
            if found.dtype == object:
                numbers |= {name: number for number, name in enumerate(names)}
        codes = np.array([numbers.get(label, -1) for label in found.tolist()], np.int64)
        if names and (codes < 0).any():
            strange = ", ".join(map(repr, dict.fromkeys(found[codes < 0].tolist()[:3])))
            told = ", ".join(names[:5]) + ("…" if len(names) > 5 else "")
            raise InvalidInputError(
                f"{where} has the labels {strange}, and the classes of the task are {told}; give "
                f"labels of the task"
            )
        return codes

    def refuse_others(self, kind: str, names: Iterable[str]) -> None:
        """Raise for a task or store of another kind or of other classes."""
        found = tuple(names)
        if kind != self.kind:
            raise InvalidInputError(
                f"the head was fitted on a {self.kind}, and this is a {kind}; labels would not "
                f"mean the same"
            )
        if self.names and found != self.names:
            raise InvalidInputError(
                f"the head was fitted on {len(self.names)} classes {', '.join(self.names[:5])}…, "
                f"and the task has {len(found)}: {', '.join(found[:5])}…; labels would not mean "
                f"the same"
            )

    def refuse_one(self, codes: np.ndarray) -> None:
        """Raise where training labels leave nothing to tell apart."""
        if self.kind == "classification":
            if len(np.unique(codes)) < 2:
                raise InvalidInputError("the labels have one class only; a head needs at least two")
            return
        if not np.isfinite(codes).all():
            raise InvalidInputError("some targets are NaN or infinite; leave those examples out")
        same = _undecided(codes)
        if same.any() and (self.kind == "regression" or same.all()):
            raise InvalidInputError(
                f"all examples have the same "
                f"{'target' if self.kind == 'regression' else 'labels'}; there is nothing to "
                f"predict"
            )


def quality(kind: str, logits: Any, truth: Any, weights: Any = None) -> float:
    """How good predictions are; more is better.

    Of classes the share of examples whose class has the highest logit, the first of several. Of
    targets (N, K) the mean over the targets of R², ``1 - Σ (t - p)² / Σ (t - mean)²``. Of several
    labels per example (N, K) the mean over the labels of average precision, which needs no
    threshold; labels that no example has, or all, do not count.

    >>> quality("classification", [[0.0, 1.0], [3.0, 2.0]], [1, 1])
    0.5
    >>> quality("regression", [[1.0], [2.0], [3.0]], [[1.0], [2.0], [3.0]])
    1.0
    >>> quality("multilabel", [[2.0, 0.0], [1.0, 1.0]], [[1, 0], [0, 1]])
    1.0
    """
    logits, truth = np.asarray(logits), np.asarray(truth)
    if weights is not None:
        weights = np.asarray(weights, dtype=float)
        if weights.shape != truth.shape[:1] or not (weights >= 0).all() or not weights.any():
            raise InvalidInputError(
                f"sample_weight of shape {weights.shape} for {len(truth)} examples; give each a "
                f"weight from 0 on, and some a larger one"
            )
    if kind == "classification":
        return float(np.average(logits.argmax(axis=1) == truth, weights=weights))
    if kind == "regression":
        from sklearn.metrics import r2_score

        return float(r2_score(truth, logits, sample_weight=weights))
    from sklearn.metrics import average_precision_score

    told = _undecided(truth)
    if told.all():
        raise InvalidInputError("every label applies to all or none of these examples")
    found = average_precision_score(truth[:, ~told], logits[:, ~told], sample_weight=weights)
    return float(found)


def _standard_error(kind: str, logits: np.ndarray, truth: np.ndarray, value: float) -> float:
    """Standard error of a ``quality`` over examples.

    Binomial for an accuracy, by Jeffreys' rule where all or none are right; of R² by the delta
    method, from the residuals and deviations of each example; of average precision by fifty
    resamples of the examples.
    """
    n = len(truth)
    if kind == "classification":
        return Estimate.of_proportion(value, n).stderr
    if kind == "regression":
        spread = (truth - truth.mean(axis=0)) ** 2
        mean = np.where(spread.mean(axis=0) > 0, spread.mean(axis=0), 1.0)
        shares = ((truth - logits) ** 2 / mean).mean(axis=1)
        # The mean over targets of residuals over spread moves with both.
        lost = ((truth - logits) ** 2).mean(axis=0) / mean
        return float(np.std(shares - (lost * spread / mean).mean(axis=1), ddof=1) / np.sqrt(n))
    random = np.random.default_rng(0)
    rows = random.integers(n, size=(_RESAMPLES, n))
    found = [quality(kind, logits[r], truth[r]) for r in rows if not _undecided(truth[r]).all()]
    return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def doubt(
    kind: str, value: float, stderr: float | None, truth: Any, names: Sequence[str] = ()
) -> str:
    """What to say of a head that one answer for all examples may match; empty where it is better.

    That answer is the largest class, the mean of each target, or the share of each label: where
    the 95 % interval of ``quality`` reaches what it has on the same examples, they do not show
    that anything was learnt.

    >>> doubt("classification", 0.8, 0.05, [0] * 15 + [1] * 5, ("ant", "bee"))
    "not surely better than always answering 'ant', which 75.0 % of these examples are"
    """
    truth = np.asarray(truth)
    if kind == "classification":
        codes, counts = np.unique(truth, return_counts=True)
        most, rule = int(codes[counts.argmax()]), float(counts.max() / counts.sum())
        answer = repr(str(names[most])) if len(names) else f"class {most}"
        told = f"always answering {answer}, which {100 * rule:.1f} % of these examples are"
    else:
        rule = quality(kind, np.broadcast_to(truth.mean(axis=0), truth.shape), truth)
        told = "always answering the mean, whose R² is 0"
        if kind == "multilabel":
            told = f"the same answer for all, whose average precision is {100 * rule:.1f} %"
    if value - 1.959964 * (stderr or 0.0) > rule:
        return ""
    return f"{'not surely' if value > rule else 'no'} better than {told}"


class Outcome(NamedTuple):
    """What predictions reached on examples for testing.

    ``value`` is their ``quality``, ``stderr`` its standard error, ``balanced`` the balanced
    accuracy where some classes are rare, else None, and ``doubt`` what is to be said of all that.
    """

    value: float
    stderr: float
    balanced: float | None
    doubt: str

    @classmethod
    def of(cls, kind: str, logits: Any, truth: np.ndarray, names: Sequence[str] = ()) -> Outcome:
        """Judge predictions; arguments as for ``quality`` and ``doubt``."""
        logits, truth, balanced = np.asarray(logits), np.asarray(truth), None
        if kind == "classification" and is_long_tailed(truth):
            right = logits.argmax(axis=1) == truth
            balanced = float(np.mean([right[truth == code].mean() for code in np.unique(truth)]))
        value = quality(kind, logits, truth)
        error = _standard_error(kind, logits, truth, value)
        return cls(value, error, balanced, doubt(kind, value, error, truth, names))


def _undecided(truth: np.ndarray) -> np.ndarray:
    """Which labels (K,) all examples have, or none."""
    return (truth == truth[:1]).all(axis=0)
