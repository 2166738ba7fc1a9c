"""Workers that are forked: what they see, how they end, and which engine is chosen by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
import torch
from torch import nn

import transfer_metrics as tm
from tests.engine_works import Squares, Warned, notes_of, tell
from transfer_metrics import fork_server
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.fork_server import _IMPORTED, ForkServer, can_fork
from transfer_metrics.ranking.engines import chosen_engine, map_reduce
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.threads import running_with

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not can_fork(), reason="processes are not forked here"),
]
NAMED = [Candidate(name, f"zoo:{name}") for name in ("a", "b", "c")]


@pytest.fixture
def server():
    made = ForkServer(["tests.engine_works", "no.such.module"])
    yield made
    made.stop()


def forked(server: ForkServer, *args: object, **more: str):
    ours, theirs = Pipe()
    pid = server.fork(theirs, {**os.environ, **more}, tell, *args)
    theirs.close()
    return ours, pid


def waited(what, seconds: float = 10.0):
    until = time.monotonic() + seconds
    while (found := what()) is None and time.monotonic() < until:
        time.sleep(0.01)
    return found


def test_a_process_sees_the_surroundings_of_now_and_says_how_it_ended(
    server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    first, a = forked(server, 1, MARK="one")
    second, b = forked(server, 2)
    folder = str(tmp_path)
    assert first.recv() == ((1,), folder, "one", folder, a)
    assert second.recv() == ((2,), folder, None, folder, b)
    assert server.status(a) is server.status(b) is None
    first.send("exit")
    second.send("return")
    assert (waited(lambda: server.status(a)), waited(lambda: server.status(b))) == (3, 0)
    _, c = forked(server)
    os.kill(c, signal.SIGKILL)
    assert waited(lambda: server.status(c)) == -signal.SIGKILL
    assert server.status(c) == -signal.SIGKILL, "it is told as often as one asks"


def test_a_server_that_was_killed_says_so_and_another_takes_its_place(server: ForkServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"Broken pipe|ended|reset"):
        forked(server)
    assert server.status(1) == -signal.SIGKILL
    with fork_server.fork_server_until_end():
        one = fork_server.fork_server()
        assert fork_server.fork_server() is one
        os.kill(one.pid, signal.SIGKILL)
        one._process.wait()
        assert fork_server.fork_server() is not one
    assert fork_server._server is None


def test_nothing_has_threads_when_it_is_forked(tmp_path: Path) -> None:
    server = ForkServer([*_IMPORTED, "tests.engine_works"])
    try:
        pipe, _ = forked(server)
        pipe.recv()  # all is imported
        assert psutil.Process(server.pid).num_threads() == 1
    finally:
        server.stop()


def test_no_process_outlives_the_one_that_wanted_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from multiprocessing import Pipe\n"
        "from transfer_metrics.fork_server import ForkServer\n"
        "from tests.engine_works import tell\n"
        "server = ForkServer(['tests.engine_works']); ours, theirs = Pipe()\n"
        "print(server.fork(theirs, os.environ, tell), server.pid, flush=True); time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root) as run:
        children = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        run.kill()
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left


def test_warnings_of_workers_are_those_of_this_process(tmp_path: Path) -> None:
    with pytest.warns() as told:
        list(map_reduce("processes", Warned(tmp_path), [[1, 2]], [2], workers=1))
    found = {(str(w.message), w.category) for w in told}
    assert {(f"part {i} is odd", TransferMetricsWarning) for i in (0, 1)} <= found
    assert ("0 is old", RuntimeWarning) in found
    assert {w.filename for w in told if w.category is TransferMetricsWarning} == {__file__}


@pytest.mark.parametrize(("free", "workers"), [(0, 1), (1 << 50, 2)])
def test_careful_workers_begin_where_there_is_memory(free, workers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("transfer_metrics.ranking.engines.processes.free_memory", lambda: free)
    work = Squares(tmp_path, slow=0.3)
    items = [[1, 2, 3, 4], [5, 6, 7, 8]]
    found = dict(map_reduce("processes", work, items, [4, 4], workers=2, careful=True))
    assert found == {0: 30, 1: 174}
    notes = notes_of(tmp_path, "map")
    assert len({pid for *_, pid, _ in notes}) == workers


def test_what_auto_chooses() -> None:
    with running_with(2):
        assert chosen_engine("auto", NAMED, None, None) == "processes"
        assert chosen_engine("auto", NAMED, None, "cpu") == "processes"
        assert chosen_engine("auto", NAMED[:1], None, None) == "serial", "too few"
        assert chosen_engine("auto", NAMED, 1, None) == "serial"
        assert chosen_engine("auto", NAMED, None, "cuda:0") == "serial"
        module = Candidate("own", nn.Linear(2, 2))
        assert chosen_engine("auto", [*NAMED, module], None, None) == "serial"
        assert chosen_engine("ray:auto", NAMED, None, None) == "ray:auto"
    with running_with(1):
        assert chosen_engine("auto", NAMED, None, None) == "serial", "one thread was asked for"


@pytest.mark.skipif(torch.get_num_threads() < 2, reason="there is nothing to choose")
def test_a_script_without_guard_may_choose_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys, transfer_metrics as tm\n"
        "print(json.dumps([(r.model, r.layer, r.value) for r in tm.rank_models('zoo:cnn-*', "
        "'sklearn:digits?examples=100', 'leep,logme', engine=sys.argv[1], cache='never', "
        "progress=False)]))\n"
    )
    said = [
        json.loads(subprocess.check_output([sys.executable, script, engine]))
        for engine in ("auto", "serial")
    ]
    assert [r[:2] for r in said[0]] == [r[:2] for r in said[1]]
    assert [r[2] for r in said[0]] == pytest.approx([r[2] for r in said[1]], rel=1e-6)


@pytest.mark.parametrize("size", [0, -1, "many", True, 2.5])
def test_sizes_of_shards_are_checked_before_ranges_are_cut(size) -> None:
    with pytest.raises(InvalidInputError, match=r"shard_size=.* whole number from 1 on"):
        tm.rank_models("zoo:cnn-mnist", "sklearn:iris", "knn", shard_size=size, cache="never")
