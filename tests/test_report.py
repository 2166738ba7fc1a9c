"""The report: its numbers, what it does with hostile and large input, and the page in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
import shlex
import unicodedata
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress

import transfer_metrics as tm
from tests.report_examples import HOSTILE, comparison, scores, selection
from transfer_metrics.__main__ import build_parser, main
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.report.about import _compare_command, _rank_command, _warnings_of
from transfer_metrics.report.contents import (
    _MOST_CURVES,
    _MOST_ROWS,
    Panel,
    _Scale,
    checks_of,
)
from transfer_metrics.report.gather import gather
from transfer_metrics.report.html import write_report
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.record import Record
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.sources.models.candidates import _named_models
from transfer_metrics.untrusted import visible


@dataclass
class Node:
    """An element of a page, as an independent parser reads it."""

    tag: str
    attributes: dict[str, str]
    children: list[Any] = field(default_factory=list)

    def all(self, tag: str, **attributes: str) -> list[Node]:
        """Descendants by tag and attributes, in order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                wanted = all(child.attributes.get(k) == v for k, v in attributes.items())
                found += [child] if child.tag == tag and wanted else []
                found += child.all(tag, **attributes)
        return found

    @property
    def text(self) -> str:
        parts = (c if isinstance(c, str) else c.text for c in self.children)
        return " ".join(" ".join(parts).split())


class Parser(HTMLParser):
    """Builds nodes with the parser of the standard library."""

    VOID = ("meta", "br", "input", "img")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in self.VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attrs):
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        assert self.open[-1].tag == tag, f"<{self.open[-1].tag}> is closed by </{tag}>"
        self.open.pop()

    def handle_data(self, data):
        self.open[-1].children.append(data)


def parsed(path: Path) -> Node:
    parser = Parser()
    parser.feed(path.read_text(encoding="utf-8"))
    parser.close()
    assert parser.open == [parser.root], "every element is closed"
    return parser.root


def written(tmp_path: Path, results: Any, **options: Any) -> Node:
    return parsed(Path(write_report(results, tmp_path / "report.html", **options)))


def cells(table: Node) -> list[list[str]]:
    """Text of the cells of a table's body; cells of marks are empty."""
    [body] = table.all("tbody")
    return [
        [c.text for c in row.children if isinstance(c, Node)]
        for row in body.children
        if isinstance(row, Node)
    ]


def everything() -> list[Any]:
    """All kinds of results at once, with a second task and a failure."""
    failed = ScoreTable(
        [{"model": "lost", "task": "digits", "split": "train", "metric": "", "error": "no weights"}]
    )
    other = scores(("beta", "alpha"), task="letters", seed=3)
    return [scores() + failed, other, comparison(), selection()]


# --- the numbers ---------------------------------------------------------------------------------


def test_ranking_of_the_page_is_that_of_the_table(tmp_path):
    table = scores(("a", "b", "c", "d"), metrics=("logme", "knn"))
    page = written(tmp_path, table)
    for place, metric in enumerate(("logme", "knn")):
        [panel] = page.all("div", **{"data-panel": str(place)})
        shown = cells(panel.all("table")[0])
        ranking = table.ranking(metric)
        assert [row[1].split()[0] for row in shown] == list(ranking["model"])
        for row, (_, wanted) in zip(shown, ranking.iterrows(), strict=True):
            score, half = row[3].replace("\N{MINUS SIGN}", "-").split(" ± ")
            assert float(score) == pytest.approx(wanted["score"], abs=6e-4)
            assert float(half) == pytest.approx(wanted["high"] - wanted["score"], abs=6e-4)
            assert float(row[4]) == pytest.approx(wanted["p_best"], abs=0.0051)
            assert row[5:7] == [wanted["layer"], str(wanted["dim"])]


def test_what_the_script_reads_is_what_the_table_holds(tmp_path):
    table = scores(("a", "b"), metrics=("logme",))
    page = written(tmp_path, table)
    [data] = page.all("script", id="data")
    [panel] = json.loads(data.text)["panels"]
    records = {(r["model"], r["layer"]): r for r in table.records}
    for curve in panel["curves"]:
        assert len(curve["points"]) == 4
        for depth, score, low, high, layer, dim in curve["points"]:
            r = records[curve["model"], layer]
            assert (depth, score, dim) == (r["depth"], r["value"], r["dim"])
            # Student's t for 19 degrees of freedom.
            assert (high - low) / 2 == pytest.approx(2.0930240544 * r["stderr"], rel=1e-6)


def test_the_answer_names_the_best_and_those_that_may_be_it(tmp_path):
    base = {"task": "t", "split": "train", "layer": "fc", "metric": "logme", "stderr": 0.1}
    values = {"a": 1.0, "b": 0.95, "far": -3.0}
    table = ScoreTable({**base, "model": m, "value": v} for m, v in values.items())
    answer = written(tmp_path, table).all("p", **{"class": "answer"})[0].text
    found = table.shortlist()
    named = ", ".join(f"{m} ({p:.2f})" for m, p in zip(found, found.chances, strict=True))
    assert "a , read at layer fc , ranks first of 3 models by logme" in answer
    wanted = f"One of {named} is the best to transfer with a probability of {found.probability:.2f}"
    assert f"{wanted}: the shortlist of 90 %." in answer
    surer = Path(write_report(table, tmp_path / "surer.html", confidence=0.99)).read_text()
    assert "the shortlist of 99 %." in surer
    assert len(table.shortlist(0.99)) > len(found)
    page = written(tmp_path, scores(("a", "b"), metrics=("logme", "knn")))
    assert page.all("p", **{"class": "note"})[0].text.startswith("Going by logme and by what")
    assert "First by the other metrics: knn a." in page.all("header")[0].text


def test_heads_are_those_of_the_summary(tmp_path):
    table = comparison()
    page = written(tmp_path, [scores(), table])
    [section] = page.all("section", id="heads")
    summary = table.summary()
    for row, ((model, head), wanted) in zip(
        cells(section.all("table")[0]), summary.iterrows(), strict=True
    ):
        assert row[0] == f"{head} {model}; 2 layers, 96 dims"
        assert row[2] == f"{100 * wanted['test']:.1f} ± {100 * wanted['± test']:.1f}"
        assert row[3] == f"{100 * wanted['blurred']:.1f} ± {100 * wanted['± blurred']:.1f}"
        assert row[5:] == [f"{wanted['fit_seconds']:.1f}", *{3.0: ("600 G", "18.9 kB"), 6.0: (
            "1.2 T", "37.8 kB")}[wanted["fit_seconds"]]]  # fmt: skip
    verdict = Comparison([*scores().records, *table.records]).verdict("logme").iloc[0]
    shown = cells(section.all("table")[1])[0]
    assert shown[1].startswith(verdict["favourite"])
    assert "finetune(lr=0.1) on alpha has the highest test accuracy of 6 heads: 93.5" in (
        page.all("header")[0].text
    )


def test_scores_are_checked_against_accuracies():
    table, heads = scores(("a", "b", "c", "d")), comparison(("a", "b", "c", "d"))
    gathered = gather([table, heads])
    checks = checks_of(gathered.settings[0], gathered.comparisons["digits"])
    assert {(c.metric, c.head) for c in checks} == {
        (m, h) for m in ("logme", "knn") for h in ("linear_probe", "finetune(lr=0.1)")
    }
    for check in checks:
        x, y = ([p[i] for p in check.points] for i in (1, 2))
        fit = linregress(x, y)
        assert check.trend == pytest.approx(
            (min(x), fit.intercept + fit.slope * min(x), max(x), fit.intercept + fit.slope * max(x))
        )
        assert check.measures["pearson"][0] == pytest.approx(fit.rvalue)
        expected = table.agreement(heads, check.metric, head=check.head).set_index("measure")
        assert check.measures["weighted_kendall"] == pytest.approx(
            expected.loc["weighted_kendall", ["value", "low", "high"]].tolist()
        )


def test_what_heads_reached_on_other_tasks_is_what_a_score_has_to_beat(tmp_path):
    names = ("a", "b", "c", "d")
    other = comparison(tuple(reversed(names)), task="letters")
    tables = [scores(names), comparison(names), other]
    gathered = gather(tables)
    setting, of_digits = gathered.settings[0], gathered.comparisons["digits"]
    checks = checks_of(setting, of_digits, gathered.comparisons.values())
    alone = checks_of(setting, of_digits)
    assert [c.measures for c in checks] == [c.measures for c in alone]
    assert all(check.over_static is None for check in alone)
    both = tables[1] + other
    for check in checks:
        found = tables[0].agreement(both, check.metric, head=check.head)
        gain = found.set_index(["metric", "measure"]).loc[
            (f"{check.metric} - static", "weighted_kendall"), ["value", "low", "high"]
        ]
        assert check.over_static == pytest.approx(tuple(gain))
    [section] = written(tmp_path, tables).all("section", id="agreement")
    assert cells(section.all("table")[0])[0][-1].startswith(f"{checks[0].over_static[0]:.2f} ")
    [section] = written(tmp_path, tables[:2]).all("section", id="agreement")
    assert "static" not in section.text


def test_tasks_stand_beside_each_other_by_rank(tmp_path):
    one, two = scores(("a", "b", "c")), scores(("c", "b", "a"), task="other")
    page = written(tmp_path, [one, two])
    [section] = page.all("section", id="tasks")
    grid = section.all("table")[0]
    ranks = {row[0]: [cell.split()[0] for cell in row[1:]] for row in cells(grid)}
    assert ranks == {"a": ["1", "3"], "b": ["2", "2"], "c": ["3", "1"]}
    shades = {row.text.split()[0]: [c.attributes["class"] for c in row.all("td")]
              for row in grid.all("tbody")[0].all("tr")}  # fmt: skip
    assert shades["a"] == ["cell q9", "cell q0"]


def test_selected_features_are_counted_by_layer(tmp_path):
    page = written(tmp_path, selection())
    [section] = page.all("section", id="selection")
    assert cells(section.all("table")[0]) == [
        ["blocks.1", "3", "8", ""],
        ["blocks.2", "4", "4", ""],
    ]
    assert [r.attributes["width"] for r in section.all("rect", **{"class": "bar"})] == [
        "37.50%", "100.00%",
    ]  # fmt: skip
    assert "7 features of 2 layers, chosen by group_lasso , score 0.75" in section.text


def test_classes_of_the_task_are_shown(tmp_path):
    task = tm.load_task(np.zeros((5, 2)), [0, 0, 0, 1, 1], name="pairs", classes=["<b>", "yes"])
    page = written(tmp_path, scores(), task=task)
    table = page.all("header")[0].all("table")[0]
    assert cells(table) == [["<b>", "3", ""], ["yes", "2", ""]]


def test_the_same_results_give_the_same_bytes(tmp_path):
    first, second = (write_report(everything(), tmp_path / name) for name in ("a.html", "b.html"))
    assert Path(first).read_bytes() == Path(second).read_bytes()
    assert scores().report(tmp_path / "c.html") == str(tmp_path / "c.html")


# --- what compares with what ---------------------------------------------------------------------


def test_only_scores_of_the_same_examples_are_ranked_together():
    apart = [scores(("a",), n=100), scores(("b",), n=200), scores(("c",), n=100, pool="max")]
    gathered = gather(apart)
    assert [{r["model"] for r in s.table.records} for s in gathered.settings] == [
        {"a"}, {"b"}, {"c"},
    ]  # fmt: skip
    assert gathered.labels == [
        "digits, pooling avg, n = 100", "digits, pooling avg, n = 200",
        "digits, pooling max, n = 100",
    ]  # fmt: skip
    [together] = gather([scores(("a",)), scores(("b",))]).settings
    assert set(together.table.ranking()["model"]) == {"a", "b"}


def test_a_race_stays_together_and_says_so(tmp_path):
    table = scores(("a", "b")) + scores(("c",), n=20, round=1)
    page = written(tmp_path, table)
    [dropped] = page.all("div", **{"data-panel": "0"})[0].all("tr", **{"class": "dropped"})
    assert "c" in dropped.text
    assert "dropped after round 1 , 20 examples" in dropped.text
    assert "A race dropped 1 model on fewer examples, from 20" in page.text
    assert "--budget SHARE" in page.text


def test_a_failure_that_another_table_mended_is_none():
    lost = {"task": "digits", "split": "train", "metric": "", "error": "no network"}
    failed = ScoreTable([{**lost, "model": "alpha"}, {**lost, "model": "omega"}])
    [setting] = gather([failed, scores()]).settings[-1:]
    gathered = gather([scores() + failed])
    assert [r["model"] for r in gathered.settings[0].table.failures] == ["omega"]
    assert setting.place.n == 200


def test_scores_given_twice_count_once_and_changed_ones_are_warned_of():
    gathered = gather([scores(), scores()])
    assert len(gathered.settings[0].table) == len(scores())
    assert gathered.replaced == 0
    changed = gather([scores(), scores(seed=1)])
    assert changed.replaced == len(scores())
    assert changed.settings[0].table.best() == scores(seed=1).best()
    assert "24 scores were given more than once" in _warnings_of(changed)[0]


def test_warnings_of_what_the_records_hold():
    table = scores(metrics=("transrate", "made_up"), intervals=False)
    gathered = gather(table)
    told = " ".join(_warnings_of(gathered))
    assert "transrate grows with the number of features, here 16 to 64" in told
    assert "No standard errors of transrate and made_up" in told
    assert not _warnings_of(gather(scores()))


def test_all_that_failed_is_told(tmp_path):
    table = ScoreTable(
        [{"model": "a", "task": "t", "split": "train", "metric": "", "error": "<no> weights"}]
    )
    page = written(tmp_path, table)
    assert "No model has a score" in page.text
    [section] = page.all("section", id="warnings")
    assert cells(section.all("table")[0]) == [["a model", "<no> weights"]]


# --- how it was made -----------------------------------------------------------------------------


def test_commands_run_what_the_records_tell():
    models = ["timm:net(a=1,b=2)", "zoo:it's; rm -rf /", "$(boom)"]
    table = scores(models, metrics=("logme", "knn"), task="npz:my data.npz", pool="max")
    words = shlex.split(_rank_command(gather(table).settings[0]))
    args = build_parser().parse_args(words[1:])
    # Of a name that is no specification nobody knows what it stands for.
    assert [model for _, model in _named_models(args.models)] == [*models[:2], "MODEL"]
    assert args.models.endswith(",$(boom) = MODEL")
    assert (args.task, args.metrics, args.pool) == ("npz:my data.npz", "logme,knn", "max")
    assert args.intervals == "all"
    words = shlex.split(_compare_command("digits", comparison()))
    args = build_parser().parse_args(words[1:])
    assert args.heads == "linear_probe,finetune(lr=0.1)"
    assert (args.seeds, args.ood) == (2, ["blurred=TASK"])


def test_settings_versions_and_sources_are_told(tmp_path):
    scores().save(tmp_path / "scores.jsonl")
    page = written(tmp_path, tmp_path / "scores.jsonl")
    [section] = page.all("section", id="settings")
    names = [node.text for node in section.all("dl")[0].all("dt")]
    told = dict(zip(names, [n.text for n in section.all("dl")[0].all("dd")], strict=True))
    assert told["examples"] == "200"
    assert told["intervals"] == "jackknife over 20 blocks of examples"
    assert told["scored"] == "2026-01-02 03:04:05 UTC"
    assert told["version"] == "transfer-metrics 0.1.0"
    digest = hashlib.sha256((tmp_path / "scores.jsonl").read_bytes()).hexdigest()
    [reproduce] = page.all("section", id="reproduce")
    assert cells(reproduce.all("table")[0]) == [["scores.jsonl", "24", digest]]
    assert "LogME" in section.text


# --- input that is not to be trusted -------------------------------------------------------------


def hostile(tmp_path: Path) -> Path:
    results = [
        scores(HOSTILE, task=HOSTILE[0], metrics=("logme", HOSTILE[1])),
        scores(HOSTILE[:2], task=HOSTILE[1]),
        comparison(HOSTILE, task=HOSTILE[0], heads=HOSTILE[:2], shifts=HOSTILE[:2]),
        selection(HOSTILE[0]),
        ScoreTable([{"model": HOSTILE[1], "task": HOSTILE[2], "metric": "", "error": HOSTILE[0]}]),
    ]
    path = tmp_path / "hostile.html"
    write_report(results, path, notes=HOSTILE, command=HOSTILE[0], title=HOSTILE[1])
    return path


def test_names_become_text_and_never_markup(tmp_path):
    path = hostile(tmp_path)
    page = parsed(path)
    assert len(page.all("script")) == 2
    for tag in ("img", "b", "iframe", "object", "embed", "link", "base", "form"):
        assert not page.all(tag)
    nodes, queue = [], [page]
    while queue:
        nodes.append(queue.pop())
        queue += [c for c in nodes[-1].children if isinstance(c, Node)]
    names = {name for node in nodes for name in node.attributes}
    assert not [n for n in names if n.startswith("on") or n in ("style", "src", "srcdoc")]
    links = [node.attributes["href"] for node in nodes if "href" in node.attributes]
    assert all(re.fullmatch("#[a-z]+", link) for link in links)
    for name in HOSTILE[:3]:
        assert name in page.text
    assert "net\\u202egnp.exe\\x00\\u2028? $\\frac{$" in page.text
    raw = path.read_text(encoding="utf-8")
    assert not [c for c in raw if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]
    assert json.loads(page.all("script", id="data")[0].text)["panels"]


def test_the_policy_allows_this_style_and_script_and_nothing_else(tmp_path):
    raw = hostile(tmp_path).read_text(encoding="utf-8")
    policy = (
        parsed(tmp_path / "hostile.html")
        .all("meta", **{"http-equiv": "Content-Security-Policy"})[0]
        .attributes["content"]
    )
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    script = raw.rpartition("<script>")[2].partition("</script>")[0]
    style = raw.partition("<style>")[2].partition("</style>")[0]
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed[name] == f"'sha256-{digest}'"
    assert allowed["default-src"] == "'none'"
    assert "unsafe" not in policy
    assert raw.index("Content-Security-Policy") < raw.index("<style>")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", raw)


@given(st.text(max_size=400))
def test_what_is_shown_can_be_seen(text):
    shown = visible(text)
    assert len(shown) <= 160 * 10
    joiners = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
    unseen = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert not [c for c in shown if unicodedata.category(c) in unseen and c not in joiners]
    shown.encode()
    if len(text) <= 160 and text.isprintable():
        assert shown == text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"value": "0.5"}, "value is '0.5', which is not a number"),
        ({"value": True}, "not a number"),
        ({"n": 10**400}, "not a number"),
        ({"model": {"a": 1}}, "not text"),
        ({"deviations": "1,2"}, "not a list"),
        ({"deviations": [0.0] * 10_001}, "not a list of at most"),
        ({"deviations": [[1]]}, "not a number"),
        ({"n": 30.5}, "not a whole number"),
        ({"stderr": -0.1}, "not a number from 0 on"),
        ({"higher_is_better": "perhaps"}, "not True or False"),
    ],
)
def test_records_of_other_types_are_refused_with_their_number(tmp_path, record, message):
    with pytest.raises(InvalidInputError, match=message) as error:
        ScoreTable([*scores().records, {"model": "a", "metric": "knn", **record}])
    assert "record 25" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_values_that_are_no_numbers_become_failures():
    found = Record.of({"model": "a", "value": math.inf, "stderr": math.nan})
    assert (found.value, found.stderr, found.error) == (None, None, "the value is not finite")
    assert Record.of({"model": "a", "deviations": [0.1, math.nan]}, "r").deviations is None
    assert Record.of({"model": 7, "higher_is_better": "False"}, "r").model == "7"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", None, "there is no table"),
        ("a.json", None, "there is no table"),
        ("a.json", "{", "no score table"),
        ("a.json", "[" * 100_000, "no score table"),
        ("a.json", "{}", "no selection"),
        ("a.json", "[1]", "no selection"),
        ("a.jsonl", "[1]\n", "not a score table"),
        ("a.jsonl", "", "nothing to report"),
        ("a.txt", "x", "no score table"),
        ("a.yaml", None, "cannot read"),
        ("a.yaml", "x" * 70_000, "too large"),
        ("a.yaml", "a: b", "nothing to report"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidInputError, match=message):
        write_report([path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(InvalidInputError, match="not of int"):
        write_report([3], tmp_path / "report.html")


def test_every_kind_of_file_is_read_alike(tmp_path):
    table = scores()
    pages = []
    for ending in ("jsonl", "csv", "parquet"):
        table.save(tmp_path / f"t.{ending}")
    (tmp_path / "t.json").write_text(json.dumps(table.records))
    for ending in ("jsonl", "csv", "parquet", "json"):
        page = written(tmp_path, tmp_path / f"t.{ending}")
        pages.append([cells(t) for t in page.all("section", id="ranking")[0].all("table")])
    assert pages == [pages[0]] * 4
    selection().save(tmp_path / "s.json")
    page = written(tmp_path, [tmp_path / "t.csv", tmp_path / "s.json"])
    assert page.all("section", id="selection")


def many(models: int, layers: int) -> ScoreTable:
    """A large table, made quickly."""
    values = np.random.default_rng(0).normal(size=(models, layers)).cumsum(axis=1).tolist()
    base = {
        "task": "t", "split": "train", "pool": "avg", "n": 100, "metric": "logme", "dim": 64,
        "seconds": 0.1, "extract_seconds": 1.0,
    }  # fmt: skip
    return ScoreTable(
        {**base, "model": f"timm:network_{i:04d}", "layer": f"blocks.{j}", "layer_index": j,
         "depth": (j + 1) / layers, "value": value}
        for i, row in enumerate(values) for j, value in enumerate(row)
    )  # fmt: skip


@pytest.mark.integration
def test_large_tables_are_cut_and_the_page_says_where(tmp_path):
    table = many(1000, 50)
    page = written(tmp_path, table)
    assert (tmp_path / "report.html").stat().st_size < 3e6
    [panel] = page.all("div", **{"data-panel": "0"})
    shown = cells(panel.all("table")[0])
    assert [row[1].split()[0] for row in shown] == list(table.ranking()["model"][:_MOST_ROWS])
    assert "The first 300 of 1 000 candidates" in panel.text
    [data] = page.all("script", id="data")
    assert len(json.loads(data.text)["panels"][0]["curves"]) == _MOST_CURVES
    assert "Curves of the first 40 of 1 000 models" in page.text
    assert "700 more are left out" in page.text


def test_many_metrics_tasks_and_deep_networks_are_cut(tmp_path):
    crowd = [scores(("a", "b"), metrics=[f"m{i}" for i in range(14)], layers=2)]
    crowd += [scores(("a",), task=f"t{i}", metrics=("m0",), layers=1) for i in range(30)]
    crowd += [many(2, 401), *[selection()] * 21]
    page = written(tmp_path, crowd)
    for text in (
        "the first 24 of 32 groups of scores are shown",
        "the first 12 of 14 metrics are shown",
        "the first 20 of 21 selections are shown",
    ):
        assert text in page.text
    page = written(tmp_path, many(2, 401))
    assert "of curves with more than 200 layers only some points are drawn" in page.text


# --- marks ---------------------------------------------------------------------------------------


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(finite, min_size=1, max_size=5))
def test_scales_keep_values_inside_and_in_order(values):
    scale = _Scale.of(values)
    places = [float(scale(v).rstrip("%")) for v in values]
    assert all(0 <= p <= 100 for p in places)
    for (v, p), (w, q) in zip(*[sorted(zip(values, places, strict=True))] * 2, strict=True):
        assert v <= w or p <= q
    ticks = scale.ticks()
    assert len(ticks) <= 6
    assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("ends", "ticks"),
    [
        ((0.24, 0.91), [0.4, 0.6, 0.8]),
        ((-3.0, 9.0), [0.0, 5.0]),
        ((0.0, 0.004), [0.0, 0.001, 0.002, 0.003, 0.004]),
        ((1e9, 1.4e9), [1e9, 1.1e9, 1.2e9, 1.3e9, 1.4e9]),
    ],
)
def test_ticks_are_round(ends, ticks):
    assert _Scale.of(ends).ticks() == ticks


def test_intervals_stand_where_their_numbers_are(tmp_path):
    table = scores(("a", "b"), metrics=("logme",))
    page = written(tmp_path, table)
    panel = Panel.of(0, "digits", gather(table).settings[0], "logme")
    for row, svg in zip(panel.rows, page.all("svg", **{"class": "strip"}), strict=False):
        [whisker] = svg.all("line", **{"class": "whisker"})
        [dot] = svg.all("circle", **{"class": "dot"})
        ends = [float(whisker.attributes[k].rstrip("%")) for k in ("x1", "x2")]
        middle = float(dot.attributes["cx"].rstrip("%"))
        assert sum(ends) / 2 == pytest.approx(middle, abs=0.02)
        share = (row.high - row.low) / (panel.scale.high - panel.scale.low)
        assert ends[1] - ends[0] == pytest.approx(94 * share, abs=0.03)


def test_a_number_is_written_as_in_the_table_wherever_it_stands(tmp_path):
    base = {"metric": "gbc", "layer": "fc", "depth": 1.0, "relative": True}
    values = {"a": -1.053e-06, "b": -0.3}
    table = tm.ScoreTable([{**base, "model": m, "value": v} for m, v in values.items()])
    page = written(tmp_path, table)
    shown = [cell.text.strip() for cell in page.all("td", **{"class": "num at-score"})]
    assert shown == ["−1.053e−06", "−0.3"]
    assert all(text.replace("−", "-") in str(table) for text in shown)


# --- the command line ----------------------------------------------------------------------------


def test_report_of_files_on_the_command_line(capsys, tmp_path):
    scores().save(tmp_path / "scores.jsonl")
    comparison().save(tmp_path / "comparison.jsonl")
    (tmp_path / "run.yaml").write_text("models: <b>\nlayers: best\n")
    out = tmp_path / "out" / "r.html"
    files = [str(tmp_path / "scores.jsonl"), str(tmp_path / "comparison.jsonl")]
    assert main(["report", *files, "--out", str(out), "--title", "A <title>"]) == 0
    captured = capsys.readouterr()
    next_one = f"next: transfer-metrics train --from {tmp_path / 'scores.jsonl'} --out head"
    assert (captured.out, captured.err.splitlines()) == ("", [f"wrote {out}", next_one])
    page = parsed(out)
    assert page.all("title")[0].text == "A <title>"
    assert page.all("section", id="agreement")
    [reproduce] = page.all("section", id="reproduce")
    assert "models: <b> layers: best" in reproduce.all("pre")[-1].text
    assert main(["report", *files, "--out", str(out), "--view", "all"]) == 0
    assert len(cells(parsed(out).all("div", **{"data-panel": "0"})[0].all("table")[0])) == 12


@pytest.mark.filterwarnings("default")
def test_report_ranks_first_where_models_are_named(capsys, tmp_path):
    out = tmp_path / "r.html"
    argv = ["report", "--models", "zoo:vit-mnist,zoo:absent", "--task", "sklearn:digits"]
    argv += ["--metrics", "transrate", "--quiet", "--out", str(out)]
    assert main(argv) == 1
    told = capsys.readouterr().err
    assert told.count("warning: transrate grows with the number of features") == 1
    assert "failed: zoo:absent" in told
    page = parsed(out)
    [section] = page.all("section", id="warnings")
    assert section.text.count("grows with the number of features") == 1
    assert "images of sklearn:digits" in page.text
    assert "rank --models zoo:vit-mnist,zoo:absent --task sklearn:digits" in page.text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give files"),
        (["a.jsonl", "--models", "zoo:*"], "not both"),
        (["--models", "zoo:*"], "needs --task"),
        (["a.jsonl", "--metrics", "knn"], "goes with --models"),
        (["absent.jsonl"], "there is no table"),
    ],
)
def test_mistakes_on_the_command_line(capsys, tmp_path, monkeypatch, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *argv]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
