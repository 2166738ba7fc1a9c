"""The files of a feature store: atomic writes, hashes, and what its manifest must look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import CorruptStoreError, reason
from transfer_metrics.features.layers import Layer
from transfer_metrics.files import written
from transfer_metrics.untrusted import read_record, visible

FORMAT = 1
MANIFEST = "manifest.json"
LABELS = "__labels__"
LOGITS = "__logits__"
_ADVICE = "make room or choose another folder, and run again: finished shards are kept"

_MOST_FEATURES = 1 << 31
"""Features of one layer."""

_TEXTS = (
    "model", "model_fingerprint", "task", "kind", "split", "task_fingerprint", "pool", "dtype",
)  # fmt: skip
_MAYBE_TEXTS = ("revision", "head", "amp", "preprocess", "behaviour")
_LATER_TEXTS = ("settings", "spec")  # which earlier manifests lack


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard lies: ``shards/00007.safetensors``."""
    return folder / "shards" / f"{index:05d}.safetensors"


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a store."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    written(folder / MANIFEST, text, _ADVICE)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a store."""
    cure = "check the path, or delete the folder and extract again"
    return read_record(folder / MANIFEST, {"format", "layers", "shards"}, "feature store", cure)


def require_sound(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest with fields of other types, or numbers that do not fit each other."""
    try:
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = visible(f"{type(error).__name__}: {error}", 300)
        raise CorruptStoreError(
            f"the manifest of {folder} is damaged ({told}); delete the folder and extract again"
        ) from error


def _check(manifest: Mapping[str, Any]) -> None:
    """A KeyError, TypeError, ValueError or AttributeError of a manifest that is not sound."""
    for name in ("n", "shard_size"):
        _require(_whole(manifest[name], 1), f"{name} is {manifest[name]!r:.60}")
    for name in (*_TEXTS, *_MAYBE_TEXTS, *_LATER_TEXTS):
        value = manifest.get(name) if name in _LATER_TEXTS else manifest[name]
        good = isinstance(value, str) or (value is None and name not in _TEXTS)
        _require(good, f"{name} is {value!r:.60}")
    kinds = ("classification", "regression", "multilabel")
    _require(manifest["kind"] in kinds, f"kind {manifest['kind']!r:.60}")
    classes, logits, shards = manifest["classes"], manifest["logits"], manifest["shards"]
    named = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    named = named and isinstance(manifest.get("named", False), bool)
    _require(named, "the names of the classes are no list of names")
    for name in ("notes", "changing"):
        texts = manifest.get(name) or []
        good = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        _require(good, f"the {name} are no list of texts")
    layers_of(manifest)
    good = logits is None or (isinstance(logits, dict) and _whole(logits.get("dim"), 1))
    _require(good, "the logits have no size")
    _require(isinstance(shards, dict), "the shards are no mapping")
    for index, record in shards.items():
        number = index.isascii() and index.isdigit() and len(index) < 10
        _require(number and index == str(int(index)), f"shard {index!r:.60}")
        _require(_whole(record["bytes"], 1), f"the size of shard {index}")
        _require(isinstance(record["sha256"], str), f"the hash of shard {index}")
        seconds = record["seconds"]
        _require(isinstance(seconds, (int, float)) and 0 <= seconds < 1e12, f"time of {index}")


def layers_of(manifest: Mapping[str, Any]) -> list[Layer]:
    """The layers that a manifest records; KeyError, TypeError or ValueError of what is no layer."""
    _require(isinstance(manifest["layers"], list), "the layers are no list")
    found = []
    for record in manifest["layers"]:
        layer = Layer(**{field.name: record[field.name] for field in fields(Layer)})
        name, depth = f"{layer.name!r:.60}", layer.depth
        texts = (layer.name, layer.kind, layer.layout)
        _require(all(isinstance(text, str) for text in texts), name)
        whole = (layer.index, layer.dim, layer.bytes, layer.params, *layer.shape)
        _require(all(_whole(number, 0) for number in whole), f"sizes of {name}")
        _require(0 < layer.dim < _MOST_FEATURES, f"{layer.dim} features of {name}")
        _require(isinstance(depth, (int, float)) and 0 <= depth <= 1, f"depth of {name}")
        found.append(replace(layer, shape=tuple(layer.shape)))
    _require(len({layer.name for layer in found}) == len(found), "a layer comes twice")
    return found


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 62


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write one shard; returns its size and hash for the manifest."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    written(path, data, _ADVICE)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def verify_shard(path: Path, record: Mapping[str, Any]) -> None:
    """Check a shard against its record."""
    way_out = "delete that file, or the store's folder, and extract again to compute it anew"
    try:
        size = path.stat().st_size
        if size != record["bytes"]:
            raise CorruptStoreError(
                f"{path} has {size} bytes and should have {record['bytes']}; {way_out}"
            )
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorruptStoreError(f"{path}: {reason(error)}; {way_out}") from error
    if found != record["sha256"]:
        raise CorruptStoreError(f"{path} was altered: its SHA-256 does not match; {way_out}")


def verify(folder: Path, manifest: Mapping[str, Any], index: int) -> None:
    """Check that a shard is what its manifest says: its hash, shapes, types and labels."""
    path = shard_path(folder, index)
    verify_shard(path, manifest["shards"][str(index)])
    size = manifest["shard_size"]
    rows = min(size, manifest["n"] - index * size) if manifest["layers"] else 0
    shapes = {layer["name"]: (rows, layer["dim"]) for layer in manifest["layers"]}
    if manifest["logits"]:
        shapes[LOGITS] = (rows, manifest["logits"]["dim"])
    with _opened(path, "numpy") as file:
        slices = {name: file.get_slice(name) for name in (*shapes, LABELS)}
        found = {name: tuple(part.get_shape()) for name, part in slices.items()}
        types = {name: part.get_dtype() for name, part in slices.items()}
        labels = file.get_tensor(LABELS) if types[LABELS] in ("I64", "F64") else np.empty(0)
    wrong = [name for name, shape in shapes.items() if found[name] != shape]
    wrong += [name for name in shapes if types[name] not in ("F32", "F16")]
    numbered = types[LABELS] == "I64" and labels.ndim == 1
    if len(labels) != rows or not np.isfinite(labels).all():
        wrong.append("the labels")
    elif manifest["kind"] == "classification":
        inside = numbered and labels.min() >= 0 and labels.max() < len(manifest["classes"])
        wrong += [] if inside else ["the labels"]
    if wrong:
        raise CorruptStoreError(
            f"{path} does not hold what {MANIFEST} says of {visible(wrong[0])!r}; delete the "
            f"folder and extract again"
        )


class Shard(Mapping[str, np.ndarray]):
    """The arrays of a file by name, which is opened for each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __getitem__(self, name: str) -> np.ndarray:
        with _opened(self._path, "numpy") as file:
            return file.get_tensor(name)

    def rows(self, name: str, positions: np.ndarray) -> np.ndarray:
        """Some rows of one array; little more than their pages is read."""
        with _opened(self._path, "pt") as file:
            # This framework's tensors are views of the mapped file; numpy's are copies.
            return file.get_tensor(name).numpy()[positions]

    def __iter__(self) -> Iterator[str]:
        with _opened(self._path, "numpy") as file:
            return iter(list(file.keys()))

    def __len__(self) -> int:
        return sum(1 for _ in self)  # a list asks for its length


@contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CorruptStoreError(
            f"{path} cannot be read ({error}); delete it and extract again"
        ) from error
