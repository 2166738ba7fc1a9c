"""A process that has imported what work needs, and of which workers are forked at once.

It has one thread and has computed nothing, so what is forked of it is as good as a fresh
interpreter, without the seconds that importing takes, and shares the memory of what was imported.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from transfer_metrics.threads import brief_spin, so_many_threads

IMPORTED = ("transfer_metrics.ranking.engines.processes", "faiss")
"""What workers of a ranking need; what is not installed is left out."""
_WORD = 8
_RUNNING = -(1 << 40)
"""In place of the status of a process that has not ended."""
_Target = Callable[..., object]
_server: ForkServer | None = None
_lock = threading.Lock()


def can_fork() -> bool:
    """Whether a process can go on after a fork: on macOS, libraries of the system cannot."""
    return sys.platform.startswith("linux") and hasattr(socket, "send_fds")


def fork_server() -> ForkServer:
    """The one of this process, which is started where there is none; it imports meanwhile."""
    global _server
    with _lock:
        if _server is not None and _server.owner == os.getpid():
            if _server.is_alive:
                return _server
            _server.stop()
        _server = ForkServer(IMPORTED)
        return _server


@contextlib.contextmanager
def fork_server_until_end() -> Iterator[None]:
    """Whoever forks inside uses one server, which ends with the block.

    >>> with fork_server_until_end():
    ...     pass
    """
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
    """The server, seen from the process that started it.

    Args:
        modules: what it imports.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._socket, theirs = socket.socketpair()
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
        """Call ``target(pipe, *args)`` in a process with paths and folder of this; its number.

        Raises:
            OSError: the server has ended, or no process can be made.
        """
        given = pickle.dumps((target, args, dict(environment), list(sys.path), os.getcwd()))
        with self._talking:
            socket.send_fds(self._socket, [(0).to_bytes(_WORD)], [pipe.fileno()])
            pid = self._answer_to(len(given).to_bytes(_WORD) + given)
        if pid <= 0:
            raise OSError(-pid, os.strerror(-pid))
        return pid

    def status(self, pid: int) -> int | None:
        """How one of the processes ended, as ``subprocess`` has it; None while it runs."""
        try:
            with self._talking:
                found = self._answer_to(pid.to_bytes(_WORD))
        except OSError:
            return -signal.SIGKILL  # none of them outlives the server
        return None if found == _RUNNING else found

    def stop(self) -> None:
        """End it at once, and its processes with it."""
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def _answer_to(self, message: bytes) -> int:
        try:
            self._socket.sendall(message)
            if found := _received(self._socket, _WORD):
                return int.from_bytes(found, signed=True)
            raise BrokenPipeError(errno.EPIPE, "the process that forks workers has ended")
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


def _received(connection: socket.socket, size: int) -> bytes:
    """So many bytes; none where the other side has ended."""
    found = b""
    while len(found) < size:
        if not (more := connection.recv(size - len(found))):
            return b""
        found += more
    return found


def _serve(place: int) -> None:
    """Import what the arguments name, and fork until the other side of a socket closes it.

    Returns in the forked processes once they are done, so that they end as any other.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it goes to whoever started this, who decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    asked = socket.socket(fileno=place)
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    ended: dict[int, int] = {}
    while True:
        word, places, *_ = socket.recv_fds(asked, _WORD, 1)
        if not word:
            return
        if number := int.from_bytes(word):
            if number not in ended:
                pid, status = os.waitpid(number, os.WNOHANG)
                if pid:
                    ended[number] = os.waitstatus_to_exitcode(status)
            answer = ended.get(number, _RUNNING)
        else:
            given = _received(asked, int.from_bytes(_received(asked, _WORD)))
            try:
                answer = os.fork()
            except OSError as error:
                answer = -(error.errno or 1)
            if answer == 0:
                asked.close()
                _run(Connection(places[0]), given)
                return
            os.close(places[0])
        asked.sendall(answer.to_bytes(_WORD, signed=True))


def _run(pipe: Connection, given: bytes) -> None:
    """What a forked process does."""
    target, args, environment, path, folder = pickle.loads(given)  # noqa: S301 from who started us
    sys.path[:] = path
    os.environ.clear()
    os.environ.update(environment)
    with contextlib.suppress(OSError):
        os.chdir(folder)
    target(pipe, *args)
