"""The files of a feature store: atomic writes, hashes, and what its manifest must look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import CorruptStoreError, IncompatibleStoreError, reason
from transfer_metrics.features.layers import Layer
from transfer_metrics.files import sha256_of, written
from transfer_metrics.untrusted import read_record, visible

FORMAT = 1
MANIFEST = "manifest.json"
LABELS = "__labels__"
LOGITS = "__logits__"
_ADVICE = "make room or choose another folder, and run again: finished shards are kept"
_KINDS = ("classification", "regression", "multilabel")
_MOST_FEATURES = 1 << 31
"""Features of one layer."""


@dataclass(frozen=True)
class StoreFolder:
    """The files of a feature store: ``manifest.json``, and ``shards/00007.safetensors``."""

    path: Path

    def shard(self, index: int) -> Path:
        """Where a shard lies."""
        return self.path / "shards" / f"{index:05d}.safetensors"

    def shards(self, count: int) -> list[Path]:
        """Where the first shards lie."""
        return [self.shard(index) for index in range(count)]

    def read(self) -> dict[str, Any]:
        """The manifest; refuses another format, fields of other types, and what fits no other."""
        cure = "check the path, or delete the folder and extract again"
        keys = {"format", "layers", "shards"}
        manifest = read_record(self.path / MANIFEST, keys, "feature store", cure)
        if manifest["format"] != FORMAT:
            raise IncompatibleStoreError(
                f"{self.path} has store format {manifest['format']!r:.60} and this version reads "
                f"{FORMAT}; delete the folder and extract again"
            )
        try:
            _check(manifest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            told = visible(f"{type(error).__name__}: {error}", 300)
            raise CorruptStoreError(
                f"the manifest of {self.path} is damaged ({told}); delete the folder and extract "
                f"again"
            ) from error
        return manifest

    def write(self, manifest: Mapping[str, Any]) -> None:
        """Replace the manifest."""
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        written(self.path / MANIFEST, text, _ADVICE)

    def add(self, index: int, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Write one shard; returns its size and hash for the manifest."""
        from safetensors.numpy import save

        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        written(self.shard(index), data, _ADVICE)
        return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    def verify(self, manifest: Mapping[str, Any], index: int) -> None:
        """Check that a shard is what the manifest says: its hash, shapes, types and labels."""
        path = self.shard(index)
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


def _whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 62


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _may_be_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("n", "shard_size"), partial(_whole, least=1)),
    **dict.fromkeys(("model", "model_fingerprint", "task", "task_fingerprint"), _is_text),
    **dict.fromkeys(("split", "pool", "dtype"), _is_text),
    **dict.fromkeys(("revision", "head", "amp", "preprocess", "behaviour"), _may_be_text),
    "kind": lambda value: value in _KINDS,
    "classes": _are_texts,
    "logits": lambda value: value is None or _whole(value["dim"], 1),
    "shards": lambda value: isinstance(value, dict),
}
"""What each field of a manifest must be."""
_LATER_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("settings", "spec"), _may_be_text),
    **dict.fromkeys(("notes", "changing"), lambda value: not value or _are_texts(value)),
    "named": lambda value: value is None or isinstance(value, bool),
}
"""The same of those that earlier manifests lack."""


def _check(manifest: Mapping[str, Any]) -> None:
    """A KeyError, TypeError, ValueError or AttributeError of a manifest that is not sound."""
    for name, is_sound in _FIELDS.items():
        _require(is_sound(manifest[name]), f"{name} is {manifest[name]!r:.60}")
    for name, is_sound in _LATER_FIELDS.items():
        _require(is_sound(manifest.get(name)), f"{name} is {manifest.get(name)!r:.60}")
    layers_of(manifest)
    for index, record in manifest["shards"].items():
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
        _require(all(_whole(number) for number in whole), f"sizes of {name}")
        _require(0 < layer.dim < _MOST_FEATURES, f"{layer.dim} features of {name}")
        _require(isinstance(depth, (int, float)) and 0 <= depth <= 1, f"depth of {name}")
        found.append(replace(layer, shape=tuple(layer.shape)))
    _require(len({layer.name for layer in found}) == len(found), "a layer comes twice")
    return found


def _require(good: bool, what: str) -> None:
    if not good:
        raise ValueError(what)


def verify_shard(path: Path, record: Mapping[str, Any]) -> None:
    """Check a shard against its record."""
    way_out = "delete that file, or the store's folder, and extract again to compute it anew"
    try:
        size = path.stat().st_size
        if size != record["bytes"]:
            raise CorruptStoreError(
                f"{path} has {size} bytes and should have {record['bytes']}; {way_out}"
            )
        found = sha256_of(path)
    except OSError as error:
        raise CorruptStoreError(f"{path}: {reason(error)}; {way_out}") from error
    if found != record["sha256"]:
        raise CorruptStoreError(f"{path} was altered: its SHA-256 does not match; {way_out}")


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
