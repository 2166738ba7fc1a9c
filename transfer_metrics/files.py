"""Writing files so that they appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transfer_metrics.errors import InvalidInputError, TransferMetricsError


@contextmanager
def replacing(
    path: str | os.PathLike[str],
    raises: type[TransferMetricsError] = InvalidInputError,
    advice: str = "free some space or choose another folder",
) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its name when the block ends without error.

    Missing folders are made. After an error nothing is left behind and ``path`` is as it was; only
    a process that is killed on the spot can leave a file that ends in ``.tmp``.

    Args:
        path: the file to write.
        raises: the error for a place that cannot be written to, or a full disk.
        advice: what its message says to do.

    Raises:
        TransferMetricsError: the error named by ``raises``.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "note.txt") as temporary:
    ...         _ = temporary.write_text("done")
    ...     (Path(folder) / "note.txt").read_text()
    'done'
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; results are to be read like any other file.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise raises(f"cannot write {path} ({error.strerror or error}); {advice}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
