"""Evidence from files: what `benchmark run` measured and `benchmark build` scored, as cases."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import InvalidInputError, reason, warn
from transfer_metrics.evidence.ground_truth import BEST, best
from transfer_metrics.evidence.ground_truth import reached as reached_by
from transfer_metrics.evidence.judgement import Scores
from transfer_metrics.evidence.learning import Case, cases_of, learn
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.error_model import ErrorModel
from transfer_metrics.results.known_accuracies import closest
from transfer_metrics.results.record import MEASURED, Record
from transfer_metrics.results.wording import several, some
from transfer_metrics.syntax import split_list
from transfer_metrics.untrusted import TABLE, parse_json, read_text, visible

if TYPE_CHECKING:
    import pandas as pd

_Records = Sequence[Mapping[str, Any]]
_POPULATION = "own"


def learnt(
    evidence: Any,
    scored: Callable[[Sequence[tuple[str, str]]], Iterable[Mapping[str, Any]]] | None = None,
) -> ErrorModel:
    """The model of errors that evidence teaches.

    Evidence is an ``ErrorModel``, the path of one that was saved (``.json``), or paths of files of
    JSON lines, in a list or with commas: accuracies as `benchmark run` writes them, and scores of
    the same models and tasks as `benchmark build` or `rank` write them; ``scored`` gives scores of
    pairs of a model and a task where the files have none.
    """
    if isinstance(evidence, ErrorModel):
        return evidence
    given = split_list(evidence) if isinstance(evidence, str) else evidence
    paths = [given] if isinstance(given, os.PathLike) else _paths(given)
    if len(paths) == 1 and Path(paths[0]).suffix.lower() == ".json":
        return ErrorModel.load(paths[0])
    records = [record for path in paths for record in _lines(path)]
    truth, scores = _apart(records)
    named = ", ".join(map(str, paths))
    if truth and not scores and scored is not None:
        pairs = dict.fromkeys((str(r["model"]), str(r["task"])) for r in truth)
        scores = _apart(scored(list(pairs)))[1]
    if not truth or not scores:
        have, lack = ("scores", "accuracies") if scores else ("accuracies", "scores")
        raise InvalidInputError(
            f"{named} has {have if truth or scores else 'neither accuracies nor'} "
            f"{'and no ' if truth or scores else ''}{lack}; `benchmark run` writes accuracies and "
            f"`benchmark build TRUTH --scores FILE` the scores beside them: give both files, with "
            f"a comma between"
        )
    for kind in ("model", "task"):
        reached, scored_names = (
            dict.fromkeys(str(r[kind]) for r in own) for own in (truth, scores)
        )
        if lacking := [name for name in reached if name not in scored_names]:
            others = [name for name in scored_names if name not in reached]
            warn(
                f"nothing is learnt from {several(len(lacking), kind)} with accuracies and no "
                f"scores: {some(lacking)}{closest(lacking, others)}"
            )
    accuracies = best_reached(truth)
    models, tasks = accuracies.shape
    return learn(
        truth_cases(_POPULATION, truth, scores),
        earlier={_POPULATION: accuracies},
        dims=list(Scores(scores).widths.values()),
        kinds=list(dict.fromkeys(filter(None, (Record.of(r).task_kind for r in truth)))),
        source=f"what {models} models reached on {tasks} tasks ({visible(named)})",
    )


def _paths(given: Any) -> list[str | os.PathLike[str]]:
    several = isinstance(given, Iterable) and not isinstance(given, Mapping | bytes)
    paths = list(given) if several else []
    wrong = [given] if not several else [p for p in paths if not isinstance(p, str | os.PathLike)]
    if not paths or wrong:
        what = f"is of type {type(wrong[0]).__name__}" if wrong else "names no file"
        raise InvalidInputError(
            f"the evidence {what}; give an ErrorModel, the path of one that was saved, or paths of "
            f"what `benchmark run` and `benchmark build` wrote"
        )
    return paths


def truth_cases(population: str, truth: _Records, scores: _Records) -> list[Case]:
    """Cases of a ground truth: on all examples and on parts, at the last and at the best block."""
    accuracies, scored = best_reached(truth), Scores(scores)
    classes = {str(r["task"]): int(r["num_classes"]) for r in truth if r.get("num_classes")}
    # What probes reach is of test examples, which are no size of what was scored.
    sizes = {(r["task"], int(r["n"])) for r in scores if r.get("n") and r["metric"] not in MEASURED}
    whole = dict(sorted(sizes))  # the largest of a task comes last
    cases = cases_of(population, scored.last(), accuracies, n=whole, classes=classes)
    best = scored.best()
    cases += cases_of(population, best, accuracies, n=whole, classes=classes, of_best=True)
    for size in sorted({n for _, n in sizes}):
        larger = [task for task, n in whole.items() if n > size]
        part = {name: table.filter(larger) for name, table in scored.last(size).items()}
        if len({task for table in part.values() for task in table}) > 1:
            cases += cases_of(population, part, accuracies, n=size, classes=classes)
    return cases


def best_reached(truth: _Records) -> pd.DataFrame:
    """Test accuracy of the head that validation chose, mean over seeds, models x tasks.

    Where no head of a pair has an accuracy on validation data, it is the best on test data.
    """
    chosen = best(truth)
    known = {(r["model"], r["task"]) for r in chosen}
    highest: dict[tuple[str, str, int], Mapping[str, Any]] = {}
    for r in truth:
        if r["metric"] == "accuracy" and r["split"] == "test" and r["value"] is not None:
            key = r["model"], r["task"], r["seed"]
            if key[:2] not in known and r["value"] > highest.get(key, {"value": -1})["value"]:
                highest[key] = r
    both = [*chosen, *({**r, "head": BEST} for r in highest.values())]
    return reached_by(Comparison(both), BEST)[0]


def _apart(records: Iterable[Mapping[str, Any]]) -> tuple[_Records, _Records]:
    """Records of heads that were trained, and of scores; each measurement once, the last counts."""
    kept: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    names = ("model", "task", "layer", "head", "metric", "options", "n", "split", "seed", "repair")
    for record in records:
        kept[tuple(record.get(name) for name in names)] = record
    measured = [r for r in kept.values() if Record.of(r).is_measured]
    scored = [{"repair": None, **r} for r in kept.values() if not Record.of(r).is_measured]
    return (
        [r for r in measured if r.get("head")],
        [r for r in scored if r["metric"]],
    )


def _lines(path: Any) -> list[Mapping[str, Any]]:
    found = []
    try:
        for number, line in enumerate(read_text(path, TABLE).split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = parse_json(line)
            except json.JSONDecodeError:
                raise ValueError(f"line {number} is no JSON") from None
            if not isinstance(record, Mapping) or not {"model", "task", "metric"} <= set(record):
                raise ValueError(f"line {number} is no record of a model on a task")
            found.append(record)
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"cannot learn from {path} ({reason(error)}); give files of JSON lines that `benchmark "
            f"run` and `benchmark build` wrote, with a comma between"
        ) from error
    return found
