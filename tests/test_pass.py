"""How a pass runs: batches loaded while the network works, convolutions with channels last."""

from __future__ import annotations

import sqlite3
import threading

import numpy as np
import pytest
import torch
from torch import nn

import transfer_metrics as tm
from transfer_metrics.errors import ExtractionError
from transfer_metrics.features.batches import _AHEAD
from transfer_metrics.features.extract import extract
from transfer_metrics.features.inference import Inference
from transfer_metrics.features.layers import find_layers
from transfer_metrics.features.pooling import resolve_pool
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Split, Task

COUNT, BATCH = 40, 4


def task_of(examples):
    split = Split(examples, np.arange(len(examples)) % 2)
    return Task("made", "classification", "tensor", {"train": split}, ("a", "b"))


def images(n=COUNT):
    rng = np.random.default_rng(0)
    return list(rng.standard_normal((n, 3, 9, 8)).astype(np.float32))


class Viewing(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1)  # needs channels first


class Peeking(nn.Module):
    """Gives what lies in memory, whatever the axes mean."""

    def forward(self, x):
        return torch.as_strided(x, (len(x), x[0].numel()), (x[0].numel(), 1)).clone()


def model_of(ending=None, seed=0, preprocess=None):
    torch.manual_seed(seed)
    ending = ending or nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    features = 8 * 7 * 6 if isinstance(ending, (Viewing, Peeking)) else 8
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1), ending, nn.Linear(features, 3),
    )  # fmt: skip
    return Model("net", network.eval(), preprocess, "tensor", "6", (3, 9, 8))


def features(model, examples, layers="*", **options):
    store = extract(model, task_of(examples), layers, progress=False, batch_size=BATCH, **options)
    return {name: store[name] for name in store.names}


def layout_of(model, **options):
    """Whether maps had channels last while a pass ran over all batches, by a hook."""
    seen = []
    hook = model.module[4].register_forward_hook(
        lambda module, args, output: seen.append(output.stride(1) == 1)
    )
    features(model, images(), **options)
    hook.remove()
    return set(seen[-COUNT // BATCH :])


@pytest.mark.parametrize("pool", ["avg", "max", "flatten", "grid:64"])
def test_features_with_channels_last_are_those_without_to_rounding(pool):
    model = model_of()
    plain = features(model, images(), pool=pool, as_is=True)
    found = features(model, images(), pool=pool)
    assert found.keys() == plain.keys()
    for name, expected in plain.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5)
    assert layout_of(model, pool=pool) == {True}
    assert layout_of(model, pool=pool, as_is=True) == {False}


@pytest.mark.parametrize("ending", [Viewing, Peeking])
def test_a_network_that_looks_into_memory_keeps_its_order(ending):
    model = model_of(ending())
    assert layout_of(model) == {False}
    plain = features(model, images(), as_is=True)
    for name, found in features(model, images()).items():
        np.testing.assert_array_equal(found, plain[name])


def test_a_pooling_that_looks_into_memory_keeps_the_order():
    def viewed(output, layout, mask):
        return output.view(len(output), -1)

    assert layout_of(model_of(), pool=viewed) == {False}


def test_whether_channels_are_last_depends_on_the_network_alone():
    network = model_of().module
    patches = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(32, 8), nn.Linear(8, 3))
    assert Inference.ways(network, ())
    for other in (network.double(), network.bfloat16(), patches, nn.Sequential(nn.Linear(3, 2))):
        assert not Inference.ways(other, ())
    assert layout_of(model_of(), amp=True) == {False}


def test_weights_are_what_and_where_they_were():
    network = model_of().module
    network[3].weight = nn.Parameter(network[3].weight.detach()[:, :, ::1])
    tied = nn.Sequential(network[0], network[0])
    before = [(p, p.data_ptr(), p.stride(), p.detach().clone()) for p in network.parameters()]

    def turn(part):
        with Inference(True, (("0", "1"),) if part is network else ()).of(part):
            assert network[0].weight.stride(1) == 1
            assert network[1].weight is before[2][0]
            raise KeyboardInterrupt

    for part in (network, tied):
        with pytest.raises(KeyboardInterrupt):
            turn(part)
    for (weight, place, strides, values), now in zip(before, network.parameters(), strict=True):
        assert weight is now
        assert (now.data_ptr(), now.stride()) == (place, strides)
        assert torch.equal(now, values)


class Watched(list):
    """Images; how many were asked for, and by which threads."""

    def __init__(self, n=COUNT, bad=None):
        super().__init__(images(n))
        self.asked, self.threads, self.more, self.bad = 0, set(), threading.Condition(), bad

    def __getitem__(self, index):
        if isinstance(index, int):
            with self.more:
                self.asked += 1
                self.threads.add(threading.current_thread().name)
                self.more.notify_all()
            if index == self.bad:
                raise OSError("no such file")
        return super().__getitem__(index)


def test_the_next_batches_are_loaded_while_the_network_works():
    expected, counted, examples = features(model_of(), images()), Watched(), Watched()
    features(model_of(), counted)
    before, done = counted.asked - COUNT - 1, []  # one is read again behind the shard

    def wait(module, args):
        """Go on only when the next batches were loaded meanwhile, and no more than may be."""
        if len(args[0]) == BATCH:
            done.append(len(args[0]))
            wanted = before + min(COUNT, sum(done) + BATCH * _AHEAD)
            with examples.more:
                assert examples.more.wait_for(lambda: examples.asked >= wanted, 20)
            assert examples.asked == wanted

    model = model_of()
    model.module.register_forward_pre_hook(wait)
    for name, found in features(model, examples).items():
        np.testing.assert_array_equal(found, expected[name])
    assert sum(done) == COUNT
    assert sum(name.startswith("loader") for name in examples.threads) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_an_example_that_cannot_be_read_ends_the_pass_and_its_thread():
    with pytest.raises(ExtractionError, match=r"example 30 of .*OSError: no such file"):
        features(model_of(), Watched(bad=30))
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


def test_what_interrupts_the_network_ends_the_thread():
    def interrupt(module, args):
        if len(args[0]) == BATCH:
            raise KeyboardInterrupt

    model = model_of()
    model.module.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        features(model, images())
    assert not [t for t in threading.enumerate() if t.name.startswith("loader")]


class Table:
    """Images in a data base, which only the thread reads that has opened it."""

    def __init__(self, rows):
        self.base = sqlite3.connect(":memory:")
        self.base.execute("create table images (pixels blob)")
        self.base.executemany("insert into images values (?)", [(row.tobytes(),) for row in rows])
        self.count = len(rows)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError
        query = "select pixels from images where rowid = ?"
        [[pixels]] = self.base.execute(query, (int(index) + 1,))
        return np.frombuffer(pixels, np.float32).reshape(3, 9, 8).copy()


def test_examples_that_belong_to_one_thread_are_read_by_it():
    expected = features(model_of(), images())
    for name, found in features(model_of(), Table(images())).items():
        np.testing.assert_array_equal(found, expected[name])


def test_a_preprocess_that_computes_with_a_network_makes_no_gradients():
    torch.manual_seed(0)
    mixing = nn.Linear(8, 8)
    seen = []

    def mixed(example):
        seen.append(mixing(torch.as_tensor(example)).requires_grad)
        return mixing(torch.as_tensor(example)).detach()

    features(model_of(preprocess=mixed), images())
    assert not any(seen[-COUNT:])


def handed_on(model, norm, **options):
    """Whether a normalisation handed on what it was given, over the pass and over all before."""
    seen = []
    hook = norm.register_forward_hook(lambda module, args, output: seen.append(output is args[0]))
    found = features(model, images(), **options)
    hook.remove()
    return found, set(seen[-COUNT // BATCH :]), set(seen[: -COUNT // BATCH])


def settled(network):
    """With statistics of their own in every normalisation."""
    torch.manual_seed(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.1, 3)
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return network


@pytest.mark.parametrize("bias", [True, False])
def test_a_normalisation_goes_into_a_convolution_that_nobody_reads(bias):
    model = model_of()
    settled(model.module)
    norm, convolution = model.module[1], model.module[0]
    if not bias:
        convolution.bias = None
    layers = ["1", "3", "6:input"]
    expected = features(model, images(), layers, as_is=True)
    found, during, before = handed_on(model, norm, layers=layers)
    assert during == {True}
    assert before == {True, False}
    assert list(found) == layers
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-4, atol=1e-5)
    assert "forward" not in vars(norm)
    assert (convolution.bias is None) != bias
    assert torch.equal(
        norm(torch.ones(1, 8, 1, 1)), nn.BatchNorm2d.forward(norm, torch.ones(1, 8, 1, 1))
    )
    assert handed_on(model, norm, layers=["0", "6:input"])[1] == {False}, "its input is read"


class Reading(nn.Module):
    """Adds to a normalised map the map itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.more = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(self.more(self.norm(x) + x).mean((2, 3)))


def test_a_normalisation_stays_where_its_input_has_another_reader():
    network = settled(Reading()).eval()
    model = Model("reading", network, None, "tensor", "fc", (3, 9, 8))
    expected = features(model, images(), "last", as_is=True)
    found, during, before = handed_on(model, network.norm, layers="last")
    assert during == {False}
    assert before == {True, False}, "it was tried"
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "mobilenetv3_small_050",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("resnet10t", "regnetx_002", "densenet121")
        ),
    ],
)
def test_networks_of_timm_have_the_same_features(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = settled(timm.create_model(name)).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.abs_()
    model = Model(name, network, None, "tensor", None, (3, 64, 64), open_head=True)
    examples = list(np.random.default_rng(0).standard_normal((6, 3, 64, 64)).astype(np.float32))
    expected, found = (features(model, examples, "blocks", as_is=a) for a in (True, False))
    assert found.keys() == expected.keys()
    for layer, rows in expected.items():
        difference = np.abs(found[layer] - rows).max()
        assert difference < 1e-4 * rows.std(), layer
    folds = find_layers(model, ["blocks"], resolve_pool("avg"), torch.zeros(2, 3, 64, 64)).folds
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())
    assert len(folds) > (0.9 if name != "densenet121" else 0.45) * norms


class Counting(nn.Module):
    """Takes the mean of each channel, and notes how many examples it is given."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(3, 2)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return self.classify(x.flatten(2).mean(2))


def batches_in(shape, n, **options):
    """How many examples the network is given at a time, after those that are tried."""
    model = Model("net", Counting().eval(), None, "tensor", "classify", shape)
    examples = list(np.random.default_rng(0).random((n, *shape), dtype=np.float32))
    store = extract(model, task_of(examples), "last", progress=False, **options)
    seen = model.module.seen
    return seen[seen.index(max(seen)) :][:2], store  # few are tried before, and one by one after


@pytest.mark.parametrize(("side", "at_once"), [(8, 64), (64, 64), (160, 64), (224, 32), (384, 8)])
def test_batches_of_large_inputs_are_small(side, at_once):
    n = at_once + 3
    found, store = batches_in((3, side, side), n)
    assert found == [at_once, 3]
    assert store.manifest["batch_size"] == at_once
    assert at_once in (8, 64) or 19e6 < at_once * 3 * side**2 * 4 <= 20 * 2**20


def test_a_size_of_batches_that_is_given_counts():
    found, store = batches_in((3, 128, 128), 70, batch_size=64)
    assert found == [64, 6]
    assert store.manifest["batch_size"] == 64


def test_parts_of_a_pass_have_batches_of_one_size(tmp_path):
    model = Model("net", Counting().eval(), None, "tensor", "classify", (3, 224, 224))
    task = task_of(list(np.random.default_rng(0).random((70, 3, 224, 224), dtype=np.float32)))
    whole = extract(model, task, "last", progress=False)
    kept = extract(model, task, "last", out=tmp_path / "x", shard_size=32, progress=False)
    next((tmp_path / "x/shards").glob("*1.safetensors")).unlink()
    again = extract(model, task, "last", out=tmp_path / "x", shard_size=32, progress=False)
    assert {one.manifest["batch_size"] for one in (whole, kept, again)} == {32}
    [name] = whole.names
    np.testing.assert_array_equal(whole[name], kept[name])
    np.testing.assert_array_equal(whole[name], again[name])


def test_scores_are_found_again_whatever_the_size_of_batches(tmp_path):
    model = model_of()
    asked = {"metrics": ["h_score"], "cache_dir": tmp_path, "progress": False}
    made = tm.rank_models(model, task_of(images()), batch_size=BATCH, **asked)
    again = tm.rank_models(model, task_of(images()), cache="only-cache", **asked)
    assert [r["value"] for r in made.records] == [r["value"] for r in again.records]
    assert not again.failures
