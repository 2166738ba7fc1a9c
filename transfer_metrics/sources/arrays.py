"""Arrays from ``.npy`` and ``.npz`` files: never unpickled, of bounded size."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from typing import IO, BinaryIO

import numpy as np

from transfer_metrics.errors import InvalidInputError
from transfer_metrics.untrusted import check_unpacked

MOST_ARRAYS = 10_000
"""Arrays in one archive."""
_EMPTY, _PIECE = 1 << 20, 1 << 20


def read_arrays(path: str | os.PathLike[str]) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an ``.npy`` file, or those of an ``.npz`` archive by name.

    Sizes are compared with what the headers claim before anything is unpacked: an archive may
    unpack to ``untrusted.PROPORTION`` times its own size, and to ``untrusted.TABLE`` bytes in any
    case; see there for how to raise this.

    Raises:
        InvalidInputError: it is neither, holds pickled objects, claims another size than it has,
            or unpacks to more than the bound.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", X=np.eye(2))
    ...     read_arrays(f"{folder}/a.npz")["X"].shape
    (2, 2)
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
        raise InvalidInputError(
            f"{str(path)!r} is no npz archive or npy file of plain arrays ({told}); write it with "
            f"numpy.savez or numpy.save, without object arrays"
        ) from error


def _archive(file: BinaryIO) -> dict[str, np.ndarray]:
    packed = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
        if len(members) > MOST_ARRAYS:
            raise ValueError(f"it has {len(members)} arrays, and at most {MOST_ARRAYS} are read")
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
        shape, in_columns, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded")
    claimed = math.prod(shape) * dtype.itemsize
    # Entries of no bytes, and axes beside an empty one, would cost nothing here and much later.
    around = math.prod(max(1, length) for length in shape)
    if min(shape, default=0) < 0 or claimed > size or (not claimed and around > _EMPTY):
        raise ValueError(f"its header claims the shape {shape} and it has {size:,} bytes")
    data = memoryview(bytearray(claimed))
    filled = 0
    while filled < claimed:
        got = stream.readinto(data[filled : filled + _PIECE])  # type: ignore[attr-defined]
        if not got:
            raise ValueError("it is truncated")
        filled += got
    array: np.ndarray = np.ndarray(shape, dtype, data, order="F" if in_columns else "C")
    return array
