"""Few-shot episodes: the draws, the comparison, and what is reported of it."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from scipy.stats import ttest_1samp
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import transfer_metrics as tm
from transfer_metrics.errors import (
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
)
from transfer_metrics.results.plot_style import MUTED
from transfer_metrics.selection.columns import unit_rows
from transfer_metrics.selection.episodes import FewShotResult, _episodes, few_shot
from transfer_metrics.selection.feature_maps import FeatureMapSelector
from transfer_metrics.selection.layer_selector import LayerSelector

matplotlib.use("Agg")


def layers(n=300, ways=6, seed=0):
    """Labels depend on the hidden layer; the last one knows little of them."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % ways
    centres = rng.standard_normal((2, ways, 10))
    hidden = rng.standard_normal((n, 10)) + 3 * centres[0][y]
    last = rng.standard_normal((n, 8)) + 0.5 * centres[1, :, :8][y]
    return {"hidden": hidden, "last": last}, y


class Recorder(TransformerMixin, BaseEstimator):
    """Keeps the first columns, and notes what it was given."""

    seen: list = []  # noqa: RUF012

    def fit(self, X, y):
        Recorder.seen.append((X.copy(), y.copy()))
        return self

    def transform(self, X):
        return X[:, :3]


def test_draws_are_disjoint_balanced_and_nested():
    y = np.repeat(np.arange(4), [40, 30, 50, 10])
    draws = list(_episodes(y, 3, 8, 5, 6, seed=1))
    assert len(draws) == 6
    for support, query in draws:
        assert support.shape == (3, 8)
        assert query.shape == (3, 5)
        assert len(np.unique(np.concatenate([support.ravel(), query.ravel()]))) == 39
        for rows in (support, query):
            assert all(len(set(y[row])) == 1 for row in rows)
        assert (y[support[:, 0]] == y[query[:, 0]]).all()
        # The class of ten has too few for 8 + 5.
        assert 3 not in y[support]
    again = list(_episodes(y, 3, 8, 5, 6, seed=1))
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all()
               for a, b in zip(draws, again, strict=True))  # fmt: skip
    assert any((a[0] != b[0]).any()
               for a, b in zip(draws, _episodes(y, 3, 8, 5, 6, seed=2), strict=True))  # fmt: skip


def test_accuracies_are_those_of_students_trained_by_hand():
    x, y = layers()
    result = few_shot(x, y, ways=3, shots=[2, 4], episodes=4, seed=7, progress=False,
                      selectors={"knn": LayerSelector("gbc", normalise="unit")},
                      )  # fmt: skip
    joined = np.hstack([unit_rows(v) for v in x.values()])
    for e, (support, query) in enumerate(_episodes(y, 3, 4, 15, 4, seed=7)):
        for s, k in enumerate((2, 4)):
            train, test = support[:, :k].ravel(), query.ravel()
            for m, features in enumerate((unit_rows(x["last"]), joined)):
                student = LogisticRegression(max_iter=1000).fit(features[train], y[train])
                expected = student.score(features[test], y[test])
                assert result.accuracies[m, s, e] == pytest.approx(expected, abs=1.01 / 45)
    assert result.columns[0].max() == result.columns[0].min() == 8
    assert set(np.unique(result.columns[2])) <= {8, 10}


def test_the_same_seed_gives_the_same_result():
    x, y = layers()
    options = {"ways": 3, "shots": [3], "episodes": 3, "progress": False, "selectors": {}}
    first, second = few_shot(x, y, seed=3, **options), few_shot(x, y, seed=3, **options)
    np.testing.assert_array_equal(first.accuracies, second.accuracies)
    assert (few_shot(x, y, seed=4, **options).accuracies != first.accuracies).any()


def test_selectors_see_the_support_set_and_nothing_else():
    x, y = layers()
    Recorder.seen = []
    few_shot(x, y, ways=3, shots=[1, 2], episodes=2, seed=5, progress=False,
             selectors={"mine": Recorder()})  # fmt: skip
    joined = np.hstack([unit_rows(v) for v in x.values()])
    expected = [
        support[:, :k].ravel()
        for support, _ in _episodes(y, 3, 2, 15, 2, seed=5)
        for k in (1, 2)
    ]  # fmt: skip
    assert len(Recorder.seen) == len(expected)
    for (seen, labels), rows in zip(Recorder.seen, expected, strict=True):
        np.testing.assert_allclose(seen, joined[rows], rtol=1e-12)
        np.testing.assert_array_equal(labels, y[rows])


def test_a_hidden_layer_that_knows_more_is_found_and_wins():
    x, y = layers()
    selectors = {"ATL-style": FeatureMapSelector(repeats=1)}
    result = few_shot(x, y, ways=4, shots=[5], episodes=6, progress=False, selectors=selectors)
    frame = result.to_frame().set_index("method")
    assert frame.loc["ATL-style", "difference_low"] > 0.2
    assert frame.loc["ATL-style", "columns"] == 18


def test_the_frame_has_means_intervals_and_paired_differences():
    accuracies = np.random.default_rng(0).uniform(0.4, 0.9, (2, 2, 12))
    result = FewShotResult(("a", "b"), (1, 5), accuracies, np.full((2, 2, 12), 7.0), 5, 15, 0)
    frame = result.to_frame()
    assert len(frame) == 4
    row = frame[(frame["method"] == "b") & (frame["shots"] == 5)].iloc[0]
    interval = ttest_1samp(accuracies[1, 1], 0).confidence_interval(0.95)
    assert row["accuracy"] == pytest.approx(accuracies[1, 1].mean())
    assert (row["low"], row["high"]) == pytest.approx(tuple(interval))
    paired = ttest_1samp(accuracies[1, 1] - accuracies[0, 1], 0).confidence_interval(0.95)
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(tuple(paired))
    assert row["columns"] == 7
    assert (frame[frame["method"] == "a"]["difference"] == 0).all()


def test_the_plot_has_a_curve_with_intervals_per_method():
    from matplotlib.figure import Figure

    accuracies = np.random.default_rng(0).uniform(0.4, 0.9, (2, 3, 12))
    result = FewShotResult(("a", "b"), (1, 5, 9), accuracies, accuracies, 5, 15, 0, "m on t")
    ax = Figure().subplots()
    assert result.plot(ax=ax) is ax
    curves = ax.containers
    assert [c.get_label() for c in curves] == ["a", "b"]
    assert curves[0].lines[0].get_color() == MUTED
    np.testing.assert_allclose(curves[1].lines[0].get_ydata(), accuracies[1].mean(axis=1))
    bars = curves[1].lines[2][0].get_segments()[0]
    row = result.to_frame().iloc[3]
    np.testing.assert_allclose(bars[:, 1], [row["low"], row["high"]])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["1", "5", "9"]
    assert ax.get_title(loc="left") == "m on t, 5-way, 12 episodes"


def test_any_transformer_and_any_student():
    x, y = layers()
    result = few_shot(x, y, ways=3, shots=[4], episodes=2, progress=False,
                      student=KNeighborsClassifier(1), selectors={"anova": SelectKBest(k=5)},
                      )  # fmt: skip
    assert result.columns[2].tolist() == [[5, 5]]


def test_a_store_brings_its_labels_and_its_name():
    task = tm.load_task("sklearn:digits", examples=300)
    store = tm.extract("zoo:mixer-usps", task, progress=False, layers="blocks")
    result = few_shot(store, ways=5, shots=[1, 2], episodes=2, progress=False, selectors={})
    assert result.title == f"zoo:mixer-usps on {task.name}"
    assert (result.accuracies > 0.2).any()


def test_warnings_of_many_episodes_are_said_once():
    x, y = layers()
    with pytest.warns(TransferMetricsWarning, match=r"one example per class.*\(3 times\)") as said:
        few_shot(x, y, ways=3, shots=[1], episodes=3, progress=False)
    assert len(said) == 1


def test_a_selector_that_fails_leaves_a_gap_and_its_reason():
    x, y = layers()
    selectors = {"probe": LayerSelector("linear_probe")}
    with pytest.warns(TransferMetricsWarning, match="probe failed: .*two examples"):
        result = few_shot(x, y, ways=3, shots=[1, 3], episodes=2, progress=False,
                          selectors=selectors)  # fmt: skip
    assert np.isnan(result.accuracies[2, 0]).all()
    assert np.isfinite(result.accuracies[2, 1]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ways": 7}, "6 classes have the"),
        ({"ways": 1}, "at least two ways"),
        ({"shots": [40]}, "0 classes have the 40"),
        ({"shots": [0]}, "shots"),
        ({"shots": []}, "shots"),
        ({"episodes": 1}, "episodes"),
        ({"queries": 0}, "queries"),
        ({"selectors": {"penultimate": FeatureMapSelector()}}, "named"),
        ({"y": None}, "y cannot be None"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, words):
    x, y = layers()
    with pytest.raises(InvalidInputError, match=words):
        few_shot(x, **{"y": y, "shots": [1], "progress": False, **options})


def test_a_penultimate_layer_by_name():
    x, y = layers()
    result = few_shot(x, y, ways=3, shots=[2], episodes=2, progress=False, selectors={},
                      penultimate="hidden")  # fmt: skip
    assert (result.columns[0] == 10).all()
    with pytest.raises(LayerNotFoundError):
        few_shot(x, y, ways=3, shots=[2], penultimate="fc", progress=False)
