"""From many models to one head: what wins, on which examples, what it costs, and going on."""

from __future__ import annotations

import base64
import inspect
import io
import json
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix, r2_score
from torch import nn

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.heads import transfer as transfer_module
from transfer_metrics.heads import trials as trials_module
from transfer_metrics.heads.base import HEADS, resolve_head
from transfer_metrics.heads.estimate import TRAINED, _train_seconds, expected_seconds
from transfer_metrics.heads.fits import LATE, Loaded
from transfer_metrics.heads.splits import complete_task
from transfer_metrics.heads.training import rungs
from transfer_metrics.heads.trials import _LEAST, _PAGE, Trials
from transfer_metrics.progress import check_time
from transfer_metrics.results.record import Record
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.models.candidates import Candidate
from transfer_metrics.sources.specs import results_of

pytestmark = pytest.mark.integration

MODELS = ["zoo:cnn-mnist", "zoo:mixer-usps"]


@pytest.fixture(scope="module")
def task() -> tm.Task:
    """Ninety examples for testing: each is a group of its own where heads are compared."""
    digits = tm.load_task("sklearn:digits?examples=100")
    splits = {"train": digits["train"], "test": digits["test"].rows(np.arange(90))}
    return tm.Task(digits.name, digits.kind, digits.modality, splits, digits.classes)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer")


def scores_in(place: Path) -> list[Path]:
    return sorted((place / "cache" / "scores").glob("*.jsonl"))


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped(task: tm.Task, place: Path) -> dict[Path, int]:
    """What was kept of a run that was stopped when all but the test was done, and when."""
    common = {"cache_dir": place / "cache", "progress": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tm.Decision, "of", stop)
        with pytest.raises(KeyboardInterrupt):
            tm.transfer(MODELS, task, place / "out", **common)
    assert not (place / "out").exists()
    return {path: path.stat().st_mtime_ns for path in scores_in(place)}


@pytest.fixture(scope="module")
def found(task: tm.Task, place: Path, stopped: dict[Path, int]) -> tm.Decision:
    return tm.transfer(MODELS, task, place / "out", cache_dir=place / "cache", progress=False)


def test_the_winner_is_the_best_by_validation(found: tm.Decision) -> None:
    held = [r for r in found.comparison.records if r["metric"] == "val_accuracy"]
    best = max(r["value"] for r in held)
    won = next(r for r in held if (r["model"], r["head"]) == (found.model, found.label))
    assert won["value"] == best
    assert len({(r["model"], r["head"]) for r in held}) == len(held) >= 4
    # Of equals the one whose model is likelier to be the best.
    likelier = list(found.shortlist).index(found.model)
    equals = {r["model"] for r in held if r["value"] == best}
    assert likelier == min(list(found.shortlist).index(m) for m in equals)


def test_what_is_written_predicts_as_what_was_tested(
    found: tm.Decision, task: tm.Task, place: Path
) -> None:
    head = tm.load_head(place / "out" / "head")
    predicted, labels = head.predict(task), task["test"].labels
    assert found.accuracy == np.mean(predicted == labels) == head.score(task)
    assert (found.confusion == confusion_matrix(labels, predicted, labels=range(10))).all()
    probabilities = head.predict_proba(task)
    assert len(found.mistakes) == min(12, (predicted != labels).sum())
    for one in found.mistakes:
        assert one.predicted == task.classes[predicted[one.example]] != one.label
        assert one.label == task.classes[labels[one.example]]
        assert one.probability == pytest.approx(probabilities[one.example].max())
    sure = [one.probability for one in found.mistakes]
    assert sure == sorted(sure, reverse=True)


def test_the_page_shows_the_surest_mistakes_as_pictures(
    found: tm.Decision, task: tm.Task, place: Path
) -> None:
    page = (place / "out" / "report.html").read_text("utf-8")
    assert "img-src data:" in page
    assert page.count("<img ") == len(found.mistakes) > 0
    for one in found.mistakes:
        picture = Image.open(io.BytesIO(one.picture))
        example = task["test"].examples[one.example]
        assert picture.size == example.size
        apart = np.asarray(picture.convert("L"), float) - np.asarray(example.convert("L"), float)
        assert np.abs(apart).mean() < 3  # what JPEG takes away
        assert base64.b64encode(one.picture).decode() in page
        assert "picture" not in repr(one)


def test_gains_are_measured_on_the_same_examples(found: tm.Decision, task: tm.Task) -> None:
    alternative = next(a for a in found.alternatives if a.model == found.model)
    other = resolve_head(alternative.head).fit(found.model, complete_task(task))
    labels = task["test"].labels
    right = [(head.predict(task) == labels).astype(float) for head in (found.head, other)]
    apart = right[0] - right[1]
    assert alternative.gain == pytest.approx(apart.mean())
    # Where no example tells them apart, half of one might have.
    error = apart.std() / np.sqrt(90) or np.sqrt(0.5 / (90 * 91))
    assert alternative.margin == pytest.approx(1.959964 * error, rel=1e-3)
    # Each other head of the model, and one head of each other model.
    own = [a for a in found.alternatives if a.model == found.model]
    assert len(found.alternatives) - len(own) == len({r.model for r in found.comparison}) - 1


@pytest.mark.slow
def test_nothing_is_chosen_by_test_examples(found: tm.Decision, task: tm.Task, place: Path) -> None:
    shuffled = np.random.default_rng(0).permutation(task["test"].labels)
    test = tm.Split(task["test"].examples, shuffled)
    splits = {"train": task["train"], "test": test}
    other = tm.Task(task.name, task.kind, task.modality, splits, task.classes)
    again = tm.transfer(MODELS, other, most=1, cache_dir=place / "cache", progress=False)
    assert again.ranking.best() == found.ranking.best()
    held = {
        r["head"]: r["value"] for r in again.comparison.records if r["metric"] == "val_accuracy"
    }
    for r in found.comparison.records:
        if r["metric"] == "val_accuracy" and r["model"] == again.model:
            assert held[r["head"]] == r["value"]
    assert again.accuracy < 0.4
    assert "by the limit of 1 model" in " ".join(again.skipped)


def test_the_decision_is_told_in_five_lines(found: tm.Decision) -> None:
    assert list(found.lines()) == ["model", "layers", "head", "accuracy", "cost"]
    lines = str(found).splitlines()
    assert len(lines) == 5 + len(found.skipped)
    assert found.model in lines[0]
    assert found.label in lines[2]
    assert f"{100 * found.accuracy:.1f} ± {100 * found.margin:.1f} % on 90" in lines[3]
    assert sum(found.layers.values()) == found.head.coef_.shape[1]


def test_it_goes_on_where_it_was_stopped(
    stopped: dict[Path, int], found: tm.Decision, place: Path
) -> None:
    assert len(stopped) > 4
    assert {path: path.stat().st_mtime_ns for path in stopped} == stopped
    assert not any((place / "cache" / "training").glob("*"))


@pytest.mark.usefixtures("found")
def test_what_there_is_no_time_for_is_said(
    task: tm.Task, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expected(*args: object) -> tuple[float, float]:
        trained = "epochs" in args[-1].get_params()
        return 0.0, 1000.0 if trained else 0.01  # whatever this machine takes

    monkeypatch.setattr(trials_module, "expected_seconds", expected)
    found = tm.transfer(
        "zoo:cnn-mnist", task, time=60, finetune=1, cache_dir=place / "cache", progress=False
    )
    assert any(text.startswith("fine-tuning of zoo:cnn-mnist, which") for text in found.skipped)
    assert not any("finetune" in str(r.head) for r in found.comparison)
    # What the cache has takes no time.
    assert {str(r.head) for r in found.comparison} > {"linear_probe", "head2toe"}


READING, BLOCKS = 2.0, "head2toe(keep=0.5, layers='blocks')"
FITS = {_LEAST: 0.25, "linear_probe": 1.0, BLOCKS: 3.0}
"""Seconds that heads are expected to take."""


class Clock:
    """A clock that only the work below moves."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    time = perf_counter


@dataclass(frozen=True)
class Work:
    """Fits that take ``ratio`` times what is expected, and none of the time that the cache has."""

    clock: Clock
    ratio: float
    cached: dict[tuple[str, str], float]
    done: list[tuple[str, str]]
    heads: tuple = ()
    until: float = float("inf")

    def load(self, model: Candidate) -> Loaded:
        loaded = Loaded(
            model, Record(model.name, metric=""), None, SimpleNamespace(spent=0.0), None
        )
        loaded.__dict__["flops"] = 1
        return loaded

    def kept(self, loaded: Loaded, head: tm.LinearProbe, seed: int) -> list[Record]:
        seconds = self.cached.get((loaded.model.name, head.label))
        return [] if seconds is None else [Record("", metric="fit_seconds", value=seconds)]

    def map(self, loaded: Loaded, part: int) -> list[Record]:
        head = self.heads[part]
        fit = loaded.model.name, head.label
        known = self.cached.get(fit)
        seconds = self.ratio * FITS[head.label]
        if known is None and not loaded.features.spent:
            self.clock.now += READING
            loaded.features.spent += READING
        self.clock.now += 0.0 if known else seconds
        if self.clock.now > self.until:
            self.clock.now = self.until
            return [replace(loaded.base, head=head.label, error=LATE)]
        self.done.append(fit)
        measured = {"val_accuracy": FITS[head.label] / 10, "fit_seconds": known or seconds}
        return [replace(loaded.base, head=fit[1], metric=m, value=v) for m, v in measured.items()]

    def reduce(self, model: Candidate, results: list[list[Record]]) -> list[Record]:
        return results[0]


def trials(
    monkeypatch: pytest.MonkeyPatch,
    limit: float,
    ratio: float,
    cached: dict | None = None,
    least: float = FITS[_LEAST],
) -> tuple[Trials, Clock]:
    """Five models, on each of which a probe and Head2Toe are tried within some time."""
    clock, expected = Clock(), {**FITS, _LEAST: least}
    monkeypatch.setattr(trials_module, "clock", clock)
    monkeypatch.setattr(
        trials_module, "expected_seconds", lambda *args: (READING, expected[args[-1].label])
    )
    digits = tm.load_task("sklearn:digits?examples=20")
    run = Trials(digits, limit, 0, 0.2, {"progress": False}, 0.0, order=list("abcde"))
    run.__dict__["work"] = Work(clock, ratio, cached or {}, [])
    for name in run.order:
        run.try_heads(Candidate(name, name), ["linear_probe", BLOCKS])
    return run, clock


@pytest.mark.parametrize("limit", [12.0, 30.0, 60.0])
@pytest.mark.parametrize("ratio", [1 / 16, 0.5, 1.0, 4.0])
def test_the_cheapest_head_tells_the_pace_and_the_limit_is_used(
    limit: float, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, clock = trials(monkeypatch, limit, ratio)
    done = run.work.done
    assert done[0] == ("a", _LEAST)
    # Head2Toe is fitted again as it was, a probe with the strength that was chosen.
    last = max(ratio * FITS[head] * (1.0 if head == BLOCKS else 0.5) for _, head in done)
    assert clock.now + last + _PAGE <= limit
    missing = {(m, head) for m in run.order for head in ("linear_probe", BLOCKS)} - {*done}
    told = " ".join(run.skipped)
    for model, head in missing:
        read = 0.0 if any(m == model for m, _ in done) else READING
        again = max(last, ratio * FITS[head] * (1.0 if head == BLOCKS else 0.5))
        assert clock.now + read + ratio * FITS[head] + again + _PAGE > limit
        assert f"heads on {model}, " in told or f"{head} on {model}, " in told
    if ratio < 1 and limit >= 30:
        assert not missing
    assert set(run.loaded) == {"a"} == {run.best()[0][0]}


def test_what_the_cache_has_takes_no_time_but_its_last_fit_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cached = {(m, head): 4.0 * FITS[head] for m in "abc" for head in FITS}
    cached["b", BLOCKS] = 1e4
    run, clock = trials(monkeypatch, 20.0, 4.0, cached)
    assert {fit for fit in run.work.done if fit in cached} == {*cached} - {
        ("b", BLOCKS), ("b", _LEAST), ("c", _LEAST)
    }  # fmt: skip
    assert any(text.startswith(f"{BLOCKS} on b, which") for text in run.skipped)
    # The others are begun by what those of the cache took: a probe with what it reads takes six.
    assert clock.now + 4.0 * FITS[BLOCKS] + READING + _PAGE <= 20.0
    assert ("d", BLOCKS) not in run.work.done


def test_a_head_that_takes_longer_than_expected_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    # The least takes a thirtieth of what is expected, so a probe seems to; it takes four times it.
    run, clock = trials(monkeypatch, 10.0, 4.0, least=30.0)
    assert run.work.done == [("a", _LEAST)]
    assert run.skipped[0] == "linear_probe on a, stopped when the time was over"
    # There was time left for what it would have taken to fit it again, and for the page.
    assert clock.now == pytest.approx(3.0 + (7.0 - _PAGE) / 1.5)


def test_a_head_is_expected_to_take_what_it_reads_and_searches(found: tm.Decision) -> None:
    def seconds(head: str) -> float:
        model = found.ranking.best()
        return expected_seconds(found.ranking, model, digits, resolve_head(head))[1]

    digits = tm.load_task("sklearn:digits")
    assert seconds(_LEAST) < seconds("linear_probe") / 3
    assert seconds(BLOCKS) < seconds("head2toe(keep=0.5)") < seconds("head2toe(steps=2000)")
    assert seconds("head2toe") < seconds("head2toe_cv") / 10
    assert seconds("finetune(epochs=2)") > 0


@pytest.mark.slow
def test_the_limit_holds_where_estimates_are_far_too_low(
    task: tm.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that is busy: what the first heads take is what the others are held to."""
    monkeypatch.setattr(trials_module, "expected_seconds", lambda *_: (0.0, 0.01))
    common = {"cache_dir": tmp_path, "progress": False}
    tm.rank_models(MODELS, task, **common)
    began = time.perf_counter()
    first = tm.transfer(MODELS[0], task, most=1, **common)
    alone = time.perf_counter() - began
    began = time.perf_counter()
    found = tm.transfer(MODELS, task, cache="always", time=1.2 * alone, **common)
    assert time.perf_counter() - began < 1.5 * 1.2 * alone
    assert first.skipped == ()
    assert any("for which there was" in t or "which would take" in t or "time was over" in t
               for t in found.skipped)  # fmt: skip


@pytest.mark.filterwarnings("ignore:the time was over before")
def test_without_any_time_there_is_the_cheapest_head_on_one_model(task: tm.Task) -> None:
    common = {"cache": "never", "engine": "auto", "progress": False}
    with pytest.warns(TransferMetricsWarning, match="zoo:cnn-mnist was all the same"):
        found = tm.transfer(MODELS, task, time=0.01, **common)
    assert (found.model, found.label) == ("zoo:cnn-mnist", _LEAST)
    assert "zoo:mixer-usps in the ranking, for which there was no time" in found.skipped
    assert found.accuracy > 0.5


class Slow(nn.Module):
    """Sleeps in its forward pass, and counts how often it runs."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head, self.runs = nn.Linear(12, 6), nn.Linear(6, 3), 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.05)
        self.runs += 1
        return self.head(torch.relu(self.body(x)))


@pytest.mark.filterwarnings("ignore:the time was over before")
def test_looking_ahead_takes_no_time_from_the_ranking(tmp_path: Path) -> None:
    """Trying all of them takes six times over a second, of the two that looking ahead may take."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.eye(3, 12, dtype=np.float32)[y] + rng.normal(0, 0.4, (90, 12)).astype(np.float32)
    splits = {"train": tm.Split(x, y), "test": tm.Split(x[:30] + 0.1, y[:30])}
    task = tm.Task("noise", "classification", "tensor", splits, ("a", "b", "c"))
    common = {"progress": False, "batch_size": 8}
    alone = Slow(1)
    tm.rank_models({"b": alone}, task, "knn", cache="never", **common)
    models = {name: Slow(seed) for seed, name in enumerate("abcdef")}
    found = tm.transfer(models, task, metrics="knn", time=12, most=1, cache_dir=tmp_path, **common)
    ranked = {r.model for r in found.ranking if r.value is not None}
    assert ranked
    others = set("bcde") - {found.model}
    assert max(models[name].runs for name in others) <= alone.runs
    assert not any("raced" in text for text in found.skipped)


@pytest.mark.usefixtures("found")
def test_nothing_is_tried_of_what_the_cache_has(
    task: tm.Task, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_module, "forecast", stop)
    common = {"cache_dir": place / "cache", "progress": False}
    found = tm.transfer(MODELS, task, time=600, **common)
    assert {r.model for r in found.ranking if r.value is not None} == set(MODELS)
    with pytest.raises(KeyboardInterrupt):
        tm.transfer(MODELS, task, time=600, **common, pool="max")


def test_training_is_foretold_by_the_epochs_that_are_run(task: tm.Task) -> None:
    # Six settings for two epochs, two of them for two more, one to the twelfth.
    assert rungs(6, 12, 3) == [(2, 2), (4, 1), (12, 1)]
    seconds = 2 * _train_seconds(resolve_head(TRAINED[0]), 0.001, task)
    assert seconds == pytest.approx(2 * (6 * 2 + 2 * 2 + 1 * 8) * 3.2 * 0.001 * 100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most": 0}, "most=0"),
        ({"finetune": -1}, "finetune=-1"),
        ({"time": "soon"}, "write 90s, 30m or 2h"),
        ({"time": "-3m"}, "cannot be read"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        tm.transfer("zoo:cnn-mnist", "sklearn:digits", **options, progress=False)


def test_targets_are_transferred_by_r2(tmp_path: Path) -> None:
    digits = tm.load_task("sklearn:digits?examples=80")
    splits = {
        name: tm.Split(digits[name].examples, digits[name].labels.astype(np.float64))
        for name in ("train", "test")
    }
    splits["test"] = splits["test"].rows(np.arange(60))
    task = tm.Task("digits as numbers", "regression", "image", splits)
    found = tm.transfer("zoo:cnn-mnist", task, tmp_path / "out", cache="never", progress=False)
    targets = task["test"].labels
    predicted = np.ravel(
        tm.load_head(tmp_path / "out" / "head", found.head.source_.model).predict(task)
    )
    assert found.accuracy == pytest.approx(r2_score(targets, predicted))
    assert str(found).splitlines()[3].startswith(f"quality  R² {found.accuracy:.3f} ± ")
    assert "reaches R²" in (tmp_path / "out" / "report.html").read_text("utf-8")


@pytest.mark.slow
def test_fine_tuning_is_checked_and_may_win(task: tm.Task, place: Path) -> None:
    found = tm.transfer(
        "zoo:cnn-mnist", task, place / "tuned", finetune=1, cache_dir=place / "cache",
        progress=False,
    )  # fmt: skip
    heads = {str(r.head).partition("(")[0] for r in found.comparison}
    assert {"finetune", "lpft"} <= heads
    head = HEADS["finetune"](epochs=12, halving=3, lr="wide", progress=False)
    tuned = head.fit("zoo:cnn-mnist", complete_task(task))
    [measured] = [
        r.value
        for r in found.comparison
        if str(r.head).startswith("finetune") and r.metric == "accuracy"
    ]
    assert measured == tuned.score(task)
    assert tm.load_head(place / "tuned" / "head").score(task) == found.accuracy


# --- on the command line --------------------------------------------------------------------------


def test_the_verb_prints_the_decision_and_what_comes_next(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(place / "cache"))
    out = place / "of verb"
    argv = ["--models", "zoo:cnn-mnist", "--task", "sklearn:digits?examples=100", "--out", str(out)]
    assert main(["transfer", *argv, "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "in all, about; nothing was computed or written" in told.out
    assert not out.exists()
    assert main(["transfer", *argv]) == 0
    told = capsys.readouterr()
    names = ("model", "layers", "head", "accuracy", "cost")
    assert [line.split()[0] for line in told.out.splitlines()][:5] == list(names)
    assert f"next: transfer-metrics predict --head '{out / 'head'}' NEW" in told.err
    written = {path.name for path in out.iterdir()}
    names = ("report.html", "head", "scores.jsonl", "comparison.jsonl", "chosen.json", "run.yaml")
    assert written == set(names)
    page = (out / "report.html").read_text("utf-8")
    assert "What is confused" in page
    assert "The surest mistakes" in page or "100.0" in page
    assert main(["transfer", "--config", str(out / "run.yaml"), "--json", "--quiet"]) == 0
    records = json.loads(capsys.readouterr().out)
    assert {r["metric"] for r in records} >= {"accuracy", "val_accuracy"}
    # What it wrote is taken up by the other verbs.
    assert main(["train", "--from", str(out), "--out", str(place / "probe")]) == 0
    assert (
        tm.load_head(place / "probe").layers_[0].name
        == tm.ScoreTable.load(out / "scores.jsonl").best_layers()[0]
    )
    chosen = Selection.load(out / "chosen.json")
    for option in ("--features", "--from"):
        argv = ["train", option, str(out / "chosen.json"), "--out", str(place / option)]
        assert main(argv) == 0
        again = tm.load_head(place / option)
        read = again.layer_columns_ or {la.name: np.arange(la.dim) for la in again.layers_}
        assert {name: sorted(c) for name, c in read.items()} == {
            name: sorted(c) for name, c in chosen.layers.items()
        }


def test_results_stand_for_models_and_layers(found: tm.Decision, place: Path) -> None:
    table = found.ranking
    for given in (table, str(place / "out"), str(place / "out" / "scores.jsonl")):
        assert results_of(given).chosen_models() == list(table.shortlist())
        assert tm.load_model(given).name == table.shortlist()[0]
        [layer] = tm.list_layers(tm.load_model(given), given)
        assert layer.name == table.best_layers()[0]
    probe = tm.LinearProbe(layers=table, C_grid=(1.0,)).fit(table, "sklearn:digits?examples=100")
    assert probe.source_.name == table.shortlist()[0]
    assert [layer.name for layer in probe.layers_] == table.best_layers()
    printed = place / "printed.json"
    printed.write_text(json.dumps(table.records, default=str), "utf-8")
    assert tm.load_model(str(printed)).name == table.best()
    assert tm.list_layers(tm.load_model(found), found) == list(
        tm.list_layers(tm.load_model(found.model), list(found.layers))
    )


def test_a_file_names_no_code(tmp_path: Path) -> None:
    rows = [{"model": "os:getcwd", "layer": "a", "metric": "knn", "value": 1.0}]
    tm.ScoreTable(rows).save(tmp_path / "scores.jsonl")
    with pytest.raises(InvalidInputError, match="names in files are not run as code"):
        tm.load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--out", "x"], "--model is missing"),
        (["--from", "{place}/nothing", "--out", "x"], "there is no table at"),
        (["--features", "{place}/nothing.json", "--out", "x"], "nor features that `select --out`"),
        (["--features", "{place}/nothing.jsonl", "--out", "x"], "nor features that `select"),
        (["--features", "{place}/scores.jsonl", "--out", "x"], "has scores, not features"),
        (
            ["--features", "{place}/part.json", "--head", "linear_probe", "--out", "x"],
            "which head2toe reads and linear_probe does not",
        ),
    ],
)
def test_what_train_cannot_take_is_refused(argv, message, tmp_path, capsys) -> None:
    rows = [{"model": "zoo:cnn-mnist", "layer": "stem", "metric": "knn", "value": 1.0}]
    tm.ScoreTable(rows).save(tmp_path / "scores.jsonl")
    part = Selection({"stem": np.array([1])}, {"stem": 24}, False, "fisher", None, "zoo:cnn-mnist",
                     "sklearn:digits")  # fmt: skip
    part.save(tmp_path / "part.json")
    assert main(["train", *(text.format(place=tmp_path) for text in argv)]) == 2
    assert message in capsys.readouterr().err


def test_a_selection_is_the_columns_that_head2toe_reads() -> None:
    rng = np.random.default_rng(0)
    X = {"a": rng.normal(size=(60, 4)), "b": rng.normal(size=(60, 3))}
    y = (X["b"][:, 2] > 0).astype(int)
    chosen = Selection({"b": np.array([2, 0])}, {"b": 3}, False, "hand")
    head = tm.Head2Toe(selector=chosen, steps=200, lr=0.1).fit(X, y)
    assert head.kept_ == {"b": 2}
    assert head.layer_columns_["b"].tolist() == [0, 2]
    assert head.score(X, y) > 0.9
    with pytest.raises(InvalidInputError, match="had 3 features when columns were chosen"):
        tm.Head2Toe(selector=chosen).fit({"b": X["a"]}, y)


@pytest.mark.parametrize("name", ["head2toe", "lpft", "linear_probe"])
def test_a_head_is_listed_with_all_its_options(name, capsys) -> None:
    assert main(["list", "heads", name]) == 0
    told = capsys.readouterr().out
    options = inspect.signature(HEADS[name]).parameters.values()
    for option in options:
        assert f"\n  {option.name}=" in told
    assert "transfer-metrics train" in told.splitlines()[-1]


def test_a_head_that_is_none_is_told(capsys) -> None:
    assert main(["list", "heads", "head2to"]) == 2
    assert "unknown head 'head2to'; did you mean 'head2toe'" in capsys.readouterr().err


def test_a_metric_is_listed_with_its_options(capsys) -> None:
    assert main(["list", "metrics", "knn"]) == 0
    told = capsys.readouterr().out
    assert "  k=5\n      neighbours that vote." in told
    assert told.splitlines()[-1].endswith("--metrics 'knn(k=5)'")


def test_a_network_of_ones_own_is_named_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n\ndef net():\n    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), "
        "torch.nn.Linear(8, 2))\n"
    )
    rows = "".join(f"{i % 5},{i % 2 + i / 90},{i % 7},{'ab'[i % 2]}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text("u,v,w,label\n" + rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    train = ["train", "--model", "mine:net", "--task", "rows.csv", "--head", "linear_probe"]
    assert main([*train, "--out", "out/head"]) == 0
    told = capsys.readouterr().err
    predict = told.split("next: transfer-metrics ")[1].split("\n")[0].replace("NEW", "rows.csv")
    assert main(shlex.split(predict)) == 0
    assert main(["predict", "--head", "out/head", "rows.csv"]) == 2
    assert "--model mine:net" in capsys.readouterr().err
    assert main(["predict", "--head", "out", "rows.csv"]) == 2
    assert "there is one at out/head" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["rank", "transfer", "compare", "extract", "train"])
def test_results_are_not_written_among_examples_or_other_files(verb, tmp_path, capsys) -> None:
    for i in range(4):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 60 * i).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("Once")
    before = sorted(tmp_path.rglob("*"))
    photos = tmp_path / "photos"
    models = "--model" if verb in ("extract", "train") else "--models"
    argv = [verb, models, "zoo:cnn-mnist", "--task", f"imagefolder:{photos}/"]
    places = {
        photos: "the examples of",
        photos / "a": "the examples of",
        photos / "new" / "head": "the examples of",
        tmp_path / "thesis" / ".." / "photos" / "x": "the examples of",
        tmp_path / "thesis": "it holds 'chapter1.tex'",
    }
    for place, message in places.items():
        assert main([*argv, "--out", str(place)]) == 2
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    if verb == "rank":
        scores, picture = tmp_path / "scores.jsonl", tmp_path / "mine.PNG"
        row = {"model": "a", "layer": "b", "metric": "knn", "value": 1.0}
        tm.ScoreTable([row]).save(scores)
        picture.write_text("a picture")
        task = ["--task", f"imagefolder:{photos}/"]
        for place, more, message in (
            (photos / "page.html", task, "the examples of"),
            (picture, [], "it is a file that was not written here"),
        ):
            assert main(["report", str(scores), *more, "--out", str(place)]) == 2
            assert message in capsys.readouterr().err
        assert picture.read_text() == "a picture"
    if verb in ("transfer", "extract"):
        called = {"transfer": tm.transfer, "extract": tm.extract}[verb]
        options = {"out": photos / "x", "progress": False}
        with pytest.raises(InvalidInputError, match="the examples of"):
            called("zoo:cnn-mnist", f"imagefolder:{photos}/", **options)


def test_a_selection_knows_what_its_model_is_loaded_from(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(tmp_path / "cache"))
    task = ["--task", "sklearn:digits?examples=60"]
    chosen, store = str(tmp_path / "chosen.json"), str(tmp_path / "store")
    named = ["--model", "small = zoo:cnn-mnist", *task]
    assert main(["extract", *named, "--out", store]) == 0
    by = ["--features", "fisher", "--keep", "0.2", "--out", chosen]
    for given in (named, ["--store", store]):
        assert main(["select", *given, *by]) == 0
        assert Selection.load(chosen).specs == {"small": "zoo:cnn-mnist"}
        argv = ["train", "--features", chosen, "--out", str(tmp_path / f"head{len(given)}")]
        assert main(argv) == 0
        head = tm.load_head(tmp_path / f"head{len(given)}")
        assert (head.source_.name, head.source_.spec) == ("small", "zoo:cnn-mnist")
        assert [layer.name for layer in head.layers_] == [*Selection.load(chosen).layers]
    assert tm.load_model(chosen).name == "small"
    found = tm.compare({"small": "zoo:cnn-mnist"}, tm.load_task(task[1]), "linear_probe",
                       cache_dir=tmp_path, progress=False)  # fmt: skip
    assert found.specs == {"small": "zoo:cnn-mnist"}
    content = json.loads(Path(chosen).read_text())
    Path(chosen).write_text(json.dumps({**content, "spec": "os:getcwd"}))
    with pytest.raises(InvalidInputError, match="names in files are not run as code"):
        tm.load_model(chosen)


@pytest.mark.filterwarnings("ignore:the time was over before")
def test_the_limit_binds_what_is_looked_ahead_and_the_first_head(
    task: tm.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models that take long to try: the ranking ends with some of them, and one head is fitted."""

    def endless(*_: object, **__: object) -> None:
        while True:
            time.sleep(0.05)
            check_time()

    monkeypatch.setattr(transfer_module, "forecast", endless)
    began = time.perf_counter()
    found = tm.transfer(MODELS, task, time=40, cache_dir=tmp_path, progress=False)
    assert time.perf_counter() - began < 1.3 * 40
    assert found.comparison.records[0]["head"] == _LEAST
    assert found.accuracy > 0.5


@pytest.mark.parametrize("verb", ["select", "export", "report", "benchmark"])
def test_a_file_of_someone_else_is_not_replaced(verb, tmp_path, capsys) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    task = tm.load_task(x, np.arange(20) % 2)
    tm.extract(network, task, out=tmp_path / "store", progress=False)
    tm.LinearProbe(C_grid=(1.0,)).fit("zoo:cnn-mnist", "sklearn:digits?examples=40").save(
        tmp_path / "head"
    )
    argv, ending = {
        "select": (["--store", str(tmp_path / "store"), "--by", "knn"], "json"),
        "export": (["--head", str(tmp_path / "head")], "pt2"),
        "report": ([str(tmp_path / "scores.jsonl")], "html"),
        "benchmark": (["published", "logme-cnn", "--resamples", "1"], "md"),
    }[verb]
    if verb == "report":
        tm.score(x, np.arange(20) % 2, ["knn"]).save(tmp_path / "scores.jsonl")
    place = tmp_path / f"mine.{ending}"
    for content in (b"{}", b"thesis", b"transfer_metrics is a package", b"PK" * 99_999):
        place.write_bytes(content)
        assert main([verb, *argv, "--out", str(place)]) == 2
        assert "it is a file that was not written here" in capsys.readouterr().err
        assert place.read_bytes() == content
    place.write_bytes(b"")  # as mktemp makes one
    for _ in range(2):  # the second time over what the first wrote
        assert main([verb, *argv, "--out", str(place)]) == 0
    assert place.stat().st_size > 100
    if verb == "export":
        onnx = pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        other = tmp_path / "other.onnx"
        for _ in range(2):
            assert main([verb, *argv, "--out", str(other)]) == 0
        proto = onnx.load(other)
        proto.producer_name = "someone else"
        del proto.metadata_props[:]
        onnx.save(proto, other)
        capsys.readouterr()
        assert main([verb, *argv, "--out", str(other)]) == 2


@pytest.mark.filterwarnings("default:the time was over")
@pytest.mark.parametrize(("cache", "told"), [("never", False), ("only-missing", True)])
def test_what_keeps_nothing_speaks_of_no_going_on(cache, told, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(tmp_path / "cache"))
    models = "zoo:cnn-mnist,zoo:mixer-usps,zoo:resnet-usps"
    argv = ["rank", "--models", models, "--task", "sklearn:digits", "--time", "0.01s", "--no-plots"]
    assert main([*argv, "--cache", cache, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "the time was over before 2 models of 3" in error
    assert ("goes on" in error) is told
