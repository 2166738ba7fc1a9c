"""The files of a feature store: atomic writes, hashes, the lock, and what a manifest records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import CorruptStoreError
from transfer_metrics.features.manifest import check_manifest, shapes_of
from transfer_metrics.files import locked, replacing
from transfer_metrics.untrusted import read_json, visible

FORMAT = 1
MANIFEST = "manifest.json"
LABELS = "__labels__"
LOGITS = "__logits__"


def shard_path(folder: Path, index: int) -> Path:
    """Where a shard lies: ``shards/00007.safetensors``."""
    return folder / "shards" / f"{index:05d}.safetensors"


def _write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any moment it is either absent, as before, or complete.

    Raises:
        StorageError: it cannot be written, as on a full disk; nothing of it is left.
    """
    advice = "make room or choose another folder, and run again: finished shards are kept"
    with replacing(path, advice) as temporary:
        temporary.write_bytes(data)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a store."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False)
    _write_atomically(folder / MANIFEST, text.encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a store.

    Raises:
        CorruptStoreError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        manifest = read_json(path)
    except FileNotFoundError:
        raise CorruptStoreError(
            f"{folder} has no {MANIFEST}, so it is no feature store or a damaged one; "
            f"check the path, or delete the folder and extract again"
        ) from None
    except (ValueError, OSError) as error:
        raise CorruptStoreError(
            f"{path} cannot be read ({error}); delete the folder and extract again"
        ) from error
    if not isinstance(manifest, dict) or not {"format", "layers", "shards"} <= set(manifest):
        raise CorruptStoreError(
            f"{path} is not the manifest of a feature store; delete the folder and extract again"
        )
    return manifest


def require_sound(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest with fields of other types, or numbers that do not fit each other.

    Raises:
        CorruptStoreError: says what is wrong.
    """
    try:
        check_manifest(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = visible(f"{type(error).__name__}: {error}", 300)
        raise CorruptStoreError(
            f"the manifest of {folder} is damaged ({told}); delete the folder and extract again"
        ) from error


def write_shard(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Write one shard; returns its size and hash for the manifest."""
    from safetensors.numpy import save

    data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    _write_atomically(path, data)
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def verify_shard(path: Path, record: Mapping[str, Any]) -> None:
    """Check a shard against its record.

    Raises:
        CorruptStoreError: it is missing, truncated or altered.
    """
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
        raise CorruptStoreError(f"{path}: {error.strerror or error}; {way_out}") from error
    if found != record["sha256"]:
        raise CorruptStoreError(f"{path} was altered: its SHA-256 does not match; {way_out}")


def verify_layout(path: Path, manifest: Mapping[str, Any], index: int) -> None:
    """Check that a shard holds what its manifest says: shapes, types, labels of known classes.

    Raises:
        CorruptStoreError: it does not.
    """
    shapes = shapes_of(manifest, index)
    rows = next(iter(shapes.values()))[0] if shapes else 0
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


def read_array(path: Path, name: str) -> np.ndarray:
    """Read one array of a shard, without reading the others."""
    with _opened(path, "numpy") as file:
        return file.get_tensor(name)


def names_of(path: Path) -> list[str]:
    """Names of the arrays of a shard."""
    with _opened(path, "numpy") as file:
        return list(file.keys())


def read_rows(path: Path, name: str, positions: np.ndarray) -> np.ndarray:
    """Read some rows of one array of a shard, and little more than their pages."""
    with _opened(path, "pt") as file:
        # This framework's tensors are views of the mapped file; numpy's are copies.
        return file.get_tensor(name).numpy()[positions]


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


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Let one process at a time write a store; another waits."""
    with locked(folder / ".lock"):
        yield


def discard_damaged(folder: Path, everything: bool = False) -> None:
    """Remove the shards of a store that are not what its manifest says, or all where it has none.

    Args:
        folder: the store.
        everything: remove all of it, since it is of something else.
    """
    with writing(folder):
        kept: dict[Path, Any] = {}
        with suppress(CorruptStoreError):
            if not everything:
                manifest = read_manifest(folder)
                require_sound(folder, manifest)
                kept = {shard_path(folder, int(k)): v for k, v in manifest["shards"].items()}
        if not kept:
            (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.glob("shards/*.safetensors"):
            try:
                verify_shard(path, kept[path])
            except (CorruptStoreError, KeyError):
                path.unlink(missing_ok=True)
