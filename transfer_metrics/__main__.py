"""``transfer-metrics`` and ``python -m transfer_metrics``."""

from __future__ import annotations

import argparse
import errno
import gc
import importlib
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

import transfer_metrics
from transfer_metrics.cli.console import console, say, take_options
from transfer_metrics.cli.parser import Parser, add_common, parser_of, with_config
from transfer_metrics.errors import InvalidInputError, TransferMetricsError, TransferMetricsWarning
from transfer_metrics.threads import brief_spin, most_threads, running_with, so_many_threads
from transfer_metrics.untrusted import visible, visible_lines

VERBS = {
    "rank": "rank_command",
    "transfer": "rank_command",
    "layers": "layers_command",
    "extract": "layers_command",
    "score": "layers_command",
    "select": "select_command",
    "train": "head_command",
    "predict": "head_command",
    "export": "head_command",
    "compare": "compare_command",
    "report": "report_command",
    "list": "list_command",
    "cache": "list_command",
    "benchmark": "benchmark_command",
}
"""The files of the verbs, in the order in which help lists them."""

# How much is told of an error, and of one that nobody foresaw.
_LONGEST, _MOST = 20_000, 300

_DESCRIPTION = """\
Which pretrained model should I transfer to my data, and from which layers?
Answered in one pass over the data, before any training.

  transfer-metrics rank --models 'zoo:*' --task sklearn:digits
  transfer-metrics transfer --models 'zoo:*' --task sklearn:digits --out digits/
  transfer-metrics rank --models timm:resnet18,timm:mobilenetv3_small_100 --task imagefolder:photos
  transfer-metrics layers --model zoo:resnet-cifar10 --task npz:data.npz
  transfer-metrics list metrics
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with all its verbs; imports nothing heavy."""
    parser = Parser(
        prog="transfer-metrics",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"transfer-metrics {transfer_metrics.__version__}"
    )
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print a completion script for a shell, to be sourced by it",
    )
    add_common(parser)
    parser.set_defaults(quiet=False)
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for file in dict.fromkeys(VERBS.values()):
        importlib.import_module(f"transfer_metrics.cli.{file}").add_parser(verbs)
    return parser


class _PrintCompletion(argparse.Action):
    """Print the completion script of the whole parser for a shell, and stop."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """See ``argparse.Action``."""
        from transfer_metrics.sources.optional import require

        shtab = require("shtab", "completion in a shell", install="shtab")
        print(shtab.complete(parser, str(values)))
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 where all went well, 1 where some models failed, 2 for a usage or input error and for
        what nobody foresaw, 130 when interrupted (SIGINT) and 143 when told to end (SIGTERM).
    """
    if sys.stdout is None:
        print("transfer-metrics: stdout is closed; say > /dev/null to see nothing", file=sys.stderr)
        return 2
    if "torch" not in sys.modules:
        os.environ.update(brief_spin())
    if argv is not None:
        return run(build_parser(), argv)
    status = run(build_parser(), sys.argv[1:])
    gc.freeze()  # the process ends, and to look for garbage in all it imported takes a second
    return status


@console()
def run(parser: argparse.ArgumentParser, argv: Sequence[str]) -> int:
    """Run what a command line asks for; whatever goes wrong is one sentence."""
    args = None
    began = time.monotonic()  # what is imported from here on counts for --time too
    try:
        take_options(parser)
        args = parser.parse_args(with_config(argv, parser))
        args.began = began
        take_options(parser_of(parser, args))
        _refuse_empty(args)
        threads = getattr(args, "threads", None)
        if threads is None and (most := most_threads()):
            os.environ.update(so_many_threads(most) | dict(os.environ))
        with warnings.catch_warnings(), _ending_in_order(), running_with(threads):
            warnings.showwarning = _show_warning
            status = args.run(args)
        _flush()
        return int(status or 0)
    except KeyboardInterrupt as error:
        ended = isinstance(error, _Terminated)
        told = "told to end" if ended else "interrupted"
        kept = getattr(args, "cache", None) not in ("never", "always")
        told += "; run it again to go on where it stopped" if kept else ""
        print(f"transfer-metrics: {told}", file=sys.stderr)
        return 143 if ended else 130
    except SystemExit:
        # After --help and --version, which argparse prints.
        _flush()
        raise
    except BrokenPipeError:
        _flush()
        return 0
    except Exception as error:
        # Asked of the arguments themselves, since these may be what cannot be parsed.
        if "--debug" in argv:
            print(visible_lines(traceback.format_exc()), file=sys.stderr)
        say(f"transfer-metrics: {sentence(error)}")
        return 2


def _flush() -> None:
    """Write what is left, unless the reader of a pipe went away, as `head` does."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run like SIGINT: workers are stopped, half-written files removed."""


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """Let SIGTERM raise, where this is the thread that signals come to."""

    def end(number: int, frame: Any) -> NoReturn:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_empty(args: argparse.Namespace) -> None:
    """Refuse empty text, which is a variable of a script that was not set more often than meant."""
    for name, value in vars(args).items():
        if "" in (value if isinstance(value, list) else [value]):
            raise InvalidInputError(f"{name} is empty; give a value or leave it out")


_CURES = {
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOSPC: "make room, or write elsewhere",
    errno.EDQUOT: "make room, or write elsewhere",
    errno.EROFS: "choose another folder",
    errno.EACCES: "change its permissions, or choose another place",
    errno.EMFILE: "let a process open more files, as by `ulimit -n 4096`",
}
"""What to do about the machine, where nobody before has told of it."""


def sentence(error: Exception) -> str:
    """What went wrong, on one line, in letters that can be seen."""
    text = " ".join(str(error).split())
    path = Path(getattr(error, "path", None) or "")
    if path.parent == Path.cwd() and path.stem in sys.stdlib_module_names:
        text = (
            f"the file {path.name} in this folder is taken for Python's own module {path.stem!r}; "
            f"rename it, or start from another folder"
        )
    elif isinstance(error, OSError) and error.errno in _CURES:
        where = f"{str(error.filename)[:_MOST]}: " if error.filename else ""
        text = f"{where}{error.strerror}; {_CURES[error.errno]}"
    elif not isinstance(error, TransferMetricsError):
        text = (
            f"{type(error).__name__}: {text[:_MOST] or 'no reason given'}; this is a bug or a "
            f"broken input; run again with --debug for the traceback"
        )
    return visible(text, _LONGEST)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """The toolkit's own warnings as one line; where in its code they arose helps nobody."""
    if issubclass(category, TransferMetricsWarning):
        say(f"transfer-metrics: warning: {' '.join(str(message).split())}")
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        print(text, end="", file=file or sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
