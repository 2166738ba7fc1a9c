"""Two things never share a row: names of models and tasks, given or numbered, in every table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.errors import InvalidInputError, UnknownNameError
from transfer_metrics.naming import short_names, told_apart
from transfer_metrics.report.gather import gather
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.plot_style import short_labels
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.table_plots import _task_scores
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.models.candidates import _named_models, candidates_of
from transfer_metrics.sources.specs import parse_model

X = np.random.default_rng(0).normal(size=(120, 12)).astype("float32")
Y = (X[:, 0] + X[:, 1] > 0).astype(int) + 2 * (X[:, 2] > 0)


def network(width: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, width), nn.ReLU(), nn.Linear(width, 3))


def neighbour(module: nn.Module) -> float:
    """Accuracy of the nearest other example by cosine, at the better of two layers."""
    found = []
    with torch.inference_mode():
        for layers in (module[:1], module[:2]):
            rows = layers(torch.as_tensor(X)).double().numpy()
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            near = rows @ rows.T
            np.fill_diagonal(near, -2)
            found.append(float((Y[near.argmax(1)] == Y).mean()))
    return max(found)


def ranked(models: Any, task: Any = (X, Y), **options: Any) -> tm.ScoreTable:
    options = {"metrics": "knn(k=1)", "layers": ["0", "1"], "progress": False, **options}
    return tm.rank_models(models, task, **options)


def scores(table: tm.ScoreTable) -> dict[str, float]:
    return dict(zip(table.ranking()["model"], table.ranking()["score"], strict=True))


# ---------------------------------------------------------------- rankings


@pytest.mark.parametrize(
    "options",
    [
        {"cache": "never"},
        {"cache": "only-missing"},
        {"stream": False},
        pytest.param({"engine": "processes", "workers": 2}, marks=pytest.mark.integration),
    ],
    ids=str,
)
def test_two_networks_of_one_class(options: dict[str, Any]) -> None:
    a, b = network(32), network(64)
    metric = {"metrics": "knn(k=1)"}
    own = {n: scores(ranked([m], cache="never"))["Sequential"] for n, m in (("a", a), ("b", b))}
    assert own["a"] != own["b"]
    table = ranked([a, b, a], **options, **metric)
    assert scores(table) == pytest.approx({"Sequential": own["a"], "Sequential (2)": own["b"]})
    dims = dict(zip(table.ranking()["model"], table.ranking()["dim"], strict=True))
    assert dims == {"Sequential": 32, "Sequential (2)": 64}


def test_a_race_of_networks_of_one_class() -> None:
    modules = [network(4 + i, i) for i in range(5)]
    for again in ("only-missing", "only-cache"):
        table = ranked(modules, budget=0.8, cache=again)
        dims = dict(zip(table.ranking()["model"], table.ranking()["dim"], strict=True))
        names = ["Sequential", *(f"Sequential ({i})" for i in range(2, 6))]
        assert dims == {name: 4 + i for i, name in enumerate(names)}
        winner = int(dims[table.best()]) - 4
        own = scores(ranked(modules[winner], cache="never"))["Sequential"]
        assert scores(table)[table.best()] == pytest.approx(own)


def test_the_score_of_each_is_its_own() -> None:
    small, big = network(8, 1), network(16, 2)
    found = scores(ranked({"small": small, "big": big}, metrics="knn(k=1,distance=cosine)"))
    assert found == pytest.approx({"small": neighbour(small), "big": neighbour(big)})


def test_copies_of_one_network_have_a_row_each_and_their_scores_are_found_in_the_cache() -> None:
    a, twin, b = network(8), network(8), network(8, 1)
    first = ranked([a, twin, b])
    again = ranked({"a": a, "twin": twin, "b": b}, cache="only-cache")
    values = scores(first)
    assert scores(again) == {
        "a": values["Sequential"],
        "twin": values["Sequential (2)"],
        "b": values["Sequential (3)"],
    }
    assert values["Sequential"] == values["Sequential (2)"]


def test_failures_have_the_names_of_their_own_too() -> None:
    class Broken(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such device")

    table = ranked([Broken(nn.Linear(12, 3)), Broken(nn.Linear(12, 4)), network(8)])
    assert [r["model"] for r in table.failures] == ["Broken", "Broken (2)"]
    table = ranked({"mine": "no_such_package.networks:net", "other": network(8)})
    assert [r["model"] for r in table.failures] == ["mine"]


def test_models_of_equal_names_and_what_names_are_taken() -> None:
    a = tm.load_model(network(8), name="net")
    b = tm.load_model(network(16), name="net (2)")
    c = tm.load_model(network(24), name="net")
    found = candidates_of([c, a, b, {"net (3)": network(8)}])
    assert [f.name for f in found] == ["net", "net (4)", "net (2)", "net (3)"]
    assert [f.load().module[0].out_features for f in found] == [24, 8, 16, 8]
    assert told_apart(["a"] * 3) == ["a", "a (2)", "a (3)"]


def test_a_name_keeps_what_is_known_of_a_model() -> None:
    model = tm.load_model("zoo:cnn-mnist")
    fingerprint = model.fingerprint
    other = tm.load_model(model, name="other")
    assert (model.name, other.name) == ("zoo:cnn-mnist", "other")
    assert other.__dict__["_known"][1] == fingerprint
    assert tm.load_model("mine = zoo:cnn-mnist").name == "mine"
    assert tm.load_model("mine = zoo:cnn-mnist", name="yours").name == "yours"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        (3, "an int; give a text"),
        ("x" * 161, "161 characters; give at most 160"),
        ("a\nb", "cannot be printed"),
        ("\ud800", "cannot be printed"),
    ],
)
def test_names_that_are_none(name: Any, message: str) -> None:
    for call in (
        lambda: tm.load_model(network(8), name=name),
        lambda: tm.load_task((X, Y), name=name),
        lambda: ranked({name: network(8)}),
        lambda: tm.compare({name: network(8)}, (X, Y), "linear_probe", progress=False),
    ):
        with pytest.raises(InvalidInputError, match=message):
            call()


def test_names_that_are_given_twice_or_to_many() -> None:
    with pytest.raises(InvalidInputError, match="several models are called 'a'"):
        ranked([{"a": network(8)}, {" a": network(16)}])
    with pytest.raises(InvalidInputError, match=r"model 'a': 'zoo:cnn-\*' stands for 3 models"):
        ranked("a = zoo:cnn-*")
    with pytest.raises(InvalidInputError, match=r"'a'.*stands for a list"):
        ranked({"a": "@models.txt"})
    with pytest.raises(InvalidInputError, match="'b = zoo:cnn-mnist' has a name too"):
        ranked({"a": "b = zoo:cnn-mnist"})
    with pytest.raises(InvalidInputError, match="nothing is named"):
        ranked("a = ")


# ---------------------------------------------------------------- names in text


def test_names_in_a_list_and_in_a_file(tmp_path: Path) -> None:
    listed = "small = zoo:cnn-mnist, zoo:vit-mnist, big one=timm:resnet18(pretrained=False)=a.pth"
    wanted = [
        ("small", "zoo:cnn-mnist"),
        (None, "zoo:vit-mnist"),
        ("big one", "timm:resnet18(pretrained=False)=a.pth"),
    ]
    assert _named_models(listed) == wanted
    (tmp_path / "models.txt").write_text(
        "# candidates\nsmall = zoo:cnn-mnist  # the first\nzoo:vit-mnist\n"
        "'a, b' = timm:resnet18 = b.pth\ntimm:resnet18=c.pth\ntimm:resnet18 = d.pth\n"
    )
    assert _named_models(f"@{tmp_path / 'models.txt'}") == [
        *wanted[:2],
        ("a, b", "timm:resnet18 = b.pth"),
        (None, "timm:resnet18=c.pth"),
        (None, "timm:resnet18 = d.pth"),
    ]
    assert parse_model("timm:resnet18 = d.pth").checkpoint == "d.pth"
    assert _named_models("resnet18(pretrained=False)") == [(None, "resnet18(pretrained=False)")]


def test_the_command_line_takes_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["rank", "--models", "small = zoo:cnn-mnist, big = zoo:vit-mnist", "--quiet"]
    command += ["--task", "sklearn:digits", "--examples", "100", "--metrics", "knn"]
    assert main([*command, "--layers", "last", "--out", str(tmp_path), "--no-plots"]) == 0
    assert "small" in capsys.readouterr().out
    table = tm.ScoreTable.load(tmp_path / "scores.jsonl")
    assert {r["model"] for r in table.records} == {"small", "big"}
    assert table.difference("small", "big")[0] != 0


# ---------------------------------------------------------------- commas and other letters in paths


@pytest.mark.parametrize(
    "name",
    ["a,b", "a, b", "a (1)", "a(1", "a)b", "a=b", "a#b", "a #b", "a@b", "it's", "a b", "[1]"],
)
def test_any_letter_in_a_path(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / f"{name}.d"
    folder.mkdir()
    (folder / "w.pth").write_text("")
    for spec in (f"hf:{folder.name}", f"timm:resnet18={folder.name}/w.pth"):
        wanted = [(None, spec), (None, "zoo:cnn-mnist")]
        assert _named_models(f"{spec}, zoo:cnn-mnist") == wanted
        assert _named_models([spec, "zoo:cnn-mnist"]) == wanted
        hub, _, place = spec.partition(":")
        start, mark, path = place.rpartition("=" if hub == "timm" and "=" not in name else ":")
        quoted = f'{hub}:{start}{mark}"{path}"' if "=" not in name else f'"{spec}"'
        (tmp_path / "models.txt").write_text(f"{quoted}\nx = {quoted} # one\n")
        parsed = [(n, parse_model(m)) for n, m in _named_models("@models.txt")]
        assert [n for n, _ in parsed] == [None, "x"]
        for _, found in parsed:
            assert (found.name if hub == "hf" else found.checkpoint) == (
                folder.name if hub == "hf" else f"{folder.name}/w.pth"
            )
    assert parse_model(f"hf:{folder.name}").name == folder.name


def test_a_path_that_is_not_there_names_the_cure() -> None:
    with pytest.raises(InvalidInputError, match=r"no such file; .* in quotes"):
        tm.load_model("timm:resnet18=weights (1).pth")
    with pytest.raises(InvalidInputError, match="put a path with a comma in it in quotes"):
        ranked("b")


# ---------------------------------------------------------------- tables that are joined


def test_models_of_one_name_in_two_tables() -> None:
    a, b = ranked(network(32)), ranked(network(64))
    both = a + b
    assert scores(both) == pytest.approx(
        {"Sequential": scores(a)["Sequential"], "Sequential (2)": scores(b)["Sequential"]}
    )
    assert both.wide().loc["Sequential (2)"]["knn(k=1)"].max() == scores(b)["Sequential"]
    assert scores(a + b + b + a) == scores(both)
    assert scores(a + (b + b)) == scores(both)
    assert len(a + a) == len(a)
    more = ranked(network(64), metrics="lda")
    assert set((both + more).wide().loc["Sequential (2)"].dropna(axis=1).columns) == {
        "knn(k=1)",
        "lda",
    }
    third = both + ranked(network(48))
    assert set(scores(third)) == {"Sequential", "Sequential (2)", "Sequential (3)"}


def test_tasks_of_one_name_in_two_tables(tmp_path: Path, monkeypatch: Any) -> None:
    tables = []
    for i, labels in enumerate((Y, (X[:, 4] > 0).astype(int))):
        folder = tmp_path / str(i)
        folder.mkdir()
        monkeypatch.chdir(folder)
        np.savez("data.npz", X=X, y=labels)
        tables.append(ranked({"net": network(8)}, "npz:data.npz"))
    both = tables[0] + tables[1]
    ranking = both.ranking().set_index("task")
    assert list(ranking.index) == ["npz:data.npz", "npz:data.npz (2)"]
    for name, table in zip(ranking.index, tables, strict=True):
        assert ranking.loc[name, "score"] == scores(table)["net"]
        assert scores(both.on(name)) == scores(table)
        assert both.wide().loc[("net", name)].max().item() == scores(table)["net"]
    for call in (
        both.best,
        lambda: both.agreement({"net": 0.5}),
        lambda: both.difference("a", "b"),
    ):
        with pytest.raises(InvalidInputError, match=r"do not compare.*table\.on\(task='npz:"):
            call()
    with pytest.raises(UnknownNameError, match="task of this table"):
        both.on("npz:data")
    assert "npz:data.npz (2)" in str(both)
    assert list(_task_scores(both, both.metrics[0]).columns) == list(ranking.index)
    labels = [text.get_text() for text in both.plot.ranking().get_yticklabels()]
    assert {"npz:data.npz", "npz:data.npz (2)"} < set(labels)
    assert len(both.plot.layers().lines) == 2
    gathered = gather(tables)
    assert [s.task for s in gathered.settings] == list(ranking.index)
    assert gathered.replaced == 0
    assert len(tables[0] + ranked({"net": network(8)}, "npz:../0/data.npz")) == 4


def test_arrays_are_a_task_each_unless_they_have_names() -> None:
    first = ranked({"net": network(8)}, (X, Y))
    second = ranked({"net": network(8)}, (X[:100], Y[:100]))
    assert list((first + second).ranking()["task"]) == ["data", "data (2)"]
    named = tm.load_task((X[:100], Y[:100]), name="a hundred")
    third = ranked({"net": network(8)}, named, cache="only-cache")
    assert list((first + third).ranking()["task"]) == ["data", "a hundred"]


def test_splits_and_poolings_have_rows_of_their_own() -> None:
    task = tm.load_task({"train": (X[:80], Y[:80]), "test": (X[80:], Y[80:])})
    both = ranked(network(8), task) + ranked(network(8), task, split="test")
    assert list(both.ranking()["split"]) == ["train", "test"]
    assert list(both.ranking()["n"]) == [80, 40]
    assert len(both.wide()) == 4


def test_what_contradicts_itself_is_told_apart_without_identities() -> None:
    record = {"model": "a", "layer": "fc", "metric": "knn", "higher_is_better": True, "value": 0.5}
    first = tm.ScoreTable([record])
    assert scores(first + tm.ScoreTable([{**record, "value": 0.7}])) == {"a (2)": 0.7, "a": 0.5}
    assert scores(first + tm.ScoreTable([{**record, "value": 0.5 + 1e-12}])).keys() == {"a"}
    assert len((first + tm.ScoreTable([{**record, "metric": "lda"}])).wide()) == 1


def test_a_race_yields_to_all_examples() -> None:
    modules = {f"net {i}": network(4 + i, i) for i in range(6)}
    race, whole = ranked(modules, budget=0.8), ranked(modules)
    assert any(r["round"] for r in race.records)
    for both in (race + whole, whole + race):
        assert scores(both) == pytest.approx(scores(whole))


def test_intervals_are_kept_whichever_table_comes_first() -> None:
    plain = ranked(network(8), metrics="logme")
    sure = ranked(network(8), metrics="logme", intervals=True)
    for both in (plain + sure, sure + plain):
        assert len(both) == 2
        assert both.ranking()["low"].notna().all()


def test_features_of_arrays() -> None:
    a, b = tm.score(X, Y, "knn"), tm.score(X[:, :3], Y, "lda")
    assert set((a + b).to_frame()["model"]) == {"features", "features (2)"}
    assert set((a + tm.score(X, Y, "lda")).to_frame()["model"]) == {"features"}
    shuffled = tm.score(X, np.roll(Y, 7), "lda")
    assert set((a + shuffled).to_frame()["model"]) == {"features", "features (2)"}


def test_layers_of_two_networks() -> None:
    tables = [tm.score_layers(network(w), (X, Y), "knn", progress=False) for w in (8, 16)]
    assert set((tables[0] + tables[1]).to_frame()["model"]) == {"Sequential", "Sequential (2)"}


def test_names_survive_files(tmp_path: Path) -> None:
    both = ranked(network(32)) + ranked(network(64))
    for ending in ("jsonl", "csv", "parquet"):
        both.save(tmp_path / f"t.{ending}")
        loaded = tm.ScoreTable.load(tmp_path / f"t.{ending}")
        assert len(loaded + both) == len(both)
        assert scores(loaded) == pytest.approx(scores(both))


def test_agreement_goes_by_the_names() -> None:
    modules = {name: network(w, w) for name, w in (("a", 4), ("b", 8), ("c", 16))}
    table = ranked(modules)
    found = table.agreement(scores(table), resamples=0).set_index("measure")["value"]
    assert found["kendall"] == 1.0
    table.plot.agreement({"a": 0.1, "b": 0.2, "c": 0.3})


# ---------------------------------------------------------------- comparisons


def test_comparisons_tell_models_and_tasks_apart() -> None:
    task = tm.load_task({"train": (X[:80], Y[:80]), "test": (X[80:], Y[80:])})
    head = "linear_probe(C_grid=(1.0,))"
    options = {"seeds": 1, "progress": False, "metrics": "knn(k=1)"}
    both = tm.compare([network(4), network(32)], task, head, **options)
    assert isinstance(both, Comparison)
    probe = both.summary().index.get_level_values("head")[0]
    rows = both.summary().xs(probe, level="head")["test"]
    assert set(rows.index) == {"Sequential", "Sequential (2)"}
    assert set(scores(both)) == {"Sequential", "Sequential (2)"}
    assert len(both.verdict()) >= 1
    alone = [tm.compare(network(w), task, head, **options) for w in (4, 32)]
    joined = alone[0] + alone[1]
    assert isinstance(joined, Comparison)
    assert joined.summary()["test"].to_dict() == both.summary()["test"].to_dict()
    other = tm.load_task({"train": (X[:80], Y[:80] % 2), "test": (X[80:], Y[80:] % 2)})
    mixed = alone[0] + tm.compare(network(4), other, head, **options)
    summary = mixed.summary()["test"].xs(probe, level="head", drop_level=False)
    assert list(summary.index.get_level_values("task")) == ["data", "data (2)"]
    with pytest.raises(InvalidInputError, match="do not compare"):
        mixed.verdict()
    # Of its tasks the one of the scores is meant, which has one model; three are needed.
    with pytest.raises(InvalidInputError, match="no task has 3 models"):
        ranked(network(4), task).agreement(mixed, head=probe)
    assert len((alone[0] + ranked(network(4), task)).summary()) == len(alone[0].summary())


def test_a_comparison_and_a_ranking_are_of_one_task() -> None:
    """Though the comparison holds examples out of what the ranking scores."""
    task = tm.load_task({"train": (X[:80], Y[:80]), "test": (X[80:], Y[80:])})
    table = ranked({"net": network(4)}, task) + tm.compare(
        {"net": network(4)}, task, "linear_probe(C_grid=(1.0,))", seeds=1, progress=False
    )
    assert {(r["model"], r["task"]) for r in table.records} == {("net", "data")}


# ---------------------------------------------------------------- reports and plots


def test_reports_of_two_tables(tmp_path: Path) -> None:
    tables = [ranked(network(w)) for w in (32, 64)]
    [setting] = gather(tables).settings
    assert set(scores(setting.table)) == {"Sequential", "Sequential (2)"}
    tm.write_report(tables, tmp_path / "r.html")
    assert "Sequential (2)" in (tmp_path / "r.html").read_text()


def test_labels_of_plots_differ_where_names_do() -> None:
    names = [f"{'x' * 60}{i}{'y' * 60}" for i in range(3)]
    assert len(set(short_labels([*names, names[0]]))) == 3
    table = tm.ScoreTable(
        [{"model": f"{'x' * 90}{i}{'y' * 90}", "metric": "knn", "value": i} for i in range(3)]
    )
    assert all(f"y ({i})" in table.format() for i in (2, 3))


# ---------------------------------------------------------------- options of factories

FACTORIES = """
import torch
from torch import nn

def seeded(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(4, 2)

def unseeded(width=2):
    return nn.Linear(4, width)

def anything(**options):
    module = nn.Linear(4, 2)
    module.options = options
    return module

def image(input_size=8, mean=0.5):
    module = nn.Conv2d(3, 2, 3)
    module.pretrained_cfg = {"input_size": (3, input_size, input_size), "mean": (mean,) * 3,
                             "std": (1, 1, 1)}
    return module

def plain_image():
    return image()

def model():
    from transfer_metrics import load_model
    return load_model(plain_image())

ready = nn.Linear(4, 2)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"made_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_seed_reaches_the_factory(made: str) -> None:
    for seed in (1, 2):
        torch.manual_seed(seed)
        wanted = nn.Linear(4, 2).weight
        for factory in ("seeded", "unseeded"):
            found = tm.load_model(f"{made}:{factory}(seed={seed})").module.weight
            assert torch.equal(found, wanted)
    table = ranked(
        [f"{made}:seeded(seed={seed})" for seed in (1, 2)], (X[:, :4], Y), layers="*", cache="never"
    )
    assert len(set(scores(table).values())) == 2


def test_a_factory_gets_what_it_has_arguments_for(made: str) -> None:
    given = tm.load_model(f"{made}:anything(seed=one, mean=3, crop_pct=1.0, width=2)").module
    assert given.options == {"seed": "one", "mean": 3, "crop_pct": 1.0, "width": 2}
    own = tm.load_model(f"{made}:image(input_size=16, mean=0.25, std=0.5)")
    assert own.input_shape == (3, 16, 16)
    assert (own.preprocess.mean, own.preprocess.std) == ((0.25,) * 3, (0.5,) * 3)
    assert tm.load_model(f"{made}:plain_image(input_size=16)").input_shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("unseeded(seed=one)", "seed must be a whole number"),
        ("ready(seed=1)", "is a network and not a function"),
        ("model(input_size=16)", "returns a Model, which has its preprocessing"),
    ],
)
def test_options_that_reach_nobody_are_refused(spec: str, message: str, made: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        tm.load_model(f"{made}:{spec}")


def test_bundled_networks_take_no_seed() -> None:
    with pytest.raises(InvalidInputError, match="take no options"):
        tm.load_model("zoo:cnn-mnist(seed=1)")


# --- shortened names -----------------------------------------------------------------------------


@given(st.lists(st.text("ab/:.-?~…=", max_size=14), min_size=1, max_size=6), st.integers(1, 12))
def test_shortened_names_are_as_different_as_the_names(names: list[str], longest: int) -> None:
    short = short_names(names, longest)
    assert [short.index(name) for name in short] == [names.index(name) for name in names]
    if all(len(name) <= longest for name in names):
        assert short == names


def test_what_names_share_is_left_out() -> None:
    checkpoints = "hf:/home/someone/checkpoints/"
    names = ["facebook/convnextv2-base-22k-384", "microsoft/swinv2-large", "microsoft/beit"]
    assert short_names([checkpoints + name for name in names], 60) == [
        "facebook/convnextv2-base-22k-384", "microsoft/swinv2-large", "microsoft/beit",
    ]  # fmt: skip
    mixed = [checkpoints + names[0], "timm:resnet18.a1_in1k", "hf:facebook/convnextv2-base-22k-384"]
    assert short_names(mixed, 40) == ["hf:…/convnextv2-base-22k-384", *mixed[1:]]
    photos = "imagefolder:/data/projects/crops/leaf-diseases-2024?label="
    assert short_names([photos + "disease", photos + "severity"], 40) == [
        "leaf-diseases-2024?label=disease", "leaf-diseases-2024?label=severity",
    ]  # fmt: skip
    assert short_names([photos + "disease"], 40) == ["leaf-diseases-2024?label=disease"]
    assert short_names(["zoo:cnn-mnist", "zoo:cnn-usps"], 40) == ["zoo:cnn-mnist", "zoo:cnn-usps"]


def test_printed_tables_shorten_names_and_files_have_them_whole(tmp_path: Path) -> None:
    names = [f"hf:/home/someone/checkpoints/facebook/convnext/net-{c}" for c in "ab"]
    table = scored_by_hand(names)
    text = table.format()
    assert "checkpoints" not in text
    assert "net-a" in text
    assert text.endswith("Names are shortened; files, --json and --csv have them whole.")
    assert "shortened" not in scored_by_hand(["net-a", "net-b"]).format()
    table.save(tmp_path / "t.csv")
    assert [r["model"] for r in ScoreTable.load(tmp_path / "t.csv").records] == names
    assert names[0] in str(table.shortlist())


def scored_by_hand(names: list[str]) -> ScoreTable:
    base = {"task": "t", "layer": "fc", "metric": "logme", "stderr": 0.1, "n": 90, "num_classes": 2}
    return ScoreTable({**base, "model": m, "value": float(-i)} for i, m in enumerate(names))


def test_what_is_shown_of_any_object_is_one_short_line() -> None:
    task = tm.load_task("sklearn:digits?examples=60")
    model = tm.load_model("zoo:cnn-mnist")
    table = scored_by_hand([f"net{i}" for i in range(300)])
    x, y = np.random.default_rng(0).normal(size=(60, 40)), np.arange(60) % 3
    chosen = Selection({"a": np.arange(600)}, {"a": 700}, False, "head2toe")
    head = tm.LinearProbe().fit(x, y)
    shown = [task, task["train"], model, table, next(iter(table)), table.shortlist(), head, chosen]
    shown += [tm.ClassMoments.from_batch(x, y, num_classes=3)]
    shown += [tm.FeatureSample.from_batch(x, y, num_classes=3), tm.list_layers(model)[0]]
    for one in shown:
        assert len(repr(one)) <= 500, type(one)
        assert "\n" not in repr(one), type(one)
    assert repr(table) == "ScoreTable(300 records, 300 models, 1 task; logme)"
    assert repr(chosen) == "Selection(600 features of 1 layer, by head2toe)"


@pytest.mark.integration
def test_a_name_of_ones_own_is_taken_by_every_later_step(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models.txt").write_text("small = zoo:mixer-usps\nother = zoo:cnn-mnist\n")
    task = ["--task", "sklearn:digits?examples=100", "--quiet"]
    assert main(["rank", "--models", "@models.txt", "--out", "ranked", *task]) == 0
    assert main(["train", "--from", "ranked", "--out", "head", "--quiet"]) == 0
    head = tm.load_head("head")
    assert head.source_.name in ("small", "other")
    expected = {"small": "zoo:mixer-usps", "other": "zoo:cnn-mnist"}[head.source_.name]
    assert head.source_.spec == expected
    capsys.readouterr()
    told = []
    image = np.zeros((8, 8), np.uint8)
    Image.fromarray(image).save("new.png")
    for model in (None, head.source_.name, "@models.txt", f"mine = {expected}"):
        given = [] if model is None else ["--model", model]
        assert main(["predict", "--head", "head", *given, "new.png", "--quiet"]) == 0
        told.append(capsys.readouterr().out)
    assert len(set(told)) == 1
    Path("strange.txt").write_text("a = zoo:mixer-usps\nb = zoo:cnn-mnist\n")
    assert main(["predict", "--head", "head", "--model", "@strange.txt", "new.png"]) == 2
    assert "2 models, and none is called" in capsys.readouterr().err
