"""Consoles of any encoding, and readers that go away."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import transfer_metrics as tm
from transfer_metrics.__main__ import VERBS, main
from transfer_metrics.cli.console import console

ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "utf-8"]
TASK = "zoo:glyphs?examples=72"


def encoded(monkeypatch, encoding: str) -> tuple[io.BytesIO, io.BytesIO]:
    """Put streams of an encoding in the place of stdout and stderr; what they write comes back."""
    written = io.BytesIO(), io.BytesIO()
    for name, stream in zip(("stdout", "stderr"), written, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding, write_through=True))
    return written


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_an_encoding_lacks_is_replaced(monkeypatch, encoding: str) -> None:
    out, err = encoded(monkeypatch, encoding)
    text = "± × … – 日本 \udcff a"
    with console():
        print(text)
        print(text, file=sys.stderr)
    for stream in (out, err):
        shown = stream.getvalue().decode(encoding).rstrip()
        assert shown.endswith(r"\udcff a"), "nothing can write half a pair"
        if encoding == "ascii":
            assert shown == r"+- x ... - \u65e5\u672c \udcff a"
        if encoding == "utf-8":
            assert shown == r"± × … – 日本 \udcff a"
        if encoding == "cp1252":
            assert shown == r"± × … – \u65e5\u672c \udcff a"


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_every_help_can_be_shown(monkeypatch, encoding: str) -> None:
    for argv in (["--help"], *([verb, "--help"] for verb in VERBS)):
        out, _ = encoded(monkeypatch, encoding)
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        assert b"usage: transfer-metrics" in out.getvalue()


def test_a_ranking_on_an_ascii_console(monkeypatch, tmp_path: Path) -> None:
    out, err = encoded(monkeypatch, "ascii")
    argv = ["rank", "--models", "zoo:cnn-mnist,zoo:resnet-usps,zoo:none-ø", "--task", TASK]
    assert main([*argv, "--out", str(tmp_path)]) == 1
    table, said = out.getvalue().decode(), err.getvalue().decode()
    assert "+- 95 %" in table
    assert "36 classes: A x2, B x2, ... 9 x2" in table
    assert "36 classes: A x2, B x2, ... 9 x2" in said
    assert r"failed: zoo:none-\xf8" in said
    assert f"wrote {tmp_path}" in said
    names = {"scores.jsonl", "run.yaml", "ranking.png", "layers.png"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert "zoo:none-ø" in (tmp_path / "run.yaml").read_text("utf-8")
    models = {r["model"] for r in tm.ScoreTable.load(tmp_path / "scores.jsonl").records}
    assert models == {"zoo:cnn-mnist", "zoo:resnet-usps", "zoo:none-ø"}


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_data_on_an_ascii_console_lose_nothing(monkeypatch, tmp_path: Path, form: str) -> None:
    np.savez(
        tmp_path / "naïve.npz", X=np.random.default_rng(0).normal(size=(30, 12)), y=[0, 1] * 15
    )
    out, _ = encoded(monkeypatch, "ascii")
    assert main(["list", "tasks", f"npz:{tmp_path / 'naïve.npz'}", form]) == 0
    assert b"train" in out.getvalue()
    out, _ = encoded(monkeypatch, "ascii")
    assert main(["list", "tasks", f"npz:{tmp_path / 'naïve-none.npz'}", form]) == 2
    argv = ["rank", "--models", "zoo:none-é,zoo:cnn-mnist", "--task", TASK, "--no-plots", form]
    assert main([*argv, "--out", str(tmp_path / "o")]) == 1
    if form == "--json":
        assert "zoo:none-é" in {r["model"] for r in json.loads(out.getvalue())}
    else:
        assert rb"zoo:none-\xe9" in out.getvalue()


def test_errors_on_an_ascii_console(monkeypatch) -> None:
    _, err = encoded(monkeypatch, "ascii")
    assert main(["rank", "--models", "zoo:*", "--task", "npz:日本.npz"]) == 2
    assert r"there is no file '\u65e5\u672c.npz'" in err.getvalue().decode()
    assert err.getvalue().count(b"\n") == 1


def test_the_streams_are_put_back(monkeypatch) -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), console():
        print(1 / 0)
    assert (sys.stdout, sys.stderr) == before


@pytest.fixture
def unread() -> Iterator[io.TextIOWrapper]:
    """A stream whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(os.fdopen(writer, "wb", buffering=0), write_through=True) as stream:
        yield stream


def test_work_goes_on_when_nobody_reads_the_progress(
    monkeypatch, unread: io.TextIOWrapper, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stderr", unread)
    argv = ["rank", "--models", "zoo:cnn-mnist", "--task", TASK, "--no-plots"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    table = tm.ScoreTable.load(tmp_path / "scores.jsonl")
    assert len(table) > 0
    assert not table.failures


def script(line: str, **environment: str) -> subprocess.CompletedProcess:
    run = f"{sys.executable} -m transfer_metrics"
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('RUN', run)}"],
        capture_output=True, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip


@pytest.mark.integration
@pytest.mark.parametrize(
    "line",
    [
        "RUN rank --help | head -1",
        "RUN list metrics | true",
        "RUN list tasks zoo:glyphs 2>&1 | head -1",
        "RUN list tasks zoo:glyphs 2>&-",
    ],
)
def test_closed_pipes_and_streams(line: str) -> None:
    done = script(line)
    assert done.returncode == 0, done
    told = (b"zoo:glyphs: classification", b"next: transfer-metrics list metrics ")
    assert not done.stderr or done.stderr.startswith(told), done


def test_a_closed_stdout_is_refused(tmp_path: Path) -> None:
    done = script(f"cd {tmp_path}; RUN rank --models zoo:cnn-mnist --task sklearn:digits >&-")
    assert done.returncode == 2
    assert done.stderr == b"transfer-metrics: stdout is closed; say > /dev/null to see nothing\n"
    assert not [*tmp_path.iterdir()]


def test_a_console_of_the_locale_c() -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = script("RUN list tasks zoo:glyphs", **plain)
    assert done.returncode == 0, done
    assert b"36 classes: A " in done.stderr
