"""Models from every source: real architectures with random or locally written weights."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import transfer_metrics as tm
from transfer_metrics import list_layers, rank_models
from transfer_metrics.errors import (
    InvalidInputError,
    LayerNotFoundError,
    MissingDependencyError,
    UnknownNameError,
)
from transfer_metrics.sources import zoo
from transfer_metrics.sources.models import hubs, huggingface, huggingface_audio
from transfer_metrics.sources.models.candidates import candidates_of
from transfer_metrics.sources.models.identity import describe
from transfer_metrics.sources.models.load_model import list_models, load_model
from transfer_metrics.sources.models.model import place
from transfer_metrics.sources.models.tokens import Tokens
from transfer_metrics.sources.optional import require
from transfer_metrics.sources.preprocess import ImagePreprocess
from transfer_metrics.sources.specs import parse_model

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))


def models_in(given: Any) -> list[Any]:
    return [candidate.model for candidate in candidates_of(given)]


# ---------------------------------------------------------------- timm and torchvision


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("mobilenetv3_small_050", "classifier"),
        ("vit_tiny_patch16_224", "head"),
        ("deit_tiny_distilled_patch16_224", "head"),
        ("convnext_atto", "head.fc"),
        ("regnetx_002", "head.fc"),
    ],
)
def test_timm_uses_the_transform_and_classifier_of_its_configuration(name: str, head: str) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    model = load_model(f"timm:{name}(pretrained=False)")
    config = resolve_data_config(model=timm.create_model(name))
    assert model.head == head
    assert model.input_shape == config["input_size"]
    assert torch.equal(model.preprocess(PICTURE), create_transform(**config)(PICTURE))
    assert not any(module.training for module in model.module.modules())
    with torch.inference_mode():
        assert model(model.batch([PICTURE])).shape == (1, 1000)


def test_timm_crop_mode_squash() -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    name = next(
        n
        for n in timm.list_models("*tiny*")
        if timm.get_pretrained_cfg(n) and timm.get_pretrained_cfg(n).crop_mode == "squash"
    )
    module = nn.Conv2d(3, 2, 1)
    module.pretrained_cfg = {**timm.get_pretrained_cfg(name).to_dict(), "classifier": None}
    config = resolve_data_config(pretrained_cfg=module.pretrained_cfg)
    model = load_model(module)
    assert torch.equal(model.preprocess(PICTURE), create_transform(**config)(PICTURE))
    assert model.input_shape == tuple(config["input_size"])


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "googlenet"])
def test_torchvision_uses_the_transform_of_its_weights(name: str) -> None:
    from torchvision.models import get_model_weights

    model = load_model(f"torchvision:{name}(weights=None)")
    theirs = get_model_weights(name).DEFAULT.transforms()
    assert torch.equal(model.preprocess(PICTURE), theirs(PICTURE))
    heads = {"resnet18": "fc", "squeezenet1_1": "classifier.1", "googlenet": "fc"}
    assert model.head == heads.get(name, "classifier.3")


def test_input_options_override_the_configuration() -> None:
    spec = "timm:resnet10t(pretrained=False, input_size=40, mean=0.5, std=(0.1,0.2,0.3))"
    model = load_model(spec)
    assert model.input_shape == (3, 40, 40)
    assert model.preprocess.mean == (0.5, 0.5, 0.5)
    assert model.preprocess.std == (0.1, 0.2, 0.3)
    other = load_model("torchvision:squeezenet1_1(weights=None, input_size=64, crop_pct=1.0)")
    assert other.preprocess(PICTURE).shape == (3, 64, 64)
    assert other.preprocess.resize == 64


def test_grey_input() -> None:
    model = load_model("timm:resnet10t(pretrained=False, in_chans=1, input_size=32)")
    with torch.inference_mode():
        assert model(model.batch([PICTURE, PICTURE])).shape == (2, 1000)


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (
        load_model(f"timm:resnet10t(pretrained=False, seed={seed})").fingerprint
        for seed in (0, 0, 1)
    )
    assert first == second != other
    assert torch.equal(before, torch.get_rng_state())


def test_headless_timm_model_has_no_head() -> None:
    assert load_model("timm:resnet10t(pretrained=False, num_classes=0)").head is None


@pytest.mark.parametrize(
    "spec",
    ["timm:resnet18.a1_in1k", "torchvision:resnet18", "hf:google/vit-base-patch16-224"],
)
def test_weights_that_are_not_cached_offline(spec: str, tmp_path: Path, monkeypatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", _refused)
    with pytest.raises(InvalidInputError, match="network") as caught:
        load_model(spec)
    assert spec in str(caught.value)
    assert "\n" not in str(caught.value)


def _refused(*_args, **_options):
    raise OSError("no route to host")


@pytest.mark.parametrize(
    ("spec", "suggestion"),
    [
        ("timm:resnet81", "resnet18"),
        ("timm:resnet18.a9_in1k", "a1_in1k"),
        ("torchvision:resnet81", "resnet18"),
        ("torchvision:resnet18(weights=IMAGENET1K_V9)", "IMAGENET1K_V1"),
        ("zoo:resnet-cifar1", "resnet-cifar10"),
        ("tim:resnet18", "timm"),
    ],
)
def test_unknown_names_come_with_suggestions(spec: str, suggestion: str) -> None:
    with pytest.raises(UnknownNameError, match=suggestion):
        load_model(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "resnet18",
        "timm:",
        "timm:resnet18(pretrained=",
        "timm:resnet18(False)",
        "timm:resnet10t(pretrained=False, no_such_option=1)",
        "timm:resnet10t(pretrained=False, seed=one)",
        "timm:resnet18=missing.safetensors",
        "zoo:resnet-cifar10=weights.safetensors",
        "hf:./no/such/folder",
    ],
)
def test_specifications_that_cannot_be_used(spec: str) -> None:
    with pytest.raises(InvalidInputError):
        load_model(spec)


def test_something_else_than_a_model() -> None:
    with pytest.raises(InvalidInputError, match="int"):
        load_model(3)


# ---------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    import timm

    torch.manual_seed(5)
    return timm.create_model("resnet10t", num_classes=7).eval()


SPEC = "timm:resnet10t(num_classes=7, input_size=32)"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("wrapping", ["safetensors", "plain", "state_dict", "model", "prefix"])
def test_checkpoints_load(resnet: nn.Module, tmp_path: Path, wrapping: str, dtype) -> None:
    state = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in resnet.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    path = tmp_path / ("net.safetensors" if wrapping == "safetensors" else "net.pth")
    if wrapping == "safetensors":
        save_file(state, path)
    elif wrapping == "prefix":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, path)
    else:
        torch.save(state if wrapping == "plain" else {wrapping: state, "epoch": 3}, path)
    model = load_model(f"{SPEC}={path}")
    for key, value in model.module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(value, state[key].float())
    assert model.revision.startswith("sha256:")
    batch = model.dummy(2)
    with torch.inference_mode():
        tolerance = 1e-6 if dtype == torch.float32 else 0.05
        assert torch.allclose(model(batch), resnet(batch), atol=tolerance)


def test_torchvision_checkpoint(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "net.pt")
    assert load_model(f"torchvision:squeezenet1_1={tmp_path / 'net.pt'}").head == "classifier.1"


def test_checkpoint_of_a_network_that_asks_for_its_version(tmp_path: Path) -> None:
    """MNASNet reads a version that safetensors files, and plain dictionaries, do not have."""
    from torchvision.models import mnasnet0_5

    wanted = mnasnet0_5(weights=None).state_dict()
    save_file(wanted, tmp_path / "net.safetensors")
    found = load_model(f"torchvision:mnasnet0_5={tmp_path / 'net.safetensors'}").module
    assert all(torch.equal(found.state_dict()[name], wanted[name]) for name in wanted)


def altered(state: dict, change: str) -> dict:
    state = dict(state)
    if change == "missing":
        for key in [k for k in state if k.startswith("layer1")]:
            del state[key]
    elif change == "unexpected":
        state["layer1.0.extra.weight"] = torch.zeros(2)
    elif change == "shape":
        state["fc.weight"], state["fc.bias"] = torch.zeros(3, 512), torch.zeros(3)
    elif change == "type":
        state["fc.weight"] = torch.zeros(7, 512, dtype=torch.int8)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"\d+ missing: layer1\S+, layer1\S+, layer1\S+, …"),
        ("unexpected", r"1 unexpected: layer1.0.extra.weight"),
        ("shape", r"2 of another shape: fc.weight \(3, 512\) instead of \(7, 512\).*num_classes"),
        ("type", r"1 of another type: fc.weight torch.int8"),
    ],
)
def test_checkpoints_that_do_not_fit(
    resnet: nn.Module, tmp_path: Path, change: str, message: str
) -> None:
    path = tmp_path / "net.safetensors"
    save_file(altered(resnet.state_dict(), change), path)
    with pytest.raises(InvalidInputError, match=message):
        load_model(f"{SPEC}={path}")


class Malicious:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, writer: str) -> None:
    path, trace = tmp_path / "net.pth", tmp_path / "executed"
    content = {"state_dict": {"fc.weight": torch.zeros(2)}, "extra": Malicious(trace)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(InvalidInputError, match=r"net\.pth"):
        load_model(f"{SPEC}={path}")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["net.safetensors", "net.pth"])
def test_damaged_checkpoint(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not weights at all")
    with pytest.raises(InvalidInputError, match=r"cannot be read|pickled"):
        load_model(f"{SPEC}={tmp_path / name}")


def test_checkpoint_without_a_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": 0.1}, tmp_path / "net.pth")
    with pytest.raises(InvalidInputError, match="epoch"):
        load_model(f"{SPEC}={tmp_path / 'net.pth'}")


# ---------------------------------------------------------------- modules, factories, zoo

FACTORIES = """
from torch import nn

def net(width=4):
    module = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                           nn.Flatten(), nn.Linear(width, 3), nn.Softmax(1))
    module.pretrained_cfg = {"input_size": (1, 12, 12), "mean": (0.5,), "std": (0.25,)}
    return module

def nothing():
    return 3

def broken():
    raise RuntimeError("no such device")
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch) -> str:
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_factory_in_the_current_directory(factories: str, tmp_path: Path) -> None:
    path = list(sys.path)
    model = load_model(f"{factories}:net(width=6)")
    assert sys.path == path
    assert model.modality == "image"
    assert model.head == "4"
    assert model.preprocess == ImagePreprocess(12, (0.5,), (0.25,))
    assert not model.module.training
    assert model(model.batch([PICTURE])).shape == (1, 3)
    save_file(model.module.state_dict(), tmp_path / "net.safetensors")
    again = load_model(f"{factories}:net(width=6)=net.safetensors")
    assert again.fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("net(depth=3)", InvalidInputError, "depth"),
        ("nothing", InvalidInputError, "returned an int"),
        ("broken", InvalidInputError, "no such device"),
        ("nat", UnknownNameError, "'net'"),
    ],
)
def test_factories_that_fail(factories: str, name: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        load_model(f"{factories}:{name}")


def test_factory_in_a_missing_module() -> None:
    with pytest.raises(InvalidInputError, match=r"no module 'no_such_package'"):
        load_model("no_such_package.networks:net")


def test_plain_module_reads_numbers() -> None:
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    module.train()
    model = load_model(module)
    assert module.training
    assert (model.modality, model.head, model.input_shape) == ("tensor", "2", (5,))
    batch = model.batch([np.arange(5), np.ones(5, np.float32)])
    assert batch.dtype == torch.float32
    assert model(batch).shape == (2, 3)
    with pytest.raises(InvalidInputError, match=r"holds images.*preprocess"):
        model.batch([PICTURE])
    assert model(model.batch([np.zeros((2, 5))])).shape == (1, 2, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(model.batch([np.zeros(4)]))


def test_module_without_classifier_has_no_head() -> None:
    backbone = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Unflatten(1, (2, 2)))
    assert load_model(backbone).head is None


def test_head_and_preprocess_can_be_given() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    model = load_model(module, preprocess=ImagePreprocess(16))
    assert (model.modality, model.head, model.input_shape) == ("image", "3", (3, 16, 16))
    assert load_model(model, head=False).head is None
    assert load_model(model, head="0").head == "0"
    with pytest.raises(LayerNotFoundError):
        load_model(model, head="fc")
    with pytest.raises(InvalidInputError, match="failed on an RGB image"):
        load_model(module, preprocess=lambda text: text.lower())


def test_images_that_are_preprocessed_already_pass_through() -> None:
    model = load_model("timm:resnet10t(pretrained=False, input_size=32)")
    ready = model.preprocess(PICTURE)
    assert torch.equal(model.batch([ready.numpy()]), model.batch([PICTURE]))
    with pytest.raises(InvalidInputError, match="reads images"):
        model.batch([np.zeros(64)])
    with pytest.raises(InvalidInputError, match="reads images"):
        model.batch(["some words"])


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (hubs.Converted, "hubs.Converted"),
        (ImagePreprocess, "preprocess.ImagePreprocess"),
        (huggingface.Pixels, "huggingface_models.Pixels"),
        (huggingface.UnshuffledPixels, "huggingface_models.UnshuffledPixels"),
        (huggingface.stack_pixels, "huggingface_models.stack_pixels"),
        (huggingface.plain_text, "huggingface_models.plain_text"),
        (huggingface_audio.Waveform, "huggingface_audio.Waveform"),
        (huggingface_audio.Waves, "huggingface_audio.Waves"),
        (Tokens, "tokens.Tokens"),
    ],
)
def test_a_file_that_moves_changes_no_fingerprint(part: Any, name: str) -> None:
    assert describe(part) == f"transfer_metrics.sources.{name}"


def test_weights_that_change_change_the_fingerprint_and_scores(tmp_path: Path) -> None:
    """Whether an optimiser, a loaded state or code that goes around autograd wrote them."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    rng = np.random.default_rng(0)
    task = rng.standard_normal((30, 5)).astype("float32"), np.arange(30) % 3
    model, optimiser = load_model(network), torch.optim.SGD(network.parameters(), lr=1.0)

    def optimise() -> None:
        network.train()(torch.from_numpy(task[0])).square().sum().backward()
        optimiser.step()

    def around() -> None:
        network[0].weight.data.mul_(-1.0)

    def load() -> None:
        network.load_state_dict({k: v + 1 for k, v in network.state_dict().items()})

    def replace() -> None:
        network[0].bias = nn.Parameter(torch.ones(8))

    def other() -> None:
        network[2] = nn.Tanh()

    seen = set()
    for change in (lambda: None, optimise, around, load, replace, other):
        change()
        how = {"metrics": "logme", "progress": False, "cache_dir": tmp_path}
        value = tm.rank_models([model], task, **how).records[0]["value"]
        fresh = tm.rank_models([load_model(network)], task, **{**how, "cache": "never"})
        assert value == fresh.records[0]["value"]
        assert model.fingerprint == load_model(network).fingerprint
        seen.add((value, model.fingerprint))
    assert len(seen) == 6


def test_fingerprint_knows_weights_structure_and_preprocessing_only() -> None:
    base = "timm:mobilenetv3_small_050(pretrained=False, input_size=32)"
    model = load_model(base)
    same = load_model(base)
    same.module.train()
    assert same.fingerprint == model.fingerprint
    padded = load_model(base.replace("(", "(pad_type=same, "))
    assert padded.fingerprint != model.fingerprint
    assert load_model(base.replace("32", "64")).fingerprint != model.fingerprint
    assert load_model(model, head=False).fingerprint != model.fingerprint
    changed = load_model(base)
    with torch.no_grad():
        changed.module.classifier.bias[0] += 1e-3
    assert changed.fingerprint != model.fingerprint
    half = load_model(base)
    half.module.to(torch.bfloat16)
    assert half.fingerprint != model.fingerprint


def test_lists_of_popular_models_have_names_that_hubs_know():
    """timm's against its own register, with size; Hugging Face's by their form, offline."""
    timm = require("timm", "popular models")
    known = set(timm.list_models(pretrained=True))
    for one in zoo.popular():
        spec = parse_model(one["model"])
        assert len(one["reason"]) > 10
        if spec.hub == "timm":
            assert spec.name in known
        else:
            assert spec.hub == "hf"
            assert len(spec.name.split("/")) == 2
    smallest = timm.create_model("mobilenetv3_small_100", num_classes=0)
    assert round(sum(p.numel() for p in smallest.parameters()) / 1e6) == 2
    small = list_models("popular:small")
    assert models_in("zoo:vit-mnist,popular:small") == ["zoo:vit-mnist", *small]
    assert (
        candidates_of("popular:small(pretrained=False)")[0].model == f"{small[0]}(pretrained=False)"
    )
    every = list_models("popular:*")
    assert len(every) == len(zoo.popular()) == len(set(every))
    with pytest.raises(UnknownNameError, match="popular:small"):
        candidates_of("popular:smal")
    with pytest.raises(InvalidInputError, match="is a list of models and one is needed"):
        load_model("popular:small")


def test_bundled_models_load() -> None:
    names = list_models("zoo:*")
    assert names == sorted(names)
    model = load_model("zoo:resnet-cifar10")
    assert model.head is not None
    with torch.inference_mode():
        logits = model(model.batch([PICTURE]))
    assert logits.shape[1] == model.module.get_submodule(model.head).out_features


# ---------------------------------------------------------------- Hugging Face

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "good", "bad", "film"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer = BertTokenizer.from_pretrained(folder, model_max_length=20)
    tokenizer.save_pretrained(folder)
    return folder


def test_text_model(bert: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = load_model(f"hf:{bert}")
    assert (model.modality, model.head, model.input_shape) == ("text", None, None)
    assert model.module.pooler is None
    assert not model.module.training
    texts = ["good film", "bad", "a b c " * 30]
    batch = model.batch(texts)
    assert batch["input_ids"].shape == (3, 20)
    theirs = AutoTokenizer.from_pretrained(bert)(
        texts, padding=True, truncation=True, max_length=20, return_tensors="pt"
    )
    reference = AutoModel.from_pretrained(bert, add_pooling_layer=False).eval()
    with torch.inference_mode():
        ours = model(batch).last_hidden_state
        assert torch.equal(ours, reference(**theirs).last_hidden_state)
    assert model(model.dummy(3)).last_hidden_state.shape[0] == 3


def test_text_pairs(bert: Path) -> None:
    model = load_model(f"hf:{bert}")
    batch = model.batch([("good film", "bad film"), ("a", "b c")])
    assert batch["token_type_ids"].max() == 1
    assert batch["input_ids"][0].tolist() == [2, 8, 10, 3, 9, 10, 3]


def test_text_fingerprint_includes_the_vocabulary(bert: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(bert, tmp_path / "copy")
    assert load_model(f"hf:{copy}").fingerprint == load_model(f"hf:{bert}").fingerprint
    settings = json.loads((copy / "tokenizer.json").read_text())
    settings["model"]["vocab"]["good"], settings["model"]["vocab"]["bad"] = 9, 8
    (copy / "tokenizer.json").write_text(json.dumps(settings))
    assert load_model(f"hf:{copy}").fingerprint != load_model(f"hf:{bert}").fingerprint


def test_encoder_of_an_encoder_decoder(bert: Path, tmp_path: Path) -> None:
    import shutil

    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bert / file, tmp_path / file)
    model = load_model(f"hf:{tmp_path}")
    batch = {k: v for k, v in model.batch(["good film", "bad"]).items() if k != "token_type_ids"}
    assert "decoder" not in dict(model.module.named_children())
    assert model(batch).last_hidden_state.shape == (2, 4, 16)


@pytest.fixture(params=["vit", "resnet"])
def image_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
        ViTImageProcessor,
    )

    torch.manual_seed(0)
    if request.param == "vit":
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=8, num_labels=5,
        )  # fmt: skip
        ViTForImageClassification(config).save_pretrained(tmp_path)
    else:
        config = ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=5
        )
        ResNetForImageClassification(config).save_pretrained(tmp_path)
    processor = ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]
    )
    processor.save_pretrained(tmp_path)
    return tmp_path


def test_image_classifier(image_folder: Path) -> None:
    model = load_model(f"hf:{image_folder}")
    assert (model.modality, model.input_shape) == ("image", (3, 32, 32))
    assert model.head in ("classifier", "classifier.1")
    pixels = np.asarray(PICTURE.resize((32, 32), Image.Resampling.BILINEAR), np.float64) / 255
    expected = (pixels - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6]
    batch = model.batch([PICTURE, PICTURE.convert("L")])
    assert np.allclose(batch["pixel_values"][0].permute(1, 2, 0), expected, atol=1e-5)
    assert model(batch).logits.shape == (2, 5)
    assert model(model.dummy()).logits.shape == (2, 5)


def test_image_backbone_without_classifier(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=32, patch_size=8,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    model = load_model(f"hf:{tmp_path}")
    assert model.head is None
    assert model(model.batch([PICTURE])).last_hidden_state.shape == (1, 17, 16)


def test_hub_checkpoint_with_missing_weights(bert: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    copy = shutil.copytree(bert, tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    lost = {k: v for k, v in state.items() if "layer.1." not in k}
    save_file(lost, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"16 of its weights.*random"):
        load_model(f"hf:{copy}")


def test_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="save_pretrained"):
        load_model(f"hf:{tmp_path}")


# ---------------------------------------------------------------- lists


def test_wildcards() -> None:
    names = list_models("timm:mobilenetv3_small*")
    assert "timm:mobilenetv3_small_100" in names
    assert "timm:mobilenetv3_small_100.lamb_in1k" in list_models("timm:mobilenetv3_small*.*")
    assert "torchvision:resnet18" in list_models("torchvision:resnet*")
    assert not any("fasterrcnn" in name for name in list_models("torchvision:*"))
    assert {"timm:resnet18", "torchvision:resnet18"} <= set(list_models("*:resnet18"))
    with pytest.raises(UnknownNameError):
        list_models("timm:no_such_*")
    with pytest.raises(UnknownNameError):
        list_models("hf:*")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "type int is not a model"),
        (None, "type NoneType is not a model"),
        (nn.Linear, r"class Linear is not a model; give a network of it: Linear\(…\)"),
        (lambda x: x, "type function is not a model"),
        ([nn.Linear(4, 2), 3], "not a model"),
        ({"mine": nn.Linear}, "not a model"),
    ],
)
def test_what_is_no_model_is_said_before_anything_runs(given: object, told: str) -> None:
    data = np.zeros((4, 4), np.float32), [0, 1, 0, 1]
    with pytest.raises(InvalidInputError, match=told):
        rank_models(given, data)
    for call in (load_model, list_layers):
        with pytest.raises(InvalidInputError, match="not a model"):
            call(given)


def test_expand_models() -> None:
    module = nn.Linear(2, 2)
    found = models_in(["zoo:*", "zoo:resnet-cifar10", module, module])
    assert found == [*list_models("zoo:*"), module]
    assert models_in("torchvision:squeezenet*(weights=None), timm:resnet18(mean=(1,2,3))") == [
        "torchvision:squeezenet1_0(weights=None)",
        "torchvision:squeezenet1_1(weights=None)",
        "timm:resnet18(mean=(1,2,3))",
    ]
    assert models_in(module) == [module]
    assert models_in("timm:resnet18=weights[1].safetensors") == [
        "timm:resnet18=weights[1].safetensors"
    ]
    for empty in ("", " , ", []):
        with pytest.raises(InvalidInputError):
            candidates_of(empty)


def test_parse_quoted_options_and_paths_with_equals_signs() -> None:
    spec = parse_model("timm:net(name='a, b=c', sizes=(1, 2))=dir=x/net.pt")
    assert spec.options == {"name": "a, b=c", "sizes": (1, 2)}
    assert spec.checkpoint == "dir=x/net.pt"


def test_a_folder_with_an_at_sign_is_no_revision(tmp_path: Path) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()
    assert parse_model(f"hf:{folder}").revision == ""


# ---------------------------------------------------------------- optional packages


def run(code: str) -> str:
    """Run code in a new process, which has none of this process's patches."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_listing_bundled_models_does_not_load_torch() -> None:
    code = (
        "import sys; from transfer_metrics.sources.models.load_model import list_models\n"
        "assert list_models('zoo:*')\n"
        "from transfer_metrics.sources.tasks.load_task import list_tasks; list_tasks()\n"
        "print('torch' in sys.modules)"
    )
    assert run(code) == "False"


@pytest.mark.integration
def test_a_mismatched_torchvision_is_mended_or_explained() -> None:
    # Beside a CPU torch, wheels built for CUDA fail to import unless their schemas are declared.
    code = (
        "from transfer_metrics.sources.models.load_model import load_model\n"
        "print(load_model('torchvision:squeezenet1_1(weights=None)').head)\n"
        "print(load_model('timm:resnet10t(pretrained=False)').head)"
    )
    assert run(code).split() == ["classifier.1", "fc"]


def test_packages_that_do_not_import(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken_wheel.py").write_text("raise RuntimeError('operator torchvision::x')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"pip install .*torchvision") as caught:
        require("broken_wheel", "model 'timm:x'")
    assert "model 'timm:x' needs broken_wheel" in str(caught.value)
    with pytest.raises(MissingDependencyError, match=r"transfer-metrics\[hubs\]"):
        require("absent_package", "model 'x:y'")


@pytest.mark.parametrize(("found", "is_old"), [("1.0.0", True), ("99.0.dev1", False)])
def test_packages_that_are_too_old_are_refused(found, is_old, tmp_path, monkeypatch) -> None:
    # Old ones give other features of some texts and pictures.
    (tmp_path / f"transformers-{found}.dist-info").mkdir()
    about = f"Metadata-Version: 2.1\nName: transformers\nVersion: {found}\n"
    (tmp_path / f"transformers-{found}.dist-info" / "METADATA").write_text(about)
    monkeypatch.syspath_prepend(tmp_path)
    if not is_old:
        assert require("transformers", "model 'hf:x'").__name__ == "transformers"
        return
    cure = r"model 'hf:x' needs transformers>=\S+, and 1.0.0 is installed; pip install --upgrade '"
    with pytest.raises(MissingDependencyError, match=cure):
        require("transformers", "model 'hf:x'")


@pytest.mark.parametrize("kind", ["ValueError", "TypeError"])
def test_what_a_factory_says_is_cut(kind: str, tmp_path: Path, monkeypatch) -> None:
    text = f"def make():\n    raise {kind}('no ' * 5000)\n"
    (tmp_path / f"wordy_{kind}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="no no") as caught:
        load_model(f"wordy_{kind}:make")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("how", ["head first", "flattens inside", "last axis"])
def test_the_first_layer_that_is_registered_need_not_run_first(how):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear({"head first": 6, "flattens inside": 48}.get(how, 4), 2)
            self.conv = torch.nn.Conv2d(3, 6, 1)

        def forward(self, x):
            if how == "head first":
                return self.first(self.conv(x).mean((2, 3)))
            return self.first(x.flatten(1)) if how == "flattens inside" else self.first(x)

    X = torch.randn(8, 3, 4, 4).numpy()
    network = Network().eval()
    store = tm.extract(network, (X, [0, 1] * 4), layers=["first"], progress=False)
    with torch.no_grad():
        out = network(torch.from_numpy(X))
    expected = out if out.ndim == 2 else out.mean((1, 2))
    torch.testing.assert_close(torch.from_numpy(store["first"]), expected)


@pytest.mark.parametrize("option", ["pretrainde=True", "num_clases=3"])
def test_a_wrong_argument_is_told_before_anything_is_fetched(option, monkeypatch) -> None:
    models = pytest.importorskip("torchvision").models
    kind = type(models.ResNet18_Weights.DEFAULT)

    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(kind, "get_state_dict", fetched)
    with pytest.raises(InvalidInputError, match=option.partition("=")[0]) as caught:
        tm.load_model(f"torchvision:resnet18({option})")
    assert "refuses the options" in str(caught.value)


def test_arrays_that_may_not_be_written_to_are_copied() -> None:
    # So they come from workers of Ray, from bytes and from files that are mapped.
    rows = np.frombuffer(np.arange(4, dtype=np.float32).tobytes(), np.float32)
    model = load_model(nn.Linear(4, 2))
    for found in (model.batch([rows]), place(rows[None], model.module)):
        assert torch.equal(found, torch.arange(4.0)[None])
        found += 1.0
        assert rows.tolist() == [0.0, 1.0, 2.0, 3.0]
