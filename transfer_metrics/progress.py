"""Progress on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Self

from tqdm import tqdm

from transfer_metrics.untrusted import visible

_OFTEN = 0.1  # seconds between two drawings
# What all bars of a thread go into while a run of several steps has one of its own.
_whole: ContextVar[WholeRun | None] = ContextVar("whole", default=None)
_limit: ContextVar[float] = ContextVar("limit", default=math.inf)


class OutOfTime(BaseException):
    """The time that a piece of work may take is over.

    No ``Exception``, so that nothing takes it for a failure of the work: like an interrupt it
    leaves what was kept on the way, and the same work goes on from there.
    """


@contextmanager
def until(moment: float) -> Iterator[None]:
    """Raise ``OutOfTime`` inside, wherever a bar moves on after a moment of ``time.time``."""
    before = _limit.set(min(moment, _limit.get()))
    try:
        check_time()
        yield
    finally:
        _limit.reset(before)


def check_time() -> None:
    """Raise ``OutOfTime`` where the time is over; bars do so by themselves."""
    if is_over(_limit.get()):
        raise OutOfTime


def is_over(moment: float) -> bool:
    """Whether a moment, as ``time.time`` has it, is past."""
    return time.time() > moment


def progress_bar(desc: str, total: int, shown: bool, **options: Any) -> tqdm:
    """A bar on stderr that vanishes when it is done; where stderr is a file, a line now and then.

    Inside of a ``WholeRun`` it is drawn as what the run is at.
    """
    if (whole := _whole.get()) is not None:
        return _Part(whole, desc=visible(desc), total=total, disable=True, **options)
    return _Bar(desc=visible(desc), total=total, disable=not shown, **_on_stderr(), **options)


def _on_stderr() -> dict[str, Any]:
    often = _OFTEN if sys.stderr.isatty() else 30.0
    return {"file": sys.stderr, "leave": False, "mininterval": often}


class WholeRun:
    """One bar for a run of several steps, and for whatever shows progress within them.

    >>> with WholeRun("run", shown=False) as run:
    ...     run.expect(3.0)
    ...     with run.step("first", 2.0), progress_bar("inside", 4, shown=True) as bar:
    ...         bar.update(2)
    ...         run.done
    1.0
    """

    def __init__(self, desc: str, shown: bool) -> None:
        self.done = 0.0
        self._parts: list[_Part] = []
        self._step: tuple[str, float, float] = ("", 0.0, 0.0)
        self._drawn = 0.0
        self._bar = tqdm(
            desc=visible(desc),
            total=1.0,
            disable=not shown,
            **_on_stderr(),
            bar_format="{desc} {percentage:3.0f}%|{bar:20}| {elapsed}{postfix}",
        )

    def __enter__(self) -> Self:
        self._before = _whole.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _whole.reset(self._before)
        self._bar.close()

    def expect(self, total: float) -> None:
        """Say how much there is to do in all, in the unit of the steps' weights."""
        self._bar.total = total

    @contextmanager
    def step(self, name: str, weight: float) -> Iterator[None]:
        """What is done inside is one step, which is this much of the whole."""
        self._step = (name, self.done, weight)
        self.tell()
        yield
        self.done = self._step[1] + weight
        self._step = ("", self.done, 0.0)
        self.tell()

    def tell(self) -> None:
        """Draw where things stand: by the outermost bar of the step, in the words of the last."""
        name, start, weight = self._step
        if self._parts:
            first, last = self._parts[0], self._parts[-1]
            share = first.n / first.total if first.total else 0.0
            self.done = max(self.done, start + weight * min(share, 1.0))
            inner = f"{last.desc} {last.n:g}/{last.total or 0:g}" if last.desc else ""
            name = ", ".join(filter(None, [name, inner]))
        self._bar.set_postfix_str(visible(name), refresh=False)
        self._bar.update(max(0.0, min(self.done, self._bar.total) - self._bar.n))
        now = time.monotonic()
        if sys.stderr.isatty() and now > self._drawn + _OFTEN:
            self._drawn = now
            self._bar.refresh()


class _Bar(tqdm):
    """A bar of its own, which looks at the time."""

    def update(self, n: float | None = 1) -> bool | None:
        """See ``tqdm``."""
        check_time()
        return super().update(n)


class _Part(tqdm):
    """A bar that is not drawn and tells the whole run of it."""

    def __init__(self, owner: WholeRun, **options: Any) -> None:
        super().__init__(**options)
        self.desc, self._owner = options["desc"], owner
        owner._parts.append(self)

    def update(self, n: float | None = 1) -> bool | None:
        """See ``tqdm``."""
        check_time()
        self.n += n or 0
        self._owner.tell()
        return None

    def close(self) -> None:
        """See ``tqdm``."""
        # Bars of tqdm are equal where they stand on the same line.
        self._owner._parts[:] = [part for part in self._owner._parts if part is not self]
