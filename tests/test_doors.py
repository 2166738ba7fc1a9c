"""Files and data that are easily given by mistake: what they are is said, with what to do."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from scipy.io import wavfile
from torch.utils.data import Dataset, IterableDataset, Subset

from transfer_metrics import ScoreTable, rank_models, score
from transfer_metrics.__main__ import main
from transfer_metrics.errors import (
    InvalidInputError,
    TransferMetricsWarning,
    UnsupportedTaskError,
)
from transfer_metrics.ranking.cache import ResultCache
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.known_accuracies import known_accuracies
from transfer_metrics.results.record import Record
from transfer_metrics.results.record_files import FORMATS
from transfer_metrics.sources.example import decode_sound
from transfer_metrics.sources.models.candidates import candidates_of
from transfer_metrics.sources.models.load_model import load_model
from transfer_metrics.sources.tasks import value_files
from transfer_metrics.sources.tasks.load_task import load_task

datasets = pytest.importorskip("datasets")
FRAME = pd.DataFrame({"text": ["good", "bad", "nice", "awful"], "label": [1, 0, 1, 0]})


@pytest.mark.parametrize(
    ("name", "what", "cure"),
    [
        ("t.xlsx", "spreadsheet", "as .csv"),
        ("csv:t.xlsx", "spreadsheet", "as .csv"),
        ("parquet:t.xlsx", "spreadsheet", "as .csv"),
        ("t.zip", "packed", "unpack it, and give the folder"),
        ("imagefolder:t.zip", "packed", "unpack it, and give the folder"),
        ("t.tar.gz", "packed", "unpack it, and give the folder"),
        ("tar:t.tgz", "packed", "unpack it, and give the folder"),
        ("t.h5", "HDF5", "numpy.savez"),
        ("npz:t.mat", "MATLAB", "numpy.savez"),
        ("t.npy", "one array, without labels", "numpy.savez"),
        ("t.pkl", "pickle", "never loaded"),
        ("csv:t.joblib", "pickle", "never loaded"),
        ("t.RDS", "file of R", "write.csv"),
        ("t.png", "a single example", "one folder per class"),
    ],
)
def test_a_file_that_no_source_reads_is_named(tmp_path, monkeypatch, name, what, cure):
    monkeypatch.chdir(tmp_path)
    place = name.rpartition(":")[2]
    contents = {"xlsx": b"PK\x03\x04", "zip": b"PK\x03\x04", "gz": gzip.compress(b"a")}
    Path(place).write_bytes(contents.get(place.rpartition(".")[2], b"\x89\0\0\0"))
    with pytest.raises(InvalidInputError) as refused:
        load_task(name)
    assert what in str(refused.value)
    assert cure in str(refused.value)
    assert repr(place) in str(refused.value)
    assert "may be anything" not in str(refused.value)


@pytest.mark.parametrize("orient", ["columns", "index", "split", "values", "table"])
def test_json_of_other_layouts_says_how_to_write_it(tmp_path, orient):
    FRAME.to_json(tmp_path / "t.json", orient=orient)
    with pytest.raises(InvalidInputError, match=r"to_json\(path, orient='records'\)"):
        load_task(str(tmp_path / "t.json"))
    FRAME.to_json(tmp_path / "t.json", orient="records")  # the cure
    assert load_task(str(tmp_path / "t.json"))["train"].examples[0] == "good"


def test_json_of_other_things_is_named(tmp_path):
    rows = FRAME.to_dict("records")
    coco = {"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": [{"id": 1}]}
    for content, told in (
        (coco, "annotations of COCO"),
        ({"data": rows}, "within 'data'; write that list alone"),
        (FRAME.to_dict("list"), "one object of whole columns"),
    ):
        (tmp_path / "t.json").write_text(json.dumps(content))
        with pytest.raises(InvalidInputError, match=told):
            load_task(str(tmp_path / "t.json"))


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("https://example.org/t.csv", "fetch it"),
        ("csv:https://example.org/t.csv?label=x", "fetch it"),
        ("imagefolder:s3://bucket/photos", "fetch it"),
        ("https://huggingface.co/datasets/stanfordnlp/imdb", "write hf:stanfordnlp/imdb"),
        ("hf:https://huggingface.co/datasets/imdb", "write hf:imdb"),
        ("file:///tmp/t.csv", "the path alone"),
        ("https://huggingface.co/datasets/org/name/tree/main/data", "write hf:org/name$"),
        ("https://huggingface.co/google/vit-base-patch16-224", "it is a model, so name it as such"),
        ("C:\\photos", "a path of Windows.*the path that it has here"),
        ("imagefolder:D:/photos", "a path of Windows"),
    ],
)
def test_an_address_is_no_path(name, cure):
    with pytest.raises(InvalidInputError, match=cure):
        load_task(name)


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("https://huggingface.co/google/vit-base-patch16-224", "write hf:google/vit-base-patch16"),
        ("hf:https://huggingface.co/org/name/tree/main", "write hf:org/name$"),
        ("mine = https://hf.co/org/name/", "write hf:org/name$"),
        ("https://huggingface.co/timm/resnet18.a1_in1k", "write timm:resnet18.a1_in1k$"),
        ("https://huggingface.co/datasets/org/name", "it is a data set, so name it as such"),
        ("https://example.org/net.safetensors", "fetch it, and write hf:FOLDER, or <hub>:"),
        ("C:\\models\\net", "a path of Windows"),
    ],
)
def test_an_address_is_no_model(name, cure):
    for read in (load_model, candidates_of):
        with pytest.raises(InvalidInputError, match=cure):
            read(name)


def test_a_path_that_looks_like_one_of_windows_is_read_where_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("C:\\t.csv", index=False)
    assert len(load_task("C:\\t.csv")["train"]) == 4


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_that_was_not_drawn_here_is_not_replaced(tmp_path, ending, capsys):
    place = tmp_path / f"mine.{ending}"
    figure = Figure()
    figure.subplots().plot([1, 2])
    figure.savefig(place)
    before = place.read_bytes()
    argv = ["layers", "--model", "zoo:cnn-mnist", "--task", "sklearn:digits?examples=40"]
    assert main([*argv, "--metrics", "logme", "--plot", str(place)]) == 2
    assert "was not written here; name a new file" in capsys.readouterr().err
    with pytest.raises(InvalidInputError, match="was not written here; name a new file"):
        scores_of(3).plot.save("ranking", place)
    assert place.read_bytes() == before
    place.unlink()
    for _ in range(2):
        scores_of(3).plot.save("ranking", place)


def test_part_of_the_cache_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(tmp_path))
    for part in ("features", "training"):
        assert main(["cache", "show", "--only", part, "--json"]) == 0
        assert [row["part"] for row in json.loads(capsys.readouterr().out)] == [part]
    assert main(["cache", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5


@pytest.mark.parametrize(("option", "several"), [("task", False), ("models", True)])
def test_an_option_that_is_given_twice_has_a_cure_that_holds(option, several, capsys):
    argv = ["rank", "--models", "zoo:cnn-mnist", "--task", "sklearn:digits"]
    assert main([*argv, f"--{option}", argv[argv.index(f"--{option}") + 1]]) == 2
    assert ("with commas between" in capsys.readouterr().err) is several


def models_of(count: int) -> list[str]:
    return [f"m{i}" for i in range(count)]


def scores_of(count: int) -> ScoreTable:
    return ScoreTable(
        Record(metric="transrate", value=float(i), model=f"m{i}", task="t") for i in range(count)
    )


@pytest.mark.parametrize("name", ["error", "Top-1 error", "val_loss", "rank", "error rate", "err"])
def test_a_prior_of_errors_is_refused(name):
    for prior in (
        pd.DataFrame({name: [0.1, 0.4, 0.5]}, index=models_of(3)),
        pd.Series([0.1, 0.4, 0.5], models_of(3), name=name),
    ):
        with pytest.raises(InvalidInputError, match=r"the lower it is.*give accuracies"):
            scores_of(3).informed(prior=prior)


@pytest.mark.parametrize(
    "name",
    [
        *("params", "n_params", "Params (M)", "param_count", "size", "img_size", "GFLOPs"),
        *("latency_ms", "train time (s)", "epochs", "lr", "memory", "n_layers", "images/s"),
        *("downloads", "std"),
    ],
)
@pytest.mark.parametrize("others", [["pets"], ["pets", "mean"], ["mean"], []])
def test_what_a_prior_says_of_models_is_left_out(name, others):
    rows = {"pets": [0.5, 0.7, 0.6, 0.4], "mean": [0.6, 0.8, 0.7, 0.5], name: [3.0, 1, 2, 9]}
    prior = pd.DataFrame(rows, index=models_of(4))[[*others, name]]
    if not others:
        with (
            pytest.warns(TransferMetricsWarning, match="by name no accuracy"),
            pytest.raises(InvalidInputError, match="has no accuracies"),
        ):
            scores_of(4).informed(prior=prior)
        return
    with pytest.warns(TransferMetricsWarning, match=re.escape(repr(name))):
        found = scores_of(4).informed(prior=prior)
    assert found.records == scores_of(4).informed(prior=prior[others[:1]]).records


@pytest.mark.parametrize("values", [[-0.5, 0.5, 0.7], [0.3, 2.3, 1.1], [320.5, 87.0, 11.0]])
def test_a_prior_of_neither_shares_nor_per_cents_is_told(values):
    with pytest.warns(TransferMetricsWarning, match="neither shares nor per cents"):
        scores_of(3).informed(prior=dict(zip(models_of(3), values, strict=True)))
    for tidy in ([0.5, 0.6, 0.7], [0, 0.5, 1], [4.5, 61.0, 99.5], [100, 90, 80], [1, 0, 1]):
        assert scores_of(3).informed(prior=dict(zip(models_of(3), tidy, strict=True)))


@pytest.mark.parametrize(
    "name",
    ["log_loss", "logloss", "cross_entropy", "wer", "eer", "deviance", "top1_err", "brier_score"],
)
def test_a_metric_that_is_called_a_loss_says_its_direction(name):
    records = [Record(metric=name, value=float(i), model=f"m{i}", task="t") for i in range(3)]
    with pytest.raises(InvalidInputError, match="no record says whether higher is better"):
        ScoreTable(records).ranking()


@pytest.mark.parametrize("name", ["error detection", "lossless", "cross", "ranking 2", "terror"])
def test_a_task_of_such_a_name_is_a_task(name):
    prior = pd.DataFrame({name: [0.1, 0.4, 0.5]}, index=models_of(3))
    assert scores_of(3).informed(prior=prior).records[0]["prior"]


def test_a_prior_of_ranks_is_told():
    prior = dict(zip(models_of(4), (2, 1, 4, 3), strict=True))
    with pytest.warns(TransferMetricsWarning, match="from 1 to 4, as ranks are"):
        scores_of(4).informed(prior=prior)


@pytest.mark.parametrize(
    ("places", "ranks"),
    [((1, 2, 2, 4), True), ((2, 1, 2, 3), True), ((1, 2.5, 2.5, 4), True), ((3, 1, 3, 4), True),
     ((5, 7, 7, 8), False), ((0.1, 0.2, 0.2, 0.4), False), ((1.0, 1.0, 0.9, 0.8), False)],
)  # fmt: skip
def test_ranks_with_ties_are_ranks(places, ranks):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores_of(4).informed(prior=dict(zip(models_of(4), places, strict=True)))
    assert any("as ranks are" in str(w.message) for w in caught) == ranks


def test_an_empty_row_of_a_prior_is_a_missing_one():
    rows = {"m0": 0.5, "m1": 0.7, "m2": 0.9}
    with pytest.warns(TransferMetricsWarning, match="the prior lacks m3; their scores alone"):
        missing = scores_of(4).informed(prior=rows)
    with pytest.warns(TransferMetricsWarning, match="the prior lacks m3; their scores alone"):
        empty = scores_of(4).informed(prior={**rows, "m3": None})
    assert empty.records == missing.records


def test_two_units_of_a_prior_are_told_once():
    """``rank_models`` reads it before the models run and adds it after."""
    prior = {"zoo:vit-mnist": 0.9, "zoo:resnet-usps": 95.0}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rank_models(
            list(prior), "sklearn:digits?examples=60", "transrate", prior=prior, progress=False
        )
    assert sum("per cent" in str(one.message) for one in told) == 1


def told(*given: object) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        load_task(*given)
    return [str(one.message) for one in found]


def test_short_texts_in_two_classes_are_by_chance():
    texts = [f"the film number {i} was long" for i in range(98)]
    labels = [i % 2 for i in range(98)]
    assert not told([*texts, "ok", "ok"], [*labels, 0, 1])
    splits = {
        "train": ([*texts, "ok"], [*labels, 0]),
        "test": (["ok", *"abcdefghijklmnopqrs"], [0, 1] * 10),
    }
    assert not told(splits)
    [text] = told([*texts, *["ok", "no"] * 10], [*labels, *[0] * 10, *[1] * 10])
    assert text.partition(": ")[2].startswith(
        "20 of 118 training examples are equal to one of another class and short, such as"
    )
    [text] = told([*texts, texts[0], "ok", "ok"], [*labels, 1, 0, 1])
    assert "2 of 101 training examples are equal to one of another class, such as example 0" in text


def test_blank_pictures_in_two_classes_are_no_copies(tmp_path):
    noise = np.random.default_rng(0)
    for number in range(6):
        for name in ("ant", "bee"):
            (tmp_path / name).mkdir(exist_ok=True)
            pixels = noise.integers(0, 256, (8, 8, 3), np.uint8) if number else np.zeros((8, 8, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{number}.png")
    [text] = told(str(tmp_path))
    assert "2 of 12 training examples are equal to one of another class and blank" in text
    assert "leave out blank ones" in text
    assert "copied" not in text


class Stream(IterableDataset):
    def __init__(self, rows: list[tuple[str, int]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self.rows)


def test_a_stream_in_the_order_of_its_classes_is_told():
    rows = [(f"the text number {i}", i // 20) for i in range(80)]
    columns = dict(zip(("text", "label"), map(list, zip(*rows, strict=True)), strict=True))
    names = datasets.ClassLabel(names=["a", "b", "c", "d"])
    features = datasets.Features(text=datasets.Value("string"), label=names)
    named = datasets.Dataset.from_dict(columns, features).to_iterable_dataset()
    bare = datasets.Dataset.from_dict(columns).to_iterable_dataset()

    def told_of(stream: object, first: int) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            assert len(load_task(stream, first=first)["train"]) == min(first, 80)
        return [str(one.message) for one in found]

    for stream in (Stream(rows), bare):
        [text] = told_of(stream, 50)
        assert "in the order of their classes, of which more may follow" in text
        assert "goes on after 50 examples; shuffle it before" in text
    [text] = told_of(named, 50)
    assert "no example of the class 'd'; the stream goes on" in text
    for stream in (Stream(rows), bare, named):
        for first in (80, 100):  # all of it
            assert not told_of(stream, first)
        with pytest.raises(InvalidInputError, match=r"of one class.*; shuffle it before"):
            load_task(stream, first=15)
    shuffled = np.random.default_rng(0).permutation(80)
    assert not told_of(Stream([rows[i] for i in shuffled]), 50)


@pytest.mark.parametrize(
    "frame",
    [
        {"a": ["1.5", "2.0"] * 6, "b": ["3", "4"] * 6},
        {"a": ["1,5", "2,0"] * 6, "b": ["3", "4"] * 6},
        {"a": ["1,5", "2.0"] * 6, "b": [3, 4] * 6},
    ],
)
def test_numbers_written_as_texts_in_a_frame_are_numbers(frame):
    frame = pd.DataFrame(frame)
    task = load_task(frame, ["a", "a", "b", "b"] * 3)
    assert task.modality == "tensor"
    np.testing.assert_array_equal(np.stack(list(task["train"].examples)), [[1.5, 3], [2, 4]] * 6)


def test_other_texts_in_a_frame_are_texts():
    for pair in ({"a": ["one", "two"] * 6, "b": ["3", "4"] * 6}, {"a": ["1.5", "two"] * 6}):
        assert load_task(pd.DataFrame(pair), ["a", "b"] * 6).modality == "text"
    with pytest.raises(InvalidInputError, match="NaN"):
        load_task(pd.DataFrame({"a": ["1.5", None] * 6, "b": ["3", "4"] * 6}), ["a", "b"] * 6)


def test_texts_that_are_numbers_are_told():
    for texts in ([f"{i},5" for i in range(12)], pd.Series([f"{i}.5" for i in range(12)])):
        [text] = told(texts, ["a", "b"] * 6)
        assert "the texts are numbers, such as '0" in text
    assert not told([f"{i}.5 stars" for i in range(12)], ["a", "b"] * 6)
    with pytest.raises(InvalidInputError, match=r"a number as text, such as astype\(float\)"):
        score(pd.DataFrame({"a": ["1.5", "2"] * 6}), [0, 1] * 6, "logme")


def test_scores_of_an_earlier_version_are_told_as_such(tmp_path):
    """Which wrote no key behind its records."""
    cache = ResultCache(tmp_path)
    cache.write("key", [Record(metric="knn", value=0.5, model="m")])
    [path] = (tmp_path / "scores").glob("*.jsonl")
    *lines, _ = path.read_text().splitlines(keepends=True)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    path.write_text("".join([*lines, json.dumps({"sha256": digest})]))
    with pytest.warns(TransferMetricsWarning, match=r"is of an earlier version.*computed anew"):
        assert cache.read("key") == []
    path.write_text("".join([*lines, json.dumps({"sha256": digest[::-1]})]))
    with pytest.warns(TransferMetricsWarning, match=r"is damaged.*computed anew"):
        assert cache.read("key") == []


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.csv", "scores.parquet", "report.html"])
def test_what_was_not_written_here_is_not_replaced(tmp_path, name):
    def write(path: Path) -> None:
        table = scores_of(3)
        table.report(path) if path.suffix == ".html" else table.save(path)

    mine = tmp_path / name
    mine.write_text("name,age\nAnn,33\n")
    with pytest.raises(InvalidInputError, match="was not written here; name a new file"):
        write(mine)
    assert mine.read_text() == "name,age\nAnn,33\n"
    mine.write_text("")  # as mkstemp leaves it
    write(mine)
    before = mine.read_bytes()
    write(mine)
    assert mine.read_bytes() == before


def test_a_dash_is_no_place(tmp_path, monkeypatch, capsys):
    """A file of that name can be had as ``./-``."""
    monkeypatch.chdir(tmp_path)
    scores_of(3).save("scores.jsonl")
    for argv in (
        ["report", "scores.jsonl", "--out", "-"],
        ["rank", "--models", "zoo:vit-mnist", "--task", "sklearn:iris", "--out", "-"],
        ["extract", "--model", "zoo:vit-mnist", "--task", "sklearn:digits", "--out", "-"],
    ):
        assert main(argv) == 2
        assert "cannot write -" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"scores.jsonl"}
    assert main(["report", "scores.jsonl", "--out", "./-"]) == 0
    assert (tmp_path / "-").read_text().startswith("<!DOCTYPE html>")


def test_a_mean_over_tests_of_other_sizes_is_told():
    def table(*counts: int) -> Comparison:
        return Comparison(
            Record(metric="accuracy", value=0.5, model="m", head="h", split="test", n=n, seed=seed)
            for seed, n in enumerate(counts)
        )

    with pytest.warns(TransferMetricsWarning, match="'test' is of tests on 20 and 50 examples"):
        table(50, 20).summary()
    table(50, 50).summary()


def waves(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (count, 1, 2_000)).astype(np.float32)


class Waves(Dataset):
    def __init__(self, rate: int | None) -> None:
        self.waves = torch.from_numpy(waves())
        if rate:
            self.sample_rate = rate

    def __len__(self) -> int:
        return len(self.waves)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.waves[row], row % 2


def test_waveforms_of_one_channel_are_sounds_where_their_rate_is_known():
    for given in (Waves(8_000), Subset(Waves(8_000), range(12))):
        task = load_task(given)
        assert task.modality == "audio"
        sound = task["train"].examples[3]
        assert sound.rate == 8_000
        np.testing.assert_array_equal(sound.samples, waves()[3, 0])
    sounds = [{"array": wave, "sampling_rate": 8_000} for wave in waves()]
    found = load_task(sounds, [0, 1] * 6)["train"].examples[3]
    np.testing.assert_array_equal(found.samples, waves()[3, 0])


def test_waveforms_of_no_rate_are_told():
    for given in ((Waves(None),), (waves(), [0, 1] * 6)):
        [text] = told(*given)
        assert "shape (1, 2000), as waveforms of one channel are" in text
    assert not told(waves()[:, :, :100], [0, 1] * 6)


def test_channels_that_cancel_are_told(tmp_path):
    tone = (0.5 * np.sin(np.arange(4_000) / 9) * 32_767).astype(np.int16)
    noise = np.random.default_rng(0).integers(-9_000, 9_000, 4_000).astype(np.int16)

    def read(*channels: np.ndarray) -> list[str]:
        wavfile.write(tmp_path / "two.wav", 8_000, np.stack(channels, axis=1))
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            decode_sound((tmp_path / "two.wav").read_bytes(), "two.wav")
        return [str(one.message) for one in found]

    [text] = read(tone, -tone)
    assert "sound 'two.wav': its 2 channels cancel in their mean" in text
    assert (
        not read(tone, tone) + read(tone, noise) + read(tone, 0 * tone) + read(0 * tone, 0 * tone)
    )


@pytest.mark.parametrize("view", ["best", "last", "all"])
@pytest.mark.parametrize("ending", FORMATS)
def test_the_view_of_a_table_is_saved(tmp_path, view, ending):
    rows = [("early", 0, 0.9), ("late", 1, 0.5)]
    table = ScoreTable(
        [
            Record(metric="knn", value=value, model="m", layer=layer, layer_index=place)
            for layer, place, value in rows
        ],
        view,
    )
    table.save(tmp_path / f"t{ending}")
    found = ScoreTable.load(tmp_path / f"t{ending}")
    assert found.view == view
    assert found.records == table.records
    pd.testing.assert_frame_equal(found.ranking(), table.ranking())


ROWS = np.random.default_rng(0).normal(size=(30, 3)).round(3)
CODES = np.arange(30) % 3


def _scored(tmp_path: Path, features: str, labels: str) -> float:
    (tmp_path / "x.csv").write_text(features)
    (tmp_path / "y.txt").write_text(labels)
    x, named = value_files.read_values(str(tmp_path / "x.csv"))
    y = value_files.read_labels_of(str(tmp_path / "y.txt"), len(x), named)
    return score(x, y, "logme").records[0]["value"]


def _lines(rows: np.ndarray) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())


@pytest.mark.parametrize("header", ["", "a,b,c\n", "0,1,2\n", "2001,2002,2003\n", '"5","6","7"\n'])
@pytest.mark.parametrize("label", ["", "species\n"])
@pytest.mark.parametrize("names", [False, True])
def test_headers_of_features_and_labels_are_no_examples(tmp_path, header, label, names):
    labels = "".join(f"{f'class {c}' if names else c}\n" for c in CODES)
    expected = score(ROWS, CODES, "logme").records[0]["value"]
    assert _scored(tmp_path, header + _lines(ROWS), label + labels) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [CODES.tolist(), [f"class {c}" for c in CODES], ROWS[:, 0]])
def test_a_label_too_many_is_refused_and_no_header(tmp_path, labels):
    """The pairs would be off by one."""
    text = "".join(f"{label}\n" for label in labels)
    for cut in (_lines(ROWS[:-1]), "a,b,c\n" + _lines(ROWS[:-1])):
        with pytest.raises(InvalidInputError, match="30"):
            _scored(tmp_path, cut, text)


@pytest.mark.parametrize("first", ["", "nan", "NA", "?", "-"])
def test_a_first_cell_without_a_number_makes_no_header(tmp_path, first):
    text = f"{first},0.5,0.25\n" + _lines(ROWS[1:])
    with pytest.raises(InvalidInputError):
        _scored(tmp_path, text, "".join(f"{c}\n" for c in CODES))
    with pytest.raises(InvalidInputError):
        _scored(tmp_path, ",,\n" + _lines(ROWS), "".join(f"{c}\n" for c in CODES))


def test_an_index_without_a_name_is_left_out(tmp_path):
    frame = pd.DataFrame(ROWS)
    expected = score(ROWS, CODES, "logme").records[0]["value"]
    labels = pd.Series([f"class {c}" for c in CODES], name="species").to_csv()
    assert _scored(tmp_path, frame.to_csv(), labels) == pytest.approx(expected)
    named = frame.set_axis(["a", "b", "c"], axis=1)
    assert _scored(tmp_path, named.to_csv(), labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("name", "cure"), [("x.xlsx", "as .csv"), ("https://x.org/x.csv", "fetch")]
)
def test_features_in_what_is_no_table_are_refused_with_a_cure(name, cure):
    for read in (value_files.read_values, lambda path: value_files.read_labels_of(path, 3, {})):
        with pytest.raises(InvalidInputError, match=cure):
            read(name)


@pytest.mark.parametrize(
    "labels", [["1", "1.0"], ["1", "01"], ["cat", "cat "], ["'1'", "1"], ["Cat", "cat"]]
)
def test_score_tells_of_classes_that_may_be_one(labels):
    with pytest.warns(TransferMetricsWarning, match="classes differ only by"):
        score(ROWS[:28], [*labels, "x", "y"] * 7, "logme")


@pytest.mark.parametrize(
    "name", ["err1", "cifar10 err", "err_cifar", "misclassified", "top-1 error (%)"]
)
def test_errors_by_other_names_are_no_accuracies(name):
    known = pd.DataFrame({name: [0.1, 0.2, 0.3]}, index=["a", "b", "c"])
    with pytest.raises(InvalidInputError, match="better the lower"):
        known_accuracies(known)
    for task in ("error detection", "terra", "merry"):
        known_accuracies(known.set_axis([task], axis=1))


def test_columns_of_datasets_that_are_not_read_have_a_cure(tmp_path):
    names, y = datasets.ClassLabel(names=["a", "b"]), [0, 1] * 6
    texts = [{"en": f"text {i}", "de": f"Text {i}"} for i in range(12)]
    for kind in (
        datasets.Translation(["en", "de"]),
        {l: datasets.Value("string") for l in ("en", "de")},
    ):
        features = datasets.Features(pair=kind, label=names)
        data = datasets.Dataset.from_dict({"pair": texts, "label": y}, features)
        with pytest.raises(InvalidInputError, match=r"column 'pair' holds .* by data.flatten\(\)"):
            load_task(data)
        assert {*load_task(data.flatten())["train"].examples[3]} == {"text 3", "Text 3"}
    sound = datasets.Features(audio=datasets.Audio(decode=False), label=names)
    rows = pyarrow.table({"audio": [{"bytes": b"RIFF", "path": None}] * 12, "label": y})
    data = datasets.Dataset(rows.cast(sound.arrow_schema))
    with pytest.raises(
        InvalidInputError, match=r"column 'audio' holds sounds; .* audiofolder:FOLDER"
    ):
        load_task(data)
    data.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UnsupportedTaskError, match=r"holds sounds; .* audiofolder:FOLDER"):
        load_task(str(tmp_path / "t.parquet"))
