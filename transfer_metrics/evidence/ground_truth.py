"""Ground truth: what every model of a zoo reaches on every task under one stated protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.heads.base import resolve_head
from transfer_metrics.heads.compare import compare
from transfer_metrics.progress import progress_bar
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.sources.models.candidates import expand_models
from transfer_metrics.syntax import split_list
from transfer_metrics.untrusted import TABLE, parse_json, read_text

HEADS = (
    "linear_probe",
    "finetune(lr=(0.0003, 0.003, 0.03), weight_decay=(0.0, 0.0005), epochs=5, batch_size=16, "
    "batch_norm=eval)",
)
"""The protocol. A fifth of the training examples chooses the probe's strength, and the learning
rate, weight decay and epoch of fine-tuning. Running statistics of batch normalisation stay as they
are, because networks whose normalisation was folded into their weights have none; such networks
need the smallest of the learning rates, and those without any normalisation the largest."""

_FILES = (".safetensors", ".npz", ".csv", ".pt", ".jsonl")


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

    Models and tasks go by names, heads are the protocol, all other options are as for ``compare``.
    Returned is all that is in the file now.
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
    done = _finished(load(path).records if path.exists() else [])
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
            append_lines(path, ({**record, "task": task} for record in table.records))
            bar.update()
    return load(path)


def load(path: str | os.PathLike[str]) -> Comparison:
    """The records of a file that ``run`` wrote; of a fit that was repeated, the last."""
    fields = ("model", "task", "head", "seed", "metric", "split")
    return Comparison(_without_mended(read_lines(path, fields)))


def _finished(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], set[tuple[str, int]]]:
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
    done = _finished(listed)
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
    return place.stem if place.suffix in _FILES else name


def shortened(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The records with models and tasks under their short names, which must differ."""
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


def read_lines(path: str | os.PathLike[str], identity: Sequence[str]) -> list[dict[str, Any]]:
    """The records of a file of JSON lines; of those with equal fields of identity, the last.

    A last line that was cut short, by a process that was killed while writing, is left out.
    """
    try:
        lines = read_text(path, TABLE).split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInputError(
            f"cannot read {path} ({reason}); give a file that `benchmark run` wrote"
        ) from error
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = parse_json(line)
            records[tuple(record[field] for field in identity)] = record
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptStoreError(
                f"line {number} of {path} is no record ({error}); repair or remove the line"
            ) from error
    return list(records.values())


def append_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a file, after removing a last line that was cut short."""
    text = "".join(json.dumps(dict(r), allow_nan=False, default=str) + "\n" for r in records)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidInputError(
            f"cannot write {path} ({error.strerror or error}); free some space or choose another "
            f"file"
        ) from error
