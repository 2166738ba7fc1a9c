"""The simulated scheduler: cases worked out by hand, and the decisions of a plain one."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks import simulation
from tests.benchmarks.simulation import Cluster, Load, simulate
from tests.plain_schedule import PlainSchedule
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.ranking.engines.crew import Schedule

FOREVER = float("inf")


def load(models: int, ranges: int, *, load: float, range: float, reduce: float = 0.0) -> Load:
    return Load(*(np.full(models, float(s)) for s in (load, range, reduce)), ranges)


def test_two_workers_and_two_models_by_hand():
    # Each loads its model (1 s) and does three ranges (2 s each); then each puts one together.
    run = simulate(load(2, 3, load=1, range=2, reduce=4), Cluster(2, start=10))
    assert run.makespan == 10 + 1 + 3 * 2 + 4
    assert (run.loads, run.begun, run.repeated, run.deaths) == (2, 6, 0, 0)
    assert run.bound == 10 + 2 * (1 + 6 + 4) / 2 == run.makespan
    assert run.efficiency == run.busy_share == 1.0


def test_two_workers_share_one_model_by_hand():
    # Both load it; a: ranges end at 3, 5; b: at 3, 5. The fifth ends at 7, and b repeats it from 5
    # on, in vain. Ends at the same time are taken in the order in which the units began.
    run = simulate(load(1, 5, load=1, range=2), Cluster(2))
    assert run.makespan == 7
    assert run.loads == 2
    assert run.begun == 6
    assert run.bound == (1 + 10) / 2


def test_a_worker_that_dies_costs_its_unfinished_range_and_a_new_start():
    # One worker: start 5, load 1, ranges of 2 end at 8, 10, 12. It dies at 11, one second into the
    # third; its successor starts (16), loads (17), and does that range alone (19).
    lives = iter([11.0, FOREVER])
    run = simulate(load(1, 3, load=1, range=2), Cluster(1, start=5), lives=lambda: next(lives))
    assert run.makespan == 19
    assert run.lost == 1.0
    assert (run.deaths, run.begun, run.loads, run.given_up) == (1, 4, 2, 0)


def test_the_other_worker_takes_over_the_range_of_the_dead():
    # Both start until 6 and have ranges that end at 10 and 14. a dies at 11, one second into its
    # second range, and its successor would be ready with it at 11 + 6 + 4; b repeats it from 14 on.
    lives = iter([11.0, FOREVER, FOREVER])
    run = simulate(load(2, 2, load=0, range=4), Cluster(2, start=6), lives=lambda: next(lives))
    assert run.makespan == 18
    assert run.lost == 1.0
    assert (run.deaths, run.begun) == (1, 6)


def test_a_model_on_which_all_die_is_given_up():
    lives = iter([1.0, 1.0, 1.0, FOREVER])
    run = simulate(load(1, 1, load=0, range=3), Cluster(1), lives=lambda: next(lives))
    assert run.given_up == 1
    assert run.lost == 3.0
    assert run.makespan == 3.0


def test_a_slow_worker_is_overtaken():
    # Four models of one range of 10 s. The slow worker needs 100 s for its first; the quick one
    # does the other three by 30, and repeats the first until 40.
    run = simulate(load(4, 1, load=0, range=10), Cluster(2, slow=0.5, times=10))
    assert run.makespan == 40
    assert run.bound == pytest.approx(40 / 1.1)


def test_failures_cost_in_proportion():
    work = Load.lognormal(60, 8, load=1, range=10, reduce=1, spread=0.5)
    calm, rough = (simulate(work, Cluster(8, 5, life=life), seed=1) for life in (FOREVER, 500))
    assert calm.deaths == 0
    # Workers are busy for about makespan * 8 seconds and die every 500 of them.
    expected = 8 * rough.makespan / 500
    assert abs(rough.deaths - expected) < 4 * np.sqrt(expected)
    # A death costs on average half a range, its loading and a start, and no more than whole ones.
    assert 0 < rough.lost < rough.deaths * (work.range.max() + work.load.max() + 5)
    assert rough.makespan < 1.5 * calm.makespan


def test_the_same_seed_is_the_same_run():
    work, cluster = Load.lognormal(20, 4, load=1, range=5, reduce=1), Cluster(4, 2, 0.25, 3, 100)
    assert simulate(work, cluster, seed=3) == simulate(work, cluster, seed=3)
    assert simulate(work, cluster, seed=3) != simulate(work, cluster, seed=4)


@settings(max_examples=30, deadline=None)
@given(
    models=st.integers(1, 30),
    ranges=st.integers(1, 8),
    workers=st.integers(1, 12),
    slow=st.floats(0, 1),
    life=st.sampled_from([20.0, 200.0, FOREVER]),
    seed=st.integers(0, 99),
)
def test_no_run_beats_the_bounds(models, ranges, workers, slow, life, seed):
    work = Load.lognormal(models, ranges, load=1, range=3, reduce=0.5, seed=seed)
    run = simulate(work, Cluster(workers, 2, slow, 3.0, life), seed)
    if not run.given_up:
        assert run.efficiency <= 1 + 1e-9
        assert run.begun >= models * ranges
        assert run.loads >= models
    assert run.busy_share <= 1 + 1e-9


@pytest.mark.parametrize("workers", [64, 512])
def test_a_thousand_models_take_seconds(workers):
    work = Load.lognormal(1000, 16, load=20, range=60, reduce=20)
    started = time.perf_counter()
    run = simulate(work, Cluster(workers, 30, 0.05, 3.0, 24 * 3600))
    assert time.perf_counter() - started < 5
    assert run.begun - run.deaths - run.repeated <= 16_000 + workers
    assert run.given_up == 0


def test_nothing_to_simulate():
    with pytest.raises(InvalidInputError, match="0 models"):
        simulate(load(0, 1, load=1, range=1), Cluster(1))


# --- the scheduler --------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.integers(1, 5), min_size=1, max_size=8),
    workers=st.integers(1, 7),
    deaths=st.floats(0, 0.4),
    settled=st.floats(0, 0.2),
    seed=st.integers(0, 10_000),
)
def test_the_scheduler_decides_as_a_plain_one_does(parts, workers, deaths, settled, seed):
    random_state = random.Random(seed)
    quick, plain = (
        kind(parts, lambda result: result == "done") for kind in (Schedule, PlainSchedule)
    )
    busy: dict[int, object] = {}
    for _ in range(2000):
        assert quick.finished == plain.finished
        if quick.finished:
            break
        for worker in random_state.sample(range(workers), workers):
            if worker not in busy:
                assert quick.holds(worker) == plain.holds(worker)
                unit = quick.take(worker)
                assert unit == plain.take(worker)
                if unit is not None:
                    assert quick.results(unit.item) == plain.results(unit.item)
                    busy[worker] = unit
        # Idle workers die too, and are not noticed until later.
        worker = random_state.choice(
            range(workers) if random_state.random() < 0.1 else sorted(busy)
        )
        if worker not in busy or random_state.random() < deaths:
            assert quick.lost(worker, "dead") == plain.lost(worker, "dead")
        else:
            result = "done" if random_state.random() < settled else random_state.random()
            assert quick.done(worker, result) == plain.done(worker, result)
        busy.pop(worker, None)
    assert quick.finished


def test_a_plain_scheduler_gives_the_same_simulation(monkeypatch):
    work, cluster = Load.lognormal(40, 6, load=2, range=5, reduce=1), Cluster(16, 3, 0.2, 3, 150)
    quick = simulate(work, cluster)
    monkeypatch.setattr(simulation, "Schedule", PlainSchedule)
    assert simulate(work, cluster) == quick
    assert quick.deaths
    assert quick.repeated
