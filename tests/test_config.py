"""Options from files, and what a run would take."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.ranking.forecast import forecast

RANK = ["rank", "--models", "zoo:cnn-mnist,zoo:vit-mnist", "--task", "sklearn:digits", "--quiet"]
RANK += ["--examples", "150"]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_is_repeated_from_what_it_wrote(capsys: pytest.CaptureFixture) -> None:
    options = ["--metrics", "knn(k=1),lfc", "--layers", "last", "--no-plots", "--out", "first"]
    assert main([*RANK, *options]) == 0
    first = capsys.readouterr().out
    assert main(["rank", "--config", "first/run.yaml", "--out", "second", "--quiet"]) == 0
    assert capsys.readouterr().out == first
    tables = [tm.ScoreTable.load(f"{name}/scores.jsonl") for name in ("first", "second")]
    values = [[(r["model"], r["metric"], r["value"]) for r in t.records] for t in tables]
    assert values[0] == values[1]
    assert not list(Path("second").glob("*.png"))
    again = Path("second/run.yaml").read_text("utf-8")
    assert again == Path("first/run.yaml").read_text("utf-8").replace("first", "second")


def test_the_command_line_wins(capsys: pytest.CaptureFixture) -> None:
    Path("c.yaml").write_text(
        "models: [zoo:cnn-mnist, zoo:vit-mnist]\ntask: sklearn:digits\nmetrics: lfc\n"
        "layers: last\nexamples: 150\nno_plots: true\njson: true\nquiet: true\n"
    )
    assert main(["rank", "--config", "c.yaml", "--metrics", "knn"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {(r["model"], r["metric"]) for r in records} == {
        ("zoo:cnn-mnist", "knn"),
        ("zoo:vit-mnist", "knn"),
    }


def test_a_config_counts_whatever_stands_before_the_verb(capsys: pytest.CaptureFixture) -> None:
    Path("c.yaml").write_text("metrics: lfc\nlayers: last\njson: true\n")
    run = ["--threads", "1", "rank", "--config", "c.yaml", "--models", "zoo:cnn-mnist"]
    assert main([*run, "--task", "sklearn:digits", "--examples", "50"]) == 0
    assert {r["metric"] for r in json.loads(capsys.readouterr().out)} == {"lfc"}


@pytest.mark.parametrize(
    "command",
    [
        ["rank", "--models", "zoo:cnn-mnist", "--models", "zoo:vit-mnist", "--task", "zoo:glyphs"],
        ["rank", "--models=zoo:cnn-mnist", "--mod", "zoo:vit-mnist", "--task", "zoo:glyphs"],
        ["cache", "clear", "--only", "pixels", "--only", "features"],
        ["benchmark", "run", "--tasks", "zoo:glyphs", "--tasks", "sklearn:digits"],
    ],
)
def test_an_option_that_is_given_twice_is_refused(
    command: list[str], capsys: pytest.CaptureFixture
) -> None:
    assert main(command) == 2
    assert " is given twice, and only one can count; give it once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("metric: knn", "unknown option in c.yaml 'metric'; did you mean 'metrics'"),
        ("- models", "must map options to values"),
        ("models: [", "is no YAML"),
        ("no-plots: perhaps", "true or false, not 'perhaps'"),
        ("models: {a: b}", "a value or a list"),
        ("models: !!python/object/apply:os.system ['touch owned']", "is no YAML"),
        ("config: other.yaml", "unknown option in c.yaml 'config'"),
        ("a" * (1 << 20) + "a", "at most 1,048,576 are read"),
        ("[" * 2_000, "is no YAML"),
        ("1: 2", "must map options to values"),
        ("metrics: knn\nmetrics: lfc", "c.yaml has metrics twice; keep one"),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(
    text: str, told: str, capsys: pytest.CaptureFixture
) -> None:
    Path("c.yaml").write_text(text)
    assert main([*RANK, "--config", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1
    assert not Path("owned").exists()


def test_a_file_that_cannot_be_read(capsys: pytest.CaptureFixture) -> None:
    assert main([*RANK, "--config", "absent.yaml"]) == 2
    assert "cannot read absent.yaml (No such file" in capsys.readouterr().err
    Path("c.yaml").write_bytes(b"\xff\xfe\x00")
    assert main([*RANK, "--config", "c.yaml"]) == 2
    assert "cannot read c.yaml" in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", "cache")
    models = "zoo:cnn-mnist,zoo:absent"
    command = ["rank", "--models", models, "--task", "sklearn:digits", "--quiet", "--dry-run"]
    assert main(command) == 1
    printed = capsys.readouterr()
    assert "zoo:cnn-mnist" in printed.out
    assert "would fail: zoo:absent: unknown zoo model" in printed.err
    assert list(Path().iterdir()) == []
    assert main([*command, "--json"]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert (good["layers"], good["error"], bad["layers"]) == (5, None, 0)


def test_forecast_agrees_with_the_run() -> None:
    task = tm.load_task("sklearn:digits", examples=150)
    (found,) = forecast("zoo:cnn-mnist", task, layers="blocks", progress=False)
    store = tm.extract("zoo:cnn-mnist", task, progress=False)
    assert found.layers == len(store.layers)
    assert found.bytes == sum(store[layer.name].nbytes for layer in store.layers)
    assert found.params == sum(
        p.numel() for p in tm.load_model("zoo:cnn-mnist").module.parameters()
    )
    assert 0 < found.seconds < 600


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_verbs_and_options(shell: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--print-completion", shell])
    assert stopped.value.code == 0
    script = capsys.readouterr().out
    for word in ("rank", "benchmark", "--budget", "--dry-run"):
        assert word in script
    checker = shutil.which(shell)
    if checker:
        assert subprocess.run([checker, "-n"], input=script, text=True, check=False).returncode == 0


def test_completion_says_what_it_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "pip install shtab" in capsys.readouterr().err
