"""Where files are: one, several by split, or those that a table names."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from transfer_metrics.errors import InvalidInputError

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .ppm .pgm .pbm .bmp .tif .tiff .webp .gif".split()  # noqa: SIM905
)
# What systems and servers leave in folders that people copy, zip and share.
_LITTER = (
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
)  # fmt: skip
_SPLIT_NAMES = {
    "training": "train",
    "testing": "test",
    "valid": "val",
    "validation": "val",
    "dev": "val",
}
_SPLITS = ("train", "test", "val", *_SPLIT_NAMES)


def split_name(name: str) -> str:
    """The usual name of a split.

    >>> split_name("validation"), split_name("ood")
    ('val', 'ood')
    """
    return _SPLIT_NAMES.get(name.lower(), name.lower())


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems make without being asked.

    >>> is_litter("._cat.jpg"), is_litter("__MACOSX"), is_litter("cat.jpg")
    (True, True, False)
    """
    return name.startswith(".") or name.lower() in _LITTER


def existing_file(place: str, name: str) -> Path:
    """The path of a file, its absence an ``InvalidInputError``."""
    path = Path(place).expanduser()
    if path.is_dir():
        raise InvalidInputError(
            f"task {name!r}: {place!r} is a folder; name a file, or say imagefolder:{place} for "
            f"a folder of images per class"
        )
    if not os.path.isfile(path):
        raise InvalidInputError(f"task {name!r}: there is no file {place!r}{_seen_from(path)}")
    return path


def existing_folder(place: str, name: str) -> Path:
    """The path of a folder, its absence an ``InvalidInputError``."""
    path = Path(place).expanduser()
    if path.is_file():
        raise InvalidInputError(
            f"task {name!r}: {place!r} is a file; name the folder with one folder per class, or "
            f"say csv:, npz: or parquet: for a file"
        )
    if not path.is_dir():
        raise InvalidInputError(f"task {name!r}: there is no folder {place!r}{_seen_from(path)}")
    return path


def shards(place: str, name: str, suffix: str) -> dict[str, list[Path]]:
    """Files by split: one file, a folder with all its subfolders, or a pattern with ``*``.

    The splits are those that the names begin with, such as ``train-00000-of-00002.parquet`` beside
    ``test-00000-of-00001.parquet``. Where all begin alike, everything is training data; where some
    begin so and some do not, that is an error.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        all_of_it = path.rglob(f"*{suffix}")
        found = [f for f in all_of_it if not any(map(is_litter, f.relative_to(path).parts))]
    elif path.is_file():
        found = [path]
    else:
        found = _matching(path)
    if not found:
        raise InvalidInputError(
            f"task {name!r}: there is no file {place!r}{_seen_from(path)}, which is a {suffix} "
            f"file, a folder of them, or a pattern such as train-*{suffix}"
        )
    splits: dict[str, list[Path]] = {}
    for file in sorted(found):
        word = re.match(r"[a-z]*", file.name.lower())
        known = word is not None and word[0] in _SPLITS
        splits.setdefault(split_name(word[0]) if known and word else "", []).append(file)
    if len(splits) == 1:
        return {"train": next(iter(splits.values()))}
    if "" in splits:
        raise InvalidInputError(
            f"task {name!r}: of which split is {str(splits[''][0])!r}? Begin every name with "
            f"train, val or test, or name the files by a pattern"
        )
    return splits


def _matching(pattern: Path) -> list[Path]:
    """The files of a pattern, of which folders that are there are no part, whatever their names."""
    folder = next(p for p in pattern.parents if p.is_dir())
    rest = str(pattern.relative_to(folder))
    files = (folder / name for name in glob.glob(rest, root_dir=folder, recursive=True))
    return [file for file in files if file.is_file()]


def inside(folder: str, path: str, where: str) -> Path:
    """A path that a table names, which must not leave the folder, absolute or by ``..``.

    Links are followed wherever they lead; they were made by whoever made the folder.

    >>> inside("/data", "cats/../0.png", "row 1").as_posix()
    '/data/0.png'
    """
    base = os.path.abspath(os.path.expanduser(folder))
    found = os.path.normpath(os.path.join(base, path))
    if "\0" in path or os.path.commonpath([base, found]) != base:
        raise InvalidInputError(
            f"{where} names {path!r}, which is outside of the folder {base!r}; say "
            f"root=FOLDER with one that holds all images, if you trust the table"
        )
    return Path(found)


def _seen_from(path: Path) -> str:
    return f"{'' if path.is_absolute() else f' seen from {os.getcwd()!r}'}; check the path"
