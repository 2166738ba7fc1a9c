"""Every mistake on the command line is one sentence: for every verb and every option it has.

The cases come from the parsers themselves, those of ``tests.benchmarks`` too. A new verb needs a
line in ``VALID``, a new option one in ``WRONG`` or ``FREE``; without it the first test fails.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import transfer_metrics as tm
from tests.benchmarks import extraction, scaling, selection, speed
from tests.benchmarks.command import above_zero
from transfer_metrics.__main__ import build_parser, main, run, sentence
from transfer_metrics.cli.options import _confidence, count, positive, share

MODEL, TASK = "zoo:vit-mnist", "zoo:glyphs"
NETWORK = {"model": MODEL, "task": TASK, "layers": "last"}
RANKING = {"models": MODEL, "task": TASK, "layers": "last"}
# Options with which each verb would run. An option is tried with the first set that has it, else
# with the last one.
VALID: dict[str, tuple[dict[str, str], ...]] = {
    "rank": ({**RANKING, "out": "new"},),
    "transfer": ({"models": MODEL, "task": TASK, "metrics": "knn", "out": "new"},),
    "layers": ({"store": "store", "metrics": "knn"}, NETWORK),
    "extract": ({**NETWORK, "out": "new"},),
    "score": (
        {"features": "x.npy", "labels": "y.npy"},
        {"source": "x.npy", "features": "x.npy", "labels": "y.npy", "metrics": "leep"},
    ),
    "select": ({"store": "store", "by": "knn"}, {**NETWORK, "by": "knn"}),
    "train": (
        {"model": MODEL, "task": TASK, "head": "linear_probe", "out": "new"},
        {"source": "scores.jsonl", "out": "new"},
        {"features": "chosen.json", "out": "new"},
        {"model": MODEL, "task": TASK, "layers": "last", "out": "new"},
    ),
    "predict": ({"head": "trained", "inputs": "photo.png"},),
    "export": ({"head": "trained", "task": TASK, "out": "new.onnx"},),
    "compare": (
        {"models": MODEL, "task": TASK, "heads": "linear_probe", "seeds": "1", "out": "new"},
    ),
    "report": ({"files": "scores.jsonl", "out": "new.html"}, {**RANKING, "out": "new.html"}),
    "list": ({"what": "layers", "name": MODEL},),
    "cache": ({"action": "show"},),
    "benchmark run": ({"models": MODEL, "tasks": TASK, "out": "new.jsonl"},),
    "benchmark build": ({"truth": "scores.jsonl", "scores": "new.jsonl"},),
    "benchmark published": ({},),
    "tests.benchmarks.extraction": ({},),
    "tests.benchmarks.speed": ({"sizes": "100x8x2"},),
    "tests.benchmarks.selection": ({"features": "100", "examples": "50", "classes": "2"},),
    "tests.benchmarks.scaling": ({},),
}
FILES = ("absent/at/all", "folder", "empty", "binary", "locked")
# Wrong values of an option by its name; a file that cannot be read or written is one of FILES.
NAMES = ("", ",", "nonsense", "zoo:*(x", "a\tb\x1b[31m")
MODELS = (*NAMES, "zoo:nothing*", "nowhere:x", "zoo:vit-mnst", "timm:no_such_net", "hf:./absent")
TASKS = (
    *("", "nonsense", "nowhere:x", "sklearn:digit", "zoo:absent"),
    *(f"{kind}:{file}" for kind in ("imagefolder", "csv", "npz") for file in FILES),
)
WRONG: dict[str, tuple[str, ...]] = {
    "models": MODELS,
    "model": MODELS,
    "task": TASKS,
    "tasks": TASKS,
    "metrics": (*NAMES, "knm", "knn(k=0)", "knn(k=x)", "knn(", "knn(j=1)", "knn(1)"),
    "by": (*NAMES, "knm", "knn(k=0)"),
    "heads": (*NAMES, "linear_prob", "linear_probe(x=1)", "linear_probe("),
    "head": (*NAMES, "linear_prob", "linear_probe(x=1)", "linear_probe("),
    "layers": ("", ",", "nonsense", "-1:x"),
    "pool": ("", "avgg", "avg("),
    "split": ("", "trein"),
    "device": ("", "cudda", "cuda:99", "mps:x"),
    "ood": ("", "x", "x=", "=x", "x=nowhere:y", "x=corrupted:none:1", "x=corrupted:blur:9"),
    "engine": ("", "nonsense", "serail"),
    "threads": ("0", "-1", "1.5", "x", "9999"),
    "memory": ("", "x", "-1", "2 cows", "1"),
    "time": ("x", "0", "-1", "nan", "30 cows", "infm", ""),
    "sizes": ("", "x", "10", "10x2", "0x0x0", "10x-2x2"),
    "names": ("nonsense", ""),
    "name": ("nonsense*(",),
    "seed": ("x", "1.5", "-1"),
    "shard_size": ("x", "0", "-1"),
    "config": (*FILES, "list.yaml"),
    "evidence": (*FILES, "text.jsonl", "x.npy"),
    "prior": (*FILES, "text.jsonl", "x.npy"),
    "store": (*FILES, "x.npy"),
    "features": (*FILES, "text.npy", "objects.npy", "half.npz", "flat.npy", "nan.npy"),
    "labels": (*FILES, "text.npy", "objects.npy", "half.npz", "short.npy"),
    "source": (*FILES, "text.npy", "objects.npy", "half.npz", "short.npy"),
    "files": (*FILES, "list.yaml", "x.npy", "text.jsonl", "empty.jsonl", "folder.jsonl"),
    "truth": (*FILES, "text.jsonl", "empty.jsonl", "folder.jsonl"),
    "scores": ("folder.jsonl", "empty/x.jsonl", "text.jsonl"),
    "out": ("empty/new", "empty/deep/new"),
    "plot": ("new.xyz", "empty/new.png", "new"),
}
# Where an option means another thing to one verb.
WRONG_FOR = {
    ("select", "features"): ("x",),
    ("select", "out"): ("empty/new", "folder"),
    ("predict", "head"): (*FILES, "x.npy", ""),
    ("export", "head"): (*FILES, "x.npy", ""),
    ("predict", "inputs"): ("absent/at/all.png", "folder", "x.npy", ""),
    ("export", "out"): ("empty/new.onnx", "folder", "new.xyz", "new"),
    ("report", "out"): ("empty/new", "folder"),
    ("list", "name"): MODELS,
    ("compare", "metrics"): (*NAMES, "knm", "knn(k=x)", "knn(", "knn(j=1)", "knn(1)"),
    ("tests.benchmarks.selection", "features"): ("x", "0", "-1", ""),
    ("benchmark run", "out"): ("empty/new", "folder", "text.jsonl"),
    ("tests.benchmarks.speed", "out"): ("empty/new", "folder"),
    ("tests.benchmarks.selection", "out"): ("empty/new", "folder"),
    ("tests.benchmarks.scaling", "out"): ("empty/new", "folder"),
    ("benchmark published", "out"): ("empty/new", "folder"),
    ("benchmark build", "out"): ("empty/new", "folder"),
    ("benchmark build", "scores"): ("folder.jsonl", "empty/x.jsonl"),
}
# Any text will do.
FREE = {"title", "help", "debug"}
NUMBERS = {positive: ("0", "-1", "1.5", "x", ""), count: ("-1", "1.5", "x", ""),
           above_zero: ("0", "-1", "x", "nan", "inf", ""),
           share: ("0", "1.1", "-1", "x", "nan", ""),
           _confidence: ("0", "1", "1.1", "-1", "x", "nan", "")}  # fmt: skip
ACTION = re.compile(r"; |did you mean|choose from|needs|must|write|give|use |as in ")


def leaves(
    parser: argparse.ArgumentParser, name: str = ""
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every verb with its parser, those of ``benchmark`` apart."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield name.strip(), parser
    for action in below:
        for verb, one in action.choices.items():
            yield from leaves(one, f"{name} {verb}")


COMMANDS = {f"tests.benchmarks.{one.__name__.rpartition('.')[2]}": one.parser() for one in
            (extraction, speed, selection, scaling)}  # fmt: skip
PARSER = build_parser()
LEAVES = {**dict(leaves(PARSER)), **COMMANDS}
OPTIONS = {
    (verb, a.dest): a
    for verb, parser in LEAVES.items()
    for a in parser._actions
    if a.dest not in FREE and a.nargs != 0
}


def wrong_values(verb: str, action: argparse.Action) -> tuple[str, ...] | None:
    if action.choices is not None and action.dest != "features":
        return ("nonsense", "")
    number = NUMBERS.get(action.type)
    return WRONG_FOR.get((verb, action.dest), number or WRONG.get(action.dest))


def command(verb: str, dest: str, value: str) -> list[str]:
    """A valid command with one option replaced."""
    sets = VALID[verb]
    options = {**next((s for s in sets if dest in s), sets[-1]), dest: value}
    if (verb, dest) == ("select", "features"):
        del options["by"]
    argv = [] if verb in COMMANDS else verb.split()
    for name, given in options.items():
        strings = OPTIONS[verb, name].option_strings
        argv += [f"{strings[-1]}={given}"] if strings else [given]
    return [*argv, "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that can be wrong with a file."""
    root = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    (root / "folder").mkdir()
    (root / "folder.jsonl").mkdir()
    for name in ("empty", "empty.jsonl"):
        (root / name).write_bytes(b"")
    (root / "binary").write_bytes(rng.bytes(2000))
    (root / "locked").write_text("secret")
    (root / "locked").chmod(0)
    (root / "list.yaml").write_text("- models")
    for name in ("text.npy", "text.jsonl"):
        (root / name).write_text("these are words, not numbers\n")
    np.save(root / "x.npy", rng.normal(size=(40, 5)))
    np.save(root / "y.npy", np.arange(40) % 2)
    np.save(root / "short.npy", np.arange(7))
    np.save(root / "flat.npy", np.arange(40.0))
    np.save(root / "nan.npy", np.full((40, 5), np.nan))
    np.savez(root / "half.npz", Z=np.ones((3, 2)))
    np.save(root / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    store = tm.extract(MODEL, TASK, layers="last", out=root / "store", progress=False)
    tm.score_layers(store, metrics="knn").save(root / "scores.jsonl")
    tm.LinearProbe(C_grid=(1.0,)).fit(MODEL, TASK).save(root / "trained")
    Image.new("L", (32, 32)).save(root / "photo.png")
    return root


@contextmanager
def as_anyone() -> Iterator[None]:
    """Without the administrator's right to read every file, where the tests have it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held, fewer = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    known = hasattr(libc, "capget") and libc.capget(header, held) == 0
    if known:
        fewer[:] = held[:]
        fewer[0] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of those in effect
        libc.capset(header, fewer)
    try:
        yield
    finally:
        if known:
            libc.capset(header, held)


def test_every_option_of_every_verb_has_wrong_values():
    assert set(LEAVES) == set(VALID)
    missing = [key for key, action in OPTIONS.items() if wrong_values(key[0], action) is None]
    assert not missing


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("verb", "dest"), OPTIONS)
def test_a_wrong_value_is_one_sentence(verb, dest, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    complaints = []
    for value in wrong_values(verb, OPTIONS[verb, dest]) or ():
        with as_anyone():
            status = run(COMMANDS.get(verb) or PARSER, command(verb, dest, value))
        out, err = capsys.readouterr()
        told = [line for line in err.splitlines() if ": warning: " not in line]
        new = sorted(set(place.rglob("*")) - set(before))
        parts = [part for part in re.split(r"[/:=(),*]", value) if part.isprintable()]
        wrong = {
            f"status {status}": status != 2,
            "not one line": len(told) != 1 or not "".join(told).isprintable(),
            "a bug": "Traceback" in err or "this is a bug" in err,
            "no name": any(parts) and not any(part in err for part in parts if part),
            "no action": not ACTION.search(err),
            "a name of ours": bool(re.search(r"invalid _\w+ value", err)),
            f"printed {out!r}": bool(out),
            f"left {new}": bool(new),
        }
        complaints += [f"{value!r}: {what}: {err}" for what, is_so in wrong.items() if is_so]
        for path in new:
            path.unlink() if path.is_file() else None
    assert not complaints, "\n".join(complaints)


def test_what_nobody_foresaw_is_one_sentence_and_a_traceback_on_demand(capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("first line\nsecond\x1b[31m line")

    monkeypatch.setattr("transfer_metrics.sources.tasks.load_task.list_tasks", broken)
    for argv in (["list", "tasks"], ["list", "tasks", "--quiet"]):
        assert main(argv) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("transfer-metrics: RuntimeError: first line second")
        assert line.endswith("run again with --debug for the traceback")
        assert "\x1b" not in line
    for argv in (["list", "tasks", "--debug"], ["--debug", "list", "tasks"]):
        assert main(argv) == 2
        assert 'in broken\n    raise RuntimeError("first' in capsys.readouterr().err


def test_debug_shows_where_a_mistake_was_noticed(capsys, tmp_path):
    assert main(["score", "--features", str(tmp_path / "absent.npy"), "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("transfer-metrics: ")
    assert main(["--debug", "rank", "--config", str(tmp_path / "absent.yaml")]) == 2
    assert "absent.yaml" in capsys.readouterr().err.splitlines()[-1]


def test_a_file_with_the_name_of_a_module_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error = ImportError("cannot import name 'Random'", path=str(tmp_path / "random.py"))
    assert "random.py in this folder is taken for Python's own module" in sentence(error)
    assert "this is a bug" in sentence(ImportError("other", path=str(tmp_path / "mine.py")))


def test_what_the_machine_refuses_is_no_bug(tmp_path, capsys):
    tm.ScoreTable([{"model": "a", "metric": "knn", "value": 0.5}]).save(tmp_path / "s.jsonl")
    assert main(["report", str(tmp_path / "s.jsonl"), "--out", f"{tmp_path}/{'x' * 300}.html"]) == 2
    told = capsys.readouterr().err
    assert "File name too long; give a shorter name" in told
    assert "this is a bug" not in told
    full = sentence(OSError(errno.ENOSPC, "No space left on device"))
    assert full == "No space left on device; make room, or write elsewhere"


@pytest.mark.parametrize("verb", ["train", "layers"])
def test_a_list_of_models_where_one_is_needed(verb: str, capsys) -> None:
    out = ["--out", "o"] if verb == "train" else []
    assert main([verb, "--model", "@models.txt", "--task", "sklearn:digits", *out]) == 2
    assert "is a list of models; name one of them here" in capsys.readouterr().err
