"""LinearProbe against scikit-learn and hand-derived values, and what all heads share."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

import transfer_metrics as tm
from transfer_metrics.errors import (
    CorruptStoreError,
    IncompatibleStoreError,
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
    UnknownNameError,
)
from transfer_metrics.heads import head_files
from transfer_metrics.heads.base import HEADS, Head, load_head, resolve_head
from transfer_metrics.heads.linear import (
    LINEAR_C,
    LinearProbe,
    _fit_quietly,
    _padded,
    _path_of,
    _unnormalised,
)
from transfer_metrics.sources.tasks.subtasks import stratified_holdout
from transfer_metrics.sources.tasks.task import Split
from transfer_metrics.statistics.inputs import dominating

SMALL = (1e-3, 1e-1, 1e1)
MODEL = "zoo:cnn-mnist"


def of_other_kinds(estimator):
    """scikit-learn has other classes for regression; here the targets decide."""
    return {
        "check_classifiers_regression_target": "it fits a ridge regression",
        "check_supervised_y_2d": "labels (N, 1) are taken as (N,), as everywhere, without a word",
    }


@parametrize_with_checks([LinearProbe(C_grid=SMALL)], expected_failed_checks=of_other_kinds)
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_columns_in_units_of_their_own_are_told(load, recwarn):
    X, y = load(return_X_y=True)
    for see in (tm.LinearProbe(C_grid=SMALL).fit, lambda X, y: tm.score(X, y, "h_score")):
        with pytest.warns(
            TransferMetricsWarning, match="of the variance of the features; .* stand"
        ):
            see(X, y)
        with pytest.warns(TransferMetricsWarning, match=r"column.* of \d+ ha"):
            see(torch.from_numpy(X).float(), y)
        recwarn.clear()
        see((X - X.mean(0)) / X.std(0), y)
        see(X[:, :9], y)  # among few columns one may well vary most
        assert not recwarn.list


def test_probabilities_and_columns_that_do_not_vary_have_no_units():
    random = np.random.default_rng(0)
    logits = random.normal(size=(40, 50)) + 12 * np.eye(50)[np.arange(40) % 2]
    chances = softmax(logits, axis=1)
    assert not dominating(chances)
    assert dominating(3 * chances)
    tm.score(chances, np.arange(40) // 20, ["leep", "nce"])
    assert not dominating(np.hstack([random.normal(size=(40, 3)), np.ones((40, 40))]))


def data(n=90, d=5, classes=3, seed=0):
    random = np.random.default_rng(seed)
    y = random.integers(classes, size=n)
    return random.normal(size=(n, d)) + 1.5 * np.eye(classes, d)[y], y


def small_task(n=200, seed=0):
    """Some of the digits, every class in every split."""
    full = tm.load_task("sklearn:digits")
    rows = np.random.default_rng(seed).permutation(len(full["train"]))
    parts = {"train": rows[:n], "val": rows[n : n + 80]}
    splits = {name: full["train"].rows(part) for name, part in parts.items()}
    splits["test"] = full["test"].rows(np.arange(100))
    return dataclasses.replace(full, splits=splits)


@pytest.fixture(scope="module")
def task():
    return small_task()


@pytest.fixture(scope="module")
def fitted(task):
    return LinearProbe(C_grid=SMALL).fit(MODEL, task)


class TestProtocol:
    def test_the_grid_is_the_papers(self):
        np.testing.assert_allclose(LINEAR_C, np.logspace(-7, 2, 50))
        assert LinearProbe().C_grid == LINEAR_C
        assert LinearProbe().max_iter == 200

    def test_it_equals_the_papers_loop_written_plainly(self):
        X, y = data(120, seed=1)
        Xv, yv = data(60, seed=2)
        grid = (1e-4, 1e-2, 1.0, 1e2)
        mean, std = X.mean(), X.std()
        model = LogisticRegression(max_iter=200, warm_start=True)
        best, scores = -1.0, []
        for C in grid:
            model.set_params(C=C).fit((X - mean) / std, y)
            scores.append(model.score((Xv - mean) / std, yv))
            if scores[-1] > best:
                best, coef, intercept, chosen = scores[-1], model.coef_, model.intercept_, C
        probe = LinearProbe(C_grid=grid[::-1]).fit(X, y, validation=(Xv, yv))
        assert chosen == probe.C_
        assert probe.val_scores_.tolist() == scores
        expected = (Xv - mean) / std @ coef.T + intercept
        np.testing.assert_allclose(probe.logits(Xv), expected, rtol=1e-9, atol=1e-9)

    def test_at_its_optimum_it_agrees_with_plain_scikit_learn(self):
        X, y = load_iris(return_X_y=True)
        probe = LinearProbe(C_grid=(0.5,), max_iter=5000).fit(X, y, validation=(X, y))
        plain = LogisticRegression(C=0.5, max_iter=5000, tol=1e-8).fit((X - X.mean()) / X.std(), y)
        np.testing.assert_allclose(
            probe.predict_proba(X), plain.predict_proba((X - X.mean()) / X.std()), atol=5e-3
        )

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
    def test_undoing_the_normalisation_keeps_the_logits(self, seed, mean, std):
        random = np.random.default_rng(seed)
        w, b, x = random.normal(size=(3, 4)), random.normal(size=3), random.normal(size=(5, 4))
        w1, b1 = _unnormalised(w, b, mean, std)
        x1 = x * std + mean
        np.testing.assert_allclose(x1 @ w1.T + b1, x @ w.T + b, atol=1e-8 * (1 + abs(mean) / std))

    def test_two_classes_give_half_the_weights_each(self):
        X, y = data(classes=2)
        probe = LinearProbe(C_grid=SMALL).fit(X, y, validation=(X, y))
        np.testing.assert_allclose(probe.coef_[0], -probe.coef_[1])
        np.testing.assert_allclose(probe.intercept_[0], -probe.intercept_[1])
        scaled = (X - X.mean()) / X.std()
        model = LogisticRegression(max_iter=200, warm_start=True)
        for C in [c for c in SMALL if c <= probe.C_]:
            model.set_params(C=C).fit(scaled, y)
        np.testing.assert_allclose(
            probe.decision_function(X), model.decision_function(scaled), rtol=1e-6, atol=1e-8
        )
        np.testing.assert_allclose(probe.predict_proba(X), model.predict_proba(scaled), atol=1e-8)

    def test_a_class_without_training_examples_has_logit_zero(self):
        X, y = data(classes=3)
        path = _path_of(
            "classification", X, np.array([0, 2, 3])[y], X, np.array([0, 2, 3])[y], 5, C_grid=SMALL
        )
        assert not path.coef[[1, 4]].any()
        assert not path.intercept[[1, 4]].any()
        without = _path_of("classification", X, y, X, y, 3, C_grid=SMALL)
        np.testing.assert_allclose(path.coef[[0, 2, 3]], without.coef)
        np.testing.assert_allclose(path.intercept[[0, 2, 3]], without.intercept)

    def test_an_absent_class_can_win(self):
        weight, bias = _padded(
            np.array([[2.0], [1.0]]), np.array([-1.0, -2.0]), np.array([0, 1]), 3
        )
        assert (np.zeros((1, 1)) @ weight.T + bias).argmax() == 2

    def test_of_equal_accuracy_the_lowest_cross_entropy_wins(self):
        X = np.array([[-1.0], [-0.9], [0.9], [1.0]])
        y = np.array([0, 0, 1, 1])
        # One is so close to the border that certainty about it costs more than it gains.
        held = np.array([[-1.0], [-0.05], [0.02], [0.8]])
        grid = (1e-7, 1e-3, 1.0, 10.0, 100.0)
        probe = LinearProbe(C_grid=grid).fit(X, y, validation=(held, y))
        assert probe.val_scores_.tolist() == [1.0] * 5
        scaled = [(part - X.mean()) / X.std() for part in (X, held)]
        losses = []
        for C in grid:
            plain = LogisticRegression(C=C, max_iter=200).fit(scaled[0], y)
            losses.append(log_loss(y, plain.predict_proba(scaled[1])))
        assert grid[int(np.argmin(losses))] == probe.C_

    def test_only_the_best_by_accuracy_count(self):
        X, y = data(200, seed=3)
        Xv, yv = data(100, seed=4)
        probe = LinearProbe().fit(X, y, validation=(Xv, yv))
        scores = probe.val_scores_
        assert len(set(scores.tolist())) > 1
        assert scores[LINEAR_C.index(probe.C_)] == probe.val_score_ == scores.max()

    @pytest.mark.parametrize("seed", range(4))
    def test_what_is_easy_is_as_easy_after_the_refit(self, seed):
        """Where every strength is right on validation examples, the first tells next to nothing."""
        random = np.random.default_rng(seed)
        y = np.arange(120) % 3
        X = random.normal(size=(120, 16)) + 6 * np.eye(3, 16)[y]
        probe = LinearProbe(random_state=seed).fit(X, y)
        assert probe.val_scores_[0] == 1.0
        again = random.normal(size=(300, 16)) + 6 * np.eye(3, 16)[np.arange(300) % 3]
        assert probe.score(again, np.arange(300) % 3) > 0.99
        assert probe.predict_proba(again).max(axis=1).min() > 0.5

    def test_fits_that_run_out_of_iterations_are_counted(self):
        X, y = data(200, d=20)
        probe = LinearProbe(C_grid=(1e-3, 1e6), max_iter=2).fit(X, y)
        assert probe.unconverged_ == 2
        assert LinearProbe(C_grid=(1e-7,)).fit(X, y).unconverged_ == 0
        assert _fit_quietly(LogisticRegression(max_iter=1), X, y) == 1

    def test_refitting_uses_all_data_with_the_chosen_strength(self):
        X, y = data(150, seed=5)
        kept = LinearProbe(C_grid=SMALL, refit=False).fit(X, y)
        again = LinearProbe(C_grid=SMALL, max_iter=5000).fit(X, y)
        assert again.C_ == kept.C_
        scaled = (X - X.mean()) / X.std()
        plain = LogisticRegression(C=again.C_, max_iter=5000, tol=1e-8).fit(scaled, y)
        np.testing.assert_allclose(again.predict_proba(X), plain.predict_proba(scaled), atol=1e-3)
        rows, held = stratified_holdout(y, 0.2, 0)
        by_hand = _path_of("classification", X[rows], y[rows], X[held], y[held], 3, C_grid=SMALL)
        np.testing.assert_array_equal(kept.coef_, by_hand.coef)
        two = LinearProbe(C_grid=SMALL).fit(X, y % 2)
        np.testing.assert_allclose(two.coef_[0], -two.coef_[1])

    def test_half_precision_features_are_fitted_in_float32(self):
        X, y = data(60)
        probe = LinearProbe(C_grid=SMALL).fit({"a": X.astype(np.float16)}, y)
        assert probe.coef_.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=4, max_size=80),
    st.floats(0.05, 0.6),
    st.integers(0, 1000),
)
def test_the_held_out_part_is_stratified(labels, fraction, seed):
    labels = np.array(labels)
    if max(np.bincount(labels)) < 2:
        with pytest.raises(InvalidInputError, match="nothing can be held out"):
            stratified_holdout(labels, fraction, seed)
        return
    stay, out = stratified_holdout(labels, fraction, seed)
    assert sorted([*stay, *out]) == list(range(len(labels)))
    assert len(out) >= 1
    for code, count in enumerate(np.bincount(labels)):
        if count:
            assert (labels[stay] == code).any()
            assert (labels[out] == code).sum() <= fraction * count + 1
    again = stratified_holdout(labels, fraction, seed)
    np.testing.assert_array_equal(out, again[1])


class TestInputs:
    def test_a_model_and_its_store_give_the_same_head(self, task, fitted):
        store = tm.extract(MODEL, task, layers="last", progress=False)
        held = tm.extract(MODEL, task, layers="last", split="val", progress=False)
        test = tm.extract(MODEL, task, layers="last", split="test", progress=False)
        probe = LinearProbe(C_grid=SMALL).fit(store, validation=held)
        np.testing.assert_array_equal(probe.coef_, fitted.coef_)
        assert probe.C_ == fitted.C_
        assert probe.score(test) == fitted.score(test) == fitted.score(task) > 0.8
        np.testing.assert_allclose(fitted.logits(test), fitted.logits(task), atol=1e-4)
        np.testing.assert_allclose(probe.logits(task), probe.logits(test), atol=1e-4)
        assert probe.class_names_ == task.classes
        assert probe.classes_.tolist() == list(range(10))

    def test_all_ways_to_name_the_same_examples(self, task, fitted):
        expected = fitted.predict(task, split="val")
        assert (fitted.predict(task["val"]) == expected).all()
        raw = [task["val"].examples[i] for i in range(len(task["val"]))]
        assert task.classes == tuple(map(str, range(10)))
        assert (fitted.predict(raw) == expected).all()  # names that are numbers are told as such
        labels = task["val"].labels
        named = fitted.score(raw, np.array(task.classes)[labels])
        assert (
            named
            == fitted.score(raw, labels)
            == fitted.score(task["val"])
            == np.mean(expected == labels)
        )
        np.testing.assert_allclose(
            fitted.predict_proba(task["val"]), softmax(fitted.logits(task["val"]), axis=1)
        )

    def test_layers_of_a_mapping_are_chosen_and_put_side_by_side(self):
        X, y = data(80, d=6)
        layers = {"a": X[:, :2], "b": X[:, 2:]}
        every = LinearProbe("all", C_grid=SMALL).fit(layers, y)
        plain = LinearProbe(C_grid=SMALL).fit(X, y)
        np.testing.assert_allclose(every.logits(layers), plain.logits(X), rtol=1e-9)
        np.testing.assert_allclose(every.logits(X), plain.logits(X), rtol=1e-9)
        last = LinearProbe("last", C_grid=SMALL).fit(layers, y)
        assert [layer.name for layer in last.layers_] == ["b"]
        assert last.n_features_in_ == 4
        swapped = LinearProbe(["b", "a"], C_grid=SMALL).fit(layers, y)
        assert swapped.coef_.shape == (3, 6)
        assert swapped.score(layers, y) > 0.5
        with pytest.raises(LayerNotFoundError, match="unknown layer 'c'"):
            LinearProbe("c").fit(layers, y)
        with pytest.raises(LayerNotFoundError, match="unknown layer 'b'"):
            last.predict({"a": X[:, :2]})
        with pytest.raises(InvalidInputError, match=r"'b' had 4 features when .* and has 2"):
            last.predict({"b": X[:, :2]})

    def test_several_layers_of_a_model(self, task):
        probe = LinearProbe("last:2", C_grid=(0.1,)).fit(MODEL, task)
        assert len(probe.layers_) == 2
        store = tm.extract(MODEL, task, layers="last:2", split="test", progress=False)
        np.testing.assert_allclose(probe.logits(store), probe.logits(task), atol=1e-4)

    def test_labels_of_any_kind(self):
        X, y = data(60)
        names = np.array(["x", "yy", "zzz"])[y]
        probe = LinearProbe(C_grid=SMALL).fit(X, names)
        assert probe.classes_.tolist() == ["x", "yy", "zzz"]
        assert set(probe.predict(X)) <= set(names)
        held = LinearProbe(C_grid=SMALL).fit(X, names, validation=(X, np.array(["new"] * 60)))
        assert held.val_score_ == 0.0  # a label that was not fitted on is never right

    def test_neither_test_nor_ood_labels_are_read(self, task):
        shuffled = {
            name: Split(part.examples, np.random.default_rng(1).permutation(part.labels))
            for name, part in task.splits.items()
        }
        other = dataclasses.replace(
            task, splits=dict(task.splits) | {"test": shuffled["test"], "ood": shuffled["val"]}
        )
        one, two = (LinearProbe(C_grid=SMALL).fit(MODEL, t) for t in (task, other))
        assert one.C_ == two.C_
        np.testing.assert_array_equal(one.coef_, two.coef_)

    def test_validation_is_the_tasks_own_unless_one_is_given(self, task, fitted):
        wrong = (task["val"].labels + 1) % 10
        changed = dataclasses.replace(
            task, splits=dict(task.splits) | {"val": Split(task["val"].examples, wrong)}
        )
        own = LinearProbe(C_grid=SMALL).fit(MODEL, changed)
        assert own.val_score_ < 0.3 < fitted.val_score_
        given_split = LinearProbe(C_grid=SMALL).fit(MODEL, changed, validation=task["val"])
        assert given_split.val_scores_.tolist() == fitted.val_scores_.tolist()
        raw = [task["val"].examples[i] for i in range(len(task["val"]))]
        pair = LinearProbe(C_grid=SMALL).fit(MODEL, changed, validation=(raw, task["val"].labels))
        assert pair.val_scores_.tolist() == fitted.val_scores_.tolist()

    @pytest.mark.parametrize(
        ("fit", "error", "message"),
        [
            (lambda: LinearProbe().fit(MODEL), InvalidInputError, "needs a task"),
            (lambda: LinearProbe().fit(MODEL, "sklearn:diabetes"), InvalidInputError, "image"),
            (lambda: LinearProbe().fit({"a": np.eye(4)}), InvalidInputError, "y is missing"),
            (lambda: LinearProbe().fit(np.eye(4), [1] * 4), InvalidInputError, "one class"),
            (lambda: LinearProbe().fit(np.ones((4, 2)), [0, 0, 1, 1]), InvalidInputError, "same"),
            (lambda: LinearProbe(validation=1.0).fit(*data()), InvalidInputError, "share"),
            (lambda: LinearProbe(validation=None).fit(*data()), InvalidInputError, "share"),
            (lambda: LinearProbe(C_grid=(0.0,)).fit(*data()), InvalidInputError, "positive"),
            (lambda: LinearProbe(C_grid=()).fit(*data()), InvalidInputError, "positive"),
            (lambda: LinearProbe().fit(*data(), validation=3), InvalidInputError, "is an int"),
            (
                lambda: LinearProbe().fit(*data(), validation=(np.eye(5), [0])),
                InvalidInputError,
                "5 examples",
            ),
            (
                lambda: LinearProbe().fit(MODEL, small_task(), validation=([0], [99])),
                InvalidInputError,
                "validation has the labels 99",
            ),
        ],
    )
    def test_what_cannot_be_fitted_is_refused(self, fit, error, message):
        with pytest.raises(error, match=message):
            fit()

    def test_features_of_something_else_are_refused(self, task, fitted):
        other = tm.extract("zoo:cnn-cifar10", task, layers="last", split="test", progress=False)
        with pytest.raises(IncompatibleStoreError, match="zoo:cnn-cifar10"):
            fitted.predict(other)
        pooled = tm.extract(MODEL, task, "last", "max", split="test", progress=False)
        with pytest.raises(IncompatibleStoreError, match="pooled with 'max'"):
            fitted.predict(pooled)
        with pytest.raises(InvalidInputError, match="labels would not mean the same"):
            fitted.score("zoo:glyphs")
        with pytest.raises(InvalidInputError, match="y is missing"):
            fitted.score([task["val"].examples[0]])
        with pytest.raises(InvalidInputError, match="no split 'ood'"):
            fitted.predict(task, split="ood")
        with pytest.raises(InvalidInputError, match="no examples"):
            fitted.predict([])


class TestNetwork:
    def test_it_predicts_what_the_head_does_and_shares_nothing(self, task, fitted):
        network, model = fitted.network(), fitted.source_.get()
        batch = model.batch([task["test"].examples[i] for i in range(20)])
        with torch.no_grad():
            logits = network(batch).numpy()
        np.testing.assert_allclose(logits, fitted.logits(task)[:20], atol=1e-4)
        before, fingerprint = fitted.logits(task), tm.load_model(MODEL).fingerprint
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        np.testing.assert_array_equal(fitted.logits(task), before)
        assert dataclasses.replace(model).fingerprint == fingerprint

    def test_a_head_on_a_store_finds_its_network_by_name(self, task):
        store = tm.extract(MODEL, task, layers="last", pool="max", progress=False)
        probe = LinearProbe(C_grid=(0.1,)).fit(store)
        assert probe.network().pool.name == "max"
        with pytest.raises(IncompatibleStoreError, match="cnn-cifar10"):
            probe.network("zoo:cnn-cifar10")

    def test_arrays_have_no_network(self):
        probe = LinearProbe(C_grid=SMALL).fit(*data())
        with pytest.raises(InvalidInputError, match="fitted on arrays"):
            probe.network()
        with pytest.raises(InvalidInputError, match="fitted on arrays"):
            probe.predict("sklearn:digits")


class TestSaving:
    def test_the_head_that_is_read_is_the_head_that_was_saved(self, task, fitted, tmp_path):
        fitted.save(tmp_path / "head")
        assert sorted(os.listdir(tmp_path / "head")) == ["head.json", "head.safetensors"]
        read = Head.load(tmp_path / "head")
        assert type(read) is LinearProbe
        assert read.get_params() == fitted.get_params()
        assert read.source_.model is None  # not loaded before it is needed
        np.testing.assert_array_equal(read.logits(task), fitted.logits(task))
        np.testing.assert_array_equal(read.val_scores_, fitted.val_scores_)
        assert (read.C_, read.unconverged_) == (fitted.C_, fitted.unconverged_)
        assert read.class_names_ == fitted.class_names_
        read.save(tmp_path / "again")
        one, two = ((tmp_path / d / "head.json").read_text() for d in ("head", "again"))
        assert one == two

    def test_arrays_and_labels_that_are_words(self, tmp_path):
        X, y = data()
        y = np.array(["x", "yy", "zzz"])[y]
        probe = LinearProbe(C_grid=SMALL).fit(X, y)
        probe.save(tmp_path / "head")
        read = LinearProbe.load(tmp_path / "head")
        assert (read.predict(X) == probe.predict(X)).all()
        assert read.n_features_in_ == 5
        objects = LinearProbe(C_grid=SMALL).fit(X, y.astype(object))
        objects.save(tmp_path / "objects")
        assert (LinearProbe.load(tmp_path / "objects").predict(X) == probe.predict(X)).all()

    def test_a_module_has_to_be_given_and_is_checked(self, tmp_path):
        X, y = data(60)
        torch.manual_seed(0)
        module = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
        probe = LinearProbe(C_grid=SMALL).fit(module, (X.astype(np.float32), y))
        probe.save(tmp_path / "head")
        with pytest.raises(InvalidInputError, match=r"'Sequential'.*load_head\(path, model="):
            load_head(tmp_path / "head").predict(X)
        read = load_head(tmp_path / "head", module)
        assert (read.predict(X) == probe.predict(X)).all()
        other = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
        with pytest.raises(IncompatibleStoreError, match="fingerprint"):
            load_head(tmp_path / "head", other)

    def test_a_pooling_of_ones_own_must_have_a_name(self, task, tmp_path):
        probe = LinearProbe(pool=lambda x, layout, mask: x.flatten(1)[:, :8], C_grid=(0.1,))
        probe.fit(MODEL, task)
        assert probe.network().pool.name == probe.pool_
        with pytest.raises(InvalidInputError, match=r"POOLINGS\.register"):
            probe.save(tmp_path / "head")

    @pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
    def test_damage_is_found(self, fitted, tmp_path, name):
        fitted.save(tmp_path / "head")
        path = tmp_path / "head" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CorruptStoreError, match=name.replace(".", "\\.")):
            load_head(tmp_path / "head")
        path.unlink()
        with pytest.raises(CorruptStoreError, match=r"save it again|save the head again"):
            load_head(tmp_path / "head")

    def test_altered_numbers_are_found(self, fitted, tmp_path):
        fitted.save(tmp_path / "head")
        path = tmp_path / "head" / "head.safetensors"
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)
        with pytest.raises(CorruptStoreError, match="SHA-256"):
            load_head(tmp_path / "head")

    def test_records_that_do_not_fit_are_refused(self, fitted, tmp_path):
        fitted.save(tmp_path / "head")
        path = tmp_path / "head" / "head.json"
        record = json.loads(path.read_text())
        cases = [
            ({"head": "linear_prob"}, UnknownNameError, "did you mean 'linear_probe'"),
            ({"format": "2"}, IncompatibleStoreError, "format '2'"),
            ({"classes": None}, CorruptStoreError, "damaged"),
            ({"params": {"nonsense": 1}}, CorruptStoreError, "damaged"),
        ]
        for change, error, message in cases:
            path.write_text(json.dumps(record | change))
            with pytest.raises(error, match=message):
                load_head(tmp_path / "head")
        with pytest.raises(InvalidInputError, match="no head at"):
            load_head(tmp_path / "nowhere")

    def test_a_name_in_a_file_runs_no_code(self, tmp_path, monkeypatch):
        called = tmp_path / "called"
        touch = f"open({str(called)!r}, 'w').close()"
        (tmp_path / "intruder.py").write_text(f"{touch}\n\ndef run():\n    {touch}\n")
        monkeypatch.syspath_prepend(tmp_path)
        store = tm.extract("zoo:cnn-mnist", "sklearn:digits?examples=300", "last", progress=False)
        LinearProbe(C_grid=(1.0,)).fit(store).save(tmp_path / "head")
        path = tmp_path / "head" / "head.json"
        record = json.loads(path.read_text())
        for name in ("intruder:run", "intruder:run()", "Sequential"):
            record["model"] |= {"name": name, "spec": name}
            path.write_text(json.dumps(record))
            head = load_head(tmp_path / "head")
            with pytest.raises(InvalidInputError, match="is not loaded by name"):
                head.network()
        assert not called.exists()
        network = load_head(tmp_path / "head", model="zoo:cnn-mnist").network()
        assert network.head.out_features == 10

    def test_another_folder_is_left_alone(self, fitted, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "photo.jpg").write_text("x")
        with pytest.raises(InvalidInputError, match=r"holds 'photo\.jpg'"):
            fitted.save(tmp_path / "mine")
        assert (tmp_path / "mine" / "photo.jpg").exists()
        assert os.listdir(tmp_path) == ["mine"]

    def test_what_others_put_beside_a_head_stays(self, fitted, tmp_path):
        place = tmp_path / "head"
        fitted.save(place)
        (place / "new").mkdir()
        (place / "new" / "photo.jpg").write_text("x")
        (place / ".notes").write_text("y")
        clone(fitted).set_params(C_grid=(1.0,)).fit(*data()).save(place)
        assert LinearProbe.load(place).C_grid == (1.0,)
        assert (place / "new" / "photo.jpg").read_text() == "x"
        assert (place / ".notes").read_text() == "y"
        assert os.listdir(tmp_path) == ["head"]

    def test_labels_of_other_examples_are_refused(self):
        X, y = data()
        fitted = LinearProbe(C_grid=SMALL).fit(X, y)
        with pytest.raises(InvalidInputError, match=f"{len(X)} examples and y {len(y) - 1} labels"):
            fitted.score(X, y[:-1])

    def test_a_failure_leaves_the_old_head(self, fitted, tmp_path, monkeypatch):
        fitted.save(tmp_path / "head")
        before = (tmp_path / "head" / "head.json").read_text()
        other = clone(fitted).set_params(C_grid=(1.0,)).fit(*data())

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(head_files.os, "fsync", full)
        with pytest.raises(InvalidInputError, match="No space left"):
            other.save(tmp_path / "head")
        monkeypatch.undo()
        rename, calls = head_files.Path.rename, []

        def second_fails(self, target):
            calls.append(target)
            if len(calls) == 2:
                raise OSError(5, "Input/output error")
            return rename(self, target)

        monkeypatch.setattr(head_files.Path, "rename", second_fails)
        with pytest.raises(InvalidInputError, match="Input/output error"):
            other.save(tmp_path / "head")
        monkeypatch.undo()
        assert (tmp_path / "head" / "head.json").read_text() == before
        assert os.listdir(tmp_path) == ["head"]
        other.save(tmp_path / "head")
        assert LinearProbe.load(tmp_path / "head").C_grid == (1.0,)
        shutil.rmtree(tmp_path / "head")

    def test_what_json_cannot_hold_is_said(self, tmp_path):
        probe = LinearProbe(C_grid=SMALL, random_state=np.random.RandomState(0)).fit(*data())
        with pytest.warns(TransferMetricsWarning, match="random_state"):
            probe.save(tmp_path / "head")
        assert LinearProbe.load(tmp_path / "head").random_state == 0


class TestRegistry:
    def test_names_are_those_of_the_classes(self):
        for name in ("linear_probe", "finetune", "lpft"):
            assert HEADS[name].name == name

    def test_specifications(self):
        head = resolve_head("linear_probe(C_grid=(1.0, 2.0), refit=False)")
        assert (head.C_grid, head.refit) == ((1.0, 2.0), False)
        assert resolve_head(head) is head
        assert isinstance(resolve_head(LinearProbe), LinearProbe)
        with pytest.raises(UnknownNameError, match="did you mean 'lpft'"):
            resolve_head("lptf")
        with pytest.raises(UnknownNameError, match="did you mean 'epochs'"):
            resolve_head("lpft(epoch=3)")
        with pytest.raises(InvalidInputError, match="a head is an int"):
            resolve_head(3)
