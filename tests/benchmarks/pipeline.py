"""``python -m tests.benchmarks.pipeline``: a ranking of folders of photos against a plain script.

The script is what one writes with timm and a ``DataLoader``: for each network in turn it reads and
decodes all photos in batches of 64, keeps the classifier's input, and gives it to the same two
metrics. The ranking scores every block, and chooses the size of its batches. They take turns,
network by network, in one process, with the same weights, and the scores of the last layer have to
agree. Then come a ranking of all networks in one call with ``engine="auto"``, as the command makes
it, with a cache of its own, and one in the first cache with one metric more.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import transfer_metrics as tm
from tests.benchmarks.command import bystanders, parser_of, run_module
from transfer_metrics.cli.console import print_table, tell
from transfer_metrics.cli.options import add_output, positive
from transfer_metrics.features.inference import Inference
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.modules import evaluation
from transfer_metrics.sources.optional import require
from transfer_metrics.threads import running_with

MOST, MOST_AGAIN = 0.6, 0.1
"""What a ranking may take of the script's time, and of its own when a metric is added."""
METRICS, ONE_MORE = ("logme", "knn"), "h_score"
# Architectures of timm and the size that they read.
NETWORKS = {
    "mobilenetv3_small_100": 224,
    "resnet18": 224,
    "mobilenetv2_050": 128,
    "regnetx_002": 224,
    "vit_tiny_patch16_224": 224,
    "mobilenetv3_large_100": 128,
    "resnet10t": 128,
    "efficientnet_lite0": 128,
}
_CLASSES, _PHOTO = 10, (400, 300)
_BATCH = 64


@dataclass
class Part:
    """Seconds of one network: by the clock, of all processors, and what they went into."""

    clock: float
    processors: float
    parts: dict[str, float]
    scores: dict[str, float] = field(default_factory=dict)


def photos(folder: Path, count: int) -> None:
    """JPEG files of 400 x 300 with a folder for each of ten classes, whose colours differ a bit."""
    rng = np.random.default_rng(0)
    tints = rng.uniform(90, 160, (_CLASSES, 3))
    for number in range(count):
        label = number % _CLASSES
        small = rng.normal(tints[label], 40, (15, 20, 3)).clip(0, 255).astype(np.uint8)
        large = np.asarray(Image.fromarray(small).resize(_PHOTO, Image.Resampling.BICUBIC))
        noisy = (large + rng.normal(0, 6, large.shape)).clip(0, 255).astype(np.uint8)
        path = folder / f"class{label}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(path, quality=90)


def specification(folder: Path, name: str) -> str:
    """What the ranking calls a network, whose random weights are written first."""
    from safetensors.torch import save_file

    path = folder / f"{name}.safetensors"
    if not path.exists():
        torch.manual_seed(0)
        network = require("timm", "the benchmark").create_model(name)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return f"timm:{name}(input_size={NETWORKS[name]})={path}"


def plain(folder: Path, name: str, workers: int) -> dict[str, Any]:
    """The script: seconds of its parts, and scores of the last layer."""
    timm = require("timm", "the benchmark")
    from safetensors.torch import load_file

    network = timm.create_model(name).eval()
    network.load_state_dict(load_file(folder / f"{name}.safetensors"))
    size = NETWORKS[name]
    config = timm.data.resolve_data_config({"input_size": (3, size, size)}, model=network)
    data = require("torchvision", "the benchmark").datasets.ImageFolder(
        folder / "photos", timm.data.create_transform(**config)
    )
    loader = torch.utils.data.DataLoader(data, batch_size=_BATCH, num_workers=workers)
    features, labels, running = [], [], 0.0
    with torch.inference_mode():
        for images, classes in loader:
            began = time.perf_counter()
            found = network.forward_head(network.forward_features(images), pre_logits=True)
            running += time.perf_counter() - began
            features.append(found.numpy())
            labels.append(classes.numpy())
    x, y = np.concatenate(features), np.concatenate(labels)
    began = time.perf_counter()
    scores = {metric: float(getattr(tm, metric)(x, y)) for metric in METRICS}
    return {
        "passes": running,
        "scores": time.perf_counter() - began,
        "values": scores,
    }


def ranked(
    models: Sequence[str], task: Any, cache: Path, metrics: Sequence[str], **options: Any
) -> dict[str, Any]:
    """The ranking: seconds of its parts, and scores of the last layer."""
    table = tm.rank_models(
        models, task, list(metrics), cache_dir=cache, keep_features=True, progress=False, **options
    )
    if table.failures:
        raise RuntimeError(str(table.failures))
    records = [record for record in table.records if record["value"] is not None]
    passes = {record["model"]: record["extract_seconds"] or 0.0 for record in records}
    built = sum(record["statistics_seconds"] or 0.0 for record in records)
    last = max(record["layer_index"] for record in records)
    return {
        "passes": sum(passes.values()),
        "statistics": built,
        "scores": sum(record["seconds"] or 0.0 for record in records) - built,
        "values": {r["metric"]: r["value"] for r in records if r["layer_index"] == last},
    }


def timed(work: Callable[[], dict[str, Any]]) -> Part:
    """What a piece of work took; what is no part is reading, and what is done once."""
    began, before = time.perf_counter(), sum(os.times()[:4])
    found = work()
    clock = time.perf_counter() - began
    values = found.pop("values")
    parts = {"reading": clock - sum(found.values()), **found}
    return Part(clock, sum(os.times()[:4]) - before, parts, values)


def limits(models: Sequence[str], task: Any) -> dict[str, float]:
    """Seconds of reading each photo once per way of reading it, and of bare forward passes.

    The passes are of one batch, of the size and in the order in memory that are fastest, times the
    number of batches.
    """
    examples, read, running = task["train"].examples, 0.0, 0.0
    known = set()
    some = range(0, len(examples), max(1, len(examples) // 100))
    for spec in models:
        model: Any = load_model(spec)
        if model.preprocess.geometry not in known:
            known.add(model.preprocess.geometry)
            began = time.perf_counter()
            for index in some:
                model.preprocess.pixels(examples[index])
            read += (time.perf_counter() - began) * len(examples) / len(some)
        times = []
        for size in (_BATCH // 4, _BATCH):
            images = model.dummy(size)
            with evaluation(model.module):
                for _ in range(2):
                    times.append(_seconds(model.module, images) / size)
                    with Inference(True).of(model.module):
                        times.append(_seconds(model.module, images) / size)
        running += min(times) * len(examples)
    return {"reading": read, "passes": running}


def _seconds(network: nn.Module, images: torch.Tensor) -> float:
    began = time.perf_counter()
    network(images)
    return time.perf_counter() - began


def measure(count: int, names: Sequence[str], workers: int, **options: Any) -> Iterator[Any]:
    """Records of both, network by network, of their sums, and of the second ranking.

    Raises:
        RuntimeError: scores differ.
    """
    with TemporaryDirectory(prefix="transfer-metrics-") as made:
        folder = Path(made)
        photos(folder / "photos", count)
        models = [specification(folder, name) for name in names]
        photos(folder / "few/photos", 2 * _CLASSES)  # libraries are loaded before anything counts
        for path in folder.glob("*.safetensors"):
            (folder / "few" / path.name).symlink_to(path)
        plain(folder / "few", names[0], workers)
        ranked(models[:1], f"imagefolder:{folder / 'few/photos'}", folder / "few", METRICS)
        task: Any = None
        sums: dict[str, list[Part]] = {"script": [], "ranking": []}
        for place, name in enumerate(names):

            def ranking(place: int = place) -> dict[str, Any]:
                nonlocal task
                task = task or tm.load_task(f"imagefolder:{folder / 'photos'}")
                return ranked([models[place]], task, folder / "cache", METRICS, **options)

            turns = {"script": lambda name=name: plain(folder, name, workers), "ranking": ranking}
            found = {who: timed(turns[who]) for who in sorted(turns, reverse=bool(place % 2))}
            own = found["ranking"].scores
            for metric, value in found["script"].scores.items():
                if not math.isclose(value, own[metric], rel_tol=1e-3, abs_tol=0.02):
                    raise RuntimeError(f"{name}: {metric} is {value}, and {own[metric]} by ranking")
            for who, part in found.items():
                sums[who].append(part)
                yield _record(who, name, [part])
        for who, parts in sums.items():
            yield _record(who, "all", parts)
        more = (*METRICS, ONE_MORE)
        for who, cache, metrics, engine in (
            ("auto", "auto", METRICS, "auto"), ("again", "cache", more, "serial")
        ):  # fmt: skip
            work = functools.partial(ranked, models, task, folder / cache, metrics, engine=engine)
            whole = timed(functools.partial(work, **options))
            whole.parts.clear()  # spent before, or in several processes at a time
            yield _record(who, f"all, {', '.join(metrics)}", [whole])
        limit = limits(models, task)
        yield {"who": "limit", "network": "all", "seconds": sum(limit.values()), **limit}


def _record(who: str, name: str, parts: Sequence[Part]) -> dict[str, Any]:
    """One line of the table."""
    kinds = dict.fromkeys(kind for part in parts for kind in part.parts)
    return {
        "who": who,
        "network": name,
        "seconds": sum(part.clock for part in parts),
        "processors": sum(part.processors for part in parts),
        **{kind: sum(part.parts[kind] for part in parts) for kind in kinds},
    }


_COLUMNS = ("seconds", "processors", "reading", "passes", "statistics", "scores")


def text(records: Sequence[dict[str, Any]], share: float | None) -> str:
    """The records as lines, the two ratios, and what they were measured beside."""
    lines = [_line({"who": "who", "network": "network", **{name: name for name in _COLUMNS}})]
    lines += map(_line, records)
    told = [f"{name} {value:.3f} (at most {most})" for name, value, most in ratios(records)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    others = "not known" if share is None else f"{share:.0%}"
    return "\n".join(
        [*lines, *told, f"peak of both {peak:.0f} MiB; others took of the cores: {others}"]
    )


def _line(record: dict[str, Any]) -> str:
    cells = (record.get(name, "") for name in _COLUMNS)
    shown = (cell if isinstance(cell, str) else f"{cell:.2f}" for cell in cells)
    return f"{record['who']:<8} {record['network']:<22}" + "".join(f"{cell:>12}" for cell in shown)


def ratios(records: Sequence[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """What is held to a limit: its name, its value, and the limit."""
    sums = {r["who"]: r for r in records if r["network"].startswith("all")}
    script, ranking, auto, again = (sums[w] for w in ("script", "ranking", "auto", "again"))
    return [
        ("ranking / script, by the clock", ranking["seconds"] / script["seconds"], MOST),
        ("ranking / script, processors", ranking["processors"] / script["processors"], MOST),
        ("auto / script, by the clock", auto["seconds"] / script["seconds"], MOST),
        ("again / ranking, by the clock", again["seconds"] / ranking["seconds"], MOST_AGAIN),
    ]


def _run(args: argparse.Namespace) -> int:
    names = list(NETWORKS)[: args.models]
    share = bystanders()
    with running_with(getattr(args, "threads", 2)):
        found = measure(args.photos, names, args.loaders, as_is=args.as_is)
        records = []
        for record in found:
            records.append(record)
            tell(args, _line(record))
    print_table(records, args, text(records, share()))
    return 0


def parser() -> Any:
    """The command's."""
    made = parser_of("pipeline", "Time a ranking of photos against a plain script.", _run)
    made.add_argument("--photos", type=positive, default=1000, metavar="N", help="default 1000")
    made.add_argument("--models", type=positive, default=len(NETWORKS), metavar="N",
                      help=f"the first of {len(NETWORKS)} networks")  # fmt: skip
    made.add_argument("--loaders", type=int, default=0, metavar="N",
                      help="loader processes of the script (default 0)")  # fmt: skip
    made.add_argument("--as-is", action="store_true", help="the ranking with networks as they are")
    add_output(made)
    return made


if __name__ == "__main__":
    run_module(parser())
