"""A store on disk: reading it, and refusing a damaged one."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from transfer_metrics.errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    LayerNotFoundError,
)
from transfer_metrics.features.extract import extract
from transfer_metrics.features.store import Batch, FeatureStore
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Split, Task


def make_model(seed=0):
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    return Model("mlp", network, None, "tensor", "4", (5,))


def make_task(n=25, seed=0):
    rng = np.random.default_rng(seed)
    examples = list(rng.standard_normal((n, 5)).astype(np.float32))
    split = Split(examples, rng.integers(0, 2, n))
    return Task("noise", "classification", "tensor", {"train": split}, ("a", "b"))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("original") / "store"
    extract(make_model(), make_task(), out=path, shard_size=10, progress=False)
    return path


@pytest.fixture
def path(original, tmp_path):
    return shutil.copytree(original, tmp_path / "store")


def test_what_a_store_says(path):
    task = make_task()
    store = FeatureStore.open(path)
    assert len(store) == 25
    assert store.names == ["1", "4:input"]
    assert [layer.dim for layer in store.layers] == [8, 6]
    assert store.layers[0].shape == (8,)
    assert (store.model, store.task, store.split, store.kind) == (
        "mlp",
        "noise",
        "train",
        "classification",
    )
    assert store.num_classes == 2
    assert store.seconds > 0
    np.testing.assert_array_equal(store.labels, task["train"].labels)
    assert store.labels.dtype == np.int64
    assert store["1"].shape == (25, 8)
    assert store.source_logits.shape == (25, 3)
    assert "1" in store
    assert "fc" not in store
    with pytest.raises(LayerNotFoundError, match="did you mean '4:input'"):
        store["4:inpt"]
    with pytest.raises(LayerNotFoundError):
        store.batches("nothing")


def test_shards_and_batches_list_their_arrays(path):
    shard = next(FeatureStore.open(path).shards())
    names = {"1", "4:input", "__labels__", "__logits__"}
    assert set(shard) == names
    assert len(shard) == 4
    assert set(Batch(shard, ["1"])) == {*names, "mean"}
    assert len(Batch(shard, ["1"])) == 5


def test_batches_are_the_shards(path):
    store = FeatureStore.open(path)
    batches = list(store.batches("4:input"))
    assert [len(x) for x, _ in batches] == [10, 10, 5]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), store["4:input"])
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), store.labels)


def test_the_manifest_records_where_features_come_from(path):
    manifest = json.loads((path / "manifest.json").read_text())
    model, task = make_model(), make_task()
    assert manifest["model_fingerprint"] == model.fingerprint
    assert manifest["task_fingerprint"] == task["train"].fingerprint
    assert manifest["classes"] == ["a", "b"]
    assert (manifest["pool"], manifest["dtype"], manifest["head"]) == ("avg", "float32", "4")
    assert [manifest["shards"][i]["rows"] for i in "012"] == [10, 10, 5]
    assert all(len(record["sha256"]) == 64 for record in manifest["shards"].values())
    assert not list(path.rglob("*.tmp"))


def test_the_fingerprint_tells_stores_apart(path):
    store = FeatureStore.open(path)
    same = extract(make_model(), make_task(), shard_size=7, progress=False)
    assert same.fingerprint == store.fingerprint
    others = [
        extract(make_model(1), make_task(), progress=False),
        extract(make_model(), make_task(seed=1), progress=False),
        extract(make_model(), make_task(), layers="last", progress=False),
        extract(make_model(), make_task(), pool="max", progress=False),
        extract(make_model(), make_task(), dtype="float16", progress=False),
    ]
    assert len({store.fingerprint, *(other.fingerprint for other in others)}) == 6


def damage(path, how):
    shard = path / "shards" / "00001.safetensors"
    data = bytearray(shard.read_bytes())
    if how == "flipped":
        data[-3] ^= 1
        shard.write_bytes(data)
    elif how == "header":
        data[20] ^= 1
        shard.write_bytes(data)
    elif how == "truncated":
        shard.write_bytes(data[:-7])
    elif how == "empty":
        shard.write_bytes(b"")
    elif how == "another":
        shutil.copy(path / "shards" / "00000.safetensors", shard)


@pytest.mark.parametrize("how", ["flipped", "header", "truncated", "empty", "another"])
def test_a_damaged_shard_is_refused(path, how):
    damage(path, how)
    for attempt in (
        lambda: FeatureStore.open(path),
        lambda: extract(make_model(), make_task(), out=path, progress=False),
    ):
        with pytest.raises(CorruptStoreError, match=r"00001\.safetensors.*delete"):
            attempt()


def test_deleting_a_damaged_shard_computes_it_anew(path, original):
    damage(path, "flipped")
    shard = path / "shards" / "00001.safetensors"
    shard.unlink()
    with pytest.raises(CorruptStoreError, match=r"00001\.safetensors"):
        FeatureStore.open(path)
    extract(make_model(), make_task(), out=path, progress=False)
    expected = FeatureStore.open(original)
    again = FeatureStore.open(path)
    for name in expected.names:
        np.testing.assert_array_equal(again[name], expected[name])


def test_damage_after_opening_is_found_on_reading(path):
    store = FeatureStore.open(path)
    damage(path, "empty")
    with pytest.raises(CorruptStoreError, match=r"00001\.safetensors"):
        store["1"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 1}', '{"format": 1, "layers": [], "shards": 3}']
)
def test_a_damaged_manifest_is_refused(path, text):
    (path / "manifest.json").write_text(text)
    with pytest.raises(CorruptStoreError, match="manifest"):
        FeatureStore.open(path)


def test_a_shard_by_another_number_is_refused(path):
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["shards"] = {f"0{index}": record for index, record in manifest["shards"].items()}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptStoreError, match="shard '00'"):
        FeatureStore.open(path)


def test_no_store_and_shards_without_a_manifest(path, tmp_path):
    with pytest.raises(CorruptStoreError, match="no manifest"):
        FeatureStore.open(tmp_path / "nothing")
    (path / "manifest.json").unlink()
    with pytest.raises(CorruptStoreError, match="shards but no manifest"):
        extract(make_model(), make_task(), out=path, progress=False)


def test_a_mixed_store_is_refused(path, tmp_path):
    other = tmp_path / "other"
    extract(make_model(1), make_task(), out=other, shard_size=10, progress=False)
    shutil.copy(other / "manifest.json", path / "manifest.json")
    with pytest.raises(CorruptStoreError, match=r"00000\.safetensors"):
        FeatureStore.open(path)


def test_another_format_is_refused(path):
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(IncompatibleStoreError, match="format 99"):
        FeatureStore.open(path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pool": "max"}, "pool is 'avg', not 'max'"),
        ({"dtype": "float16"}, "dtype is 'float32', not 'float16'"),
        ({"layers": "last"}, r"layers is \['blocks'\], not \['last'\]"),
        ({"amp": True}, "amp is None, not 'bfloat16'"),
        ({"model": make_model(1)}, "model_fingerprint is"),
        ({"task": make_task(seed=1)}, "task_fingerprint is"),
        ({"task": make_task(n=26)}, "n is 25, not 26"),
    ],
)
def test_features_of_something_else_are_refused(path, change, told):
    options = {"model": make_model(), "task": make_task(), "out": path, "progress": False} | change
    with pytest.raises(IncompatibleStoreError, match=told):
        extract(**options)


def test_the_same_layers_by_other_names_are_the_same_store(path):
    store = extract(
        make_model(), make_task(), layers=["1", "last"], out=path, batch_size=3, progress=False
    )
    assert store.names == ["1", "4:input"]
