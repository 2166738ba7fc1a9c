"""One page per metric, written from its docstring, the tests' table and the evidence.

    python -m tests.metric_pages

writes `docs/metrics/`. Nothing is said there that is not in the code or measured: a page that needs
other words needs another docstring.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.behaviour import MOVES, REFUSES, SAME, WARNS
from tests.kept_truth import kept_scores, kept_truth
from transfer_metrics.evidence.judgement import Scores
from transfer_metrics.metrics.base import METRICS, Metric
from transfer_metrics.ranking.metric_choice import COMBINATIONS, Combination

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = ("Args", "Returns", "Raises", "Warns", "Notes", "Failure modes", "Source", "Cost")
READS = {
    "moments": "class moments: one pass, additive, any number of examples",
    "examples": "the examples, at most 20 000 of them, chosen by a hash of their content",
    "source": "the output of the model's own classifier",
}
OUTCOMES = {
    SAME: "the score stays (to 0.2 %)",
    SAME + WARNS: "it stays, with a warning",
    MOVES: "another finite score",
    MOVES + WARNS: "another one, with a warning that says why",
    REFUSES: "an error that says what is wrong",
}
# Title of a section of docs/evidence.md, its column, and what it is called here.
FIGURES = (
    ("Every metric", "weighted tau", "weighted tau"),
    ("Every metric", "95 % interval", "95 % interval"),
    ("Every metric", "test", "against `knn`"),
    ("Every metric", "regret", "regret"),
    ("Every metric", "best block", "best block"),
    ("Fewer examples", "100", "100 examples"),
    ("Every metric", "probes", "linear probes"),
    ("Width", "with width", "tau with width"),
    ("Layers", "points lost", "points lost by its block"),
    ("Every metric", "seconds", "seconds"),
)
# Columns that other pages quote, and what the page of the evidence calls them.
COLUMNS = {
    "weighted tau": "weighted tau",
    "tau, 95 % interval": "weighted tau",
    "best block": "best block",
    "100 examples": "100",
    "points lost by choosing the block": "points lost",
    "with width": "with width",
}


def pages() -> dict[str, str]:
    """The text of every page by its file name."""
    made = {f"{name}.md": metric_page(METRICS[name]) for name in METRICS}
    made |= {f"{name}.md": combination_page(kinds) for name, kinds in COMBINATIONS.items()}
    return made


def metric_page(metric: Metric) -> str:
    """The page of one metric."""
    summary, body, sections, example = read_docstring(inspect.getdoc(metric.fn) or "")
    relations = [f"`{n}`" if n == metric.name else f"[`{n}`]({n}.md)" for n in family(metric)]
    facts = {
        "reads": READS[metric.requires],
        "tasks": ", ".join(metric.tasks),
        "better": "higher" if metric.higher_is_better else "lower",
        "unchanged by": ", ".join(sorted(metric.invariant)) or "—",
        "family": ", ".join(relations) if len(relations) > 1 else "",
        "published": metric.reference,
    }
    parts = [
        f"# `{metric.name}`",
        summary,
        "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items() if v)]),
        "## Definition",
        body,
        sections["Returns"],
        f"### Notes\n\n{sections['Notes']}" if "Notes" in sections else "",
        "## Options",
        "\n".join(options(metric, sections["Args"])) or "None.",
        "## Cost",
        sentence(sections["Cost"]),
        "## When it fails",
        sentence(sections["Failure modes"]),
        *behaviour(metric.name),
        f"It warns: {raised(sections['Warns'])}" if "Warns" in sections else "",
        f"It refuses: {raised(sections['Raises'])}" if "Raises" in sections else "",
        "## Evidence",
        *evidence(metric.name),
        "## Example",
        f"```python\n>>> from transfer_metrics import {metric.name}\n{example}\n```",
        "## Source",
        sections["Source"],
    ]
    return joined(parts)


def combination_page(kinds: dict[str, Combination]) -> str:
    """The page of a sum of terms over the candidates."""
    first = next(iter(kinds.values()))
    _, _, sections, _ = read_docstring(inspect.getdoc(Combination) or "")
    scale = {
        "z-score": "`z(t)` is the term less its mean, over its standard deviation",
        "min-max": "`z(t)` is the term less its minimum, over its range",
    }[first.scale]
    sums = [
        f"- {kind}: `{first.name} = {formula(c)}`, of "
        + ", ".join(f"[`{t}`]({t}.md)" for t in c.terms)
        for kind, c in kinds.items()
    ]
    parts = [
        f"# `{first.name}`",
        "A sum of terms, each put on one scale over the candidates: it ranks a set of models or "
        "layers and has no value for one of them. Higher is better.",
        "## Definition",
        "\n".join(sums),
        f"Here {scale}, over all candidates; a term that is equal for all counts nothing.",
        "## Cost",
        sentence(sections["Cost"]),
        "## When it fails",
        sections["Failure modes"],
        "## Evidence",
        *evidence(first.name),
        "## Example",
        "```python\n"
        ">>> import transfer_metrics as tm\n"
        f'>>> table = tm.score_layers("zoo:cnn-mnist", "sklearn:digits", metrics="{first.name}",\n'
        "...                          progress=False)\n"
        f'>>> table.ranking("{first.name}")["layer"][0]\n'
        "'blocks.2'\n```",
        "## Source",
        first.reference + ".",
    ]
    return joined(parts)


def joined(parts: list[str]) -> str:
    """The parts that there are, one below the other."""
    mark = "<!-- Written by python -m tests.metric_pages from the docstring and the evidence. -->"
    return "\n\n".join([mark, *filter(None, parts)]) + "\n"


def formula(combination: Combination) -> str:
    """``z(a) + z(b) - z(c)``."""
    signed = "".join(
        f" {'+' if weight > 0 else '-'} z({term})" for term, weight in combination.terms.items()
    )
    return signed.removeprefix(" + ")


def family(metric: Metric) -> list[str]:
    """Metrics of the same module."""
    return [name for name in METRICS if METRICS[name].fn.__module__ == metric.fn.__module__]


def read_docstring(text: str) -> tuple[str, str, dict[str, str], str]:
    """Summary, definition, sections by name, and the doctest of a docstring."""
    text = re.sub(r"``docs/(\S+?)``", r"[\1](../\1)", text).replace("``", "`")
    described, mark, example = text.partition("\n>>> ")
    heading = re.compile(rf"^({'|'.join(SECTIONS)}):(?: |$)", re.MULTILINE)
    starts = [*heading.finditer(described)]
    opening = described[: starts[0].start()] if starts else described
    summary, _, body = opening.partition("\n")
    ends = [m.start() for m in starts[1:]] + [len(described)]
    sections = {
        m[1]: textwrap.dedent(described[m.end() : end].strip("\n")).strip()
        for m, end in zip(starts, ends, strict=True)
    }
    return summary, body.strip(), sections, (mark + example).strip()


def sentence(text: str) -> str:
    """With a capital letter, unless a formula starts it."""
    return text[:1].upper() + text[1:]


def raised(described: str) -> str:
    """What a section says of its one class of errors or warnings, which needs no name here."""
    return " ".join(described.partition(": ")[2].split())


def options(metric: Metric, described: str) -> Iterator[str]:
    """A list item per option, with its default."""
    given = inspect.signature(metric.fn).parameters
    for item in re.split(r"\n(?=\S)", described):
        name, _, text = item.partition(": ")
        if given[name].kind is inspect.Parameter.KEYWORD_ONLY:
            yield f"- `{name}={given[name].default!r}`: {' '.join(text.split())}"


def behaviour(name: str) -> list[str]:
    """What the tests see, grouped by outcome."""
    row = next(
        (
            r
            for t in tables("metrics.md").values()
            for r in t
            if r.get("run again") and name in r.values()
        ),
        None,
    )
    if row is None:
        return []
    cells = {case: cell for case, cell in row.items() if case not in ("metric", "run again")}
    groups = {o: [case for case, cell in cells.items() if cell == o] for o in OUTCOMES}
    lines = ["| outcome | input |", "|---|---|"]
    lines += [f"| {OUTCOMES[o]} | {'; '.join(cases)} |" for o, cases in groups.items() if cases]
    intro = "What [the tests](../metrics.md) see of one data set, changed in one way:"
    return [intro, "\n".join(lines)]


def evidence(name: str) -> list[str]:
    """Its figures, for each choice of options that was judged."""
    found = tables("evidence.md")
    judged = [r["metric"] for r in found["Every metric"] if r["metric"].partition("(")[0] == name]
    if not judged:
        if name in METRICS and "classification" in METRICS[name].tasks:
            return ["None in [which score deserves trust](../evidence.md), which is older."]
        return ["None here: the networks were judged on classification."]
    lines = [
        "| | " + " | ".join(title for *_, title in FIGURES) + " |",
        "|---" * (len(FIGURES) + 1) + "|",
    ]
    for label in judged:
        cells = []
        for section, column, _ in FIGURES:
            row = next((r for r in found[section] if r["metric"] == label), {})
            cells.append(row.get(column, "–"))
        lines.append(f"| `{label}` | " + " | ".join(cells) + " |")
    return [_note(), "\n".join(lines)]


@functools.cache
def _note() -> str:
    """Of what the figures are."""
    truth, scores = kept_truth(), kept_scores()
    models, tasks = ({r[field] for r in truth} for field in ("model", "task"))
    widths, most = Scores(scores).widths.values(), max(r["n"] for r in scores)
    return (
        f"From [which score deserves trust](../evidence.md), where the columns are explained: "
        f"agreement with the accuracy of the head that validation chose, of {len(models)} networks "
        f"of {min(widths):.0f} to {max(widths):.0f} features on {len(tasks)} image tasks of at "
        f"most {most} training images."
    )


def tables(page: str) -> dict[str, list[dict[str, str]]]:
    """The first table of each section of a page, as records."""
    found: dict[str, list[dict[str, str]]] = {}
    for section in (DOCS / page).read_text("utf-8").split("\n## "):
        title, _, text = section.partition("\n")
        lines = itertools.dropwhile(lambda line: line[:1] != "|", text.splitlines())
        rows = [
            [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in itertools.takewhile(lambda line: line[:1] == "|", lines)
        ]
        if rows:
            found[title] = [record(rows[0], row) for row in rows[2:]]
    return found


def record(header: list[str], row: list[str]) -> dict[str, str]:
    """Cells by column, the first where two columns have one name."""
    cells = [*zip(header, row, strict=True)]
    return dict(cells) | dict(reversed(cells))


def quoted(text: str, cells: dict[tuple[str, str], str]) -> str:
    """A page with its tables of metrics filled in anew, the best first where they have a tau."""

    def filled(table: re.Match[str]) -> str:
        header, rule, *rows = table[0].splitlines()
        columns = [cell.strip() for cell in header.split("|")[1:-1]]
        known = any(column in COLUMNS for column in columns)
        if not known or columns[0] != "metric":
            return table[0]
        found = []
        for row in rows:
            first, *old = (cell.strip() for cell in row.split("|")[1:-1])
            name = re.match(r"`([^`]+)`", first)
            if name is None:  # a row of another kind, such as always the last block
                new = [
                    cells["last", COLUMNS[c]] if o else ""
                    for c, o in zip(columns[1:], old, strict=True)
                ]
            else:
                new = [_cell(name[1], column, cells) for column in columns[1:]]
            found.append([first, *new])
        if "tau" in columns[1]:
            found.sort(key=lambda row: _number(row[1]), reverse=True)
        lines = (re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(row)} |") for row in found)
        return "\n".join([header, rule, *lines]) + "\n"

    return re.sub(r"(?:^\|.*\n)+", filled, text, flags=re.MULTILINE)


def _cell(metric: str, column: str, cells: dict[tuple[str, str], str]) -> str:
    if column == "tau, 95 % interval":
        return f"{cells[metric, 'weighted tau']} ({cells[metric, '95 % interval']})"
    return cells.get((metric, COLUMNS.get(column, column)), "–")


def _number(cell: str) -> float:
    found = re.match(r"-?[\d.]+", cell)
    return float(found[0]) if found else -math.inf


def measured() -> dict[tuple[str, str], str]:
    """What the page of the evidence says of each metric, by column; the first where several do."""
    found: dict[tuple[str, str], str] = {}
    for section in tables("evidence.md").values():
        for row in section:
            for column, cell in row.items():
                found.setdefault((row.get("metric", ""), column), cell)
    text = (DOCS / "evidence.md").read_text("utf-8")
    last = re.search(r"last\s+block\s+loses\s+(\S+)\.(?:\s|$)", text)
    assert last is not None
    found["last", "points lost"] = last[1]
    return found


def write() -> None:
    """Write all pages, the tables that others quote, and nothing that is the same already."""
    for page in (DOCS / "which-metric.md", DOCS.parent / "README.md"):
        page.write_text(quoted(page.read_text("utf-8"), measured()), "utf-8")
    folder = DOCS / "metrics"
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    write()
