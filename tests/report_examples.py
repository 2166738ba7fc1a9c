"""Small made-up results for tests of the report and the plots."""

from __future__ import annotations

from typing import Any

import numpy as np

from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.table import ScoreTable
from transfer_metrics.selection.base import Selection

HOSTILE = [
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "\"'><b onmouseover=alert(1)>&amp;{{7*7}}",
    "net\u202egnp.exe\u0000\u2028\ud800 $\\frac{$",
]


def scores(
    models: Any = ("alpha", "beta", "gamma"),
    *,
    task: str = "digits",
    metrics: Any = ("logme", "knn"),
    layers: int = 4,
    n: int = 200,
    intervals: bool = True,
    seed: int = 0,
    **fields: Any,
) -> ScoreTable:
    """A table in which the first model is the best and scores rise with depth."""
    rng = np.random.default_rng(seed)
    records = []
    for place, model in enumerate(models):
        for layer in range(layers):
            for metric in metrics:
                depth = (layer + 1) / layers
                deviations = rng.normal(0, 0.004, 20)
                record = {
                    "model": model, "task": task, "split": "train", "pool": "avg", "n": n,
                    "num_classes": 10, "layer": f"blocks.{layer}", "layer_index": layer,
                    "depth": depth, "dim": 16 * (layer + 1), "metric": metric,
                    "value": float(depth - 0.2 * place + rng.normal(0, 0.01)),
                    "higher_is_better": True, "seconds": 0.5, "extract_seconds": 2.0,
                    "revision": f"r{place}", "version": "0.1.0",
                    "created": "2026-01-02T03:04:05+00:00",
                }  # fmt: skip
                if intervals:
                    stderr = float(np.linalg.norm(deviations))
                    record |= {"stderr": stderr, "deviations": deviations.tolist()}
                    record["intervals"] = "jackknife"
                records.append(record | fields)
    return ScoreTable(records)


def comparison(
    models: Any = ("alpha", "beta", "gamma"),
    *,
    task: str = "digits",
    heads: Any = ("linear_probe", "finetune(lr=0.1)"),
    shifts: Any = ("blurred",),
    seeds: int = 2,
) -> Comparison:
    """Heads whose accuracy falls from model to model."""
    records: list[dict[str, Any]] = []
    for place, model in enumerate(models):
        for rank, head in enumerate(heads):
            for seed in range(seeds):
                base = {
                    "model": model, "task": task, "head": head, "seed": seed, "n": 400,
                    "layer": "blocks.2+head:input", "dim": 96, "higher_is_better": True,
                    "version": "0.1.0", "created": "2026-01-03T03:04:05+00:00",
                }  # fmt: skip
                accuracy = 0.9 - 0.1 * place + 0.03 * rank + 0.01 * seed
                found = [("accuracy", "test", accuracy)]
                found += [("accuracy", name, accuracy - 0.2) for name in shifts]
                found += [("ood_gap", "ood", 0.2)] if shifts else []
                found += [("relative_distortion", "test", 0.4)] if rank else []
                costs = (("fit_seconds", 3.0), ("train_flops", 6e11), ("stored_bytes", 18900.0))
                found += [(metric, "train", value * (1 + rank)) for metric, value in costs]
                records += [
                    {**base, "metric": metric, "split": split, "value": value}
                    for metric, split, value in found
                ]
    return Comparison(records)


def selection(layer: str = "blocks.1") -> Selection:
    """Three of eight features of one layer, all of another."""
    columns = {layer: np.array([1, 4, 7]), "blocks.2": np.arange(4)}
    dims = {layer: 8, "blocks.2": 4}
    return Selection(columns, dims, False, "group_lasso", 0.75, "alpha", "digits")
