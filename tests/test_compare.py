"""Comparing heads: what is measured, on which data, and how it is summarised."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, UnknownNameError
from transfer_metrics.heads.base import Head
from transfer_metrics.heads.compare import asked_fits
from transfer_metrics.heads.estimate import MOST, TRAINED, _epochs
from transfer_metrics.heads.fits import Fits, _cost_of, _distortion, _forward_flops
from transfer_metrics.heads.splits import complete_task, shifted_splits
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.sources.tasks.corruptions import CORRUPTIONS

pytestmark = pytest.mark.integration

DIGITS = "sklearn:digits?examples=200"
FAST_PROBE = "linear_probe(C_grid=(0.01, 1.0))"
FAST_TUNE = "finetune(lr=0.05, epochs=1)"


def few(task: tm.Task, step: int) -> tm.Task:
    splits = {
        name: split.rows(np.arange(0, len(split), step)) for name, split in task.splits.items()
    }
    return tm.Task(task.name, task.kind, task.modality, splits, task.classes)


@pytest.fixture(scope="module")
def glyphs() -> tm.Task:
    return few(tm.load_task("zoo:glyphs"), 9)


@pytest.fixture(scope="module")
def table(glyphs: tm.Task, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return tm.compare(
        ["zoo:cnn-mnist", "zoo:mixer-usps"],
        glyphs,
        [FAST_PROBE, "head2toe(keep=0.05, steps=50)", FAST_TUNE],
        seeds=2,
        metrics="logme",
        cache_dir=tmp_path_factory.mktemp("cache"),
        progress=False,
    )


def test_accuracies_are_those_of_the_heads(table: Comparison, glyphs: tm.Task) -> None:
    task = complete_task(glyphs)
    probe = tm.LinearProbe(C_grid=(0.01, 1.0)).fit("zoo:cnn-mnist", task)
    tuned = tm.FineTune(lr=0.05, epochs=1, random_state=1, progress=False)
    tuned.fit("zoo:cnn-mnist", task)
    records = [r for r in table.records if r["model"] == "zoo:cnn-mnist"]

    def found(head: str, seed: int, metric: str, split: str) -> float:
        chosen = [
            r["value"]
            for r in records
            if (r["head"], r["seed"], r["metric"], r["split"]) == (head, seed, metric, split)
        ]
        assert len(chosen) == 1
        return chosen[0]

    for name in ("test", "ood"):
        # Fits to features that differ by rounding are the same within their tolerance.
        one = 1.5 / len(glyphs[name])
        score = probe.score(glyphs[name])
        assert found(FAST_PROBE, 0, "accuracy", name) == pytest.approx(score, abs=one)
        assert found(tuned.label, 1, "accuracy", name) == tuned.score(glyphs[name])
        moved = _distortion(tm.load_model("zoo:cnn-mnist"), tuned.network_, glyphs[name])
        assert found(tuned.label, 1, "distortion", name) == pytest.approx(moved[0], rel=1e-5)
    gap = tuned.score(glyphs["test"]) - tuned.score(glyphs["ood"])
    assert found(tuned.label, 1, "ood_gap", "ood") == pytest.approx(gap)


def test_only_heads_with_chance_are_fitted_for_every_seed(table: Comparison) -> None:
    seeds = {}
    for r in table.records:
        if r["metric"] == "accuracy":
            seeds.setdefault(r["head"], set()).add(r["seed"])
    probes = {head for head in seeds if head.startswith("linear_probe")}
    assert probes == {FAST_PROBE.replace("(", "(", 1), "linear_probe@logme"}
    assert all(seeds[head] == ({0} if head in probes else {0, 1}) for head in seeds)


def test_summary_is_the_mean_and_its_interval_by_hand() -> None:
    base = {"model": "m", "head": "h", "metric": "accuracy", "split": "test", "n": 100}
    values = [0.7, 0.8, 0.9]
    table = Comparison({**base, "seed": s, "value": v} for s, v in enumerate(values))
    row = table.summary().loc[("m", "h")]
    assert row["test"] == pytest.approx(0.8)
    half = 1.959964 * math.sqrt(0.8 * 0.2 / 100 + 0.01 / 3)
    assert row["± test"] == pytest.approx(half, rel=1e-6)
    assert row["seeds"] == 3


def test_an_error_that_is_not_known_is_not_none(tmp_path) -> None:
    row = {"model": "a", "head": "h", "split": "test", "value": 0.8}
    fits = Comparison(
        [
            {**row, "task": "t", "metric": "accuracy"},
            {**row, "task": "u", "metric": "r2"},
            {**row, "task": "u", "metric": "r2", "head": "g", "stderr": 0.1},
        ]
    )
    halves = fits.summary()["± test"]
    assert halves.isna().tolist() == [True, True, False]
    assert halves.iloc[2] == pytest.approx(0.1959964)
    assert "80.0 ±" not in fits.on("t").format()
    assert "test: accuracy or R², in per cent" in fits.format()
    page = Path(fits.report(tmp_path / "page.html")).read_text()
    assert page.count('<span class="half">±') == 1
    with pytest.raises(InvalidInputError, match="no model has a score"):
        fits.shortlist()
    scores = [{"model": "a", "layer": "fc", "metric": "s", "value": 1.0, "task": "t"}]
    with pytest.raises(UnknownNameError, match="unknown head of this table 'i'"):
        (fits.on("t") + tm.ScoreTable(scores)).verdict(head="i")


def test_verdict_by_hand() -> None:
    accuracies = {"a": 0.6, "b": 0.9, "c": 0.8}
    records = [
        {"model": m, "head": "h", "metric": "accuracy", "split": "test", "n": 400, "value": v}
        for m, v in accuracies.items()
    ]
    scores = [
        {"model": m, "layer": "fc", "metric": "s", "value": v, "higher_is_better": True}
        for m, v in {"a": 1.0, "b": 2.0, "c": 3.0}.items()
    ]
    verdict = Comparison([*scores, *records]).verdict()
    row = verdict.iloc[0]
    assert (row["question"], row["favourite"], row["best"]) == ("which model", "c", "b")
    assert row["regret"] == pytest.approx(0.1)
    margin = 1.959964 * math.sqrt(0.9 * 0.1 / 400 + 0.8 * 0.2 / 400)
    assert row["margin"] == pytest.approx(margin, rel=1e-6)
    with pytest.raises(InvalidInputError, match="no scores to check"):
        Comparison(records).verdict()
    agreement = ScoreOf(scores).agreement(Comparison(records), resamples=0)
    assert agreement.set_index("measure")["value"]["regret"] == pytest.approx(0.1)


def ScoreOf(records: list[dict]) -> tm.ScoreTable:
    return tm.ScoreTable(records)


def test_verdict_on_layers_and_models(table: Comparison) -> None:
    verdict = table.verdict(head=FAST_PROBE)
    assert list(verdict["question"]) == ["which model"]
    assert (verdict["regret"] >= 0).all()
    assert table.metrics == ["logme"]
    assert table.best() in ("zoo:cnn-mnist", "zoo:mixer-usps")


def test_plot_has_a_row_per_head_and_a_marker_per_data_set(table: Comparison) -> None:
    summary = table.summary()
    ax = table.plot.comparison()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["in distribution", "ood"]
    # And a row with the name of each model above its heads.
    assert len(ax.get_yticks()) == len(summary) + 2 == 10
    points = [container[0].get_xdata() for container in ax.containers]
    np.testing.assert_allclose(points, 100 * summary[["test", "ood"]].to_numpy(float).T)
    with pytest.raises(InvalidInputError, match="no head has an accuracy"):
        Comparison([]).plot.comparison()


def test_repeated_it_computes_nothing_and_interrupted_it_goes_on(
    glyphs: tm.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []
    measured = Fits._measured

    def counting(work, loaded, head):
        fitted.append(head.label)
        if len(fitted) == 2:
            raise KeyboardInterrupt
        return measured(work, loaded, head)

    monkeypatch.setattr(Fits, "_measured", counting)
    options = {"seeds": 1, "cache_dir": tmp_path, "progress": False}
    heads = [FAST_PROBE, FAST_TUNE]
    with pytest.raises(KeyboardInterrupt):
        tm.compare("zoo:cnn-mnist", glyphs, heads, **options)
    whole = tm.compare("zoo:cnn-mnist", glyphs, heads, **options)
    assert [label.partition("(")[0] for label in fitted] == ["linear_probe", "finetune", "finetune"]
    again = tm.compare("zoo:cnn-mnist", glyphs, heads, **options)
    assert len(fitted) == 3
    assert again.records == whole.records
    assert not list((tmp_path / "training").glob("*"))


class Leaving(nn.Module):
    """A network that is interrupted in its ``steps``-th step of training, where that is above 0."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            Leaving.steps -= 1
            if Leaving.steps == 0:
                raise KeyboardInterrupt
        return self.head(self.body(x))


@pytest.mark.filterwarnings("ignore:.*has no test split")
@pytest.mark.parametrize("head", ["linear_probe", "finetune(epochs=1, lr=0.01)"])
def test_fits_of_a_network_with_another_hook_are_its_own(tmp_path: Path, head: str) -> None:
    g = np.random.default_rng(0)
    y = np.arange(90) % 3
    task = tm.load_task((g.normal(size=(90, 6)).astype(np.float32) + np.eye(3, 6)[y], y))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))

    def found(cache: str) -> list[float | None]:
        keep: dict[str, Any] = {"cache": cache, "cache_dir": tmp_path, "progress": False}
        table = tm.compare(network, task, heads=[head], seeds=1, **keep)
        return [r["value"] for r in table.records if "seconds" not in r["metric"]]

    first = found("only-missing")
    assert found("only-cache") == first
    network[0].register_forward_pre_hook(lambda _m, given: (given[0] * (given[0] < 0.1),))
    assert found("only-missing") == found("never") != first


@pytest.mark.filterwarnings("ignore:.*has no test split")
def test_interrupted_training_is_shown_and_cleared(monkeypatch, tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 2
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(tmp_path))
    torch.manual_seed(0)
    net = Leaving()
    monkeypatch.setattr(Leaving, "steps", 6)

    def compared() -> Comparison:
        head = tm.FineTune(lr=0.01, epochs=3, batch_size=8)
        return tm.compare(net, (x, y), head, seeds=1, progress=False)

    def shown(*argv: str) -> dict[str, tuple[int, int]]:
        assert main(["cache", *argv, "--json"]) == 0
        return {r["part"]: (r["files"], r["bytes"]) for r in json.loads(capsys.readouterr().out)}

    with pytest.raises(KeyboardInterrupt):
        compared()
    files, size = shown()["training"]
    kept = [path for path in (tmp_path / "training").rglob("*") if path.is_file()]
    assert files == len(kept) > 0
    assert size == sum(path.stat().st_size for path in kept) > 0
    assert shown("clear", "--only", "scores")["training"] == (files, size)
    assert shown("clear", "--only", "training")["training"] == (0, 0)
    assert not (tmp_path / "training").exists()
    table = compared()
    assert not table.failures
    assert shown()["training"] == (0, 0)


def test_a_head_that_fails_is_a_row_with_its_reason(glyphs: tm.Task) -> None:
    table = tm.compare(
        ["zoo:cnn-mnist", "zoo:none"],
        glyphs,
        [FAST_PROBE, "linear_probe(layers=nowhere)"],
        seeds=1,
        cache="never",
        progress=False,
    )
    reasons = {(r["model"], r["head"]): r["error"] for r in table.failures}
    assert "unknown layer 'nowhere'" in reasons["zoo:cnn-mnist", "linear_probe(layers='nowhere')"]
    assert "zoo:none" in {model for model, _ in reasons}
    assert "unknown layer" in table.format()
    assert table.summary()["test"].notna().sum() == 1


def test_heads_never_see_test_or_shifted_labels(glyphs: tm.Task) -> None:
    rng = np.random.default_rng(0)
    splits = {
        name: split if name == "train" else tm.Split(split.examples, rng.permutation(split.labels))
        for name, split in glyphs.splits.items()
    }
    shuffled = tm.Task(glyphs.name, glyphs.kind, glyphs.modality, splits, glyphs.classes)
    a = complete_task(glyphs)
    b = complete_task(shuffled)
    for head in (
        tm.LinearProbe(C_grid=(0.01, 1.0)),
        tm.FineTune(lr=0.05, epochs=1, progress=False),
    ):
        one = head.fit("zoo:cnn-mnist", a).coef_
        two = head.fit("zoo:cnn-mnist", b).coef_
        np.testing.assert_array_equal(one, two)


def test_splits_are_completed_without_overlap() -> None:
    X = np.arange(200.0)[:, None]
    y = np.arange(200) % 4
    with pytest.warns(TransferMetricsWarning, match="no test split, so 40 of its 200"):
        task = complete_task(tm.load_task((X, y)))
    seen = [np.concatenate(list(task[name].examples)) for name in ("train", "val", "test")]
    assert sorted(np.concatenate(seen).tolist()) == X[:, 0].tolist()
    assert [len(part) for part in seen] == [128, 32, 40]
    for name in ("train", "val", "test"):
        assert len(set(np.bincount(task[name].labels))) == 1


def test_corrupted_images_are_those_that_are_held_out_for_testing() -> None:
    images = np.random.default_rng(0).integers(0, 255, (100, 8, 8), np.uint8)
    with pytest.warns(TransferMetricsWarning, match="no test split"):
        table = tm.compare(
            "zoo:cnn-mnist",
            (images, np.arange(100) % 4),
            FAST_PROBE,
            ood={"blurred": "corrupted:blur"},
            cache="never",
            progress=False,
        )
    counts = {r["split"]: r["n"] for r in table.records if r["metric"] == "accuracy"}
    assert counts == {"test": 20, "blurred": 20}
    with pytest.raises(InvalidInputError, match="no split 'test'"):
        shifted_splits(tm.load_task((images, np.arange(100) % 4)), {"x": "corrupted:blur"})


def test_shifted_classes_are_matched_by_name(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 8, 8), np.uint8)
    classes = np.array(["cat", "dog", "eel"])
    np.savez(tmp_path / "a.npz", X=images, y=np.array([0, 1, 2, 0, 1, 2]), classes=classes)
    np.savez(tmp_path / "b.npz", X=images, y=np.array([0, 1, 2, 0, 1, 2]), classes=classes[::-1])
    other = np.array(["dog", "ant", "cat"])
    np.savez(tmp_path / "c.npz", X=images, y=np.array([0, 1, 2, 0, 1, 2]), classes=other)
    strange = np.array(["x", "y", "z"])
    np.savez(tmp_path / "d.npz", X=images, y=np.array([0, 1, 2, 0, 1, 2]), classes=strange)
    task = tm.load_task(f"npz:{tmp_path}/a.npz")
    turned = shifted_splits(task, {"b": f"npz:{tmp_path}/b.npz"})["b"]
    assert turned.labels.tolist() == [2, 1, 0, 2, 1, 0]
    with pytest.warns(TransferMetricsWarning, match="2 of 6 examples"):
        partly = shifted_splits(task, {"c": f"npz:{tmp_path}/c.npz"})["c"]
    assert partly.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(np.asarray(partly.examples[1]), images[2])
    with pytest.raises(InvalidInputError, match="none has the same name"):
        shifted_splits(task, {"d": f"npz:{tmp_path}/d.npz"})
    with pytest.raises(InvalidInputError, match="cannot be called 'test'"):
        shifted_splits(task, {"test": f"npz:{tmp_path}/b.npz"})


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_repeat(kind: str) -> None:
    split = few(tm.load_task("zoo:glyphs"), 200)["test"]
    clean = [np.asarray(image, float) for image in split.examples]
    distances = []
    for severity in range(1, 6):
        worse = tm.corrupted(split, kind, severity)
        images = [np.asarray(image, float) for image in worse.examples]
        assert all(a.shape == b.shape for a, b in zip(images, clean, strict=True))
        again = [np.asarray(image, float) for image in worse.examples]
        assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))
        pairs = zip(images, clean, strict=True)
        distances.append(np.mean([np.abs(a - b).mean() for a, b in pairs]))
    assert distances[0] > 0
    assert distances == sorted(distances)
    assert worse.labels is split.labels


@pytest.mark.parametrize("ood", ["corrupted:blr:3", ["corrupted:blur:3"], []])
def test_shifted_data_need_names(ood) -> None:
    with pytest.raises(InvalidInputError, match=r"ood is a.*\{'blurred': 'corrupted:blur:3'\}"):
        tm.compare("zoo:cnn-mnist", "sklearn:digits?examples=60", ood=ood)


def test_wrong_corruptions() -> None:
    task = tm.load_task("sklearn:digits")
    with pytest.raises(UnknownNameError, match="did you mean 'blur'"):
        shifted_splits(task, {"x": "corrupted:blurr"})
    with pytest.raises(InvalidInputError, match="1 to 5"):
        shifted_splits(task, {"x": "corrupted:blur:9"})
    with pytest.raises(InvalidInputError, match="whole number"):
        shifted_splits(task, {"x": "corrupted:blur:much"})
    with pytest.raises(tm.UnsupportedTaskError, match="none"):
        tm.corrupted(tm.load_task("sklearn:iris")["test"], "blur")
    for given in (task, "sklearn:digits", [Image.new("L", (8, 8))]):
        with pytest.raises(InvalidInputError, match="is no split; give one of a task"):
            tm.corrupted(given, "blur")
    for severity in (2.0, np.array([1, 2]), None, 0):
        with pytest.raises(InvalidInputError, match=r"severity=.*1 to 5"):
            tm.corrupted(task["test"], "blur", severity)
    for seed in (-1, 1.5):
        with pytest.raises(InvalidInputError, match=r"seed=.*from 0 on"):
            tm.corrupted(task["test"], "blur", seed=seed)
    with pytest.raises(UnknownNameError, match="'None'"):
        tm.corrupted(task["test"], None)


def test_flops_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    network.pretrained_cfg = {
        "input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3,
        "interpolation": "bilinear", "crop_pct": 1.0, "classifier": "3",
    }  # fmt: skip
    model = tm.load_model(network)
    assert _forward_flops(model) == 2 * 36 * 8 * 27 + 2 * 288 * 5


def test_cost_follows_the_papers_model(glyphs: tm.Task) -> None:
    model = tm.load_model("zoo:cnn-mnist")
    forward, n = _forward_flops(model), len(glyphs["train"])
    head = tm.Head2Toe(keep=0.05, steps=10, batch_size=16).fit(model, glyphs)
    kept, total, classes = head.coef_.shape[1], head.candidates_, 36
    cost = _cost_of(head, forward, n)
    assert cost["train_flops"] == n * forward + 10 * 16 * 6 * (total + kept) * classes
    assert cost["stored_bytes"] == 4 * (kept + 1) * classes + math.ceil(total / 8)
    tuned = tm.FineTune(lr=0.05, epochs=1, batch_size=32, progress=False).fit(model, glyphs)
    steps = math.ceil((n - round(0.2 * n)) / 32)
    cost = _cost_of(tuned, forward, n)
    assert cost["train_flops"] == steps * 32 * 3 * forward
    numbers = sum(t.numel() for t in model.module.state_dict().values())
    assert cost["stored_bytes"] == 4 * numbers + 4 * (tuned.coef_.shape[1] + 1) * classes


class NearestMean(Head):
    """The class whose mean is nearest."""

    name = "nearest_mean"
    random = False

    def __init__(self, layers="last", pool="avg", *, random_state=0):
        self.layers, self.pool, self.random_state = layers, pool, random_state

    def fit(self, X, y=None, *, validation=None):
        data = self._feature_data(X, y, validation)
        x, codes = data.train.columns.dense(), data.train.codes
        means = np.stack([x[codes == c].mean(axis=0) for c in range(len(data.classes))])
        self._set_head(data, 2 * means, -np.square(means).sum(axis=1))
        return self


def test_a_head_of_ones_own_takes_part(glyphs: tm.Task) -> None:
    from sklearn.neighbors import NearestCentroid

    table = tm.compare("zoo:cnn-mnist", glyphs, NearestMean(), cache="never", progress=False)
    task = complete_task(glyphs)
    train, test = (
        tm.extract("zoo:cnn-mnist", task, "last", split=s, progress=False)
        for s in ("train", "test")
    )
    plain = NearestCentroid().fit(train[train.names[0]], train.labels)
    expected = plain.score(test[test.names[0]], test.labels)
    assert table.summary()["test"].iloc[0] == pytest.approx(expected)


def test_a_head_of_ones_own_that_was_written_anew_is_fitted_anew(glyphs, tmp_path) -> None:
    class Farthest(NearestMean):
        def fit(self, X, y=None, *, validation=None):
            fitted = super().fit(X, y, validation=validation)
            fitted.coef_, fitted.intercept_ = -fitted.coef_, -fitted.intercept_
            return fitted

    Farthest.__name__ = Farthest.__qualname__ = "NearestMean"
    found = []
    for head in (NearestMean(), Farthest(), NearestMean()):
        options = {"cache_dir": tmp_path, "progress": False}
        found.append(tm.compare("zoo:cnn-mnist", glyphs, head, **options).summary()["test"].iloc[0])
    assert found[0] > found[1]
    assert found[2] == found[0]


def test_a_head_with_a_fitted_selector_takes_part(glyphs: tm.Task, tmp_path: Path) -> None:
    task = complete_task(glyphs)
    store = tm.extract("zoo:cnn-mnist", task, "activations", "grid:512", progress=False)
    accuracies = []
    for seed in (0, 1):
        labels = np.array(task.classes)[np.random.default_rng(seed).permutation(store.labels)]
        selector = tm.GroupLassoSelector(keep=0.02, steps=5).fit(store, labels)
        head = tm.Head2Toe(selector=selector, steps=20)
        options = {"seeds": 1, "cache_dir": tmp_path, "progress": False}
        table = tm.compare("zoo:cnn-mnist", glyphs, head, **options)
        accuracies.append(table.summary()["test"].iloc[0])
        assert accuracies[-1] == head.fit("zoo:cnn-mnist", task).score(task)
    assert accuracies[0] != accuracies[1]


def test_distortion_by_hand() -> None:
    backbone = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        backbone.weight.copy_(torch.eye(2))
    module = nn.Sequential(backbone, nn.Linear(2, 2))
    task = tm.load_task((np.array([[3.0, 4.0], [0.0, 2.0]]), [0, 1]))
    model = tm.load_model(module, head="1")
    tuned = tm.FineTune(lr=0.0, epochs=0, validation=0.5, progress=False)
    network = tuned.fit(model, (np.array([[3.0, 4.0], [0.0, 2.0]] * 4), [0, 1] * 4)).network()
    with torch.no_grad():
        network.backbone[0].weight.mul_(2.0)
    assert _distortion(model, network, task["train"]) == pytest.approx((3.5, 1.0))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    status = main([
        "compare", "--models", "zoo:cnn-mnist", "--task", DIGITS, "--seeds", "1",
        "--heads", f"{FAST_PROBE},head2toe(keep=0.05,steps=20)", "--ood", "blurred=corrupted:blur",
        "--metrics", "knn", "--out", str(out), "--quiet",
    ])  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    assert "head2toe(keep=0.05, steps=20)" in printed
    assert "blurred" in printed
    assert Comparison.load(out / "comparison.jsonl").shifts == ["blurred"]
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "--models", "zoo:cnn-mnist", "--task", DIGITS,
                 "--ood", "blurred"]) == 2  # fmt: skip
    assert "write NAME=TASK" in capsys.readouterr().err


def test_train_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "head"
    status = main([
        "train", "--model", "zoo:cnn-mnist", "--task", DIGITS, "--out", str(out),
        "--head", "head2toe(keep=0.05,steps=20)", "--json", "--quiet",
    ])  # fmt: skip
    assert status == 0
    record = json.loads(capsys.readouterr().out)[0]
    head = tm.load_head(out)
    assert head.score(DIGITS) == record["value"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["head"]
    assert main(["train", "--model", "zoo:cnn-mnist", "--task", DIGITS, "--out",
                 str(out), "--head", "head2to"]) == 2  # fmt: skip
    assert "did you mean 'head2toe'" in capsys.readouterr().err


def test_list_heads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "heads", "l*"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["linear_probe", "lpft"]


def test_a_comparison_beside_scores_is_a_comparison_still() -> None:
    score = {"model": "a", "task": "t", "split": "train", "layer": "fc", "metric": "logme"}
    heads = {"model": "a", "task": "t", "split": "test", "head": "lpft", "metric": "accuracy"}
    scores, measured = ScoreOf([{**score, "value": 1.0}]), Comparison([{**heads, "value": 0.8}])
    for both in (scores + measured, measured + scores, measured + measured + scores):
        assert type(both) is Comparison
        assert both.metrics == ["logme"]
        assert both.best() == "a"
        assert both.summary().loc[("a", "lpft"), "test"] == 0.8
    assert type(scores + scores) is tm.ScoreTable
    assert [r["value"] for r in (measured + scores).records] == [0.8, 1.0]


# --- engines, time, and what is quick ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_fits_on_engines_equal_those_here(engine, tmp_path):
    if engine == "ray":
        pytest.importorskip("ray")
    asked = (["zoo:cnn-mnist", "zoo:no-such"], "sklearn:digits?examples=60", "linear_probe")
    options = {"distortions": False, "progress": False, "seeds": 1}
    here = tm.compare(*asked, cache_dir=tmp_path / "a", **options)
    there = tm.compare(*asked, cache_dir=tmp_path / "b", engine=engine, workers=2, **options)
    values = [
        {(r["model"], r["metric"], r["split"]): r["value"] for r in table.records
         if r["metric"] != "fit_seconds"}
        for table in (here, there)
    ]  # fmt: skip
    assert values[0] == pytest.approx(values[1])
    assert [f["error"] for f in here.failures] == [f["error"] for f in there.failures]
    # Out of time before it begins, it still has what the cache has.
    with_none = tm.compare(asked[0][0], *asked[1:], cache_dir=tmp_path / "a", time=60, **options)
    assert {r["value"] for r in with_none.records} <= {r["value"] for r in here.records}
    late = tm.compare("zoo:cnn-mnist", *asked[1:], cache="never", time=1e-6, **options)
    assert ["time was over" in f["error"] for f in late.failures] == [True]


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on_and_trains_nothing_twice(tmp_path):
    heads = ["linear_probe(C_grid=(1.0,))", "finetune(epochs=40, lr=0.01)"]
    asked = ["zoo:cnn-mnist", "sklearn:digits?examples=100", heads]
    options = {"seeds": 1, "distortions": False, "progress": False}
    cache = tmp_path / "cache"
    call = f"tm.compare(*{asked}, cache_dir={str(cache)!r}, **{options})"
    code = f"import transfer_metrics as tm\n{call}"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code])
    end = time.monotonic() + 300
    while not any(cache.glob("training/*/lr*.safetensors")) and time.monotonic() < end:
        assert process.poll() is None, "it was finished, or failed, before it was killed"
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in cache.glob("scores/*.jsonl")}
    assert len(kept) == 1
    [begun] = cache.glob("training/*")
    again = tm.compare(*asked, cache_dir=cache, **options)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not begun.exists()
    calm = tm.compare(*asked, cache="never", **options)
    values = [
        {(r.head, r.metric, r.split): r.value for r in table if r.metric != "fit_seconds"}
        for table in (again, calm)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-6)


@pytest.mark.slow
def test_quick_fits_on_the_shortlist_alone(tmp_path):
    models = [f"zoo:{name}" for name in ("cnn-mnist", "mixer-usps", "resnet-usps", "resnet-random")]
    task, head = "sklearn:digits?examples=200", "linear_probe(C_grid=(1.0,))"
    options = {"cache_dir": tmp_path, "progress": False}
    table = tm.compare(models, task, head, quick=True, **options)
    fitted = set(table.summary().index.get_level_values("model"))
    held = complete_task(tm.load_task(task))
    assert fitted == set(tm.rank_models(models, held, **options).shortlist()[:MOST])
    assert {r.seed for r in table} == {0}
    assert not any("distortion" in r.metric for r in table)


def test_quick_takes_few_rates_and_one_seed():
    heads, seeds = asked_fits(quick=True)
    assert [h.label for h in heads[2:]] == list(TRAINED)
    assert seeds == [0]
    assert len(asked_fits()[1]) == 3
    named, seeds = asked_fits("finetune(epochs=2)", 2, True)
    assert [h.label for h in named] == ["finetune(epochs=2)"]
    assert seeds == [0, 1]


def test_estimates_count_epochs_of_all_rates():
    assert _epochs(6, 20, None) == 120
    # Of six rates two go on after the second of twelve epochs, and one after the fourth.
    assert _epochs(6, 12, 3) == 6 * 2 + 2 * 2 + 1 * 8


@pytest.mark.parametrize("measure", ["accuracy", "r2", "average_precision"])
def test_a_head_takes_over_what_a_fit_has_chosen(measure) -> None:
    """Of classes, numbers and several labels alike, so that the last fit searches no more."""
    probe = tm.LinearProbe()
    record = {"model": "m", "task": "t", "head": probe.label, "seed": 0, "note": "C_grid=(0.3,)"}
    for metric, expected in ((f"val_{measure}", (0.3,)), (measure, probe.C_grid)):
        assert probe.tuned("m", "t", 0, [{**record, "metric": metric}]).C_grid == expected
    assert probe.tuned("other", "t", 0, [{**record, "metric": f"val_{measure}"}]) is probe
