"""Heads that share a pass: what they read is what each would have read alone, and once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import transfer_metrics as tm
from tests import text_models
from tests.text_models import FAMILIES
from transfer_metrics.errors import ExtractionError, InvalidInputError, LayerNotFoundError
from transfer_metrics.heads import shared_features
from transfer_metrics.heads.shared_features import SharedFeatures
from transfer_metrics.heads.splits import complete_task
from transfer_metrics.ranking.cache import ResultCache
from transfer_metrics.sources.models.load_model import load_model

ASKED = [("last", "avg"), (["stem"], "max"), ("blocks", "grid:64"), ("activations", "grid:64")]


@pytest.fixture(scope="module")
def task() -> tm.Task:
    return complete_task(tm.load_task("sklearn:digits?examples=60"))


def seen_by(model: Any) -> list[int]:
    """Sizes of the batches that a network has read, appended as it reads."""
    sizes: list[int] = []
    model.module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def check_same(found: tm.FeatureStore, alone: tm.FeatureStore) -> None:
    assert found.names == alone.names
    assert found.layers == alone.layers
    assert found.manifest["pool"] == alone.manifest["pool"]
    assert (found.labels == alone.labels).all()
    rows = np.array([3, 0, 5])
    for name in alone.names:
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-5, atol=1e-6)
        assert (found.rows(name, rows) == found[name][rows]).all()


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_features_are_those_of_a_pass_alone_and_each_example_is_read_once(
    task: tm.Task, memory: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shared_features, "_IN_MEMORY", memory)
    model = load_model("zoo:cnn-mnist")
    shared, sizes = SharedFeatures(ResultCache(tmp_path)), seen_by(model)
    shared.expect(ASKED)
    found = {
        (split, i): shared.store(model, task, *asked, split=split)
        for split in ("train", "val")
        for i, asked in enumerate(ASKED)
    }
    # Beside one pass over each split there are a few examples that networks are tried on.
    few = sum(size for size in sizes if size <= 3)
    assert sum(sizes) - few == len(task["train"]) + len(task["val"])
    for (split, i), store in found.items():
        alone = tm.extract("zoo:cnn-mnist", task, *ASKED[i], split=split, progress=False)
        check_same(store, alone)
    assert len(list((tmp_path / "features").glob("*"))) == (0 if memory else 2)
    del shared, found, store
    assert not list((tmp_path / "features").glob("*"))


def test_what_is_asked_later_is_read_beside_what_there_is(task: tm.Task) -> None:
    model = load_model("zoo:cnn-mnist")
    shared, sizes = SharedFeatures(), seen_by(model)
    shared.store(model, task, "blocks", "avg", split="train")
    shared.store(model, task, ["stem"], "avg", split="train")
    once = sum(size for size in sizes if size > 3)
    assert once == len(task["train"])
    found = shared.store(model, task, "activations", "avg", split="train")
    assert sum(size for size in sizes if size > 3) == 2 * once
    check_same(found, tm.extract("zoo:cnn-mnist", task, "activations", progress=False))


class Spoilt(nn.Module):
    """A network with a layer whose features are NaN for one example, and which ends in none."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.bad, self.head = nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.body(x)
        self.bad(torch.where(x[:, :1] > 90, torch.nan, hidden))
        return self.head(hidden)


def test_what_cannot_be_read_spoils_it_for_nobody_else() -> None:
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    x[33, 0] = 99
    task = tm.load_task((x, np.arange(40) % 2))
    model, shared = load_model(Spoilt()), SharedFeatures()
    shared.expect([("last", "avg"), (["bad"], "avg"), (["none"], "avg"), ("last", "cls")])
    found = shared.store(model, task, "last", "avg", split="train")
    assert np.isfinite(found["head:input"]).all()
    with pytest.raises(LayerNotFoundError, match="none"):
        shared.store(model, task, ["none"], "avg", split="train")
    with pytest.raises(ExtractionError, match=r"'bad'.*NaN"):
        shared.store(model, task, ["bad"], "avg", split="train")
    with pytest.raises(InvalidInputError, match="whole number"):
        shared.store(model, task, "last", "grid", split="train")


def test_heads_of_a_comparison_read_each_split_once(task: tm.Task) -> None:
    model = load_model("zoo:mixer-usps")
    sizes = seen_by(model)
    heads: list[Any] = [tm.LinearProbe(pool=p, C_grid=(1.0,)) for p in ("avg", "grid:64")]
    heads.append(tm.Head2Toe(steps=5, layers="blocks"))
    common = {"seeds": 1, "cache": "never", "distortions": False, "progress": False}
    table = tm.compare(model, task, heads, **common)
    wanted = sum(len(split) for split in task.splits.values())
    assert sum(size for size in sizes if size > 3) == wanted
    for head in heads:
        [record] = [r for r in table if r.head == head.label and r.metric == "accuracy"]
        alone = tm.heads.base.resolve_head(head.label).fit("zoo:mixer-usps", task)
        assert record.value == alone.score(task)
        took = next(r.value for r in table if r.head == head.label and r.metric == "fit_seconds")
        assert took > 0


@pytest.mark.parametrize("pool", ["mean_words", "grid:64"])
def test_words_are_pooled_by_each_pooling(tmp_path: Path, pool: str) -> None:
    pytest.importorskip("transformers")
    family = next(iter(FAMILIES))
    folder = tmp_path / family
    text_models.save(family, folder)
    sentences = [["the", "film-goer", "likes", "rain", "!"], ["good"], ["dogs", "and", "cats"]] * 2
    task = tm.load_task(sentences, [[i % 2 for i in range(len(s))] for s in sentences])
    model, shared = load_model(f"hf:{folder}"), SharedFeatures()
    shared.expect([("last", "avg"), ("last", pool)])
    for one in ("avg", pool):
        found = shared.store(model, task, "last", one, split="train")
        check_same(found, tm.extract(model, task, "last", one, progress=False))
