"""Files and data that are easily given by mistake: what they are is said, with what to do."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path

import pandas as pd
import pytest

from transfer_metrics import ScoreTable, rank_models
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.results.record import Record
from transfer_metrics.sources.tasks.load_task import load_task

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
    ],
)
def test_an_address_is_no_path(name, cure):
    with pytest.raises(InvalidInputError, match=cure):
        load_task(name)


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


@pytest.mark.parametrize("name", ["error detection", "lossless", "cross", "ranking 2", "terror"])
def test_a_task_of_such_a_name_is_a_task(name):
    prior = pd.DataFrame({name: [0.1, 0.4, 0.5]}, index=models_of(3))
    assert scores_of(3).informed(prior=prior).records[0]["prior"]


def test_a_prior_of_ranks_is_told():
    prior = dict(zip(models_of(4), (2, 1, 4, 3), strict=True))
    with pytest.warns(TransferMetricsWarning, match="from 1 to 4, as ranks are"):
        scores_of(4).informed(prior=prior)


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
