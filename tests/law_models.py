"""The models of docs/models.md with weights that are lively, and ways to make them anew."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import transfer_metrics as tm
from tests import audio_models, image_models, text_models
from tests.law_tasks import data_for
from tests.model_families import Case, with_weights
from transfer_metrics.sources.models.model import Model

MODULES: dict[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(inplace=True), nn.Linear(16, 8), nn.Tanh(),
        nn.Linear(8, 4),
    ),
    "cnn_1d": lambda: nn.Sequential(
        nn.Conv1d(6, 12, 3, padding=1), nn.BatchNorm1d(12), nn.ReLU(inplace=True),
        nn.Conv1d(12, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(8, 4),
    ),
    "transformer": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3
    ),
}  # fmt: skip
"""Plain modules that read arrays of numbers, beside the models of the page."""
SHAPES = {"mlp": (6,), "cnn_1d": (6, 10), "transformer": (5, 8)}


class Wrap(nn.Module):
    """A module around another one that does nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


@dataclass(frozen=True)
class Subject:
    """A model to hold to the laws.

    Attributes:
        model: as it was loaded.
        reload: saves its weights, and loads them into a fresh network.
    """

    model: Model
    reload: Callable[[], Model]

    @functools.cached_property
    def again(self) -> Model:
        """The model, saved and loaded once more."""
        return self.reload()


def with_module(model: Model, module: nn.Module) -> Model:
    """The same with another network in it, of which nothing is known, through ``load_model``."""
    if model.preprocess is None:
        module.pretrained_cfg = {"input_size": model.input_shape}
        return tm.load_model(module)
    unknown = dataclasses.replace(model, module=module, head=None)
    return tm.load_model(unknown, preprocess=model.preprocess, modality=model.modality)


def subject(case: Case, folder: Path) -> Subject:
    """The model of a case.

    Raises:
        NotHere: its weights are not on this machine.
    """
    if case.hub == "hf":
        return _of_transformers(case.name, folder)
    if case.hub == "weights":
        spec = with_weights(case.name)
        if spec.startswith("hf:"):
            return _of_folder(Path(spec[3:]), folder / "again")
        return _of_file(tm.load_model(spec), spec.rpartition("=")[0], folder)
    if case.hub == "module":
        return _of_module(case.name, folder)
    random = {"timm": "pretrained=False", "torchvision": "weights=None"}[case.hub]
    model = tm.load_model(f"{case.hub}:{case.name[:-1]}, {random})")
    _shake(model.module.state_dict())
    _settle(model)
    return _of_file(model, f"{case.hub}:{case.name}", folder)


def _of_file(model: Model, spec: str, folder: Path) -> Subject:
    def again() -> Model:
        save_file(model.module.state_dict(), folder / "again.safetensors")
        return tm.load_model(f"{spec}={folder / 'again.safetensors'}")

    return Subject(model, again)


def _of_module(name: str, folder: Path) -> Subject:
    def fresh() -> nn.Module:
        module = MODULES[name]()
        module.pretrained_cfg = {"input_size": SHAPES[name]}
        return module.eval()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tm.load_model(fresh())
        _shake(model.module.state_dict())

    def again() -> Model:
        save_file(model.module.state_dict(), folder / "again.safetensors")
        module = fresh()
        module.load_state_dict(load_file(folder / "again.safetensors"))
        return tm.load_model(module)

    return Subject(model, again)


def _of_transformers(name: str, folder: Path) -> Subject:
    maker = next(m for m in (image_models, text_models, audio_models) if name in m.FAMILIES)
    saved = maker.save(name, folder / name)
    weights = load_file(saved / "model.safetensors")
    _shake(weights)
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    if "running_var" in str(list(weights)) and maker is image_models:
        model = tm.load_model(f"hf:{saved}")
        _settle(model)
        model.module.save_pretrained(saved)
    return _of_folder(saved, folder / "again")


def _of_folder(saved: Path, copy: Path) -> Subject:
    def again() -> Model:
        transformers = text_models.library()
        config = transformers.AutoConfig.from_pretrained(saved)
        network = getattr(transformers, config.architectures[0]).from_pretrained(saved)
        shutil.copytree(saved, copy, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
        network.save_pretrained(copy)
        return tm.load_model(f"hf:{copy}")

    return Subject(tm.load_model(f"hf:{saved}"), again)


def _shake(tensors: dict[str, torch.Tensor]) -> None:
    """Make weights lively in place: as initialised, many do nothing, or next to nothing."""
    noise = torch.Generator().manual_seed(1)
    for tensor in tensors.values():
        if not tensor.is_floating_point():
            continue
        if tensor.ndim < 2 or not tensor.std() > 0:
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=noise))
        elif tensor.std() < (least := 0.7 * tensor[0].numel() ** -0.5):
            tensor.mul_(least / tensor.std())


def _settle(model: Model) -> None:
    """Give BatchNorm the statistics of the tasks: with others, rounding grows layer by layer."""
    norms = [m for m in model.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    batch = model.batch([example for data in data_for(model) for example in data.examples])
    model.module.eval()  # but for the normalisations: what drops parts at random drops none
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        model(batch)
    model.module.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
