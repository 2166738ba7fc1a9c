"""Tasks from folders of images."""

from __future__ import annotations

import warnings
from pathlib import Path

from transfer_metrics.errors import InvalidInputError, TransferMetricsWarning
from transfer_metrics.sources.base import Task
from transfer_metrics.sources.examples import ImageFiles
from transfer_metrics.sources.memory import make_task
from transfer_metrics.sources.places import (
    IMAGE_SUFFIXES,
    existing_folder,
    split_name,
)


def from_imagefolder(place: str, name: str) -> Task:
    """Read ``folder/<class>/**/image`` or ``folder/<split>/<class>/**/image``.

    Classes are the sorted names of the folders. Images are decoded when they are used, and turned
    upright by their EXIF data. Hidden files are ignored; other files are skipped with a warning
    that counts them. Links to images, and links in place of class folders, are followed, wherever
    they lead; links to folders further down are not. Nothing is ever written there.

    Raises:
        InvalidInputError: the folder is missing, has fewer than two classes, or a class without
            images.
    """
    root = existing_folder(place, name)
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
                    f"remove it or add images ({', '.join(sorted(IMAGE_SUFFIXES))})"
                )
            paths += images
            labels += [class_folder.name] * len(images)
        parts[split] = (ImageFiles(paths), labels)
    if skipped:
        warnings.warn(
            f"task {name!r}: skipped {len(skipped)} files that are no images, such as "
            f"{str(skipped[0])!r}",
            TransferMetricsWarning,
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
        (images if path.suffix.lower() in IMAGE_SUFFIXES else skipped).append(path)
    return images
