"""Arguments and output that several verbs share."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Protocol

from transfer_metrics.cli.config import add_config
from transfer_metrics.syntax import split_list

if TYPE_CHECKING:
    import pandas as pd


class Table(Protocol):
    """What can be printed: a long table of records."""

    @property
    def records(self) -> list[dict[str, Any]]:
        """The records."""

    def to_frame(self) -> pd.DataFrame:
        """The records as a DataFrame."""


def add_verb(verbs: Any, name: str, help: str, examples: str, run: Any) -> argparse.ArgumentParser:
    """A verb with its one-line help and worked examples."""
    parser = verbs.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_extraction(parser: argparse.ArgumentParser) -> None:
    """Options of the forward pass, and of a file to take options from."""
    add_config(parser)
    group = parser.add_argument_group("forward pass")
    group.add_argument("--pool", default="avg", help="pooling (default avg; see `list poolings`)")
    group.add_argument("--split", default="train", help="split of the task (default train)")
    group.add_argument("--batch-size", type=positive, default=64, metavar="N")
    group.add_argument("--workers", type=_count, default=0, metavar="N", help="loader processes")
    group.add_argument("--device", help="cpu, cuda, cuda:1 … (default: the model's own)")
    group.add_argument("--amp", action="store_true", help="mixed precision")
    group.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")


def extraction(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``extract`` that ``add_extraction`` stands for."""
    return {
        "pool": args.pool,
        "split": args.split,
        "batch_size": args.batch_size,
        "num_workers": args.workers,
        "device": args.device,
        "amp": args.amp,
        "dtype": args.dtype,
        "progress": not args.quiet,
    }


def add_layers(parser: argparse.ArgumentParser, default: str, choices: str) -> None:
    """Choice of layers: one name, or several with commas between."""
    parser.add_argument(
        "--layers",
        default=default,
        type=_layers,
        help=f"{choices}, or names and patterns, comma-separated (default {default})",
    )


def add_intervals(parser: argparse.ArgumentParser) -> None:
    """Add ``--intervals``."""
    parser.add_argument(
        "--intervals",
        nargs="?",
        const="jackknife",
        choices=("jackknife", "bootstrap"),
        help="95 %% intervals and the probability of being best; bootstrap: for all metrics",
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Choice of what is printed."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--json", action="store_true", help="print the long table as JSON")
    group.add_argument("--csv", action="store_true", help="print the long table as CSV")


def print_table(table: Table, args: argparse.Namespace, text: str) -> None:
    """The table on stdout: text for people, JSON or CSV where asked."""
    if args.json:
        print(json.dumps(table.records, indent=1, default=str))
    elif args.csv:
        table.to_frame().to_csv(sys.stdout, index=False)
    else:
        print(text)


def say(message: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(message, file=sys.stderr)


def _layers(text: str) -> str | list[str]:
    parts = split_list(text)
    return parts[0] if len(parts) == 1 else parts


def positive(text: str) -> int:
    """A whole number above zero."""
    value = _count(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value
