"""Arguments and output that several verbs share."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from transfer_metrics.cli.config import add_config
from transfer_metrics.cli.parser import add_common
from transfer_metrics.errors import InvalidInputError
from transfer_metrics.syntax import split_list
from transfer_metrics.untrusted import visible, visible_lines

if TYPE_CHECKING:
    import pandas as pd

# Characters of a line on stderr.
LONGEST = 20_000


class Records:
    """Records that are printed and are no scores: what a verb listed, tried or kept."""

    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.records = records

    def to_frame(self) -> pd.DataFrame:
        """The records as a DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.records)


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
    add_common(parser)
    return parser


def add_extraction(parser: argparse.ArgumentParser) -> None:
    """Options of the forward pass, and of a file to take options from."""
    add_config(parser)
    group = parser.add_argument_group("forward pass")
    group.add_argument("--pool", default="avg", help="pooling (default avg; see `list poolings`)")
    group.add_argument("--split", default="train", help="split of the task (default train)")
    group.add_argument("--batch-size", type=positive, default=64, metavar="N")
    group.add_argument("--num-workers", type=count, default=0, metavar="N", help="loader processes")
    group.add_argument("--amp", action="store_true", help="mixed precision")
    group.add_argument(
        "--allow-random",
        action="store_true",
        help="take one draw of the features of networks that draw random numbers",
    )
    group.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    add_device(group)


def add_device(parser: Any) -> None:
    """Add ``--device``."""
    help = "cpu, cuda, cuda:1 … (default: the model's own)"
    parser.add_argument("--device", type=_device, help=help)


def extraction(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``extract`` that ``add_extraction`` stands for."""
    return {
        "pool": args.pool,
        "split": args.split,
        "batch_size": args.batch_size,
        "num_workers": args.num_workers,
        "device": args.device,
        "amp": args.amp,
        "dtype": args.dtype,
        "allow_random": args.allow_random,
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


def add_plot_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--plot-format``."""
    parser.add_argument(
        "--plot-format", choices=("png", "svg", "pdf"), default="png", help="default png"
    )


def print_table(table: Table, args: argparse.Namespace, text: str) -> None:
    """The table on stdout: text for people, JSON or CSV where asked."""
    if args.json:
        print(json.dumps(table.records, indent=1, default=str))
    elif args.csv and not sys.stdout.isatty():
        table.to_frame().to_csv(sys.stdout, index=False)
    else:
        show(table.to_frame().to_csv(index=False).rstrip("\n") if args.csv else text)


def show(text: str) -> None:
    """Text on stdout, in which no name from a file can steer the terminal."""
    print(visible_lines(text), flush=True)


def tell(args: argparse.Namespace, message: str) -> None:
    """What went as it should, on stderr; nothing with ``--quiet``."""
    if not args.quiet:
        say(message)


def say(message: str) -> None:
    """A line for the person at the terminal, on stderr."""
    print(visible(message, LONGEST), file=sys.stderr)


def require_scores(table: Table) -> None:
    """Refuse a table in which everything failed.

    Raises:
        InvalidInputError: no record has a value; has the reason of the first.
    """
    records = table.records
    if not records or any(record.get("value") is not None for record in records):
        return
    first = records[0]
    parts = (first.get(name) for name in ("model", "head", "layer", "metric"))
    others = len({str(record.get("error")) for record in records}) - 1
    more = f"; {others} more gave other reasons, so try them one at a time" if others else ""
    raise InvalidInputError(
        f"nothing could be scored: {': '.join(str(part) for part in parts if part)}: "
        f"{first.get('error')}{more}"
    )


def check_place(path: str | os.PathLike[str], folder: bool = False) -> None:
    """Find out before the work, not after it, that a result cannot be written.

    Args:
        path: a file, or a folder, that will be written; missing folders will be made.
        folder: which of them.

    Raises:
        InvalidInputError: it cannot.
    """
    place = Path(path)
    if place.exists() and place.is_dir() != folder:
        what, other = ("a file", "folder") if folder else ("a folder", "file")
        raise InvalidInputError(f"cannot write {path}: it is {what}; name a {other} instead")
    above = next(one for one in (place, *place.absolute().parents) if one.exists())
    if above != place and not above.is_dir():
        raise InvalidInputError(f"cannot write {path}: {above} is a file; choose another folder")
    if not os.access(above, os.W_OK):
        raise InvalidInputError(
            f"cannot write {path}: there is no permission to write {above}; choose another folder"
        )


def _device(text: str) -> str:
    import torch

    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot be used here ({reason}); give cpu, cuda or cuda:1"
        ) from None
    return text


def _layers(text: str) -> str | list[str]:
    parts = split_list(text)
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} names no layer")
    return parts[0] if len(parts) == 1 else parts


def positive(text: str) -> int:
    """A whole number above zero."""
    value = count(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be at least 1")
    return value


def count(text: str) -> int:
    """A whole number from zero, such as a seed."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} must not be negative")
    return value
