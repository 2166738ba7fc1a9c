"""The benchmark of selection runs, and says what it measured."""

from __future__ import annotations

import csv
import io
import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest

import transfer_metrics as tm
from tests.benchmarks import selection
from tests.benchmarks.selection import Row, SelectionTable, write_store
from transfer_metrics.__main__ import run
from transfer_metrics.evidence.layout import describe

pytestmark = pytest.mark.integration

ARGV = ["--features", "60", "--examples", "40", "--classes", "4"]


def row(features, seconds):
    return Row(features, 1000, 20, seconds, 2_000_000, 3e-7, 50, 700)


def in_this_process(monkeypatch):
    monkeypatch.setattr(selection, "_in_own_process", selection.select)


def test_the_store_is_one_and_its_later_layers_know_more(tmp_path):
    write_store(tmp_path, 2000, 300, 3)
    store = tm.FeatureStore.open(tmp_path)
    assert (len(store), sum(layer.dim for layer in store.layers)) == (300, 2000)
    assert np.bincount(store.labels).tolist() == [100] * 3
    first, last = store["layer00"], store["layer19"]
    assert first.dtype == np.float32
    assert min(first.min(), last.min()) == 0
    scores = tm.score_layers(store, metrics="h_score").wide()["h_score"].to_numpy()
    assert scores[-1] > scores[0]


def test_it_measures_in_a_process_of_its_own():
    table = selection.measure([60], 40, 4)
    (found,) = table.rows
    assert (found.features, found.examples, found.classes) == (60, 40, 4)
    assert found.seconds > 0
    assert found.kkt_residual <= 1e-6
    assert 0 < found.active <= 60
    assert found.peak is None or 0 <= found.peak < 200e6


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(tm.TransferMetricsError, match=r"the selection failed: .*manifest"):
        selection._in_own_process(tmp_path)


def test_the_exponent_is_that_of_the_largest_two():
    table = SelectionTable((row(100_000, 10.0), row(1000, 9.0), row(400_000, 80.0)))
    assert table.exponent == pytest.approx(1.5)
    assert SelectionTable((row(1000, 9.0),)).exponent is None
    assert SelectionTable((row(1000, 9.0), row(1000, 8.0))).exponent is None


def test_the_report_says_whether_it_is_fast_enough():
    lines = selection.summary(SelectionTable((row(1000, 1.0), row(500_000, 299.0)), 0.01))
    assert lines == [
        "other processes took 1.0% of the cores meanwhile",
        "between the two largest sizes seconds grow with the features to the power of 0.92",
        "500000 features of 1000 examples: 299 s (at most 300: met)",
    ]
    slow = selection.summary(SelectionTable((row(500_000, 301.0),)))
    assert slow == ["500000 features of 1000 examples: 301 s (at most 300: NOT MET)"]


def test_the_command_prints_a_table_and_writes_a_page(monkeypatch, capsys, tmp_path):
    in_this_process(monkeypatch)
    assert run(selection.parser(), [*ARGV, "--out", str(tmp_path / "docs" / "selection.md")]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^60 +40 +4 +[\d.]+ +\d+ +\d+ +\d+ +\de-\d\d$", out, re.M)
    assert "60 features: selecting" in err
    page = (tmp_path / "docs" / "selection.md").read_text()
    assert f"`python -m tests.benchmarks.selection {' '.join(ARGV)}` on 20" in page
    for line in describe():
        assert line in page
    for private in (platform.node(), str(Path.home()), str(Path.cwd())):
        assert private not in page
    assert run(selection.parser(), [*ARGV, "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert records[0]["features"] == 60
    assert run(selection.parser(), [*ARGV, "--csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--features", "10"], "40 features"),
        (["--features", "many"], "no whole number"),
        (["--features", "100", "--examples", "3"], "3 examples"),
        (["--features", "100", "--classes", "1"], "of 1 classes"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(argv, said, capsys):
    assert run(selection.parser(), argv) == 2
    assert said in capsys.readouterr().err
