"""Images as the pixels of one size, decoded and resized once for all networks that read them so."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from transfer_metrics.errors import StorageError, warn
from transfer_metrics.files import TEMPORARY, sha256_of, written
from transfer_metrics.sources.example import example_modality
from transfer_metrics.sources.models.model import Model
from transfer_metrics.sources.preprocess import ImagePreprocess
from transfer_metrics.sources.tasks.task import Split

_MOST_BYTES = 2 << 30
"""What the pixels of all splits may take on disk together."""
_BLOCK = 256
"""Examples per file."""
_WRITTEN_WITHIN = 600
"""Seconds after which nobody is still writing a file."""


class Pixels:
    """Pixels (n, C, H, W) uint8 of a split at one size, in a file per block of examples.

    A file carries its SHA-256 in its name, and is mapped into memory; one that is damaged or gone
    is as good as none.
    """

    def __init__(self, folder: Path, n: int, preprocess: ImagePreprocess) -> None:
        self.folder, self.preprocess, self._n = folder, preprocess, n
        self._mapped: dict[int, np.ndarray | None] = {}
        self._partly: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._full = False

    @classmethod
    def of(cls, root: str | Path | None, model: Model, data: Split) -> Pixels | None:
        """Pixels of a split for a model; None where its inputs are no such pixels, or too many."""
        preprocess = model.preprocess
        plain = model.modality == "image" and model.collate is None and model.least == 1
        if root is None or not plain or type(preprocess) is not ImagePreprocess:
            return None
        if len(data) * np.prod(preprocess.shape) > _MOST_BYTES:
            return None
        content = (data.fingerprint, preprocess.geometry, PIL.__version__, _BLOCK)
        name = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
        return cls(Path(root) / name, len(data), preprocess)

    def batch(self, positions: Sequence[int], examples: Sequence[Any]) -> Tensor | None:
        """Pixels of some of the raw examples; None where one is no image."""
        kept = self._kept(positions)
        if kept is not None:
            return kept
        chosen = [examples[position] for position in positions]
        if any(example_modality(example) != "image" for example in chosen):
            return None
        return torch.stack([self.preprocess.pixels(example) for example in chosen])

    def _kept(self, positions: Sequence[int]) -> Tensor | None:
        """Pixels of some examples; None where they are not all there."""
        numbers, within = np.divmod(np.asarray(positions), _BLOCK)
        found = torch.empty(len(within), *self.preprocess.shape, dtype=torch.uint8)
        for number in np.unique(numbers):
            block = self._block(int(number))
            if block is None:
                return None
            found.numpy()[numbers == number] = block[within[numbers == number]]
        return found

    def add(self, positions: Sequence[int], pixels: Tensor) -> None:
        """Keep pixels of some examples; a block is written when it is complete.

        Where that fails, as on a full disk, nothing more is kept, and a warning says so.
        """
        numbers, within = np.divmod(np.asarray(positions), _BLOCK)
        for number in map(int, np.unique(numbers)):
            if self._full or self._block(number) is not None:
                continue
            size = min(_BLOCK, self._n - number * _BLOCK)
            if number not in self._partly:
                empty = np.empty((size, *self.preprocess.shape), np.uint8)
                self._partly[number] = empty, np.zeros(size, bool)
            block, there = self._partly[number]
            own = numbers == number
            block[within[own]] = pixels.numpy()[own]
            there[within[own]] = True
            if there.all():
                self._write(number, self._partly.pop(number)[0])

    def _write(self, number: int, block: np.ndarray) -> None:
        if not self.folder.exists():
            trim(self.folder.parent, _MOST_BYTES - self._n * block[0].nbytes)
        file = BytesIO()
        np.save(file, block)
        digest = hashlib.sha256(file.getbuffer()).hexdigest()
        try:
            path = self.folder / f"{number:05d}-{digest}.npy"
            written(path, file.getbuffer(), durable=False)
            self._mapped.pop(number, None)
        except StorageError as error:
            self._full = True
            self._partly.clear()
            warn(f"decoded images are not kept for the next model: {error}")

    def _block(self, number: int) -> np.ndarray | None:
        """The pixels of a block; None where they are not there."""
        block = self._mapped.get(number)  # who writes may take it out at any time
        if block is None:
            block = self._mapped[number] = self._opened(number)
        return block

    def _opened(self, number: int) -> np.ndarray | None:
        shape = (min(_BLOCK, self._n - number * _BLOCK), *self.preprocess.shape)
        for path in self.folder.glob(f"{number:05d}-*.npy"):
            with suppress(OSError, ValueError):
                if sha256_of(path) not in path.name:
                    continue
                found = np.load(path, mmap_mode="r", allow_pickle=False)
                if found.shape == shape and found.dtype == np.uint8:
                    with suppress(OSError):  # a folder of somebody else
                        os.utime(self.folder)  # what was used last is removed last
                    return found
        return None


def trim(root: Path, most: int = _MOST_BYTES) -> None:
    """Remove the pixels that were used longest ago, until they take no more than ``most`` bytes.

    What a process left that was killed while writing goes too.
    """
    for stray in root.glob(f"*/*{TEMPORARY}"):
        with suppress(OSError):
            if time.time() - stray.stat().st_mtime > _WRITTEN_WITHIN:
                stray.unlink()
    folders = []
    with suppress(OSError):
        for folder in root.iterdir():
            with suppress(OSError):  # somebody else removes it at this moment
                size = sum(path.stat().st_size for path in folder.iterdir())
                folders.append((folder.stat().st_mtime, size, folder))
    for _, size, folder in sorted(folders, reverse=True):
        most -= size
        if most < 0:
            shutil.rmtree(folder, ignore_errors=True)
