"""Ground truth: what every model of a zoo reaches on every task under one stated protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transfer_metrics.errors import CorruptStoreError, InvalidInputError
from transfer_metrics.heads.compare import compare
from transfer_metrics.heads.comparison import Comparison
from transfer_metrics.heads.registry import resolve_head
from transfer_metrics.progress import progress_bar
from transfer_metrics.sources.models import expand_models
from transfer_metrics.syntax import split_list

HEADS = (
    "linear_probe",
    "finetune(lr=(0.003, 0.03), weight_decay=(0.0, 0.0005), epochs=10, batch_norm=eval)",
)
"""The protocol. A fifth of the training examples chooses the probe's strength, and the learning
rate, weight decay and epoch of fine-tuning. Running statistics of batch normalisation stay as they
are, because networks whose normalisation was folded into their weights have none."""


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

    A last line that was cut short, by a process that was killed while writing, is left out.

    Raises:
        InvalidInputError: there is no such file.
        CorruptStoreError: another line is no record.
    """
    try:
        lines = Path(path).read_text("utf-8").split("\n")
    except OSError as error:
        raise InvalidInputError(f"cannot read {path} ({error.strerror or error})") from error
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
            records[_identity(record)] = record
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptStoreError(
                f"line {number} of {path} is no record ({error}); repair or remove the line"
            ) from error
    return Comparison(_without_mended(records.values()))


def finished(records: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], set[tuple[str, int]]]:
    """Heads and seeds that have an accuracy, for each pair of a model and a task."""
    found: dict[tuple[str, str], set[tuple[str, int]]] = {}
    for record in records:
        if record["metric"] == "accuracy":
            pair = (record["model"], record["task"])
            found.setdefault(pair, set()).add((record["head"], record["seed"]))
    return found


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add lines to a file, after removing a last line that was cut short.

    Raises:
        InvalidInputError: the file cannot be written.
    """
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


def _identity(record: Mapping[str, Any]) -> tuple[Any, ...]:
    fields = ("model", "task", "head", "seed", "metric", "split")
    return tuple(record[field] for field in fields)


def _without_mended(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Failures go where the same fit has succeeded since."""
    listed = list(records)
    done = finished(listed)
    return [
        r
        for r in listed
        if not r.get("error") or (r["head"], r["seed"]) not in done.get((r["model"], r["task"]), ())
    ]
