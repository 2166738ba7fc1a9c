"""Fixtures and options shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")

# A torchvision wheel linked to CUDA cannot register its operators beside a CPU build of torch, and
# then fails to import. Declaring the two schemas is enough for everything except NMS itself.
if not torch.cuda.is_available():
    _torchvision_schemas = torch.library.Library("torchvision", "FRAGMENT")
    for _schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        _torchvision_schemas.define(_schema)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference folder beside a development checkout."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not (path / "zoo").is_dir():
        pytest.skip("the reference models and data sets are not beside this checkout")
    return path


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("TRANSFER_METRICS_CACHE", str(tmp_path_factory.mktemp("cache")))
