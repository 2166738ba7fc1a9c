"""A report as one HTML file that needs nothing else: no network, no other files."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

import transfer_metrics
from transfer_metrics.files import check_file, written
from transfer_metrics.report.gather import gather
from transfer_metrics.report.page import page_of
from transfer_metrics.results.shortlist import CONFIDENCE
from transfer_metrics.results.wording import (
    count,
    duration,
    fixed,
    listed,
    number,
    several,
    short,
)
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.untrusted import visible

if TYPE_CHECKING:
    import jinja2

_SCRIPTS = ("charts.js", "curves.js", "checks.js", "tables.js", "page.js")
_LONGEST = 20_000
GENERATOR = b'<meta name="generator" content="transfer-metrics '
"""What is in every page, and in no file of anybody else."""


def write_report(
    results: Any,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    task: Any = None,
    view: str | None = None,
    notes: Sequence[str] = (),
    command: str | None = None,
    confidence: float = CONFIDENCE,
) -> str:
    """Write results as one HTML page to be read, sorted, filtered, printed and sent on.

    The page has what it was given of: the answer, rankings with intervals and the probability of
    being best, layer-wise curves, tasks beside each other, selected layers, heads with the check of
    scores against their accuracies, cost, warnings, settings, and how to make it again. It loads
    nothing: a content security policy forbids all but its own style and script. Names from files
    are escaped. Large results are cut, and the page says where; the same results give the same
    bytes.

    Args:
        results: a ``ScoreTable``, ``Comparison``, ``Selection`` or ``Decision``, the path of a file
            that one of the first three wrote, of records that ``--json`` printed or of the options
            of a run (``run.yaml``), or a list of these. Only scores of the same task, split,
            pooling and examples are ranked together.
        path: the file to write.
        title: heading; by default the question that the results answer.
        task: the task, or its name, to show its classes and splits.
        view: which layers stand for a model (``"best"``, ``"last"``, ``"all"``); by default as in
            the first table.
        notes: warnings of the run to be shown with the others.
        command: how the results were made; by default a command is put together from the records.
        confidence: with which the shortlist is to hold the best model.

    Returns:
        The path that was written.

    Raises:
        InvalidInputError: nothing to report, a file that is missing or holds something else, a
            place that cannot be written to, or a file there that is no such page.
        UnknownNameError: no such task.

    Cost: seconds for tens of thousands of records; the page stays below ten megabytes.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from transfer_metrics.results.table import ScoreTable
    >>> table = ScoreTable([{"model": "<a>", "layer": "fc", "metric": "knn", "value": 0.7}])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = Path(write_report(table, f"{folder}/report.html")).read_text()
    >>> "<a>" in page, "&lt;a&gt;" in page
    (False, True)
    """
    check_file(path, (GENERATOR,))
    gathered = gather(results, view)
    loaded = None if task is None else load_task(task)
    page = page_of(
        gathered, loaded, title=title, notes=notes, command=command, confidence=confidence
    )
    text = _rendered(page)
    written(path, text)
    return str(path)


def _rendered(page: Mapping[str, Any]) -> str:
    from markupsafe import Markup

    script = "\n".join(["'use strict';", *map(_template, _SCRIPTS)])
    style = _template("page.css")
    return (
        _environment(page["names"])
        .get_template("page.html.j2")
        .render(
            page=page,
            # Our own files, which the policy names by their hashes.
            script=Markup(script),
            style=Markup(style),
            policy=_policy(script, style, page),
            version=transfer_metrics.__version__,
        )
    )


def _policy(script: str, style: str, page: Mapping[str, Any]) -> str:
    """What the page may load: nothing but this script and this style, and pictures inside it."""
    has_pictures = any(address for found in page["decisions"] for *_, address in found["mistakes"])
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src '{_hash(script)}'",
            f"style-src '{_hash(style)}'",
            *(["img-src data:"] if has_pictures else []),
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
        ]
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _template(name: str) -> str:
    folder = resources.files("transfer_metrics.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _environment(names: Mapping[str, str]) -> jinja2.Environment:
    import jinja2
    from markupsafe import Markup

    def called(name: str) -> str:
        """The short name, which tells the whole one where the pointer rests."""
        short = visible(names.get(name, name))
        if short == visible(name):
            return short
        return Markup('<span title="{}">{}</span>').format(visible(name, 600), short)

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        # What is misspelt in a template is an error, and whatever is shown can be seen.
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals |= {"number": number, "percent": lambda share: fixed(100 * share, 0)}
    told = (called, count, duration, fixed, listed, number, several, short)
    environment.filters |= {
        **{function.__name__: function for function in told},
        "called_plainly": lambda name: visible(names.get(name, name)),
        "name": visible,
    }
    return environment


def _shown(value: Any) -> Any:
    """Text as it can be seen; markup, which only templates and filters make, as it is."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return visible(value, _LONGEST) if is_text else value
