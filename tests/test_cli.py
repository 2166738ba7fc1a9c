"""The command line as a person at a terminal, and a script, sees it."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

import transfer_metrics as tm
from transfer_metrics.__main__ import VERBS, build_parser, main
from transfer_metrics.cli.console import in_options, take_options
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.results.record import phases

MODELS = "zoo:resnet-usps,zoo:resnet-random"


def run(capsys, *argv):
    status = main([str(a) for a in argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def command(*argv, **options):
    return subprocess.run(
        [sys.executable, "-m", "transfer_metrics", *map(str, argv)],
        capture_output=True, text=True, timeout=300, **options,
    )  # fmt: skip


def test_help_is_quick_and_loads_nothing_heavy():
    code = (
        "import sys, transfer_metrics.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'faiss'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert time.perf_counter() - started < 1.0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_worked_examples(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([verb, "--help"])
    assert stop.value.code == 0
    assert f"transfer-metrics {verb}" in capsys.readouterr().out


def test_rank_prints_a_ranking_and_writes_its_files(capsys, tmp_path):
    status, out, err = run(
        capsys, "rank", "--models", MODELS, "--task", "sklearn:digits",
        "--metrics", "knn,transrate", "--out", tmp_path,
    )  # fmt: skip
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["#", "model", "knn"]
    assert lines[1].split()[:2] == ["1", "zoo:resnet-usps"]
    written = {"scores.jsonl", "run.yaml", "ranking.png", "layers.png"}
    assert {p.name for p in tmp_path.iterdir()} == written
    assert str(tmp_path / "ranking.png") in err
    table = tm.ScoreTable.load(tmp_path / "scores.jsonl")
    assert table.best("knn") == "zoo:resnet-usps"
    assert {r["task"] for r in table.records} == {"sklearn:digits"}


def test_a_failed_model_gives_status_one_and_a_row(capsys, tmp_path):
    status, out, err = run(
        capsys, "rank", "--models", "zoo:vit-mnist,zoo:absent", "--task", "sklearn:digits",
        "--metrics", "knn", "--layers", "last", "--examples", "100", "--json", "--quiet",
        "--out", tmp_path,
    )  # fmt: skip
    assert status == 1
    records = json.loads(out)
    assert [r["model"] for r in records if r["error"]] == ["zoo:absent"]
    assert "zoo:absent" in err
    assert (tmp_path / "ranking.png").exists()


def test_the_time_of_each_phase_is_told_and_kept_with_the_scores(capsys, tmp_path):
    argv = ["rank", "--models", MODELS, "--task", "zoo:glyphs", "--metrics", "knn,lda"]
    argv += ["--layers", "last", "--no-plots", "--json", "--out", tmp_path]
    started = time.perf_counter()
    first, again, quiet = (run(capsys, *argv, *more) for more in ([], [], ["--quiet"]))
    elapsed = time.perf_counter() - started
    # What comes from the cache tells what it took when it was computed.
    assert quiet[1] == again[1] == first[1]
    assert quiet[2] == ""
    records = json.loads(first[1])
    assert tm.ScoreTable.load(tmp_path / "scores.jsonl").records == records
    for record in records:
        assert 0 < record["load_seconds"] < elapsed
        assert 0 < record["statistics_seconds"] <= record["seconds"] < elapsed
    by_phase = phases(tm.ScoreTable(records))
    assert list(by_phase) == ["load", "forward passes", "statistics", "scores"]
    assert 0 < sum(by_phase.values()) < elapsed
    models = {r["model"]: r for r in records}.values()
    assert by_phase["load"] == pytest.approx(sum(r["load_seconds"] for r in models))
    assert by_phase["scores"] + by_phase["statistics"] == pytest.approx(
        sum(r["seconds"] for r in records)
    )
    told = "; load {:.1f} s, forward passes {:.1f} s, statistics {:.1f} s, scores {:.1f} s"
    assert f"2 models scored{told.format(*by_phase.values())}" in first[2]
    written, following = first[2].splitlines()[-2:]
    assert written.startswith("wrote ")
    assert following.startswith("next: transfer-metrics transfer --models zoo:resnet-usps,")
    assert again[2].splitlines()[-2:] == first[2].splitlines()[-2:]


@pytest.mark.parametrize(
    "argv", [["list", "metrics"], ["list", "tasks"], ["list", "heads"], ["cache"],
             ["list", "tasks", "zoo:glyphs"], ["list", "layers", "zoo:vit-mnist"]],
)  # fmt: skip
def test_what_is_listed_comes_as_json_and_csv_too(argv, capsys):
    records = json.loads(run(capsys, *argv, "--json")[1])
    rows = list(csv.DictReader(io.StringIO(run(capsys, *argv, "--csv")[1])))
    assert len(rows) == len(records) > 1
    assert set(rows[0]) == set(records[0])


def test_csv_is_the_long_table(capsys, tmp_path):
    _, out, _ = run(
        capsys, "rank", "--models", "zoo:vit-mnist", "--task", "zoo:glyphs", "--quiet",
        "--examples", "100", "--metrics", "knn", "--csv", "--no-plots", "--out", tmp_path,
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) > 2
    assert {row["metric"] for row in rows} == {"knn"}
    assert float(rows[0]["value"]) > 0


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rank", "--models", "zoo:*", "--task", "sklearn:digit"], "did you mean"),
        (["rank", "--models", "zoo:*", "--task", "imagefolder:absent"], "absent"),
        (["rank", "--models", "nowhere:x*", "--task", "sklearn:digits"], "nowhere"),
        (["rank", "--models", "zoo:*", "--task", "sklearn:digits", "--metrics", "lgme"], "logme"),
        (["rank", "--models", "zoo:*", "--task", "sklearn:digits", "--engine", "x"], "engine"),
        (["layers", "--model", "zoo:vit-mnist"], "--task"),
        (["layers", "--store", "absent"], "absent"),
        (["score", "--features", "absent.npy", "--labels", "absent.npy"], "absent.npy"),
        (["list", "layers"], "no model is named"),
        (["list", "models", "zoo:nothing*"], "nothing"),
    ],
)
def test_mistakes_give_one_clear_line_and_status_two(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *argv, *(["--quiet"] if argv[0] == "rank" else []))
    assert status == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv", [["rank"], ["rank", "--models", "x"], ["rnk"], ["list", "x"], ["layers", "--pool"]]
)
def test_usage_errors_give_status_two(argv, capsys):
    assert main(argv) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "--help`" in line


def test_threads_are_those_that_were_asked_for(capsys, monkeypatch):
    import torch

    seen, before = [], torch.get_num_threads()

    def listed(pattern):
        seen.append(torch.get_num_threads())
        return []

    monkeypatch.setattr("transfer_metrics.metrics.base.list_metrics", listed)
    run(capsys, "list", "metrics", "--threads", before + 1)
    run(capsys, "--threads", before + 1, "list", "metrics")
    assert (seen, torch.get_num_threads()) == ([before + 1] * 2, before)
    status, _, err = run(capsys, "list", "metrics", "--threads", "0")
    assert (status, "no whole number from 1" in err) == (2, True)


def test_score_reads_arrays(capsys, tmp_path):
    x, y = load_iris(return_X_y=True)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    np.savez(tmp_path / "both.npz", X=x, y=y)
    argv = ["--metrics", "transrate,knn"]
    status, out, _ = run(
        capsys, "score", "--features", tmp_path / "x.npy", "--labels", tmp_path / "y.npy", *argv
    )
    assert status == 0
    assert out.startswith("transrate\t0.5894054064\n")
    assert run(capsys, "score", "--features", tmp_path / "both.npz", *argv)[1] == out
    status, out, _ = run(
        capsys, "score", "--features", tmp_path / "both.npz", "--json", "--metrics", "*"
    )
    assert {r["metric"] for r in json.loads(out)} == {
        name
        for name in tm.list_metrics()
        if "classification" in METRICS[name].tasks and METRICS[name].requires != "source"
    }


def test_score_reads_tables_of_numbers_and_lines_of_labels(capsys, tmp_path):
    x, y = load_iris(return_X_y=True)
    names = ["setosa", "versicolor", "virginica"]
    frame = pd.DataFrame(x)
    frame.to_csv(tmp_path / "with_index.csv")
    frame.to_csv(tmp_path / "counted.csv", index=False)
    frame.rename(columns=str).to_json(tmp_path / "rows.jsonl", orient="records", lines=True)
    np.savetxt(tmp_path / "no_header.csv", x, delimiter=",")
    np.savetxt(tmp_path / "no_header.tsv", x, delimiter="\t")
    np.savetxt(tmp_path / "numbers.txt", y, fmt="%d")
    lines = [names[code] for code in y]
    (tmp_path / "names.txt").write_text("\n".join(lines))
    (tmp_path / "header.txt").write_text("\n".join(["species", *lines]))
    pd.Series(lines, name="species").to_csv(tmp_path / "index.csv")
    for features in (
        "with_index.csv",
        "counted.csv",
        "rows.jsonl",
        "no_header.csv",
        "no_header.tsv",
    ):
        for labels in ("numbers.txt", "names.txt", "header.txt", "index.csv"):
            places = ["--features", tmp_path / features, "--labels", tmp_path / labels]
            status, out, err = run(capsys, "score", *places, "--metrics", "transrate")
            assert (status, out) == (0, "transrate\t0.5894054064\n"), (features, labels, err)
    for features, labels, told in (
        ("counted.csv", "counted.csv", "one label per line"),
        ("index.csv", "names.txt", "'species' of it holds no numbers"),
        ("counted.csv", None, "give them with --labels"),
    ):
        given = ["--labels", tmp_path / labels] if labels else []
        status, _, err = run(capsys, "score", "--features", tmp_path / features, *given)
        assert status == 2
        assert told in err
        assert "numpy" not in err


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(capsys, tmp_path):
    np.savez(tmp_path / "two.npz", X=np.random.default_rng(0).normal(size=(20, 3)), y=[0, 1] * 10)
    status, _, err = run(
        capsys, "score", "--features", tmp_path / "two.npz", "--metrics", "transrate"
    )
    assert status == 0
    assert err.startswith("transfer-metrics: warning: TransRate with two classes")
    told = "classification of features, 20 examples (2 classes of 10)"
    assert err.splitlines()[1:] == [told, "next: transfer-metrics list metrics transrate"]


def test_score_refuses_what_it_cannot_trust(capsys, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    np.save(tmp_path / "trap.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "half.npz", X=np.ones((3, 2)))
    (tmp_path / "text.npy").write_text("not an array")
    for name, message in (("trap", "plain"), ("half", "needs y"), ("text", "numpy.save")):
        path = next(tmp_path.glob(f"{name}.np*"))
        labels = ["--labels", path] if name != "half" else []
        status, _, err = run(capsys, "score", "--features", path, *labels)
        assert status == 2
        assert message in err
    assert not (tmp_path / "executed").exists()


def test_layers_extract_and_store(capsys, tmp_path):
    base = ["--model", "zoo:vit-mnist", "--task", "sklearn:digits", "--examples", 150, "--quiet"]
    status, out, _ = run(capsys, "extract", *base, "--out", tmp_path / "f")
    assert status == 0
    names = [line.split("\t")[0] for line in out.splitlines()]
    assert names == [la.name for la in tm.list_layers(tm.load_model("zoo:vit-mnist"))]
    metrics = ["--metrics", "transrate(eps=auto),knn"]
    by_store = run(capsys, "layers", "--store", tmp_path / "f", *metrics)
    by_model = run(capsys, "layers", *base, *metrics, "--plot", tmp_path / "p.svg")
    for _ in range(2):  # and drawn again
        assert run(capsys, "layers", *base, *metrics, "--plot", tmp_path / "p.png")[0] == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert by_store[:2] == by_model[:2]
    assert by_model[0] == 0
    assert (tmp_path / "p.svg").exists()
    assert [line.split()[0] for line in by_store[1].splitlines()[1:]] == names


def test_list(capsys):
    listed = run(capsys, "list", "metrics")[1].splitlines()
    assert [line.split()[0] for line in listed] == [*tm.list_metrics(), "etran", "ncti"]
    assert "zoo:vit-mnist" in run(capsys, "list", "models")[1].split()
    assert "avg" in run(capsys, "list", "poolings")[1].split()
    assert "grid:2" not in run(capsys, "list", "poolings", "a*")[1].split()
    code, _, told = run(capsys, "list", "poolings", "avgg")
    assert (code, "did you mean 'avg'?" in told) == (2, True)
    assert "sklearn:digits" in run(capsys, "list", "tasks")[1]
    assert "features in all" in run(capsys, "list", "layers", "zoo:vit-mnist")[1]


def test_cache_shows_and_clears(capsys, tmp_path):
    run(
        capsys, "rank", "--models", "zoo:vit-mnist", "--task", "sklearn:digits", "--quiet",
        "--examples", "100", "--layers", "last", "--metrics", "knn", "--no-plots",
        "--out", tmp_path,
    )  # fmt: skip
    assert os.environ["TRANSFER_METRICS_CACHE"] in run(capsys, "cache")[1]
    assert "1 files" in " ".join(run(capsys, "cache")[1].split())
    assert "1 files" not in " ".join(run(capsys, "cache", "clear")[1].split())


def test_a_cache_that_cannot_be_written_is_a_clear_error(capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(tmp_path / "file"))
    status, _, err = run(
        capsys, "rank", "--models", "zoo:vit-mnist", "--task", "sklearn:digits", "--quiet",
        "--metrics", "knn", "--out", tmp_path / "out",
    )  # fmt: skip
    assert status == 2
    assert "TRANSFER_METRICS_CACHE" in err


def stripped(path):
    """A table without what depends on the clock."""
    clock = ("seconds", "load_seconds", "extract_seconds", "statistics_seconds", "created")
    records = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in clock} for r in records]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_at_any_moment_the_next_run_gives_the_same_table(tmp_path, sign):
    argv = [
        "rank", "--models", "zoo:vit-mnist,zoo:resnet-random,zoo:resnet-cifar10", "--no-plots",
        "--task", "sklearn:digits", "--metrics", "knn,logme,transrate", "--quiet",
    ]  # fmt: skip

    def environment(name):
        return {**os.environ, "TRANSFER_METRICS_CACHE": str(tmp_path / name)}

    started = time.perf_counter()
    calm = command(*argv, "--out", tmp_path / "calm", env=environment("calm-cache"))
    assert calm.returncode == 0, calm.stderr
    length = time.perf_counter() - started
    for moment in np.random.default_rng(int(sign)).uniform(0.2, 1.0, 5):
        with subprocess.Popen(
            [sys.executable, "-m", "transfer_metrics", *argv, "--out", tmp_path / "hurt"],
            env=environment("hurt-cache"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            time.sleep(moment * length)
            process.send_signal(sign)
            process.wait(60)
    again = command(*argv, "--out", tmp_path / "hurt", env=environment("hurt-cache"))
    assert again.returncode == 0, again.stderr
    assert stripped(tmp_path / "hurt/scores.jsonl") == stripped(tmp_path / "calm/scores.jsonl")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("report --scores x", "`transfer-metrics report` has no option --scores"),
        ("report --scores x", "FILE stand without an option"),
        ("rank --models zoo:* --task zoo:glyphs --metrix knn", "did you mean '--metrics'"),
        ("rnak --models zoo:* --task zoo:glyphs", "did you mean 'rank'"),
        ("benchmark rnu", "did you mean 'run'"),
        ("list modls", "did you mean 'models'"),
        ("benchmark run --models a --tasks b --out c --sed=1", "did you mean '--seeds'"),
        ("cache show --foo", "known: --csv, --debug, --help, --json, --only, --quiet, --threads"),
        ("layers --store x more", "'more' is one argument too many for `transfer-metrics layers`"),
    ],
)
def test_an_option_that_there_is_not_is_told_with_those_that_there_are(line, told, capsys):
    assert main(line.split()) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "message", "told"),
    [
        ("export", "name it so, or say format=, one of", "name it so, or say --format, one of"),
        ("rank", "make room, or use cache='never'; what", "make room, or use --cache never; what"),
        ("rank", "use engine='serial'", "use --engine serial"),
        ("rank", "use amp=False, or dtype='float32'", "use no --amp, or --dtype float32"),
        ("rank", "ask for it with allow_random=True.", "ask for it with --allow-random."),
        ("rank", "leave out keep_features, or memory", "leave out --keep-features, or memory"),
        ("extract", "choose another out=, or delete", "choose another --out, or delete"),
        # Of tasks, of metrics, of functions, and of other verbs.
        ("rank", "say csv:a.csv?kind=regression", "say csv:a.csv?kind=regression"),
        ("select", "name the inputs with features=", "name the inputs with features="),
        ("rank", "use knn(distance='l2', layers=1)", "use knn(distance='l2', layers=1)"),
        ("score", "use cache='never' or batch_size=1", "use cache='never' or batch_size=1"),
    ],
)
def test_messages_name_options_and_not_arguments_of_python(verb, message, told):
    parser = build_parser()
    [verbs] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    take_options(verbs.choices[verb])
    assert in_options(message) == told
    take_options(argparse.ArgumentParser(add_help=False))
    assert in_options(message) == message


def test_export_names_its_option(tmp_path, capsys):
    task = "sklearn:digits?examples=40"
    head = tm.LinearProbe(C_grid=(1.0,)).fit("zoo:cnn-mnist", task)
    head.save(tmp_path / "head")
    assert main(["export", "--head", str(tmp_path / "head"), "--out", str(tmp_path / "x.bin")]) == 2
    assert "or say --format, one of onnx, torch-export" in capsys.readouterr().err


def test_a_transfer_needs_a_folder_only_to_write_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = "sklearn:digits?examples=40"
    argv = ["transfer", "--models", "zoo:cnn-mnist", "--task", task, "--quiet"]
    assert main([*argv, "--dry-run"]) == 0
    assert "nothing was computed or written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    assert main(argv) == 2
    assert "--out is missing" in capsys.readouterr().err
