"""Tasks from files of an example each: in folders of images or sounds, or in tar shards."""

from __future__ import annotations

import os
import tarfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.naming import plain_name
from transfer_metrics.sources.example import Modality, decode
from transfer_metrics.sources.specs import text_of
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.column_roles import named_label
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.paths import (
    FILE_SUFFIXES,
    existing,
    files_below,
    is_litter,
    shards,
    split_name,
    split_within,
    usual_splits,
)
from transfer_metrics.sources.tasks.sequences import Examples, Files
from transfer_metrics.sources.tasks.task import Task, Understood
from transfer_metrics.untrusted import PICTURE, check_size, parse_json

_LOOSE, _LINK = "in no class folder", "a broken link, or one to a folder"
_LITTER = "hidden, or left there by a system"
"""Why something is left out."""
_PICTURES = ("image", "images", "img", "imgs", "jpegimages")
_DRAWN = (
    *_PICTURES, "mask", "masks", "label", "labels", "annotation", "annotations", "groundtruth",
    "segmentationclass", "segmentationobject",
)  # fmt: skip
"""Names of folders of tasks that are not of whole pictures."""


def from_imagefolder(place: str, name: str) -> Task:
    """Read ``folder/<class>/**/image`` or ``folder/<split>/<class>/**/image``.

    Classes are the sorted names of the folders, in the Unicode form NFC, whichever macOS wrote.
    Hidden files, and what systems leave behind, are ignored; all else that is not used is left out
    with a warning that counts it: other files, images in no class folder, folders without images.
    Links to images, and links in place of class folders, are followed, wherever they lead; links to
    folders further down are not.
    """
    return _read(_Folder(place, name, "image"), "image")


def from_audiofolder(place: str, name: str) -> Task:
    """The same of WAV files that are not compressed; of several channels the mean is used."""
    return _read(_Folder(place, name, "sound"), "audio")


def _read(found: _Folder, modality: Modality) -> Task:
    parts: dict[str, tuple[Sequence[Any], list[str]]] = {}
    for split, folder in found.splits().items():
        paths: list[Path] = []
        named: list[str] = []
        if split == "train":
            found.look_within(folder)
        for class_folder in found.subfolders(folder):
            own = found.files(class_folder)
            paths += own
            named += [unicodedata.normalize("NFC", text_of(class_folder.name))] * len(own)
        if paths:
            parts[split] = (Files(paths, modality), named)
        elif folder != found.root:
            found.left[f"no {found.noun} in it"].append(folder)
    classes = sorted(set().union(*(named for _, named in parts.values())))
    drawn = [title for title in classes if plain_name(title) in _DRAWN]
    if len(drawn) > 1 and not {*map(plain_name, drawn)} <= {*_PICTURES}:
        told = f"{' and '.join(map(repr, drawn))} are no classes but pictures and what was drawn"
        raise InvalidInputError(f"{told} on them; give a folder per class")
    if "train" not in parts or len(classes) < 2:
        raise found.unusable(len(classes))
    left_out = found.left_out()
    lost = [f"{what} ({why})" for what, why in left_out if why != _LITTER]
    # By number, since a folder "NA" or "-1" is a class as any other.
    numbers = {title: number for number, title in enumerate(classes)}
    coded = {s: (paths, [numbers[n] for n in named]) for s, (paths, named) in parts.items()}
    task = make_task(found.name, coded, "classification", classes)
    # Told when all is known, with what else is wrong.
    doubted = found.doubted + ([f"left out {', '.join(lost)}"] if lost else [])
    return replace(task, understood=task.understood.plus(left_out, doubted), named=True)


class _Folder:
    """A folder that is looked through, and what in it is left out for which reason."""

    def __init__(self, place: str, name: str, noun: str) -> None:
        self.root, self.name, self.noun = existing(place, "folder"), name, noun
        self.suffixes = FILE_SUFFIXES[noun]
        self.left: defaultdict[str, list[Path]] = defaultdict(list)
        self.doubted: list[str] = []

    def left_out(self) -> tuple[tuple[str, str], ...]:
        """What is not used: its name, or the number of several and the first, with the reason."""
        told = []
        for why, paths in self.left.items():
            first = text_of(str(min(paths).relative_to(self.root)))
            told.append((first if len(paths) == 1 else f"{len(paths)} such as {first}", why))
        return tuple(told)

    def splits(self) -> dict[str, Path]:
        """The folder of each split; the whole where there is no ``train`` with class folders."""
        inner = self._folders(self.root)
        if not any(split_name(f.name) == "train" and self._folders(f) for f in inner):
            filled = [f for f in inner if any(map(self._is_one, files_below(f)))]
            said = {f.name: split_within(f.name) for f in filled}
            if not all(said.values()) or len({*said.values()}) < 2:
                return {"train": self.root}
            if "train" not in said.values() or not all(map(self._folders, filled)):
                raise InvalidInputError(
                    f"{', '.join(map(repr, said))} in {str(self.root)!r} are "
                    f"names of splits and not of classes; give a folder per class in each of them, "
                    f"with one that is called train"
                )
        found: dict[str, Path] = {}
        named: dict[str, str] = {}
        for folder in self.subfolders(self.root):
            shown = text_of(folder.name)
            split = split_within(shown) or split_name(shown)
            alone = self._folders(folder)
            if len(alone) == 1 and split_within(alone[0].name) == split and self._folders(alone[0]):
                folder = alone[0]  # as archives that were packed twice have it
            named[shown], found[split] = split, folder
        usual_splits(named)
        return found

    def subfolders(self, folder: Path) -> list[Path]:
        """The folders in a folder; files beside them are left out."""
        for path in self._entries(folder):
            if is_litter(path.name) or not path.is_dir():
                self.left[_LITTER if is_litter(path.name) else _LOOSE].append(path)
        return self._folders(folder)

    def files(self, folder: Path) -> list[Path]:
        """The images or sounds in a class folder, however deep; others are left out."""
        found: list[Path] = []
        for place, inner, files in os.walk(folder, onerror=self._refuse):
            here = Path(place)
            for part in list(inner):
                if is_litter(part) or (here / part).is_symlink():
                    inner.remove(part)
                    self.left[_LITTER if is_litter(part) else _LINK].append(here / part)
            for file in files:
                path = here / file
                if is_litter(file):
                    self.left[_LITTER].append(path)
                elif path.is_file() and self._is_one(path):
                    found.append(path)
                else:
                    is_link = path.is_symlink() and not path.is_file()
                    self.left[_LINK if is_link else f"no {self.noun}"].append(path)
        if not found:
            self.left[f"no {self.noun} in it"].append(folder)
        return sorted(found)

    def unusable(self, classes: int) -> InvalidInputError:
        inner = [f for f in self._folders(self.root) if len(self._folders(f)) > 1]
        left = "; ".join(f"{what} ({why})" for what, why in self.left_out())
        source = "audiofolder" if self.noun == "sound" else "imagefolder"
        hint = f"; or name {source}:{inner[0]}" if len(inner) == 1 else ""
        return InvalidInputError(
            f"{str(self.root)!r} holds {classes} class folders with "
            f"{self.noun}s; arrange the {self.noun}s ({', '.join(sorted(self.suffixes))}) in one "
            f"folder per class, at least two{hint}{f'. Not used: {left}' if left else ''}"
        )

    def look_within(self, split: Path) -> None:
        """Refuse classes that hold a train and another split each, which would be read as one.

        Where they hold the same folders of other names, these may be the classes.
        """
        classes = [f for f in self._folders(split) if any(map(self._is_one, files_below(f)))]
        inner = [{f.name for f in self._folders(folder)} for folder in classes]
        if len(inner) < 2 or len(inner[0]) < 2:
            return
        splits = [{split_name(name) for name in names} for names in inner]
        if all("train" in said and said & {"test", "val"} for said in splits):
            raise InvalidInputError(
                f"every class in {str(self.root)!r} holds folders of splits, "
                f"such as {str(classes[0] / 'train')!r}; arrange them the other way round, a "
                f"folder per class in each split"
            )
        if all(names == inner[0] for names in inner):
            some = ", ".join(sorted(map(text_of, inner[0]))[:3])
            self.doubted.append(
                f"all class folders hold the same folders, such as {some} in "
                f"{text_of(classes[0].name)!r}; if these are the classes, name one folder as the "
                f"task, such as {text_of(str(classes[0]))!r}, or put them together by class"
            )

    def _is_one(self, path: Path) -> bool:
        return path.suffix.lower() in self.suffixes

    def _folders(self, folder: Path) -> list[Path]:
        return [p for p in self._entries(folder) if p.is_dir() and not is_litter(p.name)]

    def _entries(self, folder: Path) -> list[Path]:
        try:
            return sorted(folder.iterdir())
        except OSError as error:
            self._refuse(error)
            return []

    def _refuse(self, error: OSError) -> None:
        raise InvalidInputError(
            f"{str(error.filename)!r} cannot be read ({error.strerror}); "
            f"make it readable, or take it out of the folder"
        ) from error


_LABEL_BYTES = 1 << 20
"""Bytes of a file with a label that are read at most: 1 MiB."""
_BLOCK, _AFTER = tarfile.BLOCKSIZE, 1 << 16


@dataclass(eq=False)
class _Members(Examples):
    """Files in tar archives; ``places`` (N, 3) are archive, first byte and number of bytes."""

    paths: Sequence[Path]
    places: np.ndarray
    modality: Modality

    def __len__(self) -> int:
        return len(self.places)

    @property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        return self.places[:, 2]

    def read(self, index: int) -> Any:
        data = self.stored(index)
        if self.modality == "image":
            return decode(data, self._where(index))
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            told = f"{self._where(index)} is not in UTF-8 ({error.reason} at byte {error.start})"
            raise InvalidInputError(f"{told}; write it so, or say corrupt=skip") from error

    def stored(self, index: int) -> bytes:
        number, start, size = map(int, self.places[index])
        try:
            check_size(size, PICTURE)
            with self.paths[number].open("rb") as file:
                file.seek(start)
                data = file.read(size)
            if len(data) < size:
                raise ValueError("the archive was cut")
        except (OSError, ValueError) as error:
            raise InvalidInputError(
                f"{self._where(index)} cannot be read ({error}); restore it or load the task again"
            ) from error
        return data

    def _where(self, index: int) -> str:
        number, start, _ = map(int, self.places[index])
        name = f"at byte {start}"
        try:
            with self.paths[number].open("rb") as file:
                file.seek(start - _BLOCK)
                header = file.read(_BLOCK)
            name = tarfile.TarInfo.frombuf(header, "utf-8", "replace").name
        except (OSError, tarfile.HeaderError):
            pass
        return f"{self.paths[number]}: {name}"


def from_tar(
    place: str,
    name: str,
    kind: Kind | None = None,
    *,
    label: str | None = None,
    missing: str = "skip",
) -> Task:
    """Read tar shards: files of one name up to its first dot belong to one example.

    The example is the image (``.jpg``, ``.png`` and so on), or else the ``.txt``; the label is the
    ``.cls``, or a key of the ``.json``, ``label`` or else one of a usual name. Headers are read
    once, and examples where they lie when they are used, so that memory holds 24 bytes and a label
    per example. ``place`` is a file, a folder, or a pattern such as ``shards/train-*.tar``.
    """
    parts: dict[str, tuple[Sequence[Any], Any]] = {}
    neither = beside = 0
    for split, paths in shards(place, ".tar").items():
        found: dict[Modality, list[tuple[tuple[int, int, int], Any]]] = {"image": [], "text": []}
        for number, path in enumerate(paths):
            try:
                for members in _examples(path):
                    ends = [end for end in members if f".{end}" in FILE_SUFFIXES["image"]]
                    if len(ends) > 1:
                        told = f"an example has several images, .{' and .'.join(ends)}"
                        raise InvalidInputError(f"{str(path)!r}: {told}; write one into each")
                    [end] = ends or ["txt"]
                    if end not in members:
                        neither += 1
                        continue
                    of = found["text" if end == "txt" else "image"]
                    of.append(((number, *members[end]), _label(members, path, label)))
            except (tarfile.TarError, OSError, ValueError) as error:
                if isinstance(error, InvalidInputError):
                    raise
                raise InvalidInputError(
                    f"{str(path)!r} cannot be read as a tar archive ({error}); "
                    f"give uncompressed .tar files, and fetch or write a damaged one anew"
                ) from error
        modality: Modality = "image" if found["image"] else "text"
        if not found[modality]:
            raise InvalidInputError(
                f"{str(paths[0])!r} holds neither images nor texts; name the files "
                f"of an example alike, as 0001.jpg and 0001.cls"
            )
        beside += len(found["text"]) if modality == "image" else 0
        places, labels = zip(*found[modality], strict=True)
        parts[split] = (_Members(paths, np.array(places, np.int64), modality), list(labels))
    lost = [(neither, "neither image nor text"), (beside, "texts beside images")]
    left_out = tuple((f"{count} groups of files", why) for count, why in lost if count)
    inputs = ("image" if modality == "image" else "txt",)
    understood = Understood(label or "cls or json", inputs, left_out)
    task = make_task(name, parts, kind, None, missing, understood)
    if left_out:
        told = ", ".join(f"{what} ({why})" for what, why in left_out)
        warn(f"task {name!r}: left out {told}")
    return task


def _examples(path: Path) -> Iterator[dict[str, tuple[int, int]]]:
    """First byte and size of the files of each example, by the lower-case ends of their names."""
    size = path.stat().st_size
    last, members = None, dict[str, tuple[int, int]]()
    with tarfile.open(path, "r:") as archive:
        reached = -1
        while (member := archive.next()) is not None:
            # Or every header would stay in memory.
            vars(archive)["members"].clear()
            if archive.offset <= reached or member.size < 0:
                raise ValueError(f"the header of {member.name!r} is damaged")
            reached = archive.offset
            if not member.isreg() or member.issparse():
                continue
            if member.offset_data + member.size > size:
                raise ValueError(f"it ends within {member.name!r}")
            folder, _, file = member.name.rpartition("/")
            stem, dot, suffix = file.partition(".")
            if not stem or not dot or any(map(is_litter, folder.split("/"))):
                continue
            if (folder, stem) != last and members:
                yield members
                members = {}
            last = folder, stem
            members[suffix.lower()] = (member.offset_data, member.size)
    if members:
        yield members
        reached = archive.offset
    _check_end(path, reached)


def _check_end(path: Path, reached: int) -> None:
    """Refuse what tarfile takes for an end: a cut, a damaged header, a second archive behind."""
    with path.open("rb") as file:
        file.seek(reached)
        end = file.read(_AFTER)
    if len(end) < _BLOCK:
        raise ValueError("its end is missing")
    if any(end[:_BLOCK]):
        raise ValueError(f"the header at byte {reached} is damaged")
    if any(end):
        raise ValueError("another archive follows its end; give them as several files")


def _label(members: dict[str, tuple[int, int]], path: Path, key: str | None) -> Any:
    which = "json" if key or "cls" not in members else "cls"
    if which not in members:
        return None
    start, size = members[which]
    check_size(size, _LABEL_BYTES, "a label has")
    with path.open("rb") as file:
        file.seek(start)
        text = file.read(size).decode("utf-8-sig").strip()
    if which == "cls":
        return text
    told = parse_json(text)
    named = told if isinstance(told, dict) else {}
    value = named.get(key or (named_label(list(named)) if named else None))
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
