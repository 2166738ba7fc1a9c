"""Ground truth: what every model of a zoo reaches on every task under one stated protocol."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence.journal import append, read
from transfer_metrics.heads.base import resolve_head
from transfer_metrics.heads.compare import compare
from transfer_metrics.progress import progress_bar
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.sources.models.load_model import expand_models
from transfer_metrics.syntax import split_list

HEADS = (
    "linear_probe",
    "finetune(lr=(0.0003, 0.003, 0.03), weight_decay=(0.0, 0.0005), epochs=5, batch_size=16, "
    "batch_norm=eval)",
)
"""The protocol. A fifth of the training examples chooses the probe's strength, and the learning
rate, weight decay and epoch of fine-tuning. Running statistics of batch normalisation stay as they
are, because networks whose normalisation was folded into their weights have none; such networks
need the smallest of the learning rates, and those without any normalisation the largest."""


FILES = (".safetensors", ".npz", ".csv", ".pt", ".jsonl")


def run(
    models: Any,
    tasks: Any,
    out: str | os.PathLike[str],
    *,
    heads: Sequence[Any] = HEADS,
    seeds: int = 2,
    cache_dir: str | os.PathLike[str] | None = None,
    device: Any = None,
    progress: bool = True,
) -> Comparison:
    """Fit heads for every pair of a model and a task, and keep what they reached.

    Pairs are worked on task by task. Each is appended to the file as soon as it is finished, a
    line per measurement; pairs that are there are not computed again, and one that failed leaves
    its reason and is tried again by the next call. Within a pair, finished fits and epochs are
    kept in the cache.

    Args:
        models: names of models, as for ``rank_models``.
        tasks: names of tasks, several with commas between them, or a list.
        out: file of JSON lines.
        heads: the protocol, as for ``compare``.
        seeds: how many.
        cache_dir: the cache, as for ``compare``.
        device: where networks run.
        progress: show progress on stderr.

    Returns:
        All that is in the file now.

    Raises:
        UnknownNameError: no such head.
        InvalidInputError: nothing to run, a model without a name, or a file that cannot be
            written.
        CorruptStoreError: the file holds something else.

    Cost: that of the fits.
    """
    path = Path(out)
    candidates = expand_models(models)
    named = [m for m in candidates if isinstance(m, str)]
    if len(named) < len(candidates):
        raise InvalidInputError("models must be names here, so that the file says which they are")
    names = split_list(tasks) if isinstance(tasks, str) else list(tasks)
    wanted = [resolve_head(head) for head in heads]
    if not names or not wanted:
        raise InvalidInputError("nothing to run; name at least one task and one head")
    done = finished(load(path).records if path.exists() else [])
    needed = {(h.label, seed) for h in wanted for seed in range(seeds if h.random else 1)}
    pairs = [(model, task) for task in names for model in named]
    missing = [pair for pair in pairs if not needed <= done.get(pair, set())]
    with progress_bar("pairs", len(pairs), progress, initial=len(pairs) - len(missing)) as bar:
        for model, task in missing:
            table = compare(
                model,
                task,
                wanted,
                ood={},
                seeds=seeds,
                cache_dir=cache_dir,
                device=device,
                progress=progress,
            )
            append(path, ({**record, "task": task} for record in table.records))
            bar.update()
    return load(path)


def load(path: str | os.PathLike[str]) -> Comparison:
    """The records of a file that ``run`` wrote; of a fit that was repeated, the last.

    Raises:
        InvalidInputError: there is no such file.
        CorruptStoreError: a line is no record.
    """
    fields = ("model", "task", "head", "seed", "metric", "split")
    return Comparison(_without_mended(read(path, fields)))


def finished(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], set[tuple[str, int]]]:
    """Heads and seeds that have an accuracy, for each pair of a model and a task."""
    found: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for record in records:
        if record["metric"] == "accuracy":
            pair = (record["model"], record["task"])
            found.setdefault(pair, set()).add((record["head"], record["seed"]))
    return found


def _without_mended(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Failures go where the same fit has succeeded since."""
    listed = list(records)
    done = finished(listed)
    return [
        r
        for r in listed
        if not r.get("error") or (r["head"], r["seed"]) not in done.get((r["model"], r["task"]), ())
    ]


def short_name(name: str) -> str:
    """What people call a model or task: the stem of its file, where it has one.

    >>> short_name("my.networks:resnet(width=2)=models/resnet_w2.safetensors")
    'resnet_w2'
    >>> short_name("npz:datasets/usps.npz"), short_name("zoo:vit-mnist")
    ('usps', 'zoo:vit-mnist')
    """
    place = PurePath(name.rpartition("=")[2] if "=" in name else name.partition(":")[2])
    return place.stem if place.suffix in FILES else name


def shortened(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records with models and tasks under their short names.

    Raises:
        InvalidInputError: two models or two tasks come to the same short name.
    """
    found = [dict(r) for r in records]
    for field in ("model", "task"):
        names = dict.fromkeys(r[field] for r in found)
        short = {name: short_name(name) for name in names}
        if len(set(short.values())) < len(short):
            raise InvalidInputError(
                f"two {field}s have files of the same name, among {', '.join(sorted(short))}; "
                f"rename one"
            )
        for r in found:
            r[field] = short[r[field]]
    return found
