"""One pass over the data: right features, whatever the batches, interruptions and bad input."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from transfer_metrics.errors import ExtractionError, InvalidInputError
from transfer_metrics.features.extract import extract
from transfer_metrics.features.store import FeatureStore
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Split, Task


class Network(nn.Module):
    """Small, with batch normalisation, dropout and in-place activations; counts its examples."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 4)
        self.seen = []

    def forward(self, x):
        time.sleep(0)  # where a test stops it or makes it wait, and it is the same network
        self.seen.append(len(x))
        x = self.relu(self.bn(self.conv(x)))
        x = self.relu(self.conv2(x))
        return self.fc(self.drop(x.mean((2, 3))))


def make_model(seed=0, double=False):
    torch.manual_seed(seed)
    network = Network()
    network.bn.running_mean.normal_()
    network.bn.running_var.uniform_(0.5, 2)
    return Model("net", network.double() if double else network, None, "tensor", "fc", (2, 9, 9))


def make_task(n=50, kind="classification", bad=None):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n, 2, 9, 9)).astype(np.float32)
    if bad is not None:
        images[bad, 0, 0, 0] = np.nan
    if kind == "regression":
        split = Split(list(images), rng.standard_normal((n, 2)))
        return Task("noise", kind, "tensor", {"train": split})
    split = Split(list(images), np.arange(n) % 3)
    return Task("noise", kind, "tensor", {"train": split, "test": split}, ("a", "b", "c"))


def quiet(*args, **options):
    return extract(*args, progress=False, **options)


def by_hand(model, task):
    network = model.module
    x = torch.from_numpy(np.stack(task["train"].examples))
    with torch.no_grad():
        network.eval()
        a = torch.relu(network.bn(network.conv(x)))
        b = torch.relu(network.conv2(a))
        return {
            "relu:0": a.mean((2, 3)).numpy(),
            "relu:1": b.mean((2, 3)).numpy(),
            "fc:input": b.mean((2, 3)).numpy(),
        }, network.fc(b.mean((2, 3))).numpy()


def same(a, b):
    assert a.names == b.names
    for name in a.names:
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.source_logits, b.source_logits)


def test_features_by_hand_in_memory_and_on_disk(tmp_path):
    model, task = make_model(), make_task()
    memory = quiet(model, task, shard_size=20)
    disk = quiet(model, task, shard_size=20, out=tmp_path / "store")
    features, logits = by_hand(model, task)
    assert memory.names == list(features)
    for name, expected in features.items():
        np.testing.assert_allclose(memory[name], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(memory.source_logits, logits, rtol=1e-5, atol=1e-6)
    same(memory, disk)
    same(memory, FeatureStore.open(tmp_path / "store"))
    assert memory.fingerprint == disk.fingerprint


@pytest.mark.parametrize(
    ("batch_size", "shard_size", "workers"), [(1, 50, 0), (7, 13, 0), (64, 3, 0), (8, 20, 2)]
)
def test_features_do_not_depend_on_the_batches(batch_size, shard_size, workers):
    model, task = make_model(double=True), make_task()
    expected = quiet(model, task)
    store = quiet(model, task, batch_size=batch_size, shard_size=shard_size, num_workers=workers)
    for name in expected.names:
        # In float64 the network rounds far below the float32 that is kept.
        np.testing.assert_array_equal(store[name], expected[name])


def test_regression_keeps_targets_and_no_logits():
    task = make_task(kind="regression")
    store = quiet(make_model(), task)
    np.testing.assert_array_equal(store.labels, task["train"].labels)
    assert store.source_logits is None
    assert (store.kind, store.num_classes) == ("regression", 0)


def test_the_model_is_left_as_it_was():
    model = make_model()
    network = model.module.train()
    network.bn.eval()
    network.conv.weight.requires_grad_(False)
    network.drop.register_forward_hook(lambda *_: None)
    modes = [module.training for module in network.modules()]
    grads = [p.requires_grad for p in network.parameters()]
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()
    quiet(model, make_task())
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert [module.training for module in network.modules()] == modes
    assert [p.requires_grad for p in network.parameters()] == grads
    assert all(p.grad is None for p in network.parameters())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    assert sum(hooks) == 1
    assert torch.is_grad_enabled()
    network(torch.zeros(2, 2, 9, 9)).sum().backward()


class Caching(nn.Module):
    """Keeps a tensor made in its first forward pass, as rotary and attention-bias caches do."""

    def __init__(self):
        super().__init__()
        self.first, self.head, self.cache = nn.Linear(3, 4), nn.Linear(4, 2), None

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.ones(4) * 2
        return self.head(self.first(x) * self.cache)


def test_a_network_that_caches_tensors_can_be_trained_afterwards():
    network = Caching()
    split = Split(list(np.zeros((4, 3), np.float32)), np.arange(4) % 2)
    task = Task("zeros", "classification", "tensor", {"train": split}, ("a", "b"))
    quiet(Model("caching", network, None, "tensor", "head", (3,)), task)
    network(torch.zeros(2, 3)).sum().backward()
    assert network.first.weight.grad is not None


def test_an_interrupted_extraction_is_resumed(tmp_path, monkeypatch):
    task, path = make_task(), tmp_path / "store"
    whole = quiet(make_model(), task, batch_size=5, shard_size=10)
    model = make_model()

    def stop(_seconds):
        if (
            len(model.module.seen) == len(PROOF) + 8
        ):  # two shards of two batches with an example, and two, and one batch more
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", stop)
        with pytest.raises(KeyboardInterrupt):
            quiet(model, task, batch_size=5, shard_size=10, out=path)
    assert sorted(p.name for p in (path / "shards").iterdir()) == [
        "00000.safetensors",
        "00001.safetensors",
    ]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.module.modules()]
    assert sum(hooks) == 0
    before = {p: p.stat().st_mtime_ns for p in (path / "shards").iterdir()}

    model = make_model()
    resumed = quiet(model, task, batch_size=5, shard_size=999, out=path)
    # The thirty missing examples, of which 25 and 49 were read before.
    assert model.module.seen == [*PROOF, 5, 5, 1, 5, 5, 1, 1, 5, 5, 1]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    same(resumed, whole)
    same(FeatureStore.open(path), whole)

    model = make_model()
    same(quiet(model, task, out=path), whole)
    assert model.module.seen == PROOF


PROOF = [2, 3, 1, 3]
"""Examples of the batches that are read before the pass, the last ones with channels last.

Behind each shard two of its examples are read alone, and one where others were read before.
"""


@pytest.mark.parametrize(("scale", "offset"), [(1e-9, 0.0), (1e-2, 100.0)])
def test_half_precision_that_loses_what_examples_differ_by_is_refused(scale, offset):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    task = np.random.default_rng(0).normal(size=(40, 6)).astype("float32"), np.arange(40) % 2
    with torch.no_grad():
        network[0].weight *= scale
        network[0].bias.fill_(offset)
    kept = quiet(network, task, layers="last")["1:input"]
    half = kept.astype("float16").astype("float32")
    assert np.linalg.norm(half - kept) > 0.05 * np.linalg.norm(kept - kept.mean(0))
    with pytest.raises(ExtractionError, match=r"float16 has too few digits.*dtype='float32'"):
        quiet(network, task, layers="last", dtype="float16")
    with torch.no_grad():
        network[0].weight.zero_()  # constant features lose nothing
        network[0].bias.fill_(5.0)
    assert (quiet(network, task, layers="last", dtype="float16")["1:input"] == 5.0).all()


def test_one_pass_for_all_layers():
    model = make_model()
    quiet(model, make_task(), layers="*", batch_size=10)
    assert model.module.seen == PROOF + [10] * 5 + [1]


KILLED = """
import sys, time
sys.path.insert(0, {tests!r})
pause = time.sleep
time.sleep = lambda seconds: pause(seconds or 0.05)
from test_extract import make_model, make_task, quiet
quiet(make_model(), make_task(), batch_size=5, shard_size=5, out={out!r})
"""


@pytest.mark.integration
@pytest.mark.parametrize("shards", [0, 1, 4])
def test_a_killed_extraction_is_resumed(tmp_path, shards):
    task, path = make_task(), tmp_path / "store"
    script = KILLED.format(tests=str(Path(__file__).parent), out=str(path))
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    try:
        while len(list(path.glob("shards/*.safetensors"))) < shards or not path.exists():
            assert process.poll() is None, "the extraction ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    stray = path / "shards" / "00009.safetensors.tmp"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"half a shard")
    recorded = 0
    if (path / "manifest.json").exists():
        recorded = len(json.loads((path / "manifest.json").read_text())["shards"])
    assert recorded >= shards - 1

    model = make_model()
    store = quiet(model, task, batch_size=5, shard_size=5, out=path)
    # Of each shard two are read once more, but for those with the examples 0, 25 and 49.
    again = {0: 1, 5: 1, 9: 0}
    expected = sum(5 + again.get(shard, 2) for shard in range(recorded, 10))
    assert sum(model.module.seen) - sum(PROOF) == expected
    same(store, quiet(make_model(), task, batch_size=5, shard_size=5))
    assert not list(path.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_on_one_folder(tmp_path):
    path = tmp_path / "store"
    script = KILLED.format(tests=str(Path(__file__).parent), out=str(path))
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    same(FeatureStore.open(path), quiet(make_model(), make_task(), batch_size=5, shard_size=5))


def test_a_file_that_cannot_grow_leaves_nothing_half_written(tmp_path):
    task, path = make_task(n=2000), tmp_path / "store"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(ExtractionError, match=r"cannot write .*00000.*make room"):
            quiet(make_model(), task, out=path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((path / "shards").iterdir()) == []
    same(quiet(make_model(), task, out=path), quiet(make_model(), task))


def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)],
            check=False,
            capture_output=True,
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        with pytest.raises(ExtractionError, match=r"No space left on device.*make room"):
            quiet(make_model(), make_task(n=3000), shard_size=500, out=disk / "store")
        shards = sorted(disk.glob("store/shards/*"))
        assert shards
        assert all(shard.suffix == ".safetensors" for shard in shards)
        manifest = json.loads((disk / "store" / "manifest.json").read_text())
        assert len(manifest["shards"]) == len(shards)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExtractionError, match="cannot make the folder"):
        quiet(make_model(), make_task(), out=tmp_path / "file" / "store")


def test_nan_features_name_layer_and_example():
    with pytest.raises(ExtractionError, match=r"layer 'relu:0' of 'net' on example 33 .*NaN"):
        quiet(make_model(), make_task(bad=33), batch_size=4, shard_size=10)


def test_nan_weights_leave_finished_work_alone(tmp_path):
    model = make_model()
    model.module.fc.weight.data[0, 0] = float("inf")
    with pytest.raises(ExtractionError, match="the classifier's output of 'net' on example 0"):
        quiet(model, make_task(), out=tmp_path / "store")
    assert list((tmp_path / "store" / "shards").iterdir()) == []


def test_float16(tmp_path):
    model, task = make_model(), make_task()
    full, half = quiet(model, task), quiet(model, task, dtype="float16", out=tmp_path / "half")
    for name in full.names:
        assert half[name].dtype == np.float16
        np.testing.assert_array_equal(half[name], full[name].astype(np.float16))
    model = make_model()
    model.module.conv2.weight.data *= 1e6
    with pytest.raises(
        ExtractionError, match=r"layer 'relu:1' .* beyond float16's 65504; use dtype"
    ):
        quiet(model, task, dtype="float16")
    assert np.isfinite(quiet(model, task)["relu:1"]).all()


def test_mixed_precision_on_the_cpu():
    model, task = make_model(), make_task()
    full, mixed = quiet(model, task), quiet(model, task, amp=True)
    assert mixed.manifest["amp"] == "bfloat16"
    assert mixed.fingerprint != full.fingerprint
    for name in full.names:
        assert mixed[name].dtype == np.float32
        np.testing.assert_allclose(mixed[name], full[name], rtol=0.05, atol=0.02)
        assert not np.array_equal(mixed[name], full[name])


def test_progress_goes_to_stderr(capsys):
    extract(make_model(), make_task())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "net on noise" in captured.err
    assert "0/50" in captured.err


class Unreadable(list):
    def __getitem__(self, index):
        if index == 30:
            raise OSError("cannot identify image file")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_example_that_cannot_be_read(workers):
    data = make_task()["train"]
    split = Split(Unreadable(data.examples), data.labels)
    split.__dict__["fingerprint"] = "0"
    task = Task("noise", "classification", "tensor", {"train": split}, ("a", "b", "c"))
    with pytest.raises(ExtractionError, match=r"example 30 of 'noise' \(train\).*OSError"):
        quiet(make_model(), task, batch_size=5, num_workers=workers)


def test_a_failing_forward_pass_tells_the_shapes():
    rng = np.random.default_rng(0)
    split = Split(list(rng.standard_normal((4, 3, 9, 9)).astype(np.float32)), np.arange(4) % 2)
    task = Task("rgb", "classification", "tensor", {"train": split}, ("a", "b"))
    with pytest.raises(ExtractionError, match=r"net failed on an input of shape \(2, 3, 9, 9\)"):
        quiet(make_model(), task)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"shard_size": 0},
        {"num_workers": -1},
        {"dtype": "float64"},
        {"split": "x"},
    ],
)
def test_wrong_arguments(options):
    with pytest.raises(InvalidInputError):
        quiet(make_model(), make_task(), **options)


def test_plain_modules_and_arrays():
    network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    X = np.random.default_rng(0).standard_normal((10, 2)).astype(np.float32)
    store = quiet(network, (X, [0, 1] * 5))
    with torch.no_grad():
        expected = network[1](network[0](torch.from_numpy(X))).numpy()
    np.testing.assert_allclose(store["2:input"], expected, rtol=1e-6)


class TextNetwork(nn.Module):
    """Word vectors and a classifier on every token, of which the last is returned."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.mix = nn.Linear(6, 6)
        self.score = nn.Linear(6, 2)

    def forward(self, input_ids, attention_mask):
        scores = self.score(torch.tanh(self.mix(self.words(input_ids))))
        return scores[torch.arange(len(scores)), attention_mask.sum(1) - 1]


def pad(inputs):
    length = max(map(len, inputs))
    ids = torch.stack([nn.functional.pad(x, (0, length - len(x)), value=19) for x in inputs])
    mask = torch.stack([(torch.arange(length) < len(x)).long() for x in inputs])
    return {"input_ids": ids, "attention_mask": mask}


def encode(text):
    return torch.tensor([len(word) for word in text.split()])


@pytest.mark.parametrize(
    ("pool", "reduce"),
    [
        ("avg", lambda tokens: tokens.mean(0)),
        ("mean_tokens", lambda tokens: tokens.mean(0)),
        ("max", lambda tokens: tokens.amax(0)),
        ("cls", lambda tokens: tokens[0]),
        ("last_token", lambda tokens: tokens[-1]),
    ],
)
def test_text_of_different_lengths(pool, reduce):
    torch.manual_seed(0)
    network = TextNetwork().double()
    model = Model("text", network, encode, "text", "score", None, collate=pad)
    texts = ["a bb ccc", "dddd", "a a a a bbbbbb cc", "eeeee ff", "g"]
    split = Split(texts, np.arange(5) % 2)
    task = Task("words", "classification", "text", {"train": split}, ("a", "b"))
    store = quiet(model, task, pool=pool, batch_size=3)
    assert store.names == ["words", "mix", "score:input"]
    with torch.no_grad():
        for i, text in enumerate(texts):
            tokens = network.mix(network.words(encode(text)))
            np.testing.assert_allclose(store["mix"][i], reduce(tokens).numpy(), rtol=1e-6)
            last = network.score(torch.tanh(tokens[-1])).numpy()
            np.testing.assert_allclose(store.source_logits[i], last, rtol=1e-5)
    alone = quiet(model, task, pool=pool, batch_size=1)
    for name in store.names:
        np.testing.assert_array_equal(store[name], alone[name])
    with pytest.raises(ExtractionError, match=r"features for an output of shape.*pool='avg'"):
        quiet(model, task, pool="flatten", batch_size=1)


def test_an_empty_text_is_an_error():
    model = Model("text", TextNetwork(), encode, "text", "score", None, collate=pad)
    split = Split(["a b", "c", "", "d"], np.arange(4) % 2)
    task = Task("words", "classification", "text", {"train": split}, ("a", "b"))
    with pytest.raises(ExtractionError, match="example 2 of a batch has no token"):
        quiet(model, task)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_and_back():
    model, task = make_model(), make_task()
    expected = quiet(model, task)
    store = quiet(model, task, device="cuda")
    assert {p.device.type for p in model.module.parameters()} == {"cpu"}
    assert store.fingerprint == expected.fingerprint
    for name in expected.names:
        np.testing.assert_allclose(store[name], expected[name], rtol=1e-2, atol=1e-3)
    assert quiet(model, task, device="cuda", amp=True).manifest["amp"] == "float16"
