"""Everything that the page of a report shows, before it becomes HTML."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from transfer_metrics.heads.decision import Decision, Mistake
from transfer_metrics.naming import short_names
from transfer_metrics.report.about import about
from transfer_metrics.report.contents import (
    MOST_LAYERS,
    Heads,
    Panel,
    TaskGrid,
    checks_of,
)
from transfer_metrics.report.gather import Gathered, Setting
from transfer_metrics.results.ranks import Ranked
from transfer_metrics.results.shortlist import Shortlist
from transfer_metrics.sources.tasks.task import Task
from transfer_metrics.untrusted import visible

_MOST_PANELS, _MOST_CLASSES, _MOST_NUMBERS = 40, 24, 1000
_MOST_CONFUSED, _SHADES = 12, 9
# A name that is longer is shortened where it does not differ, to so many letters at most.
_LONG, _LONGEST = 40, 80


class _Answer(NamedTuple):
    """Which model to transfer to one task, as the first metric has it."""

    label: str  # the task
    metric: str
    models: int  # how many models have a score
    best: Ranked
    second: Ranked | None
    shortlist: Shortlist | None  # where there are several models
    others: list[tuple[str, str]]  # which model each other metric puts first


def page_of(
    gathered: Gathered,
    task: Task | None,
    *,
    title: str | None,
    notes: Sequence[str],
    command: str | None,
    confidence: float,
) -> dict[str, Any]:
    """What the templates show, by the names that they call it; ``data`` is what the script reads.

    See ``html.write_report`` for the arguments.
    """
    whole = gathered
    gathered, left_out = whole.bounded()
    settings, labels = gathered.settings, gathered.labels
    panels, answers = _panels(gathered, labels, confidence)
    metrics = list(dict.fromkeys(m for s in settings for m in s.table.metrics))
    # A number for each model that has a curve: two names may look alike, numbers do not.
    drawn = dict.fromkeys(c.model for panel in panels for c in panel.curves)
    ids, names = {model: i for i, model in enumerate(drawn)}, _names(gathered)
    heads = [
        Heads.of(task, comparison, next((s for s in settings if s.task == task), None))
        for task, comparison in gathered.comparisons.items()
    ]
    summaries = [text for table in gathered.tables for text in table.task_summaries]
    page: dict[str, Any] = {
        "title": title or _question(gathered, names),
        "decisions": [_decided(decision) for decision in gathered.decisions],
        "answers": answers,
        "facts": _facts_of(whole),
        "summaries": dict.fromkeys([*summaries, *([] if task is None else [task.summary])]),
        "data_sets": [] if task is None else [_data_of(task, settings)],
        "panels": panels,
        "left_out": [*left_out, *_cut(settings, panels)],
        "layers": list(filter(None, (_layers(i, s, panels) for i, s in enumerate(settings)))),
        "grids": _grids(settings, metrics),
        "labels": labels,
        "selections": gathered.selections,
        "heads": [found for found in heads if found.rows],
        "checks": [(panel.label, check) for panel in panels for check in panel.checks],
        **about(whole, gathered, notes),
        "options": gathered.options,
        "sources": gathered.sources,
        "command": command,
        "ids": ids,
        "data": {"panels": [_panel_data(panel, ids, names) for panel in panels]},
        "names": names,  # what stands for models and tasks where their names are long
    }
    sections = {
        "decision": ("Decision", "decisions"),
        "ranking": ("Ranking", "panels"),
        "layers": ("Layers", "ids"),
        "tasks": ("Models and tasks", "grids"),
        "selection": ("Selected layers", "selections"),
        "heads": ("Heads", "heads"),
        "agreement": ("Scores against accuracies", "checks"),
        "cost": ("Cost", "costs"),
        "warnings": ("Warnings", "warnings"),
        "settings": ("Settings", ""),
        "reproduce": ("Reproduce", ""),
    }
    there = {name for name, value in page.items() if value} | {""}
    there |= {"warnings"} if page["failed"] else set()
    page["sections"] = [(anchor, name) for anchor, (name, of) in sections.items() if of in there]
    return page


def _cut(settings: Sequence[Setting], panels: Sequence[Panel]) -> list[str]:
    """What was left out on the way."""
    told = []
    total = sum(len(s.table.metrics) for s in settings)
    if total > len(panels):
        told.append(f"the first {len(panels)} of {total} rankings are shown")
    deepest = max((c.total for p in panels for c in p.curves), default=0)
    if deepest > MOST_LAYERS:
        told.append(f"of curves with more than {MOST_LAYERS} layers only some points are drawn")
    return told


def _panels(
    gathered: Gathered, labels: Sequence[str], confidence: float
) -> tuple[list[Panel], list[_Answer]]:
    panels: list[Panel] = []
    answers = []
    for i, setting in enumerate(gathered.settings):
        comparison = gathered.comparisons.get(setting.task)
        known = gathered.comparisons.values()
        checks = checks_of(setting, comparison, known) if comparison else []
        own: list[Panel] = []
        # A table in which every model failed has one ranking, of failures.
        for metric in setting.table.metrics or [""]:
            if len(panels) + len(own) == _MOST_PANELS:
                break
            own.append(Panel.of(i, labels[i], setting, metric, checks))
        panels += own
        answer = _answer_of(setting, own, confidence)
        answers += [answer] if answer else []
    return panels, answers


def _layers(place: int, setting: Setting, panels: Iterable[Panel]) -> dict[str, Any] | None:
    """The numbers behind the curves of a setting: a row per layer, a column per metric."""
    own = [panel for panel in panels if panel.setting == place and panel.curves]
    if not own:
        return None
    drawn = dict.fromkeys(c.model for panel in own for c in panel.curves)
    order, metrics = {model: i for i, model in enumerate(drawn)}, setting.table.metrics
    found: dict[tuple[str, str], tuple[float | None, int | None, dict[str, float]]] = {}
    for r in setting.table:
        if r.model in order and r.value is not None:
            at = found.setdefault((r.model, r.layer or ""), (r.depth, r.dim, dict[str, float]()))
            at[2][r.label] = r.value
    rows = [
        (model, layer, depth, dim, [scores.get(m) for m in metrics])
        for (model, layer), (depth, dim, scores) in found.items()
    ]
    rows.sort(key=lambda row: (order[row[0]], math.inf if row[2] is None else row[2]))
    return {
        "setting": place,
        "label": own[0].label,
        "metrics": metrics,
        "rows": rows[:_MOST_NUMBERS],
        "total": len({(r.model, r.layer) for r in setting.table if r.value is not None}),
    }


def _grids(settings: Sequence[Setting], metrics: Sequence[str]) -> list[TaskGrid]:
    grids = []
    for metric in metrics:
        places = [i for i, s in enumerate(settings) if metric in s.table.metrics]
        if len({settings[i].task for i in places}) > 1:
            grids.append(TaskGrid.of(settings, metric, places))
    return grids


def _names(gathered: Gathered) -> dict[str, str]:
    """What stands for each model and task; files and settings have them whole."""
    models = [str(r.model) for table in gathered.tables for r in table]
    models += [d.model for d in gathered.decisions]
    known: dict[str, str] = {}
    for found in (models, gathered.tasks, gathered.labels):
        whole = list(dict.fromkeys(found))
        known |= zip(whole, short_names(whole, _LONG, _LONGEST), strict=True)
    return known


def _panel_data(panel: Panel, ids: dict[str, int], names: dict[str, str]) -> dict[str, Any]:
    """What the script reads; all text is made visible here and only ever set as text there."""
    return {
        "metric": visible(panel.metric),
        "label": visible(panel.label),
        "setting": panel.setting,
        "curves": [
            {
                "id": ids[curve.model],
                "model": visible(curve.model),
                "short": visible(names[curve.model]),
                "points": [(*p[:4], visible(p[4]), p[5]) for p in curve.points],
            }
            for curve in panel.curves
        ],
        "checks": [
            {
                "head": visible(check.head),
                "measure": check.measure,
                "points": [(visible(m), x, y, visible(names[m])) for m, x, y in check.points],
                "trend": check.trend,
            }
            for check in panel.checks
        ],
    }


def _question(gathered: Gathered, names: dict[str, str]) -> str:
    """What the results answer, as the heading."""
    tasks = gathered.tasks
    if not tasks:
        return "Which layers to transfer?"
    models = {str(r.model) for table in gathered.tables for r in table}
    where = f"{len(tasks)} tasks"
    if len(tasks) == 1:
        where = visible(names.get(tasks[0], tasks[0]) or "this task")
    if len(models) == 1:
        return f"Which layers of {visible(names[models.pop()])} to transfer to {where}?"
    return f"Which model to transfer to {where}?"


def _answer_of(setting: Setting, panels: Sequence[Panel], confidence: float) -> _Answer | None:
    """The answer for one setting from its panels, the first of which decides."""
    if not panels or panels[0].best is None:
        return None
    first = panels[0]
    scored = [row for row in first.rows if row.rank is not None]
    models = {r.model for r in setting.table if r.value is not None}
    shortlist = None
    if len(models) > 1:
        ranking = next(iter(setting.table.rankings(first.metric).values()))
        shortlist = Shortlist.of(ranking, confidence)
    others = [(p.metric, p.best.model) for p in panels[1:] if p.best]
    both = scored[0], scored[1] if len(scored) > 1 else None
    return _Answer(first.label, first.metric, len(models), *both, shortlist, others)


def _data_of(task: Task, settings: Sequence[Setting]) -> dict[str, Any]:
    """Splits and classes of a task that was given; the classes of a regression are none."""
    split = settings[0].place.split if settings else ""
    split = split if split in task.splits else "train"
    classes: list[tuple[str, int]] = []
    if task.num_classes:
        labels = task[split].labels.astype(np.int64)
        counts = np.bincount(labels[labels >= 0], minlength=task.num_classes)
        classes = list(zip(task.classes, counts.tolist(), strict=False))
    return {
        "name": task.name,
        "modality": task.modality,
        "splits": [(name, len(part)) for name, part in task.splits.items()],
        "classes": classes[:_MOST_CLASSES],
        "total": len(classes),
        "split": split,
        "most": max((n for _, n in classes), default=0),
    }


def _facts_of(gathered: Gathered) -> list[tuple[str, int]]:
    """Counts of what is in the report: tasks, models, layers, metrics, heads."""
    scores = [r for s in gathered.settings for r in s.table]
    layers = {(r.model, r.layer) for r in scores if r.layer and r.value is not None}
    measured = [r for c in gathered.comparisons.values() for r in c]
    facts = {
        "tasks": len(gathered.tasks),
        "models": len({r.model for r in [*scores, *measured]}),
        "layers scored": len(layers),
        "metrics": len({m for s in gathered.settings for m in s.table.metrics}),
        "heads trained": len({(r.model, r.head) for r in measured if r.head}),
        "selections": len(gathered.selections),
    }
    return [(name, value) for name, value in facts.items() if value > (name == "tasks")]


def _decided(decision: Decision) -> dict[str, Any]:
    """A decision with what is confused and the surest mistakes, as the page shows them."""
    counts = decision.confusion
    return {
        "decision": decision,
        "confusion": _confused(counts, decision.class_names) if len(counts) else None,
        "mistakes": _pictured(decision.mistakes),
        "wrong": int(counts.sum() - np.trace(counts)),
    }


def _pictured(mistakes: Sequence[Mistake]) -> list[tuple[Mistake, str, str]]:
    """Mistakes with their short names and the addresses of their pictures, inside the page."""
    names = [one.place or f"number {one.example}" for one in mistakes]
    if any(one.picture for one in mistakes):
        names = short_names(names, 28, 40)
    codes = [base64.b64encode(one.picture).decode() for one in mistakes]
    addresses = [Markup("data:image/jpeg;base64,") + code if code else "" for code in codes]
    return list(zip(mistakes, names, addresses, strict=True))


def _confused(counts: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Test examples by class and predicted class; of many classes those confused most."""
    off = counts - np.diag(np.diag(counts))
    errors = off.sum(axis=0) + off.sum(axis=1)
    shown = np.sort(np.argsort(-errors, kind="stable")[:_MOST_CONFUSED])
    rest = np.setdiff1d(np.arange(len(classes)), shown)
    columns = [str(classes[i]) for i in shown] + (["others"] if len(rest) else [])
    rows = []
    for i in shown:
        found = [int(counts[i, j]) for j in shown]
        found += [int(counts[i, rest].sum())] if len(rest) else []
        whole = max(int(counts[i].sum()), 1)
        cells = [(n, round(_SHADES * n / whole)) for n in found]
        rows.append((str(classes[i]), cells, counts[i, i] / whole))
    names = list(zip(columns, short_names(columns, 14, 16), strict=True))
    return {"names": names, "rows": rows, "total": len(classes)}
