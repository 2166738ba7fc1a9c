"""Lines of docs/laws-models.md: a model by every law."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

import transfer_metrics as tm
from tests.law_models import MODULES, Subject, subject
from tests.law_tasks import data_for
from tests.laws_of_models import LAWS, METRICS, SCORES, SOURCE, Broken, alive, read
from tests.model_families import CASES as FAMILIES
from tests.model_families import Case, NotHere
from transfer_metrics.errors import TransferMetricsError, TransferMetricsWarning
from transfer_metrics.sources.base import Model

CASES = (*FAMILIES, *(Case("module", "plain module", name) for name in MODULES))
QUICK = ("hf:resnet", "hf:bert", "hf:hubert", "module:transformer")
"""One of each modality, for the quick suite."""
ENGINE = "2 workers"


@functools.cache
def cells(case: Case) -> dict[str, str]:
    """What each law says of a model, except that of two workers.

    Raises:
        Broken: laws that do not hold, and where.
    """
    with tempfile.TemporaryDirectory() as folder:
        held = subject(case, Path(folder))
        found, broken = {}, []
        for title, law in LAWS.items():
            told: list[str] = []
            for data in data_for(held.model):
                try:
                    law(held, data, _base(held, data.name))
                except Broken as error:
                    broken.append(f"{title}, {data.name}: {error}")
                except TransferMetricsError as error:
                    told.append(f"{data.name}: {refused(error)}")
            found[title] = "; ".join(["holds"] if not told else told)
    if broken:
        raise Broken("\n".join(broken))
    return found


def refused(error: TransferMetricsError | str) -> str:
    pass
