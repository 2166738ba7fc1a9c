"""Coverage-guided fuzzing of every loader, with atheris: ``python -m tests.fuzz npz --runs 20000``.

Needs ``pip install atheris`` (not among the requirements: its wheels exist for few versions of
Python). Every finding is written to ``--keep`` under a name made of the target and the error, and
the run goes on; those worth keeping go to ``tests/regressions``, for ``tests/test_fuzz.py``.
``docs/security.md`` says what was run.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

REGRESSIONS = Path(__file__).with_name("regressions")

# What nothing that is read may bring about, beside writing outside of the folder.
_FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen",
    "pty.spawn",
    "pickle.find_class", "socket.connect", "socket.getaddrinfo",
    "webbrowser.open", "urllib.Request", "shutil.rmtree",
)  # fmt: skip
_CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.chmod",
            "os.truncate")  # fmt: skip
_TWO = ("os.rename", "os.link", "os.symlink")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Executed(BaseException):
    """Something that was read ran code, or changed a file outside of its folder."""


class Guard:
    """Watches what the interpreter does while a file is loaded, through its audit events."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: str | None = None
        sys.addaudithook(self._event)

    def __call__(self, use: Callable[[bytes, Path], Any], data: bytes, folder: Path) -> Any:
        """Run a target; raises ``Executed`` after the fact, so that nothing can swallow it."""
        self.folder, self.seen = os.path.realpath(folder), None
        try:
            return use(data, folder)
        finally:
            self.folder = None
            if self.seen is not None:
                raise Executed(self.seen)

    def _event(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None or not (event == "open" or event.startswith(_PREFIXES)):
            return
        if event == "open":
            path, _, flags = args
            if isinstance(path, (str, bytes)) and flags & _WRITING:
                self._outside(event, path)
        elif event in _CHANGES:
            for path in args[: 2 if event in _TWO else 1]:
                self._outside(event, path)
        elif event in _FORBIDDEN or (
            event == "exec" and getattr(args[0], "co_filename", "").startswith(self.folder)
        ):
            self.seen = f"{event} {args!r:.200}"

    def _outside(self, event: str, path: Any) -> None:
        try:
            name = os.path.realpath(os.fsdecode(path))
        except TypeError:
            return  # a descriptor
        harmless = name.endswith((".pyc", os.devnull)) or "__pycache__" in name
        if not (name.startswith(f"{self.folder}{os.sep}") or name == self.folder or harmless):
            self.seen = f"{event} {name}"


_PREFIXES = (*_FORBIDDEN, *_CHANGES, "exec")
guard = Guard()


def run(target: Any, data: bytes, folder: Path) -> str | None:
    """Give one file to a target.

    Returns:
        The message, where it was refused with a ``TransferMetricsError``; None where it loaded.

    Raises:
        BaseException: whatever else it led to, which is a finding.
    """
    from transfer_metrics.errors import TransferMetricsError

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            guard(target.use, data, folder)
        except TransferMetricsError as error:
            return str(error)
    return None


def main() -> None:
    """Fuzz one target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="one of fuzz_targets.TARGETS")
    parser.add_argument("--runs", type=int, default=20_000)
    parser.add_argument("--seconds", type=int, default=180)
    parser.add_argument("--keep", default="findings", metavar="FOLDER")
    args = parser.parse_args()
    import atheris

    # Large packages first: their own branches would drown those of the loaders.
    for name in ("torch", "pandas", "sklearn.linear_model", "PIL.Image", "safetensors.torch"):
        importlib.import_module(name)
    with atheris.instrument_imports(include=["transfer_metrics", "yaml"]):
        from tests.fuzz_targets import TARGETS
    target, keep = TARGETS[args.target], Path(args.keep)
    corpus, scratch = Path(mkdtemp()), Path(mkdtemp())
    for number, seed in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(seed)
        told = run(target, seed, scratch)
        assert told is None, f"seed {number} is refused: {told}"
    counts = {"loaded": 0, "refused": 0, "found": 0}
    known: set[str] = set()
    started = time.monotonic()

    def once(data: bytes) -> None:
        with TemporaryDirectory(dir=scratch) as place:
            try:
                told = run(target, data, Path(place))
                counts["loaded" if told is None else "refused"] += 1
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                counts["found"] += 1
                _keep(error, data, args.target, keep, known)
        runs, seconds = sum(counts.values()), time.monotonic() - started
        if runs >= args.runs or seconds >= args.seconds:
            print(f"{args.target}: {runs} runs in {seconds:.0f} s, {counts}", flush=True)
            shutil.rmtree(corpus, ignore_errors=True)
            shutil.rmtree(scratch, ignore_errors=True)
            os._exit(0)

    limits = ["-timeout=20", "-rss_limit_mb=6000", "-max_len=20000", "-verbosity=0", "-seed=1"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], once)
    atheris.Fuzz()


def _keep(error: BaseException, data: bytes, target: str, keep: Path, known: set[str]) -> None:
    """Write a finding, once for each place where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "transfer_metrics" in f.filename] or frames
    where = f"{type(error).__name__}-{Path(ours[-1].filename).stem}-{ours[-1].lineno}"
    if where in known:
        return
    known.add(where)
    keep.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(data).hexdigest()[:8]
    (keep / f"{target}-{digest}").write_bytes(data)
    print(f"FOUND {target} {where} {digest}: {error!r:.300}", flush=True)
    (keep / f"{target}-{digest}.txt").write_text("".join(traceback.format_exception(error)))


if __name__ == "__main__":
    main()
