"""Where files are: one, several by split, those that a table names, and what no source reads."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.untrusted import visible

FILE_SUFFIXES = {
    "image": (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif"),
        *(".tiff", ".webp", ".gif"),
    ),
    "sound": (".wav",),
}
"""Of files of which each is an example."""
OF_FILES = (
    *FILE_SUFFIXES["image"], *FILE_SUFFIXES["sound"], ".flac", ".mp3", ".ogg", ".m4a", ".npy",
    ".npz", ".pt", ".json", ".xml", ".txt", ".pdf", ".dcm", ".nii", ".heic", ".avif", ".jp2",
    ".svg", ".mp4", ".avi",
)  # fmt: skip
"""Ends of texts that are names of files."""
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
_OF_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_BESIDE = re.compile(r"(set|data|images?|imgs?|files?|split)s?$")
"""What stands behind the name of a split without a space."""
_ARRAYS = "write its arrays by numpy.savez('data.npz', X=…, y=…), and give that"
_TABLE = "write it as a table in .csv"
_PACKED = "packed; unpack it, and give the folder or the file that was in it"
_PICKLED = "a pickle, which may run code and is never loaded; write a data frame by "
_PICKLED += "frame.to_csv('data.csv', index=False), arrays by numpy.savez('data.npz', X=…, y=…)"
_BY_CLASS = "give a folder with one folder per class"
_NAMED = "file names and labels, with a column for each"
_KINDS = (
    ((".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tgz", ".tbz2", ".txz"), _PACKED),
    ((".zip", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"), _PACKED),
    ((".xlsx", ".xls", ".xlsm", ".ods"), "a spreadsheet; save the sheet of the examples as .csv"),
    ((".h5", ".hdf5"), f"a file of HDF5; {_ARRAYS}"),
    ((".mat",), f"a file of MATLAB; {_ARRAYS}"),
    ((".npy",), f"one array, without labels; {_ARRAYS}"),
    ((".pkl", ".pickle", ".joblib"), _PICKLED),
    ((".rds", ".rda", ".rdata"), f"a file of R; {_TABLE} there, by write.csv"),
    ((".dta", ".sav", ".sas7bdat"), f"a file of a statistics program; {_TABLE} there"),
    ((".arff",), f"a file of Weka; {_TABLE} there"),
    ((".db", ".sqlite", ".sqlite3"), f"a database; {_TABLE}"),
    ((".arrow", ".feather"), "a file of Arrow; write it as .parquet"),
    ((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".wav"), f"a single example; {_BY_CLASS}"),
    ((".xml", ".yaml", ".yml"), f"no table of examples; {_BY_CLASS}, or a .csv of {_NAMED}"),
)  # fmt: skip
"""Ends of names of files, and what these are, with what to do."""
_ADDRESS, _OF_WINDOWS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://"), re.compile(r"[A-Za-z]:[\\/]")
_HUB = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(datasets/)?([\w.-]+(?:/[\w.-]+)?)"
    r"/?(?:(?:tree|blob|resolve)/.*|[?#].*)?"
)
_OF_HUB = {"task": True, "model": False}
"""Whether an address of a hub has to be of a data set, for what it is given."""


def split_name(name: str) -> str:
    """The usual name of a split."""
    return _SPLIT_NAMES.get(name.lower(), name.lower())


def usual_splits(said: Mapping[str, str]) -> dict[str, str]:
    """The usual names of splits, by what is called so; an error where two are one.

    >>> usual_splits({"x_Train": "Train", "x_valid": "valid"})
    {'x_Train': 'train', 'x_valid': 'val'}
    """
    found: dict[str, str] = {}
    for one, split in said.items():
        found[one] = split_name(split)
        other = next(known for known, usual in found.items() if usual == found[one])
        if other != one:
            raise InvalidInputError(
                f"{other!r} and {one!r} are both split {found[one]!r}; put them "
                f"into one, or rename one"
            )
    return found


def split_within(name: str) -> str:
    """The split that a word of a name says, or none.

    >>> [split_within(name) for name in ("seg_train", "PublicTest", "valset2", "cats")]
    ['train', 'test', 'val', '']
    """
    words = [word.lower() for word in _OF_WORDS.findall(name)]
    words += [_BESIDE.sub("", word) for word in words]
    found = {split_name(word) for word in words if word in _SPLITS}
    return found.pop() if len(found) == 1 else ""


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that systems make without being asked."""
    return (name.startswith(".") and name.strip(".") != "") or name.lower() in _LITTER


def files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and its subfolders, in their order, but for litter."""
    for place, inner, files in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_litter(name))
        yield from (Path(place, name) for name in sorted(files) if not is_litter(name))


def foreign(path: str | os.PathLike[str]) -> str:
    """What a file is that no source reads, by the end of its name, with a cure; else nothing.

    >>> foreign("scores.xlsx")
    'is a spreadsheet; save the sheet of the examples as .csv'
    """
    name = os.fspath(path).lower()
    return next((f"is {told}" for ends, told in _KINDS if name.endswith(ends)), "")


def refuse_address(text: str, place: str, what: str = "task") -> None:
    """Refuse an address in place of a path: nothing is fetched but by libraries of hubs.

    So is a path of Windows that is not there.
    """
    told, cure = "an address, and nothing is fetched from there", ""
    if _OF_WINDOWS.match(place) and not os.path.exists(place):
        told, cure = "a path of Windows, and not there", "give the path that it has here"
    elif not _ADDRESS.match(place):
        return
    elif (on_hub := _HUB.fullmatch(place)) and _OF_HUB.get(what) == bool(on_hub[1]):
        org, _, name = on_hub[2].rpartition("/")
        of_timm = org == "timm" and what == "model"
        cure = f"write {'timm' if of_timm else 'hf'}:{name if of_timm else on_hub[2]}"
    elif place.lower().startswith("file://"):
        cure = "give the path alone"
    elif on_hub and what in _OF_HUB:
        cure = f"it is a {'data set' if on_hub[1] else 'model'}, so name it as such"
    elif what == "model":
        cure = "fetch it, and write hf:FOLDER, or <hub>:<name>=FILE for weights"
    cure = cure or "fetch it, and give the file or folder where it is then"
    raise InvalidInputError(f"{what} {visible(text)!r} is {told}; {cure}")


def existing(place: str, noun: Literal["file", "folder"] = "file") -> Path:
    """The path of a file or folder; an error where there is none."""
    path = Path(place).expanduser()
    is_folder, is_file = path.is_dir(), os.path.isfile(path)
    cure = ""
    if noun == "file" and is_folder:
        cure = f"name a file, or say imagefolder:{place} for a folder of images per class"
    if noun == "folder" and is_file:
        cure = "name the folder with one folder per class, or say csv:, npz: or parquet: for a file"
    if cure:
        is_other = "a folder" if is_folder else "a file"
        told = (foreign(path) if is_file else "") or f"is {is_other}; {cure}"
        raise InvalidInputError(f"{place!r} {told}")
    if not (is_folder or is_file):
        raise InvalidInputError(f"there is no {noun} {place!r}{_seen_from(path)}")
    return path


def shards(place: str, suffix: str) -> dict[str, list[Path]]:
    """Files by split: one file, a folder with all its subfolders, or a pattern with ``*``.

    The split is that of the first word of a name, such as ``train-00000-of-00002.parquet``, or else
    of another word, or of a folder below ``place``. Where all say the same, everything is training
    data; where only some say one, that is an error.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        all_of_it = path.rglob(f"*{suffix}")
        found = [f for f in all_of_it if not any(map(is_litter, f.relative_to(path).parts))]
    elif path.is_file():
        if told := foreign(path):
            raise InvalidInputError(f"{place!r} {told}")
        found = [path]
    else:  # a pattern, of which folders that are there are no part, whatever their names
        folder = next(p for p in path.parents if p.is_dir())
        names = glob.glob(str(path.relative_to(folder)), root_dir=folder, recursive=True)
        found = [folder / file for file in names if (folder / file).is_file()]
    if not found:
        raise InvalidInputError(
            f"there is no file {place!r}{_seen_from(path)}, which is a {suffix} "
            f"file, a folder of them, or a pattern such as train-*{suffix}"
        )
    splits: dict[str, list[Path]] = {}
    for file in sorted(found):
        inner = file.relative_to(path).parts[:-1] if path in file.parents else ()
        first = re.split("[^a-z]", file.name.lower())[0]
        said = map(split_within, (first, file.stem, *reversed(inner)))
        splits.setdefault(next(filter(None, said), ""), []).append(file)
    if len(splits) == 1:
        return {"train": next(iter(splits.values()))}
    if "" in splits:
        raise InvalidInputError(
            f"of which split is {str(splits[''][0])!r}? Have train, val "
            f"or test in every name, or name the files by a pattern"
        )
    return splits


def inside(folder: str, path: str, where: str) -> Path:
    """A path that a table names, which must not leave the folder, absolute or by ``..``.

    Links are followed wherever they lead; they were made by whoever made the folder.
    """
    base = os.path.abspath(os.path.expanduser(folder))
    if "\\" in path and not os.path.lexists(os.path.join(base, path)):
        path = path.replace("\\", "/")  # as Windows writes them
    found = os.path.normpath(os.path.join(base, path))
    if "\0" in path or os.path.commonpath([base, found]) != base:
        raise InvalidInputError(
            f"{where} names {path!r}, which is outside of the folder {base!r}; say "
            f"root=FOLDER with one that holds all images, if you trust the table"
        )
    return Path(found)


def _seen_from(path: Path) -> str:
    return f"{'' if path.is_absolute() else f' seen from {os.getcwd()!r}'}; check the path"
