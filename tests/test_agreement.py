"""Agreement of scores and accuracies, against plain definitions and counted by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.results.agreement_tasks import agreement_by_task
from transfer_metrics.results.table import ScoreTable

SCORES = [0.1, 0.4, 0.3, 0.9, 0.5]
ACCURACIES = [50.0, 70.0, 80.0, 75.0, 60.0]


def agreement(scores, accuracies, **options) -> pd.DataFrame:
    """The measures on one task."""
    tables = (pd.DataFrame({"t": values}) for values in (scores, accuracies))
    found = agreement_by_task(*tables, **options)
    return found[found["task"] == "t"].drop(columns="task").reset_index(drop=True)


def values(scores, accuracies, **options) -> dict[str, float]:
    table = agreement(scores, accuracies, resamples=0, **options)
    return dict(zip(table["measure"], table["value"], strict=True))


def test_by_hand():
    found = values(SCORES, ACCURACIES)
    # Ranks 1 3 2 5 4 against 1 3 5 4 2: sum of squared differences 9 + 1 + 4.
    assert found["spearman"] == pytest.approx(1 - 6 * 14 / (5 * 24))
    pairs = itertools.combinations(range(5), 2)
    order = [np.sign((SCORES[i] - SCORES[j]) * (ACCURACIES[i] - ACCURACIES[j])) for i, j in pairs]
    assert found["kendall"] == pytest.approx(sum(order) / 10)
    assert found["pearson"] == pytest.approx(np.corrcoef(SCORES, ACCURACIES)[0, 1])
    assert found["rel@1"] == pytest.approx(75 / 80)
    assert found["rel@3"] == pytest.approx(75 / 80)  # the top three: 75, 60, 70
    assert found["regret"] == found["regret@1"] == pytest.approx(5.0)
    assert found["regret@2"] == found["regret@3"] == pytest.approx(5.0)
    # The fourth is 80, the best of all.
    assert values(SCORES, ACCURACIES, at=(4,))["regret@4"] == 0


def plain_weighted_tau(x: np.ndarray, y: np.ndarray) -> float:
    """Vigna (2015), eq. 2, additive hyperbolic weights, mean over the two orders."""

    def one(order: np.ndarray) -> float:
        rank = np.empty(len(x), int)
        rank[order] = np.arange(len(x))
        up = down_x = down_y = 0.0
        for i, j in itertools.combinations(range(len(x)), 2):
            w = 1 / (rank[i] + 1) + 1 / (rank[j] + 1)
            a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
            up += a * b * w
            down_x += a * a * w
            down_y += b * b * w
        return up / math.sqrt(down_x * down_y)

    return (one(np.lexsort((y, x))[::-1]) + one(np.lexsort((x, y))[::-1])) / 2


@given(st.integers(3, 9), st.integers(0, 2**31))
def test_weighted_kendall_is_the_plain_definition(n, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.permutation(n) * 1.0, rng.permutation(n) * 1.0
    assert values(x, y)["weighted_kendall"] == pytest.approx(plain_weighted_tau(x, y))


@given(st.lists(st.integers(0, 3), min_size=3, max_size=6), st.integers(0, 2**31), st.data())
def test_ties_are_broken_at_random(scores, seed, data):
    accuracies = np.random.default_rng(seed).permutation(len(scores)) + 1.0
    k = data.draw(st.integers(1, len(scores)))
    with np.errstate(all="ignore"), pytest.warns() if len(set(scores)) == 1 else _nothing():
        found = values(scores, accuracies, at=(k,))
    orders = [
        sorted(order, key=lambda i: -scores[i])
        for order in itertools.permutations(range(len(scores)))
    ]
    tops = [max(accuracies[i] for i in order[:k]) for order in orders]
    assert found[f"rel@{k}"] == pytest.approx(np.mean(tops) / accuracies.max())
    assert found[f"regret@{k}"] == pytest.approx(accuracies.max() - np.mean(tops))
    firsts = [accuracies[order[0]] for order in orders]
    assert found["regret"] == pytest.approx(accuracies.max() - np.mean(firsts))


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_constant_scores_have_no_correlation_but_a_regret():
    with pytest.warns(TransferMetricsWarning, match="all scores are the same"):
        found = values([1, 1, 1], [1.0, 2.0, 3.0])
    assert all(math.isnan(found[m]) for m in ("pearson", "kendall", "weighted_kendall"))
    assert found["regret"] == pytest.approx(1.0)


def test_models_without_a_score_are_left_out_and_said():
    with pytest.warns(TransferMetricsWarning, match="1 of 6 models"):
        table = agreement([*SCORES, math.nan], [*ACCURACIES, 99.0], resamples=0)
    assert set(table["n"]) == {5}
    assert table["value"].tolist() == list(values(SCORES, ACCURACIES).values())


def test_wrong_input():
    with pytest.raises(InvalidInputError, match="no task has 3 models"):
        agreement([1.0, 2.0], [1.0, 2.0])
    both = [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]
    for at in ((0,), "x", 2, (1.5,), None, (True,)):
        with pytest.raises(InvalidInputError, match=r"at=.*whole numbers of at least 1"):
            agreement(*both, at=at)
    for name, value in (("resamples", -1), ("resamples", "9"), ("seed", -1), ("seed", 0.5)):
        with pytest.raises(InvalidInputError, match=f"{name}=.*whole number from 0 on"):
            agreement(*both, **{name: value})
    assert set(agreement(*both, at=np.array([2]), resamples=0)["measure"]) >= {"rel@2"}


def test_interval_covers_the_correlation_of_the_population():
    # The percentile bootstrap of a correlation is known to be a little too narrow.
    rng = np.random.default_rng(0)
    rho, hits = 0.6, 0
    for trial in range(60):
        x = rng.normal(size=40)
        y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=40)
        row = agreement(x, y, resamples=200, seed=trial).set_index("measure").loc["pearson"]
        hits += row["low"] <= rho <= row["high"]
    assert hits >= 50


def table_of(scores: dict[str, float], metric: str, better: bool = True) -> ScoreTable:
    return ScoreTable(
        {"model": m, "layer": "fc", "metric": metric, "value": v, "higher_is_better": better}
        for m, v in scores.items()
    )


def test_table_matches_models_by_name_and_turns_losses_round():
    names = list("abcde")
    accuracies = dict(zip(reversed(names), reversed(ACCURACIES), strict=True))
    up = table_of(dict(zip(names, SCORES, strict=True)), "up")
    down = table_of({n: -s for n, s in zip(names, SCORES, strict=True)}, "down", better=False)
    found = (up + down).agreement({**accuracies, "unscored": 1.0}, resamples=0)
    for metric in ("up", "down"):
        rows = found[found["metric"] == metric]
        assert rows["value"].tolist() == list(values(SCORES, ACCURACIES).values())


def test_accuracies_from_a_comparison_are_means_over_seeds():
    names = list("abcde")
    records = [
        {"model": n, "head": head, "split": split, "metric": "accuracy", "seed": seed, "value": v}
        for n, a in zip(names, ACCURACIES, strict=True)
        for head in ("probe", "tune")
        for split in ("test", "ood")
        for seed, v in enumerate([a - 1, a + 1] if (head, split) == ("tune", "test") else [0.0])
    ]
    table = table_of(dict(zip(names, SCORES, strict=True)), "score")
    found = table.agreement(ScoreTable(records), head="tune", resamples=0)
    assert found["value"].tolist() == pytest.approx(list(values(SCORES, ACCURACIES).values()))
    with pytest.raises(InvalidInputError, match="several heads"):
        table.agreement(ScoreTable(records))
    with pytest.raises(InvalidInputError, match="no model has both"):
        table.agreement({"other": 1.0})


def test_plot_names_every_model_and_tells_the_agreement():
    names = list("abcde")
    table = table_of(dict(zip(names, SCORES, strict=True)), "score")
    accuracies = dict(zip(names, ACCURACIES, strict=True))
    ax = table.plot.agreement(accuracies)
    points = {tuple(point) for point in ax.collections[0].get_offsets().tolist()}
    assert points == set(zip(SCORES, ACCURACIES, strict=True))
    assert sorted(text.get_text() for text in ax.texts) == names
    tau = values(SCORES, ACCURACIES)["weighted_kendall"]
    assert ax.get_title(loc="left").startswith(f"weighted tau {tau:.2f} (")


def test_a_model_whose_name_the_accuracies_lack_is_named() -> None:
    records = [
        {
            "task": "p",
            "layer": "fc",
            "metric": "knn",
            "higher_is_better": True,
            "model": m,
            "value": v,
        }
        for v, m in enumerate(["resnet18", "vit", "mixer", "convnext"])
    ]
    known = pd.Series({"resnet-18": 0.1, "vit": 0.2, "mixer": 0.3, "convnext": 0.4})
    with pytest.warns(TransferMetricsWarning, match=r"resnet18; did you mean 'resnet-18'"):
        found = ScoreTable(records).agreement(known)
    assert set(found["n"]) == {3}
    ScoreTable(records).agreement({**known, "resnet18": 0.1, "another": 0.5})
