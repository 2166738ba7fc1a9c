"""Fixtures and options shared by all tests."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from transfer_metrics.errors import MissingDependencyError
from transfer_metrics.sources.optional import require

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Threads of processes that share the cores wait for each other most of the time.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

CACHE = pytest.StashKey[str]()
_NUMBERS = itertools.count()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--integration", action="store_true", help="run integration tests too")
    parser.addoption("--slow", action="store_true", help="run the slow tests and those as well")
    parser.addoption("--write-docs", action="store_true", help="write the pages that tests check")


def pytest_configure(config: pytest.Config) -> None:
    """Doctests, which have no fixtures, leave the user's cache alone as well."""
    config.stash[CACHE] = tempfile.mkdtemp(prefix="transfer-metrics-tests-")
    os.environ["TRANSFER_METRICS_CACHE"] = config.stash[CACHE]


def pytest_collection() -> None:
    """Not in the process that only hands tests out to workers, which has no use for torch."""
    # Modules and tests are kept to the end: there is no garbage to look for among them.
    gc.disable()
    # A wheel built for CUDA does not import beside a CPU build of torch until it is mended.
    with contextlib.suppress(MissingDependencyError):
        require("torchvision", "the tests")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure(config: pytest.Config) -> None:
    shutil.rmtree(config.stash[CACHE], ignore_errors=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = config.getoption("--slow")
    asked = {"slow": slow, "integration": slow or config.getoption("--integration")}
    left_out = {mark for mark, is_asked in asked.items() if not is_asked}
    config.hook.pytest_deselected(items=[i for i in items if not left_out.isdisjoint(i.keywords)])
    items[:] = [i for i in items if left_out.isdisjoint(i.keywords)]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference folder beside a development checkout."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not (path / "zoo").is_dir():
        pytest.skip("the reference models and data sets are not beside this checkout")
    return path


@pytest.fixture(autouse=True)
def _private_cache(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch):
    """No test reads or writes the user's cache, nor that of another test."""
    place = Path(pytestconfig.stash[CACHE], str(next(_NUMBERS)))
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(place))
