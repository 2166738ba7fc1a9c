"""The reference models load, and reach the accuracies that were measured for them elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.plain_networks import shared_models, sized
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.load_task import load_task

pytestmark = pytest.mark.shared


def answers(model: Model, examples: list) -> np.ndarray:
    found = []
    with torch.inference_mode():
        for start in range(0, len(examples), 250):
            found.append(model(model.batch(examples[start : start + 250])).argmax(1))
    return torch.cat(found).numpy()


def accuracy(model: Model, task, *splits: str) -> float:
    hits = [answers(model, list(task[s].examples)) == task[s].labels for s in splits]
    return 100 * float(np.concatenate(hits).mean())


@pytest.mark.parametrize("name", sorted(shared_models("")))
def test_every_model_loads_and_runs(shared: Path, name: str) -> None:
    model = load_model(shared_models(shared / "zoo/models")[name])
    assert model.modality == "image"
    assert model.revision.startswith("sha256:")
    size = model.input_shape[-1]
    assert model.preprocess.resize == size
    with torch.inference_mode():
        output = model(model.dummy(2))
    assert torch.isfinite(output).all()
    head = model.module.get_submodule(model.head)
    assert output.shape == (2, getattr(head, "out_features", None) or head.out_channels)


def test_there_are_weights_for_every_model(shared: Path) -> None:
    files = {path.stem for path in (shared / "zoo/models").glob("*.safetensors")}
    assert files == set(shared_models(""))


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        pytest.param("cifar10_resnet20", 81.03, marks=pytest.mark.integration),
        pytest.param("cifar10_resnet32", 82.56, marks=pytest.mark.slow),
        pytest.param("cifar10_resnet56", 83.2, marks=pytest.mark.slow),
        ("cifar10_resnet8", 75.5),
        pytest.param("cifar10_resnet8_large", 81.0, marks=pytest.mark.slow),
        ("cifar10_lenet", 58.42),
    ],
)
def test_accuracy_on_cifar10(shared: Path, name: str, measured: float) -> None:
    # Measured on 10 000 images; 1 500 of them have a standard error of about one point.
    model = load_model(shared_models(shared / "zoo/models")[name])
    task = load_task(f"npz:{shared / 'zoo/datasets/cifar10.npz'}")
    assert accuracy(model, task, "test") == pytest.approx(measured, abs=3.5)


def test_accuracy_on_mnist(shared: Path) -> None:
    model = load_model(shared_models(shared / "zoo/models")["mnist_net5"])
    task = load_task(f"npz:{shared / 'zoo/datasets/mnist.npz'}")
    assert accuracy(model, task, "test") >= 98.5


def test_accuracy_on_fashion(shared: Path) -> None:
    model = load_model(shared_models(shared / "zoo/models")["fashion_net5"])
    task = load_task(f"npz:{shared / 'zoo/datasets/fashion900.npz'}")
    assert accuracy(model, task, "train", "test") == pytest.approx(91.11, abs=0.3)


def test_accuracy_on_drawings(shared: Path) -> None:
    # The order of the 345 outputs is not recorded, so each class is given its most frequent
    # answer on the training half, and the test half is judged by that.
    model = load_model(shared_models(shared / "zoo/models")["quickdraw_doodlenet"])
    task = load_task(f"npz:{shared / 'zoo/datasets/quickdraw5.npz'}")
    train, test = task["train"], task["test"]
    votes = answers(model, list(train.examples))
    names = [np.bincount(votes[train.labels == c]).argmax() for c in range(task.num_classes)]
    assert len(set(names)) == task.num_classes
    right = answers(model, list(test.examples)) == np.array(names)[test.labels]
    assert 100 * right.mean() == pytest.approx(78.8, abs=3.5)


BEE, ANT = 309, 310
LARGE = [
    "mobilenetv1_025_224",
    "mobilenetv1_100_224",
    "mobilenetv2_075_224",
    "mobilenetv2_100_224_tf2",
    "mobilenetv3_large_minimal_100",
    "squeezenet1_1",
]
SMALL = [
    "mcunet_imagenet",
    "mobilenetv1_025_128",
    "mobilenetv1_050_160",
    "mobilenetv2_050_96",
    "mobilenetv2_075_128",
    "mobilenetv2_100_96",
]


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)]
)
def test_imagenet_models_tell_bees_from_ants(shared: Path, name: str) -> None:
    # Wrong padding, preprocessing or mode brings the logits of the two classes to chance.
    model = load_model(shared_models(shared / "zoo/models")[name])
    split = load_task(f"npz:{shared / 'zoo/datasets/hymenoptera.npz'}")["test"]
    chosen = np.random.default_rng(0).permutation(len(split))[:40]
    with torch.inference_mode():
        logits = model(model.batch([split.examples[i] for i in chosen]))
    is_bee = (logits[:, BEE] > logits[:, ANT]).numpy()
    assert (is_bee == (split.labels[chosen] == 1)).mean() >= 0.8


@pytest.mark.parametrize("name", ["mobilenetv1_025_128", "mobilenetv2_050_96", "squeezenet1_1"])
def test_a_model_of_another_size_is_that_model(shared: Path, name: str) -> None:
    specs = shared_models(shared / "zoo/models")
    plain, small = (load_model(spec) for spec in (specs[name], sized(specs[name], 64)))
    assert small.input_shape == (3, 64, 64)
    assert plain.name != small.name
    for key, value in plain.module.state_dict().items():
        assert torch.equal(small.module.state_dict()[key], value)
