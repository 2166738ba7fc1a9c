"""What the commands of this folder share: ``python -m tests.benchmarks.NAME``."""

from __future__ import annotations

import argparse
import functools
import math
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transfer_metrics.__main__ import run
from transfer_metrics.cli.console import print_table, tell
from transfer_metrics.cli.options import add_output, check_place, write_page
from transfer_metrics.cli.parser import Parser, add_common
from transfer_metrics.evidence.layout import describe

# With a larger share of the cores taken by others, times are not those of the code.
MOST_BYSTANDERS = 0.05


def parser_of(name: str, about: str, run: Callable[[argparse.Namespace], int]) -> Parser:
    """A parser for a command of this folder; errors are one sentence, as those of the package."""
    parser = Parser(prog=f"python -m tests.benchmarks.{name}", description=about)
    parser.set_defaults(run=run, quiet=False)
    add_common(parser)
    return parser


def add_page(parser: Parser) -> None:
    """Add ``--out``, ``--json`` and ``--csv``."""
    parser.add_argument("--out", metavar="FILE", help="write a Markdown page as well")
    add_output(parser)


def teller(args: argparse.Namespace) -> Callable[[str], None]:
    """Tells what is being done, after seeing that the page can be written."""
    if args.out:
        check_place(args.out)
    return functools.partial(tell, args)


def finish(args: argparse.Namespace, table: Any, text: str, page: Callable[[], str]) -> None:
    """Print the table, and write its page."""
    print_table(table, args, text)
    if args.out:
        write_page(args, page())


def run_module(parser: Parser) -> None:
    """Run the command of this process."""
    sys.exit(run(parser, sys.argv[1:]))


def origin(command: str, how: str) -> list[str]:
    """The command, the date and the machine, as paragraphs of a page."""
    made = f"Made by `{command}` on {datetime.now(UTC).date().isoformat()}, {how}:"
    return [made, "\n".join(f"- {line}" for line in describe())]


def above_zero(text: str) -> float:
    """A number above zero, as an argument."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def bystanders() -> Callable[[], float | None]:
    """Start to watch what other processes take; calling the result gives their share so far.

    One busy neighbour makes threads that wait for each other at every column of a decomposition
    wait for the scheduler, which can cost a factor of fifty, so figures say how alone they were.

    Returns:
        A function that gives the share of all cores, or None where the system does not tell.

    >>> share = bystanders()()
    >>> share is None or 0 <= share <= 1
    True
    """
    before, started = _busy(), time.perf_counter()

    def share() -> float | None:
        after, wall = _busy(), time.perf_counter() - started
        if before is None or after is None or wall <= 0:
            return None
        return min(max((after - before) / (wall * (os.cpu_count() or 1)), 0.0), 1.0)

    return share


def _busy() -> float | None:
    """Processor seconds that others than this process and its children have used."""
    try:
        fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _, _, irq, softirq, steal = fields
    total = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return total - sum(os.times()[:4])
