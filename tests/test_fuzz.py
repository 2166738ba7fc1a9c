"""Random damage to valid files: a loader takes the file or raises ``TransferMetricsError``."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import REGRESSIONS, run
from tests.fuzz_targets import TARGETS
from transfer_metrics.__main__ import build_parser, main

SLOWEST = 10.0
# What breaks parsers: signs of the formats, numbers at the edges, names that would be paths.
WORDS = [
    b"", b"\0", b"\xff" * 8, b"\0" * 8, b"[", b"]", b"{", b"}", b'"', b",", b"\n", b"\r", b"NaN",
    b"-1", b"1e999", b"9" * 400, b"null", b"true", b"../", b"/etc/passwd", b"\xed\xa0\x80",
    b"\\ud800",
    b"PK\x03\x04", b"\x93NUMPY", b"\x80\x04", b"*a", b"&a ", b"!!python/name:os.system ",
    b"\x1b[2J",
]  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["../../x", "\ud800", "a\x1b[2J", "x" * 3_000, "O", "U999999999"]),
    st.sampled_from([[], {}, [[]], {"a": {}}, [None] * 50, [[[[[[[[[[]]]]]]]]]]]),
)


@st.composite
def damaged(draw: st.DrawFn, target: str) -> bytes:
    """A valid file with some bytes changed, cut out, repeated or put in."""
    data = bytearray(draw(st.sampled_from(TARGETS[target].seeds())))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([1, 2, 4, 8, 64, 1 << 20])))
        kind = draw(st.sampled_from(["flip", "cut", "repeat", "word", "swap"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:end]
        elif kind == "repeat":
            data[at:at] = data[at:end][:64] * draw(st.integers(1, 20))
        elif kind == "word":
            data[at:end] = draw(st.sampled_from(WORDS) | st.binary(max_size=9))
        elif kind == "swap":
            other = draw(st.sampled_from(TARGETS[target].seeds()))
            data[at:] = other[at:]
    return bytes(data)


@st.composite
def restructured(draw: st.DrawFn, target: str) -> bytes:
    """Valid JSON of another structure: a node that is changed, removed, renamed or repeated."""
    seed = draw(st.sampled_from(TARGETS[target].seeds()))
    lines = TARGETS[target].form == "lines"
    content: Any = [json.loads(line) for line in seed.splitlines()] if lines else json.loads(seed)
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        node, places = content, list(_places(content))
        *path, last = draw(st.sampled_from(places))
        for step in path:
            node = node[step]
        kind = draw(st.sampled_from(["value", "drop", "copy", "rename"]))
        if kind == "value":
            # What is drawn may be changed afterwards, and is drawn again.
            node[last] = copy.deepcopy(draw(VALUES))
        elif kind == "drop":
            del node[last]
        elif kind == "copy":
            node[last] = copy.deepcopy(content if len(json.dumps(content)) < 9_999 else None)
        elif isinstance(node, dict):
            node[draw(st.text(max_size=5))] = node.pop(last)
        if not list(_places(content)):
            break
    dumped = [json.dumps(row) for row in content] if lines else [json.dumps(content)]
    return "\n".join([*dumped, ""]).encode()


def _places(node: Any, path: tuple[Any, ...] = ()) -> Any:
    steps = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for step in steps:
        yield (*path, step)
        yield from _places(node[step], (*path, step))


def check(target: str, data: bytes) -> None:
    """Hold a target to its promise, in a folder of its own, and to a bound on time."""
    with TemporaryDirectory() as place:
        started = time.monotonic()
        told = run(TARGETS[target], data, Path(place))
        assert time.monotonic() - started < SLOWEST
    assert told is None or 0 < len(told) < 5_000


def attack(target: str, examples: int) -> None:
    TARGETS[target].seeds()  # made beforehand, since fits draw numbers that hypothesis watches
    files = damaged(target)
    if TARGETS[target].form != "bytes":
        files = files | restructured(target)

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(files)
    def attacked(data: bytes) -> None:
        check(target, data)

    attacked()


@pytest.mark.parametrize("target", TARGETS)
def test_valid_files_load(target: str) -> None:
    """Otherwise nothing below would say anything."""
    for seed in TARGETS[target].seeds():
        with TemporaryDirectory() as place:
            assert run(TARGETS[target], seed, Path(place)) is None


# Those that draw a page, build a data frame or parse all options take a tenth of a second each.
SLOW = ("results", "command", "config", "table_csv", "table_jsonl", "table_parquet")


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files(target: str) -> None:
    attack(target, 5 if target in SLOW else 20)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_at_length(target: str) -> None:
    attack(target, 300 if target in SLOW else 3_000)


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*-*")), ids=lambda path: path.name)
def test_what_was_found_once(path: Path) -> None:
    check(path.name.partition("-")[0], path.read_bytes())


# ---------------------------------------------------------------- the command line


def _options() -> dict[str, list[str]]:
    """Options of every verb, from the parser itself."""
    verbs = next(a for a in build_parser()._actions if a.dest == "verb").choices
    return {
        verb: [s for action in parser._actions for s in action.option_strings]
        for verb, parser in verbs.items()
        if verb not in ("benchmark", "cache")  # which measure, or clear what is kept
    }


HOSTILE = [
    "", " ", "\0", "-1", "0", "1e999", "nan", "../../x", "/proc/self/mem", "/dev/full",
    "a\x1b[2J", "\udc80",
    "zoo:*(", "zoo:cnn-mnist", "sklearn:iris", "sklearn:", "npz:/dev/zero", "csv:.",
    "imagefolder:.",
    "hf:../..", "os:system", "timm:a(b=", "transrate(eps=", "knn(k=0)", "*", "9" * 99, "--", "@x",
    "%s%n",
    "{}", "last", "best", "avg", "~nobody/x", "x" * 9_000,
]  # fmt: skip


@st.composite
def commands(draw: st.DrawFn) -> list[str]:
    """A verb with some of its options, and values that it does not expect."""
    options = _options()
    verb = draw(st.sampled_from(sorted(options)))
    argv = [verb]
    for option in draw(st.lists(st.sampled_from(options[verb]), max_size=4)):
        argv.append(option)
        argv += draw(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=6), max_size=1))
    return argv + draw(st.lists(st.sampled_from(HOSTILE), max_size=1))


def obeys(argv: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            status = main(argv)
        except SystemExit as stopped:  # of --help
            status = stopped.code
    text = said.getvalue()
    assert status in (0, 1, 2), argv
    assert "this is a bug" not in text, (argv, text)
    assert "Traceback" not in text or "--debug" in argv, (argv, text)
    assert not set(out.getvalue() + text) & set("\x1b\0"), argv
    if status == 2 and "--debug" not in argv:
        assert text.splitlines()[-1].startswith("transfer-metrics"), (argv, text)


def command_attack(examples: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(commands())
    def attacked(argv: list[str]) -> None:
        (tmp_path / "in").mkdir(exist_ok=True)
        obeys(argv, tmp_path / "in", monkeypatch)
        assert [p.name for p in tmp_path.iterdir()] == ["in"], argv

    attacked()


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command_attack(25, tmp_path, monkeypatch)


@pytest.mark.slow
def test_command_lines_at_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command_attack(2_000, tmp_path, monkeypatch)
