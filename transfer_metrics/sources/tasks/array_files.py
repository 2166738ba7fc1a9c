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
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from transfer_metrics.errors import InvalidInputError, warn
from transfer_metrics.naming import a_type
from transfer_metrics.sources import zoo
from transfer_metrics.sources.tasks.assembly import make_task
from transfer_metrics.sources.tasks.column_roles import OF_INDEX, unused
from transfer_metrics.sources.tasks.foreign_files import foreign, refuse_address
from transfer_metrics.sources.tasks.in_memory import as_examples
from transfer_metrics.sources.tasks.label_values import ABSENT, number_of
from transfer_metrics.sources.tasks.labels import Kind
from transfer_metrics.sources.tasks.pairing import counting
from transfer_metrics.sources.tasks.paths import existing, usual_splits
from transfer_metrics.sources.tasks.sequences import StoredImages
from transfer_metrics.sources.tasks.table_cells import Table
from transfer_metrics.sources.tasks.table_files import read_table
from transfer_metrics.sources.tasks.task import Task, Understood
from transfer_metrics.untrusted import DEEPEST, check_unpacked, visible

_MOST_ARRAYS, _MOST_PARTS = 10_000, 10_000_000
"""Arrays in one archive, and items in what torch saves."""
_EMPTY = 1 << 20
_SEPARATED = (".csv", ".tsv", ".txt")
_TABLES = (*_SEPARATED, ".json", ".jsonl", ".parquet")


def read_values(path: str) -> np.ndarray | dict[str, np.ndarray]:
    """What ``read_arrays`` reads, or the (N, D) numbers of a table, without an index.

    Of separated values the first line is data where it holds numbers that count nothing.
    """
    _check_place(path)
    if Path(path).suffix.lower() not in _TABLES:
        return read_arrays(path)
    table = _table(path, True)
    columns, left = _used(table)
    for column in columns:
        if table.holds(column) not in ("numbers", "lists"):
            first = next((c for c in map(str, table.cells(column)) if number_of(c) is None), "")
            raise InvalidInputError(
                f"{path!r}: column {visible(column, 40)!r} of it holds no numbers but "
                f"{visible(first, 40)!r}; give numbers alone, with points for decimals and a comma "
                f"or a tab between those of one example, and the labels in a file of their own"
            )
    try:
        values = table.numbers(columns)
    except InvalidInputError as error:
        raise _of_file(error, path) from error
    for column, why in left.items():
        if why != OF_INDEX:
            told = f"left out column {visible(column, 40)!r} ({why}); rename it if it is an input"
            warn(f"{path!r}: {told}")
    counted = (doubt.partition("; ")[0] for doubt in counting(values, columns))
    cured = (f"{doubt}; take it out of the file if it is a mistake" for doubt in counted)
    for doubt in (*table.suspicions, *cured):
        warn(f"{path!r}: {doubt}")
    return values


def read_labels_of(path: str, count: int) -> Any:
    """What ``read_arrays`` reads, or the labels of ``count`` examples, one in each row of a file.

    Where there is one more line than examples, the first is a header if it is no number and no
    other line is the same.
    """
    _check_place(path)
    if Path(path).suffix.lower() not in _TABLES:
        return read_arrays(path)
    table = _table(path, False)
    columns, _ = _used(table)
    if len(columns) != 1:
        raise InvalidInputError(
            f"{path!r} has {len(columns)} columns, {', '.join(map(repr, columns[:4]))}; give "
            f"labels in a file of one label per line, in quotes where they have commas"
        )
    labels = table.labels(columns[0])
    if columns != ["0"] or len(labels) != count + 1:
        return labels
    first, *others = (str(cell).strip() for cell in table.cells(columns[0]))
    return labels if first in others or number_of(first) is not None else labels[1:]


def _check_place(path: str) -> None:
    """Refuse what is no file of numbers by its name, or an address."""
    told = "" if path.lower().endswith(".npy") else foreign(path)
    if told:
        raise InvalidInputError(f"{path!r} {told}")
    try:
        refuse_address(path, path)
    except InvalidInputError as error:
        raise _of_file(error, path) from error


def _of_file(error: InvalidInputError, path: str) -> InvalidInputError:
    """An error of a table as one of a file, whose name it has once."""
    told = str(error).removeprefix("task ")
    return InvalidInputError(told.removeprefix(f"{path!r}: " if told.count(repr(path)) > 1 else ""))


def _table(path: str, of_numbers: bool) -> Table:
    """The table in a file, of which the first line is data unless it can only be names.

    Names are cells of which none is a number, where there are several or all is to be numbers; and
    whole numbers that rise, as years do, while others below are not whole.
    """
    separated = Path(path).suffix.lower() in _SEPARATED
    try:
        table = read_table(path, path, "no" if separated else None)
        first = [str(table.cells(column)[0]).strip() for column in table.columns]
        rest = first[1:] if first[0] == "" else first
        names = bool(rest) and not any(
            c in ABSENT or number_of(c.replace(",", "")) is not None for c in rest
        )
        counted = len(rest) > 1 and all(c.isdecimal() for c in rest) and _count(rest, table)
        apart = not any(
            cell in table.cells(c)[1:] for c, cell in zip(table.columns, first, strict=True)
        )
        named = (names or counted) if of_numbers else names and apart and len(first) > 1
        return read_table(path, path, "yes") if separated and named else table
    except InvalidInputError as error:
        raise _of_file(error, path) from error


def _count(first: Sequence[str], table: Table) -> bool:
    """Whether whole numbers count from 0, as pandas does, or rise over others that are not whole.

    Two that rise are no wonder, unless by one.
    """
    numbers = [int(cell) for cell in first]
    steps = {after - before for before, after in pairwise(numbers)}
    if numbers == [*range(len(numbers))] or min(steps) <= 0:
        return bool(numbers == [*range(len(numbers))])
    below = (map(number_of, map(str, table.cells(c)[1:])) for c in table.columns[-len(first) :])
    measured = (any(isinstance(n, float) and n % 1 for n in column) for column in below)
    return all(measured) if len(first) > 2 or steps == {1} else False


def _used(table: Table) -> tuple[list[str], dict[str, str]]:
    """All columns but for those that number the rows or have nothing, and why those are not."""
    left = {c: why for c in table.columns if (why := unused(table, c, table.holds(c)))}
    left = left if len(left) < len(table.columns) else {}  # better than nothing at all
    return [column for column in table.columns if column not in left], left


def read_arrays(path: str | os.PathLike[str]) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an ``.npy`` file, or those of an ``.npz`` archive by name.

    Sizes are compared with what the headers claim before anything is unpacked.
    """
    try:
        if not os.path.isfile(path):
            raise ValueError("there is no such file")
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
    starts and ends). uint8 arrays (N, H, W), (N, H, W, 1) and (N, H, W, 3) are images, everything
    else numbers. ``classes`` names the classes, in the order of their numbers.
    """
    path = existing(place, name)
    try:
        arrays = read_arrays(path)
        if isinstance(arrays, np.ndarray):
            raise InvalidInputError(f"{place!r} is one array and no npz archive; write numpy.savez")
    except InvalidInputError as error:
        raise InvalidInputError(f"task {name!r}: {error}") from error
    return _from_arrays(arrays, place, name, kind, missing)


def from_zoo(place: str, name: str) -> Task:
    """A bundled task."""
    task = from_npz(str(zoo.task_path(place)), name)
    return replace(task, understood=Understood())  # not how it is stored


def from_torch(place: str, name: str, kind: Kind | None = None, *, missing: str = "skip") -> Task:
    """Read a file of ``torch.save``: a dictionary with the keys of an npz archive, or ``(X, y)``.

    It is read with ``weights_only=True``, so that nothing in it is executed. Images are uint8,
    (N, C, H, W) as torch has them or as in npz archives; classes and labels may be lists.
    """
    path = existing(place, name)
    try:
        content = read_torch(path)
    except Exception as error:  # torch and pickle raise a dozen for damaged files
        refused = "eights only" in str(error) or "weights_only" in str(error)
        told = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        reason = "it holds more than tensors, which is never executed" if refused else told
        raise InvalidInputError(
            f"task {name!r}: {place!r} cannot be read ({reason}); write a dictionary of tensors "
            f"with torch.save({{'X': x, 'y': y}}, path)"
        ) from error
    if isinstance(content, (tuple, list)) and len(content) == 2:
        content = {"x": content[0], "y": content[1]}
    if not isinstance(content, dict):
        raise InvalidInputError(
            f"task {name!r}: {place!r} holds {a_type(content)}; save a dictionary of "
            f"tensors, {{'X': …, 'y': …}}, or the pair (X, y)"
        )
    return _from_arrays(content, place, name, kind, missing)


def _from_arrays(
    content: Mapping[Any, Any], place: str, name: str, kind: Kind | None, missing: str
) -> Task:
    arrays = {str(key).lower(): array for key, array in content.items()}  # X and x are both usual
    if len(arrays) < len(content):
        raise InvalidInputError(
            f"task {name!r}: {place!r} holds {', '.join(map(str, content))}, of which some differ "
            f"by case only; leave one of them out"
        )
    used = {"classes"}
    parts: dict[str, tuple[Sequence[Any], Any]] = {}
    named = {key: match for key in arrays if (match := re.fullmatch(r"(x|jpeg)(_(\w+))?", key))}
    usual = usual_splits({key: match[3] or "train" for key, match in named.items()}, name)
    for key, match in named.items():
        form, suffix = match[1], match[2] or ""
        needed = [f"y{suffix}"] + ([f"offsets{suffix}"] if form == "jpeg" else [])
        lacking = [other for other in needed if other not in arrays]
        if lacking:
            raise InvalidInputError(
                f"task {name!r}: {place!r} has {key} but no {' and no '.join(lacking)}"
            )
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
            f"task {name!r}: {place!r} holds {', '.join(sorted(arrays)) or 'nothing'}; it needs X "
            f"and y, or x_train and y_train (and x_test, …), or jpeg_train, offsets_train, y_train"
        )
    classes = arrays.get("classes")
    if isinstance(classes, str) or (classes is not None and not np.ndim(classes)):
        raise InvalidInputError(
            f"task {name!r}: {place!r} has the classes {str(classes)!r}, one text; give a list of "
            f"their names"
        )
    if classes is not None:
        classes = classes.tolist() if hasattr(classes, "tolist") else list(classes)
    left_out = tuple((f"array {key!r}", "it is not read") for key in arrays if key not in used)
    inputs = "x" if "x" in {key[0] for key in used} else "jpeg"
    return make_task(name, parts, kind, classes, missing, Understood("y", (inputs,), left_out))
