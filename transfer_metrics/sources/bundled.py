"""Files that come with the package: listed in manifests, used only if their bytes are as recorded.

``data/README.md`` says how every file was made.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transfer_metrics.errors import CorruptStoreError, UnknownNameError


def data_folder() -> Path:
    """Where the bundled files are: inside an installed package, or beside it in a checkout."""
    inside = Path(__file__).resolve().parents[1] / "data"
    return inside if inside.is_dir() else inside.parents[1] / "data"


def entries(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """What the manifest of a folder says of each file of a kind, by name.

    Raises:
        CorruptStoreError: the manifest is missing or cannot be read.
    """
    path = folder / "manifest.json"
    try:
        listed = json.loads(path.read_text("utf-8"))[kind]
        return {entry["name"]: entry for entry in listed}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptStoreError(
            f"{path}: the list of bundled {kind} cannot be read; reinstall transfer-metrics "
            f"({type(error).__name__}: {error})"
        ) from error


def entry(folder: Path, kind: str, name: str) -> dict[str, Any]:
    """One entry of a manifest.

    Raises:
        UnknownNameError: there is no such entry.
        CorruptStoreError: the manifest is missing or cannot be read.
    """
    known = entries(folder, kind)
    if name not in known:
        raise UnknownNameError.of(f"bundled {kind.removesuffix('s')}", name, known)
    return known[name]


def verified(path: Path, sha256: str) -> bytes:
    """The bytes of a file.

    Raises:
        CorruptStoreError: the file is missing or altered.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CorruptStoreError(
            f"{path}: cannot be read; reinstall transfer-metrics ({error})"
        ) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CorruptStoreError(
            f"{path}: altered or truncated, its sha256 is not the recorded one; "
            f"reinstall transfer-metrics"
        )
    return data
