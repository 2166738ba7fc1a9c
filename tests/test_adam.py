"""Training by Adam: what it computes, and going on after an interruption."""

from __future__ import annotations

import json
import math
import os
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open

from transfer_metrics.errors import CorruptStoreError, IncompatibleStoreError, InvalidInputError
from transfer_metrics.selection import adam
from transfer_metrics.selection.adam import loss_of, train_softmax
from transfer_metrics.selection.columns import layer_columns
from transfer_metrics.selection.proximal import group_lasso

N, D, C = 50, 6, 3


def steps_done(path):
    """How far the training in a checkpoint has come."""
    with safe_open(path, framework="np") as file:
        return json.loads(file.metadata()["training"])["state"]["step"]


def data(n=N):
    rng = np.random.default_rng(0)
    y = np.arange(n) % C
    return rng.standard_normal((n, D)) + rng.standard_normal((C, D))[y], y


def train(steps=30, **options):
    x, y = data()
    return train_softmax(layer_columns(x), y, C, steps=steps, **{"batch_size": 16, **options})


def by_autograd(x, y, steps, batch_size, lam, lr, seed):
    """The same by torch's own Adam and gradients, in float64, from the same draws."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    limit = math.sqrt(6 / (D + C))
    weights = ((torch.rand(D, C, generator=generator) * 2 - 1) * limit).double()
    assert weights.abs().max() <= limit
    bias = torch.zeros(C, dtype=torch.float64)
    weights.requires_grad_()
    bias.requires_grad_()
    optimiser = torch.optim.Adam([weights, bias], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    x, y = torch.from_numpy(x)[order], torch.from_numpy(y)[order]
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
    for step in range(steps):
        rows, labels = batches[step % len(batches)]
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(rows @ weights + bias, labels)
        (loss + lam * weights.norm(dim=1).sum()).backward()
        optimiser.step()
        schedule.step()
    return weights.detach().numpy(), bias.detach().numpy()


@pytest.mark.parametrize("lam", [0.0, 0.05])
@pytest.mark.parametrize("batch_size", [16, 50, 128])
def test_it_is_adam_on_cyclic_batches(lam, batch_size):
    fit = train(lam=lam, lr=0.02, seed=3, batch_size=batch_size)
    weights, bias = by_autograd(*data(), 30, batch_size, lam, 0.02, 3)
    np.testing.assert_allclose(fit.weights, weights, atol=2e-6)
    np.testing.assert_allclose(fit.bias, bias, atol=2e-6)
    assert fit.weights.dtype == fit.bias.dtype == np.float32


def test_many_full_batches_come_to_the_minimum():
    x, y = data()
    fit = train_softmax(layer_columns(x), y, C, lam=0.05, lr=0.05, steps=2000, batch_size=N)
    exact = group_lasso(layer_columns(x), y, C, 0.05)
    np.testing.assert_allclose(fit.weights, exact.dense(), atol=2e-3)


def test_the_seed_decides():
    first, again, other = train(seed=1), train(seed=1), train(seed=2)
    np.testing.assert_array_equal(first.weights, again.weights)
    assert not np.array_equal(first.weights, other.weights)


def test_layers_are_columns_side_by_side():
    x, y = data()
    parts = {"a": x[:, :2].astype(np.float16), "b": x[:, 2:]}
    whole = layer_columns(parts).dense()
    a = train_softmax(layer_columns(parts), y, C, steps=5)
    b = train_softmax(layer_columns(whole), y, C, steps=5)
    np.testing.assert_array_equal(a.weights, b.weights)


def break_at(monkeypatch, step, fail):
    """Let a step fail in its middle, when the weights have moved and the moments have not."""
    real = adam._step

    def failing(state, *args):
        if state.step == step:
            state.weights.add_(1.0)
            fail()
        real(state, *args)

    monkeypatch.setattr(adam, "_step", failing)


def test_after_a_failure_training_goes_on_bit_for_bit(monkeypatch, tmp_path):
    path = tmp_path / "state" / "training.safetensors"
    expected = train(lam=0.01)
    monkeypatch.setattr(adam, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    def fail():
        raise RuntimeError("power cut")

    with monkeypatch.context() as context:
        break_at(context, 17, fail)
        with pytest.raises(RuntimeError, match="power cut"):
            train(lam=0.01, checkpoint=path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert steps_done(path) == 17
    steps = []
    real = adam._step
    monkeypatch.setattr(adam, "_step", lambda s, *a: (steps.append(s.step), real(s, *a)))
    found = train(lam=0.01, checkpoint=path)
    assert steps == list(range(17, 30))
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.bias, expected.bias)


def test_ctrl_c_waits_for_the_step_and_keeps_it(monkeypatch, tmp_path):
    path = tmp_path / "training.safetensors"
    expected, before = train(), signal.getsignal(signal.SIGINT)
    real = adam._step

    def interrupted(state, *args):
        if state.step == 8:
            os.kill(os.getpid(), signal.SIGINT)
        real(state, *args)

    with monkeypatch.context() as context:
        context.setattr(adam, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(checkpoint=path)
    assert signal.getsignal(signal.SIGINT) is before
    assert steps_done(path) == 9
    np.testing.assert_array_equal(train(checkpoint=path).weights, expected.weights)


def test_a_failure_while_writing_leaves_the_state_before(monkeypatch, tmp_path):
    path = tmp_path / "training.safetensors"
    monkeypatch.setattr(adam, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    train(steps=5, checkpoint=path)
    kept = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path_of_another = tmp_path / "other.safetensors"
    with pytest.raises(InvalidInputError, match="No space left"):
        train(steps=5, checkpoint=path_of_another)
    assert not path_of_another.exists()
    assert path.read_bytes() == kept


def test_the_state_of_another_training_is_refused(monkeypatch, tmp_path):
    path = tmp_path / "training.safetensors"
    monkeypatch.setattr(adam, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    train(checkpoint=path)
    for options in ({"lam": 0.5}, {"seed": 9}, {"steps": 31}, {"batch_size": 8}, {"lr": 0.1}):
        with pytest.raises(IncompatibleStoreError, match="another training"):
            train(checkpoint=path, **options)
    x, y = data()
    with pytest.raises(IncompatibleStoreError, match="another training"):
        train_softmax(layer_columns(x + 1), y, C, steps=30, batch_size=16, checkpoint=path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptStoreError, match="delete it to train from the beginning"):
        train(checkpoint=path)


def test_nothing_is_kept_where_nothing_was_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(steps=3)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [{"lam": -1.0}, {"lam": math.inf}, {"lr": 0.0}, {"steps": 0}, {"steps": 1.5},
     {"batch_size": 0}],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(options):
    name, value = next(iter(options.items()))
    with pytest.raises(InvalidInputError, match=f"{name}={value}"):
        train(**options)
    x, y = data()
    with pytest.raises(InvalidInputError, match="must lie in 0"):
        train_softmax(layer_columns(x), y, 2)


def test_other_losses_are_those_of_torch():
    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    t = np.stack([x[:, 0] * 2, x[:, 1] + 1], axis=1)
    fit = train_softmax(layer_columns(x), t, 2, kind="regression", lr=0.1, steps=2000)
    np.testing.assert_allclose(x @ fit.weights + fit.bias, t, atol=1e-3)
    out, labels = torch.randn(5, 2), torch.tensor([[0.0, 1.0]] * 5)
    each = torch.nn.BCEWithLogitsLoss(reduction="sum")(out, labels) / 5
    torch.testing.assert_close(loss_of("multilabel")(out, labels), each)
    torch.testing.assert_close(loss_of("regression")(out, labels), (out - labels).pow(2).sum() / 10)


def test_small_products_have_one_thread_and_leave_the_others_as_they_were(monkeypatch):
    seen, before = [], torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(adam, "_step", lambda state, *_: _noted(state, seen))
    train_softmax(layer_columns(np.eye(4)), [0, 0, 1, 1], 2, steps=3)
    assert (seen, torch.get_num_threads()) == ([1, 1, 1], 2)
    torch.set_num_threads(before)


def _noted(state, seen):
    seen.append(torch.get_num_threads())
    state.step += 1
