"""The models, tasks and tables that come with the package, as listed in manifests.

Names and records are read from the manifests without loading torch; a file is used only if its
bytes have the recorded sha256. ``data/README.md`` says how every file was made.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transfer_metrics.errors import CorruptStoreError
from transfer_metrics.registry import choose, resolve

if TYPE_CHECKING:
    from torch import nn


_FOLDERS = {"models": "zoo", "tasks": "tasks"}


def data_folder() -> Path:
    """Where the bundled files are: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).resolve().parents[1] / "data"
    return inside if inside.is_dir() else inside.parents[1] / "data"


@contextmanager
def _intact(path: Path, what: str = "cannot be read") -> Iterator[None]:
    """Whatever is wrong inside is a bundled file that is damaged or gone."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CorruptStoreError(
            f"{path}: {what}; reinstall transfer-metrics ({type(error).__name__}: {error})"
        ) from error


def entries(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """What the manifest of a folder says of each file of a kind, by name."""
    with _intact(path := folder / "manifest.json", f"the list of bundled {kind} cannot be read"):
        listed = json.loads(path.read_text("utf-8"))[kind]
        return {entry["name"]: entry for entry in listed}


def entry(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """One entry of a manifest."""
    known = entries(folder, kind)
    return known[choose(f"bundled {kind.removesuffix('s')}", name, known)]


def verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file, if they are as recorded."""
    with _intact(path):
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptStoreError(
            f"{path}: altered or truncated, its sha256 is not the recorded one; "
            f"reinstall transfer-metrics"
        )
    return data


def names(kind: str = "models") -> list[str]:
    """Names of the bundled models or ``"tasks"``, sorted."""
    return sorted(entries(data_folder() / _FOLDERS[kind], kind))


def record(name: str) -> dict[str, Any]:
    """What the manifest says of one bundled model, as ``data/make_zoo.py`` writes it."""
    return entry(data_folder() / "zoo", "models", name)


def popular() -> list[dict[str, str]]:
    """Published models that are worth a first try, each with the list that it is on and why."""
    path = data_folder() / "popular.csv"
    with _intact(path), path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def build(name: str) -> nn.Module:
    """One bundled model in eval mode: (N, 3, 32, 32) to source logits, in float32.

    Its ``pretrained_cfg`` has the preprocessing and the classifier's name.
    """
    import safetensors.torch

    known = record(name)
    path = data_folder() / "zoo" / known["file"]
    state = safetensors.torch.load(verified(path, known["sha256"]))
    architecture = known["architecture"]
    module = resolve(architecture["factory"])(**architecture["kwargs"])
    with _intact(path, "the weights do not fit the architecture of this version"):
        module.load_state_dict(state)
    module.pretrained_cfg = {
        "input_size": tuple(known["input_size"]),
        "mean": tuple(known["mean"]),
        "std": tuple(known["std"]),
        "interpolation": known["interpolation"],
        "crop_pct": known["crop_pct"],
        "classifier": known["classifier"],
    }
    return module.eval()


def task_path(name: str) -> Path:
    """The npz file of one bundled task, its bytes verified.

    It holds ``x_<split>`` (uint8, N x 32 x 32), ``y_<split>`` (int64) and ``classes``.
    """
    folder = data_folder() / "tasks"
    known = entry(folder, "tasks", name)
    path = folder / known["file"]
    verified(path, known["sha256"])
    return path
