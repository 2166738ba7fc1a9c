"""Several processes of this machine."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle
import torch
from loky.backend import get_context
from tqdm import tqdm

from transfer_metrics.errors import EngineError, reason
from transfer_metrics.fork_server import can_fork, fork_server, fork_server_until_end
from transfer_metrics.memory import free_memory, peak_memory
from transfer_metrics.ranking.engines import Hands, Unit, Work
from transfer_metrics.ranking.engines.crew import Crew, drive
from transfer_metrics.sources.optional import is_mended
from transfer_metrics.threads import brief_spin, cores, so_many_threads

_GRACE = 5.0
"""Seconds that a worker gets to end."""
_ASKED = 5
"""Times that it is asked to, in those seconds."""


def processes(
    work: Work,
    items: Sequence[Any],
    parts: Sequence[int],
    tick: Callable[[], object],
    *,
    workers: int,
    gpus: int = 0,
    careful: bool = False,
    crew: Crew | None = None,
    **options: Any,
) -> Iterator[tuple[int, Any]]:
    """Yield the place of each item and what became of it, as items are done.

    Work and items are pickled by value where they come from a script, so that metrics that are
    defined there can be used. Each worker gets its share of the cores, but no more threads than
    this process has, and of the GPUs one, in turn. A worker ends when this process does, however
    that ends. Where we are ``careful``, the others begin once the first has shown by a result how
    much memory it takes, and only while there is half as much again.
    """
    threads = max(1, min(torch.get_num_threads(), cores() // workers))

    def start(number: int) -> _Process:
        return _Process(threads, str(number % gpus) if gpus else None)

    def has_room(crew: Iterable[_Process], shown: bool) -> bool:
        if not careful:
            return True
        return shown and free_memory() > 1.5 * max(peak_memory(one.pid) for one in crew)

    sent = _packed(work)
    # Workers that stay need their server until whoever has them is done.
    with fork_server_until_end() if crew is None else contextlib.nullcontext():
        yield from drive(start, work, sent, items, parts, workers, tick, has_room, crew)


class _Forked:
    """A process that was forked; as those of ``multiprocessing``."""

    def __init__(self, pipe: Any, environment: Mapping[str, str], *args: Any) -> None:
        self._server = fork_server()
        self.pid = self._server.fork(pipe, environment, _serve, self._server.pid, *args)
        self._exitcode: int | None = None

    @property
    def exitcode(self) -> int | None:
        """How it ended; None while it runs."""
        if self._exitcode is None:
            self._exitcode = self._server.status(self.pid)
        return self._exitcode

    def join(self, timeout: float) -> None:
        """Wait for its end, some seconds at most."""
        until = time.monotonic() + timeout
        while self.exitcode is None and time.monotonic() < until:
            time.sleep(0.005)

    def terminate(self) -> None:
        """Ask it to end."""
        if self.exitcode is None:  # else another may have its number
            os.kill(self.pid, signal.SIGTERM)


class _Process:
    """A worker, at the other end of a pipe."""

    def __init__(self, threads: int, gpu: str | None) -> None:
        env = brief_spin() | so_many_threads(threads)
        if gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = gpu
        context = get_context("loky")
        self._pipe, theirs = context.Pipe()
        args = (threads, is_mended())
        try:
            if can_fork():
                self._process: Any = _Forked(theirs, {**os.environ, **env}, *args)
            else:
                self._process = context.Process(
                    target=_serve, args=(theirs, os.getpid(), *args), env=env
                )
                self._process.start()
        except OSError as error:
            raise EngineError(
                f"no process can be started ({reason(error)}); use fewer workers"
            ) from error
        self.pid: int = self._process.pid
        theirs.close()  # so that the pipe ends when the worker does
        self._work: bytes | None = None
        self._busy = False

    def begin(self, work: bytes) -> None:
        """What the units to come are of."""
        self._work = work

    def submit(self, unit: Unit, given: Any) -> Future:
        """Begin a unit."""
        future: Future = Future()
        message = _packed((unit, given))
        self._busy = True
        self._asking = threading.Thread(target=self._ask, args=(future, message), daemon=True)
        self._asking.start()
        return future

    def stop(self) -> None:
        """End the process: an idle one by itself, a busy one after clearing up, or by force."""
        if not self._busy:
            self._pipe.close()
            self._process.join(_GRACE)
        for _ in range(_ASKED):
            # More than once: what ends it is lost where it arrives in a callback.
            if self._process.exitcode is None:
                self._process.terminate()
                self._process.join(_GRACE / _ASKED)
        if self._process.exitcode is None:
            # Its end may have been seen elsewhere, and then there is nothing left to kill.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            self._process.join(_GRACE)
        if self._busy:
            # Never closed under a thread that reads it; that one ends with the process.
            self._asking.join(_GRACE)
        if not self._busy or not self._asking.is_alive():
            self._pipe.close()

    def _ask(self, future: Future, message: bytes) -> None:
        try:
            if self._work is not None:
                self._pipe.send_bytes(self._work)
                self._work = None
            self._pipe.send_bytes(message)
            done, result = pickle.loads(self._pipe.recv_bytes())  # noqa: S301 from our own child
        except (EOFError, OSError):
            self._process.join(1)
            future.set_exception(EngineError(_end_of(self._process.exitcode)))
        else:
            self._busy = False
            if done:
                future.set_result(result)
            else:
                future.set_exception(EngineError(result))


def _end_of(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"its process was ended by {signal.Signals(-exit_code).name}"
    return f"its process ended with status {exit_code}"


def _packed(value: Any) -> bytes:
    """What is sent to a worker."""
    try:
        return cloudpickle.dumps(value)
    except Exception as error:  # whatever an object's own code raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise EngineError(
            f"something cannot be sent to another process ({reason}); give models and tasks by "
            f"name, or use engine='serial'"
        ) from error


def _serve(pipe: Connection, parent: int, threads: int, mended: bool) -> None:
    """Do what comes through the pipe, until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to the parent as well, which decides
    # In an orderly way, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    tqdm.set_lock(threading.RLock())  # not one that is shared by processes, and left by this one
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    hands = Hands(threads, mended)
    while True:
        try:
            received = pipe.recv_bytes()
        except (EOFError, OSError):
            gc.freeze()  # nothing is looked for in what ends anyway, which takes most of a second
            return
        try:
            message = pickle.loads(received)  # noqa: S301 from our own parent
            if not isinstance(message, tuple):
                hands.begin(message)
                continue
            answer: tuple[bool, Any] = (True, hands.do(*message))
        except Exception as error:
            answer = (False, f"{type(error).__name__}: {error}")
        pipe.send_bytes(cloudpickle.dumps(answer))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
