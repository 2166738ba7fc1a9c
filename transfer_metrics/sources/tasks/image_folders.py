"""Tasks from folders of images, or of sounds."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.sources.specs import text_of
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.paths import FILE_SUFFIXES, existing, is_litter, split_name
from transfer_metrics.sources.tasks.sequences import ImageFiles, SoundFiles
from transfer_metrics.sources.tasks.task import Task

_LOOSE, _LINK = "in no class folder", "a broken link, or one to a folder"
_LITTER = "hidden, or left there by a system"
"""Why something is left out."""


def from_imagefolder(place: str, name: str) -> Task:
    """Read ``folder/<class>/**/image`` or ``folder/<split>/<class>/**/image``.

    Classes are the sorted names of the folders, in the Unicode form NFC, whichever macOS wrote.
    Hidden files, and what systems leave behind, are ignored; all else that is not used is left out
    with a warning that counts it: other files, images in no class folder, folders without images.
    Links to images, and links in place of class folders, are followed, wherever they lead; links to
    folders further down are not.
    """
    return _read(_Folder(place, name, "image"), ImageFiles)


def from_audiofolder(place: str, name: str) -> Task:
    """The same of WAV files that are not compressed; of several channels the mean is used."""
    return _read(_Folder(place, name, "sound"), SoundFiles)


def _read(found: _Folder, files: type[ImageFiles] | type[SoundFiles]) -> Task:
    parts: dict[str, tuple[Sequence[Any], list[str]]] = {}
    for split, folder in found.splits().items():
        paths: list[Path] = []
        named: list[str] = []
        for class_folder in found.subfolders(folder):
            own = found.files(class_folder)
            paths += own
            named += [unicodedata.normalize("NFC", text_of(class_folder.name))] * len(own)
        if paths:
            parts[split] = (files(paths), named)
        elif folder != found.root:
            found.left[f"no {found.noun} in it"].append(folder)
    classes = sorted(set().union(*(named for _, named in parts.values())))
    if "train" not in parts or len(classes) < 2:
        raise found.unusable(len(classes))
    left_out = found.left_out()
    lost = [f"{what} ({why})" for what, why in left_out if why != _LITTER]
    # By number, since a folder "NA" or "-1" is a class as any other.
    numbers = {title: number for number, title in enumerate(classes)}
    coded = {s: (paths, [numbers[n] for n in named]) for s, (paths, named) in parts.items()}
    task = make_task(found.name, coded, "classification", classes)
    # Told when all is known, with what else is wrong.
    told = [f"left out {', '.join(lost)}"] if lost else []
    return replace(task, understood=task.understood.plus(left_out, told))


class _Folder:
    """A folder that is looked through, and what in it is left out for which reason."""

    def __init__(self, place: str, name: str, noun: str) -> None:
        self.root, self.name, self.noun = existing(place, name, "folder"), name, noun
        self.suffixes = FILE_SUFFIXES[noun]
        self.left: defaultdict[str, list[Path]] = defaultdict(list)

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
            return {"train": self.root}
        found: dict[str, Path] = {}
        for folder in self.subfolders(self.root):
            split = split_name(text_of(folder.name))
            if split in found:
                raise InvalidInputError(
                    f"task {self.name!r}: {found[split].name!r} and {folder.name!r} in "
                    f"{str(self.root)!r} are both split {split!r}; put them into one folder, or "
                    f"rename one"
                )
            found[split] = folder
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
                elif path.is_file() and path.suffix.lower() in self.suffixes:
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
            f"task {self.name!r}: {str(self.root)!r} holds {classes} class folders with "
            f"{self.noun}s; arrange the {self.noun}s ({', '.join(sorted(self.suffixes))}) in one "
            f"folder per class, at least two{hint}{f'. Not used: {left}' if left else ''}"
        )

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
            f"task {self.name!r}: {str(error.filename)!r} cannot be read ({error.strerror}); "
            f"make it readable, or take it out of the folder"
        ) from error
