"""Results on disk, found again by the content of model and task."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import platformdirs

import transfer_metrics
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.files import replacing
from transfer_metrics.ranking.records import typed
from transfer_metrics.untrusted import TABLE, parse_json, read_text

POLICIES = ("only-missing", "always", "never", "only-cache")


def default_cache_dir() -> Path:
    """``$TRANSFER_METRICS_CACHE``, or the user's cache folder of the platform."""
    folder = os.environ.get("TRANSFER_METRICS_CACHE")
    return Path(folder or platformdirs.user_cache_dir("transfer-metrics")).expanduser()


def content_key(**fields: Any) -> str:
    """A file name for a combination of inputs; the package version is one of them.

    >>> content_key(model="a", task="b") == content_key(task="b", model="a")
    True
    """
    fields = {**fields, "package": transfer_metrics.__version__}
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class ResultCache:
    """Scores as one JSON-lines file per key, and features in progress as one store per key.

    Args:
        root: the folder; by default ``default_cache_dir()``.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root) if root is not None else default_cache_dir()

    def features(self, key: str) -> Path:
        """Folder for the feature store of a key."""
        return self.root / "features" / key

    def read(self, key: str) -> list[dict[str, Any]]:
        """Records that were kept under a key; a line that cannot be read counts as absent.

        Raises:
            InvalidInputError: the folder cannot be read.
        """
        try:
            lines = read_text(self._scores(key), TABLE).split("\n")
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"cannot read the cache {self.root} "
                f"({getattr(error, 'strerror', None) or error}); set "
                f"TRANSFER_METRICS_CACHE to another folder, or use cache='never'"
            ) from error
        records = []
        for line in lines:
            try:
                record = typed(parse_json(line), "a record")
            except ValueError:
                continue
            records.append(record)
        return records

    def write(self, key: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Replace the records of a key at once.

        Raises:
            InvalidInputError: the folder cannot be written to.
        """
        with replacing(self._scores(key)) as temporary:
            lines = (json.dumps(r, allow_nan=False, default=str) for r in records)
            temporary.write_text("".join(f"{line}\n" for line in lines))

    def drop_features(self, key: str) -> None:
        """Remove the feature store of a key."""
        shutil.rmtree(self.features(key), ignore_errors=True)

    def size(self) -> dict[str, tuple[int, int]]:
        """Files and bytes under ``"scores"`` and ``"features"``."""
        sizes = {}
        for part in ("scores", "features"):
            files = [p for p in (self.root / part).rglob("*") if p.is_file()]
            sizes[part] = (len(files), sum(p.stat().st_size for p in files))
        return sizes

    def clear(self, part: str | None = None) -> None:
        """Remove scores, features or both."""
        for name in ("scores", "features") if part is None else (part,):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _scores(self, key: str) -> Path:
        return self.root / "scores" / f"{key}.jsonl"
