"""The training loop, FineTune and LPFT: every property that the paper's protocol promises."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import transfer_metrics as tm
from transfer_metrics.errors import (
    CorruptStoreError,
    ExtractionError,
    IncompatibleStoreError,
    InvalidInputError,
    LayerNotFoundError,
    TransferMetricsWarning,
    UnsupportedTaskError,
)
from transfer_metrics.heads import preprocessed as inputs_module
from transfer_metrics.heads import training
from transfer_metrics.heads.base import Head, resolve_head
from transfer_metrics.heads.finetune import _RATES, FineTune
from transfer_metrics.heads.linear import LinearProbe
from transfer_metrics.heads.preprocessed import Inputs, PreparedSplits
from transfer_metrics.heads.presets import LPFT
from transfer_metrics.heads.train_settings import TrainSettings
from transfer_metrics.heads.training import (
    Training,
    _augmented,
    _epoch_batches,
    _epoch_seed,
)
from transfer_metrics.selection.checkpoint import Checkpoint
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.tasks.task import Split

ZOO = "zoo:cnn-mnist"
QUICK = {"progress": False, "epochs": 2}
SMALL = (1e-2, 1e1)


def train(network, inputs, targets, settings, **options):
    """Train to the end and leave the weights of the best epoch."""
    begun = Training(network, settings, inputs, targets, **options)
    begun.advance(settings.epochs)
    return begun.finish()


class Small(nn.Module):
    """Batch normalisation, an in-place activation that runs twice, and a classifier of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep, self.norm2 = nn.Conv2d(8, 16, 3, 2, padding=1), nn.BatchNorm2d(16)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(16 * 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.stem(x)))
        return self.fc(self.relu(self.norm2(self.deep(x))).flatten(1))


def net() -> Model:
    return load_model(Small().eval())


@pytest.fixture(scope="module")
def task():
    digits = load_digits()
    x, y = (digits.images[:, None] / 16).astype(np.float32), digits.target
    parts = {"train": slice(0, 160), "val": slice(160, 240), "test": slice(240, 400)}
    return tm.load_task({name: (x[part], y[part]) for name, part in parts.items()}, name="small")


def toy(n=60, seed=0, dropout=0.3):
    """A small network with batch normalisation and dropout, and separable data."""
    random = np.random.default_rng(seed)
    y = random.integers(3, size=n)
    x = (random.normal(size=(n, 4)) + 2 * np.eye(3, 4)[y]).astype(np.float32)
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
    )
    return network, Inputs.of_tensor(torch.from_numpy(x)), torch.from_numpy(y)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


class TestLoop:
    def test_it_is_sgd_with_momentum_and_a_cosine_per_epoch(self):
        network, inputs, y = toy(dropout=0.0)
        settings = TrainSettings(lr=0.1, epochs=3, batch_size=16, weight_decay=0.01, seed=5)
        plain = copy.deepcopy(network).train()
        optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=3)
        for epoch in range(3):
            random = torch.Generator().manual_seed(_epoch_seed(5, epoch))
            order = torch.randperm(60, generator=random)
            for rows in order.split(16):
                optimizer.zero_grad()
                F.cross_entropy(plain(inputs.batch(rows.numpy())), y[rows]).backward()
                optimizer.step()
            schedule.step()
        run = train(network, inputs, y, settings)
        assert run.steps == 3 * 4
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, plain.state_dict()[name])

    def test_it_is_adamw_where_that_is_asked_for_and_goes_on_to_the_same_bits(self, tmp_path):
        network, inputs, y = toy()
        settings = TrainSettings(lr=0.01, epochs=2, optimizer="adamw", weight_decay=0.1, seed=5)
        plain, again = copy.deepcopy(network).train(), copy.deepcopy(network)
        optimizer = torch.optim.AdamW(plain.parameters(), 0.01, weight_decay=0.1)
        for epoch in range(2):
            optimizer.param_groups[0]["lr"] = settings.rate(epoch)
            torch.manual_seed(_epoch_seed(5, epoch))  # of dropout
            random = torch.Generator().manual_seed(_epoch_seed(5, epoch))
            for rows in torch.randperm(60, generator=random).split(64):
                optimizer.zero_grad()
                F.cross_entropy(plain(inputs.batch(rows.numpy())), y[rows]).backward()
                optimizer.step()
        train(network, inputs, y, settings)
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(tensor, plain.state_dict()[name])

        def begun():
            path, fresh = tmp_path / "state.safetensors", copy.deepcopy(again)
            return fresh, training.Training(fresh, settings, inputs, y, checkpoint=path)

        begun()[1].advance(1)
        resumed, second = begun()
        assert second.run.done == 1
        second.advance(2)
        assert_same(state(resumed), state(network))

    def test_transformers_are_trained_by_adamw(self, task):
        digits = "sklearn:digits?examples=50"
        vit = FineTune(lr=1e-4, epochs=0, progress=False).fit("zoo:vit-mnist", digits)
        cnn = FineTune(lr=1e-4, epochs=0, progress=False).fit(net(), task)
        forced = FineTune(optimizer="sgd", epochs=0, progress=False).fit("zoo:vit-mnist", digits)
        assert (vit.optimizer_, cnn.optimizer_, forced.optimizer_) == ("adamw", "sgd", "sgd")
        with pytest.raises(InvalidInputError, match="optimizer='adam'"):
            FineTune(optimizer="adam").fit(ZOO, task)

    def test_the_paper_is_the_default(self):
        settings = TrainSettings(lr=1.0)
        assert (settings.momentum, settings.weight_decay, settings.batch_size) == (0.9, 0.0, 64)
        assert (settings.schedule, settings.batch_norm, settings.epochs) == ("cosine", "train", 20)
        rates = [settings.rate(epoch) for epoch in range(20)]
        assert rates[0] == 1.0
        assert rates[10] == pytest.approx(0.5)
        assert 0 < rates[19] < 0.01
        assert _RATES["finetune"] == (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
        assert _RATES["finetune, batch_norm=eval"] == (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
        assert _RATES["lpft"] == (3e-7, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4)

    def test_the_first_of_the_best_epochs_is_kept(self, monkeypatch):
        scores = iter([0.2, 0.7, 0.7, 0.5])
        kept = []

        def told(network, inputs, codes, batch_size, kind):
            kept.append(state(network))
            return next(scores)

        monkeypatch.setattr(training, "accuracy", told)
        network, inputs, y = toy()
        run = train(network, inputs, y, TrainSettings(lr=0.1, epochs=4), validation=(inputs, y))
        assert (run.epoch, run.val_score) == (2, 0.7)
        assert [record["val_score"] for record in run.history] == [0.2, 0.7, 0.7, 0.5]
        assert_same(state(network), kept[1])

    def test_without_validation_the_last_epoch_stays(self):
        network, inputs, y = toy()
        run = train(network, inputs, y, TrainSettings(lr=0.1, epochs=3))
        assert run.epoch == 3
        assert math.isnan(run.val_score)
        assert run.history[-1]["loss"] < run.history[0]["loss"]

    def test_batch_normalisation_in_evaluation_mode_keeps_its_statistics(self):
        for batch_norm, changes in (("train", True), ("eval", False)):
            network, inputs, y = toy()
            before = state(network)
            train(network, inputs, y, TrainSettings(lr=0.1, epochs=2, batch_norm=batch_norm))
            after = network.state_dict()
            for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
                assert torch.equal(before[name], after[name]) is not changes
            for name in ("0.weight", "1.weight", "1.bias", "4.weight"):
                assert not torch.equal(before[name], after[name])

    def test_randomness_is_that_of_the_seed_and_nobody_elses(self):
        results = []
        for outside in (0, 1):
            network, inputs, y = toy()
            torch.manual_seed(outside)
            before = torch.get_rng_state()
            train(network, inputs, y, TrainSettings(lr=0.1, epochs=2, seed=3))
            assert torch.equal(torch.get_rng_state(), before)
            results.append(state(network))
        assert_same(*results)
        network, inputs, y = toy()
        train(network, inputs, y, TrainSettings(lr=0.1, epochs=2, seed=4))
        assert not torch.equal(network.state_dict()["0.weight"], results[0]["0.weight"])

    def test_a_last_batch_of_one_joins_the_one_before(self):
        random = torch.Generator().manual_seed(0)
        for n, size, lengths in ((9, 4, [4, 5]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 1, [1, 2])):
            parts = _epoch_batches(n, size, random)
            assert [len(rows) for rows in parts] == lengths
            assert sorted(torch.cat(parts).tolist()) == list(range(n))
        network, inputs, y = toy(n=17)
        train(network, inputs, y, TrainSettings(lr=0.1, epochs=1, batch_size=16))

    def test_divergence_stops_and_keeps_the_epochs_before(self):
        network, inputs, y = toy()
        run = train(network, inputs, y, TrainSettings(lr=1e30, epochs=5), validation=(inputs, y))
        assert run.diverged
        assert run.done < 5
        assert len(run.history) == run.done

    def test_modes_are_as_they_were(self):
        network, inputs, y = toy()
        network.eval()
        network[3].train()
        train(network, inputs, y, TrainSettings(lr=0.1, epochs=1))
        assert not network.training

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lr": -1.0}, "lr=-1.0"),
            ({"lr": math.nan}, "lr=nan"),
            ({"epochs": -1}, "epochs"),
            ({"epochs": 1.5}, "epochs"),
            ({"batch_size": 0}, "batch_size"),
            ({"schedule": "linear"}, "schedule"),
            ({"batch_norm": "both"}, "batch_norm"),
            ({"augment": "rotate"}, "augment"),
        ],
    )
    def test_settings_that_mean_nothing(self, change, message):
        with pytest.raises(InvalidInputError, match=message):
            TrainSettings(**{"lr": 0.1} | change)

    def test_flips_are_flips(self):
        x = torch.arange(64.0).reshape(8, 1, 2, 4)
        flipped = _augmented(x, "flip", torch.Generator().manual_seed(0))
        same = [torch.equal(a, b) for a, b in zip(flipped, x, strict=True)]
        turned = [torch.equal(a, b.flip(2)) for a, b in zip(flipped, x, strict=True)]
        assert all(a != b for a, b in zip(same, turned, strict=True))
        assert any(same)
        assert any(turned)
        assert _augmented(x, lambda batch, random: batch + 1, None).sum() == x.sum() + 64
        with pytest.raises(InvalidInputError, match="images"):
            _augmented(x[:, 0], "flip", torch.Generator())
        with pytest.raises(InvalidInputError, match="tensors"):
            _augmented({"input_ids": x}, "flip", torch.Generator())


class Interrupted(Exception):
    pass


def interrupt_after(monkeypatch, epochs):
    """Raise once that many checkpoints have been written."""
    write, written = Checkpoint.write, []

    def counted(*args):
        write(*args)
        written.append(1)
        if len(written) == epochs:
            raise Interrupted

    monkeypatch.setattr(Checkpoint, "write", counted)


class TestCheckpoints:
    settings = TrainSettings(lr=0.2, epochs=5, batch_size=16, seed=1)

    def run(self, path=None, settings=None):
        network, inputs, y = toy()
        held = toy(n=40, seed=9)[1:]
        run = train(network, inputs, y, settings or self.settings, validation=held, checkpoint=path)
        return network, run

    @pytest.mark.parametrize("epochs", [1, 3, 5])
    def test_a_resumed_run_ends_with_the_same_bits(self, tmp_path, monkeypatch, epochs):
        expected, whole = self.run()
        path = tmp_path / "a" / "state.safetensors"
        interrupt_after(monkeypatch, epochs)
        with pytest.raises(Interrupted):
            self.run(path)
        monkeypatch.undo()
        network, run = self.run(path)
        assert_same(state(network), state(expected))
        assert (run.epoch, run.val_score, run.steps) == (whole.epoch, whole.val_score, whole.steps)
        for one, two in zip(run.history, whole.history, strict=True):
            assert {**one, "seconds": 0} == {**two, "seconds": 0}

    def test_the_best_epoch_before_an_interruption_is_remembered(self, tmp_path, monkeypatch):
        def scored(values):
            scores = iter(values)
            monkeypatch.setattr(training, "accuracy", lambda *args: next(scores))

        scored([0.9, 0.1, 0.2, 0.3, 0.4])
        expected, _ = self.run()
        path = tmp_path / "state.safetensors"
        interrupt_after(monkeypatch, 2)
        scored([0.9, 0.1])
        with pytest.raises(Interrupted):
            self.run(path)
        monkeypatch.undo()
        scored([0.2, 0.3, 0.4])
        network, run = self.run(path)
        assert (run.epoch, run.val_score) == (1, 0.9)
        assert_same(state(network), state(expected))

    def test_a_finished_run_is_not_run_again(self, tmp_path, monkeypatch):
        path = tmp_path / "state.safetensors"
        expected, _ = self.run(path)
        monkeypatch.setattr(training.Training, "epoch", None)
        network, _ = self.run(path)
        assert_same(state(network), state(expected))

    def test_another_training_is_refused(self, tmp_path):
        path = tmp_path / "state.safetensors"
        self.run(path)
        other = dataclasses.replace(self.settings, lr=0.3)
        with pytest.raises(IncompatibleStoreError, match="settings differ"):
            self.run(path, other)
        network, inputs, y = toy(seed=2)
        with pytest.raises(IncompatibleStoreError, match="initial weights, targets differ"):
            train(network, inputs, y, self.settings, checkpoint=path)

    def test_damage_is_found_and_a_full_disk_keeps_the_last_epoch(self, tmp_path, monkeypatch):
        path = tmp_path / "state.safetensors"
        interrupt_after(monkeypatch, 2)
        with pytest.raises(Interrupted):
            self.run(path)
        monkeypatch.undo()
        good = path.read_bytes()

        def full(descriptor):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(InvalidInputError, match=r"No space left.*finished epochs are kept"):
            self.run(path)
        monkeypatch.undo()
        assert path.read_bytes() == good
        assert os.listdir(tmp_path) == ["state.safetensors"]
        path.write_bytes(good[:100])
        with pytest.raises(CorruptStoreError, match="delete it to train from the beginning"):
            self.run(path)

    def test_the_grid_goes_on_where_it_stopped(self, task, tmp_path, monkeypatch):
        def head():
            return FineTune(lr=(1e-3, 1e-2), checkpoint=tmp_path, **QUICK)

        expected = clone(head()).set_params(checkpoint=None).fit(net(), task)
        interrupt_after(monkeypatch, 3)  # in the middle of the second learning rate
        with pytest.raises(Interrupted):
            head().fit(net(), task)
        monkeypatch.undo()
        resumed = head().fit(net(), task)
        np.testing.assert_array_equal(resumed.logits(task), expected.logits(task))
        assert (resumed.lr_, resumed.epoch_) == (expected.lr_, expected.epoch_)
        other = dataclasses.replace(task, splits=dict(task.splits) | {"val": task["test"]})
        with pytest.raises(IncompatibleStoreError, match="val"):
            head().fit(net(), other)

    @pytest.mark.slow
    def test_a_killed_process_resumes_to_the_same_bits(self, tmp_path):
        script = tmp_path / "train.py"
        script.write_text(
            "import sys\n"
            "import dataclasses\n"
            "import transfer_metrics as tm\n"
            "from transfer_metrics.heads.finetune import FineTune\n"
            "full = tm.load_task('sklearn:digits')\n"
            "parts = {'train': full['train'].rows(range(300))}\n"
            "task = dataclasses.replace(full, splits=parts)\n"
            "head = FineTune(lr=1e-2, epochs=6, checkpoint=sys.argv[1], progress=False)\n"
            f"head.fit({ZOO!r}, task).save(sys.argv[2])\n"
        )

        def start(checkpoint, out):
            here = Path(__file__).resolve().parents[1]
            env = os.environ | {"PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
            command = [sys.executable, str(script), str(tmp_path / checkpoint), str(tmp_path / out)]
            return subprocess.Popen(command, env=env)

        assert start("one", "whole").wait(300) == 0
        process, path = start("two", "resumed"), tmp_path / "two" / "lr0.safetensors"
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        assert not (tmp_path / "resumed").exists()
        assert start("two", "resumed").wait(300) == 0
        one, two = (tmp_path / d / "head.safetensors" for d in ("whole", "resumed"))
        assert one.read_bytes() == two.read_bytes()


class TestInputs:
    def test_kept_and_fresh_inputs_are_the_same(self, task, monkeypatch):
        model, examples = (
            load_model(ZOO),
            tm.load_task("sklearn:digits")["train"].rows(np.arange(160)).examples,
        )
        kept = Inputs.of_examples(model, examples)
        assert kept.cached_bytes == 160 * 3 * 32 * 32 * 4
        monkeypatch.setattr(inputs_module, "_CACHE_BYTES", 1000)
        fresh = Inputs.of_examples(model, examples)
        assert fresh.cached_bytes == 0
        rows = np.array([3, 100, 7])
        assert torch.equal(kept.batch(rows), fresh.batch(rows))
        assert torch.equal(kept.rows(rows).batch([2]), fresh.batch([7]))

    def test_splits_that_are_tested_on_share_the_memory(self, monkeypatch):
        digits = tm.load_task("sklearn:digits")["train"]
        parts = {name: digits.rows(np.arange(20) + i) for i, name in enumerate("abc")}
        each = 20 * 3 * 32 * 32 * 4
        monkeypatch.setattr(inputs_module, "_CACHE_BYTES", each + 1)
        inputs = PreparedSplits(load_model(ZOO), parts)
        assert inputs["a"] is inputs["a"]
        # The second is begun below the limit; the third is made anew for each batch.
        assert [inputs[name].cached_bytes for name in "abc"] == [each, each, 0]
        assert torch.equal(inputs["c"].batch(np.arange(3)), inputs["a"].batch(np.arange(3) + 2))

    def test_logits_that_are_not_finite_are_an_error(self):
        network, inputs, _ = toy()
        network[0].weight.data[0, 0] = math.nan
        with pytest.raises(ExtractionError, match="logits of example 0"):
            inputs.logits(network.eval(), 16)


class TestFineTune:
    def test_training_helps_and_the_model_stays_as_it_was(self, task):
        model = net()
        before, mode = state(model.module), model.module.training
        head = FineTune(lr=5e-2, batch_size=16, epochs=8, progress=False).fit(model, task)
        assert head.val_score_ > 0.6
        assert head.score(task) > 0.6
        assert_same(state(model.module), before)
        assert model.module.training is mode
        assert all(p.grad is None for p in model.module.parameters())
        trained = head.network().backbone.state_dict()
        assert any(not torch.equal(trained[name], before[name]) for name in before)
        assert head.steps_ == head.run_steps_ == 8 * 10
        assert len(head.history_) == 8
        assert head.cached_bytes_ == 240 * 64 * 4

    def test_the_learning_rate_is_chosen_by_validation(self, task):
        rates = (1e-6, 1e-2)
        head = FineTune(lr=rates, **QUICK).fit(net(), task)
        alone = [FineTune(lr=rate, **QUICK).fit(net(), task) for rate in rates]
        best = max(alone, key=lambda one: one.val_score_)
        assert head.lr_ == best.lr_ == 1e-2
        np.testing.assert_array_equal(head.logits(task), best.logits(task))
        assert head.steps_ == sum(one.steps_ for one in alone)
        assert head.run_steps_ == best.steps_

    def test_the_weight_decay_is_chosen_with_it(self, task):
        pairs = [(lr, decay) for lr in (1e-3, 1e-2) for decay in (0.0, 0.5)]
        head = FineTune(lr=(1e-3, 1e-2), weight_decay=(0.0, 0.5), **QUICK).fit(net(), task)
        alone = [FineTune(lr=r, weight_decay=d, **QUICK).fit(net(), task) for r, d in pairs]
        best = max(alone, key=lambda one: one.val_score_)
        assert (head.lr_, head.weight_decay_) == (best.lr_, best.weight_decay_)
        np.testing.assert_array_equal(head.logits(task), best.logits(task))
        tried = dict.fromkeys((r["lr"], r["weight_decay"]) for r in head.history_)
        assert list(tried) == pairs

    def test_automatic_rates(self):
        def rates(head):
            return tuple(settings.lr for settings in head._grid())

        assert rates(FineTune()) == _RATES["finetune"]
        assert rates(FineTune(batch_norm="eval")) == _RATES["finetune, batch_norm=eval"]
        assert rates(LPFT()) == _RATES["lpft"]
        assert rates(LPFT(batch_norm="train")) == _RATES["finetune"]
        assert rates(FineTune(lr=[0.1, 0.2])) == (0.1, 0.2)

    def test_neither_test_nor_ood_labels_are_read(self, task):
        random = np.random.default_rng(0)
        wrong = Split(task["test"].examples, random.permutation(task["test"].labels))
        other = dataclasses.replace(task, splits=dict(task.splits) | {"test": wrong, "ood": wrong})
        for head in (FineTune(lr=(1e-3, 1e-2), **QUICK), LPFT(C_grid=SMALL, lr=1e-4, **QUICK)):
            one, two = clone(head).fit(net(), task), clone(head).fit(net(), other)
            assert (one.lr_, one.epoch_) == (two.lr_, two.epoch_)
            np.testing.assert_array_equal(one.logits(task), two.logits(task))

    def test_what_is_held_out_is_not_trained_on(self, task):
        """Without a split of its own, validation labels change the choice, never the weights."""
        own = dataclasses.replace(task, splits={"train": task["train"], "test": task["test"]})
        one = FineTune(lr=1e-3, progress=False, epochs=1).fit(net(), own)
        labels = task["train"].labels.copy()
        from transfer_metrics.sources.tasks.subtasks import stratified_holdout

        _, held = stratified_holdout(labels, 0.2, 0)
        given_split = FineTune(lr=1e-3, progress=False, epochs=1)
        stay = np.setdiff1d(np.arange(160), held)
        parts = {"train": task["train"].rows(stay), "test": task["test"]}
        parts["val"] = task["train"].rows(held)
        given_split.fit(net(), dataclasses.replace(task, splits=parts))
        np.testing.assert_array_equal(one.logits(task), given_split.logits(task))
        assert one.val_score_ == given_split.val_score_

    def test_running_statistics_in_val_mode(self, task):
        before = net().module.state_dict()
        for batch_norm, changes in (("eval", False), ("train", True)):
            head = FineTune(lr=1e-3, batch_norm=batch_norm, **QUICK).fit(net(), task)
            after = head.network().backbone.state_dict()
            running = [name for name in before if "running" in name]
            assert running
            assert any(not torch.equal(before[n], after[n]) for n in running) is changes

    def test_a_frozen_backbone_is_linear_probing_by_sgd(self, task):
        head = FineTune(lr=0.1, freeze="backbone", **QUICK).fit(net(), task)
        model = net()
        assert_same(state(head.network().backbone), state(model.module))
        store = tm.extract(model, task, layers="last", progress=False)
        held = tm.extract(model, task, layers="last", split="val", progress=False)
        torch.manual_seed(0)
        linear = nn.Linear(store.layers[0].dim, 10)
        name = store.names[0]
        run = train(
            linear,
            Inputs.of_tensor(torch.from_numpy(store[name])),
            torch.from_numpy(store.labels),
            TrainSettings(lr=0.1, epochs=2),
            validation=(
                Inputs.of_tensor(torch.from_numpy(held[name])),
                torch.from_numpy(held.labels),
            ),
        )
        np.testing.assert_allclose(head.coef_, linear.weight.detach().numpy(), atol=1e-4)
        assert (head.epoch_, head.val_score_) == (run.epoch, run.val_score)

    def test_parts_of_the_backbone_can_be_frozen(self, task):
        model = net()
        head = FineTune(lr=1e-2, freeze=("stem", "norm.*"), **QUICK).fit(model, task)
        before, after = model.module.state_dict(), head.network().backbone.state_dict()
        for name in before:
            if name.startswith(("stem.", "norm.")):
                assert torch.equal(before[name], after[name]), name
        assert any(not torch.equal(before[name], after[name]) for name in before)
        with pytest.raises(LayerNotFoundError, match="to freeze"):
            FineTune(freeze="no-such", lr=0.1, **QUICK).fit(net(), task)

    def test_divergence_is_said_and_survived(self, task):
        with pytest.warns(TransferMetricsWarning, match=r"lr=1e\+30 diverged"):
            head = FineTune(lr=(1e-3, 1e30), **QUICK).fit(net(), task)
        assert head.lr_ == 1e-3
        with (
            pytest.warns(TransferMetricsWarning),
            pytest.raises(InvalidInputError, match="every learning rate"),
        ):
            FineTune(lr=1e30, **QUICK).fit(net(), task)

    def test_saving_keeps_the_whole_network(self, tmp_path):
        full = tm.load_task("sklearn:digits")
        splits = {"train": full["train"].rows(range(80)), "test": full["test"].rows(range(20))}
        task = dataclasses.replace(full, splits=splits)
        head = FineTune(lr=(1e-2,), epochs=1, progress=False).fit(ZOO, task)
        head.save(tmp_path / "head")
        read = Head.load(tmp_path / "head")
        assert read.source_.model is None
        np.testing.assert_array_equal(read.logits(task), head.logits(task))
        assert read.history_ == head.history_
        assert read.get_params() == head.get_params()
        again = Head.load(tmp_path / "head")
        again.save(tmp_path / "copy")  # without ever building the network
        one, two = (tmp_path / d / "head.safetensors" for d in ("head", "copy"))
        assert one.read_bytes() == two.read_bytes()

    def test_features_are_of_no_use(self, task):
        with pytest.raises(InvalidInputError, match="trains a network"):
            FineTune().fit(np.eye(3), [0, 1, 2])
        head = FineTune(lr=1e-3, progress=False, epochs=0).fit(net(), task)
        store = tm.extract(net(), task, layers="last", split="test", progress=False)
        with pytest.raises(UnsupportedTaskError, match="trained the network itself"):
            head.predict(store)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"lr": "large"}, "lr='large'"),
            ({"lr": ()}, "empty"),
            ({"validation": None}, "validation=None"),
            ({"batch_norm": "none"}, "batch_norm"),
        ],
    )
    def test_parameters_that_mean_nothing(self, task, change, message):
        with pytest.raises(InvalidInputError, match=message):
            FineTune(progress=False).set_params(**change).fit(net(), task)

    def test_parameters_are_stored_untouched(self):
        for head in (FineTune(lr=[0.1], freeze=["a"]), LPFT(lr=[0.1], C_grid=[1.0])):
            assert clone(head).get_params() == head.get_params()
            assert head.get_params()["lr"] == [0.1]


class TestLPFT:
    def probe(self, task):
        return LinearProbe(C_grid=SMALL).fit(net(), task)

    def test_no_epochs_and_rate_zero_are_the_probe_bit_for_bit(self, task):
        probe = self.probe(task)
        none = LPFT(C_grid=SMALL, epochs=0, progress=False).fit(net(), task)
        still = LPFT(C_grid=SMALL, lr=0.0, **QUICK).fit(net(), task)
        for head in (none, still):
            np.testing.assert_array_equal(head.logits(task), probe.logits(task))
            assert head.C_ == probe.C_
            assert head.val_score_ == head.probe_val_score_ == probe.val_score_
        assert (none.epoch_, none.steps_) == (0, 0)
        assert (still.epoch_, still.steps_) == (0, 6)

    def test_without_a_validation_split_it_starts_from_the_probe_that_saw_no_validation(self, task):
        own = dataclasses.replace(task, splits={"train": task["train"], "test": task["test"]})
        start = LPFT(C_grid=SMALL, epochs=0, progress=False).fit(net(), own)
        probe = LinearProbe(C_grid=SMALL, refit=False).fit(net(), own)
        np.testing.assert_array_equal(start.logits(own), probe.logits(own))

    def test_running_statistics_stay_by_default(self, task):
        assert LPFT().batch_norm == "eval"
        head = FineTune(batch_norm="eval", lr=1e-2, **QUICK).fit(net(), task)
        before = net().module.state_dict()
        after = head.network().backbone.state_dict()
        assert all(torch.equal(before[n], after[n]) for n in before if "running" in n)
        assert any(not torch.equal(before[n], after[n]) for n in before)

    def test_two_classes_and_an_absent_one_start_as_the_probe(self, task):
        labels = task["train"].labels
        for classes in ((0, 1), (0, 1, 2)):
            rows = np.flatnonzero(np.isin(labels, classes))
            parts = {"train": task["train"].rows(rows), "val": task["val"]}
            some = dataclasses.replace(task, splits=parts)
            start = LPFT(C_grid=SMALL, epochs=0, progress=False).fit(net(), some)
            probe = LinearProbe(C_grid=SMALL).fit(net(), some)
            np.testing.assert_array_equal(start.logits(task), probe.logits(task))
            assert not start.coef_[len(classes) :].any()
            assert not start.logits(task)[:, len(classes) :].any()


class NearestMean(Head):
    """The class whose mean is nearest."""

    def __init__(self, layers="last", pool="avg", *, random_state=0):
        self.layers, self.pool, self.random_state = layers, pool, random_state

    def fit(self, X, y=None, *, validation=None):
        data = self._feature_data(X, y, validation)
        x, codes = data.train.columns.dense(), data.train.codes
        means = np.stack([x[codes == c].mean(axis=0) for c in range(len(data.classes))])
        self._set_head(data, 2 * means, -np.square(means).sum(axis=1))
        return self


class TestStart:
    head2toe = tm.Head2Toe(keep=0.2, steps=20, lr=0.05)

    def test_presets_are_fine_tuning_with_a_start(self, task):
        probe = LinearProbe(C_grid=SMALL)
        pairs = [
            (
                FineTune(start=probe, batch_norm="eval", lr=1e-3, **QUICK),
                LPFT(C_grid=SMALL, lr=1e-3, **QUICK),
            ),
            (
                FineTune(start=self.head2toe, lr=1e-3, **QUICK),
                tm.H2TFT(self.head2toe, lr=1e-3, **QUICK),
            ),
        ]
        for one, two in pairs:
            one, two = one.fit(net(), task), two.fit(net(), task)
            np.testing.assert_array_equal(one.logits(task), two.logits(task))
            for name in ("C_", "probe_val_score_", "kept_"):
                assert getattr(one, name, None) == getattr(two, name, None)

    def test_automatic_rates_follow_the_start(self):
        def rates(**options):
            return tuple(settings.lr for settings in FineTune(**options)._grid())

        assert rates(start="probe", batch_norm="eval") == _RATES["lpft"]
        assert rates(start=LinearProbe(), batch_norm="eval") == _RATES["lpft"]
        assert rates(start="probe") == _RATES["finetune"]
        assert rates(start="head2toe", batch_norm="eval") == _RATES["finetune, batch_norm=eval"]

    def test_any_head_on_features_can_be_the_start(self, task):
        cv = tm.Head2ToeCV({"keep": (0.1, 0.5), "steps": (10,)}, cv=2)
        for start in (NearestMean(), cv, "linear_probe(C_grid=(0.1,))"):
            head = FineTune(start=start, epochs=0, progress=False).fit(net(), task)
            plain = clone(resolve_head(start)).fit(net(), task)
            np.testing.assert_allclose(head.logits(task), plain.logits(task), rtol=1e-4, atol=1e-4)
        named = resolve_head("finetune(start='head2toe(keep=0.05, steps=5)', epochs=0)")
        assert sum(named.set_params(progress=False).fit(net(), task).kept_.values()) > 0

    def test_the_start_does_not_see_what_chooses_the_epoch(self, task):
        own = dataclasses.replace(task, splits={"train": task["train"], "test": task["test"]})
        head = FineTune(start=LinearProbe(C_grid=SMALL), epochs=0, progress=False).fit(net(), own)
        kept = LinearProbe(C_grid=SMALL, refit=False).fit(net(), own)
        np.testing.assert_array_equal(head.logits(own), kept.logits(own))

    def test_what_cannot_be_the_start(self, task):
        for options, message in (
            ({"start": "lpft"}, "start=lpft trains a network"),
            ({"start": "linear_probe", "layers": "blocks"}, "layers and pool are those of start"),
            ({"start": 3}, "a head is an int"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                FineTune(**options, **QUICK).fit(net(), task)

    def test_presets_have_the_options_of_fine_tuning(self):
        options = set(FineTune().get_params())
        assert set(LPFT().get_params()) == options - {"start"} | {"C_grid", "max_iter"}
        own = options - {"start", "layers", "pool"} | {"head2toe"}
        assert set(tm.H2TFT().get_params(deep=False)) == own
        assert repr(LPFT(epochs=3)) == "LPFT(epochs=3)"
        for preset, wrong in ((LPFT, "start"), (LPFT, "epoch"), (tm.H2TFT, "layers")):
            with pytest.raises(TypeError, match=f"unexpected keyword argument '{wrong}'"):
                preset(**{wrong: 1})


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.head = nn.Embedding(26, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask):
        hidden = self.mix(self.embed(input_ids)) * attention_mask[:, :, None]
        return self.head(hidden.sum(1) / attention_mask.sum(1, keepdim=True))


def padded_words(words):
    length = max(len(word) for word in words)
    ids = [[ord(letter) - 97 for letter in word] + [0] * (length - len(word)) for word in words]
    mask = [[1] * len(word) + [0] * (length - len(word)) for word in words]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def test_text_batches_of_different_lengths():
    model = Model("words", Words(), str, "text", "head", None, collate=padded_words)
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcd"), random.integers(2, 7))) for _ in range(60)]
    task = tm.load_task(words, [int("a" in word) for word in words])
    head = FineTune("mix", lr=0.1, batch_size=16, progress=False, epochs=30).fit(model, task)
    assert head.cached_bytes_ == 0
    assert head.val_score_ > 0.9
    start = LPFT("mix", C_grid=SMALL, epochs=0, progress=False).fit(model, task)
    probe = LinearProbe("mix", C_grid=SMALL, refit=False).fit(model, task)
    np.testing.assert_allclose(start.logits(words), probe.logits(words), atol=1e-6)


def test_half_precision_models_are_trained_in_float32(task):
    model = net()
    model.module.to(torch.bfloat16)
    head = FineTune(lr=1e-3, epochs=1, progress=False).fit(model, task)
    assert {p.dtype for p in head.network_.parameters()} == {torch.float32}
    assert {p.dtype for p in model.module.parameters()} == {torch.bfloat16}
