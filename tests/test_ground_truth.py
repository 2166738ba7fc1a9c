"""Ground truth runs: complete, resumable, and not stopped by one failure."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.evidence import ground_truth
from transfer_metrics.heads.splits import complete_task

HEADS = ("linear_probe(C_grid=(0.01, 1.0))", "head2toe(keep=0.05, steps=5)")
MODELS = ["zoo:cnn-mnist", "zoo:mixer-usps"]
TASK = "sklearn:digits?examples=300"
MEASURED = {
    "task": TASK, "head": "linear_probe", "seed": 0, "metric": "accuracy", "split": "test",
    "value": 0.5, "n": 60, "error": None,
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*judging a metric by a ground truth takes")


@pytest.fixture
def options(tmp_path: Path) -> dict:
    return {"heads": HEADS, "seeds": 2, "cache_dir": tmp_path / "cache", "progress": False}


def accuracies(table: tm.Comparison) -> dict[tuple, float]:
    return {
        (r["model"], r["task"], r["head"].partition("(")[0], r["seed"]): r["value"]
        for r in table.records
        if r["metric"] == "accuracy"
    }


@pytest.mark.integration
def test_every_pair_has_every_head_and_seed(tmp_path: Path, options: dict) -> None:
    table = ground_truth.run(MODELS, TASK, tmp_path / "t.jsonl", **options)
    found = accuracies(table)
    assert set(found) == {
        (model, TASK, head, seed)
        for model in MODELS
        for head, seed in (("linear_probe", 0), ("head2toe", 0), ("head2toe", 1))
    }
    task = complete_task(tm.load_task(TASK), validation=ground_truth._VALIDATION)
    probe = tm.LinearProbe(C_grid=(0.01, 1.0)).fit(MODELS[0], task)
    # Alone it reads fewer layers, so that its features differ by rounding.
    alone = pytest.approx(probe.score(task), abs=1.5 / len(task["test"]))
    assert found[MODELS[0], TASK, "linear_probe", 0] == alone
    assert len(table.summary()) == 4


@pytest.mark.integration
def test_interrupted_it_goes_on_and_finished_it_computes_nothing(
    tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared, compare = [], ground_truth.compare

    def counting(model, task, *args, **kwargs):
        compared.append(model[0].name)
        if len(compared) == 2:
            raise KeyboardInterrupt
        return compare(model, task, *args, **kwargs)

    monkeypatch.setattr(ground_truth, "compare", counting)
    out = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ground_truth.run(MODELS, TASK, out, **options)
    with open(out, "ab") as file:
        file.write(b'{"model": "zoo:mixer-usps", "task": "skl')  # killed while writing
    assert {key[0] for key in accuracies(ground_truth.load(out))} == {MODELS[0]}
    table = ground_truth.run(MODELS, TASK, out, **options)
    # The second seed comes after the first has all pairs.
    assert compared == [*MODELS, MODELS[1], *MODELS]
    again = ground_truth.run(MODELS, TASK, out, **options)
    assert len(compared) == 5
    assert again.records == table.records
    assert len(accuracies(again)) == 6


def test_a_failed_pair_stops_no_other_and_is_tried_again(tmp_path: Path, options: dict) -> None:
    out = tmp_path / "t.jsonl"
    models = ["zoo:nothing", "zoo:cnn-mnist"]
    for _ in range(2):
        table = ground_truth.run(models, TASK, out, **options)
        assert [r["model"] for r in table.failures] == ["zoo:nothing"]
        assert {key[0] for key in accuracies(table)} == {"zoo:cnn-mnist"}
    mended = {**table.failures[0], "head": "h", "seed": 0, "metric": "accuracy", "split": "test"}
    broken = {**table.failures[0], "head": "h", "seed": 0}
    ground_truth.append_lines(out, [broken, {**mended, "error": None, "value": 0.5}])
    assert ("h", 0) not in {(r["head"], r["seed"]) for r in ground_truth.load(out).failures}


def test_files_that_are_something_else(tmp_path: Path, options: dict) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("not json\n")
    with pytest.raises(CorruptStoreError, match="line 1 of"):
        ground_truth.run(MODELS, TASK, path, **options)
    assert path.read_text() == "not json\n"
    with pytest.raises(InvalidInputError, match="cannot read"):
        ground_truth.load(tmp_path / "missing.jsonl")
    with pytest.raises(InvalidInputError, match="at least one task"):
        ground_truth.run(MODELS, [], path, **options)


def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "t.jsonl"
    status = main([
        "benchmark", "run", "--models", "zoo:cnn-mnist", "--tasks", TASK,
        "--heads", HEADS[0], "--out", str(out), "--quiet",
    ])  # fmt: skip
    assert status == 0
    assert "zoo:cnn-mnist" in capsys.readouterr().out
    assert len(accuracies(ground_truth.load(out))) == 1


def test_too_few_models_to_learn_from_are_told_before_the_work(
    tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WorkBegins(Exception):
        pass

    def no_work(*args, **kwargs):
        raise WorkBegins

    monkeypatch.setattr(ground_truth, "compare", no_work)
    path = tmp_path / "t.jsonl"
    with pytest.raises(WorkBegins), pytest.warns(tm.errors.TransferMetricsWarning) as told:
        ground_truth.run(MODELS, TASK, path, **options)
    assert str(told[0].message).startswith("2 models: judging a metric by a ground truth takes 3")
    assert "takes 5" in str(told[0].message)
    # Those of earlier runs count.
    known = [{**MEASURED, "model": f"m{i}"} for i in range(3)]
    ground_truth.append_lines(path, known)
    with warnings.catch_warnings(record=True) as told, pytest.raises(WorkBegins):
        ground_truth.run(MODELS, TASK, path, **options)
    assert not told


def test_too_few_models_are_refused_before_they_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, scores = tmp_path / "t.jsonl", tmp_path / "s.jsonl"
    ground_truth.append_lines(truth, [{**MEASURED, "model": m} for m in MODELS])
    assert main(["benchmark", "build", str(truth), "--scores", str(scores)]) == 2
    assert "no task has accuracies of more than 2 models" in capsys.readouterr().err
    assert not scores.exists()
