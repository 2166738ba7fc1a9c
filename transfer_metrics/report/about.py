"""What a report says about its numbers: warnings, failures and cost, and how they were made."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from transfer_metrics.errors import TransferMetricsError
from transfer_metrics.metrics.base import METRICS, get_metric
from transfer_metrics.naming import bare_name
from transfer_metrics.ranking.metric_choice import COMBINATIONS
from transfer_metrics.report.gather import Gathered, Setting
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.ranks import width_warnings
from transfer_metrics.results.record import BINOMIAL, Record, phases
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.results.wording import count, duration, listed, several
from transfer_metrics.syntax import split_list
from transfer_metrics.untrusted import visible

_MOST_MODELS, _MOST_FAILURES = 300, 100
# Longer ones are no metric's options, and parsing them could take long.
_LONGEST_LABEL = 500


class _Failure(NamedTuple):
    """Something that could not be computed; ``times`` counts layers or seeds alike."""

    model: str
    what: str
    reason: str
    times: int


class _Cost(NamedTuple):
    """Time that one kind of work took; as measured when it was done."""

    what: str
    seconds: float
    detail: str


class _Run(NamedTuple):
    """How one group of records was made: settings, models and a command."""

    label: str
    settings: list[tuple[str, str]]
    models: list[tuple[str, str, int, str]]
    left_out: int
    command: str


def about(whole: Gathered, shown: Gathered, notes: Sequence[str]) -> dict[str, Any]:
    """What the templates say about numbers, by their names for it; failures are of the whole."""
    failures = _failures_of(whole)
    metrics = dict.fromkeys(m for s in shown.settings for m in s.table.metrics)
    costs = [_costs_of(setting) for setting in shown.settings]
    return {
        "costs": [(label, own) for label, own in zip(shown.labels, costs, strict=True) if own],
        "warnings": _sentences([*notes, *_warnings_of(shown)]),
        "failures": failures[:_MOST_FAILURES],
        "failed": len(failures),
        "references": [(metric, _reference_of(metric)) for metric in metrics],
        "runs": _runs_of(shown),
    }


def _failures_of(gathered: Gathered) -> list[_Failure]:
    """Everything that failed, equal reasons once."""
    found: dict[tuple[str, str, str], int] = {}
    for record in (r for table in gathered.tables for r in table if r.error):
        what = record.head or record.label or "model"
        key = (str(record.model), what, str(record.error))
        found[key] = found.get(key, 0) + 1
    return [_Failure(*key, times) for key, times in found.items()]


def _warnings_of(gathered: Gathered) -> list[str]:
    """What a reader should know before believing the numbers; one sentence or two each."""
    told = []
    if gathered.replaced:
        told.append(
            f"{several(gathered.replaced, 'score was', 'scores were')} given more than once with "
            f"different values; the last one given counts."
        )
    several_settings = len(gathered.settings) > 1
    for setting, label in zip(gathered.settings, gathered.labels, strict=True):
        lead = f"{visible(label)}: " if several_settings else ""
        records, metrics = list(setting.table), setting.table.metrics
        scored = [r for r in records if r.value is not None]
        of_scores = [
            *_widths(scored, metrics),
            *filter(None, (_without_errors(scored, metrics), _raced(records), _revisions(records))),
            *(
                f"{listed(models)}: {visible(note, 1000)}."
                for note, models in setting.table.notes.items()
            ),
        ]
        told += [lead + text for text in of_scores]
    return told


def _costs_of(setting: Setting) -> list[_Cost]:
    """Time of loading, of the forward passes, of statistics, and of each metric over all layers."""
    by_metric: dict[str, list[float]] = {}
    for r in setting.table:
        if r.value is not None and r.seconds is not None:
            own = r.seconds - (r.statistics_seconds or 0.0)
            by_metric.setdefault(r.label, []).append(own)
    spent = phases(setting.table)
    models = len({r.model for r in setting.table if r.extract_seconds is not None}) or 1
    each = f"{several(models, 'model')}, {duration(spent.get('forward passes', 0.0) / models)} each"
    told = (
        ("load", "loading", ""),
        ("forward passes", "forward passes", each),
        ("statistics", "statistics", "shared by the metrics below"),
    )
    costs = [_Cost(what, spent[phase], detail) for phase, what, detail in told if phase in spent]
    return costs + [_Cost(m, sum(t), several(len(t), "score")) for m, t in by_metric.items()]


def _sentences(texts: Sequence[str]) -> list[str]:
    """Each text once, bounded, with a full stop."""
    told = [visible(text, 1000) for text in texts]
    return list(dict.fromkeys(t if t.endswith((".", "!", "?")) else f"{t}." for t in told))


def _reference_of(metric: str) -> str:
    """Where a metric was published, as far as the toolkit knows it."""
    name = metric.partition("(")[0]
    if name in COMBINATIONS:
        return next(iter(COMBINATIONS[name].values())).reference
    return METRICS[name].reference if name in METRICS else ""


def _widths(scored: Sequence[Record], metrics: Sequence[str]) -> list[str]:
    """What ``rank_models`` warns of where a metric prefers wide layers."""
    known = []
    for label in metrics:
        if len(label) <= _LONGEST_LABEL:
            # A metric may not be installed here.
            with contextlib.suppress(TransferMetricsError):
                known.append(get_metric(label))
    return [visible(text, 1000) for text in width_warnings(known, scored)]


def _without_errors(scored: Sequence[Record], metrics: Sequence[str]) -> str:
    sure = {r.label for r in scored if r.stderr is not None}
    bare = {r.label for r in scored} - sure
    if not bare:
        return ""
    names = listed(m for m in metrics if m in bare)
    return (
        f"No standard errors of {names}: how sure the order is cannot be told. `rank --intervals` "
        f"adds them to the metric that ranks where it allows, `--intervals all` to each that does, "
        f"`--intervals bootstrap` to all."
    )


def _raced(records: Sequence[Record]) -> str:
    dropped = {r.model: r.n for r in records if r.round is not None}
    if not dropped:
        return ""
    least = min((n for n in dropped.values() if n is not None), default=None)
    start = "" if least is None else f", from {count(least)}"
    return (
        f"A race dropped {several(len(dropped), 'model')} on fewer examples{start}: their scores "
        f"do not compare with the others, which stand before them, and each keeps the chance to "
        f"be the best that its round gave it."
    )


def _revisions(records: Sequence[Record]) -> str:
    found: dict[str, set[str]] = {}
    for r in records:
        if r.revision:
            found.setdefault(str(r.model), set()).add(r.revision)
    mixed = [model for model, revisions in found.items() if len(revisions) > 1]
    return f"Several revisions under one name: {listed(mixed)}." if mixed else ""


def _runs_of(gathered: Gathered) -> list[_Run]:
    """How each setting was scored, and the heads of each task trained."""
    runs = []
    for setting, label in zip(gathered.settings, gathered.labels, strict=True):
        models = _models_of(setting.table)
        left_out = max(len(models) - _MOST_MODELS, 0)
        shown, command = models[:_MOST_MODELS], _rank_command(setting)
        runs.append(_Run(f"Scores on {label}", _settings_of(setting), shown, left_out, command))
    for task, comparison in gathered.comparisons.items():
        command = _compare_command(task, comparison)
        runs.append(_Run(f"Heads on {task}", _measured_settings(comparison), [], 0, command))
    return runs


def _settings_of(setting: Setting) -> list[tuple[str, str]]:
    """Names and values of the settings that the records hold."""
    records = list(setting.table)
    classes = [count(int(c)) for c in _values(records, "num_classes") if int(c)]
    views = {"all": "each layer on its own", "last": "its last layer", "best": "its best layer"}
    told = [
        ("task", visible(setting.task or "not recorded")),
        ("split", visible(setting.place.split or "not recorded")),
        ("examples", "not recorded" if setting.place.n is None else count(setting.place.n)),
        ("classes", listed(classes) or "none recorded"),
        ("pooling", visible(setting.place.pool or "not recorded")),
        ("stands for a model", views[setting.table.view]),
        ("intervals", _intervals(records)),
    ]
    return told + _made(records)


def _measured_settings(comparison: Comparison) -> list[tuple[str, str]]:
    """The same of the heads of a task."""
    records = list(comparison)
    examples = sorted({r.n for r in records if r.split == "train" and r.n})
    return [
        ("heads", listed(_values(records, "head"), 12)),
        ("seeds", listed(_values(records, "seed"), 12) or "not recorded"),
        ("training examples", listed(map(count, examples)) or "not recorded"),
        *_made(records),
    ]


def _models_of(table: ScoreTable) -> list[tuple[str, str, int, str]]:
    """Name, revision, number of scored layers and their dims of each model."""
    found: dict[str, list[Record]] = {}
    for r in table:
        found.setdefault(str(r.model), []).append(r)
    rows = []
    for model, records in found.items():
        scored = [r for r in records if r.value is not None]
        dims = sorted({r.dim for r in scored if r.dim is not None})
        ends = [count(d) for d in dict.fromkeys([*dims[:1], *dims[-1:]])]
        revisions = ", ".join(_values(records, "revision"))
        rows.append((model, revisions, len({r.layer for r in scored}), " to ".join(ends)))
    return rows


def _rank_command(setting: Setting) -> str:
    """The command that ranks the same models on the same task, as far as the records tell."""
    records = list(setting.table)
    parts = ["transfer-metrics", "rank", "--models", _models(records)]
    parts += ["--task", setting.task, "--metrics", ",".join(setting.table.metrics)]
    parts += ["--split", setting.place.split] if setting.place.split not in ("", "train") else []
    parts += ["--pool", setting.place.pool] if setting.place.pool not in ("", "avg") else []
    parts += ["--layers", "blocks"] if setting.table.view == "all" else []
    parts += ["--layers", "last"] if setting.table.view == "last" else []
    modes = {r.label: r.intervals for r in records if r.intervals}
    wide = ["bootstrap"] if "bootstrap" in modes.values() else ["all"] if len(modes) > 1 else []
    parts += ["--intervals", *wide] if modes else []
    parts += ["--budget", "SHARE"] if _values(records, "round") else []
    return _shell(parts)


def _compare_command(task: str, comparison: Comparison) -> str:
    """The command that trains the same heads, as far as the records tell."""
    records = list(comparison)
    heads = [h for h in _values(records, "head") if not h.startswith("linear_probe@")]
    seeds = len(_values(records, "seed"))
    parts = ["transfer-metrics", "compare", "--models", _models(records)]
    parts += ["--task", task, "--heads", ",".join(heads), "--seeds", str(seeds or 1)]
    for name in comparison.shifts:
        parts += ["--ood", f"{name}=TASK"] if name != "ood" else []
    return _shell(parts)


def _models(records: Iterable[Record]) -> str:
    """The models as they are asked for; of one with a name of its own only that is known."""
    asked = []
    for name in _values(records, "model"):
        quoted = name if split_list(name) == [name] else f"'{name}'"
        is_known = ":" in name and bare_name(name) == name
        asked.append(quoted if is_known else f"{quoted} = MODEL")
    return ",".join(asked)


def _intervals(records: Sequence[Record]) -> str:
    blocks = sorted(
        {len(r.deviations) for r in records if r.deviations and r.intervals != BINOMIAL}
    )
    over = f" over {listed(blocks)} blocks of examples" if blocks else ""
    modes = ", ".join(map(visible, _values(records, "intervals")))
    return f"{modes}{over}" if modes else "none"


def _made(records: Sequence[Record]) -> list[tuple[str, str]]:
    """When, and by which version of the toolkit."""
    times = sorted(_values(records, "created"))
    ends = [visible(t).replace("T", " ").replace("+00:00", " UTC") for t in times]
    when = " to ".join(dict.fromkeys([*ends[:1], *ends[-1:]]))
    versions = listed(_values(records, "version"))
    what = "trained" if any(r.head for r in records) else "scored"
    return [
        (what, when or "time not recorded"),
        ("version", f"transfer-metrics {versions or 'not recorded'}"),
    ]


def _values(records: Iterable[Record], column: str) -> list[str]:
    """The different values of a column as text, in the order of the records."""
    return list(
        dict.fromkeys(str(getattr(r, column)) for r in records if getattr(r, column) is not None)
    )


def _shell(parts: Sequence[str]) -> str:
    """A command for a shell; what cannot be seen is shown as escapes."""
    return " ".join(visible(shlex.quote(part), 20_000) for part in parts)
