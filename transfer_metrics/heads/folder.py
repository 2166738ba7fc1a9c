"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from transfer_metrics.errors import InvalidInputError


def write_folder(path: Path, files: Mapping[str, bytes], owner: str) -> None:
    """Write files into a new folder that then takes the place of ``path``.

    Args:
        path: the folder; one that exists is replaced if it is empty or holds ``owner``.
        files: contents by name.
        owner: the file by which a folder of this kind is known.

    Raises:
        InvalidInputError: ``path`` is something else, or cannot be written; it is as it was.
    """
    old = path.exists()
    if old and not (path.is_dir() and ((path / owner).exists() or not any(path.iterdir()))):
        raise InvalidInputError(
            f"{path} exists and has no {owner}, so it is something else; choose another folder"
        )
    made: list[Path] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp"))
        made.append(fresh)
        for name, data in files.items():
            with (fresh / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        fresh.chmod(0o755)
        if not old:
            fresh.rename(path)
            return
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp"))
        made.append(aside)
        path.rename(aside / "old")
        try:
            fresh.rename(path)
        except BaseException:
            (aside / "old").rename(path)
            raise
    except OSError as error:
        raise InvalidInputError(
            f"cannot write {path} ({error.strerror or error}); free some space or choose another "
            f"folder"
        ) from error
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
