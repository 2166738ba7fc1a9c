"""A parser whose errors are one sentence."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from transfer_metrics.errors import InvalidInputError


class Parser(argparse.ArgumentParser):
    """A parser that raises what is wrong with its arguments, where argparse prints and exits.

    >>> Parser(prog="count").parse_args(["--all"])
    Traceback (most recent call last):
    transfer_metrics.errors.InvalidInputError: unrecognized arguments: --all; see `count --help`
    """

    def error(self, message: str) -> NoReturn:
        """See ``argparse.ArgumentParser``.

        Raises:
            InvalidInputError: always.
        """
        raise InvalidInputError(f"{message}; see `{self.prog} --help`")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add ``--quiet`` and ``--debug``, which may stand before or after the verb."""
    # A default here would undo what was said before the verb.
    flag: dict[str, Any] = {"action": "store_true", "default": argparse.SUPPRESS}
    parser.add_argument("--quiet", **flag, help="only errors and warnings on stderr")
    parser.add_argument("--debug", **flag, help="show the traceback of an error")
