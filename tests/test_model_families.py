"""Every family of models is loaded, listed, extracted and ranked in the same way."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.model_families import CASES, Case, NotHere, row
from tests.model_page import page
from tests.written import check_page, kept_line

pytest.importorskip("timm")
pytest.importorskip("transformers")

# Of torch, for what WavLM's network does, and of tiny spectrograms.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
    pytest.mark.filterwarnings("ignore:At least one mel filter"),
]
PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def kept(case: Case) -> str:
    """The line of a case that the page has already."""
    return kept_line(PAGE, f"| {case.hub} | `{case.name}` |")


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.key, marks=[pytest.mark.slow] if c.slow else []) for c in CASES],
)
def test_family(case: Case, request: pytest.FixtureRequest) -> None:
    try:
        found = row(case)
    except NotHere as reason:
        pytest.skip(str(reason))
    if not request.config.getoption("--write-docs"):
        assert found == kept(case)


def test_the_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    check_page(PAGE, page, row, kept, request.config)


def test_there_are_enough_families() -> None:
    assert len({case.kind for case in CASES}) >= 12
    assert all(count >= 8 for count in Counter(case.hub for case in CASES).values())
