"""TransferNet: what the hooks hand to the head, its gradients, and that it is a plain module."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import transfer_metrics as tm
from transfer_metrics.errors import CorruptStoreError, ExtractionError, InvalidInputError
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.layers import list_layers
from transfer_metrics.heads.network import (
    TransferNet,
    _unit_length,
    full_precision,
    linear_layer,
)
from transfer_metrics.selection.columns import unit_rows
from transfer_metrics.sources.models.load_model import load_model


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class InPlace(nn.Module):
    """Both traps: an in-place activation, and one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.b(self.relu(self.a(x))))
        return self.fc(x.mean((2, 3)))


LAYERS = ["a", "relu:0", "b", "relu:1", "fc:input"]


def in_place(pool="avg"):
    backbone = InPlace()
    layers = list_layers(backbone, LAYERS, pool, example=noise(2, 3, 8, 8))
    head = nn.Linear(sum(layer.dim for layer in layers), 5)
    return TransferNet(backbone, layers, pool, head)


def outputs_by_hand(net: InPlace, x):
    """The five outputs, with nothing in place."""
    a = net.a(x)
    b = net.b(F.relu(a))
    return [a, F.relu(a), b, F.relu(b), F.relu(b).mean((2, 3))]


POOLS = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "flatten": lambda x: x.flatten(1),
    "grid:64": lambda x: F.avg_pool2d(x, 2).permute(0, 2, 3, 1).flatten(1),
}


@pytest.mark.parametrize("pool", list(POOLS))
def test_features_and_all_gradients_equal_the_forward_pass_by_hand(pool):
    network, x = in_place(pool), noise(3, 3, 8, 8, seed=1)
    plain = copy.deepcopy(network)
    parts = outputs_by_hand(plain.backbone, x)
    expected = torch.cat([POOLS[pool](part) for part in parts[:4]] + parts[4:], dim=1)
    features = network.features(x)
    torch.testing.assert_close(features, expected)
    network.head(features).sum().backward()
    plain.head(expected).sum().backward()
    for (name, got), wanted in zip(network.named_parameters(), plain.parameters(), strict=True):
        if "fc" in name:
            assert got.grad is None  # the backbone's own classifier is not part of the logits
        else:
            assert float(wanted.grad.abs().max()) > 0
            torch.testing.assert_close(got.grad, wanted.grad, msg=lambda m, n=name: f"{n}: {m}")


def test_the_backbones_own_classifier_as_the_head_gives_its_own_logits():
    model = load_model("zoo:resnet-usps")
    layers = list_layers(model, "last")
    network = TransferNet(model.module, layers, "avg", copy.deepcopy(model.module.head)).eval()
    x = noise(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model.module(x))


def test_columns_and_unit_length_equal_numpy():
    model = load_model("zoo:cnn-mnist")
    layers = list_layers(model, "blocks")
    x = noise(6, 3, 32, 32)
    with torch.no_grad(), LayerTaps(model.module, layers) as taps:
        model.module(x)
        pooled = {name: rows.numpy() for name, rows in taps.collect().items()}
    first, last = layers[0].name, layers[-1].name
    columns = {first: [2, 0], last: np.array([5, 1, 7])}
    kept = {name: rows[:, columns.get(name, slice(None))] for name, rows in pooled.items()}
    width = sum(part.shape[1] for part in kept.values())
    network = TransferNet(
        model.module, layers, "avg", nn.Linear(width, 3), columns=columns, unit_norm=True
    ).eval()
    expected = np.concatenate([unit_rows(part) for part in kept.values()], axis=1)
    with torch.no_grad():
        np.testing.assert_allclose(network.features(x).numpy(), expected, rtol=1e-5, atol=1e-6)
    chosen = network.chosen_columns()
    assert {name: part.tolist() for name, part in chosen.items()} == {
        first: [2, 0],
        last: [5, 1, 7],
    }


def test_unit_length_of_zero_huge_and_tiny_rows_and_its_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30]], requires_grad=True)
    unit = _unit_length(x)
    torch.testing.assert_close(
        unit.detach(), torch.tensor([[0.6, 0.8], [0, 0], [0.6, 0.8], [0.6, 0.8]])
    )
    unit[:2, 0].sum().backward()
    # d(x1/|x|)/dx = (x2², -x1 x2) / |x|³
    torch.testing.assert_close(x.grad[:2], torch.tensor([[16 / 125, -12 / 125], [0, 0]]))
    inner = noise(4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(_unit_length, inner)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[:, :, None]
        return self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1))


def test_masked_tokens_do_not_count():
    words = Words()
    batch = {
        "input_ids": torch.tensor([[1, 2, 0], [3, 4, 5]]),
        "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
    }
    layers = list_layers(words, ["embed"], example=batch)
    network = TransferNet(words, layers, "avg", nn.Linear(4, 3))
    other = batch | {"input_ids": torch.tensor([[1, 2, 8], [3, 4, 5]])}
    first = words.embed.weight[[1, 2]].mean(0)
    torch.testing.assert_close(network.features(batch)[0], first)
    assert torch.equal(network(batch), network(other))
    network(batch).sum().backward()
    assert float(words.embed.weight.grad[0].abs().sum()) == 0
    assert float(words.embed.weight.grad[1].abs().sum()) > 0


def test_it_is_a_plain_module(tmp_path):
    network, x = in_place(), noise(2, 3, 8, 8)
    expected = network(x)
    twin = copy.deepcopy(network)
    torch.save(network.state_dict(), tmp_path / "state.pt")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(twin(x), expected)
    network.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(network(x), expected)
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    half = twin.to(torch.bfloat16)
    assert half(x).dtype == torch.bfloat16  # the batch follows the weights


def test_columns_travel_in_the_state():
    backbone = InPlace()
    layers = list_layers(backbone, ["a"], example=noise(2, 3, 8, 8))
    one = TransferNet(backbone, layers, "avg", nn.Linear(2, 2), columns={"a": [0, 1]})
    other = TransferNet(backbone, layers, "avg", nn.Linear(2, 2), columns={"a": [3, 2]})
    one.load_state_dict(other.state_dict())
    x = noise(2, 3, 8, 8)
    assert torch.equal(one(x), other(x))


def test_wrong_parts_are_refused():
    backbone = InPlace()
    layers = list_layers(backbone, ["a"], example=noise(2, 3, 8, 8))
    with pytest.raises(InvalidInputError, match=r"head takes 7 features.* give 4"):
        TransferNet(backbone, layers, "avg", nn.Linear(7, 2))
    for columns in ([0, 4], [-1], [[0]]):
        with pytest.raises(InvalidInputError, match="'a' must be a list of numbers from 0 to 3"):
            TransferNet(backbone, layers, "avg", nn.Linear(2, 2), columns={"a": columns})
    with pytest.raises(InvalidInputError, match="not read: zzz"):
        TransferNet(backbone, layers, "avg", nn.Linear(4, 2), columns={"zzz": [0]})
    network = TransferNet(backbone, layers, "avg", nn.Linear(4, 2))
    with pytest.raises(ExtractionError, match="forward pass of InPlace failed"):
        network(noise(2, 5, 8, 8))


def test_weights_of_another_network_are_refused():
    task = tm.load_task("sklearn:digits?examples=60")
    head = tm.LinearProbe(C_grid=(0.1,)).fit("zoo:cnn-mnist", task)
    head._state = {"head.weight": torch.zeros(1)}
    with pytest.raises(CorruptStoreError, match="belong to another"):
        head.logits(task)


def test_half_precision_backbones_become_float32():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).to(torch.bfloat16)
    number = module[0].num_batches_tracked.dtype
    full_precision(module)
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert module[0].running_mean.dtype == torch.float32
    assert module[0].num_batches_tracked.dtype == number
    assert linear_layer(np.ones((2, 3)), np.zeros(2)).weight.dtype == torch.float32


@pytest.mark.filterwarnings("ignore")  # of torch about itself
def test_it_can_be_exported():
    network, x = in_place().eval(), noise(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(torch.jit.trace(network, x)(x), expected)
        torch.testing.assert_close(torch.export.export(network, (x,)).module()(x), expected)
