"""Shortlists of tables: by the evidence of the package, by evidence of one's own, with a prior."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import transfer_metrics as tm
from tests.kept_truth import kept_scores, kept_truth
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.evidence.judgement import Scores
from transfer_metrics.evidence.learning import cases_of, learn
from transfer_metrics.evidence.own_evidence import best_reached, learnt, truth_cases
from transfer_metrics.results.chances import Trust
from transfer_metrics.results.error_model import ErrorModel, MetricTrust, bundled
from transfer_metrics.results.shortlist import with_chances
from transfer_metrics.results.standing import earlier_accuracies, priors, standing_of

IMAGES = "t: classification of images, train 1000 (10 classes)"
MODELS = [f"net{i}" for i in range(8)]


def table(metric="knn", values=None, **fields):
    values = np.linspace(0.9, 0.2, len(MODELS)) if values is None else values
    base = {
        "task": "t", "layer": "fc", "metric": metric, "n": 1000, "num_classes": 10, "dim": 128,
        "split": "train", "task_summary": IMAGES,
    }  # fmt: skip
    return tm.ScoreTable(
        {**base, **fields, "model": m, "value": float(v)}
        for m, v in zip(MODELS, values, strict=True)
    )


def model(mean=1.0, error=0.0, **fields):
    return ErrorModel({"knn": MetricTrust(mean, error)}, 0.0, Trust(0.3, 0.6), **fields)


def test_a_shortlist_is_a_sequence_of_names_with_their_chances():
    found = table().shortlist(0.9)
    assert list(found) == [m for m in table().ranking()["model"] if m in found]
    assert found.probability == pytest.approx(sum(found.chances))
    assert found.probability >= 0.9
    assert found[0] == "net0"
    assert len(found) == len(found.models) < found.candidates == 8
    assert str(found).startswith("Shortlist, 90 %: net0")
    assert len(table().shortlist(0.5)) <= len(found) <= len(table().shortlist(0.99))
    ranking = table().ranking().set_index("model")
    assert ranking["p_best"].sum() == pytest.approx(1.0)
    assert ranking["p_score"].isna().all()
    assert found.chances == pytest.approx(tuple(ranking.loc[list(found), "p_best"]))


def test_it_is_in_the_printed_table():
    text = table().format()
    assert "P(best)" in text
    assert str(table().shortlist()) in text
    assert "Shortlist, 50 %" in table().format(confidence=0.5)
    one = tm.ScoreTable(table().records[:1]).format()
    assert "Shortlist" not in one
    assert "P(best)" not in one


def test_the_score_can_be_sure_and_the_accuracy_is_not():
    sampled = tm.ScoreTable({**r, "stderr": 1e-6} for r in table().records)
    ranking = sampled.ranking()
    assert ranking["p_score"][0] == 1.0
    assert ranking["p_best"][0] < 0.9
    assert sampled.shortlist().is_sampled
    assert not table().shortlist().is_sampled


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metric": "made_up"}, "the metric made_up"),
        ({"metric": "knn(k=1)"}, "the metric knn(k=1)"),
        ({"n": 10**7}, "10000000 examples (100 to 1000)"),
        ({"classes": 5000}, "5000 classes (2 to 100)"),
        ({"dims": {64, 10**5}}, "64 to 100000 features (64 to 512)"),
        ({"kind": "regression of images"}, "regression of images (only classification of images)"),
    ],
)
def test_what_lies_outside_is_said_and_trusted_less(asked, said):
    errors = ErrorModel(
        {"knn": MetricTrust(1.2, 0.1)}, 0.2, Trust(0.3, 0.6), {"knn": Trust(0.7, 0.5)},
        ranges={"n": (100, 1000), "classes": (2, 100), "dim": (64, 512)},
        kinds=("classification of images",),
    )  # fmt: skip
    inside = {"metric": "knn", "n": 1000, "classes": 10, "dims": {128}, "kind": errors.kinds[0]}
    trust, outside = errors.trust(**inside)
    assert outside == []
    assert trust.mean == 1.2
    found, told = errors.trust(**{**inside, **asked})
    assert told == [said]
    assert found == (Trust(0.3, 0.6) if asked.get("metric") == "made_up" else Trust(0.7, 0.5))


def test_a_shortlist_says_what_lies_outside():
    inside = table().shortlist()
    assert inside.outside == ()
    found = table(task_summary=IMAGES.replace("images", "texts")).shortlist()
    assert "classification of texts" in found.outside[0]
    assert found.outside[0] in str(found)
    assert len(found) > len(inside)
    layers = tm.ScoreTable(
        {**r, "layer": layer} for r in table().records for layer in ("fc", "conv")
    ).shortlist(view="all")
    assert "layers as candidates" in layers.outside
    assert layers[0] in ("net0 at fc", "net0 at conv")


def test_evidence_of_ones_own_replaces_ours(tmp_path):
    good, bad = model(2.5), model(0.0)
    assert (
        len(table().shortlist(0.9, evidence=good)) < len(table().shortlist(0.9, evidence=bad)) >= 7
    )
    good.save(tmp_path / "good.json")
    told = table().informed(evidence=str(tmp_path / "good.json"))
    assert told.shortlist().models == table().shortlist(evidence=good).models
    assert "evidence that was given" in str(told.shortlist())
    # It is kept by files.
    for suffix in ("jsonl", "csv"):
        told.save(tmp_path / f"t.{suffix}")
        again = tm.ScoreTable.load(tmp_path / f"t.{suffix}")
        assert again.shortlist().chances == pytest.approx(told.shortlist().chances)
    with pytest.warns(TransferMetricsWarning, match="outside of the evidence.*1000 examples"):
        table().informed(evidence=model(ranges={"n": (10, 100)}))


def test_a_prior_is_put_together_with_the_scores(tmp_path):
    values = np.array([0.9, 0.89, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    before = pd.DataFrame(
        {"a": [50, 90, 40, 30, 20, 10, 5, 1], "b": [51, 95, 60, 30, 10, 9, 8, 7]}, MODELS
    )
    plain, told = table(values=values), table(values=values).informed(prior=before)
    assert plain.best() == "net0"
    assert told.best() == "net1" == told.shortlist()[0]
    assert told.shortlist().has_prior
    assert "earlier tasks" in str(told.shortlist())
    assert told.ranking()["rank"].tolist() == list(range(1, 9))
    before.to_csv(tmp_path / "prior.csv")
    read = table(values=values).shortlist(prior=tmp_path / "prior.csv")
    assert read.chances == told.shortlist().chances
    told.save(tmp_path / "t.jsonl")
    assert tm.ScoreTable.load(tmp_path / "t.jsonl").best() == "net1"


def test_a_prior_that_lacks_models_says_so_and_goes_by_their_scores():
    with pytest.warns(TransferMetricsWarning, match="lacks net7"):
        told = table().informed(prior=dict(zip(MODELS[:7], range(7), strict=True)))
    assert told.ranking()["p_best"].sum() == pytest.approx(1.0)
    spelt = {**dict(zip(MODELS[:7], range(7), strict=True)), "net-7": 7, "other": 3}
    with pytest.warns(
        TransferMetricsWarning, match=r"lacks net7; .* count; did you mean 'net-7'\?"
    ):
        table().informed(prior=spelt)
    with pytest.raises(InvalidInputError, match=r"none of the models net0.*rows are x"):
        table().informed(prior={"x": 1.0})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot read"),
        ("model,a\n", "no accuracies"),
        ("model,a\nnet0,1\nnet0,2\n", "'net0' is there twice"),
        ("model,a,a\nnet0,1,2\nnet1,1,2\n", "'a' is there twice"),
        ("model,a\nnet0,good\nnet1,1\n", "is 'good', which is no number"),
        ("model,a,b\nnet0,1,\nnet1,1,nan\n", "no accuracy of the task b"),
    ],
)
def test_priors_that_are_wrong_are_refused(tmp_path, text, said):
    path = tmp_path / "prior.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=said) as caught:
        table().shortlist(prior=path)
    assert "prior.csv" in str(caught.value)


def test_other_priors_that_are_wrong_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot read"):
        earlier_accuracies(tmp_path / "none.csv")
    with pytest.raises(InvalidInputError, match="type int"):
        earlier_accuracies(3)
    with pytest.raises(InvalidInputError, match="one file is taken, and not several"):
        earlier_accuracies(f"{tmp_path}/a.csv,{tmp_path}/b.csv")
    with pytest.raises(InvalidInputError, match="no accuracies"):
        earlier_accuracies({})


def test_standings_are_trusted_as_far_as_the_tasks_agree():
    rng = np.random.default_rng(0)
    quality = rng.standard_normal(40)
    names = [f"m{i}" for i in range(40)]
    agreeing = pd.DataFrame({t: quality + 0.1 * rng.standard_normal(40) for t in "abcdef"}, names)
    apart = pd.DataFrame(rng.standard_normal((40, 6)), names, list("abcdef"))
    errors = bundled()

    def trust(accuracies):
        return standing_of(list(priors(accuracies, names, errors).values())).trust

    one = trust(agreeing[["a"]])
    assert one.mean == pytest.approx(errors.prior[0])
    assert trust(agreeing).mean > one.mean + 0.3
    far = trust(apart)
    assert far.mean < one.mean
    assert abs(far.mean) < 0.35
    assert far.error < one.error


def test_how_much_models_alike_have_in_common_is_learnt_from_the_tasks():
    rng = np.random.default_rng(0)
    quality, kind = rng.standard_normal(60), rng.integers(6, size=60)
    names = [f"m{i}" for i in range(60)]

    def shared(of_kind, tasks=8):
        own = {
            f"t{t}": quality + of_kind * rng.standard_normal(6)[kind] + rng.standard_normal(60)
            for t in range(tasks)
        }
        kept = priors(pd.DataFrame(own, names), names, bundled())
        assert {len(k) for k in kept.values()} == {4 + tasks}
        return standing_of(list(kept.values())).shared

    assert shared(3.0) > 0.8
    assert shared(0.0) < 0.4
    assert shared(3.0, tasks=2) == 0.0
    # Tasks of one order leave nothing, from which nothing is learnt.
    order = pd.DataFrame({t: quality**p for t, p in (("a", 1), ("b", 3), ("c", 5))}, names)
    assert standing_of(list(priors(order, names, bundled()).values())).shared == 0.0


def test_a_model_that_was_not_tried_everywhere_counts_by_its_mean_there():
    tried = pd.DataFrame(np.random.default_rng(0).random((8, 4)), MODELS, ["a", "b", "c", "d"])
    tried.loc["net3", ["a", "c"]] = math.nan
    kept = priors(tried, MODELS, bundled())
    ranks = tried.rank()
    own = [norm.ppf((ranks.loc["net3", t] - 0.375) / 8.25) for t in ("b", "d")]
    assert kept["net3"][0] == pytest.approx(np.mean(own))
    assert kept["net3"][4:] == pytest.approx([np.mean(own), own[0], np.mean(own), own[1]], abs=1e-4)


def test_what_models_have_in_common_is_kept_with_the_scores(tmp_path):
    told = table().informed(prior=pd.DataFrame(
        np.random.default_rng(0).random((8, 4)), MODELS, ["a", "b", "c", "d"]
    ))  # fmt: skip
    told.save(tmp_path / "scores.jsonl")
    read = tm.ScoreTable.load(tmp_path / "scores.jsonl")
    pd.testing.assert_frame_equal(read.ranking(), told.ranking())
    # Scores that were kept with a standing alone are read, and models are not alike then.
    alone = tm.ScoreTable([replace(r, prior=r.prior[:3]) for r in told])
    assert not alone.ranking()["p_best"].equals(told.ranking()["p_best"])
    assert standing_of([r.prior for r in alone]).shared == 0.0


def made_up(rng, metrics, tasks, models, between=0.25):
    """Tables of scores whose Fisher's z is known."""
    accuracies = pd.DataFrame(rng.standard_normal((models, tasks)))
    scores = {}
    for metric, mean in metrics.items():
        rho = np.tanh(mean + between * rng.standard_normal(tasks))
        noise = rng.standard_normal((models, tasks))
        scores[metric] = rho * accuracies + np.sqrt(1 - rho**2) * noise
    return scores, accuracies


def test_what_is_learnt_is_what_was_put_in():
    truth = {"good": 1.2, "fair": 0.6, "none": 0.0}
    scores, accuracies = made_up(np.random.default_rng(1), truth, 40, 60)
    found = learn(cases_of("p", scores, accuracies))
    for metric, mean in truth.items():
        assert found.metrics[metric].mean == pytest.approx(mean, abs=0.13)
        assert 0.02 < found.metrics[metric].error < 0.12
    assert found.tasks_apart == pytest.approx(0.25, abs=0.07)
    assert found.others.error > 0.3


def test_examples_and_populations_are_told_apart():
    rng = np.random.default_rng(2)
    cases = []
    for n, mean in ((100, 0.5), (1000, 0.8)):
        scores, accuracies = made_up(rng, {"knn": mean, "lda": mean - 0.2}, 15, 80, 0.1)
        cases += cases_of("p", scores, accuracies, n=n)
    found = learn(cases)
    for own in found.metrics.values():
        assert own.by_n == pytest.approx(0.3, abs=0.1)
    assert found.trust("knn", n=100)[0].mean == pytest.approx(0.5, abs=0.15)
    for name, mean in (("q", 0.0), ("r", 1.4), ("s", 1.0)):
        cases += cases_of(name, *made_up(rng, {"knn": mean, "lda": mean}, 10, 60, 0.1))
    wide = learn(cases, inside="p")
    assert wide.metrics == found.metrics
    assert wide.elsewhere["knn"].error > 0.4 > found.trust("knn")[0].error
    assert wide.others.error >= wide.elsewhere["knn"].error


def test_models_of_errors_are_files(tmp_path):
    found = bundled()
    found.save(tmp_path / "errors.json")
    assert ErrorModel.load(tmp_path / "errors.json") == found
    content = json.loads((tmp_path / "errors.json").read_text())
    for broken in (
        {**content, "format": 2},
        {**content, "tasks_apart": -1.0},
        {**content, "others": ["x", 0.1]},
        {**content, "others": [0.1, -0.1]},
        {**content, "metrics": [1]},
        {**content, "metrics": {"knn": {"mean": 1e308, "error": 0.1}}},
        {**content, "metrics": {"knn": {"mean": 1.0, "error": 1e308}}},
        {**content, "elsewhere": {"knn": [-1e308, 0.1]}},
        {**content, "others": [0.1, 1e308]},
        {**content, "prior": [1e9, 0.1]},
        {**content, "by_classes": -1e308},
        {**content, "ranges": {"n": [5, 1]}},
        {**content, "ranges": {"n": [-1, 1]}},
        {**content, "ranges": {"n": [1, 1e308]}},
        {"format": 1},
        [],
    ):
        (tmp_path / "bad.json").write_text(json.dumps(broken))
        with pytest.raises(InvalidInputError, match="no model of errors"):
            ErrorModel.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("model,a")
    with pytest.raises(InvalidInputError, match="it is no JSON"):
        ErrorModel.load(tmp_path / "bad.json")


def files(tmp_path, models=8, tasks=4):
    """A ground truth of two heads, and scores of its pairs, as `benchmark` writes them."""
    rng = np.random.default_rng(3)
    truth, scores = [], []
    for t in range(tasks):
        for m in range(models):
            pair = {"model": f"net{m}", "task": f"t{t}"}
            for head, bonus in (("linear_probe", 0.0), ("finetune", 0.1)):
                value = 0.05 * m + bonus + 0.01 * rng.standard_normal()
                truth.append({
                    **pair, "head": head, "seed": 0, "metric": "accuracy", "split": "test",
                    "value": value, "n": 100, "num_classes": 10, "layer": None,
                    "task_summary": f"t{t}: classification of texts, train 100 (10 classes)",
                })  # fmt: skip
            for metric, noise in (("knn", 0.01), ("lda", 0.3)):
                value = 0.05 * m + noise * rng.standard_normal()
                scores.append({
                    **pair, "split": "train", "layer": "fc", "layer_index": 3, "dim": 64, "n": 500,
                    "metric": metric, "options": None, "value": value,
                    "higher_is_better": True, "repair": None, "error": None, "seconds": 0.1,
                })  # fmt: skip
    for name, records in (("truth", truth), ("scores", scores)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return f"{tmp_path}/truth.jsonl", f"{tmp_path}/scores.jsonl", truth


def test_evidence_is_learnt_from_files(tmp_path):
    truth, scores, records = files(tmp_path)
    found = learnt(f"{truth},{scores}")
    assert found.metrics["knn"].mean > found.metrics["lda"].mean + 0.3
    assert found.kinds == ("classification of texts",)
    assert found.ranges["n"] == (500, 500)
    assert found.ranges["classes"] == (10, 10)
    assert "8 models reached on 4 tasks" in found.source
    assert learnt([truth, scores]) == found
    assert learnt(found) is found
    assert best_reached(records).shape == (8, 4)
    asked = []

    def scored(pairs):
        asked.extend(pairs)
        return [json.loads(line) for line in Path(scores).read_text().splitlines()]

    assert learnt(truth, scored).metrics == found.metrics
    assert len(asked) == 32
    renamed = Path(scores).read_text().replace('"net3"', '"net-3"')
    (tmp_path / "renamed.jsonl").write_text(renamed)
    spelt = r"learnt from 1 model with accuracies and no .*: net3; did you mean 'net-3'\?"
    with pytest.warns(TransferMetricsWarning, match=spelt):
        learnt([truth, tmp_path / "renamed.jsonl"])
    for path, said in ((truth, "has accuracies and no scores"), (scores, "has scores and no acc")):
        with pytest.raises(InvalidInputError, match=said):
            learnt(path)
    (tmp_path / "one.csv").write_text("model,a\nnet0,1\n")
    with pytest.raises(
        InvalidInputError, match=r"one.csv \(line 1 is no JSON\); give files of JSON"
    ):
        learnt(f"{tmp_path}/one.csv")
    for nothing in ([], {}, "", " , ", ()):
        with pytest.raises(
            InvalidInputError, match=r"^the evidence (names no file|is of type dict)"
        ):
            table().shortlist(evidence=nothing)
    for wrong in (3, True, [truth, 3], {"a": 1}, b"a"):
        with pytest.raises(
            InvalidInputError, match=r"^the evidence is of type .*give an ErrorModel"
        ):
            table().shortlist(evidence=wrong)
    (tmp_path / "odd.jsonl").write_text("3\n")
    for path in (tmp_path / "odd.jsonl", tmp_path / "none.jsonl"):
        with pytest.raises(InvalidInputError, match="cannot learn from"):
            learnt(path)


def test_the_head_is_chosen_on_validation_data():
    base = {"model": "m", "task": "t", "seed": 0, "n": 100}
    rows = [
        {**base, "head": head, "metric": metric, "split": split, "value": value}
        for head, metric, split, value in (
            ("a", "val_accuracy", "val", 0.9),
            ("a", "accuracy", "test", 0.5),
            ("b", "val_accuracy", "val", 0.8),
            ("b", "accuracy", "test", 0.7),
        )
    ]
    assert best_reached(rows).loc["m", "t"] == 0.5
    assert best_reached([r for r in rows if r["split"] == "test"]).loc["m", "t"] == 0.7
    # A second seed of the one that draws at random; the other stands as it is.
    again = [
        {**rows[2], "seed": 1, "value": 0.95},
        {**rows[3], "seed": 1, "value": 0.8},
    ]
    assert best_reached(rows + again).loc["m", "t"] == pytest.approx((0.5 + 0.8) / 2)


def test_chances_are_in_the_records_for_programs():
    found = with_chances(table())
    assert sum(r.p_best for r in found) == pytest.approx(1.0)
    assert [r.model for r in found if r.shortlisted] == list(table().shortlist())


@pytest.mark.filterwarnings("default")
def test_rank_prints_and_repeats_it(tmp_path, capsys):
    truth, scores, _ = files(tmp_path)
    names = ["zoo:cnn-cifar10", "zoo:vit-mnist", "zoo:resnet-usps"]
    (tmp_path / "prior.csv").write_text(
        "model,old\n" + "".join(f"{n},{i}\n" for i, n in enumerate(names))
    )
    out = tmp_path / "out"
    argv = [
        "rank", "--models", ",".join(names), "--task", "sklearn:digits", "--metrics", "knn",
        "--layers", "last", "--examples", "200", "--no-plots", "--quiet", "--out", str(out),
    ]  # fmt: skip
    assert main([*argv, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert sum(r["p_best"] for r in plain) == pytest.approx(1.0)
    assert any(r["shortlisted"] for r in plain)
    more = [
        "--confidence",
        "0.6",
        "--prior",
        str(tmp_path / "prior.csv"),
        "--evidence",
        f"{truth},{scores}",
    ]
    assert main([*argv, *more]) == 0
    told, aside = capsys.readouterr()
    assert "outside of the evidence" in aside
    assert "Shortlist, 60 %" in told
    assert "earlier tasks" in told
    assert main(["rank", "--config", str(out / "run.yaml"), "--quiet"]) == 0
    assert capsys.readouterr().out == told
    assert tm.ScoreTable.load(out / "scores.jsonl").shortlist(0.6).has_prior
    assert main([*argv, "--confidence", "1"]) == 2


def test_trust_in_a_correlation():
    assert Trust(math.atanh(0.25), 0.1).correlation == 0.25


RISING = {m: float(i) for i, m in enumerate(MODELS)}


def test_another_prior_takes_the_place_of_the_first():
    few = {"net0": 1.0, "net1": 2.0, "net2": 5.0}
    told = "lacks net3, net4, net5 and 2 more"
    with pytest.warns(TransferMetricsWarning, match=told):
        once = table().informed(prior=few)
    with pytest.warns(TransferMetricsWarning, match=told):
        twice = table().informed(prior=RISING).informed(prior=few)
    assert once.records == twice.records
    assert [r.prior is None for r in twice] == [False] * 3 + [True] * 5


def test_chances_that_were_told_are_told_anew():
    told = tm.ScoreTable(with_chances(table()))
    again = told.informed(prior=RISING)
    shown = again.ranking().set_index("model")["p_best"]
    assert {r.model: r.p_best for r in again} == pytest.approx(shown.to_dict())
    assert shown["net0"] < told.ranking().set_index("model")["p_best"]["net0"]


@pytest.mark.parametrize("metric", ["transrate", "pactran_dirichlet", "knn", "h_score"])
def test_outside_of_the_evidence_nothing_is_surer(metric):
    inside, none = bundled().trust(metric, n=2000, classes=10)
    outside, told = bundled().trust(metric, n=10**6, classes=10)
    assert told
    assert not none
    assert abs(outside.mean) <= abs(inside.mean)
    assert outside.error >= inside.error


@pytest.mark.parametrize(
    ("prior", "told"),
    [
        ({"same": [70.0] * 8}, "same of the prior is the same for all its models"),
        ({"t": [1.0, 5, 3, 4, 2, 6, 7, 8]}, "t of the prior is the task that is ranked"),
        ({"lone": [math.nan] * 7 + [50.0]}, "lone of the prior is the same for all its models"),
    ],
)
def test_a_prior_that_says_nothing_changes_nothing(prior, told):
    with pytest.warns(TransferMetricsWarning) as seen:
        found = table().informed(prior=pd.DataFrame(prior, index=MODELS).dropna())
    assert any(told in str(warning.message) for warning in seen)
    assert found.ranking().equals(table().ranking())
    assert found.shortlist() == table().shortlist()


def test_a_column_that_is_there_twice_counts_once():
    one = pd.DataFrame({"x": [1.0, 5, 3, 4, 2, 6, 7, 9]}, index=MODELS)
    with pytest.warns(TransferMetricsWarning, match="y and z of the prior are there"):
        found = table().informed(prior=one.assign(y=one["x"], z=one["x"] / 100))
    assert found.records == table().informed(prior=one).records


def test_per_cent_beside_fractions_is_told():
    mixed = dict(zip(MODELS, (0.6, 61, 62, 63, 0.64, 65, 66, 67), strict=True))
    with pytest.warns(TransferMetricsWarning, match="all as fractions"):
        table().informed(prior=mixed)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_a_failure_of_its_model(bad, tmp_path):
    found = table(values=[0.5, bad, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1])
    order = [f"net{i}" for i in (2, 3, 0, 4, 5, 6, 7, 1)]
    assert found.ranking()["model"].tolist() == order
    assert found.failures[0]["error"] == "the value is not finite"
    assert "net1" not in found.shortlist(0.99)
    for name in ("t.jsonl", "t.csv"):
        found.save(tmp_path / name)
        assert tm.ScoreTable.load(tmp_path / name).ranking()["model"].tolist() == order


@pytest.mark.parametrize("call", ["ranking", "shortlist"])
def test_a_view_that_is_none_is_refused(call):
    with pytest.raises(InvalidInputError, match="view must be one of"):
        getattr(table(), call)(view="beste")


def test_a_confidence_may_be_any_number():
    assert list(table().shortlist(np.float32(0.9))) == list(table().shortlist(0.9))


def test_a_saved_table_still_says_what_lies_outside(tmp_path):
    errors = model(mean=0.5, ranges={"n": (10, 100)}, kinds=("classification of texts",))
    with pytest.warns(TransferMetricsWarning, match="less sure"):
        told = table().informed(evidence=errors)
    told.save(tmp_path / "scores.jsonl")
    found = tm.ScoreTable.load(tmp_path / "scores.jsonl").shortlist(0.9)
    assert found.outside == told.shortlist(0.9).outside
    assert "1000 examples (10 to 100)" in found.basis
    assert "classification of images" in found.basis


def test_sums_with_a_prior_do_not_depend_on_the_order():
    prior = dict(zip(MODELS, np.linspace(0.2, 0.9, 8), strict=True))
    plain, informed = table(), table().informed(prior=prior)
    one, other = plain + informed, informed + plain
    assert one.shortlist(0.9) == other.shortlist(0.9) == informed.shortlist(0.9)
    assert [r["prior"] for r in one.records] == [r["prior"] for r in informed.records]
    others = table().informed(
        prior=pd.DataFrame({"a": prior, "b": dict.fromkeys(MODELS, 0.5) | {"net3": 0.7}})
    )
    halves = tm.ScoreTable(informed.records[:4]), tm.ScoreTable(others.records[4:])
    first, second = (halves[0] + halves[1]).ranking(), (halves[1] + halves[0]).ranking()
    pd.testing.assert_frame_equal(first, second)


def test_it_says_where_the_likeliest_is_not_the_first():
    assert table().shortlist(0.9).first == "net0"
    assert "rank 1" not in table().shortlist(0.9).basis
    # Of net1 only the score is known, so it can surprise.
    earlier = [0.9, 0.6, 0.7, 0.3, 0.4, 0.1, 0.5]
    prior = dict(zip([m for m in MODELS if m != "net1"], earlier, strict=True))
    errors = model(mean=1.0, prior=(1.5, 0.0), prior_tasks_apart=0.0)
    with pytest.warns(TransferMetricsWarning, match="the prior lacks net1"):
        told = table(values=[-0.4, 0.5, -0.2, 0.2, 0.7, 0.4, 0.3, -0.2]).informed(errors, prior)
    found, ranking = told.shortlist(0.9), told.ranking()
    assert (found.first, found[0]) == (ranking["model"][0], "net1")
    assert ranking.loc[ranking["p_best"].idxmax(), "model"] == "net1" != found.first
    assert f"{found.first} has rank 1, by what is expected; net1 is likelier" in found.basis


@pytest.mark.filterwarnings("ignore:the prior lacks")
def test_it_does_not_say_that_less_is_known_of_the_model_that_has_a_row():
    base = {"task": "t", "layer": "fc", "metric": "knn", "n": 1000, "num_classes": 10, "dim": 128}
    scores = {"a": (0.53, 0.004), "b": (0.26, 0.025), "c": (0.38, 0.019), "d": (0.58, 0.003)}
    rows = [{**base, "model": m, "value": v, "stderr": e} for m, (v, e) in scores.items()]
    prior = pd.DataFrame({"x": [0.63, 0.77, 0.55], "y": [0.67, 0.85, 0.75]}, list("bcd"))
    found = tm.ScoreTable(rows).informed(prior=prior).shortlist(0.9)
    assert (found.first, found[0]) == ("a", "d")
    assert "d is likelier to be the best, since what is known of the two is not equal" in (
        found.basis
    )


@pytest.mark.slow
def test_shortlists_of_races_hold_the_best_as_the_page_says():
    truth, scores = kept_truth(), kept_scores()
    accuracies, dims = best_reached(truth), Scores(scores).widths
    few, whole = (Scores(scores).last(size)["knn"] for size in (100, None))
    classes = {r["task"]: r["num_classes"] for r in truth}
    scored = [r for r in scores if r["split"] == "train"]
    sizes = {task: max(r["n"] for r in scored if r["task"] == task) for task in accuracies}
    found = {left: [] for left in (0, 1, 2, 3, 5)}
    for task in accuracies:
        others = [[r for r in of if r["task"] != task] for of in (truth, scores)]
        earlier = {"others": accuracies.drop(columns=task)}
        errors = learn(truth_cases("others", *others), earlier=earlier, dims=list(dims.values()))
        for left, held in found.items():
            finalists = few[task].nlargest(left).index
            records = [
                {
                    "model": m, "task": task, "layer": "last", "metric": "knn", "dim": dims[m],
                    "num_classes": classes[task], "split": "train",
                    **(
                        {"value": whole.loc[m, task], "n": sizes[task],
                         "earlier": [100, few.loc[m, task]]}
                        if m in finalists
                        else {"value": few.loc[m, task], "n": 100, "round": 1 if left else None}
                    ),
                }
                for m in accuracies.index
            ]  # fmt: skip
            chosen = list(tm.ScoreTable(records, "last").informed(errors, None).shortlist(0.9))
            held.append((accuracies[task].idxmax() in chosen, len(chosen) / len(accuracies)))
    means = {left: np.mean(held, axis=0) for left, held in found.items()}
    assert {left: round(100 * share) for left, (_, share) in means.items()} == {
        0: 47, 1: 47, 2: 46, 3: 46, 5: 41,
    }  # fmt: skip
    assert all(held == 1.0 for held, _ in means.values())
