"""The page of what metrics do with awkward input says what they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.behaviour import REFUSES, SAME, page

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


@pytest.mark.integration
def test_the_page_is_up_to_date(request):
    text = page()
    if request.config.getoption("--write-docs"):
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text)
    assert PAGE.read_text() == text, "run pytest tests/test_behaviour.py --write-docs"


def test_what_must_hold_for_every_metric_does():
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if "|" in line]
    header: list[str] = []
    seen = 0
    for row in ([cell.strip() for cell in row] for row in rows):
        if "run again" in row:
            header = row
        elif header and row[0].startswith("`"):
            cells = dict(zip(header, row, strict=True))
            assert cells["run again"] == SAME, row[0]
            assert cells["rows shuffled"] == SAME, row[0]
            assert cells["labels renamed, with gaps"] == SAME, row[0]
            assert cells["a NaN"] == REFUSES, row[0]
            seen += 1
    assert seen > 20
