"""Exported files, run without the package: what onnxruntime and torch make of pixels and tokens."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torch import nn

import transfer_metrics as tm
from tests import image_models, text_models
from tests.plain_networks import shared_models
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, UnknownNameError, UnsupportedTaskError
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.finetune import FineTune
from transfer_metrics.heads.head2toe import Head2Toe
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.heads.splits import with_test

pytestmark = pytest.mark.integration

onnxruntime = pytest.importorskip("onnxruntime")
DIGITS = "sklearn:digits"
BUNDLED = ("cnn-mnist", "resnet-usps", "mobilenet-mnist", "vit-mnist", "mixer-usps")
TOLERANCE = 1e-4
HEADS = {
    "linear": LinearProbe(C_grid=(0.1,)),
    "head2toe": Head2Toe(0.2, layers="blocks"),
    "finetune": FineTune(lr=0.01, epochs=1, progress=False),
}


def few(examples: int = 100) -> tm.Task:
    return tm.load_task(DIGITS, examples=examples)


def session(path: Path) -> tuple[Any, dict[str, Any]]:
    """A file of ONNX, and what its metadata say."""
    opened = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    about = opened.get_modelmeta().custom_metadata_map
    return opened, {k: json.loads(v) if v[:1] in ("[", "{") else v for k, v in about.items()}


def pixels_by_hand(image: Image.Image, told: dict[str, Any]) -> np.ndarray:
    """By Pillow alone, as the file's own description says."""
    image = image.convert({"RGB": "RGB", "greyscale": "L"}[told["mode"]])
    short = min(image.size)
    size = [int(told["resize"] * side / short) for side in image.size]
    image = image.resize(size, getattr(Image.Resampling, told["interpolation"].upper()))
    left, top = (round((side - told["crop"]) / 2) for side in size)
    image = image.crop((left, top, left + told["crop"], top + told["crop"]))
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


def test_onnx_needs_nothing_but_the_file(tmp_path):
    head = HEADS["linear"].fit("zoo:cnn-mnist", few())
    task = tm.load_task(DIGITS)
    head.score(task)
    head.save(tmp_path / "head")
    path = tmp_path / "digits.onnx"
    told = tm.load_head(tmp_path / "head").export(path)
    assert told.difference < TOLERANCE
    opened, about = session(path)
    assert {i.name: i.shape for i in opened.get_inputs()} == {"pixels": ["batch", 3, 32, 32]}
    assert about["classes"] == [str(digit) for digit in range(10)]
    assert about["tests"][0]["value"] == head.card_["tests"][0]["value"]
    images = list(task["test"].examples)
    pixels = np.stack([pixels_by_hand(image, about["preprocessing"]) for image in images])
    for part in (slice(0, 1), slice(0, 450)):
        probabilities, logits = opened.run(None, {"pixels": pixels[part]})
        expected = head.logits(task)[part]
        np.testing.assert_allclose(logits, expected, atol=TOLERANCE * np.abs(expected).max())
        np.testing.assert_allclose(probabilities, head.predict_proba(task)[part], atol=TOLERANCE)
    right = np.array(about["classes"])[probabilities.argmax(1)] == task["test"].labels.astype(str)
    assert right.mean() == head.score(task)


def test_the_command_exports_several_layers_and_pickles_nothing(capsys, tmp_path):
    head = HEADS["head2toe"].fit("zoo:cnn-mnist", few())
    assert len(head.layers_) > 2
    head.save(tmp_path / "head")
    path = tmp_path / "digits.pt2"
    argv = ["export", "--head", tmp_path / "head", "--out", path, "--task", DIGITS, "--json"]
    assert main([*map(str, argv)]) == 0
    [record] = json.loads(capsys.readouterr().out)
    assert record["accuracy_head"] == record["accuracy_file"] > 0.5
    assert record["bytes"] == path.stat().st_size
    assert record["inputs"] == {"pixels": "uint8 (N, 3, 32, 32)"}
    assert record["outputs"]["logits"] == "float32 (N, 10)"
    extra = {"transfer_metrics.json": ""}
    run = torch.export.load(path, extra_files=extra).module()
    about = json.loads(extra["transfer_metrics.json"])
    assert about["classes"] == [*map(str, range(10))]
    examples = [tm.load_task(DIGITS)["test"].examples[i] for i in range(7)]
    pixels = np.stack([pixels_by_hand(x, about["preprocessing"]) for x in examples])
    expected = head.logits(examples)
    for n in (1, 2, 7):
        found = run(torch.from_numpy(pixels[:n]))["logits"]
        np.testing.assert_allclose(found, expected[:n], atol=TOLERANCE)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not name.endswith(".pkl")
            assert not content.startswith((b"\x80\x02", b"\x80\x04", b"PK"))


class Counting(nn.Module):
    """Makes a number of the size of its batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(x) + torch.zeros(len(x), 4))


def test_what_cannot_be_exported_leaves_nothing(tmp_path):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    head = LinearProbe(C_grid=(1.0,)).fit(Counting(), (X, y))
    with pytest.raises(UnsupportedTaskError, match="Counting cannot be exported with a batch"):
        head.export(tmp_path / "a.pt2")
    with pytest.raises(InvalidInputError, match="does not end like"):
        head.export(tmp_path / "a.bin")
    with pytest.raises(UnknownNameError, match="format of export"):
        head.export(tmp_path / "a.onnx", "tflite")
    with pytest.raises(InvalidInputError, match="fitted on arrays"):
        LinearProbe(C_grid=(1.0,)).fit(X, y).export(tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_targets_of_rows_of_numbers_are_values(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
    head = LinearProbe(C_grid=(1.0,)).fit(network, (X, X @ np.array([1.0, -2.0, 0.5, 0.1])))
    told = head.export(tmp_path / "a.pt2")
    assert (told.inputs, told.outputs) == (
        {"inputs": "float32 (N, 4)"},
        {"values": "float32 (N, 1)"},
    )
    run = torch.export.load(tmp_path / "a.pt2").module()
    np.testing.assert_allclose(
        run(torch.from_numpy(X))["values"][:, 0], head.predict(X), atol=TOLERANCE
    )


def _convolutions(channels):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "network", "settings", "head"),
    [
        ((3, 12, 12), lambda: _convolutions(3), None, LinearProbe(C_grid=(1.0,))),
        ((3, 12, 12), lambda: _convolutions(3), (3, 12, 12), LinearProbe(C_grid=(1.0,))),
        ((1, 9, 11), lambda: _convolutions(1), None, Head2Toe(0.3, layers="blocks", steps=20)),
        (
            (7,), lambda: nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 2)), None,
            FineTune(lr=0.01, epochs=1, progress=False),
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*taken as normalised")
@pytest.mark.parametrize("numbers", [False, True])
def test_a_head_on_arrays_takes_arrays_of_their_shape(
    shape, network, settings, head, numbers, tmp_path
):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.normal(size=(60, *shape)) + y.reshape(-1, *[1] * len(shape))
    X = X.astype(np.float32)
    torch.manual_seed(0)
    net = network()
    if settings:
        # Settings of images, whose pixels are bytes; arrays are given as they are all the same.
        net.pretrained_cfg = {"input_size": settings, "mean": (0.5,) * 3, "std": (0.2,) * 3}
    head = clone(head).fit(net, (X, y + rng.normal(size=60) if numbers else y))
    head.save(tmp_path / "head")
    told = tm.load_head(tmp_path / "head", net).export(tmp_path / "a.onnx")
    assert told.difference < TOLERANCE
    opened, _ = session(tmp_path / "a.onnx")
    assert {i.name: (i.type, i.shape) for i in opened.get_inputs()} == {
        "inputs": ("tensor(float)", ["batch", *shape])
    }
    for n in (1, 60):
        found = opened.run(None, {"inputs": X[:n]})[-1]
        np.testing.assert_allclose(found, head.logits(X)[:n], atol=TOLERANCE, rtol=TOLERANCE)


def test_a_head_on_arrays_of_ids_takes_ids(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    X = rng.integers(0, 20, size=(60, 6))
    X[:, 0] = y + 3 * rng.integers(0, 6, 60)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(48, 16), nn.Linear(16, 3))
    head = LinearProbe(C_grid=(1.0,)).fit(net, (X, y))
    head.export(tmp_path / "a.onnx")
    opened, _ = session(tmp_path / "a.onnx")
    found = opened.run(None, {"inputs": X.astype(np.int64)})[-1]
    np.testing.assert_allclose(found, head.logits(X), atol=TOLERANCE, rtol=TOLERANCE)


# ---------------------------------------------------------------- every kind of network


def check(head: Head, task: tm.Task, folder: Path) -> None:
    """Both formats say what the head says of the test examples, one by one and together."""
    model, examples = head._source().get(), task["test"].examples
    expected = head.logits(task)
    scale = max(1.0, np.abs(expected).max())
    for ending in (".onnx", ".pt2"):
        told = head.export(folder / f"file{ending}")
        assert told.difference <= TOLERANCE
        for n in (1, len(examples)):
            found = told.logits(model, [examples[i] for i in range(n)])
            np.testing.assert_allclose(found, expected[:n], atol=TOLERANCE * scale)
        assert (found.argmax(1) == expected.argmax(1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_architectures(name, kind, tmp_path):
    task = few()
    check(HEADS[kind].fit(f"zoo:{name}", task), task, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize(
    "name",
    ["timm:resnet18", "timm:vit_tiny_patch16_224", "timm:convnext_atto", "torchvision:resnet18",
     "torchvision:mobilenet_v3_small", "torchvision:vit_b_32"],
)  # fmt: skip
def test_networks_of_hubs(name, kind, tmp_path):
    if kind == "finetune" and "vit_b" in name:
        pytest.skip("too long")
    task = few(40)
    splits = {"train": task["train"], "test": task["test"].rows(np.arange(8))}
    task = tm.Task(task.name, task.kind, task.modality, splits, task.classes)
    option = "weights=None" if name.startswith("torchvision") else "pretrained=False"
    check(HEADS[kind].fit(f"{name}({option})", task), task, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("family", ["vit", "convnext", "dinov2", "swin", "clip", "vit_mae"])
def test_image_networks_of_transformers(family, kind, tmp_path):
    task = few()
    head = HEADS[kind].fit(f"hf:{image_models.save(family, tmp_path / 'model')}", task)
    check(head, task, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(HEADS))
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "gpt2", "t5"])
def test_text_networks_of_transformers(family, kind, tmp_path):
    pairs = [f"{a} {b}" for a in text_models.TEXTS for b in text_models.TEXTS if a != b]
    labels = ["yes" if "good" in text else "no" for text in pairs]
    test, train = slice(0, None, 3), [i for i in range(len(pairs)) if i % 3]
    given = pairs[test]
    parts = {"train": ([pairs[i] for i in train], [labels[i] for i in train])}
    task = tm.load_task({**parts, "test": (given, labels[test])})
    folder = text_models.save(family, tmp_path / "model")
    head = HEADS[kind].fit(f"hf:{folder}", task)
    check(head, task, tmp_path)
    # By the tokenizer in the file, which needs none of transformers.
    opened, about = session(tmp_path / "file.onnx")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(json.dumps(about["tokenizer"]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(about["preprocessing"]["longest"])
    encoded = tokenizer.encode(given[0])
    inputs = {i.name for i in opened.get_inputs()}
    columns = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask}
    columns["token_type_ids"] = encoded.type_ids
    found = opened.run(None, {name: np.array([columns[name]]) for name in inputs})[-1]
    np.testing.assert_allclose(found, head.logits(given[:1]), atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("mobilenetv1_025_128", "flowers5"),
        ("cifar10_resnet20", "cifar10"),
        ("mnist_net5", "usps"),
        ("squeezenet1_1", "hymenoptera"),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "head2toe"])
def test_accuracy_on_real_photos(shared, model, data, kind, tmp_path):
    task = tm.load_task(f"npz:{shared / f'zoo/datasets/{data}.npz'}", examples=200)
    head = HEADS[kind].fit(shared_models(shared / "zoo/models")[model], task)
    accuracy = head.score(task)
    for ending in (".onnx", ".pt2"):
        told = head.export(tmp_path / f"file{ending}")
        logits = told.logits(head._source().get(), task["test"].examples)
        assert np.mean(logits.argmax(1) == task["test"].labels) == accuracy


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:task .* has no test split")
@pytest.mark.parametrize("tested", [True, False])
def test_a_task_without_a_test_split_is_checked_on_what_there_is(tested, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", X=images, y=np.arange(60) % 3)
    task = tm.load_task(f"npz:{tmp_path / 'data.npz'}")
    whole = with_test(task) if tested else task
    head = tm.LinearProbe(C_grid=(0.1,)).fit("zoo:cnn-mnist", whole)
    expected = head.score(whole) if tested else head.score(task, split="train")
    head.save(tmp_path / "head")
    out = str(tmp_path / "net.pt2")
    given = ["export", "--head", str(tmp_path / "head"), "--out", out, "--task", task.name]
    assert main(given) == 0
    told = capsys.readouterr().out
    assert f"({'test, 12' if tested else 'train, 60'} examples): {expected:.4f} of the head" in told
