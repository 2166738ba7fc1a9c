"""What extracting every block costs beside the bare forward pass.

``python -m tests.benchmarks.extraction`` times both over the same images in turn, with
random weights and the shapes of ResNet-50 and ViT-B/16, and prints the medians and their ratio.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.benchmarks.command import parser_of, run_module
from transfer_metrics.cli.console import show
from transfer_metrics.cli.parser import Parser
from transfer_metrics.features.extract import extract
from transfer_metrics.features.inference import Inference
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.tasks.task import Split, Task

IMAGE, SIZES = (3, 224, 224), (8, 16, 64)


class Bottleneck(nn.Module):
    """ResNet-50's residual block."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, 4 * width, H / stride, W / stride)."""
        return self.relu(self.body(x) + self.skip(x))


def resnet50() -> nn.Module:
    """A network of ResNet-50's shape."""
    stages, inputs = [], 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        stage = []
        for block in range(blocks):
            stage.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = 4 * width
        stages.append(nn.Sequential(*stage))
    stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    return nn.Sequential(
        *stem,
        nn.MaxPool2d(3, 2, 1),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2048, 1000),
    )


class VisionTransformer(nn.Module):
    """A network of ViT-B/16's shape."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 768, 16, 16)
        self.cls = nn.Parameter(torch.zeros(1, 1, 768))
        self.positions = nn.Parameter(torch.randn(1, 197, 768) * 0.02)
        self.blocks = nn.Sequential(*(TransformerBlock(768, 12) for _ in range(12)))
        self.norm = nn.LayerNorm(768)
        self.head = nn.Linear(768, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, 224, 224) to (N, 1000)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class TransformerBlock(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, C) to (N, T, C)."""
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*qkv.unbind(0))
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "resnet50": (resnet50, "10"),
    "vit_b_16": (VisionTransformer, "head"),
}


def measure(
    name: str, n: int = 500, sizes: Sequence[int] = SIZES, repeats: int = 2
) -> dict[str, float]:
    """Time the bare forward pass and the extraction of every block, in turn.

    Args:
        name: one of ``NETWORKS``.
        n: images in each pass.
        sizes: images in each bare forward pass; extraction chooses for itself.
        repeats: how often each is timed.

    Returns:
        Median seconds of the bare pass, the fastest of all sizes with channels first and last, and
        of the extraction, the median of the ratios of neighbours, and the number of layers.
    """
    torch.manual_seed(0)
    build, head = NETWORKS[name]
    model = Model(name, build().eval(), None, "tensor", head, IMAGE)
    images = list(np.random.default_rng(0).standard_normal((n, *IMAGE), dtype=np.float32))
    data = Split(images, np.arange(n) % 2)
    task = Task("noise", "classification", "tensor", {"train": data}, ("0", "1"))
    model.fingerprint, data.fingerprint  # noqa: B018  (cached; not part of either pass)

    def bare(batch_size: int) -> None:
        with evaluation(model.module):
            for start in range(0, n, batch_size):
                model(model.batch(images[start : start + batch_size]))

    def taps() -> int:
        store = extract(model, task, progress=False)
        return len(store.names)

    def seconds(work: Callable[[], Any]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    model(model.dummy(2))  # allocate, and choose kernels
    times: list[tuple[float, float]] = []
    layers = 0
    for _ in range(repeats):
        fastest = math.inf
        for size, last in itertools.product(sizes, (False, True)):
            with Inference(channels_last=last).of(model.module):
                fastest = min(fastest, seconds(functools.partial(bare, size)))
        start = time.perf_counter()
        layers = taps()
        times.append((fastest, time.perf_counter() - start))
    return {
        "bare": statistics.median(time for time, _ in times),
        "extract": statistics.median(time for _, time in times),
        "ratio": statistics.median(taps / bare for bare, taps in times),
        "layers": layers,
    }


def lines(
    n: int = 500,
    sizes: Sequence[int] = SIZES,
    repeats: int = 2,
    networks: Iterable[str] = NETWORKS,
) -> Iterator[str]:
    """Describe the measurement of each network in a line of text.

    Args:
        n: images in each pass.
        sizes: images in each bare forward pass.
        repeats: how often each is timed.
        networks: names out of ``NETWORKS``.
    """
    told = " or ".join(map(str, sizes))
    yield f"{torch.get_num_threads()} threads, {n} images, bare in batches of {told}"
    for name in networks:
        found = measure(name, n, sizes, repeats)
        yield (
            f"{name}: bare {found['bare']:.2f} s, extracting {found['layers']} layers "
            f"{found['extract']:.2f} s, ratio {found['ratio']:.3f}"
        )


def parser() -> Parser:
    """The command's."""
    about = "Time extracting every block against the bare forward pass."
    return parser_of("extraction", about, run)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    for line in lines():
        show(line)
    return 0


if __name__ == "__main__":
    run_module(parser())
