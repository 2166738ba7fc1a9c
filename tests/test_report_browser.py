"""The page of a report in a real browser: nothing is loaded, everything works, all can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import transfer_metrics as tm
from tests.browser import Browser, Tab, find
from tests.report_examples import HOSTILE, scores
from tests.test_report import everything, hostile, many, parsed
from transfer_metrics.report.html import write_report
from transfer_metrics.untrusted import visible


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = find()
    if program is None:
        pytest.skip("no Chromium on the path; install it, or set $CHROMIUM to one")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "full.html"
    write_report(everything(), path)
    return path


def shown(tab: Tab, selector: str) -> list[str]:
    """Text of the elements that can be seen."""
    return tab.run(
        f"[...document.querySelectorAll({json.dumps(selector)})]"
        f".filter((e) => e.offsetParent !== null).map((e) => e.innerText.trim())"
    )


PANEL = '[data-panel="0"] tbody'


def test_page_opens_without_a_complaint_or_a_request(browser, full):
    with browser.tab(full) as tab:
        assert tab.run("document.querySelectorAll('#layers .chart path.curve').length") == 3
        assert tab.complaints == []
        assert tab.requests == [full.resolve().as_uri()]
        # The policy bites: no address is asked for, and text cannot become markup.
        blocked = tab.run(
            "new Promise((done) => { document.addEventListener('securitypolicyviolation',"
            " (e) => done(e.effectiveDirective), { once: true });"
            " const i = new Image(); i.src = 'https://example.org/x.png'; })"
        )
        assert blocked == "img-src"
        assert tab.refused == ["csp"]
        told = tab.run(
            "(() => { try { document.body.innerHTML = ''; } catch (e) { return e.name; } })()"
        )
        assert told == "TypeError"


def test_rows_are_sorted_by_a_click_and_failures_stay_last(browser, full):
    with browser.tab(full) as tab:
        names = f"{PANEL} .at-name"
        assert shown(tab, names)[-1] == "lost"
        heading = '[data-panel="0"] th.at-name button'
        tab.click(heading)
        assert shown(tab, names) == ["alpha", "beta", "gamma", "lost"]
        assert tab.run(f"document.querySelector('{heading}').parentElement.ariaSort") == "ascending"
        tab.click(heading)
        assert shown(tab, names) == ["gamma", "beta", "alpha", "lost"]
        seconds = '[data-panel="0"] th:nth-last-child(1) button'
        tab.run(f"document.querySelector('{seconds}').focus()")
        tab.press("Enter")
        assert shown(tab, names)[-1] == "lost"
        assert tab.complaints == []


def test_the_filter_reaches_tables_and_curves(browser, full):
    with browser.tab(full) as tab:
        tab.run("document.querySelector('input[type=search]').focus()")
        tab.call("Input.insertText", text="BET")
        assert shown(tab, f"{PANEL} .at-name") == ["beta"]
        assert shown(tab, "#heads tbody .at-name small") == ["beta; 2 layers, 96 dims"] * 2
        assert shown(tab, ".chips button") == ["beta"]
        assert tab.run("document.querySelectorAll('#layers .chart path.curve').length") == 1
        assert shown(tab, ".status") == ["1 of 4 rows match"]
        tab.call("Input.insertText", text="nothing")
        assert shown(tab, f"{PANEL} .at-name") == []
        assert shown(tab, "#layers .empty") == ["No layer-wise scores for this choice."]
        assert tab.complaints == []


def test_another_ranking_is_chosen(browser, full):
    with browser.tab(full) as tab:
        assert tab.run("[...document.querySelectorAll('[data-panel]')].map((p) => p.hidden)") == [
            False, True, True, True,
        ]  # fmt: skip
        tab.run(
            "(() => { const s = document.querySelector('#ranked-by'); s.value = '3';"
            " s.dispatchEvent(new Event('change')); })()"
        )
        assert shown(tab, '[data-panel="3"] tbody .at-name') == ["beta", "alpha", "lost"][:2]
        assert tab.run("document.querySelector('#layers svg title').textContent") == (
            "knn by depth on letters"
        )
        assert shown(tab, "#checks") == []
        assert tab.complaints == []


def test_points_are_read_by_pointer_and_by_keys(browser, full):
    curve = json.loads(parsed(full).all("script", id="data")[0].text)["panels"][0]["curves"][0]
    _, score, low, high, layer, dim = curve["points"][-1]
    with browser.tab(full) as tab:
        x, y = tab.run(
            "(() => { const h = document.querySelector('#layers .chart');"
            " h.scrollIntoView({block: 'center'}); const marks = h.querySelectorAll('path.s0');"
            " const b = marks[marks.length - 1].getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        tab.move(x + 3, y + 2)
        [told] = shown(tab, "#layers .tip")
        assert told.startswith(f"{curve['model']}\nlayer {layer}\nlogme {score:.4g}\n")
        assert f"{low:.4g} to {high:.4g}" in told
        assert f"{dim} features" in told
        tab.move(x, 2)
        assert shown(tab, "#layers .tip") == []
        tab.run("document.querySelector('#layers .chart').focus()")
        tab.press("ArrowRight")
        [told] = shown(tab, "#layers .tip")
        assert told.startswith("alpha\nlayer blocks.0")
        tab.press("ArrowDown")
        assert shown(tab, "#layers .tip")[0].startswith("beta\nlayer blocks.0")
        tab.press("Escape")
        assert shown(tab, "#layers .tip") == []
        assert tab.complaints == []


def test_models_are_chosen_in_the_ranking_by_mouse_and_keys(browser, full):
    def coloured():
        return tab.run("document.querySelectorAll('#layers path.curve:not(.other)').length")

    with browser.tab(full) as tab:
        assert coloured() == 3
        tab.click(f"{PANEL} .pick")
        assert coloured() == 2
        assert tab.run(f"document.querySelector('{PANEL} .pick').ariaPressed") == "false"
        tab.run(f"document.querySelector('{PANEL} .pick').focus()")
        tab.press("ArrowDown")
        assert tab.run("document.activeElement.textContent.trim()") == "beta"
        tab.press("Enter")
        assert coloured() == 1
        assert shown(tab, '.chips button[aria-pressed="true"]') == ["gamma"]
        stops = f"[...document.querySelectorAll('{PANEL} .pick')].map((b) => b.tabIndex)"
        assert tab.run(stops) == [-1, 0, -1]
        assert tab.complaints == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read_on_a_small_screen(browser, full, dark):
    with browser.tab(full, width=390, mobile=True, dark=dark) as tab:
        assert tab.run("document.documentElement.scrollWidth") == 390
        assert (
            tab.run(
                "Math.min(...[...document.querySelectorAll('body *')]"
                ".filter((e) => e.childNodes.length && e.offsetParent !== null)"
                ".map((e) => parseFloat(getComputedStyle(e).fontSize)))"
            )
            >= 12
        )
        pairs = tab.run(
            "[...document.querySelectorAll('p, td, th, dt, dd, small, a, summary, caption, li')]"
            ".filter((e) => e.offsetParent !== null).map((e) => {"
            " let b = e; while (b && getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)')"
            " b = b.parentElement;"
            " return [getComputedStyle(e).color, getComputedStyle(b || document.body)"
            ".backgroundColor]; })"
        )
        page = tab.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(rgb(page)) < 150) == dark
        ratios = {(a, b): contrast(rgb(a), rgb(b, rgb(page))) for a, b in map(tuple, pairs)}
        assert {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5} == {}


def rgb(text: str, below: list[float] | None = None) -> list[float]:
    """Colour of a style, over what lies below where it is not opaque."""
    numbers = [float(v) for v in re.findall(r"[\d.]+", text)]
    opacity = numbers[3] if len(numbers) > 3 else 1.0
    below = below or [255.0] * 3
    return [opacity * a + (1 - opacity) * b for a, b in zip(numbers[:3], below, strict=True)]


def contrast(first: list[float], second: list[float]) -> float:
    """Contrast ratio of the Web Content Accessibility Guidelines."""

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
            for c in (v / 255 for v in colour)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_without_script_all_numbers_are_there(browser, full):
    with browser.tab(full, script=False) as tab:
        # The page's own script is off; this one comes through the debugger.
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
        assert len(shown(tab, "[data-panel] table")) == 4
        assert shown(tab, ".controls") == []
        assert "need JavaScript" in tab.run("document.querySelector('noscript').textContent")


def test_prints_the_numbers_without_the_controls(browser, full, tmp_path):
    with browser.tab(full, dark=True) as tab:
        tab.pdf(tmp_path / "report.pdf")
        tab.call("Emulation.setEmulatedMedia", media="print", features=[])
        assert shown(tab, ".controls, nav") == []
        assert rgb(tab.run("getComputedStyle(document.body).backgroundColor")) == [255, 255, 255]
        assert shown(tab, f"{PANEL} .at-name")[0] == "alpha"
    content = (tmp_path / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert 1 <= content.count(b"/Type /Page\n") <= 10


def test_hostile_names_do_nothing_in_a_browser(browser, tmp_path):
    path = hostile(tmp_path)
    with browser.tab(path) as tab:
        assert tab.run("document.title") == HOSTILE[1]
        assert set(shown(tab, f"{PANEL} .at-name")) == {
            " ".join(visible(name).split()) for name in (
                *HOSTILE[:3], HOSTILE[3].replace("\ud800", "?"))
        }  # fmt: skip
        assert tab.run("document.querySelectorAll('img, b:not(.tip b), iframe').length") == 0
        tab.run("document.querySelector('.chips button').dispatchEvent(new Event('pointerenter'))")
        assert tab.complaints == []
        assert tab.requests == [path.resolve().as_uri()]


@pytest.mark.slow
def test_mistakes_are_seen_at_any_width(browser, tmp_path):
    found = tm.transfer("zoo:cnn-mnist", "sklearn:digits?examples=100", tmp_path, progress=False)
    path = tmp_path / "report.html"
    seen = (
        "[...document.querySelectorAll('.mistakes img')]"
        ".map((i) => i.decode().then(() => i.naturalWidth))"
    )
    for width in (1280, 390):
        with browser.tab(path, width=width, mobile=width == 390) as tab:
            assert tab.run(f"Promise.all({seen})") == [8] * len(found.mistakes)
            assert tab.run("document.documentElement.scrollWidth") == width
            assert tab.complaints == []
            assert tab.requests[0] == path.resolve().as_uri()
            assert all(address.startswith("data:") for address in tab.requests[1:])


def test_long_names_are_short_with_the_whole_beside_them(browser, tmp_path):
    names = [f"hf:/home/someone/checkpoints/facebook/convnextv2-{c}-22k" for c in "ab"]
    tasks = [f"imagefolder:/data/projects/leaf-diseases-2024?label={c}" for c in "xy"]
    tables = [scores(names, task=task, layers=2) for task in tasks]
    path = Path(write_report(tables, tmp_path / "long.html"))
    with browser.tab(path) as tab:
        assert shown(tab, f"{PANEL} .at-name") == ["convnextv2-a-22k", "convnextv2-b-22k"]
        assert shown(tab, ".chips button") == ["convnextv2-a-22k", "convnextv2-b-22k"]
        titles = f"[...document.querySelectorAll('{PANEL} .at-name [title]')].map((e) => e.title)"
        assert tab.run(titles) == names
        tab.run("document.querySelector('input[type=search]').focus()")
        tab.call("Input.insertText", text="checkpoints/facebook/convnextv2-b")
        assert shown(tab, f"{PANEL} .at-name") == ["convnextv2-b-22k"]
        tab.run("document.querySelector('#layers .chart').focus()")
        tab.press("ArrowRight")
        assert shown(tab, "#layers .tip")[0].startswith(names[1])
        assert names[0] in tab.run("document.querySelector('#settings').textContent")
        assert tab.complaints == []


def test_a_large_table_opens_in_seconds(browser, tmp_path):
    path = Path(write_report(many(301, 50), tmp_path / "large.html"))
    with browser.tab(path) as tab:
        tab.call("Performance.enable")
        spent = {m["name"]: m["value"] for m in tab.call("Performance.getMetrics")["metrics"]}
        assert len(shown(tab, f"{PANEL} .at-name")) == 25
        assert shown(tab, "#ranking button.plain") == ["Show all 300"]
        tab.click("#ranking button.plain")
        assert len(shown(tab, f"{PANEL} .at-name")) == 300
        assert tab.complaints == []
        assert spent["ScriptDuration"] < 3
