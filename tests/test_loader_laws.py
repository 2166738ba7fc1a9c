"""The same table is the same task, whichever file it is read from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import transfer_metrics as tm
from tests.loader_laws import HOLDS, LOADERS, TABLES, Page, Table, of_classes, of_targets, verdict

pytest.importorskip("datasets")
PAGE = Path(__file__).parents[1] / "docs" / "laws-loaders.md"
FOUND = Page()


@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_reads_the_table_as_what_it_is(loader: str) -> None:
    for name, table in TABLES.items():
        FOUND.verdicts[loader, name] = verdict(loader, table)
        assert FOUND.verdicts[loader, name].startswith((HOLDS, "refused: ")), name


def test_the_page_is_up_to_date(request: pytest.FixtureRequest) -> None:
    if len(FOUND.verdicts) < len(LOADERS) * len(TABLES):
        FOUND.verdicts.update({(a, b): verdict(a, t) for a in LOADERS for b, t in TABLES.items()})
    if request.config.getoption("--write-docs"):
        PAGE.write_text(FOUND.text())
    assert PAGE.read_text() == FOUND.text(), "run pytest tests/test_loader_laws.py --write-docs"


def test_what_is_refused() -> None:
    """Archives of files are no tables of numbers or of pairs; nothing else may refuse."""
    lines = [line for line in PAGE.read_text().splitlines() if "| refused" in line]
    assert [line.split(" | ")[0] for line in lines] == ["| tar"]


def test_fingerprints_agree(tmp_path: Path) -> None:
    table = TABLES["whole numbers"]
    prints = set()
    for number, (loader, load) in enumerate(LOADERS.items()):
        # A tar holds no numbers, cut rows and items of a Dataset are hashed one by one.
        if not any(word in loader for word in ("tar", "shuffled", "Dataset")):
            folder = tmp_path / str(number)
            folder.mkdir()
            prints.add(load(folder, table)["train"].fingerprint)
    x = np.array(list(table.inputs.values()), np.float32).T
    assert prints == {tm.load_task(x, table.labels)["train"].fingerprint}


NAMES = st.sampled_from(["a", "b c", "höhe", "x;1", "N°", "p,q", '"z"'])
TEXTS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co", "Zl", "Zp"]), max_size=12
).map(lambda t: f"t {t}.")


@st.composite
def tables(draw: st.DrawFn) -> Table:
    count = draw(st.integers(12, 30))
    some = {"min_size": count, "max_size": count}
    if draw(st.booleans()):
        inputs = {"text": draw(st.lists(TEXTS, **some))}
    else:
        column = st.one_of(
            st.lists(st.floats(-1e6, 1e6, width=32), **some),
            st.lists(st.integers(-1000, 1000), **some),
        )
        names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
        inputs = {name: draw(column) for name in names}
    label = draw(
        st.sampled_from(
            [
                st.sampled_from(["pos", "neg", "none of it"]),
                st.sampled_from(["007", "7", "1_0", "1e1", "+1"]),
                st.integers(-3, 3),
                st.integers(-3, 3).map(float),
                st.booleans(),
                TEXTS,
            ]
        )
    )
    labels = draw(st.lists(label, **some))
    if draw(st.booleans()):
        labels = draw(st.lists(st.floats(-9, 9).map(lambda v: v + 0.123), **some))
        return of_targets(inputs, labels)
    return of_classes(inputs, labels)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_any_table_through_every_loader(table: Table) -> None:
    if len(set(table.labels)) < 2:
        return
    for loader in LOADERS:
        found = verdict(loader, table)
        assert found == HOLDS or loader == "tar", f"{loader}: {found}"
