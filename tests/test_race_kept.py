"""What a race keeps of networks between rounds: less work, and the same scores bit for bit."""

from __future__ import annotations

import functools
import math
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import transfer_metrics as tm
from transfer_metrics.features import proof
from transfer_metrics.features.forward import Forward
from transfer_metrics.features.proof import Proof
from transfer_metrics.ranking import rank as ranking
from transfer_metrics.ranking.job import Job, Outcome
from transfer_metrics.ranking.kept import Kept
from transfer_metrics.ranking.race import _VISIT, plan_race
from transfer_metrics.ranking.range_statistics import RangeBuilder
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.models.model import Model

UNLIKE = ("seconds", "load_seconds", "extract_seconds", "statistics_seconds", "created")
HERE = "tests.test_race_kept"


class Net(nn.Module):
    """A random projection of arrays of 12 numbers, of any width."""

    def __init__(self, seed, width=16):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Linear(12, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.features(x)))


class Counting(Net):
    """One that counts its passes in an attribute of its own."""

    passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x)


def net(seed=0, width=16):
    return Net(seed, width)


def counting(seed=0):
    return Counting(seed)


class Mortal(Net):
    """One that ends the process that runs it where a file says so, which it removes."""

    def __init__(self, folder, seed, width):
        super().__init__(seed, width)
        self.sign = Path(folder) / "kill"

    def forward(self, x):
        if self.sign.exists():
            self.sign.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def noted(folder, seed=0, width=16):
    """A network that leaves a note of who loaded it."""
    (Path(folder) / f"load-{seed}-{os.getpid()}-{time.time_ns()}").touch()
    return Mortal(folder, seed, width)


def noted_names(folder, count=6):
    return {
        f"net {i}": f"{HERE}:noted(folder={str(folder)!r}, seed={i}, width={8 + 4 * i})"
        for i in range(count)
    }


def loads(folder):
    """Who loaded which network, in order."""
    found = sorted((p.name.split("-")[1:] for p in folder.glob("load-*")), key=lambda w: int(w[2]))
    return [(seed, pid) for seed, pid, _ in found]


def names(count=6):
    return [f"{HERE}:net(seed={i}, width={8 + 4 * i})" for i in range(count)]


def draw(n=400):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, n)
    return (rng.standard_normal((n, 12)) + np.eye(3, 12)[y]).astype(np.float32), y


def rank(models, **options):
    options = {"layers": "last", "cache": "never", "progress": False, "budget": 0.6, **options}
    return tm.rank_models(models, draw(), "knn", **options)


def plain(table):
    return [{k: v for k, v in r.items() if k not in UNLIKE} for r in table.records]


def bytes_of(model):
    return sum(4 * math.prod(p.shape) for p in model.module.parameters())


@pytest.fixture
def work(monkeypatch):
    """How often networks are loaded, by name, and how often anything is proven."""
    found = {"loaded": [], "proven": 0}
    load, proven = Candidate.load, proof._proven

    def counted_load(self):
        found["loaded"].append(self.name)
        return load(self)

    def counted_proof(*args):
        found["proven"] += 1
        return proven(*args)

    monkeypatch.setattr(Candidate, "load", counted_load)
    monkeypatch.setattr(proof, "_proven", counted_proof)
    return found


@pytest.mark.integration
def test_what_a_race_keeps_changes_no_bit_of_its_scores(work, monkeypatch):
    kept = rank(names())
    assert len({r["round"] for r in kept.records}) > 1  # some went further than others
    assert sorted(work["loaded"]) == sorted(names())
    assert work["proven"] == len(names())
    work["loaded"].clear()
    work["proven"] = 0
    monkeypatch.setattr(ranking, "worker_memory", lambda *given: 0)
    bare = rank(names())
    assert len(work["loaded"]) > len(names())
    assert work["proven"] == len(names())  # what was found of them holds for those loaded again
    assert plain(bare) == plain(kept)
    monkeypatch.setattr(Kept, "note", lambda self, name, known: None)
    work["loaded"].clear()
    work["proven"] = 0
    assert plain(rank(names())) == plain(kept)
    assert work["proven"] == len(work["loaded"]) > len(names())


@pytest.mark.integration
def test_survivors_score_as_networks_that_nothing_was_kept_of():
    survivors = [r for r in rank(names()).records if r["round"] is None]
    full = {r["model"]: r["value"] for r in rank(names(), budget=None).records}
    assert survivors
    for record in survivors:
        assert record["value"] == pytest.approx(full[record["model"]], abs=1e-12)


@pytest.mark.integration
@pytest.mark.integration
def test_workers_stay_and_keep_networks_from_round_to_round(tmp_path, monkeypatch):
    models = noted_names(tmp_path)
    expected = rank(models)
    for note in tmp_path.iterdir():
        note.unlink()
    found = rank(models, engine="processes", workers=2)
    assert plain(found) == plain(expected)
    assert len({r["round"] for r in found.records}) > 1
    kept = loads(tmp_path)
    assert len({pid for _, pid in kept}) <= 2
    assert len(kept) == len(set(kept)), "a worker loads a network once"
    for note in tmp_path.iterdir():
        note.unlink()
    monkeypatch.setattr(ranking, "worker_memory", lambda *given: 0)
    assert plain(rank(models, engine="processes", workers=2)) == plain(expected)
    assert len(loads(tmp_path)) > len(kept)


@pytest.mark.integration
@pytest.mark.parametrize("round_of_death", [1, 2])
def test_a_race_survives_a_worker_that_held_networks(tmp_path, monkeypatch, round_of_death):
    models = noted_names(tmp_path)
    expected = rank(models)
    leave, rounds = Kept.leave, []

    def watched(self, left):
        leave(self, left)
        rounds.append(left)
        if len(rounds) == round_of_death:
            (tmp_path / "kill").touch()

    monkeypatch.setattr(Kept, "leave", watched)
    found = rank(models, engine="processes", workers=2)
    assert not (tmp_path / "kill").exists(), "no worker died"
    assert plain(found) == plain(expected)


def test_networks_are_kept_up_to_the_room_and_no_further(work, monkeypatch):
    sizes = [bytes_of(tm.load_model(name)) for name in names()]
    work["loaded"].clear()
    room, taken = sum(sizes[:3]), []
    keep = Kept.keep

    def watched(self, item, model):
        keep(self, item, model)
        taken.append((self.room, self.bytes, len(self._models)))

    monkeypatch.setattr(Kept, "keep", watched)
    monkeypatch.setattr(ranking, "worker_memory", lambda *given: 2 * room)
    table = rank(names())
    assert {given for given, _, _ in taken} == {room}
    assert max(found for _, found, _ in taken) == room  # the first three, to the byte
    assert max(count for _, _, count in taken) == 3
    assert not table.failures
    # Those were loaded once, whoever went on.
    assert all(work["loaded"].count(name) == 1 for name in names()[:3])


def test_who_is_out_of_the_race_is_not_held():
    kept = Kept(1 << 30)
    items = [Candidate(name, name) for name in names(3)]
    task = tm.load_task(*draw())
    job = Job.of(task, "knn", layers="last")
    for item in items:
        model = kept.load(item)
        job.extraction(model)
        kept.keep(item, model)
        kept.note(item.name, Proof.of(model))
    assert kept.bytes == sum(bytes_of(tm.load_model(name)) for name in names(3))
    assert kept.load(items[1]) is kept.load(items[1])
    kept.leave([items[1].name])
    assert kept.bytes == bytes_of(tm.load_model(names(3)[1]))
    assert kept.load(items[0]) is not kept.load(items[0])
    # Another process is told what was found, and gets no weights; what it has it keeps.
    sent = pickle.loads(pickle.dumps(kept))  # noqa: S301
    assert (sent.room, sent.bytes, list(sent._known)) == (kept.room, 0, [items[1].name])
    assert len(pickle.dumps(kept)) < bytes_of(tm.load_model(names(3)[1])) + 4096
    there = Kept(1 << 30)
    for item in items[:2]:
        model = there.load(item)
        job.extraction(model)
        there.keep(item, model)
    sent.take_over(there)
    assert sent.load(items[1]) is there.load(items[1])
    assert sent.bytes == bytes_of(there.load(items[1]))


def test_a_network_that_its_passes_change_is_loaded_anew():
    kept, item = Kept(1 << 30), Candidate("a", f"{HERE}:counting(seed=1)")
    job = Job.of(tm.load_task(*draw()), "knn", layers="last")
    model = kept.load(item)
    assert job.extraction(model).proof.settings.changing
    kept.keep(item, model)
    assert kept.bytes == 0
    again = kept.load(item).module
    assert again.passes == tm.load_model(item.model).module.passes < model.module.passes


@pytest.mark.parametrize("other", [{"seed": 5}, {"width": 24}])
def test_what_was_found_of_a_network_tells_nothing_of_another(other, work):
    job = Job.of(tm.load_task(*draw()), "knn", layers="last")
    first = tm.load_model(net(seed=1))
    known = (job.extraction(first), Proof.of(first))[1]
    fresh = job.extraction(tm.load_model(net(**{"seed": 1, **other})))
    told = tm.load_model(net(**{"seed": 1, **other}))
    known.note(told)
    found = job.extraction(told)
    assert found.key == fresh.key != job.extraction(first).key
    assert found.proof.found == fresh.proof.found
    # And of one with the same content, all of it.
    again, before = tm.load_model(net(seed=1)), work["proven"]
    known.note(again)
    assert job.extraction(again).key == job.extraction(first).key
    assert job.extraction(again).forward.model.module is again.module
    assert work["proven"] == before


@pytest.mark.integration
@pytest.mark.parametrize("after", [3, 8])
def test_an_interrupted_race_of_names_goes_on(tmp_path, monkeypatch, after):
    expected, write, calls = rank(names()), RangeBuilder.write, []

    def interrupted(self, positions, folder):
        calls.append(len(positions))
        if len(calls) > after:
            raise KeyboardInterrupt
        write(self, positions, folder)

    options = {"cache": "only-missing", "cache_dir": tmp_path}
    monkeypatch.setattr(RangeBuilder, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rank(names(), **options)
    done = len(calls) - 1
    calls.clear()
    monkeypatch.setattr(RangeBuilder, "write", functools.partialmethod(_noted, write, calls))
    assert plain(rank(names(), **options)) == plain(expected)
    assert calls
    again = len(calls)
    calls.clear()
    assert plain(rank(names(), **options)) == plain(expected)
    assert not calls
    fresh = rank(names(), cache="only-missing", cache_dir=tmp_path / "fresh")
    assert plain(fresh) == plain(expected)
    assert len(calls) == done + again  # nothing that was finished was done again


def _noted(self, write, calls, positions, folder):
    calls.append(len(positions))
    write(self, positions, folder)


@settings(max_examples=200, deadline=None)
@given(
    st.integers(2, 200), st.integers(100, 5000), st.floats(0.1, 0.9), st.floats(7, 12),
)  # fmt: skip
def test_a_race_is_charged_for_loading_all_its_networks(models, n, budget, digits):
    try:
        plan = plan_race(models, n, 2, budget)
    except tm.errors.InvalidInputError:
        return
    cost = int(10**digits)
    rest = plan.beside_visits(budget, {i: Outcome([], cost=cost) for i in range(models)})
    assert rest.sizes == plan.sizes
    assert plan.allowed / 2 - 1 <= rest.allowed <= plan.allowed
    visits, passes = models * _VISIT, models * n * cost
    spent, whole = visits + rest.allowed * cost, visits + passes
    least = models * plan.cost(0) + sum(map(plan.cost, range(1, len(plan.sizes))))
    if rest.allowed > max(least, plan.allowed / 2) + 1 and visits < passes:
        assert spent <= budget * whole * (1 + 1e-9)
    if visits < 1e-3 * passes:
        assert rest.allowed >= 0.99 * plan.allowed - 1 - models * n * 1e-3


def test_what_is_not_known_is_not_charged():
    plan = plan_race(10, 1000, 2, 0.3)
    assert plan.beside_visits(0.3, {i: Outcome([]) for i in range(10)}) == plan


def test_what_functions_between_layers_write_costs_too():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2, bias=False)

        def forward(self, x):
            x = F.relu(self.conv(F.pad(x, (1, 1, 1, 1))))
            return self.head(x.flatten(2).mean(2))

    model = Model("net", Padded().eval(), None, "tensor", "head", (3, 8, 8))
    task = tm.load_task(np.zeros((9, 3, 8, 8), np.float32), np.arange(9) % 2)
    padded, maps, pooled, classes = 3 * 10 * 10, 4 * 8 * 8, 4, 2
    operations = 2 * (maps * 27 + classes * 4)
    written = padded + 2 * maps + pooled + classes
    assert Forward(model, task).cost() == operations + 100 * written
