"""Files of arrays, never unpickled and of bounded size: npz archives, npy, what torch saves.

Tables of numbers are read as arrays too, by the reader of tasks.
"""

from __future__ import annotations

import math
import os
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.naming import a_type
from transfer_metrics.sources import zoo
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.in_memory import as_examples
from transfer_metrics.sources.tasks.label_values import from_tensor
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.paths import existing, foreign, usual_splits
from transfer_metrics.sources.tasks.sequences import StoredImages
from transfer_metrics.sources.tasks.task import Task, Understood
from transfer_metrics.untrusted import DEEPEST, check_unpacked

_MOST_ARRAYS, _MOST_PARTS = 10_000, 10_000_000
"""Arrays in one archive, and items in what torch saves."""
_EMPTY = 1 << 20


def read_arrays(path: str | os.PathLike[str]) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an ``.npy`` file, or those of an ``.npz`` archive by name.

    So are a tensor in a ``.pt`` file, a dictionary of them, and ``(X, y)``. Sizes are compared with
    what the headers claim before anything is unpacked.
    """
    try:
        if not os.path.isfile(path):
            raise ValueError("there is no such file")
        if str(path).lower().endswith((".pt", ".pth")):
            found = read_torch(Path(path))
            if isinstance(found, (tuple, list)) and len(found) == 2:
                found = {"X": found[0], "y": found[1]}
            if not isinstance(found, dict):
                return _plain(found)
            return {str(name): _plain(value) for name, value in found.items()}
        with open(path, "rb") as file:
            archive = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
            file.seek(0)
            return _archive(file) if archive else _array(file, os.fstat(file.fileno()).st_size)
    except Exception as error:  # numpy, zipfile and zlib have a dozen for damaged files
        told = " ".join(str(error).split())[:300] or type(error).__name__
        strange = "" if str(path).lower().endswith(".npy") else foreign(path)
        told = strange or (
            f"is no npz archive or npy file of plain arrays ({told}); write it with numpy.savez "
            f"or numpy.save, without object arrays"
        )
        raise InvalidInputError(f"{str(path)!r} {told}") from error


def _plain(value: Any) -> np.ndarray:
    array = from_tensor(value) if hasattr(value, "detach") else np.asarray(value)
    if array.dtype.hasobject:
        raise ValueError(f"it holds {a_type(value)}, which is no tensor")
    return array


def _archive(file: BinaryIO) -> dict[str, np.ndarray]:
    packed = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if len(members) > _MOST_ARRAYS:
            raise ValueError(f"it has {len(members)} arrays, and at most {_MOST_ARRAYS} are read")
        # The archive reads no further than these sizes, whatever follows.
        check_unpacked(sum(member.file_size for member in members), packed)
        found = {}
        for member in members:
            with archive.open(member) as stream:
                found[member.filename.removesuffix(".npy")] = _array(stream, member.file_size)
        return found


def _array(stream: IO[bytes], size: int) -> np.ndarray:
    """One array of ``size`` bytes with its header, which must fit each other."""
    from numpy.lib import format

    version = format.read_magic(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"it has version {version} of the format")
    read = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of headers that Python 2 wrote
        shape, _, dtype = read(stream)
        if dtype.hasobject:
            raise ValueError("it holds pickled Python objects, which are never loaded")
        claimed = math.prod(shape) * dtype.itemsize
        # Entries of no bytes, and axes beside an empty one, would cost nothing here and much later.
        around = math.prod(max(1, length) for length in shape)
        if min(shape, default=0) < 0 or claimed > size or (not claimed and around > _EMPTY):
            raise ValueError(f"its header claims the shape {shape} and it has {size:,} bytes")
        stream.seek(0)
        return format.read_array(stream, allow_pickle=False)


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, where it holds tensors, numbers and texts only.

    Tensors that repeat few numbers count as all they are. Errors are of many kinds.
    """
    import torch

    packed = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_unpacked(sum(member.file_size for member in archive.infolist()), packed)
    content = torch.load(path, map_location="cpu", weights_only=True)
    check_unpacked(_bytes(content), packed)
    return content


def _bytes(content: Any) -> int:
    """Bytes of all tensors, each as often as it occurs."""
    import torch

    total, level = 0, [content]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, (dict, list, tuple, set)):
                inner += value.values() if isinstance(value, dict) else value
            elif isinstance(value, torch.Tensor):
                total += value.numel() * value.element_size()
        if len(inner) > _MOST_PARTS:
            raise ValueError(f"it has more than {_MOST_PARTS} parts")
        level = inner
    if level:
        raise ValueError(f"it has more than {DEEPEST} levels")
    return total


@dataclass(frozen=True, eq=False)
class _EncodedImages(StoredImages):
    """Encoded images one after the other in a uint8 array; ``name`` says where they come from."""

    data: np.ndarray
    offsets: np.ndarray
    name: str

    def __post_init__(self) -> None:
        good = (
            self.data.dtype == np.uint8
            and self.data.ndim == self.offsets.ndim == 1
            and np.issubdtype(self.offsets.dtype, np.integer)
            and len(self.offsets) > 0
            and (np.diff(self.offsets.astype(np.int64)) > 0).all()
            and self.offsets[0] >= 0
            and self.offsets[-1] <= len(self.data)
        )
        if not good:
            raise InvalidInputError(
                f"{self.name}: the offsets do not fit the encoded images; image i is "
                f"data[offsets[i]:offsets[i + 1]] with data one-dimensional uint8"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        return np.diff(self.offsets.astype(np.int64))

    def where(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def stored(self, index: int) -> bytes:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()


def from_npz(place: str, name: str, kind: Kind | None = None, *, missing: str = "skip") -> Task:
    """Read an npz archive of arrays; never unpickles, and refuses what unpacks to too much.

    Either ``X`` and ``y``, or per split ``x_<split>`` and ``y_<split>``. In place of ``x``, encoded
    images: ``jpeg`` (one-dimensional uint8, the files one after the other) with ``offsets`` (N + 1
    starts and ends). uint8 arrays (N, H, W), (N, H, W, C) and (N, C, H, W) of 1 or 3 channels are
    images, everything else numbers. ``classes`` names the classes, in the order of their numbers.
    """
    arrays = read_arrays(existing(place))
    if isinstance(arrays, np.ndarray):
        raise InvalidInputError(f"{place!r} is one array and no npz archive; write numpy.savez")
    return _from_arrays(arrays, place, name, kind, missing)


def from_zoo(place: str, name: str) -> Task:
    """A bundled task."""
    task = from_npz(str(zoo.task_path(place)), name)
    return replace(task, understood=Understood())  # not how it is stored


def from_torch(place: str, name: str, kind: Kind | None = None, *, missing: str = "skip") -> Task:
    """Read a file of ``torch.save``: a dictionary with the keys of an npz archive, or ``(X, y)``.

    It is read with ``weights_only=True``, so that nothing in it is executed. Images are as in
    npz archives; classes and labels may be lists.
    """
    path = existing(place)
    try:
        content = read_torch(path)
    except Exception as error:  # torch and pickle raise a dozen for damaged files
        refused = "eights only" in str(error) or "weights_only" in str(error)
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        reason = "it holds more than tensors, which is never executed" if refused else told
        raise InvalidInputError(
            f"{place!r} cannot be read ({reason}); write a dictionary of tensors "
            f"with torch.save({{'X': x, 'y': y}}, path)"
        ) from error
    if isinstance(content, (tuple, list)) and len(content) == 2:
        content = {"x": content[0], "y": content[1]}
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"{place!r} holds {a_type(content)}; save a dictionary of "
            f"tensors, {{'X': …, 'y': …}}, or the pair (X, y)"
        )
    return _from_arrays(content, place, name, kind, missing)


def _from_arrays(
    content: Mapping[Any, Any], place: str, name: str, kind: Kind | None, missing: str
) -> Task:
    arrays = {str(key).lower(): array for key, array in content.items()}  # X and x are both usual
    if len(arrays) < len(content):
        raise InvalidInputError(
            f"{place!r} holds {', '.join(map(str, content))}, of which some differ "
            f"by case only; leave one of them out"
        )
    used = {"classes"}
    parts: dict[str, tuple[Sequence[Any], Any]] = {}
    named = {key: match for key in arrays if (match := re.fullmatch(r"(x|jpeg)(_(\w+))?", key))}
    usual = usual_splits({key: match[3] or "train" for key, match in named.items()})
    for key, match in named.items():
        form, suffix = match[1], match[2] or ""
        needed = [f"y{suffix}"] + ([f"offsets{suffix}"] if form == "jpeg" else [])
        lacking = [other for other in needed if other not in arrays]
        if lacking:
            raise InvalidInputError(f"{place!r} has {key} but no {' and no '.join(lacking)}")
        used |= {key, *needed}
        where = f"{place}:{key}"
        if form == "jpeg":
            offsets = np.asarray(arrays[f"offsets{suffix}"])
            examples: Sequence[Any] = _EncodedImages(np.asarray(arrays[key]), offsets, where)
        else:
            examples = as_examples(arrays[key], where)
        parts[usual[key]] = (examples, arrays[f"y{suffix}"])
    if not parts:
        raise InvalidInputError(
            f"{place!r} holds {', '.join(sorted(arrays)) or 'nothing'}; it needs X "
            f"and y, or x_train and y_train (and x_test, …), or jpeg_train, offsets_train, y_train"
        )
    classes = arrays.get("classes")
    if isinstance(classes, str) or (classes is not None and not np.ndim(classes)):
        raise InvalidInputError(
            f"{place!r} has the classes {str(classes)!r}, one text; give a list of their names"
        )
    if classes is not None:
        classes = classes.tolist() if hasattr(classes, "tolist") else list(classes)
    left_out = tuple((f"array {key!r}", "it is not read") for key in arrays if key not in used)
    inputs = "x" if "x" in {key[0] for key in used} else "jpeg"
    return make_task(name, parts, kind, classes, missing, Understood("y", (inputs,), left_out))
