"""The benchmarks run, and say what they measured."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import transfer_metrics as tm
from tests.benchmarks import cost, extraction, listings, peers, pipeline, speed, speed_table
from tests.benchmarks.cost import interleaved
from tests.benchmarks.examples import Size, features, probabilities
from tests.benchmarks.speed_table import OURS, PRODUCT, TOGETHER, Row, SpeedTable
from transfer_metrics.__main__ import main, run
from transfer_metrics.evidence.layout import describe

pytestmark = pytest.mark.integration

SMALL = Size(90, 12, 3)
SAME = [p for p in peers.PEERS if p.tolerance is not None]


def inputs(metric, size=SMALL):
    x, y = probabilities(size) if metric in peers.SOURCE else features(size)
    return x.astype(np.float64), y


def ours(metric, x, y):
    return tm.score(x, y, [metric]).records[0]["value"]


def peer(metric, name):
    return next(p for p in peers.PEERS if (p.metric, p.name) == (metric, name))


@pytest.fixture(scope="module")
def table():
    return speed.measure([SMALL, Size(60, 70, 4)], rounds=2, limit=60, memory=False)


def test_times_are_taken_in_turn():
    order = []
    times = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert {len(t) for t in times.values()} == {3}


@pytest.mark.parametrize("size", [SMALL, Size(64, 100, 4)], ids=str)
@pytest.mark.parametrize("other", SAME, ids=lambda p: f"{p.metric}-{p.name}")
def test_the_race_is_about_the_same_number(other, size):
    if other.package and (told := peers.absent(other.package)):
        pytest.skip(told)
    x, y = inputs(other.metric, size)
    assert other.run(x, y) == pytest.approx(ours(other.metric, x, y), rel=other.tolerance)


def test_peers_of_other_definitions_are_near():
    x, y = inputs("logme")
    for gram in (False, True):
        assert listings.logme(x, y, gram) == pytest.approx(ours("logme", x, y), rel=0.02)
    # The same accuracy at every strength, of which it takes the best.
    assert 0 <= peers.ridge(x, y) - ours("ridge_probe", x, y) <= 0.1
    # With one neighbour there are no tied votes.
    assert peers.neighbours(x.astype(np.float32), y, k=1) == ours("knn(k=1)", x, y)


def test_every_metric_of_the_race_has_a_peer_that_needs_no_other_package():
    for metric in (*peers.SIX, *peers.PAIRWISE, *peers.SOURCE):
        assert any(p.metric == metric and not p.package for p in peers.PEERS), metric


def test_everything_is_timed_at_every_size(table):
    for size in table.sizes:
        assert table.metrics(size) == [*peers.SIX, *peers.PAIRWISE, *peers.SOURCE]
        assert all(table.seconds(size, name) > 0 for name in TOGETHER)
        assert table.seconds(size, PRODUCT, "numpy") > 0
        best = [table.best_other(size, metric).seconds for metric in peers.SIX]
        assert table.sum_of_others(size, peers.SIX) == pytest.approx(sum(best))
    ran = [row for row in table.rows if row.seconds is not None]
    assert {row.rounds for row in ran} == {2}
    assert {row.note for row in ran} == {""}
    assert not table.disagreements


def test_the_report_says_what_is_held_to_and_on_what(table):
    text = speed_table.text(table)
    assert "90x12x3: six together / sum of the best others: " in text
    assert re.search(r"60x70x4: transrate / X'X in numpy: [\d.e+]+ \(at most 1.5: ", text)
    assert re.search(r"60x70x4: five together / X'X in numpy: [\d.e+]+ \(at most 6: ", text)
    assert text.count("the fastest other: ") == 4
    page = speed_table.markdown(table, "python -m tests.benchmarks.speed --rounds 2")
    assert "`python -m tests.benchmarks.speed --rounds 2` on 20" in page
    assert page.count("| metric | seconds |") == 2
    for line in describe():
        assert line in text
        assert line in page
    for private in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert private not in page


def test_figures_of_the_report_follow_from_the_rows():
    size = Size(100, 10, 5)
    rows = [Row(size, PRODUCT, "torch", 1.0), Row(size, "six together", OURS, 5.0, peak=8)]
    rows += [Row(size, PRODUCT, "numpy", 0.5), Row(size, "five together", OURS, 4.0)]
    rows += [Row(size, metric, OURS, 1.0) for metric in (*peers.SIX, *peers.SOURCE)]
    rows += [Row(size, metric, "slow", 30.0) for metric in peers.SIX]
    rows += [Row(size, metric, "quick", 20.0) for metric in peers.SIX]
    rows += [Row(size, "leep", "quick", 0.1), Row(size, "nce", "large", note="needs 9 GB")]
    table = SpeedTable((size,), tuple(rows), 3, 30.0, 0.2)
    assert table.sum_of_others(size, peers.SIX) == 120.0
    assert speed_table.summary(table) == [
        "other processes took 20.0% of the cores meanwhile: TOO MUCH, "
        "run it again on a quiet machine",
        "100x10x5: six together / sum of the best others: 0.0417 (at most 0.1: met)",
        "100x10x5: transrate / X'X in numpy: 2 (at most 1.5: NOT MET)",
        "100x10x5: five together / X'X in numpy: 8 (at most 6: NOT MET)",
        "100x10x5: leep / the fastest other: 10 (at most 2: NOT MET)",
        "100x10x5: nce / the fastest other: not known, nothing to compare with",
    ]
    assert "six together  100x10x5  0        0" in speed_table.text(table)
    assert table.records[1]["to_product"] == 5.0


def test_a_slow_peer_is_measured_once_and_a_large_one_not_at_all():
    table = speed.measure([SMALL], rounds=2, limit=0.0, most_memory=1e5, memory=False)
    slow = next(r for r in table.rows if r.code == "the paper's listing")
    assert slow.rounds == 1
    assert slow.seconds > 0
    large = next(r for r in table.others(SMALL, "parc"))
    assert large.seconds is None
    assert large.note == "needs 0.0 GB for its N x N matrices; not run"
    assert {r.rounds for r in table.rows if r.code == OURS} == {2}
    assert table.best_other(SMALL, "parc") is None


def test_a_peer_that_fails_is_a_line_and_one_with_another_number_an_error(monkeypatch, capsys):
    def fails(x, y):
        raise MemoryError("no room")

    good = peer("transrate", "the paper's listing")
    broken = dataclasses.replace(good, name="broken", run=fails)
    monkeypatch.setattr(speed, "PEERS", (good, broken))
    table = speed.measure([SMALL], rounds=1, memory=False)
    assert [r.note for r in table.others(SMALL, "transrate")] == [
        "",
        "failed: MemoryError: no room",
    ]
    wrong = dataclasses.replace(good, name="wrong", run=lambda x, y: 1.01 * good.run(x, y))
    monkeypatch.setattr(speed, "PEERS", (wrong,))
    table = speed.measure([SMALL], rounds=1, memory=False)
    assert [r.code for r in table.disagreements] == ["wrong"]
    assert table.best_other(SMALL, "transrate") is None
    monkeypatch.setattr(speed, "peak", lambda metric, size: None)
    assert run(speed.parser(), ["--sizes", "90x12x3", "--rounds", "1"]) == 1
    assert "transrate: wrong: another number: " in capsys.readouterr().err


@pytest.mark.slow
def test_memory_is_that_of_a_process_of_its_own():
    n = 4000
    found = cost.peak("knn", Size(n, 32, 4))
    if found is None:
        pytest.skip("this system does not tell")
    assert 0 < found < 8 * n * n
    with pytest.raises(tm.TransferMetricsError, match="memory of nothing at 90x12x3"):
        cost.peak("nothing", SMALL)


@pytest.mark.parametrize("text", ["10x10", "10x10x", "1e3x10x2", "5x4x3", "9x9x1", "9x1x2"])
def test_sizes_that_mean_nothing_are_refused(text, capsys):
    assert run(speed.parser(), ["--sizes", text]) == 2
    assert "size" in capsys.readouterr().err


def test_the_command_prints_a_table_and_writes_a_page(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(speed, "peak", lambda metric, size: 12_000_000)
    argv = ["--sizes", "90x12x3", "--rounds", "1", "--limit", "9"]
    assert run(speed.parser(), [*argv, "--out", str(tmp_path / "docs" / "speed.md")]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^parc +90x12x3 +12 ", out, re.M)
    assert "wrote" in err
    page = (tmp_path / "docs" / "speed.md").read_text()
    command = "python -m tests.benchmarks.speed --sizes 90x12x3 --rounds 1 --limit 9"
    assert f"`{command}`" in page
    assert run(speed.parser(), [*argv, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {"n", "metric", "code", "seconds", "to_product", "difference"} <= set(records[0])
    assert run(speed.parser(), [*argv, "--csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == len(records)


def test_the_extraction_benchmark_prints_its_ratio():
    _, line = extraction.lines(n=2, sizes=(2,), repeats=1, networks=["resnet50"])
    assert re.match(r"resnet50: bare [\d.]+ s, extracting 18 layers [\d.]+ s, ratio [\d.]+$", line)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::transfer_metrics.errors.TransferMetricsWarning")
def test_the_pipeline_benchmark_gives_both_the_same_scores(capsys):
    pytest.importorskip("timm")
    argv = ["--photos", "40", "--models", "1", "--threads", "1"]
    assert run(pipeline.parser(), argv) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:8]] == [
        *("ranking", "script", "script", "ranking", "auto", "again", "limit"),
    ]
    for who in ("ranking", "auto"):
        assert re.search(rf"{who} / script, by the clock [\d.]+ \(at most 0.6\)", out)


def test_the_extraction_command_prints_its_lines(monkeypatch, capsys):
    monkeypatch.setattr(extraction, "lines", lambda: iter(["one", "two"]))
    assert run(extraction.parser(), []) == 0
    assert capsys.readouterr().out == "one\ntwo\n"
    assert run(extraction.parser(), ["--more"]) == 2


@pytest.mark.parametrize("name", ["extraction", "speed", "selection", "scaling"])
def test_what_is_of_the_repository_alone_is_no_command_of_the_package(name, capsys):
    for more in ([], ["--out", "page.md"], ["--help"]):
        assert main(["benchmark", name, *more]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "choose from 'run', 'build', 'published'" in line


def test_modules_run_as_commands():
    argv = [sys.executable, "-m", "tests.benchmarks.speed", "--sizes", "1x1"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "a size is written NxDxC" in done.stderr
