"""Peak memory of scoring a store does not grow with the number of examples."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

import transfer_metrics as tm
from transfer_metrics import memory
from transfer_metrics.features.shards import LABELS, StoreFolder
from transfer_metrics.ranking import scoring
from transfer_metrics.statistics import ClassMoments, ClassRows

pytestmark = pytest.mark.integration

PEAK = """
import sys, warnings
from pathlib import Path
import transfer_metrics as tm
warnings.simplefilter("ignore")
path, copies, dim, classes, metrics = Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5]
rows = 1024
manifest = {
    "model": "m", "task": "t", "split": "train", "kind": "classification", "pool": "avg",
    "classes": [str(c) for c in range(classes)], "n": rows * copies, "shard_size": rows,
    "logits": False, "shards": {"0": {"seconds": 0.0}},
    "layers": [{"name": "layer", "index": 0, "depth": 1.0, "kind": "Linear", "layout": "ND",
                "shape": [dim], "dim": dim, "bytes": 0, "params": 0}],
}
# One file many times over: as many examples as one likes on a small disk.
store = tm.FeatureStore(manifest, [path] * copies)
table = tm.score_layers(store, metrics=metrics)
assert not table.failures, table.failures
# Not ru_maxrss, which begins with the size of the process that started this one.
print(1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]))
"""


def shard(folder, dim, classes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1024, dim)).astype(np.float32)
    y = rng.permutation(np.arange(1024) % classes)
    StoreFolder(folder).add(0, {"layer": x, LABELS: y})
    return StoreFolder(folder).shard(0)


def peak(path, copies, dim, classes, metrics):
    """Bytes that a fresh process needed to score that many copies of a shard."""
    argv = [sys.executable, "-c", PEAK, path, copies, dim, classes, metrics]
    found = subprocess.run(
        [str(a) for a in argv], capture_output=True, text=True, check=True, timeout=900
    )
    return int(found.stdout)


def test_class_by_class_is_the_same_score(monkeypatch, tmp_path):
    x = np.random.default_rng(1).standard_normal((300, 20)).astype(np.float32)
    y = np.arange(300) % 7
    from tests.test_laws import store_of

    store = store_of(x, y, 4, classes=7)
    plain = tm.score_layers(store, metrics=["transrate", "gbc"])
    monkeypatch.setattr(scoring, "_CLASS_BYTES", 0)
    built = []
    init = ClassRows.__init__
    monkeypatch.setattr(
        ClassRows, "__init__", lambda self, *a: (built.append(1), init(self, *a))[1]
    )
    lazy = tm.score_layers(store, metrics=["transrate", "gbc"])
    assert built
    for a, b in zip(plain.records, lazy.records, strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-9)


def test_rows_are_read_in_the_order_asked_for(tmp_path):
    path = shard(tmp_path, 5, 3)
    from tests.test_laws import store_of

    whole = store_of(np.zeros((2048, 5), np.float32), np.zeros(2048, int), 2)
    store = tm.FeatureStore({**whole.manifest, "shard_size": 1024}, [path, path])
    positions = np.array([2000, 3, 1024, 3, 0])
    x = np.concatenate([store["layer"]])
    assert (store.rows("layer", positions) == x[positions]).all()


def test_class_rows_equal_the_moments_own():
    x = np.random.default_rng(2).standard_normal((50, 4))
    y = np.repeat([0, 2, 3], [30, 19, 1])
    moments = ClassMoments.from_batch(x, y, 4)
    rows = ClassRows(lambda index: x[index], y, moments.means)
    for c in range(4):
        np.testing.assert_allclose(rows[c].matrix(), moments.scatter_of(c).matrix(), atol=1e-12)


@pytest.mark.parametrize(
    ("files", "total", "free"),
    [
        (
            {"max": "8000000", "current": "5000000", "stat": "anon 1\ninactive_file 3000000\n"},
            8000000, 6000000,
        ),
        (
            {"memory/limit_in_bytes": "9000000", "memory/usage_in_bytes": "4000000",
             "memory/stat": "inactive_file 7\ntotal_inactive_file 1000000\n"},
            9000000, 6000000,
        ),
        ({"max": "max", "current": "5000000", "stat": "inactive_file 3000000\n"}, None, None),
        ({}, None, None),
    ],
)  # fmt: skip
def test_memory_is_what_a_container_grants(files, total, free, tmp_path, monkeypatch):
    for name, text in files.items():
        folder, _, stem = name.rpartition("/")
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"memory.{stem}").write_text(text)
    places = [
        (folder.replace("/sys/fs/cgroup", str(tmp_path)), *names)
        for folder, *names in memory._CONTAINERS
    ]
    monkeypatch.setattr(memory, "_CONTAINERS", places)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.total_memory() == (total or machine)
    if free is None:
        assert machine / 50 < memory.free_memory() <= machine
    else:
        assert memory.free_memory() == free


def test_peak_memory_does_not_grow_with_the_examples(tmp_path):
    path = shard(tmp_path, 128, 50)
    few, many = (peak(path, copies, 128, 50, "transrate,logme,h_score,gbc") for copies in (40, 160))
    assert many < 1.1 * few, (few, many)


@pytest.mark.slow
def test_a_thousand_classes_of_two_thousand_features_stay_under_two_gigabytes(tmp_path):
    path = shard(tmp_path, 2048, 1000)
    peaks = [peak(path, copies, 2048, 1000, "transrate,gbc") for copies in (70, 105)]
    assert max(peaks) < 2 << 30, peaks
    assert peaks[1] < 1.1 * peaks[0], peaks


FAULTS = """
import resource, sys
from contextlib import nullcontext
import torch
from transfer_metrics.memory import kept_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

with kept_memory if sys.argv[1] == "kept" else nullcontext():
    torch.ones(1 << 24).add_(1)
    before = faults()
    for _ in range(20):
        torch.ones(1 << 24).add_(1)  # 64 MiB
    print(faults() - before)
print(resident() >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc only")
def test_memory_of_a_pass_is_had_again_and_given_back_at_the_end():
    found = {}
    for kind in ("kept", "usual"):
        argv = [sys.executable, "-c", FAULTS, kind]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        found[kind] = tuple(map(int, done.stdout.split()))
    # Else each of twenty tensors of 16 384 pages meets its pages anew.
    assert found["kept"][0] < found["usual"][0] / 4
    assert found["kept"][1] < found["usual"][1] + 32


def test_what_lasts_is_not_searched_for_garbage():
    assert gc.isenabled()
    before = gc.get_freeze_count()
    try:
        with memory.lasting():
            assert not gc.isenabled()
            held = [[] for _ in range(10)]
        assert gc.isenabled()
        assert gc.get_freeze_count() >= before + len(held)
        with pytest.raises(ZeroDivisionError), memory.lasting():
            1 // 0  # noqa: B018
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def test_a_command_ends_without_a_look_at_all_it_imported():
    code = (
        "import gc, sys; from transfer_metrics.__main__ import main\n"
        "sys.argv = ['transfer-metrics', 'list', 'poolings']; before = gc.get_freeze_count()\n"
        "assert main(sys.argv[1:]) == 0 and gc.get_freeze_count() == before\n"
        "assert main() == 0 and gc.get_freeze_count() > before + 1000"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
