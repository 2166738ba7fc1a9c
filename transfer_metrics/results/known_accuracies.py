"""Accuracies that are known already, however they are given: as one table of models x tasks."""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, meant, reason, warn
from transfer_metrics.naming import a_type
from transfer_metrics.results.record import QUALITIES, Record, measures_told
from transfer_metrics.results.record_files import read_records
from transfer_metrics.results.wording import LOSSES, listed, some
from transfer_metrics.sources.tasks.label_values import ABSENT, is_none, number_of
from transfer_metrics.sources.tasks.separated_values import read_separated
from transfer_metrics.untrusted import TABLE, read_text, visible

if TYPE_CHECKING:
    import pandas as pd

UNNAMED = ""
"""The task of accuracies that do not say of which they are."""
_MOST_ASKED = 20
_TOLD = "units are told"
_LOWER_IS_BETTER = re.compile(
    rf"((top|1|5|test|val|valid|validation|eval|mean|avg|average)[\W_]*|({LOSSES})[\W_]+)*"
    rf"({LOSSES}|ranks?|rate(?<=error.rate))[\W\d_]*"
    r"|(.*[\W\d_])?(err|misclassified|misclassification)([\W\d_].*)?",
    re.IGNORECASE,
)
_OF_MODELS = re.compile(
    r"[\W_]*((num|number|of|model|total|trainable|train|training|param|img|image|input|crop|file)[\W_]*"
    r"|[nkmg][\W_]+)*(params?|parameters|(?<=param.)count|[mg]?flops?|g?macs?|size|(?<=crop.)pct"
    r"|time|seconds|latency|throughput|epochs?|lr|memory|layers|(images|img|examples)/s(ec)?"
    r"|downloads|year|std|stderr)([\W\d_]+[a-z]{0,2}[\W\d_]*)?",
    re.IGNORECASE,
)
"""What columns are called that say something of models and not what they reach."""
_MEANS = re.compile(r"(mean|average|avg|median)([\W_]*(acc|accuracy|score))?", re.IGNORECASE)
_LONG = {"model", "metric", "value"}
_TAKEN = (
    "give a mapping from models to accuracies, a DataFrame of models x tasks, the path of a CSV "
    "file of one, or the table of a comparison"
)


def known_accuracies(given: Any, head: str | None = None, split: str = "test") -> pd.DataFrame:
    """Accuracies of models x tasks, NaN where not known.

    Given are such a table, whose models are its index or its column ``model``; a file of one;
    accuracies by model, of a task without a name; or the records of a comparison, of which ``head``
    and ``split`` say which count, and of which the mean over the seeds is taken; then
    ``attrs["measure"]`` says what they are.
    """
    import pandas as pd

    if isinstance(given, str | os.PathLike):
        path = Path(given)
        if not _is_long(path):
            return _from_file(path)
        given = _records_in(path)
    if isinstance(given, pd.DataFrame) and set(given.columns) >= _LONG:
        given = given.astype(object).where(given.notna(), None).to_dict("records")
    if isinstance(given, pd.DataFrame):
        if list(given.columns).count("model") == 1:
            given = given.set_index("model")
        return _checked(given, "accuracies")
    if isinstance(given, pd.Series):
        _refuse_errors(str(given.name), "accuracies")
        return _checked(given.astype(object).to_frame(UNNAMED), "accuracies")
    if isinstance(given, Mapping):
        column = pd.Series(dict(given), dtype=object)
        return _checked(pd.DataFrame({UNNAMED: column}), "accuracies")
    if not isinstance(given, Iterable):
        raise InvalidInputError(f"accuracies of type {type(given).__name__}; {_TAKEN}")
    records = list(given)
    for record in records:
        if not isinstance(record, Mapping | Record):
            raise InvalidInputError(
                f"accuracies are {a_type(given)} of {type(record).__name__}, which does "
                f"not say of which models; {_TAKEN}"
            )
    return _of_records(records, head, split)


def _from_file(path: Path) -> pd.DataFrame:
    """A table of accuracies from a file of separated values, models in rows and tasks in columns.

    The first column has the names of the models, under any header; the others have the names of
    their tasks for headers. A cell that is empty, or ``NA`` and the like, is not known. Commas,
    semicolons, tabs and bars separate; decimal commas are read where no comma separates.
    """
    import pandas as pd

    try:
        text = read_text(path, TABLE)
        columns, _ = read_separated(text, path.suffix.lower(), "yes")
    except (OSError, ValueError, OverflowError, csv.Error) as error:
        if isinstance(error, FileNotFoundError) and "," in str(path):
            raise InvalidInputError(
                f"there is no file {path}; one file is taken, and not several with commas between: "
                f"put the tasks of all into one table"
            ) from error
        raise InvalidInputError(
            f"cannot read accuracies from {path}: {reason(error)}; give a CSV file with a header, "
            f"models in rows and tasks in columns"
        ) from error
    names, *tasks = columns or {"": []}
    if not tasks or not columns[names]:
        raise InvalidInputError(
            f"{path} has no {'accuracies' if tasks else 'task'}; give a row per model and, after "
            f"the names of the models, a column per task"
        )
    if "task" in tasks:
        raise InvalidInputError(
            f"{path} has a row per model and task; give a row per model and a column per task "
            f"(`frame.pivot(index='model', columns='task', values=…)` of pandas makes it)"
        )
    numbers = [number_of(task) for task in tasks]
    if None not in numbers and numbers not in ([*range(len(tasks))], [*range(1, len(tasks) + 1)]):
        raise InvalidInputError(
            f"{path} has numbers in its first line ({some(tasks)}), where "
            f"the names of the tasks belong; add a header"
        )
    first = text.lstrip().partition("\n")[0]
    for task in tasks:
        # A second column of a name is read under a number that the header does not have.
        if (twin := task.rpartition(".")[0]) in tasks and task not in first:
            raise InvalidInputError(
                f"{path}: task {visible(twin)!r} is there twice; make the names unique"
            )
    models = [model.strip() for model in columns[names]]
    if "" in models:
        raise InvalidInputError(
            f"{path}: row {models.index('') + 1} has no name of a model in its first column; give "
            f"it one, or remove the row"
        )
    cells = {
        task: [_number(cell, m, task, path) for m, cell in zip(models, columns[task], strict=True)]
        for task in tasks
    }
    return _checked(pd.DataFrame(cells, index=models), str(path))


def cure_of_names(models: Sequence[str], accuracies: pd.DataFrame) -> str:
    """What to do about accuracies that have none of the models in their rows."""
    if any(model in accuracies.columns for model in models):
        return (
            "the header holds the models: transpose it, so that models are rows and tasks columns"
        )
    return f"{meant(models[0], accuracies.index)} use the same names".lstrip()


def closest(lacking: Sequence[Any], known: Iterable[Any]) -> str:
    """What to add to a sentence about names that another table lacks: one that may be meant."""
    names = list(map(str, known))
    asked = (meant(str(name), names) for name in lacking[:_MOST_ASKED])
    return next((f"; {question}" for question in asked if question), "")


def _is_long(path: Path) -> bool:
    """Whether a file has one record per line, as tables are saved, and not one model."""
    if path.suffix.lower() in (".jsonl", ".parquet"):
        return True
    try:
        with open(path, encoding="utf-8-sig") as file:
            return set(next(csv.reader([file.readline(100_000)]), [])) >= _LONG
    except (OSError, ValueError, csv.Error):
        return False  # what is wrong is told by who reads all of it


def _records_in(path: Path) -> list[Record]:
    try:
        return read_records(path)[0]
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidInputError(
            f"cannot read accuracies from {path}: {reason(error)}; give a table of models x tasks, "
            f"or one that `compare` or `benchmark run` wrote"
        ) from error


def _of_records(records: list[Any], head: str | None, split: str) -> pd.DataFrame:
    import pandas as pd

    found = [
        r
        for r in map(Record.of, records)
        if r.metric in QUALITIES and r.split == split and r.value is not None
    ]
    heads = sorted({r.head or "" for r in found})
    if head is None and len(heads) > 1:
        raise InvalidInputError(
            f"the accuracies are of several heads ({', '.join(heads)}); name one as head="
        )
    chosen = [r for r in found if head is None or r.head == head]
    if not chosen:
        raise InvalidInputError(
            f"no accuracy of head {head!r} on {split!r}; heads: {', '.join(heads) or 'none'}"
        )
    cells: dict[str, dict[str, list[float]]] = {}
    for r in chosen:
        cells.setdefault(r.task or UNNAMED, {}).setdefault(str(r.model), []).append(r.value or 0.0)
    table = pd.DataFrame(
        {t: pd.Series({m: float(np.mean(v)) for m, v in of.items()}) for t, of in cells.items()}
    )
    table.attrs["measure"] = measures_told(r.metric for r in chosen)
    return table


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table as finite numbers, NaN where not known, with unique names as text."""
    named = table.set_axis(table.index.map(str), axis="index").set_axis(
        table.columns.map(str), axis="columns"
    )
    for kind, names in (("model", named.index), ("task", named.columns)):
        if len(twins := names[names.duplicated()]):
            raise InvalidInputError(
                f"{where}: {kind} {visible(twins[0])!r} is there twice; make the names unique"
            )
    for task in named.columns:
        _refuse_errors(task, where)
    others = [task for task in named.columns if not _OF_MODELS.fullmatch(task.strip())]
    tasks = [task for task in others if not _MEANS.fullmatch(task.strip())] or others
    if left := [task for task in named.columns if task not in tasks]:
        warn(
            f"{where}: {listed([repr(visible(task)) for task in left], 3)} "
            f"{'is' if len(left) == 1 else 'are'} by name no accuracy on a task; left out"
        )
        named = named[tasks]
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        numbers = named.astype(np.float64)
        if not np.isinf(numbers.to_numpy()).any():
            _warn_of_units(numbers, where)
            return numbers
    cells = {
        task: [_number(cell, m, task, where) for m, cell in column.items()]
        for task, column in named.items()
    }
    numbers = type(named)(cells, index=named.index)
    _warn_of_units(numbers, where)
    return numbers


def _refuse_errors(name: str, where: str) -> None:
    """Refuse a column that is called what is the better the lower it is."""
    if _LOWER_IS_BETTER.fullmatch(name.strip()):
        raise InvalidInputError(
            f"{where}: column {visible(name)!r} has the name of what is better the lower it is, "
            f"and the highest counts as the best; give accuracies, such as 1 - error, or name the "
            f"column after its task if it has them"
        )


def _warn_of_units(table: pd.DataFrame, where: str) -> None:
    """Warn, once of a table, where some accuracies look like shares, and others like per cents."""
    for task, column in () if table.attrs.get(_TOLD) else table.items():
        small, large = column[(column > 0) & (column < 1)], column[column > 1]
        if not (len(small) and len(large)) or column.min() < 0 or not 10 < large.max() <= 100:
            continue
        if large.min() > 5 * small.max():
            warn(
                f"{where}{_on(task)}: {small.max():g} for model {visible(small.idxmax())!r} beside "
                f"{large.min():g}; give all accuracies in per cent or all as fractions"
            )
    table.attrs[_TOLD] = True


def _on(task: Any) -> str:
    return f" on task {visible(task)!r}" if task != UNNAMED else ""


def _number(cell: Any, model: Any, task: Any, where: str | Path) -> float:
    """An accuracy, NaN where it is not known."""
    number: Any = cell
    if isinstance(cell, str):
        number = math.nan if cell.strip() in ABSENT else number_of(cell)
    elif is_none(cell):
        number = math.nan
    wrong = f"{where}: the accuracy of model {visible(model)!r}{_on(task)} is"
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    except (TypeError, ValueError) as error:
        cure = "give a number, or nothing where not known"
        if isinstance(cell, str) and cell.strip().endswith("%"):
            cure = "leave out the sign"
        raise InvalidInputError(f"{wrong} {visible(cell)!r}, which is no number; {cure}") from error
    if math.isinf(value):
        raise InvalidInputError(f"{wrong} infinite; give a number, or nothing where not known")
    return value
