"""Train the bundled zoo: ``python data/make_zoo.py --source <folder with the npz files>``.

Each source is one file ``<source>.npz`` with ``x`` (uint8, N x H x W x C) or ``jpeg`` and
``offsets`` (image i is the bytes ``offsets[i]:offsets[i + 1]``), and with ``y`` and ``classes``.
Every network is trained in one single-threaded process under a fixed seed; ``--jobs`` trains
several at a time. Finished networks are skipped when the script runs again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from transfer_metrics.sources.models import networks

SIZE = 32
TEST_FRACTION = 0.1
CONVOLUTIONAL = ("cnn", "resnet", "mobilenet")


@dataclass(frozen=True)
class Augment:
    """Random changes of a training image that leave its class alone."""

    shift: int  # largest shift in pixels, edges repeated
    flip: bool = False  # mirror left and right
    brightness: float = 0.0  # factor drawn from 1 - brightness to 1 + brightness


AUGMENT = {
    "cifar10": Augment(shift=4, flip=True),
    "gtsrb": Augment(shift=3, brightness=0.5),
    "mnist": Augment(shift=2),
    "quickdraw5": Augment(shift=3, flip=True),
    "usps": Augment(shift=2),
}
# Epochs and batch of every network. The longest trainings come first, so that several jobs end at
# about the same time.
TRAINING = {
    "resnet-cifar10": (14, 64),
    "mobilenet-cifar10": (10, 64),
    "cnn-cifar10": (12, 64),
    "vit-mnist": (16, 32),
    "vit-gtsrb": (20, 32),
    "mobilenet-gtsrb": (16, 32),
    "mixer-usps": (10, 64),
    "resnet-gtsrb": (12, 64),
    "mixer-quickdraw5": (7, 64),
    "resnet-usps": (8, 64),
    "mobilenet-mnist": (5, 64),
    "cnn-quickdraw5": (6, 64),
    "cnn-mnist": (6, 64),
    "resnet-random": (0, 64),
}


@dataclass(frozen=True)
class Images:
    """One source as tensors: ``x`` is uint8 (N, 3, 32, 32), ``y`` int64 (N,)."""

    x: torch.Tensor
    y: torch.Tensor
    classes: list[str]


def read_source(path: Path) -> Images:
    """Read one npz file; grey images are repeated to three channels, all scaled to 32x32."""
    with np.load(path, allow_pickle=False) as file:
        labels, classes = file["y"], [str(name) for name in file["classes"]]
        if "jpeg" in file:
            data, ends = file["jpeg"], file["offsets"]
            parts = (data[a:b].tobytes() for a, b in pairwise(ends))
            pictures = [Image.open(io.BytesIO(part)) for part in parts]
        else:
            pixels = file["x"]
            pictures = [Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p) for p in pixels]
    resized = [
        np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
        for picture in pictures
    ]
    x = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous()
    return Images(x, torch.from_numpy(labels.astype(np.int64)), classes)


def split(labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices for training and testing: a random tenth of each class, at least one, is held out."""
    random = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        held_out.append(members[: max(1, round(TEST_FRACTION * len(members)))])
    test = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), test), test


def vary(x: torch.Tensor, augment: Augment, random: torch.Generator) -> torch.Tensor:
    """Apply ``augment`` to a float batch (N, 3, H, W) in 0..255, each image on its own."""
    count, _, height, width = x.shape
    if augment.flip:
        mirrored = torch.rand(count, generator=random) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if augment.brightness:
        factor = 1 + augment.brightness * (2 * torch.rand(count, generator=random) - 1)
        x = (x * factor[:, None, None, None]).clamp(0, 255)
    moves = torch.randint(2 * augment.shift + 1, (2, count), generator=random)
    rows = moves[0][:, None] + torch.arange(height)
    columns = moves[1][:, None] + torch.arange(width)
    padded = functional.pad(x, [augment.shift] * 4, mode="replicate").permute(0, 2, 3, 1)
    image = torch.arange(count)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def fit(
    model: nn.Module,
    images: Images,
    normalise: nn.Module,
    augment: Augment,
    recipe: dict[str, Any],
    log: str,
) -> None:
    """Train ``model`` in place: AdamW, one epoch of linear warm-up, cosine to zero."""
    random = torch.Generator().manual_seed(recipe["seed"])
    batch, epochs = recipe["batch"], recipe["epochs"]
    steps = math.ceil(len(images.y) / batch)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe["lr"],
        weight_decay=recipe["weight_decay"],
    )

    def factor(step: int) -> float:
        return min((step + 1) / steps, 0.5 + 0.5 * math.cos(math.pi * step / (steps * epochs)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
    model.train()
    for epoch in range(epochs):
        total, start = 0.0, time.perf_counter()
        for rows in torch.randperm(len(images.y), generator=random).split(batch):
            x = normalise(vary(images.x[rows].float(), augment, random))
            loss = functional.cross_entropy(model(x), images.y[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        seconds = time.perf_counter() - start
        mean = total / len(images.y)
        print(f"{log}: epoch {epoch + 1}/{epochs} loss {mean:.3f} {seconds:.1f} s", flush=True)


class Normalise(nn.Module):
    """Bytes 0..255 to the network's input: x / 255, less the mean, over the deviation."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.mean = 255 * torch.tensor(mean)[:, None, None]
        self.std = 255 * torch.tensor(std)[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Convolutions on a CPU are fastest with the channels innermost.
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def accuracy(model: nn.Module, images: Images, normalise: nn.Module) -> float:
    """Per cent of ``images`` that ``model`` classifies correctly, in eval mode."""
    model.eval()
    right = [
        int((model(normalise(x.float())).argmax(1) == y).sum())
        for x, y in zip(images.x.split(256), images.y.split(256), strict=True)
    ]
    return 100 * sum(right) / len(images.y)


def statistics(x: torch.Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in 0..1 units, to four digits."""
    channels = x.permute(1, 0, 2, 3).flatten(1).double() / 255
    return (
        [round(value, 4) for value in channels.mean(1).tolist()],
        [round(value, 4) for value in channels.std(1).tolist()],
    )


def make(
    name: str, source_folder: Path, epochs: int | None = None, seed: int = 0
) -> tuple[dict[str, Any], bytes]:
    """Train one network and return its manifest record and its safetensors file."""
    own_epochs, batch = TRAINING[name]
    if epochs is None or not own_epochs:
        epochs = own_epochs
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    start = time.perf_counter()
    architecture, source = name.split("-", 1)
    images, mean, std = None, [0.5] * 3, [0.25] * 3
    if source != "random":
        images = read_source(source_folder / f"{source}.npz")
        train_rows, test_rows = (torch.from_numpy(rows) for rows in split(images.y.numpy()))
        train = Images(images.x[train_rows], images.y[train_rows], images.classes)
        test = Images(images.x[test_rows], images.y[test_rows], images.classes)
        mean, std = statistics(train.x)
    num_classes = len(images.classes) if images else 10
    model = getattr(networks, architecture)(num_classes=num_classes)
    model = model.to(memory_format=torch.channels_last)
    recipe: dict[str, Any] = {"seed": seed, "epochs": epochs}
    if images:
        recipe |= {
            "batch": batch,
            "optimiser": "AdamW, no decay on vectors",
            "schedule": "linear warm-up over one epoch, cosine to zero",
            "lr": 2e-3 if architecture in CONVOLUTIONAL else 1e-3,
            "weight_decay": 0.05,
            "augment": asdict(AUGMENT[source]),
            "split": f"a random {TEST_FRACTION:.0%} of each class held out, seed 0",
            "train_images": len(train.y),
            "test_images": len(test.y),
        }
        fit(model, train, Normalise(mean, std), AUGMENT[source], recipe, name)
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    # What is measured are the weights as they are stored.
    model.load_state_dict(state)
    score = round(accuracy(model, test, Normalise(mean, std)), 2) if images else None
    recipe |= {"seconds": round(time.perf_counter() - start), "torch": torch.__version__}
    data = safetensors.torch.save(state)
    record = {
        "name": name,
        "file": f"{name}.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "architecture": {
            "factory": f"transfer_metrics.sources.models.networks:{architecture}",
            "kwargs": {"num_classes": num_classes},
        },
        "params": sum(p.numel() for p in model.parameters()),
        "input_size": [3, SIZE, SIZE],
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "classifier": "head",
        "source": source,
        "source_classes": images.classes if images else [],
        "num_classes": num_classes,
        "test_accuracy": score,
        "recipe": recipe,
    }
    return record, data


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def table(models: list[dict[str, Any]]) -> str:
    """The models as the Markdown table of ``data/README.md``."""
    lines = [
        "| model | architecture | parameters | source | epochs | test accuracy, % | sha256 |",
        "|---|---|--:|---|--:|--:|---|",
    ]
    for model in models:
        accuracy = model["test_accuracy"]
        cells = (
            f"`{model['name']}`",
            model["architecture"]["factory"].partition(":")[2],
            f"{model['params']:,}".replace(",", " "),
            "none" if accuracy is None else model["source"],
            str(model["recipe"]["epochs"]),
            "–" if accuracy is None else f"{accuracy:.2f}",
            f"`{model['sha256'][:12]}`",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, keeping the manifest up to date, and print the README's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="folder with <source>.npz files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "zoo")
    parser.add_argument("--only", choices=sorted(TRAINING), action="append", metavar="NAME")
    parser.add_argument("--epochs", type=int, help="instead of each network's own number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="networks to train at a time")
    parser.add_argument("--force", action="store_true", help="train again what is there already")
    options = parser.parse_args(arguments)

    options.out.mkdir(parents=True, exist_ok=True)
    manifest = options.out / "manifest.json"
    stored = json.loads(manifest.read_text("utf-8"))["models"] if manifest.exists() else []
    records = {record["name"]: record for record in stored}
    wanted = [name for name in options.only or TRAINING if options.force or name not in records]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context) as pool:
        trained = [
            pool.submit(make, name, options.source, options.epochs, options.seed) for name in wanted
        ]
        for future in as_completed(trained):
            record, data = future.result()
            records[record["name"]] = record
            write(options.out / record["file"], data)
            models = [records[name] for name in sorted(records)]
            text = json.dumps({"format": 1, "models": models}, indent=1, ensure_ascii=False)
            write(manifest, (text + "\n").encode())
            print(f"{record['name']}: test accuracy {record['test_accuracy']} %", flush=True)
    print(table([records[name] for name in sorted(records)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
