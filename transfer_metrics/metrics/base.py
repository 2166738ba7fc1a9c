"""What a metric is, and how one is registered, found and called."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.linalg import LinAlgError

import transfer_metrics
from transfer_metrics.errors import (
    InvalidInputError,
    UnsupportedTaskError,
    WrittenStatisticError,
    quiet,
    warn,
)
from transfer_metrics.metrics import NAMES
from transfer_metrics.registry import Registry
from transfer_metrics.sources.models.settings import code_of
from transfer_metrics.sources.tasks.label_values import as_array
from transfer_metrics.sources.tasks.labels import read_labels
from transfer_metrics.statistics import ClassMoments, FeatureSample, SourceJoint, TargetMoments
from transfer_metrics.statistics.influence import Parts
from transfer_metrics.statistics.inputs import quantile_bins
from transfer_metrics.statistics.statistics import build_statistic
from transfer_metrics.syntax import call_options, check_kinds
from transfer_metrics.threads import threads_to_score

METRICS: Registry[Metric] = Registry(
    "metric",
    {name: f"{__package__}.{file}:{name}.metric" for file, own in NAMES.items() for name in own},
    group="transfer_metrics.metrics",
)

_STATISTICS: dict[str, tuple[type, ...]] = {
    "moments": (ClassMoments, TargetMoments),
    "examples": (FeatureSample,),
    "source": (SourceJoint,),
}
_TASKS = ("classification", "regression", "multilabel")
_INVARIANCES = ("scale", "shift", "rotation")
_PACKAGE = "transfer_metrics."
_SCALE = (
    "look for constant, empty or overflowing features; where all are very large or small, multiply "
    "X by a constant, such as 1 / abs(X).max()"
)


class Estimate(float):
    """A score that knows its standard error; otherwise a plain float.

    >>> Estimate(0.5, stderr=0.1).stderr, Estimate(0.5, stderr=0.1) + 1
    (0.1, 1.5)
    """

    stderr: float
    shares: Any  # what each example adds, (n,), less what they add on average; None if not known

    def __new__(cls, value: float, stderr: float = math.nan, shares: Any = None) -> Estimate:
        """Wrap ``value`` with its standard error."""
        self = super().__new__(cls, value)
        self.stderr, self.shares = stderr, shares
        return self

    @classmethod
    def of_proportion(cls, share: float, n: int, hits: Any = None) -> Estimate:
        """A share of n independent examples, of ``hits`` (n,), with its binomial standard error.

        Where all or none count, that would be 0, which nobody believes: the error is then that of
        Jeffreys' posterior, Beta(n p + 1/2, n (1 - p) + 1/2).

        >>> [round(Estimate.of_proportion(p, 100).stderr, 3) for p in (0.5, 1.0)]
        [0.05, 0.007]
        """
        if 0.0 < share < 1.0:
            shares = None if hits is None else (hits - share) / n
            return cls(share, math.sqrt(share * (1.0 - share) / n), shares)
        middle = (n * share + 0.5) / (n + 1)
        return cls(share, math.sqrt(middle * (1.0 - middle) / (n + 2)))


@dataclass(frozen=True)
class Metric:
    """A named score of how well features suit a task, by ``fn(statistic, **options) -> float``.

    The attributes are the arguments of ``register_metric``, beside ``options``: those that a
    specification such as ``"transrate(eps=1e-3)"`` fixes; and ``aside``: whether it stands beside
    the metric that ranks without anybody having named it, so that it does not warn.
    """

    name: str
    fn: Callable[..., float]
    requires: str = "moments"
    parts: frozenset[str] = frozenset()
    tasks: tuple[str, ...] = ("classification",)
    higher_is_better: bool = True
    reference: str = ""
    invariant: frozenset[str] = frozenset()
    bins: bool = False
    width_cures: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[tuple[str, Any], str] = field(default_factory=dict)
    derivative: Callable[..., Tensor | None] | None = None
    relative: bool = False
    aside: bool = False

    def __post_init__(self) -> None:
        for name, given, known in (
            ("requires", {self.requires}, (*_STATISTICS,)),
            ("tasks", {*self.tasks}, _TASKS),
            ("invariant", {*self.invariant}, _INVARIANCES),
        ):
            if not given <= {*known}:
                raise InvalidInputError(f"{name} must be among {known}, not {sorted(given)}")

    @property
    def label(self) -> str:
        """Name with the options that differ from the defaults, as it is written in tables."""
        if not self.options:
            return self.name
        return f"{self.name}({','.join(f'{k}={v}' for k, v in sorted(self.options.items()))})"

    @property
    def is_foreign(self) -> bool:
        """Whether somebody else wrote the metric."""
        return not str(self.fn.__module__).startswith(_PACKAGE)

    @functools.cached_property
    def version(self) -> str:
        """That of the package, and of the code of a metric of somebody else."""
        own = transfer_metrics.__version__
        return f"{own}+{code_of(self.fn)}" if self.is_foreign else own

    @property
    def grows_with_width(self) -> bool:
        """Whether scores of features of different widths should not be compared."""
        given = {f"{option}={value}" for option, value in self.options.items()}
        return bool(self.width_cures) and not given.intersection(self.width_cures)

    def with_options(self, **options: Any) -> Metric:
        """The same metric with options fixed; unknown ones are refused here, not later."""
        known = inspect.signature(self.fn).parameters
        for name in options:
            if name not in known or known[name].kind is not inspect.Parameter.KEYWORD_ONLY:
                accepted = [p for p, v in known.items() if v.kind is v.KEYWORD_ONLY]
                raise InvalidInputError(
                    f"metric {self.name!r} has no option {name!r}; "
                    f"options: {', '.join(accepted) or 'none'}"
                )
        check_kinds(self.fn, options, f"metric {self.name!r}")
        changed = (r for (o, value), r in self.overrides.items() if options.get(o) == value)
        requires = next(changed, self.requires)
        return dataclasses.replace(self, options={**self.options, **options}, requires=requires)

    def check_task(self, kind: str) -> None:
        """Raise where it is not defined for a kind of task."""
        if kind not in self.tasks:
            raise UnsupportedTaskError(
                f"metric {self.name!r} is defined for {' and '.join(self.tasks)}, not {kind}; "
                f"metrics for {kind}: "
                f"{', '.join(n for n in METRICS if kind in METRICS[n].tasks)}; say kind= if these "
                f"labels are of another kind"
            )

    def slopes(self, influence: Parts) -> Tensor | None:
        """Derivative of the score in the weights of blocks, (B,), where there is one."""
        if self.derivative is None:
            return None
        known = inspect.signature(self.fn).parameters.values()
        options = {p.name: p.default for p in known if p.kind is p.KEYWORD_ONLY}
        return self.derivative(influence, **options | dict(self.options))

    def __call__(self, statistic: Any) -> Estimate:
        """Score a statistic.

        Raises:
            WrittenStatisticError: the metric changed the statistic.
            InvalidInputError: the wrong kind of statistic, or a result that is no finite number.
        """
        if not isinstance(statistic, _STATISTICS[self.requires]):
            expected = " or ".join(t.__name__ for t in _STATISTICS[self.requires])
            raise InvalidInputError(
                f"metric {self.label!r} needs a {expected}, or features with labels; "
                f"got {type(statistic).__name__}"
            )
        with quiet() if self.aside else nullcontext():
            return self._scored(statistic)

    def of_features(self, features: Any, y: Any, kind: str | None = None) -> Estimate:
        """Score features (N, D), or source probabilities (N, Z), with labels of some kind."""
        found, labels = read_labels(y, kind, features)
        numbers = as_array(y)
        only = kind is None and found not in self.tasks and found != "multilabel"
        if only and numbers.dtype.kind in "iuf":
            # Whole numbers are what a metric knows that knows but one; the statistic refuses what
            # cannot be that.
            found = "classification" if found == "regression" else "regression"
            labels = numbers
        self.check_task(found)
        if self.bins and found == "regression":
            found, labels = "classification", quantile_bins(labels)
        shape: tuple[int, ...] = getattr(features, "shape", ())
        with threads_to_score(*shape, self.requires) if len(shape) == 2 else nullcontext():
            return self(build_statistic(self.requires, self.parts, found, features, labels))

    def _scored(self, statistic: Any) -> Estimate:
        before = _versions(statistic) if self.is_foreign else []
        try:
            result = self.fn(statistic, **self.options)
        except (ArithmeticError, LinAlgError) as error:
            raise InvalidInputError(f"metric {self.label!r}: {error}; {_SCALE}") from error
        if any(tensor._version != version for tensor, version in before):
            raise WrittenStatisticError(
                f"metric {self.label!r} writes into its statistic, which other metrics read; let "
                f"it work on a copy, such as statistic.x.clone()"
            )
        try:
            value = float(result)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"metric {self.label!r} returned {type(result).__name__} {result!r:.40}; let it "
                f"return one number"
            ) from error
        if not math.isfinite(value):
            raise InvalidInputError(f"metric {self.label!r} is {value} on these features; {_SCALE}")
        if self.relative and value > 0.0:
            raise InvalidInputError(
                f"metric {self.label!r} is {value} and has a relative error, so it must be negative"
            )
        if _has_one_class(statistic):
            warn(f"{self.label}: all examples have one label, so there is nothing to tell apart")
        return Estimate(value, getattr(result, "stderr", math.nan), getattr(result, "shares", None))


def _versions(statistic: Any) -> list[tuple[Tensor, int]]:
    """The tensors of a statistic and its parts, each with the number of writes into it."""
    found, todo, seen = [], [statistic], set()
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, Tensor):
            if not part.is_inference():
                found.append((part, part._version))
        elif isinstance(part, (list, tuple)):
            todo += part
        elif type(part).__module__.startswith(_PACKAGE):
            todo += vars(part).values()
    return found


def _has_one_class(statistic: Any) -> bool:
    if isinstance(statistic, ClassMoments):
        return len(statistic.present) == 1
    if isinstance(statistic, SourceJoint):
        return bool((statistic.labels == statistic.labels[0]).all())
    if isinstance(statistic, FeatureSample) and statistic.num_classes:
        return bool((statistic.y == statistic.y[0]).all())
    return False


def register_metric(
    name: str | None = None,
    *,
    requires: str = "moments",
    parts: Sequence[str] = (),
    tasks: Sequence[str] = ("classification",),
    higher_is_better: bool = True,
    reference: str = "",
    invariant: Sequence[str] = (),
    bins: bool = False,
    width_cures: Sequence[str] = (),
    overrides: Mapping[tuple[str, Any], str] | None = None,
    derivative: Callable[..., Tensor | None] | None = None,
    relative: bool = False,
) -> Callable[[Callable[..., float]], Callable[..., Estimate]]:
    """Register a function of a statistic as a metric.

    The decorated function accepts the statistic or ``(X, y)``, with the options as keywords, and
    ``kind=`` where ``sources.tasks.labels.kind_of`` does not tell what ``y`` is.

    Args:
        name: the registered name; the function's own by default.
        requires: ``"moments"`` for a ``ClassMoments`` (or ``TargetMoments`` in regression),
            ``"examples"`` for a ``FeatureSample``, ``"source"`` for a ``SourceJoint``.
        parts: ``"class"`` for per-class scatter, ``"fourth"`` for fourth moments, ``"spectrum"``
            for the eigendecomposition of the total scatter, which all metrics then share.
        tasks: among ``"classification"``, ``"regression"`` and ``"multilabel"``.
        higher_is_better: False for a loss.
        reference: the publication.
        invariant: ``"scale"``, ``"shift"`` and ``"rotation"`` of the features, as far as the
            definition promises that they leave the score alone; the tests hold it to that.
        bins: cut regression targets into quantile bins and take them for classes.
        width_cures: where the score grows with the number of features, the options, such as
            ``"eps=auto"``, that cure it; comparing widths without them gives a warning.
        overrides: ``(option, value)`` pairs that require another family, such as
            ``{("preset", "centred"): "examples"}``.
        derivative: function of ``Parts``, of moments an ``Influence``, and all options that returns
            the derivative of the score in the weights of the blocks, (B,), or None where it has
            none for these options; it makes intervals cost a few scores rather than twenty.
        relative: the score is minus a sum of positive numbers of many sizes, whose logarithm has
            errors that are alike to both sides; the ends of its intervals are found there.

    Returns:
        A decorator.

    Raises:
        InvalidInputError: the name is taken, or an argument is not one of those listed.

    >>> @register_metric("separation", reference="an example")
    ... def separation(moments, *, power=1.0):
    ...     between = float(moments.between_rows.square().sum())
    ...     return (between / moments.total.trace()) ** power
    >>> float(separation([[0.0], [0.0], [1.0], [1.0]], [0, 0, 1, 1]))
    1.0
    >>> "separation" in list_metrics()
    True
    >>> METRICS.unregister("separation")
    """

    def decorate(fn: Callable[..., float]) -> Callable[..., Estimate]:
        metric = Metric(
            name or fn.__name__,
            fn,
            requires,
            frozenset(parts),
            tuple(tasks),
            higher_is_better,
            reference,
            frozenset(invariant),
            bins,
            tuple(width_cures),
            overrides=overrides or {},
            derivative=derivative,
            relative=relative,
        )
        METRICS.register(metric.name, metric)

        @functools.wraps(fn)
        def call(
            features: Any, y: Any = None, *, kind: str | None = None, **options: Any
        ) -> Estimate:
            chosen = metric.with_options(**options) if options else metric
            return chosen(features) if y is None else chosen.of_features(features, y, kind)

        call.metric = metric  # type: ignore[attr-defined]
        return call

    return decorate


def list_metrics(pattern: str = "*") -> list[str]:
    """Names of the registered metrics that match a shell pattern.

    >>> list_metrics("l*")
    ['label_rate', 'lda', 'leep', 'lfc', 'linear_probe', 'logme']
    """
    return METRICS.match(pattern)


def get_metric(spec: Any) -> Metric:
    """A metric from a name, a name with options, a ``Metric`` or any callable.

    Args:
        spec: ``"logme"``, ``"transrate(eps=1e-3)"``, a registered function, a ``Metric``, or a
            function of ``ClassMoments``, which is then used under its own name.

    Raises:
        UnknownNameError: no such metric.
        InvalidInputError: options that cannot be read or do not exist.

    >>> get_metric("transrate(eps=1e-3)").label
    'transrate(eps=0.001)'
    """
    if isinstance(spec, Metric):
        return spec
    if isinstance(spec, str):
        name, bracket, rest = spec.partition("(")
        metric = METRICS[name.strip()]
        if not bracket:
            return metric
        return metric.with_options(**call_options(bracket + rest, f"metric {spec!r}"))
    if callable(spec):
        registered = getattr(spec, "metric", None)
        if registered is not None:
            return registered
        name = getattr(spec, "__name__", type(spec).__name__)
        return Metric(name, spec, parts=frozenset({"class", "fourth"}))
    raise InvalidInputError(
        f"a metric is a name, a callable or a Metric, not {type(spec).__name__}"
    )
