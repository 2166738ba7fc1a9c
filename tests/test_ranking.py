"""Ranking, its cache, and its table, with real small networks."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import sys
import warnings
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits, load_iris
from torch import nn

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning, UnknownNameError
from transfer_metrics.metrics.base import METRICS as KNOWN
from transfer_metrics.results.record import COLUMNS, Record

METRICS = ["knn", "transrate"]


class Net(nn.Module):
    """A small classifier of vectors that counts its forward passes."""

    def __init__(self, width=16, seed=0, fail=False):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Linear(64, width), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(width, width), nn.ReLU())
        self.head = nn.Linear(width, 10)
        self.examples = 0
        self.fail = fail

    def forward(self, x):
        if self.fail:
            raise RuntimeError("out of cheese")
        self.examples += len(x)
        return self.head(self.second(self.first(x)))


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:400].astype(np.float32) / 16, y[:400]


def named(*nets):
    from transfer_metrics.sources.models.model import Model

    return [Model(f"net{i}", net, None, "tensor", "head", (64,)) for i, net in enumerate(nets)]


def rank(models, task, **options):
    return tm.rank_models(models, task, METRICS, progress=False, **options)


def values(table):
    return [
        (r["model"], r["layer"], r["metric"], r["value"], r["stderr"], r["error"])
        for r in table.records
    ]


def test_every_layer_is_scored_as_by_hand(digits):
    x, y = digits
    net = Net()
    table = rank(named(net), digits)
    with torch.inference_mode():
        first = net.first(torch.from_numpy(x))
        second = net.second(first)
    for layer, rows in (("first", first), ("head:input", second)):
        scores = {r["metric"]: r for r in table.records if r["layer"] == layer}
        assert scores["knn"]["value"] == pytest.approx(float(tm.knn(rows, y)))
        assert scores["knn"]["stderr"] == pytest.approx(tm.knn(rows, y).stderr)
        assert scores["transrate"]["value"] == pytest.approx(float(tm.transrate(rows, y)))
        assert scores["knn"]["dim"] == 16


def test_choices_of_layers(digits):
    models = named(Net(), Net(8, 1))
    best = rank(models, digits)
    frame = best.to_frame().query("metric == 'knn'")
    ranking = best.ranking("knn")
    assert list(ranking["score"]) == sorted(frame.groupby("model")["value"].max(), reverse=True)
    assert list(rank(models, digits, layers="last").ranking()["layer"]) == ["head:input"] * 2
    every = rank(models, digits, layers="blocks")
    assert len(every.ranking("knn")) == len(frame)
    assert every.ranking("knn")["score"].is_monotonic_decreasing
    chosen = rank(models, digits, layers="first.*")
    assert {r["layer"] for r in chosen.records} == {"first.0", "first.1"}


def test_a_failing_model_is_a_row_with_its_reason(digits):
    table = rank([*named(Net(fail=True)), Net(8), "zoo:nothing-like-it"], digits)
    failures = {r["model"]: r["error"] for r in table.failures}
    assert "out of cheese" in failures["net0"]
    assert "unknown" in failures["zoo:nothing-like-it"]
    ranking = table.ranking()
    assert list(ranking["rank"].fillna(0)) == [1, 0, 0]
    assert table.best() == ranking["model"][0]
    assert "failed" in table.format()


@pytest.mark.parametrize("shard_size", [1024, 100], ids=["one range", "four"])
def test_what_a_metric_of_ones_own_raises_stops_no_other_model(digits, shard_size):
    def known_width(moments):
        return {16: 1.0}[moments.dim]

    options = {"layers": "last", "cache": "never", "progress": False, "shard_size": shard_size}
    table = tm.rank_models(named(Net(24), Net(16)), digits, known_width, **options)
    assert [failure["error"] for failure in table.failures] == ["KeyError: 24"]
    assert table.best() == "net1"


def test_a_ranking_where_all_failed_says_so(digits):
    table = rank(named(Net(fail=True)), digits)
    with pytest.raises(InvalidInputError, match="failures"):
        table.best()
    with pytest.raises(InvalidInputError, match="failures"):
        table.plot.ranking()


def test_a_second_run_does_no_forward_pass(digits, tmp_path):
    nets = [Net(), Net(8, 1)]
    first = rank(named(*nets), digits, cache_dir=tmp_path)
    seen = [net.examples for net in nets]
    assert min(seen) >= 400
    again = rank(named(*nets), digits, cache_dir=tmp_path)
    assert values(again) == values(first)
    # Listing layers may trace a dummy batch; the data are not run again.
    assert all(net.examples - before < 10 for net, before in zip(nets, seen, strict=True))
    assert not [path for part in ("features", "statistics") for path in tmp_path.glob(f"{part}/*")]


def test_new_metrics_reuse_features_where_they_were_kept(digits, tmp_path):
    net = Net()
    rank(named(net), digits, cache_dir=tmp_path, keep_features=True)
    seen = net.examples
    table = tm.rank_models(
        named(net), digits, [*METRICS, "h_score"], cache_dir=tmp_path, progress=False
    )
    assert table.metrics == ["knn", "transrate", "h_score"]
    assert net.examples - seen < 10


def test_the_cache_knows_weights_data_and_options_by_content(digits, tmp_path):
    x, y = digits
    base = rank(named(Net()), digits, cache_dir=tmp_path)
    other_weights = rank(named(Net(seed=5)), digits, cache_dir=tmp_path)
    assert values(other_weights) != values(base)
    changed = x.copy()
    changed[0] = 0
    assert values(rank(named(Net()), (changed, y), cache_dir=tmp_path)) != values(base)
    options = tm.rank_models(named(Net()), digits, "knn(k=1)", cache_dir=tmp_path, progress=False)
    assert options.metrics == ["knn(k=1)"]
    with torch.inference_mode():
        features = Net().second(Net().first(torch.from_numpy(x)))
    assert options.records[-1]["value"] == pytest.approx(float(tm.knn(features, y, k=1)))


def test_policies(digits, tmp_path):
    net = Net()
    with pytest.raises(InvalidInputError, match="cache must be"):
        rank(named(net), digits, cache="sometimes")
    absent = rank(named(net), digits, cache="only-cache", cache_dir=tmp_path)
    assert "not in the cache" in absent.failures[0]["error"]
    never = rank(named(net), digits, cache="never", cache_dir=tmp_path / "untouched")
    assert not (tmp_path / "untouched").exists()
    kept = rank(named(net), digits, cache_dir=tmp_path)
    assert values(kept) == values(never)
    seen = net.examples
    assert values(rank(named(net), digits, cache="only-cache", cache_dir=tmp_path)) == values(kept)
    assert net.examples - seen < 10
    assert values(rank(named(net), digits, cache="always", cache_dir=tmp_path)) == values(kept)
    assert net.examples - seen >= 400


def test_a_function_of_a_script_is_kept_for_the_code_that_it_has(digits, tmp_path, monkeypatch):
    for answer in (1.0, 2.0):
        table = tm.rank_models(
            named(Net()), digits, lambda moments, a=answer: a, cache_dir=tmp_path, progress=False
        )
        assert table.records[0]["value"] == answer
    # The same of a metric in a file of its own, of which a helper changes.
    text = (
        "import transfer_metrics as tm\ndef helper(m): return 1.0\n"
        "@tm.register_metric('of_a_file')\ndef fn(statistic: tm.ClassMoments):\n"
        "    return helper(statistic)\n"
    )
    net, asked = Net(), {"cache_dir": tmp_path / "cache", "progress": False}
    for number, (answer, passes) in enumerate(((1.0, True), (1.0, False), (2.0, True))):
        (tmp_path / f"own{number}.py").write_text(text.replace("1.0", str(answer)))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.import_module(f"own{number}")
        seen = net.examples
        table = tm.rank_models(named(net), digits, "of_a_file", **asked)
        assert {r.value for r in table} == {answer}
        assert (net.examples - seen >= 400) == passes
        KNOWN.unregister("of_a_file")


def test_scores_of_other_code_of_the_same_version_do_not_count(digits, tmp_path, monkeypatch):
    first = rank(named(Net()), digits, cache_dir=tmp_path)
    [kept] = (tmp_path / "scores").glob("*.jsonl")
    monkeypatch.setattr("transfer_metrics.ranking.job.score_code", lambda: "another")
    assert values(rank(named(Net()), digits, cache_dir=tmp_path)) == values(first)
    assert len([*(tmp_path / "scores").glob("*.jsonl")]) == 2
    assert kept.exists()


@pytest.mark.integration
@pytest.mark.parametrize("after", [1, 150, 450, 700])
def test_an_interrupted_ranking_goes_on_where_it_stopped(digits, tmp_path, after):
    # Not in the network, where another limit would make another network.
    interrupted = tmp_path / "interrupted"

    class Interrupting(Net):
        def forward(self, x):
            out = super().forward(x)
            if self.examples > after and len(x) > 2 and not interrupted.exists():
                interrupted.touch()
                raise KeyboardInterrupt
            return out

    def models():
        return named(Net(8, 1), Interrupting(16, 2), Net(12, 3))

    options = {"cache_dir": tmp_path, "shard_size": 100, "batch_size": 50}
    plain = named(Net(8, 1), Net(16, 2), Net(12, 3))
    undisturbed = rank(plain, digits, **{**options, "cache_dir": tmp_path / "other"})
    if after < 450:
        with pytest.raises(KeyboardInterrupt):
            rank(models(), digits, **options)
    resumed = models()
    assert values(rank(resumed, digits, **options)) == values(undisturbed)
    if after == 150:
        # One full shard of 100 was finished before the interruption and is not computed again.
        assert 300 <= resumed[1].module.examples < 400


def test_statistics_are_cleared_that_a_run_left_which_ended_after_scoring(
    digits, tmp_path, monkeypatch
):
    options = {"cache_dir": tmp_path, "shard_size": 100, "batch_size": 50}

    def killed(cache, key):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transfer_metrics.ranking.cache.ResultCache.drop_statistics", killed)
        with pytest.raises(KeyboardInterrupt):
            rank(named(Net(8, 1)), digits, **options)
    assert list((tmp_path / "statistics").rglob("*.safetensors"))
    net = Net(8, 1)
    rank(named(net), digits, **options)
    assert net.examples < 100  # all scores were there
    assert not list((tmp_path / "statistics").rglob("*.safetensors"))


@pytest.mark.parametrize("killed_in", ["rename", "rmtree"])
def test_features_are_cleared_that_a_run_left_which_ended_while_it_removed_them(
    digits, tmp_path, monkeypatch, killed_in
):
    options = {"cache_dir": tmp_path, "stream": False}

    def killed(*arguments, **named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if killed_in == "rename":
            patch.setattr("transfer_metrics.ranking.cache.remove_folder", killed)
        else:
            patch.setattr("transfer_metrics.files.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            rank(named(Net(8, 1)), digits, **options)
    assert list((tmp_path / "features").rglob("*.safetensors"))
    net = Net(8, 1)
    rank(named(net), digits, **options)
    assert net.examples < 100  # all scores were there
    assert not list((tmp_path / "features").rglob("*.safetensors"))


def test_kept_features_stay_where_a_run_needs_none(digits, tmp_path):
    options = {"cache_dir": tmp_path, "stream": False}
    rank(named(Net(8, 1)), digits, **options, keep_features=True)
    kept = sorted((tmp_path / "features").rglob("*.safetensors"))
    rank(named(Net(8, 1)), digits, **options)
    assert kept
    assert sorted((tmp_path / "features").rglob("*.safetensors")) == kept


class Scale(nn.Module):
    """Elementwise, so that its features are the same bits whatever the batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 2.0, 64))

    def forward(self, x):
        return x * self.weight


@pytest.mark.parametrize("options", [{"shard_size": 37, "batch_size": 13}, {"batch_size": 400}])
def test_shards_batches_and_order_do_not_change_a_score(digits, options):
    from transfer_metrics.sources.models.model import Model

    x, y = digits
    model = Model("scale", nn.Sequential(Scale()), None, "tensor", None, (64,))
    metrics = ["transrate", "logme", "h_score", "knn", "ridge_probe", "transrate(preset=centred)"]
    order = np.random.default_rng(0).permutation(len(x))

    def scores(data, **options):
        table = tm.score_layers(model, data, metrics, layers="*", progress=False, **options)
        return [r["value"] for r in table.records]

    reference = scores(digits)
    assert scores(digits, **options) == pytest.approx(reference, rel=1e-9)
    assert scores((x[order], y[order]), **options) == pytest.approx(reference, rel=1e-9)
    assert reference == pytest.approx(
        [r["value"] for r in tm.score(x * np.linspace(0.5, 2.0, 64), y, metrics).records], rel=1e-6
    )


def test_score_layers_from_a_store_and_a_model(digits):
    store = tm.extract(named(Net())[0], digits, progress=False)
    by_store = tm.score_layers(store, metrics=METRICS)
    by_model = tm.score_layers(named(Net())[0], digits, METRICS, progress=False)
    assert values(by_store) == values(by_model)
    with pytest.raises(InvalidInputError, match="task already"):
        tm.score_layers(store, digits)
    with pytest.raises(InvalidInputError, match="needs a task"):
        tm.score_layers(Net())


def test_source_metrics_use_the_head(digits):
    x, y = digits
    net = Net()
    table = tm.score_layers(named(net)[0], digits, ["leep", "nce", "knn"], progress=False)
    with torch.inference_mode():
        p = net(torch.from_numpy(x)).double().softmax(1)
    scores = {r["metric"]: r["value"] for r in table.records if r["layer"] == "head"}
    assert scores == {
        "leep": pytest.approx(float(tm.leep(p, y)), rel=1e-6),
        "nce": pytest.approx(float(tm.nce(p, y)), rel=1e-6),
    }
    from transfer_metrics.sources.models.model import Model

    headless = Model(
        "bare", nn.Sequential(nn.Linear(64, 8), nn.ReLU()), None, "tensor", None, (64,)
    )
    table = tm.score_layers(headless, digits, ["leep", "knn"], progress=False)
    assert "no source head" in table.failures[0]["error"]
    assert table.records[0]["metric"] == "knn"


def test_regression(tmp_path):
    x, _ = load_iris(return_X_y=True)
    data = (x[:, :3].astype(np.float32), x[:, 3])
    net = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    from transfer_metrics.sources.models.model import Model

    model = Model("net", net, None, "tensor", "2", (3,))
    table = tm.rank_models(model, data, "*", progress=False, cache_dir=tmp_path)
    assert {"knn", "linear_probe", "logme", "ridge_probe", "transrate"} <= set(table.metrics)
    assert "h_score" not in table.metrics
    assert not table.failures
    with pytest.raises(tm.UnsupportedTaskError):
        tm.rank_models(model, data, "h_score", progress=False)


def test_wrong_names_stop_before_any_work(digits):
    for options in (
        {"engine": "cereal"}, {"split": "trial"}, {"pool": "meen"}, {"dtype": "int8"},
        {"batch_size": 0}, {"num_workers": -1}, {"shard_size": 1.5},
    ):  # fmt: skip
        net = Net()
        with pytest.raises((UnknownNameError, InvalidInputError)):
            rank(named(net), digits, **options)
        assert net.examples == 0
    with pytest.raises(InvalidInputError, match="no models"):
        rank([], digits)
    with pytest.raises(UnknownNameError, match="'interval'; did you mean 'intervals'"):
        tm.rank_models("zoo:vit-mnist", "sklearn:no-such-task", interval=True)


# --- the table -----------------------------------------------------------------------------------


@pytest.fixture
def table():
    rows = [("a", 0, 0.2), ("a", 1, 0.9), ("b", 0, 0.5), ("b", 1, 0.6)]
    records = [
        {
            "model": model,
            "layer": f"l{index}",
            "layer_index": index,
            "depth": (index + 1) / 2,
            "dim": 4,
            "metric": metric,
            "options": "k=1" if metric == "knn" else None,
            "value": value * (1 if metric == "knn" else -1),
            "stderr": 0.1 if metric == "knn" else None,
            "higher_is_better": metric == "knn",
            "seconds": 0.5,
            "extract_seconds": 2.0,
            "task": "t",
        }
        for model, index, value in rows
        for metric in ("knn", "loss")
    ]
    return tm.ScoreTable(records)


def test_views(table):
    assert table.metrics == ["knn(k=1)", "loss"]
    ranking = table.ranking()
    assert list(ranking["model"]) == ["a", "b"]
    assert list(ranking["layer"]) == ["l1", "l1"]
    assert list(ranking["seconds"]) == [3.0, 3.0]
    assert list(table.ranking(view="last")["score"]) == [0.9, 0.6]
    assert list(table.ranking("knn(k=1)", view="all")["score"]) == [0.9, 0.6, 0.5, 0.2]
    # A loss is better when smaller.
    assert list(table.ranking("loss")["score"]) == [-0.9, -0.6]
    assert table.best("loss") == "a"
    wide = table.wide()
    assert list(wide.columns) == ["knn(k=1)", "loss"]
    assert wide.loc[("b", "l0"), "knn(k=1)"] == 0.5
    with pytest.raises(UnknownNameError, match="did you mean 'loss'"):
        table.ranking("los")


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_save_and_load(table, tmp_path, ending):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    failed = tm.ScoreTable([{"model": "c", "metric": "", "error": "no, really\nnot"}])
    path = tmp_path / "deep" / f"t.{ending}"
    (table + failed).save(path)
    loaded = tm.ScoreTable.load(path)
    assert values(loaded)[:-1] == values(table)
    assert loaded.records[-1]["error"] == "no, really\nnot"
    pd.testing.assert_frame_equal(loaded.ranking(), (table + failed).ranking())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_records_mean_the_same_in_the_types_of_any_library(tmp_path):
    """A loss of numpy's types, in a frame of pandas, or in a file that a spreadsheet saved."""
    plain = [
        {"model": m, "metric": "loss", "value": v, "n": 100, "higher_is_better": False}
        for m, v in (("a", 0.75), ("b", 0.25))
    ]
    plain += [{"model": "c", "metric": "loss", "error": "no"}]
    types = {"value": np.float32, "n": np.int64, "higher_is_better": np.bool_}
    numpy = [{k: types.get(k, lambda x: x)(v) for k, v in r.items()} for r in plain]
    frame = tm.ScoreTable(plain).to_frame().convert_dtypes().to_dict("records")
    for given in (numpy, frame, pd.DataFrame(plain).to_dict("records")):
        table = tm.ScoreTable(given)
        assert (table.best(), len(table.failures)) == ("b", 1)
        for ending in ("jsonl", "csv"):
            table.save(tmp_path / f"t.{ending}")
            assert values(tm.ScoreTable.load(tmp_path / f"t.{ending}")) == values(table)
    text = (tmp_path / "t.csv").read_text()
    for other in ("FALSE", "0", "false"):
        (tmp_path / "t.csv").write_text(text.replace("False", other))
        assert tm.ScoreTable.load(tmp_path / "t.csv").best() == "b"
    assert tm.ScoreTable([{"model": "a", "value": np.float32("nan")}]).failures
    nothing = tm.ScoreTable([])
    nothing.save(tmp_path / "t.csv")
    assert len(tm.ScoreTable.load(tmp_path / "t.csv")) == 0


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_names_of_any_letters_are_read_as_they_were_written(tmp_path, ending):
    names = [
        "NA",
        "None",
        "nan",
        "007",
        "1e3",
        "a,b",
        "x\ny",
        'q"q',
        "c\rd",
        " a ",
        "true",
        "\u2028",
    ]
    table = tm.ScoreTable([{"model": m, "metric": "knn", "value": 0.5} for m in names])
    table.save(tmp_path / f"t.{ending}")
    assert [r.model for r in tm.ScoreTable.load(tmp_path / f"t.{ending}")] == names


def test_records_that_contradict_each_other_are_told_of():
    row = {"metric": "knn", "layer": "fc", "value": 0.5, "higher_is_better": True}
    either = tm.ScoreTable(
        [{**row, "model": "a"}, {**row, "model": "b", "higher_is_better": False}]
    )
    with pytest.raises(
        InvalidInputError, match="some records say that higher is better and others"
    ):
        either.ranking()
    with pytest.warns(TransferMetricsWarning, match="knn of a is there twice, as 0.5 and as 0.75"):
        tm.ScoreTable([{**row, "model": "a"}, {**row, "model": "a", "value": 0.75}])


def test_no_other_layer_stands_for_the_last():
    row = {"model": "a", "metric": "knn"}
    first, last = {**row, "layer": "l1", "value": 0.5}, {**row, "layer": "l2", "value": 0.3}
    by_depth = [{**first, "depth": 0.5}, {**last, "depth": 1.0}]
    assert tm.ScoreTable(by_depth, "last").ranking()["layer"].tolist() == ["l2"]
    assert tm.ScoreTable([first, last], "last").ranking()["layer"].tolist() == ["l2"]
    failed = {**row, "layer": "l2", "error": "not finite"}
    placed = [{**first, "layer_index": 0}, {**failed, "layer_index": 1}]
    assert tm.ScoreTable(placed, "last").ranking()["error"].tolist() == ["not finite"]
    assert tm.ScoreTable(placed).ranking()["score"].tolist() == [0.5]


def test_what_a_table_does_not_have_is_refused(table, tmp_path):
    for asked in ({"n": 7}, {"split": "trian"}, {"pool": "avgg"}):
        with pytest.raises(UnknownNameError, match=f"unknown {next(iter(asked))} of this table"):
            table.on(**asked)
    for k in (0, -1, 1.5):
        with pytest.raises(InvalidInputError, match=f"k={k}; give a whole number from 1 on"):
            table.best_layers(k=k)
    with pytest.raises(UnknownNameError, match="unknown model of this table 'aa'"):
        table.best_layers("aa")
    with pytest.raises(UnknownNameError, match="did you mean 'ranking'"):
        table.plot.save("rankin", tmp_path / "p.png")
    with pytest.raises(TypeError, match="unsupported operand"):
        table + None
    for wrong in (0, 1.5, "x"):
        with pytest.raises(InvalidInputError, match=r"bins=.* whole number from 1 on"):
            table.fidelity({"a": 0.5, "b": 0.4}, "loss", bins=wrong)


def test_json_lines_are_strict_json(table, tmp_path):
    table.save(tmp_path / "t.jsonl")
    lines = (tmp_path / "t.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert records == table.records


def test_files_that_are_no_tables_are_refused(tmp_path, table):
    for absent in ("absent.csv", "absent", ""):
        with pytest.raises(InvalidInputError, match=r"there is no table at .*; check the path"):
            tm.ScoreTable.load(tmp_path / absent)
    for name, text in (("a.jsonl", "{broken"), ("b.csv", "x,y\n1,2\n"), ("c.jsonl", "[1]\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(InvalidInputError, match="not a score table"):
            tm.ScoreTable.load(tmp_path / name)
    with pytest.raises(InvalidInputError, match="end its name"):
        table.save(tmp_path / "t.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot write"):
        table.save(tmp_path / "file" / "t.csv")


def test_a_full_disk_leaves_the_old_table(table, tmp_path):
    import resource

    path = tmp_path / "t.jsonl"
    table.save(path)
    before = path.read_text()
    names = (f"{r['model']} {i}" for i in range(64) for r in table.records)
    large = tm.ScoreTable([{**r, "model": next(names)} for _ in range(64) for r in table.records])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(InvalidInputError, match="cannot write"):
            large.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.jsonl"]


# --- plots ---------------------------------------------------------------------------------------


def test_plots_show_the_numbers_of_the_table(table):
    from matplotlib.figure import Figure

    ax = table.plot.ranking("knn(k=1)", ax=Figure().subplots())
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a  (l1)", "b  (l1)"]
    assert list(ax.lines[0].get_xdata()) == [0.9, 0.6]
    assert ax.get_xlabel() == "knn(k=1)"
    ax = table.plot.layers("loss", ax=Figure().subplots(), highlight=1)
    curves = {tuple(line.get_ydata()) for line in ax.lines}
    assert curves == {(-0.2, -0.9), (-0.5, -0.6)}
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["a"]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_plots_are_written_whole(table, tmp_path, ending):
    for kind in ("ranking", "layers"):
        table.plot.save(kind, tmp_path / f"{kind}.{ending}")
        head = (tmp_path / f"{kind}.{ending}").read_bytes()[:200]
        assert {"png": b"PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending] in head
    with pytest.raises(InvalidInputError, match="end its name"):
        table.plot.save("layers", tmp_path / "plot.exe")
    assert len(list(tmp_path.iterdir())) == 2


def test_combinations_are_sums_of_scaled_terms_over_the_candidates(digits):
    nets = named(Net(8), Net(16, seed=1), Net(32, seed=2))
    table = tm.rank_models(nets, digits, "etran,ncti", cache="never", progress=False)
    frame = table.wide()
    energy, lda = frame["energy"], frame["lda"]
    z = [(v - v.mean()) / v.std(ddof=0) for v in (energy, lda)]
    np.testing.assert_allclose(frame["etran"], z[0] + z[1], atol=1e-12)
    unit = [
        (v - v.min()) / (v.max() - v.min())
        for v in (frame["ncti_spread"], frame["ncti_posterior"], frame["ncti_rank"])
    ]
    np.testing.assert_allclose(frame["ncti"], unit[0] + unit[1] - unit[2], atol=1e-12)
    assert len(table.ranking("ncti")) == 3
    store = tm.extract(nets[0], digits, progress=False)
    layers = tm.score_layers(store, metrics="etran")
    assert layers.metrics == ["etran", "energy", "lda"]


def test_a_combination_that_is_asked_for_first_ranks(digits):
    nets = named(Net(8), Net(16, seed=1), Net(32, seed=2))
    for asked, first in (("etran", "etran"), ("ncti,knn", "ncti"), ("knn,ncti", "knn")):
        how = {"layers": "last", "cache": "never", "progress": False}
        table = tm.rank_models(nets, digits, asked, **how)
        assert table.metrics[0] == first
        scores = table.wide()[first].droplevel("layer")
        order = scores.sort_values(ascending=False).index.tolist()
        assert table.ranking()["model"].tolist() == order
        assert table.ranking()["score"].tolist() == sorted(scores, reverse=True)


def test_combinations_leave_out_candidates_without_all_terms():
    from transfer_metrics.ranking.metric_choice import asked_combinations, combined
    from transfer_metrics.results.record import Record

    base = Record(layer="l", seconds=1.0, higher_is_better=True)
    records = [
        dataclasses.replace(base, model=m, metric=t, value=v)
        for m, t, v in [("a", "energy", 1.0), ("a", "lda", 0.5), ("b", "energy", 3.0),
                        ("b", "lda", 0.5), ("c", "energy", 9.0)]
    ]  # fmt: skip
    found = [r for r in combined(records, asked_combinations("etran", "classification"))
             if r.metric == "etran"]  # fmt: skip
    assert {r.model: r.value for r in found} == {"a": -1.0, "b": 1.0}
    with pytest.raises(tm.UnsupportedTaskError, match="ncti"):
        asked_combinations("ncti", "regression")


def test_intervals_of_a_ranking(digits, tmp_path):
    nets = named(Net(8), Net(16, seed=1))
    options = {"progress": False, "cache_dir": tmp_path, "layers": "last"}
    plain = tm.rank_models(nets, digits, ["logme", "knn"], **options)
    assert plain.ranking()["p_score"].isna().all()
    assert plain.ranking()["p_best"].sum() == pytest.approx(1.0)
    table = tm.rank_models(nets, digits, ["logme", "knn"], intervals=True, **options)
    ranking = table.ranking()
    assert ranking["p_best"].sum() == pytest.approx(1.0)
    assert ranking["p_score"].sum() == pytest.approx(1.0)
    assert (ranking["low"] < ranking["score"]).all()
    np.testing.assert_allclose(table.wide(), plain.wide(), rtol=1e-9)
    assert "P(best)" in table.format()
    # What has been computed with intervals serves those who want none, and those who do.
    done = sum(net.module.examples for net in nets)
    again = tm.rank_models(nets, digits, ["logme", "knn"], intervals=True, **options)
    assert again.records == table.records
    tm.rank_models(nets, digits, ["logme", "knn"], **options)
    assert sum(net.module.examples for net in nets) == done


def test_intervals_are_of_the_metric_that_ranks_unless_all_are_asked_for(digits):
    """The default makes no second score of what the table shows no interval of."""
    options = {"progress": False, "cache": "never", "layers": "last"}
    scores = {}
    for asked in (False, True, "all", "bootstrap"):
        table = tm.rank_models(named(Net(8)), digits, ["logme", "h_score", "knn"],
                               intervals=asked, **options)  # fmt: skip
        scores[asked] = {r["metric"]: r for r in table.records}
    blocked = {
        asked: [name for name, r in of.items() if r["deviations"]] for asked, of in scores.items()
    }
    assert blocked == {
        False: [], True: ["logme"], "all": ["logme", "h_score"],
        "bootstrap": ["logme", "h_score", "knn"],
    }  # fmt: skip
    alone = scores[True]["logme"]["deviations"]
    assert alone == pytest.approx(scores["all"]["logme"]["deviations"], rel=1e-6, abs=1e-12)
    # Nearest neighbours come with an error of their own.
    assert scores[False]["knn"]["stderr"] == scores[True]["knn"]["stderr"]


def test_scores_without_intervals_do_not_stand_for_those_with(digits, tmp_path):
    options = {"progress": False, "cache_dir": tmp_path, "layers": "last"}
    for metrics, asked in (("logme,h_score", True), ("h_score,logme", True), ("knn,logme", "all")):
        table = tm.rank_models(named(Net(8)), digits, metrics, intervals=asked, **options)
        certain = metrics.split(",")[:1] if asked is True else ["logme"]
        assert set(certain) <= {r["metric"] for r in table.records if r["deviations"]}


def test_widths_are_warned_about_where_they_decide(digits):
    nets = named(Net(8), Net(32, seed=1))
    options = {"cache": "never", "progress": False, "layers": "last"}
    with pytest.warns(tm.TransferMetricsWarning, match="8 to 32.*eps=auto"):
        tm.rank_models(nets, digits, "transrate", **options)
    tm.rank_models(nets, digits, "transrate(eps=auto)", **options)
    tm.rank_models(nets, digits, "logme,transrate", **options)
    tm.rank_models(named(Net(8), Net(8, seed=1)), digits, "transrate", **options)


def test_a_table_of_one_set_of_features_shows_every_metric():
    x, y = load_iris(return_X_y=True)
    with pytest.warns(TransferMetricsWarning, match="failed"):
        table = tm.score(x, y, ["knn", "logme", "knn(k=200)"])
    knn, logme, failed = table.records
    shown = table.format().splitlines()
    assert shown[0].split() == ["metric", "value", "±", "95", "%"]
    value, half = f"{knn['value']:.4g}", f"{1.96 * knn['stderr']:.3g}"
    assert shown[1].split() == ["knn", value, half]
    assert shown[2].split() == ["logme", f"{logme['value']:.4g}"]
    assert shown[3] == f"knn(k=200)  failed: {failed['error']}"
    assert "model" in table.format("logme").splitlines()[0]  # a ranking where one is named
    assert "model" in tm.score(x, y, "knn").format().splitlines()[0]


@pytest.mark.parametrize(("metrics", "times"), [({}, 0), ({"metrics": ["transrate"]}, 1)])
def test_only_metrics_that_were_named_or_rank_say_what_they_do_not_see(metrics, times, digits):
    x, y = digits
    nets = named(Net(), Net(seed=1, width=12))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tm.rank_models(nets, (x[y < 2], y[y < 2]), cache="never", progress=False, **metrics)
    texts = [str(w.message) for w in told if w.category is TransferMetricsWarning]
    found = sum("two classes" in text for text in texts)
    assert found == times, "once for all layers, whose warnings are the same"
    if not metrics:
        assert sum("almost exactly" in text for text in texts) <= 1


def test_a_record_says_what_its_columns_are_and_goes_in_and_out_as_it_is() -> None:
    [score] = tm.ScoreTable([{"model": "a", "metric": "knn", "value": 0.5, "unknown": 1}])
    assert score == Record(model="a", metric="knn", value=0.5)
    assert (
        tm.ScoreTable([score]).records
        == [score.as_dict()]
        == [Record.of(score.as_dict()).as_dict()]
    )
    assert list(score.as_dict()) == list(tm.ScoreTable([]).to_frame().columns) == list(COLUMNS)
    lines = inspect.getsource(Record).splitlines()
    for name in COLUMNS:
        [place] = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
        assert "  # " in lines[place] or lines[place - 1].startswith("    # "), name


def test_statistics_that_do_not_fit_are_built_of_features_in_files(digits, tmp_path, monkeypatch):
    """The machine's half is what a ranking takes unless told; here that is next to nothing."""
    from transfer_metrics.ranking import rank as ranking

    expected = values(rank(named(Net()), digits, cache_dir=tmp_path / "a"))
    monkeypatch.setattr(ranking, "worker_memory", lambda memory, workers: 1 << 20)
    net = Net()
    found = values(rank(named(net), digits, cache_dir=tmp_path / "b"))
    assert [row[:3] for row in found] == [row[:3] for row in expected]
    assert [row[3] for row in found] == pytest.approx([row[3] for row in expected], rel=1e-9)
    assert net.examples < 2 * 400  # passed over once
    assert not list((tmp_path / "b" / "features").iterdir())


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        ("1KiB", "the weights alone take 5.93 kB and each worker has 1.02 kB; raise memory"),
        ("1MiB", "each worker has 1 MiB beside the weights; raise memory"),
    ],
)
def test_a_bound_of_memory_that_nothing_fits_into_is_told_of(digits, memory, message):
    table = rank(named(Net()), digits, memory=memory, engine="serial", cache="never")
    assert message in table.failures[0]["error"]


def test_parquet_without_its_library_is_one_sentence(digits, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    table = rank(named(Net()), digits)
    with pytest.raises(tm.MissingDependencyError, match="pip install pyarrow"):
        table.save(tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def cells(page: str) -> list[str | None]:
    """What stands in the rows of a table in HTML."""
    rows = ElementTree.fromstring(f"<div>{page}</div>").iter("tr")
    return [cell.text for row in list(rows)[1:] for cell in row if cell.text]


def test_notebooks_get_a_table_of_the_page():
    rows = [
        {"model": name, "layer": "fc", "metric": "knn", "value": value, "n": 900, "dim": 8}
        for name, value in (("<b>bold</b>", 0.9), ("net", 0.8))
    ]
    page = tm.ScoreTable(rows)._repr_html_()
    assert cells(page)[1:3] == ["<b>bold</b>", "fc"]
    assert "0.9" in cells(page)
    assert "<b>" not in page
    assert "Shortlist, 90 %" in page
    fits = [{"model": "net", "head": "<i>", "metric": "accuracy", "split": "test", "value": 0.5}]
    assert cells(tm.Comparison(fits)._repr_html_())[:3] == ["net", "<i>", "0.5"]
    scores = tm.score(*load_iris(return_X_y=True), ["h_score", "lda"])
    assert cells(scores._repr_html_()) == [f"{r.value:.4g}" for r in scores]
    assert tm.ScoreTable([])._repr_html_() == "<p>(no records)</p>"


def test_what_a_table_made_by_hand_lacks_is_left_blank():
    rows = [{"model": m, "metric": "knn", "value": v} for m, v in (("a", 0.9), ("b", 0.8))]
    text = str(tm.ScoreTable(rows))
    assert "None" not in text
    assert "nan" not in text
    assert text.splitlines()[2].split()[:3] == ["1", "a", "0.9"]
    some = tm.ScoreTable([{**rows[0], "dim": 96, "layer": "fc"}, rows[1]]).format()
    assert some.splitlines()[1].split()[4:] == ["fc", "96", "0.0"]
    assert "nan" not in some


def test_only_files_without_a_digest_are_forced_to_the_disk(monkeypatch, tmp_path):
    forced = []
    monkeypatch.setattr("transfer_metrics.files.os.fsync", forced.append)
    table = tm.rank_models(["zoo:cnn-mnist"], "sklearn:digits?examples=100", "knn", progress=False)
    assert not forced
    table.save(tmp_path / "scores.jsonl")
    assert len(forced) == 1


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InvalidInputError, match="it is no regular file"):
        tm.ScoreTable([]).save(tmp_path / "pipe.csv")
    assert (tmp_path / "pipe.csv").is_fifo()


@pytest.mark.parametrize("metric", ["loss", "val_loss", "RMSE", "mean error"])
def test_a_loss_without_a_direction_is_refused(metric: str) -> None:
    records = [{"model": m, "metric": metric, "value": v} for m, v in (("a", 0.1), ("b", 0.9))]
    with pytest.raises(InvalidInputError, match="no record says whether higher is better"):
        tm.ScoreTable(records).best()
    less = [record | {"higher_is_better": False} for record in records]
    assert tm.ScoreTable(less).best() == "a"
    assert tm.ScoreTable([r | {"metric": "glossary"} for r in records]).best() == "b"


def test_a_record_without_a_model_is_refused() -> None:
    for model in ({}, {"model": None}, {"model": ""}):
        with pytest.raises(InvalidInputError, match="record 1 names no model; give it one"):
            tm.ScoreTable([{"metric": "knn", "value": 0.5} | model])
