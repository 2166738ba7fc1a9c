"""What counts as a layer, across families, and how layers are asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import transfer_metrics as tm
from transfer_metrics.errors import (
    ExtractionError,
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
)
from transfer_metrics.features.layers import list_layers, memory_bytes
from transfer_metrics.features.trace import _layout_of
from transfer_metrics.sources.models.model import Model


def names(*args, **options):
    return [layer.name for layer in list_layers(*args, **options)]


class PlainCNN(nn.Module):
    """One shared ReLU and pool, and a functional flatten."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(6 * 5 * 5, 10), nn.Linear(10, 3)

    def forward(self, x):
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


IMAGE = torch.zeros(2, 1, 28, 28)


def test_the_name_of_a_model_is_that_model():
    assert tm.list_layers("zoo:cnn-mnist") == tm.list_layers(tm.load_model("zoo:cnn-mnist"))


def test_plain_cnn():
    layers = list_layers(PlainCNN(), example=IMAGE)
    assert [layer.name for layer in layers] == ["pool:0", "pool:1", "fc1", "fc2:input"]
    assert [layer.shape for layer in layers] == [(4, 13, 13), (6, 5, 5), (10,), (10,)]
    assert [layer.layout for layer in layers] == ["NCHW", "NCHW", "ND", "ND"]
    assert [layer.dim for layer in layers] == [4, 6, 10, 10]
    assert [layer.bytes for layer in layers] == [16, 24, 40, 40]
    assert [layer.index for layer in layers] == [0, 1, 2, 3]
    assert [layer.kind for layer in layers] == ["MaxPool2d", "MaxPool2d", "Linear", "Linear"]
    assert layers[2].params == 150 * 10 + 10
    depths = [layer.depth for layer in layers]
    assert depths == sorted(depths)
    assert depths[0] > 0
    assert depths[-1] <= 1
    assert memory_bytes(layers, 100) == 100 * 120
    assert memory_bytes(layers, 100, "float16") == 100 * 60


def test_dim_is_that_of_the_pooling():
    layers = list_layers(PlainCNN(), ["pool:0", "fc1"], "grid:16", example=IMAGE)
    assert [layer.dim for layer in layers] == [16, 10]
    layers = list_layers(PlainCNN(), ["pool:0"], "flatten", example=IMAGE)
    assert layers[0].dim == 4 * 13 * 13
    with pytest.raises(InvalidInputError, match=r"layer 'pool:0'.*needs tokens"):
        list_layers(PlainCNN(), pool="cls", example=IMAGE)


@pytest.mark.filterwarnings("ignore:.*all of them taken")
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("last", ["fc2:input"]),
        (-1, ["fc2:input"]),
        ("-2", ["fc1"]),
        (0, ["pool:0"]),
        ("last:2", ["fc1", "fc2:input"]),
        ("last:99", ["pool:0", "pool:1", "fc1", "fc2:input"]),
        ("relu", ["relu:0", "relu:1"]),
        ("relu:1", ["relu:1"]),
        ("conv?", ["conv1", "conv2"]),
        ("*2", ["conv2", "fc2"]),
        ("activations", ["conv1", "conv2", "fc1", "fc2:input", "fc2"]),
        (["fc2:input", "conv1", -1, "relu:0"], ["conv1", "relu:0", "fc2:input"]),
        (
            "*",
            ["conv1", "relu:0", "pool:0", "conv2", "relu:1", "pool:1", "fc1", "fc2:input", "fc2"],
        ),
    ],
)
def test_specifications(spec, expected):
    assert names(PlainCNN(), spec, example=IMAGE) == expected


def test_listed_layers_can_be_asked_for():
    listed = list_layers(PlainCNN(), "*", example=IMAGE)
    assert list_layers(PlainCNN(), listed, example=IMAGE) == listed


def test_wrong_specifications():
    network = PlainCNN()
    with pytest.raises(LayerNotFoundError, match="unknown layer 'conv3'; did you mean 'conv2'"):
        list_layers(network, "conv3", example=IMAGE)
    with pytest.raises(LayerNotFoundError, match="unknown layer 'block"):
        list_layers(network, "block*", example=IMAGE)
    with pytest.raises(LayerNotFoundError, match="no block -5: the model has 4"):
        list_layers(network, -5, example=IMAGE)
    with pytest.raises(InvalidInputError, match="last:0"):
        list_layers(network, "last:0", example=IMAGE)
    with pytest.raises(InvalidInputError, match="empty"):
        list_layers(network, [], example=IMAGE)
    with pytest.raises(InvalidInputError, match="whole numbers"):
        list_layers(network, [0.5], example=IMAGE)
    network.unused = nn.Linear(2, 2)
    with pytest.raises(LayerNotFoundError, match="'unused' does not run"):
        list_layers(network, "unused", example=IMAGE)
    with pytest.raises(InvalidInputError, match="example="):
        list_layers(network)
    with pytest.raises(ExtractionError, match=r"PlainCNN failed on an input of shape \(2, 3, 8, 8"):
        list_layers(network, example=torch.zeros(2, 3, 8, 8))


def test_the_input_size_is_read_from_the_configuration():
    network = PlainCNN()
    network.pretrained_cfg = {"input_size": (1, 28, 28), "classifier": "fc1"}
    assert names(network) == ["pool:0", "pool:1", "fc1:input"]
    network.pretrained_cfg["classifier"] = None
    assert names(network)[-1] == "fc2"


def test_a_model_says_its_head():
    network = PlainCNN()
    model = Model("cnn", network, None, "tensor", "fc2", (1, 28, 28))
    assert names(model, "last") == ["fc2:input"]
    headless = Model("cnn", network, None, "tensor", None, (1, 28, 28))
    assert names(headless, "last") == ["fc2"]
    network.unused = nn.Linear(2, 2)
    with pytest.raises(InvalidInputError, match="'unused' of model 'cnn' does not run"):
        list_layers(Model("cnn", network, None, "tensor", "unused", (1, 28, 28)))


def test_tracing_leaves_the_network_as_it_was():
    network = PlainCNN().train()
    network.relu.eval()
    before = {name: module.training for name, module in network.named_modules()}
    list_layers(network, example=IMAGE)
    assert {name: module.training for name, module in network.named_modules()} == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_flatten_and_global_pooling_do_not_hide_the_last_map():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        nn.Dropout(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )
    # The dropout hands on the same tensor, so the activation has the name.
    assert names(network, example=IMAGE) == ["1", "5:input"]


def test_mlp_has_each_representation_once():
    mlp = nn.Sequential(*[nn.Linear(4, 4), nn.ReLU()] * 1, nn.Linear(4, 4), nn.ReLU())
    network = nn.Sequential(mlp, nn.Linear(4, 2))
    assert names(network, example=torch.zeros(2, 4)) == ["0.1", "1:input"]


def test_one_dimensional_convolutions():
    network = nn.Sequential(
        nn.Conv1d(1, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(28, 2)
    )
    layers = list_layers(network, "*", example=torch.zeros(2, 1, 16))
    assert [layer.layout for layer in layers] == ["NCT", "NCT", "NCT", "ND", "ND", "ND"]
    assert layers[2].dim == 4


def test_layouts():
    assert _layout_of((96, 56, 56), None) == "NCHW"
    assert _layout_of((56, 56, 96), None) == "NHWC"
    assert _layout_of((8, 8, 8), None) == "NCHW"
    # A map that is not square keeps the proportions of its image, here 32 x 64 pixels.
    assert _layout_of((16, 16, 32), None, (32, 64)) == "NCHW"
    assert _layout_of((8, 16, 96), None, (32, 64)) == "NHWC"
    assert _layout_of((32, 32, 5), nn.Conv2d(3, 32, 1), (64, 10)) == "NCHW"


class _Turn(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


class _Shortcut(nn.Module):
    """A block as in ConvNeXt, whose axes are turned around inside."""

    def __init__(self, width):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class _Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * self.scale


@pytest.mark.parametrize("width", [8, 16, 24])
def test_channels_last_and_first_where_sizes_say_nothing(width):
    turned = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), _Scale(width), nn.ReLU())
    network = nn.Sequential(
        nn.Conv2d(3, width, 2, 2),
        _Shortcut(width),
        _Turn(0, 2, 3, 1),
        turned,
        _Turn(0, 3, 1, 2),
        nn.BatchNorm2d(width),
        nn.Sequential(nn.Conv2d(width, width, 1), _Turn(0, 2, 3, 1)),
    ).eval()
    first, last = (
        ["0", "1", "4", "5", "6.0"],
        ["1.norm", "1.linear", "2", "3", "3.0", "3.1", "3.2", "3.3", "6", "6.1"],
    )
    X = np.random.default_rng(0).normal(size=(12, 3, 32, 32)).astype("float32")
    found = {}
    for name, module in network.named_modules():
        module.register_forward_hook(
            lambda _m, _i, out, name=name: found.setdefault(name, []).append(out)
        )
    store = tm.extract(network, (X, [0, 1] * 6), [*first, *last], progress=False)
    found.clear()
    with torch.no_grad():
        network(torch.from_numpy(X))
    layouts = {layer.name: layer.layout for layer in store.layers}
    assert layouts == {**dict.fromkeys(first, "NCHW"), **dict.fromkeys(last, "NHWC")}
    for name in layouts:
        axes = (2, 3) if name in first else (1, 2)
        torch.testing.assert_close(torch.from_numpy(store[name]), found[name][0].mean(axes))


class Recurrent(nn.Module):
    """One block run three times, outputs that are not batch first, and nested outputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.block = nn.ModuleList([nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)])
        self.swap, self.flat = nn.Identity(), nn.Identity()
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        x = self.stem(tokens)
        for _ in range(3):
            x = self.block[0](x)
        x = self.swap(x.transpose(0, 1)).transpose(0, 1)
        x = self.flat(x.flatten(0, 1)).view(x.shape)
        return {"extra": (None, [self.head(x.mean(1))])}


def test_repeated_blocks_nested_outputs_and_other_axes_first():
    network, x = Recurrent(), torch.randn(2, 5, 4)
    assert names(network, example=x) == [
        "stem",
        "block.0:0",
        "block.0:1",
        "block.0:2",
        "head:input",
    ]
    [swap] = list_layers(network, "swap", example=x)
    assert (swap.layout, swap.shape, swap.dim) == ("TNC", (5, 8), 8)
    assert "flat" not in names(network, "*", example=x)
    with pytest.raises(LayerNotFoundError, match="'flat' has no floating point output"):
        list_layers(network, "flat", example=x)


def expand(text):
    """``"a.[0-2] b"`` to ``["a.0", "a.1", "a.2", "b"]``."""
    found = []
    for word in text.split():
        head, bracket, tail = word.partition("[")
        if bracket:
            low, high = tail.rstrip("]").split("-")
            found += [f"{head}{i}" for i in range(int(low), int(high) + 1)]
        else:
            found.append(word)
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", "maxpool layer1.[0-1] layer2.[0-1] layer3.[0-1] layer4.[0-1] fc:input"),
        (
            "squeezenet1_1",
            # The last Fire module's output is what enters the classifier.
            "features.2 features.[3-4] features.[6-7] features.[9-11] classifier.1:input",
        ),
        ("mobilenet_v2", "features.[0-18] classifier.1:input"),
        (
            "googlenet",
            "maxpool1 conv2 maxpool2 inception3a inception3b inception4a inception4b inception4c "
            "inception4d inception4e inception5a inception5b fc:input",
        ),
        ("vit_b_16", "encoder.dropout encoder.layers.encoder_layer_[0-11] heads.head:input"),
        (
            "swin_t",
            "features.0 features.1.[0-1] features.2 features.3.[0-1] features.4 features.5.[0-5] "
            "features.6 features.7.[0-1] head:input",
        ),
        (
            "densenet121",
            "features.pool0 features.denseblock1 features.transition1 features.denseblock2 "
            "features.transition2 features.denseblock3 features.transition3 features.denseblock4 "
            "classifier:input",
        ),
    ],
)
def test_blocks_of_torchvision(name, expected):
    models = pytest.importorskip("torchvision.models")
    options = {"init_weights": False} if name == "googlenet" else {}
    network = getattr(models, name)(weights=None, **options)
    size = 224 if name.startswith(("vit", "swin")) else 96
    assert names(network, example=torch.zeros(2, 3, size, size)) == expand(expected)


@pytest.mark.parametrize(
    ("name", "options", "expected", "layout"),
    [
        (
            "resnet50",
            {},
            "maxpool layer1.[0-2] layer2.[0-3] layer3.[0-5] layer4.[0-2] fc:input",
            "NCHW",
        ),
        ("vit_tiny_patch16_224", {}, "pos_drop blocks.[0-11] head:input", "NTC"),
        ("vit_tiny_patch16_224", {"num_classes": 0}, "pos_drop blocks.[0-11] fc_norm", "NTC"),
        (
            "convnext_atto",
            {},
            "stem stages.0.blocks.[0-1] stages.1.downsample stages.1.blocks.[0-1] "
            "stages.2.downsample stages.2.blocks.[0-5] stages.3.downsample stages.3.blocks.[0-1] "
            "head.fc:input",
            "NCHW",
        ),
        (
            "swin_tiny_patch4_window7_224",
            {"embed_dim": 24},
            "patch_embed layers.0.blocks.[0-1] layers.1.downsample layers.1.blocks.[0-1] "
            "layers.2.downsample layers.2.blocks.[0-5] layers.3.downsample layers.3.blocks.[0-1] "
            "head.fc:input",
            "NHWC",
        ),
        (
            "mobilenetv3_small_100",
            {},
            "bn1 blocks.0.0 blocks.1.[0-1] blocks.2.[0-2] blocks.3.[0-1] blocks.4.[0-2] blocks.5 "
            "classifier:input",
            "NCHW",
        ),
        ("regnetx_002", {}, "stem s1 s2 s3.b[1-4] s4.b[1-7] head.fc:input", "NCHW"),
        ("mixer_s32_224", {}, "stem blocks.[0-7] head:input", "NTC"),
    ],
)
def test_blocks_of_timm(name, options, expected, layout):
    timm = pytest.importorskip("timm")
    layers = list_layers(timm.create_model(name, pretrained=False, **options))
    assert [layer.name for layer in layers] == expand(expected)
    assert {layer.layout for layer in layers[:-1]} == {layout}
    assert layers[-1].layout == "ND"


def test_blocks_of_hugging_face():
    transformers = pytest.importorskip("transformers")
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    text = {
        "input_ids": torch.ones(2, 5, dtype=torch.long),
        "attention_mask": torch.ones(2, 5, dtype=torch.long),
    }
    words = small | {"vocab_size": 30}
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(**words))
    assert names(bert, example=text) == expand(
        "bert.embeddings bert.encoder.layer.[0-1] classifier:input"
    )
    albert = transformers.AlbertModel(transformers.AlbertConfig(embedding_size=8, **words))
    shared = "encoder.albert_layer_groups.0.albert_layers.0"
    assert [f"{shared}:0", f"{shared}:1"] == [n for n in names(albert, example=text) if ":" in n]
    assert names(albert, "last", example=text) == [f"{shared}:1"]
    gpt2 = transformers.GPT2Model(
        transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, vocab_size=30, bos_token_id=0, eos_token_id=0
        )
    )
    assert names(gpt2, example=text) == ["wte", "drop", "h.0", "h.1", "ln_f"]
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2, vocab_size=30)
    )
    assert names(t5, example=text) == expand(
        "encoder.embed_tokens encoder.block.[0-1] encoder.final_layer_norm"
    )
    image = torch.zeros(2, 3, 32, 32)
    vit = transformers.ViTForImageClassification(
        transformers.ViTConfig(image_size=32, patch_size=8, **small)
    )
    blocks = names(vit, example=image)
    assert len(blocks) == 4
    assert (blocks[0], blocks[-1]) == ("vit.embeddings", "classifier:input")
    resnet = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type="basic"
        )
    )
    assert names(resnet, example=image) == expand(
        "resnet.embedder resnet.encoder.stages.0.layers.[0-1] "
        "resnet.encoder.stages.1.layers.[0-1] classifier.1:input"
    )


def test_the_last_layer_of_a_network_of_maps_is_the_deepest():
    """Such as ``features_only`` of timm, whose list begins with the largest map."""

    class Pyramid(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.wrap = wrap
            self.stages = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, 2) for c in (3, 6, 12))

        def forward(self, x):
            maps = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            return self.wrap(maps)

    image = torch.randn(2, 3, 16, 16)
    for wrap in (list, tuple, lambda maps: {str(i): x for i, x in enumerate(maps)}):
        layers = list_layers(Pyramid(wrap), "last", example=image)
        assert [(layer.name, layer.dim) for layer in layers] == [("stages.2", 24)]


def test_the_last_layer_of_a_network_that_lists_the_tokens_of_its_layers_is_the_last():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            layer = {"d_model": 8, "nhead": 2, "dim_feedforward": 8, "batch_first": True}
            self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(**layer) for _ in range(3))

        def forward(self, x):
            found = []
            for block in self.blocks:
                x = block(x)
                found.append(x)
            return found

    network = Layers()
    layers = list_layers(network, "last", example=torch.randn(2, 5, 8))
    assert [layer.name for layer in layers] == ["blocks.2"]


def test_more_last_blocks_than_there_are_are_told():
    model = tm.load_model("zoo:cnn-mnist")
    with pytest.warns(TransferMetricsWarning, match="only 5 blocks"):
        assert list_layers(model, "last:99") == list_layers(model, "blocks")


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_an_example_may_be_an_array(dtype) -> None:
    listed = list_layers(PlainCNN(), example=IMAGE)
    given = np.asarray(IMAGE.numpy(), dtype)
    assert list_layers(PlainCNN(), example=given) == listed
    assert list_layers(PlainCNN(), example=given[::-1]) == listed
    with pytest.raises(tm.TransferMetricsError):
        list_layers(PlainCNN(), example=np.array(["a"]))


class _Mixed(nn.Module):
    """Tokens (N, T, D) through a convolution over time."""

    def __init__(self, shortcut: bool, late: bool = False) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv1d(8, 8, 3, padding=1), nn.GELU()
        self.shortcut, self.late = shortcut, late

    def forward(self, x):
        mixed = self.conv(x.transpose(1, 2)).transpose(1, 2)
        mixed = self.act(x + mixed if self.shortcut else mixed)
        return mixed if self.late else mixed * 1.0


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("late", [True, False])
def test_tokens_are_tokens_also_where_there_are_as_many_as_channels(shortcut, late):
    network = nn.Sequential(_Mixed(shortcut, late), _Mixed(shortcut, late), nn.Linear(8, 3))
    calls = {
        t: [(x.name, x.layout) for x in list_layers(network, "*", example=torch.zeros(2, t, 8))]
        for t in (10, 8)
    }
    assert ("0.act", "NTC") in calls[10]
    assert calls[8] == calls[10]
    blocks = [list_layers(network, ["0", "1"], example=torch.zeros(2, t, 8)) for t in (10, 8)]
    assert [[x.layout for x in found] for found in blocks] == [["NTC"] * 2] * 2


def test_convolutions_keep_their_axes_where_there_are_as_many_channels_as_positions():
    def part():
        return nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU())

    network = nn.Sequential(part(), part(), nn.Flatten(), nn.Linear(64, 3))
    layers = list_layers(network, ["*", "0", "1"], example=torch.zeros(2, 8, 8))
    assert {layer.layout for layer in layers if len(layer.shape) == 2} == {"NCT"}
