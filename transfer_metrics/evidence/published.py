"""Accuracies after transfer, published by others or measured here, and scores beside them.

The figures lie in ``data/benchmarks``; a file is used only if its bytes have the recorded sha256.
``data/make_benchmarks.py`` made them and ``data/README.md`` says from what.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transfer_metrics.sources.zoo import data_folder, entries, entry, verified

if TYPE_CHECKING:
    import pandas as pd

MEASURED_HERE, TEXTS = "reference-zoo", "reference-texts"
"""The benchmarks that this project has measured: images, with scores, and texts."""


@dataclass(frozen=True)
class Benchmark:
    """Accuracies of models on tasks.

    Attributes:
        name: as in :func:`list_benchmarks`.
        title: models and tasks in a few words.
        source: paper and repository with commit and path.
        accuracy: what the accuracies are.
        unit: ``"%"`` or ``"fraction"``.
        accuracies: models x tasks, NaN where not reported.
        scores: metric to models x tasks, higher is better; empty where none are published.
        noise: standard errors of the accuracies, models x tasks; None where nobody tells them.
        notes: what is doubtful, left out or unusual.
    """

    name: str
    title: str
    source: str
    accuracy: str
    unit: str
    accuracies: pd.DataFrame
    scores: dict[str, pd.DataFrame]
    noise: pd.DataFrame | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        models, tasks = self.accuracies.shape
        scores = f", {len(self.scores)} scores" if self.scores else ""
        return f"Benchmark({self.name!r}, {models} models x {tasks} tasks{scores})"


def list_benchmarks() -> list[str]:
    """Names of the bundled benchmarks, sorted.

    Raises:
        CorruptStoreError: the manifest is missing or cannot be read.

    >>> [name for name in list_benchmarks() if name.startswith("sfda")]
    ['sfda-cnn', 'sfda-cnn-head', 'sfda-ssl']
    """
    return sorted(entries(data_folder() / "benchmarks", "benchmarks"))


def load_benchmark(name: str) -> Benchmark:
    """One bundled benchmark.

    Args:
        name: one of :func:`list_benchmarks`.

    Returns:
        New tables, free to be changed.

    Raises:
        UnknownNameError: there is no such benchmark.
        CorruptStoreError: the file or the manifest is missing, altered or cannot be read.

    >>> benchmark = load_benchmark("logme-cnn")
    >>> benchmark
    Benchmark('logme-cnn', 10 models x 8 tasks, 4 scores)
    >>> float(benchmark.accuracies.loc["resnet50", "pets"])
    92.5
    """
    import pandas as pd

    folder = data_folder() / "benchmarks"
    about = entry(folder, "benchmarks", name)
    text = verified(folder / about["file"], about["sha256"]).decode("utf-8")
    (_, _, *tasks), *rows = csv.reader(io.StringIO(text))
    cells: dict[str, dict[str, list[float]]] = {}
    for table, model, *values in rows:
        cells.setdefault(table, {})[model] = [float(value or "nan") for value in values]
    tables = {
        table: pd.DataFrame.from_dict(models, orient="index", columns=tasks)
        for table, models in cells.items()
    }
    return Benchmark(
        name=name,
        title=about["title"],
        source=about["source"],
        accuracy=about["accuracy"],
        unit=about["unit"],
        accuracies=tables.pop("accuracy"),
        noise=tables.pop("stderr", None),
        scores=tables,
        notes=tuple(about["notes"]),
    )
