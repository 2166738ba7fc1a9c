"""Files made to do harm: nothing is executed, nothing outside is written, sizes are bounded."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import re
import resource
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import transfer_metrics as tm
from tests.fuzz import Executed, guard, run
from tests.fuzz_targets import CHOICE, SHARD, TARGETS, Target, _made, _network, _records
from transfer_metrics.__main__ import main
from transfer_metrics.errors import (
    CorruptStoreError,
    InvalidInputError,
    TransferMetricsError,
    TransferMetricsWarning,
    UnknownNameError,
)
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.ranking.cache import ResultCache
from transfer_metrics.results.record import Record
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.example import decode
from transfer_metrics.sources.models.checkpoints import load_checkpoint
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.tasks.array_files import read_arrays
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.untrusted import DEEPEST, parse_json, visible, visible_lines

PACKAGE = Path(tm.__file__).parent
DEEP = "[" * 100_000 + "]" * 100_000
# Clears the screen, sets the window's title, turns the writing around, breaks the line.
STEERING = "net\x1b[2J\x1b]0;owned\x07\u202egnp\r\nexe"


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.fixture(autouse=True, scope="module")
def _valid_files() -> None:
    """Made before anything is watched."""
    for target in TARGETS.values():
        target.seeds()


def refused(target: str, data: bytes, folder: Path, match: str = "") -> str:
    """What a target says when it refuses; that it changes nothing outside is checked as well."""
    told = run(TARGETS[target], data, folder)
    assert told is not None, f"{target} took it"
    assert re.search(match, told), told
    assert len(told) < 3_000
    return told


# ---------------------------------------------------------------- nothing is executed


@pytest.mark.parametrize(
    "act",
    [
        lambda folder: pickle.loads(pickle.dumps(Payload(folder / "made"))),  # noqa: S301
        lambda folder: subprocess.run(["true"], check=True),
        lambda folder: (folder.parent / "outside").write_text(""),
        lambda folder: os.rename(folder / "a", folder.parent / "b"),
        lambda folder: os.system("true"),
    ],
)
def test_the_guard_sees_what_it_is_to_see(act: Callable, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").touch()
    with pytest.raises(Executed):
        guard(lambda data, folder: act(folder), b"", tmp_path / "in")
    guard(lambda data, folder: (folder / "inside").write_text(""), b"", tmp_path / "in")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_are_never_loaded(tmp_path: Path, protocol: int) -> None:
    payload = Payload(tmp_path / "owned")
    raw = pickle.dumps(payload, protocol)
    inside = io.BytesIO()
    torch.save({"0.weight": payload}, inside)
    legacy = io.BytesIO()
    torch.save({"0.weight": payload}, legacy, _use_new_zipfile_serialization=False)
    npy, npz = io.BytesIO(), io.BytesIO()
    np.save(npy, np.array([payload], dtype=object), allow_pickle=True)
    np.savez(npz, X=np.array([payload], dtype=object), y=[0])
    for target, data in [
        ("pt", raw), ("pt", inside.getvalue()), ("pt", legacy.getvalue()), ("npy", raw),
        ("npy", npy.getvalue()), ("npz", npz.getvalue()), ("safetensors", raw), ("shard", raw),
        ("statistic", raw), ("head_tensors", raw), ("training", raw), ("table_parquet", raw),
    ]:  # fmt: skip
        refused(target, data, tmp_path)
    (tmp_path / "t.pt").write_bytes(inside.getvalue())
    with pytest.raises(InvalidInputError, match="never executed"):
        load_task(f"torch:{tmp_path / 't.pt'}")
    (tmp_path / "o.npy").write_bytes(npy.getvalue())
    with pytest.raises(InvalidInputError, match="pickled"):
        read_arrays(tmp_path / "o.npy")
    assert not (tmp_path / "owned").exists()


def test_code_beside_a_model_is_never_run(tmp_path: Path, monkeypatch) -> None:
    """Unless it is told not to, transformers asks on the terminal; here the answer is yes."""
    pytest.importorskip("transformers")
    owned = tmp_path / "owned"
    code = f"open({str(owned)!r}, 'w')\nclass C:\n    pass\n"
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "evil.py").write_text(code)
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.C"}}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(InvalidInputError, match="custom code"):
        load_model(f"hf:{tmp_path / 'm'}")
    assert not owned.exists()


def test_a_file_beside_the_data_is_not_imported(tmp_path: Path, monkeypatch) -> None:
    """A data folder may hold a script; ``datasets`` once ran those."""
    pytest.importorskip("datasets")
    owned = tmp_path / "owned"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "d.py").write_text(f"open({str(owned)!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with pytest.raises(TransferMetricsError):
        load_task(f"hf:{tmp_path / 'd'}")
    assert not owned.exists()


@pytest.mark.parametrize(
    "text",
    [
        "models: !!python/object/apply:os.system ['touch owned']",
        "models: !!python/name:os.system",
        "!!python/object/new:os.system [touch owned]",
        "models: !<tag:yaml.org,2002:python/module:os> a",
        "a: &a [x, x]\nb: &b [*a, *a]\n" + "\n".join(
            f"{chr(98 + i + 1)}: &{chr(98 + i + 1)} [{', '.join([f'*{chr(98 + i)}'] * 9)}]"
            for i in range(12)
        ),
        "models: &a [*a]",
        DEEP,
        "? [[[a]]]\n: b",
        "models: \x00",
    ],
)  # fmt: skip
def test_options_are_plain_values(tmp_path: Path, text: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.monotonic()
    refused("config", text.encode(), tmp_path)
    assert time.monotonic() - started < 10
    assert not (tmp_path / "owned").exists()


def test_aliases_do_not_multiply(tmp_path: Path) -> None:
    """Nine to the power of nine words by reference, in an option that is a list."""
    lines = ["models: &b0 [" + ", ".join(["x"] * 9) + "]"]
    lines += [f"metrics: [{', '.join(['*b0'] * 9)}]"]
    laughs = "&l0 [x, x]"
    for level in range(1, 30):
        laughs = f"&l{level} [{laughs}, *l{level - 1}]"
    for text in ("\n".join(lines), f"models: {laughs}"):
        tracemalloc.start()
        refused("config", text.encode(), tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
        tracemalloc.stop()


def test_a_head_names_no_code_and_no_place_to_write(tmp_path: Path) -> None:
    record = json.loads(_made("head")["head.json"])
    for name in ("os:system", "../x", "builtins:eval"):
        refused("head", json.dumps(record | {"head": name}).encode(), tmp_path)
    model = {"name": "evil:factory", "revision": "", "fingerprint": "0"}
    files = {
        "head.json": json.dumps(record | {"model": model}).encode(),
        "head.safetensors": _made("head")["head.safetensors"],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    with pytest.raises(InvalidInputError, match="not the name of a model"):
        tm.load_head(tmp_path).network()
    assert not (tmp_path / "owned").exists()


def test_a_head_does_not_say_where_training_is_kept(tmp_path: Path) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    record = json.loads(_made("head")["head.json"])
    params = {"epochs": 1, "checkpoint": elsewhere}
    changed = record | {"head": "lpft", "params": params}
    for name, data in {**_made("head"), "head.json": json.dumps(changed).encode()}.items():
        (tmp_path / name).write_bytes(data)
    head = tm.load_head(tmp_path)
    assert (head.epochs, head.checkpoint) == (1, None)


def test_weights_of_timm_come_by_the_safe_way_only(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.save({"a": Payload(tmp_path / "owned")}, tmp_path / "w.pt")
    with pytest.raises(InvalidInputError, match="checkpoint_path is not taken"):
        load_model(f"timm:resnet18(checkpoint_path='{tmp_path / 'w.pt'}')")
    assert not (tmp_path / "owned").exists()


def test_no_module_unpickles_or_evaluates() -> None:
    """What the code calls, by its syntax: a new call of these kinds is to be thought over."""
    found = []
    # Engines talk in pickles to the processes that they start themselves, and to nobody else.
    for path in (p for p in PACKAGE.rglob("*.py") if p.parent.name != "engines"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            words = {k.arg: ast.unparse(k.value) for k in node.keywords}
            bad = called in (
                "eval",
                "exec",
                "pickle.load",
                "pickle.loads",
                "joblib.load",
                "os.system",
            )
            bad |= called in ("yaml.load", "yaml.unsafe_load", "pd.read_pickle", "marshal.loads")
            bad |= called == "torch.load" and words.get("weights_only") != "True"
            bad |= called == "np.load" and words.get("allow_pickle") != "False"
            bad |= words.get("trust_remote_code", "False") != "False"
            bad |= words.get("shell", "False") != "False"
            found += [f"{path.name}:{node.lineno} {called}"] if bad else []
    assert found == []


# ---------------------------------------------------------------- sizes are bounded


def npy_header(shape: object, descr: str = "<f8") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


@pytest.mark.parametrize(
    ("shape", "descr"),
    [
        ((1 << 40,), "<f8"), ((1 << 31, 1 << 31), "|u1"), ((-1,), "<f8"), ((10**30,), "<f8"),
        ((1 << 50,), "<U0"), ((1 << 60, 0), "<f8"), ((0, 1 << 60), "<f8"), ((3,), "|O"),
        ((1,), "<U1000000000"), ("(" * 5_000, "<f8"), ((2.5,), "<f8"), ((1,), "<M8[generic"),
    ],
)  # fmt: skip
def test_headers_of_arrays_that_claim_too_much(tmp_path: Path, shape, descr: str) -> None:
    tracemalloc.start()
    data = npy_header(shape, descr) + bytes(64)
    refused("npy", data, tmp_path)
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("X.npy", data)
        archive.writestr("y.npy", npy_header((2,), "<i8") + bytes(16))
    refused("npz", (tmp_path / "x").read_bytes(), tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def bomb(size: int) -> bytes:
    """An archive with an array of so many zeros."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("X.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy_header((size,), "|u1"))
        for start in range(0, size, 1 << 24):
            member.write(bytes(min(1 << 24, size - start)))
    return stream.getvalue()


def test_archives_that_unpack_to_too_much(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("transfer_metrics.untrusted.TABLE", 1 << 22)
    data = bomb(1 << 25)
    assert len(data) < 1 << 16
    path = tmp_path / "b.npz"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(InvalidInputError, match="TRANSFER_METRICS_MAX_BYTES"):
        read_arrays(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    monkeypatch.setenv("TRANSFER_METRICS_MAX_BYTES", str(1 << 26))
    assert read_arrays(path)["X"].nbytes == 1 << 25
    for wrong in ("much", "-1", "1e9", "9" * 30):
        monkeypatch.setenv("TRANSFER_METRICS_MAX_BYTES", wrong)
        with pytest.raises(InvalidInputError, match="number of bytes"):
            read_arrays(path)


def test_an_archive_that_lies_about_its_size(tmp_path: Path) -> None:
    """The central directory says little; the stream would give much more."""
    data = bytearray(bomb(1 << 23))
    end = data.rfind(b"PK\x01\x02")
    data[end + 24 : end + 28] = struct.pack("<I", 1000)
    refused("npz", bytes(data), tmp_path)


def test_many_arrays_in_one_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        for number in range(10_001):
            archive.writestr(f"x{number}.npy", b"")
    with pytest.raises(InvalidInputError, match="10001 arrays"):
        read_arrays(tmp_path / "m.npz")


def test_names_in_archives_are_no_paths(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in ("../../X.npy", "/X.npy", "X.npy/../../y.npy"):
            archive.writestr(name, npy_header((2,), "<i8") + bytes(16))
    refused("npz", stream.getvalue(), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_tensors_that_repeat_one_number(tmp_path: Path) -> None:
    huge = torch.zeros(1).expand(1 << 34)
    for name, content in (
        ("X", {"X": huge.view(1 << 20, -1), "y": [0, 1]}),
        ("0.weight", {"0.weight": huge}),
    ):
        torch.save(content, tmp_path / "t.pt")
        with pytest.raises(InvalidInputError, match="unpacks to"):
            load_task(f"torch:{tmp_path / 't.pt'}") if name == "X" else load_checkpoint(
                _network(), tmp_path / "t.pt"
            )


def test_a_checkpoint_that_holds_itself(tmp_path: Path) -> None:
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pt")
    started = time.monotonic()
    with pytest.raises(InvalidInputError, match="levels"):
        load_checkpoint(_network(), tmp_path / "w.pt")
    assert time.monotonic() - started < 5


def safetensors_file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, end: int, shape: list, dtype: str = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 7, struct.pack("<Q", 1 << 60), struct.pack("<Q", 1 << 60) + b"{}",
        safetensors_file(b"{"), safetensors_file(b"[]"), safetensors_file(DEEP.encode()),
        safetensors_file({"0.weight": entry(0, 1 << 60, [1 << 58])}),
        safetensors_file({"0.weight": entry(0, 48, [4, 3])}, bytes(8)),
        safetensors_file({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)),
        safetensors_file({"a": entry(-8, 8, [4])}, bytes(8)),
        safetensors_file({"a": entry(8, 0, [2])}, bytes(8)),
        safetensors_file({"a": entry(0, 8, [-2])}, bytes(8)),
        safetensors_file({"a": entry(0, 0, [1 << 62, 1 << 62])}),
        safetensors_file({"../../a": entry(0, 8, [2])}, bytes(8)),
        safetensors_file({"a": entry(0, 8, [2], "F99")}, bytes(8)),
        safetensors_file({"a": entry(0, 8, [8], "F8_E8M0")}, bytes(8)),
        safetensors_file({"__metadata__": {"statistic": DEEP, "training": DEEP}}),
        safetensors_file({"__metadata__": {"statistic": '{"format": NaN}', "training": "1"}}),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "target", ["safetensors", "shard", "statistic", "head_tensors", "training"]
)
def test_headers_of_tensors(tmp_path: Path, target: str, data: bytes) -> None:
    refused(target, data, tmp_path)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_images_that_claim_too_many_pixels() -> None:
    body = b"a\0\0" + zlib.compress(bytes(1 << 27), 9)
    text = png(1, 1)[:33] + struct.pack(">I", len(body)) + b"zTXt" + body
    text += struct.pack(">I", zlib.crc32(b"zTXt" + body))
    tracemalloc.start()
    for width, height in ((100_000, 100_000), (1 << 30, 1), (9_500, 9_500)):
        with pytest.raises(InvalidInputError, match="more pixels than"):
            decode(png(width, height), "x")
    with pytest.raises(InvalidInputError, match="does not decode"):
        decode(text, "x")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:.*equal to one of another class")
def test_an_image_file_that_is_none_of_that(tmp_path: Path, monkeypatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "0.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    (tmp_path / "a" / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "up").symlink_to("..")
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    Image.new("RGB", (2, 2)).save(outside)
    (tmp_path / "a" / "link.png").symlink_to(outside)
    with open(tmp_path / "b" / "sparse.png", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidInputError, match=r"sparse.png .it has 1,099,511,627,776 bytes"):
        load_task(f"imagefolder:{tmp_path}")
    (tmp_path / "b" / "sparse.png").unlink()
    with pytest.warns(TransferMetricsWarning, match=r"a/pipe.png|zero.png"):
        task = load_task(f"imagefolder:{tmp_path}")
    train = task["train"]
    assert [p.name for p in train.examples.paths] == ["0.png", "link.png", "0.png"]
    assert train.examples[1].size == (2, 2), "links to files are followed"


@pytest.mark.parametrize("path", ["../../secret.png", "/etc/secret.png", "a/../../secret.png"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_paths_in_tables_stay_below_their_folder(tmp_path: Path, path: str, kind: str) -> None:
    rows = [{"image": path, "label": str(i)} for i in range(2)]
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    if kind == "csv":
        text = "image,label\n" + "".join(f"{row['image']},{row['label']}\n" for row in rows)
    (tmp_path / f"t.{kind}").write_text(text)
    with pytest.raises(InvalidInputError, match="outside of the folder"):
        load_task(f"{kind}:{tmp_path / f't.{kind}'}")


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 1000, b"a,label\n", b"a,label\n\0,\0\n",
        b"\xff\xfe" + "a,b\n1,2\n".encode("utf-16"),
        b"a,label\n" + b'"' + b"x" * (1 << 22), b"a,label\n" + b"\xc3\xa9,1\n\xe9,2\n",
        b"a,label\n" + b"1," * 100_000, (b"c," * 20_000 + b"label\n") * 2, b'"' * 9_999,
        b"a,label\n1e999,0\n2,1\n", b"a,label\nnan,0\n2,1\n",
        b"a,label\n" + b"9" * 5_000 + b",0\n1,1\n",
        b"a,a,label\n1,2,0\n", b"\r" * 50_000,
    ],
)  # fmt: skip
def test_tables_of_separated_values(tmp_path: Path, data: bytes) -> None:
    run(TARGETS["csv"], data, tmp_path)
    refused("table_csv", data, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        DEEP, '{"a":' * 5_000 + "1" + "}" * 5_000, "NaN", "1" * 5_000, '{"text": 1e999}',
        '"\\ud800"',
        '{"text": ' + "[" * 60 + "]" * 60 + "}", "{" * 100_000, '{"text": "a", "text": "b"}', "\0",
        '{"label": ' + "9" * 4_000 + ', "text": "a"}', '{"": {}}',
        '{"text": {"a": [1]}, "label": 1}',
        '{"tokens": ["a"], "ner_tags": ' + "[" * 50 + "]" * 50 + "}",
        '{"tokens": [[]], "ner_tags": [1]}',
        '{"tokens": "' + "[" * 90_000 + '", "ner_tags": "[1]"}',
        '{"tokens": "[-' + "-" * 90_000 + '1]"}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("target", ["jsonl", "table_jsonl", "results", "selection", "journal"])
def test_lines_of_json(tmp_path: Path, target: str, line: str) -> None:
    started = time.monotonic()
    run(TARGETS[target], f"{line}\n{line}\n".encode(), tmp_path)
    assert time.monotonic() - started < 10


def test_names_of_columns_that_multiply(tmp_path: Path) -> None:
    lines = "".join(f'{{"c{i}": 1}}\n' for i in range(20_000))
    refused("jsonl", lines.encode(), tmp_path, "names of columns")


def test_what_json_is_taken() -> None:
    assert parse_json('{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json('"\\ud83d\\ude00\\udc00"') == "\U0001f600?"
    assert parse_json("[" * DEEPEST + "]" * DEEPEST)
    for text in (DEEP, "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), '{"a":' * 99 + "1" + "}" * 99):
        with pytest.raises(ValueError, match="levels"):
            parse_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"n": 10**18}, {"n": -1}, {"n": 1e3}, {"n": True}, {"shard_size": 0}, {"shard_size": "1"},
        {"shard_size": 1}, {"classes": [1]}, {"classes": {}}, {"classes": ["a"]}, {"layers": {}},
        {"layers": [{"name": "../../x"}]}, {"layers": [[]]}, {"logits": {"dim": 1 << 61}},
        {"logits": {"dim": 5}}, {"logits": 1}, {"shards": []}, {"shards": {"../0": {}}},
        {"shards": {"0": {"bytes": 1}}}, {"shards": {"0": 5}}, {"model": {"a": 1}}, {"kind": "x"},
        {"kind": "regression", "shards": {"0": None}}, {"format": 10**400}, {"format": [1]},
    ],
)  # fmt: skip
def test_manifests(tmp_path: Path, change: dict) -> None:
    manifest = json.loads(_made("store")["manifest.json"])
    started = time.monotonic()
    refused("manifest", json.dumps(manifest | change).encode(), tmp_path)
    assert time.monotonic() - started < 5


def test_a_manifest_cannot_point_elsewhere(tmp_path: Path) -> None:
    """Shards are found by their numbers; a name or a path in the manifest is not looked at."""
    manifest = json.loads(_made("store")["manifest.json"])
    for name in ("../0", "/etc/passwd", "0/../../0", "٠", "1e1"):
        shards = {name: manifest["shards"]["0"]}
        refused("manifest", json.dumps(manifest | {"shards": shards}).encode(), tmp_path)
    manifest["shards"]["0"]["path"] = manifest["shards"]["0"]["file"] = "/etc/passwd"
    assert run(TARGETS["manifest"], json.dumps(manifest).encode(), tmp_path) is None


def test_labels_that_no_class_has(tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    arrays = load(_made("store")[SHARD])
    for labels in ([9] * 12, [-1] * 12, [0] * 11, np.zeros((12, 2), int), np.full(12, np.nan)):
        data = save(arrays | {"__labels__": np.array(labels)})
        refused("shard", data, tmp_path, "does not hold what")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name", ["../../up", "/etc/x", "a/../../b", "..", "C:\\x", "\0", "x" * 5_000]
)
def test_names_never_become_paths(tmp_path: Path, name: str, monkeypatch) -> None:
    """Names of models, tasks, layers and classes from a file, in all that is written of it."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    records = [
        r | {"model": f"{name}{i}", "task": name, "layer": name} for i, r in enumerate(_records())
    ]
    use = Target(lambda: [], lambda data, folder: _write_all(records, folder))
    assert run(use, b"", tmp_path / "in") is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def _write_all(records: list[dict], folder: Path) -> None:
    table = ScoreTable(records)
    table.save(folder / "t.jsonl")
    table.report(folder / "r.html")
    ResultCache(folder / "cache").write("key", [Record.of(r) for r in records])
    (layer,) = {r["layer"] for r in records}
    chosen = Selection({layer: np.array([0])}, {layer: 3}, False, layer, 0.5, layer, layer)
    chosen.save(folder / "s.json")
    assert list(Selection.load(folder / "s.json").layers) == [layer]


def test_names_cannot_steer_the_terminal(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", X=np.eye(4), y=[0, 1, 0, 1], classes=[STEERING, "b"])
    Path("t.jsonl").write_text(json.dumps({"model": STEERING, "metric": 5, "value": "x"}) + "\n")
    for command in (
        ["report", "t.jsonl"],
        ["rank", "--models", STEERING, "--task", "sklearn:iris"],
        ["rank", "--models", "zoo:cnn-mnist", "--task", f"npz:{STEERING}"],
        ["list", STEERING],
        ["layers", "--model", f"hf:./{STEERING}", "--task", "sklearn:iris"],
    ):
        assert main(command) == 2
        printed = capsys.readouterr()
        said = printed.out + printed.err
        assert len(said.splitlines()) == 1
        assert not set("\x1b\x07\u202e\r\0") & set(said), said
    table = ScoreTable([{"model": STEERING, "layer": STEERING, "metric": "knn", "value": 0.5}])
    assert not set("\x1b\x07\u202e\r") & set(table.format())
    assert len(table.format().splitlines()) == 2


@pytest.mark.parametrize("text", [STEERING, "a\x9b31m", "\u2066x\u2069", "\ud800", "\u200b\ufeff"])
def test_what_is_shown_is_harmless(text: str) -> None:
    for shown in (visible(text), visible_lines(text)):
        assert not set(shown) & set("\x1b\x07\r\x9b\u202e\u2066\u2069\ud800\u200b\ufeff")
        shown.encode()
    assert visible_lines("a\tb\nc") == "a\tb\nc"


def test_a_million_classes(tmp_path: Path) -> None:
    count = 1_000_000
    np.savez(
        tmp_path / "named.npz", X=np.eye(4), y=[0, 1, 0, 1], classes=np.arange(count).astype(str)
    )
    with pytest.raises(InvalidInputError, match="1000000 classes are named"):
        load_task(f"npz:{tmp_path / 'named.npz'}")
    names = np.arange(50_000).astype(str)
    np.savez(tmp_path / "all.npz", X=np.zeros((50_000, 1)), y=names[::-1], classes=names)
    started = time.monotonic()
    with pytest.warns(TransferMetricsWarning, match="50000 classes for 50000 training examples"):
        assert load_task(f"npz:{tmp_path / 'all.npz'}").num_classes == 50_000
    assert time.monotonic() - started < 20


def test_long_names_are_not_compared_at_length() -> None:
    started = time.monotonic()
    for name, known in (("x" * 1_000_000, ["y" * 1_000_000]), ("ab", map(str, range(300_000)))):
        assert len(str(UnknownNameError.of("model", name, known))) < 5_000
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "text",
    ["timm:a(" + "(" * 50_000, "timm:a(b=" + "-" * 50_000 + "1)", "timm:a(b={[]: 1})",
    "a:" + "[" * 99_999,
     "timm:a(b='\0')", "timm:a(**x)", "timm:a(b=lambda: 1)", "timm:a(b=__import__('os'))",
     "timm:a(b=1).c(d)"],
)  # fmt: skip
def test_specifications_are_read_and_not_run(text: str, tmp_path: Path) -> None:
    for what in (lambda: load_model(text), lambda: tm.get_metric(text.partition(":")[2])):
        with pytest.raises(TransferMetricsError):
            what()


def test_layers_with_odd_names(tmp_path: Path) -> None:
    choice = json.loads(json.dumps(CHOICE))
    choice["layers"][0]["name"] = "a\nb\x1b[2J"
    (tmp_path / "s.json").write_text(json.dumps(choice))
    chosen = Selection.load(tmp_path / "s.json")
    with pytest.raises(TransferMetricsError):
        chosen.transform({"c": np.eye(3)})


def test_what_is_written_is_readable_and_nothing_more(tmp_path: Path) -> None:
    ScoreTable(_records()).save(tmp_path / "t.jsonl")
    mode = stat.S_IMODE((tmp_path / "t.jsonl").stat().st_mode)
    assert mode & 0o111 == 0
    assert not mode & 0o002 or os.umask(os.umask(0)) & 0o002 == 0


def test_a_store_may_be_cut_under_our_feet(tmp_path: Path) -> None:
    for name, data in _made("store").items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    store = FeatureStore.open(tmp_path)
    (tmp_path / SHARD).write_bytes(b"")
    with pytest.raises(CorruptStoreError):
        store[store.names[0]]


@pytest.mark.slow
def test_memory_of_attacks_in_a_small_process(tmp_path: Path) -> None:
    """The bombs again, in a process of 3 GiB of address space beyond its imports."""
    (tmp_path / "b.npz").write_bytes(bomb(3 << 30))
    script = (
        "import resource, sys, transfer_metrics as tm\n"
        "from transfer_metrics.sources.tasks.load_task import load_task\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30),) * 2)\n"
        "try:\n    load_task(f'npz:{sys.argv[1]}')\n"
        "except tm.TransferMetricsError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "b.npz")],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert "unpacks to" in done.stdout
    assert resource.getpagesize() > 0
