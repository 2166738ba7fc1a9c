"""The project's own ground truth and the scores on it, as kept in ``data/evidence``.

Tables of separated values and a manifest, made by ``python -m tests.evidence_reference``.
``data/README.md`` has the columns.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from transfer_metrics.sources.zoo import data_folder, entries, entry, verified

PLACE = ("model", "task", "layer", "layer_index", "dim", "n", "split", "repair")
"""What a row of scores is of."""
TRAINED = ("lpft", "finetune")
"""Heads that train the network too, in the order of the protocol."""


def trained_longer(folder: Path | None = None) -> set[str]:
    """Tasks on which every network of the truth was trained longer."""
    folder = folder or data_folder() / "evidence"
    if "longer" not in entries(folder, "evidence"):
        return set()
    pairs, longer = (
        {(row["model"], row["task"]) for row in _kept(name, folder)[1]}
        for name in ("truth", "longer")
    )
    return {task for _, task in pairs} - {task for _, task in pairs - longer}


def kept_truth(folder: Path | None = None, name: str = "") -> list[dict[str, Any]]:
    """The accuracies, on test and on validation examples, as records of ``ground_truth``.

    With ``"truth"`` as the name those of all pairs, with ``"longer"`` those of the pairs that were
    trained longer; without a name the latter in place of the former, on the tasks on which they are
    known of every network. Heads go by their bare names; ``kept_protocol`` has their options.
    """
    if not name:
        tasks = trained_longer(folder)
        shorter, longer = kept_truth(folder, "truth"), []
        for head in TRAINED if tasks else ():
            longer += [r for r in kept_truth(folder, "longer") if r["head"] == head]
        return [
            *(r for r in shorter if r["task"] not in tasks or r["head"] not in TRAINED),
            *(r for r in longer if r["task"] in tasks),
        ]
    classes = _kept("truth", folder)[0]["classes"]
    found = []
    for row in _kept(name, folder)[1]:
        base = {
            **{field: row[field] for field in ("model", "task", "head")},
            "seed": int(row["seed"]),
            "seconds": float(row["seconds"]),
            "num_classes": classes.get(row["task"]),
            "error": None,
        }
        for metric, n, split in (("accuracy", "n", "test"), ("val_accuracy", "n_val", "val")):
            told = {"metric": metric, "split": split, "value": float(row[metric])}
            note = row["chosen"] if split == "val" else None
            found.append({**base, **told, "n": int(row[n]), "note": note or None})
    return found


def kept_scores(folder: Path | None = None) -> list[dict[str, Any]]:
    """The scores, as records of ``scored_pairs``; what failed is not there."""
    about, rows = _kept("scores", folder)
    seconds = {tuple(row[name] for name in PLACE): row for row in rows if row["what"] == "seconds"}
    found = []
    for row in rows:
        if row["what"] != "value":
            continue
        place = {name: row[name] for name in PLACE}
        times = seconds.get(tuple(place.values()), {})
        numbers = {name: int(row[name]) for name in ("layer_index", "dim", "n")}
        for label in list(row)[len(PLACE) + 1 :]:
            if row[label]:
                metric, _, options = label.partition("(")
                found.append(
                    {
                        **place,
                        **numbers,
                        "repair": row["repair"] or None,
                        "metric": metric,
                        "options": options.removesuffix(")") or None,
                        "value": float(row[label]),
                        "seconds": float(times[label]) if times.get(label) else None,
                        "higher_is_better": label not in about["lower_is_better"],
                        "error": None,
                    }
                )
    return found


def kept_protocol(folder: Path | None = None, name: str = "truth") -> tuple[str, ...]:
    """The heads of the kept truth with their options."""
    return tuple(_kept(name, folder)[0]["heads"])


def _kept(name: str, folder: Path | None) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The entry of a table in the manifest, and its rows."""
    folder = folder or data_folder() / "evidence"
    about = entry(folder, "evidence", name)
    text = verified(folder / about["file"], about["sha256"]).decode("utf-8")
    return about, list(csv.DictReader(io.StringIO(text)))
