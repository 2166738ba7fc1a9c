"""Accuracies from wherever they are known, and the tables that are held against them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.test_agreement import agreement
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, UnknownNameError
from transfer_metrics.results.agreement import static_scores, z_scores
from transfer_metrics.results.agreement_tasks import agreement_by_task
from transfer_metrics.results.known_accuracies import known_accuracies
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.table_agreement import fidelity

NAMES = list("abcdefg")
RNG = np.random.default_rng(0)
KNOWN = pd.DataFrame(RNG.random((7, 3)).round(3), NAMES, ["pets", "cars", "dogs"])
SCORES = {task: dict(zip(NAMES, RNG.random(7), strict=True)) for task in KNOWN}


def table_of(tasks: list[str], metric: str = "knn", better: bool = True) -> ScoreTable:
    return ScoreTable(
        {
            "model": model, "task": task, "layer": "fc", "metric": metric, "value": value,
            "higher_is_better": better, "n": 10,
        }
        for task in tasks
        for model, value in SCORES[task].items()
    )  # fmt: skip


def written(folder: Path, text: str, name: str = "known.csv") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def test_a_file_is_the_table_that_was_written(tmp_path: Path) -> None:
    KNOWN.to_csv(tmp_path / "plain.csv")
    pd.testing.assert_frame_equal(known_accuracies(tmp_path / "plain.csv"), KNOWN)
    KNOWN.to_csv(tmp_path / "semi.csv", sep=";", decimal=",", index_label="model")
    pd.testing.assert_frame_equal(known_accuracies(tmp_path / "semi.csv"), KNOWN)
    numbered = pd.DataFrame(KNOWN.to_numpy(), NAMES)
    numbered.to_csv(tmp_path / "numbered.csv")
    assert list(known_accuracies(tmp_path / "numbered.csv")) == ["0", "1", "2"]
    gaps = written(tmp_path, "model,pets,cars\na,0.5,\nb,NA,81\n")
    found = known_accuracies(str(gaps))
    assert found["pets"].tolist()[0] == 0.5
    assert found.isna().to_numpy().tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,pets\na,good\n", r"model 'a' on task 'pets' is 'good', which is no number"),
        ("model,pets\na,60%\n", r"is '60%', which is no number; leave out the sign"),
        ("model,pets\na,1\nb,inf\n", "model 'b' on task 'pets' is infinite"),
        ("model,pets\na,1\na,2\n", "model 'a' is there twice"),
        ("model,pets,pets\na,1,2\n", "task 'pets' is there twice"),
        ("model,task,accuracy\na,pets,1\n", "a row per model and task; .*column per task"),
        ("model,pets\n", "has no accuracies"),
        ("model\na\nb\n", "has no task"),
        ("", "cannot read accuracies|has no task"),
        ("model,pets\na,1,2\n", "more cells than the header"),
        ("model,pets\n,1\n", "row 1 has no name of a model"),
        ("resnet18,0.5\nresnet50,0.6\n", r"numbers in its first line \(0.5\).*add a header"),
    ],
)
def test_files_that_are_no_table_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        known_accuracies(written(tmp_path, text))


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"No such file.*models in rows"):
        table_of(["pets"]).agreement(str(tmp_path / "absent.csv"))
    with pytest.raises(InvalidInputError, match="accuracies of type int"):
        known_accuracies(7)
    for bare in ([0.5, 0.6, 0.7], np.array([0.5]), ["a"]):
        for name in ("agreement", "fidelity"):
            with pytest.raises(InvalidInputError, match="not say of which models; give a mapping"):
                getattr(table_of(["pets"]), name)(bare)
    with pytest.raises(InvalidInputError, match="list of int, which does not say of which models"):
        table_of(["pets"]).shortlist(prior=[1, 2, 3])
    with pytest.raises(InvalidInputError, match="model 'a' is there twice"):
        known_accuracies(pd.concat([KNOWN, KNOWN]))
    with pytest.raises(InvalidInputError, match="accuracies: model 'a' is there twice"):
        known_accuracies(pd.Series([0.5, 0.6], ["a", "a"]))
    for cell in ("good", [1], object()):
        with pytest.raises(InvalidInputError, match=r"accuracy of model 'a' is .* no number"):
            known_accuracies({"a": cell})
    for cell in (math.inf, "-inf", 10**400):
        with pytest.raises(InvalidInputError, match="model 'b' is infinite; give a number"):
            known_accuracies({"a": 1.0, "b": cell})
    with pytest.raises(InvalidInputError, match="model 'c' on task 'cars' is infinite"):
        known_accuracies(KNOWN.replace({"cars": {KNOWN.loc["c", "cars"]: math.inf}}))
    assert known_accuracies({"a": "0.5", "b": None, "c": pd.NA})[""].tolist()[0] == 0.5


def test_tables_that_lie_on_their_side_and_other_names_are_told(tmp_path: Path) -> None:
    KNOWN.T.to_csv(tmp_path / "side.csv")
    KNOWN.rename(index=lambda name: f"model-{name}").to_csv(tmp_path / "other.csv")
    table = ScoreTable({**r, "model": f"model_{r['model']}"} for r in table_of(["pets"]).records)
    for judge in (
        lambda of, path: of.agreement(path),
        lambda of, path: of.fidelity(path),
        lambda of, path: of.plot.agreement(path),
        lambda of, path: of.shortlist(prior=path),
    ):
        with pytest.raises(InvalidInputError, match="the header holds the models: transpose it"):
            judge(table_of(["pets"]), tmp_path / "side.csv")
        with pytest.raises(InvalidInputError, match=r"did you mean .*'model-a'.*\? use the same"):
            judge(table, tmp_path / "other.csv")


@pytest.mark.parametrize("tasks", [["pets"], ["pets", "cars"]])
@pytest.mark.parametrize("judge", ["agreement", "fidelity"])
def test_one_misspelt_model_among_several_is_told_with_what_may_be_meant(
    tasks: list[str], judge: str
) -> None:
    known = KNOWN.rename(index=lambda name: f"model-{name}")
    scores = [
        {**r, "model": "modell-c" if r["model"] == "c" else f"model-{r['model']}"}
        for r in table_of(tasks).records
    ]
    with pytest.warns(TransferMetricsWarning) as told:
        getattr(ScoreTable(scores), judge)(known[tasks], resamples=0)
    texts = [str(w.message) for w in told if "modell-c" in str(w.message)]
    assert len(texts) == 1
    assert texts[0].endswith("did you mean 'model-c'?")


def test_fidelity_tells_tasks_without_accuracies() -> None:
    scores = pd.DataFrame(SCORES).rename(columns={"cars": "carz"})
    with pytest.warns(
        TransferMetricsWarning, match=r"1 of the tasks .*: carz; did you mean 'cars'"
    ):
        fidelity(scores, KNOWN, resamples=0)


def test_models_may_be_a_column_of_a_frame_or_the_names_of_a_series() -> None:
    column = KNOWN.rename_axis("model").reset_index()
    pd.testing.assert_frame_equal(known_accuracies(column), KNOWN, check_names=False)
    series = known_accuracies(KNOWN["pets"])
    pd.testing.assert_frame_equal(series, known_accuracies(KNOWN["pets"].to_dict()))


def test_a_comparison_of_several_tasks_is_a_table(tmp_path: Path) -> None:
    records = [
        {"model": m, "task": t, "head": "probe", "split": "test", "metric": "accuracy", "seed": s,
         "value": KNOWN.loc[m, t] + (s - 0.5) / 100}
        for m in NAMES for t in KNOWN for s in (0, 1)
    ]  # fmt: skip
    truth = ScoreTable(records)
    pd.testing.assert_frame_equal(known_accuracies(truth), KNOWN)
    for name in ("truth.jsonl", "truth.csv"):
        truth.save(tmp_path / name)
        pd.testing.assert_frame_equal(known_accuracies(tmp_path / name), KNOWN)
    found = table_of(["cars"]).agreement(truth)
    pd.testing.assert_frame_equal(found, table_of(["cars"]).agreement(KNOWN))


def test_the_static_ranking_stands_beside_the_metrics_of_one_task(tmp_path: Path) -> None:
    table = table_of(["pets"]) + table_of(["pets"], "loss", better=False)
    found = table.agreement(KNOWN)
    assert list(found.columns) == ["metric", "measure", "value", "low", "high", "n"]
    names = ["knn", "loss", "static", "knn - static", "loss - static"]
    assert found["metric"].unique().tolist() == names
    assert set(found["n"]) == {7}
    s, a = ([values[m] for m in NAMES] for values in (SCORES["pets"], KNOWN["pets"]))
    static = static_scores(KNOWN)["pets"].tolist()
    columns = ["measure", "value", "low", "high", "n"]
    for name, scores in (("knn", s), ("static", static)):
        rows = found[found["metric"] == name][columns].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, agreement(scores, a))
    by_metric = {name: rows.set_index("measure")["value"] for name, rows in found.groupby("metric")}
    np.testing.assert_allclose(by_metric["knn - static"], by_metric["knn"] - by_metric["static"])
    np.testing.assert_allclose(by_metric["loss"]["kendall"], -by_metric["knn"]["kendall"])
    KNOWN.to_csv(tmp_path / "known.csv")
    pd.testing.assert_frame_equal(table.agreement(tmp_path / "known.csv"), found)
    only = table.agreement(KNOWN["pets"].to_dict())
    assert only["metric"].unique().tolist() == ["knn", "loss"]


def test_a_static_ranking_that_is_not_known_is_told() -> None:
    constant = KNOWN.assign(cars=0.5, dogs=0.7)
    with pytest.warns(TransferMetricsWarning, match="no static ranking.*are constant"):
        found = table_of(["pets"]).agreement(constant, resamples=0)
    assert set(found["metric"]) == {"knn"}


def test_tasks_of_which_the_static_ranking_says_nothing_are_told() -> None:
    # The models of pets were on no other task.
    few = KNOWN.index.isin(NAMES[:3])
    apart = KNOWN.assign(**{t: KNOWN[t].where(few ^ (t == "pets")) for t in KNOWN})
    with (
        pytest.warns(TransferMetricsWarning, match="static ranking says nothing of pets"),
        pytest.warns(TransferMetricsWarning, match="7 of 14 cells"),
    ):
        found = table_of(["pets", "dogs"]).agreement(apart, resamples=0)
    assert {"pets", "dogs", "static"} <= set(found["task"])


def test_a_frame_of_records_is_read_as_the_table_that_it_came_from() -> None:
    records = [
        {"model": m, "task": t, "head": "probe", "split": "test", "metric": "accuracy", "seed": 0,
         "value": KNOWN.loc[m, t]}
        for m in NAMES for t in KNOWN
    ]  # fmt: skip
    pd.testing.assert_frame_equal(known_accuracies(ScoreTable(records).to_frame()), KNOWN)


def test_a_table_of_several_tasks_is_judged_by_task() -> None:
    found = table_of(["pets", "dogs"]).agreement(KNOWN, resamples=50)
    shared = ["pets", "dogs"]
    expected = agreement_by_task(
        pd.DataFrame(SCORES)[shared], KNOWN[shared], static=static_scores(KNOWN), resamples=50
    )
    expected.insert(0, "metric", "knn")
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(InvalidInputError, match="do not compare"):
        table_of(["pets", "dogs"]).agreement(KNOWN["pets"].to_dict())


def test_one_task_of_several_is_judged_as_if_alone() -> None:
    both, alone, options = table_of(["pets", "dogs"]), table_of(["pets"]), {"resamples": 20}
    for known in (KNOWN, KNOWN["pets"].to_dict()):
        for name in ("agreement", "fidelity"):
            found = getattr(both, name)(known, task="pets", **options)
            pd.testing.assert_frame_equal(found, getattr(alone, name)(known, **options))
    with pytest.raises(UnknownNameError, match="task of the scores 'pet'; did you mean 'pets'"):
        both.agreement(KNOWN, task="pet")
    with pytest.raises(UnknownNameError, match="task of the scores 'cars'"):
        both.fidelity(KNOWN, task="cars")
    assert len(both.plot.agreement(KNOWN, task="pets").texts) == len(NAMES)


def test_which_task_is_meant() -> None:
    other = KNOWN.rename(columns={"pets": "Oxford Pets"})
    with pytest.raises(
        InvalidInputError, match=r"'pets'.*several tasks \(Oxford Pets, cars, dogs\)"
    ):
        table_of(["pets"]).agreement(other)
    with pytest.raises(UnknownNameError, match="did you mean 'cars'"):
        table_of(["pets"]).agreement(other, task="car")
    found = table_of(["pets"]).agreement(other, task="Oxford Pets")
    pd.testing.assert_frame_equal(found, table_of(["pets"]).agreement(KNOWN))
    ax = table_of(["pets"]).plot.agreement(other, task="Oxford Pets")
    assert len(ax.texts) == 7


def test_what_is_not_known_does_not_count() -> None:
    known = KNOWN.copy()
    known.loc["a", "pets"] = math.nan
    known.loc["b", ["cars", "dogs"]] = math.nan
    found = table_of(["pets"]).agreement(known, resamples=0)
    counts = found.groupby("metric")["n"].first().to_dict()
    assert counts == {"knn": 6, "static": 5, "knn - static": 5}
    with pytest.warns(TransferMetricsWarning, match="1 of 7 models"):
        table_of(["pets"]).agreement({**KNOWN["pets"], "a": math.nan}, resamples=0)


# ---------------------------------------------------------------- what a difference is worth


def plain_fidelity(scores: np.ndarray, accuracies: np.ndarray, bins: int) -> list[tuple]:
    """Pairs sorted by the difference of their scores, cut into equal parts."""
    pairs = []
    for i in range(len(scores)):
        for j in range(len(scores)):
            if scores[i] > scores[j]:
                pairs.append((scores[i] - scores[j], accuracies[i] - accuracies[j]))
    pairs.sort()
    size = len(pairs) / bins
    rows = []
    for b in range(bins):
        part = [p for k, p in enumerate(pairs) if b <= k / size < b + 1]
        gains = [gain for _, gain in part]
        right = [1.0 if gain > 0 else 0.5 if gain == 0 else 0.0 for gain in gains]
        rows.append((np.mean([d for d, _ in part]), np.mean(gains), np.mean(right), len(part)))
    return rows


@given(st.integers(4, 9), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_fidelity_is_the_plain_definition(models: int, bins: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    s, a = rng.normal(size=models), rng.integers(0, 4, models) / 4
    names = [f"m{i}" for i in range(models)]
    found = fidelity(
        dict(zip(names, s, strict=True)), dict(zip(names, a, strict=True)), bins=bins, resamples=0
    )
    columns = ["score_difference", "accuracy_difference", "right_order", "pairs"]
    np.testing.assert_allclose(found[columns].to_numpy(), np.array(plain_fidelity(s, a, bins)))
    assert found["pairs"].sum() == models * (models - 1) // 2


def test_fidelity_of_a_metric_that_is_right_and_of_one_that_knows_nothing() -> None:
    rng = np.random.default_rng(1)
    accuracies = pd.DataFrame(rng.normal(size=(40, 3)), [f"m{i}" for i in range(40)])
    right = fidelity(2 * accuracies + 5, accuracies, resamples=100)
    assert (right["right_order"] == 1).all()
    assert (np.diff(right["accuracy_difference"]) > 0).all()
    assert (right["low"] <= right["accuracy_difference"]).all()
    wrong = fidelity(pd.DataFrame(rng.normal(size=(40, 3)), accuracies.index), accuracies)
    assert (wrong["low"] < 0).all()
    assert (wrong["high"] > 0).all()
    assert (wrong["right_low"] < 0.5).all()
    assert (wrong["right_high"] > 0.5).all()


def test_fidelity_of_several_tasks_counts_in_deviations() -> None:
    scores = pd.DataFrame(SCORES)
    found = fidelity(scores * [1, 1e3, 1e-3], KNOWN, bins=2, resamples=20)
    pd.testing.assert_frame_equal(found, fidelity(z_scores(scores), KNOWN, bins=2, resamples=20))
    table = table_of(["pets", "cars", "dogs"]).fidelity(KNOWN, bins=2, resamples=20)
    pd.testing.assert_frame_equal(table.drop(columns="metric"), found)
    one = table_of(["cars"]).fidelity(KNOWN, bins=3, resamples=20)
    alone = fidelity(SCORES["cars"], KNOWN["cars"].to_dict(), bins=3, resamples=20)
    pd.testing.assert_frame_equal(one.drop(columns="metric"), alone)


def test_interval_of_the_fidelity_holds_the_expected_difference() -> None:
    # Scores are accuracies with noise: where all pairs are one bin, the mean is known.
    rng, hits, trials = np.random.default_rng(2), 0, 40
    rho = 0.8
    # E[(a_i - a_j) sign(s_i - s_j)] for normal variables of correlation rho and unit deviation.
    truth = rho * 2 / math.sqrt(math.pi)
    for seed in range(trials):
        s = rng.normal(size=30)
        a = rho * s + math.sqrt(1 - rho**2) * rng.normal(size=30)
        given = (dict(enumerate(values)) for values in (s, a))
        row = fidelity(*given, bins=1, resamples=200, seed=seed).iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert hits >= 0.85 * trials


def test_fidelity_refuses_what_has_no_pairs() -> None:
    with pytest.raises(InvalidInputError, match="no two models have different scores"):
        fidelity({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0})
    with pytest.raises(InvalidInputError, match="no two models have different scores"):
        fidelity({"a": 1.0, "b": 2.0}, {"c": 1.0, "d": 2.0})
    with pytest.raises(InvalidInputError, match="bins=0"):
        fidelity({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.0}, bins=0)


def test_shares_among_per_cents_are_told() -> None:
    with pytest.warns(
        TransferMetricsWarning, match="0.9 for model 'b' beside 60.*all as fractions"
    ):
        known_accuracies({"a": 71.0, "b": 0.9, "c": 60.0})
    for same in (
        {"a": 0.7, "b": 1.0},
        {"a": 70, "b": 1},
        {"a": 0, "b": 12.5},
        {"a": -0.5, "b": 20},
        {"a": 0.5, "b": 2},
    ):
        known_accuracies(same)
    known_accuracies(pd.DataFrame({"pets": [0.7, 0.9], "cars": [70.0, 90.0]}, ["a", "b"]))
