"""How rankings scale: what is measured, what memory is planned and held, what is projected."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import transfer_metrics as tm
from tests.benchmarks import projection, scaling, scaling_case, scaling_table
from tests.benchmarks.projection import Assumed, projected
from tests.benchmarks.scaling import cases
from tests.benchmarks.scaling_case import Case, Found, Note, Recipe, measured, models_of
from tests.benchmarks.scaling_table import Exponent, Row, ScalingTable
from transfer_metrics.__main__ import run
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.ranking.memory_budget import _as_bytes, plan_passes
from transfer_metrics.statistics.statistics import Labels, Needs

pytestmark = pytest.mark.integration

MIB = 2**20
SMALL = Case(examples=256, layers=2, dim=8, classes=3, shard_size=32)
WIDE = Case(examples=4096, layers=2, dim=448, classes=9, metrics="transrate,gbc")


def found(seconds: float = 1.0, grown: int = MIB, driver: int = MIB) -> Found:
    notes = (Note(1, "load", 0.5, 0.1, 0), Note(1, "map", 0.7, seconds - 0.1, grown))
    return Found(seconds + 0.7, driver, notes, (1.0, 2.0))


def table() -> ScalingTable:
    rows = [Row("examples", replace(SMALL, examples=n), found(n / 100)) for n in (100, 200, 400)]
    rows += [Row("driver", replace(SMALL, engine="ray", workers=2), found(driver=3 * MIB))]
    rows += [
        Row("overhead", SMALL, found()),
        Row("network", replace(SMALL, model="zoo:a"), found()),
    ]
    rows += [
        Row("memory", replace(SMALL, memory=m), found(grown=50 * MIB)) for m in ("1GiB", "9MB")
    ]
    return ScalingTable(tuple(rows), 0.25)


# --- what is measured -----------------------------------------------------------------------------


def test_exponents_are_those_of_a_line_through_logarithms():
    x, y = [1.0, 3.0, 10.0, 20.0], [2.0, 19.0, 180.0, 900.0]
    fit = Exponent.fitted(x, y)
    [slope, _], covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    assert fit.power == pytest.approx(slope)
    assert fit.error == pytest.approx(np.sqrt(covariance[0, 0]))
    assert (fit.least, fit.most) == (1.0, 20.0)
    assert Exponent.fitted(x[:2], y[:2]) is None
    assert Exponent.fitted(x, [0.0, *y[1:]]) is None
    assert table().exponent("examples", lambda f: f.working).power == pytest.approx(1)


def test_examples_are_made_when_they_are_read():
    recipe = Recipe(10**9, 4, 7)
    assert len(recipe) == 10**9
    np.testing.assert_array_equal(recipe[10**9 - 1], recipe[10**9 - 1])
    # Both periods and the classes have to come round for two examples to be the same.
    assert len({recipe[i].tobytes() for i in range(0, 5000)}) == 5000
    with pytest.raises(IndexError):
        recipe[10**9]
    task = scaling_case.task_of(SMALL)
    assert (
        task["train"].fingerprint
        != scaling_case.task_of(replace(SMALL, dim=9))["train"].fingerprint
    )


def test_models_have_as_many_layers_as_were_asked_for():
    [name] = models_of(replace(SMALL, layers=3))
    layers = tm.list_layers(tm.load_model(name))
    assert [layer.dim for layer in layers] == [8] * 3


def test_every_engine_and_axis_is_measured():
    measured_cases = cases()
    assert {c.engine for _, c in measured_cases} == {"serial", "processes", "ray"}
    assert set(scaling.AXES) | {"stored", "driver", "overhead", "memory", "network"} == {
        part for part, _ in measured_cases
    }
    for axis in scaling.AXES:
        assert len({getattr(c, axis) for part, c in measured_cases if part == axis}) >= 3


@pytest.mark.slow
def test_a_ranking_is_measured_in_its_own_processes():
    both = [
        measured(replace(SMALL, engine=e, workers=w)) for e, w in (("serial", 1), ("processes", 2))
    ]
    for one in both:
        assert [n.kind for n in one.notes].count("map") in (8, 9), "8 shards make 8 ranges"
        assert [n.kind for n in one.notes].count("reduce") == 1
        assert 0 < one.first < one.seconds
        assert one.working <= 2 * one.seconds
    serial, processes = both
    assert {n.process for n in serial.notes}.isdisjoint({n.process for n in processes.notes})
    np.testing.assert_allclose(serial.scores, processes.scores, rtol=1e-9)


def test_a_ranking_that_fails_says_why():
    with pytest.raises(tm.TransferMetricsError, match="no-such-metric"):
        measured(replace(SMALL, metrics="no-such-metric"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_memory_of_the_driver_does_not_grow_with_the_examples(engine):
    if engine == "ray":
        pytest.importorskip("ray")
    case = Case(engine=engine, workers=2, dim=64)
    few, many = (measured(replace(case, examples=n)).driver for n in (5_000, 80_000))
    if few is None:
        pytest.skip("this system does not tell")
    # Labels are eight bytes each and are sent to two workers; features would be 4 x 64 x 4 bytes.
    assert many - few < 8 * MIB < 75_000 * 64 * 4 * 4 / 8


# --- memory ---------------------------------------------------------------------------------------


def planned(case: Case, budget: int):
    """The plan of the case's statistics, as a ranking of it makes it."""
    counts = np.full(case.classes, case.examples // case.classes)
    names = [str(i) for i in range(case.layers)]
    labels = Labels.of(np.empty(0, int), "classification", case.classes)
    needs = labels.needs_of([tm.get_metric(m) for m in case.metrics.split(",")])
    ranges = min(16, case.examples // case.shard_size)
    return plan_passes(
        dict.fromkeys(names, case.dim), dict.fromkeys(names, needs), counts, 1 / ranges, budget,
        shard=case.shard_size,
    )  # fmt: skip


def test_a_budget_is_held_and_scores_stay_the_same():
    budget = "44MiB"
    free, tight = planned(WIDE, 4 << 30), planned(WIDE, _as_bytes(budget))
    assert free.bytes > 1.25 * _as_bytes(budget)
    assert len(tight.by_class) == 2
    held = measured(replace(WIDE, memory=budget))
    if held.driver is None:
        pytest.skip("this system does not tell")
    assert held.worker <= _as_bytes(budget), held.worker / MIB
    whole = scaling_case._rank(WIDE, "serial")
    np.testing.assert_allclose(held.scores, [r["value"] for r in whole.records], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metrics", "dim", "classes"),
    [("transrate,gbc,logme", 512, 16), ("logme,h_score", 768, 10), ("transrate", 256, 200)],
)
@pytest.mark.parametrize("budget", ["4GiB", "160MiB", "100MiB", "85MiB"])
def test_budgets_are_held(metrics, dim, classes, budget):
    case = Case(examples=16384, layers=3, dim=dim, classes=classes, metrics=metrics, memory=budget)
    plan = planned(case, _as_bytes(budget))
    worker = measured(case).worker
    assert plan.bytes <= _as_bytes(budget)
    assert worker <= plan.bytes, (worker / MIB, plan.bytes / MIB)


@settings(max_examples=200, deadline=None)
@given(
    dims=st.lists(st.integers(2, 600), min_size=1, max_size=6),
    classes=st.integers(1, 30),
    each=st.integers(1, 500),
    ranges=st.sampled_from([1, 4, 16]),
    parts=st.sets(st.sampled_from(["class", "spectrum", "fourth"])),
    families=st.sampled_from([("moments",), ("moments", "examples"), ("examples",)]),
    room=st.integers(0, 40 * MIB),
    shard=st.sampled_from([0, 64, 1024]),
)
def test_a_plan_is_complete_and_within_its_budget(
    dims, classes, each, ranges, parts, families, room, shard
):
    needs = [Needs(families, frozenset(parts), "classification", classes, 0)]
    names = {f"{i}": dim for i, dim in enumerate(dims)}
    budget = 12 * MIB + room
    counts = np.full(classes, each)
    try:
        plan = plan_passes(
            names, dict.fromkeys(names, needs), counts, 1 / ranges, budget, shard=shard
        )
    except InvalidInputError:
        return
    assert plan.bytes <= budget
    assert [n for p in plan.passes if p.classes is None for n in p.layers] == list(names)
    for name in plan.by_class:
        blocks = [p.classes for p in plan.passes if p.classes and name in p.layers]
        assert [c for a, b in blocks for c in range(a, b)] == list(range(classes))


def test_a_class_of_its_own_takes_no_more_than_was_counted():
    """k classes of one layer are merged from three copies, whatever the number of layers."""
    needs = [Needs(("moments",), frozenset({"class"}), "classification", 40, 0)]
    plan = plan_passes({"a": 300}, {"a": needs}, np.full(40, 1000), 1.0, 60 * MIB)
    widest = max(b - a for a, b in (p.classes for p in plan.passes if p.classes))
    assert 3 * widest * 300 * 300 * 8 <= plan.bytes <= 60 * MIB


# --- what is said ---------------------------------------------------------------------------------


def test_bytes_and_passes_of_a_projection_by_hand():
    assumed = Assumed(models=3, images=32_000, classes=10, layers=4, dim=100, image_bytes=1000)
    lean = projected(["logme"], assumed)
    assert lean.passes == 3 * 32_000
    assert lean.read == 3 * 32_000 * 1000
    # 16 ranges of 2000 images: scatter D x D, and means of 10 classes and two rows.
    assert lean.written == 3 * 16 * 4 * 8 * (100 * 100 + 12 * 100)
    full = projected(["transrate"], assumed)
    # And the scatter of each class: 200 images in a range are more than 100 features.
    assert full.written - lean.written == 3 * 16 * 4 * 8 * 10 * 100 * 100
    total = 3 * (20.0 + 32_000 / 1000 + 16 * 4 * 8 * 11_200 / 1e9 + 16 * 4 * 8 * 11_200 / 1e9 + 8)
    assert lean.load.total == pytest.approx(total)


def test_a_projection_that_does_not_fit_is_refused():
    with pytest.raises(InvalidInputError, match="raise memory"):
        projected(["logme"], Assumed(memory=230 * MIB))


def test_the_report_says_what_was_found():
    text = scaling_table.text(table(), Assumed(models=20))
    assert "other processes took 25.0% of the cores meanwhile: other work ran" in text
    assert "ray: the driver grew by 3.0 MiB at N=256" in text
    assert "memory=1GiB: peak 50 MiB, held" in text
    assert "memory=9MB: peak 50 MiB, NOT HELD" in text
    assert "From 100 to 400: seconds grow as examples to the power of 1.00 ± 0.00" in text
    page = scaling_table.markdown(table(), "python -m tests.benchmarks.scaling", Assumed(models=20))
    assert "`python -m tests.benchmarks.scaling` on 20" in page
    assert "## Planned: 20 models on 1000000 images" in page
    for private in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert private not in page


def test_the_command_prints_and_writes(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scaling, "measure", lambda quick, tell: table())
    monkeypatch.setattr(projection, "SIZES", {64: projection.CONDITIONS[:1]})
    out = tmp_path / "scaling.md"
    argv = ["--quick", "--price", "7"]
    assert run(scaling.parser(), [*argv, "--out", str(out)]) == 0
    assert "7 an hour for a GPU" in capsys.readouterr().out.replace("\n", " ")
    assert "scaling --quick --throughput 1000 --price 7`" in out.read_text()
    assert run(scaling.parser(), [*argv, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {"part", "engine", "examples", "working", "worker", "driver"} <= set(records[0])
    assert run(scaling.parser(), ["--price", "-1"]) == 2
