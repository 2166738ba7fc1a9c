"""The files of ``data/evidence``: what ``tests.kept_truth`` reads, as they are written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.kept_truth import PLACE
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.evidence.ground_truth import short_name, shortened
from transfer_metrics.files import replacing
from transfer_metrics.results.record import Record
from transfer_metrics.sources.zoo import entries

_TRUTH = (
    *("model", "task", "head", "seed", "accuracy", "n", "val_accuracy", "n_val", "chosen"),
    "seconds",
)
_EPOCHS = re.compile(r"epochs=(\d+)")
_Record = Mapping[str, Any]


def _complete(records: Iterable[_Record]) -> list[_Record]:
    """The records of the tasks on which every model has an accuracy of every head.

    Of further seeds only what they all have is kept.
    """
    listed = [r for r in records if not r.get("error")]
    models = {r["model"] for r in listed}
    found: dict[tuple[str, int], set[tuple[str, str]]] = {}
    for r in listed:
        if r["metric"] == "accuracy":
            head = str(r["head"]).partition("(")[0]
            found.setdefault((r["task"], r["seed"]), set()).add((r["model"], head))
    heads = {head for pairs in found.values() for _, head in pairs}
    whole = {
        task for (task, seed), pairs in found.items() if len(pairs) == len(models) * len(heads)
    }
    seeds = {seed for _, seed in found} - {0}
    random = {head for (_, seed), pairs in found.items() if seed for _, head in pairs}
    full = {
        (task, seed)
        for task in whole
        for seed in seeds
        if len(found.get((task, seed), ())) == len(models) * len(random)
    }
    return [
        r
        for r in listed
        if r["task"] in whole and (not r["seed"] or (r["task"], r["seed"]) in full)
    ]


def keep(truth: Iterable[_Record], scores: Iterable[_Record], folder: Path) -> None:
    """Write the records of all tasks that are complete and scored, under short names.

    Raises:
        InvalidInputError: there is no such task.
    """
    listed = list(scores)
    pairs = {(r["model"], r["task"]) for r in listed if r["metric"]}
    whole = _complete(truth)
    lacking = {r["task"] for r in whole if (r["model"], r["task"]) not in pairs}
    whole = [r for r in whole if r["task"] not in lacking]
    if not whole:
        raise InvalidInputError(
            "no task has all accuracies and scores of all models; run what is missing first"
        )
    kept = {(r["model"], r["task"]) for r in whole}
    scored = [r for r in listed if (r["model"], r["task"]) in kept and r["metric"]]
    names = {field: {short_name(r[field]): r[field] for r in whole} for field in ("model", "task")}
    lower = {Record.of(r).label for r in scored if r.get("higher_is_better") is False}
    files = {
        "truth": _table(_TRUTH, _truth_rows(shortened(whole))),
        "scores": _scores_table(shortened(scored)),
    }
    about: dict[str, dict[str, Any]] = {
        "truth": {
            "heads": _merged(str(r["head"]) for r in whole if r["head"]),
            "models": names["model"],
            "tasks": names["task"],
            "classes": {short_name(r["task"]): r["num_classes"] for r in whole if r["num_classes"]},
        },
        "scores": {"lower_is_better": sorted(lower)},
    }
    _write(folder, files, about)


def keep_longer(records: Iterable[_Record], folder: Path) -> None:
    """Write what some pairs reach when they are trained longer, beside the truth."""
    listed = [r for r in records if not r.get("error")]
    heads = _merged(str(r["head"]) for r in listed if r["head"])
    text = _table(_TRUTH, _truth_rows(shortened(listed)))
    _write(folder, {"longer": text}, {"longer": {"heads": heads}})


def _write(folder: Path, files: Mapping[str, str], about: Mapping[str, Mapping[str, Any]]) -> None:
    """Tables of a folder and their entries in its manifest, beside those that are there."""
    known = entries(folder, "evidence") if (folder / "manifest.json").exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        data = text.encode()
        with replacing(folder / f"{name}.csv") as temporary:
            temporary.write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        known[name] = {"name": name, "file": f"{name}.csv", "sha256": sha256, **about[name]}
    listed = list(known.values())
    manifest = json.dumps({"format": 1, "evidence": listed}, indent=1, ensure_ascii=False)
    with replacing(folder / "manifest.json") as temporary:
        temporary.write_text(manifest + "\n", "utf-8")


def _merged(labels: Iterable[str]) -> list[str]:
    """Labels that differ by their epochs as one.

    >>> _merged(["b(epochs=9)", "a", "b(epochs=12)", "b(epochs=9)"])
    ['b(epochs=9 to 12)', 'a']
    """
    found: dict[str, list[int]] = {}
    for label in labels:
        epochs = _EPOCHS.search(label)
        found.setdefault(_EPOCHS.sub("epochs=?", label), []).append(int(epochs[1]) if epochs else 0)
    return [
        label.replace("epochs=?", f"epochs={min(n)}" + f" to {max(n)}" * (min(n) < max(n)))
        for label, n in found.items()
    ]


def _truth_rows(records: Iterable[_Record]) -> list[dict[str, Any]]:
    """A row per model, task, head and seed."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for r in records:
        name = str(r["head"]).partition("(")[0]
        row = rows.setdefault(
            (r["task"], r["model"], name, r["seed"]),
            {"model": r["model"], "task": r["task"], "head": name, "seed": r["seed"]},
        )
        if r["metric"] == "accuracy":
            row |= {"accuracy": _short(r["value"]), "n": r["n"], "seconds": f"{r['seconds']:.1f}"}
        elif r["metric"] == "val_accuracy":
            row |= {"val_accuracy": _short(r["value"]), "n_val": r["n"], "chosen": r["note"] or ""}
    return list(rows.values())


def _scores_table(records: Sequence[_Record]) -> str:
    """A row per place that was scored, and for the seconds of the scores of all examples."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    labels: dict[str, None] = {}
    most: dict[tuple[str, str], tuple[int, int]] = {}
    for r in records:
        if r["split"] == "train":
            pair = r["model"], r["task"]
            most[pair] = max(most.get(pair, (0, 0)), (r["layer_index"], r["n"]))
    for r in records:
        if r["value"] is None:
            continue
        place = {name: "" if r[name] is None else r[name] for name in PLACE}
        label = Record.of(r).label
        labels[label] = None
        rows.setdefault(("value", *place.values()), {**place, "what": "value"})[label] = _short(
            r["value"]
        )
        whole = most[r["model"], r["task"]] == (r["layer_index"], r["n"]) and not r["repair"]
        if whole and r["seconds"] is not None and r["split"] == "train":
            row = rows.setdefault(("seconds", *place.values()), {**place, "what": "seconds"})
            row[label] = f"{r['seconds']:.2g}"
    return _table((*PLACE, "what", *sorted(labels)), rows.values())


def _table(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, header, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _short(value: float) -> str:
    return f"{value:.7g}"
