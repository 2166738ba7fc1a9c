"""The protocol of the ground truth: what searches, what chooses, what is kept, and its law."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import transfer_metrics as tm
from tests import evidence_files, kept_truth
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence import ground_truth
from transfer_metrics.evidence.ground_truth import BEST, best, protocol, reached
from transfer_metrics.heads import training
from transfer_metrics.heads.base import resolve_head
from transfer_metrics.heads.preprocessed import Inputs
from transfer_metrics.heads.train_settings import TrainSettings
from transfer_metrics.heads.training import rungs, tune
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.sources.zoo import data_folder


@pytest.mark.parametrize(
    ("settings", "epochs", "eta", "expected"),
    [
        (1, 7, 2, [(7, 1)]),
        (4, 8, 2, [(2, 2), (4, 1), (8, 1)]),
        (5, 9, 3, [(1, 2), (3, 1), (9, 1)]),
        (27, 27, 3, [(1, 9), (3, 3), (9, 1), (27, 1)]),
        (6, 0, 2, [(0, 3), (0, 2), (0, 1), (0, 1)]),
    ],
)
def test_rungs_by_hand(settings, epochs, eta, expected) -> None:
    assert rungs(settings, epochs, eta) == expected


@pytest.mark.parametrize("eta", [1, 0, 2.5, "two"])
def test_a_factor_that_halves_nothing_is_refused(eta) -> None:
    with pytest.raises(InvalidInputError, match="halving="):
        rungs(4, 8, eta)


class _Known(training.Training):
    """Training whose validation accuracy is a known function of rate and epoch."""

    trained: ClassVar[list[tuple[float, int]]] = []
    curves: ClassVar[dict[float, list[float]]] = {}

    def advance(self, until: int) -> None:
        rate = self.settings.lr
        while self.run.done < until:
            self.run.done += 1
            self.trained.append((rate, self.run.done))
            with torch.no_grad():
                self.network["head"].bias.fill_(100 * rate + self.run.done)
            self.judge(1.0 / rate, self.curves[rate][self.run.done - 1], 0.0)


def tuned(monkeypatch: pytest.MonkeyPatch, curves, halving, *, from_start=False, start=0.0):
    monkeypatch.setattr(training, "Training", _Known)
    monkeypatch.setattr(training, "accuracy", lambda *args: start)
    _Known.trained, _Known.curves = [], curves
    network = nn.ModuleDict({"head": nn.Linear(1, 2)})
    inputs, codes = Inputs.of_tensor(torch.zeros(4, 1)), torch.zeros(4, dtype=torch.int64)
    grid = [TrainSettings(lr=rate, epochs=4) for rate in curves]
    found, runs = tune(
        network, inputs, codes, (inputs, codes), grid, halving=halving, from_start=from_start,
        checkpoint=None, identity={}, progress=False, title="",
    )  # fmt: skip
    return found, runs, _Known.trained


CURVES = {
    0.1: [0.5, 0.55, 0.6, 0.6],
    0.2: [0.4, 0.9, 0.9, 0.9],  # the best in the end, but slow
    0.3: [0.6, 0.7, 0.65, 0.8],
    0.4: [0.1, 0.1, 0.1, 0.1],
}


def test_halving_trains_all_a_little_and_the_best_to_the_end(monkeypatch) -> None:
    found, runs, trained = tuned(monkeypatch, CURVES, 2)
    first = [(rate, 1) for rate in CURVES]
    assert trained == [*first, (0.3, 2), (0.1, 2), (0.3, 3), (0.3, 4)]
    assert found.settings.lr == 0.3
    assert (found.run.epoch, found.run.val_score) == (4, 0.8)
    assert [run.done for run in runs] == [2, 1, 4, 1]
    assert float(found.network["head"].bias.detach()[0]) == pytest.approx(
        34
    )  # weights of that epoch


def test_without_halving_every_setting_is_trained_to_the_end(monkeypatch) -> None:
    found, _, trained = tuned(monkeypatch, CURVES, None)
    assert trained == [(rate, epoch) for rate in CURVES for epoch in (1, 2, 3, 4)]
    assert (found.settings.lr, found.run.epoch, found.run.val_score) == (0.2, 2, 0.9)


def test_of_equals_the_lower_training_loss_goes_on(monkeypatch) -> None:
    flat = {rate: [0.5] * 4 for rate in (0.1, 0.2, 0.4)}
    found, *_ = tuned(monkeypatch, flat, 2)
    assert found.settings.lr == 0.4
    assert found.run.epoch == 1


def test_a_start_that_no_epoch_beats_stays(monkeypatch) -> None:
    for halving in (None, 2):
        found, *_ = tuned(monkeypatch, CURVES, halving, from_start=True, start=0.9)
        assert (found.run.epoch, found.run.val_score) == (0, 0.9)
        found, *_ = tuned(monkeypatch, CURVES, halving, from_start=True, start=0.45)
        assert found.run.epoch > 0


def test_interrupted_halving_ends_with_the_same_weights(tmp_path: Path, monkeypatch) -> None:
    task = tm.load_task("sklearn:digits?examples=60")
    head = tm.FineTune(
        lr=(0.1, 0.01, 0.001), epochs=4, halving=2, batch_norm="eval", progress=False
    )
    whole = head.fit("zoo:cnn-mnist", task)
    steps = whole.steps_
    write, written = training.Training.keep, []

    def stopping(self, *args):
        write(self, *args)
        written.append(1)
        if len(written) == 4:
            raise KeyboardInterrupt

    again = tm.FineTune(**{**head.get_params(), "checkpoint": tmp_path})
    monkeypatch.setattr(training.Training, "keep", stopping)
    with pytest.raises(KeyboardInterrupt):
        again.fit("zoo:cnn-mnist", task)
    again.fit("zoo:cnn-mnist", task)
    assert len(written) == sum(len(run) for run in [whole.history_])
    assert (again.lr_, again.epoch_, again.steps_) == (whole.lr_, whole.epoch_, steps)
    np.testing.assert_array_equal(again.coef_, whole.coef_)


@pytest.mark.integration
def test_what_was_chosen_can_be_fitted_again_without_a_search() -> None:
    task = tm.load_task("sklearn:digits?examples=60")
    model = "zoo:cnn-mnist"
    for spec in (
        "linear_probe(C_grid=(0.01, 1.0))",
        "lpft(C_grid=(0.01, 1.0), lr=(0.001, 0.01), epochs=1, progress=False)",
        "head2toe_cv(grid={'keep': (0.05, 0.5), 'steps': (20,)}, cv=2)",
    ):
        head = resolve_head(spec).fit(model, task)
        again = resolve_head(spec).set_params(**head.chosen()).fit(model, task)
        if head.name == "head2toe_cv":
            np.testing.assert_array_equal(again.logits(task), head.logits(task))
        # Each fit of a path of strengths begins where the last one ended, within a tolerance.
        same = again.logits(task).argmax(1) == head.logits(task).argmax(1)
        assert same.mean() > 0.95
        assert again.score(task) == pytest.approx(head.score(task), abs=0.03)


def test_head2toe_chooses_by_a_validation_set() -> None:
    x = np.random.default_rng(0).normal(size=(80, 6))
    y = (x[:, 0] > 0).astype(int)
    head = resolve_head(
        "head2toe_cv(grid={'keep': (0.2, 1.0), 'steps': (100,), 'lr': (0.1,)}, cv=None)"
    )
    head.fit({"a": x[:40]}, y[:40], validation=({"a": x[40:]}, y[40:]))
    assert [len(r["accuracies"]) for r in head.cv_results_] == [1, 1]
    assert head.best_params_["keep"] == 0.2  # the label is one feature
    assert head.score({"a": x[40:]}, y[40:]) == head.best_score_
    with pytest.raises(InvalidInputError, match="cv=None chooses by a validation set"):
        head.fit({"a": x}, y)


def record(head: str, metric: str, value: float, *, seed: int = 0, n: int = 100) -> dict:
    return {
        "model": "a", "task": "t", "head": head, "seed": seed, "metric": metric, "value": value,
        "n": n, "note": None, "error": None, "seconds": 1.0, "num_classes": 4,
        "split": "test" if metric == "accuracy" else "val",
    }  # fmt: skip


def pair(head: str, held: float, test: float, *, seed: int = 0) -> list[dict]:
    return [
        record(head, "accuracy", test, seed=seed),
        record(head, "val_accuracy", held, seed=seed),
    ]


def test_the_best_is_chosen_by_validation_and_not_by_test() -> None:
    found = best([*pair("probe", 0.5, 0.9), *pair("lpft(lr=1)", 0.8, 0.3)])
    assert [(r["head"], r["note"], r["value"]) for r in found] == [(BEST, "lpft(lr=1)", 0.3)]
    # A standard error of 0.8 on 100 examples is 0.04: within that the simpler one, which is first.
    assert best([*pair("probe", 0.77, 0.1), *pair("lpft", 0.8, 0.9)])[0]["note"] == "probe"
    assert best([*pair("probe", 0.75, 0.9), *pair("lpft", 0.8, 0.1)])[0]["note"] == "lpft"
    # A head that chance has no part in counts for every seed.
    seeds = [*pair("probe", 0.6, 0.7), *pair("lpft", 0.9, 0.8), *pair("lpft", 0.2, 0.4, seed=1)]
    assert [(r["seed"], r["note"]) for r in best(seeds)] == [(0, "lpft"), (1, "probe")]
    assert best([record("probe", "accuracy", 0.5)]) == []


def test_the_protocol_spans_three_decades_and_small_sets_are_seen_more_often() -> None:
    heads = [resolve_head(head) for head in protocol(500)]
    assert [head.name for head in heads] == ["linear_probe", "head2toe_cv", "lpft", "finetune"]
    for head in heads[2:]:
        assert max(head.lr) / min(head.lr) == pytest.approx(1000)
    few = resolve_head(protocol(100)[3])
    assert few.epochs > heads[3].epochs


@pytest.mark.filterwarnings("ignore:.*judging a metric by a ground truth takes")
def test_further_seeds_take_the_settings_of_the_first(tmp_path: Path) -> None:
    heads = ("linear_probe(C_grid=(0.01, 1.0))", "finetune(lr=(0.01, 1e9), epochs=1, halving=2)")
    out = tmp_path / "t.jsonl"
    options = {"heads": heads, "cache_dir": tmp_path / "c", "progress": False}
    table = ground_truth.run("zoo:cnn-mnist", "sklearn:digits?examples=60", out, seeds=2, **options)
    found = [r for r in table.records if r["metric"] == "val_accuracy"]
    label = resolve_head(heads[1]).label
    assert [(r["head"], r["seed"]) for r in found][1:] == [(label, 0), (label, 1)]
    assert found[1]["note"] == found[2]["note"] == "lr=0.01, weight_decay=0.0"
    steps = [r["value"] for r in table.records if r["metric"] == "train_flops"][1:]
    assert steps[0] == steps[1]
    before = out.read_bytes()
    ground_truth.run("zoo:cnn-mnist", "sklearn:digits?examples=60", out, seeds=2, **options)
    assert out.read_bytes() == before


def test_only_complete_tasks_are_kept_and_come_back_as_they_were(tmp_path: Path) -> None:
    truth, scores = [], []
    for model, task in (
        ("zoo:a", "npz:t/x.npz"),
        ("zoo:b", "npz:t/x.npz"),
        ("zoo:a", "npz:t/y.npz"),
    ):
        for seed in (0, 1):
            for r in pair("lpft(lr=1)", 0.5, 0.75, seed=seed):
                if seed == 0 or model == "zoo:a":
                    truth.append({**r, "model": model, "task": task})
        base = {
            "model": model,
            "task": task,
            "layer": "f",
            "layer_index": 2,
            "dim": 8,
            "error": None,
        }
        base |= {
            "n": 40,
            "split": "train",
            "repair": None,
            "higher_is_better": True,
            "seconds": 0.5,
        }
        for metric, options, value in (("knn", "k=1", 0.25), ("ncti_rank", None, -1 / 3)):
            scores.append({**base, "metric": metric, "options": options, "value": value})
        scores[-1]["higher_is_better"] = False
    evidence_files.keep(truth, scores, tmp_path)
    found = kept_truth.kept_truth(tmp_path)
    assert {(r["model"], r["task"], r["seed"]) for r in found} == {
        ("zoo:a", "x", 0),
        ("zoo:b", "x", 0),
    }
    assert {(r["metric"], r["value"]) for r in found} == {("accuracy", 0.75), ("val_accuracy", 0.5)}
    assert {r["num_classes"] for r in found} == {4}
    assert kept_truth.kept_protocol(tmp_path) == ("lpft(lr=1)",)
    (knn, rank), *_ = [
        [r for r in kept_truth.kept_scores(tmp_path) if r["model"] == m] for m in ("zoo:a", "zoo:b")
    ]
    assert (knn["metric"], knn["options"], knn["value"], knn["seconds"]) == (
        "knn",
        "k=1",
        0.25,
        0.5,
    )
    assert (rank["higher_is_better"], knn["higher_is_better"]) == (False, True)
    assert rank["value"] == pytest.approx(-1 / 3)
    with pytest.raises(InvalidInputError, match="no task has all"):
        evidence_files.keep(truth, [], tmp_path)


KEPT = pytest.mark.skipif(
    not (data_folder() / "evidence").is_dir(), reason="no truth is kept in this checkout"
)


@KEPT
def test_no_pair_ends_below_its_own_linear_probe() -> None:
    records = kept_truth.kept_truth()
    values, _ = reached(Comparison(best(records)), BEST)
    probes, errors = reached(Comparison(records), "linear_probe")
    lost = ((probes - values) / errors.replace(0, np.inf)).stack()
    assert lost.max() <= 2, lost[lost > 2]


@KEPT
def test_every_kept_pair_has_all_heads_and_scores() -> None:
    records = kept_truth.kept_truth()
    heads = {resolve_head(head).name for head in protocol(500)}
    models, tasks = ({r[name] for r in records} for name in ("model", "task"))
    assert len(models) == 14
    found = {(r["model"], r["task"], r["head"]) for r in records if r["metric"] == "accuracy"}
    assert found == {(m, t, h) for m in models for t in tasks for h in heads}
    scored = {(r["model"], r["task"]) for r in kept_truth.kept_scores() if r["metric"] == "knn"}
    assert scored == {(m, t) for m in models for t in tasks}
