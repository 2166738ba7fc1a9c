"""The ranking that never looks at the task, against plain loops, scipy and laws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence.published import load_benchmark
from transfer_metrics.evidence.static_baseline import (
    Need,
    _dispersion,
    _with_static,
    by_task,
)
from transfer_metrics.results.agreement import static_scores, z_scores
from transfer_metrics.results.agreement_tasks import agreement_by_task, compare_metrics

# Weighted tau of the static ranking, as somebody else computed it from the same tables.
FIGURES = {
    "sfda-cnn": 0.83,
    "emms-vit": 0.77,
    "parc-all": 0.75,
    "tmlr": 0.74,
    "sfda-ssl": 0.69,
    "sfda-cnn-head": 0.65,
    "itm-mixed": 0.61,
}


def frame(values: np.ndarray) -> pd.DataFrame:
    rows, columns = values.shape
    return pd.DataFrame(values, [f"m{i}" for i in range(rows)], [f"t{i}" for i in range(columns)])


def with_gaps(rng: np.random.Generator, models: int, tasks: int, share: float = 0.2):
    values = rng.normal(size=(models, tasks))
    values[rng.random(values.shape) < share] = math.nan
    return frame(values)


def plain_static(table: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Mean z-score over the other tasks, cell by cell."""
    scaled: dict[str, dict[str, float]] = {}
    for task in table.columns:
        known = {m: float(v) for m, v in table[task].items() if not math.isnan(v)}
        if len(set(known.values())) > 1:
            mean = sum(known.values()) / len(known)
            spread = math.sqrt(sum((v - mean) ** 2 for v in known.values()) / len(known))
            scaled[task] = {model: (v - mean) / spread for model, v in known.items()}
    found = {}
    for task in table.columns:
        for model in table.index:
            others = [z[model] for other, z in scaled.items() if other != task and model in z]
            found[model, task] = sum(others) / len(others) if others else math.nan
    return found


def plain_tau(table: pd.DataFrame) -> float:
    """Mean over tasks of scipy's weighted tau of the plain static ranking."""
    static, taus = plain_static(table), []
    for task in table.columns:
        pairs = [(static[m, task], a) for m, a in table[task].items()]
        pairs = [(s, a) for s, a in pairs if not math.isnan(s) and not math.isnan(a)]
        if len(pairs) > 2:
            taus.append(stats.weightedtau(*zip(*pairs, strict=True)).statistic)
    return float(np.nanmean(taus))


def mean_of(table: pd.DataFrame, measure: str = "weighted_kendall", task: str = "mean") -> float:
    chosen = (table["task"] == task) & (table["measure"] == measure)
    return table.loc[chosen, "value"].item()


def judged(scores: pd.DataFrame, accuracies: pd.DataFrame, **options) -> pd.DataFrame:
    return agreement_by_task(scores, accuracies, **{"resamples": 0, "at": (), **options})


@given(st.integers(3, 7), st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_scores_are_the_plain_definition(models: int, tasks: int, seed: int) -> None:
    table = with_gaps(np.random.default_rng(seed), models, tasks)
    found = static_scores(table)
    assert found.shape == table.shape
    for (model, task), value in plain_static(table).items():
        assert found.loc[model, task] == pytest.approx(value, nan_ok=True, abs=1e-9)


def test_it_is_read_as_other_accuracies_are(tmp_path) -> None:
    table = frame(np.random.default_rng(1).normal(size=(4, 3)))
    table.to_csv(tmp_path / "known.csv")
    pd.testing.assert_frame_equal(static_scores(str(tmp_path / "known.csv")), static_scores(table))
    assert static_scores({"a": 0.5, "b": 0.7}).isna().all(axis=None)
    unnamed = pd.DataFrame(table.to_numpy())
    assert list(static_scores(unnamed).columns) == [0, 1, 2]
    for wrong, said in (
        (pd.DataFrame(), "no accuracies to go by"),
        ({}, "no accuracies to go by"),
        ([1, 2], "does not say of which models"),
        (table.astype(object).replace(table.iloc[0, 0], "x"), "model 'm0' on task 't0' is 'x'"),
        (pd.concat([table, table]), "model 'm0' is there twice"),
        (table.rename(columns={"t1": "t0"}), "task 't0' is there twice"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            static_scores(wrong)


@pytest.mark.parametrize("name", [*FIGURES, "medmnist-models", "reference-zoo"])
def test_published_tables_have_the_figures_of_plain_loops(name: str) -> None:
    table = load_benchmark(name).accuracies
    plain = plain_tau(table)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transfer_metrics.results.agreement_tasks.warn", lambda _: None)
        assert mean_of(judged(static_scores(table), table)) == pytest.approx(plain)
    assert plain == pytest.approx(FIGURES.get(name, plain), abs=0.005)


@pytest.mark.slow
def test_shift_as_one_table_of_27_tasks_has_the_figure_of_plain_loops() -> None:
    both = [load_benchmark(f"shift-{kind}").accuracies for kind in ("text", "vision")]
    table = pd.concat(both, axis="columns")
    assert table.shape == (463, 27)
    assert plain_tau(table) == pytest.approx(0.41, abs=0.005)


@pytest.mark.filterwarnings("ignore:accuracies on task")  # exponentials may look like two units
@given(st.integers(3, 8), st.integers(2, 5), st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
@example(models=6, tasks=3, seed=362881)
def test_one_ranking_on_all_tasks_is_found(models: int, tasks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = np.sort(rng.normal(size=models))
    powers = [order, np.exp(order), order**3, 7 * order - 100, np.arctan(order)]
    table = frame(np.stack(powers[:tasks], axis=1))
    found = judged(static_scores(table), table)
    assert mean_of(found) == mean_of(found, "kendall") == 1.0
    assert mean_of(found, "regret") == 0.0
    assert _dispersion(table, resamples=0)[0] == pytest.approx(1.0)


def test_of_independent_tasks_nothing_is_known() -> None:
    rng, taus, alike = np.random.default_rng(0), [], []
    for _ in range(60):
        table = frame(rng.normal(size=(8, 4)))
        taus.append(by_task(static_scores(table), table, "kendall").mean())
        alike.append(_dispersion(table, resamples=0)[0])
    for values in (taus, alike):
        assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(len(values))


@given(st.integers(0, 2**31), st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4))
@settings(max_examples=15, deadline=None)
def test_units_of_tasks_do_not_matter(seed: int, shifts: list[float]) -> None:
    rng = np.random.default_rng(seed)
    table = with_gaps(rng, 7, 4)
    scaled = table * rng.choice([1e-3, 1.0, 100.0], 4) + shifts
    np.testing.assert_allclose(static_scores(scaled), static_scores(table), atol=1e-6)
    assert _dispersion(scaled, resamples=0)[0] == pytest.approx(
        _dispersion(table, resamples=0)[0], nan_ok=True
    )


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_a_task_does_not_enter_its_own_ranking(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = with_gaps(rng, 6, 3)
    other = table.assign(t1=rng.normal(size=6))
    np.testing.assert_array_equal(static_scores(table)["t1"], static_scores(other)["t1"])


def test_constant_tasks_and_lonely_models_say_nothing() -> None:
    table = pd.DataFrame(
        {"x": [1.0, 2.0, 3.0, math.nan], "same": [5.0] * 4, "only": [math.nan] * 3 + [1.0]},
        list("abcd"),
    )
    found = static_scores(table)
    assert found["x"].isna().all()  # the others are constant, or known of one model
    assert found["same"].round(2).tolist()[:3] == [-1.22, 0.0, 1.22]
    assert math.isnan(found.loc["d", "same"])
    assert static_scores(table[["x"]]).isna().all(axis=None)
    assert z_scores(table * 1e200)["x"].round(2).tolist()[:3] == [-1.22, 0.0, 1.22]


@given(st.integers(3, 8), st.integers(2, 4), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_dispersion_is_scipys_mean_tau(models: int, tasks: int, tied: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = with_gaps(rng, models, tasks)
    table = table.round() if tied else table
    taus = []
    for a, b in itertools.combinations(table.columns, 2):
        both = table[[a, b]].dropna()
        if len(both) > 2 and both.nunique().min() > 1:
            taus.append(stats.kendalltau(both[a], both[b]).statistic)
    expected = np.mean(taus) if taus else math.nan
    assert _dispersion(table, resamples=0)[0] == pytest.approx(expected, nan_ok=True)


def test_interval_of_the_dispersion_is_of_resampled_models() -> None:
    table = frame(np.random.default_rng(1).normal(size=(9, 3)))
    _, low, high = _dispersion(table, resamples=40, seed=5)
    drawn = np.random.default_rng(5).integers(9, size=(40, 9))
    plain = []
    for rows in drawn:
        part = table.iloc[rows]
        pairs = itertools.combinations(table.columns, 2)
        plain.append(np.mean([stats.kendalltau(part[a], part[b]).statistic for a, b in pairs]))
    assert (low, high) == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])))


def test_both_together_by_hand() -> None:
    scores = pd.DataFrame({"x": [10.0, 20.0, 60.0], "y": [1.0, 1.0, 1.0]}, list("abc"))
    static = pd.DataFrame({"x": [3.0, 2.0, 1.0], "y": [0.0, 5.0, math.nan]}, list("abc"))
    found = _with_static(scores, static)
    metric = np.array([-20.0, -10.0, 30.0]) / math.sqrt(1400 / 3)
    np.testing.assert_allclose(found["x"], (metric + math.sqrt(1.5) * np.array([1, 0, -1])) / 2)
    assert found["y"].tolist()[:2] == [-0.5, 0.5]  # equal scores say nothing
    assert math.isnan(found.loc["c", "y"])


def test_the_row_beside_a_metric_is_that_of_the_ranking_itself() -> None:
    rng = np.random.default_rng(2)
    common = rng.normal(size=(10, 1))
    accuracies = frame(common + 0.7 * rng.normal(size=(10, 5)))
    scores = accuracies + 0.5 * rng.normal(size=(10, 5))
    found = agreement_by_task(scores, accuracies, noise=0.1)
    alone = agreement_by_task(static_scores(accuracies), accuracies, noise=0.1)
    columns = ["measure", "value", "low", "high", "n"]
    rows, expected = (
        table[table["task"] == task][columns].reset_index(drop=True)
        for table, task in ((found, "static"), (alone, "mean"))
    )
    pd.testing.assert_frame_equal(rows, expected)
    test = compare_metrics(scores, static_scores(accuracies), accuracies, noise=0.1)
    chosen = (found["task"] == "mean - static") & (found["measure"] == "weighted_kendall")
    gain = found[chosen].iloc[0]
    assert gain[["value", "low", "high"]].tolist() == [test.difference, test.low, test.high]
    assert test.over_static["a"].difference == test.difference
    assert test.over_static["b"].difference == 0.0
    assert test.static == test.b
    # Of one task there is no other.
    assert "static" not in set(judged(scores[["t0"]], accuracies[["t0"]])["task"])


def test_a_sentence_says_what_does_not_beat_it() -> None:
    rng = np.random.default_rng(3)
    own = frame(rng.normal(size=(14, 6)))  # every task has its own order
    found = compare_metrics(own, static_scores(own), own)
    assert found.over_static["a"].verdict == "a"
    assert found.over_static["b"].verdict == "tie"
    (remark,) = found.remarks
    assert remark.startswith("b does not beat the static ranking")
    assert f"difference {found.over_static['b'].difference:.2f}" in remark
    same = frame(np.repeat(rng.normal(size=(14, 1)), 6, axis=1) + rng.normal(size=(14, 6)) / 50)
    assert (
        compare_metrics(-same, same, same, measure="regret")
        .remarks[0]
        .startswith("a is worse than the static ranking")
    )


def test_missing_cells_of_the_ranking_leave_those_of_the_metric() -> None:
    rng = np.random.default_rng(4)
    accuracies = frame(rng.normal(size=(8, 3)))
    accuracies.loc["m0", ["t1", "t2"]] = math.nan  # so m0 has no static score on t0
    scores = frame(rng.normal(size=(8, 3))).where(accuracies.notna())
    with pytest.warns(UserWarning, match="2 of 24 cells"):
        found = agreement_by_task(scores, accuracies, resamples=0)
    assert found[found["task"] == "t0"]["n"].unique().tolist() == [8]
    static = static_scores(accuracies)
    fewer = judged(*(table.drop(index="m0") for table in (scores, accuracies)), static=static)
    for task in ("static", "mean - static"):
        assert mean_of(found, "kendall", task) == mean_of(fewer, "kendall", task)
    assert mean_of(found, "kendall") != mean_of(fewer, "kendall")


def test_another_ranking_may_stand_for_the_static_one() -> None:
    rng = np.random.default_rng(5)
    accuracies = frame(rng.normal(size=(8, 3)))
    by_size = frame(np.repeat(rng.normal(size=(8, 1)), 3, axis=1))
    found = judged(accuracies, accuracies, static=by_size)
    assert mean_of(found, task="static") == mean_of(judged(by_size, accuracies))


def test_what_a_benchmark_needs() -> None:
    rng = np.random.default_rng(6)
    own = frame(rng.normal(size=(12, 5)))
    scores = {
        "knows": own + 0.3 * rng.normal(size=own.shape),
        "blind": frame(rng.normal(size=own.shape)),
    }
    need = Need.of("small", own, scores, points=1.0, resamples=200)
    assert (need.models, need.tasks) == (12, 5)
    assert [row.metric for row in need.rows] == ["knows", "blind"]
    best = need.rows[0]
    assert best.over_static == "better"
    assert best.both["weighted_kendall"][0] == mean_of(
        judged(_with_static(scores["knows"], static_scores(own)), own)
    )
    assert best.both_over_metric == "worse"  # a ranking that knows nothing only adds noise
    assert need.sentence.startswith("small: static has weighted tau")
    assert need.sentence.endswith("Better: knows; not told apart: blind; worse: none.")
    alone = Need.of(
        "one", own[["t0"]], {name: t[["t0"]] for name, t in scores.items()}, resamples=0
    )
    assert alone.static == {}
    assert "no static ranking" in alone.sentence
