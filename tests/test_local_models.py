"""Models as people have them: lists in files, fine-tuned checkpoints, caches without a network."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import transfer_metrics as tm
from tests import text_models
from tests.text_models import TEXTS
from transfer_metrics.errors import (
    InvalidInputError,
    MissingDependencyError,
    TransferMetricsWarning,
    UnknownNameError,
)
from transfer_metrics.sources.models.candidates import candidates_of
from transfer_metrics.sources.models.huggingface import _lacking_package
from transfer_metrics.sources.models.load_model import list_models

COMMIT = "0123456789abcdef0123456789abcdef01234567"

# ---------------------------------------------------------------- lists in files


def models_in(given: Any) -> list[Any]:
    return [candidate.model for candidate in candidates_of(given)]


def test_a_list_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "models.txt").write_text(
        "\ufeff# candidates\n\nzoo:cnn-*   # all three\n"
        "timm:resnet18(pretrained=False, seed=1), hf:a/b@main#1\r\nzoo:cnn-mnist\n"
    )
    found = models_in(f"zoo:vit-mnist, @{tmp_path / 'models.txt'}")
    assert found == [
        "zoo:vit-mnist",
        *list_models("zoo:cnn-*"),
        "timm:resnet18(pretrained=False, seed=1)",
        "hf:a/b@main#1",
    ]
    module = nn.Linear(2, 2)
    assert models_in([module, f"@{tmp_path / 'models.txt'}"]) == [module, *found[1:]]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("zoo:cnn-mnist\nzoo:no-such-*\n", UnknownNameError, r"models\.txt, line 2: unknown model"),
        ("# a\n\nresnet18\n", InvalidInputError, r"models\.txt, line 3: model 'resnet18': write"),
        ("timm:net(a b)\n", InvalidInputError, r"models\.txt, line 1: .*cannot read the options"),
        ("@other.txt\n", InvalidInputError, r"models\.txt, line 1: .*cannot name other lists"),
        ("# nothing\n", InvalidInputError, r"models\.txt' names none"),
        (b"\xff\xfe\x00", InvalidInputError, r"models\.txt' cannot be read"),
        (None, InvalidInputError, r"models\.txt' cannot be read \(No such file"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, text: Any, error: type, message: str) -> None:
    if text is not None:
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "models.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        candidates_of(f"@{tmp_path / 'models.txt'}")


def test_a_list_ranks(tmp_path: Path) -> None:
    (tmp_path / "models.txt").write_text("zoo:cnn-mnist\nzoo:vit-mnist\n")
    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32), np.uint8)
    table = tm.rank_models(
        f"@{tmp_path / 'models.txt'}", (pictures, np.arange(12) % 2), "knn", progress=False
    )
    assert set(table.to_frame()["model"]) == {"zoo:cnn-mnist", "zoo:vit-mnist"}


# ---------------------------------------------------------------- fine-tuned checkpoints


@pytest.fixture(scope="module")
def tuned() -> nn.Module:
    import timm

    torch.manual_seed(5)
    return timm.create_model("resnet10t", num_classes=7).eval()


def same(module: nn.Module, state: dict) -> bool:
    found = module.state_dict()
    return all(torch.equal(found[k], v) for k, v in state.items() if v.is_floating_point())


def test_the_file_says_how_many_classes_there_are(tuned: nn.Module, tmp_path: Path) -> None:
    save_file(tuned.state_dict(), tmp_path / "net.safetensors")
    model = tm.load_model(f"timm:resnet10t(input_size=32)={tmp_path / 'net.safetensors'}")
    assert model.module.get_submodule(model.head).out_features == 7
    assert same(model.module, tuned.state_dict())
    with pytest.raises(InvalidInputError, match=r"\(7, 512\) instead of \(9, 512\).*num_classes"):
        tm.load_model(f"timm:resnet10t(num_classes=9)={tmp_path / 'net.safetensors'}")


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", pytest.param("vit_b_16", marks=pytest.mark.slow)]
)
def test_classes_of_a_torchvision_checkpoint(tmp_path: Path, name: str) -> None:
    from torchvision.models import get_model

    options = {"image_size": 32, "num_classes": 3} if name == "vit_b_16" else {"num_classes": 3}
    network = get_model(name, weights=None, **options)
    torch.save({"model": network.state_dict(), "epoch": 2}, tmp_path / "net.pth")
    size = "(image_size=32)" if name == "vit_b_16" else ""
    model = tm.load_model(f"torchvision:{name}{size}={tmp_path / 'net.pth'}")
    assert same(model.module, network.state_dict())
    head = model.module.get_submodule(model.head)
    assert 3 in (getattr(head, "out_features", None), getattr(head, "out_channels", None))


def test_several_classifiers_and_another_architecture(tmp_path: Path) -> None:
    import timm

    name = "deit_tiny_distilled_patch16_224"
    two = timm.create_model(name, num_classes=4, depth=1)
    save_file(two.state_dict(), tmp_path / "net.safetensors")
    model = tm.load_model(f"timm:{name}(depth=1)={tmp_path / 'net.safetensors'}")
    assert model.module.head_dist.out_features == 4
    with pytest.raises(InvalidInputError, match="choose the architecture"):
        tm.load_model(f"timm:{name}(depth=1, embed_dim=96)={tmp_path / 'net.safetensors'}")


def prefixed(state: dict, prefix: str) -> dict:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net."])
def test_prefixes_of_trainers(tuned: nn.Module, tmp_path: Path, prefix: str) -> None:
    content = {"state_dict": prefixed(tuned.state_dict(), prefix), "hyper_parameters": {"lr": 0.1}}
    torch.save(content, tmp_path / "net.ckpt")
    model = tm.load_model(f"timm:resnet10t={tmp_path / 'net.ckpt'}")
    assert same(model.module, tuned.state_dict())


def test_wrapped_by_real_wrappers(tuned: nn.Module, tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(tuned))
    torch.save(averaged.state_dict(), tmp_path / "net.pt")
    assert same(tm.load_model(f"timm:resnet10t={tmp_path / 'net.pt'}").module, tuned.state_dict())


@pytest.mark.parametrize(("plain", "average"), [("model", "model_ema"), ("state_dict",) * 2])
def test_the_moving_average(tuned: nn.Module, tmp_path: Path, plain: str, average: str) -> None:
    key = average if average != plain else "state_dict_ema"
    other = {k: torch.zeros_like(v) for k, v in tuned.state_dict().items()}
    torch.save({plain: other, key: tuned.state_dict()}, tmp_path / "net.pt")
    with pytest.warns(TransferMetricsWarning, match=f"'{plain}'.*'{key}'.*average is used"):
        model = tm.load_model(f"timm:resnet10t={tmp_path / 'net.pt'}")
    assert same(model.module, tuned.state_dict())


def test_weights_without_a_classifier(tuned: nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in tuned.state_dict().items() if not k.startswith("fc.")}
    save_file(state, tmp_path / "net.safetensors")
    with pytest.warns(TransferMetricsWarning, match="no weights of the classifier fc"):
        assert tm.load_model(f"timm:resnet10t={tmp_path / 'net.safetensors'}").head is None
    model = tm.load_model(f"timm:resnet10t(num_classes=0)={tmp_path / 'net.safetensors'}")
    assert model.head is None


def test_a_text_classifier_of_a_trainer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bare, tokenizer = text_models.FAMILIES["bert"]()
    bare.config.num_labels = 4
    network = transformers.BertForSequenceClassification(bare.config).eval()
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = tm.load_model(f"hf:{tmp_path}")
    ours = model.module.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in network.bert.state_dict().items() if k in ours)
    assert len(tm.list_layers(model)) == 4


def test_an_adapter_has_to_be_merged(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="merge_and_unload"):
        tm.load_model(f"hf:{tmp_path}")


# ---------------------------------------------------------------- sentence encoders


@pytest.mark.parametrize("below", ["", "0_Transformer"])
def test_folders_of_sentence_transformers(tmp_path: Path, below: str) -> None:
    pytest.importorskip("transformers")
    inner = text_models.save("bert", tmp_path / below) if below else tmp_path
    if not below:
        text_models.save("bert", tmp_path)
    kind = "sentence_transformers.models"
    modules = [
        {"idx": 0, "name": "0", "path": below, "type": f"{kind}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (inner / "sentence_bert_config.json").write_text('{"max_seq_length": 7}')
    model = tm.load_model(f"hf:{tmp_path}")
    assert model.batch(["good " * 30])["input_ids"].shape == (1, 7)
    store = tm.extract(model, (TEXTS, [0, 1] * 3), "last", "mean", progress=False)
    tokenizer, network = text_models.reference(inner)
    for row, text in zip(store[store.names[0]], TEXTS, strict=True):
        batch = tokenizer(text, truncation=True, max_length=7, return_tensors="pt")
        with torch.no_grad():
            wanted = network(**batch).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, wanted.numpy(), atol=2e-6)


@pytest.mark.parametrize("content", ["[]", "not json", '[{"path": "gone"}]', '{"a": 1}'])
def test_damaged_folders_of_sentence_transformers(tmp_path: Path, content: str) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(InvalidInputError, match="save_pretrained"):
        tm.load_model(f"hf:{tmp_path}")


# ---------------------------------------------------------------- without a network


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def lay_out(cache: Path, repository: str) -> Path:
    """The folder of a snapshot in a cache of the Hugging Face hub, made by hand."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("said", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_timm_from_the_cache(said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", said)
    torch.manual_seed(3)
    network = timm.create_model("resnet10t")
    repository = timm.get_pretrained_cfg("resnet10t").hf_hub_id
    save_file(network.state_dict(), lay_out(tmp_path, repository) / "model.safetensors")
    model = tm.load_model("timm:resnet10t")
    assert same(model.module, network.state_dict())
    with pytest.raises(InvalidInputError, match="not in the local cache"):
        tm.load_model("timm:resnet14t")


@pytest.mark.usefixtures("no_network")
def test_torchvision_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    network = squeezenet1_1(weights=None)
    file = SqueezeNet1_1_Weights.DEFAULT.url.rpartition("/")[2]
    torch.save(network.state_dict(), tmp_path / "checkpoints" / file)
    model = tm.load_model("torchvision:squeezenet1_1")
    assert (model.revision, same(model.module, network.state_dict())) == ("IMAGENET1K_V1", True)
    with pytest.raises(InvalidInputError, match="not in the local cache"):
        tm.load_model("torchvision:squeezenet1_0")


@pytest.mark.usefixtures("no_network")
def test_hugging_face_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    from huggingface_hub import constants

    from tests import audio_models, image_models

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for maker, name in ((image_models, "vit"), (text_models, "gpt2"), (audio_models, "ast")):
        folder = maker.save(name, tmp_path / name)
        shutil.copytree(folder, lay_out(tmp_path / "hub", f"someone/{name}"), dirs_exist_ok=True)
        model = tm.load_model(f"hf:someone/{name}")
        assert model.revision == COMMIT
        assert same(model.module, tm.load_model(f"hf:{folder}").module.state_dict())


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("timm", "timm:resnet18"),
        ("torchvision", "torchvision:resnet18"),
        ("transformers", "hf:someone/model"),
    ],
)
def test_a_package_that_is_not_installed(
    package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loaded in [m for m in sys.modules if m.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError) as caught:
        tm.load_model(name)
    assert f"needs {package}: it is not installed; pip install 'transfer-metrics[hubs]'" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("message", "package"),
    [
        ("T5Tokenizer requires the SentencePiece library but it was not found", "sentencepiece"),
        ("X is required: `pip install protobuf` and restart", "protobuf"),
        ("No module named 'torchaudio'", "torchaudio"),
        ("cannot import name 'x' from 'y'", ""),
    ],
)
def test_what_a_model_asks_for(message: str, package: str) -> None:
    assert _lacking_package(ImportError(message)) == package
    assert _lacking_package(ValueError(message)) == ""


def test_a_model_that_needs_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    text_models.save("bert", tmp_path)

    def refuse(*_: Any, **__: Any) -> None:
        raise ImportError("BertTokenizer requires the SentencePiece library but it was not found")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refuse)
    with pytest.raises(MissingDependencyError, match=r"needs sentencepiece.*pip install sentence"):
        tm.load_model(f"hf:{tmp_path}")
