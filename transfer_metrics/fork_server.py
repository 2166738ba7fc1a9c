"""A process that has imported what work needs, and of which workers are forked at once.

It has one thread and has computed nothing, so what is forked of it is as good as a fresh
interpreter, without the seconds that importing takes, and shares the memory of what was imported.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any

from transfer_metrics.memory import lasting
from transfer_metrics.threads import brief_spin, so_many_threads

_IMPORTED = ("transfer_metrics.ranking.engines.processes", "transfer_metrics.metrics.knn")
"""What workers of a ranking need; what is not installed is left out."""
_Target = Callable[..., object]
_server: ForkServer | None = None
_lock = threading.Lock()


def can_fork() -> bool:
    """Whether a process can go on after a fork: on macOS, libraries of the system cannot."""
    return sys.platform.startswith("linux")


def fork_server() -> ForkServer:
    """The one of this process, which is started where there is none; it imports meanwhile."""
    global _server
    with _lock:
        if _server is not None and _server.owner == os.getpid():
            if _server.is_alive:
                return _server
            _server.stop()
        _server = ForkServer(_IMPORTED)
        return _server


@contextlib.contextmanager
def fork_server_until_end() -> Iterator[None]:
    """Whoever forks inside uses one server, which ends with the block."""
    began = _server
    try:
        yield
    finally:
        if _server is not began:
            end_fork_server()


def end_fork_server() -> None:
    """End the one of this process, where there is one, and all that was forked of it."""
    global _server
    with _lock:
        if _server is not None and _server.owner == os.getpid():
            _server.stop()
        _server = None


class ForkServer:
    """The server, seen from the process that started it; it imports ``modules``."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._pipe, theirs = Pipe()
        self._talking = threading.Lock()
        self.owner = os.getpid()
        code = f"from transfer_metrics.fork_server import _serve; _serve({theirs.fileno()})"
        path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with theirs, _uninterrupted():
            self._process = subprocess.Popen(
                # Nothing is imported from the folder where this runs unless it is here, too.
                [sys.executable, "-P", "-c", code, *modules],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Threads that wait for work would be lost in what is forked.
                env={**os.environ, **brief_spin(), **so_many_threads(1), **path},
            )
        self.pid = self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def fork(
        self, pipe: Connection, environment: Mapping[str, str], target: _Target, *args: Any
    ) -> int:
        """Call ``target(pipe, *args)`` in a process with paths and folder of this; its number."""
        given = target, args, dict(environment), list(sys.path), os.getcwd()
        found = self._answer_to(given, pipe)
        if isinstance(found, OSError):
            raise found
        return found

    def status(self, pid: int) -> int | None:
        """How one of the processes ended, as ``subprocess`` has it; None while it runs."""
        try:
            return self._answer_to(pid)
        except OSError:
            return -signal.SIGKILL  # none of them outlives the server

    def stop(self) -> None:
        """End it at once, and its processes with it."""
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def _answer_to(self, question: Any, pipe: Connection | None = None) -> Any:
        with self._talking:
            try:
                self._pipe.send(question)
                if pipe is not None:
                    send_handle(self._pipe, pipe.fileno(), self.pid)
                return self._pipe.recv()
            except EOFError as error:
                raise BrokenPipeError("the process that forks workers has ended") from error
            except BaseException:
                self._process.kill()  # or its answer would be taken for that to the next question
                raise


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """What is started inside sees no Ctrl-C until it says so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(place: int) -> None:
    """Import what the arguments name, and fork until the other side of a pipe closes it.

    Returns in the forked processes once they are done, so that they end as any other.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to whoever started this, who decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    asked = Connection(place)
    with lasting():
        for name in sys.argv[1:]:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    ended: dict[int, int] = {}
    answer: int | OSError | None
    while True:
        try:
            question = asked.recv()
            handle = None if isinstance(question, int) else recv_handle(asked)
        except (EOFError, OSError):
            return
        if handle is None:
            answer = _status(question, ended)
        else:
            try:
                answer = os.fork()
            except OSError as error:
                answer = error
            if answer == 0:
                asked.close()
                _run(Connection(handle), *question)
                return
            os.close(handle)
        asked.send(answer)


def _status(pid: int, ended: dict[int, int]) -> int | None:
    """How a process ended, which the system tells once; None while it runs."""
    if pid not in ended:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended.get(pid)


def _run(
    pipe: Connection,
    target: _Target,
    args: Sequence[Any],
    environment: Mapping[str, str],
    path: Sequence[str],
    folder: str,
) -> None:
    """What a forked process does."""
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.suppress(OSError):
        os.chdir(folder)
    target(pipe, *args)
