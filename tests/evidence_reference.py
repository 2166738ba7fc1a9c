"""Train small networks on ten tasks, keep what they reach, and judge every metric by it.

    python -m tests.evidence_reference [--out docs/evidence.md]
    python -m tests.evidence_reference --folder <reference zoo> --truth truth.jsonl \\
        --scores scores.jsonl [--seeds 2]

The first makes `docs/evidence.md` from `data/evidence`, in minutes. The second makes
`data/evidence`, task by task: five hours on one core with two seeds; what the two files of JSON
lines hold already is not computed again, and what is there of complete tasks is kept at any time
with `--seeds 0`. The folder has `models/*.safetensors` and `datasets/*.npz`; it is not part of this
repository.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

from tests.plain_networks import shared_models
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence import evidence_report, ground_truth, kept_truth, scored_pairs
from transfer_metrics.evidence.published import IMAGENET, load_benchmark
from transfer_metrics.files import replacing
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.sources.zoo import data_folder

# The most different ones first: a run that is cut short has them.
TASKS = (
    *("npz:datasets/flowers5.npz", "npz:datasets/dtd10.npz", "npz:datasets/hymenoptera.npz"),
    *("npz:datasets/fashion900.npz", "npz:datasets/omniglot100.npz", "npz:datasets/brain_mri.npz"),
    *("npz:datasets/cifar10.npz", "zoo:glyphs?examples=900", "npz:datasets/usps.npz"),
    "npz:datasets/quickdraw5.npz",
)
BUNDLED = (
    *("zoo:cnn-quickdraw5", "zoo:cnn-cifar10", "zoo:cnn-mnist", "zoo:resnet-gtsrb"),
    *("zoo:resnet-usps", "zoo:vit-mnist", "zoo:mixer-usps", "zoo:mixer-quickdraw5"),
    "zoo:mobilenet-cifar10",
)
FROM_FOLDER = ("mnist_net5", "quickdraw_doodlenet", "cifar10_lenet", "cifar10_resnet8")
SMALLER = "mobilenetv1_025_128"
"""An ImageNet network that sees 64 x 64 pixels, which one core can train."""


def models() -> list[str]:
    """Specifications of the fourteen networks, with places inside the folder."""
    specs = shared_models("models")
    smaller = specs[SMALLER].replace("=models/", "(input_size=64)=models/")
    return [*BUNDLED, *(specs[name] for name in FROM_FOLDER), smaller]


def measured(folder: Path, truth: Path, scores: Path, seeds: int) -> None:
    """Run what is missing and keep what is complete."""
    place = Path.cwd()
    os.chdir(folder)
    for seed in range(seeds):
        for task in TASKS:
            ground_truth.run(models(), task, truth, seeds=seed + 1)
            if not seed:
                scored_pairs.measure([(model, task) for model in models()], scores)
    os.chdir(place)
    kept_truth.keep(
        ground_truth.load(truth).records,
        ground_truth.read_lines(scores, scored_pairs.IDENTITY),
        data_folder() / "evidence",
    )


def judged() -> evidence_report.Evidence:
    """Every metric judged by what is kept."""
    return evidence_report.gather(
        Comparison(kept_truth.kept_truth()),
        kept_truth.kept_scores(),
        protocol=kept_truth.kept_protocol(),
        beside=load_benchmark(IMAGENET),
    )


def main() -> None:
    """Measure if asked, judge, and write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", TransferMetricsWarning)
    if args.folder:
        measured(args.folder, args.truth.resolve(), args.scores.resolve(), args.seeds)
        return
    found = judged()
    print(evidence_report.text(found))
    if args.out:
        evidence_report.draw(found, args.out.with_suffix(".png"))
        command = "python -m tests.evidence_reference --out docs/evidence.md"
        text = evidence_report.markdown(found, command, args.out.with_suffix(".png").name)
        with replacing(args.out) as temporary:
            temporary.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
