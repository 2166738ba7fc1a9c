"""Train small networks on ten tasks, keep what they reach, and judge every metric by it.

    python -m tests.evidence_reference [--out docs/evidence.md]
    python -m tests.evidence_reference --folder <reference zoo> --truth truth.jsonl \\
        --scores scores.jsonl [--seeds 2]
    python -m tests.evidence_reference --folder <reference zoo> --longer longer.jsonl

The first makes `docs/evidence.md` from `data/evidence`, in minutes. The second makes
`data/evidence`, task by task: five hours on one core with two seeds; what the two files of JSON
lines hold already is not computed again, and what is there of complete tasks is kept at any time
with `--seeds 0`. The third trains 23 pairs of it for forty epochs, in three hours. The folder has
`models/*.safetensors` and `datasets/*.npz`; it is not part of this repository.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from tests import evidence_files, kept_truth
from tests.plain_networks import shared_models
from transfer_metrics.errors import TransferMetricsWarning
from transfer_metrics.evidence import ground_truth, scored_pairs
from transfer_metrics.evidence.evidence_report import Evidence
from transfer_metrics.evidence.judgement import Scores
from transfer_metrics.evidence.layout import piped, wrapped
from transfer_metrics.evidence.published import load_benchmark
from transfer_metrics.evidence.static_baseline import MEASURE, by_task, mean_agreement
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

# Each network and each task differs from the others; then all networks on one task.
LONGER = (
    *(("cifar10_resnet8", TASKS[9]), ("zoo:vit-mnist", TASKS[4]), ("zoo:resnet-usps", TASKS[1])),
    *((SMALLER, TASKS[0]), ("zoo:mobilenet-cifar10", TASKS[2]), ("quickdraw_doodlenet", TASKS[6])),
    *(
        ("zoo:cnn-quickdraw5", TASKS[3]),
        ("zoo:resnet-gtsrb", TASKS[8]),
        ("cifar10_lenet", TASKS[5]),
    ),
    ("zoo:cnn-mnist", TASKS[7]),
)
"""Pairs that are trained longer."""
LONG = (
    "lr=(0.00001, 0.0001, 0.0006, 0.003, 0.02), weight_decay=0.0005, epochs=40, halving=3, "
    "batch_size=16, batch_norm=eval"
)


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
    evidence_files.keep(
        ground_truth.load(truth).records,
        ground_truth.read_lines(scores, scored_pairs.IDENTITY),
        data_folder() / "evidence",
    )


def trained_longer(folder: Path, out: Path) -> None:
    """Train some pairs for more epochs, with other learning rates, and keep what they reach."""
    place = Path.cwd()
    os.chdir(folder)
    probe = ground_truth.protocol(500)[0]
    strengths = probe.partition("(")[2].removesuffix(")")
    heads = (probe, f"lpft({LONG}, {strengths})", f"finetune({LONG})")
    for model, task in LONGER:
        [found] = [name for name in models() if ground_truth.short_name(name) == model]
        ground_truth.run([found], task, out, heads=heads)
    ground_truth.run(models(), LONGER[-1][1], out, heads=heads)
    os.chdir(place)
    evidence_files.keep_longer(ground_truth.load(out).records, data_folder() / "evidence")


def longer() -> str:
    """What more epochs change, as a part of the page."""
    trained = kept_truth.TRAINED
    kept = kept_truth.kept_truth(name="longer")
    after = [r for head in trained for r in kept if r["head"] == head]
    pairs = list(dict.fromkeys((r["model"], r["task"]) for r in after))
    truth = [r for r in kept_truth.kept_truth(name="truth") if (r["model"], r["task"]) in pairs]
    both = (truth, [r for r in truth if r["head"] not in trained] + after)
    rows, changes = [], []
    for pair in pairs:
        row = list(pair)
        for head in (*trained, ground_truth.BEST):
            few, many = (_reached(records, pair, head) for records in both)
            row.append(f"{few:.1f} → {many:.1f}")
            changes.append((head, pair[1], many - few))
        rows.append(row)

    def told(tasks: set[str]) -> str:
        return "; ".join(
            f"{head} {min(found):+.1f} to {max(found):+.1f}, {sum(found) / len(found):+.1f} on "
            f"average"
            for head in (*trained, ground_truth.BEST)
            if (
                found := [
                    change for name, task, change in changes if name == head and task in tasks
                ]
            )
        )

    whole = kept_truth.trained_longer()
    others = {task for _, task in pairs} - whole
    text = (
        f"Nine to twelve epochs do not bring fine-tuning to its end. {len(rows)} pairs again with "
        f"forty, by {'; '.join(kept_truth.kept_protocol(name='longer')[1:])}: test accuracy in per "
        f"cent, mean over seeds, and *best* that of the head which validation chose of the four. "
        f"Changes in points, {', '.join(sorted(whole))}: {told(whole)}. Others: {told(others)}."
    )
    header = ("model", "task", *trained, ground_truth.BEST)
    parts = ["## Trained longer", wrapped(text), piped(header, rows), *_judged_by(both)]
    return "\n\n".join(parts) + "\n"


def _judged_by(truths: Sequence[list[dict]]) -> list[str]:
    """How metrics agree with both truths on the tasks on which all networks trained longer."""
    reached = [
        ground_truth.reached(Comparison(ground_truth.best(records)), ground_truth.BEST)
        for records in truths
    ]
    whole = list(reached[0][0].dropna(axis=1).columns)
    if not whole:
        return []
    scores = Scores(kept_truth.kept_scores()).last()
    found = {
        name: [
            mean_agreement(table[whole], means[whole], errors[whole])[MEASURE]
            for means, errors in reached
        ]
        for name, table in scores.items()
    }
    rows = [
        [name, *(f"{tau:.2f} ({low:.2f} to {high:.2f})" for tau, low, high in both)]
        for name, both in sorted(found.items(), key=lambda one: -one[1][1][0])
    ]
    text = (
        f"All networks trained longer on {', '.join(whole)}: weighted tau of each metric with the "
        f"best accuracies of before and after. The tables above rest on those of after."
    )
    return [wrapped(text), piped(("metric", "before", "after"), rows)]


def _reached(records: list[dict], pair: tuple[str, str], head: str) -> float:
    """Accuracy in per cent, mean over seeds."""
    of_pair = [r for r in records if (r["model"], r["task"]) == pair]
    found = ground_truth.best(of_pair) if head == ground_truth.BEST else of_pair
    values = [r["value"] for r in found if r["head"] == head and r["metric"] == "accuracy"]
    return 100 * sum(values) / len(values)


def _is_longer(record: dict, tasks: set[str]) -> bool:
    return record["task"] in tasks and record["head"] in kept_truth.TRAINED


def judged() -> Evidence:
    """Every metric judged by what is kept."""
    labels = {
        name: {label.partition("(")[0]: label for label in kept_truth.kept_protocol(name=name)}
        for name in ("truth", "longer")
    }
    longer = kept_truth.trained_longer()
    truth = [
        {**r, "head": labels["longer" if _is_longer(r, longer) else "truth"][r["head"]]}
        for r in kept_truth.kept_truth()
    ]
    return Evidence.of(Comparison(truth), kept_truth.kept_scores())


def beside() -> str:
    """Other models, on which nothing was chosen, as a part of the page."""
    benchmark = load_benchmark("reference-imagenet")
    known, rows = benchmark.accuracies, []
    for name, table in benchmark.scores.items():
        mean, low, high = mean_agreement(table, known, benchmark.noise)[MEASURE]
        values = [*by_task(table, known).reindex(known.columns), mean]
        told = ["–" if value != value else f"{value:.2f}" for value in values]
        rows.append((mean, [name, *told, f"{low:.2f} to {high:.2f}"]))
    rows.sort(key=lambda row: -row[0])
    header = ("metric", *map(str, known), "mean", "95 % interval")
    text = (
        f"Weighted tau with the {benchmark.accuracy}; nothing was chosen by these. "
        f"{'; '.join(benchmark.notes)}."
    )
    table = piped(header, [cells for _, cells in rows])
    return "\n\n".join([f"## Beside it: {benchmark.title}", wrapped(text), table])


def main() -> None:
    """Measure if asked, judge, and write the page and its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--scores", type=Path)
    parser.add_argument("--longer", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", TransferMetricsWarning)
    if args.folder and args.longer:
        trained_longer(args.folder, args.longer.resolve())
        return
    if args.folder:
        measured(args.folder, args.truth.resolve(), args.scores.resolve(), args.seeds)
        return
    found = judged()
    print(found.text())
    if args.out:
        found.draw(args.out.with_suffix(".png"))
        command = "python -m tests.evidence_reference --out docs/evidence.md"
        text = found.markdown(command, args.out.with_suffix(".png").name)
        judged_part, title, truth = text.partition("## Ground truth")
        whole = f"{judged_part}{beside()}\n\n{title}{truth}\n{longer()}"
        with replacing(args.out) as temporary:
            temporary.write_text(whole, "utf-8")


if __name__ == "__main__":
    main()
