"""Features that do not belong to their examples are refused, and networks stay as they are."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import os
import random
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import transfer_metrics as tm
from tests import text_models
from transfer_metrics.errors import (
    ExtractionError,
    IncompatibleStoreError,
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
)
from transfer_metrics.features.layers import _NO_HEAD, _NO_MODULE
from transfer_metrics.features.proof import _EQUAL, _RANDOM
from transfer_metrics.features.trial import Trial
from transfer_metrics.sources.models.classifier import proven_head

N = 96
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 12)).astype("float32")
Y = np.arange(N) % 3
OWN = torch.Generator().manual_seed(0)


def quiet(model, **options):
    return tm.extract(model, (X, Y), progress=False, **options)


def rank(models, **options):
    options = {"cache": "never", "metrics": "knn", **options}
    return tm.rank_models(models, (X, Y), progress=False, **options)


def plain(seed=0, *first):
    torch.manual_seed(seed)
    return nn.Sequential(*first, nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


# --- random networks ------------------------------------------------------------------------------


class Careless(nn.Module):
    """``F.dropout`` drops in evaluation mode too, unless it is told not to."""

    def __init__(self, p=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.p, self.a, self.b, self.head = (
            p,
            nn.Linear(12, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 3),
        )

    def forward(self, x):
        return self.head(self.b(F.dropout(self.a(x).relu(), self.p)).relu())


class Noise(nn.Module):
    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def forward(self, x):
        return x + self.draw(x)


@pytest.mark.parametrize("p", [0.5, 0.1, 0.01])
def test_dropout_in_evaluation_is_refused_by_the_layer_that_it_enters(p):
    with pytest.raises(ExtractionError, match=r"whenever it reads .*layer 'b' .*--allow-random"):
        quiet(Careless(p))


@pytest.mark.parametrize(
    "draw",
    [
        torch.randn_like,
        lambda x: float(np.random.standard_normal()),  # noqa: NPY002
        lambda x: random.random(),
        lambda x: torch.randn(x.shape, generator=OWN),
    ],
    ids=["torch", "numpy", "random", "own generator"],
)
def test_noise_of_any_source_is_refused_by_its_layer(draw):
    with pytest.raises(ExtractionError, match=r"the first that differs is layer '0' \(Noise\);"):
        quiet(plain(0, Noise(draw)))


class Items:
    """A data set of somebody else, whose examples come from a function."""

    def __init__(self, read):
        self.read = read

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.read(index), int(Y[index])


def test_random_examples_are_not_blamed_on_the_network():
    random_ones = Items(lambda index: torch.rand(12))
    with pytest.warns(TransferMetricsWarning, match="another one each time it is read"):
        table = tm.rank_models(plain(), random_ones, ["knn"], cache="never", progress=False)
    assert "gives another example" in table.failures[0]["error"]
    assert "model" not in table.failures[0]["error"]
    with pytest.warns(TransferMetricsWarning, match="another one each time it is read"):
        table = tm.rank_models(
            plain(), random_ones, ["knn"], cache="never", progress=False, allow_random=True
        )
    assert "examples are other ones" in table.records[0]["note"]


def test_memory_that_the_next_example_overwrites_is_refused():
    pixels = np.zeros((8, 8), np.uint8)

    def read(index):
        pixels[:] = 2 * index
        return Image.frombuffer("L", (8, 8), pixels, "raw", "L", 0, 1)

    def as_input(image):
        return torch.tensor(np.asarray(image) / 255.0).float()

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    model = tm.load_model(
        network,
        modality="image",
        preprocess=lambda image: torch.tensor(np.asarray(image) / 255.0).float(),
    )
    table = tm.rank_models(model, Items(read), ["knn"], cache="never", progress=False)
    assert "return a copy of each" in table.failures[0]["error"]


@pytest.mark.parametrize("error", [OSError("the disk"), StopIteration(), KeyError("k")])
def test_an_example_that_cannot_be_read_is_named(error):
    def read(index):
        if index == 37:
            raise error
        return torch.tensor(X[index])

    with pytest.raises(
        InvalidInputError, match=r"example 37 cannot be read \(" + type(error).__name__
    ):
        tm.extract(plain(), Items(read), progress=False)


def test_networks_made_in_inference_mode_give_what_others_give():
    torch.manual_seed(0)
    with torch.inference_mode():
        made = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    other = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    other.load_state_dict({name: value.clone() for name, value in made.state_dict().items()})
    expected = quiet(other, layers="*")
    for found in (quiet(made, layers="*"), _inside(lambda: quiet(other, layers="*"))):
        for name in expected.names:
            np.testing.assert_array_equal(found[name], expected[name])


def _inside(work):
    with torch.inference_mode():
        return work()


def test_a_modality_without_its_preprocess_is_refused():
    with pytest.raises(InvalidInputError, match=r"'audio' says what preprocess= reads"):
        tm.load_model(plain(), modality="audio")


def test_random_numbers_that_change_nothing_are_no_reason():
    """As of layers that are skipped at random, but only in training."""

    class Skips(nn.Module):
        def forward(self, x):
            return x if torch.rand([]) < 2 else 0 * x

    np.testing.assert_array_equal(quiet(plain(0, Skips()))["3:input"], quiet(plain())["2:input"])


def test_one_draw_is_taken_where_it_is_asked_for_and_said():
    table = rank(Careless(), allow_random=True)
    assert table.ranking().error.isna().all()
    assert table.records[0]["note"] == _RANDOM
    assert _RANDOM in table.format()


def test_the_random_numbers_of_the_caller_go_on_as_if_nothing_had_been(tmp_path):
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    expected = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    quiet(plain(5))
    torch.manual_seed(5)
    with pytest.raises(ExtractionError):
        quiet(plain(5, Noise(torch.randn_like)))
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), expected[0])
    np.testing.assert_array_equal(np.random.rand(3), expected[1])  # noqa: NPY002
    assert random.random() == expected[2]


# --- company --------------------------------------------------------------------------------------


class Centred(nn.Module):
    """Takes the mean of the batch off, or what came before."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


@pytest.mark.parametrize("batch_size", [1, 32, 128])
@pytest.mark.parametrize(
    "leak",
    [
        nn.BatchNorm1d(12, track_running_stats=False),
        nn.BatchNorm1d(12, affine=False, track_running_stats=False),
        Centred(lambda x: x - x.mean(0)),
        Centred(lambda x: x - x.cumsum(0) / 9),
        Centred(lambda x: x - x.flip(0).cumsum(0).flip(0) / 9),
        Centred(lambda x: x / x.abs().max()),
        Centred(lambda x: x + torch.arange(len(x))[:, None]),
        Centred(lambda x: x + torch.arange(len(x)).flip(0)[:, None]),
    ],
    ids=[
        "batch norm",
        "not affine",
        "mean",
        "those before",
        "those behind",
        "largest",
        "place in the batch",
        "place from its end",
    ],
)
def test_what_the_batch_leaks_is_refused_by_its_layer(leak, batch_size):
    with pytest.raises(ExtractionError, match=r"in another batch: the first.* layer '0'"):
        quiet(plain(0, copy.deepcopy(leak)), batch_size=batch_size)


def test_a_failure_of_one_model_leaves_the_others():
    table = rank(
        {"leaks": plain(0, nn.BatchNorm1d(12, track_running_stats=False))}
        if False
        else [plain(0, nn.BatchNorm1d(12, track_running_stats=False)), plain()]
    )
    reasons = [r["error"] for r in table.records]
    assert sum("another batch" in (reason or "") for reason in reasons) == 1


def test_rounding_that_grows_from_layer_to_layer_is_no_leak(monkeypatch):
    """Chaotic, as networks with random weights on data unlike theirs can be."""

    class Chaotic(nn.Module):
        def forward(self, x):
            # Sums in another order for another batch, of which every step doubles the rounding.
            x = (x / len(x)).repeat_interleave(len(x), 1).sum(1, keepdim=True).expand(-1, 12)
            for _ in range(18):
                x = (2 * x + 0.3) % 1
            return x

    quiet(plain(0, Chaotic()), layers="0")
    monkeypatch.setattr(Trial, "_doubled", lambda *_: None)
    with pytest.raises(ExtractionError, match="in another batch"):
        quiet(plain(0, Chaotic()), layers="0")


def test_running_statistics_leak_nothing():
    network = plain(0, nn.BatchNorm1d(12))
    expected = (
        torch.from_numpy(X) / (1 + 1e-5) ** 0.5 @ network[1].weight.T + network[1].bias
    ).relu()
    np.testing.assert_allclose(quiet(network)["3:input"], expected.detach(), rtol=1e-4, atol=1e-6)


class Squeezes(nn.Module):
    """Works on any batch but one of a single example."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.c, self.p = nn.Conv1d(1, 8, 3), nn.AdaptiveAvgPool1d(1)
        self.b, self.fc = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(self.b(self.p(self.c(x[:, None])).squeeze()))


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_a_network_that_cannot_take_a_single_example(batch_size):
    network = Squeezes()
    x = torch.from_numpy(X)[:, None]
    expected = network.b(network.c(x).mean(2)).detach()
    store = quiet(network, batch_size=batch_size, layers="last")
    np.testing.assert_allclose(store["fc:input"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        store.source_logits, network.fc(expected).detach(), rtol=1e-4, atol=1e-6
    )


TEXTS = ["good", "a bad film, really bad, in the United States", "rain", "a film"] * 3


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """Networks of text in which padding reaches the features, and one in which it does not."""
    library, tokenizer = text_models.library(), text_models.word_pieces()
    small = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
    small |= {"vocab_size": len(tokenizer), "max_position_embeddings": 48}
    heads = {"num_attention_heads": 2}
    made = {
        "fnet": library.FNetModel(library.FNetConfig(**small)),
        "convbert": library.ConvBertModel(
            library.ConvBertConfig(**small, **heads, embedding_size=16)
        ),
        "bert": library.BertModel(library.BertConfig(**small, **heads)),
    }
    root = tmp_path_factory.mktemp("leaky")
    for name, network in made.items():
        network.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("name", ["fnet", "convbert", "bert"])
def test_texts_have_the_same_features_beside_longer_ones(leaky, name):
    model = tm.load_model(f"hf:{leaky / name}")
    task = (TEXTS, [0, 1, 0, 1] * 3)
    store = tm.extract(model, task, batch_size=12, progress=False)
    for place, text in enumerate(TEXTS[:4]):  # alone, without the toolkit
        with torch.no_grad():
            hidden = model(model.batch([text])).last_hidden_state[0]
        np.testing.assert_allclose(store[store.names[-1]][place], hidden.mean(0), atol=1e-5)
    assert store.manifest["notes"] == ([] if name == "bert" else [_EQUAL])
    np.testing.assert_array_equal(store[store.names[-1]][0], store[store.names[-1]][4])


def test_heads_read_texts_as_the_features_were_read(leaky):
    task = tm.load_task(TEXTS * 4, [0, 1, 0, 1] * 12)
    probe = tm.LinearProbe(layers="last", C_grid=(1.0,)).fit(
        tm.load_model(f"hf:{leaky / 'convbert'}"), task
    )
    together = probe.predict_proba(TEXTS[:4])
    alone = np.concatenate([probe.predict_proba([text]) for text in TEXTS[:4]])
    np.testing.assert_allclose(together, alone, atol=1e-5)


# --- the classifier -------------------------------------------------------------------------------


class Body(nn.Module):
    """A network whose output is wrapped in something."""

    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.wrap, self.body, self.fc = wrap, nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.body(x).relu()
        return self.wrap(hidden, self.fc(hidden))


@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
    logits: torch.Tensor


class Named(NamedTuple):
    hidden: torch.Tensor
    logits: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda h, z: z,
        lambda h, z: {"logits": z},
        lambda h, z: {"hidden": h, "logits": z},
        lambda h, z: (h, z),
        lambda h, z: [None, {"deep": (z,)}],
        Output,
        Named,
        lambda h, z: z.softmax(1),
        lambda h, z: (h, z.log_softmax(1)),
        lambda h, z: {"probabilities": z.sigmoid()},
    ],
)
def test_the_classifier_is_found_in_any_output(wrap):
    network = Body(wrap)
    store = quiet(network, layers="last")
    hidden = (torch.from_numpy(X) @ network.body.weight.T + network.body.bias).relu().detach()
    assert store.names == ["fc:input"]
    assert store.manifest["notes"] == []
    np.testing.assert_allclose(store["fc:input"], hidden, rtol=1e-4, atol=1e-6)
    logits = hidden @ network.fc.weight.T + network.fc.bias
    np.testing.assert_allclose(store.source_logits, logits.detach(), rtol=1e-4, atol=1e-6)


class Sequence(nn.Module):
    def __init__(self, first, width):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.fc = first, nn.Linear(width, 3)

    def forward(self, x):
        out = self.first(x.reshape(len(x), 3, 4))
        return self.fc(out[0][:, -1] if isinstance(out, tuple) else out.mean(2))


CONVOLUTIONS = nn.Sequential(
    nn.Unflatten(1, (3, 2, 2)),
    nn.Conv2d(3, 5, 1),
    nn.ReLU(),
    nn.Conv2d(5, 4, 1),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
)


class Cosine(nn.Module):
    """A classifier by cosine, as many of somebody's own: one matrix, and not torch's linear."""

    def __init__(self, width, classes):
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(classes, width))

    def forward(self, x):
        return 10 * F.normalize(x) @ F.normalize(self.weight).T


class Shortcut(nn.Module):
    """A block of somebody's own that ends a network without a classifier."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x):
        return x + (x @ self.weight).relu()


WHOLE_MAP = nn.Sequential(
    nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.Flatten()
)


def test_a_block_of_ones_own_is_no_classifier():
    store = quiet(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), Shortcut(8)), layers="last")
    assert (store.names, store.manifest["head"]) == (["2"], None)


def test_of_several_classifiers_whose_mean_is_returned_that_is_said():
    class Ensemble(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(plain(seed) for seed in (0, 1))

        def forward(self, x):
            return (self.parts[0](x) + self.parts[1](x)) / 2

    store = quiet(Ensemble(), layers="last")
    assert store.names == ["parts.0.2:input"]
    assert "the mean of several classifiers" in store.manifest["notes"][0]


@pytest.mark.parametrize(
    ("network", "head", "dim"),
    [
        (nn.Sequential(nn.Linear(12, 8), nn.ReLU(), Cosine(8, 5)), "2", 8),
        (WHOLE_MAP, "3", 5),
        (plain().double(), "2", 8),
        (plain().bfloat16(), "2", 8),
        (plain().half(), "2", 8),
        (plain(0, nn.LayerNorm(12)), "3", 8),
        (plain(0, nn.BatchNorm1d(12)), "3", 8),
        (Sequence(nn.LSTM(4, 6, batch_first=True), 6), "fc", 6),
        (Sequence(nn.GRU(4, 6, batch_first=True), 6), "fc", 6),
        (Sequence(nn.Conv1d(3, 6, 2), 6), "fc", 6),
        (Sequence(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 3), "fc", 3),
        (CONVOLUTIONS, "3", 5),
    ],
)  # fmt: skip
def test_the_classifier_of_networks_of_any_precision_and_beginning(network, head, dim):
    store = quiet(network, layers="last")
    assert store.manifest["head"] == head
    assert [(layer.name, layer.dim) for layer in store.layers] == [(f"{head}:input", dim)]
    listed = tm.list_layers(network, "last", example=torch.from_numpy(X[:2]))
    assert [layer.name for layer in listed] == store.names
    assert store.manifest["notes"] == []


def test_the_input_of_the_classifier_times_its_weights_is_the_output():
    network = plain(3, nn.LayerNorm(12)).double()
    store = quiet(network, layers="last")
    given = store["3:input"].astype(np.float64)
    made = given @ network[3].weight.detach().numpy().T + network[3].bias.detach().numpy()
    np.testing.assert_allclose(made, network(torch.from_numpy(X).double()).detach(), rtol=1e-5)


class Functional(nn.Module):
    """A classifier that is no module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.weight = nn.Linear(12, 8), nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        return F.linear(self.body(x).relu(), self.weight)


def test_a_classifier_that_is_not_found_is_said(tmp_path):
    table = rank(Functional())
    assert {r["note"] for r in table.records} == {_NO_MODULE}
    assert _NO_MODULE in str(table)
    table.save(tmp_path / "scores.jsonl")
    assert json.loads((tmp_path / "scores.jsonl").read_text().splitlines()[0])["note"] == _NO_MODULE
    again = tm.ScoreTable.load(tmp_path / "scores.jsonl")
    assert again.notes == {_NO_MODULE: ["Functional"]}
    again.report(tmp_path / "report.html")
    assert "no module gives what the network returns" in (tmp_path / "report.html").read_text()
    # Who says that there is none is not told so again.
    assert rank(tm.load_model(Functional(), head=False)).notes == {}


def test_a_network_that_ends_with_features_says_so():
    network = nn.Sequential(nn.Linear(12, 8), nn.ReLU())
    assert {r["note"] for r in rank(network).records} == {_NO_HEAD}
    assert rank(tm.load_model(network, head=False)).notes == {}


def test_a_layer_that_is_not_what_the_network_returns_is_no_classifier():
    x = torch.from_numpy(X[:4])
    assert proven_head(nn.Sequential(nn.Linear(12, 3), nn.ReLU()), x) is None
    residual = Centred(lambda x: x)
    residual.layer = nn.Linear(12, 12)
    residual.how = lambda x: x + residual.layer(x)
    assert proven_head(residual, x) is None
    two = nn.ModuleDict({"a": nn.Linear(12, 3), "b": nn.Linear(12, 3)})
    two.forward = lambda x: (two["a"](x) + two["b"](x)) / 2  # as in distilled transformers
    assert proven_head(two, x) == "a"


# --- the caller's module --------------------------------------------------------------------------


def state(network):
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
    return {
        "tensors": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "modes": [m.training for m in network.modules()],
        "grad": [p.requires_grad for p in network.parameters()],
        "hooks": hooks,
        "types": [type(m) for m in network.modules()],
    }


def assert_same(before, after):
    assert before["tensors"].keys() == after["tensors"].keys()
    assert all(torch.equal(t, after["tensors"][name]) for name, t in before["tensors"].items())
    assert {k: v for k, v in before.items() if k != "tensors"} == {
        k: v for k, v in after.items() if k != "tensors"
    }


class Counts(nn.Module):
    """Writes to its buffers when it runs, in place and anew."""

    def __init__(self):
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("last", torch.zeros(12), persistent=False)

    def forward(self, x):
        self.runs += 1
        self.last = x.mean(0)
        return x


@pytest.mark.parametrize("layers", ["blocks", "no_such_layer"])
@pytest.mark.parametrize(
    "first", [Counts(), nn.BatchNorm1d(12), nn.BatchNorm1d(12, track_running_stats=False)]
)
def test_the_network_is_as_it_was_whatever_happens(first, layers):
    network = plain(0, copy.deepcopy(first))
    network[1].train(), network[2].eval()
    network[1].weight.requires_grad_(False)
    before = state(network)
    with contextlib.suppress(ExtractionError, LayerNotFoundError):
        quiet(network, layers=layers)
    assert_same(before, state(network))


def lazy():
    return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))


def test_a_lazy_network_takes_its_shapes_from_the_task():
    network = lazy()
    store = quiet(network, layers="last")
    assert [tuple(p.shape) for p in network.parameters()] == [(8, 12), (8,), (3, 8), (3,)]
    assert [type(m) for m in network] == [nn.Linear, nn.ReLU, nn.Linear]
    expected = network[1](network[0](torch.from_numpy(X))).detach()
    np.testing.assert_allclose(store["2:input"], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(store["2:input"], quiet(lazy(), layers="last")["2:input"])


@pytest.mark.parametrize(
    ("network", "options"),
    [
        (lazy(), {"layers": "no_such_layer"}),
        (nn.Sequential(nn.LazyLinear(8), nn.Linear(7, 3)), {}),
        (nn.Sequential(nn.LazyLinear(8), Noise(torch.randn_like)), {}),
        (nn.Sequential(nn.LazyBatchNorm1d(), nn.LazyLinear(8)), {"layers": "no_such_layer"}),
    ],
)
def test_a_lazy_network_stays_lazy_when_something_fails(network, options):
    types = [type(m) for m in network.modules()]
    with pytest.raises(tm.TransferMetricsError):
        quiet(network, **options)
    assert [type(m) for m in network.modules()] == types
    assert nn.parameter.is_lazy(next(network.parameters()))
    fresh = network[0](torch.from_numpy(X))  # and can still be used
    assert len(fresh) == N


def test_listing_layers_leaves_a_lazy_network_lazy():
    network = lazy()
    listed = tm.list_layers(network, example=torch.from_numpy(X[:2]))
    assert [layer.dim for layer in listed] == [8]
    assert nn.parameter.is_lazy(network[0].weight)


# --- the cache ------------------------------------------------------------------------------------


class Masked(nn.Module):
    """Networks that differ in what no checkpoint has."""

    scale = 1.0

    def __init__(self, keep=12, buffer=True, power=1.0, function=torch.relu):
        super().__init__()
        torch.manual_seed(0)
        mask = (torch.arange(12) < keep).float()
        if buffer:
            self.register_buffer("mask", mask, persistent=False)
        else:
            self.mask = mask
        self.power, self.function = power, function
        self.a, self.head = nn.Linear(12, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.function(self.a(x * self.mask) * Masked.scale) ** self.power)


@pytest.mark.parametrize(
    "options",
    [
        {"keep": 1},
        {"keep": 1, "buffer": False},
        {"power": 2.0},
        {"function": torch.abs},
        {"function": lambda x: x.relu() + 1},
    ],
)
@pytest.mark.parametrize("engine", [{"stream": False}, {"stream": True}])
def test_networks_that_differ_in_what_is_not_saved_have_scores_of_their_own(
    tmp_path, options, engine
):
    keep = {"cache": "only-missing", "cache_dir": tmp_path, "metrics": "logme", **engine}
    first = rank(Masked(), **keep).ranking().score[0]
    second = rank(Masked(**options), **keep).ranking().score[0]
    assert second == rank(Masked(**options), metrics="logme").ranking().score[0] != first
    assert rank(Masked(), **{**keep, "cache": "only-cache"}).ranking().score[0] == first


def test_a_global_of_the_forward_counts(tmp_path, monkeypatch):
    keep = {"cache": "only-missing", "cache_dir": tmp_path, "metrics": "logme"}
    first = rank(Masked(), **keep).ranking().score[0]
    monkeypatch.setattr(Masked, "scale", 3.0)
    assert rank(Masked(), **keep).ranking().score[0] != first


LIMIT, LIMITS, SETTINGS = 9.0, [9.0], SimpleNamespace(limit=9.0)
RARE = X.copy()
RARE[40:70, 0] = 5.0 + Y[40:70]  # none of them is looked at beforehand
RARE[[*range(40), *range(70, N)]] = np.clip(X[[*range(40), *range(70, N)]], -2, 2)


def below(x, *, limit=9.0):
    return x * (x < limit)


class Cutter:
    __slots__ = ("limit",)

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, x):
        return x * (x < self.limit)

    def cut(self, x):
        return self(x)


class Cuts(nn.Module):
    """Cuts off what is above a limit, which only examples that are not looked at reach."""

    bound = 9.0

    def __init__(self, function=lambda x: x * (x < LIMIT)):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head, self.function = nn.Linear(12, 8), nn.Linear(8, 3), function

    @property
    def largest(self):
        return 9.0

    def within(self, x):
        return x * (x < self.bound)

    def forward(self, x):
        return self.head(self.a(self.within(self.function(x)) * (x < self.largest)))


def _hook(_module, given, output):
    return output * (given[0][:, :1] < 3)


def _pre_hook(_module, given):
    return (below(given[0], limit=3.0),)


def _of_all(_network, patch):
    patch.setattr(torch.nn.modules.module, "_global_forward_pre_hooks", {0: _pre_hook})


def _set(thing, name, value):
    return lambda _network, patch: patch.setattr(thing, name, value)


def _function(value):
    return lambda network, _patch: setattr(network, "function", value)


CHANGES = {
    "hook": (below, lambda network, _: network.a.register_forward_hook(_hook)),
    "pre-hook": (below, lambda network, _: network.a.register_forward_pre_hook(_pre_hook)),
    "hook of all": (below, _of_all),
    "number": (lambda x: x * (x < LIMIT), lambda _, p: p.setitem(globals(), "LIMIT", 3.0)),
    "in a helper": (
        lambda x: (lambda y: y * (y < LIMIT))(x), lambda _, p: p.setitem(globals(), "LIMIT", 3.0),
    ),
    "list": (lambda x: x * (x < LIMITS[0]), lambda _, p: p.setitem(globals(), "LIMITS", [3.0])),
    "namespace": (lambda x: x * (x < SETTINGS.limit), _set(SETTINGS, "limit", 3.0)),
    "partial": (
        functools.partial(below, limit=9.0), _function(functools.partial(below, limit=3.0)),
    ),
    "slots": (Cutter(9.0), _function(Cutter(3.0))),
    "bound method": (Cutter(9.0).cut, _function(Cutter(3.0).cut)),
    "keyword": (lambda x: below(x), _set(below, "__kwdefaults__", {"limit": 3.0})),
    "class attribute": (below, _set(Cuts, "bound", 3.0)),
    "method": (below, _set(Cuts, "within", lambda _self, x: below(x, limit=3.0))),
    "property": (below, _set(Cuts, "largest", property(lambda _self: 3.0))),
    "its module": (lambda x: x * (x < text_models.LIMIT), _set(text_models, "LIMIT", 3.0)),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_what_changes_between_runs_changes_scores_and_stores(tmp_path, monkeypatch, what):
    monkeypatch.setattr(text_models, "LIMIT", 9.0, raising=False)
    function, change = CHANGES[what]
    network = Cuts(function)
    keep = {"cache": "only-missing", "cache_dir": tmp_path / "cache", "metrics": "logme"}

    def score(**options):
        table = tm.rank_models(network, (RARE, Y), progress=False, **options)
        return table.records[0]["value"]

    def store():
        return tm.extract(network, (RARE, Y), out=tmp_path / "store", progress=False)

    first, features = score(**keep), store()["head:input"]
    assert score(**{**keep, "cache": "only-cache"}) == first
    np.testing.assert_array_equal(store()["head:input"], features)
    head = tm.LinearProbe().fit(network, tm.load_task((RARE, Y)))
    head.save(tmp_path / "head")
    tm.load_head(tmp_path / "head", model=network)
    change(network, monkeypatch)
    assert score(**keep) == score(cache="never", metrics="logme") != first
    with pytest.raises(IncompatibleStoreError, match="code, hooks or attributes"):
        store()
    with pytest.raises(IncompatibleStoreError, match="code, hooks or attributes"):
        tm.load_head(tmp_path / "head", model=network)


@pytest.mark.integration
def test_settings_are_the_same_in_every_process():
    code = (
        "from tests.test_proof import CHANGES, Cuts, text_models\n"
        "from transfer_metrics.sources.models.settings import Settings, unsaved\n"
        "text_models.LIMIT = 9.0\n"
        "for function, _ in CHANGES.values():\n"
        "    network = Cuts(function)\n"
        "    network.register_forward_hook(lambda m, i, o: o if len(o) in {7, 8, 9} else o)\n"
        "    network.words = {'a', 'b', 'c', ('d', 1)}\n"
        "    print(Settings.of(unsaved(network), unsaved(network)))\n"
    )

    def told(seed):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
        )
        return run.stdout.splitlines()

    first = told("1")
    assert first == told("2")
    assert len(first) == len(CHANGES)


@pytest.mark.parametrize("into", ["list", "object", "last"])
def test_a_hook_that_records_is_no_change(tmp_path, into):
    class Recorder:
        def __init__(self):
            self.calls, self.outputs, self.last = 0, [], None

        def __call__(self, _module, _given, output):
            self.calls, self.last = self.calls + 1, output
            if into == "object":
                self.outputs.append(SimpleNamespace(output=output))

    network, outputs = Cuts(), []
    hook = Recorder() if into != "list" else lambda _m, _g, output: outputs.append(output)
    network.a.register_forward_hook(hook)
    keep = {"cache_dir": tmp_path / "cache", "metrics": "logme"}
    first = rank(network, cache="only-missing", **keep).records[0]["value"]
    for _ in range(2):
        quiet(network, out=tmp_path / "store")
        assert rank(network, cache="only-cache", **keep).records[0]["value"] == first
    head = tm.LinearProbe().fit(network, tm.load_task((X, Y)))
    head.save(tmp_path / "head")
    loaded = tm.load_head(tmp_path / "head", model=network)
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))


def test_few_examples_are_read_beforehand():
    network, seen = plain(), []
    handle = network.register_forward_pre_hook(lambda _m, given: seen.append(len(given[0])))
    model = tm.load_model(network)
    seen.clear()
    quiet(model, batch_size=N)
    assert seen == [2, 3, 1, N, 1]  # and the last of the first batch, alone
    seen.clear()
    quiet(model, batch_size=30)
    assert seen == [30, 30, 30, 6, 1]
    handle.remove()


def test_a_classifier_that_the_examples_show_takes_no_further_pass():
    model, seen = tm.load_model(copy.deepcopy(CONVOLUTIONS)), []
    assert model.head is None  # nothing tells the shape of its inputs
    model.module.register_forward_pre_hook(lambda _m, given: seen.append(len(given[0])))
    store = quiet(model, batch_size=N, as_is=True)
    assert (store.manifest["head"], store.names[-1]) == ("3", "3:input")
    assert seen == [2, 3, 1, N, 1]


# --- neighbours of these --------------------------------------------------------------------------


class Two(nn.Module):
    """Returns the outputs of two classifiers, one of them of a side task."""

    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.wrap, self.a, self.b = wrap, nn.Linear(12, 32), nn.Linear(32, 16)
        self.fc, self.domain = nn.Linear(16, 3), nn.Linear(32, 2)

    def forward(self, x):
        h = self.a(x).relu()
        return self.wrap(self.fc(self.b(h).relu()), self.domain(h))


def test_what_is_called_logits_is_the_classifier():
    store = quiet(Two(lambda logits, domain: {"logits": logits, "domain": domain}), layers="last")
    assert (store.names, store.manifest["notes"]) == (["fc:input"], [])


def test_several_classifiers_are_said():
    table = rank(Two(lambda logits, domain: (logits, domain)))
    assert "'domain' is taken for the classifier" in table.records[0]["note"]
    assert "such as 'fc'" in table.records[0]["note"]
    named = rank(tm.load_model(Two(lambda logits, domain: (logits, domain)), head="fc"))
    assert named.notes == {}


@pytest.mark.parametrize("seed", range(12))
def test_a_gate_of_as_many_outputs_is_no_classifier(seed):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(seed)
            self.a, self.g, self.u, self.v = (
                nn.Linear(12, 16),
                nn.Linear(16, 2),
                nn.Linear(16, 16),
                nn.Linear(16, 16),
            )
            self.w = nn.Parameter(torch.randn(2, 16))

        def forward(self, x):
            h = self.a(x).relu()
            gate = self.g(h).softmax(1)
            return F.linear(gate[:, :1] * self.u(h) + gate[:, 1:] * self.v(h), self.w)

    assert quiet(Gated(), layers="blocks").manifest["head"] is None


def test_a_stretched_output_of_two_classes_has_a_classifier():
    network = Body(lambda h, z: 3 * z[:, :2] + 1)
    network.fc = nn.Linear(8, 2)
    assert quiet(network, layers="last").manifest["head"] == "fc"


def test_thresholds_that_a_few_examples_do_not_meet_have_scores_of_their_own(tmp_path):
    class Clipped(nn.Module):
        def __init__(self, limit):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.head, self.limit = nn.Linear(12, 32), nn.Linear(32, 3), limit

        def forward(self, x):
            h = self.a(x)
            return self.head(torch.where(h.abs() > self.limit, 0 * h, h))

    for limit in (9.0, 2.0, 1.5, 1.2):
        kept = rank(Clipped(limit), cache="only-missing", cache_dir=tmp_path, metrics="logme")
        true = rank(Clipped(limit), metrics="logme")
        assert kept.records[0]["value"] == true.records[0]["value"]


def test_what_a_network_remembers_of_the_batch_before_is_refused():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head, self.last = nn.Linear(12, 16), nn.Linear(16, 3), torch.zeros(1, 16)

        def forward(self, x):
            h = self.a(x).relu()
            out = h + 3 * self.last
            self.last = h[-1:].detach()
            return self.head(out)

    with pytest.raises(ExtractionError, match=r"whenever it reads|in another batch"):
        quiet(Remembers())


class Experts(nn.Module):
    """Two experts, each of which takes so many examples of a batch, as in sparse mixtures."""

    def __init__(self, capacity):
        super().__init__()
        torch.manual_seed(0)
        self.capacity, self.gate = capacity, nn.Linear(12, 2)
        self.experts = nn.ModuleList(nn.Linear(12, 16) for _ in range(2))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        chosen, out = self.gate(x).argmax(1), x.new_zeros(len(x), 16)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[: self.capacity, 0]
            out[rows] = expert(x[rows])
        return self.head(out)


class Emptied(nn.Module):
    """Takes off the mean of a batch where there is enough of it."""

    def forward(self, x):
        return x - x.mean(0) if len(x) > 8 else x


class Drifting(nn.Module):
    """What it remembers of the batches before shows after some of them."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return x * (1 + 0.1 * max(0, self.passes - 12))


@pytest.mark.parametrize(
    ("network", "batch_size", "match"),
    [
        (Experts(10), 64, "in another batch"),
        (plain(0, Emptied()), 64, r"in another batch: .* layer '0' \(Emptied\)"),
        (plain(0, Drifting()), 8, "whenever it reads"),
    ],
)
def test_what_three_examples_do_not_show_is_refused_in_the_pass(network, batch_size, match):
    with pytest.raises(ExtractionError, match=match):
        quiet(network, batch_size=batch_size)


def test_what_the_pass_refuses_fails_in_a_ranking_too():
    table = rank({"experts": Experts(10), "wide": Experts(N), "plain": plain()})
    errors = {record["model"]: record["error"] for record in table.records}
    assert "in another batch" in errors["experts"]
    assert errors["wide"] is errors["plain"] is None


def test_a_network_that_counts_its_passes_is_found_in_the_cache(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.head, self.seen = nn.Linear(12, 16), nn.Linear(16, 3), 0

        def forward(self, x):
            self.seen += len(x)
            return self.head(self.a(x).relu())

    network = Counting()
    keep = {"cache": "only-missing", "cache_dir": tmp_path}
    rank(network, **keep)
    before = network.seen
    rank(network, **keep)
    assert network.seen - before <= 16  # what it takes to find the head, and to know it again


def test_random_numbers_that_show_seldom_are_said():
    class Rare(nn.Module):
        def forward(self, x):
            return x * (torch.rand(len(x), 1) > 1e-4)

    assert "draws random numbers" in rank(plain(0, Rare())).records[0]["note"]


def test_a_classifier_that_is_a_convolution_reads_channels():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.head = nn.Linear(12, 16), nn.Conv1d(16, 3, 1)

        def forward(self, x):
            return self.head(self.body(x).relu()[:, :, None])[:, :, 0]

    network = Last()
    store = quiet(network, layers="last")
    expected = network.body(torch.from_numpy(X)).relu().detach()
    np.testing.assert_allclose(store["head:input"], expected, rtol=1e-4, atol=1e-6)
