"""Batches, order, processes, precision, wrapping and saving change nothing about any model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.law_page import page
from tests.law_rows import CASES, HOLDS, QUICK, cells, group, row, start, with_workers
from tests.model_families import Case, NotHere
from tests.written import check_page, kept_line

pytest.importorskip("timm")
pytest.importorskip("transformers")

# Of torch, for what WavLM's network does, and of tiny spectrograms.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:At least one mel filter"),
]
PAGE = Path(__file__).parents[1] / "docs" / "laws-models.md"


def kept(case: Case) -> str:
    """The line of a case that the page has already."""
    return kept_line(PAGE, start(case))


def kept_cells(case: Case) -> list[str]:
    """The cells of that line."""
    return kept(case).removeprefix(start(case)).removesuffix("|").strip().split(" | ")


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.key, marks=[] if c.key in QUICK else [pytest.mark.slow]) for c in CASES],
)
def test_laws(case: Case, request: pytest.FixtureRequest) -> None:
    try:
        found = cells(case)
    except NotHere as reason:
        pytest.skip(str(reason))
    if not request.config.getoption("--write-docs"):
        assert list(found.values()) == kept_cells(case)[:-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases", [pytest.param(g, id=g[0].key) for g in dict.fromkeys(map(group, CASES))]
)
def test_two_workers(cases: tuple[Case, ...], request: pytest.FixtureRequest) -> None:
    try:
        found = with_workers(cases)
    except NotHere as reason:
        pytest.skip(str(reason))
    if not request.config.getoption("--write-docs"):
        assert list(found.values()) == [kept_cells(case)[-1] for case in cases]


def test_the_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    check_page(PAGE, page, row, kept, request.config)


def test_every_cell_holds_or_is_refused() -> None:
    told = {cell for case in CASES for cell in kept_cells(case)}
    assert all(cell == HOLDS or cell.startswith("refused: ") for cell in told)
    assert sum(cell != HOLDS for case in CASES for cell in kept_cells(case)) < len(CASES)
