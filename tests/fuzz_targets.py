"""Every place where a file of somebody else's is read: a valid file, and what to do with it.

A target takes the bytes of a file and an empty folder, loads the file and uses what was loaded. It
may raise ``TransferMetricsError`` and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import transfer_metrics as tm
from transfer_metrics.__main__ import build_parser, main
from transfer_metrics.cli.parser import with_config
from transfer_metrics.evidence.ground_truth import read_lines
from transfer_metrics.features.extract import extract
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.heads.base import load_head
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.metrics.base import get_metric
from transfer_metrics.report.html import write_report
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.selection.base import Selection
from transfer_metrics.selection.checkpoint import Checkpoint
from transfer_metrics.sources.example import decode
from transfer_metrics.sources.models.checkpoints import load_checkpoint
from transfer_metrics.sources.specs import parse_model, parse_task
from transfer_metrics.sources.tasks.array_files import read_arrays
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.statistics.joint import SourceJoint
from transfer_metrics.statistics.moments import ClassMoments
from transfer_metrics.statistics.sample import FeatureSample
from transfer_metrics.statistics.saving import Saved
from transfer_metrics.syntax import split_list

Use = Callable[[bytes, Path], Any]


@dataclass(frozen=True)
class Target:
    """A loader with valid inputs.

    Attributes:
        seeds: makes the valid inputs.
        use: loads one and uses it.
        form: ``"json"`` and ``"lines"`` are also mutated in their structure.
    """

    seeds: Callable[[], list[bytes]]
    use: Use
    form: str = "bytes"


X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.arange(12) % 3


# ---------------------------------------------------------------- tasks


def _task(spec: str, name: str) -> Use:
    def use(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        task = load_task(spec.format(folder / name))
        for split in task.splits.values():
            assert len(split.fingerprint) == 64
            assert len(split.examples) == len(split.labels)
            split.examples[0]

    return use


def _npz() -> list[bytes]:
    found = []
    pixels = (np.arange(12 * 5 * 4) % 256).astype(np.uint8).reshape(12, 5, 4)
    one = _image()[1]
    encoded = {"jpeg": np.frombuffer(one * 4, np.uint8), "offsets": np.arange(5) * len(one)}
    for save, arrays in (
        (np.savez, {"X": X, "y": Y}),
        (np.savez_compressed, {"x_train": pixels, "y_train": Y, "classes": np.array(list("abc"))}),
        (np.savez, {**encoded, "y": Y[:4]}),
    ):
        stream = io.BytesIO()
        save(stream, **arrays)
        found.append(stream.getvalue())
    return found


def _npy() -> list[bytes]:
    found = []
    for array in (X, Y, np.array(["a", "bc"]), np.asfortranarray(X.astype(np.float16))):
        stream = io.BytesIO()
        np.save(stream, array)
        found.append(stream.getvalue())
    return found


def _use_npy(data: bytes, folder: Path) -> None:
    (folder / "x.npy").write_bytes(data)
    found = read_arrays(folder / "x.npy")
    for array in found.values() if isinstance(found, dict) else [found]:
        assert array.nbytes <= 1 << 24
        array.copy()


def _image() -> list[bytes]:
    found = []
    pixels = (np.arange(7 * 5 * 3) % 256).astype(np.uint8).reshape(7, 5, 3)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, kind)
        found.append(stream.getvalue())
    return found


def _torch_data() -> list[bytes]:
    stream = io.BytesIO()
    torch.save({"X": torch.from_numpy(X), "y": torch.from_numpy(Y)}, stream)
    return [stream.getvalue()]


def _parquet_data() -> list[bytes]:
    import pandas as pd

    stream = io.BytesIO()
    pd.DataFrame({"text": ["a", "b", "c"], "label": [0, 1, 0]}).to_parquet(stream)
    return [stream.getvalue()]


CSV = b'text,label,split\nfine,good,train\n"so, so",bad,train\nfine,bad,test\n'
NUMBERS = b"a,b,label\n1,2,0\n3,4,1\n5,6e3,0\n"
JSONL = b'{"text": "fine", "label": "good"}\n{"text": "poor", "label": "bad"}\n'
WORDS = b'{"tokens": ["a", "b"], "ner_tags": [0, 1]}\n{"tokens": ["c"], "ner_tags": [1]}\n'


# ---------------------------------------------------------------- weights, stores, statistics


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


@cache
def _made(what: str) -> dict[str, bytes]:
    """Files that this package, or torch, writes: their contents by their paths."""
    with TemporaryDirectory() as place:
        folder, features = Path(place) / what, Path(place) / "store"
        store = extract(_network(), (X.astype(np.float32), Y), out=features, progress=False)
        folder.mkdir(exist_ok=True)
        if what == "head":
            LinearProbe(random_state=0).fit(store, store.labels).save(folder)
        elif what == "statistic":
            ClassMoments.from_batch(X, Y).save(folder / "a")
            SourceJoint.from_batch(np.full((12, 4), 0.25), Y).save(folder / "b")
            FeatureSample.from_batch(X, Y).save(folder / "c")
        elif what == "weights":
            torch.save(_network().state_dict(), folder / "w.pt")
            save_file(_network().state_dict(), folder / "w.safetensors")
        elif what == "training":
            state = {"epoch": 1, "loss": [0.5]}
            Checkpoint(folder / "t", {"lr": 0.1}).write(state, {"w": _network().state_dict()})
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.name != ".lock"}


def _weights(ending: str) -> Use:
    def use(data: bytes, folder: Path) -> None:
        (folder / f"w{ending}").write_bytes(data)
        network = _network()
        load_checkpoint(network, folder / f"w{ending}")
        network(torch.zeros(1, 4))

    return use


def _use_store(files: dict[str, bytes], folder: Path) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    store = FeatureStore.open(folder)
    assert len(store.labels) == len(store)
    assert (store.seconds, store.num_classes, len(store.fingerprint)) >= (0, 0, 64)
    assert all(len(store[layer.name]) == len(store) for layer in store.layers)
    assert store.source_logits is None or len(store.source_logits) == len(store)
    if store.num_classes > 1:
        tm.score_layers(store, metrics="h_score")


def _manifest(data: bytes, folder: Path) -> None:
    _use_store({**_made("store"), "manifest.json": data}, folder)


def _shard(data: bytes, folder: Path) -> None:
    """A shard whose hash is right, as a stranger would write it."""
    files = dict(_made("store"))
    manifest = json.loads(files["manifest.json"])
    manifest["shards"]["0"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    files |= {"manifest.json": json.dumps(manifest).encode(), SHARD: data}
    _use_store(files, folder)


SHARD = "shards/00000.safetensors"


def _statistic(data: bytes, folder: Path) -> None:
    (folder / "s").write_bytes(data)
    found = Saved.load(folder / "s")
    if isinstance(found, ClassMoments):
        with contextlib.suppress(tm.TransferMetricsError):
            tm.h_score(found)
    elif isinstance(found, SourceJoint):
        with contextlib.suppress(tm.TransferMetricsError):
            tm.leep(found)
    elif isinstance(found, FeatureSample):
        found + found


def _use_head(record: bytes, tensors: bytes, folder: Path) -> None:
    (folder / "head.json").write_bytes(record)
    (folder / "head.safetensors").write_bytes(tensors)
    head = load_head(folder)
    repr(head)
    layers = {layer.name: np.zeros((2, layer.dim), np.float32) for layer in head.layers_}
    head.predict(layers)


def _head(data: bytes, folder: Path) -> None:
    _use_head(data, _made("head")["head.safetensors"], folder)


def _head_tensors(data: bytes, folder: Path) -> None:
    record = json.loads(_made("head")["head.json"])
    record["tensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _use_head(json.dumps(record).encode(), data, folder)


def _training(data: bytes, folder: Path) -> None:
    (folder / "t").write_bytes(data)
    Checkpoint(folder / "t", {"lr": 0.1}).read()


# ---------------------------------------------------------------- tables, selections, options


def _records() -> list[dict[str, Any]]:
    record = {
        "model": "a", "task": "digits", "split": "train", "layer": "fc", "layer_index": 1,
        "depth": 1.0, "dim": 8, "pool": "avg", "metric": "knn", "value": 0.5, "stderr": 0.1,
        "deviations": [0.1, -0.1, 0.0], "higher_is_better": True, "n": 100, "num_classes": 3,
        "seconds": 0.1, "version": "0.1.0",
    }  # fmt: skip
    failed = {"model": "c", "metric": "", "error": "no such file", "task": "digits"}
    head = {**record, "head": "lpft", "metric": "accuracy", "split": "test", "seed": 0}
    return [record, {**record, "model": "b", "value": 0.7}, failed, head]


def _tables(ending: str) -> Callable[[], list[bytes]]:
    def seeds() -> list[bytes]:
        with TemporaryDirectory() as place:
            path = Path(place) / f"t{ending}"
            ScoreTable(_records()).save(path)
            return [path.read_bytes()]

    return seeds


def _table(ending: str) -> Use:
    def use(data: bytes, folder: Path) -> None:
        path = folder / f"t{ending}"
        path.write_bytes(data)
        table = ScoreTable.load(path)
        table.save(folder / f"again{ending}")
        assert ScoreTable.load(folder / f"again{ending}").records == table.records
        table.format()
        table.to_frame()
        for metric in table.metrics[:3]:
            table.ranking(metric)
        table.wide()

    return use


def _results(data: bytes, folder: Path) -> None:
    (folder / "r.json").write_bytes(data)
    write_report(folder / "r.json", folder / "report.html")


def _selection(data: bytes, folder: Path) -> None:
    (folder / "s.json").write_bytes(data)
    chosen = Selection.load(folder / "s.json")
    chosen.save(folder / "again.json")
    assert sum(chosen.counts.values()) >= 0
    with contextlib.suppress(tm.TransferMetricsError):
        chosen.transform({"a": np.eye(3), "b": np.eye(3)[:, :2]})


CHOICE = {
    "format": "transfer_metrics selection 1", "model": "m", "task": "t", "chosen_by": "logme",
    "score": 0.5, "unit_rows": False,
    "layers": [{"name": "a", "dim": 3, "columns": [0, 2]}, {"name": "b", "dim": 2, "columns": [1]}],
}  # fmt: skip


def _config(data: bytes, folder: Path) -> None:
    (folder / "c.yaml").write_bytes(data)
    parser = build_parser()
    parser.parse_args(with_config(["rank", "--config", str(folder / "c.yaml")], parser))


def _journal(data: bytes, folder: Path) -> None:
    (folder / "j.jsonl").write_bytes(data)
    assert isinstance(read_lines(folder / "j.jsonl", ("model", "task")), list)


# ---------------------------------------------------------------- what is typed, or stands in files


def _spec(data: bytes, folder: Path) -> None:
    text = data.decode("utf-8", "replace")
    for part in split_list(text)[:5]:
        for parse in (parse_model, parse_task, get_metric):
            with contextlib.suppress(tm.TransferMetricsError):
                parse(part)


def _command(data: bytes, folder: Path) -> None:
    """A whole command line on the file: 0, 1 or 2, and at most one sentence on stderr."""
    (folder / "t.jsonl").write_bytes(data)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(["report", str(folder / "t.jsonl"), "--out", str(folder / "r.html")])
    assert status in (0, 1, 2)
    assert "Traceback" not in said.getvalue()
    assert "this is a bug" not in said.getvalue(), said.getvalue()


def _bytes(*seeds: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(seeds)


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


TARGETS: dict[str, Target] = {
    "npz": Target(_npz, _task("npz:{}", "t.npz")),
    "npy": Target(_npy, _use_npy),
    "csv": Target(_bytes(CSV, NUMBERS), _task("csv:{}", "t.csv")),
    "jsonl": Target(_bytes(JSONL, WORDS), _task("jsonl:{}", "t.jsonl"), "lines"),
    "torch": Target(_torch_data, _task("torch:{}", "t.pt")),
    "parquet": Target(_parquet_data, _task("csv:{}", "t.parquet")),
    "image": Target(_image, lambda data, folder: decode(data, "x").tobytes()),
    "pt": Target(lambda: [_made("weights")["w.pt"]], _weights(".pt")),
    "safetensors": Target(lambda: [_made("weights")["w.safetensors"]], _weights(".safetensors")),
    "manifest": Target(lambda: [_made("store")["manifest.json"]], _manifest, "json"),
    "shard": Target(lambda: [_made("store")[SHARD]], _shard),
    "statistic": Target(lambda: list(_made("statistic").values()), _statistic),
    "head": Target(lambda: [_made("head")["head.json"]], _head, "json"),
    "head_tensors": Target(lambda: [_made("head")["head.safetensors"]], _head_tensors),
    "training": Target(lambda: [_made("training")["t"]], _training),
    "table_jsonl": Target(_tables(".jsonl"), _table(".jsonl"), "lines"),
    "table_csv": Target(_tables(".csv"), _table(".csv")),
    "table_parquet": Target(_tables(".parquet"), _table(".parquet")),
    "results": Target(lambda: [json.dumps(_records()).encode()], _results, "json"),
    "selection": Target(lambda: [json.dumps(CHOICE).encode()], _selection, "json"),
    "config": Target(
        _bytes(b"models: [zoo:a, b]\ntask: sklearn:digits\nno-plots: true\nbudget: 0.3\n"), _config
    ),
    "journal": Target(lambda: [_lines(_records())], _journal, "lines"),
    "spec": Target(
        _bytes(
            b"timm:resnet18(pretrained=False, seed=1)=w.pt",
            b"hf:a/b@c,csv:a?label=b&text=c",
            b"transrate(eps=1e-3, preset=centred),knn(k=1)",
        ),
        _spec,
    ),
    "command": Target(lambda: [_lines(_records())], _command, "lines"),
}
