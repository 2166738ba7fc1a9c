"""Rank the reference models on three tasks; makes the table of `docs/larger-example.md`.

    python -m tests.rank_reference <folder of the reference zoo> [--metrics knn,logme]

The folder has `models/*.safetensors` and `datasets/*.npz`; it is not part of this repository.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.plain_networks import shared_models
from transfer_metrics.ranking import ScoreTable, rank_models
from transfer_metrics.ranking.metric_choice import DEFAULT_METRICS

TASKS = {
    "digits": "sklearn:digits",
    "CIFAR-10": "npz:{folder}/datasets/cifar10.npz",
    "flowers": "npz:{folder}/datasets/flowers5.npz",
}


def rank(folder: Path, metrics: str | tuple[str, ...] = DEFAULT_METRICS) -> dict[str, ScoreTable]:
    """One table per task, with the models under their short names."""
    specs = shared_models(folder / "models")
    short = {spec: name for name, spec in specs.items()}
    tables = {}
    for name, task in TASKS.items():
        table = rank_models(list(specs.values()), task.format(folder=folder), metrics)
        records = [{**r, "model": short.get(r["model"], r["model"])} for r in table.records]
        tables[name] = ScoreTable(records)
    return tables


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--metrics", default=DEFAULT_METRICS)
    options = parser.parse_args()
    for title, table in rank(options.folder, options.metrics).items():
        print(f"\n{title}\n{table.format()}")
