"""How results were made, as far as their records tell: settings, versions and commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from transfer_metrics.metrics.base import METRICS
from transfer_metrics.naming import bare_name
from transfer_metrics.ranking.combine import COMBINATIONS
from transfer_metrics.report.gather import Setting
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.wording import count, listed, visible
from transfer_metrics.syntax import split_list

MOST_MODELS = 300
UNRECORDED = (
    "batch size, device, precision, which layers were asked for, the machine, and the versions of "
    "torch and other libraries"
)


def settings_of(setting: Setting) -> list[tuple[str, str]]:
    """Names and values of the settings that the records hold."""
    records = setting.table.records
    classes = [count(int(c)) for c in _values(records, "num_classes") if int(c)]
    views = {"all": "each layer on its own", "last": "its last layer", "best": "its best layer"}
    told = [
        ("task", visible(setting.task or "not recorded")),
        ("split", visible(setting.split or "not recorded")),
        ("examples", "not recorded" if setting.n is None else count(setting.n)),
        ("classes", listed(classes) or "none recorded"),
        ("pooling", visible(setting.pool or "not recorded")),
        ("stands for a model", views[setting.table.view]),
        ("intervals", _intervals(records)),
    ]
    return told + _made(records)


def measured_settings(comparison: Comparison) -> list[tuple[str, str]]:
    """The same of the heads of a task."""
    records = comparison.records
    examples = sorted({r["n"] for r in records if r["split"] == "train" and r["n"]})
    return [
        ("heads", listed([visible(h) for h in _values(records, "head")], 12)),
        ("seeds", listed(_values(records, "seed"), 12) or "not recorded"),
        ("training examples", listed([count(n) for n in examples]) or "not recorded"),
        *_made(records),
    ]


def models_of(table: ScoreTable) -> list[tuple[str, str, int, str]]:
    """Name, revision, number of scored layers and their dims of each model."""
    found: dict[str, list[dict[str, Any]]] = {}
    for r in table.records:
        found.setdefault(r["model"], []).append(r)
    rows = []
    for model, records in found.items():
        scored = [r for r in records if r["value"] is not None]
        dims = sorted({r["dim"] for r in scored if r["dim"] is not None})
        ends = [count(d) for d in dict.fromkeys([*dims[:1], *dims[-1:]])]
        revisions = ", ".join(_values(records, "revision"))
        rows.append((model, revisions, len({r["layer"] for r in scored}), " to ".join(ends)))
    return rows


def metric_references(metrics: Iterable[str]) -> list[tuple[str, str]]:
    """Where each metric was published, as far as the toolkit knows it."""
    told = []
    for label in metrics:
        name = label.partition("(")[0]
        reference = ""
        if name in COMBINATIONS:
            reference = next(iter(COMBINATIONS[name].values())).reference
        elif name in METRICS:
            reference = METRICS[name].reference
        told.append((label, reference))
    return told


def rank_command(setting: Setting) -> str:
    """The command that ranks the same models on the same task, as far as the records tell."""
    records = setting.table.records
    parts = ["transfer-metrics", "rank", "--models", _models(records)]
    parts += ["--task", setting.task, "--metrics", ",".join(setting.table.metrics)]
    parts += ["--split", setting.split] if setting.split not in ("", "train") else []
    parts += ["--pool", setting.pool] if setting.pool not in ("", "avg") else []
    parts += ["--layers", "blocks"] if setting.table.view == "all" else []
    parts += ["--layers", "last"] if setting.table.view == "last" else []
    modes = _values(records, "intervals")
    parts += ["--intervals", *(["bootstrap"] if "bootstrap" in modes else [])] if modes else []
    parts += ["--budget", "SHARE"] if _values(records, "round") else []
    return _shell(parts)


def compare_command(task: str, comparison: Comparison) -> str:
    """The command that trains the same heads, as far as the records tell."""
    records = comparison.records
    heads = [h for h in _values(records, "head") if not h.startswith("linear_probe@")]
    seeds = len(_values(records, "seed"))
    parts = ["transfer-metrics", "compare", "--models", _models(records)]
    parts += ["--task", task, "--heads", ",".join(heads), "--seeds", str(seeds or 1)]
    for name in comparison.shifts:
        parts += ["--ood", f"{name}=TASK"] if name != "ood" else []
    return _shell(parts)


def _models(records: Sequence[dict[str, Any]]) -> str:
    """The models as they are asked for; of one with a name of its own only that is known.

    >>> _models([{"model": "zoo:vit-mnist"}, {"model": "small"}, {"model": "hf:a,b"}])
    "zoo:vit-mnist,small = MODEL,'hf:a,b'"
    """
    asked = []
    for name in _values(records, "model"):
        quoted = name if split_list(name) == [name] else f"'{name}'"
        is_known = ":" in name and bare_name(name) == name
        asked.append(quoted if is_known else f"{quoted} = MODEL")
    return ",".join(asked)


def _intervals(records: Sequence[dict[str, Any]]) -> str:
    blocks = sorted({len(r["deviations"]) for r in records if r["deviations"]})
    over = f" over {listed([str(b) for b in blocks])} blocks of examples" if blocks else ""
    modes = ", ".join(map(visible, _values(records, "intervals")))
    return f"{modes}{over}" if modes else "none"


def _made(records: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """When, and by which version of the toolkit."""
    times = sorted(_values(records, "created"))
    ends = [visible(t).replace("T", " ").replace("+00:00", " UTC") for t in times]
    when = " to ".join(dict.fromkeys([*ends[:1], *ends[-1:]]))
    versions = listed([visible(v) for v in _values(records, "version")])
    what = "trained" if any(r["head"] for r in records) else "scored"
    return [
        (what, when or "time not recorded"),
        ("version", f"transfer-metrics {versions or 'not recorded'}"),
    ]


def _values(records: Iterable[dict[str, Any]], column: str) -> list[str]:
    """The different values of a column as text, in the order of the records."""
    return list(dict.fromkeys(str(r[column]) for r in records if r[column] is not None))


def _shell(parts: Sequence[str]) -> str:
    """A command for a shell; what cannot be seen is shown as escapes."""
    return " ".join(visible(shlex.quote(part), 20_000) for part in parts)
