"""Tasks from local files: image folders and npz archives."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.base import Kind, Task
from transfer_metrics.sources.examples import EncodedImages, ImageFiles
from transfer_metrics.sources.memory import as_examples, make_task

_SUFFIXES = frozenset(
    ".jpg .jpeg .png .ppm .pgm .pbm .bmp .tif .tiff .webp .gif".split()  # noqa: SIM905
)
_SPLIT_NAMES = {
    "training": "train",
    "testing": "test",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}


def split_name(name: str) -> str:
    """The usual name of a split.

    >>> split_name("validation"), split_name("ood")
    ('val', 'ood')
    """
    return _SPLIT_NAMES.get(name.lower(), name.lower())


def from_imagefolder(place: str, name: str) -> Task:
    """Read ``folder/<class>/**/image`` or ``folder/<split>/<class>/**/image``.

    Classes are the sorted names of the folders. Images are decoded when they are used, and turned
    upright by their EXIF data. Hidden files are ignored; other files are skipped with a warning
    that counts them.

    Raises:
        InvalidInputError: the folder is missing, has fewer than two classes, or a class without
            images.
    """
    root = Path(place).expanduser()
    if not root.is_dir():
        raise InvalidInputError(f"task {name!r}: there is no folder {str(root)!r}")
    folders = _subfolders(root)
    train = [f for f in folders if split_name(f.name) == "train" and _subfolders(f)]
    roots = {split_name(f.name): f for f in folders} if train else {"train": root}
    classes = sorted({c.name for folder in roots.values() for c in _subfolders(folder)})
    if len(classes) < 2:
        raise InvalidInputError(
            f"task {name!r}: {str(roots['train'])!r} holds {len(classes)} class folders; arrange "
            f"the images in one folder per class, at least two"
        )
    skipped: list[Path] = []
    parts = {}
    for split, folder in roots.items():
        paths: list[Path] = []
        labels: list[str] = []
        for class_folder in _subfolders(folder):
            images = _images(class_folder, skipped)
            if not images:
                raise InvalidInputError(
                    f"task {name!r}: the class folder {str(class_folder)!r} holds no image; "
                    f"remove it or add images ({', '.join(sorted(_SUFFIXES))})"
                )
            paths += images
            labels += [class_folder.name] * len(images)
        parts[split] = (ImageFiles(paths), labels)
    if skipped:
        warnings.warn(
            f"task {name!r}: skipped {len(skipped)} files that are no images, such as "
            f"{str(skipped[0])!r}",
            stacklevel=3,
        )
    return make_task(name, parts, "classification", classes)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path, skipped: list[Path]) -> list[Path]:
    images: list[Path] = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or not path.is_file():
            continue
        (images if path.suffix.lower() in _SUFFIXES else skipped).append(path)
    return images


def from_npz(place: str, name: str, kind: Kind | None = None) -> Task:
    """Read an npz archive of arrays; never unpickles.

    Either ``X`` and ``y``, or per split ``x_<split>`` and ``y_<split>``. In place of ``x``, encoded
    images: ``jpeg`` (one-dimensional uint8, the files one after the other) with ``offsets`` (N + 1
    starts and ends). uint8 arrays (N, H, W), (N, H, W, 1) and (N, H, W, 3) are images, everything
    else numbers. ``classes`` names the classes, in the order of their numbers.

    Raises:
        InvalidInputError: the file is missing or no archive, holds pickled objects, or lacks
            arrays.
    """
    arrays = _read_npz(place, name)
    classes = arrays.get("classes")
    parts: dict[str, tuple[Sequence[Any], Any]] = {}
    for key in arrays:
        match = re.fullmatch(r"(x|jpeg)(?:_(\w+))?", key)
        if not match:
            continue
        suffix = f"_{match[2]}" if match[2] else ""
        needed = [f"y{suffix}"] + ([f"offsets{suffix}"] if match[1] == "jpeg" else [])
        lacking = [other for other in needed if other not in arrays]
        if lacking:
            raise InvalidInputError(
                f"task {name!r}: {place!r} has {key} but no {' and no '.join(lacking)}"
            )
        where = f"{place}:{key}"
        examples = (
            EncodedImages(arrays[key], arrays[f"offsets{suffix}"], where)
            if match[1] == "jpeg"
            else as_examples(arrays[key], where)
        )
        parts[split_name(match[2] or "train")] = (examples, arrays[f"y{suffix}"])
    if not parts:
        raise InvalidInputError(
            f"task {name!r}: {place!r} holds {', '.join(sorted(arrays)) or 'nothing'}; it needs X "
            f"and y, or x_train and y_train (and x_test, …), or jpeg_train, offsets_train, y_train"
        )
    return make_task(name, parts, kind, None if classes is None else classes.tolist())


def _read_npz(place: str, name: str) -> dict[str, np.ndarray]:
    path = existing_file(place, name)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            # X and x are both usual.
            return {key.lower(): archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise InvalidInputError(
            f"task {name!r}: {place!r} is no npz archive of plain arrays ({error}); write it with "
            f"numpy.savez, without object arrays"
        ) from error


def existing_file(place: str, name: str) -> Path:
    """The path of a file, its absence an ``InvalidInputError``."""
    path = Path(place).expanduser()
    if not path.is_file():
        raise InvalidInputError(f"task {name!r}: there is no file {place!r}")
    return path
