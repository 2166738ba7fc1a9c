"""Everything that the page of a report shows, before it becomes HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transfer_metrics.naming import short_names
from transfer_metrics.report.about import (
    MOST_FAILURES,
    UNRECORDED,
    Cost,
    Failure,
    Run,
    costs_of,
    failures_of,
    metric_references,
    runs_of,
    warnings_of,
)
from transfer_metrics.report.decided import Decided, decided_of
from transfer_metrics.report.gather import Gathered, Setting, bounded
from transfer_metrics.report.measured import Check, Heads, checks_of, heads_of
from transfer_metrics.report.ranked import (
    MOST_LAYERS,
    Ranking,
    Row,
    TaskGrid,
    layer_rows,
    ranking_of,
    task_grid,
)
from transfer_metrics.results.comparable import places_of
from transfer_metrics.results.shortlist import Shortlist, shortlist_of
from transfer_metrics.selection.base import Selection
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import visible

_MOST_PANELS = 40
_MOST_CLASSES = 24
# A name that is longer is shortened where it does not differ, to so many letters at most.
_LONG, _LONGEST = 40, 80


@dataclass(frozen=True)
class _Answer:
    """Which model to transfer to one task, as the first metric has it."""

    label: str  # the task
    metric: str
    models: int  # how many models have a score
    best: Row
    second: Row | None
    shortlist: Shortlist | None  # where there are several models
    others: list[tuple[str, str]]  # which model each other metric puts first


@dataclass(frozen=True)
class _Data:
    """What is known of a task that was given beside its scores."""

    name: str
    modality: str
    splits: list[tuple[str, int]]  # with their numbers of examples
    classes: list[tuple[str, int]]  # the first ones, with their numbers of examples
    total: int  # how many classes there are
    split: str  # which split was counted
    most: int  # the number of examples of the largest class


@dataclass(frozen=True)
class _Panel:
    """One metric on one setting, of which the page shows one at a time."""

    setting: int
    label: str
    ranking: Ranking
    checks: list[Check]


@dataclass(frozen=True)
class _Layers:
    """The numbers behind the curves of a setting: a row per layer, a column per metric."""

    setting: int
    label: str
    metrics: list[str]
    rows: list[tuple[Any, ...]]
    total: int


@dataclass(frozen=True)
class Page:
    """The content of a report; ``data`` is what its script reads."""

    title: str
    decisions: list[Decided]
    answers: list[_Answer]
    facts: list[tuple[str, Any]]
    summaries: list[str]
    data_sets: list[_Data]
    panels: list[_Panel]
    left_out: list[str]
    layers: list[_Layers]
    grids: list[TaskGrid]
    labels: list[str]
    selections: list[Selection]
    heads: list[Heads]
    costs: list[tuple[str, list[Cost]]]
    warnings: list[str]
    failures: list[Failure]
    failed: int
    references: list[tuple[str, str]]
    runs: list[Run]
    options: list[tuple[str, list[str]]]
    sources: list[tuple[str, str, int]]
    command: str | None
    unrecorded: str
    ids: dict[str, int]
    data: dict[str, Any]
    names: dict[str, str]  # what stands for models and tasks where their names are long

    @property
    def checks(self) -> list[tuple[str, Check]]:
        """All checks with the label of their setting."""
        return [(panel.label, check) for panel in self.panels for check in panel.checks]

    @property
    def sections(self) -> list[tuple[str, str]]:
        """Identifier and name of each section that the page has."""
        return [
            (anchor, name)
            for anchor, name, there in (
                ("decision", "Decision", self.decisions),
                ("ranking", "Ranking", self.panels),
                ("layers", "Layers", self.ids),
                ("tasks", "Models and tasks", self.grids),
                ("selection", "Selected layers", self.selections),
                ("heads", "Heads", self.heads),
                ("agreement", "Scores against accuracies", self.checks),
                ("cost", "Cost", self.costs),
                ("warnings", "Warnings", self.warnings or self.failures),
                ("settings", "Settings", True),
                ("reproduce", "Reproduce", True),
            )
            if there
        ]


def page_of(
    gathered: Gathered,
    task: Task | None,
    *,
    title: str | None,
    notes: Sequence[str],
    command: str | None,
    confidence: float,
) -> Page:
    """The content of the page; see ``html.write_report`` for the arguments."""
    facts, failures = _facts_of(gathered), failures_of(gathered)
    gathered, left_out = bounded(gathered)
    settings, labels = gathered.settings, gathered.labels
    panels, answers = _panels(gathered, labels, confidence)
    metrics = list(dict.fromkeys(m for s in settings for m in s.table.metrics))
    ids, names = _ids(panels), _names(gathered)
    split = settings[0].place.split if settings else ""
    return Page(
        title=title or _question(gathered, names),
        decisions=[decided_of(decision) for decision in gathered.decisions],
        answers=answers,
        facts=facts,
        summaries=_summaries_of(gathered, task),
        data_sets=[] if task is None else [_data_of(task, split)],
        panels=panels,
        left_out=[*left_out, *_cut(settings, panels)],
        layers=[found for i, s in enumerate(settings) if (found := _layers(i, s, labels, panels))],
        grids=_grids(settings, metrics),
        labels=labels,
        selections=gathered.selections,
        heads=_heads(gathered),
        costs=[(labels[i], costs) for i, s in enumerate(settings) if (costs := costs_of(s))],
        warnings=_sentences([*notes, *warnings_of(gathered)]),
        failures=failures[:MOST_FAILURES],
        failed=len(failures),
        references=metric_references(metrics),
        runs=runs_of(gathered),
        options=gathered.options,
        sources=gathered.sources,
        command=command,
        unrecorded=UNRECORDED,
        ids=ids,
        data={"panels": [_panel_data(panel, ids, names) for panel in panels]},
        names=names,
    )


def _cut(settings: Sequence[Setting], panels: Sequence[_Panel]) -> list[str]:
    """What was left out on the way."""
    told = []
    total = sum(len(s.table.metrics) for s in settings)
    if total > len(panels):
        told.append(f"the first {len(panels)} of {total} rankings are shown")
    deepest = max((c.total for p in panels for c in p.ranking.curves), default=0)
    if deepest > MOST_LAYERS:
        told.append(f"of curves with more than {MOST_LAYERS} layers only some points are drawn")
    return told


def _sentences(texts: Sequence[str]) -> list[str]:
    """Each text once, bounded, with a full stop."""
    told = [visible(text, 1000) for text in texts]
    return list(dict.fromkeys(t if t.endswith((".", "!", "?")) else f"{t}." for t in told))


def _panels(
    gathered: Gathered, labels: Sequence[str], confidence: float
) -> tuple[list[_Panel], list[_Answer]]:
    panels: list[_Panel] = []
    answers = []
    for i, setting in enumerate(gathered.settings):
        comparison = gathered.comparisons.get(setting.task)
        known = gathered.comparisons.values()
        checks = checks_of(setting, comparison, known) if comparison else []
        rankings = []
        # A table in which every model failed has one ranking, of failures.
        for metric in setting.table.metrics or [""]:
            if len(panels) == _MOST_PANELS:
                break
            rankings.append(ranking_of(setting, metric))
            found = [check for check in checks if check.metric == metric]
            panels.append(_Panel(i, labels[i], rankings[-1], found))
        answer = _answer_of(labels[i], setting, rankings, confidence)
        answers += [answer] if answer else []
    return panels, answers


def _heads(gathered: Gathered) -> list[Heads]:
    found = []
    for task, comparison in gathered.comparisons.items():
        scores = next((s for s in gathered.settings if s.task == task), None)
        found.append(heads_of(task, comparison, scores))
    return [heads for heads in found if heads.rows]


def _layers(
    place: int, setting: Setting, labels: Sequence[str], panels: Sequence[_Panel]
) -> _Layers | None:
    own = [panel for panel in panels if panel.setting == place and panel.ranking.curves]
    if not own:
        return None
    models = list(dict.fromkeys(c.model for panel in own for c in panel.ranking.curves))
    metrics = setting.table.metrics
    rows = layer_rows(setting, models, metrics)
    known = {(r.model, r.layer) for r in setting.table if r.value is not None}
    return _Layers(place, labels[place], metrics, rows, len(known))


def _grids(settings: Sequence[Setting], metrics: Sequence[str]) -> list[TaskGrid]:
    grids = []
    for metric in metrics:
        places = [i for i, s in enumerate(settings) if metric in s.table.metrics]
        tasks = {settings[i].task for i in places}
        if len(tasks) > 1:
            grids.append(task_grid(settings, metric, places))
    return grids


def _ids(panels: Sequence[_Panel]) -> dict[str, int]:
    """A number for each model that has a curve; two names may look alike, numbers do not."""
    models = dict.fromkeys(c.model for panel in panels for c in panel.ranking.curves)
    return {model: i for i, model in enumerate(models)}


def _names(gathered: Gathered) -> dict[str, str]:
    """What stands for each model and task; files and settings have them whole."""
    models = [str(r.model) for table in gathered.tables for r in table]
    models += [d.model for d in gathered.decisions]
    tasks = [s.task for s in gathered.settings] + list(gathered.comparisons)
    known: dict[str, str] = {}
    for found in (models, tasks, gathered.labels):
        whole = list(dict.fromkeys(found))
        known |= zip(whole, short_names(whole, _LONG, _LONGEST), strict=True)
    return known


def _panel_data(panel: _Panel, ids: dict[str, int], names: dict[str, str]) -> dict[str, Any]:
    """What the script reads; all text is made visible here and only ever set as text there."""
    return {
        "metric": visible(panel.ranking.metric),
        "label": visible(panel.label),
        "setting": panel.setting,
        "curves": [
            {
                "id": ids[curve.model],
                "model": visible(curve.model),
                "short": visible(names[curve.model]),
                "points": [(*p[:4], visible(p[4]), p[5]) for p in curve.points],
            }
            for curve in panel.ranking.curves
        ],
        "checks": [
            {
                "head": visible(check.head),
                "points": [(visible(m), x, y, visible(names[m])) for m, x, y in check.points],
                "trend": check.trend,
            }
            for check in panel.checks
        ],
    }


def _question(gathered: Gathered, names: dict[str, str]) -> str:
    """What the results answer, as the heading."""
    tasks = list(dict.fromkeys([s.task for s in gathered.settings] + list(gathered.comparisons)))
    if gathered.settings or gathered.comparisons:
        models = {r.model for table in gathered.tables for r in table}
        where = f"{len(tasks)} tasks"
        if len(tasks) == 1:
            where = visible(names.get(tasks[0], tasks[0]) or "this task")
        if len(models) == 1:
            model = visible(names[str(next(iter(models)))])
            return f"Which layers of {model} to transfer to {where}?"
        return f"Which model to transfer to {where}?"
    return "Which layers to transfer?"


def _answer_of(
    label: str, setting: Setting, rankings: Sequence[Ranking], confidence: float
) -> _Answer | None:
    """The answer for one setting from its rankings, the first of which decides."""
    if not rankings or rankings[0].best is None:
        return None
    first = rankings[0]
    scored = [row for row in first.rows if row.score is not None]
    models = {r.model for r in setting.table if r.value is not None}
    return _Answer(
        label,
        first.metric,
        len(models),
        scored[0],
        scored[1] if len(scored) > 1 else None,
        _shortlist(setting, first.metric, confidence) if len(models) > 1 else None,
        [(r.metric, r.best.model) for r in rankings[1:] if r.best],
    )


def _shortlist(setting: Setting, metric: str, confidence: float) -> Shortlist | None:
    for records in places_of(setting.table, metric).values():
        return shortlist_of(records, metric, setting.table.view, confidence)
    return None


def _data_of(task: Task, split: str) -> _Data:
    """Splits and classes of a task; the classes of a regression are none."""
    name = split if split in task.splits else "train"
    classes: list[tuple[str, int]] = []
    if task.num_classes:
        labels = task[name].labels.astype(np.int64)
        counts = np.bincount(labels[labels >= 0], minlength=task.num_classes)
        classes = list(zip(task.classes, counts.tolist(), strict=False))
    splits = [(name, len(part)) for name, part in task.splits.items()]
    most = max((n for _, n in classes), default=0)
    shown = classes[:_MOST_CLASSES]
    return _Data(task.name, task.modality, splits, shown, len(classes), name, most)


def _summaries_of(gathered: Gathered, task: Task | None) -> list[str]:
    """How each task was understood, as the records tell, and the one that was given beside them."""
    told = [text for table in gathered.tables for text in table.task_summaries]
    return list(dict.fromkeys([*told, *([] if task is None else [task.summary])]))


def _facts_of(gathered: Gathered) -> list[tuple[str, Any]]:
    """Counts of what is in the report: tasks, models, layers, metrics, heads."""
    scores = [r for s in gathered.settings for r in s.table]
    measured = [r for c in gathered.comparisons.values() for r in c]
    tasks = {s.task for s in gathered.settings} | set(gathered.comparisons)
    layers = {(r.model, r.layer) for r in scores if r.layer and r.value is not None}
    facts = [
        ("tasks", len(tasks)),
        ("models", len({r.model for r in [*scores, *measured]})),
        ("layers scored", len(layers)),
        ("metrics", len({m for s in gathered.settings for m in s.table.metrics})),
        ("heads trained", len({(r.model, r.head) for r in measured if r.head})),
        ("selections", len(gathered.selections)),
    ]
    return [(name, value) for name, value in facts if value > (name == "tasks")]
