"""Whatever is required is pinned, to a version within its range."""

from __future__ import annotations

import configparser
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]


def required() -> dict[str, Requirement]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    found = [Requirement(line) for text in lists for line in text.split("\n") if line.strip()]
    return {canonicalize_name(one.name): one for one in found}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(len(one.specifier) == 1 and str(one.specifier).startswith("==") for one in found)
    return {canonicalize_name(one.name): str(one.specifier)[2:] for one in found}


def test_every_requirement_is_pinned_within_its_range() -> None:
    pins = pinned()
    assert sorted(required().keys() - pins.keys()) == []
    for name, requirement in required().items():
        assert requirement.specifier.contains(pins[name]), name


def test_nothing_is_pinned_that_is_not_required() -> None:
    assert sorted(pinned().keys() - required().keys()) == []


def test_torch_is_one_whose_safe_loading_is_safe() -> None:
    """CVE-2025-32434: up to 2.5.1 ``torch.load(weights_only=True)`` could run code."""
    assert not required()["torch"].specifier.contains("2.5.1")
    assert Version(version("torch")) >= Version("2.6")
