"""Checkpoints that tests write when they are asked for, and pages that they write line by line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.model_families import Case, NotHere


def once(root: Path, save: Callable[[str, Path], Path]) -> Callable[[str], Path]:
    """The folder of a name below a root, written when it is first asked for."""

    def folder(name: str) -> Path:
        path = root / name
        return path if path.exists() else save(name, path)

    return folder


def kept_line(path: Path, start: str) -> str:
    """The line of a page that begins so."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [line for line in lines if line.startswith(start)]
    assert len(found) == 1, f"{start} is not in {path.name} once"
    return found[0]


def check_page(
    path: Path,
    page: Callable[[Callable[[Case], str]], str],
    row: Callable[[Case], str],
    kept: Callable[[Case], str],
    config: Any,
) -> None:
    """A page is what its lines make; with ``--write-docs`` it is written first."""

    def tried(case: Case) -> str:
        try:
            return row(case)
        except NotHere:
            return kept(case)

    if config.getoption("--write-docs"):
        path.write_text(page(tried))
    assert path.read_text() == page(kept), f"{path.name} is older than its tests: --write-docs"
