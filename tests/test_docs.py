"""What the documents say exists: links, files, commands, options, Python, figures."""

from __future__ import annotations

import argparse
import doctest
import functools
import importlib.util
import inspect
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests import metric_pages
from tests.benchmarks import extraction, scaling, selection, speed
from transfer_metrics.__main__ import build_parser
from transfer_metrics.features.pooling import POOLINGS
from transfer_metrics.heads.base import HEADS
from transfer_metrics.metrics.base import METRICS
from transfer_metrics.ranking.engines import ENGINES
from transfer_metrics.sources.models.load_model import HUBS
from transfer_metrics.sources.tasks.load_task import TASK_SOURCES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "data").glob("*.md"), *(ROOT / "docs").rglob("*.md")],
    key=lambda page: (len(page.parts), page),
)
FOLDERS = tuple(sorted(f"{p.name}/" for p in ROOT.iterdir() if p.is_dir()))
PARSER = build_parser()
# What a command in a document begins with, and the parser of the rest.
PARSERS = {
    "transfer-metrics": PARSER,
    "python -m transfer_metrics": PARSER,
    **{one.parser().prog: one.parser() for one in (extraction, scaling, selection, speed)},
}
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


@functools.cache
def tokens(page: Path) -> list[Token]:
    """All tokens of a page, those inside paragraphs and cells too."""
    found: list[Token] = []
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8")):
        found += [token, *(token.children or ())]
    return found


def links(page: Path) -> list[str]:
    """Where links and pictures lead."""
    hrefs = [t.attrGet("href") or t.attrGet("src") for t in tokens(page)]
    return [str(h) for h in hrefs if h]


@functools.cache
def anchors(page: Path) -> list[str]:
    """Names of a page's headings, as GitHub makes them."""
    found: list[str] = []
    parsed = MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8"))
    for opening, inline in itertools.pairwise(parsed):
        if opening.type == "heading_open":
            text = "".join(t.content for t in inline.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            again = sum(f == slug or re.fullmatch(rf"{slug}-\d+", f) is not None for f in found)
            found.append(f"{slug}-{again}" if again else slug)
    return found


def shell_lines(page: Path) -> Iterator[str]:
    """Commands of code blocks, one by one, with continued lines joined."""
    for token in tokens(page):
        if token.type == "code_block" or (token.type == "fence" and token.info in ("", "bash")):
            for line in token.content.replace("\\\n", " ").splitlines():
                yield from (part.strip() for part in line.split("&&"))


def programs(page: Path) -> Iterator[tuple[argparse.ArgumentParser, list[str]]]:
    """Parser and arguments of every call of the command line in a code block."""
    for line in shell_lines(page):
        for start, parser in PARSERS.items():
            if f"{line} ".startswith(f"{start} "):
                yield parser, shlex.split(line.removeprefix(start), comments=True)


def python_blocks(page: Path) -> list[str]:
    return [t.content for t in tokens(page) if t.type == "fence" and t.info == "python"]


@every_page
def test_links_lead_somewhere(page):
    for link in links(page):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("http", "https"), link
            assert "." in parts.netloc, link
            continue
        target = page.parent / unquote(parts.path) if parts.path else page
        assert target.exists(), link
        if parts.fragment:
            assert unquote(parts.fragment) in anchors(target), link


@every_page
def test_files_and_modules_that_are_named_exist(page):
    for token in tokens(page):
        if token.type == "code_inline":
            for name in token.content.split():
                if name.startswith(FOLDERS) and re.fullmatch(r"[\w./*-]+", name):
                    assert list(ROOT.glob(name)), name
        if token.type in ("code_inline", "code_block", "fence"):
            for module in re.findall(
                r"python -m ((?:tests|transfer_metrics)[\w.]*)", token.content
            ):
                assert importlib.util.find_spec(module), module


@every_page
def test_commands_are_accepted(page):
    for parser, arguments in programs(page):
        if not {"--help", "--config"} & set(arguments):
            parser.parse_args(arguments)


@every_page
def test_options_exist(page):
    """Of commands in blocks and in running text, which may leave out what a call would need."""
    said = [*programs(page)]
    for token in tokens(page):
        if token.type == "code_inline":
            start = next((s for s in PARSERS if token.content.startswith(f"{s} ")), "")
            words = token.content.removeprefix(start).split()
            said.append((PARSERS.get(start, PARSER), words))
    for parser, words in said:
        while words and words[0] in (verbs := verbs_of(parser)):
            parser, words = verbs[words[0]], words[1:]
        if parser.prog != "transfer-metrics":
            for word in words:
                if re.match(r"--\w", word):
                    assert word.partition("=")[0] in parser._option_string_actions, words


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}


@every_page
def test_python_compiles(page):
    for block in python_blocks(page):
        if ">>>" not in block:
            compile(block, page.name, "exec")


@pytest.mark.parametrize(
    "page",
    [
        page
        for page in PAGES
        if ">>>" in page.read_text("utf-8") and any(">>>" in b for b in python_blocks(page))
    ],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_python_does_what_the_page_says(page, monkeypatch):
    for registry in (METRICS, HUBS, TASK_SOURCES, POOLINGS, HEADS, ENGINES):
        monkeypatch.setattr(registry, "_targets", dict(registry._targets))
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for block in python_blocks(page):
        test = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), 0)
        told: list[str] = []
        runner.run(test, out=told.append, clear_globs=False)
        assert not told, "".join(told)
        names.update(test.globs)


@every_page
def test_headings_are_in_order(page):
    levels = [int(t.tag[1]) for t in tokens(page) if t.type == "heading_open"]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(deeper <= level + 1 for level, deeper in itertools.pairwise(levels))


def test_every_page_can_be_found():
    for index, listed in (
        (ROOT / "docs" / "README.md", (ROOT / "docs").glob("*.md")),
        (ROOT / "docs" / "metrics.md", (ROOT / "docs" / "metrics").glob("*.md")),
    ):
        reached = {(index.parent / urlsplit(link).path).resolve() for link in links(index)}
        assert {page.resolve() for page in listed} - {index.resolve()} <= reached


def test_metric_pages_are_up_to_date(request):
    if request.config.getoption("--write-docs"):
        metric_pages.write()
    made = metric_pages.pages()
    assert made == {
        page.name: page.read_text("utf-8") for page in (ROOT / "docs" / "metrics").glob("*.md")
    }, "run python -m tests.metric_pages"


@pytest.mark.parametrize("name", METRICS)
def test_metrics_are_described(name):
    """With a formula, its cost and where it fails; every option that there is, and no other."""
    text = inspect.getdoc(METRICS[name].fn)
    summary, body, sections, example = metric_pages.read_docstring(text)
    assert re.search(r"`[^`]*[=(/Σ‖][^`]*`|\n    ", summary + body)
    assert {"Args", "Returns", "Failure modes", "Source", "Cost"} <= set(sections)
    assert ">>> " in example
    given = {
        p.name
        for p in inspect.signature(METRICS[name].fn).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    listed = [*metric_pages.options(METRICS[name], sections["Args"])]
    assert {re.match(r"- `(\w+)=", line)[1] for line in listed} == given


def test_the_guide_quotes_what_was_measured():
    """Every table of metrics in the guide repeats cells of the pages that it rests on."""
    measured = metric_pages.measured()
    for title, rows in metric_pages.tables("speed.md").items():
        measured |= {
            (r["metric"], f"seconds at {title}"): r["seconds"] for r in rows if "seconds" in r
        }
    parsed = (ROOT / "docs" / "which-metric.md").read_text("utf-8")
    quoted = 0
    for table in re.findall(r"(?:^\|.*\n)+", parsed, re.MULTILINE):
        header, _, *rows = ([c.strip() for c in r.split("|")[1:-1]] for r in table.splitlines())
        for row in rows if header[0] == "metric" else ():
            for column, cell in zip(header[1:], row[1:], strict=True):
                assert measured.get((row[0].strip("`"), column), "–") == cell, (row[0], column)
                quoted += 1
    assert quoted > 100
    said = " ".join(measured.values()) + (ROOT / "docs" / "evidence.md").read_text("utf-8")
    for number in re.findall(r"(?<![\w.])-?\d+\.\d+", re.sub(r"`[^`]*`", "", parsed)):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", said), number


def test_the_readme_quotes_what_was_measured():
    measured = metric_pages.measured()
    said = (ROOT / "README.md").read_text("utf-8").split("## Which score to trust")[1]
    rows = re.findall(
        r"^\| `([^`]+)`[^|]*\| (\S+) \((.+?)\) \| (.+?) \| (.+?) \| (.+?) \|$", said, re.M
    )
    assert len(rows) == 5
    columns = ("weighted tau", "95 % interval", "best block", "100", "points lost")
    for metric, *cells in rows:
        for column, cell in zip(columns, cells, strict=True):
            assert measured.get((metric, column), "–") == cell, (metric, column)
