"""Engines: who does what, and that all of them come to the same."""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import transfer_metrics as tm
from tests.engine_works import Environment, Sleeps, Squares, Unreadable, notes_of
from transfer_metrics.errors import EngineError, InvalidInputError, UnknownNameError
from transfer_metrics.fork_server import fork_server_until_end
from transfer_metrics.ranking.engines import ENGINES, REDUCE, Lost, Unit, map_reduce
from transfer_metrics.ranking.engines.crew import _ATTEMPTS, Crew, Schedule
from transfer_metrics.threads import running_with

pytestmark = pytest.mark.integration

ITEMS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
SUMS = {0: 14, 1: 77, 2: 194}
PARALLEL = ("processes", "ray")


@pytest.fixture(scope="module")
def _ray():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("_ray")
    return request.param


on_every = pytest.mark.parametrize("engine", ["serial", *PARALLEL], indirect=True)
in_parallel = pytest.mark.parametrize("engine", PARALLEL, indirect=True)
# Where a worker is killed, and where work comes from a script, the same is seen on processes.
calmly = pytest.mark.parametrize(
    "engine",
    ["serial", *(pytest.param(e, marks=pytest.mark.slow) for e in PARALLEL)],
    indirect=True,
)


def all_done(engine: str, work: Squares) -> None:
    """All parts are done and put together, and an item is loaded once per worker."""
    ticks: list[int] = []
    found = dict(
        map_reduce(engine, work, ITEMS, [3, 3, 3], workers=2, tick=lambda: ticks.append(1))
    )
    assert found == SUMS
    assert len(ticks) == 9
    loads = notes_of(work.notes, "load")
    assert len(loads) == len({(first, pid) for _, first, pid, _ in loads}) <= 7


@calmly
def test_all_parts_are_done_and_put_together(engine: str, tmp_path: Path) -> None:
    all_done(engine, Squares(tmp_path, slow=0.05))


@calmly
def test_a_settled_item_needs_no_other_part(engine: str, tmp_path: Path) -> None:
    found = dict(map_reduce(engine, Squares(tmp_path), [[0, 0, 0, 0]], [4], workers=1))
    assert found == {0: 0}
    assert len(notes_of(tmp_path, "map")) == 1


def test_a_worker_that_is_stopped_at_work_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_type))
    late = Connection._recv  # after its pipe would have been closed
    monkeypatch.setattr(Connection, "_recv", lambda *args: time.sleep(0.3) or late(*args))
    threads = threading.active_count()
    found = map_reduce("processes", Squares(tmp_path, slow=0.2), ITEMS, [3, 3, 3], workers=2)
    next(iter(found))
    found.close()
    assert not raised
    assert threading.active_count() == threads


@in_parallel
def test_a_killed_worker_costs_only_what_it_was_doing(engine: str, tmp_path: Path) -> None:
    work = Squares(tmp_path, die_at=(4, 1))
    all_done(engine, work)
    done = [(first, part) for _, first, part, _, _ in notes_of(tmp_path, "map")]
    assert (tmp_path / "killed").exists()
    assert len(set(done)) == 9
    assert len(done) <= 10, "one part more where an idle worker repeated a slow one"


@pytest.mark.parametrize(
    "engine", ["processes", pytest.param("ray", marks=pytest.mark.slow)], indirect=True
)
def test_workers_of_a_crew_stay_and_go_on_with_what_they_had(engine: str, tmp_path: Path) -> None:
    items = [[i, 1] for i in range(1, 7)]
    loads: list[list[tuple[int, str]]] = []
    with fork_server_until_end(), Crew() as crew:
        for i, chosen in enumerate((items, items[:4], items[1:3])):
            folder = tmp_path / str(i)
            folder.mkdir()
            work = Squares(folder, slow=0.05 + i / 20)
            found = dict(map_reduce(engine, work, chosen, [2] * len(chosen), workers=2, crew=crew))
            assert found == {k: item[0] ** 2 + 1 for k, item in enumerate(chosen)}
            loads.append([(int(first), pid) for _, first, pid, _ in notes_of(folder, "load")])
            told = [words[1] for words in notes_of(folder, "after")]
            assert told == (["0.05", "0.1"][i - 1 : i] * 2 if i else [])
        assert set().union(*crew.homes(items).values()) == set(range(6))
    pids = {pid for of_round in loads for _, pid in of_round}
    assert len(pids) == 2, "they are the same processes"
    for pid in pids:
        own = {first for first, other in loads[0] if other == pid}
        begun = [first for first, other in loads[1] if other == pid]
        assert not own & {1, 2, 3, 4} or begun[0] in own, "it begins with what it had"
    for pid in pids if engine == "processes" else ():  # Ray ends its own at its leisure
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize(
    "engine", ["processes", pytest.param("ray", marks=pytest.mark.slow)], indirect=True
)
def test_what_nobody_waits_for_is_no_answer_of_the_next_work(engine: str, tmp_path: Path) -> None:
    # Scores that are known settle a model while another worker still runs a part of it.
    work = Sleeps(tmp_path)
    with fork_server_until_end(), Crew() as crew:
        for _ in range(3):
            started = time.monotonic()
            run = functools.partial(map_reduce, engine, work, workers=2, crew=crew)
            assert dict(run([[0, 30]], [2])) == {0: 0}
            assert dict(run([[1, 2], [3, 1], [2, 2]], [2] * 3)) == {0: 5, 1: 10, 2: 8}
            assert time.monotonic() - started < 30


def test_a_crew_replaces_who_died_between_two_works(tmp_path: Path) -> None:
    with fork_server_until_end(), Crew() as crew:
        work = Squares(tmp_path, slow=0.05)
        assert dict(map_reduce("processes", work, ITEMS, [3] * 3, workers=2, crew=crew)) == SUMS
        [victim, _] = crew.workers.values()
        os.kill(victim.pid, 9)
        again = Squares(tmp_path, slow=0.06)
        assert dict(map_reduce("processes", again, ITEMS, [3] * 3, workers=2, crew=crew)) == SUMS
        found = map_reduce("processes", again, ITEMS, [3] * 3, workers=2, crew=crew)
        next(found)
        found.close()  # who was at work does not stay
        assert not crew.workers
        assert dict(map_reduce("processes", work, ITEMS, [3] * 3, workers=2, crew=crew)) == SUMS


@pytest.mark.parametrize(
    "engine", ["processes", pytest.param("ray", marks=pytest.mark.slow)], indirect=True
)
def test_a_part_that_kills_every_worker_is_given_up(engine: str, tmp_path: Path) -> None:
    work = Squares(tmp_path, die_at=(4, 1), always=True)
    found = dict(map_reduce(engine, work, ITEMS, [3, 3, 3], workers=2))
    assert found == SUMS | {1: "lost"}


def test_an_item_that_cannot_be_read_in_a_worker_says_why(tmp_path: Path) -> None:
    found = dict(map_reduce("processes", Squares(tmp_path), [Unreadable()], [1], workers=1))
    assert found == {0: Lost("ValueError: cannot be read here")}


def test_workers_take_turns_on_gpus_and_share_the_threads(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    names, options = ["CUDA_VISIBLE_DEVICES"] * 4, {"workers": 2, "device": "cuda"}
    found = dict(map_reduce("processes", Environment(tmp_path), names, [1] * 4, **options))
    seen = [result for results in found.values() for result in results]
    assert {gpu for gpu, _ in seen} == {"0", "1"}
    share = max(1, (os.cpu_count() or 1) // 2)
    assert {threads for _, threads in seen} == {min(share, torch.get_num_threads())}


def test_a_worker_has_no_more_threads_than_its_parent(tmp_path: Path) -> None:
    with running_with(1):
        [(_, seen)] = map_reduce("processes", Environment(tmp_path, 1), ["X"], [1], workers=1)
    assert [threads for _, threads in seen] == [1]


def test_work_of_a_script_reaches_other_processes_and_settles_there(tmp_path: Path) -> None:
    class Local(Squares):
        def map(self, loaded, part):
            return super().map(loaded, part) * 2

    items = [[0, 0, 0, 0], ITEMS[0]]
    found = dict(map_reduce("processes", Local(tmp_path), items, [4, 3], workers=1))
    assert found == {0: 0, 1: 28}
    assert len(notes_of(tmp_path, "map")) == 4


def test_names_and_numbers_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'serial'"):
        map_reduce("serail", Squares(tmp_path), ITEMS, [1])
    with pytest.raises(InvalidInputError, match="workers=0"):
        map_reduce("processes", Squares(tmp_path), ITEMS, [1], workers=0)
    assert set(ENGINES) >= {"serial", "processes", "ray"}


def test_a_cluster_that_does_not_answer_is_one_sentence(tmp_path: Path, monkeypatch) -> None:
    ray = pytest.importorskip("ray")
    if ray.is_initialized():
        ray.shutdown()

    def refuse(**options: object) -> None:
        raise ConnectionError("nobody is there\nand a second line")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(EngineError, match=r"'10\.0\.0\.9:1' cannot be reached \(nobody is there\)"):
        list(map_reduce("ray:10.0.0.9:1", Squares(tmp_path), ITEMS, [3, 3, 3]))


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    workers=st.integers(1, 6),
    deaths=st.floats(0, 0.3),
    seed=st.integers(0, 10_000),
    stays=st.booleans(),
)
def test_schedule_whatever_happens(parts, workers, deaths, seed, stays) -> None:
    """Every part has a result, each item is put together once, in whatever order things end."""
    random_state = random.Random(seed)
    homes: dict[int, set[int]] = {}
    for item in range(len(parts) if stays else 0):
        homes.setdefault(random_state.randrange(workers + 1), set()).add(item)
    schedule, busy = Schedule(parts, homes=homes, repeats=not stays), {}
    begun, dead = set(), set()
    reduced: dict[int, list] = {}
    for _ in range(10_000):
        if schedule.finished:
            break
        for worker in range(workers):
            if worker in busy:
                continue
            own = homes.get(worker, set()) - begun if worker not in dead else set()
            assert schedule.has_own(worker) == bool(own)
            unit = schedule.take(worker)
            if unit is None:
                assert begun == set(range(len(parts))), "nobody is idle beside an item"
                continue
            busy[worker] = unit
            if unit.part != REDUCE:
                if unit.item not in begun and own:
                    assert unit.item in own
                assert not stays or (unit.item, unit.part) not in [
                    (other.item, other.part) for w, other in busy.items() if w != worker
                ]
                begun.add(unit.item)
        assert busy, "work is left and nobody works"
        worker = random_state.choice(sorted(busy))
        unit = busy.pop(worker)
        results = schedule.results(unit.item) if unit.part == REDUCE else None
        if random_state.random() < deaths:
            dead.add(worker)
            given_up = schedule.lost(worker, "dead")
            if given_up is not None and given_up.part == REDUCE:
                reduced[unit.item] = []
        else:
            noted = schedule.done(worker, (unit.item, unit.part))
            if noted is not None and unit.part == REDUCE:
                assert unit.item not in reduced
                reduced[unit.item] = results
    assert schedule.finished
    assert set(reduced) == set(range(len(parts)))
    for item, results in reduced.items():
        if results and not any(isinstance(r, Lost) for r in results):
            assert results == [(item, part) for part in range(parts[item])]


def test_schedule_gives_up_after_some_attempts() -> None:
    schedule = Schedule([1])
    for attempt in range(_ATTEMPTS):
        assert schedule.take("w") == Unit(0, 0)
        assert (schedule.lost("w", "dead") is not None) == (attempt == _ATTEMPTS - 1)
    assert schedule.take("w") == Unit(0, REDUCE)
    assert schedule.results(0) == [Lost("dead")]


def test_schedule_spreads_models_before_it_shares_them() -> None:
    schedule = Schedule([4, 4, 4])
    first = [schedule.take(worker) for worker in "abc"]
    assert [unit.item for unit in first] == [0, 1, 2]
    for worker in "abc":
        schedule.done(worker, "result")
    assert [schedule.take(worker).item for worker in "cab"] == [2, 0, 1]


def test_schedule_sends_items_home_and_leaves_nobody_idle() -> None:
    schedule = Schedule([1, 1, 1, 1], homes={"a": {3}, "b": {0, 2}}, repeats=False)
    assert schedule.take("a") == Unit(3, 0)
    assert schedule.take("c") == Unit(1, 0), "one that has no home"
    assert schedule.take("d") == Unit(0, 0), "another's, rather than nothing"
    assert schedule.take("b") == Unit(2, 0)
    assert schedule.take("e") is None, "what runs already is not repeated"
    assert Schedule([2, 1]).take("x") == Unit(0, 0)


# --- rankings -------------------------------------------------------------------------------------

METRICS = ["logme", "transrate", "knn", "leep"]
MODELS, TASK = ["zoo:cnn-mnist", "zoo:cnn-cifar10"], "sklearn:digits?examples=500"
COMMON = {"cache": "never", "progress": False, "shard_size": 100}


def _values(table: tm.ScoreTable) -> dict:
    assert not table.failures, table.failures[0]["error"]
    return {(r["model"], r["layer"], r["metric"]): r["value"] for r in table.records}


def _same(table: tm.ScoreTable, other: tm.ScoreTable) -> None:
    ours, theirs = _values(table), _values(other)
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def stored() -> tm.ScoreTable:
    return tm.rank_models(MODELS, TASK, METRICS, stream=False, **COMMON)


@on_every
def test_streamed_scores_are_those_of_stored_features(engine: str, stored: tm.ScoreTable) -> None:
    table = tm.rank_models(MODELS, TASK, METRICS, engine=engine, workers=2, stream=True, **COMMON)
    _same(table, stored)
    assert table.ranking()["model"].tolist() == stored.ranking()["model"].tolist()


@pytest.mark.parametrize(
    "engine", ["processes", pytest.param("ray", marks=pytest.mark.slow)], indirect=True
)
def test_whole_models_in_parallel(engine: str, stored: tm.ScoreTable) -> None:
    table = tm.rank_models(MODELS, TASK, METRICS, engine=engine, workers=2, stream=False, **COMMON)
    _same(table, stored)


@pytest.mark.slow
def test_intervals_are_the_same(stored: tm.ScoreTable) -> None:
    options = {**COMMON, "intervals": "bootstrap"}
    a, b = (
        tm.rank_models("zoo:cnn-mnist", "sklearn:digits", ["logme", "knn"], stream=s, **options)
        for s in (False, True)
    )
    _same(a, b)
    for ours, theirs in zip(a.records, b.records, strict=True):
        assert ours["stderr"] == pytest.approx(theirs["stderr"], rel=1e-6)


def test_the_mean_of_layers_and_words_with_labels_stream_too() -> None:
    mean = {**COMMON, "layers": "mean", "metrics": ["logme", "knn"]}
    a, b = (tm.rank_models("zoo:vit-mnist", TASK, stream=s, **mean) for s in (0, 1))
    _same(a, b)


def test_regression_streams_with_binned_targets() -> None:
    X = np.random.default_rng(0).random((300, 8, 8)).astype(np.float32)
    from torch import nn

    torch_seed = np.random.default_rng(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 5))
    task = tm.load_task(X.reshape(300, 64), torch_seed.random(300), name="r")
    found = [
        tm.rank_models(
            network, task, ["logme", "transrate"], layers="*", stream=s, cache="never",
            progress=False, shard_size=50,
        )
        for s in (False, True)
    ]  # fmt: skip
    _same(*found)


def test_a_model_that_fails_leaves_its_reason_and_others_go_on() -> None:
    table = tm.rank_models(
        ["zoo:vit-mnist", "zoo:no-such-net"], TASK, "knn",
        engine="processes", workers=2, **COMMON,
    )  # fmt: skip
    assert table.best() == "zoo:vit-mnist"
    [failure] = table.failures
    assert "no-such-net" in failure["error"]


@pytest.mark.parametrize(
    "options",
    [
        {"stream": True, "keep_features": True},
        {"memory": "1GiB", "budget": 0.5},
        {"memory": "1GiB", "stream": False},
    ],
)
def test_options_that_exclude_each_other(options: dict) -> None:
    with pytest.raises(InvalidInputError, match="stream"):
        tm.rank_models("zoo:cnn-mnist", "sklearn:digits", **options)


@pytest.mark.slow
def test_a_race_on_processes_is_the_race_of_this_process() -> None:
    options = {"budget": 0.5, "cache": "never", "progress": False}
    a, b = (
        tm.rank_models("zoo:cnn-*", "sklearn:digits", "ridge_probe", engine=e, workers=2, **options)
        for e in ("serial", "processes")
    )
    _same(a, b)
    assert [r["round"] for r in a.records] == [r["round"] for r in b.records]


def test_what_cannot_be_sent_to_a_worker_says_what_to_do() -> None:
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    X, y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3
    with pytest.raises(EngineError, match=r"cannot be sent to another process.*engine='serial'"):
        tm.rank_models(
            nn.Sequential(linear), (X, y), "knn", engine="processes", workers=1, progress=False
        )
