"""Sequences of examples that decode on access and know what they contain."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image, UnidentifiedImageError

from transfer_metrics.errors import InvalidInputError, reason
from transfer_metrics.sources.example import (
    FloatMaps,
    Modality,
    Sound,
    decode,
    decode_sound,
    example_bytes,
)
from transfer_metrics.sources.preprocess import array_to_image
from transfer_metrics.sources.tasks.paths import inside
from transfer_metrics.untrusted import PICTURE, read_bytes

_TRIED = 10
"""Files that are named of which one must be there."""


class Examples(Sequence[Any]):
    """Base of sequences: integer access only, decoded when asked for.

    Attributes:
        modality: what the examples are, where that is known before one is decoded.
        kept: whether ``stored`` gives what is there, and neither decodes nor runs foreign code.
        sizes: bytes of each as stored, (N,), where they are known without reading.
        maps: how float maps of 1 or 3 channels read, if they are such.
    """

    modality: Modality | None = None
    maps: FloatMaps | None = None
    kept: bool = True
    sizes: np.ndarray | None = None

    def read(self, index: int) -> Any:
        """Decode one example; ``index`` is within range."""
        raise NotImplementedError

    def stored(self, index: int) -> bytes:
        """What one example contains, for fingerprints; undecoded where that is cheaper."""
        return example_bytes(self.read(index))

    def each(self) -> Iterator[bytes]:
        """What every example contains, one after the other."""
        return map(self.stored, range(len(self)))

    def content(self) -> Iterator[bytes]:
        """What all examples contain, in as many pieces as is quickest."""
        return self.each()

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.read(i) for i in range(*index.indices(len(self)))]
        position = int(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"example {position} of {len(self)}")
        return self.read(position % len(self))


_ENDS = ((b"\xff\xd8\xff", b"\xff\xd9"), (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"), (b"GIF8", b";"))
"""How files of images begin and end."""


def _is_whole(path: Path) -> bool:
    """Whether a file begins and ends as an image does, which those do not that were cut off."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(-8, os.SEEK_END)
            tail, size = file.read(), file.tell()
    except OSError:
        return False
    if head.startswith((b"BM", b"RIFF")):
        start, more = (2, 0) if head.startswith(b"BM") else (4, 8)
        return int.from_bytes(head[start : start + 4], "little") + more == size
    return any(head.startswith(first) and tail.endswith(last) for first, last in _ENDS)


class StoredImages(Examples):
    """Base of sequences whose ``stored`` gives encoded images."""

    modality = "image"

    def where(self, index: int) -> str:
        """What messages call one of them."""
        raise NotImplementedError

    def read(self, index: int) -> Image.Image:
        """Decode one image."""
        return decode(self.stored(index), self.where(index))


@dataclass(frozen=True, eq=False)
class Files(Examples):
    """Files of images, or WAV files of sounds, read on access."""

    paths: Sequence[Path]
    modality: Modality = "image"

    @classmethod
    def named(cls, paths: Sequence[Path], modality: Modality, cure: str) -> Files:
        """Files that somebody named, of which one of the first must be there."""
        if not any(path.is_file() for path in paths[:_TRIED]):
            raise InvalidInputError(f"there is no file {str(paths[0])!r}{cure}")
        return cls(paths, modality)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        """Bytes of each file, -1 where it cannot be found."""
        return np.array([_size(path) for path in self.paths], np.int64)

    def read(self, index: int) -> Image.Image | Sound:
        """Decode one file."""
        of_kind = decode_sound if self.modality == "audio" else decode
        return of_kind(self.stored(index), str(self.paths[index]))

    def stored(self, index: int) -> bytes:
        """The bytes of one file."""
        try:
            return read_bytes(self.paths[index], PICTURE)
        except (OSError, ValueError) as error:
            what = "sound" if self.modality == "audio" else self.modality
            raise InvalidInputError(
                f"{what} {str(self.paths[index])!r} cannot be read "
                f"({reason(error)}); restore it or load the task again"
            ) from error

    def damaged(self) -> dict[int, str]:
        """Why each file that cannot be read cannot, by position.

        A file that begins and ends as JPEG, PNG or GIF, or is of the size that BMP, WebP or WAV
        say, is taken for whole; others are decoded.
        """
        with ThreadPoolExecutor() as pool:
            doubted = [i for i, whole in enumerate(pool.map(_is_whole, self.paths)) if not whole]
            found = zip(doubted, pool.map(self._why_not, doubted), strict=True)
            return {index: why for index, why in found if why}

    def _why_not(self, index: int) -> str:
        try:
            self.read(index)
        except InvalidInputError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.strerror:
                return error.__cause__.strerror
            if not _size(self.paths[index]):
                return "empty"
            if isinstance(error.__cause__, ValueError):
                return str(error.__cause__)
            unknown = isinstance(error.__cause__, UnidentifiedImageError)
            return "no image" if unknown else "damaged"
        return ""


def text_or_pair(*cells: Any) -> Any:
    """The cell of one column as text, those of two as a pair; empty where there is nothing."""
    texts = tuple(
        "" if c is None else c.decode(errors="replace") if isinstance(c, bytes) else str(c)
        for c in cells
    )
    return texts[0] if len(texts) == 1 else texts


@dataclass(frozen=True, eq=False)
class ColumnTexts(Examples):
    """Texts of one column, or pairs of texts of two, of rows that are mappings."""

    rows_of: Any
    columns: tuple[str, ...]
    modality = "text"

    def __len__(self) -> int:
        return len(self.rows_of)

    def read(self, index: int) -> Any:
        """Read one text or pair."""
        row = self.rows_of[index]
        return text_or_pair(*(row[column] for column in self.columns))


@dataclass(frozen=True, eq=False)
class ColumnImages(StoredImages):
    """Encoded images of a column of rows: bytes, or as ``datasets`` has them ``{"bytes", "path"}``.

    Paths must lie in the ``folder``, or may lie anywhere where it is None; ``source`` is what
    messages say the column is of.
    """

    rows_of: Any
    column: str
    source: str
    folder: str | None = None

    def __len__(self) -> int:
        return len(self.rows_of)

    def where(self, index: int) -> str:
        """Source, column and row."""
        return f"{self.source}, column {self.column!r}: row {index + 1}"

    def stored(self, index: int) -> bytes:
        """The file of one image."""
        cell: Any = self.rows_of[index][self.column]
        path: Any = None
        if isinstance(cell, dict):
            cell, path = cell.get("bytes"), cell.get("path")
        if cell is None and path:
            file = path if self.folder is None else inside(self.folder, path, self.where(index))
            try:
                return read_bytes(file, PICTURE)
            except (OSError, ValueError) as error:
                other = ", or say root=FOLDER, the one that the paths start at"
                raise InvalidInputError(
                    f"{self.where(index)} names {str(file)!r}, which cannot be read ({error}); "
                    f"restore it{'' if self.folder is None else other}"
                ) from error
        if not isinstance(cell, bytes):
            raise InvalidInputError(
                f"{self.where(index)} has no image; leave the row out, or say corrupt=skip"
            )
        return cell


@dataclass(frozen=True, eq=False)
class ImageArray(Examples):
    """Images in one uint8 array (N, H, W), (N, H, W, 1) or (N, H, W, 3)."""

    pixels: np.ndarray
    modality = "image"

    def __post_init__(self) -> None:
        if self.pixels.ndim == 4 and self.pixels.shape[-1] not in (1, 3):
            raise InvalidInputError(
                f"images of shape {self.pixels.shape}: the last axis must hold 1 or 3 channels; "
                f"reorder to (N, H, W, C), and drop transparency by pixels[..., :3]"
            )
        if 0 in self.pixels.shape[1:]:
            raise InvalidInputError(
                f"images of shape {self.pixels.shape} have no pixels; leave them out"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image.Image:
        """View one image."""
        return array_to_image(self.pixels[index])

    def stored(self, index: int) -> bytes:
        """What ``example_bytes`` says of one image, without making it."""
        return self._head + self.pixels[index].tobytes()

    @cached_property
    def _head(self) -> bytes:
        first = self.read(0)
        return example_bytes(first)[: -len(first.tobytes())]

    def content(self) -> Iterator[bytes]:
        """All pixels at once."""
        return iter([example_bytes(self.pixels)])


@dataclass(frozen=True, eq=False)
class Rows(Examples):
    """Examples that are float32 arrays: the first axis of one array."""

    values: np.ndarray
    modality = "tensor"

    def __len__(self) -> int:
        return len(self.values)

    def read(self, index: int) -> np.ndarray:
        """View one row."""
        return self.maps.example(self.values[index]) if self.maps else self.values[index]

    @cached_property
    def maps(self) -> FloatMaps | None:  # type: ignore[override]
        """How all of them read."""
        return FloatMaps.of(self.values)

    def content(self) -> Iterator[bytes]:
        """All values at once."""
        return iter([example_bytes(self.values)])


@dataclass(frozen=True, eq=False)
class _Chosen(Examples):
    """Some examples of a sequence, by position."""

    examples: Sequence[Any]
    positions: np.ndarray

    @property
    def modality(self) -> Modality | None:  # type: ignore[override]
        return getattr(self.examples, "modality", None)

    @property
    def kept(self) -> bool:  # type: ignore[override]
        return getattr(self.examples, "kept", True)

    @property
    def maps(self) -> FloatMaps | None:  # type: ignore[override]
        return getattr(self.examples, "maps", None)

    @property
    def sizes(self) -> np.ndarray | None:  # type: ignore[override]
        return self._of_these("sizes")

    @property
    def values(self) -> np.ndarray | None:
        """All of them, where they are rows of one array."""
        return self._of_these("values")

    def _of_these(self, name: str) -> np.ndarray | None:
        of_all = getattr(self.examples, name, None)
        return None if of_all is None else of_all[self.positions]

    def __len__(self) -> int:
        return len(self.positions)

    def stored(self, index: int) -> bytes:
        position = int(self.positions[index])
        stored = getattr(self.examples, "stored", None)
        return example_bytes(self.examples[position]) if stored is None else stored(position)

    def read(self, index: int) -> Any:
        return self.examples[int(self.positions[index])]


def some(examples: Sequence[Any], rows: np.ndarray) -> Sequence[Any]:
    """The examples at some positions, decoded no sooner than before."""
    own = getattr(examples, "rows", None)
    return _Chosen(examples, rows) if own is None else own(rows)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1
