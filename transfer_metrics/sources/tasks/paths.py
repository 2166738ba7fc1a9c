"""Where files are: one, several by split, or those that a table names."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from transfer_metrics.errors import InvalidInputError

FILE_SUFFIXES = {
    "image": (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif"),
        *(".tiff", ".webp", ".gif"),
    ),
    "sound": (".wav",),
}
"""Of files of which each is an example."""
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
_BY_ENDING = {
    ".csv": "csv", ".jsonl": "jsonl", ".npz": "npz", ".parquet": "parquet", ".pt": "torch",
    ".pth": "torch", ".tar": "tar", ".tsv": "tsv",
}  # fmt: skip
_OF_FOLDERS = ("audiofolder", "hf", "imagefolder", "parquet", "tar")
_SOURCES = {*_BY_ENDING.values(), *_OF_FOLDERS}
_SAVED = ("dataset_dict.json", "dataset_info.json")
"""What ``save_to_disk`` of ``datasets`` leaves."""
_SPLITS = ("train", "test", "val", *_SPLIT_NAMES)


def split_name(name: str) -> str:
    """The usual name of a split."""
    return _SPLIT_NAMES.get(name.lower(), name.lower())


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems make without being asked."""
    return name.startswith(".") or name.lower() in _LITTER


def source_of(path: Path) -> str:
    """The task source that reads a file or folder, by its ending or by what is in it.

    Of a folder without tables it is that of images, which says what is wrong with the folder. It is
    an error where no source reads it, or several might.
    """
    if not path.is_dir():
        source = _BY_ENDING.get(path.suffix.lower())
        if source is None:
            raise InvalidInputError(
                f"task {str(path)!r}: a file {path.suffix or 'without an ending'} may be anything; "
                f"write <source>:{path}, with a source of {', '.join(sorted(_SOURCES))}"
            )
        return source
    files = [file for file in _sorted(path) if file.is_file() and not is_litter(file.name)]
    found = {s: f.name for f in files[::-1] if (s := _BY_ENDING.get(f.suffix.lower()))}
    if saved := [file.name for file in files if file.name in _SAVED]:
        found["hf"] = saved[0]
    for source, noun in (("imagefolder", "image"), ("audiofolder", "sound")):
        folders = (p for p in _sorted(path) if p.is_dir() and not is_litter(p.name))
        files_of = (file for folder in folders for file in files_below(folder))
        inner = next((f for f in files_of if f.suffix.lower() in FILE_SUFFIXES[noun]), None)
        if inner is not None:
            found[source] = str(inner.relative_to(path))
            break  # sounds beside images are not looked for
    if len(found) > 1:
        ways = [f"{s}:{path if s in _OF_FOLDERS else path / found[s]}" for s in sorted(found)]
        raise InvalidInputError(
            f"task {str(path)!r}: it holds {' and '.join(found[s] for s in sorted(found))}, so it "
            f"is not known what is meant; write {' or '.join(ways)}"
        )
    [source] = found or ["imagefolder"]
    if source not in _OF_FOLDERS:
        raise InvalidInputError(
            f"task {str(path)!r} is a folder with {found[source]}; name the file: "
            f"{path / found[source]}"
        )
    return source


def _sorted(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:  # which the source tells better
        return []


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, in their order, but for litter."""
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_litter(name))
        yield from (Path(place, name) for name in sorted(files) if not is_litter(name))


def existing(place: str, name: str, noun: Literal["file", "folder"] = "file") -> Path:
    """The path of a file or folder; an error where there is none."""
    path = Path(place).expanduser()
    is_folder, is_file = path.is_dir(), os.path.isfile(path)
    if noun == "file" and is_folder:
        raise InvalidInputError(
            f"task {name!r}: {place!r} is a folder; name a file, or say imagefolder:{place} for "
            f"a folder of images per class"
        )
    if noun == "folder" and is_file:
        raise InvalidInputError(
            f"task {name!r}: {place!r} is a file; name the folder with one folder per class, or "
            f"say csv:, npz: or parquet: for a file"
        )
    if not (is_folder or is_file):
        raise InvalidInputError(f"task {name!r}: there is no {noun} {place!r}{_seen_from(path)}")
    return path


def shards(place: str, name: str, suffix: str) -> dict[str, list[Path]]:
    """Files by split: one file, a folder with all its subfolders, or a pattern with ``*``.

    The splits are those that the names begin with, such as ``train-00000-of-00002.parquet``. Where
    all begin alike, everything is training data; where only some begin so, that is an error.
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
