"""Data on the command line: samples of tasks, what a task holds, and what cannot be one."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transfer_metrics.__main__ import main

MODEL = "zoo:cnn-mnist"


def run(capsys, *argv):
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_rank_on_a_sample(capsys, tmp_path: Path) -> None:
    argv = ["rank", "--models", MODEL, "--task", "sklearn:digits", "--metrics", "knn"]
    argv += ["--examples", "60", "--no-plots", "--quiet", "--json"]
    status, out, _ = run(capsys, *argv, "--out", tmp_path / "a")
    records = json.loads(out)
    assert status == 0
    assert {r["n"] for r in records} == {60}
    assert {r["task"] for r in records} == {"sklearn:digits?examples=60&seed=0"}
    repeat = ["rank", "--config", tmp_path / "a" / "run.yaml", "--out", tmp_path / "b", "--json"]
    assert [r["value"] for r in json.loads(run(capsys, *repeat)[1])] == [
        r["value"] for r in records
    ]
    _, other, _ = run(capsys, *argv, "--seed", 1, "--out", tmp_path / "c")
    assert [r["value"] for r in json.loads(other)] != [r["value"] for r in records]


@pytest.mark.parametrize(
    "argv",
    [
        ["layers", "--model", MODEL, "--metrics", "knn"],
        ["extract", "--model", MODEL, "--out", "{}/store"],
        ["select", "--model", MODEL, "--by", "knn"],
        ["train", "--model", MODEL, "--out", "{}/head"],
        pytest.param(
            ["compare", "--models", MODEL, "--heads", "linear_probe", "--out", "{}/c"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_verb_with_a_task_takes_a_sample(capsys, tmp_path: Path, argv) -> None:
    argv = [a.format(tmp_path) for a in argv]
    status, _, err = run(
        capsys, *argv, "--task", "sklearn:digits", "--examples", 40, "--seed", 2, "--quiet"
    )
    assert status == 0, err
    # Ten classes, nine examples: every verb finds out, so every verb has looked at the option.
    status, _, err = run(capsys, *argv, "--task", "sklearn:digits", "--examples", 9, "--quiet")
    assert status == 2
    assert "examples=10, or more" in err


def test_samples_that_make_no_sense(capsys, tmp_path: Path) -> None:
    digits = ["layers", "--model", MODEL, "--task", "sklearn:digits"]
    for argv, message in [
        (["layers", "--store", tmp_path, "--examples", 5], "leave --examples out"),
        (["select", "--store", tmp_path, "--by", "knn", "--examples", 5], "leave --examples out"),
        ([*digits, "--split", "test", "--examples", 50], "--split test is used"),
    ]:
        status, _, err = run(capsys, *argv)
        assert (status, message in err) == (2, True), err


def test_what_a_task_holds(capsys, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,label,split\na,x,train\nb,y,train\nc,x,train\nd,y,test\n")
    status, out, _ = run(capsys, "list", "tasks", f"csv:{tmp_path / 't.csv'}")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines == [
        ["classification", "of", "text", "examples"],
        ["train", "3"],
        ["test", "1"],
        ["2", "classes", "train", "test"],
        ["x", "2", "0"],
        ["y", "1", "1"],
    ]


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    return stream.getvalue()


def prepare(folder: Path) -> None:
    """Everything that people give by mistake."""
    (folder / "empty").mkdir()
    (folder / "one" / "a").mkdir(parents=True)
    (folder / "one" / "a" / "0.png").write_bytes(png())
    (folder / "pic.png").write_bytes(png())
    (folder / "zero").write_bytes(b"")
    (folder / "noise").write_bytes(np.random.default_rng(0).bytes(500))
    (folder / "header.csv").write_text("text,label\n")
    (folder / "same.csv").write_text("text,label\na,x\nb,x\n")
    (folder / "away.csv").write_text("image,label\n/etc/a.png,x\n/etc/b.png,y\n")
    np.save(folder / "x.npy", np.eye(3))
    np.savez(folder / "none.npz")
    torch.save(torch.eye(3), folder / "x.pt")
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a.txt", "a")


@pytest.mark.parametrize(
    "spec",
    [
        *(
            f"{source}:{{}}/{name}"
            for source in ("imagefolder", "csv", "jsonl", "parquet", "tar", "npz", "torch")
            for name in ("absent", "empty", "one", "pic.png", "zero", "noise", "a.zip")
        ),
        *(f"csv:{{}}/{name}.csv" for name in ("header", "same", "away")),
        "npz:{}/x.npy",
        "npz:{}/none.npz",
        "torch:{}/x.pt",
        "torchvision:CIFAR10?root={}",
        "torchvision:Nothing",
        "sklearn:nothing",
        "zoo:nothing",
        "nothing:at-all",
        "{}/header.csv",
        "csv:",
        "csv:{}/same.csv?missing=drop",
        "csv:{}/same.csv?label=none",
        "csv:{}/same.csv?labels=text",
        "csv:{}/same.csv?examples=",
        "sklearn:digits?test_size=0.2",
    ],
)
def test_wrong_tasks_are_told_in_one_sentence(capsys, tmp_path: Path, spec: str) -> None:
    prepare(tmp_path)
    status, out, err = run(capsys, "layers", "--model", MODEL, "--task", spec.format(tmp_path))
    lines = [line for line in err.splitlines() if "warning" not in line]
    assert (status, out, len(lines)) == (2, "", 1), err
    assert lines[0].startswith("transfer-metrics: ")
    assert "--debug" not in lines[0], "nobody foresaw this"
    # What was wrong, and after a semicolon, or as a suggestion, what to do.
    assert (
        ";" in lines[0]
        or "did you mean" in lines[0]
        or "known:" in lines[0]
        or ": write" in lines[0]
    ), lines[0]
