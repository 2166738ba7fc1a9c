"""``transfer-metrics`` and ``python -m transfer_metrics``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

import transfer_metrics
from transfer_metrics.cli.completion import PrintCompletion
from transfer_metrics.errors import TransferMetricsError, TransferMetricsWarning

VERBS = (
    "rank",
    "layers",
    "extract",
    "score",
    "select",
    "train",
    "compare",
    "report",
    "list",
    "cache",
    "benchmark",
)

DESCRIPTION = """\
Which pretrained model should I transfer to my data, and from which layers?
Answered in one pass over the data, before any training.

  transfer-metrics rank --models 'zoo:*' --task sklearn:digits
  transfer-metrics rank --models timm:resnet18,timm:mobilenetv3_small_100 --task imagefolder:photos
  transfer-metrics layers --model zoo:resnet-cifar10 --task npz:data.npz
  transfer-metrics list metrics
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser with all its verbs; imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog="transfer-metrics",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"transfer-metrics {transfer_metrics.__version__}"
    )
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=("bash", "zsh", "tcsh"),
        help="print a completion script for a shell, to be sourced by it",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        importlib.import_module(f"transfer_metrics.cli.{verb}").add_parser(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        0 where all went well, 1 where some models failed, 2 for a usage or input error, 130 when
        interrupted.
    """
    from transfer_metrics.cli.config import with_config

    parser = build_parser()
    try:
        args = parser.parse_args(with_config(sys.argv[1:] if argv is None else argv, parser))
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = args.run(args)
        sys.stdout.flush()
        return int(status or 0)
    except TransferMetricsError as error:
        print(f"transfer-metrics: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("transfer-metrics: interrupted; run it again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away, as `head` does; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
        print(f"transfer-metrics: warning: {message}", file=sys.stderr)
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        print(text, end="", file=file or sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
