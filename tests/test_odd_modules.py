"""Networks as people have them: compiled, wrapped, scripted, quantised, time first, with hooks."""

from __future__ import annotations

import copy
import dataclasses
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import transfer_metrics as tm
from transfer_metrics.errors import ExtractionError, InvalidInputError, LayerNotFoundError
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.trace import first_tensor
from transfer_metrics.sources.models.modules import evaluation, plain_module, unfused, weight_bytes

N = 24
X = np.random.default_rng(0).normal(size=(N, 12)).astype("float32")
Y = np.arange(N) % 3
NAMES = ["0", "1", "2.0", "2.1", "3:input", "3"]


def plain() -> nn.Sequential:
    """The network that is compiled, wrapped and so on below."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), inner, nn.Linear(8, 3)).eval()


def by_hand(network: nn.Module, x: Any = X) -> dict[str, torch.Tensor]:
    """What each module gives, by hooks of our own; the last call of each."""
    seen: dict[str, Any] = {}
    handles = [
        module.register_forward_hook(lambda _m, _i, o, path=path: seen.update({path: o}))
        for path, module in network.named_modules()
    ]
    training = network.training
    network.eval()(torch.as_tensor(x))  # with gradients, so that torch's fast path is not taken
    network.train(training)
    for handle in handles:
        handle.remove()
    return {path: first_tensor(output).detach() for path, output in seen.items()}


def extract(network: Any, layers: Any = "*", **options: Any):
    return tm.extract(network, (X, Y), layers=layers, progress=False, **options)


def assert_like_plain(network: nn.Module, *, structure: bool = True) -> None:
    """Names, features, scores and structure of a network are those of the plain one."""
    expected = by_hand(plain())
    expected["3:input"] = expected["2"]
    store = extract(network)
    assert store.names == NAMES
    for name in NAMES:
        np.testing.assert_allclose(store[name], expected[name].numpy(), atol=1e-6)
    np.testing.assert_allclose(store.source_logits, expected["3"].numpy(), atol=1e-6)
    listed = tm.list_layers(network, example=torch.tensor(X))
    assert [layer.name for layer in listed] == ["1", "3:input"]
    [score], [wanted] = (
        tm.rank_models(m, (X, Y), "knn", cache="never", progress=False).ranking()["score"]
        for m in (network, plain())
    )
    assert score == wanted
    if structure:
        assert tm.load_model(network).fingerprint == tm.load_model(plain()).fingerprint


# ---------------------------------------------------------------- compiled


def _run(network: nn.Module) -> nn.Module:
    """The same after it has run with several shapes."""
    with torch.no_grad():
        for n in (24, 2, 7):
            network(torch.as_tensor(X[:n]))
    return network


def _compiled(run: bool, backend: str) -> nn.Module:
    network = torch.compile(plain(), backend=backend)
    return _run(network) if run else network


def _in_place(network: nn.Module, part: nn.Module) -> nn.Module:
    part.compile(backend="aot_eager")
    return _run(network)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("run", [False, True])
def test_a_compiled_network_gives_the_features_of_the_plain_one(backend, run):
    network = _compiled(run, backend)
    assert_like_plain(network)
    assert isinstance(network, torch._dynamo.eval_frame.OptimizedModule)
    torch.testing.assert_close(network(torch.tensor(X)), plain()(torch.tensor(X)))


@pytest.mark.parametrize("part", ["", "2"])
def test_modules_that_were_compiled_in_place(part):
    network = plain()
    _in_place(network, network.get_submodule(part))
    assert_like_plain(network)
    assert network.get_submodule(part)._compiled_call_impl is not None


def test_a_compiled_part_has_the_layer_names_of_the_plain_one():
    network = plain()
    network[2] = part = torch.compile(network[2], backend="aot_eager")
    _run(network)
    network.train()
    assert_like_plain(network)
    assert network[2] is part  # the caller's network is left as it is
    assert all(module.training for module in network.modules())


def test_a_compiled_method_inside():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = nn.Linear(12, 8), nn.Linear(8, 3)
            self.fast = torch.compile(self.slow, backend="eager")

        def slow(self, x):
            return torch.relu(self.a(x))

        def forward(self, x):
            return self.fc(self.fast(x))

    network = _run(Network())
    np.testing.assert_allclose(extract(network)["a"], by_hand(network)["a"].numpy(), atol=1e-6)


def test_a_network_with_hooks_can_be_compiled_itself():
    head = tm.LinearProbe().fit(extract(plain(), "blocks"))
    network, x = head.network(plain()).eval(), torch.tensor(X)
    compiled = torch.compile(network, backend="aot_eager")
    with torch.no_grad():
        for n in (N, 3):
            torch.testing.assert_close(compiled(x[:n]), network(x[:n]))


@pytest.mark.slow
def test_inductor():
    assert_like_plain(_compiled(True, "inductor"))


@pytest.mark.slow
def test_compiled_networks_in_processes():
    network = plain()
    networks = [_compiled(True, "eager"), _in_place(network, network), nn.DataParallel(plain())]
    for given in networks:
        table = tm.rank_models(
            given, (X, Y), "knn", engine="processes", cache="never", progress=False
        )
        expected = tm.rank_models(plain(), (X, Y), "knn", cache="never", progress=False)
        assert table.ranking()["score"][0] == expected.ranking()["score"][0]


# ---------------------------------------------------------------- wrapped


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        AveragedModel,
        lambda network: torch.compile(nn.DataParallel(network), backend="eager"),
    ],
)
def test_wrappers_are_taken_off(wrap):
    network = wrap(plain())
    assert_like_plain(network)
    assert tm.load_model(network).name == "Sequential"


def test_distributed_networks_are_taken_off(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("torch without torch.distributed")
    distributed.init_process_group("gloo", f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        assert_like_plain(nn.parallel.DistributedDataParallel(plain()))
    finally:
        distributed.destroy_process_group()


def test_a_wrapper_of_ones_own_keeps_its_name():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(2 * x)

    store, expected = extract(Wrapper(plain())), by_hand(plain(), 2 * X)
    assert store.names == [f"module.{name}" for name in NAMES]
    np.testing.assert_allclose(store["module.2.1"], expected["2.1"].numpy(), atol=1e-6)


def test_a_module_that_is_registered_twice_stays_one():
    shared = torch.compile(nn.Linear(4, 4), backend="eager")
    found = plain_module(nn.ModuleList([nn.Sequential(shared), shared]))
    assert found[0][0] is found[1] is shared._orig_mod


# ---------------------------------------------------------------- scripted and exported


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda network: torch.jit.trace(network, torch.tensor(X))]
)
def test_torchscript_is_refused_with_the_cure(make):
    for use in (extract, tm.load_model, lambda m: tm.list_layers(m, example=torch.tensor(X))):
        with pytest.raises(InvalidInputError, match=r"TorchScript.*load_state_dict"):
            use(make(plain()))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_part_is_a_layer():
    network = plain()
    network[2] = torch.jit.script(network[2])
    store, expected = extract(network, ["blocks", "2"]), by_hand(plain())
    assert store.names == ["1", "2", "3:input"]
    np.testing.assert_allclose(store["2"], expected["2"].numpy(), atol=1e-6)


def test_graph_modules_have_the_layers_of_the_network():
    assert_like_plain(torch.fx.symbolic_trace(plain()), structure=False)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_exported_programs_are_refused_and_their_modules_work():
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(plain(), (torch.tensor(X),), dynamic_shapes=shapes)
    with pytest.raises(InvalidInputError, match=r"torch\.export\.unflatten\(program\)"):
        extract(program.module())
    store, expected = extract(torch.export.unflatten(program)), by_hand(plain())
    for name in ("0", "1", "2.0", "2.1"):
        np.testing.assert_allclose(store[name], expected[name].numpy(), atol=1e-6)


def test_a_network_of_one_module_has_no_layers():
    with pytest.raises(LayerNotFoundError, match="one module, inside which no other runs"):
        extract(nn.Linear(12, 3))


# ---------------------------------------------------------------- weights of other kinds


quantised = pytest.mark.filterwarnings("ignore:.*quantiz:")


@quantised
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_dynamically_quantised_networks():
    network = torch.ao.quantization.quantize_dynamic(plain(), {nn.Linear})
    store, expected = extract(network), by_hand(network)
    assert {"0", "1", "2.0", "2.1"} <= set(store.names)
    for name in ("0", "1", "2.0", "2.1"):
        np.testing.assert_allclose(store[name], expected[name].numpy(), atol=1e-6)
    assert "1" in extract(network, "blocks").names
    other = copy.deepcopy(network)
    assert tm.load_model(other).fingerprint == tm.load_model(network).fingerprint
    other[0].set_weight_bias(other[2][0].weight(), None)
    assert tm.load_model(other).fingerprint != tm.load_model(network).fingerprint


class Sound(nn.Module):
    """A recurrent network over pieces of the input."""

    def __init__(self, batch_first=True, steps=4):
        super().__init__()
        self.steps, self.batch_first = steps, batch_first
        self.rnn = nn.LSTM(12 // steps, 6, batch_first=batch_first)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = x.view(len(x), self.steps, -1)
        x = x if self.batch_first else x.transpose(0, 1)
        out = self.rnn(x)[0]
        return self.fc(out[:, -1] if self.batch_first else out[-1])


@quantised
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_statically_quantised_networks():
    torch.manual_seed(0)
    quantization = torch.ao.quantization
    network = nn.Sequential(
        nn.Unflatten(1, (1, 12)), quantization.QuantStub(), nn.Conv1d(1, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(40, 3), quantization.DeQuantStub(),
    ).eval()  # fmt: skip
    network.qconfig = quantization.get_default_qconfig("x86")
    prepared = quantization.prepare(network)
    prepared(torch.tensor(X))
    network = quantization.convert(prepared)
    store = extract(network, ["2", "3", "4", "5"])
    seen = by_hand(network)
    assert [layer.layout for layer in store.layers] == ["NCT", "NCT", "ND", "ND"]
    for name in store.names:
        wanted = seen[name].dequantize()
        wanted = wanted.mean(2) if wanted.ndim == 3 else wanted
        np.testing.assert_allclose(store[name], wanted.numpy(), atol=1e-6)
    quantised_lstm = quantization.quantize_dynamic(Sound().eval(), {nn.LSTM, nn.Linear})
    wanted = by_hand(quantised_lstm)["rnn"].mean(1)
    np.testing.assert_allclose(extract(quantised_lstm)["rnn"], wanted.numpy(), atol=1e-6)


@quantised
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_networks_are_ranked_and_take_what_their_packed_weights_take():
    torch.manual_seed(0)
    plain_one = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 3)).eval()
    packed = torch.ao.quantization.quantize_dynamic(copy.deepcopy(plain_one), {nn.Linear})
    sound = torch.ao.quantization.quantize_dynamic(Sound(), {nn.LSTM, nn.Linear})
    numbers, biases = 12 * 64 + 64 * 3, 64 + 3
    assert weight_bytes(plain_one) == 4 * (numbers + biases)
    scales = 2 * (4 + 8)  # of what each layer puts out, with a zero point of eight bytes
    assert weight_bytes(packed) == numbers + 4 * biases + scales
    assert weight_bytes(sound) >= 24 * (3 + 6) + 2 * 4 * 24 + 6 * 3
    tied = nn.ModuleList([plain_one[0], plain_one[0]])
    assert weight_bytes(tied) == 4 * (12 * 64 + 64)  # once
    networks = {"plain": plain_one, "packed": packed, "sound": sound}
    table = tm.rank_models(networks, (X, Y), "knn", cache="never", progress=False)
    assert not table.failures
    assert sorted(table.ranking()["model"]) == sorted(networks)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"abc", b"abd"),
        (None, 1),
        ({"a": [torch.ones(2)], "b": 2}, {"a": [torch.zeros(2)], "b": 2}),
        (torch.arange(3), torch.arange(4)),
        ({1, 2}, {1, 3}),
        (np.zeros(2000), np.arange(2000)),
        (dataclasses.make_dataclass("State", ["x"])(torch.zeros(2000)), None),
    ],
)
def test_extra_state_of_any_kind_counts_in_the_fingerprint(one, other):
    class Network(nn.Module):
        def __init__(self, state):
            super().__init__()
            self.net, self.state = plain(), state

        def forward(self, x):
            return self.net(x)

        def get_extra_state(self):
            return self.state

    first, second, same = Network(one), Network(other), Network(copy.deepcopy(one))
    assert tm.load_model(first).fingerprint == tm.load_model(same).fingerprint
    assert tm.load_model(first).fingerprint != tm.load_model(second).fingerprint
    assert extract(first).names == [f"net.{name}" for name in NAMES]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.eye(4).to_sparse_csr(),
        lambda: torch.ones(3, dtype=torch.complex64).conj(),
        lambda: torch.ones(3, dtype=torch.complex64).conj().imag,
        lambda: torch.ones(3).bfloat16(),
        lambda: torch.ones(3).to(torch.float8_e4m3fn),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.tensor(3.0),
        lambda: torch.empty(0),
        lambda: torch.ones(3, 2).T,
    ],
)
def test_tensors_of_every_kind_have_a_fingerprint(make):
    marks = set()
    for buffer in (make(), make(), torch.full((5,), 7.0)):
        network = plain()
        network.register_buffer("odd", buffer)
        marks.add(tm.load_model(network).fingerprint)
    assert len(marks) == 2


def test_parametrised_layers_are_the_layers_of_the_plain_network():
    network = plain()
    parametrizations.weight_norm(network[0])
    parametrizations.weight_norm(network[3])
    assert extract(network, "blocks").names == ["1", "3:input"]
    store, expected = extract(network), by_hand(plain())
    assert store.names == NAMES
    np.testing.assert_allclose(store["2.1"], expected["2.1"].numpy(), atol=1e-6)
    network = plain()
    parametrizations.spectral_norm(network[2][0])
    parametrizations.orthogonal(network[0])
    expected = by_hand(network)
    store = extract(network)
    assert store.names == NAMES
    np.testing.assert_allclose(store["2.1"], expected["2.1"].numpy(), atol=1e-6)


@pytest.mark.parametrize("part", ["", "2"])
def test_weights_on_the_meta_device_are_refused(part):
    network = plain()
    network.get_submodule(part).to("meta")
    with pytest.raises(InvalidInputError, match=r"meta device.*load_state_dict"):
        extract(network)


# ---------------------------------------------------------------- torch's fast path


class Padded(nn.Module):
    """Encoder layers with padding, as nn.TransformerEncoder is mostly used."""

    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options)
        self.i, self.enc, self.head = nn.Linear(4, 16), nn.TransformerEncoder(layer, 2), None
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = x.view(len(x), 3, 4)
        return self.head(self.enc(self.i(x), src_key_padding_mask=x.abs().sum(2) == 0)[:, 0])


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_encoder_layers_on_the_fast_path_of_nested_tensors():
    torch.manual_seed(0)
    x, network = X.copy(), Padded().eval()
    x[::2, 8:] = 0
    with torch.no_grad():
        fast = network(torch.tensor(x))
    store = tm.extract(network, (x, Y), ["*", "blocks", "head"], progress=False)
    np.testing.assert_allclose(store["head"], fast.numpy(), atol=1e-6)
    expected = by_hand(network, x)
    inside = ["enc.layers.0", "enc.layers.0.linear1", "enc.layers.1.norm2", "enc.layers.1"]
    for name in inside:
        np.testing.assert_allclose(store[name], expected[name].mean(1).numpy(), atol=1e-6)
    assert not tm.rank_models(network, (x, Y), "knn", progress=False).failures
    assert torch.backends.mha.get_fastpath_enabled()
    with torch.no_grad():
        torch.testing.assert_close(network(torch.tensor(x)), fast)
        layers = tm.list_layers(network, "enc.layers.0", example=torch.tensor(x))
        with LayerTaps(network, layers) as taps:  # also where nobody set evaluation
            network(torch.tensor(x))
            [pooled] = taps.collect().values()
    np.testing.assert_allclose(pooled, expected["enc.layers.0"].mean(1).numpy(), atol=1e-6)


def test_settings_of_the_process_are_restored_by_the_last_to_leave():
    with unfused:
        thread = threading.Thread(target=extract, args=(plain(),))
        thread.start()
        thread.join()
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with evaluation(plain()):
        pass
    assert not torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(True)


def test_passes_in_threads_leave_the_settings_alone():
    threads = [threading.Thread(target=extract, args=(plain(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.mha.get_fastpath_enabled()


# ---------------------------------------------------------------- axes, calls and outputs


@pytest.mark.parametrize("n", [3, N])
@pytest.mark.parametrize("steps", [2, 3, 12])
def test_time_first_recurrent_networks(steps, n):
    torch.manual_seed(0)
    network = Sound(batch_first=False, steps=steps)
    reduce = {"avg": lambda x: x.mean(0), "last": lambda x: x[-1], "max": lambda x: x.amax(0)}
    states = by_hand(network, X[:n])["rnn"]
    for pool, wanted in reduce.items():
        store = tm.extract(network, (X[:n], Y[:n]), "rnn", pool, progress=False, batch_size=n)
        np.testing.assert_allclose(store["rnn"], wanted(states).numpy(), atol=1e-6)
        assert store.layers[0].layout == "TNC"
        assert store.layers[0].shape == (steps, 6)


def test_time_first_encoders():
    class Network(Padded):
        def forward(self, x):
            x = self.i(x.view(len(x), 3, 4)).transpose(0, 1)
            return self.head(self.enc(x)[0])

    torch.manual_seed(0)
    network = Network()
    for part in network.enc.layers:
        part.self_attn.batch_first = False
    store, expected = extract(network, "blocks", batch_size=7), by_hand(network)
    assert {"i", "enc.layers.0", "enc.layers.1"} <= set(store.names)
    for name in ("enc.layers.0", "enc.layers.1"):
        np.testing.assert_allclose(store[name], expected[name].mean(0).numpy(), atol=1e-6)


def test_packed_sequences_and_their_states():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.fc = nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 3)

        def forward(self, x):
            lengths = (x[:, :3] > 0).sum(1) + 1
            packed = nn.utils.rnn.pack_padded_sequence(
                x.view(len(x), 4, 3), lengths, batch_first=True, enforce_sorted=False
            )
            return self.fc(self.rnn(packed)[1][0][-1])

    network = Network()
    store = extract(network, batch_size=N)
    np.testing.assert_allclose(store["rnn"], by_hand(network)["rnn"][0].numpy(), atol=1e-6)


class Part(nn.Module):
    """Returns what it is told to make of a linear layer's output."""

    def __init__(self, make):
        super().__init__()
        self.linear, self.make = nn.Linear(12, 12), make

    def forward(self, x):
        return self.make(self.linear(x))


@dataclasses.dataclass
class Output:
    count: int
    nothing: None
    states: torch.Tensor


@pytest.mark.parametrize(
    ("make", "take"),
    [
        (lambda x: (None, x), lambda out: out[1]),
        (lambda x: Output(1, None, x), lambda out: out.states),
        (lambda x: {"ids": x.argmax(1), "x": [x]}, lambda out: out["x"][0]),
        (lambda x: (x.argmax(1), x.to(torch.complex64), x), lambda out: out[2]),
    ],
)
def test_outputs_in_the_middle_of_any_kind(make, take):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.fc = Part(make), nn.Linear(12, 3)

        def forward(self, x):
            return Output(0, None, self.fc(take(self.part(x))))

    network = Network()
    store = extract(network, ["part", "fc"])
    for name, wanted in by_hand(network).items():
        if name in store.names:
            np.testing.assert_allclose(store[name], wanted.numpy(), atol=1e-6)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda x: None,
        lambda x: x.argmax(1),
        lambda x: x.to(torch.complex64),
        lambda x: torch.nested.nested_tensor(list(x)),
    ],
)
def test_outputs_that_are_no_features_are_no_layers(make):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.part, self.fc = Part(make), nn.Linear(12, 3)

        def forward(self, x):
            self.part(x)
            return self.fc(x)

    assert "part" not in extract(Network(), "*").names
    with pytest.raises(LayerNotFoundError, match="'part' has no floating point output"):
        extract(Network(), "part")


def test_keyword_only_forwards():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = nn.Linear(12, 8), nn.Linear(8, 3)

        def forward(self, *, x):
            return self.fc(self.a(x))

    with pytest.raises(ExtractionError, match="one positional argument"):
        extract(Network())
    model = tm.load_model(Network())
    model = dataclasses.replace(model, collate=lambda inputs: {"x": torch.stack(inputs)})
    assert extract(model)["a"].shape == (N, 8)


def test_loops_and_layers_that_run_more_often_than_when_they_were_listed():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.fc = nn.Linear(12, 12), nn.Linear(12, 3)

        def forward(self, x):
            for _ in range(int(x[:, 0].max().item() > 50) + 1):
                x = self.a(x)
            return self.fc(x)

    x = X.copy()
    x[5, 0], x[7, 1] = 100, 1000
    with pytest.raises(ExtractionError, match="layer 'a' ran 2 times"):
        tm.extract(Network(), (x, Y), "a", progress=False)


def test_a_call_of_its_own_is_told():
    class Network(nn.Sequential):
        def __call__(self, x):
            return self.forward(x)

    with pytest.raises(ExtractionError, match="rename that method to forward"):
        extract(Network(nn.Linear(12, 8), nn.Linear(8, 3)))


def test_slots_and_checkpoints():
    class Network(nn.Module):
        __slots__ = ("scale",)

        def __init__(self):
            super().__init__()
            self.scale, self.net = 2.0, plain()

        def forward(self, x):
            return checkpoint(self.net, self.scale * x, use_reentrant=False)

    store, expected = extract(Network()), by_hand(plain(), 2 * X)
    np.testing.assert_allclose(store["net.2.1"], expected["2.1"].numpy(), atol=1e-6)


def test_hooks_of_the_user_run_once_and_count():
    network, calls = plain(), []
    network[1].register_forward_hook(lambda _m, _i, out: calls.append(len(out)) or out * 2)
    network[0].register_forward_pre_hook(lambda _m, given: (given[0] + 1,))
    expected = by_hand(network)
    model = tm.load_model(network, head="3")
    calls.clear()
    store = extract(model, batch_size=8)
    for name in ("0", "1", "2.1"):
        np.testing.assert_allclose(store[name], expected[name].numpy(), atol=1e-6)
    assert calls.count(8) == 3  # once in each batch
    assert [len(part._forward_hooks) for part in network] == [0, 1, 0, 0]
    assert [len(part._forward_pre_hooks) for part in network] == [1, 0, 0, 0]
