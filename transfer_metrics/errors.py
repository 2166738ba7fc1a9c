"""Everything the toolkit raises on purpose.

Each message says what was wrong, where, and what to do. The command line turns all of them into
one line on stderr and exit status 2.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import warnings
from collections.abc import Iterable, Iterator
from numbers import Integral

_MOST_COMPARED, _LONGEST_COMPARED = 5_000, 200


class TransferMetricsError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; people read these messages.
        return str(self.args[0]) if self.args else ""


class InvalidInputError(TransferMetricsError, ValueError):
    """An argument, array or file has a value that cannot be used."""


class WrittenStatisticError(InvalidInputError):
    """A metric wrote into the statistic that it was given, which is then of no use to others."""


class UnknownNameError(TransferMetricsError, KeyError):
    """A name is not registered; the message lists the closest known names."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
        """Build the message for an unknown ``name`` of some ``kind`` with suggestions.

        >>> print(UnknownNameError.of("metric", "transrat", ["transrate", "logme"]))
        unknown metric 'transrat'; did you mean 'transrate'?
        """
        known = [_cut(one) for one in sorted(known)]
        hint = meant(name, known) or (
            "known: " + (", ".join(known[:20]) or "none") + (", …" if len(known) > 20 else "")
        )
        return cls(f"unknown {kind} {_cut(name)!r}; {hint}")


def meant(name: str, known: Iterable[str]) -> str:
    """The question whether one of the closest known names was meant; nothing where none is close.

    >>> meant("resnet-18", ["vit", "resnet18"]), meant("x", ["resnet18"])
    ("did you mean 'resnet18'?", '')
    """
    # Comparing takes time in proportion to both lengths; nobody mistypes a name that long.
    names = [_cut(one) for one in sorted(known)][:_MOST_COMPARED]
    close = difflib.get_close_matches(_cut(name), names, n=3, cutoff=0.6)
    return "did you mean " + " or ".join(map(repr, close)) + "?" if close else ""


def _cut(name: object) -> str:
    name = str(name)
    return name if len(name) <= _LONGEST_COMPARED else f"{name[: _LONGEST_COMPARED - 1]}…"


def reason(error: Exception) -> object:
    """What was wrong with a file, without its name and the number of the error."""
    return getattr(error, "strerror", None) or error


def first_line(error: Exception) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def check_whole(least: int, **given: object) -> None:
    """Refuse what is no whole number from ``least`` on.

    >>> check_whole(1, epochs=2.5)
    Traceback (most recent call last):
    transfer_metrics.errors.InvalidInputError: epochs=2.5; give a whole number from 1 on
    """
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise InvalidInputError(f"{name}={value!r:.60}; give a whole number from {least} on")


class LayerNotFoundError(UnknownNameError):
    """A layer specification matches no layer of the model."""


class MissingDependencyError(TransferMetricsError, ImportError):
    """An optional package is absent or does not import; the message has the pip line."""


class IncompatibleStoreError(TransferMetricsError):
    """A feature store was written for another model, task, layers, pooling or version."""


class CorruptStoreError(TransferMetricsError):
    """A stored file is truncated, altered or missing."""


class UnsupportedTaskError(TransferMetricsError):
    """A metric or source cannot handle this kind of task."""


class ExtractionError(TransferMetricsError):
    """A forward pass failed, or a layer produced something that cannot be pooled."""


class StorageError(ExtractionError, InvalidInputError):
    """A place cannot be written to or read: it is full, read-only, no folder or out of reach."""


class EngineError(TransferMetricsError):
    """Workers cannot be started, or a cluster cannot be reached."""


@contextlib.contextmanager
def about(subject: str) -> Iterator[None]:
    """Begin what an error says with what it is about, unless that is in it already.

    >>> with about("task 'birds'"):
    ...     raise InvalidInputError("there are no examples; add some")
    Traceback (most recent call last):
    transfer_metrics.errors.InvalidInputError: task 'birds': there are no examples; add some
    """
    try:
        yield
    except (InvalidInputError, UnsupportedTaskError) as error:
        if subject not in str(error):
            error.args = (f"{subject}: {error}",)
        raise


class TransferMetricsWarning(UserWarning):
    """A number was computed, but it may not mean what a reader would take it to mean."""


_INSIDE = ("transfer_metrics", "functools", "contextlib")


def warn(text: str) -> None:
    """Warn where the user is: at the nearest call from outside the package."""
    frame, level = inspect.currentframe(), 0
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in _INSIDE:
        frame, level = frame.f_back, level + 1
    warnings.warn(text, TransferMetricsWarning, stacklevel=level + 1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of this package, where what they say is told in another way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        yield
