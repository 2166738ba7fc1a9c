"""Fine-tune small networks on eight tasks and judge every metric; makes `docs/evidence.md`.

    python -m tests.evidence_reference <folder of the reference zoo> --truth truth.jsonl \
        --scores scores.jsonl [--out docs/evidence.md]

The folder has `models/*.safetensors` and `datasets/*.npz`; it is not part of this repository. Two
hours and a half on two cores; what the two files hold already is not computed again.
"""

from __future__ import annotations

import argparse
import os
import warnings
from pathlib import Path

from tests.plain_networks import shared_models
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence import evidence_report, ground_truth, scored_pairs
from transfer_metrics.files import replacing
from transfer_metrics.results.comparison import Comparison

# About 250 steps of training everywhere, so small sets are seen more often.
EPOCHS = {
    "usps": 5,
    "gtsrb": 5,
    "flowers5": 5,
    "quickdraw5": 5,
    "cifar10": 5,
    "omniglot100": 5,
    "fashion900": 13,
    "dtd10": 8,
}
FROM_FOLDER = (
    *("mnist_net5", "fashion_net5", "quickdraw_doodlenet", "cifar10_lenet", "cifar10_resnet20"),
    *("mobilenetv1_025_128", "mobilenetv1_025_224"),
)
BUNDLED = (
    *("zoo:cnn-quickdraw5", "zoo:resnet-gtsrb", "zoo:resnet-usps", "zoo:vit-mnist"),
    "zoo:cnn-cifar10",
)
# Judged by linear probes alone, after everything was chosen.
ASIDE_TASKS = ("brain_mri", "hymenoptera")
ASIDE_MODELS = ("mobilenetv1_050_160", "mobilenetv2_050_96", "mcunet_imagenet")
SIZED = "(input_size=96)"


def specifications(names: tuple[str, ...]) -> list[str]:
    """Networks with places inside the folder; those for ImageNet see 96 x 96 pixels."""
    specs = shared_models("models")
    plain = ("mobilenetv1", "mcunet")
    return [
        specs[name].replace("=models/", f"{SIZED}=models/")
        if name.startswith(plain)
        else specs[name]
        for name in names
    ]


def models() -> list[str]:
    """Specifications of the twelve networks."""
    return [*specifications(FROM_FOLDER), *BUNDLED]


def aside() -> list[tuple[str, str]]:
    """The pairs that are kept aside."""
    names = [*models(), *specifications(ASIDE_MODELS)]
    return [(name, f"npz:datasets/{task}.npz") for task in ASIDE_TASKS for name in names]


def heads(task: str) -> list[str]:
    """The stated protocol with the epochs of a task."""
    return [head.replace("epochs=5", f"epochs={EPOCHS[task]}") for head in ground_truth.HEADS]


def main() -> None:
    """Run what is missing, judge, and write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    truth, scores = args.truth.resolve(), args.scores.resolve()
    page = args.out and args.out.resolve()
    os.chdir(args.folder)
    warnings.simplefilter("ignore", TransferMetricsWarning)
    for task in EPOCHS:
        name = f"npz:datasets/{task}.npz"
        found = ground_truth.run(models(), name, truth, heads=heads(task), seeds=1)
    records = scored_pairs.measure(scored_pairs.pairs_of(found.records), scores)
    kept = scored_pairs.measure(aside(), scores)
    judged = evidence_report.gather(
        Comparison(ground_truth.shortened(found.records)),
        ground_truth.shortened(records),
        aside=ground_truth.shortened(kept),
    )
    print(evidence_report.text(judged))
    if page:
        evidence_report.draw(judged, page.with_suffix(".png"))
        command = "python -m tests.evidence_reference <folder of the reference zoo> …"
        text = evidence_report.markdown(judged, command, page.with_suffix(".png").name)
        with replacing(page) as temporary:
            temporary.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
