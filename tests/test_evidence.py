"""Evidence for metrics: what is measured is what a user would have seen, and how it is judged."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, weightedtau

import transfer_metrics as tm
from tests import kept_truth
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence import (
    ground_truth,
    judgement,
    scored_pairs,
)
from transfer_metrics.evidence.evidence_report import Evidence
from transfer_metrics.evidence.ground_truth import short_name, shortened
from transfer_metrics.evidence.judgement import Scores
from transfer_metrics.evidence.own_evidence import truth_cases
from transfer_metrics.evidence.static_baseline import by_task
from transfer_metrics.results.agreement import static_scores
from transfer_metrics.results.comparison import Comparison

MODELS = ["zoo:cnn-mnist", "zoo:mixer-usps", "zoo:vit-mnist"]
TASK = "sklearn:digits"


def record(model: str, value: float | None, **fields) -> dict:
    base = {
        "model": model, "task": "pets", "split": "train", "layer": "fc:input", "layer_index": 3,
        "dim": 8, "metric": "knn", "options": None, "value": value, "n": 400, "seconds": 0.5,
        "higher_is_better": True, "error": None, "repair": None,
    }  # fmt: skip
    return {**base, **fields}


@pytest.mark.slow
def test_scores_are_those_that_a_user_would_see(tmp_path: Path) -> None:
    pair = (MODELS[0], TASK)
    metrics = ("knn", "transrate(eps=auto)", "leep")
    found = scored_pairs.measure(
        [pair], tmp_path / "s.jsonl", metrics=metrics, sizes=(100,), progress=False
    )
    task = scored_pairs.tested(TASK)
    store = tm.extract(MODELS[0], task, progress=False)
    last = store.layers[-1].name
    (whole,) = (
        r for r in found
        if (r["metric"], r["layer"], r["n"], r["repair"]) == ("knn", last, len(store), None)
    )  # fmt: skip
    assert whole["value"] == pytest.approx(tm.knn(store[last], store.labels), abs=1e-12)
    assert whole["seconds"] > 0
    assert whole["extract_seconds"] > 0
    parts = [r for r in found if r["n"] == 100 and r["split"] == "train"]
    assert {r["metric"] for r in parts} == {"knn", "transrate", "leep"}
    layers = {r["layer"] for r in found if r["metric"] == "knn"}
    assert layers == {layer.name for layer in store.layers}
    assert {r["layer"] for r in found if r["metric"] == "leep"} == {last}
    test = tm.extract(MODELS[0], task, split="test", progress=False)
    (probe,) = (r for r in found if r["metric"] == "accuracy" and r["layer"] == last)
    fitted = tm.LinearProbe(C_grid=scored_pairs._STRENGTHS).fit(store[last], store.labels)
    assert probe["value"] == fitted.score(test[last], test.labels)
    repaired = {r["repair"]: r["value"] for r in found if r["metric"] == "knn" and r["repair"]}
    assert set(repaired) == set(scored_pairs.REPAIRS)
    assert repaired["unit rows"] == pytest.approx(whole["value"])  # cosine distance
    assert repaired["projected"] == pytest.approx(
        tm.knn(scored_pairs._principal(store[last]), store.labels)
    )
    assert repaired["less permuted"] == pytest.approx(whole["value"] - 0.1, abs=0.06)


@pytest.mark.slow
def test_what_is_there_is_not_measured_again_and_failures_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s.jsonl"
    pairs = [(MODELS[0], TASK), ("zoo:absent", TASK)]
    options = {"metrics": ("knn",), "sizes": (), "progress": False}
    first = scored_pairs.measure(pairs, out, **options)
    (failure,) = (r for r in first if not r["metric"])
    assert failure["model"] == "zoo:absent"
    assert "absent" in failure["error"]
    tried: list[str] = []

    def loading(name: str) -> None:
        tried.append(name)
        raise InvalidInputError("not now")

    monkeypatch.setattr(scored_pairs, "load_model", loading)
    again = scored_pairs.measure(pairs, out, **options)
    assert tried == ["zoo:absent"]
    assert [r for r in again if r["metric"]] == [r for r in first if r["metric"]]
    with pytest.raises(InvalidInputError, match="no pairs"):
        scored_pairs.measure([], out)


def test_tables_point_upwards_and_take_the_last_layer_or_the_best() -> None:
    records = [
        record("a", 0.5), record("a", 0.9, layer="stem", layer_index=0), record("b", 0.7),
        record("a", 2.0, metric="ncti_rank", higher_is_better=False),
        record("b", 9.0, metric="ncti_rank", higher_is_better=False),
        record("a", 0.1, n=100), record("a", 0.2, repair="unit rows"),
        record("a", 0.6, metric="accuracy", split="test"), record("c", None, metric="", n=None),
    ]  # fmt: skip
    last = Scores(records).last()
    assert last["knn"]["pets"].to_dict() == {"a": 0.5, "b": 0.7}
    assert last["ncti_rank"]["pets"].to_dict() == {"a": -2.0, "b": -9.0}
    assert Scores(records).best()["knn"]["pets"]["a"] == 0.9
    part = Scores(records).last(100)
    assert part["knn"]["pets"].to_dict() == {"a": 0.1}
    repaired = Scores(records).last(repair="unit rows")
    assert repaired["knn"]["pets"].to_dict() == {"a": 0.2}


def test_combinations_compare_the_models_of_a_task() -> None:
    records = [
        record(model, value, metric=metric, layer=f"{model}:input")
        for metric, values in {"energy": (1.0, 2.0, 3.0), "lda": (0.5, 0.7, 0.6)}.items()
        for model, value in zip("abc", values, strict=True)
    ]
    found = Scores(records).last()["etran"]["pets"]
    energy, lda = np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.7, 0.6])
    expected = (energy - 2) / energy.std() + (lda - 0.6) / lda.std()
    np.testing.assert_allclose(found[list("abc")], expected)


def test_layer_regret_by_hand() -> None:
    layers = {"stem": (0.2, 0.5), "mid": (0.9, 0.7), "fc:input": (0.4, 0.8)}
    records = [
        entry
        for index, (layer, (score, probe)) in enumerate(layers.items())
        for entry in (
            record("a", score, layer=layer, layer_index=index),
            record("a", probe, layer=layer, layer_index=index, metric="accuracy", split="test"),
        )
    ]
    found = Scores(records).layer_regrets
    assert found == {"last": pytest.approx(0.0), "knn": pytest.approx(0.1)}
    # A metric that was not scored on every block chooses nothing.
    only_last = [record("a", 1.0, metric="leep", layer_index=2)]
    assert "leep" not in Scores([*records, *only_last]).layer_regrets


def made_up() -> tuple[list[dict], pd.DataFrame]:
    rng = np.random.default_rng(3)
    models, tasks = [f"m{i}" for i in range(12)], ["x", "y", "z"]
    truth = pd.DataFrame(rng.random((12, 3)), models, tasks)
    dims = {m: float(2**i) for i, m in enumerate(models)}
    records = []
    for task in tasks:
        for m in models:
            values = {"knn": truth.loc[m, task], "logme": np.log(dims[m]), "lda": rng.random()}
            for metric, value in values.items():
                records.append(record(m, value, metric=metric, task=task, dim=dims[m]))
    return [r for r in records if (r["metric"], r["model"]) != ("lda", "m0")], truth


def test_judged_by_the_truth() -> None:
    records, truth = made_up()
    rows = {
        row.metric: row for row in judgement.judge(Scores(records), truth, -truth, resamples=200)
    }
    assert rows["knn"].value == pytest.approx(1.0)
    assert rows["knn"].regret == 0
    assert rows["knn"].probe == pytest.approx(-1.0, abs=0.3)
    assert rows["knn"].against == "–"
    assert rows["logme"].width == pytest.approx(1.0)
    assert rows["logme"].against == "worse"
    by_hand = [weightedtau(np.arange(12), truth[t]).statistic for t in truth]
    assert rows["logme"].value == pytest.approx(np.mean(by_hand))
    assert rows["lda"].failures == 3
    assert rows["knn"].failures == 0
    assert rows["knn"].seconds == 0.5
    noisy = judgement.judge(Scores(records), truth, truth, noise=truth * 0 + 0.3, resamples=200)[0]
    assert noisy.low < 0.9  # noise of the accuracies widens the interval


def test_three_models_of_which_one_lacks_a_score() -> None:
    records, truth = made_up()
    three = ["m0", "m1", "m2"]
    few = [r for r in records if r["model"] in three]
    rows = {r.metric: r for r in judgement.judge(Scores(few), truth.loc[three], truth.loc[three])}
    assert rows["knn"].value == pytest.approx(1.0)
    # Two models are left of lda, by which nothing can be judged; the others are.
    assert np.isnan(rows["lda"].value)
    assert rows["lda"].failures == 3
    assert rows["lda"].against == "–"
    assert list(rows)[-1] == "lda"
    two = [r for r in records if r["model"] in three[:2]]
    with pytest.raises(InvalidInputError, match="more than 2 models; judging a metric takes 3"):
        judgement.judge(Scores(two), truth.loc[three[:2]], truth.loc[three[:2]])


def test_page_says_whether_a_metric_is_needed() -> None:
    records, truth = made_up()
    probed = {"metric": "accuracy", "split": "test"}
    records += [record(m, 0.5, task=t, **probed) for m in truth.index for t in truth]
    measured = [
        {**record(m, truth.loc[m, t], task=t, metric=metric, split=split), "head": head, "seed": 0}
        for m in truth.index for t in truth for head in ("finetune(lr=1)", "linear_probe")
        for metric, split in (("accuracy", "test"), ("val_accuracy", "val"))
    ]  # fmt: skip
    found = Evidence.of(Comparison(measured), records, resamples=100)
    page = found.markdown("a command")
    static = next(row for row in found.rows if row.metric == "static")
    by_hand = by_task(static_scores(truth), truth).mean()
    assert static.value == pytest.approx(by_hand)
    assert f"\n| static | {by_hand:.2f} | " in page
    title = "Does this benchmark need a metric at all?"
    (section,) = (part for part in page.split("\n## ") if part.startswith(title))
    assert "## What a difference of scores is worth" in page
    said = " ".join(section.split())
    assert f"static has weighted tau {by_hand:.2f} (" in said
    assert "Better: knn; not told apart:" in said
    for need in ("the best head", "linear probes"):
        assert f"| {need} | 12 | 3 | " in section
    assert re.search(r"\n\| knn \| 1\.00 \([^|]*\) \| [^|]* \| better \| ", section)


def test_choice_does_not_see_the_task_it_is_tried_on() -> None:
    truth = pd.DataFrame({t: [1.0, 2.0, 3.0, 4.0] for t in "xyz"}, list("abcd"))
    one = truth.assign(x=-truth["x"])  # right on y and z only
    two = truth.assign(y=[1.0, 2.0, 4.0, 3.0], z=[1.0, 2.0, 4.0, 3.0])  # right on x, nearly else
    found = judgement.cross_validated({"one": one, "two": two}, truth, "kendall").set_index("task")
    assert found["chosen"].to_dict() == {"x": "one", "y": "two", "z": "two"}
    assert found.loc["x", "value"] == -1.0
    assert found.loc["y", "value"] == pytest.approx(2 / 3)
    with pytest.raises(InvalidInputError, match="two tasks"):
        judgement.cross_validated({"one": one[["x"]]}, truth[["x"]])


def test_agreement_by_task_is_scipys() -> None:
    rng = np.random.default_rng(0)
    scores, truth = (pd.DataFrame(rng.random((9, 2)), columns=["x", "y"]) for _ in range(2))
    scores.loc[0, "x"] = np.nan
    for measure, fn in (("kendall", kendalltau), ("weighted_kendall", weightedtau)):
        found = by_task(scores, truth, measure)
        assert found["x"] == pytest.approx(fn(scores["x"][1:], truth["x"][1:]).statistic)
        assert found["y"] == pytest.approx(fn(scores["y"], truth["y"]).statistic)


def test_aggregated_ranks() -> None:
    a = pd.DataFrame({"x": [1.0, 2.0, 3.0]}, list("abc"))
    found = judgement.aggregations({"p": a, "q": -a, "r": a}, ["p", "q", "r", "missing"])
    assert set(found) == {"p + q", "p + r", "q + r", "p + q + r"}
    assert found["p + q"]["x"].tolist() == [2.0, 2.0, 2.0]
    assert found["p + q + r"]["x"].tolist() == pytest.approx([5 / 3, 2.0, 7 / 3])


def test_accuracies_are_means_over_seeds_with_their_errors() -> None:
    base = {"model": "a", "task": "pets", "metric": "accuracy", "n": 100, "head": "finetune(lr=1)"}
    table = Comparison([{**base, "seed": s, "value": v} for s, v in enumerate((0.7, 0.9))])
    means, errors = ground_truth.reached(table, "finetune")
    assert means.loc["a", "pets"] == pytest.approx(0.8)
    assert errors.loc["a", "pets"] ** 2 == pytest.approx(0.8 * 0.2 / 100 + 0.02 / 2)
    with pytest.raises(InvalidInputError, match="no accuracy of lpft"):
        ground_truth.reached(table, "lpft")


def test_short_names_stay_apart() -> None:
    assert short_name("torchvision:squeezenet1_1(std=0.1)=models/squeeze.safetensors") == "squeeze"
    assert short_name("sklearn:digits") == "sklearn:digits"
    with pytest.raises(InvalidInputError, match="same name"):
        shortened([{"model": f"net={f}/a.pt", "task": "x"} for f in "pq"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*judging a metric by a ground truth takes")
def test_built_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(scored_pairs, "_METRICS", ("knn", "logme", "lfc", "energy", "lda"))
    heads = ("linear_probe(C_grid=(0.1,))", "finetune(lr=0.01, epochs=1)")
    truth, scores, page = tmp_path / "t.jsonl", tmp_path / "s.jsonl", tmp_path / "page.md"
    cache = {"cache_dir": tmp_path / "cache", "progress": False}
    for task in (TASK, "zoo:glyphs"):
        ground_truth.run(MODELS, task, truth, heads=heads, seeds=1, **cache)
    command = ["benchmark", "build", str(truth), "--scores", str(scores), "--out", str(page)]
    assert main([*command, "--resamples", "20", "--quiet"]) == 0
    printed, written = capsys.readouterr().out, page.read_text("utf-8")
    for name in ("knn", "etran", "zoo:vit-mnist", "less permuted", "left out"):
        assert name in printed
        assert name in written
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(scores.read_text("utf-8").splitlines()) == len(
        {json.dumps(json.loads(line)) for line in scores.read_text("utf-8").splitlines()}
    )


def test_metrics_that_a_pair_lacks_are_added(tmp_path: Path) -> None:
    out = tmp_path / "s.jsonl"
    pair = (MODELS[0], "sklearn:digits?examples=40")
    options = {"sizes": (), "repairs": (), "blocks": 1, "progress": False}
    first = scored_pairs.measure([pair], out, metrics=("knn", "leep"), **options)
    again = scored_pairs.measure([pair], out, metrics=("knn", "leep", "lfc"), **options)
    assert [r["metric"] for r in first] == ["knn", "leep", "accuracy"]
    assert [r["metric"] for r in again] == ["knn", "leep", "accuracy", "lfc"]
    assert again[0] == first[0]
    before = out.read_bytes()
    # One that reads the source head is not tried again: a network may have none.
    scored_pairs.measure([pair], out, metrics=("knn", "lfc", "nce"), **options)
    assert out.read_bytes() == before


def test_what_was_trained_longer_is_kept_beside_the_truth() -> None:
    truth = {(r["model"], r["task"], r["head"], r["metric"]): r for r in kept_truth.kept_truth()}
    longer = kept_truth.kept_truth(name="longer")
    assert {r["head"] for r in longer} == {"linear_probe", "lpft", "finetune"}
    for r in longer:
        same = truth[r["model"], r["task"], r["head"], r["metric"]]
        assert r["n"] == same["n"]
        if r["head"] == "linear_probe":  # which has no epochs; ties of strengths may fall otherwise
            assert r["value"] == pytest.approx(same["value"], abs=0.02)


def test_where_all_were_trained_longer_that_is_the_truth() -> None:
    """Else the epochs of the protocol are; heads without epochs are what they were."""
    long, short, truth = (kept_truth.kept_truth(name=name) for name in ("longer", "truth", ""))
    models = {r["model"] for r in short}
    [task] = {
        task
        for task in {r["task"] for r in long}
        if {r["model"] for r in long if r["task"] == task} == models
    }
    for r in truth:
        assert r in (long if r["task"] == task and r["head"] in ("lpft", "finetune") else short)
    for head in ("lpft", "finetune"):
        seeds = {(r["model"], r["seed"]) for r in truth if (r["task"], r["head"]) == (task, head)}
        assert seeds == {(model, seed) for model in models for seed in (0, 1)}
    assert len(truth) == len(short)


def test_what_probes_are_tested_on_is_no_size_of_a_score() -> None:
    scores = kept_truth.kept_scores()
    trained = {(r["task"], r["n"]) for r in scores if r["split"] == "train"}
    assert {r["n"] for r in scores} > {n for _, n in trained}
    cases = truth_cases("here", kept_truth.kept_truth(), scores)
    assert {case.n for case in cases} == {n for _, n in trained}
