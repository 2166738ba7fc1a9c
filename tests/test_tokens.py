"""Tasks that label the words of sentences, against transformers and plain definitions."""

from __future__ import annotations

import dataclasses
import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transfer_metrics as tm
from tests import text_models, written
from tests.text_models import FAMILIES
from transfer_metrics.errors import (
    ExtractionError,
    InvalidInputError,
    TransferMetricsWarning,
    UnsupportedTaskError,
)
from transfer_metrics.features.layers import hidden_layers
from transfer_metrics.features.pooling import Pool, _group_words, _pool_words, resolve_pool
from transfer_metrics.features.store import Batch, FeatureStore
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.sources.example import Word
from transfer_metrics.sources.tasks.assembly import words_task
from transfer_metrics.sources.tasks.task import Split, Task

SENTENCES = [
    ["Wolfgang", "lives", "in", "Berlin"],
    ["New", "York", "is", "in", "the", "United", "States"],
    ["the", "film-goer", "likes", "rain", "!"],
    ["good"],
    ["dogs", "and", "cats", ",", "really"],
]
TAGS = [
    ["B-PER", "O", "O", "B-LOC"],
    ["B-LOC", "I-LOC", "O", "O", "O", "B-LOC", "I-LOC"],
    ["O", "O", "O", "O", "O"],
    ["O"],
    ["O", "O", "O", "O", "O"],
]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory):
    """Folder of a family's checkpoint, written when it is first asked for."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("token-models")
    return written.once(root, text_models.save)


def quiet(model: Any, task: Any, **options: Any):
    return tm.extract(model, task, progress=False, **options)


# ---------------------------------------------------------------- tasks


def test_words_are_examples():
    task = tm.load_task(SENTENCES, TAGS, name="ner")
    split = task["train"]
    assert (task.kind, task.modality, len(split)) == ("classification", "text", 22)
    assert task.classes == ("B-LOC", "B-PER", "I-LOC", "O")
    assert split.units.tolist() == [0] * 4 + [1] * 7 + [2] * 5 + [3] + [4] * 5
    assert split.examples[5] == Word(tuple(SENTENCES[1]), 1)
    assert [task.classes[c] for c in split.labels] == [tag for tags in TAGS for tag in tags]


def test_types_of_entities():
    task = tm.load_task(SENTENCES, TAGS, bio="drop")
    assert task.classes == ("LOC", "O", "PER")
    assert [task.classes[c] for c in task["train"].labels[:4]] == ["PER", "O", "O", "LOC"]
    numbers = [[["O", "B-X", "I-X", "L-Y", "post-war"].index(t) for t in ("O", "I-X", "post-war")]]
    named = tm.load_task(
        [["a", "b", "c"]], numbers, bio="drop", classes=["O", "B-X", "I-X", "L-Y", "post-war"]
    )
    assert named.classes == ("O", "X", "Y", "post-war")
    assert named["train"].labels.tolist() == [0, 1, 3]


def test_words_without_a_label_are_context_only():
    task = tm.load_task([["a", "b", "c"], [], ["d"]], [[1, -100, 0], [], [-100]])
    split = task["train"]
    assert [e.position for e in split.examples] == [0, 2]
    assert split.examples[1].sentence == ("a", "b", "c")
    assert split.labels.tolist() == [1, 0]
    assert tm.load_task([["a", "b", "c"]], [["x", None, "y"]])["train"].labels.tolist() == [0, 1]


def test_the_fingerprint_is_that_of_sentences_words_and_labels():
    def fingerprint(sentences: Any, tags: Any) -> str:
        return tm.load_task(sentences, tags)["train"].fingerprint

    base = fingerprint([["a", "b"], ["c"]], [[0, 1], [0]])
    assert base == fingerprint([("a", "b"), ("c",)], [(0, 1), (0,)])
    others = [
        fingerprint([["a", "b"], ["c"]], [[1, 0], [0]]),
        fingerprint([["a", "b"], ["d"]], [[0, 1], [0]]),
        fingerprint([["a"], ["b", "c"]], [[0], [1, 0]]),
        fingerprint([["a", "b", "x"], ["c"]], [[0, 1, -100], [0]]),
    ]
    assert len({base, *others}) == 5


def test_some_of_the_words(checkpoints):
    task = tm.load_task(SENTENCES, TAGS)
    order = np.array([20, 3, 4, 11])
    part = task["train"].rows(order)
    assert list(part.examples) == [task["train"].examples[int(i)] for i in order]
    few = dataclasses.replace(task, splits={"train": part})
    model = f"hf:{checkpoints('bert')}"
    whole, chosen = quiet(model, task, layers="last"), quiet(model, few, layers="last")
    name = whole.names[0]
    np.testing.assert_allclose(chosen[name], whole[name][order], atol=2e-6)


@pytest.mark.parametrize(
    ("sentences", "tags", "message"),
    [
        ([["a", "b"]], [["x"]], "sentence 0 has 2 words but 1 labels"),
        ([["a"], "b c"], [["x"], ["y", "z"]], "sentence 1 is 'b c'; give the list"),
        ([["a"], ["b"]], [["x"]], "2 sentences but 1 lists of labels"),
        ([["a"]], [[-100]], "no word has a label"),
        ([["a"], ["b"]], [["x"], "y"], "sentence 1 has the labels 'y'; give one per word"),
        ([["a"], ["b"]], [["x"], ["x"]], "of one class"),
    ],
)
def test_words_that_cannot_be_used(sentences, tags, message):
    with pytest.raises(InvalidInputError, match=message):
        words_task("ner", {"train": (sentences, tags)})


def test_options_of_words():
    with pytest.raises(InvalidInputError, match="use 'keep' or 'drop'"):
        tm.load_task(SENTENCES, TAGS, bio="maybe")
    with pytest.raises(InvalidInputError, match="words with a label each only"):
        tm.load_task(["a", "b"], [0, 1], bio="drop")


def test_pairs_of_words_with_one_label_stay_pairs_of_texts():
    pairs = tm.load_task([("a", "b"), ("c", "d")], [0, 1])
    assert pairs["train"].units is None
    targets = tm.load_task([("a", "b"), ("c", "d")], [[0, 1], [1, 0]], kind="regression")
    assert targets["train"].labels.shape == (2, 2)


def expected() -> tuple[str, tuple[str, ...]]:
    task = tm.load_task(SENTENCES, TAGS)
    return task["train"].fingerprint, task.classes


def test_json_lines(tmp_path):
    rows = [
        {"id": i, "tokens": words, "pos_tags": ["X"] * len(words), "ner_tags": tags}
        for i, (words, tags) in enumerate(zip(SENTENCES, TAGS, strict=True))
    ]
    path = tmp_path / "ner.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    for spec in (f"jsonl:{path}", f"csv:{path}?words=tokens&label=ner_tags"):
        task = tm.load_task(spec)
        assert (task["train"].fingerprint, task.classes) == expected()
    with pytest.raises(InvalidInputError, match="one class"):
        tm.load_task(f"jsonl:{path}?label=pos_tags")
    with pytest.raises(InvalidInputError, match="no column 'tags'; the columns are"):
        tm.load_task(f"jsonl:{path}?label=tags")


@pytest.mark.parametrize("write", [json.dumps, repr, " ".join], ids=["json", "python", "spaces"])
def test_tables_with_lists(tmp_path, write):
    import csv

    with (tmp_path / "ner.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "words", "tags"])
        for i, (words, tags) in enumerate(zip(SENTENCES, TAGS, strict=True)):
            writer.writerow(["dev" if i == 1 else "train", write(words), write(tags)])
    with pytest.warns(TransferMetricsWarning, match="'val' has the class 'I-LOC'"):
        task = tm.load_task(f"csv:{tmp_path / 'ner.csv'}?words=words")
    assert {split: len(part) for split, part in task.splits.items()} == {"train": 15, "val": 7}
    assert task["val"].examples[6] == Word(tuple(SENTENCES[1]), 6)
    dropped = tm.load_task(f"csv:{tmp_path / 'ner.csv'}?words=words&bio=drop")
    assert dropped.classes == ("LOC", "O", "PER")


def test_numbers_as_labels_in_a_table(tmp_path):
    (tmp_path / "t.csv").write_text("tokens,labels\na b c,0 1 -100\nd,2\n")
    task = tm.load_task(f"csv:{tmp_path / 't.csv'}?words=tokens")
    assert task["train"].labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokens,labels\na b,0\n", "sentence 0 has 2 words but 1 labels"),
        ('tokens,labels\n"[""a"", ",0\n', "row 1 has .*cannot be read as a list"),
        ('tokens,labels\n"[a]",0\n', "cannot be read as a list"),
        ("tokens,other\na,0\n", r"which column labels the words.*say \?label=column"),
    ],
)
def test_tables_of_words_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        tm.load_task(f"csv:{tmp_path / 't.csv'}?words=tokens")


def test_the_datasets_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = ["O", "B-PER", "B-LOC", "I-LOC"]
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=names)),
        }
    )
    rows = {
        "id": list("abcde"),
        "tokens": SENTENCES,
        "ner_tags": [[names.index(tag) for tag in tags] for tags in TAGS],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    task = tm.load_task(data)
    assert task.classes == tuple(names)
    assert [names[c] for c in task["train"].labels] == [tag for tags in TAGS for tag in tags]
    assert tm.load_task(data, bio="drop").classes == ("O", "PER", "LOC")
    datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "saved")
    with pytest.warns(TransferMetricsWarning, match="22 of 22 examples of split 'test'"):
        saved = tm.load_task(f"hf:{tmp_path / 'saved'}?words=tokens&label=ner_tags")
    assert set(saved.splits) == {"train", "test"}
    assert saved["test"].fingerprint == task["train"].fingerprint
    with pytest.raises(InvalidInputError, match="cannot tell which column labels the words"):
        tm.load_task(data.rename_column("ner_tags", "entities"))


# ---------------------------------------------------------------- features


def by_hand(folder: Path, words: list[str], reduce: Any) -> torch.Tensor:
    """Last hidden state of each word of a sentence run on its own, by characters and loops."""
    tokenizer, network = text_models.reference(folder)
    encoded = tokenizer(
        " ".join(words),
        return_tensors="pt",
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
    )
    offsets = encoded.pop("offset_mapping")[0].tolist()
    special = encoded.pop("special_tokens_mask")[0].tolist()
    if network.config.model_type in ("t5", "bart", "distilbert"):
        encoded.pop("token_type_ids", None)
    with torch.no_grad():
        state = network(**encoded).last_hidden_state[0]
    rows, start = [], 0
    for word in words:
        # From the space before the word, which some tokenizers make a token of, to its end.
        begin, end = max(start - 1, 0), start + len(word)
        of = [
            token
            for token, (a, b) in enumerate(offsets)
            if not special[token] and begin <= a and max(a + 1, b) <= end
        ]
        rows.append(reduce(state[of]))
        start = end + 1
    return torch.stack(rows)


@pytest.mark.integration
@pytest.mark.parametrize("name", FAMILIES)
def test_words_of_every_family_are_those_of_transformers(name, checkpoints):
    task = tm.load_task(SENTENCES, TAGS)
    model = tm.load_model(f"hf:{checkpoints(name)}")
    reduce = {
        "avg": lambda x: x.mean(0),
        "cls": lambda x: x[0],
        "last": lambda x: x[-1],
        "max": lambda x: x.amax(0),
    }
    for pool, fn in reduce.items():
        store = quiet(model, task, layers="last", pool=pool, batch_size=2)
        wanted = torch.cat([by_hand(checkpoints(name), words, fn) for words in SENTENCES])
        np.testing.assert_allclose(store[store.names[0]], wanted.numpy(), atol=3e-6)
    assert store.labels.tolist() == task["train"].labels.tolist()


@pytest.mark.parametrize("name", ["bert", "electra", "deberta"])
def test_words_are_those_of_lists_of_words(name, checkpoints):
    """Where the tokenizer takes lists of words without losing the spaces, all agree."""
    tokenizer, network = text_models.reference(checkpoints(name))
    encoded = tokenizer(SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = network(**encoded).last_hidden_state
    store = quiet(f"hf:{checkpoints(name)}", tm.load_task(SENTENCES, TAGS), layers="last")
    wanted = [
        states[row, [t for t, w in enumerate(encoded.word_ids(row)) if w == number]].mean(0)
        for row, words in enumerate(SENTENCES)
        for number in range(len(words))
    ]
    np.testing.assert_allclose(store[store.names[0]], torch.stack(wanted).numpy(), atol=3e-6)


def test_words_in_all_layers_and_their_mean(checkpoints):
    store = quiet(f"hf:{checkpoints('bert')}", tm.load_task(SENTENCES, TAGS))
    assert store.names == ["embeddings", *(f"encoder.layer.{i}" for i in range(3))]
    mean = np.mean([store[f"encoder.layer.{i}"] for i in range(3)], axis=0)
    names = [layer.name for layer in hidden_layers(store.layers)]
    np.testing.assert_allclose(Batch(next(store.shards()), names)["mean"], mean, atol=1e-6)


def test_shards_may_cut_sentences_and_batches_do_not_matter(checkpoints, tmp_path):
    model = tm.load_model(f"hf:{checkpoints('roberta')}")
    task = tm.load_task(SENTENCES, TAGS)
    whole = quiet(model, task)
    stored = quiet(model, task, out=tmp_path / "store", shard_size=5, batch_size=1)
    for name in whole.names:
        np.testing.assert_allclose(stored[name], whole[name], atol=2e-6)
    again = FeatureStore.open(tmp_path / "store")
    assert len(again) == 22
    np.testing.assert_array_equal(again._read("__units__"), task["train"].units)


@pytest.mark.parametrize("name", ["bert", "opt", "t5"])
def test_long_sentences_are_read_in_pieces(name, checkpoints):
    folder = checkpoints(name)
    model = tm.load_model(f"hf:{folder}")
    collate = dataclasses.replace(model.collate, longest=14)
    model = dataclasses.replace(model, collate=collate)
    words = ["the", "film", "is", "good", "in", "New", "York"] * 6
    task = tm.load_task([words, ["good"]], [[0, 1] * 21, [0]])
    store = quiet(model, task, layers="last")
    batch = model.batch(list(task["train"].examples))
    assert batch["input_ids"].shape[1] <= 14
    assert len(batch["input_ids"]) > 2
    spans = batch.words.tolist()
    pieces = [[w for w, s in zip(words, spans, strict=False) if s[0] == row] for row in range(2)]
    wanted = torch.cat([by_hand(folder, piece, lambda x: x.mean(0)) for piece in pieces])
    np.testing.assert_allclose(store[store.names[0]][: len(wanted)], wanted.numpy(), atol=3e-6)
    # No token is in two words, and none is lost between two of one piece.
    for (row, _, end), (other, start, _) in pairwise(spans[:-1]):
        assert (start == end) if other == row else start <= 2


@pytest.mark.parametrize("name", ["gpt2", "roberta", "bart"])
@pytest.mark.parametrize("other", [["good", "film"] * 20, ["good", "\u200b"]])
def test_a_sentence_that_fits_is_read_whole_whatever_is_beside_it(name, other, checkpoints):
    """Some of these words take more tokens at the beginning of a piece than inside a sentence."""
    folder = checkpoints(name)
    model = tm.load_model(f"hf:{folder}")
    words = ["a", "good", "film", "is", "not", "bad", "in", "Berlin", "and", "York", "really"]
    fits = len(model.collate.tokenizer(" ".join(words))["input_ids"])
    model = dataclasses.replace(model, collate=dataclasses.replace(model.collate, longest=fits))
    task = tm.load_task([words, other], [[0, 1] * 5 + [0], [0, 1] * (len(other) // 2)])
    store = quiet(model, task, layers="last")
    wanted = by_hand(folder, words, lambda x: x.mean(0)).numpy()
    np.testing.assert_allclose(store[store.names[0]][: len(words)], wanted, atol=3e-6)


def test_a_word_that_the_tokenizer_drops(checkpoints):
    model = tm.load_model(f"hf:{checkpoints('bert')}")
    task = tm.load_task([["good", "\u200b", "film"], ["bad"]], [[0, 1, 0], [1]])
    store = quiet(model, task, layers="last")
    named = tm.load_task([["good", "[UNK]", "film"], ["bad"]], [[0, 1, 0], [1]])
    np.testing.assert_allclose(
        store[store.names[0]], quiet(model, named, layers="last")[store.names[0]], atol=2e-6
    )
    tokenizer = model.collate.tokenizer
    tokenizer.unk_token = None
    with pytest.raises(InvalidInputError, match=r"makes no token of the word '\\u200b'"):
        quiet(model, task, layers="last")


def test_a_word_inside_a_longer_token_shares_it(checkpoints):
    import tokenizers as T

    transformers = pytest.importorskip("transformers")
    tokenizer = T.Tokenizer(T.models.WordLevel({"New York": 0, "is": 1, "<unk>": 2}, "<unk>"))
    tokenizer.pre_tokenizer = T.pre_tokenizers.Split(T.Regex("New York|is"), "isolated")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>"
    )
    collate = dataclasses.replace(
        tm.load_model(f"hf:{checkpoints('bert')}").collate, tokenizer=fast
    )
    words = ("New", "York", "is")
    batch = collate([Word(words, position) for position in range(3)])
    assert batch["input_ids"][0].tolist() == [0, 2, 1]
    assert batch.words.tolist() == [[0, 0, 1], [0, 0, 1], [0, 1, 3]]  # with the space before


def test_sentences_are_read_once_however_many_words_are_asked_for(checkpoints):
    model = tm.load_model(f"hf:{checkpoints('bert')}")
    batch = model.batch([Word(tuple(SENTENCES[i]), 0) for i in (2, 0, 2, 2)])
    assert len(batch["input_ids"]) == 2
    assert batch.words[:, 0].tolist() == [0, 1, 0, 0]
    assert batch.by_word


def test_words_grouped_by_length_are_pooled_like_one_by_one():
    rng = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 9, 4, generator=rng)
    spans = torch.tensor([[2, 0, 3], [0, 1, 2], [1, 4, 9], [0, 2, 5], [2, 8, 9]])
    for name in ("mean", "max", "cls", "last"):
        pool = resolve_pool(name)
        wanted = [pool(tokens[s : s + 1, a:b], "NTC")[0] for s, a, b in spans.tolist()]
        found = _pool_words(pool, tokens, _group_words(spans))
        torch.testing.assert_close(found, torch.stack(wanted))
    with pytest.raises(ExtractionError, match="use 'mean'"):
        _pool_words(resolve_pool("flatten"), tokens, _group_words(spans))


class Pooled(torch.nn.Module):
    """Word vectors, halved in length, and one vector per text."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(400, 8)
        self.mix = torch.nn.Linear(8, 8)
        self.out = torch.nn.Linear(8, 8)

    def forward(self, input_ids, attention_mask):
        tokens = self.words(input_ids)
        return self.out(self.mix(tokens[:, ::2]).mean(1))


@pytest.mark.parametrize(
    ("layer", "message"),
    [("out", "one vector per text and none per word"), ("mix", "words cannot be found in it")],
)
def test_layers_without_words(layer, message, checkpoints):
    model = tm.load_model(f"hf:{checkpoints('bert')}")
    collate = dataclasses.replace(
        model.collate, accepted=frozenset(("input_ids", "attention_mask"))
    )
    model = dataclasses.replace(model, module=Pooled().eval(), collate=collate)
    task = tm.load_task(SENTENCES, TAGS)
    assert quiet(model, task, layers="words")["words"].shape == (22, 8)
    with pytest.raises(ExtractionError, match=message):
        quiet(model, task, layers=layer)


# ---------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def labelled() -> Task:
    """Sixty sentences whose labels depend on the word."""
    rng = np.random.default_rng(0)
    vocabulary = sorted({word for words in SENTENCES for word in words})
    sentences = [
        [str(w) for w in rng.choice(vocabulary, int(rng.integers(2, 7)))] for _ in range(60)
    ]
    tags = [[vocabulary.index(word) % 3 for word in words] for words in sentences]
    return words_task("tags", {"train": (sentences, tags)})


def test_every_metric_of_moments_and_examples_scores_words(labelled, checkpoints):
    chosen = [
        name
        for name in METRICS
        if "classification" in METRICS[name].tasks
        and METRICS[name].requires in ("moments", "examples")
    ]
    assert len(chosen) > 15
    model = f"hf:{checkpoints('bert')}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        table = tm.rank_models(model, labelled, chosen, layers="last", progress=False)
        assert not table.failures
        store = quiet(model, labelled, layers="last")
        wanted = tm.score(store[store.names[0]], labelled["train"].labels, chosen)
    values = {r["metric"]: r["value"] for r in wanted.records}
    for record in table.records:
        assert record["value"] == pytest.approx(values[record["metric"]], rel=1e-6)
        assert record["n"] == len(labelled["train"])


def test_intervals_leave_out_whole_sentences(labelled, checkpoints):
    model = f"hf:{checkpoints('bert')}"
    table = tm.rank_models(model, labelled, "logme", layers="last", intervals=True, progress=False)
    store = quiet(model, labelled, layers="last")
    units, rows = labelled["train"].units, store[store.names[0]]
    widest = max(np.bincount(units))
    tokens = np.zeros((60, widest, rows.shape[1]), np.float32)
    tags = np.full((60, widest), -100)
    for unit, position, x, y in zip(
        units, labelled["train"].examples.positions, rows, store.labels, strict=True
    ):
        tokens[unit, position], tags[unit, position] = x, y
    by_sentence = tm.score(tokens, tags, "logme", intervals=True)
    by_word = tm.score(rows, store.labels, "logme", intervals=True)
    [record] = table.records
    assert record["stderr"] == pytest.approx(by_sentence.records[0]["stderr"], rel=1e-5)
    assert record["stderr"] != pytest.approx(by_word.records[0]["stderr"], rel=1e-4)


def test_a_race_is_refused(labelled, checkpoints):
    with pytest.raises(UnsupportedTaskError, match=r"leave out budget=; task 'tags' labels"):
        tm.rank_models(f"hf:{checkpoints('bert')}", labelled, budget=0.5, progress=False)


def test_heads_are_fitted_on_stores_of_words(labelled, checkpoints):
    model = f"hf:{checkpoints('bert')}"
    store = quiet(model, labelled, layers="last")
    probe = tm.LinearProbe().fit(store)
    assert probe.score(store) > 0.6  # the label is a function of the word
    tuned = tm.FineTune(epochs=0, start=tm.LinearProbe(), progress=False)
    tuned.fit(tm.load_model(model), labelled)
    assert tuned.logits(labelled, split="train").shape == (len(store), 3)


def test_images_are_not_read_as_words(labelled):
    table = tm.rank_models("zoo:cnn-mnist", labelled, "knn", progress=False)
    assert "reads images, but the task holds text" in table.failures[0]["error"]


def test_a_pool_of_ones_own_sees_one_word_at_a_time(checkpoints):
    seen = []

    def spy(output, layout, mask):
        seen.append((tuple(output.shape), layout, mask))
        return output[:, 0]

    quiet(
        f"hf:{checkpoints('bert')}", tm.load_task(SENTENCES, TAGS), layers="last",
        pool=Pool("spy", spy),
    )  # fmt: skip
    words = [shape for shape, layout, mask in seen[1:] if mask is None and layout == "NTC"]
    assert sum(shape[0] for shape in words) == 22 + 4 + 1  # those of the proof
    assert Split(["a"], np.array([0])).units is None
