"""Packages of one's own add metrics, sources, poolings, heads and engines by entry points."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import transfer_metrics as tm
from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.features.pooling import POOLINGS
from transfer_metrics.heads.base import HEADS
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.ranking.engines import ENGINES
from transfer_metrics.sources.models.load_model import HUBS
from transfer_metrics.sources.models.settings import code_of, is_own
from transfer_metrics.sources.tasks.load_task import TASK_SOURCES

REGISTRIES = {
    "metrics": METRICS,
    "hubs": HUBS,
    "tasks": TASK_SOURCES,
    "poolings": POOLINGS,
    "heads": HEADS,
    "engines": ENGINES,
}
MODULE = '''
import sys
from sklearn.datasets import make_blobs
from torch import nn
import transfer_metrics as tm
from transfer_metrics.ranking.engines import serial
from transfer_metrics.features.pooling import avg
from transfer_metrics.heads.linear import LinearProbe

@tm.register_metric("of_mine")
def of_mine(statistic, *, power=1.0):
    return statistic.within.trace() ** power

def model(spec):
    network = nn.Sequential(nn.Linear(4, int(spec.name)), nn.ReLU(), nn.Linear(int(spec.name), 3))
    return tm.Model(spec.text, network, None, "tensor", "2", (4,))

def task(place, name, *, centers="3"):
    X, y = make_blobs(int(place), 4, centers=int(centers), random_state=0)
    return tm.load_task(X.astype("float32"), y, name=name)

def pool(output, layout, mask):
    return 2 * avg(output, layout, mask)

class Head(LinearProbe):
    """Mine."""

    name = "of_mine"

def engine(*args, **kwargs):
    print("the engine of mine", file=sys.stderr)
    return serial(*args, **kwargs)
'''
TARGETS = {
    "metrics": "of_mine.metric",
    "hubs": "model",
    "tasks": "task",
    "poolings": "pool",
    "heads": "Head",
    "engines": "engine",
}


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with an installed package that adds one name everywhere."""
    (tmp_path / "package_of_mine.py").write_text(MODULE)
    described = tmp_path / "package_of_mine-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: package-of-mine\nVersion: 1.0\n"
    )
    points = [
        f"[transfer_metrics.{group}]\nof_mine = package_of_mine:{target}\n"
        for group, target in TARGETS.items()
    ]
    (described / "entry_points.txt").write_text("\n".join(points))
    return tmp_path


@pytest.mark.parametrize("group", REGISTRIES)
def test_entry_points_are_found(group, installed, monkeypatch):
    registry = REGISTRIES[group]
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setattr(registry, "_targets", dict(registry._targets))
    # Entry points are read once in the life of a process.
    monkeypatch.setattr(registry, "_group", f"transfer_metrics.{group}")
    monkeypatch.setattr(METRICS, "_targets", dict(METRICS._targets))
    found = registry["of_mine"]
    assert found.__module__ == "package_of_mine" if group != "metrics" else found.name == "of_mine"
    assert "of_mine" in list(registry)


@pytest.mark.integration
def test_the_command_line_takes_the_names(installed):
    words = (
        "-m transfer_metrics rank --models of_mine:8,of_mine:16 --task of_mine:60?centers=4 "
        "--metrics of_mine(power=0.5),logme --pool of_mine --engine of_mine --no-plots --csv"
    )
    done = subprocess.run(
        [sys.executable, *words.split()],
        cwd=installed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "the engine of mine" in done.stderr
    assert len(re.findall(r"^of_mine:8,", done.stdout, re.MULTILINE)) > 1


def test_the_guide_names_every_group():
    text = (Path(__file__).parents[1] / "docs" / "extending.md").read_text("utf-8")
    assert set(re.findall(r"`transfer_metrics\.(\w+)` \|$", text, re.MULTILINE)) == set(REGISTRIES)
    package = Path(__file__).parents[1] / "transfer_metrics"
    used = {
        g
        for f in package.rglob("*.py")
        for g in re.findall(r'group="transfer_metrics\.(\w+)"', f.read_text("utf-8"))
    }
    assert used == set(REGISTRIES)


def test_a_metric_that_writes_into_its_statistic_spoils_no_other() -> None:
    y = np.arange(60) % 3
    x = np.random.default_rng(0).normal(size=(60, 4)) + np.eye(3, 4)[y]

    def writer(statistic):
        statistic.means.mul_(0)
        return 1.0

    def text(statistic):
        return "much"

    def two(statistic):
        return np.ones(2)

    def after(statistic):
        return float(statistic.means.sum())

    with pytest.warns(TransferMetricsWarning, match="failed"):
        table = tm.score(x, y, [text, two, "logme", "knn"])
    found = table.to_frame().set_index("metric")
    assert "returned str 'much'" in found["error"]["text"]
    assert "returned ndarray" in found["error"]["two"]
    assert found["value"]["logme"] == tm.logme(x, y)
    with pytest.warns(TransferMetricsWarning, match="writes into its statistic"):
        table = tm.score(x, y, [writer, after, "logme", "h_score"])
    found = table.to_frame().set_index("metric")
    assert list(found.index) == ["writer", "after", "logme", "h_score"]
    assert "let it work on a copy" in found["error"]["writer"]
    assert found["error"].notna().tolist() == [True, True, False, False]
    assert found["value"]["logme"] == tm.logme(x, y)
    assert found["value"]["h_score"] == pytest.approx(tm.h_score(x, y))

    def teller(statistic):
        raise InvalidInputError("it writes into its statistic, which other metrics read")

    # What counts is what a metric did, not what it says.
    with pytest.warns(TransferMetricsWarning, match="teller failed"):
        table = tm.score(x, y, [teller, after])
    assert table.to_frame().set_index("metric")["error"].notna().to_dict() == {
        "teller": True, "after": False,
    }  # fmt: skip


@pytest.mark.parametrize("change", ["a", "b", "c"])
def test_installed_code_of_ones_own_is_keyed_by_what_it_says(tmp_path, monkeypatch, change):
    """A package may be installed anew, with other code under the same version."""
    package = tmp_path / "site-packages" / "ownpackage"
    package.mkdir(parents=True)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def codes(a: int = 1, b: int = 1, c: int = 1) -> list[str]:
        (package / "__init__.py").write_text("")
        (package / "part.py").write_text(f"def helped(x):\n    return x + {a}\n")
        (package / "whole.py").write_text(
            "from transfer_metrics import LinearProbe\nfrom .part import helped\n"
            f"B = {b}\nclass Base(LinearProbe):\n    def fit(self, X, y=None, **more):\n"
            f"        return super().fit(helped(X) * B + {c}, y, **more)\n"
            f"class Head(Base):\n    pass\ndef metric(statistic):\n    return helped(B) * {c}\n"
        )
        for name in [name for name in sys.modules if name.startswith("ownpackage")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        whole = importlib.import_module("ownpackage.whole")
        assert not is_own(whole.__name__)
        return [code_of(whole.Head), code_of(whole.metric)]

    before = codes()
    assert codes() == before
    assert all(one != other for one, other in zip(codes(**{change: 2}), before, strict=True))
