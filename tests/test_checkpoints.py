"""Checkpoints as people have them: every tensor of the network from the file, or a refusal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.models.checkpoints import load_checkpoint
from transfer_metrics.sources.models.networks import cnn

NAME = "timm:resnet10t(input_size=32)"


def network(seed: int, classes: int = 1000) -> nn.Module:
    import timm

    torch.manual_seed(seed)
    return timm.create_model("resnet10t", num_classes=classes).eval()


STATES: dict[int, dict[str, torch.Tensor]] = {}


def state(seed: int = 1) -> dict[str, torch.Tensor]:
    if seed not in STATES:
        STATES[seed] = network(seed).state_dict()
    return dict(STATES[seed])


def body(seed: int = 1) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state(seed).items() if not name.startswith("fc.")}


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def load(content: Any, path: Path, part: str = "") -> Any:
    torch.save(content, path)
    return tm.load_model(f"{NAME}={path}{part}")


def holds(model: Any, tensors: dict[str, torch.Tensor]) -> bool:
    found = model.module.state_dict()
    return all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


# ---------------------------------------------------------------- the one prefix that fits


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "model.",
        "backbone.",
        "net.",
        "encoder.",
        "_orig_mod.",
        "module.encoder_q.",
        "model._orig_mod.backbone.",
        "anything.at.all.",
    ],
)
@pytest.mark.parametrize("level", [(), ("state_dict",), ("checkpoint", "weights")])
def test_any_prefix_at_any_level(prefix: str, level: tuple[str, ...], tmp_path: Path) -> None:
    source, target = cnn(3, (2, 4)), cnn(3, (2, 4))
    content: Any = under(prefix, source.state_dict())
    for name in level:
        content = {name: content, "epoch": 3, "config": {"lr": 0.1}}
    torch.save(content, tmp_path / "w.pth")
    load_checkpoint(target, tmp_path / "w.pth", heads=("head",))
    assert all(map(torch.equal, target.state_dict().values(), source.state_dict().values()))


def test_lightning_with_a_criterion(tmp_path: Path) -> None:
    weights = {**under("model.", state()), "criterion.pos_weight": torch.tensor(3.2)}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    content = {"state_dict": weights, "optimizer_states": [optimizer], "hyper_parameters": {}}
    with pytest.warns(TransferMetricsWarning, match=r"1 left out: state_dict\.criterion\.pos_w"):
        model = load(content, tmp_path / "w.ckpt")
    assert holds(model, state())
    assert model.head == "fc"


def test_moco(tmp_path: Path) -> None:
    projection = {"fc.0.weight": torch.zeros(8, 512), "fc.2.weight": torch.zeros(4, 8)}
    queries = {**body(1), **projection}
    content = {
        "state_dict": {
            **under("module.encoder_q.", queries),
            **under("module.encoder_k.", {**body(2), **projection}),
            "module.queue": torch.zeros(8),
        }
    }
    with pytest.warns(TransferMetricsWarning) as caught:
        model = load(content, tmp_path / "w.pth")
    told = " ".join(str(warning.message) for warning in caught)
    assert "'state_dict.module.encoder_q' is used" in told
    assert "#encoder_k" in told
    assert "no weights of the classifier fc" in told
    assert "module.queue" in told
    assert holds(model, body(1))
    assert model.head is None
    with pytest.warns(TransferMetricsWarning, match="no weights of the classifier"):
        assert holds(load(content, tmp_path / "w.pth", "#encoder_k"), body(2))


@pytest.mark.parametrize("student", [{}, under("backbone.", body(2))])
def test_dino(student: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content = {"teacher": under("backbone.", body(1)), "student": student, "epoch": 1}
    with pytest.warns(TransferMetricsWarning) as caught:
        model = load(content, tmp_path / "w.pth")
    told = " ".join(str(warning.message) for warning in caught)
    assert ("'teacher.backbone' is used" in told) == bool(student)
    assert holds(model, body(1))
    assert model.head is None


def test_no_head_means_no_logits_at_all(tmp_path: Path) -> None:
    """What would be the logits are the features before the classifier, of 512 numbers."""
    with pytest.warns(TransferMetricsWarning, match="no weights of the classifier fc"):
        model = load(body(), tmp_path / "w.pth")
    plain = network(1)
    images = model.dummy(3)
    with torch.inference_mode():
        wanted = plain.forward_head(plain.forward_features(images), pre_logits=True)
        torch.testing.assert_close(model(images), wanted)


def test_equal_fits_are_chosen_by_the_user(tmp_path: Path) -> None:
    content = {"best": state(1), "last": state(2)}
    with pytest.raises(InvalidInputError, match=r"under 'best' and under 'last'.*w\.pth#best"):
        load(content, tmp_path / "w.pth")
    assert holds(load(content, tmp_path / "w.pth", "#last"), state(2))
    with pytest.raises(InvalidInputError, match=r"under 'lst'; it has best, last"):
        load(content, tmp_path / "w.pth", "#lst")
    assert holds(load({"best": state(1), "last": state(1)}, tmp_path / "w.pth"), state(1))


@pytest.mark.parametrize("average", ["state_dict_ema", "ema_model", "teacher"])
def test_averages_are_preferred_where_they_are_whole(average: str, tmp_path: Path) -> None:
    content = {"state_dict": state(1), average: state(2)}
    with pytest.warns(TransferMetricsWarning, match="is used; for others write .*#state_dict"):
        assert holds(load(content, tmp_path / "w.pth"), state(2))
    parameters = dict(network(2).named_parameters())
    content[average] = {name: tensor.detach() for name, tensor in parameters.items()}
    with pytest.warns(TransferMetricsWarning, match=f"left out: {average}"):
        assert holds(load(content, tmp_path / "w.pth"), state(1))


def test_a_wrapped_network_takes_the_file_of_what_it_wraps(tmp_path: Path) -> None:
    inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    save_file(inner.state_dict(), tmp_path / "w.safetensors")
    wrapped = nn.ModuleDict({"net": nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))})
    load_checkpoint(wrapped, tmp_path / "w.safetensors")
    assert torch.equal(wrapped["net"][2].weight, inner[2].weight)


# ---------------------------------------------------------------- nothing stays random


@pytest.mark.parametrize(
    ("lacking", "named"),
    [
        ("conv1.0.weight", "1 missing: conv1.0.weight"),
        ("bn1.running_mean", "1 missing: bn1.running_mean"),
        ("fc.bias", "1 missing: fc.bias"),
        ("layer4.0.bn2.bias", "1 missing: layer4.0.bn2.bias"),
    ],
)
def test_what_is_missing_is_named_and_nothing_loaded(lacking: str, named: str) -> None:
    target = network(3)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    given = state()
    del given[lacking]
    with pytest.raises(InvalidInputError, match=re.escape(named)):
        _into(target, given)
    assert all(torch.equal(target.state_dict()[name], tensor) for name, tensor in before.items())


def _into(target: nn.Module, given: dict[str, Any], heads: tuple[str, ...] = ("fc",)) -> nn.Module:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        torch.save(given, f"{folder}/w.pth")
        return load_checkpoint(target, f"{folder}/w.pth", heads=heads)[0]


@pytest.mark.parametrize(
    ("extra", "refused"),
    [
        ("layer1.0.se.fc1.weight", True),
        ("layer1.1.conv1.weight", True),
        ("fc.scale", True),
        ("projector.0.weight", False),
        ("queue_ptr", False),
        ("layer5.0.weight", False),
    ],
)
def test_tensors_inside_a_part_of_the_network_mean_another_one(extra: str, refused: bool) -> None:
    given = {**state(), extra: torch.zeros(2)}
    if refused:
        with pytest.raises(InvalidInputError, match=f"1 unexpected: {re.escape(extra)}"):
            _into(network(3), given)
    else:
        with pytest.warns(TransferMetricsWarning, match=f"left out: {re.escape(extra)}"):
            _into(network(3), given)


def test_a_longer_sequence_is_another_network() -> None:
    deep = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    with pytest.raises(InvalidInputError, match=r"2 unexpected: 3\.weight, 3\.bias"):
        _into(nn.Sequential(*(nn.Linear(3, 3) for _ in range(3))), deep.state_dict(), ())


def test_another_architecture_is_refused_with_how_little_fits(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(weights=None).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InvalidInputError, match=r"it has 0 of \d+ tensors.*missing.*architecture"):
        tm.load_model(f"{NAME}={tmp_path / 'w.pth'}")


def test_hints_fit_the_shape(tmp_path: Path) -> None:
    import timm

    torch.save({**state(), "conv1.0.weight": torch.zeros(24, 1, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(InvalidInputError, match=r"1 of another shape: conv1.*\(in_chans=…\)"):
        tm.load_model(f"{NAME}={tmp_path / 'w.pth'}")
    name = "vit_tiny_patch16_224"
    small = timm.create_model(name, depth=1, img_size=64)
    torch.save(small.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InvalidInputError, match=r"1 of another shape: pos_emb.*\(img_size=…\)"):
        tm.load_model(f"timm:{name}(depth=1)={tmp_path / 'w.pth'}")


class Tied(nn.Module):
    """Embeddings shared by both ends, positions in a buffer, one of them in no file."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("positions", torch.arange(4))
        self.register_buffer("mask", torch.ones(2), persistent=False)


def test_what_a_network_makes_by_itself_may_be_missing_or_there() -> None:
    source, target = Tied(), Tied()
    given = dict(source.state_dict())
    for name in ("out.weight", "positions", "norm.num_batches_tracked"):
        del given[name]
    _into(target, {**given, "mask": torch.ones(2)}, ())
    assert torch.equal(target.out.weight, source.embed.weight)
    assert target.out.weight is target.embed.weight


def test_a_classifier_within_a_sequence(tmp_path: Path) -> None:
    """The file of another classifier in its place does not fit, and is left out with it."""
    from torchvision.models import mobilenet_v2

    weights = mobilenet_v2(weights=None).state_dict()
    weights = {name: t for name, t in weights.items() if not name.startswith("classifier")}
    torch.save({**weights, "classifier.3.weight": torch.zeros(7, 9)}, tmp_path / "w.pth")
    with pytest.warns(TransferMetricsWarning, match=r"classifier\.1.*left out: classifier\.3"):
        model = tm.load_model(f"torchvision:mobilenet_v2={tmp_path / 'w.pth'}")
    assert model.head is None
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 1280)


def test_both_classifiers_of_a_distilled_network(tmp_path: Path) -> None:
    import timm

    name = "deit_tiny_distilled_patch16_224"
    whole = timm.create_model(name, depth=1).state_dict()
    rest = {n: t for n, t in whole.items() if not n.startswith("head")}
    save_file(rest, tmp_path / "w.safetensors")
    with pytest.warns(TransferMetricsWarning, match="head and head_dist"):
        assert tm.load_model(f"timm:{name}(depth=1)={tmp_path / 'w.safetensors'}").head is None
    save_file({**rest, **{n: whole[n] for n in ("head.weight", "head.bias")}}, tmp_path / "v.st")
    (tmp_path / "v.st").rename(tmp_path / "v.safetensors")
    with pytest.raises(InvalidInputError, match=r"2 missing: head_dist\.weight, head_dist\.bias"):
        tm.load_model(f"timm:{name}(depth=1)={tmp_path / 'v.safetensors'}")


def test_a_network_made_without_classifier_takes_the_file_of_one_with(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pth")
    model = tm.load_model(f"timm:resnet10t(num_classes=0)={tmp_path / 'w.pth'}")
    assert model.head is None
    assert holds(model, body())


def test_pretrained_weights_with_a_random_classifier(tmp_path: Path, monkeypatch) -> None:
    import timm

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *a, pretrained, **k: real(*a, **k))
    with pytest.warns(TransferMetricsWarning, match="weights know 1000 classes.*would be random"):
        assert tm.load_model("timm:resnet10t(num_classes=7)").head is None
    assert tm.load_model("timm:resnet10t(num_classes=1000)").head == "fc"


FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

def wrapped():
    from transfer_metrics import load_model
    return load_model(net())
"""


@pytest.mark.parametrize("factory", ["net", "wrapped"])
def test_the_file_of_a_factory(factory: str, tmp_path: Path, monkeypatch) -> None:
    module = f"made_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    source = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.save({"net": source.state_dict()}, "w.pth")
    model = tm.load_model(f"{module}:{factory}=w.pth")
    assert torch.equal(model.module[0].weight, source[0].weight)
    assert model.head == "2"
    torch.save({"0.weight": source[0].weight, "0.bias": source[0].bias}, "w.pth")
    with pytest.warns(TransferMetricsWarning, match="no weights of the classifier 2"):
        model = tm.load_model(f"{module}:{factory}=w.pth")
    assert model.head is None
    assert model(torch.zeros(2, 4)).shape == (2, 8)


# ---------------------------------------------------------------- files


def test_a_scripted_network_is_told_from_one_that_runs_code(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(InvalidInputError, match=r"scripted network.*state_dict"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "w.pt")


def test_names_that_are_long_take_no_time(tmp_path: Path) -> None:
    torch.save({"a." * 200_000: torch.zeros(1), "weight": torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(InvalidInputError, match="of another shape"):
        load_checkpoint(nn.Linear(2, 2), tmp_path / "w.pth")


def test_a_hash_in_the_name_of_a_file(tmp_path: Path) -> None:
    assert holds(load(state(), tmp_path / "w#1.pth"), state())
    with pytest.raises(InvalidInputError, match="there is no such file"):
        tm.load_model(f"{NAME}={tmp_path / 'no.pth#1'}")


def test_it_ranks_without_metrics_of_the_head(tmp_path: Path) -> None:
    import numpy as np

    torch.save(body(), tmp_path / "w.pth")
    pictures = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    with pytest.warns(TransferMetricsWarning, match="no weights of the classifier"):
        table = tm.rank_models(
            f"{NAME}={tmp_path / 'w.pth'}", (pictures, np.arange(20) % 2), ["knn", "leep"],
            layers="last", cache="never", progress=False,
        )  # fmt: skip
    records = json.loads(json.dumps(table.records))
    assert [(r["metric"], r["dim"], bool(r["error"])) for r in records] == [
        ("knn", 512, False),
        ("leep", None, True),
    ]
