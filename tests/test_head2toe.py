"""Head2Toe: what it selects and trains, against the paper's rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.selection import adam
from transfer_metrics.selection.columns import layer_columns, unit_rows

RNG = np.random.default_rng(0)
N, CLASSES = 160, 4


def informative(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Three layers of noise, with what tells the classes apart in four columns of the second."""
    rng = np.random.default_rng(seed)
    y = np.arange(N) % CLASSES
    layers = {name: rng.normal(size=(N, 12)) for name in ("early", "middle", "late")}
    layers["middle"][:, :4] += 4.0 * np.eye(CLASSES)[y]
    return layers, y


@pytest.mark.parametrize("solver", ["adam", "proximal"])
def test_informative_columns_of_a_hidden_layer_are_found(solver: str) -> None:
    layers, y = informative()
    head = tm.Head2Toe(keep=4 / 36 + 1e-9, solver=solver, lr=0.05, steps=300).fit(layers, y)
    assert head.kept_ == {"middle": 4}
    assert head.layer_columns_["middle"].tolist() == [0, 1, 2, 3]
    assert head.candidates_ == 36
    fresh, labels = informative(seed=1)
    assert head.score(fresh, labels) > 0.9
    last = tm.Head2Toe(layers=["late"], keep=1.0, lr=0.05, steps=300).fit(layers, y)
    assert last.score(fresh, labels) < 0.5


def test_the_head_reads_selected_columns_at_unit_length_per_layer() -> None:
    layers, y = informative()
    head = tm.Head2Toe(keep=0.3, steps=20).fit(layers, y)
    parts = [unit_rows(layers[name][:, c]) for name, c in head.layer_columns_.items()]
    logits = np.concatenate(parts, axis=1) @ head.coef_.T + head.intercept_
    np.testing.assert_allclose(head.logits(layers), logits, rtol=1e-6, atol=1e-6)
    assert sum(head.kept_.values()) == int(36 * 0.3)


@given(st.floats(0.01, 100.0), st.sampled_from(["early", "middle", "late"]))
@settings(max_examples=10, deadline=None)
def test_rescaling_a_layer_changes_nothing(scale: float, name: str) -> None:
    layers, y = informative()
    head = tm.Head2Toe(keep=0.2, steps=10).fit(layers, y)
    scaled = {**layers, name: scale * layers[name]}
    other = tm.Head2Toe(keep=0.2, steps=10).fit(scaled, y)
    assert head.kept_ == other.kept_
    np.testing.assert_allclose(head.logits(layers), other.logits(scaled), atol=1e-4)


def test_keeping_everything_is_a_classifier_on_all_layers() -> None:
    layers, y = informative()
    head = tm.Head2Toe(keep=1.0, steps=50).fit(layers, y)
    assert head.kept_ == {"early": 12, "middle": 12, "late": 12}
    plain = adam.train_softmax(
        layer_columns(layers).unit_rows(),
        y,
        CLASSES,
        lr=0.01,
        steps=50,
        seed=int(np.random.RandomState(0).randint(2**31 - 1)),
    )
    np.testing.assert_array_equal(head.coef_.T, plain.weights)


def test_a_selection_on_another_task_is_used_as_it_is() -> None:
    layers, y = informative()
    selector = tm.GroupLassoSelector(keep=0.1).fit(layers, y)
    rng = np.random.default_rng(5)
    other = rng.permutation(y)
    head = tm.Head2Toe(selector=selector, steps=10).fit(layers, other)
    kept = np.concatenate([12 * i + c for i, c in enumerate_layers(head)])
    assert kept.tolist() == selector.columns_.tolist()


def enumerate_layers(head):
    order = ["early", "middle", "late"]
    return [(order.index(name), c) for name, c in head.layer_columns_.items()]


def test_columns_inside_layers_and_gathered() -> None:
    layers = {"a": RNG.normal(size=(5, 3)), "b": RNG.normal(size=(5, 4))}
    columns = layer_columns(layers)
    inside = columns.inside([6, 0, 2])
    assert {n: c.tolist() for n, c in inside.items()} == {"a": [0, 2], "b": [3]}
    expected = [unit_rows(layers["a"][:, [0, 2]]), unit_rows(layers["b"][:, [3]])]
    np.testing.assert_array_equal(
        columns.take(inside).unit_rows().dense(), np.concatenate(expected, 1)
    )


def test_on_a_network_the_module_gives_the_same_logits(tmp_path: Path) -> None:
    task = small_glyphs()
    head = tm.Head2Toe(keep=0.05, steps=60, lr=0.05).fit("zoo:resnet-cifar10", task)
    names = {layer.name for layer in tm.list_layers(tm.load_model("zoo:resnet-cifar10"), "*")}
    assert set(head.kept_) <= names
    store = tm.extract(
        "zoo:resnet-cifar10", task, "activations", "grid:512", split="test", progress=False
    )
    np.testing.assert_allclose(head.logits(store), head.logits(task), atol=1e-4)
    network = head.network()
    batch = tm.load_model("zoo:resnet-cifar10").batch(list(task["test"].examples[:5]))
    with torch.no_grad():
        np.testing.assert_allclose(network(batch).numpy(), head.logits(task)[:5], atol=1e-5)
    head.save(tmp_path / "head")
    again = tm.Head2Toe.load(tmp_path / "head")
    np.testing.assert_array_equal(again.logits(task), head.logits(task))
    assert again.kept_ == head.kept_


def small_glyphs() -> tm.Task:
    task = tm.load_task("zoo:glyphs")
    few = {name: split.rows(np.arange(0, len(split), 9)) for name, split in task.splits.items()}
    return tm.Task(task.name, task.kind, task.modality, few, task.classes)


def test_labels_of_test_and_ood_are_not_read() -> None:
    task = small_glyphs()
    rng = np.random.default_rng(0)
    shuffled = {
        name: tm.Split(s.examples, s.labels if name == "train" else rng.permutation(s.labels))
        for name, s in task.splits.items()
    }
    other = tm.Task(task.name, task.kind, task.modality, shuffled, task.classes)
    one = tm.Head2Toe(steps=5).fit("zoo:cnn-mnist", task)
    two = tm.Head2Toe(steps=5).fit("zoo:cnn-mnist", other)
    np.testing.assert_array_equal(one.coef_, two.coef_)


@pytest.mark.parametrize("part", ["relevance", "head"])
def test_interrupted_training_goes_on_to_the_same_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    layers, y = informative()
    whole = tm.Head2Toe(steps=40).fit(layers, y)
    step, limit = adam._step, {"relevance": 25, "head": 65}[part]
    done = []

    def stops(*args):
        done.append(0)
        if len(done) == limit:
            raise KeyboardInterrupt
        step(*args)

    monkeypatch.setattr(adam, "_step", stops)
    monkeypatch.setattr(adam, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    interrupted = tm.Head2Toe(steps=40, checkpoint=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit(layers, y)
    assert (tmp_path / f"{part}.safetensors").exists()
    monkeypatch.setattr(adam, "_step", step)
    resumed = tm.Head2Toe(steps=40, checkpoint=tmp_path).fit(layers, y)
    np.testing.assert_array_equal(resumed.coef_, whole.coef_)
    assert not list(tmp_path.iterdir())


def test_cross_validation_is_that_of_the_single_settings() -> None:
    from sklearn.model_selection import StratifiedKFold

    layers, y = informative()
    grid = {"keep": (0.05, 0.5), "lr": (0.05,), "steps": (60,), "lam": (1e-5, 1e-2)}
    head = tm.Head2ToeCV(grid, cv=4).fit(layers, y)
    assert len(head.cv_results_) == 4
    folds = list(StratifiedKFold(4, shuffle=True, random_state=0).split(y, y))
    for result in head.cv_results_:
        single = {name: result[name] for name in ("keep", "lr", "steps", "lam")}
        accuracies = []
        for rows, out in folds:
            fitted = tm.Head2Toe(**single).fit({n: x[rows] for n, x in layers.items()}, y[rows])
            accuracies.append(fitted.score({n: x[out] for n, x in layers.items()}, y[out]))
        assert result["accuracies"] == pytest.approx(accuracies)
    assert head.best_score_ == max(result["mean"] for result in head.cv_results_)
    best = tm.Head2Toe(**{n: head.best_params_[n] for n in grid}).fit(layers, y)
    np.testing.assert_array_equal(head.coef_, best.coef_)
    assert head.training_reads(N) == best.training_reads(N) == (60 * 128, 36 + head.coef_.shape[1])


def test_wrong_grids() -> None:
    layers, y = informative()
    with pytest.raises(UnknownNameError, match="did you mean 'keep'"):
        tm.Head2ToeCV({"keeps": (0.1,)}).fit(layers, y)
    with pytest.raises(InvalidInputError, match="no value of keep"):
        tm.Head2ToeCV({"keep": ()}).fit(layers, y)
    with pytest.raises(InvalidInputError, match="grid='papers'"):
        tm.Head2ToeCV("papers").fit(layers, y)


def test_h2t_ft_starts_from_head2toe() -> None:
    task = small_glyphs()
    ours = tm.Head2Toe(keep=0.05, steps=40, lr=0.05)
    tuned = tm.H2TFT(ours, epochs=0, progress=False).fit("zoo:cnn-mnist", task)
    rows, _ = _held_out(task)
    start = tm.Task(
        task.name, task.kind, task.modality, {"train": task["train"].rows(rows)}, task.classes
    )
    seed = 0
    plain = tm.Head2Toe(keep=0.05, steps=40, lr=0.05, random_state=seed).fit("zoo:cnn-mnist", start)
    np.testing.assert_allclose(tuned.logits(task), plain.logits(task), atol=1e-5)
    weak = tm.Head2Toe(keep=0.05, steps=1, lr=1e-4)  # a start that is easily beaten
    moved = tm.H2TFT(weak, lr=0.1, epochs=4, batch_size=8, progress=False).fit(
        "zoo:cnn-mnist", task
    )
    assert moved.epoch_ > 0
    before = tm.load_model("zoo:cnn-mnist").module.state_dict()
    after = moved.network().backbone.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def _held_out(task: tm.Task) -> tuple[np.ndarray, np.ndarray]:
    from transfer_metrics.sources.tasks.subtasks import stratified_holdout

    return stratified_holdout(task["train"].labels, 0.2, 0)


def test_examples_per_step_are_not_those_of_a_forward_pass() -> None:
    seen = []
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    network[1].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    task = tm.load_task(x, np.arange(300) % 2)
    head = tm.Head2Toe(keep=0.5, steps=2, batch_size=200, layers="blocks").fit(network, task)
    head.predict(x)
    assert 1 < max(seen) < 200
