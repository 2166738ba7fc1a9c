"""``transfer-metrics select`` as a person at a terminal, and a script, sees it."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, LayerNotFoundError
from transfer_metrics.selection.base import Selection
from transfer_metrics.selection.feature_maps import FeatureMapSelector
from transfer_metrics.selection.layer_selector import LayerSelector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("select") / "features"
    task = "sklearn:digits?examples=300"
    tm.extract("zoo:cnn-mnist", task, layers="blocks", out=path, progress=False)
    return path


@pytest.fixture(scope="module")
def store(folder):
    return tm.FeatureStore.open(folder)


@pytest.fixture
def select(folder, capsys):
    def run(*argv):
        status = main(["select", "--store", str(folder), "--quiet", *map(str, argv)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_best_layers_are_printed_with_their_scores(select, store):
    status, out, err = select("--by", "knn", "--k", 2)
    fitted = LayerSelector("knn", k=2).fit(store)
    assert status == 0, err
    head, _, *lines = out.splitlines()
    assert [part.split(" (")[0] for part in head.split(": ")[0].split(", ")] == fitted.layers_
    assert f"{fitted.columns_.size} columns by knn, score {fitted.score_:.4g}" in head
    assert len(lines) == 1 + len(store.names)
    assert [line.split()[0] for line in lines if line.endswith("*")] == [
        name for name in store.names if name in fitted.layers_
    ]


def test_a_set_as_json(select, store):
    status, out, _ = select("--by", "logme", "--mode", "forward", "--json")
    fitted = LayerSelector("logme", mode="forward").fit(store)
    records = json.loads(out)
    assert status == 0
    assert [r["value"] for r in records] == [r["value"] for r in fitted.scores_.records]
    assert [r["layer"] for r in records if r["chosen"]] == ["+".join(fitted.layers_)]


def test_dropping_blocks_as_csv(select):
    status, out, _ = select("--by", "transrate", "--mode", "drop_last", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert {row["options"] for row in rows} == {"preset=centred"}
    assert [row["chosen"] for row in rows].count("True") == 1


@pytest.mark.parametrize("criterion", ["cv", "fisher"])
def test_feature_maps_per_layer(select, store, criterion, monkeypatch):
    quick = {"repeats": 1, "folds": 2, "student": _Nearest()}
    monkeypatch.setattr(FeatureMapSelector.__init__, "__kwdefaults__",
                        {**FeatureMapSelector.__init__.__kwdefaults__, **quick})  # fmt: skip
    keep = ["--keep", 0.2] if criterion == "fisher" else []
    status, out, _ = select("--features", criterion, *keep, "--json")
    fitted = FeatureMapSelector(criterion, **({"shares": [0.2]} if keep else {})).fit(store)
    assert status == 0
    found = {r["layer"]: r["columns"] for r in json.loads(out) if r["columns"]}
    assert found == fitted.layer_counts_


def test_group_lasso_keeps_a_share_of_all_columns(select, store, tmp_path):
    from transfer_metrics.selection.group_lasso import GroupLassoSelector

    path = tmp_path / "chosen.json"
    status, out, err = select("--features", "group_lasso", "--keep", 0.1, "--json", "--out", path)
    assert status == 0, err
    fitted = GroupLassoSelector(keep=0.1).fit(store)
    dims = {layer.name: layer.dim for layer in store.layers}
    assert {r["layer"]: r["dim"] for r in json.loads(out)} == dims
    assert sum(r["columns"] for r in json.loads(out)) == fitted.columns_.size
    np.testing.assert_array_equal(Selection.load(path).transform(store), fitted.transform(store))


class _Nearest:
    """Nearest class mean: quick, and enough for the command line."""

    def __new__(cls):
        from sklearn.neighbors import NearestCentroid

        return NearestCentroid()


def test_the_written_choice_can_be_read_and_used(select, store, tmp_path):
    path = tmp_path / "chosen.json"
    status, _, err = select("--by", "logme", "--mode", "forward", "--out", path)
    fitted = LayerSelector("logme", mode="forward").fit(store)
    read = Selection.load(path)
    assert status == 0
    assert err == ""
    assert list(read.layers) == fitted.layers_
    assert (read.model, read.task) == (store.model, store.task)
    assert read.score == fitted.score_
    np.testing.assert_array_equal(read.transform(store), fitted.transform(store))
    content = json.loads(path.read_text())
    assert [len(layer["columns"]) for layer in content["layers"]] == list(read.counts.values())


def test_a_choice_of_columns_survives_the_file(tmp_path):
    rng = np.random.default_rng(0)
    layers = {"a": rng.standard_normal((5, 4)), "b": rng.standard_normal((5, 3))}
    chosen = Selection.of(layers, np.array([5, 6, 0, 3]), True, "mine")
    assert {k: v.tolist() for k, v in chosen.layers.items()} == {"b": [1, 2], "a": [0, 3]}
    chosen.save(tmp_path / "s.json")
    read = Selection.load(tmp_path / "s.json")
    np.testing.assert_array_equal(read.transform(layers), chosen.transform(layers))
    lengths = np.linalg.norm(layers["b"], axis=1)
    np.testing.assert_allclose(read.transform(layers)[:, 0], layers["b"][:, 1] / lengths)
    with pytest.raises(LayerNotFoundError):
        read.transform({"a": layers["a"]})
    with pytest.raises(InvalidInputError, match="3 features when"):
        read.transform({"a": layers["a"], "b": layers["a"]})


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.json"
    Selection({"a": np.array([0])}, {"a": 1}, False, "first").save(path)
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(InvalidInputError, match="disk full"):
        Selection({"a": np.array([0])}, {"a": 1}, False, "second").save(path)
    assert Selection.load(path).chosen_by == "first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        '{"format": "another"}',
        '{"format": "transfer_metrics selection 1", "unit_rows": true, "chosen_by": "x", '
        '"layers": [{"name": "a", "dim": 2, "columns": [2]}]}',
    ],
)
def test_a_file_that_is_no_selection_is_refused(tmp_path, text):
    path = tmp_path / "s.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match="no selection"):
        Selection.load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"model": float("inf")},
        {"spec": ["timm:resnet18"]},
        {"chosen_by": 3},
        {"score": float("nan")},
        {"score": "0.5"},
        {"unit_rows": "false"},
        {"layers": [{"name": "a", "dim": 2, "columns": [0.5]}]},
        {"layers": [{"name": "a", "dim": 2, "columns": [1, 1]}]},
        {"layers": [{"name": "a", "dim": 2.5, "columns": [1]}]},
        {"layers": [{"name": "a", "dim": 2, "columns": [i]} for i in (0, 1)]},
    ],
    ids=str,
)
def test_a_selection_of_other_kinds_of_values_is_refused(tmp_path, changed):
    """They were read, and meant something else: 0.5 the column 0, the text "false" yes."""
    path = tmp_path / "s.json"
    Selection({"a": np.array([1])}, {"a": 2}, False, "mine").save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(InvalidInputError, match="no selection"):
        Selection.load(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="there is no selection"):
        Selection.load(tmp_path / "s.json")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--by", "leep"], "source head"),
        (["--by", "transrat"], "did you mean"),
        (["--features", "cv", "--mode", "best"], "whole layers"),
        (["--features", "cv", "--keep", "0.1"], "--keep goes with"),
        (["--by", "knn", "--task", "sklearn:digits"], "leave --task out"),
        (["--by", "knn", "--max-dim", "1"], "max_dim=1"),
    ],
)
def test_wrong_input_is_one_line_and_status_two(select, argv, words):
    status, out, err = select(*argv)
    assert status == 2
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("argv", [[], ["--by", "knn", "--features", "cv"],
                                  ["--features", "fisher", "--keep", "2"]])  # fmt: skip
def test_wrong_usage_is_status_two(select, argv, capsys):
    assert select(*argv)[0] == 2


@pytest.mark.parametrize("option", ["--from", "--features"])
def test_a_selection_is_trained_on_wherever_it_is_given(option, tmp_path, capsys):
    known = {"model": "zoo:cnn-mnist", "task": "sklearn:digits?examples=100", "pool": "avg"}
    [layer, *_] = tm.list_layers(tm.load_model(known["model"]))
    columns = np.arange(0, layer.dim, 2)
    chosen = Selection({layer.name: columns}, {layer.name: layer.dim}, False, "by hand", **known)
    place = str(tmp_path / "chosen.json")
    chosen.save(place)
    given = ["train", option, place, "--quiet", "--out", str(tmp_path / "head")]
    assert main([*given, "--layers", layer.name]) == 2
    assert "chosen.json has its layers already" in capsys.readouterr().err
    assert main([*given, "--head", "linear_probe"]) == 2
    assert "has some features of its layers, which head2toe reads" in capsys.readouterr().err
    assert main(given) == 0
    head = tm.load_head(tmp_path / "head")
    assert head.source_.name == known["model"]
    assert {name: sorted(c) for name, c in head.layer_columns_.items()} == {
        layer.name: columns.tolist()
    }
