"""Write ``data/benchmarks``.

    python -m data.make_benchmarks <folder with ground_truth>
    python -m data.make_benchmarks --evidence data/evidence [--imagenet images.jsonl]
        [--texts texts.jsonl]

The first writes what others have published, the second what ``tests.evidence_reference``,
and ``tests.probed_reference`` have measured; what is not asked for stays as it is.

The folder has ``ground_truth/*.csv``, accuracies and scores transcribed from public repositories,
and ``transrate/``, the logs of the TransRate paper. This script names models and tasks alike,
leaves out figures that are known to be wrong, and writes one CSV per benchmark and a manifest.
Nothing is rounded: a figure here is the figure there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

import transfer_metrics as tm
from tests import kept_truth
from transfer_metrics.evidence import ground_truth
from transfer_metrics.evidence.ground_truth import BEST, best, read_lines, short_name
from transfer_metrics.evidence.judgement import Scores
from transfer_metrics.evidence.published import MEASURED_HERE
from transfer_metrics.evidence.scored_pairs import IDENTITY
from transfer_metrics.files import replacing
from transfer_metrics.results.comparison import Comparison

LICENCE = "figures are facts; only they were copied, no text and no code of the source"
OWN = "measured by this project"
ZOO, IMAGENET, TEXTS = MEASURED_HERE
PERCENT, FRACTION = "%", "fraction"
TUNED = "top-1 test accuracy after full fine-tuning (VOC 2007: mean average precision)"
LOGME_MODELS = {
    "GoogleNet": "googlenet",
    "Inception V3": "inception_v3",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "ResNet152": "resnet152",
    "DenseNet121": "densenet121",
    "DenseNet169": "densenet169",
    "Densenet201": "densenet201",
    "MobileNet V2": "mobilenet_v2",
    "MNasNet": "mnasnet1_0",
}
LOGME_TASKS = {"oxfordiiitpets": "pets", "stanfordcars": "cars", "pet": "pets"}
LOGME_METRICS = {"HScore": "h_score", "LEEP": "leep", "LogME": "logme", "NCE": "nce"}
SPIDER_METRICS = {
    "H-Score": "h_score",
    "LEEP": "leep",
    "LogME": "logme",
    "NCE": "nce",
    "NLEEP": "nleep",
    "OTCE": "otce",
    "PACTranDirichlet": "pactran_dirichlet",
    "GBC": "gbc",
    "LFC": "lfc",
}
MEDICAL_METRICS = ("fu", "leep", "logme", "lp", "ncti", "nleep", "parc", "sfda")
SFDA = "Shao et al. 2022 (SFDA), github.com/TencentARC/SFDA @3b7edf7"
GUIDE = "github.com/alizkzm/te-guide @33f26366, guide/ground_truth.py"
EMMS = "Meng et al. 2023 (EMMS), github.com/OpenGVLab/Multitask-Model-Selector @24d1008"
PARC = "Bolya et al. 2021 (PARC), github.com/dbolya/parc @ddfca43, oracles"
LOGME = (
    "You et al. 2021 (LogME), github.com/thuml/Transfer-Learning-Library @c4aa59e, "
    "examples/model_selection/README.md"
)
SPIDER = (
    "Zhang et al. 2023 (Model Spider), github.com/zhangyikaii/Model-Spider @d2a53e4, "
    "assests/baseline_results.csv"
)
MEDICAL = (
    "Juodelyte et al. 2024 (arXiv 2412.20172), "
    "github.com/DovileDo/transferability-in-medical-imaging @7e308c4, results"
)
SHIFT = "Renggli et al. 2022 (SHiFT), github.com/DS3Lab/shift @1db7f15, data/ftrecords.csv"
TRANSRATE = "Huang et al. 2022 (TransRate), github.com/Long-Kai/TransRate @247d41a, data logs"


@dataclass
class Made:
    name: str
    title: str
    source: str
    accuracy: str
    unit: str
    accuracies: pd.DataFrame
    scores: dict[str, pd.DataFrame] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    noise: pd.DataFrame | None = None
    licence: str = LICENCE


def benchmarks(folder: Path) -> Iterator[Made]:
    truth = folder / "ground_truth"
    yield from plain(truth)
    yield from parc(truth)
    yield from logme(truth)
    yield from medical(truth)
    yield tmlr(truth)
    yield from shift(truth)
    yield from transrate(folder / "transrate")


def read(path: Path) -> pd.DataFrame:
    """All cells as text, because pandas may read a float a bit in the last place off."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Text to the floats that Python reads; blank is NaN."""
    return table.map(lambda cell: float(cell) if isinstance(cell, str) and cell else np.nan)


def wide(path: Path) -> pd.DataFrame:
    """A file with a row per data set, turned to models x tasks."""
    table = read(path)
    return numbers(table.set_index(table.columns[0]).T)


def plain(truth: Path) -> Iterator[Made]:
    yield Made(
        "sfda-cnn",
        "11 supervised CNNs on 11 data sets",
        f"{SFDA}, tw_group1.py",
        TUNED,
        PERCENT,
        wide(truth / "sfda_cnn_supervised_11x11.csv"),
        notes=["the same table is used by ETran, NCTI, EMMS and te-guide"],
    )
    yield Made(
        "sfda-ssl",
        "12 self-supervised ResNet-50 on 11 data sets",
        f"{SFDA}, tw_group2.py",
        TUNED,
        PERCENT,
        wide(truth / "sfda_ssl_resnet50_12x11.csv"),
        notes=["the same table is used by PED"],
    )
    yield Made(
        "ncti-ssl",
        "the self-supervised ResNet-50 of sfda-ssl on RESISC45 and EuroSAT",
        "Wang et al. 2023 (NCTI), github.com/BUserName/NCTI @b18d395, tw_group2.py",
        TUNED,
        PERCENT,
        wide(truth / "ncti_ssl_resisc_eurosat.csv"),
        notes=["simclr-v1 and simclr-v2 were not measured: 0 in the source, NaN here"],
    )
    yield Made(
        "sfda-cnn-head",
        "the 11 CNNs of sfda-cnn with only the head trained again",
        f"{GUIDE}, SFDA_CNN_HEAD",
        "top-1 test accuracy with a new head on frozen features",
        PERCENT,
        wide(truth / "sfda_cnn_head_only_11x11.csv"),
        notes=[
            "doubtful: the column sun397 (63 to 84 %) exceeds full fine-tuning in sfda-cnn "
            "(56 to 65 %), so it is of another split or protocol; kept as published"
        ],
    )
    yield Made(
        "itm-mixed",
        "20 CNNs and vision transformers, supervised and self-supervised, on 11 data sets",
        f"{GUIDE}, ITM",
        "top-1 test accuracy after fine-tuning; torchvision's default weights",
        PERCENT,
        wide(truth / "itm_mixed_20x11.csv"),
    )
    yield Made(
        "emms-vit",
        "13 vision transformers on 11 data sets",
        f"{EMMS}, evaluate_metric_cls_cpu_ViT.py",
        TUNED,
        PERCENT,
        wide(truth / "emms_vit_13x11.csv"),
    )
    yield Made(
        "emms-caption",
        "9 encoder-decoder pairs captioning images of 5 data sets",
        f"{EMMS}, evaluate_metric_caption_cpu.py",
        "BLEU after fine-tuning, not an accuracy",
        FRACTION,
        wide(truth / "emms_caption_9x5_bleu.csv"),
    )


def parc(truth: Path) -> Iterator[Made]:
    for name, title in (
        ("controlled", "4 architectures x 8 source data sets on 7 data sets"),
        ("all", "the models of parc-controlled and 39 from public hubs on 7 data sets"),
    ):
        long = read(truth / f"parc_oracle_{name}.csv")
        long["model"] = long["Architecture"] + "/" + long["Source Dataset"]
        table = numbers(long.pivot(index="model", columns="Target Dataset", values="Oracle"))
        notes = ["a model is architecture/source; NaN where the target is its own source"]
        if failed := int((table < 0).sum().sum()):
            notes.append(f"{failed} cells are -1 in the source, where training failed: NaN here")
        yield Made(
            f"parc-{name}",
            title,
            f"{PARC}/{name}.csv",
            "test accuracy after fine-tuning, as the source's oracle gives it",
            PERCENT,
            table.where(table >= 0),
            notes=notes,
        )


def logme(truth: Path) -> Iterator[Made]:
    long = read(truth / "tllib_logme_cnn_10x8_with_scores.csv")
    long["model"] = long["model"].map(LOGME_MODELS)
    long["task"] = long["dataset"].str.lower().replace(LOGME_TASKS)
    accuracies = pivoted(long, "finetuned_acc")
    scores = {ours: pivoted(long, theirs) for theirs, ours in LOGME_METRICS.items()}
    assert scores["nce"]["dtd"].equals(scores["logme"]["dtd"])
    scores["nce"]["dtd"] = np.nan
    yield Made(
        "logme-cnn",
        "10 supervised CNNs on 8 data sets, with 4 scores",
        LOGME,
        "top-1 test accuracy after fine-tuning",
        PERCENT,
        accuracies,
        scores,
        notes=[
            "the source's NCE of dtd is a copy of its LogME: NaN here",
            "printed correlations that do not follow from the printed figures: all of aircraft "
            "(those of H-score, LEEP and LogME are near what CIFAR-10's accuracies give), all of "
            "pets, and NCE on dtd; the others follow (Pearson's within 0.01), but for weighted tau "
            "of LogME on "
            "caltech101, cifar100 and dtd, where its three decimals tie two models; the order of "
            "the two that was lost gives the printed figure",
        ],
    )
    spider = read(truth / "modelspider_baseline_scores_10x8.csv")
    spider = spider.rename(columns={"Model": "model"})
    spider["task"] = spider["Dataset"].str.lower().replace(LOGME_TASKS)
    yield Made(
        "model-spider",
        "the accuracies of logme-cnn, with 9 scores",
        f"{SPIDER}; accuracies: {LOGME}",
        "top-1 test accuracy after fine-tuning",
        PERCENT,
        accuracies,
        {ours: pivoted(spider, theirs) for theirs, ours in SPIDER_METRICS.items()},
        notes=[
            "the source publishes no accuracies of its own; its weighted tau is of the order of "
            "the accuracies alone, scipy's weightedtau(accuracy, score, rank=None), and follows "
            "from logme-cnn's accuracies, but for LEEP, NLEEP and LogME on aircraft; the "
            "toolkit's weighted tau is the mean over both orders",
        ],
    )


def pivoted(long: pd.DataFrame, value: str) -> pd.DataFrame:
    """models x tasks, in the order of the file's models, tasks by name."""
    table = long.pivot(index="model", columns="task", values=value)
    return numbers(table.loc[list(dict.fromkeys(long["model"]))])


def medical(truth: Path) -> Iterator[Made]:
    for kind, title, unit in (
        ("model", "9 architectures on 11 medical data sets, with 8 scores", PERCENT),
        ("dataset", "15 source data sets for 12 medical data sets, with 8 scores", FRACTION),
    ):
        parts = {
            name: numbers(
                read(truth / f"medmnist_{name}_{kind}.csv").set_index("source").iloc[:, 1:]
            )
            for name in ("AUCs", *(f"score_{metric}" for metric in MEDICAL_METRICS))
        }
        scores = {metric: parts[f"score_{metric}"] for metric in MEDICAL_METRICS}
        scores["linear_probe"] = scores.pop("lp")
        notes = ["fu is the source's own metric; linear_probe is what it calls lp"]
        if kind == "dataset":
            notes.append("NaN where a source is its own target; chestmnist has no scores")
        else:
            notes.append("sfda is 1 for most models, so that its ranking is mostly ties")
        yield Made(
            f"medmnist-{'models' if kind == 'model' else 'sources'}",
            title,
            MEDICAL,
            "area under the ROC curve after fine-tuning",
            unit,
            parts["AUCs"],
            scores,
            notes,
        )


def tmlr(truth: Path) -> Made:
    accuracies = wide(truth / "tmlr_benchmark_10x11_acc.csv")
    top1 = wide(truth / "tmlr_benchmark_imagenet_top1.csv")["imagenet_top1"]
    return Made(
        "tmlr",
        "10 timm models on 8 natural and 3 medical data sets, with ImageNet accuracy",
        "github.com/VirtualSpaceman/tmlr-transferability-benchmark @a7807800, "
        "inputs/transf_scores.csv",
        "test score after fine-tuning, to 5 digits",
        FRACTION,
        accuracies,
        {"imagenet_top1": pd.DataFrame(dict.fromkeys(accuracies, top1))},
        notes=[
            "imagenet_top1 knows nothing of the task: the same column on every task, and what a "
            "metric has to beat",
            "the source has 14 more scores per pair, which are not here",
        ],
    )


def shift(truth: Path) -> Iterator[Made]:
    table = wide(truth / "shift_finetune_max_test_acc.csv")
    text = [task for task in table if task.startswith(("ag_", "amazon", "dbpedia", "glue/"))]
    text += [task for task in table if task.startswith(("rotten", "tweet_eval/"))]
    vision = [task for task in table if task not in text]
    for name, tasks in (("vision", vision), ("text", text)):
        part = table[tasks].dropna(how="all")
        complete = len(part.dropna())
        yield Made(
            f"shift-{name}",
            f"{len(part)} Hugging Face models on {len(tasks)} {name} data sets",
            SHIFT,
            "highest test accuracy over the recorded learning rates",
            FRACTION,
            part,
            notes=[
                f"{complete} models have all {len(tasks)} figures",
                "optimistic: the learning rate was chosen on the test data",
                "many trainings failed and stayed at chance",
            ],
        )


def transrate(folder: Path) -> Iterator[Made]:
    experiments = json.loads((folder / "experiments.json").read_text("utf-8"))
    for kind, title in (
        ("source", "sources of a ResNet-18 for 3 targets"),
        ("model", "7 ImageNet models for 2 targets"),
        ("layer", "4 layers of a ResNet-18 from 4 sources for CIFAR-100"),
    ):
        tables: dict[str, dict[str, dict[str, float]]] = {}
        for record in (e for e in experiments if e["selection"] == kind):
            task = record["source"] if kind == "layer" else record["target"]
            task = task.lower().replace("-", "")
            ids = record["candidates"]
            rows = [f"layer-{i + 1}" for i in range(len(ids))] if kind == "layer" else ids
            columns = {"accuracy": record["accuracy"], **record["baselines"]}
            columns["transrate"] = published_transrate(folder, record)
            for name, values in columns.items():
                if len(values):
                    column = dict(zip(rows, values, strict=True))
                    tables.setdefault(name, {})[task] = column
        frames = {name: pd.DataFrame(columns) for name, columns in tables.items()}
        notes = [
            "models are called by the source's numbers"
            if kind != "layer"
            else "layers are counted in the source's order; tasks are called by the source data",
            "transrate is computed by this project from the published spectra with the published "
            "eps, which was chosen for each experiment with the accuracies known; all other "
            "figures are the source's",
        ]
        if kind != "layer":
            notes.append("every target has its own candidates, so the table has blocks of NaN")
        yield Made(
            f"transrate-{kind}s",
            f"{title}, with {len(frames) - 1} scores",
            TRANSRATE,
            "test accuracy after fine-tuning",
            FRACTION,
            frames.pop("accuracy"),
            frames,
            notes,
        )


def published_transrate(folder: Path, record: dict) -> list[float]:
    found = []
    with np.load(folder / "spectra.npz", allow_pickle=False) as arrays:
        for candidate in record["candidates"]:
            at = f"{record['pipeline']}/{candidate}"
            score = tm.transrate_from_spectrum(
                arrays[f"{at}/eigenvalues"],
                arrays[f"{at}/class_eigenvalues"],
                arrays[f"{at}/class_counts"],
                rank=int(arrays[f"{at}/rank"]),
                eps=record["eps"],
                normalise_by_trace=record["normalise_by_trace"],
            )
            found.append(float(f"{score:.8g}"))
    return found


def measured(evidence: Path) -> Made:
    """The best of four heads on the reference zoo, linear probes, and every metric's scores."""
    found = Comparison(kept_truth.kept_truth(evidence))
    accuracies, noise = ground_truth.reached(Comparison(best(found.records)), BEST)
    probes, _ = ground_truth.reached(found, "linear_probe")
    return Made(
        ZOO,
        f"{len(accuracies)} small pretrained networks on {len(accuracies.columns)} image tasks",
        "this project: transfer-metrics benchmark run, transfer-metrics benchmark build",
        "test accuracy of the head that validation chose of four",
        FRACTION,
        accuracies,
        {"probe_accuracy": probes, **Scores(kept_truth.kept_scores(evidence)).last()},
        [
            f"heads: {'; '.join(kept_truth.kept_protocol(evidence))}",
            "probe_accuracy is no score: the test accuracy of a linear probe",
            "stderr is the standard error of each accuracy",
        ],
        noise,
        OWN,
    )


def probed(scores: Path, name: str, title: str, notes: list[str]) -> Made:
    """Linear probes of networks of ordinary size, and every metric's scores.

    The title has places for the numbers of models and tasks.
    """
    found = [
        {
            **r,
            "model": PurePath(short_name(r["model"]).rpartition(":")[2]).name,
            "task": short_name(r["task"]).removeprefix("text_"),
        }
        for r in read_lines(scores, IDENTITY)
        if r["metric"]
    ]
    last: dict[tuple[str, str], dict[str, Any]] = {}  # the probe of the last block of every pair
    for r in found:
        if r["metric"] == "accuracy" and r["value"] is not None:
            pair = r["model"], r["task"]
            last[pair] = max(last.get(pair, r), r, key=lambda one: one["layer_index"])
    probes = list(last.values())
    # A task on which some are missing would compare fewer models.
    tasks = dict.fromkeys(r["task"] for r in probes)
    accuracies = pd.DataFrame(
        {task: {r["model"]: r["value"] for r in probes if r["task"] == task} for task in tasks}
    ).dropna(axis=1)
    tested = pd.Series({r["task"]: r["n"] for r in probes})
    return Made(
        name,
        title.format(*accuracies.shape),
        "this project: python -m tests.probed_reference",
        "test accuracy of a linear probe of the last layer before a classifier",
        FRACTION,
        accuracies,
        Scores(found).last(),
        [
            "nothing was fine-tuned, and probes are near to what some scores compute",
            *notes,
            "stderr is the standard error of each accuracy",
        ],
        np.sqrt(accuracies * (1 - accuracies) / tested),
        OWN,
    )


def imagenet(scores: Path) -> Made:
    """ImageNet networks on photographs."""
    return probed(
        scores,
        IMAGENET,
        "{} ImageNet networks on {} small sets of photographs",
        [
            "243 to 300 training examples; inputs of 96 to 160 pixels, fewer than most of these "
            "networks were trained on",
        ],
    )


def texts(scores: Path) -> Made:
    """A sentence encoder, its first layers, and random ones."""
    return probed(
        scores,
        TEXTS,
        "{} encoders of texts, MiniLM whole, truncated or random, on {} tasks",
        [
            "minilm is all-MiniLM-L6-v2; minilm-k its first k layers; minilm-random the same with "
            "new random weights, bert-small-random a smaller network of random weights",
            "300 training examples; the mean over the tokens of the last layer",
        ],
    )


def text_of(made: Made) -> str:
    """One table after the other, a row per model, a column per task; blank is not reported."""
    parts = []
    noise = [] if made.noise is None else [("stderr", made.noise)]
    for name, table in (("accuracy", made.accuracies), *noise, *made.scores.items()):
        full = table.reindex(index=made.accuracies.index, columns=made.accuracies.columns)
        if not full.notna().any().any():
            raise ValueError(f"{made.name}: {name} is empty")
        parts.append(full.reset_index(names="model").assign(table=name).set_index("table"))
    frame = pd.concat(parts)
    frame.columns.name = None
    return frame.to_csv(lineterminator="\n")


def written(made: Made, out: Path) -> dict:
    """Write the table of a benchmark; its entry in the manifest."""
    data = text_of(made).encode()
    with replacing(out / f"{made.name}.csv") as temporary:
        temporary.write_bytes(data)
    print(f"{made.name}: {len(made.accuracies)} x {len(made.accuracies.columns)}")
    return {
        "name": made.name,
        "file": f"{made.name}.csv",
        "sha256": hashlib.sha256(data).hexdigest(),
        "title": made.title,
        "source": made.source,
        "accuracy": made.accuracy,
        "unit": made.unit,
        "models": len(made.accuracies),
        "tasks": len(made.accuracies.columns),
        "metrics": list(made.scores),
        "notes": made.notes,
        "licence": made.licence,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--evidence", type=Path)
    parser.add_argument("--imagenet", type=Path)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "benchmarks")
    args = parser.parse_args(arguments)
    if not (args.folder or args.evidence or args.imagenet or args.texts):
        parser.error("give a folder with ground_truth, or --evidence, --imagenet or --texts")
    made = list(benchmarks(args.folder)) if args.folder else []
    if args.evidence:
        made.append(measured(args.evidence))
    if args.imagenet:
        made.append(imagenet(args.imagenet))
    if args.texts:
        made.append(texts(args.texts))
    manifest = args.out / "manifest.json"
    kept = json.loads(manifest.read_text("utf-8"))["benchmarks"] if manifest.exists() else []
    entries = {entry["name"]: entry for entry in kept} | {
        m.name: written(m, args.out) for m in made
    }
    listed = [entries[name] for name in sorted(entries)]
    text = json.dumps({"format": 1, "benchmarks": listed}, indent=1, ensure_ascii=False)
    with replacing(manifest) as temporary:
        temporary.write_text(text + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
