"""Ground truth: what every model of a zoo reaches on every task under one stated protocol."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from transfer_metrics.errors import CorruptStoreError, InvalidInputError, reason, warn
from transfer_metrics.heads.base import resolve_head
from transfer_metrics.heads.compare import compare
from transfer_metrics.heads.splits import complete_task
from transfer_metrics.progress import progress_bar
from transfer_metrics.results.agreement import FEWEST
from transfer_metrics.results.comparison import Comparison
from transfer_metrics.results.error_model import ENOUGH
from transfer_metrics.results.wording import several
from transfer_metrics.sources.models.candidates import Candidate, candidates_of
from transfer_metrics.sources.tasks.load_task import load_task
from transfer_metrics.syntax import split_list
from transfer_metrics.untrusted import TABLE, parse_json, read_text

if TYPE_CHECKING:
    import pandas as pd

_STRENGTHS = tuple(float(f"{c:.0e}") for c in np.logspace(-5, 2, 15))
_TRAINED = "lr=(0.0001, 0.0006, 0.003, 0.02, 0.1), optimizer=sgd, weight_decay=0.0005, \
epochs={epochs}, halving=3, batch_size=16, batch_norm=eval"
_STEPS, _LEAST, _MOST = 200, 9, 12
"""Steps of training, and the bounds of the epochs that come of them."""
_VALIDATION = 0.5
"""Share of the training examples that chooses settings, epochs and heads; as large as that for
training, because a choice between heads is no better than what it is made by."""
BEST = "best"
"""The head of ``best``."""

_FILES = (".safetensors", ".npz", ".csv", ".pt", ".jsonl")


def protocol(examples: int) -> tuple[str, ...]:
    """The stated heads, the simplest first, for so many examples to train on.

    Small sets are seen more often, so that there are about as many steps. Running statistics of
    batch normalisation stay as they are, because networks whose normalisation was folded into their
    weights have none; such networks need the smallest of the learning rates, and those without any
    normalisation the largest.

    >>> [head.partition("(")[0] for head in protocol(500)]
    ['linear_probe', 'head2toe_cv', 'lpft', 'finetune']
    >>> "epochs=9" in protocol(500)[3], "epochs=12" in protocol(200)[3]
    (True, True)
    """
    epochs = min(max(math.ceil(16 * _STEPS / examples), _LEAST), _MOST)
    trained = _TRAINED.format(epochs=epochs)
    return (
        f"linear_probe(C_grid={_STRENGTHS})",
        "head2toe_cv(cv=None, grid={'keep': (0.02, 0.1, 0.5), 'steps': (250,)})",
        f"lpft(C_grid={_STRENGTHS}, {trained})",
        f"finetune({trained})",
    )


def run(
    models: Any,
    tasks: Any,
    out: str | os.PathLike[str],
    *,
    heads: Sequence[Any] | None = None,
    seeds: int = 2,
    validation: float = _VALIDATION,
    cache_dir: str | os.PathLike[str] | None = None,
    device: Any = None,
    progress: bool = True,
) -> Comparison:
    """Fit heads for every pair of a model and a task, and keep what they reached.

    All pairs are worked on with the first seed, task by task, which searches for the settings of
    each head on each pair; further seeds train with those again. Pairs are appended to the file as
    soon as they are finished, a line per measurement; what is there is not computed again, and what
    failed leaves its reason and is tried again by the next call. Within a pair, finished fits and
    epochs are kept in the cache.

    With fewer models than anything can be learnt from, there is a warning before the work.

    Models and tasks go by names, heads are by default the ``protocol``, ``validation`` is the share
    of the training examples that choices are made by; all other options are as for ``compare``.
    Returned is all that is in the file now.
    """
    path = Path(out)
    candidates = candidates_of(models)  # which refuses unknown names before data are read
    named = list(dict.fromkeys(c.model for c in candidates if isinstance(c.model, str)))
    if not all(isinstance(candidate.model, str) for candidate in candidates):
        raise InvalidInputError("models must be names here, so that the file says which they are")
    names = split_list(tasks) if isinstance(tasks, str) else list(tasks)
    if not names or (heads is not None and not heads):
        raise InvalidInputError("nothing to run; name at least one task and one head")

    def stated(task: str) -> tuple[str, ...]:
        return protocol(len(complete_task(load_task(task), validation=validation)["train"]))

    wanted = {task: [resolve_head(head) for head in heads or stated(task)] for task in names}
    records = load(path).records if path.exists() else []
    done = _finished(records)
    count = len({*named, *(model for model, _ in done)})
    if count < ENOUGH:
        warn(
            f"{several(count, 'model')}: judging a metric by a ground truth takes {FEWEST} models, "
            f"and learning how far scores can be trusted (evidence=) takes {ENOUGH}; name more, "
            f"now or in a later run with the same file"
        )
    work = [
        (seed, task, model, missing)
        for seed, task, model in itertools.product(range(seeds), names, named)
        if (
            missing := [
                head
                for head in wanted[task]
                if (head.random or not seed)
                and (head.label, seed) not in done.get((model, task), ())
            ]
        )
    ]
    total = seeds * len(names) * len(named)
    with progress_bar("pairs", total, progress, initial=total - len(work)) as bar:
        for seed, task, model, missing in work:
            settled = [h.tuned(model, task, 0, records) if seed else h for h in missing]
            table = compare(
                [Candidate(model, model)],
                task,
                settled,
                ood={},
                seeds=[seed],
                validation=validation,
                distortions=False,
                cache_dir=cache_dir,
                device=device,
                progress=progress,
            )
            labels = {a.label: b.label for a, b in zip(settled, missing, strict=True)}
            found = [
                {**r, "task": task, "head": labels.get(str(r["head"]), r["head"])}
                for r in table.records
            ]
            records = [*records, *found]
            append_lines(path, found)
            bar.update()
    return load(path)


def best(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For every pair and seed the accuracy of the head that validation would have chosen.

    That is the first head, in the order of the protocol, whose validation accuracy is within one
    standard error of the highest: a head that searched more settings had more luck (Breiman et
    al. 1984 choose the simplest tree so). A head that chance has no part in counts for all seeds.
    Records are those of its accuracy, with ``best`` as the head and what was chosen as a note.
    """
    measured: dict[tuple[str, str], dict[tuple[str, str, int], Mapping[str, Any]]] = {}
    for r in records:
        if r["metric"] in ("accuracy", "val_accuracy") and r["value"] is not None:
            pair = measured.setdefault((r["model"], r["task"]), {})
            pair[r["metric"], r["head"], r["seed"]] = r
    found = []
    for pair in measured.values():
        heads = dict.fromkeys(head for _, head, _ in pair)
        for seed in sorted({seed for *_, seed in pair}):
            tried = []
            for head in heads:
                at = seed if ("accuracy", head, seed) in pair else 0
                both = pair.get(("val_accuracy", head, at)), pair.get(("accuracy", head, at))
                if both[0] is not None and both[1] is not None:
                    tried.append((both[0]["value"], both[0]["n"], both[1]))
            if tried:
                top, n, _ = max(tried, key=lambda one: one[0])
                least = top - math.sqrt(top * (1 - top) / n)
                record = next(record for value, _, record in tried if value >= least)
                found.append({**record, "head": BEST, "seed": seed, "note": record["head"]})
    return found


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


def reached(truth: Comparison, head: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean test accuracy over seeds and its standard error, models x tasks, of heads of one name.

    The error is that of finitely many test examples and, of two or more seeds, of their spread.
    """
    import pandas as pd

    cells: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for r in truth.records:
        of_head = r["metric"] == "accuracy" and str(r["head"]).partition("(")[0] == head
        if of_head and r["value"] is not None:
            cells.setdefault(r["task"], {}).setdefault(r["model"], []).append(r)
    if not cells:
        raise InvalidInputError(
            f"the ground truth has no accuracy of {head}; it needs what `benchmark run` measures "
            f"by default: linear probes and other heads, with their validation accuracies"
        )
    means, errors = (
        pd.DataFrame({t: {m: fn(rs) for m, rs in of.items()} for t, of in cells.items()})
        for fn in (_mean, _error)
    )
    return means, errors


def _mean(records: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([r["value"] for r in records]))


def _error(records: Sequence[Mapping[str, Any]]) -> float:
    p, k = _mean(records), len(records)
    spread = float(np.var([r["value"] for r in records], ddof=1)) / k if k > 1 else 0.0
    return float(np.sqrt(p * (1 - p) / records[0]["n"] + spread))


def short_name(name: str) -> str:
    """What people call a model or task: the stem of its file, where it has one; no options.

    >>> short_name("my.networks:resnet(width=2)=models/resnet_w2.safetensors")
    'resnet_w2'
    >>> short_name("npz:datasets/usps.npz?examples=90"), short_name("zoo:vit-mnist")
    ('usps', 'zoo:vit-mnist')
    """
    name = name.partition("?")[0]
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
        raise InvalidInputError(
            f"cannot read {path} ({reason(error)}); give a file that `benchmark run` wrote"
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
            f"cannot write {path} ({reason(error)}); free some space or choose another file"
        ) from error
