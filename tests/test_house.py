"""The rules of the house, read from syntax trees: who imports whom, and what names are for."""

from __future__ import annotations

import collections
import configparser
import re
from pathlib import Path

import pytest

import transfer_metrics as tm
from tests.house_measures import ROOMS, ROOT, House, returns
from transfer_metrics.features.pooling import POOLINGS
from transfer_metrics.heads.base import HEADS
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.ranking.engines import ENGINES
from transfer_metrics.sources.models.load_model import HUBS
from transfer_metrics.sources.tasks.load_task import TASK_SOURCES

BY_NAME = {
    "add_parser",
    "FourthMoments",
    "BasicBlock",
    "InvertedResidual",
    "Mlp",
    "TransformerBlock",
    "MixerBlock",
}
"""What is looked up in modules whose names are put together; names in files and fingerprints."""


def unknown_rooms(house: House) -> list[str]:
    """Folders that are no rooms, and rooms that are no folders."""
    folders = {p.parent.name for p in (house.root / house.package).glob("*/__init__.py")}
    return sorted(folders ^ set(ROOMS))


def backward_imports(house: House) -> list[str]:
    """Imports from the right, also those for types and those inside functions.

    The package itself is left out: it lists what is public of all rooms.
    """
    return [
        f"{module.name}:{line} imports {target}"
        for module in house.modules.values()
        for line, target in house.targets(module)
        if house.place(target) > house.place(module.name) and module.name != house.package
    ]


def names_given_twice(house: House) -> list[str]:
    """File names that occur twice."""
    stems = collections.Counter(m.path.stem for m in house.modules.values())
    return sorted(s for s, n in stems.items() if n > 1 and s not in ("__init__", "base"))


def imports_of_tests(house: House) -> list[str]:
    """Files of the package that need its tests."""
    return [
        f"{module.name}:{line}"
        for module in house.modules.values()
        for line, base, name in module.imports
        if f"{base}.{name}".split(".")[0] == "tests"
    ]


def registered() -> set[str]:
    """Names that registries lead to."""
    found = set()
    for registry in (METRICS, HUBS, TASK_SOURCES, POOLINGS, HEADS, ENGINES):
        for name, target in registry._targets.items():
            if isinstance(target, str):
                found.add(target.partition(":")[2].partition(".")[0])
            else:
                found |= {name, getattr(target, "__name__", name)}
    return found


@pytest.fixture(scope="module")
def house() -> House:
    return House()


@pytest.mark.parametrize(
    "broken", [unknown_rooms, backward_imports, names_given_twice, imports_of_tests]
)
def test_the_house_is_in_order(house, broken):
    found = broken(house)
    assert not found, "\n".join(found)


def test_nothing_imports_itself_in_the_end(house):
    assert not house.circles, "\n".join(", ".join(circle) for circle in house.circles)


def test_public_names_are_used_elsewhere(house):
    found = house.unused({*tm.__all__, *registered(), *BY_NAME})
    assert not found, "\n".join(found)


def test_all_folders_are_installed():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    packages = set(config["options"]["packages"].split()) - {"transfer_metrics.data"}
    files = (ROOT / "transfer_metrics").rglob("__init__.py")
    assert packages == {".".join(p.parent.relative_to(ROOT).parts) for p in files}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_documents_list_the_rooms(page):
    text = " ".join((ROOT / page).read_text("utf-8").split())
    [listed] = re.findall(r"`(\w+(?:(?: -> |→)\w+){5,})`", text)
    assert tuple(re.split(" -> |→", listed)) == ROOMS


# --- the rules can fail ---------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path):
    """A house of the given files, beside a test and a page."""

    def build(files: dict[str, str]) -> House:
        rooms = {f"transfer_metrics/{room}/__init__.py": "" for room in ROOMS}
        for name, text in {"transfer_metrics/__init__.py": "", **rooms, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return House(tmp_path)

    return build


IMPORTS = [
    "from transfer_metrics.heads.probe import fit",
    "import transfer_metrics.heads.probe",
    "from transfer_metrics.heads import probe",
    "from ..heads.probe import fit",
    "from ..heads import probe",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..heads.probe import fit",
    "def late():\n    from transfer_metrics.heads.probe import fit",
]


@pytest.mark.parametrize("text", IMPORTS)
def test_an_import_from_the_right_is_seen(small, text):
    files = {"transfer_metrics/metrics/knn.py": text, "transfer_metrics/heads/probe.py": "fit = 1"}
    [found] = backward_imports(small(files))
    assert found.endswith("imports transfer_metrics.heads.probe")
    assert found.startswith("transfer_metrics.metrics.knn:")


def test_imports_from_the_left_are_none_of_these(small):
    right = "from transfer_metrics.metrics.knn import k\nimport transfer_metrics.errors, numpy"
    files = {
        "transfer_metrics/metrics/knn.py": "k = 1",
        "transfer_metrics/heads/probe.py": right,
        "transfer_metrics/errors.py": "",
        "transfer_metrics/__init__.py": "from transfer_metrics.metrics import NAMES",
        "transfer_metrics/__main__.py": "from transfer_metrics.heads import probe",
    }
    found = small(files)
    assert not backward_imports(found)
    assert not found.circles
    (found.root / "transfer_metrics/errors.py").write_text("from transfer_metrics import metrics")
    assert len(backward_imports(House(found.root))) == 1


@pytest.mark.parametrize("text", IMPORTS)
def test_a_circle_is_seen(small, text):
    files = {
        "transfer_metrics/heads/linear.py": text,
        "transfer_metrics/heads/probe.py": "from transfer_metrics.heads.third import a\nfit = 1",
        "transfer_metrics/heads/third.py": "def a():\n    from .linear import b",
        "transfer_metrics/heads/fourth.py": "from transfer_metrics.heads.third import a",
    }
    names = [f"transfer_metrics.heads.{name}" for name in ("linear", "probe", "third")]
    assert small(files).circles == [names]


def test_what_is_there_twice_or_missing_is_seen(small):
    files = {
        "transfer_metrics/heads/memory.py": "",
        "transfer_metrics/features/memory.py": "import tests.benchmarks.speed",
        "transfer_metrics/features/base.py": "from tests import written",
        "transfer_metrics/heads/base.py": "import tested",
        "transfer_metrics/attic/__init__.py": "",
    }
    found = small(files)
    assert names_given_twice(found) == ["memory"]
    assert imports_of_tests(found) == [
        "transfer_metrics.features.base:1",
        "transfer_metrics.features.memory:1",
    ]
    assert unknown_rooms(found) == ["attic"]


def test_a_name_that_nobody_else_uses_is_seen(small):
    files = {
        "transfer_metrics/metrics/knn.py": (
            "A = B = 1\nC: int = A + B\n_D = C\ndef one(): pass\ndef two(): one()\n"
            "class Three: pass\ndef four(): pass\ndef five(): pass\ndef six(): pass\n"
        ),
        "transfer_metrics/heads/probe.py": "from ..metrics.knn import Three\nsix = 6",
        "tests/test_knn.py": (
            "from transfer_metrics.metrics import knn as module\nmodule.four()\n"
            "monkeypatch.setattr(module, 'B', 2)\nx.two()\n"
        ),
        "data/make.py": "target = 'transfer_metrics.metrics.knn:C'",
        "docs/page.md": "Call `five()`, or two, or one.",
    }
    unused = [f"transfer_metrics.metrics.knn:{name}" for name in ("A", "one", "two", "six")]
    six = "transfer_metrics.heads.probe:six"
    assert small(files).unused() == [six, *unused]
    assert small(files).unused({"A", "two"}) == [six, *(unused[i] for i in (1, 3))]


def test_returns_are_counted():
    assert [returns(w) for w in ("", "ab", "aba", "abcab", "abacb")] == [0, 0, 1, 2, 2]
