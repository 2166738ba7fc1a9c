"""Results on disk, found again by the content of model and task."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

import transfer_metrics
from transfer_metrics.errors import StorageError, reason, warn
from transfer_metrics.features.pixels import trim
from transfer_metrics.files import TEMPORARY, fcntl, locked, remove_folder, written
from transfer_metrics.results.record import Record
from transfer_metrics.untrusted import TABLE, parse_json, read_text

POLICIES = ("only-missing", "always", "never", "only-cache")
_PASSING = ".passing"
LOCK = ".lock"
_PARTS = ("scores", "features", "statistics", "pixels", "training")
ADVICE = (
    "make room, set TRANSFER_METRICS_CACHE to another folder, or use cache='never'; what was "
    "finished is kept"
)


def content_key(**fields: Any) -> str:
    """A file name for a combination of inputs; the package version is one of them."""
    fields = {**fields, "package": transfer_metrics.__version__}
    text = json.dumps(fields, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@functools.cache
def score_code() -> str:
    """A hash of the code that makes scores and errors of features; one version may have several."""
    package = Path(transfer_metrics.__file__).parent
    places = ("statistics/*.py", "metrics/*.py", "results/error_bars.py")
    files = sorted(file for place in places for file in package.glob(place))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]


class ResultCache:
    """Scores as a file per key; features, statistics and training in progress as a folder per key.

    A file of scores has one JSON record per line, and then its key and the SHA-256 of those before.
    Without a ``root`` they lie in ``$TRANSFER_METRICS_CACHE``, or the user's cache folder.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        if root is None:
            folder = os.environ.get("TRANSFER_METRICS_CACHE")
            root = Path(folder or platformdirs.user_cache_dir("transfer-metrics")).expanduser()
        self.root = Path(root)

    def features(self, key: str) -> Path:
        """Folder for the feature store of a key."""
        return self.root / "features" / key

    @property
    def pixels(self) -> Path:
        """Folder for decoded images."""
        return self.root / "pixels"

    def training(self, key: str) -> Path:
        """Folder for the checkpoints of a training that is not finished."""
        return self.root / "training" / key

    def statistics(self, key: str) -> Path:
        """Folder for the statistics of the ranges of a key."""
        return self.root / "statistics" / key

    @property
    def has_statistics(self) -> bool:
        """Whether there are statistics of any ranking that goes on or was interrupted."""
        return any((self.root / "statistics").glob("*/*"))

    def check_writable(self) -> None:
        """Find out before any work whether scores can be kept."""
        with locked(self.root / "scores" / LOCK, advice=ADVICE):
            pass

    def read(self, key: str) -> list[Record]:
        """Records that were kept under a key; a file that is not as it was written has none.

        Warns:
            TransferMetricsWarning: the file is damaged, or of a version that wrote others.
        """
        path, earlier = self._scores(key), False
        try:
            *lines, end = read_text(path, TABLE).splitlines(keepends=True) or [""]
            told, wanted = parse_json(end), _end(key, "".join(lines))
            whole = isinstance(told, dict) and told.get("sha256") == wanted["sha256"]
            earlier = whole and "key" not in told
            if told != wanted:
                raise ValueError("its SHA-256 or its key does not match")
            earlier = True  # or what was written as it should be would be read
            return [Record.of(parse_json(line)) for line in lines]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(
                f"cannot read the cache {self.root} ({reason(error)}); set "
                f"TRANSFER_METRICS_CACHE to another folder, or use cache='never'"
            ) from error
        except ValueError as error:
            what = "of an earlier version" if earlier else "damaged"
            warn(f"{path} is {what} ({error}); its scores are computed anew")
            return []

    def write(self, key: str, records: Sequence[Record]) -> None:
        """Replace the records of a key at once."""
        self.update(key, lambda known: records)

    def update(self, key: str, change: Callable[[list[Record]], Sequence[Record]]) -> None:
        """Replace the records of a key by what is made of them, one process after the other."""
        path = self._scores(key)
        with locked(path.parent / LOCK, advice=ADVICE):
            for stray in path.parent.glob(f"*{TEMPORARY}"):
                stray.unlink(missing_ok=True)  # from a process that was killed while writing
            records = change(self.read(key))
            lines = (json.dumps(r.as_dict(), allow_nan=False, default=str) for r in records)
            text = "".join(f"{line}\n" for line in lines)
            end = json.dumps(_end(key, text))
            written(path, f"{text}{end}\n", ADVICE, durable=False)

    @contextmanager
    def using(self, key: str, keep: bool = True) -> Iterator[Path]:
        """The feature store of a key, which nobody drops meanwhile.

        Unless it is to stay (``keep``), one that is new here is marked as passing, so that it goes
        even where the process that wanted it is killed.
        """
        folder = self.features(key)
        with locked(folder / ".used", shared=True, advice=ADVICE):
            if not keep and all(path.name[0] == "." for path in folder.iterdir()):
                (folder / _PASSING).touch()
            yield folder
            if keep:
                (folder / _PASSING).unlink(missing_ok=True)

    def is_passing(self, key: str) -> bool:
        """Whether the feature store of a key was not to stay once it was scored."""
        return (self.features(key) / _PASSING).exists()

    def drop_features(self, key: str, wait: bool = False) -> None:
        """Remove the feature store of a key; unless we ``wait``, the last who uses it does so."""
        folder = self.features(key)
        if folder.exists():
            with locked(folder / ".used", wait=wait, advice=ADVICE) as held:
                if held:
                    remove_folder(folder)

    def drop_statistics(self, key: str) -> None:
        """Remove the statistics of a key, except those that another run is writing."""
        for path in self.statistics(key).glob("*"):
            if path.suffix != TEMPORARY:
                remove_folder(path)
        self._sweep_statistics()

    def drop(self, folders: Iterable[Path]) -> None:
        """Remove features and statistics that are of no more use."""
        for folder in folders:
            is_store = folder == self.features(folder.name)
            (self.drop_features if is_store else self.drop_statistics)(folder.name)

    def sweep(self) -> None:
        """Remove what interrupted removals and killed processes left, and old pixels."""
        trim(self.pixels)
        for stray in (self.root / "features").glob(f"*{TEMPORARY}"):
            shutil.rmtree(stray, ignore_errors=True)
        self._sweep_statistics()

    def _sweep_statistics(self) -> None:
        if fcntl is None:
            return  # nothing tells whether somebody is at work
        for path in self.root.glob(f"statistics/*/*{TEMPORARY}"):
            with suppress(StorageError), locked(path / LOCK, wait=False) as free:
                if free:
                    shutil.rmtree(path, ignore_errors=True)
        for folder in self.root.glob("statistics/*"):
            with suppress(OSError):
                folder.rmdir()

    def size(self) -> dict[str, tuple[int, int]]:
        """Files and bytes under each of its parts."""
        sizes = {}
        for part in _PARTS:
            files = [p for p in (self.root / part).rglob("*") if p.is_file() and p.name[0] != "."]
            sizes[part] = (len(files), sum(p.stat().st_size for p in files))
        return sizes

    def clear(self, part: str | None = None) -> None:
        """Remove one part, or all of them."""
        for name in _PARTS if part is None else (part,):
            shutil.rmtree(self.root / name, ignore_errors=True)

    def _scores(self, key: str) -> Path:
        return self.root / "scores" / f"{key}.jsonl"


def _end(key: str, text: str) -> dict[str, str]:
    """The last line of a file of scores, so that one under another name is not taken for it."""
    return {"key": key, "sha256": hashlib.sha256(text.encode()).hexdigest()}
