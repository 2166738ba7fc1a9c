"""The published benchmarks: figures, sources, and the correlations that their sources print."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import weightedtau

from tests.published_correlations import LOGME, SPIDER, SPIDER_TASKS, TRANSRATE
from tests.test_agreement import agreement
from tests.test_bundled_zoo import DATA, script
from transfer_metrics.__main__ import main
from transfer_metrics.errors import CorruptStoreError, TransferMetricsWarning, UnknownNameError
from transfer_metrics.evidence import published
from transfer_metrics.evidence.published import (
    MEASURED_HERE,
    Benchmark,
    list_benchmarks,
    load_benchmark,
)
from transfer_metrics.metrics.base import list_metrics
from transfer_metrics.results.agreement_tasks import agreement_by_task

# Scores of the sources that the toolkit has not, or only in parts.
FOREIGN = {"otce", "fu", "imagenet_top1", "ncti"}
# What the project's own table has beside single metrics.
OWN = {"probe_accuracy", "etran"}
HERE = tuple(name for name in MEASURED_HERE if name in list_benchmarks())
SHAPES = {
    "emms-caption": (9, 5),
    "emms-vit": (13, 11),
    "itm-mixed": (20, 11),
    "logme-cnn": (10, 8),
    "medmnist-models": (9, 11),
    "medmnist-sources": (15, 12),
    "model-spider": (10, 8),
    "ncti-ssl": (12, 2),
    "parc-all": (71, 7),
    "parc-controlled": (32, 7),
    "reference-imagenet": (12, 4),
    "reference-texts": (9, 4),
    "reference-zoo": (14, 10),
    "sfda-cnn": (11, 11),
    "sfda-cnn-head": (11, 11),
    "sfda-ssl": (12, 11),
    "shift-text": (171, 11),
    "shift-vision": (292, 16),
    "tmlr": (10, 11),
    "transrate-layers": (4, 4),
    "transrate-models": (14, 2),
    "transrate-sources": (31, 3),
}


def correlations(benchmark: Benchmark, metric: str, task: str) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        table = agreement(benchmark.scores[metric][task], benchmark.accuracies[task], resamples=0)
    return dict(zip(table["measure"], table["value"], strict=True))


def test_every_benchmark_is_listed() -> None:
    assert list_benchmarks() == sorted(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_tables_fit_together_and_say_where_they_are_from(name: str) -> None:
    found = load_benchmark(name)
    assert found.accuracies.shape == SHAPES[name]
    assert found.accuracies.index.is_unique
    assert found.accuracies.columns.is_unique
    most = {"%": 100.0, "fraction": 1.0}[found.unit]
    values = found.accuracies.to_numpy()
    assert np.nanmin(values) >= 0
    assert most / 10 < np.nanmax(values) <= most
    assert (np.isfinite(values).sum(axis=0) >= 4).all()
    for metric, table in found.scores.items():
        assert metric.partition("(")[0] in {*list_metrics(), *FOREIGN, *OWN}
        assert table.index.equals(found.accuracies.index)
        assert table.columns.equals(found.accuracies.columns)
    if name in HERE:
        assert "this project" in found.source
        assert found.noise.shape == SHAPES[name]
    else:
        assert "github.com/" in found.source
        assert "@" in found.source
        assert found.noise is None
    assert found.title
    assert found.accuracy


def test_doubtful_figures_are_missing_or_said() -> None:
    nce = load_benchmark("logme-cnn").scores["nce"]
    assert nce["dtd"].isna().all()
    assert nce.drop(columns="dtd").notna().all(axis=None)
    ssl = load_benchmark("ncti-ssl").accuracies
    assert ssl.index[ssl.isna().all(axis=1)].tolist() == ["simclr-v1", "simclr-v2"]
    every = load_benchmark("parc-all")
    assert any("10 cells are -1" in note for note in every.notes)
    assert every.accuracies.isna().sum().sum() == 28 + 10
    assert any("sun397" in note for note in load_benchmark("sfda-cnn-head").notes)
    sources = load_benchmark("medmnist-sources").accuracies
    own = [(m, t) for m in sources.index for t in sources if math.isnan(sources.loc[m, t])]
    assert own == [(name, name) for name in sources.columns]


def reads(value: float, printed: float, decimals: int) -> bool:
    return abs(value - printed) <= 0.5001 * 10**-decimals


def test_transrate_prints_what_its_figures_give() -> None:
    for (name, task), metrics in TRANSRATE.items():
        benchmark = load_benchmark(name)
        for metric, printed in metrics.items():
            found = correlations(benchmark, metric, task)
            values = [found[m] for m in ("pearson", "kendall", "weighted_kendall")]
            for value, figure in zip(values, printed, strict=True):
                assert reads(value, figure, 4), (name, task, metric, value, figure)


def test_logme_prints_what_its_figures_give_but_where_the_notes_say() -> None:
    benchmark = load_benchmark("logme-cnn")
    # Rounded scores give a rounded Pearson; the larger differences are the notes' cases.
    off = set()
    for task, metrics in LOGME.items():
        for metric, (pearson, tau) in metrics.items():
            if (metric, task) == ("nce", "dtd"):
                continue  # the source's column is not NCE
            found = correlations(benchmark, metric, task)
            if abs(found["pearson"] - pearson) > 0.01:
                off.add((task, metric, "pearson"))
            if not reads(found["weighted_kendall"], tau, 3):
                off.add((task, metric, "tau"))
    elsewhere = {one for one in off if one[0] not in ("aircraft", "pets")}
    assert elsewhere == {(t, "logme", "tau") for t in ("caltech101", "cifar100", "dtd")}
    assert len(off - elsewhere) == 16  # neither of the two, under any metric


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        ("caltech101", "googlenet", "densenet201"),
        ("cifar100", "densenet169", "mnasnet1_0"),
        ("dtd", "resnet101", "densenet201"),
    ],
)
def test_logme_ties_of_three_decimals_explain_its_weighted_tau(
    task: str, first: str, second: str
) -> None:
    benchmark = load_benchmark("logme-cnn")
    scores = benchmark.scores["logme"][task]
    assert scores[first] == scores[second]
    assert scores.nunique() == 9
    scores[first] += 1e-4
    tau = agreement(scores, benchmark.accuracies[task], resamples=0).set_index("measure")
    assert reads(tau.loc["weighted_kendall", "value"], LOGME[task]["logme"][1], 3)


def test_logme_prints_cifar10_under_aircraft() -> None:
    benchmark = load_benchmark("logme-cnn")
    for metric in ("h_score", "leep", "logme"):
        printed = LOGME["aircraft"][metric][0]
        scores = benchmark.scores[metric]["aircraft"]
        distance = {
            task: abs(np.corrcoef(scores, benchmark.accuracies[task])[0, 1] - printed)
            for task in benchmark.accuracies
        }
        assert distance["cifar10"] < 0.004
        assert distance["aircraft"] > 0.2


def test_model_spider_weighs_by_the_accuracies_alone() -> None:
    benchmark = load_benchmark("model-spider")
    off = set()
    for metric, printed in SPIDER.items():
        for task, figure in zip(SPIDER_TASKS, printed, strict=True):
            accuracies = benchmark.accuracies[task].to_numpy()
            scores = benchmark.scores[metric][task].to_numpy()
            one_order = weightedtau(accuracies, scores, rank=None).statistic
            if not reads(one_order, figure, 3):
                off.add((metric, task))
    assert off == {(metric, "aircraft") for metric in ("leep", "nleep", "logme")}


def test_two_transcriptions_of_the_same_scores_agree() -> None:
    ours, theirs = load_benchmark("logme-cnn"), load_benchmark("model-spider")
    assert ours.accuracies.equals(theirs.accuracies)
    for metric in ("leep", "logme"):
        gap = (ours.scores[metric] - theirs.scores[metric])[["aircraft", "cifar10", "cifar100"]]
        assert gap.abs().max(axis=None) < 0.0011  # three decimals


def test_loaded_tables_are_the_callers_own() -> None:
    changed = load_benchmark("sfda-cnn").accuracies
    changed.iloc[:] = 0
    assert load_benchmark("sfda-cnn").accuracies.min(axis=None) > 50


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(DATA / "benchmarks", tmp_path / "benchmarks")
    monkeypatch.setattr(published, "data_folder", lambda: tmp_path)
    return tmp_path / "benchmarks"


def test_damage_is_refused(copied: Path) -> None:
    path = copied / "tmlr.csv"
    path.write_text(path.read_text().replace("0.49728", "0.59728"))
    with pytest.raises(CorruptStoreError, match=r"tmlr\.csv: altered"):
        load_benchmark("tmlr")
    path.unlink()
    with pytest.raises(CorruptStoreError, match="cannot be read"):
        load_benchmark("tmlr")
    assert load_benchmark("sfda-cnn").accuracies.shape == (11, 11)
    (copied / "manifest.json").write_text('{"benchmarks": [{}]}')
    with pytest.raises(CorruptStoreError, match="list of bundled benchmarks"):
        list_benchmarks()


def test_unknown_name_suggests_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'sfda-cnn'"):
        load_benchmark("sfda_cnn")


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if row]


@pytest.mark.shared
def test_figures_are_those_of_the_reference(shared: Path) -> None:
    truth = shared / "reference" / "ground_truth"
    for name, file in (
        ("sfda-cnn", "sfda_cnn_supervised_11x11"),
        ("sfda-ssl", "sfda_ssl_resnet50_12x11"),
        ("ncti-ssl", "ncti_ssl_resisc_eurosat"),
        ("sfda-cnn-head", "sfda_cnn_head_only_11x11"),
        ("itm-mixed", "itm_mixed_20x11"),
        ("emms-vit", "emms_vit_13x11"),
        ("emms-caption", "emms_caption_9x5_bleu"),
        ("tmlr", "tmlr_benchmark_10x11_acc"),
    ):
        (_, *models), *rows = cells(truth / f"{file}.csv")
        ours = load_benchmark(name).accuracies
        assert ours.index.tolist() == models
        assert ours.columns.tolist() == [row[0] for row in rows]
        for task, *values in rows:
            wanted = [float(value or "nan") for value in values]
            np.testing.assert_array_equal(ours[task], wanted)
    for name in ("controlled", "all"):
        ours = load_benchmark(f"parc-{name}").accuracies
        _, *rows = cells(truth / f"parc_oracle_{name}.csv")
        for architecture, source, target, value in rows:
            wanted = math.nan if float(value) < 0 else float(value)
            found = ours.loc[f"{architecture}/{source}", target]
            np.testing.assert_equal(found, wanted)


@pytest.mark.shared
def test_scores_are_those_of_the_reference(shared: Path) -> None:
    truth = shared / "reference" / "ground_truth"
    for kind, name in (("model", "medmnist-models"), ("dataset", "medmnist-sources")):
        benchmark = load_benchmark(name)
        tables = {"AUCs": benchmark.accuracies}
        tables.update({f"score_{metric}": table for metric, table in benchmark.scores.items()})
        tables["score_lp"] = tables.pop("score_linear_probe")
        for file, ours in tables.items():
            (_, _, *tasks), *rows = cells(truth / f"medmnist_{file}_{kind}.csv")
            assert ours.index.tolist() == [row[1] for row in rows]
            for _, model, *values in rows:
                wanted = [float(value or "nan") for value in values]
                np.testing.assert_array_equal(ours.loc[model, tasks], wanted)
    pets = {"OxfordIIITPets": "pets", "Pet": "pets", "StanfordCars": "cars"}
    for name, file in (
        ("logme-cnn", "tllib_logme_cnn_10x8_with_scores"),
        ("model-spider", "modelspider_baseline_scores_10x8"),
    ):
        (_, _, *columns), *rows = cells(truth / f"{file}.csv")
        benchmark = load_benchmark(name)
        # Both files list the models in one order, under two spellings.
        models = benchmark.accuracies.index.tolist()
        tables = {**benchmark.scores, "acc": benchmark.accuracies}
        ours = [c.lower().replace("-", "_").removeprefix("finetuned_") for c in columns]
        spelled = {"hscore": "h_score", "pactrandirichlet": "pactran_dirichlet"}
        for position, (task, _, *values) in enumerate(rows):
            at = models[position % 10], pets.get(task, task.lower())
            for metric, value in zip(ours, values, strict=True):
                found = tables[spelled.get(metric, metric)].loc[at]
                if (name, metric, at[1]) != ("logme-cnn", "nce", "dtd"):
                    assert found == float(value)
    (_, *models), *rows = cells(truth / "shift_finetune_max_test_acc.csv")
    both = [load_benchmark(f"shift-{kind}").accuracies for kind in ("text", "vision")]
    reported = 0
    for task, *values in rows:
        (ours,) = (table[task] for table in both if task in table)
        wanted = {m: float(v) for m, v in zip(models, values, strict=True) if v}
        assert ours.dropna().to_dict() == wanted
        reported += len(wanted)
    assert reported == sum(int(table.notna().sum().sum()) for table in both)


@pytest.mark.shared
def test_making_them_again_gives_the_same_bytes(shared: Path, tmp_path: Path) -> None:
    maker = script("make_benchmarks")
    assert maker.main([str(shared / "reference"), "--out", str(tmp_path)]) == 0
    made = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    kept = {path.name: path.read_bytes() for path in (DATA / "benchmarks").glob("*.csv")}
    own = {name: kept.pop(f"{name}.csv") for name in HERE}
    assert made == kept
    again = tmp_path / "again"
    shutil.copytree(DATA / "benchmarks", again)
    assert maker.main([str(shared / "reference"), "--out", str(again)]) == 0
    assert own == {n: (again / f"{n}.csv").read_bytes() for n in HERE}
    manifests = [(folder / "manifest.json").read_bytes() for folder in (DATA / "benchmarks", again)]
    assert manifests[0] == manifests[1]


def test_manifest_counts_what_is_there() -> None:
    manifest = json.loads((DATA / "benchmarks" / "manifest.json").read_text("utf-8"))
    for entry in manifest["benchmarks"]:
        found = load_benchmark(entry["name"])
        assert found.accuracies.shape == (entry["models"], entry["tasks"])
        assert list(found.scores) == entry["metrics"]
        own = entry["name"] in HERE
        assert (
            entry["licence"] == "measured by this project" if own else "facts" in entry["licence"]
        )


def small() -> Benchmark:
    rng = np.random.default_rng(0)
    names = [f"m{i}" for i in range(12)]
    accuracies = pd.DataFrame(rng.random((12, 3)), names, list("xyz"))
    scores = {"good": accuracies * 2, "bad": -accuracies, "twin": accuracies + 1}
    return Benchmark("small", "made up", "here", "none", "fraction", accuracies, scores, None, ())


def test_report_tells_ties_from_differences() -> None:
    judged = published._judge_benchmark(small(), resamples=200)
    rows = {row.metric: row for row in judged.rows}
    assert [row.metric for row in judged.rows][2:] == ["static", "bad"]
    assert rows["good"].better_than == rows["twin"].better_than == ("bad", "static")
    assert rows["bad"].worse_than == ("good", "twin", "static")
    assert (judged.pairs, judged.ties) == (3, 1)
    text = published.text([judged])
    assert "small 1/3" in text
    assert "-1.000" in text
    assert "Better: good, twin; not told apart: none; worse: bad." in " ".join(text.split())
    assert "beats the static ranking on 1 (small), is worse on none" in " ".join(text.split())


def test_command_prints_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    command = ["benchmark", "published", "logme-cnn", "--resamples", "50", "--out", str(page)]
    assert main(command) == 0
    benchmark = load_benchmark("logme-cnn")
    table = agreement_by_task(benchmark.scores["h_score"], benchmark.accuracies, resamples=0)
    mean = table[(table["task"] == "mean") & (table["measure"] == "weighted_kendall")]
    value = f"{mean['value'].item():.3f}"
    assert re.search(rf"^h_score +{value} ", capsys.readouterr().out, re.MULTILINE)
    assert f"| h_score | {value} |" in page.read_text("utf-8")
