"""Files that appear whole or not at all, and locks that die with their process."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from transfer_metrics.errors import InvalidInputError, StorageError, reason

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

ADVICE = "free some space or choose another folder"
TEMPORARY = ".tmp"
"""How the names of files and folders end that are being written."""
RESULTS = ("scores.jsonl", "comparison.jsonl", "run.yaml", "report.html", "head")
"""What is in folders of results."""
_END = 1 << 16
"""Bytes at the beginning and at the end of a file that tell what it is."""
_ATTEMPTS = 1000
"""How often a folder is made that disappears."""


@contextmanager
def replacing(
    path: str | os.PathLike[str], advice: str = ADVICE, *, durable: bool = True
) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name when the block ends without error.

    Missing folders are made. After an error nothing is left behind and ``path`` is as it was; only
    a process that is killed on the spot can leave a file that ends in ``.tmp``. A place that
    cannot be written to, or a full disk, is a StorageError, which ends in ``advice``. Where whoever
    reads the file sees by a digest that it is whole, and can make it again, it need not be
    ``durable``: the system then writes it when it likes, and the power must not fail before.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        # A pipe or a device would be gone, and a file in its place.
        raise _unwritable(path, OSError("it is no regular file"), advice)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=TEMPORARY)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        # mkstemp makes files private; results are to be read like any other file.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise _unwritable(path, error, advice) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def written(
    path: str | os.PathLike[str],
    content: str | bytes | memoryview,
    advice: str = ADVICE,
    *,
    durable: bool = True,
) -> None:
    """Let a file hold bytes, or text in UTF-8; see ``replacing``."""
    with replacing(path, advice, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, read a part at a time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(
    path: Path, *, shared: bool = False, wait: bool = True, advice: str = ADVICE
) -> Iterator[bool]:
    """Hold a lock on a file, which is made where it is absent, and its folders with it.

    The lock dies with its process. A file that is removed while others wait for it is made anew.
    Yields whether it is held: False where another holds it and there was no waiting. Where the
    system or the file system has no such locks, True.
    """
    if fcntl is None:
        yield True
        return
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    for attempt in itertools.count():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")  # NFS wants it readable for shared locks
        except OSError as error:
            # Somebody may have removed the folder at that moment.
            if isinstance(error, (FileNotFoundError, FileExistsError)) and attempt < _ATTEMPTS:
                continue
            raise _unwritable(path, error, advice) from error
        with file:
            try:
                fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
            except BlockingIOError:
                held = False
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise _unwritable(path, error, advice) from error
                held = True
            else:
                if not _is_at(file.fileno(), path):
                    continue  # who held it removed it, so it protects nothing any more
                held = True
            yield held
            return


def check_folder(folder: str | os.PathLike[str], own: Iterable[str]) -> None:
    """Refuse a folder that holds something, and nothing of what is to be written there.

    What is hidden, such as a lock, does not count.
    """
    place = Path(folder)
    names = [one.name for one in place.iterdir()] if place.is_dir() else []
    found = [name for name in names if not name.startswith(".")]
    if found and not {*own} & {*found}:
        raise InvalidInputError(
            f"cannot write {folder}: it holds {min(found)!r}{' and more' * (len(found) > 1)}, and "
            f"nothing that was written here before; name a new folder"
        )


def check_file(path: str | os.PathLike[str], own: Iterable[bytes]) -> None:
    """Refuse a file that holds something, near whose ends is nothing of what is written there."""
    place = Path(path)
    size = place.stat().st_size if place.is_file() else 0
    if not size:
        return
    try:
        with place.open("rb") as file:
            ends = file.read(_END)
            file.seek(max(size - _END, 0))
            ends += file.read(_END)
    except OSError as error:
        raise _unwritable(place, error, ADVICE) from error
    if not any(mark in ends for mark in own):
        raise InvalidInputError(
            f"cannot write {path}: it is a file that was not written here; name a new file"
        )


def remove_folder(folder: Path) -> None:
    """Remove a folder so that nobody sees a part of it, even where this process is killed."""
    doomed = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}{TEMPORARY}")
    with suppress(OSError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _unwritable(path: Path, error: OSError, advice: str) -> StorageError:
    return StorageError(f"cannot write {path} ({reason(error)}); {advice}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
