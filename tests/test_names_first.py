"""What no model, metric, head, pooling or engine is called is refused before data are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
import pytest

import transfer_metrics as tm
from transfer_metrics.__main__ import main
from transfer_metrics.evidence import ground_truth
from transfer_metrics.heads.estimate import expected_fits, expected_steps
from transfer_metrics.ranking.forecast import forecast
from transfer_metrics.sources.tasks.load_task import TASK_SOURCES

MODEL = "zoo:cnn-mnist"
TASK = "unread:x"


class _Read(Exception):
    """A task was read."""


@pytest.fixture(autouse=True)
def _unread() -> Iterator[None]:
    """A source of tasks that tells when one is read."""

    def read(*_: Any, **__: Any) -> NoReturn:
        raise _Read("the data were read")

    TASK_SOURCES.register("unread", read)
    yield
    TASK_SOURCES.unregister("unread")


MODELS = ["zoo:cnn-mnst", "timm:resnet19", "torchvision:resnet19", "nowhere:x", "hf:./absent"]
RANKED = ["rank", "--models", MODEL, "--task", TASK]
LINES = [
    *(["rank", "--models", model, "--task", TASK] for model in MODELS),
    *(["train", "--model", model, "--task", TASK, "--out", "new"] for model in MODELS),
    *(
        [verb, "--models", "zoo:cnn-mnst", "--task", TASK, "--out", "new", *more]
        for verb, more in (("compare", ()), ("transfer", ()), ("transfer", ["--dry-run"]),
                           ("report", ()), ("rank", ["--dry-run"]))
    ),
    *(
        [verb, "--model", "zoo:cnn-mnst", "--task", TASK, *more]
        for verb, more in (("layers", ()), ("extract", ["--out", "new"]), ("select", ["--by=knn"]))
    ),
    *(
        [verb, "--models", MODEL, "--task", TASK, "--out", "new", *more]
        for verb in ("rank", "compare", "transfer")
        for more in (["--metrics", "knn,logmee"], ["--metrics=knn(j=1)", "--dry-run"],
                     ["--engine", "serail"])
    ),
    ["rank", "--models", MODEL, "--task", TASK, "--pool", "avgg"],
    ["report", "--models", MODEL, "--task", TASK, "--metrics", "logmee", "--out", "new.html"],
    ["layers", "--model", MODEL, "--task", TASK, "--metrics", "logmee"],
    ["layers", "--model", MODEL, "--task", TASK, "--pool", "avgg"],
    ["extract", "--model", MODEL, "--task", TASK, "--pool", "avgg", "--out", "new"],
    ["select", "--model", MODEL, "--task", TASK, "--by", "logmee"],
    ["score", "--features", "absent.npy", "--metrics", "logmee"],
    ["train", "--model", MODEL, "--task", TASK, "--head", "linear_prob", "--out", "new"],
    ["compare", "--models", MODEL, "--task", TASK, "--heads", "linear_prob", "--out", "new"],
    ["compare", "--models", MODEL, "--task", TASK, "--ood", "x=corrupted:blurr", "--out", "new"],
    ["benchmark", "run", "--models", "zoo:cnn-mnst", "--tasks", TASK, "--out", "new.jsonl"],
    ["benchmark", "run", "--models", MODEL, "--tasks", TASK, "--heads", "lpf", "--out", "n.jsonl"],
]  # fmt: skip


@pytest.mark.parametrize("argv", LINES, ids=" ".join)
def test_a_wrong_name_on_the_command_line_is_told_before_anything_is_read(
    argv: list[str], tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert any(word in said for word in ("unknown", "no option", "no folder")), said
    assert "were read" not in said
    assert "it/s" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("argv", [["rank", "--models", MODEL], ["layers", "--model", MODEL]])
def test_without_a_wrong_name_the_data_are_read(argv: list[str], tmp_path, monkeypatch, capsys):
    """So that the test above can fail."""
    monkeypatch.chdir(tmp_path)
    main([*argv, "--task", TASK])
    assert "were read" in capsys.readouterr().err


CALLS = {
    "rank_models, model": lambda: tm.rank_models("zoo:cnn-mnst", TASK),
    "rank_models, metric": lambda: tm.rank_models(MODEL, TASK, "logmee"),
    "rank_models, pool": lambda: tm.rank_models(MODEL, TASK, pool="avgg"),
    "score": lambda: tm.score(np.zeros((4, 2)), [0, 1], "logmee"),
    "score_layers, model": lambda: tm.score_layers("zoo:cnn-mnst", TASK),
    "score_layers, metric": lambda: tm.score_layers(MODEL, TASK, "logmee"),
    "score_layers, pool": lambda: tm.score_layers(MODEL, TASK, pool="avgg"),
    "transfer, model": lambda: tm.transfer("zoo:cnn-mnst", TASK),
    "transfer, metric": lambda: tm.transfer(MODEL, TASK, metrics="logmee"),
    "transfer, engine": lambda: tm.transfer(MODEL, TASK, engine="serail"),
    "compare, model": lambda: tm.compare("zoo:cnn-mnst", TASK),
    "compare, metric": lambda: tm.compare(MODEL, TASK, metrics="logmee"),
    "compare, head": lambda: tm.compare(MODEL, TASK, "linear_prob"),
    "compare, ood": lambda: tm.compare(MODEL, TASK, ood={"x": "corrupted:blurr:1"}),
    "extract, model": lambda: tm.extract("zoo:cnn-mnst", TASK),
    "extract, pool": lambda: tm.extract(MODEL, TASK, pool="avgg"),
    "LayerSelector": lambda: tm.LayerSelector("logmee").fit(np.zeros((4, 2)), [0, 1]),
    "LinearProbe": lambda: tm.LinearProbe().fit("zoo:cnn-mnst", TASK),
    "Head2Toe": lambda: tm.Head2Toe().fit("zoo:cnn-mnst", TASK),
    "FineTune": lambda: tm.FineTune().fit("zoo:cnn-mnst", TASK),
    "forecast": lambda: forecast(MODEL, TASK, "logmee"),
    "expected_steps": lambda: expected_steps("zoo:cnn-mnst", TASK),
    "expected_fits": lambda: expected_fits(MODEL, TASK, [], 1, metrics="logmee"),
    "ground_truth": lambda: ground_truth.run("zoo:cnn-mnst", TASK, "new.jsonl"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_name_in_python_is_told_before_anything_is_read(name: str) -> None:
    with pytest.raises(tm.UnknownNameError):
        CALLS[name]()


def test_one_wrong_name_of_several_is_one_failure() -> None:
    """It fails before its turn, and the others go on."""
    table = tm.rank_models(
        [MODEL, "zoo:cnn-mnst"], "sklearn:digits?examples=100", "h_score", layers="last",
        cache="never", progress=False,
    )  # fmt: skip
    assert [failure["model"] for failure in table.failures] == ["zoo:cnn-mnst"]
    assert table.best() == MODEL
