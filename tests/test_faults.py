"""What is killed, filled, torn or run twice: nothing finished is lost, and no answer is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import transfer_metrics as tm
from tests.fault_runs import METRICS, MODELS, NOTES, SHARD, SIZE, Place, rank, values, waited_for
from transfer_metrics.errors import StorageError, TransferMetricsWarning
from transfer_metrics.ranking import range_statistics
from transfer_metrics.ranking.cache import ResultCache
from transfer_metrics.ranking.memory_budget import Pass, Plan
from transfer_metrics.ranking.ranges import Ranges
from transfer_metrics.results.record import Record
from transfer_metrics.threads import running_with

pytestmark = pytest.mark.integration

ALL = len(MODELS) * SIZE
RANGE = SHARD
STORED = {"engine": "serial", "stream": False}
STREAMED = {"engine": "serial", "stream": True}
PROCESSES = {"engine": "processes", "workers": 2}
WHOLE = {"engine": "processes", "workers": 2, "stream": False}
RAY = {"engine": "ray", "workers": 2}
slow = pytest.mark.slow
on_engines = pytest.mark.parametrize(
    "options",
    [
        pytest.param(STORED, id="stored"),
        pytest.param(STREAMED, id="streamed", marks=slow),
        pytest.param(PROCESSES, id="processes", marks=slow),
        pytest.param(WHOLE, id="whole", marks=slow),
        pytest.param(RAY, id="ray", marks=slow),
    ],
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the runs have it: with another number of threads float32 is summed in another order."""
    with running_with(1):
        yield


@pytest.fixture(scope="module")
def calm() -> dict:
    """The values of an undisturbed ranking."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"faults-{uuid.uuid4().hex}"
        folder.mkdir()
        patch.setenv(NOTES, str(folder))
        found = values(rank(None))
        shutil.rmtree(folder)
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    found = Place(tmp_path)
    monkeypatch.setenv(NOTES, str(found.notes))
    if "ray" in request.node.name:
        pytest.importorskip("ray")
    return found


def same(table: tm.ScoreTable | dict, calm: dict) -> None:
    """Equal to the rounding of float64, in which ranges merge: another of float32 would show."""
    ours = table if isinstance(table, dict) else values(table)
    assert ours.keys() == calm.keys()
    np.testing.assert_allclose(list(ours.values()), [calm[k] for k in ours], rtol=1e-9, atol=1e-9)


def finish(place: Place, calm: dict, **options: object) -> None:
    """The next run does what is left, comes to the same table, and clears up."""
    kept = place.kept()
    place.calm()
    with place.running(**options) as run:
        same(run.table(), calm)
    # Where nothing is left, an idle worker repeats what another has not finished yet.
    repeated = 2 * RANGE if options.get("engine", "serial") != "serial" else 0
    assert place.forward() <= ALL - kept + repeated
    assert place.litter() == []


def of_narrow(calm: dict) -> dict:
    return {key: value for key, value in calm.items() if "narrow" in key[0]}


def of_metrics(calm: dict, metrics: list[str]) -> dict:
    names = {metric.partition("(")[0] for metric in metrics}
    return {key: value for key, value in calm.items() if key[2] in names}


# --- killed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [pytest.param(2, id="2"), pytest.param(20, id="20", marks=slow)])
@on_engines
def test_the_driver_is_killed_at_random_moments(
    place: Place, calm: dict, options: dict, kills: int
) -> None:
    kills = min(kills, 5) if options is RAY else kills
    moments = random.Random(f"{kills} {sorted(options.items())}")
    with place.running(**options) as run:
        run.wait_for(lambda: place.forward())
        started = time.monotonic()
        run.end()
    length = time.monotonic() - started
    shutil.rmtree(place.cache)
    for _ in range(kills):
        before = place.forward()
        with place.running(**options) as run:
            run.wait_for(lambda before=before: place.forward() > before)
            until = time.monotonic() + moments.uniform(0, 1.1) * length * max(1, 3 / kills)
            run.wait_for(lambda until=until: time.monotonic() > until)
        if place.kept() == ALL and not place.litter():
            shutil.rmtree(place.cache)  # it was finished; begin anew
    finish(place, calm, **options)
    place.calm()
    same(rank(place.cache), calm)
    assert place.forward() == 0, "scores are kept"


@pytest.mark.parametrize(
    ("options", "pattern", "after"),
    [
        pytest.param(STORED, "shards/*.safetensors", 7, id="shard"),
        pytest.param(STORED, "manifest.json", 9, id="manifest", marks=slow),
        pytest.param(STORED, "scores/*.jsonl", 2, id="scores", marks=slow),
        pytest.param(STREAMED, "*.safetensors", 11, id="statistics"),
        pytest.param(STREAMED, "range.json", 4, id="range", marks=slow),
        pytest.param(STREAMED, "scores/*.jsonl", 1, id="streamed-scores", marks=slow),
    ],
)
def test_killed_between_writing_and_renaming(
    place: Place, calm: dict, options: dict, pattern: str, after: int
) -> None:
    place.ask("replace", pattern=pattern, after=after)
    with place.running(**options) as run:
        assert run.end() == -signal.SIGKILL
    assert place.kept() > 0 or pattern == "*.safetensors"
    assert any(".tmp" in name for name in place.litter())
    finish(place, calm, **options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(PROCESSES, id="processes"),
        pytest.param(WHOLE, id="whole", marks=slow),
        pytest.param(RAY, id="ray", marks=slow),
    ],
)
def test_a_worker_is_killed_in_the_middle(place: Place, calm: dict, options: dict) -> None:
    place.ask("middle", what="die", after=13)
    with place.running(**options) as run:
        same(run.table(), calm)
    assert (place.notes / "held-middle").exists()
    # What it was doing, and what an idle worker repeats at the end.
    assert place.forward() <= ALL + 3 * RANGE
    assert place.litter() == []
    place.calm()
    same(rank(place.cache), calm)
    assert place.forward() == 0, "scores are kept"


@slow
@pytest.mark.parametrize("pattern", ["*.safetensors", "range.json", "scores/*.jsonl"])
def test_a_worker_is_killed_while_writing(place: Place, calm: dict, pattern: str) -> None:
    place.ask("replace", pattern=pattern, after=1)
    with place.running(**PROCESSES) as run:
        same(run.table(), calm)
    assert (place.notes / "killed-replacing").exists()
    assert place.forward() <= ALL + 3 * RANGE
    assert [name for name in place.litter() if not name.startswith("scores/")] == []


@pytest.mark.parametrize("options", [
    pytest.param(STORED, id="serial"), pytest.param(PROCESSES, id="processes", marks=slow),
])  # fmt: skip
@pytest.mark.parametrize(("sign", "status", "told"), [
    pytest.param(signal.SIGINT, 130, "interrupted", id="SIGINT", marks=slow),
    pytest.param(signal.SIGTERM, 143, "told to end", id="SIGTERM"),
])  # fmt: skip
def test_a_signal_ends_the_command_in_order(
    place: Place, options: dict, sign: int, status: int, told: str
) -> None:
    np.savez(
        place.root / "task.npz", X=np.random.default_rng(0).random((300, 12)), y=[0, 1, 2] * 100
    )
    argv = [
        sys.executable, "-m", "transfer_metrics", "rank", "--models", ",".join(MODELS[:2]),
        "--task", f"npz:{place.root}/task.npz", "--metrics", "logme", "--no-plots", "--layers", "*",
        "--out", str(place.root / "out"), "--batch-size", "10", "--engine", options["engine"],
    ]  # fmt: skip
    if options["engine"] != "serial":
        argv += ["--workers", "2"]
    environment = {**os.environ, "TRANSFER_METRICS_CACHE": str(place.cache)}
    place.ask("narrow", what="hold", after=5)
    # What runs in the background of a shell ignores SIGINT, and so would the command.
    with subprocess.Popen(
        argv, env=environment, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(sign, signal.SIG_DFL),
    ) as process:  # fmt: skip
        try:
            waited_for(lambda: (place.notes / "held-narrow").exists() or process.poll() is not None)
            process.send_signal(sign)
            said = process.communicate(timeout=120)[1]
        finally:
            process.kill()
    assert process.returncode == status, said
    lines = [line for line in said.replace("\r", "\n").splitlines() if "transfer-metrics" in line]
    assert len(lines) == 1
    assert told in lines[0]
    assert "run it again to go on" in lines[0]
    assert "Traceback" not in said
    assert [name for name in place.litter() if ".tmp" in name] == []
    place.calm()
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- out of memory -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what", "reason"),
    [
        pytest.param(STORED, "starve", "memory", id="serial"),
        pytest.param(PROCESSES, "starve", "memory", id="processes", marks=slow),
        pytest.param(PROCESSES, "die", "died repeatedly", id="killed", marks=slow),
        pytest.param(WHOLE, "die", "died repeatedly", id="whole", marks=slow),
        pytest.param(RAY, "die", "died repeatedly", id="ray", marks=slow),
    ],
)
def test_a_model_without_memory_fails_alone(
    place: Place, calm: dict, options: dict, what: str, reason: str
) -> None:
    place.ask("middle", what=what, after=3, always=True)
    with place.running(**options) as run:
        table = run.table()
    [failure] = table.failures
    assert "middle" in failure["model"]
    assert reason in failure["error"]
    others = [r for r in table.records if "middle" not in r["model"]]
    same(
        {(r["model"], r["layer"], r["metric"]): r["value"] for r in others},
        {key: value for key, value in calm.items() if "middle" not in key[0]},
    )
    finish(place, calm, **options)


# --- places that cannot be written to ------------------------------------------------------------


@pytest.fixture
def disk(place: Place) -> Iterator[Callable[[str], None]]:
    """A file system of two megabytes at the cache, and a function that mounts it with options."""

    def mount(options: str) -> None:
        place.cache.mkdir(exist_ok=True)
        argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place.cache)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")

    yield mount
    while os.path.ismount(place.cache):
        subprocess.run(["umount", str(place.cache)], check=True)


@pytest.mark.parametrize(
    ("options", "room"),
    [
        pytest.param(STORED, 120_000, id="stored"),
        pytest.param(STORED, 0, id="none", marks=slow),
        pytest.param(STREAMED, 150_000, id="streamed"),
        pytest.param(PROCESSES, 150_000, id="processes", marks=slow),
        pytest.param(WHOLE, 120_000, id="whole", marks=slow),
        pytest.param(RAY, 150_000, id="ray", marks=slow),
    ],
)
def test_a_full_disk_ends_the_run_and_room_lets_it_go_on(
    place: Place, calm: dict, disk: Callable[[str], None], options: dict, room: int
) -> None:
    disk("size=2m")
    ballast = place.cache / "ballast"
    ballast.write_bytes(bytes((2 << 20) - room))
    with place.running(**options) as run:
        assert run.end() == 2
        said = run.said()
    assert "No space left on device" in said
    assert "kept" in said
    assert len(said.splitlines()) == 1
    assert [name for name in place.litter() if ".tmp" in name] == []
    ballast.unlink()
    finish(place, calm, **options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(STORED, id="stored"),
        pytest.param(STREAMED, id="streamed"),
        pytest.param(PROCESSES, id="processes", marks=slow),
    ],
)
def test_a_read_only_cache_is_one_sentence(
    place: Place, calm: dict, disk: Callable[[str], None], options: dict
) -> None:
    disk("size=2m,ro")
    with pytest.raises(StorageError, match=r"Read-only file system\).*cache='never'") as raised:
        rank(place.cache, **options)
    assert "\n" not in str(raised.value)
    assert place.forward() == 0, "found out before any work is done"
    same(rank(None, **options), calm)


def test_a_read_only_cache_that_has_all_scores_is_read(
    place: Place, calm: dict, disk: Callable[[str], None]
) -> None:
    disk("size=2m")
    rank(place.cache)
    subprocess.run(["mount", "-o", "remount,ro", str(place.cache)], check=True)
    place.calm()
    same(rank(place.cache), calm)
    assert place.forward() == 0


@pytest.mark.parametrize("options", [STORED, STREAMED], ids=["stored", "streamed"])
def test_a_cache_below_a_file_is_one_sentence(place: Place, options: dict) -> None:
    (place.root / "file").write_text("")
    with pytest.raises(StorageError, match="Not a directory"):
        rank(place.root / "file" / "cache", **options)
    assert place.forward() == 0


# --- two at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(STORED, STORED, id="stored"),
        pytest.param(STREAMED, STREAMED, id="streamed"),
        pytest.param(STORED, STREAMED, id="both", marks=slow),
        pytest.param(PROCESSES, PROCESSES, id="processes", marks=slow),
        pytest.param(WHOLE, WHOLE, id="whole", marks=slow),
        pytest.param(WHOLE, PROCESSES, id="mixed", marks=slow),
    ],
)
@pytest.mark.parametrize(
    "cut", [pytest.param(None, id="same"), pytest.param(2, id="different", marks=slow)]
)
def test_two_runs_on_one_cache(
    place: Place, calm: dict, first: dict, second: dict, cut: int | None
) -> None:
    asked = [METRICS[:cut], METRICS[cut or 0 :]]
    with (
        place.running(metrics=asked[0], **first) as one,
        place.running(metrics=asked[1], **second) as other,
    ):
        for run, metrics in ((one, asked[0]), (other, asked[1])):
            same(run.table(), of_metrics(calm, metrics))
    assert place.litter() == []
    place.calm()
    same(rank(place.cache), calm)
    assert place.forward() == 0, "the scores of both are kept"


def test_features_in_use_are_not_dropped(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    with cache.using("key") as folder:
        with cache.using("key"):
            cache.drop_features("key")
        cache.drop_features("key")
        assert folder.exists()
    cache.drop_features("key")
    assert list((tmp_path / "features").iterdir()) == []


def test_who_waits_for_features_that_are_dropped_gets_new_ones(tmp_path: Path) -> None:
    """A lock on a file that was removed protects nothing."""
    cache, inside, wrong = ResultCache(tmp_path), [], []

    def use() -> None:
        for _ in range(50):
            with cache.using("key") as folder:
                inside.append(1)
                (folder / threading.current_thread().name).touch()
                if not folder.exists():
                    wrong.append(folder)
            cache.drop_features("key")

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(inside) == 200
    assert wrong == []
    assert list((tmp_path / "features").iterdir()) == []


def test_no_score_is_lost_where_many_add_some(tmp_path: Path) -> None:
    def add(name: str) -> None:
        for number in range(10):
            record = Record(model=name, metric="m", layer=str(number), value=1.0)
            ResultCache(tmp_path).update("key", lambda known, record=record: [*known, record])

    threads = [threading.Thread(target=add, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = {(r.model, r.layer) for r in ResultCache(tmp_path).read("key")}
    assert len(found) == 40


# --- clocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("date", [0, 4_102_444_800], ids=["1970", "2100"])
def test_dates_of_files_do_not_matter(place: Place, calm: dict, date: int) -> None:
    rank(place.cache, models=list(MODELS[:2]), keep_features=True, metrics="logme")
    for path in place.cache.rglob("*"):
        os.utime(path, (date, date))
    place.calm()
    same(rank(place.cache), calm)
    assert place.forward() == SIZE, "only the third network"


@pytest.mark.parametrize(
    ("options", "by"),
    [
        pytest.param(STORED, -3e7, id="back"),
        pytest.param(STREAMED, 3e7, id="forth"),
        pytest.param(PROCESSES, -3e7, id="processes", marks=slow),
    ],
)
def test_a_clock_that_jumps(place: Place, calm: dict, options: dict, by: float) -> None:
    place.ask("clock", by=by)
    with place.running(**options) as run:
        table = run.table()
    same(table, calm)
    assert all(0 <= r["seconds"] < 600 for r in table.records)


# --- damaged files -------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def swap(path: Path) -> None:
    """Exchange it with the next one."""
    after = sorted(path.parent.glob("*.safetensors"))[1]
    content = path.read_bytes()
    path.write_bytes(after.read_bytes())
    after.write_bytes(content)


def edit(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


NARROW = {"models": [MODELS[0]]}


@pytest.mark.parametrize(
    ("name", "damage", "lost"),
    [
        ("shards/00003.safetensors", cut, 1),
        ("shards/00003.safetensors", empty, 1),
        ("shards/00003.safetensors", flip, 1),
        ("shards/00000.safetensors", swap, 2),
        ("manifest.json", cut, SIZE // SHARD),
        ("manifest.json", empty, SIZE // SHARD),
        ("manifest.json", Path.unlink, SIZE // SHARD),
        ("manifest.json", edit(format=99), SIZE // SHARD),
        ("manifest.json", edit(shards={"0": 3}), SIZE // SHARD),
        ("manifest.json", edit(shard_size=2 * SHARD), SIZE // SHARD),
        ("manifest.json", edit(layers=None), SIZE // SHARD),
    ],
)
def test_damaged_features_are_computed_anew(
    place: Place, calm: dict, name: str, damage: Callable[[Path], None], lost: int
) -> None:
    rank(place.cache, **NARROW, keep_features=True, metrics="logme")
    [folder] = (place.cache / "features").iterdir()
    damage(folder / name)
    place.calm()
    with pytest.warns(TransferMetricsWarning, match="computed anew"):
        same(rank(place.cache, **NARROW), of_narrow(calm))
    assert place.forward() == lost * SHARD


def test_features_with_strange_additions_are_used(place: Place, calm: dict) -> None:
    rank(place.cache, **NARROW, keep_features=True, metrics="logme")
    [folder] = (place.cache / "features").iterdir()
    edit(something={"of": "the future"}, versions={})(folder / "manifest.json")
    (folder / "shards" / "00001.safetensors.abc.tmp").write_bytes(b"half")
    (folder.parent / f"{folder.name}.0.tmp").mkdir()
    place.calm()
    same(rank(place.cache, **NARROW), of_narrow(calm))
    assert place.forward() == 0
    assert place.litter() == []
    assert list(folder.parent.iterdir()) == []


def built(place: Place, monkeypatch: pytest.MonkeyPatch, **options: object) -> list[Path]:
    """Folders of finished ranges of an interrupted run."""
    with monkeypatch.context() as patch:

        def interrupted(*args: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Ranges, "reduce", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rank(place.cache, **NARROW, **STREAMED, **options)
    place.calm()
    return sorted(place.cache.glob("statistics/*/*"))


def first_file(folder: Path) -> Path:
    return min(folder.glob("*.safetensors"))


def swap_ranges(folder: Path) -> None:
    """Exchange the statistics of one layer with those of the next range."""
    mine, other = first_file(folder), folder.parent / "00001" / first_file(folder).name
    content = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    other.write_bytes(content)


def put_another(folder: Path) -> None:
    """Put a whole range in the place of another."""
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "00001", folder)


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (lambda folder: cut(first_file(folder)), 1),
        (lambda folder: empty(first_file(folder)), 1),
        (lambda folder: flip(first_file(folder)), 1),
        (lambda folder: first_file(folder).unlink(), 1),
        (swap_ranges, 2),
        (put_another, 1),
        (lambda folder: cut(folder / "range.json"), 1),
        (lambda folder: empty(folder / "range.json"), 1),
        (lambda folder: edit(files=3)(folder / "range.json"), 1),
        (lambda folder: edit(future=3)(folder / "range.json"), 0),
        (lambda folder: (folder.parent / "00002.0.tmp").mkdir(), 0),
    ],
    ids=[
        "cut",
        "empty",
        "flip",
        "gone",
        "swap",
        "other",
        "json-cut",
        "json-empty",
        "json-wrong",
        "json-more",
        "tmp",
    ],
)
def test_damaged_statistics_are_built_anew(
    place: Place, calm: dict, monkeypatch, damage: Callable[[Path], None], lost: int
) -> None:
    folders = built(place, monkeypatch)
    assert len(folders) == SIZE // RANGE
    damage(folders[0])
    same(rank(place.cache, **NARROW, **STREAMED), of_narrow(calm))
    assert place.forward() == lost * RANGE
    assert place.litter() == []
    assert list(place.cache.glob("statistics/*")) == []


@pytest.mark.parametrize("damage", [cut, empty, flip, Path.unlink])
def test_statistics_that_are_damaged_before_they_are_merged(
    place: Place, calm: dict, monkeypatch, damage: Callable[[Path], None]
) -> None:
    real, seen = Ranges.reduce, []

    def reduce(self: Ranges, item: object, results: list, **options: object) -> object:
        if not seen:
            seen.append(item)
            damage(first_file(results[0].folder / "00001"))
        return real(self, item, results, **options)

    monkeypatch.setattr(Ranges, "reduce", reduce)
    same(rank(place.cache, **NARROW, **STREAMED), of_narrow(calm))
    assert place.forward() == SIZE + RANGE


GBC = METRICS[-1:]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"shard_size": 14}),
        ({}, {"intervals": True}),
        ({}, {"metrics": METRICS[:2]}),
    ],
    ids=["shard_size", "intervals", "metrics"],
)
def test_statistics_of_other_options_are_not_mixed_in(
    place: Place, calm: dict, monkeypatch, before: dict, after: dict
) -> None:
    """What an interrupted run left is used for the same question only."""
    for folder in built(place, monkeypatch, **before)[::2]:
        shutil.rmtree(folder)
    expected = of_metrics(of_narrow(calm), after.get("metrics", METRICS))
    same(rank(place.cache, **{**NARROW, **STREAMED, **after}), expected)
    assert place.forward() >= SIZE


@pytest.mark.parametrize("small_first", [False, True])
def test_statistics_of_another_memory_are_not_mixed_in(
    place: Place, calm: dict, monkeypatch, small_first: bool
) -> None:
    """Where memory is short, scatter is kept by blocks of classes, which others do not have."""
    real = range_statistics.plan_passes

    def of_little_memory(*args: object) -> Plan:
        plan = real(*args)
        layers = tuple(name for one in plan.passes for name in one.layers)
        blocks = (Pass(layers), Pass(layers, (0, 3)), Pass(layers, (3, 4)))
        return dataclasses.replace(plan, passes=blocks, by_class=frozenset(layers))

    for small in (small_first, not small_first):
        monkeypatch.setattr(range_statistics, "plan_passes", of_little_memory if small else real)
        if small == small_first:
            for folder in built(place, monkeypatch, metrics=GBC)[::2]:
                shutil.rmtree(folder)
    table = rank(place.cache, **NARROW, **STREAMED, metrics=GBC)
    same(table, of_metrics(of_narrow(calm), GBC))
    assert place.forward() >= SIZE


def drop_line(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2] + lines[3:]))


def drop_end(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))


def alter(path: Path) -> None:
    text = path.read_text()
    at = text.index('"value": ') + len('"value": 0.1')
    path.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])


@pytest.mark.parametrize(
    "damage",
    [cut, empty, drop_line, drop_end, alter, lambda path: path.write_bytes(b"\xff\xfe\n")],
    ids=["cut", "empty", "line", "end", "digit", "text"],
)
def test_damaged_scores_are_computed_anew(
    place: Place, calm: dict, damage: Callable[[Path], None]
) -> None:
    rank(place.cache, **NARROW)
    [path] = (place.cache / "scores").glob("*.jsonl")
    damage(path)
    (path.parent / f"{path.name}.0.tmp").write_text("half")
    place.calm()
    with pytest.warns(TransferMetricsWarning, match="is damaged"):
        same(rank(place.cache, **NARROW), of_narrow(calm))
    assert place.forward() == SIZE
    assert place.litter() == []
    place.calm()
    same(rank(place.cache, **NARROW), of_narrow(calm))
    assert place.forward() == 0


def test_scores_under_the_name_of_others_do_not_count(place: Place, calm: dict) -> None:
    """Such as of a cache of which files were renamed or put together by hand."""
    rank(place.cache, **NARROW)
    [path] = (place.cache / "scores").glob("*.jsonl")
    cache = ResultCache(place.cache)
    assert cache.read(path.stem)
    path.rename(path.with_stem("0" * 32))
    with pytest.warns(TransferMetricsWarning, match="its key does not match"):
        assert not cache.read("0" * 32)
