"""Lines of docs/laws-models.md: every law about a model, and whether it holds."""

from __future__ import annotations

import functools
import re
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transfer_metrics as tm
from tests import audio_models, text_models
from tests.law_models import MODULES, subject
from tests.law_tasks import data_for
from tests.laws_of_models import LAWS, METRICS, SOURCE, Broken, alive, read, same_scores
from tests.model_families import CASES as FAMILIES
from tests.model_families import Case
from transfer_metrics.errors import TransferMetricsError, TransferMetricsWarning

CASES = (*FAMILIES, *(Case("module", "plain module", name) for name in MODULES))
QUICK = ("hf:resnet", "hf:bert", "hf:hubert", "module:transformer")
"""One of each modality, for the quick suite."""
HOLDS, ENGINE = "holds", "2 workers"


@functools.cache
def cells(case: Case) -> dict[str, str]:
    """What comes of each law about a model on all kinds of tasks, but for that of two workers.

    Raises:
        NotHere: its weights are not on this machine.
        Broken: laws that do not hold, a line each.
    """
    refusals: dict[str, dict[str, None]] = {title: {} for title in LAWS}
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        held = subject(case, Path(folder))
        for data in data_for(held.model):
            try:
                base = read(held.model, data.task())
                alive(base)
            except TransferMetricsError as error:
                for told in refusals.values():
                    told[refused(error, data.name)] = None
                continue
            for title, law in LAWS.items():
                try:
                    law(held, data, base)
                except Broken as error:
                    broken.append(f"{title}, {data.name}: {error}")
                except TransferMetricsError as error:
                    refusals[title][refused(error, data.name)] = None
    if broken:
        raise Broken("\n".join(broken))
    return {title: "; ".join(told) or HOLDS for title, told in refusals.items()}


def refused(error: TransferMetricsError, kind: str) -> str:
    """A refusal as a cell.

    Raises:
        Broken: it is no refusal but a failure somewhere else.
    """
    if error.__cause__ is not None and not isinstance(error.__cause__, TransferMetricsError):
        raise Broken(f"{kind}: {error}")
    reason = re.sub(r"^model '[^']*'|\|", "", str(error).partition(";")[0]).strip()
    return f"refused: {kind}: {reason}"


@functools.cache
def with_workers(group: tuple[Case, ...]) -> dict[Case, str]:
    """What comes of ranking models by two processes, whose order and shards nobody knows.

    Args:
        group: models that read the same kind of example.
    """
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", TransferMetricsWarning)
        held = {case: subject(case, Path(folder) / str(i)).model for i, case in enumerate(group)}
        data = data_for(next(iter(held.values())))[0]
        # Networks with parametrisations cannot be pickled; those of a folder go by its name.
        given = [m.name if m.name.startswith("hf:") else m for m in held.values()]
        here, there = (
            _scores(given, data.task(), **options)
            for options in ({}, {"engine": "processes", "workers": 2})
        )
    for model in held.values():
        same_scores(there[model.name], here[model.name])
    return dict.fromkeys(group, HOLDS)


def _scores(models: Iterable[Any], task: Any, **options: Any) -> dict[str, dict[str, float]]:
    table = tm.rank_models(
        list(models), task, [*METRICS[task.kind], *SOURCE], layers="last", cache="never",
        shard_size=5, batch_size=3, progress=False, **options,
    )  # fmt: skip
    found: dict[str, dict[str, float]] = {}
    for record in table.records:
        if record["error"] and record["metric"] not in SOURCE:
            raise Broken(f"{record['model']}: {record['error']}")
        found.setdefault(record["model"], {})
        if not record["error"]:
            found[record["model"]][record["metric"]] = record["value"]
    return found


def group(case: Case) -> tuple[Case, ...]:
    """The models that are ranked together with one: of its hub, and of what it reads."""
    if case.hub == "module":
        return (case,)
    return tuple(c for c in CASES if c.hub == case.hub and _reads(c) == _reads(case))


def _reads(case: Case) -> str:
    if case.name in audio_models.FAMILIES:
        return "audio"
    return "text" if case.name in text_models.FAMILIES or "MiniLM" in case.name else "image"


def start(case: Case) -> str:
    """How the line of a case begins."""
    return f"| {case.hub} | `{case.name}` |"


def row(case: Case) -> str:
    """The line of a case, after trying it."""
    return f"{start(case)} {' | '.join([*cells(case).values(), with_workers(group(case))[case]])} |"
