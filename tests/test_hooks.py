"""The two silent traps of hooks, on a real ResNet, and that nothing is left behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from transfer_metrics.errors import ExtractionError
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.layers import list_layers


@pytest.fixture(scope="module")
def resnet():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return models.resnet18(num_classes=7).eval().double()


@pytest.fixture(scope="module")
def x():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)).double()


def by_hand(resnet, x):
    """ResNet-18's forward pass written out with out-of-place activations."""
    seen = {}
    y = F.relu(resnet.bn1(resnet.conv1(x)))
    seen["relu"] = y
    y = seen["maxpool"] = F.max_pool2d(y, 3, 2, 1)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for i, block in enumerate(getattr(resnet, stage)):
            name = f"{stage}.{i}"
            skip = y if block.downsample is None else block.downsample(y)
            seen[f"{name}.bn1"] = block.bn1(block.conv1(y))
            seen[f"{name}.relu:0"] = F.relu(seen[f"{name}.bn1"])
            seen[f"{name}.bn2"] = block.bn2(block.conv2(seen[f"{name}.relu:0"]))
            y = seen[f"{name}.relu:1"] = seen[name] = F.relu(seen[f"{name}.bn2"] + skip)
    seen["fc:input"] = y.mean((2, 3))
    return seen


def test_every_call_of_a_resnet_equals_the_forward_pass_by_hand(resnet, x):
    with torch.no_grad():
        expected = by_hand(resnet, x)
        with LayerTaps(resnet, list_layers(resnet, list(expected), example=x), logits="fc") as taps:
            output = resnet(x)
            got = taps.collect()
            torch.testing.assert_close(taps.logits, output.float())
    assert set(got) == set(expected)
    for name, value in expected.items():
        value = value if value.ndim == 2 else value.mean((2, 3))
        torch.testing.assert_close(
            got[name], value.float(), msg=lambda m, name=name: f"{name}: {m}"
        )
    # Both traps would make these equal.
    assert not torch.equal(got["layer1.0.relu:0"], got["layer1.0.relu:1"])
    assert not torch.equal(got["layer1.0.bn1"], got["layer1.0.relu:0"])


def test_what_a_pooling_leaves_alone_is_copied():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).eval()
    x = torch.randn(5, 4)
    for pool in ("avg", "flatten"):
        with (
            torch.no_grad(),
            LayerTaps(network, list_layers(network, "0", example=x), pool) as taps,
        ):
            network(x)
            got = taps.collect()["0"]
            expected = network[0](x)
        assert (expected < 0).any()
        torch.testing.assert_close(got, expected)


def test_calls_are_counted_anew_in_each_forward_pass(resnet, x):
    layers = list_layers(resnet, "layer1.0.relu", example=x)
    assert [layer.name for layer in layers] == ["layer1.0.relu:0", "layer1.0.relu:1"]
    with torch.no_grad(), LayerTaps(resnet, layers) as taps:
        resnet(x)
        first = taps.collect()
        with pytest.raises(RuntimeError):
            resnet(x[:, :2])  # stops in the first convolution
        resnet(x)
        again = taps.collect()
    for name in first:
        torch.testing.assert_close(first[name], again[name])


def test_hooks_are_removed_also_after_an_error(resnet, x):
    layers = list_layers(resnet, example=x)
    with pytest.raises(RuntimeError), LayerTaps(resnet, layers):
        resnet(x[:, :2])
    for module in resnet.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


class Fork(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.a(x) if x.sum() >= 0 else self.b(x))


def test_a_layer_that_does_not_run_is_an_error():
    network = Fork().eval()
    layers = list_layers(network, ["a", "head:input"], example=torch.ones(2, 3))
    with torch.no_grad(), LayerTaps(network, layers) as taps:
        network(-torch.ones(2, 3))
        with pytest.raises(ExtractionError, match="layer 'a' did not run"):
            taps.collect()


def test_another_size_than_traced_is_an_error_where_it_matters(resnet, x):
    layers = list_layers(resnet, "layer4.1", "flatten", example=x)
    larger = torch.zeros(2, 3, 96, 96).double()
    with (
        torch.no_grad(),
        LayerTaps(resnet, layers, "flatten"),
        pytest.raises(ExtractionError, match=r"'layer4.1' gives 4608 features.*2048.*pool='avg'"),
    ):
        resnet(larger)


def test_half_precision_activations_are_pooled_in_float32():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(60000, 2)).eval().bfloat16()
    nn.init.constant_(network[0].weight, 2.0)
    nn.init.zeros_(network[0].bias)
    x = torch.ones(2, 1, 250, 240, dtype=torch.bfloat16)
    with torch.no_grad(), LayerTaps(network, list_layers(network, "0", example=x)) as taps:
        network(x)
        got = taps.collect()["0"]
    assert got.dtype == torch.float32
    assert got.tolist() == [[2.0], [2.0]]
