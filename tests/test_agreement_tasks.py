"""Agreement over tasks and the paired test, against scipy, by hand, and in simulations."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.test_agreement import agreement
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.results.agreement import evaluate, options_of
from transfer_metrics.results.agreement_tasks import agreement_by_task, compare_metrics

BELOW = ["mean", "static", "mean - static"]
SCIPY = {
    "pearson": stats.pearsonr,
    "spearman": stats.spearmanr,
    "kendall": stats.kendalltau,
    "weighted_kendall": stats.weightedtau,
}


def frame(values: np.ndarray) -> pd.DataFrame:
    rows, columns = values.shape
    return pd.DataFrame(values, [f"m{i}" for i in range(rows)], [f"t{i}" for i in range(columns)])


def world(
    rng: np.random.Generator, models: int, tasks: int, rho: float, shared: float = 0.5
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Accuracies and two scores with correlation rho to them on every task, all normal.

    A share of their variance is the model's on all tasks.
    """

    def draw() -> np.ndarray:
        own, common = rng.normal(size=(models, tasks)), rng.normal(size=(models, 1))
        return math.sqrt(shared) * common + math.sqrt(1 - shared) * own

    accuracies = draw()
    scores = [rho * accuracies + math.sqrt(1 - rho**2) * draw() for _ in range(2)]
    return frame(accuracies), frame(scores[0]), frame(scores[1])


def means(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["task"] == "mean"].set_index("measure")


@settings(deadline=None)
@given(st.integers(3, 12), st.booleans(), st.integers(0, 2**31))
def test_measures_are_scipys_with_ties_and_gaps(models: int, tied: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (4, models)
    x, y = (rng.integers(0, 4, shape) * 1.0 if tied else rng.normal(size=shape) for _ in "xy")
    valid = rng.random(shape) < 0.8
    found = evaluate(x, y, valid, at=(1, 2))
    plain = evaluate(np.where(valid, x, math.nan), np.where(valid, y, math.nan), valid, at=(1, 2))
    for row, (a, b, ok) in enumerate(zip(x, y, valid, strict=True)):
        a, b = a[ok], b[ok]
        for name, fn in SCIPY.items():
            assert found[name][row] == pytest.approx(plain[name][row], nan_ok=True)
            if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
                assert math.isnan(found[name][row])
            else:
                assert found[name][row] == pytest.approx(fn(a, b).statistic, abs=1e-9)
        if len(b) == 0:
            assert math.isnan(found["regret"][row])
            continue
        tops = [b[list(o)] for o in orders(a)]
        assert found["regret"][row] == pytest.approx(b.max() - np.mean([t[0] for t in tops]))
        assert found["regret@1"][row] == found["regret"][row]
        if len(b) >= 2:
            top = np.mean([t[:2].max() for t in tops])
            assert found["regret@2"][row] == pytest.approx(b.max() - top)
            if b.max() > 0:
                assert found["rel@2"][row] == pytest.approx(top / b.max())


def orders(scores: np.ndarray) -> list[tuple[int, ...]]:
    """Every order from the highest score down, as far as the first two places."""
    found = set()
    for pair in itertools.permutations(range(len(scores)), min(2, len(scores))):
        rest = sorted(np.delete(scores, pair), reverse=True)
        if [*scores[list(pair)], *rest] == sorted(scores, reverse=True):
            found.add(pair)
    return sorted(found)


def test_chunks_do_not_show() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 40, 200))
    whole = evaluate(x, y, at=(3,))
    for name, values in whole.items():
        rows = [evaluate(x[i : i + 1], y[i : i + 1], at=(3,))[name][0] for i in range(40)]
        np.testing.assert_array_equal(values, rows)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_pearson_of_very_small_and_large_scores(scale: float) -> None:
    x, y = np.array([[1.0, 2.0, 4.0]]), np.array([[1.0, 3.0, 2.0]])
    assert evaluate(x * scale, y)["pearson"] == pytest.approx(evaluate(x, y)["pearson"])


def test_each_task_is_judged_as_alone_and_the_mean_is_the_mean() -> None:
    accuracies, scores, _ = world(np.random.default_rng(0), 9, 4, 0.6)
    accuracies += 10
    found = agreement_by_task(scores, accuracies)
    assert found["task"].unique().tolist() == ["t0", "t1", "t2", "t3", *BELOW]
    for task in accuracies:
        rows = found[found["task"] == task].drop(columns="task").reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, agreement(scores[task], accuracies[task]))
    assert (means(found)["n"] == 4).all()
    by_measure = found[found["task"].isin(accuracies)].groupby("measure")["value"].mean()
    for measure, value in means(found)["value"].items():
        assert value == pytest.approx(by_measure[measure])


def test_order_of_rows_and_columns_does_not_matter() -> None:
    accuracies, a, b = world(np.random.default_rng(1), 8, 3, 0.5)
    turned = a.iloc[::-1, ::-1]
    pd.testing.assert_frame_equal(
        agreement_by_task(turned, accuracies), agreement_by_task(a, accuracies)
    )
    assert compare_metrics(turned, b, accuracies) == compare_metrics(a, b, accuracies)


def test_models_are_drawn_once_for_all_tasks() -> None:
    # The same task three times: a mean over it varies as much as it alone does.
    accuracies, scores, _ = world(np.random.default_rng(2), 10, 1, 0.6)
    names = ["a", "b", "c"]
    threefold = [pd.concat([t["t0"]] * 3, axis=1, keys=names) for t in (scores, accuracies)]
    one, three = agreement_by_task(scores, accuracies), agreement_by_task(*threefold)
    columns = ["value", "low", "high"]
    pd.testing.assert_frame_equal(means(three)[columns], means(one)[columns])


def test_what_is_missing_is_left_out_and_said() -> None:
    accuracies, scores, _ = world(np.random.default_rng(3), 8, 3, 0.5)
    partial = scores.copy()
    partial.loc["m0", "t0"] = math.nan
    with pytest.warns(TransferMetricsWarning, match="1 of 24 cells"):
        found = agreement_by_task(partial, accuracies, resamples=0)
    assert found[found["task"] == "t0"]["n"].tolist()[0] == 7
    alone = agreement(scores["t0"].iloc[1:], accuracies["t0"].iloc[1:], resamples=0)
    rows = found[found["task"] == "t0"]["value"].tolist()
    assert rows == pytest.approx(alone["value"].tolist())

    with pytest.warns(TransferMetricsWarning, match="1 models are not in every table.*: m7"):
        found = agreement_by_task(scores.drop(index="m7"), accuracies, resamples=0)
    assert set(found["n"]) == {7, 3}
    with pytest.warns(TransferMetricsWarning, match="1 tasks are not in every table.*: t2"):
        agreement_by_task(scores, accuracies.drop(columns="t2"), resamples=0)

    partial = scores.copy()
    partial.loc["m2":, "t1"] = math.nan
    with pytest.warns(TransferMetricsWarning) as caught:
        found = agreement_by_task(partial, accuracies, resamples=0)
    assert any("1 tasks have fewer than 3 models" in str(w.message) for w in caught)
    assert found["task"].unique().tolist() == ["t0", "t2", *BELOW]


def test_constant_scores_count_for_regret_only() -> None:
    accuracies, scores, _ = world(np.random.default_rng(4), 6, 2, 0.5)
    scores["t1"] = 1.0
    with pytest.warns(TransferMetricsWarning, match=r"all scores are the same.*: t1"):
        found = agreement_by_task(scores, accuracies)
    rows = found.set_index(["task", "measure"])
    assert math.isnan(rows.loc[("t1", "kendall"), "value"])
    assert rows.loc[("mean", "kendall"), "value"] == rows.loc[("t0", "kendall"), "value"]
    assert rows.loc[("mean", "kendall"), "n"] == 1
    assert rows.loc[("mean", "regret"), "n"] == 2
    gap = accuracies["t1"].max() - accuracies["t1"].mean()
    assert rows.loc[("t1", "regret"), "value"] == pytest.approx(gap)


def test_rel_at_k_needs_k_models() -> None:
    accuracies, scores, _ = world(np.random.default_rng(4), 6, 2, 0.5)
    accuracies.loc["m4":, "t1"] = math.nan
    with pytest.warns(TransferMetricsWarning, match="2 of 12 cells"):
        found = agreement_by_task(scores, accuracies + 10, at=(5,), resamples=0)
    rows = found[found["measure"] == "rel@5"]
    assert rows["task"].tolist() == ["t0", *BELOW]
    assert rows["n"].tolist() == [6, 1, 0, 0]  # four models are known on another task


def test_noise_widens_the_interval_and_leaves_the_value() -> None:
    accuracies, scores, _ = world(np.random.default_rng(5), 12, 5, 0.9)
    widths = []
    for noise in (None, 0.0, 0.5, pd.DataFrame(0.5, accuracies.index, accuracies.columns)):
        row = means(agreement_by_task(scores, accuracies, noise=noise)).loc["kendall"]
        widths.append((row["value"], row["low"], row["high"]))
    assert widths[0] == widths[1]
    assert widths[2] == widths[3]
    assert widths[2][0] == widths[0][0]
    assert widths[2][1] < widths[0][1]  # noise can only spoil such an agreement


def test_noise_of_one_accuracy_hits_every_draw_of_its_model_alike() -> None:
    # Three models, one noisy: among resamples with all three distinct nothing else varies, and
    # copies of one model stay tied, so tau is one of few values.
    accuracies = pd.DataFrame({"t": [1.0, 2.0, 3.0]}, list("abc"))
    noise = pd.DataFrame({"t": [0.0, 5.0, 0.0]}, list("abc"))
    found = agreement_by_task(accuracies, accuracies, noise=noise, at=())
    low, high = means(found).loc["kendall", ["low", "high"]]
    assert (low, high) == (-1.0, 1.0)
    quiet = agreement_by_task(accuracies, accuracies, at=())
    assert means(quiet).loc["kendall", ["low", "high"]].tolist() == [1.0, 1.0]


def test_comparison_is_antisymmetric_and_paired() -> None:
    accuracies, a, b = world(np.random.default_rng(6), 10, 6, 0.7)
    forth, back = compare_metrics(a, b, accuracies), compare_metrics(b, a, accuracies)
    assert forth.difference == -back.difference == forth.a - forth.b
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low))
    assert forth.p_value == back.p_value
    same = compare_metrics(a, a * 2 + 1, accuracies, noise=0.1)
    assert (same.difference, same.low, same.high) == (0.0, 0.0, 0.0)
    assert (same.verdict, same.p_value) == ("tie", 1.0)
    assert (same.tasks, same.models) == (6, 10)


def test_comparison_uses_the_cells_that_both_have() -> None:
    accuracies, a, b = world(np.random.default_rng(7), 8, 3, 0.6)
    short = a.copy()
    short["t2"] = math.nan
    with pytest.warns(TransferMetricsWarning):
        found = compare_metrics(short, b, accuracies)
    both = [t[["t0", "t1"]] for t in (a, b, accuracies)]
    expected = compare_metrics(*both)
    # The static ranking also knows the task on which there are no scores.
    assert replace(found, over_static={}) == replace(expected, over_static={})
    constant = a.copy()
    constant["t2"] = 0.0
    with pytest.warns(TransferMetricsWarning, match="t2"):
        found = compare_metrics(constant, b, accuracies)
    assert found.tasks == 2
    assert found.b == pytest.approx(compare_metrics(*both).b)


def test_regret_is_better_when_lower() -> None:
    accuracies, _, _ = world(np.random.default_rng(8), 15, 5, 0.6)
    found = compare_metrics(accuracies, -accuracies, accuracies, measure="regret")
    assert found.a == 0
    assert found.high < 0
    assert found.verdict == "a"
    assert found.p_value < 0.01
    assert compare_metrics(-accuracies, accuracies, accuracies, measure="rel@2").verdict == "b"
    assert compare_metrics(-accuracies, accuracies, accuracies, measure="regret@2").verdict == "b"


def test_wrong_input() -> None:
    accuracies, a, b = world(np.random.default_rng(9), 5, 2, 0.6)
    with pytest.raises(InvalidInputError, match=r"'rel@0'.*choose from: pearson"):
        compare_metrics(a, b, accuracies, measure="rel@0")
    assert options_of("rel@12") == options_of("regret@12") == (12,)
    with pytest.raises(InvalidInputError, match="needs resamples"):
        compare_metrics(a, b, accuracies, resamples=0)
    with pytest.raises(InvalidInputError, match="twice"):
        agreement_by_task(pd.concat([a, a]), accuracies)
    with pytest.raises(InvalidInputError, match="called 'mean'"):
        agreement_by_task(*(t[["t0"]].set_axis(["mean"], axis=1) for t in (a, accuracies)))
    for noise in (-1.0, math.nan, pd.DataFrame({"t0": accuracies["t0"].abs()})):
        with pytest.raises(InvalidInputError, match="noise is negative or missing"):
            agreement_by_task(a, accuracies, noise=noise)
    other = a.rename(index=str.upper)
    with (
        pytest.warns(TransferMetricsWarning),
        pytest.raises(InvalidInputError, match="no task has 3"),
    ):
        agreement_by_task(other, accuracies)
    with (
        pytest.warns(TransferMetricsWarning),
        pytest.raises(InvalidInputError, match="on none of 2 tasks"),
    ):
        compare_metrics(a * 0, b, accuracies)


def test_interval_covers_the_mean_over_tasks() -> None:
    # Kendall's tau is unbiased whatever the number of models: 2/π arcsin ρ for normal variables.
    rng, rho = np.random.default_rng(10), 0.7
    truth, hits, trials = 2 / math.pi * math.asin(rho), 0, 80
    for seed in range(trials):
        accuracies, scores, _ = world(rng, 10, 6, rho)
        row = means(agreement_by_task(scores, accuracies, resamples=200, at=(), seed=seed))
        hits += row.loc["kendall", "low"] <= truth <= row.loc["kendall", "high"]
    # 92 in 100 are held in long runs; this is three standard deviations either way.
    assert 0.83 * trials <= hits <= trials


def test_equal_metrics_tie_and_unequal_ones_do_not() -> None:
    rng, trials = np.random.default_rng(11), 60
    false, found = 0, 0
    for seed in range(trials):
        accuracies, a, b = world(rng, 10, 6, 0.6)
        false += compare_metrics(a, b, accuracies, resamples=200, seed=seed).verdict != "tie"
        noise = frame(rng.normal(size=b.shape))
        good = accuracies + 0.5 * noise
        found += compare_metrics(good, noise, accuracies, resamples=200, seed=seed).verdict == "a"
    assert false <= 0.15 * trials
    assert found >= 0.9 * trials


def test_a_thousand_resamples_of_eleven_tasks_take_seconds() -> None:
    accuracies, a, b = world(np.random.default_rng(12), 10, 11, 0.6)
    start = time.process_time()
    compare_metrics(a, b, accuracies, noise=0.1)
    assert time.process_time() - start < 3
